//! The operator against a real API server (see `skep_testkit::control_plane`).

#[cfg(test)]
mod budget;
#[cfg(test)]
#[path = "../table/mod.rs"]
mod cases;
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod fields;
#[cfg(test)]
mod foreign_kinds;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod leader;
#[cfg(test)]
#[path = "../it/manifests.rs"]
#[expect(dead_code, reason = "the other test binary uses more of it")]
mod manifests;
#[cfg(test)]
mod mended_cluster;
#[cfg(test)]
mod mended_status;
#[cfg(test)]
mod metrics_guard;
#[cfg(test)]
mod migration;
#[cfg(test)]
mod rbac;
#[cfg(test)]
mod references;
#[cfg(test)]
mod registration;
#[cfg(test)]
mod remote_proxy;
#[cfg(test)]
mod rows_admission;
#[cfg(test)]
mod rows_authz;
#[cfg(test)]
mod rows_configs;
#[cfg(test)]
mod rows_external_auth;
#[cfg(test)]
mod rows_group;
#[cfg(test)]
mod rows_objects;
#[cfg(test)]
mod rows_oidc;
#[cfg(test)]
mod rows_operator;
#[cfg(test)]
mod rows_remote_proxy;
#[cfg(test)]
mod rows_server;
#[cfg(test)]
mod rows_server_pods;
#[cfg(test)]
mod sidecars;
#[cfg(test)]
mod table;
#[cfg(test)]
mod takeover;
#[cfg(test)]
mod toolhive_rows;
#[cfg(test)]
mod webhook;
#[cfg(test)]
mod webhook_harness;
#[cfg(test)]
mod webhook_rights;

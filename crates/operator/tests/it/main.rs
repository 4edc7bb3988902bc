//! The planner over whole manifests.

#[cfg(test)]
mod api_server;
#[cfg(test)]
mod authentication;
#[cfg(test)]
#[path = "../table/mod.rs"]
mod cases;
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod changes;
#[cfg(test)]
mod conditions;
#[cfg(test)]
mod credentials;
#[cfg(test)]
mod defaults;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod injection;
#[cfg(test)]
mod injection_random;
#[cfg(test)]
mod kustomize;
#[cfg(test)]
mod manifests;
#[cfg(test)]
mod map_api;
#[cfg(test)]
mod new_kinds;
#[cfg(test)]
mod objects;
#[cfg(test)]
mod pod_security;
#[cfg(test)]
mod random;
#[cfg(test)]
mod references;
#[cfg(test)]
mod results;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod run_config;
#[cfg(test)]
mod schema_rules;
#[cfg(test)]
mod sidecars_ready;
#[cfg(test)]
mod status_configs;
#[cfg(test)]
mod status_facts;
#[cfg(test)]
mod status_measured;
#[cfg(test)]
mod status_random;
#[cfg(test)]
mod status_reports;
#[cfg(test)]
mod status_workload;
#[cfg(test)]
mod surroundings;
#[cfg(test)]
mod table;
#[cfg(test)]
mod templates;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod webhook;

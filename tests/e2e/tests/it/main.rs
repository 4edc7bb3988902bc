//! The real `skep` binary against real clients, a real identity provider and real MCP servers.
//!
//! The binary is the one that cargo built into the same target folder. What isn't Rust is named by
//! variables that `hack/test` sets: `SKEP_NODE` and `SKEP_NODE_MODULES`, `SKEP_PYTHON`; helm, kubectl and make are
//! found on the path. Without them the tests that need them are skipped, and say so.

#[cfg(test)]
mod cli;
#[cfg(test)]
mod credentials;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod exchange;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod makefile;
#[cfg(test)]
mod october_2025;
#[cfg(test)]
mod operators;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod proxy_run;
#[cfg(test)]
mod quickstart;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod sdk_clients;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod sidecars;
#[cfg(test)]
mod suspended;
#[cfg(test)]
mod watched_files;
#[cfg(test)]
mod webhook_chart;
#[cfg(test)]
mod webhook_in_operator;
#[cfg(test)]
mod webhook_install;

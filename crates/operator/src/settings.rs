//! Settings of the operator process.

use crate::plan;

/// Field manager of everything the operator applies, backends aside.
pub const FIELD_MANAGER: &str = "skep-operator";

/// Name of the leader's Lease, as in ToolHive, so that the two exclude each other.
pub const LEASE_NAME: &str = "toolhive-operator-leader-election";

/// What one operator process is told.
#[derive(Debug, Clone)]
pub struct OperatorSettings {
    /// What the planner is told. `openshift` and `service_monitors` are found out by asking the API server.
    pub plan: plan::Settings,
    /// Namespaces that are looked at (`WATCH_NAMESPACE`); empty: all of them.
    pub namespaces: Vec<String>,
    /// Objects that are reconciled at the same time.
    pub workers: usize,
    /// Migrate stored objects to the storage version (`TOOLHIVE_ENABLE_STORAGE_VERSION_MIGRATOR`).
    pub migrate: bool,
    /// Ask proxies for their report. Off only where pods can't be reached.
    pub ask_proxies: bool,
}

impl Default for OperatorSettings {
    fn default() -> Self {
        Self {
            plan: plan::Settings::default(),
            namespaces: Vec::new(),
            workers: 8,
            migrate: true,
            ask_proxies: true,
        }
    }
}

//! What is measured about a workload: facts from cached objects (pure), and what proxies say of themselves.

mod owners;
mod pods;
mod replicas;
mod report;
mod reports;

pub use self::owners::{is_of_deployment, is_of_stateful_set};
pub use self::pods::{PodAddress, Pods};
pub use self::replicas::{Deployment, ReplicaCondition, StatefulSet};
pub(crate) use self::report::shown;
pub use self::report::{BadReport, read as read_report};
pub use self::reports::{
    Pace, PodReport, ReportError, ReportErrorKind, Reporter, ReporterSettings, STATUS_PORT,
};

/// Everything that was observed about one workload at one moment.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The proxy's Deployment; none when there is none.
    pub deployment: Option<Deployment>,
    /// The proxy's pods.
    pub pods: Pods,
    /// The MCP server's StatefulSet; none when there is none, and for remote proxies.
    pub stateful_set: Option<StatefulSet>,
    /// The MCP server's pods.
    pub backend: Pods,
    /// What the proxy's pods say, or why one could not be asked; empty when none was asked.
    pub reports: Vec<PodReport>,
    /// Objects that should be ours and belong to somebody else, such as "Deployment `foo` (of MCPServer
    /// `foo`)".
    pub conflicts: Vec<String>,
    /// An object that the API server did not take.
    pub apply_error: Option<ApplyFailure>,
    /// What became of the server's client at Keycloak; none when its registration is not the operator's.
    pub registration: Option<ClientRegistration>,
}

/// What became of the registration of a server's client by the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientRegistration {
    /// The operator was not told how to register clients.
    NotConfigured,
    /// It has not been tried since this process leads, or not with what is wanted now.
    Pending,
    /// The client is there, and the server's Secret has its credentials. `warnings` are sentences about what is
    /// not as it should be without standing in the way.
    Done { warnings: Vec<String> },
    /// It could not be registered. `why` is the same each time, or the status never settles.
    Failed { why: String },
}

/// An object that the API server did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyFailure {
    /// The object, such as "Deployment `foo`".
    pub what: String,
    /// What the API server said. It has to be the same each time, or the status never settles.
    pub why: String,
}

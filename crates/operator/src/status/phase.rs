//! How far a workload has come, from its pods.

use skep_api::crd::Kind;

use crate::observe::Observed;

/// Longest part of a message that comes from the cluster.
const MAX_CAUSE: usize = 300;

/// How far a workload has come, its spec aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// Scaled to zero.
    Stopped,
    /// There are no pods yet.
    Created,
    /// Pods are there, and none is ready; sometimes there is more to say.
    Starting(Option<String>),
    /// The proxy is there, but what it stands before is not.
    NoBackend,
    /// It does not start, and won't without somebody's doing.
    Failed(String),
    /// It takes calls. When the newest version does not come up, why.
    Ready(Option<String>),
}

impl Progress {
    pub(super) fn of(kind: Kind, observed: &Observed) -> Self {
        let pods = &observed.pods;
        let deployment = observed.deployment.as_ref();
        if deployment.is_some_and(|deployment| deployment.desired == 0) {
            return Self::Stopped;
        }
        if ready_replicas(observed) > 0 {
            return if kind == Kind::MCPServer { backend(observed) } else { Self::Ready(stuck(observed)) };
        }
        if let Some(reason) = &pods.failure {
            return Self::Failed(shorten(reason));
        }
        if pods.total() > 0 {
            return Self::Starting(pods.waiting.as_deref().map(shorten));
        }
        let failure = deployment.and_then(|deployment| deployment.replica_failure.as_ref());
        match failure.filter(|failure| failure.holds) {
            Some(failure) => Self::Failed(shorten(&format!("{}: {}", failure.reason, failure.message))),
            None => Self::Created,
        }
    }

    /// The phase, in the words of the kind.
    pub(super) fn phase(&self, kind: Kind) -> &'static str {
        match self {
            Self::Stopped if kind == Kind::MCPServer => "Stopped",
            Self::Stopped | Self::Created | Self::Starting(_) | Self::NoBackend => "Pending",
            Self::Failed(_) => "Failed",
            Self::Ready(_) => "Ready",
        }
    }

    /// One sentence for `status.message`.
    pub(super) fn message(&self, kind: Kind) -> String {
        let what = if kind == Kind::MCPServer { "MCP server" } else { "Remote proxy" };
        match self {
            Self::Stopped => format!("{what} is stopped (scaled to zero)"),
            Self::Created => format!("{what} is being created"),
            Self::Starting(None) => format!("{what} is starting"),
            Self::Starting(Some(cause)) => format!("{what} is starting: {cause}"),
            Self::NoBackend => format!("{what} proxy is running; recreating missing workload StatefulSet"),
            Self::Failed(reason) => format!("{what} pod failed: {reason}"),
            Self::Ready(None) => format!("{what} is running"),
            Self::Ready(Some(cause)) => {
                format!("{what} is running, but its newest version does not start: {cause}")
            }
        }
    }
}

/// Proxy pods that are ready. Pods know it first; without sight of any, the Deployment's word counts.
pub(super) fn ready_replicas(observed: &Observed) -> i64 {
    if observed.pods.total() > 0 {
        return i64::from(observed.pods.ready);
    }
    observed.deployment.as_ref().map_or(0, |deployment| deployment.ready)
}

fn backend(observed: &Observed) -> Progress {
    match &observed.stateful_set {
        None => Progress::NoBackend,
        Some(set) if set.ready > 0 || observed.backend.ready > 0 || set.desired == 0 => {
            Progress::Ready(stuck(observed))
        }
        Some(_) => match &observed.backend.failure {
            Some(reason) => Progress::Failed(shorten(reason)),
            None => Progress::Starting(observed.backend.waiting.as_deref().map(shorten)),
        },
    }
}

fn stuck(observed: &Observed) -> Option<String> {
    let failing = observed.pods.failure.clone();
    let stuck = observed.deployment.as_ref()?.stuck()?;
    Some(shorten(&failing.unwrap_or_else(|| stuck.reason.clone())))
}

fn shorten(text: &str) -> String {
    crate::observe::shown(text, MAX_CAUSE)
}

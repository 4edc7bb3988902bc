//! What can go wrong with an agent, and whether waiting helps.

use std::fmt;

use ::spiffe::WorkloadApiError;
use ::spiffe::transport::{GrpcStatusCode, TransportError};

/// The calls of the Workload API that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// The X.509-SVIDs and the bundles that belong to them.
    X509Svids,
    /// JWT-SVIDs for some audiences.
    JwtSvids,
    /// The keys that JWT-SVIDs are signed with.
    JwtBundles,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X509Svids => "X.509-SVIDs",
            Self::JwtSvids => "JWT-SVIDs",
            Self::JwtBundles => "JWT bundles",
        })
    }
}

/// What kind of failure it is, and with that what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The agent knows no identity for this workload (PermissionDenied): an entry is missing or on its way.
    /// Wait.
    NotReady,
    /// The agent can't be reached or can't answer now. Wait.
    Unavailable,
    /// The agent sent what the SPIFFE standards forbid. Waiting may help.
    Malformed,
    /// The agent refuses the call as such (InvalidArgument, Unimplemented). Waiting does not help.
    Invalid,
}

impl Kind {
    /// True when asking again can't help.
    pub fn is_permanent(self) -> bool {
        match self {
            Self::NotReady | Self::Unavailable | Self::Malformed => false,
            Self::Invalid => true,
        }
    }
}

/// Why the agent gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    #[error("no SPIFFE agent answers at {address}")]
    Connect {
        address: String,
        #[source]
        source: Box<WorkloadApiError>,
    },
    #[error(
        "the SPIFFE agent has no identity for this workload yet ({message}): look whether an entry selects \
         this pod's namespace and service account"
    )]
    NoIdentity { message: String },
    #[error("the SPIFFE agent refuses to give {call} ({code}): {message}")]
    Refused { call: Call, code: &'static str, message: String },
    #[error("the SPIFFE agent can't give {call} now")]
    Failed {
        call: Call,
        #[source]
        source: Box<WorkloadApiError>,
    },
    #[error("the SPIFFE agent sent {call} that can't be used")]
    Malformed {
        call: Call,
        #[source]
        source: Box<WorkloadApiError>,
    },
    #[error("the SPIFFE agent did not give {call} within a minute")]
    Late { call: Call },
    #[error("the SPIFFE agent ended the stream of {call}")]
    Ended { call: Call },
}

impl WorkloadError {
    /// The kind that says what to do.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoIdentity { .. } => Kind::NotReady,
            Self::Connect { .. } | Self::Failed { .. } | Self::Late { .. } | Self::Ended { .. } => {
                Kind::Unavailable
            }
            Self::Malformed { .. } => Kind::Malformed,
            Self::Refused { .. } => Kind::Invalid,
        }
    }

    pub(super) fn of(call: Call, error: WorkloadApiError) -> Self {
        match error {
            WorkloadApiError::NoIdentityIssued => {
                Self::NoIdentity { message: "no identity issued".to_owned() }
            }
            WorkloadApiError::PermissionDenied(message) => Self::NoIdentity { message },
            WorkloadApiError::Transport(TransportError::Status(status)) => match status.code() {
                code @ (GrpcStatusCode::InvalidArgument | GrpcStatusCode::Unimplemented) => {
                    Self::Refused { call, code: code.as_str(), message: status.message().to_owned() }
                }
                _ => {
                    let source = WorkloadApiError::Transport(TransportError::Status(status));
                    Self::Failed { call, source: Box::new(source) }
                }
            },
            error @ (WorkloadApiError::Transport(_) | WorkloadApiError::EmptyResponse) => {
                Self::Failed { call, source: Box::new(error) }
            }
            error => Self::Malformed { call, source: Box::new(error) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_the_agent_says_whether_to_wait() {
        let status = |code| WorkloadApiError::Transport(TransportError::status(code, "why"));
        for (error, kind) in [
            (WorkloadApiError::NoIdentityIssued, Kind::NotReady),
            (WorkloadApiError::PermissionDenied("no".to_owned()), Kind::NotReady),
            (status(GrpcStatusCode::Unavailable), Kind::Unavailable),
            (status(GrpcStatusCode::Internal), Kind::Unavailable),
            (status(GrpcStatusCode::DeadlineExceeded), Kind::Unavailable),
            (status(GrpcStatusCode::InvalidArgument), Kind::Invalid),
            (status(GrpcStatusCode::Unimplemented), Kind::Invalid),
            (WorkloadApiError::EmptyResponse, Kind::Unavailable),
            (WorkloadApiError::MissingRequiredField { field: "svids" }, Kind::Malformed),
        ] {
            let shown = error.to_string();
            let error = WorkloadError::of(Call::X509Svids, error);
            assert_eq!(error.kind(), kind, "{shown}");
            assert_eq!(error.kind().is_permanent(), kind == Kind::Invalid);
        }
    }
}

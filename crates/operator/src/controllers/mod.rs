//! One reconcile for each kind: from what is cached to what is applied and said, decided from state alone.

mod anonymous;
mod config;
mod deletion;
mod dropped;
mod entry;
mod group;
pub mod registration;
pub mod reports;
mod restart;
mod sidecars;
mod status_write;
mod suspend;
mod workload;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use skep_api::crd::Kind;
use skep_runtime::clock::SharedClock;

pub use self::anonymous::Anonymous;
pub use self::dropped::Dropped;
use self::registration::Registrations;
use self::reports::Reports;
use crate::apply::{Applier, ApplyError};
use crate::client::refused_by_gate;
use crate::cluster::Cluster;
use crate::cluster::feed::chain;
use crate::events::Events;
use crate::metrics::OperatorMetrics;
use crate::queue::Key;

/// How often an object is looked at again whose namespace is being deleted.
const NAMESPACE_GOES: Duration = Duration::from_secs(10);

/// What every reconcile works with.
pub struct Context {
    /// Writes only while this operator leads.
    pub client: Client,
    pub cluster: Arc<Cluster>,
    pub applier: Applier,
    pub events: Events,
    pub metrics: OperatorMetrics,
    pub clock: SharedClock,
    pub reports: Arc<Reports>,
    pub anonymous: Anonymous,
    pub dropped: Dropped,
    pub registrations: Arc<Registrations>,
}

/// When an object is looked at again although nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Only after a change.
    Change,
    /// After this time: something is waited for that nobody tells.
    After(Duration),
}

/// Why a reconcile did not come to its end. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// An object could not be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The API server could not be asked, or said no.
    #[error("{doing} failed")]
    Api {
        doing: &'static str,
        #[source]
        source: kube::Error,
    },
}

/// Kinds of [`ReconcileError`], as metrics and logs name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Somebody else wrote first.
    Conflict,
    /// A right is missing.
    Forbidden,
    /// The API server refuses what was written.
    Invalid,
    /// The object went away in the meantime.
    NotFound,
    /// Another answer of the API server.
    Refused,
    /// There was no answer.
    Unreachable,
    /// This operator no longer leads, and wrote nothing.
    NotLeader,
}

impl ErrorKind {
    /// What kind of failure a call to the API server is.
    pub(crate) fn of(source: &kube::Error) -> Self {
        match source {
            kube::Error::Api(status) => match status.code {
                409 => Self::Conflict,
                403 => Self::Forbidden,
                400 | 422 => Self::Invalid,
                404 => Self::NotFound,
                _ => Self::Refused,
            },
            other if refused_by_gate(other).is_some() => Self::NotLeader,
            _ => Self::Unreachable,
        }
    }

    /// For metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Forbidden => "forbidden",
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NotLeader => "not_leader",
        }
    }
}

impl ReconcileError {
    pub(crate) fn api(doing: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Api { doing, source }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        let source = match self {
            Self::Api { source, .. } | Self::Apply(ApplyError::Api { source, .. }) => source,
            Self::Apply(ApplyError::Kind(_)) => return ErrorKind::Invalid,
        };
        ErrorKind::of(source)
    }

    /// True when nothing can be made because the namespace is being deleted.
    pub fn is_namespace_going(&self) -> bool {
        let (Self::Api { source, .. } | Self::Apply(ApplyError::Api { source, .. })) = self else {
            return false;
        };
        let kube::Error::Api(status) = source else { return false };
        let mut causes = status.details.iter().flat_map(|details| &details.causes);
        status.code == 403
            && (causes.any(|cause| cause.reason == "NamespaceTerminating")
                || status.message.contains("because it is being terminated"))
    }

    /// The error with its causes.
    pub fn text(&self) -> String {
        chain(self)
    }
}

/// Reconciles one object.
///
/// # Errors
/// When it has to be tried again.
pub async fn reconcile(context: &Context, key: &Key) -> Result<Next, ReconcileError> {
    // What is gone has left nothing behind: owner references and finalizers saw to it.
    let Some(value) = context.cluster.object(key) else {
        context.anonymous.forget(key, &context.metrics);
        context.dropped.forget(key);
        registration::forget(context, key);
        return Ok(Next::Change);
    };
    let result = match key.kind {
        Kind::MCPServer | Kind::MCPRemoteProxy => workload::reconcile(context, key, &value).await,
        Kind::MCPGroup => group::reconcile(context, key, &value).await,
        Kind::MCPServerEntry => entry::reconcile(context, key, &value).await,
        Kind::MCPExternalAuthConfig
        | Kind::MCPToolConfig
        | Kind::MCPOIDCConfig
        | Kind::MCPAuthzConfig
        | Kind::MCPTelemetryConfig
        | Kind::MCPWebhookConfig => config::reconcile(context, key, &value).await,
    };
    match result {
        // Everything goes, and nobody has to hear that it can't be mended.
        Err(error) if error.is_namespace_going() => Ok(Next::After(NAMESPACE_GOES)),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_namespace_that_goes_is_told_from_a_missing_right() {
        let error = |code: u16, message: &str, details: Value| {
            let status = json!({"status": "Failure", "code": code, "reason": "Forbidden", "message": message, "details": details});
            let source = kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()));
            ReconcileError::Apply(ApplyError::Api { action: "applying", what: "Role `r`".to_owned(), source })
        };
        let caused = json!({"causes": [{"reason": "NamespaceTerminating", "message": "", "field": "metadata.namespace"}]});
        let said = "unable to create new content in namespace x because it is being terminated";
        for (error, expected) in [
            (error(403, "", caused.clone()), true),
            (error(403, said, Value::Null), true),
            (error(403, "roles is forbidden", json!({"causes": []})), false),
            (error(409, said, caused), false),
            (ReconcileError::Apply(ApplyError::Kind("x".to_owned())), false),
        ] {
            assert_eq!(error.is_namespace_going(), expected, "{error:?}");
        }
    }
}

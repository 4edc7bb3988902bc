//! Restarts that are asked for by annotations of an MCPServer.

use jiff::Timestamp;
use skep_api::crd::meta::ObjectMeta;
use skep_api::names::{RESTART_STRATEGY, RESTARTED_AT};

use super::findings::Findings;

const REASON: &str = "RestartAnnotationInvalid";

/// A restart that is asked for. It is the same one for as long as `at` is the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// When it was asked for, as it is written: what `last-processed-restart` says once it is done.
    pub at: String,
    /// How.
    pub strategy: RestartStrategy,
}

/// How the pods of a proxy are restarted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RestartStrategy {
    /// One after the other, by a change of the pod template.
    #[default]
    Rolling,
    /// All at once: they are deleted.
    Immediate,
}

/// Reads the annotations. What can't be read restarts nothing, and a warning says so.
pub(super) fn asked(metadata: &ObjectMeta, findings: &mut Findings<'_>) -> Option<Restart> {
    let annotation = |key: &str| metadata.annotations.get(key).map(|text| text.trim()).unwrap_or_default();
    let (at, strategy) = (annotation(RESTARTED_AT), annotation(RESTART_STRATEGY));
    let path = |key: &str| format!("metadata.annotations.{key}");
    let strategy = match strategy {
        "" | "rolling" => RestartStrategy::Rolling,
        "immediate" => RestartStrategy::Immediate,
        other => {
            findings.warning(
                path(RESTART_STRATEGY),
                REASON,
                format!("`{}` is not a strategy; `rolling` and `immediate` are. Pods are restarted one after the other.", other.escape_debug()),
            );
            RestartStrategy::Rolling
        }
    };
    if at.is_empty() {
        return None;
    }
    if at.len() > MAX_LENGTH || at.parse::<Timestamp>().is_err() {
        findings.warning(
            path(RESTARTED_AT),
            REASON,
            "This is not a time such as `2026-01-31T12:00:00Z` (RFC 3339), so nothing is restarted.",
        );
        return None;
    }
    Some(Restart { at: at.to_owned(), strategy })
}

/// Longest text of a time, with nanoseconds and an offset.
const MAX_LENGTH: usize = 40;

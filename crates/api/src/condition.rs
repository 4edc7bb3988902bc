//! Status conditions as the planner knows them: without times, which belong to whoever writes the status.

use serde::{Deserialize, Serialize};

/// Status of a condition (`metav1.ConditionStatus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// A `metav1.Condition` without `lastTransitionTime` and `observedGeneration`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Condition type, for example `ConfigurationValid`.
    #[serde(rename = "type")]
    pub kind: String,
    pub status: ConditionStatus,
    /// CamelCase cause.
    pub reason: String,
    /// Sentence for a human.
    pub message: String,
}

impl Condition {
    /// A condition that holds.
    pub fn yes(kind: impl Into<String>, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            status: ConditionStatus::True,
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// A condition that does not hold.
    pub fn no(kind: impl Into<String>, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            status: ConditionStatus::False,
            reason: reason.into(),
            message: message.into(),
        }
    }
}

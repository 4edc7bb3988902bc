//! Facts about Deployments and StatefulSets, from their JSON. What is missing counts as nothing there.

use serde_json::Value;

/// One condition of a Deployment, as far as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaCondition {
    /// It says `True`.
    pub holds: bool,
    /// Cause in CamelCase.
    pub reason: String,
    /// Sentence for a human.
    pub message: String,
}

/// What a Deployment says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deployment {
    /// `metadata.generation`.
    pub generation: i64,
    /// Generation that the rest is about.
    pub observed_generation: i64,
    /// Replicas that are asked for.
    pub desired: i64,
    /// Replicas of the newest pod template.
    pub updated: i64,
    /// Replicas that are ready, of whatever template.
    pub ready: i64,
    /// Replicas that have been ready for long enough.
    pub available: i64,
    /// Condition `Progressing`.
    pub progressing: Option<ReplicaCondition>,
    /// Condition `Available`.
    pub available_condition: Option<ReplicaCondition>,
    /// Condition `ReplicaFailure`: pods can't be created or deleted.
    pub replica_failure: Option<ReplicaCondition>,
}

impl Deployment {
    /// Reads a Deployment.
    pub fn of(object: &Value) -> Self {
        Self {
            generation: count(object, "/metadata/generation"),
            observed_generation: count(object, "/status/observedGeneration"),
            desired: desired(object),
            updated: count(object, "/status/updatedReplicas"),
            ready: count(object, "/status/readyReplicas"),
            available: count(object, "/status/availableReplicas"),
            progressing: condition(object, "Progressing"),
            available_condition: condition(object, "Available"),
            replica_failure: condition(object, "ReplicaFailure"),
        }
    }

    /// True when the controller has seen the newest version.
    pub fn is_observed(&self) -> bool {
        self.observed_generation >= self.generation
    }

    /// True when every replica is of the newest template and available.
    pub fn is_rolled_out(&self) -> bool {
        self.is_observed() && self.updated >= self.desired && self.available >= self.desired
    }

    /// Why the newest pod template does not come up, once the controller has given up waiting for it.
    pub fn stuck(&self) -> Option<&ReplicaCondition> {
        self.progressing.as_ref().filter(|condition| !condition.holds)
    }
}

/// What a StatefulSet says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatefulSet {
    /// Replicas that are asked for.
    pub desired: i64,
    /// Replicas that are ready.
    pub ready: i64,
}

impl StatefulSet {
    /// Reads a StatefulSet.
    pub fn of(object: &Value) -> Self {
        Self { desired: desired(object), ready: count(object, "/status/readyReplicas") }
    }
}

/// The API server fills in 1 where nothing is said.
fn desired(object: &Value) -> i64 {
    object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1)
}

fn count(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

fn condition(object: &Value, kind: &str) -> Option<ReplicaCondition> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    let text = |condition: &Value, field: &str| {
        condition.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    conditions.iter().find(|condition| text(condition, "type") == kind).map(|condition| ReplicaCondition {
        holds: text(condition, "status") == "True",
        reason: text(condition, "reason"),
        message: text(condition, "message"),
    })
}

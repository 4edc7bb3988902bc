//! Statuses of which the API server keeps only a part: its CRD is older than this operator.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use skep_api::crd::Kind;

use crate::queue::Key;

/// What was written and what was kept of it, of the objects where these differ. Writing the same again would
/// change nothing.
#[derive(Debug, Default)]
pub struct Dropped {
    seen: Mutex<HashMap<Key, (Value, Value)>>,
    /// Phases that a kind's CRD does not allow.
    phases: Mutex<HashSet<(Kind, String)>>,
}

impl Dropped {
    /// The status without a phase that was refused before.
    pub(super) fn allowed<'a>(&self, kind: Kind, status: &'a Value) -> Cow<'a, Value> {
        let phase = status.get("phase").and_then(Value::as_str).unwrap_or_default().to_owned();
        let refused = self.phases.lock().unwrap_or_else(PoisonError::into_inner).contains(&(kind, phase));
        without_phase(status).filter(|_| refused).map_or(Cow::Borrowed(status), Cow::Owned)
    }

    /// Takes note of a phase that was refused: without it the status was taken.
    pub(super) fn refused(&self, kind: Kind, status: &Value) {
        let phase = status.get("phase").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut phases = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
        let first = !phases.iter().any(|(other, _)| *other == kind);
        if phases.insert((kind, phase.clone())) && first {
            tracing::warn!(%kind, phase, "the CRD is older than this operator and does not allow all of its phases, so they are left out; install this version's CRDs");
        }
    }

    /// True when this status was written before, times aside, and what is there now is what was kept of it.
    pub(super) fn is_known(&self, key: &Key, present: &Value, wanted: &Value) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Where a CRD drops the conditions, each time is the first time that they are what they are.
        seen.get(key)
            .is_some_and(|(kept, written)| kept == present && without_times(written) == without_times(wanted))
    }

    /// Takes note of what was kept of a status.
    pub(super) fn note(&self, key: &Key, kept: &Value, written: &Value) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if kept == written {
            seen.remove(key);
        } else if seen.insert(key.clone(), (kept.clone(), written.clone())).is_none() {
            tracing::warn!(object = %key, "the CRD does not know all fields of the status; install this version's CRDs");
        }
    }

    /// Forgets an object that is gone.
    pub(super) fn forget(&self, key: &Key) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// A status without its phase; none when it has none.
pub(super) fn without_phase(status: &Value) -> Option<Value> {
    let mut status = status.clone();
    status.as_object_mut()?.shift_remove("phase")?;
    Some(status)
}

fn without_times(status: &Value) -> Value {
    let mut status = status.clone();
    if let Some(fields) = status.as_object_mut() {
        fields.shift_remove("lastHealthCheck");
    }
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(fields) = condition.as_object_mut() {
            fields.shift_remove("lastTransitionTime");
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_that_is_kept_in_part_is_written_once() {
        let dropped = Dropped::default();
        let key = Key::new(Kind::MCPServer, "ns", "s");
        let (kept, wanted) = (json!({"phase": "Ready"}), json!({"phase": "Ready", "new": 1}));
        assert!(!dropped.is_known(&key, &json!({}), &wanted));
        dropped.note(&key, &kept, &wanted);
        assert!(dropped.is_known(&key, &kept, &wanted));
        assert!(!dropped.is_known(&key, &json!({"phase": "Failed"}), &wanted), "somebody changed it");
        assert!(!dropped.is_known(&key, &kept, &json!({"phase": "Failed", "new": 1})));
        dropped.note(&key, &wanted, &wanted);
        assert!(!dropped.is_known(&key, &kept, &wanted), "the CRD has the field now");
    }

    #[test]
    fn times_alone_are_no_reason_to_write_what_is_dropped() {
        let dropped = Dropped::default();
        let key = Key::new(Kind::MCPRemoteProxy, "ns", "p");
        let status = |time: &str, ready: &str| {
            json!({"phase": "Pending", "lastHealthCheck": time,
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": time}]})
        };
        let kept = json!({"phase": "Pending"});
        dropped.note(&key, &kept, &status("2026-01-01T00:00:00Z", "False"));
        assert!(dropped.is_known(&key, &kept, &status("2026-01-01T00:00:01Z", "False")));
        assert!(!dropped.is_known(&key, &kept, &status("2026-01-01T00:00:01Z", "True")));
    }

    #[test]
    fn a_phase_that_was_refused_is_left_out_from_then_on() {
        let dropped = Dropped::default();
        let (ready, pending) = (json!({"phase": "Ready", "url": "u"}), json!({"phase": "Pending"}));
        assert_eq!(*dropped.allowed(Kind::MCPServer, &ready), ready);
        dropped.refused(Kind::MCPServer, &ready);
        assert_eq!(*dropped.allowed(Kind::MCPServer, &ready), json!({"url": "u"}));
        assert_eq!(*dropped.allowed(Kind::MCPServer, &pending), pending, "this one is allowed");
        assert_eq!(*dropped.allowed(Kind::MCPRemoteProxy, &ready), ready, "of another CRD");
        assert_eq!(*dropped.allowed(Kind::MCPServer, &json!({})), json!({}));
    }
}

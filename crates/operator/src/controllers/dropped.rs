//! Statuses of which the API server keeps only a part: its CRD is older than this operator.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::queue::Key;

/// What was written and what was kept of it, of the objects where these differ. Writing the same again would
/// change nothing.
#[derive(Debug, Default)]
pub struct Dropped {
    seen: Mutex<HashMap<Key, (Value, Value)>>,
}

impl Dropped {
    /// True when this status was written before, and what is there now is what was kept of it.
    pub(super) fn is_known(&self, key: &Key, present: &Value, wanted: &Value) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(key).is_some_and(|(kept, written)| kept == present && written == wanted)
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skep_api::crd::Kind;

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
}

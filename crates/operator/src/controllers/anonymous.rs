//! Workloads that let everybody in, for the metric that counts them.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use skep_api::crd::Kind;

use crate::metrics::OperatorMetrics;
use crate::plan::Planned;
use crate::queue::Key;

/// The workloads without incoming auth that are planned.
#[derive(Debug, Default)]
pub struct Anonymous {
    keys: Mutex<HashSet<Key>>,
}

impl Anonymous {
    /// Takes note of a plan.
    pub(super) fn note(&self, key: &Key, planned: &Planned, metrics: &OperatorMetrics) {
        let open = planned.plan.is_some()
            && planned
                .conditions
                .iter()
                .any(|condition| condition.kind == "AuthConfigured" && condition.reason == "Anonymous");
        let changed = {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            if open { keys.insert(key.clone()) } else { keys.remove(key) }
        };
        if changed {
            self.tell(key.kind, metrics);
        }
    }

    /// Forgets a workload that is gone.
    pub(super) fn forget(&self, key: &Key, metrics: &OperatorMetrics) {
        let known = self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        if known {
            self.tell(key.kind, metrics);
        }
    }

    fn tell(&self, kind: Kind, metrics: &OperatorMetrics) {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.anonymous(kind, keys.iter().filter(|key| key.kind == kind).count());
    }
}

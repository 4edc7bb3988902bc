//! Readiness with reasons.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde::Serialize;

use crate::drain::{DrainWatch, Phase};

/// Why a process is or isn't ready, by the name of the part that says so.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    /// What the names of parts begin with here.
    prefix: Arc<str>,
    reasons: Arc<Mutex<BTreeMap<String, String>>>,
    warnings: Arc<Mutex<BTreeMap<String, String>>>,
}

/// Body of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadinessReport {
    pub ready: bool,
    /// What stands in the way, by part.
    pub reasons: BTreeMap<String, String>,
    /// What is wrong without standing in the way, by part.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub warnings: BTreeMap<String, String>,
}

impl Readiness {
    /// Ready, with nothing in the way.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, for a part of the process that has parts of its own: their names begin with `name`.
    pub fn of_part(&self, name: &str) -> Self {
        Self { prefix: format!("{}{name}/", self.prefix).into(), ..self.clone() }
    }

    fn named(&self, part: &str) -> String {
        format!("{}{part}", self.prefix)
    }

    /// Says that `part` is not ready and why.
    pub fn not_ready(&self, part: &str, reason: impl Into<String>) {
        if let Ok(mut reasons) = self.reasons.lock() {
            reasons.insert(self.named(part), reason.into());
        }
    }

    /// Says that `part` is ready.
    pub fn ready(&self, part: &str) {
        if let Ok(mut reasons) = self.reasons.lock() {
            reasons.remove(&self.named(part));
        }
    }

    /// Says what is wrong with `part` though it is ready.
    pub fn warn(&self, part: &str, warning: impl Into<String>) {
        if let Ok(mut warnings) = self.warnings.lock() {
            warnings.insert(self.named(part), warning.into());
        }
    }

    /// Says that nothing is wrong with `part` any more.
    pub fn unwarn(&self, part: &str) {
        if let Ok(mut warnings) = self.warnings.lock() {
            warnings.remove(&self.named(part));
        }
    }

    /// The report for `/readyz`; a process that is leaving is not ready.
    pub fn report(&self, drain: &DrainWatch) -> ReadinessReport {
        let mut reasons = self.reasons.lock().map(|reasons| reasons.clone()).unwrap_or_default();
        if drain.phase() > Phase::Serving {
            reasons.insert("drain".to_owned(), "the process is shutting down".to_owned());
        }
        let warnings = self.warnings.lock().map(|warnings| warnings.clone()).unwrap_or_default();
        ReadinessReport { ready: reasons.is_empty(), reasons, warnings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Drain;

    #[test]
    fn two_parts_with_parts_of_one_name_are_told_apart() {
        let (drain, readiness) = (Drain::new(), Readiness::new());
        let webhook = readiness.of_part("webhook");
        readiness.not_ready("discovery", "first");
        webhook.not_ready("discovery", "second");
        readiness.ready("discovery");
        let report = webhook.report(&drain.watch());
        assert_eq!(report.reasons, BTreeMap::from([("webhook/discovery".to_owned(), "second".to_owned())]));
        webhook.ready("discovery");
        assert!(readiness.report(&drain.watch()).ready);
    }

    #[test]
    fn readiness_names_what_is_missing() {
        let drain = Drain::new();
        let readiness = Readiness::new();
        assert!(readiness.report(&drain.watch()).ready);
        readiness.not_ready("keys", "no keys yet");
        let report = readiness.report(&drain.watch());
        assert!(!report.ready);
        assert_eq!(report.reasons["keys"], "no keys yet");
        readiness.ready("keys");
        readiness.warn("logs", "no room left");
        let report = readiness.report(&drain.watch());
        assert!(report.ready && report.warnings["logs"] == "no room left");
        readiness.unwarn("logs");
        assert!(readiness.report(&drain.watch()).warnings.is_empty());
        drain.advance(Phase::Leaving);
        assert_eq!(readiness.report(&drain.watch()).reasons["drain"], "the process is shutting down");
    }
}

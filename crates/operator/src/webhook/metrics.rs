//! Metrics of the webhook. Every label has a bounded set of values: words of this program.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use skep_runtime::metrics::Metrics;
use skep_runtime::tls::CertificateMetrics;

use super::hook::Hook;
use crate::sidecars::Decision;

/// What all names begin with.
pub const PREFIX: &str = "skep_webhook";

/// Reviews take less than a millisecond from the caches, and as long as the API server takes otherwise.
const BUCKETS: [f64; 12] = [0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReviewLabels {
    hook: &'static str,
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookOnly {
    hook: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InjectionLabels {
    decision: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeOnly {
    outcome: &'static str,
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// The metric families. Clones are the same families.
#[derive(Debug, Clone)]
pub struct WebhookMetrics {
    reviews: Family<ReviewLabels, Counter>,
    durations: Family<HookOnly, Histogram, fn() -> Histogram>,
    injections: Family<InjectionLabels, Counter>,
    access_reviews: Family<OutcomeOnly, Counter>,
    config_reloads: Family<OutcomeOnly, Counter>,
    certificates: CertificateMetrics,
    registry: Metrics,
}

impl WebhookMetrics {
    /// Registers the families.
    pub fn register(registry: &Metrics) -> Self {
        let metrics = Self {
            reviews: Family::default(),
            durations: Family::new_with_constructor(histogram),
            injections: Family::default(),
            access_reviews: Family::default(),
            config_reloads: Family::default(),
            certificates: CertificateMetrics::register(registry, PREFIX),
            registry: registry.clone(),
        };
        registry.register(
            "skep_webhook_reviews",
            "Admission reviews by hook, operation and outcome: allowed, patched, denied, failed; refused for a request that is no review",
            metrics.reviews.clone(),
        );
        registry.register(
            "skep_webhook_review_duration_seconds",
            "Time that one admission review took, by hook",
            metrics.durations.clone(),
        );
        registry.register(
            "skep_webhook_injections",
            "Decisions about sidecars: inject or skip, and what decided",
            metrics.injections.clone(),
        );
        registry.register(
            "skep_webhook_access_reviews",
            "Questions whether a user may do what a manifest asks for: allowed, denied, remembered or failed",
            metrics.access_reviews.clone(),
        );
        registry.register(
            "skep_webhook_config_reloads",
            "Versions of the config file that were loaded or refused",
            metrics.config_reloads.clone(),
        );
        // What never happened is 0, not absent: an alert on a rate needs a first value.
        for outcome in ["allowed", "denied", "remembered", "failed"] {
            let _ = metrics.access_reviews.get_or_create(&OutcomeOnly { outcome });
        }
        for outcome in ["loaded", "refused"] {
            let _ = metrics.config_reloads.get_or_create(&OutcomeOnly { outcome });
        }
        metrics
    }

    /// Those of the serving certificate.
    pub fn certificates(&self) -> &CertificateMetrics {
        &self.certificates
    }

    /// Where they are registered.
    pub(super) fn registry(&self) -> &Metrics {
        &self.registry
    }

    /// A review has been answered. `operation` and `outcome` are words of this program.
    pub fn reviewed(&self, hook: Hook, operation: &'static str, outcome: &'static str, took: Duration) {
        let hook = hook.as_str();
        self.reviews.get_or_create(&ReviewLabels { hook, operation, outcome }).inc();
        self.durations.get_or_create(&HookOnly { hook }).observe(took.as_secs_f64());
    }

    /// A request was no review. Without a hook: at no path of ours.
    pub fn refused(&self, hook: Option<Hook>) {
        let hook = hook.map_or("none", Hook::as_str);
        self.reviews.get_or_create(&ReviewLabels { hook, operation: "none", outcome: "refused" }).inc();
    }

    /// It was decided whether sidecars are injected.
    pub fn decided(&self, decision: Decision) {
        let labels = InjectionLabels {
            decision: if decision.inject { "inject" } else { "skip" },
            reason: decision.reason.as_str(),
        };
        self.injections.get_or_create(&labels).inc();
    }

    /// Somebody asked whether a user may do something.
    pub fn access_review(&self, outcome: &'static str) {
        self.access_reviews.get_or_create(&OutcomeOnly { outcome }).inc();
    }

    /// The config file has another content.
    pub fn config_reload(&self, loaded: bool) {
        let outcome = if loaded { "loaded" } else { "refused" };
        self.config_reloads.get_or_create(&OutcomeOnly { outcome }).inc();
    }
}

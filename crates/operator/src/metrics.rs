//! Metrics of the operator. Every label has a bounded set of values: kinds, and words of this program.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use skep_api::crd::Kind;
use skep_runtime::metrics::Metrics;

use crate::cluster::Resource;

/// Reconciles take milliseconds when nothing changes, seconds when the API server is slow.
const BUCKETS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindOnly {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindResult {
    kind: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindAction {
    kind: &'static str,
    action: &'static str,
}

type Durations = Family<KindOnly, Histogram, fn() -> Histogram>;

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// The metric families. Clones are the same families.
#[derive(Debug, Clone)]
pub struct OperatorMetrics {
    durations: Durations,
    reconciles: Family<KindResult, Counter>,
    queued: Gauge,
    running: Gauge,
    applied: Family<KindAction, Counter>,
    leading: Gauge,
    lost: Counter,
    anonymous: Family<KindOnly, Gauge>,
    objects: Family<KindOnly, Gauge>,
    events: Family<EventResult, Counter>,
    registrations: Family<Outcome, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventResult {
    result: &'static str,
}

impl OperatorMetrics {
    /// Registers the families.
    pub fn register(registry: &Metrics) -> Self {
        let metrics = Self {
            durations: Family::new_with_constructor(histogram),
            reconciles: Family::default(),
            queued: Gauge::default(),
            running: Gauge::default(),
            applied: Family::default(),
            leading: Gauge::default(),
            lost: Counter::default(),
            anonymous: Family::default(),
            objects: Family::default(),
            events: Family::default(),
            registrations: Family::default(),
        };
        registry.register(
            "skep_operator_reconcile_duration_seconds",
            "Time that one reconcile took, by kind",
            metrics.durations.clone(),
        );
        registry.register(
            "skep_operator_reconciles",
            "Reconciles by kind and result: ok, or the kind of the error",
            metrics.reconciles.clone(),
        );
        registry.register(
            "skep_operator_queue_depth",
            "Objects that wait to be reconciled, also those that are not due yet",
            metrics.queued.clone(),
        );
        registry.register(
            "skep_operator_reconciles_running",
            "Objects that are being reconciled",
            metrics.running.clone(),
        );
        registry.register(
            "skep_operator_objects",
            "What was done about objects that plans hold, by their kind and action",
            metrics.applied.clone(),
        );
        registry.register("skep_operator_leader", "1 while this process leads", metrics.leading.clone());
        registry.register(
            "skep_operator_leadership_lost",
            "How often this process lost the lead without giving it up",
            metrics.lost.clone(),
        );
        registry.register(
            "skep_anonymous_workloads",
            "Workloads that let callers through without authentication, by kind",
            metrics.anonymous.clone(),
        );
        registry.register(
            "skep_operator_custom_resources",
            "Objects of users that the operator sees, by kind",
            metrics.objects.clone(),
        );
        registry.register(
            "skep_operator_events",
            "Events that were published, folded into an earlier one, dropped or refused by the API server",
            metrics.events.clone(),
        );
        registry.register(
            "skep_operator_client_registrations",
            "What became of clients of MCP servers at Keycloak: created, changed, unchanged, deleted, left behind, or why it failed",
            metrics.registrations.clone(),
        );
        // What never happened is 0, not absent: an alert on a rate needs a first value.
        for kind in [Kind::MCPServer, Kind::MCPRemoteProxy] {
            metrics.anonymous(kind, 0);
        }
        metrics
    }

    /// A reconcile of an object of this kind has ended. `result` is `ok` or the kind of the error, one of
    /// a fixed set of words.
    pub fn reconciled(&self, kind: Kind, took: Duration, result: &'static str) {
        let kind = kind.as_str();
        self.durations.get_or_create(&KindOnly { kind }).observe(took.as_secs_f64());
        self.reconciles.get_or_create(&KindResult { kind, result }).inc();
    }

    /// How many objects wait, and how many are being reconciled.
    pub fn queue(&self, waiting: usize, running: usize) {
        self.queued.set(number(waiting));
        self.running.set(number(running));
    }

    /// What was done about an object of a plan, for instance `created`, `unchanged`, `pruned`. A kind that is
    /// none of ours counts as `other`.
    pub fn applied(&self, kind: &str, action: &'static str) {
        let kind = known(kind);
        self.applied.get_or_create(&KindAction { kind, action }).inc();
    }

    /// Whether this process leads.
    pub fn leading(&self, leads: bool) {
        self.leading.set(i64::from(leads));
    }

    /// This process lost the lead without giving it up.
    pub fn leadership_lost(&self) {
        self.lost.inc();
    }

    /// How many workloads of this kind let callers through without authentication.
    pub fn anonymous(&self, kind: Kind, count: usize) {
        self.anonymous.get_or_create(&KindOnly { kind: kind.as_str() }).set(number(count));
    }

    /// How many objects of this kind there are.
    pub fn custom_resources(&self, kind: Kind, count: usize) {
        self.objects.get_or_create(&KindOnly { kind: kind.as_str() }).set(number(count));
    }

    /// What became of a server's client at Keycloak; one of a fixed set of words.
    pub(crate) fn registration(&self, outcome: &'static str) {
        self.registrations.get_or_create(&Outcome { outcome }).inc();
    }

    /// What became of an event.
    pub(crate) fn event(&self, result: &'static str) {
        self.events.get_or_create(&EventResult { result }).inc();
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A kind comes out of a manifest, so it could be anything.
fn known(kind: &str) -> &'static str {
    Resource::all().map(Resource::as_str).find(|known| *known == kind).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_counted_under_bounded_labels() {
        let registry = Metrics::new();
        let metrics = OperatorMetrics::register(&registry);
        metrics.reconciled(Kind::MCPServer, Duration::from_millis(3), "ok");
        metrics.reconciled(Kind::MCPServer, Duration::from_millis(3), "conflict");
        metrics.queue(7, 2);
        metrics.applied("Deployment", "created");
        metrics.applied("Made-up kind 1", "created");
        metrics.applied("Made-up kind 2", "created");
        metrics.leading(true);
        metrics.anonymous(Kind::MCPRemoteProxy, 4);
        let text = registry.encode();
        let mut samples: Vec<&str> =
            text.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{")).collect();
        samples.sort_unstable();
        insta::assert_snapshot!(samples.join("\n"));
    }
}

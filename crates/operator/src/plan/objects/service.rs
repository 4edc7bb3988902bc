//! Services and disruption budgets of proxies.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use skep_api::crd::pod::{ResourceOverrides, SessionAffinity};

use super::metadata::{Owner, merged};

/// The Service in front of a proxy.
pub(super) fn proxy(
    owner: &Owner<'_>,
    name: &str,
    labels: &BTreeMap<String, String>,
    port: u16,
    affinity: SessionAffinity,
    overrides: &ResourceOverrides,
) -> Value {
    let service = overrides.proxy_service.as_ref();
    let all_labels = merged(labels, service.and_then(|service| service.labels.as_ref()));
    let annotations = merged(&BTreeMap::new(), service.and_then(|service| service.annotations.as_ref()));
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owner.metadata(name, &all_labels, &annotations),
        "spec": {
            "type": "ClusterIP",
            "selector": labels,
            "sessionAffinity": affinity.as_str(),
            "ports": [{"name": "http", "port": port, "targetPort": port, "protocol": "TCP"}],
        },
    })
}

/// Keeps all but one proxy pod running while nodes are drained.
pub(super) fn disruption_budget(owner: &Owner<'_>, labels: &BTreeMap<String, String>) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": owner.metadata(owner.name, labels, &BTreeMap::new()),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}},
    })
}

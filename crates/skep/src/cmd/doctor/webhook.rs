//! Whether the admission webhook can be called: its configurations, its Service and its CA, and then an object
//! that takes the whole way.

mod bundle;
mod configuration;
mod trial;

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use self::configuration::{Configuration, MUTATING, Service};
use super::cluster::{Cluster, Refusal, text};
use super::crds::Readable;
use super::finding::Findings;

const CHECK: &str = "webhook";

/// Looks at every webhook configuration for our kinds, and tries them. `ahead`: how far the API server's clock is
/// ahead of ours.
pub(super) async fn check(
    cluster: &Cluster,
    kinds: &[Readable],
    namespace: Option<&str>,
    ahead: SignedDuration,
    findings: &mut Findings,
) {
    let configurations = match configurations(cluster).await {
        Ok(configurations) => configurations,
        Err(refusal) => {
            findings.skip(
                CHECK,
                format!("its configurations can't be read: {refusal}"),
                "Ask somebody who may list mutatingwebhookconfigurations and validatingwebhookconfigurations.",
            );
            Vec::new()
        }
    };
    if configurations.is_empty() {
        // Whoever may not list them may still try an object; there is nothing to try where there are none.
        if !findings.has(CHECK) {
            findings
                .ok(CHECK, "not installed: no webhook configuration is for kinds of toolhive.stacklok.dev");
            return;
        }
    } else {
        let services: BTreeSet<Service> = configurations.iter().flat_map(Configuration::services).collect();
        for service in &services {
            reachable(cluster, service, findings).await;
        }
        let now = cluster.now().checked_add(ahead).unwrap_or(Timestamp::MAX);
        for configuration in &configurations {
            judge(cluster, configuration, now, findings).await;
        }
    }
    trial::check(cluster, kinds, namespace, &configurations, findings).await;
}

async fn configurations(cluster: &Cluster) -> Result<Vec<Configuration>, Refusal> {
    let mut found = Vec::new();
    for (kind, plural) in [
        (MUTATING, "mutatingwebhookconfigurations"),
        ("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
    ] {
        let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}");
        let listed = cluster.list(&path, "").await?;
        found.extend(listed.iter().filter_map(|object| Configuration::read(kind, object)));
    }
    Ok(found)
}

/// The Service is there, has the port, and a pod behind it is ready.
async fn reachable(cluster: &Cluster, service: &Service, findings: &mut Findings) {
    let Service { namespace, name, port } = service;
    let described = format!("the Service {namespace}/{name}");
    let base = format!("/api/v1/namespaces/{namespace}");
    let object = match cluster.get(&format!("{base}/services/{name}")).await {
        Ok(object) => object,
        Err(Refusal::Missing) => {
            findings.fail(
                CHECK,
                format!("the API server is to call {described}, and there is none"),
                "Install the chart skep-webhook again, or remove what is left of it: kubectl get mutatingwebhookconfigurations,validatingwebhookconfigurations",
            );
            return;
        }
        Err(refusal) => {
            findings.skip(CHECK, format!("{described} can't be read: {refusal}"), "");
            return;
        }
    };
    let ports = object.pointer("/spec/ports").and_then(Value::as_array);
    if !ports.into_iter().flatten().any(|one| one.get("port").and_then(Value::as_u64) == Some(*port)) {
        findings.fail(
            CHECK,
            format!("{described} has no port {port}, which the API server is to call"),
            "Install the chart skep-webhook again.",
        );
        return;
    }
    match cluster.get(&format!("{base}/endpoints/{name}")).await {
        Ok(endpoints) if ready(&endpoints) > 0 => {
            findings.ok(CHECK, format!("{described} has {} ready pods", ready(&endpoints)));
        }
        Ok(_) | Err(Refusal::Missing) => findings.fail(
            CHECK,
            format!("no pod of {described} is ready: the webhook is down"),
            look(&object, namespace),
        ),
        Err(refusal) => {
            findings.skip(CHECK, format!("the endpoints of {described} can't be read: {refusal}"), "");
        }
    }
}

/// Addresses of pods that are ready.
fn ready(endpoints: &Value) -> usize {
    let subsets = endpoints.get("subsets").and_then(Value::as_array);
    let addresses = subsets.into_iter().flatten().filter_map(|subset| subset.get("addresses")?.as_array());
    addresses.map(Vec::len).sum()
}

/// How to look at the pods that a Service selects.
fn look(service: &Value, namespace: &str) -> String {
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    let selected: Vec<String> = selector
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| {
            Some(format!("{}={}", super::finding::shown(key), super::finding::shown(value.as_str()?)))
        })
        .collect();
    format!("Look at them: kubectl -n {namespace} describe pod -l {}", selected.join(","))
}

/// What is written in one configuration.
async fn judge(cluster: &Cluster, configuration: &Configuration, now: Timestamp, findings: &mut Findings) {
    let described = configuration.described();
    let mut well = true;
    let ca = match configuration.bundle(now) {
        Ok(ca) => ca,
        Err(problem) => {
            well = false;
            findings.fail(CHECK, format!("{described}: {problem}"), configuration.refill());
            None
        }
    };
    if configuration.lets_through() {
        well = false;
        findings.warn(
            CHECK,
            format!("{described} lets objects through unchecked while the webhook can't be reached"),
            "Set failurePolicy to Fail (value webhook.failurePolicy of the chart).",
        );
    }
    for service in configuration.services() {
        let path = format!("/api/v1/namespaces/{}", service.namespace);
        // Whoever may not read it is told nothing of it.
        let Ok(namespace) = cluster.get(&path).await else { continue };
        if configuration.takes_in(&service.namespace, namespace.pointer("/metadata/labels")) {
            well = false;
            findings.warn(
                CHECK,
                format!(
                    "{described} is also for the webhook's own namespace {}: while it is down nothing there can be put right",
                    service.namespace
                ),
                "Leave it out by a namespaceSelector on kubernetes.io/metadata.name, as the chart does.",
            );
        }
    }
    if let Some(ca) = ca.filter(|_| well) {
        if ca.soon {
            findings.warn(
                CHECK,
                format!("{described}: its CA is valid until {} only", ca.until),
                configuration.refill(),
            );
        } else {
            findings.ok(CHECK, format!("{described} is complete; its CA is valid until {}", ca.until));
        }
    } else if well {
        findings.ok(CHECK, format!("{described} is complete"));
    }
}

/// The name of an object.
fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

//! A webhook configuration, as far as it is for our kinds.

use jiff::Timestamp;
use serde_json::Value;
use skep_api::crd::Kind;

use super::super::cluster::text;
use super::super::finding::shown;
use super::bundle::{Ca, Unusable, read};
use super::name;

/// What a controller of cert-manager fills the caBundle by.
const INJECT: &str = "/metadata/annotations/cert-manager.io~1inject-ca-from";
/// The label that every namespace has since Kubernetes 1.21.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// The kind of configurations whose webhooks change objects.
pub(super) const MUTATING: &str = "MutatingWebhookConfiguration";

/// A Service that the API server calls.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: u64,
}

/// A MutatingWebhookConfiguration or ValidatingWebhookConfiguration with webhooks for our kinds.
#[derive(Debug, Clone)]
pub(super) struct Configuration {
    kind: &'static str,
    object: Value,
    /// Those of its webhooks that are for our kinds.
    webhooks: Vec<Value>,
}

impl Configuration {
    /// Reads one. `None` when none of its webhooks is for our kinds.
    pub(super) fn read(kind: &'static str, object: &Value) -> Option<Self> {
        let webhooks = object.get("webhooks").and_then(Value::as_array);
        let webhooks: Vec<Value> =
            webhooks.into_iter().flatten().filter(|one| is_ours(one)).cloned().collect();
        (!webhooks.is_empty()).then(|| Self { kind, object: object.clone(), webhooks })
    }

    /// As a line names it.
    pub(super) fn described(&self) -> String {
        format!("{} {}", self.kind, shown(name(&self.object)))
    }

    /// Services that the API server calls.
    pub(super) fn services(&self) -> Vec<Service> {
        let mut services: Vec<Service> = self
            .webhooks
            .iter()
            .filter_map(|webhook| webhook.pointer("/clientConfig/service"))
            .map(|service| Service {
                namespace: text(service, "/namespace").to_owned(),
                name: text(service, "/name").to_owned(),
                port: service.get("port").and_then(Value::as_u64).unwrap_or(443),
            })
            .collect();
        services.sort();
        services.dedup();
        services
    }

    /// The CA that the API server trusts; the worst of all webhooks. `None` where it trusts those of its machine.
    ///
    /// # Errors
    /// When a webhook's caBundle is of no use.
    pub(super) fn bundle(&self, now: Timestamp) -> Result<Option<Ca>, Unusable> {
        let mut worst: Option<Ca> = None;
        for webhook in &self.webhooks {
            let bundle = text(webhook, "/clientConfig/caBundle");
            if bundle.is_empty() && webhook.pointer("/clientConfig/url").is_some() {
                continue;
            }
            let ca = read(bundle, now)?;
            if worst.as_ref().is_none_or(|worst| ca.until < worst.until) {
                worst = Some(ca);
            }
        }
        Ok(worst)
    }

    /// What to do about a CA that is of no use.
    pub(super) fn refill(&self) -> String {
        match text(&self.object, INJECT).split_once('/') {
            Some((namespace, certificate)) => format!(
                "cert-manager fills it in: is it installed, with its cainjector? Look at its certificate: kubectl -n {} describe certificate {}",
                shown(namespace),
                shown(certificate)
            ),
            None => match self.services().first() {
                Some(service) => format!(
                    "The webhook fills it in (--self-signed). Look at its log: kubectl -n {} logs -l app.kubernetes.io/name=skep-webhook",
                    service.namespace
                ),
                None => "Put the webhook's CA into clientConfig.caBundle.".to_owned(),
            },
        }
    }

    /// A webhook that can't be reached lets objects through.
    pub(super) fn lets_through(&self) -> bool {
        self.webhooks.iter().any(is_passed_over)
    }

    /// It changes objects, where others only judge them.
    pub(super) fn mutates(&self) -> bool {
        self.kind == MUTATING
    }

    /// Those of its webhooks that are for MCPServers of a namespace with these labels.
    fn for_servers<'a>(
        &'a self,
        namespace: &'a str,
        labels: Option<&'a Value>,
    ) -> impl Iterator<Item = &'a Value> {
        self.webhooks.iter().filter(move |one| {
            path(one).to_ascii_lowercase().ends_with("-mcpserver") && selects(one, namespace, labels)
        })
    }

    /// It changes MCPServers of a namespace with these labels.
    pub(super) fn mutates_servers(&self, namespace: &str, labels: Option<&Value>) -> bool {
        self.mutates() && self.for_servers(namespace, labels).next().is_some()
    }

    /// An MCPServer of a namespace with these labels is let in although its webhook was not asked.
    pub(super) fn lets_servers_through(&self, namespace: &str, labels: Option<&Value>) -> bool {
        self.for_servers(namespace, labels).any(is_passed_over)
    }

    /// A webhook is called for objects of a namespace with these labels.
    pub(super) fn takes_in(&self, namespace: &str, labels: Option<&Value>) -> bool {
        self.webhooks.iter().any(|webhook| selects(webhook, namespace, labels))
    }

    /// The names of its webhooks.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.webhooks.iter().map(|webhook| text(webhook, "/name"))
    }
}

/// The API server goes on without it when it can't be called.
fn is_passed_over(webhook: &Value) -> bool {
    text(webhook, "/failurePolicy") == "Ignore"
}

/// The last part of the path at which it is called.
fn path(webhook: &Value) -> &str {
    let service = text(webhook, "/clientConfig/service/path");
    let url = text(webhook, "/clientConfig/url");
    let path = if service.is_empty() { url } else { service };
    let path = path.rsplit('/').next().unwrap_or_default();
    path.split('?').next().unwrap_or_default()
}

/// By the path, which says the kind, or by the name.
fn is_ours(webhook: &Value) -> bool {
    let path = path(webhook);
    let for_our_kind = ["mutate-toolhive-stacklok-dev-", "validate-toolhive-stacklok-dev-"]
        .iter()
        .filter_map(|start| path.strip_prefix(start))
        .filter_map(|rest| rest.split_once('-'))
        .any(|(_, kind)| Kind::ALL.iter().any(|known| known.as_str().eq_ignore_ascii_case(kind)));
    for_our_kind || text(webhook, "/name") == "mpod.toolhive.stacklok.dev"
}

/// Whether a webhook's namespaceSelector takes a namespace in (Kubernetes' label selectors: everything that it
/// says has to hold).
fn selects(webhook: &Value, namespace: &str, labels: Option<&Value>) -> bool {
    let value = |key: &str| match labels.and_then(|labels| labels.get(key)).and_then(Value::as_str) {
        // Older clusters don't set it; what is meant is clear all the same.
        None if key == NAMESPACE_LABEL => Some(namespace),
        value => value,
    };
    let selector = webhook.get("namespaceSelector").unwrap_or(&Value::Null);
    let wanted = selector.get("matchLabels").and_then(Value::as_object);
    if !wanted.into_iter().flatten().all(|(key, wanted)| value(key) == wanted.as_str()) {
        return false;
    }
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    expressions.into_iter().flatten().all(|expression| {
        let found = value(text(expression, "/key"));
        let values = expression.get("values").and_then(Value::as_array);
        let named = values.into_iter().flatten().any(|one| one.as_str().is_some() && one.as_str() == found);
        match text(expression, "/operator") {
            "In" => named,
            "NotIn" => !named,
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            _ => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn webhooks_for_our_kinds_are_known_by_their_path() {
        for (name, path, expected) in [
            ("mmcpserver.toolhive.stacklok.dev", "/mutate-toolhive-stacklok-dev-v1beta1-mcpserver", true),
            ("vmcpserver-v1alpha1.kb.io", "/validate-toolhive-stacklok-dev-v1alpha1-mcpserver", true),
            ("v.kb.io", "/validate-toolhive-stacklok-dev-v1alpha1-mcpexternalauthconfig", true),
            ("v.kb.io", "/validate-toolhive-stacklok-dev-v1alpha1-virtualmcpserver", false),
            ("mpod.toolhive.stacklok.dev", "/mutate--v1-pod", true),
            ("other.example.com", "/mutate--v1-pod", false),
        ] {
            let by_service = json!({"name": name, "clientConfig": {"service": {"path": path}}});
            let by_url =
                json!({"name": name, "clientConfig": {"url": format!("https://x:1{path}?timeout=1s")}});
            assert_eq!((is_ours(&by_service), is_ours(&by_url)), (expected, expected), "{path}");
        }
    }

    #[test]
    fn what_a_configuration_does_to_mcpservers_depends_on_kind_path_and_namespace() {
        let webhook = |kind: &str, more: Value| {
            let mut webhook = json!({"name": "w", "clientConfig": {"service":
                {"namespace": "n", "name": "s", "path": format!("/mutate-toolhive-stacklok-dev-v1beta1-{kind}")}}});
            for (key, value) in more.as_object().unwrap() {
                webhook[key] = value.clone();
            }
            webhook
        };
        let read = |kind, webhooks: Value| {
            Configuration::read(kind, &json!({"metadata": {"name": "c"}, "webhooks": webhooks})).unwrap()
        };
        let elsewhere =
            json!({"namespaceSelector": {"matchLabels": {"team": "b"}}, "failurePolicy": "Ignore"});
        let labels = json!({"team": "a"});
        for (kind, webhooks, mutates, passed_over) in [
            (MUTATING, json!([webhook("mcpserver", json!({}))]), true, false),
            (MUTATING, json!([webhook("mcpserver", json!({"failurePolicy": "Ignore"}))]), true, true),
            (MUTATING, json!([webhook("mcpgroup", json!({"failurePolicy": "Ignore"}))]), false, false),
            (MUTATING, json!([webhook("mcpserver", elsewhere)]), false, false),
            ("ValidatingWebhookConfiguration", json!([webhook("mcpserver", json!({}))]), false, false),
        ] {
            let read = read(kind, webhooks.clone());
            let found =
                (read.mutates_servers("a", Some(&labels)), read.lets_servers_through("a", Some(&labels)));
            assert_eq!(found, (mutates, passed_over), "{kind} {webhooks}");
        }
    }

    #[test]
    fn a_namespace_is_selected_as_kubernetes_does_it() {
        let not_own = json!({"key": NAMESPACE_LABEL, "operator": "NotIn", "values": ["own"]});
        for (selector, namespace, labels, expected) in [
            (Value::Null, "a", json!({}), true),
            (json!({"matchExpressions": [not_own]}), "own", json!({}), false),
            (json!({"matchExpressions": [not_own]}), "a", json!({}), true),
            (json!({"matchLabels": {"x": "1"}}), "a", json!({"x": "1"}), true),
            (json!({"matchLabels": {"x": "1"}}), "a", json!({"x": "2"}), false),
            (
                json!({"matchLabels": {"x": "1"}, "matchExpressions": [not_own]}),
                "own",
                json!({"x": "1"}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "x", "operator": "In", "values": ["1"]}]}),
                "a",
                json!({}),
                false,
            ),
            (json!({"matchExpressions": [{"key": "x", "operator": "Exists"}]}), "a", json!({"x": ""}), true),
            (
                json!({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}),
                "a",
                json!({"x": ""}),
                false,
            ),
        ] {
            let webhook = json!({"namespaceSelector": selector});
            assert_eq!(selects(&webhook, namespace, Some(&labels)), expected, "{selector} {namespace}");
        }
    }
}

//! The rights that the operator needs: those of its own calls, and those that the Roles it makes grant, since
//! nobody may grant what he has not.
//!
//! `deploy/kustomize` holds the same rules; tests compare them, compare what is granted here with the Roles of
//! every plan, and run the operator with nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use skep_api::crd::{GROUP, Kind};

use crate::settings::LEASE_NAME;

/// A verb on a resource, as RBAC knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Right {
    /// API group; empty for the core group.
    pub group: String,
    /// Resource, with its subresource if it is one: `pods/attach`.
    pub resource: String,
    /// Verb.
    pub verb: String,
}

/// How much of a cluster the operator looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of it: a ClusterRole.
    Cluster,
    /// Some namespaces (`WATCH_NAMESPACE`): a Role in each.
    Namespaces,
}

/// Rights as a table shows them: group, resources, verbs, all but the first separated by spaces.
type Row = (&'static str, &'static str, &'static str);

/// What `apply` does with what plans hold, and `cluster::feed` watches. A server-side apply that makes an object
/// needs `create` besides `patch`.
const MADE: [Row; 7] = [
    ("", "configmaps serviceaccounts services", "create delete get list patch watch"),
    // Never deleted: what they belong to is, and they with it.
    ("apps", "deployments", "create get list patch watch"),
    // Deleted only where ToolHive's proxy made it, without an owner.
    ("apps", "statefulsets", "create delete get list patch watch"),
    ("monitoring.coreos.com", "servicemonitors", "create delete get list patch watch"),
    ("networking.k8s.io", "networkpolicies", "create delete get list patch watch"),
    ("policy", "poddisruptionbudgets", "create delete get list patch watch"),
    ("rbac.authorization.k8s.io", "rolebindings roles", "create delete get list patch watch"),
];

/// What `cluster::feed`, `cluster::lookups`, `controllers::restart`, `controllers::deletion` and `events` do
/// besides.
const OWN: [Row; 4] = [
    // Their metadata, and of those that are referred to the keys.
    ("", "secrets", "get list watch"),
    // Deleted for a restart that is asked for by an annotation.
    ("", "pods", "delete list watch"),
    ("events.k8s.io", "events", "create patch"),
    // Another operator's kind that may refer to our configs.
    (GROUP, "virtualmcpservers", "list"),
];

/// What `controllers::registration` does: it writes the Secrets with the clients' credentials, and removes those
/// that are no longer wanted. Only where the operator registers clients.
const REGISTRATION: [Row; 1] = [("", "secrets", "create delete patch")];

/// Rights that only have to be held to be granted: to proxies, on their own backend (`plan::objects::rbac`).
const GRANTED: [Row; 2] = [("", "pods", "get"), ("", "pods/attach", "create get")];

/// What only exists for the whole cluster.
const CLUSTER: [Row; 3] = [
    // For their labels.
    ("", "namespaces", "list watch"),
    // `migrator`.
    ("apiextensions.k8s.io", "customresourcedefinitions", "get list"),
    ("apiextensions.k8s.io", "customresourcedefinitions/status", "update"),
];

/// The label of one namespace.
const NAMESPACES: [Row; 1] = [("", "namespaces", "get")];

/// All rights, the election's aside.
pub fn rights(scope: Scope) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    let of_scope: &[Row] = match scope {
        Scope::Cluster => &CLUSTER,
        Scope::Namespaces => &NAMESPACES,
    };
    for (group, resources, verbs) in MADE.iter().chain(&OWN).chain(&GRANTED).chain(of_scope) {
        add(&mut rights, group, resources, verbs);
    }
    for kind in Kind::ALL {
        let plural = kind.plural();
        add(&mut rights, GROUP, plural, "list watch");
        add(&mut rights, GROUP, &format!("{plural}/status"), "patch");
        // Finalizers; and on a server the note that a restart was carried out.
        if kind.finalizer().is_some() || kind == Kind::MCPServer {
            add(&mut rights, GROUP, plural, "patch");
        }
        // Owner references that block the deletion of the owner; some clusters check who may set them.
        if kind.is_workload() {
            add(&mut rights, GROUP, &format!("{plural}/finalizers"), "update");
        }
        // `migrator`, where there is more than one version.
        if scope == Scope::Cluster && kind.versions().len() > 1 {
            add(&mut rights, GROUP, plural, "get update");
        }
    }
    rights
}

/// The rights that registering clients takes besides [`rights`]. `create` can't be limited to names, and the
/// names follow from those of MCPServers.
pub fn registration_rights() -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for (group, resources, verbs) in REGISTRATION {
        add(&mut rights, group, resources, verbs);
    }
    rights
}

/// The rules of the ClusterRole or Role that registering clients takes besides [`rules`].
pub fn registration_rules() -> Vec<Value> {
    grouped(registration_rights())
}

/// What the webhook does: it watches and asks for what objects refer to, and asks what a user may do.
const WEBHOOK: [Row; 3] = [
    // Their metadata, and of those that are referred to the keys of a Secret and the text of a ConfigMap.
    ("", "configmaps secrets", "get list watch"),
    // Labels and annotations; a new one is asked for before the watch has told of it.
    ("", "namespaces", "get list watch"),
    ("authorization.k8s.io", "subjectaccessreviews", "create"),
];

/// All rights of the webhook in the whole cluster; for a certificate of its own see
/// [`webhook_configuration_rules`], for metrics [`metrics_guard_rules`].
pub fn webhook_rights() -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for (group, resources, verbs) in WEBHOOK {
        add(&mut rights, group, resources, verbs);
    }
    // Nothing refers to an entry.
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::MCPServerEntry) {
        add(&mut rights, GROUP, kind.plural(), "get list watch");
    }
    rights
}

/// The rules of the webhook's ClusterRole.
pub fn webhook_rules() -> Vec<Value> {
    grouped(webhook_rights())
}

/// Rights in the operator's own namespace, for the election. They are for one Lease, but `create` can't be
/// limited to a name.
pub fn election_rules() -> Vec<Value> {
    let rule = |verbs: &[&str], named: bool| {
        let mut rule = json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs});
        if let (true, Some(rule)) = (named, rule.as_object_mut()) {
            rule.insert("resourceNames".to_owned(), json!([LEASE_NAME]));
        }
        rule
    };
    vec![rule(&["create"], false), rule(&["get", "update"], true)]
}

/// Rights in the webhook's own namespace with `--self-signed`: one Secret, and the Lease of the same name that
/// decides who writes it. `create` can't be limited to a name.
pub fn webhook_own_rules(secret: &str, lease: &str) -> Vec<Value> {
    let rule = |group: &str, resource: &str, verbs: &[&str], name: Option<&str>| {
        let mut rule = json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
        if let (Some(name), Some(rule)) = (name, rule.as_object_mut()) {
            rule.insert("resourceNames".to_owned(), json!([name]));
        }
        rule
    };
    vec![
        rule("", "secrets", &["create"], None),
        rule("", "secrets", &["get", "list", "patch", "watch"], Some(secret)),
        rule("coordination.k8s.io", "leases", &["create"], None),
        rule("coordination.k8s.io", "leases", &["get", "update"], Some(lease)),
    ]
}

/// Rights for the whole cluster that `--self-signed` needs besides: `caBundle` of the two configurations that
/// are named.
pub fn webhook_configuration_rules(mutating: &str, validating: &str) -> Vec<Value> {
    let kinds =
        [("mutatingwebhookconfigurations", mutating), ("validatingwebhookconfigurations", validating)];
    kinds
        .into_iter()
        .map(|(resource, name)| {
            json!({
                "apiGroups": ["admissionregistration.k8s.io"],
                "resources": [resource],
                "resourceNames": [name],
                "verbs": ["get", "list", "patch", "watch"],
            })
        })
        .collect()
}

/// Rights for the whole cluster that `--metrics-secure` needs: who sends a token, and what he may do.
pub fn metrics_guard_rules() -> Vec<Value> {
    vec![
        json!({"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}),
        json!({"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]}),
    ]
}

/// The rules of the ClusterRole or Role: rights of one group with the same verbs in one rule.
pub fn rules(scope: Scope) -> Vec<Value> {
    grouped(rights(scope))
}

fn grouped(rights: BTreeSet<Right>) -> Vec<Value> {
    let mut verbs: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for right in rights {
        verbs.entry((right.group, right.resource)).or_default().insert(right.verb);
    }
    let mut grouped: BTreeMap<(String, BTreeSet<String>), BTreeSet<String>> = BTreeMap::new();
    for ((group, resource), verbs) in verbs {
        grouped.entry((group, verbs)).or_default().insert(resource);
    }
    let mut rules: Vec<_> = grouped.into_iter().collect();
    rules.sort_by(|((a, _), first), ((b, _), second)| (a, first).cmp(&(b, second)));
    rules
        .into_iter()
        .map(|((group, verbs), resources)| {
            json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
        })
        .collect()
}

/// The rights that a rule of a Role or ClusterRole grants, whatever names it is limited to.
pub fn granted(rule: &Value) -> BTreeSet<Right> {
    let texts = |field: &str| -> Vec<String> {
        let list = rule.get(field).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let mut rights = BTreeSet::new();
    for group in texts("apiGroups") {
        for resource in texts("resources") {
            for verb in texts("verbs") {
                rights.insert(Right { group: group.clone(), resource: resource.clone(), verb });
            }
        }
    }
    rights
}

/// The rights that are held only because the Roles of plans grant them.
pub fn granted_only() -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for (group, resources, verbs) in GRANTED {
        add(&mut rights, group, resources, verbs);
    }
    rights
}

fn add(rights: &mut BTreeSet<Right>, group: &str, resources: &str, verbs: &str) {
    for resource in resources.split(' ') {
        for verb in verbs.split(' ') {
            rights.insert(Right {
                group: group.to_owned(),
                resource: resource.to_owned(),
                verb: verb.to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_grant_the_rights_and_nothing_else() {
        for scope in [Scope::Cluster, Scope::Namespaces] {
            let of_rules: BTreeSet<Right> = rules(scope).iter().flat_map(granted).collect();
            assert_eq!(of_rules, rights(scope));
        }
    }

    #[test]
    fn the_webhook_only_reads_and_asks() {
        let of_rules: BTreeSet<Right> = webhook_rules().iter().flat_map(granted).collect();
        assert_eq!(of_rules, webhook_rights());
        for right in webhook_rights() {
            let asks = right.resource == "subjectaccessreviews" && right.verb == "create";
            assert!(asks || ["get", "list", "watch"].contains(&right.verb.as_str()), "{right:?}");
        }
    }

    #[test]
    fn no_right_is_a_wildcard_or_lets_one_take_more() {
        for right in rights(Scope::Cluster).union(&rights(Scope::Namespaces)) {
            let text = format!("{} {} {}", right.group, right.resource, right.verb);
            assert!(!text.contains('*'), "{text}");
            assert!(!["escalate", "bind", "impersonate"].contains(&right.verb.as_str()), "{text}");
        }
        assert!(
            !rights(Scope::Cluster).iter().any(|right| right.resource == "secrets"
                && !["get", "list", "watch"].contains(&right.verb.as_str()))
        );
    }
}

//! ServiceAccounts, Roles and RoleBindings, with the least rights that do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use skep_api::crd::server::Server;
use skep_api::names;
use skep_api::runconfig::Transport;

use super::super::authz::Authorization;
use super::super::{KeySource, Workload};
use super::metadata::Owner;

/// A ServiceAccount. Without pull secrets of ours it says nothing about them, so that what a platform
/// adds stays.
pub(super) fn account(
    owner: &Owner<'_>,
    name: &str,
    labels: &BTreeMap<String, String>,
    pull: &[Value],
) -> Value {
    let mut account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": owner.metadata(name, labels, &BTreeMap::new()),
    });
    if let (false, Some(map)) = (pull.is_empty(), account.as_object_mut()) {
        map.insert("imagePullSecrets".to_owned(), pull.into());
    }
    account
}

/// ServiceAccount, Role and RoleBinding of a remote proxy: it may read exactly what it refers to.
pub(super) fn reader(
    owner: &Owner<'_>,
    name: &str,
    labels: &BTreeMap<String, String>,
    pull: &[Value],
    workload: &Workload,
    authorization: Option<&Authorization>,
) -> Vec<Value> {
    let (config_maps, secrets) = referred(owner, workload, authorization);
    let mut rules = vec![get("", "configmaps", &config_maps)];
    if !secrets.is_empty() {
        rules.push(get("", "secrets", &secrets));
    }
    bound(owner, name, labels, pull, rules)
}

/// ServiceAccount, Role and RoleBinding of an MCP server's proxy: it may see its own backend, and
/// attach to its pods when that is how it is spoken to.
pub(super) fn server_proxy(
    owner: &Owner<'_>,
    name: &str,
    labels: &BTreeMap<String, String>,
    pull: &[Value],
    workload: &Workload,
    authorization: Option<&Authorization>,
    spec: &Server,
) -> Vec<Value> {
    let (config_maps, _) = referred(owner, workload, authorization);
    let own = BTreeSet::from([owner.name.to_owned()]);
    let mut rules = vec![get("", "configmaps", &config_maps), get("apps", "statefulsets", &own)];
    if spec.transport == Transport::Stdio {
        let pods: Vec<String> = (0..spec.backend_replicas.unwrap_or(1).max(1))
            .map(|index| format!("{}-{index}", owner.name))
            .collect();
        rules
            .push(json!({"apiGroups": [""], "resources": ["pods"], "resourceNames": pods, "verbs": ["get"]}));
        rules.push(json!({"apiGroups": [""], "resources": ["pods/attach"], "resourceNames": pods, "verbs": ["create", "get"]}));
    }
    bound(owner, name, labels, pull, rules)
}

fn bound(
    owner: &Owner<'_>,
    name: &str,
    labels: &BTreeMap<String, String>,
    pull: &[Value],
    rules: Vec<Value>,
) -> Vec<Value> {
    let none = BTreeMap::new();
    vec![
        account(owner, name, labels, pull),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": owner.metadata(name, labels, &none),
            "rules": rules,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": owner.metadata(name, labels, &none),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": owner.namespace}],
        }),
    ]
}

fn get(group: &str, resource: &str, names: &BTreeSet<String>) -> Value {
    json!({"apiGroups": [group], "resources": [resource], "resourceNames": names, "verbs": ["get"]})
}

fn referred(
    owner: &Owner<'_>,
    workload: &Workload,
    authorization: Option<&Authorization>,
) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut config_maps = BTreeSet::from([names::runconfig(owner.name)]);
    let mut secrets: BTreeSet<String> = workload.env.iter().map(|source| source.secret.clone()).collect();
    if let Some((name, _)) = authorization.and_then(|authorization| authorization.config_map.as_ref()) {
        config_maps.insert(name.clone());
    }
    for file in &workload.files {
        match &file.source {
            KeySource::ConfigMap { name, .. } => _ = config_maps.insert(name.clone()),
            KeySource::Secret { name, .. } => _ = secrets.insert(name.clone()),
            // Kubelet asks for it; the pod needs no right.
            KeySource::ServiceAccountToken { .. } => {}
        }
    }
    (config_maps, secrets)
}

//! The MCP server's own StatefulSet and Services.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use skep_api::crd::server::Server;
use skep_api::names;
use skep_api::runconfig::Transport;

use super::super::Workload;
use super::super::server::container_labels;
use super::super::template::strategic_merge;
use super::metadata::Owner;
use super::security;

/// StatefulSet and Services of the backend.
pub(super) fn objects(owner: &Owner<'_>, spec: &Server, workload: &Workload, openshift: bool) -> Vec<Value> {
    let name = owner.name;
    let mut labels = container_labels(name, spec);
    labels.insert("app".to_owned(), name.to_owned());
    let selector =
        BTreeMap::from([("app".to_owned(), name.to_owned()), ("toolhive".to_owned(), "true".to_owned())]);
    let mut made = Vec::new();
    if spec.transport != Transport::Stdio {
        let port = spec.mcp_port;
        let ports =
            json!([{"name": format!("port-{port}"), "port": port, "targetPort": port, "protocol": "TCP"}]);
        let none = BTreeMap::new();
        // `serviceName` of the StatefulSet is NAME, so pods get their DNS names from a Service of that name.
        for headless in [names::backend_headless_service(name), name.to_owned()] {
            made.push(json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": owner.metadata(&headless, &labels, &none),
                "spec": {"clusterIP": "None", "selector": selector, "ports": ports},
            }));
        }
        made.push(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": owner.metadata(&names::backend_service(name), &labels, &none),
            "spec": {
                "type": "ClusterIP",
                "selector": selector,
                "ports": ports,
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1800}},
            },
        }));
    }
    let mut stateful = Map::new();
    if let Some(replicas) = spec.backend_replicas {
        stateful.insert("replicas".to_owned(), replicas.into());
    }
    stateful.insert("serviceName".to_owned(), name.into());
    stateful.insert("selector".to_owned(), json!({"matchLabels": {"app": name}}));
    stateful.insert("template".to_owned(), template(owner, spec, workload, openshift, &labels));
    made.push(json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": owner.metadata(name, &labels, &BTreeMap::new()),
        "spec": stateful,
    }));
    made
}

/// Platform defaults, then the manifest's template over them, then what the MCP server has to have.
fn template(
    owner: &Owner<'_>,
    spec: &Server,
    workload: &Workload,
    openshift: bool,
    labels: &BTreeMap<String, String>,
) -> Value {
    let mut container = security::container(openshift);
    container.insert("privileged".to_owned(), false.into());
    let account = spec.service_account.clone().unwrap_or_else(|| names::backend_account(owner.name));
    let mut template = json!({
        "metadata": {},
        "spec": {
            "serviceAccountName": account,
            "restartPolicy": "Always",
            "securityContext": security::pod(openshift),
            "containers": [{"name": names::BACKEND_CONTAINER, "securityContext": container}],
        },
    });
    if let Some(patch) = &spec.pod_template {
        strategic_merge(&mut template, patch);
    }
    let mut own = Map::new();
    own.insert("name".to_owned(), names::BACKEND_CONTAINER.into());
    own.insert("image".to_owned(), spec.image.clone().into());
    if !spec.args.is_empty() {
        own.insert("args".to_owned(), json!(spec.args));
    }
    if spec.transport == Transport::Stdio {
        own.insert("stdin".to_owned(), true.into());
    } else {
        own.insert("ports".to_owned(), json!([{"containerPort": spec.mcp_port, "protocol": "TCP"}]));
    }
    own.insert("env".to_owned(), env(spec, workload).into());
    strategic_merge(&mut template, &json!({"metadata": {"labels": labels}, "spec": {"containers": [own]}}));
    template
}

fn env(spec: &Server, workload: &Workload) -> Vec<Value> {
    let mut env: Vec<Value> = spec
        .secrets
        .iter()
        .map(|secret| {
            json!({"name": secret.variable, "valueFrom": {"secretKeyRef": {"name": secret.secret, "key": secret.key}}})
        })
        .collect();
    let mut plain = workload.run_config.env_vars.clone();
    if spec.transport != Transport::Stdio {
        plain.entry("MCP_HOST".to_owned()).or_insert_with(|| "0.0.0.0".to_owned());
    }
    env.extend(plain.into_iter().map(|(name, value)| json!({"name": name, "value": value})));
    env
}

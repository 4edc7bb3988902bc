//! What the rows of `toolhive_rows` are made of: objects as a user would write them, and short ways to look.

use serde_json::{Value, json};
use skep_api::crd::Kind;

use crate::harness::Cluster;

/// An object of ours in the cluster's namespace.
pub(crate) fn ours(cluster: &Cluster, kind: &str, name: &str, spec: Value) -> Value {
    let version = kind.parse::<Kind>().unwrap().stored().api_version();
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": cluster.namespace}, "spec": spec})
}

/// A server that lets everybody in.
pub(crate) fn server(cluster: &Cluster, name: &str) -> Value {
    let spec = json!({"image": "example/server:1", "transport": "streamable-http", "authMode": "anonymous"});
    ours(cluster, "MCPServer", name, spec)
}

/// A remote proxy that lets everybody in.
pub(crate) fn proxy(cluster: &Cluster, name: &str) -> Value {
    let spec = json!({"remoteUrl": "https://mcp.example.com/mcp", "authMode": "anonymous"});
    ours(cluster, "MCPRemoteProxy", name, spec)
}

/// Either of the two, by its kind.
pub(crate) fn workload(cluster: &Cluster, kind: &str, name: &str) -> Value {
    if kind == "MCPServer" { server(cluster, name) } else { proxy(cluster, name) }
}

/// The workload with callers known by the MCPOIDCConfig `login`, and these fields of its spec besides.
pub(crate) fn guarded(mut workload: Value, fields: Value) -> Value {
    let spec = workload["spec"].as_object_mut().unwrap();
    spec.remove("authMode");
    spec.insert("oidcConfigRef".to_owned(), json!({"name": "login", "audience": "mcp"}));
    with(workload, fields)
}

/// The object with these fields of its spec besides.
pub(crate) fn with(mut object: Value, fields: Value) -> Value {
    let spec = object["spec"].as_object_mut().unwrap();
    spec.extend(fields.as_object().unwrap().clone());
    object
}

/// The MCPOIDCConfig `login`.
pub(crate) fn login(cluster: &Cluster) -> Value {
    ours(
        cluster,
        "MCPOIDCConfig",
        "login",
        json!({"type": "inline", "inline": {"issuer": "https://login.example.com"}}),
    )
}

/// A Secret with one key.
pub(crate) fn secret(cluster: &Cluster, name: &str, key: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": cluster.namespace}, "stringData": {key: value}})
}

/// A ConfigMap with one key.
pub(crate) fn config_map(cluster: &Cluster, name: &str, key: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": cluster.namespace}, "data": {key: value}})
}

/// The RunConfig in its ConfigMap.
pub(crate) fn run_config_in(map: &Value) -> Value {
    serde_json::from_str(map["data"]["runconfig.json"].as_str().unwrap()).unwrap()
}

/// Waits until the RunConfig of a workload is as it should be, and gives it.
pub(crate) async fn run_config(cluster: &Cluster, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let map =
        cluster.until("ConfigMap", &format!("{name}-runconfig"), |map| wanted(&run_config_in(map))).await;
    run_config_in(&map)
}

/// A workload that has its first status for the newest spec.
pub(crate) async fn judged(cluster: &Cluster, kind: &str, name: &str) -> Value {
    cluster
        .until(kind, name, |object| {
            object["status"]["observedGeneration"] == object["metadata"]["generation"]
                && object["status"]["phase"].is_string()
        })
        .await
}

/// The proxy's container in its Deployment.
pub(crate) fn container(deployment: &Value) -> &Value {
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    containers.iter().find(|container| container["name"] == "toolhive").unwrap()
}

/// A volume of a Deployment.
pub(crate) fn volume<'a>(deployment: &'a Value, name: &str) -> Option<&'a Value> {
    deployment["spec"]["template"]["spec"]["volumes"].as_array()?.iter().find(|volume| volume["name"] == name)
}

/// A mount of the proxy's container.
pub(crate) fn mount<'a>(deployment: &'a Value, name: &str) -> Option<&'a Value> {
    container(deployment)["volumeMounts"].as_array()?.iter().find(|mount| mount["name"] == name)
}

/// Names of pull secrets, of a pod or an account; their order means nothing.
pub(crate) fn pull_secrets(object: &Value) -> Vec<&str> {
    let list = object["imagePullSecrets"].as_array();
    let mut names: Vec<&str> =
        list.into_iter().flatten().map(|secret| secret["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

/// Events about an object, with this reason.
pub(crate) async fn events(cluster: &Cluster, name: &str, reason: &str) -> Vec<Value> {
    let mut found = cluster.list("Event").await;
    found.retain(|event| event["regarding"]["name"] == name && event["reason"] == reason);
    found
}

/// Waits until there is an event about an object with this reason, and gives it.
pub(crate) async fn event(cluster: &Cluster, name: &str, reason: &str) -> Value {
    let started = tokio::time::Instant::now();
    loop {
        if let Some(event) = events(cluster, name, reason).await.pop() {
            return event;
        }
        let all = cluster.list("Event").await;
        assert!(started.elapsed() < crate::harness::PATIENCE, "no {reason} about {name}: {all:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Sends an object as a user would create it, and gives what the API server said.
pub(crate) async fn try_create(cluster: &Cluster, object: &Value) -> (u16, Value) {
    let kind: Kind = object["kind"].as_str().unwrap().parse().unwrap();
    let path = format!(
        "/apis/{}/namespaces/{}/{}",
        object["apiVersion"].as_str().unwrap(),
        cluster.namespace,
        kind.plural()
    );
    cluster.plane.request("POST", &path, "application/json", &object.to_string()).await
}

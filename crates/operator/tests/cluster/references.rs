//! Who is moved by a change, and what may not go while somebody refers to it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Cluster, Operator, found};
use crate::remote_proxy::open_proxy;

fn ours(cluster: &Cluster, kind: &str, name: &str, spec: Value) -> Value {
    let version = if kind == "MCPWebhookConfig" { "v1alpha1" } else { "v1beta1" };
    json!({"apiVersion": format!("toolhive.stacklok.dev/{version}"), "kind": kind, "metadata": {"name": name, "namespace": cluster.namespace}, "spec": spec})
}

fn config(cluster: &Cluster, kind: &str, name: &str) -> Value {
    let spec = match kind {
        "MCPExternalAuthConfig" => {
            json!({"type": "bearerToken", "bearerToken": {"tokenSecretRef": {"name": name, "key": "token"}}})
        }
        "MCPToolConfig" => json!({"toolsFilter": ["a"]}),
        "MCPOIDCConfig" => json!({"type": "inline", "inline": {"issuer": "https://idp.example.com"}}),
        "MCPAuthzConfig" => {
            json!({"type": "cedarv1", "config": {"policies": ["permit(principal, action, resource);"]}})
        }
        "MCPTelemetryConfig" => json!({"prometheus": {"enabled": true}}),
        "MCPWebhookConfig" => json!({"validating": [{"name": "v", "url": "https://hook.example.com/"}]}),
        other => panic!("{other}"),
    };
    ours(cluster, kind, name, spec)
}

/// How a workload refers to a config of a kind.
fn reference(kind: &str, name: &str) -> Value {
    match kind {
        "MCPExternalAuthConfig" => json!({"externalAuthConfigRef": {"name": name}}),
        "MCPToolConfig" => json!({"toolConfigRef": {"name": name}}),
        "MCPOIDCConfig" => json!({"oidcConfigRef": {"name": name, "audience": "a"}}),
        "MCPAuthzConfig" => json!({"authzConfigRef": {"name": name}}),
        "MCPTelemetryConfig" => json!({"telemetryConfigRef": {"name": name}}),
        "MCPWebhookConfig" => json!({"webhookConfigRef": {"name": name}}),
        "MCPGroup" => json!({"groupRef": {"name": name}}),
        other => panic!("{other}"),
    }
}

fn workload(cluster: &Cluster, kind: &str, name: &str) -> Value {
    match kind {
        "MCPRemoteProxy" => open_proxy(cluster, name),
        "MCPServer" => ours(
            cluster,
            kind,
            name,
            json!({"image": "server", "transport": "streamable-http", "authMode": "anonymous"}),
        ),
        "MCPServerEntry" => ours(
            cluster,
            kind,
            name,
            json!({"remoteUrl": "https://mcp.example.com/", "transport": "streamable-http", "groupRef": {"name": "g"}}),
        ),
        other => panic!("{other}"),
    }
}

async fn secret(cluster: &Cluster, name: &str, value: &str) {
    cluster
        .apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": cluster.namespace}, "stringData": {"token": value}}))
        .await;
}

const CONFIGS: [&str; 6] = [
    "MCPExternalAuthConfig",
    "MCPToolConfig",
    "MCPOIDCConfig",
    "MCPAuthzConfig",
    "MCPTelemetryConfig",
    "MCPWebhookConfig",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_config_stays_until_the_last_referrer_of_any_kind_is_gone() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(ours(&cluster, "MCPGroup", "g", json!({}))).await;
    for kind in CONFIGS {
        let name = kind.to_lowercase();
        secret(&cluster, &name, "x").await;
        cluster.apply(config(&cluster, kind, &name)).await;
        let mut users = vec!["MCPServer", "MCPRemoteProxy"];
        if kind == "MCPExternalAuthConfig" {
            users.push("MCPServerEntry");
        }
        for user in &users {
            let mut object = workload(&cluster, user, &format!("{name}-{}", user.len()));
            if kind == "MCPOIDCConfig" {
                object["spec"].as_object_mut().unwrap().remove("authMode");
            }
            for (field, value) in reference(kind, &name).as_object().unwrap() {
                object["spec"][field] = value.clone();
            }
            cluster.apply(object).await;
        }
        cluster
            .until(kind, &name, |object| {
                object["status"]["referencingWorkloads"]
                    .as_array()
                    .is_some_and(|list| list.len() == users.len())
                    && object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
            })
            .await;
        cluster.delete(kind, &name).await;
        for user in &users {
            let name_of_user = format!("{name}-{}", user.len());
            let blocked =
                cluster.condition(kind, &name, "DeletionBlocked", "True", "ReferencedByWorkloads").await;
            let message = found(&blocked, "DeletionBlocked").unwrap()["message"].as_str().unwrap().to_owned();
            assert!(message.contains(&name_of_user), "{kind}: {message}");
            cluster.delete(user, &name_of_user).await;
            cluster.gone(user, &name_of_user).await;
        }
        cluster.gone(kind, &name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_at_once_and_its_members_say_so() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(ours(&cluster, "MCPGroup", "g", json!({}))).await;
    for kind in ["MCPServer", "MCPRemoteProxy", "MCPServerEntry"] {
        let mut object = workload(&cluster, kind, &kind.to_lowercase());
        object["spec"]["groupRef"] = json!({"name": "g"});
        cluster.apply(object).await;
    }
    cluster
        .until("MCPGroup", "g", |group| {
            let count = |field: &str| group["status"][field].as_i64().unwrap_or_default();
            count("serverCount") == 1 && count("remoteProxyCount") == 1 && count("entryCount") == 1
        })
        .await;
    for kind in ["MCPServer", "MCPRemoteProxy", "MCPServerEntry"] {
        cluster.condition(kind, &kind.to_lowercase(), "GroupRefValidated", "True", "").await;
    }
    cluster.delete("MCPGroup", "g").await;
    cluster.gone("MCPGroup", "g").await;
    for kind in ["MCPServer", "MCPRemoteProxy", "MCPServerEntry"] {
        cluster.condition(kind, &kind.to_lowercase(), "GroupRefValidated", "False", "GroupRefNotFound").await;
    }
    // It comes back, and everybody knows.
    cluster.apply(ours(&cluster, "MCPGroup", "g", json!({}))).await;
    cluster.condition("MCPServer", "mcpserver", "GroupRefValidated", "True", "").await;
    cluster.until("MCPGroup", "g", |group| group["status"]["entryCount"] == 1).await;
}

/// Two workloads on each config, one on none.
async fn a_small_company(cluster: &Cluster) {
    for name in ["a", "b"] {
        secret(cluster, name, "x").await;
        cluster.apply(config(cluster, "MCPExternalAuthConfig", name)).await;
        cluster.apply(ours(cluster, "MCPGroup", &format!("group-{name}"), json!({}))).await;
        for number in 0..2 {
            let mut proxy = open_proxy(cluster, &format!("{name}{number}"));
            proxy["spec"]["externalAuthConfigRef"] = json!({"name": name});
            proxy["spec"]["groupRef"] = json!({"name": format!("group-{name}")});
            cluster.apply(proxy).await;
        }
    }
    cluster.apply(open_proxy(cluster, "alone")).await;
}

fn moved(operator: &Operator) -> BTreeSet<String> {
    operator.reconciles().into_keys().map(|key| format!("{}/{}", key.kind, key.name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_referrers_are_moved_by_a_change() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    a_small_company(&cluster).await;
    operator.settled().await;
    operator.reconciles();
    let expected =
        |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let hash = |kind: &'static str, name: &'static str, field: &'static str| {
        let cluster = &cluster;
        async move { cluster.get(kind, name).await.unwrap()["status"][field].clone() }
    };

    // A Secret is rotated.
    let before = hash("MCPRemoteProxy", "a0", "externalAuthConfigHash").await;
    let other = hash("MCPRemoteProxy", "b0", "externalAuthConfigHash").await;
    operator.recorder.clear();
    secret(&cluster, "a", "rotated").await;
    operator.settled().await;
    let on_a = expected(&["MCPExternalAuthConfig/a", "MCPRemoteProxy/a0", "MCPRemoteProxy/a1"]);
    assert_eq!(moved(&operator), on_a);
    assert_ne!(hash("MCPRemoteProxy", "a0", "externalAuthConfigHash").await, before);
    assert_eq!(hash("MCPRemoteProxy", "b0", "externalAuthConfigHash").await, other);
    assert_eq!(
        hash("MCPRemoteProxy", "a0", "externalAuthConfigHash").await,
        hash("MCPExternalAuthConfig", "a", "configHash").await
    );
    // Its value goes nowhere: a rotation is three statuses and nothing else.
    let writes = operator.writes();
    assert!(writes.iter().all(|call| call.subresource == "status"), "{writes:?}");
    assert_eq!(writes.len(), 3);

    // A config is edited.
    cluster
        .merge(
            "MCPExternalAuthConfig",
            "a",
            json!({"spec": {"bearerToken": {"tokenSecretRef": {"name": "b"}}}}),
        )
        .await;
    operator.settled().await;
    assert_eq!(moved(&operator), on_a);
    // And now the other Secret moves both.
    secret(&cluster, "b", "rotated").await;
    operator.settled().await;
    assert_eq!(
        moved(&operator),
        expected(&[
            "MCPExternalAuthConfig/a",
            "MCPExternalAuthConfig/b",
            "MCPRemoteProxy/a0",
            "MCPRemoteProxy/a1",
            "MCPRemoteProxy/b0",
            "MCPRemoteProxy/b1",
        ])
    );
    secret(&cluster, "a", "nobody's any more").await;
    operator.settled().await;
    assert_eq!(moved(&operator), expected(&[]));

    // A member changes its group.
    cluster.merge("MCPRemoteProxy", "a0", json!({"spec": {"groupRef": {"name": "group-b"}}})).await;
    operator.settled().await;
    assert_eq!(moved(&operator), expected(&["MCPGroup/group-a", "MCPGroup/group-b", "MCPRemoteProxy/a0"]));
    let group = cluster.get("MCPGroup", "group-b").await.unwrap();
    assert_eq!(group["status"]["remoteProxies"], json!(["a0", "b0", "b1"]));

    // A Secret goes and comes back.
    cluster.delete("Secret", "b").await;
    cluster.condition("MCPExternalAuthConfig", "b", "Valid", "False", "SecretNotFound").await;
    cluster.until("MCPRemoteProxy", "b0", |object| object["status"]["phase"] == "Failed").await;
    secret(&cluster, "b", "back").await;
    cluster.condition("MCPExternalAuthConfig", "b", "Valid", "True", "").await;
    cluster.condition("MCPRemoteProxy", "b0", "ConfigurationValid", "True", "").await;
}

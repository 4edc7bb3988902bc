//! MCPRemoteProxy from creation to deletion.

use serde_json::{Value, json};

use crate::harness::{Cluster, Operator, found};

/// A proxy that lets everybody in.
pub(crate) fn open_proxy(cluster: &Cluster, name: &str) -> Value {
    json!({
        "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPRemoteProxy",
        "metadata": {"name": name, "namespace": cluster.namespace},
        "spec": {"remoteUrl": "https://mcp.example.com/mcp", "authMode": "anonymous"},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_belongs_to_it_is_made_and_goes_with_it() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(open_proxy(&cluster, "saas")).await;
    let proxy = cluster.condition("MCPRemoteProxy", "saas", "ConfigurationValid", "True", "").await;
    assert_eq!(proxy["status"]["phase"], "Pending");
    assert_eq!(
        proxy["status"]["url"],
        format!("http://mcp-saas-remote-proxy.{}.svc.cluster.local:8080", cluster.namespace)
    );
    for (kind, name) in [
        ("Deployment", "saas"),
        ("Service", "mcp-saas-remote-proxy"),
        ("ConfigMap", "saas-runconfig"),
        ("ServiceAccount", "saas-remote-proxy-runner"),
        ("Role", "saas-remote-proxy-runner"),
        ("RoleBinding", "saas-remote-proxy-runner"),
    ] {
        let made = cluster.until(kind, name, |_| true).await;
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], proxy["metadata"]["uid"], "{kind} {name}");
    }
    assert_eq!(found(&proxy, "Ready").unwrap()["reason"], "DeploymentNotReady");

    cluster.ready_deployment("saas").await;
    cluster.proxy_pod("mcpremoteproxy", "saas", "saas-1", "127.0.0.1").await;
    let proxy = cluster.condition("MCPRemoteProxy", "saas", "Ready", "True", "DeploymentReady").await;
    assert_eq!(proxy["status"]["phase"], "Ready");
    operator.settled().await;
    assert_eq!(operator.reconciles().len(), 1);

    cluster.delete("MCPRemoteProxy", "saas").await;
    for (kind, name) in [("Deployment", "saas"), ("ConfigMap", "saas-runconfig"), ("MCPRemoteProxy", "saas")]
    {
        cluster.gone(kind, name).await;
    }
}

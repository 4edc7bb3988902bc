//! Kinds of ToolHive that are not ours, and can refer to our configs.

use serde_json::json;
use skep_testkit::control_plane::{Assets, ControlPlane, Options as PlaneOptions};

use crate::harness::{Cluster, Operator, Options, found, install_into};

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_a_virtual_server_refers_to_stays() {
    let Some(assets) = Assets::find_or_skip() else { return };
    // A kind more would have every other operator of this process start anew.
    let plane = ControlPlane::start(&assets, PlaneOptions { controllers: vec![] }).await;
    let plane: &'static ControlPlane = Box::leak(Box::new(plane));
    install_into(plane).await;
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "virtualmcpservers.toolhive.stacklok.dev"},
        "spec": {
            "group": "toolhive.stacklok.dev", "scope": "Namespaced",
            "names": {"kind": "VirtualMCPServer", "listKind": "VirtualMCPServerList", "plural": "virtualmcpservers", "singular": "virtualmcpserver"},
            "versions": [{"name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
        },
    });
    let at = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(plane.request("POST", at, "application/json", &crd.to_string()).await.0, 201);
    let cluster = Cluster { plane, namespace: plane.namespace().await };
    let virtuals =
        format!("/apis/toolhive.stacklok.dev/v1beta1/namespaces/{}/virtualmcpservers", cluster.namespace);
    let object = json!({
        "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "VirtualMCPServer", "metadata": {"name": "v"},
        "spec": {"incomingAuth": {"type": "oidc", "oidcConfigRef": {"name": "login", "audience": "v"}}},
    });
    let started = tokio::time::Instant::now();
    while plane.request("POST", &virtuals, "application/json", &object.to_string()).await.0 != 201 {
        assert!(started.elapsed() < crate::harness::PATIENCE, "the kind is not served");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let _operator = Operator::with(&cluster, Options::default()).await;
    for name in ["login", "other"] {
        cluster
            .apply(json!({
                "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPOIDCConfig",
                "metadata": {"name": name, "namespace": cluster.namespace},
                "spec": {"type": "inline", "inline": {"issuer": "https://login.example.com"}},
            }))
            .await;
        cluster.condition("MCPOIDCConfig", name, "Valid", "True", "").await;
        cluster.delete("MCPOIDCConfig", name).await;
    }
    cluster.gone("MCPOIDCConfig", "other").await;
    let blocked = cluster.condition("MCPOIDCConfig", "login", "DeletionBlocked", "True", "").await;
    let message = found(&blocked, "DeletionBlocked").unwrap()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("VirtualMCPServer `v`"), "{message}");
    // Nobody tells of another operator's kind: it is looked for again when the config changes, or after a while.
    assert_eq!(plane.request("DELETE", &format!("{virtuals}/v"), "", "").await.0, 200);
    cluster.merge("MCPOIDCConfig", "login", json!({"metadata": {"annotations": {"look": "again"}}})).await;
    cluster.gone("MCPOIDCConfig", "login").await;
}

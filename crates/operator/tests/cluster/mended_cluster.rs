//! What the operator knows of the cluster, and when it acts on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use skep_operator::Observer;
use skep_operator::permissions::{Scope, rules};
use skep_testkit::control_plane::{ControlPlane, fresh_namespace_name};

use crate::harness::{Cluster, Operator, Options, PATIENCE};
use crate::remote_proxy::open_proxy;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_between_losing_the_lead_and_gaining_it_again() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    for round in 0..2 {
        let name = format!("led{round}");
        cluster.apply(open_proxy(&cluster, &name)).await;
        cluster.condition("MCPRemoteProxy", &name, "ConfigurationValid", "True", "").await;
        operator.settled().await;
        operator.leading.send_replace(false);
        operator.recorder.clear();
        operator.reconciles();
        cluster.merge("MCPRemoteProxy", &name, json!({"spec": {"replicas": 2}})).await;
        let name = format!("waits{round}");
        cluster.apply(open_proxy(&cluster, &name)).await;
        operator.ready().await;
        operator.settled().await;
        assert_eq!((operator.writes(), operator.reconciles().len()), (Vec::new(), 0));
        operator.leading.send_replace(true);
        cluster.until("Deployment", &format!("led{round}"), |object| object["spec"]["replicas"] == 2).await;
        cluster.condition("MCPRemoteProxy", &name, "ConfigurationValid", "True", "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_breaks_is_not_missed() {
    let Some(cluster) = Cluster::new().await else { return };
    let broken = Arc::new(AtomicBool::new(false));
    let breaks = Arc::clone(&broken);
    let observer = Observer(Arc::new(move |key| {
        assert!(key.name != "p" || breaks.swap(true, Ordering::SeqCst), "a fault");
    }));
    let _operator =
        Operator::with(&cluster, Options { observer: Some(observer), ..Options::default() }).await;
    cluster.apply(open_proxy(&cluster, "p")).await;
    cluster.condition("MCPRemoteProxy", "p", "ConfigurationValid", "True", "").await;
    assert!(broken.load(Ordering::SeqCst));
}

const USER: &str = "u9";

async fn post(plane: &ControlPlane, path: &str, object: Value) {
    let (code, body) = plane.request("POST", path, "application/json", &object.to_string()).await;
    assert_eq!(code, 201, "{path}: {body}");
}

/// Grants a user the operator's Role in a namespace.
async fn grant(plane: &ControlPlane, namespace: &str) {
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
    let role = json!({"metadata": {"name": "operator"}, "rules": rules(Scope::Namespaces)});
    post(plane, &format!("{rbac}/roles"), role).await;
    let binding = json!({
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
    });
    post(plane, &format!("{rbac}/rolebindings"), binding).await;
}

/// A namespace that goes on terminating.
async fn terminating(plane: &'static ControlPlane) -> String {
    let there = Cluster { plane, namespace: plane.namespace().await };
    grant(plane, &there.namespace).await;
    there
        .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "held", "finalizers": ["example.com/held"]}}))
        .await;
    there.apply(open_proxy(&there, "p")).await;
    plane.request("DELETE", &format!("/api/v1/namespaces/{}", there.namespace), "", "").await;
    // Its rights go with what else is in it.
    there.gone("RoleBinding", "operator").await;
    there.namespace
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_that_are_missing_or_going_hold_up_no_other_and_one_that_comes_is_taken_up() {
    let Some(cluster) = Cluster::new().await else { return };
    let plane = cluster.plane;
    grant(plane, &cluster.namespace).await;
    let going = terminating(plane).await;
    let later = Cluster { plane, namespace: fresh_namespace_name() };
    let options = Options {
        more_namespaces: vec![later.namespace.clone(), going.clone()],
        token: Some(plane.token_for(USER).to_owned()),
        ..Options::default()
    };
    cluster.apply(open_proxy(&cluster, "p")).await;
    let operator = Operator::with(&cluster, options).await;
    let warnings = operator.report().warnings;
    for namespace in [&later.namespace, &going] {
        assert!(warnings.contains_key(&format!("namespace {namespace}")), "{warnings:?}");
    }
    cluster.condition("MCPRemoteProxy", "p", "ConfigurationValid", "True", "").await;

    post(plane, "/api/v1/namespaces", json!({"metadata": {"name": later.namespace}})).await;
    grant(plane, &later.namespace).await;
    later.apply(open_proxy(&later, "q")).await;
    later.condition("MCPRemoteProxy", "q", "ConfigurationValid", "True", "").await;
    let started = tokio::time::Instant::now();
    while operator.report().warnings.contains_key(&format!("namespace {}", later.namespace)) {
        assert!(started.elapsed() < PATIENCE, "{:?}", operator.report());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    operator.ready().await;
}

//! What goes wrong around the operator, and what it comes to afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use skep_operator::client::Call;
use skep_operator::client::hooks::{Hook, Verdict};
use skep_testkit::control_plane::{Assets, ControlPlane, Options as PlaneOptions};

use crate::harness::{Cluster, Operator, Options, found, install_into};
use crate::remote_proxy::open_proxy;

/// An operator that dies at its n-th write: nothing it asks is answered from then on.
#[derive(Debug)]
struct DiesAt {
    left: AtomicIsize,
    dead: AtomicBool,
    /// The last write still reaches the API server, but nobody hears of it.
    unheard: bool,
}

impl DiesAt {
    fn write(number: usize, unheard: bool) -> Arc<Self> {
        Arc::new(Self { left: AtomicIsize::new(number as isize), dead: AtomicBool::new(false), unheard })
    }
}

impl Hook for DiesAt {
    fn before(&self, call: &Call) -> Verdict {
        if self.dead.load(Ordering::SeqCst) {
            return Verdict::Break;
        }
        // Events are for people; their number depends on how changes fall together.
        let counts = call.is_write() && call.resource != "events";
        if counts && self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
            self.dead.store(true, Ordering::SeqCst);
            return if self.unheard { Verdict::Pass } else { Verdict::Break };
        }
        Verdict::Pass
    }

    fn after(&self, _: &Call, _: u16) -> Verdict {
        if self.dead.load(Ordering::SeqCst) { Verdict::Break } else { Verdict::Pass }
    }
}

/// A server, a proxy and what they refer to: every kind of write is among what follows.
async fn a_little_of_everything(cluster: &Cluster) {
    let namespace = &cluster.namespace;
    let ours = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec});
    cluster.apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": namespace}, "data": {"token": "eA=="}})).await;
    cluster.apply(ours("MCPGroup", "g", json!({}))).await;
    cluster
        .apply(ours(
            "MCPExternalAuthConfig",
            "bearer",
            json!({"type": "bearerToken", "bearerToken": {"tokenSecretRef": {"name": "s", "key": "token"}}}),
        ))
        .await;
    let mut proxy = open_proxy(cluster, "p");
    proxy["spec"]["externalAuthConfigRef"] = json!({"name": "bearer"});
    proxy["spec"]["groupRef"] = json!({"name": "g"});
    proxy["spec"]["replicas"] = json!(2);
    proxy["spec"]["networkPolicy"] = json!({"enabled": true});
    cluster.apply(proxy).await;
    cluster
        .apply(ours("MCPServer", "s", json!({"image": "server", "transport": "streamable-http", "authMode": "anonymous", "groupRef": {"name": "g"}})))
        .await;
}

/// True when an operator that starts now has nothing to do and everything is there.
async fn is_converged(cluster: &Cluster) {
    cluster.condition("MCPRemoteProxy", "p", "ConfigurationValid", "True", "").await;
    cluster
        .until("MCPGroup", "g", |group| {
            group["status"]["serverCount"] == 1 && group["status"]["remoteProxyCount"] == 1
        })
        .await;
    cluster.condition("MCPExternalAuthConfig", "bearer", "Valid", "True", "").await;
    for (kind, name) in [
        ("Deployment", "p"),
        ("ConfigMap", "p-runconfig"),
        ("Service", "mcp-p-remote-proxy"),
        ("PodDisruptionBudget", "p"),
        ("Deployment", "s"),
        ("StatefulSet", "s"),
        ("Service", "mcp-s"),
        ("Role", "s-proxy-runner"),
    ] {
        if kind != "PodDisruptionBudget" {
            cluster.until(kind, name, |_| true).await;
        } else {
            assert_eq!(cluster.list(kind).await.len(), 1);
        }
    }
}

async fn dies_at(unheard: bool) {
    let Some(first) = Cluster::new().await else { return };
    a_little_of_everything(&first).await;
    let operator = Operator::start(&first).await;
    is_converged(&first).await;
    operator.settled().await;
    let writes = operator.writes().iter().filter(|call| call.resource != "events").count();
    assert!(writes > 20, "{writes}");
    operator.stop().await;

    let mut trials = Vec::new();
    for number in 0..writes {
        trials.push(async move {
            let cluster = Cluster::new().await.unwrap();
            a_little_of_everything(&cluster).await;
            let hook = DiesAt::write(number, unheard);
            let options = Options { hook: Some(Arc::clone(&hook) as _), ..Options::default() };
            let dying = Operator::with(&cluster, options).await;
            let started = tokio::time::Instant::now();
            while !hook.dead.load(Ordering::SeqCst) {
                assert!(started.elapsed() < crate::harness::PATIENCE, "write {number} never came");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            drop(dying);
            let next = Operator::start(&cluster).await;
            is_converged(&cluster).await;
            next.settled().await;
            next.stop().await;
            let last = Operator::start(&cluster).await;
            last.settled().await;
            assert_eq!(last.writes(), [], "after dying at write {number}");
        });
    }
    // A few at a time: each has its own namespace.
    let mut trials = trials.into_iter();
    loop {
        let some: Vec<_> = trials.by_ref().take(4).collect();
        if some.is_empty() {
            break;
        }
        futures_util::future::join_all(some).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_dies_before_any_write_leaves_nothing_that_the_next_does_not_mend() {
    dies_at(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_dies_after_any_write_leaves_nothing_that_the_next_does_not_mend() {
    dies_at(true).await;
}

/// Every second write meets a conflict, for a while.
#[derive(Debug)]
struct Conflicts {
    left: AtomicIsize,
    seen: AtomicUsize,
}

impl Hook for Conflicts {
    fn before(&self, call: &Call) -> Verdict {
        let turn = call.is_write() && self.seen.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        if turn && self.left.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Verdict::Answer { code: 409, reason: "Conflict".to_owned() };
        }
        Verdict::Pass
    }

    fn after(&self, _: &Call, _: u16) -> Verdict {
        Verdict::Pass
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_conflicts_delays_and_breaks_nothing() {
    let Some(cluster) = Cluster::new().await else { return };
    let hook = Arc::new(Conflicts { left: AtomicIsize::new(12), seen: AtomicUsize::new(0) });
    let options = Options { hook: Some(Arc::clone(&hook) as _), ..Options::default() };
    let operator = Operator::with(&cluster, options).await;
    a_little_of_everything(&cluster).await;
    // Real ones too: somebody writes the same objects all the time.
    for turn in 0..60 {
        let note = json!({"metadata": {"annotations": {"turn": turn.to_string()}}});
        cluster.merge("MCPRemoteProxy", "p", note.clone()).await;
        cluster.merge("MCPExternalAuthConfig", "bearer", note.clone()).await;
        if cluster.get("Deployment", "p").await.is_some() {
            cluster.merge("Deployment", "p", note).await;
        }
    }
    is_converged(&cluster).await;
    assert!(hook.left.load(Ordering::SeqCst) <= 0, "the storm is over");
    operator.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_restarts_is_taken_up_again() {
    let Some(assets) = Assets::find() else {
        skep_testkit::control_plane::skip("no API server");
        return;
    };
    let plane = ControlPlane::start(&assets, PlaneOptions { controllers: vec![] }).await;
    let plane: &'static ControlPlane = Box::leak(Box::new(plane));
    install_into(plane).await;
    let cluster = Cluster { plane, namespace: plane.namespace().await };
    let operator = Operator::on(plane, Vec::new(), Options::default()).await;
    cluster.apply(open_proxy(&cluster, "before")).await;
    cluster.condition("MCPRemoteProxy", "before", "ConfigurationValid", "True", "").await;
    plane.stop_api_server();
    tokio::time::sleep(Duration::from_secs(2)).await;
    plane.start_api_server().await;
    // Somebody is quicker than the watches.
    cluster.apply(open_proxy(&cluster, "after")).await;
    cluster.delete("ConfigMap", "before-runconfig").await;
    cluster.condition("MCPRemoteProxy", "after", "ConfigurationValid", "True", "").await;
    cluster.until("ConfigMap", "before-runconfig", |_| true).await;
    assert!(!operator.task.is_finished());
    drop(operator);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_can_not_be_read_stops_no_other() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    let mut bad = open_proxy(&cluster, "bad");
    // The schema lets it through, because two spellings share the field.
    bad["spec"]["groupRef"] = json!(5);
    cluster.apply(bad).await;
    for name in ["good-1", "good-2"] {
        cluster.apply(open_proxy(&cluster, name)).await;
        cluster.condition("MCPRemoteProxy", name, "ConfigurationValid", "True", "").await;
    }
    let bad = cluster.condition("MCPRemoteProxy", "bad", "ConfigurationValid", "False", "").await;
    assert_eq!(bad["status"]["phase"], "Failed");
    assert!(cluster.get("Deployment", "bad").await.is_none());
    cluster.merge("MCPRemoteProxy", "bad", json!({"spec": {"groupRef": null}})).await;
    cluster.condition("MCPRemoteProxy", "bad", "ConfigurationValid", "True", "").await;
    cluster.until("Deployment", "bad", |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_edited_or_deleted_by_hand_is_healed() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(open_proxy(&cluster, "p")).await;
    let service = "mcp-p-remote-proxy";
    let deployment = cluster.until("Deployment", "p", |_| true).await;
    cluster.until("Service", service, |_| true).await;
    operator.settled().await;

    cluster
        .merge("Deployment", "p", json!({"spec": {"template": {"metadata": {"labels": {"mine": "kept"}}}}, "metadata": {"labels": {"app": "other"}}}))
        .await;
    cluster.merge("ConfigMap", "p-runconfig", json!({"data": {"runconfig.json": "{}"}})).await;
    cluster
        .merge(
            "Role",
            "p-remote-proxy-runner",
            json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}),
        )
        .await;
    cluster.delete("Service", service).await;
    let healed = cluster
        .until("Deployment", "p", |object| object["metadata"]["labels"]["app"] == "mcpremoteproxy")
        .await;
    assert_eq!(
        healed["spec"]["template"]["metadata"]["labels"]["mine"], "kept",
        "what is nobody else's stays"
    );
    assert_eq!(healed["metadata"]["uid"], deployment["metadata"]["uid"]);
    cluster.until("ConfigMap", "p-runconfig", |object| object["data"]["runconfig.json"] != "{}").await;
    cluster
        .until("Role", "p-remote-proxy-runner", |object| object["rules"][0]["verbs"] == json!(["get"]))
        .await;
    cluster.until("Service", service, |_| true).await;
    // The label by which it is found is taken off.
    cluster
        .merge("ServiceAccount", "p-remote-proxy-runner", json!({"metadata": {"labels": {"toolhive": null}}}))
        .await;
    cluster
        .until("ServiceAccount", "p-remote-proxy-runner", |object| {
            object["metadata"]["labels"]["toolhive"] == "true"
        })
        .await;
    operator.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_somebody_else_decides_are_left_alone() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(open_proxy(&cluster, "p")).await;
    cluster.until("Deployment", "p", |_| true).await;
    operator.settled().await;
    let label = |value: &str| json!({"spec": {"resourceOverrides": {"proxyDeployment": {"labels": {"turn": value}}}}});
    let at = |turn: &'static str, replicas: i64| {
        move |object: &Value| {
            object["metadata"]["labels"]["turn"] == turn && object["spec"]["replicas"] == replicas
        }
    };
    cluster.merge("Deployment", "p", json!({"spec": {"replicas": 5}})).await;
    cluster.merge("MCPRemoteProxy", "p", label("one")).await;
    cluster.until("Deployment", "p", at("one", 5)).await;

    // Said, then no longer said: what it is stays, until somebody else says otherwise.
    let mut said = label("two");
    said["spec"]["replicas"] = json!(3);
    cluster.merge("MCPRemoteProxy", "p", said).await;
    cluster.until("Deployment", "p", at("two", 3)).await;
    let mut unsaid = label("three");
    unsaid["spec"]["replicas"] = Value::Null;
    cluster.merge("MCPRemoteProxy", "p", unsaid).await;
    cluster.until("Deployment", "p", at("three", 3)).await;
    cluster.merge("Deployment", "p", json!({"spec": {"replicas": 6}})).await;
    cluster.merge("MCPRemoteProxy", "p", label("four")).await;
    cluster.until("Deployment", "p", at("four", 6)).await;
    operator.settled().await;
    assert_eq!(cluster.get("Deployment", "p").await.unwrap()["spec"]["replicas"], 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_somebody_else_is_not_touched_though_it_has_the_name() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster
        .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "p-runconfig", "namespace": cluster.namespace}, "data": {"mine": "yes"}}))
        .await;
    cluster.apply(open_proxy(&cluster, "p")).await;
    let proxy = cluster
        .until("MCPRemoteProxy", "p", |object| {
            object["status"]["phase"] == "Failed"
                || found(object, "Ready")
                    .is_some_and(|ready| ready["message"].as_str().unwrap().contains("p-runconfig"))
        })
        .await;
    assert_eq!(found(&proxy, "Ready").unwrap()["status"], "False", "{proxy}");
    let theirs = cluster.get("ConfigMap", "p-runconfig").await.unwrap();
    assert_eq!(theirs["data"], json!({"mine": "yes"}));
    assert!(theirs["metadata"]["ownerReferences"].is_null());
    // A pod would run with what the stranger wrote, and have our secrets.
    operator.settled().await;
    for (kind, name) in [("Deployment", "p"), ("Service", "mcp-p-remote-proxy")] {
        assert!(cluster.get(kind, name).await.is_none(), "{kind}");
    }
    // As soon as the name is free everything is made.
    cluster.delete("ConfigMap", "p-runconfig").await;
    cluster.merge("MCPRemoteProxy", "p", json!({"metadata": {"annotations": {"look": "again"}}})).await;
    cluster.until("Deployment", "p", |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_that_became_invalid_keeps_what_runs_but_not_without_its_auth() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    let namespace = &cluster.namespace;
    cluster
        .apply(json!({"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPOIDCConfig", "metadata": {"name": "o", "namespace": namespace}, "spec": {"type": "inline", "inline": {"issuer": "https://idp.example.com"}}}))
        .await;
    let mut proxy = open_proxy(&cluster, "p");
    proxy["spec"].as_object_mut().unwrap().remove("authMode");
    proxy["spec"]["oidcConfigRef"] = json!({"name": "o", "audience": "p"});
    cluster.apply(proxy).await;
    cluster.condition("MCPRemoteProxy", "p", "ConfigurationValid", "True", "").await;
    let suspended = |object: &Value| {
        let config: Value = serde_json::from_str(object["data"]["runconfig.json"].as_str().unwrap()).unwrap();
        config["skep"]["suspended"].as_str().unwrap_or_default().to_owned()
    };
    let before = cluster.until("ConfigMap", "p-runconfig", |_| true).await;
    assert_eq!(suspended(&before), "");

    // Wrong in a way that endangers nobody: the last good one goes on.
    cluster.merge("MCPRemoteProxy", "p", json!({"spec": {"endpointPrefix": "no-slash"}})).await;
    cluster.until("MCPRemoteProxy", "p", |object| object["status"]["phase"] == "Failed").await;
    operator.settled().await;
    let after = cluster.get("ConfigMap", "p-runconfig").await.unwrap();
    assert_eq!(after["data"], before["data"]);
    assert!(cluster.get("Deployment", "p").await.is_some());
    cluster.merge("MCPRemoteProxy", "p", json!({"spec": {"endpointPrefix": null}})).await;
    cluster.condition("MCPRemoteProxy", "p", "ConfigurationValid", "True", "").await;

    // What judges callers is gone: nobody is let through any more, until it is back.
    cluster.merge("MCPOIDCConfig", "o", json!({"metadata": {"finalizers": null}})).await;
    cluster
        .merge("MCPRemoteProxy", "p", json!({"spec": {"oidcConfigRef": {"name": "gone", "audience": "p"}}}))
        .await;
    cluster.until("ConfigMap", "p-runconfig", |object| suspended(object).contains("gone")).await;
    cluster.until("MCPRemoteProxy", "p", |object| object["status"]["phase"] == "Failed").await;
    operator.settled().await;
    cluster
        .merge("MCPRemoteProxy", "p", json!({"spec": {"oidcConfigRef": {"name": "o", "audience": "p"}}}))
        .await;
    cluster.until("ConfigMap", "p-runconfig", |object| suspended(object).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_in_another_way_than_before_is_set_though_the_server_is_old() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    let mut proxy = open_proxy(&cluster, "p");
    let container = |part: Value| {
        let mut container = json!({"name": "helper", "image": "helper"});
        container.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        json!({"spec": {"containers": [container]}})
    };
    proxy["spec"]["podTemplateSpec"] = container(json!({
        "livenessProbe": {"httpGet": {"path": "/", "port": 80}},
        "env": [{"name": "WHERE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    }));
    cluster.apply(proxy).await;
    cluster.until("Deployment", "p", |_| true).await;
    operator.settled().await;
    let other = container(json!({
        "livenessProbe": {"tcpSocket": {"port": 80}},
        "env": [{"name": "WHERE", "value": "here"}],
    }));
    cluster.merge("MCPRemoteProxy", "p", json!({"spec": {"podTemplateSpec": other}})).await;
    let made = cluster
        .until("Deployment", "p", |object| {
            let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
            let helper = containers.iter().find(|one| one["name"] == "helper").unwrap();
            helper["env"][0]["value"] == "here"
                && helper["env"][0].get("valueFrom").is_none()
                && helper["livenessProbe"].get("httpGet").is_none()
        })
        .await;
    assert_eq!(made["metadata"]["labels"]["toolhive"], "true");
    operator.settled().await;
    operator.recorder.clear();
    cluster.merge("MCPRemoteProxy", "p", json!({"metadata": {"annotations": {"look": "again"}}})).await;
    operator.settled().await;
    assert_eq!(operator.writes(), [], "it is as it should be");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_requires_auth_closes_open_proxies_whatever_else_is_wrong_with_them() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(open_proxy(&cluster, "p")).await;
    // Another operator made this one, with a proxy that can't be suspended.
    cluster.apply(open_proxy(&cluster, "theirs")).await;
    cluster.until("Deployment", "p", |_| true).await;
    cluster.until("Deployment", "theirs", |_| true).await;
    operator.settled().await;
    operator.stop().await;
    cluster
        .merge(
            "Deployment",
            "theirs",
            json!({"spec": {"template": {
                "metadata": {"annotations": {"skep.dev/template-checksum": null}},
                "spec": {"containers": [{"name": "toolhive", "image": "theirs:1", "args": ["run"]}]},
            }}}),
        )
        .await;
    // Both can't be planned, for a reason that has nothing to do with auth.
    for name in ["p", "theirs"] {
        cluster.merge("MCPRemoteProxy", name, json!({"spec": {"endpointPrefix": "no-slash"}})).await;
    }
    let path = format!("/api/v1/namespaces/{}", cluster.namespace);
    let label = json!({"metadata": {"labels": {"skep.dev/require-auth": "true"}}});
    cluster.plane.request("PATCH", &path, "application/merge-patch+json", &label.to_string()).await;
    let operator = Operator::start(&cluster).await;
    for name in ["p", "theirs"] {
        cluster
            .until("ConfigMap", &format!("{name}-runconfig"), |object| {
                let config: Value =
                    serde_json::from_str(object["data"]["runconfig.json"].as_str().unwrap()).unwrap();
                config["skep"]["suspended"].as_str().is_some_and(|reason| !reason.is_empty())
            })
            .await;
    }
    let image = |object: &Value| object["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    cluster.until("Deployment", "theirs", |object| image(object) != "theirs:1").await;
    operator.settled().await;
}

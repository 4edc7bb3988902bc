//! What a status says while proxies report, while an object is deleted under the operator's hands, and where
//! the CRD or the namespace does not take what is written.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use skep_api::address::Egress;
use skep_api::yaml::documents;
use skep_operator::client::Call;
use skep_operator::client::hooks::{Hook, Verdict};
use skep_operator::observe::{Pace, ReporterSettings};
use skep_runtime::metrics::Metrics;
use skep_testkit::control_plane::{self, Assets, ControlPlane, Options as PlaneOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::harness::{Cluster, Operator, Options, PATIENCE, found};
use crate::remote_proxy::open_proxy;

/// What stands for a proxy's `/status`.
struct Proxy {
    port: u16,
    /// Reports that were asked for.
    asked: AtomicUsize,
    /// Of these, so many more are not answered.
    silent: AtomicUsize,
    /// What it says of the remote server; the time of the probe is another one each time.
    reachable: AtomicBool,
}

impl Proxy {
    async fn start(ip: &str, port: u16) -> Arc<Self> {
        let listener = TcpListener::bind((ip, port)).await.unwrap();
        let proxy = Arc::new(Self {
            port: listener.local_addr().unwrap().port(),
            asked: AtomicUsize::new(0),
            silent: AtomicUsize::new(0),
            reachable: AtomicBool::new(true),
        });
        let serving = Arc::clone(&proxy);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let _ = stream.read(&mut request).await;
                let asked = serving.asked.fetch_add(1, Ordering::SeqCst);
                let less = |left: usize| left.checked_sub(1);
                if serving.silent.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
                    continue;
                }
                let (seconds, reachable) = (asked % 60, serving.reachable.load(Ordering::SeqCst));
                let reason = if reachable { "Answered" } else { "NoAnswer" };
                let body = json!({"version": "1", "proxies": [{"name": "p", "remote": {
                    "reachable": reachable, "reason": reason, "message": "", "since": "2026-01-01T00:00:00Z",
                    "checked": format!("2026-01-01T00:00:{seconds:02}Z"),
                }}]})
                .to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        proxy
    }

    /// Waits until it was asked so often from now on.
    async fn asked_again(&self, times: usize) {
        let (started, before) = (tokio::time::Instant::now(), self.asked.load(Ordering::SeqCst));
        while self.asked.load(Ordering::SeqCst) < before + times {
            assert!(started.elapsed() < PATIENCE, "it is not asked");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// An operator that asks proxies on loopback addresses, many times a second.
async fn asking(cluster: &Cluster, port: u16) -> Operator {
    let pace = Pace {
        interval: Duration::from_millis(100),
        after_failure: Duration::from_millis(50),
        longest: Duration::from_millis(100),
        tick: Duration::from_millis(20),
    };
    let egress = Egress { loopback: true, deny: Vec::new() };
    let reporter = ReporterSettings { port, egress, pace, ..ReporterSettings::default() };
    Operator::with(cluster, Options { ask_proxies: true, reporter: Some(reporter), ..Options::default() })
        .await
}

fn statuses(operator: &Operator) -> Vec<Call> {
    operator.writes().into_iter().filter(|call| call.subresource == "status").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_repeats_writes_nothing_and_another_one_writes_once() {
    let Some(cluster) = Cluster::new().await else { return };
    let proxy = Proxy::start("127.0.0.1", 0).await;
    let operator = asking(&cluster, proxy.port).await;
    cluster.apply(open_proxy(&cluster, "p")).await;
    cluster.ready_deployment("p").await;
    cluster.proxy_pod("mcpremoteproxy", "p", "p-1", "127.0.0.1").await;
    cluster.condition("MCPRemoteProxy", "p", "RemoteAvailable", "True", "RemoteReachable").await;
    cluster.condition("MCPRemoteProxy", "p", "Ready", "True", "").await;
    operator.settled().await;
    operator.recorder.clear();
    operator.reconciles();
    proxy.asked_again(10).await;
    operator.settled().await;
    assert_eq!(operator.writes(), []);
    assert!(operator.reconciles().is_empty(), "the same report makes no work");

    // An answer that is missed now and then is none, and changes nothing.
    for _ in 0..3 {
        proxy.silent.store(2, Ordering::SeqCst);
        proxy.asked_again(5).await;
    }
    operator.settled().await;
    assert_eq!(operator.writes(), []);

    proxy.reachable.store(false, Ordering::SeqCst);
    cluster.condition("MCPRemoteProxy", "p", "RemoteAvailable", "False", "NoAnswer").await;
    proxy.asked_again(5).await;
    operator.settled().await;
    assert_eq!(statuses(&operator).len(), 1, "{:?}", operator.writes());

    // One that says nothing any more is said to, and once.
    operator.recorder.clear();
    proxy.silent.store(usize::MAX, Ordering::SeqCst);
    let object = cluster.condition("MCPRemoteProxy", "p", "RemoteAvailable", "Unknown", "NoReport").await;
    assert_eq!(
        found(&object, "RemoteAvailable").unwrap()["message"],
        "No proxy pod reports: it cannot be reached."
    );
    proxy.asked_again(5).await;
    operator.settled().await;
    assert_eq!(statuses(&operator).len(), 1, "{:?}", operator.writes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_carries_only_the_labels_is_nobodys() {
    let Some(cluster) = Cluster::new().await else { return };
    let mine = Proxy::start("127.0.0.1", 0).await;
    let forged = Proxy::start("127.0.0.3", mine.port).await;
    let operator = asking(&cluster, mine.port).await;
    cluster.apply(open_proxy(&cluster, "p")).await;
    cluster.until("Deployment", "p", |_| true).await;
    let labels = json!({"app": "mcpremoteproxy", "app.kubernetes.io/name": "mcpremoteproxy",
        "app.kubernetes.io/instance": "p", "toolhive": "true", "toolhive-name": "p", "pod-template-hash": "5d4f8c7b9"});
    cluster
        .apply(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p-0", "namespace": cluster.namespace, "labels": labels},
            "spec": {"containers": [{"name": "toolhive", "image": "skep"}], "nodeName": "nowhere"}}))
        .await;
    cluster
        .merge("Pod", "p-0", json!({"status": {"phase": "Running", "podIP": "127.0.0.3", "conditions": [{"type": "Ready", "status": "True"}]}}))
        .await;
    operator.settled().await;
    let object = cluster.get("MCPRemoteProxy", "p").await.unwrap();
    assert_eq!(object["status"]["phase"], "Pending", "{object}");
    assert_eq!(found(&object, "RemoteAvailable").unwrap()["reason"], "NoReport");
    cluster.proxy_pod("mcpremoteproxy", "p", "p-1", "127.0.0.1").await;
    cluster.condition("MCPRemoteProxy", "p", "RemoteAvailable", "True", "RemoteReachable").await;
    mine.asked_again(5).await;
    assert_eq!(forged.asked.load(Ordering::SeqCst), 0);
}

/// A control plane with no controllers, and with October's CRD of MCPServer alone.
async fn october() -> Option<Cluster> {
    let Some(assets) = Assets::find() else {
        control_plane::skip("no API server");
        return None;
    };
    let plane = ControlPlane::start(&assets, PlaneOptions { controllers: vec![] }).await;
    let plane: &'static ControlPlane = Box::leak(Box::new(plane));
    let crd = documents(include_str!("data/mcpserver-2025-10.yaml")).unwrap().remove(0).value;
    let at = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, body) = plane.request("POST", at, "application/json", &crd.to_string()).await;
    assert!(code < 300, "{body}");
    let namespace = plane.namespace().await;
    Some(Cluster { plane, namespace })
}

/// A server as it was written in October.
async fn old_server(cluster: &Cluster) -> String {
    let path = format!("/apis/toolhive.stacklok.dev/v1alpha1/namespaces/{}/mcpservers", cluster.namespace);
    let server = json!({"apiVersion": "toolhive.stacklok.dev/v1alpha1", "kind": "MCPServer", "metadata": {"name": "s"},
        "spec": {"image": "example/server:1", "transport": "streamable-http", "oidcConfig": {"type": "inline",
            "inline": {"issuer": "https://login.example.com", "audience": "mcp"}}}});
    let started = tokio::time::Instant::now();
    loop {
        let (code, body) =
            cluster.plane.request("POST", &path, "application/json", &server.to_string()).await;
        if code < 300 {
            return format!("{path}/s");
        }
        assert!(code == 404 && started.elapsed() < PATIENCE, "{code} {body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until(cluster: &Cluster, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let started = tokio::time::Instant::now();
    loop {
        let (_, object) = cluster.plane.request("GET", path, "", "").await;
        if wanted(&object) {
            return object;
        }
        assert!(started.elapsed() < PATIENCE, "{object:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crd_that_knows_other_phases_gets_a_status_without_one() {
    let Some(cluster) = october().await else { return };
    let path = old_server(&cluster).await;
    let operator = Operator::with(&cluster, Options::default()).await;
    let pending = until(&cluster, &path, |object| object["status"]["phase"] == "Pending").await;
    cluster.ready_deployment("s").await;
    cluster.until("StatefulSet", "s", |_| true).await;
    cluster.merge("StatefulSet", "s", json!({"status": {"replicas": 1, "readyReplicas": 1}})).await;
    let ready = until(&cluster, &path, |object| {
        found(object, "Ready").is_some_and(|ready| ready["status"] == "True")
    })
    .await;
    // `Ready` is no phase of then, and `Pending` is true no longer.
    assert!(ready["status"]["phase"].is_null(), "{ready}");
    assert_eq!(ready["status"]["url"], pending["status"]["url"]);
    operator.settled().await;
    let refused = || operator.recorder.writes().into_iter().filter(|(_, code)| *code == 422).count();
    assert_eq!(refused(), 1);
    operator.recorder.clear();
    let note = json!({"metadata": {"annotations": {"a": "b"}}}).to_string();
    let (code, body) = cluster.plane.request("PATCH", &path, "application/merge-patch+json", &note).await;
    assert_eq!(code, 200, "{body}");
    operator.settled().await;
    assert_eq!(operator.writes(), [], "it does not try again and again");
    // A phase that the CRD has is written.
    cluster.merge("StatefulSet", "s", json!({"status": {"readyReplicas": 0}})).await;
    until(&cluster, &path, |object| object["status"]["phase"] == "Pending").await;
    cluster.merge("StatefulSet", "s", json!({"status": {"readyReplicas": 1}})).await;
    until(&cluster, &path, |object| object["status"]["phase"].is_null()).await;
    operator.settled().await;
    assert_eq!(refused(), 0, "it is known by now");

    // The namespace goes, and what went with it can't be made anew. That is nothing to tell.
    let before = until(&cluster, &path, |_| true).await;
    operator.recorder.clear();
    let (code, body) =
        cluster.plane.request("DELETE", &format!("/api/v1/namespaces/{}", cluster.namespace), "", "").await;
    assert!(code < 300, "{body}");
    cluster.delete("Service", "mcp-s-proxy").await;
    let started = tokio::time::Instant::now();
    while operator.recorder.writes().is_empty() {
        assert!(started.elapsed() < PATIENCE, "the Service is not missed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    operator.settled().await;
    let writes = operator.recorder.writes();
    assert!(writes.iter().all(|(call, code)| call.resource == "services" && *code == 403), "{writes:?}");
    assert_eq!(writes.len(), 1, "it stands still");
    assert_eq!(until(&cluster, &path, |_| true).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_predecessor_of_the_same_name_left_is_waited_for() {
    // Nobody collects garbage here but the test.
    let Some(cluster) = october().await else { return };
    let path = old_server(&cluster).await;
    let operator = Operator::with(&cluster, Options::default()).await;
    until(&cluster, &path, |object| object["status"]["phase"] == "Pending").await;
    operator.settled().await;
    let before = cluster.get("Deployment", "s").await.unwrap();
    let (code, body) = cluster.plane.request("DELETE", &path, "", "").await;
    assert_eq!(code, 200, "{body}");
    old_server(&cluster).await;
    let object = until(&cluster, &path, |object| object["status"]["phase"].is_string()).await;
    assert_eq!(object["status"]["phase"], "Pending", "{object}");
    assert!(found(&object, "ObjectConflict").is_none(), "{object}");
    assert_eq!(cluster.get("Deployment", "s").await.unwrap(), before, "it is not taken over");
    for kind in [
        "Deployment",
        "StatefulSet",
        "Service",
        "ConfigMap",
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "NetworkPolicy",
    ] {
        for left in cluster.list(kind).await {
            let owner = &left["metadata"]["ownerReferences"][0];
            if owner["uid"] == before["metadata"]["ownerReferences"][0]["uid"] {
                cluster.delete(kind, left["metadata"]["name"].as_str().unwrap()).await;
            }
        }
    }
    let after = cluster.until("Deployment", "s", |_| true).await;
    assert_eq!(after["metadata"]["ownerReferences"][0]["uid"], object["metadata"]["uid"]);
}

/// Deletes an object while the answer to the write of its status is on its way, and lets that through when
/// the operator has heard of the deletion.
struct DeletesBetween {
    plane: &'static ControlPlane,
    path: String,
    registry: OnceLock<Metrics>,
    done: Mutex<bool>,
}

impl std::fmt::Debug for DeletesBetween {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeletesBetween").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Hook for DeletesBetween {
    fn before(&self, _: &Call) -> Verdict {
        Verdict::Pass
    }

    fn after(&self, call: &Call, code: u16) -> Verdict {
        let status = call.resource == "mcpremoteproxies" && call.subresource == "status" && code == 200;
        let (true, Some(registry)) = (status, self.registry.get()) else { return Verdict::Pass };
        if std::mem::replace(&mut *self.done.lock().unwrap(), true) {
            return Verdict::Pass;
        }
        let delete = async {
            let (code, body) = self.plane.request("DELETE", &self.path, "", "").await;
            assert_eq!(code, 200, "{body}");
            let started = tokio::time::Instant::now();
            while !registry.encode().contains("skep_operator_custom_resources{kind=\"MCPRemoteProxy\"} 0") {
                assert!(started.elapsed() < PATIENCE, "{}", registry.encode());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(delete));
        Verdict::Pass
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_goes_while_its_status_is_written_stays_gone() {
    let Some(cluster) = Cluster::new().await else { return };
    let hook = Arc::new(DeletesBetween {
        plane: cluster.plane,
        path: format!(
            "/apis/toolhive.stacklok.dev/v1beta1/namespaces/{}/mcpremoteproxies/p",
            cluster.namespace
        ),
        registry: OnceLock::new(),
        done: Mutex::new(false),
    });
    let operator =
        Operator::with(&cluster, Options { hook: Some(Arc::clone(&hook) as _), ..Options::default() }).await;
    hook.registry.set(operator.registry.clone()).unwrap();
    cluster.apply(open_proxy(&cluster, "p")).await;
    cluster.gone("MCPRemoteProxy", "p").await;
    operator.settled().await;
    assert!(*hook.done.lock().unwrap());
    operator.recorder.clear();
    for (kind, name) in [("Deployment", "p"), ("ConfigMap", "p-runconfig")] {
        cluster.gone(kind, name).await;
    }
    operator.settled().await;
    assert_eq!(operator.writes(), [], "nothing is made for an object that is gone");
    // One of the same name is another one.
    let made = cluster.apply(open_proxy(&cluster, "p")).await;
    let deployment = cluster.until("Deployment", "p", |_| true).await;
    assert_eq!(deployment["metadata"]["ownerReferences"][0]["uid"], made["metadata"]["uid"]);
    cluster.condition("MCPRemoteProxy", "p", "ConfigurationValid", "True", "").await;
}

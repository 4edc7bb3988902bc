//! `skep operator` as a process, on a real API server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use skep_api::crd::definition::definitions;
use skep_testkit::control_plane::{self, ControlPlane};
use skep_testkit::{free_port, raw};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running operator of one namespace.
struct Operator {
    child: Child,
    metrics: u16,
    health: u16,
    log: PathBuf,
}

impl Operator {
    fn start(plane: &ControlPlane, namespace: &str, pod: &str, more: &[&str]) -> Self {
        let (metrics, health) = (free_port(), free_port());
        let log = plane.folder().join(format!("operator-{namespace}-{pod}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_skep"))
            .args(["operator", "--leader-elect", "--ask-proxies=false", "--kubeconfig"])
            .arg(plane.kubeconfig())
            .args([
                format!("--metrics-bind-address=127.0.0.1:{metrics}"),
                format!("--health-probe-bind-address=127.0.0.1:{health}"),
            ])
            .args(more)
            .envs([
                ("WATCH_NAMESPACE", namespace),
                ("POD_NAMESPACE", namespace),
                ("POD_NAME", pod),
                ("GOGC", "75"),
            ])
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, metrics, health, log }
    }

    /// The status of an answer; 0 when nobody listens.
    async fn get(&self, port: u16, path: &str) -> (u16, String) {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpStream::connect(address).await.is_err() {
            return (0, String::new());
        }
        let answer = raw::get(address, path).await;
        (answer.status, answer.text())
    }

    async fn ready(&mut self) {
        let started = tokio::time::Instant::now();
        while self.get(self.health, "/readyz").await.0 != 200 {
            assert!(started.elapsed() < PATIENCE, "{}", self.logged());
            assert!(self.child.try_wait().unwrap().is_none(), "{}", self.logged());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a line is among the metrics.
    async fn counts(&self, line: &str) {
        let started = tokio::time::Instant::now();
        loop {
            let metrics = self.get(self.metrics, "/metrics").await.1;
            if metrics.contains(line) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{line}\n{metrics}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    async fn ends_with(&mut self) -> i32 {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end: {}", self.logged())).unwrap().code().unwrap()
    }

    fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

async fn lease(plane: &ControlPlane, namespace: &str) -> Value {
    plane.request("GET", &lease_path(namespace), "", "").await.1["spec"].clone()
}

fn lease_path(namespace: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/toolhive-operator-leader-election")
}

async fn held_by(plane: &ControlPlane, namespace: &str, pod: &str) {
    let started = tokio::time::Instant::now();
    loop {
        let spec = lease(plane, namespace).await;
        let holder = spec["holderIdentity"].as_str().unwrap_or_default().to_owned();
        if holder.starts_with(&format!("{pod}_")) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{spec}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn install_crds(plane: &ControlPlane) {
    for definition in definitions() {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let (code, body) = plane.request("POST", path, "application/json", &definition.to_string()).await;
        assert!(code == 201 || code == 409, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_while_it_leads_and_gives_the_lead_up_when_told_to_end() {
    let Some(plane) = control_plane::shared().await else { return };
    install_crds(plane).await;
    let namespace = plane.namespace().await;
    let mut first = Operator::start(plane, &namespace, "first", &[]);
    first.ready().await;
    held_by(plane, &namespace, "first").await;
    let mut second = Operator::start(plane, &namespace, "second", &[]);
    second.ready().await;

    let proxy = json!({"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPRemoteProxy",
        "metadata": {"name": "saas"},
        "spec": {"remoteUrl": "https://mcp.example.com/mcp", "transport": "streamable-http", "authMode": "anonymous"}});
    let path = format!("/apis/toolhive.stacklok.dev/v1beta1/namespaces/{namespace}/mcpremoteproxies");
    let (code, body) = plane.request("POST", &path, "application/json", &proxy.to_string()).await;
    assert_eq!(code, 201, "{body}");
    let started = tokio::time::Instant::now();
    let deployment = format!("/apis/apps/v1/namespaces/{namespace}/deployments/saas");
    while plane.request("GET", &deployment, "", "").await.0 != 200 {
        assert!(started.elapsed() < PATIENCE, "{}", first.logged());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    assert_eq!(first.get(first.health, "/healthz").await.0, 200);
    for line in [
        "skep_operator_leader 1",
        r#"skep_operator_objects_total{kind="Deployment",action="created"} 1"#,
        r#"skep_anonymous_workloads{kind="MCPRemoteProxy"} 1"#,
    ] {
        first.counts(line).await;
    }
    let waiting = second.get(second.metrics, "/metrics").await.1;
    assert!(waiting.contains("skep_operator_leader 0"), "{waiting}");
    assert!(!waiting.contains("skep_operator_objects_total{"), "{waiting}");

    first.signal("-TERM");
    assert_eq!(first.ends_with().await, 0, "{}", first.logged());
    held_by(plane, &namespace, "second").await;
    assert_eq!(lease(plane, &namespace).await["leaseTransitions"], 1);
    assert!(
        first.logged().lines().all(|line| serde_json::from_str::<Value>(line).is_ok()),
        "{}",
        first.logged()
    );
    assert!(first.logged().contains("GOGC"), "what has no effect is named: {}", first.logged());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_1_when_the_lead_is_lost() {
    let Some(plane) = control_plane::shared().await else { return };
    install_crds(plane).await;
    let namespace = plane.namespace().await;
    let mut operator = Operator::start(plane, &namespace, "first", &[]);
    held_by(plane, &namespace, "first").await;
    let theft = json!({"spec": {"holderIdentity": "thief"}}).to_string();
    let (code, _) =
        plane.request("PATCH", &lease_path(&namespace), "application/merge-patch+json", &theft).await;
    assert_eq!(code, 200);
    assert_eq!(operator.ends_with().await, 1);
    assert!(operator.logged().contains("was taken by thief"), "{}", operator.logged());
    assert_eq!(lease(plane, &namespace).await["holderIdentity"], "thief");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_wrongly_ends_it_at_once() {
    let output = |args: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_skep")).arg("operator").args(args).output();
        let output = output.unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, error) = output(&["--leader-elect=perhaps"]);
    assert!(code == 2 && error.contains("it is true or false"), "{code} {error}");
    let (code, error) =
        output(&["--kubeconfig=/nowhere", "--metrics-bind-address=0", "--health-probe-bind-address=0"]);
    assert!(code == 1 && error.contains("can't use the kubeconfig /nowhere"), "{code} {error}");
}

//! Two `skep operator` processes on one API server: one works, the other waits and takes over.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use skep_api::crd::definition::definitions;
use skep_testkit::control_plane::{Assets, ControlPlane, Options};
use skep_testkit::free_port;
use tempfile::TempDir;
use tokio::process::Child;

use crate::harness::http::get;
use crate::harness::skep;

/// Long enough for a lease to end and another to begin, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

struct Process {
    child: Child,
    health: String,
    metrics: String,
    _home: TempDir,
}

impl Process {
    fn start(plane: &ControlPlane, name: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (health, metrics) = (free_port(), free_port());
        let mut command = skep::command(
            home.path(),
            [
                "operator".to_owned(),
                "--leader-elect".to_owned(),
                format!("--metrics-bind-address=127.0.0.1:{metrics}"),
                format!("--health-probe-bind-address=127.0.0.1:{health}"),
                format!("--kubeconfig={}", plane.kubeconfig().display()),
            ],
        );
        command
            .env("POD_NAME", name)
            .env("POD_NAMESPACE", "default")
            .env("TOOLHIVE_RUNNER_IMAGE", "runner:1");
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self {
            child,
            health: format!("http://127.0.0.1:{health}"),
            metrics: format!("http://127.0.0.1:{metrics}/metrics"),
            _home: home,
        }
    }

    async fn ready(&self) {
        let started = tokio::time::Instant::now();
        loop {
            let answer = tokio::time::timeout(Duration::from_secs(5), async {
                // Nobody listens in the first moments.
                tokio::net::TcpStream::connect(self.health.trim_start_matches("http://")).await.is_ok()
            });
            if answer.await == Ok(true) && get(&format!("{}/readyz", self.health)).await.status == 200 {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "it does not become ready");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(get(&format!("{}/healthz", self.health)).await.status, 200);
    }

    async fn leads(&self) -> bool {
        get(&self.metrics).await.body.lines().any(|line| line == "skep_operator_leader 1")
    }
}

async fn holder(plane: &ControlPlane) -> String {
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/toolhive-operator-leader-election";
    let (_, lease) = plane.request("GET", path, "", "").await;
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

async fn create(plane: &ControlPlane, name: &str) {
    let path = "/apis/toolhive.stacklok.dev/v1beta1/namespaces/default/mcpremoteproxies";
    let proxy = json!({
        "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPRemoteProxy", "metadata": {"name": name},
        "spec": {"remoteUrl": "https://mcp.example.com/mcp", "authMode": "anonymous"},
    });
    let (code, body) = plane.request("POST", path, "application/json", &proxy.to_string()).await;
    assert_eq!(code, 201, "{body}");
}

async fn until(plane: &ControlPlane, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let started = tokio::time::Instant::now();
    loop {
        let (code, body) = plane.request("GET", path, "", "").await;
        if code == 200 && wanted(&body) {
            return body;
        }
        assert!(started.elapsed() < PATIENCE, "{path}: {code} {body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn deployment(name: &str) -> String {
    format!("/apis/apps/v1/namespaces/default/deployments/{name}")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_operator_works_and_when_it_is_killed_the_other_takes_over() {
    let Some(assets) = Assets::find_or_skip() else { return };
    let plane = ControlPlane::start(&assets, Options { controllers: vec![] }).await;
    for definition in definitions() {
        let at = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let (code, body) = plane.request("POST", at, "application/json", &definition.to_string()).await;
        assert_eq!(code, 201, "{body}");
    }
    until(&plane, "/apis/toolhive.stacklok.dev/v1beta1/mcpremoteproxies", |_| true).await;

    let mut first = Process::start(&plane, "first").await_ready().await;
    let second = Process::start(&plane, "second").await_ready().await;
    create(&plane, "one").await;
    let made = until(&plane, &deployment("one"), |_| true).await;
    assert_eq!(made["spec"]["template"]["spec"]["containers"][0]["image"], "runner:1");
    let leader = holder(&plane).await;
    assert!(leader.starts_with("first"), "{leader}");
    assert!(first.leads().await && !second.leads().await);

    // In the middle of its work, without a chance to give up the lease.
    for index in 0..20 {
        create(&plane, &format!("many-{index}")).await;
    }
    first.child.kill().await.unwrap();
    for index in 0..20 {
        until(&plane, &deployment(&format!("many-{index}")), |_| true).await;
        let path =
            format!("/apis/toolhive.stacklok.dev/v1beta1/namespaces/default/mcpremoteproxies/many-{index}");
        until(&plane, &path, |object| object["status"]["observedGeneration"] == 1).await;
    }
    let leader = holder(&plane).await;
    assert!(leader.starts_with("second"), "{leader}");
    assert!(second.leads().await);

    // One that is asked to end gives up the lease, so that the next needs not wait for its end.
    let third = Process::start(&plane, "third").await_ready().await;
    let mut second = second;
    let id = second.child.id().unwrap().to_string();
    let sent = tokio::process::Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
    assert!(sent.success());
    let status = tokio::time::timeout(PATIENCE, second.child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    create(&plane, "last").await;
    until(&plane, &deployment("last"), |_| true).await;
    assert!(third.leads().await);
}

impl Process {
    async fn await_ready(self) -> Self {
        self.ready().await;
        self
    }
}

//! The client's secret at the provider is replaced while calls run, and none of them fails.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use skep_testkit::{McpBackend, free_port};
use tempfile::TempDir;
use tokio::process::Child;
use tokio::task::JoinHandle;

use crate::harness::exchanging::{BACKEND, CALLERS, CONFIDENTIAL, Exchanging, secret};
use crate::harness::external::Node;
use crate::harness::http::{call_tool_over, client};
use crate::harness::idp::Idp;
use crate::harness::output::Output;
use crate::harness::{eventually, skep};

const VARIABLE: &str = "TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET";

/// Callers who are all new, so that each call is an exchange.
struct Crowd {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    workers: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn start(idp: &Arc<Idp>, url: &str) -> Self {
        let (stop, calls) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let failed = Arc::<Mutex<Vec<String>>>::default();
        let http = client();
        let work = |worker: usize| {
            let (stop, calls, failed) = (Arc::clone(&stop), Arc::clone(&calls), Arc::clone(&failed));
            let (idp, url, http) = (Arc::clone(idp), url.to_owned(), http.clone());
            tokio::spawn(async move {
                for number in 0_usize.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let token = idp.token(&format!("user-{worker}-{number}"), CALLERS).await;
                    let answer = call_tool_over(&http, &url, Some(&token), "tool-0", json!({})).await;
                    if answer.status != 200 {
                        failed.lock().unwrap().push(format!("{answer:?}"));
                    }
                    calls.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let workers = (0..4).map(work).collect();
        Self { stop, calls, failed, workers }
    }

    /// Waits until some more calls, begun after this one, have ended.
    async fn goes_on(&self) {
        let wanted = self.calls.load(Ordering::SeqCst) + 40;
        eventually("calls go on", async || (self.calls.load(Ordering::SeqCst) >= wanted).then_some(())).await;
    }

    async fn ends_without_a_failure(self) {
        self.stop.store(true, Ordering::SeqCst);
        for worker in self.workers {
            worker.await.unwrap();
        }
        let failed = self.failed.lock().unwrap().clone();
        assert!(failed.is_empty(), "{} of {:?} calls failed: {failed:#?}", failed.len(), self.calls);
    }
}

/// A `skep proxy run` with a RunConfig, and the secret in a file as Kubernetes mounts it.
struct Pod {
    _child: Child,
    _log: Output,
    url: String,
    folder: TempDir,
    backend: McpBackend,
}

impl Pod {
    async fn start(idp: &Idp, first: &str) -> Self {
        let (backend, port) = (McpBackend::with_tools(1).await, free_port());
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().join("secrets");
        fs::create_dir(&mount).unwrap();
        publish(&mount, first);
        let config = json!({
            "schema_version": "v0.1.0", "name": "pod", "transport": "streamable-http",
            "remote_url": backend.mcp_url(), "host": "127.0.0.1", "port": port,
            "oidc_config": {
                "Issuer": idp.issuer, "Audience": CALLERS, "InsecureAllowHTTP": true, "AllowPrivateIP": true,
            },
            "token_exchange_config": {
                "token_url": format!("{}/token", idp.issuer), "client_id": "skep", "audience": BACKEND,
            },
            "skep": {"secret_files": {VARIABLE: mount.join("client-secret")}},
        });
        fs::write(folder.path().join("runconfig.json"), config.to_string()).unwrap();
        let args = ["proxy", "run", "--egress-loopback", "--drain-pre-stop=0"];
        let mut command = skep::command(folder.path(), args);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Output::read(child.stderr.take().unwrap());
        log.line_with("the proxy is up").await;
        let url = format!("http://127.0.0.1:{port}/mcp");
        Self { _child: child, _log: log, url, folder, backend }
    }

    /// Replaces the secret in the way of the kubelet.
    fn publish(&self, secret: &str) {
        publish(&self.folder.path().join("secrets"), secret);
    }
}

/// A mounted Secret: `client-secret` is a link into `..data`, which is a link to a folder with a version, and
/// is replaced in one step.
fn publish(mount: &Path, secret: &str) {
    let version = format!("..version-{secret}");
    fs::create_dir(mount.join(&version)).unwrap();
    fs::write(mount.join(&version).join("client-secret"), secret).unwrap();
    symlink(&version, mount.join("..data_tmp")).unwrap();
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    if fs::symlink_metadata(mount.join("client-secret")).is_err() {
        symlink("..data/client-secret", mount.join("client-secret")).unwrap();
    }
}

#[tokio::test]
async fn a_secret_is_replaced_in_the_file_first_and_no_call_fails() {
    let name = "rotation::a_secret_is_replaced_in_the_file_first_and_no_call_fails";
    let Some(node) = Node::find(name) else { return };
    let idp = Arc::new(Idp::start(&node).await);
    let pod = Pod::start(&idp, "skep-secret").await;
    let crowd = Crowd::start(&idp, &pod.url);
    crowd.goes_on().await;
    pod.publish("second-secret");
    // The provider has not heard of it yet.
    crowd.goes_on().await;
    crowd.goes_on().await;
    // And now the old one is worth nothing, from one moment to the next.
    idp.accept_secrets("skep", &["second-secret"]).await;
    crowd.goes_on().await;
    crowd.goes_on().await;
    crowd.ends_without_a_failure().await;
    assert!(pod.backend.requests().len() >= 200, "every call got through");
}

#[tokio::test]
async fn a_secret_is_replaced_at_the_provider_first_and_no_call_fails() {
    let name = "rotation::a_secret_is_replaced_at_the_provider_first_and_no_call_fails";
    let Some(node) = Node::find(name) else { return };
    let idp = Arc::new(Idp::start(&node).await);
    let pod = Pod::start(&idp, "skep-secret").await;
    let crowd = Crowd::start(&idp, &pod.url);
    crowd.goes_on().await;
    idp.accept_secrets("skep", &["skep-secret", "second-secret"]).await;
    crowd.goes_on().await;
    pod.publish("second-secret");
    // No watch can have seen the file yet: it is read again when the old secret is refused.
    idp.accept_secrets("skep", &["second-secret"]).await;
    crowd.goes_on().await;
    crowd.goes_on().await;
    crowd.ends_without_a_failure().await;
}

#[tokio::test]
async fn a_secret_of_a_manifest_is_replaced_and_no_call_fails() {
    let name = "rotation::a_secret_of_a_manifest_is_replaced_and_no_call_fails";
    let Some(node) = Node::find(name) else { return };
    let scene = Exchanging::start(&node).await;
    let text = fs::read_to_string(scene.file("proxy.yaml")).unwrap();
    let (url, idp, folder) = (scene.url.clone(), Arc::new(scene.idp), scene.folder);
    let crowd = Crowd::start(&idp, &url);
    crowd.goes_on().await;
    let (before, _) = text.split_once("apiVersion: v1\nkind: Secret").unwrap();
    let mut old = CONFIDENTIAL.secret.to_owned();
    for (round, provider_first) in [true, false, true].into_iter().enumerate() {
        let new = format!("secret-{round}");
        if provider_first {
            idp.accept_secrets("skep", &[&old, &new]).await;
            crowd.goes_on().await;
        }
        fs::write(folder.path().join("proxy.yaml"), format!("{before}{}", secret(&new))).unwrap();
        // What `skep up` has read is all that it knows, so the old one is good until it has.
        let taken = |lines: &[String]| {
            let count = lines.iter().filter(|line| line.contains("exchanging was changed")).count();
            (count > round).then_some(())
        };
        scene.up.stderr.find("exchanging was changed", taken).await;
        crowd.goes_on().await;
        idp.accept_secrets("skep", &[&new]).await;
        crowd.goes_on().await;
        old = new;
    }
    crowd.ends_without_a_failure().await;
}

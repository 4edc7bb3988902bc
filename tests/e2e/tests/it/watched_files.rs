//! Files that a configuration names: read again when they change, wherever they are and whatever was wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use skep_testkit::server::Recorded;
use skep_testkit::{FakeIdp, McpBackend, free_port, token_endpoint};
use tempfile::TempDir;
use tokio::process::Child;

use crate::harness::http::{call_tool, get};
use crate::harness::output::Output;
use crate::harness::up::Up;
use crate::harness::{eventually, skep};

/// A `skep proxy run` whose RunConfig the test writes.
struct Pod {
    child: Child,
    log: Output,
    url: String,
    status: String,
    folder: TempDir,
    config: Value,
    idp: FakeIdp,
    backend: McpBackend,
}

impl Pod {
    async fn start() -> Self {
        let (idp, backend) = (FakeIdp::start().await, McpBackend::with_tools(1).await);
        let (port, metrics) = (free_port(), free_port());
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "schema_version": "v0.1.0", "name": "pod", "transport": "streamable-http",
            "remote_url": backend.mcp_url(), "host": "127.0.0.1", "port": port,
            "oidc_config": {
                "Issuer": idp.issuer(), "Audience": "tests", "InsecureAllowHTTP": true, "AllowPrivateIP": true,
            },
            "telemetry_config": {"prometheusPort": metrics},
        });
        fs::write(folder.path().join("runconfig.json"), config.to_string()).unwrap();
        let args = ["proxy", "run", "--egress-loopback", "--drain-pre-stop=0"];
        let mut command = skep::command(folder.path(), args);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Output::read(child.stderr.take().unwrap());
        log.line_with("the proxy is up").await;
        let url = format!("http://127.0.0.1:{port}/mcp");
        let status = format!("http://127.0.0.1:{metrics}/status");
        Self { child, log, url, status, folder, config, idp, backend }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Changes the RunConfig: the server gets the content of this file in X-Key.
    fn send_key_of(&self, file: &Path) {
        let mut config = self.config.clone();
        config["header_forward"] = json!({"add_headers_from_secret": {"X-Key": "KEY"}});
        config["skep"] = json!({"secret_files": {"TOOLHIVE_SECRET_KEY": file}});
        fs::write(self.file("runconfig.json"), config.to_string()).unwrap();
    }

    /// Calls a tool, which has to work, and returns the key that the server got.
    async fn key(&self) -> Option<String> {
        let token = self.idp.token("tester", "tests");
        let answer = call_tool(&self.url, Some(&token), "tool-0", json!({})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        self.backend.requests().pop().unwrap().header("x-key").map(str::to_owned)
    }

    async fn status(&self) -> Value {
        get(&self.status).await.message()
    }

    async fn refusal(&self) -> String {
        eventually("a refusal", async || {
            let status = self.status().await;
            status["proxies"][0]["config"]["lastRefusal"].as_str().map(str::to_owned)
        })
        .await
    }
}

#[tokio::test]
async fn a_refused_configuration_comes_into_force_when_its_file_is_mended() {
    let pod = Pod::start().await;
    fs::create_dir(pod.file("secrets")).unwrap();
    let secret = pod.file("secrets").join("key");
    fs::write(&secret, "").unwrap();
    pod.send_key_of(&secret);
    assert!(pod.refusal().await.contains("KEY"));
    assert_eq!(pod.key().await, None, "the old configuration stays");

    fs::write(&secret, "first").unwrap();
    eventually("it is in force", async || (pod.key().await.as_deref() == Some("first")).then_some(())).await;
    assert_eq!(pod.status().await["proxies"][0]["config"]["lastRefusal"], Value::Null);
    fs::write(&secret, "second").unwrap();
    eventually("and goes on", async || (pod.key().await.as_deref() == Some("second")).then_some(())).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_watched_ends_nothing_and_is_taken_once_it_is_there() {
    let mut pod = Pod::start().await;
    assert_eq!(pod.status().await["files"], json!({"watched": true, "reason": null}));
    let secret = pod.file("later").join("key");
    pod.send_key_of(&secret);
    let refusal = pod.refusal().await;
    assert!(refusal.contains("later/key") && refusal.contains("No such file"), "{refusal}");
    pod.log.line_with("not all files can be watched").await;
    let files = pod.status().await["files"].clone();
    assert_eq!(files["watched"], false);
    assert!(files["reason"].as_str().unwrap().contains("later"), "{files}");
    assert_eq!(pod.key().await, None, "the old configuration stays");

    fs::create_dir(pod.file("later")).unwrap();
    fs::write(&secret, "first").unwrap();
    eventually("it is in force", async || (pod.key().await.as_deref() == Some("first")).then_some(())).await;
    eventually("it is watched", async || (pod.status().await["files"]["watched"] == true).then_some(()))
        .await;

    // A folder that is made anew is another one to the operating system.
    fs::remove_dir_all(pod.file("later")).unwrap();
    fs::create_dir(pod.file("later")).unwrap();
    fs::write(&secret, "second").unwrap();
    eventually("and goes on", async || (pod.key().await.as_deref() == Some("second")).then_some(())).await;
    assert!(pod.child.try_wait().unwrap().is_none(), "{}", pod.log.text());
}

/// The actor's token in a request of the token endpoint.
fn actor(request: &Recorded) -> Option<String> {
    let body = String::from_utf8_lossy(&request.body).into_owned();
    body.split('&').find_map(|field| field.strip_prefix("actor_token=")).map(str::to_owned)
}

#[tokio::test]
async fn a_file_of_this_machine_is_read_again_by_skep_up() {
    let (idp, backend) = (FakeIdp::start().await, McpBackend::with_tools(1).await);
    let endpoint = McpBackend::start(|_: &Recorded| token_endpoint::issued("exchanged", 600)).await;
    let folder = tempfile::tempdir().unwrap();
    let (manifests, svid) = (folder.path().join("manifests"), folder.path().join("svid").join("token"));
    fs::create_dir(&manifests).unwrap();
    fs::create_dir(svid.parent().unwrap()).unwrap();
    fs::write(&svid, "first-svid").unwrap();
    let (remote, port, issuer) = (backend.mcp_url(), free_port(), idp.issuer());
    let (token_url, file) = (endpoint.mcp_url(), svid.display());
    let manifest = format!(
        "apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPRemoteProxy
metadata:
  name: acting
spec:
  remoteUrl: {remote}
  proxyPort: {port}
  oidcConfig:
    type: inline
    resourceUrl: http://127.0.0.1:{port}/mcp
    inline:
      issuer: {issuer}
      audience: tests
      insecureAllowHTTP: true
      jwksAllowPrivateIP: true
  externalAuthConfigRef:
    name: exchange
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPExternalAuthConfig
metadata:
  name: exchange
spec:
  type: tokenExchange
  tokenExchange:
    tokenUrl: {token_url}
    clientId: skep
    audience: backend
    actorToken: spiffe
    spiffe:
      jwtSvidFile: {file}
"
    );
    fs::write(manifests.join("proxy.yaml"), manifest).unwrap();
    let up = Up::of(&manifests).await;
    let url = up.url("MCPRemoteProxy", "acting");
    let call = async |user: &str| call_tool(&url, Some(&idp.token(user, "tests")), "tool-0", json!({})).await;
    let last_actor = || endpoint.requests().last().and_then(actor);
    assert_eq!(call("alice").await.status, 200);
    assert_eq!(last_actor().as_deref(), Some("first-svid"));

    fs::write(&svid, "second-svid").unwrap();
    up.stderr.line_with("acting was changed").await;
    assert_eq!(call("bob").await.status, 200);
    assert_eq!(last_actor().as_deref(), Some("second-svid"));

    // One that goes away is refused with its cause, and the old one stays until there is another.
    fs::remove_file(&svid).unwrap();
    up.stderr.line_with("acting goes on as before").await;
    let status = up.ready["metrics"].as_str().unwrap().replace("/metrics", "/status");
    let refusal = get(&status).await.message()["proxies"][0]["config"]["lastRefusal"].clone();
    assert!(refusal.as_str().unwrap().contains("No such file"), "{refusal}");
    fs::write(&svid, "third-svid").unwrap();
    let users = (0..).map(|number| format!("user-{number}"));
    let users = std::sync::Mutex::new(users);
    eventually("the new one is used", async || {
        let user = users.lock().unwrap().next().unwrap();
        (call(&user).await.status == 200 && last_actor().as_deref() == Some("third-svid")).then_some(())
    })
    .await;
    for text in [up.stdout.text(), up.stderr.text()] {
        assert!(!text.contains("-svid"), "{text}");
    }
}

//! `skep proxy run` while its RunConfig says that no call is let through, and what it reports meanwhile.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use skep_api::report::{ProxyReport, RemoteReason};
use skep_testkit::{FakeIdp, McpBackend, free_port};
use tempfile::TempDir;
use tokio::process::Child;

use crate::harness::http::{Answer, call_tool, get};
use crate::harness::output::Output;
use crate::harness::{eventually, skep};

struct Pod {
    _child: Child,
    url: String,
    diagnostics: String,
    folder: TempDir,
    config: Value,
    idp: FakeIdp,
    backend: McpBackend,
}

impl Pod {
    /// Starts it with the RunConfig that `change` makes of a good one.
    async fn start(change: impl FnOnce(&mut Value)) -> Self {
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
            "skep": {"allow_private_endpoint": true},
        });
        let mut first = config.clone();
        change(&mut first);
        fs::write(folder.path().join("runconfig.json"), first.to_string()).unwrap();
        let mut command =
            skep::command(folder.path(), ["proxy", "run", "--egress-loopback", "--drain-pre-stop=0"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Output::read(child.stderr.take().unwrap());
        log.line_with("the proxy is up").await;
        let url = format!("http://127.0.0.1:{port}/mcp");
        let diagnostics = format!("http://127.0.0.1:{metrics}");
        Self { _child: child, url, diagnostics, folder, config, idp, backend }
    }

    fn write(&self, suspended: &str) -> String {
        let mut config = self.config.clone();
        config["skep"]["suspended"] = json!(suspended);
        let text = config.to_string();
        fs::write(self.folder.path().join("runconfig.json"), &text).unwrap();
        text
    }

    async fn call(&self) -> Answer {
        call_tool(&self.url, Some(&self.idp.token("tester", "tests")), "tool-0", json!({})).await
    }

    async fn becomes(&self, status: u16) {
        eventually("it is so", async || (self.call().await.status == status).then_some(())).await;
    }

    async fn report(&self) -> ProxyReport {
        serde_json::from_value(get(&format!("{}/status", self.diagnostics)).await.message()).unwrap()
    }
}

#[tokio::test]
async fn a_proxy_is_suspended_and_resumed_without_a_restart() {
    let pod = Pod::start(|_| {}).await;
    assert_eq!(pod.call().await.status, 200);
    let report = eventually("the remote server is probed", async || {
        let report = pod.report().await;
        report.proxies[0].remote.is_some().then_some(report)
    })
    .await;
    let proxy = &report.proxies[0];
    assert_eq!(proxy.remote.as_ref().unwrap().reason, RemoteReason::Answered);
    assert!(proxy.authentication.as_ref().unwrap().available && report.files.watched);
    assert_eq!(report.version, env!("CARGO_PKG_VERSION"));

    let text = pod.write("the MCPOIDCConfig that it refers to is gone");
    pod.becomes(503).await;
    let answer = pod.call().await;
    assert_eq!(answer.message()["error"]["code"], 503);
    assert_eq!(get(&format!("{}/readyz", pod.diagnostics)).await.status, 200);
    let report = pod.report().await;
    let proxy = &report.proxies[0];
    assert_eq!(proxy.suspended.as_deref(), Some("the MCPOIDCConfig that it refers to is gone"));
    assert_eq!((&proxy.remote, &proxy.authentication), (&None, &None));
    let checksum: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(proxy.run_config.checksum, Some(checksum));
    let calls = |pod: &Pod| {
        let of = |request: &&skep_testkit::Recorded| request.rpc_method() == "tools/call";
        pod.backend.requests().iter().filter(of).count()
    };
    let before = calls(&pod);
    assert_eq!(pod.call().await.status, 503);
    assert_eq!(calls(&pod), before);

    pod.write("");
    pod.becomes(200).await;
    assert_eq!(pod.report().await.proxies[0].suspended, None);
}

#[tokio::test]
async fn a_suspended_proxy_starts_without_its_secrets() {
    let pod = Pod::start(|config| {
        config["skep"]["suspended"] = json!("the MCPExternalAuthConfig that it refers to is gone");
        config["remote_auth_config"] = json!({"bearer_token_file": "/nonexistent/token"});
        config["authz_config_path"] = json!("/nonexistent/authz.json");
    })
    .await;
    assert_eq!(pod.call().await.status, 503);
    assert_eq!(get(&format!("{}/readyz", pod.diagnostics)).await.status, 200);
    pod.write("");
    pod.becomes(200).await;
}

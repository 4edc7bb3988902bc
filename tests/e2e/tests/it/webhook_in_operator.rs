//! `skep operator --webhook`: one process that reconciles and admits.

use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skep_api::crd::definition::definitions;
use skep_testkit::control_plane::{Assets, ControlPlane, Options};
use skep_testkit::{TestCa, free_port};
use tokio::process::Command;

use crate::harness::http::get;
use crate::harness::output::Output;
use crate::harness::{eventually, skep};

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_serves_the_webhook_when_it_is_told_to() {
    let Some(assets) = Assets::find_or_skip() else { return };
    let plane = ControlPlane::start(&assets, Options { controllers: vec![] }).await;
    for definition in definitions() {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let (code, body) = plane.request("POST", path, "application/json", &definition.to_string()).await;
        assert_eq!(code, 201, "{body}");
    }
    let home = tempfile::tempdir().unwrap();
    let (ca, port, health) = (TestCa::new(), free_port(), free_port());
    let certificate = ca.server(&["127.0.0.1"]);
    std::fs::write(home.path().join("tls.crt"), &certificate.certificate_pem).unwrap();
    std::fs::write(home.path().join("tls.key"), &certificate.key_pem).unwrap();
    let mut command = skep::command(
        home.path(),
        [
            "operator".to_owned(),
            "--webhook".to_owned(),
            format!("--port={port}"),
            format!("--webhook-cert-path={}", home.path().display()),
            "--sidecar-image=own:1".to_owned(),
            "--sidecar-mode=builtin".to_owned(),
            "--metrics-bind-address=0".to_owned(),
            format!("--health-probe-bind-address=127.0.0.1:{health}"),
            format!("--kubeconfig={}", plane.kubeconfig().display()),
        ],
    );
    command.env("POD_NAMESPACE", "default");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = Output::read(child.stderr.take().unwrap());
    log.line_with("admission reviews are answered").await;
    let health = format!("http://127.0.0.1:{health}");
    eventually("both are ready", async || {
        (get(&format!("{health}/readyz")).await.status == 200).then_some(())
    })
    .await;

    let client = trusting(&ca);
    let server = json!({"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServer",
        "metadata": {"name": "s", "namespace": "default"}, "spec": {"image": "server:1", "transport": "stdio"}});
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "1", "operation": "CREATE", "namespace": "default", "name": "s", "object": server, "dryRun": true,
        "kind": {"group": "toolhive.stacklok.dev", "version": "v1beta1", "kind": "MCPServer"},
        "resource": {"group": "toolhive.stacklok.dev", "version": "v1beta1", "resource": "mcpservers"},
        "userInfo": {"username": "admin", "groups": ["system:masters"]},
    }});
    let url = format!("https://127.0.0.1:{port}/mutate-toolhive-stacklok-dev-v1beta1-mcpserver");
    let answer: Value = client.post(&url).json(&review).send().await.unwrap().json().await.unwrap();
    let response = &answer["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("1"), &json!(true)), "{answer}");
    let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let patch: Value = serde_json::from_slice(&patch).unwrap();
    assert!(patch.to_string().contains("own:1"), "{patch}");

    // And the operator works: it says what the server lacks.
    let path = "/apis/toolhive.stacklok.dev/v1beta1/namespaces/default/mcpservers";
    let (code, body) = plane.request("POST", path, "application/json", &server.to_string()).await;
    assert_eq!(code, 201, "{body}");
    eventually("the operator writes a status", async || {
        let (_, server) = plane.request("GET", &format!("{path}/s"), "", "").await;
        server["status"]["conditions"].is_array().then_some(())
    })
    .await;

    let id = child.id().unwrap().to_string();
    Command::new("/bin/kill").arg(&id).status().await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0), "{}", log.text());
}

/// A client that believes this CA alone.
#[expect(clippy::disallowed_methods, reason = "the guarded client is for skep; a test calls skep itself")]
fn trusting(ca: &TestCa) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(ca.pem().as_bytes()).unwrap();
    reqwest::Client::builder().tls_certs_only([root]).no_proxy().build().unwrap()
}

//! A server as it was written in October 2025, when `oidcConfig` stood in the object itself: later versions of
//! ToolHive drop the block in silence and let everybody in.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use serde_json::{Value, json};
use skep_testkit::{FakeIdp, McpBackend, free_port};
use tokio::process::Command;

use crate::harness::http::call_tool;
use crate::harness::output::Output;
use crate::harness::skep;

/// Name of the provider in the manifest; a manifest can't point at loopback, so the test does afterwards.
const PROVIDER: &str = "login.example.com";

fn manifest(issuer: &str, port: u16, target: u16) -> String {
    format!(
        r#"apiVersion: toolhive.stacklok.dev/v1alpha1
kind: MCPServer
metadata:
  name: tickets
  generation: 7
spec:
  image: example/tickets:1
  transport: streamable-http
  proxyMode: streamable-http
  port: {port}
  targetPort: {target}
  args: [serve]
  groupRef: support
  tools: [tool-0]
  oidcConfig:
    type: inline
    resourceUrl: http://127.0.0.1:{port}/mcp
    inline:
      issuer: {issuer}
      audience: tests
      clientId: toolhive
      clientSecret: not-a-real-value
      insecureAllowHTTP: true
      jwksAllowPrivateIP: true
  audit:
    enabled: true
"#
    )
}

/// Starts the proxy with these arguments in place of those of its Deployment, if any, and calls it.
async fn calls(arguments: Option<&[&str]>) {
    let (idp, backend, port) = (FakeIdp::start().await, McpBackend::with_tools(2).await, free_port());
    let target: u16 = backend.mcp_url().rsplit(':').next().unwrap().trim_end_matches("/mcp").parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let issuer = idp.issuer().replace("127.0.0.1", PROVIDER);
    fs::write(folder.path().join("server.yaml"), manifest(&issuer, port, target)).unwrap();
    let run = skep::run(folder.path(), ["render", "-o", "json", "-f", "server.yaml"]).await;
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(!run.stdout.contains("not-a-real-value"), "a secret in a manifest goes nowhere");
    let rendered: Value = serde_json::from_str(&run.stdout).unwrap();
    let object = |kind: &str| {
        rendered["items"].as_array().unwrap().iter().find(|object| object["kind"] == kind).unwrap().clone()
    };

    let text = object("ConfigMap")["data"]["runconfig.json"].as_str().unwrap().replace(PROVIDER, "127.0.0.1");
    let mut config: Value = serde_json::from_str(&text).unwrap();
    assert!(config["oidc_config"]["Issuer"].is_string(), "{config}");
    config["host"] = json!("127.0.0.1");
    // The Service of the backend.
    config["target_host"] = json!("127.0.0.1");
    fs::write(folder.path().join("runconfig.json"), config.to_string()).unwrap();

    let runner = folder.path().join("thv-proxyrunner");
    symlink(skep::binary(), &runner).unwrap();
    let container = &object("Deployment")["spec"]["template"]["spec"]["containers"][0];
    let own: Vec<String> = serde_json::from_value(container["args"].clone()).unwrap();
    let mut command = Command::new(runner);
    match arguments {
        Some(given) => command.args(given),
        None => command.args(&own),
    };
    command.arg("--egress-loopback").arg("--drain-pre-stop=0").current_dir(folder.path());
    command.env("THV_MCPSERVER_GENERATION", "7");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let log = Output::read(child.stderr.take().unwrap());
    let _records = Output::read(child.stdout.take().unwrap());
    log.line_with("the proxy is up").await;

    let url = format!("http://127.0.0.1:{port}/mcp");
    let refused = call_tool(&url, None, "tool-0", json!({})).await;
    assert_eq!(refused.status, 401, "{refused:?}");
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(challenge.contains("resource_metadata="), "{challenge}");
    let token = idp.token("tester", "somebody-else");
    assert_eq!(call_tool(&url, Some(&token), "tool-0", json!({})).await.status, 401, "another audience");
    assert!(backend.requests().is_empty(), "nothing has reached the server");

    let token = idp.token("tester", "tests");
    let answer = call_tool(&url, Some(&token), "tool-0", json!({})).await;
    assert_eq!(answer.status, 200, "{answer:?}\n{}", log.text());
    assert!(backend.requests().iter().all(|request| request.header("authorization").is_none()));
    let hidden = call_tool(&url, Some(&token), "tool-1", json!({})).await;
    assert!(hidden.status != 200 || hidden.message().get("error").is_some(), "`tools` holds too: {hidden:?}");
}

#[tokio::test]
async fn an_inline_oidc_config_still_keeps_strangers_out() {
    calls(None).await;
}

#[tokio::test]
async fn it_does_so_too_with_the_arguments_of_toolhives_operators() {
    calls(Some(&["run", "--foreground=true", "example/tickets:1"])).await;
    let patch =
        r#"--k8s-pod-patch={"spec":{"serviceAccountName":"tickets-sa","containers":[{"name":"mcp"}]}}"#;
    calls(Some(&["run", patch, "example/tickets:1"])).await;
}

//! The official SDK clients, through the proxy, to the MCP project's own demonstration server, with tokens
//! of a real OpenID provider.

use std::fs;

use serde_json::{Value, json};
use skep_testkit::free_port;
use tempfile::TempDir;

use crate::harness::exchanging::secret;
use crate::harness::external::{Node, Running, python_sdk_client};
use crate::harness::http::client;
use crate::harness::idp::Idp;
use crate::harness::up::Up;

/// A proxy in front of server-everything.
///
/// The bot may call echo, the sum, the long operation and the sampling request; `get-env` shows the server's environment and is
/// for administrators. `get-sum` is renamed to `sum`, and no other tool is shown.
struct Guarded {
    up: Up,
    url: String,
    idp: Idp,
    _server: Running,
    _folder: TempDir,
}

impl Guarded {
    async fn start(node: &Node) -> Self {
        Self::of(node, |_, manifest| manifest).await
    }

    /// One that exchanges its callers' tokens.
    async fn exchanging(node: &Node) -> Self {
        Self::of(node, exchanging).await
    }

    async fn of(node: &Node, change: impl Fn(&str, String) -> String) -> Self {
        let idp = Idp::start(node).await;
        let (server, backend) = node.server_everything().await;
        let port = free_port();
        let folder = tempfile::tempdir().unwrap();
        let manifest = change(&idp.issuer, manifest(&idp.issuer, &backend, port));
        fs::write(folder.path().join("everything.yaml"), manifest).unwrap();
        let up = Up::of(folder.path()).await;
        let url = up.url("MCPRemoteProxy", "everything");
        Self { up, url, idp, _server: server, _folder: folder }
    }

    /// An access token of the provider for this proxy (client credentials, RFC 8707 resource).
    async fn token(&self, client_id: &str) -> String {
        let form = [("grant_type", "client_credentials"), ("scope", "mcp"), ("resource", &self.url)];
        let request = client().post(format!("{}/token", self.idp.issuer));
        let response = request.basic_auth(client_id, Some(format!("{client_id}-secret"))).form(&form);
        let answer: Value = response.send().await.unwrap().json().await.unwrap();
        answer["access_token"].as_str().unwrap_or_else(|| panic!("no token in {answer}")).to_owned()
    }
}

fn manifest(issuer: &str, backend: &str, port: u16) -> String {
    format!(
        r#"
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPRemoteProxy
metadata:
  name: everything
spec:
  remoteUrl: {backend}
  proxyPort: {port}
  transport: streamable-http
  oidcConfig:
    type: inline
    resourceUrl: http://127.0.0.1:{port}/mcp
    inline:
      issuer: {issuer}
      audience: http://127.0.0.1:{port}/mcp
      insecureAllowHTTP: true
      jwksAllowPrivateIP: true
  toolConfigRef:
    name: everything
  authzConfig:
    type: inline
    inline:
      policies:
        - permit(principal, action == Action::"call_tool", resource == Tool::"echo");
        - permit(principal, action == Action::"call_tool", resource == Tool::"get-sum");
        - permit(principal, action == Action::"call_tool", resource == Tool::"trigger-long-running-operation");
        - permit(principal, action == Action::"call_tool", resource == Tool::"trigger-sampling-request");
        - permit(principal in THVGroup::"admins", action == Action::"call_tool", resource == Tool::"get-env");
        - permit(principal, action == Action::"get_prompt", resource == Prompt::"args-prompt");
        - permit(principal, action == Action::"read_resource", resource == Resource::"demo://resource/dynamic/text/7");
        - permit(principal, action == Action::"read_resource", resource == Resource::"demo://resource/static/document/features.md");
  audit:
    enabled: true
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPToolConfig
metadata:
  name: everything
spec:
  toolsFilter: [echo, sum, trigger-long-running-operation, trigger-sampling-request, get-env]
  toolsOverride:
    get-sum:
      name: sum
      description: Adds two numbers.
"#
    )
}

/// The manifest with an exchange of the caller's token.
fn exchanging(issuer: &str, manifest: String) -> String {
    let refers = "  externalAuthConfigRef:\n    name: everything\n  audit:\n";
    format!(
        "{}---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPExternalAuthConfig
metadata:
  name: everything
spec:
  type: tokenExchange
  tokenExchange:
    tokenUrl: {issuer}/token
    clientId: skep
    clientSecretRef:
      name: skep-client
      key: secret
    audience: urn:test:everything
---
{}",
        manifest.replace("  audit:\n", refers),
        secret("skep-secret")
    )
}

/// What both clients see alike when they come with the token of `build-bot`.
fn assert_what_the_bot_sees(seen: &Value) {
    assert!(seen["error"].is_null(), "{seen}");
    assert_eq!(seen["server"], "mcp-servers/everything");
    assert_eq!(seen["resources"], json!(["demo://resource/static/document/features.md"]));
    assert_eq!(seen["prompts"], json!(["args-prompt"]));
    assert_eq!(seen["echo"], "Echo: h\u{e9}llo");
    let progress: Vec<f64> = seen["progress"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
    assert_eq!(progress, [1.0, 2.0, 3.0, 4.0]);
    assert!(seen["long"].as_str().unwrap().starts_with("Long running operation completed"), "{seen}");
    assert_eq!(seen["resource"], "demo://resource/dynamic/text/7");
    assert_eq!(seen["prompt"], "What's weather in Bern?");
    assert_eq!(seen["after"], "Echo: still here");
}

#[tokio::test]
async fn the_typescript_sdk_works_through_the_proxy() {
    let name = "sdk_clients::the_typescript_sdk_works_through_the_proxy";
    let Some(node) = Node::find(name) else { return };
    let guarded = Guarded::start(&node).await;

    let seen = node.sdk_client(&guarded.url, &guarded.token("build-bot").await, "get-env").await;
    assert_what_the_bot_sees(&seen);
    let tools = ["echo", "sum", "trigger-long-running-operation", "trigger-sampling-request"];
    assert_eq!(seen["tools"], json!(tools));
    assert!(seen["sampled"].as_str().unwrap().contains("sampled by the client"), "{seen}");
    assert_eq!(seen["session"], true, "the server's session reaches the client");
    assert_eq!(seen["refused"]["code"], 403, "{seen}");
    assert!(seen["refused"]["message"].as_str().unwrap().contains("Unauthorized"), "{seen}");

    let admin = node.sdk_client(&guarded.url, &guarded.token("release-bot").await, "get-env").await;
    assert!(admin["error"].is_null(), "{admin}");
    let tools = ["echo", "get-env", "sum", "trigger-long-running-operation", "trigger-sampling-request"];
    assert_eq!(admin["tools"], json!(tools));
    assert_eq!(admin["refused"], Value::Null, "administrators may call get-env");

    let stranger = node.sdk_client(&guarded.url, "", "get-env").await;
    assert_eq!(stranger["error"]["code"], 401, "{stranger}");
}

#[tokio::test]
async fn the_typescript_sdk_uses_the_new_name_of_a_tool_and_never_the_old_one() {
    let name = "sdk_clients::the_typescript_sdk_uses_the_new_name_of_a_tool_and_never_the_old_one";
    let Some(node) = Node::find(name) else { return };
    let guarded = Guarded::start(&node).await;
    let token = guarded.token("build-bot").await;

    let old_name = node.sdk_client(&guarded.url, &token, "get-sum").await;
    assert_eq!(old_name["refused"]["code"], -32602, "{old_name}");
    let new_name = node.sdk_client(&guarded.url, &token, "sum").await;
    assert_ne!(new_name["refused"]["code"], 403, "sum may be called, though not without numbers: {new_name}");
}

#[tokio::test]
async fn the_python_sdk_works_through_the_proxy() {
    let name = "sdk_clients::the_python_sdk_works_through_the_proxy";
    let Some(node) = Node::find(name) else { return };
    let guarded = Guarded::start(&node).await;
    let token = guarded.token("build-bot").await;

    let Some(seen) = python_sdk_client(name, &guarded.url, &token, "get-env").await else { return };
    assert_what_the_bot_sees(&seen);
    assert_eq!(seen["tools"], json!(["echo", "sum", "trigger-long-running-operation"]));
    assert_eq!(seen["protocol"], "2025-11-25");
    assert_ne!(seen["refused"], Value::Null, "{seen}");

    let denied = |record: &Value| record["outcome"] == "denied" && record["target"]["name"] == "get-env";
    let records = guarded.up.audit(1, denied).await;
    assert_eq!(records[0]["type"], "mcp_tool_call");
    assert_eq!(
        records[0]["subjects"]["client_name"],
        Value::Null,
        "a client's name is known from initialize only"
    );
}

#[tokio::test]
async fn both_sdks_work_through_a_proxy_that_exchanges_their_tokens() {
    let name = "sdk_clients::both_sdks_work_through_a_proxy_that_exchanges_their_tokens";
    let Some(node) = Node::find(name) else { return };
    let guarded = Guarded::exchanging(&node).await;
    let token = guarded.token("build-bot").await;

    let seen = node.sdk_client(&guarded.url, &token, "get-env").await;
    assert_what_the_bot_sees(&seen);
    assert_eq!(seen["session"], true, "{seen}");
    assert_eq!(seen["refused"]["code"], 403, "{seen}");
    let Some(seen) = python_sdk_client(name, &guarded.url, &token, "get-env").await else { return };
    assert_what_the_bot_sees(&seen);
    assert_eq!(guarded.idp.exchanges().await.issued, 1, "one for both clients, with all their sessions");

    // A client whose token the provider no longer exchanges is told to get another one.
    guarded.idp.fail("invalid_request").await;
    let refused = node.sdk_client(&guarded.url, &guarded.token("release-bot").await, "get-env").await;
    assert_eq!(refused["error"]["code"], 401, "{refused}");
}

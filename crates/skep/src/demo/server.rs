//! The MCP server of the demo: four tools, no state, loopback only.

use std::fmt::Write as _;
use std::io;

use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rmcp::handler::server::common::Extension;
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolResult, ContentBlock, Implementation, ServerCapabilities, ServerConfig};
use rmcp::schemars::{self, JsonSchema};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ServerHandler, tool, tool_handler, tool_router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The path of the MCP endpoint.
pub(crate) const PATH: &str = "/mcp";

const INSTRUCTIONS: &str =
    "A demo. whoami shows which identity reached this server; nothing is ever deleted.";

/// Serves until `shutdown`, then finishes the calls that run.
///
/// Every MCP version from 2024-11-05 to 2026-07-28 is spoken, without sessions, and a call is answered with
/// plain JSON: a single `curl` is enough.
///
/// # Errors
/// When the listener is open to other machines, or breaks.
pub(crate) async fn serve(listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
    let address = listener.local_addr()?;
    if !address.ip().to_canonical().is_loopback() {
        let problem = format!("the demo MCP server has no authentication and refuses to listen on {address}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_cancellation_token(shutdown.clone());
    let service =
        StreamableHttpService::new(|| Ok(DemoServer::new()), NeverSessionManager::default().into(), config);
    let router = axum::Router::new().nest_service(PATH, service).layer(middleware::from_fn(widen_accept));
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

/// MCP wants a client to name both JSON and event streams. What answers here is always JSON, so a client
/// that takes JSON is served as well: `curl` sends `*/*`, `curl --json` only `application/json`.
async fn widen_accept(mut request: Request, next: Next) -> Response {
    if request.method() == Method::POST && takes_json(request.headers()) {
        let both = HeaderValue::from_static("application/json, text/event-stream");
        request.headers_mut().insert(header::ACCEPT, both);
    }
    next.run(request).await
}

fn takes_json(headers: &HeaderMap) -> bool {
    let fields: Vec<_> = headers.get_all(header::ACCEPT).iter().collect();
    let kinds = fields.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let mut named = kinds.map(|kind| kind.split(';').next().unwrap_or_default().trim());
    fields.is_empty() || named.any(|kind| kind == "*/*" || kind.eq_ignore_ascii_case("application/json"))
}

#[derive(Debug, Clone)]
struct DemoServer {
    tool_router: ToolRouter<Self>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct EchoArguments {
    /// What to say back.
    text: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct AddArguments {
    /// The first number.
    a: i64,
    /// The second number.
    b: i64,
}

#[tool_router]
impl DemoServer {
    fn new() -> Self {
        Self { tool_router: Self::tool_router() }
    }

    #[tool(
        description = "Says back what it is told.",
        annotations(title = "Echo", read_only_hint = true, open_world_hint = false)
    )]
    fn echo(&self, Parameters(arguments): Parameters<EchoArguments>) -> CallToolResult {
        CallToolResult::success(vec![ContentBlock::text(arguments.text)])
    }

    #[tool(
        description = "Adds two whole numbers.",
        annotations(title = "Add", read_only_hint = true, open_world_hint = false)
    )]
    fn add(&self, Parameters(AddArguments { a, b }): Parameters<AddArguments>) -> CallToolResult {
        match a.checked_add(b) {
            Some(sum) => CallToolResult::success(vec![ContentBlock::text(sum.to_string())]),
            None => CallToolResult::error(vec![ContentBlock::text("the sum does not fit into 64 bits")]),
        }
    }

    #[tool(
        description = "Shows the identity that this call reached the server with.",
        annotations(title = "Who am I", read_only_hint = true, open_world_hint = false)
    )]
    fn whoami(&self, Extension(parts): Extension<Parts>) -> CallToolResult {
        let (text, facts) = identity(&parts);
        let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
        result.structured_content = Some(facts);
        result
    }

    #[tool(
        description = "Pretends to delete everything.",
        annotations(
            title = "Delete everything",
            read_only_hint = false,
            destructive_hint = true,
            open_world_hint = false
        )
    )]
    fn delete_everything(&self) -> CallToolResult {
        CallToolResult::success(vec![ContentBlock::text(
            "Everything would be gone now. This is a demo: nothing was deleted.",
        )])
    }
}

#[tool_handler(router = self.tool_router)]
impl ServerHandler for DemoServer {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("skep-demo", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }
}

/// What the request says about who sent it: a text to read and the same as data. The signature of a token is
/// not checked here (the proxy did that), and the answer says so.
fn identity(parts: &Parts) -> (String, Value) {
    let credential = parts.headers.get(header::AUTHORIZATION);
    let Some(credential) = credential else {
        return ("no credential reached this server".to_owned(), json!({"credential": null}));
    };
    let Some(claims) = credential.to_str().ok().and_then(bearer_claims) else {
        let text = "a credential reached this server, but it is no bearer token in JWT form".to_owned();
        return (text, json!({"credential": "opaque"}));
    };
    let shown = |name: &str| match claims.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(", "),
        Some(other) => other.to_string(),
        None => "(none)".to_owned(),
    };
    let mut text = String::new();
    for (label, claim) in [
        ("subject", "sub"),
        ("audience", "aud"),
        ("issuer", "iss"),
        ("scopes", "scope"),
        ("groups", "groups"),
        ("client", "client_id"),
    ] {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{label}: {}", shown(claim));
    }
    // Who exchanged the subject's token for this one (RFC 8693 §4.1).
    let actor = claims.pointer("/act/sub");
    let _ = writeln!(text, "actor: {}", actor.and_then(Value::as_str).unwrap_or("(none)"));
    text.push_str("(read from the token, signature not checked by this server)");
    let facts = json!({
        "credential": "bearer",
        "verified": false,
        "subject": claims.get("sub"),
        "audience": claims.get("aud"),
        "issuer": claims.get("iss"),
        "scope": claims.get("scope"),
        "groups": claims.get("groups"),
        "clientId": claims.get("client_id"),
        "actor": actor,
    });
    (text, facts)
}

fn bearer_claims(credential: &str) -> Option<Value> {
    let (scheme, token) = credential.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let payload = token.trim().split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.is_object().then_some(claims)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use skep_testkit::{Answer, FakeIdp, TokenSpec, raw};

    use super::*;

    struct Running {
        address: SocketAddr,
        _stop: tokio_util::sync::DropGuard,
    }

    async fn start() -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, stop.clone()));
        Running { address, _stop: stop.drop_guard() }
    }

    async fn post(running: &Running, headers: &[(&str, &str)], message: &Value) -> Answer {
        let mut all = vec![("Content-Type", "application/json")];
        all.extend(headers);
        raw::request(running.address, "POST", PATH, &all, message.to_string().as_bytes()).await
    }

    fn call(name: &str, arguments: &Value) -> Value {
        json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": name, "arguments": arguments}})
    }

    fn text(answer: &Answer) -> String {
        let body = answer.json();
        body["result"]["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("{}", answer.text()))
            .to_owned()
    }

    #[tokio::test]
    async fn one_post_is_enough_to_call_a_tool() {
        let running = start().await;
        for headers in [
            &[][..],
            &[("Accept", "*/*")],
            &[("Accept", "application/json")],
            &[("Accept", "application/json, text/event-stream"), ("MCP-Protocol-Version", "2025-11-25")],
            &[("Accept", "application/json, text/event-stream"), ("MCP-Protocol-Version", "2025-06-18")],
        ] {
            let answer = post(&running, headers, &call("echo", &json!({"text": "hi"}))).await;
            assert_eq!(answer.status, 200, "{headers:?}: {}", answer.text());
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(answer.json()["id"], 7);
            assert_eq!(text(&answer), "hi");
        }
    }

    #[tokio::test]
    async fn every_version_is_spoken() {
        let running = start().await;
        for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
            let message = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
                "protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"},
            }});
            let answer = post(&running, &[], &message).await;
            assert_eq!(answer.json()["result"]["protocolVersion"], version, "{}", answer.text());
            assert_eq!(answer.json()["result"]["serverInfo"]["name"], "skep-demo");
        }
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        });
        let mut message = call("add", &json!({"a": 40, "b": 2}));
        message["params"]["_meta"] = meta;
        let headers =
            [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "add")];
        let answer = post(&running, &headers, &message).await;
        assert_eq!(text(&answer), "42");
        assert_eq!(answer.json()["result"]["resultType"], "complete");
    }

    #[tokio::test]
    async fn the_tools_say_what_they_do() {
        let running = start().await;
        let answer = post(&running, &[], &json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})).await;
        insta::assert_json_snapshot!(answer.json()["result"]["tools"]);
    }

    #[tokio::test]
    async fn add_adds_whole_numbers_and_refuses_the_rest() {
        let running = start().await;
        let add =
            async |a: Value, b: Value| post(&running, &[], &call("add", &json!({"a": a, "b": b}))).await;
        assert_eq!(text(&add(json!(2), json!(-5)).await), "-3");
        let overflow = add(json!(i64::MAX), json!(1)).await.json();
        assert_eq!(overflow["result"]["isError"], true);
        assert_eq!(add(json!("2"), json!(2)).await.json()["result"]["isError"], true);
        assert_eq!(post(&running, &[], &call("nothing", &json!({}))).await.json()["error"]["code"], -32602);
    }

    #[tokio::test]
    async fn whoami_shows_the_token_that_arrived() {
        let running = start().await;
        let whoami = async |credential: Option<String>| {
            let headers: Vec<_> = credential.iter().map(|c| ("Authorization", c.as_str())).collect();
            post(&running, &headers, &call("whoami", &json!({}))).await
        };
        assert_eq!(text(&whoami(None).await), "no credential reached this server");
        let opaque = text(&whoami(Some("Basic Y2k6c2VjcmV0".to_owned())).await);
        assert!(opaque.contains("no bearer token") && !opaque.contains("Y2k6"), "{opaque}");

        let idp = FakeIdp::start().await;
        let spec = TokenSpec::valid("u-alice", "https://mcp.example")
            .claim("scope", "mcp:tools")
            .claim("groups", json!(["admins", "eng"]));
        let token = idp.mint(&spec.issuer("https://id.example"));
        let answer = whoami(Some(format!("Bearer {token}"))).await;
        insta::assert_snapshot!(text(&answer));
        let facts = &answer.json()["result"]["structuredContent"];
        assert_eq!(facts["subject"], "u-alice");
        assert_eq!(facts["verified"], false);
        assert!(!answer.text().contains(&token), "the token itself is not shown");
    }

    #[tokio::test]
    async fn a_client_that_takes_no_json_is_refused() {
        let running = start().await;
        let answer = post(&running, &[("Accept", "text/html")], &call("echo", &json!({"text": "hi"}))).await;
        assert_eq!(answer.status, 406);
    }

    #[tokio::test]
    async fn another_host_name_is_refused() {
        let running = start().await;
        let answer = post(&running, &[("Host", "evil.example")], &call("echo", &json!({"text": "hi"}))).await;
        assert_eq!(answer.status, 403);
    }

    #[tokio::test]
    async fn a_listener_open_to_others_is_refused() {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let refused = serve(listener, CancellationToken::new()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}

//! A proxy that lets no call through, and how it becomes one and ceases to be one.

use std::sync::Arc;

use serde_json::{Value, json};
use skep_testkit::backend::streams;
use skep_testkit::server::Step;
use skep_testkit::{Answer, FakeIdp, Gate, McpBackend, RawConnection, Reply, TokenSpec, raw};

use crate::harness::{AUDIENCE, Harness, call, soon};
use crate::outgoing::TokenEndpoint;

const REASON: &str = "the MCPOIDCConfig acme-login is gone";

fn suspended() -> Value {
    json!({"skep": {"suspended": REASON}})
}

impl Harness {
    fn change(&self, changes: Value) {
        self.proxy.reload(self.changed(changes).unwrap()).unwrap();
    }
}

fn is_refusal(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.header("retry-after"), Some("30"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let body = answer.json();
    assert_eq!((&body["jsonrpc"], &body["error"]["code"]), (&json!("2.0"), &json!(503)));
    assert!(body.get("id").is_none(), "{body}");
    assert!(!answer.text().contains("acme"), "the reason is nobody's business: {body}");
}

#[tokio::test]
async fn no_call_is_let_through_until_the_configuration_says_otherwise() {
    let harness = Harness::start(json!({})).await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    harness.change(suspended());
    let message = call("tool-0").to_string();
    let mut records = 1;
    for (method, body) in [("POST", message.as_bytes()), ("GET", b""), ("DELETE", b""), ("PUT", b"{}")] {
        is_refusal(&harness.send(method, "/mcp", &[], body).await);
        is_refusal(&raw::request(harness.address, method, "/", &[], body).await);
        records += 2;
    }
    assert_eq!(harness.backend.requests().len(), 1, "only the call of before");
    let written = harness.audit.wait(records).await;
    let last = written.iter().rfind(|record| record["target"]["method"] == "DELETE").unwrap();
    assert_eq!((&last["outcome"], &last["metadata"]["extra"]["http_status"]), (&json!("error"), &json!(503)));
    assert_eq!(last["subjects"]["user"], "anonymous", "nobody is asked who they are");
    assert_eq!(harness.metric(r#"toolhive_remote_proxy_requests_total{proxy="demo",status="503"}"#), 8.0);
    assert_eq!(harness.metric(r#"skep_proxy_suspended{proxy="demo"}"#), 1.0);
    assert_eq!(harness.metric(r#"skep_proxy_anonymous{proxy="demo"}"#), 0.0);
    assert_eq!(harness.proxy.status()["suspended"], REASON);
    assert_eq!(harness.proxy.status()["authentication"], Value::Null);

    harness.change(json!({"skep": {"suspended": null}}));
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(raw::post_rpc(harness.address, "/mcp", None, &call("tool-0")).await.status, 401);
    assert_eq!(harness.metric(r#"skep_proxy_suspended{proxy="demo"}"#), 0.0);
    assert_eq!(harness.proxy.status()["suspended"], Value::Null);
}

#[tokio::test]
async fn what_is_no_call_is_answered_as_ever() {
    let harness = Harness::start(suspended()).await;
    let metadata = "/.well-known/oauth-protected-resource";
    for (path, status) in
        [("/readyz", 200), ("/healthz", 200), ("/health", 200), (metadata, 200), ("/x", 404)]
    {
        assert_eq!(raw::get(harness.address, path).await.status, status, "{path}");
    }
    let known = raw::get(harness.address, metadata).await.json();
    assert_eq!(known["authorization_servers"], json!([harness.idp.issuer()]));
    // A page in a browser reads the answer only after this one.
    assert_eq!(harness.send("OPTIONS", "/mcp", &[], b"").await.status, 204);
    assert!(harness.idp.server().requests().is_empty(), "nobody asks the issuer for anything");
}

#[tokio::test]
async fn what_is_under_way_ends() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = McpBackend::start(move |request| {
        let wait = Step::Wait(held.clone());
        match (request.method.as_str(), request.rpc_id()) {
            ("GET", _) => Reply::sse([": open\n\n"]).step(wait),
            (_, Value::Number(_)) => {
                let last = json!({"jsonrpc": "2.0", "id": 1, "result": {"content": []}});
                Reply::sse([": begun\n\n"]).step(wait).step(Step::Send(streams::event(&last).into()))
            }
            _ => Reply::raw([wait]),
        }
    })
    .await;
    let harness = Harness::before(backend, json!({})).await;
    let mut standing = RawConnection::open(harness.address).await;
    let authorization = harness.bearer();
    let head =
        format!("GET /mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {authorization}\r\n\r\n", harness.address);
    standing.send(head.as_bytes()).await;
    assert_eq!(standing.read_head().await.status, 200);
    assert_eq!(standing.read_chunk().await.unwrap(), b": open\n\n");
    let post = async |message: &Value| {
        let mut connection = RawConnection::open(harness.address).await;
        let body = message.to_string();
        connection.send(harness.head(&format!("Content-Length: {}\r\n", body.len())).as_bytes()).await;
        connection.send(body.as_bytes()).await;
        connection
    };
    let mut streaming = post(&call("tool-0")).await;
    assert_eq!(streaming.read_head().await.status, 200);
    assert_eq!(streaming.read_chunk().await.unwrap(), b": begun\n\n");
    let mut waiting = post(&json!({"jsonrpc": "2.0", "id": "w", "method": "ping"})).await;
    soon("all three are there", harness.backend.wait_for_requests(3)).await;
    // Streams of every version of the configuration end, not those of the last one alone.
    harness.change(json!({"tools_filter": ["tool-0"]}));

    harness.change(suspended());
    assert_eq!(soon("the standing stream's end", standing.read_chunk()).await.unwrap(), b"");
    let event = soon("the call's end", streaming.read_chunk()).await.unwrap();
    let event = String::from_utf8_lossy(&event).into_owned();
    assert!(event.contains("\"code\":503") && event.contains("\"id\":1"), "{event}");
    assert_eq!(streaming.read_chunk().await.unwrap(), b"");
    is_refusal(&soon("the waiting call's end", waiting.read_answer()).await);
    soon("the server is left alone", harness.backend.wait_for_aborts(3)).await;
    let records = harness.audit.wait(3).await;
    assert!(records.iter().all(|record| record["outcome"] == "error"), "{records:#?}");

    gate.open();
    harness.change(json!({"skep": {"suspended": null}}));
    assert_eq!(harness.post(&call("tool-0")).await.status, 200, "streams live again");
}

#[tokio::test]
async fn a_suspended_proxy_starts_without_anything_that_it_would_need() {
    let changes = json!({
        "skep": {"suspended": REASON, "secret_files": {"TOOLHIVE_SECRET_GONE": "/nonexistent/secret"}},
        "header_forward": {"add_headers_from_secret": {"X-Key": "GONE"}},
        "authz_config_path": "/nonexistent/authz.json",
        "audit_config": {"logFile": "/nonexistent/audit.log"},
        "middleware_configs": [{"type": "of-another-version"}],
    });
    let harness = Harness::start(changes).await;
    is_refusal(&harness.post(&call("tool-0")).await);
    is_refusal(&harness.send("POST", "/tools", &[], b"{}").await);
    let with_name = [("Host", "mcp.example")];
    is_refusal(&raw::request(harness.address, "POST", "/tools", &with_name, b"{}").await);
    assert_eq!(raw::get(harness.address, "/readyz").await.status, 200);
    assert_eq!(raw::get(harness.address, "/.well-known/oauth-protected-resource").await.status, 503);
    assert_eq!(raw::get(harness.address, "/x").await.status, 404);
    let records = harness.audit.wait(3).await;
    assert_eq!(records[0]["metadata"]["extra"]["http_status"], 503, "there is an audit all the same");
    assert!(harness.backend.requests().is_empty());
    // Mending half of it lets nobody in.
    assert!(harness.changed(json!({"skep": {"suspended": null}})).is_err());
    is_refusal(&harness.post(&call("tool-0")).await);
    let mended = json!({
        "skep": {"suspended": null, "secret_files": null}, "header_forward": null, "authz_config_path": null,
        "audit_config": {"logFile": null}, "middleware_configs": null,
    });
    harness.change(mended);
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
}

#[tokio::test]
async fn only_what_cannot_be_understood_at_all_is_refused() {
    let harness = Harness::start(suspended()).await;
    for changes in [json!({"schema_version": "v9"}), json!({"host": "nowhere"}), json!({"no_such_key": 1})] {
        assert!(harness.changed(changes.clone()).is_err(), "{changes}");
    }
}

#[tokio::test]
async fn nothing_that_was_got_for_callers_outlives_it() {
    let endpoint = TokenEndpoint::start().await;
    let harness = Harness::start(endpoint.config()).await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(endpoint.calls(), 1);
    harness.change(suspended());
    assert_eq!(harness.proxy.status()["credential"], Value::Null);
    is_refusal(&harness.post(&call("tool-0")).await);
    assert_eq!(endpoint.calls(), 1, "no credential is made");
    harness.change(json!({"skep": {"suspended": null}}));
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(endpoint.calls(), 2);
}

#[tokio::test]
async fn the_issuers_of_before_are_not_those_of_after() {
    let harness = Harness::start(json!({})).await;
    let token = harness.token("alice");
    let post = async |token: &str| raw::post_rpc(harness.address, "/mcp", Some(token), &call("tool-0")).await;
    assert_eq!(post(&token).await.status, 200);
    let other = FakeIdp::with_clock(Arc::new(harness.clock.clone())).await;
    let issuer = json!({"Issuer": other.issuer()});
    harness.change(json!({"skep": {"suspended": REASON}, "oidc_config": issuer}));
    harness.change(json!({"oidc_config": issuer}));
    assert_eq!(post(&token).await.status, 401);
    assert_eq!(post(&other.mint(&TokenSpec::valid("alice", AUDIENCE))).await.status, 200);
}

#[tokio::test]
async fn a_refused_change_leaves_it_suspended() {
    let harness = Harness::start(suspended()).await;
    let bad =
        harness.changed(json!({"remote_url": "http://169.254.169.254/mcp", "skep": {"suspended": null}}));
    assert!(harness.proxy.reload(bad.unwrap()).is_err());
    is_refusal(&harness.post(&call("tool-0")).await);
    assert_eq!(harness.proxy.status()["suspended"], REASON);
}

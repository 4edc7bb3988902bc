//! The proxy asks on its own whether the remote server is there.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skep_proxy::probe::ProbeTimes;
use skep_runtime::drain::Phase;
use skep_testkit::backend::{replies, well_behaved};
use skep_testkit::server::Step;
use skep_testkit::{McpBackend, Recorded, Reply, ScriptedServer, TestCa, Tls, free_port, raw};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Harness, call, soon, until};
use crate::outgoing::{TokenEndpoint, merged};

/// Longest wait for an answer in tests that want none.
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(10);
const UP: &str = r#"toolhive_remote_proxy_remote_up{proxy="demo"}"#;

/// Times for a test that has no minute.
const OFTEN: ProbeTimes = ProbeTimes { interval: Duration::from_millis(5), timeout: LONG };
const ONCE: ProbeTimes = ProbeTimes { interval: Duration::from_secs(3600), timeout: LONG };

impl Harness {
    /// What `/status` says of the remote server after a probe.
    async fn probed(&self, timeout: Duration) -> Value {
        soon("a probe ends", self.proxy.probe(timeout)).await;
        self.proxy.status()["remote"].clone()
    }
}

fn methods(requests: &[Recorded]) -> Vec<(String, String)> {
    requests.iter().map(|request| (request.method.clone(), request.rpc_method())).collect()
}

#[tokio::test]
async fn a_server_that_answers_is_there_and_no_caller_is_counted() {
    let harness = Harness::start(json!({})).await;
    assert_eq!(harness.proxy.status()["remote"], Value::Null, "nothing is said before the first probe");
    assert!(!harness.metrics_text().contains("remote_up{"));
    let expected = json!({
        "reachable": true, "reason": "Answered", "status": 200, "checked": "2026-01-01T00:00:00Z",
        "since": "2026-01-01T00:00:00Z", "message": "the remote MCP server answers with HTTP 200",
    });
    assert_eq!(harness.probed(LONG).await, expected);
    let requests = harness.backend.requests();
    assert_eq!(methods(&requests), [("POST".to_owned(), "initialize".to_owned())]);
    assert_eq!(requests[0].header("authorization"), None);
    assert_eq!(requests[0].json()["params"]["protocolVersion"], "2025-11-25");
    assert_eq!(requests[0].json()["params"]["clientInfo"]["name"], "skep-probe");
    assert_eq!(harness.metric(UP), 1.0);
    assert_eq!(harness.proxy.status()["backendAvailable"], Value::Null, "that is about calls");
    // What callers do comes after it, in metrics and in the audit log.
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(harness.audit.last(1).await["type"], "mcp_tool_call");
    let text = harness.metrics_text();
    assert!(!text.contains("initialize"), "{text}");
    assert_eq!(harness.metric(r#"toolhive_remote_proxy_requests_total{proxy="demo",status="200"}"#), 1.0);
}

#[tokio::test]
async fn any_answer_in_http_will_do() {
    let harness = Harness::start(json!({})).await;
    for status in [202, 301, 307, 400, 401, 403, 404, 405, 429, 500, 502, 503] {
        let elsewhere = "http://169.254.169.254/";
        harness.backend.set_handler(move |_| Reply::status(status).header("Location", elsewhere));
        let remote = harness.probed(LONG).await;
        assert_eq!((&remote["reachable"], &remote["status"]), (&json!(true), &json!(status)));
        assert_eq!(remote["since"], "2026-01-01T00:00:00Z", "it has been there all the time");
        harness.clock.advance(Duration::from_secs(60));
    }
    assert_eq!(harness.proxy.status()["remote"]["checked"], "2026-01-01T00:11:00Z");
}

/// URL of a server that answers whatever it is sent in plain text, as web servers do on a TLS port that is
/// none.
async fn plain_to_everybody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut hello = [0; 4096];
            let _ = stream.read(&mut hello).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    format!("https://{address}/mcp")
}

#[tokio::test]
async fn each_way_not_to_be_there_has_a_reason() {
    let tls = Tls::new(&TestCa::new());
    let stranger = ScriptedServer::start_tls(&tls, |_| Reply::status(200)).await;
    let plain = plain_to_everybody().await;
    let garbage = ScriptedServer::start(|_| Reply::raw_bytes("SSH-2.0-OpenSSH_9.9\r\n")).await;
    let resets = ScriptedServer::start(|_| Reply::reset()).await;
    let hangs = ScriptedServer::start(|_| Reply::hang()).await;
    let nobody = format!("http://127.0.0.1:{}/mcp", free_port());
    let harness = Harness::start(json!({})).await;
    for (url, reason, says) in [
        (nobody, "ConnectionFailed", "onnection refused"),
        (stranger.url("/mcp"), "TlsFailed", "UnknownIssuer"),
        (plain, "TlsFailed", "cannot be secured"),
        (garbage.url("/mcp"), "NoAnswer", "without an HTTP answer"),
        (resets.url("/mcp"), "NoAnswer", "without an HTTP answer"),
        (hangs.url("/mcp"), "TimedOut", "did not answer within 0.2 s"),
        ("http://no-such-name.invalid/mcp".to_owned(), "NameNotResolved", "does not resolve"),
    ] {
        harness.proxy.reload(harness.changed(json!({"remote_url": url})).unwrap()).unwrap();
        assert_eq!(harness.proxy.status()["remote"], Value::Null, "{url}: what was known is of another");
        let timeout = if reason == "TimedOut" { SHORT } else { LONG };
        let remote = harness.probed(timeout).await;
        assert_eq!((&remote["reachable"], &remote["reason"]), (&json!(false), &json!(reason)), "{remote}");
        assert!(remote["message"].as_str().unwrap().contains(says), "{remote}");
        assert_eq!((harness.metric(UP), &remote["status"]), (0.0, &Value::Null));
        assert_eq!(harness.probed(timeout).await, remote, "the words stay the same");
    }
    assert_eq!(raw::get(harness.address, "/readyz").await.status, 200, "that is not its fault");
}

#[tokio::test]
async fn going_and_coming_back_is_seen() {
    let harness = Harness::start(json!({})).await;
    for (down, reachable, since) in [
        (false, true, "2026-01-01T00:00:00Z"),
        (true, false, "2026-01-01T00:01:00Z"),
        (true, false, "2026-01-01T00:01:00Z"),
        (false, true, "2026-01-01T00:03:00Z"),
    ] {
        match down {
            true => harness.backend.down().await,
            false => harness.backend.up().await,
        }
        let remote = harness.probed(LONG).await;
        assert_eq!((&remote["reachable"], &remote["since"]), (&json!(reachable), &json!(since)));
        assert_eq!(harness.metric(UP), f64::from(u8::from(reachable)));
        harness.clock.advance(Duration::from_secs(60));
    }
}

#[tokio::test]
async fn a_fixed_credential_is_shown_and_no_other_is_made() {
    let endpoint = TokenEndpoint::start().await;
    let fixed = json!({"header_forward": {"add_headers_from_secret": {"X-Key": "KEY1"}}});
    let harness = Harness::start(merged(endpoint.config(), &fixed)).await;
    harness.probed(LONG).await;
    let request = &harness.backend.requests()[0];
    assert_eq!(request.header("x-key"), Some("s3cret-of-the-backend"));
    assert_eq!(request.header("authorization"), None);
    assert_eq!(endpoint.calls(), 0);
    assert!(!harness.proxy.status().to_string().contains("s3cret"));
}

/// A server that makes a session, and speaks an older version than it is asked for.
fn with_session(request: &Recorded, answer: impl FnOnce(&Recorded, &Value) -> Reply) -> Reply {
    match request.method.as_str() {
        "DELETE" => Reply::status(204),
        _ => {
            let result = json!({"protocolVersion": "2025-06-18", "capabilities": {}});
            answer(request, &result).header("Mcp-Session-Id", "made-for-the-probe")
        }
    }
}

#[tokio::test]
async fn a_session_that_the_probe_made_is_ended() {
    type Answer = fn(&Recorded, &Value) -> Reply;
    let open: Answer = |request, result| replies::sse_result(request, result).step(Step::Hang);
    let hung: Answer = |_, _| Reply::sse([": nothing\n\n"]).step(Step::Hang);
    for (answer, version) in [
        (replies::rpc_result as Answer, "2025-06-18"),
        (replies::sse_result, "2025-06-18"),
        (open, "2025-06-18"),
        (hung, "2025-11-25"),
        (|_, _| Reply::body(200, "application/json", "{"), "2025-11-25"),
        (|request, _| replies::huge_list(request, 1 << 20), "2025-11-25"),
    ] {
        let harness = Harness::scripted(json!({}), move |request| with_session(request, answer)).await;
        let remote = harness.probed(Duration::from_secs(2)).await;
        assert_eq!(remote["reachable"], true, "{remote}");
        let requests = harness.backend.requests();
        let last = requests.last().unwrap();
        assert_eq!((requests.len(), last.method.as_str()), (2, "DELETE"));
        assert_eq!(last.header("mcp-session-id"), Some("made-for-the-probe"));
        assert_eq!(last.header("mcp-protocol-version"), Some(version));
    }
}

#[tokio::test]
async fn a_server_that_does_not_end_sessions_is_there_all_the_same() {
    let harness = Harness::scripted(json!({}), |request| match request.method.as_str() {
        "DELETE" => Reply::hang(),
        _ => with_session(request, replies::rpc_result),
    })
    .await;
    assert_eq!(harness.probed(SHORT).await["reachable"], true);
}

#[tokio::test]
async fn a_modern_server_is_asked_in_its_own_way() {
    let harness = Harness::scripted(json!({}), |request| match request.rpc_method().as_str() {
        "server/discover" => replies::rpc_result(request, &json!({"supportedVersions": ["2026-07-28"]})),
        _ => Reply::body(
            400,
            "application/json",
            json!({"jsonrpc": "2.0", "id": request.rpc_id(), "error": {"code": -32022, "message": "x"}})
                .to_string(),
        ),
    })
    .await;
    for status in [400, 200, 200] {
        let remote = harness.probed(LONG).await;
        assert_eq!((&remote["reachable"], &remote["status"]), (&json!(true), &json!(status)));
    }
    let requests = harness.backend.requests();
    let asked: Vec<String> = requests.iter().map(Recorded::rpc_method).collect();
    assert_eq!(asked, ["initialize", "server/discover", "server/discover"]);
    let last = requests.last().unwrap();
    assert_eq!(last.header("mcp-protocol-version"), Some("2026-07-28"));
    assert_eq!(last.header("mcp-method"), Some("server/discover"));
    let meta = &last.json()["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"], json!({}));
}

#[tokio::test]
async fn it_goes_on_until_the_process_leaves() {
    let harness = Harness::start(json!({})).await;
    let attending = tokio::spawn(Arc::clone(&harness.proxy).attend(OFTEN));
    soon("some probes", harness.backend.wait_for_requests(4)).await;
    harness.drain.advance(Phase::Leaving);
    soon("the last one", attending).await.unwrap();
    let asked = harness.backend.requests().len();
    soon("nothing more", Arc::clone(&harness.proxy).attend(OFTEN)).await;
    assert_eq!(harness.backend.requests().len(), asked);
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
}

#[tokio::test]
async fn another_server_is_asked_at_once() {
    let harness = Harness::start(json!({})).await;
    let other = McpBackend::with_tools(1).await;
    tokio::spawn(Arc::clone(&harness.proxy).attend(ONCE));
    soon("the first probe, right after the start", harness.backend.wait_for_requests(1)).await;
    until("it is known", || harness.proxy.status()["remote"]["reachable"] == true).await;
    // What has nothing to do with it brings about no probe.
    harness.proxy.reload(harness.changed(json!({"tools_filter": ["tool-1"]})).unwrap()).unwrap();
    assert_eq!(harness.proxy.status()["remote"]["reachable"], true);
    harness.proxy.reload(harness.changed(json!({"remote_url": other.mcp_url()})).unwrap()).unwrap();
    soon("the other one", other.wait_for_requests(1)).await;
    until("it is known", || harness.proxy.status()["remote"]["reachable"] == true).await;
    assert_eq!(harness.backend.requests().len(), 1);
    harness.drain.advance(Phase::Leaving);
}

#[tokio::test]
async fn nobody_asks_for_a_proxy_that_is_suspended() {
    let harness = Harness::start(json!({})).await;
    assert_eq!(harness.probed(LONG).await["reachable"], true);
    let suspended = json!({"skep": {"suspended": "as a test wants it"}});
    harness.proxy.reload(harness.changed(suspended).unwrap()).unwrap();
    assert_eq!(harness.probed(LONG).await, Value::Null);
    assert!(!harness.metrics_text().contains("remote_up{"), "nothing is known of it any more");
    assert_eq!(harness.backend.requests().len(), 1);
    harness.proxy.reload(harness.changed(json!({})).unwrap()).unwrap();
    assert_eq!(harness.probed(LONG).await["reachable"], true);
}

#[tokio::test]
async fn a_server_of_ones_own_is_not_probed() {
    let backend = McpBackend::start(|request| well_behaved(request, 1)).await;
    let local = json!({
        "remote_url": null, "target_host": "127.0.0.1", "target_port": backend.address().port(),
    });
    let harness = Harness::before(backend, local).await;
    assert_eq!(harness.probed(LONG).await, Value::Null);
    assert!(harness.backend.requests().is_empty());
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
}

//! To the backend and back: bytes, headers, failures.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use skep_testkit::backend::{replies, streams};
use skep_testkit::server::{Framing, Step};
use skep_testkit::{Gate, McpBackend, RawConnection, Reply, raw};

use crate::harness::{Harness, call, rpc, soon};

async fn failing(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Harness {
    Harness::scripted(json!({"skep": {"limits": {"response_timeout_ms": 300}}}), move |_| reply()).await
}

#[tokio::test]
async fn each_event_is_passed_on_before_the_next_one_comes() {
    let gate = Gate::new();
    let held = gate.clone();
    let harness = Harness::scripted(json!({}), move |request| {
        let first = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}});
        let last = json!({"jsonrpc": "2.0", "id": request.rpc_id(), "result": {"content": []}});
        Reply::sse([streams::event(&first)])
            .step(Step::Wait(held.clone()))
            .step(Step::Send(streams::event(&last).into()))
    })
    .await;
    let mut connection = RawConnection::open(harness.address).await;
    let body = call("x").to_string();
    connection.send(harness.head(&format!("Content-Length: {}\r\n", body.len())).as_bytes()).await;
    connection.send(body.as_bytes()).await;
    let head = connection.read_head().await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    let event = connection.read_chunk().await.unwrap();
    assert!(String::from_utf8_lossy(&event).contains("notifications/progress"));
    gate.open();
    let event = connection.read_chunk().await.unwrap();
    assert!(String::from_utf8_lossy(&event).contains("\"result\""));
    assert_eq!(connection.read_chunk().await.unwrap(), b"");
    assert_eq!(harness.audit.last(1).await["metadata"]["extra"]["transport"], "sse");
}

#[tokio::test]
async fn chunks_of_a_json_answer_are_passed_on_as_they_come() {
    let gate = Gate::new();
    let held = gate.clone();
    let harness = Harness::scripted(json!({}), move |_| {
        Reply::status(200)
            .header("Content-Type", "application/json")
            .framing(Framing::Chunked)
            .step(Step::Send("{\"jsonrpc\":\"2.0\",".into()))
            .step(Step::Wait(held.clone()))
            .step(Step::Send("\"id\":1,\"result\":{}}".into()))
    })
    .await;
    let mut connection = RawConnection::open(harness.address).await;
    let body = call("x").to_string();
    connection.send(harness.head(&format!("Content-Length: {}\r\n", body.len())).as_bytes()).await;
    connection.send(body.as_bytes()).await;
    connection.read_head().await;
    assert_eq!(connection.read_chunk().await.unwrap(), b"{\"jsonrpc\":\"2.0\",");
    gate.open();
    assert_eq!(connection.read_chunk().await.unwrap(), b"\"id\":1,\"result\":{}}");
}

#[tokio::test]
async fn a_backend_that_is_down_is_503_and_heals() {
    let harness = Harness::start(json!({})).await;
    harness.backend.down().await;
    let answer = harness.post(&rpc("a", "tools/call", json!({"name": "x"}))).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    let expected = "the MCP server cannot be reached; try again later";
    assert_eq!(
        answer.json(),
        json!({"jsonrpc": "2.0", "id": "a", "error": {"code": 503, "message": expected}})
    );
    let health = raw::get(harness.address, "/health").await.json();
    assert_eq!((&health["status"], &health["mcp"]["available"]), (&json!("degraded"), &json!(false)));
    assert_eq!(
        raw::get(harness.address, "/readyz").await.status,
        200,
        "readiness does not hang on the backend"
    );
    harness.backend.up().await;
    assert_eq!(harness.post(&call("x")).await.status, 200);
    assert_eq!(raw::get(harness.address, "/health").await.json()["status"], "healthy");
    let records = harness.audit.wait(2).await;
    assert_eq!(records[0]["outcome"], "error");
    assert_eq!(records[0]["metadata"]["extra"]["jsonrpc_error_code"], 503);
}

#[tokio::test]
async fn a_backend_that_does_not_answer_in_http_is_502_or_504() {
    type Make = fn() -> Reply;
    let table: &[(&str, Make, u16)] = &[
        ("silence", Reply::hang, 504),
        ("half a head", || Reply::raw([Step::Send("HTTP/1.1 200 OK\r\nContent-".into()), Step::Hang]), 504),
        ("reset", Reply::reset, 502),
        ("close", || Reply::raw([Step::Close]), 502),
        ("half a head, then close", || Reply::raw_bytes("HTTP/1.1 200 OK\r\nContent-"), 502),
        ("not HTTP", || Reply::raw_bytes("SSH-2.0-OpenSSH_9.2\r\n\r\n"), 502),
        ("an HTTP/2 preface", || Reply::raw_bytes(&b"\0\0\x12\x04\0\0\0\0\0\0\0\0\0"[..]), 502),
        (
            "two lengths",
            || Reply::raw_bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x"),
            502,
        ),
        (
            "a length that is no number",
            || Reply::raw_bytes("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}"),
            502,
        ),
        (
            "a header without end",
            || Reply::raw_bytes(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20))),
            502,
        ),
        (
            "ten thousand headers",
            || Reply::raw_bytes(format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(10_000))),
            502,
        ),
        ("101", replies::switching_protocols, 502),
        ("status 99", || Reply::raw_bytes("HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n"), 502),
    ];
    for (what, make, expected) in table {
        let harness = failing(*make).await;
        let answer = harness.post(&call("x")).await;
        assert_eq!(answer.status, *expected, "{what}: {}", answer.text());
        let error = answer.json();
        assert_eq!((&error["id"], &error["error"]["code"]), (&json!(1), &json!(expected)), "{what}");
        assert_eq!(harness.audit.last(1).await["outcome"], "error", "{what}");
        assert_eq!(harness.backend.requests().len(), 1, "{what}: a call that may have run is not sent twice");
    }
}

#[tokio::test]
async fn informational_answers_before_the_real_one_do_no_harm() {
    let harness = failing(|| {
        Reply::raw_bytes(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        )
    })
    .await;
    let answer = harness.post(&call("x")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    let stream = failing(|| {
        Reply::sse(["data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n", "data: {\"json"])
            .step(Step::Reset)
    })
    .await;
    let answer = stream.post(&call("x")).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.complete && answer.text().contains("notifications/x"));
    assert_eq!(stream.audit.last(1).await["outcome"], "error");
    let short = failing(replies::short_body).await;
    assert!(!short.post(&call("x")).await.complete);
    assert_eq!(short.audit.last(1).await["outcome"], "error");
}

#[tokio::test]
async fn a_stream_that_drips_works_past_the_response_timeout() {
    let harness = Harness::scripted(json!({"skep": {"limits": {"response_timeout_ms": 100}}}), |request| {
        replies::slow_drip(request, &json!({"content": []}), Duration::from_millis(4))
    })
    .await;
    let answer = harness.post(&call("x")).await;
    assert!(answer.complete);
    assert_eq!(answer.text(), streams::event(&json!({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})));
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_call_at_the_backend_and_is_recorded() {
    // Before the head of the answer, and in the middle of a stream; by a reset and by a plain close.
    for (index, (reply, reset)) in [
        (Reply::hang(), true),
        (Reply::hang(), false),
        (Reply::sse(["data: {}\n\n"]).step(Step::Hang), true),
        (Reply::sse(["data: {}\n\n"]).step(Step::Hang), false),
    ]
    .into_iter()
    .enumerate()
    {
        let streaming = index >= 2;
        let harness = Harness::scripted(json!({}), move |_| reply.clone()).await;
        let mut connection = RawConnection::open(harness.address).await;
        let body = call("delete-everything").to_string();
        connection.send(harness.head(&format!("Content-Length: {}\r\n", body.len())).as_bytes()).await;
        connection.send(body.as_bytes()).await;
        soon("the call", harness.backend.wait_for_requests(1)).await;
        if streaming {
            connection.read_head().await;
            connection.read_chunk().await;
        }
        if reset {
            connection.reset();
        } else {
            drop(connection);
        }
        soon(&format!("the end of call {index}"), harness.backend.wait_for_aborts(1)).await;
        let record = harness.audit.last(1).await;
        assert_eq!(record["target"]["name"], "delete-everything", "{index}");
        let status = if streaming { 200 } else { 499 };
        assert_eq!(record["metadata"]["extra"]["http_status"], status, "{index}");
    }
}

#[tokio::test]
async fn answers_of_other_kinds_pass_untouched() {
    let harness = Harness::start(json!({})).await;
    for (status, kind, body) in [
        (200, "application/json", "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}"),
        (200, "text/html", "<html>"),
        (202, "", ""),
        (204, "", ""),
        (
            400,
            "application/json",
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32020,\"message\":\"x\"}}",
        ),
        (403, "text/plain", "no"),
        (
            404,
            "application/json",
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32601,\"message\":\"x\"}}",
        ),
        (405, "text/plain", "no"),
        (409, "text/plain", "\0\u{1}"),
        (500, "text/plain", "oops"),
        (503, "text/plain", "later"),
    ] {
        harness.backend.set_handler(move |_| {
            let reply = if body.is_empty() { Reply::status(status) } else { Reply::body(status, kind, body) };
            reply.header("X-Own", "kept").header("Retry-After", "77").header("Cache-Control", "no-transform")
        });
        let answer = harness.post(&call("x")).await;
        assert_eq!((answer.status, answer.text().as_str()), (status, body));
        assert_eq!(answer.header("x-own"), Some("kept"));
        assert_eq!(answer.header_all("retry-after"), ["77"]);
        assert_eq!(answer.header("cache-control"), Some("no-transform"));
        if !body.is_empty() {
            assert_eq!(answer.header("content-type"), Some(kind));
            assert_eq!(answer.header("content-length"), Some(body.len().to_string().as_str()));
        }
    }
}

#[tokio::test]
async fn a_backends_401_is_its_own_affair_unless_the_token_is_the_clients() {
    let harness = Harness::scripted(json!({}), |_| replies::backend_challenge()).await;
    let answer = harness.post(&call("x")).await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.json()["error"]["message"], "the MCP server refused the proxy's credential");
    assert_eq!(answer.header("www-authenticate"), None);
    harness
        .backend
        .set_handler(|_| Reply::body(403, "text/plain", "no").header("WWW-Authenticate", "Bearer x"));
    let answer = harness.post(&call("x")).await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (403, None));

    let direct =
        Harness::scripted(json!({"skep": {"client_token": "forward"}}), |_| replies::backend_challenge())
            .await;
    let answer = direct.post(&call("x")).await;
    assert_eq!(answer.status, 401);
    assert!(answer.header("www-authenticate").unwrap().contains("backend.example"));
    assert_eq!(direct.audit.last(1).await["outcome"], "denied");
    let seen = &direct.backend.requests()[0];
    assert_eq!(seen.header("authorization"), Some(direct.bearer().as_str()));
    assert_eq!(seen.header("cookie"), None);
}

#[tokio::test]
async fn what_a_backend_says_to_the_proxy_or_to_a_browser_ends_here() {
    let harness = Harness::scripted(json!({"allowed_origins": ["https://app.example"]}), |request| {
        replies::telling_headers(request, &json!({}))
            .header("Alt-Svc", "h3=\":443\"")
            .header("Clear-Site-Data", "\"*\"")
            .header("Strict-Transport-Security", "max-age=1")
            .header("Access-Control-Allow-Origin", "*")
            .header("Access-Control-Allow-Credentials", "true")
            .header("Access-Control-Expose-Headers", "X-Backend")
            .header("WWW-Authenticate", "Bearer")
            .header("X-Request-Id", "backend")
            .header("Upgrade", "h2c")
            .header("Mcp-Session-Id", "session-1")
            .header("MCP-Protocol-Version", "2025-11-25")
            .header("X-Accel-Buffering", "no")
            .header("Vary", "Accept")
    })
    .await;
    let answer = harness.post(&call("x")).await;
    let mut names: Vec<String> = answer.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "content-length",
            "content-type",
            "date",
            "mcp-protocol-version",
            "mcp-session-id",
            "server",
            "vary",
            "x-accel-buffering",
            "x-backend",
            "x-request-id"
        ]
    );
    assert_ne!(answer.header("x-request-id"), Some("backend"));
    assert_eq!(answer.header("mcp-session-id"), Some("session-1"));
    let answer = harness
        .send("POST", "/mcp", &[("Origin", "https://app.example")], call("x").to_string().as_bytes())
        .await;
    assert_eq!(answer.header_all("access-control-allow-origin"), ["https://app.example"]);
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

#[tokio::test]
async fn what_a_client_says_to_the_proxy_ends_here() {
    let changes = json!({"header_forward": {
        "add_plaintext_headers": {"X-Team": "a", "X-Tenant": "t1"}, "add_headers_from_secret": {"X-Api-Key": "KEY1"},
    }});
    let harness = Harness::start(changes).await;
    let headers = [
        ("Cookie", "session=client"),
        ("Connection", "X-Hop, Mcp-Session-Id2 , keep-alive"),
        ("X-Hop", "1"),
        ("Mcp-Session-Id2", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authorization", "Basic eA=="),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "trailers"),
        ("Trailer", "X-T"),
        ("Forwarded", "for=6.6.6.6"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil"),
        ("X-Forwarded-User", "admin"),
        ("X-Forwarded-Client-Cert", "Subject=admin"),
        ("X-Real-IP", "6.6.6.6"),
        ("X-Request-Id", "mine"),
        ("Accept-Encoding", "gzip, br"),
        ("X-Api-Key", "from the client"),
        ("x-team", "b"),
        ("X-Team", "c"),
        ("Accept", "application/json, text/event-stream"),
        ("Mcp-Session-Id", "s-1"),
        ("MCP-Protocol-Version", "2025-11-25"),
        ("Mcp-Param-Region", "eu"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("User-Agent", "test/1"),
        ("X-Custom", "one"),
        ("X-Custom", "two"),
    ];
    let answer = harness.post_bytes(&headers, call("x").to_string().as_bytes()).await;
    assert_eq!(answer.status, 200);
    let seen = &harness.backend.requests()[0];
    let mut names: Vec<String> = seen.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "accept-encoding",
            "content-length",
            "content-type",
            "host",
            "mcp-param-region",
            "mcp-protocol-version",
            "mcp-session-id",
            "traceparent",
            "user-agent",
            "x-api-key",
            "x-custom",
            "x-custom",
            "x-forwarded-for",
            "x-request-id",
            "x-team",
            "x-tenant"
        ]
    );
    for (name, value) in [
        ("accept-encoding", "identity"),
        ("x-api-key", "s3cret-of-the-backend"),
        ("x-team", "a"),
        ("x-forwarded-for", "127.0.0.1"),
        ("mcp-session-id", "s-1"),
        ("mcp-protocol-version", "2025-11-25"),
        ("user-agent", "test/1"),
    ] {
        assert_eq!(seen.header_all(name), [value], "{name}");
    }
    assert_eq!(seen.header_all("x-custom"), ["one", "two"]);
    assert_eq!(seen.header("x-request-id"), answer.header("x-request-id"));
}

#[tokio::test]
async fn a_header_that_connection_names_cannot_take_ours_away() {
    let changes = json!({"header_forward": {"add_headers_from_secret": {"X-Api-Key": "KEY1"}}});
    let harness = Harness::start(changes).await;
    let headers =
        [("Connection", "X-Api-Key, X-Forwarded-For, Content-Type, Host, Content-Length, Authorization")];
    let answer = harness.post_bytes(&headers, call("x").to_string().as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = &harness.backend.requests()[0];
    assert_eq!(seen.header("x-api-key"), Some("s3cret-of-the-backend"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.body, call("x").to_string().as_bytes());
}

#[tokio::test]
async fn get_and_delete_are_forwarded_with_their_headers_and_without_a_body() {
    let harness = Harness::scripted(json!({}), |request| match request.method.as_str() {
        "GET" => Reply::sse([
            "id: 9\ndata: \n\n: keep-alive\n\n",
            "id: 10\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n",
        ]),
        _ => Reply::status(204),
    })
    .await;
    let headers = [("Mcp-Session-Id", "s"), ("Last-Event-ID", "8"), ("Accept", "text/event-stream")];
    let answer = harness.send("GET", "/mcp?after=1", &headers, b"").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.text(),
        "id: 9\ndata: \n\n: keep-alive\n\nid: 10\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n"
    );
    assert_eq!(harness.send("DELETE", "/mcp", &headers, b"").await.status, 204);
    let smuggled = harness.send("DELETE", "/mcp", &[("Content-Length", "5")], b"hello").await;
    assert_eq!(smuggled.status, 204);
    let seen = harness.backend.requests();
    assert_eq!((seen[0].method.as_str(), seen[0].target.as_str()), ("GET", "/mcp?after=1"));
    assert_eq!((seen[0].header("last-event-id"), seen[0].header("mcp-session-id")), (Some("8"), Some("s")));
    assert_eq!((seen[1].method.as_str(), seen[1].header("mcp-session-id")), ("DELETE", Some("s")));
    assert!(seen.iter().all(|request| request.body.is_empty()));
    let records = harness.audit.wait(3).await;
    assert_eq!(
        (&records[0]["type"], &records[1]["type"]),
        (&json!("sse_connection"), &json!("http_request"))
    );
}

#[tokio::test]
async fn queries_are_merged_and_paths_are_not() {
    let backend = McpBackend::with_tools(1).await;
    let url = format!("{}?tenant=a,b&key=%2F", backend.mcp_url());
    let harness = Harness::before(backend, json!({"remote_url": url})).await;
    for (asked, sent) in [
        ("/mcp", "/mcp?tenant=a,b&key=%2F"),
        ("/mcp?x=1,2&y=%20z", "/mcp?tenant=a,b&key=%2F&x=1,2&y=%20z"),
        ("/?tenant=c", "/mcp?tenant=a,b&key=%2F&tenant=c"),
    ] {
        assert_eq!(harness.send("POST", asked, &[], call("x").to_string().as_bytes()).await.status, 200);
        assert_eq!(harness.backend.requests().last().unwrap().target, sent);
    }
}

#[tokio::test]
async fn redirects_within_the_origin_are_followed_with_method_and_body() {
    let harness = Harness::scripted(json!({}), |request| match request.path() {
        "/mcp" => Reply::status(request.header("x-status").unwrap().parse().unwrap())
            .header("Location", "/moved/mcp?x=1"),
        _ => replies::rpc_result(request, &json!({"content": []})),
    })
    .await;
    for status in ["301", "302", "307", "308"] {
        let answer = harness.post_bytes(&[("X-Status", status)], call("x").to_string().as_bytes()).await;
        assert_eq!(answer.status, 200, "{status}");
        let seen = harness.backend.requests();
        let last = seen.last().unwrap();
        assert_eq!((last.method.as_str(), last.target.as_str()), ("POST", "/moved/mcp?x=1"), "{status}");
        assert_eq!(last.body, call("x").to_string().as_bytes());
    }
    let answer = harness.post_bytes(&[("X-Status", "303")], call("x").to_string().as_bytes()).await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/moved/mcp?x=1")));
}

#[tokio::test]
async fn redirects_elsewhere_come_back_and_circles_end() {
    let elsewhere = McpBackend::with_tools(1).await;
    let changes = json!({"header_forward": {"add_headers_from_secret": {"X-Api-Key": "KEY1"}}});
    let harness = Harness::start(changes).await;
    let targets = [
        elsewhere.mcp_url(),
        format!("//{}/mcp", elsewhere.address()),
        "https://127.0.0.1/mcp".to_owned(),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "file:///etc/passwd".to_owned(),
        "javascript:alert(1)".to_owned(),
    ];
    for target in targets {
        let location = target.clone();
        harness.backend.set_handler(move |_| Reply::status(307).header("Location", &location));
        let answer = harness.post(&call("x")).await;
        assert_eq!((answer.status, answer.header("location")), (307, Some(target.as_str())));
    }
    assert_eq!(elsewhere.connections(), 0);
    harness.backend.set_handler(|_| Reply::status(308).header("Location", "/mcp"));
    let answer = harness.post(&call("x")).await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("circles"));
}

#[tokio::test]
async fn an_event_that_is_too_large_ends_the_stream_with_an_error() {
    let harness = Harness::scripted(json!({"skep": {"limits": {"sse_frame_bytes": 5000}}}), |request| {
        let id = request.rpc_id();
        let huge = json!({"jsonrpc": "2.0", "id": id, "result": {"x": "x".repeat(10_000)}});
        Reply::sse_cut(format!("data: {{}}\n\n{}", streams::event(&huge)).as_bytes(), 1000).step(Step::Hang)
    })
    .await;
    let answer = harness.post(&rpc("big", "tools/call", json!({"name": "x"}))).await;
    let text = answer.text();
    assert!(answer.complete && text.starts_with("data: {}\n\n"), "{text}");
    let error: Value = serde_json::from_str(
        text.lines().last().map_or("", |_| text.trim_end().rsplit("data: ").next().unwrap()),
    )
    .unwrap();
    assert_eq!((&error["id"], &error["error"]["code"]), (&json!("big"), &json!(502)));
    soon("the backend is left", harness.backend.wait_for_aborts(1)).await;
    let record = harness.audit.last(1).await;
    assert_ne!(record["outcome"], "success");
}

#[tokio::test]
async fn there_are_only_so_many_streams_at_a_time() {
    let gate = Gate::new();
    let held = gate.clone();
    let harness =
        Harness::scripted(json!({"skep": {"limits": {"streams": 2}}}), move |request| {
            match request.method.as_str() {
                "GET" => Reply::sse([": open\n\n"]).step(Step::Wait(held.clone())),
                _ => replies::rpc_result(request, &json!({})),
            }
        })
        .await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut connection = RawConnection::open(harness.address).await;
        let head = format!(
            "GET /mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\n\r\n",
            harness.address,
            harness.bearer()
        );
        connection.send(head.as_bytes()).await;
        assert_eq!(connection.read_head().await.status, 200);
        open.push(connection);
    }
    let gauge = "toolhive_mcp_active_connections{server=\"demo\",transport=\"streamable-http\",connection_type=\"sse\"}";
    assert!(harness.metric(gauge) == 2.0);
    let answer = harness.post(&call("x")).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"], answer.header("retry-after")),
        (503, &json!(503), Some("5"))
    );
    assert_eq!(harness.backend.requests().len(), 2);
    gate.open();
    for mut connection in open {
        while connection.read_chunk().await.is_some_and(|chunk| !chunk.is_empty()) {}
    }
    crate::harness::until("the places are free", || harness.metric(gauge) == 0.0).await;
    assert_eq!(harness.post(&call("x")).await.status, 200);
}

#[tokio::test]
async fn a_connection_that_the_backend_closed_meanwhile_costs_no_call() {
    let harness = Harness::scripted(json!({}), |request| {
        let body = json!({"jsonrpc": "2.0", "id": request.rpc_id(), "result": {}}).to_string();
        Reply::raw_bytes(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    })
    .await;
    for _ in 0..30 {
        assert_eq!(harness.post(&call("x")).await.status, 200);
    }
    assert_eq!(harness.backend.requests().len(), 30);
}

#[tokio::test]
async fn connections_to_the_backend_are_used_again() {
    let harness = Harness::start(json!({})).await;
    for _ in 0..10 {
        assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    }
    assert_eq!(harness.backend.connections(), 1);
}

#[tokio::test]
async fn a_local_server_that_is_not_remote_is_reached_at_its_port() {
    let backend = McpBackend::with_tools(1).await;
    let port = backend.address().port();
    let changes = json!({"remote_url": null, "target_host": "127.0.0.1", "target_port": port});
    let harness = Harness::before(backend, changes).await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(harness.backend.requests()[0].target, "/mcp");
}

#[tokio::test]
async fn bytes_that_are_no_text_pass_both_ways() {
    let blob: Vec<u8> = (0..=255_u8).cycle().take(70_000).collect();
    let body = blob.clone();
    let harness = Harness::scripted(json!({}), move |_| {
        Reply::body(200, "application/octet-stream", Bytes::from(body.clone()))
    })
    .await;
    assert_eq!(harness.post(&call("x")).await.body, blob);
}

//! To the backend and back: bytes in time, and failures.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use skep_testkit::backend::{replies, streams};
use skep_testkit::server::{Framing, Step};
use skep_testkit::{Gate, RawConnection, Reply, raw};

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
async fn bytes_that_are_no_text_pass_both_ways() {
    let blob: Vec<u8> = (0..=255_u8).cycle().take(70_000).collect();
    let body = blob.clone();
    let harness = Harness::scripted(json!({}), move |_| {
        Reply::body(200, "application/octet-stream", Bytes::from(body.clone()))
    })
    .await;
    assert_eq!(harness.post(&call("x")).await.body, blob);
}

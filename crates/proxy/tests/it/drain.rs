//! Leaving without dropping anybody.

use serde_json::json;
use skep_runtime::drain::Phase;
use skep_testkit::backend::{replies, streams, well_behaved};
use skep_testkit::server::Step;
use skep_testkit::{Gate, McpBackend, RawConnection, Reply, raw};

use crate::harness::{Harness, call, soon, until};

async fn waiting() -> (Harness, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let backend =
        McpBackend::start(move |request| match (request.method.as_str(), request.rpc_method().as_str()) {
            ("GET", _) => Reply::sse([": open\n\n"]).step(Step::Wait(held.clone())),
            (_, "tools/call") => {
                let last = json!({"jsonrpc": "2.0", "id": request.rpc_id(), "result": {"content": []}});
                Reply::sse([": begun\n\n"])
                    .step(Step::Wait(held.clone()))
                    .step(Step::Send(streams::event(&last).into()))
            }
            _ => well_behaved(request, 3),
        })
        .await;
    (Harness::before(backend, json!({})).await, gate)
}

async fn open_stream(harness: &Harness) -> RawConnection {
    let mut stream = RawConnection::open(harness.address).await;
    let head = format!(
        "GET /mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\n\r\n",
        harness.address,
        harness.bearer()
    );
    stream.send(head.as_bytes()).await;
    assert_eq!(stream.read_head().await.status, 200);
    assert_eq!(stream.read_chunk().await.unwrap(), b": open\n\n");
    stream
}

async fn open_call(harness: &Harness) -> RawConnection {
    let mut running = RawConnection::open(harness.address).await;
    let body = call("tool-0").to_string();
    running.send(harness.head(&format!("Content-Length: {}\r\n", body.len())).as_bytes()).await;
    running.send(body.as_bytes()).await;
    assert_eq!(running.read_head().await.status, 200);
    assert_eq!(running.read_chunk().await.unwrap(), b": begun\n\n");
    running
}

#[tokio::test]
async fn a_proxy_that_leaves_is_not_ready_but_serves() {
    let (harness, gate) = waiting().await;
    gate.open();
    assert_eq!(raw::get(harness.address, "/readyz").await.status, 200);
    harness.drain.advance(Phase::Leaving);
    let ready = raw::get(harness.address, "/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["reasons"]["drain"], "the process is shutting down");
    assert_eq!(raw::get(harness.address, "/healthz").await.status, 200);
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
}

#[tokio::test]
async fn a_drain_finishes_calls_and_sends_standing_streams_away() {
    let (harness, gate) = waiting().await;
    let mut stream = open_stream(&harness).await;
    let mut running = open_call(&harness).await;
    harness.drain.advance(Phase::Draining);
    assert_eq!(soon("the stream's end", stream.read_chunk()).await.unwrap(), b"retry: 500\n\n");
    assert_eq!(stream.read_chunk().await.unwrap(), b"");
    soon("the backend's stream ends", harness.backend.wait_for_aborts(1)).await;
    until("nobody listens", || std::net::TcpStream::connect(harness.address).is_err()).await;
    gate.open();
    let event = soon("the answer", running.read_chunk()).await.unwrap();
    assert!(String::from_utf8_lossy(&event).contains("\"result\""));
    assert_eq!(running.read_chunk().await.unwrap(), b"");
    soon("no connection is left", harness.load.idle()).await;
    let records = harness.audit.wait(2).await;
    assert!(records.iter().all(|record| record["outcome"] == "success"), "{records:#?}");
}

#[tokio::test]
async fn a_call_on_a_kept_connection_during_the_drain_is_told_to_come_back() {
    // The connection is busy when the drain begins, so it is still there for one more request.
    let gate = Gate::new();
    let held = gate.clone();
    let harness = Harness::scripted(json!({}), move |request| {
        let body = json!({"jsonrpc": "2.0", "id": request.rpc_id(), "result": {}}).to_string();
        Reply::status(200)
            .header("Content-Type", "application/json")
            .step(Step::Wait(held.clone()))
            .step(Step::Send(body.into()))
    })
    .await;
    let mut kept = RawConnection::open(harness.address).await;
    let body = call("tool-0").to_string();
    let one = format!("{}{body}", harness.head(&format!("Content-Length: {}\r\n", body.len())));
    kept.send(format!("{one}{one}").as_bytes()).await;
    soon("the first call", harness.backend.wait_for_requests(1)).await;
    harness.drain.advance(Phase::Draining);
    gate.open();
    assert_eq!(kept.read_answer().await.status, 200);
    let rest = String::from_utf8_lossy(&kept.read_to_end().await).into_owned();
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 503"), "{rest}");
    assert_eq!(harness.backend.requests().len(), 1);
}

#[tokio::test]
async fn at_the_end_everything_is_cut_off() {
    let (harness, _gate) = waiting().await;
    let mut running = open_call(&harness).await;
    harness.drain.advance(Phase::Stopped);
    assert_eq!(soon("the cut", running.read_chunk()).await, None);
    soon("no connection is left", harness.load.idle()).await;
    soon("the backend is left", harness.backend.wait_for_aborts(1)).await;
}

#[tokio::test]
async fn replies_still_come_from_a_backend_that_answers_late() {
    let harness = Harness::scripted(json!({}), |request| replies::progress(request, 3, 7)).await;
    harness.drain.advance(Phase::Leaving);
    assert!(harness.post(&call("x")).await.text().contains("done"));
}

use serde_json::json;
use skep_testkit::backend::{McpBackend, replies, streams};
use skep_testkit::server::{Framing, Reply, ScriptedServer, Step};
use skep_testkit::{Gate, RawConnection, raw, token_endpoint};

#[tokio::test]
async fn requests_are_recorded_as_they_came() {
    let server = ScriptedServer::start(|_| Reply::status(202)).await;
    let headers = [("X-Two", "a"), ("x-two", "b"), ("Transfer-Encoding", "chunked")];
    let body = b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\n\r\n";
    let answer = raw::request(server.address(), "POST", "/mcp?x=1", &headers, body).await;
    assert_eq!(answer.status, 202);
    let seen = &server.requests()[0];
    assert_eq!((seen.method.as_str(), seen.path(), seen.target.as_str()), ("POST", "/mcp", "/mcp?x=1"));
    assert_eq!(seen.header_all("X-TWO"), ["a", "b"]);
    assert_eq!(seen.body, b"abcde");
}

#[tokio::test]
async fn a_form_is_decoded() {
    let server = ScriptedServer::start(|_| token_endpoint::issued("t", 60)).await;
    let answer = raw::request(server.address(), "POST", "/token", &[], b"a=x+y%2Bz&b=&a=2").await;
    assert_eq!(answer.json()["access_token"], "t");
    let seen = &server.requests()[0];
    assert_eq!(seen.form().len(), 3);
    assert_eq!((seen.form_field("a"), seen.form_field("c")), ("x y+z".to_owned(), String::new()));
}

#[tokio::test]
async fn one_connection_carries_several_requests() {
    let backend = McpBackend::with_tools(2).await;
    let mut connection = RawConnection::open(backend.address()).await;
    for id in 1..=2 {
        let message = json!({"jsonrpc": "2.0", "id": id, "method": "tools/list"}).to_string();
        let answer = connection.request("POST", "/mcp", &[], message.as_bytes()).await;
        assert_eq!(answer.json()["id"], id);
        assert_eq!(answer.json()["result"]["tools"][1]["name"], "tool-1");
    }
    assert_eq!(backend.connections(), 1);
    assert_eq!(backend.requests()[1].rpc_method(), "tools/list");
}

#[tokio::test]
async fn a_stream_is_cut_where_the_test_says() {
    let backend = McpBackend::start(|request| replies::progress(request, 3, 7)).await;
    let mut connection = RawConnection::open(backend.address()).await;
    connection.send(b"GET /mcp HTTP/1.1\r\nHost: x\r\n\r\n").await;
    connection.read_head().await;
    let mut whole = Vec::new();
    while let Some(chunk) = connection.read_chunk().await {
        if chunk.is_empty() {
            break;
        }
        assert!(chunk.len() <= 7);
        whole.extend(chunk);
    }
    assert_eq!(String::from_utf8(whole).unwrap(), streams::progress(&json!(null), 3));
}

#[tokio::test]
async fn a_gate_holds_an_answer_back_and_a_client_that_leaves_is_noticed() {
    let gate = Gate::new();
    let held = gate.clone();
    let server = ScriptedServer::start(move |_| {
        Reply::status(200)
            .framing(Framing::Chunked)
            .step(Step::Send("first".into()))
            .step(Step::Wait(held.clone()))
            .step(Step::Send("second".into()))
    })
    .await;
    let mut stays = RawConnection::open(server.address()).await;
    stays.send(b"GET / HTTP/1.1\r\n\r\n").await;
    stays.read_head().await;
    assert_eq!(stays.read_chunk().await.unwrap(), b"first");

    let mut leaves = RawConnection::open(server.address()).await;
    leaves.send(b"GET / HTTP/1.1\r\n\r\n").await;
    server.wait_for_requests(2).await;
    leaves.reset();
    server.wait_for_aborts(1).await;

    gate.open();
    assert_eq!(stays.read_chunk().await.unwrap(), b"second");
    assert_eq!(stays.read_chunk().await.unwrap(), b"");
}

#[tokio::test]
async fn a_reset_cuts_the_answer() {
    let backend = McpBackend::start(replies::reset_in_stream).await;
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call"});
    let answer = raw::post_rpc(backend.address(), "/mcp", None, &message).await;
    assert!(!answer.complete);
    let backend = McpBackend::start(|_| replies::short_body()).await;
    let answer = raw::post_rpc(backend.address(), "/mcp", None, &message).await;
    assert!(!answer.complete);
}

#[tokio::test]
async fn a_port_that_went_down_comes_back() {
    let backend = McpBackend::with_tools(1).await;
    backend.down().await;
    assert!(tokio::net::TcpStream::connect(backend.address()).await.is_err());
    backend.up().await;
    assert_eq!(raw::get(backend.address(), "/mcp").await.status, 405);
}

#[test]
fn every_odd_stream_holds_the_message_at_the_end() {
    let message = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": []}});
    let oddities = streams::oddities(&message);
    assert!(oddities.len() > 10);
    for odd in oddities {
        let text = String::from_utf8(odd.stream).unwrap();
        assert!(text.contains("\"result\""), "{}", odd.name);
    }
}

//! Single answers, right and wrong.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{streams, tool};
use crate::server::{Framing, Recorded, Reply, Step};

/// The JSON-RPC result of a request, as JSON.
pub fn rpc_result(request: &Recorded, result: &Value) -> Reply {
    Reply::json(&json!({"jsonrpc": "2.0", "id": request.rpc_id(), "result": result}))
}

/// A JSON-RPC error for a request, with status 200.
pub fn rpc_error(request: &Recorded, code: i64, message: &str) -> Reply {
    Reply::json(&json!({
        "jsonrpc": "2.0",
        "id": request.rpc_id(),
        "error": {"code": code, "message": message},
    }))
}

/// The result as the only message of an event stream.
pub fn sse_result(request: &Recorded, result: &Value) -> Reply {
    let message = json!({"jsonrpc": "2.0", "id": request.rpc_id(), "result": result});
    Reply::sse([streams::event(&message)])
}

/// `count` progress notifications and then the result, cut into writes of `cut` bytes.
pub fn progress(request: &Recorded, count: usize, cut: usize) -> Reply {
    Reply::sse_cut(streams::progress(&request.rpc_id(), count).as_bytes(), cut)
}

/// tools/list with one huge description: at least `size` bytes in all.
pub fn huge_list(request: &Recorded, size: usize) -> Reply {
    let mut huge = tool(0);
    huge["description"] = json!("x".repeat(size));
    rpc_result(request, &json!({"tools": [huge]}))
}

/// An event stream whose one event is at least `size` bytes long.
pub fn huge_frame(request: &Recorded, size: usize) -> Reply {
    sse_result(request, &json!({"content": [{"type": "text", "text": "x".repeat(size)}]}))
}

/// An event stream with a line that never ends: `size` bytes and then silence.
pub fn endless_line(size: usize) -> Reply {
    Reply::sse([Bytes::from_static(b"data: "), Bytes::from("x".repeat(size))]).step(Step::Hang)
}

/// An event stream that answers the same id twice, the second time with `second`.
pub fn two_results(request: &Recorded, first: &Value, second: &Value) -> Reply {
    let message = |result: &Value| json!({"jsonrpc": "2.0", "id": request.rpc_id(), "result": result});
    Reply::sse([streams::event(&message(first)), streams::event(&message(second))])
}

/// The result, one byte at a time.
pub fn slow_drip(request: &Recorded, result: &Value, pause: Duration) -> Reply {
    let message = json!({"jsonrpc": "2.0", "id": request.rpc_id(), "result": result});
    let mut reply = Reply::status(200).header("Content-Type", "text/event-stream").framing(Framing::Chunked);
    for byte in streams::event(&message).into_bytes() {
        reply = reply.step(Step::Send(Bytes::from(vec![byte]))).step(Step::Pause(pause));
    }
    reply
}

/// An event stream with one whole event, then a reset in the middle of the next.
pub fn reset_in_stream(request: &Recorded) -> Reply {
    let stream = streams::progress(&request.rpc_id(), 1);
    let (first, rest) = stream.split_at(stream.find("\n\n").map_or(0, |at| at + 2));
    let half: String = rest.chars().take(20).collect();
    Reply::sse([first.to_owned(), half]).step(Step::Reset)
}

/// A JSON body that stops before its Content-Length.
pub fn short_body() -> Reply {
    Reply::raw_bytes(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"jsonrpc\":\"2.0\",",
    )
}

/// 101 Switching Protocols, which nobody asked for.
pub fn switching_protocols() -> Reply {
    Reply::raw_bytes("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
}

/// A result with headers that only concern the backend's own hop, or its own users.
pub fn telling_headers(request: &Recorded, result: &Value) -> Reply {
    rpc_result(request, result)
        .header("Set-Cookie", "backend_session=1; Path=/")
        .header("Set-Cookie", "second=2; HttpOnly")
        .header("Connection", "X-Hop, keep-alive")
        .header("Keep-Alive", "timeout=5")
        .header("X-Hop", "named by Connection")
        .header("Proxy-Authenticate", "Basic realm=\"backend\"")
        .header("Server", "backend/1.2.3")
        .header("X-Backend", "stays")
}

/// 401 with a challenge of the backend's own authorization server.
pub fn backend_challenge() -> Reply {
    Reply::body(401, "application/json", r#"{"error":"invalid_token"}"#).header(
        "WWW-Authenticate",
        r#"Bearer resource_metadata="https://backend.example/.well-known/oauth-protected-resource""#,
    )
}

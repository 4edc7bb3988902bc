//! Event streams in text, tame and hostile.

use serde_json::{Value, json};

/// One event with one data line.
pub fn event(message: &Value) -> String {
    format!("event: message\ndata: {message}\n\n")
}

/// `count` progress notifications for the token `t` and then a result for `id`.
pub fn progress(id: &Value, count: usize) -> String {
    let notes = (1..=count).map(|n| {
        event(&json!({
            "jsonrpc": "2.0",
            "method": "notifications/progress",
            "params": {"progressToken": "t", "progress": n, "total": count},
        }))
    });
    let result = json!({"content": [{"type": "text", "text": "done"}]});
    let last = event(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
    notes.chain([last]).collect()
}

/// An event stream that a parser can get wrong.
#[derive(Debug, Clone)]
pub struct Oddity {
    /// What is odd about it.
    pub name: &'static str,
    /// The stream.
    pub stream: Vec<u8>,
}

/// Streams that all carry `message` as the last event and differ in everything else that the event stream
/// format (HTML, server-sent events) leaves open.
pub fn oddities(message: &Value) -> Vec<Oddity> {
    let text = message.to_string();
    let (before, after) = text.split_at(text.find(',').map_or(0, |at| at + 1));
    let oddity = |name, stream: String| Oddity { name, stream: stream.into_bytes() };
    vec![
        oddity("line feeds", format!("data: {text}\n\n")),
        oddity("carriage returns", format!("data: {text}\r\r")),
        oddity("both", format!("data: {text}\r\n\r\n")),
        oddity("all three line ends", format!(": c\revent: message\r\ndata: {text}\n\r\n")),
        oddity("byte order mark", format!("\u{feff}data: {text}\n\n")),
        oddity("comments", format!(":\n: keep-alive\n\n:x\ndata: {text}\n\n")),
        oddity("id, retry and an unknown field", format!("id: 7\nretry: 250\nodd: 1\ndata: {text}\n\n")),
        oddity("fields after the data", format!("data: {text}\nid: 8\nevent: message\n\n")),
        oddity("data over two lines", format!("data: {before}\ndata: {after}\n\n")),
        oddity("no space after the colon", format!("data:{text}\n\n")),
        oddity("priming event first", format!("id: 1\ndata: \n\ndata: {text}\n\n")),
        oddity("data with no colon first", format!("data\n\ndata: {text}\n\n")),
        oddity("empty events first", format!("\n\n\nevent: message\n\ndata: {text}\n\n")),
    ]
}

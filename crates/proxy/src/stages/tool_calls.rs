//! Tool calls by the names that clients see.

use http::HeaderMap;
use http::header::ACCEPT;

use crate::error::Rejection;
use crate::message::{Call, Message};
use crate::request::Parsed;
use crate::tools::ToolRules;

/// Refuses calls of tools that the configuration hides, and gives renamed ones the backend's name.
///
/// # Errors
/// JSON-RPC -32602 `tool not found`, as if the tool did not exist.
pub fn filter(request: Parsed, rules: &ToolRules) -> Result<Parsed, Rejection> {
    if rules.is_empty() {
        return Ok(request);
    }
    let actual = match request.message() {
        Some(Message { call: Call::Tool { name, .. }, .. }) => rules.actual(name),
        // Without an id it is no call, but a lenient backend might run it all the same.
        Some(message) if message.method == "tools/call" => None,
        _ => return Ok(request),
    };
    match actual {
        Some(actual) => {
            let actual = actual.to_owned();
            Ok(request.rename_tool(&actual))
        }
        None => Err(Rejection::ToolFiltered {
            id: request.id(),
            accepts_json: accepts_json(request.head().headers()),
        }),
    }
}

fn accepts_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if values.peek().is_none() {
        return true;
    }
    values.flat_map(|value| value.split(',')).any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        matches!(kind.as_str(), "application/json" | "application/*" | "*/*")
    })
}

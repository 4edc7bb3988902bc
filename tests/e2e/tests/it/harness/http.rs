//! Calls to an MCP endpoint, as a plain HTTP client makes them.

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    /// The JSON-RPC message of the body, which is JSON or an event stream.
    pub(crate) fn message(&self) -> Value {
        let data = self.body.lines().rev().find_map(|line| line.strip_prefix("data:").map(str::trim));
        let text =
            if self.body.trim_start().starts_with('{') { self.body.as_str() } else { data.unwrap_or("") };
        serde_json::from_str(text).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }

    /// The text that a tool answered with.
    pub(crate) fn tool_text(&self) -> String {
        let message = self.message();
        message["result"]["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("no text in {message}"))
            .to_owned()
    }

    /// The first value of a header field.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// The client of the tests: no proxy, no redirect.
#[expect(clippy::disallowed_methods, reason = "the guarded client is for skep; a test calls skep itself")]
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// GET, without a token.
pub(crate) async fn get(url: &str) -> Answer {
    answer(client().get(url)).await
}

/// Calls one tool in one POST.
pub(crate) async fn call_tool(url: &str, token: Option<&str>, tool: &str, arguments: Value) -> Answer {
    call_tool_over(&client(), url, token, tool, arguments).await
}

/// Calls one tool with a client whose connections are used again.
pub(crate) async fn call_tool_over(
    client: &reqwest::Client,
    url: &str,
    token: Option<&str>,
    tool: &str,
    arguments: Value,
) -> Answer {
    let params = json!({"name": tool, "arguments": arguments});
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    rpc_over(client, url, token, &message).await
}

/// Sends one JSON-RPC message.
pub(crate) async fn rpc(url: &str, token: Option<&str>, message: &Value) -> Answer {
    rpc_over(&client(), url, token, message).await
}

async fn rpc_over(client: &reqwest::Client, url: &str, token: Option<&str>, message: &Value) -> Answer {
    let mut request = client
        .post(url)
        .header("Content-Type", "application/json")
        .header("Accept", "application/json, text/event-stream")
        .header("MCP-Protocol-Version", "2025-11-25")
        .body(message.to_string());
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    answer(request).await
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, body: response.text().await.unwrap() }
}

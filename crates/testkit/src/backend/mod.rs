//! An MCP server that records what reaches it and answers as a test wants.

use std::ops::Deref;

use serde_json::{Value, json};

use crate::server::{Recorded, Reply, ScriptedServer};

pub mod replies;
pub mod streams;

/// A scripted MCP server on `/mcp` (any other path is answered alike). Everything that
/// [`ScriptedServer`] can, it can too.
pub struct McpBackend {
    server: ScriptedServer,
}

impl McpBackend {
    /// Starts one that answers with `handler`.
    pub async fn start(handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        Self { server: ScriptedServer::start(handler).await }
    }

    /// Starts a well-behaved one, with tools named `tool-0` and so on: see [`well_behaved`].
    pub async fn with_tools(count: usize) -> Self {
        Self::start(move |request| well_behaved(request, count)).await
    }

    /// The MCP endpoint.
    pub fn mcp_url(&self) -> String {
        self.server.url("/mcp")
    }
}

impl Deref for McpBackend {
    type Target = ScriptedServer;

    fn deref(&self) -> &ScriptedServer {
        &self.server
    }
}

/// What a plain, stateless, JSON-only server answers: initialize, ping, tools/list with `tools` tools,
/// tools/call with an echo of its params, two prompts, two resources, one template; 202 to notifications
/// and responses, 405 to GET, 200 to DELETE, -32601 to any other method.
pub fn well_behaved(request: &Recorded, tools: usize) -> Reply {
    match request.method.as_str() {
        "POST" => {}
        "DELETE" => return Reply::status(200),
        _ => return Reply::status(405).header("Allow", "POST, DELETE"),
    }
    let message = request.json();
    if message.get("id").is_none() || message.get("method").is_none() {
        return Reply::status(202);
    }
    let params = message.get("params").cloned().unwrap_or(Value::Null);
    let result = match request.rpc_method().as_str() {
        "initialize" => json!({
            "protocolVersion": params.get("protocolVersion").cloned().unwrap_or(json!("2025-11-25")),
            "capabilities": {"tools": {}, "prompts": {}, "resources": {}},
            "serverInfo": {"name": "scripted", "version": "1"},
        }),
        "ping" => json!({}),
        "tools/list" => json!({"tools": (0..tools).map(tool).collect::<Vec<_>>()}),
        "tools/call" => json!({"content": [{"type": "text", "text": params.to_string()}], "isError": false}),
        "prompts/list" => json!({"prompts": [{"name": "greet"}, {"name": "part"}]}),
        "prompts/get" => {
            json!({"messages": [{"role": "user", "content": {"type": "text", "text": "hello"}}]})
        }
        "resources/list" => json!({"resources": [
            {"uri": "test://one", "name": "one"},
            {"uri": "test://two", "name": "two"},
        ]}),
        "resources/templates/list" => {
            json!({"resourceTemplates": [{"uriTemplate": "test://item/{id}", "name": "item"}]})
        }
        "resources/read" => json!({"contents": [{"uri": params.get("uri"), "text": "content"}]}),
        _ => return replies::rpc_error(request, -32601, "Method not found"),
    };
    replies::rpc_result(request, &result)
}

/// The description of tool number `index`: `tool-0` and so on. Every third is destructive, the rest read only.
pub fn tool(index: usize) -> Value {
    let destructive = index % 3 == 2;
    json!({
        "name": format!("tool-{index}"),
        "description": format!("Tool number {index}."),
        "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}},
        "annotations": {"readOnlyHint": !destructive, "destructiveHint": destructive},
    })
}

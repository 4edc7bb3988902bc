//! A proxy between scripted ends: an identity provider and an MCP server that do as the test says.

use std::fs;
use std::path::PathBuf;

use serde_json::json;
use skep_testkit::backend::well_behaved;
use skep_testkit::{FakeIdp, Gate, McpBackend, Recorded, Reply, Step, free_port};
use tempfile::TempDir;

use super::eventually;
use super::http::call_tool;
use super::up::Up;

/// A running `skep up` with one proxy, `scene`, in `proxy.yaml` of a folder that the test may change.
///
/// The server has the tools `tool-0` to `tool-2`, of which the policy permits the first. A call of `tool-2`
/// waits for the gate. GET gives a stream: `event-1`, and `event-2` when the gate opens.
pub(crate) struct Scene {
    pub(crate) up: Up,
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) gate: Gate,
    pub(crate) idp: FakeIdp,
    pub(crate) backend: McpBackend,
    pub(crate) port: u16,
    folder: TempDir,
}

impl Scene {
    /// Starts with everybody being allowed to call `tool-0`.
    pub(crate) async fn start() -> Self {
        Self::on_port(free_port(), &inline(&[permit(0)])).await
    }

    /// Starts with these policies.
    pub(crate) async fn with_policies(policies: &[String]) -> Self {
        Self::on_port(free_port(), &inline(policies)).await
    }

    /// Starts with this port in the manifest, and this end of the proxy's spec.
    pub(crate) async fn on_port(port: u16, spec: &str) -> Self {
        let gate = Gate::new();
        let waiting = gate.clone();
        let backend = McpBackend::start(move |request| answer(request, &waiting)).await;
        let idp = FakeIdp::start().await;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("proxy.yaml"), proxy("scene", port, &idp, &backend, spec)).unwrap();
        let up = Up::of(folder.path()).await;
        let url = up.url("MCPRemoteProxy", "scene");
        let token = idp.token("tester", "tests");
        Self { up, url, token, gate, idp, backend, port, folder }
    }

    /// The manifest of another proxy to the same server.
    pub(crate) fn another(&self, name: &str, port: u16) -> String {
        proxy(name, port, &self.idp, &self.backend, &inline(&[permit(0)]))
    }

    /// A file of the folder that is run.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Rewrites the manifest in place, as an editor does; `spec` is the end of the proxy's spec.
    pub(crate) fn rewrite(&self, spec: &str) {
        let text = proxy("scene", self.port, &self.idp, &self.backend, spec);
        fs::write(self.file("proxy.yaml"), text).unwrap();
    }

    /// The status that a call of this tool gets.
    pub(crate) async fn status_of(&self, tool: &str) -> u16 {
        call_tool(&self.url, Some(&self.token), tool, json!({})).await.status
    }

    /// Waits until a call of this tool has reached the server.
    pub(crate) async fn reached_the_server(&self, tool: &str) {
        eventually(&format!("{tool} reaches the server"), async || {
            let requests = self.backend.requests();
            requests.iter().any(|request| request.json()["params"]["name"] == tool).then_some(())
        })
        .await;
    }

    /// Waits until a call of this tool gets this status.
    pub(crate) async fn until_status(&self, tool: &str, status: u16) {
        eventually(&format!("{tool} answers {status}"), async || {
            (self.status_of(tool).await == status).then_some(())
        })
        .await;
    }
}

/// A policy that lets everybody call one tool.
pub(crate) fn permit(tool: u8) -> String {
    format!(r#"permit(principal, action == Action::"call_tool", resource == Tool::"tool-{tool}");"#)
}

/// The end of a proxy's spec: these policies, inline.
pub(crate) fn inline(policies: &[String]) -> String {
    let items: String = policies.iter().map(|policy| format!("        - {policy}\n")).collect();
    format!("  authzConfig:\n    type: inline\n    inline:\n      policies:\n{items}")
}

fn proxy(name: &str, port: u16, idp: &FakeIdp, backend: &McpBackend, spec: &str) -> String {
    let (remote, issuer) = (backend.mcp_url(), idp.issuer());
    format!(
        "apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPRemoteProxy
metadata:
  name: {name}
spec:
  remoteUrl: {remote}
  proxyPort: {port}
  oidcConfig:
    type: inline
    resourceUrl: http://127.0.0.1:{port}/mcp
    inline:
      issuer: {issuer}
      audience: tests
      insecureAllowHTTP: true
      jwksAllowPrivateIP: true
{spec}"
    )
}

fn answer(request: &Recorded, gate: &Gate) -> Reply {
    if request.method == "GET" {
        let first = Reply::sse([event(1)]);
        return first.step(Step::Wait(gate.clone())).step(Step::Send(event(2).into()));
    }
    let reply = well_behaved(request, 3);
    if request.json()["params"]["name"] != "tool-2" {
        return reply;
    }
    let result = json!({"jsonrpc": "2.0", "id": request.rpc_id(), "result": {"content": []}});
    let step = Step::Send(format!("data: {result}\n\n").into());
    Reply::sse(Vec::<String>::new()).step(Step::Wait(gate.clone())).step(step)
}

fn event(number: u8) -> String {
    let params = json!({"level": "info", "data": format!("event-{number}")});
    let message = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params});
    format!("id: {number}\ndata: {message}\n\n")
}

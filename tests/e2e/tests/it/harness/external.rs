//! Programs that aren't ours: node and Python with the packages that `hack/test` installs.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use skep_testkit::free_port;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::output::Output;
use super::{eventually, repository};

/// A child process that ends with its handle.
pub(crate) struct Running {
    output: Output,
    child: Child,
}

impl Running {
    /// Kills it, as a power cut would, and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Node with the packages of `tests/e2e/clients/ts`.
#[derive(Clone)]
pub(crate) struct Node {
    node: PathBuf,
    modules: PathBuf,
}

impl Node {
    /// Node, or none when it isn't there: then the test named `test` is skipped.
    pub(crate) fn find(test: &str) -> Option<Self> {
        let Some(modules) = env::var_os("SKEP_NODE_MODULES") else {
            skip(test, "SKEP_NODE_MODULES names no folder; hack/test installs it");
            return None;
        };
        let node = env::var_os("SKEP_NODE").unwrap_or_else(|| "node".into());
        Some(Self { node: node.into(), modules: modules.into() })
    }

    /// The demonstration server of the MCP project over streamable HTTP; returns its URL.
    pub(crate) async fn server_everything(&self) -> (Running, String) {
        let port = free_port();
        let script = "node_modules/@modelcontextprotocol/server-everything/dist/index.js";
        let mut command = self.command(&self.modules.join(script));
        command.arg("streamableHttp").env("PORT", port.to_string());
        let running = start(command);
        eventually("server-everything listens", async || TcpStream::connect(("127.0.0.1", port)).await.ok())
            .await;
        (running, format!("http://127.0.0.1:{port}/mcp"))
    }

    /// The identity provider of `tests/e2e/idp`; returns its issuer. What has to outlive the process is in
    /// the folder.
    pub(crate) async fn identity_provider(&self, state: &Path) -> (Running, String) {
        let mut command = self.command(&repository().join("tests/e2e/idp/provider.mjs"));
        command.arg(state);
        let running = start(command);
        let line = running.output.line_with("\"issuer\"").await;
        let issuer = serde_json::from_str::<Value>(&line).unwrap()["issuer"].as_str().unwrap().to_owned();
        (running, issuer)
    }

    /// A run of the official TypeScript SDK client.
    pub(crate) async fn sdk_client(&self, url: &str, token: &str, refused_tool: &str) -> Value {
        let mut command = self.command(&repository().join("tests/e2e/clients/ts/client.mjs"));
        command.args([url, token, refused_tool]);
        report(command).await
    }

    fn command(&self, script: &Path) -> Command {
        let mut command = Command::new(&self.node);
        command.arg(script).env("SKEP_NODE_MODULES", &self.modules).env("NO_COLOR", "1");
        command
    }
}

/// A run of the official Python SDK client, or none when Python isn't there: then `test` is skipped.
pub(crate) async fn python_sdk_client(
    test: &str,
    url: &str,
    token: &str,
    refused_tool: &str,
) -> Option<Value> {
    let Some(python) = env::var_os("SKEP_PYTHON") else {
        skip(test, "SKEP_PYTHON names no interpreter; hack/test installs it");
        return None;
    };
    let mut command = Command::new(python);
    command.arg(repository().join("tests/e2e/clients/py/client.py")).args([url, token, refused_tool]);
    Some(report(command).await)
}

/// Says, for `hack/test` and for humans, that a test did not run.
fn skip(test: &str, reason: &str) {
    eprintln!("skipped {test}: {reason}");
    if let Some(path) = env::var_os("SKEP_SKIPS") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{test}: {reason}").unwrap();
    }
}

fn start(mut command: Command) -> Running {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    Running { output: Output::read(child.stdout.take().unwrap()), child }
}

async fn report(mut command: Command) -> Value {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output =
        tokio::time::timeout(super::PATIENCE, command.output()).await.expect("the client ends").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|e| {
        panic!("{e}: the client printed {text:?} and {}", String::from_utf8_lossy(&output.stderr))
    })
}

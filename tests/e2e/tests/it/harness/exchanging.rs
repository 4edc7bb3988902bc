//! A proxy that exchanges its callers' tokens at a real identity provider.

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use skep_testkit::{McpBackend, free_port};
use tempfile::TempDir;

use super::external::Node;
use super::http::{Answer, call_tool_over, client};
use super::idp::Idp;
use super::up::Up;

/// Audience of the tokens that callers present.
pub(crate) const CALLERS: &str = "urn:test:callers";
/// Audience of the tokens that the MCP server is sent.
pub(crate) const BACKEND: &str = "urn:test:backend";

/// What a manifest says of the exchange, beside the address of the token endpoint.
pub(crate) struct Exchange<'a> {
    /// More lines of `tokenExchange`, without indentation.
    pub(crate) lines: &'a str,
    /// More lines of `oidcConfig.inline`, without indentation.
    pub(crate) oidc: &'a str,
    /// Content of the Secret `skep-client`, key `secret`.
    pub(crate) secret: &'a str,
}

/// The client `skep` with its secret.
pub(crate) const CONFIDENTIAL: Exchange<'static> = Exchange {
    lines: "clientId: skep\nclientSecretRef: {name: skep-client, key: secret}\naudience: urn:test:backend",
    oidc: "",
    secret: "skep-secret",
};

/// A `skep up` with one proxy between a scripted MCP server and an identity provider.
pub(crate) struct Exchanging {
    pub(crate) up: Up,
    pub(crate) url: String,
    pub(crate) idp: Idp,
    pub(crate) backend: McpBackend,
    pub(crate) folder: TempDir,
    client: reqwest::Client,
}

impl Exchanging {
    /// Starts with the client `skep`.
    pub(crate) async fn start(node: &Node) -> Self {
        Self::with(Idp::start(node).await, &CONFIDENTIAL).await
    }

    /// Starts with these settings.
    pub(crate) async fn with(idp: Idp, exchange: &Exchange<'_>) -> Self {
        let backend = McpBackend::with_tools(2).await;
        let folder = tempfile::tempdir().unwrap();
        let text = manifest(&idp.issuer, &backend.mcp_url(), exchange);
        fs::write(folder.path().join("proxy.yaml"), text).unwrap();
        let up = Up::of(folder.path()).await;
        let url = up.url("MCPRemoteProxy", "exchanging");
        Self { up, url, idp, backend, folder, client: client() }
    }

    /// A file of the folder that is run.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new token of this user for the proxy.
    pub(crate) async fn token(&self, user: &str) -> String {
        self.idp.token(user, CALLERS).await
    }

    /// Calls a tool with this token.
    pub(crate) async fn call(&self, token: &str) -> Answer {
        call_tool_over(&self.client, &self.url, Some(token), "tool-0", json!({})).await
    }

    /// The claims of the token in the last request that reached the MCP server.
    pub(crate) fn last_sent(&self) -> Value {
        let requests = self.backend.requests();
        let authorization = requests.last().and_then(|request| request.header("authorization"));
        claims(authorization.unwrap_or_else(|| panic!("no token was sent")))
    }

    /// Fails when one of these tokens reached the MCP server, in whatever place.
    pub(crate) fn assert_never_sent(&self, tokens: &[String]) {
        for request in self.backend.requests() {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            let fields = request.headers.iter().map(|(_, value)| value).chain([&request.target, &body]);
            for field in fields {
                assert!(tokens.iter().all(|token| !field.contains(token)), "a caller's token was sent");
            }
        }
    }
}

/// The claims of `Bearer TOKEN`.
pub(crate) fn claims(authorization: &str) -> Value {
    let token = authorization.strip_prefix("Bearer ").expect("a bearer token");
    let payload = token.split('.').nth(1).unwrap_or_else(|| panic!("{token} is no JWT"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// The Secret with the client's credential.
pub(crate) fn secret(content: &str) -> String {
    let content = json!(content);
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: skep-client\nstringData:\n  secret: {content}\n"
    )
}

fn manifest(issuer: &str, backend: &str, exchange: &Exchange<'_>) -> String {
    let port = free_port();
    let indented = |lines: &str, by: usize| -> String {
        lines.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
    };
    let (lines, oidc, secret) =
        (indented(exchange.lines, 4), indented(exchange.oidc, 6), secret(exchange.secret));
    format!(
        "apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPRemoteProxy
metadata:
  name: exchanging
spec:
  remoteUrl: {backend}
  proxyPort: {port}
  oidcConfig:
    type: inline
    resourceUrl: http://127.0.0.1:{port}/mcp
    inline:
      issuer: {issuer}
      audience: {CALLERS}
      insecureAllowHTTP: true
      jwksAllowPrivateIP: true
{oidc}  externalAuthConfigRef:
    name: exchange
  audit:
    enabled: true
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPExternalAuthConfig
metadata:
  name: exchange
spec:
  type: tokenExchange
  tokenExchange:
    tokenUrl: {issuer}/token
{lines}---
{secret}"
    )
}

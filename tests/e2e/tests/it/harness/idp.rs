//! The identity provider of `tests/e2e/idp`, with what tests ask of it.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use super::external::{Node, Running};
use super::http::client;

/// A real OpenID provider with a token exchange grant. Its signing keys, its port and its clients' secrets
/// outlive the process.
pub(crate) struct Idp {
    pub(crate) issuer: String,
    node: Node,
    running: Running,
    state: TempDir,
}

/// How many exchanges there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exchanges {
    /// Requests with the exchange grant, whatever came of them; not those whose client was not believed.
    pub(crate) asked: u64,
    /// Tokens that were issued.
    pub(crate) issued: u64,
    /// Tokens that clients got for themselves.
    pub(crate) service: u64,
}

impl Idp {
    /// Starts one.
    pub(crate) async fn start(node: &Node) -> Self {
        let state = tempfile::tempdir().unwrap();
        let (running, issuer) = node.identity_provider(state.path()).await;
        Self { issuer, node: node.clone(), running, state }
    }

    /// Kills the process.
    pub(crate) async fn kill(&mut self) {
        self.running.kill().await;
    }

    /// Starts it again after [`kill`](Self::kill), with the same address, keys and clients.
    pub(crate) async fn restart(&mut self) {
        let (running, issuer) = self.node.identity_provider(self.state.path()).await;
        assert_eq!(issuer, self.issuer, "it comes back where it was");
        self.running = running;
    }

    /// The token of one user for an audience.
    pub(crate) async fn token(&self, user: &str, audience: &str) -> String {
        self.tokens(&format!("user={user}&audience={audience}")).await.remove(0)
    }

    /// Tokens for `user-0`, `user-1` and so on.
    pub(crate) async fn tokens_of(&self, users: usize, audience: &str) -> Vec<String> {
        self.tokens(&format!("users={users}&audience={audience}")).await
    }

    /// A token that says nothing by itself.
    pub(crate) async fn opaque_token(&self, user: &str, audience: &str) -> String {
        self.tokens(&format!("user={user}&audience={audience}&opaque")).await.remove(0)
    }

    async fn tokens(&self, query: &str) -> Vec<String> {
        let answer = self.test(&format!("tokens?{query}")).await;
        let tokens = answer["tokens"].as_array().unwrap_or_else(|| panic!("no tokens in {answer}"));
        tokens.iter().map(|token| token.as_str().unwrap().to_owned()).collect()
    }

    /// Revokes an opaque token (RFC 7009).
    pub(crate) async fn revoke(&self, token: &str) {
        let request = client().post(format!("{}/token/revocation", self.issuer));
        let answer = request.basic_auth("app", Some("app-secret")).form(&[("token", token)]).send().await;
        assert_eq!(answer.unwrap().status(), 200);
    }

    /// The exchanges so far.
    pub(crate) async fn exchanges(&self) -> Exchanges {
        let answer = self.test("exchanges").await;
        let count = |name: &str| answer[name].as_u64().unwrap();
        Exchanges { asked: count("asked"), issued: count("issued"), service: count("service") }
    }

    /// Lets exchanges fail in this way from now on; with an empty name they work.
    pub(crate) async fn fail(&self, fault: &str) {
        self.test(&format!("fault?fault={fault}")).await;
    }

    /// These secrets of a client are good from now on, and no others.
    pub(crate) async fn accept_secrets(&self, client: &str, secrets: &[&str]) {
        let secrets: String = secrets.iter().map(|secret| format!("&secret={secret}")).collect();
        self.test(&format!("secrets?client={client}{secrets}")).await;
    }

    /// The private key of the client `skep-key`, PEM.
    pub(crate) fn client_key(&self) -> String {
        fs::read_to_string(self.state.path().join("client-key.pem")).unwrap()
    }

    async fn test(&self, path: &str) -> Value {
        let response = client().get(format!("{}/test/{path}", self.issuer)).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }
}

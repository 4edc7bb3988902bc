//! A server on a free port.

use std::net::SocketAddr;
use std::sync::Arc;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Header, TokenData, Validation, decode, decode_header};
use serde_json::Value;
use skep_api::secret::Secret;
use skep_authserver::clients::{Client, GrantType};
use skep_authserver::{AuthServer, Config, Issuer};
use skep_testkit::{Answer, ManualClock, SeededRng, raw};

/// The one resource of the client `ci`.
pub(crate) const RESOURCE: &str = "https://mcp.example/mcp";
/// 2026-01-01T00:00:00Z, where the clock stands.
pub(crate) const NOW: i64 = 1_767_225_600;

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) server: Arc<AuthServer>,
    pub(crate) clock: ManualClock,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    /// Clients `ci` (one resource, scopes a and b), `many` (two resources, no scope), `odd:id` (odd
    /// characters in id and secret), `idle` (no grant), `proxy` (exchanges tokens for the resource or for the
    /// backend for ones for the backend, scopes a and c), `wide` (exchanges tokens for the resource for ones for
    /// three) and `own` (exchanges tokens that are for itself).
    pub(crate) async fn start() -> Self {
        Self::start_at("").await
    }

    /// The same, with a path in the issuer.
    pub(crate) async fn start_at(path: &str) -> Self {
        Self::start_with(path, |_| {}).await
    }

    /// The same, with changes of the configuration.
    pub(crate) async fn start_with(path: &str, change: impl FnOnce(&mut Config)) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = Config::new(Issuer::parse(&format!("http://{address}{path}")).unwrap());
        let idle =
            Client { grants: Vec::<GrantType>::new(), ..Client::new("idle", &Secret::new("idle-secret")) };
        let exchanging = |id: &str| Client {
            grants: vec![GrantType::TokenExchange],
            ..Client::new(id, &Secret::new(format!("{id}-secret")))
        };
        for client in [
            Client::new("ci", &Secret::new("ci-secret"))
                .with_audience(RESOURCE)
                .with_scope("a")
                .with_scope("b"),
            Client::new("many", &Secret::new("many-secret"))
                .with_audience(RESOURCE)
                .with_audience("https://other.example"),
            Client::new("odd:id", &Secret::new("p+s %word")).with_audience(RESOURCE),
            idle.with_audience(RESOURCE),
            exchanging("proxy")
                .with_exchange_audience("https://backend.example")
                .with_subject_audience(RESOURCE)
                .with_subject_audience("https://backend.example")
                .with_scope("a")
                .with_scope("c"),
            exchanging("wide")
                .with_exchange_audience("https://backend.example")
                .with_exchange_audience("https://other.example/api")
                .with_exchange_audience("backend")
                .with_subject_audience(RESOURCE),
            exchanging("own").with_exchange_audience("https://backend.example"),
        ] {
            assert!(config.clients.insert(client));
        }
        change(&mut config);
        let clock = ManualClock::at(NOW);
        let server = AuthServer::new(config, Arc::new(clock.clone()), Arc::new(SeededRng::new(1))).unwrap();
        let router = Arc::clone(&server).router();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, server, clock, task }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        raw::get(self.address, path).await
    }

    /// POST to the token endpoint with the right content type.
    pub(crate) async fn token(&self, headers: &[(&str, &str)], form: &str) -> Answer {
        let mut all = vec![("Content-Type", "application/x-www-form-urlencoded")];
        all.extend(headers);
        raw::request(self.address, "POST", "/oauth/token", &all, form.as_bytes()).await
    }

    /// Verifies as a resource server does: keys from the network, everything checked by another library.
    pub(crate) async fn verify(&self, token: &str, audience: &str) -> (Header, Value) {
        let set: JwkSet = serde_json::from_slice(&self.get("/.well-known/jwks.json").await.body).unwrap();
        let kid = decode_header(token).unwrap().kid.unwrap();
        let key = DecodingKey::from_jwk(set.find(&kid).unwrap()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[audience]);
        validation.set_issuer(&[self.server.issuer().as_str()]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        // The server's clock is the test's, which the library does not know.
        validation.validate_exp = false;
        let TokenData { header, claims, .. } = decode::<Value>(token, &key, &validation).unwrap();
        (header, claims)
    }
}

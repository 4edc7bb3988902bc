//! An identity provider to verify against, and to fail in every way a real one does.

mod keys;
mod tokens;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use skep_runtime::clock::{SharedClock, SystemClock};

pub use keys::{Alg, TestKey};
pub use tokens::TokenSpec;

use crate::server::{Recorded, Reply, ScriptedServer};
use crate::tls::Tls;

/// How the identity provider fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// Nobody listens on the port.
    Refused,
    /// Every request is answered with this status.
    Status(u16),
    /// Requests are accepted and never answered.
    Hang,
}

/// A real HTTP server with discovery, a JWKS and keys of its own, that mints any token.
///
/// The JWKS holds an RS256, an ES256 and an EdDSA key, each with `alg`, `use` and `kid`.
pub struct FakeIdp {
    server: ScriptedServer,
    state: Arc<State>,
    clock: SharedClock,
}

struct State {
    issuer: String,
    settings: Mutex<Settings>,
    discovery_hits: AtomicUsize,
    jwks_hits: AtomicUsize,
}

struct Settings {
    keys: Vec<Arc<TestKey>>,
    generation: usize,
    published: Published,
    discovery_issuer: Option<String>,
    extra_keys: Vec<Value>,
    jwks: Option<String>,
    failing: Option<Outage>,
    cache_control: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Published {
    WithAlg,
    WithoutAlg,
}

impl FakeIdp {
    /// Starts one whose tokens follow the machine's clock.
    pub async fn start() -> Self {
        Self::with_clock(SystemClock::shared()).await
    }

    /// Starts one whose tokens follow this clock.
    pub async fn with_clock(clock: SharedClock) -> Self {
        Self::on(ScriptedServer::start(|_| Reply::status(404)).await, clock)
    }

    /// Starts one that speaks TLS: its issuer is an https URL.
    pub async fn over_tls(clock: SharedClock, tls: &Tls) -> Self {
        Self::on(ScriptedServer::start_tls(tls, |_| Reply::status(404)).await, clock)
    }

    /// The issuer holds the port, so the script is set once the port is known.
    fn on(server: ScriptedServer, clock: SharedClock) -> Self {
        let state = Arc::new(State {
            issuer: server.url(""),
            settings: Mutex::new(Settings {
                keys: keys::first_set(),
                generation: 1,
                published: Published::WithAlg,
                discovery_issuer: None,
                extra_keys: Vec::new(),
                jwks: None,
                failing: None,
                cache_control: None,
            }),
            discovery_hits: AtomicUsize::new(0),
            jwks_hits: AtomicUsize::new(0),
        });
        let answering = Arc::clone(&state);
        server.set_handler(move |request| answering.answer(request));
        Self { server, state, clock }
    }

    /// The issuer identifier, without a slash at the end.
    pub fn issuer(&self) -> &str {
        &self.state.issuer
    }

    /// Where the keys are.
    pub fn jwks_url(&self) -> String {
        format!("{}/jwks", self.state.issuer)
    }

    /// The HTTP server under it, for waiting on requests.
    pub fn server(&self) -> &ScriptedServer {
        &self.server
    }

    /// How many times discovery was asked.
    pub fn discovery_hits(&self) -> usize {
        self.state.discovery_hits.load(Ordering::SeqCst)
    }

    /// How many times the keys were asked.
    pub fn jwks_hits(&self) -> usize {
        self.state.jwks_hits.load(Ordering::SeqCst)
    }

    /// Starts failing. Once this returns, the next request fails.
    pub async fn fail(&self, outage: Outage) {
        if outage == Outage::Refused {
            self.server.down().await;
        }
        self.state.with(|s| s.failing = Some(outage));
    }

    /// Refuses connections: `fail(Outage::Refused)`.
    pub async fn down(&self) {
        self.fail(Outage::Refused).await;
    }

    /// Ends a failure of any sort.
    pub async fn up(&self) {
        self.state.with(|s| s.failing = None);
        self.server.up().await;
    }

    /// Replaces all keys by new ones with new ids; the old ones are no longer published.
    pub fn rotate(&self) {
        self.state.with(|s| {
            s.generation += 1;
            s.keys = keys::new_set(s.generation);
        });
    }

    /// Publishes new keys beside the old ones. New tokens are signed with the new ones.
    pub fn add_keys(&self) {
        self.state.with(|s| {
            s.generation += 1;
            let mut keys = keys::new_set(s.generation);
            keys.append(&mut s.keys);
            s.keys = keys;
        });
    }

    /// The key that signs tokens of this algorithm now.
    pub fn key(&self, alg: Alg) -> Arc<TestKey> {
        self.state.with(|s| {
            let key = s.keys.iter().find(|key| key.signs(alg));
            Arc::clone(key.expect("a key for each asymmetric algorithm"))
        })
    }

    /// Publishes the keys without their `alg`, as Entra does.
    pub fn omit_alg(&self) {
        self.state.with(|s| s.published = Published::WithoutAlg);
    }

    /// Puts further JWKs, of any shape, in front of the real ones.
    pub fn publish_also(&self, jwks: impl IntoIterator<Item = Value>) {
        self.state.with(|s| s.extra_keys.extend(jwks));
    }

    /// Answers the JWKS request with this text, whatever it is. None: the real keys again.
    pub fn set_jwks(&self, text: Option<&str>) {
        self.state.with(|s| s.jwks = text.map(str::to_owned));
    }

    /// Sends this Cache-Control with the keys and with discovery.
    pub fn set_cache_control(&self, value: &str) {
        self.state.with(|s| s.cache_control = Some(value.to_owned()));
    }

    /// Names another issuer in the discovery document.
    pub fn set_discovery_issuer(&self, issuer: &str) {
        self.state.with(|s| s.discovery_issuer = Some(issuer.to_owned()));
    }

    /// A signed token as the specification has it.
    pub fn mint(&self, spec: &TokenSpec) -> String {
        spec.sign(self, self.clock.unix_seconds())
    }

    /// A token of exactly this header and these claims, signed with the key for `alg`. Only `kid` is set.
    pub fn sign(&self, alg: Alg, header: &Value, claims: &Value) -> String {
        tokens::sign(&self.key(alg), alg, header, claims)
    }

    /// A valid RS256 access token.
    pub fn token(&self, subject: &str, audience: &str) -> String {
        self.mint(&TokenSpec::valid(subject, audience))
    }
}

impl State {
    fn with<T>(&self, change: impl FnOnce(&mut Settings) -> T) -> T {
        change(&mut self.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn answer(&self, request: &Recorded) -> Reply {
        let failing = self.with(|s| s.failing);
        match request.path() {
            "/.well-known/openid-configuration" | "/.well-known/oauth-authorization-server" => {
                self.discovery_hits.fetch_add(1, Ordering::SeqCst);
            }
            "/jwks" => {
                self.jwks_hits.fetch_add(1, Ordering::SeqCst);
            }
            _ => return Reply::status(404),
        }
        match failing {
            Some(Outage::Hang | Outage::Refused) => return Reply::hang(),
            Some(Outage::Status(status)) => return Reply::body(status, "text/plain", "out of order"),
            None => {}
        }
        let reply = if request.path() == "/jwks" {
            Reply::body(200, "application/json", self.with(|s| s.jwks_document()))
        } else {
            Reply::json(&self.discovery_document())
        };
        match self.with(|s| s.cache_control.clone()) {
            Some(value) => reply.header("Cache-Control", &value),
            None => reply,
        }
    }

    fn discovery_document(&self) -> Value {
        let issuer = self.with(|s| s.discovery_issuer.clone()).unwrap_or_else(|| self.issuer.clone());
        json!({
            "issuer": issuer,
            "jwks_uri": format!("{}/jwks", self.issuer),
            "authorization_endpoint": format!("{}/authorize", self.issuer),
            "token_endpoint": format!("{}/token", self.issuer),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "EdDSA"],
        })
    }
}

impl Settings {
    fn jwks_document(&self) -> String {
        if let Some(text) = &self.jwks {
            return text.clone();
        }
        let with_alg = self.published == Published::WithAlg;
        let real = self.keys.iter().map(|key| key.jwk(with_alg));
        let keys: Vec<Value> = self.extra_keys.iter().cloned().chain(real).collect();
        json!({ "keys": keys }).to_string()
    }
}

//! A SPIFFE agent on a socket: the Workload API with authorities of its own (SPIFFE Workload API standard).
//!
//! It answers whoever connects: no attestation, every entry is everybody's. What the real agent does in time,
//! this one does when told: nothing is renewed until a test rotates it, but every change is pushed at once on
//! the streams that are open.

mod authority;
mod service;
mod socket;
mod state;

/// The Workload API's messages, server and client, as generated.
#[expect(clippy::allow_attributes, reason = "generated code is as its generator wants it")]
pub mod workload_api {
    tonic::include_proto!("_");
}

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use skep_runtime::clock::{SharedClock, SystemClock};
use tonic::Code;

use socket::Running;
use state::Agent;

/// An identity that the agent gives to every caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whole, `spiffe://domain/path`; the domain is the agent's own.
    pub spiffe_id: String,
    /// Tells a workload's identities apart; may be empty.
    pub hint: String,
    /// How long X.509-SVIDs last.
    pub x509_ttl: Duration,
    /// How long JWT-SVIDs last.
    pub jwt_ttl: Duration,
}

impl Entry {
    /// An identity with no hint, certificates of an hour and tokens of five minutes, as SPIRE has them.
    pub fn new(spiffe_id: &str) -> Self {
        Self {
            spiffe_id: spiffe_id.to_owned(),
            hint: String::new(),
            x509_ttl: Duration::from_hours(1),
            jwt_ttl: Duration::from_mins(5),
        }
    }

    /// With this hint.
    #[must_use]
    pub fn hint(mut self, hint: &str) -> Self {
        hint.clone_into(&mut self.hint);
        self
    }

    /// Certificates and tokens last this long.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.x509_ttl = ttl;
        self.jwt_ttl = ttl;
        self
    }
}

/// An agent that listens on a Unix socket and has no entries until it is given some.
pub struct FakeAgent {
    agent: Arc<Agent>,
    socket: PathBuf,
    running: tokio::sync::Mutex<Option<Running>>,
    folder: Option<tempfile::TempDir>,
}

impl FakeAgent {
    /// Starts one for this trust domain (`example.org`) in a temporary folder.
    pub async fn start(trust_domain: &str) -> Self {
        Self::with_clock(trust_domain, SystemClock::shared()).await
    }

    /// Starts one whose certificates and tokens follow this clock.
    pub async fn with_clock(trust_domain: &str, clock: SharedClock) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut agent = Self::start_at(folder.path().join("agent.sock"), trust_domain, clock).await;
        agent.folder = Some(folder);
        agent
    }

    /// Starts one on this socket, which everybody may connect to. The folder must be there.
    pub async fn start_at(socket: impl Into<PathBuf>, trust_domain: &str, clock: SharedClock) -> Self {
        let (agent, socket) = (Arc::new(Agent::new(trust_domain, clock)), socket.into());
        let running = socket::serve(&socket, &agent);
        Self { agent, socket, running: tokio::sync::Mutex::new(Some(running)), folder: None }
    }

    /// Makes the agent without starting it: an agent that is down. [`restart`](Self::restart) starts it.
    pub fn stopped(trust_domain: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self {
            agent: Arc::new(Agent::new(trust_domain, SystemClock::shared())),
            socket: folder.path().join("agent.sock"),
            running: tokio::sync::Mutex::new(None),
            folder: Some(folder),
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where it listens, as SPIFFE_ENDPOINT_SOCKET says it: `unix:///...`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        &self.agent.trust_domain
    }

    /// Gives every caller one more identity. One of the same SPIFFE ID is replaced.
    pub fn entry(&self, entry: Entry) {
        self.agent.change(|state| state.set_entry(entry));
    }

    /// Takes an identity away. Without one left, callers are refused.
    pub fn remove_entry(&self, spiffe_id: &str) {
        self.agent.change(|state| state.remove_entry(spiffe_id));
    }

    /// New X.509-SVIDs from the same authority.
    pub fn rotate_x509(&self) {
        self.agent.change(state::State::rotate_x509);
    }

    /// A new X.509 authority, SVIDs of it, and the old one still in the bundle.
    pub fn rotate_x509_ca(&self) {
        self.agent.change(state::State::rotate_x509_ca);
    }

    /// Chains have an intermediate authority from now on.
    pub fn use_intermediate(&self) {
        self.agent.change(state::State::use_intermediate);
    }

    /// New X.509-SVIDs whose keys are those of other certificates: what no client may write.
    pub fn mismatch_x509_keys(&self) {
        self.agent.change(state::State::mismatch_keys);
    }

    /// A new key signs JWT-SVIDs; the old ones still verify.
    pub fn rotate_jwt_keys(&self) {
        self.agent.change(|state| state.rotate_jwt_keys(true));
    }

    /// A new key signs JWT-SVIDs; nothing that was signed before verifies.
    pub fn revoke_jwt_keys(&self) {
        self.agent.change(|state| state.rotate_jwt_keys(false));
    }

    /// Federates with another trust domain, which gets authorities of its own.
    pub fn federate(&self, trust_domain: &str) {
        self.agent.change(|state| state.federate(trust_domain));
    }

    /// Ends the federation with a trust domain.
    pub fn unfederate(&self, trust_domain: &str) {
        self.agent.change(|state| state.unfederate(trust_domain));
    }

    /// Refuses every caller with PermissionDenied, also those that have a stream open; false: no longer.
    pub fn deny(&self, deny: bool) {
        self.fail(deny.then_some(Code::PermissionDenied));
    }

    /// Refuses every caller with this code, also those that have a stream open; none: no longer.
    pub fn fail(&self, code: Option<Code>) {
        self.agent.change(|state| state.fail(code));
    }

    /// Goes away as if killed: connections break, the socket is gone.
    pub async fn stop(&self) {
        if let Some(running) = self.running.lock().await.take() {
            running.stop().await;
            let _ = std::fs::remove_file(&self.socket);
        }
    }

    /// Comes (back) on the same path with the same authorities and entries.
    pub async fn restart(&self) {
        self.stop().await;
        *self.running.lock().await = Some(socket::serve(&self.socket, &self.agent));
    }

    /// The authorities of the trust domain, PEM, the newest first: what its SVIDs verify against.
    pub fn x509_ca_pem(&self) -> String {
        self.agent.read(state::State::ca_pem)
    }

    /// The authorities of a federated trust domain, PEM.
    pub fn federated_ca_pem(&self, trust_domain: &str) -> String {
        self.agent.read(|state| state.federated(trust_domain).ca_pem())
    }

    /// The keys of JWT-SVIDs as a JWKS, without `use` and `alg`, as agents publish them.
    pub fn jwks(&self) -> Value {
        self.agent.read(state::State::jwks)
    }

    /// The keys of a federated trust domain's JWT-SVIDs.
    pub fn federated_jwks(&self, trust_domain: &str) -> Value {
        self.agent.read(|state| state.federated(trust_domain).jwks())
    }

    /// A JWT-SVID of the first entry, for a test that needs no Workload API.
    pub fn issue_jwt(&self, audiences: &[&str], ttl: Duration) -> String {
        self.agent.read(|state| {
            let entry = state.entries().next().expect("an entry to issue a token for");
            state.jwt(&entry.spiffe_id, audiences, ttl)
        })
    }

    /// A JWT-SVID of any subject.
    pub fn issue_jwt_for(&self, spiffe_id: &str, audiences: &[&str], ttl: Duration) -> String {
        self.agent.read(|state| state.jwt(spiffe_id, audiences, ttl))
    }

    /// How often a method was called, by its name in the standard (`FetchX509SVID`).
    pub fn calls(&self, method: &str) -> usize {
        self.agent.calls(method)
    }

    /// Waits until a method was called this often since the start. The caller bounds the wait.
    pub async fn wait_for_calls(&self, method: &str, count: usize) {
        self.agent.wait_for_calls(method, count).await;
    }

    /// How many streams are open now.
    pub fn open_streams(&self) -> usize {
        self.agent.open_streams()
    }
}

//! What the agent knows, and who watches it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use skep_runtime::clock::SharedClock;
use tokio::sync::watch;
use tonic::{Code, Status};

use super::Entry;
use super::authority::{Authorities, X509};
use crate::idp::Alg;
use crate::jose;

/// The agent apart from its socket.
pub(super) struct Agent {
    pub(super) trust_domain: String,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    calls: watch::Sender<HashMap<String, usize>>,
    streams: AtomicUsize,
}

pub(super) struct State {
    clock: SharedClock,
    own: Authorities,
    federated: BTreeMap<String, Authorities>,
    issued: Vec<Issued>,
    failing: Option<Code>,
}

pub(super) struct Issued {
    pub(super) entry: Entry,
    pub(super) x509: X509,
}

/// Counts a stream as open while it lives.
pub(super) struct OpenStream(Arc<Agent>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Agent {
    pub(super) fn new(trust_domain: &str, clock: SharedClock) -> Self {
        let own = Authorities::new(trust_domain, clock.unix_seconds());
        Self {
            trust_domain: trust_domain.to_owned(),
            state: Mutex::new(State {
                clock,
                own,
                federated: BTreeMap::new(),
                issued: Vec::new(),
                failing: None,
            }),
            changed: watch::Sender::new(0),
            calls: watch::Sender::default(),
            streams: AtomicUsize::new(0),
        }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|generation| *generation += 1);
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn called(&self, method: &str) {
        self.calls.send_modify(|calls| *calls.entry(method.to_owned()).or_default() += 1);
    }

    pub(super) fn calls(&self, method: &str) -> usize {
        self.calls.borrow().get(method).copied().unwrap_or_default()
    }

    pub(super) async fn wait_for_calls(&self, method: &str, count: usize) {
        let enough = |calls: &HashMap<String, usize>| calls.get(method).is_some_and(|n| *n >= count);
        let mut calls = self.calls.subscribe();
        calls.wait_for(enough).await.map(drop).unwrap_or_default();
    }

    pub(super) fn open_stream(self: &Arc<Self>) -> OpenStream {
        self.streams.fetch_add(1, Ordering::SeqCst);
        OpenStream(Arc::clone(self))
    }

    pub(super) fn open_streams(&self) -> usize {
        self.streams.load(Ordering::SeqCst)
    }
}

impl State {
    pub(super) fn now(&self) -> i64 {
        self.clock.unix_seconds()
    }

    pub(super) fn set_entry(&mut self, entry: Entry) {
        let own = format!("spiffe://{}/", self.own.trust_domain());
        assert!(entry.spiffe_id.starts_with(&own), "{} is not of the trust domain", entry.spiffe_id);
        let x509 = self.own.issue(&entry.spiffe_id, self.now(), entry.x509_ttl);
        let issued = Issued { entry, x509 };
        match self.issued.iter_mut().find(|old| old.entry.spiffe_id == issued.entry.spiffe_id) {
            Some(old) => *old = issued,
            None => self.issued.push(issued),
        }
    }

    pub(super) fn remove_entry(&mut self, spiffe_id: &str) {
        self.issued.retain(|issued| issued.entry.spiffe_id != spiffe_id);
    }

    pub(super) fn rotate_x509(&mut self) {
        let now = self.now();
        for Issued { entry, x509 } in &mut self.issued {
            *x509 = self.own.issue(&entry.spiffe_id, now, entry.x509_ttl);
        }
    }

    pub(super) fn rotate_x509_ca(&mut self) {
        self.own.add_root(self.now());
        self.rotate_x509();
    }

    pub(super) fn use_intermediate(&mut self) {
        self.own.use_intermediate(self.now());
        self.rotate_x509();
    }

    pub(super) fn mismatch_keys(&mut self) {
        self.rotate_x509();
        let now = self.now();
        for Issued { entry, x509 } in &mut self.issued {
            x509.key = self.own.issue(&entry.spiffe_id, now, entry.x509_ttl).key;
        }
    }

    pub(super) fn rotate_jwt_keys(&mut self, keep_old: bool) {
        self.own.add_jwt_key();
        if !keep_old {
            self.own.forget_old_jwt_keys();
        }
    }

    pub(super) fn federate(&mut self, trust_domain: &str) {
        let now = self.now();
        let authorities = || Authorities::new(trust_domain, now);
        self.federated.entry(trust_domain.to_owned()).or_insert_with(authorities);
    }

    pub(super) fn unfederate(&mut self, trust_domain: &str) {
        self.federated.remove(trust_domain);
    }

    pub(super) fn fail(&mut self, code: Option<Code>) {
        self.failing = code;
    }

    /// Every method refuses a caller that has no identity, as agents do by default.
    pub(super) fn admit(&self) -> Result<(), Status> {
        match self.failing {
            Some(Code::PermissionDenied) => Err(no_identity()),
            Some(code) => Err(Status::new(code, "the test wants it so")),
            None if self.issued.is_empty() => Err(no_identity()),
            None => Ok(()),
        }
    }

    pub(super) fn issued(&self) -> &[Issued] {
        &self.issued
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.issued.iter().map(|issued| &issued.entry)
    }

    pub(super) fn own(&self) -> &Authorities {
        &self.own
    }

    pub(super) fn federated(&self, trust_domain: &str) -> &Authorities {
        self.federated.get(trust_domain).expect("a trust domain that the agent federates with")
    }

    pub(super) fn all_federated(&self) -> impl Iterator<Item = &Authorities> {
        self.federated.values()
    }

    pub(super) fn ca_pem(&self) -> String {
        self.own.ca_pem()
    }

    pub(super) fn jwks(&self) -> Value {
        self.own.jwks()
    }

    pub(super) fn jwt<A: AsRef<str>>(&self, spiffe_id: &str, audiences: &[A], ttl: Duration) -> String {
        let now = self.now();
        let audiences: Vec<&str> = audiences.iter().map(AsRef::as_ref).collect();
        let expires = now.saturating_add_unsigned(ttl.as_secs());
        let claims = json!({"aud": audiences, "exp": expires, "iat": now, "sub": spiffe_id});
        jose::sign(self.own.jwt_key(), Alg::Es256, "JWT", &claims)
    }
}

fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}

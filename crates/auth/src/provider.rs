//! The keys of one issuer, fetched when needed and kept while the issuer is away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use skep_runtime::clock::SharedClock;
use skep_runtime::logging::chain;
use tokio::sync::Mutex;
use url::Url;

use crate::client::{FetchError, GuardedClient, is_private};
use crate::discovery::{DiscoveryError, jwks_url};
use crate::keys::{KeySet, KeySetError};
use crate::names::Issuer;
use skep_api::secret::Secret;

/// Keys older than this are fetched again, while the old ones serve.
const REFRESH_AFTER: Duration = Duration::from_secs(5 * 60);
/// Keys are used this long after the issuer was last seen.
const STALE_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// An unknown key id makes us ask again at most this often.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(30);
/// After a failed fetch without any keys, callers are refused at once for this long.
const RETRY_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// When nobody has asked the issuer for this long, callers wait for its answer: what it withdrew in a quiet
/// night opens nothing in the morning.
const ASK_FIRST_AFTER: Duration = Duration::from_secs(10 * 60);
/// Pause between failed refreshes while old keys serve.
const RETRY_REFRESH: Duration = Duration::from_secs(15);

/// Where the keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySource {
    /// Whose keys.
    pub issuer: Issuer,
    /// Where they are; without it, discovery says.
    pub jwks_url: Option<Url>,
    /// Where the discovery document is; without it, below the issuer.
    pub discovery_url: Option<Url>,
    /// File with a bearer token for the fetch, read each time (Kubernetes ServiceAccount token).
    pub token_file: Option<std::path::PathBuf>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("discovery of the issuer failed")]
    Discovery(#[source] DiscoveryError),
    #[error("the issuer names keys at {url}, which may not be called")]
    KeysUrl { url: String },
    #[error("the issuer's keys cannot be fetched")]
    Fetch(#[source] FetchError),
    #[error("the issuer's keys cannot be read")]
    Document(#[source] KeySetError),
    #[error("the file with the token for the key endpoint cannot be read")]
    TokenFile(#[source] std::io::Error),
    #[error("the last attempt to fetch the issuer's keys failed a moment ago")]
    RecentFailure,
    #[error("the caller may not make us ask the issuer again")]
    NotPermitted,
}

/// Where fetching an issuer's keys fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysErrorKind {
    /// On the way to the URL of the keys.
    Discovery,
    /// Nothing comes from there.
    Unreachable,
    /// What comes holds no usable key.
    Unusable,
    /// Nothing was fetched.
    NotFetched,
}

impl KeysError {
    /// Where it failed.
    pub fn kind(&self) -> KeysErrorKind {
        match self {
            Self::Discovery(_) | Self::KeysUrl { .. } => KeysErrorKind::Discovery,
            Self::Fetch(_) | Self::TokenFile(_) => KeysErrorKind::Unreachable,
            Self::Document(_) => KeysErrorKind::Unusable,
            Self::RecentFailure | Self::NotPermitted => KeysErrorKind::NotFetched,
        }
    }
}

/// What came of the last fetch of an issuer's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastFetch {
    /// Where it failed, and how; nothing when it didn't.
    pub failure: Option<(KeysErrorKind, String)>,
    /// When a fetch came to this first, with none in between that came to something else.
    pub since: jiff::Timestamp,
}

/// Keys as they were fetched.
#[derive(Debug)]
pub struct Fetched {
    /// The keys.
    pub keys: KeySet,
    /// Grows with every change of the document.
    pub generation: u64,
    document: Vec<u8>,
}

/// Keys of one issuer.
#[derive(Debug)]
pub struct KeyProvider {
    source: KeySource,
    client: GuardedClient,
    clock: SharedClock,
    state: ArcSwapOption<State>,
    attempts: Mutex<Attempts>,
    /// Numbers fetches by their beginnings.
    begun: AtomicU64,
    /// Held while an answer takes its place: the number of the last fetch whose answer did.
    landed: std::sync::Mutex<u64>,
    hits: AtomicU64,
    refreshes: AtomicU64,
    failures: AtomicU64,
    last_fetch: std::sync::Mutex<Option<LastFetch>>,
}

#[derive(Debug, Clone)]
struct State {
    fetched: Arc<Fetched>,
    /// There are keys, or were before they were withdrawn.
    had_keys: bool,
    /// When the issuer last answered.
    seen: Instant,
    /// When a refresh was last begun, so that one burst starts one refresh.
    tried: Instant,
}

#[derive(Debug, Default)]
struct Attempts {
    last_failure: Option<Instant>,
    last_unknown: Option<Instant>,
}

impl State {
    fn has_keys(&self) -> bool {
        !self.fetched.keys.is_empty()
    }

    fn usable(&self) -> Result<Arc<Fetched>, KeysError> {
        match self.has_keys() {
            true => Ok(Arc::clone(&self.fetched)),
            false => Err(KeysError::Document(KeySetError::NothingUsable)),
        }
    }
}

impl KeyProvider {
    /// A provider that has fetched nothing yet.
    pub fn new(source: KeySource, client: GuardedClient, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self {
            source,
            client,
            clock,
            state: ArcSwapOption::empty(),
            attempts: Mutex::default(),
            begun: AtomicU64::new(0),
            landed: std::sync::Mutex::default(),
            hits: AtomicU64::new(0),
            refreshes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_fetch: std::sync::Mutex::default(),
        })
    }

    /// A provider that reaches the same issuer in another way (other CA certificates, another token) and
    /// has the keys that `before` fetched, to be fetched again as soon as they are asked for.
    pub fn succeeding(
        before: &Self,
        source: KeySource,
        client: GuardedClient,
        clock: SharedClock,
    ) -> Arc<Self> {
        let provider = Self::new(source, client, clock);
        if let Some(state) = before.state.load_full() {
            let long_ago = provider.clock.instant().checked_sub(REFRESH_AFTER).unwrap_or(state.tried);
            let tried = long_ago.min(state.tried);
            let seen = long_ago.min(state.seen);
            let kept = State { seen, tried, ..(*state).clone() };
            provider.state.store(Some(Arc::new(kept)));
        }
        provider
    }

    /// The issuer whose keys these are.
    pub fn issuer(&self) -> &Issuer {
        &self.source.issuer
    }

    /// Times that keys were at hand.
    pub fn cache_hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Times that keys were fetched.
    pub fn refreshes(&self) -> u64 {
        self.refreshes.load(Ordering::Relaxed)
    }

    /// Fetches that failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// What came of the last fetch; nothing before the first.
    pub fn last_fetch(&self) -> Option<LastFetch> {
        self.last_fetch.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches keys that are old or missing, as a caller would. It is for whoever wants to know how the issuer
    /// is although nobody calls, and counts as no caller.
    pub async fn freshen(self: &Arc<Self>) {
        if let Some(state) = self.state.load_full().filter(|state| state.has_keys()) {
            let old = self.clock.since(state.seen) >= REFRESH_AFTER;
            let idle = self.clock.since(state.tried) >= RETRY_REFRESH;
            if !old || !idle || !self.note_try(&state) {
                return;
            }
        }
        // What goes wrong is noted there.
        let _ = self.fetch_now().await;
    }

    /// True once there are keys that may still be used.
    pub fn has_keys(&self) -> bool {
        let state = self.state.load();
        state.as_ref().is_some_and(|state| state.has_keys() && self.clock.since(state.seen) < STALE_FOR)
    }

    /// True once there were keys, however old they are.
    pub fn had_keys(&self) -> bool {
        self.state.load().as_ref().is_some_and(|state| state.had_keys)
    }

    /// The keys: those at hand, refreshed behind the caller's back when they are old, or fetched now.
    ///
    /// # Errors
    /// When there are none and none can be had.
    pub async fn keys(self: &Arc<Self>) -> Result<Arc<Fetched>, KeysError> {
        if let Some(state) = self.state.load_full().filter(|state| state.has_keys()) {
            let age = self.clock.since(state.seen);
            if age < REFRESH_AFTER {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(Arc::clone(&state.fetched));
            }
            if age < STALE_FOR {
                if self.clock.since(state.tried) >= ASK_FIRST_AFTER {
                    return self.ask_first().await;
                }
                self.hits.fetch_add(1, Ordering::Relaxed);
                if self.clock.since(state.tried) >= RETRY_REFRESH && self.note_try(&state) {
                    self.refresh_behind();
                }
                return Ok(Arc::clone(&state.fetched));
            }
        }
        self.fetch_now().await
    }

    /// The keys after a token named one that is not among them: fetched again, at most every 30 s, and
    /// only when `permit`, which is asked just before the call, says so.
    ///
    /// # Errors
    /// When none can be had, or `permit` says no.
    pub async fn keys_with_unknown(
        self: &Arc<Self>,
        known: u64,
        permit: impl FnOnce() -> bool,
    ) -> Result<Arc<Fetched>, KeysError> {
        let mut attempts = self.attempts.lock().await;
        if let Some(state) = self.state.load_full() {
            // Somebody else has fetched them while this caller waited.
            if state.fetched.generation != known {
                return Ok(Arc::clone(&state.fetched));
            }
            let recently =
                attempts.last_unknown.is_some_and(|last| self.clock.since(last) < UNKNOWN_KEY_INTERVAL);
            if recently {
                return Ok(Arc::clone(&state.fetched));
            }
            if !permit() {
                return Err(KeysError::NotPermitted);
            }
            attempts.last_unknown = Some(self.clock.instant());
            return match self.fetch().await {
                Ok(fetched) => Ok(fetched),
                Err(error) => {
                    self.report(&error);
                    Ok(Arc::clone(&state.fetched))
                }
            };
        }
        drop(attempts);
        self.fetch_now().await
    }

    /// One caller asks, the others wait for the answer. If there is none, the old keys serve.
    async fn ask_first(self: &Arc<Self>) -> Result<Arc<Fetched>, KeysError> {
        let attempts = self.attempts.lock().await;
        let Some(state) = self.state.load_full().filter(|state| state.has_keys()) else {
            drop(attempts);
            return self.fetch_now().await;
        };
        if self.clock.since(state.tried) < ASK_FIRST_AFTER {
            return Ok(Arc::clone(&state.fetched));
        }
        self.note_try(&state);
        match self.fetch().await {
            Ok(fetched) => Ok(fetched),
            Err(error @ KeysError::Document(KeySetError::NothingUsable)) => {
                self.report(&error);
                Err(error)
            }
            Err(error) => {
                self.report(&error);
                Ok(Arc::clone(&state.fetched))
            }
        }
    }

    async fn fetch_now(self: &Arc<Self>) -> Result<Arc<Fetched>, KeysError> {
        let mut attempts = self.attempts.lock().await;
        if let Some(state) = self.state.load_full()
            && state.has_keys()
            && self.clock.since(state.seen) < REFRESH_AFTER
        {
            return Ok(Arc::clone(&state.fetched));
        }
        if attempts.last_failure.is_some_and(|last| self.clock.since(last) < RETRY_AFTER_FAILURE) {
            return Err(KeysError::RecentFailure);
        }
        let result = self.fetch().await;
        match &result {
            Ok(_) => attempts.last_failure = None,
            Err(error) => {
                attempts.last_failure = Some(self.clock.instant());
                self.report(error);
            }
        }
        result
    }

    fn refresh_behind(self: &Arc<Self>) {
        let provider = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = provider.fetch().await {
                provider.report(&error);
            }
        });
    }

    fn report(&self, error: &KeysError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let error_chain = chain(error);
        self.note_fetch(Some((error.kind(), error_chain.clone())));
        tracing::warn!(
            issuer = %self.source.issuer,
            error = %error_chain,
            "cannot fetch the issuer's keys"
        );
    }

    fn note_fetch(&self, failure: Option<(KeysErrorKind, String)>) {
        let mut last = self.last_fetch.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = |failure: &Option<(KeysErrorKind, String)>| failure.as_ref().map(|(kind, _)| *kind);
        let same = last.as_ref().filter(|last| kind(&last.failure) == kind(&failure));
        let since = same.map_or_else(|| self.clock.now(), |last| last.since);
        *last = Some(LastFetch { failure, since });
    }

    /// So that one burst starts one refresh: false when another caller has noted a try, or a fetch has
    /// brought an answer in the meantime.
    fn note_try(&self, known: &Arc<State>) -> bool {
        let tried = State { tried: self.clock.instant(), ..(**known).clone() };
        let before = self.state.compare_and_swap(known, Some(Arc::new(tried)));
        before.as_ref().is_some_and(|before| Arc::ptr_eq(before, known))
    }

    async fn fetch(&self) -> Result<Arc<Fetched>, KeysError> {
        self.refreshes.fetch_add(1, Ordering::Relaxed);
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let token = match &self.source.token_file {
            Some(path) => {
                let text = tokio::fs::read_to_string(path).await.map_err(KeysError::TokenFile)?;
                Some(Secret::new(text.trim()))
            }
            None => None,
        };
        let url = match &self.source.jwks_url {
            Some(url) => url.clone(),
            None => self.discovered(token.as_ref()).await?,
        };
        let document = self.client.get_json(&url, token.as_ref()).await.map_err(KeysError::Fetch)?;
        self.land(number, document)
    }

    /// Puts an answer in force, unless that of a fetch which began later is. An issuer that publishes no
    /// usable key has withdrawn those that it had; what is no key set at all says nothing about them.
    fn land(&self, number: u64, document: Vec<u8>) -> Result<Arc<Fetched>, KeysError> {
        let mut landed = self.landed.lock().unwrap_or_else(PoisonError::into_inner);
        let previous = self.state.load_full();
        if let Some(state) = previous.as_ref().filter(|_| number < *landed) {
            return state.usable();
        }
        let unchanged = previous.as_ref().filter(|state| state.fetched.document == document);
        let fetched = match unchanged {
            Some(state) => Arc::clone(&state.fetched),
            None => {
                let keys = match KeySet::parse(&document) {
                    Err(KeySetError::NothingUsable) => KeySet::default(),
                    keys => keys.map_err(KeysError::Document)?,
                };
                let generation = previous.as_ref().map_or(1, |state| state.fetched.generation + 1);
                Arc::new(Fetched { keys, generation, document })
            }
        };
        let now = self.clock.instant();
        let had_keys = !fetched.keys.is_empty() || previous.is_some_and(|state| state.had_keys);
        let state = Arc::new(State { fetched, had_keys, seen: now, tried: now });
        *landed = number;
        self.state.store(Some(Arc::clone(&state)));
        // Where there is no usable key that is an error, which is noted as such.
        if state.has_keys() {
            self.note_fetch(None);
        }
        state.usable()
    }

    /// A URL from a document may be private only if the one a person wrote is.
    async fn discovered(&self, token: Option<&Secret>) -> Result<Url, KeysError> {
        let place = self.source.discovery_url.as_ref();
        let found =
            jwks_url(&self.client, &self.source.issuer, place, token).await.map_err(KeysError::Discovery)?;
        let written = place.cloned().or_else(|| Url::parse(self.source.issuer.as_str()).ok());
        let same_host = written.as_ref().is_some_and(|written| written.host() == found.host());
        let downgraded =
            written.as_ref().is_some_and(|written| written.scheme() == "https" && found.scheme() != "https");
        let private = !same_host && is_private(&found).await;
        let written_private = match &written {
            Some(written) if private => is_private(written).await,
            _ => false,
        };
        if downgraded || (private && !written_private) {
            return Err(KeysError::KeysUrl { url: crate::client::redacted(&found) });
        }
        // A token goes to the server that a person named. The API server of Kubernetes writes an address of
        // its own into the document, and answers alike at each.
        match written {
            Some(mut named) if self.source.token_file.is_some() && named.origin() != found.origin() => {
                named.set_path(found.path());
                named.set_query(found.query());
                Ok(named)
            }
            _ => Ok(found),
        }
    }
}

//! Asking the issuer about a token that says nothing by itself (RFC 7662), in the dialects of those who
//! answer in another way.

mod dialect;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};
use skep_api::secret::Secret;
use skep_runtime::clock::SharedClock;
use skep_runtime::logging::chain;
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};

pub use self::dialect::Dialect;

use crate::client::{FetchError, GuardedClient, Reply};

/// Bytes of an answer. The client that is given must hold to them.
pub const MAX_ANSWER: usize = 64 << 10;

/// How long an answer is kept unless the configuration says otherwise.
pub const CACHE_TTL: Duration = Duration::from_secs(30);

/// How long it is kept at most that a token is not active.
pub(crate) const INACTIVE_TTL: Duration = Duration::from_secs(10);

/// What is asked about when nobody calls. It is no token of anybody.
const NOBODYS_TOKEN: &str = "skep-is-the-endpoint-there";

/// Where and how to ask.
#[derive(Debug, Clone)]
pub struct IntrospectionSettings {
    /// The endpoint.
    pub url: Url,
    /// How it is spoken to.
    pub dialect: Dialect,
    /// Our id there; may be empty.
    pub client_id: String,
    /// Our secret there.
    pub client_secret: Option<Secret>,
    /// File with a bearer token for the call, read each time (Kubernetes ServiceAccount token). It is used
    /// where there is no secret.
    pub token_file: Option<PathBuf>,
    /// How long an answer about an active token is kept, never longer than the token lasts; zero is not
    /// at all.
    pub cache_ttl: Duration,
}

/// Why nobody knows whether a token is good.
#[derive(Debug, thiserror::Error)]
pub enum IntrospectionError {
    #[error("the introspection endpoint cannot be called")]
    Fetch(#[source] FetchError),
    #[error("the introspection endpoint answered {status}")]
    Status { status: u16 },
    #[error("the introspection endpoint's answer is not one: {reason}")]
    Answer { reason: &'static str },
    #[error("the file with the token for the introspection endpoint cannot be read")]
    TokenFile(#[source] std::io::Error),
    #[error("the credentials for the introspection endpoint do not fit into a header")]
    Credentials,
}

/// Asks one issuer.
#[derive(Debug)]
pub struct Introspector {
    settings: IntrospectionSettings,
    client: GuardedClient,
    clock: SharedClock,
    failing: AtomicBool,
    last: Mutex<Option<LastAsked>>,
}

/// What came of the last question about a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastAsked {
    /// How it failed; nothing when there was an answer.
    pub failure: Option<String>,
    /// When a question came to this first, with none in between that came to the other.
    pub since: jiff::Timestamp,
}

impl PartialEq for IntrospectionSettings {
    fn eq(&self, other: &Self) -> bool {
        let secret = |settings: &Self| settings.client_secret.as_ref().map(|s| s.expose().to_owned());
        self.url == other.url
            && self.dialect == other.dialect
            && self.client_id == other.client_id
            && secret(self) == secret(other)
            && self.token_file == other.token_file
            && self.cache_ttl == other.cache_ttl
    }
}

impl Introspector {
    /// Asks over `client`, whose answers should be bounded by [`MAX_ANSWER`].
    pub fn new(settings: IntrospectionSettings, client: GuardedClient, clock: SharedClock) -> Self {
        Self { settings, client, clock, failing: AtomicBool::new(false), last: Mutex::default() }
    }

    /// How long an answer about an active token is kept.
    pub(crate) fn cache_ttl(&self) -> Duration {
        self.settings.cache_ttl
    }

    /// True when the last call failed: not when the token was bad.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// What came of the last call; nothing before the first.
    pub fn last_asked(&self) -> Option<LastAsked> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks about a token that nobody has, if the last call failed: so that the end of a failure is known
    /// although nobody calls.
    pub async fn ask_again(&self) {
        if self.is_failing() {
            // The answer is that it is not active; what matters is that there is one.
            let _ = self.ask(&Secret::new(NOBODYS_TOKEN)).await;
        }
    }

    /// The claims of a token, all of them; `None` when it is not active.
    ///
    /// # Errors
    /// When the endpoint can't be reached or gives no proper answer. It is logged here.
    pub(crate) async fn ask(&self, token: &Secret) -> Result<Option<Map<String, Value>>, IntrospectionError> {
        let answer = self.call(token).await;
        self.failing.store(answer.is_err(), Ordering::Relaxed);
        let failure = answer.as_ref().err().map(|error| chain(error));
        if let Some(error) = &failure {
            tracing::warn!(
                url = %crate::client::redacted(&self.settings.url),
                error,
                "cannot ask the issuer about a token"
            );
        }
        self.note(failure);
        answer
    }

    fn note(&self, failure: Option<String>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let same = last.as_ref().filter(|last| last.failure.is_some() == failure.is_some());
        let since = same.map_or_else(|| self.clock.now(), |last| last.since);
        *last = Some(LastAsked { failure, since });
    }

    async fn call(&self, token: &Secret) -> Result<Option<Map<String, Value>>, IntrospectionError> {
        let (headers, body) = match self.settings.dialect {
            Dialect::Rfc7662 => self.rfc7662(token).await?,
            Dialect::Google => {
                let form =
                    Serializer::new(String::new()).append_pair("access_token", token.expose()).finish();
                (form_headers(), form)
            }
            Dialect::GitHub => {
                let mut headers = HeaderMap::new();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                headers.insert(ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
                headers.insert("x-github-api-version", HeaderValue::from_static("2022-11-28"));
                // GitHub's documentation sends id and secret as they are.
                if let Some(secret) = &self.settings.client_secret {
                    let pair = format!("{}:{}", self.settings.client_id, secret.expose());
                    headers.insert(AUTHORIZATION, credentials("Basic", &STANDARD.encode(pair))?);
                }
                (headers, json!({"access_token": token.expose()}).to_string())
            }
        };
        let reply = self
            .client
            .post(&self.settings.url, headers, body.into_bytes())
            .await
            .map_err(IntrospectionError::Fetch)?;
        self.read(&reply)
    }

    async fn rfc7662(&self, token: &Secret) -> Result<(HeaderMap, String), IntrospectionError> {
        let mut headers = form_headers();
        let mut with_id = None;
        let IntrospectionSettings { client_id, client_secret, token_file, .. } = &self.settings;
        match (client_secret, token_file) {
            // RFC 6749 §2.3.1: both are form-encoded before they are put together.
            (Some(secret), _) if !client_id.is_empty() => {
                let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                let pair = format!("{}:{}", encoded(client_id), encoded(secret.expose()));
                headers.insert(AUTHORIZATION, credentials("Basic", &STANDARD.encode(pair))?);
            }
            (_, Some(path)) => {
                let text = tokio::fs::read_to_string(path).await.map_err(IntrospectionError::TokenFile)?;
                headers.insert(AUTHORIZATION, credentials("Bearer", text.trim())?);
            }
            (_, None) if !client_id.is_empty() => {
                with_id = Some(("client_id", client_id));
            }
            _ => {}
        }
        let form = Serializer::new(String::new())
            .append_pair("token", token.expose())
            .append_pair("token_type_hint", "access_token")
            .extend_pairs(with_id)
            .finish();
        Ok((headers, form))
    }

    fn read(&self, reply: &Reply) -> Result<Option<Map<String, Value>>, IntrospectionError> {
        if self.settings.dialect.refuses(reply.status) {
            return Ok(None);
        }
        if reply.status != 200 {
            return Err(IntrospectionError::Status { status: reply.status });
        }
        let not_json = |_| IntrospectionError::Answer { reason: "it is no JSON object" };
        let text = skep_api::json::check(&reply.body, 16)
            .map_err(|_| IntrospectionError::Answer { reason: "it is not strict JSON" })?;
        let answer: Map<String, Value> = serde_json::from_str(text).map_err(not_json)?;
        self.settings.dialect.claims(answer, self.clock.unix_seconds(), self.settings.cache_ttl)
    }
}

fn form_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers
}

fn credentials(scheme: &str, value: &str) -> Result<HeaderValue, IntrospectionError> {
    let mut value =
        HeaderValue::from_str(&format!("{scheme} {value}")).map_err(|_| IntrospectionError::Credentials)?;
    value.set_sensitive(true);
    Ok(value)
}

//! AWS credentials for the caller (STS AssumeRoleWithWebIdentity) and signatures with them (SigV4).

mod choices;
mod matcher;
mod roles;
mod settings;
mod signer;
mod sts;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use http::{HeaderMap, Method, StatusCode};
use skep_api::secret::Secret;
use skep_runtime::clock::SharedClock;
use url::Url;

use self::choices::{Choice, Choices};

pub use self::matcher::MatcherError;
pub use self::roles::{RoleArn, RoleRules};
pub use self::settings::{AwsConfigError, AwsSettings};

use crate::client::{ClientConfig, FetchError, GuardedClient, redacted};
use crate::exchange::{ExchangeObserver, ExchangeReadiness, ExchangeResult, LastCall};
use crate::flight::{FlightCache, FlightKey, Keep};
use crate::identity::Identity;
use crate::refusals::{Refusals, owner};

/// Credentials kept at a time.
const CAPACITY: usize = 4096;

/// Bytes of an answer of STS. A good one has about two thousand.
const MAX_ANSWER: usize = 64 << 10;

/// Credentials are not used for the last of their time, so that none ends on the way.
const MARGIN: i64 = 60;

/// How long a refusal of a caller's token is kept.
const REFUSAL: Duration = Duration::from_secs(5);

/// How long a caller waits where STS does not say.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What AWS services call a refusal of credentials.
const REFUSED: [&str; 6] = [
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "InvalidToken",
    "UnrecognizedClientException",
    "UnrecognizedClient",
];

/// Credentials of one caller in one role.
pub struct AwsCredentials {
    access_key_id: String,
    secret_access_key: Secret,
    session_token: Secret,
    /// Seconds since 1970.
    expires_at: i64,
    role: RoleArn,
    key: FlightKey,
}

impl AwsCredentials {
    /// The role, for the audit record.
    pub fn role_arn(&self) -> &str {
        self.role.as_str()
    }

    /// When they end, in seconds since 1970.
    pub fn expires_at(&self) -> i64 {
        self.expires_at
    }
}

impl fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsCredentials")
            .field("role", &self.role)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Why there are no AWS credentials for a caller, or no signature.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum AwsError {
    #[error("no role is configured for the caller")]
    NoRole,
    #[error("the claim that names the session is missing, or is no session name")]
    SessionName,
    #[error("AWS does not accept the caller's token")]
    TokenRefused {
        /// Another token of the same subject was refused less than a minute ago: a new login does not help.
        repeated: bool,
    },
    #[error("AWS does not let the caller take the role")]
    Denied,
    #[error("AWS refuses this proxy's request: {code}")]
    Refused {
        /// Error code of STS; `UnknownCode` for one that is not known here.
        code: &'static str,
    },
    #[error("the answer of AWS is not usable: {reason}")]
    Response { reason: &'static str },
    #[error("AWS STS cannot be reached or has a fault; try again later")]
    Unavailable { retry_after: Duration },
    #[error("the request cannot be signed: {reason}")]
    Signing { reason: &'static str },
}

/// Why STS can't be called at all.
#[derive(Debug, thiserror::Error)]
pub enum AwsSetupError {
    #[error("the client for AWS STS cannot be made")]
    Client(#[source] FetchError),
}

/// Gets credentials of the callers' roles, keeps them while they are good, and signs with them.
#[derive(Debug)]
pub struct AwsSts {
    settings: AwsSettings,
    client: GuardedClient,
    clock: SharedClock,
    observer: Arc<dyn ExchangeObserver>,
    kept: Arc<FlightCache<Arc<AwsCredentials>, AwsError>>,
    choices: Choices,
    refusals: Refusals,
    last: LastCall,
}

/// Who a flight is for.
struct Asked {
    form: Vec<u8>,
    role: RoleArn,
    key: FlightKey,
    token: [u8; 32],
    owner: [u8; 32],
    /// When the caller's token ends, in seconds since 1970.
    ends: i64,
}

impl AwsSts {
    /// Makes it ready; nothing is called yet.
    ///
    /// # Errors
    /// When the CA certificates are no PEM, or there is none in what was given.
    pub fn new(
        settings: AwsSettings,
        clock: SharedClock,
        observer: Arc<dyn ExchangeObserver>,
    ) -> Result<Arc<Self>, AwsSetupError> {
        let client = ClientConfig {
            reach: settings.reach,
            egress: settings.egress.clone(),
            ca_pem: settings.ca_pem.clone(),
            identity_pem: None,
            timeout: settings.timeout,
            max_bytes: MAX_ANSWER,
            pins: crate::pins::Pins::default(),
            idle_connections: 2,
        };
        let client = GuardedClient::new(client).map_err(AwsSetupError::Client)?;
        let kept = FlightCache::new(CAPACITY, Arc::clone(&clock));
        Ok(Arc::new(Self {
            settings,
            client,
            clock,
            observer,
            kept,
            choices: Choices::default(),
            refusals: Refusals::default(),
            last: LastCall::default(),
        }))
    }

    /// True when `settings` would make nothing different, so that what is kept can stay.
    pub fn same(&self, settings: &AwsSettings) -> bool {
        self.settings == *settings
    }

    /// Credentials for a caller, and whether they were at hand. Of many calls for one caller one asks STS.
    ///
    /// # Errors
    /// See [`AwsError`]. Only a refusal of the caller's token is kept, for some seconds.
    pub async fn credentials(
        self: &Arc<Self>,
        identity: &Arc<Identity>,
        token: &str,
    ) -> Result<(Arc<AwsCredentials>, bool), AwsError> {
        let Choice { role, session, key } = self.choices.of(identity, || self.choose(identity))?;
        let lost = AwsError::Unavailable { retry_after: RETRY_AFTER };
        let landed = self
            .kept
            .get(key, lost, || {
                let sts = Arc::clone(self);
                let asked = Asked {
                    form: self.settings.form(&role, &session, token),
                    role,
                    key,
                    token: identity.token_digest,
                    owner: owner(&identity.issuer, &identity.subject),
                    ends: identity.expires_at,
                };
                async move { sts.ask(asked).await }
            })
            .await;
        if landed.kept && landed.outcome.is_ok() {
            self.observer.hit();
        }
        landed.outcome.map(|credentials| (credentials, landed.kept))
    }

    /// Forgets credentials that were refused. Newer ones of the same caller stay.
    pub fn evict(&self, credentials: &AwsCredentials) {
        if let Some(Ok(kept)) = self.kept.peek(&credentials.key)
            && std::ptr::eq(Arc::as_ptr(&kept), credentials)
        {
            self.kept.evict(&credentials.key);
        }
    }

    /// True when an answer of the server says that the credentials themselves are no good. AWS says so with
    /// 403, as it does of what a role may not do, which is another matter.
    pub fn refused(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let fault = headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok()).unwrap_or_default();
        // `Name`, or `Name:URL`, or `namespace#Name`.
        let fault = fault.split(':').next().unwrap_or_default().rsplit('#').next().unwrap_or_default();
        status == StatusCode::UNAUTHORIZED
            || (matches!(status, StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST) && REFUSED.contains(&fault))
    }

    /// Signs a request (AWS Signature Version 4): adds `Authorization`, `X-Amz-Date`,
    /// `X-Amz-Security-Token` and `X-Amz-Content-Sha256`, in place of any that are there. The signature is
    /// over Host (that of `url`), Content-Type, and every `X-Amz-*` and `Mcp-*` header. What hops on the way
    /// may change is not under it. `headers` and `url` must be those that are sent.
    ///
    /// # Errors
    /// When `url` has no host or a credential does not fit into a header.
    pub fn sign(
        &self,
        credentials: &AwsCredentials,
        method: &Method,
        url: &Url,
        headers: &mut HeaderMap,
        body: &[u8],
    ) -> Result<(), AwsError> {
        let scope = signer::Scope { region: &self.settings.region, service: &self.settings.service };
        let keys = signer::Keys {
            access_key_id: &credentials.access_key_id,
            secret_access_key: &credentials.secret_access_key,
            session_token: Some(&credentials.session_token),
        };
        signer::sign(&keys, &scope, self.clock.now(), method, url, headers, body)
    }

    /// Whether credentials can be had, as of the last call to STS. A caller whose token is refused, or who
    /// may not take the role, says nothing about it, nor does a failure of more than five minutes ago.
    pub fn readiness(&self) -> ExchangeReadiness {
        self.readiness_since().0
    }

    /// The same, and since when it has been so; never, when it was always.
    pub fn readiness_since(&self) -> (ExchangeReadiness, Option<jiff::Timestamp>) {
        self.last.readiness(self.clock.instant())
    }

    /// What the rules say about a caller.
    fn choose(&self, caller: &Identity) -> Result<Choice, AwsError> {
        let role = self.settings.roles.select(caller).ok_or(AwsError::NoRole)?.clone();
        let session = self.session_name(caller)?;
        let key = key(&caller.token_digest, &role, session);
        Ok(Choice { role, session: session.into(), key })
    }

    fn session_name<'i>(&self, identity: &'i Identity) -> Result<&'i str, AwsError> {
        let claim = roles::claim(&identity.claims, &self.settings.session_name_claim);
        claim
            .and_then(serde_json::Value::as_str)
            .filter(|name| roles::is_session_name(name))
            .ok_or(AwsError::SessionName)
    }

    /// One flight: the call, and how long its outcome is kept.
    async fn ask(&self, asked: Asked) -> (Result<Arc<AwsCredentials>, AwsError>, Keep) {
        let Asked { form, role, key, token, owner, ends } = asked;
        let began = self.clock.instant();
        let now = self.clock.unix_seconds();
        let answered = sts::assume_role(&self.client, &self.settings.sts_endpoint, form, now).await;
        let error = answered.as_ref().err().map(|fault| &fault.error);
        self.observer.asked(result(error), self.clock.since(began));
        self.note(error);
        match answered {
            Ok(granted) => {
                self.refusals.forget(&owner);
                let left = granted.expires_at.min(ends).saturating_sub(now).saturating_sub(MARGIN);
                let keep = match u64::try_from(left) {
                    Ok(left) if left > 0 => Keep::For(Duration::from_secs(left)),
                    _ => Keep::No,
                };
                let credentials = AwsCredentials {
                    access_key_id: granted.access_key_id,
                    secret_access_key: granted.secret_access_key,
                    session_token: granted.session_token,
                    expires_at: granted.expires_at,
                    role,
                    key,
                };
                (Ok(Arc::new(credentials)), keep)
            }
            Err(fault) => {
                // What STS wrote besides its code is in none of it: it may hold the token.
                tracing::warn!(
                    endpoint = redacted(&self.settings.sts_endpoint),
                    status = fault.status,
                    role = role.as_str(),
                    error = %fault.error,
                    cause = fault.cause,
                    "no AWS credentials"
                );
                match fault.error {
                    AwsError::TokenRefused { .. } => {
                        let repeated = self.refusals.note(owner, token, self.clock.instant());
                        (Err(AwsError::TokenRefused { repeated }), Keep::For(REFUSAL))
                    }
                    error => (Err(error), Keep::No),
                }
            }
        }
    }

    fn note(&self, error: Option<&AwsError>) {
        let readiness = match error {
            None => ExchangeReadiness::Ready,
            Some(AwsError::Refused { code }) => ExchangeReadiness::Refused(code),
            Some(AwsError::Response { .. }) => ExchangeReadiness::Unusable,
            Some(AwsError::Unavailable { .. }) => ExchangeReadiness::Unavailable,
            Some(_) => return,
        };
        self.last.note(readiness, &*self.clock);
    }
}

fn result(error: Option<&AwsError>) -> ExchangeResult {
    match error {
        None => ExchangeResult::Success,
        Some(AwsError::TokenRefused { .. }) => ExchangeResult::SubjectRefused,
        Some(AwsError::Response { .. }) => ExchangeResult::InvalidResponse,
        Some(AwsError::Unavailable { .. }) => ExchangeResult::Unavailable,
        Some(_) => ExchangeResult::Refused,
    }
}

/// Lengths come first, so that no two triples have the same bytes.
fn key(token: &[u8; 32], role: &RoleArn, session: &str) -> FlightKey {
    let mut context = Context::new(&SHA256);
    context.update(token);
    for part in [role.as_str(), session] {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut key = FlightKey::default();
    for (to, from) in key.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    key
}

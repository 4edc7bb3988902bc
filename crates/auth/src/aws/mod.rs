//! AWS credentials for the caller (STS AssumeRoleWithWebIdentity) and signatures with them (SigV4).

mod matcher;
mod roles;
mod settings;
mod signer;
mod sts;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use http::{HeaderMap, Method, StatusCode};
use skep_api::secret::Secret;
use skep_runtime::clock::SharedClock;
use url::Url;

pub use self::matcher::MatcherError;
pub use self::roles::{RoleArn, RoleRules};
pub use self::settings::{AwsConfigError, AwsSettings};

use crate::client::{ClientConfig, FetchError, GuardedClient};
use crate::exchange::{ExchangeObserver, ExchangeReadiness, ExchangeResult};
use crate::flight::{FlightCache, FlightKey, Keep};
use crate::identity::Identity;

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
    TokenRefused,
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
    readiness: Mutex<ExchangeReadiness>,
}

impl AwsSts {
    /// Makes it ready; nothing is called yet.
    ///
    /// # Errors
    /// When the CA certificates are no PEM.
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
        };
        let client = GuardedClient::new(client).map_err(AwsSetupError::Client)?;
        let kept = FlightCache::new(CAPACITY, Arc::clone(&clock));
        let readiness = Mutex::new(ExchangeReadiness::Unknown);
        Ok(Arc::new(Self { settings, client, clock, observer, kept, readiness }))
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
        identity: &Identity,
        token: &str,
    ) -> Result<(Arc<AwsCredentials>, bool), AwsError> {
        let role = self.settings.roles.select(identity).ok_or(AwsError::NoRole)?;
        let session = self.session_name(identity)?;
        let key = key(&identity.token_digest, role, session);
        let lost = AwsError::Unavailable { retry_after: RETRY_AFTER };
        let landed = self
            .kept
            .get(key, lost, || {
                let sts = Arc::clone(self);
                let role = role.clone();
                let form = self.settings.form(&role, session, token);
                let subject_ends = identity.expires_at;
                async move { sts.ask(form, role, key, subject_ends).await }
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
    /// When `url` has no host or a header that has to be signed is not text.
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

    /// Whether credentials can be had, as of the last call to STS. A caller whose token is refused says
    /// nothing about it.
    pub fn readiness(&self) -> ExchangeReadiness {
        *self.readiness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session_name<'i>(&self, identity: &'i Identity) -> Result<&'i str, AwsError> {
        let claim = roles::claim(&identity.claims, &self.settings.session_name_claim);
        claim
            .and_then(serde_json::Value::as_str)
            .filter(|name| roles::is_session_name(name))
            .ok_or(AwsError::SessionName)
    }

    async fn ask(
        &self,
        form: Vec<u8>,
        role: RoleArn,
        key: FlightKey,
        subject_ends: i64,
    ) -> (Result<Arc<AwsCredentials>, AwsError>, Keep) {
        let asked = self.clock.instant();
        let now = self.clock.unix_seconds();
        let answered = sts::assume_role(&self.client, &self.settings.sts_endpoint, form, now).await;
        self.observer.asked(result(answered.as_ref().err()), self.clock.since(asked));
        self.note(answered.as_ref().err());
        match answered {
            Ok(granted) => {
                let left = granted.expires_at.min(subject_ends).saturating_sub(now).saturating_sub(MARGIN);
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
            Err(error) => {
                let keep = match error {
                    AwsError::TokenRefused => Keep::For(REFUSAL),
                    _ => Keep::No,
                };
                tracing::warn!(error = %error, role = role.as_str(), "no AWS credentials");
                (Err(error), keep)
            }
        }
    }

    fn note(&self, error: Option<&AwsError>) {
        let readiness = match error {
            None => ExchangeReadiness::Ready,
            Some(AwsError::Denied) => ExchangeReadiness::Refused("AccessDenied"),
            Some(AwsError::Refused { code }) => ExchangeReadiness::Refused(code),
            Some(AwsError::Response { .. }) => ExchangeReadiness::Unusable,
            Some(AwsError::Unavailable { .. }) => ExchangeReadiness::Unavailable,
            Some(_) => return,
        };
        *self.readiness.lock().unwrap_or_else(PoisonError::into_inner) = readiness;
    }
}

fn result(error: Option<&AwsError>) -> ExchangeResult {
    match error {
        None => ExchangeResult::Success,
        Some(AwsError::TokenRefused) => ExchangeResult::SubjectRefused,
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

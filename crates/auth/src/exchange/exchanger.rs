//! Tokens for the backend, asked for once and kept while they are good.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use skep_api::secret::Secret;
use skep_runtime::clock::SharedClock;
use skep_runtime::logging::chain;
use skep_runtime::rng::SharedRng;

use super::actor::Actor;
use super::credentials::{Credential, Credentials};
use super::request::Request;
use super::response::{Failure, Granted, RETRY, judge, unanswered};
use super::{
    ExchangeError, ExchangeObserver, ExchangeReadiness, ExchangeResult, ExchangeSettings, ExchangeSetupError,
    ExchangedToken, ExchangerMode, LastCall, Subject,
};
use crate::client::redacted;
use crate::flight::{FlightCache, FlightKey, Keep};
use crate::refusals::{Refusals, owner};

/// Tokens that are kept.
const CAPACITY: usize = 16_384;
/// How long before its end a token is no longer used.
const MARGIN: Duration = Duration::from_secs(30);
/// How long a token is kept that does not say how long it lasts.
const UNSAID: Duration = Duration::from_secs(60);
/// The longest that a refusal is kept.
const MAX_NEGATIVE: Duration = Duration::from_secs(10);

/// Gets tokens for the backend.
///
/// A token is asked for once however many callers wait for it, and kept for the shorter of its own and the
/// subject token's time less 30 s (60 s when the endpoint says no time). What is asked for (endpoint,
/// audience, scopes, resource and the rest of the settings) is the exchanger's own and does not change in
/// its life, so the key of what is kept is the subject token's digest and, where there is one, the
/// identity of the actor. Credentials change with [`renew`](Self::renew), and what is kept stays.
///
/// Only a refusal of the subject's token is kept, 10 s at most; whatever may be over in a moment is not.
pub struct Exchanger {
    request: Request,
    credentials: Credentials,
    cache: Arc<FlightCache<Arc<ExchangedToken>, ExchangeError>>,
    refusals: Refusals,
    last: LastCall,
    clock: SharedClock,
    rng: SharedRng,
    observer: Arc<dyn ExchangeObserver>,
}

impl fmt::Debug for Exchanger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchanger")
            .field("token_url", &redacted(&self.request.token_url))
            .field("audience", &self.request.audience)
            .finish_non_exhaustive()
    }
}

/// Who a flight is for. The service's own flight has no subject.
struct Asked {
    key: FlightKey,
    /// Who acts for the subject, as far as the key knows.
    actor: Option<Arc<Actor>>,
    subject: Option<AskedFor>,
}

struct AskedFor {
    token: Secret,
    digest: [u8; 32],
    owner: [u8; 32],
    expires_at: i64,
}

/// What a call came to, for the log.
struct Fault {
    failure: Failure,
    status: Option<u16>,
    cause: String,
}

impl Exchanger {
    /// Makes one. Nothing is called yet.
    ///
    /// # Errors
    /// When the endpoint may not be called, a client id or credential is missing, or a key, certificate or
    /// CA certificate cannot be read.
    pub fn new(
        settings: ExchangeSettings,
        clock: SharedClock,
        rng: SharedRng,
        observer: Arc<dyn ExchangeObserver>,
    ) -> Result<Arc<Self>, ExchangeSetupError> {
        let request = Request::of(&settings);
        Ok(Arc::new(Self {
            credentials: Credentials::new(&request, &settings)?,
            request,
            cache: FlightCache::new(CAPACITY, Arc::clone(&clock)),
            refusals: Refusals::default(),
            last: LastCall::default(),
            clock,
            rng,
            observer,
        }))
    }

    /// Takes the credentials of `settings` (client secret, key or certificate of the same method, actor
    /// token, CA certificates) where nothing else has changed; tokens and refusals that are kept live on.
    /// `false`: something else has changed, so another exchanger is needed.
    ///
    /// # Errors
    /// When the new credentials cannot be used. The old ones stay in use.
    pub fn renew(&self, settings: &ExchangeSettings) -> Result<bool, ExchangeSetupError> {
        if Request::of(settings) != self.request {
            return Ok(false);
        }
        self.credentials.renew(&self.request, settings, self.clock.instant())?;
        Ok(true)
    }

    /// The token for `subject`, and whether it was at hand (no network). The subject is needed where
    /// callers' tokens are exchanged ([`ExchangerMode::Caller`]) and ignored otherwise.
    ///
    /// # Errors
    /// See [`ExchangeError`]; callers who waited for the same call get the same error.
    pub async fn token(
        self: &Arc<Self>,
        subject: Option<Subject<'_>>,
    ) -> Result<(Arc<ExchangedToken>, bool), ExchangeError> {
        let subject = match (self.mode(), subject) {
            (ExchangerMode::Service, _) => None,
            (ExchangerMode::Caller, Some(subject)) => Some(subject),
            // Nobody's token is exchanged for nobody.
            (ExchangerMode::Caller, None) => return Err(ExchangeError::SubjectRefused { repeated: false }),
        };
        let actor = self.credentials.actor();
        let key = key(subject.as_ref(), actor.as_deref());
        let lost = ExchangeError::Unavailable { retry_after: RETRY };
        let landed = self
            .cache
            .get(key, lost, || {
                let asked = Asked { key, actor, subject: subject.map(AskedFor::from) };
                let exchanger = Arc::clone(self);
                async move { exchanger.fly(asked).await }
            })
            .await;
        let token = landed.outcome?;
        if landed.kept {
            self.observer.hit();
        }
        Ok((token, landed.kept))
    }

    /// Forgets a token that the backend refused. One that has taken its place meanwhile stays.
    pub fn evict(&self, token: &ExchangedToken) {
        if let Some(Ok(kept)) = self.cache.peek(&token.key)
            && std::ptr::eq(Arc::as_ptr(&kept), token)
        {
            self.cache.evict(&token.key);
        }
    }

    /// Whether exchanges work, as of the last call. A refusal of a subject's token says that they do, and a
    /// failure of more than five minutes ago says nothing.
    pub fn readiness(&self) -> ExchangeReadiness {
        self.readiness_since().0
    }

    /// The same, and since when it has been so; never, when it was always.
    pub fn readiness_since(&self) -> (ExchangeReadiness, Option<jiff::Timestamp>) {
        self.last.readiness(self.clock.instant())
    }

    /// `audience` that tokens are asked for; empty when none is.
    pub fn audience(&self) -> &str {
        &self.request.audience
    }

    /// Whose tokens it gets.
    pub fn mode(&self) -> ExchangerMode {
        self.request.mode()
    }

    /// One flight: from the first call to what is kept.
    async fn fly(&self, asked: Asked) -> (Result<Arc<ExchangedToken>, ExchangeError>, Keep) {
        let started = self.clock.instant();
        let (outcome, as_asked) = self.ask(&asked).await;
        self.note(&outcome);
        match outcome {
            Ok(granted) => {
                if let Some(subject) = &asked.subject {
                    self.refusals.forget(&subject.owner);
                }
                let keep = match as_asked {
                    true => self.keep(&granted, asked.subject.as_ref(), self.clock.since(started)),
                    false => Keep::No,
                };
                let scopes = granted.scopes.unwrap_or_else(|| self.request.scopes.clone());
                let authorization = granted.authorization;
                (Ok(Arc::new(ExchangedToken { authorization, scopes, key: asked.key })), keep)
            }
            Err(fault) => {
                let error = self.error(fault.failure, asked.subject.as_ref());
                let keep = match error {
                    ExchangeError::SubjectRefused { .. } => {
                        lasting(self.request.negative_ttl.min(MAX_NEGATIVE))
                    }
                    _ => Keep::No,
                };
                (Err(error), keep)
            }
        }
    }

    /// Calls with the actor's token as it is known; once more when that has expired or may be what the
    /// endpoint refuses, and its file holds another by now. `false` when the outcome is another actor's.
    async fn ask(&self, asked: &Asked) -> (Result<Granted, Fault>, bool) {
        let outcome = self.ask_as(asked.actor.as_deref(), asked).await;
        let Some(actor) = &asked.actor else { return (outcome, true) };
        if !is_token_refused(&outcome) {
            return (outcome, true);
        }
        let Some(newer) = self.credentials.newer_actor(actor).await else { return (outcome, true) };
        let outcome = self.ask_as(Some(&newer), asked).await;
        if !is_token_refused(&outcome) {
            self.credentials.adopt_actor(&newer, actor);
        }
        (outcome, newer.identity == actor.identity)
    }

    /// Calls until the client is accepted or there is nothing left to try. Around a rotation the endpoint
    /// and this proxy change at different moments, so a credential that is refused may have been replaced
    /// a moment ago, or may be newer than what the endpoint knows.
    async fn ask_as(&self, actor: Option<&Actor>, asked: &Asked) -> Result<Granted, Fault> {
        if actor.is_some_and(|actor| actor.has_expired(self.clock.unix_seconds())) {
            let cause = "the actor's token has expired, and its file holds no newer one".to_owned();
            return Err(Fault { failure: Failure::ActorExpired, status: None, cause });
        }
        let first = &self.credentials.current();
        let refused = match self.call(first, actor, asked).await {
            Err(fault) if fault.failure == Failure::Client => fault,
            outcome => return outcome,
        };
        if let Some(newer) = self.credentials.newer(&self.request, first).await {
            let outcome = self.call(&newer, actor, asked).await;
            if !is_client_refused(&outcome) {
                self.credentials.adopt(&newer, first, self.clock.instant());
            }
            return outcome;
        }
        let Some(previous) = self.credentials.previous(first, self.clock.instant()) else {
            return Err(refused);
        };
        let outcome = self.call(&previous, actor, asked).await;
        if !is_client_refused(&outcome) {
            return outcome;
        }
        // The endpoint may have changed over between the two calls.
        self.call(first, actor, asked).await
    }

    async fn call(
        &self,
        credential: &Credential,
        actor: Option<&Actor>,
        asked: &Asked,
    ) -> Result<Granted, Fault> {
        let subject = asked.subject.as_ref().map_or("", |subject| subject.token.expose());
        let id = || self.rng.uuid().to_string();
        let now = self.clock.unix_seconds();
        let rendered = self.request.render(credential, actor, subject, now, id);
        let Some((headers, body)) = rendered else {
            let cause = "the client's key could not sign an assertion".to_owned();
            return Err(Fault { failure: Failure::Refused("other"), status: None, cause });
        };
        let started = self.clock.instant();
        let outcome = match credential.client.post(&self.request.token_url, headers, body).await {
            Ok(reply) => judge(self.mode(), &reply, self.clock.now())
                .and_then(|granted| granted.other_than(subject))
                .map_err(|failure| Fault { failure, status: Some(reply.status), cause: String::new() }),
            Err(error) => Err(Fault { failure: unanswered(&error), status: None, cause: chain(&error) }),
        };
        let result = match &outcome {
            Ok(_) => ExchangeResult::Success,
            Err(fault) => fault.failure.result(),
        };
        self.observer.asked(result, self.clock.since(started));
        outcome
    }

    fn keep(&self, granted: &Granted, subject: Option<&AskedFor>, took: Duration) -> Keep {
        let mut lasts = match granted.expires_in {
            // The endpoint may have counted from the beginning of the call.
            Some(seconds) => Duration::from_secs(seconds).saturating_sub(took).saturating_sub(MARGIN),
            None => UNSAID,
        };
        if let Some(subject) = subject {
            let left = subject.expires_at.saturating_sub(self.clock.unix_seconds());
            let left = Duration::from_secs(u64::try_from(left).unwrap_or(0));
            lasts = lasts.min(left.saturating_sub(MARGIN));
        }
        lasting(self.request.ttl_cap.map_or(lasts, |cap| lasts.min(cap)))
    }

    fn error(&self, failure: Failure, subject: Option<&AskedFor>) -> ExchangeError {
        match failure {
            Failure::Subject => ExchangeError::SubjectRefused {
                repeated: subject.is_some_and(|subject| {
                    self.refusals.note(subject.owner, subject.digest, self.clock.instant())
                }),
            },
            Failure::Client | Failure::ActorExpired => ExchangeError::Refused { code: failure.code() },
            Failure::Refused(code) => ExchangeError::Refused { code },
            Failure::Response(reason) => ExchangeError::Response { reason },
            Failure::Unavailable(retry_after) => ExchangeError::Unavailable { retry_after },
        }
    }

    /// Says what came of a flight. What the endpoint wrote is in none of it: it may hold a token.
    fn note(&self, outcome: &Result<Granted, Fault>) {
        let readiness = match outcome {
            Ok(_) => ExchangeReadiness::Ready,
            Err(fault) => match fault.failure {
                Failure::Subject => ExchangeReadiness::Ready,
                Failure::Client | Failure::ActorExpired => ExchangeReadiness::Refused(fault.failure.code()),
                Failure::Refused(code) => ExchangeReadiness::Refused(code),
                Failure::Response(_) => ExchangeReadiness::Unusable,
                Failure::Unavailable(_) => ExchangeReadiness::Unavailable,
            },
        };
        self.last.note(readiness, &*self.clock);
        if let Err(fault) = outcome {
            tracing::warn!(
                endpoint = redacted(&self.request.token_url),
                status = fault.status,
                code = fault.failure.code(),
                cause = fault.cause,
                "no token from the token endpoint"
            );
        }
    }
}

impl Failure {
    fn result(self) -> ExchangeResult {
        match self {
            Self::Subject => ExchangeResult::SubjectRefused,
            Self::Client | Self::ActorExpired | Self::Refused(_) => ExchangeResult::Refused,
            Self::Response(_) => ExchangeResult::InvalidResponse,
            Self::Unavailable(_) => ExchangeResult::Unavailable,
        }
    }

    /// A word for logs and for `/status`.
    fn code(self) -> &'static str {
        match self {
            Self::Subject => "subject_refused",
            Self::Client => "invalid_client",
            Self::ActorExpired => "actor_expired",
            Self::Refused(code) | Self::Response(code) => code,
            Self::Unavailable(_) => "unavailable",
        }
    }
}

impl From<Subject<'_>> for AskedFor {
    fn from(subject: Subject<'_>) -> Self {
        Self {
            token: Secret::new(subject.token),
            digest: subject.digest,
            owner: owner(subject.issuer, subject.subject),
            expires_at: subject.expires_at,
        }
    }
}

fn key(subject: Option<&Subject<'_>>, actor: Option<&Actor>) -> FlightKey {
    match (subject, actor) {
        (None, _) => [0; 32],
        (Some(subject), None) => subject.digest,
        (Some(subject), Some(actor)) => {
            Sha256::new().chain_update(subject.digest).chain_update(actor.identity).finalize().into()
        }
    }
}

/// RFC 8693 §2.2.2: one code for a bad token of the subject and of the actor.
fn is_token_refused(outcome: &Result<Granted, Fault>) -> bool {
    outcome.as_ref().is_err_and(|fault| matches!(fault.failure, Failure::Subject | Failure::ActorExpired))
}

fn is_client_refused(outcome: &Result<Granted, Fault>) -> bool {
    outcome.as_ref().is_err_and(|fault| fault.failure == Failure::Client)
}

fn lasting(duration: Duration) -> Keep {
    if duration.is_zero() { Keep::No } else { Keep::For(duration) }
}

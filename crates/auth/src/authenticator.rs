//! Who calls: a bearer token judged by the issuer it comes from, one of several.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use skep_api::secret::Secret;
use skep_runtime::clock::SharedClock;

use crate::error::AuthError;
use crate::flight::{FlightCache, Keep};
use crate::identity::{Identity, token_digest};
use crate::introspection::{INACTIVE_TTL, Introspector};
use crate::jwt::{UnverifiedJwt, is_jws, is_token, parse};
use crate::keys::VerifyingKey;
use crate::limiter::{SourceLimiter, Work};
use crate::names::{Issuer, TENANT};
use crate::provider::{Fetched, KeyProvider};
use crate::rules::{TokenRules, Vouched};
use crate::token_cache::{Digest, TokenCache, Verified};

/// Answers about opaque tokens that are kept at a time.
const INTROSPECTED: usize = 4096;

/// An issuer whose tokens are accepted.
#[derive(Debug)]
pub struct TrustedIssuer {
    /// Its identifier.
    pub issuer: Issuer,
    /// Its keys; an issuer without any has no JWTs.
    pub keys: Option<Arc<KeyProvider>>,
    /// What makes its tokens good.
    pub rules: TokenRules,
    /// Who is asked about its opaque tokens. At most one issuer has one: nothing in an opaque token says
    /// whose it is.
    pub introspector: Option<Introspector>,
}

/// Judges bearer tokens. A JWT is judged only by the issuer that its `iss` names; any other token by the
/// one issuer that is asked about tokens, if there is one.
#[derive(Debug)]
pub struct Authenticator {
    issuers: Vec<Arc<TrustedIssuer>>,
    clock: SharedClock,
    cache: TokenCache<Verified>,
    introspected: Arc<FlightCache<Arc<Identity>, AuthError>>,
    /// Opaque tokens that were active when they were last asked about. Nobody makes those up, so asking
    /// about them again is not what a flood behind the same address may prevent.
    active: Arc<TokenCache<()>>,
    limiter: Arc<SourceLimiter>,
}

impl TrustedIssuer {
    /// True when its tokens can be judged now. An issuer that is asked about its tokens need not have
    /// keys, but if it ever showed some they count.
    pub fn is_available(&self) -> bool {
        let keys = self.keys.as_ref();
        match &self.introspector {
            Some(introspector) => {
                !introspector.is_failing() && keys.is_none_or(|keys| keys.has_keys() || !keys.had_keys())
            }
            None => keys.is_some_and(|keys| keys.has_keys()),
        }
    }

    fn is_failing(&self) -> bool {
        self.introspector.as_ref().is_some_and(Introspector::is_failing)
    }

    fn issued(&self, jwt: &UnverifiedJwt<'_>) -> bool {
        let text = |name: &str| jwt.claims.get(name).and_then(Value::as_str);
        text("iss").is_some_and(|iss| self.issuer.covers(iss, text("tid"), &self.rules.tenants))
    }

    /// A key that the issuer publishes for one of its tenants does not sign for another (Microsoft Entra).
    fn may_sign(&self, key: &VerifyingKey, jwt: &UnverifiedJwt<'_>) -> bool {
        let text = |name: &str| jwt.claims.get(name).and_then(Value::as_str).unwrap_or_default();
        let trim = |issuer: &str| issuer.strip_suffix('/').unwrap_or(issuer).to_owned();
        key.issuer().is_none_or(|of| trim(&of.replace(TENANT, text("tid"))) == trim(text("iss")))
    }
}

impl Authenticator {
    /// Trusts these issuers, and bounds what strangers may make us ask of them.
    pub fn new(issuers: Vec<TrustedIssuer>, limiter: Arc<SourceLimiter>, clock: SharedClock) -> Self {
        let prefixes: Vec<String> =
            issuers.iter().map(|issuer| issuer.rules.namespace.prefix.clone()).collect();
        let issuers = issuers.into_iter().map(|mut issuer| {
            let own = &issuer.rules.namespace.prefix;
            let foreign = prefixes.iter().filter(|prefix| !prefix.is_empty() && *prefix != own);
            issuer.rules.namespace.foreign = foreign.cloned().collect();
            Arc::new(issuer)
        });
        Self {
            issuers: issuers.collect(),
            introspected: FlightCache::new(INTROSPECTED, Arc::clone(&clock)),
            clock,
            cache: TokenCache::default(),
            active: Arc::default(),
            limiter,
        }
    }

    /// The issuers, the first one first.
    pub fn issuers(&self) -> impl Iterator<Item = &TrustedIssuer> {
        self.issuers.iter().map(AsRef::as_ref)
    }

    /// The keys of all issuers that have some.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<KeyProvider>> {
        self.issuers.iter().filter_map(|issuer| issuer.keys.as_ref())
    }

    /// What bounds the calls that strangers bring about, to go on with after a change of the rules.
    pub fn limiter(&self) -> &Arc<SourceLimiter> {
        &self.limiter
    }

    /// Judges a token that came from `source`.
    ///
    /// # Errors
    /// The first thing that is wrong with it, that nobody can be asked about it, or that `source` has
    /// brought too many that came to nothing.
    pub async fn authenticate(&self, token: &str, source: IpAddr) -> Result<Arc<Identity>, AuthError> {
        let digest = token_digest(token);
        if let Some(identity) = self.verified_before(&digest).await? {
            return Ok(identity);
        }
        match parse(token) {
            Ok(jwt) => self.judge_jwt(jwt, digest, source).await,
            Err(error) => match self.issuers.iter().find(|issuer| issuer.introspector.is_some()) {
                Some(issuer) if is_token(token) && !is_jws(token) => {
                    self.judge_opaque(issuer, token, digest, source).await
                }
                _ => Err(error),
            },
        }
    }

    /// A JWT that was verified before holds as long as the keys it was verified with and its own times do.
    async fn verified_before(&self, digest: &Digest) -> Result<Option<Arc<Identity>>, AuthError> {
        let Some(verified) = self.cache.get(digest) else { return Ok(None) };
        let Some(issuer) = self.issuers.get(verified.issuer) else { return Ok(None) };
        let Some(keys) = &issuer.keys else { return Ok(None) };
        let keys = keys.keys().await.map_err(|_| AuthError::KeysUnavailable)?;
        if verified.keys_generation != keys.generation {
            return Ok(None);
        }
        let now = self.clock.unix_seconds();
        issuer.rules.check_times(verified.identity.expires_at, verified.not_before, now)?;
        Ok(Some(verified.identity))
    }

    /// Algorithm and key first, then the signature, then what kind of token it is, for whom and from whom.
    async fn judge_jwt(
        &self,
        jwt: UnverifiedJwt<'_>,
        token_digest: Digest,
        source: IpAddr,
    ) -> Result<Arc<Identity>, AuthError> {
        // The claim is not to be believed yet; it only says whose keys decide.
        let position = self.issuers.iter().position(|issuer| issuer.issued(&jwt));
        let position = position.ok_or(AuthError::Issuer)?;
        let issuer = self.issuers.get(position).ok_or(AuthError::Issuer)?;
        let keys = issuer.keys.as_ref().ok_or(AuthError::UnknownKey)?;
        let fetched = keys.keys().await.map_err(|_| AuthError::KeysUnavailable)?;
        let fetched = self.check_signature(issuer, keys, &jwt, fetched, source).await?;
        issuer.rules.check_kind(&jwt)?;
        let claimed = jwt.claims.get("iss").and_then(Value::as_str).unwrap_or_default().to_owned();
        let vouched = Vouched { issuer: claimed, claims: jwt.claims, token_digest };
        let judged = issuer.rules.judge(vouched, self.clock.unix_seconds())?;
        let identity = Arc::new(judged.identity);
        let verified = Verified {
            identity: Arc::clone(&identity),
            issuer: position,
            keys_generation: fetched.generation,
            not_before: judged.not_before,
        };
        self.cache.insert(token_digest, verified);
        Ok(identity)
    }

    async fn check_signature(
        &self,
        issuer: &TrustedIssuer,
        provider: &Arc<KeyProvider>,
        jwt: &UnverifiedJwt<'_>,
        fetched: Arc<Fetched>,
        source: IpAddr,
    ) -> Result<Arc<Fetched>, AuthError> {
        if !issuer.rules.algorithms.contains(&jwt.algorithm) {
            return Err(AuthError::Algorithm);
        }
        let id = jwt.key_id.as_deref();
        let fetched = if fetched.keys.find(id, jwt.algorithm).is_some() {
            fetched
        } else {
            self.keys_with_unknown(provider, jwt, fetched.generation, source).await?
        };
        let key = fetched.keys.find(id, jwt.algorithm).ok_or(AuthError::UnknownKey)?;
        if !key.allows(jwt.algorithm) {
            return Err(AuthError::Algorithm);
        }
        let may_sign = |key: &&VerifyingKey| issuer.may_sign(key, jwt);
        let mut candidates = fetched.keys.candidates(id, jwt.algorithm).filter(may_sign).peekable();
        if candidates.peek().is_none() {
            return Err(AuthError::UnknownKey);
        }
        let message = jwt.message.as_bytes();
        if !candidates.any(|key| key.verify(message, jwt.signature, jwt.algorithm)) {
            return Err(AuthError::Signature);
        }
        drop(candidates);
        Ok(fetched)
    }

    /// Asks for the keys again because of one that is not known, as far as `source` may bring that about.
    async fn keys_with_unknown(
        &self,
        provider: &Arc<KeyProvider>,
        jwt: &UnverifiedJwt<'_>,
        known: u64,
        source: IpAddr,
    ) -> Result<Arc<Fetched>, AuthError> {
        let mut begun: Option<Result<Work, AuthError>> = None;
        let permit = || begun.insert(self.limiter.begin(source)).is_ok();
        let fetched = provider.keys_with_unknown(known, permit).await;
        match (fetched, begun) {
            (_, Some(Err(limited))) => Err(limited),
            (Err(_), _) => Err(AuthError::KeysUnavailable),
            (Ok(fetched), work) => {
                if let Some(Ok(work)) = work
                    && fetched.keys.find(jwt.key_id.as_deref(), jwt.algorithm).is_none()
                {
                    work.came_to_nothing();
                }
                Ok(fetched)
            }
        }
    }

    async fn judge_opaque(
        &self,
        issuer: &Arc<TrustedIssuer>,
        token: &str,
        digest: Digest,
        source: IpAddr,
    ) -> Result<Arc<Identity>, AuthError> {
        let outcome = match self.introspected.peek(&digest) {
            Some(known) => known,
            None => {
                let work = match self.active.get(&digest) {
                    Some(()) if !issuer.is_failing() => None,
                    _ => Some(self.limiter.begin(source).map_err(|limited| match issuer.is_failing() {
                        // What came to nothing did so because of the issuer.
                        true => AuthError::IntrospectionUnavailable,
                        false => limited,
                    })?),
                };
                let (issuer, clock) = (Arc::clone(issuer), Arc::clone(&self.clock));
                let active = Arc::clone(&self.active);
                let token = Secret::new(token);
                let lost = AuthError::IntrospectionUnavailable;
                // The charge goes with the call, so that nobody gets out of it by hanging up.
                let ask = || async move {
                    let (judged, keep) = introspect(&issuer, &token, digest, &clock).await;
                    settle(&judged, &active, digest, work);
                    (judged, keep)
                };
                self.introspected.get(digest, lost, ask).await.outcome
            }
        };
        let identity = outcome?;
        issuer.rules.check_times(identity.expires_at, i64::MIN, self.clock.unix_seconds())?;
        Ok(identity)
    }
}

/// Asks about a token and judges the answer like the claims of a JWT.
async fn introspect(
    issuer: &TrustedIssuer,
    token: &Secret,
    token_digest: Digest,
    clock: &SharedClock,
) -> (Result<Arc<Identity>, AuthError>, Keep) {
    let Some(introspector) = &issuer.introspector else {
        return (Err(AuthError::IntrospectionUnavailable), Keep::No);
    };
    let judged = match introspector.ask(token).await {
        Err(_) => Err(AuthError::IntrospectionUnavailable),
        Ok(None) => Err(AuthError::Inactive),
        Ok(Some(claims)) => judge_answer(issuer, claims, token_digest, clock.unix_seconds()),
    };
    let ttl = introspector.cache_ttl();
    let keep = match &judged {
        Ok(identity) => ttl.min(seconds(identity.expires_at.saturating_sub(clock.unix_seconds()))),
        Err(AuthError::IntrospectionUnavailable) => Duration::ZERO,
        Err(_) => ttl.min(INACTIVE_TTL),
    };
    (judged, if keep.is_zero() { Keep::No } else { Keep::For(keep) })
}

/// Remembers whether a token was active, and charges whoever brought it for what came to nothing.
fn settle(
    judged: &Result<Arc<Identity>, AuthError>,
    active: &TokenCache<()>,
    token_digest: Digest,
    work: Option<Work>,
) {
    match judged {
        // A good token that does not reach far enough is still a good token.
        Ok(_) | Err(AuthError::InsufficientScope { .. }) => active.insert(token_digest, ()),
        Err(AuthError::IntrospectionUnavailable) => work.into_iter().for_each(Work::failed),
        Err(_) => {
            active.remove(&token_digest);
            work.into_iter().for_each(Work::came_to_nothing);
        }
    }
}

fn judge_answer(
    issuer: &TrustedIssuer,
    claims: serde_json::Map<String, Value>,
    token_digest: Digest,
    now: i64,
) -> Result<Arc<Identity>, AuthError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let named = match claims.get("iss") {
        None => issuer.issuer.as_str().to_owned(),
        Some(iss) => {
            let iss = iss.as_str().unwrap_or_default();
            if !issuer.issuer.covers(iss, text("tid"), &issuer.rules.tenants) {
                return Err(AuthError::Issuer);
            }
            iss.to_owned()
        }
    };
    check_answered_kind(text("token_type"))?;
    issuer.rules.check_claimed_kind(&claims, true)?;
    let vouched = Vouched { issuer: named, claims, token_digest };
    Ok(Arc::new(issuer.rules.judge(vouched, now)?.identity))
}

/// An endpoint also knows refresh tokens, and some say so.
fn check_answered_kind(kind: Option<&str>) -> Result<(), AuthError> {
    let Some(kind) = kind else { return Ok(()) };
    let kind = kind.to_ascii_lowercase();
    match kind.strip_prefix("urn:ietf:params:oauth:token-type:").unwrap_or(&kind) {
        "bearer" | "access_token" | "access" | "at+jwt" | "jwt" | "n_a" => Ok(()),
        "dpop" | "pop" | "mac" => Err(AuthError::Bound),
        _ => Err(AuthError::WrongKind { reason: "it is no access token" }),
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

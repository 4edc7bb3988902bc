//! Judging a bearer token: a JWT access token of one issuer (RFC 7519, RFC 9068).

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use skep_runtime::clock::SharedClock;

use crate::error::AuthError;
use crate::identity::{Identity, scopes};
use crate::jwt::{UnverifiedJwt, parse};
use crate::names::Audience;
use crate::provider::{Fetched, KeyProvider};
use crate::token_cache::{Digest, TokenCache, Verified};

/// What makes a token good.
#[derive(Debug, Clone)]
pub struct TokenRules {
    /// A token must be meant for one of these; never empty.
    pub audiences: Vec<Audience>,
    /// Algorithms that are accepted, among those the key allows.
    pub algorithms: Vec<Algorithm>,
    /// Tolerance for `exp` and `nbf`.
    pub leeway: Duration,
}

/// Judges the tokens of one issuer.
#[derive(Debug)]
pub struct TokenValidator {
    keys: Arc<KeyProvider>,
    rules: TokenRules,
    clock: SharedClock,
    cache: TokenCache,
}

impl TokenValidator {
    /// A validator. Without audiences it refuses every token: an unchecked audience is an open door.
    pub fn new(keys: Arc<KeyProvider>, rules: TokenRules, clock: SharedClock) -> Self {
        Self { keys, rules, clock, cache: TokenCache::default() }
    }

    /// The issuer's keys.
    pub fn keys(&self) -> &Arc<KeyProvider> {
        &self.keys
    }

    /// Judges a token: algorithm and key first, then the signature, then who, for whom and when.
    ///
    /// # Errors
    /// The first thing that is wrong with it, or that the issuer's keys can't be had.
    pub async fn validate(&self, token: &str) -> Result<Arc<Identity>, AuthError> {
        let digest = digest(token);
        let keys = match self.keys.keys().await {
            Ok(keys) => keys,
            Err(_) => {
                // A token that could never be good is refused as such even while the keys are away.
                parse(token)?;
                return Err(AuthError::KeysUnavailable);
            }
        };
        if let Some(verified) = self.cache.get(&digest)
            && verified.keys_generation == keys.generation
        {
            self.check_times(verified.identity.expires_at, Some(verified.not_before))?;
            return Ok(verified.identity);
        }
        let jwt = parse(token)?;
        let keys = self.check_signature(&jwt, keys).await?;
        let (identity, not_before) = self.check_claims(jwt, digest)?;
        let identity = Arc::new(identity);
        let verified =
            Verified { identity: Arc::clone(&identity), keys_generation: keys.generation, not_before };
        self.cache.insert(digest, verified);
        Ok(identity)
    }

    async fn check_signature(
        &self,
        jwt: &UnverifiedJwt<'_>,
        keys: Arc<Fetched>,
    ) -> Result<Arc<Fetched>, AuthError> {
        if !self.rules.algorithms.contains(&jwt.algorithm) {
            return Err(AuthError::Algorithm);
        }
        let id = jwt.key_id.as_deref();
        let keys = if keys.keys.find(id, jwt.algorithm).is_some() {
            keys
        } else {
            let unavailable = |_| AuthError::KeysUnavailable;
            self.keys.keys_with_unknown(keys.generation).await.map_err(unavailable)?
        };
        let key = keys.keys.find(id, jwt.algorithm).ok_or(AuthError::UnknownKey)?;
        if !key.allows(jwt.algorithm) {
            return Err(AuthError::Algorithm);
        }
        if !key.verify(jwt.message.as_bytes(), jwt.signature, jwt.algorithm) {
            return Err(AuthError::Signature);
        }
        Ok(keys)
    }

    fn check_claims(
        &self,
        jwt: UnverifiedJwt<'_>,
        token_digest: Digest,
    ) -> Result<(Identity, i64), AuthError> {
        check_kind(&jwt)?;
        let claims = jwt.claims;
        let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        if !self.keys.issuer().is(issuer) {
            return Err(AuthError::Issuer);
        }
        if !self.meant_for_us(&claims) {
            return Err(AuthError::Audience);
        }
        let expires_at =
            seconds(&claims, "exp")?.ok_or(AuthError::Malformed { reason: "it has no expiry (exp)" })?;
        let not_before = seconds(&claims, "nbf")?;
        self.check_times(expires_at, not_before)?;
        let subject = match claims.get("sub").and_then(Value::as_str) {
            Some(subject) if !subject.is_empty() => subject.to_owned(),
            _ => return Err(AuthError::NoSubject),
        };
        let identity = Identity {
            issuer: issuer.to_owned(),
            subject,
            scopes: scopes(&claims),
            expires_at,
            token_digest,
            claims,
        };
        Ok((identity, not_before.unwrap_or(i64::MIN)))
    }

    fn meant_for_us(&self, claims: &Map<String, Value>) -> bool {
        let ours = |value: &Value| {
            value.as_str().is_some_and(|text| self.rules.audiences.iter().any(|ours| ours.as_str() == text))
        };
        match claims.get("aud") {
            Some(Value::Array(items)) => items.iter().any(ours),
            Some(value) => ours(value),
            None => false,
        }
    }

    fn check_times(&self, expires_at: i64, not_before: Option<i64>) -> Result<(), AuthError> {
        let now = self.clock.unix_seconds();
        let leeway = i64::try_from(self.rules.leeway.as_secs()).unwrap_or(i64::MAX);
        if now >= expires_at.saturating_add(leeway) {
            return Err(AuthError::Expired);
        }
        if not_before.is_some_and(|start| now < start.saturating_sub(leeway)) {
            return Err(AuthError::NotYetValid);
        }
        Ok(())
    }
}

/// Access tokens only. An ID token says who logged in to some client; a refresh token is for the
/// authorization server alone. Neither is a key to a resource (RFC 9068 §5).
fn check_kind(jwt: &UnverifiedJwt<'_>) -> Result<(), AuthError> {
    match jwt.kind.as_deref() {
        None | Some("jwt" | "at+jwt") => {}
        Some(_) => return Err(AuthError::WrongKind { reason: "it is no access token (typ)" }),
    }
    const ID_TOKEN: AuthError =
        AuthError::WrongKind { reason: "it is an ID token; an access token is needed" };
    let claim = |name: &str| jwt.claims.get(name);
    if jwt.kind.as_deref() != Some("at+jwt")
        && ["nonce", "at_hash", "c_hash", "s_hash"].iter().any(|name| claim(name).is_some())
    {
        return Err(ID_TOKEN);
    }
    // Keycloak writes what a token is into the claims.
    match claim("typ").and_then(Value::as_str) {
        Some("ID") => Err(ID_TOKEN),
        Some("Refresh" | "Offline" | "Logout") => {
            Err(AuthError::WrongKind { reason: "it is a refresh or logout token; an access token is needed" })
        }
        _ => Ok(()),
    }
}

/// A NumericDate (RFC 7519 §2): whole or fractional seconds.
fn seconds(claims: &Map<String, Value>, name: &str) -> Result<Option<i64>, AuthError> {
    const BAD: AuthError = AuthError::Malformed { reason: "a time in it is not a number" };
    let Some(value) = claims.get(name) else { return Ok(None) };
    if let Some(whole) = value.as_i64() {
        return Ok(Some(whole));
    }
    let float = value.as_f64().filter(|float| float.is_finite() && float.abs() < 1e15).ok_or(BAD)?;
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked one line above")]
    let whole = float.floor() as i64;
    Ok(Some(whole))
}

fn digest(token: &str) -> Digest {
    let mut digest = [0; 32];
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    digest.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    digest
}

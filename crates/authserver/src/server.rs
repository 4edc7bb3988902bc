//! The server itself: state and the use cases, without HTTP.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use skep_runtime::clock::SharedClock;
use skep_runtime::rng::SharedRng;

use crate::clients::Clients;
use crate::config::{Config, ConfigError};
use crate::http;
use crate::issuer::Issuer;
use crate::keys::{Jwks, KeySet, SignError};
use crate::token::{ACCESS_TOKEN_TYPE, Claims, IssuedToken, User, UserGrant, further_claims};

/// An authorization server.
#[derive(Debug)]
pub struct AuthServer {
    pub(crate) issuer: Issuer,
    pub(crate) clients: Clients,
    keys: KeySet,
    access_token_lifetime: Duration,
    clock: SharedClock,
    rng: SharedRng,
}

/// What a token is to say; the rest is the server's.
pub(crate) struct Grant<'a> {
    pub(crate) subject: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) audience: &'a str,
    pub(crate) scopes: &'a [String],
    pub(crate) lifetime: Duration,
    pub(crate) user: Option<&'a User>,
    /// Who acts for the subject.
    pub(crate) act: Option<Value>,
}

impl AuthServer {
    /// Makes a server. Without configured keys it makes one, which lives as long as the server.
    ///
    /// # Errors
    /// When a signing key is configured twice or none could be made.
    pub fn new(config: Config, clock: SharedClock, rng: SharedRng) -> Result<Arc<Self>, ConfigError> {
        let keys = KeySet::new(config.signing_keys, &*rng)
            .map_err(|source| ConfigError::Key { field: "signingKeys".to_owned(), source })?;
        Ok(Arc::new(Self {
            issuer: config.issuer,
            clients: config.clients,
            keys,
            access_token_lifetime: config.access_token_lifetime,
            clock,
            rng,
        }))
    }

    /// The public endpoints. None of them gives out a token without client authentication.
    pub fn router(self: Arc<Self>) -> axum::Router {
        http::router(self)
    }

    /// Who issues.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The public keys, the active one first.
    pub fn jwks(&self) -> Jwks {
        self.keys.jwks()
    }

    /// How long tokens of the token endpoint live.
    pub fn access_token_lifetime(&self) -> Duration {
        self.access_token_lifetime
    }

    /// Makes a token for a user who logged in elsewhere. In process only: no endpoint leads here.
    ///
    /// # Errors
    /// When the token can't be signed.
    pub fn issue_for_user(&self, grant: &UserGrant<'_>) -> Result<IssuedToken, SignError> {
        self.issue(&Grant {
            subject: &grant.user.subject,
            client_id: grant.client_id,
            audience: grant.audience,
            scopes: grant.scopes,
            lifetime: grant.lifetime,
            user: Some(grant.user),
            act: None,
        })
    }

    /// The claims of an access token that this server made for whomever, and how long it is good for yet.
    /// `None` when it is none, or has expired.
    pub(crate) fn own_access_token(&self, token: &str) -> Option<(Map<String, Value>, Duration)> {
        let claims = self.keys.verify_jwt(ACCESS_TOKEN_TYPE, token).ok()?;
        // The keys may be shared by several issuers.
        if claims.get("iss").and_then(Value::as_str) != Some(self.issuer.as_str()) {
            return None;
        }
        let left = claims.get("exp").and_then(Value::as_i64)?.checked_sub(self.clock.unix_seconds())?;
        let left = u64::try_from(left).ok().filter(|left| *left > 0)?;
        Some((claims, Duration::from_secs(left)))
    }

    pub(crate) fn issue(&self, grant: &Grant<'_>) -> Result<IssuedToken, SignError> {
        let now = self.clock.unix_seconds();
        let lifetime = i64::try_from(grant.lifetime.as_secs()).unwrap_or(i64::MAX);
        let claims = Claims {
            iss: self.issuer.as_str(),
            exp: now.saturating_add(lifetime),
            aud: grant.audience,
            sub: grant.subject,
            client_id: grant.client_id,
            iat: now,
            jti: self.rng.uuid().to_string(),
            scope: (!grant.scopes.is_empty()).then(|| grant.scopes.join(" ")),
            name: grant.user.and_then(|user| user.name.as_deref()),
            email: grant.user.and_then(|user| user.email.as_deref()),
            groups: grant.user.map_or(&[], |user| user.groups.as_slice()),
            act: grant.act.as_ref(),
            extra: grant.user.map(further_claims).unwrap_or_default(),
        };
        let access_token = self.keys.active().sign_jwt(ACCESS_TOKEN_TYPE, &claims)?;
        let scopes = grant.scopes.to_vec();
        Ok(IssuedToken { access_token, expires_in: grant.lifetime, scopes, issued_token_type: None })
    }
}

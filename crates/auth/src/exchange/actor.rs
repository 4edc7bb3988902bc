//! Who acts for the caller (RFC 8693 §2.1, `actor_token`).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use skep_api::secret::Secret;

use super::{ExchangeSettings, ExchangeSetupError, Grant, TokenType};

/// An actor's token, and what it says. Nothing of it is believed: the endpoint judges the token.
#[derive(Debug)]
pub(super) struct Actor {
    pub(super) token: Secret,
    pub(super) kind: TokenType,
    /// Digest of who the actor is: issuer and subject where the token is a JWT that says so, so that a
    /// renewed token of the same actor is the same actor; else of the token itself.
    pub(super) identity: [u8; 32],
    /// `exp`, seconds since 1970, where the token is a JWT that says so.
    expires_at: Option<i64>,
}

impl Actor {
    /// The actor that `settings` name.
    ///
    /// # Errors
    /// When its token is empty.
    pub(super) fn of(settings: &ExchangeSettings) -> Result<Option<Self>, ExchangeSetupError> {
        match &settings.grant {
            Grant::TokenExchange { actor: Some((token, kind)), .. } => {
                Self::new(token.clone(), *kind).map(Some)
            }
            _ => Ok(None),
        }
    }

    pub(super) fn new(token: Secret, kind: TokenType) -> Result<Self, ExchangeSetupError> {
        if token.expose().trim().is_empty() {
            return Err(ExchangeSetupError::CredentialMissing { what: "actor token" });
        }
        let claims = claims(token.expose());
        let identity = identity(token.expose(), &claims);
        let expires_at = claims.get("exp").and_then(|exp| {
            // A float is clamped to what fits.
            exp.as_i64().or_else(|| exp.as_f64().map(|seconds| seconds as i64))
        });
        Ok(Self { token, kind, identity, expires_at })
    }

    /// True when the token says that its time is over.
    pub(super) fn has_expired(&self, now: i64) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }

    /// True when both are the same token.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.token.expose() == other.token.expose()
    }
}

/// The claims of a JWT; none of anything else.
fn claims(token: &str) -> Map<String, Value> {
    let decoded = token.split('.').nth(1).and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok());
    decoded.and_then(|payload| serde_json::from_slice(&payload).ok()).unwrap_or_default()
}

fn identity(token: &str, claims: &Map<String, Value>) -> [u8; 32] {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let digest = match (text("iss"), text("sub")) {
        (Some(issuer), Some(subject)) => {
            Sha256::new().chain_update("jwt\0").chain_update(issuer).chain_update([0]).chain_update(subject)
        }
        _ => Sha256::new().chain_update("opaque\0").chain_update(token),
    };
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(token: &str) -> Actor {
        Actor::new(Secret::new(token), TokenType::Jwt).unwrap()
    }

    fn jwt(claims: &str) -> Actor {
        actor(&format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims)))
    }

    #[test]
    fn a_renewed_token_of_an_actor_is_the_same_actor() {
        let now = jwt(r#"{"iss":"https://k8s","sub":"system:sa:a","exp":1}"#).identity;
        assert_eq!(now, jwt(r#"{"exp":2,"sub":"system:sa:a","iss":"https://k8s"}"#).identity);
        assert_ne!(now, jwt(r#"{"iss":"https://k8s","sub":"system:sa:b"}"#).identity);
        assert_ne!(now, jwt(r#"{"sub":"system:sa:a"}"#).identity);
        assert_ne!(actor("opaque-1").identity, actor("opaque-2").identity);
    }

    #[test]
    fn a_token_has_expired_when_it_says_so() {
        for (claims, expired) in [
            (r#"{"exp":99}"#, true),
            (r#"{"exp":100}"#, true),
            (r#"{"exp":100.5}"#, true),
            (r#"{"exp":101}"#, false),
            (r#"{"exp":1e300}"#, false),
            (r#"{"exp":"99"}"#, false),
            ("{}", false),
            ("no claims", false),
        ] {
            assert_eq!(jwt(claims).has_expired(100), expired, "{claims}");
        }
        assert!(!actor("opaque").has_expired(100));
    }

    #[test]
    fn an_empty_token_is_none() {
        for text in ["", " ", "\n"] {
            let error = Actor::new(Secret::new(text), TokenType::Jwt).unwrap_err();
            assert_eq!(error.to_string(), "the actor token is empty");
        }
    }
}

//! An issuer's published keys (RFC 7517) and what each may verify.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

/// Keys of one id that are tried for one token.
const MOST_OF_ONE_ID: usize = 4;

/// A key that may verify signatures.
#[derive(Clone)]
pub struct VerifyingKey {
    id: Option<String>,
    issuer: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// The usable keys of one JWKS document.
#[derive(Clone, Default)]
pub struct KeySet {
    keys: Vec<VerifyingKey>,
}

/// Why a document is no key set.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    #[error("the JWKS document is not strict JSON")]
    Json(#[source] skep_api::json::JsonFault),
    #[error("the JWKS document has no `keys` array")]
    NoKeys,
    #[error("the JWKS document has no key that can verify a signature")]
    NothingUsable,
}

impl KeySet {
    /// Reads a JWKS document. Keys of other uses, unknown kinds or broken content are skipped, as
    /// RFC 7517 §5 asks; a document without any usable key is an error.
    ///
    /// # Errors
    /// When the document is no JWKS or holds no usable key.
    pub fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        let text = skep_api::json::check(document, 16).map_err(KeySetError::Json)?;
        let value: Value = serde_json::from_str(text).map_err(|_| KeySetError::NoKeys)?;
        let keys = value.get("keys").and_then(Value::as_array).ok_or(KeySetError::NoKeys)?;
        let keys: Vec<_> = keys.iter().filter_map(verifying_key).collect();
        if keys.is_empty() {
            return Err(KeySetError::NothingUsable);
        }
        Ok(Self { keys })
    }

    /// The key for a token: by its id, or, for a token without one, the only key of that algorithm.
    /// Where several keys have one id (RFC 7517 §4.5 allows it for keys of different kinds), the one
    /// that fits the algorithm; a key that was named but does not fit is still found, so that the
    /// refusal can say so.
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&VerifyingKey> {
        let Some(id) = id else {
            let mut fitting = self.keys.iter().filter(|key| key.allows(algorithm));
            return fitting.next().filter(|_| fitting.next().is_none());
        };
        let mut named = self.keys.iter().filter(|key| key.id.as_deref() == Some(id));
        named.clone().find(|key| key.allows(algorithm)).or_else(|| named.next())
    }

    /// Every key that [`KeySet::find`] could have meant: some providers give one id to all their keys.
    pub(crate) fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &VerifyingKey> {
        let fits = move |key: &&VerifyingKey| key.id.as_deref() == id && key.allows(algorithm);
        let unnamed = self.find(None, algorithm).filter(|_| id.is_none());
        let named = self.keys.iter().filter(fits).filter(move |_| id.is_some());
        unnamed.into_iter().chain(named).take(MOST_OF_ONE_ID)
    }

    /// Number of usable keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True when there is no usable key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| key.id.as_deref().unwrap_or("-"))).finish()
    }
}

impl VerifyingKey {
    /// True when this key may verify `algorithm`: the key decides, never the token.
    pub fn allows(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// The issuer whose tokens alone the key signs, where the document says so. Microsoft Entra does, with
    /// `{tenantid}` for any tenant.
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// Checks a signature (base64url) over `message`.
    pub fn verify(&self, message: &[u8], signature: &str, algorithm: Algorithm) -> bool {
        self.allows(algorithm)
            && jsonwebtoken::crypto::verify(signature, message, &self.key, algorithm).unwrap_or(false)
    }
}

fn verifying_key(value: &Value) -> Option<VerifyingKey> {
    let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    if let Some(operations) = value.get("key_ops").and_then(Value::as_array)
        && !operations.iter().any(|operation| operation == "verify")
    {
        return None;
    }
    let of_kind: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(parameters) => {
            if modulus_bits(&parameters.n) < 2048 {
                return None;
            }
            &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ]
        }
        AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(_) => &[Algorithm::EdDSA],
        // A shared secret in a public document is no secret.
        _ => return None,
    };
    // Entra publishes keys without alg: then the kind of key decides.
    let algorithms = match value.get("alg").and_then(Value::as_str) {
        Some(name) => {
            of_kind.iter().copied().filter(|known| crate::jwt::asymmetric(name) == Some(*known)).collect()
        }
        None => of_kind.to_vec(),
    };
    if algorithms.is_empty() {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    let issuer = match value.get("issuer") {
        None => None,
        Some(issuer) => Some(issuer.as_str()?.to_owned()),
    };
    Some(VerifyingKey { id: jwk.common.key_id.clone(), issuer, algorithms, key })
}

fn modulus_bits(modulus: &str) -> usize {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(modulus).unwrap_or_default();
    let significant = bytes.iter().skip_while(|byte| **byte == 0).count();
    significant * 8
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSA: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";

    fn set(keys: &str) -> Result<KeySet, KeySetError> {
        KeySet::parse(format!("{{\"keys\":[{keys}]}}").as_bytes())
    }

    #[test]
    fn the_key_decides_which_algorithms_it_verifies() {
        let entra = set(&format!(r#"{{"kty":"RSA","kid":"e","n":"{RSA}","e":"AQAB","use":"sig"}}"#)).unwrap();
        let key = entra.find(Some("e"), Algorithm::RS256).unwrap();
        assert!(key.allows(Algorithm::RS256) && key.allows(Algorithm::PS512));
        assert!(!key.allows(Algorithm::ES256));
        let fixed =
            set(&format!(r#"{{"kty":"RSA","kid":"f","n":"{RSA}","e":"AQAB","alg":"RS256"}}"#)).unwrap();
        assert!(!fixed.find(Some("f"), Algorithm::RS256).unwrap().allows(Algorithm::PS256));
    }

    #[test]
    fn keys_of_other_uses_and_kinds_are_skipped() {
        let ec = r#"{"kty":"EC","crv":"P-256","kid":"x","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
        for skipped in [
            format!(r#"{{"kty":"RSA","kid":"s","n":"{RSA}","e":"AQAB","use":"enc"}}"#),
            format!(r#"{{"kty":"RSA","kid":"s","n":"{RSA}","e":"AQAB","alg":"RSA-OAEP"}}"#),
            format!(r#"{{"kty":"RSA","kid":"s","n":"{RSA}","e":"AQAB","key_ops":["encrypt"]}}"#),
            r#"{"kty":"oct","kid":"s","k":"c2VjcmV0","alg":"HS256"}"#.to_owned(),
            r#"{"kty":"RSA","kid":"s","n":"AQAB","e":"AQAB"}"#.to_owned(),
            r#"{"kty":"quantum","kid":"s"}"#.to_owned(),
            "7".to_owned(),
        ] {
            let both = set(&format!("{skipped},{ec}")).unwrap();
            assert_eq!(both.len(), 1, "{skipped}");
            assert!(both.find(Some("s"), Algorithm::RS256).is_none());
            assert!(matches!(set(&skipped), Err(KeySetError::NothingUsable)), "{skipped}");
        }
        for broken in ["", "[]", "{}", r#"{"keys":7}"#, r#"{"keys":[],"keys":[]}"#] {
            assert!(KeySet::parse(broken.as_bytes()).is_err(), "{broken}");
        }
    }
}

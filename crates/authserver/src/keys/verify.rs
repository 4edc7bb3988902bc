//! Tokens that this server made itself, taken back.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{KeySet, SigningKey};

/// Deepest nesting of claims. An `act` claim nests once for each actor.
const MAX_DEPTH: usize = 16;

/// Why a string is no token of this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It is no compact JWT with a header that this server writes.
    #[error("it is no token as this server makes them")]
    Malformed,
    /// The key that it names is not one of the server's.
    #[error("its key is not one of this server's")]
    UnknownKey,
    /// The signature is wrong.
    #[error("its signature is wrong")]
    Signature,
}

impl KeySet {
    /// The claims of a JWT that one of these keys signed. Its header must be what
    /// [`SigningKey::sign_jwt`] writes for this type and nothing else: there is no other algorithm, no
    /// `crit`, and no key that the token brings along.
    ///
    /// # Errors
    /// When it is anything else. Nothing is said about `exp` and the like.
    pub fn verify_jwt(&self, typ: &str, token: &str) -> Result<Map<String, Value>, VerifyError> {
        let (message, signature) = token.rsplit_once('.').ok_or(VerifyError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(VerifyError::Malformed)?;
        let header = object(header)?;
        let text = |name: &str| header.get(name).and_then(Value::as_str);
        if header.len() != 3 || text("alg") != Some("ES256") || text("typ") != Some(typ) {
            return Err(VerifyError::Malformed);
        }
        let kid = text("kid").ok_or(VerifyError::Malformed)?;
        let key = self.iter().find(|key| key.kid() == kid).ok_or(VerifyError::UnknownKey)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| VerifyError::Malformed)?;
        if !key.made(message.as_bytes(), &signature) {
            return Err(VerifyError::Signature);
        }
        object(claims)
    }
}

impl SigningKey {
    fn made(&self, message: &[u8], signature: &[u8]) -> bool {
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        public.verify(message, signature).is_ok()
    }
}

fn object(part: &str) -> Result<Map<String, Value>, VerifyError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| VerifyError::Malformed)?;
    let text = skep_api::json::check(&bytes, MAX_DEPTH).map_err(|_| VerifyError::Malformed)?;
    serde_json::from_str(text).map_err(|_| VerifyError::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use skep_testkit::SeededRng;

    use super::*;

    fn keys(seed: u64) -> KeySet {
        let rng = SeededRng::new(seed);
        let keys = (0..2).map(|_| SigningKey::generate(&rng).unwrap()).collect();
        KeySet::new(keys, &rng).unwrap()
    }

    #[test]
    fn a_token_of_any_key_of_the_server_is_taken_back() {
        let set = keys(1);
        for key in set.iter() {
            let token = key.sign_jwt("at+jwt", &json!({"sub": "a"})).unwrap();
            assert_eq!(set.verify_jwt("at+jwt", token.expose()).unwrap()["sub"], "a");
        }
    }

    #[test]
    fn anything_else_is_not() {
        let set = keys(1);
        let token = set.active().sign_jwt("at+jwt", &json!({"sub": "a"})).unwrap();
        let (message, signature) = token.expose().rsplit_once('.').unwrap();
        let (header, claims) = message.split_once('.').unwrap();
        let b64 = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let kid = set.active().kid();
        let headers = [
            json!({"typ": "JWT", "alg": "ES256", "kid": kid}),
            json!({"typ": "at+jwt", "alg": "none", "kid": kid}),
            json!({"typ": "at+jwt", "alg": "HS256", "kid": kid}),
            json!({"typ": "at+jwt", "alg": "ES256"}),
            json!({"typ": "at+jwt", "alg": "ES256", "kid": kid, "crit": ["b64"]}),
            json!({"typ": "at+jwt", "alg": "ES256", "kid": kid, "jwk": set.active().jwk()}),
            json!({"typ": "at+jwt", "alg": "ES256", "kid": kid, "jku": "https://evil.example"}),
            json!([]),
        ];
        for header in headers {
            let forged = format!("{}.{claims}.{signature}", b64(header.clone()));
            assert_eq!(set.verify_jwt("at+jwt", &forged), Err(VerifyError::Malformed), "{header}");
        }
        let other = keys(2).active().sign_jwt("at+jwt", &json!({"sub": "a"})).unwrap();
        assert_eq!(set.verify_jwt("at+jwt", other.expose()), Err(VerifyError::UnknownKey));
        let changed = format!("{header}.{}.{signature}", b64(json!({"sub": "b"})));
        assert_eq!(set.verify_jwt("at+jwt", &changed), Err(VerifyError::Signature));
        let unsigned = format!("{header}.{claims}.");
        assert_eq!(set.verify_jwt("at+jwt", &unsigned), Err(VerifyError::Signature));
        let doubled = set.active().sign_jwt(
            "at+jwt",
            &serde_json::value::RawValue::from_string(r#"{"sub":"a","sub":"b"}"#.to_owned()).unwrap(),
        );
        assert_eq!(set.verify_jwt("at+jwt", doubled.unwrap().expose()), Err(VerifyError::Malformed));
        for text in ["", ".", "..", "a.b.c", header, message, &format!("{}.x", token.expose())] {
            assert_eq!(set.verify_jwt("at+jwt", text), Err(VerifyError::Malformed), "{text}");
        }
        assert_eq!(set.verify_jwt("JWT", token.expose()), Err(VerifyError::Malformed), "another type");
    }

    proptest! {
        #[test]
        fn no_string_makes_the_verifier_panic(text in "[a-zA-Z0-9._-]{0,120}|\\PC{0,60}") {
            let _ = keys(1).verify_jwt("at+jwt", &text);
        }
    }
}

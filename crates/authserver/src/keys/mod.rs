//! Signing keys: made or loaded, named by their thumbprint, published as a JWKS.

mod verify;

use std::fmt;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use skep_api::secret::Secret;
use skep_runtime::rng::Rng;

pub use verify::VerifyError;

/// An ES256 key pair (RFC 7518 §3.4). Its id is the RFC 7638 thumbprint of the public key.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public: PublicJwk,
}

/// A public signing key as a JWK (RFC 7517 §4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublicJwk {
    kty: &'static str,
    #[serde(rename = "use")]
    usage: &'static str,
    alg: &'static str,
    kid: String,
    crv: &'static str,
    x: String,
    y: String,
}

/// A JWK set (RFC 7517 §5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Jwks {
    keys: Vec<PublicJwk>,
}

/// All keys of a server: the first one signs, every one is published. Never empty.
#[derive(Debug)]
pub struct KeySet {
    active: SigningKey,
    retired: Vec<SigningKey>,
}

/// Why a key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text is no PEM of a private key.
    #[error("the file is no unencrypted PKCS#8 private key in PEM (it starts with BEGIN PRIVATE KEY)")]
    Malformed(#[source] jsonwebtoken::errors::Error),
    /// It is a key, of another kind.
    #[error(
        "the private key is no P-256 key; make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
    )]
    WrongKind(#[source] aws_lc_rs::error::KeyRejected),
    /// The same key is listed twice.
    #[error("the key {kid} is listed twice")]
    Duplicate {
        /// The id of the key.
        kid: String,
    },
    /// The cryptographic library failed.
    #[error("a key could not be generated")]
    Generation,
}

/// Why a token was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The claims are no JSON object.
    #[error("the claims can't be written as JSON")]
    Claims(#[source] serde_json::Error),
    /// The cryptographic library failed.
    #[error("the key refused to sign")]
    Key,
}

#[derive(Serialize)]
struct Header<'a> {
    typ: &'a str,
    alg: &'a str,
    kid: &'a str,
}

impl SigningKey {
    /// Makes a key whose every bit comes from `rng`.
    ///
    /// # Errors
    /// When the library rejects what the generator gave, many times over.
    pub fn generate(rng: &dyn Rng) -> Result<Self, KeyError> {
        // A random scalar is out of range once in 2^32 draws: a second failure in a row means that
        // the generator is broken.
        for _ in 0..8 {
            let mut scalar = [0_u8; 32];
            rng.fill(&mut scalar);
            if let Some(key) = Self::from_scalar(&scalar) {
                return Ok(key);
            }
        }
        Err(KeyError::Generation)
    }

    /// Loads an unencrypted PKCS#8 private key in PEM.
    ///
    /// # Errors
    /// When it is no such PEM, or no P-256 key.
    pub fn from_pem(pem: &Secret) -> Result<Self, KeyError> {
        let der =
            jsonwebtoken::EncodingKey::from_ec_pem(pem.expose().as_bytes()).map_err(KeyError::Malformed)?;
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_bytes())
            .map_err(KeyError::WrongKind)
            .and_then(|pair| Self::from_pair(pair).ok_or(KeyError::Generation))
    }

    /// The key's id: its RFC 7638 thumbprint with SHA-256.
    pub fn kid(&self) -> &str {
        &self.public.kid
    }

    /// The public half.
    pub fn jwk(&self) -> &PublicJwk {
        &self.public
    }

    /// Signs claims as a compact JWT (RFC 7519 §3) of the given type.
    ///
    /// # Errors
    /// When the claims can't be written as JSON or the library fails.
    pub fn sign_jwt(&self, typ: &str, claims: &impl Serialize) -> Result<Secret, SignError> {
        let header = Header { typ, alg: "ES256", kid: &self.public.kid };
        let mut token = encode(&serde_json::to_vec(&header).map_err(SignError::Claims)?);
        token.push('.');
        token.push_str(&encode(&serde_json::to_vec(claims).map_err(SignError::Claims)?));
        let signature = self.pair.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| SignError::Key)?;
        token.push('.');
        token.push_str(&encode(signature.as_ref()));
        Ok(Secret::new(token))
    }

    fn from_scalar(scalar: &[u8]) -> Option<Self> {
        let public = PrivateKey::from_private_key(&ECDH_P256, scalar).ok()?.compute_public_key().ok()?;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            scalar,
            public.as_ref(),
        );
        Self::from_pair(pair.ok()?)
    }

    fn from_pair(pair: EcdsaKeyPair) -> Option<Self> {
        // An uncompressed point: 0x04, x, y (SEC 1 §2.3.3).
        let (x, y) = pair.public_key().as_ref().strip_prefix(&[4])?.split_at_checked(32)?;
        let (x, y) = (encode(x), encode(y));
        // The members in this order and nothing else (RFC 7638 §3.2).
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let kid = encode(&Sha256::digest(canonical.as_bytes()));
        let public = PublicJwk { kty: "EC", usage: "sig", alg: "ES256", kid, crv: "P-256", x, y };
        Some(Self { pair, public })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.public.kid).finish_non_exhaustive()
    }
}

impl KeySet {
    /// The keys of a server, the active one first. None given: one is made.
    ///
    /// # Errors
    /// When a key is there twice, or none could be made.
    pub fn new(keys: Vec<SigningKey>, rng: &dyn Rng) -> Result<Self, KeyError> {
        let mut keys = keys.into_iter();
        let active = match keys.next() {
            Some(key) => key,
            None => SigningKey::generate(rng)?,
        };
        let mut set = Self { active, retired: Vec::new() };
        for key in keys {
            if set.iter().any(|known| known.kid() == key.kid()) {
                return Err(KeyError::Duplicate { kid: key.kid().to_owned() });
            }
            set.retired.push(key);
        }
        Ok(set)
    }

    /// The key that signs.
    pub fn active(&self) -> &SigningKey {
        &self.active
    }

    /// What verifiers need, the active key first.
    pub fn jwks(&self) -> Jwks {
        Jwks { keys: self.iter().map(|key| key.jwk().clone()).collect() }
    }

    fn iter(&self) -> impl Iterator<Item = &SigningKey> {
        std::iter::once(&self.active).chain(&self.retired)
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
    use skep_testkit::SeededRng;

    use super::*;

    const P256: &str = include_str!("../../tests/fixtures/p256.pem");

    #[test]
    fn the_same_randomness_makes_the_same_key() {
        let kid = |seed| SigningKey::generate(&SeededRng::new(seed)).unwrap().kid().to_owned();
        assert_eq!(kid(1), kid(1));
        assert_ne!(kid(1), kid(2));
    }

    #[test]
    fn the_id_is_the_thumbprint_that_others_compute() {
        let key = SigningKey::generate(&SeededRng::new(3)).unwrap();
        let jwk: Jwk = serde_json::from_value(serde_json::to_value(key.jwk()).unwrap()).unwrap();
        assert_eq!(jwk.thumbprint(ThumbprintHash::SHA256).unwrap(), key.kid());
    }

    #[test]
    fn a_key_in_pem_is_loaded_and_other_text_is_refused() {
        let load = |pem: &str| SigningKey::from_pem(&Secret::new(pem));
        assert_eq!(load(P256).unwrap().kid().len(), 43);
        assert!(matches!(load("not a key"), Err(KeyError::Malformed(_))));
        assert!(matches!(load(&P256.replace("PRIVATE", "PUBLIC")), Err(KeyError::Malformed(_))));
        let p384 = include_str!("../../tests/fixtures/p384.pem");
        assert!(matches!(load(p384), Err(KeyError::WrongKind(_) | KeyError::Malformed(_))));
        let message = load("secret-looking text").unwrap_err().to_string();
        assert!(!message.contains("secret-looking"));
    }

    #[test]
    fn the_first_key_signs_and_all_are_published() {
        let rng = SeededRng::new(1);
        let keys: Vec<_> = (0..3).map(|_| SigningKey::generate(&rng).unwrap()).collect();
        let kids: Vec<_> = keys.iter().map(|k| k.kid().to_owned()).collect();
        let set = KeySet::new(keys, &rng).unwrap();
        assert_eq!(set.active().kid(), kids[0]);
        let published: Vec<_> = set.jwks().keys.iter().map(|k| k.kid.clone()).collect();
        assert_eq!(published, kids);
        assert!(!serde_json::to_string(&set.jwks()).unwrap().contains("\"d\""));
    }

    #[test]
    fn a_key_twice_is_refused() {
        let key = || SigningKey::from_pem(&Secret::new(P256)).unwrap();
        let refused = KeySet::new(vec![key(), key()], &SeededRng::new(1));
        assert!(matches!(refused, Err(KeyError::Duplicate { .. })));
    }

    #[test]
    fn a_key_does_not_show_in_debug() {
        let key = SigningKey::from_pem(&Secret::new(P256)).unwrap();
        assert_eq!(format!("{key:?}"), format!("SigningKey {{ kid: {:?}, .. }}", key.kid()));
    }
}

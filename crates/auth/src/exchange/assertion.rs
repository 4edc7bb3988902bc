//! Client assertions (RFC 7523 §2.2): short-lived JWTs by which a client proves that it has its key.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    RSA_PKCS1_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use skep_api::secret::Secret;

use super::ExchangeSetupError;

/// `client_assertion_type` of a JWT of the client's own.
pub(super) const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// `client_assertion_type` of a JWT-SVID.
pub(super) const JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/// How long an assertion is good for, in seconds.
const LIFETIME: i64 = 60;

/// A private key that signs assertions, read once.
pub(super) struct AssertionKey {
    pair: Pair,
    key_id: Option<String>,
}

enum Pair {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// What one assertion says.
pub(super) struct Assertion<'a> {
    pub(super) client_id: &'a str,
    pub(super) audience: &'a str,
    pub(super) id: String,
    /// Seconds since 1970.
    pub(super) now: i64,
}

impl AssertionKey {
    /// Reads an unencrypted key: RSA of at least 2048 bits, P-256, P-384 or Ed25519, as PKCS#8, PKCS#1
    /// or SEC 1.
    ///
    /// # Errors
    /// When it is anything else.
    pub(super) fn read(pem: &Secret, key_id: Option<String>) -> Result<Self, ExchangeSetupError> {
        let der = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes())
            .map_err(|_| ExchangeSetupError::Key { reason: "it is no unencrypted private key in PEM" })?;
        let pair = match &der {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()).ok().map(Pair::Rsa),
            PrivateKeyDer::Sec1(der) => elliptic(|algorithm| {
                EcdsaKeyPair::from_private_key_der(algorithm, der.secret_sec1_der()).ok()
            }),
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                RsaKeyPair::from_pkcs8(der)
                    .ok()
                    .map(Pair::Rsa)
                    .or_else(|| elliptic(|algorithm| EcdsaKeyPair::from_pkcs8(algorithm, der).ok()))
                    .or_else(|| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().map(Pair::Ed25519))
            }
            _ => None,
        };
        let reason = "it must be RSA of at least 2048 bits, P-256, P-384 or Ed25519";
        Ok(Self { pair: pair.ok_or(ExchangeSetupError::Key { reason })?, key_id })
    }

    /// Signs an assertion. `None` when the cryptographic library fails.
    pub(super) fn sign(&self, assertion: Assertion<'_>) -> Option<Secret> {
        let mut header = json!({"typ": "JWT", "alg": self.algorithm()});
        if let (Some(key_id), Some(header)) = (&self.key_id, header.as_object_mut()) {
            header.insert("kid".to_owned(), key_id.as_str().into());
        }
        let claims = json!({
            "iss": assertion.client_id,
            "sub": assertion.client_id,
            "aud": assertion.audience,
            "jti": assertion.id,
            "iat": assertion.now,
            "exp": assertion.now.saturating_add(LIFETIME),
        });
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let message =
            format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let signature = self.signature(message.as_bytes())?;
        Some(Secret::new(format!("{message}.{}", encode(&signature))))
    }

    /// RFC 7518 §3.1, RFC 8037 §3.1.
    fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
            Pair::P384(_) => "ES384",
            Pair::Ed25519(_) => "EdDSA",
        }
    }

    fn signature(&self, message: &[u8]) -> Option<Vec<u8>> {
        let rng = SystemRandom::new();
        Some(match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &rng, message, &mut signature).ok()?;
                signature
            }
            Pair::P256(pair) | Pair::P384(pair) => pair.sign(&rng, message).ok()?.as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        })
    }
}

impl fmt::Debug for AssertionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AssertionKey")
            .field("algorithm", &self.algorithm())
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

fn elliptic(
    read: impl Fn(&'static aws_lc_rs::signature::EcdsaSigningAlgorithm) -> Option<EcdsaKeyPair>,
) -> Option<Pair> {
    read(&ECDSA_P256_SHA256_FIXED_SIGNING)
        .map(Pair::P256)
        .or_else(|| read(&ECDSA_P384_SHA384_FIXED_SIGNING).map(Pair::P384))
}

//! Signing keys of every kind that tokens in the wild carry.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// A signature algorithm of JWS (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alg {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Alg {
    /// The name in a JOSE header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// A key pair with an id.
pub struct TestKey {
    kid: String,
    pair: Pair,
}

enum Pair {
    Rsa(Arc<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// RSA keys take long to find, so the first set of every provider in a test process shares one.
static FIRST_RSA: LazyLock<Arc<RsaKeyPair>> = LazyLock::new(generate_rsa);

pub(super) fn first_set() -> Vec<Arc<TestKey>> {
    set(1, Arc::clone(&FIRST_RSA))
}

pub(super) fn new_set(generation: usize) -> Vec<Arc<TestKey>> {
    set(generation, generate_rsa())
}

fn set(generation: usize, rsa: Arc<RsaKeyPair>) -> Vec<Arc<TestKey>> {
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("an EC key");
    let ed = Ed25519KeyPair::generate().expect("an Ed25519 key");
    [("rsa", Pair::Rsa(rsa)), ("ec", Pair::Ec(ec)), ("ed", Pair::Ed(ed))]
        .into_iter()
        .map(|(kind, pair)| Arc::new(TestKey { kid: format!("{kind}-{generation}"), pair }))
        .collect()
}

fn generate_rsa() -> Arc<RsaKeyPair> {
    Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key"))
}

impl TestKey {
    /// A new P-256 key with this id.
    pub(crate) fn elliptic(kid: &str) -> Arc<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("an EC key");
        Arc::new(Self { kid: kid.to_owned(), pair: Pair::Ec(pair) })
    }

    /// The RSA key that a test process shares, under this id.
    pub(crate) fn shared_rsa(kid: &str) -> Arc<Self> {
        Arc::new(Self { kid: kid.to_owned(), pair: Pair::Rsa(Arc::clone(&FIRST_RSA)) })
    }

    /// The key's id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// True when the key makes signatures of this algorithm.
    pub fn signs(&self, alg: Alg) -> bool {
        matches!(
            (&self.pair, alg),
            (Pair::Rsa(_), Alg::Rs256 | Alg::Ps256) | (Pair::Ec(_), Alg::Es256) | (Pair::Ed(_), Alg::EdDsa)
        )
    }

    /// The public key as a JWK for signatures.
    pub fn jwk(&self, with_alg: bool) -> Value {
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (mut jwk, alg) = match &self.pair {
            Pair::Rsa(pair) => {
                // RSAPublicKey in DER (RFC 8017 §A.1.1). With 2048 bits and the exponent 65537 the two
                // integers are always at the same place.
                let der = pair.public_key().as_ref();
                assert_eq!(der.len(), 270, "an RSA key of 2048 bits");
                (json!({"kty": "RSA", "n": b64(&der[9..265]), "e": b64(&der[267..])}), Alg::Rs256)
            }
            Pair::Ec(pair) => {
                // An uncompressed point: 0x04, x, y (SEC 1 §2.3.3).
                let point = pair.public_key().as_ref();
                (
                    json!({"kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..])}),
                    Alg::Es256,
                )
            }
            Pair::Ed(pair) => {
                (json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key().as_ref())}), Alg::EdDsa)
            }
        };
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        if with_alg {
            jwk["alg"] = json!(alg.name());
        }
        jwk
    }

    /// The public key in PEM, as an attacker uses it for an HMAC (RSA keys only).
    pub fn public_pem(&self) -> String {
        let Pair::Rsa(pair) = &self.pair else { panic!("only the RSA key is published as PEM") };
        let der = pair.public_key().as_der().expect("an encodable key");
        crate::tls::pem("PUBLIC KEY", der.as_ref())
    }

    /// Signs a message; the algorithm must fit the key.
    pub fn sign(&self, alg: Alg, message: &[u8]) -> Vec<u8> {
        let rng = SystemRandom::new();
        match (&self.pair, alg) {
            (Pair::Rsa(pair), Alg::Rs256 | Alg::Ps256) => {
                let mut signature = vec![0_u8; pair.public_modulus_len()];
                let padding: &'static dyn aws_lc_rs::signature::RsaEncoding =
                    if alg == Alg::Rs256 { &RSA_PKCS1_SHA256 } else { &RSA_PSS_SHA256 };
                pair.sign(padding, &rng, message, &mut signature).expect("a signature");
                signature
            }
            (Pair::Ec(pair), Alg::Es256) => pair.sign(&rng, message).expect("a signature").as_ref().to_vec(),
            (Pair::Ed(pair), Alg::EdDsa) => pair.sign(message).as_ref().to_vec(),
            _ => panic!("key {} makes no {} signatures", self.kid, alg.name()),
        }
    }
}

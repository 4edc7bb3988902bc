//! Signed tokens: made with a test's keys, verified with whatever keys were published.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::idp::{Alg, TestKey};

/// A token of this header (`alg` and `kid` are set) and these claims.
pub(crate) fn sign(key: &TestKey, alg: Alg, typ: &str, claims: &Value) -> String {
    let header = json!({"alg": alg.name(), "typ": typ, "kid": key.kid()});
    let message = format!("{}.{}", encode(&header), encode(claims));
    let signature = key.sign(alg, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A token that only its issuer can verify.
pub(crate) fn seal(secret: &[u8], claims: &Value) -> String {
    let message = format!("{}.{}", encode(&json!({"alg": "HS512", "typ": "JWT"})), encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, secret), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

/// The claims of a token of [`seal`]; none when it is not ours.
pub(crate) fn unseal(secret: &[u8], token: &str) -> Option<Value> {
    let (message, signature) = token.rsplit_once('.')?;
    let key = hmac::Key::new(hmac::HMAC_SHA512, secret);
    hmac::verify(&key, message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
    claims(token)
}

/// The claims of a token, not verified.
pub(crate) fn claims(token: &str) -> Option<Value> {
    decode(token.split('.').nth(1)?)
}

/// The claims of a token that one of these keys (a JWKS) signed; times are not looked at.
pub(crate) fn verify(jwks: &Value, token: &str) -> Option<Value> {
    let (message, signature) = token.rsplit_once('.')?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    let header = decode(message.split('.').next()?)?;
    let (alg, kid) = (header.get("alg")?.as_str()?, header.get("kid")?.as_str()?);
    let keys = jwks.get("keys")?.as_array()?;
    let known = keys.iter().filter(|key| key.get("kid").and_then(Value::as_str) == Some(kid));
    let mut verified = known.filter_map(|key| check(key, alg, message.as_bytes(), &signature));
    verified.next()?;
    claims(token)
}

fn check(key: &Value, alg: &str, message: &[u8], signature: &[u8]) -> Option<()> {
    let field = |name: &str| URL_SAFE_NO_PAD.decode(key.get(name)?.as_str()?).ok();
    match (key.get("kty")?.as_str()?, alg) {
        ("RSA", "RS256" | "PS256") => {
            let parameters =
                if alg == "RS256" { &RSA_PKCS1_2048_8192_SHA256 } else { &RSA_PSS_2048_8192_SHA256 };
            let public = RsaPublicKeyComponents { n: field("n")?, e: field("e")? };
            public.verify(parameters, message, signature).ok()
        }
        ("EC", "ES256") => {
            let point = [&[4], field("x")?.as_slice(), field("y")?.as_slice()].concat();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).ok()
        }
        ("OKP", "EdDSA") => UnparsedPublicKey::new(&ED25519, field("x")?).verify(message, signature).ok(),
        _ => None,
    }
}

fn encode(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

fn decode(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

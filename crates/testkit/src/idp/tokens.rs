//! Tokens to order: a valid one, and every way to be wrong.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::{Alg, FakeIdp, TestKey};

/// What a token says and how it is signed. [`TokenSpec::valid`] is accepted; each builder changes one thing.
///
/// Later changes win. A claim or header field is removed by the `without_*` builders.
#[derive(Debug, Clone)]
pub struct TokenSpec {
    signing: Signing,
    header: Vec<(String, Option<Value>)>,
    claims: Vec<(String, Option<Value>)>,
    not_before: Option<i64>,
    issued: i64,
    expires: i64,
}

#[derive(Debug, Clone, Copy)]
enum Signing {
    Key(Alg),
    Unsigned,
    HmacWithPublicKey,
    WrongSignature,
}

impl TokenSpec {
    /// An RS256 access token, issued a second ago, valid for ten minutes.
    pub fn valid(subject: &str, audience: &str) -> Self {
        Self {
            signing: Signing::Key(Alg::Rs256),
            header: Vec::new(),
            claims: vec![("sub".to_owned(), Some(json!(subject))), ("aud".to_owned(), Some(json!(audience)))],
            not_before: None,
            issued: -1,
            expires: 600,
        }
    }

    /// Signed with another of the provider's keys.
    pub fn alg(mut self, alg: Alg) -> Self {
        self.signing = Signing::Key(alg);
        self
    }

    /// `alg: none` and an empty signature.
    pub fn unsigned(mut self) -> Self {
        self.signing = Signing::Unsigned;
        self
    }

    /// `alg: HS256`, keyed with the PEM of the RSA public key: the key confusion attack.
    pub fn hmac_with_public_key(mut self) -> Self {
        self.signing = Signing::HmacWithPublicKey;
        self
    }

    /// A signature over something else, by the right key.
    pub fn wrong_signature(mut self) -> Self {
        self.signing = Signing::WrongSignature;
        self
    }

    /// Sets a claim.
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.push((name.to_owned(), Some(value.into())));
        self
    }

    /// Removes a claim, also one that every token has.
    pub fn without_claim(mut self, name: &str) -> Self {
        self.claims.push((name.to_owned(), None));
        self
    }

    /// Sets a field of the JOSE header.
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.push((name.to_owned(), Some(value.into())));
        self
    }

    /// Removes a field of the JOSE header.
    pub fn without_header(mut self, name: &str) -> Self {
        self.header.push((name.to_owned(), None));
        self
    }

    /// `exp` this many seconds from now; negative is in the past.
    pub fn expires_in(mut self, seconds: i64) -> Self {
        self.expires = seconds;
        self
    }

    /// `iat` this many seconds from now; negative is in the past.
    pub fn issued_in(mut self, seconds: i64) -> Self {
        self.issued = seconds;
        self
    }

    /// `nbf` this many seconds from now.
    pub fn not_before_in(mut self, seconds: i64) -> Self {
        self.not_before = Some(seconds);
        self
    }

    /// Ran out an hour ago.
    pub fn expired(self) -> Self {
        self.issued_in(-7200).expires_in(-3600)
    }

    /// Valid from an hour from now.
    pub fn not_yet_valid(self) -> Self {
        self.not_before_in(3600).expires_in(7200)
    }

    /// From somebody else.
    pub fn issuer(self, issuer: &str) -> Self {
        self.claim("iss", issuer)
    }

    /// For somebody else; also a list.
    pub fn audience(self, audience: impl Into<Value>) -> Self {
        self.claim("aud", audience)
    }

    /// A key id that is not published.
    pub fn unknown_kid(self) -> Self {
        self.header("kid", "nobody-knows-this-one")
    }

    /// A critical header extension that nobody understands (RFC 7515 §4.1.11).
    pub fn critical_header(self) -> Self {
        self.header("crit", json!(["http://example.com/odd"])).header("http://example.com/odd", true)
    }

    /// An OpenID Connect ID token: `typ: JWT`, `nonce` and `at_hash`.
    pub fn id_token(self) -> Self {
        self.header("typ", "JWT").claim("nonce", "n-0S6_WzA2Mj").claim("at_hash", "77QmUPtjPfzWtF2AnpK9RQ")
    }

    /// A refresh token as Keycloak writes it: a JWT with the claim `typ: Refresh`.
    pub fn keycloak_refresh_token(self) -> Self {
        self.header("typ", "JWT").claim("typ", "Refresh")
    }

    pub(super) fn sign(&self, idp: &FakeIdp, now: i64) -> String {
        let alg = match self.signing {
            Signing::Key(alg) => alg,
            Signing::Unsigned | Signing::HmacWithPublicKey | Signing::WrongSignature => Alg::Rs256,
        };
        let key = idp.key(alg);
        let alg_name = match self.signing {
            Signing::Unsigned => "none",
            Signing::HmacWithPublicKey => "HS256",
            Signing::Key(_) | Signing::WrongSignature => alg.name(),
        };
        let header = changed(json!({"typ": "at+jwt", "alg": alg_name, "kid": key.kid()}), &self.header);
        let mut defaults = json!({
            "iss": idp.issuer(),
            "iat": now + self.issued,
            "exp": now + self.expires,
            "jti": "jti-of-a-test",
        });
        if let Some(seconds) = self.not_before {
            defaults["nbf"] = json!(now + seconds);
        }
        let claims = changed(defaults, &self.claims);
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let message =
            format!("{}.{}", b64(header.to_string().as_bytes()), b64(claims.to_string().as_bytes()));
        let signature = match self.signing {
            Signing::Key(alg) => key.sign(alg, message.as_bytes()),
            Signing::WrongSignature => key.sign(alg, b"something else"),
            Signing::Unsigned => Vec::new(),
            Signing::HmacWithPublicKey => {
                let secret = hmac::Key::new(hmac::HMAC_SHA256, key.public_pem().as_bytes());
                hmac::sign(&secret, message.as_bytes()).as_ref().to_vec()
            }
        };
        format!("{message}.{}", b64(&signature))
    }
}

pub(super) fn sign(key: &TestKey, alg: Alg, header: &Value, claims: &Value) -> String {
    let header = changed(header.clone(), &[("kid".to_owned(), Some(json!(key.kid())))]);
    let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", b64(header.to_string().as_bytes()), b64(claims.to_string().as_bytes()));
    let signature = key.sign(alg, message.as_bytes());
    format!("{message}.{}", b64(&signature))
}

fn changed(defaults: Value, changes: &[(String, Option<Value>)]) -> Value {
    let mut fields: Map<String, Value> = defaults.as_object().cloned().unwrap_or_default();
    for (name, value) in changes {
        match value {
            Some(value) => {
                fields.insert(name.clone(), value.clone());
            }
            None => {
                fields.remove(name);
            }
        }
    }
    Value::Object(fields)
}

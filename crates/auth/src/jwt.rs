//! A JWT taken apart (RFC 7515 §3.1, compact form), strictly: the header and the claims are JSON
//! objects without duplicate names, and nothing is believed before the signature is checked.

use std::fmt;

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use crate::error::AuthError;

/// Longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 24 * 1024;

/// Deepest nesting of claims.
const MAX_DEPTH: usize = 16;

/// A token whose signature nobody has checked yet.
pub struct UnverifiedJwt<'t> {
    /// What was signed: header, dot, claims, as they came.
    pub message: &'t str,
    /// The signature, base64url.
    pub signature: &'t str,
    /// Algorithm the header names; never `none`, never symmetric.
    pub algorithm: Algorithm,
    /// Key the header names.
    pub key_id: Option<String>,
    /// `typ` of the header, lower case and without `application/`.
    pub kind: Option<String>,
    /// The claims, not to be believed yet.
    pub claims: Map<String, Value>,
}

impl fmt::Debug for UnverifiedJwt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnverifiedJwt")
            .field("algorithm", &self.algorithm)
            .field("key_id", &self.key_id)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// Takes a token apart.
///
/// # Errors
/// When it is no JWT, names an algorithm that is never accepted, or asks for extensions (`crit`,
/// RFC 7515 §4.1.11) that nobody here understands.
pub fn parse(token: &str) -> Result<UnverifiedJwt<'_>, AuthError> {
    if token.len() > MAX_TOKEN {
        return Err(AuthError::Malformed { reason: "it is too long" });
    }
    let (message, signature) = token.rsplit_once('.').ok_or(NOT_A_JWT)?;
    let (header, claims) = message.split_once('.').ok_or(NOT_A_JWT)?;
    if claims.contains('.') {
        return Err(NOT_A_JWT);
    }
    let header = object(header)?;
    let claims = object(claims)?;
    if header.contains_key("crit") {
        return Err(AuthError::Malformed { reason: "it needs extensions (crit) that are not supported" });
    }
    let algorithm = header.get("alg").and_then(Value::as_str).ok_or(NOT_A_JWT)?;
    let algorithm = asymmetric(algorithm).ok_or(AuthError::Algorithm)?;
    let text = |name: &str| header.get(name).and_then(Value::as_str);
    let kind = text("typ").map(|kind| {
        let kind = kind.to_ascii_lowercase();
        kind.strip_prefix("application/").map(str::to_owned).unwrap_or(kind)
    });
    if header.contains_key("typ") && kind.is_none() {
        return Err(NOT_A_JWT);
    }
    Ok(UnverifiedJwt { message, signature, algorithm, key_id: text("kid").map(str::to_owned), kind, claims })
}

/// True when a string is a JWS, or something that a lenient reader could take for one: a part of it is a JSON
/// object that names an algorithm and no encryption. Such a token speaks for itself, or not at all: nobody is
/// asked about it, since a reader that passes over empty parts or padding would vouch for what the rules here
/// refuse.
pub fn is_jws(token: &str) -> bool {
    token.split(['.', '~']).any(|part| {
        let part = part.trim_end_matches('=').replace('+', "-").replace('/', "_");
        let object =
            LENIENT.decode(part).ok().map(|bytes| serde_json::from_slice::<Map<String, Value>>(&bytes));
        object.is_some_and(|read| {
            read.is_ok_and(|header| header.contains_key("alg") && !header.contains_key("enc"))
        })
    })
}

/// Reads what strict readers refuse: bits that say nothing.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// True when a string may be a bearer token at all (`b64token`, RFC 6750 §2.1) and is not too long.
pub fn is_token(token: &str) -> bool {
    let body = token.trim_end_matches('=');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    token.len() <= MAX_TOKEN && !body.is_empty() && body.bytes().all(allowed)
}

const NOT_A_JWT: AuthError = AuthError::Malformed { reason: "it is not a JWT" };

fn object(part: &str) -> Result<Map<String, Value>, AuthError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| NOT_A_JWT)?;
    let text = skep_api::json::check(&bytes, MAX_DEPTH).map_err(|_| NOT_A_JWT)?;
    serde_json::from_str(text).map_err(|_| NOT_A_JWT)
}

/// The asymmetric algorithms by name (RFC 7518 §3.1, RFC 8037 §3.1).
pub fn asymmetric(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        _ => return None,
    })
}

/// Every algorithm that may be allowed.
pub const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(header: &str, claims: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_token_is_taken_apart_strictly() {
        let good = token(r#"{"alg":"RS256","kid":"k","typ":"application/AT+JWT"}"#, r#"{"sub":"a"}"#);
        let jwt = parse(&good).unwrap();
        assert_eq!(jwt.algorithm, Algorithm::RS256);
        assert_eq!(jwt.key_id.as_deref(), Some("k"));
        assert_eq!(jwt.kind.as_deref(), Some("at+jwt"));
        assert_eq!(jwt.claims["sub"], "a");
        for (header, claims, expected) in [
            (r#"{"alg":"none"}"#, "{}", AuthError::Algorithm),
            (r#"{"alg":"None"}"#, "{}", AuthError::Algorithm),
            (r#"{"alg":"HS256"}"#, "{}", AuthError::Algorithm),
            (r#"{"alg":"rs256"}"#, "{}", AuthError::Algorithm),
            (r#"{"kid":"k"}"#, "{}", NOT_A_JWT),
            (r#"{"alg":"RS256","alg":"none"}"#, "{}", NOT_A_JWT),
            (r#"{"alg":"RS256"}"#, r#"{"sub":"a","sub":"b"}"#, NOT_A_JWT),
            (r#"{"alg":"RS256"}"#, "[]", NOT_A_JWT),
            (r#"{"alg":"RS256","typ":7}"#, "{}", NOT_A_JWT),
        ] {
            assert_eq!(parse(&token(header, claims)).unwrap_err(), expected, "{header} {claims}");
        }
        assert!(matches!(
            parse(&token(r#"{"alg":"RS256","crit":["b64"],"b64":false}"#, "{}")),
            Err(AuthError::Malformed { .. })
        ));
        for bad in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "a.b.c.d.e", "é.é.é"] {
            assert_eq!(parse(bad).unwrap_err(), NOT_A_JWT, "{bad}");
        }
        let long = "a".repeat(MAX_TOKEN + 1);
        assert!(parse(&long).is_err());
    }

    #[test]
    fn what_has_the_form_of_a_jws_is_not_opaque() {
        for jws in [
            token(r#"{"alg":"RS256"}"#, "{}"),
            token(r#"{"alg":"none"}"#, "{}"),
            token(r#"{"alg":"RS256"}"#, r#"{"sub":"a","sub":"b"}"#),
            token(r#"{"alg":"HS256","typ":7}"#, "not json"),
            format!("{}.", token(r#"{"alg":"RS256"}"#, "{}")),
            format!(".{}", token(r#"{"alg":"RS256"}"#, "{}")),
            format!("{}~", token(r#"{"alg":"RS256"}"#, "{}")),
            token(r#"{"alg":"RS256"}"#, "{}").replacen('.', "=.", 1),
            URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#),
        ] {
            assert!(is_jws(&jws), "{jws}");
        }
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RSA-OAEP","enc":"A256GCM"}"#);
        let encrypted = format!("{header}.a.b.c.d");
        for opaque in
            ["", "abc", "ya29.a0Af_x", "a.b.c", "gho_16C7e42F292c6912E7710c838347Ae178B4a", &encrypted]
        {
            assert!(!is_jws(opaque), "{opaque}");
        }
    }

    #[test]
    fn a_token_has_only_the_characters_of_tokens() {
        for good in ["a", "a.b-c_d~e+f/g==", "ya29.a0Af"] {
            assert!(is_token(good), "{good}");
        }
        for bad in ["", "=", "a=b", "a&token=b", "a\"b", "a%20b", "é"] {
            assert!(!is_token(bad), "{bad}");
        }
        assert!(!is_token(&"a".repeat(MAX_TOKEN + 1)));
    }

    proptest! {
        #[test]
        fn no_string_makes_the_parser_panic(text in ".{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn no_header_or_claims_make_the_parser_panic(
            header in proptest::collection::vec(any::<u8>(), 0..80),
            claims in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let text = format!("{}.{}.AA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
            let _ = parse(&text);
        }
    }
}

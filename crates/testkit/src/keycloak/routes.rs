//! Paths: which are taken, and who answers them.

use serde_json::{Value, json};

use super::admin::{self, Call};
use super::model::Keycloak;
use super::refusal::Refusal;
use super::{grants, registration};
use crate::server::{Recorded, Reply};

/// The answer to any request.
pub(super) fn answer(keycloak: &mut Keycloak, request: &Recorded) -> Reply {
    route(keycloak, request).unwrap_or_else(|refusal| refusal.reply())
}

fn route(keycloak: &mut Keycloak, request: &Recorded) -> Result<Reply, Refusal> {
    let raw = request.path();
    if !is_normal(raw) {
        return Err(Refusal::oauth(400, "missingNormalization", "Request path not normalized"));
    }
    let prefix = url::Url::parse(&keycloak.base).map(|url| url.path().to_owned()).unwrap_or_default();
    let path = raw.strip_prefix(prefix.trim_end_matches('/')).ok_or_else(Refusal::no_such_path)?;
    let segments: Vec<String> = path.split('/').skip(1).map(decoded).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        ["admin", "realms", realm, rest @ ..] => {
            let rights = keycloak.rights(request, realm)?;
            admin::answer(&mut Call { keycloak, realm, rights, request }, rest)
        }
        ["realms", realm, rest @ ..] => {
            if !keycloak.realms.contains_key(*realm) {
                return Err(Refusal::error(404, "Realm does not exist"));
            }
            of_realm(keycloak, realm, rest, request)
        }
        _ => Err(Refusal::no_such_path()),
    }
}

fn of_realm(
    keycloak: &mut Keycloak,
    realm: &str,
    rest: &[&str],
    request: &Recorded,
) -> Result<Reply, Refusal> {
    match (request.method.as_str(), rest) {
        ("GET", [".well-known", "openid-configuration"]) => Ok(Reply::json(&discovery(keycloak, realm))),
        ("GET", ["protocol", "openid-connect", "certs"]) => Ok(Reply::json(&keycloak.existing(realm).jwks())),
        ("POST", ["protocol", "openid-connect", "token"]) => grants::token(keycloak, realm, request),
        ("POST", ["clients-registrations", "default"]) => registration::create(keycloak, realm, request),
        (_, ["clients-registrations", "default", client_id]) => {
            registration::one(keycloak, realm, client_id, request)
        }
        (_, ["protocol", "openid-connect", "token" | "certs"] | ["clients-registrations", "default"]) => {
            Err(Refusal::error(405, "HTTP 405 Method Not Allowed"))
        }
        _ => Err(Refusal::no_such_path()),
    }
}

fn discovery(keycloak: &Keycloak, realm: &str) -> Value {
    let issuer = keycloak.issuer(realm);
    let protocol = format!("{issuer}/protocol/openid-connect");
    json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{protocol}/auth"),
        "token_endpoint": format!("{protocol}/token"),
        "jwks_uri": format!("{protocol}/certs"),
        "registration_endpoint": format!("{issuer}/clients-registrations/openid-connect"),
        "grant_types_supported": [
            "client_credentials", "password", "refresh_token", "urn:ietf:params:oauth:grant-type:token-exchange",
        ],
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    })
}

/// True for a path as RFC 3986 §6.2.2 normalizes it: no empty or dot segments, and nothing encoded that needs
/// no encoding.
fn is_normal(path: &str) -> bool {
    let empty_inside = path.contains("//");
    let dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    let needless = path.match_indices('%').any(|(at, _)| {
        let digits = path.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        digits.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    });
    !(empty_inside || dots || needless)
}

/// A segment with its percent-encoding undone; unlike in forms, a plus is a plus and an ampersand ends nothing.
fn decoded(segment: &str) -> String {
    let plain = segment.replace('+', "%2B").replace('&', "%26");
    let pair = format!("x={plain}");
    let decoded = url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned());
    decoded.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_read_as_a_whole() {
        for (segment, expected) in [
            ("a&b", "a&b"),
            ("a+b=c", "a+b=c"),
            ("spiffe:%2F%2Fe%2Fa%26b", "spiffe://e/a&b"),
            ("%C3%A4;x", "\u{e4};x"),
            ("", ""),
        ] {
            assert_eq!(decoded(segment), expected, "{segment}");
        }
    }
}

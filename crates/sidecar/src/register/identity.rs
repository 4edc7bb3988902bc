//! Who is registered: the subject of a JWT-SVID, once it is known to be true.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use skep_auth::jwt;
use skep_auth::keys::KeySet;
use skep_auth::spiffe::SpiffeId;

use super::{IdentityError, IdentitySource};

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Deepest nesting of a bundle.
const MAX_DEPTH: usize = 16;
/// How far the clocks of SPIRE and of this node may differ, in seconds.
const LEEWAY: i64 = 30;

/// The id of the client that this pod is, at `now` (seconds since 1970).
///
/// # Errors
/// When there is no JWT-SVID yet, or it is not good.
pub(super) fn client_id(source: &IdentitySource, now: i64) -> Result<String, IdentityError> {
    match source {
        IdentitySource::Name(name) => Ok(name.clone()),
        IdentitySource::Svid { token, bundle } => {
            let text = content(token)?;
            let bytes = content(bundle)?;
            subject((token, text.trim()), (bundle, bytes.as_bytes()), now)
        }
    }
}

/// Verifies a JWT-SVID (JWT-SVID §3 and §5) with the keys of its trust domain, and tells its subject. The audience
/// is Keycloak's to judge: we are not who the SVID is for.
fn subject(
    (path, token): (&Path, &str),
    (bundle_path, bundle): (&Path, &[u8]),
    now: i64,
) -> Result<String, IdentityError> {
    let refused = |reason| IdentityError::Svid { path: path.to_owned(), reason };
    let jwt = jwt::parse(token).map_err(|source| IdentityError::Token { path: path.to_owned(), source })?;
    // Of the algorithms that are accepted elsewhere, the one that JWT-SVIDs don't have (JWT-SVID §2.2).
    if Some(jwt.algorithm) == jwt::asymmetric("EdDSA") {
        return Err(refused("its algorithm is none of a JWT-SVID"));
    }
    if !matches!(jwt.kind.as_deref(), None | Some("jwt" | "jose")) {
        return Err(refused("its typ is neither JWT nor JOSE"));
    }
    let subject =
        jwt.claims.get("sub").and_then(Value::as_str).ok_or_else(|| refused("it has no subject"))?;
    let id = SpiffeId::new(subject).map_err(|_| refused("its subject is no SPIFFE ID"))?;
    let trust_domain = id.trust_domain_name();

    let keys = keys(bundle_path, bundle, trust_domain)?;
    let key = keys
        .find(jwt.key_id.as_deref(), jwt.algorithm)
        .ok_or_else(|| IdentityError::UnknownKey { trust_domain: trust_domain.to_owned() })?;
    if !key.verify(jwt.message.as_bytes(), jwt.signature, jwt.algorithm) {
        return Err(IdentityError::Signature { trust_domain: trust_domain.to_owned() });
    }

    let seconds = |name: &str| jwt.claims.get(name).and_then(Value::as_f64);
    let expiry = seconds("exp").ok_or_else(|| refused("it has no expiry"))?;
    if expiry <= (now - LEEWAY) as f64 {
        return Err(IdentityError::Expired { path: path.to_owned() });
    }
    if seconds("nbf").is_some_and(|from| from > (now + LEEWAY) as f64) {
        return Err(IdentityError::NotYetValid { path: path.to_owned() });
    }
    let has_audience = match jwt.claims.get("aud") {
        Some(Value::String(audience)) => !audience.is_empty(),
        Some(Value::Array(audiences)) => !audiences.is_empty(),
        _ => false,
    };
    if !has_audience {
        return Err(refused("it has no audience"));
    }
    Ok(subject.to_owned())
}

/// The keys of one trust domain in a JWT bundle as spiffe-helper writes it.
fn keys(path: &Path, bundle: &[u8], trust_domain: &str) -> Result<KeySet, IdentityError> {
    let unreadable = || IdentityError::Bundle { path: path.to_owned() };
    let domains: Map<String, Value> = skep_api::json::check(bundle, MAX_DEPTH)
        .ok()
        .and_then(|text| serde_json::from_str(text).ok())
        .ok_or_else(unreadable)?;
    // Helpers differ in whether they write the trust domain as a name or as a SPIFFE ID.
    let encoded =
        domains.get(trust_domain).or_else(|| domains.get(&format!("spiffe://{trust_domain}"))).ok_or_else(
            || IdentityError::NoTrustDomain { path: path.to_owned(), trust_domain: trust_domain.to_owned() },
        )?;
    let document = encoded
        .as_str()
        .and_then(|text| STANDARD.decode(text).ok())
        .map(|document| for_signatures(&document).unwrap_or(document))
        .ok_or_else(unreadable)?;
    KeySet::parse(&document).map_err(|source| IdentityError::Keys {
        path: path.to_owned(),
        trust_domain: trust_domain.to_owned(),
        source,
    })
}

/// A SPIFFE bundle marks its keys with uses of its own (SPIFFE Trust Domain and Bundle §4.2.2).
fn for_signatures(document: &[u8]) -> Option<Vec<u8>> {
    let mut document: Value = serde_json::from_slice(document).ok()?;
    for key in document.get_mut("keys")?.as_array_mut()? {
        if key.get("use").is_some_and(|name| name == "jwt-svid") {
            key.as_object_mut()?.insert("use".to_owned(), Value::from("sig"));
        }
    }
    serde_json::to_vec(&document).ok()
}

fn content(path: &Path) -> Result<String, IdentityError> {
    let path_buf = || PathBuf::from(path);
    let unreadable = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => IdentityError::Missing { path: path_buf() },
        _ => IdentityError::Read { path: path_buf(), source },
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    // A pipe is not waited for.
    if !metadata.is_file() || metadata.len() == 0 {
        return Err(IdentityError::Missing { path: path_buf() });
    }
    if metadata.len() > MAX_FILE {
        return Err(IdentityError::TooLarge { path: path_buf() });
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;
    use skep_runtime::clock::{Clock as _, SystemClock};
    use skep_testkit::spire::{Entry, FakeAgent};

    use super::*;

    const ID: &str = "spiffe://example.org/ns/demo/sa/weather";

    async fn agent() -> FakeAgent {
        let agent = FakeAgent::start("example.org").await;
        agent.entry(Entry::new(ID));
        agent
    }

    fn bundle(domain: &str, jwks: &Value) -> String {
        json!({domain: STANDARD.encode(jwks.to_string())}).to_string()
    }

    fn judged(token: &str, bundle: &str, now: i64) -> Result<String, String> {
        subject((Path::new("/t"), token), (Path::new("/b"), bundle.as_bytes()), now)
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_good_svid_names_the_client() {
        let agent = agent().await;
        let now = SystemClock.unix_seconds();
        let token = agent.issue_jwt(&["kagenti"], Duration::from_secs(300));
        assert_eq!(judged(&token, &bundle("example.org", &agent.jwks()), now).unwrap(), ID);
        assert_eq!(judged(&token, &bundle("spiffe://example.org", &agent.jwks()), now).unwrap(), ID);
        let mut marked = agent.jwks();
        for key in marked["keys"].as_array_mut().unwrap() {
            key["use"] = json!("jwt-svid");
        }
        assert_eq!(judged(&token, &bundle("example.org", &marked), now).unwrap(), ID);
        agent.rotate_jwt_keys();
        let renewed = agent.issue_jwt(&["kagenti"], Duration::from_secs(300));
        assert_eq!(judged(&renewed, &bundle("example.org", &agent.jwks()), now).unwrap(), ID);
    }

    #[tokio::test]
    async fn what_is_not_vouched_for_is_nobody() {
        let agent = agent().await;
        let stranger = FakeAgent::start("example.org").await;
        let now = SystemClock.unix_seconds();
        let token = agent.issue_jwt(&["kagenti"], Duration::from_secs(300));
        let keys = bundle("example.org", &agent.jwks());
        let mut unnamed = agent.jwks();
        for key in unnamed["keys"].as_array_mut().unwrap() {
            key["kid"] = json!("another");
        }
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        parts[1] = URL_SAFE_NO_PAD.encode(
            json!({"sub": "spiffe://example.org/admin", "aud": ["kagenti"], "exp": now + 300}).to_string(),
        );
        let forged = parts.join(".");
        parts[0] = URL_SAFE_NO_PAD.encode(json!({"alg": "none"}).to_string());
        let unsigned = parts.join(".");
        for (token, bundle, now, expected) in [
            (token.as_str(), keys.as_str(), now + 331, "has expired"),
            (&forged, &keys, now, "does not verify"),
            (&unsigned, &keys, now, "holds no JWT-SVID"),
            ("garbage", &keys, now, "holds no JWT-SVID"),
            (&token, &bundle("example.org", &stranger.jwks()), now, "does not verify"),
            (&token, &bundle("example.org", &unnamed), now, "does not publish"),
            (&token, &bundle("other.org", &agent.jwks()), now, "no keys of trust domain \"example.org\""),
            (&token, &bundle("example.org", &json!({"keys": []})), now, "can't be used"),
            (&token, "{}", now, "no keys of trust domain"),
            (&token, "[]", now, "is no JWT bundle"),
            (&token, "{\"example.org\": 7}", now, "is no JWT bundle"),
            (&token, "{\"example.org\": \"%\"}", now, "is no JWT bundle"),
        ] {
            let error = judged(token, bundle, now).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(!error.contains(token), "{error}");
        }
        assert!(judged(&token, &keys, now + 329).is_ok(), "clocks may differ a little");
    }

    #[test]
    fn files_that_are_not_there_yet_are_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let source = IdentitySource::Svid { token: folder.path().join("t"), bundle: folder.path().join("b") };
        assert!(matches!(client_id(&source, 0), Err(IdentityError::Missing { .. })));
        std::fs::write(folder.path().join("t"), "").unwrap();
        assert!(matches!(client_id(&source, 0), Err(IdentityError::Missing { .. })));
        std::fs::write(folder.path().join("t"), vec![b'a'; 1 << 21]).unwrap();
        assert!(matches!(client_id(&source, 0), Err(IdentityError::TooLarge { .. })));
    }
}

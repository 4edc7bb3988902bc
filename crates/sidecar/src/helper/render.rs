//! From what the agent sent to what the files hold.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use skep_auth::spiffe::{
    JwtBundleSet, JwtSvid, PairError, SpiffeId, TrustDomain, X509Context, X509Svid, check_pair,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use super::config::BundleChoice;

/// Characters of base64 on a line of PEM (RFC 7468 §2).
const PEM_LINE: usize = 64;

/// The content of a file, wiped after use: it may be a private key.
pub(super) type Content = Zeroizing<Vec<u8>>;

/// Why what the agent sent gives no files.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    #[error("none of the workload's SVIDs has the hint `{hint}`; there is {offered}")]
    Hint { hint: String, offered: String },
    #[error("the agent sent no bundle for {trust_domain}, the trust domain of {id}")]
    NoBundle { trust_domain: String, id: String },
    #[error("the agent sent an SVID whose parts don't fit")]
    Pair(#[source] PairError),
    #[error("the certificate of {id} can't be read")]
    Certificate { id: String },
    #[error("the JWT-SVID of {id} is not for {audience}")]
    Audience { id: String, audience: String },
    #[error("the JWT-SVID of {id} had expired when it came; is this machine's clock right?")]
    Expired { id: String },
}

/// From when to when something is valid, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: i64,
    pub(super) until: i64,
}

/// The content of the three files of an X.509-SVID.
pub(super) struct X509Content {
    pub(super) id: SpiffeId,
    pub(super) certificate: Content,
    pub(super) key: Content,
    pub(super) bundle: Content,
    pub(super) validity: Validity,
}

/// The files of one X.509-SVID: the one with the hint, or the first.
///
/// # Errors
/// When there is none with the hint, or it is not whole.
pub(super) fn x509(
    context: &X509Context,
    hint: Option<&str>,
    choice: BundleChoice,
    now: i64,
) -> Result<X509Content, RenderError> {
    let svid = match hint {
        None => context.svids().first(),
        Some(hint) => context.svids().iter().find(|svid| svid.hint() == Some(hint)),
    };
    let svid = svid
        .ok_or_else(|| no_hint(hint, context.svids().iter().map(|svid| (svid.spiffe_id(), svid.hint()))))?;
    check_pair(svid).map_err(RenderError::Pair)?;
    let validity =
        validity(svid.leaf().as_bytes()).ok_or_else(|| RenderError::Certificate { id: name(svid) })?;
    let own = svid.spiffe_id().trust_domain();
    let own_bundle = context.bundle_set().get(own).filter(|bundle| !bundle.authorities().is_empty());
    let own_bundle =
        own_bundle.ok_or_else(|| RenderError::NoBundle { trust_domain: own.to_string(), id: name(svid) })?;
    let mut authorities: Vec<&[u8]> = own_bundle.authorities().iter().map(AsRef::as_ref).collect();
    let mut chain: Vec<&[u8]> = svid.cert_chain().iter().map(AsRef::as_ref).collect();
    if choice.add_intermediates {
        authorities.extend(chain.split_off(chain.len().min(1)));
    }
    let others = context.bundle_set().iter().filter(|(trust_domain, _)| *trust_domain != own);
    let others: Vec<_> = others.filter(|_| choice.include_federated).collect();
    for (_, bundle) in &others {
        authorities.extend(bundle.authorities().iter().map(|authority| authority.as_bytes()));
    }
    if choice.omit_expired {
        authorities.retain(|der| validity_ends(der, now));
    }
    Ok(X509Content {
        id: svid.spiffe_id().clone(),
        certificate: pem("CERTIFICATE", &chain),
        key: pem("PRIVATE KEY", &[svid.private_key().as_bytes()]),
        bundle: pem("CERTIFICATE", &authorities),
        validity,
    })
}

/// The JWT-SVID with the hint, or the first; checked to be for the audience and not over.
///
/// # Errors
/// When there is none, or it is not what was asked for.
pub(super) fn jwt<'s>(
    svids: &'s [JwtSvid],
    hint: Option<&str>,
    audience: &str,
    now: i64,
) -> Result<(&'s JwtSvid, Validity), RenderError> {
    let svid = match hint {
        None => svids.first(),
        Some(hint) => svids.iter().find(|svid| svid.hint() == Some(hint)),
    };
    let svid = svid.ok_or_else(|| no_hint(hint, svids.iter().map(|svid| (svid.spiffe_id(), svid.hint()))))?;
    let id = || svid.spiffe_id().to_string();
    if !svid.audience().iter().any(|found| found == audience) {
        return Err(RenderError::Audience { id: id(), audience: audience.to_owned() });
    }
    let until = svid.expiry().unix_timestamp();
    if until <= now {
        return Err(RenderError::Expired { id: id() });
    }
    Ok((svid, Validity { from: now, until }))
}

/// A JWT-SVID as it is: compact, without a line end.
pub(super) fn token(svid: &JwtSvid) -> Content {
    Zeroizing::new(svid.token().as_bytes().to_vec())
}

/// A JSON object of trust domain to its JWKS in base64, as spiffe-helper writes it. Sorted, so that the same
/// bundles give the same bytes.
pub(super) fn jwt_bundles(bundles: &JwtBundleSet) -> Content {
    let mut all = Map::new();
    for (trust_domain, bundle) in bundles.iter() {
        let mut keys: Vec<_> = bundle.jwt_authorities().collect();
        keys.sort_by_key(|key| key.key_id());
        let keys: Vec<Value> =
            keys.iter().filter_map(|key| serde_json::from_slice(key.jwk_json()).ok()).collect();
        let jwks = json!({ "keys": keys }).to_string();
        all.insert(trust_domain.as_str().to_owned(), Value::String(STANDARD.encode(jwks)));
    }
    Zeroizing::new(Value::Object(all).to_string().into_bytes())
}

/// True when the key that signed the token is no longer trusted.
pub(super) fn is_taken_back(bundles: &JwtBundleSet, trust_domain: &TrustDomain, key_id: &str) -> bool {
    bundles.get(trust_domain).is_some_and(|bundle| bundle.find_jwt_authority(key_id).is_none())
}

fn name(svid: &X509Svid) -> String {
    svid.spiffe_id().to_string()
}

fn no_hint<'s>(
    hint: Option<&str>,
    offered: impl Iterator<Item = (&'s SpiffeId, Option<&'s str>)>,
) -> RenderError {
    let offered: Vec<_> = offered
        .map(|(id, hint)| match hint {
            Some(hint) => format!("{id} with `{hint}`"),
            None => format!("{id} without one"),
        })
        .collect();
    let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
    RenderError::Hint { hint: hint.unwrap_or_default().to_owned(), offered }
}

fn validity(der: &[u8]) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    Some(Validity { from: validity.not_before.timestamp(), until: validity.not_after.timestamp() })
}

fn validity_ends(der: &[u8], now: i64) -> bool {
    validity(der).is_none_or(|validity| validity.until >= now)
}

/// PEM of some DER (RFC 7468).
fn pem(label: &str, all: &[&[u8]]) -> Content {
    // Room for all of it, so that a key is not left behind in a smaller buffer.
    let room = all.iter().map(|der| der.len() * 3 / 2 + 128).sum();
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    for der in all {
        let encoded = Zeroizing::new(STANDARD.encode(der));
        text.extend_from_slice(format!("-----BEGIN {label}-----\n").as_bytes());
        for line in encoded.as_bytes().chunks(PEM_LINE) {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        text.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
    }
    text
}

#[cfg(test)]
mod tests {
    use skep_auth::spiffe::JwtBundle;

    use super::*;

    #[test]
    fn pem_has_lines_of_64_characters() {
        let text = String::from_utf8(pem("CERTIFICATE", &[&[7; 50], &[]]).to_vec()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "-----BEGIN CERTIFICATE-----");
        assert_eq!((lines[1].len(), lines[2].len()), (64, 4));
        assert_eq!(&lines[3..], ["-----END CERTIFICATE-----", lines[0], "-----END CERTIFICATE-----"]);
    }

    #[test]
    fn jwt_bundles_are_a_map_to_base64_and_always_the_same() {
        let key = |id: &str| format!(r#"{{"kty":"EC","kid":"{id}","crv":"P-256","x":"a","y":"b"}}"#);
        let jwks = format!(r#"{{"keys":[{},{},{}]}}"#, key("c"), key("a"), key("b"));
        let domain = TrustDomain::new("example.org").unwrap();
        let bundle = JwtBundle::from_jwt_authorities(domain.clone(), jwks.as_bytes()).unwrap();
        let mut bundles = JwtBundleSet::new();
        bundles.add_bundle(bundle);
        assert!(is_taken_back(&bundles, &domain, "d") && !is_taken_back(&bundles, &domain, "a"));
        let written: Value = serde_json::from_slice(&jwt_bundles(&bundles)).unwrap();
        let decoded = STANDARD.decode(written["example.org"].as_str().unwrap()).unwrap();
        let decoded: Value = serde_json::from_slice(&decoded).unwrap();
        let ids: Vec<_> =
            decoded["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect();
        assert_eq!(ids, ["a", "b", "c"]);
        assert_eq!(jwt_bundles(&JwtBundleSet::new()).as_slice(), b"{}");
    }
}

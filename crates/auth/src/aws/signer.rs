//! AWS Signature Version 4, over a whole body.

use std::collections::BTreeMap;
use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jiff::Timestamp;
use skep_api::secret::Secret;
use url::Url;

use super::AwsError;

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// What a signature is good for, besides its day.
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// Whose signature it is.
pub(super) struct Keys<'a> {
    pub(super) access_key_id: &'a str,
    pub(super) secret_access_key: &'a Secret,
    pub(super) session_token: Option<&'a Secret>,
}

/// See [`super::AwsSts::sign`].
pub(super) fn sign(
    keys: &Keys<'_>,
    scope: &Scope<'_>,
    now: Timestamp,
    method: &Method,
    url: &Url,
    headers: &mut HeaderMap,
    body: &[u8],
) -> Result<(), AwsError> {
    let date = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let body_hash = hex(digest(&SHA256, body).as_ref());
    headers.insert(DATE, header(&date)?);
    headers.insert(CONTENT_SHA256, header(&body_hash)?);
    match keys.session_token {
        Some(token) => headers.insert(SECURITY_TOKEN, secret_header(token.expose())?),
        None => headers.remove(SECURITY_TOKEN),
    };
    let signed = signed_headers(url, headers)?;
    let value = authorization(keys, scope, &date, method, url, &signed, &body_hash);
    headers.insert(AUTHORIZATION, secret_header(&value)?);
    Ok(())
}

/// The headers that are signed, by name, with their values as they are signed: byte by byte, in whatever
/// encoding they are sent.
fn signed_headers(url: &Url, headers: &HeaderMap) -> Result<BTreeMap<String, Vec<u8>>, AwsError> {
    let host = url.host_str().ok_or(AwsError::Signing { reason: "its URL has no host" })?;
    let host = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let mut signed = BTreeMap::from([("host".to_owned(), host.into_bytes())]);
    for name in headers.keys() {
        let text = name.as_str();
        if *name != CONTENT_TYPE && !text.starts_with("x-amz-") && !text.starts_with("mcp-") {
            continue;
        }
        let values: Vec<Vec<u8>> =
            headers.get_all(name).iter().map(|value| trimmed(value.as_bytes())).collect();
        signed.insert(text.to_owned(), values.join(&b","[..]));
    }
    Ok(signed)
}

/// Without spaces at both ends, and with one where there are several.
fn trimmed(value: &[u8]) -> Vec<u8> {
    value.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(&b' ')
}

/// The value of the Authorization header.
fn authorization(
    keys: &Keys<'_>,
    scope: &Scope<'_>,
    date: &str,
    method: &Method,
    url: &Url,
    signed: &BTreeMap<String, Vec<u8>>,
    body_hash: &str,
) -> String {
    let day = date.split('T').next().unwrap_or_default();
    let names = signed.keys().map(String::as_str).collect::<Vec<_>>().join(";");
    let mut request = format!("{method}\n{}\n{}\n", path(url), query(url)).into_bytes();
    for (name, value) in signed {
        for part in [name.as_bytes(), b":", value, b"\n"] {
            request.extend_from_slice(part);
        }
    }
    request.extend_from_slice(format!("\n{names}\n{body_hash}").as_bytes());
    let place = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let request_hash = hex(digest(&SHA256, &request).as_ref());
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{place}\n{request_hash}");
    let first = Secret::new(format!("AWS4{}", keys.secret_access_key.expose()));
    let mut key = mac(first.expose().as_bytes(), day.as_bytes());
    for part in [scope.region, scope.service, "aws4_request"] {
        key = mac(key.as_ref(), part.as_bytes());
    }
    let signature = hex(mac(key.as_ref(), to_sign.as_bytes()).as_ref());
    let access_key_id = keys.access_key_id;
    format!(
        "AWS4-HMAC-SHA256 Credential={access_key_id}/{place}, SignedHeaders={names}, Signature={signature}"
    )
}

/// The path, which is encoded as it is sent, encoded once more. Runs of slashes count as one.
fn path(url: &Url) -> String {
    let mut canonical = String::new();
    let mut slash = false;
    for byte in url.path().bytes() {
        if byte == b'/' {
            if !slash {
                canonical.push('/');
            }
        } else {
            encode(byte, &mut canonical);
        }
        slash = byte == b'/';
    }
    if canonical.is_empty() { "/".to_owned() } else { canonical }
}

/// The parameters, encoded in the one way that counts and sorted.
fn query(url: &Url) -> String {
    let encoded = |text: &str| {
        let mut canonical = String::new();
        text.bytes().for_each(|byte| encode(byte, &mut canonical));
        canonical
    };
    let mut pairs: Vec<(String, String)> =
        url.query_pairs().map(|(name, value)| (encoded(&name), encoded(&value))).collect();
    pairs.sort_unstable();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// RFC 3986 §2.1, with everything but unreserved characters.
fn encode(byte: u8, text: &mut String) {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        text.push(char::from(byte));
    } else {
        let _ = write!(text, "%{byte:02X}");
    }
}

fn mac(key: &[u8], data: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn header(text: &str) -> Result<HeaderValue, AwsError> {
    HeaderValue::from_str(text).map_err(|_| AwsError::Signing { reason: "a credential is not text" })
}

fn secret_header(text: &str) -> Result<HeaderValue, AwsError> {
    let mut value = header(text)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;

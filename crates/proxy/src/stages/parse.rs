//! Reading the body: once, strictly, within bounds.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::error::Rejection;
use crate::message::{self, Call, Message};
use crate::request::{Authenticated, Parsed};

/// Header that repeats the method (MCP 2026-07-28).
pub const MCP_METHOD: &str = "mcp-method";
/// Header that repeats the name or URI (MCP 2026-07-28).
pub const MCP_NAME: &str = "mcp-name";

/// Bounds for reading.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of the body.
    pub bytes: usize,
    /// Nesting.
    pub depth: usize,
    /// Longest wait for a next byte.
    pub idle: Duration,
}

/// A body may take this many times [`Bounds::idle`] in all, so that one byte now and then holds no
/// connection for ever.
const WHOLE: u32 = 10;

/// Reads the message of a POST; other methods have none.
///
/// # Errors
/// 413, 408, 415 or 400, depending on what is wrong with the body.
pub async fn parse(head: Authenticated, body: Incoming, bounds: Bounds) -> Result<Parsed, Rejection> {
    if head.method() != Method::POST {
        return Ok(Parsed::new(head, None));
    }
    check_media_type(head.headers())?;
    let bytes = collect(head.headers(), body, bounds).await?;
    let message = message::read(bytes, bounds.depth).map_err(|fault| Rejection::Message { fault })?;
    check_headers(head.headers(), &message)?;
    Ok(Parsed::new(head, Some(message)))
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Rejection> {
    let refuse = |reason| Err(Rejection::MediaType { reason });
    let encoded = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded {
        return refuse("Content-Encoding is not supported; send the body as it is");
    }
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (kind, more) = (values.next(), values.next().is_some());
    let Some(kind) = kind.and_then(|kind| kind.to_str().ok()).filter(|_| !more) else {
        return refuse("Content-Type must be application/json");
    };
    let mut parts = kind.split(';').map(str::trim);
    if !parts.next().unwrap_or_default().eq_ignore_ascii_case("application/json") {
        return refuse("Content-Type must be application/json");
    }
    let other_charset = parts.any(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        name.trim().eq_ignore_ascii_case("charset")
            && !value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
    });
    if other_charset {
        return refuse("the charset must be UTF-8");
    }
    Ok(())
}

async fn collect(headers: &HeaderMap, mut body: Incoming, bounds: Bounds) -> Result<Bytes, Rejection> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bounds.bytes as u64) {
        return Err(Rejection::BodyTooLarge);
    }
    let end = Instant::now() + bounds.idle * WHOLE;
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout_at(end.min(Instant::now() + bounds.idle), body.frame()).await {
            Err(_) => return Err(Rejection::BodyTooSlow),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(Rejection::BodyBroken),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        let so_far = first.as_ref().map_or(0, Bytes::len) + rest.len();
        if so_far + data.len() > bounds.bytes {
            return Err(Rejection::BodyTooLarge);
        }
        // Most bodies come in one piece, which is then used as it is.
        match &first {
            None => first = Some(data),
            Some(_) => rest.extend_from_slice(&data),
        }
    }
    let first = first.unwrap_or_default();
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}

/// Headers that repeat the body must agree with it: somebody behind may route by the one and act on
/// the other.
fn check_headers(headers: &HeaderMap, message: &Message) -> Result<(), Rejection> {
    let mismatch = |header| Err(Rejection::HeaderMismatch { header, id: message.id.clone() });
    let single = |name: &'static str| {
        let mut values = headers.get_all(name).iter();
        let first = values.next();
        match (first, values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => decoded(value).map(Some).ok_or(()),
            _ => Err(()),
        }
    };
    match single(MCP_METHOD) {
        Ok(None) => {}
        Ok(Some(method)) if method == message.method => {}
        _ => return mismatch("Mcp-Method"),
    }
    let name = match &message.call {
        Call::Tool { name, .. } | Call::Prompt { name, .. } => Some(name.as_str()),
        Call::Resource { uri } => Some(uri.as_str()),
        _ => None,
    };
    match (single(MCP_NAME), name) {
        (Ok(None), _) => Ok(()),
        (Ok(Some(given)), Some(name)) if given == name => Ok(()),
        // Other messages have no name of their own to compare with.
        (Ok(Some(_)), None) => Ok(()),
        _ => mismatch("Mcp-Name"),
    }
}

/// A header's text; `=?base64?…?=` wraps what can't stand in a header.
fn decoded(value: &HeaderValue) -> Option<String> {
    let text = std::str::from_utf8(value.as_bytes()).ok()?.trim_matches([' ', '\t']);
    match text.strip_prefix("=?base64?").and_then(|inner| inner.strip_suffix("?=")) {
        Some(inner) => String::from_utf8(STANDARD.decode(inner).ok()?).ok(),
        None => Some(text.to_owned()),
    }
}

/// The header for a name, wrapped where it must be.
pub(crate) fn header_text(name: &str) -> HeaderValue {
    let plain = !name.is_empty()
        && name.bytes().all(|byte| (0x21..0x7f).contains(&byte) || byte == b' ')
        && name.trim() == name
        && !name.starts_with("=?");
    let text = if plain { name.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(name)) };
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn only_plain_json_is_read() {
        for (pairs, fine) in [
            (vec![("content-type", "application/json")], true),
            (vec![("content-type", "Application/JSON; charset=UTF-8")], true),
            (vec![("content-type", "application/json; charset=\"utf-8\"")], true),
            (vec![("content-type", "application/json"), ("content-encoding", "identity")], true),
            (vec![], false),
            (vec![("content-type", "text/plain")], false),
            (vec![("content-type", "application/json; charset=utf-16")], false),
            (vec![("content-type", "application/json"), ("content-type", "text/plain")], false),
            (vec![("content-type", "application/json"), ("content-encoding", "gzip")], false),
        ] {
            assert_eq!(check_media_type(&headers(&pairs)).is_ok(), fine, "{pairs:?}");
        }
    }

    #[test]
    fn headers_that_repeat_the_body_must_agree_with_it() {
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"größe"}}"#;
        let message = message::read(Bytes::from_static(body.as_bytes()), 64).unwrap();
        let encoded = header_text("größe");
        for (pairs, fine) in [
            (vec![], true),
            (vec![("mcp-method", "tools/call"), ("mcp-name", encoded.to_str().unwrap())], true),
            (vec![("mcp-method", " tools/call ")], true),
            (vec![("mcp-method", "tools/list")], false),
            (vec![("mcp-method", "Tools/call")], false),
            (vec![("mcp-method", "tools/call"), ("mcp-method", "tools/call")], false),
            (vec![("mcp-name", "other")], false),
            (vec![("mcp-name", "=?base64?!!!?=")], false),
        ] {
            assert_eq!(check_headers(&headers(&pairs), &message).is_ok(), fine, "{pairs:?}");
        }
    }

    #[test]
    fn a_name_survives_its_header() {
        for name in ["add", "two words", "größe", "=?base64?x?=", " lead", "", "tab\t", "a\nb"] {
            assert_eq!(decoded(&header_text(name)).unwrap(), name, "{name:?}");
        }
    }
}

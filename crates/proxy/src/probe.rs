//! Whether a remote MCP server is there: asked by the proxy itself, with nobody's token.
//!
//! Any HTTP answer counts: a server that wants a credential, or has a fault, can be reached. A session that
//! the question made is ended.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use skep_api::report::RemoteReason;
use skep_runtime::rng::Rng;

use crate::transport::sse::Splitter;
use crate::upstream::{Failure, Upstream};

/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;

/// Bytes of a protocol version that are sent back.
const MAX_VERSION: usize = 32;

/// Characters of an error's text that are shown.
const MAX_DETAIL: usize = 300;

/// The versions that are spoken: with sessions, and without.
const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");

/// Codes of a server that knows only the modern protocol: headers that don't fit, capabilities or a version
/// that it wants, and a method that it doesn't have.
const MODERN_ERRORS: [i64; 4] = [-32020, -32021, -32022, -32601];

/// When a remote server is probed, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeTimes {
    /// Between two probes, give or take a fifth: so that the proxies of a server don't ask all at once.
    pub interval: Duration,
    /// For an answer.
    pub timeout: Duration,
}

impl Default for ProbeTimes {
    fn default() -> Self {
        Self { interval: Duration::from_secs(60), timeout: Duration::from_secs(10) }
    }
}

impl ProbeTimes {
    /// How long to wait for the next probe: from four to six fifths of the interval.
    pub fn pause(&self, rng: &dyn Rng) -> Duration {
        let mut bytes = [0; 4];
        rng.fill(&mut bytes);
        let share = f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX);
        self.interval.mul_f64(0.8 + 0.4 * share)
    }
}

/// How a server wants to be spoken to, as far as its answers have told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Era {
    /// With `initialize`, which may make a session.
    #[default]
    Legacy,
    /// With `server/discover`.
    Modern,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) reason: RemoteReason,
    pub(crate) message: String,
    pub(crate) status: Option<u16>,
}

/// Asks the server, and says how to ask it the next time.
pub(crate) async fn probe(upstream: &Upstream, era: Era, timeout: Duration) -> (Found, Era) {
    let (headers, body) = question(era);
    let answer = tokio::time::timeout(timeout, upstream.ask(&Method::POST, headers, body)).await;
    let answer = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(failure)) => return (unreachable(&failure), era),
        Err(_) => return (timed_out(timeout), era),
    };
    let status = answer.status();
    let session = answer.headers().get(SESSION).cloned();
    // The answer is there and counts; its content is for what follows.
    let wanted = session.is_some() || (status.is_client_error() && era == Era::Legacy);
    let message = match wanted {
        true => tokio::time::timeout(timeout, message(answer)).await.ok().flatten(),
        false => None,
    };
    let message = message.unwrap_or_default();
    if let Some(session) = session {
        end(upstream, session, &message, timeout).await;
    }
    (answered(status), next_era(era, status, &message))
}

fn question(era: Era) -> (HeaderMap, Bytes) {
    let mut headers = own_headers();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    let client = json!({"name": "skep-probe", "version": env!("CARGO_PKG_VERSION")});
    let (method, params) = match era {
        Era::Legacy => {
            ("initialize", json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": client}))
        }
        Era::Modern => {
            headers.insert(VERSION, HeaderValue::from_static(MODERN));
            headers.insert(METHOD, HeaderValue::from_static("server/discover"));
            let meta = json!({
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": client,
            });
            ("server/discover", json!({"_meta": meta}))
        }
    };
    let body = json!({"jsonrpc": "2.0", "id": "skep-probe", "method": method, "params": params});
    (headers, body.to_string().into())
}

fn own_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("skep-probe/", env!("CARGO_PKG_VERSION"))));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers
}

/// The first JSON-RPC message of an answer; null when there is none in its first bytes.
async fn message(answer: Response<Incoming>) -> Option<Value> {
    let events = answer
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream"));
    let mut body = answer.into_body();
    let mut read = Vec::new();
    let mut events = events.then(|| Splitter::new(MAX_ANSWER));
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        length += data.len();
        if length > MAX_ANSWER {
            return None;
        }
        let Some(splitter) = &mut events else {
            read.extend_from_slice(&data);
            continue;
        };
        splitter.push(&data);
        while let Some(event) = splitter.next_frame().ok()? {
            let found = event.data().and_then(|data| serde_json::from_slice::<Value>(&data).ok());
            if let Some(found) = found.filter(|message| message.get("id").is_some()) {
                return Some(found);
            }
        }
    }
    serde_json::from_slice(&read).ok()
}

/// Ends a session that the question made. Whether the server knows how is its own affair.
async fn end(upstream: &Upstream, session: HeaderValue, message: &Value, timeout: Duration) {
    let mut headers = own_headers();
    headers.insert(SESSION, session);
    let agreed = message.pointer("/result/protocolVersion").and_then(Value::as_str);
    let version = agreed.filter(|version| version.len() <= MAX_VERSION).unwrap_or(LEGACY);
    if let Ok(version) = HeaderValue::from_str(version) {
        headers.insert(VERSION, version);
    }
    let _ = tokio::time::timeout(timeout, upstream.ask(&Method::DELETE, headers, Bytes::new())).await;
}

fn answered(status: StatusCode) -> Found {
    let status = status.as_u16();
    let message = format!("the remote MCP server answers with HTTP {status}");
    Found { reason: RemoteReason::Answered, message, status: Some(status) }
}

fn timed_out(timeout: Duration) -> Found {
    let message = format!("the remote MCP server did not answer within {} s", timeout.as_secs_f32());
    Found { reason: RemoteReason::TimedOut, message, status: None }
}

fn unreachable(failure: &Failure) -> Found {
    let (reason, detail) = failure.reason();
    let what = match reason {
        RemoteReason::NameNotResolved => "the host name of the remote MCP server does not resolve",
        RemoteReason::AddressRefused => "the remote MCP server has an address that may not be called",
        RemoteReason::TlsFailed => "the connection to the remote MCP server cannot be secured",
        RemoteReason::TimedOut => "the remote MCP server does not accept a connection in time",
        RemoteReason::ConnectionFailed => "no connection to the remote MCP server can be made",
        _ => "the remote MCP server closes the connection without an HTTP answer",
    };
    let detail: String = detail.chars().filter(|char| !char.is_control()).take(MAX_DETAIL).collect();
    let message = if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") };
    Found { reason, message, status: None }
}

/// A server that says that it knows no `initialize` is asked in the modern way, until it says otherwise.
fn next_era(era: Era, status: StatusCode, message: &Value) -> Era {
    let code = message.pointer("/error/code").and_then(Value::as_i64);
    let modern = code.is_some_and(|code| MODERN_ERRORS.contains(&code));
    match era {
        Era::Legacy if status.is_client_error() && modern => Era::Modern,
        Era::Modern if status.is_client_error() => Era::Legacy,
        era => era,
    }
}

#[cfg(test)]
mod tests {
    use skep_testkit::SeededRng;

    use super::*;

    #[test]
    fn pauses_differ_by_a_fifth_at_most_and_use_the_room() {
        let times = ProbeTimes::default();
        let rng = SeededRng::new(7);
        let pauses: Vec<f64> = (0..1000).map(|_| times.pause(&rng).as_secs_f64()).collect();
        assert!(pauses.iter().all(|pause| (48.0..=72.0).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause < 50.0) && pauses.iter().any(|pause| *pause > 70.0));
    }

    #[test]
    fn the_way_to_ask_follows_the_answers() {
        let error = |code: i64| json!({"jsonrpc": "2.0", "error": {"code": code, "message": "x"}});
        let (ok, bad, absent) = (StatusCode::OK, StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND);
        for (era, status, message, next) in [
            (Era::Legacy, ok, json!({"result": {}}), Era::Legacy),
            (Era::Legacy, bad, error(-32022), Era::Modern),
            (Era::Legacy, absent, error(-32601), Era::Modern),
            (Era::Legacy, bad, error(-32600), Era::Legacy),
            (Era::Legacy, StatusCode::UNAUTHORIZED, Value::Null, Era::Legacy),
            (Era::Legacy, ok, error(-32601), Era::Legacy),
            (Era::Modern, ok, Value::Null, Era::Modern),
            (Era::Modern, StatusCode::BAD_GATEWAY, Value::Null, Era::Modern),
            (Era::Modern, bad, Value::Null, Era::Legacy),
        ] {
            assert_eq!(next_era(era, status, &message), next, "{era:?} {status} {message}");
        }
    }
}

//! Asking the API server, with answers that say why there is none.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use jiff::SignedDuration;
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use skep_runtime::clock::SharedClock;
use skep_runtime::logging::chain;

use super::finding::shown;

/// Largest answer: a page of five hundred objects fits.
const LARGEST: usize = 64 << 20;
/// Largest answer of a pod.
pub(super) const LARGEST_OF_PODS: usize = 64 << 10;
/// Objects in a page.
const PAGE: usize = 500;

/// What the API server made of an object.
pub(super) struct Verdict {
    /// HTTP status.
    pub(super) code: u16,
    /// What it says about it; empty where it took the object.
    pub(super) message: String,
    /// How long it took.
    pub(super) took: std::time::Duration,
    /// What it and its webhooks warn of (header `Warning`, as it comes).
    pub(super) warnings: Vec<String>,
}

/// The API server.
pub(super) struct Cluster {
    client: Client,
    clock: SharedClock,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// These credentials are not known (401).
    #[error("the API server does not know these credentials")]
    Unknown,
    /// A right is missing (403).
    #[error("there is no right to {what}")]
    Forbidden {
        /// What was asked for.
        what: String,
    },
    /// There is no such thing (404).
    #[error("there is none")]
    Missing,
    /// Another answer.
    #[error("the API server answered {code}: {message}")]
    Other {
        /// HTTP status.
        code: u16,
        /// What it says about it.
        message: String,
    },
    /// No answer at all, or one that can't be read.
    #[error("{0}")]
    Unreachable(String),
}

/// A clock of somebody else, as an HTTP answer told it: how far it is ahead of this machine's, if it is.
pub(super) fn ahead(headers: &http::HeaderMap, clock: &SharedClock) -> Option<SignedDuration> {
    let date = headers.get(http::header::DATE)?.to_str().ok()?;
    let theirs = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()?;
    Some(theirs.duration_since(clock.now()))
}

/// An answer of the API server.
pub(super) struct Answer {
    pub(super) body: Bytes,
    /// How far its clock is ahead of ours.
    pub(super) ahead: Option<SignedDuration>,
}

impl Cluster {
    /// Asks through this client.
    pub(super) fn new(client: Client, clock: SharedClock) -> Self {
        Self { client, clock }
    }

    /// This machine's time.
    pub(super) fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// Gets an object or a list.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Refusal> {
        json(&self.get_bytes(path, LARGEST).await?.body)
    }

    /// Gets whatever is there.
    pub(super) async fn get_bytes(&self, path: &str, largest: usize) -> Result<Answer, Refusal> {
        self.send("GET", path, Vec::new(), largest).await
    }

    /// Posts an object that is not kept, and gives the answer.
    pub(super) async fn post(&self, path: &str, object: &Value) -> Result<Value, Refusal> {
        json(&self.send("POST", path, object.to_string().into_bytes(), LARGEST).await?.body)
    }

    /// Posts an object that is not kept, and gives what became of it, refused or not.
    ///
    /// # Errors
    /// When there is no answer.
    pub(super) async fn attempt(&self, path: &str, object: &Value) -> Result<Verdict, Refusal> {
        let started = self.clock.instant();
        let (parts, body) = self.exchange("POST", path, object.to_string().into_bytes(), LARGEST).await?;
        let took = self.clock.since(started);
        let said = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        let message = if parts.status.is_success() { "" } else { text(&said, "/message") };
        let warnings = parts.headers.get_all(http::header::WARNING).iter();
        let warnings = warnings.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        Ok(Verdict { code: parts.status.as_u16(), message: message.to_owned(), took, warnings })
    }

    /// All objects of a list, page by page.
    pub(super) async fn list(&self, path: &str, query: &str) -> Result<Vec<Value>, Refusal> {
        let mut found = Vec::new();
        let mut token = String::new();
        loop {
            let mut page = format!("{path}?limit={PAGE}");
            for (name, value) in [("&", query), ("&continue=", token.as_str())] {
                if !value.is_empty() {
                    page.push_str(name);
                    page.push_str(value);
                }
            }
            let mut list = self.get(&page).await?;
            if let Some(items) = list.get_mut("items").and_then(Value::as_array_mut) {
                found.append(items);
            }
            match list.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(more) if !more.is_empty() => {
                    token = url::form_urlencoded::byte_serialize(more.as_bytes()).collect();
                }
                _ => return Ok(found),
            }
        }
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Vec<u8>,
        largest: usize,
    ) -> Result<(http::response::Parts, Bytes), Refusal> {
        let unreachable = |error: &dyn std::error::Error| Refusal::Unreachable(shown(&chain(error)));
        let mut request = Request::builder().method(method).uri(path);
        if !body.is_empty() {
            request = request.header(http::header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Body::from(body)).map_err(|error| unreachable(&error))?;
        let response = self.client.send(request).await.map_err(|error| unreachable(&error))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, largest)
            .collect()
            .await
            .map_err(|error| {
                Refusal::Unreachable(format!("the answer can't be read: {}", shown(&error.to_string())))
            })?
            .to_bytes();
        Ok((parts, body))
    }

    async fn send(&self, method: &str, path: &str, body: Vec<u8>, largest: usize) -> Result<Answer, Refusal> {
        let (parts, body) = self.exchange(method, path, body, largest).await?;
        let ahead = ahead(&parts.headers, &self.clock);
        if parts.status.is_success() {
            return Ok(Answer { body, ahead });
        }
        let said = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        let message = said.get("message").and_then(Value::as_str).map(shown);
        Err(match parts.status {
            StatusCode::UNAUTHORIZED => Refusal::Unknown,
            StatusCode::FORBIDDEN => Refusal::Forbidden { what: format!("{} {path}", method.to_lowercase()) },
            StatusCode::NOT_FOUND => Refusal::Missing,
            status => Refusal::Other {
                code: status.as_u16(),
                message: message.unwrap_or_else(|| shown(&String::from_utf8_lossy(&body))),
            },
        })
    }
}

fn json(body: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(body).map_err(|_| Refusal::Unreachable("the answer is not JSON".to_owned()))
}

/// A text inside an object; empty when there is none.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_testkit::ManualClock;

    use super::*;

    #[test]
    fn the_date_of_an_answer_tells_how_far_its_clock_is_ahead() {
        // 2026-01-01T00:00:00Z.
        let clock: SharedClock = Arc::new(ManualClock::default());
        for (date, expected) in [
            ("Thu, 01 Jan 2026 00:05:00 GMT", Some(300)),
            ("Wed, 31 Dec 2025 23:59:00 GMT", Some(-60)),
            ("yesterday", None),
        ] {
            let mut headers = http::HeaderMap::new();
            headers.insert(http::header::DATE, date.parse().expect("a header value"));
            assert_eq!(ahead(&headers, &clock).map(|ahead| ahead.as_secs()), expected, "{date}");
        }
        assert_eq!(ahead(&http::HeaderMap::new(), &clock), None);
    }
}

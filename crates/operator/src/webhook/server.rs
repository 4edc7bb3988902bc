//! The HTTPS side: paths, bounds, and the body of each answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request as HttpRequest, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use skep_runtime::http::{BodyError, Ends, Handler, ResponseBody, full};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::hook::Hook;
use super::review::{Answer, Request, reason, status};
use super::reviewer::Reviewer;
use super::size::{MAX_VALUES, TooMuch, measure};
use crate::cluster::feed::chain;

/// Bytes of one review: the largest object that an API server stores (1.5 MiB), twice, and room for more.
pub const MAX_BODY: usize = 4 * 1024 * 1024;
/// How long a review may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of all reviews that are arriving or wait for their turn.
const ROOM: usize = 16 * 1024 * 1024;
/// Room is given out in pieces of so many bytes.
const PIECE: usize = 64 * 1024;
/// How long a review waits for room.
const ROOM_TIMEOUT: Duration = Duration::from_secs(2);
/// Values of all reviews that are answered at a time.
const VALUES: usize = 2 * MAX_VALUES;
/// What even the smallest review counts as, so that no more than two hundred are answered at a time.
const LEAST: usize = 1000;
/// How long a review may take when the API server does not say for how long it waits.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(9);
/// What is left of the API server's patience for the way back.
const WAY_BACK: Duration = Duration::from_millis(500);

/// Answers the requests of the API server.
///
/// Nobody has to say who he is before he sends a review, so what all of them together hold is bounded; what finds
/// no room is answered 429.
pub struct Server {
    reviewer: Arc<Reviewer>,
    /// Pieces of bytes.
    room: Arc<Semaphore>,
    /// Values.
    work: Arc<Semaphore>,
}

/// Why a request is no review.
#[derive(Debug)]
struct Refusal {
    code: StatusCode,
    message: String,
}

impl Refusal {
    fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl Server {
    /// Answers with what the reviewer says.
    pub fn new(reviewer: Arc<Reviewer>) -> Self {
        let pool = |size| Arc::new(Semaphore::new(size));
        Self { reviewer, room: pool(ROOM / PIECE), work: pool(VALUES) }
    }

    /// Answers one request. Whatever is no review gets an HTTP error with a `Status` that says why; a review that
    /// can't be decided is answered with a denial that says so.
    pub async fn answer<B>(&self, request: HttpRequest<B>) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BodyError>,
    {
        let (parts, body) = request.into_parts();
        let hook = Hook::of_path(parts.uri.path());
        let reviewed = async {
            let hook = hook.ok_or_else(|| {
                Refusal::new(StatusCode::NOT_FOUND, "nothing is reviewed at this path; the webhook configuration and this version of the webhook don't fit each other")
            })?;
            if parts.method != Method::POST {
                return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "a review is sent with POST"));
            }
            is_json(&parts.headers)?;
            let patience = patience(&parts.uri);
            let body = read(&parts.headers, body, &self.room).await?;
            let began = tokio::time::Instant::now();
            let _turn = self.turn(&body.bytes, patience).await?;
            let request = Request::parse(&body.bytes)
                .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, chain(&error)))?;
            drop(body);
            Ok(self.review(hook, request, patience.saturating_sub(began.elapsed())).await)
        };
        match reviewed.await {
            Ok(body) => json(StatusCode::OK, body),
            Err(refusal) => {
                self.reviewer.metrics.refused(hook);
                tracing::debug!(path = parts.uri.path(), code = refusal.code.as_u16(), "{}", refusal.message);
                let code = refusal.code.as_u16();
                let body = status(code, reason(code), &refusal.message);
                let mut response = json(refusal.code, serde_json::to_vec(&body).unwrap_or_default());
                if refusal.code == StatusCode::METHOD_NOT_ALLOWED {
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                }
                response
            }
        }
    }

    /// Waits until there is room for the values that a review holds.
    async fn turn(&self, body: &[u8], patience: Duration) -> Result<OwnedSemaphorePermit, Refusal> {
        let values = measure(body).map_err(|error| {
            let code = match error {
                TooMuch::Values => StatusCode::PAYLOAD_TOO_LARGE,
                TooMuch::Depth => StatusCode::BAD_REQUEST,
            };
            Refusal::new(code, error.to_string())
        })?;
        let values = u32::try_from(values.max(LEAST)).unwrap_or(u32::MAX);
        match tokio::time::timeout(patience, Arc::clone(&self.work).acquire_many_owned(values)).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(busy()),
        }
    }

    /// The body that answers a review.
    async fn review(&self, hook: Hook, request: Request, patience: Duration) -> Vec<u8> {
        let clock = Arc::clone(self.reviewer.clock());
        let began = clock.instant();
        let (uid, operation) = (request.uid.clone(), request.operation.as_str());
        // A fault of ours in one object is no reason to be silent about it.
        let reviewing = std::panic::AssertUnwindSafe(self.reviewer.review(hook, request)).catch_unwind();
        let answer = match tokio::time::timeout(patience, reviewing).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => {
                tracing::error!(hook = hook.as_str(), "a review panicked");
                Answer::failed(500, "the webhook has a fault, which its log names; nothing was decided")
            }
            Err(_) => {
                tracing::warn!(hook = hook.as_str(), ?patience, "a review took too long");
                Answer::failed(504, "the webhook could not look up in time what it needs; try again")
            }
        };
        let body = answer.to_body(&uid);
        self.reviewer.metrics.reviewed(hook, operation, answer.outcome(), clock.since(began));
        body
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server")
    }
}

impl Handler for Server {
    async fn handle(&self, request: HttpRequest<Incoming>, _ends: Ends) -> Response<ResponseBody> {
        self.answer(request).await
    }
}

fn is_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let plain = given.split(';').next().unwrap_or_default().trim();
    if plain.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a review is sent as application/json"))
}

fn busy() -> Refusal {
    tracing::warn!("a review was refused: too many at a time");
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many reviews are sent at a time; try again")
}

/// A body, and the room that it takes.
struct Arrived {
    bytes: Vec<u8>,
    room: Vec<OwnedSemaphorePermit>,
}

impl Arrived {
    async fn take(&mut self, more: &Bytes, room: &Arc<Semaphore>) -> Result<(), Refusal> {
        while self.bytes.len() + more.len() > self.room.len() * PIECE {
            match tokio::time::timeout(ROOM_TIMEOUT, Arc::clone(room).acquire_owned()).await {
                Ok(Ok(piece)) => self.room.push(piece),
                _ => return Err(busy()),
            }
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }
}

async fn read<B>(headers: &HeaderMap, body: B, room: &Arc<Semaphore>) -> Result<Arrived, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    let too_large =
        || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a review has at most {MAX_BODY} bytes"));
    let said = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    let arriving = async {
        let mut arrived = Arrived { bytes: Vec::new(), room: Vec::new() };
        let mut body = Box::pin(Limited::new(body, MAX_BODY));
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        arrived.take(&data, room).await?;
                    }
                }
                Err(error) if error.is::<LengthLimitError>() => return Err(too_large()),
                Err(_) => {
                    return Err(Refusal::new(StatusCode::BAD_REQUEST, "the body did not arrive whole"));
                }
            }
        }
        Ok(arrived)
    };
    match tokio::time::timeout(BODY_TIMEOUT, arriving).await {
        Ok(arrived) => arrived,
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    }
}

/// How long the API server waits, by the query that it adds (`?timeout=10s`), less the way back.
fn patience(uri: &Uri) -> Duration {
    let query = uri.query().unwrap_or_default();
    let said = query.split('&').find_map(|pair| pair.strip_prefix("timeout="));
    let seconds = said.and_then(|text| text.strip_suffix('s')?.parse::<u64>().ok());
    match seconds {
        Some(seconds) => {
            Duration::from_secs(seconds).saturating_sub(WAY_BACK).clamp(WAY_BACK, Duration::from_secs(30))
        }
        None => REVIEW_TIMEOUT,
    }
}

fn json(code: StatusCode, body: Vec<u8>) -> Response<ResponseBody> {
    let mut response = Response::new(full(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_takes_no_longer_than_the_api_server_waits() {
        for (uri, millis) in [
            ("/x", 9000),
            ("/x?timeout=10s", 9500),
            ("/x?a=b&timeout=2s", 1500),
            ("/x?timeout=1s", 500),
            ("/x?timeout=0s", 500),
            ("/x?timeout=99999s", 30_000),
            ("/x?timeout=soon", 9000),
        ] {
            assert_eq!(patience(&uri.parse().unwrap()), Duration::from_millis(millis), "{uri}");
        }
    }
}

//! The pipeline: what happens to every request, in order.

mod aside;

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use futures_util::FutureExt;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, UPGRADE, USER_AGENT, VARY};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use skep_auth::challenge::ProtectedResource;
use skep_auth::error::AuthError;
use skep_runtime::clock::SharedClock;
use skep_runtime::drain::{DrainWatch, Phase};
use skep_runtime::health::Readiness;
use skep_runtime::http::{Ends, ResponseBody, boxed};
use skep_runtime::rng::SharedRng;
use tokio_util::sync::CancellationToken;

use crate::cedar::Verdict;
use crate::error::Rejection;
use crate::message::Call;
use crate::metrics::ProxyMetricsHandle;
use crate::request::{Authenticated, Authorized};
use crate::routes::{Route, Routes, served};
use crate::service::record::{Exchange, Recorded, Recorder, Recording};
use crate::stages::authenticate::{Authentication, authenticate};
use crate::stages::authorize::{Authorization, authorize};
use crate::stages::entrance::Entrance;
use crate::stages::forward::{Forward, Sender};
use crate::stages::outgoing::Presented;
use crate::stages::parse::{Bounds, parse};
use crate::stages::tool_calls;
use crate::tools::ToolRules;
use crate::transport::answer::Seen;
use crate::upstream::Upstream;

/// The protocol versions that exist.
const VERSIONS: [&str; 5] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", MODERN];
const MODERN: &str = "2026-07-28";

/// Header that names the protocol version.
const PROTOCOL_VERSION: &str = "mcp-protocol-version";

/// One version of the configuration, made ready. Requests that began under it end under it.
#[derive(Debug)]
pub struct Pipeline {
    pub(crate) routes: Routes,
    pub(crate) entrance: Entrance,
    pub(crate) doors: Doors,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) metrics: ProxyMetricsHandle,
    pub(crate) readiness: Readiness,
    pub(crate) drain: DrainWatch,
    pub(crate) trust_proxy_headers: bool,
    pub(crate) strict_versions: bool,
    pub(crate) stateless: bool,
    pub(crate) metrics_on_transport_port: bool,
    pub(crate) clock: SharedClock,
    pub(crate) rng: SharedRng,
    pub(crate) backend_up: Arc<Mutex<Option<bool>>>,
}

/// Whether calls are let through at all.
#[derive(Debug)]
pub(crate) enum Doors {
    /// They are, as far as the stages say.
    Open(Box<Stages>),
    /// No call is, and there is nothing that could let one through. Clients are still told where tokens come
    /// from, if that is known.
    Suspended(Option<ProtectedResource>),
}

/// What a call has to pass.
#[derive(Debug)]
pub(crate) struct Stages {
    pub(crate) authentication: Authentication,
    pub(crate) bounds: Bounds,
    pub(crate) tools: Arc<ToolRules>,
    pub(crate) authorization: Option<Authorization>,
    pub(crate) forward: Forward,
    pub(crate) streams: Arc<AtomicUsize>,
    pub(crate) max_streams: usize,
    /// Somebody else's server, which is probed.
    pub(crate) remote: bool,
    /// Cancelled when the doors are closed: what is under way ends.
    pub(crate) closing: CancellationToken,
}

/// A fault of ours in one request is that request's alone: its caller gets an answer, it is recorded,
/// and the connection's other requests go on.
async fn recovered<T>(work: impl Future<Output = Result<T, Rejection>>) -> Result<T, Rejection> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("a request crashed; this is a fault of the proxy, please report it");
        Err(Rejection::Crashed)
    })
}

impl Pipeline {
    /// Answers one request.
    pub async fn handle(&self, request: Request<Incoming>, ends: Ends) -> Response<ResponseBody> {
        // 1. Connection and header limits have been kept by the listener.
        // 2. The request gets an id of ours and a start time.
        let exchange = self.begin(&request, ends);
        let route = self.routes.route(request.uri().path());
        // Health is asked by kubelet and load balancers, which know no Host and no token.
        if let Some(answer) = self.health(route, &request) {
            return answer;
        }
        let cors = self.entrance.cors_origin(request.headers());
        // 3. Audit is the outermost of the decisions: whatever comes out of `decide` is recorded.
        // A caller who hangs up before there is an answer is recorded as well: what they asked for may
        // have been done.
        let mut recording = self.recorder.recording(exchange);
        let decided = recovered(self.decide(request, ends.local.ip(), route, &mut recording)).await;
        let mut response = match decided {
            Ok(response) => response,
            Err(rejection) => {
                recording.recorded.rejected(&rejection);
                rejection.into_response()
            }
        };
        self.add_headers(response.headers_mut(), cors, &recording.exchange);
        // 15b. The record is written when the last byte of the answer has left, or nobody wants it.
        recording.answered(response.status());
        response.map(|body| boxed(recording.around(body)))
    }

    /// The stages, in the order that makes them safe: who, then what, then whether, then with which
    /// credential.
    async fn decide(
        &self,
        request: Request<Incoming>,
        local: IpAddr,
        route: Route,
        recording: &mut Recording,
    ) -> Result<Response<ResponseBody>, Rejection> {
        // No stage is asked while the proxy is suspended, and what is under way ends when it becomes so.
        let stages = match &self.doors {
            Doors::Suspended(_) if route == Route::Mcp && request.method() != Method::OPTIONS => {
                return Err(Rejection::Suspended);
            }
            Doors::Suspended(_) => None,
            Doors::Open(stages) => Some(stages),
        };
        // 4. Host and Origin: a page in a browser must not reach a server behind its user's back.
        self.entrance.check(request.headers(), request.uri(), Some(local))?;
        match route {
            Route::Mcp => {}
            Route::ResourceMetadata => return self.resource_metadata(&request),
            _ => return Err(Rejection::NotFound),
        }
        self.check_method(&request)?;
        if request.method() == Method::OPTIONS {
            return Ok(aside::preflight());
        }
        let stages = stages.ok_or(Rejection::Suspended)?;
        tokio::select! {
            biased;
            () = stages.closing.cancelled() => Err(Rejection::Suspended),
            answer = self.pass(stages, request, recording) => answer,
        }
    }

    async fn pass(
        &self,
        stages: &Stages,
        request: Request<Incoming>,
        recording: &mut Recording,
    ) -> Result<Response<ResponseBody>, Rejection> {
        let Recording { exchange, recorded: record, .. } = recording;
        let Stages { authentication, tools, forward, .. } = stages;
        let (head, body) = request.into_parts();
        // 5. Who is calling: before a byte of the body is read.
        let caller = authenticate(authentication, head, exchange.source, &self.metrics).await?;
        record.caller(&caller);
        // 6. The body is read once, strictly. What is judged from here on is what is sent.
        let parsed = parse(caller, body, stages.bounds).await?;
        record.message(parsed.message());
        // 8. Hidden tools don't exist; renamed ones get the backend's name.
        let parsed = tool_calls::filter(parsed, tools)?;
        record.message(parsed.message());
        // 12. May they? Before any credential is made.
        let mut verdict: Option<Verdict> = None;
        let authorized = authorize(parsed, stages.authorization.as_ref(), tools, &mut verdict);
        record.verdict(verdict);
        let authorized = authorized.map_err(|rejection| with_challenge(rejection, authentication))?;
        self.know_tool(&authorized, forward);
        let stream = stages.take_stream(authorized.id())?;
        // 14. The backend's credential. Nobody gets here who may not call.
        let presented = Presented::of(&authorized);
        let minted = forward.outgoing.credential(&presented, authentication).await?;
        record.credential(&minted);
        record.reached_backend();
        // 15. The call itself, and what of the answer they may see.
        let from = Sender { source: &exchange.source.to_string(), request_id: &exchange.request_id };
        let renewed = OnceLock::new();
        let remint = async || {
            let another = forward.outgoing.credential(&presented, authentication).await?;
            Ok(renewed.get_or_init(|| another).clone())
        };
        let answer = forward.forward(authorized, minted, remint, from, &record.seen).await;
        if let Some(renewed) = renewed.get() {
            record.credential(renewed);
        }
        self.note_backend(answer.as_ref().map(|_| ()));
        let answer = answer?;
        record.streamed(answer.streamed);
        record.hold(stream.counting(answer.streamed.then(|| self.metrics.clone())));
        Ok(answer.response)
    }

    /// The way to a remote server that is to be probed; none where there is no such server, or nobody may
    /// call it.
    pub(crate) fn probed(&self) -> Option<&Upstream> {
        match &self.doors {
            Doors::Open(stages) if stages.remote => Some(&stages.forward.upstream),
            _ => None,
        }
    }

    fn begin(&self, request: &Request<Incoming>, ends: Ends) -> Exchange {
        let agent = request.headers().get(USER_AGENT).and_then(|value| value.to_str().ok());
        Exchange {
            started: self.clock.instant(),
            request_id: self.rng.uuid().to_string(),
            source: self.source(request.headers(), ends),
            user_agent: agent.map(|agent| agent.chars().take(256).collect()),
            http_method: method_name(request.method()),
            path: request.uri().path().chars().take(256).collect(),
        }
    }

    /// The client's address: the connection's, or what the trusted hop in front of us appended.
    fn source(&self, headers: &HeaderMap, ends: Ends) -> IpAddr {
        let forwarded = || {
            let value = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
            let last = value.rsplit(',').next()?.trim();
            // Some load balancers write the port as well.
            let with_port = || last.parse::<SocketAddr>().ok().map(|address| address.ip());
            last.parse::<IpAddr>().ok().or_else(with_port)
        };
        let trusted = if self.trust_proxy_headers { forwarded() } else { None };
        trusted.unwrap_or(ends.peer.ip())
    }

    fn check_method(&self, request: &Request<Incoming>) -> Result<(), Rejection> {
        if self.drain.phase() >= Phase::Draining {
            return Err(Rejection::Draining);
        }
        let method = request.method();
        let headers = request.headers();
        let version = headers.get(PROTOCOL_VERSION).map(HeaderValue::as_bytes);
        let modern = version == Some(MODERN.as_bytes());
        if *method != Method::OPTIONS && !served(method) {
            return Err(Rejection::Method { allow: "GET, POST, DELETE, OPTIONS" });
        }
        if matches!(*method, Method::GET | Method::DELETE) && (self.stateless || modern) {
            return Err(Rejection::Method { allow: "POST, OPTIONS" });
        }
        if headers.contains_key(UPGRADE) {
            return Err(Rejection::BadRequest { reason: "protocol upgrades are not supported" });
        }
        let known = |bytes: &[u8]| VERSIONS.iter().any(|version| version.as_bytes() == bytes);
        let mut versions = headers.get_all(PROTOCOL_VERSION).iter();
        if self.strict_versions && versions.any(|version| !known(version.as_bytes())) {
            return Err(Rejection::BadRequest { reason: "Unsupported MCP-Protocol-Version" });
        }
        Ok(())
    }

    fn add_headers(&self, headers: &mut HeaderMap, cors: Option<HeaderValue>, exchange: &Exchange) {
        if let Ok(id) = HeaderValue::from_str(&exchange.request_id) {
            headers.insert(crate::upstream::headers::REQUEST_ID, id);
        }
        let Some(origin) = cors else { return };
        if headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(VARY, HeaderValue::from_static("Origin"));
        let exposed = HeaderValue::from_static("Mcp-Session-Id, WWW-Authenticate, MCP-Protocol-Version");
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }

    /// A tool that a list has shown may be a metric label; what clients make up may not.
    fn know_tool(&self, request: &Authorized, forward: &Forward) {
        if let Some(Call::Tool { name, .. }) = request.message().map(|message| &message.call)
            && forward.annotations.knows(name)
        {
            self.metrics.know_tool(name);
        }
    }

    fn note_backend(&self, outcome: Result<(), &Rejection>) {
        let up = match outcome {
            Ok(()) => true,
            Err(Rejection::Backend { source, .. }) => source.status() == StatusCode::BAD_GATEWAY,
            Err(_) => return,
        };
        if let Ok(mut known) = self.backend_up.lock() {
            *known = Some(up);
        }
    }
}

/// Says where a token with the scope that is missing can be had.
fn with_challenge(rejection: Rejection, authentication: &Authentication) -> Rejection {
    match (rejection, authentication) {
        (Rejection::ScopeMissing { required, id, .. }, Authentication::Token { resource, .. }) => {
            let error = AuthError::InsufficientScope { required: required.to_string() };
            let challenge = Some(Box::new(resource.challenge(&error)));
            Rejection::ScopeMissing { required, challenge, id }
        }
        (rejection, _) => rejection,
    }
}

impl Stages {
    fn take_stream(&self, id: Option<crate::message::Id>) -> Result<StreamGuard, Rejection> {
        if self.streams.fetch_add(1, Ordering::AcqRel) >= self.max_streams {
            self.streams.fetch_sub(1, Ordering::AcqRel);
            return Err(Rejection::TooManyStreams { id });
        }
        Ok(StreamGuard { streams: Arc::clone(&self.streams), metrics: None })
    }
}

/// A place among the answers that are under way.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    streams: Arc<AtomicUsize>,
    metrics: Option<ProxyMetricsHandle>,
}

impl StreamGuard {
    fn counting(mut self, metrics: Option<ProxyMetricsHandle>) -> Self {
        if let Some(metrics) = &metrics {
            metrics.stream(true);
        }
        self.metrics = metrics;
        self
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::AcqRel);
        if let Some(metrics) = &self.metrics {
            metrics.stream(false);
        }
    }
}

impl Recorded {
    fn caller(&mut self, caller: &Authenticated) {
        self.identity = caller.caller().identity().cloned();
    }
}

/// When the first byte came; kept here so that every file that measures uses one type.
pub(crate) type Started = Instant;

/// What a response body has shown so far.
pub(crate) fn unseen() -> Arc<Mutex<Seen>> {
    Arc::default()
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_crash_is_an_answer() {
        let crashed = recovered::<()>(async { panic!("as a test wants it") }).await.unwrap_err();
        let response = crashed.into_response();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "Internal Server Error");
        assert_eq!(recovered(async { Ok(7) }).await.unwrap(), 7);
    }
}

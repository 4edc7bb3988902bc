//! The diagnostics listener (port 9464): metrics, liveness, readiness and status. It holds no secrets
//! and asks for no identity; deployments keep it inside the cluster.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, header};
use serde_json::Value;

use crate::drain::DrainWatch;
use crate::health::Readiness;
use crate::http::{Ends, Handler, ResponseBody, full};
use crate::metrics::{CONTENT_TYPE, Metrics};

/// Port that ToolHive's dashboards scrape.
pub const DEFAULT_PORT: u16 = 9464;

/// Produces the body of `/status`.
pub type StatusSource = Arc<dyn Fn() -> Value + Send + Sync>;

/// Answers `/metrics`, `/healthz`, `/readyz` and `/status`.
pub struct Diagnostics {
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// What `/readyz` says.
    pub readiness: Readiness,
    /// What `/status` says.
    pub status: StatusSource,
    /// A process that leaves is not ready.
    pub drain: DrainWatch,
}

impl Handler for Diagnostics {
    async fn handle(&self, request: Request<Incoming>, _ends: Ends) -> Response<ResponseBody> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is served here\n");
        }
        match request.uri().path() {
            "/metrics" => text(StatusCode::OK, CONTENT_TYPE, self.metrics.encode()),
            "/healthz" => text(StatusCode::OK, "text/plain", "ok\n"),
            "/readyz" => readyz(&self.readiness, &self.drain),
            "/status" => text(StatusCode::OK, "application/json", (self.status)().to_string()),
            _ => text(
                StatusCode::NOT_FOUND,
                "text/plain",
                "not found; served here: /metrics, /healthz, /readyz, /status\n",
            ),
        }
    }
}

/// Answers `/healthz` and `/readyz` alone: for a port that everybody may reach, where metrics are not for everybody.
pub struct Probes {
    /// What `/readyz` says.
    pub readiness: Readiness,
    /// A process that leaves is not ready.
    pub drain: DrainWatch,
}

impl Handler for Probes {
    async fn handle(&self, request: Request<Incoming>, _ends: Ends) -> Response<ResponseBody> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is served here\n");
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "text/plain", "ok\n"),
            "/readyz" => readyz(&self.readiness, &self.drain),
            _ => text(StatusCode::NOT_FOUND, "text/plain", "not found; served here: /healthz, /readyz\n"),
        }
    }
}

/// Answer to `/readyz`: 200 or 503, with the reasons as JSON.
pub fn readyz(readiness: &Readiness, drain: &DrainWatch) -> Response<ResponseBody> {
    let report = readiness.report(drain);
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    text(status, "application/json", serde_json::to_string(&report).unwrap_or_default())
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<bytes::Bytes>) -> Response<ResponseBody> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

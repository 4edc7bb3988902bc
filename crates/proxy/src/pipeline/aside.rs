//! What is answered beside the pipeline: health, metadata, preflights. Nothing here is a call.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, CONTENT_TYPE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use skep_runtime::diagnostics::readyz;
use skep_runtime::http::{ResponseBody, empty, full};

use super::{Doors, Pipeline};
use crate::error::Rejection;
use crate::routes::Route;

impl Pipeline {
    pub(super) fn health(&self, route: Route, request: &Request<Incoming>) -> Option<Response<ResponseBody>> {
        if !matches!(route, Route::Health | Route::Healthz | Route::Readyz | Route::Metrics) {
            return None;
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return Some(Rejection::Method { allow: "GET" }.into_response());
        }
        Some(match route {
            Route::Health => json_answer(self.health_report().to_string()),
            Route::Healthz => text_answer(StatusCode::OK, "ok\n"),
            Route::Readyz => readyz(&self.readiness, &self.drain),
            _ if self.metrics_on_transport_port => {
                let mut response = Response::new(full(self.recorder.metrics_text()));
                let kind = HeaderValue::from_static(skep_runtime::metrics::CONTENT_TYPE);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            _ => text_answer(
                StatusCode::NOT_FOUND,
                "metrics are served on the diagnostics port (9464 unless configured), not on this one\n",
            ),
        })
    }

    /// `/health` in ToolHive's shape. The backend is as it was at the last call.
    fn health_report(&self) -> serde_json::Value {
        let up = self.backend_up.lock().ok().and_then(|up| *up);
        json!({
            "status": if up == Some(false) { "degraded" } else { "healthy" },
            "timestamp": self.clock.now().to_string(),
            "transport": "streamable-http",
            "mcp": { "available": up != Some(false) },
        })
    }

    pub(super) fn resource_metadata(
        &self,
        request: &Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Rejection> {
        let allow_any = |mut response: Response<ResponseBody>| {
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, OPTIONS"));
            let names = HeaderValue::from_static("mcp-protocol-version, Content-Type, Authorization");
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
            response
        };
        match *request.method() {
            Method::OPTIONS => {
                let mut response = Response::new(empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                return Ok(allow_any(response));
            }
            Method::GET | Method::HEAD => {}
            _ => return Err(Rejection::Method { allow: "GET, OPTIONS" }),
        }
        let resource = match &self.doors {
            Doors::Open(stages) => stages.authentication.resource().ok_or(Rejection::NotFound)?,
            Doors::Suspended(resource) => resource.as_ref().ok_or(Rejection::Suspended)?,
        };
        let metadata = resource.metadata().ok_or(Rejection::NotFound)?;
        Ok(allow_any(json_answer(metadata.to_string())))
    }
}

/// The answer to a browser that asks whether it may call.
pub(super) fn preflight() -> Response<ResponseBody> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE, OPTIONS"));
    let names = "Authorization, Content-Type, Accept, Mcp-Session-Id, MCP-Protocol-Version, Mcp-Method, Mcp-Name, Last-Event-ID";
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

fn json_answer(body: String) -> Response<ResponseBody> {
    let mut response = Response::new(full(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text_answer(status: StatusCode, body: &'static str) -> Response<ResponseBody> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

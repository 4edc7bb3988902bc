//! Health checks over HTTP.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use skep_runtime::drain::DrainWatch;
use skep_runtime::http::{Ends, Handler, HttpLimits, Load, ResponseBody, bind, empty, full, serve};
use tokio::net::TcpListener;

use super::config::HealthSettings;
use super::error::HelperError;
use super::status::Status;

/// A listener that is bound and not served yet.
#[derive(Debug)]
pub(super) struct HealthListener {
    listener: TcpListener,
    settings: HealthSettings,
}

impl HealthListener {
    /// Binds the port on all addresses of the pod.
    ///
    /// # Errors
    /// When the port is taken.
    pub(super) fn bind(settings: &HealthSettings) -> Result<Self, HelperError> {
        let port = settings.port;
        let listener = bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
        let listener = listener.map_err(|source| HelperError::Listen { port, source })?;
        Ok(Self { listener, settings: settings.clone() })
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Answers until the drain stops.
    pub(super) async fn serve(self, status: Arc<Status>, drain: DrainWatch) {
        let limits = HttpLimits { connections: 64, ..HttpLimits::default() };
        let handler = Arc::new(Checks { settings: self.settings, status });
        serve(self.listener, handler, limits, drain, Load::default()).await;
    }
}

struct Checks {
    settings: HealthSettings,
    status: Arc<Status>,
}

impl Handler for Checks {
    async fn handle(&self, request: Request<Incoming>, _ends: Ends) -> Response<ResponseBody> {
        let path = request.uri().path();
        let healthy = if path == self.settings.liveness_path {
            self.status.is_live()
        } else if path == self.settings.readiness_path {
            self.status.is_ready()
        } else {
            return bare(StatusCode::NOT_FOUND);
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = bare(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let mut response = Response::new(full(self.status.report().to_string()));
        *response.status_mut() = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

fn bare(status: StatusCode) -> Response<ResponseBody> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

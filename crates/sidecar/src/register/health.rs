//! What kubelet asks: the same as of any process, and whether the server's start still has to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use skep_runtime::clock::SharedClock;
use skep_runtime::diagnostics::{Diagnostics, StatusSource};
use skep_runtime::drain::DrainWatch;
use skep_runtime::health::Readiness;
use skep_runtime::http::{Ends, Handler, HttpLimits, Load, ResponseBody, full, serve};
use skep_runtime::metrics::Metrics;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How long the server's start waits for the registration. A server without credentials is better than none: it
/// may not need them yet, and they come when they come.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whether the server's start still has to wait. Once it has not, it never has again.
#[derive(Debug)]
pub(super) struct Startup {
    clock: SharedClock,
    begun: Instant,
    over: AtomicBool,
}

impl Startup {
    /// The process starts now.
    pub(super) fn new(clock: SharedClock) -> Arc<Self> {
        let begun = clock.instant();
        Arc::new(Self { clock, begun, over: AtomicBool::new(false) })
    }

    /// There is nothing to wait for any more.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
            || self.clock.instant().saturating_duration_since(self.begun) >= PATIENCE
    }
}

/// Serves `/startupz`, and what all processes serve, until the returned task is ended.
pub(super) fn listen(
    listener: TcpListener,
    startup: Arc<Startup>,
    readiness: Readiness,
    status: StatusSource,
    drain: DrainWatch,
) -> JoinHandle<()> {
    let diagnostics = Diagnostics { metrics: Metrics::new(), readiness, status, drain: drain.clone() };
    let handler = Arc::new(Health { diagnostics, startup });
    tokio::spawn(serve(listener, handler, HttpLimits::default(), drain, Load::default()))
}

struct Health {
    diagnostics: Diagnostics,
    startup: Arc<Startup>,
}

impl Handler for Health {
    async fn handle(&self, request: Request<Incoming>, ends: Ends) -> Response<ResponseBody> {
        let asked = matches!(*request.method(), Method::GET | Method::HEAD);
        if request.uri().path() != "/startupz" || !asked {
            return self.diagnostics.handle(request, ends).await;
        }
        let (status, text) = if self.startup.is_over() {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "the client is not registered yet; /readyz says why\n")
        };
        let mut response = Response::new(full(text));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

#[cfg(test)]
mod tests {
    use skep_testkit::ManualClock;

    use super::*;

    #[test]
    fn a_servers_start_waits_two_minutes_and_no_longer() {
        let clock = ManualClock::default();
        let startup = Startup::new(Arc::new(clock.clone()));
        clock.advance(Duration::from_secs(119));
        assert!(!startup.is_over());
        clock.advance(Duration::from_secs(1));
        assert!(startup.is_over());
        let startup = Startup::new(Arc::new(clock));
        assert!(!startup.is_over());
        startup.end();
        assert!(startup.is_over());
    }
}

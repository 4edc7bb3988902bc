//! The same server over TLS.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Ends, Handler, HttpLimits, Load, accept_all, connection};
use crate::drain::{DrainWatch, Phase};
use crate::logging::chain;
use crate::metrics::Metrics;

/// How a listener speaks TLS. Clones count together.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    handshake_timeout: Duration,
    failed: Counter,
}

impl Tls {
    /// With these settings, for instance of [`crate::tls::ServingCertificate::server_config`]. A handshake may
    /// take five seconds.
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self {
            acceptor: TlsAcceptor::from(config),
            handshake_timeout: Duration::from_secs(5),
            failed: Counter::default(),
        }
    }

    /// The same with another bound of a handshake.
    #[must_use]
    pub fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Registers `PREFIX_tls_handshake_failures_total`.
    pub fn register(&self, registry: &Metrics, prefix: &str) {
        registry.register(
            &format!("{prefix}_tls_handshake_failures"),
            "Connections that ended before there was a TLS session",
            self.failed.clone(),
        );
    }

    /// Connections that ended before there was a session.
    pub fn failures(&self) -> u64 {
        self.failed.get()
    }

    /// A session with the client, or nothing: a client that can't agree with us is its own business, so that is
    /// no warning.
    async fn handshake(&self, stream: TcpStream, ends: Ends) -> Option<TlsStream<TcpStream>> {
        let reason = match tokio::time::timeout(self.handshake_timeout, self.acceptor.accept(stream)).await {
            Ok(Ok(session)) => return Some(session),
            Ok(Err(error)) => chain(&error),
            Err(_) => "it took too long".to_owned(),
        };
        self.failed.inc();
        tracing::debug!(peer = %ends.peer, error = reason, "a TLS handshake failed");
        None
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("handshake_timeout", &self.handshake_timeout)
            .field("failures", &self.failures())
            .finish_non_exhaustive()
    }
}

/// What [`serve`](super::serve) does, over TLS. A connection counts towards `limits` and `load` from when it was
/// accepted, handshake included.
pub async fn serve_tls<H: Handler>(
    listener: TcpListener,
    tls: Tls,
    handler: Arc<H>,
    limits: HttpLimits,
    drain: DrainWatch,
    load: Load,
) {
    let watch = drain.clone();
    let run = move |stream, ends| {
        let (tls, handler, drain) = (tls.clone(), Arc::clone(&handler), watch.clone());
        async move {
            let mut stopped = drain.clone();
            let session = tokio::select! {
                session = tls.handshake(stream, ends) => session,
                () = stopped.reached(Phase::Stopped) => None,
            };
            if let Some(session) = session {
                connection::run(session, ends, handler, limits, drain).await;
            }
        }
    };
    accept_all(listener, limits, drain, load, run).await;
}

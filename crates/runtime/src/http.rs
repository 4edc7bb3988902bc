//! The HTTP/1.1 server under every listener: limits, timeouts, keep-alive and drain.

mod connection;
mod tls;

use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

pub use self::tls::{Tls, serve_tls};
use crate::drain::{DrainWatch, Phase};

/// Error type of response bodies.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The one response body type.
pub type ResponseBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BodyError>;

/// A body that is already there.
pub fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    http_body_util::Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A body without bytes.
pub fn empty() -> ResponseBody {
    full(Bytes::new())
}

/// Bounds of one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Bytes of request line and headers; more is answered 431.
    pub header_bytes: usize,
    /// Number of headers; more is answered 431.
    pub headers: usize,
    /// From the first byte of a request until its headers are complete; more is answered 408.
    pub header_timeout: Duration,
    /// A connection on which nothing is asked for this long is closed.
    pub idle_timeout: Duration,
    /// Connections at a time; further ones wait to be accepted.
    pub connections: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            header_bytes: 32 * 1024,
            headers: 100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            connections: 10_000,
        }
    }
}

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The client, or the proxy in front of it.
    pub peer: SocketAddr,
    /// The address of this machine that the client reached.
    pub local: SocketAddr,
}

/// Answers the requests of a listener.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request that came over the connection between `ends`.
    fn handle(
        &self,
        request: Request<Incoming>,
        ends: Ends,
    ) -> impl Future<Output = Response<ResponseBody>> + Send;
}

impl<F, R> Handler for F
where
    F: Fn(Request<Incoming>, Ends) -> R + Send + Sync + 'static,
    R: Future<Output = Response<ResponseBody>> + Send,
{
    async fn handle(&self, request: Request<Incoming>, ends: Ends) -> Response<ResponseBody> {
        self(request, ends).await
    }
}

/// Binds a listening socket with `SO_REUSEADDR`, so that a restart does not wait for old connections. Where there is
/// no IPv6, `[::]` means all IPv4 addresses.
///
/// # Errors
/// What the operating system says, for example that the port is taken.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    match bind_to(address) {
        Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => {
            bind_to(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
        }
        result => result,
    }
}

fn bind_to(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Counts what runs on a listener.
#[derive(Debug, Clone, Default)]
pub struct Load {
    inner: Arc<LoadInner>,
}

#[derive(Debug, Default)]
struct LoadInner {
    connections: AtomicUsize,
    changed: Notify,
}

impl Load {
    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::Acquire)
    }

    /// Waits until no connection is open.
    pub async fn idle(&self) {
        loop {
            let changed = self.inner.changed.notified();
            if self.connections() == 0 {
                return;
            }
            changed.await;
        }
    }

    fn enter(&self) -> LoadGuard {
        self.inner.connections.fetch_add(1, Ordering::AcqRel);
        LoadGuard(self.clone())
    }
}

struct LoadGuard(Load);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.inner.connections.fetch_sub(1, Ordering::AcqRel);
        self.0.inner.changed.notify_waiters();
    }
}

/// Accepts connections until the service drains, and answers them with `handler`. Returns once the
/// listener is closed and every connection has ended or was cut off ([`Phase::Stopped`]).
pub async fn serve<H: Handler>(
    listener: TcpListener,
    handler: Arc<H>,
    limits: HttpLimits,
    drain: DrainWatch,
    load: Load,
) {
    let watch = drain.clone();
    let run = move |stream, ends| connection::run(stream, ends, Arc::clone(&handler), limits, watch.clone());
    accept_all(listener, limits, drain, load, run).await;
}

/// Runs `run` for each connection until the service drains, then waits for all of them.
async fn accept_all<R>(
    listener: TcpListener,
    limits: HttpLimits,
    drain: DrainWatch,
    load: Load,
    run: impl Fn(TcpStream, Ends) -> R,
) where
    R: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(limits.connections));
    let mut draining = drain.clone();
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => permit,
            () = draining.reached(Phase::Draining) => break,
        };
        let (stream, peer) = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = draining.reached(Phase::Draining) => break,
        };
        // One that is gone already.
        let Ok(local) = stream.local_addr() else { continue };
        let guard = load.enter();
        let connection = run(stream, Ends { peer, local });
        tokio::spawn(async move {
            connection.await;
            drop(guard);
            drop(permit);
        });
    }
    drop(listener);
    let mut stopped = drain.clone();
    tokio::select! {
        () = load.idle() => {}
        () = stopped.reached(Phase::Stopped) => {}
    }
}

/// Accepts one connection; errors of single connections and of a full file table are waited out.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Streams of small events must not wait for more bytes.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) => {
                tracing::warn!(error = %error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Makes any response body into a [`ResponseBody`].
pub fn boxed<B>(body: B) -> ResponseBody
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    body.map_err(Into::into).boxed_unsync()
}

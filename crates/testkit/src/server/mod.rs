//! An HTTP/1.1 server that does exactly what a script says, byte by byte.
//!
//! It is written by hand, not on hyper, so that it can also do what a correct server never would:
//! stop in mid-header, reset a connection, send two lengths.

mod connection;
mod reply;
mod stream;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

pub use reply::{Framing, Gate, Reply, Step};

use crate::tls::Tls;
use stream::Stream;

/// Any free port.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What decides the answer to a request.
pub type Handler = Arc<dyn Fn(&Recorded) -> Reply + Send + Sync>;

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Method as sent.
    pub method: String,
    /// Request target as sent, with the query.
    pub target: String,
    /// Header fields in their order and spelling; bytes that are no UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// Body without its transfer coding.
    pub body: Vec<u8>,
    /// Which connection it came on, counted from 1.
    pub connection: u64,
    /// The certificate that the client showed in the TLS handshake, DER.
    pub client_certificate: Option<Vec<u8>>,
}

impl Recorded {
    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The first value of a header field, by any spelling of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Every value of a header field, by any spelling of its name.
    pub fn header_all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The fields of a body of the type application/x-www-form-urlencoded, in their order.
    pub fn form(&self) -> Vec<(String, String)> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }

    /// The first value of a form field; empty when there is none.
    pub fn form_field(&self, name: &str) -> String {
        self.form().into_iter().find(|(n, _)| n == name).map(|(_, v)| v).unwrap_or_default()
    }

    /// The JSON-RPC method of the body; empty when there is none.
    pub fn rpc_method(&self) -> String {
        self.json().get("method").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// The JSON-RPC id of the body; null when there is none.
    pub fn rpc_id(&self) -> Value {
        self.json().get("id").cloned().unwrap_or(Value::Null)
    }
}

/// A running scripted server.
pub struct ScriptedServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: tokio::sync::Mutex<Option<Running>>,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

pub(crate) struct Shared {
    tls: Option<Tls>,
    handler: Mutex<Handler>,
    requests: Mutex<Vec<Recorded>>,
    received: watch::Sender<usize>,
    aborted: watch::Sender<usize>,
    connections: AtomicU64,
}

impl Shared {
    fn answer(&self, request: Recorded) -> Reply {
        let handler = Arc::clone(&self.handler.lock().unwrap_or_else(PoisonError::into_inner));
        let reply = handler(&request);
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        self.received.send_modify(|n| *n += 1);
        reply
    }
}

impl ScriptedServer {
    /// Starts a server on 127.0.0.1 and a free port.
    pub async fn start(handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch(None, LOOPBACK, handler).await
    }

    /// Starts a server on this address, for a caller on another machine.
    pub async fn start_on(
        address: SocketAddr,
        handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::launch(None, address, handler).await
    }

    /// Starts one that speaks TLS.
    pub async fn start_tls(tls: &Tls, handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch(Some(tls.clone()), LOOPBACK, handler).await
    }

    async fn launch(
        tls: Option<Tls>,
        address: SocketAddr,
        handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("an address to listen on");
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared {
            tls,
            handler: Mutex::new(Arc::new(handler)),
            requests: Mutex::new(Vec::new()),
            received: watch::Sender::new(0),
            aborted: watch::Sender::new(0),
            connections: AtomicU64::new(0),
        });
        let running = spawn(listener, Arc::clone(&shared));
        Self { address, shared, running: tokio::sync::Mutex::new(Some(running)) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL on this server, for example `url("/mcp")`.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    /// Replaces the script for all requests from now on.
    pub fn set_handler(&self, handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) {
        *self.shared.handler.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(handler);
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the requests so far (the counts that `wait_for_*` look at go on).
    pub fn forget(&self) {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits until this many requests came since the start. The caller bounds the wait.
    pub async fn wait_for_requests(&self, count: usize) {
        let mut received = self.shared.received.subscribe();
        received.wait_for(|n| *n >= count).await.expect("the server lives as long as its handle");
    }

    /// Waits until this many answers were cut short because the client went away.
    pub async fn wait_for_aborts(&self, count: usize) {
        let mut aborted = self.shared.aborted.subscribe();
        aborted.wait_for(|n| *n >= count).await.expect("the server lives as long as its handle");
    }

    /// Closes the port and every connection: from now on connections are refused.
    pub async fn down(&self) {
        let Some(mut running) = self.running.lock().await.take() else { return };
        running.stop.cancel();
        let _ = (&mut running.task).await;
    }

    /// Opens the same port again after [`down`](Self::down).
    pub async fn up(&self) {
        let mut running = self.running.lock().await;
        if running.is_none() {
            let listener = TcpListener::bind(self.address).await.expect("bind to the same port again");
            *running = Some(spawn(listener, Arc::clone(&self.shared)));
        }
    }
}

fn spawn(listener: TcpListener, shared: Arc<Shared>) -> Running {
    let stop = CancellationToken::new();
    let task = tokio::spawn(accept(listener, shared, stop.clone()));
    Running { stop, task }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    // Dropping the set at the end closes every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return connections.shutdown().await,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    // A handshake that fails is the client's to report.
                    if let Some(stream) = Stream::accept(stream, shared.tls.as_ref()).await {
                        connection::serve(stream, shared, number).await;
                    }
                });
            }
        }
    }
}

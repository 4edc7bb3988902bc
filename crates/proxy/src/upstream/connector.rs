//! Connections to the MCP server, to addresses that may be called only. Names are judged by what they
//! resolve to, and the connection goes to exactly the address that was judged.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use skep_api::address::{AddressRefused, Egress, Reach, permit};
use skep_auth::client::resolve;
use tokio::net::TcpStream;
use tower::Service;
use url::{Host, Url};

/// Why no connection can ever be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    #[error("the URL of the MCP server may not be called")]
    Address(#[source] AddressRefused),
    #[error("the system's CA certificates cannot be loaded")]
    Roots(#[source] std::io::Error),
}

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("the name resolves to addresses that may not be called")]
    Refused(#[source] std::io::Error),
    #[error("the name does not resolve")]
    Lookup(#[source] std::io::Error),
}

/// Makes connections.
#[derive(Clone)]
pub(crate) enum GuardedConnector {
    /// To an http server: TLS is not set up at all.
    Plain(HttpConnector<GuardedResolver>),
    /// To an https server.
    Tls(HttpsConnector<HttpConnector<GuardedResolver>>),
}

impl GuardedConnector {
    pub(crate) fn new(
        target: &Url,
        reach: Reach,
        egress: Egress,
        connect_timeout: Duration,
    ) -> Result<Self, ConnectorError> {
        let literal = match target.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        if let Some(address) = literal {
            permit(address, reach, &egress).map_err(ConnectorError::Address)?;
        }
        let mut http = HttpConnector::new_with_resolver(GuardedResolver { reach, egress: Arc::new(egress) });
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(connect_timeout));
        if target.scheme() == "http" {
            return Ok(Self::Plain(http));
        }
        let tls = rustls::ClientConfig::builder()
            .with_native_roots()
            .map_err(ConnectorError::Roots)?
            .with_no_client_auth();
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        Ok(Self::Tls(https.wrap_connector(http)))
    }
}

impl std::fmt::Debug for GuardedConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Tls(_) => "Tls",
        })
    }
}

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;
type ConnectError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for GuardedConnector {
    type Response = Stream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        match self {
            Self::Plain(http) => http.poll_ready(cx).map_err(Into::into),
            Self::Tls(https) => https.poll_ready(cx),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Self::Plain(http) => {
                let connecting = http.call(uri);
                Box::pin(async move { Ok(MaybeHttpsStream::Http(connecting.await?)) })
            }
            Self::Tls(https) => Box::pin(https.call(uri)),
        }
    }
}

/// Resolves names and keeps the addresses that may be called.
#[derive(Debug, Clone)]
pub(crate) struct GuardedResolver {
    reach: Reach,
    egress: Arc<Egress>,
}

impl Service<Name> for GuardedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let reach = self.reach;
        let egress = Arc::clone(&self.egress);
        Box::pin(async move {
            let found =
                resolve(name.as_str(), 0, reach, &egress).await.map_err(|error| match error.kind() {
                    std::io::ErrorKind::PermissionDenied => ResolveError::Refused(error),
                    _ => ResolveError::Lookup(error),
                })?;
            Ok(found.into_iter())
        })
    }
}

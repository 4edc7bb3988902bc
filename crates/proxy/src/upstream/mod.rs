//! The way to the MCP server.

mod connector;
mod fault;
mod fixed;
pub mod headers;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use skep_runtime::logging::chain;
use url::Url;

use crate::config::ProxyConfig;
use crate::error::BackendFault;
use crate::stages::outgoing::Credential;

use self::connector::GuardedConnector;
use self::fixed::FixedHeaders;

pub use self::connector::ConnectorError;
pub(crate) use self::fault::Failure;
pub use self::fixed::Version;

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// The MCP server, as the proxy reaches it.
#[derive(Debug, Clone)]
pub struct Upstream {
    client: Client<GuardedConnector, Full<Bytes>>,
    target: Url,
    fixed: Arc<FixedHeaders>,
    forward_token: bool,
    response_timeout: Duration,
}

impl Upstream {
    /// Sets up the way; nothing is connected yet.
    ///
    /// # Errors
    /// When TLS can't be set up, or the target's literal address may not be called.
    pub fn new(config: &ProxyConfig) -> Result<Self, ConnectorError> {
        let connector = GuardedConnector::new(
            &config.target,
            config.target_reach,
            config.egress.clone(),
            config.limits.connect,
        )?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(1024)
            .build(connector);
        Ok(Self {
            client,
            target: config.target.clone(),
            fixed: Arc::new(FixedHeaders::new(config.add_headers.clone())),
            forward_token: config.forward_token,
            response_timeout: config.limits.response,
        })
    }

    /// The server's URL.
    pub fn target(&self) -> &Url {
        &self.target
    }

    /// The client's own token goes to the server.
    pub fn forwards_token(&self) -> bool {
        self.forward_token
    }

    /// The headers that requests are sent with now.
    pub fn fixed(&self) -> Version {
        self.fixed.now()
    }

    /// Reads the secrets in the fixed headers again, after the server refused a request with those of `used`.
    /// True when there are others to try.
    pub async fn renew(&self, used: &Version) -> bool {
        self.fixed.renew(used).await
    }

    /// Sends a request and waits for the head of the answer. Redirects within the server's own origin
    /// are followed with method and body; others come back as they are.
    ///
    /// # Errors
    /// When nothing answers, not in time, or not in HTTP.
    pub async fn send(
        &self,
        method: &Method,
        query: Option<&str>,
        headers: &HeaderMap,
        body: &Bytes,
        credential: &Credential,
        fixed: &Version,
    ) -> Result<Response<Incoming>, BackendFault> {
        let mut url = self.target.clone();
        let theirs = match query {
            Some(query) if !self.forward_token => headers::without_token(query),
            query => query.map(str::to_owned),
        };
        let query = match (self.target.query(), theirs.as_deref()) {
            (Some(ours), Some(theirs)) => Some(format!("{ours}&{theirs}")),
            (ours, theirs) => ours.or(theirs).map(str::to_owned),
        };
        url.set_query(query.as_deref());
        for _ in 0..=MAX_REDIRECTS {
            let (headers, body) = (headers.clone(), body.clone());
            let response = self.send_once(method, &url, headers, body, credential, fixed).await?;
            match self.redirect(&response, &url) {
                Some(next) => url = next,
                None => return Ok(response),
            }
        }
        Err(BackendFault::Protocol { reason: "it redirects in circles" })
    }

    async fn send_once(
        &self,
        method: &Method,
        url: &Url,
        mut headers: HeaderMap,
        body: Bytes,
        credential: &Credential,
        fixed: &Version,
    ) -> Result<Response<Incoming>, BackendFault> {
        if matches!(credential, Credential::Aws { .. }) {
            // They tell AWS what to do, and the signature would vouch for them.
            headers::remove_by_prefix(&mut headers, "x-amz-");
        }
        let carrier = credential.header();
        headers::remove_misspelt(&mut headers, |name| {
            carrier.is_some_and(|carrier| carrier == name) || fixed.iter().any(|added| added.name == *name)
        });
        for header in fixed.iter() {
            headers.insert(header.name.clone(), header.value.clone());
        }
        credential.put_on(method, url, &mut headers, &body)?;
        let answer = tokio::time::timeout(self.response_timeout, self.request(method, url, headers, body));
        match answer.await {
            Err(_) => Err(BackendFault::Timeout),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(failure)) => {
                if let Some(error) = failure.error() {
                    tracing::warn!(
                        target.host = self.target.host_str().unwrap_or_default(),
                        error = %chain(error),
                        "the MCP server did not answer"
                    );
                }
                Err(failure.fault())
            }
        }
    }

    /// Sends a request of the proxy's own: with the fixed headers, nobody's credential, and no redirects. The
    /// caller bounds the time.
    ///
    /// # Errors
    /// When nothing answers, or not in HTTP.
    pub(crate) async fn ask(
        &self,
        method: &Method,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        for header in self.fixed().iter() {
            headers.insert(header.name.clone(), header.value.clone());
        }
        self.request(method, &self.target, headers, body).await
    }

    async fn request(
        &self,
        method: &Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let uri: Uri = url.as_str().parse().map_err(|_| Failure::Url)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        self.client.request(request).await.map_err(Failure::Client)
    }

    fn redirect(&self, response: &Response<Incoming>, from: &Url) -> Option<Url> {
        let followed = matches!(
            response.status(),
            StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT
        );
        let location = response.headers().get(http::header::LOCATION).filter(|_| followed)?;
        let next = from.join(location.to_str().ok()?).ok()?;
        (next.origin() == self.target.origin()).then_some(next)
    }
}

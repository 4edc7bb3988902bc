//! The way to the MCP server.

mod connector;
pub mod headers;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use skep_runtime::logging::chain;
use url::Url;

use crate::config::ProxyConfig;
use crate::error::BackendFault;
use crate::stages::outgoing::Credential;

use self::connector::GuardedConnector;

pub use self::connector::ConnectorError;

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// The MCP server, as the proxy reaches it.
#[derive(Debug, Clone)]
pub struct Upstream {
    client: Client<GuardedConnector, Full<Bytes>>,
    target: Url,
    add_headers: Vec<(HeaderName, HeaderValue)>,
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
            add_headers: config.add_headers.clone(),
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

    /// A fixed header is sent that may be a credential.
    pub fn sends_authorization(&self) -> bool {
        !self.add_headers.is_empty()
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
            let response = self.send_once(method, &url, headers.clone(), body.clone(), credential).await?;
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
    ) -> Result<Response<Incoming>, BackendFault> {
        if matches!(credential, Credential::Aws { .. }) {
            // They tell AWS what to do, and the signature would vouch for them.
            headers::remove_by_prefix(&mut headers, "x-amz-");
        }
        let carrier = credential.header();
        headers::remove_misspelt(&mut headers, |name| {
            carrier.is_some_and(|carrier| carrier == name)
                || self.add_headers.iter().any(|(added, _)| added == name)
        });
        for (name, value) in &self.add_headers {
            headers.insert(name.clone(), value.clone());
        }
        credential.put_on(method, url, &mut headers, &body)?;
        let uri: Uri =
            url.as_str().parse().map_err(|_| BackendFault::Protocol { reason: "its URL is not a URI" })?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let answer = tokio::time::timeout(self.response_timeout, self.client.request(request));
        match answer.await {
            Err(_) => Err(BackendFault::Timeout),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let fault = classify(&error);
                tracing::warn!(
                    target.host = self.target.host_str().unwrap_or_default(),
                    error = %chain(&error),
                    "the MCP server did not answer"
                );
                Err(fault)
            }
        }
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

fn classify(error: &ClientError) -> BackendFault {
    if error.is_connect() { BackendFault::Unreachable } else { BackendFault::Closed }
}

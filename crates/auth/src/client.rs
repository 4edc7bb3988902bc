//! The one HTTP client for control calls (discovery, keys, tokens): guarded addresses, no redirects,
//! no system proxy, bounded size and time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use skep_api::secret::Secret;
use url::{Host, Url};

use crate::pins::{PinnedTlsError, Pins};
use skep_api::address::{AddressRefused, Egress, Place, Reach, permit, place};

/// How one client behaves.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// What its calls may reach.
    pub reach: Reach,
    /// What the process may reach.
    pub egress: Egress,
    /// Further CA certificates, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// The client's own certificates and key, PEM, for servers that ask (RFC 8705).
    pub identity_pem: Option<Secret>,
    /// Keys or a certificate of which servers must show one, besides being trusted.
    pub pins: Pins,
    /// For a whole call.
    pub timeout: Duration,
    /// Bytes of a response body.
    pub max_bytes: usize,
    /// Connections to one host that stay open for the next call.
    pub idle_connections: usize,
}

impl ClientConfig {
    /// Five seconds, one MiB, https to public addresses only.
    pub fn new(egress: Egress) -> Self {
        Self {
            reach: Reach { http: false, private: false },
            egress,
            ca_pem: None,
            identity_pem: None,
            pins: Pins::default(),
            timeout: Duration::from_secs(5),
            max_bytes: 1 << 20,
            idle_connections: 2,
        }
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{url} is not https, and http is not allowed here")]
    Scheme { url: String },
    #[error("{url} is written with a user name or password, which is never sent")]
    Credentials { url: String },
    #[error("{url} is refused")]
    Address {
        url: String,
        #[source]
        source: AddressRefused,
    },
    #[error("cannot reach {url}")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{url} answered {status}")]
    Status { url: String, status: u16 },
    #[error("the answer of {url} is larger than {limit} bytes")]
    TooLarge { url: String, limit: usize },
    #[error("cannot set up the HTTP client")]
    Setup(#[source] reqwest::Error),
    #[error("the CA certificates cannot be read: they must be PEM")]
    Ca(#[source] reqwest::Error),
    #[error("the CA certificates cannot be used: there is no certificate in them; they must be PEM")]
    NoCa,
    #[error("the client certificate cannot be read: certificates and their key must be PEM")]
    Identity(#[source] reqwest::Error),
    #[error("cannot set up TLS with pinned keys")]
    Pins(#[source] PinnedTlsError),
}

/// A client whose every call is guarded.
#[derive(Debug, Clone)]
pub struct GuardedClient {
    client: reqwest::Client,
    reach: Reach,
    egress: Arc<Egress>,
    max_bytes: usize,
}

impl GuardedClient {
    /// Builds a client.
    ///
    /// # Errors
    /// When the CA certificates are no PEM or there is none in what was given, or TLS cannot be set up.
    #[expect(clippy::disallowed_methods, reason = "the one constructor of HTTP clients")]
    pub fn new(config: ClientConfig) -> Result<Self, FetchError> {
        let egress = Arc::new(config.egress);
        let resolver = GuardedResolver { reach: config.reach, egress: Arc::clone(&egress) };
        let mut builder = reqwest::Client::builder()
            .dns_resolver(Arc::new(resolver))
            .redirect(Policy::none())
            .no_proxy()
            .timeout(config.timeout)
            .pool_max_idle_per_host(config.idle_connections)
            .user_agent(concat!("skep/", env!("CARGO_PKG_VERSION")));
        if config.pins.is_empty() {
            if let Some(pem) = &config.ca_pem {
                let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(FetchError::Ca)?;
                // A file that was emptied by accident must not take the place of a good one.
                if certificates.is_empty() {
                    return Err(FetchError::NoCa);
                }
                builder = builder.tls_certs_merge(certificates);
            }
            if let Some(pem) = &config.identity_pem {
                let identity =
                    reqwest::Identity::from_pem(pem.expose().as_bytes()).map_err(FetchError::Identity)?;
                builder = builder.identity(identity);
            }
        } else {
            let (ca, identity) = (config.ca_pem.as_deref(), config.identity_pem.as_ref());
            let tls = config.pins.tls(ca, identity).map_err(|error| match error {
                PinnedTlsError::NoCa => FetchError::NoCa,
                error => FetchError::Pins(error),
            })?;
            builder = builder.tls_backend_preconfigured(tls);
        }
        let client = builder.build().map_err(FetchError::Setup)?;
        Ok(Self { client, reach: config.reach, egress, max_bytes: config.max_bytes })
    }

    /// Checks scheme and, where the host is one, the literal address of `url`.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn permits(&self, url: &Url) -> Result<(), FetchError> {
        let shown = || redacted(url);
        match url.scheme() {
            "https" => {}
            "http" if self.reach.http => {}
            _ => return Err(FetchError::Scheme { url: shown() }),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(FetchError::Credentials { url: shown() });
        }
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        if let Some(address) = literal {
            permit(address, self.reach, &self.egress)
                .map_err(|source| FetchError::Address { url: shown(), source })?;
        }
        Ok(())
    }

    /// Gets a JSON document.
    ///
    /// # Errors
    /// When the URL is refused, nothing answers, the status is not 200, or the answer is too large.
    pub async fn get_json(&self, url: &Url, bearer: Option<&Secret>) -> Result<Vec<u8>, FetchError> {
        self.permits(url)?;
        let mut request = self.client.get(url.clone()).header(ACCEPT, "application/json");
        if let Some(value) =
            bearer.and_then(|token| HeaderValue::from_str(&format!("Bearer {}", token.expose())).ok())
        {
            let mut value = value;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let reply = self.exchange(url, request).await?;
        if reply.status != 200 {
            return Err(FetchError::Status { url: redacted(url), status: reply.status });
        }
        Ok(reply.body)
    }

    /// Gets a document with its headers, whatever its status.
    ///
    /// # Errors
    /// When the URL is refused, nothing answers, or the answer is too large.
    pub async fn get(&self, url: &Url) -> Result<Reply, FetchError> {
        self.permits(url)?;
        self.exchange(url, self.client.get(url.clone()).header(ACCEPT, "application/json")).await
    }

    /// Sends `body` and reads the answer, whatever its status: a token endpoint's refusal says why in its
    /// body. `headers` has the media type and may have credentials.
    ///
    /// # Errors
    /// When the URL is refused, nothing answers, or the answer is too large.
    pub async fn post(&self, url: &Url, headers: HeaderMap, body: Vec<u8>) -> Result<Reply, FetchError> {
        self.permits(url)?;
        self.exchange(url, self.client.post(url.clone()).headers(headers).body(body)).await
    }

    /// Sends a request of any method and reads the answer, whatever its status. `headers` may have
    /// credentials, and has the media type of `body`.
    ///
    /// # Errors
    /// When the URL is refused, nothing answers, or the answer is too large.
    pub async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Option<Vec<u8>>,
    ) -> Result<Reply, FetchError> {
        self.permits(url)?;
        let request = self.client.request(method, url.clone()).headers(headers);
        self.exchange(url, if let Some(body) = body { request.body(body) } else { request }).await
    }

    async fn exchange(&self, url: &Url, request: reqwest::RequestBuilder) -> Result<Reply, FetchError> {
        let unreachable = |source: reqwest::Error| FetchError::Unreachable {
            url: redacted(url),
            source: source.without_url(),
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        let headers = std::mem::take(response.headers_mut());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > self.max_bytes {
                return Err(FetchError::TooLarge { url: redacted(url), limit: self.max_bytes });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status, headers, body })
    }
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, as large as the client allows at most.
    pub body: Vec<u8>,
}

/// A URL without user information, query and fragment, fit for an error or a log.
pub fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string()
}

/// Resolves a name and keeps the addresses that may be called.
///
/// # Errors
/// When the name does not resolve, or the first refusal when no address is left.
pub async fn resolve(
    host: &str,
    port: u16,
    reach: Reach,
    egress: &Egress,
) -> std::io::Result<Vec<SocketAddr>> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    let mut refused = None;
    let mut allowed = Vec::with_capacity(found.len());
    for address in found {
        match permit(address.ip(), reach, egress) {
            Ok(()) => allowed.push(address),
            Err(reason) => refused = Some(reason),
        }
    }
    match refused {
        Some(reason) if allowed.is_empty() => {
            Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, reason))
        }
        _ => Ok(allowed),
    }
}

/// True when a URL's host is, or resolves to, addresses that are not public.
pub async fn is_private(url: &Url) -> bool {
    let private = |address: IpAddr| matches!(place(address), Place::Private | Place::Loopback);
    match url.host() {
        Some(Host::Ipv4(address)) => private(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => private(IpAddr::V6(address)),
        Some(Host::Domain(name)) => {
            tokio::net::lookup_host((name, url.port_or_known_default().unwrap_or(443)))
                .await
                .is_ok_and(|mut found| found.any(|address| private(address.ip())))
        }
        None => false,
    }
}

#[derive(Debug)]
struct GuardedResolver {
    reach: Reach,
    egress: Arc<Egress>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        let egress = Arc::clone(&self.egress);
        Box::pin(async move {
            let addresses = resolve(name.as_str(), 0, reach, &egress).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        let reach = Reach { http: true, private: true };
        let refused = resolve("localhost", 80, reach, &Egress::default()).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        let egress = Egress { loopback: true, deny: Vec::new() };
        assert!(!resolve("localhost", 80, reach, &egress).await.unwrap().is_empty());
    }

    #[test]
    fn a_literal_metadata_address_is_refused_before_connecting() {
        let mut config = ClientConfig::new(Egress::default());
        config.reach = Reach { http: true, private: true };
        let client = GuardedClient::new(config).unwrap();
        for url in ["http://169.254.169.254/latest", "http://[::ffff:a9fe:a9fe]/", "http://127.0.0.1/"] {
            assert!(
                matches!(client.permits(&Url::parse(url).unwrap()), Err(FetchError::Address { .. })),
                "{url}"
            );
        }
        assert!(client.permits(&Url::parse("http://10.0.0.1/").unwrap()).is_ok());
        assert!(matches!(client.permits(&Url::parse("ftp://x/").unwrap()), Err(FetchError::Scheme { .. })));
    }

    #[test]
    fn a_file_without_a_certificate_is_no_file_of_certificates() {
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let pins = Pins::parse(&["ab".repeat(32)], "").unwrap();
        for pem in ["", "\n", "no certificate", key] {
            for pins in [Pins::default(), pins.clone()] {
                let mut config = ClientConfig::new(Egress::default());
                config.ca_pem = Some(pem.as_bytes().to_vec());
                config.pins = pins;
                let error = GuardedClient::new(config).map(|_| ()).unwrap_err();
                assert!(matches!(error, FetchError::NoCa), "{pem:?}: {error}");
            }
        }
    }

    #[test]
    fn a_url_in_an_error_shows_neither_query_nor_password() {
        let url = Url::parse("https://user:secret@idp.example/jwks?token=secret#secret").unwrap();
        assert_eq!(redacted(&url), "https://idp.example/jwks");
    }
}

//! Host and Origin: who may even knock. A page on the web that makes a browser call a local server
//! (DNS rebinding) is turned away here.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Uri};
use url::Url;

use crate::config::ProxyConfig;
use crate::error::Rejection;

/// Names and origins that are let in.
#[derive(Debug, Clone)]
pub struct Entrance {
    hosts: Vec<Host>,
    origins: Vec<String>,
    trust_proxy_headers: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Host {
    name: String,
    port: Option<u16>,
}

impl Entrance {
    /// By default: loopback names on a loopback bind; else the Services, the resource URL's host and
    /// what `allowed_hosts` adds. The address that a request came in on is always itself.
    pub fn new(config: &ProxyConfig, local_port: u16) -> Self {
        let any_port = |name: &str| Host { name: name.to_ascii_lowercase(), port: None };
        let mut hosts: Vec<Host> = config.allowed_hosts.iter().map(|text| parse_host(text)).collect();
        if let Some(host) = config.resource_url().and_then(|url| Url::parse(url).ok())
            && let Some(name) = host.host_str()
        {
            hosts.push(any_port(name));
        }
        let loopback = config.bind.ip().is_loopback();
        if loopback {
            hosts.extend(["localhost", "127.0.0.1", "[::1]"].map(any_port));
        } else {
            let name = &config.name;
            for service in [format!("mcp-{name}-remote-proxy"), format!("mcp-{name}-proxy")] {
                hosts.push(any_port(&service));
                hosts.push(Host { name: format!("{service}."), port: None });
            }
        }
        let mut origins: Vec<String> =
            config.allowed_origins.iter().filter_map(|text| origin(text)).collect();
        if origins.is_empty() && loopback {
            origins = ["localhost", "127.0.0.1", "[::1]"]
                .iter()
                .map(|host| format!("http://{host}:{local_port}"))
                .collect();
        }
        origins.extend(config.resource_url().and_then(origin));
        Self { hosts, origins, trust_proxy_headers: config.trust_proxy_headers }
    }

    /// Checks a request that came in on the address `local`.
    ///
    /// # Errors
    /// When Host or Origin is missing where it is needed, doubled, or not let in.
    pub fn check(&self, headers: &HeaderMap, uri: &Uri, local: Option<IpAddr>) -> Result<(), Rejection> {
        self.check_host(headers, uri, local)?;
        self.check_origin(headers)
    }

    fn check_host(&self, headers: &HeaderMap, uri: &Uri, local: Option<IpAddr>) -> Result<(), Rejection> {
        let mut values = headers.get_all(HOST).iter();
        let (host, more) = (values.next(), values.next().is_some());
        let host = host.and_then(|host| host.to_str().ok()).ok_or(Rejection::Host)?;
        // A request line with an authority of its own (absolute form) must agree with Host.
        let disagrees =
            uri.authority().is_some_and(|authority| !authority.as_str().eq_ignore_ascii_case(host));
        if more || disagrees {
            return Err(Rejection::Host);
        }
        let forwarded = headers.get("x-forwarded-host").filter(|_| self.trust_proxy_headers);
        let seen = match forwarded {
            Some(value) => value.to_str().map_err(|_| Rejection::Host)?,
            None => host,
        };
        let seen = parse_host(seen);
        let itself = local.is_some_and(|local| {
            seen.name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip == local)
        });
        let named = self.hosts.iter().any(|allowed| {
            let name = match allowed.name.strip_suffix('.') {
                // A Service is also reached under its namespace and cluster domain.
                Some(service) => seen.name.strip_prefix(service).is_some_and(|rest| rest.starts_with('.')),
                None => allowed.name == seen.name,
            };
            name && (allowed.port.is_none() || allowed.port == seen.port)
        });
        if itself || named { Ok(()) } else { Err(Rejection::Host) }
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Rejection> {
        let mut values = headers.get_all(ORIGIN).iter();
        let Some(value) = values.next() else { return Ok(()) };
        let allowed = values.next().is_none()
            && value.to_str().ok().and_then(origin).is_some_and(|origin| self.origins.contains(&origin));
        if allowed { Ok(()) } else { Err(Rejection::Origin) }
    }

    /// The Origin to name in CORS headers: that of a request which has passed.
    pub fn cors_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let value = headers.get(ORIGIN)?;
        self.check_origin(headers).ok().map(|()| value.clone())
    }
}

fn parse_host(text: &str) -> Host {
    let text = text.trim().to_ascii_lowercase();
    let colon = match text.rfind(']') {
        Some(end) => text.get(end..).and_then(|rest| rest.find(':')).map(|at| at + end),
        None => text.rfind(':'),
    };
    let split = colon.and_then(|at| {
        let port = text.get(at + 1..)?.parse().ok()?;
        Some((text.get(..at)?.to_owned(), port))
    });
    match split {
        Some((name, port)) => Host { name, port: Some(port) },
        None => Host { name: text, port: None },
    }
}

/// Scheme, host and port in lower case; `None` for `null`, user information and what is no origin.
fn origin(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty() && url.password().is_none() && url.host_str().is_some();
    plain.then(|| url.origin().ascii_serialization()).filter(|origin| origin != "null")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entrance(hosts: &[&str], origins: &[&str]) -> Entrance {
        Entrance {
            hosts: hosts.iter().map(|text| parse_host(text)).collect(),
            origins: origins.iter().filter_map(|text| origin(text)).collect(),
            trust_proxy_headers: false,
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn hosts_are_let_in_by_name() {
        let entrance = entrance(&["localhost", "mcp.example:8443", "[::1]", "mcp-a-proxy."], &[]);
        let uri = Uri::from_static("/mcp");
        let local = Some("10.1.2.3".parse().unwrap());
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("[::1]:8080", true),
            ("mcp.example:8443", true),
            ("mcp.example", false),
            ("mcp-a-proxy.ns.svc.cluster.local:80", true),
            ("mcp-a-proxyx.ns", false),
            ("10.1.2.3:8080", true),
            ("10.1.2.4", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("", false),
        ] {
            let passed = entrance.check(&headers(&[("host", host)]), &uri, local).is_ok();
            assert_eq!(passed, expected, "{host}");
        }
        assert!(entrance.check(&headers(&[]), &uri, local).is_err());
        assert!(
            entrance.check(&headers(&[("host", "localhost"), ("host", "localhost")]), &uri, local).is_err()
        );
        let absolute = Uri::from_static("http://evil.example/mcp");
        assert!(entrance.check(&headers(&[("host", "localhost")]), &absolute, local).is_err());
    }

    #[test]
    fn origins_are_compared_whole() {
        let entrance = entrance(&["h"], &["https://App.example", "http://localhost:6274/"]);
        let uri = Uri::from_static("/");
        for (origin, expected) in [
            ("https://app.example", true),
            ("https://app.example:443", true),
            ("http://app.example", false),
            ("https://app.example:8443", false),
            ("http://localhost:6274", true),
            ("http://localhost", false),
            ("null", false),
            ("https://u@app.example", false),
            ("https://app.example.evil", false),
        ] {
            let passed = entrance.check(&headers(&[("host", "h"), ("origin", origin)]), &uri, None).is_ok();
            assert_eq!(passed, expected, "{origin}");
        }
        let two = [("host", "h"), ("origin", "https://app.example"), ("origin", "https://app.example")];
        assert!(entrance.check(&headers(&two), &uri, None).is_err());
        assert!(entrance.check(&headers(&[("host", "h")]), &uri, None).is_ok());
    }
}

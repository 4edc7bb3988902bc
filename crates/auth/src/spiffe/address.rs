//! Where the agent listens.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ::spiffe::transport::Endpoint;

/// The environment variable that says where the agent listens (SPIFFE Workload Endpoint §4).
pub const ENDPOINT_SOCKET: &str = "SPIFFE_ENDPOINT_SOCKET";

/// Where a SPIRE agent listens when nobody says anything else.
pub const DEFAULT_SOCKET: &str = "/tmp/spire-agent/public/api.sock";

/// Where the agent listens: a Unix socket, or an IP address and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentAddress(Place);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// Why a text is no address of an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address of a SPIFFE agent: {problem}")]
pub struct AddressError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl AgentAddress {
    /// Reads an address: a plain path, `unix:///path`, `unix:/path`, `tcp://IP:PORT` or `tcp:IP:PORT`
    /// (SPIFFE Workload Endpoint §4). A prefix `unix://` that was put before an address that has one already
    /// is taken off.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let wrong = |problem| AddressError { text: text.to_owned(), problem };
        let mut rest = text.trim();
        while let Some(inner) = rest.strip_prefix("unix://").filter(|inner| inner.starts_with("unix:")) {
            rest = inner;
        }
        if rest.is_empty() {
            return Err(wrong("it is empty"));
        }
        if rest.contains('\0') {
            return Err(wrong("it has a zero byte"));
        }
        if let Some(place) = rest.strip_prefix("unix:") {
            return unix(place).map(|path| Self(Place::Unix(path))).map_err(wrong);
        }
        if let Some(place) = rest.strip_prefix("tcp:") {
            return tcp(place).map(|address| Self(Place::Tcp(address))).map_err(wrong);
        }
        if rest.contains("://") {
            return Err(wrong("write a path, unix:///PATH or tcp://IP:PORT"));
        }
        Ok(Self(Place::Unix(PathBuf::from(rest))))
    }

    /// The Unix socket at this path.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self(Place::Unix(path.into()))
    }

    /// The path of the socket, where there is one.
    pub fn socket(&self) -> Option<&Path> {
        match &self.0 {
            Place::Unix(path) => Some(path),
            Place::Tcp(_) => None,
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        match &self.0 {
            Place::Unix(path) => Endpoint::Unix(path.clone()),
            Place::Tcp(address) => Endpoint::Tcp { host: address.ip(), port: address.port() },
        }
    }
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Unix(path) => write!(f, "{}", path.display()),
            Place::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// The path of a `unix:` URI.
fn unix(place: &str) -> Result<PathBuf, &'static str> {
    let path = match place.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some("") => return Err("it has no path"),
        Some(_) => return Err("unix:// needs three slashes, as in unix:///run/agent.sock"),
        None => place,
    };
    if !path.starts_with('/') || path == "/" {
        return Err("it has no absolute path");
    }
    if path.contains(['?', '#']) {
        return Err("a query or a fragment has no place in it");
    }
    // The same characters are escaped in a path of any scheme.
    let url = url::Url::parse(&format!("file://{path}")).map_err(|_| "it is no URI")?;
    url.to_file_path().map_err(|()| "it has no absolute path")
}

/// The address and port of a `tcp:` URI; a name has no place in it.
fn tcp(place: &str) -> Result<SocketAddr, &'static str> {
    let place = place.strip_prefix("//").unwrap_or(place);
    let place = place.strip_suffix('/').unwrap_or(place);
    if let Ok(address) = place.parse::<SocketAddr>() {
        return if address.port() == 0 { Err("it has no port") } else { Ok(address) };
    }
    let bare = place.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() {
        return Err("it has no port");
    }
    Err("tcp: needs an IP address and a port, as in tcp://127.0.0.1:8081")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_spelling() {
        for (text, path) in [
            ("/spiffe-workload-api/spire-agent.sock", "/spiffe-workload-api/spire-agent.sock"),
            ("unix:///run/agent.sock", "/run/agent.sock"),
            ("unix:/run/agent.sock", "/run/agent.sock"),
            ("unix://unix:///run/agent.sock", "/run/agent.sock"),
            (" /run/agent.sock\n", "/run/agent.sock"),
            ("run/agent.sock", "run/agent.sock"),
            ("unix:///run/my%20agent.sock", "/run/my agent.sock"),
            ("/run/100%.sock", "/run/100%.sock"),
        ] {
            let address = AgentAddress::parse(text).unwrap();
            assert_eq!(address.socket(), Some(Path::new(path)), "{text}");
            assert_eq!(address.endpoint(), Endpoint::Unix(PathBuf::from(path)), "{text}");
        }
        for (text, shown) in [
            ("tcp://127.0.0.1:8081", "tcp://127.0.0.1:8081"),
            ("tcp:127.0.0.1:8081", "tcp://127.0.0.1:8081"),
            ("tcp://[::1]:8081/", "tcp://[::1]:8081"),
        ] {
            assert_eq!(AgentAddress::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        for (text, problem) in [
            ("", "it is empty"),
            ("unix://", "it has no path"),
            ("unix://run/agent.sock", "three slashes"),
            ("unix:agent.sock", "no absolute path"),
            ("unix:///run/agent.sock?x=1", "query"),
            ("tcp://agent:8081", "IP address"),
            ("tcp://127.0.0.1", "no port"),
            ("tcp://127.0.0.1:0", "no port"),
            ("https://agent:8081", "write a path"),
            ("/run/a\0b", "zero byte"),
        ] {
            let error = AgentAddress::parse(text).unwrap_err();
            assert!(error.problem.contains(problem), "{text}: {error}");
        }
    }
}

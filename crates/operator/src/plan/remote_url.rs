//! Which remote URLs a manifest may name, judged by their text. Names are judged again after DNS, by
//! the client that connects.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Why a remote URL is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RemoteUrlError {
    #[error("The URL of the remote server is missing.")]
    Missing,
    #[error("This is not a URL: {0}.")]
    Syntax(url::ParseError),
    #[error("The scheme `{0}` is not supported; the URL has to begin with https://.")]
    Scheme(String),
    #[error("The URL has no host.")]
    NoHost,
    #[error(
        "The URL holds a user name or password; put credentials into an MCPExternalAuthConfig or `headerForward`."
    )]
    Credentials,
    #[error("The URL has a fragment (`#...`), which is never sent; remove it.")]
    Fragment,
    #[error("`{0}` is {1}; a proxy must never be pointed at it.")]
    Forbidden(String, &'static str),
    #[error("`{0}` is {1}. If that is intended, set `allowPrivateEndpoint: true`.")]
    Private(String, &'static str),
    #[error(
        "The URL is plain http, which anybody on the way can read and change. Use https, or set `allowPrivateEndpoint: true` for a server of your own network."
    )]
    Insecure,
}

/// What the surroundings allow.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Allowance {
    /// `allowPrivateEndpoint`.
    pub(super) private: bool,
    /// The plan runs on this machine, where loopback is what one wants.
    pub(super) loopback: bool,
}

/// Judges the text of a remote URL.
pub(super) fn check(text: &str, allow: Allowance) -> Result<Url, RemoteUrlError> {
    if text.is_empty() {
        return Err(RemoteUrlError::Missing);
    }
    let url = Url::parse(text).map_err(RemoteUrlError::Syntax)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(RemoteUrlError::Scheme(url.scheme().to_owned()));
    }
    let shown = url.host_str().unwrap_or_default().to_owned();
    let place = match url.host() {
        None => return Err(RemoteUrlError::NoHost),
        Some(Host::Domain(name)) => place_of_name(name),
        Some(Host::Ipv4(address)) => place_of(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => place_of(IpAddr::V6(address)),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(RemoteUrlError::Credentials);
    }
    if url.fragment().is_some() {
        return Err(RemoteUrlError::Fragment);
    }
    let near = match place {
        Where::Loopback if allow.loopback => true,
        Where::Loopback => {
            return Err(RemoteUrlError::Forbidden(shown, "a loopback address, which is the proxy itself"));
        }
        Where::Forbidden(what) => return Err(RemoteUrlError::Forbidden(shown, what)),
        Where::Private(what) if !allow.private => return Err(RemoteUrlError::Private(shown, what)),
        Where::Private(_) | Where::Public => false,
    };
    if url.scheme() == "http" && !near && !allow.private {
        return Err(RemoteUrlError::Insecure);
    }
    Ok(url)
}

/// True when the text names this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => matches!(place_of_name(name), Where::Loopback),
        Some(Host::Ipv4(address)) => matches!(place_of(IpAddr::V4(address)), Where::Loopback),
        Some(Host::Ipv6(address)) => matches!(place_of(IpAddr::V6(address)), Where::Loopback),
        None => false,
    }
}

enum Where {
    Public,
    Private(&'static str),
    Loopback,
    Forbidden(&'static str),
}

fn place_of_name(name: &str) -> Where {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let under = |suffix: &str| name == suffix || name.ends_with(&format!(".{suffix}"));
    if under("localhost") || name == "localhost.localdomain" {
        return Where::Loopback;
    }
    if name == "kubernetes" || name == "kubernetes.default" || name.starts_with("kubernetes.default.") {
        return Where::Forbidden("the Kubernetes API server");
    }
    if matches!(name.as_str(), "metadata" | "instance-data" | "instance-data.ec2.internal" | "metadata.goog")
        || under("metadata.google.internal")
        || under("metadata.azure.internal")
    {
        return Where::Forbidden("a cloud's metadata service");
    }
    if under("cluster.local") || under("svc") {
        return Where::Private("a name inside the cluster");
    }
    if !name.contains('.') {
        return Where::Private("a name without a dot, which a cluster's DNS completes to one of its own");
    }
    Where::Public
}

fn place_of(address: IpAddr) -> Where {
    match address {
        IpAddr::V4(address) => place_of_v4(address),
        IpAddr::V6(address) => match embedded_v4(address) {
            Some(inner) => place_of_v4(inner),
            None => place_of_v6(address),
        },
    }
}

fn place_of_v4(address: Ipv4Addr) -> Where {
    let [a, b, c, d] = address.octets();
    match (a, b) {
        (127, _) => Where::Loopback,
        (0, _) => Where::Forbidden("an unspecified address"),
        (169, 254) => Where::Forbidden("a link-local address, where clouds keep their metadata"),
        (100, 100) if c == 100 && d == 200 => Where::Forbidden("a cloud's metadata service"),
        (168, 63) if c == 129 && d == 16 => Where::Forbidden("a cloud's metadata service"),
        (224..=255, _) => Where::Forbidden("a multicast or reserved address"),
        (10, _) | (192, 168) => Where::Private("a private address"),
        (172, 16..=31) => Where::Private("a private address"),
        (100, 64..=127) => Where::Private("a carrier's private address"),
        (198, 18 | 19) | (192, 0) if a == 198 || c == 0 => Where::Private("an address for special purposes"),
        _ => Where::Public,
    }
}

fn place_of_v6(address: Ipv6Addr) -> Where {
    let first = address.segments().first().copied().unwrap_or_default();
    if address.is_loopback() {
        Where::Loopback
    } else if address.is_unspecified() {
        Where::Forbidden("an unspecified address")
    } else if first & 0xffc0 == 0xfe80 {
        Where::Forbidden("a link-local address")
    } else if address.segments() == [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254] {
        Where::Forbidden("a cloud's metadata service")
    } else if first & 0xff00 == 0xff00 {
        Where::Forbidden("a multicast address")
    } else if first & 0xfe00 == 0xfc00 {
        Where::Private("a private address")
    } else {
        Where::Public
    }
}

/// The IPv4 address inside a mapped, compatible, NAT64 (RFC 6052) or 6to4 address.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(octets(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(octets(high, low)),
        [0x2002, high, low, ..] => Some(octets(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_judged_by_where_they_lead() {
        const NOTHING: Allowance = Allowance { private: false, loopback: false };
        const PRIVATE: Allowance = Allowance { private: true, loopback: false };
        const LOCAL: Allowance = Allowance { private: false, loopback: true };
        for (text, nothing, private, local) in [
            ("https://mcp.example.com/api?x=1", true, true, true),
            ("http://mcp.example.com/api", false, true, false),
            ("https://10.1.2.3/", false, true, false),
            ("https://172.31.0.1/", false, true, false),
            ("https://172.32.0.1/", true, true, true),
            ("https://100.64.0.1/", false, true, false),
            ("https://[fd12::1]/", false, true, false),
            ("https://mcp.team.svc.cluster.local/", false, true, false),
            ("https://mcp.team.svc/", false, true, false),
            ("https://intranet/", false, true, false),
            ("http://127.0.0.1:9000/mcp", false, false, true),
            ("http://localhost:9000/mcp", false, false, true),
            ("http://LOCALHOST./mcp", false, false, true),
            ("http://0x7f.1/", false, false, true),
            ("http://2130706433/", false, false, true),
            ("http://[::1]/", false, false, true),
            ("http://[::ffff:127.0.0.1]/", false, false, true),
            ("https://0.0.0.0/", false, false, false),
            ("https://169.254.169.254/latest", false, false, false),
            ("https://[::ffff:169.254.169.254]/", false, false, false),
            ("https://[64:ff9b::a9fe:a9fe]/", false, false, false),
            ("https://[fe80::1]/", false, false, false),
            ("https://[fd00:ec2::254]/", false, false, false),
            ("https://metadata.google.internal/", false, false, false),
            ("https://kubernetes.default.svc/", false, false, false),
            ("https://kubernetes.default.svc.cluster.local/", false, false, false),
            ("https://user:pass@mcp.example.com/", false, false, false),
            ("https://mcp.example.com/#x", false, false, false),
            ("ftp://mcp.example.com/", false, false, false),
            ("mcp.example.com", false, false, false),
            ("", false, false, false),
        ] {
            for (allow, expected) in [(NOTHING, nothing), (PRIVATE, private), (LOCAL, local)] {
                assert_eq!(
                    check(text, allow).is_ok(),
                    expected,
                    "{text} with {allow:?}: {:?}",
                    check(text, allow)
                );
            }
        }
    }
}

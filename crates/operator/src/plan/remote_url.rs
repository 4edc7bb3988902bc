//! Which remote URLs a manifest may name, judged by their text. Names are judged again after DNS, by
//! the client that connects.

use std::net::IpAddr;

use skep_api::address::{Place, is_loopback_name, place};
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
    let Some(found) = where_is(&url) else { return Err(RemoteUrlError::NoHost) };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(RemoteUrlError::Credentials);
    }
    if url.fragment().is_some() {
        return Err(RemoteUrlError::Fragment);
    }
    let near = match found {
        Where::Loopback if allow.loopback => true,
        Where::Loopback => return Err(RemoteUrlError::Forbidden(shown, LOOPBACK)),
        Where::Forbidden(what) => return Err(RemoteUrlError::Forbidden(shown, what)),
        Where::Private(what) if !allow.private => return Err(RemoteUrlError::Private(shown, what)),
        Where::Private(_) | Where::Public => false,
    };
    if url.scheme() == "http" && !near && !allow.private {
        return Err(RemoteUrlError::Insecure);
    }
    Ok(url)
}

/// Why no proxy calls a URL, whatever the manifest allows. It may lie inside the network: identity providers
/// often do.
pub(super) fn never_called(url: &Url, local: bool) -> Option<String> {
    let shown = || url.host_str().unwrap_or_default().to_owned();
    match where_is(url)? {
        Where::Loopback if !local => {
            Some(format!("{} (`skep up` allows it.)", RemoteUrlError::Forbidden(shown(), LOOPBACK)))
        }
        Where::Forbidden(what) => Some(RemoteUrlError::Forbidden(shown(), what).to_string()),
        Where::Loopback | Where::Private(_) | Where::Public => None,
    }
}

const LOOPBACK: &str = "a loopback address, which is the proxy itself";

enum Where {
    Public,
    Private(&'static str),
    Loopback,
    Forbidden(&'static str),
}

fn where_is(url: &Url) -> Option<Where> {
    Some(match url.host()? {
        Host::Domain(name) => place_of_name(name),
        Host::Ipv4(address) => place_of(IpAddr::V4(address)),
        Host::Ipv6(address) => place_of(IpAddr::V6(address)),
    })
}

fn place_of_name(name: &str) -> Where {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let under = |suffix: &str| name == suffix || name.ends_with(&format!(".{suffix}"));
    if is_loopback_name(&name) {
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
    match place(address) {
        Place::Public => Where::Public,
        Place::Private => Where::Private("a private address"),
        Place::Loopback => Where::Loopback,
        Place::Forbidden => Where::Forbidden(
            "a link-local, multicast or reserved address, where clouds keep their metadata among others",
        ),
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

//! Which addresses an outgoing call may reach. A name is judged by what it resolves to, at the moment
//! of connecting, so that a name that changes its mind gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use url::{Host, Url};

/// What kind of place an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The public internet.
    Public,
    /// RFC 1918, RFC 4193, RFC 6598 and other ranges that are not routed publicly.
    Private,
    /// This machine.
    Loopback,
    /// Never a legitimate target: link-local (cloud metadata lives there), unspecified, multicast,
    /// broadcast, and ranges that wrap other addresses in ways routers differ on.
    Forbidden,
}

/// What one kind of call may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Plain http is allowed.
    pub http: bool,
    /// Private addresses are allowed.
    pub private: bool,
}

/// What this process may reach at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Egress {
    /// Loopback addresses are allowed: `skep up` on a laptop, never a pod.
    pub loopback: bool,
    /// Networks that are refused whatever else is allowed (`--egress-deny`, the API server).
    pub deny: Vec<IpNet>,
}

/// Why an address is not called.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum AddressRefused {
    #[error("{address} is a link-local, metadata or otherwise reserved address, which is never called")]
    Forbidden { address: IpAddr },
    #[error("{address} is on the list of denied networks")]
    Denied { address: IpAddr },
    #[error("{address} is a loopback address, which only a local run may call")]
    Loopback { address: IpAddr },
    #[error("{address} is a private address; allow it with allowPrivateEndpoint if that is meant")]
    Private { address: IpAddr },
}

/// Says what kind of place `address` is. Addresses that wrap an IPv4 address (mapped, compatible,
/// NAT64, 6to4) are judged by what they wrap.
pub fn place(address: IpAddr) -> Place {
    match address {
        IpAddr::V4(address) => place_v4(address),
        IpAddr::V6(address) => place_v6(address),
    }
}

/// Decides whether `address` may be called.
///
/// # Errors
/// The rule that refuses it.
pub fn permit(address: IpAddr, reach: Reach, egress: &Egress) -> Result<(), AddressRefused> {
    let canonical = unwrapped(address);
    if egress.deny.iter().any(|net| net.contains(&address) || net.contains(&canonical)) {
        return Err(AddressRefused::Denied { address });
    }
    match place(address) {
        Place::Public => Ok(()),
        Place::Private if reach.private => Ok(()),
        Place::Private => Err(AddressRefused::Private { address }),
        Place::Loopback if egress.loopback => Ok(()),
        Place::Loopback => Err(AddressRefused::Loopback { address }),
        Place::Forbidden => Err(AddressRefused::Forbidden { address }),
    }
}

/// The IPv4 address inside, where there is one.
fn unwrapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => embedded_v4(v6).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn place_v4(address: Ipv4Addr) -> Place {
    let [a, b, c, d] = address.octets();
    match (a, b, c) {
        (127, ..) => Place::Loopback,
        // Metadata services outside the link-local range: Alibaba Cloud's and Azure's.
        (100, 100, 100) => Place::Forbidden,
        (168, 63, 129) if d == 16 => Place::Forbidden,
        (0, ..) | (169, 254, _) | (224..=255, ..) => Place::Forbidden,
        (10, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) => Place::Private,
        (192, 0, 0 | 2) | (198, 18..=19, _) | (198, 51, 100) | (203, 0, 113) | (192, 88, 99) => {
            Place::Private
        }
        _ => Place::Public,
    }
}

fn place_v6(address: Ipv6Addr) -> Place {
    if address.is_loopback() {
        return Place::Loopback;
    }
    if address.is_unspecified() {
        return Place::Forbidden;
    }
    if let Some(v4) = embedded_v4(address) {
        return place_v4(v4);
    }
    let [first, second, ..] = address.segments();
    match first {
        // AWS and others serve metadata from this unique-local prefix.
        0xfd00 if second == 0x0ec2 => Place::Forbidden,
        0xfc00..=0xfdff => Place::Private,
        0xfe80..=0xfebf => Place::Forbidden,
        0xfec0..=0xfeff => Place::Private,
        0xff00..=0xffff => Place::Forbidden,
        // Teredo hides the real target; documentation and discard prefixes are nobody's.
        0x2001 if second == 0 => Place::Forbidden,
        0x2001 if second == 0x0db8 => Place::Forbidden,
        0x0100 if second == 0 => Place::Forbidden,
        // Local-use NAT64 (RFC 8215): what it wraps depends on the network.
        0x0064 if second == 0xff9b => Place::Forbidden,
        _ => Place::Public,
    }
}

fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b, c, d, e, f) {
        // ::ffff:a.b.c.d (mapped) and ::a.b.c.d (compatible, obsolete, still parsed by some stacks)
        (0, 0, 0, 0, 0, 0xffff) => Some(join(g, h)),
        (0, 0, 0, 0, 0, 0) if !address.is_loopback() && !address.is_unspecified() => Some(join(g, h)),
        // 64:ff9b::/96 (RFC 6052)
        (0x64, 0xff9b, 0, 0, 0, 0) => Some(join(g, h)),
        // 2002::/16 (6to4)
        (0x2002, ..) => Some(join(b, c)),
        _ => None,
    }
}

/// True when a URL names this machine, by address or by name (RFC 6761 §6.3).
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => is_loopback_name(name),
        Some(Host::Ipv4(address)) => place(address.into()) == Place::Loopback,
        Some(Host::Ipv6(address)) => place(address.into()) == Place::Loopback,
        None => false,
    }
}

/// True for names of this machine.
pub fn is_loopback_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name == "localhost.localdomain"
}

/// True for a URL by which secrets leave the cluster in the clear: plain http to something that is neither this
/// machine nor named as Services of the cluster are (`name`, `name.namespace.svc`).
pub fn is_in_the_clear(url: &Url) -> bool {
    let within = match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            !name.contains('.') || name.ends_with(".svc") || name.ends_with(".svc.cluster.local")
        }
        _ => false,
    };
    url.scheme() == "http" && !within && !is_loopback(url)
}

/// True for the names by which pods know the Kubernetes API server.
pub fn is_api_server(host: &str) -> bool {
    const NAMES: [&str; 4] = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    NAMES.iter().any(|name| host.eq_ignore_ascii_case(name))
}

/// Folder with the pod's own token, which is for the API server alone.
pub const POD_TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_its_place() {
        for (address, expected) in [
            ("1.1.1.1", Place::Public),
            ("2606:4700::1111", Place::Public),
            ("10.1.2.3", Place::Private),
            ("172.31.0.1", Place::Private),
            ("172.32.0.1", Place::Public),
            ("192.168.1.1", Place::Private),
            ("100.64.0.1", Place::Private),
            ("fd12::1", Place::Private),
            ("127.0.0.1", Place::Loopback),
            ("127.9.9.9", Place::Loopback),
            ("::1", Place::Loopback),
            ("::ffff:127.0.0.1", Place::Loopback),
            ("169.254.169.254", Place::Forbidden),
            ("::ffff:169.254.169.254", Place::Forbidden),
            ("64:ff9b::a9fe:a9fe", Place::Forbidden),
            ("64:ff9b::0a00:0001", Place::Private),
            ("64:ff9b:1::a9fe:a9fe", Place::Forbidden),
            ("2002:a9fe:a9fe::1", Place::Forbidden),
            ("::a9fe:a9fe", Place::Forbidden),
            ("fe80::1", Place::Forbidden),
            ("fd00:ec2::254", Place::Forbidden),
            ("100.100.100.200", Place::Forbidden),
            ("168.63.129.16", Place::Forbidden),
            ("168.63.129.17", Place::Public),
            ("0.0.0.0", Place::Forbidden),
            ("::", Place::Forbidden),
            ("224.0.0.1", Place::Forbidden),
            ("255.255.255.255", Place::Forbidden),
            ("ff02::1", Place::Forbidden),
        ] {
            assert_eq!(place(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn metadata_is_refused_even_where_private_and_loopback_are_allowed() {
        let reach = Reach { http: true, private: true };
        let egress = Egress { loopback: true, deny: vec!["10.9.0.0/24".parse().unwrap()] };
        let permit = |address: &str| permit(address.parse().unwrap(), reach, &egress);
        assert!(permit("10.1.0.1").is_ok());
        assert!(permit("127.0.0.1").is_ok());
        assert!(matches!(permit("169.254.169.254"), Err(AddressRefused::Forbidden { .. })));
        assert!(matches!(permit("::ffff:169.254.169.254"), Err(AddressRefused::Forbidden { .. })));
        assert!(matches!(permit("10.9.0.1"), Err(AddressRefused::Denied { .. })));
        assert!(matches!(permit("::ffff:10.9.0.1"), Err(AddressRefused::Denied { .. })));
    }

    #[test]
    fn private_and_loopback_addresses_need_leave() {
        let reach = Reach { http: false, private: false };
        let egress = Egress::default();
        let permit = |address: &str| permit(address.parse().unwrap(), reach, &egress);
        assert!(permit("1.1.1.1").is_ok());
        assert!(matches!(permit("192.168.0.1"), Err(AddressRefused::Private { .. })));
        assert!(matches!(permit("127.0.0.1"), Err(AddressRefused::Loopback { .. })));
    }

    #[test]
    fn plain_http_that_leaves_the_cluster_is_known() {
        for (url, expected) in [
            ("https://id.example.com", false),
            ("http://id.example.com", true),
            ("http://10.0.0.1:8080/auth", true),
            ("http://[fd00::1]", true),
            ("http://keycloak", false),
            ("http://keycloak:8080", false),
            ("http://keycloak.keycloak.svc:8080", false),
            ("http://KEYCLOAK.ns.SVC.cluster.local.", false),
            ("http://svc.example.com", true),
            ("http://keycloak.svc.cluster.local.example.com", true),
            ("http://localhost:8080", false),
            ("http://id.localhost", false),
            ("http://127.0.0.7", false),
            ("http://[::1]", false),
        ] {
            assert_eq!(is_in_the_clear(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}

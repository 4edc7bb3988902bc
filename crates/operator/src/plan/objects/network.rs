//! NetworkPolicies. Kubernetes' own know no host names, so a name becomes "public addresses on its port".

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};
use skep_api::address::{Place, is_api_server, is_loopback_name, place};
use skep_api::crd::parse::INVALID_FIELD;
use skep_api::crd::pod::AllowedEgress;
use skep_api::crd::remote_proxy::RemoteProxy;
use skep_api::crd::server::{PermissionSource, Server};
use skep_api::names;
use url::{Host, Url};

use super::super::Workload;
use super::super::findings::Findings;
use super::metadata::Owner;
use super::monitor::diagnostics_port;

/// Private networks that a public name does not resolve to.
const PRIVATE_V4: [&str; 6] =
    ["10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"];
const PRIVATE_V6: [&str; 2] = ["fc00::/7", "fe80::/10"];
/// Networks that nothing is let out to, however private it may be.
const NEVER_V4: [&str; 2] = ["127.0.0.0/8", "169.254.0.0/16"];
const NEVER_V6: [&str; 1] = ["fe80::/10"];

/// Label that the API server puts on every namespace: its name.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// Port of Redis.
const REDIS_PORT: u16 = 6379;
/// Port on which API servers commonly listen behind their Service.
const API_SERVER_PORT: u16 = 6443;

/// Where connections may go.
#[derive(Default)]
struct Egress {
    /// Ports to every public address.
    public: BTreeSet<u16>,
    /// Ports to every address but node-local ones.
    anywhere: BTreeSet<u16>,
    /// Ports to one network.
    networks: BTreeMap<String, BTreeSet<u16>>,
    /// Namespaces of names of this cluster; none for the policy's own.
    namespaces: BTreeSet<Option<String>>,
    /// Names that became addresses.
    names: BTreeSet<String>,
}

impl Egress {
    fn url(&mut self, url: &str, private: bool) {
        let Ok(url) = Url::parse(url) else { return };
        let Some(port) = url.port_or_known_default() else { return };
        match url.host() {
            Some(Host::Ipv4(address)) => self.network(IpAddr::V4(address), port),
            Some(Host::Ipv6(address)) => self.network(IpAddr::V6(address), port),
            Some(Host::Domain(name)) => self.name(name, port, private),
            None => {}
        }
    }

    /// A host with or without a port, which may be private.
    fn address(&mut self, text: &str, default_port: u16) {
        // Hosts of this scheme are judged as those of all others here, and its own port is given as none.
        let Ok(mut url) = Url::parse(&format!("http://{text}")) else { return };
        if url.port().is_none() && !text.ends_with(":80") {
            let _ = url.set_port(Some(default_port));
        }
        self.url(url.as_str(), true);
    }

    fn name(&mut self, name: &str, port: u16, private: bool) {
        self.names.insert(name.to_owned());
        let cluster = is_cluster_name(name);
        if cluster {
            self.namespaces.insert(namespace_of(name).map(ToOwned::to_owned));
        }
        if cluster || private {
            self.anywhere.insert(port);
        } else {
            self.public.insert(port);
        }
        // Behind its Service the API server is no pod, and has a port of its own.
        if is_api_server(name) {
            self.anywhere.insert(API_SERVER_PORT);
        }
    }

    fn network(&mut self, address: IpAddr, port: u16) {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        self.networks.entry(format!("{address}/{bits}")).or_default().insert(port);
    }

    fn rules(&self) -> Vec<Value> {
        let mut rules =
            vec![json!({"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]})];
        for (ports, v4, v6) in [
            (&self.public, PRIVATE_V4.as_slice(), PRIVATE_V6.as_slice()),
            (&self.anywhere, NEVER_V4.as_slice(), NEVER_V6.as_slice()),
        ] {
            if !ports.is_empty() {
                rules.push(json!({
                    "to": [
                        {"ipBlock": {"cidr": "0.0.0.0/0", "except": v4}},
                        {"ipBlock": {"cidr": "::/0", "except": v6}},
                    ],
                    "ports": tcp(ports),
                }));
            }
        }
        // A policy may be judged after the Service's address and port have become a pod's, and nothing here
        // says what those are.
        let peers: Vec<Value> = self
            .namespaces
            .iter()
            .map(|namespace| match namespace {
                Some(name) => json!({"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: name}}}),
                None => json!({"podSelector": {}}),
            })
            .collect();
        if !peers.is_empty() {
            rules.push(json!({"to": peers}));
        }
        for (network, ports) in &self.networks {
            let mut block = json!({"cidr": network});
            let without = parts_never(network);
            if let (false, Some(map)) = (without.is_empty(), block.as_object_mut()) {
                map.insert("except".to_owned(), json!(without));
            }
            rules.push(json!({"to": [{"ipBlock": block}], "ports": tcp(ports)}));
        }
        rules
    }
}

/// The NetworkPolicy of a remote proxy: in on its port and that of its diagnostics, out to DNS, the remote server, the identity
/// provider, the session store and what the manifest adds.
pub(super) fn policy(
    owner: &Owner<'_>,
    labels: &BTreeMap<String, String>,
    spec: &RemoteProxy,
    workload: &Workload,
    findings: &mut Findings<'_>,
) -> Value {
    let config = &workload.run_config;
    let mut egress = Egress::default();
    egress.url(&config.remote_url, spec.allow_private_endpoint);
    let first = config.oidc_config.iter().map(|oidc| (oidc, &config.skep.issuer));
    let further = config.skep.further_issuers.iter().map(|further| (&further.oidc_config, &further.rules));
    for (oidc, rules) in first.chain(further) {
        // Identity providers may be private, and discovery may name another port of theirs.
        for url in [&oidc.issuer, &oidc.jwks_url, &oidc.introspection_url, &rules.discovery_url] {
            egress.url(url, true);
        }
    }
    if let Some(exchange) = &config.token_exchange_config {
        egress.url(&exchange.token_url, true);
    }
    if let Some(aws) = &config.aws_sts_config {
        match config.skep.aws.sts_endpoint.as_str() {
            "" => egress.name(&format!("sts.{}.amazonaws.com", aws.region), 443, false),
            endpoint => egress.url(endpoint, true),
        }
    }
    if let Some(address) = config
        .scaling_config
        .as_ref()
        .and_then(|scaling| scaling.session_redis.as_ref())
        .and_then(|redis| redis.get("address"))
        .and_then(Value::as_str)
    {
        egress.address(address, REDIS_PORT);
    }
    for (index, allowed) in spec.network_policy.allowed_egress.iter().flatten().enumerate() {
        let path = format!("spec.networkPolicy.allowedEgress[{index}]");
        destination(allowed, &path, &mut egress, findings);
    }
    if !egress.names.is_empty() {
        let names: Vec<&str> = egress.names.iter().map(String::as_str).collect();
        findings.warning(
            "spec.networkPolicy",
            "NetworkPolicyApproximate",
            format!(
                "Kubernetes' NetworkPolicy knows no host names, so {} became all addresses on the same port{}.",
                names.join(", "),
                if egress.namespaces.is_empty() { "" } else { ", and for names of this cluster all pods of the namespace on any port" },
            ),
        );
    }
    // The operator asks there for the status, and Prometheus for metrics.
    let diagnostics = diagnostics_port(config);
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owner.metadata(owner.name, labels, &BTreeMap::new()),
        "spec": {
            "podSelector": {"matchLabels": labels},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": tcp(&BTreeSet::from([config.port, diagnostics]))}],
            "egress": egress.rules(),
        },
    })
}

/// Lets out to what the manifest adds, or says what is wrong with it.
fn destination(allowed: &AllowedEgress, path: &str, egress: &mut Egress, findings: &mut Findings<'_>) {
    let given = allowed.ports.clone().unwrap_or_default();
    for (index, _) in given.iter().enumerate().filter(|(_, port)| **port == 0) {
        findings.error(
            format!("{path}.ports[{index}]"),
            INVALID_FIELD,
            "A port is a number from 1 to 65535.",
        );
    }
    let ports: BTreeSet<u16> =
        if given.is_empty() { BTreeSet::from([443]) } else { given.into_iter().collect() };
    let never = "Nothing is let out to this machine, to link-local and to other reserved addresses; metadata services have theirs there. Remove it.";
    match (&allowed.host, &allowed.cidr) {
        (Some(host), None) => match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) if !may_be_called(address) => {
                findings.error(format!("{path}.host"), INVALID_FIELD, never)
            }
            Ok(address) => ports.into_iter().for_each(|port| egress.network(address, port)),
            Err(_) if names::is_dns_subdomain(&host.to_ascii_lowercase()) && !is_loopback_name(host) => {
                ports.into_iter().for_each(|port| egress.name(host, port, false));
            }
            Err(_) => {
                let message = if is_loopback_name(host) {
                    never.to_owned()
                } else {
                    format!(
                        "`{}` is neither the name of a host nor an address. A network stands in `cidr`, and ports in `ports`.",
                        host.escape_debug()
                    )
                };
                findings.error(format!("{path}.host"), INVALID_FIELD, message);
            }
        },
        (None, Some(cidr)) => match network(cidr) {
            None => findings.error(
                format!("{path}.cidr"),
                INVALID_FIELD,
                format!("`{}` is not a network such as `10.0.0.0/8`.", cidr.escape_debug()),
            ),
            Some((address, bits)) if never_in(address, bits) => {
                findings.error(format!("{path}.cidr"), INVALID_FIELD, never);
            }
            Some(_) => egress.networks.entry(cidr.clone()).or_default().extend(ports),
        },
        _ => findings.error(path, INVALID_FIELD, "Give exactly one of `host` and `cidr`."),
    }
}

/// The NetworkPolicy of an MCP server's backend: only its own proxy comes in, and with the profile
/// `none` nothing goes out.
pub(super) fn backend(owner: &Owner<'_>, proxy: &BTreeMap<String, String>, spec: &Server) -> Value {
    let closed = spec.permission_profile.as_ref().is_some_and(|profile| {
        profile.enforce.unwrap_or(true)
            && profile.kind.unwrap_or_default() == PermissionSource::Builtin
            && profile.name == "none"
    });
    let mut types = vec!["Ingress"];
    let mut policy = json!({
        "podSelector": {"matchLabels": {"app": owner.name, "toolhive": "true"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": proxy}}]}],
    });
    if closed {
        types.push("Egress");
        if let Some(map) = policy.as_object_mut() {
            map.insert("egress".to_owned(), json!([]));
        }
    }
    if let Some(map) = policy.as_object_mut() {
        map.insert("policyTypes".to_owned(), json!(types));
    }
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owner.metadata(&names::backend_policy(owner.name), proxy, &BTreeMap::new()),
        "spec": policy,
    })
}

fn tcp(ports: &BTreeSet<u16>) -> Vec<Value> {
    ports.iter().map(|port| json!({"protocol": "TCP", "port": port})).collect()
}

fn is_cluster_name(name: &str) -> bool {
    !name.contains('.') || name.ends_with(".svc") || name.ends_with(".cluster.local")
}

/// The namespace that a name of this cluster says.
fn namespace_of(name: &str) -> Option<&str> {
    let service = name.strip_suffix(".cluster.local").unwrap_or(name).strip_suffix(".svc")?;
    service.rsplit_once('.').map(|(_, namespace)| namespace)
}

/// Address and bits of a network.
fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let (address, bits) = (address.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?);
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

fn may_be_called(address: IpAddr) -> bool {
    matches!(place(address), Place::Public | Place::Private)
}

/// True for a network that lies in one of those that nothing is let out to.
fn never_in(address: IpAddr, bits: u8) -> bool {
    // `0.0.0.0` is an address of this machine, and the beginning of networks that are wider.
    forbidden(address).any(|(_, within)| bits >= within) || (bits > 8 && !may_be_called(address))
}

/// The parts of a network that nothing is let out to.
fn parts_never(text: &str) -> Vec<&'static str> {
    let Some((address, bits)) = network(text) else { return Vec::new() };
    let all = if address.is_ipv4() { NEVER_V4.as_slice() } else { NEVER_V6.as_slice() };
    all.iter()
        .copied()
        .filter(|part| network(part).is_some_and(|(part, within)| within > bits && same(part, address, bits)))
        .collect()
}

/// Those networks that hold the address.
fn forbidden(address: IpAddr) -> impl Iterator<Item = (IpAddr, u8)> {
    let all = if address.is_ipv4() { NEVER_V4.as_slice() } else { NEVER_V6.as_slice() };
    all.iter().filter_map(|text| network(text)).filter(move |(part, bits)| same(*part, address, *bits))
}

/// True when both begin with the same bits.
fn same(one: IpAddr, other: IpAddr, bits: u8) -> bool {
    let differ = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            u128::from((u32::from(one) ^ u32::from(other)).leading_zeros())
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            u128::from((u128::from(one) ^ u128::from(other)).leading_zeros())
        }
        _ => return false,
    };
    differ >= u128::from(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_nothing_is_let_out_to_are_refused_or_left_out() {
        for (cidr, refused, without) in [
            ("10.0.0.0/8", false, vec![]),
            ("192.0.2.0/24", false, vec![]),
            ("127.0.0.0/8", true, vec![]),
            ("127.0.0.1/32", true, vec![]),
            ("169.254.169.254/32", true, vec![]),
            ("169.254.0.0/16", true, vec![]),
            ("169.0.0.0/8", false, vec!["169.254.0.0/16"]),
            ("0.0.0.0/0", false, vec!["127.0.0.0/8", "169.254.0.0/16"]),
            ("0.0.0.0/32", true, vec![]),
            ("224.0.0.1/32", true, vec![]),
            ("::1/128", true, vec![]),
            ("fe80::1/128", true, vec![]),
            ("fe80::/10", true, vec![]),
            ("::/0", false, vec!["fe80::/10"]),
            ("fd00::/8", false, vec![]),
        ] {
            let (address, bits) = network(cidr).unwrap();
            assert_eq!(never_in(address, bits), refused, "{cidr}");
            assert_eq!(parts_never(cidr), if refused { vec![] } else { without }, "{cidr}");
        }
        for text in ["10.0.0.0", "10.0.0.0/33", "::/129", "a/8", "10.0.0.0/-1", ""] {
            assert_eq!(network(text), None, "{text}");
        }
    }

    #[test]
    fn the_namespace_of_a_name_is_the_last_part_before_svc() {
        for (name, expected) in [
            ("idp.login.svc", Some("login")),
            ("idp.login.svc.cluster.local", Some("login")),
            ("pod.idp.login.svc", Some("login")),
            ("idp", None),
            ("login.svc", None),
            ("idp.example.com", None),
        ] {
            assert_eq!(namespace_of(name), expected, "{name}");
        }
    }
}

//! NetworkPolicies. Kubernetes' own know no host names, so a name becomes "public addresses on its port".

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};
use skep_api::address::is_api_server;
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
    /// Names of this cluster are among them.
    cluster: bool,
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
        self.cluster |= cluster;
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
        if self.cluster {
            rules.push(json!({"to": [{"namespaceSelector": {}}]}));
        }
        for (network, ports) in &self.networks {
            rules.push(json!({"to": [{"ipBlock": {"cidr": network}}], "ports": tcp(ports)}));
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
        let ports: BTreeSet<u16> = allowed
            .ports
            .clone()
            .filter(|ports| !ports.is_empty())
            .unwrap_or_else(|| vec![443])
            .into_iter()
            .collect();
        match (&allowed.host, &allowed.cidr) {
            (Some(host), None) => {
                for port in ports {
                    match host.parse::<IpAddr>() {
                        Ok(address) => egress.network(address, port),
                        Err(_) => egress.name(host, port, false),
                    }
                }
            }
            (None, Some(cidr)) if is_cidr(cidr) => {
                egress.networks.entry(cidr.clone()).or_default().extend(ports)
            }
            (None, Some(cidr)) => {
                findings.error(
                    format!("{path}.cidr"),
                    skep_api::crd::parse::INVALID_FIELD,
                    format!("`{}` is not a network such as `10.0.0.0/8`.", cidr.escape_debug()),
                );
            }
            _ => findings.error(
                path,
                skep_api::crd::parse::INVALID_FIELD,
                "Give exactly one of `host` and `cidr`.",
            ),
        }
    }
    if !egress.names.is_empty() {
        let names: Vec<&str> = egress.names.iter().map(String::as_str).collect();
        findings.warning(
            "spec.networkPolicy",
            "NetworkPolicyApproximate",
            format!(
                "Kubernetes' NetworkPolicy knows no host names, so {} became all addresses on the same port{}.",
                names.join(", "),
                if egress.cluster { ", and for names of this cluster all pods on any port" } else { "" },
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

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    match (address.parse::<IpAddr>(), bits.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(bits)) => bits <= 32,
        (Ok(IpAddr::V6(_)), Ok(bits)) => bits <= 128,
        _ => false,
    }
}

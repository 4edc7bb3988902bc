//! Whether identity providers answer, are who they say they are, and share the cluster's time.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use jiff::SignedDuration;
use serde_json::Value;
use skep_api::address::{Egress, Reach};
use skep_api::crd::Kind;
use skep_auth::client::{ClientConfig, GuardedClient};
use skep_auth::discovery::jwks_url;
use skep_auth::names::Issuer;
use skep_runtime::clock::SharedClock;
use skep_runtime::logging::chain;
use url::Url;

use super::api_server::LEEWAY;
use super::cluster::{ahead, text};
use super::finding::{Findings, Level, shown};
use super::proxies::Object;

const CHECK: &str = "issuer";
/// Issuers that are asked at the same time.
const AT_ONCE: usize = 8;

/// How manifests speak to an issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Said {
    /// Somebody allows plain http.
    http: bool,
    /// Everybody names the keys or an introspection endpoint, so that discovery is not needed.
    without_discovery: bool,
    /// Somebody brings CA certificates of his own, which are not at hand here.
    own_ca: bool,
}

/// Asks each issuer that a manifest names, from here. `server_ahead`: how far the API server's clock is ahead of
/// ours.
pub(super) async fn check(
    objects: &[Object],
    egress: Egress,
    server_ahead: SignedDuration,
    clock: &SharedClock,
    findings: &mut Findings,
) {
    let issuers = named(objects);
    let lines: Vec<Line> = futures_util::stream::iter(issuers)
        .map(|(issuer, said)| {
            let egress = egress.clone();
            async move { one(&issuer, &said, egress, server_ahead, clock).await }
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    for Line { level, message, remedy } in lines {
        findings.add(level, CHECK, message, remedy);
    }
}

struct Line {
    level: Level,
    message: String,
    remedy: String,
}

fn line(level: Level, message: String, remedy: &str) -> Line {
    Line { level, message, remedy: remedy.to_owned() }
}

async fn one(
    issuer: &str,
    said: &Said,
    egress: Egress,
    server_ahead: SignedDuration,
    clock: &SharedClock,
) -> Line {
    let shown_issuer = shown(issuer);
    let parsed = match Issuer::parse(issuer, said.http) {
        Ok(parsed) => parsed,
        Err(error) => return line(Level::Fail, shown(&error.to_string()), "Correct it in the manifest."),
    };
    if is_inside(issuer) {
        return line(
            Level::Skip,
            format!("{shown_issuer} is inside the cluster and can't be asked from here"),
            "",
        );
    }
    let mut config = ClientConfig::new(egress);
    // URLs of identity providers that a manifest names may be private.
    config.reach = Reach { http: said.http, private: true };
    let client = match GuardedClient::new(config) {
        Ok(client) => client,
        Err(error) => return line(Level::Fail, chain(&error), ""),
    };
    let (worst, remedy) = if said.own_ca {
        (
            Level::Warn,
            "It has CA certificates of its own in a ConfigMap, which are not used here: the proxies' own reports count.",
        )
    } else if said.without_discovery {
        (Level::Warn, "The manifests name its keys, so proxies can do without.")
    } else {
        (
            Level::Fail,
            "Proxies can't judge its tokens while that is so, if they can't reach it either. Is the URL right, and the provider up?",
        )
    };
    let keys = match jwks_url(&client, &parsed, None, None).await {
        Ok(keys) => keys,
        Err(error) => return line(worst, format!("{shown_issuer}: {}", shown(&chain(&error))), remedy),
    };
    if let Err(error) = client.get_json(&keys, None).await {
        return line(
            worst,
            format!("{shown_issuer}: its keys can't be had: {}", shown(&chain(&error))),
            remedy,
        );
    }
    match off(&client, &parsed, server_ahead, clock).await {
        Some(off) if off.abs() > LEEWAY => {
            let (way, effect) = if off.is_positive() {
                ("ahead of", "Its new tokens are refused as not yet valid")
            } else {
                ("behind", "Its tokens end early or late")
            };
            line(
                Level::Fail,
                format!("{shown_issuer}: its clock is {} s {way} the API server's", off.abs().as_secs()),
                &format!("{effect}. Set both by NTP; no more than {} s are borne.", LEEWAY.as_secs()),
            )
        }
        Some(_) => line(Level::Ok, format!("{shown_issuer} answers, and its clock is right"), ""),
        None => line(Level::Ok, format!("{shown_issuer} answers; it tells no time"), ""),
    }
}

/// How far an issuer's clock is ahead of the API server's.
async fn off(
    client: &GuardedClient,
    issuer: &Issuer,
    server_ahead: SignedDuration,
    clock: &SharedClock,
) -> Option<SignedDuration> {
    let url = Url::parse(&issuer.discovery_url()).ok()?;
    let reply = client.get(&url).await.ok()?;
    Some(ahead(&reply.headers, clock)?.saturating_sub(server_ahead))
}

/// The issuers that OIDC configs and workloads name, each once.
fn named(objects: &[Object]) -> BTreeMap<String, Said> {
    let mut found = BTreeMap::new();
    for (kind, object) in objects {
        let part = if *kind == Kind::MCPOIDCConfig { "/spec" } else { "/spec/oidcConfig" };
        if let Some(part) = object.pointer(part) {
            gather(part, &mut found);
        }
    }
    found
}

fn gather(node: &Value, found: &mut BTreeMap<String, Said>) {
    let issuer = text(node, "/issuer");
    if !issuer.is_empty() {
        let is = |field: &str| node.get(field).is_some_and(|value| !value.is_null() && value != "");
        let said = found
            .entry(issuer.to_owned())
            .or_insert_with(|| Said { without_discovery: true, ..Said::default() });
        said.http |= node.get("insecureAllowHTTP").and_then(Value::as_bool).unwrap_or(false);
        said.own_ca |= is("caBundleRef") || is("thvCABundlePath");
        said.without_discovery &= is("jwksUrl") || is("introspectionUrl");
    }
    match node {
        Value::Object(fields) => fields.values().for_each(|value| gather(value, found)),
        Value::Array(items) => items.iter().for_each(|value| gather(value, found)),
        _ => {}
    }
}

/// Names that only the cluster's DNS knows.
fn is_inside(issuer: &str) -> bool {
    let host = Url::parse(issuer).ok().and_then(|url| url.host_str().map(str::to_owned));
    host.is_some_and(|host| host.ends_with(".svc") || host.ends_with(".cluster.local"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn issuers_are_found_wherever_they_are_named() {
        let objects = [
            (
                Kind::MCPOIDCConfig,
                json!({"spec": {"inline": {"issuer": "https://a", "jwksUrl": "https://a/k"}}}),
            ),
            (Kind::MCPServer, json!({"spec": {"oidcConfig": {"inline": {"issuer": "https://a"}}}})),
            (
                Kind::MCPRemoteProxy,
                json!({"spec": {"oidcConfig": {"inline": {
                "issuer": "http://b", "insecureAllowHTTP": true,
                "additionalIssuers": [{"issuer": "https://c", "caBundleRef": {"name": "ca"}, "introspectionUrl": "https://c/i"}],
            }}, "other": {"issuer": "https://not-this"}}}),
            ),
        ];
        let found = named(&objects);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["http://b", "https://a", "https://c"]);
        assert_eq!(found["https://a"], Said::default(), "one of the two needs discovery");
        assert!(found["http://b"].http);
        assert_eq!(found["https://c"], Said { own_ca: true, without_discovery: true, http: false });
    }

    #[test]
    fn names_of_the_clusters_dns_are_known() {
        for (issuer, inside) in [
            ("https://kubernetes.default.svc", true),
            ("https://kubernetes.default.svc.cluster.local", true),
            ("http://keycloak.idp.svc:8080/realms/a", true),
            ("https://svc.example.com", false),
        ] {
            assert_eq!(is_inside(issuer), inside, "{issuer}");
        }
    }
}

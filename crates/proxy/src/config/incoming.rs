//! How callers are known: `oidc_config`, the issuers besides it, and the rules that go with each.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use jsonwebtoken::Algorithm;
use skep_api::address::{Egress, POD_TOKEN_DIR, Reach, is_api_server};
use skep_api::runconfig::{IssuerRules, OidcConfig, RunConfig, TokenProfile};
use skep_auth::identity::Namespace;
use skep_auth::introspection::{CACHE_TTL, Dialect, IntrospectionSettings};
use skep_auth::names::{Audience, Issuer, TENANT};
use skep_auth::pins::Pins;
use skep_auth::rules::{CLIENT_PREFIX, TokenRules};
use url::{Host, Url};

use super::secrets::Secrets;
use super::{ConfigError, file};

/// Environment variable of the secret for the introspection endpoint.
const CLIENT_SECRET: &str = "TOOLHIVE_OIDC_CLIENT_SECRET";

/// Longest tolerance for `exp` and `nbf`, in seconds.
const MAX_CLOCK_SKEW: u64 = 300;

/// Longest time for which an answer about an opaque token is kept, in seconds.
const MAX_CACHE_TTL: u64 = 3600;

/// How callers are known.
#[derive(Debug, Clone)]
pub enum AuthSettings {
    /// Everybody may call.
    Anonymous,
    /// By the tokens of one or more issuers.
    Token(Box<TokenSettings>),
}

/// Whose tokens are accepted, and what clients are told about that.
#[derive(Debug, Clone)]
pub struct TokenSettings {
    /// The issuers; never empty, the one of `oidc_config` first.
    pub issuers: Vec<IssuerSettings>,
    /// The resource's own URL, for its metadata.
    pub resource_url: Option<String>,
    /// Scopes that are advertised: those that are configured, and those without which the first issuer's
    /// tokens are of no use.
    pub scopes: Vec<String>,
}

/// Everything about one issuer's tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct IssuerSettings {
    /// Who issues them.
    pub issuer: Issuer,
    /// Where the keys are, when it is not left to discovery.
    pub jwks_url: Option<Url>,
    /// Where the discovery document is, when it is not below the issuer.
    pub discovery_url: Option<Url>,
    /// What makes a token good; its audiences are never empty.
    pub rules: TokenRules,
    /// How opaque tokens are asked about.
    pub introspection: Option<IntrospectionSettings>,
    /// CA certificates for the issuer, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// File with a token for the key endpoint.
    pub token_file: Option<PathBuf>,
    /// What the issuer's servers must show.
    pub pins: Pins,
    /// What calls to the issuer may reach.
    pub reach: Reach,
    /// What the process may reach for this issuer: the API server only if it is the issuer.
    pub egress: Egress,
}

impl IssuerSettings {
    /// True when the issuer's keys are got in the same way as with `other`.
    pub fn same_keys(&self, other: &Self) -> bool {
        self.issuer == other.issuer
            && self.jwks_url == other.jwks_url
            && self.discovery_url == other.discovery_url
            && self.ca_pem == other.ca_pem
            && self.token_file == other.token_file
            && self.pins == other.pins
            && self.reach == other.reach
            && self.egress == other.egress
            && self.has_keys() == other.has_keys()
    }

    /// True when the keys are the same issuer's, from the same place and with the same proof of who serves
    /// them, whatever has changed about how it is reached. Keys of the one then are good keys of the other.
    pub fn same_key_source(&self, other: &Self) -> bool {
        self.issuer == other.issuer
            && self.jwks_url == other.jwks_url
            && self.discovery_url == other.discovery_url
            && self.pins == other.pins
            && self.has_keys() == other.has_keys()
    }

    /// False for an issuer that has no keys, since none of its tokens are JWTs.
    pub fn has_keys(&self) -> bool {
        !self.introspection.as_ref().is_some_and(|settings| settings.dialect.is_keyless())
    }

    /// The issuer as tokens name it: one for each tenant, where it has some.
    pub fn names(&self) -> Vec<String> {
        if !self.issuer.has_tenants() {
            return vec![self.issuer.as_str().to_owned()];
        }
        self.rules.tenants.iter().map(|tenant| self.issuer.of_tenant(tenant)).collect()
    }
}

/// Settings for callers that are known by `oidc` and the issuers besides it.
pub(super) fn token_settings(
    oidc: &OidcConfig,
    secrets: &mut Secrets<'_>,
) -> Result<TokenSettings, ConfigError> {
    let run = secrets.run;
    let first = Place { further: None };
    let resource_url = match oidc.resource_url.as_str() {
        "" => None,
        text => {
            Url::parse(text).map_err(|_| first.invalid("oidc_config.ResourceURL", "it is not a URL"))?;
            Some(text.to_owned())
        }
    };
    let mut issuers = vec![issuer(oidc, &run.skep.issuer, "", &oidc.resource_url, first, secrets)?];
    for (index, further) in run.skep.further_issuers.iter().enumerate() {
        let at = Place { further: Some(index) };
        let (config, prefix) = (&further.oidc_config, further.subject_prefix.as_str());
        check_prefix(prefix, at)?;
        if !config.resource_url.is_empty() && config.resource_url != oidc.resource_url {
            let reason = "there is one resource: it is that of the first issuer; leave it out here";
            return Err(at.invalid("oidc_config.ResourceURL", reason));
        }
        if !config.scopes.is_empty() && config.scopes != oidc.scopes {
            let reason = "they are advertised by the first issuer's; leave them out here";
            return Err(at.invalid("oidc_config.Scopes", reason));
        }
        issuers.push(issuer(config, &further.rules, prefix, &oidc.resource_url, at, secrets)?);
    }
    check_together(&issuers)?;
    let mut scopes = oidc.scopes.clone();
    for scope in &run.skep.issuer.required_scopes {
        if !scopes.contains(scope) {
            scopes.push(scope.clone());
        }
    }
    Ok(TokenSettings { issuers, resource_url, scopes })
}

/// Rules for tokens in a file that asks nobody for one would be passed over in silence.
pub(super) fn refuse_unused(run: &RunConfig) -> Result<(), ConfigError> {
    let unused = |key| ConfigError::Invalid {
        key,
        reason: "there is no oidc_config, so no token is judged; add it, or remove this".to_owned(),
    };
    if !run.skep.further_issuers.is_empty() {
        return Err(unused("skep.further_issuers"));
    }
    if run.skep.issuer != IssuerRules::default() {
        return Err(unused("skep.issuer"));
    }
    Ok(())
}

/// Which issuer a message is about.
#[derive(Debug, Clone, Copy)]
struct Place {
    further: Option<usize>,
}

impl Place {
    /// `key` as it is called for the issuer of `oidc_config`.
    fn invalid(self, key: &'static str, reason: &str) -> ConfigError {
        match self.further {
            None => ConfigError::Invalid { key, reason: reason.to_owned() },
            Some(index) => ConfigError::Invalid {
                key: "skep.further_issuers",
                reason: format!("entry {index}, {}: {reason}", key.replace("skep.issuer", "rules")),
            },
        }
    }
}

fn issuer(
    oidc: &OidcConfig,
    rules: &IssuerRules,
    prefix: &str,
    resource_url: &str,
    at: Place,
    secrets: &mut Secrets<'_>,
) -> Result<IssuerSettings, ConfigError> {
    if !oidc.client_secret.is_empty() {
        let reason = format!("a secret has no place in this file; set {CLIENT_SECRET}");
        return Err(at.invalid("oidc_config.ClientSecret", &reason));
    }
    let issuer =
        Issuer::parse(&oidc.issuer, oidc.insecure_allow_http).map_err(|source| match at.further {
            None => ConfigError::Issuer(source),
            Some(_) => at.invalid("oidc_config.Issuer", &source.to_string()),
        })?;
    check_tenants(&issuer, rules, at)?;
    let url = |key, text: &str| optional_url(key, text, oidc.insecure_allow_http, at);
    let jwks_url = url("oidc_config.JWKSURL", &oidc.jwks_url)?;
    let discovery_url = url("skep.issuer.discovery_url", &rules.discovery_url)?;
    if jwks_url.is_some() && discovery_url.is_some() {
        let reason = "with JWKSURL nothing is left to be discovered; remove one of them";
        return Err(at.invalid("skep.issuer.discovery_url", reason));
    }
    // The cluster's own token is for the cluster's own issuer, which is the first.
    let own_file = &oidc.auth_token_file;
    let shared_file = if at.further.is_none() { secrets.run.jwks_auth_token_file.as_str() } else { "" };
    let servers = Servers::of(oidc, rules, secrets);
    let token_file = match if own_file.is_empty() { shared_file } else { own_file } {
        "" => None,
        path if is_pod_token(Path::new(path)) && !servers.are_api_server => {
            let reason = "it is the pod's own token, which is for the Kubernetes API server alone, and would be \
                          sent to another host";
            return Err(at.invalid("oidc_config.AuthTokenFile", reason));
        }
        path => {
            file("oidc_config.AuthTokenFile", path, secrets.files)?;
            Some(PathBuf::from(path))
        }
    };
    // Who may vouch for one issuer may not vouch for another.
    let shared_ca = if at.further.is_none() { secrets.run.thv_ca_bundle.as_str() } else { "" };
    let ca_pem = match if oidc.ca_cert_path.is_empty() { shared_ca } else { &oidc.ca_cert_path } {
        "" => None,
        path => Some(file("oidc_config.CACertPath", path, secrets.files)?),
    };
    let pins = Pins::parse(&rules.jwks_pins, &rules.jwks_cert_fingerprint)
        .map_err(|error| at.invalid("skep.issuer.jwks_pins", &error.to_string()))?;
    let introspection = introspection(oidc, rules, token_file.clone(), at, secrets)?;
    let urls = [&oidc.issuer, &oidc.jwks_url, &rules.discovery_url, &oidc.introspection_url];
    if !pins.is_empty() && urls.iter().any(|text| text.starts_with("http:")) {
        let reason = "a server shows its key over https only; every URL of this issuer must be https";
        return Err(at.invalid("skep.issuer.jwks_pins", reason));
    }
    Ok(IssuerSettings {
        rules: token_rules(oidc, rules, prefix, resource_url, at)?,
        issuer,
        jwks_url,
        discovery_url,
        introspection,
        ca_pem,
        token_file,
        pins,
        // The URLs of identity providers that a manifest names may lie inside the network.
        reach: Reach { http: oidc.insecure_allow_http, private: true },
        egress: servers.egress,
    })
}

/// By whatever way the path leads there.
pub(super) fn is_pod_token(path: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.starts_with(POD_TOKEN_DIR) || real(path).starts_with(real(Path::new(POD_TOKEN_DIR)))
}

/// Who is called for an issuer's tokens.
struct Servers {
    are_api_server: bool,
    egress: Egress,
}

impl Servers {
    /// Nothing that a manifest names may be the API server, unless its own tokens are judged.
    fn of(oidc: &OidcConfig, rules: &IssuerRules, secrets: &Secrets<'_>) -> Self {
        let address = (secrets.surroundings.variable)("KUBERNETES_SERVICE_HOST")
            .and_then(|host| host.expose().parse::<IpAddr>().ok());
        let is_api_server = |text: &str| {
            let url = Url::parse(text).ok();
            let literal = |url: &Url| match url.host() {
                Some(Host::Ipv4(host)) => Some(IpAddr::V4(host)),
                Some(Host::Ipv6(host)) => Some(IpAddr::V6(host)),
                _ => None,
            };
            url.is_some_and(|url| {
                url.host_str().is_some_and(is_api_server)
                    || literal(&url).is_some_and(|host| Some(host) == address)
            })
        };
        let first = [&oidc.jwks_url, &rules.discovery_url].into_iter().find(|url| !url.is_empty());
        let keys = first.unwrap_or(&oidc.issuer);
        let asked = Some(&oidc.introspection_url).filter(|url| !url.is_empty());
        let are_api_server = is_api_server(keys) && asked.is_none_or(|url| is_api_server(url));
        let mut egress = secrets.surroundings.egress.clone();
        if are_api_server {
            egress.deny.retain(|network| address.map(IpNet::from) != Some(*network));
        }
        Self { are_api_server, egress }
    }
}

fn token_rules(
    oidc: &OidcConfig,
    rules: &IssuerRules,
    prefix: &str,
    resource_url: &str,
    at: Place,
) -> Result<TokenRules, ConfigError> {
    let mut audiences: Vec<Audience> = std::iter::once(&oidc.audience)
        .chain(&rules.audiences)
        .filter_map(|text| Audience::parse(text))
        .collect();
    if audiences.is_empty() {
        audiences.extend(Audience::parse(resource_url));
    }
    if audiences.is_empty() {
        let reason = "without an audience any token of the issuer would be accepted; set it, or ResourceURL";
        return Err(at.invalid("oidc_config.Audience", reason));
    }
    if rules.profile == TokenProfile::Rfc9068 && rules.accept_id_token {
        let reason = "no ID token has the type that profile rfc9068 asks for; choose one of them";
        return Err(at.invalid("skep.issuer.accept_id_token", reason));
    }
    let scopes = rules.required_scopes.iter().chain(rules.scope_map.keys()).chain(rules.scope_map.values());
    if let Some(scope) = scopes.into_iter().find(|scope| !is_scope(scope)) {
        let reason = format!("{scope:?} is not a scope: it must be one word");
        return Err(at.invalid("skep.issuer.required_scopes or scope_map", &reason));
    }
    if rules.authorized_parties.iter().any(String::is_empty) {
        return Err(at.invalid("skep.issuer.authorized_parties", "a client id must not be empty"));
    }
    if rules.clock_skew_seconds.is_some_and(|seconds| seconds > MAX_CLOCK_SKEW) {
        let reason = format!("{MAX_CLOCK_SKEW} s at most: expired tokens are good for that long");
        return Err(at.invalid("skep.issuer.clock_skew_seconds", &reason));
    }
    Ok(TokenRules {
        audiences,
        algorithms: algorithms(&rules.allowed_algorithms, at)?,
        leeway: Duration::from_secs(rules.clock_skew_seconds.unwrap_or(30)),
        profile: rules.profile,
        accept_id_token: rules.accept_id_token,
        tenants: rules.tenants.clone(),
        authorized_parties: rules.authorized_parties.clone(),
        scope_map: rules.scope_map.clone(),
        required_scopes: rules.required_scopes.clone(),
        mappings: rules.claim_mappings.clone(),
        // What the others' are is known where all of them are.
        namespace: Namespace { prefix: prefix.to_owned(), foreign: Vec::new() },
        plain_client_subjects: rules.plain_client_subjects,
    })
}

fn introspection(
    oidc: &OidcConfig,
    rules: &IssuerRules,
    token_file: Option<PathBuf>,
    at: Place,
    secrets: &mut Secrets<'_>,
) -> Result<Option<IntrospectionSettings>, ConfigError> {
    const KEY: &str = "oidc_config.IntrospectionURL";
    let Some(url) = optional_url(KEY, &oidc.introspection_url, oidc.insecure_allow_http, at)? else {
        if rules.introspection.cache_ttl_seconds.is_some() {
            let reason = "nobody is asked about tokens: there is no IntrospectionURL";
            return Err(at.invalid("skep.issuer.introspection", reason));
        }
        return Ok(None);
    };
    // A secret goes with an id; without one the environment's is for somebody else.
    let client_secret = match oidc.client_id.is_empty() {
        true => None,
        false => secrets.variable(CLIENT_SECRET)?,
    };
    let dialect = Dialect::of(&url);
    if dialect == Dialect::GitHub && client_secret.is_none() {
        let reason = format!("GitHub wants the id and the secret ({CLIENT_SECRET}) of the OAuth app");
        return Err(at.invalid(KEY, &reason));
    }
    if rules.introspection.cache_ttl_seconds.is_some_and(|seconds| seconds > MAX_CACHE_TTL) {
        let reason = format!("{MAX_CACHE_TTL} s at most: revoked tokens are good for that long");
        return Err(at.invalid("skep.issuer.introspection.cache_ttl_seconds", &reason));
    }
    let cache_ttl = rules.introspection.cache_ttl_seconds.map_or(CACHE_TTL, Duration::from_secs);
    let client_id = oidc.client_id.clone();
    Ok(Some(IntrospectionSettings { url, dialect, client_id, client_secret, token_file, cache_ttl }))
}

/// What no issuer can say of itself alone: which of them a token or a subject belongs to must be certain.
fn check_together(issuers: &[IssuerSettings]) -> Result<(), ConfigError> {
    let invalid = |reason: String| Err(ConfigError::Invalid { key: "skep.further_issuers", reason });
    if issuers.iter().filter(|issuer| issuer.introspection.is_some()).count() > 1 {
        return invalid(
            "only one issuer may have an IntrospectionURL: an opaque token names none".to_owned(),
        );
    }
    for (position, one) in issuers.iter().enumerate() {
        for other in issuers.iter().skip(position + 1) {
            let trim = |name: &String| name.strip_suffix('/').unwrap_or(name).to_owned();
            let theirs: Vec<String> = other.names().iter().map(trim).collect();
            if let Some(twice) = one.names().iter().map(trim).find(|name| theirs.contains(name)) {
                return invalid(format!("the issuer {twice:?} is there twice"));
            }
            let (a, b) = (&one.rules.namespace.prefix, &other.rules.namespace.prefix);
            if !a.is_empty() && (a.starts_with(b.as_str()) || b.starts_with(a.as_str())) {
                return invalid(format!(
                    "the subject prefixes {a:?} and {b:?} begin alike; users of one could be taken for users of the other"
                ));
            }
        }
    }
    Ok(())
}

fn check_prefix(prefix: &str, at: Place) -> Result<(), ConfigError> {
    let invalid = |reason: &str| Err(at.invalid("subject_prefix", reason));
    if prefix.is_empty() {
        return invalid("it is needed, so that no two issuers' users are taken for one");
    }
    if prefix.starts_with(CLIENT_PREFIX) || CLIENT_PREFIX.starts_with(prefix) {
        return invalid("subjects that begin with \"client:\" are those of clients that call for themselves");
    }
    if prefix.chars().any(|character| character.is_control() || character.is_whitespace()) {
        return invalid("it must not have spaces or control characters");
    }
    Ok(())
}

fn check_tenants(issuer: &Issuer, rules: &IssuerRules, at: Place) -> Result<(), ConfigError> {
    const KEY: &str = "skep.issuer.tenants";
    match (issuer.has_tenants(), rules.tenants.is_empty()) {
        (true, true) => {
            let reason = format!(
                "the issuer has {TENANT} in it: without a list of tenants any company's users could call"
            );
            Err(at.invalid(KEY, &reason))
        }
        (false, false) => Err(at.invalid(KEY, &format!("the issuer has no {TENANT} in it"))),
        _ => {
            let id = |tenant: &String| {
                !tenant.is_empty() && tenant.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            };
            match rules.tenants.iter().find(|tenant| !id(tenant)) {
                Some(tenant) => Err(at.invalid(KEY, &format!("{tenant:?} is not the id of a tenant"))),
                None => Ok(()),
            }
        }
    }
}

fn optional_url(
    key: &'static str,
    text: &str,
    allow_http: bool,
    at: Place,
) -> Result<Option<Url>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    let url = Url::parse(text).map_err(|_| at.invalid(key, "it is not a URL"))?;
    if url.scheme() != "https" && !(url.scheme() == "http" && allow_http) {
        return Err(at.invalid(key, "it must be https (InsecureAllowHTTP permits http)"));
    }
    Ok(Some(url))
}

/// `scope-token` (RFC 6749 §3.3).
fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~'))
}

fn algorithms(names: &[String], at: Place) -> Result<Vec<Algorithm>, ConfigError> {
    if names.is_empty() {
        return Ok(skep_auth::jwt::ALGORITHMS.to_vec());
    }
    let read = |name: &String| {
        skep_auth::jwt::asymmetric(name).ok_or_else(|| {
            let reason = format!("{name:?} is not an algorithm that is ever accepted");
            at.invalid("skep.issuer.allowed_algorithms", &reason)
        })
    };
    names.iter().map(read).collect()
}

//! A RunConfig turned into what the proxy runs by. What can't be honoured is refused by name: a proxy
//! that starts does everything its file says.

mod limits;
mod middleware;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use jsonwebtoken::Algorithm;
use skep_api::address::{Egress, Reach};
use skep_api::headers::is_restricted;
use skep_api::runconfig::{
    AuditConfig, AuthMode, CedarConfig, ClientToken, OidcConfig, RunConfig, SCHEMA_VERSION, Transport,
};
use skep_api::secret::Secret;
use skep_auth::names::{Audience, Issuer, IssuerError};
use url::Url;

use crate::cedar::{Numbers, PolicyError};
use crate::tools::{ToolRules, ToolRulesError};

pub use self::limits::Limits;

/// Why a RunConfig is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{place} is not a RunConfig: {message}")]
    Parse { place: String, message: String },
    #[error("no RunConfig was found; looked for {}; give one with --config", looked.join(", "))]
    NotFound { looked: Vec<String> },
    #[error("schema_version {found:?} is not supported; this version reads {SCHEMA_VERSION:?}")]
    Version { found: String },
    #[error("{key} is not supported by this version; remove it, or run this workload with a version that is")]
    Unsupported { key: String },
    #[error("unsupported middleware type: {kind}")]
    Middleware { kind: String },
    #[error("{key}: {reason}")]
    Invalid { key: &'static str, reason: String },
    #[error("{first} and {second} contradict each other; make them equal or remove one")]
    Contradiction { first: &'static str, second: &'static str },
    #[error("{key} names the file {path}, which cannot be read")]
    File {
        key: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("oidc_config.Issuer")]
    Issuer(#[source] IssuerError),
    #[error("{key}: the secret {name} is not set; it is read from the environment variable {variable}")]
    SecretMissing { key: &'static str, name: String, variable: String },
    #[error(
        "there is no oidc_config, and nothing says that everybody may call; configure authentication, \
         or say authMode: anonymous"
    )]
    NoAuthentication,
    #[error("authz_config")]
    Policies(#[source] PolicyError),
    #[error(transparent)]
    Tools(#[from] ToolRulesError),
}

/// What a config may take from its surroundings.
pub struct Surroundings<'a> {
    /// Environment variables.
    pub variable: &'a dyn Fn(&str) -> Option<Secret>,
    /// What the process may reach.
    pub egress: Egress,
}

/// How callers are known.
#[derive(Debug, Clone)]
pub enum AuthSettings {
    /// Everybody may call.
    Anonymous,
    /// By the tokens of one issuer.
    Token(Box<TokenSettings>),
}

/// Everything about one issuer's tokens.
#[derive(Debug, Clone)]
pub struct TokenSettings {
    /// Who issues them.
    pub issuer: Issuer,
    /// Where the keys are, when it is not left to discovery.
    pub jwks_url: Option<Url>,
    /// Whom they must be meant for; never empty.
    pub audiences: Vec<Audience>,
    /// Accepted signature algorithms.
    pub algorithms: Vec<Algorithm>,
    /// Tolerance for times.
    pub leeway: Duration,
    /// The resource's own URL, for its metadata.
    pub resource_url: Option<String>,
    /// Scopes that are advertised.
    pub scopes: Vec<String>,
    /// CA certificates for the issuer, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// File with a token for the key endpoint.
    pub token_file: Option<PathBuf>,
    /// What calls to the issuer may reach.
    pub reach: Reach,
}

/// What one proxy runs by.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// Name of the workload.
    pub name: String,
    /// Where it listens; port 0 is any free one.
    pub bind: SocketAddr,
    /// URL of the MCP server.
    pub target: Url,
    /// The MCP server is somebody else's: its URL replaces the client's path.
    pub remote: bool,
    /// What calls to the MCP server may reach.
    pub target_reach: Reach,
    /// What the process may reach.
    pub egress: Egress,
    /// How callers are known.
    pub auth: AuthSettings,
    /// The client's own token is passed on (direct mode).
    pub forward_token: bool,
    /// Names of tools.
    pub tools: ToolRules,
    /// Policies, with how numbers look to them.
    pub policies: Option<(CedarConfig, Numbers)>,
    /// Audit, when it is on.
    pub audit: Option<AuditConfig>,
    /// Headers that every request to the MCP server gets; their values don't show in Debug.
    pub add_headers: Vec<(HeaderName, HeaderValue)>,
    /// Path prefix that clients see.
    pub endpoint_prefix: String,
    /// The client's address and host come from `X-Forwarded-*`.
    pub trust_proxy_headers: bool,
    /// Origins that are let in, when the config names some.
    pub allowed_origins: Vec<String>,
    /// Host names that are let in besides those that follow from the rest.
    pub allowed_hosts: Vec<String>,
    /// Unknown protocol versions are refused.
    pub strict_protocol_validation: bool,
    /// GET and DELETE are refused.
    pub stateless: bool,
    /// Port of the diagnostics listener.
    pub metrics_port: u16,
    /// `/metrics` is also served on the MCP port.
    pub metrics_on_transport_port: bool,
    /// Bounds.
    pub limits: Limits,
    /// Files that this config was made from, to be watched.
    pub files: Vec<PathBuf>,
}

/// Reads a RunConfig from a file.
///
/// # Errors
/// When it can't be read or is no RunConfig; the message has line and column.
pub fn read(path: &Path) -> Result<RunConfig, ConfigError> {
    let text = std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text, &path.display().to_string())
}

/// Reads a RunConfig from bytes; `place` is for messages.
///
/// # Errors
/// When it is no RunConfig; the message has line and column.
pub fn parse(bytes: &[u8], place: &str) -> Result<RunConfig, ConfigError> {
    let fault = |message: String| ConfigError::Parse { place: place.to_owned(), message };
    let text = skep_api::json::check(bytes, 64).map_err(|error| fault(error.to_string()))?;
    serde_json::from_str(text).map_err(|error| fault(error.to_string()))
}

/// The first RunConfig of the search path.
///
/// # Errors
/// When there is none, or it is no RunConfig.
pub fn find(search: &[&str]) -> Result<(PathBuf, RunConfig), ConfigError> {
    for place in search {
        let path = PathBuf::from(place);
        if path.exists() {
            let config = read(&path)?;
            return Ok((path, config));
        }
    }
    Err(ConfigError::NotFound { looked: search.iter().map(|place| (*place).to_owned()).collect() })
}

impl ProxyConfig {
    /// Makes a RunConfig into what the proxy runs by.
    ///
    /// # Errors
    /// The first thing in it that is wrong or that this version can't do.
    pub fn new(run: &RunConfig, surroundings: &Surroundings<'_>) -> Result<Self, ConfigError> {
        if run.schema_version != SCHEMA_VERSION {
            return Err(ConfigError::Version { found: run.schema_version.clone() });
        }
        refuse_unsupported(run)?;
        let stages = middleware::stages(run)?;
        let remote = !run.remote_url.is_empty();
        let target = target(run)?;
        let mut files = Vec::new();
        let auth = match &stages.oidc {
            Some(oidc) => AuthSettings::Token(Box::new(token_settings(oidc, run, &mut files)?)),
            None if run.skep.auth_mode == AuthMode::Anonymous => AuthSettings::Anonymous,
            // A local server without authentication runs, as it does elsewhere; a remote one, whose
            // credential this proxy holds, does not.
            None if !remote => AuthSettings::Anonymous,
            None => return Err(ConfigError::NoAuthentication),
        };
        let forward_token = run.skep.client_token == ClientToken::Forward;
        let add_headers = headers(run, &stages, surroundings)?;
        if forward_token && add_headers.iter().any(|(name, _)| name == http::header::AUTHORIZATION) {
            return Err(ConfigError::Contradiction {
                first: "skep.client_token: forward",
                second: "a configured Authorization header",
            });
        }
        let numbers = if run.skep.cedar_decimals { Numbers::Decimals } else { Numbers::Integers };
        let policies = stages.authz.map(|cedar| (cedar, numbers));
        Ok(Self {
            name: run.name.clone(),
            bind: bind(run)?,
            target_reach: Reach { http: true, private: !remote || run.skep.allow_private_endpoint },
            target,
            remote,
            egress: surroundings.egress.clone(),
            auth,
            forward_token,
            tools: ToolRules::new(&stages.tools_filter, &stages.tools_override)?,
            policies,
            audit: stages.audit,
            add_headers,
            endpoint_prefix: run.endpoint_prefix.trim_end_matches('/').to_owned(),
            trust_proxy_headers: run.trust_proxy_headers,
            allowed_origins: stages.origins,
            allowed_hosts: run.skep.allowed_hosts.clone(),
            strict_protocol_validation: run.strict_protocol_validation,
            stateless: run.stateless,
            metrics_port: stages.metrics_port,
            metrics_on_transport_port: stages.metrics_on_transport_port,
            limits: Limits::new(&run.skep.limits, stages.body_bytes),
            files: {
                files.extend(stages.files);
                files
            },
        })
    }
}

fn refuse_unsupported(run: &RunConfig) -> Result<(), ConfigError> {
    let set = |given: bool, key: &str| match given {
        true => Err(ConfigError::Unsupported { key: key.to_owned() }),
        false => Ok(()),
    };
    set(run.transport != Transport::StreamableHttp, &format!("transport: {}", run.transport.as_str()))?;
    set(run.token_exchange_config.is_some(), "token_exchange_config")?;
    set(run.upstream_swap_config.is_some(), "upstream_swap_config")?;
    set(run.aws_sts_config.is_some(), "aws_sts_config")?;
    set(run.rate_limit_config.is_some(), "rate_limit_config")?;
    set(!run.validating_webhooks.is_empty(), "validating_webhooks")?;
    set(!run.mutating_webhooks.is_empty(), "mutating_webhooks")?;
    set(run.embedded_auth_server_config.is_some(), "embedded_auth_server_config")?;
    let redis = run.scaling_config.as_ref().is_some_and(|scaling| scaling.session_redis.is_some());
    set(redis, "scaling_config.session_redis")?;
    let telemetry = run.telemetry_config.as_ref();
    set(telemetry.is_some_and(|telemetry| !telemetry.endpoint.is_empty()), "telemetry_config.endpoint")
}

fn target(run: &RunConfig) -> Result<Url, ConfigError> {
    let (key, text) = if run.remote_url.is_empty() {
        let host =
            if run.target_host.is_empty() { format!("mcp-{}", run.name) } else { run.target_host.clone() };
        if run.target_port == 0 {
            return Err(ConfigError::Invalid {
                key: "target_port",
                reason: "there is neither a remote_url nor a port of the MCP server".to_owned(),
            });
        }
        ("target_host", format!("http://{host}:{}/mcp", run.target_port))
    } else {
        ("remote_url", run.remote_url.clone())
    };
    let invalid = |reason: &str| ConfigError::Invalid { key, reason: reason.to_owned() };
    let mut url = Url::parse(&text).map_err(|error| invalid(&format!("it is not a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(invalid("it must be an http or https URL with a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("credentials in a URL end up in logs; use an external auth config"));
    }
    url.set_fragment(None);
    Ok(url)
}

fn bind(run: &RunConfig) -> Result<SocketAddr, ConfigError> {
    let host = match run.host.as_str() {
        "" | "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => host.trim_matches(['[', ']']).parse().map_err(|_| ConfigError::Invalid {
            key: "host",
            reason: format!("{host:?} is not an IP address"),
        })?,
    };
    Ok(SocketAddr::new(host, run.port))
}

fn token_settings(
    oidc: &OidcConfig,
    run: &RunConfig,
    files: &mut Vec<PathBuf>,
) -> Result<TokenSettings, ConfigError> {
    let invalid = |key, reason: &str| ConfigError::Invalid { key, reason: reason.to_owned() };
    if !oidc.introspection_url.is_empty() {
        return Err(ConfigError::Unsupported { key: "oidc_config.IntrospectionURL".to_owned() });
    }
    if !oidc.client_secret.is_empty() {
        return Err(invalid(
            "oidc_config.ClientSecret",
            "a secret has no place in this file; set TOOLHIVE_OIDC_CLIENT_SECRET",
        ));
    }
    let issuer = Issuer::parse(&oidc.issuer, oidc.insecure_allow_http).map_err(ConfigError::Issuer)?;
    let mut audiences: Vec<Audience> = std::iter::once(&oidc.audience)
        .chain(&run.skep.audiences)
        .filter_map(|text| Audience::parse(text))
        .collect();
    if audiences.is_empty() {
        audiences.extend(Audience::parse(&oidc.resource_url));
    }
    if audiences.is_empty() {
        return Err(invalid(
            "oidc_config.Audience",
            "without an audience any token of the issuer would be accepted; set it, or ResourceURL",
        ));
    }
    let jwks_url = match oidc.jwks_url.as_str() {
        "" => None,
        text => {
            let url = Url::parse(text).map_err(|_| invalid("oidc_config.JWKSURL", "it is not a URL"))?;
            if url.scheme() != "https" && !(url.scheme() == "http" && oidc.insecure_allow_http) {
                return Err(invalid(
                    "oidc_config.JWKSURL",
                    "it must be https (InsecureAllowHTTP permits http)",
                ));
            }
            Some(url)
        }
    };
    let ca_path = if oidc.ca_cert_path.is_empty() { &run.thv_ca_bundle } else { &oidc.ca_cert_path };
    let ca_pem = match ca_path.as_str() {
        "" => None,
        path => Some(file("oidc_config.CACertPath", path, files)?),
    };
    let token_path =
        if oidc.auth_token_file.is_empty() { &run.jwks_auth_token_file } else { &oidc.auth_token_file };
    let token_file = match token_path.as_str() {
        "" => None,
        path => {
            file("oidc_config.AuthTokenFile", path, files)?;
            Some(PathBuf::from(path))
        }
    };
    let resource_url = match oidc.resource_url.as_str() {
        "" => None,
        text => {
            Url::parse(text).map_err(|_| invalid("oidc_config.ResourceURL", "it is not a URL"))?;
            Some(text.to_owned())
        }
    };
    Ok(TokenSettings {
        issuer,
        jwks_url,
        audiences,
        algorithms: algorithms(&run.skep.allowed_algorithms)?,
        leeway: Duration::from_secs(run.skep.clock_skew_seconds.unwrap_or(30)),
        resource_url,
        scopes: oidc.scopes.clone(),
        ca_pem,
        token_file,
        // The URLs of identity providers that a manifest names may lie inside the network.
        reach: Reach { http: oidc.insecure_allow_http, private: true },
    })
}

fn algorithms(names: &[String]) -> Result<Vec<Algorithm>, ConfigError> {
    if names.is_empty() {
        return Ok(skep_auth::jwt::ALGORITHMS.to_vec());
    }
    names
        .iter()
        .map(|name| {
            skep_auth::jwt::asymmetric(name).ok_or_else(|| ConfigError::Invalid {
                key: "skep.allowed_algorithms",
                reason: format!("{name:?} is not an algorithm that is ever accepted"),
            })
        })
        .collect()
}

/// Reads a file that the config names, so that a missing one is found at the start.
pub(crate) fn file(key: &'static str, path: &str, files: &mut Vec<PathBuf>) -> Result<Vec<u8>, ConfigError> {
    let path = PathBuf::from(path);
    let content =
        std::fs::read(&path).map_err(|source| ConfigError::File { key, path: path.clone(), source })?;
    files.push(path);
    Ok(content)
}

fn headers(
    run: &RunConfig,
    stages: &middleware::Stages,
    surroundings: &Surroundings<'_>,
) -> Result<Vec<(HeaderName, HeaderValue)>, ConfigError> {
    let mut headers = Vec::new();
    let mut add = |key: &'static str, name: &str, value: &Secret| {
        let invalid = |reason: String| ConfigError::Invalid { key, reason };
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| invalid(format!("{name:?} is not a header name")))?;
        if is_restricted(header.as_str()) {
            return Err(invalid(format!(
                "header {name:?} is restricted and cannot be configured for forwarding"
            )));
        }
        let mut value = HeaderValue::from_str(value.expose())
            .map_err(|_| invalid(format!("the value for {name} cannot stand in a header")))?;
        value.set_sensitive(true);
        headers.push((header, value));
        Ok(())
    };
    for (name, value) in &stages.plain_headers {
        add("header_forward.add_plaintext_headers", name, &Secret::new(value.as_str()))?;
    }
    let secret = |key, name: &str| {
        let variable = format!("TOOLHIVE_SECRET_{name}");
        (surroundings.variable)(&variable)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| ConfigError::SecretMissing { key, name: name.to_owned(), variable })
    };
    let forward = run.header_forward.iter().flat_map(|forward| &forward.add_headers_from_secret);
    for (name, identifier) in forward {
        const KEY: &str = "header_forward.add_headers_from_secret";
        add(KEY, name, &secret(KEY, identifier)?)?;
    }
    if let Some(remote) = &run.remote_auth_config {
        const KEY: &str = "remote_auth_config.bearer_token";
        let Some(reference) = remote.get("bearer_token").and_then(serde_json::Value::as_str) else {
            return Err(ConfigError::Unsupported {
                key: "remote_auth_config without bearer_token".to_owned(),
            });
        };
        // `<secret>,target=bearer_token`
        let name = reference.split(',').next().unwrap_or_default();
        let token = secret(KEY, name)?;
        add(KEY, "authorization", &Secret::new(format!("Bearer {}", token.expose())))?;
    }
    Ok(headers)
}

#[cfg(test)]
mod tests;

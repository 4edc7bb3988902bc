//! A RunConfig turned into what the proxy runs by. What can't be honoured is refused by name: a proxy
//! that starts does everything its file says.

mod files;
mod fixed_headers;
mod incoming;
mod limits;
mod middleware;
mod outgoing;
mod remote_auth;
mod secrets;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use skep_api::address::{Egress, Reach};
use skep_api::runconfig::{
    AuditConfig, AuthMode, CedarConfig, ClientToken, RunConfig, SCHEMA_VERSION, Transport,
};
use skep_api::secret::Secret;
use skep_auth::aws::AwsConfigError;
use skep_auth::names::IssuerError;
use skep_runtime::logging::chain;
use url::Url;

use crate::cedar::{Numbers, PolicyError};
use crate::tools::{ToolRules, ToolRulesError};

pub use self::files::named_files;
pub use self::fixed_headers::FixedHeader;
pub use self::incoming::{AuthSettings, IssuerSettings, TokenSettings};
pub use self::limits::Limits;
pub use self::outgoing::OutgoingSettings;
use self::secrets::Secrets;

/// Longest file that the config may name, in bytes.
const MAX_FILE: u64 = 8 << 20;

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
    #[error("aws_sts_config")]
    Aws(#[source] AwsConfigError),
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
    /// Where credentials for the MCP server come from.
    pub outgoing: OutgoingSettings,
    /// Headers that every request to the MCP server gets; their values don't show in Debug.
    pub add_headers: Vec<FixedHeader>,
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
    /// No call is let through, for this reason.
    pub suspended: Option<Suspension>,
    /// SHA-256 of the file that the RunConfig was read from, where somebody has said so.
    pub checksum: Option<String>,
}

/// Why no call is let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// A sentence for the operator of the proxy. Callers are not told.
    pub reason: String,
    /// The resource's own URL, where the rest of the configuration can't be used.
    resource_url: Option<String>,
}

/// Reads a RunConfig from a file.
///
/// # Errors
/// When it can't be read or is no RunConfig; the message has line and column.
pub fn read(path: &Path) -> Result<RunConfig, ConfigError> {
    Ok(read_with_checksum(path)?.0)
}

/// Reads a RunConfig from a file, with the SHA-256 of the file in lower case hex.
///
/// # Errors
/// When it can't be read or is no RunConfig; the message has line and column.
pub fn read_with_checksum(path: &Path) -> Result<(RunConfig, String), ConfigError> {
    let text = std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let checksum = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((parse(&text, &path.display().to_string())?, checksum))
}

/// Reads a RunConfig from bytes; `place` is for messages.
///
/// # Errors
/// When it is no RunConfig; the message has line and column.
pub fn parse(bytes: &[u8], place: &str) -> Result<RunConfig, ConfigError> {
    let fault = |message: String| ConfigError::Parse { place: place.to_owned(), message };
    let text = skep_api::json::check(bytes, 64).map_err(|error| fault(error.to_string()))?;
    serde_json::from_str(text).map_err(|error| fault(without_values(&error.to_string())))
}

/// A message about a value of the wrong kind, without the value: it may be a secret in the wrong place.
fn without_values(message: &str) -> String {
    for start in ["invalid type: ", "invalid value: "] {
        let Some((kind, rest)) = message.strip_prefix(start).and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let Some((_, expected)) = rest.rsplit_once("expected ") else { continue };
        return format!("{start}{}, expected {expected}", kind.trim_end_matches(','));
    }
    match message.split_once("unknown variant `") {
        Some((before, rest)) => match rest.rsplit_once("`, expected ") {
            Some((_, expected)) => format!("{before}unknown variant, expected {expected}"),
            None => format!("{before}unknown variant"),
        },
        None => message.to_owned(),
    }
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
    /// Makes a RunConfig into what the proxy runs by. One that is suspended need not be right in anything
    /// but its version and where it listens: what lets nobody through needs no secrets.
    ///
    /// # Errors
    /// The first thing in it that is wrong or that this version can't do.
    pub fn new(run: &RunConfig, surroundings: &Surroundings<'_>) -> Result<Self, ConfigError> {
        if run.schema_version != SCHEMA_VERSION {
            return Err(ConfigError::Version { found: run.schema_version.clone() });
        }
        let whole = Self::whole(run, surroundings);
        if run.skep.suspended.is_empty() {
            return whole;
        }
        let suspension = |resource_url| Suspension { reason: run.skep.suspended.clone(), resource_url };
        match whole {
            Ok(config) => Ok(Self { suspended: Some(suspension(None)), ..config }),
            Err(error) => {
                tracing::warn!(
                    proxy = run.name,
                    error = %chain(&error),
                    "the proxy is suspended, and could not run with the rest of its configuration either"
                );
                let url = run.oidc_config.as_ref().map(|oidc| oidc.resource_url.clone());
                Self::suspended(run, surroundings, suspension(url.filter(|url| !url.is_empty())))
            }
        }
    }

    /// What can be known of a configuration that can't be used, as far as it matters to a proxy that lets
    /// nobody through.
    fn suspended(
        run: &RunConfig,
        surroundings: &Surroundings<'_>,
        suspension: Suspension,
    ) -> Result<Self, ConfigError> {
        let stages = middleware::known(run);
        let nowhere = || Url::parse("http://suspended.invalid/mcp");
        let target = target(run).or_else(|_| nowhere()).map_err(|error| ConfigError::Invalid {
            key: "remote_url",
            reason: format!("it is not a URL: {error}"),
        })?;
        Ok(Self {
            name: run.name.clone(),
            bind: bind(run)?,
            target_reach: Reach { http: false, private: false },
            target,
            remote: !run.remote_url.is_empty(),
            egress: surroundings.egress.clone(),
            auth: AuthSettings::Anonymous,
            forward_token: false,
            tools: ToolRules::default(),
            policies: None,
            audit: stages.audit,
            outgoing: OutgoingSettings::Fixed,
            add_headers: Vec::new(),
            endpoint_prefix: run.endpoint_prefix.trim_end_matches('/').to_owned(),
            trust_proxy_headers: run.trust_proxy_headers,
            allowed_origins: stages.origins,
            allowed_hosts: run.skep.allowed_hosts.clone(),
            strict_protocol_validation: run.strict_protocol_validation,
            stateless: run.stateless,
            metrics_port: stages.metrics_port,
            metrics_on_transport_port: stages.metrics_on_transport_port,
            limits: Limits::new(&run.skep.limits, stages.body_bytes),
            files: Vec::new(),
            suspended: Some(suspension),
            checksum: None,
        })
    }

    /// The resource's own URL.
    pub fn resource_url(&self) -> Option<&str> {
        match (&self.auth, &self.suspended) {
            (AuthSettings::Token(token), _) => token.resource_url.as_deref(),
            (AuthSettings::Anonymous, Some(suspension)) => suspension.resource_url.as_deref(),
            (AuthSettings::Anonymous, None) => None,
        }
    }

    fn whole(run: &RunConfig, surroundings: &Surroundings<'_>) -> Result<Self, ConfigError> {
        refuse_unsupported(run)?;
        let stages = middleware::stages(run)?;
        let remote = !run.remote_url.is_empty();
        let target = target(run)?;
        let mut files = Vec::new();
        let mut secrets = Secrets { run, surroundings, files: &mut files, read: BTreeSet::new() };
        if stages.oidc.is_none() {
            incoming::refuse_unused(run)?;
        }
        let auth = match &stages.oidc {
            Some(_) if run.skep.auth_mode == AuthMode::Anonymous => {
                return Err(ConfigError::Contradiction {
                    first: "skep.auth_mode: anonymous",
                    second: "oidc_config, which asks for a token",
                });
            }
            Some(oidc) => AuthSettings::Token(Box::new(incoming::token_settings(oidc, &mut secrets)?)),
            None if run.skep.auth_mode == AuthMode::Anonymous => AuthSettings::Anonymous,
            // A local server without authentication runs, as it does elsewhere; a remote one, whose
            // credential this proxy holds, does not.
            None if !remote => AuthSettings::Anonymous,
            None => return Err(ConfigError::NoAuthentication),
        };
        let forward_token = run.skep.client_token == ClientToken::Forward;
        let add_headers = fixed_headers::headers(run, &stages, &mut secrets)?;
        let outgoing = outgoing::settings(run, &stages, &add_headers, &mut secrets)?;
        // Nobody gets a credential of this proxy by leaving the question of who calls open.
        let said = stages.oidc.is_some() || run.skep.auth_mode == AuthMode::Anonymous;
        let secret_headers =
            run.header_forward.as_ref().is_some_and(|f| !f.add_headers_from_secret.is_empty());
        let fixed = secret_headers || run.remote_auth_config.is_some();
        if !said && (fixed || !matches!(outgoing, OutgoingSettings::Fixed)) {
            return Err(ConfigError::NoAuthentication);
        }
        secrets.refuse_unknown()?;
        if forward_token && !matches!(outgoing, OutgoingSettings::Fixed) {
            return Err(ConfigError::Contradiction {
                first: "skep.client_token: forward",
                second: "a credential of the proxy's own",
            });
        }
        if forward_token && add_headers.iter().any(|header| header.name == http::header::AUTHORIZATION) {
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
            outgoing,
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
            suspended: None,
            checksum: None,
        })
    }
}

fn refuse_unsupported(run: &RunConfig) -> Result<(), ConfigError> {
    let set = |given: bool, key: &str| match given {
        true => Err(ConfigError::Unsupported { key: key.to_owned() }),
        false => Ok(()),
    };
    set(run.transport != Transport::StreamableHttp, &format!("transport: {}", run.transport.as_str()))?;
    set(run.upstream_swap_config.is_some(), "upstream_swap_config")?;
    set(run.rate_limit_config.is_some(), "rate_limit_config")?;
    set(!run.validating_webhooks.is_empty(), "validating_webhooks")?;
    set(!run.mutating_webhooks.is_empty(), "mutating_webhooks")?;
    set(run.embedded_auth_server_config.is_some(), "embedded_auth_server_config")?;
    // Both promise a protection that is not there yet.
    set(!run.session_ttl.is_empty(), "session_ttl")?;
    set(run.isolate_network, "isolate_network")?;
    if !matches!(run.proxy_mode.as_str(), "" | "sse" | "streamable-http") {
        let reason = format!("{:?} is unknown; write \"streamable-http\"", run.proxy_mode);
        return Err(ConfigError::Invalid { key: "proxy_mode", reason });
    }
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

/// Reads a file that the config names, so that a missing one is found at the start.
pub(crate) fn file(key: &'static str, path: &str, files: &mut Vec<PathBuf>) -> Result<Vec<u8>, ConfigError> {
    let path = PathBuf::from(path);
    let content = content(&path).map_err(|source| ConfigError::File { key, path: path.clone(), source })?;
    files.push(path);
    Ok(content)
}

/// A pipe or a device has no end, or none before somebody writes, and a reload would wait for it.
fn content(path: &Path) -> std::io::Result<Vec<u8>> {
    let refused = |reason: &str| std::io::Error::new(std::io::ErrorKind::InvalidInput, reason);
    if !std::fs::metadata(path)?.is_file() {
        return Err(refused("it is no plain file"));
    }
    let mut content = Vec::new();
    // What is there may grow meanwhile.
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut content)?;
    if u64::try_from(content.len()).is_ok_and(|length| length <= MAX_FILE) {
        Ok(content)
    } else {
        Err(refused("it is larger than 8 MiB"))
    }
}

#[cfg(test)]
mod tests;

//! Which stages are on: from `middleware_configs` and from the typed keys, which must agree. The order
//! of the list has no meaning: authorization before credentials is not a matter of configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use skep_api::runconfig::{
    AuditConfig, AuthzConfig, AwsStsConfig, CedarConfig, ClientToken, MiddlewareConfig, OidcConfig,
    RunConfig, TelemetryConfig, TokenExchangeConfig, ToolOverride,
};

use super::{ConfigError, file};

/// What the stages are given.
#[derive(Debug, Default)]
pub(super) struct Stages {
    pub(super) oidc: Option<OidcConfig>,
    pub(super) authz: Option<CedarConfig>,
    pub(super) audit: Option<AuditConfig>,
    pub(super) tools_filter: Vec<String>,
    pub(super) tools_override: BTreeMap<String, ToolOverride>,
    pub(super) token_exchange: Option<TokenExchangeConfig>,
    pub(super) aws_sts: Option<AwsStsConfig>,
    pub(super) plain_headers: BTreeMap<String, String>,
    pub(super) origins: Vec<String>,
    pub(super) body_bytes: Option<usize>,
    pub(super) metrics_port: u16,
    pub(super) metrics_on_transport_port: bool,
    pub(super) files: Vec<PathBuf>,
}

/// Stages that belong to later versions; a config that needs one is refused by name.
const NOT_YET: [&str; 6] =
    ["upstreamswap", "ratelimit", "mutating-webhook", "validating-webhook", "obo", "oauth-token-injection"];

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Auth {
    oidc_config: Option<OidcConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Authorization {
    config_path: String,
    config_data: Option<AuthzConfig>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ToolFilter {
    filter_tools: Option<Vec<String>>,
    tools_override: Option<BTreeMap<String, ToolOverride>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BodyLimit {
    max_bytes: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Audit {
    config_path: String,
    config_data: Option<AuditConfig>,
    component: String,
    transport_type: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TokenExchange {
    token_exchange_config: Option<TokenExchangeConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AwsSts {
    aws_sts_config: Option<AwsStsConfig>,
    target_url: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HeaderForward {
    add_headers: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Origin {
    allowed_origins: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Telemetry {
    config: Option<TelemetryConfig>,
    #[serde(rename = "server_name")]
    _server_name: String,
    #[serde(rename = "transport")]
    _transport: String,
}

impl Stages {
    fn take_telemetry(&mut self, telemetry: &TelemetryConfig) -> Result<(), ConfigError> {
        if !telemetry.endpoint.is_empty() {
            return Err(ConfigError::Unsupported { key: "telemetry_config.endpoint".to_owned() });
        }
        self.metrics_port = telemetry.prometheus_port;
        self.metrics_on_transport_port =
            telemetry.enable_prometheus_metrics_path && telemetry.metrics_on_transport_port == Some(true);
        Ok(())
    }
}

/// Reads the list and the typed keys.
pub(super) fn stages(run: &RunConfig) -> Result<Stages, ConfigError> {
    let mut stages = typed(run)?;
    let mut seen: BTreeMap<&str, &Value> = BTreeMap::new();
    let listed = !run.middleware_configs.is_empty();
    for entry in run.middleware_configs.iter().chain(&run.additional_middleware_configs) {
        if let Some(before) = seen.insert(&entry.kind, &entry.parameters)
            && *before != entry.parameters
        {
            return Err(ConfigError::Contradiction {
                first: "one entry of middleware_configs",
                second: "another entry of the same type",
            });
        }
        take(entry, run, &mut stages)?;
    }
    if seen.contains_key("strip-auth") && (stages.token_exchange.is_some() || stages.aws_sts.is_some()) {
        return Err(ConfigError::Contradiction {
            first: "the strip-auth middleware",
            second: "an outgoing credential that is made from the caller's token",
        });
    }
    if seen.contains_key("strip-auth") && run.skep.client_token == ClientToken::Forward {
        return Err(ConfigError::Contradiction {
            first: "the strip-auth middleware",
            second: "skep.client_token: forward",
        });
    }
    if let Some(audit) = &stages.audit {
        known_events(audit)?;
    }
    // A list that leaves out what a typed key asks for would switch a protection off.
    for (key, typed, kind) in [
        ("oidc_config", run.oidc_config.is_some(), "auth"),
        ("authz_config", run.authz_config.is_some() || !run.authz_config_path.is_empty(), "authorization"),
        ("audit_config", run.audit_config.is_some(), "audit"),
        ("token_exchange_config", run.token_exchange_config.is_some(), "tokenexchange"),
        ("aws_sts_config", run.aws_sts_config.is_some(), "awssts"),
    ] {
        if listed && typed && !seen.contains_key(kind) {
            return Err(ConfigError::Contradiction {
                first: key,
                second: "middleware_configs, which leaves it out",
            });
        }
    }
    Ok(stages)
}

/// What can be known of the stages, whatever is wrong with some of them.
pub(super) fn known(run: &RunConfig) -> Stages {
    let mut stages = typed(run).unwrap_or_else(|_| Stages {
        audit: run.audit_config.clone().filter(|audit| audit.enabled != Some(false)),
        origins: run.allowed_origins.clone(),
        metrics_port: run.telemetry_config.as_ref().map_or(0, |telemetry| telemetry.prometheus_port),
        ..Stages::default()
    });
    for entry in run.middleware_configs.iter().chain(&run.additional_middleware_configs) {
        let audit = stages.audit.clone();
        if take(entry, run, &mut stages).is_err() {
            stages.audit = audit;
        }
    }
    stages
}

fn typed(run: &RunConfig) -> Result<Stages, ConfigError> {
    let mut files = Vec::new();
    let mut authz = run.authz_config.clone();
    if !run.authz_config_path.is_empty() {
        let from_file = authz_file("authz_config_path", &run.authz_config_path, &mut files)?;
        if authz.is_some_and(|inline| inline != from_file) {
            return Err(ConfigError::Contradiction { first: "authz_config", second: "authz_config_path" });
        }
        authz = Some(from_file);
    }
    let mut audit = run.audit_config.clone();
    if !run.audit_config_path.is_empty() {
        audit = Some(json_file("audit_config_path", &run.audit_config_path, &mut files)?);
    }
    let mut stages = Stages {
        oidc: run.oidc_config.clone(),
        authz: authz.map(cedar).transpose()?,
        audit: audit.filter(|audit| audit.enabled != Some(false)),
        tools_filter: run.tools_filter.clone(),
        tools_override: run.tools_override.clone(),
        token_exchange: run.token_exchange_config.clone(),
        aws_sts: run.aws_sts_config.clone(),
        plain_headers: run
            .header_forward
            .as_ref()
            .map(|forward| forward.add_plaintext_headers.clone())
            .unwrap_or_default(),
        origins: run.allowed_origins.clone(),
        body_bytes: None,
        metrics_port: 0,
        metrics_on_transport_port: false,
        files,
    };
    if let Some(telemetry) = &run.telemetry_config {
        stages.take_telemetry(telemetry)?;
    }
    Ok(stages)
}

fn take(entry: &MiddlewareConfig, run: &RunConfig, stages: &mut Stages) -> Result<(), ConfigError> {
    match entry.kind.as_str() {
        "auth" => {
            let given: Auth = parameters(entry)?;
            agree(&mut stages.oidc, given.oidc_config, "oidc_config", "the auth middleware")?;
        }
        "authorization" => {
            let given: Authorization = parameters(entry)?;
            let mut document = given.config_data;
            if !given.config_path.is_empty() {
                let from_file =
                    authz_file("authorization.config_path", &given.config_path, &mut stages.files)?;
                agree(&mut document, Some(from_file), "config_data", "config_path")?;
            }
            let document = document.ok_or_else(|| ConfigError::Invalid {
                key: "middleware_configs",
                reason: "authorization has neither config_data nor config_path".to_owned(),
            })?;
            agree(&mut stages.authz, Some(cedar(document)?), "authz_config", "the authorization middleware")?;
        }
        "audit" => {
            let given: Audit = parameters(entry)?;
            let mut audit = given.config_data;
            if !given.config_path.is_empty() {
                let from_file = json_file("audit.config_path", &given.config_path, &mut stages.files)?;
                agree(&mut audit, Some(from_file), "config_data", "config_path")?;
            }
            let typed = stages.audit.take();
            let mut audit = match (typed, audit) {
                // The name of the component is said by the list alone.
                (Some(typed), Some(given)) if unnamed(&typed) != unnamed(&given) => {
                    return Err(ConfigError::Contradiction {
                        first: "audit_config",
                        second: "the audit middleware",
                    });
                }
                (Some(typed), _) => typed,
                (None, given) => given.unwrap_or_default(),
            };
            if audit.component.is_empty() {
                audit.component = given.component;
            }
            stages.audit = Some(audit).filter(|audit| audit.enabled != Some(false));
        }
        "tool-filter" | "tool-call-filter" => {
            let given: ToolFilter = parameters(entry)?;
            let filter = given.filter_tools.unwrap_or_default();
            let overrides = given.tools_override.unwrap_or_default();
            let ours = (&mut stages.tools_filter, &mut stages.tools_override);
            let none = ours.0.is_empty() && ours.1.is_empty();
            if none {
                *ours.0 = filter;
                *ours.1 = overrides;
            } else if *ours.0 != filter || !same_names(ours.1, &overrides) {
                return Err(ConfigError::Contradiction {
                    first: "tools_filter and tools_override",
                    second: "the tool filter middlewares",
                });
            }
        }
        "bodylimit" => {
            let given: BodyLimit = parameters(entry)?;
            stages.body_bytes = usize::try_from(given.max_bytes).ok().filter(|bytes| *bytes > 0);
        }
        "tokenexchange" => {
            let given: TokenExchange = parameters(entry)?;
            let config = given.token_exchange_config.ok_or_else(|| missing("tokenexchange"))?;
            let ours = &mut stages.token_exchange;
            agree(ours, Some(config), "token_exchange_config", "the tokenexchange middleware")?;
        }
        "awssts" => {
            let given: AwsSts = parameters(entry)?;
            let config = given.aws_sts_config.ok_or_else(|| missing("awssts"))?;
            agree(&mut stages.aws_sts, Some(config), "aws_sts_config", "the awssts middleware")?;
            if !given.target_url.is_empty() && given.target_url != run.remote_url {
                return Err(ConfigError::Contradiction {
                    first: "remote_url",
                    second: "target_url of the awssts middleware",
                });
            }
        }
        "header-forward" => {
            let given: HeaderForward = parameters(entry)?;
            for (name, value) in given.add_headers.unwrap_or_default() {
                let before = stages.plain_headers.insert(name, value.clone());
                if before.is_some_and(|before| before != value) {
                    return Err(ConfigError::Contradiction {
                        first: "header_forward",
                        second: "the header-forward middleware",
                    });
                }
            }
        }
        "origin" => {
            let given: Origin = parameters(entry)?;
            stages.origins.extend(given.allowed_origins.unwrap_or_default());
        }
        "telemetry" => {
            let given: Telemetry = parameters(entry)?;
            let mut telemetry = run.telemetry_config.clone();
            agree(&mut telemetry, given.config, "telemetry_config", "the telemetry middleware")?;
            stages.take_telemetry(&telemetry.unwrap_or_default())?;
        }
        // These have no parameters that matter: reading, recovering and stripping are always on, and
        // nobody is told how the proxy is used.
        "mcp-parser" | "recovery" | "strip-auth" | "usagemetrics" => {}
        kind if NOT_YET.contains(&kind) => {
            return Err(ConfigError::Unsupported { key: format!("middleware {kind}") });
        }
        kind => return Err(ConfigError::Middleware { kind: kind.to_owned() }),
    }
    Ok(())
}

/// A type that is spelled wrong would never be recorded.
fn known_events(audit: &AuditConfig) -> Result<(), ConfigError> {
    for (key, names) in [
        ("audit_config.eventTypes", &audit.event_types),
        ("audit_config.excludeEventTypes", &audit.exclude_event_types),
    ] {
        if let Some(name) = names.iter().find(|name| !crate::audit::TYPES.contains(&name.as_str())) {
            let reason =
                format!("{name:?} is not an event type; there are {}", crate::audit::TYPES.join(", "));
            return Err(ConfigError::Invalid { key, reason });
        }
    }
    Ok(())
}

fn unnamed(audit: &AuditConfig) -> AuditConfig {
    AuditConfig { component: String::new(), enabled: None, ..audit.clone() }
}

fn missing(kind: &str) -> ConfigError {
    ConfigError::Invalid { key: "middleware_configs", reason: format!("{kind} has no configuration") }
}

fn parameters<T: DeserializeOwned + Default>(entry: &MiddlewareConfig) -> Result<T, ConfigError> {
    if entry.parameters.is_null() {
        return Ok(T::default());
    }
    T::deserialize(&entry.parameters).map_err(|error| ConfigError::Invalid {
        key: "middleware_configs",
        reason: format!("the parameters of {} are wrong: {error}", entry.kind),
    })
}

/// Takes `given` where nothing was said, and insists on sameness where something was.
fn agree<T: PartialEq>(
    ours: &mut Option<T>,
    given: Option<T>,
    first: &'static str,
    second: &'static str,
) -> Result<(), ConfigError> {
    match (&ours, given) {
        (_, None) => Ok(()),
        (None, given) => {
            *ours = given;
            Ok(())
        }
        (Some(known), Some(given)) if *known == given => Ok(()),
        _ => Err(ConfigError::Contradiction { first, second }),
    }
}

/// ToolHive's middlewares carry names and descriptions but not annotations.
fn same_names(ours: &BTreeMap<String, ToolOverride>, theirs: &BTreeMap<String, ToolOverride>) -> bool {
    let plain = |given: &BTreeMap<String, ToolOverride>| -> BTreeMap<String, (String, String)> {
        given
            .iter()
            .map(|(tool, given)| (tool.clone(), (given.name.clone(), given.description.clone())))
            .collect()
    };
    plain(ours) == plain(theirs)
}

fn cedar(document: AuthzConfig) -> Result<CedarConfig, ConfigError> {
    let invalid = |reason: String| ConfigError::Invalid { key: "authz_config", reason };
    if document.version != "1.0" {
        return Err(invalid(format!("version {:?} is not supported; write \"1.0\"", document.version)));
    }
    match (document.kind.as_str(), document.cedar) {
        ("cedarv1", Some(_)) if document.pdp.is_some() => {
            Err(invalid("type cedarv1 has no use for the key pdp".to_owned()))
        }
        ("cedarv1", Some(cedar)) => {
            if !cedar.primary_upstream_provider.is_empty() {
                return Err(ConfigError::Unsupported {
                    key: "authz_config.cedar.primary_upstream_provider".to_owned(),
                });
            }
            Ok(cedar)
        }
        ("cedarv1", None) => Err(invalid("type cedarv1 needs the key cedar".to_owned())),
        ("httpv1", _) => Err(ConfigError::Unsupported { key: "authz_config of type httpv1".to_owned() }),
        (kind, _) => Err(invalid(format!("type {kind:?} is unknown; write \"cedarv1\""))),
    }
}

fn authz_file(key: &'static str, path: &str, files: &mut Vec<PathBuf>) -> Result<AuthzConfig, ConfigError> {
    json_file(key, path, files)
}

fn json_file<T: DeserializeOwned>(
    key: &'static str,
    path: &str,
    files: &mut Vec<PathBuf>,
) -> Result<T, ConfigError> {
    let content = file(key, path, files)?;
    serde_json::from_slice(&content)
        .map_err(|error| ConfigError::Invalid { key, reason: format!("{path} cannot be read: {error}") })
}

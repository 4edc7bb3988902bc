//! The proxy's configuration file, `runconfig.json`, in ToolHive's format (schema `v0.1.0`).
//!
//! Spelling is ToolHive's: snake_case at the top, Go field names in `oidc_config`, camelCase in
//! `audit_config` and `telemetry_config`, the CRD's own names in `rate_limit_config`. What skep adds
//! lives under the one key `skep`, which ToolHive's reader passes over.

mod extension;
mod incoming;
mod outgoing;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::extension::{AuthMode, ClientToken, Limits, SkepExtension};
pub use self::incoming::{
    ClaimMappings, FurtherIssuer, IntrospectionRules, IssuerRules, OidcConfig, TokenProfile,
};
pub use self::outgoing::{
    AwsExtension, AwsRoleMapping, AwsStsConfig, ClientAuthMethod, GrantType, HeaderForward,
    TokenExchangeConfig, TokenExchangeExtension,
};

/// The only schema version that is written, and the only one that is read.
pub const SCHEMA_VERSION: &str = "v0.1.0";

/// Places where `skep proxy run` looks for its file; the first that exists wins.
pub const SEARCH_PATH: [&str; 3] =
    ["/etc/runconfig/runconfig.json", "/etc/toolhive/runconfig.json", "./runconfig.json"];

/// Key of the file in its ConfigMap.
pub const FILE_NAME: &str = "runconfig.json";

/// How an MCP server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    Stdio,
    Sse,
    StreamableHttp,
}

impl Transport {
    /// The name used in manifests and in RunConfig.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdio => "stdio",
            Self::Sse => "sse",
            Self::StreamableHttp => "streamable-http",
        }
    }
}

/// Everything one proxy process needs to know. Unknown keys are an error: a key that is dropped in
/// silence could be the one that protects something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Version of this format: `v0.1.0`.
    pub schema_version: String,
    /// `metadata.generation` of the MCPServer this was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcpserver_generation: Option<i64>,
    /// Container image of the MCP server; empty for a remote one.
    #[serde(default)]
    pub image: String,
    /// URL of the remote MCP server.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remote_url: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub registry_api_url: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub registry_url: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub registry_server_name: String,
    /// Credentials of the remote server (`bearer_token`) and of its OAuth flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_auth_config: Option<Value>,
    /// Arguments of the MCP server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd_args: Vec<String>,
    /// Name of the workload; also the `MCP::"name"` entity in policies.
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub base_name: String,
    /// Transport of the MCP server.
    pub transport: Transport,
    /// Address the proxy binds; empty means 127.0.0.1.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Port the proxy binds; 0 means any free one.
    #[serde(default)]
    pub port: u16,
    /// Port of the MCP server; 0 for a remote one.
    #[serde(default)]
    pub target_port: u16,
    /// Host of the MCP server; empty means the Service `mcp-NAME`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target_host: String,
    /// Values of the Origin header that are let in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_origins: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub permission_profile_name_or_path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission_profile: Option<Value>,
    /// Environment of the MCP server.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// Directory of KEY=VALUE files that add to `env_vars`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub env_file_dir: String,
    #[serde(default, skip_serializing_if = "is_false")]
    pub debug: bool,
    /// `hostPath:mountPath[:ro]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub container_labels: BTreeMap<String, String>,
    /// How incoming tokens are judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc_config: Option<OidcConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_exchange_config: Option<TokenExchangeConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_swap_config: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_sts_config: Option<AwsStsConfig>,
    /// Authorization document, inline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authz_config: Option<AuthzConfig>,
    /// Authorization document, as a file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub authz_config_path: String,
    /// Present means: write audit records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_config: Option<AuditConfig>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub audit_config_path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry_config: Option<TelemetryConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_config: Option<Value>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rate_limit_namespace: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub k8s_pod_template_patch: String,
    #[serde(default, skip_serializing_if = "is_false")]
    pub isolate_network: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_docker_gateway: bool,
    /// Take the client's address and the external URL from `X-Forwarded-*`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub trust_proxy_headers: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub strict_protocol_validation: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub stateless: bool,
    /// Go duration; empty means 2h.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub session_ttl: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub proxy_mode: String,
    /// File of CA certificates for calls to the issuer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub thv_ca_bundle: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jwks_auth_token_file: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Tool names, as clients see them, that may be listed and called; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools_filter: Vec<String>,
    /// Renamed tools, keyed by the backend's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools_override: BTreeMap<String, ToolOverride>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub ignore_config: bool,
    /// Which stages are on and with what parameters. Its order has no meaning to skep.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub middleware_configs: Vec<MiddlewareConfig>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_middleware_configs: Vec<MiddlewareConfig>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validating_webhooks: Vec<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mutating_webhooks: Vec<Value>,
    /// Path prefix clients see.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint_prefix: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_config: Option<Value>,
    /// Headers added to every request to a remote server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_forward: Option<HeaderForward>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedded_auth_server_config: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling_config: Option<ScalingConfig>,
    /// What ToolHive has no key for.
    #[serde(default, skip_serializing_if = "SkepExtension::is_default")]
    pub skep: SkepExtension,
}

/// Authorization document (`{version, type, cedar | pdp}`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthzConfig {
    /// `1.0`.
    pub version: String,
    /// `cedarv1` or `httpv1`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cedar: Option<CedarConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pdp: Option<Value>,
}

/// Cedar policies and how claims become entities.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CedarConfig {
    /// Policies in Cedar's own syntax, one or more to a string.
    pub policies: Vec<String>,
    /// Entities in Cedar's JSON format.
    #[serde(default)]
    pub entities_json: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub primary_upstream_provider: String,
    /// Claim that lists groups: a name or a dotted path.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group_claim_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub role_claim_name: String,
    /// Entity type of groups; empty means `THVGroup`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group_entity_type: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub multi_valued_claims: Vec<String>,
}

/// `audit_config`; its presence turns audit on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditConfig {
    /// Read for old files; `false` turns audit off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub component: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event_types: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_event_types: Vec<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub include_request_data: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub include_response_data: bool,
    #[serde(default = "yes")]
    pub detect_application_errors: bool,
    /// Bytes of request or response data kept in a record.
    #[serde(default = "audit_data_size")]
    pub max_data_size: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_delegation_depth: Option<usize>,
    /// File to append to; empty means standard output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_file: String,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            enabled: None,
            component: String::new(),
            event_types: Vec::new(),
            exclude_event_types: Vec::new(),
            include_request_data: false,
            include_response_data: false,
            detect_application_errors: true,
            max_data_size: audit_data_size(),
            max_delegation_depth: None,
            log_file: String::new(),
        }
    }
}

/// `telemetry_config`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TelemetryConfig {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_version: String,
    #[serde(default)]
    pub tracing_enabled: bool,
    #[serde(default)]
    pub metrics_enabled: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sampling_rate: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    #[serde(default)]
    pub insecure: bool,
    #[serde(default)]
    pub enable_prometheus_metrics_path: bool,
    /// 0 means 9464.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub prometheus_port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_on_transport_port: Option<bool>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment_variables: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub custom_attributes: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_legacy_attributes: Option<bool>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ca_cert_path: String,
}

/// New name and description of a tool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolOverride {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Replaces single annotations of the tool. ToolHive writes none here.
    #[serde(default, skip_serializing_if = "ToolAnnotations::is_empty")]
    pub annotations: ToolAnnotations,
}

/// Tool annotations that an override may set (MCP `ToolAnnotations`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToolAnnotations {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_hint: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destructive_hint: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent_hint: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_world_hint: Option<bool>,
}

impl ToolAnnotations {
    /// True when nothing is overridden.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One entry of `middleware_configs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MiddlewareConfig {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub parameters: Value,
}

/// Replica counts and the session store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScalingConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_replicas: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_redis: Option<Value>,
}

impl RunConfig {
    /// A config with nothing set but its name, its transport and its version.
    pub fn new(name: impl Into<String>, transport: Transport) -> Self {
        let name = name.into();
        Self {
            schema_version: SCHEMA_VERSION.to_owned(),
            mcpserver_generation: None,
            image: String::new(),
            remote_url: String::new(),
            registry_api_url: String::new(),
            registry_url: String::new(),
            registry_server_name: String::new(),
            remote_auth_config: None,
            cmd_args: Vec::new(),
            container_name: name.clone(),
            base_name: name.clone(),
            name,
            transport,
            host: String::new(),
            port: 0,
            target_port: 0,
            target_host: String::new(),
            allowed_origins: Vec::new(),
            publish: Vec::new(),
            permission_profile_name_or_path: String::new(),
            permission_profile: None,
            env_vars: BTreeMap::new(),
            env_file_dir: String::new(),
            debug: false,
            volumes: Vec::new(),
            container_labels: BTreeMap::new(),
            oidc_config: None,
            token_exchange_config: None,
            upstream_swap_config: None,
            aws_sts_config: None,
            authz_config: None,
            authz_config_path: String::new(),
            audit_config: None,
            audit_config_path: String::new(),
            telemetry_config: None,
            rate_limit_config: None,
            rate_limit_namespace: String::new(),
            secrets: Vec::new(),
            k8s_pod_template_patch: String::new(),
            isolate_network: false,
            allow_docker_gateway: false,
            trust_proxy_headers: false,
            strict_protocol_validation: false,
            stateless: false,
            session_ttl: String::new(),
            proxy_mode: String::new(),
            thv_ca_bundle: String::new(),
            jwks_auth_token_file: String::new(),
            group: String::new(),
            tools_filter: Vec::new(),
            tools_override: BTreeMap::new(),
            ignore_config: false,
            middleware_configs: Vec::new(),
            additional_middleware_configs: Vec::new(),
            validating_webhooks: Vec::new(),
            mutating_webhooks: Vec::new(),
            endpoint_prefix: String::new(),
            runtime_config: None,
            header_forward: None,
            embedded_auth_server_config: None,
            scaling_config: None,
            skep: SkepExtension::default(),
        }
    }

    /// The file as it is written: two spaces of indent and a final line end.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u16) -> bool {
    *value == 0
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn yes() -> bool {
    true
}

fn audit_data_size() -> usize {
    1024
}

pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

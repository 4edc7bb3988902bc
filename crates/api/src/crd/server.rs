//! MCPServer: an MCP server in a container, with a proxy in front of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::authz::{EmbeddedAuthz, FreeForm};
use super::oidc::EmbeddedOidc;
use super::parse::{INVALID_FIELD, count, no_duplicates, one_of, port};
use super::pod::{
    AuditSpec, EmbeddedTelemetry, EnvVar, RateLimiting, ResourceOverrides, Resources, SessionAffinity,
    SessionStorage,
};
use super::reference::{AuthServerRef, ConfigRef, GroupRef, NameRef, OidcConfigRef, TelemetryConfigRef};
use super::remote_proxy::{AuthModeSpec, DEFAULT_PORT};
use crate::problem::Problem;
use crate::runconfig::Transport;

/// Spec of an MCPServer as it is written, in all spellings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!(has(self.authzConfig) && has(self.authzConfigRef))", "message": "authzConfig and authzConfigRef are mutually exclusive; use authzConfigRef to refer to a shared MCPAuthzConfig"},
    {"rule": "!(has(self.oidcConfig) && has(self.oidcConfigRef))", "message": "oidcConfig and oidcConfigRef are mutually exclusive"},
    {"rule": "!has(self.rateLimiting) || (has(self.sessionStorage) && self.sessionStorage.provider == 'redis')", "message": "rateLimiting needs sessionStorage with provider redis"},
    {"rule": "!has(self.rateLimiting) || !has(self.rateLimiting.perUser) || has(self.oidcConfig) || has(self.oidcConfigRef) || has(self.authServerRef) || has(self.externalAuthConfigRef)", "message": "rateLimiting.perUser needs users: oidcConfigRef or externalAuthConfigRef"},
    {"rule": "!has(self.rateLimiting) || !has(self.rateLimiting.tools) || self.rateLimiting.tools.all(tool, !has(tool.perUser)) || has(self.oidcConfig) || has(self.oidcConfigRef) || has(self.authServerRef) || has(self.externalAuthConfigRef)", "message": "rateLimiting.tools with perUser needs users: oidcConfigRef or externalAuthConfigRef"},
]))]
pub struct ServerSpec {
    /// Container image of the MCP server.
    pub image: String,
    /// How the MCP server is spoken to. Default: `stdio`.
    pub transport: Option<Transport>,
    /// What clients of a stdio server speak. Default: `streamable-http`.
    #[schemars(extend("enum" = ["sse", "streamable-http"]))]
    pub proxy_mode: Option<Transport>,
    /// Port on which the proxy listens. Default: 8080.
    #[schemars(range(min = 1, max = 65535))]
    pub proxy_port: Option<i64>,
    /// Old spelling of `proxyPort`.
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i64>,
    /// Port on which the MCP server listens. Default: 8080.
    #[schemars(range(min = 1, max = 65535))]
    pub mcp_port: Option<i64>,
    /// Old spelling of `mcpPort`.
    #[schemars(range(min = 1, max = 65535))]
    pub target_port: Option<i64>,
    /// Arguments of the MCP server.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub args: Option<Vec<String>>,
    /// Environment of the MCP server.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Option<Vec<EnvVar>>,
    /// Directories of the node that the proxy's pod mounts.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub volumes: Option<Vec<Volume>>,
    /// Resources of the proxy's container. Those of the MCP server go into `podTemplateSpec`.
    pub resources: Option<Resources>,
    /// Secrets that the MCP server gets as environment variables.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub secrets: Option<Vec<ServerSecret>>,
    /// ServiceAccount of the MCP server's pod. Default: one that is made for it.
    pub service_account: Option<String>,
    /// What the MCP server may reach.
    pub permission_profile: Option<PermissionProfile>,
    /// Changes to the MCP server's pod; its container is named `mcp`.
    #[schemars(with = "Option<FreeForm>")]
    pub pod_template_spec: Option<Value>,
    /// Changes to the objects that are made for the proxy.
    pub resource_overrides: Option<ResourceOverrides>,
    /// Say `anonymous` to let everybody in without a token, and without a warning.
    pub auth_mode: Option<AuthModeSpec>,
    /// How callers' tokens are judged, written here.
    pub oidc_config: Option<EmbeddedOidc>,
    /// How callers' tokens are judged, in a shared MCPOIDCConfig.
    pub oidc_config_ref: Option<OidcConfigRef>,
    /// Who may call what, written here.
    pub authz_config: Option<EmbeddedAuthz>,
    /// Who may call what, in a shared MCPAuthzConfig.
    pub authz_config_ref: Option<NameRef>,
    /// Records of every request.
    pub audit: Option<AuditSpec>,
    /// Which tools clients see, by name. `toolConfigRef` wins over it.
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub tools: Option<Vec<String>>,
    /// Which tools clients see, in an MCPToolConfig.
    pub tool_config_ref: Option<ConfigRef>,
    /// The credential for the MCP server, in an MCPExternalAuthConfig.
    pub external_auth_config_ref: Option<ConfigRef>,
    /// An authorization server inside the proxy.
    pub auth_server_ref: Option<AuthServerRef>,
    /// Webhooks that judge or change calls, in an MCPWebhookConfig.
    pub webhook_config_ref: Option<ConfigRef>,
    /// Take the client's address and the external URL from `X-Forwarded-*`.
    pub trust_proxy_headers: Option<bool>,
    /// Path prefix under which an ingress serves this proxy.
    pub endpoint_prefix: Option<String>,
    /// Further values of the Host header that are let in.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub allowed_hosts: Option<Vec<String>>,
    /// The MCPGroup this belongs to: `{name: x}`, or just `x`.
    pub group_ref: Option<GroupRef>,
    /// How the Service chooses among pods. Default: `ClientIP`.
    pub session_affinity: Option<SessionAffinity>,
    /// Metrics and traces, in a shared MCPTelemetryConfig.
    pub telemetry_config_ref: Option<TelemetryConfigRef>,
    /// Metrics and traces, written here.
    pub telemetry: Option<EmbeddedTelemetry>,
    /// Number of proxy pods. Absent leaves it to an autoscaler; stdio has at most one.
    #[schemars(range(min = 0))]
    pub replicas: Option<i64>,
    /// Number of pods of the MCP server.
    #[schemars(range(min = 0))]
    pub backend_replicas: Option<i64>,
    /// Where sessions are kept when there is more than one pod.
    pub session_storage: Option<SessionStorage>,
    /// Limits on calls.
    pub rate_limiting: Option<RateLimiting>,
}

/// A directory of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Name of the volume.
    pub name: String,
    /// Path on the node.
    pub host_path: String,
    /// Path in the container.
    pub mount_path: String,
    /// Mount it read-only. Default: false.
    pub read_only: Option<bool>,
}

/// A Secret key that becomes an environment variable of the MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerSecret {
    /// Name of the Secret.
    pub name: String,
    /// Key in the Secret.
    pub key: Option<String>,
    /// Name of the variable. Default: the key.
    pub target_env_name: Option<String>,
}

/// What the MCP server may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PermissionProfile {
    /// `builtin` or `configmap`. Default: `builtin`.
    #[serde(rename = "type")]
    pub kind: Option<PermissionSource>,
    /// Name of the built-in profile (`none`, `network`) or of the ConfigMap.
    pub name: String,
    /// Key in the ConfigMap.
    pub key: Option<String>,
    /// Say `false` to let the container reach whatever the cluster lets it reach, as ToolHive does. Default: true.
    pub enforce: Option<bool>,
}

/// `permissionProfile.type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum PermissionSource {
    #[default]
    Builtin,
    Configmap,
}

/// An MCPServer in one spelling, with defaults in place.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    pub image: String,
    pub transport: Transport,
    /// What clients speak: `proxyMode` for stdio, else the transport.
    pub client_transport: Transport,
    pub port: u16,
    pub mcp_port: u16,
    pub args: Vec<String>,
    pub env: Vec<EnvVar>,
    pub volumes: Vec<Volume>,
    pub resources: Resources,
    /// Secrets with their key and variable.
    pub secrets: Vec<SecretEnv>,
    pub service_account: Option<String>,
    pub permission_profile: Option<PermissionProfile>,
    pub pod_template: Option<Value>,
    pub resource_overrides: ResourceOverrides,
    pub anonymous: bool,
    pub oidc_config: Option<EmbeddedOidc>,
    pub oidc_config_ref: Option<OidcConfigRef>,
    pub authz_config: Option<EmbeddedAuthz>,
    pub authz_config_ref: Option<String>,
    pub audit: bool,
    pub tools: Vec<String>,
    pub tool_config: Option<String>,
    pub external_auth: Option<String>,
    pub auth_server_ref: Option<AuthServerRef>,
    pub webhook_config: Option<String>,
    pub trust_proxy_headers: bool,
    pub endpoint_prefix: String,
    pub allowed_hosts: Vec<String>,
    pub group: Option<String>,
    pub session_affinity: SessionAffinity,
    pub telemetry_config_ref: Option<TelemetryConfigRef>,
    pub telemetry: Option<EmbeddedTelemetry>,
    pub replicas: Option<i32>,
    pub backend_replicas: Option<i32>,
    pub session_storage: Option<SessionStorage>,
    pub rate_limiting: Option<RateLimiting>,
}

/// A Secret key and the variable that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretEnv {
    /// Where it is written, for example `spec.secrets[0]`.
    pub path: String,
    pub secret: String,
    pub key: String,
    pub variable: String,
}

impl Server {
    pub(super) fn from_spec(spec: ServerSpec, problems: &mut Vec<Problem>) -> Self {
        let default_port = i64::from(DEFAULT_PORT);
        let proxy_port = one_of(
            ("spec.proxyPort", spec.proxy_port),
            ("spec.port", spec.port),
            Some(&default_port),
            problems,
        );
        let mcp_port =
            one_of(("spec.mcpPort", spec.mcp_port), ("spec.targetPort", spec.target_port), None, problems);
        let transport = spec.transport.unwrap_or(Transport::Stdio);
        if spec.proxy_mode == Some(Transport::Stdio) {
            problems.push(Problem::error(
                "spec.proxyMode",
                INVALID_FIELD,
                "`proxyMode` is `sse` or `streamable-http`.",
            ));
        }
        let client_transport = match transport {
            Transport::Stdio => spec.proxy_mode.unwrap_or(Transport::StreamableHttp),
            other => other,
        };
        let env = spec.env.unwrap_or_default();
        no_duplicates("spec.env", "name", env.iter().map(|var| var.name.as_str()), problems);
        Self {
            image: spec.image,
            transport,
            client_transport,
            port: port(proxy_port, DEFAULT_PORT, problems),
            mcp_port: port(mcp_port, DEFAULT_PORT, problems),
            args: spec.args.unwrap_or_default(),
            env,
            volumes: spec.volumes.unwrap_or_default(),
            resources: spec.resources.unwrap_or_default(),
            secrets: secrets(spec.secrets.unwrap_or_default(), problems),
            service_account: spec.service_account.filter(|name| !name.is_empty()),
            permission_profile: spec.permission_profile,
            pod_template: spec.pod_template_spec,
            resource_overrides: spec.resource_overrides.unwrap_or_default(),
            anonymous: spec.auth_mode.is_some(),
            oidc_config: spec.oidc_config,
            oidc_config_ref: spec.oidc_config_ref,
            authz_config: spec.authz_config,
            authz_config_ref: spec.authz_config_ref.map(|named| named.name),
            audit: spec.audit.and_then(|audit| audit.enabled).unwrap_or(false),
            tools: spec.tools.unwrap_or_default(),
            tool_config: spec.tool_config_ref.map(|named| named.name),
            external_auth: spec.external_auth_config_ref.map(|named| named.name),
            auth_server_ref: spec.auth_server_ref,
            webhook_config: spec.webhook_config_ref.map(|named| named.name),
            trust_proxy_headers: spec.trust_proxy_headers.unwrap_or(false),
            endpoint_prefix: spec.endpoint_prefix.unwrap_or_default(),
            allowed_hosts: spec.allowed_hosts.unwrap_or_default(),
            group: spec.group_ref.map(|group| group.name),
            session_affinity: spec.session_affinity.unwrap_or_default(),
            telemetry_config_ref: spec.telemetry_config_ref,
            telemetry: spec.telemetry,
            replicas: count("spec.replicas", spec.replicas, problems),
            backend_replicas: count("spec.backendReplicas", spec.backend_replicas, problems),
            session_storage: spec.session_storage,
            rate_limiting: spec.rate_limiting,
        }
    }
}

fn secrets(written: Vec<ServerSecret>, problems: &mut Vec<Problem>) -> Vec<SecretEnv> {
    let mut found: Vec<SecretEnv> = Vec::new();
    for (index, secret) in written.into_iter().enumerate() {
        let at = format!("spec.secrets[{index}]");
        let Some(key) = secret.key.filter(|key| !key.is_empty()) else {
            problems.push(Problem::error(
                format!("{at}.key"),
                INVALID_FIELD,
                "The key in the Secret is missing.",
            ));
            continue;
        };
        let variable = secret.target_env_name.filter(|name| !name.is_empty()).unwrap_or_else(|| key.clone());
        if found.iter().any(|other| other.secret == secret.name && other.key == key) {
            problems.push(Problem::error(
                at,
                "DuplicateSecret",
                format!("Key `{key}` of Secret `{}` is listed already; keep one.", secret.name),
            ));
            continue;
        }
        if found.iter().any(|other| other.variable == variable) {
            problems.push(Problem::error(
                format!("{at}.targetEnvName"),
                "DuplicateSecret",
                format!("Another secret becomes the variable `{variable}` already; give one of them another `targetEnvName`."),
            ));
            continue;
        }
        found.push(SecretEnv { path: at, secret: secret.name, key, variable });
    }
    found
}

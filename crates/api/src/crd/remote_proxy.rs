//! MCPRemoteProxy: a proxy in front of an MCP server that runs somewhere else.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::authz::{EmbeddedAuthz, FreeForm};
use super::oidc::EmbeddedOidc;
use super::parse::{count, one_of, port};
use super::pod::{
    AuditSpec, EmbeddedTelemetry, HeaderForwardSpec, NetworkPolicySpec, RateLimiting, ResourceOverrides,
    Resources, SessionAffinity, SessionStorage,
};
use super::reference::{AuthServerRef, ConfigRef, GroupRef, NameRef, OidcConfigRef, TelemetryConfigRef};
use crate::problem::Problem;
use crate::runconfig::{ClientToken, Transport};

/// Port of a proxy when none is said.
pub const DEFAULT_PORT: u16 = 8080;

/// Spec of an MCPRemoteProxy as it is written, in all spellings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.remoteUrl) || has(self.remoteURL)", "message": "remoteUrl is required"},
    {"rule": "!(has(self.authzConfig) && has(self.authzConfigRef))", "message": "authzConfig and authzConfigRef are mutually exclusive; use authzConfigRef to refer to a shared MCPAuthzConfig"},
    {"rule": "!(has(self.oidcConfig) && has(self.oidcConfigRef))", "message": "oidcConfig and oidcConfigRef are mutually exclusive"},
]))]
pub struct RemoteProxySpec {
    /// URL of the remote MCP server. https, unless `allowPrivateEndpoint` is set.
    #[schemars(regex(pattern = r"^https?://"))]
    pub remote_url: Option<String>,
    /// Old spelling of `remoteUrl`.
    #[serde(rename = "remoteURL")]
    #[schemars(regex(pattern = r"^https?://"))]
    pub remote_url_old: Option<String>,
    /// The remote server may have a private address, and may be plain http.
    pub allow_private_endpoint: Option<bool>,
    /// Port on which the proxy listens. Default: 8080.
    #[schemars(range(min = 1, max = 65535))]
    pub proxy_port: Option<i64>,
    /// Old spelling of `proxyPort`.
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i64>,
    /// How the remote server is spoken to. Default: `streamable-http`.
    #[schemars(extend("enum" = ["sse", "streamable-http"]))]
    pub transport: Option<Transport>,
    /// Say `anonymous` to let everybody in without a token.
    pub auth_mode: Option<AuthModeSpec>,
    /// What becomes of the caller's own token: `forward` passes it on to the remote server, `strip` ends
    /// it here. Default: `forward` when the audience is the remote URL's origin or host, else `strip`.
    pub client_token: Option<ClientTokenSpec>,
    /// How callers' tokens are judged, written here.
    pub oidc_config: Option<EmbeddedOidc>,
    /// How callers' tokens are judged, in a shared MCPOIDCConfig.
    pub oidc_config_ref: Option<OidcConfigRef>,
    /// The credential for the remote server, in an MCPExternalAuthConfig.
    pub external_auth_config_ref: Option<ConfigRef>,
    /// An authorization server inside the proxy.
    pub auth_server_ref: Option<AuthServerRef>,
    /// Headers that are added to every request.
    pub header_forward: Option<HeaderForwardSpec>,
    /// Who may call what, written here.
    pub authz_config: Option<EmbeddedAuthz>,
    /// Who may call what, in a shared MCPAuthzConfig.
    pub authz_config_ref: Option<NameRef>,
    /// Records of every request.
    pub audit: Option<AuditSpec>,
    /// Which tools clients see, in an MCPToolConfig.
    pub tool_config_ref: Option<ConfigRef>,
    /// Metrics and traces, in a shared MCPTelemetryConfig.
    pub telemetry_config_ref: Option<TelemetryConfigRef>,
    /// Metrics and traces, written here.
    pub telemetry: Option<EmbeddedTelemetry>,
    /// Resources of the proxy's container.
    pub resources: Option<Resources>,
    /// ServiceAccount of the proxy's pods. Default: one that is made for it, with the least rights.
    pub service_account: Option<String>,
    /// Take the client's address and the external URL from `X-Forwarded-*`.
    pub trust_proxy_headers: Option<bool>,
    /// Path prefix under which an ingress serves this proxy.
    pub endpoint_prefix: Option<String>,
    /// Further values of the Host header that are let in.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub allowed_hosts: Option<Vec<String>>,
    /// Changes to the objects that are made.
    pub resource_overrides: Option<ResourceOverrides>,
    /// The MCPGroup this belongs to: `{name: x}`, or just `x`.
    pub group_ref: Option<GroupRef>,
    /// How the Service chooses among pods. Default: `ClientIP`.
    pub session_affinity: Option<SessionAffinity>,
    /// Number of pods. Absent leaves it to an autoscaler.
    #[schemars(range(min = 0))]
    pub replicas: Option<i64>,
    /// Where sessions are kept when there is more than one pod.
    pub session_storage: Option<SessionStorage>,
    /// Changes to the proxy's pods, merged as `kubectl patch --type=strategic` does.
    #[schemars(with = "Option<FreeForm>")]
    pub pod_template_spec: Option<Value>,
    /// Which network connections the pods may make and take.
    pub network_policy: Option<NetworkPolicySpec>,
    /// Limits on calls.
    pub rate_limiting: Option<RateLimiting>,
    /// Webhooks that judge or change calls, in an MCPWebhookConfig.
    pub webhook_config_ref: Option<ConfigRef>,
}

/// `authMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum AuthModeSpec {
    /// Nobody needs a token.
    Anonymous,
}

/// `clientToken`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum ClientTokenSpec {
    Forward,
    Strip,
}

impl From<ClientTokenSpec> for ClientToken {
    fn from(spec: ClientTokenSpec) -> Self {
        match spec {
            ClientTokenSpec::Forward => Self::Forward,
            ClientTokenSpec::Strip => Self::Strip,
        }
    }
}

/// An MCPRemoteProxy in one spelling, with defaults in place.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteProxy {
    /// The URL as it is written; the planner judges it.
    pub remote_url: String,
    /// `spec.remoteUrl` or `spec.remoteURL`, whichever gave the URL.
    pub remote_url_path: String,
    pub allow_private_endpoint: bool,
    pub port: u16,
    pub transport: Transport,
    pub anonymous: bool,
    pub client_token: Option<ClientToken>,
    pub oidc_config: Option<EmbeddedOidc>,
    pub oidc_config_ref: Option<OidcConfigRef>,
    pub external_auth: Option<String>,
    pub auth_server_ref: Option<AuthServerRef>,
    pub header_forward: HeaderForwardSpec,
    pub authz_config: Option<EmbeddedAuthz>,
    pub authz_config_ref: Option<String>,
    pub audit: bool,
    pub tool_config: Option<String>,
    pub telemetry_config_ref: Option<TelemetryConfigRef>,
    pub telemetry: Option<EmbeddedTelemetry>,
    pub resources: Resources,
    pub service_account: Option<String>,
    pub trust_proxy_headers: bool,
    pub endpoint_prefix: String,
    pub allowed_hosts: Vec<String>,
    pub resource_overrides: ResourceOverrides,
    pub group: Option<String>,
    pub session_affinity: SessionAffinity,
    pub replicas: Option<i32>,
    pub session_storage: Option<SessionStorage>,
    pub pod_template: Option<Value>,
    pub network_policy: NetworkPolicySpec,
    pub rate_limiting: Option<RateLimiting>,
    pub webhook_config: Option<String>,
}

impl RemoteProxy {
    pub(super) fn from_spec(spec: RemoteProxySpec, problems: &mut Vec<Problem>) -> Self {
        let url = one_of(
            ("spec.remoteUrl", spec.remote_url),
            ("spec.remoteURL", spec.remote_url_old),
            None,
            problems,
        );
        let (remote_url_path, remote_url) =
            url.unwrap_or_else(|| ("spec.remoteUrl".to_owned(), String::new()));
        let proxy_port = one_of(
            ("spec.proxyPort", spec.proxy_port),
            ("spec.port", spec.port),
            Some(&i64::from(DEFAULT_PORT)),
            problems,
        );
        Self {
            remote_url,
            remote_url_path,
            allow_private_endpoint: spec.allow_private_endpoint.unwrap_or(false),
            port: port(proxy_port, DEFAULT_PORT, problems),
            transport: spec.transport.unwrap_or(Transport::StreamableHttp),
            anonymous: spec.auth_mode.is_some(),
            client_token: spec.client_token.map(Into::into),
            oidc_config: spec.oidc_config,
            oidc_config_ref: spec.oidc_config_ref,
            external_auth: spec.external_auth_config_ref.map(|named| named.name),
            auth_server_ref: spec.auth_server_ref,
            header_forward: spec.header_forward.unwrap_or_default(),
            authz_config: spec.authz_config,
            authz_config_ref: spec.authz_config_ref.map(|named| named.name),
            audit: spec.audit.and_then(|audit| audit.enabled).unwrap_or(false),
            tool_config: spec.tool_config_ref.map(|named| named.name),
            telemetry_config_ref: spec.telemetry_config_ref,
            telemetry: spec.telemetry,
            resources: spec.resources.unwrap_or_default(),
            service_account: spec.service_account.filter(|name| !name.is_empty()),
            trust_proxy_headers: spec.trust_proxy_headers.unwrap_or(false),
            endpoint_prefix: spec.endpoint_prefix.unwrap_or_default(),
            allowed_hosts: spec.allowed_hosts.unwrap_or_default(),
            resource_overrides: spec.resource_overrides.unwrap_or_default(),
            group: spec.group_ref.map(|group| group.name),
            session_affinity: spec.session_affinity.unwrap_or_default(),
            replicas: count("spec.replicas", spec.replicas, problems),
            session_storage: spec.session_storage,
            pod_template: spec.pod_template_spec,
            network_policy: spec.network_policy.unwrap_or_default(),
            rate_limiting: spec.rate_limiting,
            webhook_config: spec.webhook_config_ref.map(|named| named.name),
        }
    }
}

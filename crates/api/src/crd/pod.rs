//! What a manifest may say about pods, Services and headers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reference::SecretKeyRef;

/// Computing resources of the proxy's container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// Most that it may use.
    pub limits: Option<ResourceList>,
    /// What is set aside for it.
    pub requests: Option<ResourceList>,
}

/// CPU and memory as Kubernetes quantities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceList {
    /// For example `500m`.
    pub cpu: Option<String>,
    /// For example `128Mi`.
    pub memory: Option<String>,
}

/// Changes to the objects that are made for the proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceOverrides {
    /// Changes to the proxy's Deployment.
    pub proxy_deployment: Option<DeploymentOverrides>,
    /// Changes to the proxy's Service.
    pub proxy_service: Option<MetadataOverrides>,
}

/// Changes to the proxy's Deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentOverrides {
    /// Annotations of the Deployment.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Labels of the Deployment.
    pub labels: Option<BTreeMap<String, String>>,
    /// Environment of the proxy, not of the MCP server. Variables that carry the operator's word or secrets
    /// (`KUBERNETES_*`, `TOOLHIVE_SECRET_*`, `TOOLHIVE_*_CLIENT_SECRET` and the like) are refused.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Option<Vec<EnvVar>>,
    /// Secrets for pulling images.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub image_pull_secrets: Option<Vec<PullSecret>>,
    /// Annotations and labels of the proxy's pods.
    pub pod_template_metadata_overrides: Option<MetadataOverrides>,
}

/// Annotations and labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetadataOverrides {
    /// Annotations to add; the operator's own win.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Labels to add; the operator's own win.
    pub labels: Option<BTreeMap<String, String>>,
}

/// An environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Name of the variable.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// The name of a Secret for pulling images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct PullSecret {
    /// Name of the Secret.
    #[serde(default)]
    pub name: String,
}

/// Headers that are added to every request to the remote server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderForwardSpec {
    /// Headers with values that anybody may read.
    pub add_plaintext_headers: Option<BTreeMap<String, String>>,
    /// Headers with values from Secrets.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["headerName"]))]
    pub add_headers_from_secret: Option<Vec<HeaderFromSecret>>,
}

/// A header whose value is in a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderFromSecret {
    /// Name of the header.
    #[schemars(length(min = 1, max = 255))]
    pub header_name: String,
    /// Where its value is.
    pub value_secret_ref: SecretKeyRef,
}

/// `audit`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuditSpec {
    /// Write a record of every request. Default: false.
    pub enabled: Option<bool>,
}

/// Where sessions are kept when there is more than one replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.provider == 'redis' ? has(self.address) : true", "message": "address is required"},
]))]
pub struct SessionStorage {
    /// `memory` or `redis`.
    pub provider: SessionProvider,
    /// Address of Redis as `host:port`.
    #[schemars(length(min = 1))]
    pub address: Option<String>,
    /// Number of the Redis database.
    #[schemars(range(min = 0))]
    pub db: Option<i32>,
    /// Prefix of all keys.
    pub key_prefix: Option<String>,
    /// Password of Redis.
    pub password_ref: Option<SecretKeyRef>,
}

/// `sessionStorage.provider`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum SessionProvider {
    Memory,
    Redis,
}

/// How a Service chooses among pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum SessionAffinity {
    /// Requests from one address go to one pod.
    #[default]
    ClientIP,
    /// Any pod.
    None,
}

impl SessionAffinity {
    /// The word Kubernetes has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientIP => "ClientIP",
            Self::None => "None",
        }
    }
}

/// Limits on calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.shared) || has(self.perUser) || (has(self.tools) && size(self.tools) > 0)", "message": "at least one of shared, perUser, or tools must be configured"},
]))]
pub struct RateLimiting {
    /// One bucket for all callers.
    pub shared: Option<TokenBucket>,
    /// One bucket for each caller.
    pub per_user: Option<TokenBucket>,
    /// Buckets of single tools.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub tools: Option<Vec<ToolRateLimit>>,
}

/// A token bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenBucket {
    /// Calls that may come at once.
    #[schemars(range(min = 1))]
    pub max_tokens: i32,
    /// Time in which an empty bucket fills, for example `1m`.
    pub refill_period: String,
}

/// Limits on one tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.shared) || has(self.perUser)", "message": "at least one of shared and perUser must be set"},
]))]
pub struct ToolRateLimit {
    /// Name of the tool.
    #[schemars(length(min = 1))]
    pub name: String,
    /// One bucket for all callers.
    pub shared: Option<TokenBucket>,
    /// One bucket for each caller.
    pub per_user: Option<TokenBucket>,
}

/// Which network connections the proxy's pods may make and take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicySpec {
    /// Make a NetworkPolicy. Default: false.
    pub enabled: Option<bool>,
    /// Further destinations, besides DNS, the remote server and the identity provider.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub allowed_egress: Option<Vec<AllowedEgress>>,
}

/// One destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.host) != has(self.cidr)", "message": "exactly one of host and cidr must be set"},
]))]
pub struct AllowedEgress {
    /// Host name or address. Kubernetes' own NetworkPolicy knows no names, so a name becomes all public addresses on
    /// the ports; a name of this cluster becomes all addresses on the ports, and all pods of its namespace.
    pub host: Option<String>,
    /// Network, for example `10.0.0.0/8`.
    pub cidr: Option<String>,
    /// TCP ports. Default: 443.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub ports: Option<Vec<u16>>,
}

/// The `telemetry` block of 2025.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EmbeddedTelemetry {
    /// Traces and metrics by OpenTelemetry.
    pub open_telemetry: Option<OpenTelemetry>,
    /// Metrics for Prometheus.
    pub prometheus: Option<Prometheus>,
}

/// OpenTelemetry settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OpenTelemetry {
    /// Turn it on.
    pub enabled: Option<bool>,
    /// OTLP endpoint.
    pub endpoint: Option<String>,
    /// Name under which this workload reports.
    pub service_name: Option<String>,
    /// Headers as `name=value`.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub headers: Option<Vec<String>>,
    /// Plain http to the endpoint.
    pub insecure: Option<bool>,
    /// Metrics over OTLP.
    pub metrics: Option<Switch>,
    /// Traces over OTLP.
    pub tracing: Option<Tracing>,
}

/// On or off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Switch {
    /// Turn it on.
    pub enabled: Option<bool>,
}

/// Traces over OTLP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    /// Turn it on.
    pub enabled: Option<bool>,
    /// Share of requests that are traced, from `0` to `1`. Default: `0.05`.
    pub sampling_rate: Option<String>,
}

/// Metrics for Prometheus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Prometheus {
    /// Serve `/metrics`.
    pub enabled: Option<bool>,
}

//! Status of each kind, for the schema and for whoever writes it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A `metav1.Condition`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusCondition {
    /// Type of the condition.
    #[serde(rename = "type")]
    #[schemars(
        length(max = 316),
        regex(
            pattern = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
        )
    )]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[schemars(extend("enum" = ["True", "False", "Unknown"]))]
    pub status: String,
    /// Cause in CamelCase.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"))]
    pub reason: String,
    /// Sentence for a human.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// When `status` last changed.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// Generation this was found at.
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
}

/// Status of an MCPRemoteProxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RemoteProxyStatus {
    /// `Pending`, `Ready`, `Failed` or `Terminating`.
    #[schemars(extend("enum" = ["Pending", "Ready", "Failed", "Terminating"]))]
    pub phase: Option<String>,
    /// URL inside the cluster.
    pub url: Option<String>,
    /// URL outside the cluster.
    pub external_url: Option<String>,
    /// Old spelling of `externalUrl`.
    #[serde(rename = "externalURL")]
    pub external_url_old: Option<String>,
    /// What is going on.
    pub message: Option<String>,
    /// Generation this status is about.
    pub observed_generation: Option<i64>,
    /// Conditions.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Option<Vec<StatusCondition>>,
    /// When the remote server was last asked.
    #[schemars(extend("format" = "date-time"))]
    pub last_health_check: Option<String>,
    /// Whether it answered.
    pub remote_reachable: Option<bool>,
    /// Whether tokens can be exchanged.
    pub token_exchange_ready: Option<bool>,
    /// Hash of the MCPToolConfig in use.
    pub tool_config_hash: Option<String>,
    /// Hash of the MCPTelemetryConfig in use.
    pub telemetry_config_hash: Option<String>,
    /// Hash of the MCPExternalAuthConfig in use.
    pub external_auth_config_hash: Option<String>,
    /// Hash of the authorization server's config in use.
    pub auth_server_config_hash: Option<String>,
    /// Hash of the MCPOIDCConfig in use.
    pub oidc_config_hash: Option<String>,
    /// Hash of the MCPAuthzConfig in use.
    pub authz_config_hash: Option<String>,
    /// Hash of the MCPWebhookConfig in use.
    pub webhook_config_hash: Option<String>,
}

/// Status of an MCPServer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerStatus {
    /// `Pending`, `Ready`, `Failed`, `Terminating` or `Stopped`; `Running` in objects of 2025.
    #[schemars(extend("enum" = ["Pending", "Ready", "Running", "Failed", "Terminating", "Stopped"]))]
    pub phase: Option<String>,
    /// What is going on.
    pub message: Option<String>,
    /// URL inside the cluster.
    pub url: Option<String>,
    /// Proxy pods that are ready.
    pub ready_replicas: Option<i32>,
    /// Generation this status is about.
    pub observed_generation: Option<i64>,
    /// Conditions.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Option<Vec<StatusCondition>>,
    /// Hash of the MCPToolConfig in use.
    pub tool_config_hash: Option<String>,
    /// Hash of the MCPExternalAuthConfig in use.
    pub external_auth_config_hash: Option<String>,
    /// Hash of the authorization server's config in use.
    pub auth_server_config_hash: Option<String>,
    /// Hash of the MCPOIDCConfig in use.
    pub oidc_config_hash: Option<String>,
    /// Hash of the MCPAuthzConfig in use.
    pub authz_config_hash: Option<String>,
    /// Hash of the MCPTelemetryConfig in use.
    pub telemetry_config_hash: Option<String>,
    /// Hash of the MCPWebhookConfig in use.
    pub webhook_config_hash: Option<String>,
}

/// Status of a config that workloads refer to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigStatus {
    /// Conditions.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Option<Vec<StatusCondition>>,
    /// Hash of the spec.
    pub config_hash: Option<String>,
    /// Generation this status is about.
    pub observed_generation: Option<i64>,
    /// Objects that refer to this one.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["kind", "name"]))]
    pub referencing_workloads: Option<Vec<ReferencingWorkload>>,
    /// Number of objects that refer to this one. Kept from earlier versions of ToolHive; nobody writes it here.
    pub reference_count: Option<i32>,
    /// MCPServers that refer to this one, as in 2025. Nobody writes it here.
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub referencing_servers: Option<Vec<String>>,
}

/// An object that refers to a config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReferencingWorkload {
    /// Kind of the object.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Status of an MCPGroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupStatus {
    /// `Ready`, `Pending` or `Failed`. It says that members could be counted, not that they work.
    #[schemars(extend("enum" = ["Ready", "Pending", "Failed"]))]
    pub phase: Option<String>,
    /// Names of the MCPServers of the group.
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub servers: Option<Vec<String>>,
    /// Number of MCPServers.
    pub server_count: Option<i32>,
    /// Names of the MCPRemoteProxies of the group.
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub remote_proxies: Option<Vec<String>>,
    /// Number of MCPRemoteProxies.
    pub remote_proxy_count: Option<i32>,
    /// Names of the MCPServerEntries of the group.
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub entries: Option<Vec<String>>,
    /// Number of MCPServerEntries.
    pub entry_count: Option<i32>,
    /// Generation this status is about.
    pub observed_generation: Option<i64>,
    /// Conditions.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Option<Vec<StatusCondition>>,
}

/// Status of an MCPServerEntry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerEntryStatus {
    /// `Valid`, `Pending` or `Failed`.
    #[schemars(extend("enum" = ["Valid", "Pending", "Failed"]))]
    pub phase: Option<String>,
    /// Generation this status is about.
    pub observed_generation: Option<i64>,
    /// Conditions.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Option<Vec<StatusCondition>>,
}

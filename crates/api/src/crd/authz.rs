//! Who may do what: MCPAuthzConfig, and the `authzConfig` block inside a workload's spec.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Spec of an MCPAuthzConfig: an authorization document shared by several workloads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthzConfigSpec {
    /// Which engine decides: `cedarv1` or `httpv1`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1))]
    pub kind: String,
    /// Settings of that engine. For `cedarv1`: `policies`, `entities_json`, `group_claim_name`,
    /// `role_claim_name`, `group_entity_type`, `multi_valued_claims`.
    #[schemars(with = "FreeForm")]
    pub config: Value,
}

/// An object whose content the API server does not judge.
#[derive(JsonSchema)]
#[schemars(extend("type" = "object", "x-kubernetes-preserve-unknown-fields" = true), inline)]
pub struct FreeForm {}

/// The `authzConfig` block inside a workload's spec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.type) && self.type == 'inline' ? has(self.inline) : !has(self.inline)", "message": "inline must be set when type is inline, and only then"},
    {"rule": "has(self.type) && self.type == 'inline' ? !has(self.configMap) : has(self.configMap)", "message": "configMap must be set when type is configMap, and only then"},
]))]
pub struct EmbeddedAuthz {
    /// Where the policies come from. Default: `configMap`.
    #[serde(rename = "type")]
    pub kind: Option<EmbeddedAuthzSource>,
    /// A ConfigMap with an authorization document, key `authz.json` by default.
    pub config_map: Option<super::reference::ConfigMapRef>,
    /// Policies written here.
    pub inline: Option<InlineAuthz>,
    /// Claim that lists the caller's groups: a name or a dotted path.
    #[schemars(length(max = 253))]
    pub group_claim_name: Option<String>,
    /// Claim that lists the caller's roles.
    #[schemars(length(max = 253))]
    pub role_claim_name: Option<String>,
    /// Cedar entity type of groups. Default: `THVGroup`.
    #[schemars(length(max = 63), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub group_entity_type: Option<String>,
}

/// `authzConfig.type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum EmbeddedAuthzSource {
    #[default]
    ConfigMap,
    Inline,
}

/// Policies written into the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InlineAuthz {
    /// Cedar policies.
    #[schemars(length(min = 1), extend("x-kubernetes-list-type" = "atomic"))]
    pub policies: Vec<String>,
    /// Cedar entities as JSON. Default: `[]`.
    pub entities_json: Option<String>,
    /// Upstream provider whose claims are judged; only with the embedded authorization server.
    #[schemars(length(min = 1, max = 63), regex(pattern = super::DNS_LABEL))]
    pub primary_upstream_provider: Option<String>,
}

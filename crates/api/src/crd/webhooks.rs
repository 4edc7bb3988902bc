//! Webhooks that judge or change calls: MCPWebhookConfig.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reference::SecretKeyRef;

/// Spec of an MCPWebhookConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "(has(self.validating) ? size(self.validating) : 0) + (has(self.mutating) ? size(self.mutating) : 0) > 0", "message": "at least one validating or mutating webhook must be defined"},
]))]
pub struct WebhookConfigSpec {
    /// Webhooks that say yes or no to a call.
    pub validating: Option<Vec<Webhook>>,
    /// Webhooks that may change a call; they are asked first, in this order.
    pub mutating: Option<Vec<Webhook>>,
}

/// One webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// Name, for logs, metrics and audit records.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Where calls are sent. https, unless `tlsConfig.insecureSkipVerify` is set.
    #[schemars(extend("format" = "uri"))]
    pub url: String,
    /// How long an answer may take, from `1s` to `30s`. Default: 10s.
    #[schemars(extend("format" = "duration"))]
    pub timeout: Option<String>,
    /// What an answer that does not come means: `fail` refuses the call, `ignore` lets it pass. Default: `fail`.
    pub failure_policy: Option<WebhookFailurePolicy>,
    /// Key of the HMAC signature of requests.
    pub hmac_secret_ref: Option<SecretKeyRef>,
    /// TLS with the webhook.
    pub tls_config: Option<WebhookTls>,
}

/// `failurePolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum WebhookFailurePolicy {
    #[default]
    Fail,
    Ignore,
}

/// TLS with a webhook.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WebhookTls {
    /// CA certificates, PEM.
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// Client certificate, PEM; with `clientKeySecretRef`.
    pub client_cert_secret_ref: Option<SecretKeyRef>,
    /// Private key of the client certificate, PEM.
    pub client_key_secret_ref: Option<SecretKeyRef>,
    /// Take any certificate, and plain http. For development only.
    pub insecure_skip_verify: Option<bool>,
}

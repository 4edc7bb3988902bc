//! Metrics and traces that several workloads share: MCPTelemetryConfig.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pod::{Prometheus, Switch};
use super::reference::{CaBundleSource, SecretKeyRef};

/// Spec of an MCPTelemetryConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TelemetryConfigSpec {
    /// Traces and metrics by OpenTelemetry.
    pub open_telemetry: Option<SharedOpenTelemetry>,
    /// Metrics for Prometheus.
    pub prometheus: Option<Prometheus>,
}

/// OpenTelemetry settings that several workloads share. Each workload reports under its own name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.headers) || !has(self.sensitiveHeaders) || self.sensitiveHeaders.all(header, !(header.name in self.headers))", "message": "a header may stand in headers or in sensitiveHeaders, not in both"},
]))]
pub struct SharedOpenTelemetry {
    /// Turn it on. Default: false.
    pub enabled: Option<bool>,
    /// OTLP endpoint.
    pub endpoint: Option<String>,
    /// Plain http to the endpoint. Default: false.
    pub insecure: Option<bool>,
    /// Headers with values that anybody may read.
    pub headers: Option<BTreeMap<String, String>>,
    /// Headers with values from Secrets.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub sensitive_headers: Option<Vec<SensitiveHeader>>,
    /// Attributes of everything that is reported.
    pub resource_attributes: Option<BTreeMap<String, String>>,
    /// CA certificates for calls to the endpoint, from a ConfigMap.
    pub ca_bundle_ref: Option<CaBundleSource>,
    /// Metrics over OTLP.
    pub metrics: Option<Switch>,
    /// Traces over OTLP.
    pub tracing: Option<SharedTracing>,
    /// Report under the attribute names of early versions, beside the present ones. Default: true.
    pub use_legacy_attributes: Option<bool>,
}

/// Traces over OTLP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SharedTracing {
    /// Turn it on. Default: false.
    pub enabled: Option<bool>,
    /// Share of requests that are traced, from `0` to `1`. Default: `0.05`.
    #[schemars(regex(pattern = r"^(0(\.\d+)?|1(\.0+)?)$"))]
    pub sampling_rate: Option<String>,
}

/// A header of OTLP requests whose value is in a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SensitiveHeader {
    /// Name of the header.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Where its value is.
    pub secret_key_ref: SecretKeyRef,
}

//! `middleware_configs`: the stages that are on, in the order in which ToolHive's operator lists them.

use serde_json::{Value, json};
use skep_api::runconfig::{MiddlewareConfig, RunConfig};

/// Largest request body in bytes.
const MAX_BODY: u64 = 8 << 20;

/// The list that follows from the rest of a RunConfig.
pub(super) fn list(config: &RunConfig) -> Vec<MiddlewareConfig> {
    let mut stages = vec![stage("bodylimit", json!({"max_bytes": MAX_BODY}))];
    if let Some(audit) = &config.audit_config {
        stages.push(stage(
            "audit",
            json!({"component": config.name, "config_data": audit, "transport_type": config.transport.as_str()}),
        ));
    }
    // Present also without an issuer: then everybody is the local, anonymous user.
    stages.push(stage(
        "auth",
        config.oidc_config.as_ref().map_or_else(|| json!({}), |oidc| json!({"oidc_config": oidc})),
    ));
    if let Some(exchange) = &config.token_exchange_config {
        stages.push(stage("tokenexchange", json!({"token_exchange_config": exchange})));
    }
    if !config.tools_filter.is_empty() || !config.tools_override.is_empty() {
        let tools = json!({"filter_tools": config.tools_filter, "tools_override": config.tools_override});
        stages.push(stage("tool-filter", tools.clone()));
        stages.push(stage("tool-call-filter", tools));
    }
    stages.push(stage("mcp-parser", json!({})));
    if let Some(telemetry) = &config.telemetry_config {
        stages.push(stage(
            "telemetry",
            json!({"config": telemetry, "server_name": config.name, "transport": config.transport.as_str()}),
        ));
    }
    if let Some(authz) = &config.authz_config {
        stages.push(stage("authorization", json!({"config_data": authz})));
    }
    if let Some(aws) = &config.aws_sts_config {
        stages.push(stage("awssts", json!({"aws_sts_config": aws, "target_url": config.remote_url})));
    }
    if let Some(headers) =
        config.header_forward.as_ref().filter(|headers| !headers.add_plaintext_headers.is_empty())
    {
        // Values from Secrets are not known here; the proxy adds them from its environment.
        stages.push(stage("header-forward", json!({"add_headers": headers.add_plaintext_headers})));
    }
    stages.push(stage("recovery", json!({})));
    stages
}

fn stage(kind: &str, parameters: Value) -> MiddlewareConfig {
    MiddlewareConfig { kind: kind.to_owned(), parameters }
}

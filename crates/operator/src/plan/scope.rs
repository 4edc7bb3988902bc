//! Which conditions a kind has. Shared rules set conditions by their topic, and only some kinds show it.

use skep_api::crd::Kind;

const SERVER: [&str; 16] = [
    "AuthConfigured",
    "AuthServerRefValidated",
    "AuthzConfigRefValidated",
    "AuthzPrimaryUpstreamProviderIgnored",
    "CABundleRefValidated",
    "ExternalAuthConfigValidated",
    "GroupRefValidated",
    "OIDCConfigRefValidated",
    "PodTemplateValid",
    "RateLimitConfigValid",
    "Ready",
    "SessionStorageWarning",
    "SidecarsReady",
    "StdioReplicaCapped",
    "TelemetryConfigRefValidated",
    "WebhookConfigValidated",
];

const REMOTE_PROXY: [&str; 13] = [
    "AuthConfigured",
    "AuthServerRefValidated",
    "AuthzConfigRefValidated",
    "AuthzPrimaryUpstreamProviderIgnored",
    "CABundleRefValidated",
    "ConfigurationValid",
    "ExternalAuthConfigValidated",
    "GroupRefValidated",
    "OIDCConfigRefValidated",
    "PodTemplateValid",
    "SessionStorageWarning",
    "TelemetryConfigRefValidated",
    "ToolConfigValidated",
];

const ENTRY: [&str; 6] = [
    "CABundleRefValidated",
    "ExternalAuthConfigValidated",
    "GroupRefValidated",
    "HeaderSecretRefsValidated",
    "RemoteURLValidated",
    "Valid",
];

/// True when objects of the kind have the condition.
pub(super) fn has(kind: Kind, condition: &str) -> bool {
    match kind {
        Kind::MCPServer => SERVER.contains(&condition),
        Kind::MCPRemoteProxy => REMOTE_PROXY.contains(&condition),
        Kind::MCPServerEntry => ENTRY.contains(&condition),
        _ => condition == "Valid",
    }
}

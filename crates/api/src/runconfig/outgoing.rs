//! With which credential the backend is called.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{is_default, null_as_default};

/// `token_exchange_config` (RFC 8693 client).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenExchangeConfig {
    #[serde(default)]
    pub token_url: String,
    #[serde(default)]
    pub client_id: String,
    /// Always empty in a file skep writes: the value comes from `TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET`.
    #[serde(default)]
    pub client_secret: String,
    #[serde(default)]
    pub audience: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub scopes: Vec<String>,
    #[serde(default)]
    pub subject_token_type: String,
    /// `replace` or `custom`.
    #[serde(default)]
    pub header_strategy: String,
    #[serde(default)]
    pub external_token_header_name: String,
}

/// What of the token exchange ToolHive has no key for (`skep.token_exchange`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenExchangeExtension {
    /// How the proxy proves itself to the token endpoint.
    #[serde(skip_serializing_if = "is_default")]
    pub client_auth: ClientAuthMethod,
    /// What is asked for.
    #[serde(skip_serializing_if = "is_default")]
    pub grant_type: GrantType,
    /// Resource indicator (RFC 8707), an absolute URI.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// File with a token that says who acts for the subject (RFC 8693 §2.1 `actor_token`).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub actor_token_file: String,
    /// Id of the key that signs assertions (`private_key_jwt`); the key itself is the client's secret.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_key_id: String,
    /// File with a JWT-SVID for the token endpoint (`spiffe_jwt`).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_assertion_file: String,
    /// File with the client's certificates, PEM (`tls_client_auth`).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_certificate_file: String,
    /// File with the key of the client's certificate, PEM (`tls_client_auth`).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_certificate_key_file: String,
    /// File of CA certificates for calls to the token endpoint, PEM.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ca_cert_path: String,
    /// Longest time in seconds that a token is kept; absent means as long as it lasts, 0 means not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_cap_seconds: Option<u64>,
    /// Seconds that a refusal of the subject token is kept, at most 10; absent means 5, 0 means not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_ttl_seconds: Option<u64>,
}

/// How a client proves itself to a token endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthMethod {
    /// With `client_secret_basic` when there is a secret, else only by its id (a public client).
    #[default]
    Default,
    /// Id and secret in the Authorization header (RFC 6749 §2.3.1).
    ClientSecretBasic,
    /// Id and secret in the form.
    ClientSecretPost,
    /// A signed assertion (RFC 7523 §2.2).
    PrivateKeyJwt,
    /// A JWT-SVID as the assertion (draft-ietf-oauth-spiffe-client-auth).
    SpiffeJwt,
    /// A client certificate (RFC 8705 §2).
    TlsClientAuth,
}

/// What is asked of a token endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// The caller's token for another (RFC 8693).
    #[default]
    TokenExchange,
    /// One token of the proxy's own for all callers (RFC 6749 §4.4): service-account mode.
    ClientCredentials,
}

/// `aws_sts_config`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AwsStsConfig {
    pub region: String,
    /// Service name in signatures; empty means `aws-mcp`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fallback_role_arn: String,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub role_mappings: Vec<AwsRoleMapping>,
    /// Claim that mappings look at; empty means `groups`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub role_claim: String,
    /// Seconds; absent means 3600.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_duration: Option<i32>,
    /// Claim that names the session; empty means `sub`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session_name_claim: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subject_provider_name: String,
}

/// One rule from claims to a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AwsRoleMapping {
    /// Value that the role claim must hold.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub claim: String,
    /// CEL expression over `claims`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub matcher: String,
    pub role_arn: String,
    /// Lower wins; absent comes last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
}

/// What of AWS ToolHive has no key for (`skep.aws`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AwsExtension {
    /// URL of STS, for a VPC endpoint; empty means the region's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sts_endpoint: String,
    /// File of CA certificates for calls to STS, PEM.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ca_cert_path: String,
}

/// Fixed headers for a remote server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderForward {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub add_plaintext_headers: BTreeMap<String, String>,
    /// Header name to secret identifier; the value is in the environment as `TOOLHIVE_SECRET_<identifier>`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub add_headers_from_secret: BTreeMap<String, String>,
}

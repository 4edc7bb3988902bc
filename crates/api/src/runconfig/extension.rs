//! What ToolHive has no key for: everything under `skep`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::incoming::{FurtherIssuer, IssuerRules};
use super::outgoing::{AwsExtension, TokenExchangeExtension};
use super::{is_default, is_false};

/// Whether callers need an identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AuthMode {
    /// A token is needed as soon as `oidc_config` is there; a remote server without it is refused.
    #[default]
    Token,
    /// Everybody may call, and the manifest says so in words.
    Anonymous,
}

/// What becomes of the client's own token on the way to the backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClientToken {
    /// It ends here.
    #[default]
    Strip,
    /// It is the backend's own token and is passed on unchanged (direct mode).
    Forward,
}

/// Keys of skep's own, under `skep`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SkepExtension {
    #[serde(default, skip_serializing_if = "is_default")]
    pub auth_mode: AuthMode,
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_token: ClientToken,
    /// Why no call is let through; empty when calls are. While it is set, every MCP request is answered
    /// with 503.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub suspended: String,
    /// Extra values of the Host header that are let in, besides those that follow from the bind
    /// address, the Services and the resource URL.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_hosts: Vec<String>,
    /// The remote URL may resolve to private addresses.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_private_endpoint: bool,
    /// Rules for the tokens of `oidc_config`'s issuer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub issuer: IssuerRules,
    /// Issuers besides that of `oidc_config`. A JWT is judged only by the issuer that its `iss` names; at
    /// most one issuer is asked about opaque tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_issuers: Vec<FurtherIssuer>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub token_exchange: TokenExchangeExtension,
    #[serde(default, skip_serializing_if = "is_default")]
    pub aws: AwsExtension,
    /// Environment variable to a file that has its value, for secrets that change without a restart. The
    /// file wins over the variable.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_files: BTreeMap<String, String>,
    /// Show every number to Cedar policies as a decimal, as ToolHive does; else whole numbers are Longs.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cedar_decimals: bool,
    #[serde(default, skip_serializing_if = "Limits::is_default")]
    pub limits: Limits,
}

impl SkepExtension {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Bounds of one proxy; absent means the default named at each field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of all request headers together (32 KiB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_bytes: Option<usize>,
    /// Bytes of a request body (8 MiB); the `bodylimit` middleware sets the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<usize>,
    /// Nesting of a request body (64).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_depth: Option<usize>,
    /// Bytes of a list result that has to be filtered (16 MiB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_bytes: Option<usize>,
    /// Bytes of one SSE frame that has to be looked at (8 MiB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sse_frame_bytes: Option<usize>,
    /// Connections served at a time (10,000).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
    /// Response streams open at a time (10,000).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<usize>,
    /// Milliseconds for the request line and headers to arrive (10,000).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_timeout_ms: Option<u64>,
    /// Milliseconds without a byte of the request body (30,000); the whole body may take ten times that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_idle_timeout_ms: Option<u64>,
    /// Milliseconds for the backend to accept a connection (10,000).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u64>,
    /// Milliseconds for the backend's response headers (300,000).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_timeout_ms: Option<u64>,
}

impl Limits {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

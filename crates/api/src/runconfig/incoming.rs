//! How incoming tokens are judged.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{is_default, is_false, null_as_default};

/// `oidc_config`, with Go's field names (`TokenValidatorConfig`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct OidcConfig {
    #[serde(default)]
    pub issuer: String,
    /// Value that a token's `aud` must contain.
    #[serde(default)]
    pub audience: String,
    #[serde(rename = "JWKSURL", default)]
    pub jwks_url: String,
    #[serde(rename = "ClientID", default)]
    pub client_id: String,
    /// Always empty in a file skep writes: the value comes from `TOOLHIVE_OIDC_CLIENT_SECRET`.
    #[serde(default)]
    pub client_secret: String,
    #[serde(rename = "CACertPath", default)]
    pub ca_cert_path: String,
    #[serde(default)]
    pub auth_token_file: String,
    #[serde(rename = "AllowPrivateIP", default)]
    pub allow_private_ip: bool,
    #[serde(rename = "InsecureAllowHTTP", default)]
    pub insecure_allow_http: bool,
    #[serde(rename = "IntrospectionURL", default)]
    pub introspection_url: String,
    #[serde(rename = "ResourceURL", default)]
    pub resource_url: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub scopes: Vec<String>,
}

/// What of an issuer's tokens ToolHive has no key for. Under `skep.issuer` these are the rules for the
/// issuer of `oidc_config`; each further issuer has its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerRules {
    /// Further audiences, besides `Audience`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// Signature algorithms that are accepted; empty means RS256/384/512, PS256/384/512, ES256/384, EdDSA.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_algorithms: Vec<String>,
    /// Tolerance for `exp` and `nbf` in seconds; absent means 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_skew_seconds: Option<u64>,
    /// URL of the discovery document, where it is not below the issuer (Microsoft Entra's v1 tokens).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub discovery_url: String,
    /// Tenant ids that may stand in the issuer in place of `{tenantid}`; needed when it has that part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<String>,
    /// ID tokens are accepted too. They say who logged in to some client, not what that client may do.
    #[serde(default, skip_serializing_if = "is_false")]
    pub accept_id_token: bool,
    /// Which JWTs count as access tokens.
    #[serde(default, skip_serializing_if = "is_default")]
    pub profile: TokenProfile,
    /// Clients that tokens may have been issued to (`azp`, `client_id`, `appid` or `cid`); empty means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorized_parties: Vec<String>,
    /// Scopes as clients ask for them, to scopes as tokens have them (`api://app/mcp.read` to `mcp.read`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scope_map: BTreeMap<String, String>,
    /// Scopes, as clients ask for them, that every token must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required_scopes: Vec<String>,
    /// Where in the claims the caller's particulars are.
    #[serde(default, skip_serializing_if = "is_default")]
    pub claim_mappings: ClaimMappings,
    /// SHA-256 digests, base64 or hex, of public keys (SPKI) of which the issuer's server must show one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jwks_pins: Vec<String>,
    /// SHA-256 digest, hex, of the certificate that the issuer's server must show.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jwks_cert_fingerprint: String,
    /// How opaque tokens are asked about.
    #[serde(default, skip_serializing_if = "is_default")]
    pub introspection: IntrospectionRules,
    /// A client that calls for itself is known by its `sub` as it is, as in ToolHive; else as `client:ID`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub plain_client_subjects: bool,
}

/// Which JWTs count as access tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenProfile {
    /// `typ` is `at+jwt`, `JWT` or absent, as identity providers of today send it.
    #[default]
    Any,
    /// `typ` is `at+jwt` (RFC 9068 §4).
    Rfc9068,
}

/// Where in the claims the caller's particulars are: a claim's name or a dotted path. What is mapped
/// takes the place of the claim of that name, also when the token has nothing there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimMappings {
    /// Claim of the subject; empty means `sub`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subject: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub email: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub groups: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub roles: String,
}

/// Settings of token introspection (RFC 7662).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IntrospectionRules {
    /// Seconds that an answer is kept, never longer than the token lasts; absent means 30, 0 means not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_ttl_seconds: Option<u64>,
}

/// An issuer besides that of `oidc_config`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FurtherIssuer {
    /// Put before its subjects and groups, so that no two issuers' users or groups are taken for one: in
    /// principals and their parents, limits and audit. Never empty, and no other issuer's. Claims
    /// (`claim_groups`) stay as they are in the token.
    pub subject_prefix: String,
    /// The issuer. `ResourceURL` and `Scopes` are those of the first one.
    pub oidc_config: OidcConfig,
    /// Rules for its tokens.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rules: IssuerRules,
}

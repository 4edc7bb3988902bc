//! An authorization server inside the proxy: `spec.embeddedAuthServer` of an MCPExternalAuthConfig.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth_storage::AuthServerStorage;
use super::reference::SecretKeyRef;
use super::trusted_issuer::TrustedIssuer;
use super::{DNS_LABEL, GO_DURATION};

/// URL without a query, a fragment or a slash at its end.
const BARE_URL: &str = r"^https?://[^\s?#]+[^/\s?#]$";
const BARE_HTTPS_URL: &str = r"^https://[^\s?#]+[^/\s?#]$";
const HTTP_URL: &str = r"^https?://.*$";

/// An authorization server inside the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!(has(self.allowConfidentialClientRegistration) && self.allowConfidentialClientRegistration && has(self.insecureAllowHTTP) && self.insecureAllowHTTP)", "message": "allowConfidentialClientRegistration and insecureAllowHTTP exclude each other: client secrets would be handed out over plain http"},
    {"rule": "!has(self.delegateClients) || size(self.delegateClients) == 0 || !self.issuer.startsWith('http://')", "message": "delegateClients need an https issuer: their secrets would be sent over plain http"},
    {"rule": "!has(self.forceConfidentialRedirectUris) || size(self.forceConfidentialRedirectUris) == 0 || (has(self.allowConfidentialClientRegistration) && self.allowConfidentialClientRegistration)", "message": "forceConfidentialRedirectUris needs allowConfidentialClientRegistration"},
]))]
pub struct EmbeddedAuthServer {
    /// Issuer URL, without a slash at its end.
    #[schemars(regex(pattern = BARE_URL))]
    pub issuer: String,
    /// Where browsers are sent to log in, if that is not the issuer.
    #[schemars(regex(pattern = BARE_URL))]
    pub authorization_endpoint_base_url: Option<String>,
    /// Identity providers that users log in at.
    #[schemars(length(min = 1), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub upstream_providers: Vec<UpstreamProvider>,
    /// Keys that tokens are signed with, PEM; the first signs, all are published.
    #[schemars(length(max = 5), extend("x-kubernetes-list-type" = "atomic"))]
    pub signing_key_secret_refs: Option<Vec<SecretKeyRef>>,
    /// Keys of codes and refresh tokens, 32 bytes at least; the first is used, all are accepted.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub hmac_secret_refs: Option<Vec<SecretKeyRef>>,
    /// How long tokens last.
    pub token_lifespans: Option<TokenLifespans>,
    /// Where sessions and tokens are kept.
    pub storage: Option<AuthServerStorage>,
    /// Scopes that every client may ask for.
    #[schemars(
        length(max = 10),
        inner(length(min = 1), regex(pattern = r"^[\x21\x23-\x5B\x5D-\x7E]+$")),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub baseline_client_scopes: Option<Vec<String>>,
    /// Name of the provider whose claims policies see.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub primary_upstream_provider: Option<String>,
    /// Don't send the provider's token to the MCP server. Default: false.
    pub disable_upstream_token_injection: Option<bool>,
    /// Clients that are known by the URL of their metadata document.
    pub cimd: Option<ClientIdMetadata>,
    /// The issuer may be plain http. For development only. Default: false.
    #[serde(rename = "insecureAllowHTTP")]
    pub insecure_allow_http: Option<bool>,
    /// Clients that register themselves may get a secret. Default: false.
    pub allow_confidential_client_registration: Option<bool>,
    /// Redirect URIs whose clients have to have a secret.
    #[schemars(
        length(max = 10),
        inner(regex(pattern = r"^https://[^\s?#]+$")),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub force_confidential_redirect_uris: Option<Vec<String>>,
    /// A client with a secret may have a loopback redirect URI with plain http. Default: false.
    #[serde(rename = "insecureAllowConfidentialOverLoopbackHTTP")]
    pub insecure_allow_confidential_over_loopback_http: Option<bool>,
    /// Clients that may exchange tokens of users (RFC 8693).
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub delegate_clients: Option<Vec<DelegateClient>>,
    /// Other issuers whose tokens may be exchanged here.
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub trusted_issuers: Option<Vec<TrustedIssuer>>,
}

/// How long tokens last, for example `1h`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TokenLifespans {
    /// Access tokens.
    #[schemars(regex(pattern = GO_DURATION))]
    pub access_token_lifespan: Option<String>,
    /// Refresh tokens.
    #[schemars(regex(pattern = GO_DURATION))]
    pub refresh_token_lifespan: Option<String>,
    /// Authorization codes.
    #[schemars(regex(pattern = GO_DURATION))]
    pub auth_code_lifespan: Option<String>,
}

/// Clients that are known by the URL of their metadata document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIdMetadata {
    /// Let them in. Default: false.
    pub enabled: Option<bool>,
    /// Number of documents that are kept.
    #[schemars(range(min = 1))]
    pub cache_max_size: Option<i64>,
    /// How long a document is kept that does not say so itself.
    #[schemars(regex(pattern = GO_DURATION))]
    pub cache_fallback_ttl: Option<String>,
}

/// A client that may exchange tokens of users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "size(self.clientSecretRef.name) > 0 && size(self.clientSecretRef.key) > 0", "message": "clientSecretRef has to name a Secret and a key in it"},
]))]
pub struct DelegateClient {
    /// Client id.
    #[schemars(length(min = 1, max = 256))]
    pub client_id: String,
    /// Client secret.
    pub client_secret_ref: SecretKeyRef,
    /// Scopes that it may ask for.
    #[schemars(length(min = 1, max = 10), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "atomic"))]
    pub scopes: Vec<String>,
    /// Audiences that it may ask for.
    #[schemars(length(min = 1, max = 10), inner(length(min = 1, max = 2048)), extend("x-kubernetes-list-type" = "atomic"))]
    pub audiences: Vec<String>,
}

/// An identity provider that users log in at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.type == 'oidc' ? has(self.oidcConfig) : !has(self.oidcConfig)", "message": "oidcConfig must be set when type is oidc, and only then"},
    {"rule": "self.type == 'oauth2' ? has(self.oauth2Config) : !has(self.oauth2Config)", "message": "oauth2Config must be set when type is oauth2, and only then"},
]))]
pub struct UpstreamProvider {
    /// Name of the provider.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub name: String,
    /// `oidc` or `oauth2`.
    #[serde(rename = "type")]
    pub kind: UpstreamType,
    /// A provider with a discovery document.
    pub oidc_config: Option<OidcUpstream>,
    /// A provider without one.
    pub oauth2_config: Option<OAuth2Upstream>,
}

/// `type` of an upstream provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum UpstreamType {
    Oidc,
    OAuth2,
}

/// A provider with a discovery document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OidcUpstream {
    /// Issuer URL.
    #[schemars(regex(pattern = r"^https://.*$"))]
    pub issuer_url: String,
    /// Client id at the provider.
    pub client_id: String,
    /// Client secret at the provider; absent for a public client.
    pub client_secret_ref: Option<SecretKeyRef>,
    /// Where the provider sends browsers back to. Default: the issuer's own callback.
    pub redirect_uri: Option<String>,
    /// Scopes that are asked for.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub scopes: Option<Vec<String>>,
    /// Claim of the ID token that holds the subject. Default: `sub`.
    #[schemars(length(max = 128), regex(pattern = r"^([a-zA-Z_][a-zA-Z0-9_]*)?$"))]
    pub subject_claim: Option<String>,
    /// Another userinfo endpoint than the discovery document names.
    pub user_info_override: Option<UserInfo>,
    /// Further parameters of the authorization request.
    #[schemars(extend("maxProperties" = 16))]
    pub additional_authorization_params: Option<BTreeMap<String, String>>,
}

/// A provider without a discovery document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "(has(self.clientId) && size(self.clientId) > 0) != has(self.dcrConfig)", "message": "exactly one of clientId and dcrConfig must be set"},
    {"rule": "!has(self.dcrConfig) || !has(self.clientSecretRef)", "message": "clientSecretRef may not be set with dcrConfig: registration gives the secret"},
]))]
pub struct OAuth2Upstream {
    /// Authorization endpoint.
    #[schemars(regex(pattern = HTTP_URL))]
    pub authorization_endpoint: String,
    /// Token endpoint.
    #[schemars(regex(pattern = HTTP_URL))]
    pub token_endpoint: String,
    /// Client id at the provider.
    pub client_id: Option<String>,
    /// Client secret at the provider; absent for a public client.
    pub client_secret_ref: Option<SecretKeyRef>,
    /// Where the provider sends browsers back to. Default: the issuer's own callback.
    pub redirect_uri: Option<String>,
    /// Scopes that are asked for.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub scopes: Option<Vec<String>>,
    /// Who the user is, from a userinfo endpoint.
    pub user_info: Option<UserInfo>,
    /// Where the parts of a token response are, for a provider with a response of its own kind.
    pub token_response_mapping: Option<TokenResponseMapping>,
    /// Who the user is, from the token response itself.
    pub identity_from_token: Option<IdentityFromToken>,
    /// Further parameters of the authorization request.
    #[schemars(extend("maxProperties" = 16))]
    pub additional_authorization_params: Option<BTreeMap<String, String>>,
    /// The provider may have private addresses.
    #[serde(rename = "allowPrivateIPs")]
    pub allow_private_ips: Option<bool>,
    /// The provider's endpoints may be plain http. For development only.
    #[serde(rename = "insecureAllowHTTP")]
    pub insecure_allow_http: Option<bool>,
    /// Register at the provider instead of bringing a client id (RFC 7591).
    pub dcr_config: Option<DynamicRegistration>,
}

/// Where the parts of a token response are, as dotted paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenResponseMapping {
    /// Path of the access token.
    #[schemars(length(min = 1))]
    pub access_token_path: String,
    /// Path of the scope.
    pub scope_path: Option<String>,
    /// Path of the refresh token.
    pub refresh_token_path: Option<String>,
    /// Path of the lifetime.
    pub expires_in_path: Option<String>,
}

/// Where the user's identity is in a token response, as dotted paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdentityFromToken {
    /// Path of the subject.
    #[schemars(length(min = 1, max = 256))]
    pub subject_path: String,
    /// Path of the display name.
    #[schemars(length(min = 1, max = 256))]
    pub name_path: Option<String>,
    /// Path of the email address.
    #[schemars(length(min = 1, max = 256))]
    pub email_path: Option<String>,
}

/// Dynamic client registration at a provider (RFC 7591).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.discoveryUrl) != has(self.registrationEndpoint)", "message": "exactly one of discoveryUrl and registrationEndpoint must be set"},
]))]
pub struct DynamicRegistration {
    /// Discovery document that names the registration endpoint.
    #[schemars(length(max = 2048), regex(pattern = BARE_HTTPS_URL))]
    pub discovery_url: Option<String>,
    /// Registration endpoint.
    #[schemars(length(max = 2048), regex(pattern = BARE_HTTPS_URL))]
    pub registration_endpoint: Option<String>,
    /// Token that registration takes.
    pub initial_access_token_ref: Option<SecretKeyRef>,
    /// `software_id` of the registration.
    #[schemars(length(max = 255))]
    pub software_id: Option<String>,
    /// `software_statement` of the registration.
    #[schemars(length(max = 16384))]
    pub software_statement: Option<String>,
}

/// A userinfo endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserInfo {
    /// URL of the endpoint.
    #[schemars(regex(pattern = HTTP_URL))]
    pub endpoint_url: String,
    /// Method of the request. Default: `GET`.
    #[schemars(extend("enum" = ["GET", "POST"]))]
    pub http_method: Option<String>,
    /// Further headers of the request.
    pub additional_headers: Option<BTreeMap<String, String>>,
    /// Which fields of the answer say who the user is.
    pub field_mapping: Option<UserInfoFields>,
}

/// Which fields of a userinfo answer say who the user is; the first that is there counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UserInfoFields {
    /// Fields of the subject.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub subject_fields: Option<Vec<String>>,
    /// Fields of the display name.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub name_fields: Option<Vec<String>>,
    /// Fields of the email address.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub email_fields: Option<Vec<String>>,
}

//! How incoming tokens are judged: MCPOIDCConfig, and the `oidcConfig` block of 2025.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::parse::{Rules, read};
use super::reference::{CaBundleSource, SecretKeyRef};
use crate::problem::Problem;
use crate::runconfig::TokenProfile;

/// Issuer of a cluster's ServiceAccount tokens, when nothing else is said.
pub const CLUSTER_ISSUER: &str = "https://kubernetes.default.svc";
/// Audience of ServiceAccount tokens, when nothing else is said.
pub const CLUSTER_AUDIENCE: &str = "toolhive";

/// Spec of an MCPOIDCConfig: one identity provider, shared by several workloads. The audience is said
/// where it is referred to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.type == 'inline' ? has(self.inline) : !has(self.inline)", "message": "inline must be set when type is inline, and only then"},
    {"rule": "self.type == 'kubernetesServiceAccount' ? has(self.kubernetesServiceAccount) : !has(self.kubernetesServiceAccount)", "message": "kubernetesServiceAccount must be set when type is kubernetesServiceAccount, and only then"},
]))]
pub struct OidcConfigSpec {
    /// Where the settings come from.
    #[serde(rename = "type")]
    pub kind: OidcSource,
    /// Tokens of the cluster's own ServiceAccounts.
    pub kubernetes_service_account: Option<KubernetesOidc>,
    /// Settings written here.
    pub inline: Option<InlineOidc>,
}

/// `spec.type` of an MCPOIDCConfig.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum OidcSource {
    KubernetesServiceAccount,
    Inline,
}

/// The `oidcConfig` block inside a workload's spec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.type) && self.type == 'inline' ? has(self.inline) : !has(self.inline)", "message": "inline must be set when type is inline, and only then"},
    {"rule": "has(self.type) && self.type == 'configMap' ? has(self.configMap) : !has(self.configMap)", "message": "configMap must be set when type is configMap, and only then"},
    {"rule": "has(self.type) && self.type != 'kubernetes' ? !has(self.kubernetes) : true", "message": "kubernetes may be set only when type is kubernetes"},
]))]
pub struct EmbeddedOidc {
    /// Where the settings come from. Default: `kubernetes`.
    #[serde(rename = "type")]
    pub kind: Option<EmbeddedOidcSource>,
    /// URL by which clients know this server (RFC 9728 `resource`); also the audience when none is said.
    pub resource_url: Option<String>,
    /// Tokens of the cluster's own ServiceAccounts.
    pub kubernetes: Option<KubernetesOidc>,
    /// Settings in a ConfigMap: JSON with the fields of `inline` in the key `oidc.json`, or each in a key of
    /// its own.
    pub config_map: Option<OidcConfigMap>,
    /// Settings written here.
    pub inline: Option<InlineOidc>,
}

/// `oidcConfig.type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum EmbeddedOidcSource {
    #[default]
    Kubernetes,
    ConfigMap,
    Inline,
}

/// A ConfigMap with OIDC settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OidcConfigMap {
    /// Name of the ConfigMap.
    pub name: String,
    /// Key in the ConfigMap. Default: `oidc.json`.
    pub key: Option<String>,
    /// CA certificates for calls to the issuer.
    pub ca_bundle_ref: Option<CaBundleSource>,
}

/// Tokens of the cluster's own ServiceAccounts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KubernetesOidc {
    /// ServiceAccount whose tokens are meant. Kept for old manifests; it does not restrict who may call, which
    /// is what policies are for: `principal == Client::"system:serviceaccount:NAMESPACE:NAME"`.
    pub service_account: Option<String>,
    /// Namespace of that ServiceAccount. It restricts nobody either.
    pub namespace: Option<String>,
    /// Value that a token's `aud` must contain. Default: `toolhive`. In an MCPOIDCConfig it is said on the
    /// reference instead.
    pub audience: Option<String>,
    /// Issuer of the tokens. Default: `https://kubernetes.default.svc`.
    pub issuer: Option<String>,
    /// URL of the key set. Default: what the issuer's discovery document says.
    pub jwks_url: Option<String>,
    /// URL for opaque tokens (RFC 7662).
    pub introspection_url: Option<String>,
    /// Use the pod's own token and the cluster's CA for calls to the API server. Default: true.
    pub use_cluster_auth: Option<bool>,
}

/// An identity provider's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InlineOidc {
    /// Issuer URL, exactly as tokens and the discovery document have it.
    pub issuer: String,
    /// Value that a token's `aud` must contain. In an MCPOIDCConfig it is said on the reference instead.
    pub audience: Option<String>,
    /// Further values, one of which is enough in a token's `aud`. Not in an MCPOIDCConfig.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub audiences: Option<Vec<String>>,
    /// URL of the key set. Default: what the issuer's discovery document says.
    pub jwks_url: Option<String>,
    /// URL of the discovery document, where it is not below the issuer (tokens of version 1 of Microsoft
    /// Entra).
    pub discovery_url: Option<String>,
    /// Tenant ids that may stand in the issuer in place of `{tenantid}`; needed when the issuer has that part.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub tenants: Option<Vec<String>>,
    /// URL for opaque tokens (RFC 7662).
    pub introspection_url: Option<String>,
    /// Client id for introspection.
    pub client_id: Option<String>,
    /// Not passed on any more: use `clientSecretRef`.
    pub client_secret: Option<String>,
    /// Client secret for introspection.
    pub client_secret_ref: Option<SecretKeyRef>,
    /// CA certificates for calls to the issuer, from a ConfigMap.
    pub ca_bundle_ref: Option<CaBundleSource>,
    /// File of CA certificates in the proxy's pod; `caBundleRef` mounts one.
    #[serde(rename = "thvCABundlePath")]
    pub thv_ca_bundle_path: Option<String>,
    /// File with a token for the key set's URL; only the API server may be sent the pod's own token.
    pub jwks_auth_token_path: Option<String>,
    /// The issuer and its key set may have private addresses.
    #[serde(rename = "jwksAllowPrivateIP")]
    pub jwks_allow_private_ip: Option<bool>,
    /// The metadata of the protected resource may name private addresses.
    #[serde(rename = "protectedResourceAllowPrivateIP")]
    pub protected_resource_allow_private_ip: Option<bool>,
    /// The issuer may be reached over plain http. For development only.
    #[serde(rename = "insecureAllowHTTP")]
    pub insecure_allow_http: Option<bool>,
    /// Scopes that clients are told to ask for. Default: `openid`.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub scopes: Option<Vec<String>>,
    /// Which claims hold the caller's subject, email, name, groups and roles: a claim name or a dotted path.
    pub claim_mappings: Option<ClaimMappings>,
    /// SHA-256 fingerprint, in hexadecimal, of the certificate that the issuer's server shows.
    pub jwks_cert_fingerprint: Option<String>,
    /// SHA-256 digests of public keys (SPKI), one of which the issuer's server must show: in hexadecimal or
    /// base64, with or without `sha256/` before it.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub jwks_pins: Option<Vec<String>>,
    /// Signature algorithms that are accepted. Default: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub allowed_algorithms: Option<Vec<String>>,
    /// Scopes that every token must have, as clients ask for them. A token that lacks one is answered with
    /// 403 `insufficient_scope`.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub required_scopes: Option<Vec<String>>,
    /// Scopes as clients ask for them, to scopes as tokens have them: `api://app/mcp.read: mcp.read`.
    pub scope_map: Option<BTreeMap<String, String>>,
    /// Clients that tokens may have been issued to (claims `azp`, `client_id`, `appid` or `cid`). Default: any.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub authorized_parties: Option<Vec<String>>,
    /// Which JWTs count as access tokens: `any`, or `rfc9068` for those only whose `typ` is `at+jwt`.
    /// Default: `any`.
    pub profile: Option<TokenProfileSpec>,
    /// ID tokens are accepted too. They say who logged in to some client, not what that client may do.
    pub accept_id_token: Option<bool>,
    /// A client that calls for itself is known by its `sub` as it is, as in ToolHive. Default: false, and it
    /// is known as `client:ID`, so that it can't be taken for a user.
    pub plain_client_subjects: Option<bool>,
    /// Tolerance for `exp` and `nbf`, for example `30s`. At most 5m.
    pub clock_skew: Option<String>,
    /// How opaque tokens are asked about.
    pub introspection: Option<Introspection>,
    /// Further issuers whose tokens are let in. A token is judged only by the issuer that it names.
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["subjectPrefix"]))]
    pub additional_issuers: Option<Vec<AdditionalIssuer>>,
}

/// `profile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum TokenProfileSpec {
    Any,
    Rfc9068,
}

impl From<TokenProfileSpec> for TokenProfile {
    fn from(spec: TokenProfileSpec) -> Self {
        match spec {
            TokenProfileSpec::Any => Self::Any,
            TokenProfileSpec::Rfc9068 => Self::Rfc9068,
        }
    }
}

/// An issuer besides the first. Its fields mean what they mean there; nothing is taken over from the first
/// but the audience, when none is said here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdditionalIssuer {
    /// Put before its subjects and groups, in policies, limits and audit, so that no two issuers' users or
    /// groups are taken for one: `partner:`. Attributes of claims (`claim_groups`) stay as they are.
    #[schemars(length(min = 1, max = 64))]
    pub subject_prefix: String,
    /// Issuer URL, exactly as tokens and the discovery document have it.
    pub issuer: String,
    /// Value that a token's `aud` must contain. Default: that of the first issuer.
    pub audience: Option<String>,
    /// Further values, one of which is enough in a token's `aud`.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub audiences: Option<Vec<String>>,
    /// URL of the key set. Default: what the issuer's discovery document says.
    pub jwks_url: Option<String>,
    /// URL of the discovery document, where it is not below the issuer.
    pub discovery_url: Option<String>,
    /// Tenant ids that may stand in the issuer in place of `{tenantid}`.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub tenants: Option<Vec<String>>,
    /// URL for opaque tokens (RFC 7662). Only one of all issuers may have one.
    pub introspection_url: Option<String>,
    /// Client id for introspection.
    pub client_id: Option<String>,
    /// Client secret for introspection.
    pub client_secret_ref: Option<SecretKeyRef>,
    /// CA certificates for calls to the issuer, from a ConfigMap.
    pub ca_bundle_ref: Option<CaBundleSource>,
    /// File of CA certificates in the proxy's pod; `caBundleRef` mounts one.
    #[serde(rename = "thvCABundlePath")]
    pub thv_ca_bundle_path: Option<String>,
    /// File with a token for the key set's URL; only the API server may be sent the pod's own token.
    pub jwks_auth_token_path: Option<String>,
    /// The issuer is the cluster's API server: use the pod's own token and the cluster's CA for calls to it.
    /// Default: false.
    pub use_cluster_auth: Option<bool>,
    /// The issuer may be reached over plain http. For development only.
    #[serde(rename = "insecureAllowHTTP")]
    pub insecure_allow_http: Option<bool>,
    /// Which claims hold the caller's subject, email, name, groups and roles: a claim name or a dotted path.
    pub claim_mappings: Option<ClaimMappings>,
    /// SHA-256 fingerprint, in hexadecimal, of the certificate that the issuer's server shows.
    pub jwks_cert_fingerprint: Option<String>,
    /// SHA-256 digests of public keys (SPKI), one of which the issuer's server must show.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub jwks_pins: Option<Vec<String>>,
    /// Signature algorithms that are accepted.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub allowed_algorithms: Option<Vec<String>>,
    /// Scopes that every token of this issuer must have.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub required_scopes: Option<Vec<String>>,
    /// Scopes as clients ask for them, to scopes as tokens have them.
    pub scope_map: Option<BTreeMap<String, String>>,
    /// Clients that tokens may have been issued to. Default: any.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub authorized_parties: Option<Vec<String>>,
    /// Which JWTs count as access tokens: `any` or `rfc9068`. Default: `any`.
    pub profile: Option<TokenProfileSpec>,
    /// ID tokens are accepted too.
    pub accept_id_token: Option<bool>,
    /// A client that calls for itself is known by its `sub` as it is. Default: false.
    pub plain_client_subjects: Option<bool>,
    /// Tolerance for `exp` and `nbf`, for example `30s`. At most 5m.
    pub clock_skew: Option<String>,
    /// How opaque tokens are asked about.
    pub introspection: Option<Introspection>,
}

impl AdditionalIssuer {
    /// The same settings in the form of a first issuer.
    pub fn inline(&self) -> InlineOidc {
        let own = self.clone();
        InlineOidc {
            issuer: own.issuer,
            audience: own.audience,
            audiences: own.audiences,
            jwks_url: own.jwks_url,
            discovery_url: own.discovery_url,
            tenants: own.tenants,
            introspection_url: own.introspection_url,
            client_id: own.client_id,
            client_secret: None,
            client_secret_ref: own.client_secret_ref,
            ca_bundle_ref: own.ca_bundle_ref,
            thv_ca_bundle_path: own.thv_ca_bundle_path,
            jwks_auth_token_path: own.jwks_auth_token_path,
            jwks_allow_private_ip: None,
            protected_resource_allow_private_ip: None,
            insecure_allow_http: own.insecure_allow_http,
            scopes: None,
            claim_mappings: own.claim_mappings,
            jwks_cert_fingerprint: own.jwks_cert_fingerprint,
            jwks_pins: own.jwks_pins,
            allowed_algorithms: own.allowed_algorithms,
            required_scopes: own.required_scopes,
            scope_map: own.scope_map,
            authorized_parties: own.authorized_parties,
            profile: own.profile,
            accept_id_token: own.accept_id_token,
            plain_client_subjects: own.plain_client_subjects,
            clock_skew: own.clock_skew,
            introspection: own.introspection,
            additional_issuers: None,
        }
    }
}

/// Which claims say who the caller is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimMappings {
    /// Claim of the subject. Default: `sub`.
    pub subject: Option<String>,
    /// Claim of the email address.
    pub email: Option<String>,
    /// Claim of the display name.
    pub name: Option<String>,
    /// Claim that lists groups.
    pub groups: Option<String>,
    /// Claim that lists roles.
    pub roles: Option<String>,
}

/// Settings of token introspection (RFC 7662).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Introspection {
    /// How long an answer is kept, for example `30s`; never longer than the token lasts. `0s` asks about
    /// every call. Default: 30s, at most 1h.
    pub cache_ttl: Option<String>,
}

/// The settings of a ConfigMap that has each in a key of its own, in the form that [`read_config_map`] reads:
/// `scopes` is a list with commas, what is yes or no is `true` or `false`, and an empty value is none. A key
/// with a dot is a file, of certificates for one, and no setting.
pub fn config_map_keys(data: &BTreeMap<String, String>) -> Value {
    let setting = |key: &str, text: &str| match (key, text) {
        (
            "jwksAllowPrivateIP" | "protectedResourceAllowPrivateIP" | "insecureAllowHTTP",
            "true" | "false",
        ) => Value::Bool(text == "true"),
        ("scopes", _) => text.split(',').map(str::trim).filter(|scope| !scope.is_empty()).collect(),
        _ => Value::String(text.to_owned()),
    };
    data.iter()
        .filter(|(key, text)| !key.contains('.') && !text.is_empty())
        .map(|(key, text)| (key.clone(), setting(key, text)))
        .collect()
}

/// Reads the content of a ConfigMap that `oidcConfig.configMap` names. It has the fields of `inline`
/// and may have `resourceUrl`.
pub fn read_config_map(
    content: &Value,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Option<(InlineOidc, Option<String>)> {
    let mut content = content.clone();
    let resource = content.as_object_mut().and_then(|map| map.remove("resourceUrl"));
    let rules = Rules { root: path, free_form: &[], protective: &[], strict: true };
    let inline = read::<InlineOidc>(&content, &rules, problems)?;
    Some((inline, resource.and_then(|url| url.as_str().map(ToOwned::to_owned))))
}

impl ClaimMappings {
    /// The mappings that are given, by field name.
    pub fn given(&self) -> BTreeMap<&'static str, &str> {
        [
            ("subject", &self.subject),
            ("email", &self.email),
            ("name", &self.name),
            ("groups", &self.groups),
            ("roles", &self.roles),
        ]
        .into_iter()
        .filter_map(|(field, claim)| claim.as_deref().map(|claim| (field, claim)))
        .collect()
    }
}

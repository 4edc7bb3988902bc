//! Token exchange and service accounts of the proxy: `spec.tokenExchange` of an MCPExternalAuthConfig.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::parse::{INVALID_FIELD, one_of};
use super::reference::{CaBundleSource, NameRef, SecretKeyRef};
use crate::problem::Problem;
use crate::runconfig::{ClientAuthMethod, GrantType};

/// File in which a SPIFFE helper leaves the proxy's JWT-SVID, when nothing else is said.
pub const DEFAULT_JWT_SVID_FILE: &str = "/var/run/secrets/spiffe/jwt_svid.token";

/// Token exchange as it is written. Each field of 2025 has its snake_case spelling beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.tokenUrl) || has(self.token_url)", "message": "tokenUrl is required"},
    {"rule": "has(self.audience) || has(self.resource) || (has(self.grantType) && self.grantType == 'client_credentials')", "message": "audience or resource is required, except with grantType client_credentials"},
    {"rule": "has(self.clientCertificateRef) == (has(self.clientAuth) && self.clientAuth == 'tls_client_auth')", "message": "clientCertificateRef must be set when clientAuth is tls_client_auth, and only then"},
    {"rule": "!has(self.clientKeyId) || (has(self.clientAuth) && self.clientAuth == 'private_key_jwt')", "message": "clientKeyId may be set only when clientAuth is private_key_jwt"},
    {"rule": "!has(self.spiffe) || (has(self.clientAuth) && self.clientAuth == 'spiffe_jwt') || (has(self.actorToken) && self.actorToken == 'spiffe')", "message": "spiffe may be set only when clientAuth is spiffe_jwt or actorToken is spiffe"},
    {"rule": "!has(self.actorTokenAudience) || (has(self.actorToken) && self.actorToken == 'serviceAccount')", "message": "actorTokenAudience may be set only when actorToken is serviceAccount"},
    {"rule": "!has(self.grantType) || self.grantType != 'client_credentials' || !has(self.actorToken) || self.actorToken == 'none'", "message": "with grantType client_credentials there is no subject that somebody could act for"},
]))]
pub struct TokenExchangeSpec {
    /// Token endpoint of the identity provider.
    pub token_url: Option<String>,
    /// Audience of the token that is asked for. Needed unless there is a `resource`, or `grantType` is
    /// `client_credentials`.
    pub audience: Option<String>,
    /// Resource indicator of the token that is asked for (RFC 8707): an absolute URI without a fragment.
    pub resource: Option<String>,
    /// What is asked for: `token-exchange` exchanges each caller's token (RFC 8693); `client_credentials`
    /// gets one token of the proxy's own for all callers (RFC 6749 §4.4). Default: `token-exchange`.
    pub grant_type: Option<GrantTypeSpec>,
    /// Client id at the token endpoint.
    pub client_id: Option<String>,
    /// Client secret at the token endpoint; absent for a public client. With `private_key_jwt` the key holds
    /// the private key, PEM.
    pub client_secret_ref: Option<SecretKeyRef>,
    /// How the proxy proves itself to the token endpoint: `client_secret_basic`, `client_secret_post`,
    /// `private_key_jwt` (RFC 7523), `spiffe_jwt` (a JWT-SVID as the assertion) or `tls_client_auth` (RFC 8705).
    /// Default: `client_secret_basic` when there is a secret; else a public client, known by its id.
    pub client_auth: Option<ClientAuthSpec>,
    /// Key id in the header of assertions; only with `private_key_jwt`.
    pub client_key_id: Option<String>,
    /// Secret of type `kubernetes.io/tls` (`tls.crt`, `tls.key`) with the client's certificate; only with
    /// `tls_client_auth`.
    pub client_certificate_ref: Option<NameRef>,
    /// Where a SPIFFE helper in the proxy's pod writes the JWT-SVID; for `spiffe_jwt` and for
    /// `actorToken: spiffe`.
    pub spiffe: Option<SpiffeSpec>,
    /// Who acts for the caller (RFC 8693 §2.1 `actor_token`): `none`; `serviceAccount`, a token of the proxy's
    /// own ServiceAccount; or `spiffe`, its JWT-SVID. Default: `none`.
    pub actor_token: Option<ActorTokenSpec>,
    /// Audience of the ServiceAccount's token. Default: the origin of `tokenUrl`, `https://login.example.com`.
    pub actor_token_audience: Option<String>,
    /// How long answers are kept.
    pub cache: Option<ExchangeCache>,
    /// CA certificates for calls to the token endpoint, from a ConfigMap.
    pub ca_bundle_ref: Option<CaBundleSource>,
    /// Scopes of the token that is asked for.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub scopes: Option<Vec<String>>,
    /// Type of the caller's token: `access_token`, `id_token`, `jwt`, or the full URN. Default: `access_token`.
    #[schemars(regex(
        pattern = r"^(access_token|id_token|jwt|urn:ietf:params:oauth:token-type:(access_token|id_token|jwt))?$"
    ))]
    pub subject_token_type: Option<String>,
    /// Header that carries the new token. Default: `Authorization`.
    pub external_token_header_name: Option<String>,
    /// Upstream provider whose token is exchanged; only with the embedded authorization server.
    pub subject_provider_name: Option<String>,
    /// Old spelling of `tokenUrl`.
    #[serde(rename = "token_url")]
    pub token_url_old: Option<String>,
    /// Old spelling of `clientId`.
    #[serde(rename = "client_id")]
    pub client_id_old: Option<String>,
    /// Old spelling of `clientSecretRef`.
    #[serde(rename = "client_secret_ref")]
    pub client_secret_ref_old: Option<SecretKeyRef>,
    /// Scopes separated by spaces.
    pub scope: Option<String>,
    /// Old spelling of `subjectTokenType`.
    #[serde(rename = "subject_token_type")]
    pub subject_token_type_old: Option<String>,
    /// Old spelling of `externalTokenHeaderName`.
    #[serde(rename = "external_token_header_name")]
    pub external_token_header_name_old: Option<String>,
}

/// `clientAuth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ClientAuthSpec {
    ClientSecretBasic,
    ClientSecretPost,
    PrivateKeyJwt,
    SpiffeJwt,
    TlsClientAuth,
}

impl ClientAuthSpec {
    /// The word in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientSecretBasic => "client_secret_basic",
            Self::ClientSecretPost => "client_secret_post",
            Self::PrivateKeyJwt => "private_key_jwt",
            Self::SpiffeJwt => "spiffe_jwt",
            Self::TlsClientAuth => "tls_client_auth",
        }
    }
}

impl From<ClientAuthSpec> for ClientAuthMethod {
    fn from(spec: ClientAuthSpec) -> Self {
        match spec {
            ClientAuthSpec::ClientSecretBasic => Self::ClientSecretBasic,
            ClientAuthSpec::ClientSecretPost => Self::ClientSecretPost,
            ClientAuthSpec::PrivateKeyJwt => Self::PrivateKeyJwt,
            ClientAuthSpec::SpiffeJwt => Self::SpiffeJwt,
            ClientAuthSpec::TlsClientAuth => Self::TlsClientAuth,
        }
    }
}

/// `grantType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum GrantTypeSpec {
    #[serde(rename = "token-exchange")]
    TokenExchange,
    #[serde(rename = "client_credentials")]
    ClientCredentials,
}

impl From<GrantTypeSpec> for GrantType {
    fn from(spec: GrantTypeSpec) -> Self {
        match spec {
            GrantTypeSpec::TokenExchange => Self::TokenExchange,
            GrantTypeSpec::ClientCredentials => Self::ClientCredentials,
        }
    }
}

/// `actorToken`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum ActorTokenSpec {
    #[default]
    None,
    ServiceAccount,
    Spiffe,
}

/// Where the proxy's SPIFFE identity is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SpiffeSpec {
    /// File with the JWT-SVID, in a directory that has `spiffe` or `spire` in its path. It is sent to the token
    /// endpoint. Default: `/var/run/secrets/spiffe/jwt_svid.token`.
    pub jwt_svid_file: Option<String>,
}

/// How long answers of the token endpoint are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExchangeCache {
    /// Longest time that a token is kept, for example `5m`; `0s` means not at all. Default: as long as it lasts.
    pub ttl_cap: Option<String>,
    /// How long a refusal of a caller's token is kept, at most `10s`; `0s` means not at all. Default: 5s.
    pub negative_ttl: Option<String>,
}

/// Token exchange settings (RFC 8693) in one spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenExchange {
    pub token_url: String,
    /// Path of the field that gave the URL.
    pub token_url_path: String,
    /// Empty when it is not said, which is allowed with a resource and for `client_credentials`.
    pub audience: String,
    /// Empty when it is not said.
    pub resource: String,
    pub grant_type: GrantType,
    pub client_id: Option<String>,
    pub client_secret_ref: Option<SecretKeyRef>,
    pub client_auth: Option<ClientAuthSpec>,
    pub client_key_id: Option<String>,
    pub client_certificate: Option<String>,
    pub spiffe: Option<SpiffeSpec>,
    pub actor_token: ActorTokenSpec,
    pub actor_token_audience: Option<String>,
    pub cache: ExchangeCache,
    pub ca_bundle_ref: Option<CaBundleSource>,
    pub scopes: Vec<String>,
    pub subject_token_type: Option<String>,
    pub external_token_header_name: Option<String>,
    pub subject_provider_name: Option<String>,
}

impl TokenExchange {
    /// Brings the two spellings together; `None` when what is always needed is missing.
    pub(super) fn from_spec(spec: TokenExchangeSpec, problems: &mut Vec<Problem>) -> Option<Self> {
        const AT: &str = "spec.tokenExchange";
        let mut text = |new: &str, newer: Option<String>, old: &str, older: Option<String>| {
            one_of((&format!("{AT}.{new}"), newer), (&format!("{AT}.{old}"), older), None, problems)
        };
        let token_url = text("tokenUrl", spec.token_url, "token_url", spec.token_url_old);
        let client_id = text("clientId", spec.client_id, "client_id", spec.client_id_old);
        let subject_token_type = text(
            "subjectTokenType",
            spec.subject_token_type,
            "subject_token_type",
            spec.subject_token_type_old,
        );
        let header = text(
            "externalTokenHeaderName",
            spec.external_token_header_name,
            "external_token_header_name",
            spec.external_token_header_name_old,
        );
        let words =
            spec.scope.map(|words| words.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>());
        let scopes =
            one_of((&format!("{AT}.scopes"), spec.scopes), (&format!("{AT}.scope"), words), None, problems);
        let client_secret_ref = one_of(
            (&format!("{AT}.clientSecretRef"), spec.client_secret_ref),
            (&format!("{AT}.client_secret_ref"), spec.client_secret_ref_old),
            None,
            problems,
        );
        let mut missing = |field: &str, message: &str| {
            problems.push(Problem::error(format!("{AT}.{field}"), INVALID_FIELD, message));
        };
        if token_url.is_none() {
            missing("tokenUrl", "The token endpoint is missing.");
        }
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let audience = given(spec.audience);
        let resource = given(spec.resource);
        let grant_type: GrantType = spec.grant_type.map(Into::into).unwrap_or_default();
        if audience.is_none() && resource.is_none() && grant_type == GrantType::TokenExchange {
            missing("audience", "The audience of the exchanged token is missing. Add it, or a `resource`.");
        }
        let (token_url_path, token_url) = token_url?;
        Some(Self {
            token_url,
            token_url_path,
            audience: audience.unwrap_or_default(),
            resource: resource.unwrap_or_default(),
            grant_type,
            client_id: client_id.and_then(|(_, value)| given(Some(value))),
            client_secret_ref: client_secret_ref.map(|(_, value)| value),
            client_auth: spec.client_auth,
            client_key_id: given(spec.client_key_id),
            client_certificate: spec.client_certificate_ref.map(|named| named.name),
            spiffe: spec.spiffe,
            actor_token: spec.actor_token.unwrap_or_default(),
            actor_token_audience: given(spec.actor_token_audience),
            cache: spec.cache.unwrap_or_default(),
            ca_bundle_ref: spec.ca_bundle_ref,
            scopes: scopes.map(|(_, value)| value).unwrap_or_default(),
            subject_token_type: subject_token_type.map(|(_, value)| value).filter(|kind| !kind.is_empty()),
            external_token_header_name: header.map(|(_, value)| value).filter(|name| !name.is_empty()),
            subject_provider_name: spec.subject_provider_name,
        })
    }
}

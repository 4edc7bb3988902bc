//! Credentials for what lies behind the proxy: MCPExternalAuthConfig.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DNS_LABEL;
use super::embedded_auth::EmbeddedAuthServer;
use super::parse::{CONFLICTING_FIELDS, INVALID_FIELD};
use super::reference::{CaBundleSource, SecretKeyRef};
use super::token_exchange::{TokenExchange, TokenExchangeSpec};
use crate::problem::Problem;

/// A tenant of Microsoft Entra: its id, or one of its domains.
const TENANT: &str = r"^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+[a-zA-Z]{2,})$";

/// Spec of an MCPExternalAuthConfig: exactly the block that `type` names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.type == 'tokenExchange' ? has(self.tokenExchange) : !has(self.tokenExchange)", "message": "tokenExchange must be set when type is tokenExchange, and only then"},
    {"rule": "self.type == 'headerInjection' ? has(self.headerInjection) : !has(self.headerInjection)", "message": "headerInjection must be set when type is headerInjection, and only then"},
    {"rule": "self.type == 'bearerToken' ? has(self.bearerToken) : !has(self.bearerToken)", "message": "bearerToken must be set when type is bearerToken, and only then"},
    {"rule": "self.type == 'embeddedAuthServer' ? has(self.embeddedAuthServer) : !has(self.embeddedAuthServer)", "message": "embeddedAuthServer must be set when type is embeddedAuthServer, and only then"},
    {"rule": "self.type == 'awsSts' ? has(self.awsSts) : !has(self.awsSts)", "message": "awsSts must be set when type is awsSts, and only then"},
    {"rule": "self.type == 'upstreamInject' ? has(self.upstreamInject) : !has(self.upstreamInject)", "message": "upstreamInject must be set when type is upstreamInject, and only then"},
    {"rule": "self.type == 'obo' ? has(self.obo) : !has(self.obo)", "message": "obo must be set when type is obo, and only then"},
    {"rule": "self.type == 'xaa' ? has(self.xaa) : !has(self.xaa)", "message": "xaa must be set when type is xaa, and only then"},
]))]
pub struct ExternalAuthSpec {
    /// Which kind of credential.
    #[serde(rename = "type")]
    pub kind: ExternalAuthType,
    /// The caller's token is exchanged (RFC 8693).
    pub token_exchange: Option<TokenExchangeSpec>,
    /// A fixed header.
    pub header_injection: Option<HeaderInjection>,
    /// A fixed bearer token.
    pub bearer_token: Option<BearerToken>,
    /// An authorization server inside the proxy.
    pub embedded_auth_server: Option<EmbeddedAuthServer>,
    /// AWS credentials by web identity, and SigV4 signatures.
    pub aws_sts: Option<AwsSts>,
    /// The token of an upstream provider of the embedded authorization server.
    pub upstream_inject: Option<UpstreamInject>,
    /// On behalf of (Microsoft Entra).
    pub obo: Option<Obo>,
    /// Cross-app access.
    pub xaa: Option<Xaa>,
}

/// `spec.type` of an MCPExternalAuthConfig.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub enum ExternalAuthType {
    TokenExchange,
    HeaderInjection,
    BearerToken,
    Unauthenticated,
    EmbeddedAuthServer,
    AwsSts,
    UpstreamInject,
    Obo,
    Xaa,
}

impl ExternalAuthType {
    /// The word in manifests, which is also the name of the block.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenExchange => "tokenExchange",
            Self::HeaderInjection => "headerInjection",
            Self::BearerToken => "bearerToken",
            Self::Unauthenticated => "unauthenticated",
            Self::EmbeddedAuthServer => "embeddedAuthServer",
            Self::AwsSts => "awsSts",
            Self::UpstreamInject => "upstreamInject",
            Self::Obo => "obo",
            Self::Xaa => "xaa",
        }
    }
}

/// A fixed header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderInjection {
    /// Name of the header.
    #[schemars(length(min = 1))]
    pub header_name: String,
    /// Where its value is.
    pub value_secret_ref: SecretKeyRef,
}

/// A fixed bearer token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BearerToken {
    /// Where the token is.
    pub token_secret_ref: SecretKeyRef,
}

/// AWS credentials by web identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsSts {
    /// AWS region.
    #[schemars(length(min = 1), regex(pattern = r"^[a-z]{2}(-[a-z]+)+-\d+$"))]
    pub region: String,
    /// Service name in signatures. Default: `aws-mcp`.
    pub service: Option<String>,
    /// ARN of the IAM role for callers whom no mapping fits.
    #[schemars(regex(pattern = r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/"))]
    pub fallback_role_arn: Option<String>,
    /// Roles by claim.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub role_mappings: Option<Vec<AwsRoleMapping>>,
    /// Claim that the mappings look at. Default: `groups`.
    pub role_claim: Option<String>,
    /// Seconds that a session lasts, 900 to 43200. Default: 3600.
    #[schemars(range(min = 900, max = 43200))]
    pub session_duration: Option<i32>,
    /// Claim that names the session. Default: `sub`.
    pub session_name_claim: Option<String>,
    /// Upstream provider whose token is presented.
    pub subject_provider_name: Option<String>,
    /// URL of STS, for a VPC endpoint. Default: that of the region.
    #[schemars(regex(pattern = r"^https?://"))]
    pub sts_endpoint: Option<String>,
    /// CA certificates for calls to STS, from a ConfigMap.
    pub ca_bundle_ref: Option<CaBundleSource>,
}

/// One rule from claims to a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsRoleMapping {
    /// Value that the role claim must hold.
    #[schemars(length(min = 1))]
    pub claim: Option<String>,
    /// Expression (CEL) over `claims` that must be true.
    #[schemars(length(min = 1))]
    pub matcher: Option<String>,
    /// ARN of the IAM role that is assumed.
    #[schemars(regex(pattern = r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/"))]
    pub role_arn: String,
    /// Lower wins.
    #[schemars(range(min = 0))]
    pub priority: Option<i32>,
}

/// The token of an upstream provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamInject {
    /// Name of the provider.
    #[schemars(length(min = 1))]
    pub provider_name: String,
}

/// On behalf of (Microsoft Entra).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Obo {
    /// Tenant, by id or domain.
    #[schemars(length(max = 253), regex(pattern = TENANT))]
    pub tenant_id: Option<String>,
    /// Client id.
    pub client_id: Option<String>,
    /// Client secret.
    pub client_secret_ref: Option<SecretKeyRef>,
    /// Authority URL, https, without a slash at its end.
    #[schemars(regex(pattern = r"^https://[^\s?#@]+[^/\s?#@]$"))]
    pub authority: Option<String>,
    /// Audience of the token that is asked for.
    pub audience: Option<String>,
    /// Scopes of the token that is asked for.
    #[schemars(length(max = 20), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "atomic"))]
    pub scopes: Option<Vec<String>>,
    /// Upstream provider whose token is presented.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub subject_token_provider_name: Option<String>,
    /// How long before its expiry a token is renewed.
    pub cache_skew: Option<String>,
}

/// Cross-app access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Xaa {
    /// Token endpoint of the identity provider.
    #[schemars(regex(pattern = r"^https://.*$"))]
    pub idp_token_url: String,
    /// Client id at the identity provider.
    pub idp_client_id: Option<String>,
    /// Client secret at the identity provider.
    pub idp_client_secret_ref: Option<SecretKeyRef>,
    /// Token endpoint of the target.
    pub target_token_url: String,
    /// Audience of the assertion.
    pub target_audience: String,
    /// Resource at the target.
    pub target_resource: Option<String>,
    /// Client id at the target.
    pub target_client_id: Option<String>,
    /// Client secret at the target.
    pub target_client_secret_ref: Option<SecretKeyRef>,
    /// Scopes at the target.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub scopes: Option<Vec<String>>,
    /// Upstream provider whose token is presented.
    pub subject_provider_name: Option<String>,
    /// Type of the token that is presented.
    #[schemars(extend("enum" = ["urn:ietf:params:oauth:token-type:id_token"]))]
    pub subject_token_type: Option<String>,
    /// The target's token endpoint may be plain http.
    pub insecure_target_token_url: Option<bool>,
}

/// What an MCPExternalAuthConfig says, with one spelling and exactly one block.
#[derive(Debug, Clone, PartialEq)]
pub enum ExternalAuth {
    TokenExchange(Box<TokenExchange>),
    HeaderInjection(HeaderInjection),
    BearerToken(BearerToken),
    Unauthenticated,
    AwsSts(AwsSts),
    /// Nothing here runs it yet, as the three below.
    EmbeddedAuthServer(Box<EmbeddedAuthServer>),
    UpstreamInject(UpstreamInject),
    Obo(Box<Obo>),
    Xaa(Box<Xaa>),
}

impl ExternalAuth {
    /// The type as manifests have it.
    pub fn kind(&self) -> ExternalAuthType {
        match self {
            Self::TokenExchange(_) => ExternalAuthType::TokenExchange,
            Self::HeaderInjection(_) => ExternalAuthType::HeaderInjection,
            Self::BearerToken(_) => ExternalAuthType::BearerToken,
            Self::Unauthenticated => ExternalAuthType::Unauthenticated,
            Self::AwsSts(_) => ExternalAuthType::AwsSts,
            Self::EmbeddedAuthServer(_) => ExternalAuthType::EmbeddedAuthServer,
            Self::UpstreamInject(_) => ExternalAuthType::UpstreamInject,
            Self::Obo(_) => ExternalAuthType::Obo,
            Self::Xaa(_) => ExternalAuthType::Xaa,
        }
    }
}

impl ExternalAuth {
    /// Normalises a spec; `None` when a block is missing.
    pub(super) fn from_spec(spec: ExternalAuthSpec, problems: &mut Vec<Problem>) -> Option<Self> {
        let kind = spec.kind;
        let given = [
            (ExternalAuthType::TokenExchange, spec.token_exchange.is_some()),
            (ExternalAuthType::HeaderInjection, spec.header_injection.is_some()),
            (ExternalAuthType::BearerToken, spec.bearer_token.is_some()),
            (ExternalAuthType::EmbeddedAuthServer, spec.embedded_auth_server.is_some()),
            (ExternalAuthType::AwsSts, spec.aws_sts.is_some()),
            (ExternalAuthType::UpstreamInject, spec.upstream_inject.is_some()),
            (ExternalAuthType::Obo, spec.obo.is_some()),
            (ExternalAuthType::Xaa, spec.xaa.is_some()),
        ];
        for (block, there) in given {
            if there && block != kind {
                problems.push(Problem::error(
                    format!("spec.{}", block.as_str()),
                    CONFLICTING_FIELDS,
                    format!(
                        "`type` is `{}`, so this block has no meaning. Remove it, or change `type`.",
                        kind.as_str()
                    ),
                ));
            }
            if !there && block == kind {
                problems.push(Problem::error(
                    format!("spec.{}", block.as_str()),
                    INVALID_FIELD,
                    format!("`type` is `{0}`, which needs the block `{0}`.", kind.as_str()),
                ));
                return None;
            }
        }
        Some(match kind {
            ExternalAuthType::TokenExchange => {
                Self::TokenExchange(Box::new(TokenExchange::from_spec(spec.token_exchange?, problems)?))
            }
            ExternalAuthType::HeaderInjection => Self::HeaderInjection(spec.header_injection?),
            ExternalAuthType::BearerToken => Self::BearerToken(spec.bearer_token?),
            ExternalAuthType::Unauthenticated => Self::Unauthenticated,
            ExternalAuthType::AwsSts => Self::AwsSts(spec.aws_sts?),
            ExternalAuthType::EmbeddedAuthServer => {
                Self::EmbeddedAuthServer(Box::new(spec.embedded_auth_server?))
            }
            ExternalAuthType::UpstreamInject => Self::UpstreamInject(spec.upstream_inject?),
            ExternalAuthType::Obo => Self::Obo(Box::new(spec.obo?)),
            ExternalAuthType::Xaa => Self::Xaa(Box::new(spec.xaa?)),
        })
    }
}

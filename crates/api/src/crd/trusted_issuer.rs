//! Other issuers whose tokens the authorization server inside a proxy takes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An absolute http or https URL.
const URL: &str = r"^https?://[^[:space:]]+$";

/// Claims that never name an actor: each has a meaning of its own.
pub const RESERVED_ACTOR_CLAIMS: [&str; 12] =
    ["sub", "iss", "aud", "exp", "iat", "nbf", "jti", "name", "email", "scope", "scp", "may_act"];

/// An issuer whose tokens may be exchanged (RFC 8693), or be an authorization grant (RFC 7523).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.allowedDelegateClients) || !('*' in self.allowedDelegateClients) || size(self.allowedDelegateClients) == 1", "message": "* in allowedDelegateClients has to stand alone"},
    {"rule": "!(has(self.allowMayAct) && self.allowMayAct) || !has(self.allowedDelegateClients) || !('*' in self.allowedDelegateClients)", "message": "allowMayAct may not be set when allowedDelegateClients is *"},
    {"rule": "!has(self.actorClaim) || !(self.actorClaim in ['sub', 'iss', 'aud', 'exp', 'iat', 'nbf', 'jti', 'name', 'email', 'scope', 'scp', 'may_act'])", "message": "actorClaim has to name a claim with no meaning of its own, such as client_id, azp, appid or cid"},
    {"rule": "!(has(self.allowPrivateIPs) && self.allowPrivateIPs) || (has(self.jwksUrl) && size(self.jwksUrl) > 0)", "message": "allowPrivateIPs needs jwksUrl"},
    {"rule": "(has(self.expectedAudience) && size(self.expectedAudience) > 0) || (has(self.jwtBearerGrant) && !(has(self.actorClaim) && size(self.actorClaim) > 0) && !(has(self.actorMatcher) && size(self.actorMatcher) > 0) && !(has(self.allowMayAct) && self.allowMayAct) && !(has(self.allowedActors) && size(self.allowedActors) > 0))", "message": "expectedAudience is required, except with a jwtBearerGrant alone: without actorClaim, actorMatcher, allowMayAct and allowedActors"},
    {"rule": "(has(self.allowedDelegateClients) && size(self.allowedDelegateClients) > 0) || (!(has(self.expectedAudience) && size(self.expectedAudience) > 0) && !(has(self.actorClaim) && size(self.actorClaim) > 0) && !(has(self.actorMatcher) && size(self.actorMatcher) > 0) && !(has(self.allowMayAct) && self.allowMayAct))", "message": "allowedDelegateClients is required with expectedAudience, actorClaim, actorMatcher or allowMayAct"},
]))]
pub struct TrustedIssuer {
    /// Issuer URL, exactly as tokens have it.
    #[schemars(length(min = 1, max = 2048))]
    pub issuer_url: String,
    /// Value that a token's `aud` must contain.
    #[schemars(length(min = 1, max = 2048))]
    pub expected_audience: Option<String>,
    /// URL of the key set. Default: what the issuer's discovery document says.
    #[schemars(length(max = 2048))]
    pub jwks_url: Option<String>,
    /// The issuer may be plain http. For development only.
    #[serde(rename = "insecureAllowHTTP")]
    pub insecure_allow_http: Option<bool>,
    /// The key set's URL may lead to private addresses.
    #[serde(rename = "allowPrivateIPs")]
    pub allow_private_ips: Option<bool>,
    /// Claim that names who acts for the user.
    #[schemars(length(max = 64))]
    pub actor_claim: Option<String>,
    /// Expression (CEL) over the claims that must be true for an actor.
    #[schemars(length(max = 4096))]
    pub actor_matcher: Option<String>,
    /// The claim `may_act` (RFC 8693 §4.4) names who may act. Default: false.
    pub allow_may_act: Option<bool>,
    /// Who may act for users.
    #[schemars(length(max = 50), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "atomic"))]
    pub allowed_actors: Option<Vec<String>>,
    /// Clients that may exchange this issuer's tokens; `*` alone means all delegate clients.
    #[schemars(length(min = 1, max = 50), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "atomic"))]
    pub allowed_delegate_clients: Option<Vec<String>>,
    /// Its assertions are authorization grants (RFC 7523 §2.1).
    pub jwt_bearer_grant: Option<JwtBearerGrant>,
}

/// Assertions of an issuer as authorization grants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "duration(self.maxAssertionAge) > duration('0s')", "message": "maxAssertionAge has to be longer than nothing"},
    {"rule": "self.subjectBindings.all(binding, self.subjectBindings.filter(other, other.subject == binding.subject).size() == 1)", "message": "a subject may stand in subjectBindings only once"},
]))]
pub struct JwtBearerGrant {
    /// How old an assertion may be, for example `5m`.
    pub max_assertion_age: String,
    /// Values, one of which an assertion's `aud` must contain. Default: the issuer and its token endpoint.
    #[schemars(length(max = 50), inner(length(min = 1, max = 2048), regex(pattern = URL)), extend("x-kubernetes-list-type" = "atomic"))]
    pub accepted_audiences: Option<Vec<String>>,
    /// Who may get tokens for what.
    #[schemars(length(min = 1, max = 50), extend("x-kubernetes-list-type" = "atomic"))]
    pub subject_bindings: Vec<SubjectBinding>,
}

/// What one subject may get tokens for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubjectBinding {
    /// Subject of the assertion.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^*]+$"))]
    pub subject: String,
    /// Resources that it may name (RFC 8707).
    #[schemars(length(min = 1, max = 50), inner(length(min = 1, max = 2048), regex(pattern = URL)), extend("x-kubernetes-list-type" = "atomic"))]
    pub allowed_resources: Vec<String>,
}

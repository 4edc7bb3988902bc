//! `embeddedAuthServer` of an MCPExternalAuthConfig: what of it excludes or needs each other. Nothing here
//! runs it yet.

use std::collections::BTreeSet;

use skep_api::crd::auth_storage::RedisStore;
use skep_api::crd::embedded_auth::{EmbeddedAuthServer, OAuth2Upstream, UpstreamProvider, UpstreamType};
use skep_api::crd::parse::{CONFLICTING_FIELDS, INVALID_FIELD};
use skep_api::crd::trusted_issuer::{JwtBearerGrant, RESERVED_ACTOR_CLAIMS, TrustedIssuer};

use super::duration;
use super::findings::Findings;

const AT: &str = "spec.embeddedAuthServer";

/// Judges the block.
pub(super) fn check(server: &EmbeddedAuthServer, findings: &mut Findings<'_>) {
    let confidential = server.allow_confidential_client_registration == Some(true);
    if confidential && server.insecure_allow_http == Some(true) {
        findings.error(
            format!("{AT}.allowConfidentialClientRegistration"),
            CONFLICTING_FIELDS,
            "With `insecureAllowHTTP` client secrets would be handed out over plain http. Remove one of the two.",
        );
    }
    if server.delegate_clients.as_ref().is_some_and(|clients| !clients.is_empty())
        && server.issuer.starts_with("http://")
    {
        findings.error(
            format!("{AT}.delegateClients"),
            CONFLICTING_FIELDS,
            "The secrets of these clients would be sent over plain http. Use an https `issuer`.",
        );
    }
    if !confidential && server.force_confidential_redirect_uris.as_ref().is_some_and(|uris| !uris.is_empty())
    {
        findings.error(
            format!("{AT}.forceConfidentialRedirectUris"),
            CONFLICTING_FIELDS,
            "No client that registers itself gets a secret without `allowConfidentialClientRegistration: true`. Add it, or remove this.",
        );
    }
    for (index, provider) in server.upstream_providers.iter().enumerate() {
        upstream(provider, &format!("{AT}.upstreamProviders[{index}]"), findings);
    }
    for (index, client) in server.delegate_clients.iter().flatten().enumerate() {
        if client.client_secret_ref.name.is_empty() || client.client_secret_ref.key.is_empty() {
            findings.error(
                format!("{AT}.delegateClients[{index}].clientSecretRef"),
                INVALID_FIELD,
                "Give the name of a Secret and the key in it.",
            );
        }
    }
    for (index, issuer) in server.trusted_issuers.iter().flatten().enumerate() {
        trusted(issuer, &format!("{AT}.trustedIssuers[{index}]"), findings);
    }
    if let Some(redis) = server.storage.as_ref().and_then(|storage| storage.redis.as_ref()) {
        store(redis, findings);
    }
}

fn upstream(provider: &UpstreamProvider, at: &str, findings: &mut Findings<'_>) {
    for (kind, block, there) in [
        (UpstreamType::Oidc, "oidcConfig", provider.oidc_config.is_some()),
        (UpstreamType::OAuth2, "oauth2Config", provider.oauth2_config.is_some()),
    ] {
        let path = format!("{at}.{block}");
        if kind == provider.kind && !there {
            findings.error(path, INVALID_FIELD, format!("The provider's `type` needs the block `{block}`."));
        } else if kind != provider.kind && there {
            findings.error(
                path,
                CONFLICTING_FIELDS,
                "The provider's `type` is another, so this block has no meaning. Remove it, or change `type`.",
            );
        }
    }
    if let Some(oauth) = &provider.oauth2_config {
        registration(oauth, &format!("{at}.oauth2Config"), findings);
    }
}

fn registration(oauth: &OAuth2Upstream, at: &str, findings: &mut Findings<'_>) {
    let known = oauth.client_id.as_ref().is_some_and(|id| !id.is_empty());
    let Some(dcr) = &oauth.dcr_config else {
        if !known {
            findings.error(
                format!("{at}.clientId"),
                INVALID_FIELD,
                "Give a client id, or `dcrConfig` to register at the provider.",
            );
        }
        return;
    };
    let path = format!("{at}.dcrConfig");
    if known {
        findings.error(
            &path,
            CONFLICTING_FIELDS,
            "A client that has an id does not register. Remove this, or `clientId`.",
        );
    }
    if oauth.client_secret_ref.is_some() {
        findings.error(
            format!("{at}.clientSecretRef"),
            CONFLICTING_FIELDS,
            "With `dcrConfig` the registration gives the secret. Remove this.",
        );
    }
    if dcr.discovery_url.is_some() == dcr.registration_endpoint.is_some() {
        findings.error(path, INVALID_FIELD, "Give exactly one of `discoveryUrl` and `registrationEndpoint`.");
    }
}

fn store(redis: &RedisStore, findings: &mut Findings<'_>) {
    let at = format!("{AT}.storage.redis");
    let address = redis.addr.as_ref().is_some_and(|addr| !addr.is_empty());
    if address == redis.sentinel_config.is_some() {
        findings.error(&at, INVALID_FIELD, "Give exactly one of `addr` and `sentinelConfig`.");
    }
    if redis.cluster_mode == Some(true) && !address {
        findings.error(
            format!("{at}.clusterMode"),
            INVALID_FIELD,
            "A Redis cluster is found by `addr`. Add it, or remove this.",
        );
    }
}

fn trusted(issuer: &TrustedIssuer, at: &str, findings: &mut Findings<'_>) {
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let clients = issuer.allowed_delegate_clients.as_deref().unwrap_or_default();
    let everybody = clients.iter().any(|client| client == "*");
    let may_act = issuer.allow_may_act == Some(true);
    let actors = issuer.allowed_actors.as_ref().is_some_and(|actors| !actors.is_empty());
    let mut refuse = |field: &str, reason: &str, message: &str| {
        findings.error(format!("{at}.{field}"), reason, message);
    };
    if everybody && clients.len() > 1 {
        let message = "`*` means all clients, so it stands alone. Remove it, or the others.";
        refuse("allowedDelegateClients", CONFLICTING_FIELDS, message);
    }
    if everybody && may_act {
        let message = "With `*` in `allowedDelegateClients` any client could be named by a token. Name the clients, or remove this.";
        refuse("allowMayAct", CONFLICTING_FIELDS, message);
    }
    if issuer.actor_claim.as_ref().is_some_and(|claim| RESERVED_ACTOR_CLAIMS.contains(&claim.as_str())) {
        let message = "This claim has a meaning of its own. Name another, such as `client_id`, `azp`, `appid` or `cid`.";
        refuse("actorClaim", INVALID_FIELD, message);
    }
    if issuer.allow_private_ips == Some(true) && !given(&issuer.jwks_url) {
        let message = "Only a key set whose URL is written here may have a private address. Add it.";
        refuse("jwksUrl", INVALID_FIELD, message);
    }
    let delegates = given(&issuer.actor_claim) || given(&issuer.actor_matcher) || may_act;
    if !given(&issuer.expected_audience) && (issuer.jwt_bearer_grant.is_none() || delegates || actors) {
        let message =
            "Say for whom this issuer's tokens have to be; only a `jwtBearerGrant` alone needs none.";
        refuse("expectedAudience", INVALID_FIELD, message);
    }
    if clients.is_empty() && (given(&issuer.expected_audience) || delegates) {
        let message = "Say which clients may exchange this issuer's tokens.";
        refuse("allowedDelegateClients", INVALID_FIELD, message);
    }
    if let Some(grant) = &issuer.jwt_bearer_grant {
        bearer_grant(grant, &format!("{at}.jwtBearerGrant"), findings);
    }
}

fn bearer_grant(grant: &JwtBearerGrant, at: &str, findings: &mut Findings<'_>) {
    if duration::parse(&grant.max_assertion_age).is_none_or(|age| age.is_zero()) {
        findings.error(
            format!("{at}.maxAssertionAge"),
            INVALID_FIELD,
            "This has to be a duration longer than nothing, such as `5m`.",
        );
    }
    let mut seen = BTreeSet::new();
    for (index, binding) in grant.subject_bindings.iter().enumerate() {
        if !seen.insert(binding.subject.as_str()) {
            findings.error(
                format!("{at}.subjectBindings[{index}].subject"),
                "DuplicateEntry",
                "This subject is in the list already; keep one.",
            );
        }
    }
}

//! How callers are known, over changes of the configuration.

use std::sync::Arc;

use skep_auth::challenge::ProtectedResource;
use skep_auth::client::{ClientConfig, GuardedClient};
use skep_auth::provider::{KeyProvider, KeySource};
use skep_auth::validator::{TokenRules, TokenValidator};

use super::{BuildError, Current, Shared};
use crate::config::{AuthSettings, ProxyConfig, TokenSettings};
use crate::stages::authenticate::Authentication;

/// Keys and verified tokens survive a change that is not about them.
pub(super) fn authentication(
    config: &ProxyConfig,
    shared: &Shared,
    current: &Current,
    first: bool,
) -> Result<(Authentication, Option<Arc<TokenValidator>>), BuildError> {
    let AuthSettings::Token(token) = &config.auth else { return Ok((Authentication::Anonymous, None)) };
    let same = match &current.config.auth {
        AuthSettings::Token(known) => !first && same_judgement(known, token),
        AuthSettings::Anonymous => false,
    };
    let validator = match &current.validator {
        Some(validator) if same => Arc::clone(validator),
        _ => validator(token, config, shared)?,
    };
    let resource = ProtectedResource {
        issuer: token.issuer.clone(),
        resource: token.resource_url.clone(),
        scopes: token.scopes.clone(),
    };
    Ok((Authentication::Token { validator: Arc::clone(&validator), resource }, Some(validator)))
}

fn same_judgement(a: &TokenSettings, b: &TokenSettings) -> bool {
    a.issuer == b.issuer
        && a.jwks_url == b.jwks_url
        && a.audiences == b.audiences
        && a.algorithms == b.algorithms
        && a.leeway == b.leeway
        && a.ca_pem == b.ca_pem
        && a.token_file == b.token_file
        && a.reach == b.reach
}

fn validator(
    token: &TokenSettings,
    config: &ProxyConfig,
    shared: &Shared,
) -> Result<Arc<TokenValidator>, BuildError> {
    let mut client = ClientConfig::new(config.egress.clone());
    client.reach = token.reach;
    client.ca_pem.clone_from(&token.ca_pem);
    let client = GuardedClient::new(client).map_err(BuildError::Client)?;
    let source = KeySource {
        issuer: token.issuer.clone(),
        jwks_url: token.jwks_url.clone(),
        token_file: token.token_file.clone(),
    };
    let keys = KeyProvider::new(source, client, Arc::clone(&shared.clock));
    let rules = TokenRules {
        audiences: token.audiences.clone(),
        algorithms: token.algorithms.clone(),
        leeway: token.leeway,
    };
    Ok(Arc::new(TokenValidator::new(keys, rules, Arc::clone(&shared.clock))))
}

//! How callers are known, over changes of the configuration.

use std::sync::Arc;

use skep_auth::authenticator::{Authenticator, TrustedIssuer};
use skep_auth::challenge::ProtectedResource;
use skep_auth::client::{ClientConfig, GuardedClient};
use skep_auth::introspection::{Introspector, MAX_ANSWER};
use skep_auth::limiter::SourceLimiter;
use skep_auth::provider::{KeyProvider, KeySource};

use super::{BuildError, Current, Shared};
use crate::config::{AuthSettings, IssuerSettings, ProxyConfig, TokenSettings};
use crate::stages::authenticate::Authentication;

/// Verified tokens survive a change that is not about them, keys one that is not about where they come
/// from, and what strangers have used up any change.
pub(super) fn authentication(
    config: &ProxyConfig,
    shared: &Shared,
    current: &Current,
) -> Result<(Authentication, Option<Arc<Authenticator>>), BuildError> {
    let AuthSettings::Token(token) = &config.auth else { return Ok((Authentication::Anonymous, None)) };
    let known = match (&current.config.auth, &current.authenticator) {
        (AuthSettings::Token(known), Some(authenticator)) => Some((known, authenticator)),
        _ => None,
    };
    let authenticator = match known {
        Some((known, authenticator)) if known.issuers == token.issuers => Arc::clone(authenticator),
        _ => {
            let known = known.map(|(known, authenticator)| (&**known, &**authenticator));
            Arc::new(authenticator(token, shared, known)?)
        }
    };
    let resource = resource(token);
    Ok((Authentication::Token { authenticator: Arc::clone(&authenticator), resource }, Some(authenticator)))
}

/// What clients are told about where tokens come from.
pub(super) fn resource(token: &TokenSettings) -> ProtectedResource {
    ProtectedResource {
        issuers: token.issuers.iter().flat_map(IssuerSettings::names).collect(),
        resource: token.resource_url.clone(),
        scopes: token.scopes.clone(),
    }
}

fn authenticator(
    token: &TokenSettings,
    shared: &Shared,
    known: Option<(&TokenSettings, &Authenticator)>,
) -> Result<Authenticator, BuildError> {
    let clock = || Arc::clone(&shared.clock);
    let keys_at_hand = |settings: &IssuerSettings| {
        let (known, authenticator) = known?;
        let mut both = known.issuers.iter().zip(authenticator.issuers());
        both.find(|(known, _)| known.same_keys(settings)).and_then(|(_, issuer)| issuer.keys.clone())
    };
    // A new CA bundle is no reason to be without keys while the issuer is away.
    let keys_before = |settings: &IssuerSettings| {
        let (known, authenticator) = known?;
        let mut both = known.issuers.iter().zip(authenticator.issuers());
        both.find(|(known, _)| known.same_key_source(settings)).and_then(|(_, issuer)| issuer.keys.clone())
    };
    let mut issuers = Vec::with_capacity(token.issuers.len());
    for settings in &token.issuers {
        let keys = match keys_at_hand(settings) {
            Some(keys) => Some(keys),
            None if settings.has_keys() => {
                let source = KeySource {
                    issuer: settings.issuer.clone(),
                    jwks_url: settings.jwks_url.clone(),
                    discovery_url: settings.discovery_url.clone(),
                    token_file: settings.token_file.clone(),
                };
                let client = client(settings, None)?;
                Some(match keys_before(settings) {
                    Some(before) => KeyProvider::succeeding(&before, source, client, clock()),
                    None => KeyProvider::new(source, client, clock()),
                })
            }
            None => None,
        };
        let introspector = match &settings.introspection {
            Some(how) => {
                let client = client(settings, Some(MAX_ANSWER))?;
                Some(Introspector::new(how.clone(), client, clock()))
            }
            None => None,
        };
        let (issuer, rules) = (settings.issuer.clone(), settings.rules.clone());
        issuers.push(TrustedIssuer { issuer, keys, rules, introspector });
    }
    let limiter = match known {
        Some((_, authenticator)) => Arc::clone(authenticator.limiter()),
        None => SourceLimiter::new(clock()),
    };
    Ok(Authenticator::new(issuers, limiter, clock()))
}

fn client(settings: &IssuerSettings, max_bytes: Option<usize>) -> Result<GuardedClient, BuildError> {
    let mut client = ClientConfig::new(settings.egress.clone());
    client.reach = settings.reach;
    client.ca_pem.clone_from(&settings.ca_pem);
    client.pins = settings.pins.clone();
    client.max_bytes = max_bytes.unwrap_or(client.max_bytes);
    GuardedClient::new(client).map_err(BuildError::Client)
}

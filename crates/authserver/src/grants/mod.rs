//! What a token endpoint request asks for, and the grants that answer it.

mod client_credentials;
mod token_exchange;

use crate::clients::{AuthenticatedClient, GrantType};
use crate::error::OAuthError;
use crate::http::form::Form;
use crate::server::AuthServer;
use crate::token::IssuedToken;

/// Answers an authenticated request of the token endpoint.
pub(crate) fn issue(
    server: &AuthServer,
    client: AuthenticatedClient<'_>,
    form: &Form,
) -> Result<IssuedToken, OAuthError> {
    let name = form
        .get("grant_type")
        .ok_or(OAuthError::InvalidRequest { problem: "the parameter grant_type is missing" })?;
    let grant = GrantType::from_wire(name).ok_or(OAuthError::UnsupportedGrantType)?;
    if !client.client().grants.contains(&grant) {
        return Err(OAuthError::UnauthorizedClient);
    }
    match grant {
        GrantType::ClientCredentials => client_credentials::issue(server, client, form),
        GrantType::TokenExchange => token_exchange::issue(server, client, form),
    }
}

/// True for a scope token (RFC 6749 §3.3): visible ASCII without quote and backslash.
pub fn is_scope_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// The scopes asked for, in their order, once each; all that may be had when none is asked for. One that
/// may not be had is refused, not left out.
fn requested_scopes(allowed: &[String], form: &Form) -> Result<Vec<String>, OAuthError> {
    let Some(text) = form.get("scope") else { return Ok(allowed.to_vec()) };
    let mut scopes: Vec<String> = Vec::new();
    for scope in text.split(' ') {
        if !is_scope_token(scope) {
            return Err(OAuthError::InvalidScope { problem: "the scope is malformed" });
        }
        if !allowed.iter().any(|allowed| allowed == scope) {
            return Err(OAuthError::InvalidScope {
                problem: "a scope is unknown, or this client may not use it",
            });
        }
        if !scopes.iter().any(|known| known == scope) {
            scopes.push(scope.to_owned());
        }
    }
    Ok(scopes)
}

//! The client asks for a token of its own (RFC 6749 §4.4).

use url::Url;

use super::requested_scopes;
use crate::clients::{Audience, AuthenticatedClient, Client};
use crate::error::OAuthError;
use crate::http::form::Form;
use crate::server::{AuthServer, Grant};
use crate::token::IssuedToken;

pub(super) fn issue(
    server: &AuthServer,
    client: AuthenticatedClient<'_>,
    form: &Form,
) -> Result<IssuedToken, OAuthError> {
    let client = client.client();
    let audience = audience(client, form)?;
    let scopes = requested_scopes(&client.scopes, form)?;
    server
        .issue(&Grant {
            // No user takes part, so the subject is the client (RFC 9068 §2.2).
            subject: &client.id,
            client_id: &client.id,
            audience: audience.as_str(),
            scopes: &scopes,
            lifetime: server.access_token_lifetime(),
            user: None,
            act: None,
        })
        .map_err(OAuthError::Signing)
}

/// The one resource the token is for (RFC 8707 §2). It may be left out where the client has only one.
fn audience<'a>(client: &'a Client, form: &Form) -> Result<&'a Audience, OAuthError> {
    let refused = |problem| OAuthError::InvalidTarget { problem };
    match (form.all("resource"), client.audiences.as_slice()) {
        ([], [only]) => Ok(only),
        ([], _) => {
            Err(refused("this client may use several resources; name one with the parameter resource"))
        }
        ([resource], allowed) => {
            let url = Url::parse(resource).map_err(|_| refused("the resource is not an absolute URI"))?;
            if url.fragment().is_some() {
                return Err(refused("the resource has a fragment"));
            }
            let known = allowed.iter().find(|audience| audience.is(&url));
            known.ok_or(refused("the resource is unknown, or this client may not use it"))
        }
        _ => Err(refused("name one resource; a token is for one resource only")),
    }
}

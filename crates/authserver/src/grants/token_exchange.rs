//! The client has a user's token and asks for one for another resource (RFC 8693).

use std::time::Duration;

use serde_json::{Map, Value, json};
use url::Url;

use super::requested_scopes;
use crate::clients::{Audience, AuthenticatedClient, Client};
use crate::error::OAuthError;
use crate::http::form::Form;
use crate::server::{AuthServer, Grant};
use crate::token::{IssuedToken, User};

/// Identifiers of token types (RFC 8693 §3).
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// Actors in a row, the client included.
const MAX_ACTORS: usize = 10;

/// The token is the subject's still, for one audience, by this client as the actor (RFC 8693 §4.1), with
/// no more scopes than the subject's token has, and ends no later than that.
pub(super) fn issue(
    server: &AuthServer,
    client: AuthenticatedClient<'_>,
    form: &Form,
) -> Result<IssuedToken, OAuthError> {
    let client = client.client();
    let issued_type = issued_type(form)?;
    // Ignoring an actor would make a token that says something else than was asked for.
    if form.get("actor_token").is_some() || form.get("actor_token_type").is_some() {
        return Err(refused("actor tokens are not supported; the client itself is the actor"));
    }
    let (claims, left) = subject_token(server, form)?;
    let user = user(&claims).ok_or(NOT_OURS)?;
    // A token that got into the wrong hands is worth nothing there.
    is_for(client, &claims)?;
    // In what comes out, the subject is a user to everybody who reads it.
    is_of_a_user(client, &user, &claims)?;
    let act = act(client, &claims)?;
    let audience = audience(client, form)?;
    let scopes = scopes(client, &claims, form)?;
    let mut issued = server
        .issue(&Grant {
            subject: &user.subject,
            client_id: &client.id,
            audience: audience.as_str(),
            scopes: &scopes,
            lifetime: left.min(server.access_token_lifetime()),
            user: Some(&user),
            act: Some(act),
        })
        .map_err(OAuthError::Signing)?;
    issued.issued_token_type = Some(issued_type);
    Ok(issued)
}

/// What every bad subject token is told: who asks learns nothing about tokens that are not his.
const NOT_OURS: OAuthError =
    refused("the subject_token is no access token of this server, or it has expired");

const fn refused(problem: &'static str) -> OAuthError {
    OAuthError::InvalidRequest { problem }
}

/// An access token is a JWT here, so either name will do.
fn issued_type(form: &Form) -> Result<&'static str, OAuthError> {
    match form.get("requested_token_type") {
        None | Some(ACCESS_TOKEN) => Ok(ACCESS_TOKEN),
        Some(JWT) => Ok(JWT),
        Some(_) => Err(refused("the requested_token_type is not supported; ask for an access_token or jwt")),
    }
}

/// The claims of the subject's token, and how long it is good for.
fn subject_token(server: &AuthServer, form: &Form) -> Result<(Map<String, Value>, Duration), OAuthError> {
    let token = form.get("subject_token").ok_or(refused("the parameter subject_token is missing"))?;
    match form.get("subject_token_type") {
        Some(ACCESS_TOKEN | JWT) => {}
        Some(_) => return Err(refused("the subject_token_type is not supported; it is access_token or jwt")),
        None => return Err(refused("the parameter subject_token_type is missing")),
    }
    server.own_access_token(token).ok_or(NOT_OURS)
}

/// Who the subject is. What else the token holds stays behind: it was said to another audience.
fn user(claims: &Map<String, Value>) -> Option<User> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
    let groups = claims.get("groups").and_then(Value::as_array);
    Some(User {
        subject: text("sub").filter(|subject| !subject.is_empty())?,
        name: text("name"),
        email: text("email"),
        groups: groups.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        extra: Map::new(),
    })
}

/// The subject's token has to be for the client, or for something that it serves: a client that could
/// exchange whatever it was given could act for everybody.
fn is_for(client: &Client, claims: &Map<String, Value>) -> Result<(), OAuthError> {
    let serves = |name: &str| {
        name == client.id || client.subject_audiences.iter().any(|audience| audience.is_called(name))
    };
    let fine = match claims.get("aud") {
        Some(Value::String(name)) => serves(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(serves),
        _ => false,
    };
    if fine {
        Ok(())
    } else {
        Err(refused("the subject_token is for an audience that this client does not serve"))
    }
}

/// Where no user takes part, subject and client are the same (RFC 9068 §2.2): neither may such a token come in,
/// and be taken for a user's afterwards, nor go out.
fn is_of_a_user(client: &Client, user: &User, claims: &Map<String, Value>) -> Result<(), OAuthError> {
    let issued_to = claims.get("client_id").and_then(Value::as_str).filter(|id| !id.is_empty());
    let issued_to = issued_to.ok_or(NOT_OURS)?;
    if [issued_to, client.id.as_str()].contains(&user.subject.as_str()) {
        return Err(refused("the subject_token is that of a client; only users' tokens can be exchanged"));
    }
    Ok(())
}

/// The client as the actor, those who acted before inside (RFC 8693 §4.1). `may_act` (§4.4) is kept to.
fn act(client: &Client, claims: &Map<String, Value>) -> Result<Value, OAuthError> {
    if let Some(may_act) = claims.get("may_act")
        && may_act.get("sub").and_then(Value::as_str) != Some(client.id.as_str())
    {
        return Err(refused("the subject_token names another client that may act for its subject"));
    }
    let Some(before) = claims.get("act") else { return Ok(json!({"sub": client.id})) };
    let actors = std::iter::successors(Some(before), |actor| actor.get("act")).count();
    if actors >= MAX_ACTORS {
        return Err(refused("the subject_token has been exchanged too many times in a row"));
    }
    Ok(json!({"sub": client.id, "act": before}))
}

/// The one audience that `audience` and `resource` name (RFC 8693 §2.1, RFC 8707 §2). They may be left
/// out where the client has only one.
fn audience<'c>(client: &'c Client, form: &Form) -> Result<&'c Audience, OAuthError> {
    let refused = |problem| OAuthError::InvalidTarget { problem };
    let unknown = || refused("the audience or resource is unknown, or this client may not use it");
    let mut named: Vec<&Audience> = Vec::new();
    for audience in form.all("audience") {
        // A logical name, most often the URL of the resource.
        let url = Url::parse(audience).ok();
        let known = client
            .exchange_audiences
            .iter()
            .find(|known| known.as_str() == audience || url.as_ref().is_some_and(|url| known.is(url)));
        named.push(known.ok_or_else(unknown)?);
    }
    for resource in form.all("resource") {
        let url = Url::parse(resource).map_err(|_| refused("the resource is not an absolute URI"))?;
        if url.fragment().is_some() {
            return Err(refused("the resource has a fragment"));
        }
        named.push(client.exchange_audiences.iter().find(|known| known.is(&url)).ok_or_else(unknown)?);
    }
    match (named.as_slice(), client.exchange_audiences.as_slice()) {
        ([], [only]) => Ok(only),
        ([], _) => {
            Err(refused("this client may use several audiences; name one with the parameter audience"))
        }
        ([first, others @ ..], _) if others.iter().all(|other| other == first) => Ok(first),
        _ => Err(refused("name one audience; a token is for one only")),
    }
}

/// The scopes asked for; where none is, those that both the subject's token and the client have.
fn scopes(client: &Client, claims: &Map<String, Value>, form: &Form) -> Result<Vec<String>, OAuthError> {
    let of_subject = claims.get("scope").and_then(Value::as_str).unwrap_or_default();
    let both: Vec<String> = of_subject
        .split(' ')
        .filter(|scope| client.scopes.iter().any(|allowed| allowed == scope))
        .map(str::to_owned)
        .collect();
    requested_scopes(&both, form)
}

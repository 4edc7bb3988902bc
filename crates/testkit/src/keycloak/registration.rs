//! Client registration (`clients-registrations/default`): with an initial access token, a registration access token
//! or a bearer that has the role.

use serde_json::{Map, Value, json};

use super::clients;
use super::model::{Client, Keycloak, new_id};
use super::refusal::Refusal;
use super::representation::CLIENT;
use super::tokens::{Rights, bearer_token};
use crate::jose;
use crate::server::{Recorded, Reply};

const INITIAL: &str = "InitialAccessToken";
const REGISTRATION: &str = "RegistrationAccessToken";

/// What a caller of the registration showed.
enum Shown {
    Nothing,
    /// The id of an initial access token.
    Initial(String),
    /// The id of a registration access token.
    Registration(String),
    Bearer(Rights),
}

/// Makes a client.
pub(super) fn create(keycloak: &mut Keycloak, realm: &str, request: &Recorded) -> Result<Reply, Refusal> {
    let rep = CLIENT.read(request)?;
    let initial = may_create(keycloak, realm, request)?;
    clients::check(&rep).map_err(|_| invalid_metadata("Invalid client"))?;
    let now = keycloak.now();
    let here = keycloak.existing(realm);
    let taken = rep.get("clientId").and_then(Value::as_str).is_some_and(|id| here.client(id).is_some());
    if taken {
        return Err(invalid_metadata("Client Identifier in use"));
    }
    let id = here.insert_client(rep, now);
    if let Some(token) = here.initial_access.iter_mut().find(|token| Some(&token.id) == initial.as_ref()) {
        token.remaining -= 1;
    }
    let mut shown = rotated(keycloak, realm, &id);
    shown["directAccessGrantsEnabled"] = json!(false);
    let location = keycloak.place(request, shown["clientId"].as_str().unwrap_or_default());
    let reply = Reply::body(201, "application/json", shown.to_string());
    Ok(reply.header("Location", &location))
}

/// Shows, changes or deletes a client. Of registration access tokens only the newest works; a change makes a new
/// one, a look does not.
pub(super) fn one(
    keycloak: &mut Keycloak,
    realm: &str,
    client_id: &str,
    request: &Recorded,
) -> Result<Reply, Refusal> {
    match request.method.as_str() {
        "GET" => {
            let id = may(keycloak, realm, client_id, request, &["manage-clients", "view-clients"], "view")?;
            let here = keycloak.existing(realm);
            let client = here.client_by_id(&id).ok_or_else(not_found)?;
            let mut shown = here.show(client);
            if let (Some(token), Shown::Registration(_)) =
                (bearer_token(request), shown_by(keycloak, realm, request)?)
            {
                shown["registrationAccessToken"] = json!(token);
            }
            Ok(Reply::json(&shown))
        }
        "PUT" => {
            let rep = CLIENT.read(request)?;
            let id = may(keycloak, realm, client_id, request, &["manage-clients"], "update")?;
            if rep.get("clientId").and_then(Value::as_str) != Some(client_id) {
                return Err(invalid_metadata("Client Identifier modified"));
            }
            let now = keycloak.now();
            keycloak.existing(realm).update_client(&id, &rep, now)?;
            set_scopes(keycloak, realm, &id, &rep);
            let shown = match shown_by(keycloak, realm, request)? {
                Shown::Registration(_) => rotated(keycloak, realm, &id),
                _ => {
                    let here = keycloak.existing(realm);
                    here.client_by_id(&id).map(|client| here.show(client)).ok_or_else(not_found)?
                }
            };
            Ok(Reply::json(&shown))
        }
        "DELETE" => {
            let id = may(keycloak, realm, client_id, request, &["manage-clients"], "update")?;
            keycloak.existing(realm).remove_client(&id);
            Ok(Reply::status(204))
        }
        _ => Err(Refusal::error(405, "HTTP 405 Method Not Allowed")),
    }
}

/// A new initial access token; its id and itself.
pub(super) fn initial_access_token(
    keycloak: &mut Keycloak,
    realm: &str,
    count: i64,
    expiration: i64,
) -> (String, String) {
    let (now, id) = (keycloak.now(), new_id());
    let expires = if expiration == 0 { 0 } else { now + expiration };
    let token = seal(keycloak, realm, INITIAL, &id, expires);
    let access =
        super::model::InitialAccess { id: id.clone(), created: now, expiration, count, remaining: count };
    keycloak.existing(realm).initial_access.push(access);
    (id, token)
}

/// The client as shown, with a new registration access token; the old one no longer works.
pub(super) fn rotated(keycloak: &mut Keycloak, realm: &str, id: &str) -> Value {
    let token_id = new_id();
    let token = seal(keycloak, realm, REGISTRATION, &token_id, 0);
    let here = keycloak.existing(realm);
    if let Some(client) = here.clients.iter_mut().find(|client| client.id == id) {
        client.registration_token = Some(token_id);
    }
    let mut shown = here.client_by_id(id).map(|client| here.show(client)).unwrap_or_default();
    shown["registrationAccessToken"] = json!(token);
    shown
}

fn seal(keycloak: &mut Keycloak, realm: &str, typ: &str, id: &str, expires: i64) -> String {
    let (now, issuer) = (keycloak.now(), keycloak.issuer(realm));
    let mut claims = json!({
        "iat": now,
        "jti": id,
        "iss": issuer,
        "aud": issuer,
        "typ": typ,
        "registration_auth": "authenticated",
    });
    if expires != 0 {
        claims["exp"] = json!(expires);
    }
    jose::seal(&keycloak.existing(realm).sealing, &claims)
}

fn shown_by(keycloak: &Keycloak, realm: &str, request: &Recorded) -> Result<Shown, Refusal> {
    let Some(token) = bearer_token(request) else { return Ok(Shown::Nothing) };
    let here = keycloak.realms.get(realm).ok_or_else(not_found)?;
    if let Some(claims) = jose::unseal(&here.sealing, token) {
        let id = claims["jti"].as_str().unwrap_or_default().to_owned();
        let expired = claims["exp"].as_i64().is_some_and(|exp| exp <= keycloak.now());
        return match claims["typ"].as_str() {
            _ if expired => Err(unauthorized("Token is not active")),
            Some(INITIAL) if !here.initial_access.iter().any(|access| access.id == id) => {
                Err(unauthorized("Initial Access Token not found"))
            }
            Some(INITIAL) => Ok(Shown::Initial(id)),
            _ => Ok(Shown::Registration(id)),
        };
    }
    // A bearer of another realm is none here.
    match keycloak.access_token(here, token).and_then(|_| keycloak.rights(request, realm).ok()) {
        Some(rights) => Ok(Shown::Bearer(rights)),
        None => Err(unauthorized("Failed decode token")),
    }
}

/// The id of the initial access token that was used, if one was.
fn may_create(keycloak: &Keycloak, realm: &str, request: &Recorded) -> Result<Option<String>, Refusal> {
    match shown_by(keycloak, realm, request)? {
        Shown::Bearer(rights) if rights.any(&["manage-clients", "create-client"]) => Ok(None),
        Shown::Bearer(_) => Err(forbidden("Forbidden")),
        Shown::Initial(id) => {
            let all =
                keycloak.realms.get(realm).map(|here| here.initial_access.as_slice()).unwrap_or_default();
            let access = all.iter().find(|access| access.id == id);
            let access = access.ok_or_else(|| unauthorized("Initial Access Token not found"))?;
            if access.remaining <= 0 {
                return Err(unauthorized("No remaining count on initial access token"));
            }
            if access.expiration != 0 && access.created + access.expiration <= keycloak.now() {
                return Err(unauthorized("Expired initial access token"));
            }
            Ok(Some(id))
        }
        Shown::Nothing | Shown::Registration(_) => Err(forbidden(
            "Policy 'Trusted Hosts' rejected request to client-registration service. Details: Host not trusted.",
        )),
    }
}

/// The id of the client that the caller may look at or change.
fn may(
    keycloak: &Keycloak,
    realm: &str,
    client_id: &str,
    request: &Recorded,
    roles: &[&str],
    what: &str,
) -> Result<String, Refusal> {
    let client = keycloak.realms.get(realm).and_then(|here| here.client(client_id));
    let own = |client: &Client, token: &str| client.registration_token.as_deref() == Some(token);
    let refusal = match shown_by(keycloak, realm, request)? {
        Shown::Bearer(rights) if rights.any(roles) => {
            return client.map(|client| client.id.clone()).ok_or_else(not_found);
        }
        Shown::Bearer(_) => return Err(forbidden("Forbidden")),
        Shown::Registration(token) => match client.filter(|client| own(client, &token)) {
            Some(client) => return Ok(client.id.clone()),
            None => what,
        },
        Shown::Initial(_) if what == "view" => return Err(unauthorized("Not initial access token allowed")),
        Shown::Initial(_) | Shown::Nothing => what,
    };
    Err(unauthorized(match refusal {
        "view" => "Not authorized to view client. Not valid token or client credentials provided.",
        _ => "Not authorized to update client. Maybe missing token or bad token type.",
    }))
}

fn set_scopes(keycloak: &mut Keycloak, realm: &str, id: &str, rep: &Map<String, Value>) {
    let here = keycloak.existing(realm);
    let ids = |field: &str| -> Option<Vec<String>> {
        let names = rep.get(field)?.as_array()?.iter().filter_map(Value::as_str);
        Some(names.filter_map(|name| here.scope_by_name(name)).map(|scope| scope.id.clone()).collect())
    };
    let (default, optional) = (ids("defaultClientScopes"), ids("optionalClientScopes"));
    let Some(client) = here.clients.iter_mut().find(|client| client.id == id) else { return };
    client.default_scopes = default.unwrap_or_else(|| client.default_scopes.clone());
    client.optional_scopes = optional.unwrap_or_else(|| client.optional_scopes.clone());
}

fn invalid_metadata(description: &str) -> Refusal {
    Refusal::oauth(400, "invalid_client_metadata", description)
}

fn unauthorized(description: &str) -> Refusal {
    Refusal::oauth(401, "invalid_token", description)
}

fn forbidden(description: &str) -> Refusal {
    Refusal::oauth(403, "insufficient_scope", description)
}

fn not_found() -> Refusal {
    Refusal::oauth(404, "invalid_request", "Client not found")
}

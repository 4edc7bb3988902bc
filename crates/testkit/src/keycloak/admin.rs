//! The admin API, as far as clients need it.

use serde_json::{Map, Value, json};

use super::clients;
use super::model::{Client, Keycloak, Realm, Scope, mappers};
use super::query::Query;
use super::refusal::Refusal;
use super::registration;
use super::representation::{CLIENT, IDENTITY_PROVIDER, INITIAL_ACCESS, MAPPER, SCOPE};
use super::scopes;
use super::tokens::Rights;
use crate::server::{Recorded, Reply};

type Answer = Result<Reply, Refusal>;

const LIST: &[&str] = &["query-clients", "view-clients", "manage-clients"];
const VIEW: &[&str] = &["view-clients", "manage-clients"];
const MANAGE: &[&str] = &["manage-clients"];

/// A call of `/admin/realms/{realm}/...` of somebody whose rights are known.
pub(super) struct Call<'a> {
    pub(super) keycloak: &'a mut Keycloak,
    pub(super) realm: &'a str,
    pub(super) rights: Rights,
    pub(super) request: &'a Recorded,
}

/// Answers the path after `/admin/realms/{realm}`.
pub(super) fn answer(call: &mut Call<'_>, path: &[&str]) -> Answer {
    match (call.request.method.as_str(), path) {
        ("GET", []) => call.show_realm(),
        ("GET", ["clients"]) => call.list_clients(),
        ("POST", ["clients"]) => call.create_client(),
        (_, ["clients", id, rest @ ..]) => call.client(id, rest),
        ("GET", ["client-scopes"]) => call.list_scopes(),
        ("POST", ["client-scopes"]) => call.create_scope(),
        (_, ["client-scopes", id, rest @ ..]) => call.scope(id, rest),
        (_, [kind @ ("default-default-client-scopes" | "default-optional-client-scopes"), rest @ ..]) => {
            call.realm_scopes(*kind == "default-default-client-scopes", rest)
        }
        (_, ["clients-initial-access", rest @ ..]) => call.initial_access(rest),
        (_, ["identity-provider", "instances", rest @ ..]) => call.identity_providers(rest),
        _ => Err(Refusal::no_such_path()),
    }
}

impl Call<'_> {
    fn here(&mut self) -> &mut Realm {
        self.keycloak.existing(self.realm)
    }

    fn show_realm(&mut self) -> Answer {
        self.rights.require(&[
            "view-realm",
            "manage-realm",
            "query-clients",
            "view-clients",
            "manage-clients",
        ])?;
        let here = self.here();
        let lifespan = here.token_lifespan;
        Ok(Reply::json(&json!({
            "id": here.id, "realm": here.name, "enabled": true, "accessTokenLifespan": lifespan,
        })))
    }

    fn list_clients(&mut self) -> Answer {
        self.rights.require(LIST)?;
        let viewing = self.rights.any(VIEW);
        let query = Query::of(self.request);
        let wanted = query.get("clientId").filter(|id| !id.trim().is_empty());
        let search = query.get("search") == Some("true");
        let here = self.here();
        let fits = |client: &&Client| match wanted {
            None => true,
            Some(part) if search => client.client_id().to_lowercase().contains(&part.to_lowercase()),
            Some(id) => client.client_id() == id,
        };
        let brief = |client: &Client| json!({"id": client.id, "clientId": client.client_id()});
        let show = |client: &Client| if viewing { here.show(client) } else { brief(client) };
        let first = query.number("first").unwrap_or_default();
        let max = query.number("max").unwrap_or(usize::MAX);
        let clients: Vec<Value> = here.clients.iter().filter(fits).skip(first).take(max).map(show).collect();
        Ok(Reply::json(&json!(clients)))
    }

    fn create_client(&mut self) -> Answer {
        let rep = CLIENT.read(self.request)?;
        self.rights.require(MANAGE)?;
        clients::check(&rep)?;
        let now = self.keycloak.now();
        let rival = std::mem::take(&mut self.keycloak.race_next_create);
        let here = self.here();
        if rival {
            here.insert_client(rep.clone(), now);
        }
        let client_id = rep.get("clientId").and_then(Value::as_str);
        if let Some(taken) = client_id.filter(|id| here.client(id).is_some()) {
            return Err(Refusal::message(409, &format!("Client {taken} already exists")));
        }
        let id = here.insert_client(rep, now);
        Ok(self.created(&id))
    }

    fn client(&mut self, id: &str, rest: &[&str]) -> Answer {
        if self.here().client_by_id(id).is_none() {
            // Who may not list clients is not told which there are.
            self.rights.require(LIST)?;
            return Err(Refusal::error(404, "Could not find client"));
        }
        match (self.request.method.as_str(), rest) {
            ("GET", []) => {
                self.rights.require(VIEW)?;
                let here = self.here();
                Ok(Reply::json(&here.client_by_id(id).map(|client| here.show(client)).unwrap_or_default()))
            }
            ("PUT", []) => {
                let rep = CLIENT.read(self.request)?;
                self.rights.require(MANAGE)?;
                let now = self.keycloak.now();
                self.here().update_client(id, &rep, now)?;
                Ok(Reply::status(204))
            }
            ("DELETE", []) => {
                self.rights.require(MANAGE)?;
                self.here().remove_client(id);
                Ok(Reply::status(204))
            }
            (_, ["client-secret"]) => self.client_secret(id),
            ("POST", ["registration-access-token"]) => {
                self.rights.require(MANAGE)?;
                Ok(Reply::json(&registration::rotated(self.keycloak, self.realm, id)))
            }
            ("GET", ["service-account-user"]) => self.service_account(id),
            (_, [kind @ ("default-client-scopes" | "optional-client-scopes"), rest @ ..]) => {
                self.client_scopes(id, *kind == "default-client-scopes", rest)
            }
            (_, ["protocol-mappers", "models", rest @ ..]) => {
                self.rights.require(if self.request.method == "GET" { VIEW } else { MANAGE })?;
                let request = self.request;
                let collection = self.keycloak.collection(request);
                let client = self.here().clients.iter_mut().find(|client| client.id == id);
                let client = client.ok_or_else(|| Refusal::error(404, "Could not find client"))?;
                protocol_mappers(&mut client.rep, request, &collection, rest)
            }
            _ => Err(Refusal::no_such_path()),
        }
    }

    fn client_secret(&mut self, id: &str) -> Answer {
        let now = self.keycloak.now();
        match self.request.method.as_str() {
            "GET" => self.rights.require(VIEW)?,
            "POST" => self.rights.require(MANAGE)?,
            _ => return Err(Refusal::error(405, "HTTP 405 Method Not Allowed")),
        }
        let renew = self.request.method == "POST";
        let client = self.here().clients.iter_mut().find(|client| client.id == id);
        let client = client.ok_or_else(|| Refusal::error(404, "Could not find client"))?;
        if renew {
            client.renew_secret(now);
        }
        let mut body = json!({"type": "secret"});
        if !client.text("secret").is_empty() {
            body["value"] = json!(client.text("secret"));
        }
        Ok(Reply::json(&body))
    }

    fn service_account(&mut self, id: &str) -> Answer {
        self.rights.require(VIEW)?;
        let here = self.here();
        let user = here.client_by_id(id).and_then(|client| here.service_account(client));
        let text = "Service account not enabled for the client";
        let user = user.ok_or_else(|| Refusal::message(400, text))?;
        Ok(Reply::json(&json!({"id": user.id, "username": user.name, "enabled": true})))
    }

    fn client_scopes(&mut self, id: &str, default: bool, rest: &[&str]) -> Answer {
        self.rights.require(if self.request.method == "GET" { VIEW } else { MANAGE })?;
        let method = self.request.method.clone();
        let here = self.here();
        let client = here.client_by_id(id).ok_or_else(|| Refusal::error(404, "Could not find client"))?;
        let list = if default { &client.default_scopes } else { &client.optional_scopes };
        let [scope] = rest else { return brief_scopes(here, list, &method, rest) };
        if here.scope(scope).is_none() {
            return Err(Refusal::error(404, "Client scope not found"));
        }
        let client = here.clients.iter_mut().find(|client| client.id == id);
        let client = client.ok_or_else(|| Refusal::error(404, "Could not find client"))?;
        let (list, other) = match default {
            true => (&mut client.default_scopes, &client.optional_scopes),
            false => (&mut client.optional_scopes, &client.default_scopes),
        };
        change_membership(list, other, scope, &method)
    }

    fn realm_scopes(&mut self, default: bool, rest: &[&str]) -> Answer {
        self.rights.require(if self.request.method == "GET" { VIEW } else { MANAGE })?;
        let method = self.request.method.clone();
        let here = self.here();
        let list = if default { &here.default_scopes } else { &here.optional_scopes };
        let [scope] = rest else { return brief_scopes(here, list, &method, rest) };
        if here.scope(scope).is_none() {
            return Err(Refusal::error(404, "Client scope not found"));
        }
        let (list, other) = match default {
            true => (&mut here.default_scopes, &here.optional_scopes),
            false => (&mut here.optional_scopes, &here.default_scopes),
        };
        change_membership(list, other, scope, &method)
    }

    fn list_scopes(&mut self) -> Answer {
        self.rights.require(VIEW)?;
        let scopes: Vec<Value> = self.here().scopes.iter().map(|scope| json!(scope.rep)).collect();
        Ok(Reply::json(&json!(scopes)))
    }

    fn create_scope(&mut self) -> Answer {
        let rep = SCOPE.read(self.request)?;
        self.rights.require(MANAGE)?;
        let id = scopes::create(self.here(), rep)?;
        Ok(self.created(&id))
    }

    fn scope(&mut self, id: &str, rest: &[&str]) -> Answer {
        self.rights.require(VIEW)?;
        let not_found = || Refusal::error(404, "Could not find client scope");
        if self.here().scope(id).is_none() {
            return Err(not_found());
        }
        if self.request.method != "GET" {
            self.rights.require(MANAGE)?;
        }
        match (self.request.method.as_str(), rest) {
            ("GET", []) => Ok(Reply::json(&json!(self.here().scope(id).map(|scope| &scope.rep)))),
            ("PUT", []) => {
                let rep = SCOPE.read(self.request)?;
                let scope = self.here().scope_mut(id).ok_or_else(not_found)?;
                scope.rep.extend(rep.into_iter().filter(|(field, value)| {
                    !value.is_null() && field != "id" && field != "protocolMappers"
                }));
                Ok(Reply::status(204))
            }
            ("DELETE", []) => {
                let here = self.here();
                here.scopes.retain(|scope| scope.id != id);
                here.default_scopes.retain(|one| one != id);
                here.optional_scopes.retain(|one| one != id);
                for client in &mut here.clients {
                    client.default_scopes.retain(|one| one != id);
                    client.optional_scopes.retain(|one| one != id);
                }
                Ok(Reply::status(204))
            }
            (_, ["protocol-mappers", "models", rest @ ..]) => {
                let request = self.request;
                let collection = self.keycloak.collection(request);
                let scope = self.here().scope_mut(id).ok_or_else(not_found)?;
                protocol_mappers(&mut scope.rep, request, &collection, rest)
            }
            _ => Err(Refusal::no_such_path()),
        }
    }

    fn initial_access(&mut self, rest: &[&str]) -> Answer {
        let number = |rep: &Map<String, Value>, field: &str| rep.get(field).and_then(Value::as_i64);
        match (self.request.method.as_str(), rest) {
            ("GET", []) => {
                self.rights.require(VIEW)?;
                let show = |access: &super::model::InitialAccess| {
                    json!({
                        "id": access.id, "timestamp": access.created, "expiration": access.expiration,
                        "count": access.count, "remainingCount": access.remaining,
                    })
                };
                let all: Vec<Value> = self.here().initial_access.iter().map(show).collect();
                Ok(Reply::json(&json!(all)))
            }
            ("POST", []) => {
                let rep = INITIAL_ACCESS.read(self.request)?;
                self.rights.require(MANAGE)?;
                let count = number(&rep, "count").unwrap_or(1);
                let expiration = number(&rep, "expiration").unwrap_or(0);
                let (id, token) =
                    registration::initial_access_token(self.keycloak, self.realm, count, expiration);
                let body = json!({
                    "id": id, "token": token, "timestamp": self.keycloak.now(), "expiration": expiration,
                    "count": count, "remainingCount": count,
                });
                let location = self.keycloak.place(self.request, &id);
                let reply = Reply::body(201, "application/json", body.to_string());
                Ok(reply.header("Location", &location))
            }
            ("DELETE", [id]) => {
                self.rights.require(MANAGE)?;
                self.here().initial_access.retain(|access| access.id != *id);
                Ok(Reply::status(204))
            }
            _ => Err(Refusal::no_such_path()),
        }
    }

    fn identity_providers(&mut self, rest: &[&str]) -> Answer {
        let reading = self.request.method == "GET";
        let roles: &[&str] = if reading {
            &["view-identity-providers", "manage-identity-providers"]
        } else {
            &["manage-identity-providers"]
        };
        self.rights.require(roles)?;
        match (self.request.method.as_str(), rest) {
            ("GET", []) => Ok(Reply::json(&json!(self.here().identity_providers))),
            ("GET", [alias]) => {
                let found = self.here().identity_providers.iter().find(|one| one["alias"] == *alias);
                found.map(Reply::json).ok_or_else(|| Refusal::error(404, "HTTP 404 Not Found"))
            }
            ("POST", []) => {
                let rep = IDENTITY_PROVIDER.read(self.request)?;
                let alias = rep.get("alias").and_then(Value::as_str).unwrap_or_default().to_owned();
                let here = self.here();
                if here.identity_providers.iter().any(|one| one["alias"] == alias.as_str()) {
                    let text = format!("Identity Provider {alias} already exists");
                    return Err(Refusal::message(409, &text));
                }
                here.identity_providers.push(Value::Object(rep));
                Ok(self.created(&alias))
            }
            ("DELETE", [alias]) => {
                self.here().identity_providers.retain(|one| one["alias"] != *alias);
                Ok(Reply::status(204))
            }
            _ => Err(Refusal::no_such_path()),
        }
    }

    /// 201 with the place of what was made, and no body.
    fn created(&self, id: &str) -> Reply {
        created(&self.keycloak.place(self.request, id))
    }
}

fn created(location: &str) -> Reply {
    Reply::status(201).header("Location", location)
}

fn protocol_mappers(
    owner: &mut Map<String, Value>,
    request: &Recorded,
    collection: &str,
    rest: &[&str],
) -> Answer {
    match (request.method.as_str(), rest) {
        ("GET", []) => Ok(Reply::json(&json!(mappers(owner)))),
        ("POST", []) => {
            let id = scopes::add_mapper(owner, MAPPER.read(request)?)?;
            Ok(created(&format!("{collection}/{id}")))
        }
        ("GET", [id]) => {
            let found = mappers(owner).iter().find(|one| one["id"] == *id);
            found.map(Reply::json).ok_or_else(|| Refusal::error(404, "Model not found"))
        }
        ("PUT", [id]) => {
            scopes::update_mapper(owner, id, MAPPER.read(request)?)?;
            Ok(Reply::status(204))
        }
        ("DELETE", [id]) => {
            let list = owner.get_mut("protocolMappers").and_then(Value::as_array_mut);
            if let Some(list) = list {
                list.retain(|one| one["id"] != *id);
            }
            Ok(Reply::status(204))
        }
        _ => Err(Refusal::no_such_path()),
    }
}

fn brief_scopes(realm: &Realm, list: &[String], method: &str, rest: &[&str]) -> Answer {
    if method != "GET" || !rest.is_empty() {
        return Err(Refusal::no_such_path());
    }
    let brief = |scope: &Scope| json!({"id": scope.id, "name": scope.name()});
    let scopes: Vec<Value> = list.iter().filter_map(|id| realm.scope(id)).map(brief).collect();
    Ok(Reply::json(&json!(scopes)))
}

/// Putting a scope where it is already, in this list or the other, changes nothing.
fn change_membership(list: &mut Vec<String>, other: &[String], scope: &str, method: &str) -> Answer {
    match method {
        "PUT" if !list.iter().chain(other).any(|one| one == scope) => list.push(scope.to_owned()),
        "PUT" => {}
        "DELETE" => list.retain(|one| one != scope),
        _ => return Err(Refusal::error(405, "HTTP 405 Method Not Allowed")),
    }
    Ok(Reply::status(204))
}

//! The client scope that puts a client into the audience of others' tokens.

use std::sync::PoisonError;

use http::Method;
use serde_json::{Map, Value, json};

use super::admin::Admin;
use super::calls::{Step, list, object, text};
use super::client::{MARK, MARK_VALUE};
use super::{AudienceScope, KeycloakError};

const REMEDY: &str = "give it the role manage-clients of realm-management, or switch the scope off \
                      (KEYCLOAK_AUDIENCE_SCOPE_ENABLED=false)";
const LIST: Step = Step { what: "list client scopes", remedy: REMEDY };
const CREATE: Step = Step { what: "make a client scope", remedy: REMEDY };
const MAP: Step = Step { what: "add the audience to a client scope", remedy: REMEDY };
const REALM: Step = Step { what: "make a client scope a default of the realm", remedy: REMEDY };
const CLIENT: Step = Step { what: "give a client a client scope", remedy: REMEDY };
const DELETE: Step = Step { what: "delete a client scope", remedy: REMEDY };

/// The kind of mapper that adds an audience.
const MAPPER: &str = "oidc-audience-mapper";
/// Which one.
const AUDIENCE: &str = "included.custom.audience";

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) changed: bool,
    pub(super) warnings: Vec<String>,
}

impl Admin {
    /// Sees to it that the scope is there, adds the audience, and is given to whom it is meant for.
    pub(super) async fn ensure_scope(
        &self,
        scope: &AudienceScope,
        audience: &str,
    ) -> Result<Done, KeycloakError> {
        let mut done = Done::default();
        let (name, id) = self.place_for(scope, audience, &mut done).await?;
        if scope.realm_default {
            done.changed |= self.ensure_realm_default(&id).await?;
        }
        for client in &scope.platform_clients {
            match self.find(client).await? {
                None if scope.only_present_clients => {}
                None => done.warnings.push(format!(
                    "client {client:?}, which is to get the scope {name:?}, is not in the realm; make it, or leave it \
                     out of PLATFORM_CLIENT_IDS"
                )),
                Some(found) => {
                    let scopes = found.fields.get("defaultClientScopes").and_then(Value::as_array);
                    if scopes.is_some_and(|scopes| scopes.iter().any(|given| given == name)) {
                        continue;
                    }
                    let url = self.calls.admin(&["clients", &found.id, "default-client-scopes", &id]);
                    self.call(Method::PUT, &url, None, client, CLIENT).await?;
                    done.changed = true;
                }
            }
        }
        Ok(done)
    }

    /// The scope that adds the audience, made or put right where need be: its name and its id. A scope of the
    /// first name that is somebody else's stays his.
    async fn place_for<'a>(
        &self,
        scope: &'a AudienceScope,
        audience: &str,
        done: &mut Done,
    ) -> Result<(&'a str, String), KeycloakError> {
        let names = [scope.name.as_str(), scope.second_name.as_str()];
        let ours = |fields: &Map<String, Value>| standing(fields, audience, &scope.former);
        for name in names {
            if let Some((id, fields)) = self.scope(name).await?
                && ours(&fields) == Standing::Right
            {
                return Ok((name, id));
            }
        }
        for name in names {
            // Who is quicker has it; what he made is looked at like any other.
            if self.scope(name).await?.is_none() {
                done.changed |= self.create_scope(name, audience).await?;
            }
            let Some((id, fields)) = self.scope(name).await? else { continue };
            let there = match ours(&fields) {
                Standing::Right => true,
                Standing::Free(mapper) => {
                    let put = self.put_mapper(&id, name, audience, mapper.as_deref()).await?;
                    done.changed |= put;
                    put
                }
                Standing::Others => false,
            };
            if there {
                return Ok((name, id));
            }
        }
        Err(KeycloakError::ScopeTaken { name: scope.second_name.clone() })
    }

    /// Deletes the scope, if it is the one that was made for this audience.
    pub(super) async fn delete_scope(
        &self,
        scope: &AudienceScope,
        audience: &str,
    ) -> Result<(), KeycloakError> {
        for name in [&scope.name, &scope.second_name] {
            let Some((id, fields)) = self.scope(name).await? else { continue };
            // What a user added to it for another audience is his.
            if audiences(&fields).is_empty()
                || audiences(&fields).iter().any(|one| one.audience != Some(audience))
            {
                continue;
            }
            let url = self.calls.admin(&["client-scopes", &id]);
            match self.call(Method::DELETE, &url, None, name, DELETE).await {
                Ok(_) | Err(KeycloakError::NotFound { .. }) => {
                    self.scopes.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A scope by its name, as it is now.
    async fn scope(&self, name: &str) -> Result<Option<(String, Map<String, Value>)>, KeycloakError> {
        let known = self.scopes.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(id) = known {
            let url = self.calls.admin(&["client-scopes", &id]);
            match self.call(Method::GET, &url, None, name, LIST).await {
                Ok(reply) => {
                    let fields = object(&reply, LIST)?;
                    if text(&fields, "name") == Some(name) {
                        return Ok(Some((id, fields)));
                    }
                }
                Err(KeycloakError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            self.scopes.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
        let reply = self.call(Method::GET, &self.calls.admin(&["client-scopes"]), None, name, LIST).await?;
        let named = |fields: &Map<String, Value>| text(fields, "name") == Some(name);
        let Some(fields) = list(&reply, LIST)?.into_iter().find(named) else { return Ok(None) };
        let id = text(&fields, "id")
            .ok_or(KeycloakError::Answer { step: LIST.what, reason: "the client scope has no id" })?
            .to_owned();
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), id.clone());
        Ok(Some((id, fields)))
    }

    /// Makes a scope with its mapper in one go. False: somebody else was quicker.
    async fn create_scope(&self, name: &str, audience: &str) -> Result<bool, KeycloakError> {
        let body = json!({
            "name": name,
            "protocol": "openid-connect",
            "attributes": {
                "include.in.token.scope": "false", "display.on.consent.screen": "false", MARK: MARK_VALUE,
            },
            "protocolMappers": [mapper(name, audience)],
        });
        match self.call(Method::POST, &self.calls.admin(&["client-scopes"]), Some(&body), name, CREATE).await
        {
            Ok(_) => Ok(true),
            Err(KeycloakError::Rejected { status: 409, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Adds the mapper to a scope, or puts it into the place of the one of this id. False: somebody else was
    /// quicker.
    async fn put_mapper(
        &self,
        scope_id: &str,
        name: &str,
        audience: &str,
        replaced: Option<&str>,
    ) -> Result<bool, KeycloakError> {
        let mut mapper = mapper(name, audience);
        let models = ["client-scopes", scope_id, "protocol-mappers", "models"];
        // The server has another identity by now.
        if let Some(id) = replaced {
            if let Some(fields) = mapper.as_object_mut() {
                fields.insert("id".to_owned(), json!(id));
            }
            let url = self.calls.admin(&[models.as_slice(), &[id]].concat());
            self.call(Method::PUT, &url, Some(&mapper), name, MAP).await?;
            return Ok(true);
        }
        match self.call(Method::POST, &self.calls.admin(&models), Some(&mapper), name, MAP).await {
            Ok(_) => Ok(true),
            Err(KeycloakError::Rejected { status: 409, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// True when it was none before.
    async fn ensure_realm_default(&self, scope_id: &str) -> Result<bool, KeycloakError> {
        let url = self.calls.admin(&["default-default-client-scopes"]);
        let reply = self.call(Method::GET, &url, None, scope_id, REALM).await?;
        if list(&reply, REALM)?.iter().any(|scope| text(scope, "id") == Some(scope_id)) {
            return Ok(false);
        }
        let url = self.calls.admin(&["default-default-client-scopes", scope_id]);
        self.call(Method::PUT, &url, None, scope_id, REALM).await?;
        Ok(true)
    }
}

/// How a scope stands to an audience.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// It adds this audience.
    Right,
    /// It can be had: nobody uses it, or it adds a former identity by the mapper of this id.
    Free(Option<String>),
    /// It is somebody else's.
    Others,
}

fn standing(scope: &Map<String, Value>, audience: &str, former: &[String]) -> Standing {
    let found = audiences(scope);
    if found.iter().any(|one| one.works && one.audience == Some(audience)) {
        return Standing::Right;
    }
    let was_ours = |id: &str| id == audience || former.iter().any(|former| former == id);
    match found.as_slice() {
        [] if mappers(scope).next().is_none() => Standing::Free(None),
        [Audience { audience: Some(added), mapper: Some(mapper), .. }] if was_ours(added) => {
            Standing::Free(Some((*mapper).to_owned()))
        }
        _ => Standing::Others,
    }
}

/// A mapper that adds an audience.
struct Audience<'a> {
    mapper: Option<&'a str>,
    /// None: that of a client, which is chosen in another way.
    audience: Option<&'a str>,
    /// It adds it to access tokens.
    works: bool,
}

fn audiences(scope: &Map<String, Value>) -> Vec<Audience<'_>> {
    let kind = |mapper: &&Map<String, Value>| text(mapper, "protocolMapper") == Some(MAPPER);
    let audience = |mapper| {
        let config = |name: &str| text(Map::get(mapper, "config")?.as_object()?, name);
        let works = config("access.token.claim") != Some("false");
        Audience { mapper: text(mapper, "id"), audience: config(AUDIENCE), works }
    };
    mappers(scope).filter(kind).map(audience).collect()
}

fn mappers(scope: &Map<String, Value>) -> impl Iterator<Item = &Map<String, Value>> {
    let mappers = scope.get("protocolMappers").and_then(Value::as_array);
    mappers.into_iter().flatten().filter_map(Value::as_object)
}

fn mapper(name: &str, audience: &str) -> Value {
    json!({
        "name": name,
        "protocol": "openid-connect",
        "protocolMapper": MAPPER,
        "config": {AUDIENCE: audience, "access.token.claim": "true", "id.token.claim": "false"},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_free_or_was_ours_is_taken() {
        let former = ["before".to_owned()];
        let with = |mappers: Value| json!({"name": "s", "protocolMappers": mappers});
        let id = |value: Value| {
            let mut value = value;
            value["id"] = json!("m");
            value
        };
        let mut off = id(mapper("s", "ours"));
        off["config"]["access.token.claim"] = json!("false");
        let mut other_kind = mapper("s", "ours");
        other_kind["protocolMapper"] = json!("oidc-usermodel-attribute-mapper");
        let free = |mapper: Option<&str>| Standing::Free(mapper.map(str::to_owned));
        for (scope, expected) in [
            (json!({"name": "s"}), free(None)),
            (with(json!([])), free(None)),
            (with(json!([id(mapper("s", "ours"))])), Standing::Right),
            (with(json!([id(mapper("a user's name", "ours"))])), Standing::Right),
            (with(json!([off])), free(Some("m"))),
            (with(json!([id(mapper("s", "before"))])), free(Some("m"))),
            (with(json!([id(mapper("s", "another"))])), Standing::Others),
            (with(json!([other_kind.clone()])), Standing::Others),
            (with(json!([mapper("s", "ours"), mapper("t", "another")])), Standing::Right),
            (with(json!([mapper("s", "before"), mapper("t", "another")])), Standing::Others),
        ] {
            assert_eq!(standing(scope.as_object().unwrap(), "ours", &former), expected, "{scope}");
        }
    }
}

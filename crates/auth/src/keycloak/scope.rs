//! The client scope that puts a client into the audience of others' tokens.

use std::sync::PoisonError;

use http::Method;
use serde_json::{Map, Value, json};

use super::admin::Admin;
use super::calls::{Step, list, object, text};
use super::{AudienceScope, KeycloakError};

const REMEDY: &str = "give it the role manage-clients of realm-management, for the realm's default scopes also \
                      manage-realm, or switch the scope off (KEYCLOAK_AUDIENCE_SCOPE_ENABLED=false)";
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
        let (id, fields) = match self.scope(&scope.name).await? {
            Some(found) => found,
            None => {
                self.create_scope(&scope.name).await?;
                done.changed = true;
                self.scope(&scope.name).await?.ok_or_else(|| KeycloakError::NotFound {
                    what: format!("client scope {:?}", scope.name),
                })?
            }
        };
        done.changed |= self.ensure_mapper(&id, &fields, &scope.name, audience).await?;
        if scope.realm_default {
            done.changed |= self.ensure_realm_default(&id).await?;
        }
        for client in &scope.platform_clients {
            match self.find(client).await? {
                None if scope.only_present_clients => {}
                None => done.warnings.push(format!(
                    "client {client:?}, which is to get the scope {:?}, is not in the realm; make it, or leave it \
                     out of PLATFORM_CLIENT_IDS",
                    scope.name
                )),
                Some(found) => {
                    let scopes = found.fields.get("defaultClientScopes").and_then(Value::as_array);
                    if scopes.is_some_and(|scopes| scopes.iter().any(|name| name == scope.name.as_str())) {
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

    /// Deletes the scope, if it is the one that was made for this audience.
    pub(super) async fn delete_scope(
        &self,
        scope: &AudienceScope,
        audience: &str,
    ) -> Result<(), KeycloakError> {
        let Some((id, fields)) = self.scope(&scope.name).await? else { return Ok(()) };
        if !mappers(&fields).any(|mapper| adds(mapper, audience)) {
            return Ok(());
        }
        let url = self.calls.admin(&["client-scopes", &id]);
        match self.call(Method::DELETE, &url, None, &scope.name, DELETE).await {
            Ok(_) | Err(KeycloakError::NotFound { .. }) => {
                self.scopes.lock().unwrap_or_else(PoisonError::into_inner).remove(&scope.name);
                Ok(())
            }
            Err(error) => Err(error),
        }
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

    async fn create_scope(&self, name: &str) -> Result<(), KeycloakError> {
        let body = json!({
            "name": name,
            "protocol": "openid-connect",
            "attributes": {"include.in.token.scope": "false", "display.on.consent.screen": "false"},
        });
        match self.call(Method::POST, &self.calls.admin(&["client-scopes"]), Some(&body), name, CREATE).await
        {
            Ok(_) | Err(KeycloakError::Rejected { status: 409, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// True when something was changed.
    async fn ensure_mapper(
        &self,
        scope_id: &str,
        scope: &Map<String, Value>,
        name: &str,
        audience: &str,
    ) -> Result<bool, KeycloakError> {
        if mappers(scope).any(|mapper| adds(mapper, audience)) {
            return Ok(false);
        }
        let mut mapper = json!({
            "name": name,
            "protocol": "openid-connect",
            "protocolMapper": MAPPER,
            "config": {AUDIENCE: audience, "access.token.claim": "true", "id.token.claim": "false"},
        });
        let models = ["client-scopes", scope_id, "protocol-mappers", "models"];
        // One of our name adds another audience: the server has another identity by now.
        let ours = mappers(scope).find(|mapper| text(mapper, "name") == Some(name));
        if let Some(id) = ours.and_then(|mapper| text(mapper, "id")) {
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

fn mappers(scope: &Map<String, Value>) -> impl Iterator<Item = &Map<String, Value>> {
    let mappers = scope.get("protocolMappers").and_then(Value::as_array);
    mappers.into_iter().flatten().filter_map(Value::as_object)
}

fn adds(mapper: &Map<String, Value>, audience: &str) -> bool {
    let config = mapper.get("config").and_then(Value::as_object);
    text(mapper, "protocolMapper") == Some(MAPPER)
        && config.is_some_and(|config| {
            text(config, AUDIENCE) == Some(audience) && text(config, "access.token.claim") != Some("false")
        })
}

//! The life of a client: made, shown, changed.

use serde_json::{Map, Value, json};

use super::model::{Client, Realm, User, new_id, new_secret};
use super::refusal::Refusal;
use super::scopes;

/// Authenticators that keep a secret of Keycloak's own.
const WITH_SECRET: [&str; 2] = ["client-secret", "client-secret-jwt"];
const AUTHENTICATORS: [&str; 5] =
    ["client-secret", "client-secret-jwt", "client-jwt", "client-x509", "federated-jwt"];

impl Realm {
    /// Makes a client of a checked representation; its id. The client id must be free.
    pub(super) fn insert_client(&mut self, mut given: Map<String, Value>, now: i64) -> String {
        let id = given.remove("id").and_then(|id| id.as_str().map(str::to_owned)).unwrap_or_else(new_id);
        for field in ["access", "registrationAccessToken"] {
            given.remove(field);
        }
        let by_name = |given: &mut Map<String, Value>, field: &str, fallback: &[String]| {
            let names = given.remove(field).filter(|names| !names.is_null());
            let Some(names) = names else { return fallback.to_vec() };
            let names = names.as_array().into_iter().flatten().filter_map(Value::as_str);
            names.filter_map(|name| self.scope_by_name(name)).map(|scope| scope.id.clone()).collect()
        };
        let default_scopes = by_name(&mut given, "defaultClientScopes", &self.default_scopes);
        let optional_scopes = by_name(&mut given, "optionalClientScopes", &self.optional_scopes);
        let mut rep = defaults(&id);
        for (field, value) in given.into_iter().filter(|(_, value)| !value.is_null()) {
            rep.insert(field, value);
        }
        if rep.get("clientId").is_none() {
            rep.insert("clientId".to_owned(), json!(id));
        }
        set_attributes(&mut rep, &json!({}));
        let client =
            Client { id: id.clone(), rep, default_scopes, optional_scopes, registration_token: None };
        self.clients.push(client);
        self.settle(&id, now);
        id
    }

    /// Changes what the representation says and leaves the rest (also attributes that it does not name).
    pub(super) fn update_client(
        &mut self,
        id: &str,
        given: &Map<String, Value>,
        now: i64,
    ) -> Result<(), Refusal> {
        check(given)?;
        let client_id = given.get("clientId").and_then(Value::as_str);
        if self.clients.iter().any(|client| client.id != id && Some(client.client_id()) == client_id) {
            return Err(Refusal::message(409, "Client already exists"));
        }
        let client = self.clients.iter_mut().find(|client| client.id == id);
        let client = client.ok_or_else(|| Refusal::error(404, "Could not find client"))?;
        let kept = [
            "id",
            "access",
            "attributes",
            "defaultClientScopes",
            "optionalClientScopes",
            "registrationAccessToken",
            "defaultRoles",
        ];
        for (field, value) in given {
            if !value.is_null() && !kept.contains(&field.as_str()) {
                client.rep.insert(field.clone(), value.clone());
            }
        }
        if let Some(attributes) = given.get("attributes") {
            set_attributes(&mut client.rep, attributes);
        }
        self.settle(id, now);
        Ok(())
    }

    /// A secret where one is needed, a service account where one is switched on.
    fn settle(&mut self, id: &str, now: i64) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return };
        let wants_secret = WITH_SECRET.contains(&client.text("clientAuthenticatorType"));
        if client.is_confidential() && wants_secret && client.text("secret").is_empty() {
            client.renew_secret(now);
        }
        let wanted = client.flag("serviceAccountsEnabled") && client.is_confidential();
        let name = format!("service-account-{}", client.client_id().to_lowercase());
        let there = self.users.iter_mut().find(|user| user.service_account_of.as_deref() == Some(id));
        match there {
            Some(user) if wanted => user.name = name,
            Some(_) => self.users.retain(|user| user.service_account_of.as_deref() != Some(id)),
            None if wanted => self.users.push(User {
                id: new_id(),
                name,
                password: None,
                service_account_of: Some(id.to_owned()),
                admin: false,
                roles: std::collections::BTreeSet::new(),
            }),
            None => {}
        }
    }

    /// The representation as Keycloak shows it.
    pub(super) fn show(&self, client: &Client) -> Value {
        let names = |ids: &[String]| -> Vec<&str> {
            ids.iter().filter_map(|id| self.scope(id)).map(super::model::Scope::name).collect()
        };
        let mut rep = client.rep.clone();
        if !client.is_confidential() {
            rep.remove("secret");
        }
        rep.insert("defaultClientScopes".to_owned(), json!(names(&client.default_scopes)));
        rep.insert("optionalClientScopes".to_owned(), json!(names(&client.optional_scopes)));
        Value::Object(rep)
    }
}

impl Client {
    /// A new secret.
    pub(super) fn renew_secret(&mut self, now: i64) -> String {
        let secret = new_secret();
        self.rep.insert("secret".to_owned(), json!(secret));
        set_attributes(&mut self.rep, &json!({"client.secret.creation.time": now.to_string()}));
        secret
    }
}

/// What Keycloak refuses in a client that it could bind.
pub(super) fn check(given: &Map<String, Value>) -> Result<(), Refusal> {
    let text = |field: &str| given.get(field).and_then(Value::as_str);
    if text("clientId").is_some_and(|id| id.trim().is_empty()) {
        return Err(Refusal::message(400, "Client ID must not be blank"));
    }
    if text("clientId").is_some_and(|id| id.chars().count() > 255) {
        return Err(Refusal::error(500, "unknown_error"));
    }
    if text("protocol").is_some_and(|protocol| !["openid-connect", "saml"].contains(&protocol)) {
        return Err(Refusal::message(400, "Unexpected protocol"));
    }
    if let Some(kind) = text("clientAuthenticatorType").filter(|kind| !AUTHENTICATORS.contains(kind)) {
        return Err(Refusal::message(400, &format!("No client authenticator of type {kind}")));
    }
    for mapper in given.get("protocolMappers").and_then(Value::as_array).into_iter().flatten() {
        let mut nowhere = Map::new();
        scopes::add_mapper(&mut nowhere, mapper.as_object().cloned().unwrap_or_default())?;
    }
    Ok(())
}

/// Attributes are merged by name; an empty value removes one. Values are strings.
fn set_attributes(rep: &mut Map<String, Value>, given: &Value) {
    let old = rep.get("attributes").cloned().unwrap_or_default();
    let mut merged = Map::new();
    let both = [&old, given];
    for (name, value) in both.iter().filter_map(|all| all.as_object()).flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if value.is_null() || text.is_empty() {
            merged.remove(name);
        } else {
            merged.insert(name.clone(), json!(text));
        }
    }
    rep.insert("attributes".to_owned(), Value::Object(merged));
}

fn defaults(id: &str) -> Map<String, Value> {
    let rep = json!({
        "id": id,
        "surrogateAuthRequired": false,
        "enabled": true,
        "alwaysDisplayInConsole": false,
        "clientAuthenticatorType": "client-secret",
        "redirectUris": [],
        "webOrigins": [],
        "notBefore": 0,
        "bearerOnly": false,
        "consentRequired": false,
        "standardFlowEnabled": true,
        "implicitFlowEnabled": false,
        "directAccessGrantsEnabled": false,
        "serviceAccountsEnabled": false,
        "publicClient": false,
        "frontchannelLogout": false,
        "protocol": "openid-connect",
        "attributes": {"realm_client": "false"},
        "authenticationFlowBindingOverrides": {},
        "fullScopeAllowed": true,
        "nodeReRegistrationTimeout": -1,
    });
    rep.as_object().cloned().unwrap_or_default()
}

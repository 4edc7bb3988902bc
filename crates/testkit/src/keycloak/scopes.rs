//! Client scopes and protocol mappers: which there are, what may be said of them.

use serde_json::{Map, Value, json};

use super::model::{Realm, Scope, new_id};
use super::refusal::Refusal;
use super::representation::{MAPPER, Representation, SCOPE};

const AUDIENCE_RESOLVE: &str = "oidc-audience-resolve-mapper";
const AUDIENCE: &str = "oidc-audience-mapper";

/// The scopes that every realm starts with; the last flag is: in a token's `scope`.
const DEFAULT: [(&str, bool); 6] = [
    ("web-origins", false),
    ("acr", false),
    ("profile", true),
    ("roles", false),
    ("basic", false),
    ("email", true),
];
const OPTIONAL: [&str; 4] = ["address", "phone", "offline_access", "microprofile-jwt"];

/// Gives a new realm its scopes.
pub(super) fn add_builtin(realm: &mut Realm) {
    for (name, shown) in DEFAULT {
        let id = insert(realm, name, shown);
        realm.default_scopes.push(id);
    }
    for name in OPTIONAL {
        let id = insert(realm, name, true);
        realm.optional_scopes.push(id);
    }
}

fn insert(realm: &mut Realm, name: &str, shown: bool) -> String {
    let id = new_id();
    let mut rep = json!({
        "id": id,
        "name": name,
        "protocol": "openid-connect",
        "attributes": {"include.in.token.scope": shown.to_string()},
    });
    if name == "roles" {
        rep["protocolMappers"] = json!([{
            "id": new_id(),
            "name": "audience resolve",
            "protocol": "openid-connect",
            "protocolMapper": AUDIENCE_RESOLVE,
            "consentRequired": false,
            "config": {"access.token.claim": "true", "introspection.token.claim": "true"},
        }]);
    }
    let rep = rep.as_object().cloned().unwrap_or_default();
    realm.scopes.push(Scope { id: id.clone(), rep });
    id
}

/// Makes a scope; its id.
pub(super) fn create(realm: &mut Realm, mut rep: Map<String, Value>) -> Result<String, Refusal> {
    SCOPE.check(&rep)?;
    let name = rep.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    check_name(&name)?;
    match rep.get("protocol").and_then(Value::as_str) {
        Some("openid-connect" | "saml") => {}
        _ => return Err(Refusal::message(400, "Unexpected protocol")),
    }
    if realm.scope_by_name(&name).is_some() {
        return Err(Refusal::message(409, &format!("Client Scope {name} already exists")));
    }
    let id = rep.get("id").and_then(Value::as_str).map_or_else(new_id, str::to_owned);
    rep.insert("id".to_owned(), json!(id));
    rep.entry("attributes").or_insert_with(|| json!({}));
    let mappers = rep.remove("protocolMappers");
    for mapper in mappers.as_ref().and_then(Value::as_array).into_iter().flatten() {
        add_mapper(&mut rep, mapper.as_object().cloned().unwrap_or_default())?;
    }
    realm.scopes.push(Scope { id: id.clone(), rep });
    Ok(id)
}

/// Adds a mapper to a scope or a client; its id.
pub(super) fn add_mapper(
    owner: &mut Map<String, Value>,
    mut mapper: Map<String, Value>,
) -> Result<String, Refusal> {
    MAPPER.check(&mapper)?;
    check_mapper(&mapper)?;
    let name = mapper.get("name").cloned().unwrap_or_default();
    if super::model::mappers(owner).iter().any(|other| other["name"] == name) {
        return Err(Refusal::message(409, "Protocol mapper exists with same name"));
    }
    let id = mapper.get("id").and_then(Value::as_str).map_or_else(new_id, str::to_owned);
    mapper.insert("id".to_owned(), json!(id));
    mapper.entry("consentRequired").or_insert(json!(false));
    mapper.entry("config").or_insert_with(|| json!({}));
    let list = owner.entry("protocolMappers").or_insert_with(|| json!([]));
    list.as_array_mut().expect("mappers are a list").push(Value::Object(mapper));
    Ok(id)
}

/// Replaces a mapper's configuration.
pub(super) fn update_mapper(
    owner: &mut Map<String, Value>,
    id: &str,
    mut mapper: Map<String, Value>,
) -> Result<(), Refusal> {
    MAPPER.check(&mapper)?;
    check_mapper(&mapper)?;
    let list = owner.get_mut("protocolMappers").and_then(Value::as_array_mut);
    let old = list.and_then(|list| list.iter_mut().find(|one| one["id"] == id));
    let old = old.ok_or_else(|| Refusal::error(404, "Model not found"))?;
    mapper.insert("id".to_owned(), json!(id));
    *old = Value::Object(mapper);
    Ok(())
}

/// The audience that a mapper puts into access tokens; without `access.token.claim` it puts none.
pub(super) fn mapped_audience(mapper: &Value) -> Option<&str> {
    let config = |key: &str| mapper["config"][key].as_str().filter(|value| !value.is_empty());
    if mapper["protocolMapper"] != AUDIENCE || config("access.token.claim") != Some("true") {
        return None;
    }
    config("included.client.audience").or_else(|| config("included.custom.audience"))
}

/// True for the mapper that adds each client of which the user has roles.
pub(super) fn resolves_audiences(mapper: &Value) -> bool {
    mapper["protocolMapper"] == AUDIENCE_RESOLVE
}

fn check_mapper(mapper: &Map<String, Value>) -> Result<(), Refusal> {
    let text = |field: &str| mapper.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (Some(_), Some("openid-connect"), Some(kind)) =
        (text("name"), text("protocol"), text("protocolMapper"))
    else {
        return Err(Refusal::message(400, "A mapper needs name, protocol and protocolMapper"));
    };
    if !kind.starts_with("oidc-") {
        return Err(Refusal::error(400, &format!("ProtocolMapper provider {kind} not found")));
    }
    let strings = mapper.get("config").and_then(Value::as_object).into_iter().flatten();
    match strings.into_iter().find(|(_, value)| !Representation::is_text(value)) {
        Some((key, _)) => Err(Representation::not_text(key)),
        None => Ok(()),
    }
}

/// The characters of a scope token (RFC 6749 §3.3).
fn check_name(name: &str) -> Result<(), Refusal> {
    let fine = |c: char| matches!(c, '\x21' | '\x23'..='\x5b' | '\x5d'..='\x7e');
    if name.is_empty() || !name.chars().all(fine) {
        return Err(Refusal::message(400, &format!("Unexpected name \"{name}\" for ClientScope")));
    }
    Ok(())
}

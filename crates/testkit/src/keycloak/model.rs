//! What a Keycloak holds: realms, and in them clients, scopes, users, tokens.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use skep_runtime::clock::SharedClock;
use skep_runtime::rng::{Rng as _, SystemRng};

use super::scopes;
use crate::idp::TestKey;
use crate::server::Recorded;

pub(super) const MASTER: &str = "master";

/// The whole server's memory.
pub(super) struct Keycloak {
    pub(super) clock: SharedClock,
    pub(super) base: String,
    pub(super) realms: BTreeMap<String, Realm>,
    pub(super) race_next_create: bool,
}

pub(super) struct Realm {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) key: Arc<TestKey>,
    /// Seals what only this realm reads again.
    pub(super) sealing: Vec<u8>,
    pub(super) token_lifespan: i64,
    pub(super) clients: Vec<Client>,
    pub(super) scopes: Vec<Scope>,
    pub(super) default_scopes: Vec<String>,
    pub(super) optional_scopes: Vec<String>,
    pub(super) users: Vec<User>,
    pub(super) initial_access: Vec<InitialAccess>,
    pub(super) identity_providers: Vec<Value>,
    /// Ids of access and refresh tokens that were not revoked.
    pub(super) live_tokens: HashSet<String>,
}

/// A client: its representation, and what is not in it.
pub(super) struct Client {
    pub(super) id: String,
    /// Without scopes: those are below, by their ids.
    pub(super) rep: Map<String, Value>,
    pub(super) default_scopes: Vec<String>,
    pub(super) optional_scopes: Vec<String>,
    /// The id of the one registration access token that works.
    pub(super) registration_token: Option<String>,
}

pub(super) struct Scope {
    pub(super) id: String,
    pub(super) rep: Map<String, Value>,
}

#[derive(Clone)]
pub(super) struct User {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) password: Option<String>,
    /// Whose service account it is: the id of a client.
    pub(super) service_account_of: Option<String>,
    /// Administers every realm (only in `master`).
    pub(super) admin: bool,
    /// Roles of the client `realm-management`.
    pub(super) roles: BTreeSet<String>,
}

pub(super) struct InitialAccess {
    pub(super) id: String,
    pub(super) created: i64,
    /// Seconds; 0 is for ever.
    pub(super) expiration: i64,
    pub(super) count: i64,
    pub(super) remaining: i64,
}

/// A random UUID.
pub(super) fn new_id() -> String {
    SystemRng.uuid().to_string()
}

/// A client secret: 32 letters and digits.
pub(super) fn new_secret() -> String {
    SystemRng.uuid().simple().to_string()
}

impl Keycloak {
    pub(super) fn new(clock: SharedClock) -> Self {
        let mut new = Self { clock, base: String::new(), realms: BTreeMap::new(), race_next_create: false };
        new.add_realm(MASTER);
        if let Some(master) = new.realms.get_mut(MASTER) {
            master.token_lifespan = 60;
        }
        new
    }

    pub(super) fn add_realm(&mut self, name: &str) {
        self.realms.entry(name.to_owned()).or_insert_with(|| Realm::new(name));
    }

    pub(super) fn now(&self) -> i64 {
        self.clock.unix_seconds()
    }

    pub(super) fn issuer(&self, realm: &str) -> String {
        format!("{}/realms/{realm}", self.base)
    }

    /// The URL that a request was made to.
    pub(super) fn collection(&self, request: &Recorded) -> String {
        let origin = url::Url::parse(&self.base).map(|url| url.origin().ascii_serialization());
        format!("{}{}", origin.unwrap_or_default(), request.path())
    }

    /// Where something is that was made by a request to its collection.
    pub(super) fn place(&self, request: &Recorded, id: &str) -> String {
        format!("{}/{id}", self.collection(request))
    }

    pub(super) fn existing(&mut self, realm: &str) -> &mut Realm {
        self.realms.get_mut(realm).expect("a realm that the test made")
    }
}

impl Realm {
    fn new(name: &str) -> Self {
        let id = new_id();
        let mut realm = Self {
            name: name.to_owned(),
            key: TestKey::shared_rsa(&format!("{name}-{id}")),
            sealing: new_secret().into_bytes(),
            id,
            token_lifespan: 300,
            clients: Vec::new(),
            scopes: Vec::new(),
            default_scopes: Vec::new(),
            optional_scopes: Vec::new(),
            users: Vec::new(),
            initial_access: Vec::new(),
            identity_providers: Vec::new(),
            live_tokens: HashSet::new(),
        };
        scopes::add_builtin(&mut realm);
        for (client_id, public) in [("account", true), ("admin-cli", true), ("realm-management", false)] {
            let rep = json!({
                "clientId": client_id,
                "publicClient": public,
                "bearerOnly": !public,
                "standardFlowEnabled": client_id == "account",
                "directAccessGrantsEnabled": client_id == "admin-cli",
            });
            realm.insert_client(rep.as_object().cloned().unwrap_or_default(), 0);
        }
        realm
    }

    pub(super) fn client(&self, client_id: &str) -> Option<&Client> {
        self.clients.iter().find(|client| client.client_id() == client_id)
    }

    pub(super) fn client_mut(&mut self, client_id: &str) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.client_id() == client_id)
    }

    pub(super) fn client_by_id(&self, id: &str) -> Option<&Client> {
        self.clients.iter().find(|client| client.id == id)
    }

    pub(super) fn scope(&self, id: &str) -> Option<&Scope> {
        self.scopes.iter().find(|scope| scope.id == id)
    }

    pub(super) fn scope_mut(&mut self, id: &str) -> Option<&mut Scope> {
        self.scopes.iter_mut().find(|scope| scope.id == id)
    }

    pub(super) fn scope_by_name(&self, name: &str) -> Option<&Scope> {
        self.scopes.iter().find(|scope| scope.name() == name)
    }

    pub(super) fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    pub(super) fn user_by_id(&self, id: &str) -> Option<&User> {
        self.users.iter().find(|user| user.id == id)
    }

    pub(super) fn service_account(&self, client: &Client) -> Option<&User> {
        self.users.iter().find(|user| user.service_account_of.as_deref() == Some(&client.id))
    }

    pub(super) fn remove_client(&mut self, id: &str) {
        self.clients.retain(|client| client.id != id);
        self.users.retain(|user| user.service_account_of.as_deref() != Some(id));
    }
}

impl Client {
    pub(super) fn client_id(&self) -> &str {
        self.text("clientId")
    }

    pub(super) fn text(&self, field: &str) -> &str {
        self.rep.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn flag(&self, field: &str) -> bool {
        self.rep.get(field).and_then(Value::as_bool).unwrap_or_default()
    }

    pub(super) fn attribute(&self, name: &str) -> &str {
        let attributes = self.rep.get("attributes");
        attributes.and_then(|all| all.get(name)).and_then(Value::as_str).unwrap_or_default()
    }

    /// Neither public nor a mere resource.
    pub(super) fn is_confidential(&self) -> bool {
        !self.flag("publicClient") && !self.flag("bearerOnly")
    }
}

impl Scope {
    pub(super) fn name(&self) -> &str {
        self.rep.get("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// Its mappers; none is an empty list.
    pub(super) fn mappers(&self) -> &[Value] {
        mappers(&self.rep)
    }
}

/// The protocol mappers of a client or a scope.
pub(super) fn mappers(rep: &Map<String, Value>) -> &[Value] {
    rep.get("protocolMappers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

//! A Keycloak: realms, clients, tokens, and the REST interfaces for them, as Keycloak 26 answers them.
//!
//! It is strict where Keycloak is: unknown JSON fields, wrong content types, paths that are not normalized, missing
//! roles. It knows no browser: tokens come by the grants of machines and, for administrators, by password; such a
//! session can be refreshed.

mod admin;
mod clients;
mod grants;
mod model;
mod query;
mod refusal;
mod registration;
mod representation;
mod routes;
mod scopes;
mod tokens;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use skep_runtime::clock::{SharedClock, SystemClock};

use crate::idp::Outage;
use crate::server::{Recorded, Reply, ScriptedServer};
use crate::tls::Tls;
use model::{Keycloak, MASTER, User, new_id};

/// A Keycloak that starts with the realm `master` and nobody in it.
pub struct FakeKeycloak {
    server: ScriptedServer,
    state: Arc<Shared>,
}

struct Shared {
    keycloak: Mutex<Keycloak>,
    failing: Mutex<Option<Outage>>,
    /// Requests of this method are answered 503.
    refused: Mutex<Option<String>>,
}

impl FakeKeycloak {
    /// Starts one on loopback whose tokens follow the machine's clock.
    pub async fn start() -> Self {
        Self::with_clock(SystemClock::shared()).await
    }

    /// Starts one whose tokens follow this clock.
    pub async fn with_clock(clock: SharedClock) -> Self {
        Self::on(ScriptedServer::start(|_| Reply::status(404)).await, clock)
    }

    /// Starts one that speaks TLS: its URL is an https one.
    pub async fn over_tls(clock: SharedClock, tls: &Tls) -> Self {
        Self::on(ScriptedServer::start_tls(tls, |_| Reply::status(404)).await, clock)
    }

    /// Starts one on this address, for callers on other machines. See also
    /// [`set_public_url`](Self::set_public_url).
    pub async fn start_on(address: SocketAddr) -> Self {
        Self::on(ScriptedServer::start_on(address, |_| Reply::status(404)).await, SystemClock::shared())
    }

    /// The URL holds the port, so the script is set once the port is known.
    fn on(server: ScriptedServer, clock: SharedClock) -> Self {
        let mut keycloak = Keycloak::new(clock);
        keycloak.base = server.url("");
        let state = Arc::new(Shared {
            keycloak: Mutex::new(keycloak),
            failing: Mutex::default(),
            refused: Mutex::default(),
        });
        let answering = Arc::clone(&state);
        server.set_handler(move |request| answering.answer(request));
        Self { server, state }
    }

    /// Where it is, without a slash at the end.
    pub fn url(&self) -> String {
        self.with(|keycloak| keycloak.base.clone())
    }

    /// The issuer of a realm's tokens.
    pub fn issuer(&self, realm: &str) -> String {
        self.with(|keycloak| keycloak.issuer(realm))
    }

    /// The token endpoint of a realm.
    pub fn token_url(&self, realm: &str) -> String {
        format!("{}/protocol/openid-connect/token", self.issuer(realm))
    }

    /// Calls itself by this URL (its `hostname`), which may have a path (its `http-relative-path`).
    pub fn set_public_url(&self, url: &str) {
        url.trim_end_matches('/').clone_into(&mut self.lock().base);
    }

    /// The HTTP server under it, for waiting on requests.
    pub fn server(&self) -> &ScriptedServer {
        &self.server
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.server.requests()
    }

    /// Makes a realm, if it is not there.
    pub fn realm(&self, name: &str) {
        self.with(|keycloak| keycloak.add_realm(name));
    }

    /// Deletes a realm with all that is in it.
    pub fn delete_realm(&self, name: &str) {
        self.with(|keycloak| keycloak.realms.remove(name));
    }

    /// Makes an administrator of every realm (a user of `master`), or gives him this password.
    pub fn admin(&self, username: &str, password: &str) {
        self.put_user(MASTER, username, password, true);
    }

    /// Makes a user of a realm who has no rights, or gives him this password.
    pub fn user(&self, realm: &str, username: &str, password: &str) {
        self.put_user(realm, username, password, false);
    }

    fn put_user(&self, realm: &str, username: &str, password: &str, admin: bool) {
        self.with(|keycloak| {
            let here = keycloak.existing(realm);
            here.users.retain(|user| user.name != username);
            here.users.push(User {
                id: new_id(),
                name: username.to_owned(),
                password: Some(password.to_owned()),
                service_account_of: None,
                admin,
                roles: BTreeSet::new(),
            });
        });
    }

    /// Makes a confidential client whose service account has these roles of `realm-management`
    /// (`manage-clients`, `view-clients`, `create-client`, ...).
    pub fn service_account(&self, realm: &str, client_id: &str, secret: &str, roles: &[&str]) {
        let rep = json!({"clientId": client_id, "secret": secret, "serviceAccountsEnabled": true});
        self.put_client(realm, &rep);
        self.with(|keycloak| {
            let here = keycloak.existing(realm);
            let id = here.client(client_id).map(|client| client.id.clone());
            let user = here.users.iter_mut().find(|user| user.service_account_of == id);
            let user = user.expect("a client with a service account has one");
            user.roles = roles.iter().map(|role| (*role).to_owned()).collect();
        });
    }

    /// Makes a client of this representation, as an administrator would.
    pub fn put_client(&self, realm: &str, representation: &Value) {
        let rep = representation.as_object().cloned().expect("a representation is an object");
        representation::CLIENT.check(&rep).expect("a representation that Keycloak takes");
        self.with(|keycloak| {
            let now = keycloak.now();
            let here = keycloak.existing(realm);
            let client_id = rep.get("clientId").and_then(Value::as_str).unwrap_or_default();
            assert!(here.client(client_id).is_none(), "client {client_id} is there already");
            here.insert_client(rep, now);
        });
    }

    /// A client's representation, with its secret.
    pub fn client(&self, realm: &str, client_id: &str) -> Option<Value> {
        self.with(|keycloak| {
            let here = keycloak.existing(realm);
            here.client(client_id).map(|client| here.show(client))
        })
    }

    /// The ids of all clients that a test or a caller made.
    pub fn clients(&self, realm: &str) -> Vec<String> {
        let builtin = ["account", "admin-cli", "realm-management"];
        self.with(|keycloak| {
            let all = keycloak.existing(realm).clients.iter().map(|client| client.client_id().to_owned());
            all.filter(|client_id| !builtin.contains(&client_id.as_str())).collect()
        })
    }

    /// Changes a client behind everybody's back.
    pub fn change_client(&self, realm: &str, client_id: &str, changes: &Value) {
        let changes = changes.as_object().cloned().expect("changes are an object");
        self.with(|keycloak| {
            let now = keycloak.now();
            let here = keycloak.existing(realm);
            let id = here.client(client_id).map(|client| client.id.clone()).expect("a client to change");
            here.update_client(&id, &changes, now).expect("changes that Keycloak takes");
        });
    }

    /// Deletes a client behind everybody's back.
    pub fn delete_client(&self, realm: &str, client_id: &str) {
        self.with(|keycloak| {
            let here = keycloak.existing(realm);
            let id = here.client(client_id).map(|client| client.id.clone()).expect("a client to delete");
            here.remove_client(&id);
        });
    }

    /// Gives a client a new secret behind everybody's back.
    pub fn rotate_secret(&self, realm: &str, client_id: &str) -> String {
        self.with(|keycloak| {
            let now = keycloak.now();
            let client = keycloak.existing(realm).client_mut(client_id);
            client.expect("a client to give a secret").renew_secret(now)
        })
    }

    /// A scope's representation, with its mappers.
    pub fn scope(&self, realm: &str, name: &str) -> Option<Value> {
        self.with(|keycloak| keycloak.existing(realm).scope_by_name(name).map(|scope| json!(scope.rep)))
    }

    /// The names of the scopes that new clients of a realm get.
    pub fn default_scopes(&self, realm: &str) -> Vec<String> {
        self.with(|keycloak| {
            let here = keycloak.existing(realm);
            here.default_scopes.iter().filter_map(|id| here.scope(id)).map(|s| s.name().to_owned()).collect()
        })
    }

    /// A token that makes this many clients within this many seconds (0: for ever).
    pub fn initial_access_token(&self, realm: &str, count: u32, ttl_seconds: u32) -> String {
        self.with(|keycloak| {
            registration::initial_access_token(keycloak, realm, i64::from(count), i64::from(ttl_seconds)).1
        })
    }

    /// Trusts a SPIFFE trust domain (`example.org`) with these keys; a provider of the same alias is replaced.
    pub fn identity_provider_spiffe(&self, realm: &str, alias: &str, trust_domain: &str, jwks: &Value) {
        let provider = json!({
            "alias": alias,
            "providerId": "spiffe",
            "enabled": true,
            "config": {"trustDomain": format!("spiffe://{trust_domain}"), "bundle": jwks.to_string()},
        });
        self.with(|keycloak| {
            let here = keycloak.existing(realm);
            here.identity_providers.retain(|one| one["alias"] != alias);
            here.identity_providers.push(provider);
        });
    }

    /// An access token of a user, issued to a client, as a login in a browser would give it.
    pub fn user_token(&self, realm: &str, client_id: &str, username: &str) -> String {
        self.with(|keycloak| {
            let user = keycloak.existing(realm).user(username).map(|user| user.id.clone());
            let user = &user.expect("a user to issue a token for");
            let grant = tokens::Grant { realm, client: client_id, user, scope: "", audiences: &[] };
            keycloak.issue(&grant).expect("a token of a user").token
        })
    }

    /// The claims of a token that this realm issued and that still works.
    pub fn verified(&self, realm: &str, token: &str) -> Option<Value> {
        self.with(|keycloak| keycloak.access_token(keycloak.realms.get(realm)?, token))
    }

    /// How long access tokens of a realm last, in seconds (300, in `master` 60).
    pub fn set_token_lifespan(&self, realm: &str, seconds: i64) {
        self.with(|keycloak| keycloak.existing(realm).token_lifespan = seconds);
    }

    /// No access token and no refresh token that a realm issued so far is good any more.
    pub fn revoke_tokens(&self, realm: &str) {
        self.with(|keycloak| keycloak.existing(realm).live_tokens.clear());
    }

    /// Somebody else makes the next client that the admin API is asked to make: the caller gets 409.
    pub fn race_next_create(&self) {
        self.with(|keycloak| keycloak.race_next_create = true);
    }

    /// Answers 503 as a proxy in front of a Keycloak that is down; false: no longer.
    pub fn outage(&self, outage: bool) {
        *self.state.failing.lock().unwrap_or_else(PoisonError::into_inner) =
            outage.then_some(Outage::Status(503));
    }

    /// Answers 503 to requests of this method and to no other; none: no longer.
    pub fn refuse_method(&self, method: Option<&str>) {
        *self.state.refused.lock().unwrap_or_else(PoisonError::into_inner) = method.map(str::to_owned);
    }

    /// Starts failing. Once this returns, the next request fails.
    pub async fn fail(&self, outage: Outage) {
        if outage == Outage::Refused {
            self.server.down().await;
        }
        *self.state.failing.lock().unwrap_or_else(PoisonError::into_inner) = Some(outage);
    }

    /// Ends a failure of any sort.
    pub async fn up(&self) {
        self.outage(false);
        self.server.up().await;
    }

    fn with<T>(&self, look: impl FnOnce(&mut Keycloak) -> T) -> T {
        look(&mut self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Keycloak> {
        self.state.keycloak.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn answer(&self, request: &Recorded) -> Reply {
        let failing = *self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let refused = refused.filter(|method| *method == request.method).map(|_| Outage::Status(503));
        match failing.or(refused) {
            Some(Outage::Hang | Outage::Refused) => Reply::hang(),
            Some(Outage::Status(status)) => {
                Reply::body(status, "text/html", "<html><body>no server is available</body></html>")
            }
            None => {
                let mut keycloak = self.keycloak.lock().unwrap_or_else(PoisonError::into_inner);
                routes::answer(&mut keycloak, request)
            }
        }
    }
}

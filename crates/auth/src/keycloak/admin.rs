//! Registration through the admin REST API.

use std::collections::HashMap;
use std::sync::Mutex;

use http::Method;
use serde_json::{Map, Value};
use skep_api::secret::Secret;
use skep_runtime::clock::SharedClock;
use url::Url;

use super::calls::{Calls, Step, judge, list, object, text};
use super::client::Whose;
use super::error::said;
use super::tokens::Tokens;
use super::{ClientSpec, KeycloakError, Login, Registered};
use crate::client::Reply;

/// What helps where a login lacks the right to manage clients.
const MANAGE: &str = "give it the role manage-clients of realm-management (an administrator: of the realm's \
                      client in master)";
const FIND: Step = Step { what: "look for a client", remedy: MANAGE };
const CREATE: Step = Step { what: "make a client", remedy: MANAGE };
const UPDATE: Step = Step { what: "change a client", remedy: MANAGE };
const READ_SECRET: Step = Step { what: "read a client's secret", remedy: MANAGE };
const MAKE_SECRET: Step = Step { what: "make a client's secret", remedy: MANAGE };
const DELETE: Step = Step { what: "delete a client", remedy: MANAGE };

#[derive(Debug)]
pub(super) struct Admin {
    pub(super) calls: Calls,
    tokens: Tokens,
    /// Ids of client scopes by name: a scope can't be asked for by name, and the list is long.
    pub(super) scopes: Mutex<HashMap<String, String>>,
}

/// A client as Keycloak knows it.
#[derive(Debug)]
pub(super) struct Found {
    /// Keycloak's own id of it.
    pub(super) id: String,
    /// All of it.
    pub(super) fields: Map<String, Value>,
}

impl Admin {
    pub(super) fn new(
        calls: Calls,
        login: Login,
        admin_realm: String,
        clock: SharedClock,
    ) -> Result<Self, KeycloakError> {
        let realm = match &login {
            Login::Password { .. } => admin_realm,
            Login::Client { .. } | Login::InitialAccess(_) => calls.realm().to_owned(),
        };
        let tokens = Tokens::new(login, realm, clock)?;
        Ok(Self { calls, tokens, scopes: Mutex::new(HashMap::new()) })
    }

    /// See [`super::Keycloak::ensure_client`].
    pub(super) async fn ensure(&self, spec: &ClientSpec) -> Result<Registered, KeycloakError> {
        let mut warnings = Vec::new();
        // Who makes it first has made it: two replicas have one identity.
        let (found, created) = match self.find(&spec.client_id).await? {
            Some(found) => (found, false),
            None => {
                let created = self.create(spec).await?;
                let found = self.find(&spec.client_id).await?;
                (found.ok_or_else(|| self.hidden(&spec.client_id))?, created)
            }
        };
        // One that is made this moment bears our mark, whoever was quicker.
        let whose = Whose::of(&found.fields);
        if whose == Whose::Theirs && !spec.adopt {
            return Err(KeycloakError::NotOurs { client_id: spec.client_id.clone() });
        }
        let mut changed = false;
        if let Some((whole, wrong)) = spec.corrected(&found.fields, whose) {
            tracing::info!(client.id = %spec.client_id, fields = ?wrong, "putting a client in Keycloak right");
            self.update(&found, &whole).await?;
            changed = !created;
        }
        if whose == Whose::Theirs {
            let stays = spec.tolerated(&found.fields);
            if !stays.is_empty() {
                warnings.push(format!(
                    "client {:?} was not made by skep, so what it may besides stays as it is: {}; change that in \
                     Keycloak if nobody needs it",
                    spec.client_id,
                    stays.join(", ")
                ));
            }
        }
        // Who switched it off had a reason.
        if found.fields.get("enabled") == Some(&Value::Bool(false)) {
            warnings.push(format!(
                "client {:?} is disabled in Keycloak, so it gets no tokens; enable it there",
                spec.client_id
            ));
        }
        let secret = if spec.has_secret() { self.secret(&found).await? } else { Secret::new("") };
        // A client without its audience is better than none.
        if let Some(scope) = &spec.audience_scope {
            match self.ensure_scope(scope, &spec.client_id).await {
                Ok(done) => {
                    changed |= done.changed && !created;
                    warnings.extend(done.warnings);
                }
                Err(error) => warnings.push(format!(
                    "the audience scope {:?} is not in order: {}",
                    scope.name,
                    skep_runtime::logging::chain(&error)
                )),
            }
        }
        Ok(Registered { client_id: spec.client_id.clone(), secret, created, changed, warnings })
    }

    /// See [`super::Keycloak::delete_client`].
    pub(super) async fn delete(&self, client_id: &str) -> Result<bool, KeycloakError> {
        let Some(found) = self.find(client_id).await? else { return Ok(false) };
        let url = self.calls.admin(&["clients", &found.id]);
        match self.call(Method::DELETE, &url, None, client_id, DELETE).await {
            Ok(_) => Ok(true),
            // Somebody else was quicker.
            Err(KeycloakError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A client by its `clientId`.
    pub(super) async fn find(&self, client_id: &str) -> Result<Option<Found>, KeycloakError> {
        let mut url = self.calls.admin(&["clients"]);
        url.query_pairs_mut().append_pair("clientId", client_id);
        let reply = self.call(Method::GET, &url, None, client_id, FIND).await?;
        let exact = |fields: &Map<String, Value>| text(fields, "clientId") == Some(client_id);
        let Some(fields) = list(&reply, FIND)?.into_iter().find(exact) else { return Ok(None) };
        let id = text(&fields, "id")
            .ok_or(KeycloakError::Answer { step: FIND.what, reason: "the client has no id" })?
            .to_owned();
        Ok(Some(Found { id, fields }))
    }

    /// False: somebody else was quicker.
    async fn create(&self, spec: &ClientSpec) -> Result<bool, KeycloakError> {
        let url = self.calls.admin(&["clients"]);
        let body = spec.representation();
        match self.call(Method::POST, &url, Some(&body), &spec.client_id, CREATE).await {
            Ok(_) => Ok(true),
            Err(KeycloakError::Rejected { status: 409, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn update(&self, found: &Found, whole: &Value) -> Result<(), KeycloakError> {
        let url = self.calls.admin(&["clients", &found.id]);
        self.call(Method::PUT, &url, Some(whole), &found.id, UPDATE).await.map(drop)
    }

    async fn secret(&self, found: &Found) -> Result<Secret, KeycloakError> {
        let url = self.calls.admin(&["clients", &found.id, "client-secret"]);
        let reply = self.call(Method::GET, &url, None, &found.id, READ_SECRET).await?;
        if let Some(secret) = text(&object(&reply, READ_SECRET)?, "value") {
            return Ok(Secret::new(secret));
        }
        // A client that proved itself in another way before has none.
        let reply = self.call(Method::POST, &url, None, &found.id, MAKE_SECRET).await?;
        text(&object(&reply, MAKE_SECRET)?, "value")
            .map(Secret::new)
            .ok_or(KeycloakError::Answer { step: MAKE_SECRET.what, reason: "it has no value" })
    }

    /// One call as the login. A token that Keycloak has forgotten (it was restarted, the session was ended) is
    /// replaced once.
    pub(super) async fn call(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        what: &str,
        step: Step,
    ) -> Result<Reply, KeycloakError> {
        let token = self.tokens.bearer(&self.calls).await?;
        let mut reply = self.calls.send(method.clone(), url, &token, body, step).await?;
        if reply.status == 401 {
            self.tokens.forget(&token).await;
            let token = self.tokens.bearer(&self.calls).await?;
            reply = self.calls.send(method, url, &token, body, step).await?;
        }
        if reply.status == 401 {
            // An administrator's token is of another realm than the one that is administered.
            let (who, realm) = (self.tokens.who(), self.tokens.realm().to_owned());
            return Err(KeycloakError::Token { who, realm, said: said(&reply) });
        }
        judge(reply, &self.tokens.who(), self.calls.realm(), what, step)
    }

    fn hidden(&self, client_id: &str) -> KeycloakError {
        KeycloakError::Hidden { what: format!("client {client_id:?}"), who: self.tokens.who() }
    }
}

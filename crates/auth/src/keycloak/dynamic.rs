//! Registration with an initial access token, in the manner of RFC 7591 and RFC 7592, with Keycloak's own
//! representation of clients.
//!
//! Whoever registers a client gets a registration access token, with which that one client is read, changed and
//! deleted. A change makes a new one and ends the old one.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError};

use http::Method;
use serde_json::{Map, Value};
use skep_api::secret::Secret;
use tokio::sync::Mutex;
use url::Url;

use super::calls::{Calls, Step, judge, object, text};
use super::client::Whose;
use super::error::said;
use super::{ClientSpec, KeycloakError, Registered};
use crate::client::Reply;

const POLICY: &str = "see the realm's client registration policies for authenticated access";
const CREATE: Step = Step { what: "register a client", remedy: POLICY };
const READ: Step = Step { what: "read its client", remedy: POLICY };
const UPDATE: Step = Step { what: "change its client", remedy: POLICY };
const DELETE: Step = Step { what: "delete its client", remedy: POLICY };

/// Keeps registration access tokens where they outlive the process, and nobody else reads them.
pub trait RegistrationTokens: fmt::Debug + Send + Sync {
    /// The token of a client, if there is one.
    ///
    /// # Errors
    /// When it can't be read.
    fn load(&self, client_id: &str) -> std::io::Result<Option<Secret>>;

    /// Keeps the token of a client in place of the one before.
    ///
    /// # Errors
    /// When it can't be written. The one before is then kept.
    fn save(&self, client_id: &str, token: &Secret) -> std::io::Result<()>;

    /// Forgets the token of a client, if there is one.
    ///
    /// # Errors
    /// When it can't be removed.
    fn remove(&self, client_id: &str) -> std::io::Result<()>;
}

pub(super) struct Dynamic {
    calls: Calls,
    initial: Secret,
    store: Option<Arc<dyn RegistrationTokens>>,
    /// Tokens by client. Locked as long as one is used: of two uses at once, one would have the old token.
    held: Mutex<HashMap<String, Secret>>,
    /// What the store last could not do.
    trouble: std::sync::Mutex<Option<String>>,
}

impl Dynamic {
    pub(super) fn new(
        calls: Calls,
        initial: Secret,
        store: Option<Arc<dyn RegistrationTokens>>,
    ) -> Result<Self, KeycloakError> {
        if initial.is_empty() {
            return Err(KeycloakError::Credentials { what: "the initial access token" });
        }
        Ok(Self {
            calls,
            initial,
            store,
            held: Mutex::new(HashMap::new()),
            trouble: std::sync::Mutex::new(None),
        })
    }

    /// See [`super::Keycloak::ensure_client`].
    pub(super) async fn ensure(&self, spec: &ClientSpec) -> Result<Registered, KeycloakError> {
        let mut held = self.held.lock().await;
        let refused = match self.load(&mut held, &spec.client_id) {
            None => None,
            Some(token) => match self.read(&spec.client_id, &token).await? {
                Read::Found(fields) => return self.keep(&mut held, spec, fields, token).await,
                Read::Refused(said) => Some(said),
            },
        };
        // A client that is gone and a token that is not accepted any more look the same. If the client is gone,
        // it can be made again; else the id is taken.
        match self.create(spec).await {
            Ok(fields) => {
                self.save(&mut held, &spec.client_id, &fields);
                self.registered(spec, &fields, true, false)
            }
            Err(KeycloakError::Taken { client_id }) => Err(match refused {
                Some(said) => KeycloakError::RegistrationToken { client_id, said },
                None => KeycloakError::Taken { client_id },
            }),
            Err(error) => Err(error),
        }
    }

    /// See [`super::Keycloak::delete_client`].
    pub(super) async fn delete(&self, client_id: &str) -> Result<bool, KeycloakError> {
        let mut held = self.held.lock().await;
        let Some(token) = self.load(&mut held, client_id) else { return Ok(false) };
        let reply = self.calls.send(Method::DELETE, &self.of(client_id), &token, None, DELETE).await?;
        match self.judge(reply, client_id, DELETE) {
            Ok(_) => {}
            Err(KeycloakError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        held.remove(client_id);
        let removed = self.store.as_ref().map(|store| store.remove(client_id));
        self.note(removed.and_then(Result::err));
        Ok(true)
    }

    /// A client that is there: put right if need be.
    async fn keep(
        &self,
        held: &mut HashMap<String, Secret>,
        spec: &ClientSpec,
        found: Map<String, Value>,
        mut token: Secret,
    ) -> Result<Registered, KeycloakError> {
        // Reading renews the token too, though the old one goes on working.
        if let Some(renewed) = self.save(held, &spec.client_id, &found) {
            token = renewed;
        }
        // Its token is ours, so we made it.
        let Some((whole, wrong)) = spec.corrected(&found, Whose::Ours) else {
            return self.registered(spec, &found, false, false);
        };
        tracing::info!(client.id = %spec.client_id, fields = ?wrong, "putting a client in Keycloak right");
        let url = self.of(&spec.client_id);
        let reply = self.calls.send(Method::PUT, &url, &token, Some(&whole), UPDATE).await?;
        let fields = object(&self.judge(reply, &spec.client_id, UPDATE)?, UPDATE)?;
        self.save(held, &spec.client_id, &fields);
        self.registered(spec, &fields, false, true)
    }

    async fn read(&self, client_id: &str, token: &Secret) -> Result<Read, KeycloakError> {
        let reply = self.calls.send(Method::GET, &self.of(client_id), token, None, READ).await?;
        match self.judge(reply, client_id, READ) {
            Ok(reply) => Ok(Read::Found(object(&reply, READ)?)),
            Err(KeycloakError::RegistrationToken { said, .. }) => Ok(Read::Refused(said)),
            Err(KeycloakError::NotFound { .. }) => Ok(Read::Refused(String::new())),
            Err(error) => Err(error),
        }
    }

    async fn create(&self, spec: &ClientSpec) -> Result<Map<String, Value>, KeycloakError> {
        let url = self.calls.url(&["realms", self.calls.realm(), "clients-registrations", "default"]);
        let body = spec.representation();
        let reply = self.calls.send(Method::POST, &url, &self.initial, Some(&body), CREATE).await?;
        let taken = reply.status == 409
            || (reply.status == 400 && said(&reply).to_ascii_lowercase().contains("identifier in use"));
        if taken {
            return Err(KeycloakError::Taken { client_id: spec.client_id.clone() });
        }
        if reply.status == 401 {
            return Err(KeycloakError::InitialAccess { said: said(&reply) });
        }
        object(&self.judge(reply, &spec.client_id, CREATE)?, CREATE)
    }

    fn registered(
        &self,
        spec: &ClientSpec,
        fields: &Map<String, Value>,
        created: bool,
        changed: bool,
    ) -> Result<Registered, KeycloakError> {
        let secret = match text(fields, "secret") {
            _ if !spec.has_secret() => Secret::new(""),
            Some(secret) => Secret::new(secret),
            None => return Err(KeycloakError::Answer { step: READ.what, reason: "it has no secret" }),
        };
        let mut warnings = Vec::new();
        if fields.get("enabled") == Some(&Value::Bool(false)) {
            warnings.push(format!(
                "client {:?} is disabled in Keycloak, so it gets no tokens; enable it there",
                spec.client_id
            ));
        }
        if let Some(scope) = &spec.audience_scope {
            warnings.push(format!(
                "the audience scope {:?} is not made: an initial access token may only register clients; use a \
                 service account, or switch the scope off (KEYCLOAK_AUDIENCE_SCOPE_ENABLED=false)",
                scope.name
            ));
        }
        warnings.extend(self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone());
        Ok(Registered { client_id: spec.client_id.clone(), secret, created, changed, warnings })
    }

    fn load(&self, held: &mut HashMap<String, Secret>, client_id: &str) -> Option<Secret> {
        if let Some(token) = held.get(client_id) {
            return Some(token.clone());
        }
        let loaded = self.store.as_ref()?.load(client_id);
        let token = match loaded {
            Ok(token) => token?,
            Err(error) => {
                self.note(Some(error));
                return None;
            }
        };
        held.insert(client_id.to_owned(), token.clone());
        Some(token)
    }

    /// Keeps the registration access token of an answer, and returns it.
    fn save(
        &self,
        held: &mut HashMap<String, Secret>,
        client_id: &str,
        answer: &Map<String, Value>,
    ) -> Option<Secret> {
        let token = Secret::new(text(answer, "registrationAccessToken")?);
        let saved = self.store.as_ref().map(|store| store.save(client_id, &token));
        self.note(saved.and_then(Result::err));
        held.insert(client_id.to_owned(), token.clone());
        Some(token)
    }

    fn note(&self, error: Option<std::io::Error>) {
        let text = error.map(|error| {
            format!(
                "the registration access token can't be kept in its folder ({error}); a restarted container could \
                 not manage its client"
            )
        });
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn of(&self, client_id: &str) -> Url {
        self.calls.url(&["realms", self.calls.realm(), "clients-registrations", "default", client_id])
    }

    fn judge(&self, reply: Reply, client_id: &str, step: Step) -> Result<Reply, KeycloakError> {
        if reply.status == 401 {
            return Err(KeycloakError::RegistrationToken {
                client_id: client_id.to_owned(),
                said: said(&reply),
            });
        }
        let what = format!("client {client_id:?}");
        judge(reply, "the token that registers clients", self.calls.realm(), &what, step)
    }
}

impl fmt::Debug for Dynamic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Dynamic").field("calls", &self.calls).finish_non_exhaustive()
    }
}

/// What reading a client gave.
enum Read {
    Found(Map<String, Value>),
    Refused(String),
}

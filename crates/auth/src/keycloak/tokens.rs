//! The access token of an administrator or a service account, kept while it is good.

use std::time::{Duration, Instant};

use serde_json::Value;
use skep_api::secret::Secret;
use skep_runtime::clock::SharedClock;
use tokio::sync::Mutex;

use super::calls::{Calls, Step, no_realm, object, text};
use super::error::said;
use super::{KeycloakError, Login};

const STEP: Step = Step { what: "log in", remedy: "enable it, and its realm" };

/// A token is not used in its last seconds: it has to arrive.
const MARGIN: Duration = Duration::from_secs(10);

/// The public client that administrators' tools log in with.
const ADMIN_CLIENT: &str = "admin-cli";

#[derive(Debug)]
pub(super) struct Tokens {
    login: Login,
    /// Where the login is known.
    realm: String,
    clock: SharedClock,
    held: Mutex<Option<Held>>,
}

#[derive(Debug)]
struct Held {
    access: Secret,
    until: Instant,
    refresh: Option<Secret>,
}

impl Tokens {
    pub(super) fn new(login: Login, realm: String, clock: SharedClock) -> Result<Self, KeycloakError> {
        let (what, filled) = match &login {
            Login::Password { username, password } => {
                ("user name or password", !username.is_empty() && !password.is_empty())
            }
            Login::Client { id, secret } => {
                ("client id or client secret", !id.is_empty() && !secret.is_empty())
            }
            Login::InitialAccess(token) => ("the initial access token", !token.is_empty()),
        };
        if !filled {
            return Err(KeycloakError::Credentials { what });
        }
        Ok(Self { login, realm, clock, held: Mutex::new(None) })
    }

    /// Who logs in, for messages.
    pub(super) fn who(&self) -> String {
        self.login.who()
    }

    /// The realm that the login is known in.
    pub(super) fn realm(&self) -> &str {
        &self.realm
    }

    /// A token that is good; several that ask at once get the same one.
    pub(super) async fn bearer(&self, calls: &Calls) -> Result<Secret, KeycloakError> {
        let mut held = self.held.lock().await;
        let now = self.clock.instant();
        if let Some(held) = held.as_ref().filter(|held| now < held.until) {
            return Ok(held.access.clone());
        }
        // A refreshed token goes on with the session that is there: a login every minute would leave thousands.
        let refresh = held.take().and_then(|held| held.refresh);
        let renewed = match refresh {
            Some(refresh) => self.ask(calls, &self.refreshing(&refresh), now).await.ok(),
            None => None,
        };
        let renewed = match renewed {
            Some(renewed) => renewed,
            None => self.ask(calls, &self.first(), now).await?,
        };
        let access = renewed.access.clone();
        *held = Some(renewed);
        Ok(access)
    }

    /// Forgets a token that was refused, and the session behind it.
    pub(super) async fn forget(&self, refused: &Secret) {
        let mut held = self.held.lock().await;
        if held.as_ref().is_some_and(|held| held.access.expose() == refused.expose()) {
            *held = None;
        }
    }

    fn first(&self) -> Vec<(&str, &str)> {
        match &self.login {
            Login::Password { username, password } => vec![
                ("grant_type", "password"),
                ("client_id", ADMIN_CLIENT),
                ("username", username),
                ("password", password.expose()),
            ],
            Login::Client { id, secret } => vec![
                ("grant_type", "client_credentials"),
                ("client_id", id),
                ("client_secret", secret.expose()),
            ],
            Login::InitialAccess(_) => Vec::new(),
        }
    }

    fn refreshing<'a>(&'a self, refresh: &'a Secret) -> Vec<(&'a str, &'a str)> {
        let mut fields = vec![("grant_type", "refresh_token"), ("refresh_token", refresh.expose())];
        match &self.login {
            Login::Client { id, secret } => {
                fields.extend([("client_id", id.as_str()), ("client_secret", secret.expose())]);
            }
            Login::Password { .. } | Login::InitialAccess(_) => fields.push(("client_id", ADMIN_CLIENT)),
        }
        fields
    }

    async fn ask(&self, calls: &Calls, fields: &[(&str, &str)], now: Instant) -> Result<Held, KeycloakError> {
        let url = calls.url(&["realms", &self.realm, "protocol", "openid-connect", "token"]);
        let reply = calls.form(&url, fields, STEP).await?;
        match reply.status {
            200 => {}
            400 | 401 | 403 => {
                return Err(KeycloakError::Login {
                    who: self.who(),
                    realm: self.realm.clone(),
                    said: said(&reply),
                });
            }
            404 if no_realm(&reply) => {
                return Err(KeycloakError::RealmMissing { realm: self.realm.clone() });
            }
            404 => {
                return Err(KeycloakError::NotFound {
                    what: format!("token endpoint at {url}; is that Keycloak's URL, or does it need /auth?"),
                });
            }
            status @ (408 | 429 | 500..=599) => {
                return Err(KeycloakError::Unavailable { step: STEP.what, status });
            }
            status => {
                return Err(KeycloakError::Rejected { step: STEP.what, status, said: said(&reply) });
            }
        }
        let fields = object(&reply, STEP)?;
        let access = text(&fields, "access_token")
            .ok_or(KeycloakError::Answer { step: STEP.what, reason: "it has no access_token" })?;
        let lifetime = Duration::from_secs(fields.get("expires_in").and_then(Value::as_u64).unwrap_or(60));
        let usable = lifetime.saturating_sub(MARGIN).max(lifetime / 2);
        Ok(Held {
            access: Secret::new(access),
            until: now.checked_add(usable).unwrap_or(now),
            refresh: text(&fields, "refresh_token").map(Secret::new),
        })
    }
}

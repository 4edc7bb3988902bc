//! Clients of MCP servers at Keycloak, for servers whose sidecars leave their registration to the operator.
//!
//! Reconciles only say what is wanted, and show what came of it: [`Registrar`] talks to Keycloak beside them, so
//! that none of them waits for it.

mod connection;
mod registrar;
mod secret;

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use skep_api::crd::{Kind, Object};
use skep_runtime::rng::SharedRng;

pub use self::registrar::Registrar;
use super::deletion::{finalizers, patch, remove_finalizer};
use super::{Context, ReconcileError};
use crate::cluster::Resource;
use crate::events::Severity;
use crate::observe::ClientRegistration;
use crate::plan::{self, Planned, World};
use crate::queue::{Key, Queue};
use crate::settings::RegistrationSettings;
use crate::sidecars::Registration;
use crate::sidecars::names::client_secret;

/// Keeps a server until its client at Keycloak is removed.
pub const FINALIZER: &str = "skep.dev/keycloak-client";

/// Locks by which no two workers are at one client; more than there are workers.
const LOCKS: usize = 16;

/// What is registered and what came of it.
pub struct Registrations {
    settings: Option<RegistrationSettings>,
    queue: Queue,
    known: Mutex<HashMap<Key, Known>>,
    /// Ids of clients that were not there before: they may go with the last server that uses them.
    made: Mutex<HashSet<String>>,
    locks: [tokio::sync::Mutex<()>; LOCKS],
}

/// What is known of one server's client.
#[derive(Debug, Default)]
struct Known {
    /// None: it is to be removed.
    wanted: Option<Wanted>,
    /// None: not tried yet.
    standing: Option<ClientRegistration>,
    /// Version of the server's Secret when it was last as it should be.
    secret: Option<String>,
    /// Tries that failed since the last that did not.
    failures: u32,
}

/// For whom a client is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    uid: String,
    service_account: String,
}

impl Registrations {
    /// Nothing is registered yet. Without settings nothing ever is.
    pub fn new(settings: Option<RegistrationSettings>, rng: SharedRng) -> Self {
        Self {
            settings,
            queue: Queue::new(rng, |_, _| {}),
            known: Mutex::default(),
            made: Mutex::default(),
            locks: Default::default(),
        }
    }

    /// How clients are registered; none when they are not.
    pub fn settings(&self) -> Option<&RegistrationSettings> {
        self.settings.as_ref()
    }

    /// Has a client registered unless it is already, and says where that stands. `secret` is the version of the
    /// server's Secret: another one than we left is looked at.
    fn want(&self, key: &Key, wanted: Wanted, secret: Option<String>) -> ClientRegistration {
        let (standing, look) = self.with(key, |known| {
            let same = known.wanted.as_ref() == Some(&wanted);
            if !same {
                known.wanted = Some(wanted);
                known.standing = None;
            }
            let done = matches!(known.standing, Some(ClientRegistration::Done { .. }));
            let look = !same || (done && known.secret != secret);
            (known.standing.clone().unwrap_or(ClientRegistration::Pending), look)
        });
        if look {
            self.queue.add(key.clone());
        }
        standing
    }

    /// Has a client removed that is no longer wanted.
    fn release(&self, key: &Key) {
        self.with(key, |known| known.wanted = None);
        self.queue.add(key.clone());
    }

    fn forget(&self, key: &Key) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// True for a client that was not there before. `made`: this is known of it otherwise.
    fn is_made(&self, client_id: &str, made: bool) -> bool {
        let mut known = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made {
            known.insert(client_id.to_owned());
        }
        made || known.contains(client_id)
    }

    /// Forgets a client that is gone.
    fn unmade(&self, client_id: &str) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).remove(client_id);
    }

    fn wanted(&self, key: &Key) -> Option<Wanted> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).and_then(|known| known.wanted.clone())
    }

    fn with<T>(&self, key: &Key, act: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        act(known.entry(key.clone()).or_default())
    }

    /// Waits until nobody else is at this client.
    async fn lock(&self, client_id: &str) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        client_id.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or_default();
        match self.locks.get(index) {
            Some(lock) => Some(lock.lock().await),
            None => None,
        }
    }
}

/// Says what is wanted of a server's client, and gives where that stands (none when the operator has no part in
/// it) and the object, which gets a finalizer before its client is registered.
///
/// # Errors
/// When the finalizer can't be written.
pub(super) async fn note(
    context: &Context,
    key: &Key,
    value: Value,
    object: &Object,
    world: &World,
    planned: &Planned,
) -> Result<(Value, Option<ClientRegistration>), ReconcileError> {
    let registrations = &context.registrations;
    let ours = has_finalizer(&value);
    let wanted =
        plan::injected(object, world).is_some_and(|found| found.registration == Registration::Operator);
    if key.kind != Kind::MCPServer || !wanted {
        if ours {
            finish(context, key, &value).await?;
        }
        return Ok((value, None));
    }
    if registrations.settings.is_none() {
        return Ok((value, Some(ClientRegistration::NotConfigured)));
    }
    // What can't be planned gets no client. One that it has stays, as all that it has.
    let account = plan::service_account(object).filter(|_| planned.plan.is_some());
    let (Some(service_account), Some(uid)) = (account, object.metadata.uid.clone()) else {
        return Ok((value, Some(ClientRegistration::Pending)));
    };
    let value = if ours {
        value
    } else {
        let mut list = finalizers(&value);
        list.push(FINALIZER.to_owned());
        patch(context, key, &value, &json!({"finalizers": list})).await?
    };
    let secret = version(context, &key.namespace, &client_secret(&key.name));
    let standing = registrations.want(key, Wanted { uid, service_account }, secret);
    Ok((value, Some(standing)))
}

/// Has the client removed of a server that goes or wants it no longer. The finalizer goes when that is done.
///
/// # Errors
/// When the finalizer can't be removed by an operator that registers no clients.
pub(super) async fn finish(context: &Context, key: &Key, value: &Value) -> Result<(), ReconcileError> {
    if !has_finalizer(value) {
        return Ok(());
    }
    if context.registrations.settings.is_some() {
        context.registrations.release(key);
        return Ok(());
    }
    let note = "The client at Keycloak is left behind: this operator was not told how to reach Keycloak.";
    leave_behind(context, key, value, note).await
}

/// Lets a server go whose client can't be removed, and tells about it.
async fn leave_behind(context: &Context, key: &Key, value: &Value, note: &str) -> Result<(), ReconcileError> {
    remove_finalizer(context, key, value, Some(FINALIZER)).await?;
    tracing::warn!(object = %key, note);
    context.metrics.registration("left_behind");
    context.events.publish(key, value, Severity::Warning, "ClientLeftBehind", "Deregister", note).await;
    Ok(())
}

/// Forgets a server that is gone.
pub(super) fn forget(context: &Context, key: &Key) {
    context.registrations.forget(key);
}

pub(super) fn has_finalizer(value: &Value) -> bool {
    finalizers(value).iter().any(|one| one == FINALIZER)
}

/// The version of a Secret, as far as the watch has told.
fn version(context: &Context, namespace: &str, name: &str) -> Option<String> {
    let found = context.cluster.store(Resource::SecretMetadata).get(namespace, name)?;
    found.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use skep_runtime::rng::SystemRng;

    use super::*;

    fn registrations() -> Registrations {
        let settings =
            RegistrationSettings::new("https://id.example.com", "r", PathBuf::new(), "example.org");
        Registrations::new(Some(settings), Arc::new(SystemRng))
    }

    fn wanted(account: &str) -> Wanted {
        Wanted { uid: "1".to_owned(), service_account: account.to_owned() }
    }

    #[tokio::test]
    async fn a_client_is_looked_at_when_it_is_new_or_its_secret_is_not_as_it_was_left() {
        let (registrations, key) = (registrations(), Key::new(Kind::MCPServer, "ns", "s"));
        let version = |text: &str| Some(text.to_owned());
        let waits = || registrations.queue.depth().0 > 0;
        let work = async || {
            let taken = registrations.queue.take().await;
            registrations.queue.done(&taken);
        };
        let done = ClientRegistration::Done { warnings: Vec::new() };
        assert_eq!(registrations.want(&key, wanted("a"), None), ClientRegistration::Pending);
        work().await;
        assert_eq!(registrations.want(&key, wanted("a"), None), ClientRegistration::Pending);
        assert!(!waits(), "it is worked on");
        registrations.with(&key, |known| {
            known.standing = Some(done.clone());
            known.secret = version("7");
        });
        assert_eq!(registrations.want(&key, wanted("a"), version("7")), done);
        assert!(!waits());
        assert_eq!(registrations.want(&key, wanted("a"), version("8")), done);
        assert!(waits(), "somebody wrote the Secret");
        work().await;
        registrations.want(&key, wanted("a"), None);
        assert!(waits(), "it is gone");
        work().await;
        assert_eq!(registrations.want(&key, wanted("b"), version("7")), ClientRegistration::Pending);
        assert!(waits(), "another client");
    }
}

//! Works off what the reconciles want of Keycloak.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::SignedDuration;
use serde_json::Value;
use skep_api::crd::{Kind, Object};
use skep_api::names::backend_account;
use skep_auth::keycloak::{AudienceScope, ClientSpec, KeycloakErrorKind};
use skep_runtime::rng::SharedRng;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, ConnectionError};
use super::secret::{Secrets, Whose};
use super::{FINALIZER, Wanted, has_finalizer, leave_behind};
use crate::cluster::Resource;
use crate::cluster::feed::chain;
use crate::controllers::deletion::remove_finalizer;
use crate::controllers::{Context, ErrorKind, ReconcileError};
use crate::observe::{ClientRegistration, shown};
use crate::plan::{self, World};
use crate::queue::{Key, Queue};
use crate::settings::RegistrationSettings;
use crate::sidecars::names::client_secret;

/// How long one server may take: several calls, each of which has its own limit.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest pause before a failure is tried again.
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Tries that have to fail in a row, for a reason that passes, before a client counts as not registered that was.
const TRIES: u32 = 3;
/// Longest reason in a status.
const MAX_REASON: usize = 600;

/// Registers and removes clients beside the reconciles.
pub struct Registrar {
    context: Arc<Context>,
    queue: Arc<Queue>,
    rng: SharedRng,
    settings: RegistrationSettings,
    connection: Connection,
}

/// What one look came to.
enum Done {
    /// The client is there; these are warnings.
    Registered(Vec<String>),
    /// The client is gone, and nothing keeps the server.
    Released,
    /// There is nothing to do.
    Nothing,
}

/// Why a client could not be registered or removed.
#[derive(Debug, thiserror::Error)]
enum RegistrationError {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("{doing} failed")]
    Api {
        doing: &'static str,
        #[source]
        source: kube::Error,
    },
    #[error(
        "the Secret `{name}` belongs to somebody else, so it is not touched; delete it or rename the server"
    )]
    Taken { name: String },
    #[error("the Secret `{name}` is still that of a server of the same name that was deleted")]
    Predecessor { name: String },
    #[error(transparent)]
    Object(#[from] ReconcileError),
    #[error("it took too long")]
    Timeout,
    #[error("a fault of the operator; its log says more")]
    Panic,
}

impl RegistrationError {
    fn api(doing: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Api { doing, source }
    }

    fn keycloak(&self) -> Option<KeycloakErrorKind> {
        match self {
            Self::Connection(ConnectionError::Keycloak(error)) => Some(error.kind()),
            _ => None,
        }
    }

    /// For metrics.
    fn outcome(&self) -> &'static str {
        match self {
            Self::Connection(ConnectionError::Keycloak(error)) => error.kind().label(),
            Self::Connection(_) => "credentials",
            Self::Taken { .. } | Self::Predecessor { .. } => "secret_taken",
            Self::Api { .. } | Self::Object(_) => "api_server",
            Self::Timeout => "timeout",
            Self::Panic => "panic",
        }
    }

    /// True when nothing but time is needed.
    fn is_transient(&self) -> bool {
        match self {
            Self::Timeout | Self::Predecessor { .. } => true,
            Self::Api { source, .. } => passes(ErrorKind::of(source)),
            Self::Object(error) => passes(error.kind()),
            _ => self.keycloak().is_some_and(KeycloakErrorKind::is_transient),
        }
    }

    /// For the status: the same words each time.
    fn why(&self) -> String {
        let text = match self {
            Self::Api { doing, source: kube::Error::Api(status) } => {
                format!("{doing} failed: {}", status.message)
            }
            Self::Connection(ConnectionError::Login(error)) => format!("{self}: {error}"),
            other => other.to_string(),
        };
        shown(&text, MAX_REASON)
    }
}

fn passes(kind: ErrorKind) -> bool {
    !matches!(kind, ErrorKind::Forbidden | ErrorKind::Invalid)
}

impl Registrar {
    /// Works for what `context` has registered; servers whose client stands otherwise than before are
    /// reconciled by `queue`. None when this operator registers no clients.
    pub fn new(context: Arc<Context>, queue: Arc<Queue>, rng: SharedRng) -> Option<Self> {
        let settings = context.registrations.settings()?.clone();
        for warning in settings.warnings() {
            tracing::warn!("{warning}");
        }
        let connection = Connection::new(settings.clone(), Arc::clone(&context.clock));
        Some(Self { context, queue, rng, settings, connection })
    }

    /// Takes one server after the other until `stop`. Several may run at once.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let registrations = Arc::clone(&self.context.registrations);
        while let Some(key) = stop.run_until_cancelled(registrations.queue.take()).await {
            // A fault of ours with one server stops no other.
            let result = AssertUnwindSafe(self.one(&key)).catch_unwind().await;
            self.take_note(&key, result.unwrap_or(Err(RegistrationError::Panic)));
            registrations.queue.done(&key);
        }
    }

    fn take_note(&self, key: &Key, result: Result<Done, RegistrationError>) {
        let registrations = &self.context.registrations;
        let news = match result {
            Ok(Done::Registered(warnings)) => {
                registrations.queue.succeeded(key);
                registrations.queue.add_after(key.clone(), self.interval());
                registrations.with(key, |known| {
                    known.failures = 0;
                    let done = Some(ClientRegistration::Done { warnings });
                    std::mem::replace(&mut known.standing, done.clone()) != done
                })
            }
            Ok(Done::Released | Done::Nothing) => {
                registrations.queue.succeeded(key);
                registrations.forget(key);
                false
            }
            Err(error) => {
                let wait = registrations.queue.retry(key.clone()).min(LAST_RETRY);
                registrations.queue.add_after(key.clone(), LAST_RETRY);
                let (outcome, text) = (error.outcome(), chain(&error));
                self.context.metrics.registration(outcome);
                tracing::warn!(object = %key, outcome, error = text, ?wait, "a client could not be registered or removed; it is tried again");
                registrations.with(key, |known| {
                    known.failures = known.failures.saturating_add(1);
                    let stood = matches!(known.standing, Some(ClientRegistration::Done { .. }));
                    if stood && error.is_transient() && known.failures < TRIES {
                        return false;
                    }
                    let failed = Some(ClientRegistration::Failed { why: error.why() });
                    std::mem::replace(&mut known.standing, failed.clone()) != failed
                })
            }
        };
        if news {
            self.queue.add(key.clone());
        }
    }

    /// The time until a client is looked at again, a tenth more or less.
    fn interval(&self) -> Duration {
        let mut byte = [0_u8; 1];
        self.rng.fill(&mut byte);
        self.settings.interval.mul_f64(0.9 + f64::from(byte[0]) / 1275.0)
    }

    /// Registers or removes the client of one server, as it is now.
    async fn one(&self, key: &Key) -> Result<Done, RegistrationError> {
        let Some(value) = self.context.cluster.object(key) else { return Ok(Done::Nothing) };
        let terminating = value.pointer("/metadata/deletionTimestamp").is_some();
        match self.context.registrations.wanted(key) {
            Some(wanted) if !terminating => in_time(self.register(key, &value, &wanted)).await,
            _ if !has_finalizer(&value) => Ok(Done::Nothing),
            _ => match in_time(self.release(key, &value)).await {
                Err(error) if terminating && self.is_overdue(&value) => {
                    let why = error.why();
                    let note = format!("The client at Keycloak is left behind: {why}");
                    leave_behind(&self.context, key, &value, &note).await?;
                    Ok(Done::Released)
                }
                result => result,
            },
        }
    }

    async fn register(&self, key: &Key, value: &Value, wanted: &Wanted) -> Result<Done, RegistrationError> {
        let spec = self.spec(key, &wanted.service_account);
        let alone = self.context.registrations.lock(&spec.client_id).await;
        // A server that is deleted meanwhile has its finalizer, and its client is removed after this.
        let secrets = Secrets::of(self.context.client.clone(), &key.namespace);
        let live = secrets.get(&key.name).await.map_err(RegistrationError::api("reading its Secret"))?;
        let name = || client_secret(&key.name);
        match live.as_ref().map(|live| live.whose(key, uid(value))) {
            Some(Whose::Others) => return Err(RegistrationError::Taken { name: name() }),
            Some(Whose::Predecessors) => return Err(RegistrationError::Predecessor { name: name() }),
            Some(Whose::Ours) | None => {}
        }
        let registered = self.connection.ensure(&spec).await?;
        // Of another client the Secret says nothing.
        let before = live.as_ref().and_then(|live| Some((live.client_id()?, live.created())));
        let same = before.as_ref().is_some_and(|(id, _)| *id == spec.client_id);
        // Servers that share a client each know who made it, for it goes with the last of them.
        let made = registered.created || before.as_ref().is_some_and(|(_, created)| same && *created);
        let created = self.context.registrations.is_made(&spec.client_id, made);
        let put = secrets.put(key, value, live.as_ref(), &registered, created).await;
        let (version, written) = put.map_err(RegistrationError::api("writing its Secret"))?;
        self.context.registrations.with(key, |known| known.secret = version);
        let outcome = match (registered.created, registered.changed || written) {
            (true, _) => "created",
            (false, true) => "changed",
            (false, false) => "unchanged",
        };
        self.context.metrics.registration(outcome);
        if outcome != "unchanged" {
            tracing::info!(object = %key, client_id = spec.client_id, outcome, "a client is registered at Keycloak");
        }
        drop(alone);
        if let Some((id, created)) = before.filter(|_| !same) {
            self.remove(key, &id, created).await?;
        }
        let warnings = self.settings.warnings().into_iter().chain(registered.warnings);
        Ok(Done::Registered(warnings.map(|text| shown(&text, MAX_REASON)).collect()))
    }

    /// Removes the client unless somebody else uses it, then the Secret, then the finalizer.
    async fn release(&self, key: &Key, value: &Value) -> Result<Done, RegistrationError> {
        let secrets = Secrets::of(self.context.client.clone(), &key.namespace);
        let live = secrets.get(&key.name).await.map_err(RegistrationError::api("reading its Secret"))?;
        let live = live.filter(|live| live.whose(key, uid(value)) == Whose::Ours);
        let account = Object::parse(value).ok().and_then(|object| plan::service_account(&object));
        let own = account.map(|account| self.client_id(&key.namespace, &account));
        let given = live.as_ref().and_then(|live| Some((live.client_id()?, live.created())));
        if let Some((id, created)) = &given {
            self.remove(key, id, *created).await?;
        }
        // The Secret may be gone, or be edited.
        if let Some(id) = own.filter(|id| given.is_none_or(|(given, _)| given != *id)) {
            self.remove(key, &id, false).await?;
        }
        if let Some(live) = live {
            secrets.delete(&live).await.map_err(RegistrationError::api("deleting its Secret"))?;
        }
        // As it is now: its status may have been written meanwhile.
        if let Some(value) = self.context.cluster.object(key) {
            remove_finalizer(&self.context, key, &value, Some(FINALIZER)).await?;
        }
        Ok(Done::Released)
    }

    /// Removes a client of this namespace that no server uses any more. One that was there before is removed
    /// only when its account is the server's own: others that run as a shared one may use it.
    async fn remove(&self, key: &Key, client_id: &str, created: bool) -> Result<(), RegistrationError> {
        // The Secret it may come from can be written by others, and other namespaces' clients are not theirs.
        let Some(account) = client_id.strip_prefix(&self.client_id(&key.namespace, "")) else {
            return Ok(());
        };
        let created = self.context.registrations.is_made(client_id, created);
        if !created && account != backend_account(&key.name) {
            return Ok(());
        }
        let _alone = self.context.registrations.lock(client_id).await;
        if self.is_used(&key.namespace, account) {
            return Ok(());
        }
        let removed = self.connection.remove(&self.with_scope(key, account)).await?;
        self.context.registrations.unmade(client_id);
        if removed {
            self.context.metrics.registration("deleted");
            tracing::info!(object = %key, client_id, "a client is removed from Keycloak");
        }
        Ok(())
    }

    /// True when a server of the namespace that stays runs with this account and has sidecars.
    fn is_used(&self, namespace: &str, account: &str) -> bool {
        let cluster = &self.context.cluster;
        let texts = |pointer: &str| {
            let found = cluster.store(Resource::Namespace).get("", namespace)?;
            serde_json::from_value(found.pointer(pointer)?.clone()).ok()
        };
        let world = World {
            settings: cluster.settings.clone(),
            namespace_labels: texts("/metadata/labels").unwrap_or_default(),
            namespace_annotations: texts("/metadata/annotations").unwrap_or_default(),
            ..World::default()
        };
        let servers = cluster.store(Resource::Ours(Kind::MCPServer)).list(namespace);
        servers.iter().filter_map(|value| Object::parse(value).ok()).any(|server| {
            !server.metadata.is_terminating()
                && plan::injected(&server, &world).is_some()
                && plan::service_account(&server).as_deref() == Some(account)
        })
    }

    /// The SPIFFE ID of pods with this account, which is the client's id.
    fn client_id(&self, namespace: &str, account: &str) -> String {
        format!("spiffe://{}/ns/{namespace}/sa/{account}", self.settings.trust_domain)
    }

    /// The client as it is to be. It is called by its server, or by the account when servers share one.
    fn spec(&self, key: &Key, account: &str) -> ClientSpec {
        let mut spec = self.with_scope(key, account);
        spec.audience_scope = spec.audience_scope.filter(|_| self.settings.audience_scope);
        // Whoever names an account that is not his server's own gets no client that somebody else made.
        spec.adopt = account == backend_account(&key.name);
        spec
    }

    /// The client with its scope, which one that goes may have from other times, or from a sidecar.
    fn with_scope(&self, key: &Key, account: &str) -> ClientSpec {
        let name = if account == backend_account(&key.name) { &key.name } else { account };
        let name = format!("{}/{name}", key.namespace);
        let mut spec = ClientSpec::new(self.client_id(&key.namespace, account));
        let mut scope = AudienceScope::of(&name, Vec::new());
        // There are no other clients here that it could be given to.
        scope.realm_default = true;
        spec.audience_scope = Some(scope);
        spec.name = Some(name);
        spec
    }

    /// True for a server that was deleted so long ago that it goes, whatever Keycloak says.
    fn is_overdue(&self, value: &Value) -> bool {
        let text = value.pointer("/metadata/deletionTimestamp").and_then(Value::as_str).unwrap_or_default();
        let Ok(deleted) = text.parse::<jiff::Timestamp>() else { return false };
        let patience = SignedDuration::try_from(self.settings.patience).unwrap_or(SignedDuration::MAX);
        self.context.clock.now().duration_since(deleted) >= patience
    }
}

/// Work on one server, unless it takes too long.
async fn in_time(
    work: impl Future<Output = Result<Done, RegistrationError>>,
) -> Result<Done, RegistrationError> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(RegistrationError::Timeout))
}

fn uid(value: &Value) -> &str {
    value.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default()
}

//! The loop: who are we, as whom do we come, is the client as it should be, are the files.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use skep_auth::keycloak::{Keycloak, KeycloakError, Login, Refusals, Registered};
use skep_auth::spiffe::{Backoff, RetryTimes};
use skep_runtime::clock::SharedClock;
use skep_runtime::drain::{DrainWatch, Phase};
use skep_runtime::health::Readiness;
use skep_runtime::logging::chain;
use skep_runtime::rng::SharedRng;
use skep_runtime::watch::SteadyWatch;
use tokio::net::TcpListener;

use super::error::RoundError;
use super::health::{self, Startup};
use super::state::StateFolder;
use super::{IdentitySource, Settings, identity};

/// The part of readiness that is ours.
const PART: &str = "registration";

/// How long a round that runs may go on when the end comes: a token that was renewed has to be kept.
const LAST_ROUND: Duration = Duration::from_secs(3);
/// Former identities that are remembered.
const MOST_FORMER: usize = 16;
/// How long removing the client may take.
const REMOVAL: Duration = Duration::from_secs(8);

/// What the process gives.
#[derive(Debug)]
pub struct Parts {
    pub clock: SharedClock,
    pub rng: SharedRng,
    /// Says what is missing; not ready before the client is registered.
    pub readiness: Readiness,
    /// Serves `/healthz`, `/readyz`, `/startupz`, `/status` and `/metrics`; see [`Settings::health_address`].
    /// `/startupz` says whether the server's start still has to wait: until the client is registered, for two
    /// minutes at most, and not at all when what it takes is missing.
    pub listener: Option<TcpListener>,
}

/// Registers the client and looks after it until the process drains ([`Phase::Draining`]), then removes it where
/// that is wanted. It never gives up: what is missing or wrong is logged once, told by readiness, and tried again.
pub async fn run(settings: Settings, parts: Parts, mut stop: DrainWatch) {
    let facts = Arc::new(Mutex::new(Facts::default()));
    let startup = Startup::new(Arc::clone(&parts.clock));
    let health = parts.listener.map(|listener| {
        let shown = Arc::clone(&facts);
        let status = Arc::new(move || shown.lock().unwrap_or_else(PoisonError::into_inner).status());
        health::listen(listener, Arc::clone(&startup), parts.readiness.clone(), status, stop.clone())
    });
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
        parts.readiness.warn("transport", warning);
    }
    if settings.enabled {
        parts.readiness.not_ready(PART, "the client is not registered yet");
        let mut service = Service::new(settings, parts.clock, &parts.rng, parts.readiness, facts, startup);
        service.work(&mut stop).await;
        service.end().await;
    } else {
        tracing::info!("registration is switched off (KEYCLOAK_CLIENT_REGISTRATION_ENABLED)");
        // Nothing is to be waited for.
        startup.end();
        if let Err(error) = settings.files.announce() {
            tracing::warn!(error = %chain(&error), "cannot say that there is nothing to wait for");
        }
        stop.reached(Phase::Draining).await;
    }
    if let Some(health) = health {
        health.abort();
    }
}

struct Service {
    settings: Settings,
    clock: SharedClock,
    readiness: Readiness,
    facts: Arc<Mutex<Facts>>,
    startup: Arc<Startup>,
    /// Logins that are not to be tried for a while.
    refusals: Refusals,
    backoff: Backoff,
    rhythm: Backoff,
    keycloak: Option<Connected>,
    /// What was registered last, and is as far as is known.
    current: Option<Current>,
    /// What this pod was before it had another identity.
    former: Vec<String>,
    /// Why one of these could not be removed, as it was logged last.
    left_over: Option<String>,
    /// What was logged last, so that it is not said again and again.
    complaint: Option<String>,
}

/// Keycloak as one login sees it.
struct Connected {
    keycloak: Keycloak,
    login: Login,
    ca_pem: Option<Vec<u8>>,
}

/// A client that is registered.
struct Current {
    client_id: String,
}

/// What `/status` says.
#[derive(Debug, Default)]
struct Facts {
    client_id: Option<String>,
    registered_at: Option<String>,
    rounds: u64,
    problem: Option<(&'static str, String)>,
}

impl Service {
    fn new(
        settings: Settings,
        clock: SharedClock,
        rng: &SharedRng,
        readiness: Readiness,
        facts: Arc<Mutex<Facts>>,
        startup: Arc<Startup>,
    ) -> Self {
        let steady = RetryTimes { first: settings.interval, longest: settings.interval };
        Self {
            backoff: Backoff::new(settings.retry, Arc::clone(rng)),
            rhythm: Backoff::new(steady, Arc::clone(rng)),
            refusals: Refusals::new(Arc::clone(&clock)),
            settings,
            clock,
            readiness,
            facts,
            startup,
            keycloak: None,
            current: None,
            former: Vec::new(),
            left_over: None,
            complaint: None,
        }
    }

    /// Rounds until the end: when a file changes, when the time has come, after a pause when something failed.
    async fn work(&mut self, stop: &mut DrainWatch) {
        let mut watch = SteadyWatch::new(self.watched());
        let mut due = true;
        loop {
            let Some(outcome) = ending(stop.clone(), self.round(due)).await else { return };
            self.tell(&outcome);
            let pause = match outcome {
                Ok(()) => {
                    self.backoff.reset();
                    self.rhythm.pause()
                }
                // The file's change is seen; what else may have changed (the time, a mode) is looked for now and then.
                Err(error) if error.waits_for_files() => self.rhythm.pause().min(self.settings.retry.longest),
                Err(_) => self.backoff.pause(),
            };
            due = tokio::select! {
                () = stop.reached(Phase::Draining) => return,
                () = watch.changed() => false,
                () = tokio::time::sleep(pause) => true,
            };
        }
    }

    /// One look at everything. A change of files alone does not make anybody ask Keycloak: an SVID is renewed every
    /// few minutes and stays the same identity.
    async fn round(&mut self, due: bool) -> Result<(), RoundError> {
        let now = self.clock.unix_seconds();
        let client_id = identity::client_id(&self.settings.identity, now).map_err(RoundError::Identity)?;
        let another_login = self.connect()?;
        let same = self.current.as_ref().is_some_and(|current| current.client_id == client_id);
        if same && !due && !another_login {
            return Ok(());
        }
        if !same {
            // The files are of somebody else, or of nobody.
            self.remember_former();
            if self.settings.files.of_another(&client_id) {
                self.settings.files.withdraw().map_err(RoundError::Files)?;
                self.readiness.not_ready(PART, "the pod has another identity, which is not registered yet");
            }
        }
        let Some(connected) = &self.keycloak else { return Ok(()) };
        if let Some(refusal) = self.refusals.standing(&connected.login) {
            return Err(RoundError::Refused(refusal));
        }
        let spec = self.settings.spec(&client_id, &connected.login, &self.former);
        let registered = match connected.keycloak.ensure_client(&spec).await {
            Err(error @ KeycloakError::Login { .. }) => {
                let refusal = self.refusals.refused(&connected.login, error.to_string());
                return Err(RoundError::Refused(refusal));
            }
            result => result.map_err(RoundError::Keycloak)?,
        };
        self.refusals.taken(&connected.login);
        self.settings.files.publish(&registered).map_err(RoundError::Files)?;
        self.note(&registered);
        self.current = Some(Current { client_id });
        self.leave_former().await;
        Ok(())
    }

    /// The current client is a former one from now on.
    fn remember_former(&mut self) {
        let Some(current) = self.current.take() else { return };
        self.former.retain(|id| *id != current.client_id);
        self.former.push(current.client_id);
        if self.former.len() > MOST_FORMER {
            self.former.remove(0);
        }
    }

    /// Removes the clients that this pod was before, where its client would be removed at the end. One that can't
    /// be removed now is tried again with the next look.
    async fn leave_former(&mut self) {
        // It may have become the same one again before the other was registered.
        let here = |former: &String| self.current.as_ref().is_some_and(|now| now.client_id == *former);
        self.former.retain(|former| !here(former));
        let Some(connected) = self.keycloak.as_ref().filter(|connected| self.removes(connected)) else {
            return;
        };
        let mut staying = Vec::new();
        let mut trouble = None;
        for former in &self.former {
            match connected.keycloak.remove(&self.settings.spec(former, &connected.login, &[])).await {
                Ok(_) => {
                    tracing::info!(client.id = %former, "the client that this pod was before is removed")
                }
                // Who lost the right to it, for instance because it is gone already, will not get it back.
                Err(error @ KeycloakError::RegistrationToken { .. }) => {
                    tracing::warn!(error = %chain(&error), client.id = %former, "the former client is left alone");
                }
                Err(error) => {
                    let text = format!("client {former:?}, which this pod was before: {}", chain(&error));
                    trouble.get_or_insert(text);
                    staying.push(former.clone());
                }
            }
        }
        self.former = staying;
        match &trouble {
            Some(text) => self.readiness.warn("former", text.clone()),
            None => self.readiness.unwarn("former"),
        }
        if let Some(text) = trouble.as_ref().filter(|text| self.left_over.as_ref() != Some(text)) {
            tracing::warn!(error = %text, "it stays in Keycloak for now; removing it is tried again");
        }
        self.left_over = trouble;
    }

    /// One that an initial access token made can be managed by nobody else, so it must not be left behind.
    fn removes(&self, connected: &Connected) -> bool {
        let once = matches!(connected.login, Login::InitialAccess(_));
        self.settings.deregister_on_exit.unwrap_or(once)
    }

    /// Sees to the way to Keycloak. True when it is another one than before.
    fn connect(&mut self) -> Result<bool, RoundError> {
        let login = self.login()?;
        let ca_pem = match &self.settings.ca_file {
            None => None,
            Some(path) => {
                Some(std::fs::read(path).map_err(|source| RoundError::Ca { path: path.clone(), source })?)
            }
        };
        let same = |connected: &Connected| connected.login.same(&login) && connected.ca_pem == ca_pem;
        if self.keycloak.as_ref().is_some_and(same) {
            return Ok(false);
        }
        let mut settings = self.settings.keycloak.clone();
        settings.ca_pem.clone_from(&ca_pem);
        settings.registrations =
            Some(Arc::new(StateFolder::new(&self.settings.state_folder, settings.issuer())));
        let keycloak =
            Keycloak::new(settings, login.clone(), Arc::clone(&self.clock)).map_err(RoundError::Keycloak)?;
        tracing::info!(login = %login.who(), "Keycloak is asked with this login");
        Ok(self.keycloak.replace(Connected { keycloak, login, ca_pem }).is_some())
    }

    fn login(&self) -> Result<Login, RoundError> {
        let credentials = &self.settings.credentials;
        let found = credentials.folder.as_deref().map(Login::read).transpose().map_err(RoundError::Login)?;
        if let Some(login) = found.flatten().or_else(|| credentials.given.clone()) {
            return Ok(login);
        }
        let wanted = match &credentials.folder {
            Some(folder) => format!(
                "put initial-access-token, or client-id and client-secret, into {} (the Secret that is mounted there)",
                folder.display()
            ),
            None => "set CREDENTIALS_DIR, or KEYCLOAK_ADMIN_USERNAME and KEYCLOAK_ADMIN_PASSWORD".to_owned(),
        };
        Err(RoundError::NoLogin { wanted })
    }

    fn watched(&self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        if let IdentitySource::Svid { token, bundle } = &self.settings.identity {
            paths.extend([token.clone(), bundle.clone()]);
        }
        paths.extend(self.settings.credentials.folder.clone());
        paths.extend(self.settings.ca_file.clone());
        paths
    }

    fn note(&self, registered: &Registered) {
        let Registered { client_id, created, changed, .. } = registered;
        if *created {
            tracing::info!(client.id = %client_id, "the client is registered");
        } else if *changed {
            tracing::info!(client.id = %client_id, "the client was put right");
        } else if self.current.is_none() {
            tracing::info!(client.id = %client_id, "the client is there");
        }
        if registered.warnings.is_empty() {
            self.readiness.unwarn("keycloak");
        } else {
            self.readiness.warn("keycloak", registered.warnings.join("; "));
        }
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        if facts.client_id.as_ref() != Some(client_id) || *created {
            facts.registered_at = Some(self.clock.now().to_string());
        }
        facts.client_id = Some(client_id.clone());
        for warning in &registered.warnings {
            // At the first look; from then on readiness has them.
            if self.current.is_none() {
                tracing::warn!("{warning}");
            }
        }
    }

    /// Says what came of a round: to readiness always, to the log when it is new.
    fn tell(&mut self, outcome: &Result<(), RoundError>) {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.rounds += 1;
        match outcome {
            Ok(()) => {
                facts.problem = None;
                self.readiness.ready(PART);
                self.readiness.unwarn(PART);
                self.startup.end();
                if self.complaint.take().is_some() {
                    tracing::info!("all is well again");
                }
            }
            Err(error) => {
                if error.lacks_prerequisites() {
                    self.startup.end();
                }
                let text = chain(error);
                facts.problem = Some((error.label(), text.clone()));
                if self.current.is_none() || error.ends_registration() {
                    self.readiness.not_ready(PART, text.clone());
                } else {
                    self.readiness.warn(PART, text.clone());
                }
                if self.complaint.as_ref() == Some(&text) {
                    tracing::debug!(error = %text, "still");
                } else {
                    tracing::warn!(error = %text, kind = error.label(), "it is tried again");
                    self.complaint = Some(text);
                }
            }
        }
    }

    /// Removes the client where that is wanted, and what this pod was before.
    async fn end(&mut self) {
        let Some(connected) = self.keycloak.as_ref().filter(|connected| self.removes(connected)) else {
            return;
        };
        let current = self.current.as_ref().map(|current| &current.client_id);
        let all: Vec<&String> =
            current.into_iter().chain(self.former.iter().filter(|id| Some(*id) != current)).collect();
        if all.is_empty() || self.refusals.standing(&connected.login).is_some() {
            return;
        }
        let delay = self.settings.delay(&connected.login);
        if !delay.is_zero() {
            tracing::info!(
                seconds = delay.as_secs(),
                "the client is removed when the server had time to end"
            );
            tokio::time::sleep(delay).await;
        }
        if let Err(error) = self.settings.files.withdraw() {
            tracing::warn!(error = %chain(&error), "the ready file stays");
        }
        let removing = async {
            for id in all {
                match connected.keycloak.remove(&self.settings.spec(id, &connected.login, &[])).await {
                    Ok(true) => tracing::info!(client.id = %id, "the client is removed"),
                    Ok(false) => tracing::info!(client.id = %id, "the client was gone already"),
                    Err(error) => {
                        tracing::warn!(error = %chain(&error), client.id = %id, "the client stays in Keycloak");
                    }
                }
            }
        };
        if tokio::time::timeout(REMOVAL, removing).await.is_err() {
            tracing::warn!("no answer in time: clients of this pod stay in Keycloak");
        }
    }
}

/// A round, cut short when the end has come and it still goes on.
async fn ending<T>(mut stop: DrainWatch, round: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(round);
    tokio::select! {
        outcome = &mut round => Some(outcome),
        () = stop.reached(Phase::Draining) => {
            let _ = tokio::time::timeout(LAST_ROUND, round).await;
            None
        }
    }
}

impl Facts {
    fn status(&self) -> Value {
        json!({
            "clientId": self.client_id,
            "registeredAt": self.registered_at,
            "rounds": self.rounds,
            "problem": self.problem.as_ref().map(|(kind, text)| json!({"kind": kind, "message": text})),
        })
    }
}

//! The way to Keycloak, as settings and files say it at the moment.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use skep_auth::keycloak::{
    ClientSpec, Keycloak, KeycloakError, KeycloakErrorKind, KeycloakSettings, Login, LoginError, Refusal,
    Refusals, Registered,
};
use skep_runtime::clock::SharedClock;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::settings::RegistrationSettings;

/// Calls of one login; made anew when the files say something else.
#[derive(Debug)]
pub(super) struct Connection {
    settings: RegistrationSettings,
    clock: SharedClock,
    open: Mutex<Option<Arc<Open>>>,
    /// One memory for all servers, for they come with one login.
    refusals: Refusals,
}

#[derive(Debug)]
struct Open {
    login: Login,
    ca: Option<Vec<u8>>,
    keycloak: Keycloak,
    /// Keycloak took the login the last time that it said anything of it.
    proven: AtomicBool,
    /// Held by the one that finds out.
    proving: Arc<Mutex<()>>,
}

/// Calls as long as they are not known to be refused.
struct Visit {
    open: Arc<Open>,
    _proving: Option<OwnedMutexGuard<()>>,
}

/// Why there are no calls.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("the credentials for Keycloak can't be read")]
    Login(#[from] LoginError),
    #[error(
        "{} holds no credentials for Keycloak; it needs the files client-id and client-secret, or username and password",
        folder.display()
    )]
    NoLogin { folder: PathBuf },
    #[error(
        "{} holds an initial access token, with which only new clients can be made; the operator needs client-id and client-secret of a service account, or username and password",
        folder.display()
    )]
    InitialAccess { folder: PathBuf },
    #[error("the CA certificates for Keycloak in {} can't be read", path.display())]
    Ca {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{}; the same login is not tried again for {} minutes, so that no account is locked; another one in {} is tried at once",
        refusal.why,
        refusal.pause.as_secs() / 60,
        folder.display()
    )]
    Refused { folder: PathBuf, refusal: Refusal },
    #[error(transparent)]
    Keycloak(#[from] KeycloakError),
}

impl Connection {
    pub(super) fn new(settings: RegistrationSettings, clock: SharedClock) -> Self {
        let refusals = Refusals::new(Arc::clone(&clock));
        Self { settings, clock, open: Mutex::default(), refusals }
    }

    /// See [`Keycloak::ensure_client`].
    ///
    /// # Errors
    /// As it, and when the files say nothing that can be used, or only what was refused a while ago.
    pub(super) async fn ensure(&self, spec: &ClientSpec) -> Result<Registered, ConnectionError> {
        let visit = self.visit().await?;
        let result = visit.open.keycloak.ensure_client(spec).await;
        self.note(&visit, result)
    }

    /// See [`Keycloak::remove`].
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure).
    pub(super) async fn remove(&self, spec: &ClientSpec) -> Result<bool, ConnectionError> {
        let visit = self.visit().await?;
        let result = visit.open.keycloak.remove(spec).await;
        self.note(&visit, result)
    }

    /// Lets calls through unless their login was refused. As long as it isn't known whether Keycloak takes a
    /// login, one goes ahead and the others wait for what it finds: a wrong one is tried once.
    async fn visit(&self) -> Result<Visit, ConnectionError> {
        let open = self.keycloak().await?;
        let proving = if open.proven.load(Ordering::Acquire) {
            None
        } else {
            let guard = Arc::clone(&open.proving).lock_owned().await;
            Some(guard).filter(|_| !open.proven.load(Ordering::Acquire))
        };
        match self.refusals.standing(&open.login) {
            Some(refusal) => Err(self.refused(refusal)),
            None => Ok(Visit { open, _proving: proving }),
        }
    }

    /// Remembers what calls have shown of their login.
    fn note<T>(&self, visit: &Visit, result: Result<T, KeycloakError>) -> Result<T, ConnectionError> {
        let Visit { open, .. } = visit;
        match result {
            Err(error @ KeycloakError::Login { .. }) => {
                open.proven.store(false, Ordering::Release);
                Err(self.refused(self.refusals.refused(&open.login, error.to_string())))
            }
            result => {
                let kind = result.as_ref().err().map(KeycloakError::kind);
                // Others may come from before the login.
                if matches!(kind, None | Some(KeycloakErrorKind::Forbidden | KeycloakErrorKind::Conflict)) {
                    open.proven.store(true, Ordering::Release);
                    self.refusals.taken(&open.login);
                }
                result.map_err(Into::into)
            }
        }
    }

    fn refused(&self, refusal: Refusal) -> ConnectionError {
        ConnectionError::Refused { folder: self.settings.credentials.clone(), refusal }
    }

    /// Calls with what the files say now.
    ///
    /// # Errors
    /// When they say nothing that can be used.
    async fn keycloak(&self) -> Result<Arc<Open>, ConnectionError> {
        let folder = &self.settings.credentials;
        let login =
            Login::read(folder)?.ok_or_else(|| ConnectionError::NoLogin { folder: folder.clone() })?;
        if matches!(login, Login::InitialAccess(_)) {
            return Err(ConnectionError::InitialAccess { folder: folder.clone() });
        }
        let ca = match &self.settings.ca {
            Some(path) => {
                let read = tokio::fs::read(path).await;
                Some(read.map_err(|source| ConnectionError::Ca { path: path.clone(), source })?)
            }
            None => None,
        };
        let mut open = self.open.lock().await;
        if let Some(open) = open.as_ref().filter(|open| open.login.same(&login) && open.ca == ca) {
            return Ok(Arc::clone(open));
        }
        let mut settings = KeycloakSettings::new(&self.settings.url, &self.settings.realm)?;
        settings.ca_pem.clone_from(&ca);
        settings.egress = self.settings.egress.clone();
        let keycloak = Keycloak::new(settings, login.clone(), Arc::clone(&self.clock))?;
        let (proven, proving) = (AtomicBool::new(false), Arc::default());
        let made = Arc::new(Open { login, ca, keycloak, proven, proving });
        *open = Some(Arc::clone(&made));
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use skep_api::address::Egress;
    use skep_testkit::ManualClock;
    use skep_testkit::keycloak::FakeKeycloak;

    use super::*;

    #[tokio::test]
    async fn a_wrong_login_is_tried_once_for_all_servers_and_a_new_one_at_once() {
        let keycloak = FakeKeycloak::start().await;
        keycloak.realm("demo");
        keycloak.service_account("demo", "operator", "s3cret", &["manage-clients"]);
        let folder = tempfile::tempdir().unwrap();
        let login = |secret: &str| {
            std::fs::write(folder.path().join("client-id"), "operator").unwrap();
            std::fs::write(folder.path().join("client-secret"), secret).unwrap();
        };
        let path = folder.path().to_owned();
        let mut settings = RegistrationSettings::new(&keycloak.url(), "demo", path, "example.org");
        settings.egress = Egress { loopback: true, deny: Vec::new() };
        let clock = Arc::new(ManualClock::default());
        let connection = Connection::new(settings, Arc::clone(&clock) as SharedClock);
        let logins =
            || keycloak.requests().iter().filter(|request| request.path().ends_with("/token")).count();
        let specs = [1, 2, 3, 4].map(|number| ClientSpec::new(format!("c{number}")));
        let all = async || {
            let [a, b, c, d] = &specs;
            let ensure = |spec| connection.ensure(spec);
            let (a, b, c, d) = tokio::join!(ensure(a), ensure(b), ensure(c), ensure(d));
            [a, b, c, d].map(|result| result.map(drop).map_err(|error| error.to_string()))
        };

        login("wrong");
        let refused = all().await;
        assert_eq!(logins(), 1);
        let [first, rest @ ..] = &refused;
        let text = first.as_ref().unwrap_err();
        assert!(text.contains("not tried again for 10 minutes") && text.contains("operator"), "{text}");
        assert!(rest.iter().all(|one| one == first), "{refused:?}");
        clock.advance(Duration::from_secs(599));
        assert_eq!(all().await, refused);
        assert_eq!(logins(), 1);
        clock.advance(Duration::from_secs(1));
        let text = all().await[0].clone().unwrap_err();
        assert!(text.contains("for 20 minutes"), "{text}");
        assert_eq!(logins(), 2);

        login("s3cret");
        assert_eq!(all().await, [Ok(()), Ok(()), Ok(()), Ok(())]);
        assert_eq!(logins(), 3);
        // The old one is not forgotten by that.
        login("wrong");
        assert!(all().await.iter().all(Result::is_err));
        assert_eq!(logins(), 3);
        // One that was good is refused from now on, while there is a token that it got.
        login("s3cret");
        assert!(all().await.iter().all(Result::is_ok));
        keycloak.rotate_secret("demo", "operator");
        clock.advance(Duration::from_secs(3600));
        let before = logins();
        assert!(all().await.iter().all(Result::is_err));
        assert!(logins() - before <= specs.len());
        let before = logins();
        assert!(all().await.iter().all(Result::is_err));
        assert_eq!(logins(), before);
    }
}

//! The way to Keycloak, as settings and files say it at the moment.

use std::path::PathBuf;
use std::sync::Arc;

use skep_auth::keycloak::{Keycloak, KeycloakError, KeycloakSettings, Login, LoginError};
use skep_runtime::clock::SharedClock;

use crate::settings::RegistrationSettings;

/// Calls of one login; made anew when the files say something else.
#[derive(Debug)]
pub(super) struct Connection {
    settings: RegistrationSettings,
    clock: SharedClock,
    open: tokio::sync::Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    login: Login,
    ca: Option<Vec<u8>>,
    keycloak: Arc<Keycloak>,
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
    #[error(transparent)]
    Keycloak(#[from] KeycloakError),
}

impl Connection {
    pub(super) fn new(settings: RegistrationSettings, clock: SharedClock) -> Self {
        Self { settings, clock, open: tokio::sync::Mutex::default() }
    }

    /// Calls with what the files say now.
    ///
    /// # Errors
    /// When they say nothing that can be used.
    pub(super) async fn keycloak(&self) -> Result<Arc<Keycloak>, ConnectionError> {
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
            return Ok(Arc::clone(&open.keycloak));
        }
        let mut settings = KeycloakSettings::new(&self.settings.url, &self.settings.realm)?;
        settings.ca_pem.clone_from(&ca);
        settings.egress = self.settings.egress.clone();
        let keycloak = Arc::new(Keycloak::new(settings, login.clone(), Arc::clone(&self.clock))?);
        *open = Some(Open { login, ca, keycloak: Arc::clone(&keycloak) });
        Ok(keycloak)
    }
}

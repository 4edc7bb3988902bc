//! The calls to Keycloak that register a client: its token endpoint, its admin REST API, and dynamic registration
//! (RFC 7591).

mod admin;
mod calls;
mod client;
mod dynamic;
mod error;
mod refusals;
mod scope;
mod settings;
mod tokens;

use skep_runtime::clock::SharedClock;

pub use client::{AudienceScope, ClientProof, ClientSpec, Registered};
pub use dynamic::RegistrationTokens;
pub use error::{KeycloakError, KeycloakErrorKind};
pub use refusals::{Refusal, Refusals};
pub use settings::{KeycloakSettings, Login, LoginError};

use admin::Admin;
use calls::Calls;
use dynamic::Dynamic;

/// One realm of one Keycloak, seen by one login. Tokens are kept as long as they are good.
#[derive(Debug)]
pub struct Keycloak {
    door: Door,
}

/// The two ways to register a client.
#[derive(Debug)]
enum Door {
    Admin(Admin),
    Dynamic(Dynamic),
}

impl Keycloak {
    /// Sets up the calls; nothing is called yet.
    ///
    /// # Errors
    /// When URL, realm, CA certificates or login can't be used.
    pub fn new(settings: KeycloakSettings, login: Login, clock: SharedClock) -> Result<Self, KeycloakError> {
        settings.check()?;
        let calls = Calls::new(&settings)?;
        let door = match login {
            Login::InitialAccess(token) => Door::Dynamic(Dynamic::new(calls, token, settings.registrations)?),
            login => Door::Admin(Admin::new(calls, login, settings.admin_realm, clock)?),
        };
        Ok(Self { door })
    }

    /// Sees to it that the client is there and is as `spec` says, and tells its secret. Calling it again changes
    /// nothing, so it is also the way to look whether all is well.
    ///
    /// # Errors
    /// What Keycloak, or the way to it, has against it. What may be retried says
    /// [`KeycloakErrorKind::is_transient`].
    pub async fn ensure_client(&self, spec: &ClientSpec) -> Result<Registered, KeycloakError> {
        spec.check()?;
        match &self.door {
            Door::Admin(admin) => admin.ensure(spec).await,
            Door::Dynamic(dynamic) => dynamic.ensure(spec).await,
        }
    }

    /// Removes a client. False: it was not there.
    ///
    /// # Errors
    /// As [`ensure_client`](Self::ensure_client).
    pub async fn delete_client(&self, client_id: &str) -> Result<bool, KeycloakError> {
        match &self.door {
            Door::Admin(admin) => admin.delete(client_id).await,
            Door::Dynamic(dynamic) => dynamic.delete(client_id).await,
        }
    }

    /// Removes a client and the audience scope that was made for it. False: there was no such client.
    ///
    /// # Errors
    /// As [`ensure_client`](Self::ensure_client).
    pub async fn remove(&self, spec: &ClientSpec) -> Result<bool, KeycloakError> {
        let deleted = self.delete_client(&spec.client_id).await?;
        if let (Door::Admin(admin), Some(scope)) = (&self.door, &spec.audience_scope) {
            admin.delete_scope(scope, &spec.client_id).await?;
        }
        Ok(deleted)
    }
}

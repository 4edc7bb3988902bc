//! Settings of the operator process.

use std::path::PathBuf;
use std::time::Duration;

use skep_api::address::{self, Egress};
use skep_auth::keycloak::{KeycloakError, KeycloakSettings};

use crate::plan;

/// Field manager of everything the operator applies, backends aside.
pub const FIELD_MANAGER: &str = "skep-operator";

/// Name of the leader's Lease, as in ToolHive, so that the two exclude each other.
pub const LEASE_NAME: &str = "toolhive-operator-leader-election";

/// What one operator process is told.
#[derive(Debug, Clone)]
pub struct OperatorSettings {
    /// What the planner is told. `openshift` and `service_monitors` are found out by asking the API server.
    pub plan: plan::Settings,
    /// Namespaces that are looked at (`WATCH_NAMESPACE`); empty: all of them.
    pub namespaces: Vec<String>,
    /// Objects that are reconciled at the same time.
    pub workers: usize,
    /// Migrate stored objects to the storage version (`TOOLHIVE_ENABLE_STORAGE_VERSION_MIGRATOR`).
    pub migrate: bool,
    /// Ask proxies for their report. Off only where pods can't be reached.
    pub ask_proxies: bool,
    /// Register clients of servers whose sidecars leave that to the operator; none: they say that nobody does.
    pub registration: Option<RegistrationSettings>,
}

impl Default for OperatorSettings {
    fn default() -> Self {
        Self {
            plan: plan::Settings::default(),
            namespaces: Vec::new(),
            workers: 8,
            migrate: true,
            ask_proxies: true,
            registration: None,
        }
    }
}

/// Registration of MCP servers' clients at Keycloak, from this process.
#[derive(Debug, Clone)]
pub struct RegistrationSettings {
    /// What stands before `/realms`, such as `https://keycloak.example.com`.
    pub url: String,
    /// The realm that clients are registered in.
    pub realm: String,
    /// Folder with the login: files `client-id` and `client-secret`, or `username` and `password`. It is read
    /// again each time.
    pub credentials: PathBuf,
    /// Trust domain of the SPIFFE IDs that MCP servers get.
    pub trust_domain: String,
    /// File with CA certificates (PEM) besides the machine's own.
    pub ca: Option<PathBuf>,
    /// What may be called.
    pub egress: Egress,
    /// Make a scope for each client that adds it to the audience, and make that a default of the realm: tokens
    /// of every client that the realm gets later are good for every server then, and grow with each.
    pub audience_scope: bool,
    /// How often a client that is registered is looked at again.
    pub interval: Duration,
    /// How long a server that is deleted waits for a Keycloak that does not answer.
    pub patience: Duration,
}

impl RegistrationSettings {
    /// Settings with the defaults for all else.
    pub fn new(url: &str, realm: &str, credentials: PathBuf, trust_domain: &str) -> Self {
        Self {
            url: url.to_owned(),
            realm: realm.to_owned(),
            credentials,
            trust_domain: trust_domain.to_owned(),
            ca: None,
            egress: Egress::default(),
            audience_scope: false,
            interval: Duration::from_secs(300),
            patience: Duration::from_secs(600),
        }
    }

    /// What is unwise without standing in the way, in sentences.
    pub fn warnings(&self) -> Vec<String> {
        let settings = KeycloakSettings::new(&self.url, &self.realm).ok();
        let clear = settings.filter(|settings| address::is_in_the_clear(&settings.url));
        let clear = clear.map(|settings| {
            let host = settings.url.host_str().unwrap_or_default().to_owned();
            format!(
                "Keycloak at {host} is called by plain http, so everybody on the way reads the operator's login and the clients' secrets; use https."
            )
        });
        clear.into_iter().collect()
    }

    /// Judges what can be judged before anything is called.
    ///
    /// # Errors
    /// When URL, realm or trust domain can't be one.
    pub fn check(&self) -> Result<(), RegistrationSettingsError> {
        KeycloakSettings::new(&self.url, &self.realm)?;
        // SPIFFE-ID §2.1.
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
        let text = &self.trust_domain;
        if text.is_empty() || text.len() > 255 || !text.chars().all(fits) {
            return Err(RegistrationSettingsError::TrustDomain { text: text.clone() });
        }
        Ok(())
    }
}

/// Why settings of the registration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationSettingsError {
    /// Keycloak's URL or realm.
    #[error(transparent)]
    Keycloak(#[from] KeycloakError),
    /// The trust domain.
    #[error(
        "{text:?} is no trust domain: it has lower-case letters, digits, dots, dashes and underscores, such as example.org"
    )]
    TrustDomain { text: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_out_of_the_cluster_is_told() {
        for (url, told) in [
            ("http://id.example.com:8080/auth", true),
            ("https://id.example.com", false),
            ("http://keycloak.identity.svc:8080", false),
        ] {
            let settings = RegistrationSettings::new(url, "demo", PathBuf::new(), "example.org");
            let warnings = settings.warnings();
            assert_eq!(warnings.len(), usize::from(told), "{url}: {warnings:?}");
            assert!(warnings.iter().all(|text| text.contains("id.example.com is called by plain http")));
        }
    }
}

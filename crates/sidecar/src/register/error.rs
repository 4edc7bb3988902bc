//! What can be wrong before Keycloak is asked at all.

use std::path::PathBuf;

use skep_auth::error::AuthError;
use skep_auth::keycloak::{KeycloakError, KeycloakErrorKind, LoginError, Refusal};
use skep_auth::keys::KeySetError;

use crate::files::WriteError;

/// Why an environment is none to run with.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(
        "{} not set: name Keycloak's URL and realm in the ConfigMap `environments` (or as variables of this \
         container)",
        listed(names)
    )]
    Missing { names: Vec<&'static str> },
    #[error("{name}={value:?} is {wanted}")]
    Value { name: &'static str, value: String, wanted: &'static str },
    #[error("{present} is set and {missing} is not: both are needed")]
    Half { present: &'static str, missing: &'static str },
    #[error("Keycloak can't be called with these settings")]
    Keycloak(#[source] KeycloakError),
}

/// Why there is no identity to register.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{} is not there yet; the SPIFFE helper writes it, see its log", path.display())]
    Missing { path: PathBuf },
    #[error("{} can't be read; its mode or group may keep this container out", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is larger than 1 MiB", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} holds no JWT-SVID", path.display())]
    Token {
        path: PathBuf,
        #[source]
        source: AuthError,
    },
    #[error("the JWT-SVID in {} is none: {reason}", path.display())]
    Svid { path: PathBuf, reason: &'static str },
    #[error("the JWT-SVID in {} has expired; the SPIFFE helper renews it, see its log", path.display())]
    Expired { path: PathBuf },
    #[error("the JWT-SVID in {} is not valid yet; do the clocks of this node and of SPIRE agree?", path.display())]
    NotYetValid { path: PathBuf },
    #[error("{} is no JWT bundle: it must be a JSON object of trust domains and base64 key sets", path.display())]
    Bundle { path: PathBuf },
    #[error("{} has no keys of trust domain {trust_domain:?}", path.display())]
    NoTrustDomain { path: PathBuf, trust_domain: String },
    #[error("the keys of trust domain {trust_domain:?} in {} can't be used", path.display())]
    Keys {
        path: PathBuf,
        trust_domain: String,
        #[source]
        source: KeySetError,
    },
    #[error("the JWT-SVID was signed by a key that trust domain {trust_domain:?} does not publish")]
    UnknownKey { trust_domain: String },
    #[error("the signature of the JWT-SVID does not verify with the keys of trust domain {trust_domain:?}")]
    Signature { trust_domain: String },
}

/// Why a file could not be written or removed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("cannot remove {}", path.display())]
    Remove {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Why one round ended without the client being as it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum RoundError {
    #[error("there is no identity to register")]
    Identity(#[source] IdentityError),
    #[error("there are no credentials for Keycloak yet: {wanted}")]
    NoLogin { wanted: String },
    #[error("the credentials for Keycloak can't be used")]
    Login(#[source] LoginError),
    #[error("cannot read the CA certificates in {}", path.display())]
    Ca {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the client is not registered")]
    Keycloak(#[source] KeycloakError),
    #[error(
        "the client is not registered: {}; the same credentials are not tried again for {} minutes, so that no \
         account is locked; other ones are tried at once",
        _0.why,
        _0.pause.as_secs() / 60
    )]
    Refused(Refusal),
    #[error("the client's credentials can't be handed over")]
    Files(#[source] FileError),
}

impl RoundError {
    /// True when a file has to change before another try makes sense.
    pub(super) fn waits_for_files(&self) -> bool {
        match self {
            Self::Identity(_)
            | Self::NoLogin { .. }
            | Self::Login(_)
            | Self::Ca { .. }
            | Self::Refused(_) => true,
            Self::Keycloak(_) | Self::Files(_) => false,
        }
    }

    /// True when nothing can be registered before somebody gives this pod what it needs.
    pub(super) fn lacks_prerequisites(&self) -> bool {
        matches!(self, Self::NoLogin { .. } | Self::Login(_) | Self::Ca { .. })
    }

    /// True when the credentials that were handed over before can't be good any more.
    pub(super) fn ends_registration(&self) -> bool {
        match self {
            Self::Keycloak(error) => matches!(
                error,
                KeycloakError::RegistrationToken { .. }
                    | KeycloakError::InitialAccess { .. }
                    | KeycloakError::Taken { .. }
            ),
            _ => false,
        }
    }

    /// What kind of failure it is, in a word.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Identity(_) => "identity",
            Self::NoLogin { .. } | Self::Login(_) => "login",
            Self::Ca { .. } => KeycloakErrorKind::Configuration.label(),
            Self::Keycloak(error) => error.kind().label(),
            Self::Refused(_) => KeycloakErrorKind::Credentials.label(),
            Self::Files(_) => "files",
        }
    }
}

fn listed(names: &[&str]) -> String {
    match names {
        [one] => format!("{one} is"),
        several => format!("{} are", several.join(" and ")),
    }
}

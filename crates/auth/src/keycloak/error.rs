//! What can go wrong between us and Keycloak.

use crate::client::{FetchError, Reply};

/// Longest part of an answer that is shown in an error, in characters.
const SHOWN: usize = 200;

/// Why a client could not be registered, looked at or removed.
#[derive(Debug, thiserror::Error)]
pub enum KeycloakError {
    #[error("{url:?} cannot be Keycloak's URL: {reason}")]
    Url { url: String, reason: &'static str },
    #[error("{realm:?} cannot be the name of a realm: {reason}")]
    Realm { realm: String, reason: &'static str },
    #[error("{client_id:?} cannot be a client's id: {reason}")]
    ClientId { client_id: String, reason: &'static str },
    #[error("{what} of the login at Keycloak is empty or has characters that no header can have")]
    Credentials { what: &'static str },
    #[error("cannot set up calls to Keycloak")]
    Setup(#[source] FetchError),
    #[error("cannot reach Keycloak; is it up, and may this pod call it?")]
    Unreachable(#[source] FetchError),
    #[error("Keycloak did not answer in time while asked to {step}")]
    Timeout {
        step: &'static str,
        #[source]
        source: FetchError,
    },
    #[error("Keycloak has no realm {realm:?}; create it, or correct the name (KEYCLOAK_REALM)")]
    RealmMissing { realm: String },
    #[error(
        "Keycloak refuses the login of {who} at realm {realm:?}{}; correct name and password or secret",
        because(said)
    )]
    Login { who: String, realm: String, said: String },
    #[error(
        "Keycloak does not accept the token that {who} got at realm {realm:?} a moment ago{}; is there more than \
         one Keycloak behind its URL?",
        because(said)
    )]
    Token { who: String, realm: String, said: String },
    #[error(
        "Keycloak refuses the initial access token{}; it is used up, expired, or of another realm: make a new one",
        because(said)
    )]
    InitialAccess { said: String },
    #[error("{who} may not {step}{}; {remedy}", because(said))]
    Forbidden { who: String, step: &'static str, remedy: &'static str, said: String },
    #[error("Keycloak has no {what}")]
    NotFound { what: String },
    #[error("Keycloak says that {what} exists, but does not show it; give {who} the role manage-clients")]
    Hidden { what: String, who: String },
    #[error(
        "client {client_id:?} exists, and was not registered from here, so it can't be managed with an initial \
         access token; delete it in Keycloak, give a service account's client id and secret instead, or let the \
         operator register"
    )]
    Taken { client_id: String },
    #[error(
        "client {client_id:?} was there before and was not made by skep, so it is neither changed nor used; \
         delete it in Keycloak, or set its attribute skep.dev/managed-by to \"skep\" if it is meant for this server"
    )]
    NotOurs { client_id: String },
    #[error(
        "Keycloak does not accept the registration access token of client {client_id:?}{}; somebody else made the \
         client or a token for it since: delete it in Keycloak, and it is registered again",
        because(said)
    )]
    RegistrationToken { client_id: String, said: String },
    #[error(
        "client scope {name:?} adds another audience than this client's, so it is left alone; delete it in Keycloak"
    )]
    ScopeTaken { name: String },
    #[error("Keycloak refuses to {step} ({status}){}", because(said))]
    Rejected { step: &'static str, status: u16, said: String },
    #[error("Keycloak cannot {step} at the moment (status {status})")]
    Unavailable { step: &'static str, status: u16 },
    #[error("Keycloak's answer can't be read when asked to {step}: {reason}")]
    Answer { step: &'static str, reason: &'static str },
}

/// What kind of failure it is: label of metrics, reason of conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeycloakErrorKind {
    /// Settings that can't work.
    Configuration,
    /// Nobody answers, or not in time, or with 429 or 5xx.
    Unavailable,
    /// The realm is not there.
    RealmMissing,
    /// Name, password, secret or token is refused.
    Credentials,
    /// The login lacks a role.
    Forbidden,
    /// Something that was asked for by its id is not there.
    NotFound,
    /// A client of that id exists and is not ours to manage.
    Conflict,
    /// Keycloak understands and refuses, or answers what nobody understands.
    Rejected,
}

impl KeycloakErrorKind {
    /// The kind in one lower-case word, for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Unavailable => "unavailable",
            Self::RealmMissing => "realm_missing",
            Self::Credentials => "credentials",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Rejected => "rejected",
        }
    }

    /// True when nothing but time is needed.
    pub fn is_transient(self) -> bool {
        self == Self::Unavailable
    }
}

impl KeycloakError {
    /// Its kind.
    pub fn kind(&self) -> KeycloakErrorKind {
        match self {
            Self::Url { .. } | Self::Realm { .. } | Self::ClientId { .. } | Self::Setup(_) => {
                KeycloakErrorKind::Configuration
            }
            Self::Unreachable(_) | Self::Timeout { .. } | Self::Unavailable { .. } => {
                KeycloakErrorKind::Unavailable
            }
            Self::RealmMissing { .. } => KeycloakErrorKind::RealmMissing,
            Self::Credentials { .. }
            | Self::Login { .. }
            | Self::Token { .. }
            | Self::InitialAccess { .. }
            | Self::RegistrationToken { .. } => KeycloakErrorKind::Credentials,
            Self::Forbidden { .. } => KeycloakErrorKind::Forbidden,
            Self::NotFound { .. } => KeycloakErrorKind::NotFound,
            Self::Hidden { .. } | Self::Taken { .. } | Self::NotOurs { .. } | Self::ScopeTaken { .. } => {
                KeycloakErrorKind::Conflict
            }
            Self::Rejected { .. } | Self::Answer { .. } => KeycloakErrorKind::Rejected,
        }
    }
}

/// What an answer says of itself: `errorMessage` of the admin API, `error` and `error_description` of the
/// others, cut and without control characters. Nothing else of an answer is ever shown.
pub(super) fn said(reply: &Reply) -> String {
    let Ok(fields) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&reply.body) else {
        return String::new();
    };
    let text =
        |name: &str| fields.get(name).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty());
    let parts = [text("error"), text("error_description"), text("errorMessage")];
    let whole = parts.into_iter().flatten().collect::<Vec<_>>().join(": ");
    whole.chars().filter(|letter| !letter.is_control()).take(SHOWN).collect()
}

fn because(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(" ({said})") }
}

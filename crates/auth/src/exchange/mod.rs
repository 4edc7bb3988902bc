//! Token exchange (RFC 8693): the caller's token for one that the backend wants; and, as service account,
//! one token for all callers (RFC 6749 §4.4).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use skep_api::address::{Egress, Reach};
use skep_api::secret::Secret;
use url::Url;

mod actor;
mod assertion;
mod credentials;
mod exchanger;
mod readiness;
mod request;
mod response;

pub use exchanger::Exchanger;
pub use readiness::ExchangeReadiness;
pub(crate) use readiness::LastCall;

use crate::client::FetchError;

/// Everything about one token endpoint and what is asked of it.
#[derive(Debug, Clone)]
pub struct ExchangeSettings {
    /// The token endpoint.
    pub token_url: Url,
    /// Id of the proxy at the token endpoint; empty when it has none.
    pub client_id: String,
    /// How the proxy proves that it is that client.
    pub client_auth: ClientAuth,
    /// File that the credential in `client_auth` was read from. It is read again when the endpoint refuses
    /// the client, so that a rotation is noticed before any watch does.
    pub credential_file: Option<PathBuf>,
    /// File that the actor's token in `grant` was read from. It is read again when the token has expired,
    /// and when the endpoint refuses a token: it does not say which (RFC 8693 §2.2.2).
    pub actor_file: Option<PathBuf>,
    /// What is asked for.
    pub grant: Grant,
    /// `audience`; empty means not sent.
    pub audience: String,
    /// `resource` (RFC 8707); empty means not sent.
    pub resource: String,
    /// `scope`; empty means not sent.
    pub scopes: Vec<String>,
    /// Further CA certificates for the endpoint, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// What the calls may reach.
    pub reach: Reach,
    /// What the process may reach.
    pub egress: Egress,
    /// Longest time that a token is kept; `None` means as long as it lasts.
    pub ttl_cap: Option<Duration>,
    /// How long a refusal of a subject token is kept, 10 s at most.
    pub negative_ttl: Duration,
    /// For one call to the endpoint.
    pub timeout: Duration,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub enum Grant {
    /// The caller's token is exchanged.
    TokenExchange {
        /// What the caller's token is said to be.
        subject_type: TokenType,
        /// Who acts for the caller, with the type of the token.
        actor: Option<(Secret, TokenType)>,
    },
    /// One token of the proxy's own, for all callers.
    ClientCredentials,
}

/// Types of tokens (RFC 8693 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenType {
    AccessToken,
    IdToken,
    Jwt,
}

/// How a client proves itself to a token endpoint.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// It does not: a public client, known by `client_id` in the form.
    Public,
    /// `client_secret_basic` (RFC 6749 §2.3.1).
    SecretBasic(Secret),
    /// `client_secret_post`.
    SecretPost(Secret),
    /// `private_key_jwt` (RFC 7523 §2.2): the key as PEM, and its id where the endpoint wants one.
    PrivateKeyJwt { key: Secret, key_id: Option<String> },
    /// A JWT-SVID as the assertion.
    SpiffeJwt(Secret),
    /// `tls_client_auth` (RFC 8705 §2): certificates and key, PEM.
    Tls { certificate: Secret, key: Secret },
}

/// The caller whose token is exchanged.
#[derive(Clone, Copy)]
pub struct Subject<'t> {
    /// The token itself.
    pub token: &'t str,
    /// SHA-256 of the token.
    pub digest: [u8; 32],
    /// Whose it is: issuer and subject, for the rule about refusals in a row.
    pub issuer: &'t str,
    /// See `issuer`.
    pub subject: &'t str,
    /// `exp` of the token, seconds since 1970.
    pub expires_at: i64,
}

/// A token for the backend.
pub struct ExchangedToken {
    /// `Bearer TOKEN`, marked as sensitive.
    pub authorization: HeaderValue,
    /// Scopes that were granted: those of the answer, else those that were asked for.
    pub scopes: Vec<String>,
    key: crate::flight::FlightKey,
}

impl fmt::Debug for ExchangedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangedToken").field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

/// Why there is no token for the backend.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ExchangeError {
    /// `invalid_grant` or `invalid_request` (RFC 8693 §2.2.2).
    #[error("the token endpoint does not accept the caller's token")]
    SubjectRefused {
        /// Another token of the same subject was refused less than a minute ago: a new login does not help.
        repeated: bool,
    },
    /// `invalid_client`, `unauthorized_client`, `unsupported_grant_type`, `invalid_target`, `invalid_scope`;
    /// `actor_expired`, when the actor's token has expired, so that the endpoint was not asked.
    #[error("the token endpoint refuses this proxy: {code}")]
    Refused { code: &'static str },
    #[error("the token endpoint's answer is not usable: {reason}")]
    Response { reason: &'static str },
    #[error("the token endpoint cannot be reached or has a fault; try again later")]
    Unavailable { retry_after: Duration },
}

/// Why an [`Exchanger`] cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeSetupError {
    #[error("the token endpoint cannot be used")]
    Endpoint(#[source] FetchError),
    #[error("this method of client authentication needs a client id")]
    ClientIdMissing,
    #[error("the {what} is empty")]
    CredentialMissing { what: &'static str },
    #[error("the client's {what} has characters that cannot be sent")]
    CredentialCharacters { what: &'static str },
    #[error("the client's private key cannot be used: {reason}")]
    Key { reason: &'static str },
}

/// Whose token an [`Exchanger`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangerMode {
    /// One for each caller's token: a [`Subject`] is needed.
    Caller,
    /// One of the proxy's own for all callers.
    Service,
}

/// What came of a call to the token endpoint, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExchangeResult {
    Success,
    SubjectRefused,
    Refused,
    InvalidResponse,
    Unavailable,
}

/// Is told what happens. Nothing of a token is in it.
pub trait ExchangeObserver: fmt::Debug + Send + Sync {
    /// A token was at hand.
    fn hit(&self);
    /// The token endpoint was asked.
    fn asked(&self, result: ExchangeResult, took: Duration);
}

//! Why a caller was not let in, and what that means on the wire. Everything about a kind of refusal
//! (status, OAuth error code, metric label) is decided here.

use http::StatusCode;

/// A refusal.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum AuthError {
    #[error("authorization header required")]
    MissingToken,
    #[error("more than one authorization header")]
    SeveralTokens,
    #[error("invalid authorization header format, expected 'Bearer <token>'")]
    WrongScheme,
    #[error("empty token in authorization header")]
    EmptyToken,
    #[error("Invalid token: {reason}")]
    Malformed { reason: &'static str },
    #[error("Invalid token: the algorithm is not accepted for this key")]
    Algorithm,
    #[error("Invalid token: it was signed by a key that the issuer does not publish")]
    UnknownKey,
    #[error("Invalid token: the signature does not verify")]
    Signature,
    #[error("Invalid token: it was issued by somebody else")]
    Issuer,
    #[error("Invalid token: it is meant for another audience")]
    Audience,
    #[error("Invalid token: it has expired")]
    Expired,
    #[error("Invalid token: it is not valid yet")]
    NotYetValid,
    #[error("Invalid token: {reason}")]
    WrongKind { reason: &'static str },
    #[error("Invalid token: it was issued to a client that is not accepted here")]
    Party,
    #[error("Invalid token: it is bound to a key of its client (cnf), and is not accepted as a bearer token")]
    Bound,
    #[error("Invalid token: it is not active")]
    Inactive,
    #[error("Invalid authentication claims")]
    NoSubject,
    #[error("Invalid token: its user is known here by an e-mail address, which is not verified")]
    UnverifiedEmail,
    #[error("the token lacks a scope that is needed here: {required}")]
    InsufficientScope {
        /// Every scope that is needed, as clients ask for them, with spaces between.
        required: String,
    },
    #[error("the issuer's keys cannot be fetched; try again later")]
    KeysUnavailable,
    #[error("the issuer cannot be asked about the token; try again later")]
    IntrospectionUnavailable,
    #[error("too many tokens from this address came to nothing; try again later")]
    SourceLimited {
        /// Seconds after which it is worth trying again.
        retry_after: u64,
    },
    #[error("Invalid token: it cannot be exchanged for one of the MCP server; log in again")]
    NotExchangeable,
}

/// Kinds of refusal, for metrics and audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthErrorKind {
    Missing,
    Malformed,
    Algorithm,
    UnknownKey,
    Signature,
    Issuer,
    Audience,
    Expired,
    NotYetValid,
    WrongKind,
    Party,
    Bound,
    Inactive,
    Claims,
    Scope,
    Unavailable,
    IntrospectionUnavailable,
    SourceLimited,
    NotExchangeable,
}

impl AuthError {
    /// The kind of this refusal.
    pub fn kind(&self) -> AuthErrorKind {
        match self {
            Self::MissingToken | Self::EmptyToken => AuthErrorKind::Missing,
            Self::SeveralTokens | Self::WrongScheme | Self::Malformed { .. } => AuthErrorKind::Malformed,
            Self::Algorithm => AuthErrorKind::Algorithm,
            Self::UnknownKey => AuthErrorKind::UnknownKey,
            Self::Signature => AuthErrorKind::Signature,
            Self::Issuer => AuthErrorKind::Issuer,
            Self::Audience => AuthErrorKind::Audience,
            Self::Expired => AuthErrorKind::Expired,
            Self::NotYetValid => AuthErrorKind::NotYetValid,
            Self::WrongKind { .. } => AuthErrorKind::WrongKind,
            Self::Party => AuthErrorKind::Party,
            Self::Bound => AuthErrorKind::Bound,
            Self::Inactive => AuthErrorKind::Inactive,
            Self::NoSubject | Self::UnverifiedEmail => AuthErrorKind::Claims,
            Self::InsufficientScope { .. } => AuthErrorKind::Scope,
            Self::KeysUnavailable => AuthErrorKind::Unavailable,
            Self::IntrospectionUnavailable => AuthErrorKind::IntrospectionUnavailable,
            Self::SourceLimited { .. } => AuthErrorKind::SourceLimited,
            Self::NotExchangeable => AuthErrorKind::NotExchangeable,
        }
    }

    /// `error` of RFC 6750 §3.1: `invalid_request` when there is no token to judge, `insufficient_scope`
    /// when a good one does not reach far enough, else `invalid_token`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingToken | Self::SeveralTokens | Self::WrongScheme | Self::EmptyToken => {
                "invalid_request"
            }
            Self::KeysUnavailable | Self::IntrospectionUnavailable | Self::SourceLimited { .. } => {
                "temporarily_unavailable"
            }
            Self::InsufficientScope { .. } => "insufficient_scope",
            _ => "invalid_token",
        }
    }

    /// 401; 403 for a good token without a scope that is needed; 503 when the fault is not the caller's;
    /// 429 when too many came from one address.
    pub fn status(&self) -> StatusCode {
        match self.kind() {
            AuthErrorKind::Unavailable | AuthErrorKind::IntrospectionUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            AuthErrorKind::SourceLimited => StatusCode::TOO_MANY_REQUESTS,
            AuthErrorKind::Scope => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// Seconds after which it is worth trying again, where that is known.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::SourceLimited { retry_after } => Some(*retry_after),
            _ => None,
        }
    }
}

impl AuthErrorKind {
    /// Value of the `result` label of `toolhive_remote_proxy_token_validations_total`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongKind => "wrong_kind",
            Self::Party => "party",
            Self::Bound => "bound",
            Self::Inactive => "inactive",
            Self::Claims => "claims",
            Self::Scope => "insufficient_scope",
            Self::Unavailable => "unavailable",
            Self::IntrospectionUnavailable => "introspection_unavailable",
            Self::SourceLimited => "source_limited",
            Self::NotExchangeable => "not_exchangeable",
        }
    }
}

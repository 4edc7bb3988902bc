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
    #[error("Invalid authentication claims")]
    NoSubject,
    #[error("the issuer's keys cannot be fetched; try again later")]
    KeysUnavailable,
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
    Claims,
    Unavailable,
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
            Self::NoSubject => AuthErrorKind::Claims,
            Self::KeysUnavailable => AuthErrorKind::Unavailable,
        }
    }

    /// `error` of RFC 6750 §3.1: `invalid_request` when there is no token to judge, else `invalid_token`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingToken | Self::SeveralTokens | Self::WrongScheme | Self::EmptyToken => {
                "invalid_request"
            }
            Self::KeysUnavailable => "temporarily_unavailable",
            _ => "invalid_token",
        }
    }

    /// 401, or 503 when the fault is not the caller's.
    pub fn status(&self) -> StatusCode {
        match self.kind() {
            AuthErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNAUTHORIZED,
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
            Self::Claims => "claims",
            Self::Unavailable => "unavailable",
        }
    }
}

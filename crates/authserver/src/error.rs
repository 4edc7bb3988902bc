//! What the token endpoint refuses, and how it says so.

use axum::http::StatusCode;

use crate::keys::SignError;

/// A refusal of the token endpoint (RFC 6749 §5.2, RFC 8707 §2, RFC 8693 §2.2.2).
///
/// The Display text becomes `error_description`: it holds no quote, no backslash, nothing that the
/// client sent and no secret.
#[derive(Debug, thiserror::Error)]
pub enum OAuthError {
    /// The request is malformed.
    #[error("{problem}")]
    InvalidRequest {
        /// What is wrong and what to do.
        problem: &'static str,
    },
    /// The body is longer than the endpoint reads.
    #[error("the request body is longer than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The client did not authenticate, or not correctly. One text for all causes, so that nobody can
    /// find out which clients exist.
    #[error("client authentication failed; send client_id and client_secret as HTTP Basic or in the form")]
    InvalidClient,
    /// The client may not use this grant.
    #[error("this client may not use this grant type; its configuration lists the grants it may use")]
    UnauthorizedClient,
    /// The server does not know the grant.
    #[error("this server supports only the grant types that its metadata lists")]
    UnsupportedGrantType,
    /// The scope is malformed or not the client's.
    #[error("{problem}")]
    InvalidScope {
        /// What is wrong.
        problem: &'static str,
    },
    /// The resource is malformed, unknown or not the client's.
    #[error("{problem}")]
    InvalidTarget {
        /// What is wrong.
        problem: &'static str,
    },
    /// The token could not be signed.
    #[error("the token could not be signed; the log of the server has the cause")]
    Signing(#[source] SignError),
}

/// The sort of a refusal: decides status, `error` code and metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// `invalid_request`.
    InvalidRequest,
    /// `invalid_request`, with its own status.
    TooLarge,
    /// `invalid_client`.
    InvalidClient,
    /// `unauthorized_client`.
    UnauthorizedClient,
    /// `unsupported_grant_type`.
    UnsupportedGrantType,
    /// `invalid_scope`.
    InvalidScope,
    /// `invalid_target`.
    InvalidTarget,
    /// `server_error`.
    ServerError,
}

impl OAuthError {
    /// The sort of this refusal.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidRequest { .. } => ErrorKind::InvalidRequest,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::InvalidClient => ErrorKind::InvalidClient,
            Self::UnauthorizedClient => ErrorKind::UnauthorizedClient,
            Self::UnsupportedGrantType => ErrorKind::UnsupportedGrantType,
            Self::InvalidScope { .. } => ErrorKind::InvalidScope,
            Self::InvalidTarget { .. } => ErrorKind::InvalidTarget,
            Self::Signing(_) => ErrorKind::ServerError,
        }
    }
}

impl ErrorKind {
    /// The `error` code on the wire.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest | Self::TooLarge => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidScope => "invalid_scope",
            Self::InvalidTarget => "invalid_target",
            Self::ServerError => "server_error",
        }
    }

    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest
            | Self::UnauthorizedClient
            | Self::UnsupportedGrantType
            | Self::InvalidScope
            | Self::InvalidTarget => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::InvalidClient => StatusCode::UNAUTHORIZED,
            Self::ServerError => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

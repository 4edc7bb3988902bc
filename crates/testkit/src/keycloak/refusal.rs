//! Refusals as Keycloak words them.

use serde_json::{Value, json};

use crate::server::Reply;

/// An answer that is not the one asked for.
#[derive(Debug)]
pub(super) struct Refusal {
    status: u16,
    body: Value,
}

impl Refusal {
    /// What the token endpoint and client registration say (RFC 6749 §5.2).
    pub(super) fn oauth(status: u16, error: &str, description: &str) -> Self {
        Self { status, body: json!({"error": error, "error_description": description}) }
    }

    /// What the admin API says of names that are taken and of bad values.
    pub(super) fn message(status: u16, message: &str) -> Self {
        Self { status, body: json!({"errorMessage": message}) }
    }

    /// What the admin API says of everything else.
    pub(super) fn error(status: u16, error: &str) -> Self {
        Self { status, body: json!({"error": error}) }
    }

    /// A client that can't be told who it is.
    pub(super) fn invalid_client() -> Self {
        Self::oauth(401, "invalid_client", "Invalid client or Invalid client credentials")
    }

    pub(super) fn unauthorized() -> Self {
        Self::error(401, "HTTP 401 Unauthorized")
    }

    pub(super) fn forbidden() -> Self {
        Self::error(403, "HTTP 403 Forbidden")
    }

    pub(super) fn no_such_path() -> Self {
        Self::error(404, "Unable to find matching target resource method")
    }

    pub(super) fn reply(&self) -> Reply {
        Reply::body(self.status, "application/json", self.body.to_string())
    }
}

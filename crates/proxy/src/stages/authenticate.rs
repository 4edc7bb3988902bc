//! Who is calling.

use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use skep_auth::authenticator::Authenticator;
use skep_auth::bearer;
use skep_auth::challenge::ProtectedResource;
use skep_auth::error::AuthError;

use crate::error::Rejection;
use crate::metrics::ProxyMetricsHandle;
use crate::request::{Authenticated, Caller};

/// How callers are known.
#[derive(Debug, Clone)]
pub enum Authentication {
    /// Nobody is asked.
    Anonymous,
    /// By a bearer token.
    Token {
        /// Judges tokens.
        authenticator: Arc<Authenticator>,
        /// Says where to get one.
        resource: ProtectedResource,
    },
}

impl Authentication {
    /// What clients are told about where tokens come from.
    pub fn resource(&self) -> Option<&ProtectedResource> {
        match self {
            Self::Token { resource, .. } => Some(resource),
            Self::Anonymous => None,
        }
    }
}

/// Settles who calls. The token is judged before a byte of the body is read; `source` answers for what it
/// makes us ask of issuers.
///
/// # Errors
/// 401 or 403 with a challenge, 429 when `source` has brought too many tokens that came to nothing, or 503
/// when the issuer can't be asked.
pub async fn authenticate(
    how: &Authentication,
    head: Parts,
    source: IpAddr,
    metrics: &ProxyMetricsHandle,
) -> Result<Authenticated, Rejection> {
    let caller = match how {
        Authentication::Anonymous => Caller::Anonymous,
        Authentication::Token { authenticator, resource } => {
            let judged = match bearer::token(&head.headers) {
                Ok(token) => authenticator.authenticate(token, source).await,
                Err(error) => Err(error),
            };
            match judged {
                Ok(identity) => {
                    metrics.token("valid");
                    Caller::Known(identity)
                }
                Err(error) => {
                    metrics.token(error.kind().label());
                    return Err(refuse(error, resource));
                }
            }
        }
    };
    let query = head.uri.query().map(str::to_owned);
    Ok(Authenticated::new(head.method, head.headers, query, caller))
}

fn refuse(error: AuthError, resource: &ProtectedResource) -> Rejection {
    let challenged = [http::StatusCode::UNAUTHORIZED, http::StatusCode::FORBIDDEN].contains(&error.status());
    let challenge = challenged.then(|| resource.challenge(&error));
    Rejection::Auth { source: error, challenge }
}

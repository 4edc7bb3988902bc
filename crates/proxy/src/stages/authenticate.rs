//! Who is calling.

use std::sync::Arc;

use http::request::Parts;
use skep_auth::bearer;
use skep_auth::challenge::ProtectedResource;
use skep_auth::error::AuthError;
use skep_auth::validator::TokenValidator;

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
        validator: Arc<TokenValidator>,
        /// Says where to get one.
        resource: ProtectedResource,
    },
}

/// Settles who calls. The token is judged before a byte of the body is read.
///
/// # Errors
/// 401 with a challenge, or 503 when the issuer's keys can't be had.
pub async fn authenticate(
    how: &Authentication,
    head: Parts,
    metrics: &ProxyMetricsHandle,
) -> Result<Authenticated, Rejection> {
    let caller = match how {
        Authentication::Anonymous => Caller::Anonymous,
        Authentication::Token { validator, resource } => {
            let judged = match bearer::token(&head.headers) {
                Ok(token) => validator.validate(token).await,
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
    let challenge = (error.status() == http::StatusCode::UNAUTHORIZED).then(|| resource.challenge(&error));
    Rejection::Auth { source: error, challenge }
}

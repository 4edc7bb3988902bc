//! With which credential the MCP server is called. It is made after authorization, for nobody who may
//! not call, and the caller's own token is no substitute for it.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use skep_auth::aws::{AwsCredentials, AwsError, AwsSts};
use skep_auth::bearer;
use skep_auth::challenge::ProtectedResource;
use skep_auth::error::AuthError;
use skep_auth::exchange::{ExchangeError, ExchangedToken, Exchanger, ExchangerMode, Subject};
use skep_auth::identity::Identity;
use url::Url;

use super::authenticate::Authentication;
use crate::error::{BackendFault, CredentialFault, Rejection};
use crate::message::Id;
use crate::request::{Authorized, Caller};

/// Where credentials for the MCP server come from.
#[derive(Debug, Clone)]
pub enum Outgoing {
    /// Nothing is made: there is none, or it is a fixed header, or the caller's own token.
    Fixed,
    /// The caller's token is exchanged, or the proxy gets one of its own.
    Exchange {
        /// Gets tokens.
        exchanger: Arc<Exchanger>,
        /// Header that carries them.
        header: HeaderName,
    },
    /// Requests are signed with AWS credentials of the caller's role.
    Aws(Arc<AwsSts>),
}

/// A credential for one request.
#[derive(Debug, Clone)]
pub enum Credential {
    /// See [`Outgoing::Fixed`].
    Fixed,
    /// A token.
    Token {
        /// The token.
        token: Arc<ExchangedToken>,
        /// Header that carries it.
        header: HeaderName,
        /// Where it came from.
        exchanger: Arc<Exchanger>,
    },
    /// AWS credentials.
    Aws {
        /// The credentials.
        credentials: Arc<AwsCredentials>,
        /// Where they came from.
        sts: Arc<AwsSts>,
    },
}

/// What a caller presented, kept so that a second credential can be made for the same request.
#[derive(Debug, Clone)]
pub struct Presented {
    identity: Option<Arc<Identity>>,
    authorization: Option<HeaderValue>,
    id: Option<Id>,
}

impl Presented {
    /// What the caller of an authorized request presented. There is no other way to a credential.
    pub fn of(request: &Authorized) -> Self {
        let identity = match request.caller() {
            Caller::Known(identity) => Some(Arc::clone(identity)),
            Caller::Anonymous => None,
        };
        // Two values have been refused by then, wherever tokens are judged.
        let authorization = identity.as_ref().and_then(|_| request.headers().get(AUTHORIZATION).cloned());
        Self { identity, authorization, id: request.id() }
    }
}

impl Outgoing {
    /// Makes the credential for a request that may be forwarded.
    ///
    /// # Errors
    /// 401 when there is no caller's token, or it is not accepted where it is exchanged; 403 when a new
    /// login does not help; 502 when the fault is the proxy's own configuration; 503 when trying again helps.
    pub async fn credential(
        &self,
        presented: &Presented,
        authentication: &Authentication,
    ) -> Result<Credential, Rejection> {
        match self {
            Self::Fixed => Ok(Credential::Fixed),
            Self::Exchange { exchanger, header } => {
                let subject = match exchanger.mode() {
                    ExchangerMode::Caller => Some(subject(presented, authentication)?),
                    ExchangerMode::Service => None,
                };
                let (token, _) = exchanger
                    .token(subject)
                    .await
                    .map_err(|error| refuse_exchange(error, presented, authentication))?;
                let exchanger = Arc::clone(exchanger);
                Ok(Credential::Token { token, header: header.clone(), exchanger })
            }
            Self::Aws(sts) => {
                let subject = subject(presented, authentication)?;
                let Some(identity) = &presented.identity else {
                    return Err(unauthorized(AuthError::MissingToken, authentication));
                };
                let (credentials, _) = sts
                    .credentials(identity, subject.token)
                    .await
                    .map_err(|error| refuse_aws(error, presented, authentication))?;
                Ok(Credential::Aws { credentials, sts: Arc::clone(sts) })
            }
        }
    }
}

impl Credential {
    /// Puts the credential on a request that is ready to go.
    ///
    /// # Errors
    /// When the request can't be signed.
    pub fn put_on(
        &self,
        method: &Method,
        url: &Url,
        headers: &mut HeaderMap,
        body: &[u8],
    ) -> Result<(), BackendFault> {
        match self {
            Self::Fixed => Ok(()),
            Self::Token { token, header, .. } => {
                headers.insert(header.clone(), token.authorization.clone());
                Ok(())
            }
            Self::Aws { credentials, sts } => {
                sts.sign(credentials, method, url, headers, body).map_err(|error| {
                    tracing::error!(error = %error, "a request cannot be signed");
                    BackendFault::Unsignable
                })
            }
        }
    }

    /// True when the MCP server's answer says that the credential is no good.
    pub fn refused(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        match self {
            Self::Fixed | Self::Token { .. } => status == StatusCode::UNAUTHORIZED,
            Self::Aws { sts, .. } => sts.refused(status, headers),
        }
    }

    /// Header that carries it, when one was made.
    pub fn header(&self) -> Option<&HeaderName> {
        match self {
            Self::Fixed => None,
            Self::Token { header, .. } => Some(header),
            Self::Aws { .. } => Some(&AUTHORIZATION),
        }
    }

    /// True when every caller's requests carry the same one, so that what the MCP server says of it is
    /// said to all of them.
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Fixed => true,
            Self::Token { exchanger, .. } => exchanger.mode() == ExchangerMode::Service,
            Self::Aws { .. } => false,
        }
    }

    /// True when one was made for the request.
    pub fn is_sent(&self) -> bool {
        !matches!(self, Self::Fixed)
    }

    /// Forgets a credential that the MCP server refused; `false` when another can't be made.
    pub fn forget(&self) -> bool {
        match self {
            Self::Fixed => return false,
            Self::Token { token, exchanger, .. } => exchanger.evict(token),
            Self::Aws { credentials, sts } => sts.evict(credentials),
        }
        true
    }

    /// What the audit record says of it: never the credential itself.
    pub fn audited(&self) -> Option<Value> {
        match self {
            Self::Fixed => None,
            Self::Token { token, exchanger, .. } => Some(json!({
                "type": "token_exchange", "audience": exchanger.audience(), "scopes": token.scopes,
            })),
            Self::Aws { credentials, .. } => Some(json!({"type": "aws_sts", "role": credentials.role_arn()})),
        }
    }
}

fn subject<'p>(presented: &'p Presented, authentication: &Authentication) -> Result<Subject<'p>, Rejection> {
    let missing = || unauthorized(AuthError::MissingToken, authentication);
    let (Some(identity), Some(value)) = (&presented.identity, &presented.authorization) else {
        return Err(missing());
    };
    let token = bearer::in_value(value).map_err(|error| unauthorized(error, authentication))?;
    Ok(Subject {
        token,
        digest: identity.token_digest,
        issuer: &identity.issuer,
        subject: &identity.subject,
        expires_at: identity.expires_at,
    })
}

fn refuse_exchange(
    error: ExchangeError,
    presented: &Presented,
    authentication: &Authentication,
) -> Rejection {
    let fault = match error {
        ExchangeError::SubjectRefused { repeated: false } => {
            return unauthorized(AuthError::NotExchangeable, authentication);
        }
        ExchangeError::SubjectRefused { repeated: true } => CredentialFault::RefusedAgain,
        ExchangeError::Refused { .. } => CredentialFault::Refused,
        ExchangeError::Response { .. } => CredentialFault::Unusable,
        ExchangeError::Unavailable { retry_after } => CredentialFault::Unavailable { retry_after },
    };
    Rejection::Credential { source: fault, id: presented.id.clone() }
}

fn refuse_aws(error: AwsError, presented: &Presented, authentication: &Authentication) -> Rejection {
    let fault = match error {
        AwsError::TokenRefused { repeated: false } => {
            return unauthorized(AuthError::NotExchangeable, authentication);
        }
        AwsError::TokenRefused { repeated: true } => CredentialFault::RefusedAgain,
        AwsError::NoRole => CredentialFault::NoRole,
        AwsError::SessionName => CredentialFault::SessionName,
        AwsError::Denied => CredentialFault::RoleDenied,
        AwsError::Unavailable { retry_after } => CredentialFault::Unavailable { retry_after },
        AwsError::Refused { .. } => CredentialFault::Refused,
        _ => CredentialFault::Unusable,
    };
    Rejection::Credential { source: fault, id: presented.id.clone() }
}

fn unauthorized(error: AuthError, authentication: &Authentication) -> Rejection {
    let challenge = |resource: &ProtectedResource| resource.challenge(&error);
    let challenge = match authentication {
        Authentication::Token { resource, .. } => Some(challenge(resource)),
        Authentication::Anonymous => None,
    };
    Rejection::Auth { source: error, challenge }
}

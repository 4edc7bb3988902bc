//! Everything a caller can be refused with, and how each refusal looks on the wire.

use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use skep_auth::error::AuthError;
use skep_runtime::http::{ResponseBody, full};

use crate::message::{Id, MessageFault};

/// A refusal, or a failure on the way to the backend.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    #[error("nothing is served at this path")]
    NotFound,
    #[error("this method is not served here")]
    Method { allow: &'static str },
    #[error("Host not allowed")]
    Host,
    #[error("Origin not allowed")]
    Origin,
    #[error("{source}")]
    Auth { source: AuthError, challenge: Option<HeaderValue> },
    #[error("Request Entity Too Large")]
    BodyTooLarge,
    #[error("Request Timeout")]
    BodyTooSlow,
    #[error("the request body could not be read")]
    BodyBroken,
    #[error("{reason}")]
    MediaType { reason: &'static str },
    #[error("{reason}")]
    BadRequest { reason: &'static str },
    #[error("{}{fault}", if *fault == MessageFault::Batch { "" } else { "Invalid or malformed MCP request: " })]
    Message { fault: MessageFault },
    #[error("header mismatch: {header} does not agree with the body")]
    HeaderMismatch { header: &'static str, id: Option<Id> },
    #[error("tool not found")]
    ToolFiltered { id: Option<Id>, accepts_json: bool },
    #[error("Unauthorized")]
    Denied { id: Option<Id> },
    #[error("Unauthorized: the token lacks a scope that this call needs")]
    ScopeMissing { required: Box<str>, challenge: Option<Box<HeaderValue>>, id: Option<Id> },
    #[error("too many streams are open; try again later")]
    TooManyStreams { id: Option<Id> },
    #[error("{source}")]
    Credential { source: CredentialFault, id: Option<Id> },
    #[error("{source}")]
    Backend { source: BackendFault, id: Option<Id> },
    #[error("the server is shutting down; try again")]
    Draining,
    #[error("this MCP server lets no call through until its configuration is mended; try again later")]
    Suspended,
    #[error("Internal Server Error")]
    Crashed,
}

/// Why there is no credential for the MCP server.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum CredentialFault {
    #[error(
        "the identity provider does not accept your tokens for this MCP server; logging in again does not help"
    )]
    RefusedAgain,
    #[error("Failed to determine IAM role")]
    NoRole,
    #[error("the claim that names the AWS session is missing or is no session name (session_name_claim)")]
    SessionName,
    #[error("AWS does not let you take the role")]
    RoleDenied,
    #[error(
        "the identity provider refuses the proxy's own request for a credential; its operator has to mend the configuration"
    )]
    Refused,
    #[error("the identity provider's answer is not a credential that can be used")]
    Unusable,
    #[error("the identity provider cannot be reached or has a fault; try again later")]
    Unavailable { retry_after: Duration },
}

/// What went wrong between the proxy and the MCP server.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum BackendFault {
    #[error("the MCP server cannot be reached; try again later")]
    Unreachable,
    #[error("the MCP server did not answer in time")]
    Timeout,
    #[error("the MCP server closed the connection without an answer")]
    Closed,
    #[error("the MCP server refused the proxy's credential")]
    Unauthorized,
    #[error("the MCP server wants a credential, and the proxy has none for it")]
    WantsCredential,
    #[error("the MCP server answered in a way that cannot be passed on: {reason}")]
    Protocol { reason: &'static str },
    #[error("the proxy cannot sign the request to the MCP server")]
    Unsignable,
    #[error("the MCP server's list is larger than the proxy may filter")]
    ListTooLarge,
    #[error("the MCP server's list cannot be filtered, so it is not shown")]
    Unfilterable,
}

/// Class of a refusal, for audit and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectionKind {
    /// The caller was not let in, or not allowed.
    Denied,
    /// The request itself was wrong.
    Request,
    /// Something behind the proxy, or the proxy, failed.
    Failure,
}

impl Rejection {
    /// Status code of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host | Self::Origin | Self::Denied { .. } | Self::ScopeMissing { .. } => {
                StatusCode::FORBIDDEN
            }
            Self::Auth { source, .. } => source.status(),
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::MediaType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyBroken
            | Self::BadRequest { .. }
            | Self::Message { .. }
            | Self::HeaderMismatch { .. } => StatusCode::BAD_REQUEST,
            Self::ToolFiltered { accepts_json: true, .. } => StatusCode::OK,
            Self::ToolFiltered { accepts_json: false, .. } => StatusCode::BAD_REQUEST,
            Self::TooManyStreams { .. } | Self::Draining | Self::Suspended => StatusCode::SERVICE_UNAVAILABLE,
            Self::Crashed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Credential { source, .. } => source.status(),
            Self::Backend { source, .. } => source.status(),
        }
    }

    /// Class of the refusal.
    pub fn kind(&self) -> RejectionKind {
        match self {
            Self::Host
            | Self::Origin
            | Self::Denied { .. }
            | Self::ScopeMissing { .. }
            | Self::ToolFiltered { .. } => RejectionKind::Denied,
            Self::Auth { source, .. } if source.status().is_client_error() => RejectionKind::Denied,
            Self::Credential { source, .. } if source.status() == StatusCode::FORBIDDEN => {
                RejectionKind::Denied
            }
            Self::Credential { .. } | Self::Crashed | Self::Suspended => RejectionKind::Failure,
            Self::Auth { .. } | Self::TooManyStreams { .. } | Self::Draining | Self::Backend { .. } => {
                RejectionKind::Failure
            }
            _ => RejectionKind::Request,
        }
    }

    /// JSON-RPC code of the answer, where it has one.
    pub fn rpc_code(&self) -> Option<i64> {
        match self {
            Self::Host | Self::Origin => Some(-32600),
            Self::Message { fault: MessageFault::Batch } => Some(-32600),
            Self::HeaderMismatch { .. } => Some(-32020),
            Self::ToolFiltered { .. } => Some(-32602),
            Self::Denied { .. }
            | Self::ScopeMissing { .. }
            | Self::TooManyStreams { .. }
            | Self::Suspended
            | Self::Credential { .. }
            | Self::Backend { .. } => Some(i64::from(self.status().as_u16())),
            _ => None,
        }
    }

    /// The answer.
    pub fn into_response(self) -> Response<ResponseBody> {
        let mut response = match &self {
            Self::NotFound => body(&self, "application/json", r#"{"error":"not_found"}"#),
            Self::Auth { source, .. } => {
                let text = json!({"error": source.code(), "error_description": source.to_string()});
                body(&self, "application/json", text.to_string())
            }
            Self::ToolFiltered { accepts_json: false, .. } => body(&self, "text/plain; charset=utf-8", ""),
            _ => match self.rpc_code() {
                Some(code) => body(&self, "application/json", rpc_error(code, &self.to_string(), self.id())),
                None => body(&self, "text/plain; charset=utf-8", self.to_string()),
            },
        };
        let retry_after = self.retry_after();
        let headers = response.headers_mut();
        match self {
            Self::Auth { challenge: Some(challenge), .. } => {
                headers.insert(WWW_AUTHENTICATE, challenge);
            }
            Self::ScopeMissing { challenge: Some(challenge), .. } => {
                headers.insert(WWW_AUTHENTICATE, *challenge);
            }
            Self::Method { allow } => {
                headers.insert(ALLOW, HeaderValue::from_static(allow));
            }
            Self::BodyTooSlow | Self::BodyTooLarge => {
                headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        if matches!(response.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after));
        }
        response
    }

    /// Seconds after which it is worth trying again.
    fn retry_after(&self) -> u64 {
        match self {
            Self::Credential { source: CredentialFault::Unavailable { retry_after }, .. } => {
                retry_after.as_secs().max(1)
            }
            Self::Auth { source, .. } => source.retry_after().unwrap_or(5),
            // A person has to mend something, and the change takes its time to get here.
            Self::Suspended => 30,
            _ => 5,
        }
    }

    fn id(&self) -> Option<&Id> {
        match self {
            Self::HeaderMismatch { id, .. }
            | Self::ToolFiltered { id, .. }
            | Self::Denied { id }
            | Self::ScopeMissing { id, .. }
            | Self::TooManyStreams { id }
            | Self::Credential { id, .. }
            | Self::Backend { id, .. } => id.as_ref(),
            _ => None,
        }
    }
}

impl CredentialFault {
    /// Status code: 403 when only somebody else can help, 503 when trying again does, 502 when the
    /// configuration is at fault.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::RefusedAgain | Self::NoRole | Self::SessionName | Self::RoleDenied => StatusCode::FORBIDDEN,
            Self::Refused | Self::Unusable => StatusCode::BAD_GATEWAY,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl BackendFault {
    /// Status code: 503 when trying again helps, 504 when it was slow, else 502.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        }
    }
}

/// A JSON-RPC error; the id is left out when it is not known, never null.
pub fn rpc_error(code: i64, message: &str, id: Option<&Id>) -> String {
    #[derive(Serialize)]
    struct Fault<'a> {
        code: i64,
        message: &'a str,
    }
    #[derive(Serialize)]
    struct Answer<'a> {
        jsonrpc: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a Id>,
        error: Fault<'a>,
    }
    serde_json::to_string(&Answer { jsonrpc: "2.0", id, error: Fault { code, message } }).unwrap_or_default()
}

fn body(rejection: &Rejection, kind: &'static str, text: impl Into<bytes::Bytes>) -> Response<ResponseBody> {
    let mut response = Response::new(full(text));
    *response.status_mut() = rejection.status();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_without_an_id_leaves_the_id_out() {
        assert_eq!(
            rpc_error(-32600, "no", None),
            r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"no"}}"#
        );
        let id = Id::read(serde_json::from_str("\"a\"").unwrap());
        assert_eq!(
            rpc_error(403, "Unauthorized", id.as_ref()),
            r#"{"jsonrpc":"2.0","id":"a","error":{"code":403,"message":"Unauthorized"}}"#
        );
    }

    #[test]
    fn no_code_of_our_own_lies_in_the_reserved_range() {
        for fault in [BackendFault::Unreachable, BackendFault::Timeout, BackendFault::Closed] {
            let code = Rejection::Backend { source: fault, id: None }.rpc_code().unwrap();
            assert!((500..600).contains(&code));
        }
    }
}

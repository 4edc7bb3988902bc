//! The token endpoint (RFC 6749 §3.2).

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;
use tracing::{error, info};

use super::credentials;
use super::form::{Form, FormError};
use crate::error::{ErrorKind, OAuthError};
use crate::grants;
use crate::server::AuthServer;
use crate::token::IssuedToken;

/// More than any grant needs, less than would hurt.
const BODY_LIMIT: usize = 64 * 1024;

/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// RFC 6749 §5.1, RFC 8693 §2.2.1.
#[derive(Serialize)]
struct Success<'a> {
    access_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_token_type: Option<&'static str>,
    token_type: &'static str,
    expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

/// RFC 6749 §5.2.
#[derive(Serialize)]
struct Failure {
    error: &'static str,
    error_description: String,
}

#[tracing::instrument(name = "oauth.token", skip_all)]
pub(super) async fn handle(State(server): State<Arc<AuthServer>>, request: Request) -> Response {
    let answer = answer(&server, request).await.unwrap_or_else(|refusal| refuse(&refusal));
    ([(header::CACHE_CONTROL, "no-store")], answer).into_response()
}

async fn answer(server: &AuthServer, request: Request) -> Result<Response, OAuthError> {
    let (parts, body) = request.into_parts();
    // Credentials in a URL end up in logs (RFC 6749 §2.3.1), so no parameter is taken from there.
    if parts.uri.query().is_some() {
        return Err(OAuthError::InvalidRequest {
            problem: "send the parameters in the body, not in the URL",
        });
    }
    check_content_type(&parts.headers)?;
    let form = Form::parse(&read_body(body).await?).map_err(form_problem)?;
    let credentials = credentials::find(&parts.headers, &form)?;
    let client = server
        .clients
        .authenticate(&credentials.client_id, &credentials.client_secret)
        .ok_or(OAuthError::InvalidClient)?;
    let token = grants::issue(server, client, &form)?;
    info!(oauth.client_id = client.client().id, oauth.scope = token.scopes.join(" "), "access token issued");
    Ok(success(&token))
}

fn check_content_type(headers: &HeaderMap) -> Result<(), OAuthError> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = given.split(';').map(str::trim);
    let is_form =
        parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/x-www-form-urlencoded"));
    let is_utf8 = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
            value.trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    if is_form && is_utf8 {
        return Ok(());
    }
    let problem = "the Content-Type must be application/x-www-form-urlencoded, in UTF-8";
    Err(OAuthError::InvalidRequest { problem })
}

async fn read_body(body: Body) -> Result<Bytes, OAuthError> {
    let reading = Limited::new(body, BODY_LIMIT).collect();
    let broken = |problem| OAuthError::InvalidRequest { problem };
    match tokio::time::timeout(BODY_PATIENCE, reading).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(OAuthError::TooLarge { limit: BODY_LIMIT }),
        Ok(Err(_)) => Err(broken("the body could not be read to its end")),
        Err(_) => Err(broken("the body took too long to arrive")),
    }
}

fn form_problem(error: FormError) -> OAuthError {
    OAuthError::InvalidRequest {
        problem: match error {
            FormError::Percent => "the form has a broken percent encoding",
            FormError::Utf8 => "the form is not UTF-8",
            FormError::Duplicate => "a parameter is there twice",
        },
    }
}

fn success(token: &IssuedToken) -> Response {
    Json(Success {
        access_token: token.access_token.expose(),
        issued_token_type: token.issued_token_type,
        token_type: "Bearer",
        expires_in: token.expires_in.as_secs(),
        scope: (!token.scopes.is_empty()).then(|| token.scopes.join(" ")),
    })
    .into_response()
}

fn refuse(refusal: &OAuthError) -> Response {
    let kind = refusal.kind();
    if kind == ErrorKind::ServerError {
        error!(error = refusal as &dyn std::error::Error, "no token was issued");
    } else {
        info!(oauth.error = kind.code(), reason = %refusal, "token request refused");
    }
    let body = Failure { error: kind.code(), error_description: refusal.to_string() };
    let mut response = (kind.status(), Json(body)).into_response();
    if kind == ErrorKind::InvalidClient {
        let challenge = HeaderValue::from_static(r#"Basic realm="token endpoint", charset="UTF-8""#);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

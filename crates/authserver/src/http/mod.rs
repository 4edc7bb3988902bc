//! The public endpoints: parse, call, render. No rule lives here.

mod credentials;
pub(crate) mod form;
mod metadata;
mod token;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};

use crate::server::AuthServer;

/// Where the token endpoint is, under the issuer.
pub(crate) const TOKEN_PATH: &str = "/oauth/token";
/// Where the keys are, under the issuer.
pub(crate) const JWKS_PATH: &str = "/.well-known/jwks.json";

const OPENID_PATH: &str = "/.well-known/openid-configuration";
const OAUTH_PATH: &str = "/.well-known/oauth-authorization-server";

/// All routes, below the issuer's path where it has one.
pub(crate) fn router(server: Arc<AuthServer>) -> Router {
    let path = server.issuer.path().to_owned();
    let mut router = Router::new()
        // The issuer's path is taken literally, also where a segment starts with a colon.
        .without_v07_checks()
        .route(&format!("{path}{TOKEN_PATH}"), post(token::handle))
        .route(&format!("{path}{JWKS_PATH}"), get(metadata::jwks))
        // Discovery of an issuer with a path has three shapes: the well-known name before the path
        // (RFC 8414 §3.1), and after it (OpenID Connect Discovery §4.1).
        .route(&format!("{OAUTH_PATH}{path}"), get(metadata::document))
        .route(&format!("{OPENID_PATH}{path}"), get(metadata::document));
    if !path.is_empty() {
        router = router.route(&format!("{path}{OPENID_PATH}"), get(metadata::document));
    }
    router.layer(middleware::from_fn(cross_origin)).with_state(server)
}

/// Lets scripts of any origin use these endpoints, without cookies: none of them looks at any.
async fn cross_origin(request: Request, next: Next) -> Response {
    let preflight = request.method() == axum::http::Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response =
        if preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    if preflight {
        let allowed = HeaderValue::from_static("authorization, content-type, mcp-protocol-version");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    }
    response
}

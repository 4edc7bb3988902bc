//! Discovery (RFC 8414, OpenID Connect Discovery) and the keys.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use serde::Serialize;

use super::{JWKS_PATH, TOKEN_PATH};
use crate::clients::GrantType;
use crate::server::AuthServer;

/// Keys and metadata may be kept for five minutes: a new key is published longer than that before it signs.
const CACHE: [(HeaderName, &str); 1] = [(header::CACHE_CONTROL, "public, max-age=300")];

/// The metadata document. A field is there only when what it names works.
#[derive(Debug, Serialize)]
struct Metadata<'a> {
    issuer: &'a str,
    token_endpoint: String,
    jwks_uri: String,
    /// Required by RFC 8414 §2, empty while there is no authorization endpoint.
    response_types_supported: [&'static str; 0],
    grant_types_supported: [&'static str; GrantType::ALL.len()],
    token_endpoint_auth_methods_supported: [&'static str; 2],
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    scopes_supported: BTreeSet<&'a str>,
}

pub(super) async fn document(State(server): State<Arc<AuthServer>>) -> impl IntoResponse {
    let metadata = Metadata {
        issuer: server.issuer.as_str(),
        token_endpoint: server.issuer.join(TOKEN_PATH),
        jwks_uri: server.issuer.join(JWKS_PATH),
        response_types_supported: [],
        grant_types_supported: GrantType::ALL.map(GrantType::as_str),
        token_endpoint_auth_methods_supported: ["client_secret_basic", "client_secret_post"],
        scopes_supported: server.clients.iter().flat_map(|c| &c.scopes).map(String::as_str).collect(),
    };
    (CACHE, Json(metadata)).into_response()
}

pub(super) async fn jwks(State(server): State<Arc<AuthServer>>) -> impl IntoResponse {
    (CACHE, Json(server.jwks()))
}

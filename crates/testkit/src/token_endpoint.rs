//! Answers of a token endpoint (RFC 6749 §5, RFC 8693 §2.2).

use serde_json::{Value, json};

use crate::server::Reply;

/// A token, as RFC 8693 §2.2.1 has it, that lasts this many seconds.
pub fn issued(token: &str, expires_in: u64) -> Reply {
    Reply::json(&answer(token, expires_in)).header("Cache-Control", "no-store")
}

/// The body of [`issued`], for a test to change.
pub fn answer(token: &str, expires_in: u64) -> Value {
    json!({
        "access_token": token,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "token_type": "Bearer",
        "expires_in": expires_in,
    })
}

/// A refusal with this code (RFC 6749 §5.2).
pub fn refused(status: u16, code: &str) -> Reply {
    let body = json!({"error": code, "error_description": "as the test wants it"});
    Reply::body(status, "application/json", body.to_string()).header("Cache-Control", "no-store")
}

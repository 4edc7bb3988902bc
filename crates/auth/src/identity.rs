//! Who is calling.

use std::fmt;

use serde_json::{Map, Value};

/// A caller whose token was verified.
#[derive(Clone, PartialEq)]
pub struct Identity {
    /// `iss` of the token.
    pub issuer: String,
    /// `sub` of the token; never empty.
    pub subject: String,
    /// Every claim of the token.
    pub claims: Map<String, Value>,
    /// Scopes from `scope` (RFC 8693 §4.2) or `scp`.
    pub scopes: Vec<String>,
    /// `exp` of the token, seconds since 1970.
    pub expires_at: i64,
    /// SHA-256 of the token, the key of whatever is kept for it.
    pub token_digest: [u8; 32],
}

impl Identity {
    /// A human's name for the audit record: `name`, else `preferred_username`, else `email`.
    pub fn display_name(&self) -> Option<&str> {
        ["name", "preferred_username", "email"]
            .iter()
            .find_map(|claim| self.claims.get(*claim).and_then(Value::as_str).filter(|text| !text.is_empty()))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("issuer", &self.issuer)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

/// Scopes of a token: `scope` as one string with spaces, or `scp` as a string or an array.
pub(crate) fn scopes(claims: &Map<String, Value>) -> Vec<String> {
    let split = |text: &str| text.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
    match claims.get("scope").or_else(|| claims.get("scp")) {
        Some(Value::String(text)) => split(text),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

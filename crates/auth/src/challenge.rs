//! What a client without a good token is told: `WWW-Authenticate` (RFC 6750 §3) and protected resource
//! metadata (RFC 9728).

use http::HeaderValue;
use serde_json::{Value, json};

use crate::error::AuthError;

/// Well-known path of protected resource metadata (RFC 9728 §3).
pub const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

/// What the resource says about itself.
#[derive(Debug, Clone)]
pub struct ProtectedResource {
    /// The authorization servers to go to, the first one first.
    pub issuers: Vec<String>,
    /// The resource identifier: the exact URL that clients use. Without it there is no metadata.
    pub resource: Option<String>,
    /// Scopes that are advertised.
    pub scopes: Vec<String>,
}

impl ProtectedResource {
    /// The metadata document, when the resource's URL is known (RFC 9728 §2).
    pub fn metadata(&self) -> Option<Value> {
        let resource = self.resource.as_deref()?;
        // offline_access is the client's business with the authorization server, never a resource scope.
        let scopes: Vec<&str> =
            self.scopes.iter().map(String::as_str).filter(|scope| *scope != "offline_access").collect();
        Some(json!({
            "resource": resource,
            "authorization_servers": self.issuers,
            "bearer_methods_supported": ["header"],
            "scopes_supported": if scopes.is_empty() { vec!["openid"] } else { scopes },
        }))
    }

    /// Where the metadata is served: the well-known part goes between host and path (RFC 9728 §3.1).
    pub fn metadata_url(&self) -> Option<String> {
        let url = url::Url::parse(self.resource.as_deref()?).ok()?;
        let path = if url.path() == "/" { "" } else { url.path() };
        Some(format!("{}{METADATA_PATH}{path}", url.origin().ascii_serialization()))
    }

    /// The challenge for a refused caller.
    pub fn challenge(&self, error: &AuthError) -> HeaderValue {
        let mut parts = Vec::with_capacity(5);
        if let Some(issuer) = self.issuers.first() {
            parts.push(format!("realm={}", quoted(issuer)));
        }
        if let Some(url) = self.metadata_url() {
            parts.push(format!("resource_metadata={}", quoted(&url)));
        }
        // A client that is one scope short is told which ones to ask for, not all that there are.
        let scopes = match error {
            AuthError::InsufficientScope { required } => required.clone(),
            _ => self.scopes.join(" "),
        };
        if !scopes.is_empty() {
            parts.push(format!("scope={}", quoted(&scopes)));
        }
        parts.push(format!("error={}", quoted(error.code())));
        parts.push(format!("error_description={}", quoted(&error.to_string())));
        HeaderValue::from_str(&format!("Bearer {}", parts.join(", ")))
            .unwrap_or_else(|_| HeaderValue::from_static("Bearer"))
    }
}

/// A quoted-string (RFC 9110 §5.6.4); what may not stand in one becomes `?`.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            ' '..='~' => quoted.push(character),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(url: Option<&str>) -> ProtectedResource {
        ProtectedResource {
            issuers: vec!["https://idp.example/a".to_owned(), "https://idp.example/b".to_owned()],
            resource: url.map(str::to_owned),
            scopes: vec!["mcp:read".to_owned(), "offline_access".to_owned()],
        }
    }

    #[test]
    fn a_challenge_says_where_to_go_and_what_was_wrong() {
        let challenge = resource(Some("https://mcp.example/tools")).challenge(&AuthError::Expired);
        assert_eq!(
            challenge.to_str().unwrap(),
            "Bearer realm=\"https://idp.example/a\", \
             resource_metadata=\"https://mcp.example/.well-known/oauth-protected-resource/tools\", \
             scope=\"mcp:read offline_access\", error=\"invalid_token\", \
             error_description=\"Invalid token: it has expired\""
        );
        let short = AuthError::InsufficientScope { required: "mcp:write".to_owned() };
        let challenge = resource(None).challenge(&short);
        assert_eq!(
            challenge.to_str().unwrap(),
            "Bearer realm=\"https://idp.example/a\", scope=\"mcp:write\", error=\"insufficient_scope\", \
             error_description=\"the token lacks a scope that is needed here: mcp:write\""
        );
        let without = resource(None).challenge(&AuthError::MissingToken);
        assert!(!without.to_str().unwrap().contains("resource_metadata"));
    }

    #[test]
    fn metadata_names_the_exact_resource_and_no_offline_access() {
        let metadata = resource(Some("https://mcp.example/tools")).metadata().unwrap();
        assert_eq!(metadata["resource"], "https://mcp.example/tools");
        let both = json!(["https://idp.example/a", "https://idp.example/b"]);
        assert_eq!(metadata["authorization_servers"], both);
        assert_eq!(metadata["scopes_supported"], json!(["mcp:read"]));
        assert_eq!(resource(None).metadata(), None);
    }
}

//! The identifier of an authorization server.

use std::fmt;

use skep_api::address::is_loopback;
use url::Url;

/// An issuer identifier: an https URL without query and fragment (RFC 8414 §2). http is accepted on a
/// loopback host alone. The string is kept as it was given, since verifiers compare it byte by byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Issuer {
    given: String,
    path: String,
}

/// Why a string is no issuer identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// It does not parse as a URL.
    #[error("the issuer is not a URL; write it as https://HOST or https://HOST/PATH")]
    NotAUrl(#[source] url::ParseError),
    /// It has a query or a fragment.
    #[error("the issuer has a query, a fragment, a user name or a space; RFC 8414 allows only host and path")]
    NotBare,
    /// The path is one that well-known documents need.
    #[error("the path of the issuer must not hold /.well-known; the server puts its documents there")]
    ReservedPath,
    /// The scheme lets anyone on the way replace the keys.
    #[error("the issuer uses {scheme}; use https (http is accepted on a loopback host only)")]
    Insecure {
        /// The scheme that was given.
        scheme: String,
    },
}

impl Issuer {
    /// Checks and keeps an issuer identifier.
    ///
    /// # Errors
    /// When it is not an absolute https URL (or http on loopback) made of host and path alone.
    pub fn parse(given: &str) -> Result<Self, IssuerError> {
        let url = Url::parse(given).map_err(IssuerError::NotAUrl)?;
        // The parser drops spaces and line ends that a verifier would compare.
        if !given.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(IssuerError::NotBare);
        }
        if url.path().contains("/.well-known") {
            return Err(IssuerError::ReservedPath);
        }
        let has_user = !url.username().is_empty() || url.password().is_some();
        if url.query().is_some() || url.fragment().is_some() || has_user {
            return Err(IssuerError::NotBare);
        }
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(&url) => {}
            scheme => return Err(IssuerError::Insecure { scheme: scheme.to_owned() }),
        }
        Ok(Self { given: given.to_owned(), path: url.path().trim_end_matches('/').to_owned() })
    }

    /// The identifier as it was given.
    pub fn as_str(&self) -> &str {
        &self.given
    }

    /// The path without a slash at its end; empty for an issuer at the root of its host.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The URL of something under this issuer; `suffix` starts with a slash.
    pub fn join(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.given.trim_end_matches('/'))
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_kept_as_it_was_given() {
        for given in
            ["https://id.example", "https://id.example/", "https://id.example/realms/a", "http://127.0.0.1:9"]
        {
            assert_eq!(Issuer::parse(given).unwrap().as_str(), given);
        }
        assert_eq!(Issuer::parse("https://id.example/").unwrap().join("/x"), "https://id.example/x");
        assert_eq!(Issuer::parse("https://id.example/realms/a").unwrap().path(), "/realms/a");
    }

    #[test]
    fn what_is_no_issuer_is_refused() {
        let refused = |given: &str| Issuer::parse(given).unwrap_err().to_string();
        insta::assert_debug_snapshot!([
            refused("id.example"),
            refused("https://id.example?x"),
            refused("https://id.example#x"),
            refused("https://user@id.example"),
            refused("http://id.example"),
            refused("ftp://id.example"),
            refused(" https://id.example"),
            refused("https://id.example/.well-known/openid-configuration"),
        ]);
    }
}

//! Who is calling.

use std::fmt;

use serde_json::{Map, Value};

/// A caller whose token was verified.
#[derive(Clone, PartialEq)]
pub struct Identity {
    /// `iss` of the token.
    pub issuer: String,
    /// Who they are, for policies, limits and audit: `sub`, or what the configuration maps to it, after
    /// the issuer's prefix; `client:ID` for a client that calls for itself. Never empty.
    pub subject: String,
    /// Every claim of the token, in the issuer's own words. `email`, `name`, `groups` and `roles` are what the configuration maps to
    /// them, where it does.
    pub claims: Map<String, Value>,
    /// Scopes from `scope` (RFC 8693 §4.2) or `scp`, as the token has them, and those that the scope map
    /// makes of them.
    pub scopes: Vec<String>,
    /// Client that the token was issued to: `azp`, `client_id`, `cid` or `appid`.
    pub client: Option<String>,
    /// The client calls for itself, with no user behind it.
    pub is_client: bool,
    /// The token says that the caller has groups, and not which. An empty list of groups is no answer.
    pub groups_unknown: bool,
    /// How names that the issuer gives, of groups too, become names here.
    pub namespace: Namespace,
    /// `exp` of the token, seconds since 1970.
    pub expires_at: i64,
    /// SHA-256 of the token, the key of whatever is kept for it.
    pub token_digest: [u8; 32],
}

/// The names of one issuer among those of others. What two issuers call alike are two things.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Put before each name.
    pub prefix: String,
    /// Prefixes of other issuers, which no name of this one may begin with.
    pub foreign: Vec<String>,
}

impl Namespace {
    /// What is called `name` by the issuer, as it is called here; `None` when that would look like a name of
    /// another issuer.
    pub fn name(&self, name: &str) -> Option<String> {
        let name = format!("{}{name}", self.prefix);
        let is_foreign = self.foreign.iter().any(|prefix| name.starts_with(prefix.as_str()));
        (!is_foreign).then_some(name)
    }
}

impl Identity {
    /// An identity of which nothing is known but who it is.
    pub fn of(issuer: impl Into<String>, subject: impl Into<String>) -> Self {
        Self {
            issuer: issuer.into(),
            subject: subject.into(),
            claims: Map::new(),
            scopes: Vec::new(),
            client: None,
            is_client: false,
            groups_unknown: false,
            namespace: Namespace::default(),
            expires_at: i64::MAX,
            token_digest: [0; 32],
        }
    }

    /// A human's name for the audit record: `name`, else `preferred_username`, else `email`, else the
    /// `username` of an introspected token (RFC 7662 §2.2).
    pub fn display_name(&self) -> Option<&str> {
        ["name", "preferred_username", "email", "username"]
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

/// SHA-256 of a token: the key of whatever is kept for it.
pub fn token_digest(token: &str) -> [u8; 32] {
    let mut digest = [0; 32];
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    digest.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    digest
}

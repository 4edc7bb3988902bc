//! Configured clients.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use skep_api::secret::Secret;
use subtle::ConstantTimeEq as _;
use url::Url;

/// The digest of a client's secret. The secret itself is not kept.
#[derive(Debug, Clone, Copy)]
pub struct SecretDigest([u8; 32]);

impl SecretDigest {
    /// The digest of a secret.
    pub fn of(secret: &Secret) -> Self {
        Self(Sha256::digest(secret.expose().as_bytes()).into())
    }

    /// A digest that was computed elsewhere: 64 hexadecimal digits. None: it is no such text.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut digest = [0_u8; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        for (slot, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
            *slot = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(digest))
    }

    /// Compares in a time that does not depend on the values.
    fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// A grant that a client may be allowed (RFC 6749 §1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// RFC 6749 §4.4.
    ClientCredentials,
    /// RFC 8693.
    #[serde(rename = "urn:ietf:params:oauth:grant-type:token-exchange", alias = "token_exchange")]
    TokenExchange,
}

impl GrantType {
    /// Every grant that the server has.
    pub const ALL: [Self; 2] = [Self::ClientCredentials, Self::TokenExchange];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
        }
    }

    /// The grant of this name.
    pub fn from_wire(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|grant| grant.as_str() == name)
    }
}

/// A confidential client that an operator configured.
#[derive(Debug, Clone)]
pub struct Client {
    /// The client identifier (RFC 6749 §2.2).
    pub id: String,
    /// What it authenticates with.
    pub secret: SecretDigest,
    /// The resources it may ask tokens for, spelled as they appear in `aud`.
    pub audiences: Vec<Audience>,
    /// The resources that it may exchange users' tokens for, spelled as they appear in `aud`.
    pub exchange_audiences: Vec<Audience>,
    /// Whom the users' tokens that it exchanges may be for, besides the client itself.
    pub subject_audiences: Vec<Audience>,
    /// The scopes it may ask for. Asked for none, it gets all; of a user's, those that the user has too.
    pub scopes: Vec<String>,
    /// The grants it may use.
    pub grants: Vec<GrantType>,
}

impl Client {
    /// A client that may use client_credentials, for nothing yet.
    pub fn new(id: impl Into<String>, secret: &Secret) -> Self {
        Self {
            id: id.into(),
            secret: SecretDigest::of(secret),
            audiences: Vec::new(),
            exchange_audiences: Vec::new(),
            subject_audiences: Vec::new(),
            scopes: Vec::new(),
            grants: vec![GrantType::ClientCredentials],
        }
    }

    /// Lets the client ask for tokens for one more resource.
    pub fn with_audience(mut self, audience: impl Into<String>) -> Self {
        self.audiences.push(Audience::new(audience));
        self
    }

    /// Lets the client exchange users' tokens for tokens for one more resource.
    pub fn with_exchange_audience(mut self, audience: impl Into<String>) -> Self {
        self.exchange_audiences.push(Audience::new(audience));
        if !self.grants.contains(&GrantType::TokenExchange) {
            self.grants.push(GrantType::TokenExchange);
        }
        self
    }

    /// Lets the client exchange users' tokens that are for this resource: one that the client serves.
    pub fn with_subject_audience(mut self, audience: impl Into<String>) -> Self {
        self.subject_audiences.push(Audience::new(audience));
        self
    }

    /// Lets the client ask for one more scope.
    pub fn with_scope(mut self, scope: impl Into<String>) -> Self {
        self.scopes.push(scope.into());
        self
    }
}

/// Who a token is for. Compared with a `resource` parameter after normalisation of both (RFC 3986 §6.2.2
/// and §6.2.3: case of scheme and host, default port, an empty path is `/`), never by prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience {
    given: String,
    normal: Option<Url>,
}

impl Audience {
    /// An audience, spelled as it shall appear in `aud`.
    pub fn new(given: impl Into<String>) -> Self {
        let given = given.into();
        let normal = Url::parse(&given).ok();
        Self { given, normal }
    }

    /// The value of `aud`.
    pub fn as_str(&self) -> &str {
        &self.given
    }

    /// True when this is `name`, in any spelling if it is a URL.
    pub fn is_called(&self, name: &str) -> bool {
        self.given == name || Url::parse(name).is_ok_and(|url| self.is(&url))
    }

    /// True when `resource` names this audience.
    pub fn is(&self, resource: &Url) -> bool {
        self.normal.as_ref() == Some(resource)
    }
}

/// All configured clients.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    by_id: BTreeMap<String, Client>,
}

/// A client that proved who it is. Only [`Clients::authenticate`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct AuthenticatedClient<'a>(&'a Client);

impl<'a> AuthenticatedClient<'a> {
    /// The client's configuration.
    pub fn client(self) -> &'a Client {
        self.0
    }
}

impl Clients {
    /// Adds a client; false when its id is taken.
    #[must_use]
    pub fn insert(&mut self, client: Client) -> bool {
        if self.by_id.contains_key(&client.id) {
            return false;
        }
        self.by_id.insert(client.id.clone(), client);
        true
    }

    /// All clients, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Client> {
        self.by_id.values()
    }

    /// Checks a secret. An unknown client takes as long as a wrong secret.
    pub fn authenticate(&self, id: &str, secret: &Secret) -> Option<AuthenticatedClient<'_>> {
        let given = SecretDigest::of(secret);
        let client = self.by_id.get(id);
        let expected = client.map_or(SecretDigest([0; 32]), |client| client.secret);
        let matches = expected.matches(&given);
        client.filter(|_| matches).map(AuthenticatedClient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_secret_of_a_known_client_authenticates() {
        let mut clients = Clients::default();
        assert!(clients.insert(Client::new("ci", &Secret::new("s3cret"))));
        assert!(!clients.insert(Client::new("ci", &Secret::new("other"))), "an id is taken once");
        let is = |id, secret| clients.authenticate(id, &Secret::new(secret)).is_some();
        assert!(is("ci", "s3cret"));
        assert!(!is("ci", "other"));
        assert!(!is("ci", ""));
        assert!(!is("nobody", "s3cret"));
    }

    #[test]
    fn a_digest_is_read_from_hex() {
        let digest =
            SecretDigest::from_hex("2BB80D537B1DA3E38BD30361AA855686BDE0EACD7162FEF6A25FE97BF527A25B")
                .unwrap();
        assert!(digest.matches(&SecretDigest::of(&Secret::new("secret"))));
        for bad in ["", "2b", &"g".repeat(64), &"ä".repeat(32)] {
            assert!(SecretDigest::from_hex(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn audiences_are_compared_after_normalisation_and_never_by_prefix() {
        let is = |audience: &str, resource: &str| Audience::new(audience).is(&Url::parse(resource).unwrap());
        assert!(is("https://mcp.example", "https://mcp.example/"));
        assert!(is("https://mcp.example/mcp", "HTTPS://MCP.example:443/mcp"));
        assert!(!is("https://mcp.example/mcp", "https://mcp.example/mcp/"));
        assert!(!is("https://mcp.example/mcp", "https://mcp.example/mcp2"));
        assert!(!is("https://mcp.example/mcp", "https://mcp.example/mcp?x"));
        assert!(!is("https://mcp.example", "https://mcp.example.evil.example/"));
        assert!(!is("mcp", "https://mcp/"));
    }
}

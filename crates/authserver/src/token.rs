//! Access tokens (RFC 9068).

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use skep_api::secret::Secret;

/// The JOSE type of an access token (RFC 9068 §2.1).
pub const ACCESS_TOKEN_TYPE: &str = "at+jwt";

/// A person, as a login established them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct User {
    /// The subject identifier: stable, never reused.
    pub subject: String,
    /// The name to show.
    pub name: Option<String>,
    /// The mail address. Never an identity.
    pub email: Option<String>,
    /// The groups the user is in.
    pub groups: Vec<String>,
    /// Further claims. Those that the server sets itself are not overwritten.
    pub extra: Map<String, Value>,
}

/// What a user's token is to say.
#[derive(Debug, Clone, Copy)]
pub struct UserGrant<'a> {
    /// Whose token it is.
    pub user: &'a User,
    /// The client that acts for the user.
    pub client_id: &'a str,
    /// Who the token is for.
    pub audience: &'a str,
    /// What it allows.
    pub scopes: &'a [String],
    /// How long it lives.
    pub lifetime: Duration,
}

/// A token that was made.
#[derive(Debug, Clone)]
pub struct IssuedToken {
    /// The token.
    pub access_token: Secret,
    /// How long it lives.
    pub expires_in: Duration,
    /// What it allows; may be less than what was asked.
    pub scopes: Vec<String>,
    /// What sort of token it is, where an exchange was asked for (RFC 8693 §2.2.1).
    pub issued_token_type: Option<&'static str>,
}

/// The claims of an access token, in the order RFC 9068 §2.2 lists them.
#[derive(Debug, Serialize)]
pub(crate) struct Claims<'a> {
    pub(crate) iss: &'a str,
    pub(crate) exp: i64,
    pub(crate) aud: &'a str,
    pub(crate) sub: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) iat: i64,
    pub(crate) jti: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) email: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub(crate) groups: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) act: Option<&'a Value>,
    #[serde(flatten)]
    pub(crate) extra: Map<String, Value>,
}

/// Claims that say who a token is from, for and about: never taken from [`User::extra`].
const OWN_CLAIMS: [&str; 17] = [
    "iss",
    "exp",
    "aud",
    "sub",
    "client_id",
    "iat",
    "nbf",
    "jti",
    "scope",
    "scp",
    "name",
    "email",
    "groups",
    "cnf",
    "act",
    "may_act",
    "tsid",
];

/// The further claims that a user may bring.
pub(crate) fn further_claims(user: &User) -> Map<String, Value> {
    let further = user.extra.iter().filter(|(name, _)| !OWN_CLAIMS.contains(&name.as_str()));
    further.map(|(name, value)| (name.clone(), value.clone())).collect()
}

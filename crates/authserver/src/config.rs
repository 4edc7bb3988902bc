//! Configuration: what a file may say ([`RawConfig`]) and what the server works with ([`Config`]).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use skep_api::secret::Secret;

use crate::clients::{Audience, Client, Clients, GrantType, SecretDigest};
use crate::grants::is_scope_token;
use crate::issuer::{Issuer, IssuerError};
use crate::keys::{KeyError, SigningKey};

/// How long an access token lives when nothing is said.
pub const DEFAULT_ACCESS_TOKEN_LIFETIME: Duration = Duration::from_secs(600);

const SHORTEST_LIFETIME: Duration = Duration::from_secs(10);
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The configuration file of the authorization server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RawConfig {
    /// The issuer identifier: an https URL of host and path (http on a loopback host only).
    pub issuer: String,
    /// How long tokens live.
    #[serde(default)]
    pub token_lifespans: RawLifespans,
    /// The signing keys, the active one first. None: a key is made at every start.
    #[serde(default)]
    pub signing_keys: Vec<RawSigningKey>,
    /// The clients.
    #[serde(default)]
    pub clients: Vec<RawClient>,
}

/// How long tokens live, as durations such as `10m` or `1h30m`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RawLifespans {
    /// Access tokens: 10 seconds to 24 hours. Default: 10 minutes.
    pub access_token: Option<String>,
}

/// A signing key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RawSigningKey {
    /// A file with an unencrypted PKCS#8 private key (P-256) in PEM.
    pub file: PathBuf,
}

/// A client. Exactly one of `clientSecretFile` and `clientSecretSha256` is given.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RawClient {
    /// The client identifier.
    pub client_id: String,
    /// A file with the client's secret; one line end at its end is dropped.
    pub client_secret_file: Option<PathBuf>,
    /// The SHA-256 of the client's secret, in hexadecimal. Only for secrets that nobody can guess.
    pub client_secret_sha256: Option<String>,
    /// The resources that the client may ask tokens of its own for, as they shall appear in `aud`. At least
    /// one with the grant client_credentials.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// The resources that the client may exchange users' tokens for, as they shall appear in `aud`. At least
    /// one with the token exchange grant.
    #[serde(default)]
    pub exchange_audiences: Vec<String>,
    /// The resources that the client serves, as they appear in `aud`: users' tokens for one of them are those
    /// that the client may exchange. None: only tokens that are for the client itself, whose `aud` has its
    /// `clientId`.
    #[serde(default)]
    pub subject_audiences: Vec<String>,
    /// The scopes that the client may ask for.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The grants that the client may use: `client_credentials` and
    /// `urn:ietf:params:oauth:grant-type:token-exchange` (`token_exchange` for short). Default:
    /// client_credentials.
    pub grant_types: Option<Vec<GrantType>>,
}

/// A configuration that holds together.
#[derive(Debug)]
pub struct Config {
    /// Who issues.
    pub issuer: Issuer,
    /// How long access tokens of the token endpoint live.
    pub access_token_lifetime: Duration,
    /// The signing keys, the active one first; none: one is made.
    pub signing_keys: Vec<SigningKey>,
    /// Who may ask.
    pub clients: Clients,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `issuer` is wrong.
    #[error("issuer: not usable")]
    Issuer(#[source] IssuerError),
    /// A duration is wrong.
    #[error("tokenLifespans.accessToken: must be a duration from 10s to 24h, such as 10m")]
    Lifetime,
    /// A file can't be read.
    #[error("{field}: can't read {path}")]
    File {
        /// Where in the configuration.
        field: String,
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A signing key is wrong.
    #[error("{field}: not usable")]
    Key {
        /// Where in the configuration.
        field: String,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// A client is wrong.
    #[error("{field}: {problem}")]
    Client {
        /// Where in the configuration.
        field: String,
        /// What is wrong and what to do.
        problem: &'static str,
    },
}

impl Config {
    /// A configuration with no clients and a key of its own.
    pub fn new(issuer: Issuer) -> Self {
        Self {
            issuer,
            access_token_lifetime: DEFAULT_ACCESS_TOKEN_LIFETIME,
            signing_keys: Vec::new(),
            clients: Clients::default(),
        }
    }

    /// Checks a configuration file. Files that it names are read with `read_file`.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place in the file. Never a secret.
    pub fn from_raw(
        raw: RawConfig,
        read_file: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let read = |field: &str, path: &Path| {
            read_file(path).map(Secret::new).map_err(|source| ConfigError::File {
                field: field.to_owned(),
                path: path.display().to_string(),
                source,
            })
        };
        let mut config = Self::new(Issuer::parse(&raw.issuer).map_err(ConfigError::Issuer)?);
        if let Some(text) = raw.token_lifespans.access_token {
            config.access_token_lifetime = lifetime(&text).ok_or(ConfigError::Lifetime)?;
        }
        for (index, key) in raw.signing_keys.iter().enumerate() {
            let field = format!("signingKeys[{index}].file");
            let pem = read(&field, &key.file)?;
            let key = SigningKey::from_pem(&pem).map_err(|source| ConfigError::Key { field, source })?;
            config.signing_keys.push(key);
        }
        for (index, client) in raw.clients.into_iter().enumerate() {
            let field = format!("clients[{index}]");
            let client = check_client(&field, client, &read)?;
            if !config.clients.insert(client) {
                return Err(refused(&field, "clientId", "another client has this id"));
            }
        }
        Ok(config)
    }
}

fn check_client(
    field: &str,
    raw: RawClient,
    read: &impl Fn(&str, &Path) -> Result<Secret, ConfigError>,
) -> Result<Client, ConfigError> {
    // RFC 6749 §A.1: visible ASCII and space.
    if raw.client_id.is_empty() || !raw.client_id.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
        return Err(refused(field, "clientId", "must be visible ASCII and not empty"));
    }
    let secret = match (&raw.client_secret_file, &raw.client_secret_sha256) {
        (Some(path), None) => secret_of_file(field, &read(&format!("{field}.clientSecretFile"), path)?)?,
        (None, Some(hex)) => SecretDigest::from_hex(hex)
            .ok_or_else(|| refused(field, "clientSecretSha256", "must be 64 hexadecimal digits"))?,
        _ => {
            let problem = "give exactly one of clientSecretFile and clientSecretSha256";
            return Err(ConfigError::Client { field: field.to_owned(), problem });
        }
    };
    let grants = raw.grant_types.unwrap_or_else(|| vec![GrantType::ClientCredentials]);
    let exchanges = grants.contains(&GrantType::TokenExchange);
    for (name, audiences, needed) in [
        ("audiences", &raw.audiences, grants.contains(&GrantType::ClientCredentials)),
        ("exchangeAudiences", &raw.exchange_audiences, exchanges),
    ] {
        if (needed && audiences.is_empty()) || audiences.iter().any(String::is_empty) {
            return Err(refused(field, name, "name at least one resource, none of them empty"));
        }
    }
    for (name, audiences) in
        [("exchangeAudiences", &raw.exchange_audiences), ("subjectAudiences", &raw.subject_audiences)]
    {
        if !exchanges && !audiences.is_empty() {
            return Err(refused(field, name, "they need token_exchange in grantTypes"));
        }
    }
    if raw.subject_audiences.iter().any(String::is_empty) {
        return Err(refused(field, "subjectAudiences", "none of them may be empty"));
    }
    if !raw.scopes.iter().all(|scope| is_scope_token(scope)) {
        let problem = "a scope must be visible ASCII without space, quote and backslash";
        return Err(refused(field, "scopes", problem));
    }
    Ok(Client {
        id: raw.client_id,
        secret,
        audiences: raw.audiences.into_iter().map(Audience::new).collect(),
        exchange_audiences: raw.exchange_audiences.into_iter().map(Audience::new).collect(),
        subject_audiences: raw.subject_audiences.into_iter().map(Audience::new).collect(),
        scopes: raw.scopes,
        grants,
    })
}

fn secret_of_file(field: &str, text: &Secret) -> Result<SecretDigest, ConfigError> {
    let line = text.expose().strip_suffix('\n').unwrap_or(text.expose());
    let secret = line.strip_suffix('\r').unwrap_or(line);
    if secret.is_empty() {
        return Err(refused(field, "clientSecretFile", "the file is empty"));
    }
    Ok(SecretDigest::of(&Secret::new(secret)))
}

fn lifetime(text: &str) -> Option<Duration> {
    let duration: jiff::SignedDuration = text.parse().ok()?;
    let duration = Duration::try_from(duration).ok()?;
    (SHORTEST_LIFETIME..=LONGEST_LIFETIME).contains(&duration).then_some(duration)
}

fn refused(client: &str, name: &str, problem: &'static str) -> ConfigError {
    ConfigError::Client { field: format!("{client}.{name}"), problem }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    fn files(path: &Path) -> io::Result<String> {
        match path.to_str() {
            Some("/keys/p256.pem") => Ok(include_str!("../tests/fixtures/p256.pem").to_owned()),
            Some("/keys/p384.pem") => Ok(include_str!("../tests/fixtures/p384.pem").to_owned()),
            Some("/secrets/ci") => Ok("s3cret\n".to_owned()),
            Some("/secrets/empty") => Ok("\n".to_owned()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    fn load(yaml: &str) -> Result<Config, String> {
        let raw: RawConfig = serde_saphyr::from_str(yaml).map_err(|e| {
            let text = e.to_string();
            text.lines().next().unwrap_or_default().to_owned()
        })?;
        Config::from_raw(raw, files).map_err(|error| match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }

    #[test]
    fn a_whole_configuration_is_read() {
        let config = load(
            "issuer: https://id.example/tenant
tokenLifespans: {accessToken: 1h30m}
signingKeys: [{file: /keys/p256.pem}]
clients:
- clientId: ci
  clientSecretFile: /secrets/ci
  audiences: [https://mcp.example/mcp]
  scopes: [mcp:tools]
- clientId: batch
  clientSecretSha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b
  audiences: [https://mcp.example/mcp, other]
  grantTypes: []
- clientId: proxy
  clientSecretFile: /secrets/ci
  exchangeAudiences: [https://backend.example]
  subjectAudiences: [https://mcp.example/mcp]
  grantTypes: [urn:ietf:params:oauth:grant-type:token-exchange]
- clientId: both
  clientSecretFile: /secrets/ci
  audiences: [https://mcp.example/mcp]
  exchangeAudiences: [https://backend.example]
  grantTypes: [token_exchange, client_credentials]
",
        )
        .unwrap();
        let grants: Vec<_> = config.clients.iter().map(|client| client.grants.as_slice()).collect();
        use GrantType::{ClientCredentials, TokenExchange};
        // In the order of the ids: batch, both, ci, proxy.
        let expected: [&[GrantType]; 4] =
            [&[], &[TokenExchange, ClientCredentials], &[ClientCredentials], &[TokenExchange]];
        assert_eq!(grants, expected);
        let proxy = config.clients.iter().find(|client| client.id == "proxy").unwrap();
        assert_eq!(proxy.subject_audiences, [Audience::new("https://mcp.example/mcp")]);
        assert_eq!(config.access_token_lifetime, Duration::from_secs(5400));
        assert_eq!(config.signing_keys.len(), 1);
        assert!(
            config.clients.authenticate("ci", &Secret::new("s3cret")).is_some(),
            "the line end is dropped"
        );
        assert!(config.clients.authenticate("batch", &Secret::new("secret")).is_some());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let client = |rest: &str| format!("issuer: https://id.example\nclients:\n- clientId: ci\n{rest}");
        let table = [
            "issuer: nonsense".to_owned(),
            "issuer: http://id.example".to_owned(),
            "issuer: https://id.example\nissuers: []".to_owned(),
            "issuer: https://id.example\ntokenLifespans: {accessToken: 1s}".to_owned(),
            "issuer: https://id.example\ntokenLifespans: {accessToken: 10}".to_owned(),
            "issuer: https://id.example\ntokenLifespans: {accessToken: -10m}".to_owned(),
            "issuer: https://id.example\nsigningKeys: [{file: /keys/none.pem}]".to_owned(),
            "issuer: https://id.example\nsigningKeys: [{file: /keys/p384.pem}]".to_owned(),
            client("  audiences: [a]"),
            client("  audiences: [a]\n  clientSecretFile: /secrets/ci\n  clientSecretSha256: ab"),
            client("  audiences: [a]\n  clientSecretSha256: ab"),
            client("  audiences: [a]\n  clientSecretFile: /secrets/empty"),
            client("  audiences: [a]\n  clientSecretFile: /secrets/none"),
            client("  audiences: []\n  clientSecretFile: /secrets/ci"),
            client("  audiences: [a]\n  clientSecretFile: /secrets/ci\n  scopes: ['a b']"),
            client("  audiences: [a]\n  clientSecret: inline"),
            client("  clientSecretFile: /secrets/ci\n  grantTypes: [token_exchange]"),
            client(
                "  clientSecretFile: /secrets/ci\n  grantTypes: [token_exchange]\n  exchangeAudiences: ['']",
            ),
            client("  audiences: [a]\n  clientSecretFile: /secrets/ci\n  exchangeAudiences: [b]"),
            client("  audiences: [a]\n  clientSecretFile: /secrets/ci\n  subjectAudiences: [b]"),
            client(
                "  clientSecretFile: /secrets/ci\n  grantTypes: [token_exchange]\n  exchangeAudiences: [a]\n  subjectAudiences: ['']",
            ),
            client("  audiences: [a]\n  clientSecretFile: /secrets/ci\n  grantTypes: [password]"),
            client(
                "  audiences: [a]\n  clientSecretFile: /secrets/ci\n- clientId: ci\n  audiences: [a]\n  clientSecretFile: /secrets/ci",
            ),
            "issuer: https://id.example\nclients: [{clientId: 'ä', audiences: [a]}]".to_owned(),
        ];
        let said: Vec<_> = table.iter().map(|yaml| (yaml.as_str(), load(yaml).unwrap_err())).collect();
        insta::assert_debug_snapshot!(said);
    }
}

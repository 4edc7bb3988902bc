//! Where Keycloak is, and as whom we come.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use skep_api::address::Egress;
use skep_api::secret::Secret;
use url::Url;

use super::KeycloakError;
use super::dynamic::RegistrationTokens;

/// Longest file of a credential, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Keys of a folder (a mounted Secret) that holds a login.
const INITIAL_ACCESS_TOKEN: &str = "initial-access-token";
const CLIENT_ID: &str = "client-id";
const CLIENT_SECRET: &str = "client-secret";
const USERNAME: &str = "username";
const PASSWORD: &str = "password";

/// One realm of one Keycloak.
#[derive(Debug, Clone)]
pub struct KeycloakSettings {
    /// What stands before `/realms`, such as `https://keycloak.example`; with `/auth` in old versions.
    pub url: Url,
    /// The realm that clients are registered in.
    pub realm: String,
    /// The realm that an administrator logs in at; `master` as a rule.
    pub admin_realm: String,
    /// Further CA certificates, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// What the process may reach. Keycloak's own address is the word of who runs it, so it may be private and
    /// plain http.
    pub egress: Egress,
    /// For one call.
    pub timeout: Duration,
    /// Where the tokens are kept with which clients are managed that were registered by
    /// [`Login::InitialAccess`]; in memory without it.
    pub registrations: Option<Arc<dyn RegistrationTokens>>,
}

impl KeycloakSettings {
    /// A realm, with the defaults for all else: administrators of `master`, ten seconds for a call, the
    /// machine's own CA certificates.
    ///
    /// # Errors
    /// When one is no URL, or the other can't be a realm's name.
    pub fn new(url: &str, realm: &str) -> Result<Self, KeycloakError> {
        let settings = Self {
            url: base(url)?,
            realm: realm.to_owned(),
            admin_realm: "master".to_owned(),
            ca_pem: None,
            egress: Egress::default(),
            timeout: Duration::from_secs(10),
            registrations: None,
        };
        settings.check()?;
        Ok(settings)
    }

    /// The realm's issuer as Keycloak names it, unless it was told another public name.
    pub fn issuer(&self) -> String {
        format!("{}/realms/{}", self.url.as_str().trim_end_matches('/'), self.realm)
    }

    pub(super) fn check(&self) -> Result<(), KeycloakError> {
        for realm in [&self.realm, &self.admin_realm] {
            let reason = match realm.as_str() {
                "" => "it is empty",
                "." | ".." => "it would change the path",
                name if name.contains(['/', '\\']) => "it contains a slash",
                name if name.chars().any(char::is_control) => "it contains control characters",
                _ => continue,
            };
            return Err(KeycloakError::Realm { realm: realm.clone(), reason });
        }
        Ok(())
    }
}

fn base(text: &str) -> Result<Url, KeycloakError> {
    let refused = |reason| KeycloakError::Url { url: shown(text), reason };
    let url =
        Url::parse(text.trim()).map_err(|_| refused("it is no URL; write it as https://keycloak.example"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(refused("it is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("a user or password in it is never sent; give them apart"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused("it has a query or a fragment"));
    }
    Ok(url)
}

/// Passwords are written into URLs now and then.
fn shown(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(start), Some(end)) if start < end => {
            let head = text.get(..start + 3).unwrap_or_default();
            format!("{head}...{}", text.get(end..).unwrap_or_default())
        }
        _ => text.to_owned(),
    }
}

/// As whom we come.
#[derive(Debug, Clone)]
pub enum Login {
    /// An administrator of `master`, by the password grant of its public client `admin-cli`.
    Password { username: String, password: Secret },
    /// A client of the realm that has a service account with roles of `realm-management`.
    Client { id: String, secret: Secret },
    /// An initial access token: it makes clients and does nothing else (RFC 7591 §3).
    InitialAccess(Secret),
}

/// Why a folder holds no login.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("cannot read {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is empty, larger than 64 KiB, or not a file")]
    Content { path: String },
    #[error("{folder} has {present} but not {missing}; both are needed")]
    Half { folder: String, present: &'static str, missing: &'static str },
}

impl Login {
    /// Reads a login from a folder, such as a mounted Secret. It holds `initial-access-token`, or `client-id` and
    /// `client-secret`, or `username` and `password`; the first of these counts. `None`: nothing of that is
    /// there yet.
    ///
    /// # Errors
    /// When a file can't be read or is empty, or one of a pair is missing.
    pub fn read(folder: &Path) -> Result<Option<Self>, LoginError> {
        if let Some(token) = content(folder, INITIAL_ACCESS_TOKEN)? {
            return Ok(Some(Self::InitialAccess(token)));
        }
        if let Some((id, secret)) = pair(folder, CLIENT_ID, CLIENT_SECRET)? {
            return Ok(Some(Self::Client { id: id.expose().to_owned(), secret }));
        }
        Ok(pair(folder, USERNAME, PASSWORD)?
            .map(|(username, password)| Self::Password { username: username.expose().to_owned(), password }))
    }

    /// True when both say the same.
    pub fn same(&self, other: &Self) -> bool {
        let equal = |one: &Secret, other: &Secret| one.expose() == other.expose();
        match (self, other) {
            (Self::Password { username, password }, Self::Password { username: name, password: word }) => {
                username == name && equal(password, word)
            }
            (Self::Client { id, secret }, Self::Client { id: other_id, secret: other_secret }) => {
                id == other_id && equal(secret, other_secret)
            }
            (Self::InitialAccess(one), Self::InitialAccess(other)) => equal(one, other),
            _ => false,
        }
    }

    /// Who that is, for messages.
    pub fn who(&self) -> String {
        match self {
            Self::Password { username, .. } => format!("administrator {username:?}"),
            Self::Client { id, .. } => format!("service account {id:?}"),
            Self::InitialAccess(_) => "the initial access token".to_owned(),
        }
    }
}

fn pair(
    folder: &Path,
    first: &'static str,
    second: &'static str,
) -> Result<Option<(Secret, Secret)>, LoginError> {
    let half = |present, missing| LoginError::Half { folder: folder.display().to_string(), present, missing };
    match (content(folder, first)?, content(folder, second)?) {
        (Some(one), Some(other)) => Ok(Some((one, other))),
        (Some(_), None) => Err(half(first, second)),
        (None, Some(_)) => Err(half(second, first)),
        (None, None) => Ok(None),
    }
}

/// A file of one line; the line's end is not part of it. `None` when it is not there.
fn content(folder: &Path, name: &str) -> Result<Option<Secret>, LoginError> {
    let path = folder.join(name);
    let shown = || path.display().to_string();
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LoginError::Read { path: shown(), source }),
    };
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(LoginError::Content { path: shown() });
    }
    let whole = std::fs::read_to_string(&path)
        .map(Secret::new)
        .map_err(|source| LoginError::Read { path: shown(), source })?;
    let line = whole.expose().trim_end_matches(['\r', '\n']);
    let line = line.strip_prefix('\u{feff}').unwrap_or(line);
    if line.is_empty() {
        return Err(LoginError::Content { path: shown() });
    }
    Ok(Some(Secret::new(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_url_or_a_realm_is_refused() {
        for (url, realm, expected) in [
            ("", "r", "it is no URL"),
            ("keycloak.example", "r", "it is no URL"),
            ("ftp://keycloak.example", "r", "neither http nor https"),
            ("https://u:hunter2@keycloak.example", "r", "never sent"),
            ("https://keycloak.example/?a=b", "r", "a query"),
            ("https://keycloak.example", "", "it is empty"),
            ("https://keycloak.example", "..", "change the path"),
            ("https://keycloak.example", "a/b", "a slash"),
            ("https://keycloak.example", "a\nb", "control characters"),
        ] {
            let error = KeycloakSettings::new(url, realm).unwrap_err().to_string();
            assert!(error.contains(expected), "{url} {realm}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        for (url, issuer) in [
            ("https://keycloak.example", "https://keycloak.example/realms/r"),
            ("https://keycloak.example/", "https://keycloak.example/realms/r"),
            ("http://10.0.0.1:8080/auth/", "http://10.0.0.1:8080/auth/realms/r"),
        ] {
            assert_eq!(KeycloakSettings::new(url, "r").unwrap().issuer(), issuer);
        }
    }

    #[test]
    fn a_folder_holds_one_login() {
        type Files<'a> = &'a [(&'a str, &'a str)];
        let cases: &[(Files<'_>, Result<&str, &str>)] = &[
            (&[], Ok("None")),
            (&[("initial-access-token", "t\n")], Ok("InitialAccess t")),
            (&[("client-id", "i"), ("client-secret", " s \r\n")], Ok("Client i  s ")),
            (&[("username", "u"), ("password", "p")], Ok("Password u p")),
            (&[("initial-access-token", "t"), ("username", "u"), ("password", "p")], Ok("InitialAccess t")),
            (&[("client-id", "i")], Err("has client-id but not client-secret")),
            (&[("password", "i")], Err("has password but not username")),
            (&[("initial-access-token", "\n")], Err("initial-access-token is empty")),
        ];
        for (files, expected) in cases {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in *files {
                std::fs::write(folder.path().join(name), text).unwrap();
            }
            let found = match Login::read(folder.path()) {
                Ok(None) => Ok("None".to_owned()),
                Ok(Some(Login::InitialAccess(token))) => Ok(format!("InitialAccess {}", token.expose())),
                Ok(Some(Login::Client { id, secret })) => Ok(format!("Client {id} {}", secret.expose())),
                Ok(Some(Login::Password { username, password })) => {
                    Ok(format!("Password {username} {}", password.expose()))
                }
                Err(error) => Err(error.to_string()),
            };
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, *expected),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
                (found, _) => panic!("{files:?}: {found:?}"),
            }
        }
        assert!(Login::read(Path::new("/does/not/exist")).unwrap().is_none());
    }
}

//! The folder in which registration access tokens outlive the container. Only this container mounts it.

use std::io::{Error, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use skep_api::secret::Secret;
use skep_auth::keycloak::RegistrationTokens;

use crate::files::{self, NewFile};

/// Name of the file.
const FILE: &str = "registration.json";
/// Version of its form.
const VERSION: u64 = 1;
/// Only the owner reads it.
const MODE: u32 = 0o600;

/// Tokens in one file, by realm and client. A pod that becomes another client keeps what it needs to remove the
/// former one.
#[derive(Debug)]
pub(super) struct StateFolder {
    file: PathBuf,
    /// A token is good in one realm.
    issuer: String,
}

impl StateFolder {
    pub(super) fn new(folder: &Path, issuer: String) -> Self {
        Self { file: folder.join(FILE), issuer }
    }

    fn key(&self, client_id: &str) -> String {
        // An issuer has no space in it that is not encoded, nor has a SPIFFE ID.
        format!("{} {client_id}", self.issuer)
    }

    fn read(&self) -> std::io::Result<Map<String, Value>> {
        let text = match std::fs::read_to_string(&self.file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Map::new()),
            text => Secret::new(text?),
        };
        let broken =
            |what: &str| Error::new(ErrorKind::InvalidData, format!("{}: {what}", self.file.display()));
        let whole: Value = serde_json::from_str(text.expose()).map_err(|_| broken("it is no JSON"))?;
        if whole.get("version").and_then(Value::as_u64) != Some(VERSION) {
            return Err(broken("it is of another version"));
        }
        whole.get("tokens").and_then(Value::as_object).cloned().ok_or_else(|| broken("it has no tokens"))
    }

    fn write(&self, tokens: &Map<String, Value>) -> std::io::Result<()> {
        if let Some(folder) = self.file.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let text = Secret::new(json!({"version": VERSION, "tokens": tokens}).to_string());
        let file = NewFile { path: &self.file, content: text.expose().as_bytes(), mode: MODE };
        files::replace(&[file]).map(drop).map_err(Error::other)
    }
}

impl RegistrationTokens for StateFolder {
    fn load(&self, client_id: &str) -> std::io::Result<Option<Secret>> {
        Ok(self.read()?.get(&self.key(client_id)).and_then(Value::as_str).map(Secret::new))
    }

    fn save(&self, client_id: &str, token: &Secret) -> std::io::Result<()> {
        // One that can't be read is of no use to anybody: the token at hand is.
        let mut tokens = self.read().unwrap_or_default();
        tokens.insert(self.key(client_id), json!(token.expose()));
        self.write(&tokens)
    }

    fn remove(&self, client_id: &str) -> std::io::Result<()> {
        let mut tokens = self.read()?;
        match tokens.shift_remove(&self.key(client_id)) {
            Some(_) => self.write(&tokens),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn at(folder: &Path, realm: &str) -> StateFolder {
        StateFolder::new(folder, format!("https://k.example/realms/{realm}"))
    }

    #[test]
    fn a_token_is_there_for_the_next_container_and_for_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = at(&state, "r");
        assert!(first.load("c").unwrap().is_none());
        first.save("c", &Secret::new("one")).unwrap();
        first.save("c", &Secret::new("two")).unwrap();
        first.save("d", &Secret::new("three")).unwrap();
        assert_eq!(mode(&state), 0o700);
        assert_eq!(mode(&state.join(FILE)), 0o600);
        let next = at(&state, "r");
        assert_eq!(next.load("c").unwrap().unwrap().expose(), "two");
        assert!(at(&state, "other").load("c").unwrap().is_none());
        next.remove("c").unwrap();
        next.remove("c").unwrap();
        assert!(next.load("c").unwrap().is_none());
        assert_eq!(next.load("d").unwrap().unwrap().expose(), "three");
    }

    #[test]
    fn a_file_of_another_version_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let state = at(folder.path(), "r");
        for (text, expected) in [
            ("", "no JSON"),
            (r#"{"version":2,"tokens":{}}"#, "another version"),
            (r#"{"version":1}"#, "no tokens"),
        ] {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            let error = state.load("c").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}

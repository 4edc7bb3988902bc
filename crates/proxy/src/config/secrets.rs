//! Secret values: from a file, which may change while the proxy runs, or from the environment.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use skep_api::runconfig::RunConfig;
use skep_api::secret::Secret;

use super::incoming::is_pod_token;
use super::{ConfigError, Surroundings, content, file};

/// Looks secrets up, and notes the files that have to be watched.
pub(super) struct Secrets<'a> {
    pub(super) run: &'a RunConfig,
    pub(super) surroundings: &'a Surroundings<'a>,
    pub(super) files: &'a mut Vec<PathBuf>,
    /// Variables that were asked for.
    pub(super) read: BTreeSet<String>,
}

impl Secrets<'_> {
    /// The value of `variable`: what `skep.secret_files` names for it, else the environment's.
    ///
    /// # Errors
    /// When the file can't be read or is no text.
    pub(super) fn variable(&mut self, variable: &str) -> Result<Option<Secret>, ConfigError> {
        const KEY: &str = "skep.secret_files";
        self.read.insert(variable.to_owned());
        let found = match self.run.skep.secret_files.get(variable) {
            Some(path) => Some(self.file(KEY, path)?),
            None => (self.surroundings.variable)(variable),
        };
        Ok(found.filter(|value| !value.is_empty()))
    }

    /// A file for a variable that nothing reads is a mistake in its name, and the secret that it stands for
    /// would be missing in silence.
    ///
    /// # Errors
    /// The first such name.
    pub(super) fn refuse_unknown(&self) -> Result<(), ConfigError> {
        const READ: [&str; 4] = [
            "TOOLHIVE_OIDC_CLIENT_SECRET",
            "TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET",
            "TOOLHIVE_REMOTE_AUTH_BEARER_TOKEN",
            "THV_SESSION_REDIS_PASSWORD",
        ];
        let known = |name: &str| READ.contains(&name) || self.read.contains(name);
        match self.run.skep.secret_files.keys().find(|name| !known(name)) {
            Some(name) => Err(ConfigError::Invalid {
                key: "skep.secret_files",
                reason: format!("nothing reads the variable {name:?}; correct its name, or remove it"),
            }),
            None => Ok(()),
        }
    }

    /// The file behind `variable`, when it has one.
    pub(super) fn path(&self, variable: &str) -> Option<PathBuf> {
        self.run.skep.secret_files.get(variable).map(PathBuf::from)
    }

    /// The content of a file that holds one secret; a line end after it does not count, nor does the mark that
    /// some editors put before it (U+FEFF).
    ///
    /// # Errors
    /// When it can't be read or is no text.
    pub(super) fn file(&mut self, key: &'static str, path: &str) -> Result<Secret, ConfigError> {
        // Whatever is read here is shown to a server that is not the API server.
        if is_pod_token(Path::new(path)) {
            let reason = format!(
                "{path} is the pod's own token, which is for the Kubernetes API server alone; mount a token of its own \
                 audience"
            );
            return Err(ConfigError::Invalid { key, reason });
        }
        let content = file(key, path, self.files)?;
        secret(content).ok_or_else(|| ConfigError::Invalid { key, reason: format!("{path} is not text") })
    }
}

/// The secret that a file holds now; `None` when it can't be had. The file is one that was read before.
pub(super) fn read_again(path: &Path) -> Option<Secret> {
    secret(content(path).ok()?)
}

fn secret(content: Vec<u8>) -> Option<Secret> {
    let text = String::from_utf8(content).ok()?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Some(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

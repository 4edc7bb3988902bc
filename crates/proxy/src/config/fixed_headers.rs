//! Headers that every request to the MCP server gets: written in the configuration, or secrets.

use std::path::PathBuf;

use http::{HeaderName, HeaderValue};
use skep_api::headers::is_restricted;
use skep_api::runconfig::RunConfig;
use skep_api::secret::Secret;

use super::outgoing::invalid;
use super::secrets::{Secrets, read_again};
use super::{ConfigError, middleware, remote_auth};

/// A header with the same value for every request. The value does not show in Debug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedHeader {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
    /// Where the secret in it was read from; nothing when it can't be read again.
    source: Option<Source>,
}

/// A file with one secret.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    path: PathBuf,
    /// What stands before the secret in the header.
    scheme: &'static str,
}

impl FixedHeader {
    /// Makes one.
    ///
    /// # Errors
    /// When it may not be set, or the value can't stand in a header.
    fn new(
        key: &'static str,
        name: &str,
        scheme: &'static str,
        secret: &Secret,
        path: Option<PathBuf>,
    ) -> Result<Self, ConfigError> {
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| invalid(key, &format!("{name:?} is not a header name")))?;
        if is_restricted(header.as_str()) {
            return Err(invalid(
                key,
                &format!("header {name:?} is restricted and cannot be configured for forwarding"),
            ));
        }
        let value = value(scheme, secret)
            .ok_or_else(|| invalid(key, &format!("the value for {name} cannot stand in a header")))?;
        Ok(Self { name: header, value, source: path.map(|path| Source { path, scheme }) })
    }

    /// The header with the secret as it is in its file now; as it was, when there is no file or nothing in it
    /// that could take its place. It reads the file, so it may block for a moment.
    pub fn read_again(&self) -> Self {
        let newer = self.source.as_ref().and_then(|source| {
            let secret = read_again(&source.path).filter(|secret| !secret.is_empty())?;
            value(source.scheme, &secret)
        });
        Self { value: newer.unwrap_or_else(|| self.value.clone()), ..self.clone() }
    }

    /// True when the secret in it can be read again.
    pub fn is_from_file(&self) -> bool {
        self.source.is_some()
    }
}

/// The headers that every request gets.
///
/// # Errors
/// When one may not be set, or its secret is not there.
pub(super) fn headers(
    run: &RunConfig,
    stages: &middleware::Stages,
    secrets: &mut Secrets<'_>,
) -> Result<Vec<FixedHeader>, ConfigError> {
    let mut headers: Vec<FixedHeader> = Vec::new();
    let mut add = |header: FixedHeader, key| match headers.iter().find(|known| known.name == header.name) {
        Some(known) if known.value == header.value => Ok(()),
        Some(_) => {
            let reason = format!("the header {:?} is set twice, to different values", header.name.as_str());
            Err(invalid(key, &reason))
        }
        None => {
            headers.push(header);
            Ok(())
        }
    };
    for (name, value) in &stages.plain_headers {
        const KEY: &str = "header_forward.add_plaintext_headers";
        add(FixedHeader::new(KEY, name, "", &Secret::new(value.as_str()), None)?, KEY)?;
    }
    let forward = run.header_forward.iter().flat_map(|forward| &forward.add_headers_from_secret);
    for (name, identifier) in forward {
        const KEY: &str = "header_forward.add_headers_from_secret";
        let variable = format!("TOOLHIVE_SECRET_{identifier}");
        let path = secrets.path(&variable);
        let secret = secrets.variable(&variable)?.ok_or_else(|| ConfigError::SecretMissing {
            key: KEY,
            name: identifier.clone(),
            variable,
        })?;
        add(FixedHeader::new(KEY, name, "", &secret, path)?, KEY)?;
    }
    if let Some(remote) = &run.remote_auth_config {
        const KEY: &str = "remote_auth_config.bearer_token";
        let (token, path) = remote_auth::bearer(remote, secrets)?;
        add(FixedHeader::new(KEY, "authorization", "Bearer ", &token, path)?, KEY)?;
    }
    Ok(headers)
}

fn value(scheme: &str, secret: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("{scheme}{}", secret.expose())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

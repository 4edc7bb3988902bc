//! `remote_auth_config`: the fixed token of a remote server. The other half of it, logging in with a
//! browser, has no place in a proxy.

use std::path::PathBuf;

use serde_json::Value;
use skep_api::secret::Secret;

use super::ConfigError;
use super::secrets::Secrets;

const TOKEN: &str = "remote_auth_config.bearer_token";
const TOKEN_FILE: &str = "remote_auth_config.bearer_token_file";

/// Where ToolHive looks for the token when the configuration names none.
const VARIABLE: &str = "TOOLHIVE_REMOTE_AUTH_BEARER_TOKEN";

/// Keys about logging in, with their older spelling where they have one. They count for nothing beside a
/// token.
const LOGIN: [(&str, &str); 25] = [
    ("client_id", "ClientID"),
    ("client_secret", "ClientSecret"),
    ("client_secret_file", "ClientSecretFile"),
    ("scopes", "Scopes"),
    ("skip_browser", "SkipBrowser"),
    ("timeout", "Timeout"),
    ("callback_port", "CallbackPort"),
    ("use_pkce", "UsePKCE"),
    ("resource", ""),
    ("issuer", "Issuer"),
    ("authorize_url", "AuthorizeURL"),
    ("token_url", "TokenURL"),
    ("headers", "Headers"),
    ("env_vars", "EnvVars"),
    ("oauth_params", "OAuthParams"),
    ("scope_param_name", ""),
    ("cached_refresh_token_ref", ""),
    ("cached_token_expiry", ""),
    ("cached_client_id", ""),
    ("cached_client_secret_ref", ""),
    ("cached_secret_expiry", ""),
    ("cached_reg_token_ref", ""),
    ("cached_cimd_client_id", ""),
    ("cached_reg_client_uri", ""),
    ("cached_token_auth_method", ""),
];

/// One more of the same, which goes with a listener that a proxy does not have.
const LOGIN_PORT: &str = "cached_dcr_callback_port";

/// The token for the remote server, and the file that it was read from, when it was.
///
/// # Errors
/// When there is none, or it is not given as a reference.
pub(super) fn bearer(
    config: &Value,
    secrets: &mut Secrets<'_>,
) -> Result<(Secret, Option<PathBuf>), ConfigError> {
    let invalid = |key: &'static str, reason: &str| ConfigError::Invalid { key, reason: reason.to_owned() };
    let members = config.as_object().ok_or_else(|| invalid("remote_auth_config", "it must be an object"))?;
    let (mut token, mut file) = (None, None);
    for (name, value) in members {
        let known = LOGIN.iter().any(|(today, old)| name == today || (name == old && !old.is_empty()));
        match name.as_str() {
            "bearer_token" | "BearerToken" => once(TOKEN, &mut token, value)?,
            "bearer_token_file" | "BearerTokenFile" => once(TOKEN_FILE, &mut file, value)?,
            LOGIN_PORT => {}
            _ if known => {}
            _ => return Err(invalid("remote_auth_config", &format!("the key {name:?} is not known"))),
        }
    }
    match (token.filter(|text| !text.is_empty()), file.filter(|path| !path.is_empty())) {
        (Some(_), Some(_)) => Err(ConfigError::Contradiction { first: TOKEN, second: TOKEN_FILE }),
        (None, Some(path)) => Ok((secrets.file(TOKEN_FILE, path)?, Some(path.into()))),
        (Some(reference), None) => {
            // What is no reference may be the token itself, which no message repeats.
            let name = reference.strip_suffix(",target=bearer_token").ok_or_else(|| {
                let reason = "a token has no place in this file; write NAME,target=bearer_token, and set \
                              TOOLHIVE_SECRET_NAME";
                invalid(TOKEN, reason)
            })?;
            let variable = format!("TOOLHIVE_SECRET_{name}");
            let (found, path) = (secrets.variable(&variable)?, secrets.path(&variable));
            let missing = || ConfigError::SecretMissing { key: TOKEN, name: name.to_owned(), variable };
            Ok((found.ok_or_else(missing)?, path))
        }
        (None, None) => {
            let found = secrets.variable(VARIABLE)?.ok_or_else(|| ConfigError::Unsupported {
                key: "remote_auth_config without bearer_token (logging in needs a browser)".to_owned(),
            })?;
            Ok((found, secrets.path(VARIABLE)))
        }
    }
}

fn once<'v>(key: &'static str, found: &mut Option<&'v str>, value: &'v Value) -> Result<(), ConfigError> {
    let invalid = |reason: &str| ConfigError::Invalid { key, reason: reason.to_owned() };
    let text = value.as_str().ok_or_else(|| invalid("it must be text"))?;
    if found.replace(text).is_some() {
        return Err(invalid("it is given in both spellings"));
    }
    Ok(())
}

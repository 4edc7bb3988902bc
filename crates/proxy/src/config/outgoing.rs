//! With which credential the MCP server is called.

use http::{HeaderName, HeaderValue};
use skep_api::headers::is_restricted;
use skep_api::runconfig::RunConfig;
use skep_api::secret::Secret;

use super::{ConfigError, Surroundings, middleware};

pub(super) fn headers(
    run: &RunConfig,
    stages: &middleware::Stages,
    surroundings: &Surroundings<'_>,
) -> Result<Vec<(HeaderName, HeaderValue)>, ConfigError> {
    let mut headers = Vec::new();
    let mut add = |key: &'static str, name: &str, value: &Secret| {
        let invalid = |reason: String| ConfigError::Invalid { key, reason };
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| invalid(format!("{name:?} is not a header name")))?;
        if is_restricted(header.as_str()) {
            return Err(invalid(format!(
                "header {name:?} is restricted and cannot be configured for forwarding"
            )));
        }
        let mut value = HeaderValue::from_str(value.expose())
            .map_err(|_| invalid(format!("the value for {name} cannot stand in a header")))?;
        value.set_sensitive(true);
        headers.push((header, value));
        Ok(())
    };
    for (name, value) in &stages.plain_headers {
        add("header_forward.add_plaintext_headers", name, &Secret::new(value.as_str()))?;
    }
    let secret = |key, name: &str| {
        let variable = format!("TOOLHIVE_SECRET_{name}");
        (surroundings.variable)(&variable)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| ConfigError::SecretMissing { key, name: name.to_owned(), variable })
    };
    let forward = run.header_forward.iter().flat_map(|forward| &forward.add_headers_from_secret);
    for (name, identifier) in forward {
        const KEY: &str = "header_forward.add_headers_from_secret";
        add(KEY, name, &secret(KEY, identifier)?)?;
    }
    if let Some(remote) = &run.remote_auth_config {
        const KEY: &str = "remote_auth_config.bearer_token";
        let Some(reference) = remote.get("bearer_token").and_then(serde_json::Value::as_str) else {
            return Err(ConfigError::Unsupported {
                key: "remote_auth_config without bearer_token".to_owned(),
            });
        };
        // `<secret>,target=bearer_token`
        let name = reference.split(',').next().unwrap_or_default();
        let token = secret(KEY, name)?;
        add(KEY, "authorization", &Secret::new(format!("Bearer {}", token.expose())))?;
    }
    Ok(headers)
}

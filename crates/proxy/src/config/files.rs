//! Which files a RunConfig names.

use std::path::PathBuf;

use serde_json::Value;
use skep_api::runconfig::RunConfig;

/// Keys whose text is the path of a file that is read, wherever they stand: the parameters of middlewares
/// repeat those of the RunConfig.
const FILE_KEYS: [&str; 14] = [
    "AuthTokenFile",
    "BearerTokenFile",
    "CACertPath",
    "actor_token_file",
    "audit_config_path",
    "authz_config_path",
    "bearer_token_file",
    "ca_cert_path",
    "client_assertion_file",
    "client_certificate_file",
    "client_certificate_key_file",
    "config_path",
    "jwks_auth_token_file",
    "thv_ca_bundle",
];

/// The key with a file for each variable.
const SECRET_FILES: &str = "secret_files";

/// Every file that the RunConfig names, whether it can be read or not, and whether the rest of the RunConfig
/// can be used or not: a change of one of them may mend it. Files that are written, and folders, don't count.
pub fn named_files(run: &RunConfig) -> Vec<PathBuf> {
    let mut files = Vec::new();
    // It was read from JSON, so it can be written as such.
    if let Ok(value) = serde_json::to_value(run) {
        walk(&value, &mut files);
    }
    files.sort_unstable();
    files.dedup();
    files.retain(|file| !file.is_dir());
    files
}

fn walk(value: &Value, files: &mut Vec<PathBuf>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, files)),
        Value::Object(members) => {
            for (key, member) in members {
                match member {
                    Value::String(path) if FILE_KEYS.contains(&key.as_str()) && !path.is_empty() => {
                        files.push(path.into());
                    }
                    Value::Object(paths) if key == SECRET_FILES => {
                        let paths = paths.values().filter_map(Value::as_str);
                        files.extend(paths.filter(|path| !path.is_empty()).map(PathBuf::from));
                    }
                    member => walk(member, files),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::parse;
    use super::*;

    #[test]
    fn files_are_found_wherever_they_are_named_even_where_nothing_else_is_right() {
        let config = json!({
            "schema_version": "v9", "name": "demo", "transport": "streamable-http",
            "authz_config_path": "/mnt/authz.json", "thv_ca_bundle": "", "jwks_auth_token_file": "relative",
            "audit_config": {"logFile": "/var/log/audit.json"},
            "oidc_config": {"CACertPath": "/mnt/ca.pem"},
            "remote_auth_config": {"bearer_token_file": "/mnt/bearer"},
            "token_exchange_config": {},
            "middleware_configs": [
                {"type": "audit", "parameters": {"config_path": "/mnt/audit.json"}},
                {"type": "auth", "parameters": {"oidc_config": {"AuthTokenFile": "/mnt/token"}}},
            ],
            "skep": {
                "further_issuers": [{"subject_prefix": "p:", "oidc_config": {"Issuer": "https://i", "CACertPath": "/mnt/ca-2.pem"}}],
                "secret_files": {"TOOLHIVE_SECRET_x": "/mnt/x", "TOOLHIVE_SECRET_y": "/"},
                "token_exchange": {"actor_token_file": "/mnt/ca.pem", "ca_cert_path": "/mnt/ca-3.pem"},
            },
        });
        let files = named_files(&parse(config.to_string().as_bytes(), "test").unwrap());
        let expected = [
            "/mnt/audit.json",
            "/mnt/authz.json",
            "/mnt/bearer",
            "/mnt/ca-2.pem",
            "/mnt/ca-3.pem",
            "/mnt/ca.pem",
            "/mnt/token",
            "/mnt/x",
            "relative",
        ];
        assert_eq!(files, expected.map(PathBuf::from));
    }
}

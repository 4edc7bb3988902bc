//! ConfigMaps: the RunConfig and inline authorization.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use skep_api::names;
use skep_api::runconfig::{FILE_NAME, RunConfig};

use super::super::authz::{Authorization, FILE_NAME as AUTHZ_FILE};
use super::metadata::Owner;

/// Keys of a RunConfig that a running proxy can't take over: what it listens on, and what is set up
/// once for the process. Everything else reaches it through the mounted file.
const RESTART_KEYS: [&str; 11] = [
    "schema_version",
    "transport",
    "proxy_mode",
    "host",
    "port",
    "session_ttl",
    "stateless",
    "debug",
    "telemetry_config",
    "scaling_config",
    "embedded_auth_server_config",
];

/// The ConfigMap of a RunConfig, and the checksum of what needs a restart.
pub(super) fn run_config(owner: &Owner<'_>, kind_label: &str, config: &RunConfig) -> (Value, String) {
    let labels = names::runconfig_labels(kind_label, owner.name);
    let data = BTreeMap::from([(FILE_NAME.to_owned(), config.to_json())]);
    let annotations = BTreeMap::from([(names::CONTENT_CHECKSUM.to_owned(), checksum(&data, &labels))]);
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": owner.metadata(&names::runconfig(owner.name), &labels, &annotations),
        "data": data,
    });
    (map, restart_checksum(config))
}

/// The ConfigMap of policies that are written into a workload.
pub(super) fn inline_authz(owner: &Owner<'_>, authorization: &Authorization) -> Option<Value> {
    if !authorization.inline {
        return None;
    }
    let labels = names::inline_authz_labels(owner.name);
    let text = serde_json::to_string_pretty(&authorization.config).unwrap_or_default();
    Some(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": owner.metadata(&names::inline_authz(owner.name), &labels, &BTreeMap::new()),
        "data": {AUTHZ_FILE: text},
    }))
}

/// SHA-256 over the sorted keys and values of data and labels.
fn checksum(data: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> String {
    let mut digest = Sha256::new();
    for part in [data, labels] {
        for (key, value) in part {
            // Lengths keep `a` + `bc` apart from `ab` + `c`.
            for text in [key, value] {
                digest.update((text.len() as u64).to_be_bytes());
                digest.update(text);
            }
        }
        digest.update([0xff]);
    }
    hex(&digest.finalize())
}

fn restart_checksum(config: &RunConfig) -> String {
    let whole = serde_json::to_value(config).unwrap_or_default();
    let mut kept: Map<String, Value> = Map::new();
    for key in RESTART_KEYS {
        if let Some(value) = whole.get(key) {
            kept.insert(key.to_owned(), value.clone());
        }
    }
    if let Some(limits) = whole.pointer("/skep/limits") {
        kept.insert("limits".to_owned(), limits.clone());
    }
    hex(&Sha256::digest(Value::Object(kept).to_string()))
}

/// Lower-case hexadecimal.
pub(in super::super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::RESTART_KEYS;

    #[test]
    fn the_documentation_lists_what_needs_a_restart() {
        let text = include_str!("../../../../../docs/architecture.md");
        for key in RESTART_KEYS.into_iter().chain(["skep.limits"]) {
            assert!(text.contains(&format!("`{key}`")), "docs/architecture.md does not name {key}");
        }
    }
}

//! The file that says that everything is ready, for scripts.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

use super::instance::Instance;
use super::{Key, write_whole};

/// Writes issuer, metrics URL, and kind, namespace, name and URL of every object that runs.
///
/// # Errors
/// When the file can't be written.
pub(crate) fn write(
    path: &Path,
    issuer: Option<&str>,
    metrics: &str,
    instances: &BTreeMap<Key, Instance>,
) -> anyhow::Result<()> {
    let objects: Vec<_> = instances
        .iter()
        .map(|((kind, namespace, name), instance)| {
            json!({"kind": kind.as_str(), "namespace": namespace, "name": name, "url": instance.url()})
        })
        .collect();
    let text = format!("{:#}\n", json!({"issuer": issuer, "metrics": metrics, "objects": objects}));
    write_whole(path, &text).with_context(|| format!("cannot write the ready file {}", path.display()))
}

/// Takes away the file of an earlier run.
///
/// # Errors
/// When there is one and it can't be removed.
pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the old ready file {}", path.display()))
        }
        _ => Ok(()),
    }
}

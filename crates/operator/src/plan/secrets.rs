//! Secrets as files: what changes in a Secret reaches a running proxy through its mount, which an
//! environment variable never does.

use skep_api::names::secret_file;
use skep_api::runconfig::RunConfig;

use super::{EnvSource, FileSource, KeySource};

/// Mounts what the proxy reads from the environment, too, and tells it where. The variables stay: they are
/// what ToolHive's proxy reads.
pub(super) fn mount(env: &[EnvSource], config: &mut RunConfig, files: &mut Vec<FileSource>) {
    for source in env.iter().filter(|source| is_watched(&source.name)) {
        let path = secret_file(&source.secret, &source.key);
        config.skep.secret_files.insert(source.name.clone(), path.clone());
        files.push(FileSource {
            path,
            source: KeySource::Secret { name: source.secret.clone(), key: source.key.clone() },
        });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files.dedup();
}

/// Variables that the proxy reads again when their file changes.
fn is_watched(variable: &str) -> bool {
    variable.starts_with("TOOLHIVE_SECRET_")
        || matches!(variable, "TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET" | "TOOLHIVE_OIDC_CLIENT_SECRET")
}

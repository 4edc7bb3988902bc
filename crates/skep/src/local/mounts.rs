//! What a pod would get as mounts and environment, here: files in a private folder, and a lookup.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;
use skep_api::runconfig::RunConfig;
use skep_api::secret::Secret;
use skep_operator::plan::{KeySource, Workload};
use skep_proxy::config::named_files;
use tempfile::TempDir;

use crate::manifest::Manifests;

/// Files and variables of one workload.
#[derive(Debug)]
pub(crate) struct Mounts {
    /// The config with the paths of this machine.
    pub(crate) run_config: RunConfig,
    /// Secret values by the name of their variable.
    pub(crate) variables: BTreeMap<String, Secret>,
    /// The config as it was planned, and the files' content, to see what has changed.
    planned: (RunConfig, BTreeMap<String, Secret>),
    /// Files of this machine that the config names beside them, and their content, where they have one.
    outside: BTreeMap<PathBuf, Option<Secret>>,
    /// Holds the files; they go with it.
    _folder: Option<TempDir>,
}

impl Mounts {
    /// Writes the files that the plan mounts and looks up the variables that it fills.
    ///
    /// # Errors
    /// When a key is missing or a file can't be written.
    pub(crate) fn new(workload: &Workload, manifests: &Manifests, namespace: &str) -> anyhow::Result<Self> {
        let mut variables = BTreeMap::new();
        for source in &workload.env {
            let value = manifests
                .secret_value(namespace, &source.secret, &source.key)
                .with_context(|| format!("the Secret {} has no key {}", source.secret, source.key))?;
            variables.insert(source.name.clone(), value);
        }
        let outside = outside(workload).map(|path| (path.clone(), read(&path))).collect();
        if workload.files.is_empty() {
            let run_config = workload.run_config.clone();
            let planned = (run_config.clone(), BTreeMap::new());
            return Ok(Self { run_config, variables, planned, outside, _folder: None });
        }
        // Only this user can enter it (mkdtemp makes it 0700).
        let folder = tempfile::Builder::new()
            .prefix("skep-up-")
            .tempdir()
            .context("cannot make a folder for mounts")?;
        let mut places = BTreeMap::new();
        let mut contents = BTreeMap::new();
        for (index, file) in workload.files.iter().enumerate() {
            let place = folder.path().join(index.to_string());
            let content = content(&file.source, manifests, namespace)?;
            let mut target = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&place)
                .with_context(|| format!("cannot write the content of {}", file.path))?;
            target.write_all(content.expose().as_bytes())?;
            places.insert(file.path.clone(), place.display().to_string());
            contents.insert(file.path.clone(), content);
        }
        let mut config = serde_json::to_value(&workload.run_config)?;
        relocate(&mut config, &places);
        let run_config = serde_json::from_value(config)?;
        let planned = (workload.run_config.clone(), contents);
        Ok(Self { run_config, variables, planned, outside, _folder: Some(folder) })
    }

    /// True when both would give a proxy the same.
    pub(crate) fn same(&self, other: &Self) -> bool {
        let equal = |ours: &BTreeMap<String, Secret>, theirs: &BTreeMap<String, Secret>| {
            ours.len() == theirs.len()
                && ours.iter().all(|(name, value)| {
                    theirs.get(name).is_some_and(|other| other.expose() == value.expose())
                })
        };
        // Files lie in a new folder each time, so it is their content that counts.
        self.planned.0 == other.planned.0
            && equal(&self.planned.1, &other.planned.1)
            && equal(&self.variables, &other.variables)
            && self.outside.keys().eq(other.outside.keys())
            && self.outside.values().map(exposed).eq(other.outside.values().map(exposed))
    }

    /// The files of this machine that the config names.
    pub(crate) fn outside(&self) -> impl Iterator<Item = PathBuf> {
        self.outside.keys().cloned()
    }
}

fn exposed(content: &Option<Secret>) -> Option<&str> {
    content.as_ref().map(Secret::expose)
}

/// The content of a file, to be compared: what is no text in it does not matter.
fn read(path: &Path) -> Option<Secret> {
    // What is no plain file is refused where it is used, and is not waited for here.
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    std::fs::read(path).ok().map(|content| Secret::new(String::from_utf8_lossy(&content)))
}

/// The files of this machine that a plan names: those that are not mounted from the manifests.
pub(crate) fn outside(workload: &Workload) -> impl Iterator<Item = PathBuf> {
    let mounted = |path: &PathBuf| workload.files.iter().any(|file| Path::new(&file.path) == path);
    named_files(&workload.run_config).into_iter().filter(move |path| !mounted(path))
}

fn content(source: &KeySource, manifests: &Manifests, namespace: &str) -> anyhow::Result<Secret> {
    match source {
        KeySource::ConfigMap { name, key } => manifests
            .config_map_value(namespace, name, key)
            .map(Secret::new)
            .with_context(|| format!("the ConfigMap {name} has no key {key}")),
        KeySource::Secret { name, key } => manifests
            .secret_value(namespace, name, key)
            .with_context(|| format!("the Secret {name} has no key {key}")),
        // The planner refuses it on this machine.
        KeySource::ServiceAccountToken { .. } => {
            anyhow::bail!("there are tokens of ServiceAccounts only inside a cluster")
        }
    }
}

/// Puts this machine's paths where the pod's stand.
fn relocate(value: &mut Value, places: &BTreeMap<String, String>) {
    match value {
        Value::String(text) => {
            if let Some(place) = places.get(text.as_str()) {
                text.clone_from(place);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| relocate(item, places)),
        Value::Object(members) => members.values_mut().for_each(|member| relocate(member, places)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_a_manifest_names_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let (done, finished) = std::sync::mpsc::channel();
        let pipe = path.clone();
        std::thread::spawn(move || done.send(read(&pipe).is_none()));
        let answer = finished.recv_timeout(std::time::Duration::from_secs(10));
        if answer.is_err() {
            // Lets the reader go.
            std::fs::write(&path, "").unwrap();
        }
        assert_eq!(answer, Ok(true));
    }
}

//! Manifests: files and folders of Kubernetes objects, read as `kubectl` reads them, with the place of
//! every field kept for messages.

mod files;
mod plan;
mod read;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skep_api::crd::Object;
use skep_api::problem::Severity;
use skep_api::secret::Secret;
use skep_api::yaml::Lines;

pub(crate) use self::files::LoadError;
pub(crate) use self::plan::{PlanOptions, PlannedObject};

/// Everything that was found in the given files.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    /// Our objects, in the order in which they were found.
    pub(crate) objects: Vec<Located>,
    /// What can't be read, and what was passed over.
    pub(crate) remarks: Vec<Remark>,
    config_maps: BTreeMap<(String, String), BTreeMap<String, String>>,
    secrets: BTreeMap<(String, String), BTreeMap<String, Secret>>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    stdin: Option<String>,
}

/// An object and where it stands.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) object: Object,
    pub(crate) file: PathBuf,
    pub(crate) lines: Lines,
}

/// Something to say about a file, outside any object of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remark {
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    /// `None` is a note.
    pub(crate) severity: Option<Severity>,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Reads files, folders (`*.yaml`, `*.yml`, `*.json`, with all folders below, sorted) and, for `-`,
/// standard input. What is wrong inside a file is a [`Remark`], so that one bad file hides no other.
///
/// # Errors
/// When a path does not exist or can't be read.
pub(crate) fn load(paths: &[PathBuf]) -> Result<Manifests, LoadError> {
    load_again(paths, None)
}

/// Reads the same paths another time. Standard input can be read only once: it is what it was.
///
/// # Errors
/// When a path does not exist or can't be read.
pub(crate) fn load_again(paths: &[PathBuf], stdin: Option<&str>) -> Result<Manifests, LoadError> {
    let mut manifests = Manifests::default();
    for file in files::find(paths)? {
        let is_stdin = files::is_stdin(&file);
        let text = match stdin {
            Some(text) if is_stdin => text.to_owned(),
            _ => files::read(&file)?,
        };
        read::text(&mut manifests, &file, &text);
        if is_stdin {
            manifests.stdin = Some(text);
        }
    }
    Ok(manifests)
}

/// Reads text that is in no file; `place` is for messages.
pub(crate) fn read_text(place: &Path, text: &str) -> Manifests {
    let mut manifests = Manifests::default();
    read::text(&mut manifests, place, text);
    manifests
}

impl Manifests {
    /// The value of a key of a Secret.
    pub(crate) fn secret_value(&self, namespace: &str, name: &str, key: &str) -> Option<Secret> {
        self.secrets.get(&(namespace.to_owned(), name.to_owned()))?.get(key).cloned()
    }

    /// The content of a key of a ConfigMap.
    pub(crate) fn config_map_value(&self, namespace: &str, name: &str, key: &str) -> Option<&str> {
        self.config_maps.get(&(namespace.to_owned(), name.to_owned()))?.get(key).map(String::as_str)
    }

    /// Puts another value in the place of the one that Secrets of this name have under this key.
    pub(crate) fn replace_secret(&mut self, name: &str, key: &str, value: &Secret) {
        for ((_, found), data) in &mut self.secrets {
            if let Some(old) = data.get_mut(key).filter(|_| found == name) {
                *old = value.clone();
            }
        }
    }

    /// What came over standard input, if anything did.
    pub(crate) fn stdin(&self) -> Option<&str> {
        self.stdin.as_deref()
    }

    /// True when some text could not be read as an object.
    pub(crate) fn is_broken(&self) -> bool {
        self.remarks.iter().any(|remark| remark.severity == Some(Severity::Error))
    }
}

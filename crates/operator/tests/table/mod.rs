//! The table of manifests and the problems that they have. Three tests read it: the planner's own, that of
//! `skep check`, and that of the operator on a real API server. One YAML document is one case:
//!
//! - `name`: a sentence;
//! - `settings.requireAuth`, `namespaceLabels`: what surrounds the objects, where it matters;
//! - `offline: true`: a real API server drops a field that matters, so only tools see it. An object that it
//!   refuses needs no such mark: it has an error here;
//! - `objects`: all of them in one namespace, none of which is named; the older ones first;
//! - `problems`: those of each object (`KIND/NAME`), in any order. An object that is not named has none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use skep_api::problem::{Problem, Severity};
use skep_api::yaml::documents;

/// Severity, path and reason of a problem.
pub(crate) type Finding = (Severity, String, String);

/// One case.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// File and name, for messages.
    pub(crate) name: String,
    pub(crate) require_auth: bool,
    pub(crate) namespace_labels: BTreeMap<String, String>,
    pub(crate) offline: bool,
    pub(crate) objects: Vec<Value>,
    /// By `KIND/NAME`.
    pub(crate) problems: BTreeMap<String, BTreeSet<Finding>>,
}

/// All cases of all files.
pub(crate) fn cases() -> Vec<Case> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files.iter().flat_map(|file| of_file(file)).collect()
}

/// Severity, path and reason of problems.
pub(crate) fn findings<'a>(problems: impl IntoIterator<Item = &'a Problem>) -> BTreeSet<Finding> {
    problems
        .into_iter()
        .map(|problem| (problem.severity, problem.path.clone(), problem.reason.clone()))
        .collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../operator/tests/table")
}

fn of_file(file: &Path) -> Vec<Case> {
    let topic = file.file_stem().unwrap().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(file).unwrap();
    let read = documents(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    read.into_iter().map(|document| case(&topic, &document.value)).collect()
}

fn case(topic: &str, value: &Value) -> Case {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let name = format!("{topic}: {}", text(&value["name"]));
    for field in value.as_object().unwrap().keys() {
        let known = ["name", "settings", "namespaceLabels", "offline", "objects", "problems"];
        assert!(known.contains(&field.as_str()), "{name}: {field}");
    }
    let map = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let labels = map(&value["namespaceLabels"]);
    let problems = map(&value["problems"]).into_iter().map(|(object, problems)| {
        let found = problems.as_array().unwrap().iter().map(|problem| {
            let severity = serde_json::from_value(problem["severity"].clone()).unwrap();
            (severity, text(&problem["path"]), text(&problem["reason"]))
        });
        (object, found.collect())
    });
    Case {
        require_auth: value["settings"]["requireAuth"] == true,
        namespace_labels: labels.into_iter().map(|(key, label)| (key, text(&label))).collect(),
        offline: value["offline"] == true,
        objects: value["objects"].as_array().unwrap().clone(),
        problems: problems.collect(),
        name,
    }
}

//! Examples and documents say what is true: manifests are valid, commands exist, links lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{repository, skep};

/// The quickstart's manifest is run, not checked: it points at loopback, which only `skep up` allows.
#[tokio::test]
async fn every_example_for_a_cluster_passes_check_without_a_warning() {
    let home = tempfile::tempdir().unwrap();
    let entries = fs::read_dir(repository().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let folders: Vec<PathBuf> =
        entries.filter(|path| path.is_dir() && !path.ends_with("quickstart")).collect();
    assert!(folders.len() >= 5, "{folders:?}");
    for folder in folders {
        let run = skep::run(home.path(), ["check", "-f", folder.to_str().unwrap()]).await;
        assert_eq!(run.code, Some(0), "{}:\n{}{}", folder.display(), run.stdout, run.stderr);
        assert!(run.stdout.ends_with(" 0 errors, 0 warnings\n"), "{}:\n{}", folder.display(), run.stdout);
    }
}

#[tokio::test]
async fn every_command_of_the_documents_exists() {
    let home = tempfile::tempdir().unwrap();
    let just = fs::read_to_string(repository().join("justfile")).unwrap();
    for (document, line) in commands() {
        let words: Vec<&str> = line.split_whitespace().filter(|word| !word.contains('=')).collect();
        match words.as_slice() {
            ["skep", subcommand, ..] => {
                let run = skep::run(home.path(), [subcommand, "--help"]).await;
                assert_eq!(run.code, Some(0), "{document}: {line}");
            }
            ["just", recipe, ..] => {
                let known = just.lines().any(|l| l.starts_with(recipe) && l.contains(':'));
                assert!(known, "{document}: {line}: no such recipe");
            }
            [script, ..] if script.starts_with("./") || script.starts_with("hack/") => {
                assert!(repository().join(script).is_file(), "{document}: {line}: no such script");
            }
            _ => {}
        }
    }
}

/// Every line of every shell block of the documents, with the document it stands in.
fn commands() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        for block in shell_blocks(&text) {
            found.extend(block.lines().map(|line| (path.display().to_string(), line.to_owned())));
        }
    }
    assert!(found.iter().any(|(_, line)| line == "./hack/test"), "README shows how to run the tests");
    found
}

/// What stands between ```sh and ```, block by block.
pub(crate) fn shell_blocks(text: &str) -> Vec<String> {
    let starts = text.split("\n```sh\n").skip(1);
    starts.filter_map(|rest| rest.split("\n```").next()).map(str::to_owned).collect()
}

#[test]
fn every_link_of_the_documents_leads_to_a_file() {
    let mut broken = BTreeSet::new();
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next()) {
            let local = !target.is_empty() && !target.contains("://");
            if local && !path.parent().unwrap_or(Path::new("")).join(target).exists() {
                broken.insert(format!("{}: {target}", path.display()));
            }
        }
    }
    assert_eq!(broken, BTreeSet::new());
}

/// README, CHANGELOG and everything under docs/.
fn documents() -> Vec<PathBuf> {
    let mut found = vec![repository().join("README.md"), repository().join("CHANGELOG.md")];
    let mut folders = vec![repository().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found
}

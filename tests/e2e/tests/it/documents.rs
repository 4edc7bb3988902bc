//! Examples and documents say what is true: manifests are valid, commands exist, links lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{repository, skep};

/// The quickstart's manifest is run, not checked: it points at loopback, which only `skep up` allows.
#[tokio::test]
async fn every_example_for_a_cluster_passes_check_without_a_warning() {
    let home = tempfile::tempdir().unwrap();
    for folder in examples() {
        let run = skep::run(home.path(), ["check", "-f", folder.to_str().unwrap()]).await;
        assert_eq!(run.code, Some(0), "{}:\n{}{}", folder.display(), run.stdout, run.stderr);
        assert!(run.stdout.ends_with(" 0 errors, 0 warnings\n"), "{}:\n{}", folder.display(), run.stdout);
    }
}

/// What `check` lets through has a plan; what is secret is in it by name only.
#[tokio::test]
async fn every_example_for_a_cluster_renders_and_no_secret_shows() {
    let home = tempfile::tempdir().unwrap();
    for folder in examples() {
        let run = skep::run(home.path(), ["render", "-o", "json", "-f", folder.to_str().unwrap()]).await;
        assert_eq!(run.code, Some(0), "{}:\n{}", folder.display(), run.stderr);
        let rendered: Value = serde_json::from_str(&run.stdout).unwrap();
        let items = rendered["items"].as_array().unwrap();
        assert!(items.iter().any(|item| item["kind"] == "Deployment"), "{}", folder.display());
        assert!(!run.stdout.contains("only-an-example"), "{}: a secret's value", folder.display());
    }
}

/// The exchange of the example, as its pod is told of it.
#[tokio::test]
async fn the_example_of_an_exchange_reaches_the_pod_with_a_file_and_a_variable_for_its_key() {
    let home = tempfile::tempdir().unwrap();
    let folder = repository().join("examples/token-exchange");
    let run = skep::run(home.path(), ["render", "-o", "json", "-f", folder.to_str().unwrap()]).await;
    let rendered: Value = serde_json::from_str(&run.stdout).unwrap();
    let of = |kind: &str| rendered["items"].as_array().unwrap().iter().find(|item| item["kind"] == kind);
    let config = of("ConfigMap").unwrap()["data"]["runconfig.json"].as_str().unwrap();
    let config: Value = serde_json::from_str(config).unwrap();
    assert_eq!(
        config["token_exchange_config"]["token_url"],
        "https://login.example.com/realms/company/token"
    );
    assert_eq!(config["token_exchange_config"]["audience"], "https://crm.example.com");
    assert_eq!(config["token_exchange_config"]["client_secret"], "");
    assert_eq!(config["skep"]["token_exchange"]["client_auth"], "private_key_jwt");
    assert_eq!(config["skep"]["token_exchange"]["ttl_cap_seconds"], 900);

    let variable = "TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET";
    let container = &of("Deployment").unwrap()["spec"]["template"]["spec"]["containers"][0];
    let env = container["env"].as_array().unwrap().iter().find(|env| env["name"] == variable).unwrap();
    assert_eq!(env["valueFrom"]["secretKeyRef"]["key"], "private-key.pem");
    let file = config["skep"]["secret_files"][variable].as_str().unwrap();
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| file.starts_with(mount["mountPath"].as_str().unwrap())).unwrap();
    assert!(mount["subPath"].is_null(), "a subPath never changes: {mount}");
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
            ["make", target, ..] => {
                let makefile = fs::read_to_string(repository().join("Makefile")).unwrap();
                let known = makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
                assert!(known, "{document}: {line}: no such target");
            }
            [script, ..] if script.starts_with("./") || script.starts_with("hack/") => {
                assert!(repository().join(script).is_file(), "{document}: {line}: no such script");
            }
            _ => {}
        }
    }
}

/// The folders of `examples/` with manifests for a cluster. `webhook` has the config file of a process.
fn examples() -> Vec<PathBuf> {
    let entries = fs::read_dir(repository().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let folders: Vec<PathBuf> = entries
        .filter(|path| path.is_dir() && !path.ends_with("quickstart") && !path.ends_with("webhook"))
        .collect();
    assert!(folders.len() >= 10, "{folders:?}");
    folders
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

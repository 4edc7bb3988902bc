//! The rights in `deploy/kustomize` are those that the operator needs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use skep_api::yaml::{documents, to_yaml};
use skep_operator::permissions::{
    Right, Scope, election_rules, granted, granted_only, registration_rules, rights, rules,
};

use crate::manifests::{files, plan};

fn kustomize(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kustomize").join(path)
}

fn object(path: &str, kind: &str) -> Value {
    let text = std::fs::read_to_string(kustomize(path)).unwrap();
    let found = documents(&text).unwrap().into_iter().map(|document| document.value);
    found.into_iter().find(|value| value["kind"] == kind).unwrap_or_else(|| panic!("{path} has no {kind}"))
}

#[test]
fn the_roles_in_the_tree_have_exactly_the_rules_that_are_needed() {
    for (path, kind, expected) in [
        ("base/rbac.yaml", "ClusterRole", rules(Scope::Cluster)),
        ("namespaced/watched/rbac.yaml", "Role", rules(Scope::Namespaces)),
        ("operator/leader-election.yaml", "Role", election_rules()),
        ("registration/rbac.yaml", "ClusterRole", registration_rules()),
    ] {
        let rules = to_yaml(&json!({"rules": expected}));
        if std::env::var_os("UPDATE_RULES").is_some() {
            write_rules(&kustomize(path), kind, &rules);
        }
        assert!(
            object(path, kind)["rules"] == Value::from(expected),
            "deploy/kustomize/{path} is out of step; run this test with UPDATE_RULES=1. Its {kind} has to have\n{rules}"
        );
    }
}

/// Puts the rules into the document of this kind, which has them last.
fn write_rules(path: &Path, kind: &str, rules: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    let documents: Vec<String> = text
        .split("---\n")
        .map(|document| match document.split_once("rules:") {
            Some((head, _)) if document.contains(&format!("\nkind: {kind}\n")) => format!("{head}{rules}"),
            _ => document.to_owned(),
        })
        .collect();
    std::fs::write(path, documents.join("---\n")).unwrap();
}

#[test]
fn whatever_is_planned_the_operator_may_grant_what_the_roles_grant_and_holds_nothing_more_for_it() {
    let mut texts: Vec<String> =
        files("good").iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    texts.extend(yaml_below(&examples));
    let mut granted_by_plans = BTreeSet::new();
    for text in &texts {
        for (_, planned) in plan(text) {
            for object in planned.plan.iter().flat_map(|plan| &plan.objects) {
                assert_ne!(object["kind"], "ClusterRole");
                assert_ne!(object["kind"], "ClusterRoleBinding");
                if object["kind"] == "Role" {
                    let rules = object["rules"].as_array().unwrap();
                    assert!(rules.iter().all(|rule| rule["resourceNames"].is_array()), "{object}");
                    granted_by_plans.extend(rules.iter().flat_map(granted));
                }
            }
        }
    }
    let held = rights(Scope::Namespaces);
    let more: Vec<&Right> = granted_by_plans.difference(&held).collect();
    assert!(more.is_empty(), "Roles grant what the operator has not: {more:?}");
    let useless: Vec<Right> = granted_only().difference(&granted_by_plans).cloned().collect();
    assert!(useless.is_empty(), "no Role grants this, so the operator need not hold it: {useless:?}");
}

fn yaml_below(folder: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            texts.extend(yaml_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            texts.push(std::fs::read_to_string(path).unwrap());
        }
    }
    texts
}

#[test]
fn what_the_kustomizations_name_is_there() {
    let deploy = kustomize("..");
    for folder in [
        "crds",
        "kustomize/operator",
        "kustomize/base",
        "kustomize/namespaced",
        "kustomize/namespaced/watched",
        "kustomize/registration",
    ] {
        let folder = deploy.join(folder);
        let text = std::fs::read_to_string(folder.join("kustomization.yaml")).unwrap();
        let kustomization = documents(&text).unwrap().remove(0).value;
        let resources = kustomization["resources"].as_array().unwrap().iter();
        let patches = kustomization["patches"].as_array().into_iter().flatten().map(|patch| &patch["path"]);
        for named in resources.chain(patches) {
            let path = folder.join(named.as_str().unwrap());
            assert!(path.exists(), "{}", path.display());
        }
    }
}

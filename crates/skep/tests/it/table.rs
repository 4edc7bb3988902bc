//! `skep check` says of every object of the planner's table what the planner says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use skep_api::problem::Problem;
use skep_api::yaml::to_yaml_documents;

use crate::cases::{Case, Finding, cases, findings};

/// Each case is a namespace of its own, so that one run sees them all.
fn namespace(index: usize) -> String {
    format!("case-{index}")
}

fn manifests(index: usize, case: &Case) -> Vec<Value> {
    let namespace = namespace(index);
    let mut labels = case.namespace_labels.clone();
    if case.require_auth {
        labels.insert("skep.dev/require-auth".to_owned(), "true".to_owned());
    }
    let mut made = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}),
    ];
    for object in &case.objects {
        let mut object = object.clone();
        object["metadata"]["namespace"] = namespace.clone().into();
        made.push(object);
    }
    made
}

#[test]
fn check_says_what_the_table_says() {
    let all = cases();
    let text: Vec<Value> = all.iter().enumerate().flat_map(|(index, case)| manifests(index, case)).collect();
    let mut child = Command::new(env!("CARGO_BIN_EXE_skep"))
        .args(["check", "--strict-references", "-o", "json", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(to_yaml_documents(&text).as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();

    let mut found: BTreeMap<(String, String), BTreeSet<Finding>> = BTreeMap::new();
    for finding in report["findings"].as_array().unwrap() {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let object = &finding["object"];
        let key = format!("{}/{}", text(&object["kind"]), text(&object["name"]));
        let problem: Problem = serde_json::from_value(finding.clone()).unwrap();
        found.entry((text(&object["namespace"]), key)).or_default().extend(findings([&problem]));
    }
    for (index, case) in all.iter().enumerate() {
        for (object, expected) in &case.problems {
            let found = found.remove(&(namespace(index), object.clone())).unwrap_or_default();
            assert_eq!(found, *expected, "{}: {object}", case.name);
        }
    }
    assert!(all.iter().any(|case| case.offline), "a server drops what the tool still sees");
    assert!(found.is_empty(), "these are not in the table: {found:?}");
}

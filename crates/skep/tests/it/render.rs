//! `skep render`, `skep crds` and `skep schema`.

use std::path::Path;

use serde_json::Value;
use skep_api::yaml::documents;

use crate::check::{skep, text};

#[test]
fn objects_come_in_the_order_in_which_they_are_applied() {
    let output = skep(&["render", "-f", "good/remote-policies-inline.yaml"]);
    assert_eq!(output.status.code(), Some(0));
    let kinds: Vec<String> = documents(&text(&output.stdout))
        .unwrap()
        .into_iter()
        .map(|document| document.value["kind"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        kinds,
        ["ServiceAccount", "Role", "RoleBinding", "ConfigMap", "ConfigMap", "Deployment", "Service"]
    );
}

#[test]
fn both_formats_hold_the_same_objects() {
    let yaml = skep(&["render", "-f", "good/server-full.yaml"]);
    let json = skep(&["render", "-o", "json", "-f", "good/server-full.yaml"]);
    let list: Value = serde_json::from_slice(&json.stdout).unwrap();
    let from_yaml: Vec<Value> =
        documents(&text(&yaml.stdout)).unwrap().into_iter().map(|document| document.value).collect();
    assert_eq!(*list["items"].as_array().unwrap(), from_yaml);
}

#[test]
fn an_object_with_an_error_makes_nothing() {
    let output = skep(&["render", "-f", "bad/remote-without-auth.yaml", "-f", "good/remote-headers.yaml"]);
    // Both are named `p`; the second is refused as a duplicate, the first for its error.
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(text(&output.stdout), "");
    let complaints = text(&output.stderr);
    assert!(
        complaints.contains("error: AuthRequired") && complaints.contains("note: NotRendered"),
        "{complaints}"
    );
}

#[test]
fn what_cannot_be_resolved_is_not_rendered_without_it() {
    let output = skep(&["render", "-f", "bad/remote-references-missing.yaml"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).contains("NotRendered"));
}

#[test]
fn the_written_crds_are_in_step_with_the_types() {
    let folder = tempfile::tempdir().unwrap();
    let output = skep(&["crds", "--output-dir", folder.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
    let mut count = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let fresh = std::fs::read_to_string(&path).unwrap();
        let old = std::fs::read_to_string(committed.join(path.file_name().unwrap())).unwrap_or_default();
        assert!(fresh == old, "{} is out of step: run `skep crds --output-dir deploy/crds`", path.display());
        count += 1;
    }
    assert_eq!(count, skep_api::crd::definition::definitions().len() + 1, "and a kustomization");
}

#[test]
fn every_schema_is_json() {
    for name in [
        "runconfig",
        "MCPRemoteProxy",
        "mcpserver",
        "MCPExternalAuthConfig",
        "MCPToolConfig",
        "MCPOIDCConfig",
        "MCPAuthzConfig",
    ] {
        let output = skep(&["schema", name]);
        assert_eq!(output.status.code(), Some(0), "{name}");
        let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(schema["properties"].is_object(), "{name}");
    }
    assert_eq!(skep(&["schema", "nonsense"]).status.code(), Some(1));
}

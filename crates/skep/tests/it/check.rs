//! `skep check`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The manifests that the planner is tested with; the binary is run in their folder.
pub(crate) fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../operator/tests/manifests")
}

/// Runs the binary.
pub(crate) fn skep(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_skep"))
        .args(args)
        .current_dir(manifests())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn names(folder: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(manifests().join(folder))
        .unwrap()
        .map(|entry| format!("{folder}/{}", entry.unwrap().file_name().to_string_lossy()))
        .collect();
    names.sort();
    names
}

fn findings_of_all(folder: &str, code: impl Fn(&str) -> i32) -> String {
    let mut all = String::new();
    for name in names(folder) {
        let output = skep(&["check", "-f", &name]);
        assert_eq!(output.status.code(), Some(code(&name)), "{name}: {}", text(&output.stdout));
        assert!(output.stderr.is_empty(), "{name}");
        all.push_str(&text(&output.stdout));
        all.push('\n');
    }
    all
}

#[test]
fn good_manifests_pass_with_these_findings() {
    insta::assert_snapshot!("good", findings_of_all("good", |_| 0));
}

#[test]
fn bad_manifests_are_refused_with_these_findings() {
    // What is missing may be in files that were not given, unless references are strict.
    let lenient = |name: &str| if name.ends_with("references-missing.yaml") { 0 } else { 3 };
    insta::assert_snapshot!("bad", findings_of_all("bad", lenient));
}

#[test]
fn missing_references_are_errors_when_references_are_strict() {
    let mut all = String::new();
    for file in ["bad/external-auth-references-missing.yaml", "bad/remote-references-missing.yaml"] {
        let output = skep(&["check", "--strict-references", "-f", file]);
        assert_eq!(output.status.code(), Some(3), "{file}");
        all.push_str(&text(&output.stdout));
    }
    insta::assert_snapshot!("strict", all);
}

#[test]
fn findings_are_printed_for_programs_too() {
    let output = skep(&["check", "-o", "json", "-f", "bad/remote-without-auth.yaml"]);
    assert_eq!(output.status.code(), Some(3));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    insta::assert_json_snapshot!("json", report);
}

#[test]
fn standard_input_is_a_file_too() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_skep"))
        .args(["check", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"kind: MCPServer\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stdout).starts_with("<stdin>:1: error: NotAnObject: "), "{}", text(&output.stdout));
}

#[test]
fn folders_are_read_with_all_below_them_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let config = |name: &str| {
        format!(
            "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPToolConfig\nmetadata: {{name: {name}}}\nspec: {{nonsense: 1}}\n"
        )
    };
    std::fs::create_dir(folder.path().join("a")).unwrap();
    for (path, name) in [
        ("b.yml", "second"),
        ("a/z.yaml", "first"),
        ("c.json", "third"),
        ("ignored.txt", "x"),
        (".hidden.yaml", "x"),
    ] {
        std::fs::write(folder.path().join(path), config(name)).unwrap();
    }
    let output = skep(&["check", "-f", folder.path().to_str().unwrap()]);
    let found = text(&output.stdout);
    let order: Vec<&str> = found
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, _)| file.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(order, ["z.yaml", "b.yml", "c.json", "3 objects"], "{found}");
}

#[test]
fn loopback_passes_when_judged_as_up_judges() {
    assert_eq!(skep(&["check", "-f", "bad/remote-url-loopback.yaml"]).status.code(), Some(3));
    assert_eq!(skep(&["check", "--local", "-f", "bad/remote-url-loopback.yaml"]).status.code(), Some(0));
}

#[test]
fn wrong_usage_is_2_and_a_file_that_is_not_there_is_1() {
    assert_eq!(skep(&["check"]).status.code(), Some(2));
    assert_eq!(skep(&["check", "--nonsense"]).status.code(), Some(2));
    let output = skep(&["check", "-f", "nowhere.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("can't read nowhere.yaml"), "{}", text(&output.stderr));
}

#[test]
fn json_manifests_with_tabs_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.json");
    std::fs::write(&path, "{\n\t\"apiVersion\": \"toolhive.stacklok.dev/v1beta1\",\n\t\"kind\": \"MCPToolConfig\",\n\t\"metadata\": {\"name\": \"t\"},\n\t\"spec\": {\n\t\t\"toolsFilter\": [\"a\"]\n\t}\n}\n").unwrap();
    let output = skep(&["check", "-f", path.to_str().unwrap()]);
    assert_eq!(text(&output.stdout), "1 object: 0 errors, 0 warnings\n");
}

/// The examples of ToolHive are no part of this project: SKEP_COMPAT names a folder with them.
#[test]
fn examples_of_the_compatible_project_are_judged() {
    let folder = std::env::var_os("SKEP_COMPAT").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/compat")),
        PathBuf::from,
    );
    let examples = folder.join("examples");
    if !examples.is_dir() {
        skep_testkit::control_plane::skip(
            "ToolHive's examples are not here; SKEP_COMPAT names a folder with them",
        );
        return;
    }
    let mut refused = Vec::new();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    println!("| file | result | reasons |\n|---|---|---|");
    for file in files {
        let output = skep(&["check", "-o", "json", "-f", file.to_str().unwrap()]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let reasons: Vec<String> = report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|finding| {
                format!(
                    "{} {} ({})",
                    finding["severity"].as_str().unwrap(),
                    finding["reason"].as_str().unwrap(),
                    finding["path"].as_str().unwrap_or("-")
                )
            })
            .collect();
        let result = match output.status.code() {
            Some(0) => "accepted",
            Some(3) => {
                refused.push(file.file_name().unwrap().to_string_lossy().into_owned());
                "refused"
            }
            other => panic!("{}: {other:?}", file.display()),
        };
        println!("| {} | {result} | {} |", file.file_name().unwrap().to_string_lossy(), reasons.join(", "));
    }
    // It exchanges tokens of callers that nobody authenticates.
    assert_eq!(refused, ["complete_example.yaml"]);
}

//! Exit codes and what goes with them (0 done, 1 failed, 2 wrong usage, 3 `check` or `render` found errors).

use std::fs;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;

use crate::harness::skep;

const UNPROTECTED: &str = "apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPRemoteProxy
metadata:
  name: open
spec:
  remoteUrl: https://mcp.example.com/mcp
";

#[tokio::test]
async fn exit_codes_say_whose_fault_it_is() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("open.yaml"), UNPROTECTED).unwrap();
    let anonymous = format!("{UNPROTECTED}  authMode: anonymous\n");
    fs::write(home.path().join("anonymous.yaml"), anonymous).unwrap();
    let table: [(&[&str], i32, &str); 8] = [
        (&["check", "-f", "anonymous.yaml"], 0, ""),
        (&["check", "-f", "open.yaml"], 3, "open.yaml:"),
        (&["check", "-f", "missing.yaml"], 1, "missing.yaml"),
        (&["render", "-f", "open.yaml"], 3, "authMode"),
        (&["up", "-f", "open.yaml"], 1, "authMode"),
        (&["token", "--user", "alice"], 1, "skep up"),
        (&["check", "--no-such-flag"], 2, "--no-such-flag"),
        (&["no-such-command"], 2, "no-such-command"),
    ];
    for (args, code, says) in table {
        let run = skep::run(home.path(), args).await;
        assert_eq!(run.code, Some(code), "skep {}\n{}{}", args.join(" "), run.stdout, run.stderr);
        let said = run.stdout + &run.stderr;
        assert!(said.contains(says), "skep {}: {said:?} says nothing of {says:?}", args.join(" "));
    }
}

#[tokio::test]
async fn a_remote_proxy_without_auth_is_refused_from_standard_input_too() {
    let home = tempfile::tempdir().unwrap();
    let mut command = skep::command(home.path(), ["check", "-f", "-", "-o", "json"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(UNPROTECTED.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(said.to_string().contains("authMode"), "{said}");
}

#[tokio::test]
async fn the_ready_file_of_an_earlier_run_does_not_speak_for_this_one() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("open.yaml"), UNPROTECTED).unwrap();
    fs::write(home.path().join("ready.json"), "{}").unwrap();
    let run = skep::run(home.path(), ["up", "-f", "open.yaml", "--ready-file", "ready.json"]).await;
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(!home.path().join("ready.json").exists());
}

//! Credentials that `skep up` takes from Secrets, and manifests from standard input.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};
use skep_testkit::free_port;
use tokio::io::AsyncWriteExt as _;

use crate::harness::scene::{Scene, inline, permit};
use crate::harness::{eventually, skep};

const BEARER: &str = "  clientToken: strip\n  externalAuthConfigRef:\n    name: api\n";

fn credentials(token: &str, key: &str) -> String {
    format!(
        "apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPExternalAuthConfig
metadata:
  name: api
spec:
  type: bearerToken
  bearerToken:
    tokenSecretRef:
      name: api-token
      key: token
---
apiVersion: v1
kind: Secret
metadata:
  name: api-token
stringData:
  token: {token}
---
apiVersion: v1
kind: Secret
metadata:
  name: api-key
stringData:
  key: {key}
"
    )
}

#[tokio::test]
async fn credentials_come_from_secrets_and_follow_them_and_the_callers_own_never_gets_there() {
    let scene = Scene::start().await;
    fs::write(scene.file("secrets.yaml"), credentials("first-token", "first-key")).unwrap();
    let header = "  headerForward:\n    addHeadersFromSecret:\n    - headerName: X-Api-Key\n      valueSecretRef:\n        name: api-key\n        key: key\n";
    scene.rewrite(&format!("{}{BEARER}{header}", inline(&[permit(0), permit(1)])));
    scene.until_status("tool-1", 200).await;
    let sent = scene.backend.requests();
    let last = sent.last().unwrap();
    assert_eq!(last.header("authorization"), Some("Bearer first-token"));
    assert_eq!(last.header("x-api-key"), Some("first-key"));

    fs::write(scene.file("secrets.yaml"), credentials("second-token", "second-key")).unwrap();
    eventually("the new credentials are used", async || {
        assert_eq!(scene.status_of("tool-0").await, 200, "no call fails during the change");
        let sent = scene.backend.requests();
        let last = sent.last()?;
        let both = [last.header("authorization"), last.header("x-api-key")];
        (both == [Some("Bearer second-token"), Some("second-key")]).then_some(())
    })
    .await;
    for request in scene.backend.requests() {
        assert!(!String::from_utf8_lossy(&request.body).contains(&scene.token));
        assert!(request.header("authorization").is_none_or(|value| !value.contains(&scene.token)));
    }
    for text in [scene.up.stdout.text(), scene.up.stderr.text()] {
        for secret in ["first-token", "second-token", "first-key", "second-key"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[tokio::test]
async fn a_secret_that_goes_away_leaves_the_last_good_version_running() {
    let scene = Scene::start().await;
    fs::write(scene.file("secrets.yaml"), credentials("a-token", "a-key")).unwrap();
    scene.rewrite(&format!("{}{BEARER}", inline(&[permit(0), permit(1)])));
    scene.until_status("tool-1", 200).await;
    fs::remove_file(scene.file("secrets.yaml")).unwrap();
    scene.up.stderr.line_with("ExternalAuthConfigNotFound").await;
    assert_eq!(scene.status_of("tool-1").await, 200);
    let sent = scene.backend.requests();
    assert_eq!(sent.last().unwrap().header("authorization"), Some("Bearer a-token"));
}

#[tokio::test]
async fn manifests_are_read_from_standard_input_and_stay_while_a_file_beside_them_changes() {
    let scene = Scene::start().await;
    let home = tempfile::tempdir().unwrap();
    let (piped, filed) = (free_port(), free_port());
    let file = home.path().join("filed.yaml");
    fs::write(&file, scene.another("filed", filed)).unwrap();
    let ready = home.path().join("ready.json");
    let args = ["up", "-f", "-", "-f", "filed.yaml", "--ready-file", ready.to_str().unwrap()];
    let mut command = skep::command(home.path(), args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(scene.another("piped", piped).as_bytes()).await.unwrap();
    drop(stdin);
    let ready: Value = eventually("both are ready", async || {
        fs::read(&ready).ok().and_then(|text| serde_json::from_slice(&text).ok())
    })
    .await;
    let names: Vec<&str> =
        ready["objects"].as_array().unwrap().iter().map(|object| object["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["filed", "piped"]);

    let call = async |port: u16, tool: &str| {
        let url = format!("http://127.0.0.1:{port}/mcp");
        crate::harness::http::call_tool(&url, Some(&scene.token), tool, json!({})).await.status
    };
    let text = fs::read_to_string(&file).unwrap().replace("tool-0", "tool-1");
    fs::write(&file, text).unwrap();
    eventually("the change is taken", async || (call(filed, "tool-1").await == 200).then_some(())).await;
    assert_eq!(call(piped, "tool-0").await, 200, "what came over standard input is still there");
}

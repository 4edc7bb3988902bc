//! A credential from a file, which the server refuses because there is another one by now.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use skep_testkit::backend::well_behaved;
use skep_testkit::{McpBackend, Recorded, Reply};

use crate::harness::{Harness, call, logs};

/// A server that takes one bearer token.
async fn taking(good: &'static str) -> McpBackend {
    McpBackend::start(move |request| match request.header("authorization") {
        Some(value) if value == format!("Bearer {good}") => well_behaved(request, 1),
        _ => Reply::status(401),
    })
    .await
}

fn bearer(file: &Path) -> Value {
    json!({"remote_auth_config": {"bearer_token_file": file}})
}

fn sent(harness: &Harness) -> Vec<String> {
    let value = |request: &Recorded| request.header("authorization").unwrap_or_default().to_owned();
    harness.backend.requests().iter().map(value).collect()
}

#[tokio::test]
async fn a_rotated_token_is_read_again_when_the_server_refuses_the_old_one() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first-token\n").unwrap();
    let harness = Harness::before(taking("second-token").await, bearer(file.path())).await;
    std::fs::write(file.path(), "second-token\n").unwrap();
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(sent(&harness), ["Bearer first-token", "Bearer second-token"]);
    // From now on it is the token, though nobody has told the proxy of a change.
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(sent(&harness).len(), 3);
    assert_eq!(harness.audit.wait(2).await.len(), 2, "a call that is sent again is one call");
    assert!(!logs().contains("second-token"));
}

#[tokio::test]
async fn a_token_that_has_not_changed_is_sent_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first-token").unwrap();
    let harness = Harness::before(taking("second-token").await, bearer(file.path())).await;
    for calls in 1..3 {
        let answer = harness.post(&call("tool-0")).await;
        assert_eq!(answer.status, 502);
        assert_eq!(sent(&harness).len(), calls);
        assert!(!answer.text().contains("token"), "{}", answer.text());
    }
}

#[tokio::test]
async fn another_token_that_is_refused_too_is_the_end() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first-token").unwrap();
    let harness = Harness::before(taking("third-token").await, bearer(file.path())).await;
    std::fs::write(file.path(), "second-token").unwrap();
    assert_eq!(harness.post(&call("tool-0")).await.status, 502);
    assert_eq!(sent(&harness), ["Bearer first-token", "Bearer second-token"]);
    // A server that refuses everybody does not cost two calls for each.
    std::fs::write(file.path(), "third-token").unwrap();
    assert_eq!(harness.post_as("bob", &call("tool-0")).await.status, 502);
    assert_eq!(sent(&harness).len(), 3);
    harness.clock.advance(Duration::from_secs(10));
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(sent(&harness).len(), 5);
}

#[tokio::test]
async fn of_many_refused_calls_each_gets_the_new_token() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first-token").unwrap();
    let harness = Harness::before(taking("second-token").await, bearer(file.path())).await;
    std::fs::write(file.path(), "second-token").unwrap();
    let message = call("tool-0");
    let answers = futures_util::future::join_all((0..20).map(|_| harness.post(&message))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(sent(&harness).len() <= 40);
}

#[tokio::test]
async fn a_file_that_is_gone_or_empty_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first-token").unwrap();
    let harness = Harness::before(taking("second-token").await, bearer(&file)).await;
    for content in [Some(""), Some("two\nlines"), None] {
        match content {
            Some(content) => std::fs::write(&file, content).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        assert_eq!(harness.post(&call("tool-0")).await.status, 502, "{content:?}");
        assert_eq!(sent(&harness).pop().unwrap(), "Bearer first-token", "{content:?}");
    }
    assert_eq!(sent(&harness).len(), 3);
}

#[tokio::test]
async fn a_secret_in_any_header_is_read_again() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first-key").unwrap();
    let changes = json!({
        "header_forward": {"add_headers_from_secret": {"X-Key": "KEY"}, "add_plaintext_headers": {"X-Team": "a"}},
        "skep": {"secret_files": {"TOOLHIVE_SECRET_KEY": file.path()}},
    });
    let harness = Harness::scripted(changes, |request| match request.header("x-key") {
        Some("second-key") if request.header("x-team") == Some("a") => well_behaved(request, 1),
        _ => Reply::status(401),
    })
    .await;
    std::fs::write(file.path(), "second-key").unwrap();
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(harness.backend.requests().len(), 2);
}

#[tokio::test]
async fn in_direct_mode_the_servers_refusal_is_the_clients_affair() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first-key").unwrap();
    let changes = json!({
        "header_forward": {"add_headers_from_secret": {"X-Key": "KEY"}},
        "skep": {"client_token": "forward", "secret_files": {"TOOLHIVE_SECRET_KEY": file.path()}},
    });
    let harness = Harness::scripted(changes, |_| Reply::status(401)).await;
    std::fs::write(file.path(), "second-key").unwrap();
    assert_eq!(harness.post(&call("tool-0")).await.status, 401);
    assert_eq!(harness.backend.requests().len(), 1);
}

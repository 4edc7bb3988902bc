//! What is looked up, and when.

use std::time::Duration;

use serde_json::json;
use skep_api::crd::Kind;
use skep_operator::cluster::Resource;

use super::setup::{MUTATE, Setup, message, object, second, server, settings, warnings};

const GROUP: &str = "/apis/toolhive.stacklok.dev/v1beta1/namespaces/ns/mcptoolconfigs/few";

fn tools() -> serde_json::Value {
    object(Kind::MCPToolConfig, "few", json!({"toolsFilter": ["a"]}))
}

fn refers() -> serde_json::Value {
    server("s", &json!({"toolConfigRef": {"name": "few"}}))
}

#[tokio::test]
async fn what_does_not_exist_is_a_warning_and_with_strict_references_a_denial() {
    for strict in [false, true] {
        let mut settings = settings();
        settings.strict_references = strict;
        let setup = Setup::with(&settings);
        let answer = setup.create(&refers()).await;
        assert_eq!(answer["allowed"], !strict, "{answer}");
        if strict {
            assert!(message(&answer).contains("spec.toolConfigRef"), "{answer}");
            assert!(message(&answer).contains("does not exist in this namespace."), "{answer}");
        } else {
            let lines = warnings(&answer);
            assert!(
                lines.iter().any(|line| line.contains("does not exist in this namespace (yet)")),
                "{lines:?}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_not_cached_yet_is_asked_for() {
    let setup = Setup::new();
    setup.api.put(GROUP, tools());
    let answer = setup.create(&refers()).await;
    assert!(warnings(&answer).iter().all(|line| !line.contains("(yet)")), "{answer}");
    assert_eq!(setup.api.take_asked().iter().filter(|path| *path == GROUP).count(), 1);
    // What is cached is not.
    setup.watched(Resource::Ours(Kind::MCPToolConfig), tools());
    setup.create(&refers()).await;
    assert!(!setup.api.take_asked().contains(&GROUP.to_owned()));
    // Nor is the content of a Secret, once a version.
    setup.secret("x", &json!({"k": ""}));
    let with_secret = server("s", &json!({"secrets": [{"name": "x", "key": "k"}]}));
    setup.create(&with_secret).await;
    setup.create(&with_secret).await;
    let path = "/api/v1/namespaces/ns/secrets/x";
    assert_eq!(setup.api.take_asked().iter().filter(|asked| *asked == path).count(), 1);
}

#[tokio::test]
async fn what_was_missing_a_moment_ago_is_not_asked_for_again() {
    let setup = Setup::new();
    for (wait, calls) in [(Duration::ZERO, 1), (second() / 2, 0), (second(), 1)] {
        setup.clock.advance(wait);
        setup.create(&refers()).await;
        let asked = setup.api.take_asked();
        assert_eq!(asked.iter().filter(|path| *path == GROUP).count(), calls, "{asked:?}");
    }
    // A watch that tells of it is believed at once.
    setup.watched(Resource::Ours(Kind::MCPToolConfig), tools());
    assert!(warnings(&setup.create(&refers()).await).iter().all(|line| !line.contains("(yet)")));
}

#[tokio::test]
async fn nothing_is_denied_for_what_was_mended_a_moment_ago() {
    let setup = Setup::new();
    let broken = object(Kind::MCPToolConfig, "few", json!({"toolsFilter": [""], "nothing": 1}));
    setup.watched(Resource::Ours(Kind::MCPToolConfig), broken.clone());
    setup.api.put(GROUP, broken);
    setup.api.put(
        "/api/v1/namespaces/ns",
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}}),
    );
    let answer = setup.create(&refers()).await;
    assert!(message(&answer).contains("The MCPToolConfig `few` is not valid"), "{answer}");
    // The watch has not told of it yet.
    setup.api.put(GROUP, tools());
    assert_eq!(setup.create(&refers()).await["allowed"], true);
    // A label that was set a moment ago counts, too.
    let host = server("s", &json!({"podTemplateSpec": {"spec": {"hostNetwork": true}}}));
    assert_eq!(setup.create(&host).await["allowed"], false);
    let labels = json!({"skep.dev/allow-privileged-template": "true"});
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns", "labels": labels}});
    setup.api.put("/api/v1/namespaces/ns", namespace);
    assert_eq!(setup.create(&host).await["allowed"], true);
    // What is wrong by itself needs no second look.
    setup.api.take_asked();
    assert_eq!(setup.create(&server("s", &json!({"transport": "x"}))).await["allowed"], false);
    assert!(setup.api.take_asked().iter().all(|path| !path.starts_with("/api/v1/namespaces/ns")));
}

#[tokio::test]
async fn what_can_not_be_looked_up_decides_nothing() {
    let setup = Setup::new();
    setup.api.failing.lock().unwrap().insert(GROUP.to_owned(), 500);
    let answer = setup.create(&refers()).await;
    assert_eq!((answer["allowed"].as_bool(), answer["status"]["code"].as_u64()), (Some(false), Some(500)));
    assert!(message(&answer).contains("the MCPToolConfig `ns/few` could not be looked up"), "{answer}");
    setup.api.failing.lock().unwrap().clear();
    assert_eq!(setup.create(&refers()).await["allowed"], true);
}

#[tokio::test(start_paused = true)]
async fn a_slow_api_server_is_named() {
    let setup = Setup::new();
    setup.api.silent.lock().unwrap().push(GROUP.to_owned());
    let answer = setup.create(&refers()).await;
    assert_eq!(answer["status"]["code"], 500);
    assert!(message(&answer).contains("longer than 2 seconds"), "{answer}");
    // And the review as a whole ends before the API server stops waiting.
    let path = format!("{}?timeout=1s", super::setup::validate_path(&refers()));
    let began = tokio::time::Instant::now();
    let answer = setup.review(&path, json!({"object": refers()})).await;
    assert_eq!(answer["status"]["code"], 504);
    assert!(began.elapsed() < second());
}

#[tokio::test]
async fn sidecars_that_are_not_injected_cost_no_look() {
    let setup = Setup::new();
    setup.mutate(MUTATE, &server("s", &json!({}))).await;
    assert!(setup.api.take_asked().is_empty());
}

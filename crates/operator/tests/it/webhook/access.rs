//! What the author of a manifest may do.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use skep_api::crd::Kind;
use skep_operator::webhook::settings::AccessReviews;

use super::setup::{Setup, message, object, server, settings, warnings};

fn access(asked: &[String]) -> Vec<&str> {
    asked.iter().filter(|asked| !asked.starts_with('/')).map(String::as_str).collect()
}

#[tokio::test]
async fn the_author_has_to_be_allowed_what_his_manifest_asks_for() {
    let setup = Setup::new();
    let manifest = server(
        "s",
        &json!({
            "secrets": [{"name": "own", "key": "k"}],
            "podTemplateSpec": {"spec": {
                "imagePullSecrets": [{"name": "pull"}],
                "volumes": [{"name": "v", "secret": {"secretName": "volume"}}],
            }},
        }),
    );
    assert_eq!(setup.create(&manifest).await["allowed"], true);
    let asked = setup.api.take_asked();
    let mut acts = access(&asked);
    acts.sort_unstable();
    assert_eq!(acts, ["create pods", "get secrets own", "get secrets pull", "get secrets volume"]);
    for (refused, path) in [
        ("create pods", "spec: `alice` may not create pods"),
        (
            "get secrets pull",
            "spec.podTemplateSpec.spec.imagePullSecrets[0].name: `alice` may not get secrets `pull`",
        ),
        ("get secrets volume", "spec.podTemplateSpec.spec.volumes[0].secret.secretName: "),
    ] {
        setup.clock.advance(Duration::from_secs(11));
        *setup.api.refused.lock().unwrap() = vec![refused.to_owned()];
        let answer = setup.create(&manifest).await;
        assert_eq!(answer["status"]["code"], 403, "{answer}");
        assert_eq!(answer["status"]["reason"], "Forbidden");
        assert!(message(&answer).contains(path), "{answer}");
    }
    // A config runs nothing, but it names Secrets.
    let config = object(
        Kind::MCPExternalAuthConfig,
        "c",
        json!({"type": "bearerToken", "bearerToken": {"tokenSecretRef": {"name": "token", "key": "k"}}}),
    );
    setup.api.take_asked();
    setup.create(&config).await;
    assert_eq!(access(&setup.api.take_asked()), ["get secrets token"]);
}

#[tokio::test]
async fn the_question_is_about_the_user_as_he_was_authenticated() {
    let setup = Setup::new();
    let user = json!({"username": "bob", "uid": "7", "groups": ["a", "b"], "extra": {"scopes": ["x", "y"]}});
    let request = json!({"object": server("s", &json!({})), "userInfo": user});
    setup.review("/validate-toolhive-stacklok-dev-v1beta1-mcpserver", request).await;
    insta::assert_json_snapshot!(setup.api.review.lock().unwrap()["spec"]);
}

#[tokio::test]
async fn answers_are_remembered_for_some_seconds_each_for_one_user() {
    let setup = Setup::new();
    let manifest = server("s", &json!({}));
    setup.create(&manifest).await;
    setup.clock.advance(Duration::from_secs(9));
    setup.create(&manifest).await;
    assert_eq!(access(&setup.api.take_asked()).len(), 1);
    let path = "/validate-toolhive-stacklok-dev-v1beta1-mcpserver";
    for user in [
        json!({"username": "alice", "groups": ["dev", "ops"]}),
        json!({"username": "alice"}),
        json!({"username": "alice", "groups": ["dev"], "uid": "1"}),
        json!({"username": "alice", "groups": ["dev"], "extra": {"a": []}}),
    ] {
        setup.review(path, json!({"object": manifest, "userInfo": user})).await;
        assert_eq!(access(&setup.api.take_asked()).len(), 1, "{user}");
    }
    setup.clock.advance(Duration::from_secs(1));
    setup.create(&manifest).await;
    assert_eq!(access(&setup.api.take_asked()).len(), 1, "after ten seconds");
    // A no is forgotten sooner.
    setup.clock.advance(Duration::from_secs(10));
    setup.api.refused.lock().unwrap().push("create pods".to_owned());
    assert_eq!(setup.create(&manifest).await["allowed"], false);
    setup.api.refused.lock().unwrap().clear();
    assert_eq!(setup.create(&manifest).await["allowed"], false, "it is remembered");
    setup.clock.advance(Duration::from_secs(1));
    assert_eq!(setup.create(&manifest).await["allowed"], true);
}

#[tokio::test]
async fn those_who_ask_the_same_at_the_same_time_share_one_call() {
    let setup = Setup::new();
    let manifest = server("s", &json!({}));
    let answers = join_all((0..50).map(|_| setup.create(&manifest))).await;
    assert!(answers.iter().all(|answer| answer["allowed"] == true));
    assert_eq!(access(&setup.api.take_asked()), ["create pods"]);
}

#[tokio::test]
async fn when_nobody_can_say_nothing_is_let_in_and_nothing_is_remembered() {
    let setup = Setup::new();
    let manifest = server("s", &json!({}));
    setup.api.failing.lock().unwrap().insert("access".to_owned(), 500);
    let answer = setup.create(&manifest).await;
    assert_eq!((answer["allowed"].as_bool(), answer["status"]["code"].as_u64()), (Some(false), Some(500)));
    assert!(message(&answer).contains("create pods in the namespace `ns`"), "{answer}");
    setup.api.failing.lock().unwrap().clear();
    assert_eq!(setup.create(&manifest).await["allowed"], true);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_not_waited_for() {
    let setup = Setup::new();
    let manifest = server("s", &json!({}));
    setup.api.silent.lock().unwrap().push("/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned());
    let began = tokio::time::Instant::now();
    let answer = setup.create(&manifest).await;
    assert_eq!(answer["status"]["code"], 500);
    assert!(message(&answer).contains("longer than 2 seconds"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(3));
    setup.api.silent.lock().unwrap().clear();
    assert_eq!(setup.create(&manifest).await["allowed"], true);
}

#[tokio::test]
async fn a_lenient_webhook_warns() {
    let mut settings = settings();
    settings.access_reviews = AccessReviews::Warn;
    let setup = Setup::with(&settings);
    setup.api.refused.lock().unwrap().push("create pods".to_owned());
    let manifest = server("s", &json!({}));
    let answer = setup.create(&manifest).await;
    assert_eq!(answer["allowed"], true);
    assert!(warnings(&answer).iter().any(|line| line.contains("may not create pods")), "{answer}");
    setup.clock.advance(Duration::from_secs(2));
    setup.api.failing.lock().unwrap().insert("access".to_owned(), 500);
    let answer = setup.create(&manifest).await;
    assert_eq!(answer["allowed"], true);
    assert!(warnings(&answer).iter().any(|line| line.contains("could not be asked")), "{answer}");
}

#[tokio::test]
async fn secrets_that_only_a_config_map_names_are_asked_about_too() {
    let setup = Setup::new();
    let text = json!({"issuer": "https://idp.example.com", "introspectionUrl": "https://idp.example.com/i",
        "clientId": "c", "clientSecretRef": {"name": "hidden", "key": "k"}});
    setup.config_map("login", &json!({"oidc.json": text.to_string()}));
    setup.secret("hidden", &json!({"k": ""}));
    setup.api.refused.lock().unwrap().push("get secrets hidden".to_owned());
    let spec = json!({"authMode": null, "oidcConfig": {"type": "configMap", "configMap": {"name": "login"}}});
    let answer = setup.create(&server("s", &spec)).await;
    assert!(
        message(&answer).contains("spec.oidcConfig.configMap: `alice` may not get secrets `hidden`"),
        "{answer}"
    );
}

#[tokio::test]
async fn nobody_makes_the_webhook_ask_a_thousand_questions() {
    let setup = Setup::new();
    let pulls: Vec<_> = (0..1000).map(|index| json!({"name": format!("s{index}")})).collect();
    let answer =
        setup.create(&server("s", &json!({"podTemplateSpec": {"spec": {"imagePullSecrets": pulls}}}))).await;
    assert_eq!(answer["allowed"], false);
    assert!(message(&answer).contains("More than 256 Secrets"), "{answer}");
    assert!(access(&setup.api.take_asked()).is_empty());
    let secrets: Vec<_> = (0..600)
        .map(|index| json!({"name": format!("s{index}"), "key": "k", "targetEnvName": format!("V{index}")}))
        .collect();
    let manifest = server("s", &json!({"secrets": secrets}));
    let answer = setup.create(&manifest).await;
    assert!(message(&answer).contains("spec: This refers to 600 objects"), "{answer}");
    assert!(setup.api.take_asked().is_empty());
    assert_eq!(setup.update(&manifest, &manifest).await["allowed"], true);
}

//! What the author of a manifest may do.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use skep_api::crd::{Kind, canonical};
use skep_operator::sidecars::{Registration, SidecarMode};
use skep_operator::webhook::settings::AccessReviews;

use super::setup::{MUTATE, Setup, message, object, server, settings, validate_path, warnings};

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

/// A server that says of a container and a volume of its author's that they were injected.
fn forged(container: &str, volume: &str) -> Value {
    let own = json!({"name": container, "image": "thief", "env": [
        {"name": "P", "valueFrom": {"secretKeyRef": {"name": "keycloak-admin-secret", "key": "k"}}},
    ]});
    let mounted = json!({"name": volume, "secret": {"secretName": "other"}});
    let hash = |value: &Value| canonical::digest(value).chars().take(16).collect::<String>();
    let mut server = server(
        "s",
        &json!({"podTemplateSpec": {"spec": {"containers": [own.clone()], "volumes": [mounted.clone()]}}}),
    );
    let annotation = json!({
        "version": 1, "containers": {container: hash(&own)}, "volumes": {volume: hash(&mounted)},
        "made": ["podTemplateSpec", "spec", "containers", "volumes"],
    });
    server["metadata"]["annotations"] = json!({"skep.dev/injection": annotation.to_string()});
    server
}

#[tokio::test]
async fn an_author_who_says_that_his_containers_were_injected_is_not_believed() {
    for (container, volume) in [("mine", "mine"), ("spiffe-helper", "shared-data")] {
        for secret in ["keycloak-admin-secret", "other"] {
            let setup = Setup::new();
            setup.api.refused.lock().unwrap().push(format!("get secrets {secret}"));
            let manifest = forged(container, volume);
            let refused = format!("may not get secrets `{secret}`");
            let answer = setup.create(&manifest).await;
            assert!(message(&answer).contains(&refused), "{answer}");
            // Nor is such an update one that leaves the spec as it is.
            let answer = setup.update(&server("s", &json!({})), &manifest).await;
            assert!(message(&answer).contains(&refused), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_mount_of_a_volume_that_is_injected_later_asks_for_its_secret() {
    let mut settings = settings();
    settings.policy.default_on = true;
    settings.policy.mode = SidecarMode::Builtin;
    settings.policy.registration = Registration::Pod;
    let setup = Setup::with(&settings);
    setup.api.refused.lock().unwrap().push("get secrets keycloak-registration".to_owned());
    let mounts = json!([{"name": "keycloak-registration", "mountPath": "/x"}]);
    let manifest = |list: &str, name: &str| {
        server(
            "s",
            &json!({"podTemplateSpec": {"spec": {list: [{"name": name, "image": "i", "volumeMounts": mounts}]}}}),
        )
    };
    for manifest in [
        manifest("containers", "mcp"),
        manifest("initContainers", "first"),
        manifest("containers", "kagenti-client-registration"),
    ] {
        for object in [manifest.clone(), setup.mutate(MUTATE, &manifest).await.0] {
            let answer = setup.create(&object).await;
            assert_eq!(answer["status"]["code"], 403, "{answer}");
            assert!(message(&answer).contains("may not get secrets `keycloak-registration`"), "{answer}");
        }
    }
    // What is injected by itself asks nobody.
    let (injected, _) = setup.mutate(MUTATE, &server("s", &json!({}))).await;
    assert!(injected.to_string().contains("keycloak-registration"));
    assert_eq!(setup.create(&injected).await["allowed"], true);
}

#[tokio::test]
async fn nobody_is_told_of_secrets_that_he_may_not_read() {
    let oidc = json!({"issuer": "https://idp.example.com", "audience": "a", "clientId": "c",
        "introspectionUrl": "https://idp.example.com/i", "clientSecretRef": {"name": "hidden", "key": "k"}});
    let manifest = server(
        "s",
        &json!({
            "authMode": null, "oidcConfig": {"type": "inline", "inline": oidc},
            "sessionStorage": {"provider": "redis", "address": "redis:6379", "passwordRef": {"name": "open", "key": "k"}},
        }),
    );
    let mut answers = Vec::new();
    for there in [None, Some(json!({})), Some(json!({"k": ""}))] {
        let mut settings = settings();
        settings.access_reviews = AccessReviews::Warn;
        let setup = Setup::with(&settings);
        if let Some(data) = &there {
            setup.secret("hidden", data);
        }
        setup.api.refused.lock().unwrap().push("get secrets hidden".to_owned());
        let created = setup.create(&manifest).await;
        let told = warnings(&created).join("\n");
        assert!(told.contains("The Secret `open` does not exist"), "{told}");
        assert!(told.contains("may not get secrets `hidden`"), "{told}");
        // Where nobody is asked for more, because the spec stays as it is, the same holds.
        let updated = setup.update(&manifest, &manifest).await;
        assert!(warnings(&updated).join("\n").contains("The Secret `open` does not exist"), "{updated}");
        answers.push((created, updated));
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
}

#[tokio::test]
async fn an_error_stays_one_when_its_message_repeats_the_name_of_a_secret() {
    let setup = Setup::new();
    setup.api.refused.lock().unwrap().push("get secrets hidden".to_owned());
    let answer =
        setup.create(&server("s", &json!({"env": [{"name": "Secret `hidden`", "value": "x"}]}))).await;
    assert_eq!(answer["allowed"], false, "{answer}");
    assert!(
        message(&answer).contains("spec.env[0].name") && !message(&answer).contains("hidden"),
        "{answer}"
    );
}

#[tokio::test]
async fn nobody_is_told_what_a_config_map_holds() {
    let cedar = json!({"version": "1.0", "type": "cedarv1", "cedar": {"policies": ["permit(hunter2);"], "entities_json": "[hunter2]"}});
    let claims = json!({"version": "1.0", "type": "cedarv1", "cedar": {"policies": ["permit(principal, action, resource);"], "entities_json": "[]", "group_entity_type": "hunter2 hunter2"}});
    let oidc = json!({"issuer": "hunter2", "audience": "a", "jwksUrl": "http://hunter2.example.com/", "resourceUrl": "hunter2",
        "requiredScopes": ["hunter2 x"], "scopeMap": {"hunter2 y": "z"}, "allowedAlgorithms": ["hunter2"], "clockSkew": "hunter2"});
    for (field, key, text) in [
        ("authzConfig", "authz.json", "hunter2: [".to_owned()),
        ("authzConfig", "authz.json", "*hunter2".to_owned()),
        ("authzConfig", "authz.json", "hunter2".to_owned()),
        (
            "authzConfig",
            "authz.json",
            json!({"version": "1.0", "type": "cedarv1", "cedar": "hunter2"}).to_string(),
        ),
        ("authzConfig", "authz.json", json!({"version": "1.0", "type": "hunter2"}).to_string()),
        ("authzConfig", "authz.json", cedar.to_string()),
        ("authzConfig", "authz.json", claims.to_string()),
        ("oidcConfig", "oidc.json", "*hunter2".to_owned()),
        ("oidcConfig", "oidc.json", "hunter2".to_owned()),
        ("oidcConfig", "oidc.json", json!({"issuer": ["hunter2"], "requiredScopes": "hunter2"}).to_string()),
        ("oidcConfig", "oidc.json", oidc.to_string()),
    ] {
        let setup = Setup::new();
        setup.config_map("secretive", &json!({key: text}));
        let mut manifest =
            server("s", &json!({field: {"type": "configMap", "configMap": {"name": "secretive"}}}));
        if field == "oidcConfig" {
            manifest["spec"]["authMode"] = Value::Null;
        }
        let answer = setup.create(&manifest).await;
        assert_eq!(answer["allowed"], false, "{text}");
        let path = format!("spec.{field}.");
        assert!(message(&answer).contains(&path), "{text}: {answer}");
        assert!(!answer.to_string().contains("hunter2"), "{text}: {answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_reviews_together_ask_a_bounded_number_of_questions_at_a_time() {
    let setup = std::sync::Arc::new(Setup::new());
    setup.api.silent.lock().unwrap().push("/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned());
    let manifest = server("s", &json!({}));
    let mut open = Vec::new();
    for index in 0..150 {
        let (setup, manifest) = (std::sync::Arc::clone(&setup), manifest.clone());
        open.push(tokio::spawn(async move {
            let user = json!({"username": format!("u{index}")});
            let request = json!({"object": manifest, "userInfo": user});
            setup.review(&validate_path(&manifest), request).await
        }));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(setup.api.take_asked().len(), 64);
    for one in open {
        assert_eq!(one.await.unwrap()["status"]["code"], 500);
    }
    // Their turns are over.
    setup.api.silent.lock().unwrap().clear();
    assert_eq!(setup.create(&manifest).await["allowed"], true);
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

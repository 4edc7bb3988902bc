//! Mutation of MCPServers.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use skep_operator::sidecars::names::INJECTION_ANNOTATION;
use skep_operator::sidecars::{Policy, SidecarConfig};
use skep_operator::webhook::reload::Reload;
use skep_operator::webhook::settings::InjectionPoint;
use skep_runtime::drain::Drain;
use skep_runtime::health::Readiness;

use super::setup::{MUTATE, Setup, server, settings, warnings};

fn injects() -> Setup {
    let mut settings = settings();
    settings.policy.default_on = true;
    Setup::with(&settings)
}

#[tokio::test]
async fn a_second_review_changes_nothing() {
    let setup = injects();
    let (once, _) = setup.mutate(MUTATE, &server("s", &json!({}))).await;
    assert!(once["metadata"]["annotations"][INJECTION_ANNOTATION].is_string());
    let (twice, answer) = setup.mutate(MUTATE, &once).await;
    assert_eq!((twice, answer.get("patch")), (once, None));
    assert_eq!(answer["allowed"], true);
}

#[tokio::test]
async fn defaults_are_filled_in_where_there_is_a_spec_and_no_other_spelling() {
    let setup = Setup::new();
    let (filled, answer) = setup.mutate(MUTATE, &server("s", &json!({"transport": null}))).await;
    assert_eq!(
        (&filled["spec"]["transport"], &filled["spec"]["proxyMode"]),
        (&json!("stdio"), &json!("streamable-http"))
    );
    assert!(filled["spec"].get("proxyPort").is_none() && filled["spec"].get("port").is_none());
    assert_eq!(answer["auditAnnotations"], json!({"injection": "false: flag"}));
    let mut odd = server("s", &json!({}));
    odd["spec"] = "text".into();
    let (same, answer) = setup.mutate(MUTATE, &odd).await;
    assert_eq!((same, answer["allowed"].as_bool()), (odd, Some(true)));
}

#[tokio::test]
async fn what_is_being_deleted_stays_as_it_is() {
    let setup = injects();
    let mut object = server("s", &json!({"transport": null}));
    object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let answer =
        setup.review(MUTATE, json!({"operation": "UPDATE", "object": object, "oldObject": object})).await;
    assert_eq!(answer, json!({"uid": "u-1", "allowed": true}));
    assert!(setup.api.take_asked().is_empty());
}

#[tokio::test]
async fn what_can_not_be_looked_up_holds_up_no_finalizer_and_no_label() {
    let setup = injects();
    let path = "/api/v1/namespaces/ns/configmaps/environments";
    setup.api.failing.lock().unwrap().insert(path.to_owned(), 500);
    let old = server("s", &json!({}));
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!(["x.example.com/y"]);
    let update = |new: &Value| json!({"operation": "UPDATE", "object": new, "oldObject": old});
    let answer = setup.review(MUTATE, update(&new)).await;
    assert_eq!((answer["allowed"].as_bool(), answer.get("patch")), (Some(true), None), "{answer}");
    assert!(warnings(&answer)[0].starts_with("sidecars were left as they are: the ConfigMap"), "{answer}");
    // A change of what is decided here is not let in undecided.
    let mut spec = new.clone();
    spec["spec"]["image"] = "j".into();
    let mut switched = new.clone();
    switched["metadata"]["annotations"] = json!({"kagenti.dev/inject": "true"});
    for changed in [spec, switched] {
        assert_eq!(setup.review(MUTATE, update(&changed)).await["status"]["code"], 500);
    }
    assert_eq!(setup.review(MUTATE, json!({"object": new})).await["status"]["code"], 500);
}

#[tokio::test]
async fn labels_and_annotations_of_the_namespace_are_switches() {
    let setup = Setup::new();
    for (labels, annotations, why) in [
        (json!({}), json!({}), "false: flag"),
        (json!({"kagenti-enabled": "true"}), json!({"kagenti.dev/inject": "false"}), "true: namespace-label"),
        (json!({}), json!({"kagenti.dev/inject": "true"}), "true: namespace-annotation"),
        (json!({"kagenti-enabled": "false"}), json!({}), "false: namespace-label"),
    ] {
        setup.namespace(labels, annotations);
        let (_, answer) = setup.mutate(MUTATE, &server("s", &json!({}))).await;
        assert_eq!(answer["auditAnnotations"]["injection"], why);
    }
}

#[tokio::test]
async fn a_namespace_that_was_made_a_moment_ago_is_asked_for() {
    let setup = Setup::new();
    setup.api.put(
        "/api/v1/namespaces/new",
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new", "labels": {"kagenti-enabled": "true"}}}),
    );
    let answer = setup.review(MUTATE, json!({"namespace": "new", "object": server("s", &json!({}))})).await;
    assert_eq!(answer["auditAnnotations"]["injection"], "true: namespace-label");
    let answer = setup.review(MUTATE, json!({"namespace": "none", "object": server("s", &json!({}))})).await;
    assert_eq!((answer["allowed"].as_bool(), answer["status"]["code"].as_u64()), (Some(false), Some(500)));
    assert!(answer["status"]["message"].as_str().unwrap().contains("`none`"), "{answer}");
}

#[tokio::test]
async fn what_the_sidecars_lack_is_a_warning() {
    let setup = injects();
    let (_, answer) = setup.mutate(MUTATE, &server("s", &json!({}))).await;
    let lines = warnings(&answer).join("\n");
    assert!(lines.contains("environments") && lines.contains("spiffe-helper-config"), "{lines}");
}

#[tokio::test]
async fn a_webhook_for_pods_takes_out_of_servers_what_one_for_servers_put_in() {
    let (injected, _) = injects().mutate(MUTATE, &server("s", &json!({}))).await;
    let mut settings = settings();
    settings.policy.default_on = true;
    settings.injection_point = InjectionPoint::Pod;
    let setup = Setup::with(&settings);
    let (restored, answer) = setup.mutate(MUTATE, &injected).await;
    assert!(restored["spec"].get("podTemplateSpec").is_none() && answer.get("auditAnnotations").is_none());
    assert!(restored["metadata"].get("annotations").is_none(), "{restored}");
}

async fn until(wanted: impl Fn() -> bool) {
    let done = async {
        while !wanted() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), done).await.expect("it did not come true");
}

fn write(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[tokio::test]
async fn the_config_file_is_read_again_and_a_bad_version_changes_nothing() {
    let setup = injects();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sidecars.yaml");
    write(&file, "images: {spiffeHelper: 'helper:1'}\n");
    let readiness = Readiness::new();
    let mut base = SidecarConfig::default();
    base.images.client_registration = "registration:0".to_owned();
    let reload = Reload {
        file: file.clone(),
        base,
        policies: setup.policies.clone(),
        readiness: readiness.clone(),
        metrics: setup.metrics.clone(),
    };
    let watching = tokio::spawn(reload.run());
    let policy = || -> Policy { (*setup.policies.get()).clone() };
    until(|| policy().config.images.spiffe_helper == "helper:1").await;
    assert_eq!(policy().config.images.client_registration, "registration:0");
    let (first, _) = setup.mutate(MUTATE, &server("s", &json!({}))).await;
    let images = |object: &Value| {
        let list = object["spec"]["podTemplateSpec"]["spec"]["containers"].as_array().unwrap().clone();
        list.iter().filter_map(|one| one["image"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(images(&first), ["helper:1", "registration:0"]);
    let report = || readiness.report(&Drain::new().watch());
    write(&file, "images: {spifeHelper: 'helper:2'}\n");
    until(|| report().warnings.get("config file").is_some_and(|text| text.contains("spifeHelper"))).await;
    assert!(report().ready);
    assert_eq!(policy().config.images.spiffe_helper, "helper:1");
    write(&file, "images: {spiffeHelper: 'helper:3'}\n");
    until(|| policy().config.images.spiffe_helper == "helper:3").await;
    until(|| report().warnings.is_empty()).await;
    // What is there is brought up to date.
    let (now, _) = setup.mutate(MUTATE, &first).await;
    assert_eq!(images(&now), ["helper:3", "registration:0"]);
    let text = setup.registry.encode();
    for line in [
        "skep_webhook_config_reloads_total{outcome=\"loaded\"} 2",
        "skep_webhook_config_reloads_total{outcome=\"refused\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
    }
    watching.abort();
}

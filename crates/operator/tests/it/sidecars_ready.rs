//! What is said of a server's sidecars: whether what they need is there, and what became of its client.

use serde_json::{Value, json};
use skep_api::condition::{Condition, ConditionStatus};
use skep_api::crd::{Kind, Object};
use skep_operator::observe::{ClientRegistration, Observed};
use skep_operator::plan::{
    Planned, PodSidecars, SIDECARS_READY, World, injected, plan_object, references, service_account,
    sidecar_references,
};
use skep_operator::sidecars::{Registration, SidecarMode};
use skep_operator::status;

use crate::manifests::world;
use crate::status_workload::{at, good, object, running};

const HELPER: &str = "spiffe-helper-config: {helper.conf: x}";
const KEYCLOAK: &str = "environments: {KEYCLOAK_URL: u, KEYCLOAK_REALM: r}";
const LEGACY: &str = "environments: {KEYCLOAK_URL: u, KEYCLOAK_REALM: r, KEYCLOAK_ADMIN_USERNAME: a, KEYCLOAK_ADMIN_PASSWORD: p}";

const OPERATOR: &str = r#"{"version":1,"mode":"builtin","registration":"operator"}"#;
const BUILTIN: &str = r#"{"version":1,"mode":"builtin","registration":"pod","login":"registration-secret","containers":{"kagenti-client-registration":"0"}}"#;
const EXTERNAL: &str = r#"{"version":1,"mode":"external","registration":"pod","login":"admin-secret","containers":{"kagenti-client-registration":"0"}}"#;

/// A server with these annotations, and a world with these ConfigMaps and Secrets.
fn server(annotations: Value, config_maps: &[&str], secrets: &[(&str, &[&str])]) -> (Object, World) {
    let mut world = world("", skep_operator::plan::Missing::Refuse).1;
    for text in config_maps {
        let value = skep_api::yaml::single(text).unwrap().value;
        for (name, data) in value.as_object().unwrap() {
            world.config_maps.insert(name.clone(), serde_json::from_value(data.clone()).unwrap());
        }
    }
    for (name, keys) in secrets {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        world.secrets.insert((*name).to_owned(), keys);
    }
    (object(Kind::MCPServer, json!({"annotations": annotations})), world)
}

fn noted(text: &str) -> Value {
    json!({"skep.dev/injection": text})
}

fn condition(planned: &Planned) -> Option<(ConditionStatus, String, String)> {
    let found = planned.conditions.iter().find(|condition| condition.kind == SIDECARS_READY)?;
    Some((found.status, found.reason.clone(), found.message.clone()))
}

#[test]
fn what_the_sidecars_lack_is_a_condition_and_a_warning_each() {
    let admin: (&str, &[&str]) =
        ("keycloak-admin-secret", &["KEYCLOAK_ADMIN_USERNAME", "KEYCLOAK_ADMIN_PASSWORD"]);
    let token: (&str, &[&str]) = ("keycloak-registration", &["initial-access-token"]);
    type Secrets<'a> = &'a [(&'a str, &'a [&'a str])];
    let rows: &[(&str, &[&str], Secrets<'_>, &[&str])] = &[
        (OPERATOR, &[HELPER], &[], &[]),
        (OPERATOR, &[], &[], &["`spiffe-helper-config`"]),
        (OPERATOR, &["spiffe-helper-config: {other: x}"], &[], &["`helper.conf`"]),
        (BUILTIN, &[HELPER, KEYCLOAK], &[token], &[]),
        (BUILTIN, &[HELPER, KEYCLOAK], &[], &["`keycloak-registration`"]),
        (BUILTIN, &[HELPER], &[token], &["`environments`"]),
        (EXTERNAL, &[HELPER, KEYCLOAK], &[admin], &[]),
        (EXTERNAL, &[KEYCLOAK], &[], &["`spiffe-helper-config`", "`keycloak-admin-secret`"]),
    ];
    for (annotation, config_maps, secrets, lacking) in rows {
        let (object, world) = server(noted(annotation), config_maps, secrets);
        let planned = plan_object(&object, &world);
        assert!(planned.plan.is_some(), "it stops nothing: {:?}", planned.problems);
        let (status, reason, message) = condition(&planned).unwrap();
        let warnings: Vec<_> =
            planned.problems.iter().filter(|problem| problem.reason == "PrerequisitesMissing").collect();
        assert_eq!(
            warnings.len(),
            lacking.len(),
            "{annotation} {config_maps:?} {secrets:?} {warnings:?} {message}"
        );
        for (warning, lacking) in warnings.iter().zip(*lacking) {
            assert!(!warning.is_error() && warning.path == "spec.podTemplateSpec", "{warning:?}");
            assert!(warning.message.contains(lacking) && message.contains(lacking), "{warning:?} {message}");
        }
        let expected = if lacking.is_empty() {
            (ConditionStatus::True, "PrerequisitesMet")
        } else {
            (ConditionStatus::False, "PrerequisitesMissing")
        };
        assert_eq!((status, reason.as_str()), expected, "{annotation} {message}");
    }
}

#[test]
fn a_server_without_sidecars_is_told_nothing_of_them() {
    for annotations in [
        json!({}),
        noted("no JSON"),
        noted("{}"),
        noted(r#"{"version":99,"registration":"operator"}"#),
        json!({"kagenti.dev/inject": "true"}),
    ] {
        let (object, world) = server(annotations, &[], &[]);
        let planned = plan_object(&object, &world);
        assert_eq!(condition(&planned), None);
        assert!(planned.problems.iter().all(|problem| problem.reason != "PrerequisitesMissing"));
        assert_eq!(references(&object), Default::default());
    }
    let other = object(Kind::MCPRemoteProxy, json!({"annotations": noted(OPERATOR)}));
    assert_eq!(injected(&other, &World::default()), None);
    assert_eq!(references(&other), Default::default());
}

#[test]
fn sidecars_that_come_with_pods_are_decided_as_the_webhook_decides() {
    let pods = |default_on| {
        Some(PodSidecars { default_on, mode: SidecarMode::External, registration: Registration::Pod })
    };
    let on = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into_iter().collect();
    for (annotations, labels, sidecars, expected) in [
        (json!({}), vec![], None, false),
        (json!({}), vec![], pods(true), true),
        (json!({}), vec![], pods(false), false),
        (json!({"kagenti.dev/inject": "false"}), vec![], pods(true), false),
        (json!({"kagenti.dev/inject": "true"}), vec![], pods(false), true),
        (json!({}), vec!["true"], pods(false), true),
        (json!({}), vec!["false"], pods(true), false),
    ] {
        let (object, mut world) = server(annotations.clone(), &[HELPER], &[]);
        for value in labels {
            world.namespace_labels = on("kagenti-enabled", value);
        }
        world.settings.sidecars = sidecars;
        assert_eq!(injected(&object, &world).is_some(), expected, "{annotations} {sidecars:?}");
        assert_eq!(condition(&plan_object(&object, &world)).is_some(), expected);
        // More may be watched than is used, never less.
        let watched = sidecar_references(&object, &world.settings);
        assert!(!expected || watched.len() == 4, "{watched:?}");
    }
    // An administrator's password in `environments`, as of old, lets the external registration log in.
    let (object, mut world) = server(json!({}), &[HELPER, LEGACY], &[]);
    world.settings.sidecars = pods(true);
    assert_eq!(condition(&plan_object(&object, &world)).unwrap().0, ConditionStatus::True);
    let (object, mut world) = server(json!({}), &[HELPER, KEYCLOAK], &[]);
    world.settings.sidecars = pods(true);
    let (status, _, message) = condition(&plan_object(&object, &world)).unwrap();
    assert_eq!(status, ConditionStatus::False);
    assert!(message.contains("no credential"), "{message}");
}

#[test]
fn the_account_of_the_pods_is_the_templates_then_the_servers_then_its_own() {
    let of = |spec: Value| {
        let value = json!({"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServer",
            "metadata": {"name": "s", "namespace": "ns"}, "spec": spec});
        service_account(&Object::parse(&value).unwrap())
    };
    let template = json!({"spec": {"serviceAccountName": "t"}});
    assert_eq!(of(json!({"image": "i"})).as_deref(), Some("s-sa"));
    assert_eq!(of(json!({"image": "i", "serviceAccount": "a"})).as_deref(), Some("a"));
    assert_eq!(of(json!({"image": "i", "podTemplateSpec": template})).as_deref(), Some("t"));
    assert_eq!(
        of(json!({"image": "i", "serviceAccount": "a", "podTemplateSpec": template})).as_deref(),
        Some("t")
    );
    assert_eq!(of(json!({"image": "i", "serviceAccount": "../x"})), None, "it becomes part of an id");
}

#[test]
fn what_is_watched_for_sidecars_is_what_they_need() {
    let of = |text: &str| {
        let object = object(Kind::MCPServer, json!({"annotations": noted(text)}));
        let settings = World::default().settings;
        let names = |found: std::collections::BTreeSet<skep_operator::plan::Reference>| {
            found.into_iter().map(|one| one.name).collect::<Vec<_>>()
        };
        (names(references(&object)), names(sidecar_references(&object, &settings)))
    };
    let (planned, besides) = of(BUILTIN);
    assert_eq!(planned, ["keycloak-registration", "environments", "spiffe-helper-config"]);
    assert_eq!(besides, [""; 0]);
    assert_eq!(of(EXTERNAL).0, ["keycloak-admin-secret", "environments", "spiffe-helper-config"]);
    let (planned, besides) = of(OPERATOR);
    assert_eq!(planned, ["spiffe-helper-config"]);
    assert_eq!(besides, ["foo-keycloak-client", "environments"]);
}

/// A plan whose sidecars have what they need, or not.
fn with(condition: Condition) -> Planned {
    Planned { conditions: vec![condition], ..good() }
}

fn met() -> Planned {
    with(Condition::yes(SIDECARS_READY, "PrerequisitesMet", "All is there."))
}

fn lacking() -> Planned {
    with(Condition::no(SIDECARS_READY, "PrerequisitesMissing", "The ConfigMap is not."))
}

fn said(planned: &Planned, registration: Option<ClientRegistration>, present: &Value) -> (String, Value) {
    let observed = Observed { registration, ..running() };
    let wanted = status::workload(&object(Kind::MCPServer, json!({})), planned, &observed, present, at(0));
    let conditions = wanted["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|one| one["type"] == SIDECARS_READY).cloned().unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (format!("{}/{}: {}", text("status"), text("reason"), text("message")), wanted)
}

#[test]
fn what_became_of_the_client_is_part_of_the_condition() {
    let failed = || Some(ClientRegistration::Failed { why: "no answer".to_owned() });
    let done = |warnings: &[&str]| {
        Some(ClientRegistration::Done { warnings: warnings.iter().map(|text| (*text).to_owned()).collect() })
    };
    for (planned, registration, expected) in [
        (met(), None, "True/PrerequisitesMet: All is there."),
        (met(), done(&[]), "True/PrerequisitesMet: All is there."),
        (met(), done(&["It is disabled."]), "True/PrerequisitesMet: All is there. It is disabled."),
        (
            met(),
            Some(ClientRegistration::Pending),
            "Unknown/RegistrationPending: The client is being registered.",
        ),
        (met(), failed(), "False/RegistrationFailed: The client is not registered: no answer"),
        (lacking(), done(&[]), "False/PrerequisitesMissing: The ConfigMap is not."),
        (
            lacking(),
            failed(),
            "False/PrerequisitesMissing: The ConfigMap is not. And the client is not registered: no answer",
        ),
    ] {
        assert_eq!(said(&planned, registration, &Value::Null).0, expected);
    }
    let (text, _) = said(&met(), Some(ClientRegistration::NotConfigured), &Value::Null);
    assert!(text.starts_with("False/RegistrationNotConfigured") && text.contains("--keycloak-url"), "{text}");
}

#[test]
fn an_operator_that_starts_anew_leaves_what_was_said_until_it_knows_better() {
    let (_, present) =
        said(&met(), Some(ClientRegistration::Failed { why: "no answer".to_owned() }), &Value::Null);
    let (text, kept) = said(&met(), Some(ClientRegistration::Pending), &present);
    assert!(text.starts_with("False/RegistrationFailed"), "{text}");
    assert_eq!(kept, present, "nothing is written");
    let (text, _) = said(&lacking(), Some(ClientRegistration::Pending), &present);
    assert!(text.starts_with("False/PrerequisitesMissing"), "what is known is said: {text}");
    let (text, _) = said(&good(), None, &present);
    assert_eq!(text, "/: ", "sidecars were switched off");
}

#[test]
fn only_a_sidecar_that_lacks_something_is_news() {
    let (_, before) = said(&good(), None, &Value::Null);
    let (_, lacks) = said(&lacking(), None, &before);
    let (_, has) = said(&met(), None, &lacks);
    let told = |before: &Value, after: &Value| {
        let found = status::transitions(before, after);
        found.into_iter().map(|one| (one.kind, one.reason, one.warning)).collect::<Vec<_>>()
    };
    let one = |reason: &str, warning| vec![(SIDECARS_READY.to_owned(), reason.to_owned(), warning)];
    assert_eq!(told(&before, &lacks), one("PrerequisitesMissing", true));
    assert_eq!(told(&lacks, &has), one("PrerequisitesMet", false));
    let (_, fresh) = said(&met(), None, &before);
    assert_eq!(told(&before, &fresh), []);
}

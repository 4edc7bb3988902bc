//! The table of manifests and their problems, asked of the webhook.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skep_api::crd::{Kind, Object};
use skep_api::problem::Severity;
use skep_operator::cluster::Resource;
use skep_operator::plan::{Reference, Target, references, secrets_named};

use super::setup::{NAMESPACE, Setup, settings, warnings};
use crate::cases::{Case, cases};

/// A webhook that knows all objects of a case, the first being the oldest.
fn knows(case: &Case, strict: bool) -> Setup {
    let mut settings = settings();
    settings.strict_references = strict;
    settings.plan.require_auth = case.require_auth;
    let setup = Setup::with(&settings);
    setup.namespace(json!(case.namespace_labels), json!({}));
    let namespace = json!({"name": NAMESPACE, "labels": case.namespace_labels});
    setup.api.put(
        "/api/v1/namespaces/ns",
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": namespace}),
    );
    for (index, object) in case.objects.iter().enumerate() {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let kind = object["kind"].as_str().unwrap_or_default();
        let mut data = json!({});
        for field in ["data", "stringData"] {
            data.as_object_mut().unwrap().extend(object[field].as_object().cloned().unwrap_or_default());
        }
        match kind {
            "Secret" => setup.secret(name, &data),
            "ConfigMap" => setup.config_map(name, &data),
            _ => {
                let Ok(kind) = kind.parse::<Kind>() else { continue };
                let mut stored = object.clone();
                stored["metadata"]["creationTimestamp"] = format!("2026-01-01T00:00:{index:02}Z").into();
                let (version, plural) = ("v1beta1", kind.plural());
                let path =
                    format!("/apis/toolhive.stacklok.dev/{version}/namespaces/{NAMESPACE}/{plural}/{name}");
                setup.api.put(&path, stored.clone());
                setup.watched(Resource::Ours(kind), stored);
            }
        }
    }
    setup
}

/// Paths and reasons of what is denied, and the warnings; all of them warnings where nothing can be denied.
async fn judged(setup: &Setup, object: &Value) -> (BTreeSet<(String, String)>, Vec<String>) {
    let mut old = object.clone();
    old["spec"] = json!({"something": "else"});
    let answer = setup.update(&old, object).await;
    let causes = answer["status"]["details"]["causes"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let errors: BTreeSet<_> =
        causes.iter().map(|cause| (text(&cause["field"]), text(&cause["reason"]))).collect();
    assert_eq!(answer["allowed"], errors.is_empty(), "{answer}");
    (errors, warnings(&answer))
}

fn expected(case: &Case, object: &Value, severity: Severity) -> BTreeSet<(String, String)> {
    let key = format!(
        "{}/{}",
        object["kind"].as_str().unwrap(),
        object["metadata"]["name"].as_str().unwrap_or_default()
    );
    let found = case.problems.get(&key).cloned().unwrap_or_default();
    let of_severity = found.into_iter().filter(|(found, _, _)| *found == severity);
    of_severity.map(|(_, path, reason)| (path, reason)).collect()
}

fn ours(case: &Case) -> impl Iterator<Item = &Value> {
    case.objects.iter().filter(|object| {
        let known = object["kind"].as_str().unwrap_or_default().parse::<Kind>().is_ok();
        known
            && object["apiVersion"].as_str().is_some_and(|version| version.contains("toolhive.stacklok.dev"))
    })
}

#[tokio::test]
async fn the_webhook_denies_what_the_table_says_and_warns_of_the_rest() {
    let mut wrong = String::new();
    let mut judgements = 0;
    for case in cases() {
        let setup = knows(&case, true);
        for object in ours(&case) {
            if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
                continue;
            }
            judgements += 1;
            let (errors, lines) = judged(&setup, object).await;
            let (mut denied, mut warned) =
                (expected(&case, object, Severity::Error), expected(&case, object, Severity::Warning));
            if object["metadata"].get("deletionTimestamp").is_some() {
                warned.append(&mut denied);
            }
            if errors != denied {
                wrong.push_str(&format!("{}\n  {errors:?}\n  not {denied:?}\n", case.name));
            }
            for (path, _) in warned {
                let said = lines.iter().any(|line| line.starts_with(&format!("{path}: ")));
                if !said {
                    wrong.push_str(&format!("{}\n  no warning at {path}: {lines:?}\n", case.name));
                }
            }
        }
    }
    assert!(judgements > 250, "{judgements}");
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test]
async fn usually_what_is_missing_is_only_a_warning() {
    let mut wrong = String::new();
    let mut forgiven = 0;
    for case in cases() {
        let setup = knows(&case, false);
        for object in ours(&case) {
            if object["metadata"]["name"].as_str().is_none_or(str::is_empty)
                || object["metadata"].get("deletionTimestamp").is_some()
            {
                continue;
            }
            let (errors, lines) = judged(&setup, object).await;
            // What is wrong besides may be said with another reason then.
            let paths = |of: BTreeSet<(String, String)>| -> BTreeSet<String> {
                of.into_iter().map(|(path, _)| path).collect()
            };
            let (errors, strict) = (paths(errors), paths(expected(&case, object, Severity::Error)));
            if !errors.is_subset(&strict) {
                wrong.push_str(&format!("{}: {:?}\n", case.name, errors.difference(&strict)));
            }
            if errors != strict {
                forgiven += 1;
                let why = lines.iter().any(|line| line.contains("does not exist in this namespace (yet)"));
                if !why {
                    wrong.push_str(&format!("{}: {:?} {lines:?}\n", case.name, strict.difference(&errors)));
                }
            }
        }
    }
    assert!(forgiven > 10, "{forgiven}");
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn whoever_names_a_secret_is_asked_for_it() {
    let mut secrets = 0;
    for case in cases() {
        for object in ours(&case) {
            // What the webhook itself injects is nobody's wish.
            let injected = object["metadata"]["annotations"].get("skep.dev/injection").is_some();
            let Ok(parsed) = Object::parse(object) else { continue };
            let named = secrets_named(object);
            for Reference { target, name } in references(&parsed) {
                if target == Target::Secret && !injected {
                    secrets += 1;
                    assert!(named.iter().any(|(_, other)| *other == name), "{}: {name}", case.name);
                }
            }
        }
    }
    assert!(secrets > 20, "{secrets}");
}

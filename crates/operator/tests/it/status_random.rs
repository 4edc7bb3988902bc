//! Whatever is observed, a status settles at once, fits the schema, and keeps what is not ours.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use skep_api::condition::{Condition, ConditionStatus};
use skep_api::crd::definition::schema;
use skep_api::crd::status::ReferencingWorkload;
use skep_api::crd::{Kind, Object};
use skep_operator::observe::{ApplyFailure, ClientRegistration, Deployment, Observed, Pods, StatefulSet};
use skep_operator::plan::Planned;
use skep_operator::status::{self, Members, known_types, patch, transitions};

use super::manifests::{files, plan};
use super::status_facts::{pod, ready, waiting};
use super::status_workload::{at, bad, good, object, said, silent};

fn any_pod() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(ready("a")),
        Just(pod("b", json!({"phase": "Running"}))),
        Just(waiting("c", "Running", "CrashLoopBackOff")),
        Just(waiting("d", "Pending", "ErrImagePull")),
        Just(Value::Null),
    ]
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "\\PC{0,20}",
        Just("a\u{0}\n\u{202e}b".to_owned()),
        Just("x".repeat(40_000))
    ]
}

fn any_report() -> impl Strategy<Value = Value> {
    let reason = prop::sample::select(vec![
        "Available",
        "NotTried",
        "KeysOutdated",
        "KeysUnusable",
        "Answered",
        "TimedOut",
        "Refused",
        "Ready",
        "?",
    ]);
    let issuer = (any::<bool>(), reason.clone(), any_text())
        .prop_map(|(available, reason, text)| json!({"issuer": text, "available": available, "reason": reason, "message": text}));
    let times = prop::sample::select(vec!["", "2025-12-31T00:00:00Z", "2999-01-01T00:00:00Z", "never"]);
    (
        prop::option::of(prop::collection::vec(issuer, 0..4)),
        prop::option::of((any::<Option<bool>>(), reason.clone())),
        prop::option::of((any::<bool>(), reason, any_text(), times)),
        prop::option::of(any_text()),
        prop::option::of(any_text()),
    )
        .prop_map(|(issuers, credential, remote, suspended, refusal)| {
            json!({
                "authentication": issuers.map(|issuers| json!({"issuers": issuers})),
                "credential": credential.map(|(ready, reason)| json!({"ready": ready, "reason": reason})),
                "remote": remote.map(|(reachable, reason, message, checked)| json!({"reachable": reachable, "reason": reason, "message": message, "checked": checked})),
                "suspended": suspended,
                "config": {"lastRefusal": refusal},
            })
        })
}

fn any_observed() -> impl Strategy<Value = Observed> {
    let pods = || prop::collection::vec(any_pod(), 0..4);
    let reports = prop::collection::vec(prop::option::of(any_report()), 0..4);
    let count = 0..3_i64;
    (
        prop::option::of((count.clone(), count.clone(), any::<bool>())),
        pods(),
        prop::option::of((count.clone(), count)),
        pods(),
        reports,
        prop::collection::vec(any_text(), 0..3),
        prop::option::of(any_text()),
        prop::option::of(any_registration()),
    )
        .prop_map(|(deployment, pods, set, backend, reports, conflicts, failure, registration)| Observed {
            deployment: deployment.map(|(desired, ready, stuck)| {
                Deployment::of(&json!({
                    "spec": {"replicas": desired},
                    "status": {"readyReplicas": ready, "conditions": [{"type": if stuck { "Progressing" } else { "ReplicaFailure" }, "status": "False", "reason": "R"}]},
                }))
            }),
            pods: Pods::of(&pods),
            stateful_set: set.map(|(desired, ready)| StatefulSet { desired, ready }),
            backend: Pods::of(&backend),
            reports: reports
                .into_iter()
                .enumerate()
                .map(|(index, report)| report.map_or_else(|| silent("p"), |report| said(&format!("p{index}"), report)))
                .collect(),
            conflicts,
            apply_error: failure.map(|why| ApplyFailure { what: "Deployment `foo`".to_owned(), why }),
            registration,
        })
}

fn any_registration() -> impl Strategy<Value = ClientRegistration> {
    prop_oneof![
        Just(ClientRegistration::NotConfigured),
        Just(ClientRegistration::Pending),
        prop::collection::vec(any_text(), 0..3).prop_map(|warnings| ClientRegistration::Done { warnings }),
        any_text().prop_map(|why| ClientRegistration::Failed { why }),
    ]
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let status =
        prop::sample::select(vec![ConditionStatus::True, ConditionStatus::False, ConditionStatus::Unknown]);
    let kind = prop::sample::select(known_types().to_vec());
    let reason = prop_oneof![any_text().boxed(), Just("PrerequisitesMet".to_owned()).boxed()];
    (kind, status, reason, any_text()).prop_map(|(kind, status, reason, message)| Condition {
        kind: kind.to_owned(),
        status,
        reason,
        message,
    })
}

fn any_planned() -> impl Strategy<Value = Planned> {
    (any::<bool>(), prop::collection::vec(any_condition(), 0..6), prop::option::of(any_text())).prop_map(
        |(valid, conditions, suspend)| Planned {
            conditions,
            config_hash: suspend.clone().map(|_| "0123".to_owned()),
            hashes: [
                "toolConfigHash",
                "telemetryConfigHash",
                "externalAuthConfigHash",
                "authServerConfigHash",
                "oidcConfigHash",
                "authzConfigHash",
                "webhookConfigHash",
            ]
            .map(|field| (field, "1".to_owned()))
            .into(),
            suspend,
            ..if valid { good() } else { bad("spec.x", "X", "No.") }
        },
    )
}

fn any_present() -> impl Strategy<Value = Value> {
    let condition = (
        prop::sample::select(known_types().to_vec()),
        prop::sample::select(vec!["True", "False", "Unknown", "maybe"]),
        any::<bool>(),
    )
        .prop_map(|(kind, status, dated)| {
            let mut condition = json!({"type": kind, "status": status, "reason": "Old", "message": "old"});
            if dated {
                condition["lastTransitionTime"] = "2025-06-01T00:00:00Z".into();
            }
            condition
        });
    let foreign = json!({"type": "example.com/Scanned", "status": "True", "reason": "Clean", "message": "", "lastTransitionTime": "2025-01-01T00:00:00Z"});
    let conditions = prop::collection::vec(prop_oneof![condition, Just(foreign), Just(json!(5))], 0..6);
    prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!({"conditions": null, "phase": 5})),
        conditions.prop_map(|conditions| json!({"phase": "Running", "url": "http://old", "webhookConfigHash": "9", "remoteReachable": true, "conditions": conditions})),
    ]
}

fn any_object() -> impl Strategy<Value = Object> {
    (prop::sample::select(Kind::ALL.to_vec()), any::<bool>()).prop_map(|(kind, going)| {
        object(kind, if going { json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}) } else { Value::Null })
    })
}

fn any_names() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[a-c]{1,2}", 0..5)
}

fn status_of(
    object: &Object,
    planned: &Planned,
    observed: &Observed,
    names: &[String],
    present: &Value,
    second: i64,
) -> Value {
    match object.kind {
        Kind::MCPServer | Kind::MCPRemoteProxy => {
            status::workload(object, planned, observed, present, at(second))
        }
        Kind::MCPGroup => {
            let members = Members { servers: names.to_vec(), entries: names.to_vec(), ..Members::default() };
            status::group(object, planned, Some(&members), present, at(second))
        }
        Kind::MCPServerEntry => status::entry(object, planned, present, at(second)),
        _ => {
            let referrers: Vec<_> = names
                .iter()
                .map(|name| ReferencingWorkload { kind: "MCPServer".to_owned(), name: name.clone() })
                .collect();
            status::config(object, planned, &referrers, present, at(second))
        }
    }
}

/// What a structural schema has against a value: unknown fields, wrong types and values out of bounds.
fn misfits(value: &Value, schema: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        _ => true,
    };
    if !fits {
        found.push(format!("{path} is {value}"));
    }
    if schema["enum"].as_array().is_some_and(|allowed| !allowed.contains(value)) {
        found.push(format!("{path} is {value}"));
    }
    if let Some(text) = value.as_str() {
        let count = text.chars().count() as u64;
        if schema["maxLength"].as_u64().is_some_and(|max| count > max)
            || schema["minLength"].as_u64().is_some_and(|min| count < min)
        {
            found.push(format!("{path} has {count} characters"));
        }
        if schema["format"] == "date-time" && text.parse::<jiff::Timestamp>().is_err() {
            found.push(format!("{path} is no time: {text}"));
        }
    }
    if let Some(properties) = schema["properties"].as_object() {
        for (field, inside) in value.as_object().into_iter().flatten() {
            match properties.get(field) {
                Some(schema) => found.extend(misfits(inside, schema, &format!("{path}.{field}"))),
                None => found.push(format!("{path}.{field} is unknown")),
            }
        }
        for field in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if value.get(field).is_none() {
                found.push(format!("{path}.{field} is missing"));
            }
        }
    }
    for item in value.as_array().into_iter().flatten() {
        found.extend(misfits(item, &schema["items"], &format!("{path}[]")));
    }
    found
}

proptest! {
    #[test]
    fn a_status_settles_at_once(
        object in any_object(), planned in any_planned(), observed in any_observed(), names in any_names(), present in any_present(),
    ) {
        let first = status_of(&object, &planned, &observed, &names, &present, 0);
        for later in [0, 1, 100_000] {
            let again = status_of(&object, &planned, &observed, &names, &first, later);
            prop_assert_eq!(&again, &first);
        }
        prop_assert_eq!(patch(&first, &first), None);
        prop_assert_eq!(transitions(&first, &first), Vec::new());
    }

    #[test]
    fn a_status_fits_its_schema(
        object in any_object(), planned in any_planned(), observed in any_observed(), names in any_names(),
    ) {
        let status = status_of(&object, &planned, &observed, &names, &Value::Null, 0);
        let schema = schema(object.kind);
        let wrong = misfits(&json!({"conditions": 5, "phaze": ""}), &schema["properties"]["status"], "status");
        prop_assert_eq!(wrong.len(), 2);
        prop_assert_eq!(misfits(&status, &schema["properties"]["status"], "status"), Vec::<String>::new());
        let kinds: Vec<_> = status["conditions"].as_array().unwrap().iter().map(|condition| &condition["type"]).collect();
        for (index, kind) in kinds.iter().enumerate() {
            prop_assert!(!kinds[..index].contains(kind), "{} is there twice", kind);
            prop_assert!(kinds.contains(&&json!("Ready")));
        }
    }

    #[test]
    fn what_is_not_ours_stays(
        object in any_object(), planned in any_planned(), observed in any_observed(), names in any_names(), present in any_present(),
    ) {
        let status = status_of(&object, &planned, &observed, &names, &present, 0);
        let foreign = |status: &Value| {
            let list = status["conditions"].as_array().cloned().unwrap_or_default();
            list.into_iter().find(|condition| condition["type"] == "example.com/Scanned")
        };
        prop_assert_eq!(foreign(&status), foreign(&present));
        for condition in present["conditions"].as_array().into_iter().flatten() {
            let kept = status["conditions"].as_array().unwrap().iter().find(|other| other["type"] == condition["type"]);
            if let (Some(kept), Some(since)) = (kept, condition.get("lastTransitionTime")) {
                let first = present["conditions"].as_array().unwrap().iter().find(|other| other["type"] == condition["type"]);
                if first == Some(condition) && kept["status"] == condition["status"] {
                    prop_assert_eq!(&kept["lastTransitionTime"], since);
                }
            }
        }
    }
}

#[test]
fn the_status_of_every_manifest_settles_and_fits_its_schema() {
    let mut judged = 0;
    for path in ["good", "bad"].into_iter().flat_map(files) {
        let text = std::fs::read_to_string(&path).unwrap();
        for (object, planned) in plan(&text) {
            let observed = Observed { reports: vec![silent("p")], ..Observed::default() };
            let status = status_of(&object, &planned, &observed, &[], &Value::Null, 0);
            let again = status_of(&object, &planned, &observed, &[], &status, 9);
            assert_eq!(again, status, "{}", path.display());
            let wrong = misfits(&status, &schema(object.kind)["properties"]["status"], "status");
            assert_eq!(wrong, Vec::<String>::new(), "{}", path.display());
            for condition in status["conditions"].as_array().unwrap() {
                let kind = condition["type"].as_str().unwrap();
                assert!(known_types().contains(&kind), "{kind} is in no list: {}", path.display());
            }
            judged += 1;
        }
    }
    assert!(judged > 20, "{judged}");
}

/// Every type that the planner's source sets is one that is removed when it is no longer found.
#[test]
fn no_condition_of_the_planner_is_forgotten() {
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan")];
    let mut unknown = Vec::new();
    let mut seen = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text: String = std::fs::read_to_string(&path).unwrap().split_whitespace().collect();
        for before in [
            ".holds(\"",
            ".fails(\"",
            "condition:\"",
            "CONDITION:&str=\"",
            "Condition::yes(\"",
            "Condition::no(\"",
        ] {
            for rest in text.split(before).skip(1) {
                let kind = rest.split('"').next().unwrap();
                seen += 1;
                if !known_types().contains(&kind) {
                    unknown.push(kind.to_owned());
                }
            }
        }
    }
    assert!(seen > 10, "the planner's source looks different");
    assert_eq!(unknown, Vec::<String>::new());
}

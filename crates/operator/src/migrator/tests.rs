//! Faults, in front of an API server that is told what to answer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request as HttpRequest, Response};
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use serde_json::json;

use super::*;

const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.toolhive.stacklok.dev";
const OBJECTS: &str = "/apis/toolhive.stacklok.dev/v1beta1";

/// A request as it arrived: method, path with query, body.
type Seen = (String, String, Value);
type Answers = Box<dyn FnMut(&str, &str, &Value) -> (u16, Value) + Send>;

/// An API server that answers as told, and what it was asked.
fn scripted(answers: Answers) -> (Client, Arc<Mutex<Vec<Seen>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let answers = Arc::new(Mutex::new(answers));
    let recorded = Arc::clone(&seen);
    let service = tower::service_fn(move |request: HttpRequest<Body>| {
        let (recorded, answers) = (Arc::clone(&recorded), Arc::clone(&answers));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let path = parts.uri.path_and_query().unwrap().to_string();
            let (code, answer) = (answers.lock().unwrap())(parts.method.as_str(), &path, &body);
            recorded.lock().unwrap().push((parts.method.to_string(), path, body));
            let response = Response::builder().status(code).body(Full::new(Bytes::from(answer.to_string())));
            Ok::<_, std::convert::Infallible>(response.unwrap())
        }
    });
    (Client::new(service, "default"), seen)
}

fn status(code: u16) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "No", "code": code}),
    )
}

fn crd() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "things.toolhive.stacklok.dev", "uid": "u", "generation": 2, "resourceVersion": "5",
            "labels": {"toolhive.stacklok.dev/auto-migrate-storage-version": "true"},
        },
        "spec": {"group": GROUP, "names": {"plural": "things", "kind": "MCPServer"}, "versions": [
            {"name": "v1alpha1", "served": true, "storage": false},
            {"name": "v1beta1", "served": true, "storage": true},
        ]},
        "status": {"storedVersions": ["v1alpha1", "v1beta1"], "acceptedNames": {"plural": "things"}},
    })
}

fn thing(name: &str) -> Value {
    json!({"apiVersion": format!("{GROUP}/v1beta1"), "kind": "Thing", "metadata": {"name": name, "namespace": "n", "resourceVersion": "1"}, "spec": {"x": 1.5}})
}

/// Answers like a server that has these objects and no faults, but for those that `fault` gives.
fn server(
    names: &'static [&'static str],
    mut fault: impl FnMut(&str, &str) -> Option<(u16, Value)> + Send + 'static,
) -> (Client, Arc<Mutex<Vec<Seen>>>) {
    scripted(Box::new(move |method, path, body| {
        if let Some(answer) = fault(method, path) {
            return answer;
        }
        let all = path.starts_with(&format!("{OBJECTS}/things"));
        match method {
            "GET" if path.starts_with(CRD) => (200, crd()),
            "GET" if all => (
                200,
                json!({"metadata": {}, "items": names.iter().map(|name| thing(name)).collect::<Vec<_>>()}),
            ),
            "GET" => (200, thing("again")),
            _ => (200, body.clone()),
        }
    }))
}

async fn migrated(client: &Client) -> Result<Migrated, MigrateError> {
    migrate_crd(client, &crd(), &CancellationToken::new()).await.expect("there is something to do").result
}

fn writes(seen: &Mutex<Vec<Seen>>) -> Vec<String> {
    let seen = seen.lock().unwrap();
    let writes = seen.iter().filter(|(method, ..)| method != "GET");
    writes
        .map(|(method, path, _)| format!("{method} {}", path.split('?').next().unwrap_or_default()))
        .collect()
}

fn was_trimmed(seen: &Mutex<Vec<Seen>>) -> bool {
    writes(seen).iter().any(|write| write.contains("customresourcedefinitions"))
}

#[tokio::test(start_paused = true)]
async fn objects_are_written_as_they_are_and_then_the_crd_says_so() {
    let (client, seen) = server(&["a", "b"], |_, _| None);
    let done = migrated(&client).await.unwrap();
    assert_eq!(done, Migrated { objects: 2, version: "v1beta1".to_owned() });
    let expected = [
        format!("PUT {OBJECTS}/namespaces/n/things/a"),
        format!("PUT {OBJECTS}/namespaces/n/things/b"),
        format!("PUT {CRD}/status"),
    ];
    assert_eq!(writes(&seen), expected);
    let seen = seen.lock().unwrap();
    assert!(seen.iter().any(|(_, path, _)| path.contains("limit=500")));
    assert!(seen.iter().any(|(method, _, body)| method == "PUT" && *body == thing("a")));
    let mut trimmed = crd();
    trimmed["status"]["storedVersions"] = json!(["v1beta1"]);
    assert_eq!(seen.last().unwrap().2, trimmed, "with the resourceVersion, and nothing else changed");
}

#[tokio::test(start_paused = true)]
async fn all_pages_are_read() {
    let (client, seen) = server(&["a"], |_, path| {
        let items = json!([thing("p")]);
        (path.contains("limit=500") && !path.contains("continue="))
            .then(|| (200, json!({"metadata": {"continue": "more"}, "items": items})))
    });
    assert_eq!(migrated(&client).await.unwrap().objects, 2);
    assert!(seen.lock().unwrap().iter().any(|(_, path, _)| path.contains("continue=more")));
    assert_eq!(writes(&seen).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_expired_begins_anew() {
    let mut expired = false;
    let (client, seen) = server(&["a"], move |_, path| {
        if path.contains("continue=") && !expired {
            expired = true;
            return Some(status(410));
        }
        let first = path.contains("limit=500") && !path.contains("continue=") && !expired;
        first.then(|| (200, json!({"metadata": {"continue": "more"}, "items": [thing("p")]})))
    });
    assert_eq!(migrated(&client).await.unwrap().objects, 1);
    assert!(was_trimmed(&seen));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_trimmed_after_a_failure_and_the_rest_is_written_nonetheless() {
    for (code, all) in
        [(500, false), (503, false), (429, false), (401, false), (422, true), (403, true), (400, true)]
    {
        let (client, seen) = server(&["a", "b"], move |method, path| {
            (method == "PUT" && path.contains("/things/a")).then(|| status(code))
        });
        let error = migrated(&client).await.unwrap_err();
        assert!(!error.is_passing(), "{error}");
        assert!(!was_trimmed(&seen), "{code}");
        assert_eq!(writes(&seen).iter().any(|write| write.ends_with("/things/b")), all, "{code}");
        if all {
            assert_eq!(error.to_string(), "1 of 2 objects could not be written, the first of them n/a");
        }
    }
    let (client, seen) = server(&[], |_, path| path.contains("limit=500").then(|| status(500)));
    assert!(migrated(&client).await.is_err());
    assert!(!was_trimmed(&seen));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_tried_again_with_the_object_as_it_is_now() {
    let mut faults = VecDeque::from([409, 409]);
    let (client, seen) = server(&["a"], move |method, path| {
        (method == "PUT" && path.contains("/things/")).then(|| faults.pop_front()).flatten().map(status)
    });
    assert_eq!(migrated(&client).await.unwrap().objects, 1);
    let seen = seen.lock().unwrap();
    let bodies: Vec<&Value> = seen
        .iter()
        .filter(|(m, path, _)| m == "PUT" && path.contains("/things/"))
        .map(|(.., body)| body)
        .collect();
    assert_eq!(bodies, [&thing("a"), &thing("again"), &thing("again")]);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_that_goes_on_is_nothing_to_tell_and_trims_nothing() {
    let (client, seen) = server(&["a", "b"], |method, path| {
        (method == "PUT" && path.contains("/things/a")).then(|| status(409))
    });
    let error = migrated(&client).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Conflicts { what } if what == "n/a"), "{error}");
    assert!(error.is_passing());
    assert!(!was_trimmed(&seen));
    assert!(writes(&seen).iter().any(|write| write.ends_with("/things/b")));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_was_deleted_meanwhile_is_no_failure() {
    let gone =
        |method: &str, path: &str| (method == "PUT" && path.contains("/things/a")).then(|| status(404));
    let (client, seen) = server(&["a"], gone);
    assert!(migrated(&client).await.is_ok());
    assert!(was_trimmed(&seen));
    let (client, seen) = server(&["a"], |method, path| match method {
        "PUT" if path.contains("/things/a") => Some(status(409)),
        "GET" if path.contains("/things/a") => Some(status(404)),
        _ => None,
    });
    assert!(migrated(&client).await.is_ok());
    assert!(was_trimmed(&seen));
}

#[tokio::test(start_paused = true)]
async fn a_crd_that_was_changed_meanwhile_is_not_trimmed() {
    type Change = fn(&mut Value);
    let changes: [Change; 4] = [
        |crd| crd["metadata"]["generation"] = json!(3),
        |crd| crd["metadata"]["uid"] = json!("another"),
        |crd| crd["status"]["storedVersions"] = json!(["v1alpha1", "v1beta1", "v1"]),
        |crd| crd["spec"]["versions"] = json!([{"name": "v1", "served": true, "storage": true}]),
    ];
    for change in changes {
        let (client, seen) = server(&["a"], move |method, path| {
            let mut now = crd();
            change(&mut now);
            (method == "GET" && path.starts_with(CRD)).then_some((200, now))
        });
        let error = migrated(&client).await.unwrap_err();
        assert!(matches!(error, MigrateError::Changed) && error.is_passing(), "{error}");
        assert!(!was_trimmed(&seen));
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_about_the_crd_is_tried_again_too() {
    let mut faults = VecDeque::from([409]);
    let (client, _) = server(&[], move |method, path| {
        (method == "PUT" && path.starts_with(CRD)).then(|| faults.pop_front()).flatten().map(status)
    });
    assert!(migrated(&client).await.is_ok());
    let (client, _) =
        server(&[], |method, path| (method == "PUT" && path.starts_with(CRD)).then(|| status(409)));
    assert!(matches!(migrated(&client).await.unwrap_err(), MigrateError::Conflicts { .. }));
}

#[tokio::test(start_paused = true)]
async fn whoever_is_stopped_trims_nothing() {
    for at in ["limit=500", "/things/a", "/things/b"] {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (client, seen) = server(&["a", "b"], move |_, path| {
            if path.contains(at) {
                stopped.cancel();
            }
            None
        });
        let error = migrate_crd(&client, &crd(), &stop).await.unwrap().result.unwrap_err();
        assert!(matches!(error, MigrateError::Stopped) && error.is_passing(), "{at}: {error}");
        assert!(!was_trimmed(&seen), "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_crds_of_ours_that_are_labelled_and_have_something_to_do_are_migrated() {
    type Change = fn(&mut Value);
    let changes: [Change; 7] = [
        |crd| crd["status"]["storedVersions"] = json!(["v1beta1"]),
        |crd| crd["spec"]["group"] = json!("example.com"),
        |crd| crd["metadata"]["labels"] = json!({}),
        |crd| {
            crd["metadata"]["labels"]["toolhive.stacklok.dev/auto-migrate-storage-version"] = json!("false")
        },
        |crd| crd["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
        |crd| crd["status"] = json!({}),
        |crd| *crd = json!("what"),
    ];
    for change in changes {
        let mut crd = crd();
        change(&mut crd);
        let (client, seen) = server(&["a"], |_, _| None);
        assert!(migrate_crd(&client, &crd, &CancellationToken::new()).await.is_none(), "{crd}");
        assert!(seen.lock().unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_served_is_read_when_the_stored_one_is_not() {
    let mut crd = crd();
    crd["spec"]["versions"][1]["served"] = json!(false);
    let read = crd.clone();
    let (client, seen) = scripted(Box::new(move |_, path, body| match path {
        _ if path.contains("customresourcedefinitions") => (200, read.clone()),
        _ if path.contains("limit=") => (200, json!({"metadata": {}, "items": []})),
        _ => (200, body.clone()),
    }));
    assert!(migrate_crd(&client, &crd, &CancellationToken::new()).await.unwrap().result.is_ok());
    assert!(seen.lock().unwrap()[0].1.starts_with("/apis/toolhive.stacklok.dev/v1alpha1/things"));
    crd["spec"]["versions"][0]["served"] = json!(false);
    let none = migrate_crd(&client, &crd, &CancellationToken::new()).await.unwrap();
    assert!(matches!(none.result, Err(MigrateError::NotServed)));
}

#[tokio::test(start_paused = true)]
async fn one_crd_that_fails_stops_no_other() {
    let (client, seen) = scripted(Box::new(|method, path, body| {
        let mut other = crd();
        other["metadata"]["name"] = json!("others.toolhive.stacklok.dev");
        other["spec"]["names"]["plural"] = json!("others");
        let mut foreign = crd();
        foreign["metadata"]["name"] = json!("virtualmcpservers.toolhive.stacklok.dev");
        foreign["spec"]["names"]["kind"] = json!("VirtualMCPServer");
        match path {
            _ if path.contains("labelSelector=") => (200, json!({"items": [crd(), foreign, other]})),
            _ if path.contains("/things?") => status(500),
            _ if path.contains("/others?") => (200, json!({"metadata": {}, "items": []})),
            _ if method == "GET" => (200, other),
            _ => (200, body.clone()),
        }
    }));
    let done = migrate(&client, &CancellationToken::new()).await.unwrap();
    let found: Vec<(&str, bool)> = done.iter().map(|one| (one.crd.as_str(), one.result.is_ok())).collect();
    assert_eq!(found, [("things.toolhive.stacklok.dev", false), ("others.toolhive.stacklok.dev", true)]);
    assert!(seen.lock().unwrap()[0].1.contains("auto-migrate-storage-version%3Dtrue"));
    let (client, _) = scripted(Box::new(|_, _, _| status(403)));
    assert!(migrate(&client, &CancellationToken::new()).await.is_err());
}

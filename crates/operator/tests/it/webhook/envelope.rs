//! What is no review, and what an answer looks like.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{StreamExt as _, once, pending};
use http::Request;
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use skep_api::crd::Kind;

use skep_operator::webhook::server::MAX_BODY;

use super::setup::{MUTATE, NAMESPACE, Setup, message, object, patched, post, server, settings, warnings};

const VALIDATE: &str = "/validate-toolhive-stacklok-dev-v1beta1-mcpgroup";

fn review(request: &Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
}

#[tokio::test]
async fn what_is_no_review_is_refused_with_a_reason() {
    let setup = Setup::new();
    let json_to = |path: &str, body: &str| {
        Request::post(path)
            .header("content-type", "application/json")
            .body(Full::new(body.to_owned().into_bytes().into()))
            .unwrap()
    };
    let plain = |method: &str, kind: Option<&str>| {
        let mut request = Request::builder().method(method).uri(VALIDATE);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        request.body(Full::new("{}".into())).unwrap()
    };
    let good = review(&json!({"uid": "u", "operation": "CREATE"}));
    let mut old = good.clone();
    old["apiVersion"] = "admission.k8s.io/v1beta1".into();
    let rows = [
        (json_to("/", "{}"), 404, "at this path"),
        (json_to("/mutate-toolhive-stacklok-dev-v1beta1-mcpgroup", "{}"), 404, "at this path"),
        (json_to("/healthz", "{}"), 404, "at this path"),
        (plain("GET", Some("application/json")), 405, "POST"),
        (plain("PUT", Some("application/json")), 405, "POST"),
        (plain("POST", None), 415, "application/json"),
        (plain("POST", Some("application/yaml")), 415, "application/json"),
        (plain("POST", Some("application/jsonx")), 415, "application/json"),
        (json_to(VALIDATE, ""), 400, "JSON"),
        (json_to(VALIDATE, "{"), 400, "JSON"),
        (json_to(VALIDATE, "[]"), 400, "no AdmissionReview"),
        (json_to(VALIDATE, "3"), 400, "JSON"),
        (json_to(VALIDATE, "{}"), 400, "no AdmissionReview"),
        (json_to(VALIDATE, &old.to_string()), 400, "admission.k8s.io/v1beta1"),
        (json_to(VALIDATE, &review(&Value::Null).to_string()), 400, "`request`"),
        (json_to(VALIDATE, &review(&json!({"uid": ""})).to_string()), 400, "uid"),
        (json_to(VALIDATE, &review(&json!({"operation": "CREATE"})).to_string()), 400, "uid"),
        (json_to(VALIDATE, &review(&json!({"uid": "u", "userInfo": 3})).to_string()), 400, "JSON"),
    ];
    for (request, code, says) in rows {
        let about = format!("{} {}", request.method(), request.uri());
        let (found, body) = setup.send(request).await;
        assert_eq!(found, code, "{about}: {body}");
        assert_eq!(body["kind"], "Status", "{about}");
        assert_eq!(body["code"], code, "{about}");
        assert!(body["message"].as_str().unwrap().contains(says), "{about}: {body}");
    }
    // Parameters of the type are fine.
    let charset = Request::post(VALIDATE)
        .header("content-type", "application/json; charset=utf-8")
        .body(Full::new(good.to_string().into_bytes().into()))
        .unwrap();
    assert_eq!(setup.send(charset).await.0, 200);
}

#[tokio::test]
async fn a_review_that_is_too_large_is_refused_before_and_while_it_is_read() {
    let setup = Setup::new();
    let said = Request::post(VALIDATE)
        .header("content-type", "application/json")
        .header("content-length", (MAX_BODY + 1).to_string())
        .body(Full::default())
        .unwrap();
    assert_eq!(setup.send(said).await.0, 413);
    let text = "x".repeat(MAX_BODY);
    let (code, body) = setup.send(post(VALIDATE, &review(&json!({"uid": text})))).await;
    assert_eq!((code, body["reason"].as_str().unwrap()), (413, "RequestEntityTooLarge"));
}

#[tokio::test]
async fn a_review_that_stands_for_too_much_is_refused_before_it_is_built() {
    let setup = Setup::new();
    let of = |object: &str| {
        let text = review(&json!({"uid": "u", "operation": "CREATE", "object": "(here)"})).to_string();
        Request::post(VALIDATE)
            .header("content-type", "application/json")
            .body(Full::new(text.replace("\"(here)\"", object).into_bytes().into()))
            .unwrap()
    };
    let zeros = |count: usize| format!("{{\"x\":[{}0]}}", "0,".repeat(count - 1));
    let deep = |depth: usize| format!("{{\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    for (object, code, says) in [
        (zeros(1_000_000), 413, "at most 100000 values"),
        (zeros(50_000), 200, ""),
        (deep(100), 400, "at most 68 levels deep"),
        (deep(60), 200, ""),
    ] {
        let (found, body) = setup.send(of(&object)).await;
        assert_eq!(found, code, "{body}");
        assert!(code == 200 || body["message"].as_str().unwrap().contains(says), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn reviews_that_never_end_hold_a_bounded_memory_for_a_bounded_time() {
    let setup = Setup::new();
    let stalled = || {
        let server = Arc::clone(&setup.server);
        tokio::spawn(async move {
            let begun =
                once(std::future::ready(Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b' '; MAX_BODY])))));
            let body = StreamBody::new(begun.chain(pending()));
            let request =
                Request::post(VALIDATE).header("content-type", "application/json").body(body).unwrap();
            server.answer(request).await.status().as_u16()
        })
    };
    let small = review(&json!({"uid": "u", "operation": "DELETE"}));
    let one = stalled();
    tokio::task::yield_now().await;
    assert_eq!(setup.send(post(VALIDATE, &small)).await.0, 200, "there is room beside one");
    let mut all: Vec<_> = (0..5).map(|_| stalled()).collect();
    all.push(one);
    tokio::task::yield_now().await;
    let (code, body) = setup.send(post(VALIDATE, &small)).await;
    assert_eq!((code, body["reason"].as_str().unwrap()), (429, "TooManyRequests"));
    let mut codes = Vec::new();
    for one in all {
        codes.push(one.await.unwrap());
    }
    assert!(codes.iter().all(|code| matches!(code, 408 | 429)) && codes.contains(&408), "{codes:?}");
    assert_eq!(setup.send(post(VALIDATE, &small)).await.0, 200, "they are gone");
}

#[tokio::test]
async fn null_is_nothing_wherever_go_writes_it() {
    let setup = Setup::new();
    for user in [
        json!(null),
        json!({"username": "alice", "uid": null, "groups": null, "extra": null}),
        json!({"username": "alice", "groups": [], "extra": {"scopes": null, "more": ["x"]}}),
    ] {
        let request = json!({"object": server("s", &json!({})), "userInfo": user, "subResource": null});
        let answer = setup.review("/validate-toolhive-stacklok-dev-v1beta1-mcpserver", request).await;
        assert_eq!(answer["allowed"], true, "{user}: {answer}");
    }
    assert_eq!(setup.api.review.lock().unwrap()["spec"]["extra"], json!({"scopes": [], "more": ["x"]}));
}

#[tokio::test]
async fn a_review_of_something_else_is_no_review_of_ours() {
    let setup = Setup::new();
    let group = object(Kind::MCPGroup, "g", json!({}));
    for (request, code, says) in [
        (json!({"object": server("s", &json!({}))}), 400, "the object is a MCPServer and no MCPGroup"),
        (json!({"object": {"apiVersion": "v1", "kind": "Pod"}}), 400, "no MCPGroup"),
        (json!({"object": null}), 400, "no object"),
        (json!({"object": "text"}), 400, "no object"),
    ] {
        let answer = setup.review(VALIDATE, request).await;
        assert_eq!(answer["allowed"], false);
        assert_eq!(answer["status"]["code"], code);
        assert!(message(&answer).contains(says), "{answer}");
    }
    // What changes nothing that is judged here goes through.
    for more in [
        json!({"operation": "DELETE", "object": null, "oldObject": group}),
        json!({"operation": "CONNECT", "object": null}),
        json!({"operation": "SOMETHING"}),
        json!({"operation": "UPDATE", "subResource": "status", "object": group}),
    ] {
        let answer = setup.review(VALIDATE, more).await;
        assert_eq!(answer, json!({"uid": "u-1", "allowed": true}));
    }
    let answer = setup.review(MUTATE, json!({"object": group})).await;
    assert_eq!(answer["status"]["code"], 400);
}

#[tokio::test]
async fn an_answer_has_this_form() {
    let mut settings = settings();
    settings.policy.default_on = true;
    let setup = Setup::with(&settings);
    setup.config_map(
        "environments",
        &json!({"KEYCLOAK_URL": "https://keycloak.example.com", "KEYCLOAK_REALM": "r"}),
    );
    setup.config_map("spiffe-helper-config", &json!({"helper.conf": ""}));
    setup.secret("keycloak-admin-secret", &json!({}));
    let manifest = server("s", &json!({}));
    let mut mutated = setup.review(MUTATE, json!({"object": manifest})).await;
    let result = patched(&manifest, &mutated);
    mutated["patch"] = "(base64)".into();
    insta::assert_json_snapshot!("mutation", mutated);
    let names: Vec<&str> = result["spec"]["podTemplateSpec"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| container["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["mcp", "spiffe-helper", "kagenti-client-registration"]);
    let denied = setup
        .create(&server("s", &json!({"proxyPort": 99999, "groupRef": {"name": "none"}, "wrong": true})))
        .await;
    insta::assert_json_snapshot!("denial", denied);
    // The same, when nothing is going to be stored.
    let path = super::setup::validate_path(&manifest);
    let wrong = server("s", &json!({"proxyPort": 99999, "groupRef": {"name": "none"}, "wrong": true}));
    let dry = setup.review(&path, json!({"object": wrong, "dryRun": true})).await;
    assert_eq!(dry, denied);
}

#[tokio::test]
async fn all_problems_are_in_one_message_each_with_its_path() {
    let setup = Setup::new();
    setup.api.refused.lock().unwrap().push("get secrets own".to_owned());
    let spec = json!({
        "proxyPort": 99999, "transport": "carrier-pigeon", "secrets": [{"name": "own", "key": "k"}],
        "podTemplateSpec": {"spec": {"hostNetwork": true}},
    });
    let answer = setup.create(&server("s", &spec)).await;
    assert_eq!((answer["allowed"].as_bool(), answer["status"]["code"].as_u64()), (Some(false), Some(403)));
    let message = message(&answer);
    assert!(message.lines().count() >= 2, "{message}");
    for line in message.lines() {
        assert!(line.starts_with("spec.") || line.starts_with("metadata."), "{line}");
    }
    assert!(message.contains("spec.secrets[0].name: `alice` may not get secrets `own`"), "{message}");
    let causes = answer["status"]["details"]["causes"].as_array().unwrap();
    assert_eq!(causes.len(), message.lines().count());
}

#[tokio::test]
async fn warnings_have_bounds_whatever_a_manifest_holds() {
    let setup = Setup::new();
    let mut more = json!({});
    for index in 0..3000 {
        more[format!("no\nsuch\u{7}field{index}")] = index.into();
    }
    let answer = setup.create(&server("s", &more)).await;
    assert_eq!(answer["allowed"], true);
    let lines = warnings(&answer);
    assert!(lines.iter().map(String::len).sum::<usize>() <= 4096);
    assert!(lines.iter().all(|line| !line.chars().any(char::is_control)), "{lines:?}");
    let last = lines.last().unwrap();
    assert!(last.starts_with("and ") && last.ends_with(" more"), "{last}");
}

#[tokio::test]
async fn before_the_caches_are_filled_nothing_is_decided() {
    let setup = Setup::ignorant(&settings());
    let answer = setup.create(&server("s", &json!({}))).await;
    assert_eq!((answer["allowed"].as_bool(), answer["status"]["code"].as_u64()), (Some(false), Some(503)));
    assert!(message(&answer).contains("try again"));
    let new = server("s", &json!({}));
    assert_eq!(setup.review(MUTATE, json!({"object": new})).await["status"]["code"], 503);
    // But labels and finalizers, and whatever is being deleted, are not held up.
    let mut labelled = new.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    let update = json!({"operation": "UPDATE", "object": labelled, "oldObject": new});
    for path in [MUTATE, "/validate-toolhive-stacklok-dev-v1beta1-mcpserver"] {
        let answer = setup.review(path, update.clone()).await;
        assert_eq!((answer["allowed"].as_bool(), answer.get("patch")), (Some(true), None), "{path}");
        assert!(warnings(&answer)[0].contains("the webhook is starting"), "{answer}");
    }
    let mut going = server("s", &json!({"image": "j"}));
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let update = json!({"operation": "UPDATE", "object": going, "oldObject": new});
    assert_eq!(setup.review(MUTATE, update).await, json!({"uid": "u-1", "allowed": true}));
}

#[tokio::test]
async fn metrics_say_what_was_asked_and_answered() {
    let mut settings = settings();
    settings.policy.default_on = true;
    let setup = Setup::with(&settings);
    setup.mutate(MUTATE, &server("s", &json!({}))).await;
    setup.create(&server("s", &json!({}))).await;
    setup.create(&server("s", &json!({}))).await;
    setup.create(&server("s", &json!({"transport": "x"}))).await;
    setup.send(post("/nowhere", &json!({}))).await;
    setup.send(post(MUTATE, &json!({}))).await;
    let text = setup.registry.encode();
    let mut samples: Vec<&str> = text
        .lines()
        .filter(|line| {
            line.starts_with("skep_webhook") && !line.contains("_bucket{") && !line.contains("_sum")
        })
        .collect();
    samples.sort_unstable();
    insta::assert_snapshot!(samples.join("\n"));
    let _ = (&setup.metrics, &setup.policies, NAMESPACE);
}

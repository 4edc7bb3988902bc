//! Who may see metrics, as a real API server says it.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderValue};
use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;
use hyper::{Request, Response};
use serde_json::{Value, json};
use skep_operator::client::Layers;
use skep_operator::client::hooks::{Recorder, SharedHook};
use skep_operator::permissions::metrics_guard_rules;
use skep_operator::webhook::metrics_guard::{MetricsGuard, Refused};
use skep_runtime::drain::{Drain, Phase};
use skep_runtime::http::{Ends, HttpLimits, Load, ResponseBody, bind, full, serve};
use skep_testkit::control_plane::{self, Assets, ControlPlane};
use skep_testkit::{ManualClock, RawConnection};

use crate::harness::{client, crypto};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn headers(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    headers
}

/// A ClusterRole with these rules, bound to this subject.
async fn grant(plane: &ControlPlane, name: &str, rules: Value, subject: Value) {
    let role = json!({"metadata": {"name": name}, "rules": rules});
    let binding = json!({
        "metadata": {"name": name}, "subjects": [subject],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
    });
    for (resource, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        let path = format!("{RBAC}/{resource}");
        let (code, body) = plane.request("POST", &path, "application/json", &object.to_string()).await;
        assert!(code < 300, "{code} {body}");
    }
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name})
}

#[tokio::test(flavor = "multi_thread")]
async fn only_users_who_may_get_metrics_see_them() {
    let Some(assets) = Assets::find_or_skip() else { return };
    crypto();
    let plane = ControlPlane::start(&assets, control_plane::Options { controllers: Vec::new() }).await;
    grant(&plane, "metrics-guard", json!(metrics_guard_rules()), user("u0")).await;
    let may = json!([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]);
    grant(&plane, "metrics-reader", may, user("u1")).await;
    let recorder = Recorder::shared();
    let layers = Layers { hook: Some(Arc::clone(&recorder) as SharedHook), ..Layers::default() };
    // The guard has only the rights that it is documented to need.
    let asking = client(&plane, Some(plane.token_for("u0")), &layers).await;
    let clock = ManualClock::default();
    let metrics = |_: Request<Incoming>, _: Ends| async { Response::<ResponseBody>::new(full("metrics")) };
    let guard = Arc::new(MetricsGuard::new(metrics, asking, Arc::new(clock.clone())));

    let (reader, nobody) = (plane.token_for("u1").to_owned(), plane.token_for("nobody").to_owned());
    let forbidden = Err(Refused::Forbidden { user: "nobody".to_owned() });
    assert_eq!(guard.check(&HeaderMap::new()).await, Err(Refused::NoToken));
    assert_eq!(recorder.calls().len(), 0, "nobody was asked for that");
    for _ in 0..3 {
        assert_eq!(guard.check(&headers(&reader)).await, Ok(()));
        assert_eq!(guard.check(&headers(&nobody)).await, forbidden);
        assert_eq!(guard.check(&headers("made-up")).await, Err(Refused::UnknownToken));
    }
    assert_eq!(recorder.calls().len(), 2 + 2 + 1, "verdicts are kept");
    assert!(!format!("{guard:?}").contains(&reader));

    // Over HTTP.
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (address, drain) = (listener.local_addr().unwrap(), Drain::new());
    tokio::spawn(serve(listener, Arc::clone(&guard), HttpLimits::default(), drain.watch(), Load::default()));
    for (token, status, body) in [
        (Some(reader.as_str()), StatusCode::OK, "metrics"),
        (Some(nobody.as_str()), StatusCode::FORBIDDEN, "nobody may not get the path /metrics;"),
        (Some("made-up"), StatusCode::UNAUTHORIZED, "the API server does not accept this bearer token"),
        (None, StatusCode::UNAUTHORIZED, "send a bearer token"),
    ] {
        let authorization =
            token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let mut connection = RawConnection::open(address).await;
        connection.send(format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{authorization}\r\n").as_bytes()).await;
        let answer = connection.read_answer().await;
        assert_eq!(answer.status, status.as_u16());
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.starts_with(body), "{text}");
    }

    // What was said counts for 30 s, also when it changes; then it is asked again, and nobody answers.
    plane.stop_api_server();
    clock.advance(Duration::from_secs(29));
    assert_eq!(guard.check(&headers(&reader)).await, Ok(()));
    clock.advance(Duration::from_secs(2));
    assert_eq!(guard.check(&headers(&reader)).await, Err(Refused::Unavailable));
    plane.start_api_server().await;
    assert_eq!(guard.check(&headers(&reader)).await, Ok(()), "that nobody answered is not kept");
    let path = format!("{RBAC}/clusterrolebindings/metrics-reader");
    assert!(plane.request("DELETE", &path, "", "").await.0 < 300);
    clock.advance(Duration::from_secs(31));
    // The API server learns of it by a watch of its own.
    let started = std::time::Instant::now();
    while guard.check(&headers(&reader)).await == Ok(()) {
        assert!(started.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
        clock.advance(Duration::from_secs(31));
    }
    drain.advance(Phase::Stopped);
}

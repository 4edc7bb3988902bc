//! A new configuration while requests run.

use serde_json::json;
use skep_testkit::backend::{streams, well_behaved};
use skep_testkit::server::Step;
use skep_testkit::{Gate, RawConnection, Reply};

use crate::harness::{Harness, PERMIT_ALL, call, cedar, soon};

#[tokio::test]
async fn new_policies_take_effect_and_streams_and_connections_stay() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = skep_testkit::McpBackend::start(move |request| match request.method.as_str() {
        "GET" => {
            let event = streams::event(&json!({"jsonrpc": "2.0", "method": "notifications/message"}));
            Reply::sse([": open\n\n"]).step(Step::Wait(held.clone())).step(Step::Send(event.into()))
        }
        _ => well_behaved(request, 3),
    })
    .await;
    let harness = Harness::before(backend, cedar(&[PERMIT_ALL])).await;
    let mut stream = RawConnection::open(harness.address).await;
    let authorization = harness.bearer();
    let head =
        format!("GET /mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {authorization}\r\n\r\n", harness.address);
    stream.send(head.as_bytes()).await;
    assert_eq!(stream.read_head().await.status, 200);
    assert_eq!(stream.read_chunk().await.unwrap(), b": open\n\n");
    let mut kept = RawConnection::open(harness.address).await;
    let headers = [("Content-Type", "application/json"), ("Authorization", authorization.as_str())];
    let body = call("tool-0").to_string();
    assert_eq!(kept.request("POST", "/mcp", &headers, body.as_bytes()).await.status, 200);

    harness.proxy.reload(harness.changed(cedar(&["forbid(principal, action, resource);"])).unwrap()).unwrap();
    assert_eq!(kept.request("POST", "/mcp", &headers, body.as_bytes()).await.status, 403);
    gate.open();
    let event = soon("the event", stream.read_chunk()).await.unwrap();
    assert!(String::from_utf8_lossy(&event).contains("notifications/message"));
    assert_eq!(stream.read_chunk().await.unwrap(), b"");
    assert_eq!(harness.idp.jwks_hits(), 1, "keys and judged tokens survive");
    assert_eq!(harness.proxy.status()["config"], json!({"reloads": 1, "refused": 0, "lastRefusal": null}));
}

#[tokio::test]
async fn a_configuration_that_cannot_work_changes_nothing() {
    let harness = Harness::start(cedar(&["permit(principal, action, resource == Tool::\"tool-0\");"])).await;
    let bad = harness.changed(cedar(&["permit(principal, action resource);"])).unwrap();
    let error = harness.proxy.reload(bad).unwrap_err();
    assert!(error.to_string().contains("authz_config"), "{error}");
    let bad = harness.changed(json!({"audit_config": {"logFile": "/does/not/exist/audit.log"}})).unwrap();
    assert!(harness.proxy.reload(bad).unwrap_err().to_string().contains("/does/not/exist/audit.log"));
    assert!(harness.changed(json!({"oidc_config": {"Audience": "", "ResourceURL": ""}})).is_err());
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(harness.post(&call("tool-1")).await.status, 403);
    let status = harness.proxy.status();
    assert_eq!((&status["config"]["reloads"], &status["config"]["refused"]), (&json!(0), &json!(2)));
    assert!(status["config"]["lastRefusal"].as_str().unwrap().contains("audit"));
}

#[tokio::test]
async fn a_change_of_who_is_let_in_forgets_what_was_judged_before() {
    let harness = Harness::start(json!({})).await;
    let token = harness.token("alice");
    let message = call("tool-0");
    let post = || skep_testkit::raw::post_rpc(harness.address, "/mcp", Some(&token), &message);
    assert_eq!(post().await.status, 200);
    for (changes, expected) in [
        (json!({"oidc_config": {"Audience": "another"}}), 401),
        (json!({"oidc_config": {"Audience": crate::harness::AUDIENCE}}), 200),
        (json!({"skep": {"issuer": {"allowed_algorithms": ["ES256"]}}}), 401),
        (json!({"skep": {"issuer": {"clock_skew_seconds": 0}}}), 200),
        (json!({"tools_filter": ["tool-1"]}), 200),
    ] {
        harness.proxy.reload(harness.changed(changes.clone()).unwrap()).unwrap();
        let answer = post().await;
        assert_eq!(answer.status, expected, "{changes}");
        if changes.get("tools_filter").is_some() {
            assert_eq!(answer.json()["error"]["code"], -32602);
        }
    }
}

#[tokio::test]
async fn a_new_backend_is_used_from_the_next_call_on() {
    let harness = Harness::start(json!({})).await;
    let other = skep_testkit::McpBackend::with_tools(1).await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    harness.proxy.reload(harness.changed(json!({"remote_url": other.mcp_url()})).unwrap()).unwrap();
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!((harness.backend.requests().len(), other.requests().len()), (1, 1));
    // One that may not be called is refused.
    let bad = harness.changed(json!({"remote_url": "http://169.254.169.254/mcp"})).unwrap();
    assert!(harness.proxy.reload(bad).is_err());
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
}

#[tokio::test]
async fn the_audit_file_stays_open_over_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let harness = Harness::start(json!({"audit_config": {"logFile": path}})).await;
    harness.post(&call("tool-0")).await;
    let mut changes = cedar(&[PERMIT_ALL]);
    changes["audit_config"] = json!({"logFile": path});
    harness.proxy.reload(harness.changed(changes).unwrap()).unwrap();
    harness.post(&call("tool-0")).await;
    let lines = || std::fs::read_to_string(&path).map_or(0, |text| text.lines().count());
    crate::harness::until("both records", || lines() == 2).await;
}

#[tokio::test]
async fn a_reload_that_fails_late_leaves_nothing_behind_and_says_why() {
    let harness = Harness::start(json!({})).await;
    // The secret of the harness is no private key.
    let bad = json!({
        "oidc_config": null,
        "token_exchange_config": {"token_url": "http://127.0.0.1:9/token", "client_id": "skep", "audience": "x"},
        "skep": {"auth_mode": "anonymous",
                 "token_exchange": {"grant_type": "client_credentials", "client_auth": "private_key_jwt"}},
    });
    harness.proxy.reload(harness.changed(bad).unwrap()).unwrap_err();
    assert_eq!(harness.metric("skep_proxy_anonymous{proxy=\"demo\"}"), 0.0);
    let refusal = harness.proxy.status()["config"]["lastRefusal"].as_str().unwrap().to_owned();
    assert!(refusal.contains("token endpoint") && refusal.contains("private key"), "{refusal}");
    assert_eq!(skep_testkit::raw::post_rpc(harness.address, "/mcp", None, &call("tool-0")).await.status, 401);
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
}

#[tokio::test]
async fn a_new_ca_bundle_costs_no_keys_while_the_issuer_is_away() {
    let bundle = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bundle.path(), skep_testkit::TestCa::new().pem()).unwrap();
    let harness = Harness::start(json!({"thv_ca_bundle": bundle.path()})).await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    harness.idp.server().down().await;
    std::fs::write(bundle.path(), skep_testkit::TestCa::new().pem()).unwrap();
    harness.proxy.reload(harness.changed(json!({})).unwrap()).unwrap();
    assert_eq!(harness.post_as("bob", &call("tool-0")).await.status, 200, "the keys are still good");
    harness.idp.rotate();
    assert_eq!(harness.post_as("carol", &call("tool-0")).await.status, 401, "but no others");
}

//! What `/status` says of the issuers, and that the whole of it is what readers expect.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skep_api::report::{CredentialReason, IssuerReason, IssuerReport, WorkloadReport};
use skep_proxy::probe::ProbeTimes;
use skep_testkit::{Outage, Recorded, Reply, ScriptedServer, raw};

use crate::harness::{Harness, call, eventually, soon, until};
use crate::outgoing::TokenEndpoint;

const OFTEN: ProbeTimes = ProbeTimes { interval: Duration::from_millis(5), timeout: Duration::from_secs(10) };

fn issuer(harness: &Harness) -> IssuerReport {
    let report = harness.proxy.report().authentication.unwrap();
    assert_eq!(report.available, report.issuers.iter().all(|issuer| issuer.available));
    report.issuers.into_iter().next().unwrap()
}

#[tokio::test]
async fn the_report_is_what_its_type_says_and_holds_no_secret() {
    let endpoint = TokenEndpoint::start().await;
    let mut config = endpoint.config();
    config["header_forward"] = json!({"add_headers_from_secret": {"X-Key": "KEY1"}});
    let harness = Harness::start(config).await;
    harness.proxy.probe(Duration::from_secs(10)).await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    let body = harness.proxy.status();
    let report: WorkloadReport = serde_json::from_value(body.clone()).unwrap();
    assert_eq!(report, harness.proxy.report());
    let keys: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "name",
        "target",
        "suspended",
        "authentication",
        "credential",
        "backendAvailable",
        "remote",
        "config",
        "runConfig",
    ];
    assert_eq!(keys, expected);
    assert!(!body.to_string().contains("s3cret"), "{body}");
}

#[tokio::test]
async fn an_issuer_is_as_its_last_answer_was() {
    let harness = Harness::start(json!({})).await;
    assert_eq!((issuer(&harness).available, issuer(&harness).reason), (false, IssuerReason::NotTried));
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    let good = issuer(&harness);
    assert_eq!((good.available, good.reason), (true, IssuerReason::Available));
    assert_eq!((good.since.as_deref(), &*good.message), (Some("2026-01-01T00:00:00Z"), ""));
    // Old keys are good for a day, but something is wrong.
    harness.idp.server().down().await;
    harness.clock.advance(Duration::from_secs(3600));
    assert_eq!(harness.post_as("bob", &call("tool-0")).await.status, 200);
    until("it is seen", || issuer(&harness).reason == IssuerReason::KeysOutdated).await;
    let stale = issuer(&harness);
    assert_eq!((stale.available, stale.since.as_deref()), (true, Some("2026-01-01T01:00:00Z")));
    assert!(stale.message.contains("cannot reach"), "{}", stale.message);
    harness.clock.advance(Duration::from_secs(25 * 3600));
    assert_eq!(harness.post_as("carol", &call("tool-0")).await.status, 503);
    let gone = issuer(&harness);
    assert_eq!((gone.available, gone.reason), (false, IssuerReason::DiscoveryFailed));
    assert_eq!(gone.since.as_deref(), Some("2026-01-01T01:00:00Z"), "it has been away since then");
}

#[tokio::test]
async fn each_fault_of_an_issuer_has_its_reason() {
    type Answer = fn(&Recorded, &str) -> Reply;
    let metadata = |issuer: &str| json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")});
    let table: [(Answer, IssuerReason); 5] = [
        (|_, _| Reply::status(500), IssuerReason::DiscoveryFailed),
        (|_, _| Reply::json(&json!({"issuer": "https://another.example"})), IssuerReason::DiscoveryFailed),
        (|_, _| Reply::json(&json!({"keys": 1})), IssuerReason::DiscoveryFailed),
        (|_, _| Reply::status(404), IssuerReason::KeysUnreachable),
        (|_, _| Reply::json(&json!({"keys": []})), IssuerReason::KeysUnusable),
    ];
    for (answer, reason) in table {
        let server = ScriptedServer::start(|_| Reply::status(500)).await;
        let own = server.url("");
        let known = metadata(&own);
        server.set_handler(move |request| match request.path() {
            path if reason != IssuerReason::DiscoveryFailed && path != "/keys" => Reply::json(&known),
            _ => answer(request, &own),
        });
        let harness = Harness::start(json!({"oidc_config": {"Issuer": server.url("")}})).await;
        for keys in harness.proxy.keys() {
            assert!(keys.keys().await.is_err());
        }
        let found = issuer(&harness);
        assert_eq!((found.available, found.reason), (false, reason), "{}", found.message);
        assert!(!found.message.is_empty());
    }
}

#[tokio::test]
async fn an_issuer_that_comes_back_is_seen_although_nobody_calls() {
    let harness = Harness::start(json!({})).await;
    harness.idp.server().down().await;
    let attending = tokio::spawn(Arc::clone(&harness.proxy).attend(OFTEN));
    until("it is missed", || issuer(&harness).reason == IssuerReason::DiscoveryFailed).await;
    harness.idp.server().up().await;
    eventually("it is back", async || {
        // A failure is not repeated within the same second.
        harness.clock.advance(Duration::from_secs(1));
        issuer(&harness).reason == IssuerReason::Available
    })
    .await;
    let hits = harness.metric("toolhive_remote_proxy_jwks_cache_hits_total{proxy=\"demo\"}");
    assert_eq!(hits, 0.0, "nobody has called");
    // And one that goes away, as soon as its keys are to be fetched again.
    harness.idp.fail(Outage::Status(500)).await;
    harness.clock.advance(Duration::from_secs(301));
    until("it is missed", || issuer(&harness).reason == IssuerReason::KeysOutdated).await;
    assert!(issuer(&harness).available);
    attending.abort();
}

#[tokio::test]
async fn an_endpoint_that_answers_again_is_seen_although_nobody_calls() {
    let endpoint = ScriptedServer::start(|_| Reply::status(500)).await;
    let harness = Harness::start(json!({
        "oidc_config": {"IntrospectionURL": endpoint.url("/introspect"), "ClientID": "proxy"},
    }))
    .await;
    let post = async || raw::post_rpc(harness.address, "/mcp", Some("opaque"), &call("tool-0")).await;
    assert_eq!(post().await.status, 503);
    let found = issuer(&harness);
    assert_eq!((found.available, found.reason), (false, IssuerReason::IntrospectionFailed));
    assert!(found.message.contains("500"), "{}", found.message);
    endpoint.set_handler(|_| Reply::json(&json!({"active": false})));
    harness.clock.advance(Duration::from_secs(60));
    let attending = tokio::spawn(Arc::clone(&harness.proxy).attend(OFTEN));
    until("it is back", || issuer(&harness).available).await;
    let asked = endpoint.requests().len();
    soon("some more probes", harness.backend.wait_for_requests(5)).await;
    attending.abort();
    assert_eq!(endpoint.requests().len(), asked, "only a failure is asked about");
    let token = endpoint.requests().last().unwrap().form_field("token");
    assert!(token.starts_with("skep-"), "nobody's token: {token}");
}

#[tokio::test]
async fn a_token_endpoint_that_refuses_the_proxy_is_named_by_its_code() {
    let refuse = |_: &Recorded| Reply::body(401, "application/json", r#"{"error":"invalid_client"}"#);
    let endpoint = TokenEndpoint::answering(refuse).await;
    let harness = Harness::start(endpoint.config()).await;
    let before = harness.proxy.report().credential.unwrap();
    assert_eq!((before.ready, before.reason, before.since), (None, CredentialReason::NotTriedOfLate, None));
    assert_eq!(harness.post(&call("tool-0")).await.status, 502);
    harness.clock.advance(Duration::from_secs(30));
    assert_eq!(harness.post_as("bob", &call("tool-0")).await.status, 502);
    let after = harness.proxy.report().credential.unwrap();
    assert_eq!((after.ready, after.reason), (Some(false), CredentialReason::Refused));
    assert_eq!(after.code.as_deref(), Some("invalid_client"));
    assert_eq!(after.since.as_deref(), Some("2026-01-01T00:00:00Z"));
    harness.clock.advance(Duration::from_secs(300));
    let over = harness.proxy.status()["credential"].clone();
    assert_eq!((&over["ready"], &over["reason"]), (&Value::Null, &json!("NotTriedOfLate")));
}

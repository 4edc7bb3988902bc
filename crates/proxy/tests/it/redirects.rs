//! A server that sends elsewhere: within itself the credential is made for the new place, and nothing goes
//! to another.

use serde_json::json;
use skep_testkit::backend::well_behaved;
use skep_testkit::{McpBackend, Recorded, Reply, ScriptedServer};

use crate::aws::GRANTED;
use crate::harness::{Harness, call};

const STATUSES: [u16; 4] = [301, 302, 307, 308];

/// A server that moved `/mcp` to `location`, and serves what comes to any other path.
async fn moved(status: u16, location: &str) -> McpBackend {
    let location = location.to_owned();
    McpBackend::start(move |request| match request.path() {
        "/mcp" => Reply::status(status).header("Location", &location),
        _ => well_behaved(request, 3),
    })
    .await
}

async fn token_endpoint() -> (ScriptedServer, serde_json::Value) {
    let granted = json!({
        "access_token": "exchanged", "token_type": "Bearer", "expires_in": 600,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    });
    let endpoint = ScriptedServer::start(move |_| Reply::json(&granted)).await;
    let config = json!({"token_exchange_config": {"token_url": endpoint.url("/token"), "client_id": "skep"}});
    (endpoint, config)
}

async fn sts() -> (ScriptedServer, serde_json::Value) {
    let sts = ScriptedServer::start(|_| Reply::body(200, "text/xml", GRANTED)).await;
    let config = json!({
        "aws_sts_config": {"region": "eu-central-1", "fallback_role_arn": "arn:aws:iam::123456789012:role/mcp"},
        "skep": {"aws": {"sts_endpoint": sts.url("/")}},
    });
    (sts, config)
}

fn authorization(request: &Recorded) -> &str {
    let [value] = request.header_all("authorization")[..] else { panic!("one credential: {request:?}") };
    value
}

#[tokio::test]
async fn an_exchanged_token_goes_along_within_the_server() {
    for status in STATUSES {
        let (_endpoint, config) = token_endpoint().await;
        let harness = Harness::before(moved(status, "/moved?to=here").await, config).await;
        let answer = harness.post(&call("tool-0")).await;
        assert_eq!(answer.status, 200, "{status}: {}", answer.text());
        let requests = harness.backend.requests();
        let seen: Vec<&str> = requests.iter().map(|request| request.target.as_str()).collect();
        assert_eq!(seen, ["/mcp", "/moved?to=here"], "{status}");
        for request in &requests {
            assert_eq!(authorization(request), "Bearer exchanged", "{status}");
            assert_eq!((request.method.as_str(), &request.body), ("POST", &requests[0].body), "{status}");
        }
    }
}

#[tokio::test]
async fn a_request_is_signed_anew_for_the_place_it_is_sent_to() {
    let (sts, config) = sts().await;
    let harness = Harness::before(moved(307, "/moved?to=here").await, config).await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    // The same call, sent there from the beginning, at the same moment and with the same credentials.
    let there = harness.backend.mcp_url().replace("/mcp", "/moved?to=here");
    harness.proxy.reload(harness.changed(json!({"remote_url": there})).unwrap()).unwrap();
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(sts.requests().len(), 1);
    let requests = harness.backend.requests();
    let [first, redirected, direct] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!((redirected.target.as_str(), direct.target.as_str()), ("/moved?to=here", "/moved?to=here"));
    assert_ne!(authorization(first), authorization(redirected));
    assert_eq!(authorization(redirected), authorization(direct), "a good signature for the new place");
}

#[tokio::test]
async fn nothing_is_sent_to_another_server_that_a_server_names() {
    for status in STATUSES {
        let elsewhere = ScriptedServer::start(|_| Reply::status(200)).await;
        let (_endpoint, exchange) = token_endpoint().await;
        let (_sts, aws) = sts().await;
        for config in [exchange, aws] {
            let harness = Harness::before(moved(status, &elsewhere.url("/mcp")).await, config).await;
            let answer = harness.post(&call("tool-0")).await;
            assert_ne!(answer.status, 200, "{status}");
            let shown = format!("{:?}", answer);
            for secret in ["exchanged", "session-of-the-role", "AWS4-HMAC-SHA256"] {
                assert!(!shown.contains(secret), "{status}: {shown}");
            }
            assert_eq!(harness.backend.requests().len(), 1, "{status}");
        }
        assert_eq!(elsewhere.connections(), 0, "{status}");
    }
}

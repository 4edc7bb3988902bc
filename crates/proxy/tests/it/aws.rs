//! What AWS reads besides the signature, and how it says no.

use serde_json::json;
use skep_testkit::backend::well_behaved;
use skep_testkit::{Reply, ScriptedServer};

use crate::harness::{Harness, call};

/// What STS answers. The harness's clock begins at 2026-01-01T00:00:00Z.
pub(crate) const GRANTED: &str = r#"<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIAEXAMPLE</AccessKeyId>
<SecretAccessKey>secret-of-the-role</SecretAccessKey><SessionToken>session-of-the-role</SessionToken>
<Expiration>2026-01-01T01:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"#;

/// A proxy for a server behind AWS, and its STS.
async fn start() -> (Harness, ScriptedServer) {
    let sts = ScriptedServer::start(|_| Reply::body(200, "text/xml", GRANTED)).await;
    let harness = Harness::start(json!({
        "aws_sts_config": {"region": "eu-central-1", "fallback_role_arn": "arn:aws:iam::123456789012:role/mcp"},
        "skep": {"aws": {"sts_endpoint": sts.url("/")}},
    }));
    (harness.await, sts)
}

#[tokio::test]
async fn a_client_cannot_put_its_own_orders_to_aws_under_the_signature() {
    let (harness, sts) = start().await;
    let forged = [
        ("X-Amz-Security-Token", "forged"),
        ("X-Amz-Date", "19700101T000000Z"),
        ("X-Amz-Target", "Another.Operation"),
        ("Mcp-Session-Id", "s-1"),
    ];
    for _ in 0..3 {
        let answer = harness.post_bytes(&forged, call("tool-0").to_string().as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(sts.requests().len(), 1, "credentials are kept");
    let request = harness.backend.requests().remove(0);
    let [authorization] = request.header_all("authorization")[..] else { panic!("one signature") };
    assert!(
        authorization.starts_with(
            "AWS4-HMAC-SHA256 Credential=ASIAEXAMPLE/20260101/eu-central-1/aws-mcp/aws4_request, \
             SignedHeaders=content-type;host;mcp-session-id;x-amz-content-sha256;x-amz-date;x-amz-security-token, \
             Signature="
        ),
        "{authorization}"
    );
    assert_eq!(request.header_all("x-amz-security-token"), ["session-of-the-role"]);
    assert_eq!(request.header_all("x-amz-date"), ["20260101T000000Z"]);
    assert_eq!(request.header("x-amz-target"), None, "a client gives AWS no orders");
}

#[tokio::test]
async fn every_kind_of_request_is_signed() {
    let (harness, _sts) = start().await;
    harness.send("GET", "/mcp", &[("Accept", "text/event-stream")], b"").await;
    harness.send("DELETE", "/mcp", &[("Mcp-Session-Id", "s")], b"").await;
    harness.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    let requests = harness.backend.requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert!(
            request.header("authorization").unwrap().starts_with("AWS4-HMAC-SHA256 "),
            "{}",
            request.method
        );
    }
}

#[tokio::test]
async fn credentials_that_aws_no_longer_takes_are_renewed_once() {
    let (harness, sts) = start().await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    let refused =
        || Reply::body(403, "application/json", "{}").header("x-amzn-errortype", "ExpiredTokenException");
    let first = std::sync::atomic::AtomicBool::new(true);
    harness.backend.set_handler(move |request| {
        match first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            true => refused(),
            false => well_behaved(request, 3),
        }
    });
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!((sts.requests().len(), harness.backend.requests().len()), (2, 3));

    harness.backend.set_handler(move |_| refused());
    let answer = harness.post(&call("tool-0")).await;
    assert_eq!(answer.status, 502, "once, not for ever");
    assert_eq!(sts.requests().len(), 3);

    harness.backend.set_handler(|_| {
        Reply::body(403, "application/json", "{}").header("x-amzn-errortype", "AccessDeniedException")
    });
    assert_eq!(
        harness.post(&call("tool-0")).await.status,
        403,
        "what the role may not do is the caller's affair"
    );
    assert_eq!(sts.requests().len(), 3);
}

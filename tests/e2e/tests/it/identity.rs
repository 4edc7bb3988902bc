//! Who callers are: opaque tokens that the provider is asked about, and more than one issuer.

use std::fs;

use serde_json::{Value, json};
use skep_testkit::{McpBackend, free_port};

use crate::harness::exchanging::{CALLERS, CONFIDENTIAL, Exchange, Exchanging};
use crate::harness::external::Node;
use crate::harness::http::call_tool;
use crate::harness::idp::Idp;
use crate::harness::up::Up;
use crate::harness::{eventually, skep};

#[tokio::test]
async fn an_opaque_token_is_asked_about_and_once_it_is_revoked_it_is_refused() {
    let name = "identity::an_opaque_token_is_asked_about_and_once_it_is_revoked_it_is_refused";
    let Some(node) = Node::find(name) else { return };
    let idp = Idp::start(&node).await;
    let oidc = format!(
        "introspectionUrl: {}/token/introspection\nclientId: skep\nclientSecretRef: {{name: skep-client, key: secret}}\nintrospection: {{cacheTtl: 1s}}\n",
        idp.issuer
    );
    let scene = Exchanging::with(idp, &Exchange { oidc: &oidc, ..CONFIDENTIAL }).await;
    let token = scene.idp.opaque_token("alice", CALLERS).await;
    let kept = scene.idp.opaque_token("bob", CALLERS).await;
    let jwt = scene.token("carol").await;
    for (token, user) in [(&token, "alice"), (&kept, "bob"), (&jwt, "carol")] {
        let answer = scene.call(token).await;
        assert_eq!(answer.status, 200, "{user}: {answer:?}");
        assert_eq!(scene.last_sent()["sub"], user, "it is exchanged like any other");
    }
    assert_eq!(scene.call("never-issued").await.status, 401);
    let other = scene.idp.opaque_token("alice", "urn:somebody-else").await;
    assert_eq!(scene.call(&other).await.status, 401, "the audience counts here too");

    scene.idp.revoke(&token).await;
    let refused = eventually("the answer that was kept is over", async || {
        let answer = scene.call(&token).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(refused.status, 401, "{refused:?}");
    assert!(refused.header("www-authenticate").unwrap().contains("invalid_token"), "{refused:?}");
    assert_eq!(scene.call(&kept).await.status, 200, "the other one goes on");
    scene.up.audit(1, |record| record["subjects"]["user_id"] == "alice").await;
}

#[tokio::test]
async fn tokens_of_two_issuers_are_let_in_and_no_two_users_are_taken_for_one() {
    let name = "identity::tokens_of_two_issuers_are_let_in_and_no_two_users_are_taken_for_one";
    let Some(node) = Node::find(name) else { return };
    let idp = Idp::start(&node).await;
    let demo = Up::demo().await;
    let (backend, port) = (McpBackend::with_tools(2).await, free_port());
    let partner = demo.ready["issuer"].as_str().unwrap();
    let manifest = format!(
        r#"apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPRemoteProxy
metadata:
  name: both
spec:
  remoteUrl: {}
  proxyPort: {port}
  clientToken: strip
  oidcConfig:
    type: inline
    resourceUrl: http://127.0.0.1:{port}/mcp
    inline:
      issuer: {}
      audience: {CALLERS}
      insecureAllowHTTP: true
      jwksAllowPrivateIP: true
      additionalIssuers:
        - subjectPrefix: "partner:"
          issuer: {partner}
          insecureAllowHTTP: true
  authzConfig:
    type: inline
    inline:
      policies:
        - permit(principal, action == Action::"call_tool", resource == Tool::"tool-0");
        - permit(principal == Client::"alice", action == Action::"call_tool", resource == Tool::"tool-1");
  audit:
    enabled: true
"#,
        backend.mcp_url(),
        idp.issuer,
    );
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("both.yaml"), manifest).unwrap();
    let up = Up::of(home.path()).await;
    let url = up.url("MCPRemoteProxy", "both");

    let ours = idp.token("alice", CALLERS).await;
    let run = skep::run(demo.home(), ["token", "--user", "alice", "--audience", CALLERS]).await;
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let theirs = run.stdout.trim_end().to_owned();
    for token in [&ours, &theirs] {
        let answer = call_tool(&url, Some(token), "tool-0", json!({})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let records = up.audit(2, |record: &Value| record["target"]["name"] == "tool-0").await;
    let users: Vec<&Value> = records.iter().map(|record| &record["subjects"]["user_id"]).collect();
    assert_eq!(users, ["alice", "partner:alice"]);
    assert_eq!(call_tool(&url, Some(&ours), "tool-1", json!({})).await.status, 200);
    assert_eq!(
        call_tool(&url, Some(&theirs), "tool-1", json!({})).await.status,
        403,
        "the other issuer's alice is somebody else"
    );
}

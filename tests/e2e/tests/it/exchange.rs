//! Callers' tokens, exchanged at a real OpenID provider for tokens that the MCP server wants.

use std::sync::Arc;

use serde_json::{Value, json};
use skep_testkit::Reply;
use skep_testkit::backend::well_behaved;

use crate::harness::exchanging::{BACKEND, CALLERS, CONFIDENTIAL, Exchange, Exchanging};
use crate::harness::external::Node;
use crate::harness::http::{call_tool, call_tool_over, client, get};
use crate::harness::idp::Idp;

#[tokio::test]
async fn the_server_sees_the_exchanged_token_and_never_the_callers_own() {
    let name = "exchange::the_server_sees_the_exchanged_token_and_never_the_callers_own";
    let Some(node) = Node::find(name) else { return };
    let scene = Exchanging::start(&node).await;
    let token = scene.token("alice").await;

    let answer = scene.call(&token).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let sent = scene.last_sent();
    assert_eq!(sent["sub"], "alice", "{sent}");
    assert_eq!(sent["aud"], BACKEND, "{sent}");
    assert_eq!(sent["iss"], scene.idp.issuer, "{sent}");
    assert_eq!(sent["client_id"], "skep", "{sent}");
    assert_eq!(sent["act"], json!({"sub": "skep"}), "{sent}");

    // Who may not come in gets no token made.
    assert_eq!(scene.call("nonsense").await.status, 401);
    let stranger = scene.idp.token("alice", "urn:somebody-else").await;
    assert_eq!(scene.call(&stranger).await.status, 401);
    assert_eq!(call_tool(&scene.url, None, "tool-0", json!({})).await.status, 401);
    assert_eq!(scene.idp.exchanges().await.asked, 1);
    assert_eq!(scene.backend.requests().len(), 1);
    scene.assert_never_sent(&[token.clone(), stranger]);

    // The audit record says for whom and for what, and nothing that could be used.
    let record = scene.up.audit(1, |record| record["subjects"]["user_id"] == "alice").await.remove(0);
    let text = record.to_string();
    assert!(text.contains(BACKEND), "{text}");
    let sent = scene.backend.requests()[0].header("authorization").unwrap().to_owned();
    for text in [scene.up.stdout.text(), scene.up.stderr.text()] {
        for secret in [token.rsplit('.').next(), sent.rsplit('.').next(), Some("skep-secret")] {
            assert!(!text.contains(secret.unwrap()), "{text}");
        }
    }
}

#[tokio::test]
async fn ten_thousand_calls_by_a_hundred_users_make_a_hundred_exchanges() {
    let name = "exchange::ten_thousand_calls_by_a_hundred_users_make_a_hundred_exchanges";
    let Some(node) = Node::find(name) else { return };
    const USERS: usize = 100;
    const CALLS: usize = 10_000;
    const AT_ONCE: usize = 64;
    let scene = Exchanging::start(&node).await;
    let tokens = Arc::new(scene.idp.tokens_of(USERS, CALLERS).await);
    let client = client();
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..AT_ONCE {
        let (client, url, tokens) = (client.clone(), scene.url.clone(), Arc::clone(&tokens));
        workers.spawn(async move {
            for number in (worker..CALLS).step_by(AT_ONCE) {
                // Eight calls of each user are on the way at the same time.
                let token = &tokens[number / 8 % USERS];
                let answer = call_tool_over(&client, &url, Some(token), "tool-0", json!({})).await;
                assert_eq!(answer.status, 200, "call {number}: {answer:?}");
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    let exchanges = scene.idp.exchanges().await;
    assert_eq!((exchanges.asked, exchanges.issued), (100, 100));
    assert_eq!(scene.backend.requests().len(), CALLS);
    scene.assert_never_sent(&tokens);

    let metrics = get(scene.up.ready["metrics"].as_str().unwrap()).await.body;
    let counted = metrics.lines().any(|line| {
        line.starts_with("toolhive_remote_proxy_token_exchanges_total{")
            && line.contains("result=\"success\"")
            && line.ends_with(" 100")
    });
    assert!(counted, "a hundred exchanges in:\n{metrics}");
}

#[tokio::test]
async fn while_the_provider_is_away_known_callers_go_on_and_new_ones_are_asked_to_come_back() {
    let name = "exchange::while_the_provider_is_away_known_callers_go_on_and_new_ones_are_asked_to_come_back";
    let Some(node) = Node::find(name) else { return };
    let mut scene = Exchanging::start(&node).await;
    let (warm, new) = (scene.token("warm").await, scene.token("new").await);
    assert_eq!(scene.call(&warm).await.status, 200);

    scene.idp.kill().await;
    for _ in 0..20 {
        assert_eq!(scene.call(&warm).await.status, 200);
        let away = scene.call(&new).await;
        assert_eq!(away.status, 503, "{away:?}");
        let retry_after: u64 = away.header("retry-after").expect("Retry-After").parse().unwrap();
        assert!((1..=300).contains(&retry_after), "{retry_after}");
        assert!(away.header("www-authenticate").is_none(), "another login would not help: {away:?}");
    }

    scene.idp.restart().await;
    let back = scene.call(&new).await;
    assert_eq!(back.status, 200, "{back:?}");
    assert_eq!(scene.last_sent()["sub"], "new");
    let latest = scene.token("latest").await;
    assert_eq!(scene.call(&latest).await.status, 200);
    assert_eq!(scene.call(&warm).await.status, 200);
    assert_eq!(scene.idp.exchanges().await.asked, 2, "the restarted provider was asked for two users only");
}

#[tokio::test]
async fn the_proxy_can_prove_itself_in_every_way_that_the_provider_knows() {
    let name = "exchange::the_proxy_can_prove_itself_in_every_way_that_the_provider_knows";
    let Some(node) = Node::find(name) else { return };
    let reference = "clientSecretRef: {name: skep-client, key: secret}\n";
    let table = [
        ("skep", format!("{reference}clientAuth: client_secret_basic\n")),
        ("skep-post", format!("{reference}clientAuth: client_secret_post\n")),
        ("skep-key", format!("{reference}clientAuth: private_key_jwt\nclientKeyId: client-key\n")),
        ("skep-public", String::new()),
    ];
    for (id, lines) in table {
        let idp = Idp::start(&node).await;
        let secret = if id == "skep-key" { idp.client_key() } else { format!("{id}-secret") };
        let lines = format!("clientId: {id}\naudience: {BACKEND}\n{lines}");
        let exchange = Exchange { lines: &lines, oidc: "", secret: &secret };
        let scene = Exchanging::with(idp, &exchange).await;
        for user in ["alice", "bob"] {
            let answer = scene.call(&scene.token(user).await).await;
            assert_eq!(answer.status, 200, "{id}: {answer:?}");
            let sent = scene.last_sent();
            assert_eq!((&sent["sub"], &sent["client_id"]), (&json!(user), &json!(id)));
        }
        assert_eq!(scene.idp.exchanges().await.issued, 2, "{id}");
    }
}

#[tokio::test]
async fn as_a_service_account_the_proxy_calls_with_one_token_of_its_own_for_everybody() {
    let name = "exchange::as_a_service_account_the_proxy_calls_with_one_token_of_its_own_for_everybody";
    let Some(node) = Node::find(name) else { return };
    let lines = format!(
        "grantType: client_credentials\nclientId: skep\nresource: {BACKEND}\nclientSecretRef: {{name: skep-client, key: secret}}\n"
    );
    let exchange = Exchange { lines: &lines, ..CONFIDENTIAL };
    let scene = Exchanging::with(Idp::start(&node).await, &exchange).await;
    let tokens = [scene.token("alice").await, scene.token("bob").await];
    for token in tokens.iter().cycle().take(20) {
        let answer = scene.call(token).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let sent = scene.last_sent();
        assert_eq!((&sent["sub"], &sent["aud"]), (&json!("skep"), &json!(BACKEND)), "{sent}");
    }
    let exchanges = scene.idp.exchanges().await;
    assert_eq!((exchanges.service, exchanges.asked), (1, 0));
    scene.assert_never_sent(&tokens);
    assert_eq!(scene.call("nonsense").await.status, 401, "callers still have to say who they are");
}

#[tokio::test]
async fn a_token_in_a_header_of_its_own_comes_without_the_callers_authorization() {
    let name = "exchange::a_token_in_a_header_of_its_own_comes_without_the_callers_authorization";
    let Some(node) = Node::find(name) else { return };
    let lines = format!("{}\nexternalTokenHeaderName: X-Backend-Token\n", CONFIDENTIAL.lines);
    let exchange = Exchange { lines: &lines, ..CONFIDENTIAL };
    let scene = Exchanging::with(Idp::start(&node).await, &exchange).await;
    let token = scene.token("alice").await;
    assert_eq!(scene.call(&token).await.status, 200);
    let sent = scene.backend.requests().pop().unwrap();
    assert_eq!(sent.header("authorization"), None);
    let claims = crate::harness::exchanging::claims(sent.header("x-backend-token").unwrap());
    assert_eq!(claims["aud"], BACKEND);
    scene.assert_never_sent(&[token]);
}

#[tokio::test]
async fn a_token_that_the_server_refuses_is_exchanged_anew_and_the_caller_sees_nothing_of_it() {
    let name =
        "exchange::a_token_that_the_server_refuses_is_exchanged_anew_and_the_caller_sees_nothing_of_it";
    let Some(node) = Node::find(name) else { return };
    let scene = Exchanging::start(&node).await;
    let token = scene.token("alice").await;
    assert_eq!(scene.call(&token).await.status, 200);

    // The server has lost its faith in the token, as after a change of its own keys.
    let old = scene.backend.requests()[0].header("authorization").unwrap().to_owned();
    scene.backend.set_handler(move |request| match request.header("authorization") {
        Some(sent) if sent == old => {
            Reply::status(401).header("WWW-Authenticate", "Bearer error=\"invalid_token\"")
        }
        _ => well_behaved(request, 2),
    });
    for _ in 0..3 {
        let answer = scene.call(&token).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(scene.idp.exchanges().await.issued, 2);

    // One that takes none at all is not asked for ever, and the caller's own login is not at fault.
    scene.backend.set_handler(|_| Reply::status(401));
    let before = scene.idp.exchanges().await.issued;
    let answer = scene.call(&token).await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(scene.idp.exchanges().await.issued - before <= 2);
}

/// What skep answers when an exchange fails.
struct Row {
    fault: &'static str,
    status: u16,
    retry_after: Option<&'static str>,
}

const fn row(fault: &'static str, status: u16, retry_after: Option<&'static str>) -> Row {
    Row { fault, status, retry_after }
}

#[tokio::test]
async fn each_way_in_which_the_provider_fails_has_its_answer_and_none_is_kept() {
    let name = "exchange::each_way_in_which_the_provider_fails_has_its_answer_and_none_is_kept";
    let Some(node) = Node::find(name) else { return };
    let scene = Exchanging::start(&node).await;
    let table = [
        // The proxy's own fault: its operator has to mend something.
        row("invalid_client", 502, None),
        row("unauthorized_client", 502, None),
        row("unsupported_grant_type", 502, None),
        row("invalid_target", 502, None),
        row("invalid_scope", 502, None),
        // What is no answer to an exchange.
        row("redirect", 502, None),
        row("html", 502, None),
        row("wrong_type", 502, None),
        // What goes by.
        row("error_500", 503, Some("5")),
        row("busy_429", 503, Some("7")),
        row("down_503", 503, Some("5")),
        row("cut", 503, Some("5")),
    ];
    for Row { fault, status, retry_after } in table {
        let token = scene.token(fault).await;
        scene.idp.fail(fault).await;
        let before = scene.idp.exchanges().await.asked;
        for _ in 0..2 {
            let answer = scene.call(&token).await;
            assert_eq!(answer.status, status, "{fault}: {answer:?}");
            assert_eq!(answer.header("retry-after"), retry_after, "{fault}: {answer:?}");
            assert_eq!(answer.header("www-authenticate"), None, "{fault}: another login does not help");
            let message = answer.message();
            assert_eq!(message["error"]["code"], status, "{fault}: {message}");
            assert_eq!(message["id"], 1, "{fault}: {message}");
            let text = message["error"]["message"].as_str().unwrap();
            assert!(!text.contains("127.0.0.1") && !text.contains("as the test wants it"), "{fault}: {text}");
        }
        let asked = scene.idp.exchanges().await.asked - before;
        assert!(asked >= 2, "{fault}: the second call asked again ({asked})");
        let state = credential(&scene).await;
        assert_eq!(state["ready"], false, "{fault}: {state}");
        scene.idp.fail("").await;
        assert_eq!(scene.call(&token).await.status, 200, "{fault}: it works as soon as the provider does");
        assert_eq!(credential(&scene).await["ready"], true, "{fault}");
    }
    // The operator learns which fault it is, and the audit log that it was no decision of a policy.
    scene.idp.fail("invalid_target").await;
    scene.call(&scene.token("last").await).await;
    let said = credential(&scene).await;
    assert_eq!((&said["reason"], &said["code"]), (&json!("Refused"), &json!("invalid_target")));
    let failed = |record: &Value| record["subjects"]["user_id"] == "last";
    assert_eq!(scene.up.audit(1, failed).await[0]["outcome"], "error");
}

/// What `/status` says of the proxy's credential.
async fn credential(scene: &Exchanging) -> Value {
    let url = scene.up.ready["metrics"].as_str().unwrap().replace("/metrics", "/status");
    get(&url).await.message()["proxies"][0]["credential"].clone()
}

#[tokio::test]
async fn a_refused_token_is_challenged_once_and_a_newer_one_of_the_same_user_is_not() {
    let name = "exchange::a_refused_token_is_challenged_once_and_a_newer_one_of_the_same_user_is_not";
    let Some(node) = Node::find(name) else { return };
    let lines = format!("{}\ncache: {{negativeTtl: 2s}}\n", CONFIDENTIAL.lines);
    let scene = Exchanging::with(Idp::start(&node).await, &Exchange { lines: &lines, ..CONFIDENTIAL }).await;
    for fault in ["invalid_request", "invalid_grant"] {
        let first = scene.token(fault).await;
        let second = scene.token(fault).await;
        scene.idp.fail(fault).await;
        let before = scene.idp.exchanges().await.asked;
        for _ in 0..3 {
            let answer = scene.call(&first).await;
            assert_eq!(answer.status, 401, "{fault}: {answer:?}");
            let challenge = answer.header("www-authenticate").expect("a challenge");
            assert!(challenge.starts_with("Bearer ") && challenge.contains("invalid_token"), "{challenge}");
            assert!(challenge.contains("resource_metadata="), "{challenge}");
            assert_eq!(serde_json::from_str::<Value>(&answer.body).unwrap()["error"], "invalid_token");
        }
        assert_eq!(
            scene.idp.exchanges().await.asked - before,
            1,
            "{fault}: the refusal is kept for a moment"
        );
        // The user has logged in again, and it did not help: no client shall go in circles.
        let again = scene.call(&second).await;
        assert_eq!(again.status, 403, "{fault}: {again:?}");
        assert_eq!(again.header("www-authenticate"), None, "{fault}: {again:?}");
        assert_eq!(again.message()["error"]["code"], 403, "{fault}: {again:?}");

        scene.idp.fail("").await;
        crate::harness::eventually("the refusal is forgotten", async || {
            (scene.call(&first).await.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_provider_that_does_not_answer_is_not_waited_for_and_nobody_else_waits_with_it() {
    let name = "exchange::a_provider_that_does_not_answer_is_not_waited_for_and_nobody_else_waits_with_it";
    let Some(node) = Node::find(name) else { return };
    let scene = Exchanging::start(&node).await;
    let (warm, new) = (scene.token("warm").await, scene.token("new").await);
    assert_eq!(scene.call(&warm).await.status, 200);
    scene.idp.fail("hang").await;
    let begun = std::time::Instant::now();
    let (hanging, others) = tokio::join!(scene.call(&new), async {
        for _ in 0..50 {
            assert_eq!(scene.call(&warm).await.status, 200);
        }
        begun.elapsed()
    });
    assert_eq!(hanging.status, 503, "{hanging:?}");
    assert!(hanging.header("retry-after").is_some(), "{hanging:?}");
    let waited = begun.elapsed();
    assert!((8..25).contains(&waited.as_secs()), "{waited:?}");
    assert!(others < waited, "others had their answers before: {others:?}");
    scene.idp.fail("").await;
    assert_eq!(scene.call(&new).await.status, 200);
}

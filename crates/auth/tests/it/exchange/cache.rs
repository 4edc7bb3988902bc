//! What is kept, for how long, and how often the endpoint is asked.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use skep_api::secret::Secret;
use skep_auth::exchange::{Grant, TokenType};
use skep_testkit::server::{Framing, Step};
use skep_testkit::{Gate, Recorded, Reply, token_endpoint};

use super::{Bench, header};

/// A token that says for whom it is.
fn echo(request: &Recorded) -> Reply {
    token_endpoint::issued(&format!("for-{}", request.form_field("subject_token").replace('/', "-")), 300)
}

/// The same, once the gate is open.
fn held(gate: &Gate, request: &Recorded) -> Reply {
    let body = token_endpoint::answer(&format!("for-{}", request.form_field("subject_token")), 300);
    Reply::status(200)
        .header("Content-Type", "application/json")
        .framing(Framing::Chunked)
        .step(Step::Wait(gate.clone()))
        .step(Step::Send(body.to_string().into()))
}

#[tokio::test]
async fn a_thousand_callers_of_one_subject_make_one_call() {
    let gate = Gate::new();
    let closed = gate.clone();
    let bench = Arc::new(Bench::start(move |request| held(&closed, request)).await);
    let callers: Vec<_> = (0..1000)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.value("t").await })
        })
        .collect();
    bench.server.wait_for_requests(1).await;
    gate.open();
    for caller in callers {
        assert_eq!(caller.await.unwrap(), "Bearer for-t");
    }
    assert_eq!(bench.calls(), 1);
    assert_eq!(bench.results().len(), 1);
    assert!(bench.token("t").await.unwrap().1);
    assert_eq!((bench.calls(), bench.hits()), (1, 1));
}

#[tokio::test]
async fn a_call_goes_on_when_the_caller_who_began_it_hangs_up() {
    let gate = Gate::new();
    let closed = gate.clone();
    let bench = Arc::new(Bench::start(move |request| held(&closed, request)).await);
    let leader = tokio::spawn({
        let bench = Arc::clone(&bench);
        async move { bench.value("t").await }
    });
    bench.server.wait_for_requests(1).await;
    let follower = tokio::spawn({
        let bench = Arc::clone(&bench);
        async move { bench.value("t").await }
    });
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    gate.open();
    assert_eq!(follower.await.unwrap(), "Bearer for-t");
    assert_eq!(bench.calls(), 1);
}

#[tokio::test]
async fn every_subject_token_has_a_token_of_its_own() {
    let bench = Bench::start(echo).await;
    for round in 0..10 {
        for user in 0..10 {
            let token = format!("u{user}/t");
            let (found, kept) = bench.token(&token).await.unwrap();
            assert_eq!(header(&found), format!("Bearer for-u{user}-t"));
            assert_eq!(kept, round > 0);
        }
    }
    assert_eq!((bench.calls(), bench.hits()), (10, 90));
    bench.value("u1/newer").await;
    assert_eq!(bench.calls(), 11, "a newer token of the same subject is another token");
}

#[tokio::test]
async fn a_token_is_kept_as_long_as_it_and_the_subjects_token_last() {
    // expires_in of the answer, seconds left of the subject's token, cap, seconds that it is kept.
    let table: [(Value, i64, Option<u64>, u64); 17] = [
        (json!(300), 3600, None, 270),
        (json!("300"), 3600, None, 270),
        (json!(300), 100, None, 70),
        (json!(300), 330, None, 270),
        (json!(31), 3600, None, 1),
        (json!(30), 3600, None, 0),
        (json!(29), 3600, None, 0),
        (json!(0), 3600, None, 0),
        (json!(-300), 3600, None, 0),
        (json!(300), 30, None, 0),
        (json!(300), 0, None, 0),
        (json!(300), -10, None, 0),
        (Value::Null, 3600, None, 60),
        (Value::Null, 50, None, 20),
        (json!(300), 3600, Some(40), 40),
        (json!(300), 3600, Some(0), 0),
        (json!(u64::MAX), i64::MAX / 2, Some(86_400), 86_400),
    ];
    for (expires_in, left, cap, expected) in table {
        let name = format!("{expires_in} {left} {cap:?}");
        let answer = expires_in.clone();
        let bench = Bench::with(
            move |_| {
                let mut body = token_endpoint::answer("exchanged", 0);
                body["expires_in"] = answer.clone();
                Reply::json(&body)
            },
            |settings| settings.ttl_cap = cap.map(Duration::from_secs),
        )
        .await;
        let subject = bench.subject("t", left);
        let ask = async || bench.exchanger.token(Some(subject)).await.unwrap().1;
        assert!(!ask().await, "{name}");
        if expected > 0 {
            bench.clock.advance(Duration::from_secs(expected) - Duration::from_millis(1));
            assert!(ask().await, "{name}: kept until just before");
            bench.clock.advance(Duration::from_millis(1));
        }
        assert!(!ask().await, "{name}: and no longer");
    }
}

#[tokio::test]
async fn a_token_that_the_backend_refused_is_forgotten_and_a_newer_one_stays() {
    let bench = Bench::start(echo).await;
    let first = bench.token("t").await.unwrap().0;
    bench.exchanger.evict(&first);
    let (second, kept) = bench.token("t").await.unwrap();
    assert!(!kept);
    // Two requests went out with the first token, and the second refusal comes late.
    bench.exchanger.evict(&first);
    assert!(bench.token("t").await.unwrap().1);
    bench.exchanger.evict(&second);
    assert!(!bench.token("t").await.unwrap().1);
    assert_eq!(bench.calls(), 3);
}

#[tokio::test]
async fn tokens_of_one_actor_are_not_used_for_another() {
    let jwt = |claims: Value| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let grant = |token: String| Grant::TokenExchange {
        subject_type: TokenType::AccessToken,
        actor: Some((Secret::new(token), TokenType::Jwt)),
    };
    let service = |number: u64, name: &str| {
        jwt(json!({"iss": "https://k8s", "sub": name, "exp": 9_000_000_000 + number}))
    };
    let bench = Bench::with(echo, |settings| settings.grant = grant(service(1, "a"))).await;
    bench.token("t").await.unwrap();
    let mut settings = bench.settings.clone();

    settings.grant = grant(service(2, "a"));
    assert!(bench.exchanger.renew(&settings).unwrap());
    assert!(bench.token("t").await.unwrap().1, "a renewed token of the same actor");
    bench.token("other").await.unwrap();
    assert_eq!(bench.server.requests()[1].form_field("actor_token"), service(2, "a"));

    settings.grant = grant(service(2, "b"));
    assert!(bench.exchanger.renew(&settings).unwrap());
    assert!(!bench.token("t").await.unwrap().1, "another actor");

    settings.grant = Grant::TokenExchange { subject_type: TokenType::AccessToken, actor: None };
    assert!(!bench.exchanger.renew(&settings).unwrap(), "whether there is an actor is not a credential");
}

#[tokio::test]
async fn only_credentials_can_be_renewed() {
    let bench = Bench::start(echo).await;
    bench.token("t").await.unwrap();
    type Change = fn(&mut skep_auth::exchange::ExchangeSettings);
    let table: [(&str, Change); 8] = [
        ("audience", |s| s.audience = "https://other.example".to_owned()),
        ("scopes", |s| s.scopes = vec!["a".to_owned()]),
        ("resource", |s| s.resource = "https://other.example".to_owned()),
        ("endpoint", |s| s.token_url = "https://other.example/token".parse().unwrap()),
        ("client", |s| s.client_id = "other".to_owned()),
        ("method", |s| s.client_auth = skep_auth::exchange::ClientAuth::SecretPost(Secret::new("s3cret"))),
        ("grant", |s| s.grant = Grant::ClientCredentials),
        ("reach", |s| s.reach.private = false),
    ];
    for (what, change) in table {
        let mut settings = bench.settings.clone();
        change(&mut settings);
        assert!(!bench.exchanger.renew(&settings).unwrap(), "{what}");
    }
    let mut settings = bench.settings.clone();
    settings.client_auth = skep_auth::exchange::ClientAuth::SecretBasic(Secret::new("renewed"));
    assert!(bench.exchanger.renew(&settings).unwrap());
    assert!(bench.token("t").await.unwrap().1, "what was kept is kept");
    settings.client_auth = skep_auth::exchange::ClientAuth::SecretBasic(Secret::new(""));
    assert!(bench.exchanger.renew(&settings).is_err(), "an empty secret is none");
    bench.token("u").await.unwrap();
    let sent = bench.server.requests()[1].header("authorization").unwrap().to_owned();
    use base64::engine::general_purpose::STANDARD;
    assert_eq!(sent, format!("Basic {}", STANDARD.encode("proxy:renewed")), "the last good one is in use");
}

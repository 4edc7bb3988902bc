//! The issuer's keys: fetched once, kept, renewed, withdrawn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use skep_testkit::idp::Alg;
use skep_testkit::{FakeIdp, ManualClock, Outage, Reply, ScriptedServer, raw};

use crate::harness::{AUDIENCE, Harness, call, eventually, soon, until};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

async fn status(harness: &Harness, token: &str) -> u16 {
    raw::post_rpc(harness.address, "/mcp", Some(token), &call("tool-0")).await.status
}

#[tokio::test]
async fn without_any_keys_nobody_is_let_in_until_the_issuer_is_back() {
    for outage in [Outage::Refused, Outage::Status(500), Outage::Status(302), Outage::Status(404)] {
        let harness = Harness::start(json!({})).await;
        harness.idp.fail(outage).await;
        let answer = harness.post(&call("tool-0")).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{outage:?}");
        let expected = json!({"error": "temporarily_unavailable", "error_description": "the issuer's keys cannot be fetched; try again later"});
        assert_eq!(answer.json(), expected);
        assert_eq!(answer.header("www-authenticate"), None, "it is not the caller's fault");
        // What can never be a token is told so all the same.
        assert_eq!(status(&harness, "garbage").await, 401);
        let unsigned = harness.mint(|token| token.unsigned());
        assert_eq!(status(&harness, &unsigned).await, 401);
        assert_eq!(harness.backend.connections(), 0);
        harness.idp.up().await;
        harness.clock.advance(Duration::from_secs(2));
        assert_eq!(harness.post(&call("tool-0")).await.status, 200, "{outage:?}");
        assert_eq!(harness.audit.wait(1).await[0]["outcome"], "error");
        let counter = "toolhive_remote_proxy_token_validations_total{proxy=\"demo\",result=\"unavailable\"}";
        assert!(harness.metric(counter) == 1.0);
    }
}

#[tokio::test]
async fn documents_that_are_no_keys_of_this_issuer_let_nobody_in() {
    let harness = Harness::start(json!({})).await;
    harness.idp.set_discovery_issuer("https://impostor.example");
    assert_eq!(harness.post(&call("tool-0")).await.status, 503);
    assert_eq!(harness.idp.jwks_hits(), 0, "keys of a stranger are not even fetched");
    for document in [
        "",
        "not json",
        "[]",
        "{}",
        "{\"keys\":[]}",
        "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\",\"alg\":\"HS256\"}]}",
    ] {
        let harness = Harness::start(json!({})).await;
        harness.idp.set_jwks(Some(document));
        assert_eq!(harness.post(&call("tool-0")).await.status, 503, "{document}");
    }
    let harness = Harness::start(json!({})).await;
    harness.idp.set_jwks(Some(&format!("{{\"pad\":\"{}\",\"keys\":[]}}", "x".repeat(2 << 20))));
    assert_eq!(harness.post(&call("tool-0")).await.status, 503);
}

#[tokio::test]
async fn keys_at_hand_serve_for_a_day_without_the_issuer() {
    let harness = Harness::start(json!({})).await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(harness.idp.jwks_hits(), 1);
    harness.idp.down().await;
    for _ in 0..23 {
        harness.clock.advance(HOUR);
        assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    }
    assert_eq!(harness.proxy.status()["authentication"]["available"], true);
    harness.clock.advance(HOUR);
    assert_eq!(harness.post(&call("tool-0")).await.status, 503, "after 24 h nobody knows what was withdrawn");
    assert_eq!(harness.proxy.status()["authentication"]["available"], false);
    harness.idp.up().await;
    harness.clock.advance(Duration::from_secs(2));
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert!(
        harness.metric("skep_jwks_refresh_failures_total{proxy=\"demo\"}") >= 2.0,
        "{}",
        harness.metrics_text()
    );
}

#[tokio::test]
async fn a_key_that_was_withdrawn_opens_nothing_after_the_next_refresh() {
    let harness = Harness::start(json!({})).await;
    let old = harness.mint(|token| token.expires_in(7200));
    assert_eq!(status(&harness, &old).await, 200);
    harness.idp.rotate();
    assert_eq!(status(&harness, &old).await, 200, "nobody has asked the issuer yet");
    harness.clock.advance(6 * MINUTE);
    // This call is still answered with the old keys, and starts the refresh behind it.
    status(&harness, &old).await;
    until("the refresh", || harness.idp.jwks_hits() == 2).await;
    eventually("the old key is refused", async || status(&harness, &old).await == 401).await;
}

#[tokio::test]
async fn a_token_that_was_good_ends_with_its_time() {
    let harness = Harness::start(json!({})).await;
    let token = harness.mint(|token| token.expires_in(60));
    assert_eq!(status(&harness, &token).await, 200);
    harness.clock.advance(Duration::from_secs(89));
    assert_eq!(status(&harness, &token).await, 200, "within the leeway");
    harness.clock.advance(Duration::from_secs(1));
    assert_eq!(status(&harness, &token).await, 401);
    // The clock of the machine was wrong and is set back: a token from the future is not good yet.
    let token = harness.mint(|token| token.not_before_in(0));
    assert_eq!(status(&harness, &token).await, 200);
    harness.clock.set_wall(1_767_000_000);
    assert_eq!(status(&harness, &token).await, 401);
}

#[tokio::test]
async fn a_token_that_is_cached_is_not_good_under_another_spelling() {
    let harness = Harness::start(json!({})).await;
    let token = harness.token("alice");
    assert_eq!(status(&harness, &token).await, 200);
    let (message, signature) = token.rsplit_once('.').unwrap();
    // The last character of a base64url text has bits that say nothing; a strict reader refuses them.
    let last = signature.chars().last().unwrap();
    for other in ["A", "B", "Q", "g", "w", "="] {
        if other.starts_with(last) {
            continue;
        }
        let changed = format!("{message}.{}{other}", signature.strip_suffix(last).unwrap());
        assert_eq!(status(&harness, &changed).await, 401, "{other}");
    }
    assert_eq!(status(&harness, &format!("{message}.{signature}=")).await, 401);
    assert_eq!(status(&harness, &token).await, 200);
}

#[tokio::test]
async fn new_keys_are_found_at_once_but_an_unknown_one_asks_only_every_30_seconds() {
    let harness = Harness::start(json!({})).await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    harness.idp.rotate();
    assert_eq!(harness.post(&call("tool-0")).await.status, 200, "a new key id makes the proxy ask");
    assert_eq!(harness.idp.jwks_hits(), 2);
    for round in 0..20 {
        let stranger = harness.mint(|token| token.header("kid", format!("made-up-{round}")));
        assert_eq!(status(&harness, &stranger).await, 401);
    }
    assert_eq!(harness.idp.jwks_hits(), 2, "strangers cannot make us call the issuer");
    harness.clock.advance(Duration::from_secs(29));
    harness.idp.rotate();
    assert_eq!(harness.post(&call("tool-0")).await.status, 401);
    harness.clock.advance(Duration::from_secs(1));
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(harness.idp.jwks_hits(), 3);
}

#[tokio::test]
async fn an_unknown_key_while_the_issuer_is_away_does_not_shut_the_others_out() {
    let harness = Harness::start(json!({})).await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    harness.idp.down().await;
    let stranger = harness.mint(|token| token.unknown_kid());
    assert_eq!(status(&harness, &stranger).await, 401);
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
}

#[tokio::test]
async fn fifty_callers_at_once_fetch_the_keys_once() {
    let harness = Harness::start(json!({})).await;
    let message = call("tool-0");
    let post = || harness.post(&message);
    let answers = futures_util::future::join_all((0..50).map(|_| post())).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!((harness.idp.discovery_hits(), harness.idp.jwks_hits()), (1, 1));
    harness.idp.rotate();
    let answers = futures_util::future::join_all((0..50).map(|_| post())).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(harness.idp.jwks_hits(), 2);
    harness.clock.advance(6 * MINUTE);
    let answers = futures_util::future::join_all((0..50).map(|_| post())).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    until("the refresh", || harness.idp.jwks_hits() == 3).await;
}

#[tokio::test]
async fn an_issuer_that_hangs_holds_callers_up_once_and_together() {
    let harness = Harness::start(json!({})).await;
    harness.idp.fail(Outage::Hang).await;
    let started = Instant::now();
    let message = call("tool-0");
    let post = || harness.post(&message);
    let answers = futures_util::future::join_all((0..20).map(|_| post())).await;
    assert!(answers.iter().all(|answer| answer.status == 503));
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    // Keys that are at hand don't wait for an issuer that hangs, not even when they are due.
    let harness = Harness::start(json!({})).await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    harness.idp.fail(Outage::Hang).await;
    harness.clock.advance(6 * MINUTE);
    let started = Instant::now();
    let message = call("tool-0");
    let post = || harness.post(&message);
    let answers = futures_util::future::join_all((0..20).map(|_| post())).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_stranger_with_an_unknown_key_does_not_block_callers_with_known_ones() {
    let harness = Harness::start(json!({})).await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    harness.idp.fail(Outage::Hang).await;
    let stranger = harness.mint(|token| token.unknown_kid());
    let (address, hanging) = (harness.address, stranger.clone());
    let waiting =
        tokio::spawn(
            async move { raw::post_rpc(address, "/mcp", Some(&hanging), &call("tool-0")).await.status },
        );
    soon("the issuer is asked", harness.idp.server().wait_for_requests(3)).await;
    let started = Instant::now();
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert!(started.elapsed() < Duration::from_secs(2));
    waiting.abort();
}

#[tokio::test]
async fn odd_but_usable_key_sets_are_used() {
    let harness = Harness::start(json!({})).await;
    harness.idp.omit_alg();
    harness.idp.publish_also([
        json!({"kty": "RSA", "use": "enc", "kid": "rsa-1", "n": "AQAB", "e": "AQAB"}),
        json!({"kty": "oct", "kid": "rsa-1", "k": "c2VjcmV0", "alg": "HS256"}),
        json!({"kty": "quantum", "kid": "rsa-1"}),
        json!("nonsense"),
    ]);
    for alg in [Alg::Rs256, Alg::Ps256, Alg::Es256, Alg::EdDsa] {
        let token = harness.mint(|token| token.alg(alg));
        assert_eq!(status(&harness, &token).await, 200, "{alg:?}");
    }
    let confused = harness.mint(|token| token.hmac_with_public_key());
    assert_eq!(status(&harness, &confused).await, 401);
}

#[tokio::test]
async fn one_key_id_may_stand_for_keys_of_two_kinds() {
    let harness = Harness::start(json!({})).await;
    let mut ec = harness.idp.key(Alg::Es256).jwk(true);
    ec["kid"] = json!("shared");
    let mut rsa = harness.idp.key(Alg::Rs256).jwk(true);
    rsa["kid"] = json!("shared");
    harness.idp.publish_also([ec, rsa]);
    for alg in [Alg::Es256, Alg::Rs256] {
        let token = harness.mint(|token| token.alg(alg).header("kid", "shared"));
        assert_eq!(status(&harness, &token).await, 200, "{alg:?}");
    }
}

#[tokio::test]
async fn a_token_that_names_no_key_is_refused_where_several_could_be_meant() {
    let harness = Harness::start(json!({})).await;
    let token = harness.mint(|token| token.without_header("kid"));
    assert_eq!(status(&harness, &token).await, 200);
    let several = Harness::start(json!({})).await;
    several.idp.add_keys();
    let token = several.mint(|token| token.without_header("kid"));
    assert_eq!(status(&several, &token).await, 401);
}

#[tokio::test]
async fn only_the_allowed_algorithms_count() {
    let harness = Harness::start(json!({"skep": {"issuer": {"allowed_algorithms": ["ES256"]}}})).await;
    let token = harness.mint(|token| token.alg(Alg::Es256));
    assert_eq!(status(&harness, &token).await, 200);
    assert_eq!(status(&harness, &harness.token("alice")).await, 401);
}

#[tokio::test]
async fn keys_can_be_named_without_discovery() {
    let idp = FakeIdp::with_clock(Arc::new(ManualClock::default())).await;
    let harness =
        Harness::start(json!({"oidc_config": {"JWKSURL": idp.jwks_url(), "Issuer": idp.issuer()}})).await;
    let token = idp.token("alice", AUDIENCE);
    assert_eq!(status(&harness, &token).await, 200);
    assert_eq!((idp.discovery_hits(), idp.jwks_hits()), (0, 1));
}

#[tokio::test]
async fn a_redirect_of_the_issuer_is_not_followed() {
    let elsewhere = ScriptedServer::start(|_| Reply::json(&json!({"keys": []}))).await;
    let target = elsewhere.url("/jwks");
    let redirecting = ScriptedServer::start(move |_| Reply::status(302).header("Location", &target)).await;
    let changes = json!({"oidc_config": {"JWKSURL": redirecting.url("/jwks")}});
    let harness = Harness::start(changes).await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 503);
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn the_key_cache_shows_in_the_metrics() {
    let harness = Harness::start(json!({})).await;
    for _ in 0..3 {
        assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    }
    assert!(
        harness.metric("toolhive_remote_proxy_jwks_refreshes_total{proxy=\"demo\"}") == 1.0,
        "{}",
        harness.metrics_text()
    );
    assert!(harness.metric("toolhive_remote_proxy_jwks_cache_hits_total{proxy=\"demo\"}") == 2.0);
}

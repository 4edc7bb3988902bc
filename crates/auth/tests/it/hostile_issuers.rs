//! Issuers that err, change their minds, or are somebody else's tool.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skep_api::address::{Egress, Reach};
use skep_auth::client::{ClientConfig, GuardedClient};
use skep_auth::error::AuthError;
use skep_auth::names::Issuer;
use skep_auth::provider::{KeyProvider, KeySource};
use skep_testkit::idp::Alg;
use skep_testkit::server::{Gate, Step};
use skep_testkit::{FakeIdp, ManualClock, Outage, Reply, ScriptedServer, TestCa, Tls, TokenSpec};
use url::Url;

use crate::identity::{AUDIENCE, ISSUED, authenticator, client, clock_at, ip, rules, trusted_with};

const MINUTE: Duration = Duration::from_secs(60);

fn provider_at(clock: &ManualClock, issuer: &str, jwks_url: Option<&str>) -> Arc<KeyProvider> {
    let source = KeySource {
        issuer: Issuer::parse(issuer, true).unwrap(),
        jwks_url: jwks_url.map(|url| Url::parse(url).unwrap()),
        discovery_url: None,
        token_file: None,
    };
    KeyProvider::new(source, client(|_| {}), Arc::new(clock.clone()))
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(15), future).await {
        Ok(value) => value,
        Err(_) => panic!("still waiting: {what}"),
    }
}

/// The keys of `idp` as they are now, as a document.
fn document(idp: &FakeIdp) -> String {
    json!({"keys": [idp.key(Alg::Rs256).jwk(true), idp.key(Alg::Es256).jwk(true)]}).to_string()
}

#[tokio::test]
async fn an_old_answer_that_comes_late_does_not_bring_withdrawn_keys_back() {
    let clock = clock_at(ISSUED);
    let idp = FakeIdp::with_clock(Arc::new(clock.clone())).await;
    let old = document(&idp);
    idp.rotate();
    let new = document(&idp);
    let server = ScriptedServer::start({
        let old = old.clone();
        move |_| Reply::body(200, "application/json", old.clone())
    })
    .await;
    let url = server.url("/jwks");
    let provider = provider_at(&clock, "https://idp.example", Some(&url));
    let first = provider.keys().await.unwrap();
    assert!(first.keys.find(Some("rsa-1"), jsonwebtoken::Algorithm::RS256).is_some());
    // A refresh begins and hangs half way through the old document ...
    let gate = Gate::new();
    server.set_handler({
        let (gate, old) = (gate.clone(), old.clone());
        move |_| Reply::status(200).step(Step::Wait(gate.clone())).step(Step::Send(old.clone().into()))
    });
    clock.advance(6 * MINUTE);
    provider.keys().await.unwrap();
    soon("the refresh begins", server.wait_for_requests(2)).await;
    // ... while a token with an unknown key brings the new one, ...
    server.set_handler(move |_| Reply::body(200, "application/json", new.clone()));
    let renewed = provider.keys_with_unknown(first.generation, || true).await.unwrap();
    assert!(renewed.keys.find(Some("rsa-1"), jsonwebtoken::Algorithm::RS256).is_none());
    // ... and then the old document arrives.
    gate.open();
    let late = tokio::time::timeout(Duration::from_millis(300), async {
        loop {
            let now = provider.keys().await.unwrap();
            assert_eq!(now.generation, renewed.generation, "an older answer took the place of a newer one");
            tokio::task::yield_now().await;
        }
    });
    assert!(late.await.is_err());
}

#[tokio::test]
async fn an_issuer_that_withdraws_all_its_keys_is_obeyed() {
    for nothing in [r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AAAA","kid":"rsa-1"}]}"#] {
        let clock = clock_at(ISSUED);
        let idp = FakeIdp::with_clock(Arc::new(clock.clone())).await;
        let judge = authenticator(
            vec![trusted_with(&idp, idp.issuer(), rules(AUDIENCE), clock.clone())],
            clock.clone(),
        );
        let token = idp.mint(&TokenSpec::valid("alice", AUDIENCE).expires_in(36_000));
        let source = ip("192.0.2.1");
        assert!(judge.authenticate(&token, source).await.is_ok());
        idp.set_jwks(Some(nothing));
        clock.advance(20 * MINUTE);
        let refused = judge.authenticate(&token, source).await.unwrap_err();
        assert_eq!(refused, AuthError::KeysUnavailable, "{nothing}");
        let fresh = idp.token("bob", AUDIENCE);
        assert_eq!(judge.authenticate(&fresh, source).await.unwrap_err(), AuthError::KeysUnavailable);
        assert!(judge.issuers().all(|issuer| !issuer.is_available()));
        // It comes to its senses, with other keys: what was good before stays bad.
        idp.set_jwks(None);
        idp.rotate();
        clock.advance(Duration::from_secs(1));
        assert!(judge.authenticate(&idp.token("bob", AUDIENCE), source).await.is_ok());
        assert_eq!(judge.authenticate(&token, source).await.unwrap_err(), AuthError::UnknownKey);
        // What is no key set at all is a fault, not a word about keys.
        for fault in ["", "<html>", "{}", r#"{"keys":7}"#, r#"{"keys":[],"keys":[]}"#] {
            idp.set_jwks(Some(fault));
            clock.advance(20 * MINUTE);
            assert!(judge.authenticate(&idp.token("bob", AUDIENCE), source).await.is_ok(), "{fault}");
        }
    }
}

#[tokio::test]
async fn after_a_long_silence_the_first_caller_is_judged_by_todays_keys() {
    let clock = clock_at(ISSUED);
    let idp = FakeIdp::with_clock(Arc::new(clock.clone())).await;
    let judge =
        authenticator(vec![trusted_with(&idp, idp.issuer(), rules(AUDIENCE), clock.clone())], clock.clone());
    let source = ip("192.0.2.1");
    let token = idp.mint(&TokenSpec::valid("alice", AUDIENCE).expires_in(360_000));
    assert!(judge.authenticate(&token, source).await.is_ok());
    idp.rotate();
    clock.advance(20 * 60 * MINUTE);
    let refused = judge.authenticate(&token, source).await.unwrap_err();
    assert_eq!(refused, AuthError::UnknownKey, "the key was withdrawn hours ago");
    // An issuer that is away, or hangs, still shuts nobody out, and is waited for once.
    let good = idp.mint(&TokenSpec::valid("alice", AUDIENCE).expires_in(360_000));
    assert!(judge.authenticate(&good, source).await.is_ok());
    idp.fail(Outage::Refused).await;
    clock.advance(60 * MINUTE);
    assert!(judge.authenticate(&good, source).await.is_ok());
    idp.up().await;
    idp.fail(Outage::Hang).await;
    clock.advance(60 * MINUTE);
    let started = std::time::Instant::now();
    let all = futures_util::future::join_all((0..20).map(|_| judge.authenticate(&good, source))).await;
    assert!(all.iter().all(Result::is_ok));
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    clock.advance(Duration::from_secs(20));
    let started = std::time::Instant::now();
    assert!(judge.authenticate(&good, source).await.is_ok());
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_storm_of_unknown_keys_from_everywhere_asks_the_issuer_twice_a_minute() {
    let clock = clock_at(ISSUED);
    let idp = FakeIdp::with_clock(Arc::new(clock.clone())).await;
    let judge =
        authenticator(vec![trusted_with(&idp, idp.issuer(), rules(AUDIENCE), clock.clone())], clock.clone());
    assert!(judge.authenticate(&idp.token("alice", AUDIENCE), ip("192.0.2.1")).await.is_ok());
    let before = idp.jwks_hits();
    for second in 0..120_u32 {
        let tokens: Vec<String> = (0..5)
            .map(|round| {
                idp.mint(&TokenSpec::valid("x", AUDIENCE).header("kid", format!("made-up-{second}-{round}")))
            })
            .collect();
        let storm = tokens.iter().zip(0_u32..).map(|(token, round)| {
            let source = std::net::IpAddr::from((second * 8 + round + 0x0a00_0000).to_be_bytes());
            judge.authenticate(token, source)
        });
        for refused in futures_util::future::join_all(storm).await {
            assert_eq!(refused.unwrap_err(), AuthError::UnknownKey);
        }
        assert!(judge.authenticate(&idp.token("alice", AUDIENCE), ip("192.0.2.1")).await.is_ok());
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(idp.jwks_hits() - before, 4, "once every 30 s for two minutes");
}

#[tokio::test]
async fn keys_that_are_none_verify_nothing() {
    let clock = clock_at(ISSUED);
    let idp = FakeIdp::with_clock(Arc::new(clock.clone())).await;
    let rsa = idp.key(Alg::Rs256).jwk(true);
    let ec = idp.key(Alg::Es256).jwk(true);
    let with = |key: &Value, changes: Value| {
        let mut key = key.clone();
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                key.as_object_mut().unwrap().remove(name);
            } else {
                key[name] = value.clone();
            }
        }
        key
    };
    let rs256 = idp.mint(&TokenSpec::valid("alice", AUDIENCE));
    let es256 = idp.mint(&TokenSpec::valid("alice", AUDIENCE).alg(Alg::Es256));
    let table = [
        ("RSA of 512 bits", &rs256, with(&rsa, json!({"n": "x".repeat(86)}))),
        ("exponent 1", &rs256, with(&rsa, json!({"e": "AQ"}))),
        ("exponent 0", &rs256, with(&rsa, json!({"e": "AA"}))),
        ("no exponent", &rs256, with(&rsa, json!({"e": ""}))),
        ("an even exponent", &rs256, with(&rsa, json!({"e": "BA"}))),
        ("x5c alone", &rs256, with(&rsa, json!({"n": null, "e": null, "x5c": ["MIIB"]}))),
        ("for encryption", &rs256, with(&rsa, json!({"use": "enc"}))),
        ("for encryption, in capitals", &rs256, with(&rsa, json!({"use": "ENC"}))),
        ("no operation of ours", &rs256, with(&rsa, json!({"use": null, "key_ops": ["sign"]}))),
        ("alg none", &rs256, with(&rsa, json!({"alg": "none"}))),
        ("alg HS256", &rs256, with(&rsa, json!({"alg": "HS256"}))),
        ("another alg", &rs256, with(&rsa, json!({"alg": "RS512"}))),
        ("another issuer's", &rs256, with(&rsa, json!({"issuer": "https://other.example"}))),
        ("issuer that is no text", &rs256, with(&rsa, json!({"issuer": 7}))),
        ("a shared secret", &rs256, json!({"kty": "oct", "kid": "rsa-1", "k": "AAAA", "alg": "RS256"})),
        ("a point that is not on the curve", &es256, with(&ec, json!({"y": ec["x"]}))),
        ("a point that is none", &es256, with(&ec, json!({"x": "A".repeat(43), "y": "A".repeat(43)}))),
        ("a short coordinate", &es256, with(&ec, json!({"x": "AAAA"}))),
        ("another curve", &es256, with(&ec, json!({"crv": "P-384"}))),
        ("a curve of coins", &es256, with(&ec, json!({"crv": "secp256k1"}))),
    ];
    for (what, token, key) in table {
        // Beside a good key of another kind, so that the set is one.
        let ed = idp.key(Alg::EdDsa).jwk(true);
        idp.set_jwks(Some(&json!({"keys": [key, ed]}).to_string()));
        let judge = authenticator(
            vec![trusted_with(&idp, idp.issuer(), rules(AUDIENCE), clock.clone())],
            clock.clone(),
        );
        let refused = judge.authenticate(token, ip("192.0.2.1")).await.unwrap_err();
        let expected = [AuthError::UnknownKey, AuthError::Signature, AuthError::Algorithm];
        assert!(expected.contains(&refused), "{what}: {refused:?}");
        let good = idp.mint(&TokenSpec::valid("alice", AUDIENCE).alg(Alg::EdDsa));
        assert!(judge.authenticate(&good, ip("192.0.2.1")).await.is_ok(), "{what}");
    }
}

/// With the exponent 1 a signature is the padded digest itself: anybody could make one.
#[tokio::test]
async fn a_signature_under_the_exponent_one_is_no_signature() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
    let clock = clock_at(ISSUED);
    let idp = FakeIdp::with_clock(Arc::new(clock.clone())).await;
    let mut weak = idp.key(Alg::Rs256).jwk(true);
    weak["e"] = json!("AQ");
    idp.set_jwks(Some(&json!({"keys": [weak, idp.key(Alg::EdDsa).jwk(true)]}).to_string()));
    let honest = idp.mint(&TokenSpec::valid("root", AUDIENCE));
    let (message, _) = honest.rsplit_once('.').unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, message.as_bytes());
    let info = b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";
    let mut padded = vec![0, 1];
    padded.resize(256 - 1 - info.len() - 32, 0xff);
    padded.push(0);
    padded.extend_from_slice(info);
    padded.extend_from_slice(digest.as_ref());
    let forged = format!("{message}.{}", B64.encode(padded));
    let judge =
        authenticator(vec![trusted_with(&idp, idp.issuer(), rules(AUDIENCE), clock.clone())], clock.clone());
    assert!(judge.authenticate(&forged, ip("192.0.2.1")).await.is_err());
}

#[tokio::test]
async fn one_id_may_stand_for_several_keys_and_a_set_may_be_large() {
    let clock = clock_at(ISSUED);
    let idp = FakeIdp::with_clock(Arc::new(clock.clone())).await;
    let judge = || {
        authenticator(vec![trusted_with(&idp, idp.issuer(), rules(AUDIENCE), clock.clone())], clock.clone())
    };
    let token = idp.token("alice", AUDIENCE);
    let mine = idp.key(Alg::Rs256).jwk(true);
    idp.rotate();
    let mut newer = idp.key(Alg::Rs256).jwk(true);
    newer["kid"] = mine["kid"].clone();
    // A provider that never changes its ids publishes the old key beside the new one.
    for keys in [json!([newer, mine]), json!([mine, newer])] {
        idp.set_jwks(Some(&json!({ "keys": keys }).to_string()));
        assert!(judge().authenticate(&token, ip("192.0.2.1")).await.is_ok());
    }
    let ec = idp.key(Alg::Es256).jwk(true);
    let many: Vec<Value> = (0..3000)
        .map(|number| {
            let mut key = ec.clone();
            key["kid"] = json!(format!("ec-of-many-{number}"));
            key
        })
        .chain([mine])
        .collect();
    let text = json!({ "keys": many }).to_string();
    assert!(text.len() < 1 << 20, "{}", text.len());
    idp.set_jwks(Some(&text));
    let started = std::time::Instant::now();
    assert!(judge().authenticate(&token, ip("192.0.2.1")).await.is_ok());
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_document_sends_us_to_no_place_that_a_stranger_could_choose() {
    let key = FakeIdp::start().await.key(Alg::Es256).jwk(true);
    let ca = TestCa::new();
    let certificate = ca.server(&["127.0.0.1"]);
    let server = ScriptedServer::start_tls(&Tls::with(&certificate), |_| Reply::status(404)).await;
    let plain = ScriptedServer::start({
        let key = key.clone();
        move |_| Reply::json(&json!({"keys": [key]}))
    })
    .await;
    let base = server.url("");
    for target in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "https://169.254.169.254/",
        "https://[fd00:ec2::254]/",
        "https://168.63.129.16/",
        "https://0.0.0.0/",
        "https://metadata@169.254.169.254/",
        "file:///etc/passwd",
        "data:application/json,{\"keys\":[]}",
        "ftp://127.0.0.1/keys",
        "unix:/run/docker.sock",
        "//127.0.0.1/keys",
        "/keys",
        "",
        "https://user:password@127.0.0.1/keys",
        // Plain http, though the issuer is https.
        &plain.url("/keys"),
        &base.replace("https", "http"),
    ] {
        let (document, asked) = (json!({"issuer": base, "jwks_uri": target}), server.requests().len());
        server.set_handler(move |_| Reply::json(&document));
        let mut config = ClientConfig::new(Egress { loopback: true, deny: Vec::new() });
        config.reach = Reach { http: true, private: true };
        config.ca_pem = Some(ca.pem().into_bytes());
        config.timeout = Duration::from_secs(2);
        let source = KeySource {
            issuer: Issuer::parse(&base, false).unwrap(),
            jwks_url: None,
            discovery_url: None,
            token_file: None,
        };
        let provider =
            KeyProvider::new(source, GuardedClient::new(config).unwrap(), Arc::new(ManualClock::default()));
        assert!(provider.keys().await.is_err(), "{target}");
        assert_eq!(server.requests().len() - asked, 1, "{target}: nothing but the document was asked for");
        assert_eq!(plain.connections(), 0, "{target}");
    }
}

#[tokio::test]
async fn discovery_ends_after_two_documents() {
    // Redirects, documents that name themselves, and documents without end.
    let server = ScriptedServer::start(|_| Reply::status(404)).await;
    let base = server.url("");
    let clock = clock_at(ISSUED);
    for (reply, asked) in [
        (Reply::status(302).header("Location", "/.well-known/openid-configuration"), 1),
        (
            Reply::json(
                &json!({"issuer": base, "jwks_uri": server.url("/.well-known/openid-configuration")}),
            ),
            2,
        ),
        (Reply::status(404), 2),
        (Reply::json(&json!({"issuer": base, "jwks_uri": base, "pad": "x".repeat(1 << 20)})), 1),
    ] {
        let before = server.requests().len();
        server.set_handler(move |_| reply.clone());
        assert!(provider_at(&clock, &base, None).keys().await.is_err());
        assert_eq!(server.requests().len() - before, asked);
    }
}

#[tokio::test]
async fn an_error_about_discovery_shows_no_query_and_no_more_than_a_line_of_what_came() {
    let server = ScriptedServer::start(|_| Reply::body(200, "application/json", "[]")).await;
    let clock = clock_at(ISSUED);
    let asking = |query: &str| {
        let source = KeySource {
            issuer: Issuer::parse("https://idp.example", true).unwrap(),
            jwks_url: None,
            discovery_url: Some(Url::parse(&server.url(&format!("/document{query}"))).unwrap()),
            token_file: None,
        };
        KeyProvider::new(source, client(|_| {}), Arc::new(clock.clone()))
    };
    let shown = |error: &dyn std::error::Error| skep_runtime::logging::chain(error);
    let text = shown(&asking("?key=s3cret").keys().await.unwrap_err());
    assert!(!text.contains("s3cret") && text.contains("/document"), "{text}");
    server.set_handler(|_| Reply::json(&json!({"issuer": "x".repeat(500_000), "jwks_uri": "y"})));
    let text = shown(&asking("?key=s3cret").keys().await.unwrap_err());
    assert!(!text.contains("s3cret") && text.len() < 2000, "{} characters", text.len());
    server.set_handler(|_| Reply::json(&json!({"issuer": "https://idp.example"})));
    let text = shown(&asking("?key=s3cret").keys().await.unwrap_err());
    assert!(!text.contains("s3cret"), "{text}");
}

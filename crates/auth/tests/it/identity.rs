//! Bearer tokens of several issuers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use skep_api::address::{Egress, Reach};
use skep_auth::authenticator::{Authenticator, TrustedIssuer};
use skep_auth::client::{ClientConfig, GuardedClient};
use skep_auth::error::AuthError;
use skep_auth::identity::Namespace;
use skep_auth::limiter::SourceLimiter;
use skep_auth::names::{Audience, Issuer};
use skep_auth::provider::{KeyProvider, KeySource};
use skep_auth::rules::TokenRules;
use skep_testkit::{FakeIdp, ManualClock, Outage, Reply, ScriptedServer, TokenSpec};
use url::Url;

/// When the fixtures were issued, and the clock of tests starts.
pub(crate) const ISSUED: i64 = 1_767_225_600;

pub(crate) const AUDIENCE: &str = "mcp-demo";

pub(crate) fn clock_at(seconds: i64) -> ManualClock {
    ManualClock::at(seconds)
}

pub(crate) fn rules(audience: &str) -> TokenRules {
    TokenRules {
        audiences: Audience::parse(audience).into_iter().collect(),
        algorithms: skep_auth::jwt::ALGORITHMS.to_vec(),
        leeway: Duration::from_secs(30),
        ..TokenRules::default()
    }
}

pub(crate) fn client(change: impl FnOnce(&mut ClientConfig)) -> GuardedClient {
    let mut config = ClientConfig::new(Egress { loopback: true, deny: Vec::new() });
    config.reach = Reach { http: true, private: true };
    change(&mut config);
    GuardedClient::new(config).unwrap()
}

/// An issuer of any name whose keys are those of `idp`.
pub(crate) fn trusted(idp: &FakeIdp, issuer: &str, rules: TokenRules) -> TrustedIssuer {
    trusted_with(idp, issuer, rules, ManualClock::at(ISSUED))
}

pub(crate) fn trusted_with(
    idp: &FakeIdp,
    issuer: &str,
    rules: TokenRules,
    clock: ManualClock,
) -> TrustedIssuer {
    let issuer = Issuer::parse(issuer, true).unwrap();
    let source = KeySource {
        issuer: issuer.clone(),
        jwks_url: Some(Url::parse(&idp.jwks_url()).unwrap()),
        discovery_url: None,
        token_file: None,
    };
    let keys = KeyProvider::new(source, client(|_| {}), Arc::new(clock));
    TrustedIssuer { issuer, keys: Some(keys), rules, introspector: None }
}

pub(crate) fn authenticator(issuers: Vec<TrustedIssuer>, clock: ManualClock) -> Authenticator {
    let limiter = SourceLimiter::new(Arc::new(clock.clone()));
    Authenticator::new(issuers, limiter, Arc::new(clock))
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn prefixed(prefix: &str) -> TokenRules {
    let namespace = Namespace { prefix: prefix.to_owned(), ..Namespace::default() };
    TokenRules { namespace, ..rules(AUDIENCE) }
}

struct Two {
    clock: ManualClock,
    ours: FakeIdp,
    partner: FakeIdp,
    judge: Authenticator,
}

async fn two() -> Two {
    let clock = clock_at(ISSUED);
    let ours = FakeIdp::with_clock(Arc::new(clock.clone())).await;
    let partner = FakeIdp::with_clock(Arc::new(clock.clone())).await;
    partner.rotate();
    let issuers = vec![
        trusted_with(&ours, ours.issuer(), rules(AUDIENCE), clock.clone()),
        trusted_with(&partner, partner.issuer(), prefixed("partner:"), clock.clone()),
    ];
    let judge = authenticator(issuers, clock.clone());
    Two { clock, ours, partner, judge }
}

#[tokio::test]
async fn a_token_is_judged_only_by_the_issuer_it_names() {
    let Two { ours, partner, judge, .. } = two().await;
    let source = ip("192.0.2.1");
    let alice = judge.authenticate(&ours.token("alice", AUDIENCE), source).await.unwrap();
    assert_eq!((alice.subject.as_str(), alice.issuer.as_str()), ("alice", ours.issuer()));
    let other = judge.authenticate(&partner.token("alice", AUDIENCE), source).await.unwrap();
    assert_eq!((other.subject.as_str(), other.issuer.as_str()), ("partner:alice", partner.issuer()));
    // Each of them could try to speak for the other.
    for (signer, named) in [(&ours, &partner), (&partner, &ours)] {
        let token = signer.mint(&TokenSpec::valid("alice", AUDIENCE).issuer(named.issuer()));
        let refused = judge.authenticate(&token, source).await.unwrap_err();
        assert!(matches!(refused, AuthError::UnknownKey | AuthError::Signature), "{refused:?}");
    }
    for stranger in ["https://stranger.example", "", &format!("{}/x", ours.issuer())] {
        let token = ours.mint(&TokenSpec::valid("alice", AUDIENCE).issuer(stranger));
        assert_eq!(judge.authenticate(&token, source).await.unwrap_err(), AuthError::Issuer, "{stranger}");
    }
    let nameless = ours.mint(&TokenSpec::valid("alice", AUDIENCE).without_claim("iss"));
    assert_eq!(judge.authenticate(&nameless, source).await.unwrap_err(), AuthError::Issuer);
}

#[tokio::test]
async fn no_subject_of_one_issuer_looks_like_that_of_another() {
    let Two { ours, partner, judge, .. } = two().await;
    let source = ip("192.0.2.1");
    let posing = ours.token("partner:alice", AUDIENCE);
    assert_eq!(judge.authenticate(&posing, source).await.unwrap_err(), AuthError::NoSubject);
    let twice = judge.authenticate(&partner.token("partner:alice", AUDIENCE), source).await.unwrap();
    assert_eq!(twice.subject, "partner:partner:alice");
}

#[tokio::test]
async fn an_issuer_that_is_away_does_not_shut_out_the_callers_of_another() {
    let Two { ours, partner, judge, .. } = two().await;
    let source = ip("192.0.2.1");
    partner.fail(Outage::Refused).await;
    assert!(judge.authenticate(&ours.token("alice", AUDIENCE), source).await.is_ok());
    let away = judge.authenticate(&partner.token("alice", AUDIENCE), source).await.unwrap_err();
    assert_eq!(away, AuthError::KeysUnavailable);
    let available: Vec<bool> = judge.issuers().map(TrustedIssuer::is_available).collect();
    assert_eq!(available, [true, false]);
    assert_eq!(judge.keys().count(), 2);
}

#[tokio::test]
async fn a_verified_token_ends_with_its_time_and_with_its_key() {
    let Two { clock, partner, judge, .. } = two().await;
    let source = ip("192.0.2.1");
    let token = partner.mint(&TokenSpec::valid("alice", AUDIENCE).expires_in(3600));
    let first = judge.authenticate(&token, source).await.unwrap();
    let again = judge.authenticate(&token, source).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again), "one token is one identity");
    partner.rotate();
    let renewed = partner.token("bob", AUDIENCE);
    assert!(judge.authenticate(&renewed, source).await.is_ok(), "a new key is fetched");
    clock.advance(Duration::from_secs(30));
    let refused = judge.authenticate(&token, source).await.unwrap_err();
    assert_eq!(refused, AuthError::UnknownKey, "the key was withdrawn");
    let short = partner.mint(&TokenSpec::valid("alice", AUDIENCE).expires_in(60));
    assert!(judge.authenticate(&short, source).await.is_ok());
    clock.advance(Duration::from_secs(90));
    assert_eq!(judge.authenticate(&short, source).await.unwrap_err(), AuthError::Expired);
}

#[tokio::test]
async fn strangers_cannot_make_us_ask_for_keys_without_end() {
    let Two { clock, ours, judge, .. } = two().await;
    let (flooder, other) = (ip("192.0.2.66"), ip("192.0.2.1"));
    let good = ours.mint(&TokenSpec::valid("alice", AUDIENCE).expires_in(36_000));
    assert!(judge.authenticate(&good, other).await.is_ok());
    let asked = ours.jwks_hits();
    let stranger =
        |round: usize| ours.mint(&TokenSpec::valid("x", AUDIENCE).header("kid", format!("made-up-{round}")));
    for round in 0..50 {
        let refused = judge.authenticate(&stranger(round), flooder).await.unwrap_err();
        assert_eq!(refused, AuthError::UnknownKey);
    }
    assert_eq!(ours.jwks_hits(), asked + 1, "at most every 30 s");
    // Nor does that use up what another address may: a real rotation is still noticed.
    clock.advance(Duration::from_secs(30));
    ours.rotate();
    assert!(judge.authenticate(&ours.token("bob", AUDIENCE), other).await.is_ok());
    assert!(judge.authenticate(&good, flooder).await.is_err(), "the old key was withdrawn");
}

#[tokio::test]
async fn discovery_may_lie_elsewhere_but_not_name_somebody_else() {
    let idp = FakeIdp::start().await;
    let key = idp.key(skep_testkit::idp::Alg::Rs256).jwk(false);
    let server = ScriptedServer::start(|_| Reply::status(404)).await;
    let base = server.url("");
    for (named, fine) in [
        ("https://sts.example/tenant/", true),
        ("https://sts.example/tenant", true),
        ("https://sts.example/other/", false),
        ("https://sts.example/{tenantid}/", false),
    ] {
        let (document, key) =
            (json!({"issuer": named, "jwks_uri": format!("{base}/discovery/keys")}), key.clone());
        server.set_handler(move |request| match request.path() {
            "/tenant/.well-known/openid-configuration" => Reply::json(&document),
            "/discovery/keys" => Reply::json(&json!({"keys": [key]})),
            _ => Reply::status(404),
        });
        let source = KeySource {
            issuer: Issuer::parse("https://sts.example/tenant/", false).unwrap(),
            jwks_url: None,
            discovery_url: Some(Url::parse(&server.url("/tenant/.well-known/openid-configuration")).unwrap()),
            token_file: None,
        };
        let provider = KeyProvider::new(source, client(|_| {}), Arc::new(ManualClock::default()));
        assert_eq!(provider.keys().await.is_ok(), fine, "{named}");
    }
}

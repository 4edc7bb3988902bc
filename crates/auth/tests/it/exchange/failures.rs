//! Each way to fail has its answer, and what may be over in a moment is not kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skep_auth::exchange::{ExchangeError, ExchangeReadiness, ExchangeResult, Grant};
use skep_testkit::server::{Framing, Step};
use skep_testkit::{Gate, Reply, ScriptedServer, token_endpoint};

use super::Bench;

#[tokio::test]
async fn each_failure_has_its_class_and_only_a_refused_subject_is_kept() {
    use ExchangeError as Error;
    let soon = Duration::from_secs(5);
    let refused = |code| (Error::Refused { code }, ExchangeReadiness::Refused(code), ExchangeResult::Refused);
    let unavailable = |retry_after| {
        (Error::Unavailable { retry_after }, ExchangeReadiness::Unavailable, ExchangeResult::Unavailable)
    };
    let unusable =
        |reason| (Error::Response { reason }, ExchangeReadiness::Unusable, ExchangeResult::InvalidResponse);
    let subject =
        (Error::SubjectRefused { repeated: false }, ExchangeReadiness::Ready, ExchangeResult::SubjectRefused);
    let table = [
        ("invalid_grant", token_endpoint::refused(400, "invalid_grant"), subject.clone()),
        ("invalid_request", token_endpoint::refused(400, "invalid_request"), subject),
        ("invalid_client", token_endpoint::refused(401, "invalid_client"), refused("invalid_client")),
        ("401 without a body", Reply::status(401), refused("invalid_client")),
        (
            "unauthorized_client",
            token_endpoint::refused(400, "unauthorized_client"),
            refused("unauthorized_client"),
        ),
        (
            "unsupported_grant_type",
            token_endpoint::refused(400, "unsupported_grant_type"),
            refused("unsupported_grant_type"),
        ),
        ("invalid_target", token_endpoint::refused(400, "invalid_target"), refused("invalid_target")),
        ("invalid_scope", token_endpoint::refused(403, "invalid_scope"), refused("invalid_scope")),
        ("a code of its own", token_endpoint::refused(400, "E_1234"), refused("other")),
        ("429", Reply::status(429).header("Retry-After", "17"), unavailable(Duration::from_secs(17))),
        ("500", token_endpoint::refused(500, "invalid_grant"), unavailable(soon)),
        ("503", Reply::status(503).header("Retry-After", "100000"), unavailable(Duration::from_secs(300))),
        ("a reset", Reply::reset(), unavailable(soon)),
        ("an answer that never comes", Reply::hang(), unavailable(soon)),
        (
            "half an answer",
            Reply::status(200).framing(Framing::Chunked).step(Step::Send("{".into())).step(Step::Close),
            unavailable(soon),
        ),
        ("a page", Reply::body(400, "text/html", "<html>"), unusable("it refuses without an OAuth error")),
        ("no JSON", Reply::body(200, "text/html", "<html>"), unusable("it is no JSON object")),
        (
            "more than 1 MiB",
            Reply::body(200, "application/json", Bytes::from(vec![b' '; (1 << 20) + 1])),
            unusable("it is too large"),
        ),
    ];
    for (what, reply, (error, readiness, result)) in table {
        let bench =
            Bench::with(move |_| reply.clone(), |settings| settings.timeout = Duration::from_millis(300))
                .await;
        assert_eq!(bench.exchanger.readiness(), ExchangeReadiness::Unknown);
        assert_eq!(bench.token("t").await.unwrap_err(), error, "{what}");
        assert_eq!(bench.exchanger.readiness(), readiness, "{what}");
        assert_eq!(bench.results(), [result], "{what}");

        // The endpoint recovers.
        bench.server.set_handler(|_| token_endpoint::issued("exchanged", 300));
        let again = bench.token("t").await;
        if matches!(error, Error::SubjectRefused { .. }) {
            assert_eq!(again.unwrap_err(), error, "{what}: kept");
            bench.clock.advance(Duration::from_secs(5));
            bench.token("t").await.unwrap();
        } else {
            assert!(!again.unwrap().1, "{what}: not kept");
        }
        assert_eq!(bench.exchanger.readiness(), ExchangeReadiness::Ready, "{what}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_asked_again_when_it_is_back() {
    let bench = Bench::start(|_| token_endpoint::issued("exchanged", 300)).await;
    bench.server.down().await;
    assert!(matches!(bench.token("t").await, Err(ExchangeError::Unavailable { .. })));
    assert_eq!(bench.exchanger.readiness(), ExchangeReadiness::Unavailable);
    bench.server.up().await;
    assert_eq!(bench.value("t").await, "Bearer exchanged");
}

#[tokio::test]
async fn a_failure_says_nothing_any_more_after_five_minutes() {
    let bench = Bench::start(|_| token_endpoint::refused(400, "invalid_scope")).await;
    assert!(bench.token("t").await.is_err());
    bench.clock.advance(Duration::from_secs(299));
    assert_eq!(bench.exchanger.readiness(), ExchangeReadiness::Refused("invalid_scope"));
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.exchanger.readiness(), ExchangeReadiness::Unknown);
}

#[tokio::test]
async fn what_is_at_hand_is_used_while_the_endpoint_is_down() {
    let bench = Bench::start(|_| token_endpoint::issued("exchanged", 300)).await;
    bench.token("t").await.unwrap();
    bench.server.down().await;
    assert!(bench.token("t").await.unwrap().1);
}

#[tokio::test]
async fn a_refusal_is_kept_for_ten_seconds_at_most() {
    for (negative_ttl, kept) in [(0, 0), (1, 1), (5, 5), (10, 10), (3600, 10)] {
        let bench = Bench::with(
            |_| token_endpoint::refused(400, "invalid_grant"),
            |settings| settings.negative_ttl = Duration::from_secs(negative_ttl),
        )
        .await;
        assert!(bench.token("t").await.is_err());
        if kept > 0 {
            bench.clock.advance(Duration::from_secs(kept) - Duration::from_millis(1));
            assert!(bench.token("t").await.is_err());
            assert_eq!(bench.calls(), 1, "{negative_ttl}");
            bench.clock.advance(Duration::from_millis(1));
        }
        assert!(bench.token("t").await.is_err());
        assert_eq!(bench.calls(), 2, "{negative_ttl}");
        assert_eq!(bench.hits(), 0, "a refusal is no hit");
    }
}

#[tokio::test]
async fn a_second_token_of_a_subject_that_is_refused_within_a_minute_says_so() {
    let bench = Bench::start(|_| token_endpoint::refused(400, "invalid_grant")).await;
    let repeated = async |token: &str| match bench.token(token).await {
        Err(ExchangeError::SubjectRefused { repeated }) => repeated,
        other => panic!("{other:?}"),
    };
    assert!(!repeated("alice/1").await);
    assert!(!repeated("alice/1").await, "the same token, from the cache");
    bench.clock.advance(Duration::from_secs(20));
    assert!(!repeated("alice/1").await, "the same token, asked again");
    assert!(!repeated("bob/1").await, "somebody else");
    assert!(repeated("alice/2").await, "a new login did not help");
    assert!(repeated("alice/2").await);
    bench.clock.advance(Duration::from_secs(61));
    assert!(!repeated("alice/3").await, "long after");

    // Once a token of hers was accepted, a later refusal is the first again.
    bench.server.set_handler(|_| token_endpoint::issued("exchanged", 300));
    bench.token("alice/4").await.unwrap();
    bench.server.set_handler(|_| token_endpoint::refused(400, "invalid_request"));
    assert!(!repeated("alice/5").await);
}

#[tokio::test]
async fn who_waits_for_a_call_gets_its_failure_and_the_next_makes_another() {
    let gate = Gate::new();
    let closed = gate.clone();
    let bench =
        Bench::start(move |_| Reply::status(503).framing(Framing::Chunked).step(Step::Wait(closed.clone())))
            .await;
    let bench = Arc::new(bench);
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.token("t").await.map(|_| ()) })
        })
        .collect();
    bench.server.wait_for_requests(1).await;
    gate.open();
    for caller in callers {
        assert!(matches!(caller.await.unwrap(), Err(ExchangeError::Unavailable { .. })));
    }
    assert_eq!(bench.calls(), 1);
    assert!(bench.token("t").await.is_err());
    assert_eq!(bench.calls(), 2);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_takes_no_credential_along() {
    let elsewhere = ScriptedServer::start(|_| token_endpoint::issued("stolen", 300)).await;
    for status in [301, 302, 303, 307, 308] {
        let target = elsewhere.url("/token");
        let bench = Bench::start(move |_| Reply::status(status).header("Location", &target)).await;
        let expected = ExchangeError::Response { reason: "it redirects, which is not followed" };
        assert_eq!(bench.token("t").await.unwrap_err(), expected, "{status}");
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn in_service_mode_there_is_no_subject_to_refuse() {
    for code in ["invalid_grant", "invalid_request"] {
        let bench = Bench::with(
            move |_| token_endpoint::refused(400, code),
            |settings| settings.grant = Grant::ClientCredentials,
        )
        .await;
        for _ in 0..2 {
            assert_eq!(bench.exchanger.token(None).await.unwrap_err(), ExchangeError::Refused { code });
        }
        assert_eq!(bench.calls(), 2, "not kept");
        assert_eq!(bench.exchanger.readiness(), ExchangeReadiness::Refused(code));
    }
}

#[tokio::test]
async fn nothing_is_exchanged_for_nobody() {
    let bench = Bench::start(|_| token_endpoint::issued("exchanged", 300)).await;
    assert!(bench.exchanger.token(None).await.is_err());
    assert_eq!(bench.calls(), 0);
}

#[tokio::test]
async fn an_endpoint_that_may_not_be_reached_is_not_connected_to() {
    let server = ScriptedServer::start(|_| token_endpoint::issued("exchanged", 300)).await;
    let url = format!("http://localhost:{}/token", server.address().port());
    let bench = Bench::with(
        |_| Reply::status(500),
        |settings| {
            settings.token_url = url.parse().unwrap();
            settings.egress.loopback = false;
        },
    )
    .await;
    assert!(matches!(bench.token("t").await, Err(ExchangeError::Unavailable { .. })));
    assert_eq!(server.connections(), 0);
}

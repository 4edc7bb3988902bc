//! The client's credential changes at the endpoint, in the file and in this process at different moments.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use skep_api::secret::Secret;
use skep_auth::exchange::{ClientAuth, ExchangeError, ExchangeReadiness, ExchangeSettings, Grant};
use skep_testkit::{Recorded, Reply, token_endpoint};

use super::Bench;

/// The secrets that an endpoint accepts.
#[derive(Clone)]
struct Accepted(Arc<Mutex<BTreeSet<String>>>);

impl Accepted {
    fn new(secret: &str) -> Self {
        Self(Arc::new(Mutex::new(BTreeSet::from([secret.to_owned()]))))
    }

    /// From now on this secret and no other.
    fn change_to(&self, secret: &str) {
        *self.0.lock().unwrap() = BTreeSet::from([secret.to_owned()]);
    }

    fn answer(&self, request: &Recorded) -> Reply {
        if self.0.lock().unwrap().contains(&secret_of(request)) {
            token_endpoint::issued("exchanged", 300)
        } else {
            token_endpoint::refused(401, "invalid_client")
        }
    }
}

fn secret_of(request: &Recorded) -> String {
    let header = request.header("authorization").and_then(|value| value.strip_prefix("Basic "));
    let pair =
        header.and_then(|pair| STANDARD.decode(pair).ok()).and_then(|pair| String::from_utf8(pair).ok());
    pair.and_then(|pair| pair.split_once(':').map(|(_, secret)| secret.to_owned())).unwrap_or_default()
}

/// A client with the secret `one`, from a file where one is given.
async fn client(accepted: &Accepted, file: Option<&Path>) -> Bench {
    let accepted = accepted.clone();
    Bench::with(
        move |request| accepted.answer(request),
        |settings| {
            settings.client_auth = ClientAuth::SecretBasic(Secret::new("one"));
            settings.credential_file = file.map(Path::to_path_buf);
        },
    )
    .await
}

fn with_secret(bench: &Bench, secret: &str) -> ExchangeSettings {
    let mut settings = bench.settings.clone();
    settings.client_auth = ClientAuth::SecretBasic(Secret::new(secret));
    settings
}

fn sent(bench: &Bench) -> Vec<String> {
    bench.server.requests().iter().map(secret_of).collect()
}

#[tokio::test]
async fn a_secret_that_changed_in_its_file_is_read_when_the_old_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "one").unwrap();
    let accepted = Accepted::new("one");
    let bench = client(&accepted, Some(&file)).await;
    bench.token("t1").await.unwrap();
    std::fs::write(&file, "two\r\n").unwrap();
    bench.token("t2").await.unwrap();
    accepted.change_to("two");
    bench.token("t3").await.unwrap();
    bench.token("t4").await.unwrap();
    assert_eq!(sent(&bench), ["one", "one", "one", "two", "two"], "and the new one is in use from then on");
    assert_eq!(bench.exchanger.readiness(), ExchangeReadiness::Ready);
}

#[tokio::test]
async fn a_secret_that_moved_to_another_file_is_looked_for_there() {
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = (folder.path().join("before"), folder.path().join("after"));
    std::fs::write(&before, "wrong").unwrap();
    std::fs::write(&after, "two").unwrap();
    let accepted = Accepted::new("one");
    let bench = client(&accepted, Some(&before)).await;
    bench.token("t1").await.unwrap();
    let mut settings = bench.settings.clone();
    settings.credential_file = Some(after);
    assert!(bench.exchanger.renew(&settings).unwrap());
    assert!(bench.token("t1").await.unwrap().1, "where a secret lies is no part of what is asked for");
    accepted.change_to("two");
    bench.token("t2").await.unwrap();
    assert_eq!(sent(&bench), ["one", "one", "two"]);
}

#[tokio::test]
async fn the_secret_before_is_tried_while_the_provider_lags_behind() {
    let accepted = Accepted::new("one");
    let bench = client(&accepted, None).await;
    assert!(bench.exchanger.renew(&with_secret(&bench, "two")).unwrap());
    bench.token("t1").await.unwrap();
    assert_eq!(sent(&bench), ["two", "one"]);
    // The same renewal again, as a watch that fires twice brings it, does not lose the one before.
    assert!(bench.exchanger.renew(&with_secret(&bench, "two")).unwrap());
    bench.clock.advance(Duration::from_secs(599));
    bench.token("t2").await.unwrap();
    assert_eq!(sent(&bench)[2..], ["two", "one"]);
    bench.clock.advance(Duration::from_secs(1));
    let refused = bench.token("t3").await.unwrap_err();
    assert_eq!(refused, ExchangeError::Refused { code: "invalid_client" });
    assert_eq!(sent(&bench)[4..], ["two"], "ten minutes are enough");
    accepted.change_to("two");
    bench.token("t3").await.unwrap();
}

#[tokio::test]
async fn a_provider_that_changes_over_between_two_calls_is_asked_once_more() {
    let calls = Arc::new(AtomicUsize::new(0));
    let accepted = Accepted::new("one");
    let (counter, provider) = (Arc::clone(&calls), accepted.clone());
    let bench = Bench::with(
        move |request| {
            // The first call still meets the old secret, the second the new one.
            if counter.fetch_add(1, Ordering::SeqCst) == 1 {
                provider.change_to("two");
            }
            provider.answer(request)
        },
        |settings| settings.client_auth = ClientAuth::SecretBasic(Secret::new("one")),
    )
    .await;
    assert!(bench.exchanger.renew(&with_secret(&bench, "two")).unwrap());
    bench.token("t").await.unwrap();
    assert_eq!(sent(&bench), ["two", "one", "two"]);
}

#[tokio::test]
async fn a_file_that_is_gone_or_holds_no_credential_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let accepted = Accepted::new("two");
    let bench = client(&accepted, Some(&file)).await;
    let table: [(&str, Option<&[u8]>); 5] = [
        ("gone", None),
        ("empty", Some(b"")),
        ("a line end alone", Some(b"\n")),
        ("no text", Some(b"\xff\xfe")),
        ("the same", Some(b"one\n")),
    ];
    for (calls, (what, content)) in table.into_iter().enumerate() {
        match content {
            Some(content) => std::fs::write(&file, content).unwrap(),
            None => assert!(!file.exists()),
        }
        assert!(bench.token("t").await.is_err(), "{what}");
        assert_eq!(bench.calls(), calls + 1, "{what}: nothing else was tried");
    }
    std::fs::write(&file, vec![b'x'; 70_000]).unwrap();
    assert!(bench.token("t").await.is_err(), "too long for a secret");
    assert_eq!(bench.calls(), 6);
    // Half of it is tried, refused and not kept; then it is whole.
    std::fs::write(&file, "tw").unwrap();
    assert!(bench.token("t").await.is_err());
    std::fs::write(&file, "two").unwrap();
    bench.token("t").await.unwrap();
    assert_eq!(sent(&bench)[6..], ["one", "tw", "one", "two"]);
}

#[tokio::test]
async fn a_pipe_in_the_place_of_a_secret_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "one").unwrap();
    let accepted = Accepted::new("one");
    let bench = client(&accepted, Some(&file)).await;
    bench.token("t1").await.unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    accepted.change_to("two");
    let refused = tokio::time::timeout(Duration::from_secs(10), bench.token("t2")).await;
    if refused.is_err() {
        // Lets the reader go, or this test would never end.
        std::fs::write(&file, "").unwrap();
    }
    assert!(matches!(refused, Ok(Err(ExchangeError::Refused { .. }))), "{refused:?}");
    // What an editor puts before it is no part of it.
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "\u{feff}two\r\n").unwrap();
    bench.token("t3").await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_half_written_keeps_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem");
    let pem = || {
        let key = aws_lc_rs::signature::EcdsaKeyPair::generate(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        )
        .unwrap();
        skep_testkit::tls::pem("PRIVATE KEY", key.to_pkcs8v1().unwrap().as_ref())
    };
    let (old, new) = (pem(), pem());
    std::fs::write(&file, &new.as_bytes()[..new.len() / 2]).unwrap();
    let bench = Bench::with(
        |_| token_endpoint::refused(401, "invalid_client"),
        |settings| {
            settings.client_auth = ClientAuth::PrivateKeyJwt { key: Secret::new(old), key_id: None };
            settings.credential_file = Some(file.clone());
        },
    )
    .await;
    assert!(bench.token("t").await.is_err());
    assert_eq!(bench.calls(), 1);
    std::fs::write(&file, &new).unwrap();
    assert!(bench.token("t").await.is_err());
    assert_eq!(bench.calls(), 3, "the new key is tried");
}

#[tokio::test]
async fn another_refusal_is_no_reason_to_change_the_credential() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "two").unwrap();
    for (status, code) in [(400, "invalid_grant"), (400, "unauthorized_client"), (400, "invalid_target")] {
        let bench = Bench::with(
            move |_| token_endpoint::refused(status, code),
            |settings| settings.credential_file = Some(file.clone()),
        )
        .await;
        assert!(bench.token("t").await.is_err());
        assert_eq!(bench.calls(), 1, "{code}");
    }
}

/// Many callers, each with a token of its own, while `rotate` runs; returns how many calls failed.
async fn under_load(bench: Bench, rotate: impl AsyncFnOnce(&Bench)) -> usize {
    let bench = Arc::new(bench);
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move {
                let mut failed = 0;
                for call in 0..60 {
                    let outcome = bench.token(&format!("u{caller}/{call}")).await;
                    failed += usize::from(outcome.is_err());
                }
                failed
            })
        })
        .collect();
    bench.server.wait_for_requests(100).await;
    rotate(&bench).await;
    let mut failed = 0;
    for caller in callers {
        failed += caller.await.unwrap();
    }
    failed
}

#[tokio::test]
async fn a_rotation_under_load_fails_no_call_whatever_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");

    // The file, the endpoint, and the watch last of all.
    std::fs::write(&file, "one").unwrap();
    let accepted = Accepted::new("one");
    let bench = client(&accepted, Some(&file)).await;
    let failed = under_load(bench, async |bench| {
        std::fs::write(&file, "two").unwrap();
        bench.server.wait_for_requests(180).await;
        accepted.change_to("two");
        bench.server.wait_for_requests(280).await;
        assert!(bench.exchanger.renew(&with_secret(bench, "two")).unwrap());
    });
    assert_eq!(failed.await, 0, "the endpoint before the watch");

    // The file, the watch, and the endpoint last of all.
    std::fs::write(&file, "one").unwrap();
    let accepted = Accepted::new("one");
    let bench = client(&accepted, Some(&file)).await;
    let failed = under_load(bench, async |bench| {
        std::fs::write(&file, "two").unwrap();
        assert!(bench.exchanger.renew(&with_secret(bench, "two")).unwrap());
        bench.server.wait_for_requests(280).await;
        accepted.change_to("two");
    });
    assert_eq!(failed.await, 0, "the endpoint after the watch");
}

#[tokio::test]
async fn an_emptied_file_of_authorities_is_refused_with_all_that_comes_along() {
    let accepted = Accepted::new("one");
    let bench = client(&accepted, None).await;
    for pem in ["", "no certificate"] {
        let mut settings = with_secret(&bench, "two");
        settings.ca_pem = Some(pem.as_bytes().to_vec());
        let error = skep_runtime::logging::chain(&bench.exchanger.renew(&settings).unwrap_err());
        assert!(error.contains("no certificate in"), "{error}");
    }
    bench.token("t").await.unwrap();
    assert_eq!(sent(&bench), ["one"]);
}

#[tokio::test]
async fn a_service_rotates_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "two").unwrap();
    let accepted = Accepted::new("two");
    let bench = Bench::with(
        move |request| accepted.answer(request),
        |settings| {
            settings.grant = Grant::ClientCredentials;
            settings.client_auth = ClientAuth::SecretBasic(Secret::new("one"));
            settings.credential_file = Some(file.clone());
        },
    )
    .await;
    bench.exchanger.token(None).await.unwrap();
    assert_eq!(sent(&bench), ["one", "two"]);
}

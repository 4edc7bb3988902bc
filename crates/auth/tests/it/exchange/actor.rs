//! The actor's token: an endpoint has one code for a bad one and for a bad token of the subject.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use skep_api::secret::Secret;
use skep_auth::exchange::{ExchangeError, ExchangeReadiness, ExchangeSettings, Grant, TokenType};
use skep_runtime::clock::Clock as _;
use skep_testkit::{ManualClock, token_endpoint};

use super::Bench;

fn grant(token: &str) -> Grant {
    Grant::TokenExchange {
        subject_type: TokenType::AccessToken,
        actor: Some((Secret::new(token), TokenType::Jwt)),
    }
}

/// A service's token that expires so many seconds after the beginning.
fn service(name: &str, lasts: i64) -> String {
    let expires = ManualClock::default().unix_seconds() + lasts;
    let claims = json!({"iss": "https://k8s", "sub": name, "exp": expires});
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

/// A client whose endpoint accepts one actor's token, and that one, and no other.
async fn bench(token: &str, file: &Path, accepted: &Arc<Mutex<String>>) -> Bench {
    let accepted = Arc::clone(accepted);
    Bench::with(
        move |request| {
            let good = request.form_field("actor_token") == *accepted.lock().unwrap();
            match good && !request.form_field("subject_token").starts_with("bad") {
                true => token_endpoint::issued("exchanged", 300),
                false => token_endpoint::refused(400, "invalid_request"),
            }
        },
        |settings| {
            settings.grant = grant(token);
            settings.actor_file = Some(file.to_owned());
        },
    )
    .await
}

fn sent(bench: &Bench) -> Vec<String> {
    bench.server.requests().iter().map(|request| request.form_field("actor_token")).collect()
}

fn with_actor(bench: &Bench, token: &str) -> ExchangeSettings {
    let mut settings = bench.settings.clone();
    settings.grant = grant(token);
    settings
}

struct World {
    folder: tempfile::TempDir,
    accepted: Arc<Mutex<String>>,
}

impl World {
    fn new(accepted: &str) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), accepted: Arc::new(Mutex::new(accepted.to_owned())) }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("token")
    }

    fn write(&self, token: &str) {
        std::fs::write(self.file(), token).unwrap();
    }

    async fn bench(&self, token: &str) -> Bench {
        bench(token, &self.file(), &self.accepted).await
    }
}

#[tokio::test]
async fn an_empty_token_of_an_actor_is_refused_and_the_old_one_stays() {
    let (first, second) = (service("a", 600), service("a", 700));
    let world = World::new(&first);
    let bench = world.bench(&first).await;
    for empty in ["", " "] {
        let error = bench.exchanger.renew(&with_actor(&bench, empty)).unwrap_err();
        assert_eq!(error.to_string(), "the actor token is empty");
        let error = super::build(&with_actor(&bench, empty), &bench.clock, &bench.observer).unwrap_err();
        assert_eq!(error.to_string(), "the actor token is empty");
    }
    bench.token("t1").await.unwrap();
    assert!(bench.exchanger.renew(&with_actor(&bench, &second)).unwrap());
    *world.accepted.lock().unwrap() = second.clone();
    bench.token("t2").await.unwrap();
    assert_eq!(sent(&bench), [first, second]);
}

#[tokio::test]
async fn a_token_of_an_actor_that_has_expired_is_not_sent_and_no_fault_of_the_caller() {
    let (first, second) = (service("a", 600), service("a", 6000));
    let world = World::new(&first);
    world.write(&first);
    let bench = world.bench(&first).await;
    bench.token("t1").await.unwrap();
    bench.clock.advance(Duration::from_secs(600));
    for _ in 0..2 {
        let refused = bench.token("t2").await.unwrap_err();
        assert_eq!(refused, ExchangeError::Refused { code: "actor_expired" });
        assert_eq!(bench.exchanger.readiness(), ExchangeReadiness::Refused("actor_expired"));
    }
    assert_eq!(bench.calls(), 1, "the endpoint is not asked");

    // The file is renewed, and no watch has fired.
    *world.accepted.lock().unwrap() = second.clone();
    world.write(&format!("{second}\n"));
    bench.token("t2").await.unwrap();
    assert_eq!(bench.exchanger.readiness(), ExchangeReadiness::Ready);
    std::fs::remove_file(world.file()).unwrap();
    bench.token("t3").await.unwrap();
    assert_eq!(sent(&bench), [first, second.clone(), second], "and in use from then on");
}

#[tokio::test]
async fn a_token_of_an_actor_that_changed_in_its_file_is_tried_once_before_a_caller_is_blamed() {
    let (first, second) = (service("a", 600), service("a", 6000));
    let world = World::new(&first);
    world.write(&first);
    let bench = world.bench(&first).await;
    bench.token("t1").await.unwrap();
    let blamed = ExchangeError::SubjectRefused { repeated: false };
    assert_eq!(bench.token("bad/1").await.unwrap_err(), blamed);
    assert_eq!(bench.calls(), 2, "the file holds what was sent: nothing else to try");

    world.write(&second);
    assert_eq!(bench.token("bad2/1").await.unwrap_err(), blamed);
    assert_eq!(bench.calls(), 4, "neither is accepted, so neither is known to be good");
    bench.token("t2").await.unwrap();

    *world.accepted.lock().unwrap() = second.clone();
    bench.token("t3").await.unwrap();
    bench.token("t4").await.unwrap();
    assert_eq!(sent(&bench)[4..], [first.clone(), first, second.clone(), second]);
    assert!(bench.token("t1").await.unwrap().1, "it is the same actor");
}

#[tokio::test]
async fn what_another_actor_was_given_is_not_kept_as_the_first_ones() {
    let (first, second) = (service("a", 600), service("b", 600));
    let world = World::new(&second);
    world.write(&second);
    let bench = world.bench(&first).await;
    assert!(!bench.token("t").await.unwrap().1);
    assert!(!bench.token("t").await.unwrap().1);
    assert!(bench.token("t").await.unwrap().1);
    assert_eq!(sent(&bench), [first.clone(), second.clone(), second]);
    assert!(bench.exchanger.renew(&with_actor(&bench, &first)).unwrap());
    *world.accepted.lock().unwrap() = first;
    assert!(!bench.token("t").await.unwrap().1, "nothing is kept for the first actor");
}

#[tokio::test]
async fn a_file_that_holds_no_token_says_nothing() {
    let first = service("a", 600);
    let world = World::new("another");
    let bench = world.bench(&first).await;
    for (number, content) in ["", "\n", " "].into_iter().enumerate() {
        world.write(content);
        assert!(bench.token(&format!("t{number}")).await.is_err());
        assert_eq!(bench.calls(), number + 1, "{content:?}");
    }
}

//! No secret is in what is printed, logged or said.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use skep_api::secret::Secret;
use skep_auth::exchange::{ClientAuth, Grant, TokenType};
use skep_testkit::{Reply, token_endpoint};
use tracing_subscriber::fmt::MakeWriter;

use super::{Bench, subject};

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

#[tokio::test]
async fn no_secret_is_printed_logged_or_said() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    // As long as there is only one subscriber, a test on another thread that has none may be the first to
    // come by a log statement, and turn it off for all.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _logging = tracing::subscriber::set_default(subscriber);
    let echo =
        |body: &str| format!("{{\"error\":\"{body}\",\"error_description\":\"subject-token-s3cret\"}}");
    let replies = [
        token_endpoint::issued("issued-s3cret", 300),
        Reply::body(400, "application/json", echo("invalid_grant")),
        Reply::body(400, "application/json", echo("subject-token-s3cret")),
        Reply::body(401, "application/json", echo("invalid_client")),
        Reply::body(503, "text/plain", "subject-token-s3cret"),
        Reply::body(400, "text/plain", "subject-token-s3cret"),
        Reply::body(200, "text/plain", "subject-token-s3cret"),
        Reply::reset(),
    ];
    let mut shown = String::new();
    for reply in replies {
        let bench = Bench::with(
            move |_| reply.clone(),
            |settings| {
                settings.client_auth = ClientAuth::SecretPost(Secret::new("client-s3cret"));
                settings.token_url.set_query(Some("key=query-s3cret"));
                settings.grant = Grant::TokenExchange {
                    subject_type: TokenType::AccessToken,
                    actor: Some((Secret::new("actor-s3cret"), TokenType::Jwt)),
                };
            },
        )
        .await;
        let outcome = bench.exchanger.token(Some(subject("subject-token-s3cret", i64::MAX))).await;
        let said = outcome.as_ref().err().map(ToString::to_string);
        shown.push_str(&format!(
            "{outcome:?} {said:?} {:?} {:?}",
            bench.exchanger,
            bench.exchanger.readiness()
        ));
        assert_eq!(bench.calls(), 1);
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for text in [&shown, &log] {
        assert!(!text.contains("s3cret"), "{text}");
    }
    for expected in
        ["subject_refused", "other", "invalid_client", "status=503", "it is no JSON object", "/token"]
    {
        assert!(log.contains(expected), "{expected}: {log}");
    }
    assert_eq!(log.matches("no token from the token endpoint").count(), 7, "once a failure: {log}");
}

//! The token exchange client against a token endpoint that does what a test says.

mod actor;
mod cache;
mod failures;
mod forms;
mod rotation;
mod secrets;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use skep_api::address::{Egress, Reach};
use skep_api::secret::Secret;
use skep_auth::exchange::{
    ClientAuth, ExchangeError, ExchangeObserver, ExchangeResult, ExchangeSettings, ExchangeSetupError,
    ExchangedToken, Exchanger, Grant, Subject, TokenType,
};
use skep_runtime::clock::Clock as _;
use skep_testkit::{ManualClock, Recorded, Reply, ScriptedServer, SeededRng};
use url::Url;

const ISSUER: &str = "https://idp.example";

/// A token endpoint with a client of it.
struct Bench {
    server: ScriptedServer,
    clock: ManualClock,
    observer: Arc<Observer>,
    exchanger: Arc<Exchanger>,
    settings: ExchangeSettings,
}

/// Counts what it is told.
#[derive(Debug, Default)]
struct Observer {
    hits: Mutex<usize>,
    asked: Mutex<Vec<ExchangeResult>>,
}

impl ExchangeObserver for Observer {
    fn hit(&self) {
        *self.hits.lock().unwrap() += 1;
    }

    fn asked(&self, result: ExchangeResult, _: Duration) {
        self.asked.lock().unwrap().push(result);
    }
}

impl Bench {
    async fn start(handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(handler, |_| {}).await
    }

    async fn with(
        handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static,
        change: impl FnOnce(&mut ExchangeSettings),
    ) -> Self {
        Self::on(ScriptedServer::start(handler).await, change)
    }

    fn on(server: ScriptedServer, change: impl FnOnce(&mut ExchangeSettings)) -> Self {
        let mut settings = settings(&server.url("/token"));
        change(&mut settings);
        let (clock, observer) = (ManualClock::default(), Arc::new(Observer::default()));
        let exchanger = build(&settings, &clock, &observer).unwrap();
        Self { server, clock, observer, exchanger, settings }
    }

    /// A token for a subject's token that lasts an hour.
    async fn token(&self, token: &str) -> Result<(Arc<ExchangedToken>, bool), ExchangeError> {
        self.exchanger.token(Some(self.subject(token, 3600))).await
    }

    /// The value of the header for a subject's token.
    async fn value(&self, token: &str) -> String {
        header(&self.token(token).await.unwrap().0)
    }

    fn subject<'t>(&self, token: &'t str, lasts: i64) -> Subject<'t> {
        subject(token, self.clock.unix_seconds() + lasts)
    }

    fn calls(&self) -> usize {
        self.server.requests().len()
    }

    fn results(&self) -> Vec<ExchangeResult> {
        self.observer.asked.lock().unwrap().clone()
    }

    fn hits(&self) -> usize {
        *self.observer.hits.lock().unwrap()
    }
}

fn build(
    settings: &ExchangeSettings,
    clock: &ManualClock,
    observer: &Arc<Observer>,
) -> Result<Arc<Exchanger>, ExchangeSetupError> {
    let observer = Arc::clone(observer) as Arc<dyn ExchangeObserver>;
    Exchanger::new(settings.clone(), Arc::new(clock.clone()), Arc::new(SeededRng::new(1)), observer)
}

fn settings(token_url: &str) -> ExchangeSettings {
    ExchangeSettings {
        token_url: Url::parse(token_url).unwrap(),
        client_id: "proxy".to_owned(),
        client_auth: ClientAuth::SecretBasic(Secret::new("s3cret")),
        credential_file: None,
        actor_file: None,
        grant: Grant::TokenExchange { subject_type: TokenType::AccessToken, actor: None },
        audience: "https://backend.example".to_owned(),
        resource: String::new(),
        scopes: Vec::new(),
        ca_pem: None,
        reach: Reach { http: true, private: true },
        egress: Egress { loopback: true, deny: Vec::new() },
        ttl_cap: None,
        negative_ttl: Duration::from_secs(5),
        timeout: Duration::from_secs(5),
    }
}

/// A token of alice; what is before a slash in it is the subject.
fn subject(token: &str, expires_at: i64) -> Subject<'_> {
    let subject = token.split_once('/').map_or("alice", |(subject, _)| subject);
    Subject { token, digest: Sha256::digest(token).into(), issuer: ISSUER, subject, expires_at }
}

fn header(token: &ExchangedToken) -> String {
    token.authorization.to_str().unwrap().to_owned()
}

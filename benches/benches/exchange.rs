//! What a token exchange costs when its token is at hand, and that it costs no network then.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::Context as _;
use divan::Bencher;
use divan::counter::ItemsCount;
use skep_api::address::{Egress, Reach};
use skep_api::secret::Secret;
use skep_auth::exchange::{
    ClientAuth, ExchangeObserver, ExchangeResult, ExchangeSettings, Exchanger, Grant, Subject, TokenType,
};
use skep_runtime::clock::SystemClock;
use skep_runtime::rng::SystemRng;
use skep_testkit::{Reply, ScriptedServer};
use tokio::runtime::Runtime;

/// Callers whose tokens are at hand.
const USERS: usize = 10_000;

static SETUP: OnceLock<Setup> = OnceLock::new();

struct Setup {
    runtime: Runtime,
    endpoint: ScriptedServer,
    exchanger: Arc<Exchanger>,
    expires_at: i64,
    next: AtomicUsize,
}

fn main() -> anyhow::Result<()> {
    let setup = SETUP.get_or_init(|| setup().unwrap_or_else(|error| fail(&error)));
    for user in 0..USERS {
        setup.runtime.block_on(setup.exchanger.token(Some(setup.subject(user))))?;
    }
    let before = setup.endpoint.requests().len();
    anyhow::ensure!(before == USERS, "{before} exchanges for {USERS} users");
    divan::main();
    let cold = setup.next.load(Ordering::SeqCst);
    let after = setup.endpoint.requests().len();
    anyhow::ensure!(after == before + cold, "warm exchanges went over the network: {before} {cold} {after}");
    Ok(())
}

fn fail(error: &anyhow::Error) -> ! {
    divan::black_box(error);
    std::process::exit(1)
}

/// A token that is at hand, for a caller like all others.
#[divan::bench]
fn warm(bencher: Bencher<'_, '_>) {
    let Some(setup) = SETUP.get() else { return };
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| setup.at_once(0));
}

/// The same, for ten thousand callers in turn.
#[divan::bench]
fn warm_ten_thousand_callers(bencher: Bencher<'_, '_>) {
    let Some(setup) = SETUP.get() else { return };
    let mut user = 0;
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        user = (user + 7919) % USERS;
        setup.at_once(user)
    });
}

/// For scale: a token that is not at hand, from an endpoint on this machine that answers at once.
#[divan::bench(sample_count = 200, sample_size = 1)]
fn cold(bencher: Bencher<'_, '_>) {
    let Some(setup) = SETUP.get() else { return };
    bencher.bench_local(|| {
        let user = USERS + setup.next.fetch_add(1, Ordering::SeqCst);
        setup.runtime.block_on(setup.exchanger.token(Some(setup.subject(user)))).is_ok()
    });
}

impl Setup {
    fn subject(&self, user: usize) -> Subject<'static> {
        let mut digest = [7; 32];
        for (place, byte) in digest.iter_mut().zip(user.to_le_bytes()) {
            *place = byte;
        }
        Subject {
            token: "header.payload.signature",
            digest,
            issuer: "https://idp.example",
            subject: "alice",
            expires_at: self.expires_at,
        }
    }

    /// What is at hand is there when it is first asked for; if not, this is no warm exchange.
    fn at_once(&self, user: usize) -> bool {
        let asked = pin!(self.exchanger.token(Some(self.subject(user))));
        match asked.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok((token, kept))) => kept && divan::black_box(&token.authorization).is_sensitive(),
            _ => std::process::abort(),
        }
    }
}

#[derive(Debug)]
struct Nobody;

impl ExchangeObserver for Nobody {
    fn hit(&self) {}

    fn asked(&self, _: ExchangeResult, _: Duration) {}
}

fn setup() -> anyhow::Result<Setup> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let endpoint = runtime.block_on(ScriptedServer::start(|_| {
        Reply::body(
            200,
            "application/json",
            r#"{"access_token":"header.payload.exchanged","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3600}"#,
        )
    }));
    let settings = ExchangeSettings {
        token_url: endpoint.url("/token").parse().context("a URL")?,
        client_id: "proxy".to_owned(),
        client_auth: ClientAuth::SecretBasic(Secret::new("secret")),
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
    };
    let clock = SystemClock::shared();
    let expires_at = clock.unix_seconds() + 7200;
    let exchanger = Exchanger::new(settings, clock, SystemRng::shared(), Arc::new(Nobody))?;
    Ok(Setup { runtime, endpoint, exchanger, expires_at, next: AtomicUsize::new(0) })
}

//! Elections in simulated time: processes that are paused, networks that fail, answers that are lost.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use skep_runtime::clock::{Clock, SharedClock};
use skep_runtime::rng::SharedRng;
use skep_testkit::SeededRng;
use tokio_util::sync::CancellationToken;

use super::*;

/// Follows tokio's time, which tests pause. Each process has its own wall clock.
#[derive(Debug)]
struct SimulatedClock {
    start: Instant,
    wall: Timestamp,
}

impl SimulatedClock {
    fn shared(skew_seconds: i64) -> SharedClock {
        let wall = Timestamp::from_second(1_767_225_600 + skew_seconds).expect("a time");
        Arc::new(Self { start: tokio::time::Instant::now().into_std(), wall })
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.instant() - self.start).expect("not that long");
        self.wall.checked_add(elapsed).expect("a time")
    }

    fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// The one Lease that all see.
#[derive(Debug, Default)]
struct Server {
    lease: Mutex<Option<Lease>>,
    version: AtomicU64,
}

impl Server {
    fn present(&self) -> Option<Lease> {
        self.lease.lock().expect("a lock").clone()
    }

    fn write(&self, mut lease: Lease, expected: Option<&str>) -> Result<Lease, LeaseError> {
        let mut present = self.lease.lock().expect("a lock");
        let version = present.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if version.as_deref() != expected {
            return Err(LeaseError::Conflict);
        }
        let unchanged = present.as_ref().is_some_and(|present| present.spec == lease.spec);
        if !unchanged {
            let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
            lease.metadata.resource_version = Some(version.to_string());
        }
        *present = Some(lease.clone());
        Ok(lease)
    }

    fn force(&self, change: impl FnOnce(&mut Option<Lease>)) {
        let mut present = self.lease.lock().expect("a lock");
        change(&mut present);
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(lease) = present.as_mut() {
            lease.metadata.resource_version = Some(version.to_string());
        }
    }
}

/// What lies between one process and the server.
#[derive(Debug, Clone)]
struct Link {
    server: Arc<Server>,
    rng: SharedRng,
    down: Arc<AtomicBool>,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct Faults {
    /// Of 256 answers, how many are lost although the request was carried out.
    lost: AtomicU64,
    /// The longest way there or back, in milliseconds.
    longest: AtomicU64,
}

impl Faults {
    fn set(&self, lost: u64, longest: u64) {
        self.lost.store(lost, Ordering::SeqCst);
        self.longest.store(longest, Ordering::SeqCst);
    }
}

impl Link {
    fn good(server: &Arc<Server>) -> Self {
        Self::with(server, &(Arc::new(SeededRng::new(1)) as SharedRng), 0, 10)
    }

    fn with(server: &Arc<Server>, rng: &SharedRng, lost: u64, longest: u64) -> Self {
        let faults = Arc::new(Faults { lost: lost.into(), longest: longest.into() });
        Self { server: Arc::clone(server), rng: Arc::clone(rng), down: Arc::default(), faults }
    }

    fn draw(&self) -> u8 {
        let mut byte = [0_u8];
        self.rng.fill(&mut byte);
        byte[0]
    }

    async fn travel(&self) -> Result<(), LeaseError> {
        let longest = Duration::from_millis(self.faults.longest.load(Ordering::SeqCst));
        tokio::time::sleep(longest.mul_f64(f64::from(self.draw()) / 255.0)).await;
        if self.down.load(Ordering::SeqCst) {
            return Err(broken());
        }
        Ok(())
    }

    async fn ask<T>(&self, act: impl FnOnce(&Server) -> Result<T, LeaseError>) -> Result<T, LeaseError> {
        self.travel().await?;
        let answer = act(&self.server);
        if u64::from(self.draw()) < self.faults.lost.load(Ordering::SeqCst) {
            return Err(broken());
        }
        self.travel().await?;
        answer
    }
}

fn broken() -> LeaseError {
    let source = Box::new(kube::Error::Service("the network is down".into()));
    LeaseError::Api { verb: "reach", source }
}

impl Leases for Link {
    async fn get(&self) -> Result<Option<Lease>, LeaseError> {
        self.ask(|server| Ok(server.present())).await
    }

    async fn create(&self, lease: Lease) -> Result<Lease, LeaseError> {
        self.ask(|server| server.write(lease, None)).await
    }

    async fn replace(&self, lease: Lease) -> Result<Lease, LeaseError> {
        let version = lease.metadata.resource_version.clone();
        self.ask(|server| server.write(lease, version.as_deref())).await
    }
}

/// A process that can be stopped as SIGSTOP does: nothing of it runs, and time goes on.
struct Pausable<F> {
    paused: Arc<Pause>,
    inner: Pin<Box<F>>,
}

#[derive(Debug, Default)]
struct Pause {
    on: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl Pause {
    fn set(&self, on: bool) {
        self.on.store(on, Ordering::SeqCst);
        if let Some(waker) = self.waiting.lock().expect("a lock").take() {
            waker.wake();
        }
    }
}

impl<F: Future> Future for Pausable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.paused.on.load(Ordering::SeqCst) {
            *self.paused.waiting.lock().expect("a lock") = Some(context.waker().clone());
            return Poll::Pending;
        }
        self.inner.as_mut().poll(context)
    }
}

/// One operator process.
struct Process {
    gate: WriteGate,
    leading: watch::Receiver<bool>,
    paused: Arc<Pause>,
    link: Link,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<Result<(), LeaderError>>,
}

impl Process {
    fn start(identity: &str, link: Link, clock: &SharedClock) -> Self {
        let gate = WriteGate::closed(Arc::clone(clock), WRITE_MARGIN);
        let settings = ElectionSettings::new("ours", identity);
        let elector =
            Elector::new(link.clone(), settings, Arc::clone(clock), Arc::clone(&link.rng), gate.clone());
        let (leading, stop, paused) = (elector.leading(), CancellationToken::new(), Arc::default());
        let run = Pausable { paused: Arc::clone(&paused), inner: Box::pin(elector.run(stop.clone())) };
        Self { gate, leading, paused, link, stop, ended: tokio::spawn(run) }
    }

    /// Whether a write would be sent right now, by whatever else runs in that process.
    fn would_write(&self) -> bool {
        !self.paused.on.load(Ordering::SeqCst) && self.gate.check().is_ok()
    }

    async fn leads(&mut self) {
        let led = self.leading.wait_for(|leading| *leading).await;
        led.expect("it leads before it ends");
    }
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn the_second_waits_and_leads_as_soon_as_the_first_gives_up() {
    let (server, clock) = (Arc::<Server>::default(), SimulatedClock::shared(0));
    let mut first = Process::start("first", Link::good(&server), &clock);
    first.leads().await;
    let mut second = Process::start("second", Link::good(&server), &clock);
    seconds(120).await;
    assert!(first.would_write() && !second.would_write());
    first.stop.cancel();
    first.ended.await.expect("no panic").expect("given up, not lost");
    assert!(first.gate.check().is_err(), "closed before the lease was given up");
    let given_up = tokio::time::Instant::now();
    second.leads().await;
    assert!(given_up.elapsed() < Duration::from_secs(3), "{:?}", given_up.elapsed());
    let spec = server.present().and_then(|lease| lease.spec).expect("a lease");
    assert_eq!(spec.lease_transitions, Some(1));
    assert_eq!(spec.holder_identity.as_deref(), Some("second"));
    assert_eq!(spec.lease_duration_seconds, Some(15));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_was_paused_wakes_up_to_a_closed_gate_and_ends() {
    let (server, clock) = (Arc::<Server>::default(), SimulatedClock::shared(0));
    let mut first = Process::start("first", Link::good(&server), &clock);
    first.leads().await;
    let mut second = Process::start("second", Link::good(&server), &clock);
    seconds(5).await;
    first.paused.set(true);
    second.leads().await;
    // Nothing of the first has run since. Its very first look at the gate says no.
    assert!(first.gate.check().is_err());
    first.paused.set(false);
    let error = first.ended.await.expect("no panic").expect_err("it has lost the lead");
    assert!(matches!(error, LeaderError::NotRenewed { .. }), "{error}");
    assert!(second.would_write());
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_cut_off_stops_writing_before_another_begins() {
    let (server, clock) = (Arc::<Server>::default(), SimulatedClock::shared(0));
    let mut first = Process::start("first", Link::good(&server), &clock);
    first.leads().await;
    let mut second = Process::start("second", Link::good(&server), &clock);
    seconds(5).await;
    first.link.down.store(true, Ordering::SeqCst);
    let error = first.ended.await.expect("no panic").expect_err("it has lost the lead");
    assert!(error.to_string().contains("the network is down"), "{error}");
    assert!(first.gate.check().is_err() && !second.would_write());
    second.leads().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_taken_from_its_holder_is_lost_at_once() {
    let (server, clock) = (Arc::<Server>::default(), SimulatedClock::shared(0));
    let mut first = Process::start("first", Link::good(&server), &clock);
    first.leads().await;
    server.force(|lease| {
        let spec = lease.as_mut().and_then(|lease| lease.spec.as_mut()).expect("a lease");
        spec.holder_identity = Some("thief".to_owned());
    });
    let error = first.ended.await.expect("no panic").expect_err("it has lost the lead");
    assert_eq!(error.to_string(), "the Lease ours/toolhive-operator-leader-election was taken by thief");
    assert!(first.gate.check().is_err());
    let spec = server.present().and_then(|lease| lease.spec).expect("a lease");
    assert_eq!(spec.holder_identity.as_deref(), Some("thief"), "nothing was written over it");
}

#[tokio::test(start_paused = true)]
async fn a_label_on_the_lease_and_its_deletion_don_t_end_the_lead() {
    let (server, clock) = (Arc::<Server>::default(), SimulatedClock::shared(0));
    let mut first = Process::start("first", Link::good(&server), &clock);
    first.leads().await;
    server.force(|lease| {
        let labels = &mut lease.as_mut().expect("a lease").metadata.labels;
        labels.get_or_insert_default().insert("team".to_owned(), "a".to_owned());
    });
    seconds(30).await;
    assert!(first.would_write());
    let labels = server.present().and_then(|lease| lease.metadata.labels).expect("labels");
    assert_eq!(labels.get("team").map(String::as_str), Some("a"), "nobody's label is removed");
    server.force(|lease| *lease = None);
    seconds(30).await;
    assert!(first.would_write() && server.present().is_some());
}

#[tokio::test(start_paused = true)]
async fn no_clock_of_others_is_believed() {
    for skew in [-86_400, -20, 20, 86_400] {
        let server = Arc::<Server>::default();
        let mut first = Process::start("first", Link::good(&server), &SimulatedClock::shared(skew));
        first.leads().await;
        let mut second = Process::start("second", Link::good(&server), &SimulatedClock::shared(0));
        seconds(60).await;
        assert!(first.would_write() && !second.would_write(), "skew {skew}");
        first.link.down.store(true, Ordering::SeqCst);
        let cut = tokio::time::Instant::now();
        second.leads().await;
        let waited = cut.elapsed().as_secs();
        assert!((13..=21).contains(&waited), "skew {skew}: {waited} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_deleted_while_its_holder_is_cut_off_is_made_only_when_its_time_is_over() {
    let (server, clock) = (Arc::<Server>::default(), SimulatedClock::shared(0));
    let mut first = Process::start("first", Link::good(&server), &clock);
    first.leads().await;
    let mut second = Process::start("second", Link::good(&server), &clock);
    seconds(30).await;
    first.link.down.store(true, Ordering::SeqCst);
    server.force(|lease| *lease = None);
    while first.gate.check().is_ok() {
        assert!(!second.would_write());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    second.leads().await;
}

/// Whatever goes wrong, at each moment at most one process would write, and when it is over one does.
#[tokio::test(start_paused = true)]
async fn two_never_write_at_the_same_time_whatever_fails() {
    for seed in 0..40 {
        let rng: SharedRng = Arc::new(SeededRng::new(seed));
        let draw = |rng: &SharedRng| {
            let mut byte = [0_u8];
            rng.fill(&mut byte);
            u64::from(byte[0])
        };
        let server = Arc::<Server>::default();
        let mut processes: Vec<(Process, SharedClock)> = Vec::new();
        for (index, skew) in [0, 3_600, -86_400].into_iter().enumerate() {
            let clock = SimulatedClock::shared(skew);
            let link = Link::with(&server, &rng, 30, draw(&rng) * 10);
            processes.push((Process::start(&format!("p{index}"), link, &clock), clock));
        }
        let (mut led, mut restarts) = (0_u64, 0_u64);
        for step in 0..12_000_u64 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let writers = processes.iter().filter(|(process, _)| process.would_write()).count();
            assert!(writers <= 1, "seed {seed}, step {step}: {writers} would write");
            led += writers as u64;
            let quiet = step > 10_800;
            for (process, clock) in &mut processes {
                if process.ended.is_finished() {
                    restarts += 1;
                    let identity = format!("again-{seed}-{restarts}");
                    *process = Process::start(&identity, process.link.clone(), clock);
                }
                if quiet {
                    process.link.faults.set(0, 50);
                    process.link.down.store(false, Ordering::SeqCst);
                    process.paused.set(false);
                } else if step % 20 == 0 {
                    match draw(&rng) {
                        0..8 => process.paused.set(true),
                        8..40 => process.paused.set(false),
                        40..48 => process.link.down.store(true, Ordering::SeqCst),
                        48..90 => process.link.down.store(false, Ordering::SeqCst),
                        90..91 => process.stop.cancel(),
                        _ => {}
                    }
                }
            }
        }
        let writers = processes.iter().filter(|(process, _)| process.would_write()).count();
        assert_eq!(writers, 1, "seed {seed}: one leads once all is well");
        assert!(led > 2_000 && restarts > 0, "seed {seed}: led {led} steps, {restarts} restarts");
        for (process, _) in processes {
            process.ended.abort();
        }
    }
}

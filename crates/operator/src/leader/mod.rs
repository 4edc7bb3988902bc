//! One operator of several leads: the one that holds the Lease.
//!
//! Another's Lease counts as over only after this process saw it unchanged for as long as it lasts; no clock
//! but one's own is believed. Our own counts from before the write that renewed it was sent, so that it is
//! over here before it is over for anybody else. Each write carries the version that it replaces.

mod lease;
#[cfg(test)]
mod simulation;

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use skep_runtime::clock::SharedClock;
use skep_runtime::rng::SharedRng;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::lease::{ClusterLeases, LeaseError, Leases};
use crate::client::{Deadline, WriteGate};
use crate::settings::LEASE_NAME;

/// How much of the lease has to be left for a write to be sent.
pub const WRITE_MARGIN: Duration = Duration::from_secs(2);

/// How one takes part in an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElectionSettings {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who we are: never the same for two processes, also not for two in a row in one pod.
    pub identity: String,
    /// How long a lease lasts that nobody renews. Whole seconds.
    pub lease: Duration,
    /// A leader that could not renew for so long gives up. Shorter than `lease`.
    pub renew: Duration,
    /// Time between two tries, jitter aside.
    pub retry: Duration,
}

impl ElectionSettings {
    /// The times and the name that ToolHive's operator has, so that the two exclude each other.
    pub fn new(namespace: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: LEASE_NAME.to_owned(),
            identity: identity.into(),
            lease: Duration::from_secs(15),
            renew: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }

    /// A name for this process: that of its pod or host, and something random.
    pub fn identity(host: &str, rng: &SharedRng) -> String {
        let host = if host.is_empty() { "operator" } else { host };
        format!("{host}_{}", rng.uuid())
    }
}

/// Why a leader is none any more.
#[derive(Debug, Error)]
pub enum LeaderError {
    /// Another process wrote its name into the Lease.
    #[error("the Lease {lease} was taken by {holder}")]
    Taken {
        /// Namespace and name.
        lease: String,
        /// Who has it now.
        holder: String,
    },
    /// The Lease could not be renewed in time.
    #[error("the Lease {lease} could not be renewed for {} s; its last failure: {last}", after.as_secs())]
    NotRenewed {
        /// Namespace and name.
        lease: String,
        /// How long it was tried.
        after: Duration,
        /// What went wrong last.
        last: String,
    },
}

/// Takes part in an election, and keeps the gate open while it leads.
#[derive(Debug)]
pub struct Elector<L> {
    leases: L,
    settings: ElectionSettings,
    clock: SharedClock,
    rng: SharedRng,
    gate: WriteGate,
    leading: watch::Sender<bool>,
    /// Another's Lease, and when it was first seen as it is.
    observed: Option<(LeaseSpec, Instant)>,
    /// Our own, as the API server last gave it.
    held: Option<Held>,
}

#[derive(Debug, Clone)]
struct Held {
    lease: Lease,
    /// When the write that made it what it is was about to be sent.
    since: Deadline,
}

enum Renewal {
    Done,
    Taken { holder: String },
}

impl<L: Leases> Elector<L> {
    /// One that does nothing yet. `leases` must write without the gate.
    pub fn new(
        leases: L,
        settings: ElectionSettings,
        clock: SharedClock,
        rng: SharedRng,
        gate: WriteGate,
    ) -> Self {
        let leading = watch::Sender::new(false);
        Self { leases, settings, clock, rng, gate, leading, observed: None, held: None }
    }

    /// True while it leads.
    pub fn leading(&self) -> watch::Receiver<bool> {
        self.leading.subscribe()
    }

    /// Waits for the lead, keeps it until `stop`, and gives it up then. Stop it only after the last write: the
    /// gate is closed first.
    ///
    /// # Errors
    /// When the lead was lost. The gate is closed by then. The process has to end: what it believes about the
    /// cluster may be old.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), LeaderError> {
        let result = self.lead(&stop).await;
        self.gate.close();
        self.leading.send_replace(false);
        result?;
        self.release().await;
        Ok(())
    }

    async fn lead(&mut self, stop: &CancellationToken) -> Result<(), LeaderError> {
        while !self.try_acquire_and_say().await {
            if self.pause(stop, self.settings.retry).await {
                return Ok(());
            }
        }
        self.leading.send_replace(true);
        tracing::info!(lease = self.lease_name(), identity = self.settings.identity, "this operator leads");
        self.keep(stop).await
    }

    /// Renews until told to stop.
    async fn keep(&mut self, stop: &CancellationToken) -> Result<(), LeaderError> {
        let mut last = "none".to_owned();
        loop {
            // Never past the moment at which it has to give up.
            let wait = self.settings.retry.min(self.left_to_renew());
            if self.pause(stop, wait).await {
                return Ok(());
            }
            let left = self.left_to_renew();
            if left.is_zero() {
                return Err(self.not_renewed(last));
            }
            match tokio::time::timeout(left.min(self.patience()), self.renew()).await {
                Ok(Ok(Renewal::Done)) => {}
                Ok(Ok(Renewal::Taken { holder })) => {
                    return Err(LeaderError::Taken { lease: self.lease_name(), holder });
                }
                Ok(Err(error)) => {
                    last = skep_runtime::logging::chain(&error);
                    tracing::warn!(error = last, "the lease could not be renewed; trying again");
                }
                Err(_) => {
                    "no answer in time".clone_into(&mut last);
                    tracing::warn!("the API server did not answer in time when the lease was to be renewed");
                }
            }
        }
    }

    async fn try_acquire_and_say(&mut self) -> bool {
        match tokio::time::timeout(self.patience(), self.try_acquire()).await {
            Ok(Ok(acquired)) => acquired,
            Ok(Err(error)) => {
                let error = skep_runtime::logging::chain(&error);
                tracing::warn!(
                    lease = self.lease_name(),
                    error,
                    "can't take part in the election; trying again"
                );
                false
            }
            Err(_) => {
                tracing::warn!(
                    lease = self.lease_name(),
                    "the API server did not answer in time; trying again"
                );
                false
            }
        }
    }

    async fn try_acquire(&mut self) -> Result<bool, LeaseError> {
        let Some(present) = self.leases.get().await? else {
            if !self.may_make() {
                return Ok(false);
            }
            let since = Deadline::now(&self.clock);
            return match self.leases.create(self.taken(None)).await {
                Ok(lease) => Ok(self.hold(lease, since)),
                Err(LeaseError::Conflict) => Ok(false),
                Err(error) => Err(error),
            };
        };
        if !self.may_take(&present) {
            return Ok(false);
        }
        let since = Deadline::now(&self.clock);
        match self.leases.replace(self.taken(Some(present))).await {
            Ok(lease) => Ok(self.hold(lease, since)),
            // Another was faster.
            Err(LeaseError::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Renews what we hold. When somebody has written it, looks who.
    async fn renew(&mut self) -> Result<Renewal, LeaseError> {
        let Some(held) = self.held.clone() else { return Err(LeaseError::Conflict) };
        let since = Deadline::now(&self.clock);
        match self.leases.replace(self.renewed(held.lease)).await {
            Ok(lease) => {
                self.hold(lease, since);
                return Ok(Renewal::Done);
            }
            Err(LeaseError::Conflict) => {}
            Err(error) => return Err(error),
        }
        let since = Deadline::now(&self.clock);
        let lease = match self.leases.get().await? {
            Some(present) if holder(&present) == self.settings.identity => {
                // A label, an annotation, or a renewal of ours whose answer was lost.
                self.leases.replace(self.renewed(present)).await?
            }
            Some(present) => return Ok(Renewal::Taken { holder: holder(&present).to_owned() }),
            // Deleted by hand. Whoever makes it first has it.
            None => self.leases.create(self.taken(None)).await?,
        };
        self.hold(lease, since);
        Ok(Renewal::Done)
    }

    /// Names nobody as the holder, so that another can begin at once. A failure is only told: the lease ends
    /// by itself.
    async fn release(&mut self) {
        let Some(held) = self.held.take() else { return };
        let mut lease = self.renewed(held.lease);
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        match tokio::time::timeout(self.patience(), self.leases.replace(lease)).await {
            Ok(Ok(_)) => tracing::info!(lease = self.lease_name(), "the lease is given up"),
            Ok(Err(LeaseError::Conflict)) => {
                tracing::info!(lease = self.lease_name(), "the lease was not ours any more");
            }
            _ => tracing::warn!(
                lease = self.lease_name(),
                "the lease could not be given up; it ends by itself"
            ),
        }
    }

    fn hold(&mut self, lease: Lease, since: Deadline) -> bool {
        self.gate.open_until(since.plus(self.settings.lease));
        self.held = Some(Held { lease, since });
        true
    }

    /// Whether a Lease that is not there may be made. Whoever was seen to hold it before it was deleted may
    /// not know yet, so that one's time has to pass. Who never saw a holder begins at once.
    fn may_make(&mut self) -> bool {
        let now = self.clock.instant();
        let Some((spec, since)) = &mut self.observed else { return true };
        if spec.renew_time.take().is_some() {
            // Seen for the first time without: its time is counted from here.
            *since = now;
        }
        now.saturating_duration_since(*since) >= lasts(spec).unwrap_or(self.settings.lease)
    }

    /// Whether a Lease is nobody's, ours, or over.
    fn may_take(&mut self, lease: &Lease) -> bool {
        let holder = holder(lease);
        if holder.is_empty() || holder == self.settings.identity {
            return true;
        }
        let spec = lease.spec.clone().unwrap_or_default();
        let now = self.clock.instant();
        match &self.observed {
            Some((seen, since)) if *seen == spec => {
                now.saturating_duration_since(*since) >= lasts(&spec).unwrap_or(self.settings.lease)
            }
            seen => {
                let known = seen.as_ref().and_then(|(spec, _)| spec.holder_identity.as_deref());
                if known != Some(holder) {
                    tracing::info!(lease = self.lease_name(), holder, "another operator leads; waiting");
                }
                self.observed = Some((spec, now));
                false
            }
        }
    }

    /// The Lease as it is when we take it.
    fn taken(&self, present: Option<Lease>) -> Lease {
        let fresh = present.is_none();
        let mut lease = present.unwrap_or_default();
        lease.metadata.name = Some(self.settings.name.clone());
        lease.metadata.namespace = Some(self.settings.namespace.clone());
        lease.metadata.managed_fields = None;
        let now = lease::micro_time(self.clock.now());
        let spec = lease.spec.get_or_insert_default();
        let changes_hands = spec.holder_identity.as_deref() != Some(self.settings.identity.as_str());
        if changes_hands {
            spec.acquire_time = Some(now.clone());
            let before = if fresh { None } else { Some(spec.lease_transitions.unwrap_or(0)) };
            spec.lease_transitions = Some(before.map_or(0, |count| count.saturating_add(1)));
        }
        spec.holder_identity = Some(self.settings.identity.clone());
        spec.lease_duration_seconds = Some(i32::try_from(self.settings.lease.as_secs()).unwrap_or(i32::MAX));
        spec.renew_time = Some(lease::later(now, spec.renew_time.as_ref().filter(|_| !changes_hands)));
        lease
    }

    fn renewed(&self, lease: Lease) -> Lease {
        self.taken(Some(lease))
    }

    fn left_to_renew(&self) -> Duration {
        self.held
            .as_ref()
            .map_or(Duration::ZERO, |held| held.since.plus(self.settings.renew).left(&self.clock))
    }

    /// How long one try may take: a hanging connection must leave time for another.
    fn patience(&self) -> Duration {
        self.settings.renew / 2
    }

    /// Waits, with jitter; true when told to stop.
    async fn pause(&self, stop: &CancellationToken, wait: Duration) -> bool {
        let mut byte = [0_u8; 1];
        self.rng.fill(&mut byte);
        // Only ever shorter, so that no deadline is missed for it.
        let wait = wait.mul_f64(1.0 - f64::from(byte[0]) / 1024.0);
        tokio::select! {
            biased;
            () = stop.cancelled() => true,
            () = tokio::time::sleep(wait) => false,
        }
    }

    fn not_renewed(&self, last: String) -> LeaderError {
        LeaderError::NotRenewed { lease: self.lease_name(), after: self.settings.renew, last }
    }

    fn lease_name(&self) -> String {
        format!("{}/{}", self.settings.namespace, self.settings.name)
    }
}

/// How long a Lease lasts, when it says something sensible.
fn lasts(spec: &LeaseSpec) -> Option<Duration> {
    let seconds = u64::try_from(spec.lease_duration_seconds?).ok()?;
    (seconds > 0).then_some(Duration::from_secs(seconds))
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

//! What only the holder of the Lease does: keep the Secret and the announcements as they should be.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, SelectAll};
use jiff::Timestamp;
use kube::Client;
use skep_runtime::clock::SharedClock;
use skep_runtime::health::Readiness;
use skep_runtime::rng::SharedRng;
use thiserror::Error;
use tokio::sync::watch;

use super::announce::{AnnounceError, Configuration, Told};
use super::authority::{self, MakeError};
use super::kept::{self, CA_CERTIFICATE, CA_KEY, CERTIFICATE, KEY, Kept};
use super::run::Pace;
use super::secret::{SecretError, Store, Version};
use super::step::{Step, Wanted, step};
use crate::client::{GateClosed, WriteGate};
use crate::cluster::feed::chain;
use crate::webhook::settings::SelfSigned;

/// The part of readiness's warnings that is about keeping the certificate.
pub const PART: &str = "certificate authority";

/// Why a turn came to nothing. All of them are tried again.
#[derive(Debug, Error)]
pub enum KeepError {
    /// The Secret could not be read or written.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A configuration could not be told.
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    /// A certificate could not be made.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// Another replica holds the Lease by now.
    #[error("nothing is written without the Lease")]
    Gate(#[from] GateClosed),
}

impl KeepError {
    /// Whether somebody else was faster, so that there is something new to see at once.
    fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::Secret(SecretError::Conflict { .. }) | Self::Announce(AnnounceError::Conflict { .. })
        )
    }
}

/// Keeps Secret and announcements.
pub(super) struct Keeper {
    store: Store,
    configurations: Vec<Configuration>,
    settings: SelfSigned,
    wanted: Wanted,
    gate: WriteGate,
    readiness: Readiness,
    clock: SharedClock,
    rng: SharedRng,
    pace: Pace,
    told: Mutex<Option<Announced>>,
}

/// A bundle that every configuration holds.
#[derive(Debug, Clone)]
struct Announced {
    bundle: String,
    /// Since when, as far as this process knows.
    since: Instant,
}

/// When to look again, should nothing happen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Now,
    After(Duration),
}

impl Keeper {
    pub(super) fn new(
        client: &Client,
        settings: SelfSigned,
        gate: WriteGate,
        readiness: Readiness,
        (clock, rng): (SharedClock, SharedRng),
        pace: Pace,
    ) -> Self {
        let configurations = [
            Configuration::mutating(client, &settings.mutating_configuration),
            Configuration::validating(client, &settings.validating_configuration),
        ];
        let (service, namespace) = (&settings.service, &settings.namespace);
        let names = vec![
            service.clone(),
            format!("{service}.{namespace}"),
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
        ];
        // Not so long that certificates with a short life overtake it.
        let retire = pace.retire.min(settings.validity / 3);
        Self {
            store: Store::new(client.clone(), namespace, &settings.secret),
            configurations: configurations.into_iter().flatten().collect(),
            wanted: Wanted { names, retire },
            settings,
            gate,
            readiness,
            clock,
            rng,
            pace,
            told: Mutex::new(None),
        }
    }

    /// Does what is due, again and again, for as long as this is polled. `seen` tells that the Secret may have
    /// changed.
    pub(super) async fn run(&self, mut seen: watch::Receiver<u64>) {
        let mut changes: SelectAll<BoxStream<'static, ()>> =
            self.configurations.iter().map(Configuration::changes).collect();
        let mut failures: u32 = 0;
        loop {
            seen.mark_unchanged();
            let wait = match self.turn().await {
                Ok(next) => {
                    failures = 0;
                    match next {
                        Next::Now => continue,
                        Next::After(wait) => wait.min(self.pace.poll),
                    }
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.failed(&error, failures)
                }
            };
            tokio::select! {
                Some(()) = changes.next() => {}
                Ok(()) = seen.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Says what went wrong, and how long to wait.
    fn failed(&self, error: &KeepError, failures: u32) -> Duration {
        let wait = self.pace.retry.saturating_mul(2_u32.saturating_pow(failures.min(8).saturating_sub(1)));
        if error.is_conflict() && failures < 5 {
            tracing::debug!(%error, "somebody was faster; looking again");
            return self.pace.retry / 10;
        }
        let text = chain(error);
        tracing::warn!(error = text, "the webhook's certificate can't be kept; trying again");
        self.readiness.warn(PART, text);
        wait.min(self.pace.poll)
    }

    /// One step: looks at everything, does the one thing that is due first.
    async fn turn(&self) -> Result<Next, KeepError> {
        let now = self.clock.now();
        let version = self.store.get().await?.unwrap_or_default();
        let kept = Kept::read(&version.data, now);
        let step = step(&kept, &self.wanted, now);
        if step == Step::Authority {
            self.make_authority(&version, &kept, now).await?;
            return Ok(Next::Now);
        }
        // Always: somebody may have changed it, and a new one is announced before it is used.
        let announced = self.announce(&kept).await?;
        match step {
            Step::Authority => Ok(Next::Now),
            Step::Leaf { overlap } => {
                let left = if overlap { self.left_to_settle(&announced) } else { Duration::ZERO };
                if !left.is_zero() {
                    return Ok(Next::After(left));
                }
                self.make_leaf(&version, &kept, now).await?;
                Ok(Next::Now)
            }
            Step::Retire { keep } => {
                self.retire(&version, &kept, keep).await?;
                Ok(Next::Now)
            }
            Step::Rest { until } => {
                let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
                // What is due in a moment is not due yet.
                Ok(Next::After(left.max(Duration::from_millis(100))))
            }
        }
    }

    /// A new CA, in front of those that are trusted so far. What is presented stays as it is.
    async fn make_authority(&self, version: &Version, kept: &Kept, now: Timestamp) -> Result<(), KeepError> {
        let made = authority::authority(self.settings.ca_validity, now, &self.rng)?;
        let mut trusted = kept.authorities.clone();
        if trusted.is_empty() {
            // The Secret is new, or was emptied or broken. Replicas may still present what they had, and
            // whom the API server was told to trust for that is in the configurations alone.
            for configuration in &self.configurations {
                let pem = configuration.trusted().await?;
                for authority in kept::authorities(&pem, now) {
                    if !trusted.contains(&authority) {
                        trusted.push(authority);
                    }
                }
            }
        }
        let all = format!("{}{}", made.certificate, kept::bundle(&trusted));
        // As it is kept: no more than there may be, each once.
        let all = kept::bundle(&kept::authorities(all.as_bytes(), now));
        self.write(version, &[(CA_CERTIFICATE, all.as_str()), (CA_KEY, made.key.expose())]).await?;
        tracing::info!(secret = self.store.name(), "a new CA was made; it is announced before it is used");
        Ok(())
    }

    /// A new certificate of the CA that signs.
    async fn make_leaf(&self, version: &Version, kept: &Kept, now: Timestamp) -> Result<(), KeepError> {
        let Some((signer, key)) = kept.signer() else { return Ok(()) };
        let made = authority::server(
            &self.wanted.names,
            self.settings.validity,
            (&signer.certificate, key),
            signer.not_after,
            now,
            &self.rng,
        )?;
        self.write(version, &[(CERTIFICATE, made.certificate.as_str()), (KEY, made.key.expose())]).await?;
        tracing::info!(secret = self.store.name(), "a new certificate was made");
        Ok(())
    }

    /// The first CAs stay; others sign nothing any more, or are over.
    async fn retire(&self, version: &Version, kept: &Kept, keep: usize) -> Result<(), KeepError> {
        let bundle = kept.authorities.get(..keep).map(kept::bundle).unwrap_or_default();
        self.write(version, &[(CA_CERTIFICATE, bundle.as_str())]).await?;
        tracing::info!(secret = self.store.name(), "CAs that sign nothing any more were withdrawn");
        Ok(())
    }

    /// Sees to it that every configuration holds the bundle.
    async fn announce(&self, kept: &Kept) -> Result<Announced, KeepError> {
        let bundle = kept.bundle();
        let (mut changed, mut missing) = (false, Vec::new());
        for configuration in &self.configurations {
            self.gate.check()?;
            match configuration.tell(&bundle).await? {
                Told::Already => {}
                Told::Now => {
                    changed = true;
                    tracing::info!(%configuration, "the CA was announced");
                }
                Told::Nobody => missing.push(configuration.to_string()),
            }
        }
        if missing.is_empty() {
            self.readiness.unwarn(PART);
        } else {
            let missing = missing.join(" and no ");
            self.readiness
                .warn(PART, format!("there is no {missing}, so the API server does not call this webhook"));
        }
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let same = told.clone().filter(|told| !changed && told.bundle == bundle);
        let announced = same.unwrap_or_else(|| Announced { bundle, since: self.clock.instant() });
        *told = Some(announced.clone());
        Ok(announced)
    }

    /// How long API servers still need to learn what was announced.
    fn left_to_settle(&self, announced: &Announced) -> Duration {
        self.pace.settle.min(self.settings.validity / 10).saturating_sub(self.clock.since(announced.since))
    }

    async fn write(&self, version: &Version, changes: &[(&str, &str)]) -> Result<(), KeepError> {
        self.gate.check()?;
        Ok(self.store.write(version, changes).await?)
    }
}

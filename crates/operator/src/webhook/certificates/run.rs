//! The serving certificate for as long as the webhook runs.

use std::time::Duration;

use kube::Client;
use skep_runtime::clock::SharedClock;
use skep_runtime::health::Readiness;
use skep_runtime::rng::SharedRng;
use skep_runtime::tls::{CertificateFiles, CertificateSlot, watch_files};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::follow::follow;
use super::keep::Keeper;
use crate::client::WriteGate;
use crate::cluster::feed::chain;
use crate::leader::{ClusterLeases, ElectionSettings, Elector, WRITE_MARGIN};
use crate::webhook::settings::{CertificateSource, SelfSigned};

/// How often things happen. The default is for clusters; tests have less patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How often Secret and configurations are looked at though no watch told anything.
    pub poll: Duration,
    /// Wait after the first failure; doubled with each further one, up to `poll`.
    pub retry: Duration,
    /// How long API servers may need to learn of a new CA. A tenth of the certificate's validity, if that is
    /// shorter.
    pub settle: Duration,
    /// How long after the last certificate of a CA was replaced the CA is withdrawn. A third of the
    /// certificate's validity, if that is shorter.
    pub retire: Duration,
    /// How long the Lease lasts, and how much of it must be left for a write.
    pub lease: Duration,
    /// See [`ElectionSettings::renew`].
    pub renew: Duration,
    /// See [`ElectionSettings::retry`].
    pub elect: Duration,
    /// How much of the Lease has to be left for a write to be sent.
    pub margin: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(30),
            retry: Duration::from_secs(1),
            settle: Duration::from_secs(10),
            retire: Duration::from_secs(3600),
            lease: Duration::from_secs(15),
            renew: Duration::from_secs(10),
            elect: Duration::from_secs(2),
            margin: WRITE_MARGIN,
        }
    }
}

/// What this is made of.
#[derive(Clone)]
pub struct Parts {
    /// Reads and writes. No gate is needed: nothing is written without the Lease.
    pub client: Client,
    /// Where the certificate comes from.
    pub source: CertificateSource,
    /// Who we are in the election ([`ElectionSettings::identity`]); for a certificate in files nobody asks.
    pub identity: String,
    /// Where the certificate goes.
    pub slot: CertificateSlot,
    /// Told about what is wrong with keeping the certificate, under [`super::PART`].
    pub readiness: Readiness,
    pub clock: SharedClock,
    pub rng: SharedRng,
    pub pace: Pace,
}

/// Keeps a certificate in `slot` until `stop`, and gives the Lease up then. What goes wrong is told to
/// readiness, logged and tried again.
pub async fn run(parts: Parts, stop: CancellationToken) {
    match parts.source.clone() {
        CertificateSource::Files { certificate, key } => {
            let files = CertificateFiles { certificate, key };
            stop.run_until_cancelled(watch_files(files, parts.slot)).await;
        }
        CertificateSource::SelfSigned(settings) => {
            let (seen, changes) = watch::channel(0);
            let place = (settings.namespace.as_str(), settings.secret.as_str());
            let following = follow(parts.client.clone(), place, parts.slot.clone(), seen, parts.pace.poll);
            tokio::join!(stop.run_until_cancelled(following), elect(&parts, &settings, changes, &stop));
        }
    }
}

/// Takes part in elections, and keeps the certificate whenever one is won.
async fn elect(
    parts: &Parts,
    settings: &SelfSigned,
    changes: watch::Receiver<u64>,
    stop: &CancellationToken,
) {
    while !stop.is_cancelled() {
        let gate = WriteGate::closed(parts.clock.clone(), parts.pace.margin);
        let leases = ClusterLeases::new(parts.client.clone(), &settings.namespace, &settings.secret);
        let election = ElectionSettings {
            name: settings.secret.clone(),
            lease: parts.pace.lease,
            renew: parts.pace.renew,
            retry: parts.pace.elect,
            ..ElectionSettings::new(settings.namespace.as_str(), parts.identity.as_str())
        };
        let elector = Elector::new(leases, election, parts.clock.clone(), parts.rng.clone(), gate.clone());
        let keeper = Keeper::new(
            &parts.client,
            settings.clone(),
            gate,
            parts.readiness.clone(),
            (parts.clock.clone(), parts.rng.clone()),
            parts.pace,
        );
        let end = CancellationToken::new();
        let leading = elector.leading();
        let working = async {
            stop.run_until_cancelled(while_leading(&keeper, changes.clone(), leading)).await;
            // Only now, so that nothing is written after the Lease was given up.
            end.cancel();
        };
        let (ended, ()) = tokio::join!(elector.run(end.clone()), working);
        // Whoever holds the Lease now says what is wrong.
        parts.readiness.unwarn(super::PART);
        if let Err(error) = ended {
            tracing::warn!(error = chain(&error), "another replica keeps the certificate from now on");
            stop.run_until_cancelled(tokio::time::sleep(parts.pace.elect)).await;
        }
    }
}

/// Works from when the election is won until it is lost.
async fn while_leading(keeper: &Keeper, changes: watch::Receiver<u64>, mut leading: watch::Receiver<bool>) {
    if leading.wait_for(|leading| *leading).await.is_err() {
        return;
    }
    tokio::select! {
        () = keeper.run(changes) => {}
        _ = leading.wait_for(|leading| !*leading) => {}
    }
}

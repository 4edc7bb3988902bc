//! The webhook process: caches, certificate, config file, listener.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use skep_api::crd::Kind;
use skep_runtime::clock::SharedClock;
use skep_runtime::drain::{DrainWatch, Phase};
use skep_runtime::health::Readiness;
use skep_runtime::http::{HttpLimits, Load, Tls, serve_tls};
use skep_runtime::rng::SharedRng;
use skep_runtime::tls::{CertificateSlot, ServingCertificate, TlsError};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::certificates::{self, Pace};
use super::metrics::{PREFIX, WebhookMetrics};
use super::reload::{Policies, Reload};
use super::reviewer::Reviewer;
use super::server::Server;
use super::settings::WebhookSettings;
use crate::cluster::feed::{Feeds, Sink};
use crate::cluster::progress::Progress;
use crate::cluster::{Cluster, Resource};
use crate::run::{changed, discover};

/// Pause before the caches are filled anew after a fault of ours.
const AFTER_FAULT: Duration = Duration::from_secs(2);
/// Connections at a time; further ones wait.
const CONNECTIONS: usize = 1000;
/// How long the certificate may take to give up its Lease at the end.
const GRACE: Duration = Duration::from_secs(5);

/// What a webhook is made of.
#[derive(Clone)]
pub struct Parts {
    /// Reads, asks for SubjectAccessReviews, and writes what a certificate of our own needs.
    pub client: Client,
    pub settings: WebhookSettings,
    pub metrics: WebhookMetrics,
    pub readiness: Readiness,
    pub clock: SharedClock,
    pub rng: SharedRng,
    /// Where the certificate goes; other listeners of the process may present it too.
    pub serving: ServingCertificate,
    /// Who this is in elections: the name of the pod.
    pub identity: String,
}

/// Why a webhook could not start.
#[derive(Debug, Error)]
pub enum RunError {
    #[error("the HTTPS listener can't be set up")]
    Tls(#[from] TlsError),
}

/// Serves `listener` until the drain, and ends when everything has ended. Not ready before there is a certificate
/// and the caches are filled.
///
/// # Errors
/// When it can't even start. Everything else is tried again.
pub async fn run(parts: Parts, listener: TcpListener, drain: DrainWatch) -> Result<(), RunError> {
    let tls = Tls::new(parts.serving.server_config()?);
    tls.register(parts.metrics.registry(), PREFIX);
    let slot = CertificateSlot::new(
        parts.serving.clone(),
        parts.readiness.clone(),
        parts.metrics.certificates().clone(),
        Arc::clone(&parts.clock),
    );
    let policies = Policies::new(parts.settings.policy.clone());
    let reviewer = Arc::new(Reviewer::new(
        parts.client.clone(),
        &parts.settings,
        policies.clone(),
        parts.metrics.clone(),
        Arc::clone(&parts.clock),
    ));
    parts.readiness.not_ready("discovery", "the API server has not been asked yet");
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(certificates::run(
        certificates::Parts {
            client: parts.client.clone(),
            source: parts.settings.certificates.clone(),
            identity: parts.identity.clone(),
            slot,
            readiness: parts.readiness.clone(),
            clock: Arc::clone(&parts.clock),
            rng: Arc::clone(&parts.rng),
            pace: Pace::default(),
        },
        stop.clone(),
    ));
    if let Some(file) = parts.settings.config_file.clone() {
        let reload = Reload {
            file,
            base: parts.settings.config_base.clone(),
            policies,
            readiness: parts.readiness.clone(),
            metrics: parts.metrics.clone(),
        };
        let stop = stop.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(reload.run()).await;
        });
    }
    tasks.spawn({
        let (parts, reviewer, stop) = (parts.clone(), Arc::clone(&reviewer), stop.clone());
        async move {
            stop.run_until_cancelled(know(&parts, &reviewer)).await;
        }
    });
    let server = Arc::new(Server::new(reviewer));
    let mut stopped = drain.clone();
    // One connection of an API server carries one review at a time, and each costs memory.
    let limits = HttpLimits { connections: CONNECTIONS, ..HttpLimits::default() };
    serve_tls(listener, tls, server, limits, drain, Load::default()).await;
    stop.cancel();
    let ended = async { while tasks.join_next().await.is_some() {} };
    tokio::select! {
        ended = tokio::time::timeout(GRACE, ended) => if ended.is_err() {
            tracing::warn!("not everything ended in time");
        },
        () = stopped.reached(Phase::Stopped) => {}
    }
    Ok(())
}

/// What the webhook watches: what objects refer to, and workloads, whose names may collide.
pub fn watched() -> Vec<Resource> {
    Kind::ALL
        .into_iter()
        .filter(|kind| *kind != Kind::MCPServerEntry)
        .map(Resource::Ours)
        .chain([Resource::SecretMetadata, Resource::ConfigMapMetadata, Resource::Namespace])
        .collect()
}

/// Keeps the reviewer's caches filled, for as long as this is polled. When the API server has other kinds than
/// before, new caches are filled while the old ones go on.
async fn know(parts: &Parts, reviewer: &Reviewer) {
    let mut before: Option<Feeds> = None;
    loop {
        // Only the first time is there nothing to go on with.
        let readiness = if before.is_none() { parts.readiness.clone() } else { Readiness::new() };
        let capabilities = discover(&parts.client, &readiness).await;
        for kind in capabilities.missing() {
            tracing::warn!(%kind, "the CRD is not installed; objects of this kind are not looked at");
        }
        let cluster = Arc::new(Cluster::new(
            parts.client.clone(),
            capabilities.clone(),
            parts.settings.plan.clone(),
            Vec::new(),
        ));
        let sink: Sink = {
            let cluster = Arc::clone(&cluster);
            Arc::new(move |resource, change| cluster.forget_gone(resource, change))
        };
        let progress = Arc::new(Progress::new(readiness.clone(), Box::new(|_| {})));
        let mut feeds = Feeds::start_some(&parts.client, &cluster, &sink, Arc::clone(&progress), &watched());
        // Not before the watches have said what they wait for.
        readiness.ready("discovery");
        let changed = changed(&parts.client, capabilities);
        let mut known = false;
        let serving = async {
            progress.begun().await;
            tracing::info!("the caches are filled");
            reviewer.know(Arc::clone(&cluster));
            known = true;
            drop(before.take());
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = serving => {}
            () = changed => tracing::info!("the API server has other kinds than before; reading them anew"),
            () = feeds.broken() => {
                tracing::error!("the caches are filled anew after a fault of ours");
                tokio::time::sleep(AFTER_FAULT).await;
            }
        }
        if known {
            before = Some(feeds);
        }
    }
}

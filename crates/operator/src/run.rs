//! The operator: caches, leadership, workers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use kube::Client;
use skep_runtime::clock::SharedClock;
use skep_runtime::health::Readiness;
use skep_runtime::rng::SharedRng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::apply::Applier;
use crate::cluster::feed::{Feeds, Sink, chain};
use crate::cluster::{Capabilities, Cluster, Resource};
use crate::controllers::reports::{Asking, Reports};
use crate::controllers::{Anonymous, Context, Dropped, ErrorKind, Next, reconcile};
use crate::events::Events;
use crate::metrics::OperatorMetrics;
use crate::migrator;
use crate::observe::{Reporter, ReporterSettings};
use crate::queue::{Key, Queue};
use crate::settings::OperatorSettings;

/// How often the API server is asked what it has.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(60);
/// How long reconciles that run may take to end when the operator stops.
const GRACE: Duration = Duration::from_secs(10);

/// What an operator is made of.
#[derive(Clone)]
pub struct Parts {
    /// Reads always, writes only while this operator leads.
    pub client: Client,
    pub settings: OperatorSettings,
    pub events: Events,
    pub metrics: OperatorMetrics,
    pub readiness: Readiness,
    pub clock: SharedClock,
    pub rng: SharedRng,
    /// How proxies are asked for their report.
    pub reporter: ReporterSettings,
    /// True while this operator leads.
    pub leading: watch::Receiver<bool>,
    /// Told about every reconcile; for tests that count.
    pub observer: Option<Observer>,
}

/// Told about every reconcile, when it begins.
#[derive(Clone)]
pub struct Observer(pub Arc<dyn Fn(&Key) + Send + Sync>);

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

/// Why an operator ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The HTTP client for proxies could not be made.
    #[error("the client for asking proxies could not be made")]
    Reporter(#[from] skep_auth::client::FetchError),
}

/// Runs until `stop`. Caches are filled at once; objects are reconciled while `leading` says so. When the API
/// server gets or loses a kind that matters, everything starts anew.
///
/// # Errors
/// When it can't even start. Everything else is tried again.
pub async fn run(parts: Parts, stop: CancellationToken) -> Result<(), RunError> {
    let reporter = Reporter::new(parts.reporter.clone())?;
    while let Some(capabilities) = stop.run_until_cancelled(discover(&parts)).await {
        for kind in capabilities.missing() {
            tracing::warn!(%kind, "the CRD is not installed; objects of this kind are not looked at");
        }
        let generation = stop.child_token();
        let changed = async {
            loop {
                tokio::time::sleep(DISCOVERY_INTERVAL).await;
                match Capabilities::discover(&parts.client).await {
                    Ok(now) if now != capabilities => return,
                    Ok(_) => {}
                    Err(error) => tracing::warn!(error = chain(&error), "discovery failed"),
                }
            }
        };
        tokio::select! {
            () = serve(&parts, reporter.clone(), capabilities.clone(), generation.clone()) => {}
            () = lost(parts.leading.clone()) => {
                tracing::info!("this operator no longer leads; its work stops");
                generation.cancel();
            }
            () = changed => {
                tracing::info!("the API server has other kinds than before; starting anew");
                generation.cancel();
            }
        }
        if stop.is_cancelled() {
            break;
        }
    }
    Ok(())
}

/// Waits until this operator led and leads no more.
async fn lost(mut leading: watch::Receiver<bool>) {
    if leading.wait_for(|leading| *leading).await.is_err()
        || leading.wait_for(|leading| !*leading).await.is_err()
    {
        // Nobody decides about leadership any more; then it stays as it is.
        std::future::pending::<()>().await;
    }
}

/// What the API server has; asked until there is an answer.
async fn discover(parts: &Parts) -> Capabilities {
    let mut wait = Duration::from_secs(1);
    loop {
        parts.readiness.not_ready("discovery", "the API server has not been asked yet");
        match Capabilities::discover(&parts.client).await {
            Ok(found) => {
                parts.readiness.ready("discovery");
                return found;
            }
            Err(error) => {
                let error = chain(&error);
                parts.readiness.not_ready("discovery", error.as_str());
                tracing::warn!(error, "the API server can't be asked what it has; trying again");
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(30));
    }
}

/// One life: from empty caches to the end.
async fn serve(parts: &Parts, reporter: Reporter, capabilities: Capabilities, stop: CancellationToken) {
    let settings = &parts.settings;
    let namespaces = settings.namespaces.clone();
    let cluster =
        Arc::new(Cluster::new(parts.client.clone(), capabilities, settings.plan.clone(), namespaces));
    let queue = Arc::new(Queue::new(Arc::clone(&parts.rng)));
    let sink: Sink = {
        let (cluster, queue, metrics) = (Arc::clone(&cluster), Arc::clone(&queue), parts.metrics.clone());
        Arc::new(move |resource, change| {
            if let (Resource::Ours(kind), true) = (resource, change.came_or_went()) {
                metrics.custom_resources(kind, cluster.store(resource).len());
            }
            for key in cluster.triggered(resource, change) {
                queue.add(key);
            }
        })
    };
    let mut feeds = Feeds::start(&parts.client, &cluster, &sink, &parts.readiness);
    // Nobody decides from half of the truth.
    if stop.run_until_cancelled(feeds.synced()).await.is_none() {
        return;
    }
    let reports = Arc::new(Reports::default());
    let applier = Applier::new(parts.client.clone(), Arc::clone(&cluster), parts.metrics.clone());
    let context = Arc::new(Context {
        client: parts.client.clone(),
        cluster: Arc::clone(&cluster),
        applier,
        events: parts.events.clone(),
        metrics: parts.metrics.clone(),
        clock: Arc::clone(&parts.clock),
        reports: Arc::clone(&reports),
        anonymous: Anonymous::default(),
        dropped: Dropped::default(),
    });
    let mut leading = parts.leading.clone();
    let mut tasks = JoinSet::new();
    if stop.run_until_cancelled(leading.wait_for(|leading| *leading)).await.is_none() {
        return;
    }
    tracing::info!(objects = cluster.keys().len(), "the caches are filled, and this operator leads");
    for _ in 0..settings.workers.max(1) {
        tasks.spawn(work(Arc::clone(&context), Arc::clone(&queue), parts.observer.clone(), stop.clone()));
    }
    if settings.ask_proxies {
        let asking = Asking {
            cluster: Arc::clone(&cluster),
            queue: Arc::clone(&queue),
            reports,
            reporter,
            clock: Arc::clone(&parts.clock),
            rng: Arc::clone(&parts.rng),
        };
        tasks.spawn(asking.run(stop.clone()));
    }
    // Rights on namespaces alone don't reach CRDs.
    if settings.migrate && settings.namespaces.is_empty() {
        tasks.spawn(migrator::run(parts.client.clone(), parts.events.clone(), stop.clone()));
    }
    stop.cancelled().await;
    let ended = tokio::time::timeout(GRACE, async { while tasks.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!("some reconciles did not end in time; the next operator takes them up");
    }
    feeds.stop().await;
}

/// Takes one object after the other until `stop`. One that runs is finished.
async fn work(context: Arc<Context>, queue: Arc<Queue>, observer: Option<Observer>, stop: CancellationToken) {
    while let Some(key) = stop.run_until_cancelled(queue.take()).await {
        let (waiting, running) = queue.depth();
        context.metrics.queue(waiting, running);
        if let Some(Observer(observe)) = &observer {
            observe(&key);
        }
        let began = context.clock.instant();
        // A fault of ours in one object stops no other.
        let result = std::panic::AssertUnwindSafe(reconcile(&context, &key)).catch_unwind().await;
        let took = context.clock.since(began);
        match result {
            Ok(Ok(next)) => {
                queue.succeeded(&key);
                context.metrics.reconciled(key.kind, took, "success");
                if let Next::After(wait) = next {
                    queue.add_after(key.clone(), wait);
                }
            }
            // It went away in the meantime; the next look finds nothing.
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {
                context.metrics.reconciled(key.kind, took, ErrorKind::NotFound.as_str());
                queue.retry(key.clone());
            }
            Ok(Err(error)) => {
                let kind = error.kind();
                context.metrics.reconciled(key.kind, took, kind.as_str());
                let wait = queue.retry(key.clone());
                let error = error.text();
                tracing::warn!(object = %key, kind = kind.as_str(), error, ?wait, "a reconcile failed; it is tried again");
            }
            Err(_) => {
                context.metrics.reconciled(key.kind, took, "panic");
                let wait = queue.retry(key.clone());
                tracing::error!(object = %key, ?wait, "a reconcile panicked; it is tried again");
            }
        }
        queue.done(&key);
    }
}

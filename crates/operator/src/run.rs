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
use crate::cluster::progress::Progress;
use crate::cluster::{Answer, Capabilities, Cluster, Resource, Watcher};
use crate::controllers::registration::{Registrar, Registrations};
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
/// The same after it seemed to have lost something.
const DOUBT_INTERVAL: Duration = Duration::from_secs(10);
/// Pause before everything starts anew after a fault of ours.
const AFTER_FAULT: Duration = Duration::from_secs(2);
/// Clients that are registered at the same time.
const REGISTRARS: usize = 4;
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
    while let Some(capabilities) = stop.run_until_cancelled(discover(&parts.client, &parts.readiness)).await {
        for kind in capabilities.missing() {
            tracing::warn!(%kind, "the CRD is not installed; objects of this kind are not looked at");
        }
        let generation = stop.child_token();
        let serving = serve(&parts, reporter.clone(), capabilities.clone(), generation.clone());
        let changed = changed(&parts.client, capabilities);
        match live(serving, lost(parts.leading.clone()), changed, generation).await {
            End::Asked => {}
            End::Broken => {
                let message = "the operator starts anew after a fault of its own";
                tracing::error!(message);
                parts.readiness.not_ready("discovery", message);
                stop.run_until_cancelled(tokio::time::sleep(AFTER_FAULT)).await;
            }
            End::Lost => tracing::info!("this operator no longer leads; its work was stopped"),
            End::Changed => tracing::info!("the API server has other kinds than before; starting anew"),
        }
        if stop.is_cancelled() {
            break;
        }
    }
    Ok(())
}

/// How one life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// As it was told.
    Asked,
    /// A part of it ended by itself.
    Broken,
    /// This operator no longer leads.
    Lost,
    /// The API server has other kinds than before.
    Changed,
}

/// Lives until the end of `serving`. When the API server changed it may finish what it does; when the lead was
/// lost it is dropped at once, since somebody else may lead already.
async fn live(
    serving: impl Future<Output = End>,
    lost: impl Future<Output = ()>,
    changed: impl Future<Output = ()>,
    stop: CancellationToken,
) -> End {
    let (mut serving, mut lost) = (std::pin::pin!(serving), std::pin::pin!(lost));
    let end = tokio::select! {
        end = &mut serving => return end,
        () = &mut lost => End::Lost,
        () = changed => End::Changed,
    };
    stop.cancel();
    if end == End::Changed {
        tokio::select! {
            _ = &mut serving => {}
            () = &mut lost => return End::Lost,
        }
    }
    end
}

/// Waits until the API server has other things than `known`.
pub(crate) async fn changed(client: &Client, known: Capabilities) {
    let mut watcher = Watcher::new(known);
    let mut wait = DISCOVERY_INTERVAL;
    loop {
        tokio::time::sleep(wait).await;
        let now = Capabilities::discover(client).await;
        if let Err(error) = &now {
            tracing::warn!(error = chain(error), "discovery failed");
        }
        wait = match watcher.take(now.ok()) {
            Answer::Changed => return,
            Answer::Doubtful => DOUBT_INTERVAL,
            Answer::Same => DISCOVERY_INTERVAL,
        };
    }
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
pub(crate) async fn discover(client: &Client, readiness: &Readiness) -> Capabilities {
    let mut wait = Duration::from_secs(1);
    loop {
        readiness.not_ready("discovery", "the API server has not been asked yet");
        match Capabilities::discover(client).await {
            Ok(found) => return found,
            Err(error) => {
                let error = chain(&error);
                readiness.not_ready("discovery", error.as_str());
                tracing::warn!(error, "the API server can't be asked what it has; trying again");
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(30));
    }
}

/// One life: from empty caches to the end.
async fn serve(
    parts: &Parts,
    reporter: Reporter,
    capabilities: Capabilities,
    stop: CancellationToken,
) -> End {
    let settings = &parts.settings;
    let namespaces = settings.namespaces.clone();
    let cluster =
        Arc::new(Cluster::new(parts.client.clone(), capabilities, settings.plan.clone(), namespaces));
    let metrics = parts.metrics.clone();
    let queue =
        Arc::new(Queue::new(Arc::clone(&parts.rng), move |waiting, running| metrics.queue(waiting, running)));
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
    let progress = Arc::new(Progress::new(parts.readiness.clone(), {
        let (cluster, queue) = (Arc::clone(&cluster), Arc::clone(&queue));
        Box::new(move |namespace| {
            tracing::info!(namespace, "the caches are filled");
            // Those that were passed over until now.
            let known = |key: &Key| namespace.is_empty() || key.namespace == namespace;
            cluster.keys().into_iter().filter(known).for_each(|key| queue.add(key));
        })
    }));
    let mut feeds = Feeds::start(&parts.client, &cluster, &sink, Arc::clone(&progress));
    // Not before the watches have said what they wait for.
    parts.readiness.ready("discovery");
    let mut leading = parts.leading.clone();
    // Nobody decides from half of the truth.
    let begun = async {
        progress.begun().await;
        leading.wait_for(|leading| *leading).await.is_ok()
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => return End::Asked,
        () = feeds.broken() => return End::Broken,
        leads = begun => if !leads {
            // Nobody decides about leadership any more, so nobody leads.
            stop.cancelled().await;
            return End::Asked;
        },
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
        registrations: Arc::new(Registrations::new(settings.registration.clone(), Arc::clone(&parts.rng))),
    });
    tracing::info!(objects = cluster.keys().len(), "this operator leads");
    let mut tasks = JoinSet::new();
    for _ in 0..settings.workers.max(1) {
        let worker = Worker {
            context: Arc::clone(&context),
            queue: Arc::clone(&queue),
            progress: Arc::clone(&progress),
            observer: parts.observer.clone(),
        };
        tasks.spawn(worker.run(stop.clone()));
    }
    // Beside the workers, so that no reconcile waits for Keycloak.
    if let Some(registrar) =
        Registrar::new(Arc::clone(&context), Arc::clone(&queue), Arc::clone(&parts.rng)).map(Arc::new)
    {
        for _ in 0..REGISTRARS {
            tasks.spawn(Arc::clone(&registrar).run(stop.clone()));
        }
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
    let mut migrating = JoinSet::new();
    if settings.migrate && settings.namespaces.is_empty() {
        migrating.spawn(migrator::run(parts.client.clone(), parts.events.clone(), stop.clone()));
    }
    let end = tokio::select! {
        biased;
        () = stop.cancelled() => End::Asked,
        () = feeds.broken() => End::Broken,
        ended = tasks.join_next() => {
            tracing::error!(?ended, "a worker ended by itself");
            End::Broken
        }
    };
    stop.cancel();
    let ended = tokio::time::timeout(GRACE, async {
        while tasks.join_next().await.is_some() {}
        while migrating.join_next().await.is_some() {}
    });
    if ended.await.is_err() {
        tracing::warn!("some reconciles did not end in time; the next operator takes them up");
    }
    feeds.stop().await;
    end
}

/// Reconciles one object after the other.
struct Worker {
    context: Arc<Context>,
    queue: Arc<Queue>,
    progress: Arc<Progress>,
    observer: Option<Observer>,
}

impl Worker {
    /// Takes one object after the other until `stop`. One that runs is finished.
    async fn run(self, stop: CancellationToken) {
        while let Some(key) = stop.run_until_cancelled(self.queue.take()).await {
            // All of a namespace are added when it is known.
            if self.progress.knows(&key.namespace) {
                self.one(&key).await;
            }
            self.queue.done(&key);
        }
    }

    async fn one(&self, key: &Key) {
        let Self { context, queue, .. } = self;
        if let Some(Observer(observe)) = &self.observer {
            observe(key);
        }
        let began = context.clock.instant();
        // A fault of ours in one object stops no other.
        let result = std::panic::AssertUnwindSafe(reconcile(context, key)).catch_unwind().await;
        let took = context.clock.since(began);
        match result {
            Ok(Ok(next)) => {
                queue.succeeded(key);
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
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Ends three seconds after it was told. Gives how it all ended and whether this came to its end.
    async fn lived(lost: Option<u64>, changed: Option<u64>) -> (End, bool) {
        let finished = AtomicBool::new(false);
        let stop = CancellationToken::new();
        let serving = async {
            stop.cancelled().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            finished.store(true, Ordering::SeqCst);
            End::Asked
        };
        let after = |seconds: Option<u64>| async move {
            match seconds {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        let end = live(serving, after(lost), after(changed), stop.clone()).await;
        (end, finished.load(Ordering::SeqCst))
    }

    #[tokio::test(start_paused = true)]
    async fn what_runs_is_finished_when_the_api_server_changed_and_dropped_when_the_lead_is_lost() {
        assert_eq!(lived(None, Some(5)).await, (End::Changed, true));
        assert_eq!(lived(Some(5), None).await, (End::Lost, false));
        // Lost while what runs is being finished.
        assert_eq!(lived(Some(6), Some(5)).await, (End::Lost, false));
    }
}

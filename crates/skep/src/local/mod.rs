//! The local runtime behind `skep up`: plans put to work in this process, on loopback, without a cluster.

mod demo;
mod instance;
mod mounts;
mod ports;
mod printed;
mod ready;
pub(crate) mod signals;
mod watched;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use skep_api::crd::Kind;
use skep_proxy::audit::AuditSink;
use skep_proxy::metrics::ProxyMetrics;
use skep_proxy::service::{Proxy, Shared};
use skep_runtime::clock::SystemClock;
use skep_runtime::diagnostics::{DEFAULT_PORT, Diagnostics};
use skep_runtime::drain::{Drain, DrainTimes};
use skep_runtime::health::Readiness;
use skep_runtime::http::{HttpLimits, Load, serve};
use skep_runtime::logging::chain;
use skep_runtime::metrics::Metrics;
use skep_runtime::rng::SystemRng;
use skep_runtime::watch::{SteadyWatch, Trouble};

use crate::cmd::report::Report;
use crate::manifest::{Manifests, PlanOptions, PlannedObject, load, load_again};

use self::demo::Demo;
use self::instance::{Instance, Wanted};
use self::printed::say;

/// What `skep up` was asked to do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Manifests; none: the demo.
    pub(crate) paths: Vec<PathBuf>,
    /// File to write once everything is ready.
    pub(crate) ready_file: Option<PathBuf>,
    /// Where the demo's token socket is, when not at its default place.
    pub(crate) socket: Option<PathBuf>,
    /// Run the demo's identity provider and MCP server beside the manifests.
    pub(crate) demo: bool,
    /// Refuse servers that ask nobody who they are.
    pub(crate) require_auth: bool,
}

/// Name of an object: kind, namespace, name.
type Key = (Kind, String, String);

/// Proxies that run, by name; shared with `/status`.
type Running = Arc<Mutex<BTreeMap<Key, Arc<Proxy>>>>;

/// Parts that all proxies of the process share.
struct House {
    metrics: ProxyMetrics,
    audit: AuditSink,
    readiness: Readiness,
    options: Options,
    running: Running,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When a path can't be read, a manifest has errors at the start, or nothing can be run.
pub(crate) async fn up(options: Options) -> anyhow::Result<()> {
    let mut signals = signals::Signals::listen()?;
    if let Some(path) = &options.ready_file {
        // One of an earlier run would say that this one is ready.
        ready::remove(path)?;
    }
    let registry = Metrics::new();
    let house = House {
        metrics: ProxyMetrics::register(&registry),
        audit: AuditSink::stdout(),
        readiness: Readiness::new(),
        running: Running::default(),
        options: options.clone(),
    };
    let whole = Drain::new();
    let mut watch = SteadyWatch::new([]);
    let diagnostics = diagnostics(&house, &registry, &whole, watch.trouble()).await?;

    let own = !options.paths.is_empty();
    let demo = match !own || options.demo {
        true => Some(Demo::start(options.socket.as_deref(), own).await?),
        false => None,
    };
    // The files are watched before they are read: a change in between would be lost. One that isn't there is
    // for the reader to complain of.
    watch.set(watched::manifests(&options.paths).filter(|path| path.exists()));
    let mut manifests = match &demo {
        Some(demo) if !own => demo.manifests(),
        _ => load(&options.paths)?,
    };
    if let Some(demo) = &demo {
        demo.complete(&mut manifests);
    }
    let stdin = manifests.stdin().map(str::to_owned);

    let mut instances: BTreeMap<Key, Instance> = BTreeMap::new();
    start_all(&house, &manifests, demo.as_ref(), &mut instances, &mut watch).await?;
    warm(&instances).await;

    let issuer = demo.as_ref().map(Demo::issuer);
    printed::table(&instances, issuer.as_deref(), &diagnostics);
    if let Some(demo) = demo.as_ref().filter(|_| !own) {
        printed::commands(&instances, demo);
    }
    if let Some(path) = &options.ready_file {
        ready::write(path, issuer.as_deref(), &diagnostics, &instances)?;
    }

    loop {
        tokio::select! {
            () = signals.stop() => break,
            () = watch.changed() => {
                reload(&house, demo.as_ref(), stdin.as_deref(), &mut instances, &mut watch).await;
            }
        }
    }
    finish(instances, demo, &whole, &mut signals).await;
    Ok(())
}

/// The listener for metrics, health and status; its URL.
async fn diagnostics(
    house: &House,
    registry: &Metrics,
    whole: &Drain,
    trouble: Trouble,
) -> anyhow::Result<String> {
    let bound = ports::bind(DEFAULT_PORT).context("cannot open the listener for metrics")?;
    if let Some(taken) = bound.instead_of {
        say(&format!("port {taken} is taken; metrics are on port {} instead", bound.port));
    }
    let running = Arc::clone(&house.running);
    let status = move || {
        let proxies =
            running.lock().map(|running| running.values().map(|proxy| proxy.status()).collect::<Vec<_>>());
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "proxies": proxies.unwrap_or_default(),
            "files": trouble.status(),
        })
    };
    let handler = Diagnostics {
        metrics: registry.clone(),
        readiness: house.readiness.clone(),
        status: Arc::new(status),
        drain: whole.watch(),
    };
    let url = format!("http://127.0.0.1:{}/metrics", bound.port);
    let watch = whole.watch();
    tokio::spawn(serve(bound.listener, Arc::new(handler), HttpLimits::default(), watch, Load::default()));
    Ok(url)
}

/// The first start: an error in any manifest ends it, before anything half works.
async fn start_all(
    house: &House,
    manifests: &Manifests,
    demo: Option<&Demo>,
    instances: &mut BTreeMap<Key, Instance>,
    watch: &mut SteadyWatch,
) -> anyhow::Result<()> {
    let planned = manifests.plan_all(&PlanOptions::local(house.options.require_auth));
    let report = Report::new(manifests, &planned);
    printed::findings(&report);
    if report.has_errors() {
        anyhow::bail!(
            "the manifests have errors; nothing was started. `skep check -f PATH` shows them again"
        );
    }
    for object in planned.iter().filter(|object| object.kind == Kind::MCPServer) {
        say(&format!(
            "{}:{}: MCPServer {} is not run: this version runs MCPRemoteProxy only",
            object.file.display(),
            object.line,
            object.name
        ));
    }
    watch.set(watched::all(&house.options.paths, proxies(&planned), instances.values()));
    for object in proxies(&planned) {
        let (key, wanted) = wanted(manifests, object)?;
        let listener = demo.and_then(|demo| demo.listener_for(&object.name));
        let instance = Instance::start(&house.shared(), wanted, listener).await.with_context(|| {
            format!("{}:{}: {} cannot run", object.file.display(), object.line, object.name)
        })?;
        house.note(&key, Some(instance.proxy()));
        instances.insert(key, instance);
    }
    if instances.is_empty() {
        anyhow::bail!("there is no MCPRemoteProxy in the given files, so there is nothing to run");
    }
    Ok(())
}

/// Takes what changed. An object that can't be used keeps its last good version.
async fn reload(
    house: &House,
    demo: Option<&Demo>,
    stdin: Option<&str>,
    instances: &mut BTreeMap<Key, Instance>,
    watch: &mut SteadyWatch,
) {
    let mut manifests = match load_again(&house.options.paths, stdin) {
        Ok(manifests) => manifests,
        Err(error) => {
            say(&format!("error: {:#}; everything goes on as before", anyhow::Error::from(error)));
            return;
        }
    };
    if let Some(demo) = demo {
        demo.complete(&mut manifests);
    }
    let planned = manifests.plan_all(&PlanOptions::local(house.options.require_auth));
    let report = Report::new(&manifests, &planned);
    if report.has_errors() {
        printed::findings(&report);
    }
    watch.set(watched::all(&house.options.paths, proxies(&planned), instances.values()));
    let mut present: Vec<Key> = Vec::new();
    for object in proxies(&planned) {
        let key = key(object);
        present.push(key.clone());
        if object.planned.plan.is_none() {
            if let Some(instance) = instances.get_mut(&key) {
                instance.refuse("the manifest has errors");
                say(&format!("{} goes on with its last good version", object.name));
            }
            continue;
        }
        if let Err(error) = apply(house, &manifests, object, instances).await {
            say(&format!(
                "{}:{}: error: {}: {error:#}; {} goes on as before",
                object.file.display(),
                object.line,
                object.name,
                object.name
            ));
        }
    }
    // In a file that can't be read there may be objects that nobody took away.
    if manifests.is_broken() {
        return;
    }
    let gone: Vec<Key> = instances.keys().filter(|key| !present.contains(key)).cloned().collect();
    for key in gone {
        if let Some(instance) = instances.remove(&key) {
            house.note(&key, None);
            say(&format!("{} is gone; its calls are finished", key.2));
            tokio::spawn(instance.stop(LOCAL_DRAIN));
        }
    }
}

async fn apply(
    house: &House,
    manifests: &Manifests,
    object: &PlannedObject,
    instances: &mut BTreeMap<Key, Instance>,
) -> anyhow::Result<()> {
    let refused = |instance: Option<&mut Instance>, error: &anyhow::Error| {
        if let Some(instance) = instance {
            instance.refuse(&chain(error.as_ref()));
        }
    };
    let (key, wanted) =
        wanted(manifests, object).inspect_err(|error| refused(instances.get_mut(&key(object)), error))?;
    match instances.get_mut(&key) {
        Some(instance) if instance.has_same_port(&wanted) => {
            if instance.change(wanted)? {
                say(&format!("{} was changed", object.name));
            }
        }
        old => {
            let started = Instance::start(&house.shared(), wanted, None).await;
            let instance = started.inspect_err(|error| refused(old, error))?;
            house.note(&key, Some(instance.proxy()));
            say(&format!("{} runs at {}", object.name, instance.url()));
            if let Some(old) = instances.insert(key, instance) {
                tokio::spawn(old.stop(LOCAL_DRAIN));
            }
        }
    }
    Ok(())
}

/// Nobody balances load in front of a laptop, so there is nothing to wait for before the calls end.
const LOCAL_DRAIN: DrainTimes = DrainTimes { pre_stop: Duration::ZERO, grace: Duration::from_secs(30) };

/// Ctrl-C: calls that run come to their end; a second one ends at once.
async fn finish(
    instances: BTreeMap<Key, Instance>,
    demo: Option<Demo>,
    whole: &Drain,
    signals: &mut signals::Signals,
) {
    say("draining: calls that run are finished; Ctrl-C again ends at once");
    let stopping: Vec<_> = instances.into_values().map(|instance| instance.stop(LOCAL_DRAIN)).collect();
    let all = async {
        let mut tasks = tokio::task::JoinSet::new();
        for stop in stopping {
            tasks.spawn(stop);
        }
        while tasks.join_next().await.is_some() {}
        if let Some(demo) = demo {
            demo.stop().await;
        }
        whole.run(DrainTimes { pre_stop: Duration::ZERO, grace: Duration::ZERO }, async {}).await;
    };
    tokio::select! {
        () = all => {}
        () = signals.stop() => say("ended without waiting"),
    }
}

/// Fetches the issuers' keys, so that the first caller doesn't wait. An issuer that is away is no reason
/// not to start: its callers get 503 until it is back.
async fn warm(instances: &BTreeMap<Key, Instance>) {
    let mut tasks = tokio::task::JoinSet::new();
    for instance in instances.values() {
        for keys in instance.proxy().keys() {
            tasks.spawn(async move {
                let _ = keys.keys().await;
            });
        }
    }
    let _ =
        tokio::time::timeout(Duration::from_secs(5), async { while tasks.join_next().await.is_some() {} })
            .await;
}

fn proxies(planned: &[PlannedObject]) -> impl Iterator<Item = &PlannedObject> {
    planned.iter().filter(|object| object.kind == Kind::MCPRemoteProxy)
}

fn key(object: &PlannedObject) -> Key {
    (object.kind, object.namespace.clone(), object.name.clone())
}

fn wanted(manifests: &Manifests, object: &PlannedObject) -> anyhow::Result<(Key, Wanted)> {
    let workload =
        object.planned.plan.as_ref().and_then(|plan| plan.workload.as_ref()).with_context(|| {
            format!("{} has no plan: something that it refers to is missing", object.name)
        })?;
    Ok((key(object), Wanted::new(workload, manifests, &object.namespace)?))
}

impl House {
    fn shared(&self) -> Shared {
        Shared {
            clock: SystemClock::shared(),
            rng: SystemRng::shared(),
            metrics: self.metrics.clone(),
            audit: self.audit.clone(),
            readiness: self.readiness.clone(),
            drain: Drain::new().watch(),
        }
    }

    fn note(&self, key: &Key, proxy: Option<Arc<Proxy>>) {
        if let Ok(mut running) = self.running.lock() {
            match proxy {
                Some(proxy) => running.insert(key.clone(), proxy),
                None => running.remove(key),
            };
        }
    }
}

/// Writes a file in one step, so that a reader never sees half of it.
pub(crate) fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

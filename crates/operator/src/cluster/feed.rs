//! The watches that fill the caches.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use serde_json::Value;
use skep_runtime::health::Readiness;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::store::{Change, Feed};
use super::{Cluster, Resource};

/// How often namespaces are asked for where they can't be watched.
const NAMESPACE_INTERVAL: Duration = Duration::from_secs(30);

/// Called with every change, in the order of each watch.
pub type Sink = Arc<dyn Fn(Resource, &Change) + Send + Sync>;

/// The watches of one operator. They end when this is dropped.
#[derive(Debug)]
pub struct Feeds {
    tasks: JoinSet<()>,
    open: watch::Receiver<usize>,
    stop: CancellationToken,
}

impl Feeds {
    /// Starts every watch. `readiness` says which of them has not listed yet, or fails.
    pub fn start(client: &Client, cluster: &Arc<Cluster>, sink: &Sink, readiness: &Readiness) -> Self {
        let mut tasks = JoinSet::new();
        let stop = CancellationToken::new();
        let mut watches = Vec::new();
        for resource in Resource::all() {
            let Some(api) = resource.api(&cluster.capabilities) else { continue };
            if cluster.namespaces.is_empty() || resource.is_cluster_wide() {
                watches.push((resource, api, None));
            } else {
                let each = cluster.namespaces.iter().cloned();
                watches.extend(each.map(|namespace| (resource, api.clone(), Some(namespace))));
            }
        }
        let (sender, open) = watch::channel(watches.len());
        for (resource, api, namespace) in watches {
            let part = match &namespace {
                Some(namespace) => format!("cache {} of {namespace}", label(resource)),
                None => format!("cache {}", label(resource)),
            };
            readiness.not_ready(&part, "is being filled");
            let listed = Listed { part, readiness: readiness.clone(), open: Some(sender.clone()) };
            let feed = Feed::new(cluster.store(resource), namespace.clone());
            let sink = Arc::clone(sink);
            if resource == Resource::Namespace && !cluster.namespaces.is_empty() {
                let namespaces = cluster.namespaces.clone();
                let asking = ask_for_namespaces(client.clone(), namespaces, feed, sink, listed);
                tasks.spawn(until(stop.clone(), asking));
            } else {
                let events = events(client, resource, &api, namespace.as_deref());
                tasks.spawn(until(stop.clone(), follow(resource, events, feed, sink, listed)));
            }
        }
        Self { tasks, open, stop }
    }

    /// Waits until every watch has listed once.
    pub async fn synced(&mut self) {
        // The senders live as long as the tasks, which only end with this.
        let _ = self.open.wait_for(|open| *open == 0).await;
    }

    /// Ends the watches.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await;
}

/// Says once that a watch has listed.
struct Listed {
    part: String,
    readiness: Readiness,
    open: Option<watch::Sender<usize>>,
}

impl Listed {
    fn yes(&mut self) {
        self.readiness.ready(&self.part);
        if let Some(open) = self.open.take() {
            open.send_modify(|open| *open = open.saturating_sub(1));
        }
    }

    fn no(&self, why: &str) {
        // A cache that was filled once goes on serving what it has.
        if self.open.is_some() {
            self.readiness.not_ready(&self.part, why);
        }
    }
}

type Events = futures_util::stream::BoxStream<'static, Result<Event<Value>, watcher::Error>>;

fn events(client: &Client, resource: Resource, api: &ApiResource, namespace: Option<&str>) -> Events {
    let mut config = watcher::Config::default();
    if let Some(selector) = resource.selector() {
        config = config.labels(selector);
    }
    if resource.metadata_only() {
        let objects: Api<PartialObjectMeta<DynamicObject>> = scoped(client, api, namespace);
        watcher::watcher(objects, config)
            .map_ok(|event| convert(event, metadata_value))
            .default_backoff()
            .boxed()
    } else {
        let objects: Api<DynamicObject> = scoped(client, api, namespace);
        watcher::watcher(objects, config)
            .map_ok(move |event| convert(event, |object| trimmed(resource, object)))
            .default_backoff()
            .boxed()
    }
}

fn scoped<K>(client: &Client, api: &ApiResource, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = ApiResource, Scope = kube::core::DynamicResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, api),
        None => Api::all_with(client.clone(), api),
    }
}

async fn follow(
    resource: Resource,
    mut events: impl Stream<Item = Result<Event<Value>, watcher::Error>> + Unpin,
    mut feed: Feed,
    sink: Sink,
    mut listed: Listed,
) {
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let complete = matches!(event, Event::InitDone);
                for change in feed.take(event) {
                    sink(resource, &change);
                }
                if complete {
                    listed.yes();
                }
            }
            Err(error) => {
                let error = chain(&error);
                listed.no(&error);
                tracing::warn!(resource = label(resource), %error, "a watch was interrupted; it is tried again");
            }
        }
    }
}

/// Rights on one namespace allow to get it, not to watch it.
async fn ask_for_namespaces(
    client: Client,
    namespaces: Vec<String>,
    mut feed: Feed,
    sink: Sink,
    mut listed: Listed,
) {
    let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client);
    loop {
        let mut complete = true;
        for name in &namespaces {
            match api.get_metadata_opt(name).await {
                Ok(Some(found)) => {
                    let object = metadata_value(found);
                    for change in feed.take(Event::Apply(object)) {
                        sink(Resource::Namespace, &change);
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    complete = false;
                    let error = chain(&error);
                    listed.no(&error);
                    tracing::warn!(namespace = name, %error, "the labels of a namespace could not be read");
                }
            }
        }
        if complete {
            listed.yes();
        }
        tokio::time::sleep(NAMESPACE_INTERVAL).await;
    }
}

fn convert<K>(event: Event<K>, with: impl Fn(K) -> Value) -> Event<Value> {
    match event {
        Event::Apply(object) => Event::Apply(with(object)),
        Event::Delete(object) => Event::Delete(with(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(with(object)),
        Event::InitDone => Event::InitDone,
    }
}

fn metadata_value<K>(mut object: PartialObjectMeta<K>) -> Value
where
    PartialObjectMeta<K>: kube::ResourceExt,
{
    object.metadata.managed_fields = None;
    object.metadata.annotations = None;
    serde_json::json!({"metadata": object.metadata})
}

/// Keeps what is looked at: who owns which field matters for what the operator makes only, and a pod's spec
/// for nothing.
fn trimmed(resource: Resource, mut object: DynamicObject) -> Value {
    if !Resource::MADE.contains(&resource) {
        object.metadata.managed_fields = None;
    }
    if resource == Resource::Pod
        && let Some(data) = object.data.as_object_mut()
    {
        data.shift_remove("spec");
    }
    serde_json::to_value(object).unwrap_or_default()
}

fn label(resource: Resource) -> &'static str {
    resource.as_str()
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

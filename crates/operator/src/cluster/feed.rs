//! The watches that fill the caches.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, PartialObjectMeta, TypeMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::progress::{Absent, Progress};
use super::store::{Change, Feed, Store};
use super::{Cluster, Resource};

/// How often namespaces are asked for where they can't be watched.
const NAMESPACE_INTERVAL: Duration = Duration::from_secs(30);
/// The same for one that could not be had.
const ABSENT_INTERVAL: Duration = Duration::from_secs(5);

/// Called with every change, in the order of each watch.
pub type Sink = Arc<dyn Fn(Resource, &Change) + Send + Sync>;

/// The watches of one operator. They end when this is dropped, and what they said about readiness is withdrawn.
pub struct Feeds {
    tasks: JoinSet<()>,
    progress: Arc<Progress>,
    stop: CancellationToken,
}

impl Feeds {
    /// Starts every watch. `progress` learns which of them has not listed yet, or fails.
    pub fn start(client: &Client, cluster: &Arc<Cluster>, sink: &Sink, progress: Arc<Progress>) -> Self {
        Self::start_some(client, cluster, sink, progress, &Resource::all().collect::<Vec<_>>())
    }

    /// Starts the watches of some resources. The caches of all others stay empty.
    pub fn start_some(
        client: &Client,
        cluster: &Arc<Cluster>,
        sink: &Sink,
        progress: Arc<Progress>,
        resources: &[Resource],
    ) -> Self {
        let mut tasks = JoinSet::new();
        let stop = CancellationToken::new();
        let mut watches = Vec::new();
        if cluster.namespaces.is_empty() {
            watches.extend(resources.iter().map(|resource| (*resource, None)));
        }
        for namespace in &cluster.namespaces {
            let there = watch::Sender::new(false);
            watches.extend(
                resources.iter().map(|resource| (*resource, Some((namespace.clone(), there.clone())))),
            );
        }
        // All are expected before the first can be done.
        let watches: Vec<_> = watches
            .into_iter()
            .filter_map(|(resource, place)| {
                let api = resource.api(&cluster.capabilities)?;
                let namespace = place.as_ref().map(|(namespace, _)| namespace.as_str());
                let listed = Listed::expected(resource, namespace, &progress);
                Some((resource, api, place, listed))
            })
            .collect();
        for (resource, api, place, listed) in watches {
            let (sink, store) = (Arc::clone(sink), cluster.store(resource));
            match place {
                Some((namespace, there)) if resource.is_cluster_wide() => {
                    let asking = ask_for_namespace(client.clone(), namespace, store, sink, listed, there);
                    tasks.spawn(until(stop.clone(), asking));
                }
                Some((namespace, there)) => {
                    let events = events(client, resource, &api, Some(&namespace));
                    let follow = follow(resource, events, Feed::new(store, Some(namespace)), sink, listed);
                    let mut there = there.subscribe();
                    tasks.spawn(until(stop.clone(), async move {
                        // Whoever asks for the namespace ends only with this.
                        if there.wait_for(|there| *there).await.is_ok() {
                            follow.await;
                        }
                    }));
                }
                None => {
                    let events = events(client, resource, &api, None);
                    let follow = follow(resource, events, Feed::new(store, None), sink, listed);
                    tasks.spawn(until(stop.clone(), follow));
                }
            }
        }
        Self { tasks, progress, stop }
    }

    /// Waits until a watch ends though nobody asked it to: a fault of ours.
    pub async fn broken(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(())) => tracing::error!("a watch ended by itself"),
            Some(Err(error)) => tracing::error!(%error, "a watch broke"),
            None => std::future::pending().await,
        }
    }

    /// Ends the watches.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Feeds {
    fn drop(&mut self) {
        self.progress.close();
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await;
}

/// Tells how far one watch is.
struct Listed {
    scope: String,
    part: String,
    progress: Arc<Progress>,
}

impl Listed {
    fn expected(resource: Resource, namespace: Option<&str>, progress: &Arc<Progress>) -> Self {
        let part = match namespace {
            Some(namespace) => format!("cache {} of {namespace}", label(resource)),
            None => format!("cache {}", label(resource)),
        };
        let scope = namespace.unwrap_or_default().to_owned();
        progress.expect(&scope, &part);
        Self { scope, part, progress: Arc::clone(progress) }
    }

    fn yes(&self) {
        self.progress.listed(&self.scope, &self.part);
    }

    fn no(&self, why: &str) {
        self.progress.failed(&self.scope, &self.part, why);
    }
}

/// Hands changes on. A fault of ours with one object stops no watch.
fn pass_on(sink: &Sink, resource: Resource, changes: Vec<Change>) {
    for change in changes {
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sink(resource, &change)));
        if passed.is_err() {
            let name = change.latest().and_then(|object| object.pointer("/metadata/name")?.as_str());
            tracing::error!(resource = label(resource), name, "taking a change panicked; it is passed over");
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
            .map_ok(move |event| convert(event, |object| metadata_value(resource, object)))
            .default_backoff()
            .boxed()
    } else {
        let objects: Api<DynamicObject> = scoped(client, api, namespace);
        let api = api.clone();
        watcher::watcher(objects, config)
            .map_ok(move |event| convert(event, |object| trimmed(resource, &api, object)))
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
    listed: Listed,
) {
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let complete = matches!(event, Event::InitDone);
                pass_on(&sink, resource, feed.take(event));
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

/// Rights on one namespace allow to get it, not to watch it. Nothing in it is asked for before it is `there`.
async fn ask_for_namespace(
    client: Client,
    name: String,
    store: Arc<Store>,
    sink: Sink,
    listed: Listed,
    there: watch::Sender<bool>,
) {
    let mut feed = Feed::new(Arc::clone(&store), None);
    let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client);
    let mut said = None;
    loop {
        let mut wait = NAMESPACE_INTERVAL;
        match api.get_metadata_opt(&name).await {
            Ok(Some(found)) => {
                pass_on(
                    &sink,
                    Resource::Namespace,
                    feed.take(Event::Apply(metadata_value(Resource::Namespace, found))),
                );
                listed.progress.asked(&name, None);
                listed.yes();
                there.send_replace(true);
                said = None;
            }
            Ok(None) => {
                if let Some(last) = store.get("", &name) {
                    pass_on(&sink, Resource::Namespace, feed.take(Event::Delete((*last).clone())));
                }
                listed.progress.asked(&name, Some(Absent::Missing));
                wait = ABSENT_INTERVAL;
                tell_once(&mut said, &name, "there is no such namespace");
            }
            Err(error) => {
                let text = chain(&error);
                if matches!(&error, kube::Error::Api(status) if status.code == 403) {
                    listed.progress.asked(&name, Some(Absent::Refused(text.clone())));
                }
                listed.no(&text);
                wait = ABSENT_INTERVAL;
                tell_once(&mut said, &name, &text);
            }
        }
        tokio::time::sleep(wait).await;
    }
}

/// Logs why a namespace can't be had when it was not said before.
fn tell_once(said: &mut Option<String>, namespace: &str, why: &str) {
    if said.as_deref() != Some(why) {
        tracing::warn!(namespace, why, "a namespace of WATCH_NAMESPACE can't be read; it is asked for again");
        *said = Some(why.to_owned());
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

/// What is kept of an object that is watched by its metadata. Annotations are looked at on namespaces only, and
/// may be large elsewhere.
pub(super) fn metadata_value<K>(resource: Resource, mut object: PartialObjectMeta<K>) -> Value
where
    PartialObjectMeta<K>: kube::ResourceExt,
{
    object.metadata.managed_fields = None;
    if resource != Resource::Namespace {
        object.metadata.annotations = None;
    }
    serde_json::json!({"metadata": object.metadata})
}

/// Keeps what is looked at: who owns which field matters for what the operator makes only, and a pod's spec
/// for nothing.
fn trimmed(resource: Resource, api: &ApiResource, mut object: DynamicObject) -> Value {
    // Built-in kinds have no type in lists, and who owns which field is said for one version.
    object
        .types
        .get_or_insert_with(|| TypeMeta { api_version: api.api_version.clone(), kind: api.kind.clone() });
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;
    use skep_runtime::health::Readiness;

    use super::*;

    #[tokio::test]
    async fn an_object_on_which_a_change_breaks_does_not_end_the_watch() {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink: Sink = {
            let seen = Arc::clone(&seen);
            Arc::new(move |_, change| {
                let name = change.latest().unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
                assert!(name != "bad", "a fault");
                seen.lock().unwrap().push(name);
            })
        };
        let object = |name: &str| json!({"metadata": {"name": name, "resourceVersion": "1"}});
        let events = [
            Event::Init,
            Event::InitApply(object("a")),
            Event::InitApply(object("bad")),
            Event::InitDone,
            Event::Apply(object("b")),
        ];
        let progress = Arc::new(Progress::new(Readiness::new(), Box::new(|_| {})));
        let listed = Listed::expected(Resource::Pod, None, &progress);
        let feed = Feed::new(Arc::default(), None);
        let events = futures_util::stream::iter(events.map(Ok));
        follow(Resource::Pod, events, feed, sink, listed).await;
        assert_eq!(*seen.lock().unwrap(), ["a", "b"]);
        assert!(progress.knows("any"));
    }
}

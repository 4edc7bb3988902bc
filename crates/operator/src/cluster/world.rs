//! The world of an object, from the caches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::api::Api;
use serde_json::Value;
use skep_api::crd::{Kind, Object};

use super::{Cluster, Resource};
use crate::plan::{self, Reference, Target, WorkloadName, World};
use crate::queue::Key;

type Texts = BTreeMap<String, String>;

impl Cluster {
    /// Everything that an object refers to, directly and through its configs, as it is now.
    ///
    /// # Errors
    /// When the content of a Secret or ConfigMap or the namespace is not known and the API server can't be
    /// asked; also when it says that there is no such namespace.
    pub async fn world(&self, object: &Object) -> Result<World, kube::Error> {
        let namespace = object.metadata.namespace.as_str();
        let (namespace_labels, namespace_annotations) = self.namespace_says(namespace).await?;
        let mut world = World {
            settings: self.settings.clone(),
            namespace_labels,
            namespace_annotations,
            workloads: self.neighbours(object),
            ..World::default()
        };
        let mut own = self.references(object);
        let mut open: Vec<Reference> = own.iter().cloned().collect();
        let mut extra = BTreeSet::new();
        loop {
            let Some(Reference { target, name }) = open.pop() else {
                // A ConfigMap's content may name more, which is known only now.
                let named = plan::references_in(object, &world.config_maps);
                open = named.into_iter().filter(|reference| own.insert(reference.clone())).collect();
                if open.is_empty() {
                    break;
                }
                extra.extend(open.iter().cloned());
                // Before they are read, so that no change of them is missed.
                self.register(object, &extra, true);
                continue;
            };
            match target {
                Target::Object(kind) => {
                    let at = (kind, name);
                    if world.configs.contains_key(&at) {
                        continue;
                    }
                    let Some(found) = self.store(Resource::Ours(kind)).get(namespace, &at.1) else {
                        continue;
                    };
                    if let Ok(config) = Object::parse(&found) {
                        open.extend(plan::references(&config));
                        world.configs.insert(at, config);
                    }
                }
                Target::Secret => {
                    if let Some(found) = self.lookups.secret(namespace, &name).await? {
                        world.secret_versions.insert(name.clone(), found.version.clone());
                        world.secrets.insert(name, found.keys.clone());
                    }
                }
                Target::ConfigMap => {
                    if let Some(found) = self.lookups.config_map(namespace, &name).await? {
                        world.config_maps.insert(name, found.data.clone());
                    }
                }
            }
        }
        self.register(object, &extra, false);
        Ok(world)
    }

    /// Notes what only the content of an object's ConfigMaps names: instead of what was known of it, or beside.
    /// An object that was replaced or changed in the meantime is about to be planned again, and keeps its own.
    fn register(&self, object: &Object, extra: &BTreeSet<Reference>, beside: bool) {
        let key = Key::new(object.kind, object.metadata.namespace.as_str(), object.metadata.name.as_str());
        self.with_index(|index| {
            // A newer spec comes into the cache before its references come into the index.
            let Some(cached) = self.object(&key) else { return };
            let same = text(&cached, "/metadata/uid") == object.metadata.uid.clone().unwrap_or_default()
                && cached.pointer("/metadata/generation").and_then(Value::as_i64)
                    == object.metadata.generation;
            if same {
                let before = if beside { index.named(&key) } else { BTreeSet::new() };
                index.set_named(&key, before.union(extra).cloned().collect());
            }
        });
    }

    /// Labels and annotations of a namespace. One that is not known is no namespace without labels: they may
    /// demand something.
    async fn namespace_says(&self, namespace: &str) -> Result<(Texts, Texts), kube::Error> {
        let store = self.store(Resource::Namespace);
        let found = match store.get("", namespace) {
            Some(found) => found,
            // The watch on all namespaces is about to tell.
            None if self.namespaces.is_empty() => {
                let message = format!("the namespace {namespace} is not known yet");
                let status = kube::core::Status::failure(&message, "NotFound").with_code(404);
                return Err(kube::Error::Api(status.boxed()));
            }
            None => {
                let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
                let found =
                    super::feed::metadata_value(Resource::Namespace, api.get_metadata(namespace).await?);
                store.created(found.clone());
                Arc::new(found)
            }
        };
        let texts = |pointer: &str| -> Texts {
            found
                .pointer(pointer)
                .and_then(|map| serde_json::from_value(map.clone()).ok())
                .unwrap_or_default()
        };
        Ok((texts("/metadata/labels"), texts("/metadata/annotations")))
    }

    /// Workloads whose made names could be this object's, the oldest first. Names that are made contain the
    /// name they are made from, so only those can meet whose names contain one another.
    pub(crate) fn neighbours(&self, object: &Object) -> Vec<WorkloadName> {
        let name = object.metadata.name.as_str();
        if !object.kind.is_workload() {
            return Vec::new();
        }
        let mut found: Vec<(String, WorkloadName)> = [Kind::MCPServer, Kind::MCPRemoteProxy]
            .into_iter()
            .flat_map(|kind| {
                self.near(kind, &object.metadata.namespace, name).into_iter().map(move |other| {
                    let created = text(&other, "/metadata/creationTimestamp");
                    (created, WorkloadName { kind, name: text(&other, "/metadata/name") })
                })
            })
            .collect();
        found.sort_by(|(a, x), (b, y)| (a, x.kind, &x.name).cmp(&(b, y.kind, &y.name)));
        found.into_iter().map(|(_, name)| name).collect()
    }

    pub(super) fn near(&self, kind: Kind, namespace: &str, name: &str) -> Vec<Arc<Value>> {
        self.store(Resource::Ours(kind))
            .filter(namespace, |other| other.contains(name) || name.contains(other))
    }
}

fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use http::{Request, Response};
    use kube::Client;
    use kube::client::Body;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;
    use crate::cluster::store::{Change, Feed};
    use crate::cluster::{Capabilities, Referred};

    type Answer = dyn Fn(&Cluster, &str) -> Value + Send + Sync;

    /// A cluster whose API server gives these answers by path; `null` is 404.
    fn cluster(
        namespaces: &[&str],
        answer: impl Fn(&Cluster, &str) -> Value + Send + Sync + 'static,
    ) -> Arc<Cluster> {
        let answer: Arc<Answer> = Arc::new(answer);
        let slot: Arc<Mutex<Option<Arc<Cluster>>>> = Arc::default();
        let own = Arc::clone(&slot);
        let server = tower::service_fn(move |request: Request<Body>| {
            let cluster = own.lock().unwrap().clone().unwrap();
            let body = answer(&cluster, request.uri().path());
            let code = if body.is_null() { 404 } else { 200 };
            let body = if body.is_null() {
                json!({"kind": "Status", "code": 404, "reason": "NotFound"})
            } else {
                body
            };
            let response = Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            async move { Ok::<_, Infallible>(response.unwrap()) }
        });
        let namespaces = namespaces.iter().map(|name| (*name).to_owned()).collect();
        let settings = plan::Settings::default();
        let cluster =
            Cluster::new(Client::new(server, "default"), Capabilities::default(), settings, namespaces);
        let cluster = Arc::new(cluster);
        *slot.lock().unwrap() = Some(Arc::clone(&cluster));
        cluster
    }

    /// What the watch of a resource says.
    fn event(cluster: &Cluster, resource: Resource, event: Event<Value>) -> Vec<Key> {
        let changes: Vec<Change> = Feed::new(cluster.store(resource), None).take(event);
        changes.iter().flat_map(|change| cluster.triggered(resource, change)).collect()
    }

    fn metadata(name: &str, version: &str) -> Value {
        json!({"metadata": {"namespace": "ns", "name": name, "resourceVersion": version}})
    }

    fn proxy(generation: i64, config_map: &str) -> Value {
        json!({
            "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPRemoteProxy",
            "metadata": {"namespace": "ns", "name": "p", "uid": "1", "generation": generation, "resourceVersion": generation.to_string()},
            "spec": {"remoteUrl": "https://mcp.example.com/", "oidcConfig": {"type": "configMap", "configMap": {"name": config_map}}},
        })
    }

    fn settings(secret: &str) -> Value {
        let text = json!({"issuer": "https://idp.example.com", "introspectionUrl": "https://idp.example.com/i",
            "clientId": "c", "clientSecretRef": {"name": secret, "key": "k"}});
        json!({"metadata": {"resourceVersion": "2"}, "data": {"oidc.json": text.to_string()}})
    }

    const PROXY: Resource = Resource::Ours(Kind::MCPRemoteProxy);

    fn filled(cluster: &Cluster) {
        let namespace = json!({"metadata": {"name": "ns", "resourceVersion": "1"}});
        event(cluster, Resource::Namespace, Event::Apply(namespace));
        event(cluster, Resource::ConfigMapMetadata, Event::Apply(metadata("c", "2")));
        event(cluster, Resource::ConfigMapMetadata, Event::Apply(metadata("d", "2")));
        event(cluster, Resource::SecretMetadata, Event::Apply(metadata("s", "3")));
        event(cluster, PROXY, Event::Apply(proxy(1, "c")));
    }

    fn referrers(cluster: &Cluster, target: Target, name: &str) -> usize {
        cluster.with_index(|index| index.referrers(&Referred::new("ns", target, name)).len())
    }

    #[tokio::test]
    async fn a_secret_that_only_a_config_map_names_triggers_even_while_it_is_read() {
        let moved: Arc<Mutex<Vec<Key>>> = Arc::default();
        let told = Arc::clone(&moved);
        let cluster = cluster(&[], move |cluster, path| match path.rsplit('/').next().unwrap() {
            "c" => settings("s"),
            "s" => {
                // It changes after it was read and before anybody knows.
                let event = event(cluster, Resource::SecretMetadata, Event::Apply(metadata("s", "4")));
                told.lock().unwrap().extend(event);
                json!({"metadata": {"resourceVersion": "3"}, "data": {"k": "eA=="}})
            }
            other => panic!("{other}"),
        });
        filled(&cluster);
        let object = Object::parse(&proxy(1, "c")).unwrap();
        let world = cluster.world(&object).await.unwrap();
        assert!(world.secrets.contains_key("s"));
        assert_eq!(*moved.lock().unwrap(), [Key::new(Kind::MCPRemoteProxy, "ns", "p")]);
        assert_eq!(referrers(&cluster, Target::Secret, "s"), 1);
    }

    #[tokio::test]
    async fn an_old_object_says_nothing_about_what_the_new_one_refers_to() {
        let cluster = cluster(&[], |cluster, path| match path.rsplit('/').next().unwrap() {
            "c" => {
                event(cluster, PROXY, Event::Apply(proxy(2, "d")));
                settings("s")
            }
            "s" => json!({"metadata": {"resourceVersion": "3"}}),
            other => panic!("{other}"),
        });
        filled(&cluster);
        cluster.world(&Object::parse(&proxy(1, "c")).unwrap()).await.unwrap();
        let counts = [(Target::ConfigMap, "c"), (Target::ConfigMap, "d"), (Target::Secret, "s")]
            .map(|(target, name)| referrers(&cluster, target, name));
        assert_eq!(counts, [0, 1, 0]);
    }

    #[tokio::test]
    async fn an_object_that_went_while_its_world_was_read_leaves_nothing_behind() {
        let cluster = cluster(&[], |cluster, path| match path.rsplit('/').next().unwrap() {
            "c" => {
                event(cluster, PROXY, Event::Delete(proxy(1, "c")));
                settings("s")
            }
            "s" => json!({"metadata": {"resourceVersion": "3"}}),
            other => panic!("{other}"),
        });
        filled(&cluster);
        cluster.world(&Object::parse(&proxy(1, "c")).unwrap()).await.unwrap();
        assert_eq!(referrers(&cluster, Target::Secret, "s") + referrers(&cluster, Target::ConfigMap, "c"), 0);
    }

    #[tokio::test]
    async fn a_namespace_that_is_not_known_is_no_namespace_without_labels() {
        let object = Object::parse(&json!({
            "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPGroup",
            "metadata": {"namespace": "ns", "name": "g"}, "spec": {},
        }))
        .unwrap();
        // Where all are watched, the watch will tell.
        let everywhere = cluster(&[], |_, path| panic!("{path}"));
        everywhere.world(&object).await.unwrap_err();
        // Where some are, it is asked for.
        let one = cluster(&["ns"], |_, path| {
            assert_eq!(path, "/api/v1/namespaces/ns");
            json!({"metadata": {"name": "ns", "resourceVersion": "7", "labels": {"a": "b"}}})
        });
        assert_eq!(one.world(&object).await.unwrap().namespace_labels["a"], "b");
        assert!(one.store(Resource::Namespace).get("", "ns").is_some());
        let missing = cluster(&["ns"], |_, _| Value::Null);
        missing.world(&object).await.unwrap_err();
    }
}

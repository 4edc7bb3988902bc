//! What the operator knows of the cluster: cached objects, who refers to what, and the worlds that objects
//! are planned in.

mod asked;
mod capabilities;
pub mod feed;
mod index;
mod lookups;
pub mod progress;
mod resource;
pub mod store;
mod triggers;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use kube::Client;
use serde_json::Value;
use skep_api::crd::Kind;

pub use self::capabilities::{Answer, Capabilities, Watcher};
pub use self::index::{Index, Referred};
pub use self::lookups::{ConfigMapText, Lookups, SecretKeys};
pub use self::resource::Resource;
use self::store::Store;
use crate::plan::Settings;
use crate::queue::Key;

/// Everything that is cached.
pub struct Cluster {
    /// What the API server has.
    pub capabilities: Capabilities,
    /// What the planner is told, with what discovery found out.
    pub settings: Settings,
    /// Namespaces that are looked at; empty: all.
    pub namespaces: Vec<String>,
    client: Client,
    stores: BTreeMap<Resource, Arc<Store>>,
    index: Mutex<Index>,
    lookups: Lookups,
}

impl Cluster {
    /// Empty caches. `client` only reads.
    pub fn new(
        client: Client,
        capabilities: Capabilities,
        mut settings: Settings,
        namespaces: Vec<String>,
    ) -> Self {
        settings.openshift = capabilities.openshift;
        settings.service_monitors = capabilities.service_monitors;
        let stores: BTreeMap<Resource, Arc<Store>> =
            Resource::all().map(|resource| (resource, Arc::new(store_of(resource)))).collect();
        let metadata = |resource| stores.get(&resource).cloned().unwrap_or_default();
        let lookups = Lookups::new(
            client.clone(),
            metadata(Resource::SecretMetadata),
            metadata(Resource::ConfigMapMetadata),
        );
        Self { capabilities, settings, namespaces, client, stores, index: Mutex::default(), lookups }
    }

    /// The cache of one resource; one that the API server has not is empty.
    pub fn store(&self, resource: Resource) -> Arc<Store> {
        self.stores.get(&resource).cloned().unwrap_or_default()
    }

    /// An object of ours as the API server has it.
    pub fn object(&self, key: &Key) -> Option<Arc<Value>> {
        self.stores.get(&Resource::Ours(key.kind))?.get(&key.namespace, &key.name)
    }

    /// Every object of ours.
    pub fn keys(&self) -> Vec<Key> {
        Kind::ALL
            .into_iter()
            .flat_map(|kind| {
                let names = self.stores.get(&Resource::Ours(kind)).map(|store| store.names());
                names
                    .unwrap_or_default()
                    .into_iter()
                    .map(move |(namespace, name)| Key::new(kind, namespace, name))
            })
            .collect()
    }

    /// Objects that refer to an object of ours directly.
    pub fn referrers(&self, key: &Key) -> BTreeSet<Key> {
        self.with_index(|index| index.referrers(&Referred::object(key)))
    }

    /// Pods of a workload: the proxy's and the backend's, by their labels.
    pub fn pods_of(&self, key: &Key) -> Vec<Arc<Value>> {
        self.store(Resource::Pod).group(&key.namespace, &group_of_pods(key))
    }

    /// The workload that a pod belongs to.
    pub fn owner_of_pod(&self, pod: &Value) -> Option<Key> {
        triggers::pod_owner(pod)
    }

    /// Made objects of a namespace that one object controls, by its uid.
    pub fn made_by(&self, namespace: &str, uid: &str) -> Vec<(Resource, Arc<Value>)> {
        Resource::MADE
            .into_iter()
            .flat_map(|resource| {
                let objects = self.store(resource).group(namespace, uid);
                objects.into_iter().map(move |object| (resource, object))
            })
            .collect()
    }

    fn with_index<T>(&self, act: impl FnOnce(&mut Index) -> T) -> T {
        act(&mut self.index.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Made objects are found by the uid of their controller, pods by their workload, without a look at others.
fn store_of(resource: Resource) -> Store {
    if resource == Resource::Pod {
        Store::grouped(|pod| triggers::pod_owner(pod).as_ref().map(group_of_pods))
    } else if Resource::MADE.contains(&resource) {
        Store::grouped(|object| controller(object).map(|owner| owner.uid))
    } else {
        Store::default()
    }
}

fn group_of_pods(key: &Key) -> String {
    format!("{}/{}", key.kind, key.name)
}

/// The controller of an object, from its owner references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
}

/// Who controls an object, if anybody.
pub fn controller(object: &Value) -> Option<Controller> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))?;
    let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(Controller {
        api_version: text("apiVersion"),
        kind: text("kind"),
        name: text("name"),
        uid: text("uid"),
    })
}

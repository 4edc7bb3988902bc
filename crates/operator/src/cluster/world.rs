//! The world of an object, from the caches.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use skep_api::crd::{Kind, Object};

use super::{Cluster, Resource};
use crate::plan::{self, Reference, Target, WorkloadName, World};
use crate::queue::Key;

impl Cluster {
    /// Everything that an object refers to, directly and through its configs, as it is now.
    ///
    /// # Errors
    /// When the content of a Secret or ConfigMap is not known and the API server can't be asked.
    pub async fn world(&self, object: &Object) -> Result<World, kube::Error> {
        let namespace = object.metadata.namespace.as_str();
        let mut world = World {
            settings: self.settings.clone(),
            namespace_labels: self.namespace_labels(namespace),
            workloads: self.neighbours(object),
            ..World::default()
        };
        let mut own = plan::references(object);
        let mut open: Vec<Reference> = own.iter().cloned().collect();
        loop {
            let Some(Reference { target, name }) = open.pop() else {
                // A ConfigMap's content may name more, which is known only now.
                let named = plan::references_in(object, &world.config_maps);
                open = named.into_iter().filter(|reference| own.insert(reference.clone())).collect();
                if open.is_empty() {
                    break;
                }
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
        let key = Key::new(object.kind, namespace, object.metadata.name.as_str());
        self.with_index(|index| index.set(&key, own));
        Ok(world)
    }

    /// Labels of a namespace, as far as they are known.
    fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        let found = self.store(Resource::Namespace).get("", namespace);
        let labels = found.as_deref().and_then(|object| object.pointer("/metadata/labels"));
        labels.and_then(|labels| serde_json::from_value(labels.clone()).ok()).unwrap_or_default()
    }

    /// Workloads whose made names could be this object's, the oldest first. Names that are made contain the
    /// name they are made from, so only those can meet whose names contain one another.
    fn neighbours(&self, object: &Object) -> Vec<WorkloadName> {
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

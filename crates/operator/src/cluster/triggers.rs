//! Which objects a change concerns.

use std::collections::BTreeSet;

use serde_json::Value;
use skep_api::crd::{GROUP, Kind, Object};

use super::store::Change;
use super::{Cluster, Referred, Resource, controller};
use crate::plan::{self, Reference, Target, WorkloadName};
use crate::queue::Key;

impl Cluster {
    /// Objects that have to be reconciled after a change: exactly those that it can concern.
    pub fn triggered(&self, resource: Resource, change: &Change) -> BTreeSet<Key> {
        match resource {
            Resource::Ours(kind) => self.of_ours(kind, change),
            Resource::Pod => change.latest().and_then(pod_owner).into_iter().collect(),
            Resource::SecretMetadata => self.of_content(Target::Secret, change),
            Resource::ConfigMapMetadata => self.of_content(Target::ConfigMap, change),
            Resource::Namespace => self.of_namespace(change),
            _ => [&change.before, &change.after]
                .into_iter()
                .filter_map(|object| made_owner(object.as_deref()?))
                .collect(),
        }
    }

    fn of_ours(&self, kind: Kind, change: &Change) -> BTreeSet<Key> {
        let Some(key) = change.latest().and_then(|object| key_of(kind, object)) else {
            return BTreeSet::new();
        };
        let mut found = BTreeSet::new();
        // The second says which sidecars an MCPServer has, the third whether its pods get some.
        let says_else = change.differs_at("/spec")
            || change.differs_at("/metadata/annotations/skep.dev~1injection")
            || change.differs_at("/metadata/annotations/kagenti.dev~1inject");
        if says_else {
            let object = change.after.as_deref().and_then(|object| Object::parse(object).ok());
            let references = object.as_ref().map(|object| self.references(object)).unwrap_or_default();
            // Configs list who refers to them, and groups their members.
            let changed = self.with_index(|index| index.set(&key, references));
            found.extend(changed.iter().filter_map(Referred::key));
        }
        if says_else || change.differs_at("/metadata/deletionTimestamp") {
            found.extend(self.with_index(|index| index.affected(&Referred::object(&key))));
            if kind.is_workload() {
                found.extend(self.with_index(|index| index.memberships(&key)));
            }
        }
        if change.came_or_went() && kind.is_workload() {
            found.extend(self.colliding(&key));
        }
        found.insert(key);
        found
    }

    /// Everything that an object refers to directly, also through sidecars that come with its pods.
    pub(super) fn references(&self, object: &Object) -> BTreeSet<Reference> {
        let mut found = plan::references(object);
        found.extend(plan::sidecar_references(object, &self.settings));
        found
    }

    /// Workloads that would make objects of the same names.
    fn colliding(&self, key: &Key) -> Vec<Key> {
        let mine = WorkloadName { kind: key.kind, name: key.name.clone() };
        [Kind::MCPServer, Kind::MCPRemoteProxy]
            .into_iter()
            .flat_map(|kind| {
                let near = self.near(kind, &key.namespace, &key.name);
                near.into_iter().filter_map(move |object| key_of(kind, &object))
            })
            .filter(|other| {
                other != key
                    && plan::collide(&mine, &WorkloadName { kind: other.kind, name: other.name.clone() })
            })
            .collect()
    }

    fn of_content(&self, target: Target, change: &Change) -> BTreeSet<Key> {
        let Some(object) = change.latest() else { return BTreeSet::new() };
        let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
        let affected = self.with_index(|index| index.affected(&Referred::new(namespace, target, name)));
        if affected.is_empty() {
            self.lookups.forget(namespace, name);
        }
        affected
    }

    fn of_namespace(&self, change: &Change) -> BTreeSet<Key> {
        let Some(object) = change.latest() else { return BTreeSet::new() };
        let switched = "/metadata/annotations/kagenti.dev~1inject";
        if !change.differs_at("/metadata/labels") && !change.differs_at(switched) {
            return BTreeSet::new();
        }
        let namespace = text(object, "/metadata/name");
        self.keys().into_iter().filter(|key| key.namespace == namespace && key.kind.is_workload()).collect()
    }
}

/// The key of an object of ours.
fn key_of(kind: Kind, object: &Value) -> Option<Key> {
    let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    (!name.is_empty()).then(|| Key::new(kind, namespace, name))
}

/// The object of ours that controls a made one.
fn made_owner(object: &Value) -> Option<Key> {
    let owner = controller(object)?;
    let ours = owner.api_version.strip_prefix(GROUP).is_some_and(|rest| rest.starts_with('/'));
    let kind: Kind = owner.kind.parse().ok()?;
    ours.then(|| Key::new(kind, text(object, "/metadata/namespace"), owner.name))
}

/// The workload that a pod belongs to, by its labels: a pod's controller is a ReplicaSet or StatefulSet.
pub(super) fn pod_owner(object: &Value) -> Option<Key> {
    let label = |name: &str| object.pointer("/metadata/labels")?.get(name)?.as_str();
    let kind = match label("app.kubernetes.io/name") {
        Some("mcpremoteproxy") => Kind::MCPRemoteProxy,
        // Backends have no such label; they are of servers too.
        _ => Kind::MCPServer,
    };
    let name = label("toolhive-name").or_else(|| label("app"))?;
    Some(Key::new(kind, text(object, "/metadata/namespace"), name))
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

//! Takes out what was injected before, so that what is left is what the user wrote.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use skep_api::names::BACKEND_CONTAINER;

use super::names::INJECTION_ANNOTATION;
use super::record::{Hashes, Injection, hash};
use super::tree::{Made, items, map_at, text};

/// A kind of thing that is injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    Container,
    Volume,
    Mount,
    Variable,
}

impl Item {
    /// The list in which such things are.
    pub(super) fn list(self) -> &'static str {
        match self {
            Self::Container => "containers",
            Self::Volume => "volumes",
            Self::Mount => "volumeMounts",
            Self::Variable => "env",
        }
    }

    /// The field that tells them apart.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Container | Self::Volume | Self::Variable => "name",
            Self::Mount => "mountPath",
        }
    }

    /// What it is called in a warning.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Volume => "volume",
            Self::Mount => "mount",
            Self::Variable => "variable",
        }
    }
}

/// What came of taking things out.
#[derive(Debug, Default)]
pub(super) struct Stripped {
    /// Lists and maps that were made and are still there, because the user has put something into them.
    pub(super) made: Made,
    /// What had been injected and has been edited since: it is the user's now.
    pub(super) edited: BTreeSet<(Item, String)>,
    /// Containers that had been injected and have been edited, now or before.
    pub(super) adopted: BTreeSet<String>,
    /// Volumes that were taken out.
    volumes: BTreeSet<String>,
}

/// Takes everything out of an MCPServer that has its recorded hash, and the annotation. When it is `for_good`,
/// containers of ours that the user has edited keep the volumes that they mount.
pub(super) fn strip(object: &mut Value, injection: Option<&Injection>, for_good: bool) -> Stripped {
    let mut stripped = Stripped::default();
    let nothing_made = Made::default();
    let made = injection.map_or_else(|| nothing_made, Injection::made);
    if let Some(injection) = injection {
        let mut work = Work { injection, made: &made, for_good, stripped: &mut stripped };
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            work.within(spec, "podTemplateSpec", "podTemplateSpec", |work, template| {
                work.within(template, "spec", "spec", Work::pod)
            });
        }
    }
    if let Some(metadata) = map_at(object, &["metadata"])
        && let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut)
        && annotations.shift_remove(INJECTION_ANNOTATION).is_some()
    {
        made.settle(metadata, "annotations", "annotations", &mut stripped.made);
    }
    stripped
}

impl Stripped {
    /// Containers of a pod that mount a volume which was taken out and which nobody has put in again.
    pub(super) fn dangling(&self, pod: &Map<String, Value>) -> Vec<(String, String)> {
        let there: BTreeSet<&str> = items(pod, "volumes").filter_map(|volume| text(volume, "name")).collect();
        let containers = ["containers", "initContainers"].into_iter().flat_map(|list| items(pod, list));
        let mut found = Vec::new();
        for container in containers.filter_map(Value::as_object) {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
            let mounts = items(container, "volumeMounts").filter_map(|mount| text(mount, "name"));
            found.extend(
                mounts
                    .filter(|volume| self.volumes.contains(*volume) && !there.contains(volume))
                    .map(|volume| (name.to_owned(), volume.to_owned())),
            );
        }
        found
    }
}

struct Work<'a> {
    injection: &'a Injection,
    made: &'a Made,
    for_good: bool,
    stripped: &'a mut Stripped,
}

impl Work<'_> {
    /// Takes out of the map `key` what `inner` takes out of it. True when that was something.
    fn within(
        &mut self,
        parent: &mut Map<String, Value>,
        key: &str,
        name: &str,
        inner: impl FnOnce(&mut Self, &mut Map<String, Value>) -> bool,
    ) -> bool {
        let Some(map) = parent.get_mut(key).and_then(Value::as_object_mut) else { return false };
        let taken = inner(self, map);
        if taken {
            self.made.settle(parent, key, name, &mut self.stripped.made);
        }
        taken
    }

    fn pod(&mut self, pod: &mut Map<String, Value>) -> bool {
        let mut in_containers = self.server(pod);
        in_containers |= self.take(pod, Item::Container, &self.injection.containers);
        if in_containers {
            self.made.settle(pod, "containers", "containers", &mut self.stripped.made);
        }
        self.adopt(pod);
        let mut volumes = self.injection.volumes.clone();
        if self.for_good {
            for mounted in mounted_by(pod, &self.stripped.adopted) {
                volumes.remove(mounted);
            }
        }
        let in_volumes = self.take(pod, Item::Volume, &volumes);
        if in_volumes {
            self.made.settle(pod, "volumes", "volumes", &mut self.stripped.made);
        }
        in_containers || in_volumes
    }

    /// Finds out which containers came from us and are the user's.
    fn adopt(&mut self, pod: &Map<String, Value>) {
        let edited = |name: &str| self.stripped.edited.contains(&(Item::Container, name.to_owned()));
        let names = items(pod, "containers").filter_map(|container| text(container, "name"));
        let adopted = names.filter(|name| edited(name) || self.injection.adopted.contains(*name));
        self.stripped.adopted = adopted.map(ToOwned::to_owned).collect();
    }

    /// Sees to the MCP server's own container.
    fn server(&mut self, pod: &mut Map<String, Value>) -> bool {
        let Some(containers) = pod.get_mut("containers").and_then(Value::as_array_mut) else { return false };
        let Some(at) = containers.iter().position(|one| text(one, "name") == Some(BACKEND_CONTAINER)) else {
            return false;
        };
        let Some(container) = containers.get_mut(at).and_then(Value::as_object_mut) else { return false };
        let mut taken = false;
        for (item, hashes) in [(Item::Mount, &self.injection.mounts), (Item::Variable, &self.injection.env)] {
            if self.take(container, item, hashes) {
                let name = format!("{BACKEND_CONTAINER}.{}", item.list());
                self.made.settle(container, item.list(), &name, &mut self.stripped.made);
                taken = true;
            }
        }
        if taken && self.made.has(BACKEND_CONTAINER) {
            if containers.get(at) == Some(&json!({"name": BACKEND_CONTAINER})) {
                containers.remove(at);
            } else {
                self.stripped.made.keep(self.made, BACKEND_CONTAINER);
            }
        }
        taken
    }

    /// Takes the entries of a list that have their recorded hash. True when there were any.
    fn take(&mut self, parent: &mut Map<String, Value>, item: Item, hashes: &Hashes) -> bool {
        let Some(entries) = parent.get_mut(item.list()).and_then(Value::as_array_mut) else { return false };
        let before = entries.len();
        entries.retain(|entry| {
            let Some(id) = text(entry, item.key()) else { return true };
            let Some(recorded) = hashes.get(id) else { return true };
            if *recorded != hash(entry) {
                self.stripped.edited.insert((item, id.to_owned()));
                return true;
            }
            if item == Item::Volume {
                self.stripped.volumes.insert(id.to_owned());
            }
            false
        });
        entries.len() < before
    }
}

/// Names of the volumes that some containers mount.
fn mounted_by<'v>(
    pod: &'v Map<String, Value>,
    containers: &BTreeSet<String>,
) -> impl Iterator<Item = &'v str> {
    items(pod, "containers")
        .filter(|container| text(container, "name").is_some_and(|name| containers.contains(name)))
        .filter_map(Value::as_object)
        .flat_map(|container| items(container, "volumeMounts"))
        .filter_map(|mount| text(mount, "name"))
}

//! Plans of everything that was read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use skep_api::crd::Kind;
use skep_api::yaml::Lines;
use skep_operator::plan::{Missing, Place, Planned, Settings, WorkloadName, World, plan_object};

use super::Manifests;

/// In what surroundings to plan.
#[derive(Debug, Clone, Default)]
pub(crate) struct PlanOptions {
    pub(crate) settings: Settings,
}

impl PlanOptions {
    /// For `check` and `render`: the given files may not be all there is, unless `strict`.
    pub(crate) fn offline(strict: bool) -> Self {
        let missing = if strict { Missing::Refuse } else { Missing::Warn };
        Self { settings: Settings { missing, ..Settings::default() } }
    }

    /// For `up`: here, on loopback, and the given files are all there is.
    pub(crate) fn local(require_auth: bool) -> Self {
        Self {
            settings: Settings {
                place: Place::Local,
                missing: Missing::Refuse,
                proxy_host: "127.0.0.1".to_owned(),
                require_auth,
                ..Settings::default()
            },
        }
    }
}

/// An object, where it stands, and what follows from it.
#[derive(Debug)]
pub(crate) struct PlannedObject {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    /// Line on which the object begins.
    pub(crate) line: usize,
    pub(crate) planned: Planned,
    lines: Lines,
}

impl PlannedObject {
    /// The line of a problem's path.
    pub(crate) fn line_of(&self, path: &str) -> usize {
        self.lines.line(path)
    }
}

impl Manifests {
    /// Plans every object, in the order in which they were read.
    pub(crate) fn plan_all(&self, options: &PlanOptions) -> Vec<PlannedObject> {
        let namespaces: BTreeSet<&str> =
            self.objects.iter().map(|located| located.object.metadata.namespace.as_str()).collect();
        let worlds: BTreeMap<&str, World> =
            namespaces.into_iter().map(|namespace| (namespace, self.world(namespace, options))).collect();
        let mut planned = Vec::new();
        for located in &self.objects {
            let metadata = &located.object.metadata;
            let Some(world) = worlds.get(metadata.namespace.as_str()) else { continue };
            planned.push(PlannedObject {
                kind: located.object.kind,
                namespace: metadata.namespace.clone(),
                name: metadata.name.clone(),
                file: located.file.clone(),
                line: located.lines.line(""),
                planned: plan_object(&located.object, world),
                lines: located.lines.clone(),
            });
        }
        planned
    }

    fn world(&self, namespace: &str, options: &PlanOptions) -> World {
        let mut world = World {
            settings: options.settings.clone(),
            namespace_labels: self.namespaces.get(namespace).cloned().unwrap_or_default(),
            ..World::default()
        };
        for located in self.objects.iter().filter(|located| located.object.metadata.namespace == namespace) {
            let (kind, name) = (located.object.kind, located.object.metadata.name.clone());
            if kind.is_workload() {
                world.workloads.push(WorkloadName { kind, name });
            } else {
                world.configs.insert((kind, name), located.object.clone());
            }
        }
        let here = |key: &(String, String)| key.0 == namespace;
        for ((_, name), data) in self.config_maps.iter().filter(|(key, _)| here(key)) {
            world.config_maps.insert(name.clone(), data.clone());
        }
        for ((_, name), data) in self.secrets.iter().filter(|(key, _)| here(key)) {
            world.secrets.insert(name.clone(), data.keys().cloned().collect());
        }
        world
    }
}

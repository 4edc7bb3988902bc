//! What surrounds an object under review: from the caches, and asked for where they don't know.
//!
//! Manifests are applied one right after the other, so what an object refers to may be a moment old and not
//! cached yet. What the caches don't have is asked for before it counts as missing; for a second nobody asks
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{StreamExt as _, TryStreamExt as _, iter};
use serde_json::Value;
use skep_api::crd::{Kind, Object};
use skep_runtime::clock::SharedClock;
use thiserror::Error;
use tokio::sync::Semaphore;

use super::memory::Memory;
use super::review::Operation;
use crate::cluster::{Cluster, Resource};
use crate::plan::{self, Missing, Reference, Target, WorkloadName, World};
use crate::sidecars::{Surroundings, names};

/// How long one question to the API server may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// For how long something that was not there counts as missing without another question.
const MISSING_FOR: Duration = Duration::from_secs(1);
/// Questions of one review that are open at a time.
pub(super) const AT_A_TIME: usize = 16;
/// The same of all reviews together: whoever sends many takes nothing from the API server that others need.
pub(super) const ALL_AT_A_TIME: usize = 64;
/// Missing things that are remembered.
const MISSING_LIMIT: usize = 4096;

/// Why what surrounds an object is not known.
#[derive(Debug, Error)]
pub enum WorldError {
    #[error("{what} could not be looked up")]
    Ask {
        /// What was asked for.
        what: Thing,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    #[error("{what} could not be looked up: the API server took longer than {} seconds", CALL_TIMEOUT.as_secs())]
    Slow {
        /// What was asked for.
        what: Thing,
    },
    #[error("there is no namespace `{namespace}`")]
    NoNamespace {
        /// Its name.
        namespace: String,
    },
}

/// Something that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Thing {
    what: What,
    /// Empty for a namespace.
    namespace: String,
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Object(Kind),
    Secret,
    ConfigMap,
    Namespace,
}

impl std::fmt::Display for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.what {
            What::Object(kind) => kind.as_str(),
            What::Secret => "Secret",
            What::ConfigMap => "ConfigMap",
            What::Namespace => return write!(f, "the namespace `{}`", self.name),
        };
        write!(f, "the {kind} `{}/{}`", self.namespace, self.name)
    }
}

/// How new what is looked up has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// As the watches last told; what they don't know is asked for.
    Cached,
    /// As the API server has it now. For a second look before something is denied.
    Now,
}

/// Labels and annotations of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// The caches, and the way to ask.
pub struct Facts {
    cluster: Arc<Cluster>,
    clock: SharedClock,
    open: Arc<Semaphore>,
    missing: Mutex<Memory<Thing, Instant>>,
}

/// What a reference leads to.
enum Found {
    Nothing,
    Config(Box<Object>),
    Secret { version: String, keys: BTreeSet<String> },
    ConfigMap(BTreeMap<String, String>),
}

impl Facts {
    /// Facts about what `cluster` watches. No more is asked at a time than `open` lets through.
    pub fn new(cluster: Arc<Cluster>, clock: SharedClock, open: Arc<Semaphore>) -> Self {
        Self { cluster, clock, open, missing: Mutex::new(Memory::new(MISSING_LIMIT)) }
    }

    /// Everything that an object refers to. The object itself need not be stored; a new one is the youngest.
    ///
    /// # Errors
    /// When something is not cached and can't be asked for.
    pub async fn world(
        &self,
        object: &Object,
        operation: Operation,
        settings: &plan::Settings,
        fresh: Freshness,
    ) -> Result<World, WorldError> {
        let namespace = object.metadata.namespace.as_str();
        let Namespace { labels, annotations } = self.namespace(namespace, fresh).await?;
        let mut world = World {
            settings: plan::Settings {
                openshift: self.cluster.settings.openshift,
                service_monitors: self.cluster.settings.service_monitors,
                ..settings.clone()
            },
            namespace_labels: labels,
            namespace_annotations: annotations,
            workloads: self.workloads(object, operation, fresh).await?,
            ..World::default()
        };
        let mut seen = plan::references(object);
        if world.settings.sidecars.is_some() && plan::injected(object, &world).is_some() {
            seen.extend(plan::sidecar_references(object, &world.settings));
        }
        let mut open: Vec<Reference> = seen.iter().cloned().collect();
        while !open.is_empty() {
            let found: Vec<(Reference, Found)> = iter(open)
                .map(|reference| self.find(namespace, reference, fresh))
                .buffered(AT_A_TIME)
                .try_collect()
                .await?;
            let mut further: Vec<Reference> = Vec::new();
            for (Reference { target, name }, found) in found {
                match (target, found) {
                    (Target::Object(kind), Found::Config(config)) => {
                        further.extend(plan::references(&config));
                        world.configs.insert((kind, name), *config);
                    }
                    (_, Found::Secret { version, keys }) => {
                        world.secret_versions.insert(name.clone(), version);
                        world.secrets.insert(name, keys);
                    }
                    (_, Found::ConfigMap(data)) => {
                        world.config_maps.insert(name, data);
                    }
                    _ => {}
                }
            }
            // A ConfigMap's content may name more, which is known only now.
            further.extend(plan::references_in(object, &world.config_maps));
            open = further.into_iter().filter(|reference| seen.insert(reference.clone())).collect();
        }
        Ok(world)
    }

    /// Labels and annotations of a namespace.
    ///
    /// # Errors
    /// When it is not cached and can't be asked for, or is not there.
    pub async fn namespace(&self, name: &str, fresh: Freshness) -> Result<Namespace, WorldError> {
        let thing = Thing { what: What::Namespace, namespace: String::new(), name: name.to_owned() };
        let cached = self.cluster.store(Resource::Namespace).get("", name);
        let found = match cached.filter(|_| fresh == Freshness::Cached) {
            Some(found) => Some(found),
            None => self.ask(thing, fresh, self.cluster.ask_namespace(name)).await?.map(Arc::new),
        };
        let found = found.ok_or_else(|| WorldError::NoNamespace { namespace: name.to_owned() })?;
        let map = |pointer: &str| {
            let map = found.pointer(pointer).and_then(Value::as_object);
            map.into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect()
        };
        Ok(Namespace { labels: map("/metadata/labels"), annotations: map("/metadata/annotations") })
    }

    /// An object of ours.
    ///
    /// # Errors
    /// When it is not cached and can't be asked for.
    pub async fn object(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        fresh: Freshness,
    ) -> Result<Option<Arc<Value>>, WorldError> {
        let cached = self.cluster.store(Resource::Ours(kind)).get(namespace, name);
        if let Some(found) = cached.filter(|_| fresh == Freshness::Cached) {
            return Ok(Some(found));
        }
        let thing = thing(What::Object(kind), namespace, name);
        Ok(self.ask(thing, fresh, self.cluster.ask_object(kind, namespace, name)).await?.map(Arc::new))
    }

    /// What decides about sidecars in a namespace.
    ///
    /// # Errors
    /// When something is not cached and can't be asked for.
    pub async fn surroundings(&self, name: &str, namespace: Namespace) -> Result<Surroundings, WorldError> {
        let fresh = Freshness::Cached;
        let (environments, helper, admin, registration) = futures_util::future::join4(
            self.config_map(name, names::ENVIRONMENTS, fresh),
            self.config_map(name, names::HELPER_CONFIG, fresh),
            self.secret(name, names::ADMIN_SECRET, fresh),
            self.secret(name, names::REGISTRATION_SECRET, fresh),
        )
        .await;
        Ok(Surroundings {
            environments: environments?,
            helper_config: helper?.map(|data| data.into_keys().collect()),
            admin_secret: admin?.map(|(_, keys)| keys),
            registration_secret: registration?.map(|(_, keys)| keys),
            native_sidecars: self.cluster.capabilities.native_sidecars,
            ..self.bare_surroundings(namespace)
        })
    }

    /// The same where nothing is injected, so that nothing has to be looked up.
    pub fn bare_surroundings(&self, namespace: Namespace) -> Surroundings {
        Surroundings {
            namespace_labels: namespace.labels,
            namespace_annotations: namespace.annotations,
            native_sidecars: self.cluster.capabilities.native_sidecars,
            ..Surroundings::default()
        }
    }

    async fn find(
        &self,
        namespace: &str,
        reference: Reference,
        fresh: Freshness,
    ) -> Result<(Reference, Found), WorldError> {
        let name = reference.name.as_str();
        let found = match reference.target {
            Target::Object(kind) => {
                let found = self.object(kind, namespace, name, fresh).await?;
                let config = found.and_then(|found| Object::parse(&found).ok());
                config.map_or(Found::Nothing, |config| Found::Config(Box::new(config)))
            }
            Target::Secret => self
                .secret(namespace, name, fresh)
                .await?
                .map_or(Found::Nothing, |(version, keys)| Found::Secret { version, keys }),
            Target::ConfigMap => {
                self.config_map(namespace, name, fresh).await?.map_or(Found::Nothing, Found::ConfigMap)
            }
        };
        Ok((reference, found))
    }

    async fn secret(
        &self,
        namespace: &str,
        name: &str,
        fresh: Freshness,
    ) -> Result<Option<(String, BTreeSet<String>)>, WorldError> {
        let thing = thing(What::Secret, namespace, name);
        if fresh == Freshness::Cached {
            let cached = match self.cluster.known_secret(namespace, name) {
                Some(known) => Some(known),
                None => self.within(&thing, self.cluster.secret(namespace, name)).await?,
            };
            if let Some(cached) = cached {
                return Ok(Some((cached.version.clone(), cached.keys.clone())));
            }
        }
        let found = self.ask(thing, fresh, self.cluster.ask_secret(namespace, name)).await?;
        Ok(found.map(|found| (found.version, found.keys)))
    }

    async fn config_map(
        &self,
        namespace: &str,
        name: &str,
        fresh: Freshness,
    ) -> Result<Option<BTreeMap<String, String>>, WorldError> {
        let thing = thing(What::ConfigMap, namespace, name);
        if fresh == Freshness::Cached {
            let cached = match self.cluster.known_config_map(namespace, name) {
                Some(known) => Some(known),
                None => self.within(&thing, self.cluster.config_map(namespace, name)).await?,
            };
            if let Some(cached) = cached {
                return Ok(Some(cached.data.clone()));
            }
        }
        let found = self.ask(thing, fresh, self.cluster.ask_config_map(namespace, name)).await?;
        Ok(found.map(|found| found.data))
    }

    /// Workloads whose made names could be this object's, the oldest first. One that is about to be made is the
    /// youngest, whoever had its name before.
    async fn workloads(
        &self,
        object: &Object,
        operation: Operation,
        fresh: Freshness,
    ) -> Result<Vec<WorkloadName>, WorldError> {
        if !object.kind.is_workload() {
            return Ok(Vec::new());
        }
        let own = WorkloadName { kind: object.kind, name: object.metadata.name.clone() };
        let mut all = self.cluster.neighbours(object);
        if operation == Operation::Create {
            all.retain(|other| *other != own);
        }
        if !all.contains(&own) {
            all.push(own.clone());
        }
        if fresh == Freshness::Cached {
            return Ok(all);
        }
        // Those that went a moment ago are nobody's neighbours.
        let namespace = object.metadata.namespace.as_str();
        iter(all)
            .map(|other| self.still_there(namespace, other, &own))
            .buffered(AT_A_TIME)
            .try_filter_map(|other| std::future::ready(Ok(other)))
            .try_collect()
            .await
    }

    /// A workload, if it is the object itself or is there now.
    async fn still_there(
        &self,
        namespace: &str,
        other: WorkloadName,
        own: &WorkloadName,
    ) -> Result<Option<WorkloadName>, WorldError> {
        if other == *own {
            return Ok(Some(other));
        }
        let found = self.object(other.kind, namespace, &other.name, Freshness::Now).await?;
        Ok(found.map(|_| other))
    }

    /// Asks the API server, unless it has just said that there is nothing.
    async fn ask<T>(
        &self,
        thing: Thing,
        fresh: Freshness,
        call: impl Future<Output = Result<Option<T>, kube::Error>>,
    ) -> Result<Option<T>, WorldError> {
        if fresh == Freshness::Cached && self.is_missing(&thing) {
            return Ok(None);
        }
        let found = self.within(&thing, call).await?;
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        match &found {
            Some(_) => missing.remove(&thing),
            None => missing.put(thing, self.clock.instant()),
        }
        Ok(found)
    }

    /// Asks when it is its turn.
    async fn within<T>(
        &self,
        thing: &Thing,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, WorldError> {
        let call = async {
            let _turn = self.open.acquire().await;
            call.await
        };
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(source)) => Err(WorldError::Ask { what: thing.clone(), source: Box::new(source) }),
            Err(_) => Err(WorldError::Slow { what: thing.clone() }),
        }
    }

    fn is_missing(&self, thing: &Thing) -> bool {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.get(thing).is_some_and(|asked| self.clock.since(asked) < MISSING_FOR)
    }
}

/// What the planner is told about references that lead nowhere.
pub fn missing(strict_references: bool) -> Missing {
    if strict_references { Missing::Refuse } else { Missing::Later }
}

fn thing(what: What, namespace: &str, name: &str) -> Thing {
    Thing { what, namespace: namespace.to_owned(), name: name.to_owned() }
}

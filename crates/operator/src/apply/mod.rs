//! Applying what a plan says, only when the cluster differs from it.

pub mod differs;
pub mod managed_fields;
pub(crate) mod quantity;
pub mod rebuild;
pub mod takeover;

use std::sync::Arc;

use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::ApiResource;
use serde_json::Value;
use skep_api::names;

use self::differs::{Verdict, verdict};
use crate::cluster::{Cluster, Resource, controller};
use crate::metrics::OperatorMetrics;
use crate::plan::{settle_generation, settle_restart};
use crate::settings::FIELD_MANAGER;

/// Applies, and removes what is no longer wanted.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    cluster: Arc<Cluster>,
    metrics: OperatorMetrics,
}

/// What became of the objects of one plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Objects that were written.
    pub written: usize,
    /// Objects of these names belong to somebody else and were left alone: `ConfigMap x`.
    pub conflicts: Vec<String>,
    /// Objects of these names are still there from a predecessor of the owner, or are just going.
    pub waiting: Vec<String>,
    /// Something that pods are made from is among them, so that no pods may be made.
    pub missing_foundation: bool,
}

/// One object that is to be written, unless it is as it should be.
struct Step {
    resource: Resource,
    api: ApiResource,
    name: String,
    wanted: Value,
    live: Option<Arc<Value>>,
    manager: &'static str,
}

impl Step {
    /// True for what runs, or leads to what runs.
    fn is_building(&self) -> bool {
        matches!(self.resource, Resource::Deployment | Resource::StatefulSet | Resource::Service)
    }
}

/// Whose an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The owner controls it, or nobody does and the labels name the owner (what ToolHive's proxies make has
    /// no controller at first).
    Ours,
    /// An object of the owner's kind and name that is no more; or it is going already.
    Predecessors,
    Others,
}

/// Why an object could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server said no, or could not be asked.
    #[error("{action} the {what} failed")]
    Api {
        action: &'static str,
        /// Kind and name.
        what: String,
        #[source]
        source: kube::Error,
    },
    /// The plan holds what no operator applies; a fault of ours.
    #[error("{0} is not a kind that is applied")]
    Kind(String),
}

/// The object that everything belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    pub kind: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
}

impl Applier {
    /// Writes with `client`; reads `cluster`.
    pub fn new(client: Client, cluster: Arc<Cluster>, metrics: OperatorMetrics) -> Self {
        Self { client, cluster, metrics }
    }

    /// Brings the cluster to what a plan says, in the plan's order, and removes what the owner controls and
    /// the plan no longer has.
    ///
    /// Where somebody else has the name of what pods are made from (their account, its rights, their
    /// configuration, what isolates them), nothing that would run with it is made.
    ///
    /// # Errors
    /// At the first object that can't be applied; what comes after it is not touched.
    pub async fn apply(&self, owner: Owner<'_>, objects: &[Value]) -> Result<Applied, ApplyError> {
        let mut applied = Applied::default();
        let mut steps = Vec::new();
        for object in objects {
            steps.extend(self.look(owner, object, &mut applied).await?);
        }
        let held_back = applied.missing_foundation;
        for step in steps.iter().filter(|step| !(held_back && step.live.is_none() && step.is_building())) {
            self.write(owner, step, &mut applied).await?;
        }
        self.prune(owner, objects).await?;
        Ok(applied)
    }

    /// Brings one object to what is wanted. One that another object controls is left alone.
    ///
    /// # Errors
    /// When it can't be applied.
    pub async fn one(
        &self,
        owner: Owner<'_>,
        object: &Value,
        applied: &mut Applied,
    ) -> Result<(), ApplyError> {
        match self.look(owner, object, applied).await? {
            Some(step) => self.write(owner, &step, applied).await,
            None => Ok(()),
        }
    }

    /// Finds out what is there; `None` when it is not to be written.
    async fn look(
        &self,
        owner: Owner<'_>,
        object: &Value,
        applied: &mut Applied,
    ) -> Result<Option<Step>, ApplyError> {
        let kind = text(object, "/kind");
        let resource = Resource::of(object).ok_or_else(|| ApplyError::Kind(kind.to_owned()))?;
        // A kind that this API server has not can't be wanted on it.
        let Some(api) = resource.api(&self.cluster.capabilities) else { return Ok(None) };
        let name = text(object, "/metadata/name").to_owned();
        let live = match self.cluster.store(resource).get(owner.namespace, &name) {
            Some(live) => Some(live),
            // The caches hold what carries our labels. Somebody else's object may have the name.
            None => {
                let objects: Api<DynamicObject> =
                    Api::namespaced_with(self.client.clone(), owner.namespace, &api);
                let found = objects.get_opt(&name).await.map_err(|source| ApplyError::Api {
                    action: "reading",
                    what: format!("{kind} `{name}`"),
                    source,
                })?;
                found.map(|found| Arc::new(serde_json::to_value(found).unwrap_or_default()))
            }
        };
        let whose = live.as_deref().map_or(Whose::Ours, |live| self.whose(live, owner));
        match whose {
            Whose::Ours => {}
            Whose::Predecessors => applied.waiting.push(format!("{kind} {name}")),
            // ToolHive makes no such Service, and nothing of ours needs it but pods' own DNS names.
            Whose::Others if resource == Resource::Service && name == owner.name => {
                tracing::info!(
                    service = name,
                    "somebody else's Service has the name of the server; it stays theirs"
                );
                return Ok(None);
            }
            Whose::Others => {
                applied.conflicts.push(format!("{kind} {name}"));
                self.metrics.applied(kind, "conflict");
            }
        }
        if whose != Whose::Ours {
            applied.missing_foundation |= !matches!(
                resource,
                Resource::Deployment | Resource::StatefulSet | Resource::Service | Resource::ServiceMonitor
            );
            return Ok(None);
        }
        let wanted = fitted(object, &api.api_version, live.as_deref());
        let manager = manager(owner.name, resource, &name);
        Ok(Some(Step { resource, api, name, wanted, live, manager }))
    }

    /// Whose an object is. What ToolHive's proxies make beside the StatefulSet is controlled by that.
    fn whose(&self, live: &Value, owner: Owner<'_>) -> Whose {
        let direct = whose(live, owner);
        let Some(controller) = controller(live).filter(|_| direct == Whose::Others) else { return direct };
        let backend = self.cluster.store(Resource::StatefulSet).get(owner.namespace, owner.name);
        let ours = backend.is_some_and(|backend| {
            text(&backend, "/metadata/uid") == controller.uid && whose(&backend, owner) == Whose::Ours
        });
        if ours && controller.kind == "StatefulSet" { Whose::Ours } else { direct }
    }

    async fn write(&self, owner: Owner<'_>, step: &Step, applied: &mut Applied) -> Result<(), ApplyError> {
        let Step { resource, api, name, wanted, manager, .. } = step;
        let kind = resource.as_str();
        let objects: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), owner.namespace, api);
        let failed = |action, source| ApplyError::Api { action, what: format!("{kind} `{name}`"), source };
        let store = self.cluster.store(*resource);
        if let Some(live) = step.live.as_deref() {
            let patch = match verdict(wanted, live, manager) {
                Verdict::InSync => {
                    self.metrics.applied(kind, "unchanged");
                    return Ok(());
                }
                Verdict::TakeOver { why } => {
                    tracing::info!(kind, name, why, "fields that another operator set are taken over");
                    takeover::take_over(live, manager)
                }
                Verdict::Apply { why } => {
                    tracing::debug!(kind, name, why, "the object differs from what is wanted");
                    self.released(wanted, live, manager)
                }
            };
            let mut present = None;
            if let Some(patch) = patch {
                let found = prepare(&objects, name, manager, patch).await;
                present = Some(found.map_err(|source| failed("taking over", source))?);
                self.metrics.applied(kind, "taken_over");
            }
            if self.cluster.capabilities.leaves_objects_behind
                && let Some(patch) = rebuild::rebuild(wanted, present.as_ref().unwrap_or(live), manager)
            {
                let mut found = prepare(&objects, name, manager, patch)
                    .await
                    .map_err(|source| failed("rebuilding", source))?;
                if let Some(patch) = takeover::take_over(&found, manager) {
                    found = prepare(&objects, name, manager, patch)
                        .await
                        .map_err(|source| failed("taking over", source))?;
                }
                present = Some(found);
                self.metrics.applied(kind, "rebuilt");
            }
            if let Some(present) = present {
                store.written(present);
            }
        }
        let params = PatchParams::apply(manager).force();
        let made = objects
            .patch(name, &params, &Patch::Apply(wanted))
            .await
            .map_err(|source| failed("applying", source))?;
        applied.written += 1;
        self.metrics.applied(kind, if step.live.is_some() { "updated" } else { "created" });
        let made = serde_json::to_value(made).unwrap_or_default();
        if step.live.is_some() {
            store.written(made);
        } else {
            store.created(made);
        }
        Ok(())
    }

    /// What is no longer said has to be handed over before it is dropped: server-side apply would reset it.
    fn released(&self, wanted: &Value, live: &Value, manager: &str) -> Option<Value> {
        let unsaid = wanted.pointer("/spec/replicas").is_none() && live.pointer("/spec/replicas").is_some();
        unsaid.then(|| takeover::release(live, manager, &["spec", "replicas"])).flatten()
    }

    /// Removes what the owner controls and the plan no longer has. Workloads are never removed this way.
    async fn prune(&self, owner: Owner<'_>, objects: &[Value]) -> Result<(), ApplyError> {
        for (resource, live) in self.cluster.made_by(owner.namespace, owner.uid) {
            let name = text(&live, "/metadata/name");
            let wanted = objects.iter().any(|object| {
                Resource::of(object) == Some(resource) && text(object, "/metadata/name") == name
            });
            let workload = matches!(resource, Resource::Deployment | Resource::StatefulSet);
            let leaving = live.pointer("/metadata/deletionTimestamp").is_some();
            let Some(api) = resource.api(&self.cluster.capabilities) else { continue };
            if wanted || workload || leaving {
                continue;
            }
            self.delete(&api, resource, owner.namespace, &live).await?;
            self.metrics.applied(resource.as_str(), "pruned");
        }
        Ok(())
    }

    /// Deletes one object, as it is known: one that was made anew in the meantime stays.
    async fn delete(
        &self,
        api: &ApiResource,
        resource: Resource,
        namespace: &str,
        live: &Value,
    ) -> Result<(), ApplyError> {
        let name = text(live, "/metadata/name");
        let objects: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, api);
        let uid = text(live, "/metadata/uid");
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::background()
        };
        match objects.delete(name, &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(source) => {
                let what = format!("{} `{name}`", resource.as_str());
                return Err(ApplyError::Api { action: "deleting", what, source });
            }
        }
        self.cluster.store(resource).deleted(namespace, name);
        Ok(())
    }

    /// Deletes what a server's proxy made under ToolHive's operator, which has no owner there.
    ///
    /// # Errors
    /// When the API server can't be asked.
    pub async fn delete_leftovers(&self, owner: Owner<'_>) -> Result<(), ApplyError> {
        let services = [names::backend_service(owner.name), names::backend_headless_service(owner.name)];
        let left = [(Resource::StatefulSet, owner.name.to_owned())]
            .into_iter()
            .chain(services.map(|name| (Resource::Service, name)))
            .chain([(Resource::ConfigMap, names::runconfig(owner.name))]);
        for (resource, name) in left {
            let Some(live) = self.cluster.store(resource).get(owner.namespace, &name) else { continue };
            let Some(api) = resource.api(&self.cluster.capabilities) else { continue };
            let named = live.pointer("/metadata/labels/toolhive-name").and_then(Value::as_str);
            let ours = self.whose(&live, owner) == Whose::Ours;
            if ours && (controller(&live).is_some() || named == Some(owner.name)) {
                self.delete(&api, resource, owner.namespace, &live).await?;
            }
        }
        Ok(())
    }
}

/// A change that has to come before an apply.
async fn prepare(
    objects: &Api<DynamicObject>,
    name: &str,
    manager: &str,
    patch: Value,
) -> Result<Value, kube::Error> {
    let patch: Patch<Value> = Patch::Json(serde_json::from_value(patch).map_err(kube::Error::SerdeError)?);
    let params = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
    let found = objects.patch(name, &params, &patch).await?;
    Ok(serde_json::to_value(found).unwrap_or_default())
}

fn whose(live: &Value, owner: Owner<'_>) -> Whose {
    if live.pointer("/metadata/deletionTimestamp").is_some() {
        return Whose::Predecessors;
    }
    match controller(live) {
        Some(controller) if controller.uid == owner.uid => Whose::Ours,
        Some(controller) if controller.kind == owner.kind && controller.name == owner.name => {
            Whose::Predecessors
        }
        Some(_) => Whose::Others,
        None => {
            let label = |name: &str| live.pointer("/metadata/labels")?.get(name)?.as_str();
            let named = [label("toolhive-name"), label("app"), label("app.kubernetes.io/instance")];
            if label("toolhive") == Some("true") && named.contains(&Some(owner.name)) {
                Whose::Ours
            } else {
                Whose::Others
            }
        }
    }
}

/// Backends are applied under the name that the proxies of ToolHive use, so that both are one manager.
fn manager(owner: &str, resource: Resource, name: &str) -> &'static str {
    let backend = match resource {
        Resource::StatefulSet => true,
        Resource::Service => {
            name == owner
                || name == names::backend_service(owner)
                || name == names::backend_headless_service(owner)
        }
        _ => false,
    };
    if backend { names::BACKEND_FIELD_MANAGER } else { FIELD_MANAGER }
}

/// The object as this API server takes it: in its version, and with the fields that nobody may change as
/// they are.
fn fitted(object: &Value, api_version: &str, live: Option<&Value>) -> Value {
    let mut wanted = object.clone();
    if let Some(version) = wanted.get_mut("apiVersion") {
        *version = api_version.into();
    }
    let Some(live) = live else { return wanted };
    // A change that a running proxy takes by itself rolls no pod, and neither does a restart that was.
    settle_generation(&mut wanted, live);
    settle_restart(&mut wanted, live);
    let fixed: &[&str] = match text(object, "/kind") {
        "StatefulSet" => &["serviceName", "selector", "volumeClaimTemplates", "podManagementPolicy"],
        "Deployment" => &["selector"],
        _ => &[],
    };
    for field in fixed {
        let at = wanted.pointer("/spec").and_then(|spec| spec.get(*field));
        if let (Some(_), Some(kept)) = (at, live.pointer("/spec").and_then(|spec| spec.get(*field)).cloned())
            && let Some(spec) = wanted.pointer_mut("/spec").and_then(Value::as_object_mut)
        {
            spec.insert((*field).to_owned(), kept);
        }
    }
    wanted
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

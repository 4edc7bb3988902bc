//! Applying what a plan says, only when the cluster differs from it.

pub mod differs;
pub mod managed_fields;
mod quantity;
pub mod rebuild;
pub mod takeover;

use std::sync::Arc;

use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use serde_json::Value;
use skep_api::names;

use self::differs::{Verdict, verdict};
use crate::cluster::{Cluster, Resource, controller};
use crate::metrics::OperatorMetrics;
use crate::plan::settle_generation;
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
    /// # Errors
    /// At the first object that can't be applied; what comes after it is not touched.
    pub async fn apply(&self, owner: Owner<'_>, objects: &[Value]) -> Result<Applied, ApplyError> {
        let mut applied = Applied::default();
        for object in objects {
            self.one(owner, object, &mut applied).await?;
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
        let kind = text(object, "/kind");
        let resource = Resource::of(object).ok_or_else(|| ApplyError::Kind(kind.to_owned()))?;
        // A kind that this API server has not can't be wanted on it.
        let Some(api) = resource.api(&self.cluster.capabilities) else { return Ok(()) };
        let name = text(object, "/metadata/name");
        let store = self.cluster.store(resource);
        let what = format!("{kind} `{name}`");
        let objects: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), owner.namespace, &api);
        let failed = |action, source| ApplyError::Api { action, what: what.clone(), source };
        let live = match store.get(owner.namespace, name) {
            Some(live) => Some(live),
            // The caches hold what carries our labels. Somebody else's object may have the name.
            None => {
                let found = objects.get_opt(name).await.map_err(|source| failed("reading", source))?;
                found.map(|found| Arc::new(serde_json::to_value(found).unwrap_or_default()))
            }
        };
        if live.as_deref().is_some_and(|live| !is_ours(live, owner)) {
            applied.conflicts.push(format!("{kind} {name}"));
            self.metrics.applied(kind, "conflict");
            return Ok(());
        }
        let wanted = fitted(object, &api.api_version, live.as_deref());
        let manager = manager(owner.name, resource, name);
        if let Some(live) = live.as_deref() {
            let patch = match verdict(&wanted, live, manager) {
                Verdict::InSync => {
                    self.metrics.applied(kind, "unchanged");
                    return Ok(());
                }
                Verdict::TakeOver { why } => {
                    tracing::info!(object = what, why, "fields that another operator set are taken over");
                    takeover::take_over(live, manager)
                }
                Verdict::Apply { why } => {
                    tracing::debug!(object = what, why, "the object differs from what is wanted");
                    self.released(&wanted, live, manager)
                }
            };
            if let Some(patch) = patch {
                let patch: Patch<Value> = Patch::Json(
                    serde_json::from_value(patch)
                        .map_err(|error| failed("taking over", kube::Error::SerdeError(error)))?,
                );
                let params =
                    PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
                let found = objects
                    .patch(name, &params, &patch)
                    .await
                    .map_err(|source| failed("taking over", source))?;
                self.metrics.applied(kind, "taken_over");
                store.written(serde_json::to_value(found).unwrap_or_default());
            }
        }
        let params = PatchParams::apply(manager).force();
        let made = objects
            .patch(name, &params, &Patch::Apply(&wanted))
            .await
            .map_err(|source| failed("applying", source))?;
        applied.written += 1;
        self.metrics.applied(kind, if live.is_some() { "updated" } else { "created" });
        store.written(serde_json::to_value(made).unwrap_or_default());
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
        api: &kube::core::ApiResource,
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
            if is_ours(&live, owner) && (controller(&live).is_some() || named == Some(owner.name)) {
                self.delete(&api, resource, owner.namespace, &live).await?;
            }
        }
        Ok(())
    }
}

/// True when an object is the owner's: it controls it, or nobody does and the labels name the owner (what
/// ToolHive's proxies make has no controller at first).
fn is_ours(live: &Value, owner: Owner<'_>) -> bool {
    match controller(live) {
        Some(controller) => controller.uid == owner.uid,
        None => {
            let label = |name: &str| live.pointer("/metadata/labels")?.get(name)?.as_str();
            label("toolhive") == Some("true")
                && [label("toolhive-name"), label("app"), label("app.kubernetes.io/instance")]
                    .contains(&Some(owner.name))
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
    // A change that a running proxy takes by itself rolls no pod.
    settle_generation(&mut wanted, live);
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

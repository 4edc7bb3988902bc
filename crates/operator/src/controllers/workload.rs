//! MCPServer and MCPRemoteProxy: what is planned is applied, what is observed is said.

use std::time::Duration;

use serde_json::Value;
use skep_api::crd::{Kind, Object};

use super::deletion::{finalizers, remove_finalizer};
use super::sidecars::provide;
use super::status_write::write;
use super::suspend::suspend;
use super::{Context, ErrorKind, Next, ReconcileError, registration, restart};
use crate::apply::{Applied, ApplyError, Owner};
use crate::cluster::{Resource, controller};
use crate::observe::{
    ApplyFailure, Deployment, Observed, Pods, StatefulSet, is_of_deployment, is_of_stateful_set,
};
use crate::plan::{Planned, plan_object};
use crate::queue::Key;
use crate::status;

/// What ToolHive's operator puts on an MCPServer. We put nothing on it.
const TOOLHIVES_FINALIZER: &str = "mcpserver.toolhive.stacklok.dev/finalizer";

/// How soon names that a predecessor still has are tried again.
const PREDECESSOR_GOES: Duration = Duration::from_secs(2);

/// Brings everything that belongs to a workload to what its spec and its world say.
pub(super) async fn reconcile(context: &Context, key: &Key, value: &Value) -> Result<Next, ReconcileError> {
    let Ok(object) = Object::parse(value) else { return Ok(Next::Change) };
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let owner = Owner { kind: key.kind.as_str(), namespace: &key.namespace, name: &key.name, uid: &uid };
    if object.metadata.is_terminating() {
        return finish(context, key, value, &object, owner).await;
    }
    let mut world =
        context.cluster.world(&object).await.map_err(ReconcileError::api("reading what it refers to"))?;
    // That it could not be made stops nothing else.
    let provided = provide(context, &object, &mut world).await;
    let planned = plan_object(&object, &world);

    // An object that can't be planned keeps what it had, unless calls must not go on.
    let result = match &planned.plan {
        Some(plan) => context.applier.apply(owner, &plan.objects).await,
        None => suspend(context, owner, &planned).await,
    };
    let (applied, failure, error) = match result {
        Ok(applied) => (applied, None, None),
        Err(error) => {
            let error = ReconcileError::from(error);
            // Only what the API server says for good belongs into the status.
            let for_good = matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Forbidden);
            if !for_good || error.is_namespace_going() {
                return Err(error);
            }
            (Applied::default(), failure(&error), Some(error))
        }
    };
    let value = restart::process(context, key, value, &planned).await?;
    let (value, registration) = registration::note(context, key, value, &object, &world, &planned).await?;

    let observed = Observed { registration, ..observe(context, key, &uid, &applied, failure) };
    let present = value.get("status").cloned().unwrap_or_default();
    let wanted = status::workload(&object, &planned, &observed, &present, context.clock.now());
    write(context, key, &value, &wanted).await?;
    context.anonymous.note(key, &planned, &context.metrics);
    match error.or(provided.err()) {
        Some(error) => Err(error),
        // What an object of the same name before this one had is about to go.
        None if !applied.waiting.is_empty() => Ok(Next::After(PREDECESSOR_GOES)),
        // Who has the name may give it up, and nobody tells.
        None if !observed.conflicts.is_empty() => Ok(Next::After(super::deletion::LOOK_AGAIN)),
        None => Ok(Next::Change),
    }
}

/// Everything belongs to the object by owner references and goes with it, but for what ToolHive's proxies made
/// without one, for which ToolHive's finalizer is on the object, and a client at Keycloak, for which ours is.
async fn finish(
    context: &Context,
    key: &Key,
    value: &Value,
    object: &Object,
    owner: Owner<'_>,
) -> Result<Next, ReconcileError> {
    context.anonymous.forget(key, &context.metrics);
    let left = finalizers(value);
    let theirs = key.kind == Kind::MCPServer && left.iter().any(|one| one == TOOLHIVES_FINALIZER);
    if left.len() > usize::from(theirs) {
        // Somebody else holds it back; until then people see that it goes.
        let present = value.get("status").cloned().unwrap_or_default();
        let (planned, observed) = (Planned::default(), Observed::default());
        let wanted = status::workload(object, &planned, &observed, &present, context.clock.now());
        write(context, key, value, &wanted).await?;
    }
    registration::finish(context, key, value).await?;
    if theirs {
        context.applier.delete_leftovers(owner).await?;
        // As it is after the status was written.
        let value = context.cluster.object(key);
        if let Some(value) = value {
            remove_finalizer(context, key, &value, Some(TOOLHIVES_FINALIZER)).await?;
        }
    }
    Ok(Next::Change)
}

fn failure(error: &ReconcileError) -> Option<ApplyFailure> {
    let ReconcileError::Apply(ApplyError::Api { what, source: kube::Error::Api(status), .. }) = error else {
        return None;
    };
    Some(ApplyFailure { what: what.clone(), why: status.message.clone() })
}

/// What the caches and the proxies' reports say. Labels alone make no pod ours.
fn observe(
    context: &Context,
    key: &Key,
    uid: &str,
    applied: &Applied,
    apply_error: Option<ApplyFailure>,
) -> Observed {
    let mine = |resource| {
        let found = context.cluster.store(resource).get(&key.namespace, &key.name);
        found.filter(|object| controller(object).is_none_or(|controller| controller.uid == uid))
    };
    let proxy = match key.kind {
        Kind::MCPRemoteProxy => "mcpremoteproxy",
        _ => "mcpserver",
    };
    let set = mine(Resource::StatefulSet).filter(|_| key.kind == Kind::MCPServer);
    let set_uid = set.as_deref().and_then(|set| set.pointer("/metadata/uid")).and_then(Value::as_str);
    let pods = context.cluster.pods_of(key);
    let (mut proxies, mut backends): (Vec<_>, Vec<_>) = pods.into_iter().partition(|pod| {
        pod.pointer("/metadata/labels/app.kubernetes.io~1name").and_then(Value::as_str) == Some(proxy)
    });
    proxies.retain(|pod| is_of_deployment(pod, &key.name));
    backends.retain(|pod| set_uid.is_some_and(|uid| is_of_stateful_set(pod, uid)));
    Observed {
        deployment: mine(Resource::Deployment).as_deref().map(Deployment::of),
        pods: Pods::of(proxies.iter().map(AsRef::as_ref)),
        stateful_set: set.as_deref().map(StatefulSet::of),
        backend: Pods::of(backends.iter().map(AsRef::as_ref)),
        reports: context.reports.of(proxies.iter().map(AsRef::as_ref)),
        conflicts: applied.conflicts.clone(),
        apply_error,
        registration: None,
    }
}

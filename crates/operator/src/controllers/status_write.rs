//! Writing a status, and telling what it changed.

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use skep_api::crd::{Object, Spec};

use super::dropped::without_phase;
use super::{Context, ErrorKind, ReconcileError};
use crate::cluster::Resource;
use crate::events::Severity;
use crate::queue::Key;
use crate::settings::FIELD_MANAGER;
use crate::status::{patch, transitions};

/// Writes `status` when it is not what the object has; nothing is written otherwise. True when it was.
///
/// # Errors
/// When the API server refuses it; also when somebody else wrote the object in the meantime.
pub(super) async fn write(
    context: &Context,
    key: &Key,
    object: &Value,
    status: &Value,
) -> Result<bool, ReconcileError> {
    let present = object.get("status").cloned().unwrap_or_else(|| json!({}));
    let wanted = context.dropped.allowed(key.kind, status);
    if patch(&present, &wanted).is_none() || context.dropped.is_known(key, &present, &wanted) {
        return Ok(false);
    }
    let Some(objects) = objects(context, key) else { return Ok(false) };
    match send(&objects, key, object, &present, &wanted).await {
        Err(error) if error.kind() == ErrorKind::Invalid => {
            // An older CRD has other phases. What else the status says is worth more than its phase.
            let Some(reduced) = without_phase(&wanted) else { return Err(error) };
            let written = send(&objects, key, object, &present, &reduced).await?;
            context.dropped.refused(key.kind, &wanted);
            finish(context, key, object, &present, &reduced, written).await
        }
        Err(error) => Err(error),
        Ok(written) => finish(context, key, object, &present, &wanted, written).await,
    }
}

/// Sends what changes; none when that is nothing.
async fn send(
    objects: &Api<DynamicObject>,
    key: &Key,
    object: &Value,
    present: &Value,
    status: &Value,
) -> Result<Option<DynamicObject>, ReconcileError> {
    let Some(mut body) = patch(present, status) else { return Ok(None) };
    // With the version it was decided from, so that a newer decision is never overwritten by an older one.
    let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
    if let Some(body) = body.as_object_mut() {
        body.insert("metadata".to_owned(), json!({"resourceVersion": version}));
    }
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let written = objects.patch_status(&key.name, &params, &Patch::Merge(&body)).await;
    written.map(Some).map_err(ReconcileError::api("writing the status"))
}

/// Takes what the API server made of a status, and tells what changed.
async fn finish(
    context: &Context,
    key: &Key,
    object: &Value,
    present: &Value,
    status: &Value,
    written: Option<DynamicObject>,
) -> Result<bool, ReconcileError> {
    let Some(found) = written else { return Ok(false) };
    let mut found = serde_json::to_value(found).unwrap_or_default();
    if let Some(metadata) = found.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
    context.dropped.note(key, found.get("status").unwrap_or(&Value::Null), status);
    context.cluster.store(Resource::Ours(key.kind)).written(found);
    tell(context, key, object, present, status).await;
    Ok(true)
}

/// The API of a key's kind; `None` when the API server has not the kind.
pub(super) fn objects(context: &Context, key: &Key) -> Option<Api<DynamicObject>> {
    let api = Resource::Ours(key.kind).api(&context.cluster.capabilities)?;
    Some(Api::namespaced_with(context.client.clone(), &key.namespace, &api))
}

/// One event for all that changed at once.
async fn tell(context: &Context, key: &Key, object: &Value, before: &Value, after: &Value) {
    let mut found = transitions(before, after);
    // Whoever says in words that everybody may come in need not be warned of it.
    let open = Object::parse(object).is_ok_and(|object| match &object.spec {
        Spec::Server(server) => server.anonymous,
        Spec::RemoteProxy(proxy) => proxy.anonymous,
        _ => false,
    });
    found.retain(|one| !(open && one.reason == "Anonymous"));
    // The worst comes first, and gives the event its name.
    let Some(first) = found.first() else { return };
    let mut note = first.message.clone();
    for other in found.iter().skip(1) {
        note.push_str(&format!("; {}={} ({}): {}", other.kind, other.to, other.reason, other.message));
    }
    let severity = if first.warning { Severity::Warning } else { Severity::Normal };
    context.events.publish(key, object, severity, &first.reason, "Reconcile", &note).await;
}

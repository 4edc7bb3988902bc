//! Finalizers, and configs that can't be deleted while somebody refers to them.

use std::time::Duration;

use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use skep_api::crd::status::ReferencingWorkload;
use skep_api::crd::{GROUP, Kind, Object};

use super::status_write::objects;
use super::{Context, ReconcileError};
use crate::cluster::Resource;
use crate::plan::{self, Target};
use crate::queue::Key;
use crate::settings::FIELD_MANAGER;

/// How often a config that can't go is looked at again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Whether a config may go.
#[derive(Debug)]
pub(super) enum Protection {
    /// Nobody refers to it.
    Free,
    /// These do.
    Referred(Vec<ReferencingWorkload>),
}

/// Looks for objects that refer to a config, at the API server: what was made a moment ago counts, whether
/// the caches have it or not.
///
/// # Errors
/// When the API server can't be asked; then nothing may be concluded.
pub(super) async fn protection(context: &Context, key: &Key) -> Result<Protection, ReconcileError> {
    let mut referrers = Vec::new();
    for kind in [Kind::MCPServer, Kind::MCPRemoteProxy, Kind::MCPServerEntry] {
        let Some(api) = Resource::Ours(kind).api(&context.cluster.capabilities) else { continue };
        for object in list(context, &api, &key.namespace).await? {
            let Ok(read) = Object::parse(&object) else { continue };
            let wanted = plan::Reference { target: Target::Object(key.kind), name: key.name.clone() };
            // An object that can't be read may be mended, and then needs what it names.
            if plan::references(&read).contains(&wanted)
                || (unreadable(&read) && plan::mentions(&object, key.kind, &key.name))
            {
                referrers
                    .push(ReferencingWorkload { kind: kind.as_str().to_owned(), name: read.metadata.name });
            }
        }
    }
    if let Some(version) = &context.cluster.capabilities.virtual_servers {
        let api = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(GROUP, version, "VirtualMCPServer"),
            "virtualmcpservers",
        );
        for object in list(context, &api, &key.namespace).await? {
            if plan::mentions(&object, key.kind, &key.name) {
                let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
                referrers
                    .push(ReferencingWorkload { kind: "VirtualMCPServer".to_owned(), name: name.to_owned() });
            }
        }
    }
    Ok(if referrers.is_empty() { Protection::Free } else { Protection::Referred(referrers) })
}

async fn list(context: &Context, api: &ApiResource, namespace: &str) -> Result<Vec<Value>, ReconcileError> {
    let objects: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, api);
    let mut found = Vec::new();
    let mut page = ListParams::default().limit(500);
    loop {
        let list =
            objects.list(&page).await.map_err(ReconcileError::api("looking for those who refer to it"))?;
        found.extend(list.items.into_iter().filter_map(|object| serde_json::to_value(object).ok()));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

fn unreadable(object: &Object) -> bool {
    object.spec == skep_api::crd::Spec::Unreadable
}

/// The object with its kind's finalizer; it is added when it is missing.
///
/// # Errors
/// When it can't be written; also when somebody else wrote the object in the meantime.
pub(super) async fn with_finalizer(
    context: &Context,
    key: &Key,
    value: &Value,
) -> Result<Value, ReconcileError> {
    let Some(finalizer) = key.kind.finalizer() else { return Ok(value.clone()) };
    let mut list = finalizers(value);
    if list.iter().any(|one| one == finalizer) {
        return Ok(value.clone());
    }
    list.push(finalizer.to_owned());
    patch(context, key, value, &json!({"finalizers": list})).await
}

/// Removes a finalizer, if the object has it.
///
/// # Errors
/// When it can't be written.
pub(super) async fn remove_finalizer(
    context: &Context,
    key: &Key,
    value: &Value,
    finalizer: Option<&str>,
) -> Result<(), ReconcileError> {
    let Some(finalizer) = finalizer else { return Ok(()) };
    let list = finalizers(value);
    let kept: Vec<&String> = list.iter().filter(|one| *one != finalizer).collect();
    if kept.len() == list.len() {
        return Ok(());
    }
    match patch(context, key, value, &json!({"finalizers": kept})).await {
        // With its last finalizer the object went.
        Err(error) if error.kind() == super::ErrorKind::NotFound => Ok(()),
        other => other.map(drop),
    }
}

/// The finalizers of an object.
pub(super) fn finalizers(value: &Value) -> Vec<String> {
    let list = value.pointer("/metadata/finalizers").cloned().unwrap_or_default();
    serde_json::from_value(list).unwrap_or_default()
}

/// Changes metadata of an object of ours, if nobody else has changed the object. Its spec is never written.
pub(super) async fn patch(
    context: &Context,
    key: &Key,
    value: &Value,
    metadata: &Value,
) -> Result<Value, ReconcileError> {
    let mut metadata = metadata.clone();
    if let Some(map) = metadata.as_object_mut() {
        let version = value.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
        map.insert("resourceVersion".to_owned(), version);
    }
    let Some(objects) = objects(context, key) else { return Ok(value.clone()) };
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let found = objects
        .patch(&key.name, &params, &Patch::Merge(json!({"metadata": metadata})))
        .await
        .map_err(ReconcileError::api("writing the metadata"))?;
    let mut found = serde_json::to_value(found).unwrap_or_default();
    if let Some(metadata) = found.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
    context.cluster.store(Resource::Ours(key.kind)).written(found.clone());
    Ok(found)
}

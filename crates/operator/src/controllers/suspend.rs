//! A proxy that has to stop letting calls through, because nothing valid says any more who may call.

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use skep_api::names;
use skep_api::runconfig::FILE_NAME;

use super::Context;
use crate::apply::{Applied, ApplyError, Owner};
use crate::cluster::{Resource, controller};
use crate::plan::{Planned, is_open, suspended};
use crate::settings::FIELD_MANAGER;

/// Tells a proxy that runs with an earlier configuration to let no call through, if that is what has to be.
/// Nothing else of it is touched.
///
/// # Errors
/// When it can't be told.
pub(super) async fn suspend(
    context: &Context,
    owner: Owner<'_>,
    planned: &Planned,
) -> Result<Applied, ApplyError> {
    let mut applied = Applied::default();
    let name = names::runconfig(owner.name);
    let Some(live) = context.cluster.store(Resource::ConfigMap).get(owner.namespace, &name) else {
        return Ok(applied);
    };
    let data = live.pointer("/data").and_then(|data| data.get(FILE_NAME)).and_then(Value::as_str);
    let Some(text) = data.filter(|_| controller(&live).is_some_and(|controller| controller.uid == owner.uid))
    else {
        return Ok(applied);
    };
    let open = planned.suspend_if_open.as_ref().filter(|_| is_open(text));
    let Some(reason) = planned.suspend.as_ref().or(open) else { return Ok(applied) };
    let Some(text) = suspended(text, reason) else { return Ok(applied) };
    let mut metadata = json!({"name": name, "namespace": owner.namespace});
    for field in ["labels", "annotations", "ownerReferences"] {
        let kept = live.pointer("/metadata").and_then(|metadata| metadata.get(field)).cloned();
        if let (Some(kept), Some(map)) = (kept, metadata.as_object_mut()) {
            map.insert(field.to_owned(), kept);
        }
    }
    let wanted =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {FILE_NAME: text}});
    context.applier.one(owner, &wanted, &mut applied).await?;
    replace_foreign_proxy(context, owner).await?;
    Ok(applied)
}

/// A proxy of ToolHive does not know that it can be suspended. Ours takes its place, with the same arguments
/// and the RunConfig that says so.
async fn replace_foreign_proxy(context: &Context, owner: Owner<'_>) -> Result<(), ApplyError> {
    let store = context.cluster.store(Resource::Deployment);
    let Some(live) = store.get(owner.namespace, owner.name) else { return Ok(()) };
    let ours = live
        .pointer("/spec/template/metadata/annotations")
        .is_some_and(|annotations| annotations.get(names::TEMPLATE_CHECKSUM).is_some());
    let image = context.cluster.settings.runner_image.as_str();
    let containers = live.pointer("/spec/template/spec/containers").and_then(Value::as_array);
    let proxy = containers
        .into_iter()
        .flatten()
        .find(|container| container.get("name").and_then(Value::as_str) == Some(names::PROXY_CONTAINER));
    let replaced = proxy.is_none_or(|proxy| proxy.get("image").and_then(Value::as_str) == Some(image));
    let controlled = controller(&live).is_some_and(|controller| controller.uid == owner.uid);
    let Some(api) = Resource::Deployment.api(&context.cluster.capabilities) else { return Ok(()) };
    if ours || replaced || !controlled {
        return Ok(());
    }
    let change = json!({"spec": {"template": {"spec": {"containers": [
        {"name": names::PROXY_CONTAINER, "image": image},
    ]}}}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let deployments: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), owner.namespace, &api);
    let found =
        deployments.patch(owner.name, &params, &Patch::Strategic(change)).await.map_err(|source| {
            ApplyError::Api {
                action: "replacing the proxy of",
                what: format!("Deployment `{}`", owner.name),
                source,
            }
        })?;
    store.written(serde_json::to_value(found).unwrap_or_default());
    Ok(())
}

//! What the operator does for the sidecars of an MCP server, besides saying what they lack.

use kube::api::{Api, PostParams};
use serde_json::json;
use skep_api::crd::Object;

use super::{Context, ErrorKind, ReconcileError};
use crate::cluster::Resource;
use crate::plan::{self, World};
use crate::settings::FIELD_MANAGER;
use crate::sidecars::names::{ENVIRONMENTS, HELPER_CONFIG, HELPER_CONFIG_KEY};
use crate::sidecars::{default_helper_audience, default_helper_config};

/// Makes the ConfigMap with the SPIFFE helper's configuration, for an object with sidecars in a namespace that
/// has none, and puts it into `world`. It is nobody's afterwards: it is never changed or removed again.
///
/// # Errors
/// When the API server can't be asked. That it refuses is none: the condition says what is missing then.
pub(super) async fn provide(
    context: &Context,
    object: &Object,
    world: &mut World,
) -> Result<(), ReconcileError> {
    if plan::injected(object, world).is_none() || world.config_maps.contains_key(HELPER_CONFIG) {
        return Ok(());
    }
    let namespace = object.metadata.namespace.as_str();
    let known = context.registrations.settings();
    let known = known.map(|settings| (settings.url.as_str(), settings.realm.as_str()));
    let audience = default_helper_audience(world.config_maps.get(ENVIRONMENTS), known);
    let text = default_helper_config(&audience);
    let made = serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": HELPER_CONFIG,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "skep"},
        },
        "data": {HELPER_CONFIG_KEY: text},
    }));
    let Ok(made) = made else { return Ok(()) };
    let config_maps: Api<k8s_openapi::api::core::v1::ConfigMap> =
        Api::namespaced(context.client.clone(), namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let result = config_maps.create(&params, &made).await;
    match result.map_err(ReconcileError::api("making the helper's configuration")) {
        Ok(found) => {
            tracing::info!(
                namespace,
                name = HELPER_CONFIG,
                audience,
                "the SPIFFE helper had no configuration here; it got the default"
            );
            context.metrics.applied("ConfigMap", "created");
            let metadata = serde_json::to_value(found.metadata).unwrap_or_default();
            context.cluster.store(Resource::ConfigMapMetadata).created(json!({"metadata": metadata}));
            let data = [(HELPER_CONFIG_KEY.to_owned(), text)].into_iter().collect();
            world.config_maps.insert(HELPER_CONFIG.to_owned(), data);
            Ok(())
        }
        // Somebody was faster, and the watch is about to tell.
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::Forbidden | ErrorKind::Invalid) => {
            let error = error.text();
            tracing::warn!(
                namespace,
                name = HELPER_CONFIG,
                error,
                "the SPIFFE helper's default configuration can't be made"
            );
            Ok(())
        }
        Err(error) => Err(error),
    }
}

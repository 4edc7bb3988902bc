//! Restarts that somebody asked for by an annotation.

use kube::api::{Api, DeleteParams, Preconditions};
use serde_json::{Value, json};
use skep_api::crd::Kind;

use super::deletion::patch;
use super::{Context, ReconcileError};
use crate::observe::is_of_deployment;
use crate::plan::{Planned, Restart, RestartStrategy};
use crate::queue::Key;

/// Says which restart was the last that was carried out.
const PROCESSED: &str = "mcpserver.toolhive.stacklok.dev/last-processed-restart";

/// Carries out a restart that was not yet, and notes it on the object, which is given back as it then is. The
/// rolling one is in the pod template already; the immediate one deletes the proxy's pods that are older than
/// the wish.
///
/// # Errors
/// When a pod can't be deleted or the note can't be written.
pub(super) async fn process(
    context: &Context,
    key: &Key,
    value: &Value,
    planned: &Planned,
) -> Result<Value, ReconcileError> {
    let Some(Restart { at, strategy }) = planned.restart.as_ref().filter(|_| planned.plan.is_some()) else {
        return Ok(value.clone());
    };
    let annotations = value.pointer("/metadata/annotations");
    let processed = annotations.and_then(|all| all.get(PROCESSED)).and_then(Value::as_str);
    if key.kind != Kind::MCPServer || processed == Some(at) {
        return Ok(value.clone());
    }
    if *strategy == RestartStrategy::Immediate {
        delete_older_pods(context, key, at).await?;
    }
    patch(context, key, value, &json!({"annotations": {PROCESSED: at}})).await
}

async fn delete_older_pods(context: &Context, key: &Key, at: &str) -> Result<(), ReconcileError> {
    let Ok(wished) = at.parse::<jiff::Timestamp>() else { return Ok(()) };
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    for pod in context.cluster.pods_of(key) {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let proxy = text("/metadata/labels/app.kubernetes.io~1name") == "mcpserver";
        let older =
            text("/metadata/creationTimestamp").parse().is_ok_and(|made: jiff::Timestamp| made < wished);
        if !proxy || !older || !is_of_deployment(&pod, &key.name) {
            continue;
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(text("/metadata/uid").to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match pods.delete(text("/metadata/name"), &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(ReconcileError::api("deleting a pod")(error)),
        }
    }
    Ok(())
}

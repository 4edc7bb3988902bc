//! Whose a pod is. Anybody who may make pods can put labels on one, so labels alone count for nothing: what
//! makes a pod has to be what controls it.

use serde_json::Value;

use crate::cluster::controller;

/// True for a pod of the Deployment `name`: it is controlled by a ReplicaSet that is named as the ones of that
/// Deployment are, by the hash of the pod template.
pub fn is_of_deployment(pod: &Value, name: &str) -> bool {
    let hash = pod.pointer("/metadata/labels/pod-template-hash").and_then(Value::as_str);
    let Some(hash) = hash.filter(|hash| !hash.is_empty()) else { return false };
    controller(pod).is_some_and(|owner| {
        owner.api_version == "apps/v1"
            && owner.kind == "ReplicaSet"
            && owner.name.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')) == Some(hash)
    })
}

/// True for a pod that the StatefulSet of this uid controls.
pub fn is_of_stateful_set(pod: &Value, uid: &str) -> bool {
    !uid.is_empty()
        && controller(pod).is_some_and(|owner| {
            owner.api_version == "apps/v1" && owner.kind == "StatefulSet" && owner.uid == uid
        })
}

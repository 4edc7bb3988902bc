//! The generation of an MCPServer and the mark of its last restart on its proxy's pods. ToolHive's proxy needs
//! the generation there, to tell whose backend is newer; but it changes with every change of the spec, and a
//! new pod drops streams. A restart that is over leaves its mark: pods without it would be other pods.

use jiff::Timestamp;
use serde_json::Value;
use skep_api::names::{GENERATION, RESTARTED_AT, TEMPLATE_CHECKSUM};

/// Leaves the live generation on the pod template of a Deployment that is about to be applied, when
/// nothing else on that template has changed. Without this every change of the spec would roll the pods, also
/// one that a running proxy takes from its RunConfig. `live` is the Deployment as it is in the cluster.
pub fn settle_generation(desired: &mut Value, live: &Value) {
    let same = annotation(desired, TEMPLATE_CHECKSUM)
        .is_some_and(|checksum| annotation(live, TEMPLATE_CHECKSUM) == Some(checksum));
    let Some(generation) = annotation(live, GENERATION).filter(|_| same) else { return };
    if let Some(annotations) = desired.pointer_mut(ANNOTATIONS).and_then(Value::as_object_mut)
        && annotations.contains_key(GENERATION)
    {
        annotations.insert(GENERATION.to_owned(), generation.into());
    }
}

/// Leaves the live mark of a restart on the pod template of a Deployment that is about to be applied, unless a
/// later restart is asked for. A wish that is withdrawn, can't be read or is carried out in another way would
/// roll the pods once more. `live` is the Deployment as it is in the cluster.
pub fn settle_restart(desired: &mut Value, live: &Value) {
    let time = |mark: &str| mark.parse::<Timestamp>().ok();
    let Some(done) = annotation(live, RESTARTED_AT) else { return };
    // What is no time was not written by us, and is no restart of ours.
    let Some(at) = time(&done) else { return };
    if annotation(desired, RESTARTED_AT).and_then(|wish| time(&wish)).is_some_and(|wish| wish > at) {
        return;
    }
    if let Some(annotations) = desired.pointer_mut(ANNOTATIONS).and_then(Value::as_object_mut) {
        annotations.insert(RESTARTED_AT.to_owned(), done.into());
    }
}

fn annotation(deployment: &Value, key: &str) -> Option<String> {
    let annotations = deployment.pointer(ANNOTATIONS)?;
    annotations.get(key).and_then(Value::as_str).map(ToOwned::to_owned)
}

const ANNOTATIONS: &str = "/spec/template/metadata/annotations";

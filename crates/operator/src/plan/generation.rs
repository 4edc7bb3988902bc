//! The generation of an MCPServer on its proxy's pods. ToolHive's proxy needs it there, to tell whose backend
//! is newer; but it changes with every change of the spec, and a new pod drops streams.

use serde_json::Value;
use skep_api::names::{GENERATION, TEMPLATE_CHECKSUM};

/// Leaves the live generation on the pod template of a Deployment that is about to be applied, when
/// nothing else on that template has changed. Without this every change of the spec would roll the pods, also
/// one that a running proxy takes from its RunConfig. `live` is the Deployment as it is in the cluster.
pub fn settle_generation(desired: &mut Value, live: &Value) {
    let annotation = |deployment: &Value, key: &str| {
        let annotations = deployment.pointer(ANNOTATIONS)?;
        annotations.get(key).and_then(Value::as_str).map(ToOwned::to_owned)
    };
    let same = annotation(desired, TEMPLATE_CHECKSUM)
        .is_some_and(|checksum| annotation(live, TEMPLATE_CHECKSUM) == Some(checksum));
    let Some(generation) = annotation(live, GENERATION).filter(|_| same) else { return };
    if let Some(annotations) = desired.pointer_mut(ANNOTATIONS).and_then(Value::as_object_mut)
        && annotations.contains_key(GENERATION)
    {
        annotations.insert(GENERATION.to_owned(), generation.into());
    }
}

const ANNOTATIONS: &str = "/spec/template/metadata/annotations";

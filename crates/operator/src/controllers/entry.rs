//! MCPServerEntry: a server that others use; nothing is made for it.

use serde_json::Value;
use skep_api::crd::Object;

use super::status_write::write;
use super::{Context, Next, ReconcileError};
use crate::plan::plan_object;
use crate::queue::Key;
use crate::status;

pub(super) async fn reconcile(context: &Context, key: &Key, value: &Value) -> Result<Next, ReconcileError> {
    let Ok(object) = Object::parse(value) else { return Ok(Next::Change) };
    if object.metadata.is_terminating() {
        return Ok(Next::Change);
    }
    let world =
        context.cluster.world(&object).await.map_err(ReconcileError::api("reading what it refers to"))?;
    let planned = plan_object(&object, &world);
    let present = value.get("status").cloned().unwrap_or_default();
    let wanted = status::entry(&object, &planned, &present, context.clock.now());
    write(context, key, value, &wanted).await?;
    Ok(Next::Change)
}

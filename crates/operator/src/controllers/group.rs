//! MCPGroup: it lists its members. They are never held back by it, and it never by them.

use serde_json::Value;
use skep_api::crd::{Kind, Object};

use super::deletion::{remove_finalizer, with_finalizer};
use super::status_write::write;
use super::{Context, Next, ReconcileError};
use crate::plan::plan_object;
use crate::queue::Key;
use crate::status::{self, Members};

pub(super) async fn reconcile(context: &Context, key: &Key, value: &Value) -> Result<Next, ReconcileError> {
    let Ok(object) = Object::parse(value) else { return Ok(Next::Change) };
    if object.metadata.is_terminating() {
        // Members learn of it by the same change, and say so in their own conditions.
        remove_finalizer(context, key, value, key.kind.finalizer()).await?;
        return Ok(Next::Change);
    }
    let value = &with_finalizer(context, key, value).await?;
    let world =
        context.cluster.world(&object).await.map_err(ReconcileError::api("reading what it refers to"))?;
    let planned = plan_object(&object, &world);
    let mut members = Members::default();
    for Key { kind, name, .. } in context.cluster.referrers(key) {
        match kind {
            Kind::MCPServer => members.servers.push(name),
            Kind::MCPRemoteProxy => members.remote_proxies.push(name),
            Kind::MCPServerEntry => members.entries.push(name),
            _ => {}
        }
    }
    let present = value.get("status").cloned().unwrap_or_default();
    let wanted = status::group(&object, &planned, Some(&members), &present, context.clock.now());
    write(context, key, value, &wanted).await?;
    Ok(Next::Change)
}

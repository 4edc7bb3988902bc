//! The kinds that others refer to and that make nothing themselves.

use serde_json::Value;
use skep_api::crd::Object;
use skep_api::crd::status::ReferencingWorkload;

use super::deletion::{Protection, protection, remove_finalizer, with_finalizer};
use super::status_write::write;
use super::{Context, Next, ReconcileError};
use crate::plan::{Planned, plan_object};
use crate::queue::Key;
use crate::status;

/// Judges a config, says who refers to it, and keeps it from being deleted while somebody does.
pub(super) async fn reconcile(context: &Context, key: &Key, value: &Value) -> Result<Next, ReconcileError> {
    let Ok(object) = Object::parse(value) else { return Ok(Next::Change) };
    let present = value.get("status").cloned().unwrap_or_default();
    if object.metadata.is_terminating() {
        return match protection(context, key).await? {
            Protection::Free => {
                remove_finalizer(context, key, value, key.kind.finalizer()).await?;
                Ok(Next::Change)
            }
            Protection::Referred(referrers) => {
                let now = context.clock.now();
                let blocked = status::config(&object, &Planned::default(), &referrers, &present, now);
                write(context, key, value, &blocked).await?;
                // Not every referrer is watched: another operator's kinds are looked for again.
                Ok(Next::After(super::deletion::LOOK_AGAIN))
            }
        };
    }
    // Before anything else, so that it can't go while it is being taken into use.
    let value = &with_finalizer(context, key, value).await?;
    let present = value.get("status").cloned().unwrap_or(present);
    let world =
        context.cluster.world(&object).await.map_err(ReconcileError::api("reading what it refers to"))?;
    let planned = plan_object(&object, &world);
    let referrers: Vec<ReferencingWorkload> = context
        .cluster
        .referrers(key)
        .into_iter()
        .map(|referrer| ReferencingWorkload { kind: referrer.kind.as_str().to_owned(), name: referrer.name })
        .collect();
    let wanted = status::config(&object, &planned, &referrers, &present, context.clock.now());
    write(context, key, value, &wanted).await?;
    Ok(Next::Change)
}

//! Saying in a CRD that no old version is stored any more.

use kube::Client;
use kube::api::{GetParams, PostParams};
use kube::core::Request;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{ATTEMPTS, CRDS, Crd, MigrateError, ask, code, pause, send};
use crate::settings::FIELD_MANAGER;

/// Leaves only the version that is stored in `status.storedVersions`, if the CRD is still what it was when its
/// objects were written.
///
/// # Errors
/// When that can't be said now. Nothing is changed then.
pub(super) async fn trim(client: &Client, crd: &Crd, stop: &CancellationToken) -> Result<(), MigrateError> {
    let crds = Request::new(CRDS);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    for attempt in 0..ATTEMPTS {
        if stop.is_cancelled() || (attempt > 0 && !pause(attempt - 1, stop).await) {
            return Err(MigrateError::Stopped);
        }
        let mut now = send(client, crds.get(&crd.name, &GetParams::default()), "reading the CRD").await?;
        // Another storage version, even for a while, means that objects were written in it.
        if Crd::read(&now).as_ref() != Some(crd) {
            return Err(MigrateError::Changed);
        }
        if let Some(status) = now.get_mut("status").and_then(Value::as_object_mut) {
            status.insert("storedVersions".to_owned(), json!([crd.storage]));
        }
        let body = now.to_string().into_bytes();
        // It carries the resourceVersion, so it is refused if the CRD changes between these two lines.
        match ask(client, crds.replace_subresource("status", &crd.name, &params, body)).await {
            Ok(_) => return Ok(()),
            Err(error) if code(&error) == 409 => {}
            Err(error) => return Err(MigrateError::api("writing the CRD's status", error)),
        }
    }
    Err(MigrateError::Conflicts { what: format!("the CRD {}", crd.name) })
}

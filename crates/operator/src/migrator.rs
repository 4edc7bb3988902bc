//! Storage version migration: writes every object again in the version that its CRD stores now, and then says in
//! the CRD that no other is left, so that the old version can be dropped one day.
//!
//! It looks after the CRDs of this group that carry the label
//! `toolhive.stacklok.dev/auto-migrate-storage-version: "true"`, as ToolHive's does. It needs rights on the whole
//! cluster: CRDs have no namespace.

mod objects;
#[cfg(test)]
mod tests;
mod trim;

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::api::ListParams;
use kube::core::Request;
use serde_json::Value;
use skep_api::crd::{GROUP, Kind};
use skep_runtime::logging::chain;
use tokio_util::sync::CancellationToken;

use crate::events::{Events, Severity};

/// Path of all CRDs.
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// Label of CRDs that are looked after.
const LABEL: &str = "toolhive.stacklok.dev/auto-migrate-storage-version=true";
/// How often CRDs are looked at.
const INTERVAL: Duration = Duration::from_secs(600);
/// The same after a try that others got in the way of.
const SOON: Duration = Duration::from_secs(30);
/// How often one write is tried while others write the same object.
const ATTEMPTS: u32 = 5;
/// Pause after the first conflict; it doubles with each.
const PAUSE: Duration = Duration::from_millis(50);

/// What became of one CRD that had to be migrated.
#[derive(Debug)]
pub struct Migration {
    /// Name of the CRD.
    pub crd: String,
    /// The CRD's uid.
    pub uid: String,
    /// What was done, or why not.
    pub result: Result<Migrated, MigrateError>,
}

/// A migration that came to its end: only `version` is stored now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// Objects that were there.
    pub objects: usize,
    /// The version that is stored.
    pub version: String,
}

/// Why objects may still be stored in an old version. In every case the CRD goes on saying so.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The API server could not be asked, or did not allow it.
    #[error("{action} failed")]
    Api {
        action: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server refused to write some objects as they are.
    #[error("{refused} of {objects} objects could not be written, the first of them {first}")]
    Refused {
        refused: usize,
        objects: usize,
        /// Namespace and name.
        first: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// Somebody else wrote the same object every time.
    #[error("{what} was changed by others at every try")]
    Conflicts {
        /// Namespace and name, or the CRD.
        what: String,
    },
    /// The CRD was changed while its objects were written.
    #[error("the CRD was changed meanwhile")]
    Changed,
    /// No version of the CRD can be read.
    #[error("the CRD serves no version")]
    NotServed,
    /// The operator stops, or no longer leads.
    #[error("it was stopped")]
    Stopped,
}

impl MigrateError {
    /// True when trying again is all there is to do, so that nobody needs to be told.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Conflicts { .. } | Self::Changed | Self::Stopped => true,
            Self::Api { source, .. } => crate::client::refused_by_gate(source).is_some(),
            Self::Refused { .. } | Self::NotServed => false,
        }
    }

    fn api(action: &'static str, source: kube::Error) -> Self {
        Self::Api { action, source: Box::new(source) }
    }
}

/// Migrates at once, and then whenever a CRD says that an old version is stored, until `stop`.
pub async fn run(client: Client, events: Events, stop: CancellationToken) {
    let mut allowed = true;
    loop {
        let mut pause = INTERVAL;
        match migrate(&client, &stop).await {
            Ok(migrations) => {
                allowed = true;
                for migration in migrations {
                    if migration.result.as_ref().is_err_and(MigrateError::is_passing) {
                        pause = SOON;
                    }
                    report(&events, &migration).await;
                }
            }
            // Without the rights it is not going to work later either; once is enough to say so.
            Err(error) if allowed => {
                allowed = false;
                tracing::warn!(error = chain(&error), "stored objects are not migrated");
            }
            Err(_) => {}
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// Migrates every CRD that has to be, one after the other. One that fails stops no other.
///
/// # Errors
/// When the CRDs can't be listed.
pub async fn migrate(client: &Client, stop: &CancellationToken) -> Result<Vec<Migration>, MigrateError> {
    let request = Request::new(CRDS).list(&ListParams::default().labels(LABEL));
    let list: Value = send(client, request, "listing the CRDs").await?;
    let mut done = Vec::new();
    for crd in list.get("items").and_then(Value::as_array).into_iter().flatten() {
        if stop.is_cancelled() {
            break;
        }
        if !is_ours(crd) {
            continue;
        }
        done.extend(migrate_crd(client, crd, stop).await);
    }
    Ok(done)
}

/// Migrates the objects of one CRD. None when it is not looked after, or nothing is to be done.
pub async fn migrate_crd(client: &Client, crd: &Value, stop: &CancellationToken) -> Option<Migration> {
    let crd = Crd::to_migrate(crd)?;
    let result = match objects::rewrite(client, &crd, stop).await {
        Ok(objects) => {
            trim::trim(client, &crd, stop).await.map(|()| Migrated { objects, version: crd.storage.clone() })
        }
        Err(error) => Err(error),
    };
    Some(Migration { crd: crd.name, uid: crd.uid, result })
}

/// True for the kinds that this operator reconciles. Others of the group are another operator's, which migrates
/// them itself.
fn is_ours(crd: &Value) -> bool {
    let kind = crd.pointer("/spec/names/kind").and_then(Value::as_str);
    kind.is_some_and(|kind| kind.parse::<Kind>().is_ok())
}

/// Tells what became of a CRD, by an event about it. What is going to be tried again says nothing.
async fn report(events: &Events, migration: &Migration) {
    let (severity, reason, note) = match &migration.result {
        Ok(Migrated { objects, version }) => {
            tracing::info!(crd = migration.crd, version, objects, "stored objects are migrated");
            let note =
                format!("All {objects} objects are stored as {version}, and no other version is left.");
            (Severity::Normal, "StorageVersionMigrationSucceeded", note)
        }
        Err(error) if error.is_passing() => {
            tracing::info!(crd = migration.crd, error = chain(error), "the migration is tried again");
            return;
        }
        Err(error) => {
            tracing::warn!(crd = migration.crd, error = chain(error), "stored objects could not be migrated");
            let note = format!(
                "{}. Objects may still be stored in an old version; it is tried again in {} minutes.",
                chain(error),
                INTERVAL.as_secs() / 60
            );
            (Severity::Warning, "StorageVersionMigrationFailed", note)
        }
    };
    let about = ObjectReference {
        api_version: Some("apiextensions.k8s.io/v1".to_owned()),
        kind: Some("CustomResourceDefinition".to_owned()),
        name: Some(migration.crd.clone()),
        uid: Some(migration.uid.clone()),
        ..ObjectReference::default()
    };
    events.publish_about(&about, severity, reason, "Migrate", &note).await;
}

/// A CRD whose objects have to be written again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Crd {
    name: String,
    uid: String,
    generation: i64,
    plural: String,
    /// The version that is stored.
    storage: String,
    /// A version that can be read and written.
    served: Option<String>,
    /// Versions of which objects may be stored.
    stored: Vec<String>,
}

impl Crd {
    /// Reads a CRD. None when it is not of this group, not labelled, going away, or has nothing to migrate.
    fn to_migrate(crd: &Value) -> Option<Self> {
        let labelled = LABEL.split_once('=').is_some_and(|(label, wanted)| {
            crd.pointer("/metadata/labels").and_then(|labels| labels.get(label)).and_then(Value::as_str)
                == Some(wanted)
        });
        let leaving = crd.pointer("/metadata/deletionTimestamp").is_some();
        let crd = Self::read(crd)?;
        (labelled && !leaving && crd.stored != [crd.storage.as_str()]).then_some(crd)
    }

    fn read(crd: &Value) -> Option<Self> {
        let text = |pointer: &str| crd.pointer(pointer).and_then(Value::as_str);
        if text("/spec/group") != Some(GROUP) {
            return None;
        }
        let versions = crd.pointer("/spec/versions").and_then(Value::as_array)?;
        let is = |version: &Value, what: &str| version.get(what) == Some(&Value::Bool(true));
        let name = |version: &Value| version.get("name").and_then(Value::as_str).map(str::to_owned);
        let storage = versions.iter().find(|version| is(version, "storage"))?;
        let served =
            if is(storage, "served") { Some(storage) } else { versions.iter().find(|one| is(one, "served")) };
        let stored = crd.pointer("/status/storedVersions").and_then(Value::as_array)?;
        Some(Self {
            name: text("/metadata/name")?.to_owned(),
            uid: text("/metadata/uid").unwrap_or_default().to_owned(),
            generation: crd.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default(),
            plural: text("/spec/names/plural")?.to_owned(),
            storage: name(storage)?,
            served: served.and_then(name),
            stored: stored.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }
}

/// Sends a request that was built, or could not be.
async fn send(
    client: &Client,
    request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    action: &'static str,
) -> Result<Value, MigrateError> {
    ask(client, request).await.map_err(|error| MigrateError::api(action, error))
}

async fn ask(
    client: &Client,
    request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<Value, kube::Error> {
    client.request(request.map_err(kube::Error::BuildRequest)?).await
}

/// Status code of an answer that is an error; 0 when there was none.
fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

/// Waits after the conflict of an attempt, counted from 0. False when the operator stops.
async fn pause(attempt: u32, stop: &CancellationToken) -> bool {
    let wait = PAUSE.saturating_mul(2_u32.saturating_pow(attempt));
    stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some()
}

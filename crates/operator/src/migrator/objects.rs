//! Writing every object of a CRD again, as it is.

use kube::Client;
use kube::api::{GetParams, ListParams, PostParams};
use kube::core::Request;
use serde_json::Value;
use skep_api::crd::GROUP;
use tokio_util::sync::CancellationToken;

use super::{ATTEMPTS, Crd, MigrateError, ask, code, pause};
use crate::settings::FIELD_MANAGER;

/// Objects that are asked for at once.
const PAGE: u32 = 500;
/// How often a list may begin anew because the API server forgot where it was.
const LISTS: u32 = 3;

/// Writes all objects of a CRD and returns how many there were. The API server encodes each in the version that
/// is stored, and writes nothing where that changes nothing.
///
/// # Errors
/// When an object was left as it was, unless it was deleted. All others are written even then.
pub(super) async fn rewrite(
    client: &Client,
    crd: &Crd,
    stop: &CancellationToken,
) -> Result<usize, MigrateError> {
    let version = crd.served.as_deref().ok_or(MigrateError::NotServed)?;
    let mut seen = Seen::default();
    let mut page = ListParams::default().limit(PAGE);
    let mut lists = 1;
    loop {
        let all = Request::new(format!("/apis/{GROUP}/{version}/{}", crd.plural));
        let list = match ask(client, all.list(&page)).await {
            Ok(list) => list,
            Err(error) if code(&error) == 410 && page.continue_token.is_some() && lists < LISTS => {
                lists += 1;
                page.continue_token = None;
                seen = Seen::default();
                continue;
            }
            Err(error) => return Err(MigrateError::api("listing the objects", error)),
        };
        for object in list.get("items").and_then(Value::as_array).into_iter().flatten() {
            if stop.is_cancelled() {
                return Err(MigrateError::Stopped);
            }
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let namespace = text("/metadata/namespace");
            let of_namespace =
                Request::new(format!("/apis/{GROUP}/{version}/namespaces/{namespace}/{}", crd.plural));
            let name = text("/metadata/name");
            seen.objects += 1;
            match write(client, &of_namespace, name, object, stop).await? {
                Written::Done => {}
                Written::Refused(error) => seen.refused(format!("{namespace}/{name}"), error),
                Written::Conflicts => {
                    seen.conflicts.get_or_insert_with(|| format!("{namespace}/{name}"));
                }
            }
        }
        let next = list.pointer("/metadata/continue").and_then(Value::as_str).unwrap_or_default();
        if next.is_empty() {
            return seen.end();
        }
        page.continue_token = Some(next.to_owned());
    }
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    objects: usize,
    refused: usize,
    first: Option<(String, kube::Error)>,
    conflicts: Option<String>,
}

impl Seen {
    fn refused(&mut self, name: String, error: kube::Error) {
        self.refused += 1;
        self.first.get_or_insert((name, error));
    }

    fn end(self) -> Result<usize, MigrateError> {
        if let Some((first, source)) = self.first {
            let (refused, objects) = (self.refused, self.objects);
            return Err(MigrateError::Refused { refused, objects, first, source: Box::new(source) });
        }
        self.conflicts.map_or(Ok(self.objects), |what| Err(MigrateError::Conflicts { what }))
    }
}

enum Written {
    /// It is written, or it is gone.
    Done,
    /// It can't be written as it is.
    Refused(kube::Error),
    /// Others wrote it every time.
    Conflicts,
}

/// Writes one object as it was read; when others wrote it meanwhile, as it is now.
async fn write(
    client: &Client,
    objects: &Request,
    name: &str,
    listed: &Value,
    stop: &CancellationToken,
) -> Result<Written, MigrateError> {
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let mut newer: Option<Value> = None;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            if !pause(attempt - 1, stop).await {
                return Err(MigrateError::Stopped);
            }
            match ask(client, objects.get(name, &GetParams::default())).await {
                Ok(found) => newer = Some(found),
                Err(error) if code(&error) == 404 => return Ok(Written::Done),
                Err(error) => return Err(MigrateError::api("reading an object", error)),
            }
        }
        let object = newer.as_ref().unwrap_or(listed);
        let sent = ask(client, objects.replace(name, &params, object.to_string().into_bytes())).await;
        match sent.map_err(|error| (code(&error), error)) {
            Ok(_) | Err((404, _)) => return Ok(Written::Done),
            Err((409, _)) => {}
            // These say nothing about the object: who we are, and how much is asked.
            Err((401 | 429, error)) => return Err(MigrateError::api("writing an object", error)),
            Err((400..=499, error)) => return Ok(Written::Refused(error)),
            Err((_, error)) => return Err(MigrateError::api("writing an object", error)),
        }
    }
    Ok(Written::Conflicts)
}

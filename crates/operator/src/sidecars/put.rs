//! Puts into a pod, or the pod template of an MCPServer, what is missing of the sidecars.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use skep_api::names::BACKEND_CONTAINER;

use super::names::{
    CLIENT_REGISTRATION, REGISTRATION_SECRET, REGISTRATION_STATE_VOLUME, SHARED_VOLUME, SPIFFE_HELPER,
    SVID_VOLUME, SWITCH_ANNOTATION,
};
use super::parts::Parts;
use super::record::{Injection, hash};
use super::strip::Item;
use super::tree::{Made, items, text};

/// What is put where.
pub(super) struct Put<'a> {
    pub(super) parts: &'a Parts,
    /// The containers go before all other init containers, and not after the containers.
    pub(super) native: bool,
    /// Path of the pod for warnings.
    pub(super) at: &'a str,
    /// What is known to be there under a name of ours. Of anything else a warning says what follows.
    pub(super) known: &'a BTreeSet<(Item, String)>,
    /// Variables and mounts that the MCP server's container gets from elsewhere.
    pub(super) elsewhere: &'a Elsewhere,
}

/// What an MCPServer's spec says about the container outside of the pod template, each with its path.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    pub(super) variables: Vec<(String, String)>,
    pub(super) mounts: Vec<(String, String)>,
}

/// Puts in what is missing, and records it.
pub(super) fn put(
    pod: &mut Map<String, Value>,
    put: &Put<'_>,
    made: &mut Made,
    injection: &mut Injection,
    notes: &mut Vec<String>,
) {
    put.server(pod, made, injection, notes);
    put.containers(pod, made, injection, notes);
    put.volumes(pod, made, injection, notes);
}

impl Put<'_> {
    fn containers(
        &self,
        pod: &mut Map<String, Value>,
        made: &mut Made,
        injection: &mut Injection,
        notes: &mut Vec<String>,
    ) {
        let mut missing = Vec::new();
        for part in &self.parts.containers {
            let Some(name) = text(part, "name") else { continue };
            let lists = ["containers", "initContainers", "ephemeralContainers"];
            let found = lists
                .into_iter()
                .find(|list| items(pod, list).any(|container| text(container, "name") == Some(name)));
            match found {
                None => {
                    injection.containers.insert(name.to_owned(), hash(part));
                    missing.push(part.clone());
                }
                Some(list) => self.own_container(list, name, notes),
            }
        }
        if missing.is_empty() {
            return;
        }
        let list = if self.native { "initContainers" } else { "containers" };
        let Some(entries) = made.list(pod, list, list) else { return };
        let at = if self.native { 0 } else { entries.len() };
        entries.splice(at..at, missing);
    }

    fn own_container(&self, list: &str, name: &str, notes: &mut Vec<String>) {
        if self.known.contains(&(Item::Container, name.to_owned())) {
            return;
        }
        let duty = match name {
            SPIFFE_HELPER => format!(" It has to write SVIDs to the volume `{SVID_VOLUME}`."),
            CLIENT_REGISTRATION => {
                format!(" It has to write the client's credentials to the volume `{SHARED_VOLUME}`.")
            }
            _ => String::new(),
        };
        notes.push(format!(
            "{}.{list}: The container `{name}` is your own, so none is injected, and yours is not kept up to date.{duty} Remove it, or switch injection off with the annotation `{SWITCH_ANNOTATION}: \"false\"`.",
            self.at
        ));
    }

    fn volumes(
        &self,
        pod: &mut Map<String, Value>,
        made: &mut Made,
        injection: &mut Injection,
        notes: &mut Vec<String>,
    ) {
        let mut missing = Vec::new();
        for part in &self.parts.volumes {
            let Some(name) = text(part, "name") else { continue };
            match items(pod, "volumes").find(|volume| text(volume, "name") == Some(name)) {
                // What only the registration may have is not there for a container that somebody else wrote.
                None if is_registrations_own(name) && !has_registration(injection) => {}
                None => {
                    injection.volumes.insert(name.to_owned(), hash(part));
                    missing.push(part.clone());
                }
                Some(found) => self.own_volume(name, found, part, notes),
            }
        }
        if !missing.is_empty()
            && let Some(entries) = made.list(pod, "volumes", "volumes")
        {
            entries.extend(missing);
        }
    }

    fn own_volume(&self, name: &str, found: &Value, part: &Value, notes: &mut Vec<String>) {
        if found == part || self.known.contains(&(Item::Volume, name.to_owned())) {
            return;
        }
        let what = match (source(found), source(part)) {
            (Some(found), Some(expected)) if found != expected => {
                format!(
                    " It is of the type `{}`, and the sidecars expect `{}`: they may not start.",
                    found.escape_debug(),
                    expected
                )
            }
            _ => String::new(),
        };
        notes.push(format!(
            "{}.volumes: The volume `{name}` is your own and is used as it is.{what} Give it another name if it is not meant for the sidecars.",
            self.at
        ));
    }

    /// Sees to the MCP server's own container.
    fn server(
        &self,
        pod: &mut Map<String, Value>,
        made: &mut Made,
        injection: &mut Injection,
        notes: &mut Vec<String>,
    ) {
        let is_server = |container: &&Value| text(container, "name") == Some(BACKEND_CONTAINER);
        let nothing = Map::new();
        let found = items(pod, "containers").find(is_server).and_then(Value::as_object);
        let container = found.unwrap_or(&nothing);
        let mounts = self.missing(Item::Mount, &self.parts.mounts, container, notes);
        let env = self.missing(Item::Variable, &self.parts.env, container, notes);
        if mounts.is_empty() && env.is_empty() {
            return;
        }
        let is_new = found.is_none();
        let Some(containers) = made.list(pod, "containers", "containers") else { return };
        if is_new {
            made.note(BACKEND_CONTAINER, super::tree::Before::Nothing);
            containers.push(json!({"name": BACKEND_CONTAINER}));
        }
        let Some(container) = containers
            .iter_mut()
            .find(|container| text(container, "name") == Some(BACKEND_CONTAINER))
            .and_then(Value::as_object_mut)
        else {
            return;
        };
        for (item, missing, hashes) in
            [(Item::Mount, mounts, &mut injection.mounts), (Item::Variable, env, &mut injection.env)]
        {
            if missing.is_empty() {
                continue;
            }
            let recorded = missing.iter().filter_map(|part| Some((text(part, item.key())?, hash(part))));
            hashes.extend(recorded.map(|(id, hash)| (id.to_owned(), hash)));
            let name = format!("{BACKEND_CONTAINER}.{}", item.list());
            if let Some(entries) = made.list(container, item.list(), &name) {
                entries.extend(missing);
            }
        }
    }

    /// The mounts or variables that the container does not have.
    fn missing(
        &self,
        item: Item,
        parts: &[Value],
        container: &Map<String, Value>,
        notes: &mut Vec<String>,
    ) -> Vec<Value> {
        let elsewhere = match item {
            Item::Mount => &self.elsewhere.mounts,
            _ => &self.elsewhere.variables,
        };
        let mut missing = Vec::new();
        for part in parts {
            let Some(id) = text(part, item.key()) else { continue };
            let own = items(container, item.list())
                .find(|entry| text(entry, item.key()).is_some_and(|own| same(own, id)));
            let place = match own {
                Some(own) if serves(item, own, part) => continue,
                Some(_) => format!("{}.containers", self.at),
                None => match elsewhere.iter().find(|(own, _)| same(own, id)) {
                    Some((_, path)) => path.clone(),
                    None => {
                        missing.push(part.clone());
                        continue;
                    }
                },
            };
            if self.known.contains(&(item, id.to_owned())) {
                continue;
            }
            let follows = match item {
                Item::Mount => format!("what the sidecars write is not at {id}"),
                _ => format!("it does not say `{}`", text(part, "value").unwrap_or_default()),
            };
            notes.push(format!(
                "{place}: The {} `{id}` of the container `{BACKEND_CONTAINER}` is your own and stays as it is, so {follows}.",
                item.noun()
            ));
        }
        missing
    }
}

/// True when a mount or variable of the user's does what ours would.
fn serves(item: Item, own: &Value, part: &Value) -> bool {
    match item {
        Item::Mount => text(own, "name") == text(part, "name") && own.get("subPath").is_none(),
        _ => own == part,
    }
}

/// True for one name or path written in two ways.
fn same(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other
}

/// True for a volume with which the registration logs in, or in which it keeps what it got by that.
pub(super) fn is_registrations_own(volume: &str) -> bool {
    [REGISTRATION_SECRET, REGISTRATION_STATE_VOLUME].contains(&volume)
}

/// True when the container that registers was injected; also when the user has edited it since: it goes on using
/// what came with it, for which he has to be allowed to read the Secret (see `super::author`).
fn has_registration(injection: &Injection) -> bool {
    injection.containers.contains_key(CLIENT_REGISTRATION) || injection.adopted.contains(CLIENT_REGISTRATION)
}

/// The type of a volume.
fn source(volume: &Value) -> Option<&str> {
    volume.as_object()?.keys().map(String::as_str).find(|key| *key != "name" && !key.starts_with('$'))
}

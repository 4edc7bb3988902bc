//! What an admission makes of a pod of an MCPServer.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use skep_api::names::BACKEND_CONTAINER;

use super::decision::decide;
use super::injection::{Mutation, advise, is_going, known, names, runs_as_root, takes_port, write};
use super::parts::{Parts, Subject};
use super::prerequisites::Needs;
use super::put::{Elsewhere, Put, put};
use super::record::Injection;
use super::settings::{Policy, Surroundings};
use super::shape::misshapen_pod;
use super::strip::Item;
use super::tree::{Made, items, map_at, text};

/// The MCPServer that a pod is of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodOwner {
    pub namespace: String,
    /// Name of the MCPServer.
    pub name: String,
    /// Annotations of the MCPServer: one of the switches is there.
    pub annotations: BTreeMap<String, String>,
}

/// Puts sidecars into a pod that is about to be created. A pod without a container `mcp` is left alone.
///
/// Nothing is taken out and nothing is brought up to date: a pod is new, and what a webhook that is asked again
/// finds has the API server's defaults in it by then.
pub fn mutate_pod(pod: &Value, server: &PodOwner, policy: &Policy, around: &Surroundings) -> Mutation {
    let decision = decide(
        &server.annotations,
        &around.namespace_labels,
        &around.namespace_annotations,
        policy.default_on,
    );
    let mut notes = Vec::new();
    if !decision.inject || is_going(pod) {
        return Mutation::unchanged(pod, decision, notes);
    }
    let Some(spec) = pod.get("spec").and_then(Value::as_object).filter(|spec| has_server(spec)) else {
        return Mutation::unchanged(pod, decision, notes);
    };
    if let Some(path) = misshapen_pod(spec, "spec") {
        notes.push(format!(
            "{path}: This has not the shape that it has to have, so no sidecars are injected."
        ));
        return Mutation::unchanged(pod, decision, notes);
    }
    let Ok(before) = known(pod, &mut notes) else {
        return Mutation::unchanged(pod, decision, notes);
    };
    let native = around.native_sidecars;
    let subject = Subject {
        namespace: &server.namespace,
        server: &server.name,
        root: runs_as_root(spec),
        native,
        port_taken: takes_port(spec),
    };
    let needs = Needs::of(policy, around);
    let parts = Parts::new(&subject, policy, needs.login);
    let ours = before.as_ref().map(recorded).unwrap_or_default();
    let mut made = before.as_ref().map_or_else(Made::default, Injection::made);
    let fresh = || Injection::new(decision.reason.as_str(), policy.mode, needs);
    let mut injection = before.clone().unwrap_or_else(fresh);
    let what = Put { parts: &parts, native, at: "spec", known: &ours, elsewhere: &Elsewhere::default() };
    let mut result = pod.clone();
    if let Some(spec) = map_at(&mut result, &["spec"]) {
        put(spec, &what, &mut made, &mut injection, &mut notes);
    }
    if before.as_ref() != Some(&injection) {
        write(&mut result, &injection, &mut made);
        let whose = format!("the MCPServer `{}`", server.name);
        advise(&injection, &whose, None, policy, around, &mut notes);
    }
    Mutation { injected: names(&parts, &injection), ..Mutation::new(pod, result, decision, notes) }
}

fn has_server(spec: &Map<String, Value>) -> bool {
    items(spec, "containers").any(|container| text(container, "name") == Some(BACKEND_CONTAINER))
}

/// What an earlier call has put in.
fn recorded(injection: &Injection) -> BTreeSet<(Item, String)> {
    [
        (Item::Container, &injection.containers),
        (Item::Volume, &injection.volumes),
        (Item::Mount, &injection.mounts),
        (Item::Variable, &injection.env),
    ]
    .into_iter()
    .flat_map(|(item, hashes)| hashes.keys().map(move |id| (item, id.clone())))
    .collect()
}

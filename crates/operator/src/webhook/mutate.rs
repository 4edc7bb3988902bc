//! Mutation of MCPServers: defaults and sidecars.

use std::collections::BTreeMap;

use json_patch::diff;
use serde_json::Value;
use skep_api::crd::{Kind, defaults};

use super::review::{Answer, Operation, Request, Verdict};
use super::reviewer::{Reviewer, unchanged, unknown};
use super::settings::InjectionPoint;
use super::world::{Facts, Freshness, WorldError};
use crate::cluster::feed::chain;
use crate::sidecars::names::{INJECTION_ANNOTATION, SWITCH_ANNOTATION};
use crate::sidecars::{self, Decision, Mutation, Policy, Surroundings};

/// Fills in defaults, and takes sidecars out and puts them in. An object that is being deleted stays as it is.
pub(super) async fn server(reviewer: &Reviewer, facts: &Facts, request: Request) -> Answer {
    let object = &request.object;
    if is_terminating(object) {
        return Answer::allowed();
    }
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    if kind != Kind::MCPServer.as_str() {
        return Answer::failed(400, "the object is no MCPServer, and only those are changed here");
    }
    let filled = filled_in(object);
    let policy = reviewer.policies.get();
    let mutation = if reviewer.injection_point == InjectionPoint::Pod {
        // Sidecars come with the pods, so those of before go.
        sidecars::restore_server(&filled)
    } else {
        match decided(facts, &request.namespace, annotations(object), &policy).await {
            Ok((decision, around)) => {
                reviewer.metrics.decided(decision);
                sidecars::mutate_server(&filled, &request.namespace, &policy, &around)
            }
            // Finalizers and labels are not held up by an API server that is slow.
            Err(error) if changes_nothing(&request) => return unchanged(&chain(&error)),
            Err(error) => return unknown(&error),
        }
    };
    let defaults = filled != *object;
    let patch = if defaults { diff(object, &mutation.result) } else { mutation.patch.clone() };
    let mut answer = answer(mutation);
    answer.verdict = Verdict::Patched(patch);
    if reviewer.injection_point == InjectionPoint::Pod {
        // Nothing was decided here.
        answer.audit.clear();
    }
    answer
}

/// What was decided about sidecars, and what there is to know about the namespace: all of it where they are
/// injected, and only the switches otherwise.
pub(super) async fn decided(
    facts: &Facts,
    namespace: &str,
    annotations: BTreeMap<String, String>,
    policy: &Policy,
) -> Result<(Decision, Surroundings), WorldError> {
    let found = facts.namespace(namespace, Freshness::Cached).await?;
    let decision = sidecars::decide(&annotations, &found.labels, &found.annotations, policy.default_on);
    let around = if decision.inject {
        facts.surroundings(namespace, found).await?
    } else {
        facts.bare_surroundings(found)
    };
    Ok((decision, around))
}

/// The answer with a mutation.
pub(super) fn answer(mutation: Mutation) -> Answer {
    let Mutation { patch, warnings, decision, injected, .. } = mutation;
    let why = format!("{}: {}", decision.inject, decision.reason.as_str());
    let mut audit = BTreeMap::from([("injection", why)]);
    if !injected.is_empty() {
        audit.insert("injected", injected.join(","));
    }
    Answer { verdict: Verdict::Patched(patch), warnings, audit }
}

/// The object with the defaults that its definition has.
pub(super) fn filled_in(object: &Value) -> Value {
    let mut filled = object.clone();
    if let Some(spec) = filled.get_mut("spec").filter(|spec| spec.is_object()) {
        defaults::fill_in(Kind::MCPServer, spec);
    }
    filled
}

/// Annotations of an object. Those that are no text are not there.
pub(super) fn annotations(object: &Value) -> BTreeMap<String, String> {
    let map = object.pointer("/metadata/annotations").and_then(Value::as_object);
    map.into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// True for an update that changes nothing of what is decided here: neither the spec nor what switches sidecars.
pub(super) fn changes_nothing(request: &Request) -> bool {
    let same = |pointer: &str| request.object.pointer(pointer) == request.old_object.pointer(pointer);
    let annotation = |name: &str| same(&format!("/metadata/annotations/{}", name.replace('/', "~1")));
    request.operation == Operation::Update
        && same("/spec")
        && annotation(SWITCH_ANNOTATION)
        && annotation(INJECTION_ANNOTATION)
}

pub(super) fn is_terminating(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
}

//! What an admission makes of an MCPServer.

use std::collections::BTreeMap;

use json_patch::Patch;
use serde_json::{Map, Value};

use super::decision::{Decision, Reason, decide};
use super::names::{ADMIN_SECRET, ENVIRONMENTS, INJECTION_ANNOTATION, REGISTRATION_PORT, SOCKET_VOLUME};
use super::parts::{Parts, Subject};
use super::prerequisites::{Login, Needs, cautions, missing};
use super::put::{Elsewhere, Put, put};
use super::record::{Injection, Read};
use super::settings::{Policy, Socket, Surroundings};
use super::shape::misshapen_server;
use super::strip::{Item, Stripped, strip};
use super::tree::{Made, items, map_at, text};

/// Label of a namespace with the Pod Security level of its pods.
const POD_SECURITY_LABEL: &str = "pod-security.kubernetes.io/enforce";

/// What an admission changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Mutation {
    /// Makes `result` of the object that came. Empty when nothing changes.
    pub patch: Patch,
    /// The object as it is to be.
    pub result: Value,
    /// Sentences for whoever sent it.
    pub warnings: Vec<String>,
    pub decision: Decision,
    /// Names of the sidecars that are injected in `result`.
    pub injected: Vec<String>,
}

impl Mutation {
    pub(super) fn unchanged(object: &Value, decision: Decision, warnings: Vec<String>) -> Self {
        Self { patch: Patch::default(), result: object.clone(), warnings, decision, injected: Vec::new() }
    }

    pub(super) fn new(object: &Value, result: Value, decision: Decision, warnings: Vec<String>) -> Self {
        Self { patch: json_patch::diff(object, &result), result, warnings, decision, injected: Vec::new() }
    }
}

/// Puts sidecars into an MCPServer, brings those that are there up to date, or takes them out: whatever the
/// switches say. Nothing but our own parts changes, and a second call changes nothing.
///
/// `namespace` is that of the request. An object that is being deleted, and one that a newer version of this
/// program has injected into, are left alone.
pub fn mutate_server(object: &Value, namespace: &str, policy: &Policy, around: &Surroundings) -> Mutation {
    let decision = decide(
        &annotations(object),
        &around.namespace_labels,
        &around.namespace_annotations,
        policy.default_on,
    );
    admit(object, decision, Some((namespace, policy, around)))
}

/// Takes out of an MCPServer what was injected, whatever the switches say: for a webhook that injects into pods.
pub fn restore_server(object: &Value) -> Mutation {
    admit(object, Decision { inject: false, reason: Reason::Flag }, None)
}

fn admit(object: &Value, decision: Decision, with: Option<(&str, &Policy, &Surroundings)>) -> Mutation {
    let mut notes = Vec::new();
    if is_going(object) {
        return Mutation::unchanged(object, decision, notes);
    }
    let injection = match known(object, &mut notes) {
        Ok(injection) => injection,
        Err(Newer) => return Mutation::unchanged(object, decision, notes),
    };
    let mut result = object.clone();
    let stripped = strip(&mut result, injection.as_ref(), !decision.inject);
    edited(&stripped, decision.inject, &mut notes);
    let injected = with
        .filter(|_| decision.inject)
        .map(|(namespace, policy, around)| {
            inject(&mut result, &stripped, namespace, decision, policy, around, &mut notes)
        })
        .unwrap_or_default();
    if let Some(pod) = pod(&result) {
        for (container, volume) in stripped.dangling(pod) {
            notes.push(format!(
                "spec.podTemplateSpec.spec.containers: The container `{container}` mounts the volume `{volume}`, which was injected and is gone now, so the pod can't start. Remove the mount, or add a volume."
            ));
        }
    }
    Mutation { injected, ..Mutation::new(object, result, decision, notes) }
}

/// Puts in what is missing, and says what else the sidecars need. Returns the names of the sidecars.
fn inject(
    object: &mut Value,
    stripped: &Stripped,
    namespace: &str,
    decision: Decision,
    policy: &Policy,
    around: &Surroundings,
    notes: &mut Vec<String>,
) -> Vec<String> {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if name.is_empty() {
        notes.push("metadata.name: The client is named after the MCPServer, which has no name yet, so no sidecars are injected before its first update. Give it a name instead of `generateName`.".to_owned());
        return Vec::new();
    }
    if let Some(path) = misshapen_server(object) {
        notes.push(format!(
            "{path}: This has not the shape that it has to have, so no sidecars are injected."
        ));
        return Vec::new();
    }
    let needs = Needs::of(policy, around);
    let root = pod(object).is_some_and(runs_as_root);
    let port_taken = server_takes_port(object) || pod(object).is_some_and(takes_port);
    let subject = Subject { namespace, server: &name, root, native: false, port_taken };
    let parts = Parts::new(&subject, policy, needs.login);
    let elsewhere = elsewhere(object);
    let mut made = stripped.made.clone();
    let mut injection = Injection::new(decision.reason.as_str(), policy.mode, needs);
    injection.adopted.clone_from(&stripped.adopted);
    let what = Put {
        parts: &parts,
        native: false,
        at: "spec.podTemplateSpec.spec",
        known: &stripped.edited,
        elsewhere: &elsewhere,
    };
    let pod = map_at(object, &["spec"])
        .and_then(|spec| made.map(spec, "podTemplateSpec", "podTemplateSpec"))
        .and_then(|template| made.map(template, "spec", "spec"));
    if let Some(pod) = pod {
        put(pod, &what, &mut made, &mut injection, notes);
    }
    write(object, &injection, &mut made);
    let replicas = object.pointer("/spec/backendReplicas").and_then(Value::as_u64);
    advise(&injection, &format!("the MCPServer `{name}`"), replicas, policy, around, notes);
    names(&parts, &injection)
}

/// Writes down what was injected.
pub(super) fn write(object: &mut Value, injection: &Injection, made: &mut Made) {
    if injection.is_empty() {
        return;
    }
    let Some(metadata) = map_at(object, &["metadata"]) else { return };
    // Made first, so that the text says so.
    made.map(metadata, "annotations", "annotations");
    let text = injection.to_text(made);
    if let Some(annotations) = made.map(metadata, "annotations", "annotations") {
        annotations.insert(INJECTION_ANNOTATION.to_owned(), Value::from(text));
    }
}

/// Names of the sidecars that are ours, in order.
pub(super) fn names(parts: &Parts, injection: &Injection) -> Vec<String> {
    let names = parts.containers.iter().filter_map(|container| text(container, "name"));
    names.filter(|name| injection.containers.contains_key(*name)).map(ToOwned::to_owned).collect()
}

/// Says what the sidecars need of their namespace and lack, and what is dangerous about them.
pub(super) fn advise(
    injection: &Injection,
    whose: &str,
    replicas: Option<u64>,
    policy: &Policy,
    around: &Surroundings,
    notes: &mut Vec<String>,
) {
    if injection.is_empty() {
        return;
    }
    let needs = injection.needs();
    let place = match needs.login {
        Login::AdminSecret => Some(format!("the Secret `{ADMIN_SECRET}`")),
        Login::AdminConfigMap => Some(format!("the ConfigMap `{ENVIRONMENTS}`, which is not secret at all")),
        Login::AdminConfigMapLater | Login::RegistrationSecret | Login::Nothing => None,
    };
    if let Some(place) = place {
        notes.push(format!(
            "WARNING: the name and password of a Keycloak ADMINISTRATOR are given to the pods of {whose}, from {place}. Whoever gets into such a pod administers Keycloak. Use --registration=operator or --sidecar-mode=builtin."
        ));
    }
    let level = around.namespace_labels.get(POD_SECURITY_LABEL).map(String::as_str);
    if let Some(level @ ("baseline" | "restricted")) = level
        && injection.volumes.contains_key(SOCKET_VOLUME)
        && policy.config.socket(policy.socket) == Socket::HostPath
    {
        notes.push(format!(
            "The volume `{SOCKET_VOLUME}` is a folder of the node, and this namespace has the Pod Security level `{level}`, which refuses pods with one. Use --spire-socket=csi."
        ));
    }
    notes.extend(missing(&needs, around).iter().map(ToString::to_string));
    notes.extend(cautions(&needs, around, replicas).iter().map(ToString::to_string));
}

/// A newer version of this program has been here.
pub(super) struct Newer;

/// What an object's annotation says, and a note when it can't be used.
pub(super) fn known(object: &Value, notes: &mut Vec<String>) -> Result<Option<Injection>, Newer> {
    let at = format!("metadata.annotations[{INJECTION_ANNOTATION}]");
    match Read::object(object) {
        Read::Absent => Ok(None),
        Read::Known(injection) => Ok(Some(*injection)),
        Read::Unreadable => {
            notes.push(format!(
                "{at}: This can't be read, so sidecars that are there count as your own. The annotation is the webhook's; don't edit it."
            ));
            Ok(None)
        }
        Read::Newer(version) => {
            notes.push(format!(
                "{at}: Version {version} was written by a newer webhook, so this one leaves the sidecars as they are. Upgrade the webhook."
            ));
            Err(Newer)
        }
    }
}

fn edited(stripped: &Stripped, injects: bool, notes: &mut Vec<String>) {
    for (item, id) in &stripped.edited {
        let place = match item {
            Item::Container | Item::Volume => item.list(),
            Item::Mount | Item::Variable => "containers",
        };
        let then = if injects { "to have it injected again" } else { "if it is of no use any more" };
        notes.push(format!(
            "spec.podTemplateSpec.spec.{place}: The {} `{id}` was injected and has been changed since, so it is your own now: it stays as it is and is not kept up to date. Remove it {then}.",
            item.noun()
        ));
    }
}

/// What the spec says about the MCP server's container outside of the pod template.
fn elsewhere(object: &Value) -> Elsewhere {
    let Some(spec) = object.get("spec").and_then(Value::as_object) else { return Elsewhere::default() };
    let named = |list: &'static str, fields: &'static [&'static str]| {
        items(spec, list).enumerate().filter_map(move |(index, entry)| {
            let name = fields.iter().find_map(|field| text(entry, field))?;
            Some((name.to_owned(), format!("spec.{list}[{index}]")))
        })
    };
    Elsewhere {
        variables: named("env", &["name"]).chain(named("secrets", &["targetEnvName", "key"])).collect(),
        mounts: named("volumes", &["mountPath"]).collect(),
    }
}

fn pod(object: &Value) -> Option<&Map<String, Value>> {
    object.pointer("/spec/podTemplateSpec/spec").and_then(Value::as_object)
}

/// True when the pod's containers are root unless they say otherwise.
pub(super) fn runs_as_root(pod: &Map<String, Value>) -> bool {
    let user = pod.get("securityContext").and_then(|context| context.get("runAsUser"));
    user.and_then(Value::as_i64) == Some(0)
}

/// True when the MCP server listens where the registration would.
fn server_takes_port(object: &Value) -> bool {
    ["/spec/mcpPort", "/spec/targetPort"]
        .iter()
        .any(|port| object.pointer(port).and_then(Value::as_u64) == Some(u64::from(REGISTRATION_PORT)))
}

/// The same for a container of a pod, or pod template's `spec`, that says where it listens: also by the variables
/// in which an MCP server is told.
pub(super) fn takes_port(pod: &Map<String, Value>) -> bool {
    let text_of_port = REGISTRATION_PORT.to_string();
    ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| items(pod, list))
        .filter_map(Value::as_object)
        .any(|container| {
            let declared = items(container, "ports").any(|port| {
                port.get("containerPort").and_then(Value::as_u64) == Some(u64::from(REGISTRATION_PORT))
            });
            let told = items(container, "env").any(|variable| {
                text(variable, "name").is_some_and(|name| ["MCP_PORT", "FASTMCP_PORT"].contains(&name))
                    && text(variable, "value") == Some(&text_of_port)
            });
            declared || told
        })
}

/// True for an object that is being deleted.
pub(super) fn is_going(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
}

fn annotations(object: &Value) -> BTreeMap<String, String> {
    let annotations = object.pointer("/metadata/annotations").and_then(Value::as_object);
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    annotations.into_iter().flatten().filter_map(text).collect()
}

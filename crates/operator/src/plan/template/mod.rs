//! `podTemplateSpec`: whether it is one, what it may not say, and how it is merged.

mod merge;
mod reserved;

use std::collections::HashSet;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};
use skep_api::address::is_api_server;
use skep_api::crd::parse::{join, typed};
use skep_api::names::{self, PROXY_CONTAINER};
use url::Url;

pub(super) use self::merge::strategic_merge;
use self::merge::{in_place, is_directive, is_gone};
use self::reserved::lies_under;
pub(super) use self::reserved::{our_path, plain};
use super::findings::Findings;
use super::server::is_backend_label;
use super::workload::{pod_annotation, privileged};
use crate::sidecars::ReadOnlySocket;

const INVALID: &str = "InvalidPodTemplateSpec";
const CONDITION: &str = "PodTemplateValid";
const AT: &str = "spec.podTemplateSpec";
/// Entries that any one list of a template may have. No pod has as many of anything.
const MAX_ENTRIES: usize = 1000;

/// Whose pods a template changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pod {
    Proxy,
    /// Those of an MCPServer's own container.
    Backend,
}

/// Directories that a template mounts into the proxy's container.
pub(super) fn mounted(template: Option<&Value>) -> Vec<String> {
    mounts(template)
        .filter_map(|mount| mount.get("mountPath").and_then(Value::as_str))
        .map(ToOwned::to_owned)
        .collect()
}

/// Judges a pod template.
pub(super) fn check(template: Option<&Value>, pod: Pod, findings: &mut Findings<'_>) {
    let Some(template) = template else { return };
    let errors = findings.errors();
    if let Some((path, entries)) = too_long(template, AT) {
        let message = format!("This list has {entries} entries, and may have {MAX_ENTRIES}. Say less.");
        findings.error(path, INVALID, message);
        return verdict(true, findings);
    }
    shape(template, pod, findings);
    whole(template, findings);
    let spec = template.get("spec").unwrap_or(&Value::Null);
    // What merges the template of a server does not have to be us, and may know no directives: what is to be
    // deleted may be put in.
    let is_gone = |entry: &Value| pod == Pod::Proxy && is_gone(entry);
    let socket = ReadOnlySocket::of(spec, &findings.world.settings.workload_api_folder);
    for (index, volume) in items(spec, "volumes") {
        let at = format!("{AT}.spec.volumes[{index}]");
        if pod == Pod::Proxy {
            our_volume(&at, volume, findings);
        }
        let from_node = !is_gone(volume) && volume.get("hostPath").is_some_and(|path| !path.is_null());
        if from_node && !socket.is(volume) {
            privileged(&format!("{at}.hostPath"), "mounts a directory of the node", findings);
        }
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (index, container) in items(spec, list) {
            let at = format!("{AT}.spec.{list}[{index}]");
            if !is_gone(container)
                && container.pointer("/securityContext/privileged") == Some(&Value::Bool(true))
            {
                let path = format!("{at}.securityContext.privileged");
                privileged(&path, "runs a privileged container", findings);
            }
            if pod == Pod::Proxy && list == "containers" {
                our_container(&at, container, findings);
            }
        }
    }
    metadata(template, pod, findings);
    verdict(findings.errors() > errors, findings);
}

/// Judges what a template has made of the operator's own pod: whatever directive it says it with, what is
/// the operator's is still there and says the same.
pub(super) fn survives(ours: &Value, merged: &Value, findings: &mut Findings<'_>) {
    // What a path can be given for has been said.
    if findings.problems.iter().any(|problem| problem.is_error() && problem.path.starts_with(AT)) {
        return;
    }
    let (before, after) = (own_container(ours), own_container(merged));
    let same_fields = ["image", "command", "args", "env", "envFrom"]
        .iter()
        .all(|field| before.and_then(|one| one.get(field)) == after.and_then(|one| one.get(field)));
    let same_entries = |one: &Value, other: &Value, list: &str| {
        items(one, list).all(|(_, entry)| items(other, list).any(|(_, found)| found == entry))
    };
    let pods = (ours.get("spec"), merged.get("spec"));
    let survives = same_fields
        && matches!((before, after), (Some(one), Some(other)) if same_entries(one, other, "volumeMounts"))
        && matches!(pods, (Some(one), Some(other)) if same_entries(one, other, "volumes"));
    if !survives {
        let message = format!(
            "With this, the container `{PROXY_CONTAINER}`, or a volume or mount of the operator, would be lost or changed. Say only what is added."
        );
        findings.error(AT, INVALID, message);
        verdict(true, findings);
    }
}

/// Judges what a template mounts over the files whose content the proxy sends to a token endpoint: a token
/// that the API server takes must not get there.
pub(super) fn tokens(template: Option<&Value>, sent: &[&str], findings: &mut Findings<'_>) {
    let Some(spec) = template.and_then(|template| template.get("spec")) else { return };
    let errors = findings.errors();
    let files: Vec<String> = sent.iter().map(|file| plain(file)).collect();
    let volumes_read: HashSet<&str> = mounts(template)
        .filter_map(|mount| Some((mount.get("name")?.as_str()?, plain(mount.get("mountPath")?.as_str()?))))
        .filter(|(_, path)| files.iter().any(|file| lies_under(file, path)))
        .map(|(name, _)| name)
        .collect();
    for (index, volume) in items(spec, "volumes") {
        let name = volume.get("name").and_then(Value::as_str).unwrap_or_default();
        let read = volumes_read.contains(name);
        let projected = volume.get("projected").unwrap_or(&Value::Null);
        for (source, token) in items(projected, "sources") {
            let token = token.get("serviceAccountToken").filter(|token| !token.is_null());
            if read && token.is_some_and(is_for_api_server) {
                privileged(
                    &format!("{AT}.spec.volumes[{index}].projected.sources[{source}].serviceAccountToken"),
                    "puts a token for the API server where the proxy reads what it sends to the token endpoint",
                    findings,
                );
            }
        }
    }
    if findings.errors() > errors {
        verdict(true, findings);
    }
}

/// True for a projected token that the API server takes: without an audience it is made for it.
fn is_for_api_server(token: &Value) -> bool {
    let audience = token.get("audience").and_then(Value::as_str).unwrap_or_default().trim_end_matches('/');
    let host = Url::parse(audience).ok().and_then(|url| url.host_str().map(ToOwned::to_owned));
    audience.is_empty() || is_api_server(host.as_deref().unwrap_or(audience))
}

fn verdict(refused: bool, findings: &mut Findings<'_>) {
    if refused {
        findings.fails(CONDITION, INVALID, "The pod template is not valid.");
    } else {
        findings.holds(CONDITION, "ValidPodTemplateSpec", "The pod template is valid.");
    }
}

/// The first list with too many entries: its path, and how many.
fn too_long(value: &Value, at: &str) -> Option<(String, usize)> {
    match value {
        Value::Object(map) => map.iter().find_map(|(key, inside)| too_long(inside, &format!("{at}.{key}"))),
        Value::Array(items) if items.len() > MAX_ENTRIES => Some((at.to_owned(), items.len())),
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(index, inside)| too_long(inside, &format!("{at}[{index}]")))
        }
        _ => None,
    }
}

/// Judges a pod template of a server whose sidecars hold what the server itself must not have.
pub(super) fn shares_processes(template: Option<&Value>, findings: &mut Findings<'_>) {
    if template.and_then(|template| template.pointer("/spec/shareProcessNamespace"))
        != Some(&Value::Bool(true))
    {
        return;
    }
    let errors = findings.errors();
    privileged(
        &format!("{AT}.spec.shareProcessNamespace"),
        "lets the other containers read the variables and files of the sidecar that registers the client",
        findings,
    );
    if findings.errors() > errors {
        verdict(true, findings);
    }
}

/// Judges whether it is a pod template at all.
fn shape(template: &Value, pod: Pod, findings: &mut Findings<'_>) {
    let reading = typed::<PodTemplateSpec>(&in_place(template, pod == Pod::Proxy));
    if let Err(misfit) = reading.value {
        findings.error(join(AT, &misfit.path), INVALID, misfit.message);
    }
    for path in reading.unknown {
        findings.error(join(AT, &path), INVALID, "There is no such field in a pod template.");
    }
}

/// Judges what concerns the pod as a whole.
fn whole(template: &Value, findings: &mut Findings<'_>) {
    for (at, part) in [(AT.to_owned(), Some(template)), (format!("{AT}.spec"), template.get("spec"))] {
        for key in directives(part) {
            let message = "The pod is the operator's, so its parts can be added to but the whole can't be replaced or removed.";
            findings.error(format!("{at}.{key}"), INVALID, message);
        }
    }
    let spec = template.get("spec").unwrap_or(&Value::Null);
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec.get(field) == Some(&Value::Bool(true)) {
            privileged(&format!("{AT}.spec.{field}"), "shares the node's namespaces", findings);
        }
    }
    // Null counts too: without its own account a pod gets the namespace's.
    if let Some(field) =
        ["serviceAccountName", "serviceAccount"].into_iter().find(|field| spec.get(field).is_some())
    {
        privileged(&format!("{AT}.spec.{field}"), "takes another ServiceAccount", findings);
    }
}

fn our_volume(at: &str, volume: &Value, findings: &mut Findings<'_>) {
    match volume.get("name").and_then(Value::as_str) {
        Some(name) if names::is_reserved_volume(name) => {
            let message = format!("The volume `{name}` is the operator's. Choose another name.");
            findings.error(format!("{at}.name"), INVALID, message);
        }
        Some(_) => {}
        None => nameless(at, volume, "volumes", findings),
    }
}

fn our_container(at: &str, container: &Value, findings: &mut Findings<'_>) {
    match container.get("name").and_then(Value::as_str) {
        Some(PROXY_CONTAINER) => {}
        Some(_) => return,
        None => return nameless(at, container, "containers", findings),
    }
    for key in directives(Some(container)) {
        let message = format!(
            "The container `{PROXY_CONTAINER}` is the operator's, so it can be added to but not replaced or removed."
        );
        findings.error(format!("{at}.{key}"), INVALID, message);
    }
    for field in ["image", "command", "args", "env", "envFrom"] {
        if container.get(field).is_some() {
            findings.error(format!("{at}.{field}"), INVALID, format!("`{field}` of the container `{PROXY_CONTAINER}` is the operator's. Further variables are set in `resourceOverrides.proxyDeployment.env`; `HTTPS_PROXY` and the like have no effect in this version."));
        }
    }
    for (index, mount) in items(container, "volumeMounts") {
        let at = format!("{at}.volumeMounts[{index}]");
        let Some(path) = mount.get("mountPath").and_then(Value::as_str) else {
            nameless(&at, mount, "mounts", findings);
            continue;
        };
        if let Some(ours) = our_path(path) {
            let message = format!("This lies over `{ours}`, which is the operator's.");
            findings.error(format!("{at}.mountPath"), INVALID, message);
        }
    }
}

/// A directive that names no entry is about the whole list, and the operator's entries are in it.
fn nameless(at: &str, entry: &Value, what: &str, findings: &mut Findings<'_>) {
    for key in directives(Some(entry)) {
        let message = format!("The operator has {what} of its own in this list, so it can't be replaced.");
        findings.error(format!("{at}.{key}"), INVALID, message);
    }
}

fn metadata(template: &Value, pod: Pod, findings: &mut Findings<'_>) {
    for key in keys(template, "/metadata/annotations") {
        let path = format!("{AT}.metadata.annotations.{key}");
        pod_annotation(&path, key, findings);
        if pod == Pod::Proxy {
            own_annotation(&path, key, findings);
        }
    }
    for key in keys(template, "/metadata/labels") {
        let ours = match pod {
            Pod::Proxy => names::is_workload_label(key),
            Pod::Backend => is_backend_label(key),
        };
        own_label(&format!("{AT}.metadata.labels.{key}"), key, ours, findings);
    }
}

/// Says that a label of the manifest has no effect, or that it may have none some day.
pub(super) fn own_label(path: &str, key: &str, ours: bool, findings: &mut Findings<'_>) {
    if ours {
        let message = format!("The operator sets the label `{key}`, and its value wins. Remove this one.");
        findings.warning(path, "ReservedLabel", message);
    } else if names::is_reserved_label(key) {
        let message = "Labels that begin like this are the operator's: it does not set this one, but a later version may. Choose another name.";
        findings.warning(path, "ReservedLabel", message);
    }
}

/// Says that an annotation of the manifest has no effect on the proxy's pods.
pub(super) fn own_annotation(path: &str, key: &str, findings: &mut Findings<'_>) {
    if names::is_pod_annotation(key) {
        let message =
            format!("The operator sets the annotation `{key}`, and its value wins. Remove this one.");
        findings.warning(path, "ReservedAnnotation", message);
    }
}

fn own_container(template: &Value) -> Option<&Value> {
    let mut own = items(template.get("spec")?, "containers")
        .map(|(_, container)| container)
        .filter(|container| container.get("name").and_then(Value::as_str) == Some(PROXY_CONTAINER));
    // Two of one name would be no pod.
    own.next().filter(|_| own.next().is_none())
}

fn mounts(template: Option<&Value>) -> impl Iterator<Item = &Value> {
    template
        .and_then(|template| template.get("spec"))
        .into_iter()
        .flat_map(|spec| items(spec, "containers"))
        .filter(|(_, container)| container.get("name").and_then(Value::as_str) == Some(PROXY_CONTAINER))
        .flat_map(|(_, container)| items(container, "volumeMounts"))
        .map(|(_, mount)| mount)
}

fn items<'v>(value: &'v Value, list: &str) -> impl Iterator<Item = (usize, &'v Value)> + use<'v> {
    value.get(list).and_then(Value::as_array).into_iter().flatten().enumerate()
}

fn keys<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = &'v String> + use<'v> {
    let map = value.pointer(pointer).and_then(Value::as_object);
    map.into_iter().flat_map(Map::keys).filter(|key| !is_directive(key))
}

fn directives(value: Option<&Value>) -> impl Iterator<Item = &String> {
    let map = value.and_then(Value::as_object);
    map.into_iter().flat_map(Map::keys).filter(|key| is_directive(key))
}

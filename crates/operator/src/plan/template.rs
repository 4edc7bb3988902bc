//! `podTemplateSpec`: whether it is one, what it may not say, and how it is merged.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};
use skep_api::names::{ACTOR_TOKEN_DIR, PROXY_CONTAINER, RUNCONFIG_DIR};

use super::findings::Findings;
use super::workload::{pod_annotation, privileged};

const INVALID: &str = "InvalidPodTemplateSpec";
const AT: &str = "spec.podTemplateSpec";
/// Directories of the proxy's container that hold what it is told to do.
const OUR_PATHS: [&str; 6] =
    [RUNCONFIG_DIR, "/etc/toolhive", "/config/certs", "/etc/skep", ACTOR_TOKEN_DIR, "/tmp"];

/// Directories that a template mounts into the proxy's container.
pub(super) fn mounted(template: Option<&Value>) -> Vec<String> {
    let Some(spec) = template.and_then(|template| template.get("spec")) else { return Vec::new() };
    items(spec, "containers")
        .iter()
        .filter(|(_, container)| container.get("name").and_then(Value::as_str) == Some(PROXY_CONTAINER))
        .flat_map(|(_, container)| items(container, "volumeMounts"))
        .filter_map(|(_, mount)| mount.get("mountPath").and_then(Value::as_str).map(ToOwned::to_owned))
        .collect()
}

/// Judges a pod template. `proxy` is true when it changes the proxy's own pod.
pub(super) fn check(template: Option<&Value>, proxy: bool, findings: &mut Findings<'_>) {
    let Some(template) = template else { return };
    let errors = findings.errors();
    let plain = without_directives(template);
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let parsed: Result<PodTemplateSpec, _> =
        serde_ignored::deserialize(serde_path_to_error::Deserializer::new(&plain, &mut track), |path| {
            unknown.push(path.to_string())
        });
    if let Err(error) = parsed {
        findings.error(format!("{AT}.{}", track.path()), INVALID, format!("{error}."));
    }
    for path in unknown {
        findings.error(
            format!("{AT}.{}", path.replace(".?", "")),
            INVALID,
            "There is no such field in a pod template.",
        );
    }
    let spec = plain.get("spec").cloned().unwrap_or_default();
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec.get(field) == Some(&Value::Bool(true)) {
            privileged(&format!("{AT}.spec.{field}"), "shares the node's namespaces", findings);
        }
    }
    for (index, volume) in items(&spec, "volumes") {
        if volume.get("hostPath").is_some() {
            privileged(
                &format!("{AT}.spec.volumes[{index}].hostPath"),
                "mounts a directory of the node",
                findings,
            );
        }
    }
    if spec.get("serviceAccountName").is_some() || spec.get("serviceAccount").is_some() {
        privileged(&format!("{AT}.spec.serviceAccountName"), "takes another ServiceAccount", findings);
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (index, container) in items(&spec, list) {
            let at = format!("{AT}.spec.{list}[{index}]");
            if container.pointer("/securityContext/privileged") == Some(&Value::Bool(true)) {
                privileged(
                    &format!("{at}.securityContext.privileged"),
                    "runs a privileged container",
                    findings,
                );
            }
            if proxy
                && list == "containers"
                && container.get("name").and_then(Value::as_str) == Some(PROXY_CONTAINER)
            {
                proxy_container(&at, &container, findings);
            }
        }
    }
    for key in
        plain.pointer("/metadata/annotations").and_then(Value::as_object).into_iter().flat_map(Map::keys)
    {
        pod_annotation(&format!("{AT}.metadata.annotations.{key}"), key, findings);
    }
    for key in plain.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        if skep_api::names::is_reserved_label(key) {
            findings.error(
                format!("{AT}.metadata.labels.{key}"),
                "ReservedLabel",
                format!("The label `{key}` belongs to the operator. Choose another."),
            );
        }
    }
    if findings.errors() > errors {
        findings.fails("PodTemplateValid", INVALID, "The pod template is not valid.");
    } else {
        findings.holds("PodTemplateValid", "ValidPodTemplateSpec", "The pod template is valid.");
    }
}

fn proxy_container(at: &str, container: &Value, findings: &mut Findings<'_>) {
    for field in ["image", "command", "args", "env", "envFrom", "$patch"] {
        if container.get(field).is_some() {
            findings.error(format!("{at}.{field}"), INVALID, format!("`{field}` of the container `{PROXY_CONTAINER}` is the operator's. The proxy's environment is set in `resourceOverrides.proxyDeployment.env`."));
        }
    }
    for (index, mount) in items(container, "volumeMounts") {
        let path = mount.get("mountPath").and_then(Value::as_str).unwrap_or_default().trim_end_matches('/');
        let covers = |ours: &str| {
            path == ours || ours.starts_with(&format!("{path}/")) || path.starts_with(&format!("{ours}/"))
        };
        if let Some(ours) = OUR_PATHS.iter().find(|ours| covers(ours)) {
            findings.error(
                format!("{at}.volumeMounts[{index}].mountPath"),
                INVALID,
                format!("This lies over `{ours}`, which is the operator's."),
            );
        }
    }
}

fn items(value: &Value, list: &str) -> Vec<(usize, Value)> {
    value.get(list).and_then(Value::as_array).into_iter().flatten().cloned().enumerate().collect()
}

/// Merge directives (`$patch` and the like) and nulls are not fields of a pod.
fn without_directives(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(key, value)| !key.starts_with('$') && !value.is_null())
                .map(|(key, value)| (key.clone(), without_directives(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(
            items.iter().filter(|item| item.get("$patch").is_none()).map(without_directives).collect(),
        ),
        other => other.clone(),
    }
}

/// The field by which the entries of a list are told apart, as the API's own schema has it.
fn merge_key(list: &str) -> Option<&'static str> {
    Some(match list {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "resourceClaims"
        | "schedulingGates" => "name",
        "ports" => "containerPort",
        "volumeMounts" => "mountPath",
        "volumeDevices" => "devicePath",
        "hostAliases" => "ip",
        "topologySpreadConstraints" => "topologyKey",
        _ => return None,
    })
}

/// Merges `patch` onto `base` as `kubectl patch --type=strategic` does for pod templates: maps are
/// merged, null removes, lists with a merge key are merged entry by entry, others are replaced;
/// `$patch: replace` and `$patch: delete` are honoured.
pub(super) fn strategic_merge(base: &mut Value, patch: &Value) {
    match patch {
        Value::Object(patch) => {
            if patch.get("$patch").and_then(Value::as_str) == Some("replace") {
                *base = without_directives(&Value::Object(patch.clone()));
                return;
            }
            if !base.is_object() {
                *base = Value::Object(Map::new());
            }
            let Some(base) = base.as_object_mut() else { return };
            for (key, value) in patch {
                if key.starts_with('$') {
                    delete_from_list(base, key, value);
                    continue;
                }
                if value.is_null() || value.get("$patch").and_then(Value::as_str) == Some("delete") {
                    base.shift_remove(key);
                    continue;
                }
                match (merge_key(key), value) {
                    (Some(merge_key), Value::Array(entries)) => {
                        let list = base.entry(key.clone()).or_insert_with(|| Value::Array(Vec::new()));
                        merge_list(list, entries, merge_key);
                    }
                    _ => strategic_merge(base.entry(key.clone()).or_insert(Value::Null), value),
                }
            }
        }
        other => *base = without_directives(other),
    }
}

fn merge_list(base: &mut Value, entries: &[Value], key: &str) {
    if entries.iter().any(|entry| {
        entry.get("$patch").and_then(Value::as_str) == Some("replace") && entry.get(key).is_none()
    }) {
        *base = Value::Array(Vec::new());
    }
    if !base.is_array() {
        *base = Value::Array(Vec::new());
    }
    let Some(list) = base.as_array_mut() else { return };
    for entry in entries {
        let directive = entry.get("$patch").and_then(Value::as_str);
        let Some(id) = entry.get(key) else {
            if directive.is_none() {
                list.push(without_directives(entry));
            }
            continue;
        };
        // Two ports with one number differ by protocol.
        let protocol =
            |value: &Value| value.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned();
        let same = |other: &Value| {
            other.get(key) == Some(id) && (key != "containerPort" || protocol(other) == protocol(entry))
        };
        let at = list.iter().position(same);
        match (at, directive) {
            (Some(at), Some("delete")) => {
                list.remove(at);
            }
            (None, Some("delete")) => {}
            (Some(at), _) => {
                if let Some(found) = list.get_mut(at) {
                    strategic_merge(found, entry);
                }
            }
            (None, _) => {
                let mut fresh = Value::Null;
                strategic_merge(&mut fresh, entry);
                list.push(fresh);
            }
        }
    }
}

/// `$deleteFromPrimitiveList/x: [..]`.
fn delete_from_list(base: &mut Map<String, Value>, key: &str, value: &Value) {
    let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") else { return };
    if let (Some(Value::Array(items)), Some(gone)) = (base.get_mut(list), value.as_array()) {
        items.retain(|item| !gone.contains(item));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_is_merged_as_kubectl_merges_it() {
        for (name, base, patch, expected) in [
            ("maps merge", json!({"a": {"x": 1}}), json!({"a": {"y": 2}}), json!({"a": {"x": 1, "y": 2}})),
            ("null removes", json!({"a": 1, "b": 2}), json!({"a": null}), json!({"b": 2})),
            (
                "containers merge by name",
                json!({"containers": [{"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}]}]}),
                json!({"containers": [{"name": "b"}, {"name": "a", "env": [{"name": "F", "value": "2"}]}]}),
                json!({"containers": [{"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}, {"name": "F", "value": "2"}]}, {"name": "b"}]}),
            ),
            (
                "mounts merge by path",
                json!({"volumeMounts": [{"name": "v", "mountPath": "/a", "readOnly": true}]}),
                json!({"volumeMounts": [{"name": "w", "mountPath": "/a"}]}),
                json!({"volumeMounts": [{"name": "w", "mountPath": "/a", "readOnly": true}]}),
            ),
            (
                "lists without a key are replaced",
                json!({"tolerations": [{"key": "a"}]}),
                json!({"tolerations": [{"key": "b"}]}),
                json!({"tolerations": [{"key": "b"}]}),
            ),
            (
                "delete an entry",
                json!({"env": [{"name": "A"}, {"name": "B"}]}),
                json!({"env": [{"name": "A", "$patch": "delete"}]}),
                json!({"env": [{"name": "B"}]}),
            ),
            (
                "replace a list",
                json!({"env": [{"name": "A"}]}),
                json!({"env": [{"$patch": "replace"}, {"name": "B"}]}),
                json!({"env": [{"name": "B"}]}),
            ),
            (
                "replace a map",
                json!({"s": {"a": 1}}),
                json!({"s": {"$patch": "replace", "b": 2}}),
                json!({"s": {"b": 2}}),
            ),
            (
                "delete a map",
                json!({"s": {"a": 1}, "t": 1}),
                json!({"s": {"$patch": "delete"}}),
                json!({"t": 1}),
            ),
            (
                "ports differ by protocol",
                json!({"ports": [{"containerPort": 53, "protocol": "UDP"}]}),
                json!({"ports": [{"containerPort": 53, "name": "dns"}]}),
                json!({"ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "name": "dns"}]}),
            ),
        ] {
            let mut merged = base;
            strategic_merge(&mut merged, &patch);
            assert_eq!(merged, expected, "{name}");
        }
    }
}

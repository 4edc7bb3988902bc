//! The merge of a patch onto a pod template.

use serde_json::{Map, Value};

/// What is left of a value without directives, nulls and entries that are deleted.
fn without_directives(value: &Value) -> Value {
    match value {
        Value::Object(map) => fields(map, without_directives),
        Value::Array(items) => {
            Value::Array(items.iter().filter(|item| !is_gone(item)).map(without_directives).collect())
        }
        other => other.clone(),
    }
}

/// The same with every entry of a list in its place, so that paths are those of whoever wrote it. An entry
/// that is deleted is empty.
pub(super) fn in_place(value: &Value) -> Value {
    match value {
        Value::Object(map) => fields(map, in_place),
        Value::Array(items) => {
            let entry = |item: &Value| if is_gone(item) { Value::Object(Map::new()) } else { in_place(item) };
            Value::Array(items.iter().map(entry).collect())
        }
        other => other.clone(),
    }
}

fn fields(map: &Map<String, Value>, of: impl Fn(&Value) -> Value) -> Value {
    let kept = map.iter().filter(|(key, value)| !is_directive(key) && !value.is_null());
    Value::Object(kept.map(|(key, value)| (key.clone(), of(value))).collect())
}

/// True for `$patch` and its like.
pub(super) fn is_directive(key: &str) -> bool {
    key.starts_with('$')
}

/// True for an entry of a list that the merge adds nothing for.
pub(super) fn is_gone(entry: &Value) -> bool {
    match entry.get("$patch").and_then(Value::as_str) {
        Some("delete") => true,
        Some(_) => entry.as_object().is_some_and(|map| map.keys().all(|key| is_directive(key))),
        None => false,
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
pub(in super::super) fn strategic_merge(base: &mut Value, patch: &Value) {
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
                if is_directive(key) {
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

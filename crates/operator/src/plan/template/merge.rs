//! The merge of a patch onto a pod template.

use std::collections::HashMap;

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

/// The same with every entry of a list in its place, so that paths are those of whoever wrote it. An entry that
/// is deleted is empty; or it is there as if it said nothing of that, for a reader that does not know directives.
pub(super) fn in_place(value: &Value, knows_directives: bool) -> Value {
    let inner = |value: &Value| in_place(value, knows_directives);
    match value {
        Value::Object(map) => fields(map, inner),
        Value::Array(items) => {
            let entry = |item: &Value| {
                if knows_directives && is_gone(item) { Value::Object(Map::new()) } else { inner(item) }
            };
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
    // Places are looked up, and those that are deleted stay empty till the end: a list may be long.
    let mut slots: Vec<Option<Value>> = std::mem::take(list).into_iter().map(Some).collect();
    let mut places: HashMap<String, Vec<usize>> = HashMap::new();
    for (at, id) in
        slots.iter().enumerate().rev().filter_map(|(at, slot)| Some((at, identity(slot.as_ref()?, key)?)))
    {
        places.entry(id).or_default().push(at);
    }
    for entry in entries {
        let directive = entry.get("$patch").and_then(Value::as_str);
        let Some(id) = identity(entry, key) else {
            if directive.is_none() {
                slots.push(Some(without_directives(entry)));
            }
            continue;
        };
        // The first of those that are there, which is the last of the places.
        let there = places.entry(id).or_default();
        match (there.last().copied(), directive) {
            (Some(at), Some("delete")) => {
                there.pop();
                if let Some(slot) = slots.get_mut(at) {
                    *slot = None;
                }
            }
            (None, Some("delete")) => {}
            (Some(at), _) => {
                if let Some(Some(found)) = slots.get_mut(at) {
                    strategic_merge(found, entry);
                }
            }
            (None, _) => {
                let mut fresh = Value::Null;
                strategic_merge(&mut fresh, entry);
                there.push(slots.len());
                slots.push(Some(fresh));
            }
        }
    }
    *list = slots.into_iter().flatten().collect();
}

/// What tells the entries of a list apart. Two ports with one number differ by protocol.
fn identity(entry: &Value, key: &str) -> Option<String> {
    let id = entry.get(key)?;
    let protocol = match key {
        "containerPort" => entry.get("protocol").and_then(Value::as_str).unwrap_or("TCP"),
        _ => "",
    };
    Some(format!("{protocol} {id}"))
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
    fn a_long_list_takes_no_longer_for_each_entry_than_a_short_one() {
        let list = |image: &str| {
            let entry = |index| json!({"name": format!("v{index}"), "image": image});
            Value::Array((0..40_000).map(entry).collect())
        };
        let mut merged = json!({"containers": list("a")});
        let mut patch = json!({"containers": list("b")});
        patch["containers"][1]["$patch"] = json!("delete");
        let start = std::time::Instant::now();
        strategic_merge(&mut merged, &patch);
        assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
        let merged = merged["containers"].as_array().unwrap();
        assert_eq!(merged.len(), 39_999);
        assert_eq!((&merged[1]["name"], &merged[39_998]["image"]), (&json!("v2"), &json!("b")));
    }

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
                "of two of one name the first is meant, and then the second",
                json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}),
                json!({"env": [{"name": "A", "$patch": "delete"}, {"name": "A", "value": "3"}, {"name": "B"}, {"name": "B", "value": "4"}]}),
                json!({"env": [{"name": "A", "value": "3"}, {"name": "B", "value": "4"}]}),
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

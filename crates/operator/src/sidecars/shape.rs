//! Whether an object has the shape that something can be put into. Values are judged by the planner; this is about
//! lists that are no lists.

use serde_json::{Map, Value};

/// The first part of a pod template's, or pod's, `spec` that is not what it has to be, as a path below it.
pub(super) fn misshapen_pod(pod: &Map<String, Value>, at: &str) -> Option<String> {
    for list in ["containers", "initContainers", "volumes"] {
        if let Some(path) = misshapen_list(pod, list, at) {
            return Some(path);
        }
    }
    let containers = pod.get("containers").and_then(Value::as_array)?;
    containers.iter().enumerate().find_map(|(index, container)| {
        let at = format!("{at}.containers[{index}]");
        let container = container.as_object()?;
        ["volumeMounts", "env"].iter().find_map(|list| misshapen_list(container, list, &at))
    })
}

/// The same for an MCPServer, from its root.
pub(super) fn misshapen_server(object: &Value) -> Option<String> {
    let Some(spec) = object.get("spec").and_then(Value::as_object) else { return Some("spec".to_owned()) };
    let annotations = object.pointer("/metadata/annotations").unwrap_or(&Value::Null);
    if !annotations.is_null() && !annotations.is_object() {
        return Some("metadata.annotations".to_owned());
    }
    let at = "spec.podTemplateSpec";
    let template = given(spec, "podTemplateSpec")?;
    let Some(template) = template.as_object() else { return Some(at.to_owned()) };
    let at = format!("{at}.spec");
    match given(template, "spec") {
        None => None,
        Some(Value::Object(pod)) => misshapen_pod(pod, &at),
        Some(_) => Some(at),
    }
}

fn misshapen_list(map: &Map<String, Value>, list: &str, at: &str) -> Option<String> {
    let at = format!("{at}.{list}");
    match given(map, list)? {
        Value::Array(items) => {
            let index = items.iter().position(|item| !item.is_object())?;
            Some(format!("{at}[{index}]"))
        }
        _ => Some(at),
    }
}

fn given<'v>(map: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    map.get(key).filter(|value| !value.is_null())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_misshapen_part_is_named() {
        for (template, expected) in [
            (json!(null), None),
            (json!({}), None),
            (json!({"spec": null}), None),
            (json!({"spec": {"containers": null, "volumes": [], "other": 1}}), None),
            (json!("x"), Some("")),
            (json!([]), Some("")),
            (json!({"spec": []}), Some(".spec")),
            (json!({"spec": {"containers": {}}}), Some(".spec.containers")),
            (json!({"spec": {"containers": [{}, null]}}), Some(".spec.containers[1]")),
            (json!({"spec": {"initContainers": ["a"]}}), Some(".spec.initContainers[0]")),
            (json!({"spec": {"volumes": 1}}), Some(".spec.volumes")),
            (json!({"spec": {"containers": [{"env": {}}]}}), Some(".spec.containers[0].env")),
            (
                json!({"spec": {"containers": [{"volumeMounts": [1]}]}}),
                Some(".spec.containers[0].volumeMounts[0]"),
            ),
        ] {
            let object = json!({"metadata": {"name": "a"}, "spec": {"podTemplateSpec": template}});
            let expected = expected.map(|path| format!("spec.podTemplateSpec{path}"));
            assert_eq!(misshapen_server(&object), expected, "{object}");
        }
        assert_eq!(misshapen_server(&json!({})).as_deref(), Some("spec"));
        let object = json!({"metadata": {"annotations": []}, "spec": {}});
        assert_eq!(misshapen_server(&object).as_deref(), Some("metadata.annotations"));
    }
}

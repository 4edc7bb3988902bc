//! Whether an object has to be applied.
//!
//! What the API server does with an apply is told by the manager's own entry in `managedFields`: which lists are
//! merged and by which keys, which are taken as a whole, and what the last apply set. So no schema is needed
//! here, and the answer is right for the version of the API server that wrote the entry.

use serde_json::{Map, Number, Value};

use super::managed_fields::{FieldTree, Step, canonical, entries};
use super::quantity::same_quantity;
use super::takeover::taken_from;

/// What has to be done so that an object becomes what is desired. The reasons are for logs; they hold paths of
/// fields and no values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: everything desired is there, set by the manager, and the manager sets nothing else.
    InSync,
    /// The object has to be applied.
    Apply { why: String },
    /// Fields that ToolHive's operator set by updates have to become the manager's first, by
    /// [`take_over`](super::takeover::take_over), and then the object has to be applied.
    TakeOver { why: String },
}

/// Compares what is desired with what is there. `live` is the object as read from the API server, with its
/// `managedFields`.
///
/// What others added is no difference, nor what the server fills in: defaults, `status`, another way of writing
/// a quantity, a null or empty value that it drops. An object that was never applied always differs.
pub fn verdict(desired: &Value, live: &Value, manager: &str) -> Verdict {
    let others = taken_from(live, manager);
    if !others.is_empty() {
        return Verdict::TakeOver { why: format!("{} set fields by updates", others.join(" and ")) };
    }
    let mut own = None::<FieldTree>;
    let mut foreign = FieldTree::default();
    for entry in entries(live) {
        if entry.is_applied_by(manager) {
            own.get_or_insert_default().join(&entry.fields);
        } else {
            foreign.join(&entry.fields);
        }
    }
    let Some(own) = own else {
        return Verdict::Apply { why: format!("{manager} has not applied it yet") };
    };
    match compare(desired, Some(live), &own, Some(&foreign), At { name: "", above: None }) {
        Ok(()) => Verdict::InSync,
        Err(difference) => Verdict::Apply { why: format!("{} {}", difference.path, difference.what) },
    }
}

/// A field that is not as it has to be.
#[derive(Debug)]
struct Difference {
    path: String,
    what: &'static str,
}

const DIFFERS: &str = "differs";
const NOT_OURS: &str = "was set by somebody else, or never";
const UNWANTED: &str = "is no longer wanted";

/// Where in an object a value is.
#[derive(Clone, Copy)]
struct At<'a> {
    name: &'a str,
    above: Option<&'a At<'a>>,
}

impl<'a> At<'a> {
    fn below(&'a self, name: &'a str) -> At<'a> {
        At { name, above: Some(self) }
    }

    fn is_root(&self) -> bool {
        self.above.is_none()
    }

    fn is_metadata(&self) -> bool {
        self.name == "metadata" && self.above.is_some_and(At::is_root)
    }

    /// True for fields that hold quantities, which the server writes in its own way.
    fn is_quantity(&self) -> bool {
        let above = self.above.map_or("", |above| above.name);
        match above {
            "limits" | "requests" => {
                self.above.and_then(|above| above.above).is_some_and(|above| above.name == "resources")
            }
            "overhead" => true,
            "emptyDir" => self.name == "sizeLimit",
            "resourceFieldRef" => self.name == "divisor",
            _ => false,
        }
    }

    fn path(&self) -> String {
        let mut names = vec![self.name];
        let mut at = self.above;
        while let Some(above) = at {
            if !above.is_root() {
                names.push(above.name);
            }
            at = above.above;
        }
        names.reverse();
        names.join(".").replace(".[", "[")
    }

    fn difference(&self, what: &'static str) -> Difference {
        Difference { path: self.path(), what }
    }
}

/// Fields that the server owns, or that say which object is meant.
fn is_exempt(at: &At<'_>, field: &str) -> bool {
    if at.is_root() {
        matches!(field, "apiVersion" | "kind" | "status")
    } else if at.is_metadata() {
        matches!(
            field,
            "name"
                | "namespace"
                | "generateName"
                | "uid"
                | "resourceVersion"
                | "generation"
                | "creationTimestamp"
                | "deletionTimestamp"
                | "deletionGracePeriodSeconds"
                | "managedFields"
                | "selfLink"
        )
    } else {
        false
    }
}

/// Compares a value with what is there, along what the manager owns.
fn compare(
    desired: &Value,
    live: Option<&Value>,
    own: &FieldTree,
    foreign: Option<&FieldTree>,
    at: At<'_>,
) -> Result<(), Difference> {
    if own.is_leaf() && !at.is_root() {
        return if leaf(desired, live, foreign, &at) { Ok(()) } else { Err(at.difference(DIFFERS)) };
    }
    match desired {
        Value::Object(map) => object(map, live, own, foreign, at),
        Value::Array(items) => list(items, live, own, foreign, at),
        // The manager once set something below this, which is now nothing.
        Value::Null => object(&Map::new(), live, own, foreign, at),
        _ => Err(at.difference(DIFFERS)),
    }
}

fn object(
    desired: &Map<String, Value>,
    live: Option<&Value>,
    own: &FieldTree,
    foreign: Option<&FieldTree>,
    at: At<'_>,
) -> Result<(), Difference> {
    for (name, value) in desired {
        if is_exempt(&at, name) {
            continue;
        }
        let below = at.below(name);
        let found = live.and_then(|live| live.get(name));
        let theirs = foreign.and_then(|foreign| foreign.field(name));
        match own.field(name) {
            Some(own) => compare(value, found, own, theirs, below)?,
            None => unowned(value, found, theirs, below)?,
        }
    }
    for step in own.below.keys() {
        let (name, wanted) = match step {
            Step::Field(name) => (name.as_str(), desired.contains_key(name)),
            Step::Key(_) | Step::Member(_) => ("[]", false),
            // An apply would change nothing about a step that isn't understood.
            Step::Other(_) => continue,
        };
        if !wanted {
            return Err(at.below(name).difference(UNWANTED));
        }
    }
    Ok(())
}

/// A list that is merged: by keys, or as a set.
fn list(
    desired: &[Value],
    live: Option<&Value>,
    own: &FieldTree,
    foreign: Option<&FieldTree>,
    at: At<'_>,
) -> Result<(), Difference> {
    let live: &[Value] = live.and_then(Value::as_array).map_or(&[], Vec::as_slice);
    for item in desired {
        let Some((step, own)) = own.below.iter().find(|(step, _)| is_meant(step, item)) else {
            return Err(at.below("[]").difference(NOT_OURS));
        };
        let shown = shown(step);
        let below = at.below(&shown);
        let found = live.iter().find(|item| is_meant(step, item));
        if matches!(step, Step::Member(_)) {
            found.ok_or_else(|| below.difference(DIFFERS))?;
            continue;
        }
        let theirs = foreign.and_then(|foreign| foreign.below.get(step));
        compare(item, Some(found.ok_or_else(|| below.difference(DIFFERS))?), own, theirs, below)?;
    }
    for step in own.below.keys() {
        let unwanted = !matches!(step, Step::Other(_)) && !desired.iter().any(|item| is_meant(step, item));
        if unwanted {
            return Err(at.below(&shown(step)).difference(UNWANTED));
        }
    }
    Ok(())
}

/// True when a step leads to this item of a list.
pub(super) fn is_meant(step: &Step, item: &Value) -> bool {
    match step {
        Step::Key(keys) => keys.iter().all(|(name, value)| match item.get(name) {
            Some(found) => canonical(found) == *value,
            // The one field of a key that has a default: the protocol of a port.
            None => name == "protocol" && value == "\"TCP\"",
        }),
        Step::Member(value) => canonical(item) == *value,
        Step::Field(_) | Step::Other(_) => false,
    }
}

/// A step as a part of a path. Keys are names, numbers and paths, so they may be said.
fn shown(step: &Step) -> String {
    match step {
        Step::Key(keys) => {
            let keys: Vec<String> =
                keys.iter().map(|(name, value)| format!("{name}={}", value.trim_matches('"'))).collect();
            format!("[{}]", keys.join(","))
        }
        _ => "[]".to_owned(),
    }
}

/// A value that the manager does not own. Only one that asks for nothing can do without that: an apply records
/// even a `false`, which need not mean the same as nothing at all.
fn unowned(
    desired: &Value,
    live: Option<&Value>,
    foreign: Option<&FieldTree>,
    at: At<'_>,
) -> Result<(), Difference> {
    let merged = || foreign.is_some_and(|foreign| !foreign.is_leaf());
    let nothing = match desired {
        Value::Null => true,
        // Nothing is recorded for one that is merged. One that is taken as a whole shows in the entry of whoever
        // took it as a leaf, and has to be emptied.
        Value::Array(items) if items.is_empty() => live.is_none_or(is_empty) || foreign.is_none() || merged(),
        // Before 1.22 no server records one.
        Value::Object(map) if map.is_empty() => match live {
            None => is_dropped(desired, at.name),
            Some(live) => live.is_object() && (is_empty(live) || foreign.is_none() || merged()),
        },
        Value::Object(map) => return object(map, live, &FieldTree::default(), foreign, at),
        _ => false,
    };
    if nothing { Ok(()) } else { Err(at.difference(NOT_OURS)) }
}

/// True when a value that the manager set as a whole is there.
fn leaf(desired: &Value, live: Option<&Value>, foreign: Option<&FieldTree>, at: &At<'_>) -> bool {
    match (desired, live) {
        // It is still the manager's, so it was the server that left it out.
        (desired, None) => is_empty(desired),
        // An empty object that is merged takes nothing away from others.
        (Value::Object(map), Some(Value::Object(live))) if map.is_empty() => {
            live.is_empty() || foreign.is_some_and(|foreign| !foreign.is_leaf())
        }
        (desired, Some(live)) => same(desired, live, at),
    }
}

/// True when two values mean the same. What is in `live` alone has to be the server's default: whatever else an
/// earlier apply set has to go.
fn same(desired: &Value, live: &Value, at: &At<'_>) -> bool {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => {
            let wanted = desired.iter().all(|(name, value)| match live.get(name) {
                Some(live) => same(value, live, &at.below(name)),
                None => is_dropped(value, name),
            });
            wanted
                && live.iter().all(|(name, value)| {
                    desired.contains_key(name)
                        || is_dropped(value, name)
                        || is_default(value, &at.below(name))
                })
        }
        (Value::Array(desired), Value::Array(live)) => {
            desired.len() == live.len()
                && desired.iter().zip(live).all(|(desired, live)| same(desired, live, &at.below("[]")))
        }
        (desired, live) if at.is_quantity() => same_quantity(desired, live),
        (Value::Number(desired), Value::Number(live)) => same_number(desired, live),
        (desired, live) => desired == live || desired.is_null() && is_empty(live),
    }
}

/// True for a value that the server leaves out when it writes the object. It never leaves out an empty object,
/// which is a choice of its own (`emptyDir: {}`, a selector of everything), unless the field is a map.
fn is_dropped(value: &Value, name: &str) -> bool {
    match value {
        Value::Object(map) => {
            map.is_empty()
                && matches!(
                    name,
                    "matchLabels"
                        | "labels"
                        | "annotations"
                        | "nodeSelector"
                        | "limits"
                        | "requests"
                        | "data"
                )
        }
        other => is_empty(other),
    }
}

/// True for what the server fills in inside values that are taken as a whole.
fn is_default(value: &Value, at: &At<'_>) -> bool {
    let above = at.above.map_or("", |above| above.name);
    match at.name {
        "protocol" => value == "TCP",
        "apiVersion" if above == "fieldRef" => value == "v1",
        "divisor" => value == "0",
        "expirationSeconds" => *value == 3600,
        "defaultMode" => *value == 420,
        "apiGroup" => value == "" || value == "rbac.authorization.k8s.io",
        "volumeMode" => value == "Filesystem",
        "apiVersion" | "kind" | "status" => {
            at.above.and_then(|above| above.above).is_some_and(|list| list.name == "volumeClaimTemplates")
        }
        _ => false,
    }
}

fn same_number(one: &Number, other: &Number) -> bool {
    canonical(&Value::Number(one.clone())) == canonical(&Value::Number(other.clone()))
}

/// True for null, false, 0, and whatever holds nothing else.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const US: &str = "skep-operator";

    /// Lists that are merged, and by which fields.
    fn keys_of(list: &str) -> &'static [&'static str] {
        match list {
            "containers" | "env" | "volumes" => &["name"],
            "ports" => &["containerPort", "protocol"],
            "volumeMounts" => &["mountPath"],
            _ => &[],
        }
    }

    /// What the API server records for an apply of this value.
    fn fields(value: &Value, name: &str) -> Value {
        match value {
            Value::Object(map) => {
                let below = map.iter().filter(|(key, value)| {
                    keys_of(key).is_empty() || value.as_array().is_none_or(|items| !items.is_empty())
                });
                below.map(|(key, value)| (format!("f:{key}"), fields(value, key))).collect()
            }
            Value::Array(items) if !keys_of(name).is_empty() => {
                let entry = |item: &Value| {
                    let mut keys = Map::new();
                    for key in keys_of(name) {
                        keys.insert(
                            (*key).to_owned(),
                            item.get(*key).cloned().unwrap_or_else(|| "TCP".into()),
                        );
                    }
                    let mut below = fields(item, "");
                    below.as_object_mut().unwrap().insert(".".to_owned(), json!({}));
                    (format!("k:{}", Value::Object(keys)), below)
                };
                items.iter().map(entry).collect()
            }
            _ => json!({}),
        }
    }

    fn entry(manager: &str, operation: &str, fields: &Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    /// `object` as it is after it was applied.
    fn applied(object: &Value) -> Value {
        let mut live = object.clone();
        live["metadata"]["managedFields"] = json!([entry(US, "Apply", &fields(object, ""))]);
        live
    }

    fn deployment() -> Value {
        json!({
            "metadata": {"labels": {"a": "b"}, "ownerReferences": [{"uid": "u", "name": "n"}]},
            "spec": {"replicas": 2, "template": {"spec": {
                "containers": [{
                    "name": "toolhive",
                    "args": ["run", "x"],
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": ""}],
                    "ports": [{"containerPort": 8080}],
                    "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}},
                    "stdin": false,
                    "volumeMounts": [{"mountPath": "/tmp", "name": "tmp"}],
                }],
                "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "s", "secret": {"items": [{"key": "k", "mode": 0}]}}],
            }}},
        })
    }

    fn at<'a>(value: &'a mut Value, pointer: &str) -> &'a mut Value {
        value.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}"))
    }

    fn said(desired: &Value, live: &Value) -> String {
        match verdict(desired, live, US) {
            Verdict::InSync => "in sync".to_owned(),
            Verdict::Apply { why } => why,
            Verdict::TakeOver { why } => format!("take over: {why}"),
        }
    }

    const POD: &str = "/spec/template/spec";

    #[test]
    fn what_the_server_and_others_add_is_no_difference() {
        let desired = deployment();
        let mut live = applied(&desired);
        let pod = at(&mut live, POD);
        pod["dnsPolicy"] = json!("ClusterFirst");
        pod["volumes"][1]["secret"]["defaultMode"] = json!(420);
        pod["containers"].as_array_mut().unwrap().insert(0, json!({"name": "injected", "image": "i"}));
        let container = &mut pod["containers"][1];
        container["ports"][0]["protocol"] = json!("TCP");
        container["env"].as_array_mut().unwrap().reverse();
        container["env"].as_array_mut().unwrap().push(json!({"name": "C", "value": "theirs"}));
        container["env"][0].as_object_mut().unwrap().remove("value");
        container.as_object_mut().unwrap().remove("stdin");
        container["resources"]["limits"] = json!({"cpu": "500m", "memory": "1Gi"});
        live["status"] = json!({"replicas": 2});
        live["metadata"]["uid"] = json!("x");
        live["metadata"]["labels"]["theirs"] = json!("kept");
        live["spec"]["replicas"] = json!(2.0);
        live["metadata"]["managedFields"].as_array_mut().unwrap().push(entry(
            "kube-controller-manager",
            "Update",
            &json!({"f:status": {"f:replicas": {}}, "f:metadata": {"f:labels": {"f:theirs": {}}}}),
        ));
        assert_eq!(said(&desired, &live), "in sync");
        let mut other_version = desired.clone();
        other_version["apiVersion"] = json!("apps/v9");
        other_version["status"] = json!({"replicas": 7});
        assert_eq!(said(&other_version, &live), "in sync");
    }

    #[test]
    fn what_was_changed_is_named_and_its_value_is_not() {
        let desired = deployment();
        for (pointer, value, expected) in [
            ("/spec/replicas", json!(3), "spec.replicas differs"),
            ("/metadata/labels/a", json!("c"), "metadata.labels.a differs"),
            (
                "/spec/template/spec/containers/0/args",
                json!(["run"]),
                "spec.template.spec.containers[name=toolhive].args differs",
            ),
            (
                "/spec/template/spec/containers/0/args/1",
                json!("hunter2"),
                "spec.template.spec.containers[name=toolhive].args differs",
            ),
            (
                "/spec/template/spec/containers/0/env/0/value",
                json!("hunter2"),
                "spec.template.spec.containers[name=toolhive].env[name=A].value differs",
            ),
            (
                "/spec/template/spec/containers/0/env/1/value",
                json!("2"),
                "spec.template.spec.containers[name=toolhive].env[name=B].value differs",
            ),
            (
                "/spec/template/spec/containers/0/env",
                json!([]),
                "spec.template.spec.containers[name=toolhive].env[name=A] differs",
            ),
            (
                "/spec/template/spec/containers/0/stdin",
                json!(true),
                "spec.template.spec.containers[name=toolhive].stdin differs",
            ),
            (
                "/spec/template/spec/containers/0/resources/limits/cpu",
                json!("501m"),
                "spec.template.spec.containers[name=toolhive].resources.limits.cpu differs",
            ),
            (
                "/spec/template/spec/volumes/1/secret/items/0/mode",
                json!(256),
                "spec.template.spec.volumes[name=s].secret.items differs",
            ),
            (
                "/spec/template/spec/volumes/1/secret/items/0/key",
                json!("l"),
                "spec.template.spec.volumes[name=s].secret.items differs",
            ),
            ("/spec", json!(null), "spec.replicas differs"),
        ] {
            let mut live = applied(&desired);
            *at(&mut live, pointer) = value;
            assert_eq!(said(&desired, &live), expected);
        }
    }

    #[test]
    fn what_we_set_and_no_longer_want_is_a_difference() {
        for (pointer, field, expected) in [
            ("/spec", "replicas", "spec.replicas is no longer wanted"),
            ("/metadata", "labels", "metadata.labels is no longer wanted"),
            ("/metadata/labels", "a", "metadata.labels.a is no longer wanted"),
            (
                "/spec/template/spec/containers/0",
                "stdin",
                "spec.template.spec.containers[name=toolhive].stdin is no longer wanted",
            ),
        ] {
            let mut desired = deployment();
            at(&mut desired, pointer).as_object_mut().unwrap().remove(field);
            assert_eq!(said(&desired, &applied(&deployment())), expected);
        }
        for (pointer, expected) in [
            (
                "/spec/template/spec/containers/0/env",
                "spec.template.spec.containers[name=toolhive].env[name=B] is no longer wanted",
            ),
            ("/spec/template/spec/volumes", "spec.template.spec.volumes[name=s] is no longer wanted"),
        ] {
            let mut desired = deployment();
            at(&mut desired, pointer).as_array_mut().unwrap().pop();
            assert_eq!(said(&desired, &applied(&deployment())), expected);
        }
    }

    #[test]
    fn what_somebody_else_set_has_to_become_ours() {
        let desired = deployment();
        let owned = fields(&desired, "");
        for (tree, expected) in [
            (None, "skep-operator has not applied it yet"),
            (Some("/f:spec/f:replicas"), "spec.replicas was set by somebody else, or never"),
            (Some("/f:metadata/f:labels"), "metadata.labels.a was set by somebody else, or never"),
        ] {
            let mut live = applied(&desired);
            live["metadata"]["managedFields"] = match tree {
                None => json!([entry("kubectl", "Apply", &owned)]),
                Some(pointer) => {
                    let mut owned = owned.clone();
                    let (above, field) = pointer.rsplit_once('/').unwrap();
                    at(&mut owned, above).as_object_mut().unwrap().remove(field);
                    json!([entry(US, "Apply", &owned)])
                }
            };
            assert_eq!(said(&desired, &live), expected);
        }
        assert_eq!(said(&desired, &Value::Null), "skep-operator has not applied it yet");
    }

    #[test]
    fn an_empty_value_asks_for_nothing_unless_the_whole_was_ours() {
        let live = |value: Value, theirs: Value| {
            json!({"spec": {"x": 1, "list": value}, "metadata": {"managedFields": [
                entry(US, "Apply", &json!({"f:spec": {"f:x": {}}})), entry("kubectl", "Update", &json!({"f:spec": {"f:list": theirs}})),
            ]}})
        };
        let merged = json!({"k:{\"name\":\"a\"}": {".": {}}});
        for (desired, live, expected) in [
            (json!([]), live(json!([{"name": "a"}]), merged.clone()), "in sync"),
            (json!(null), live(json!([{"name": "a"}]), merged), "in sync"),
            (json!([]), live(json!([1]), json!({})), "spec.list was set by somebody else, or never"),
            (json!({}), live(json!({"a": 1}), json!({})), "spec.list was set by somebody else, or never"),
            (json!({}), live(json!({"a": 1}), json!({"f:a": {}})), "in sync"),
            (
                json!({}),
                live(json!(null), json!({"f:a": {}})),
                "spec.list was set by somebody else, or never",
            ),
            (json!({"a": []}), live(json!(null), json!({})), "in sync"),
            (json!(false), live(json!(true), json!({})), "spec.list was set by somebody else, or never"),
            (json!(false), live(json!(false), json!({})), "spec.list was set by somebody else, or never"),
        ] {
            assert_eq!(said(&json!({"spec": {"x": 1, "list": desired}}), &live), expected, "{desired}");
        }
    }

    #[test]
    fn a_value_that_is_taken_as_a_whole_is_compared_as_a_whole() {
        let rule = json!({"ports": [{"port": 53}], "to": [{"podSelector": {}}]});
        for (live, expected) in [
            (rule.clone(), "in sync"),
            (json!({"ports": [{"port": 53, "protocol": "TCP"}], "to": [{"podSelector": {}}]}), "in sync"),
            (
                json!({"ports": [{"port": 53, "protocol": "UDP"}], "to": [{"podSelector": {}}]}),
                "spec.rules differs",
            ),
            (json!({"ports": [{"port": 53}], "to": [{"podSelector": {}}], "from": []}), "in sync"),
            (json!({"ports": [{"port": 53}], "to": [{}]}), "spec.rules differs"),
            (
                json!({"ports": [{"port": 53}], "to": [{"podSelector": {}, "namespaceSelector": {}}]}),
                "spec.rules differs",
            ),
            (
                json!({"ports": [{"port": 53}], "to": [{"podSelector": {"matchLabels": {"a": "b"}}}]}),
                "spec.rules differs",
            ),
            (json!({"ports": [{"port": 53}], "to": [{"podSelector": {"matchLabels": {}}}]}), "in sync"),
            (json!({"ports": [{"port": 53}]}), "spec.rules differs"),
        ] {
            let live = json!({"spec": {"rules": [live]}, "metadata": {"managedFields": [entry(US, "Apply", &json!({"f:spec": {"f:rules": {}}}))]}});
            assert_eq!(said(&json!({"spec": {"rules": [rule]}}), &live), expected, "{live}");
        }
    }

    #[test]
    fn an_object_of_which_only_the_name_is_said_needs_no_owner() {
        let desired = json!({"metadata": {"name": "a", "namespace": "b"}, "data": {"a": "b"}});
        let live = json!({"metadata": {"name": "a", "managedFields": [entry(US, "Apply", &json!({"f:data": {"f:a": {}}}))]}, "data": {"a": "b"}});
        assert_eq!(said(&desired, &live), "in sync");
    }

    #[test]
    fn a_false_that_was_never_applied_is_not_what_is_absent() {
        let live = json!({"spec": {"a": 1}, "metadata": {"managedFields": [entry(US, "Apply", &json!({"f:spec": {"f:a": {}}}))]}});
        for value in [json!(false), json!(0), json!(""), json!({})] {
            assert_ne!(said(&json!({"spec": {"a": 1, "b": value}}), &live), "in sync", "{value}");
        }
        for value in [json!(null), json!([])] {
            assert_eq!(said(&json!({"spec": {"a": 1, "b": value}}), &live), "in sync", "{value}");
        }
    }

    #[test]
    fn updates_of_toolhive_are_taken_over_first() {
        let desired = deployment();
        let mut live = applied(&desired);
        let theirs = entry("thv-operator", "Update", &json!({"f:spec": {"f:paused": {}}}));
        live["metadata"]["managedFields"].as_array_mut().unwrap().push(theirs);
        assert_eq!(said(&desired, &live), "take over: thv-operator set fields by updates");
    }

    /// Objects with lists of all sorts, in which keys are there and not twice.
    fn any_object() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z0-9.:\\\\\"]{0,6}".prop_map(Value::from),
        ];
        let value = scalar.prop_recursive(5, 60, 6, |inner| {
            let map = prop::collection::btree_map(
                prop::sample::select(vec![
                    "a",
                    "b.c/d",
                    "metadata",
                    "limits",
                    "resources",
                    "cpu",
                    "name",
                    "status",
                    "f:x",
                ]),
                inner.clone(),
                0..5,
            );
            let keyed = (
                prop::sample::select(vec!["containers", "env", "ports", "volumeMounts"]),
                prop::collection::vec(prop::collection::btree_map("[a-c]", inner.clone(), 0..3), 0..4),
            );
            prop_oneof![
                map.prop_map(|map| json!(map)),
                prop::collection::vec(inner, 0..4).prop_map(Value::Array),
                keyed.prop_map(|(list, items)| {
                    let item = |(index, mut item): (usize, std::collections::BTreeMap<String, Value>)| {
                        for key in keys_of(list) {
                            item.insert((*key).to_owned(), json!(format!("{index}")));
                        }
                        json!(item)
                    };
                    json!({list: items.into_iter().enumerate().map(item).collect::<Vec<_>>()})
                }),
            ]
        });
        prop::collection::btree_map(prop::sample::select(vec!["spec", "data", "rules"]), value, 1..3)
            .prop_map(|map| json!(map))
    }

    /// Pointers to all scalars that hold something.
    fn scalars(value: &Value, at: &str, found: &mut Vec<String>) {
        let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
        match value {
            Value::Object(map) => {
                map.iter().for_each(|(k, v)| scalars(v, &format!("{at}/{}", escape(k)), found))
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(i, v)| scalars(v, &format!("{at}/{i}"), found));
            }
            other if is_empty(other) => {}
            _ => found.push(at.to_owned()),
        }
    }

    proptest! {
        #[test]
        fn whatever_was_applied_is_in_sync(object in any_object()) {
            let mut object = object;
            object["metadata"] = json!({"labels": {"a": "b"}});
            prop_assert_eq!(said(&object, &applied(&object)), "in sync");
        }

        #[test]
        fn whatever_was_changed_is_applied(object in any_object(), which in any::<prop::sample::Index>()) {
            let mut found = Vec::new();
            scalars(&object, "", &mut found);
            prop_assume!(!found.is_empty());
            let mut object = object;
            object["metadata"] = json!({"labels": {"a": "b"}});
            let mut live = applied(&object);
            *at(&mut live, which.get::<String>(&found)) = json!("changed by hand");
            prop_assert_ne!(said(&object, &live), "in sync");
        }

        #[test]
        fn nothing_makes_it_panic(desired in any_object(), live in any_object(), tree in any_object()) {
            let mut live = live;
            live["metadata"] = json!({"managedFields": [entry(US, "Apply", &tree), tree]});
            let _ = verdict(&desired, &live, US);
            let _ = super::super::takeover::take_over(&live, US);
            let _ = super::super::takeover::release(&live, US, &["spec", "replicas"]);
        }
    }
}

//! Saying in an apply what has to go.
//!
//! An apply takes away what its manager set and no longer says, field by field. API servers before 1.22 leave the
//! object around those fields: `valueFrom: {}` beside a `value`, or an `httpGet` that holds only defaults beside
//! a `tcpSocket`. They then refuse what they made themselves. A null in the apply takes the whole object away.

use serde_json::Value;

use super::differs::is_meant;
use super::managed_fields::{FieldTree, entries};

/// `desired` with a null for every object that `manager` made, that is no longer desired, and that holds nothing
/// of others. None when there are none, so that an apply with nulls would be no different.
///
/// For an apply that was refused as invalid: the manager owns the nulls afterwards, so a second apply without
/// them follows.
pub fn with_removals(desired: &Value, live: &Value, manager: &str) -> Option<Value> {
    let mut own = FieldTree::default();
    let mut foreign = FieldTree::default();
    for entry in entries(live) {
        let tree = if entry.is_applied_by(manager) { &mut own } else { &mut foreign };
        tree.join(&entry.fields);
    }
    let mut desired = desired.clone();
    let mut added = false;
    // What is of the object itself (metadata, status) leaves nothing behind.
    for part in ["spec", "data", "rules"] {
        if let (Some(desired), Some(own)) = (desired.get_mut(part), own.field(part)) {
            added |= add(desired, live.get(part), own, foreign.field(part));
        }
    }
    added.then_some(desired)
}

/// Adds the nulls below a value. True when there were any.
fn add(desired: &mut Value, live: Option<&Value>, own: &FieldTree, foreign: Option<&FieldTree>) -> bool {
    let mut added = false;
    match desired {
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                if let Some(own) = own.field(name) {
                    let theirs = foreign.and_then(|foreign| foreign.field(name));
                    added |= add(value, live.and_then(|live| live.get(name)), own, theirs);
                }
            }
            for (name, value) in live.and_then(Value::as_object).into_iter().flatten() {
                let Some(found) = value.as_object() else { continue };
                let ours = match own.field(name) {
                    Some(own) => !own.is_leaf(),
                    // Nobody is on record for an empty object.
                    None => found.is_empty(),
                };
                let theirs = foreign.is_some_and(|foreign| foreign.field(name).is_some());
                if ours && !theirs && !map.contains_key(name) {
                    map.insert(name.clone(), Value::Null);
                    added = true;
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let Some((step, own)) = own.below.iter().find(|(step, _)| is_meant(step, item)) else {
                    continue;
                };
                let live = live
                    .and_then(Value::as_array)
                    .and_then(|all| all.iter().find(|item| is_meant(step, item)));
                added |= add(item, live, own, foreign.and_then(|foreign| foreign.below.get(step)));
            }
        }
        _ => {}
    }
    added
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const US: &str = "skep-operator";

    fn live(spec: Value, ours: Value, theirs: Value) -> Value {
        let entry = |manager: &str, operation: &str, fields: Value| json!({"manager": manager, "operation": operation, "fieldsV1": {"f:spec": fields}});
        json!({"spec": spec, "status": {}, "metadata": {"labels": {"a": "b"}, "managedFields": [entry(US, "Apply", ours), entry("x", "Update", theirs)]}})
    }

    #[test]
    fn objects_of_ours_that_are_no_longer_desired_become_null() {
        let owned = json!({"f:env": {"k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:valueFrom": {"f:fieldRef": {"f:fieldPath": {}}}}}});
        let found = json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x", "apiVersion": "v1"}}}]});
        let live = live(found, owned, json!({}));
        for (desired, expected) in [
            (json!({"name": "A", "value": "1"}), json!({"name": "A", "value": "1", "valueFrom": null})),
            (
                json!({"name": "A", "valueFrom": {"x": 1}}),
                json!({"name": "A", "valueFrom": {"x": 1, "fieldRef": null}}),
            ),
        ] {
            let made = with_removals(&json!({"spec": {"env": [desired]}}), &live, US);
            assert_eq!(made, Some(json!({"spec": {"env": [expected]}})));
        }
        for desired in
            [json!({"env": [{"name": "B", "value": "1"}]}), json!({}), json!({"env": []}), json!(null)]
        {
            assert_eq!(with_removals(&json!({"spec": desired}), &live, US), None, "{desired}");
        }
    }

    #[test]
    fn an_empty_object_becomes_null_and_what_others_own_does_not() {
        let ours = json!({"f:v": {"f:name": {}, "f:a": {"f:x": {}}}});
        let found = json!({"v": {"name": "v", "emptyDir": {}, "a": {"x": 1, "y": 2}, "b": {"z": 1}}});
        let live = live(found, ours, json!({"f:v": {"f:a": {"f:y": {}}}}));
        let desired = json!({"spec": {"v": {"name": "v"}}});
        assert_eq!(
            with_removals(&desired, &live, US),
            Some(json!({"spec": {"v": {"name": "v", "emptyDir": null}}}))
        );
    }
}

//! Doing by an update what older API servers can't do by an apply.
//!
//! An apply takes away what its manager set and no longer says, field by field. API servers before 1.22 leave the
//! object around those fields: `valueFrom: {}` beside a `value`, or an `httpGet` that holds only defaults beside
//! a `tcpSocket`. A Deployment they then refuse, for ever; a StatefulSet they take, and its pods can't be made.
//! Newer ones take away the whole object.

use serde_json::{Map, Value, json};

use super::differs::is_meant;
use super::managed_fields::{FieldTree, Step, canonical, entries};

/// An object that means something though it is empty, and that nobody is on record for when it is.
const EMPTY_CHOICE: &str = "emptyDir";

/// The JSON patch that makes of an object's `spec` what an apply of `desired` should: without whole objects that
/// `manager` set, that are no longer desired, and that hold nothing of others. None when there are no such
/// objects.
///
/// It comes before an apply on servers that [leave objects behind](leaves_objects_behind); on others an apply does
/// the same. What the patch changes is then known as an update by `manager`, so a
/// [`take_over`](super::takeover::take_over) of what the patch made has to follow, and then the apply, which finds
/// nothing to do but to say whose the fields are. Like a takeover it is answered with a conflict when the object
/// has changed meanwhile.
pub fn rebuild(desired: &Value, live: &Value, manager: &str) -> Option<Value> {
    let mut own = FieldTree::default();
    let mut foreign = FieldTree::default();
    for entry in entries(live) {
        let tree = if entry.is_applied_by(manager) { &mut own } else { &mut foreign };
        tree.join(&entry.fields);
    }
    let mut merge = Merge { leftovers: false };
    // Objects beside the spec hold no choices that exclude each other.
    let spec = merge.value(desired.get("spec")?, live.get("spec")?, own.field("spec"), foreign.field("spec"));
    let version = live.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
    merge.leftovers.then(|| {
        json!([
            {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
            {"op": "replace", "path": "/spec", "value": spec},
        ])
    })
}

/// True for the API servers for which [`rebuild`] is there, by their version as they say it (`1`, `20+`). One that
/// says nothing sensible counts as new.
pub fn leaves_objects_behind(major: &str, minor: &str) -> bool {
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    major == "1" && digits.parse::<u32>().is_ok_and(|minor| minor < 22)
}

struct Merge {
    /// An apply would have left something behind.
    leftovers: bool,
}

impl Merge {
    fn value(
        &mut self,
        desired: &Value,
        live: &Value,
        own: Option<&FieldTree>,
        foreign: Option<&FieldTree>,
    ) -> Value {
        let merged = [own, foreign].into_iter().flatten().any(|tree| !tree.is_leaf());
        match (desired, live) {
            (Value::Object(desired), Value::Object(live)) if merged => {
                self.object(desired, live, own, foreign)
            }
            (Value::Array(desired), Value::Array(live)) if merged => self.list(desired, live, own, foreign),
            _ => desired.clone(),
        }
    }

    fn object(
        &mut self,
        desired: &Map<String, Value>,
        live: &Map<String, Value>,
        own: Option<&FieldTree>,
        foreign: Option<&FieldTree>,
    ) -> Value {
        let mut made = Map::new();
        for (name, found) in live {
            let ours = own.and_then(|own| own.field(name));
            let theirs = foreign.and_then(|foreign| foreign.field(name));
            if let Some(wanted) = desired.get(name) {
                made.insert(name.clone(), self.value(wanted, found, ours, theirs));
                continue;
            }
            let other_choice = name == EMPTY_CHOICE && desired.len() > 1;
            if theirs.is_some() || (ours.is_none() && !other_choice) {
                made.insert(name.clone(), found.clone());
            } else {
                self.leftovers |=
                    other_choice || ours.is_some_and(|ours| !ours.is_leaf() && found.is_object());
            }
        }
        for (name, wanted) in desired {
            made.entry(name.clone()).or_insert_with(|| wanted.clone());
        }
        Value::Object(made)
    }

    /// A list that is merged. What somebody has set is kept or dropped by whom; what nobody has, is kept.
    fn list(
        &mut self,
        desired: &[Value],
        live: &[Value],
        own: Option<&FieldTree>,
        foreign: Option<&FieldTree>,
    ) -> Value {
        fn of<'a>(tree: Option<&'a FieldTree>, item: &Value) -> Option<(&'a Step, &'a FieldTree)> {
            tree?.below.iter().find(|(step, _)| is_meant(step, item))
        }
        let mut made = Vec::new();
        let mut met = vec![false; desired.len()];
        for found in live {
            let (ours, theirs) = (of(own, found), of(foreign, found));
            let same = |item: &Value| {
                canonical(item) == canonical(found)
                    || [ours, theirs].into_iter().flatten().any(|(step, _)| is_meant(step, item))
            };
            match desired.iter().zip(&mut met).find(|(item, _)| same(item)) {
                Some((wanted, met)) => {
                    *met = true;
                    made.push(self.value(
                        wanted,
                        found,
                        ours.map(|(_, own)| own),
                        theirs.map(|(_, their)| their),
                    ));
                }
                None if ours.is_some() && theirs.is_none() => {}
                None => made.push(found.clone()),
            }
        }
        made.extend(desired.iter().zip(met).filter(|(_, met)| !met).map(|(item, _)| item.clone()));
        Value::Array(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: &str = "skep-operator";

    /// The spec that a patch makes.
    fn rebuilt(desired: &Value, found: Value, ours: Value, theirs: Value) -> Option<Value> {
        let entry = |manager: &str, operation: &str, fields: Value| json!({"manager": manager, "operation": operation, "fieldsV1": {"f:spec": fields}});
        let live = json!({"spec": found, "metadata": {"resourceVersion": "1", "managedFields": [entry(US, "Apply", ours), entry("x", "Update", theirs)]}});
        let patch = rebuild(&json!({"spec": desired}), &live, US)?;
        assert_eq!(patch[0], json!({"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}));
        Some(patch[1]["value"].clone())
    }

    #[test]
    fn an_object_that_is_no_longer_desired_goes_as_a_whole() {
        let owned = json!({"f:image": {}, "f:env": {
            "k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:valueFrom": {"f:fieldRef": {"f:fieldPath": {}}}},
            "k:{\"name\":\"B\"}": {".": {}, "f:name": {}, "f:value": {}},
        }});
        let theirs = json!({"f:env": {"k:{\"name\":\"C\"}": {".": {}, "f:name": {}, "f:value": {}}}});
        let found = json!({"image": "i", "default": 1, "env": [
            {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x", "apiVersion": "v1"}}},
            {"name": "B", "value": "2"}, {"name": "C", "value": "theirs"},
        ]});
        let desired = json!({"image": "j", "args": ["x"], "env": [{"name": "D", "value": "4"}, {"name": "A", "value": "1"}]});
        let expected = json!({"image": "j", "default": 1, "args": ["x"], "env": [
            {"name": "A", "value": "1"}, {"name": "C", "value": "theirs"}, {"name": "D", "value": "4"},
        ]});
        assert_eq!(rebuilt(&desired, found.clone(), owned.clone(), theirs.clone()), Some(expected));
        // Nothing is left behind by an apply of these.
        for desired in [found.clone(), json!({"image": "j"}), json!({"env": [{"name": "B", "value": "3"}]})] {
            assert_eq!(rebuilt(&desired, found.clone(), owned.clone(), theirs.clone()), None, "{desired}");
        }
    }

    #[test]
    fn an_empty_object_goes_and_what_others_own_a_part_of_stays() {
        let ours = json!({"f:v": {"f:name": {}, "f:a": {"f:x": {}}}});
        let found = json!({"v": {"name": "v", "emptyDir": {}, "resources": {}, "a": {"x": 1, "y": 2}, "b": {"z": 1}}});
        let theirs = json!({"f:v": {"f:a": {"f:y": {}}}});
        let desired = json!({"v": {"name": "v", "secret": {}}});
        let made = rebuilt(&desired, found.clone(), ours.clone(), theirs.clone());
        let expected =
            json!({"v": {"name": "v", "resources": {}, "a": {"x": 1, "y": 2}, "b": {"z": 1}, "secret": {}}});
        assert_eq!(made, Some(expected));
        // Without another source it is the server's own choice.
        assert_eq!(rebuilt(&json!({"v": {"name": "v"}}), found, ours, theirs), None);
    }

    #[test]
    fn what_is_taken_as_a_whole_is_replaced_as_a_whole() {
        let ours = json!({"f:rules": {}, "f:set": {"v:1": {}, "v:2": {}}, "f:gone": {"f:x": {}}});
        let found = json!({"rules": [{"a": 1}, {"b": 2}], "set": [1, 2, 3], "gone": {"x": 1}});
        let made =
            rebuilt(&json!({"rules": [{"c": 3}], "set": [2, 4]}), found, ours, json!({"f:set": {"v:3": {}}}));
        assert_eq!(made, Some(json!({"rules": [{"c": 3}], "set": [2, 3, 4]})));
    }

    #[test]
    fn only_servers_before_1_22_leave_objects_behind() {
        for (major, minor, old) in [
            ("1", "20", true),
            ("1", "21+", true),
            ("1", "22", false),
            ("1", "34-gke", false),
            ("2", "0", false),
            ("", "", false),
        ] {
            assert_eq!(leaves_objects_behind(major, minor), old, "{major}.{minor}");
        }
    }

    #[test]
    fn what_is_no_object_is_not_rebuilt() {
        assert_eq!(rebuild(&json!({"spec": {}}), &json!({"spec": {"a": 1}}), US), None);
        assert_eq!(rebuild(&json!(null), &json!(null), US), None);
    }
}

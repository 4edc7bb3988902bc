//! `metadata.managedFields`: who has set which fields of an object, as trees.
//!
//! The API server keeps one entry for each manager, operation, API version and subresource. Its `fieldsV1` is a
//! tree whose steps are `f:name` (a field), `k:{..}` (the entry of a list with these keys) and `v:..` (a member
//! of a set). `.` says that a node itself is owned besides what is below it, and so does a node without steps.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Operation of an entry that server-side apply made.
const APPLY: &str = "Apply";
/// Operation of an entry that a create, replace or patch made.
const UPDATE: &str = "Update";

/// One step from a node to what is below it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// A field of an object.
    Field(String),
    /// The entry of a list with these values in these fields, each value as canonical JSON.
    Key(Vec<(String, String)>),
    /// A member of a set, as canonical JSON.
    Member(String),
    /// A kind of step that this program doesn't know, as it was written.
    Other(String),
}

/// Fields that a manager owns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldTree {
    /// The node itself is owned.
    pub(super) owned: bool,
    /// What is owned below it.
    pub(super) below: BTreeMap<Step, FieldTree>,
}

/// One entry of `managedFields`.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Name of the manager.
    pub(super) manager: String,
    /// What it owns.
    pub(super) fields: FieldTree,
    operation: String,
    subresource: String,
    time: Option<String>,
    /// The entry as it was written.
    raw: Value,
}

impl Step {
    /// The step to a field.
    pub(super) fn field(name: &str) -> Self {
        Self::Field(name.to_owned())
    }

    fn parse(text: &str) -> Self {
        let other = || Self::Other(text.to_owned());
        match text.split_once(':') {
            Some(("f", name)) => Self::Field(name.to_owned()),
            Some(("k", keys)) => match serde_json::from_str::<Map<String, Value>>(keys) {
                Ok(keys) => {
                    let mut keys: Vec<(String, String)> =
                        keys.into_iter().map(|(name, value)| (name, canonical(&value))).collect();
                    keys.sort();
                    Self::Key(keys)
                }
                Err(_) => other(),
            },
            Some(("v", value)) => match serde_json::from_str::<Value>(value) {
                Ok(value) => Self::Member(canonical(&value)),
                Err(_) => other(),
            },
            _ => other(),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(keys) => {
                let keys: Vec<String> =
                    keys.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
                format!("k:{{{}}}", keys.join(","))
            }
            Self::Member(value) => format!("v:{value}"),
            Self::Other(text) => text.clone(),
        }
    }
}

impl FieldTree {
    /// Reads a `fieldsV1`. Whatever is no tree is an empty one.
    pub(super) fn parse(fields: &Value) -> Self {
        let mut root = Self::node(fields);
        // There is no path to the root, so nobody can own it.
        root.owned = false;
        root
    }

    fn node(fields: &Value) -> Self {
        let Some(map) = fields.as_object() else { return Self { owned: true, below: BTreeMap::new() } };
        let below = map
            .iter()
            .filter(|(step, _)| *step != ".")
            .map(|(step, below)| (Step::parse(step), Self::node(below)))
            .collect();
        Self { owned: map.is_empty() || map.contains_key("."), below }
    }

    /// The tree as a `fieldsV1`.
    pub(super) fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.owned && !self.below.is_empty() {
            map.insert(".".to_owned(), json!({}));
        }
        for (step, below) in &self.below {
            map.insert(step.text(), below.to_json());
        }
        Value::Object(map)
    }

    /// True when nothing is owned.
    pub(super) fn is_empty(&self) -> bool {
        !self.owned && self.below.is_empty()
    }

    /// True for a node that is owned as a whole: a scalar, or a list or an object that is not merged.
    pub(super) fn is_leaf(&self) -> bool {
        self.below.is_empty()
    }

    /// The node of a field.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        self.below.get(&Step::field(name))
    }

    /// The node at the end of a path of fields.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, name| node.field(name))
    }

    /// Adds what another tree owns.
    pub(super) fn join(&mut self, other: &Self) {
        self.owned |= other.owned;
        for (step, below) in &other.below {
            self.below.entry(step.clone()).or_default().join(below);
        }
    }

    /// Takes out the node at the end of a path of fields, and whatever is left empty above it.
    pub(super) fn take(&mut self, path: &[&str]) -> Option<Self> {
        let (first, rest) = path.split_first()?;
        let step = Step::field(first);
        if rest.is_empty() {
            return self.below.remove(&step);
        }
        let node = self.below.get_mut(&step)?;
        let taken = node.take(rest);
        if node.is_empty() {
            self.below.remove(&step);
        }
        taken
    }
}

impl Entry {
    fn read(raw: &Value) -> Self {
        let text = |field: &str| raw.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            manager: text("manager"),
            fields: FieldTree::parse(raw.get("fieldsV1").unwrap_or(&Value::Null)),
            operation: text("operation"),
            subresource: text("subresource"),
            time: raw.get("time").and_then(Value::as_str).map(str::to_owned),
            raw: raw.clone(),
        }
    }

    /// True for what `manager` applied, subresources aside.
    pub(super) fn is_applied_by(&self, manager: &str) -> bool {
        self.operation == APPLY && self.subresource.is_empty() && self.manager == manager
    }

    /// True for what was set by a create, replace or patch, subresources aside.
    pub(super) fn is_update(&self) -> bool {
        self.operation == UPDATE && self.subresource.is_empty()
    }

    /// The same entry with other fields; none for an entry that would own nothing.
    pub(super) fn with(&self, fields: &FieldTree) -> Option<Value> {
        let mut raw = self.raw.clone();
        raw.as_object_mut()?.insert("fieldsV1".to_owned(), fields.to_json());
        (!fields.is_empty()).then_some(raw)
    }

    /// The entry as it was written.
    pub(super) fn raw(&self) -> &Value {
        &self.raw
    }

    /// When the entry was written, as RFC 3339 in UTC.
    pub(super) fn time(&self) -> Option<&str> {
        self.time.as_deref()
    }
}

/// All entries of an object, in their order.
pub(super) fn entries(live: &Value) -> Vec<Entry> {
    let list = live.pointer("/metadata/managedFields").and_then(Value::as_array);
    list.into_iter().flatten().map(Entry::read).collect()
}

/// An entry of what `manager` applied to an object.
pub(super) fn applied(live: &Value, manager: &str, time: Option<&str>, fields: &FieldTree) -> Value {
    let mut entry = json!({
        "manager": manager,
        "operation": APPLY,
        "apiVersion": live.get("apiVersion").cloned().unwrap_or_default(),
        "fieldsType": "FieldsV1",
        "fieldsV1": fields.to_json(),
    });
    if let (Some(time), Some(map)) = (time, entry.as_object_mut()) {
        map.insert("time".to_owned(), time.into());
    }
    entry
}

/// A value as JSON text that is the same for equal values: keys sorted, `1.0` as `1`.
pub(super) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let fields: Vec<String> = sorted
                .into_iter()
                .map(|(key, value)| format!("{}:{}", json!(key), canonical(value)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        Value::Number(number) => match number.as_f64() {
            // Beyond 2^53 a float no longer tells neighbours apart.
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9.0e15 => {
                format!("{float:.0}")
            }
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(value: Value) -> FieldTree {
        FieldTree::parse(&value)
    }

    #[test]
    fn a_tree_is_written_as_it_was_read() {
        for fields in [
            json!({}),
            json!({"f:spec": {}}),
            json!({"f:spec": {".": {}, "f:a": {}}}),
            json!({"f:spec": {"f:ports": {"k:{\"containerPort\":8080,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}}}}),
            json!({"f:metadata": {"f:finalizers": {".": {}, "v:\"a/b\"": {}}, "f:labels": {"f:a.b/c": {}}}}),
            json!({"f:spec": {"x:unheard-of": {}, "k:not json": {}, "i:0": {}}}),
        ] {
            assert_eq!(tree(fields.clone()).to_json(), fields);
        }
    }

    #[test]
    fn keys_are_the_same_in_any_order() {
        assert_eq!(Step::parse("k:{\"b\":1,\"a\":\"x\"}"), Step::parse("k:{\"a\":\"x\",\"b\":1.0}"));
        assert_ne!(Step::parse("k:{\"a\":1}"), Step::parse("k:{\"a\":\"1\"}"));
    }

    #[test]
    fn a_joined_tree_owns_what_either_does() {
        for (one, other, both) in [
            (json!({"f:a": {}}), json!({"f:b": {}}), json!({"f:a": {}, "f:b": {}})),
            (json!({"f:a": {}}), json!({"f:a": {"f:b": {}}}), json!({"f:a": {".": {}, "f:b": {}}})),
            (
                json!({"f:a": {"f:b": {}}}),
                json!({"f:a": {"f:c": {}}}),
                json!({"f:a": {"f:b": {}, "f:c": {}}}),
            ),
            (json!({}), json!({"f:a": {}}), json!({"f:a": {}})),
            (
                json!({"k:{\"a\":1,\"b\":2}": {"f:x": {}}}),
                json!({"k:{\"b\":2,\"a\":1}": {"f:y": {}}}),
                json!({"k:{\"a\":1,\"b\":2}": {"f:x": {}, "f:y": {}}}),
            ),
        ] {
            let mut joined = tree(one.clone());
            joined.join(&tree(other.clone()));
            assert_eq!(joined.to_json(), both);
            let mut turned = tree(other);
            turned.join(&tree(one));
            assert_eq!(turned, joined, "the order does not matter");
        }
    }

    #[test]
    fn what_is_taken_leaves_nothing_empty_behind() {
        let mut fields = tree(json!({"f:metadata": {"f:labels": {}}, "f:spec": {"f:replicas": {}}}));
        assert!(fields.take(&["spec", "replicas"]).is_some());
        assert_eq!(fields.to_json(), json!({"f:metadata": {"f:labels": {}}}));
        assert!(fields.take(&["spec", "replicas"]).is_none());
        let mut fields = tree(json!({"f:spec": {".": {}, "f:replicas": {}}}));
        fields.take(&["spec", "replicas"]);
        assert_eq!(fields.to_json(), json!({"f:spec": {}}), "`.` is a field of its own");
    }

    #[test]
    fn an_entry_without_sense_owns_nothing() {
        let live = json!({"metadata": {"managedFields": [null, 5, "x", {}, {"fieldsV1": 7, "manager": []}]}});
        assert!(entries(&live).iter().all(|entry| entry.fields.is_empty() && entry.manager.is_empty()));
        assert!(entries(&json!(null)).is_empty());
    }
}

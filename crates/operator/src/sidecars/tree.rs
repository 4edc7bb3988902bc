//! Lists and maps of a raw object: those that are made for what is injected, and how they become again what they
//! were.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What was there before a list or a map was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    Null,
}

/// The lists and maps that were made, by their short names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Made(BTreeMap<String, Before>);

/// Ends the name of what was null before.
const NULL: &str = ":null";

impl Made {
    /// Reads the names that the annotation has.
    pub(super) fn read(names: &[String]) -> Self {
        let entry = |name: &String| match name.strip_suffix(NULL) {
            Some(name) => (name.to_owned(), Before::Null),
            None => (name.clone(), Before::Nothing),
        };
        Self(names.iter().map(entry).collect())
    }

    /// The names for the annotation.
    pub(super) fn names(&self) -> Vec<String> {
        let name = |(name, before): (&String, &Before)| match before {
            Before::Nothing => name.clone(),
            Before::Null => format!("{name}{NULL}"),
        };
        self.0.iter().map(name).collect()
    }

    pub(super) fn note(&mut self, name: &str, before: Before) {
        self.0.insert(name.to_owned(), before);
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Takes over what `other` knows of a name.
    pub(super) fn keep(&mut self, other: &Self, name: &str) {
        if let Some(before) = other.before(name) {
            self.note(name, before);
        }
    }

    fn before(&self, name: &str) -> Option<Before> {
        self.0.get(name).copied()
    }

    /// Sees to a list or map from which something of ours was taken out: one that was made and is empty now
    /// becomes what it was, and of one that isn't empty it stays known that it was made.
    pub(super) fn settle(&self, parent: &mut Map<String, Value>, key: &str, name: &str, kept: &mut Self) {
        let Some(before) = self.before(name) else { return };
        if !parent.get(key).is_some_and(is_empty) {
            kept.note(name, before);
            return;
        }
        match before {
            Before::Nothing => _ = parent.shift_remove(key),
            Before::Null => _ = parent.insert(key.to_owned(), Value::Null),
        }
    }

    /// The map `key` of `parent`, made when there is none. None when there is something else.
    pub(super) fn map<'v>(
        &mut self,
        parent: &'v mut Map<String, Value>,
        key: &str,
        name: &str,
    ) -> Option<&'v mut Map<String, Value>> {
        self.make(parent, key, name, || Value::Object(Map::new())).as_object_mut()
    }

    /// The list `key` of `parent`, made when there is none. None when there is something else.
    pub(super) fn list<'v>(
        &mut self,
        parent: &'v mut Map<String, Value>,
        key: &str,
        name: &str,
    ) -> Option<&'v mut Vec<Value>> {
        self.make(parent, key, name, || Value::Array(Vec::new())).as_array_mut()
    }

    fn make<'v>(
        &mut self,
        parent: &'v mut Map<String, Value>,
        key: &str,
        name: &str,
        empty: fn() -> Value,
    ) -> &'v mut Value {
        match parent.get(key) {
            None => self.note(name, Before::Nothing),
            Some(Value::Null) => {
                self.note(name, Before::Null);
                parent.insert(key.to_owned(), empty());
            }
            Some(_) => {}
        }
        parent.entry(key.to_owned()).or_insert_with(empty)
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// The map below `keys`, when all of them are maps.
pub(super) fn map_at<'v>(value: &'v mut Value, keys: &[&str]) -> Option<&'v mut Map<String, Value>> {
    keys.iter().try_fold(value.as_object_mut()?, |map, key| map.get_mut(*key)?.as_object_mut())
}

/// The entries of a list; none when it is not one.
pub(super) fn items<'v>(
    map: &'v Map<String, Value>,
    list: &str,
) -> impl Iterator<Item = &'v Value> + use<'v> {
    map.get(list).and_then(Value::as_array).into_iter().flatten()
}

/// The text of a field of an entry.
pub(super) fn text<'v>(entry: &'v Value, field: &str) -> Option<&'v str> {
    entry.get(field).and_then(Value::as_str)
}

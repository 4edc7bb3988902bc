//! A status while it is written: the present one, of which only our fields change.

use jiff::Timestamp;
use serde_json::{Map, Value};
use skep_api::condition::Condition;
use skep_api::crd::Object;

use super::conditions;

pub(super) struct Draft<'a> {
    object: &'a Object,
    present: &'a Value,
    fields: Map<String, Value>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(object: &'a Object, present: &'a Value) -> Self {
        Self { object, present, fields: present.as_object().cloned().unwrap_or_default() }
    }

    pub(super) fn set(&mut self, field: &str, value: impl Into<Value>) {
        self.fields.insert(field.to_owned(), value.into());
    }

    /// Sets a field, or drops it when there is no value.
    pub(super) fn put(&mut self, field: &str, value: Option<impl Into<Value>>) {
        match value {
            Some(value) => self.set(field, value),
            None => {
                self.fields.remove(field);
            }
        }
    }

    /// Writes the conditions, and which generation all of this is about. Conditions of the types in `keep`
    /// stay as they are when they are not in `found`.
    pub(super) fn conditions(&mut self, found: Vec<Condition>, keep: conditions::Keep<'_>, now: Timestamp) {
        let generation = self.object.metadata.generation;
        let present = self.present.get("conditions");
        let merged = conditions::merge(present, found, keep, generation, now);
        self.put("observedGeneration", generation);
        self.set("conditions", merged);
    }

    /// True when the present status says the same.
    pub(super) fn changes_nothing(&self) -> bool {
        self.present.as_object() == Some(&self.fields)
    }

    pub(super) fn finish(self) -> Value {
        Value::Object(self.fields)
    }
}

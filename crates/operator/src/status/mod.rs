//! Status of each kind: pure functions from what is planned, what is observed and the present status to the
//! new one. When nothing has changed, the result equals the present status, whatever the time is.

mod conditions;
mod config;
mod draft;
mod group;
mod measured;
mod phase;
mod workload;

use serde_json::{Map, Value};

pub use self::conditions::{PROBLEMS, READY, Transition, known_types, transitions};
pub use self::config::{config, entry};
pub use self::group::{Members, group};
pub use self::workload::workload;

/// The JSON merge patch (RFC 7386) of the whole object that makes the status `present` the status `new`, or
/// none when nothing has to be written. Lists are replaced as a whole.
pub fn patch(present: &Value, new: &Value) -> Option<Value> {
    let nothing = Map::new();
    let (present, new) = (present.as_object().unwrap_or(&nothing), new.as_object().unwrap_or(&nothing));
    let changed = new.iter().filter(|(field, value)| present.get(*field) != Some(value));
    let mut changes: Map<String, Value> =
        changed.map(|(field, value)| (field.clone(), value.clone())).collect();
    for field in present.keys().filter(|field| !new.contains_key(*field)) {
        changes.insert(field.clone(), Value::Null);
    }
    (!changes.is_empty()).then(|| Value::Object(Map::from_iter([("status".to_owned(), changes.into())])))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_has_what_changed_and_nulls_for_what_is_gone() {
        let present = json!({"a": 1, "b": "x", "c": [1, 2]});
        assert_eq!(patch(&present, &present), None);
        assert_eq!(patch(&Value::Null, &json!({})), None);
        assert_eq!(
            patch(&present, &json!({"a": 1, "c": [1], "d": true})),
            Some(json!({"status": {"b": null, "c": [1], "d": true}}))
        );
    }
}

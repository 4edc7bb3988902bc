//! A digest of JSON that does not depend on the order in which fields are written.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// SHA-256 in hexadecimal over the value with the keys of every object in order.
pub fn digest(value: &Value) -> String {
    use std::fmt::Write as _;
    let mut hash = Sha256::new();
    feed(value, &mut hash);
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Feeds a value so that no two values feed the same bytes: everything says what it is and how long.
fn feed(value: &Value, hash: &mut Sha256) {
    let text = |kind: u8, text: &str, hash: &mut Sha256| {
        hash.update([kind]);
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    match value {
        Value::Object(map) => {
            hash.update(*b"o");
            hash.update((map.len() as u64).to_be_bytes());
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            for (key, value) in entries {
                text(b'k', key, hash);
                feed(value, hash);
            }
        }
        Value::Array(items) => {
            hash.update(*b"a");
            hash.update((items.len() as u64).to_be_bytes());
            for item in items {
                feed(item, hash);
            }
        }
        Value::String(string) => text(b's', string, hash),
        other => text(b'v', &other.to_string(), hash),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_order_of_fields_has_no_meaning_and_that_of_items_has() {
        let text = |text: &str| digest(&serde_json::from_str(text).unwrap());
        assert_eq!(text(r#"{"a":1,"b":{"c":[1,2],"d":null}}"#), text(r#"{"b":{"d":null,"c":[1,2]},"a":1}"#));
        assert_ne!(text("[1,2]"), text("[2,1]"));
    }

    #[test]
    fn values_that_look_alike_differ() {
        let values = [
            json!({"a": "b"}),
            json!(["a", "b"]),
            json!("ab"),
            json!({"a": {"b": ""}}),
            json!({"a": "1"}),
            json!({"a": 1}),
            json!({"a": true}),
            json!({"a": "true"}),
            json!({"a": null}),
            json!({}),
            json!([]),
            json!([[], []]),
            json!([[[]]]),
        ];
        let digests: std::collections::BTreeSet<String> = values.iter().map(digest).collect();
        assert_eq!(digests.len(), values.len());
    }
}

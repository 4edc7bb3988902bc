//! JSON Schema to the structural schemas that Kubernetes takes.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value};

/// The structural schema of a type: everything in line, no references, no null, no defaults.
pub(super) fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let schema: Schema = settings.into_generator().into_root_schema_for::<T>();
    structural(schema.to_value())
}

fn structural(schema: Value) -> Value {
    let Value::Object(mut map) = schema else {
        // `true`: anything goes.
        return serde_json::json!({"x-kubernetes-preserve-unknown-fields": true});
    };
    // An optional value is `T or null`; Kubernetes drops nulls before it looks.
    for union in ["anyOf", "oneOf"] {
        if let Some(Value::Array(options)) = map.get(union) {
            let mut rest: Vec<Value> = options.iter().filter(|option| !is_null(option)).cloned().collect();
            if let (1, Some(Value::Object(only))) = (rest.len(), rest.pop()) {
                map.remove(union);
                for (key, value) in only {
                    map.entry(key).or_insert(value);
                }
            } else {
                enumeration(&mut map, union);
            }
        }
    }
    if let Some(Value::Array(types)) = map.get("type") {
        let first = types.iter().find(|name| name.as_str() != Some("null")).cloned();
        if let Some(first) = first {
            map.insert("type".to_owned(), first);
        }
    }
    if let Some(Value::Array(values)) = map.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(constant) = map.remove("const") {
        map.insert("enum".to_owned(), Value::Array(vec![constant]));
    }
    for key in ["$schema", "title", "default", "additionalProperties"] {
        if key != "additionalProperties" || map.get(key) == Some(&Value::Bool(false)) {
            map.remove(key);
        }
    }
    // Widths of unsigned numbers are formats that Kubernetes does not know.
    match map.get("format").and_then(Value::as_str) {
        Some("uint16") => {
            map.insert("format".to_owned(), "int32".into());
            map.insert("maximum".to_owned(), 65535.into());
        }
        Some("int32" | "int64" | "date-time" | "uri" | "duration") | None => {}
        Some(_) => {
            map.remove("format");
        }
    }
    if map.get("maximum").and_then(Value::as_i64) == Some(65535) {
        map.insert("format".to_owned(), "int32".into());
    }
    for (key, value) in &mut map {
        match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                for property in properties.values_mut() {
                    *property = structural(property.take());
                }
            }
            ("items" | "additionalProperties", value) => *value = structural(value.take()),
            _ => {}
        }
    }
    for union in ["allOf", "$defs"] {
        map.remove(union);
    }
    Value::Object(map)
}

/// A list of documented words becomes one `enum`.
fn enumeration(map: &mut Map<String, Value>, union: &str) {
    let Some(Value::Array(options)) = map.get(union) else { return };
    let mut words = Vec::new();
    for option in options {
        match (option.get("const"), option.get("enum")) {
            (Some(word), _) => words.push(word.clone()),
            (None, Some(Value::Array(more))) => words.extend(more.iter().cloned()),
            _ if is_null(option) => {}
            _ => return,
        }
    }
    words.retain(|word| !word.is_null());
    map.remove(union);
    map.insert("type".to_owned(), "string".into());
    map.entry("enum").or_insert(Value::Array(words));
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null") || schema.get("const") == Some(&Value::Null)
}

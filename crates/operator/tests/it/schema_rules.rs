//! The API server judges by the rules in the schema, and the planner by its own: they have to agree.

use cel::{Context, Program};
use serde_json::Value;
use skep_api::crd::definition::schema;
use skep_api::crd::{Kind, Object};
use skep_api::yaml::documents;
use skep_operator::plan::{Missing, plan_object};

use crate::manifests::{files, world};

/// Rules and lists of words that a value breaks, each with its path.
fn broken(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    if schema["type"] == "object" && !value.is_object() {
        return vec![format!("{path}: not an object")];
    }
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let text = rule["rule"].as_str().unwrap();
        let program = Program::compile(text).unwrap_or_else(|error| panic!("{path}: {text}: {error}"));
        let mut context = Context::default();
        context.add_variable("self", value).unwrap();
        match program.execute(&context) {
            Ok(cel::Value::Bool(true)) => {}
            Ok(cel::Value::Bool(false)) => {
                found.push(format!("{path}: {}", rule["message"].as_str().unwrap()))
            }
            other => panic!("{path}: {text}: {other:?}"),
        }
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        found.push(format!("{path}: {value} is not one of {words:?}"));
    }
    for field in schema["required"].as_array().into_iter().flatten() {
        if value.is_object() && value.get(field.as_str().unwrap()).is_none() {
            found.push(format!("{path}: {field} is missing"));
        }
    }
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter().filter(|(_, member)| !member.is_null()) {
                let inner = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                if let Some(inner) = inner {
                    found.extend(broken(inner, member, &format!("{path}.{name}")));
                }
            }
        }
        Value::Array(entries) if schema.get("items").is_some() => {
            for (index, entry) in entries.iter().enumerate() {
                found.extend(broken(&schema["items"], entry, &format!("{path}[{index}]")));
            }
        }
        _ => {}
    }
    found
}

/// Kind, spec and errors of the planner for every object of a text.
fn judged(text: &str) -> Vec<(Kind, Value, bool)> {
    let (_, world) = world(text, Missing::Refuse);
    documents(text)
        .unwrap_or_default()
        .into_iter()
        .flat_map(|document| match document.value["items"].as_array() {
            Some(items) => items.clone(),
            None => vec![document.value],
        })
        .filter_map(|value| {
            let object = Object::parse(&value).ok()?;
            let refused = plan_object(&object, &world).problems.iter().any(|problem| problem.is_error());
            Some((object.kind, value["spec"].clone(), refused))
        })
        .collect()
}

#[test]
fn the_schema_takes_what_the_planner_takes() {
    let mut seen = 0;
    for file in files("good") {
        for (kind, spec, _) in judged(&std::fs::read_to_string(&file).unwrap()) {
            let found = broken(&schema(kind)["properties"]["spec"], &spec, "spec");
            assert!(found.is_empty(), "{} {kind}: {found:?}", file.display());
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn what_the_schema_refuses_the_planner_refuses_too() {
    let mut seen = 0;
    for file in files("bad") {
        for (kind, spec, refused) in judged(&std::fs::read_to_string(&file).unwrap()) {
            let found = broken(&schema(kind)["properties"]["spec"], &spec, "spec");
            if !found.is_empty() {
                assert!(refused, "{} {kind}: {found:?}", file.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 25, "{seen}");
}

//! What the API server would say to a spec: the rules (CEL), words and bounds of its kind's schema.

use std::sync::Arc;

use cel::{Context, Program};
use serde_json::Value;
use skep_api::crd::Kind;
use skep_api::crd::bounds::violations;
use skep_api::crd::definition::schema;

/// What was judged, and how.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// What is refused, each with its path.
    pub(crate) refused: Vec<String>,
    /// Rules that were asked, by kind, path in the schema and message, and whether they held.
    pub(crate) asked: Vec<(String, bool)>,
}

/// Judges a spec. One that is absent is judged by nobody.
pub(crate) fn judge(kind: Kind, spec: &Value) -> Verdict {
    let mut verdict = Verdict::default();
    if !spec.is_null() {
        verdict.value(&schema(kind)["properties"]["spec"], spec, "spec", &format!("{kind} spec"));
        verdict.refused.extend(violations(kind, spec).iter().map(ToString::to_string));
    }
    verdict
}

/// Every rule of every schema, as [`Verdict::asked`] names it.
pub(crate) fn rules() -> Vec<String> {
    fn below(schema: &Value, at: &str, found: &mut Vec<String>) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            found.push(format!("{at}: {}", rule["message"].as_str().unwrap()));
        }
        for (name, member) in schema["properties"].as_object().into_iter().flatten() {
            below(member, &format!("{at}.{name}"), found);
        }
        if let Some(items) = schema.get("items") {
            below(items, &format!("{at}[]"), found);
        }
    }
    let mut found = Vec::new();
    for kind in Kind::ALL {
        below(&schema(kind)["properties"]["spec"], &format!("{kind} spec"), &mut found);
    }
    found
}

impl Verdict {
    fn value(&mut self, schema: &Value, value: &Value, path: &str, at: &str) {
        if schema["type"] == "object" && !value.is_object() {
            self.refused.push(format!("{path}: not an object"));
            return;
        }
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            self.rule(rule, value, path, at);
        }
        for field in schema["required"].as_array().into_iter().flatten() {
            if value.is_object() && value.get(field.as_str().unwrap()).is_none() {
                self.refused.push(format!("{path}: {field} is missing"));
            }
        }
        if schema["format"] == "uri" && url::Url::parse(value.as_str().unwrap_or_default()).is_err() {
            self.refused.push(format!("{path}: not a URI"));
        }
        match value {
            Value::Object(members) => {
                for (name, member) in members.iter().filter(|(_, member)| !member.is_null()) {
                    let inner = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                    if let Some(inner) = inner {
                        self.value(inner, member, &format!("{path}.{name}"), &format!("{at}.{name}"));
                    }
                }
            }
            Value::Array(entries) if schema.get("items").is_some() => {
                for (index, entry) in entries.iter().enumerate() {
                    self.value(&schema["items"], entry, &format!("{path}[{index}]"), &format!("{at}[]"));
                }
            }
            _ => {}
        }
    }

    fn rule(&mut self, rule: &Value, value: &Value, path: &str, at: &str) {
        let (text, message) = (rule["rule"].as_str().unwrap(), rule["message"].as_str().unwrap());
        let program = Program::compile(text).unwrap_or_else(|error| panic!("{path}: {text}: {error}"));
        let mut context = Context::default();
        context.add_variable("self", value).unwrap();
        // The library has this one only with its dates, which the proxy's own expressions do without.
        let _ = context.add_function("duration", |text: Arc<String>| nanoseconds(&text));
        // A rule that can't be worked out refuses, and every rule is asked of objects that it holds for.
        let holds = matches!(program.execute(&context), Ok(cel::Value::Bool(true)));
        self.asked.push((format!("{at}: {message}"), holds));
        if !holds {
            self.refused.push(format!("{path}: {message}"));
        }
    }
}

/// A duration as Go writes it, in nanoseconds.
fn nanoseconds(text: &str) -> Result<i64, cel::ExecutionError> {
    let refused = || cel::ExecutionError::function_error("duration", "not a duration");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
    let (number, unit) = text.split_at(split);
    let unit: i64 = match unit {
        "h" => 3_600_000_000_000,
        "m" => 60_000_000_000,
        "s" => 1_000_000_000,
        "ms" => 1_000_000,
        _ => return Err(refused()),
    };
    number.parse::<i64>().map(|number| number * unit).map_err(|_| refused())
}

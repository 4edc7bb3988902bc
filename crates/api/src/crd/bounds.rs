//! The bounds of a kind's schema - lengths, patterns, numbers, lists without duplicates - judged here as the
//! API server judges them, so that `skep check` refuses what the cluster would.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use regex::Regex;
use serde_json::Value;

use super::Kind;
use super::definition::schema;
use super::parse::{INVALID_FIELD, join};
use crate::problem::Problem;

/// Reason of an entry that stands in a list more than once.
pub const DUPLICATE_ENTRY: &str = "DuplicateEntry";

/// What the bounds of the kind's schema refuse in a spec, each an error. Types and fields that are missing or
/// unknown are the reader's business, and rules over several fields (CEL) the planner's. A null counts as
/// absent. No message repeats the value.
pub fn violations(kind: Kind, spec: &Value) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Some(bounds) = of(kind) {
        bounds.judge(spec, "spec", &mut found);
    }
    found
}

/// The bounds of a kind's spec, compiled once.
fn of(kind: Kind) -> Option<&'static Bounds> {
    static ALL: [OnceLock<Bounds>; Kind::ALL.len()] = [const { OnceLock::new() }; Kind::ALL.len()];
    let index = Kind::ALL.iter().position(|other| *other == kind)?;
    let cell = ALL.get(index)?;
    Some(
        cell.get_or_init(|| {
            Bounds::compile(schema(kind).pointer("/properties/spec").unwrap_or(&Value::Null))
        }),
    )
}

/// What a schema says of a value, without its types.
#[derive(Debug, Default)]
struct Bounds {
    words: Vec<Value>,
    pattern: Option<(String, Regex)>,
    length: (Option<usize>, Option<usize>),
    items: (Option<usize>, Option<usize>),
    most_members: Option<usize>,
    minimum: Option<i64>,
    maximum: Option<i64>,
    unique: Unique,
    members: BTreeMap<String, Bounds>,
    /// Of each entry of a list, or of each member of a map.
    each: Option<Box<Bounds>>,
}

/// What may stand in a list only once.
#[derive(Debug, Default)]
enum Unique {
    #[default]
    Nothing,
    /// The entry itself.
    Entry,
    /// These members of it, together.
    Keys(Vec<String>),
}

impl Bounds {
    fn compile(schema: &Value) -> Self {
        let size =
            |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let number = |name: &str| schema.get(name).and_then(Value::as_i64);
        let pattern = schema.get("pattern").and_then(Value::as_str);
        let unique = match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => Unique::Entry,
            Some("map") => Unique::Keys(
                schema
                    .get("x-kubernetes-list-map-keys")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(|key| key.as_str().map(ToOwned::to_owned))
                    .collect(),
            ),
            _ => Unique::Nothing,
        };
        Self {
            words: schema.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            pattern: pattern.and_then(|text| Some((text.to_owned(), Regex::new(&ascii_classes(text)).ok()?))),
            length: (size("minLength"), size("maxLength")),
            items: (size("minItems"), size("maxItems")),
            most_members: size("maxProperties"),
            minimum: number("minimum"),
            maximum: number("maximum"),
            unique,
            members: schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .map(|(name, member)| (name.clone(), Self::compile(member)))
                .collect(),
            each: schema
                .get("items")
                .or_else(|| schema.get("additionalProperties"))
                .map(|each| Box::new(Self::compile(each))),
        }
    }

    fn judge(&self, value: &Value, path: &str, found: &mut Vec<Problem>) {
        let mut refuse = |message: String| found.push(Problem::error(path, INVALID_FIELD, message));
        if !self.words.is_empty() && !self.words.contains(value) {
            let words: Vec<String> =
                self.words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
            refuse(format!("This has to be one of {}.", words.join(", ")));
        }
        match value {
            Value::String(text) => {
                let length = text.chars().count();
                match self.length {
                    (Some(1), _) if length == 0 => refuse("This must not be empty.".to_owned()),
                    (Some(least), _) if length < least => {
                        refuse(format!("This has to have at least {least} characters."));
                    }
                    (_, Some(most)) if length > most => {
                        refuse(format!("This has {length} characters, and at most {most} are allowed."));
                    }
                    _ => match &self.pattern {
                        Some((written, pattern)) if !pattern.is_match(text) => {
                            refuse(format!("This does not have the form that is needed: `{written}`."));
                        }
                        _ => {}
                    },
                }
            }
            Value::Number(number) => {
                let number = number.as_i64().unwrap_or(i64::MAX);
                match (self.minimum, self.maximum) {
                    (Some(least), _) if number < least => refuse(format!("This has to be at least {least}.")),
                    (_, Some(most)) if number > most => refuse(format!("This can be at most {most}.")),
                    _ => {}
                }
            }
            Value::Array(entries) => {
                match self.items {
                    (Some(1), _) if entries.is_empty() => {
                        refuse("The list needs at least one entry.".to_owned());
                    }
                    (Some(least), _) if entries.len() < least => {
                        refuse(format!("The list needs at least {least} entries."));
                    }
                    (_, Some(most)) if entries.len() > most => refuse(format!(
                        "The list has {} entries, and at most {most} are allowed.",
                        entries.len()
                    )),
                    _ => {}
                }
                self.duplicates(entries, path, found);
                if let Some(each) = &self.each {
                    for (index, entry) in entries.iter().enumerate() {
                        each.judge(entry, &format!("{path}[{index}]"), found);
                    }
                }
            }
            Value::Object(members) => {
                if let Some(most) = self.most_members.filter(|most| members.len() > *most) {
                    refuse(format!("There are {} entries, and at most {most} are allowed.", members.len()));
                }
                for (name, member) in members.iter().filter(|(_, member)| !member.is_null()) {
                    if let Some(bounds) = self.members.get(name).or(self.each.as_deref()) {
                        bounds.judge(member, &join(path, name), found);
                    }
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn duplicates(&self, entries: &[Value], path: &str, found: &mut Vec<Problem>) {
        let mut seen = BTreeSet::new();
        for (index, entry) in entries.iter().enumerate() {
            let (identity, at) = match &self.unique {
                Unique::Nothing => return,
                Unique::Entry => (entry.to_string(), format!("{path}[{index}]")),
                Unique::Keys(keys) => {
                    let values: Vec<&Value> = keys.iter().filter_map(|key| entry.get(key)).collect();
                    let field = keys.first().map(String::as_str).unwrap_or_default();
                    (format!("{values:?}"), format!("{path}[{index}].{field}"))
                }
            };
            if !seen.insert(identity) {
                found.push(Problem::error(at, DUPLICATE_ENTRY, "This is in the list already; keep one."));
            }
        }
    }
}

/// The API server's classes know ASCII only; those of the library here know all of Unicode.
fn ascii_classes(pattern: &str) -> String {
    pattern.replace(r"\d", "[0-9]").replace(r"\w", "[0-9A-Za-z_]").replace(r"\s", r"[\t\n\x0C\r ]")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_pattern_of_every_schema_can_be_judged() {
        fn patterns(schema: &Value, found: &mut Vec<String>) {
            match schema {
                Value::Object(members) => {
                    if let Some(pattern) = members.get("pattern").and_then(Value::as_str) {
                        found.push(pattern.to_owned());
                    }
                    members.values().for_each(|member| patterns(member, found));
                }
                Value::Array(entries) => entries.iter().for_each(|entry| patterns(entry, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        for kind in Kind::ALL {
            patterns(&schema(kind), &mut found);
        }
        assert!(found.len() > 20, "{found:?}");
        for pattern in found {
            assert!(Regex::new(&ascii_classes(&pattern)).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn bounds_are_those_of_the_schema_and_messages_never_repeat_the_value() {
        for (kind, spec, path) in [
            (Kind::MCPServer, json!({"image": "a", "replicas": -1}), "spec.replicas"),
            (Kind::MCPServer, json!({"image": "a", "proxyPort": 65536}), "spec.proxyPort"),
            (Kind::MCPServer, json!({"image": "a", "tools": ["s3cr3t", "s3cr3t"]}), "spec.tools[1]"),
            (
                Kind::MCPServer,
                json!({"image": "a", "env": [{"name": "s3cr3t", "value": ""}, {"name": "s3cr3t", "value": "x"}]}),
                "spec.env[1].name",
            ),
            (Kind::MCPRemoteProxy, json!({"remoteUrl": "s3cr3t"}), "spec.remoteUrl"),
            (
                Kind::MCPExternalAuthConfig,
                json!({"type": "awsSts", "awsSts": {"region": "s3cr3t٣"}}),
                "spec.awsSts.region",
            ),
            (
                Kind::MCPExternalAuthConfig,
                json!({"type": "obo", "obo": {"scopes": vec!["s3cr3t"; 21]}}),
                "spec.obo.scopes",
            ),
            (
                Kind::MCPWebhookConfig,
                json!({"validating": [{"name": "", "url": "https://a.example"}]}),
                "spec.validating[0].name",
            ),
        ] {
            let found = violations(kind, &spec);
            assert_eq!(found.len(), 1, "{kind}: {found:?}");
            assert!(found[0].is_error() && found[0].path == path, "{found:?}");
            assert!(!found[0].message.contains("s3cr3t"), "{found:?}");
        }
        assert_eq!(
            violations(Kind::MCPServer, &json!({"image": "a", "replicas": null, "proxyPort": 65535})),
            []
        );
    }
}

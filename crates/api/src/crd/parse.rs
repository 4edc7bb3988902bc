//! Values to typed specs, with the path of whatever does not fit.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::Problem;

/// Reason of a value of the wrong type, out of range, or missing.
pub const INVALID_FIELD: &str = "InvalidField";
/// Reason of a field that nothing reads.
pub const UNKNOWN_FIELD: &str = "UnknownField";
/// Reason of two spellings, or two ways, of saying a thing that disagree.
pub const CONFLICTING_FIELDS: &str = "ConflictingFields";

/// What the reader of a spec has to know besides its type.
pub(crate) struct Rules<'a> {
    /// Path of the value from the root of the object.
    pub(crate) root: &'a str,
    /// Fields whose content is kept verbatim, nulls included.
    pub(crate) free_form: &'a [&'a str],
    /// Fields that protect something: an unknown field below them, or one that is nearly spelt like
    /// them, is an error and not a warning.
    pub(crate) protective: &'a [&'a str],
    /// Every unknown field is an error.
    pub(crate) strict: bool,
}

/// Reads `value` as `T`. `None` means that it does not fit, and then a problem says why.
pub(crate) fn read<T: DeserializeOwned>(
    value: &Value,
    rules: &Rules<'_>,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let reading = typed(&without_nulls(value, rules.free_form));
    for path in reading.unknown {
        problems.push(unknown_field(&path, rules));
    }
    match reading.value {
        Ok(parsed) => Some(parsed),
        Err(misfit) => {
            problems.push(Problem::error(join(rules.root, &misfit.path), INVALID_FIELD, misfit.message));
            None
        }
    }
}

/// What came of reading a value as a type.
pub struct Reading<T> {
    /// The typed value, or why there is none.
    pub value: Result<T, Misfit>,
    /// Paths of fields that the type does not have, from the root of the value.
    pub unknown: Vec<String>,
}

/// Why a value is not of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Path from the root of the value.
    pub path: String,
    /// A sentence that never repeats the value, which may be a secret in the wrong place.
    pub message: String,
}

/// Reads a value as `T`, with the path of whatever does not fit.
pub fn typed<T: DeserializeOwned>(value: &Value) -> Reading<T> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let parsed = {
        let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
        serde_ignored::deserialize(deserializer, |path| unknown.push(dotted(&path)))
    };
    let value = parsed.map_err(|error: serde_json::Error| Misfit {
        path: track.path().to_string(),
        message: without_value(&error.to_string()),
    });
    Reading { value, unknown }
}

/// A message of serde as a sentence, without the value that it is about. What is not understood is left out.
fn without_value(message: &str) -> String {
    const KINDS: [&str; 10] = [
        "boolean",
        "integer",
        "floating point",
        "character",
        "string",
        "null",
        "unit value",
        "map",
        "sequence",
        "enum",
    ];
    if message.starts_with("missing field `") {
        return format!("{message}.");
    }
    // What was expected is a type's own text and stands last; a value before it may contain anything.
    let Some((before, expected)) = message.rsplit_once(", expected ") else {
        return "The value does not fit.".to_owned();
    };
    if before.starts_with("unknown field `") {
        return format!("There is no such field, expected {expected}.");
    }
    if before.starts_with("unknown variant `") {
        return format!("unknown value, expected {expected}.");
    }
    let given = ["invalid type: ", "invalid value: "].iter().find_map(|prefix| before.strip_prefix(prefix));
    let kind = given.and_then(|given| KINDS.iter().find(|kind| given.starts_with(**kind)));
    match kind {
        Some(kind) => format!("invalid type: {kind}, expected {expected}."),
        None => format!("The value does not fit: expected {expected}."),
    }
}

fn unknown_field(path: &str, rules: &Rules<'_>) -> Problem {
    let full = join(rules.root, path);
    let first = path.split(['.', '[']).next().unwrap_or(path);
    let inside = rules.protective.contains(&first);
    let meant = if path == first { nearest(first, rules.protective) } else { None };
    match meant {
        Some(meant) => Problem::error(
            full,
            UNKNOWN_FIELD,
            format!(
                "There is no field `{first}`; `{meant}` is spelt differently. Correct it, or what it protects stays open."
            ),
        ),
        None if inside || rules.strict => Problem::error(
            full,
            UNKNOWN_FIELD,
            "There is no such field, and what is said about who may do what is never dropped in silence. Correct or remove it.",
        ),
        None => Problem::warning(full, UNKNOWN_FIELD, "There is no such field; it has no effect."),
    }
}

fn nearest<'a>(field: &str, known: &[&'a str]) -> Option<&'a str> {
    let field = field.to_ascii_lowercase().replace(['_', '-'], "");
    known.iter().copied().find(|known| strsim::osa_distance(&known.to_ascii_lowercase(), &field) <= 2)
}

/// `root` and `rest` as one dotted path.
pub fn join(root: &str, rest: &str) -> String {
    match (root.is_empty(), rest.is_empty() || rest == ".") {
        (_, true) => root.to_owned(),
        (true, _) => rest.to_owned(),
        _ if rest.starts_with('[') => format!("{root}{rest}"),
        _ => format!("{root}.{rest}"),
    }
}

fn dotted(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", dotted(parent)),
        Path::Map { parent, key } => join(&dotted(parent), key),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            dotted(parent)
        }
    }
}

fn without_nulls(value: &Value, free_form: &[&str]) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| {
                    let kept = if free_form.contains(&key.as_str()) {
                        value.clone()
                    } else {
                        without_nulls(value, free_form)
                    };
                    (key.clone(), kept)
                })
                .collect(),
        ),
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| without_nulls(item, free_form)).collect())
        }
        other => other.clone(),
    }
}

/// One value out of two spellings. Both given and different is a problem, where a value equal to
/// `default` counts as not given.
pub(crate) fn one_of<T: PartialEq>(
    newer: (&str, Option<T>),
    older: (&str, Option<T>),
    default: Option<&T>,
    problems: &mut Vec<Problem>,
) -> Option<(String, T)> {
    match (newer.1, older.1) {
        (Some(new), Some(old)) => {
            if new == old || default == Some(&old) {
                Some((newer.0.to_owned(), new))
            } else if default == Some(&new) {
                Some((older.0.to_owned(), old))
            } else {
                problems.push(Problem::error(
                    newer.0,
                    CONFLICTING_FIELDS,
                    format!(
                        "`{}` and `{}` are two spellings of one field and say different things. Keep one.",
                        newer.0, older.0
                    ),
                ));
                Some((newer.0.to_owned(), new))
            }
        }
        (Some(new), None) => Some((newer.0.to_owned(), new)),
        (None, Some(old)) => Some((older.0.to_owned(), old)),
        (None, None) => None,
    }
}

/// A port from 1 to 65535.
pub(crate) fn port(value: Option<(String, i64)>, default: u16, problems: &mut Vec<Problem>) -> u16 {
    match value {
        None => default,
        Some((path, value)) => match u16::try_from(value) {
            Ok(port) if port > 0 => port,
            _ => {
                problems.push(Problem::error(
                    path,
                    INVALID_FIELD,
                    format!("{value} is not a port: it has to be from 1 to 65535."),
                ));
                default
            }
        },
    }
}

/// A count that is not negative.
pub(crate) fn count(path: &str, value: Option<i64>, problems: &mut Vec<Problem>) -> Option<i32> {
    let value = value?;
    match i32::try_from(value) {
        Ok(count) if count >= 0 => Some(count),
        _ => {
            problems.push(Problem::error(
                path,
                INVALID_FIELD,
                format!("{value} is not a number of replicas: it can't be negative."),
            ));
            None
        }
    }
}

/// Reports values that stand in a list more than once.
pub(crate) fn no_duplicates<'a>(
    path: &str,
    field: &str,
    values: impl Iterator<Item = &'a str>,
    problems: &mut Vec<Problem>,
) {
    let mut seen = BTreeSet::new();
    for (index, value) in values.enumerate() {
        if !seen.insert(value) {
            problems.push(Problem::error(
                join(&format!("{path}[{index}]"), field),
                "DuplicateEntry",
                format!("`{value}` is in the list already; keep one."),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_spelling_that_equals_the_default_gives_way() {
        let mut problems = Vec::new();
        assert_eq!(
            one_of(("a", Some(8080)), ("b", Some(9090)), Some(&8080), &mut problems),
            Some(("b".to_owned(), 9090))
        );
        assert_eq!(
            one_of(("a", Some(9090)), ("b", Some(8080)), Some(&8080), &mut problems),
            Some(("a".to_owned(), 9090))
        );
        assert!(problems.is_empty());
        one_of(("a", Some(1)), ("b", Some(2)), Some(&8080), &mut problems);
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn a_message_names_what_was_expected_and_never_the_value() {
        for (message, expected) in [
            (
                r#"invalid type: string "s3cr3t", expected a sequence"#,
                "invalid type: string, expected a sequence.",
            ),
            (r#"invalid type: string "a, expected b", expected u8"#, "invalid type: string, expected u8."),
            ("invalid value: integer `-3`, expected u16", "invalid type: integer, expected u16."),
            ("invalid type: map, expected a string", "invalid type: map, expected a string."),
            ("unknown variant `s3cr3t`, expected `a` or `b`", "unknown value, expected `a` or `b`."),
            ("unknown field `s3cr3t`, expected `a` or `b`", "There is no such field, expected `a` or `b`."),
            ("missing field `image`", "missing field `image`."),
            ("invalid length 3, expected 2", "The value does not fit: expected 2."),
            ("something about s3cr3t", "The value does not fit."),
        ] {
            assert_eq!(without_value(message), expected, "{message}");
        }
    }

    proptest! {
        #[test]
        fn two_spellings_conflict_exactly_when_neither_is_the_default_and_they_differ(a in 0..4_i64, b in 0..4_i64) {
            let mut problems = Vec::new();
            let got = one_of(("a", Some(a)), ("b", Some(b)), Some(&0), &mut problems).map(|(_, value)| value);
            prop_assert_eq!(problems.is_empty(), a == b || a == 0 || b == 0);
            prop_assert_eq!(got, Some(if a == 0 { b } else { a }));
        }
    }
}

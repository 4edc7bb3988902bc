//! OIDC settings in a ConfigMap: one document, or a key for each setting, as ToolHive reads them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skep_api::crd::oidc::{EmbeddedOidc, InlineOidc, config_map_keys, read_config_map};
use skep_api::crd::parse::{CONFLICTING_FIELDS, INVALID_FIELD};
use skep_api::names;
use skep_api::problem::Problem;

use super::findings::Findings;
use super::oidc::{AUTH_INVALID, Authentication, Block, from_inline};
use super::oidc_rules::TENANT;
use super::oidc_settings::resource_url;

const AT: &str = "spec.oidcConfig.configMap";
/// Key of the document when none is said.
const DEFAULT_KEY: &str = "oidc.json";
/// Root of the paths of settings while they are judged; in the object they have none.
const CONTENT: &str = "content";

/// Settings, and the resource URL among them.
type Settings = (InlineOidc, Option<String>);

/// Plans the settings that `oidcConfig.configMap` names.
pub(super) fn plan(embedded: &EmbeddedOidc, findings: &mut Findings<'_>) -> Option<Authentication> {
    let Some(reference) = &embedded.config_map else {
        findings.error(AT, INVALID_FIELD, "`type` is `configMap`, which needs the block `configMap`.");
        return None;
    };
    let (name, key) = (&reference.name, reference.key.as_deref().unwrap_or(DEFAULT_KEY));
    let Some(data) = findings.world.config_maps.get(name) else {
        findings.missing(AT, "OIDCConfigMapNotFound", &format!("The ConfigMap `{name}`"));
        return None;
    };
    let document =
        data.get(key).map(|text| document(text, &format!("`{key}` of the ConfigMap `{name}`"), findings));
    let keys = data
        .contains_key("issuer")
        .then(|| settings(&config_map_keys(data), &format!("The ConfigMap `{name}`"), findings));
    let (mut inline, resource) = match (document, keys) {
        (Some(document), Some(keys)) => {
            let (document, keys) = (document?, keys?);
            if document != keys {
                let message = format!(
                    "The ConfigMap `{name}` has settings in `{key}` and others in keys of their own (`issuer` and so on), and only one can hold. Keep one."
                );
                findings.error(AT, CONFLICTING_FIELDS, message);
                return None;
            }
            document
        }
        (Some(one), None) | (None, Some(one)) => one?,
        (None, None) => {
            let what = format!("The key `{key}` of the ConfigMap `{name}`");
            findings.missing(AT, "OIDCConfigMapNotFound", &what);
            return None;
        }
    };
    let content = Content::of(name, &inline, resource.as_deref());
    if reference.ca_bundle_ref.is_some() {
        inline.ca_bundle_ref.clone_from(&reference.ca_bundle_ref);
    }
    let before = findings.problems.len();
    let mut planned = from_inline(&inline, &Block::of(CONTENT.to_owned(), false), findings);
    resource_url(resource.as_deref(), &format!("{CONTENT}.resourceUrl"), &mut planned, findings);
    for problem in findings.problems.iter_mut().skip(before) {
        content.settle(problem);
    }
    Some(planned)
}

/// What a ConfigMap says. Whoever names one need not be allowed to read it, so no message repeats a value of it:
/// only the names of fields, and of objects that they refer to.
struct Content<'a> {
    config_map: &'a str,
    values: BTreeSet<String>,
}

impl<'a> Content<'a> {
    fn of(config_map: &'a str, inline: &InlineOidc, resource: Option<&str>) -> Self {
        let mut values = BTreeSet::new();
        collect(&serde_json::to_value(inline).unwrap_or_default(), false, &mut values);
        values.extend(resource.map(ToOwned::to_owned));
        let escaped: Vec<String> = values.iter().map(|value| value.escape_debug().to_string()).collect();
        values.extend(escaped);
        // Parts of an issuer come back with a tenant between them.
        let parts: Vec<String> =
            values.iter().flat_map(|value| value.split(TENANT)).map(ToOwned::to_owned).collect();
        values.extend(parts);
        values.remove("");
        Self { config_map, values }
    }

    /// Gives a problem the path that it has in the object, and takes values out of its message.
    fn settle(&self, problem: &mut Problem) {
        let field = problem.path.strip_prefix(CONTENT).and_then(|rest| rest.strip_prefix('.'));
        let mut message = self.without_values(&problem.message);
        if let Some(field) = field {
            message = format!("`{}` in the ConfigMap `{}`: {message}", without_keys(field), self.config_map);
        }
        if problem.path.starts_with(CONTENT) {
            AT.clone_into(&mut problem.path);
        }
        problem.message = message;
    }

    /// A message with `…` for each value that it quotes.
    fn without_values(&self, message: &str) -> String {
        let mut message = message.to_owned();
        // They would not be seen as what stands between two quotes.
        for value in self.values.iter().filter(|value| value.contains('`')) {
            message = message.replace(value.as_str(), "…");
        }
        let quoted = |part: &str| {
            self.values
                .iter()
                .any(|value| part == value || (value.len() > 2 && part.contains(value.as_str())))
        };
        let parts = message.split('`').enumerate();
        let kept: Vec<&str> =
            parts.map(|(index, part)| if index % 2 == 1 && quoted(part) { "…" } else { part }).collect();
        kept.join("`")
    }
}

/// The path of a field without the keys of a free map, which are content.
fn without_keys(field: &str) -> String {
    match field.split_once("scopeMap.") {
        Some((before, _)) => format!("{before}scopeMap"),
        None => field.to_owned(),
    }
}

/// Every text of a value. What names another object is told: who may read it is asked.
fn collect(value: &Value, reference: bool, into: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if reference && names::is_dns_subdomain(text) => {}
        Value::String(text) => {
            into.insert(text.clone());
        }
        Value::Array(list) => list.iter().for_each(|one| collect(one, reference, into)),
        Value::Object(map) => {
            for (key, one) in map {
                if key == "scopeMap" {
                    into.extend(one.as_object().into_iter().flatten().map(|(asked, _)| asked.clone()));
                }
                collect(one, reference || key.ends_with("Ref"), into);
            }
        }
        _ => {}
    }
}

/// All settings that a ConfigMap holds, whether they can be used or not.
pub(super) fn written(key: Option<&str>, data: &BTreeMap<String, String>) -> Vec<InlineOidc> {
    let document = data.get(key.unwrap_or(DEFAULT_KEY)).and_then(|text| skep_api::yaml::single(text).ok());
    let keys = data.contains_key("issuer").then(|| config_map_keys(data));
    let values = document.map(|document| document.value).into_iter().chain(keys);
    values.filter_map(|value| Some(read_config_map(&value, "", &mut Vec::new())?.0)).collect()
}

fn document(text: &str, what: &str, findings: &mut Findings<'_>) -> Option<Settings> {
    match skep_api::yaml::single(text) {
        Ok(document) => settings(&document.value, what, findings),
        Err(error) => {
            let (line, column) = (error.line, error.column);
            findings.error(
                AT,
                AUTH_INVALID,
                format!("{what} is not JSON or YAML (line {line}, column {column})."),
            );
            None
        }
    }
}

fn settings(value: &Value, what: &str, findings: &mut Findings<'_>) -> Option<Settings> {
    let mut problems = Vec::new();
    let read = read_config_map(value, "", &mut problems);
    for problem in problems {
        let mut text = problem.message;
        if !problem.path.is_empty() {
            text = format!("`{}` in it: {text}", problem.path);
        }
        findings.error(AT, AUTH_INVALID, format!("{what} is not valid. {text}"));
    }
    read
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_message_repeats_a_value_of_a_config_map() {
        let secret = "hunter2";
        let inline: InlineOidc = serde_json::from_value(json!({
            "issuer": format!("https://{secret}/{TENANT}"), "tenants": ["a"], "audience": "x`hunter2`y",
            "requiredScopes": ["as"], "scopeMap": {"hunter2 key": "v"},
            "clientSecretRef": {"name": "told", "key": "told-too"}, "caBundleRef": {"configMapRef": {"name": "No name"}},
        }))
        .unwrap();
        let content = Content::of("login", &inline, Some("ftp://hunter2"));
        for (path, message, expected) in [
            (
                "content.issuer",
                "`https://hunter2/{tenantid}` is wrong.",
                "`issuer` in the ConfigMap `login`: `…` is wrong.",
            ),
            (
                "content.a[0].b",
                "The issuer `https://hunter2/a` is twice.",
                "`a[0].b` in the ConfigMap `login`: The issuer `…` is twice.",
            ),
            ("content.x", "`x`hunter2`y` or `tenants`.", "`x` in the ConfigMap `login`: `…` or `tenants`."),
            (
                "content.y",
                "`as` has no blanks as yet.",
                "`y` in the ConfigMap `login`: `…` has no blanks as yet.",
            ),
            (
                "content.scopeMap.hunter2 key",
                "`hunter2 key: v` is none.",
                "`scopeMap` in the ConfigMap `login`: `…` is none.",
            ),
            (
                "content.z",
                "The key `told-too` of the Secret `told`.",
                "`z` in the ConfigMap `login`: The key `told-too` of the Secret `told`.",
            ),
            ("content.z", "`No name` and `ftp://hunter2`", "`z` in the ConfigMap `login`: `…` and `…`"),
            ("content", "All of it.", "All of it."),
        ] {
            let mut problem = Problem::error(path, AUTH_INVALID, message);
            content.settle(&mut problem);
            assert_eq!((problem.path.as_str(), problem.message.as_str()), (AT, expected));
        }
    }
}

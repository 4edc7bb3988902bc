//! OIDC settings in a ConfigMap: one document, or a key for each setting, as ToolHive reads them.

use std::collections::BTreeMap;

use skep_api::crd::oidc::{EmbeddedOidc, InlineOidc, config_map_keys, read_config_map};
use skep_api::crd::parse::{CONFLICTING_FIELDS, INVALID_FIELD};

use super::findings::Findings;
use super::oidc::{AUTH_INVALID, Authentication, Block, from_inline};
use super::oidc_settings::resource_url;

const AT: &str = "spec.oidcConfig.configMap";
/// Key of the document when none is said.
const DEFAULT_KEY: &str = "oidc.json";

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
    if reference.ca_bundle_ref.is_some() {
        inline.ca_bundle_ref.clone_from(&reference.ca_bundle_ref);
    }
    let mut planned = from_inline(&inline, &Block::of(AT.to_owned(), true), findings);
    resource_url(resource.as_deref(), AT, &mut planned, findings);
    Some(planned)
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
            findings.error(AT, AUTH_INVALID, format!("{what} is not JSON or YAML: {error}."));
            None
        }
    }
}

fn settings(value: &serde_json::Value, what: &str, findings: &mut Findings<'_>) -> Option<Settings> {
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

//! Who may call what: from any of the places where it can be written to `authz_config`.

use std::collections::BTreeMap;
use std::str::FromStr;

use cedar_policy::{Entities, PolicySet};
use miette::Diagnostic;
use serde_json::Value;
use skep_api::crd::authz::{AuthzConfigSpec, EmbeddedAuthz, EmbeddedAuthzSource};
use skep_api::crd::parse::{CONFLICTING_FIELDS, INVALID_FIELD, join, typed};
use skep_api::crd::{Kind, Spec};
use skep_api::runconfig::{AuthzConfig, CedarConfig};

use super::findings::{AUTHZ_REF, Findings};

/// Reason of policies or entities that do not parse.
pub(super) const SYNTAX_INVALID: &str = "AuthzPolicySyntaxInvalid";
const CONFIG_MAP_NOT_FOUND: &str = "AuthzConfigMapNotFound";
const CONFIG_MAP_INVALID: &str = "AuthzConfigMapInvalid";
/// Key of an authorization document in its ConfigMap.
pub(super) const FILE_NAME: &str = "authz.json";
const VERSION: &str = "1.0";
const CEDAR: &str = "cedarv1";
const HTTP: &str = "httpv1";

/// What follows from an authorization config.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Authorization {
    pub(super) config: AuthzConfig,
    /// ConfigMap that holds the document, and its key; none for a shared config.
    pub(super) config_map: Option<(String, String)>,
    /// The document was written into the workload, so its ConfigMap has to be made.
    pub(super) inline: bool,
}

/// Plans authorization. `None` when nothing is written, or when it is wrong.
pub(super) fn plan(
    name: &str,
    embedded: Option<&EmbeddedAuthz>,
    reference: Option<&str>,
    findings: &mut Findings<'_>,
) -> Option<Authorization> {
    match (embedded, reference) {
        (Some(_), Some(_)) => {
            findings.error(
                "spec.authzConfigRef",
                CONFLICTING_FIELDS,
                "`authzConfig` and `authzConfigRef` are both given. Keep one.",
            );
            None
        }
        (Some(embedded), None) => from_embedded(name, embedded, findings),
        (None, Some(reference)) => from_reference(reference, findings),
        (None, None) => None,
    }
}

fn from_reference(name: &str, findings: &mut Findings<'_>) -> Option<Authorization> {
    let object = findings.config(Kind::MCPAuthzConfig, name, "spec.authzConfigRef.name", AUTHZ_REF)?;
    let Spec::AuthzConfig(spec) = &object.spec else { return None };
    let config = from_spec(spec, findings)?;
    no_upstream(&config, "spec.authzConfigRef", findings);
    Some(Authorization { config, config_map: None, inline: false })
}

/// Plans a shared config.
pub(super) fn from_spec(spec: &AuthzConfigSpec, findings: &mut Findings<'_>) -> Option<AuthzConfig> {
    match spec.kind.as_str() {
        CEDAR => {
            let cedar: CedarConfig = match typed(&spec.config).value {
                Ok(cedar) => cedar,
                Err(misfit) => {
                    findings.error(join("spec.config", &misfit.path), INVALID_FIELD, misfit.message);
                    return None;
                }
            };
            check_cedar(
                &cedar,
                &At {
                    policies: "spec.config.policies",
                    entities: "spec.config.entities_json",
                    elsewhere: false,
                },
                findings,
            );
            Some(document(cedar))
        }
        HTTP => {
            not_supported("spec.type", findings);
            None
        }
        other => {
            findings.error(
                "spec.type",
                INVALID_FIELD,
                format!("`{other}` is not a kind of authorization; `{CEDAR}` is."),
            );
            None
        }
    }
}

fn not_supported(path: &str, findings: &mut Findings<'_>) {
    findings.error(path, "NotSupported", format!("This version does not run `{HTTP}` yet; use `{CEDAR}`."));
}

fn from_embedded(name: &str, embedded: &EmbeddedAuthz, findings: &mut Findings<'_>) -> Option<Authorization> {
    let at = "spec.authzConfig";
    let kind = embedded.kind.unwrap_or_default();
    for (block, there, wanted) in [
        ("inline", embedded.inline.is_some(), EmbeddedAuthzSource::Inline),
        ("configMap", embedded.config_map.is_some(), EmbeddedAuthzSource::ConfigMap),
    ] {
        if there != (wanted == kind) {
            // An API server fills the type in, so that one that is missing can't be told from one that is said.
            let message = match (there, kind) {
                (true, EmbeddedAuthzSource::ConfigMap) => format!(
                    "`type` is `configMap`, which it also is when nothing is said, so this block has no meaning. Remove it, or say `type: {block}`."
                ),
                (true, EmbeddedAuthzSource::Inline) => {
                    "`type` names another block, so this one has no meaning. Remove it, or change `type`."
                        .to_owned()
                }
                (false, _) => format!("`type` is `{block}`, which needs the block `{block}`."),
            };
            findings.error(
                format!("{at}.{block}"),
                if there { CONFLICTING_FIELDS } else { INVALID_FIELD },
                message,
            );
            return None;
        }
    }
    let mut planned = match (&embedded.inline, &embedded.config_map) {
        (Some(inline), _) => {
            let cedar = CedarConfig {
                policies: inline.policies.clone(),
                entities_json: inline
                    .entities_json
                    .clone()
                    .filter(|text| !text.trim().is_empty())
                    .unwrap_or_else(|| "[]".to_owned()),
                primary_upstream_provider: inline.primary_upstream_provider.clone().unwrap_or_default(),
                ..CedarConfig::default()
            };
            check_cedar(
                &cedar,
                &At {
                    policies: "spec.authzConfig.inline.policies",
                    entities: "spec.authzConfig.inline.entitiesJson",
                    elsewhere: false,
                },
                findings,
            );
            let config_map = (skep_api::names::inline_authz(name), FILE_NAME.to_owned());
            Authorization { config: document(cedar), config_map: Some(config_map), inline: true }
        }
        (None, Some(reference)) => {
            let key = reference.key.clone().unwrap_or_else(|| FILE_NAME.to_owned());
            let config = from_config_map(&reference.name, &key, findings)?;
            Authorization { config, config_map: Some((reference.name.clone(), key)), inline: false }
        }
        (None, None) => return None,
    };
    if let Some(cedar) = &mut planned.config.cedar {
        for (field, value) in [
            (&mut cedar.group_claim_name, &embedded.group_claim_name),
            (&mut cedar.role_claim_name, &embedded.role_claim_name),
            (&mut cedar.group_entity_type, &embedded.group_entity_type),
        ] {
            if let Some(value) = value {
                field.clone_from(value);
            }
        }
        let elsewhere = embedded.group_entity_type.is_none() && !planned.inline;
        check_entity_type(&cedar.group_entity_type, &format!("{at}.groupEntityType"), elsewhere, findings);
    }
    let path = if planned.inline { "inline.primaryUpstreamProvider" } else { "configMap" };
    no_upstream(&planned.config, &format!("{at}.{path}"), findings);
    Some(planned)
}

/// An upstream provider belongs to an embedded authorization server, and there is none.
fn no_upstream(config: &AuthzConfig, path: &str, findings: &mut Findings<'_>) {
    if config.cedar.as_ref().is_none_or(|cedar| cedar.primary_upstream_provider.is_empty()) {
        return;
    }
    findings.warning(
        path,
        "PrimaryUpstreamProviderIgnored",
        "There is no embedded authorization server, so there is no upstream provider to choose.",
    );
    findings.holds(
        "AuthzPrimaryUpstreamProviderIgnored",
        "PrimaryUpstreamProviderIgnored",
        "There is no embedded authorization server.",
    );
}

/// Reads the document of a ConfigMap. Whoever names one need not be allowed to read it, so no message repeats
/// anything of its content but the names of fields.
fn from_config_map(name: &str, key: &str, findings: &mut Findings<'_>) -> Option<AuthzConfig> {
    let at = "spec.authzConfig.configMap";
    let Some(data) = findings.world.config_maps.get(name) else {
        findings.missing(at, CONFIG_MAP_NOT_FOUND, &format!("The ConfigMap `{name}`"));
        return None;
    };
    let Some(text) = data.get(key) else {
        findings.missing(at, CONFIG_MAP_NOT_FOUND, &format!("The key `{key}` of the ConfigMap `{name}`"));
        return None;
    };
    let value = match skep_api::yaml::single(text) {
        Ok(document) => document.value,
        Err(error) => {
            findings.error(
                at,
                CONFIG_MAP_INVALID,
                format!(
                    "`{key}` of the ConfigMap `{name}` is not JSON or YAML (line {}, column {}).",
                    error.line, error.column
                ),
            );
            return None;
        }
    };
    if value.get("type").and_then(Value::as_str) == Some(HTTP) {
        not_supported(at, findings);
        return None;
    }
    let config: AuthzConfig = match typed(&value).value {
        Ok(config) => config,
        Err(misfit) => {
            findings.error(
                at,
                CONFIG_MAP_INVALID,
                format!(
                    "`{key}` of the ConfigMap `{name}` is not an authorization document: `{}`: {}",
                    misfit.path, misfit.message
                ),
            );
            return None;
        }
    };
    if config.version != VERSION || config.kind != CEDAR {
        findings.error(
            at,
            CONFIG_MAP_INVALID,
            format!("`{key}` of the ConfigMap `{name}` has to have version `{VERSION}` and type `{CEDAR}`."),
        );
        return None;
    }
    match &config.cedar {
        Some(cedar) => check_cedar(cedar, &At { policies: at, entities: at, elsewhere: true }, findings),
        None => findings.error(
            at,
            CONFIG_MAP_INVALID,
            format!("`{key}` of the ConfigMap `{name}` has no `cedar` block."),
        ),
    }
    Some(config)
}

fn document(cedar: CedarConfig) -> AuthzConfig {
    AuthzConfig { version: VERSION.to_owned(), kind: CEDAR.to_owned(), cedar: Some(cedar), pdp: None }
}

/// Paths of policies and entities.
struct At<'s> {
    policies: &'s str,
    entities: &'s str,
    /// They are not in this object, so messages don't repeat them.
    elsewhere: bool,
}

fn check_cedar(cedar: &CedarConfig, at: &At<'_>, findings: &mut Findings<'_>) {
    if cedar.policies.is_empty() {
        findings.error(
            at.policies,
            SYNTAX_INVALID,
            "There is no policy, so nobody may do anything. Write at least one.",
        );
    }
    let mut permits = false;
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, text) in cedar.policies.iter().enumerate() {
        let path = if at.elsewhere { at.policies.to_owned() } else { format!("{}[{index}]", at.policies) };
        match PolicySet::from_str(text) {
            Ok(set) => {
                if set.templates().next().is_some() {
                    findings.error(&path, SYNTAX_INVALID, format!("Policy {index} is a template (it has a slot such as `?principal`), which is never linked and so never applies."));
                } else if set.policies().next().is_none() {
                    findings.error(
                        &path,
                        SYNTAX_INVALID,
                        format!("Policy {index} holds no policy, only blanks or comments."),
                    );
                }
                permits |= set.policies().any(|policy| policy.effect() == cedar_policy::Effect::Permit);
                if let Some(first) = seen.insert(text.trim(), index) {
                    findings.warning(
                        &path,
                        "DuplicateEntry",
                        format!("Policy {index} is the same as policy {first}."),
                    );
                }
            }
            Err(error) => {
                let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
                let line = offset
                    .and_then(|offset| text.get(..offset))
                    .map(|before| before.matches('\n').count() + 1);
                let place = line.map(|line| format!(", line {line}")).unwrap_or_default();
                let message = if at.elsewhere {
                    format!("Policy {index}{place}: This is not Cedar.")
                } else {
                    format!("Policy {index}{place}: {error}.")
                };
                findings.error(&path, SYNTAX_INVALID, message);
            }
        }
    }
    if !permits && !cedar.policies.is_empty() && !findings.has_errors() {
        findings.warning(
            at.policies,
            "AuthzDeniesEverything",
            "No policy permits anything, so every call is refused.",
        );
    }
    if !cedar.entities_json.trim().is_empty()
        && let Err(error) = Entities::from_json_str(&cedar.entities_json, None)
    {
        let message = if at.elsewhere {
            "The entities are not Cedar's JSON.".to_owned()
        } else {
            format!("The entities are not Cedar's JSON: {}.", chain(&error))
        };
        findings.error(at.entities, SYNTAX_INVALID, message);
    }
}

/// `elsewhere`: it is of a ConfigMap.
fn check_entity_type(name: &str, path: &str, elsewhere: bool, findings: &mut Findings<'_>) {
    if name.is_empty() || cedar_policy::EntityTypeName::from_str(name).is_ok() {
        return;
    }
    let message = if elsewhere {
        "What the ConfigMap says in `group_entity_type` is not the name of a Cedar entity type.".to_owned()
    } else {
        format!("`{name}` is not the name of a Cedar entity type.")
    };
    findings.error(path, INVALID_FIELD, message);
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text
}

//! When a proxy that runs with an earlier configuration has to stop letting calls through.

use serde_json::{Map, Value};
use skep_api::crd::Object;
use skep_api::problem::Problem;
use skep_api::runconfig::RunConfig;

use super::{Planned, World};

/// Reasons of errors after which an earlier configuration must not go on: callers have to be judged and are
/// not, or what judges them, or the credential they use, is gone.
const REASONS: [&str; 6] = [
    "AuthRequired",
    "OIDCConfigRefNotFound",
    "OIDCConfigMapNotFound",
    "AuthzConfigRefNotFound",
    "AuthzConfigMapNotFound",
    "ExternalAuthConfigNotFound",
];

/// The sentence for [`super::Planned::suspend`]. A spec that is wrong in another way leaves the last good
/// configuration running.
pub(super) fn reason(object: &Object, problems: &[Problem]) -> Option<String> {
    if !object.kind.is_workload() {
        return None;
    }
    let problem =
        problems.iter().find(|problem| problem.is_error() && REASONS.contains(&problem.reason.as_str()))?;
    Some(format!("{}: {}", problem.path, problem.message))
}

/// The sentence for [`Planned::suspend_if_open`]. Whatever else is wrong must not keep a proxy open that has to
/// be closed here: an object that is refused for two reasons may say only the other one.
pub(super) fn reason_if_open(object: &Object, world: &World, planned: &Planned) -> Option<String> {
    if !object.kind.is_workload() || planned.plan.is_some() || !world.requires_auth() {
        return None;
    }
    let why = planned.problems.iter().find(|problem| problem.is_error()).map_or_else(
        || "what the object refers to is not known.".to_owned(),
        |problem| format!("{}: {}", problem.path, problem.message),
    );
    Some(format!(
        "Callers need a token in this namespace, the proxy runs without asking for one, and the object can't be used as it is: {why}"
    ))
}

/// True when a runconfig.json does not say how callers' tokens are judged, or can't be read.
pub fn is_open(run_config: &str) -> bool {
    let read: Option<Value> = serde_json::from_str(run_config).ok();
    let oidc = read.as_ref().and_then(|config| config.get("oidc_config"));
    oidc.and_then(Value::as_object).is_none_or(Map::is_empty)
}

/// The same runconfig.json with `skep.suspended` set, so that the proxy answers every call with 503. `None`
/// when the text is no RunConfig at all. Keys of other versions are kept.
pub fn suspended(run_config: &str, reason: &str) -> Option<String> {
    if let Ok(mut config) = serde_json::from_str::<RunConfig>(run_config) {
        reason.clone_into(&mut config.skep.suspended);
        return Some(config.to_json());
    }
    let mut value: Value = serde_json::from_str(run_config).ok()?;
    let own = value.as_object_mut()?.entry("skep").or_insert_with(|| Value::Object(Map::new()));
    own.as_object_mut()?.insert("suspended".to_owned(), reason.into());
    let mut text = serde_json::to_string_pretty(&value).ok()?;
    text.push('\n');
    Some(text)
}

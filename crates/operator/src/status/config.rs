//! Status of the kinds that make no objects: configs and entries of a catalogue.

use jiff::Timestamp;
use serde_json::{Value, json};
use skep_api::condition::{Condition, ConditionStatus};
use skep_api::crd::external_auth::ExternalAuth;
use skep_api::crd::status::ReferencingWorkload;
use skep_api::crd::{Object, Spec};

use super::conditions::{DELETION_BLOCKED, IDENTITY_SYNTHESIZED, Keep, READY, problems};
use super::draft::Draft;
use crate::plan::Planned;

/// Objects that are listed in a status; it has to fit into one object of the API server.
const MAX_LISTED: usize = 2000;
/// Objects that are named in one message.
const MAX_NAMED: usize = 10;

/// The status of a config: an MCPExternalAuthConfig, MCPToolConfig, MCPOIDCConfig, MCPAuthzConfig,
/// MCPTelemetryConfig or MCPWebhookConfig. `referrers` are the objects that refer to it, in any order. Of one
/// that is being deleted nothing new is planned, and what was found before stays.
pub fn config(
    object: &Object,
    planned: &Planned,
    referrers: &[ReferencingWorkload],
    present: &Value,
    now: Timestamp,
) -> Value {
    let mut referrers: Vec<(&str, &str)> =
        referrers.iter().map(|referrer| (referrer.kind.as_str(), referrer.name.as_str())).collect();
    referrers.sort_unstable();
    referrers.dedup();
    let listed = referrers.iter().take(MAX_LISTED).map(|(kind, name)| json!({"kind": kind, "name": name}));
    let listed: Vec<Value> = listed.collect();
    let mut draft = Draft::new(object, present);
    draft.put("referencingWorkloads", (!listed.is_empty()).then_some(listed));
    if object.metadata.is_terminating() {
        let mut found = vec![going()];
        if !referrers.is_empty() {
            found.push(Condition::yes(DELETION_BLOCKED, "ReferencedByWorkloads", blocked(&referrers)));
        }
        draft.conditions(found, Keep::All, now);
        return draft.finish();
    }
    if let Some(hash) = &planned.config_hash {
        draft.set("configHash", hash.as_str());
    }
    let mut found = with_ready(planned);
    found.extend(synthesized(object));
    draft.conditions(found, Keep::Only(&[]), now);
    draft.finish()
}

/// The status of an MCPServerEntry.
pub fn entry(object: &Object, planned: &Planned, present: &Value, now: Timestamp) -> Value {
    let mut draft = Draft::new(object, present);
    if object.metadata.is_terminating() {
        draft.conditions(vec![going()], Keep::All, now);
        return draft.finish();
    }
    let phase = match valid(planned) {
        Some(ConditionStatus::True) => "Valid",
        Some(ConditionStatus::False) => "Failed",
        Some(ConditionStatus::Unknown) | None => "Pending",
    };
    draft.set("phase", phase);
    draft.conditions(with_ready(planned), Keep::Only(&[]), now);
    draft.finish()
}

/// An object that is being deleted is not ready, whatever it was before.
pub(super) fn going() -> Condition {
    Condition::no(READY, "Terminating", "The object is being deleted.")
}

/// The planner's conditions, and `Ready`, which follows `Valid`.
pub(super) fn with_ready(planned: &Planned) -> Vec<Condition> {
    let valid = planned.conditions.iter().find(|condition| condition.kind == "Valid");
    let ready = match valid {
        Some(valid) => Condition {
            kind: READY.to_owned(),
            status: valid.status,
            reason: if valid.status == ConditionStatus::True { "Ready" } else { "NotReady" }.to_owned(),
            message: valid.message.clone(),
        },
        None => Condition {
            kind: READY.to_owned(),
            status: ConditionStatus::Unknown,
            reason: "NotReady".to_owned(),
            message: "The object has not been judged.".to_owned(),
        },
    };
    let others = planned.conditions.iter().filter(|condition| condition.kind != READY).cloned();
    others.chain([ready]).chain(problems(&planned.problems)).collect()
}

fn valid(planned: &Planned) -> Option<ConditionStatus> {
    planned.conditions.iter().find(|condition| condition.kind == "Valid").map(|condition| condition.status)
}

fn blocked(referrers: &[(&str, &str)]) -> String {
    let named: Vec<String> =
        referrers.iter().take(MAX_NAMED).map(|(kind, name)| format!("{kind} `{name}`")).collect();
    let more = match referrers.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("It cannot be deleted while these refer to it: {}{more}.", named.join(", "))
}

/// Whether users of an embedded authorization server get an identity that is made up, because a provider
/// says nothing of who they are. Only providers without a discovery document can be so.
fn synthesized(object: &Object) -> Option<Condition> {
    let Spec::ExternalAuth(config) = &object.spec else { return None };
    let ExternalAuth::EmbeddedAuthServer(server) = &**config else { return None };
    let without: Vec<String> = server
        .upstream_providers
        .iter()
        .filter(|provider| {
            provider.oauth2_config.as_ref().is_some_and(|provider| {
                provider.user_info.is_none() && provider.identity_from_token.is_none()
            })
        })
        .map(|provider| format!("`{}`", provider.name))
        .take(MAX_NAMED)
        .collect();
    Some(if without.is_empty() {
        let message = "Every identity provider says who the user is.";
        Condition::no(IDENTITY_SYNTHESIZED, "AllUpstreamsHaveUserInfo", message)
    } else {
        let message = format!(
            "These providers have neither `userInfo` nor `identityFromToken`, so their users get a made-up identity: {}.",
            without.join(", ")
        );
        Condition::yes(IDENTITY_SYNTHESIZED, "OAuth2UpstreamWithoutUserInfo", message)
    })
}

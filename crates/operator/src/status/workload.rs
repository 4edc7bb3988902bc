//! Status of MCPServer and MCPRemoteProxy.

use jiff::Timestamp;
use serde_json::Value;
use skep_api::condition::{Condition, ConditionStatus};
use skep_api::crd::{Kind, Object, Spec};
use skep_api::problem::Problem;

use super::conditions::{BACKEND_ISOLATED, Keep, MAX_MESSAGE, OBJECT_CONFLICT, READY, problems};
use super::draft::Draft;
use super::measured;
use super::phase::{Progress, ready_replicas};
use crate::observe::{ClientRegistration, Observed, shown};
use crate::plan::{PREREQUISITES_MET, Planned, SIDECARS_READY};

/// Fields that hold the hash of a config, of either kind of workload.
const HASHES: [&str; 7] = [
    "toolConfigHash",
    "telemetryConfigHash",
    "externalAuthConfigHash",
    "authServerConfigHash",
    "oidcConfigHash",
    "authzConfigHash",
    "webhookConfigHash",
];
/// Objects of others that are named in one message.
const MAX_CONFLICTS: usize = 5;

/// Where a workload stands: the phase, a sentence, and the reason of `Ready` when it is not.
struct Standing {
    phase: &'static str,
    message: String,
    ready: Condition,
}

/// The status of a workload. `present` is its status now, `null` when it has none; fields and conditions
/// that are not ours are kept.
pub fn workload(
    object: &Object,
    planned: &Planned,
    observed: &Observed,
    present: &Value,
    now: Timestamp,
) -> Value {
    let mut draft = Draft::new(object, present);
    let standing = standing(object, planned, observed);
    draft.set("phase", standing.phase);
    draft.set("message", shown(&standing.message, MAX_MESSAGE));
    if object.metadata.is_terminating() {
        // Nothing is judged any more, and what was found last may help whoever waits for the end.
        draft.conditions(vec![standing.ready], Keep::All, now);
        return draft.finish();
    }
    if let Some(workload) = planned.plan.as_ref().and_then(|plan| plan.workload.as_ref()) {
        draft.set("url", workload.url.as_str());
    }
    if object.kind == Kind::MCPServer {
        draft.set("readyReplicas", ready_replicas(observed));
    }
    if object.spec != Spec::Unreadable {
        for field in HASHES {
            draft.put(field, planned.hashes.get(field).map(String::as_str));
        }
    }

    let mut found = vec![standing.ready];
    found.extend(planned.conditions.iter().filter(|condition| condition.kind != READY).cloned());
    let mut keep: Vec<&str> = Vec::new();
    if !registration(&mut found, observed.registration.as_ref(), present) {
        keep.push(SIDECARS_READY);
    }
    found.extend(problems(&planned.problems));
    found.extend(conflict(observed));
    found.extend(isolation(object.kind, planned, observed));
    let measured = measured::conditions(object.kind, planned, observed);
    // Where the planner has its say, it has the last word.
    for condition in measured.conditions {
        if !found.iter().any(|other| other.kind == condition.kind) {
            found.push(condition);
        }
    }
    if object.kind == Kind::MCPRemoteProxy {
        draft.put("remoteReachable", measured.remote_reachable);
        draft.put("tokenExchangeReady", measured.token_exchange_ready);
    }
    // Without a plan there is nothing new to apply, so what was applied last is still there.
    if planned.plan.is_none() {
        keep.push(BACKEND_ISOLATED);
    }
    draft.conditions(found, Keep::Only(&keep), now);

    // A probe that found the same again is no reason to write.
    if object.kind == Kind::MCPRemoteProxy
        && !draft.changes_nothing()
        && let Some(checked) = measured.checked
    {
        draft.set("lastHealthCheck", super::conditions::seconds(checked.min(now)));
    }
    draft.finish()
}

fn standing(object: &Object, planned: &Planned, observed: &Observed) -> Standing {
    let kind = object.kind;
    let progress = Progress::of(kind, observed);
    let runs = matches!(progress, Progress::Ready(_));
    let not_ready = |phase, reason: &str, message: String| Standing {
        phase,
        ready: Condition::no(READY, reason, message.clone()),
        message,
    };
    if object.metadata.is_terminating() {
        return not_ready("Terminating", "Terminating", "The object is being deleted.".to_owned());
    }
    // What is wrong with the object itself comes first: no waiting helps.
    if let Some(cause) = errors(&planned.problems) {
        // What the proxies say counts, not what they were told.
        let running = match (measured::suspended(observed), &planned.suspend) {
            _ if !runs => "",
            (Some(_), _) => " The proxy answers every call with 503 until then.",
            (None, Some(_)) => " The proxy has been told to answer every call with 503 until then.",
            (None, None) => " The last good configuration still runs.",
        };
        return not_ready("Failed", "NotReady", format!("{cause}{running}"));
    }
    if !observed.conflicts.is_empty() {
        return not_ready("Failed", OBJECT_CONFLICT, conflict_message(&observed.conflicts));
    }
    if let Some(failure) = &observed.apply_error {
        let running = if runs { "; the last version that it took still runs" } else { "" };
        let message = format!("{} is not accepted by the API server: {}{running}", failure.what, failure.why);
        return not_ready("Failed", "ApplyFailed", message);
    }
    if let Some(reason) = planned.suspend.clone().or_else(|| measured::suspended(observed)) {
        let message = format!("Every call is answered with 503: {reason}");
        return not_ready("Failed", "Suspended", message);
    }
    let (yes, no) = match kind {
        Kind::MCPServer => ("Ready", "NotReady"),
        _ => ("DeploymentReady", "DeploymentNotReady"),
    };
    let message = progress.message(kind);
    Standing {
        phase: progress.phase(kind),
        ready: if runs {
            Condition::yes(READY, yes, message.clone())
        } else {
            Condition::no(READY, no, message.clone())
        },
        message,
    }
}

/// The first error, and how many there are besides.
fn errors(problems: &[Problem]) -> Option<String> {
    let mut errors = problems.iter().filter(|problem| problem.is_error());
    let first = errors.next()?;
    let more = match errors.count() {
        0 => String::new(),
        1 => " (And one more problem.)".to_owned(),
        more => format!(" (And {more} more problems.)"),
    };
    Some(format!("{}: {}{more}", first.path, first.message))
}

fn conflict(observed: &Observed) -> Option<Condition> {
    (!observed.conflicts.is_empty()).then(|| {
        Condition::yes(OBJECT_CONFLICT, "OwnedBySomebodyElse", conflict_message(&observed.conflicts))
    })
}

fn conflict_message(conflicts: &[String]) -> String {
    let mut sorted: Vec<&str> = conflicts.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted.dedup();
    let more = match sorted.len().saturating_sub(MAX_CONFLICTS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    sorted.truncate(MAX_CONFLICTS);
    format!("{}{more}: not ours, so not touched. Delete it or rename this object.", sorted.join(", "))
}

/// Adds to what the planner says of sidecars what became of the client's registration. False when that is not
/// known yet and the condition of before stays: a new process has not found out what the last one knew.
fn registration(
    found: &mut Vec<Condition>,
    registration: Option<&ClientRegistration>,
    present: &Value,
) -> bool {
    let Some(registration) = registration else { return true };
    let Some(index) = found.iter().position(|condition| condition.kind == SIDECARS_READY) else {
        return true;
    };
    let pending = *registration == ClientRegistration::Pending;
    let Some(condition) = found.get_mut(index) else { return true };
    if condition.reason != PREREQUISITES_MET {
        if let ClientRegistration::Failed { why } = registration {
            condition.message = format!("{} And the client is not registered: {why}", condition.message);
        }
        return true;
    }
    let mut present = present.get("conditions").and_then(Value::as_array).into_iter().flatten();
    if pending && present.any(|other| other.get("type").and_then(Value::as_str) == Some(SIDECARS_READY)) {
        found.remove(index);
        return false;
    }
    match registration {
        ClientRegistration::NotConfigured => {
            let message = "The client's registration is left to the operator, which was not told how to register clients. Give it --keycloak-url, --keycloak-realm, --keycloak-credentials and --spiffe-trust-domain, or have a sidecar register.";
            *condition = Condition::no(SIDECARS_READY, "RegistrationNotConfigured", message);
        }
        ClientRegistration::Pending => {
            *condition = Condition {
                kind: SIDECARS_READY.to_owned(),
                status: ConditionStatus::Unknown,
                reason: "RegistrationPending".to_owned(),
                message: "The client is being registered.".to_owned(),
            };
        }
        ClientRegistration::Failed { why } => {
            let message = format!("The client is not registered: {why}");
            *condition = Condition::no(SIDECARS_READY, "RegistrationFailed", message);
        }
        ClientRegistration::Done { warnings } => {
            for warning in warnings {
                condition.message.push(' ');
                condition.message.push_str(warning);
            }
        }
    }
    true
}

/// A NetworkPolicy is only as good as the network that enforces it, and no API says whether it does.
fn isolation(kind: Kind, planned: &Planned, observed: &Observed) -> Option<Condition> {
    let plan = planned.plan.as_ref().filter(|_| kind == Kind::MCPServer)?;
    let is_policy = |object: &&Value| object.get("kind").and_then(Value::as_str) == Some("NetworkPolicy");
    let policy = plan.objects.iter().find(is_policy)?;
    let name = policy.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let (reason, message) = if observed.apply_error.is_some() || !observed.conflicts.is_empty() {
        ("NotApplied", format!("The NetworkPolicy `{name}` may not be in place yet."))
    } else {
        (
            "EnforcementUnknown",
            format!(
                "The NetworkPolicy `{name}` lets only the proxy reach the MCP server; whether the cluster's network enforces it cannot be told."
            ),
        )
    };
    Some(Condition {
        kind: BACKEND_ISOLATED.to_owned(),
        status: ConditionStatus::Unknown,
        reason: reason.to_owned(),
        message,
    })
}

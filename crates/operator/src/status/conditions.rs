//! The list of conditions: what stays, what changes, and which changes are worth an event.

use jiff::Timestamp;
use serde_json::{Map, Value};
use skep_api::condition::{Condition, ConditionStatus};
use skep_api::problem::Problem;

use crate::observe::shown;
use crate::plan::SIDECARS_READY;

/// The condition that every kind has, for `kubectl wait --for=condition=Ready`.
pub const READY: &str = "Ready";
/// An object of a needed name belongs to somebody else.
pub(super) const OBJECT_CONFLICT: &str = "ObjectConflict";
/// A config can't go while something refers to it.
pub(super) const DELETION_BLOCKED: &str = "DeletionBlocked";
/// The remote server answers.
pub(super) const REMOTE_AVAILABLE: &str = "RemoteAvailable";
/// Callers can be known.
pub(super) const AUTH_CONFIGURED: &str = "AuthConfigured";
/// Credentials for the MCP server can be made.
pub(super) const TOKEN_EXCHANGE_READY: &str = "TokenExchangeReady";
/// Nobody but its own proxy reaches the MCP server.
pub(super) const BACKEND_ISOLATED: &str = "BackendIsolated";
/// The proxies run with the newest configuration.
pub(super) const CONFIGURATION_LOADED: &str = "ConfigurationLoaded";
/// Some users of an embedded authorization server get a made-up identity.
pub(super) const IDENTITY_SYNTHESIZED: &str = "IdentitySynthesized";

/// Longest message; the API takes 32768 characters.
pub(super) const MAX_MESSAGE: usize = 4096;
/// Longest reason that we write; the API takes 1024 characters.
const MAX_REASON: usize = 128;

/// Everything that `skep check` would print of the object, one line each; absent when that is nothing. The other
/// conditions say what comes of it.
pub const PROBLEMS: &str = "Problems";

/// Bytes of all lines of [`PROBLEMS`]; the API takes twice as many characters.
const MAX_PROBLEMS: usize = 16 * 1024;

/// Every type that this operator, ToolHive's or the planner writes. One of these that is no longer found is
/// removed; others belong to somebody else and stay.
const OURS: [&str; 31] = [
    READY,
    PROBLEMS,
    OBJECT_CONFLICT,
    DELETION_BLOCKED,
    REMOTE_AVAILABLE,
    AUTH_CONFIGURED,
    TOKEN_EXCHANGE_READY,
    BACKEND_ISOLATED,
    CONFIGURATION_LOADED,
    "Valid",
    "ConfigurationValid",
    "GroupRefValidated",
    "PodTemplateValid",
    "CABundleRefValidated",
    "OIDCConfigRefValidated",
    "AuthzConfigRefValidated",
    "ExternalAuthConfigValidated",
    "WebhookConfigValidated",
    "AuthServerRefValidated",
    "TelemetryConfigRefValidated",
    "ToolConfigValidated",
    "StdioReplicaCapped",
    "SessionStorageWarning",
    "RateLimitConfigValid",
    "AuthzPrimaryUpstreamProviderIgnored",
    IDENTITY_SYNTHESIZED,
    "MCPServersChecked",
    "RemoteURLValidated",
    "HeaderSecretRefsValidated",
    "NamespaceAllowed",
    SIDECARS_READY,
];

/// Types whose `True` is the bad news.
const BAD_WHEN_TRUE: [&str; 7] = [
    PROBLEMS,
    OBJECT_CONFLICT,
    DELETION_BLOCKED,
    "StdioReplicaCapped",
    "SessionStorageWarning",
    "AuthzPrimaryUpstreamProviderIgnored",
    IDENTITY_SYNTHESIZED,
];

/// Types that stop nothing, whatever they say. One of them explains no failure.
const ADVISORY: [&str; 6] = [
    "GroupRefValidated",
    "StdioReplicaCapped",
    "SessionStorageWarning",
    "AuthzPrimaryUpstreamProviderIgnored",
    IDENTITY_SYNTHESIZED,
    SIDECARS_READY,
];

/// Every condition type that this operator writes and removes.
pub fn known_types() -> &'static [&'static str] {
    &OURS
}

/// The condition that lists what was found about an object, errors first.
pub(super) fn problems(found: &[Problem]) -> Option<Condition> {
    let mut sorted: Vec<&Problem> = found.iter().collect();
    sorted.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
    let first = sorted.first()?;
    let mut message = String::new();
    for (index, problem) in sorted.iter().enumerate() {
        let line = shown(&problem.to_string(), MAX_MESSAGE);
        // Room is kept for the last line.
        if message.len() + line.len() + 32 > MAX_PROBLEMS {
            message.push_str(&format!("\nand {} more", sorted.len() - index));
            break;
        }
        if index > 0 {
            message.push('\n');
        }
        message.push_str(&line);
    }
    Some(Condition::yes(PROBLEMS, first.reason.clone(), message))
}

/// Which conditions of ours stay although they were not found this time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keep<'a> {
    /// These.
    Only(&'a [&'a str]),
    /// All: nothing was judged, because the object is going or can't be read.
    All,
}

impl Keep<'_> {
    fn keeps(self, kind: &str) -> bool {
        match self {
            Self::Only(kinds) => kinds.contains(&kind) || !OURS.contains(&kind),
            Self::All => true,
        }
    }
}

/// The new list. Order and times are those of the present list as far as possible: a condition whose status
/// stays keeps the time of its last transition, and a list that says the same is the same.
pub(super) fn merge(
    present: Option<&Value>,
    found: Vec<Condition>,
    keep: Keep<'_>,
    generation: Option<i64>,
    now: Timestamp,
) -> Value {
    let mut found = found;
    let mut seen: Vec<&str> = Vec::new();
    let mut merged = Vec::new();
    for before in present.and_then(Value::as_array).into_iter().flatten() {
        let kind = text(before, "type");
        // Two of one type would be refused by the API server.
        if kind.is_empty() || seen.contains(&kind) {
            continue;
        }
        seen.push(kind);
        match found.iter().position(|condition| condition.kind == kind) {
            Some(index) => {
                let condition = found.remove(index);
                merged.push(written(&condition, Some(before), generation, now));
                found.retain(|other| other.kind != condition.kind);
            }
            None if keep.keeps(kind) => merged.push(before.clone()),
            None => {}
        }
    }
    let mut added: Vec<Condition> = Vec::new();
    for condition in found {
        if !added.iter().any(|other| other.kind == condition.kind) {
            added.push(condition);
        }
    }
    merged.extend(added.iter().map(|condition| written(condition, None, generation, now)));
    Value::Array(merged)
}

fn written(condition: &Condition, before: Option<&Value>, generation: Option<i64>, now: Timestamp) -> Value {
    let status = status_text(condition.status);
    let since = before
        .filter(|before| text(before, "status") == status)
        .map(|before| text(before, "lastTransitionTime"))
        .filter(|since| since.parse::<Timestamp>().is_ok());
    let mut written = Map::new();
    written.insert("type".to_owned(), condition.kind.clone().into());
    written.insert("status".to_owned(), status.into());
    written.insert("reason".to_owned(), reason(&condition.reason).into());
    // The list of problems is the one message of several lines.
    let message = match condition.kind.as_str() {
        PROBLEMS => {
            let lines: Vec<String> = condition.message.lines().map(|line| shown(line, MAX_MESSAGE)).collect();
            lines.join("\n").chars().take(MAX_PROBLEMS).collect()
        }
        _ => shown(&condition.message, MAX_MESSAGE),
    };
    written.insert("message".to_owned(), message.into());
    written.insert("lastTransitionTime".to_owned(), since.map_or_else(|| seconds(now), str::to_owned).into());
    if let Some(generation) = generation {
        written.insert("observedGeneration".to_owned(), generation.into());
    }
    Value::Object(written)
}

/// `metav1.Time`: whole seconds.
pub(super) fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or_default().to_string()
}

fn status_text(status: ConditionStatus) -> &'static str {
    match status {
        ConditionStatus::True => "True",
        ConditionStatus::False => "False",
        ConditionStatus::Unknown => "Unknown",
    }
}

/// A reason as `metav1.Condition` wants it: letters, digits and `_,:`, beginning with a letter.
fn reason(text: &str) -> String {
    let kept: String = text
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ',' | ':'))
        .skip_while(|c| !c.is_ascii_alphabetic())
        .take(MAX_REASON)
        .collect();
    let kept = kept.trim_end_matches([',', ':']);
    if kept.is_empty() { "Unspecified".to_owned() } else { kept.to_owned() }
}

fn text<'a>(condition: &'a Value, field: &str) -> &'a str {
    condition.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A change of a condition that somebody should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Type of the condition.
    pub kind: String,
    /// Its status before; none when there was no such condition.
    pub from: Option<String>,
    /// Its status now.
    pub to: String,
    /// Why.
    pub reason: String,
    /// In words.
    pub message: String,
    /// It is bad news.
    pub warning: bool,
}

/// What changed between two statuses, as far as it is worth an event: a condition that turned bad, that
/// turned good again, or that is bad for another reason. A condition that is new and good is none, and
/// neither is one that waits for a first measurement. `Ready` is left out where another condition tells the
/// same story.
pub fn transitions(before: &Value, after: &Value) -> Vec<Transition> {
    let list = |status: &'_ Value| -> Vec<Value> {
        status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let (old, new) = (list(before), list(after));
    let mut found: Vec<Transition> = Vec::new();
    for condition in &new {
        let kind = text(condition, "type");
        // What is wrong is told by the condition that it makes bad.
        if !OURS.contains(&kind) || kind == PROBLEMS {
            continue;
        }
        let previous = old.iter().find(|other| text(other, "type") == kind);
        let from = previous.map(|previous| text(previous, "status").to_owned());
        let to = text(condition, "status");
        let (was_bad, is_bad) = (from.as_deref().is_some_and(|from| bad(kind, from)), bad(kind, to));
        let reason_changed =
            previous.is_some_and(|previous| text(previous, "reason") != text(condition, "reason"));
        let status_changed = from.as_deref() != Some(to);
        let told = match (status_changed, is_bad) {
            // From not known to good is what everybody expects; from bad to good is news.
            (true, false) => was_bad || (kind == READY && to == "True"),
            (true, true) => true,
            (false, true) => reason_changed,
            (false, false) => false,
        };
        if told {
            found.push(Transition {
                kind: kind.to_owned(),
                from,
                to: to.to_owned(),
                reason: text(condition, "reason").to_owned(),
                message: text(condition, "message").to_owned(),
                warning: is_bad,
            });
        }
    }
    let failed = |status: &Value| status.get("phase").and_then(Value::as_str) == Some("Failed");
    let explained = found.iter().any(|other| other.warning && other.kind != READY && !advisory(other));
    found.retain(|transition| {
        // Something that never was ready and is only starting is no news; and one cause is one event.
        transition.kind != READY
            || !transition.warning
            || (!explained && (transition.from.as_deref() == Some("True") || failed(after)))
    });
    // The reason of `Ready` is often the same for different causes; then the phase tells.
    let fails_now = failed(after) && !failed(before);
    if fails_now && !found.iter().any(|transition| transition.warning && !advisory(transition)) {
        found.extend(new.iter().find(|condition| text(condition, "type") == READY).map(|ready| {
            Transition {
                kind: READY.to_owned(),
                from: old
                    .iter()
                    .find(|other| text(other, "type") == READY)
                    .map(|other| text(other, "status").to_owned()),
                to: text(ready, "status").to_owned(),
                reason: text(ready, "reason").to_owned(),
                message: text(ready, "message").to_owned(),
                warning: true,
            }
        }));
    }
    // What matters most comes first: of several it gives its name to all.
    found.sort_by_key(|transition| (!transition.warning, advisory(transition)));
    found
}

fn advisory(transition: &Transition) -> bool {
    // That everybody may come in is one too: where it may not be, another condition says so.
    ADVISORY.contains(&transition.kind.as_str())
        || (transition.kind == AUTH_CONFIGURED && transition.reason == "Anonymous")
}

fn bad(kind: &str, status: &str) -> bool {
    status == if BAD_WHEN_TRUE.contains(&kind) { "True" } else { "False" }
}

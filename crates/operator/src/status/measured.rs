//! Conditions that are measured: what the proxies say of the parties they talk to. Of several pods the worst
//! counts, and the message says how many of how many say so.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use skep_api::condition::{Condition, ConditionStatus};
use skep_api::crd::Kind;
use skep_api::report::{CredentialReason, IssuerReason, RemoteReason, WorkloadReport};

use super::conditions::{AUTH_CONFIGURED, CONFIGURATION_LOADED, REMOTE_AVAILABLE, TOKEN_EXCHANGE_READY};
use crate::observe::{Observed, PodReport};
use crate::plan::{Plan, Planned};

/// Issuers that are named in one message.
const MAX_NAMED: usize = 3;
/// The reason of a condition that nobody has measured yet.
const NO_REPORT: &str = "NoReport";

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) conditions: Vec<Condition>,
    pub(super) remote_reachable: Option<bool>,
    pub(super) token_exchange_ready: Option<bool>,
    /// When the remote server was last asked, as the pods say.
    pub(super) checked: Option<Timestamp>,
}

/// Everything that follows from the pods' reports.
pub(super) fn conditions(kind: Kind, planned: &Planned, observed: &Observed) -> Measured {
    let reports = said(observed);
    let mut measured = Measured::default();
    if kind == Kind::MCPRemoteProxy {
        let (condition, reachable) = remote(&reports, &observed.reports);
        measured.conditions.push(condition);
        measured.remote_reachable = reachable;
        measured.checked =
            reports.iter().filter_map(|report| report.remote.as_ref()?.checked.parse().ok()).max();
    }
    measured.conditions.extend(issuers(&reports));
    if let Some((condition, ready)) = credential(&reports, planned, &observed.reports) {
        measured.conditions.push(condition);
        measured.token_exchange_ready = ready;
    }
    measured.conditions.extend(loaded(&reports, planned.plan.as_ref()));
    measured
}

/// Why the proxies let no call through, when they say so.
pub(super) fn suspended(observed: &Observed) -> Option<String> {
    said(observed).iter().find_map(|report| report.suspended.clone())
}

fn said(observed: &Observed) -> Vec<&WorkloadReport> {
    observed.reports.iter().filter_map(|report| report.said.as_ref().ok()).collect()
}

fn condition(kind: &str, status: ConditionStatus, reason: &str, message: impl Into<String>) -> Condition {
    Condition { kind: kind.to_owned(), status, reason: reason.to_owned(), message: message.into() }
}

fn no_report(kind: &str, asked: &[PodReport]) -> Condition {
    let failures: Vec<String> =
        asked.iter().filter_map(|report| report.said.as_ref().err().map(ToString::to_string)).collect();
    let message = match failures.iter().min() {
        None => "No proxy pod has reported yet.".to_owned(),
        Some(why) => format!("No proxy pod reports: {why}."),
    };
    condition(kind, ConditionStatus::Unknown, NO_REPORT, message)
}

/// "; 1 of 2 pods say so", where not all do.
fn share(saying: usize, all: usize) -> String {
    match (saying, all) {
        (saying, all) if saying >= all => String::new(),
        (1, all) => format!(" (1 of {all} pods says so.)"),
        (saying, all) => format!(" ({saying} of {all} pods say so.)"),
    }
}

fn remote(reports: &[&WorkloadReport], asked: &[PodReport]) -> (Condition, Option<bool>) {
    if reports.is_empty() {
        return (no_report(REMOTE_AVAILABLE, asked), None);
    }
    let probes: Vec<_> = reports.iter().filter_map(|report| report.remote.as_ref()).collect();
    let failed: Vec<_> = probes.iter().filter(|probe| !probe.reachable).collect();
    if let Some(probe) = failed.iter().min_by_key(|probe| (rank(probe.reason), &probe.message)) {
        let share = share(failed.len(), reports.len());
        let message = format!("{}{share}", sentence(&probe.message, "The remote server does not answer."));
        let reason = match probe.reason {
            RemoteReason::Answered | RemoteReason::Unknown => "RemoteUnreachable",
            reason => reason.as_str(),
        };
        return (condition(REMOTE_AVAILABLE, ConditionStatus::False, reason, message), Some(false));
    }
    if probes.is_empty() {
        let message = "The remote server has not been asked yet.";
        return (condition(REMOTE_AVAILABLE, ConditionStatus::Unknown, "NotTried", message), None);
    }
    (
        condition(REMOTE_AVAILABLE, ConditionStatus::True, "RemoteReachable", "The remote server answers."),
        Some(true),
    )
}

/// Of several reasons, the one that says most about the cause.
fn rank(reason: RemoteReason) -> u8 {
    match reason {
        RemoteReason::AddressRefused => 0,
        RemoteReason::TlsFailed => 1,
        RemoteReason::NameNotResolved => 2,
        RemoteReason::ConnectionFailed => 3,
        RemoteReason::NoAnswer => 4,
        RemoteReason::TimedOut => 5,
        RemoteReason::Answered | RemoteReason::Unknown => 6,
    }
}

/// How well the tokens of one issuer can be judged, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Available,
    Outdated,
    /// Nobody knows.
    NotTried,
    Failing,
}

#[derive(Default)]
struct Issuer {
    failing: Vec<(IssuerReason, String)>,
    outdated: usize,
    available: usize,
}

impl Issuer {
    fn standing(&self) -> Standing {
        match self {
            Self { failing, .. } if !failing.is_empty() => Standing::Failing,
            Self { outdated: 1.., .. } => Standing::Outdated,
            Self { available: 1.., .. } => Standing::Available,
            _ => Standing::NotTried,
        }
    }
}

/// Before the first report there is no such condition: ToolHive has it only where something is wrong.
fn issuers(reports: &[&WorkloadReport]) -> Option<Condition> {
    let mut issuers = BTreeMap::<&str, Issuer>::new();
    for report in reports.iter().filter_map(|report| report.authentication.as_ref()) {
        for said in &report.issuers {
            let issuer = issuers.entry(&said.issuer).or_default();
            match said.reason {
                IssuerReason::KeysOutdated if said.available => issuer.outdated += 1,
                _ if said.available => issuer.available += 1,
                IssuerReason::NotTried => {}
                reason => issuer.failing.push((reason, said.message.clone())),
            }
        }
    }
    let worst = issuers.values().map(Issuer::standing).max()?;
    let names: Vec<&str> =
        issuers.iter().filter(|(_, issuer)| issuer.standing() == worst).map(|(name, _)| *name).collect();
    let named = list(&names);
    Some(match worst {
        Standing::Failing => {
            let failing = issuers.values().filter(|issuer| issuer.standing() == Standing::Failing);
            let mut causes: Vec<_> = failing.clone().flat_map(|issuer| &issuer.failing).collect();
            causes.sort_by(|a, b| (a.0.as_str(), &a.1).cmp(&(b.0.as_str(), &b.1)));
            let (reason, detail) = causes.first().map_or(("IssuerUnavailable", ""), |(reason, message)| {
                let reason = match reason {
                    IssuerReason::Available | IssuerReason::Unknown => "IssuerUnavailable",
                    reason => reason.as_str(),
                };
                (reason, message.as_str())
            });
            let saying = failing.map(|issuer| issuer.failing.len()).max().unwrap_or_default();
            let share = share(saying, reports.len());
            let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
            let message = format!("Tokens of {named} cannot be judged{detail}{share}");
            condition(AUTH_CONFIGURED, ConditionStatus::False, reason, message)
        }
        Standing::NotTried => {
            let message = format!("{named} has not been asked for its keys yet.");
            condition(AUTH_CONFIGURED, ConditionStatus::Unknown, IssuerReason::NotTried.as_str(), message)
        }
        Standing::Outdated => {
            let message = format!("{named} cannot be asked for new keys; those at hand are used for a day.");
            condition(AUTH_CONFIGURED, ConditionStatus::True, IssuerReason::KeysOutdated.as_str(), message)
        }
        Standing::Available => condition(
            AUTH_CONFIGURED,
            ConditionStatus::True,
            "IssuersAvailable",
            "The tokens of every issuer can be judged.",
        ),
    })
}

fn list(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(MAX_NAMED).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(MAX_NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn credential(
    reports: &[&WorkloadReport],
    planned: &Planned,
    asked: &[PodReport],
) -> Option<(Condition, Option<bool>)> {
    let credentials: Vec<_> = reports.iter().filter_map(|report| report.credential.as_ref()).collect();
    if credentials.is_empty() {
        let config = &planned.plan.as_ref()?.workload.as_ref()?.run_config;
        let made = config.token_exchange_config.is_some() || config.aws_sts_config.is_some();
        return (made && reports.is_empty()).then(|| (no_report(TOKEN_EXCHANGE_READY, asked), None));
    }
    let failed: Vec<_> = credentials.iter().filter(|credential| credential.ready == Some(false)).collect();
    if let Some(worst) = failed.iter().min_by_key(|credential| (credential.reason.as_str(), &credential.code))
    {
        let share = share(failed.len(), reports.len());
        let code = worst.code.as_deref().map(|code| format!(" with `{code}`")).unwrap_or_default();
        let (reason, what) = match worst.reason {
            CredentialReason::Refused => ("Refused", format!("The endpoint refuses the proxy{code}.")),
            CredentialReason::UnusableAnswer => {
                ("UnusableAnswer", "The endpoint's answer holds no usable credential.".to_owned())
            }
            CredentialReason::Unavailable => {
                ("Unavailable", "The endpoint cannot be reached, or has a fault.".to_owned())
            }
            _ => ("NotReady", "Credentials for the MCP server cannot be made.".to_owned()),
        };
        let message = format!("{what}{share}");
        return Some((condition(TOKEN_EXCHANGE_READY, ConditionStatus::False, reason, message), Some(false)));
    }
    if credentials.iter().any(|credential| credential.ready == Some(true)) {
        let message = "Credentials for the MCP server can be made.";
        return Some((condition(TOKEN_EXCHANGE_READY, ConditionStatus::True, "Ready", message), Some(true)));
    }
    let message = "No credential was needed of late.";
    let reason = CredentialReason::NotTriedOfLate.as_str();
    Some((condition(TOKEN_EXCHANGE_READY, ConditionStatus::Unknown, reason, message), None))
}

/// Whether the pods run with the RunConfig that was planned last.
fn loaded(reports: &[&WorkloadReport], plan: Option<&Plan>) -> Option<Condition> {
    if reports.is_empty() {
        return None;
    }
    let refusals: Vec<&str> =
        reports.iter().filter_map(|report| report.config.last_refusal.as_deref()).collect();
    if let Some(refusal) = refusals.iter().min() {
        let share = share(refusals.len(), reports.len());
        let message = format!(
            "The newest configuration is refused, and the one before it still runs: {refusal}{share}"
        );
        return Some(condition(
            CONFIGURATION_LOADED,
            ConditionStatus::False,
            "ConfigurationRefused",
            message,
        ));
    }
    let newest = plan.and_then(checksum);
    let older = |report: &&&WorkloadReport| match (&newest, &report.run_config.checksum) {
        (Some(newest), Some(running)) => newest != running,
        _ => false,
    };
    let behind = reports.iter().filter(older).count();
    if behind > 0 {
        let share = share(behind, reports.len());
        let message = format!("The newest configuration has not arrived yet.{share}");
        return Some(condition(
            CONFIGURATION_LOADED,
            ConditionStatus::Unknown,
            "ConfigurationPending",
            message,
        ));
    }
    let message = "The proxy runs with its newest configuration.";
    Some(condition(CONFIGURATION_LOADED, ConditionStatus::True, "ConfigurationLoaded", message))
}

/// Checksum of runconfig.json as the pods compute it.
fn checksum(plan: &Plan) -> Option<String> {
    let text = plan.objects.iter().find_map(|object| {
        object.get("data").and_then(|data| data.get("runconfig.json")).and_then(Value::as_str)
    })?;
    Some(Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn sentence(text: &str, otherwise: &str) -> String {
    let text = text.trim();
    if text.is_empty() { otherwise.to_owned() } else { text.to_owned() }
}

//! Whether the API server answers, which version it is, and whether its clock is ours.

use jiff::SignedDuration;
use serde_json::Value;

use super::cluster::{Cluster, Refusal, text};
use super::finding::{Findings, shown};

const CHECK: &str = "api-server";
/// Clocks further apart than this cause refused tokens: the leeway of whoever checks one.
pub(super) const LEEWAY: SignedDuration = SignedDuration::from_secs(30);
/// The oldest minor version that this project is tested with.
const OLDEST: u32 = 20;

/// Asks for the version. Gives how far the API server's clock is ahead of ours; `None` when it can't be asked,
/// and nothing else can be looked at.
pub(super) async fn check(
    cluster: &Cluster,
    address: &str,
    findings: &mut Findings,
) -> Option<SignedDuration> {
    let address = address.trim_end_matches('/');
    let answer = match cluster.get_bytes("/version", 1 << 20).await {
        Ok(answer) => answer,
        Err(refusal) => {
            let remedy = match refusal {
                Refusal::Unknown => "Log in again, or name another context with --context.",
                Refusal::Forbidden { .. } => {
                    "Ask for the cluster role system:public-info-viewer, which everybody has by default."
                }
                Refusal::Unreachable(_) => "Is the address right, the network open and the cluster running?",
                Refusal::Missing | Refusal::Other { .. } => {
                    "Is there a Kubernetes API server at this address?"
                }
            };
            findings.fail(CHECK, format!("{address} can't be asked: {refusal}"), remedy);
            return None;
        }
    };
    let version: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let git = shown(text(&version, "/gitVersion"));
    let minor = text(&version, "/minor").trim_end_matches('+').parse::<u32>();
    let message = format!("Kubernetes {git} at {address}");
    if text(&version, "/major") == "1" && minor.is_ok_and(|minor| minor < OLDEST) {
        findings.warn(CHECK, message, format!("skep is tested with 1.{OLDEST} and newer."));
    } else {
        findings.ok(CHECK, message);
    }
    let ahead = answer.ahead.unwrap_or_default();
    if ahead.abs() > LEEWAY {
        findings.warn(
            CHECK,
            format!("its clock and this machine's are {} s apart", ahead.abs().as_secs()),
            "Set this machine's clock by NTP; what is said about clocks below is against the API server's.",
        );
    }
    Some(ahead)
}

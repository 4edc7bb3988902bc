//! The MCPGroup that a workload says it belongs to. It groups and does no more, so nothing depends on it.

use skep_api::crd::Kind;
use skep_api::problem::Problem;

use super::findings::Findings;

const PATH: &str = "spec.groupRef";
const CONDITION: &str = "GroupRefValidated";
const NOT_FOUND: &str = "GroupRefNotFound";
const NOT_READY: &str = "GroupRefNotReady";

/// Judges `groupRef`. What is wrong with it is a warning.
pub(super) fn check(group: Option<&str>, findings: &mut Findings<'_>) {
    let Some(name) = group else { return };
    let world = findings.world;
    let Some(group) = world.config(Kind::MCPGroup, name) else {
        let message = findings.absence(&format!("The MCPGroup `{}`", name.escape_debug()));
        findings.fails(CONDITION, NOT_FOUND, &message);
        findings.warning(PATH, NOT_FOUND, message);
        return;
    };
    if group.metadata.is_terminating() {
        let message = format!("The MCPGroup `{name}` is being deleted.");
        findings.fails(CONDITION, NOT_FOUND, &message);
        findings.warning(PATH, NOT_FOUND, message);
    } else if super::plan_object(group, world).problems.iter().any(Problem::is_error) {
        let message = format!("The MCPGroup `{name}` is not valid.");
        findings.fails(CONDITION, NOT_READY, &message);
        findings.warning(PATH, NOT_READY, message);
    } else {
        findings.holds(CONDITION, "GroupRefIsValid", format!("The MCPGroup `{name}` exists."));
    }
}

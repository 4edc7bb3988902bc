//! MCPGroup: it has members, which name it; nothing of its own can be wrong.

use skep_api::crd::Kind;

use super::Planned;
use super::configs;
use super::findings::Findings;

pub(super) fn plan(findings: Findings<'_>) -> Planned {
    configs::valid(Kind::MCPGroup, findings)
}

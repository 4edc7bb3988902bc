//! MCPGroup: workloads and entries that belong together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Spec of an MCPGroup. Members name their group, not the other way round.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupSpec {
    /// What the members have in common, for people.
    pub description: Option<String>,
}

//! Which tools clients see, and under which names: MCPToolConfig.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Spec of an MCPToolConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ToolConfigSpec {
    /// Names of the tools that clients may see and call, as clients see them: a tool that
    /// `toolsOverride` renames is named by its new name. Empty or absent means all.
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub tools_filter: Option<Vec<String>>,
    /// New names, descriptions and annotations, keyed by the server's own tool name.
    pub tools_override: Option<BTreeMap<String, ToolOverrideSpec>>,
}

/// What is different about one tool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ToolOverrideSpec {
    /// New name.
    pub name: Option<String>,
    /// New description.
    pub description: Option<String>,
    /// New annotations; those that are absent stay as they are.
    pub annotations: Option<ToolAnnotationsSpec>,
}

/// MCP tool annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ToolAnnotationsSpec {
    /// Title for people.
    pub title: Option<String>,
    /// The tool changes nothing.
    pub read_only_hint: Option<bool>,
    /// The tool may destroy something.
    pub destructive_hint: Option<bool>,
    /// Calling it twice is as calling it once.
    pub idempotent_hint: Option<bool>,
    /// The tool reaches out to the world.
    pub open_world_hint: Option<bool>,
}

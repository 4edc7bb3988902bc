//! Which tools clients see, and under which names.

use std::collections::BTreeMap;

use skep_api::crd::parse::INVALID_FIELD;
use skep_api::crd::tools::ToolConfigSpec;
use skep_api::crd::{Kind, Spec};
use skep_api::runconfig::{ToolAnnotations, ToolOverride};

use super::findings::{Findings, TOOL_REF};

/// What follows from a tool config.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tools {
    pub(super) filter: Vec<String>,
    pub(super) overrides: BTreeMap<String, ToolOverride>,
}

/// Plans the tools of a workload. `list` is `spec.tools` of 2025, over which the reference wins.
pub(super) fn plan(reference: Option<&str>, list: &[String], findings: &mut Findings<'_>) -> Option<Tools> {
    if let Some(name) = reference {
        if !list.is_empty() {
            findings.warning(
                "spec.tools",
                "ToolsIgnored",
                "`toolConfigRef` is given too, and wins over this list.",
            );
        }
        let object = findings.config(Kind::MCPToolConfig, name, "spec.toolConfigRef.name", TOOL_REF)?;
        let Spec::ToolConfig(spec) = &object.spec else { return None };
        return Some(from_spec(spec));
    }
    if list.is_empty() {
        return None;
    }
    check_names("spec.tools", list, findings);
    Some(Tools { filter: list.to_vec(), overrides: BTreeMap::new() })
}

/// Judges a tool config.
pub(super) fn check(spec: &ToolConfigSpec, findings: &mut Findings<'_>) {
    let filter = spec.tools_filter.clone().unwrap_or_default();
    let no_overrides = BTreeMap::new();
    let overrides = spec.tools_override.as_ref().unwrap_or(&no_overrides);
    if spec.tools_filter.as_ref().is_some_and(Vec::is_empty) {
        findings.warning(
            "spec.toolsFilter",
            "EmptyFilter",
            "An empty filter lets every tool through. Remove it, or name the tools.",
        );
    }
    check_names("spec.toolsFilter", &filter, findings);
    let mut new_names: BTreeMap<&str, &str> = BTreeMap::new();
    for (tool, change) in overrides {
        let at = format!("spec.toolsOverride.{tool}");
        let name = change.name.as_deref().unwrap_or_default();
        if name.is_empty()
            && change.description.as_deref().unwrap_or_default().is_empty()
            && change.annotations.is_none()
        {
            findings.error(
                &at,
                INVALID_FIELD,
                "The override changes nothing: give it a `name`, a `description` or `annotations`.",
            );
        }
        if name.contains(',') {
            findings.error(format!("{at}.name"), INVALID_FIELD, "A tool's name can't have a comma.");
        }
        let seen_as = if name.is_empty() { tool.as_str() } else { name };
        if let Some(other) = new_names.insert(seen_as, tool) {
            findings.error(
                format!("{at}.name"),
                "DuplicateEntry",
                format!("`{other}` becomes `{seen_as}` too; clients could not tell them apart."),
            );
        }
        if name.is_empty() || name == tool {
            continue;
        }
        let hidden = filter.iter().any(|entry| entry == tool) && !filter.iter().any(|entry| entry == name);
        let taken_again = overrides.values().any(|other| other.name.as_deref() == Some(tool.as_str()));
        if hidden && !taken_again {
            let index = filter.iter().position(|entry| entry == tool).unwrap_or_default();
            findings.warning(
                format!("spec.toolsFilter[{index}]"),
                "FilterNamesRenamedTool",
                format!("Clients see `{tool}` as `{name}`, and the filter goes by the names that clients see, so the tool is hidden. Write `{name}`."),
            );
        }
    }
}

/// What a valid tool config says.
pub(super) fn from_spec(spec: &ToolConfigSpec) -> Tools {
    let overrides = spec.tools_override.iter().flatten().map(|(tool, change)| {
        let annotations = change.annotations.clone().unwrap_or_default();
        let change = ToolOverride {
            // Without a new name the old one stays; an empty one would be read as a name by others.
            name: change.name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| tool.clone()),
            description: change.description.clone().unwrap_or_default(),
            annotations: ToolAnnotations {
                title: annotations.title,
                read_only_hint: annotations.read_only_hint,
                destructive_hint: annotations.destructive_hint,
                idempotent_hint: annotations.idempotent_hint,
                open_world_hint: annotations.open_world_hint,
            },
        };
        (tool.clone(), change)
    });
    Tools { filter: spec.tools_filter.clone().unwrap_or_default(), overrides: overrides.collect() }
}

fn check_names(path: &str, names: &[String], findings: &mut Findings<'_>) {
    for (index, name) in names.iter().enumerate() {
        if name.trim().is_empty() || name.contains(',') {
            findings.error(
                format!("{path}[{index}]"),
                INVALID_FIELD,
                "A tool's name can't be empty or have a comma.",
            );
        } else if names.iter().take(index).any(|other| other == name) {
            findings.error(
                format!("{path}[{index}]"),
                "DuplicateEntry",
                format!("`{name}` is in the list already; keep one."),
            );
        }
    }
}

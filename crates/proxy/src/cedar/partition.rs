//! Policies sorted by what their scopes can match, so that a decision looks at few of them.
//!
//! Cedar goes through every policy of a set. Most policies name one action and often one resource, so
//! for each action there is a set for all resources and one set for each resource that is named.

use std::collections::{HashMap, HashSet};

use cedar_policy::{ActionConstraint, EntityUid, Policy, PolicySet, ResourceConstraint};
use serde_json::Value;

/// Names of actions that are ever asked for.
pub(super) const ACTIONS: [&str; 3] = ["call_tool", "get_prompt", "read_resource"];

/// Policies by action and resource.
#[derive(Debug, Default)]
pub(super) struct Partition {
    actions: HashMap<&'static str, ForAction>,
}

#[derive(Debug, Default)]
struct ForAction {
    general: PolicySet,
    by_resource: HashMap<EntityUid, PolicySet>,
    /// What a tool says of itself.
    annotations: Asked,
    /// Which groups the caller is in.
    groups: Asked,
}

/// Where a policy asks for something that may not be known.
#[derive(Debug, Default)]
struct Asked {
    /// A policy for all resources does.
    always: bool,
    /// Resources whose own policies do.
    of: HashSet<EntityUid>,
}

impl Asked {
    fn note(&mut self, asks: bool, resource: &ResourceConstraint) {
        match resource {
            ResourceConstraint::Eq(uid) if asks => {
                self.of.insert(uid.clone());
            }
            ResourceConstraint::Eq(_) => {}
            _ => self.always |= asks,
        }
    }

    fn about(&self, resource: &EntityUid) -> bool {
        self.always || self.of.contains(resource)
    }
}

/// Attributes that only a list can tell.
const ANNOTATIONS: [&str; 4] = ["readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"];

impl Partition {
    /// Sorts policies. With `action_groups`, a policy that names an action may cover others through
    /// its group, so actions don't divide. With `parents_are_groups`, what a caller is in follows from
    /// the claim `groups`.
    pub(super) fn new(policies: Vec<Policy>, action_groups: bool, parents_are_groups: bool) -> Self {
        let mut partition = Self::default();
        for action in ACTIONS {
            let entry = partition.actions.entry(action).or_default();
            for policy in policies.iter().filter(|policy| action_groups || covers(policy, action)) {
                let resource = policy.resource_constraint();
                entry.annotations.note(asks_for_annotations(policy), &resource);
                entry.groups.note(asks_for_groups(policy, parents_are_groups), &resource);
                let set = match resource {
                    ResourceConstraint::Eq(uid) => entry.by_resource.entry(uid).or_default(),
                    _ => &mut entry.general,
                };
                // Ids are unique by construction, so adding cannot fail.
                let added = set.add(policy.clone());
                debug_assert!(added.is_ok());
            }
        }
        partition
    }

    /// The sets that can match.
    pub(super) fn candidates(&self, action: &str, resource: &EntityUid) -> impl Iterator<Item = &PolicySet> {
        let found = self.actions.get(action);
        let general = found.map(|found| &found.general);
        let named = found.and_then(|found| found.by_resource.get(resource));
        // Asking a set without policies takes as long as asking one of them.
        general.into_iter().chain(named).filter(|set| !set.is_empty())
    }
}

impl Partition {
    /// True when a policy that can match names annotations of the tool.
    pub(super) fn asks_for_annotations(&self, action: &str, resource: &EntityUid) -> bool {
        self.actions.get(action).is_some_and(|found| found.annotations.about(resource))
    }

    /// True when a policy that can match looks at the caller's groups.
    pub(super) fn asks_for_groups(&self, action: &str, resource: &EntityUid) -> bool {
        self.actions.get(action).is_some_and(|found| found.groups.about(resource))
    }
}

/// Looks at the parsed policy, where no name hides behind an escape. A name that stands in a string only
/// makes us ask for more than is needed.
fn asks_for_annotations(policy: &Policy) -> bool {
    policy.to_json().map_or(true, |parsed| {
        let text = parsed.to_string();
        ANNOTATIONS.iter().any(|name| text.contains(name))
    })
}

/// Attributes that are made of the claim `groups`.
const GROUPS: [&str; 2] = ["claim_groups", "claimset_groups"];

/// Looks at the parsed policy, where no name hides behind an escape. What is not certain not to depend on
/// groups is taken to.
fn asks_for_groups(policy: &Policy, parents_are_groups: bool) -> bool {
    let Ok(parsed) = policy.to_json() else { return true };
    let principal = parsed.get("principal");
    let scoped = principal.is_some_and(|principal| {
        principal.get("op").is_some_and(|op| op == "in") || principal.get("in").is_some()
    });
    (parents_are_groups && scoped)
        || parsed.get("conditions").is_some_and(|conditions| finds_groups(conditions, parents_are_groups))
}

fn finds_groups(parsed: &Value, parents: bool) -> bool {
    match parsed {
        Value::String(text) => GROUPS.iter().any(|name| text.contains(name)),
        Value::Array(items) => items.iter().any(|item| finds_groups(item, parents)),
        Value::Object(members) => members.iter().any(|(name, member)| match name.as_str() {
            "Var" => member == "context",
            // What a resource or an action is in has nothing to do with who calls.
            "in" | "is" if parents && (name == "in" || member.get("in").is_some()) => {
                let left = member.pointer("/left/Var").and_then(Value::as_str);
                !matches!(left, Some("resource" | "action")) || finds_groups(member, parents)
            }
            // One attribute of the context is that attribute's business.
            "." | "has" if member.pointer("/left/Var").is_some() => {
                member.get("attr").is_none_or(|attribute| finds_groups(attribute, parents))
            }
            _ => GROUPS.iter().any(|known| name.contains(known)) || finds_groups(member, parents),
        }),
        _ => false,
    }
}

fn covers(policy: &Policy, action: &str) -> bool {
    let is = |uid: &EntityUid| uid.type_name().basename() == "Action" && uid.id().unescaped() == action;
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => is(&uid),
        ActionConstraint::In(uids) => uids.iter().any(is),
    }
}

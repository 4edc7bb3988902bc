//! Policies sorted by what their scopes can match, so that a decision looks at few of them.
//!
//! Cedar goes through every policy of a set. Most policies name one action and often one resource, so
//! for each action there is a set for all resources and one set for each resource that is named.

use std::collections::{HashMap, HashSet};

use cedar_policy::{ActionConstraint, EntityUid, Policy, PolicySet, ResourceConstraint};

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
    /// A policy for all resources asks what a tool says of itself.
    asks: bool,
    /// Resources whose own policies ask that.
    asked_of: HashSet<EntityUid>,
}

/// Attributes that only a list can tell.
const ANNOTATIONS: [&str; 4] = ["readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"];

impl Partition {
    /// Sorts policies. With `action_groups`, a policy that names an action may cover others through
    /// its group, so actions don't divide.
    pub(super) fn new(policies: Vec<Policy>, action_groups: bool) -> Self {
        let mut partition = Self::default();
        for action in ACTIONS {
            let entry = partition.actions.entry(action).or_default();
            for policy in policies.iter().filter(|policy| action_groups || covers(policy, action)) {
                let asks = asks_for_annotations(policy);
                let set = match policy.resource_constraint() {
                    ResourceConstraint::Eq(uid) => {
                        if asks {
                            entry.asked_of.insert(uid.clone());
                        }
                        entry.by_resource.entry(uid).or_default()
                    }
                    _ => {
                        entry.asks |= asks;
                        &mut entry.general
                    }
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
        self.actions.get(action).is_some_and(|found| found.asks || found.asked_of.contains(resource))
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

fn covers(policy: &Policy, action: &str) -> bool {
    let is = |uid: &EntityUid| uid.type_name().basename() == "Action" && uid.id().unescaped() == action;
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => is(&uid),
        ActionConstraint::In(uids) => uids.iter().any(is),
    }
}

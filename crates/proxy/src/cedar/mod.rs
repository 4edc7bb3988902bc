//! Cedar decisions, with the entity model of ToolHive so that existing policies mean the same.

mod entities;
mod partition;
mod remembered;
mod values;

use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;

use cedar_policy::{
    Authorizer, Context, Decision, Effect, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy,
    PolicyId, PolicySet, Request,
};
use serde_json::Value;
use skep_api::runconfig::{CedarConfig, ToolAnnotations};
use skep_auth::identity::Identity;

use self::entities::Model;
use self::partition::Partition;
use self::remembered::{Remembered, looks_at_arguments};

pub use self::values::Numbers;

/// Annotation of a permit with the scopes, separated by spaces, that its conditions ask for.
const SCOPE_ANNOTATION: &str = "scope";
/// Permits that are tried for a denied caller.
const MOST_STEP_UPS: usize = 8;

/// Why policies can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("policy {index} cannot be parsed: {message}")]
    Syntax {
        /// Position in the list, from 0.
        index: usize,
        /// What Cedar says.
        message: String,
    },
    #[error("policy {index} is a template; templates need links, which this document cannot hold")]
    Template {
        /// Position in the list, from 0.
        index: usize,
    },
    #[error("entities_json cannot be read: {message}")]
    Entities {
        /// What Cedar says.
        message: String,
    },
    #[error("group_entity_type {name:?} is no Cedar type name")]
    GroupType {
        /// As it was written.
        name: String,
    },
    #[error("there is no policy, so every call would be denied")]
    NoPolicies,
}

/// What is about to be done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action<'a> {
    /// `tools/call` with the backend's tool name.
    CallTool { name: &'a str, arguments: &'a Value, annotations: Option<&'a ToolAnnotations> },
    /// `prompts/get`.
    GetPrompt { name: &'a str, arguments: &'a Value },
    /// `resources/read` and what is judged like it.
    ReadResource { uri: &'a str },
}

/// What was decided and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The call may go on.
    pub allowed: bool,
    /// Ids of the policies that decided, `policyN` by position.
    pub policies: Vec<String>,
    /// Policies that failed to evaluate; any failure denies.
    pub errors: Vec<String>,
}

/// Loaded policies.
#[derive(Debug)]
pub struct Policies {
    authorizer: Authorizer,
    partition: Partition,
    model: Model,
    count: usize,
    /// Actions as entities, by name: making one parses its type.
    actions: HashMap<&'static str, EntityUid>,
    /// Present when no policy looks at arguments.
    remembered: Option<Remembered>,
}

impl Policies {
    /// Loads policies and entities. `server` is the name behind `MCP::"name"`.
    ///
    /// # Errors
    /// When a policy or the entities can't be read, or there is no policy.
    pub fn load(config: &CedarConfig, server: &str, numbers: Numbers) -> Result<Self, PolicyError> {
        let mut policies = Vec::new();
        for (index, text) in config.policies.iter().enumerate() {
            let set = PolicySet::from_str(text)
                .map_err(|error| PolicyError::Syntax { index, message: explain(text, &error) })?;
            if set.templates().next().is_some() {
                return Err(PolicyError::Template { index });
            }
            let mut several: Vec<Policy> = set.policies().cloned().collect();
            several.sort_by_key(|policy| policy.id().to_string());
            let single = several.len() == 1;
            for (part, policy) in several.into_iter().enumerate() {
                let id = if single { format!("policy{index}") } else { format!("policy{index}.{part}") };
                policies.push(policy.new_id(PolicyId::new(id)));
            }
        }
        if policies.is_empty() {
            return Err(PolicyError::NoPolicies);
        }
        let base = base_entities(&config.entities_json)?;
        let model = Model::new(config, server, numbers, base)?;
        let count = policies.len();
        let general = !policies.iter().any(looks_at_arguments);
        let action_type = EntityTypeName::from_str("Action")
            .map_err(|error| PolicyError::Entities { message: error.to_string() })?;
        let actions = partition::ACTIONS
            .map(|name| (name, EntityUid::from_type_name_and_id(action_type.clone(), EntityId::new(name))))
            .into();
        let partition = Partition::new(policies, model.actions_have_parents(), model.parents_are_groups());
        let remembered = general.then(Remembered::default);
        Ok(Self { authorizer: Authorizer::new(), partition, model, count, actions, remembered })
    }

    /// Number of policies.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when there is no policy; [`Policies::load`] never makes such a set.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Decides one call. What was decided before for this very identity is not decided again.
    pub fn decide(&self, who: &Arc<Identity>, action: Action<'_>) -> Verdict {
        match &self.remembered {
            Some(remembered) => remembered.or_decide(who, action, || self.decide_now(who, action)),
            None => self.decide_now(who, action),
        }
    }

    /// The scopes that a denied caller lacks and nothing else: those that a permit names with
    /// `@scope("...")`, where the same call by the same caller with them would be allowed. Asking for
    /// them is then worth a new login (RFC 6750 §3.1 `insufficient_scope`).
    pub fn missing_scope(&self, who: &Identity, action: Action<'_>) -> Option<String> {
        let resource = self.model.resource(action).uid();
        let named = self
            .partition
            .candidates(action.name(), &resource)
            .flat_map(PolicySet::policies)
            .filter(|policy| policy.effect() == Effect::Permit)
            .filter_map(|policy| policy.annotation(SCOPE_ANNOTATION));
        let lacking = named.filter(|scope| {
            scope.split_ascii_whitespace().any(|scope| !who.scopes.iter().any(|held| held == scope))
        });
        lacking
            .take(MOST_STEP_UPS)
            .find(|scope| self.decide_now(&entities::with_scopes(who, scope), action).allowed)
            .map(str::to_owned)
    }

    fn decide_now(&self, who: &Identity, action: Action<'_>) -> Verdict {
        let caller = self.model.caller(who);
        let resource = self.model.resource(action);
        // Unknown is not "no": `!resource.destructiveHint` must not let through what nobody has seen.
        if matches!(action, Action::CallTool { annotations: None, .. })
            && self.partition.asks_for_annotations(action.name(), &resource.uid())
        {
            return refused("the tool's annotations are not known here; list the tools first".to_owned());
        }
        if let Some(refusal) = self.unknown_groups(who, action, &resource.uid()) {
            return refusal;
        }
        let context = self.model.context(&caller, Some(action));
        let entities = self.model.entities(&caller, std::slice::from_ref(&resource));
        match (entities, context) {
            (Ok(entities), Ok(context)) => {
                self.judge(&caller.uid, action.name(), &resource.uid(), &context, &entities)
            }
            (Err(message), _) | (_, Err(message)) => refused(message),
        }
    }

    /// Decides which of `actions` are allowed, without arguments: what a list may show.
    pub fn allowed(&self, who: &Arc<Identity>, actions: &[Action<'_>]) -> Vec<bool> {
        let Some(remembered) = &self.remembered else { return self.allowed_now(who, actions, |_, _| {}) };
        let known: Vec<Option<bool>> = actions
            .iter()
            .map(|action| remembered.verdict(who, *action).map(|verdict| verdict.allowed))
            .collect();
        let unknown: Vec<Action<'_>> = actions
            .iter()
            .zip(&known)
            .filter(|(_, known)| known.is_none())
            .map(|(action, _)| *action)
            .collect();
        let mut decided = match unknown.is_empty() {
            true => Vec::new(),
            false => {
                self.allowed_now(who, &unknown, |action, verdict| remembered.remember(who, action, verdict))
            }
        }
        .into_iter();
        known.into_iter().map(|known| known.or_else(|| decided.next()).unwrap_or(false)).collect()
    }

    fn allowed_now(
        &self,
        who: &Identity,
        actions: &[Action<'_>],
        mut learn: impl FnMut(Action<'_>, &Verdict),
    ) -> Vec<bool> {
        let caller = self.model.caller(who);
        let resources: Vec<Entity> = actions.iter().map(|action| self.model.resource(*action)).collect();
        let context = self.model.context(&caller, None);
        // One name twice would be refused as a duplicate entity; the first description counts.
        let mut known = HashSet::new();
        let first: Vec<bool> = resources.iter().map(|resource| known.insert(resource.uid())).collect();
        let distinct: Vec<Entity> = resources
            .iter()
            .zip(&first)
            .filter(|(_, first)| **first)
            .map(|(entity, _)| entity.clone())
            .collect();
        match (self.model.entities(&caller, &distinct), context) {
            (Ok(entities), Ok(context)) => actions
                .iter()
                .zip(resources.iter().zip(first))
                .map(|(action, (resource, first))| {
                    let verdict = self.unknown_groups(who, *action, &resource.uid()).unwrap_or_else(|| {
                        self.judge(&caller.uid, action.name(), &resource.uid(), &context, &entities)
                    });
                    // A second description was judged by the first one's words: that is no verdict on it.
                    if first {
                        learn(*action, &verdict);
                    }
                    verdict.allowed
                })
                .collect(),
            _ => vec![false; actions.len()],
        }
    }

    /// A refusal where a policy looks at groups that are not known. `unless { principal in Group::"x" }`
    /// must not take "too many to list" for "none".
    fn unknown_groups(&self, who: &Identity, action: Action<'_>, resource: &EntityUid) -> Option<Verdict> {
        let asked = who.groups_unknown && self.partition.asks_for_groups(action.name(), resource);
        asked.then(|| {
            refused("the caller's groups are not in the token, and a policy looks at them".to_owned())
        })
    }

    /// Asks the policies that can matter for this action and resource. They come in up to two sets;
    /// a forbid or an error in either denies, a permit in either allows.
    fn judge(
        &self,
        principal: &EntityUid,
        action: &str,
        resource: &EntityUid,
        context: &Context,
        entities: &Entities,
    ) -> Verdict {
        let Some(action_uid) = self.actions.get(action).cloned() else {
            return refused(format!("the action {action} is not known"));
        };
        let request =
            match Request::new(principal.clone(), action_uid, resource.clone(), context.clone(), None) {
                Ok(request) => request,
                Err(error) => return refused(error.to_string()),
            };
        let mut allowed = false;
        let mut permits = Vec::new();
        let mut forbids = Vec::new();
        let mut errors = Vec::new();
        for set in self.partition.candidates(action, resource) {
            let response = self.authorizer.is_authorized(&request, set, entities);
            let reasons = response.diagnostics().reason().map(ToString::to_string);
            match response.decision() {
                Decision::Allow => {
                    allowed = true;
                    permits.extend(reasons);
                }
                Decision::Deny => forbids.extend(reasons),
            }
            errors.extend(response.diagnostics().errors().map(ToString::to_string));
        }
        let allowed = allowed && forbids.is_empty() && errors.is_empty();
        let mut policies = if allowed { permits } else { forbids };
        policies.sort();
        Verdict { allowed, policies, errors }
    }
}

impl Action<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::CallTool { .. } => "call_tool",
            Self::GetPrompt { .. } => "get_prompt",
            Self::ReadResource { .. } => "read_resource",
        }
    }
}

fn refused(message: String) -> Verdict {
    Verdict { allowed: false, policies: Vec::new(), errors: vec![message] }
}

fn base_entities(text: &str) -> Result<Entities, PolicyError> {
    if text.trim().is_empty() {
        return Ok(Entities::empty());
    }
    Entities::from_json_str(text, None).map_err(|error| {
        let mut message = error.to_string();
        if let Some(cause) = std::error::Error::source(&error) {
            message = format!("{message}: {cause}");
        }
        PolicyError::Entities { message }
    })
}

/// Cedar's message with the place of each fault.
fn explain(text: &str, errors: &cedar_policy::ParseErrors) -> String {
    use miette::Diagnostic;
    let parts: Vec<String> = errors
        .iter()
        .map(|error| {
            let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
            match offset {
                Some(offset) => {
                    let before = text.get(..offset).unwrap_or(text);
                    let line = before.matches('\n').count() + 1;
                    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
                    format!("{error} (line {line}, column {column})")
                }
                None => error.to_string(),
            }
        })
        .collect();
    parts.join("; ")
}

#[cfg(test)]
mod tests;

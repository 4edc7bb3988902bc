//! Who, what and with what, as Cedar entities: the model of ToolHive.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use cedar_policy::{Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use serde_json::{Map, Value};
use skep_api::runconfig::{CedarConfig, ToolAnnotations};
use skep_auth::identity::Identity;

use super::values::{Numbers, value};
use super::{Action, PolicyError};

const DEFAULT_GROUP_TYPE: &str = "THVGroup";

/// Claims that name groups when the configuration names none.
const GROUP_CLAIMS: [&str; 3] = ["groups", "roles", "cognito:groups"];

/// Turns identities and calls into entities.
#[derive(Debug)]
pub(super) struct Model {
    types: Types,
    server: EntityUid,
    base: Entities,
    base_is_empty: bool,
    group_claim: Option<String>,
    role_claim: Option<String>,
    multi_valued: HashSet<String>,
    numbers: Numbers,
}

#[derive(Debug)]
struct Types {
    client: EntityTypeName,
    group: EntityTypeName,
    tool: EntityTypeName,
    prompt: EntityTypeName,
    resource: EntityTypeName,
}

/// The caller as an entity, with what the context repeats.
pub(super) struct Caller {
    pub(super) uid: EntityUid,
    entity: Entity,
    claims: Vec<(String, RestrictedExpression)>,
}

type Attributes = HashMap<String, RestrictedExpression>;

impl Model {
    pub(super) fn new(
        config: &CedarConfig,
        server: &str,
        numbers: Numbers,
        base: Entities,
    ) -> Result<Self, PolicyError> {
        let type_name = |name: &str| {
            EntityTypeName::from_str(name).map_err(|_| PolicyError::GroupType { name: name.to_owned() })
        };
        let group = if config.group_entity_type.is_empty() {
            DEFAULT_GROUP_TYPE
        } else {
            config.group_entity_type.as_str()
        };
        let types = Types {
            client: type_name("Client")?,
            group: type_name(group)?,
            tool: type_name("Tool")?,
            prompt: type_name("Prompt")?,
            resource: type_name("Resource")?,
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let base_is_empty = base.iter().next().is_none();
        Ok(Self {
            types,
            server: EntityUid::from_type_name_and_id(type_name("MCP")?, EntityId::new(server)),
            base_is_empty,
            base,
            group_claim: some(&config.group_claim_name),
            role_claim: some(&config.role_claim_name),
            multi_valued: config.multi_valued_claims.iter().cloned().collect(),
            numbers,
        })
    }

    /// True when the given entities put actions into groups: then a policy on a group of actions
    /// covers actions it does not name.
    pub(super) fn actions_have_parents(&self) -> bool {
        self.base
            .iter()
            .any(|entity| entity.uid().type_name().basename() == "Action" && has_parents(&self.base, entity))
    }

    /// True when what a caller is in follows from the claim `groups`.
    pub(super) fn parents_are_groups(&self) -> bool {
        let is_groups = |claim: &Option<String>| claim.as_deref() == Some("groups");
        self.group_claim.is_none() || is_groups(&self.group_claim) || is_groups(&self.role_claim)
    }

    pub(super) fn caller(&self, who: &Identity) -> Caller {
        let uid = EntityUid::from_type_name_and_id(self.types.client.clone(), EntityId::new(&who.subject));
        let claims = self.claims(&who.claims);
        let mut parents: HashSet<EntityUid> = self.groups(who).collect();
        let mut attributes: Attributes = HashMap::new();
        // What the given entities say of this caller stays; claims of the token win.
        if let Some(known) = self.base.get(&uid) {
            let (_, known_attributes, known_parents) = known.clone().into_inner();
            attributes.extend(known_attributes);
            parents.extend(known_parents);
        }
        attributes.extend(claims.iter().cloned());
        let entity = Entity::new(uid.clone(), attributes, parents)
            .unwrap_or_else(|_| Entity::new_no_attrs(uid.clone(), HashSet::new()));
        Caller { uid, entity, claims }
    }

    pub(super) fn resource(&self, action: Action<'_>) -> Entity {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let (kind, id, operation, feature) = match action {
            Action::CallTool { name, .. } => (&self.types.tool, name, "call", "tool"),
            Action::GetPrompt { name, .. } => (&self.types.prompt, name, "get", "prompt"),
            Action::ReadResource { uri } => (&self.types.resource, uri, "read", "resource"),
        };
        let uid = EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id));
        let mut attributes: Attributes = HashMap::from([
            ("name".to_owned(), text(id)),
            ("operation".to_owned(), text(operation)),
            ("feature".to_owned(), text(feature)),
        ]);
        let mut parents = HashSet::from([self.server.clone()]);
        if let Some(known) = self.base.get(&uid) {
            let (_, known_attributes, known_parents) = known.clone().into_inner();
            attributes.extend(known_attributes);
            parents.extend(known_parents);
        }
        match action {
            Action::CallTool { arguments, annotations, .. } => {
                attributes.extend(annotations.map(hints).unwrap_or_default());
                attributes.extend(self.arguments(arguments));
            }
            Action::GetPrompt { arguments, .. } => attributes.extend(self.arguments(arguments)),
            Action::ReadResource { uri } => {
                attributes.insert("uri".to_owned(), text(uri));
            }
        }
        Entity::new(uid.clone(), attributes, parents)
            .unwrap_or_else(|_| Entity::new_no_attrs(uid, HashSet::from([self.server.clone()])))
    }

    pub(super) fn context(&self, caller: &Caller, action: Option<Action<'_>>) -> Result<Context, String> {
        let mut pairs = caller.claims.clone();
        match action {
            Some(Action::CallTool { arguments, .. } | Action::GetPrompt { arguments, .. }) => {
                pairs.extend(self.arguments(arguments));
            }
            Some(Action::ReadResource { .. }) | None => {}
        }
        Context::from_pairs(pairs).map_err(|error| error.to_string())
    }

    pub(super) fn entities(&self, caller: &Caller, resources: &[Entity]) -> Result<Entities, String> {
        let ours = std::iter::once(caller.entity.clone()).chain(resources.iter().cloned());
        if self.base_is_empty {
            return Entities::from_entities(ours, None).map_err(|error| error.to_string());
        }
        self.base.clone().upsert_entities(ours, None).map_err(|error| error.to_string())
    }

    fn claims(&self, claims: &Map<String, Value>) -> Vec<(String, RestrictedExpression)> {
        let mut pairs = Vec::with_capacity(claims.len());
        for (name, claim) in claims {
            if let Some(value) = value(claim, self.numbers) {
                pairs.push((format!("claim_{name}"), value));
            }
            if self.multi_valued.contains(name) {
                let words: Vec<RestrictedExpression> =
                    words(claim).map(|word| RestrictedExpression::new_string(word.to_owned())).collect();
                pairs.push((format!("claimset_{name}"), RestrictedExpression::new_set(words)));
            }
        }
        pairs
    }

    fn arguments(&self, arguments: &Value) -> Vec<(String, RestrictedExpression)> {
        let Some(members) = arguments.as_object() else { return Vec::new() };
        members
            .iter()
            .filter_map(|(name, argument)| match argument {
                Value::Array(_) | Value::Object(_) => {
                    Some((format!("arg_{name}_present"), RestrictedExpression::new_bool(true)))
                }
                scalar => Some((format!("arg_{name}"), value(scalar, self.numbers)?)),
            })
            // `arg_x_present` of a complex x and the scalar argument `x_present` share a name; the
            // first one counts, so that the context stays well formed.
            .fold(Vec::new(), |mut pairs: Vec<(String, RestrictedExpression)>, (name, value)| {
                if !pairs.iter().any(|(known, _)| *known == name) {
                    pairs.push((name, value));
                }
                pairs
            })
    }

    /// Groups by their names here: another issuer's `admins` are not ours.
    fn groups(&self, who: &Identity) -> impl Iterator<Item = EntityUid> {
        let by_name = |name: &str| claim(&who.claims, name);
        let groups = match &self.group_claim {
            Some(name) => by_name(name),
            None => GROUP_CLAIMS.iter().find_map(|name| by_name(name)),
        };
        let roles = self.role_claim.as_deref().and_then(by_name);
        let kind = self.types.group.clone();
        let words = groups.into_iter().chain(roles).flat_map(words);
        let names: Vec<String> = words.filter_map(|name| who.namespace.name(name)).collect();
        names.into_iter().map(move |name| EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(name)))
    }
}

fn has_parents(entities: &Entities, entity: &Entity) -> bool {
    entities.ancestors(&entity.uid()).is_some_and(|mut parents| parents.next().is_some())
}

/// A claim by its exact name, else by a dotted path.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(found) = claims.get(name) {
        return Some(found);
    }
    let mut parts = name.split('.');
    let mut found = claims.get(parts.next()?)?;
    for part in parts {
        found = found.get(part)?;
    }
    Some(found)
}

/// The strings of an array, or the words of a string.
fn words(claim: &Value) -> Box<dyn Iterator<Item = &str> + '_> {
    match claim {
        Value::String(text) => Box::new(text.split_whitespace()),
        Value::Array(items) => Box::new(items.iter().filter_map(Value::as_str)),
        _ => Box::new(std::iter::empty()),
    }
}

fn hints(annotations: &ToolAnnotations) -> Vec<(String, RestrictedExpression)> {
    [
        ("readOnlyHint", annotations.read_only_hint),
        ("destructiveHint", annotations.destructive_hint),
        ("idempotentHint", annotations.idempotent_hint),
        ("openWorldHint", annotations.open_world_hint),
    ]
    .into_iter()
    .filter_map(|(name, hint)| Some((name.to_owned(), RestrictedExpression::new_bool(hint?))))
    .collect()
}

/// The same caller, had the token these scopes too.
pub(super) fn with_scopes(who: &Identity, scopes: &str) -> Identity {
    let mut who = who.clone();
    who.scopes.extend(scopes.split_ascii_whitespace().map(str::to_owned));
    let claim =
        if who.claims.contains_key("scope") || !who.claims.contains_key("scp") { "scope" } else { "scp" };
    match who.claims.get_mut(claim) {
        Some(Value::Array(held)) => held.extend(scopes.split_ascii_whitespace().map(Value::from)),
        held => {
            let before = held.and_then(|held| held.as_str()).unwrap_or_default();
            let all = format!("{before} {scopes}").trim().to_owned();
            who.claims.insert(claim.to_owned(), Value::String(all));
        }
    }
    who
}

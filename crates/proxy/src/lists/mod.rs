//! Lists as a caller may see them: what policies and the tool configuration leave of a list result.
//!
//! A message that nothing changes is passed on as it came, byte for byte. A list that can't be read as
//! one is not passed on at all.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use skep_api::runconfig::ToolAnnotations;
use skep_auth::identity::Identity;

use crate::annotations::{self, AnnotationCache};
use crate::cedar::{Action, Policies};
use crate::message::{Id, ListKind, Members};
use crate::tools::{Override, ToolRules};

/// Nesting that is accepted in a backend's message; serde_json's own bound is 128.
const DEPTH: usize = 120;

/// Members that results of calls, prompts, reads and completions must have, and lists never do.
const ANSWERS: [&str; 4] = ["content", "messages", "contents", "completion"];

/// A message that should be filtered but can't.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum Unfilterable {
    #[error("a message of the MCP server is not strict JSON")]
    Json,
    #[error("a list of the MCP server has no array of items")]
    NoItems,
    #[error("an item of a list has no name")]
    NoName,
}

/// What the filter does to a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Filtered {
    /// Pass it on as it came.
    Unchanged,
    /// Pass this on instead.
    Replaced(String),
}

/// Filters what one caller sees.
#[derive(Debug, Clone)]
pub struct ListFilter {
    /// Policies that decide, with the caller they decide about.
    pub policies: Option<(Arc<Policies>, Arc<Identity>)>,
    /// Names and descriptions.
    pub tools: Arc<ToolRules>,
    /// What lists say of tools is remembered here.
    pub annotations: Arc<AnnotationCache>,
    /// The request that the answer is for, with the list it asked for, if any.
    pub request: Option<(Id, Option<ListKind>)>,
}

impl ListFilter {
    /// True when there is nothing to filter by.
    pub fn is_empty(&self) -> bool {
        self.policies.is_none() && self.tools.is_empty()
    }

    /// Filters one message, or each of several in an old batch answer.
    ///
    /// # Errors
    /// When a list can't be filtered: it must not be passed on.
    pub fn message(&self, bytes: &[u8]) -> Result<Filtered, Unfilterable> {
        let text = skep_api::json::check(bytes, DEPTH).map_err(|_| Unfilterable::Json)?;
        if text.trim_start().starts_with('[') {
            let messages: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| Unfilterable::Json)?;
            let filtered: Vec<Cow<'_, str>> =
                messages.iter().map(|raw| self.single(raw.get())).collect::<Result<_, _>>()?;
            return Ok(if filtered.iter().any(|message| matches!(message, Cow::Owned(_))) {
                Filtered::Replaced(format!("[{}]", filtered.join(",")))
            } else {
                Filtered::Unchanged
            });
        }
        Ok(match self.single(text)? {
            Cow::Borrowed(_) => Filtered::Unchanged,
            Cow::Owned(message) => Filtered::Replaced(message),
        })
    }

    fn single<'t>(&self, text: &'t str) -> Result<Cow<'t, str>, Unfilterable> {
        // A lenient client may take `Result` for `result`; a strict one ignores it. Neither gets it.
        let Ok(message) = serde_json::from_str::<Members<'_>>(text) else { return Ok(Cow::Borrowed(text)) };
        if message.0.iter().any(|(name, _)| skep_api::json::folds_to(name, "result")) {
            return Err(Unfilterable::Json);
        }
        let Some(result) = message.get("result") else { return Ok(Cow::Borrowed(text)) };
        let Some(fields) = Members::read(result) else {
            return match self.asked(&message) {
                Some(Some(_)) => Err(Unfilterable::NoItems),
                _ => Ok(Cow::Borrowed(text)),
            };
        };
        let kinds: Vec<ListKind> = match self.asked(&message) {
            // The answer to a call or a read: whatever else it holds is that call's business. Without
            // what such an answer must have it may be a list: a client that uses one id for a list and
            // a call can get the one on the stream of the other.
            Some(None) if ANSWERS.iter().any(|member| fields.get(member).is_some()) => {
                return Ok(Cow::Borrowed(text));
            }
            Some(None) => self.shaped(&fields),
            Some(Some(kind)) => {
                if fields.get(kind.member()).is_none() {
                    return Err(Unfilterable::NoItems);
                }
                self.shaped(&fields)
            }
            // Answers to other requests (a resumed stream): the shape tells what it is.
            None => self.shaped(&fields),
        };
        let lenient =
            |name: &str| ListKind::ALL.iter().any(|kind| skep_api::json::folds_to(name, kind.member()));
        if fields.0.iter().any(|(name, _)| lenient(name)) {
            return Err(Unfilterable::NoItems);
        }
        let mut changed = false;
        let mut new_fields = Object::new(&fields);
        for kind in kinds {
            if let Some(items) = self.items(kind, &fields)? {
                new_fields.set(kind.member(), items);
                changed = true;
            }
        }
        if self.policies.is_some() && !changed && fields.get("cacheScope").is_none() {
            return Ok(Cow::Borrowed(text));
        }
        // What was filtered for one caller must not be served to another.
        let shared =
            self.policies.is_some() && fields.text("cacheScope").is_some_and(|scope| scope != "private");
        if shared && ListKind::ALL.iter().any(|kind| fields.get(kind.member()).is_some()) {
            new_fields.set("cacheScope", "\"private\"".to_owned());
            changed = true;
        }
        if !changed {
            return Ok(Cow::Borrowed(text));
        }
        let mut new_message = Object::new(&message);
        new_message.set("result", new_fields.write());
        Ok(Cow::Owned(new_message.write()))
    }

    /// `Some(list)` when the message answers this exchange's request.
    fn asked(&self, message: &Members<'_>) -> Option<Option<ListKind>> {
        let (id, list) = self.request.as_ref()?;
        let answered = message.get("id").and_then(Id::read)?;
        (answered == *id).then_some(*list)
    }

    /// Lists that a result looks like.
    fn shaped(&self, fields: &Members<'_>) -> Vec<ListKind> {
        ListKind::ALL
            .into_iter()
            .filter(|kind| fields.get(kind.member()).is_some())
            // Without policies only tools are filtered.
            .filter(|kind| self.policies.is_some() || *kind == ListKind::Tools)
            .collect()
    }

    /// The new array of items; `None` when nothing changes.
    fn items(&self, kind: ListKind, fields: &Members<'_>) -> Result<Option<String>, Unfilterable> {
        let raw = fields.get(kind.member()).ok_or(Unfilterable::NoItems)?;
        let items: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(|_| Unfilterable::NoItems)?;
        let mut read = Vec::with_capacity(items.len());
        for item in &items {
            let members = Members::read(item).ok_or(Unfilterable::NoName)?;
            if members.0.iter().any(|(name, _)| skep_api::json::folds_to(name, kind.key())) {
                return Err(Unfilterable::NoName);
            }
            let name = members.text(kind.key()).ok_or(Unfilterable::NoName)?;
            let annotations = (kind == ListKind::Tools).then(|| self.learn(&name, &members));
            read.push(Item { raw: item, members, name, annotations });
        }
        let allowed = self.allowed(kind, &read);
        let mut changed = false;
        let mut kept = Vec::with_capacity(read.len());
        for (item, allowed) in read.iter().zip(allowed) {
            let shown = if !allowed {
                None
            } else if kind == ListKind::Tools {
                self.tools.seen(&item.name).map(|(name, given)| item.shown(name, given))
            } else {
                Some(Cow::Borrowed(item.raw.get()))
            };
            changed |= !matches!(shown, Some(Cow::Borrowed(_)));
            kept.extend(shown);
        }
        Ok(changed.then(|| format!("[{}]", kept.join(","))))
    }

    fn learn(&self, name: &str, members: &Members<'_>) -> ToolAnnotations {
        let said: Option<Value> =
            members.get("annotations").and_then(|raw| serde_json::from_str(raw.get()).ok());
        let own = annotations::read(said.as_ref());
        self.annotations.learn(name, &own);
        annotations::overlay(&own, self.tools.annotations(name))
    }

    fn allowed(&self, kind: ListKind, items: &[Item<'_>]) -> Vec<bool> {
        let Some((policies, who)) = &self.policies else { return vec![true; items.len()] };
        const NO_ARGUMENTS: &Value = &Value::Null;
        let actions: Vec<Action<'_>> = items
            .iter()
            .map(|item| match kind {
                ListKind::Tools => Action::CallTool {
                    name: &item.name,
                    arguments: NO_ARGUMENTS,
                    annotations: item.annotations.as_ref(),
                },
                ListKind::Prompts => Action::GetPrompt { name: &item.name, arguments: NO_ARGUMENTS },
                ListKind::Resources | ListKind::ResourceTemplates => Action::ReadResource { uri: &item.name },
            })
            .collect();
        policies.allowed(who, &actions)
    }
}

struct Item<'a> {
    raw: &'a RawValue,
    members: Members<'a>,
    name: String,
    annotations: Option<ToolAnnotations>,
}

impl<'a> Item<'a> {
    fn shown(&self, name: &str, given: Option<&Override>) -> Cow<'a, str> {
        let Some(given) = given else { return Cow::Borrowed(self.raw.get()) };
        let mut item = Object::new(&self.members);
        if name != self.name {
            item.set("name", quoted(name));
        }
        if let Some(description) = &given.description {
            item.set("description", quoted(description));
        }
        if !given.annotations.is_empty() {
            let own: Value = self
                .members
                .get("annotations")
                .and_then(|raw| serde_json::from_str(raw.get()).ok())
                .unwrap_or(Value::Null);
            let mut merged = own.as_object().cloned().unwrap_or_default();
            if let Ok(Value::Object(given)) = serde_json::to_value(&given.annotations) {
                merged.extend(given);
            }
            item.set("annotations", Value::Object(merged).to_string());
        }
        Cow::Owned(item.write())
    }
}

/// An object that is written again with some members replaced or added; the others keep their bytes.
struct Object<'m, 'a> {
    members: &'m Members<'a>,
    set: Vec<(&'static str, String)>,
}

impl<'m, 'a> Object<'m, 'a> {
    fn new(members: &'m Members<'a>) -> Self {
        Self { members, set: Vec::new() }
    }

    fn set(&mut self, name: &'static str, value: String) {
        self.set.push((name, value));
    }

    fn write(&self) -> String {
        let mut text = String::from("{");
        let mut first = true;
        let mut member = |name: &str, value: &str| {
            if !std::mem::take(&mut first) {
                text.push(',');
            }
            text.push_str(&quoted(name));
            text.push(':');
            text.push_str(value);
        };
        for (name, value) in &self.members.0 {
            let replaced = self.set.iter().find(|(set, _)| set == name);
            member(name, replaced.map_or(value.get(), |(_, value)| value));
        }
        for (name, value) in &self.set {
            if self.members.get(name).is_none() {
                member(name, value);
            }
        }
        text.push('}');
        text
    }
}

fn quoted<T: Serialize + ?Sized>(text: &T) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

#[cfg(test)]
mod tests;

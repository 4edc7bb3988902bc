//! Verdicts that can't have changed: the same caller, the same tool, and policies that don't look at
//! arguments.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use cedar_policy::Policy;
use serde_json::Value;
use skep_api::runconfig::ToolAnnotations;
use skep_auth::identity::Identity;

use super::{Action, Verdict};

/// Verdicts in one generation; two generations are kept.
const CAPACITY: usize = 1024;

/// What a verdict depends on besides the policies, which live as long as this.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Address of the identity, which is one for each verified token. The entry holds the identity, so
    /// no other can have its address.
    caller: usize,
    action: &'static str,
    resource: String,
    annotations: Option<[Option<bool>; 4]>,
}

#[derive(Debug, Clone)]
struct Entry {
    _caller: Arc<Identity>,
    verdict: Verdict,
}

/// A bounded memory of verdicts.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    generations: Mutex<[HashMap<Key, Entry>; 2]>,
}

impl Remembered {
    /// The verdict of before, or the one that `decide` makes now.
    pub(super) fn or_decide(
        &self,
        who: &Arc<Identity>,
        action: Action<'_>,
        decide: impl FnOnce() -> Verdict,
    ) -> Verdict {
        if let Some(verdict) = self.verdict(who, action) {
            return verdict;
        }
        let verdict = decide();
        self.remember(who, action, &verdict);
        verdict
    }

    /// The verdict of before.
    pub(super) fn verdict(&self, who: &Arc<Identity>, action: Action<'_>) -> Option<Verdict> {
        self.get(&key(who, action))
    }

    /// Keeps a verdict. Failures are not kept: they are explained in the log each time, and are rare.
    pub(super) fn remember(&self, who: &Arc<Identity>, action: Action<'_>, verdict: &Verdict) {
        if verdict.errors.is_empty() {
            self.insert(key(who, action), Entry { _caller: Arc::clone(who), verdict: verdict.clone() });
        }
    }

    fn get(&self, key: &Key) -> Option<Verdict> {
        let mut generations = self.generations.lock().ok()?;
        let [young, old] = &mut *generations;
        if let Some(entry) = young.get(key) {
            return Some(entry.verdict.clone());
        }
        let entry = old.remove(key)?;
        let verdict = entry.verdict.clone();
        insert(young, old, key.clone(), entry);
        Some(verdict)
    }

    fn insert(&self, key: Key, entry: Entry) {
        if let Ok(mut generations) = self.generations.lock() {
            let [young, old] = &mut *generations;
            insert(young, old, key, entry);
        }
    }
}

fn insert(young: &mut HashMap<Key, Entry>, old: &mut HashMap<Key, Entry>, key: Key, entry: Entry) {
    if young.len() >= CAPACITY {
        *old = std::mem::take(young);
    }
    young.insert(key, entry);
}

fn key(who: &Arc<Identity>, action: Action<'_>) -> Key {
    let hints = |given: &ToolAnnotations| {
        [given.read_only_hint, given.destructive_hint, given.idempotent_hint, given.open_world_hint]
    };
    let (resource, annotations) = match action {
        Action::CallTool { name, annotations, .. } => (name, annotations.map(hints)),
        Action::GetPrompt { name, .. } => (name, None),
        Action::ReadResource { uri } => (uri, None),
    };
    Key {
        caller: Arc::as_ptr(who) as usize,
        action: action.name(),
        resource: resource.to_owned(),
        annotations,
    }
}

/// True when a policy may look at the arguments of a call: it names one, or takes the context as a whole.
/// The parsed policy is looked at, where no name hides behind an escape.
pub(super) fn looks_at_arguments(policy: &Policy) -> bool {
    policy.to_json().map_or(true, |parsed| finds_arguments(&parsed))
}

fn finds_arguments(parsed: &Value) -> bool {
    match parsed {
        Value::String(text) => text.contains("arg_"),
        Value::Array(items) => items.iter().any(finds_arguments),
        Value::Object(members) => members.iter().any(|(name, member)| match name.as_str() {
            "Var" => member == "context",
            // One attribute of the context is that attribute's business.
            "." | "has" if member.pointer("/left/Var").is_some() => {
                member.get("attr").is_none_or(finds_arguments)
            }
            _ => name.contains("arg_") || finds_arguments(member),
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(subject: &str) -> Arc<Identity> {
        Arc::new(Identity::of("", subject))
    }

    fn call(name: &str) -> Action<'_> {
        Action::CallTool { name, arguments: &Value::Null, annotations: None }
    }

    fn verdict(allowed: bool) -> Verdict {
        Verdict { allowed, policies: Vec::new(), errors: Vec::new() }
    }

    #[test]
    fn a_verdict_holds_for_one_caller_one_tool_and_its_annotations() {
        let remembered = Remembered::default();
        let (alice, bob) = (who("alice"), who("alice"));
        assert!(remembered.or_decide(&alice, call("x"), || verdict(true)).allowed);
        assert!(remembered.or_decide(&alice, call("x"), || panic!("asked again")).allowed);
        assert!(!remembered.or_decide(&bob, call("x"), || verdict(false)).allowed);
        assert!(!remembered.or_decide(&alice, call("y"), || verdict(false)).allowed);
        let read_only = ToolAnnotations { read_only_hint: Some(true), ..ToolAnnotations::default() };
        let annotated =
            Action::CallTool { name: "x", arguments: &Value::Null, annotations: Some(&read_only) };
        assert!(!remembered.or_decide(&alice, annotated, || verdict(false)).allowed);
        assert!(!remembered.or_decide(&alice, Action::ReadResource { uri: "x" }, || verdict(false)).allowed);
    }

    #[test]
    fn the_memory_is_bounded_and_failures_are_not_kept() {
        let remembered = Remembered::default();
        let alice = who("alice");
        for number in 0..CAPACITY * 3 {
            remembered.or_decide(&alice, call(&number.to_string()), || verdict(true));
        }
        let generations = remembered.generations.lock().unwrap();
        assert!(generations.iter().map(HashMap::len).sum::<usize>() <= 2 * CAPACITY);
        drop(generations);
        let failed = || Verdict { errors: vec!["no".to_owned()], ..verdict(false) };
        remembered.or_decide(&alice, call("f"), failed);
        assert!(remembered.or_decide(&alice, call("f"), || verdict(true)).allowed);
    }

    #[test]
    fn policies_that_look_at_arguments_are_known() {
        for (policy, looks) in [
            ("permit(principal, action, resource);", false),
            ("permit(principal, action, resource) when { context.claim_x == 1 };", false),
            ("permit(principal, action, resource) when { context has claim_x };", false),
            ("permit(principal, action, resource) when { context[\"claim_x\"] == 1 };", false),
            ("permit(principal, action, resource) when { context.arg_x == 1 };", true),
            ("permit(principal, action, resource) when { resource.arg_x == 1 };", true),
            ("permit(principal, action, resource) when { context == {\"a\": 1} };", true),
            ("permit(principal, action, resource) when { [context].contains(context) };", true),
            ("permit(principal, action, resource) when { context has claim_a.b };", false),
            ("permit(principal, action, resource) when { context.claim_a.b == 1 };", false),
            ("permit(principal, action, resource) when { context has arg_a.b };", true),
            ("permit(principal, action, resource) when { context[\"\\u{61}rg_x\"] == 1 };", true),
            ("permit(principal, action, resource) when { resource[\"\\x61rg_x\"] == 1 };", true),
            (
                "permit(principal, action, resource) when { (if context has claim_a then context else {}) == {} };",
                true,
            ),
            ("permit(principal, action, resource) when { context // a comment\n.claim_x == 1 };", false),
        ] {
            let parsed: Policy = policy.parse().unwrap();
            assert_eq!(looks_at_arguments(&parsed), looks, "{policy}");
        }
    }
}

//! Which tools clients see, and under which names (MCPToolConfig).

use std::collections::{BTreeMap, HashMap, HashSet};

use skep_api::runconfig::{ToolAnnotations, ToolOverride};

/// Filter and overrides. Filter names are those that clients see.
#[derive(Debug, Clone, Default)]
pub struct ToolRules {
    shown: Option<HashSet<String>>,
    overrides: HashMap<String, Override>,
    actual: HashMap<String, String>,
}

/// How one tool of the backend is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// New name; `None` keeps the backend's.
    pub name: Option<String>,
    /// New description; `None` keeps the backend's.
    pub description: Option<String>,
    /// Annotations that are replaced.
    pub annotations: ToolAnnotations,
}

/// Why rules make no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ToolRulesError {
    #[error("tools_override gives two tools the name {name:?}")]
    SameName { name: String },
    #[error("tools_override of {tool:?} changes nothing; give a name, a description or annotations")]
    Empty { tool: String },
    #[error("tools_filter has an empty name")]
    EmptyName,
}

impl ToolRules {
    /// Makes rules from a RunConfig's `tools_filter` and `tools_override`.
    ///
    /// # Errors
    /// When two tools get one name, or an entry is empty.
    pub fn new(
        filter: &[String],
        overrides: &BTreeMap<String, ToolOverride>,
    ) -> Result<Self, ToolRulesError> {
        if filter.iter().any(String::is_empty) {
            return Err(ToolRulesError::EmptyName);
        }
        let mut rules =
            Self { shown: (!filter.is_empty()).then(|| filter.iter().cloned().collect()), ..Self::default() };
        for (tool, given) in overrides {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let new = Override {
                name: some(&given.name).filter(|name| name != tool),
                description: some(&given.description),
                annotations: given.annotations.clone(),
            };
            if given.name.is_empty() && new.description.is_none() && new.annotations.is_empty() {
                return Err(ToolRulesError::Empty { tool: tool.clone() });
            }
            if let Some(name) = &new.name
                && rules.actual.insert(name.clone(), tool.clone()).is_some()
            {
                return Err(ToolRulesError::SameName { name: name.clone() });
            }
            rules.overrides.insert(tool.clone(), new);
        }
        Ok(rules)
    }

    /// True when nothing is filtered or renamed.
    pub fn is_empty(&self) -> bool {
        self.shown.is_none() && self.overrides.is_empty()
    }

    /// The backend's name for the name a client used; `None` when clients may not see that tool.
    pub fn actual<'a>(&'a self, seen: &'a str) -> Option<&'a str> {
        if self.shown.as_ref().is_some_and(|shown| !shown.contains(seen)) {
            return None;
        }
        match self.actual.get(seen) {
            Some(actual) => Some(actual),
            // A renamed tool is not there under its old name.
            None if self.overrides.get(seen).is_some_and(|found| found.name.is_some()) => None,
            None => Some(seen),
        }
    }

    /// How clients see the backend's tool; `None` when they don't.
    pub fn seen<'a>(&'a self, actual: &'a str) -> Option<(&'a str, Option<&'a Override>)> {
        let given = self.overrides.get(actual);
        let name = match given.and_then(|given| given.name.as_deref()) {
            Some(name) => name,
            // Somebody else was given this name: two tools under one name would be a trap.
            None if self.actual.contains_key(actual) => return None,
            None => actual,
        };
        match &self.shown {
            Some(shown) if !shown.contains(name) => None,
            _ => Some((name, given)),
        }
    }

    /// Annotations that the rules set for the backend's tool.
    pub fn annotations(&self, actual: &str) -> Option<&ToolAnnotations> {
        self.overrides.get(actual).map(|given| &given.annotations)
    }

    /// Names of the filter, for bounded metric labels.
    pub fn shown(&self) -> impl Iterator<Item = &str> {
        self.shown.iter().flatten().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(filter: &[&str], overrides: &[(&str, &str)]) -> ToolRules {
        let filter: Vec<_> = filter.iter().map(|name| (*name).to_owned()).collect();
        let overrides = overrides
            .iter()
            .map(|(tool, name)| {
                ((*tool).to_owned(), ToolOverride { name: (*name).to_owned(), ..ToolOverride::default() })
            })
            .collect();
        ToolRules::new(&filter, &overrides).unwrap()
    }

    #[test]
    fn filter_names_are_those_that_clients_see() {
        let rules = rules(&["shout", "add"], &[("echo", "shout")]);
        assert_eq!(rules.actual("shout"), Some("echo"));
        assert_eq!(rules.actual("add"), Some("add"));
        assert_eq!(rules.actual("echo"), None);
        assert_eq!(rules.actual("other"), None);
        assert_eq!(rules.seen("echo").unwrap().0, "shout");
        assert!(rules.seen("other").is_none());
    }

    #[test]
    fn a_renamed_tool_is_gone_under_its_old_name_even_without_a_filter() {
        let rules = rules(&[], &[("echo", "shout")]);
        assert_eq!(rules.actual("echo"), None);
        assert_eq!(rules.actual("anything"), Some("anything"));
        assert!(rules.seen("shout").is_none(), "the backend's own `shout` is shadowed");
    }

    #[test]
    fn two_tools_can_trade_names() {
        let rules = rules(&[], &[("a", "b"), ("b", "a")]);
        assert_eq!(rules.actual("a"), Some("b"));
        assert_eq!(rules.actual("b"), Some("a"));
        assert_eq!(rules.seen("a").unwrap().0, "b");
    }

    #[test]
    fn rules_without_sense_are_refused() {
        let entry = |name: &str| ToolOverride { name: name.to_owned(), ..ToolOverride::default() };
        let both = BTreeMap::from([("a".to_owned(), entry("x")), ("b".to_owned(), entry("x"))]);
        assert_eq!(
            ToolRules::new(&[], &both).unwrap_err(),
            ToolRulesError::SameName { name: "x".to_owned() }
        );
        let empty = BTreeMap::from([("a".to_owned(), entry(""))]);
        assert!(matches!(ToolRules::new(&[], &empty), Err(ToolRulesError::Empty { .. })));
        assert_eq!(
            ToolRules::new(&[String::new()], &BTreeMap::new()).unwrap_err(),
            ToolRulesError::EmptyName
        );
    }
}

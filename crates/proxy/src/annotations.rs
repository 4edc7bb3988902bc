//! What tools say about themselves, as last seen in a list, for policies that ask.

use std::collections::HashMap;
use std::sync::RwLock;

use serde_json::Value;
use skep_api::runconfig::ToolAnnotations;

/// Tools that are remembered.
const CAPACITY: usize = 4096;

/// Annotations by the backend's tool name. A tool that was never seen has none: a policy that asks for
/// them then denies.
#[derive(Debug, Default)]
pub struct AnnotationCache {
    tools: RwLock<HashMap<String, ToolAnnotations>>,
}

impl AnnotationCache {
    /// Remembers what a list said of a tool. Lists come in pages and differ between users, so one
    /// list never makes the cache forget another's tools.
    pub fn learn(&self, tool: &str, annotations: &ToolAnnotations) {
        let known = self.tools.read().is_ok_and(|tools| tools.get(tool) == Some(annotations));
        if known {
            return;
        }
        if let Ok(mut tools) = self.tools.write()
            && (tools.len() < CAPACITY || tools.contains_key(tool))
        {
            tools.insert(tool.to_owned(), annotations.clone());
        }
    }

    /// What is known of a tool.
    pub fn of(&self, tool: &str) -> Option<ToolAnnotations> {
        self.tools.read().ok()?.get(tool).cloned()
    }

    /// True when a list has shown this tool.
    pub fn knows(&self, tool: &str) -> bool {
        self.tools.read().is_ok_and(|tools| tools.contains_key(tool))
    }
}

/// Annotations of one item of a list. What is not a boolean is not there.
pub fn read(item: Option<&Value>) -> ToolAnnotations {
    let flag = |name: &str| item.and_then(|item| item.get(name)).and_then(Value::as_bool);
    ToolAnnotations {
        title: item.and_then(|item| item.get("title")).and_then(Value::as_str).map(str::to_owned),
        read_only_hint: flag("readOnlyHint"),
        destructive_hint: flag("destructiveHint"),
        idempotent_hint: flag("idempotentHint"),
        open_world_hint: flag("openWorldHint"),
    }
}

/// `given` over `own`: what the tool configuration says wins.
pub fn overlay(own: &ToolAnnotations, given: Option<&ToolAnnotations>) -> ToolAnnotations {
    let Some(given) = given else { return own.clone() };
    ToolAnnotations {
        title: given.title.clone().or_else(|| own.title.clone()),
        read_only_hint: given.read_only_hint.or(own.read_only_hint),
        destructive_hint: given.destructive_hint.or(own.destructive_hint),
        idempotent_hint: given.idempotent_hint.or(own.idempotent_hint),
        open_world_hint: given.open_world_hint.or(own.open_world_hint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_second_page_does_not_make_the_first_forgotten() {
        let cache = AnnotationCache::default();
        cache.learn("a", &read(Some(&json!({"readOnlyHint": true}))));
        cache.learn("b", &read(None));
        assert_eq!(cache.of("a").unwrap().read_only_hint, Some(true));
        assert_eq!(cache.of("c"), None);
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = AnnotationCache::default();
        for number in 0..CAPACITY + 10 {
            cache.learn(&format!("t{number}"), &ToolAnnotations::default());
        }
        assert_eq!(cache.tools.read().unwrap().len(), CAPACITY);
    }

    #[test]
    fn a_hint_that_is_no_boolean_is_not_there() {
        assert_eq!(read(Some(&json!({"readOnlyHint": "yes"}))).read_only_hint, None);
    }
}

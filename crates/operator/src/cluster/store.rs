//! The cached objects of one resource.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use kube::runtime::watcher::Event;
use serde_json::Value;

/// Namespace and name. What lies in no namespace has an empty one.
pub type Name = (String, String);

/// What happened to one object.
#[derive(Debug, Clone)]
pub struct Change {
    /// As it was; absent when it is new.
    pub before: Option<Arc<Value>>,
    /// As it is; absent when it is gone.
    pub after: Option<Arc<Value>>,
}

impl Change {
    /// The object, as it is or as it last was.
    pub fn latest(&self) -> Option<&Value> {
        self.after.as_deref().or(self.before.as_deref())
    }

    /// True when a value inside the object is not what it was; also when the object came or went.
    pub fn differs_at(&self, pointer: &str) -> bool {
        let at = |object: &Option<Arc<Value>>| object.as_deref().map(|value| value.pointer(pointer).cloned());
        at(&self.before) != at(&self.after)
    }

    /// True when the object came or went.
    pub fn came_or_went(&self) -> bool {
        self.before.is_some() != self.after.is_some()
    }
}

/// The objects of one resource, as the API server last told.
#[derive(Debug, Default)]
pub struct Store {
    objects: RwLock<BTreeMap<Name, Arc<Value>>>,
}

impl Store {
    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.read(|objects| objects.get(&(namespace.to_owned(), name.to_owned())).cloned())
    }

    /// All objects of a namespace, by name.
    pub fn list(&self, namespace: &str) -> Vec<Arc<Value>> {
        self.filter(namespace, |_| true)
    }

    /// Objects of a namespace whose names are wanted.
    pub fn filter(&self, namespace: &str, wanted: impl Fn(&str) -> bool) -> Vec<Arc<Value>> {
        self.read(|objects| {
            objects
                .range((namespace.to_owned(), String::new())..)
                .take_while(|((of, _), _)| of == namespace)
                .filter(|((_, name), _)| wanted(name))
                .map(|(_, object)| Arc::clone(object))
                .collect()
        })
    }

    /// Objects of all namespaces that are wanted.
    pub fn all(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Arc<Value>> {
        self.read(|objects| objects.values().filter(|object| wanted(object)).cloned().collect())
    }

    /// Namespaces and names of all objects.
    pub fn names(&self) -> Vec<Name> {
        self.read(|objects| objects.keys().cloned().collect())
    }

    /// The number of objects.
    pub fn len(&self) -> usize {
        self.read(BTreeMap::len)
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes an object that the API server gave as the answer to a write, so that what was just written is
    /// known before the watch tells.
    pub fn written(&self, object: Value) {
        drop(self.put(object));
    }

    /// Forgets an object that the API server said is deleted.
    pub fn deleted(&self, namespace: &str, name: &str) {
        self.write(|objects| objects.remove(&(namespace.to_owned(), name.to_owned())));
    }

    fn put(&self, object: Value) -> Option<Change> {
        let name = name_of(&object)?;
        let after = Arc::new(object);
        self.write(|objects| {
            let before = objects.get(&name).cloned();
            if before.as_deref().is_some_and(|before| !is_newer(&after, before)) {
                return None;
            }
            objects.insert(name, Arc::clone(&after));
            Some(Change { before, after: Some(Arc::clone(&after)) })
        })
    }

    fn read<T>(&self, act: impl FnOnce(&BTreeMap<Name, Arc<Value>>) -> T) -> T {
        act(&self.objects.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, act: impl FnOnce(&mut BTreeMap<Name, Arc<Value>>) -> T) -> T {
        act(&mut self.objects.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One watch that feeds a store: the whole resource, or that of one namespace.
#[derive(Debug)]
pub struct Feed {
    store: Arc<Store>,
    /// The namespace that this watch is about; `None`: all.
    namespace: Option<String>,
    /// What a list that is being read has named so far.
    listed: Option<HashSet<Name>>,
}

impl Feed {
    /// A watch on one namespace, or on all.
    pub fn new(store: Arc<Store>, namespace: Option<String>) -> Self {
        Self { store, namespace, listed: None }
    }

    /// Takes an event. Gives what has changed; nothing when it was known.
    pub fn take(&mut self, event: Event<Value>) -> Vec<Change> {
        match event {
            Event::Init => {
                self.listed = Some(HashSet::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                if let (Some(listed), Some(name)) = (&mut self.listed, name_of(&object)) {
                    listed.insert(name);
                }
                self.store.put(object).into_iter().collect()
            }
            Event::InitDone => self.sweep(),
            Event::Apply(object) => self.store.put(object).into_iter().collect(),
            Event::Delete(object) => {
                let Some(name) = name_of(&object) else { return Vec::new() };
                let before = self.store.write(|objects| objects.remove(&name));
                before.map(|before| Change { before: Some(before), after: None }).into_iter().collect()
            }
        }
    }

    /// Whatever a complete list did not name went away while nobody watched.
    fn sweep(&mut self) -> Vec<Change> {
        let Some(listed) = self.listed.take() else { return Vec::new() };
        let namespace = self.namespace.as_deref();
        self.store.write(|objects| {
            let gone: Vec<Name> = objects
                .keys()
                .filter(|name| {
                    namespace.is_none_or(|namespace| name.0 == namespace) && !listed.contains(*name)
                })
                .cloned()
                .collect();
            gone.into_iter()
                .filter_map(|name| objects.remove(&name))
                .map(|before| Change { before: Some(before), after: None })
                .collect()
        })
    }
}

fn name_of(object: &Value) -> Option<Name> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    Some((text("/metadata/namespace").unwrap_or_default().to_owned(), text("/metadata/name")?.to_owned()))
}

/// Answers to writes and events of the watch arrive in any order. Resource versions of one object grow; one
/// that is no number (or an object with another uid) counts as newer whenever it differs.
fn is_newer(after: &Value, before: &Value) -> bool {
    let text = |object: &Value, pointer: &str| {
        object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let version = "/metadata/resourceVersion";
    let (new, old) = (text(after, version), text(before, version));
    match (new.parse::<u64>(), old.parse::<u64>()) {
        (Ok(new), Ok(old)) => new > old,
        _ => new != old,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(namespace: &str, name: &str, version: &str) -> Value {
        json!({"metadata": {"namespace": namespace, "name": name, "resourceVersion": version}})
    }

    #[test]
    fn what_vanished_while_nobody_watched_is_told_after_the_next_list() {
        let store = Arc::new(Store::default());
        let mut feed = Feed::new(Arc::clone(&store), None);
        feed.take(Event::Init);
        feed.take(Event::InitApply(object("a", "x", "1")));
        feed.take(Event::InitApply(object("a", "y", "2")));
        assert!(feed.take(Event::InitDone).is_empty());
        feed.take(Event::Init);
        assert!(feed.take(Event::InitApply(object("a", "y", "2"))).is_empty(), "it is the same");
        let gone = feed.take(Event::InitDone);
        assert_eq!(gone.len(), 1);
        assert!(gone[0].after.is_none() && store.get("a", "x").is_none() && store.get("a", "y").is_some());
    }

    #[test]
    fn a_watch_on_one_namespace_sweeps_only_there() {
        let store = Arc::new(Store::default());
        let mut a = Feed::new(Arc::clone(&store), Some("a".to_owned()));
        let mut b = Feed::new(Arc::clone(&store), Some("b".to_owned()));
        b.take(Event::Apply(object("b", "x", "1")));
        a.take(Event::Init);
        assert!(a.take(Event::InitDone).is_empty());
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn an_event_that_is_older_than_the_answer_to_a_write_is_passed_over() {
        let store = Arc::new(Store::default());
        let mut feed = Feed::new(Arc::clone(&store), None);
        store.written(object("a", "x", "10"));
        assert!(feed.take(Event::Apply(object("a", "x", "9"))).is_empty());
        assert!(feed.take(Event::Apply(object("a", "x", "10"))).is_empty());
        assert_eq!(feed.take(Event::Apply(object("a", "x", "11"))).len(), 1);
    }

    #[test]
    fn a_list_is_of_one_namespace() {
        let store = Store::default();
        for (namespace, name) in [("a", "x"), ("a", "y"), ("a-b", "z"), ("b", "x")] {
            store.written(object(namespace, name, "1"));
        }
        assert_eq!(store.list("a").len(), 2);
    }
}

//! The cached objects of one resource.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
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

/// What objects are grouped by, besides their names; `None`: in no group.
pub type GroupBy = fn(&Value) -> Option<String>;

/// Objects that went are remembered, this many of each resource.
const REMEMBERED: usize = 4096;

/// The objects of one resource, as the API server last told.
#[derive(Debug, Default)]
pub struct Store {
    state: RwLock<State>,
    group_by: Option<GroupBy>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Name, Entry>,
    /// Names by namespace and group.
    groups: HashMap<(String, String), BTreeSet<String>>,
    gone: HashMap<Name, Gone>,
    /// Names in `gone`, in the order in which they went.
    oldest: VecDeque<Name>,
    /// Answers to writes so far.
    answers: u64,
}

#[derive(Debug)]
struct Entry {
    object: Arc<Value>,
    group: Option<String>,
    /// Number of the answer to a write that it comes from; 0: the watch told.
    answer: u64,
}

/// The last object of a name that went.
#[derive(Debug)]
struct Gone {
    uid: String,
    version: Option<u64>,
    /// Only the answer to a write said that it went: this is still to be told when the watch says so too.
    untold: Option<Arc<Value>>,
}

impl Store {
    /// A store that also finds objects by a group.
    pub fn grouped(group_by: GroupBy) -> Self {
        Self { state: RwLock::default(), group_by: Some(group_by) }
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let name = (namespace.to_owned(), name.to_owned());
        self.read(|state| state.objects.get(&name).map(|entry| Arc::clone(&entry.object)))
    }

    /// All objects of a namespace, by name.
    pub fn list(&self, namespace: &str) -> Vec<Arc<Value>> {
        self.filter(namespace, |_| true)
    }

    /// Objects of a namespace whose names are wanted.
    pub fn filter(&self, namespace: &str, wanted: impl Fn(&str) -> bool) -> Vec<Arc<Value>> {
        self.read(|state| {
            state
                .objects
                .range((namespace.to_owned(), String::new())..)
                .take_while(|((of, _), _)| of == namespace)
                .filter(|((_, name), _)| wanted(name))
                .map(|(_, entry)| Arc::clone(&entry.object))
                .collect()
        })
    }

    /// Objects of a namespace that are in a group, by name. Takes no longer for others beside them.
    pub fn group(&self, namespace: &str, group: &str) -> Vec<Arc<Value>> {
        let at = (namespace.to_owned(), group.to_owned());
        self.read(|state| {
            let names = state.groups.get(&at).into_iter().flatten();
            names
                .filter_map(|name| state.objects.get(&(namespace.to_owned(), name.clone())))
                .map(|entry| Arc::clone(&entry.object))
                .collect()
        })
    }

    /// Objects of all namespaces that are wanted.
    pub fn all(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Arc<Value>> {
        self.read(|state| {
            let objects = state.objects.values().map(|entry| &entry.object);
            objects.filter(|object| wanted(object)).cloned().collect()
        })
    }

    /// Namespaces and names of all objects.
    pub fn names(&self) -> Vec<Name> {
        self.read(|state| state.objects.keys().cloned().collect())
    }

    /// The number of objects.
    pub fn len(&self) -> usize {
        self.read(|state| state.objects.len())
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes an object that the API server gave as the answer to a change of an object that is here, so that
    /// what was just written is known before the watch tells. One that is not here any more stays away. An
    /// object that went with its last finalizer goes.
    pub fn written(&self, object: Value) {
        let Some(name) = name_of(&object) else { return };
        self.write(|state| {
            let Some(before) = state.objects.get(&name).map(|entry| Arc::clone(&entry.object)) else {
                return;
            };
            if uid(&object) != uid(&before) {
                return;
            }
            if has_left(&object) {
                state.leave(&name, &object, true);
            } else if is_newer(&object, &before) {
                self.answered(state, name, object);
            }
        });
    }

    /// Takes an object that the API server gave as the answer to a write, where the object was not here. One
    /// of which the watch has told meanwhile that it went stays away.
    pub fn created(&self, object: Value) {
        let Some(name) = name_of(&object) else { return };
        self.write(|state| {
            let before = state.objects.get(&name).map(|entry| &entry.object);
            let late = match before {
                Some(before) => !is_newer(&object, before),
                None => state.gone.get(&name).is_some_and(|gone| gone.is_after(&object)),
            };
            if !late && !has_left(&object) {
                self.answered(state, name, object);
            }
        });
    }

    /// Forgets an object that the API server said is deleted.
    pub fn deleted(&self, namespace: &str, name: &str) {
        let name = (namespace.to_owned(), name.to_owned());
        self.write(|state| {
            if let Some(last) = state.objects.get(&name).map(|entry| Arc::clone(&entry.object)) {
                state.leave(&name, &last, true);
            }
        });
    }

    fn answered(&self, state: &mut State, name: Name, object: Value) {
        state.answers += 1;
        let answer = state.answers;
        state.insert(name, Arc::new(object), self.group_by, answer);
    }

    /// Takes what the watch says. Of two states the watch gives the later one last; only answers to writes may
    /// be ahead of it, those with a number above `trusted`.
    fn told(&self, object: Value, trusted: u64) -> Option<Change> {
        let name = name_of(&object)?;
        let after = Arc::new(object);
        self.write(|state| {
            let before = match state.objects.get(&name) {
                Some(entry) => {
                    let news = if entry.answer > trusted {
                        is_newer(&after, &entry.object)
                    } else {
                        is_other(&after, &entry.object)
                    };
                    if !news {
                        return None;
                    }
                    Some(Arc::clone(&entry.object))
                }
                None => match state.gone.get_mut(&name) {
                    // From before it was deleted, which we know from the answer.
                    Some(gone) if gone.untold.is_some() && gone.is_of(&after) && !is_leaving(&after) => {
                        return None;
                    }
                    Some(gone) => gone.untold.take(),
                    None => None,
                },
            };
            state.insert(name, Arc::clone(&after), self.group_by, 0);
            Some(Change { before, after: Some(after) })
        })
    }

    /// Takes that the watch says an object went.
    fn left(&self, last: &Value) -> Option<Change> {
        let name = name_of(last)?;
        self.write(|state| {
            // Made anew, or labelled again, and the answer came before this.
            let ahead = |entry: &Entry| entry.answer > 0 && is_newer(&entry.object, last);
            if state.objects.get(&name).is_some_and(ahead) {
                return None;
            }
            state.leave(&name, last, false).map(|before| Change { before: Some(before), after: None })
        })
    }

    fn read<T>(&self, act: impl FnOnce(&State) -> T) -> T {
        act(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn insert(&mut self, name: Name, object: Arc<Value>, group_by: Option<GroupBy>, answer: u64) {
        let group = group_by.and_then(|group_by| group_by(&object));
        self.ungroup(&name);
        if let Some(group) = &group {
            self.groups.entry((name.0.clone(), group.clone())).or_default().insert(name.1.clone());
        }
        self.objects.insert(name, Entry { object, group, answer });
    }

    /// Removes an object and remembers it. Gives what is to be told about: it, or what went before and was not
    /// told yet. `answered`: only the answer to a write says so, and the watch will.
    fn leave(&mut self, name: &Name, last: &Value, answered: bool) -> Option<Arc<Value>> {
        self.ungroup(name);
        let removed = self.objects.remove(name).map(|entry| entry.object);
        let before = self.gone.remove(name);
        let known = before.is_some();
        let left = removed.or_else(|| before.and_then(|gone| gone.untold));
        let untold = if answered { left.clone() } else { None };
        let gone = Gone { uid: uid(last).to_owned(), version: version(last).parse().ok(), untold };
        self.gone.insert(name.clone(), gone);
        if !known {
            self.oldest.push_back(name.clone());
        }
        if self.oldest.len() > REMEMBERED
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.gone.remove(&oldest);
        }
        left
    }

    fn ungroup(&mut self, name: &Name) {
        let Some(group) = self.objects.get(name).and_then(|entry| entry.group.clone()) else { return };
        let at = (name.0.clone(), group);
        if let Some(names) = self.groups.get_mut(&at) {
            names.remove(&name.1);
            if names.is_empty() {
                self.groups.remove(&at);
            }
        }
    }
}

impl Gone {
    fn is_of(&self, object: &Value) -> bool {
        self.uid == uid(object)
    }

    /// True when the answer to a write is about a state from before it went.
    fn is_after(&self, object: &Value) -> bool {
        let earlier = match (self.version, version(object).parse::<u64>()) {
            (Some(gone), Ok(version)) => version <= gone,
            _ => false,
        };
        self.is_of(object) || earlier
    }
}

/// One watch that feeds a store: the whole resource, or that of one namespace.
#[derive(Debug)]
pub struct Feed {
    store: Arc<Store>,
    /// The namespace that this watch is about; `None`: all.
    namespace: Option<String>,
    /// The list that is being read.
    listing: Option<Listing>,
}

#[derive(Debug)]
struct Listing {
    /// What it has named so far.
    named: HashSet<Name>,
    /// Answers to writes when it began. Later ones may know more than the list.
    answers: u64,
}

impl Feed {
    /// A watch on one namespace, or on all.
    pub fn new(store: Arc<Store>, namespace: Option<String>) -> Self {
        Self { store, namespace, listing: None }
    }

    /// Takes an event. Gives what has changed; nothing when it was known.
    pub fn take(&mut self, event: Event<Value>) -> Vec<Change> {
        match event {
            Event::Init => {
                let answers = self.store.read(|state| state.answers);
                self.listing = Some(Listing { named: HashSet::new(), answers });
                Vec::new()
            }
            Event::InitApply(object) => {
                let mut trusted = 0;
                if let (Some(listing), Some(name)) = (&mut self.listing, name_of(&object)) {
                    listing.named.insert(name);
                    trusted = listing.answers;
                }
                self.store.told(object, trusted).into_iter().collect()
            }
            Event::InitDone => self.sweep(),
            Event::Apply(object) => self.store.told(object, 0).into_iter().collect(),
            Event::Delete(object) => self.store.left(&object).into_iter().collect(),
        }
    }

    /// Whatever a complete list did not name went away while nobody watched.
    fn sweep(&mut self) -> Vec<Change> {
        let Some(listing) = self.listing.take() else { return Vec::new() };
        let unnamed = |name: &Name| {
            self.namespace.as_ref().is_none_or(|namespace| name.0 == *namespace)
                && !listing.named.contains(name)
        };
        self.store.write(|state| {
            let went: Vec<(Name, Arc<Value>)> = state
                .objects
                .iter()
                .filter(|(name, entry)| unnamed(name) && entry.answer <= listing.answers)
                .map(|(name, entry)| (name.clone(), Arc::clone(&entry.object)))
                .collect();
            let untold: Vec<Arc<Value>> = state
                .gone
                .iter_mut()
                .filter(|(name, _)| unnamed(name))
                .filter_map(|(_, gone)| gone.untold.take())
                .collect();
            let swept = went.into_iter().filter_map(|(name, last)| state.leave(&name, &last, false));
            swept.chain(untold).map(|before| Change { before: Some(before), after: None }).collect()
        })
    }
}

fn name_of(object: &Value) -> Option<Name> {
    let name = text(object, "/metadata/name");
    (!name.is_empty()).then(|| (text(object, "/metadata/namespace").to_owned(), name.to_owned()))
}

fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

fn version(object: &Value) -> &str {
    text(object, "/metadata/resourceVersion")
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn is_leaving(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
}

/// True for the answer to the write that took the last finalizer of a deleted object.
fn has_left(object: &Value) -> bool {
    let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    is_leaving(object) && finalizers.is_none_or(Vec::is_empty)
}

/// Answers to writes and events of the watch arrive in any order. Resource versions of one API server grow; one
/// that is no number counts as newer whenever it differs.
fn is_newer(after: &Value, before: &Value) -> bool {
    let (new, old) = (version(after), version(before));
    match (new.parse::<u64>(), old.parse::<u64>()) {
        (Ok(new), Ok(old)) => new > old,
        _ => new != old,
    }
}

fn is_other(after: &Value, before: &Value) -> bool {
    version(after) != version(before) || uid(after) != uid(before)
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
        feed.take(Event::Apply(object("a", "x", "8")));
        store.written(object("a", "x", "10"));
        assert!(feed.take(Event::Apply(object("a", "x", "9"))).is_empty());
        assert!(feed.take(Event::Apply(object("a", "x", "10"))).is_empty());
        assert_eq!(feed.take(Event::Apply(object("a", "x", "11"))).len(), 1);
    }

    #[test]
    fn a_list_is_of_one_namespace() {
        let store = Store::default();
        for (namespace, name) in [("a", "x"), ("a", "y"), ("a-b", "z"), ("b", "x")] {
            store.created(object(namespace, name, "1"));
        }
        assert_eq!(store.list("a").len(), 2);
    }

    fn with_uid(name: &str, uid: &str, version: &str) -> Value {
        json!({"metadata": {"namespace": "a", "name": name, "uid": uid, "resourceVersion": version}})
    }

    fn store_with(object: Value) -> (Arc<Store>, Feed) {
        let store = Arc::new(Store::default());
        let mut feed = Feed::new(Arc::clone(&store), None);
        feed.take(Event::Apply(object));
        (store, feed)
    }

    #[test]
    fn the_answer_to_a_write_brings_no_deleted_object_back() {
        let (store, mut feed) = store_with(with_uid("x", "1", "5"));
        feed.take(Event::Delete(with_uid("x", "1", "8")));
        store.written(with_uid("x", "1", "7"));
        assert!(store.is_empty());
        // Whether it was made or changed.
        store.created(with_uid("x", "1", "7"));
        assert!(store.is_empty());
        // One that was made and deleted before it.
        store.created(with_uid("x", "0", "3"));
        assert!(store.is_empty());
        store.created(with_uid("x", "2", "9"));
        assert_eq!(store.len(), 1);
        // What was deleted is not the one that is there now.
        store.written(with_uid("x", "1", "10"));
        assert_eq!(store.get("a", "x").unwrap()["metadata"]["uid"], "2");
    }

    #[test]
    fn what_a_list_swept_is_not_brought_back_by_an_answer() {
        let (store, mut feed) = store_with(with_uid("x", "1", "5"));
        feed.take(Event::Init);
        assert_eq!(feed.take(Event::InitDone).len(), 1);
        store.created(with_uid("x", "1", "7"));
        assert!(store.is_empty());
    }

    #[test]
    fn what_went_with_its_last_finalizer_is_gone_at_once_and_told_once() {
        let mut last = with_uid("x", "1", "7");
        last["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let (store, mut feed) = store_with(with_uid("x", "1", "5"));
        store.written(last.clone());
        assert!(store.is_empty());
        // The watch is behind.
        assert!(feed.take(Event::Apply(with_uid("x", "1", "6"))).is_empty());
        assert!(store.is_empty());
        let told = feed.take(Event::Delete(last));
        assert_eq!(told.len(), 1);
        assert!(told[0].before.is_some() && told[0].after.is_none());
        assert!(feed.take(Event::Delete(with_uid("x", "1", "8"))).is_empty());
        // With a finalizer left it stays.
        let mut held = with_uid("y", "1", "9");
        held["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        held["metadata"]["finalizers"] = json!(["f"]);
        feed.take(Event::Apply(with_uid("y", "1", "8")));
        store.written(held);
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn what_was_deleted_but_is_held_by_a_finalizer_comes_back_with_the_watch() {
        let (store, mut feed) = store_with(with_uid("x", "1", "5"));
        store.deleted("a", "x");
        assert!(store.is_empty());
        let mut held = with_uid("x", "1", "9");
        held["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let change = feed.take(Event::Apply(held)).remove(0);
        assert!(change.before.is_some() && change.after.is_some() && store.len() == 1);
    }

    #[test]
    fn what_was_deleted_and_is_told_by_a_list_only_is_told() {
        let (store, mut feed) = store_with(with_uid("x", "1", "5"));
        store.deleted("a", "x");
        feed.take(Event::Init);
        assert_eq!(feed.take(Event::InitDone).len(), 1);
        feed.take(Event::Init);
        assert!(feed.take(Event::InitDone).is_empty());
    }

    #[test]
    fn the_end_of_a_predecessor_does_not_take_what_was_made_anew() {
        let (store, mut feed) = store_with(with_uid("x", "1", "5"));
        store.deleted("a", "x");
        store.created(with_uid("x", "2", "9"));
        feed.take(Event::Delete(with_uid("x", "1", "8")));
        assert_eq!(store.len(), 1);
        assert_eq!(feed.take(Event::Delete(with_uid("x", "2", "10"))).len(), 1);
    }

    #[test]
    fn a_complete_list_counts_even_when_its_versions_are_lower() {
        let (store, mut feed) = store_with(with_uid("x", "1", "500"));
        feed.take(Event::Apply(with_uid("y", "1", "501")));
        feed.take(Event::Init);
        // Written while the list was on its way: the list may not know.
        store.written(with_uid("y", "1", "502"));
        store.created(with_uid("z", "1", "503"));
        assert_eq!(feed.take(Event::InitApply(with_uid("x", "2", "20"))).len(), 1);
        assert!(feed.take(Event::InitApply(with_uid("y", "1", "501"))).is_empty());
        assert!(feed.take(Event::InitDone).is_empty());
        assert_eq!(store.get("a", "x").unwrap()["metadata"]["resourceVersion"], "20");
        assert_eq!(store.len(), 3);
        // The next one began later.
        feed.take(Event::Init);
        feed.take(Event::InitApply(with_uid("x", "2", "20")));
        feed.take(Event::InitApply(with_uid("y", "1", "30")));
        assert_eq!(feed.take(Event::InitDone).len(), 1);
        assert_eq!(store.get("a", "y").unwrap()["metadata"]["resourceVersion"], "30");
        // And so does what is watched from then on.
        assert_eq!(feed.take(Event::Apply(with_uid("y", "1", "31"))).len(), 1);
    }

    #[test]
    fn only_so_many_deleted_objects_are_remembered() {
        let store = Arc::new(Store::default());
        let mut feed = Feed::new(Arc::clone(&store), None);
        for number in 0..REMEMBERED + 10 {
            let object = with_uid(&format!("x{number}"), "1", "1");
            feed.take(Event::Apply(object.clone()));
            feed.take(Event::Delete(object));
        }
        store.read(|state| assert_eq!((state.gone.len(), state.oldest.len()), (REMEMBERED, REMEMBERED)));
    }

    #[test]
    fn objects_are_found_by_their_group() {
        fn team(object: &Value) -> Option<String> {
            object.pointer("/metadata/labels/team")?.as_str().map(str::to_owned)
        }
        let member = |name: &str, version: &str, team: &str| json!({"metadata": {"namespace": "a", "name": name, "resourceVersion": version, "labels": {"team": team}}});
        let store = Arc::new(Store::grouped(team));
        let mut feed = Feed::new(Arc::clone(&store), None);
        feed.take(Event::Apply(member("x", "1", "red")));
        feed.take(Event::Apply(member("y", "2", "red")));
        feed.take(Event::Apply(member("z", "3", "blue")));
        assert_eq!(store.group("a", "red").len(), 2);
        store.written(member("y", "4", "blue"));
        feed.take(Event::Delete(member("x", "5", "red")));
        assert!(store.group("a", "red").is_empty() && store.group("b", "blue").is_empty());
        assert_eq!(store.group("a", "blue").len(), 2);
        store.read(|state| assert_eq!(state.groups.len(), 1));
    }
}

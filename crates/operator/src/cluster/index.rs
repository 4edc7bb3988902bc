//! Who refers to what.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use skep_api::crd::Kind;

use crate::plan::{Reference, Target};
use crate::queue::Key;

/// Something that can be referred to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Referred {
    /// Namespace of both sides of the reference.
    pub namespace: String,
    /// What is referred to.
    pub reference: Reference,
}

impl Referred {
    /// An object of ours.
    pub fn object(key: &Key) -> Self {
        Self::new(&key.namespace, Target::Object(key.kind), &key.name)
    }

    /// A Secret, a ConfigMap or an object.
    pub fn new(namespace: &str, target: Target, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), reference: Reference { target, name: name.to_owned() } }
    }

    /// The object of ours that this is, if it is one.
    pub fn key(&self) -> Option<Key> {
        match self.reference.target {
            Target::Object(kind) => Some(Key::new(kind, &self.namespace, &self.reference.name)),
            Target::Secret | Target::ConfigMap => None,
        }
    }
}

/// Direct references of every object, both ways.
#[derive(Debug, Default)]
pub struct Index {
    /// What its spec names.
    forward: HashMap<Key, BTreeSet<Reference>>,
    /// What only the content of its ConfigMaps names.
    named: HashMap<Key, BTreeSet<Reference>>,
    reverse: BTreeMap<Referred, BTreeSet<Key>>,
}

impl Index {
    /// Sets what an object's spec refers to. Gives what the object refers to now and did not before, or the
    /// other way round. What the content of ConfigMaps names is forgotten: whoever plans it next reads it anew.
    pub fn set(&mut self, key: &Key, references: BTreeSet<Reference>) -> Vec<Referred> {
        let before = self.of(key);
        self.named.remove(key);
        if references.is_empty() {
            self.forward.remove(key);
        } else {
            self.forward.insert(key.clone(), references);
        }
        self.changed(key, &before)
    }

    /// Sets what an object refers to besides what its spec says, through the content of its ConfigMaps.
    pub fn set_named(&mut self, key: &Key, references: BTreeSet<Reference>) {
        let before = self.of(key);
        if references.is_empty() {
            self.named.remove(key);
        } else {
            self.named.insert(key.clone(), references);
        }
        self.changed(key, &before);
    }

    /// What the content of an object's ConfigMaps named when it was last read.
    pub fn named(&self, key: &Key) -> BTreeSet<Reference> {
        self.named.get(key).cloned().unwrap_or_default()
    }

    fn of(&self, key: &Key) -> BTreeSet<Reference> {
        [&self.forward, &self.named].into_iter().filter_map(|side| side.get(key)).flatten().cloned().collect()
    }

    fn changed(&mut self, key: &Key, before: &BTreeSet<Reference>) -> Vec<Referred> {
        let references = self.of(key);
        let changed: Vec<Referred> = before
            .symmetric_difference(&references)
            .map(|reference| Referred { namespace: key.namespace.clone(), reference: reference.clone() })
            .collect();
        for referred in &changed {
            if references.contains(&referred.reference) {
                self.reverse.entry(referred.clone()).or_default().insert(key.clone());
            } else if let Some(referrers) = self.reverse.get_mut(referred) {
                referrers.remove(key);
                if referrers.is_empty() {
                    self.reverse.remove(referred);
                }
            }
        }
        changed
    }

    /// Objects that refer to something directly.
    pub fn referrers(&self, referred: &Referred) -> BTreeSet<Key> {
        self.reverse.get(referred).cloned().unwrap_or_default()
    }

    /// Groups that an object says it belongs to.
    pub fn memberships(&self, key: &Key) -> Vec<Key> {
        let groups = self.forward.get(key).into_iter().flatten();
        groups
            .filter(|reference| reference.target == Target::Object(Kind::MCPGroup))
            .map(|reference| Key::new(Kind::MCPGroup, &key.namespace, &reference.name))
            .collect()
    }

    /// Objects that refer to something directly or through others. A group does not pass on what concerns it:
    /// its members stand beside it, not on it.
    pub fn affected(&self, referred: &Referred) -> BTreeSet<Key> {
        let mut found = BTreeSet::new();
        let mut open = vec![referred.clone()];
        while let Some(next) = open.pop() {
            for key in self.reverse.get(&next).into_iter().flatten() {
                if found.insert(key.clone()) && key.kind != Kind::MCPGroup {
                    open.push(Referred::object(key));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: Kind, name: &str) -> Key {
        Key::new(kind, "ns", name)
    }

    fn refers(list: &[(Target, &str)]) -> BTreeSet<Reference> {
        list.iter().map(|(target, name)| Reference { target: *target, name: (*name).to_owned() }).collect()
    }

    #[test]
    fn a_secret_affects_the_config_that_names_it_and_the_workloads_behind() {
        let mut index = Index::default();
        let config = key(Kind::MCPExternalAuthConfig, "c");
        index.set(&config, refers(&[(Target::Secret, "s")]));
        index.set(&key(Kind::MCPServer, "a"), refers(&[(Target::Object(Kind::MCPExternalAuthConfig), "c")]));
        index.set(&key(Kind::MCPServer, "b"), refers(&[(Target::Secret, "t")]));
        let affected = index.affected(&Referred::new("ns", Target::Secret, "s"));
        assert_eq!(affected, BTreeSet::from([config, key(Kind::MCPServer, "a")]));
        assert!(index.affected(&Referred::new("other", Target::Secret, "s")).is_empty());
    }

    #[test]
    fn what_is_no_longer_referred_to_is_told_and_forgotten() {
        let mut index = Index::default();
        let server = key(Kind::MCPServer, "a");
        let group = (Target::Object(Kind::MCPGroup), "g");
        assert_eq!(index.set(&server, refers(&[group, (Target::Secret, "s")])).len(), 2);
        assert_eq!(index.set(&server, refers(&[group, (Target::Secret, "s")])), []);
        let changed = index.set(&server, refers(&[group]));
        assert_eq!(changed, [Referred::new("ns", Target::Secret, "s")]);
        index.set(&server, BTreeSet::new());
        assert!(index.referrers(&Referred::new("ns", group.0, group.1)).is_empty());
        assert!(index.forward.is_empty() && index.reverse.is_empty());
    }

    #[test]
    fn what_a_config_map_names_comes_and_goes_without_what_the_spec_says() {
        let mut index = Index::default();
        let server = key(Kind::MCPServer, "a");
        let secret = |name: &str| Referred::new("ns", Target::Secret, name);
        index.set(&server, refers(&[(Target::ConfigMap, "c"), (Target::Secret, "both")]));
        index.set_named(&server, refers(&[(Target::Secret, "s"), (Target::Secret, "both")]));
        assert_eq!(index.affected(&secret("s")), BTreeSet::from([server.clone()]));
        index.set_named(&server, refers(&[(Target::Secret, "t")]));
        assert!(index.affected(&secret("s")).is_empty());
        assert_eq!(index.affected(&secret("both")), BTreeSet::from([server.clone()]));
        assert_eq!(index.affected(&secret("t")), BTreeSet::from([server.clone()]));
        index.set(&server, BTreeSet::new());
        assert!(index.forward.is_empty() && index.named.is_empty() && index.reverse.is_empty());
    }
}

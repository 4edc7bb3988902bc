//! A bounded memory.

use std::collections::HashMap;
use std::hash::Hash;

/// Remembers at most `limit` values; when it is full, half of them goes, and those that were not asked for
/// lately go first.
#[derive(Debug)]
pub(super) struct Memory<K, V> {
    half: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash + Clone, V: Clone> Memory<K, V> {
    /// Nothing yet.
    pub(super) fn new(limit: usize) -> Self {
        Self { half: (limit / 2).max(1), young: HashMap::new(), old: HashMap::new() }
    }

    /// What is remembered, and keeps it for longer.
    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        if let Some(found) = self.young.get(key) {
            return Some(found.clone());
        }
        let found = self.old.remove(key)?;
        self.put(key.clone(), found.clone());
        Some(found)
    }

    /// Remembers a value, in place of the one before.
    pub(super) fn put(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// Forgets.
    pub(super) fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
        let mut memory = Memory::new(8);
        memory.put("hot".to_owned(), 1);
        for index in 0..1000 {
            memory.put(format!("cold {index}"), index);
            assert_eq!(memory.get(&"hot".to_owned()), Some(1), "{index}");
            let held = memory.young.len() + memory.old.len();
            assert!(held <= 8, "{held}");
        }
        assert_eq!(memory.get(&"cold 3".to_owned()), None);
        memory.remove(&"hot".to_owned());
        assert_eq!(memory.get(&"hot".to_owned()), None);
    }
}

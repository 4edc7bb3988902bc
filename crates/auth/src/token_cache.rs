//! What is known of tokens, so that a client's thousandth call costs no signature check.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::identity::Identity;

/// Tokens in one generation; two generations are kept.
const CAPACITY: usize = 4096;

/// SHA-256 of a token.
pub(crate) type Digest = [u8; 32];

/// A verified token. It holds as long as the keys it was verified with and its own times do.
#[derive(Debug, Clone)]
pub(crate) struct Verified {
    pub(crate) identity: Arc<Identity>,
    /// Position of the issuer among those that are trusted.
    pub(crate) issuer: usize,
    pub(crate) keys_generation: u64,
    pub(crate) not_before: i64,
}

/// A bounded map with two generations: when the young one is full it becomes the old one, and what is
/// not asked for again falls out.
#[derive(Debug)]
pub(crate) struct TokenCache<T> {
    generations: Mutex<Generations<T>>,
}

#[derive(Debug)]
struct Generations<T> {
    young: HashMap<Digest, T>,
    old: HashMap<Digest, T>,
}

impl<T> Default for TokenCache<T> {
    fn default() -> Self {
        Self { generations: Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() }) }
    }
}

impl<T: Clone> TokenCache<T> {
    pub(crate) fn get(&self, digest: &Digest) -> Option<T> {
        let mut generations = self.generations.lock().ok()?;
        if let Some(found) = generations.young.get(digest) {
            return Some(found.clone());
        }
        let found = generations.old.remove(digest)?;
        generations.insert(*digest, found.clone());
        Some(found)
    }

    pub(crate) fn insert(&self, digest: Digest, known: T) {
        if let Ok(mut generations) = self.generations.lock() {
            generations.insert(digest, known);
        }
    }

    pub(crate) fn remove(&self, digest: &Digest) {
        if let Ok(mut generations) = self.generations.lock() {
            generations.young.remove(digest);
            generations.old.remove(digest);
        }
    }
}

impl<T> Generations<T> {
    fn insert(&mut self, digest: Digest, known: T) {
        if self.young.len() >= CAPACITY {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified() -> Verified {
        Verified { identity: Arc::new(Identity::of("i", "s")), issuer: 0, keys_generation: 1, not_before: 0 }
    }

    fn digest(number: usize) -> Digest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        digest
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let cache = TokenCache::default();
        cache.insert(digest(0), verified());
        for number in 1..CAPACITY * 5 {
            cache.insert(digest(number), verified());
            assert!(cache.get(&digest(0)).is_some(), "lost after {number}");
        }
        assert!(cache.get(&digest(1)).is_none());
        let generations = cache.generations.lock().unwrap();
        assert!(generations.young.len() + generations.old.len() <= 2 * CAPACITY);
    }
}

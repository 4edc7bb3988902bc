//! Whose tokens were refused of late where they are made into credentials: a second token of the same
//! subject says that a new login does not help.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

/// How long a refusal counts.
const WINDOW: Duration = Duration::from_secs(60);
/// Subjects that are remembered.
const SUBJECTS: usize = 4096;
/// Tokens of one subject that are remembered.
const TOKENS: usize = 4;

/// Digest of issuer and subject.
pub(crate) type Owner = [u8; 32];

/// The owner of a token.
pub(crate) fn owner(issuer: &str, subject: &str) -> Owner {
    // An issuer is a URL and has no NUL in it, so no two pairs give the same text.
    Sha256::new().chain_update(issuer).chain_update([0]).chain_update(subject).finalize().into()
}

/// Bounded memory of refusals.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    subjects: Mutex<HashMap<Owner, Vec<Refusal>>>,
}

#[derive(Debug, Clone, Copy)]
struct Refusal {
    digest: [u8; 32],
    at: Instant,
    repeated: bool,
}

impl Refusals {
    /// Notes that the token with this digest was refused. True when another token of the same owner was
    /// refused within the last minute before this one was first.
    pub(crate) fn note(&self, owner: Owner, digest: [u8; 32], now: Instant) -> bool {
        let Ok(mut subjects) = self.subjects.lock() else { return false };
        if subjects.len() >= SUBJECTS && !subjects.contains_key(&owner) {
            make_room(&mut subjects, now);
        }
        let tokens = subjects.entry(owner).or_default();
        tokens.retain(|refusal| fresh(refusal, now));
        if let Some(known) = tokens.iter_mut().find(|refusal| refusal.digest == digest) {
            known.at = now;
            return known.repeated;
        }
        let repeated = !tokens.is_empty();
        if tokens.len() >= TOKENS {
            tokens.remove(0);
        }
        tokens.push(Refusal { digest, at: now, repeated });
        repeated
    }

    /// Notes that a token of this owner was accepted: whatever was wrong is over.
    pub(crate) fn forget(&self, owner: &Owner) {
        if let Ok(mut subjects) = self.subjects.lock() {
            subjects.remove(owner);
        }
    }
}

fn fresh(refusal: &Refusal, now: Instant) -> bool {
    now.saturating_duration_since(refusal.at) < WINDOW
}

/// What no longer counts goes; if that is nothing, the owner who was refused the longest ago.
fn make_room(subjects: &mut HashMap<Owner, Vec<Refusal>>, now: Instant) {
    subjects.retain(|_, tokens| tokens.iter().any(|refusal| fresh(refusal, now)));
    if subjects.len() < SUBJECTS {
        return;
    }
    let last = |tokens: &Vec<Refusal>| tokens.iter().map(|refusal| refusal.at).max();
    let oldest = subjects.iter().min_by_key(|(_, tokens)| last(tokens)).map(|(owner, _)| *owner);
    if let Some(oldest) = oldest {
        subjects.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_token_of_the_same_subject_within_a_minute_is_a_repetition() {
        let refusals = Refusals::default();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let alice = owner("https://idp.example", "alice");
        let bob = owner("https://idp.example", "bob");
        let table = [
            (alice, 1, 0, false, "the first"),
            (alice, 1, 5, false, "the same again"),
            (bob, 2, 6, false, "somebody else"),
            (alice, 3, 10, true, "a newer one"),
            (alice, 3, 12, true, "the newer one again"),
            (alice, 1, 13, false, "the older one again"),
            (alice, 4, 72, true, "within a minute of the last"),
            (alice, 5, 132, false, "a minute later"),
        ];
        for (who, token, seconds, repeated, what) in table {
            assert_eq!(refusals.note(who, [token; 32], at(seconds)), repeated, "{what}");
        }
        refusals.forget(&alice);
        assert!(!refusals.note(alice, [6; 32], at(133)), "after one was accepted");
    }

    #[test]
    fn the_memory_is_bounded() {
        let refusals = Refusals::default();
        let start = Instant::now();
        for number in 0..SUBJECTS as u64 + 50 {
            let who = owner("https://idp.example", &number.to_string());
            refusals.note(who, [1; 32], start + Duration::from_millis(number));
        }
        let newest = owner("https://idp.example", &(SUBJECTS + 49).to_string());
        {
            let subjects = refusals.subjects.lock().unwrap();
            assert_eq!(subjects.len(), SUBJECTS);
            assert!(subjects.contains_key(&newest));
        }
        for token in 0..50 {
            refusals.note(newest, [token; 32], start);
        }
        assert_eq!(refusals.subjects.lock().unwrap()[&newest].len(), TOKENS);
    }

    #[test]
    fn issuer_and_subject_do_not_run_into_each_other() {
        assert_ne!(owner("https://a", "b"), owner("https://ab", ""));
        assert_ne!(owner("https://a", "bc"), owner("https://ab", "c"));
    }
}

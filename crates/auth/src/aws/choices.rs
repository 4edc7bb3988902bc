//! Which role and session each caller of late has, so that no rule is evaluated again for the next call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::roles::RoleArn;
use super::{AwsError, CAPACITY};
use crate::flight::FlightKey;
use crate::identity::Identity;

/// What the rules say about a caller.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    pub(super) role: RoleArn,
    pub(super) session: Arc<str>,
    /// Of the credentials.
    pub(super) key: FlightKey,
}

/// Bounded memory of choices, by the token's digest. A choice holds for the very identity it was made for:
/// the same token may have other claims once the rules of its issuer change or it is asked about anew.
#[derive(Debug, Default)]
pub(super) struct Choices {
    made: Mutex<HashMap<[u8; 32], Made>>,
}

#[derive(Debug)]
struct Made {
    /// Keeps the place in memory, so that no other identity comes to lie there.
    caller: Weak<Identity>,
    choice: Result<Choice, AwsError>,
}

impl Choices {
    /// The choice for `caller`: the one made before, or that of `choose`.
    pub(super) fn of(
        &self,
        caller: &Arc<Identity>,
        choose: impl FnOnce() -> Result<Choice, AwsError>,
    ) -> Result<Choice, AwsError> {
        let lock = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = lock().get(&caller.token_digest)
            && std::ptr::eq(Weak::as_ptr(&made.caller), Arc::as_ptr(caller))
        {
            return made.choice.clone();
        }
        // Not under the lock: rules may take their time.
        let choice = choose();
        let mut made = lock();
        if made.len() >= CAPACITY && !made.contains_key(&caller.token_digest) {
            made.retain(|_, made| made.caller.strong_count() > 0);
            if made.len() >= CAPACITY {
                made.clear();
            }
        }
        made.insert(caller.token_digest, Made { caller: Arc::downgrade(caller), choice: choice.clone() });
        choice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(number: usize) -> Arc<Identity> {
        let mut caller = Identity::of("https://idp.example", "alice");
        caller.token_digest[..8].copy_from_slice(&number.to_le_bytes());
        Arc::new(caller)
    }

    fn reader() -> Result<Choice, AwsError> {
        let role = RoleArn::parse("arn:aws:iam::123456789012:role/reader").unwrap();
        Ok(Choice { role, session: "alice".into(), key: [1; 32] })
    }

    #[test]
    fn a_choice_is_made_once_for_an_identity_and_anew_for_another_of_the_same_token() {
        let choices = Choices::default();
        let alice = caller(1);
        assert!(choices.of(&alice, reader).is_ok());
        for _ in 0..3 {
            let choice = choices.of(&alice, || panic!("it is known")).unwrap();
            assert_eq!((&*choice.session, choice.key), ("alice", [1; 32]));
        }
        let changed = caller(1);
        for _ in 0..2 {
            let refused = choices.of(&changed, || Err(AwsError::NoRole)).unwrap_err();
            assert_eq!(refused, AwsError::NoRole);
        }
        assert_eq!(choices.of(&changed, || panic!("a refusal is known too")).unwrap_err(), AwsError::NoRole);
    }

    #[test]
    fn the_memory_is_bounded_and_those_who_are_gone_go_first() {
        let choices = Choices::default();
        let stays = caller(usize::MAX);
        choices.of(&stays, reader).unwrap();
        for number in 0..3 * CAPACITY {
            choices.of(&caller(number), reader).unwrap();
            assert!(choices.made.lock().unwrap().len() <= CAPACITY);
        }
        choices.of(&stays, || panic!("it is known")).unwrap();
        let all: Vec<_> = (0..2 * CAPACITY).map(caller).collect();
        for caller in &all {
            choices.of(caller, reader).unwrap();
            assert!(choices.made.lock().unwrap().len() <= CAPACITY);
        }
    }
}

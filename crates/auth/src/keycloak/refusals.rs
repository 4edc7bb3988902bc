//! Logins that Keycloak refused, so that no account is locked by trying them over and over.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use skep_runtime::clock::SharedClock;

use super::Login;

/// The first time that a refused login is left alone; each further refusal doubles it.
const FIRST: Duration = Duration::from_secs(600);
/// The longest.
const LAST: Duration = Duration::from_secs(3600);
/// Logins that are remembered.
const MOST: usize = 16;

/// What was refused. One memory serves all that come with the same logins.
#[derive(Debug)]
pub struct Refusals {
    clock: SharedClock,
    known: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    login: Login,
    times: u32,
    until: Instant,
    refusal: Refusal,
}

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What Keycloak said.
    pub why: String,
    /// How long the login is not tried after that.
    pub pause: Duration,
}

impl Refusals {
    /// Nothing was refused so far.
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, known: Mutex::default() }
    }

    /// The refusal because of which this login is not to be tried now.
    pub fn standing(&self, login: &Login) -> Option<Refusal> {
        let now = self.clock.instant();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.iter().find(|entry| entry.login.same(login))?;
        (now < entry.until).then(|| entry.refusal.clone())
    }

    /// Remembers that this login was refused. Those that were under way at the same time count as one.
    pub fn refused(&self, login: &Login, why: String) -> Refusal {
        let now = self.clock.instant();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.iter().position(|entry| entry.login.same(login)).map(|index| known.remove(index));
        let entry = match before {
            Some(entry) if now < entry.until => entry,
            before => {
                let times = before.map_or(0, |entry| entry.times).saturating_add(1);
                let pause = FIRST.saturating_mul(1 << (times - 1).min(8)).min(LAST);
                let until = now.checked_add(pause).unwrap_or(now);
                Entry { login: login.clone(), times, until, refusal: Refusal { why, pause } }
            }
        };
        let refusal = entry.refusal.clone();
        known.push(entry);
        if known.len() > MOST {
            known.remove(0);
        }
        refusal
    }

    /// Forgets what was remembered of a login that was taken.
    pub fn taken(&self, login: &Login) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|entry| !entry.login.same(login));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_api::secret::Secret;
    use skep_testkit::ManualClock;

    use super::*;

    fn login(secret: &str) -> Login {
        Login::Client { id: "operator".to_owned(), secret: Secret::new(secret) }
    }

    #[test]
    fn a_refused_login_is_left_alone_longer_each_time_and_another_one_is_not() {
        let clock = Arc::new(ManualClock::default());
        let refusals = Refusals::new(Arc::clone(&clock) as SharedClock);
        let (bad, good) = (login("bad"), login("good"));
        for minutes in [10, 20, 40, 60, 60] {
            assert_eq!(refusals.standing(&bad), None);
            let refusal = refusals.refused(&bad, "no".to_owned());
            assert_eq!(refusal.pause, Duration::from_secs(minutes * 60));
            // Another worker was at it too.
            assert_eq!(refusals.refused(&bad, "no".to_owned()), refusal);
            clock.advance(refusal.pause - Duration::from_secs(1));
            assert_eq!(refusals.standing(&bad), Some(refusal));
            assert_eq!(refusals.standing(&good), None);
            clock.advance(Duration::from_secs(1));
        }
        refusals.taken(&bad);
        assert_eq!(refusals.refused(&bad, "no".to_owned()).pause, FIRST);
    }

    #[test]
    fn not_every_login_that_ever_was_is_remembered() {
        let refusals = Refusals::new(Arc::new(ManualClock::default()));
        for number in 0..100 {
            refusals.refused(&login(&number.to_string()), "no".to_owned());
        }
        assert_eq!(refusals.known.lock().unwrap().len(), MOST);
        assert!(refusals.standing(&login("99")).is_some());
    }
}

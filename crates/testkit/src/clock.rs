//! A clock that a test moves by hand.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use skep_runtime::clock::Clock;

/// A clock that stands still until the test moves it. Clones share the time.
#[derive(Debug, Clone)]
pub struct ManualClock {
    start: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    wall: Timestamp,
    elapsed: Duration,
}

impl ManualClock {
    /// A clock that shows the given wall clock time, in seconds since 1970.
    pub fn at(unix_seconds: i64) -> Self {
        let wall = Timestamp::from_second(unix_seconds).expect("a time that can be written down");
        Self { start: Instant::now(), state: Arc::new(Mutex::new(State { wall, elapsed: Duration::ZERO })) }
    }

    /// Moves both the wall clock and the monotonic clock forward.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let signed = SignedDuration::try_from(by).expect("a duration of less than an age");
        state.wall = state.wall.checked_add(signed).expect("a time that can be written down");
        state.elapsed += by;
    }

    /// Moves the wall clock alone, as an operator or NTP does. The monotonic clock does not follow.
    pub fn set_wall(&self, unix_seconds: i64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.wall = Timestamp::from_second(unix_seconds).expect("a time that can be written down");
    }
}

impl Default for ManualClock {
    /// 2026-01-01T00:00:00Z.
    fn default() -> Self {
        Self::at(1_767_225_600)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).wall
    }

    fn instant(&self) -> Instant {
        self.start + self.state.lock().unwrap_or_else(PoisonError::into_inner).elapsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advancing_moves_both_clocks_and_setting_moves_only_the_wall() {
        let clock = ManualClock::default();
        let (wall, start) = (clock.unix_seconds(), clock.instant());
        clock.advance(Duration::from_secs(90));
        assert_eq!(clock.unix_seconds(), wall + 90);
        assert_eq!(clock.since(start), Duration::from_secs(90));
        clock.set_wall(0);
        assert_eq!(clock.unix_seconds(), 0);
        assert_eq!(clock.since(start), Duration::from_secs(90));
    }
}

//! Whether credentials can be had, as far as the last call says.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use skep_runtime::clock::Clock;

/// How long a failure says something about now.
const TELLING: Duration = Duration::from_secs(300);

/// Whether exchanges work, as of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeReadiness {
    /// None was made yet, or the last one failed more than five minutes ago.
    Unknown,
    Ready,
    /// The endpoint refuses this proxy; the code says why.
    Refused(&'static str),
    /// The endpoint's answers are not usable.
    Unusable,
    Unavailable,
}

/// The last call that says anything.
#[derive(Debug, Default)]
pub(crate) struct LastCall {
    noted: Mutex<Option<Noted>>,
}

#[derive(Debug, Clone, Copy)]
struct Noted {
    readiness: ExchangeReadiness,
    /// When a call said so last.
    at: Instant,
    wall: Timestamp,
    /// When a call said so first, with none in between that said otherwise.
    since: Timestamp,
}

impl LastCall {
    /// Notes what a call said.
    pub(crate) fn note(&self, readiness: ExchangeReadiness, clock: &dyn Clock) {
        let (at, wall) = (clock.instant(), clock.now());
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = noted.filter(|noted| noted.readiness == readiness && !noted.is_over(at));
        *noted = Some(Noted { readiness, at, wall, since: before.map_or(wall, |before| before.since) });
    }

    /// What the last call says now, and since when. A success counts until there is a failure; a failure that
    /// nobody has run into for a while may be over.
    pub(crate) fn readiness(&self, now: Instant) -> (ExchangeReadiness, Option<Timestamp>) {
        match *self.noted.lock().unwrap_or_else(PoisonError::into_inner) {
            None => (ExchangeReadiness::Unknown, None),
            Some(noted) if noted.is_over(now) => (ExchangeReadiness::Unknown, noted.end()),
            Some(noted) => (noted.readiness, Some(noted.since)),
        }
    }
}

impl Noted {
    fn is_over(&self, now: Instant) -> bool {
        self.readiness != ExchangeReadiness::Ready && now.saturating_duration_since(self.at) >= TELLING
    }

    fn end(&self) -> Option<Timestamp> {
        self.wall.checked_add(SignedDuration::try_from(TELLING).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use skep_testkit::ManualClock;

    use super::*;

    #[test]
    fn a_failure_says_nothing_any_more_after_five_minutes_and_a_success_does() {
        let last = LastCall::default();
        let clock = ManualClock::at(1000);
        let says = || last.readiness(clock.instant());
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        assert_eq!(says(), (ExchangeReadiness::Unknown, None));
        let mut now = 1000;
        for failure in [
            ExchangeReadiness::Unavailable,
            ExchangeReadiness::Unusable,
            ExchangeReadiness::Refused("invalid_scope"),
        ] {
            last.note(failure, &clock);
            clock.advance(Duration::from_secs(299));
            assert_eq!(says(), (failure, at(now)));
            clock.advance(Duration::from_secs(1));
            now += 300;
            assert_eq!(says(), (ExchangeReadiness::Unknown, at(now)), "{failure:?}");
        }
        last.note(ExchangeReadiness::Ready, &clock);
        clock.advance(Duration::from_secs(40_000));
        assert_eq!(says(), (ExchangeReadiness::Ready, at(now)));
    }

    #[test]
    fn what_goes_on_keeps_the_time_of_its_beginning() {
        let last = LastCall::default();
        let clock = ManualClock::at(0);
        let second = Duration::from_secs(1);
        for (readiness, since) in [
            (ExchangeReadiness::Ready, 0),
            (ExchangeReadiness::Ready, 0),
            (ExchangeReadiness::Unavailable, 2),
            (ExchangeReadiness::Unavailable, 2),
            (ExchangeReadiness::Refused("invalid_client"), 4),
            (ExchangeReadiness::Ready, 5),
        ] {
            last.note(readiness, &clock);
            assert_eq!(last.readiness(clock.instant()).1, Some(Timestamp::from_second(since).unwrap()));
            clock.advance(second);
        }
        // What is over begins anew.
        last.note(ExchangeReadiness::Unavailable, &clock);
        clock.advance(TELLING);
        last.note(ExchangeReadiness::Unavailable, &clock);
        assert_eq!(last.readiness(clock.instant()).1, Some(Timestamp::from_second(306).unwrap()));
    }
}

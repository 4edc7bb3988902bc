//! The gate that lets only a leader write, and only while its lease lasts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use skep_runtime::clock::SharedClock;
use thiserror::Error;
use tokio::sync::watch;

/// A point in time, by both clocks. It is over when either says so: the monotonic clock stands still while a
/// machine is suspended, and the wall clock can be set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    instant: Instant,
    wall: Timestamp,
}

impl Deadline {
    /// This moment.
    pub fn now(clock: &SharedClock) -> Self {
        Self { instant: clock.instant(), wall: clock.now() }
    }

    /// `after` this moment.
    pub fn after(clock: &SharedClock, after: Duration) -> Self {
        Self::now(clock).plus(after)
    }

    /// `by` later than this one.
    pub fn plus(self, by: Duration) -> Self {
        let signed = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
        Self {
            instant: self.instant.checked_add(by).unwrap_or(self.instant),
            wall: self.wall.checked_add(signed).unwrap_or(Timestamp::MAX),
        }
    }

    /// How long it is until then; zero when it is over.
    pub fn left(&self, clock: &SharedClock) -> Duration {
        let monotonic = self.instant.saturating_duration_since(clock.instant());
        let wall = Duration::try_from(self.wall.duration_since(clock.now())).unwrap_or_default();
        monotonic.min(wall)
    }
}

/// Why a write was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GateClosed {
    /// Another process leads, or nobody does.
    #[error("this operator is not the leader, so it writes nothing")]
    NotLeader,
    /// The lease ends too soon to be sure that the write arrives before its end.
    #[error("{} ms of the lease are left, less than the {} ms that a write needs", left.as_millis(), margin.as_millis())]
    TooLate {
        /// What is left.
        left: Duration,
        /// What a write needs.
        margin: Duration,
    },
    /// The lease was lost while the write was on its way. It may have been carried out or not.
    #[error("the lease was lost while a write was on its way; whether it was carried out is not known")]
    LostMeanwhile,
}

/// What a gate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Until(Deadline),
    Always,
}

/// Lets writes (POST, PUT, PATCH, DELETE) through while it is open. Clones are the same gate.
///
/// The Kubernetes API has no way to refuse a write by an age of leadership, so the fence stands here: a write
/// is sent only when more than `margin` of the lease is left, and given up when the lease ends first.
#[derive(Debug, Clone)]
pub struct WriteGate {
    clock: SharedClock,
    margin: Duration,
    state: Arc<watch::Sender<State>>,
}

impl WriteGate {
    /// A closed gate. It lets no write through when less than `margin` is left of what it is open for.
    pub fn closed(clock: SharedClock, margin: Duration) -> Self {
        Self { clock, margin, state: Arc::new(watch::Sender::new(State::Closed)) }
    }

    /// A gate that is open for good: one operator alone, with no leader election.
    pub fn always_open(clock: SharedClock) -> Self {
        Self { clock, margin: Duration::ZERO, state: Arc::new(watch::Sender::new(State::Always)) }
    }

    /// Opens it until then, or moves its end.
    pub fn open_until(&self, deadline: Deadline) {
        self.state.send_replace(State::Until(deadline));
    }

    /// Closes it. Writes that are on their way are given up.
    pub fn close(&self) {
        self.state.send_replace(State::Closed);
    }

    /// Whether a write may be sent now.
    ///
    /// # Errors
    /// When it may not.
    pub fn check(&self) -> Result<(), GateClosed> {
        let state = *self.state.borrow();
        match state {
            State::Always => Ok(()),
            State::Closed => Err(GateClosed::NotLeader),
            State::Until(deadline) => {
                let left = deadline.left(&self.clock);
                if left > self.margin {
                    Ok(())
                } else {
                    Err(GateClosed::TooLate { left, margin: self.margin })
                }
            }
        }
    }

    /// Waits until the gate is closed or what it was open for is over.
    pub async fn shut(&self) {
        let mut state = self.state.subscribe();
        loop {
            let now = *state.borrow_and_update();
            let changed = state.changed();
            match now {
                State::Closed => return,
                State::Always => drop(changed.await),
                State::Until(deadline) => {
                    let left = deadline.left(&self.clock);
                    if left.is_zero() {
                        return;
                    }
                    // Either the deadline has moved, or it is here; the loop looks again.
                    drop(tokio::time::timeout(left, changed).await);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use skep_runtime::clock::Clock as _;
    use skep_testkit::ManualClock;

    use super::*;

    const LEASE: Duration = Duration::from_secs(15);
    const MARGIN: Duration = Duration::from_secs(1);

    fn gate() -> (ManualClock, SharedClock, WriteGate) {
        let manual = ManualClock::default();
        let clock: SharedClock = Arc::new(manual.clone());
        let gate = WriteGate::closed(Arc::clone(&clock), MARGIN);
        (manual, clock, gate)
    }

    #[test]
    fn it_lets_writes_through_until_shortly_before_the_end_of_the_lease() {
        let (manual, clock, gate) = gate();
        assert_eq!(gate.check(), Err(GateClosed::NotLeader));
        gate.open_until(Deadline::after(&clock, LEASE));
        assert_eq!(gate.check(), Ok(()));
        manual.advance(Duration::from_millis(13_999));
        assert_eq!(gate.check(), Ok(()));
        manual.advance(Duration::from_millis(1));
        assert_eq!(gate.check(), Err(GateClosed::TooLate { left: MARGIN, margin: MARGIN }));
        gate.open_until(Deadline::after(&clock, LEASE));
        assert_eq!(gate.check(), Ok(()));
        gate.close();
        assert_eq!(gate.check(), Err(GateClosed::NotLeader));
    }

    #[test]
    fn a_machine_that_was_suspended_writes_nothing_after_the_lease_though_its_monotonic_clock_stood_still() {
        let (manual, clock, gate) = gate();
        gate.open_until(Deadline::after(&clock, LEASE));
        manual.set_wall(manual.unix_seconds() + 60);
        assert!(matches!(gate.check(), Err(GateClosed::TooLate { .. })));
    }

    #[test]
    fn a_wall_clock_that_was_set_back_makes_no_lease_longer() {
        let (manual, clock, gate) = gate();
        gate.open_until(Deadline::after(&clock, LEASE));
        manual.set_wall(manual.unix_seconds() - 3_600);
        assert_eq!(gate.check(), Ok(()));
        manual.advance(LEASE);
        assert!(matches!(gate.check(), Err(GateClosed::TooLate { .. })));
    }

    #[tokio::test]
    async fn closing_wakes_who_waits_for_it() {
        let (_, clock, gate) = gate();
        gate.open_until(Deadline::after(&clock, LEASE));
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.shut().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        gate.close();
        waiting.await.expect("it ends");
    }
}

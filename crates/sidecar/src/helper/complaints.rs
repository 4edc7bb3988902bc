//! Saying the same thing once a minute, not once a second.

use std::time::{Duration, Instant};

use skep_runtime::clock::SharedClock;

/// How long the same complaint is not said again.
const QUIET: Duration = Duration::from_secs(60);

/// Remembers what was said last.
#[derive(Debug)]
pub(super) struct Complaints {
    clock: SharedClock,
    last: Option<(String, Instant)>,
}

impl Complaints {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { clock, last: None }
    }

    /// True when this is new, or was said a minute ago.
    pub(super) fn worth_saying(&mut self, complaint: &str) -> bool {
        let fresh = match &self.last {
            Some((last, when)) => last != complaint || self.clock.since(*when) >= QUIET,
            None => true,
        };
        if fresh {
            self.last = Some((complaint.to_owned(), self.clock.instant()));
        }
        fresh
    }

    /// All is well; true when there had been something to complain about.
    pub(super) fn settle(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_testkit::ManualClock;

    use super::*;

    #[test]
    fn a_complaint_is_said_again_after_a_minute_or_when_it_changes() {
        let clock = ManualClock::default();
        let mut complaints = Complaints::new(Arc::new(clock.clone()));
        assert!(complaints.worth_saying("a"));
        clock.advance(Duration::from_secs(59));
        assert!(!complaints.worth_saying("a"));
        clock.advance(Duration::from_secs(1));
        assert!(complaints.worth_saying("a"));
        assert!(complaints.worth_saying("b"));
        assert!(complaints.settle() && !complaints.settle());
        assert!(complaints.worth_saying("b"));
    }
}

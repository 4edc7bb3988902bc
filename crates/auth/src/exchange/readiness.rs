//! Whether credentials can be had, as far as the last call says.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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
    noted: Mutex<Option<(ExchangeReadiness, Instant)>>,
}

impl LastCall {
    /// Notes what a call said.
    pub(crate) fn note(&self, readiness: ExchangeReadiness, now: Instant) {
        *self.noted.lock().unwrap_or_else(PoisonError::into_inner) = Some((readiness, now));
    }

    /// What the last call says now. A success counts until there is a failure; a failure that nobody has
    /// run into for a while may be over.
    pub(crate) fn readiness(&self, now: Instant) -> ExchangeReadiness {
        match *self.noted.lock().unwrap_or_else(PoisonError::into_inner) {
            None => ExchangeReadiness::Unknown,
            Some((ExchangeReadiness::Ready, _)) => ExchangeReadiness::Ready,
            Some((_, at)) if now.saturating_duration_since(at) >= TELLING => ExchangeReadiness::Unknown,
            Some((failure, _)) => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_nothing_any_more_after_five_minutes_and_a_success_does() {
        let last = LastCall::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(last.readiness(at(0)), ExchangeReadiness::Unknown);
        for failure in [
            ExchangeReadiness::Unavailable,
            ExchangeReadiness::Unusable,
            ExchangeReadiness::Refused("invalid_scope"),
        ] {
            last.note(failure, at(10));
            assert_eq!(last.readiness(at(309)), failure);
            assert_eq!(last.readiness(at(310)), ExchangeReadiness::Unknown, "{failure:?}");
        }
        last.note(ExchangeReadiness::Ready, at(400));
        assert_eq!(last.readiness(at(40_000)), ExchangeReadiness::Ready);
    }
}

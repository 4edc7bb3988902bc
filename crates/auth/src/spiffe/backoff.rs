//! Pauses that grow while something fails.

use std::time::Duration;

use skep_runtime::rng::SharedRng;

/// The bounds of the pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryTimes {
    /// The first pause.
    pub first: Duration,
    /// No pause is longer.
    pub longest: Duration,
}

impl Default for RetryTimes {
    /// One second to one minute.
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(60) }
    }
}

/// Pauses that double with each failure. Each is up to a tenth shorter than its full length, so that all the
/// pods of a node don't come back to their agent in the same instant.
#[derive(Debug)]
pub struct Backoff {
    times: RetryTimes,
    rng: SharedRng,
    next: Duration,
}

impl Backoff {
    /// Starts with the first pause.
    pub fn new(times: RetryTimes, rng: SharedRng) -> Self {
        Self { times, rng, next: times.first }
    }

    /// The pause after one more failure.
    pub fn pause(&mut self) -> Duration {
        let full = self.next.min(self.times.longest);
        self.next = full.saturating_mul(2);
        let mut byte = [0_u8; 1];
        self.rng.fill(&mut byte);
        let [less] = byte;
        // less / 256 of a tenth.
        full.saturating_sub(full.saturating_mul(u32::from(less)) / 2560)
    }

    /// Starts again with the first pause.
    pub fn reset(&mut self) {
        self.next = self.times.first;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_testkit::SeededRng;

    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_again() {
        let mut backoff = Backoff::new(RetryTimes::default(), Arc::new(SeededRng::new(1)));
        for full in [1, 2, 4, 8, 16, 32, 60, 60] {
            let pause = backoff.pause();
            let full = Duration::from_secs(full);
            assert!(
                pause <= full && pause > full * 9 / 10 - Duration::from_millis(1),
                "{pause:?} of {full:?}"
            );
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_secs(1));
    }
}

//! Time as an argument, so that tests decide what time it is.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Wall clock and monotonic clock.
pub trait Clock: Debug + Send + Sync {
    /// Wall clock time.
    fn now(&self) -> jiff::Timestamp;

    /// A point on the monotonic clock, for durations and deadlines.
    fn instant(&self) -> Instant;

    /// Wall clock time in whole seconds since 1970, as JWT claims count (RFC 7519 NumericDate).
    fn unix_seconds(&self) -> i64 {
        self.now().as_second()
    }

    /// Time that went by since `start`.
    fn since(&self, start: Instant) -> Duration {
        self.instant().saturating_duration_since(start)
    }
}

/// A clock that is handed around.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's own clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The machine's clocks, ready to be handed around.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

//! How a service ends: not ready, then no new work, then gone.

use std::time::Duration;

use tokio::sync::watch;

/// Where a service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Takes work.
    Serving,
    /// Still takes work, but `/readyz` says no, so that load balancers look elsewhere.
    Leaving,
    /// Takes no new connections; calls that run are finished, standing streams are told to reconnect.
    Draining,
    /// Everything that is left is cut off.
    Stopped,
}

/// How long each phase of leaving lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainTimes {
    /// From not ready until no new connections are taken.
    pub pre_stop: Duration,
    /// For running calls to finish.
    pub grace: Duration,
}

impl Default for DrainTimes {
    fn default() -> Self {
        Self { pre_stop: Duration::from_secs(5), grace: Duration::from_secs(30) }
    }
}

/// The side that decides.
#[derive(Debug, Clone)]
pub struct Drain {
    phase: watch::Sender<Phase>,
}

/// The side that obeys.
#[derive(Debug, Clone)]
pub struct DrainWatch {
    phase: watch::Receiver<Phase>,
}

impl Drain {
    /// A service that is serving.
    pub fn new() -> Self {
        Self { phase: watch::Sender::new(Phase::Serving) }
    }

    /// A view for the parts of the service.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch { phase: self.phase.subscribe() }
    }

    /// Moves on to `phase`; never backwards.
    pub fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let later = phase > *current;
            if later {
                *current = phase;
            }
            later
        });
    }

    /// Goes through all phases. `idle` ends the grace period early; it resolves once nothing runs.
    pub async fn run(&self, times: DrainTimes, idle: impl Future<Output = ()>) {
        self.advance(Phase::Leaving);
        tokio::time::sleep(times.pre_stop).await;
        self.advance(Phase::Draining);
        let _ = tokio::time::timeout(times.grace, idle).await;
        self.advance(Phase::Stopped);
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl DrainWatch {
    /// The phase right now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until `phase` or a later one. A service whose [`Drain`] is gone counts as stopped.
    pub async fn reached(&mut self, phase: Phase) {
        let _ = self.phase.wait_for(|current| *current >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_goes_through_its_phases_and_ends_early_when_idle() {
        let drain = Drain::new();
        let mut watch = drain.watch();
        let started = tokio::time::Instant::now();
        drain.run(DrainTimes::default(), async {}).await;
        assert_eq!(started.elapsed(), Duration::from_secs(5));
        watch.reached(Phase::Stopped).await;
        assert_eq!(watch.phase(), Phase::Stopped);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_ends_is_cut_off_after_the_grace_period() {
        let drain = Drain::new();
        let started = tokio::time::Instant::now();
        drain.run(DrainTimes::default(), std::future::pending()).await;
        assert_eq!(started.elapsed(), Duration::from_secs(35));
    }

    #[test]
    fn a_phase_never_goes_back() {
        let drain = Drain::new();
        drain.advance(Phase::Draining);
        drain.advance(Phase::Leaving);
        assert_eq!(drain.watch().phase(), Phase::Draining);
    }
}

//! Answers that keep coming, over restarts of the agent.

use std::pin::Pin;
use std::time::{Duration, Instant};

use ::spiffe::WorkloadApiError;
use futures_util::future::BoxFuture;
use futures_util::stream::{Stream, StreamExt as _};
use skep_runtime::clock::SharedClock;
use skep_runtime::rng::SharedRng;

use super::backoff::{Backoff, RetryTimes};
use super::error::{Call, WorkloadError};
use super::{JwtBundleSet, WorkloadApi, X509Context, in_time};

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, WorkloadApiError>> + Send>>;
type Opening<T> = BoxFuture<'static, Result<Messages<T>, WorkloadError>>;

/// One thing that happened on a stream.
#[derive(Debug)]
pub enum Event<T> {
    /// The agent sent a message. It replaces all that was sent before: what is not in it is taken back
    /// (SPIFFE Workload API §6.2).
    Update(T),
    /// The stream is broken and will be opened again after `pause`.
    Trouble {
        /// What happened.
        error: WorkloadError,
        /// How long the next attempt waits.
        pause: Duration,
    },
}

/// A stream of the Workload API that is opened again whenever it breaks: at once when it had been standing
/// for a while, as the standard wants it, and after growing pauses otherwise.
pub struct Updates<T> {
    call: Call,
    open: Box<dyn Fn() -> Opening<T> + Send + Sync>,
    clock: SharedClock,
    backoff: Backoff,
    /// From here on a stream counts as one that had been standing.
    steady: Duration,
    state: State<T>,
}

enum State<T> {
    Waiting { until: Option<tokio::time::Instant> },
    Open { messages: Messages<T>, since: Instant },
}

impl<T> std::fmt::Debug for Updates<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Updates").field("call", &self.call).finish_non_exhaustive()
    }
}

impl WorkloadApi {
    /// The X.509-SVIDs of the workload and their bundles, now and whenever they change.
    pub fn watch_x509(&self, times: RetryTimes, clock: SharedClock, rng: SharedRng) -> Updates<X509Context> {
        let api = self.clone();
        let open = move || -> Opening<X509Context> {
            let api = api.clone();
            Box::pin(async move {
                let client = api.connect(Call::X509Svids).await?;
                let messages = in_time(Call::X509Svids, client.stream_x509_contexts()).await?;
                Ok(Box::pin(messages) as Messages<X509Context>)
            })
        };
        Updates::new(Call::X509Svids, Box::new(open), times, clock, rng)
    }

    /// The JWT bundles of all trust domains that the workload trusts, now and whenever they change.
    pub fn watch_jwt_bundles(
        &self,
        times: RetryTimes,
        clock: SharedClock,
        rng: SharedRng,
    ) -> Updates<JwtBundleSet> {
        let api = self.clone();
        let open = move || -> Opening<JwtBundleSet> {
            let api = api.clone();
            Box::pin(async move {
                let client = api.connect(Call::JwtBundles).await?;
                let messages = in_time(Call::JwtBundles, client.stream_jwt_bundles()).await?;
                Ok(Box::pin(messages) as Messages<JwtBundleSet>)
            })
        };
        Updates::new(Call::JwtBundles, Box::new(open), times, clock, rng)
    }
}

impl<T> Updates<T> {
    fn new(
        call: Call,
        open: Box<dyn Fn() -> Opening<T> + Send + Sync>,
        times: RetryTimes,
        clock: SharedClock,
        rng: SharedRng,
    ) -> Self {
        let backoff = Backoff::new(times, rng);
        Self { call, open, clock, backoff, steady: times.first, state: State::Waiting { until: None } }
    }

    /// Waits for the next event. May be dropped and called again: no message is lost by that.
    ///
    /// # Errors
    /// A failure of the kind that waiting does not help with. Further calls try again nevertheless.
    pub async fn next(&mut self) -> Result<Event<T>, WorkloadError> {
        loop {
            match &mut self.state {
                State::Waiting { until } => {
                    if let Some(until) = *until {
                        tokio::time::sleep_until(until).await;
                    }
                    match (self.open)().await {
                        Ok(messages) => {
                            self.state = State::Open { messages, since: self.clock.instant() };
                        }
                        Err(error) => return self.broken(error, None),
                    }
                }
                State::Open { messages, since } => {
                    let since = *since;
                    return match messages.next().await {
                        Some(Ok(message)) => Ok(Event::Update(message)),
                        Some(Err(error)) => self.broken(WorkloadError::of(self.call, error), Some(since)),
                        None => self.broken(WorkloadError::Ended { call: self.call }, Some(since)),
                    };
                }
            }
        }
    }

    /// Closes the stream and says when it is opened again.
    fn broken(&mut self, error: WorkloadError, since: Option<Instant>) -> Result<Event<T>, WorkloadError> {
        let stood = since.is_some_and(|since| self.clock.since(since) >= self.steady);
        let pause = if stood {
            self.backoff.reset();
            Duration::ZERO
        } else {
            self.backoff.pause()
        };
        self.state = State::Waiting { until: Some(tokio::time::Instant::now() + pause) };
        if error.kind().is_permanent() { Err(error) } else { Ok(Event::Trouble { error, pause }) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use futures_util::stream;
    use skep_testkit::{ManualClock, SeededRng};

    use super::*;

    type Script = VecDeque<Result<Vec<Result<u8, WorkloadApiError>>, WorkloadError>>;

    fn updates(script: Script) -> (Updates<u8>, ManualClock) {
        let clock = ManualClock::default();
        let script = Arc::new(Mutex::new(script));
        let open = move || -> Opening<u8> {
            let next = script.lock().unwrap().pop_front().expect("one more attempt");
            Box::pin(async move { next.map(|items| Box::pin(stream::iter(items)) as Messages<u8>) })
        };
        let times = RetryTimes::default();
        let rng = Arc::new(SeededRng::new(3));
        (Updates::new(Call::X509Svids, Box::new(open), times, Arc::new(clock.clone()), rng), clock)
    }

    fn late() -> WorkloadError {
        WorkloadError::Late { call: Call::X509Svids }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_stood_is_opened_again_at_once() {
        let script = VecDeque::from([Ok(vec![Ok(1)]), Ok(vec![Ok(2)])]);
        let (mut updates, clock) = updates(script);
        assert!(matches!(updates.next().await, Ok(Event::Update(1))));
        clock.advance(Duration::from_secs(5));
        let Ok(Event::Trouble { error, pause }) = updates.next().await else { panic!("a broken stream") };
        assert!(matches!(error, WorkloadError::Ended { .. }));
        assert_eq!(pause, Duration::ZERO);
        assert!(matches!(updates.next().await, Ok(Event::Update(2))));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_and_an_end_right_after_the_start_is_one() {
        let script = VecDeque::from([Err(late()), Ok(vec![Ok(1)]), Err(late()), Ok(vec![Ok(2)])]);
        let (mut updates, _clock) = updates(script);
        let started = tokio::time::Instant::now();
        let mut pauses = Vec::new();
        let mut messages = Vec::new();
        while messages.len() < 2 {
            match updates.next().await.unwrap() {
                Event::Update(message) => messages.push(message),
                Event::Trouble { pause, .. } => pauses.push(pause.as_secs_f64()),
            }
        }
        assert_eq!(messages, [1, 2]);
        let fits =
            pauses.iter().zip([1.0, 2.0, 4.0]).all(|(pause, full)| *pause <= full && *pause > full * 0.89);
        assert!(fits && pauses.len() == 3, "{pauses:?}");
        assert!(started.elapsed() > Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_an_error() {
        let refused = || WorkloadError::Refused {
            call: Call::X509Svids,
            code: "unimplemented",
            message: String::new(),
        };
        let (mut updates, _clock) = updates(VecDeque::from([Err(refused())]));
        assert!(updates.next().await.is_err());
    }
}

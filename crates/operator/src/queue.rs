//! What has to be reconciled: each object once, when it is due, never twice at the same time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use skep_api::crd::Kind;
use skep_runtime::rng::SharedRng;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// One object of ours, by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// The key of an object.
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Delay after the first failure; it doubles with each.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// Longest delay between retries.
const LAST_RETRY: Duration = Duration::from_secs(300);

/// The queue. All methods may be called from any task.
pub struct Queue {
    state: Mutex<State>,
    woken: Notify,
    rng: SharedRng,
    show: Box<dyn Fn(usize, usize) + Send + Sync>,
}

#[derive(Debug, Default)]
struct State {
    /// When each waiting key is due.
    due: HashMap<Key, Instant>,
    /// The same, in order.
    order: BTreeSet<(Instant, Key)>,
    running: HashSet<Key>,
    /// Keys that were added while they ran, with the time at which they are due again.
    again: BTreeMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

impl Queue {
    /// An empty queue; `rng` spreads retries. `show` is told after every change how many keys wait and how many
    /// are being worked on.
    pub fn new(rng: SharedRng, show: impl Fn(usize, usize) + Send + Sync + 'static) -> Self {
        Self { state: Mutex::default(), woken: Notify::new(), rng, show: Box::new(show) }
    }

    /// Has `key` reconciled as soon as possible.
    pub fn add(&self, key: Key) {
        self.schedule(key, Instant::now());
    }

    /// Has `key` reconciled after `delay`, or earlier when it is due earlier already.
    pub fn add_after(&self, key: Key, delay: Duration) {
        self.schedule(key, Instant::now() + delay);
    }

    /// Has `key` reconciled after a delay that doubles with each failure, up to five minutes, with jitter.
    /// Gives the delay.
    pub fn retry(&self, key: Key) -> Duration {
        let failures = self.with(|state| {
            let count = state.failures.entry(key.clone()).or_default();
            *count = count.saturating_add(1);
            *count
        });
        let doubled =
            FIRST_RETRY.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let mut byte = [0_u8; 1];
        self.rng.fill(&mut byte);
        // Between three quarters and five quarters.
        let delay = doubled.min(LAST_RETRY).mul_f64(0.75 + f64::from(byte[0]) / 510.0);
        self.add_after(key, delay);
        delay
    }

    /// Forgets the failures of `key`.
    pub fn succeeded(&self, key: &Key) {
        self.with(|state| state.failures.remove(key));
    }

    /// Waits for the next key that is due. Whoever takes it says [`Queue::done`] afterwards; until then
    /// nobody else gets it.
    pub async fn take(&self) -> Key {
        loop {
            // Asked for before looking, so that nothing that is added in between is missed.
            let woken = self.woken.notified();
            let next = self.with(State::pop);
            match next {
                Ok((key, more)) => {
                    // One wake-up may stand for several keys.
                    if more {
                        self.woken.notify_one();
                    }
                    return key;
                }
                Err(Some(due)) => {
                    tokio::select! {
                        () = woken => {}
                        () = sleep_until(due) => {}
                    }
                }
                Err(None) => woken.await,
            }
        }
    }

    /// Says that the work on `key` has ended. When it was added in the meantime, it is due again.
    pub fn done(&self, key: &Key) {
        let again = self.with(|state| {
            state.running.remove(key);
            let again = state.again.remove(key);
            if let Some(due) = again {
                state.schedule(key.clone(), due);
            }
            again
        });
        if again.is_some() {
            self.woken.notify_one();
        }
    }

    /// How many keys wait, and how many are being worked on.
    pub fn depth(&self) -> (usize, usize) {
        self.with(|state| state.depth())
    }

    /// True when nothing is being worked on and nothing is due at this moment.
    pub fn is_idle(&self) -> bool {
        let now = Instant::now();
        self.with(|state| state.running.is_empty() && state.order.first().is_none_or(|(due, _)| *due > now))
    }

    fn schedule(&self, key: Key, due: Instant) {
        self.with(|state| state.schedule(key, due));
        // A waiting worker may sleep until a later key is due.
        self.woken.notify_one();
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = state.depth();
        let result = act(&mut state);
        let (waiting, running) = state.depth();
        if (waiting, running) != before {
            (self.show)(waiting, running);
        }
        result
    }
}

impl State {
    fn depth(&self) -> (usize, usize) {
        (self.due.len() + self.again.len(), self.running.len())
    }

    fn schedule(&mut self, key: Key, due: Instant) {
        if self.running.contains(&key) {
            let at = self.again.entry(key).or_insert(due);
            *at = due.min(*at);
            return;
        }
        match self.due.get(&key).copied() {
            Some(earlier) if earlier <= due => return,
            Some(later) => {
                self.order.remove(&(later, key.clone()));
            }
            None => {}
        }
        self.due.insert(key.clone(), due);
        self.order.insert((due, key));
    }

    /// The next key that is due and whether there are more, or when there will be one.
    fn pop(&mut self) -> Result<(Key, bool), Option<Instant>> {
        let Some((due, key)) = self.order.first().cloned() else { return Err(None) };
        if due > Instant::now() {
            return Err(Some(due));
        }
        self.order.remove(&(due, key.clone()));
        self.due.remove(&key);
        self.running.insert(key.clone());
        Ok((key, !self.order.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_testkit::SeededRng;

    use super::*;

    fn queue() -> Arc<Queue> {
        Arc::new(Queue::new(Arc::new(SeededRng::new(1)), |_, _| {}))
    }

    fn key(name: &str) -> Key {
        Key::new(Kind::MCPServer, "ns", name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_added_twice_comes_once() {
        let queue = queue();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.take().await, key("a"));
        queue.done(&key("a"));
        assert_eq!(queue.depth(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_added_while_it_runs_comes_again_but_not_at_the_same_time() {
        let queue = queue();
        queue.add(key("a"));
        let running = queue.take().await;
        queue.add(key("a"));
        queue.add(key("b"));
        assert_eq!(queue.take().await, key("b"));
        assert!(tokio::time::timeout(Duration::from_secs(1), queue.take()).await.is_err());
        queue.done(&running);
        assert_eq!(queue.take().await, key("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_times_counts() {
        let queue = queue();
        let start = Instant::now();
        queue.add_after(key("a"), Duration::from_secs(60));
        queue.add_after(key("a"), Duration::from_secs(10));
        queue.add_after(key("a"), Duration::from_secs(30));
        assert_eq!(queue.take().await, key("a"));
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_sleeps_is_woken_for_an_earlier_key() {
        let queue = queue();
        queue.add_after(key("late"), Duration::from_secs(60));
        let taken = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.take().await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        queue.add(key("now"));
        assert_eq!(taken.await.unwrap(), key("now"));
    }

    #[tokio::test(start_paused = true)]
    async fn retries_wait_longer_each_time_but_never_forever() {
        let queue = queue();
        let mut delays = Vec::new();
        for _ in 0..20 {
            delays.push(queue.retry(key("a")));
            let taken = queue.take().await;
            queue.done(&taken);
        }
        assert!(
            delays[0] >= FIRST_RETRY.mul_f64(0.74) && delays[0] <= FIRST_RETRY.mul_f64(1.26),
            "{delays:?}"
        );
        assert!(delays[4] > delays[0] * 4, "{delays:?}");
        assert!(delays.iter().all(|delay| *delay <= LAST_RETRY.mul_f64(1.26)), "{delays:?}");
        queue.succeeded(&key("a"));
        assert!(queue.retry(key("a")) <= FIRST_RETRY.mul_f64(1.26));
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_and_runs_is_shown_after_every_change() {
        let shown: Arc<Mutex<Vec<(usize, usize)>>> = Arc::default();
        let told = Arc::clone(&shown);
        let queue = Queue::new(Arc::new(SeededRng::new(1)), move |waiting, running| {
            told.lock().unwrap().push((waiting, running));
        });
        queue.add(key("a"));
        queue.add(key("b"));
        queue.add(key("a"));
        let taken = queue.take().await;
        queue.add(taken.clone());
        queue.done(&taken);
        let last = queue.take().await;
        queue.done(&last);
        let last = queue.take().await;
        queue.done(&last);
        let expected = [(1, 0), (2, 0), (1, 1), (2, 1), (2, 0), (1, 1), (1, 0), (0, 1), (0, 0)];
        assert_eq!(*shown.lock().unwrap(), expected);
    }
}

//! What is expensive to get is got once: kept while it is good, asked for by one caller at a time.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use skep_runtime::clock::SharedClock;
use tokio::sync::watch;

/// How often everything that has expired is dropped: what is kept may be good elsewhere for longer.
const SWEEP: Duration = Duration::from_secs(60);

/// Key of what is kept: a digest, so that no token lies in the map.
pub type FlightKey = [u8; 32];

/// How long an outcome is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// For those who wait now, and nobody after.
    No,
    /// As long as this.
    For(Duration),
}

/// An outcome, and whether it was at hand.
#[derive(Debug, Clone)]
pub struct Landed<V, E> {
    /// What came of it.
    pub outcome: Result<V, E>,
    /// True when nothing had to be asked: it was kept from before.
    pub kept: bool,
}

/// A bounded cache in which of many callers for one key one flies and all land. A flight goes on when
/// the caller who began it hangs up. What has expired is dropped by the first flight a minute later.
#[derive(Debug)]
pub struct FlightCache<V, E> {
    clock: SharedClock,
    capacity: usize,
    slots: Mutex<Slots<V, E>>,
}

#[derive(Debug)]
struct Slots<V, E> {
    map: HashMap<FlightKey, Slot<V, E>>,
    /// When everything that had expired was dropped the last time.
    swept: Instant,
}

#[derive(Debug)]
enum Slot<V, E> {
    Kept { outcome: Result<V, E>, since: Instant, keep: Duration },
    Flying(watch::Receiver<Option<Result<V, E>>>),
}

impl<V, E> FlightCache<V, E>
where
    V: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// An empty cache for at most `capacity` outcomes.
    pub fn new(capacity: usize, clock: SharedClock) -> Arc<Self> {
        let slots = Mutex::new(Slots { map: HashMap::new(), swept: clock.instant() });
        Arc::new(Self { clock, capacity, slots })
    }

    /// The outcome for `key`: the one at hand, that of the flight under way, or that of `fetch`. `lost` is
    /// the outcome when a flight ends without one, which only a panic or a shutdown brings about.
    pub async fn get<F, Fut>(self: &Arc<Self>, key: FlightKey, lost: E, fetch: F) -> Landed<V, E>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = (Result<V, E>, Keep)> + Send + 'static,
    {
        let mut landing = match self.join(key, fetch) {
            Ok(outcome) => return Landed { outcome, kept: true },
            Err(landing) => landing,
        };
        let outcome = match landing.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone().unwrap_or(Err(lost)),
            Err(_) => Err(lost),
        };
        Landed { outcome, kept: false }
    }

    /// What is at hand for `key`.
    pub fn peek(&self, key: &FlightKey) -> Option<Result<V, E>> {
        let slots = self.slots.lock().ok()?;
        match slots.map.get(key)? {
            Slot::Kept { outcome, since, keep } if self.clock.since(*since) < *keep => Some(outcome.clone()),
            _ => None,
        }
    }

    /// Forgets what is kept for `key`. A flight under way is left alone: it is newer.
    pub fn evict(&self, key: &FlightKey) {
        let Ok(mut slots) = self.slots.lock() else { return };
        if matches!(slots.map.get(key), Some(Slot::Kept { .. })) {
            slots.map.remove(key);
        }
    }

    /// Number of keys that are kept or under way.
    pub fn len(&self) -> usize {
        self.slots.lock().map_or(0, |slots| slots.map.len())
    }

    /// True when nothing is kept or under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[expect(clippy::type_complexity, reason = "an outcome, or the place where it will be")]
    fn join<F, Fut>(
        self: &Arc<Self>,
        key: FlightKey,
        fetch: F,
    ) -> Result<Result<V, E>, watch::Receiver<Option<Result<V, E>>>>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = (Result<V, E>, Keep)> + Send + 'static,
    {
        let (sender, receiver) = watch::channel(None);
        {
            let Ok(mut slots) = self.slots.lock() else { return Err(receiver) };
            match slots.map.get(&key) {
                Some(Slot::Kept { outcome, since, keep }) if self.clock.since(*since) < *keep => {
                    return Ok(outcome.clone());
                }
                // A flight whose end nobody can tell any more is flown again.
                Some(Slot::Flying(landing))
                    if landing.has_changed().is_ok() || landing.borrow().is_some() =>
                {
                    return Err(landing.clone());
                }
                _ => {}
            }
            self.make_room(&mut slots);
            slots.map.insert(key, Slot::Flying(receiver.clone()));
        }
        let flight = fetch();
        let cache = Arc::clone(self);
        tokio::spawn(async move {
            let (outcome, keep) = flight.await;
            cache.land(key, outcome.clone(), keep);
            let _ = sender.send(Some(outcome));
        });
        Err(receiver)
    }

    fn land(&self, key: FlightKey, outcome: Result<V, E>, keep: Keep) {
        let Ok(mut slots) = self.slots.lock() else { return };
        match keep {
            Keep::No => {
                slots.map.remove(&key);
            }
            Keep::For(keep) => {
                slots.map.insert(key, Slot::Kept { outcome, since: self.clock.instant(), keep });
            }
        }
    }

    /// When it is full, and once a minute: what has expired goes, then, if it is still full, half of what
    /// is kept, the soonest to expire first. Flights stay.
    fn make_room(&self, slots: &mut Slots<V, E>) {
        let Slots { map: slots, swept } = slots;
        if slots.len() < self.capacity && self.clock.since(*swept) < SWEEP {
            return;
        }
        *swept = self.clock.instant();
        slots.retain(|_, slot| match slot {
            Slot::Kept { since, keep, .. } => self.clock.since(*since) < *keep,
            Slot::Flying(_) => true,
        });
        if slots.len() < self.capacity {
            return;
        }
        let mut left: Vec<(Duration, FlightKey)> = slots
            .iter()
            .filter_map(|(key, slot)| match slot {
                Slot::Kept { since, keep, .. } => Some((keep.saturating_sub(self.clock.since(*since)), *key)),
                Slot::Flying(_) => None,
            })
            .collect();
        left.sort_unstable();
        for (_, key) in left.iter().take(self.capacity.div_ceil(2)) {
            slots.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use skep_testkit::ManualClock;
    use tokio::sync::oneshot;

    use super::*;

    type Numbers = FlightCache<usize, &'static str>;

    fn key(number: usize) -> FlightKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        key
    }

    fn cache(capacity: usize) -> (Arc<Numbers>, ManualClock) {
        let clock = ManualClock::default();
        (FlightCache::new(capacity, Arc::new(clock.clone())), clock)
    }

    async fn fetched(
        cache: &Arc<Numbers>,
        number: usize,
        value: usize,
        keep: Keep,
    ) -> Landed<usize, &'static str> {
        cache.get(key(number), "lost", || async move { (Ok(value), keep) }).await
    }

    #[tokio::test]
    async fn what_is_kept_is_not_fetched_again_until_it_is_old() {
        let (cache, clock) = cache(8);
        let keep = Keep::For(Duration::from_secs(10));
        assert!(!fetched(&cache, 1, 1, keep).await.kept);
        let again = fetched(&cache, 1, 2, keep).await;
        assert_eq!((again.outcome, again.kept), (Ok(1), true));
        clock.advance(Duration::from_secs(10));
        assert_eq!(cache.peek(&key(1)), None);
        assert_eq!(fetched(&cache, 1, 3, keep).await.outcome, Ok(3));
        cache.evict(&key(1));
        assert_eq!(fetched(&cache, 1, 4, Keep::No).await.outcome, Ok(4));
        assert_eq!(fetched(&cache, 1, 5, Keep::No).await.outcome, Ok(5));
    }

    #[tokio::test]
    async fn many_callers_make_one_flight() {
        let (cache, _) = cache(8);
        let flights = Arc::new(AtomicUsize::new(0));
        let (land, landing) = oneshot::channel::<()>();
        let mut landing = Some(landing);
        let mut callers = Vec::new();
        for _ in 0..50 {
            let cache = Arc::clone(&cache);
            let flights = Arc::clone(&flights);
            let landing = landing.take();
            callers.push(tokio::spawn(async move {
                cache
                    .get(key(7), "lost", || async move {
                        flights.fetch_add(1, Ordering::SeqCst);
                        if let Some(landing) = landing {
                            let _ = landing.await;
                        }
                        (Ok(7), Keep::For(Duration::from_secs(60)))
                    })
                    .await
                    .outcome
            }));
        }
        tokio::task::yield_now().await;
        land.send(()).unwrap();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), Ok(7));
        }
        assert_eq!(flights.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_flight_goes_on_when_its_first_caller_is_gone() {
        let (cache, _) = cache(8);
        let (land, landing) = oneshot::channel::<()>();
        let first = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move {
                cache
                    .get(key(1), "lost", || async move {
                        let _ = landing.await;
                        (Ok(1), Keep::For(Duration::from_secs(60)))
                    })
                    .await
                    .outcome
            }
        });
        while cache.is_empty() {
            tokio::task::yield_now().await;
        }
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let second = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move { fetched(&cache, 1, 2, Keep::No).await.outcome }
        });
        land.send(()).unwrap();
        assert_eq!(second.await.unwrap(), Ok(1));
    }

    #[tokio::test]
    async fn a_flight_that_crashes_is_flown_again() {
        let (cache, _) = cache(8);
        let crashed = cache.get(key(1), "lost", || async { panic!("as a test wants it") }).await;
        assert_eq!(crashed.outcome, Err("lost"));
        assert_eq!(fetched(&cache, 1, 2, Keep::No).await.outcome, Ok(2));
    }

    #[tokio::test]
    async fn what_has_expired_is_dropped_within_a_minute_of_use() {
        let (cache, clock) = cache(100_000);
        fetched(&cache, 0, 0, Keep::For(Duration::from_secs(3600))).await;
        for number in 1..=10_000 {
            fetched(&cache, number, number, Keep::For(Duration::from_secs(1))).await;
        }
        assert_eq!(cache.len(), 10_001);
        clock.advance(SWEEP);
        fetched(&cache, 20_000, 0, Keep::For(Duration::from_secs(1))).await;
        assert_eq!(cache.len(), 2, "the new one, and the one that is still good");
        assert_eq!(cache.peek(&key(0)), Some(Ok(0)));
    }

    #[tokio::test]
    async fn the_cache_is_bounded() {
        let (cache, clock) = cache(100);
        for number in 0..1000 {
            fetched(&cache, number, number, Keep::For(Duration::from_secs(60))).await;
            clock.advance(Duration::from_millis(1));
            assert!(cache.len() <= 100, "{} after {number}", cache.len());
            assert_eq!(cache.peek(&key(number)), Some(Ok(number)), "the newest stays");
        }
    }
}

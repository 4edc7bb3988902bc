//! What one address may make us ask of an issuer before it is known who calls.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use skep_runtime::clock::SharedClock;

use crate::error::AuthError;

/// Calls in a row that may come to nothing.
const BURST: i64 = 20;
/// Calls a second that may come to nothing after that.
const PER_SECOND: i64 = 2;
/// Calls of one source that may be under way at a time. Nobody knows yet what comes of them.
const UNDER_WAY: u32 = 100;
/// Sources that are kept at a time.
const SOURCES: usize = 8192;

/// Levels are counted in thousandths, so that time adds to them without rounding.
const UNIT: i64 = 1000;

/// Bounds the calls to issuers that the tokens of one source bring about and that come to nothing. Good
/// tokens cost nothing, so many callers behind one address do not get into each other's way as long as
/// they are who they say. A source that has used up what it may is refused until its level has grown
/// again, without any effect on others.
#[derive(Debug)]
pub struct SourceLimiter {
    clock: SharedClock,
    sources: Mutex<HashMap<IpAddr, Source>>,
}

#[derive(Debug, Clone, Copy)]
struct Source {
    /// Calls that may still come to nothing, in thousandths; below zero it is in debt.
    level: i64,
    seen: Instant,
    under_way: u32,
}

/// A call under way for a source.
#[derive(Debug)]
pub struct Work {
    limiter: Arc<SourceLimiter>,
    source: IpAddr,
}

impl SourceLimiter {
    /// A limiter that knows of no source yet.
    pub fn new(clock: SharedClock) -> Arc<Self> {
        Arc::new(Self { clock, sources: Mutex::default() })
    }

    /// Begins a call for a source. An IPv6 network of 64 bits is one source, since whoever has one
    /// address of it has them all.
    ///
    /// # Errors
    /// [`AuthError::SourceLimited`] when too many of its calls came to nothing, or are under way.
    pub fn begin(self: &Arc<Self>, source: IpAddr) -> Result<Work, AuthError> {
        let source = network(source);
        let limited = |retry_after| AuthError::SourceLimited { retry_after };
        let mut sources = self.sources.lock().map_err(|_| limited(1))?;
        let now = self.clock.instant();
        if sources.len() >= SOURCES && !sources.contains_key(&source) {
            make_room(&mut sources, now);
            if sources.len() >= SOURCES {
                return Err(limited(1));
            }
        }
        let entry = sources.entry(source).or_insert(Source { level: BURST * UNIT, seen: now, under_way: 0 });
        entry.refill(now);
        if entry.level < UNIT {
            let missing = u64::try_from(UNIT - entry.level).unwrap_or(1);
            return Err(limited(missing.div_ceil((PER_SECOND * UNIT).unsigned_abs())));
        }
        if entry.under_way >= UNDER_WAY {
            return Err(limited(1));
        }
        entry.under_way += 1;
        drop(sources);
        Ok(Work { limiter: Arc::clone(self), source })
    }
}

impl Work {
    /// The call is over, and nobody was let in for it.
    pub fn came_to_nothing(self) {
        self.charge(i64::MIN);
    }

    /// The call failed, and nobody knows whether somebody should have been let in. That makes no debts:
    /// those who waited for an issuer to come back are not made to wait any longer.
    pub fn failed(self) {
        self.charge(0);
    }

    /// Takes one from the level, but not to below `least`.
    fn charge(&self, least: i64) {
        if let Ok(mut sources) = self.limiter.sources.lock()
            && let Some(entry) = sources.get_mut(&self.source)
        {
            entry.refill(self.limiter.clock.instant());
            entry.level = (entry.level - UNIT).max(least.min(entry.level));
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Ok(mut sources) = self.limiter.sources.lock()
            && let Some(entry) = sources.get_mut(&self.source)
        {
            entry.under_way = entry.under_way.saturating_sub(1);
        }
    }
}

impl Source {
    fn refill(&mut self, now: Instant) {
        let millis = now.saturating_duration_since(self.seen).as_millis();
        let gained = i64::try_from(millis).unwrap_or(i64::MAX).saturating_mul(PER_SECOND);
        self.level = self.level.saturating_add(gained).min(BURST * UNIT);
        self.seen = now;
    }
}

/// Whoever has all it may have again is forgotten; if that is not enough, the half that is nearest to it.
fn make_room(sources: &mut HashMap<IpAddr, Source>, now: Instant) {
    sources.retain(|_, source| {
        source.refill(now);
        source.under_way > 0 || source.level < BURST * UNIT
    });
    if sources.len() < SOURCES {
        return;
    }
    let mut idle: Vec<(i64, IpAddr)> = sources
        .iter()
        .filter(|(_, source)| source.under_way == 0)
        .map(|(address, source)| (-source.level, *address))
        .collect();
    idle.sort_unstable();
    for (_, address) in idle.iter().take(SOURCES / 2) {
        sources.remove(address);
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use skep_testkit::ManualClock;

    use super::*;

    fn limiter() -> (Arc<SourceLimiter>, ManualClock) {
        let clock = ManualClock::default();
        (SourceLimiter::new(Arc::new(clock.clone())), clock)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How many failures in a row a source gets away with.
    fn failures(limiter: &Arc<SourceLimiter>, source: IpAddr) -> usize {
        std::iter::from_fn(|| limiter.begin(source).ok().map(Work::came_to_nothing)).take(1000).count()
    }

    #[test]
    fn a_flood_is_stopped_and_its_source_recovers() {
        let (limiter, clock) = limiter();
        let source = ip("192.0.2.1");
        assert_eq!(failures(&limiter, source), 20);
        assert_eq!(limiter.begin(source).unwrap_err(), AuthError::SourceLimited { retry_after: 1 });
        assert_eq!(failures(&limiter, ip("192.0.2.2")), 20, "another source is another matter");
        clock.advance(Duration::from_millis(499));
        assert!(limiter.begin(source).is_err());
        clock.advance(Duration::from_millis(1));
        assert_eq!(failures(&limiter, source), 1);
        clock.advance(Duration::from_secs(3600));
        assert_eq!(failures(&limiter, source), 20);
    }

    #[test]
    fn calls_that_let_somebody_in_cost_nothing() {
        let (limiter, _) = limiter();
        for _ in 0..1000 {
            drop(limiter.begin(ip("192.0.2.1")).unwrap());
        }
        assert_eq!(failures(&limiter, ip("192.0.2.1")), 20);
    }

    #[test]
    fn calls_under_way_are_bounded_and_make_debts() {
        let (limiter, clock) = limiter();
        let source = ip("192.0.2.1");
        let work: Vec<Work> = std::iter::from_fn(|| limiter.begin(source).ok()).take(1000).collect();
        assert_eq!(work.len(), 100);
        work.into_iter().for_each(Work::came_to_nothing);
        assert_eq!(limiter.begin(source).unwrap_err(), AuthError::SourceLimited { retry_after: 41 });
        clock.advance(Duration::from_secs(40));
        assert!(limiter.begin(source).is_err());
        clock.advance(Duration::from_secs(1));
        assert!(limiter.begin(source).is_ok());
    }

    #[test]
    fn calls_that_failed_make_no_debts_and_pay_none_back() {
        let (limiter, clock) = limiter();
        let source = ip("192.0.2.1");
        let work: Vec<Work> = std::iter::from_fn(|| limiter.begin(source).ok()).take(1000).collect();
        work.into_iter().for_each(Work::failed);
        assert_eq!(limiter.begin(source).unwrap_err(), AuthError::SourceLimited { retry_after: 1 });
        clock.advance(Duration::from_millis(500));
        let (first, second) = (limiter.begin(source).unwrap(), limiter.begin(source).unwrap());
        first.came_to_nothing();
        second.came_to_nothing();
        let in_debt = limiter.begin(source).unwrap_err();
        assert_eq!(in_debt, AuthError::SourceLimited { retry_after: 1 });
        clock.advance(Duration::from_millis(999));
        assert!(limiter.begin(source).is_err(), "one for the debt, one for the next call");
        clock.advance(Duration::from_millis(1));
        assert!(limiter.begin(source).is_ok());
    }

    #[test]
    fn a_network_of_64_bits_is_one_source_and_a_mapped_address_is_its_own() {
        let (limiter, _) = limiter();
        assert_eq!(failures(&limiter, ip("2001:db8:0:1::1")), 20);
        assert!(limiter.begin(ip("2001:db8:0:1:ffff::2")).is_err());
        assert!(limiter.begin(ip("2001:db8:0:2::1")).is_ok());
        assert_eq!(failures(&limiter, ip("::ffff:192.0.2.9")), 20);
        assert!(limiter.begin(ip("192.0.2.9")).is_err());
    }

    #[test]
    fn the_number_of_sources_is_bounded() {
        let (limiter, _) = limiter();
        for number in 0..SOURCES * 3 {
            let source = IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
            limiter.begin(source).unwrap().came_to_nothing();
            assert!(limiter.sources.lock().unwrap().len() <= SOURCES);
        }
        assert_eq!(failures(&limiter, ip("192.0.2.1")), 20);
        for number in 0..SOURCES / 4 {
            drop(limiter.begin(IpAddr::from(u32::try_from(number).unwrap().to_be_bytes())));
        }
        assert!(limiter.begin(ip("192.0.2.1")).is_err(), "the worst are kept longest");
    }
}

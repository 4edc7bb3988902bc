//! Callers for whom the MCP server refused even a new credential. Another one would not help, and asking
//! for it at every call would make the server's fault the identity provider's load.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long no further credential is made.
const HOLD: Duration = Duration::from_secs(10);
/// Callers that are remembered: no fewer than tokens are kept, for whoever is left out is asked for.
const CALLERS: usize = 16_384;

/// Digest of the caller's token.
type Who = [u8; 32];

/// A bounded memory of such refusals.
#[derive(Debug, Default)]
pub struct Doubts {
    callers: Mutex<HashMap<Who, Instant>>,
}

impl Doubts {
    /// True when a new credential was refused for this caller less than ten seconds ago.
    pub fn about(&self, who: &Who, now: Instant) -> bool {
        let Ok(callers) = self.callers.lock() else { return true };
        callers.get(who).is_some_and(|since| fresh(*since, now))
    }

    /// Notes that a new credential was refused.
    pub fn note(&self, who: Who, now: Instant) {
        let Ok(mut callers) = self.callers.lock() else { return };
        if callers.len() >= CALLERS {
            callers.retain(|_, since| fresh(*since, now));
        }
        if callers.len() < CALLERS {
            callers.insert(who, now);
        }
    }
}

fn fresh(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < HOLD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubts_end_and_are_bounded() {
        let doubts = Doubts::default();
        let start = Instant::now();
        doubts.note([1; 32], start);
        assert!(doubts.about(&[1; 32], start + Duration::from_secs(9)));
        assert!(!doubts.about(&[2; 32], start));
        assert!(!doubts.about(&[1; 32], start + HOLD));
        for number in 0..20_000_u64 {
            let mut who = [0; 32];
            who[..8].copy_from_slice(&number.to_le_bytes());
            doubts.note(who, start);
        }
        assert!(doubts.callers.lock().unwrap().len() <= CALLERS);
        let mut known = [0; 32];
        known[..8].copy_from_slice(&10_000_u64.to_le_bytes());
        assert!(doubts.about(&known, start), "all callers of a large server are remembered");
    }
}

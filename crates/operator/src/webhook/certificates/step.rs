//! What is to be done about the Secret: a pure function of what is in it and of the time.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::authority::BACKDATED;
use super::kept::Kept;

/// What a certificate should be.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Names that it is for.
    pub(super) names: Vec<String>,
    /// How long CAs that sign nothing any more are still announced.
    pub(super) retire: Duration,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A new CA has to be made, and announced before it signs.
    Authority,
    /// The CA that signs has to sign a new certificate.
    Leaf {
        /// Other CAs are announced too, so that something of theirs may still be presented: whoever has to
        /// trust the new one gets time to learn of it.
        overlap: bool,
    },
    /// CAs that sign nothing any more have to go, and what is no CA.
    Retire {
        /// How many of the first ones stay.
        keep: usize,
    },
    /// Nothing, until then.
    Rest {
        /// When the next step is due.
        until: Timestamp,
    },
}

/// The first step that is due.
pub(super) fn step(kept: &Kept, wanted: &Wanted, now: Timestamp) -> Step {
    let Some((signer, _)) = kept.signer() else { return Step::Authority };
    let signer_due = due(signer.not_before, signer.not_after);
    if signer_due <= now {
        return Step::Authority;
    }
    let overlap = kept.authorities.len() > 1;
    let Some(leaf) = kept.leaf.as_ref().ok().filter(|_| kept.current) else { return Step::Leaf { overlap } };
    let leaf_due = due(leaf.not_before(), leaf.not_after());
    let named = wanted.names.iter().all(|name| leaf.names().contains(name));
    if !named || leaf_due <= now {
        return Step::Leaf { overlap };
    }
    // Every replica had the certificate of the new CA that long.
    let retired = later(leaf.not_before(), BACKDATED + wanted.retire);
    if overlap && retired <= now {
        return Step::Retire { keep: 1 };
    }
    if kept.leftovers {
        return Step::Retire { keep: kept.authorities.len() };
    }
    let next = leaf_due.min(signer_due);
    Step::Rest { until: if overlap { next.min(retired) } else { next } }
}

/// When a third of the time is left that a certificate had when it was made.
fn due(not_before: Timestamp, not_after: Timestamp) -> Timestamp {
    let had = not_after.duration_since(later(not_before, BACKDATED)).max(SignedDuration::ZERO);
    not_after.checked_sub(had / 3).unwrap_or(not_after)
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

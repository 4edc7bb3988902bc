//! Leader election: one operator writes.

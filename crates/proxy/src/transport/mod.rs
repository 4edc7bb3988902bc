//! Framing of what goes over the wire.

pub mod answer;
pub mod scan;
pub mod sse;

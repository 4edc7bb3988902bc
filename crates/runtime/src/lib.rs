//! The shell around every service of skep: time, randomness, logs, metrics, health, listeners and drain.

pub mod clock;
pub mod diagnostics;
pub mod drain;
pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod rng;
pub mod tls;
pub mod watch;

//! The admission webhook: mutation of MCPServers and pods, validation of every kind, and the certificates that
//! it is served with.

pub mod access;
pub mod certificates;
pub mod hook;
mod lines;
mod memory;
pub mod metrics;
pub mod metrics_guard;
mod mutate;
mod pods;
pub mod reload;
pub mod review;
pub mod reviewer;
mod run;
pub mod server;
pub mod settings;
pub mod size;
mod validate;
pub mod world;

pub use self::metrics::WebhookMetrics;
pub use self::reviewer::Reviewer;
pub use self::run::{Parts, RunError, run, watched};
pub use self::server::Server;

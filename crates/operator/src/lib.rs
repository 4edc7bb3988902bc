//! What custom resources mean ([`plan`], pure) and the controllers that apply it.

pub mod apply;
pub mod client;
pub mod cluster;
pub mod controllers;
pub mod events;
pub mod leader;
pub mod metrics;
pub mod migrator;
pub mod observe;
pub mod permissions;
pub mod plan;
pub mod queue;
pub mod run;
pub mod settings;
pub mod sidecars;
pub mod status;
pub mod webhook;

pub use self::run::{Observer, Parts, RunError, run};

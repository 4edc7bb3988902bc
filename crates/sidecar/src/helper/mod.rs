//! `skep sidecar spiffe-helper`: SVIDs, keys and bundles from the SPIFFE Workload API, in files.
//!
//! Reads the configuration of spiffe-helper 0.11 and does what it says, and besides:
//! - files are replaced in one step each, and only when their content changes; a set of certificate, key and
//!   bundle is written in an order that a reader who reacts to the certificate can rely on: bundle, key, certificate; modes are right also where a file was there before;
//! - an agent that is down, restarts or knows no identity yet is waited for;
//! - the process or the pid file is told about every renewal, also of JWT-SVIDs;
//! - health checks say which output is missing, and liveness fails before credentials run out.

mod complaints;
mod config;
mod error;
mod health;
mod outputs;
mod process;
mod render;
mod service;
mod status;

pub use self::config::{
    Advice, BundleChoice, CommandLine, ConfigError, ConfigProblem, FileMode, HealthSettings, HelperConfig,
    JwtOutput, RenewSignal, Target, X509Outputs,
};
pub use self::error::{Failure, HelperError};
pub use self::render::RenderError;
pub use self::service::{Helper, HelperSettings, run};
pub use crate::files::WriteError;

//! Why the helper ends, and why a file is not new.

use std::path::PathBuf;

use skep_auth::spiffe::{AddressError, WorkloadError};

use super::config::ConfigError;
use super::render::RenderError;
use crate::files::WriteError;

/// Why the helper can't begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the environment says where the SPIFFE agent is, but not how it should")]
    Agent(#[source] AddressError),
    #[error("cannot listen on port {port} for health checks")]
    Listen {
        port: u16,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot provide {output}")]
    Output {
        output: String,
        #[source]
        source: Failure,
    },
    #[error("told to end before everything was written")]
    Stopped,
    #[error("a part of the helper broke down")]
    Broken(#[source] tokio::task::JoinError),
}

/// Why one output could not be renewed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

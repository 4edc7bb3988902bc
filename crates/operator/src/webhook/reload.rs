//! The config file, read again when it changes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use skep_runtime::health::Readiness;
use skep_runtime::watch::SteadyWatch;
use thiserror::Error;

use super::metrics::WebhookMetrics;
use crate::cluster::feed::chain;
use crate::sidecars::config::ConfigError;
use crate::sidecars::{Policy, SidecarConfig};

/// The part of readiness warnings that is about the config file.
pub const PART: &str = "config file";

/// The policy that counts at the moment. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Policies(Arc<RwLock<Arc<Policy>>>);

impl Policies {
    /// Counts from the start.
    pub fn new(policy: Policy) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(policy))))
    }

    /// What counts now.
    pub fn get(&self) -> Arc<Policy> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// True when that is another config than before.
    fn set_config(&self, config: SidecarConfig) -> bool {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if current.config == config {
            return false;
        }
        *current = Arc::new(Policy { config, ..Policy::clone(&current) });
        true
    }
}

/// Why a version of the config file is not used.
#[derive(Debug, Error)]
enum ReloadError {
    #[error("the config file {} can't be read", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the config file {} is not valid", path.display())]
    Parse { path: PathBuf, source: ConfigError },
}

/// Where a config file is, and who is told about it.
#[derive(Debug, Clone)]
pub struct Reload {
    pub file: PathBuf,
    /// What counts where the file says nothing.
    pub base: SidecarConfig,
    pub policies: Policies,
    pub readiness: Readiness,
    pub metrics: WebhookMetrics,
}

impl Reload {
    /// Reads the file now and whenever it changes, for as long as this is polled. A version that can't be used is
    /// told, and the one before stays.
    pub async fn run(self) {
        // Before it is read, so that no change falls in between.
        let mut watch = SteadyWatch::new([self.file.clone()]);
        let mut said = String::new();
        loop {
            self.once(&mut said).await;
            watch.changed().await;
        }
    }

    async fn once(&self, said: &mut String) {
        let (file, base) = (self.file.clone(), self.base.clone());
        let read = tokio::task::spawn_blocking(move || read(&file, base)).await;
        let Ok(read) = read else { return };
        match read {
            Ok(config) => {
                said.clear();
                self.readiness.unwarn(PART);
                if self.policies.set_config(config) {
                    self.metrics.config_reload(true);
                    tracing::info!(file = %self.file.display(), "the config file has changed");
                }
            }
            Err(error) => {
                let error = chain(&error);
                // The same mistake is counted and told once.
                if *said != error {
                    self.metrics.config_reload(false);
                    tracing::warn!(error, "the config of before stays");
                    error.clone_into(said);
                }
                self.readiness.warn(PART, format!("{error}; the config of before stays"));
            }
        }
    }
}

fn read(file: &Path, base: SidecarConfig) -> Result<SidecarConfig, ReloadError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| ReloadError::Read { path: file.to_owned(), source })?;
    SidecarConfig::parse_over(base, &text)
        .map_err(|source| ReloadError::Parse { path: file.to_owned(), source })
}

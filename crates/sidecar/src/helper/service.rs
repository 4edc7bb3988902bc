//! The helper as a whole: from its settings to its end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use skep_auth::spiffe::{AgentAddress, DEFAULT_SOCKET, RetryTimes, WorkloadApi};
use skep_runtime::clock::SharedClock;
use skep_runtime::drain::{Drain, Phase};
use skep_runtime::rng::SharedRng;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::config::{ConfigError, ConfigProblem, FileMode, HelperConfig, Target};
use super::error::HelperError;
use super::health::HealthListener;
use super::outputs::{self, Work};
use super::process::Readers;
use super::status::Status;

/// What the command line and the environment say.
#[derive(Debug, Clone, Default)]
pub struct HelperSettings {
    /// The configuration file.
    pub config: PathBuf,
    /// Overrides `daemon_mode` of the file.
    pub daemon: Option<bool>,
    /// One more file for the JWT bundles, whatever the configuration says. Everybody may read it, unless the
    /// configuration has a `jwt_bundle_file_mode`.
    pub jwt_bundle_file: Option<PathBuf>,
    /// The value of `SPIFFE_ENDPOINT_SOCKET`, used when the file has no `agent_address`.
    pub endpoint_socket: Option<String>,
    /// The pauses after failures.
    pub retry: RetryTimes,
}

/// A helper that has read its configuration and bound its port.
#[derive(Debug)]
pub struct Helper {
    work: Arc<Work>,
    health: Option<HealthListener>,
}

/// Reads the configuration, and does what it says until `stop`, or, in one-shot mode, until every file is
/// written.
///
/// # Errors
/// See [`Helper::start`] and [`Helper::run`].
pub async fn run(
    settings: HelperSettings,
    clock: SharedClock,
    rng: SharedRng,
    stop: CancellationToken,
) -> Result<(), HelperError> {
    Helper::start(settings, clock, rng).await?.run(stop).await
}

impl Helper {
    /// Reads the configuration and binds the port of the health checks.
    ///
    /// # Errors
    /// When the configuration can't be read or used, or the port is taken.
    pub async fn start(
        settings: HelperSettings,
        clock: SharedClock,
        rng: SharedRng,
    ) -> Result<Self, HelperError> {
        let text = tokio::fs::read_to_string(&settings.config)
            .await
            .map_err(|source| HelperError::Read { path: settings.config.clone(), source })?;
        let file = settings.config.display().to_string();
        let config = HelperConfig::parse(&text, &file)?;
        let jwt_bundles = bundle_targets(&config, settings.jwt_bundle_file, file)?;
        let api = WorkloadApi::new(agent(&config, settings.endpoint_socket.as_deref())?);
        let once = !settings.daemon.unwrap_or(config.daemon);
        say_what_is_ahead(&config, &api, once);
        let health = match &config.health {
            Some(health) if !once => Some(HealthListener::bind(health)?),
            _ => None,
        };
        let status = Status::new(Arc::clone(&clock), outputs::outputs(&config, &jwt_bundles));
        let retry = settings.retry;
        let work = Work { api, config, jwt_bundles, status: Arc::new(status), clock, rng, retry, once };
        Ok(Self { work: Arc::new(work), health })
    }

    /// Where health checks are answered.
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health.as_ref().and_then(HealthListener::address)
    }

    /// Keeps the files new until `stop`; then ends the command and returns. In one-shot mode it returns when
    /// every file is written.
    ///
    /// An agent that can't be reached or has no identity for this pod yet is waited for, and so is a folder
    /// that can't be written to, though not in one-shot mode.
    ///
    /// # Errors
    /// When the agent refuses a call in a way that waiting doesn't change; in one-shot mode also when an
    /// output can't be written, and when told to stop before all were.
    pub async fn run(self, stop: CancellationToken) -> Result<(), HelperError> {
        let drain = Drain::new();
        let checks = self
            .health
            .map(|health| tokio::spawn(health.serve(Arc::clone(&self.work.status), drain.watch())));
        let readers_stop = CancellationToken::new();
        let readers = (!self.work.once).then(|| {
            let readers = Readers::new(&self.work.config, self.work.retry.first);
            tokio::spawn(readers.run(self.work.status.renewals(), readers_stop.clone()))
        });
        let mut tasks = outputs::start(&self.work);
        let ended = tokio::select! {
            ended = all(&mut tasks) => ended,
            () = stop.cancelled() => if self.work.once { Err(HelperError::Stopped) } else { Ok(()) },
        };
        tasks.shutdown().await;
        readers_stop.cancel();
        if let Some(readers) = readers {
            readers.await.map_err(HelperError::Broken)?;
        }
        drain.advance(Phase::Stopped);
        if let Some(checks) = checks {
            checks.await.map_err(HelperError::Broken)?;
        }
        ended
    }
}

/// Waits for all tasks, or for the first that fails.
async fn all(tasks: &mut JoinSet<Result<(), HelperError>>) -> Result<(), HelperError> {
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(HelperError::Broken)??;
    }
    Ok(())
}

fn agent(config: &HelperConfig, endpoint_socket: Option<&str>) -> Result<AgentAddress, HelperError> {
    if let Some(agent) = &config.agent {
        return Ok(agent.clone());
    }
    match endpoint_socket.filter(|text| !text.is_empty()) {
        Some(text) => AgentAddress::parse(text).map_err(HelperError::Agent),
        None => Ok(AgentAddress::unix(DEFAULT_SOCKET)),
    }
}

/// The files of the JWT bundles: the configuration's and the one of the command line.
fn bundle_targets(
    config: &HelperConfig,
    extra: Option<PathBuf>,
    file: String,
) -> Result<Vec<Target>, HelperError> {
    let mut targets: Vec<Target> = config.jwt_bundle.iter().cloned().collect();
    let Some(path) = extra.filter(|path| !targets.iter().any(|target| target.path == *path)) else {
        return Ok(targets);
    };
    if config.targets().any(|target| target.path == path) {
        let problem = ConfigProblem::SameFile { path: path.display().to_string() };
        return Err(ConfigError { file, line: None, problem }.into());
    }
    targets.push(Target { path, mode: config.jwt_bundle_mode.unwrap_or(FileMode::PUBLIC) });
    Ok(targets)
}

fn say_what_is_ahead(config: &HelperConfig, api: &WorkloadApi, once: bool) {
    tracing::info!(agent = %api.address(), once, "asking for SVIDs");
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    if once && (config.command.is_some() || config.pid_file.is_some() || config.health.is_some()) {
        tracing::warn!("cmd, pid_file_name and health_checks have no effect without daemon_mode");
    }
}

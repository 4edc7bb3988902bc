//! The tasks that keep the files new, one for each output.

mod jwt_bundles;
mod jwt_svid;
mod x509;

use std::sync::Arc;
use std::time::Duration;

use skep_auth::spiffe::{Backoff, JwtBundleSet, Kind, RetryTimes, WorkloadApi};
use skep_runtime::clock::SharedClock;
use skep_runtime::logging::chain;
use skep_runtime::rng::SharedRng;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::complaints::Complaints;
use super::config::{HelperConfig, Target};
use super::error::{Failure, HelperError};
use super::render::Content;
use super::status::{Output, Status};
use crate::files::{self, NewFile};

/// What all tasks need.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) api: WorkloadApi,
    pub(super) config: HelperConfig,
    /// Where the JWT bundles go; empty: nowhere.
    pub(super) jwt_bundles: Vec<Target>,
    pub(super) status: Arc<Status>,
    pub(super) clock: SharedClock,
    pub(super) rng: SharedRng,
    pub(super) retry: RetryTimes,
    /// Write once and end.
    pub(super) once: bool,
}

/// The bundles that the JWT bundle task saw last, for the tasks whose tokens they verify.
type SeenBundles = watch::Receiver<Option<Arc<JwtBundleSet>>>;

/// The outputs of a configuration, each with the paths of its files.
pub(super) fn outputs(config: &HelperConfig, jwt_bundles: &[Target]) -> Vec<(Output, Vec<String>)> {
    let path = |target: &Target| target.path.display().to_string();
    let mut outputs = Vec::new();
    if let Some(x509) = &config.x509 {
        outputs.push((Output::X509, vec![path(&x509.certificate)]));
    }
    for (position, jwt) in config.jwt_svids.iter().enumerate() {
        outputs.push((Output::Jwt(position), vec![path(&jwt.target)]));
    }
    if !jwt_bundles.is_empty() {
        outputs.push((Output::JwtBundles, jwt_bundles.iter().map(path).collect()));
    }
    outputs
}

/// Starts a task for each output. They go on until they are dropped, or end once each has written its files
/// where the work is to be done once.
pub(super) fn start(work: &Arc<Work>) -> JoinSet<Result<(), HelperError>> {
    let mut tasks = JoinSet::new();
    let (seen, bundles) = watch::channel(None);
    if let Some(x509) = &work.config.x509 {
        tasks.spawn(x509::keep(Arc::clone(work), x509.clone()));
    }
    for (position, jwt) in work.config.jwt_svids.iter().enumerate() {
        tasks.spawn(jwt_svid::keep(Arc::clone(work), position, jwt.clone(), bundles.clone()));
    }
    if !work.jwt_bundles.is_empty() {
        tasks.spawn(jwt_bundles::keep(Arc::clone(work), seen));
    }
    tasks
}

/// One output of the work: its failures, in the log and in the status.
struct Keeper {
    work: Arc<Work>,
    output: Output,
    /// For the log and for errors.
    name: String,
    complaints: Complaints,
    /// For what fails here; that of a stream is its own.
    backoff: Backoff,
}

impl Keeper {
    fn new(work: Arc<Work>, output: Output, target: &Target) -> Self {
        let complaints = Complaints::new(Arc::clone(&work.clock));
        let backoff = Backoff::new(work.retry, Arc::clone(&work.rng));
        Self { output, name: target.path.display().to_string(), complaints, backoff, work }
    }

    /// The files are as they should be.
    fn written(&mut self, changed: bool, validity: Option<super::render::Validity>) {
        self.backoff.reset();
        let recovered = self.complaints.settle();
        if changed {
            tracing::info!(file = self.name, "renewed");
        } else if recovered {
            tracing::info!(file = self.name, "all is well again");
        }
        self.work.status.written(self.output, changed, validity);
    }

    /// A failure that is tried again after `pause`.
    fn failed(&mut self, failure: &Failure, pause: Duration) {
        let text = chain(failure);
        if self.complaints.worth_saying(&text) {
            let again = format!("{:.1} s", pause.as_secs_f64());
            match failure {
                Failure::Workload(error) if error.kind() == Kind::NotReady => {
                    tracing::warn!(file = self.name, error = text, again, "waiting for an identity");
                }
                _ => tracing::warn!(file = self.name, error = text, again, "not renewed"),
            }
        }
        self.work.status.failed(self.output, failure.to_string());
    }

    /// A failure that ends the helper.
    fn fatal(&self, failure: impl Into<Failure>) -> HelperError {
        HelperError::Output { output: self.name.clone(), source: failure.into() }
    }
}

/// Writes files without holding up other tasks; true when one changed.
async fn store(files: Vec<(Target, Content)>) -> Result<bool, Failure> {
    let writing = tokio::task::spawn_blocking(move || {
        let new: Vec<_> = files
            .iter()
            .map(|(target, content)| NewFile { path: &target.path, content, mode: target.mode.bits() })
            .collect();
        files::replace(&new)
    });
    match writing.await {
        Ok(written) => Ok(written?),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

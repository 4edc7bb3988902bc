//! What proxies say of themselves, asked for beside the reconciles so that none of them waits for a pod.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use skep_runtime::clock::SharedClock;
use skep_runtime::rng::SharedRng;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Resource};
use crate::observe::{PodAddress, PodReport, Pods, Reporter};
use crate::queue::Queue;

/// How often a proxy is asked.
const INTERVAL: Duration = Duration::from_secs(60);
/// How soon one is asked again that could not be.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
/// How often the list of pods is gone through.
const TICK: Duration = Duration::from_secs(2);
/// Proxies that are asked at the same time.
const AT_ONCE: usize = 32;

/// The last report of every proxy's pod, by the pod's uid.
#[derive(Debug, Default)]
pub struct Reports {
    by_pod: Mutex<HashMap<String, Asked>>,
}

#[derive(Debug)]
struct Asked {
    report: Option<PodReport>,
    again: Instant,
}

impl Reports {
    /// The reports of these pods, of those that were asked.
    pub fn of<'a>(&self, pods: impl IntoIterator<Item = &'a Value>) -> Vec<PodReport> {
        let known = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        pods.into_iter().filter_map(|pod| known.get(uid(pod))?.report.clone()).collect()
    }

    /// Pods that are due, each marked as asked until `until`. Forgets pods that are gone.
    fn due(&self, pods: &[Arc<Value>], now: Instant, until: Instant) -> Vec<Arc<Value>> {
        let mut known = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        let there: std::collections::HashSet<&str> = pods.iter().map(|pod| uid(pod)).collect();
        known.retain(|uid, _| there.contains(uid.as_str()));
        pods.iter()
            .filter(|pod| {
                let asked =
                    known.entry(uid(pod).to_owned()).or_insert_with(|| Asked { report: None, again: now });
                let due = asked.again <= now;
                if due {
                    asked.again = until;
                }
                due
            })
            .cloned()
            .collect()
    }

    /// Takes a report. True when it says something else than the one before.
    fn take(&self, pod: &Value, report: PodReport, again: Instant) -> bool {
        let mut known = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(asked) = known.get_mut(uid(pod)) else { return false };
        asked.again = again;
        let news = asked.report.as_ref().is_none_or(|before| before.differs(&report));
        asked.report = Some(report);
        news
    }
}

/// Everything that asking takes.
pub struct Asking {
    pub cluster: Arc<Cluster>,
    pub queue: Arc<Queue>,
    pub reports: Arc<Reports>,
    pub reporter: Reporter,
    pub clock: SharedClock,
    pub rng: SharedRng,
}

impl Asking {
    /// Asks every running proxy about once a minute until `stop`; workloads whose reports say something new
    /// are reconciled.
    pub async fn run(self, stop: CancellationToken) {
        let asking = Arc::new(self);
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut tasks = JoinSet::new();
        loop {
            let now = asking.clock.instant();
            let pods = asking.running();
            for pod in asking.reports.due(&pods, now, now + INTERVAL + AFTER_FAILURE) {
                let (asking, places) = (Arc::clone(&asking), Arc::clone(&places));
                tasks.spawn(async move {
                    let Ok(_place) = places.acquire().await else { return };
                    asking.ask(&pod).await;
                });
            }
            while tasks.try_join_next().is_some() {}
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    async fn ask(&self, pod: &Value) {
        let Some(PodAddress { pod: name, ip }) = Pods::addresses([pod]).into_iter().next() else { return };
        let report = PodReport::new(name, self.reporter.ask(&ip.to_string()).await);
        let wait = if report.said.is_ok() { INTERVAL } else { AFTER_FAILURE };
        // A tenth more or less, so that a thousand proxies are not asked in one moment.
        let mut byte = [0_u8; 1];
        self.rng.fill(&mut byte);
        let again = self.clock.instant() + wait.mul_f64(0.9 + f64::from(byte[0]) / 1275.0);
        if self.reports.take(pod, report, again)
            && let Some(key) = self.cluster.owner_of_pod(pod)
        {
            self.queue.add(key);
        }
    }

    /// Pods of proxies that run.
    fn running(&self) -> Vec<Arc<Value>> {
        self.cluster.store(Resource::Pod).all(|pod| {
            let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
            let proxy = matches!(
                text("/metadata/labels/app.kubernetes.io~1name"),
                Some("mcpserver" | "mcpremoteproxy")
            );
            proxy
                && text("/status/phase") == Some("Running")
                && pod.pointer("/metadata/deletionTimestamp").is_none()
        })
    }
}

fn uid(pod: &Value) -> &str {
    pod.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default()
}

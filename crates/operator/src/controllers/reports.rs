//! What proxies say of themselves, asked for beside the reconciles so that none of them waits for a pod.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use serde_json::Value;
use skep_runtime::clock::SharedClock;
use skep_runtime::rng::SharedRng;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Resource};
use crate::observe::{Pace, PodAddress, PodReport, Pods, Reporter, is_of_deployment};
use crate::queue::Queue;

/// Proxies that are asked at the same time.
const AT_ONCE: usize = 32;
/// How long free places are gathered while others wait for one.
const TOGETHER: Duration = Duration::from_millis(50);
/// Answers that have to be missed in a row before the last report no longer counts.
const MISSES: u32 = 3;

/// The last report of every proxy's pod, by the pod's uid.
#[derive(Debug, Default)]
pub struct Reports {
    by_pod: Mutex<HashMap<String, Asked>>,
}

#[derive(Debug)]
struct Asked {
    report: Option<PodReport>,
    /// Tries in a row that brought no report.
    failures: u32,
    again: Instant,
    /// It was asked and has not answered yet.
    open: bool,
    /// It was ready when it was last looked at.
    ready: bool,
}

/// A pod that can be asked.
#[derive(Debug, Clone)]
struct Candidate {
    pod: Arc<Value>,
    address: PodAddress,
}

impl Reports {
    /// The reports of these pods, of those that were asked.
    pub fn of<'a>(&self, pods: impl IntoIterator<Item = &'a Value>) -> Vec<PodReport> {
        let known = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        pods.into_iter().filter_map(|pod| known.get(uid(pod))?.report.clone()).collect()
    }

    /// Pods that are due, those that wait longest first and no more than there are places for. Each is marked
    /// until its answer is taken. Forgets pods that are gone.
    fn due(&self, pods: &[Candidate], now: Instant, places: usize) -> Vec<Candidate> {
        let mut known = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        let there: HashSet<&str> = pods.iter().map(|candidate| uid(&candidate.pod)).collect();
        known.retain(|uid, _| there.contains(uid.as_str()));
        let mut due: Vec<(Instant, &Candidate)> = Vec::new();
        for candidate in pods {
            let asked = known.entry(uid(&candidate.pod).to_owned()).or_insert_with(|| Asked {
                report: None,
                failures: 0,
                again: now,
                open: false,
                ready: false,
            });
            let ready = Pods::of([candidate.pod.as_ref()]).ready > 0;
            // One that was given up on while it started is asked as soon as it has started.
            if ready && !asked.ready && asked.failures > 0 {
                asked.again = asked.again.min(now);
            }
            asked.ready = ready;
            if !asked.open && asked.again <= now {
                due.push((asked.again, candidate));
            }
        }
        due.sort_by_key(|(since, _)| *since);
        due.truncate(places);
        for (_, candidate) in &due {
            if let Some(asked) = known.get_mut(uid(&candidate.pod)) {
                asked.open = true;
            }
        }
        due.into_iter().map(|(_, candidate)| candidate.clone()).collect()
    }

    /// Takes what came of asking; no answer at all is a failure too. True when statuses would say something
    /// else: a report that is missed once or twice leaves the one before it.
    fn take(&self, pod: &Value, answer: Option<PodReport>, now: Instant, pace: Pace, spread: f64) -> bool {
        let mut known = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(asked) = known.get_mut(uid(pod)) else { return false };
        asked.open = false;
        let reported = answer.as_ref().is_some_and(PodReport::is_report);
        asked.failures = if reported { 0 } else { asked.failures.saturating_add(1) };
        let wait = match asked.failures {
            0 => pace.interval,
            failures => backoff(pace, failures),
        };
        asked.again = now + wait.mul_f64(spread);
        let Some(answer) = answer.filter(|_| reported || asked.failures >= MISSES) else { return false };
        let news = asked.report.as_ref().is_none_or(|before| before.differs(&answer));
        asked.report = Some(answer);
        news
    }
}

fn backoff(pace: Pace, failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    pace.after_failure.saturating_mul(factor).min(pace.longest)
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
    /// are reconciled. One that does not answer is asked less and less often, and holds up none that does.
    pub async fn run(self, stop: CancellationToken) {
        let asking = Arc::new(self);
        let tick = asking.reporter.pace().tick;
        let mut tasks: JoinSet<()> = JoinSet::new();
        loop {
            let places = AT_ONCE.saturating_sub(tasks.len());
            if places > 0 {
                for candidate in asking.reports.due(&asking.running(), asking.clock.instant(), places) {
                    let asking = Arc::clone(&asking);
                    tasks.spawn(async move { asking.ask(&candidate).await });
                }
            }
            let full = tasks.len() >= AT_ONCE;
            tokio::select! {
                () = stop.cancelled() => return,
                // A place that is free again is soon taken when others wait for one, several at a time.
                () = freed(&mut tasks), if full => {}
                () = tokio::time::sleep(tick), if !full => {}
            }
            while tasks.try_join_next().is_some() {}
        }
    }

    async fn ask(&self, candidate: &Candidate) {
        let Candidate { pod, address } = candidate;
        let answer =
            async { PodReport::new(address.pod.clone(), self.reporter.ask(&address.ip.to_string()).await) };
        // Whatever happens, the pod is asked again.
        let answer = AssertUnwindSafe(answer).catch_unwind().await.ok();
        // A tenth more or less, so that a thousand proxies are not asked in one moment.
        let mut byte = [0_u8; 1];
        self.rng.fill(&mut byte);
        let spread = 0.9 + f64::from(byte[0]) / 1275.0;
        if self.reports.take(pod, answer, self.clock.instant(), self.reporter.pace(), spread)
            && let Some(key) = self.cluster.owner_of_pod(pod)
        {
            self.queue.add(key);
        }
    }

    /// Pods of proxies that run and have an address.
    fn running(&self) -> Vec<Candidate> {
        let pods = self.cluster.store(Resource::Pod).all(|pod| {
            let name = pod.pointer("/metadata/labels/app.kubernetes.io~1name").and_then(Value::as_str);
            matches!(name, Some("mcpserver" | "mcpremoteproxy"))
                && self.cluster.owner_of_pod(pod).is_some_and(|key| is_of_deployment(pod, &key.name))
        });
        pods.into_iter()
            .filter_map(|pod| {
                let address = Pods::addresses([pod.as_ref()]).pop()?;
                Some(Candidate { pod, address })
            })
            .collect()
    }
}

async fn freed(tasks: &mut JoinSet<()>) {
    tasks.join_next().await;
    tokio::time::sleep(TOGETHER).await;
}

fn uid(pod: &Value) -> &str {
    pod.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skep_api::report::WorkloadReport;

    use super::*;
    use crate::observe::ReportErrorKind;

    const PACE: Pace = Pace {
        interval: Duration::from_secs(60),
        after_failure: Duration::from_secs(10),
        longest: Duration::from_secs(300),
        tick: Duration::from_secs(2),
    };

    fn candidate(name: &str, ready: bool) -> Candidate {
        let status = if ready { "True" } else { "False" };
        let pod = json!({"metadata": {"name": name, "uid": name}, "status": {"phase": "Running", "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": status}]}});
        let address = PodAddress { pod: name.to_owned(), ip: "10.0.0.1".parse().unwrap() };
        Candidate { pod: Arc::new(pod), address }
    }

    fn names(found: &[Candidate]) -> Vec<&str> {
        found.iter().map(|candidate| uid(&candidate.pod)).collect()
    }

    fn says(target: &str) -> Option<PodReport> {
        let said = WorkloadReport { target: target.to_owned(), ..WorkloadReport::default() };
        Some(PodReport { pod: "a".to_owned(), said: Ok(said) })
    }

    fn silent() -> Option<PodReport> {
        Some(PodReport { pod: "a".to_owned(), said: Err(ReportErrorKind::TimedOut) })
    }

    #[test]
    fn a_pod_that_swallows_packets_is_asked_once_at_a_time_and_holds_up_no_other() {
        let reports = Reports::default();
        let now = Instant::now();
        let pods = [candidate("a", true), candidate("b", true), candidate("c", true)];
        assert_eq!(names(&reports.due(&pods, now, 2)), ["a", "b"]);
        // However late it gets, they are not asked again before they have answered.
        let late = now + Duration::from_secs(3600);
        assert_eq!(names(&reports.due(&pods, late, 2)), ["c"]);
        assert!(reports.due(&pods, late, 2).is_empty());
        reports.take(&pods[0].pod, silent(), late, PACE, 1.0);
        assert!(reports.due(&pods, late + Duration::from_secs(9), 2).is_empty());
        assert_eq!(names(&reports.due(&pods, late + Duration::from_secs(10), 2)), ["a"]);
        // One without any answer is asked again too.
        reports.take(&pods[0].pod, None, late, PACE, 1.0);
        assert_eq!(names(&reports.due(&pods, late + Duration::from_secs(20), 2)), ["a"]);
        assert!(!reports.take(&candidate("gone", true).pod, says("x"), late, PACE, 1.0));
    }

    #[test]
    fn whoever_waits_longest_comes_first() {
        let reports = Reports::default();
        let now = Instant::now();
        let pods = [candidate("a", true), candidate("b", true)];
        reports.due(&pods, now, 2);
        reports.take(&pods[0].pod, says("x"), now + Duration::from_secs(1), PACE, 1.0);
        reports.take(&pods[1].pod, says("x"), now, PACE, 1.0);
        assert_eq!(names(&reports.due(&pods, now + Duration::from_secs(120), 1)), ["b"]);
    }

    #[test]
    fn the_time_between_tries_doubles_up_to_a_few_minutes() {
        let waits: Vec<u64> = (1..8).map(|failures| backoff(PACE, failures).as_secs()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff(PACE, u32::MAX).as_secs(), 300);
    }

    #[test]
    fn a_pod_that_becomes_ready_is_asked_whatever_it_failed_before() {
        let reports = Reports::default();
        let now = Instant::now();
        for _ in 0..5 {
            let mut found = reports.due(&[candidate("a", false)], now + Duration::from_secs(3600), 1);
            reports.take(&found.pop().unwrap().pod, silent(), now, PACE, 1.0);
        }
        assert!(reports.due(&[candidate("a", false)], now, 1).is_empty());
        assert_eq!(names(&reports.due(&[candidate("a", true)], now, 1)), ["a"]);
        reports.take(&candidate("a", true).pod, silent(), now, PACE, 1.0);
        assert!(reports.due(&[candidate("a", true)], now, 1).is_empty(), "only once");
    }

    #[test]
    fn a_report_counts_until_three_tries_in_a_row_have_failed() {
        let reports = Reports::default();
        let now = Instant::now();
        let one = candidate("a", true);
        reports.due(std::slice::from_ref(&one), now, 1);
        let take = |answer| reports.take(&one.pod, answer, now, PACE, 1.0);
        let known = || reports.of([one.pod.as_ref()]);
        // Before the first report there is nothing to say.
        assert!(!take(silent()) && known().is_empty());
        assert!(take(says("x")));
        assert!(!take(silent()) && !take(silent()));
        assert!(known()[0].is_report());
        assert!(!take(says("x")), "it says what it said");
        assert!(!take(silent()) && !take(silent()));
        assert!(take(silent()), "three in a row");
        assert!(!known()[0].is_report());
        assert!(!take(silent()), "which is no news any more");
        assert!(take(says("x")));
    }
}

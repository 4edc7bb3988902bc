//! Which outputs are there, how long they last, and who is told when one is new.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};
use skep_runtime::clock::SharedClock;
use tokio::sync::watch;

use super::render::Validity;

/// Something that is kept in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Output {
    X509,
    /// By its place in the configuration.
    Jwt(usize),
    JwtBundles,
}

/// What is known about all outputs.
#[derive(Debug)]
pub(super) struct Status {
    clock: SharedClock,
    outputs: Mutex<BTreeMap<Output, Entry>>,
    renewals: watch::Sender<u64>,
}

#[derive(Debug)]
struct Entry {
    paths: Vec<String>,
    written: bool,
    validity: Option<Validity>,
    problem: Option<String>,
}

impl Entry {
    /// In the words of spiffe-helper.
    fn word(&self) -> &'static str {
        match (&self.problem, self.written) {
            (Some(_), _) => "failed",
            (None, true) => "written",
            (None, false) => "unwritten",
        }
    }
}

impl Status {
    /// Nothing is there yet of these outputs, which are named by the paths of their files.
    pub(super) fn new(clock: SharedClock, outputs: impl IntoIterator<Item = (Output, Vec<String>)>) -> Self {
        let entry = |paths| Entry { paths, written: false, validity: None, problem: None };
        let outputs = outputs.into_iter().map(|(output, paths)| (output, entry(paths))).collect();
        Self { clock, outputs: Mutex::new(outputs), renewals: watch::Sender::new(0) }
    }

    /// Counts the times that files are new, from when all were there first.
    pub(super) fn renewals(&self) -> watch::Receiver<u64> {
        self.renewals.subscribe()
    }

    /// The files of an output are as they should be; `changed` when they were not before.
    pub(super) fn written(&self, output: Output, changed: bool, validity: Option<Validity>) {
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        let was_complete = outputs.values().all(|entry| entry.written);
        if let Some(entry) = outputs.get_mut(&output) {
            entry.written = true;
            entry.validity = validity;
            entry.problem = None;
        }
        let is_complete = outputs.values().all(|entry| entry.written);
        if is_complete && (changed || !was_complete) {
            self.renewals.send_modify(|count| *count += 1);
        }
    }

    /// An output could not be renewed.
    pub(super) fn failed(&self, output: Output, problem: String) {
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = outputs.get_mut(&output) {
            entry.problem = Some(problem);
        }
    }

    /// All files are there and none holds what has expired.
    pub(super) fn is_ready(&self) -> bool {
        let now = self.clock.unix_seconds();
        let outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        outputs.values().all(|entry| entry.written && entry.validity.is_none_or(|found| now < found.until))
    }

    /// No output should long have been renewed. One that was never there does not count: a new process would
    /// wait for it just the same.
    pub(super) fn is_live(&self) -> bool {
        let now = self.clock.unix_seconds();
        let outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        outputs.values().all(|entry| entry.validity.is_none_or(|found| now < overdue(found)))
    }

    /// For the body of health checks: spiffe-helper's, and what is wrong.
    pub(super) fn report(&self) -> Value {
        let outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statuses = Map::new();
        let mut jwt = Map::new();
        let mut problems = Map::new();
        for (output, entry) in outputs.iter() {
            if *output == Output::X509 {
                statuses.insert("x509_write_status".to_owned(), entry.word().into());
            } else {
                jwt.extend(entry.paths.iter().map(|path| (path.clone(), entry.word().into())));
            }
            if let (Some(problem), Some(path)) = (&entry.problem, entry.paths.first()) {
                problems.insert(path.clone(), problem.clone().into());
            }
        }
        statuses.insert("jwt_write_status".to_owned(), jwt.into());
        json!({ "file_write_statuses": statuses, "problems": problems })
    }
}

/// Agents renew at half of the life, or at a fixed time before the end of it; nine tenths is late for all.
fn overdue(validity: Validity) -> i64 {
    let life = validity.until.saturating_sub(validity.from);
    validity.until.saturating_sub(life / 10)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use skep_runtime::clock::Clock as _;
    use skep_testkit::ManualClock;

    use super::*;

    fn status() -> (Status, ManualClock) {
        let clock = ManualClock::default();
        let outputs = [
            (Output::X509, vec!["/opt/svid.pem".to_owned()]),
            (Output::Jwt(0), vec!["/opt/jwt.token".to_owned()]),
        ];
        (Status::new(Arc::new(clock.clone()), outputs), clock)
    }

    fn hour(clock: &ManualClock) -> Option<Validity> {
        let now = clock.unix_seconds();
        Some(Validity { from: now, until: now + 3600 })
    }

    #[test]
    fn renewals_count_from_when_all_is_there() {
        let (status, clock) = status();
        let renewals = status.renewals();
        status.written(Output::X509, true, hour(&clock));
        status.written(Output::X509, true, hour(&clock));
        assert_eq!(*renewals.borrow(), 0);
        assert!(!status.is_ready());
        // Files of a former run that are still right.
        status.written(Output::Jwt(0), false, hour(&clock));
        assert_eq!(*renewals.borrow(), 1);
        assert!(status.is_ready());
        status.written(Output::Jwt(0), false, hour(&clock));
        assert_eq!(*renewals.borrow(), 1);
        status.written(Output::X509, true, hour(&clock));
        assert_eq!(*renewals.borrow(), 2);
    }

    #[test]
    fn what_was_not_renewed_in_time_ends_liveness_before_it_ends_readiness() {
        let (status, clock) = status();
        assert!(status.is_live(), "waiting for an identity is no reason to restart");
        status.written(Output::X509, true, hour(&clock));
        status.written(Output::Jwt(0), true, hour(&clock));
        status.failed(Output::Jwt(0), "no agent".to_owned());
        clock.advance(Duration::from_secs(3239));
        assert!(status.is_live() && status.is_ready());
        clock.advance(Duration::from_secs(1));
        assert!(!status.is_live() && status.is_ready());
        clock.advance(Duration::from_secs(360));
        assert!(!status.is_live() && !status.is_ready());
    }

    #[test]
    fn the_report_says_what_is_written_and_what_is_wrong() {
        let (status, clock) = status();
        status.written(Output::X509, true, hour(&clock));
        assert_eq!(
            status.report().to_string(),
            r#"{"file_write_statuses":{"x509_write_status":"written","jwt_write_status":{"/opt/jwt.token":"unwritten"}},"problems":{}}"#
        );
        status.failed(Output::Jwt(0), "no agent".to_owned());
        let report = status.report();
        assert_eq!(report["file_write_statuses"]["jwt_write_status"]["/opt/jwt.token"], "failed");
        assert_eq!(report["problems"]["/opt/jwt.token"], "no agent");
    }
}

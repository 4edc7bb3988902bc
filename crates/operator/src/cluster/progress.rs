//! How far the watches of each namespace are.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use skep_runtime::health::Readiness;
use tokio::sync::watch;

/// Part of readiness that says that there is nothing at all to look at.
const NOTHING: &str = "namespaces";

/// Told that a namespace is known completely from now on; an empty name: all of them.
pub type Announce = Box<dyn Fn(&str) + Send + Sync>;

/// Which namespaces are known completely. One whose watches can't list yet holds up no other, and one that is
/// not there is waited for without a word but a warning.
pub struct Progress {
    readiness: Readiness,
    announce: Announce,
    state: Mutex<State>,
    synced: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    /// By the name of the namespace; empty: watches on all namespaces.
    scopes: BTreeMap<String, Scope>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Scope {
    /// Watches that have not listed yet, and what stands in the way.
    open: BTreeMap<String, String>,
    /// One of them has.
    listed: bool,
    /// Why the namespace itself could not be had, when it could not.
    absent: Option<Absent>,
}

/// What was said when a namespace was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absent {
    /// There is no such namespace.
    Missing,
    /// Nobody may know: what is said to those who have rights only in namespaces that are there.
    Refused(String),
}

impl Scope {
    /// Why nobody waits for this namespace, if nobody does.
    fn excuse(&self) -> Option<String> {
        match self.absent.as_ref()? {
            Absent::Missing => Some("there is no such namespace".to_owned()),
            Absent::Refused(why) if !self.listed && !self.open.is_empty() => Some(format!(
                "nothing in it may be read, or it is not there; grant the operator its Role there: {why}"
            )),
            Absent::Refused(_) => None,
        }
    }
}

impl Progress {
    /// Nothing is expected yet. `announce` is told of every namespace once.
    pub fn new(readiness: Readiness, announce: Announce) -> Self {
        Self { readiness, announce, state: Mutex::default(), synced: watch::Sender::new(0) }
    }

    /// Waits for a watch: `part` is its name in readiness.
    pub fn expect(&self, scope: &str, part: &str) {
        self.update(scope, |scope| {
            scope.open.insert(part.to_owned(), "is being filled".to_owned());
        });
    }

    /// A watch has listed.
    pub fn listed(&self, scope: &str, part: &str) {
        self.update(scope, |scope| {
            scope.listed = true;
            scope.open.remove(part);
        });
    }

    /// A watch failed. One that has listed goes on serving what it has.
    pub fn failed(&self, scope: &str, part: &str, why: &str) {
        self.update(scope, |scope| {
            if let Some(reason) = scope.open.get_mut(part) {
                why.clone_into(reason);
            }
        });
    }

    /// The namespace itself is there, or could not be had.
    pub fn asked(&self, scope: &str, absent: Option<Absent>) {
        self.update(scope, |scope| scope.absent = absent);
    }

    /// True when everything in a namespace is known.
    pub fn knows(&self, namespace: &str) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let scope = state.scopes.get(namespace).or_else(|| state.scopes.get(""));
        scope.is_some_and(|scope| scope.open.is_empty())
    }

    /// Waits until one namespace is known at least.
    pub async fn begun(&self) {
        // The sender lives as long as this.
        let _ = self.synced.subscribe().wait_for(|synced| *synced > 0).await;
    }

    /// Withdraws everything that was said about readiness; nothing is said from now on.
    pub fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        for (name, scope) in &mut state.scopes {
            for part in std::mem::take(&mut scope.open).into_keys() {
                self.readiness.ready(&part);
            }
            self.readiness.unwarn(&label(name));
        }
        self.readiness.ready(NOTHING);
    }

    fn update(&self, name: &str, change: impl FnOnce(&mut Scope)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return;
        }
        let scope = state.scopes.entry(name.to_owned()).or_default();
        let before: Vec<String> = scope.open.keys().cloned().collect();
        change(scope);
        let excuse = scope.excuse();
        for part in before {
            if !scope.open.contains_key(&part) {
                self.readiness.ready(&part);
            }
        }
        for (part, reason) in &scope.open {
            match &excuse {
                Some(_) => self.readiness.ready(part),
                None => self.readiness.not_ready(part, reason.as_str()),
            }
        }
        match excuse {
            Some(why) => self.readiness.warn(&label(name), why),
            None => self.readiness.unwarn(&label(name)),
        }
        if state.scopes.values().all(|scope| !scope.open.is_empty() && scope.excuse().is_some()) {
            self.readiness.not_ready(NOTHING, "none of the namespaces in WATCH_NAMESPACE can be read");
        } else {
            self.readiness.ready(NOTHING);
        }
        let synced = state.scopes.values().filter(|scope| scope.open.is_empty()).count();
        let complete = synced > self.synced.send_replace(synced);
        drop(state);
        if complete {
            (self.announce)(name);
        }
    }
}

fn label(namespace: &str) -> String {
    format!("namespace {namespace}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_runtime::drain::Drain;
    use skep_runtime::health::ReadinessReport;

    use super::*;

    struct Shown {
        progress: Progress,
        readiness: Readiness,
        announced: Arc<Mutex<Vec<String>>>,
    }

    fn progress(watches: &[(&str, &str)]) -> Shown {
        let readiness = Readiness::new();
        let announced: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = Arc::clone(&announced);
        let announce = Box::new(move |name: &str| told.lock().unwrap().push(name.to_owned()));
        let progress = Progress::new(readiness.clone(), announce);
        for (scope, part) in watches {
            progress.expect(scope, part);
        }
        Shown { progress, readiness, announced }
    }

    impl Shown {
        fn report(&self) -> ReadinessReport {
            self.readiness.report(&Drain::new().watch())
        }

        fn announced(&self) -> Vec<String> {
            self.announced.lock().unwrap().clone()
        }
    }

    #[tokio::test]
    async fn a_namespace_that_is_not_there_holds_up_no_other() {
        let shown = progress(&[("a", "pods a"), ("a", "namespace a"), ("b", "pods b"), ("b", "namespace b")]);
        assert!(!shown.report().ready);
        shown.progress.failed("b", "pods b", "403");
        shown.progress.asked("b", Some(Absent::Refused("403".to_owned())));
        shown.progress.failed("b", "namespace b", "403");
        shown.progress.listed("a", "pods a");
        assert!(!shown.report().ready && !shown.progress.knows("a"));
        shown.progress.listed("a", "namespace a");
        shown.progress.begun().await;
        assert!(shown.progress.knows("a") && !shown.progress.knows("b") && shown.announced() == ["a"]);
        let report = shown.report();
        assert!(report.ready && report.warnings["namespace b"].contains("403"), "{report:?}");
        // It comes: now everything in it is waited for.
        shown.progress.asked("b", None);
        shown.progress.listed("b", "namespace b");
        assert_eq!(shown.report().reasons.keys().collect::<Vec<_>>(), ["pods b"]);
        assert!(shown.report().warnings.is_empty() && !shown.progress.knows("b"));
        shown.progress.listed("b", "pods b");
        assert!(shown.report().ready && shown.progress.knows("b"));
        assert_eq!(shown.announced(), ["a", "b"]);
    }

    #[test]
    fn a_missing_right_in_a_namespace_that_is_there_is_not_excused() {
        let shown = progress(&[("a", "pods a"), ("a", "secrets a"), ("a", "namespace a")]);
        shown.progress.asked("a", Some(Absent::Refused("403".to_owned())));
        shown.progress.failed("a", "namespace a", "403");
        shown.progress.listed("a", "pods a");
        shown.progress.failed("a", "secrets a", "no right to secrets");
        assert_eq!(shown.report().reasons["secrets a"], "no right to secrets");
        assert!(shown.report().reasons.contains_key("namespace a"));
    }

    #[test]
    fn an_operator_with_no_namespace_at_all_is_not_ready() {
        let shown = progress(&[("a", "pods a")]);
        shown.progress.asked("a", Some(Absent::Missing));
        let report = shown.report();
        assert!(!report.ready && report.reasons.contains_key("namespaces"), "{report:?}");
        shown.progress.listed("a", "pods a");
        let report = shown.report();
        assert!(report.ready && report.warnings.contains_key("namespace a"), "{report:?}");
    }

    #[test]
    fn what_was_said_is_withdrawn_at_the_end() {
        let shown = progress(&[("a", "pods a"), ("b", "pods b")]);
        shown.progress.asked("b", Some(Absent::Missing));
        shown.progress.close();
        shown.progress.failed("a", "pods a", "late");
        let report = shown.report();
        assert!(report.ready && report.warnings.is_empty(), "{report:?}");
    }

    #[test]
    fn watches_on_all_namespaces_are_about_each() {
        let shown = progress(&[("", "pods")]);
        assert!(!shown.progress.knows("a"));
        shown.progress.listed("", "pods");
        shown.progress.failed("", "pods", "interrupted");
        assert!(shown.progress.knows("a") && shown.report().ready);
        assert_eq!(shown.announced(), [""]);
    }
}

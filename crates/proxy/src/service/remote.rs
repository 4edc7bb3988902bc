//! What the proxy finds out on its own, while nobody calls: whether the remote server and the issuers are
//! there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{join, join_all};
use jiff::Timestamp;
use skep_api::report::{RemoteReason, RemoteReport};
use skep_runtime::drain::Phase;
use tokio::sync::Notify;

use super::Proxy;
use super::report::rfc3339;
use crate::metrics::ProxyMetricsHandle;
use crate::probe::{Era, Found, ProbeTimes, probe};

/// What is known of the remote server.
#[derive(Debug, Default)]
pub(super) struct Remote {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Grows when the server becomes another one, or is reached in another way.
    way: u64,
    era: Era,
    last: Option<Last>,
}

#[derive(Debug, Clone)]
struct Last {
    found: Found,
    checked: Timestamp,
    since: Timestamp,
}

impl Remote {
    /// What is known is of another server, or of another way to it. It is asked again at once.
    pub(super) fn forget(&self, metrics: &ProxyMetricsHandle) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { way: state.way + 1, ..State::default() };
        metrics.remote_up(None);
        drop(state);
        self.changed.notify_one();
    }

    /// What the last probe found.
    pub(super) fn report(&self) -> Option<RemoteReport> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let last = state.last.as_ref()?;
        Some(RemoteReport {
            reachable: last.found.reason == RemoteReason::Answered,
            checked: rfc3339(last.checked),
            since: rfc3339(last.since),
            reason: last.found.reason,
            message: last.found.message.clone(),
            status: last.found.status,
        })
    }

    /// How to ask, and of which server.
    fn next(&self) -> (u64, Era) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.way, state.era)
    }

    /// Notes what was found, if it was found of the server that is meant; true when it is news.
    fn note(
        &self,
        way: u64,
        found: Found,
        era: Era,
        now: Timestamp,
        metrics: &ProxyMetricsHandle,
    ) -> Option<bool> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.way != way {
            return None;
        }
        let before = state.last.take().filter(|last| last.found.reason == found.reason);
        let news = before.is_none();
        let since = before.map_or(now, |last| last.since);
        state.era = era;
        metrics.remote_up(Some(found.reason == RemoteReason::Answered));
        state.last = Some(Last { found, checked: now, since });
        Some(news)
    }
}

impl Proxy {
    /// Finds out from now on whether the remote server answers and the issuers' keys can be had, although
    /// nobody calls; `/status` says it. Ends when the process begins to leave.
    pub async fn attend(self: Arc<Self>, times: ProbeTimes) {
        let mut drain = self.shared.drain.clone();
        loop {
            if drain.phase() >= Phase::Leaving {
                return;
            }
            join(self.probe(times.timeout), self.ask_issuers()).await;
            tokio::select! {
                biased;
                () = drain.reached(Phase::Leaving) => return,
                () = self.remote.changed.notified() => {}
                () = tokio::time::sleep(times.pause(&*self.shared.rng)) => {}
            }
        }
    }

    /// Asks the remote server once, if there is one and calls are let through. No caller's metric and no audit
    /// record knows of it.
    pub async fn probe(&self, timeout: Duration) {
        // In this order: what is forgotten in between is not taken for the answer of another server.
        let (way, era) = self.remote.next();
        let pipeline = self.pipeline.load_full();
        let Some(upstream) = pipeline.probed() else { return };
        let (found, era) = probe(upstream, era, timeout).await;
        let (reason, message) = (found.reason, found.message.clone());
        let now = self.shared.clock.now();
        let Some(news) = self.remote.note(way, found, era, now, &self.metrics) else { return };
        let up = reason == RemoteReason::Answered;
        let proxy = &*pipeline.recorder.server;
        match (news, up) {
            (true, true) => tracing::info!(proxy, "{message}"),
            (true, false) => tracing::warn!(proxy, reason = reason.as_str(), "{message}"),
            (false, _) => {}
        }
    }

    /// Fetches keys that are old or missing, and asks again where asking failed.
    async fn ask_issuers(&self) {
        let authenticator = match self.current.lock() {
            Ok(current) => current.authenticator.clone(),
            Err(_) => None,
        };
        let Some(authenticator) = authenticator else { return };
        let issuers = authenticator.issuers().map(|issuer| async {
            if let Some(keys) = &issuer.keys {
                keys.freshen().await;
            }
            if let Some(introspector) = &issuer.introspector {
                introspector.ask_again().await;
            }
        });
        join_all(issuers).await;
    }
}

//! Events that tell people what has changed. They never fail a reconcile, and never hold one up for long.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use serde_json::Value;
use skep_runtime::clock::SharedClock;
use skep_runtime::logging::chain;

use crate::client::WriteGate;
use crate::metrics::OperatorMetrics;
use crate::queue::Key;

/// Longest note (the API server takes 1 KiB).
const NOTE: usize = 1024;
/// Longest reason and action.
const WORD: usize = 128;
/// The same event about the same object is told once in this time; then it is added to the one before.
const QUIET: Duration = Duration::from_secs(60);
/// Events that are remembered for that.
const REMEMBERED: usize = 4096;
/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Name of the controller in events.
const CONTROLLER: &str = "skep-operator";

/// How much an event asks for attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// All is as it should be.
    Normal,
    /// Somebody may have to do something.
    Warning,
}

/// Publishes events (`events.k8s.io/v1`) while this operator leads. Clones are the same publisher.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    gate: WriteGate,
    clock: SharedClock,
    metrics: OperatorMetrics,
    told: Arc<Mutex<HashMap<Told, Instant>>>,
}

/// What makes two events the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Told {
    about: String,
    severity: Severity,
    reason: String,
    note: String,
}

impl Events {
    /// `client` must write without the gate: an event about the loss of something may be the last that a
    /// leader has to say. `gate` is only asked whether this process leads. `identity` is this process.
    pub fn new(
        client: Client,
        identity: &str,
        gate: WriteGate,
        clock: SharedClock,
        metrics: OperatorMetrics,
    ) -> Self {
        let instance = Some(capped(identity, WORD).to_owned());
        let recorder = Recorder::new(client, Reporter { controller: CONTROLLER.to_owned(), instance });
        Self { recorder, gate, clock, metrics, told: Arc::default() }
    }

    /// Tells about an object of ours. `object` is as the API server gave it.
    pub async fn publish(
        &self,
        key: &Key,
        object: &Value,
        severity: Severity,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let about = ObjectReference {
            api_version: text("/apiVersion").or_else(|| Some(format!("{}/v1beta1", skep_api::crd::GROUP))),
            kind: Some(key.kind.as_str().to_owned()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            uid: text("/metadata/uid"),
            // Without the version, so that the same event of tomorrow counts as the same.
            ..ObjectReference::default()
        };
        self.publish_about(&about, severity, reason, action, note).await;
    }

    /// Tells about any object. One that lies in no namespace has its events in `default`.
    pub async fn publish_about(
        &self,
        about: &ObjectReference,
        severity: Severity,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        if self.gate.check().is_err() {
            self.metrics.event("not_leader");
            return;
        }
        let note = capped(note, NOTE);
        if !self.is_news(about, severity, reason, note) {
            self.metrics.event("repeated");
            return;
        }
        let event = Event {
            type_: match severity {
                Severity::Normal => EventType::Normal,
                Severity::Warning => EventType::Warning,
            },
            reason: capped(reason, WORD).to_owned(),
            action: capped(action, WORD).to_owned(),
            note: Some(note.to_owned()).filter(|note| !note.is_empty()),
            secondary: None,
        };
        match tokio::time::timeout(PATIENCE, self.send(&event, about)).await {
            Ok(Ok(())) => self.metrics.event("published"),
            Ok(Err(error)) => {
                self.metrics.event("failed");
                tracing::debug!(error = chain(&error), reason, "an event could not be published");
            }
            Err(_) => {
                self.metrics.event("failed");
                tracing::debug!(reason, "the API server took too long to take an event");
            }
        }
    }

    /// Older API servers (1.20) want the namespace of an event at the object too, although it has none.
    async fn send(&self, event: &Event, about: &ObjectReference) -> Result<(), kube::Error> {
        match self.recorder.publish(event, about).await {
            Err(kube::Error::Api(status)) if status.code == 422 && about.namespace.is_none() => {
                let about = ObjectReference { namespace: Some("default".to_owned()), ..about.clone() };
                self.recorder.publish(event, &about).await
            }
            result => result,
        }
    }

    fn is_news(&self, about: &ObjectReference, severity: Severity, reason: &str, note: &str) -> bool {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        let told = Told {
            about: [&about.kind, &about.namespace, &about.name, &about.uid].map(part).join("/"),
            severity,
            reason: reason.to_owned(),
            note: note.to_owned(),
        };
        let now = self.clock.instant();
        let mut known = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&told).is_some_and(|last| now.saturating_duration_since(*last) < QUIET) {
            return false;
        }
        if known.len() >= REMEMBERED {
            known.retain(|_, last| now.saturating_duration_since(*last) < QUIET);
            // More than that in a minute: better to tell some twice than to grow.
            if known.len() >= REMEMBERED {
                known.clear();
            }
        }
        known.insert(told, now);
        true
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// The beginning of a text, at most so many bytes of it.
fn capped(text: &str, most: usize) -> &str {
    let end = text.floor_char_boundary(most);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use kube::client::Body;
    use serde_json::json;
    use skep_api::crd::Kind;
    use skep_runtime::metrics::Metrics;
    use skep_testkit::ManualClock;

    use super::*;

    struct Fixture {
        events: Events,
        gate: WriteGate,
        clock: ManualClock,
        sent: Arc<Mutex<Vec<(String, Value)>>>,
    }

    /// An API server that gives back what it gets, with this status code.
    fn fixture(code: u16) -> Fixture {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&sent);
        let server = tower::service_fn(move |request: Request<Body>| {
            let log = Arc::clone(&log);
            async move {
                let method = request.method().to_string();
                let bytes: Bytes = request.into_body().collect_bytes().await?;
                log.lock().expect("a lock").push((method, serde_json::from_slice(&bytes)?));
                let mut response = Response::new(Full::new(bytes));
                *response.status_mut() = http::StatusCode::from_u16(code).expect("a code");
                Ok::<_, tower::BoxError>(response)
            }
        });
        let clock = ManualClock::default();
        let shared: SharedClock = Arc::new(clock.clone());
        let gate = WriteGate::closed(Arc::clone(&shared), Duration::ZERO);
        gate.open_until(crate::client::Deadline::after(&shared, Duration::from_secs(86_400)));
        let metrics = OperatorMetrics::register(&Metrics::new());
        let client = Client::new(server, "default");
        let events = Events::new(client, "pod-1_abc", gate.clone(), shared, metrics);
        Fixture { events, gate, clock, sent }
    }

    async fn tell(events: &Events, note: &str) {
        let key = Key::new(Kind::MCPServer, "a", "b");
        let object = json!({"apiVersion": "toolhive.stacklok.dev/v1alpha1", "metadata": {"uid": "u1", "resourceVersion": "7"}});
        events.publish(&key, &object, Severity::Warning, "SecretMissing", "Reconcile", note).await;
    }

    #[tokio::test]
    async fn an_event_names_the_object_and_what_happened() {
        let fixture = fixture(201);
        tell(&fixture.events, "Secret `x` is missing.").await;
        let (method, mut event) = fixture.sent.lock().expect("a lock").pop().expect("an event");
        assert_eq!(method, "POST");
        event["eventTime"] = "TIME".into();
        event["metadata"]["name"] = "NAME".into();
        insta::assert_json_snapshot!(event);
    }

    #[tokio::test]
    async fn the_same_is_told_once_a_minute_and_then_added_to_the_first() {
        let fixture = fixture(201);
        for _ in 0..5 {
            tell(&fixture.events, "Secret `x` is missing.").await;
        }
        assert_eq!(fixture.sent.lock().expect("a lock").len(), 1);
        fixture.clock.advance(QUIET);
        tell(&fixture.events, "Secret `x` is missing.").await;
        let sent = fixture.sent.lock().expect("a lock");
        assert_eq!(sent.len(), 2);
        assert_eq!((sent[1].0.as_str(), &sent[1].1["series"]["count"]), ("PATCH", &json!(2)));
    }

    #[tokio::test]
    async fn only_a_leader_tells() {
        let fixture = fixture(201);
        fixture.gate.close();
        tell(&fixture.events, "Secret `x` is missing.").await;
        assert!(fixture.sent.lock().expect("a lock").is_empty());
    }

    #[tokio::test]
    async fn a_note_is_cut_between_characters_and_a_refusal_is_no_failure() {
        let fixture = fixture(500);
        tell(&fixture.events, &"ä".repeat(4_000)).await;
        let sent = fixture.sent.lock().expect("a lock");
        assert_eq!(sent[0].1["note"].as_str().map(str::len), Some(NOTE));
    }
}

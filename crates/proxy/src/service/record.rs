//! One exchange from its first byte to its last, and what is written down of it.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use skep_api::runconfig::AuditConfig;
use skep_auth::identity::Identity;
use skep_runtime::clock::SharedClock;
use skep_runtime::http::{BodyError, ResponseBody};
use skep_runtime::rng::SharedRng;

use crate::audit::{AuditRecord, AuditSink, Facts, Outcome, Target, wanted};
use crate::cedar::Verdict;
use crate::error::{Rejection, RejectionKind};
use crate::message::{Call, Message};
use crate::metrics::{Answered, ProxyMetricsHandle};
use crate::pipeline::{Started, StreamGuard, unseen};
use crate::stages::outgoing::Credential;
use crate::transport::answer::SharedSeen;

/// Actors of a delegation in a record, where the configuration does not say.
const DELEGATION_DEPTH: usize = 10;

/// Status in the record of a caller who hung up before there was an answer.
const CLIENT_GONE: u16 = 499;

/// What is known of a request when it begins.
#[derive(Debug)]
pub struct Exchange {
    pub(crate) started: Started,
    pub(crate) request_id: String,
    pub(crate) source: IpAddr,
    pub(crate) user_agent: Option<String>,
    pub(crate) http_method: &'static str,
    pub(crate) path: String,
}

/// What is learned of it on the way.
#[derive(Debug)]
pub struct Recorded {
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) seen: SharedSeen,
    mcp_method: String,
    target: Option<Target>,
    client: Option<(String, Option<String>)>,
    body: Bytes,
    policies: Vec<String>,
    credential: Option<Credential>,
    denied: bool,
    streamed: bool,
    backend: bool,
    stream: Option<StreamGuard>,
}

impl Default for Recorded {
    fn default() -> Self {
        Self {
            identity: None,
            seen: unseen(),
            mcp_method: String::new(),
            target: None,
            client: None,
            body: Bytes::new(),
            policies: Vec::new(),
            credential: None,
            denied: false,
            streamed: false,
            backend: false,
            stream: None,
        }
    }
}

impl Recorded {
    pub(crate) fn message(&mut self, message: Option<&Message>) {
        let Some(message) = message else { return };
        self.mcp_method.clone_from(&message.method);
        self.target = Target::of(message);
        self.body = message.body.clone();
        if let Call::Initialize { client: Some(name), version } = &message.call {
            self.client = Some((name.clone(), version.clone()));
        }
    }

    pub(crate) fn verdict(&mut self, verdict: Option<Verdict>) {
        self.policies = verdict.map(|verdict| verdict.policies).unwrap_or_default();
    }

    pub(crate) fn credential(&mut self, credential: &Credential) {
        self.credential = Some(credential.clone());
    }

    pub(crate) fn rejected(&mut self, rejection: &Rejection) {
        self.denied = rejection.kind() == RejectionKind::Denied;
        if let (Some(code), Ok(mut seen)) = (rejection.rpc_code(), self.seen.lock()) {
            seen.rpc_error.get_or_insert_with(|| (code, rejection.to_string()));
        }
    }

    pub(crate) fn streamed(&mut self, streamed: bool) {
        self.streamed = streamed;
    }

    pub(crate) fn reached_backend(&mut self) {
        self.backend = true;
    }

    pub(crate) fn hold(&mut self, stream: StreamGuard) {
        self.stream = Some(stream);
    }
}

/// Writes records and counts.
#[derive(Debug)]
pub struct Recorder {
    pub(crate) server: String,
    pub(crate) audit: Option<(AuditConfig, AuditSink)>,
    pub(crate) metrics: ProxyMetricsHandle,
    pub(crate) registry: skep_runtime::metrics::Metrics,
    pub(crate) clock: SharedClock,
    pub(crate) rng: SharedRng,
}

impl Recorder {
    /// The metrics of the process.
    pub(crate) fn metrics_text(&self) -> String {
        self.registry.encode()
    }

    /// What writes the record of `exchange` once it is over, however it ends.
    pub(crate) fn recording(self: &Arc<Self>, exchange: Exchange) -> Recording {
        let keep = match &self.audit {
            Some((config, _)) if config.include_response_data => config.max_data_size,
            _ => 0,
        };
        let recorded = Recorded::default();
        Recording { status: CLIENT_GONE, keep, recorder: Arc::clone(self), exchange, recorded }
    }

    fn finish(&self, exchange: &Exchange, recorded: &Recorded, status: u16) {
        let Ok(seen) = recorded.seen.lock() else { return };
        let duration = self.clock.since(exchange.started);
        let inside = match &self.audit {
            Some((config, _)) => config.detect_application_errors && seen.rpc_error.is_some(),
            None => seen.rpc_error.is_some(),
        };
        let outcome = match Outcome::of(status, recorded.denied, inside) {
            Outcome::Success | Outcome::ApplicationError if seen.broken => Outcome::Error,
            outcome => outcome,
        };
        let tool = recorded.target.as_ref().filter(|target| recorded.backend && target.kind == "tool");
        self.metrics.answered(Answered {
            http_method: exchange.http_method,
            mcp_method: &recorded.mcp_method,
            status,
            tool: tool.map(|target| target.name.as_str()),
            failed: outcome != Outcome::Success,
            duration,
        });
        let Some((config, sink)) = &self.audit else { return };
        let component = if config.component.is_empty() { &self.server } else { &config.component };
        let cut = |bytes: &Bytes| bytes.slice(..bytes.len().min(config.max_data_size));
        let request_data =
            (config.include_request_data && !recorded.body.is_empty()).then(|| cut(&recorded.body));
        let record = AuditRecord::new(Facts {
            audit_id: self.rng.uuid().to_string(),
            now: self.clock.now(),
            component,
            source_address: &exchange.source.to_string(),
            user_agent: exchange.user_agent.as_deref(),
            request_id: &exchange.request_id,
            identity: recorded.identity.as_deref(),
            delegation_depth: config.max_delegation_depth.unwrap_or(DELEGATION_DEPTH),
            client: recorded.client.as_ref().map(|(name, version)| (name.as_str(), version.as_deref())),
            http_method: exchange.http_method,
            path: &exchange.path,
            mcp_method: &recorded.mcp_method,
            target: recorded.target.clone(),
            status,
            outcome,
            duration,
            streamed: recorded.streamed,
            response_bytes: seen.bytes,
            backend: &self.server,
            rpc_error: seen.rpc_error.as_ref().map(|(code, message)| (*code, message.as_str())),
            policies: &recorded.policies,
            credential: recorded.credential.as_ref().and_then(Credential::audited),
            request_data: request_data.as_deref(),
            response_data: config.include_response_data.then_some(seen.head.as_slice()),
        });
        if wanted(config, record.kind()) {
            sink.write(&record);
            self.metrics.audit_failures(sink.failures());
        }
    }
}

/// An exchange whose record is not written yet. It is written exactly once: when this is dropped.
#[derive(Debug)]
pub struct Recording {
    recorder: Arc<Recorder>,
    pub(crate) exchange: Exchange,
    pub(crate) recorded: Recorded,
    status: u16,
    keep: usize,
}

impl Recording {
    /// Notes the status that the caller is told.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }

    /// A body that carries the record with it.
    pub(crate) fn around(self, body: ResponseBody) -> RecordedBody {
        RecordedBody { body, recording: self }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.recorder.finish(&self.exchange, &self.recorded, self.status);
    }
}

/// A response body that counts its bytes.
#[derive(Debug)]
pub struct RecordedBody {
    body: ResponseBody,
    recording: Recording,
}

impl Body for RecordedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
            && let Ok(mut seen) = this.recording.recorded.seen.lock()
        {
            seen.bytes += data.len() as u64;
            let room = this.recording.keep.saturating_sub(seen.head.len());
            if room > 0 {
                seen.head.extend(data.iter().take(room));
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

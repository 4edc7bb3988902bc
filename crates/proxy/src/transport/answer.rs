//! The body of an answer on its way to the client: passed on as it comes, looked at where somebody has
//! to look, and counted.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame as BodyFrame};
use hyper::body::Incoming;
use skep_runtime::drain::DrainWatch;
use skep_runtime::http::BodyError;
use tokio_util::sync::CancellationToken;

use super::scan::ErrorScanner;
use super::sse::{Frame, Splitter};
use crate::error::{Rejection, rpc_error};
use crate::lists::{Filtered, ListFilter};
use crate::message::Id;

const UNFILTERABLE: &str = "the MCP server's list cannot be filtered, so it is not shown";

/// What was seen of an answer while it went past.
#[derive(Debug, Default)]
pub struct Seen {
    /// Bytes that were sent.
    pub bytes: u64,
    /// JSON-RPC error inside the answer.
    pub rpc_error: Option<(i64, String)>,
    /// The answer ended before its end.
    pub broken: bool,
    /// First bytes, where the audit wants them.
    pub head: Vec<u8>,
}

/// Shared between the body and whoever writes the record.
pub type SharedSeen = Arc<Mutex<Seen>>;

fn note(seen: &SharedSeen, change: impl FnOnce(&mut Seen)) {
    if let Ok(mut seen) = seen.lock() {
        change(&mut seen);
    }
}

/// A JSON answer (or any other) that is passed on chunk by chunk.
pub struct PlainAnswer {
    inner: Incoming,
    scanner: Option<ErrorScanner>,
    seen: SharedSeen,
}

impl PlainAnswer {
    /// Passes `inner` on; with `scan`, looks for a JSON-RPC error on the way.
    pub fn new(inner: Incoming, scan: bool, seen: SharedSeen) -> Self {
        Self { inner, scanner: scan.then(ErrorScanner::default), seen }
    }
}

impl Body for PlainAnswer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(scanner), Some(data)) = (&mut this.scanner, frame.data_ref()) {
                    scanner.feed(data);
                    if let Some(error) = scanner.error() {
                        note(&this.seen, |seen| seen.rpc_error = Some(error));
                        this.scanner = None;
                    }
                }
            }
            Poll::Ready(Some(Err(_))) => note(&this.seen, |seen| seen.broken = true),
            _ => {}
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

/// How an event stream is treated.
pub struct StreamRules {
    /// Lists are filtered, when somebody said how.
    pub filter: Option<ListFilter>,
    /// JSON-RPC errors are looked for.
    pub scan: bool,
    /// Longest event that is looked at.
    pub max_frame: usize,
    /// The request that the stream answers.
    pub id: Option<Id>,
    /// A standing stream (GET) ends when the proxy leaves, so that its client reconnects elsewhere.
    pub standing: bool,
}

/// Why a stream ends before its end.
#[derive(Debug, Clone, Copy)]
enum Leaving {
    /// The process ends.
    Drained,
    /// No call is let through any more.
    Closed,
}

/// An event stream that is passed on event by event.
pub struct EventStream {
    inner: Option<Incoming>,
    splitter: Splitter,
    rules: StreamRules,
    ready: VecDeque<Bytes>,
    leaving: Pin<Box<dyn Future<Output = Leaving> + Send>>,
    seen: SharedSeen,
}

impl EventStream {
    /// Passes `inner` on, until `closing` is cancelled.
    pub fn new(
        inner: Incoming,
        rules: StreamRules,
        mut drain: DrainWatch,
        closing: CancellationToken,
        seen: SharedSeen,
    ) -> Self {
        let standing = rules.standing;
        let leaving = Box::pin(async move {
            let drained = async {
                if !standing {
                    return std::future::pending().await;
                }
                drain.reached(skep_runtime::drain::Phase::Draining).await;
            };
            tokio::select! {
                () = closing.cancelled() => Leaving::Closed,
                () = drained => Leaving::Drained,
            }
        });
        Self {
            inner: Some(inner),
            splitter: Splitter::new(rules.max_frame),
            rules,
            ready: VecDeque::new(),
            leaving,
            seen,
        }
    }

    fn looks(&self) -> bool {
        self.rules.filter.is_some() || self.rules.scan
    }

    fn take(&mut self, data: Bytes) {
        if !self.looks() {
            self.ready.push_back(data);
            return;
        }
        self.splitter.push(&data);
        loop {
            match self.splitter.next_frame() {
                Ok(Some(frame)) => {
                    if !self.pass(frame) {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(error = %error, "the MCP server's event stream is cut off");
                    self.stop(502, "the MCP server sent an event that is too large");
                    return;
                }
            }
        }
    }

    /// Passes one event on; `false` when the stream ends with it.
    fn pass(&mut self, frame: Frame) -> bool {
        if self.rules.filter.is_some() && frame.has_bare_json() {
            tracing::warn!("the MCP server's event stream holds JSON that is in no event");
            self.stop(502, UNFILTERABLE);
            return false;
        }
        let Some(data) = frame.data().filter(|data| !data.trim_ascii().is_empty()) else {
            self.ready.push_back(frame.bytes);
            return true;
        };
        if self.rules.scan {
            let mut scanner = ErrorScanner::default();
            scanner.feed(&data);
            if let Some(error) = scanner.error() {
                note(&self.seen, |seen| seen.rpc_error = Some(error));
            }
        }
        let filtered = match &self.rules.filter {
            Some(filter) => filter.message(&data),
            None => Ok(Filtered::Unchanged),
        };
        match filtered {
            Ok(Filtered::Unchanged) => self.ready.push_back(frame.bytes),
            Ok(Filtered::Replaced(data)) => self.ready.push_back(frame.with_data(data.as_bytes())),
            Err(error) => {
                tracing::warn!(error = %error, "the MCP server's event stream is cut off");
                self.stop(502, UNFILTERABLE);
                return false;
            }
        }
        true
    }

    /// Ends the stream with an error for the request it answers.
    fn stop(&mut self, code: i64, message: &str) {
        self.inner = None;
        self.splitter = Splitter::new(0);
        note(&self.seen, |seen| {
            seen.broken = true;
            seen.rpc_error = Some((code, message.to_owned()));
        });
        if let Some(id) = &self.rules.id {
            self.ready.push_back(Frame::message(&rpc_error(code, message, Some(id))));
        }
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            if let Some(bytes) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(BodyFrame::data(bytes))));
            }
            let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
            match this.leaving.as_mut().poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Leaving::Drained) => {
                    this.inner = None;
                    // Come back soon: the next connection finds another replica.
                    this.ready.push_back(Bytes::from_static(b"retry: 500\n\n"));
                    continue;
                }
                Poll::Ready(Leaving::Closed) => {
                    this.stop(503, &Rejection::Suspended.to_string());
                    continue;
                }
            }
            match Pin::new(inner).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        this.take(data);
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    this.inner = None;
                    note(&this.seen, |seen| seen.broken = true);
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(None) => {
                    this.inner = None;
                    // An event without its blank line: some clients read it all the same.
                    if let Some(rest) = this.splitter.rest() {
                        this.pass(rest);
                    }
                }
            }
        }
    }
}

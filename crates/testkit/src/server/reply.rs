//! Answers as scripts.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

/// A barrier in an answer: it goes on once the test opens the gate. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Lets everything that waits, now or later, go on.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until the gate is open.
    pub async fn opened(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// One step of an answer.
#[derive(Debug, Clone)]
pub enum Step {
    /// Write these bytes and flush (one chunk when the answer is chunked).
    Send(Bytes),
    /// Do nothing for a while.
    Pause(Duration),
    /// Do nothing until the test opens the gate.
    Wait(Gate),
    /// Do nothing until the client goes away.
    Hang,
    /// Reset the connection (RST), at once.
    Reset,
    /// Close the connection without finishing the answer.
    Close,
}

/// How the length of the body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Content-Length: the sum of what is sent.
    Length,
    /// Transfer-Encoding: chunked.
    Chunked,
    /// The end of the connection is the end of the body.
    UntilClose,
    /// No body at all (1xx, 204, 304).
    Nothing,
}

/// An answer. Starts as a correct one; the builders make it as wrong as the test needs.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status line and headers; none when the steps write the whole answer.
    pub(crate) head: Option<Head>,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) framing: Framing,
}

impl Reply {
    /// An answer of this status with no body.
    pub fn status(status: u16) -> Self {
        let framing = match status {
            100..=199 | 204 | 304 => Framing::Nothing,
            _ => Framing::Length,
        };
        Self { head: Some(Head { status, headers: Vec::new(), framing }), steps: Vec::new() }
    }

    /// An answer of this status with this body and content type.
    pub fn body(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self::status(status).header("Content-Type", content_type).step(Step::Send(body.into()))
    }

    /// 200 with a JSON body.
    pub fn json(value: &Value) -> Self {
        Self::body(200, "application/json", value.to_string())
    }

    /// 200 with an event stream, chunked, one write for each part.
    pub fn sse<P: Into<Bytes>>(parts: impl IntoIterator<Item = P>) -> Self {
        let mut reply =
            Self::status(200).header("Content-Type", "text/event-stream").framing(Framing::Chunked);
        reply.steps.extend(parts.into_iter().map(|part| Step::Send(part.into())));
        reply
    }

    /// 200 with an event stream that is cut into writes of `size` bytes, wherever that falls.
    pub fn sse_cut(stream: &[u8], size: usize) -> Self {
        Self::sse(stream.chunks(size.max(1)).map(Bytes::copy_from_slice))
    }

    /// An answer whose every byte, status line included, is what the steps send.
    pub fn raw(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { head: None, steps: steps.into_iter().collect() }
    }

    /// An answer written by hand; the connection is closed after it.
    pub fn raw_bytes(bytes: impl Into<Bytes>) -> Self {
        Self::raw([Step::Send(bytes.into())])
    }

    /// No answer: the connection stays open and silent.
    pub fn hang() -> Self {
        Self::raw([Step::Hang])
    }

    /// No answer: the connection is reset.
    pub fn reset() -> Self {
        Self::raw([Step::Reset])
    }

    /// Adds a header field; the same name twice is sent twice.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Some(head) = &mut self.head {
            head.headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Changes how the length of the body is told.
    pub fn framing(mut self, framing: Framing) -> Self {
        if let Some(head) = &mut self.head {
            head.framing = framing;
        }
        self
    }

    /// Adds a step after those that are there.
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

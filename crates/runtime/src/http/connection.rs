//! One connection: hyper's HTTP/1.1, with a deadline for headers that is answered 408.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::{BodyError, Ends, Handler, HttpLimits, ResponseBody};
use crate::drain::{DrainWatch, Phase};

/// Nothing of the next request has come.
const IDLE: u8 = 0;
/// Some bytes of a request's head have come.
const HEAD: u8 = 1;
/// A request is being answered.
const BUSY: u8 = 2;

/// How long, and how much of, what a client still sends after its last answer is taken off the wire.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 << 20;

const TIMEOUT_ANSWER: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: 15\r\n\r\nRequest Timeout";

/// What bytes of a connection come and go through: TCP, or TLS over it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// Serves `stream` until it ends, the peer is too slow, or the service stops.
pub(super) async fn run<S: Stream, H: Handler>(
    stream: S,
    ends: Ends,
    handler: Arc<H>,
    limits: HttpLimits,
    mut drain: DrainWatch,
) {
    let stage = Arc::new(AtomicU8::new(IDLE));
    let io = Deadline::new(stream, Arc::clone(&stage), limits.header_timeout);
    let service = service_fn(move |request| {
        let handler = Arc::clone(&handler);
        stage.store(BUSY, Ordering::Release);
        let stage = Arc::clone(&stage);
        async move {
            let response = handler.handle(request, ends).await;
            Ok::<_, Infallible>(response.map(|body| Answered { body, stage }))
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(64 * 1024))
        .max_headers(limits.headers)
        .serve_connection(TokioIo::new(io), service);
    let mut stopping = drain.clone();
    let mut asked_to_end = false;
    let ended = loop {
        tokio::select! {
            ended = Pin::new(&mut connection) => break ended,
            () = drain.reached(Phase::Draining), if !asked_to_end => {
                asked_to_end = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            () = stopping.reached(Phase::Stopped) => return,
        }
    };
    let mut io = connection.into_parts().io.into_inner();
    io.too_late = None;
    match ended {
        Ok(()) => {}
        Err(error) if is_header_timeout(&error) => {
            let _ = tokio::time::timeout(Duration::from_secs(1), async {
                io.write_all(TIMEOUT_ANSWER).await?;
                io.shutdown().await
            })
            .await;
        }
        Err(_) => return,
    }
    tokio::select! {
        () = linger(io.stream) => {}
        () = stopping.reached(Phase::Stopped) => {}
    }
}

/// Throws away what the client still sends, within bounds. Closing a connection with unread bytes makes
/// the kernel reset it, and a client that is still writing would see that and not its answer.
async fn linger(mut stream: impl Stream) {
    let mut left = LINGER_BYTES;
    let mut buffer = vec![0_u8; 16 * 1024];
    let _ = tokio::time::timeout(LINGER, async {
        while left > 0 {
            match stream.read(&mut buffer).await {
                Ok(read) if read > 0 => left = left.saturating_sub(read),
                _ => return,
            }
        }
    })
    .await;
}

fn is_header_timeout(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<io::Error>() {
            return cause.kind() == io::ErrorKind::TimedOut;
        }
        source = cause.source();
    }
    false
}

/// A stream whose reads fail when a request's head takes too long.
struct Deadline<S> {
    stream: S,
    stage: Arc<AtomicU8>,
    allowed: Duration,
    too_late: Option<Pin<Box<Sleep>>>,
}

impl<S> Deadline<S> {
    fn new(stream: S, stage: Arc<AtomicU8>, allowed: Duration) -> Self {
        Self { stream, stage, allowed, too_late: None }
    }
}

impl<S: Stream> AsyncRead for Deadline<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.stage.load(Ordering::Acquire) != HEAD {
            this.too_late = None;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if read.is_ready() {
            let arrived = buf.filled().len() > before;
            let first = this.stage.compare_exchange(IDLE, HEAD, Ordering::AcqRel, Ordering::Acquire).is_ok();
            if arrived && first {
                this.too_late = Some(Box::pin(tokio::time::sleep_until(Instant::now() + this.allowed)));
            } else if first {
                this.stage.store(IDLE, Ordering::Release);
            }
            return read;
        }
        if let Some(sleep) = &mut this.too_late
            && sleep.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "request headers took too long",
            )));
        }
        Poll::Pending
    }
}

impl<S: Stream> AsyncWrite for Deadline<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// A response body that says when the answer is over.
struct Answered {
    body: ResponseBody,
    stage: Arc<AtomicU8>,
}

impl Body for Answered {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.stage.store(IDLE, Ordering::Release);
    }
}

impl std::fmt::Debug for Answered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answered").finish_non_exhaustive()
    }
}

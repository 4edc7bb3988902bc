//! One connection: reads requests, plays the answers.

use std::sync::Arc;

use bytes::Bytes;

use super::reply::{Framing, Head, Reply, Step};
use super::stream::Stream;
use super::{Recorded, Shared};
use crate::raw::find;

/// How an answer ended.
enum End {
    /// The connection can carry another request.
    KeepAlive,
    /// The script closed it.
    Close,
    /// The client went away before the answer was complete.
    Aborted,
}

pub(super) async fn serve(stream: Stream, shared: Arc<Shared>, number: u64) {
    let mut connection = Connection { stream, unread: Vec::new(), number };
    while let Some(request) = connection.read_request().await {
        let head_request = request.method == "HEAD";
        let reply = shared.answer(request);
        match connection.play(reply, head_request).await {
            End::KeepAlive => {}
            End::Close => return,
            End::Aborted => {
                shared.aborted.send_modify(|n| *n += 1);
                return;
            }
        }
    }
}

struct Connection {
    stream: Stream,
    unread: Vec<u8>,
    number: u64,
}

impl Connection {
    /// None at the end of the connection or when what came is no HTTP request.
    async fn read_request(&mut self) -> Option<Recorded> {
        let head_end = loop {
            if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                break at;
            }
            self.read_more().await?;
        };
        let head = String::from_utf8_lossy(&self.unread[..head_end]).into_owned();
        self.unread.drain(..head_end + 4);
        let mut lines = head.split("\r\n");
        let mut request_line = lines.next()?.split(' ');
        let (method, target) = (request_line.next()?.to_owned(), request_line.next()?.to_owned());
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let mut request = Recorded {
            method,
            target,
            headers,
            body: Vec::new(),
            connection: self.number,
            client_certificate: self.stream.client_certificate(),
        };
        if request.header("expect").is_some() {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
        }
        request.body = if request.header("transfer-encoding").is_some() {
            self.read_chunked().await?
        } else {
            let length = request.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
            self.read_exactly(length).await?
        };
        Some(request)
    }

    async fn read_chunked(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line_end = loop {
                if let Some(at) = find(&self.unread, b"\r\n") {
                    break at;
                }
                self.read_more().await?;
            };
            let line = self.read_exactly(line_end + 2).await?;
            let digits = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(digits.split(';').next()?.trim(), 16).ok()?;
            let mut chunk = self.read_exactly(size + 2).await?;
            chunk.truncate(size);
            if size == 0 {
                return Some(body);
            }
            body.append(&mut chunk);
        }
    }

    async fn read_exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.unread.len() < length {
            self.read_more().await?;
        }
        Some(self.unread.drain(..length).collect())
    }

    async fn read_more(&mut self) -> Option<()> {
        let mut buffer = [0_u8; 16 * 1024];
        match self.stream.read(&mut buffer).await {
            Ok(0) | Err(_) => None,
            Ok(count) => {
                self.unread.extend_from_slice(&buffer[..count]);
                Some(())
            }
        }
    }

    /// Returns when the client closed or reset the connection; keeps what it sends meanwhile.
    async fn client_gone(&mut self) {
        while self.read_more().await.is_some() {}
    }

    async fn play(&mut self, reply: Reply, head_request: bool) -> End {
        let mut chunked = false;
        let mut keep_alive = false;
        if let Some(head) = &reply.head {
            if self.stream.write_all(&render_head(head, &reply.steps)).await.is_err() {
                return End::Aborted;
            }
            chunked = head.framing == Framing::Chunked;
            keep_alive = head.framing != Framing::UntilClose && head.status >= 200;
        }
        if head_request {
            return if keep_alive { End::KeepAlive } else { End::Close };
        }
        for step in reply.steps {
            match step {
                Step::Send(bytes) => {
                    let wire = if chunked { as_chunk(&bytes) } else { bytes };
                    if self.stream.write_all(&wire).await.is_err() || self.stream.flush().await.is_err() {
                        return End::Aborted;
                    }
                }
                Step::Pause(duration) => tokio::select! {
                    () = tokio::time::sleep(duration) => {}
                    () = self.client_gone() => return End::Aborted,
                },
                Step::Wait(gate) => tokio::select! {
                    () = gate.opened() => {}
                    () = self.client_gone() => return End::Aborted,
                },
                Step::Hang => {
                    self.client_gone().await;
                    return End::Aborted;
                }
                Step::Reset => {
                    self.stream.reset_at_close();
                    return End::Close;
                }
                Step::Close => return End::Close,
            }
        }
        if chunked && self.stream.write_all(b"0\r\n\r\n").await.is_err() {
            return End::Aborted;
        }
        if keep_alive { End::KeepAlive } else { End::Close }
    }
}

fn render_head(head: &Head, steps: &[Step]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {} Scripted\r\n", head.status);
    for (name, value) in &head.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    match head.framing {
        Framing::Length => {
            let length: usize = steps.iter().map(|s| if let Step::Send(b) = s { b.len() } else { 0 }).sum();
            text.push_str(&format!("Content-Length: {length}\r\n"));
        }
        Framing::Chunked => text.push_str("Transfer-Encoding: chunked\r\n"),
        Framing::UntilClose => text.push_str("Connection: close\r\n"),
        Framing::Nothing => {}
    }
    text.push_str("\r\n");
    text.into_bytes()
}

fn as_chunk(bytes: &Bytes) -> Bytes {
    // An empty chunk would end the body.
    if bytes.is_empty() {
        return Bytes::new();
    }
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk.into()
}

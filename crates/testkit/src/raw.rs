//! Requests written by hand, and the bytes that come back.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a read waits before the test fails. Only a hang ever takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A port of 127.0.0.1 that nobody listens on at this moment.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind to loopback");
    listener.local_addr().expect("a bound address").port()
}

/// A TCP connection over which a test speaks HTTP/1.1 itself.
pub struct RawConnection {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header fields in their order and spelling.
    pub headers: Vec<(String, String)>,
    /// Body without its transfer coding.
    pub body: Vec<u8>,
    /// False when the connection ended before the body was complete.
    pub complete: bool,
}

impl Answer {
    /// The first value of a header field, by any spelling of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Every value of a header field, by any spelling of its name.
    pub fn header_all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The body as text; bytes that are no UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// Sends one request on a connection of its own. Host and Content-Length are added when not given.
pub async fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut connection = RawConnection::open(address).await;
    connection.request(method, target, headers, body).await
}

/// GET on a connection of its own.
pub async fn get(address: SocketAddr, target: &str) -> Answer {
    request(address, "GET", target, &[], b"").await
}

/// POST of a JSON-RPC message as an MCP client sends it, with a bearer token when there is one.
pub async fn post_rpc(address: SocketAddr, target: &str, token: Option<&str>, message: &Value) -> Answer {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut headers =
        vec![("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")];
    if let Some(bearer) = &bearer {
        headers.push(("Authorization", bearer));
    }
    request(address, "POST", target, &headers, message.to_string().as_bytes()).await
}

impl RawConnection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect to the server under test");
        let _ = stream.set_nodelay(true);
        Self { stream, unread: Vec::new() }
    }

    /// The client's end of the connection.
    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("an open connection")
    }

    /// Sends bytes as they are. An error is passed over: the answer tells what the server made of it.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// Says that nothing more will be sent (FIN); answers can still be read.
    pub async fn finish_sending(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Resets the connection (RST).
    pub fn reset(self) {
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Sends a well-formed request and reads its answer. Host and Content-Length are added when not given.
    pub async fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let peer = self.stream.peer_addr().expect("an open connection");
        let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !given("host") {
            head.push_str(&format!("Host: {peer}\r\n"));
        }
        if !given("content-length") && !given("transfer-encoding") && (!body.is_empty() || method == "POST") {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send(head.as_bytes()).await;
        self.send(body).await;
        self.read_answer().await
    }

    /// Reads one whole answer. Panics when the connection ends before the header did.
    pub async fn read_answer(&mut self) -> Answer {
        let mut answer = self.read_head().await;
        let chunked = answer.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
        let length = answer.header("content-length").and_then(|v| v.parse::<usize>().ok());
        if chunked {
            loop {
                match self.read_chunk().await {
                    Some(chunk) if chunk.is_empty() => break,
                    Some(chunk) => answer.body.extend(chunk),
                    None => {
                        answer.complete = false;
                        break;
                    }
                }
            }
        } else if matches!(answer.status, 100..=199 | 204 | 304) {
        } else if let Some(length) = length {
            match self.read_exactly(length).await {
                Some(body) => answer.body = body,
                None => {
                    answer.body = std::mem::take(&mut self.unread);
                    answer.complete = false;
                }
            }
        } else {
            while self.read_more().await {}
            answer.body = std::mem::take(&mut self.unread);
        }
        answer
    }

    /// Reads the status line and the headers, and leaves the body on the connection.
    pub async fn read_head(&mut self) -> Answer {
        let end = loop {
            if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                break at;
            }
            assert!(
                self.read_more().await,
                "the connection ended before an answer; it had sent {:?}",
                String::from_utf8_lossy(&self.unread)
            );
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        self.unread.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Answer {
            status: status.unwrap_or_else(|| panic!("no status line: {status_line:?}")),
            headers,
            body: Vec::new(),
            complete: true,
        }
    }

    /// Reads the next chunk of a chunked body: empty at its end, none when the connection ended before.
    pub async fn read_chunk(&mut self) -> Option<Vec<u8>> {
        let end = loop {
            if let Some(at) = find(&self.unread, b"\r\n") {
                break at;
            }
            if !self.read_more().await {
                return None;
            }
        };
        let line = self.read_exactly(end + 2).await?;
        let text = String::from_utf8_lossy(&line);
        let size = usize::from_str_radix(text.split(';').next().unwrap_or_default().trim(), 16).ok()?;
        let mut chunk = self.read_exactly(size + 2).await?;
        chunk.truncate(size);
        Some(chunk)
    }

    /// Reads until the connection ends and returns everything that came.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        while self.read_more().await {}
        std::mem::take(&mut self.unread)
    }

    async fn read_exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.unread.len() < length {
            if !self.read_more().await {
                return None;
            }
        }
        Some(self.unread.drain(..length).collect())
    }

    async fn read_more(&mut self) -> bool {
        let mut buffer = [0_u8; 16 * 1024];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut buffer)).await;
        match read.unwrap_or_else(|_| panic!("the server sent nothing for {PATIENCE:?}")) {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.unread.extend_from_slice(&buffer[..count]);
                true
            }
        }
    }
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

//! Load: as fast as it goes over some connections, and at a fixed rate for latency.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A tool call, with its token.
#[derive(Debug, Clone)]
pub struct Call {
    /// Where to.
    pub address: SocketAddr,
    /// Authorization header; none for the backend itself.
    pub authorization: Option<String>,
}

const BODY: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"weather","arguments":{"city":"Bern","days":1}}}"#;

impl Call {
    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(&self) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::post("/mcp")
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream")
            .header("mcp-protocol-version", "2025-11-25");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        Ok(request.body(Full::new(Bytes::from_static(BODY.as_bytes())))?)
    }

    async fn once(&self, sender: &mut SendRequest<Full<Bytes>>) -> anyhow::Result<()> {
        sender.ready().await?;
        let response = sender.send_request(self.request()?).await?;
        anyhow::ensure!(response.status() == StatusCode::OK, "status {}", response.status());
        response.into_body().collect().await?;
        Ok(())
    }
}

/// Requests a second over `connections` connections, each with one request at a time.
///
/// # Errors
/// When a call fails: a wrong answer is no throughput.
pub async fn throughput(call: &Call, connections: usize, duration: Duration) -> anyhow::Result<f64> {
    let start = Instant::now();
    let until = start + duration;
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let call = call.clone();
        tasks.spawn(async move {
            let mut sender = call.connect().await?;
            let mut count = 0_u64;
            while Instant::now() < until {
                call.once(&mut sender).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut total = 0_u64;
    while let Some(count) = tasks.join_next().await {
        total += count??;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
    let rate = total as f64 / start.elapsed().as_secs_f64();
    Ok(rate)
}

/// Latencies of `count` calls that are due at a fixed rate, whether or not the ones before have ended: what
/// waits counts from when it was due.
///
/// # Errors
/// When a call fails.
pub async fn latencies(call: &Call, per_second: u32, count: u32) -> anyhow::Result<Vec<Duration>> {
    let gap = Duration::from_secs(1) / per_second;
    let start = Instant::now() + Duration::from_millis(50);
    let mut tasks = JoinSet::new();
    const LANES: u32 = 8;
    for lane in 0..LANES {
        let call = call.clone();
        tasks.spawn(async move {
            let mut sender = call.connect().await?;
            let mut found = Vec::new();
            let mut number = lane;
            while number < count {
                let due = start + gap * number;
                tokio::time::sleep_until(due.into()).await;
                // The timer's own lateness is the same with and without the proxy; it is not a call's.
                let begun = Instant::now().max(due);
                call.once(&mut sender).await?;
                found.push(begun.elapsed());
                number += LANES;
            }
            anyhow::Ok(found)
        });
    }
    let mut all = Vec::new();
    while let Some(found) = tasks.join_next().await {
        all.extend(found??);
    }
    all.sort();
    Ok(all)
}

/// The latency that `share` of the calls keep.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into some thousands"
    )]
    let index = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

//! The proxy's bounds, with their defaults.

use std::time::Duration;

use skep_api::runconfig;
use skep_runtime::http::HttpLimits;

/// Bounds of one proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of the listener.
    pub http: HttpLimits,
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// Nesting of a request body.
    pub json_depth: usize,
    /// Bytes of a list result that is filtered.
    pub list_bytes: usize,
    /// Bytes of an SSE frame that is looked at.
    pub sse_frame_bytes: usize,
    /// Response streams at a time.
    pub streams: usize,
    /// Without a byte of the request body.
    pub body_idle: Duration,
    /// For the backend to accept a connection.
    pub connect: Duration,
    /// For the backend's response head.
    pub response: Duration,
}

impl Limits {
    /// What the config says, else the defaults. `body_bytes` is what the bodylimit stage says.
    pub fn new(given: &runconfig::Limits, body_bytes: Option<usize>) -> Self {
        let defaults = HttpLimits::default();
        let millis = |given: Option<u64>, default: u64| Duration::from_millis(given.unwrap_or(default));
        Self {
            http: HttpLimits {
                header_bytes: given.header_bytes.unwrap_or(defaults.header_bytes),
                header_timeout: millis(given.header_timeout_ms, 10_000),
                connections: given.connections.unwrap_or(defaults.connections),
                ..defaults
            },
            body_bytes: given.body_bytes.or(body_bytes).unwrap_or(8 << 20),
            json_depth: given.json_depth.unwrap_or(64),
            list_bytes: given.list_bytes.unwrap_or(16 << 20),
            sse_frame_bytes: given.sse_frame_bytes.unwrap_or(8 << 20),
            streams: given.streams.unwrap_or(10_000),
            body_idle: millis(given.body_idle_timeout_ms, 30_000),
            connect: millis(given.connect_timeout_ms, 10_000),
            response: millis(given.response_timeout_ms, 300_000),
        }
    }
}

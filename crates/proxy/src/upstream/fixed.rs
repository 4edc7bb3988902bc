//! The headers that every request gets, with secrets that can be read again when the server refuses them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;

use crate::config::FixedHeader;

/// One version of the headers: what a request was sent with.
pub type Version = Arc<Vec<FixedHeader>>;

/// The headers as they are now.
#[derive(Debug)]
pub(super) struct FixedHeaders {
    current: ArcSwap<Vec<FixedHeader>>,
    /// Of many requests that are refused, one reads.
    reading: Mutex<()>,
}

impl FixedHeaders {
    /// The headers of the configuration.
    pub(super) fn new(headers: Vec<FixedHeader>) -> Self {
        Self { current: ArcSwap::from_pointee(headers), reading: Mutex::default() }
    }

    /// What a request is to be sent with.
    pub(super) fn now(&self) -> Version {
        self.current.load_full()
    }

    /// Reads the secrets again after the server refused a request that was sent with `used`. True when there
    /// is another version to send it with.
    pub(super) async fn renew(&self, used: &Version) -> bool {
        if !used.iter().any(FixedHeader::is_from_file) {
            return false;
        }
        let _reading = self.reading.lock().await;
        if !Arc::ptr_eq(&self.now(), used) {
            return true;
        }
        let known = Arc::clone(used);
        let read = move || known.iter().map(FixedHeader::read_again).collect::<Vec<_>>();
        let Ok(newer) = tokio::task::spawn_blocking(read).await else { return false };
        if newer == **used {
            return false;
        }
        tracing::info!("the MCP server refused the proxy's credential, and its file has another one");
        self.current.store(Arc::new(newer));
        true
    }
}

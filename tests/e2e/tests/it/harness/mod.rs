//! What the tests share: the binary under test, HTTP calls to it, and programs that aren't ours.

pub(crate) mod exchanging;
pub(crate) mod external;
pub(crate) mod helm;
pub(crate) mod http;
pub(crate) mod idp;
pub(crate) mod output;
pub(crate) mod scene;
pub(crate) mod skep;
pub(crate) mod up;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a condition may take to come true on a loaded machine before the test is over.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The root of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

/// Asks again and again until the answer is there.
///
/// # Panics
/// With `what` when [`PATIENCE`] is over.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("it never came true: {what}"))
}

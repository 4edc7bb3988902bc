//! What a child process prints, line by line.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::sync::watch;

use super::PATIENCE;

/// The lines of one output stream, as far as they have come.
#[derive(Clone)]
pub(crate) struct Output {
    lines: Arc<Mutex<Vec<String>>>,
    count: watch::Receiver<usize>,
}

impl Output {
    /// Reads a stream to its end in the background.
    pub(crate) fn read(stream: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (counter, count) = watch::channel(0);
        let kept = Arc::clone(&lines);
        tokio::spawn(async move {
            let mut reader = BufReader::new(stream).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                counter.send_modify(|n| *n += 1);
            }
        });
        Self { lines, count }
    }

    /// Everything so far.
    pub(crate) fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// Waits until the lines so far satisfy `look`, and returns what it found.
    ///
    /// # Panics
    /// When the stream ends or patience runs out first.
    pub(crate) async fn find<T>(&self, what: &str, look: impl Fn(&[String]) -> Option<T>) -> T {
        let mut count = self.count.clone();
        let looking = async {
            loop {
                count.borrow_and_update();
                if let Some(found) = look(&self.lines.lock().unwrap_or_else(PoisonError::into_inner)) {
                    return Some(found);
                }
                if count.changed().await.is_err() {
                    return look(&self.lines.lock().unwrap_or_else(PoisonError::into_inner));
                }
            }
        };
        match tokio::time::timeout(PATIENCE, looking).await {
            Ok(Some(found)) => found,
            Ok(None) => panic!("the output ended without {what}:\n{}", self.text()),
            Err(_) => panic!("never printed: {what}. Printed:\n{}", self.text()),
        }
    }

    /// Waits for the first line that contains `part`.
    pub(crate) async fn line_with(&self, part: &str) -> String {
        self.find(part, |lines| lines.iter().find(|line| line.contains(part)).cloned()).await
    }
}

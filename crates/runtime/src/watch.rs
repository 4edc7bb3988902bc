//! Files that are read again when they change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Editors and kubelet write in several steps; a change counts once nothing happened for this long.
const SETTLE: Duration = Duration::from_millis(150);

/// What can go wrong with watching.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("cannot watch {}", path.display())]
    Path {
        path: PathBuf,
        #[source]
        source: notify::Error,
    },
    #[error("cannot start watching files")]
    Start(#[source] notify::Error),
}

/// Tells when something below the watched paths changed. Content is not compared: callers read again
/// and see for themselves.
#[derive(Debug)]
pub struct FileWatch {
    changes: mpsc::Receiver<()>,
    _watcher: RecommendedWatcher,
}

impl FileWatch {
    /// Watches files and folders. For a file its folder is watched, so that a file that is replaced
    /// by renaming (editors, and kubelet's `..data` links) is seen too.
    ///
    /// # Errors
    /// When the operating system refuses a watch.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Self, WatchError> {
        let (sender, changes) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let relevant = event.map_or(true, |event| !event.kind.is_access());
            if relevant {
                // A full channel means that a change is already waiting to be seen.
                let _ = sender.try_send(());
            }
        })
        .map_err(WatchError::Start)?;
        for path in paths {
            let (target, mode) = if path.is_dir() {
                (path, RecursiveMode::Recursive)
            } else {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                (parent.unwrap_or(Path::new(".")), RecursiveMode::NonRecursive)
            };
            watcher
                .watch(target, mode)
                .map_err(|source| WatchError::Path { path: target.to_path_buf(), source })?;
        }
        Ok(Self { changes, _watcher: watcher })
    }

    /// Waits for the next change and for the dust to settle. `None` when nothing will ever come.
    pub async fn changed(&mut self) -> Option<()> {
        self.changes.recv().await?;
        while let Ok(more) = tokio::time::timeout(SETTLE, self.changes.recv()).await {
            more?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_replaced_file_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, "1").unwrap();
        let mut watch = FileWatch::new([file.as_path()]).unwrap();
        let other = folder.path().join("config.json.new");
        std::fs::write(&other, "2").unwrap();
        std::fs::rename(&other, &file).unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.unwrap().unwrap();
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = FileWatch::new([Path::new("/does/not/exist/file")]).unwrap_err();
        assert_eq!(error.to_string(), "cannot watch /does/not/exist");
    }
}

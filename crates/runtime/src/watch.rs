//! Files that are read again when they change.

mod steady;

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

pub use self::steady::{SteadyWatch, Trouble};

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
        let paths: Vec<&Path> = paths.into_iter().collect();
        let (sender, changes) = mpsc::channel(1);
        let interest = Interest::new(&paths);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error may hide a change, so it counts as one.
            if event.map_or(true, |event| interest.in_event(&event)) {
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

/// Which events are about what is watched: a folder beside a file may be busy with other things.
#[derive(Debug)]
struct Interest {
    folders: Vec<PathBuf>,
    files: Vec<std::ffi::OsString>,
}

impl Interest {
    fn new(paths: &[&Path]) -> Self {
        let (folders, files): (Vec<&Path>, Vec<&Path>) = paths.iter().partition(|path| path.is_dir());
        let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        Self {
            folders: folders.into_iter().flat_map(|path| [path.to_path_buf(), whole(path)]).collect(),
            files: files.into_iter().filter_map(|path| Some(path.file_name()?.to_owned())).collect(),
        }
    }

    fn in_event(&self, event: &notify::Event) -> bool {
        if event.kind.is_access() {
            return false;
        }
        event.paths.is_empty() || event.paths.iter().any(|path| self.covers(path))
    }

    fn covers(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default();
        // kubelet exchanges the content of a mounted folder through links named `..data`.
        let mounted = name.as_encoded_bytes().starts_with(b"..");
        mounted
            || self.files.iter().any(|file| file == name)
            || self.folders.iter().any(|folder| path.starts_with(folder))
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

    #[tokio::test]
    async fn a_busy_neighbour_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, "1").unwrap();
        let mut watch = FileWatch::new([file.as_path()]).unwrap();
        std::fs::write(folder.path().join("audit.log"), "a line").unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(400), watch.changed()).await;
        assert!(nothing.is_err(), "the neighbour was taken for the file");
        std::fs::write(&file, "2").unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_mounted_folder_that_is_exchanged_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let version = |name: &str, content: &str| {
            let inner = folder.path().join(name);
            std::fs::create_dir(&inner).unwrap();
            std::fs::write(inner.join("config.json"), content).unwrap();
        };
        version("..1", "1");
        std::os::unix::fs::symlink("..1", folder.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/config.json", folder.path().join("config.json")).unwrap();
        let file = folder.path().join("config.json");
        let mut watch = FileWatch::new([file.as_path()]).unwrap();
        version("..2", "2");
        std::os::unix::fs::symlink("..2", folder.path().join("..data_tmp")).unwrap();
        std::fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "2");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = FileWatch::new([Path::new("/does/not/exist/file")]).unwrap_err();
        assert_eq!(error.to_string(), "cannot watch /does/not/exist");
    }
}

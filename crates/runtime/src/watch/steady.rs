//! A watch that goes on where the operating system refuses one.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::{FileWatch, WatchError};
use crate::logging::chain;

/// How often the files are looked at while the operating system watches them: it forgets a folder that was
/// replaced.
const WATCHED: Duration = Duration::from_secs(10);
/// How often they are looked at, and a watch is tried again, while it doesn't.
const UNWATCHED: Duration = Duration::from_secs(2);
/// Deepest nesting of folders that is looked at.
const MAX_DEPTH: usize = 16;

/// Watches a set of files and folders that may become another one.
///
/// It never fails: what can't be watched (inotify instances are few, and a folder may not be there yet) is
/// looked at every few seconds instead, until it can be. A change is told at least once.
#[derive(Debug)]
pub struct SteadyWatch {
    paths: Vec<PathBuf>,
    /// The last one that could be had; of fewer files, perhaps, than are asked for.
    watch: Option<FileWatch>,
    trouble: Trouble,
    /// The files as they were when a change was told last.
    seen: Looks,
    /// A change that is still to be told.
    pending: bool,
    opener: Opener,
}

/// Why files are looked at instead of watched; nothing as long as they are watched. Clones are of the same
/// watch.
#[derive(Debug, Clone, Default)]
pub struct Trouble(Arc<Mutex<Option<String>>>);

/// How a watch is had; a test has another way.
struct Opener(Box<Open>);

type Open = dyn Fn(&[PathBuf]) -> Result<FileWatch, WatchError> + Send + Sync;

impl SteadyWatch {
    /// Watches these paths. Read them after this, else a change in between is lost.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let open = |paths: &[PathBuf]| FileWatch::new(paths.iter().map(PathBuf::as_path));
        Self::with(paths, Opener(Box::new(open)))
    }

    fn with(paths: impl IntoIterator<Item = PathBuf>, opener: Opener) -> Self {
        let mut watch = Self {
            paths: Vec::new(),
            watch: None,
            trouble: Trouble::default(),
            seen: Looks::new(),
            pending: false,
            opener,
        };
        watch.set(paths);
        watch
    }

    /// Watches these paths from now on, and no others. Of paths that were not watched before, only what
    /// happens from now on is told: read them after this.
    pub fn set(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        let mut paths: Vec<PathBuf> = paths.into_iter().collect();
        paths.sort_unstable();
        paths.dedup();
        if paths == self.paths {
            return;
        }
        self.paths = paths;
        self.open();
        // What the former watch saw last is lost with it.
        let now = look(&self.paths);
        self.pending |= now.iter().any(|(path, now)| self.seen.get(path).is_some_and(|then| then != now));
        self.seen = now;
    }

    /// Watches these paths too; the same holds as for [`set`](Self::set).
    pub fn add(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        let all: Vec<PathBuf> = self.paths.iter().cloned().chain(paths).collect();
        self.set(all);
    }

    /// What is in the way of watching, now and later.
    pub fn trouble(&self) -> Trouble {
        self.trouble.clone()
    }

    /// Waits for the next change and for the dust to settle.
    pub async fn changed(&mut self) {
        while !std::mem::take(&mut self.pending) {
            let troubled = self.trouble.text().is_some();
            tokio::select! {
                seen = next(&mut self.watch) => match seen {
                    Some(()) => self.pending = true,
                    None => self.watch = None,
                },
                () = tokio::time::sleep(if troubled { UNWATCHED } else { WATCHED }) => {
                    // The watch first: what happens after the look is seen by it.
                    if troubled || self.watch.is_none() {
                        self.open();
                    }
                    let paths = self.paths.clone();
                    let Ok(now) = tokio::task::spawn_blocking(move || look(&paths)).await else { continue };
                    if now != self.seen {
                        self.pending = true;
                        // It has missed this, so it may be a watch of a folder that is gone.
                        self.open();
                    }
                }
            }
        }
        self.seen = look(&self.paths);
    }

    /// Tries to have all paths watched.
    fn open(&mut self) {
        if self.paths.is_empty() {
            self.watch = None;
            self.trouble.become_none();
            return;
        }
        match (self.opener.0)(&self.paths) {
            Ok(watch) => {
                self.watch = Some(watch);
                if self.trouble.become_none() {
                    tracing::info!("all files are watched again");
                }
            }
            Err(error) => {
                let reason = chain(&error);
                if self.trouble.become_some(&reason) {
                    tracing::warn!(
                        error = %reason,
                        "not all files can be watched; they are looked at every {} seconds instead",
                        UNWATCHED.as_secs()
                    );
                }
            }
        }
    }
}

impl Trouble {
    /// The reason, with its causes.
    pub fn text(&self) -> Option<String> {
        self.0.lock().ok()?.clone()
    }

    /// What `/status` says: whether a change of a file is seen at once, and why not.
    pub fn status(&self) -> Value {
        let reason = self.text();
        json!({"watched": reason.is_none(), "reason": reason})
    }

    /// True when there was one.
    fn become_none(&self) -> bool {
        self.0.lock().is_ok_and(|mut text| text.take().is_some())
    }

    /// True when it is another one than before.
    fn become_some(&self, reason: &str) -> bool {
        self.0
            .lock()
            .is_ok_and(|mut text| text.replace(reason.to_owned()).is_none_or(|before| before != reason))
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Opener")
    }
}

async fn next(watch: &mut Option<FileWatch>) -> Option<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// What can be seen of each path from outside: of a file its stamp, of a folder the stamps of what is in it.
type Looks = BTreeMap<PathBuf, Vec<(PathBuf, Option<Stamp>)>>;

/// What differs between two versions of a file: device and inode, length, and when it was written and changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    length: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            place: (metadata.dev(), metadata.ino()),
            length: metadata.size(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn look(paths: &[PathBuf]) -> Looks {
    let mut looks = Looks::new();
    for path in paths {
        let mut stamps = Vec::new();
        let metadata = std::fs::metadata(path).ok();
        stamps.push((path.clone(), metadata.as_ref().map(Stamp::of)));
        if metadata.is_some_and(|metadata| metadata.is_dir()) {
            look_into(path, 0, &mut stamps);
        }
        looks.insert(path.clone(), stamps);
    }
    looks
}

/// Links to folders are not followed: they may lead in circles.
fn look_into(folder: &Path, depth: usize, stamps: &mut Vec<(PathBuf, Option<Stamp>)>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_unstable_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        // Hidden entries are editors' files, version control, and the inner folders of mounts.
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let stamp = std::fs::metadata(&path).ok().as_ref().map(Stamp::of);
        stamps.push((path.clone(), stamp));
        if depth < MAX_DEPTH && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            look_into(&path, depth + 1, stamps);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// One that refuses its first `refusals` watches after the first `good` ones.
    fn refusing(good: usize, refusals: usize) -> (Opener, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let open = move |paths: &[PathBuf]| {
            let number = counter.fetch_add(1, Ordering::SeqCst);
            if (good..good + refusals).contains(&number) {
                return Err(WatchError::Start(notify::Error::generic("too many instances")));
            }
            FileWatch::new(paths.iter().map(PathBuf::as_path))
        };
        (Opener(Box::new(open)), asked)
    }

    async fn told(watch: &mut SteadyWatch) -> bool {
        // Time jumps while everybody waits, so this is no minute of the test's.
        tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_watched_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "1").unwrap();
        let (opener, _) = refusing(0, usize::MAX);
        let mut watch = SteadyWatch::with([file.clone()], opener);
        let reason = "cannot start watching files: too many instances";
        assert_eq!(watch.trouble().status(), json!({"watched": false, "reason": reason}));
        assert!(!told(&mut watch).await, "nothing has happened");
        for (what, change) in [
            ("written", Box::new(|| fs::write(&file, "22").unwrap()) as Box<dyn Fn()>),
            ("gone", Box::new(|| fs::remove_file(&file).unwrap())),
            ("back", Box::new(|| fs::write(&file, "22").unwrap())),
        ] {
            change();
            assert!(told(&mut watch).await, "{what}");
            assert!(!told(&mut watch).await, "{what}: it is told once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_a_folder_is_looked_at_too() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("a.yaml"), "1").unwrap();
        let (opener, _) = refusing(0, usize::MAX);
        let mut watch = SteadyWatch::with([folder.path().to_owned()], opener);
        fs::write(folder.path().join(".hidden"), "1").unwrap();
        // The folder's own stamp counts, so a first change is told whatever it is.
        assert!(told(&mut watch).await);
        assert!(!told(&mut watch).await);
        fs::write(inner.join("a.yaml"), "22").unwrap();
        assert!(told(&mut watch).await);
        fs::write(inner.join("b.yaml"), "1").unwrap();
        assert!(told(&mut watch).await);
        assert!(!told(&mut watch).await);
    }

    #[tokio::test]
    async fn a_refused_watch_leaves_the_old_one_and_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
        fs::write(&old, "1").unwrap();
        fs::write(&new, "1").unwrap();
        let (opener, asked) = refusing(1, 1);
        let mut watch = SteadyWatch::with([old.clone()], opener);
        let trouble = watch.trouble();
        assert_eq!(trouble.text(), None);
        watch.add([new.clone()]);
        assert!(trouble.text().is_some(), "it is not hidden");
        // Paused only now: the old watch tells in real time.
        fs::write(&old, "22").unwrap();
        assert!(told(&mut watch).await, "the old watch still works");
        assert_eq!(asked.load(Ordering::SeqCst), 2, "it was the watch, not a look");
        tokio::time::pause();
        fs::write(&new, "22").unwrap();
        assert!(told(&mut watch).await, "the new file is looked at");
        assert_eq!(trouble.text(), None, "and watched as soon as it can be");
    }

    #[tokio::test]
    async fn a_change_while_the_watch_is_exchanged_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let [kept, new] = ["kept", "new"].map(|name| folder.path().join(name));
        fs::write(&kept, "1").unwrap();
        let (opener, _) = refusing(0, usize::MAX);
        let mut watch = SteadyWatch::with([kept.clone()], opener);
        fs::write(&kept, "22").unwrap();
        watch.add([new.clone()]);
        tokio::time::timeout(Duration::from_millis(1500), watch.changed()).await.expect("at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_that_was_replaced_or_appears_is_watched_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("certificates").join("svid");
        let mut watch = SteadyWatch::new([file.clone()]);
        assert!(watch.trouble().text().unwrap().contains("certificates"));
        for round in ["first", "second"] {
            fs::create_dir(file.parent().unwrap()).unwrap();
            fs::write(&file, round).unwrap();
            assert!(told(&mut watch).await, "{round}");
            assert_eq!(watch.trouble().text(), None, "{round}");
            fs::remove_dir_all(file.parent().unwrap()).unwrap();
            assert!(told(&mut watch).await, "{round}: it is gone");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_to_watch_is_no_trouble() {
        let mut watch = SteadyWatch::new([]);
        assert!(!told(&mut watch).await);
        assert_eq!(watch.trouble().status(), json!({"watched": true, "reason": null}));
    }
}

//! The folder of a control plane, which goes away also when the process that made it is killed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What the names of all these folders begin with.
const PREFIX: &str = "skep-control-plane.";
/// A file that the owner of a folder holds a lock on for as long as it lives.
const LOCK: &str = "lock";
/// Memory that looks like a disk.
const MEMORY: &str = "/dev/shm";
/// Free space that etcd and the logs may need: its journal alone starts with 64 MiB.
const ROOM: u64 = 1 << 30;

/// Waits for the end of its input, which is the end of its owner, and removes the folder. Programs that were
/// killed at the same moment may still write, so it tries for some seconds.
const REMOVE: &str = r#"
trap '' INT TERM HUP
read -r _
tries=0
until rm -rf "$0" || [ "$tries" -ge 50 ]; do tries=$((tries + 1)); sleep 0.1; done
"#;

/// A folder that only its owner can read.
pub(super) struct Folder {
    path: PathBuf,
    remover: Child,
    _lock: File,
}

impl Folder {
    /// Makes one, in memory where that is wanted and there is room, and removes what interrupted runs left.
    pub(super) fn create(in_memory: bool) -> Self {
        let roots = [PathBuf::from(MEMORY), std::env::temp_dir()];
        for root in &roots {
            remove_abandoned(root);
        }
        let root = roots.iter().find(|root| in_memory && has_room(root)).unwrap_or(&roots[1]);
        let path =
            tempfile::Builder::new().prefix(PREFIX).tempdir_in(root).expect("a temporary folder").keep();
        // The lock gets its name once it is held: no other run ever sees one that is free and not abandoned.
        let unlocked = path.join("new-lock");
        let lock = File::create(&unlocked).expect("a lock file");
        lock.lock().expect("a lock that nobody else knows of");
        fs::rename(&unlocked, path.join(LOCK)).expect("a lock file");
        let remover = Command::new("sh")
            .args(["-c", REMOVE])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        Self { path, remover, _lock: lock }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.remover.stdin.take());
        let _ = self.remover.wait();
    }
}

/// Removes the folders whose owners are gone: their locks are free.
fn remove_abandoned(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if named && File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok()) {
            // What can't be removed, because its programs are being killed right now, is left to the next.
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn has_room(root: &Path) -> bool {
    rustix::fs::statvfs(root).is_ok_and(|free| free.f_bavail.saturating_mul(free.f_frsize) >= ROOM)
        && tempfile::tempfile_in(root).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_removed_when_its_owner_drops_it() {
        for in_memory in [false, true] {
            let folder = Folder::create(in_memory);
            let path = folder.path().to_owned();
            fs::write(path.join("file"), "text").unwrap();
            drop(folder);
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_an_interrupted_run_left_is_removed_and_what_has_an_owner_stays() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir(&path).unwrap();
            (File::create(path.join(LOCK)).unwrap(), path)
        };
        let (_, abandoned) = make("skep-control-plane.abandoned");
        let (lock, owned) = make("skep-control-plane.owned");
        lock.lock().unwrap();
        let (_, other) = make("something.else");
        let starting = root.path().join("skep-control-plane.starting");
        fs::create_dir(&starting).unwrap();

        remove_abandoned(root.path());
        assert!(!abandoned.exists());
        for kept in [owned, other, starting] {
            assert!(kept.exists(), "{}", kept.display());
        }
    }
}

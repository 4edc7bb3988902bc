//! The files that the MCP server reads. Each is replaced in one step, so that a reader sees the old content or the
//! new one, and all are there before the ready file is.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use skep_auth::keycloak::Registered;

use super::{FileError, OutputFiles};

/// The pod's group reads the credentials, which is how the server's own user does.
const CREDENTIALS: u32 = 0o640;
/// That the others are there is no secret.
const READY: u32 = 0o644;

impl OutputFiles {
    /// Hands a client's credentials over. Files that are as they should be stay untouched.
    pub(super) fn publish(&self, registered: &Registered) -> Result<(), FileError> {
        // The secret first: who sees a new id must find its secret.
        for path in &self.secrets {
            if registered.secret.is_empty() {
                remove(path)?;
            } else {
                replace(path, registered.secret.expose().as_bytes(), CREDENTIALS)?;
            }
        }
        replace(&self.client_id, registered.client_id.as_bytes(), CREDENTIALS)?;
        self.announce()
    }

    /// Says that the others are there.
    pub(super) fn announce(&self) -> Result<(), FileError> {
        match &self.ready {
            Some(path) => replace(path, b"ready\n", READY),
            None => Ok(()),
        }
    }

    /// Says that the others are not there, or not to be used.
    pub(super) fn withdraw(&self) -> Result<(), FileError> {
        self.ready.as_deref().map_or(Ok(()), remove)
    }

    /// True when the files are of another client than this one: of one that this pod was before.
    pub(super) fn of_another(&self, client_id: &str) -> bool {
        std::fs::read_to_string(&self.client_id).is_ok_and(|before| before != client_id)
    }
}

/// Puts a file in the place of what was there, unless it is the same already.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    write(path, content, mode).map_err(|source| FileError::Write { path: path.to_owned(), source })
}

pub(super) fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::Remove { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// What [`replace`] does.
pub(super) fn write(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    if unchanged(path, content, mode) {
        return Ok(());
    }
    let Some(name) = path.file_name() else {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is the name of a folder"));
    };
    let mut next = std::ffi::OsString::from(".");
    next.push(name);
    next.push(".new");
    let next = path.with_file_name(next);
    // What is left of a process that ended here. It is made anew, so that nobody else's file or link is written to.
    match std::fs::remove_file(&next) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = fill(&next, content, mode).and_then(|()| std::fs::rename(&next, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&next);
    }
    written?;
    // The name is on disk with this, where the folder is on one.
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn fill(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    // Nobody else reads it before it has its mode, which the umask must not cut.
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

fn unchanged(path: &Path, content: &[u8], mode: u32) -> bool {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return false };
    metadata.is_file()
        && metadata.permissions().mode() & 0o7777 == mode
        && std::fs::read(path).is_ok_and(|before| before == content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use skep_api::secret::Secret;

    use super::*;

    fn registered(id: &str, secret: &str) -> Registered {
        Registered {
            client_id: id.to_owned(),
            secret: Secret::new(secret),
            created: true,
            changed: false,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn credentials_have_their_mode_whatever_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("secret.txt"), "old").unwrap();
        std::fs::set_permissions(at("secret.txt"), std::fs::Permissions::from_mode(0o666)).unwrap();
        std::fs::write(at(".client-id.txt.new"), "left over").unwrap();
        std::os::unix::fs::symlink(at("elsewhere"), at("client-secret.txt")).unwrap();
        let files = OutputFiles::beside(at("client-secret.txt"), Some(at("ready")));
        files.publish(&registered("spiffe://a/b", "s3cret")).unwrap();
        for (name, content, mode) in [
            ("client-id.txt", "spiffe://a/b", 0o640),
            ("client-secret.txt", "s3cret", 0o640),
            ("secret.txt", "s3cret", 0o640),
            ("ready", "ready\n", 0o644),
        ] {
            let metadata = std::fs::symlink_metadata(at(name)).unwrap();
            assert!(metadata.is_file(), "{name}");
            assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{name}");
            assert_eq!(std::fs::read_to_string(at(name)).unwrap(), content, "{name}");
        }
        assert!(!at("elsewhere").exists(), "a link is replaced, not followed");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4, "nothing is left over");
    }

    #[test]
    fn what_is_the_same_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let files = OutputFiles::beside(folder.path().join("client-secret.txt"), None);
        let inode = || std::fs::metadata(folder.path().join("client-secret.txt")).unwrap().ino();
        files.publish(&registered("a", "one")).unwrap();
        let first = inode();
        files.publish(&registered("a", "one")).unwrap();
        assert_eq!(inode(), first);
        files.publish(&registered("a", "two")).unwrap();
        assert_ne!(inode(), first);
        assert!(files.of_another("b") && !files.of_another("a"));
        // One that proves itself by its SVID has no secret to find.
        files.publish(&registered("a", "")).unwrap();
        assert!(!folder.path().join("client-secret.txt").exists());
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let files = OutputFiles::beside("/does/not/exist/client-secret.txt".into(), None);
        let error = files.publish(&registered("a", "s")).unwrap_err().to_string();
        assert!(error.contains("/does/not/exist/client-secret.txt"), "{error}");
        assert!(!files.of_another("a"));
        files.withdraw().unwrap();
    }
}

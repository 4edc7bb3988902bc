//! The files that the MCP server reads. Each is replaced in one step, so that a reader sees the old content or the
//! new one, and all are there before the ready file is.

use std::path::Path;

use skep_auth::keycloak::Registered;

use super::{FileError, OutputFiles};
use crate::files::{self, NewFile};

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
                put(path, registered.secret.expose(), CREDENTIALS)?;
            }
        }
        put(&self.client_id, &registered.client_id, CREDENTIALS)?;
        self.announce()
    }

    /// Says that the others are there.
    pub(super) fn announce(&self) -> Result<(), FileError> {
        match &self.ready {
            Some(path) => put(path, "ready\n", READY),
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

fn put(path: &Path, content: &str, mode: u32) -> Result<(), FileError> {
    files::replace(&[NewFile { path, content: content.as_bytes(), mode }])?;
    Ok(())
}

fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::Remove { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

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

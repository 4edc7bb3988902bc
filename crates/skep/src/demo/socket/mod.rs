//! The socket where `skep token` asks a running `skep up` for a token.
//!
//! One line of JSON is asked, one is answered. Only processes of the same user get through: the socket has
//! mode 0600, its default folder 0700, and both ends check.

mod ask;
mod listen;

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use ask::ask;
pub(crate) use listen::TokenSocket;

const FILE_NAME: &str = "token.sock";

/// Longest line that either side reads.
const LINE_LIMIT: usize = 64 * 1024;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenRequest {
    /// The user of the demo file whom the token is for.
    pub(crate) user: String,
    /// Who the token is meant for; none: the audience that the running `up` takes by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) audience: Option<String>,
}

/// What is answered.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Answer {
    Token { access_token: String, expires_in: u64 },
    Refused { error: String },
}

/// Why the folder of the socket is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// The system refused.
    #[error("can't use the folder {path}")]
    Io {
        /// The folder.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody else could put a socket there.
    #[error("the folder {path} is not safe: {problem}; remove it, or name another place with --socket")]
    Unsafe {
        /// The folder.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Where the socket is when nothing is said: `skep/token.sock` in the user's runtime folder, or
/// `/tmp/skep-UID/token.sock`. `runtime_folder` is the value of XDG_RUNTIME_DIR; one that is not absolute
/// does not count.
pub(crate) fn default_path(runtime_folder: Option<&Path>) -> PathBuf {
    let folder = match runtime_folder.filter(|path| path.is_absolute()) {
        Some(path) => path.join("skep"),
        None => PathBuf::from(format!("/tmp/skep-{}", own_uid())),
    };
    folder.join(FILE_NAME)
}

/// Makes the folder of a default socket, for its owner only.
///
/// # Errors
/// When it can't be made, or what is there belongs to somebody else or lets others in.
pub(crate) fn make_folder(socket: &Path) -> Result<(), FolderError> {
    let folder = socket.parent().unwrap_or(Path::new("/"));
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(FolderError::Io { path: folder.display().to_string(), source })
        }
        _ => check_folder(socket),
    }
}

/// Checks that only the owner can have put a socket into its folder.
///
/// # Errors
/// When the folder is missing, a link, somebody else's, or open to others.
pub(crate) fn check_folder(socket: &Path) -> Result<(), FolderError> {
    let folder = socket.parent().unwrap_or(Path::new("/"));
    let path = folder.display().to_string();
    // The folder itself, not what a link points to.
    let metadata =
        folder.symlink_metadata().map_err(|source| FolderError::Io { path: path.clone(), source })?;
    let problem = if metadata.is_symlink() {
        "it is a symbolic link"
    } else if !metadata.is_dir() {
        "it is not a folder"
    } else if metadata.uid() != own_uid() {
        "it belongs to another user"
    } else if metadata.mode() & 0o077 != 0 {
        "other users can enter it"
    } else {
        return Ok(());
    };
    Err(FolderError::Unsafe { path, problem })
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn owner_only() -> Permissions {
    Permissions::from_mode(0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_in_the_runtime_folder_or_in_one_of_the_users_own() {
        let run = default_path(Some(Path::new("/run/user/7")));
        assert_eq!(run, Path::new("/run/user/7/skep/token.sock"));
        let own = PathBuf::from(format!("/tmp/skep-{}/token.sock", own_uid()));
        assert_eq!(default_path(None), own);
        assert_eq!(default_path(Some(Path::new("relative"))), own);
    }

    #[test]
    fn a_folder_is_made_for_its_owner_only() {
        let root = tempfile::tempdir().unwrap();
        let socket = root.path().join("skep/token.sock");
        make_folder(&socket).unwrap();
        make_folder(&socket).expect("a second time is fine");
        assert_eq!(socket.parent().unwrap().metadata().unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_folder_that_others_can_change_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let problem = |folder: &Path| make_folder(&folder.join("token.sock")).unwrap_err().to_string();

        let open = root.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
        assert!(problem(&open).contains("other users can enter it"));

        let real = root.path().join("real");
        DirBuilder::new().mode(0o700).create(&real).unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(problem(&link).contains("symbolic link"));

        let file = root.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(problem(&file).contains("not a folder"));

        assert!(problem(&root.path().join("a/b")).contains("can't use the folder"));
    }
}

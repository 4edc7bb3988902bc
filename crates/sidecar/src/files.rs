//! Files that readers never see half-written.
//!
//! Each file is written beside its place under another name, with its mode and on disk, and then renamed. A set
//! of files is prepared as a whole before the first is renamed, so that what fails, fails before anything
//! changed; then they are renamed in the order given. Between two renames a reader can see the new one and
//! the old other. The order for an X.509-SVID is bundle, key, certificate: who reads again when the certificate
//! changes gets the key that belongs to it, and an authority is trusted before its certificates are shown.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// A file as it is to be.
#[derive(Clone, Copy)]
pub(crate) struct NewFile<'a> {
    pub(crate) path: &'a Path,
    pub(crate) content: &'a [u8],
    /// Its permission bits.
    pub(crate) mode: u32,
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("cannot write {}: it has no folder {}; it has to be made or mounted before", path.display(), folder.display())]
    NoFolder { path: PathBuf, folder: PathBuf },
    #[error(
        "cannot write {}: user {user} may not write in its folder; mount it writable and owned by that user or \
         one of its groups", path.display()
    )]
    Refused {
        path: PathBuf,
        user: u32,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {}: it is a folder, or a mount of its own; mount its folder", path.display())]
    NotAFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {}", path.display())]
    Other {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Replaces the files whose content or mode is another, in this order; true when there was one. All or, when
/// it fails before the first rename, none.
///
/// # Errors
/// When a file can't be written or renamed.
pub(crate) fn replace(files: &[NewFile<'_>]) -> Result<bool, WriteError> {
    let mut prepared = Vec::new();
    for file in files {
        if !is_current(file) {
            prepared.push(Prepared::new(file).map_err(|source| explain(file.path, source))?);
        }
    }
    let mut folders = BTreeSet::new();
    for mut file in prepared {
        // Nothing else happens between two renames: what a reader can see half of is over at once.
        file.put_in_place().map_err(|source| explain(&file.path, source))?;
        folders.insert(folder(&file.path).to_owned());
    }
    for folder in &folders {
        // A folder that can't be flushed (some network file systems) holds the files all the same.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    Ok(!folders.is_empty())
}

fn is_current(file: &NewFile<'_>) -> bool {
    let Ok(metadata) = fs::symlink_metadata(file.path) else { return false };
    let same_size = u64::try_from(file.content.len()).is_ok_and(|length| length == metadata.len());
    let same_mode = metadata.permissions().mode() & 0o7777 == file.mode;
    // What is read is wiped: it may be a private key.
    let same_content =
        || fs::read(file.path).map(Zeroizing::new).is_ok_and(|found| found.as_slice() == file.content);
    metadata.is_file() && same_size && same_mode && same_content()
}

/// A file under its other name. Removed again when it is not put in place.
struct Prepared {
    path: PathBuf,
    beside: PathBuf,
    placed: bool,
}

impl Prepared {
    fn new(file: &NewFile<'_>) -> io::Result<Self> {
        let path = file.path.to_owned();
        let beside = beside(&path)?;
        // What a killed process left behind. Never written through: it could be a link.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut next = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        let prepared = Self { path, beside, placed: false };
        next.write_all(file.content)?;
        // The mode that was asked for, whatever the umask is.
        next.set_permissions(Permissions::from_mode(file.mode))?;
        next.sync_all()?;
        Ok(prepared)
    }

    fn put_in_place(&mut self) -> io::Result<()> {
        fs::rename(&self.beside, &self.path)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.placed {
            let _ = fs::remove_file(&self.beside);
        }
    }
}

/// The name beside the place: hidden, so that who reads all files of the folder passes over it.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::from(ErrorKind::IsADirectory))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    Ok(folder(path).join(hidden))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn explain(path: &Path, source: io::Error) -> WriteError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            WriteError::NoFolder { folder: folder(&path).to_owned(), path }
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            WriteError::Refused { path, user: rustix::process::geteuid().as_raw(), source }
        }
        ErrorKind::IsADirectory | ErrorKind::ResourceBusy => WriteError::NotAFile { path, source },
        _ => WriteError::Other { path, source },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn target<'a>(path: &'a Path, mode: u32, content: &'a str) -> NewFile<'a> {
        NewFile { path, content: content.as_bytes(), mode }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_gets_its_content_and_its_mode_whatever_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        fs::write(&path, "something old and longer").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        fs::write(folder.path().join(".key.pem.new"), "left behind").unwrap();
        assert!(replace(&[target(&path, 0o640, "new")]).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(names(folder.path()), ["key.pem"]);
    }

    #[test]
    fn what_is_the_same_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let target = target(&path, 0o600, "x");
        assert!(replace(&[target]).unwrap());
        let before = fs::metadata(&path).unwrap().ino();
        assert!(!replace(&[target]).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().ino(), before);
        fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
        assert!(replace(&[target]).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_reader_who_has_the_old_file_open_reads_it_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        replace(&[target(&path, 0o600, "old")]).unwrap();
        let old = File::open(&path).unwrap();
        replace(&[target(&path, 0o600, "newer")]).unwrap();
        assert_eq!(io::read_to_string(old).unwrap(), "old");
    }

    #[test]
    fn a_link_is_replaced_and_never_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other");
        fs::write(&other, "precious").unwrap();
        let path = folder.path().join("a");
        symlink(&other, &path).unwrap();
        symlink(&other, folder.path().join(".a.new")).unwrap();
        replace(&[target(&path, 0o600, "x")]).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&path).unwrap(), "x");
    }

    #[test]
    fn nothing_of_a_set_changes_when_one_of_it_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("missing/second"));
        let error = replace(&[target(&first, 0o600, "x"), target(&second, 0o600, "x")]).unwrap_err();
        assert!(matches!(error, WriteError::NoFolder { .. }), "{error:?}");
        assert!(error.to_string().contains("has to be made or mounted"), "{error}");
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_is_said_to_be_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::create_dir(&path).unwrap();
        let error = replace(&[target(&path, 0o600, "x")]).unwrap_err();
        assert!(error.to_string().contains("it is a folder"), "{error}");
        assert_eq!(names(folder.path()), ["a"]);
    }

    #[test]
    fn a_refusal_says_who_was_refused() {
        let error = explain(Path::new("/opt/a"), io::Error::from(ErrorKind::ReadOnlyFilesystem));
        assert!(
            matches!(error, WriteError::Refused { .. }) && error.to_string().contains("user "),
            "{error}"
        );
        let error = explain(Path::new("a"), io::Error::from(ErrorKind::StorageFull));
        assert_eq!(error.to_string(), "cannot write a");
    }
}

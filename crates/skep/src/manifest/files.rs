//! Which files there are, and their text.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use skep_api::yaml::MAX_TEXT;

/// What standard input is called in messages.
const STDIN: &str = "<stdin>";
/// Deepest nesting of folders.
const MAX_DEPTH: usize = 16;

/// A path that can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("can't read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} holds no manifest: there is no *.yaml, *.yml or *.json in it", path.display())]
    Empty { path: PathBuf },
    #[error("folders below {} are nested too deeply", path.display())]
    Depth { path: PathBuf },
    #[error("{} is larger than {MAX_TEXT} bytes", path.display())]
    Size { path: PathBuf },
    #[error("{} is not UTF-8 text", path.display())]
    Encoding { path: PathBuf },
}

/// True for what [`find`] makes of `-`.
pub(super) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == STDIN
}

/// The files that the paths stand for, each once, in order.
pub(super) fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, LoadError> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for path in paths {
        if path.as_os_str() == "-" {
            found.push(PathBuf::from(STDIN));
            continue;
        }
        let metadata =
            std::fs::metadata(path).map_err(|source| LoadError::Read { path: path.clone(), source })?;
        if metadata.is_dir() {
            let before = found.len();
            folder(path, 0, &mut found, &mut seen)?;
            if found.len() == before {
                return Err(LoadError::Empty { path: path.clone() });
            }
        } else if seen.insert(path.clone()) {
            found.push(path.clone());
        }
    }
    Ok(found)
}

fn folder(
    path: &Path,
    depth: usize,
    found: &mut Vec<PathBuf>,
    seen: &mut BTreeSet<PathBuf>,
) -> Result<(), LoadError> {
    if depth > MAX_DEPTH {
        return Err(LoadError::Depth { path: path.to_owned() });
    }
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        entries.push(entry.map_err(failed)?.path());
    }
    entries.sort();
    for entry in entries {
        // Hidden entries are editors' files, and the inner folders of mounted ConfigMaps.
        if entry.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        let Ok(metadata) = std::fs::metadata(&entry) else { continue };
        if metadata.is_dir() {
            folder(&entry, depth + 1, found, seen)?;
        } else if metadata.is_file() && is_manifest(&entry) && seen.insert(entry.clone()) {
            found.push(entry);
        }
    }
    Ok(())
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let limit = MAX_TEXT as u64 + 1;
    if is_stdin(path) {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        std::fs::File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() > MAX_TEXT {
        return Err(LoadError::Size { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|_| LoadError::Encoding { path: path.to_owned() })
}

//! What in the proxy's container and pod is the operator's.

use skep_api::names::{ACTOR_TOKEN_DIR, RUNCONFIG_DIR};

/// Directories of the proxy's container that hold what it is told to do.
const OUR_PATHS: [&str; 6] =
    [RUNCONFIG_DIR, "/etc/toolhive", "/config/certs", "/etc/skep", ACTOR_TOKEN_DIR, "/tmp"];

/// The directory of the operator that a mount at `path` would hide or reach into.
pub(in super::super) fn our_path(path: &str) -> Option<&'static str> {
    let path = plain(path);
    OUR_PATHS.into_iter().find(|ours| lies_under(ours, &path) || lies_under(&path, ours))
}

/// True when `path` is `directory` or something in it. Both are plain.
pub(super) fn lies_under(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A path from the root, without empty parts, `.` and `..`, as the container's runtime takes it.
pub(in super::super) fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_the_operators_however_it_is_written() {
        for (path, expected) in [
            ("/", true),
            ("", true),
            ("/etc", true),
            ("etc/runconfig", true),
            ("/etc//runconfig/", true),
            ("/a/../etc/./runconfig/x", true),
            ("/../etc/skep", true),
            ("/etc/skepticism", false),
            ("/data", false),
        ] {
            assert_eq!(our_path(path).is_some(), expected, "{path}");
        }
    }
}

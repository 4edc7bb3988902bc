//! The binary under test, run to its end.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

/// What a run printed and how it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Path of the binary: cargo puts it one folder above this test's own executable.
///
/// # Panics
/// With what to do when it isn't there.
pub(crate) fn binary() -> PathBuf {
    let me = std::env::current_exe().unwrap();
    let path = me.ancestors().nth(2).unwrap().join("skep");
    assert!(path.exists(), "{} is not there: run `cargo build --package skep` first", path.display());
    path
}

/// A command of the binary that sees nothing of the caller's settings: its home is `home`.
pub(crate) fn command<S: AsRef<OsStr>>(home: &Path, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary());
    command.args(args).current_dir(home).stdin(Stdio::null()).kill_on_drop(true);
    command.env("HOME", home).env("XDG_RUNTIME_DIR", home).env("TMPDIR", home);
    for name in [
        "RUST_LOG",
        "TOOLHIVE_DEBUG",
        "UNSTRUCTURED_LOGS",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs a command of the binary to its end.
pub(crate) async fn run<S: AsRef<OsStr>>(home: &Path, args: impl IntoIterator<Item = S>) -> Finished {
    let output = command(home, args).output().await.unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

//! One control plane for all tests of a process.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;

use tokio::sync::OnceCell;

use super::{Assets, ControlPlane, Options};

static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();

/// The control plane that all tests of this process share, started by the first of them with default
/// [`Options`]. None when the machine has no programs for it: then the calling test is recorded as skipped
/// and should return.
///
/// Tests that stop the API server, or count what it does, start one of their own, with
/// [`Assets::find_or_skip`] and [`ControlPlane::start`].
///
/// # Panics
/// When it doesn't start, with the last lines of the log.
pub async fn shared() -> Option<&'static ControlPlane> {
    let assets = Assets::find_or_skip()?;
    Some(SHARED.get_or_init(|| ControlPlane::start(&assets, Options::default())).await)
}

/// As [`shared`], for tests that need the garbage collector or the end of a namespace's deletion.
///
/// # Panics
/// As [`shared`].
pub async fn shared_with_controllers() -> Option<&'static ControlPlane> {
    let control_plane = shared().await?;
    if control_plane.runs_controllers() {
        return Some(control_plane);
    }
    skip("no kube-controller-manager beside the kube-apiserver; hack/k8s/build makes both");
    None
}

/// Records, for `hack/test` and for people, that the calling test did not run: in the file that `SKEP_SKIPS`
/// names, as `NAME: reason`.
///
/// The name is that of the thread, which the test harness names after the test.
///
/// # Panics
/// When the file can't be written.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test on a thread without a name");
    let _ = writeln!(std::io::stderr().lock(), "skipped {test}: {reason}");
    if let Some(path) = env::var_os("SKEP_SKIPS") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the file of skips");
        file.write_all(format!("{test}: {reason}\n").as_bytes()).expect("a line in the file of skips");
    }
}

//! Which files a running `skep up` keeps an eye on.

use std::path::{Path, PathBuf};

use super::instance::Instance;
use super::mounts::outside;
use crate::manifest::PlannedObject;

/// The manifests, of which standard input can't change.
pub(crate) fn manifests(paths: &[PathBuf]) -> impl Iterator<Item = PathBuf> {
    paths.iter().filter(|path| *path != Path::new("-")).cloned()
}

/// The manifests, and the files of this machine that plans name. A proxy that goes on with its last good
/// version goes on reading its files too.
pub(crate) fn all<'a>(
    paths: &[PathBuf],
    planned: impl Iterator<Item = &'a PlannedObject>,
    running: impl Iterator<Item = &'a Instance>,
) -> Vec<PathBuf> {
    let workloads = planned.filter_map(|object| object.planned.plan.as_ref()?.workload.as_ref());
    manifests(paths).chain(workloads.flat_map(outside)).chain(running.flat_map(Instance::outside)).collect()
}

//! Where the programs of a control plane are.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::sharing::skip;

/// What `hack/k8s/build` makes, below its cache folder.
const BUILT: &str = "k8s-1.20.2/bin";

/// The programs of a control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assets {
    pub(super) etcd: PathBuf,
    pub(super) api_server: PathBuf,
    pub(super) controller_manager: Option<PathBuf>,
}

impl Assets {
    /// The folder that `KUBEBUILDER_ASSETS` names, else the one that `SKEP_K8S` names (`hack/test` sets it),
    /// else what `hack/k8s/build` left in its cache. None when nothing is named and nothing was built.
    ///
    /// # Panics
    /// When the folder named has no etcd or no kube-apiserver: a wrong name is no reason to skip tests.
    pub fn find() -> Option<Self> {
        for variable in ["KUBEBUILDER_ASSETS", "SKEP_K8S"] {
            if let Some(folder) = env::var_os(variable).filter(|value| !value.is_empty()) {
                let folder = PathBuf::from(folder);
                return Some(Self::of(&folder).unwrap_or_else(|| {
                    panic!("{variable} is {}, which has no etcd or no kube-apiserver", folder.display())
                }));
            }
        }
        Self::of(&cache()?.join(BUILT))
    }

    /// As [`Self::find`]; when there are none, the calling test is recorded as skipped and should return.
    ///
    /// # Panics
    /// As [`Self::find`].
    pub fn find_or_skip() -> Option<Self> {
        let found = Self::find();
        if found.is_none() {
            skip(
                "no kube-apiserver here; hack/k8s/build makes it, or KUBEBUILDER_ASSETS names a folder with it",
            );
        }
        found
    }

    /// Whether there is a kube-controller-manager, which the folders of kubebuilder don't have.
    pub fn has_controllers(&self) -> bool {
        self.controller_manager.is_some()
    }

    fn of(folder: &Path) -> Option<Self> {
        let program = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        Some(Self {
            etcd: program("etcd")?,
            api_server: program("kube-apiserver")?,
            controller_manager: program("kube-controller-manager"),
        })
    }

    /// Whether this etcd can leave out waiting for the disk (since 3.5).
    pub(super) fn etcd_skips_fsync(&self) -> bool {
        knows(&self.etcd, "--unsafe-no-fsync")
    }
}

/// Whether the help of a program names a flag: they come and go with releases.
pub(super) fn knows(program: &Path, flag: &str) -> bool {
    let help = Command::new(program).arg("--help").output().expect("the help of a program");
    [help.stdout, help.stderr].iter().any(|text| String::from_utf8_lossy(text).contains(flag))
}

/// The same folder as `cache` of `hack/lib.sh`.
fn cache() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("SKEP_CACHE").or_else(|| {
        let shared = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(shared.join("skep"))
    })
}

//! What decides about sidecars besides the object itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::config::SidecarConfig;

/// Which programs the sidecars are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SidecarMode {
    /// The two published images.
    #[default]
    External,
    /// This project's own image: `skep sidecar ...`.
    Builtin,
}

/// Who registers the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Registration {
    /// A sidecar in the pod.
    #[default]
    Pod,
    /// The operator, from its own namespace; the pod gets the credentials from a Secret.
    Operator,
}

/// Whether an administrator's name and password may enter a pod (external sidecars only).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdminInPods {
    /// Only where the ConfigMap `environments` has carried them all along; with a warning.
    #[default]
    WhereLegacy,
    /// Wherever they are found; with a warning.
    Allowed,
    /// Nowhere.
    Forbidden,
}

/// Where the socket of the Workload API comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Socket {
    /// A folder of the node, `/run/spire/agent-sockets` unless the config file says another.
    #[default]
    HostPath,
    /// The CSI driver `csi.spiffe.io`, read-only: allowed where the Pod Security level is `restricted`.
    Csi,
}

/// Settings of the webhook that decide what is injected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Inject where neither object nor namespace says anything (`--enable-client-registration`).
    pub default_on: bool,
    pub mode: SidecarMode,
    pub registration: Registration,
    pub admin_in_pods: AdminInPods,
    pub socket: Socket,
    /// Images, resources and volumes (`--config`).
    pub config: SidecarConfig,
}

/// What is known of the namespace at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surroundings {
    pub namespace_labels: BTreeMap<String, String>,
    pub namespace_annotations: BTreeMap<String, String>,
    /// Content of the ConfigMap `environments`; none when there is no such ConfigMap.
    pub environments: Option<BTreeMap<String, String>>,
    /// Keys of the ConfigMap `spiffe-helper-config`.
    pub helper_config: Option<BTreeSet<String>>,
    /// Keys of the Secret `keycloak-admin-secret`.
    pub admin_secret: Option<BTreeSet<String>>,
    /// Keys of the Secret `keycloak-registration`.
    pub registration_secret: Option<BTreeSet<String>>,
    /// The cluster runs init containers with `restartPolicy: Always` beside the others (1.29 and newer).
    pub native_sidecars: bool,
}

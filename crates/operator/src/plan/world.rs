//! What an object is planned in: the objects it refers to, and the operator's settings.

use std::collections::{BTreeMap, BTreeSet};

use skep_api::crd::{Kind, Object};
use skep_api::names::REQUIRE_AUTH_LABEL;

use crate::sidecars::names::NODE_SOCKET_DIR;

use super::sidecars::PodSidecars;

/// Everything outside an object that decides what it means. All of it is of the object's namespace.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Settings of the operator, or of the tool that stands in for it.
    pub settings: Settings,
    /// Labels of the namespace.
    pub namespace_labels: BTreeMap<String, String>,
    /// Annotations of the namespace.
    pub namespace_annotations: BTreeMap<String, String>,
    /// Config objects.
    pub configs: BTreeMap<(Kind, String), Object>,
    /// ConfigMaps with their content.
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Secrets with their keys; values are never here.
    pub secrets: BTreeMap<String, BTreeSet<String>>,
    /// `metadata.resourceVersion` of Secrets, where it is known. It tells one content from the next.
    pub secret_versions: BTreeMap<String, String>,
    /// MCPServers and MCPRemoteProxies of the namespace, the oldest first.
    pub workloads: Vec<WorkloadName>,
}

/// Name of a workload, for finding generated names that collide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadName {
    pub kind: Kind,
    pub name: String,
}

/// Settings of the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Image of the proxy.
    pub runner_image: String,
    /// Address on which proxies listen.
    pub proxy_host: String,
    /// Refuse workloads without an auth config, in every namespace.
    pub require_auth: bool,
    /// Where the plan is going to run.
    pub place: Place,
    /// What a reference to something unknown counts as.
    pub missing: Missing,
    /// Secrets for pulling images, for every pod.
    pub image_pull_secrets: Vec<String>,
    /// Session store of proxies whose manifest names none.
    pub default_redis: Option<DefaultRedis>,
    /// The cluster is OpenShift, which gives pods their ids itself.
    pub openshift: bool,
    /// The cluster knows ServiceMonitors (`monitoring.coreos.com/v1`).
    pub service_monitors: bool,
    /// Folder of nodes with the socket of the SPIFFE Workload API: the one that a pod may mount, read-only,
    /// without a label on the namespace.
    pub workload_api_folder: String,
    /// Sidecars that come with the pods of MCP servers; none where the webhook puts them into MCPServers, which
    /// then say so themselves.
    pub sidecars: Option<PodSidecars>,
}

/// The session store of proxies whose manifest names none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRedis {
    /// Address as `host:port`.
    pub addr: String,
    /// Secret with the password, in the proxy's namespace; empty when there is no password.
    pub secret_name: String,
    /// Key of the password in that Secret.
    pub secret_key: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            runner_image: "skep:latest".to_owned(),
            proxy_host: "0.0.0.0".to_owned(),
            require_auth: false,
            place: Place::Cluster,
            missing: Missing::Refuse,
            image_pull_secrets: Vec::new(),
            default_redis: None,
            openshift: false,
            service_monitors: false,
            workload_api_folder: NODE_SOCKET_DIR.to_owned(),
            sidecars: None,
        }
    }
}

/// Where a plan is going to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In pods.
    Cluster,
    /// In one process on this machine; loopback URLs are allowed, and may be plain http.
    Local,
}

/// What a reference to something that is not in the world counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A warning: the files given may not be all there is. What cannot be planned without it is not planned.
    Warn,
    /// An error: the world is complete.
    Refuse,
    /// A warning: it may still come, for manifests are applied in any order. What is there is known; what
    /// cannot be planned without it is not planned.
    Later,
}

impl World {
    /// A config of this namespace.
    pub fn config(&self, kind: Kind, name: &str) -> Option<&Object> {
        self.configs.get(&(kind, name.to_owned()))
    }

    /// True when workloads without an auth config are refused here.
    pub fn requires_auth(&self) -> bool {
        self.settings.require_auth
            || self.namespace_labels.get(REQUIRE_AUTH_LABEL).is_some_and(|value| value != "false")
    }

    /// True when the plan runs on this machine.
    pub fn is_local(&self) -> bool {
        self.settings.place == Place::Local
    }
}

//! What the operator watches.

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;
use skep_api::crd::{GROUP, Kind};

use super::capabilities::Capabilities;

/// One kind of object that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Objects of users.
    Ours(Kind),
    Deployment,
    StatefulSet,
    Service,
    ConfigMap,
    ServiceAccount,
    Role,
    RoleBinding,
    DisruptionBudget,
    NetworkPolicy,
    ServiceMonitor,
    /// Pods of proxies and backends.
    Pod,
    /// Metadata of all Secrets.
    SecretMetadata,
    /// Metadata of all ConfigMaps.
    ConfigMapMetadata,
    /// Namespaces, for their labels.
    Namespace,
}

impl Resource {
    /// What the operator makes.
    pub const MADE: [Self; 10] = [
        Self::Deployment,
        Self::StatefulSet,
        Self::Service,
        Self::ConfigMap,
        Self::ServiceAccount,
        Self::Role,
        Self::RoleBinding,
        Self::DisruptionBudget,
        Self::NetworkPolicy,
        Self::ServiceMonitor,
    ];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Kind::ALL.into_iter().map(Self::Ours).chain(Self::MADE).chain([
            Self::Pod,
            Self::SecretMetadata,
            Self::ConfigMapMetadata,
            Self::Namespace,
        ])
    }

    /// Where the API server has it; `None` when this one has it not.
    pub fn api(self, capabilities: &Capabilities) -> Option<ApiResource> {
        let made = |group: &str, version: &str, kind: &str, plural: &str| {
            Some(ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural))
        };
        match self {
            Self::Ours(kind) => made(GROUP, capabilities.version_of(kind)?, kind.as_str(), kind.plural()),
            Self::Deployment => made("apps", "v1", "Deployment", "deployments"),
            Self::StatefulSet => made("apps", "v1", "StatefulSet", "statefulsets"),
            Self::Service => made("", "v1", "Service", "services"),
            Self::ConfigMap | Self::ConfigMapMetadata => made("", "v1", "ConfigMap", "configmaps"),
            Self::ServiceAccount => made("", "v1", "ServiceAccount", "serviceaccounts"),
            Self::Role => made("rbac.authorization.k8s.io", "v1", "Role", "roles"),
            Self::RoleBinding => made("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
            Self::DisruptionBudget => {
                let version = capabilities.disruption_budgets.as_deref()?;
                made("policy", version, "PodDisruptionBudget", "poddisruptionbudgets")
            }
            Self::NetworkPolicy => made("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
            Self::ServiceMonitor => capabilities
                .service_monitors
                .then(|| made("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"))
                .flatten(),
            Self::Pod => made("", "v1", "Pod", "pods"),
            Self::SecretMetadata => made("", "v1", "Secret", "secrets"),
            Self::Namespace => made("", "v1", "Namespace", "namespaces"),
        }
    }

    /// Which of them are watched. Everything that is made carries this label.
    pub fn selector(self) -> Option<&'static str> {
        let made = Self::MADE.contains(&self) || self == Self::Pod;
        made.then_some("toolhive=true")
    }

    /// True when only the metadata is asked for, so that no content is ever in memory.
    pub fn metadata_only(self) -> bool {
        matches!(self, Self::SecretMetadata | Self::ConfigMapMetadata | Self::Namespace)
    }

    /// True for what lies in no namespace.
    pub fn is_cluster_wide(self) -> bool {
        self == Self::Namespace
    }

    /// Which kind of made object a manifest is.
    pub fn of(manifest: &Value) -> Option<Self> {
        let kind = manifest.get("kind").and_then(Value::as_str)?;
        Self::MADE.into_iter().find(|resource| resource.as_str() == kind)
    }

    /// Its kind, as in manifests; also the label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ours(kind) => kind.as_str(),
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::Service => "Service",
            Self::ConfigMap | Self::ConfigMapMetadata => "ConfigMap",
            Self::ServiceAccount => "ServiceAccount",
            Self::Role => "Role",
            Self::RoleBinding => "RoleBinding",
            Self::DisruptionBudget => "PodDisruptionBudget",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ServiceMonitor => "ServiceMonitor",
            Self::Pod => "Pod",
            Self::SecretMetadata => "Secret",
            Self::Namespace => "Namespace",
        }
    }
}

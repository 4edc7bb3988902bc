//! Settings of the webhook process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::plan;
use crate::sidecars::{Policy, SidecarConfig};

/// Where sidecars are injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InjectionPoint {
    /// Into the pod template of MCPServers.
    #[default]
    Server,
    /// Into pods of MCPServers when they are created.
    Pod,
}

/// What becomes of a request whose user could not do himself what his manifest asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessReviews {
    /// It is denied.
    #[default]
    Enforce,
    /// It is let in with a warning.
    Warn,
}

/// Where the serving certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// Files that somebody else writes (cert-manager); read again when they change.
    Files { certificate: PathBuf, key: PathBuf },
    /// Our own, in a Secret of our own namespace.
    SelfSigned(SelfSigned),
}

/// How the webhook makes its own certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfSigned {
    /// Namespace of Secret, Lease and Service.
    pub namespace: String,
    /// Service by which the API server reaches the webhook.
    pub service: String,
    /// Secret with CA, certificate and key; also the name of the Lease.
    pub secret: String,
    /// MutatingWebhookConfiguration whose caBundle is ours to set.
    pub mutating_configuration: String,
    /// ValidatingWebhookConfiguration whose caBundle is ours to set.
    pub validating_configuration: String,
    /// How long a certificate is valid. It is renewed when a third of that is left.
    pub validity: Duration,
    /// The same for the CA.
    pub ca_validity: Duration,
}

/// What one webhook process is told.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// Address of the HTTPS listener.
    pub address: SocketAddr,
    pub certificates: CertificateSource,
    pub injection_point: InjectionPoint,
    pub policy: Policy,
    /// What counts where the config file says nothing.
    pub config_base: SidecarConfig,
    /// File that `policy.config` was read from; read again when it changes.
    pub config_file: Option<PathBuf>,
    /// A reference to something that does not exist denies, and does not only warn.
    pub strict_references: bool,
    pub access_reviews: AccessReviews,
    /// What the planner is told. `missing` follows from `strict_references`.
    pub plan: plan::Settings,
}

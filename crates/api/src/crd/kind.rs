//! The kinds, their names and their versions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::GROUP;

/// The kinds that this version plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    MCPServer,
    MCPRemoteProxy,
    MCPExternalAuthConfig,
    MCPToolConfig,
    MCPOIDCConfig,
    MCPAuthzConfig,
    MCPGroup,
    MCPTelemetryConfig,
    MCPWebhookConfig,
    MCPServerEntry,
}

/// ToolHive's finalizer on an MCPServer. This project sets none there, but removes it when the object is
/// deleted: nobody else may be left to do so.
pub const SERVER_FINALIZER: &str = "mcpserver.toolhive.stacklok.dev/finalizer";

impl Kind {
    /// All of them, in alphabetical order of their plurals.
    pub const ALL: [Self; 10] = [
        Self::MCPAuthzConfig,
        Self::MCPExternalAuthConfig,
        Self::MCPGroup,
        Self::MCPOIDCConfig,
        Self::MCPRemoteProxy,
        Self::MCPServerEntry,
        Self::MCPServer,
        Self::MCPTelemetryConfig,
        Self::MCPToolConfig,
        Self::MCPWebhookConfig,
    ];

    /// The name in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MCPServer => "MCPServer",
            Self::MCPRemoteProxy => "MCPRemoteProxy",
            Self::MCPExternalAuthConfig => "MCPExternalAuthConfig",
            Self::MCPToolConfig => "MCPToolConfig",
            Self::MCPOIDCConfig => "MCPOIDCConfig",
            Self::MCPAuthzConfig => "MCPAuthzConfig",
            Self::MCPGroup => "MCPGroup",
            Self::MCPTelemetryConfig => "MCPTelemetryConfig",
            Self::MCPWebhookConfig => "MCPWebhookConfig",
            Self::MCPServerEntry => "MCPServerEntry",
        }
    }

    /// The name in URLs of the API server.
    pub fn plural(self) -> &'static str {
        match self {
            Self::MCPServer => "mcpservers",
            Self::MCPRemoteProxy => "mcpremoteproxies",
            Self::MCPExternalAuthConfig => "mcpexternalauthconfigs",
            Self::MCPToolConfig => "mcptoolconfigs",
            Self::MCPOIDCConfig => "mcpoidcconfigs",
            Self::MCPAuthzConfig => "mcpauthzconfigs",
            Self::MCPGroup => "mcpgroups",
            Self::MCPTelemetryConfig => "mcptelemetryconfigs",
            Self::MCPWebhookConfig => "mcpwebhookconfigs",
            Self::MCPServerEntry => "mcpserverentries",
        }
    }

    /// Further names that `kubectl` takes.
    pub fn short_names(self) -> &'static [&'static str] {
        match self {
            Self::MCPServer => &["mcpserver", "mcpservers"],
            Self::MCPRemoteProxy => &["rp", "mcprp"],
            Self::MCPExternalAuthConfig => &["extauth", "mcpextauth"],
            Self::MCPToolConfig => &["tc", "toolconfig"],
            Self::MCPOIDCConfig => &["mcpoidc"],
            Self::MCPAuthzConfig => &["authzcfg"],
            Self::MCPGroup => &["mcpg", "mcpgroup"],
            Self::MCPTelemetryConfig => &["mcpotel"],
            Self::MCPWebhookConfig => &["mwc"],
            Self::MCPServerEntry => &["mcpentry"],
        }
    }

    /// The versions that are served, the oldest first; all have one schema.
    pub fn versions(self) -> &'static [Version] {
        match self {
            // As in ToolHive, so that a rollback finds the version that its objects are stored in.
            Self::MCPWebhookConfig => &[Version::V1Alpha1],
            _ => &[Version::V1Alpha1, Version::V1Beta1],
        }
    }

    /// The version that objects are stored in.
    pub fn stored(self) -> Version {
        match self {
            Self::MCPWebhookConfig => Version::V1Alpha1,
            _ => Version::V1Beta1,
        }
    }

    /// The finalizer that objects of this kind get; ToolHive's own names, so that either operator can take
    /// over from the other. `None` where owner references or nothing at all do the cleanup.
    pub fn finalizer(self) -> Option<&'static str> {
        match self {
            Self::MCPServer | Self::MCPRemoteProxy | Self::MCPServerEntry => None,
            Self::MCPExternalAuthConfig => Some("mcpexternalauthconfig.toolhive.stacklok.dev/finalizer"),
            Self::MCPToolConfig => Some("toolhive.stacklok.dev/toolconfig-finalizer"),
            Self::MCPOIDCConfig => Some("mcpoidcconfig.toolhive.stacklok.dev/finalizer"),
            Self::MCPAuthzConfig => Some("mcpauthzconfig.toolhive.stacklok.dev/finalizer"),
            Self::MCPGroup => Some("toolhive.stacklok.dev/mcpgroup-finalizer"),
            Self::MCPTelemetryConfig => Some("mcptelemetryconfig.toolhive.stacklok.dev/finalizer"),
            Self::MCPWebhookConfig => Some("mcpwebhookconfig.toolhive.stacklok.dev/finalizer"),
        }
    }

    /// True for kinds that make a workload, false for configs.
    pub fn is_workload(self) -> bool {
        matches!(self, Self::MCPServer | Self::MCPRemoteProxy)
    }

    /// True for kinds that mean something without a spec: every one of their fields is optional.
    pub fn may_be_empty(self) -> bool {
        matches!(self, Self::MCPToolConfig | Self::MCPGroup | Self::MCPTelemetryConfig)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A kind that this version does not plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a kind of {GROUP} that this version plans")]
pub struct UnknownKind(pub String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// Kinds of the group that this version knows by name only.
pub const LATER_KINDS: [&str; 6] = [
    "EmbeddingServer",
    "MCPAuthServer",
    "MCPRegistry",
    "VirtualMCPCompositeToolDefinition",
    "VirtualMCPServer",
    "VirtualMCPAuthServer",
];

/// API version of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Deprecated, except for a kind that has no other.
    V1Alpha1,
    V1Beta1,
}

impl Version {
    /// `v1beta1` and the like.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1Alpha1 => "v1alpha1",
            Self::V1Beta1 => "v1beta1",
        }
    }

    /// `toolhive.stacklok.dev/v1beta1` and the like.
    pub fn api_version(self) -> String {
        format!("{GROUP}/{}", self.as_str())
    }

    /// Reads `apiVersion`; `None` when it is another group's or unknown.
    pub fn of(api_version: &str) -> Option<Self> {
        match api_version.strip_prefix(GROUP)? {
            "/v1alpha1" => Some(Self::V1Alpha1),
            "/v1beta1" => Some(Self::V1Beta1),
            _ => None,
        }
    }
}

//! MCPServerEntry: a remote MCP server in a catalogue. It makes no workload.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pod::HeaderForwardSpec;
use super::reference::{CaBundleSource, ConfigRef, NameRef};
use crate::runconfig::Transport;

/// Spec of an MCPServerEntry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerEntrySpec {
    /// URL of the remote MCP server. https, unless `allowPrivateEndpoint` is set.
    #[schemars(regex(pattern = r"^https?://"))]
    pub remote_url: String,
    /// How the remote server is spoken to.
    #[schemars(extend("enum" = ["sse", "streamable-http"]))]
    pub transport: Transport,
    /// The MCPGroup this belongs to.
    pub group_ref: NameRef,
    /// The credential for the remote server, in an MCPExternalAuthConfig.
    pub external_auth_config_ref: Option<ConfigRef>,
    /// Headers that are added to every request.
    pub header_forward: Option<HeaderForwardSpec>,
    /// CA certificates for calls to the remote server, from a ConfigMap.
    pub ca_bundle_ref: Option<CaBundleSource>,
    /// The remote server may have a private address, and may be plain http. Default: false.
    pub allow_private_endpoint: Option<bool>,
}

//! Names that the sidecars, their volumes and what they need have; those of the original webhook, so that its
//! namespaces go on working.

/// Container that keeps SVIDs in files.
pub const SPIFFE_HELPER: &str = "spiffe-helper";
/// Container that registers the pod's identity as a client of Keycloak.
pub const CLIENT_REGISTRATION: &str = "kagenti-client-registration";

/// Volume through which the registration hands the client's credentials over.
pub const SHARED_VOLUME: &str = "shared-data";
/// Volume with the socket of the Workload API.
pub const SOCKET_VOLUME: &str = "spire-agent-socket";
/// Volume with the helper's configuration; also the name of the ConfigMap.
pub const HELPER_CONFIG: &str = "spiffe-helper-config";
/// Key in that ConfigMap.
pub const HELPER_CONFIG_KEY: &str = "helper.conf";
/// Volume in which SVIDs lie.
pub const SVID_VOLUME: &str = "svid-output";
/// Volume with the credential of the registration itself (built-in sidecars); also the name of the Secret.
pub const REGISTRATION_SECRET: &str = "keycloak-registration";

/// Volume in which the built-in registration keeps what only it may read.
pub const REGISTRATION_STATE_VOLUME: &str = "keycloak-registration-state";
/// Key of [`REGISTRATION_SECRET`]: an initial access token, with which clients can be registered.
pub const INITIAL_ACCESS_KEY: &str = "initial-access-token";
/// Key of [`REGISTRATION_SECRET`]: a client with the role `manage-clients`.
pub const CLIENT_ID_KEY: &str = "client-id";
/// Key of [`REGISTRATION_SECRET`]: its secret.
pub const CLIENT_SECRET_KEY: &str = "client-secret";

/// ConfigMap that says where Keycloak is.
pub const ENVIRONMENTS: &str = "environments";
/// Secret with the administrator's name and password.
pub const ADMIN_SECRET: &str = "keycloak-admin-secret";
/// Keys of [`ENVIRONMENTS`], and environment variables of the registration.
pub const KEYCLOAK_URL: &str = "KEYCLOAK_URL";
/// See [`KEYCLOAK_URL`].
pub const KEYCLOAK_REALM: &str = "KEYCLOAK_REALM";
/// Key of [`ADMIN_SECRET`] or, as of old, of [`ENVIRONMENTS`].
pub const KEYCLOAK_ADMIN_USERNAME: &str = "KEYCLOAK_ADMIN_USERNAME";
/// See [`KEYCLOAK_ADMIN_USERNAME`].
pub const KEYCLOAK_ADMIN_PASSWORD: &str = "KEYCLOAK_ADMIN_PASSWORD";

/// Where the sidecars find the socket's folder.
pub const SOCKET_DIR: &str = "/spiffe-workload-api";
/// Where the socket's folder is on a node.
pub const NODE_SOCKET_DIR: &str = "/run/spire/agent-sockets";
/// CSI driver that brings the socket's folder into a pod.
pub const SOCKET_DRIVER: &str = "csi.spiffe.io";
/// Where the helper's configuration is.
pub const HELPER_CONFIG_DIR: &str = "/etc/spiffe-helper";
/// Where the built-in registration finds [`REGISTRATION_SECRET`].
pub const REGISTRATION_DIR: &str = "/etc/skep/keycloak-registration";
/// Where it keeps what only it may read.
pub const REGISTRATION_STATE_DIR: &str = "/var/lib/skep-registration";
/// Where they keep SVIDs.
pub const SVID_DIR: &str = "/opt";
/// Where they keep the client's credentials.
pub const SHARED_DIR: &str = "/shared";
/// Where the MCP server's own container finds SVIDs.
pub const SERVER_SVID_DIR: &str = "/var/run/spiffe-svid";
/// Where it finds the client's credentials.
pub const SERVER_CLIENT_DIR: &str = "/var/run/skep-client";
/// Environment variable of the MCP server's container with [`SERVER_SVID_DIR`].
pub const SERVER_SVID_VARIABLE: &str = "SPIFFE_SVID_DIR";
/// The same with [`SERVER_CLIENT_DIR`].
pub const SERVER_CLIENT_VARIABLE: &str = "SKEP_CLIENT_DIR";

/// Annotation of an MCPServer or namespace that switches injection: `true` or `false`.
pub const SWITCH_ANNOTATION: &str = "kagenti.dev/inject";
/// Label of a namespace that switches injection: `true` or `false`.
pub const SWITCH_LABEL: &str = "kagenti-enabled";
/// Annotation that the webhook writes while something is injected: why, and what, as JSON.
pub const INJECTION_ANNOTATION: &str = "skep.dev/injection";

/// Port of the pod on which a native built-in registration answers probes.
pub const REGISTRATION_PORT: u16 = 8082;

/// The Secret with a client's credentials that the operator registers and writes, in the server's namespace.
pub fn client_secret(server: &str) -> String {
    format!("{server}-keycloak-client")
}

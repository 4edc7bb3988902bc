//! Names, labels and annotations of everything that is made from a custom resource. They are the ones
//! ToolHive uses, so that dashboards, selectors and scripts keep working.

use std::collections::BTreeMap;

/// Prefix of skep's own labels and annotations.
pub const SKEP_DOMAIN: &str = "skep.dev";
/// Namespace label: every proxy in the namespace must have an auth config.
pub const REQUIRE_AUTH_LABEL: &str = "skep.dev/require-auth";
/// Annotation of the RunConfig's ConfigMap: checksum of its content.
pub const CONTENT_CHECKSUM: &str = "toolhive.stacklok.dev/content-checksum";
/// Annotation of the pod template: checksum of what needs a restart.
pub const RUNCONFIG_CHECKSUM: &str = "toolhive.stacklok.dev/runconfig-checksum";
/// Annotation of the pod template: generation of the MCPServer.
pub const GENERATION: &str = "toolhive.stacklok.dev/mcpserver-generation";
/// Annotation of the pod template: hash of `spec.podTemplateSpec`.
pub const POD_TEMPLATE_HASH: &str = "toolhive.stacklok.io/podtemplatespec-hash";
/// Annotation of an MCPServer's proxy pods: checksum of the pod template without the generation.
pub const TEMPLATE_CHECKSUM: &str = "skep.dev/template-checksum";
/// Annotation of an MCPServer, and of the pods that it has restarted: the time at which a restart was asked for.
pub const RESTARTED_AT: &str = "mcpserver.toolhive.stacklok.dev/restarted-at";
/// Annotation of an MCPServer: `rolling` or `immediate`.
pub const RESTART_STRATEGY: &str = "mcpserver.toolhive.stacklok.dev/restart-strategy";
/// Annotation of an MCPServer that the operator writes: the restart that it has done last.
pub const LAST_PROCESSED_RESTART: &str = "mcpserver.toolhive.stacklok.dev/last-processed-restart";
/// Label of everything that is made from a custom resource; the operator looks at nothing else.
pub const OWNED_LABEL: &str = "toolhive";
/// Label with the name of the custom resource that something is made from.
pub const OWNER_NAME_LABEL: &str = "toolhive-name";
/// Port on which a proxy reports and serves metrics, unless its RunConfig says another.
pub const DIAGNOSTICS_PORT: u16 = 9464;
/// Name of that port in the pod.
pub const METRICS_PORT_NAME: &str = "metrics";
/// Name of the proxy's container in its pod.
pub const PROXY_CONTAINER: &str = "toolhive";
/// Name of the MCP server's container in the backend's pod.
pub const BACKEND_CONTAINER: &str = "mcp";
/// Where the RunConfig is mounted.
pub const RUNCONFIG_DIR: &str = "/etc/runconfig";
/// Where the authorization document is mounted.
pub const AUTHZ_DIR: &str = "/etc/toolhive/authz";
/// Where CA bundles of identity providers are mounted, one folder a ConfigMap.
pub const CA_DIR: &str = "/config/certs";
/// Where CA bundles of telemetry endpoints are mounted, one folder a ConfigMap.
pub const OTEL_CA_DIR: &str = "/config/certs/otel";
/// Where Secrets are mounted whose change the proxy takes without a restart, one folder a Secret.
pub const SECRETS_DIR: &str = "/etc/skep/secrets";
/// Folder of the proxy's own ServiceAccount token for a token endpoint.
pub const ACTOR_TOKEN_DIR: &str = "/var/run/secrets/skep/actor-token";
/// Name of the file in [`ACTOR_TOKEN_DIR`].
pub const ACTOR_TOKEN_FILE: &str = "token";
/// Volume with the RunConfig.
pub const RUNCONFIG_VOLUME: &str = "runconfig";
/// Volume for what the proxy writes, which it loses with its pod.
pub const TMP_VOLUME: &str = "tmp";
/// Volume with the authorization document.
pub const AUTHZ_VOLUME: &str = "authz-config";
/// Volume with the proxy's own ServiceAccount token for a token endpoint.
pub const ACTOR_TOKEN_VOLUME: &str = "actor-token";
/// What the names of volumes with Secrets begin with.
pub const SECRET_VOLUME: &str = "secret";
/// What the names of volumes with CA bundles begin with.
pub const CA_VOLUME: &str = "oidc-ca-bundle";
/// What the names of volumes with CA bundles of telemetry endpoints begin with.
pub const OTEL_CA_VOLUME: &str = "otel-ca-bundle";
/// Field manager of the backend's objects.
pub const BACKEND_FIELD_MANAGER: &str = "toolhive-container-manager";

/// Longest name of an MCPServer; what is made from it must fit into 63 characters.
pub const SERVER_NAME_MAX: usize = 50;
/// Longest name of an MCPRemoteProxy.
pub const REMOTE_PROXY_NAME_MAX: usize = 46;

/// The ConfigMap that holds runconfig.json.
pub fn runconfig(name: &str) -> String {
    format!("{name}-runconfig")
}

/// The ConfigMap that holds inline authorization.
pub fn inline_authz(name: &str) -> String {
    format!("{name}-authz-inline")
}

/// The Service in front of an MCPServer's proxy.
pub fn server_service(name: &str) -> String {
    format!("mcp-{name}-proxy")
}

/// The Service in front of a remote proxy.
pub fn remote_proxy_service(name: &str) -> String {
    format!("mcp-{name}-remote-proxy")
}

/// The ServiceAccount, Role and RoleBinding of an MCPServer's proxy.
pub fn server_runner(name: &str) -> String {
    format!("{name}-proxy-runner")
}

/// The ServiceAccount, Role and RoleBinding of a remote proxy.
pub fn remote_proxy_runner(name: &str) -> String {
    format!("{name}-remote-proxy-runner")
}

/// The ServiceAccount of an MCPServer's backend.
pub fn backend_account(name: &str) -> String {
    format!("{name}-sa")
}

/// The Service in front of an MCPServer's backend.
pub fn backend_service(name: &str) -> String {
    format!("mcp-{name}")
}

/// The headless Service of an MCPServer's backend.
pub fn backend_headless_service(name: &str) -> String {
    format!("mcp-{name}-headless")
}

/// The NetworkPolicy in front of an MCPServer's backend.
pub fn backend_policy(name: &str) -> String {
    format!("{name}-backend")
}

/// DNS name of a Service.
pub fn service_host(service: &str, namespace: &str) -> String {
    format!("{service}.{namespace}.svc.cluster.local")
}

/// `status.url` of a remote proxy: without a path.
pub fn remote_proxy_url(name: &str, namespace: &str, port: u16) -> String {
    format!("http://{}:{port}", service_host(&remote_proxy_service(name), namespace))
}

/// `status.url` of an MCPServer: `/mcp`, or `/sse#NAME` when clients speak SSE.
pub fn server_url(name: &str, namespace: &str, port: u16, sse: bool) -> String {
    let host = service_host(&server_service(name), namespace);
    if sse { format!("http://{host}:{port}/sse#{name}") } else { format!("http://{host}:{port}/mcp") }
}

/// Labels of a workload's Deployment, pods and Service; also the selector. `app` is `mcpserver` or
/// `mcpremoteproxy`.
pub fn workload_labels(app: &str, name: &str) -> BTreeMap<String, String> {
    [
        ("app", app),
        ("app.kubernetes.io/name", app),
        ("app.kubernetes.io/instance", name),
        ("toolhive", "true"),
        ("toolhive-name", name),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Labels of the RunConfig's ConfigMap. `owner` is `mcp-server` or `mcp-remote-proxy`.
pub fn runconfig_labels(owner: &str, name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("toolhive.stacklok.io/component".to_owned(), "run-config".to_owned()),
        (format!("toolhive.stacklok.io/{owner}"), name.to_owned()),
        ("toolhive.stacklok.io/managed-by".to_owned(), "toolhive-operator".to_owned()),
        (OWNED_LABEL.to_owned(), "true".to_owned()),
        (OWNER_NAME_LABEL.to_owned(), name.to_owned()),
    ])
}

/// Labels of the ConfigMap with inline authorization.
pub fn inline_authz_labels(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("toolhive.stacklok.io/authz".to_owned(), "inline".to_owned()),
        (OWNED_LABEL.to_owned(), "true".to_owned()),
        (OWNER_NAME_LABEL.to_owned(), name.to_owned()),
    ])
}

/// True for label keys that [`workload_labels`] sets. The operator's value wins over a manifest's.
pub fn is_workload_label(key: &str) -> bool {
    ["app", "app.kubernetes.io/name", "app.kubernetes.io/instance", "toolhive", "toolhive-name"]
        .contains(&key)
}

/// True for label keys that belong to the operator on what it makes, whether it sets them or not.
pub fn is_reserved_label(key: &str) -> bool {
    key == "app"
        || ["app.kubernetes.io/", "toolhive", "skep.dev/"].iter().any(|prefix| key.starts_with(prefix))
}

/// True for annotation keys that the operator sets on a proxy's pods. Its value wins over a manifest's.
pub fn is_pod_annotation(key: &str) -> bool {
    [RUNCONFIG_CHECKSUM, GENERATION, POD_TEMPLATE_HASH, TEMPLATE_CHECKSUM, RESTARTED_AT].contains(&key)
}

/// True for names of volumes that the operator renders into a proxy's pod, now or with another credential.
pub fn is_reserved_volume(name: &str) -> bool {
    [RUNCONFIG_VOLUME, TMP_VOLUME, AUTHZ_VOLUME, ACTOR_TOKEN_VOLUME].contains(&name)
        || [SECRET_VOLUME, CA_VOLUME, OTEL_CA_VOLUME]
            .iter()
            .any(|prefix| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-')))
}

/// True for environment variables that the proxy takes for the operator's word: where the API server is, its
/// secrets and its generation.
pub fn is_reserved_variable(name: &str) -> bool {
    name.starts_with("KUBERNETES_")
        || name.starts_with("TOOLHIVE_SECRET_")
        || name.starts_with("TOOLHIVE_OTEL_HEADER_")
        || (name.starts_with("TOOLHIVE_") && name.ends_with("_CLIENT_SECRET"))
        || [
            "TOOLHIVE_SECRETS_PROVIDER",
            "TOOLHIVE_REMOTE_AUTH_BEARER_TOKEN",
            "THV_SESSION_REDIS_PASSWORD",
            "THV_MCPSERVER_GENERATION",
        ]
        .contains(&name)
}

/// Environment variable of a secret identifier (`remote_auth_config.bearer_token`, `add_headers_from_secret`).
pub fn secret_env(identifier: &str) -> String {
    format!("TOOLHIVE_SECRET_{identifier}")
}

/// Where a key of a Secret is mounted in the proxy's pod.
pub fn secret_file(secret: &str, key: &str) -> String {
    format!("{SECRETS_DIR}/{secret}/{key}")
}

/// True for a name that a Secret or ConfigMap can have: a DNS subdomain (RFC 1123).
pub fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            edge(label.chars().next())
                && edge(label.chars().last())
                && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        })
}

/// True for the value of a label, or the part of its key behind the domain: at most 63 characters.
pub fn is_label_word(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// True for the key of a label or an annotation: a name, with or without a domain and `/` before it.
pub fn is_qualified(key: &str) -> bool {
    match key.split_once('/') {
        Some((domain, name)) => is_dns_subdomain(domain) && is_label_word(name),
        None => is_label_word(key),
    }
}

/// True for a key that a Secret or ConfigMap can have; it is a file's name too.
pub fn is_data_key(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= 253
        && !key.starts_with("..")
        && key != "."
        && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// Secret identifier of a forwarded header: `HEADER_FORWARD_<HEADER>_<PROXY>`.
pub fn header_secret(header: &str, proxy: &str) -> String {
    format!("HEADER_FORWARD_{}_{}", shouted(header), shouted(proxy))
}

fn shouted(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// True for a DNS label (RFC 1123): what Kubernetes takes as the name of a Service.
pub fn is_dns_label(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= 63
        && edge(name.chars().next())
        && edge(name.chars().last())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_names_still_make_service_names() {
        assert!(is_dns_label(&remote_proxy_service(&"a".repeat(REMOTE_PROXY_NAME_MAX))));
        assert!(is_dns_label(&backend_headless_service(&"a".repeat(SERVER_NAME_MAX))));
    }

    #[test]
    fn what_becomes_part_of_a_path_is_a_plain_name() {
        for (name, expected) in
            [("api", true), ("a.b-c.d", true), ("", false), ("../x", false), ("a..b", false), ("A", false)]
        {
            assert_eq!(is_dns_subdomain(name), expected, "{name}");
        }
        for (key, expected) in [
            ("tls.crt", true),
            ("API_KEY", true),
            ("..", false),
            ("..data", false),
            ("a/b", false),
            ("", false),
        ] {
            assert_eq!(is_data_key(key), expected, "{key}");
        }
    }

    #[test]
    fn the_labels_that_are_reserved_are_those_that_are_set() {
        let labels = workload_labels("mcpserver", "s");
        assert!(labels.keys().all(|key| is_workload_label(key)), "{labels:?}");
        for key in ["app.kubernetes.io/part-of", "app.kubernetes.io/version", "toolhive-team", "team"] {
            assert!(!is_workload_label(key), "{key}");
        }
        assert!(labels.keys().all(|key| is_reserved_label(key)), "{labels:?}");
        for (key, expected) in [
            ("app.kubernetes.io/part-of", true),
            ("toolhive-team", true),
            ("toolhive.stacklok.dev/x", true),
            ("skep.dev/x", true),
            ("app2", false),
            ("team", false),
            ("example.com/app", false),
        ] {
            assert_eq!(is_reserved_label(key), expected, "{key}");
        }
    }

    #[test]
    fn volumes_of_the_operator_are_known_by_name() {
        for (name, expected) in [
            ("runconfig", true),
            ("secret-api", true),
            ("oidc-ca-bundle-x", true),
            ("secret", false),
            ("secrets-store", false),
            ("svid", false),
        ] {
            assert_eq!(is_reserved_volume(name), expected, "{name}");
        }
    }

    #[test]
    fn a_header_secret_is_an_environment_variable_name() {
        assert_eq!(
            secret_env(&header_secret("X-Api-Key", "git.hub-1")),
            "TOOLHIVE_SECRET_HEADER_FORWARD_X_API_KEY_GIT_HUB_1"
        );
    }
}

//! MCPServer.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use skep_api::crd::Object;
use skep_api::crd::parse::INVALID_FIELD;
use skep_api::crd::server::{PermissionSource, Server};
use skep_api::names;
use skep_api::runconfig::{RunConfig, ScalingConfig, Transport};

use super::findings::Findings;
use super::oidc::Written;
use super::outgoing::{self, Callers, User};
use super::workload::{self, Protection};
use super::{
    Plan, Planned, Workload, World, access, authz, backing, membership, naming, objects, oidc, restart,
    secrets, sidecars, template, tools,
};

/// Plans an MCP server and the proxy in front of it.
pub(super) fn plan(object: &Object, spec: &Server, world: &World, mut findings: Findings<'_>) -> Planned {
    let name = object.metadata.name.as_str();
    let namespace = object.metadata.namespace.as_str();
    let url = names::server_url(name, namespace, spec.port, spec.client_transport == Transport::Sse);
    naming::check(object, &mut findings);
    workload::port(spec.port, &mut findings);
    membership::check(spec.group.as_deref(), &mut findings);
    backend(spec, &mut findings);

    // Who may come in.
    access::auth_server(spec.auth_server_ref.as_ref(), &mut findings);
    let service_url =
        format!("http://{}:{}", names::service_host(&names::server_service(name), namespace), spec.port);
    let written = Written {
        embedded: spec.oidc_config.as_ref(),
        reference: spec.oidc_config_ref.as_ref(),
        service_url: &service_url,
    };
    let authentication = oidc::plan(&written, &mut findings);
    let says_auth =
        spec.oidc_config.is_some() || spec.oidc_config_ref.is_some() || spec.auth_server_ref.is_some();
    auth_is_said(spec, says_auth, &mut findings);

    // What they may do.
    let authorization =
        authz::plan(name, spec.authz_config.as_ref(), spec.authz_config_ref.as_deref(), &mut findings);
    workload::policies_need_identities(authorization.as_ref(), says_auth, spec.anonymous, &mut findings);
    let tools = tools::plan(spec.tool_config.as_deref(), &spec.tools, &mut findings);

    // With what credential calls go on.
    let callers = Callers::of(says_auth, spec.anonymous);
    let mounted = spec.volumes.iter().map(|volume| volume.mount_path.clone()).collect();
    let user = User { name, remote: false, callers, mounted };
    let outgoing = outgoing::plan(spec.external_auth.as_deref(), &user, &mut findings);

    // Everything around it.
    workload::not_yet(
        spec.rate_limiting.as_ref(),
        spec.webhook_config.as_deref(),
        says_auth || spec.external_auth.is_some(),
        &mut findings,
    );
    let telemetry =
        backing::telemetry(name, spec.telemetry.as_ref(), spec.telemetry_config_ref.as_ref(), &mut findings);
    workload::session_storage(spec.replicas, spec.session_storage.as_ref(), &mut findings);
    let (session_redis, redis_password) = backing::sessions(spec.session_storage.as_ref(), &mut findings);
    workload::surroundings(&spec.resources, &spec.resource_overrides, &mut findings);
    workload::allowed_hosts(&spec.allowed_hosts, &mut findings);
    workload::endpoint_prefix(&spec.endpoint_prefix, &mut findings);
    template::check(spec.pod_template.as_ref(), template::Pod::Backend, &mut findings);
    sidecars::check(object, world, &mut findings);

    let protection = Protection {
        authentication,
        authorization,
        tools,
        audit: spec.audit,
        // The proxy gives its credential to everybody only when it is told so, and the manifest got a warning.
        anonymous: spec.anonymous || (!says_auth && outgoing.is_fixed()),
        allowed_hosts: spec.allowed_hosts.clone(),
    };
    let mut config = RunConfig::new(name, spec.transport);
    config.mcpserver_generation = object.metadata.generation;
    config.image.clone_from(&spec.image);
    config.cmd_args.clone_from(&spec.args);
    config.host.clone_from(&world.settings.proxy_host);
    config.port = spec.port;
    config.target_port = spec.mcp_port;
    spec.client_transport.as_str().clone_into(&mut config.proxy_mode);
    config.env_vars = env_vars(spec);
    config.volumes = volumes(spec);
    config.container_labels = container_labels(name, spec);
    let (profile_name, profile) = permission_profile(spec, &mut findings);
    config.permission_profile_name_or_path = profile_name;
    config.permission_profile = Some(profile);
    config.trust_proxy_headers = spec.trust_proxy_headers;
    config.endpoint_prefix.clone_from(&spec.endpoint_prefix);
    config.group = spec.group.clone().unwrap_or_default();
    protection.apply(&mut config);
    outgoing.apply(&mut config);
    config.telemetry_config = telemetry.config;
    if session_redis.is_some() || spec.backend_replicas.is_some() {
        config.scaling_config =
            Some(ScalingConfig { backend_replicas: spec.backend_replicas, session_redis });
    }
    Protection::finish(&mut config);

    let mut env = telemetry.env;
    env.extend(outgoing.env);
    let mut files = telemetry.files;
    files.extend(outgoing.files);
    if let Some(authentication) = &protection.authentication {
        env.extend(authentication.env.iter().cloned());
        files.extend(authentication.files.iter().cloned());
    }
    secrets::mount(&env, &mut config, &mut files);
    env.extend(redis_password);
    let workload = Workload { run_config: config, url, files, env };
    let restart = restart::asked(&object.metadata, &mut findings);
    let made =
        objects::server(object, spec, world, &workload, protection.authorization.as_ref(), restart.as_ref());
    // A remote proxy says too that it holds; a server, as in ToolHive, only that it fails.
    findings.forget_what_holds("ExternalAuthConfigValidated");
    findings.bounds();
    if let Some(problem) = findings.problems.iter().find(|problem| problem.is_error()).cloned() {
        findings.fails("Ready", "NotReady", format!("{}: {}", problem.path, problem.message));
    }
    Planned { restart, ..findings.planned(Some(Plan { objects: made, workload: Some(workload) })) }
}

fn auth_is_said(spec: &Server, says_auth: bool, findings: &mut Findings<'_>) {
    if says_auth {
        if spec.anonymous {
            findings.error(
                "spec.authMode",
                skep_api::crd::parse::CONFLICTING_FIELDS,
                "`authMode: anonymous` and an auth config exclude each other. Keep one.",
            );
        }
        return;
    }
    findings.fails("AuthConfigured", "Anonymous", "Everybody may come in without a token.");
    if let Some(message) = workload::required_auth(findings.world) {
        findings.error("spec", "AuthRequired", message);
    } else if !spec.anonymous {
        findings.warning(
            "spec",
            "Anonymous",
            "Nothing says who may come in, so everybody may. Add `oidcConfigRef`, or say `authMode: anonymous` if that is intended.",
        );
    }
}

/// Judges what concerns the MCP server's own pod.
fn backend(spec: &Server, findings: &mut Findings<'_>) {
    if spec.image.trim().is_empty() || spec.image.contains(char::is_whitespace) {
        findings.error("spec.image", INVALID_FIELD, "The image is missing, or is not the name of one.");
    }
    let from_secrets: BTreeSet<&str> = spec.secrets.iter().map(|secret| secret.variable.as_str()).collect();
    for (index, variable) in spec.env.iter().enumerate() {
        if !workload::is_variable(&variable.name) {
            findings.error(
                format!("spec.env[{index}].name"),
                INVALID_FIELD,
                format!("`{}` is not the name of an environment variable.", variable.name.escape_debug()),
            );
        }
        if variable.value.contains(['\n', '\r']) {
            findings.error(
                format!("spec.env[{index}].value"),
                INVALID_FIELD,
                "The value of an environment variable can't have line breaks here; use `secrets` for those.",
            );
        }
        if from_secrets.contains(variable.name.as_str()) {
            findings.error(
                format!("spec.env[{index}].name"),
                "DuplicateEntry",
                format!("`{}` comes from `secrets` too; keep one.", variable.name),
            );
        }
    }
    for secret in &spec.secrets {
        if !workload::is_variable(&secret.variable) {
            findings.error(
                format!("{}.targetEnvName", secret.path),
                INVALID_FIELD,
                format!(
                    "`{}` is not the name of an environment variable. Say one in `targetEnvName`.",
                    secret.variable.escape_debug()
                ),
            );
        }
        findings.secret(&secret.path, "SecretNotFound", &secret.secret, &secret.key);
    }
    for (index, volume) in spec.volumes.iter().enumerate() {
        workload::privileged(
            &format!("spec.volumes[{index}].hostPath"),
            "mounts a directory of the node",
            findings,
        );
        if !volume.host_path.starts_with('/')
            || !volume.mount_path.starts_with('/')
            || [&volume.host_path, &volume.mount_path].iter().any(|path| path.contains(':'))
        {
            findings.error(
                format!("spec.volumes[{index}]"),
                INVALID_FIELD,
                "`hostPath` and `mountPath` are absolute paths without a colon.",
            );
        }
    }
    if spec.transport != Transport::StreamableHttp {
        findings.warning(
            "spec.transport",
            outgoing::NOT_YET_RUNNABLE,
            format!("The proxy of this version reaches its MCP server by `streamable-http` only, and refuses to start with `{}`. Say `transport: streamable-http` if the server speaks it.", spec.transport.as_str()),
        );
    }
    workload::volumes(&spec.volumes, findings);
    let capped = spec.transport == Transport::Stdio && spec.replicas.is_some_and(|count| count > 1);
    if capped {
        findings.warning(
            "spec.replicas",
            "StdioTransportCapAt1",
            "A stdio server is attached to by one proxy only, so there will be one replica.",
        );
        findings.holds("StdioReplicaCapped", "StdioTransportCapAt1", "A stdio server has one proxy pod.");
    } else {
        findings.fails(
            "StdioReplicaCapped",
            "StdioReplicaCapNotActive",
            "The number of proxy pods is not capped.",
        );
    }
    workload::service_account(spec.service_account.as_deref(), findings);
}

fn env_vars(spec: &Server) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> =
        spec.env.iter().map(|var| (var.name.clone(), var.value.clone())).collect();
    env.insert("MCP_TRANSPORT".to_owned(), spec.transport.as_str().to_owned());
    if spec.transport != Transport::Stdio {
        for name in ["MCP_PORT", "FASTMCP_PORT"] {
            env.insert(name.to_owned(), spec.mcp_port.to_string());
        }
    }
    env
}

fn volumes(spec: &Server) -> Vec<String> {
    spec.volumes
        .iter()
        .map(|volume| {
            let suffix = if volume.read_only.unwrap_or(false) { ":ro" } else { "" };
            format!("{}:{}{suffix}", volume.host_path, volume.mount_path)
        })
        .collect()
}

/// True for labels that the operator sets on the backend's pods.
pub(super) fn is_backend_label(key: &str) -> bool {
    key == "app" || BACKEND_LABELS.contains(&key)
}

const BACKEND_LABELS: [&str; 5] =
    ["toolhive", "toolhive-name", "toolhive-basename", "toolhive-transport", "toolhive-port"];

/// Labels by which the backend's objects are found.
pub(super) fn container_labels(name: &str, spec: &Server) -> BTreeMap<String, String> {
    let values = [
        "true".to_owned(),
        name.to_owned(),
        name.to_owned(),
        spec.transport.as_str().to_owned(),
        spec.port.to_string(),
    ];
    BACKEND_LABELS.into_iter().map(str::to_owned).zip(values).collect()
}

fn permission_profile(spec: &Server, findings: &mut Findings<'_>) -> (String, Value) {
    let builtin = |name: &str, open: bool| {
        json!({
            "name": name,
            "network": {"outbound": {"insecure_allow_all": open, "allow_host": [], "allow_port": []}},
        })
    };
    let Some(profile) = &spec.permission_profile else {
        return ("network".to_owned(), builtin("network", true));
    };
    match profile.kind.unwrap_or_default() {
        PermissionSource::Builtin => match profile.name.as_str() {
            "network" => ("network".to_owned(), builtin("network", true)),
            "none" => ("none".to_owned(), builtin("none", false)),
            other => {
                findings.error(
                    "spec.permissionProfile.name",
                    INVALID_FIELD,
                    format!("`{other}` is not a built-in profile; `none` and `network` are."),
                );
                (String::new(), Value::Null)
            }
        },
        PermissionSource::Configmap => {
            let key = profile.key.as_deref().unwrap_or_default();
            let path = format!("/etc/toolhive/profiles/{key}");
            let at = "spec.permissionProfile";
            if key.is_empty() {
                findings.error(format!("{at}.key"), INVALID_FIELD, "The key in the ConfigMap is missing.");
                return (path, Value::Null);
            }
            let Some(text) = findings.world.config_maps.get(&profile.name).and_then(|data| data.get(key))
            else {
                findings.missing(
                    at,
                    "PermissionProfileNotFound",
                    &format!("The key `{key}` of the ConfigMap `{}`", profile.name),
                );
                return (path, Value::Null);
            };
            findings.warning(at, outgoing::NOT_YET_RUNNABLE, "This version does not enforce a profile of your own yet; only `none` and `network` take effect.");
            match skep_api::yaml::single(text) {
                Ok(document) if document.value.is_object() => (path, document.value),
                _ => {
                    findings.error(
                        at,
                        INVALID_FIELD,
                        format!("`{key}` of the ConfigMap `{}` is not a permission profile.", profile.name),
                    );
                    (path, Value::Null)
                }
            }
        }
    }
}

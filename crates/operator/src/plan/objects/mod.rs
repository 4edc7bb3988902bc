//! Kubernetes objects that follow from a plan, in the order in which they are applied.

mod backend;
mod config_map;
mod metadata;
mod monitor;
mod network;
mod pod;
mod rbac;
mod security;
mod service;

use serde_json::Value;
use skep_api::crd::Object;
use skep_api::crd::remote_proxy::RemoteProxy;
use skep_api::crd::server::Server;
use skep_api::names;
use skep_api::runconfig::Transport;

pub(super) use self::config_map::hex;
use self::metadata::Owner;
use self::pod::ProxyPod;
use super::authz::Authorization;
use super::findings::Findings;
use super::restart::Restart;
use super::{Workload, World};

/// Objects of a remote proxy.
pub(super) fn remote_proxy(
    object: &Object,
    spec: &RemoteProxy,
    world: &World,
    workload: &Workload,
    authorization: Option<&Authorization>,
    findings: &mut Findings<'_>,
) -> Vec<Value> {
    let owner = Owner::of(object);
    let name = owner.name;
    let labels = names::workload_labels("mcpremoteproxy", name);
    let account = spec.service_account.clone().unwrap_or_else(|| names::remote_proxy_runner(name));
    let (run_config, checksum) = config_map::run_config(&owner, "mcp-remote-proxy", &workload.run_config);
    let pod = ProxyPod {
        owner: &owner,
        labels: &labels,
        account: &account,
        settings: &world.settings,
        workload,
        authorization,
        args: ["run", "--foreground=true", "placeholder-for-remote-proxy"].map(str::to_owned).to_vec(),
        generation: None,
        restart: None,
        volumes: &[],
        resources: &spec.resources,
        overrides: &spec.resource_overrides,
        replicas: spec.replicas,
        readiness_delay: 15,
        checksum: &checksum,
        template: spec.pod_template.as_ref(),
    };
    pod.check_template(findings);
    let mut made = Vec::new();
    if spec.service_account.is_none() {
        made.extend(rbac::reader(&owner, &account, &labels, &pod.pull_secrets(), workload, authorization));
    }
    made.push(run_config);
    made.extend(authorization.and_then(|authorization| config_map::inline_authz(&owner, authorization)));
    made.push(pod.deployment());
    let service_name = names::remote_proxy_service(name);
    made.push(service::proxy(
        &owner,
        &service_name,
        &labels,
        spec.port,
        spec.session_affinity,
        &spec.resource_overrides,
    ));
    made.extend(
        spec.replicas.filter(|count| *count > 1).map(|_| service::disruption_budget(&owner, &labels)),
    );
    if spec.network_policy.enabled.unwrap_or(false) {
        made.push(network::policy(&owner, &labels, spec, workload, findings));
    }
    made.extend(monitor::monitor(&owner, &labels, &world.settings, &workload.run_config));
    made
}

/// Objects of an MCP server, its proxy and its backend.
pub(super) fn server(
    object: &Object,
    spec: &Server,
    world: &World,
    workload: &Workload,
    authorization: Option<&Authorization>,
    restart: Option<&Restart>,
) -> Vec<Value> {
    let owner = Owner::of(object);
    let name = owner.name;
    let labels = names::workload_labels("mcpserver", name);
    let account = names::server_runner(name);
    let (run_config, checksum) = config_map::run_config(&owner, "mcp-server", &workload.run_config);
    let replicas = if spec.transport == Transport::Stdio {
        spec.replicas.map(|count| count.min(1))
    } else {
        spec.replicas
    };
    let pod = ProxyPod {
        owner: &owner,
        labels: &labels,
        account: &account,
        settings: &world.settings,
        workload,
        authorization,
        args: vec!["run".to_owned(), spec.image.clone()],
        generation: object.metadata.generation,
        restart,
        volumes: &spec.volumes,
        resources: &spec.resources,
        overrides: &spec.resource_overrides,
        replicas,
        readiness_delay: 5,
        checksum: &checksum,
        template: None,
    };
    let mut made =
        rbac::server_proxy(&owner, &account, &labels, &pod.pull_secrets(), workload, authorization, spec);
    if spec.service_account.is_none() {
        made.push(rbac::account(&owner, &names::backend_account(name), &labels, &pod.pull_secrets()));
    }
    made.push(run_config);
    made.extend(authorization.and_then(|authorization| config_map::inline_authz(&owner, authorization)));
    made.extend(backend::objects(&owner, spec, workload, world.settings.openshift));
    made.push(pod.deployment());
    let service_name = names::server_service(name);
    made.push(service::proxy(
        &owner,
        &service_name,
        &labels,
        spec.port,
        spec.session_affinity,
        &spec.resource_overrides,
    ));
    made.extend(replicas.filter(|count| *count > 1).map(|_| service::disruption_budget(&owner, &labels)));
    made.push(network::backend(&owner, &labels, spec));
    made.extend(monitor::monitor(&owner, &labels, &world.settings, &workload.run_config));
    made
}

//! The planner: pure functions from an object and its world to everything that follows from it.
//!
//! Nothing here does I/O, reads a clock or draws a random number, and nothing outside decides what a
//! custom resource means. The operator, the webhook, `skep check`/`skep render` and `skep up` all use
//! what this returns.

mod access;
mod authz;
mod backing;
mod ca_bundle;
mod configs;
mod duration;
mod embedded_auth;
mod entry;
mod findings;
mod generation;
mod group;
mod hashes;
mod membership;
mod middleware;
mod naming;
mod objects;
mod oidc;
mod oidc_config_map;
mod oidc_issuers;
mod oidc_rules;
mod oidc_settings;
mod outgoing;
mod references;
mod remote_proxy;
mod remote_url;
mod restart;
mod scope;
mod secrets;
mod secrets_named;
mod server;
mod sidecars;
mod suspension;
mod telemetry;
mod template;
mod tools;
mod webhooks;
mod workload;
mod world;

use std::collections::BTreeMap;

use serde_json::Value;
use skep_api::condition::Condition;
use skep_api::crd::{Object, Spec};
use skep_api::problem::Problem;
use skep_api::runconfig::RunConfig;

use self::findings::Findings;
pub use self::generation::{settle_generation, settle_restart};
pub use self::naming::collide;
pub use self::references::{Reference, Target, mentions, references, references_in};
pub use self::restart::{Restart, RestartStrategy};
pub use self::secrets_named::secrets_named;
pub use self::sidecars::{
    Injected, PREREQUISITES_MET, PREREQUISITES_MISSING, PodSidecars, SIDECARS_READY, injected,
    service_account, sidecar_references,
};
pub use self::suspension::{is_open, suspended};
pub use self::world::{DefaultRedis, Missing, Place, Settings, WorkloadName, World};

/// Result of planning one object.
#[derive(Debug, Clone, Default)]
pub struct Planned {
    /// Absent when a problem is an error, or when what the object refers to is not known.
    pub plan: Option<Plan>,
    /// Everything that is wrong or worth saying.
    pub problems: Vec<Problem>,
    /// Conditions that the spec and its world decide, also when there is no plan.
    pub conditions: Vec<Condition>,
    /// Hashes of the configs that a workload refers to, by the field of its status (`oidcConfigHash`). One
    /// that does not exist has none.
    pub hashes: BTreeMap<&'static str, String>,
    /// Hash of a config, for `status.configHash`; none for other kinds.
    pub config_hash: Option<String>,
    /// Why a proxy that still runs with an earlier configuration has to stop letting calls through; none
    /// when it may go on. A sentence for a human.
    pub suspend: Option<String>,
    /// The same, for a proxy whose running configuration [`is_open`]: callers have to be judged here, and there
    /// is no plan by which they would be. None when `suspend` says it already.
    pub suspend_if_open: Option<String>,
    /// A restart that the object asks for, done or not.
    pub restart: Option<Restart>,
}

/// Everything that follows from one valid object.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Kubernetes objects in the order in which they are applied, each with apiVersion, kind, metadata.
    pub objects: Vec<Value>,
    /// The proxy to run; config kinds have none.
    pub workload: Option<Workload>,
}

/// One proxy, as a pod or in process.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Content of runconfig.json. It holds no secret value.
    pub run_config: RunConfig,
    /// URL inside the cluster, as in `status.url`.
    pub url: String,
    /// Files that `run_config` names and that the pod gets as mounts, each path once.
    pub files: Vec<FileSource>,
    /// Environment variables that carry secret values.
    pub env: Vec<EnvSource>,
}

/// A file in the pod and where its content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSource {
    /// Absolute path in the pod.
    pub path: String,
    /// Where the content comes from.
    pub source: KeySource,
}

/// Where the content of a file comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeySource {
    /// A key of a ConfigMap in the object's own namespace.
    ConfigMap { name: String, key: String },
    /// A key of a Secret in the object's own namespace.
    Secret { name: String, key: String },
    /// A token of the pod's own ServiceAccount for one audience, which kubelet renews. There is none outside
    /// a cluster, so a plan for this machine never has one.
    ServiceAccountToken { audience: String, expiration_seconds: u32 },
}

/// An environment variable that is filled from a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvSource {
    /// Name of the variable.
    pub name: String,
    /// Name of the Secret in the object's namespace.
    pub secret: String,
    /// Key in the Secret.
    pub key: String,
}

/// Plans one object. `world` is what the object refers to, all of it in the object's namespace.
pub fn plan_object(object: &Object, world: &World) -> Planned {
    let mut planned = judge(object, world);
    planned.hashes = hashes::referred(object, world);
    planned.config_hash = hashes::own(object, world);
    planned.conditions.retain(|condition| scope::has(object.kind, &condition.kind));
    planned.suspend = suspension::reason(object, &planned.problems);
    if planned.suspend.is_none() {
        planned.suspend_if_open = suspension::reason_if_open(object, world, &planned);
    }
    planned
}

fn judge(object: &Object, world: &World) -> Planned {
    let mut findings = Findings::new(world);
    findings.problems.extend(object.findings.iter().cloned());
    findings.bounds.clone_from(&object.bounds);
    if object.metadata.is_terminating() {
        // Workloads that refer to a config go on with it until it is gone, so it is judged until then.
        let planned = !object.kind.is_workload();
        let message = if planned {
            "The object is being deleted."
        } else {
            "The object is being deleted, so it is not planned."
        };
        findings.warning("metadata.deletionTimestamp", "Terminating", message);
        if !planned {
            return findings.planned(None);
        }
    }
    match &object.spec {
        // Reading failed, and `findings` says why.
        Spec::Unreadable => {
            configs::unreadable(object.kind, &mut findings);
            findings.planned(None)
        }
        Spec::RemoteProxy(proxy) => remote_proxy::plan(object, proxy, world, findings),
        Spec::Server(server) => server::plan(object, server, world, findings),
        Spec::ExternalAuth(config) => configs::external_auth(config, world, findings),
        Spec::ToolConfig(config) => configs::tools(config, findings),
        Spec::OidcConfig(config) => configs::oidc(config, world, findings),
        Spec::AuthzConfig(config) => configs::authz(config, findings),
        Spec::Group(_) => group::plan(findings),
        Spec::Telemetry(config) => telemetry::plan(config, findings),
        Spec::Webhooks(config) => webhooks::plan(config, findings),
        Spec::Entry(entry) => entry::plan(object, entry, findings),
    }
}

//! The sidecars that the webhook puts beside an MCP server: who has them, and whether what they need is there.

use std::collections::BTreeSet;

use skep_api::crd::{Kind, Object, Spec};
use skep_api::names;

use super::World;
use super::findings::Findings;
use super::references::{Reference, Target};
use super::template;
use super::world::Settings;
use crate::sidecars::names::{
    ADMIN_SECRET, ENVIRONMENTS, HELPER_CONFIG, REGISTRATION_SECRET, SWITCH_ANNOTATION, client_secret,
};
use crate::sidecars::{
    Injection, Login, Needs, Policy, Registration, SidecarMode, Surroundings, cautions, decide, missing,
};

/// The condition that says whether what the sidecars need is there.
pub const SIDECARS_READY: &str = "SidecarsReady";
/// Its reason when all is there.
pub const PREREQUISITES_MET: &str = "PrerequisitesMet";
/// Its reason when something is not; also that of the problems.
pub const PREREQUISITES_MISSING: &str = "PrerequisitesMissing";
/// Reason of problems with what works and is dangerous.
const AT_RISK: &str = "SidecarsAtRisk";

/// Sidecars that come with the pods of MCP servers, whose objects then say nothing of them: what the webhook
/// is told with `--injection-point pod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodSidecars {
    /// Inject where neither object nor namespace says anything.
    pub default_on: bool,
    pub mode: SidecarMode,
    pub registration: Registration,
}

/// How a server gets its sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Injected {
    /// Who registers its client.
    pub registration: Registration,
    /// What they were found to need when they were put in; none while they come with each pod, which decides
    /// anew.
    needs: Option<Needs>,
    mode: SidecarMode,
}

/// How an object gets sidecars: it says so itself by the annotation `skep.dev/injection`, or they come with its pods.
/// None when it gets none. What its spec says does not matter.
pub fn injected(object: &Object, world: &World) -> Option<Injected> {
    let noted = noted(object);
    if noted.is_some() || object.kind != Kind::MCPServer {
        return noted;
    }
    let pods = world.settings.sidecars?;
    let annotations = &object.metadata.annotations;
    decide(annotations, &world.namespace_labels, &world.namespace_annotations, pods.default_on)
        .inject
        .then(|| with_pods(pods))
}

fn with_pods(pods: PodSidecars) -> Injected {
    Injected { registration: pods.registration, needs: None, mode: pods.mode }
}

/// What the object itself says. An annotation that can't be read says nothing.
fn noted(object: &Object) -> Option<Injected> {
    let found = Injection::of(&object.metadata.annotations).filter(|_| object.kind == Kind::MCPServer)?;
    Some(Injected { registration: found.registration, needs: Some(found.needs()), mode: found.mode })
}

/// What decides whether the sidecars that an object says it has can do their work.
pub(super) fn references(object: &Object) -> BTreeSet<Reference> {
    let Some(needs) = noted(object).and_then(|injected| injected.needs) else { return BTreeSet::new() };
    let mut found = vec![(Target::ConfigMap, HELPER_CONFIG)];
    if needs.registration == Registration::Pod {
        found.push((Target::ConfigMap, ENVIRONMENTS));
        match needs.login {
            Login::AdminSecret => found.push((Target::Secret, ADMIN_SECRET)),
            Login::RegistrationSecret => found.push((Target::Secret, REGISTRATION_SECRET)),
            Login::AdminConfigMap | Login::AdminConfigMapLater | Login::Nothing => {}
        }
    }
    named(found)
}

/// What is looked at besides for an object's sidecars: by the operator, for its own part in them, and where they
/// come with pods. Whether those get any is decided by their namespace too; that a change of what is not used is
/// heard of does no harm.
pub fn sidecar_references(object: &Object, settings: &Settings) -> BTreeSet<Reference> {
    let client = client_secret(&object.metadata.name);
    // The realm is in `environments`, and the helper's configuration is made for it.
    let registered = [(Target::ConfigMap, ENVIRONMENTS), (Target::Secret, client.as_str())];
    let mut found = Vec::new();
    if let Some(injected) = noted(object) {
        if injected.registration == Registration::Operator {
            found.extend(registered);
        }
        return named(found);
    }
    let switched_off =
        object.metadata.annotations.get(SWITCH_ANNOTATION).is_some_and(|value| value == "false");
    if let Some(pods) = settings.sidecars
        && object.kind == Kind::MCPServer
        && !switched_off
    {
        found.extend([
            (Target::ConfigMap, ENVIRONMENTS),
            (Target::ConfigMap, HELPER_CONFIG),
            (Target::Secret, ADMIN_SECRET),
            (Target::Secret, REGISTRATION_SECRET),
        ]);
        if pods.registration == Registration::Operator {
            found.extend(registered);
        }
    }
    named(found)
}

fn named(found: Vec<(Target, &str)>) -> BTreeSet<Reference> {
    found
        .into_iter()
        .filter(|(_, name)| names::is_dns_subdomain(name))
        .map(|(target, name)| Reference { target, name: name.to_owned() })
        .collect()
}

/// The ServiceAccount that an MCP server's pods run as, which decides what SPIFFE ID they get; none for other
/// kinds and for an object that can't be read.
pub fn service_account(object: &Object) -> Option<String> {
    let Spec::Server(spec) = &object.spec else { return None };
    let of_template = || {
        let account = spec.pod_template.as_ref()?.pointer("/spec/serviceAccountName")?.as_str()?;
        Some(account.to_owned()).filter(|account| !account.is_empty())
    };
    let account = of_template()
        .or_else(|| spec.service_account.clone())
        .unwrap_or_else(|| names::backend_account(&object.metadata.name));
    names::is_dns_subdomain(&account).then_some(account)
}

/// Says whether what a server's sidecars need is there.
pub(super) fn check(object: &Object, world: &World, findings: &mut Findings<'_>) {
    let Some(injected) = injected(object, world) else { return };
    let around = surroundings(world);
    let needs = injected.needs.unwrap_or_else(|| {
        let Injected { mode, registration, .. } = injected;
        Needs::of(&Policy { mode, registration, ..Policy::default() }, &around)
    });
    let (template, replicas) = match &object.spec {
        Spec::Server(spec) => (spec.pod_template.as_ref(), spec.backend_replicas),
        _ => (None, None),
    };
    if injected.registration == Registration::Pod {
        template::shares_processes(template, findings);
    }
    let path = if injected.needs.is_some() { "spec.podTemplateSpec" } else { "metadata" };
    let replicas = replicas.and_then(|replicas| u64::try_from(replicas).ok());
    let cautions: Vec<String> = cautions(&needs, &around, replicas).iter().map(ToString::to_string).collect();
    for message in &cautions {
        findings.warning(path, AT_RISK, message);
    }
    let lacking: Vec<String> = missing(&needs, &around).iter().map(ToString::to_string).collect();
    if lacking.is_empty() {
        let mut message = vec!["What the sidecars need is there.".to_owned()];
        message.extend(cautions);
        findings.holds(SIDECARS_READY, PREREQUISITES_MET, message.join(" "));
        return;
    }
    findings.fails(SIDECARS_READY, PREREQUISITES_MISSING, lacking.join(" "));
    for message in lacking {
        findings.warning(path, PREREQUISITES_MISSING, message);
    }
}

fn surroundings(world: &World) -> Surroundings {
    let keys = |secret: &str| world.secrets.get(secret).cloned();
    Surroundings {
        namespace_labels: world.namespace_labels.clone(),
        namespace_annotations: world.namespace_annotations.clone(),
        environments: world.config_maps.get(ENVIRONMENTS).cloned(),
        helper_config: world.config_maps.get(HELPER_CONFIG).map(|data| data.keys().cloned().collect()),
        admin_secret: keys(ADMIN_SECRET),
        registration_secret: keys(REGISTRATION_SECRET),
        ..Surroundings::default()
    }
}

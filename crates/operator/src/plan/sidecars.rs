//! The sidecars that the webhook puts beside an MCP server: who has them, and whether what they need is there.

use std::collections::BTreeSet;

use skep_api::crd::{Kind, Object, Spec};
use skep_api::names;

use super::World;
use super::findings::Findings;
use super::references::{Reference, Target};
use super::world::Settings;
use crate::sidecars::names::{
    ADMIN_SECRET, ENVIRONMENTS, HELPER_CONFIG, REGISTRATION_SECRET, SWITCH_ANNOTATION, client_secret,
};
use crate::sidecars::{Injection, Needs, Policy, Registration, SidecarMode, Surroundings, decide, missing};

/// The condition that says whether what the sidecars need is there.
pub const SIDECARS_READY: &str = "SidecarsReady";
/// Its reason when all is there.
pub const PREREQUISITES_MET: &str = "PrerequisitesMet";
/// Its reason when something is not; also that of the problems.
pub const PREREQUISITES_MISSING: &str = "PrerequisitesMissing";

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

/// What the sidecars of an object refer to, when the object itself says that it has some.
pub(super) fn references(object: &Object) -> BTreeSet<Reference> {
    noted(object).map(|injected| named(object, injected)).unwrap_or_default()
}

/// What the sidecars refer to that may come with an object's pods. Whether they do is decided by its namespace
/// too; a change of what is not used does no harm.
pub fn pod_sidecar_references(object: &Object, settings: &Settings) -> BTreeSet<Reference> {
    let switched_off =
        object.metadata.annotations.get(SWITCH_ANNOTATION).is_some_and(|value| value == "false");
    match settings.sidecars {
        Some(pods) if object.kind == Kind::MCPServer && !switched_off => named(object, with_pods(pods)),
        _ => BTreeSet::new(),
    }
}

fn named(object: &Object, injected: Injected) -> BTreeSet<Reference> {
    let mut found: Vec<(Target, String)> = vec![
        (Target::ConfigMap, ENVIRONMENTS.to_owned()),
        (Target::ConfigMap, HELPER_CONFIG.to_owned()),
        (Target::Secret, ADMIN_SECRET.to_owned()),
        (Target::Secret, REGISTRATION_SECRET.to_owned()),
    ];
    if injected.registration == Registration::Operator {
        found.push((Target::Secret, client_secret(&object.metadata.name)));
    }
    found.into_iter().map(|(target, name)| Reference { target, name }).collect()
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
    let lacking: Vec<String> = missing(&needs, &around).iter().map(ToString::to_string).collect();
    if lacking.is_empty() {
        findings.holds(SIDECARS_READY, PREREQUISITES_MET, "What the sidecars need is there.");
        return;
    }
    let path = if injected.needs.is_some() { "spec.podTemplateSpec" } else { "metadata" };
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

//! The table of manifests and their problems, and that it has every reason there is.

use std::collections::BTreeSet;
use std::path::Path;

use skep_api::crd::parse::UNKNOWN_FIELD;
use skep_api::crd::{Kind, LATER_KINDS};
use skep_api::problem::Problem;
use skep_api::yaml::to_yaml_documents;
use skep_operator::plan::{Missing, plan_object};

use crate::cases::{Case, Finding, cases, findings};
use crate::manifests::world;

/// Each object of ours in a case, and what the planner finds.
fn planned(case: &Case) -> Vec<(Kind, String, BTreeSet<Finding>)> {
    let (objects, mut world) = world(&to_yaml_documents(&case.objects), Missing::Refuse);
    world.settings.require_auth = case.require_auth;
    world.namespace_labels.clone_from(&case.namespace_labels);
    let finding = |object: &skep_api::crd::Object| {
        let planned = plan_object(object, &world);
        let refused = planned.problems.iter().any(Problem::is_error);
        assert_eq!(planned.plan.is_none(), refused, "{}", case.name);
        (object.kind, object.metadata.name.clone(), findings(&planned.problems))
    };
    objects.iter().map(finding).collect()
}

#[test]
fn every_object_of_the_table_has_the_problems_that_it_says() {
    let all = cases();
    assert!(all.len() > 200, "{}", all.len());
    let mut names = BTreeSet::new();
    let mut wrong = String::new();
    for case in &all {
        assert!(names.insert(&case.name), "{} is there twice", case.name);
        let planned = planned(case);
        let dropped = case.problems.values().flatten().any(|(_, _, reason)| reason == UNKNOWN_FIELD);
        assert_eq!(case.offline, dropped, "{}: a server drops unknown fields, and no others", case.name);
        let known: BTreeSet<String> =
            planned.iter().map(|(kind, name, _)| format!("{kind}/{name}")).collect();
        let unknown: Vec<&String> = case.problems.keys().filter(|key| !known.contains(*key)).collect();
        assert!(unknown.is_empty(), "{}: no such object: {unknown:?}", case.name);
        for (kind, name, found) in planned {
            let expected = case.problems.get(&format!("{kind}/{name}")).cloned().unwrap_or_default();
            if found != expected {
                wrong.push_str(&format!("{}\n  {kind}/{name}: {found:?}\n  not {expected:?}\n", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_kind_is_in_the_table_as_it_should_be_and_as_it_should_not() {
    let mut good = BTreeSet::new();
    let mut bad = BTreeSet::new();
    for (kind, _, found) in cases().iter().flat_map(planned) {
        if found.is_empty() {
            good.insert(kind)
        } else {
            bad.insert(kind)
        };
    }
    assert_eq!(good, BTreeSet::from(Kind::ALL));
    assert_eq!(bad, BTreeSet::from(Kind::ALL));
}

/// Conditions, and reasons that only they have.
const OF_CONDITIONS: &str = "AuthConfigNotConfigured AuthConfigValid AuthConfigured AuthServerRefInvalidConfig \
    AuthServerRefInvalidType AuthServerRefNotFound AuthServerRefValidated AuthzConfigRefValid \
    AuthzConfigRefValidated AuthzPrimaryUpstreamProviderIgnored CABundleRefNotConfigured CABundleRefValid \
    CABundleRefValidated ConfigInvalid ConfigValid ConfigurationValid ExternalAuthConfigValid \
    ExternalAuthConfigValidated GroupRefIsValid GroupRefValidated HeaderSecretRefsValidated HeaderSecretsValid \
    MCPServersChecked NotReady OIDCConfigRefValid OIDCConfigRefValidated PrerequisitesMet SidecarsReady \
    PerUserRequiresAuth PodTemplateValid RateLimitConfigValid RateLimitNotApplicable RemoteURLValid \
    RemoteURLValidated SessionStorageConfigured SessionStorageMissingForReplicas SessionStorageWarning \
    SessionStorageWarningNotApplicable StdioReplicaCapNotActive StdioReplicaCapped TelemetryConfigRefValid \
    TelemetryConfigRefValidated ToolConfigValid ToolConfigValidated ValidPodTemplateSpec ValidationFailed \
    ValidationSucceeded WebhookConfigInvalid WebhookConfigValidated";

/// Words of Kubernetes and of other formats.
const OF_OTHERS: &str = "AuthorizationHeader ClientIP ClusterIP ConfigMap CustomResourceDefinition EdDSA FreeForm GroupRef \
    NetworkPolicy PodDisruptionBudget RoleBinding RollingUpdate RuntimeDefault ServiceAccount ServiceMonitor \
    StatefulSet";

/// Reasons that only tools give, which may not have been given all files: elsewhere the config that names the
/// Secret has an error itself.
const OF_INCOMPLETE_FILES: &str = "ExternalAuthSecretNotFound";

/// True for a word that has the form of a reason and is none of a problem in a complete world.
fn is_other(word: &str) -> bool {
    let lists = [OF_CONDITIONS, OF_OTHERS, OF_INCOMPLETE_FILES];
    lists.iter().any(|list| list.split_whitespace().any(|other| other == word))
        || word.parse::<Kind>().is_ok()
        || LATER_KINDS.contains(&word)
}

#[test]
fn every_reason_of_the_planner_is_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The one reason of one word; others are told from other words by their form.
    let mut said = BTreeSet::from(["Anonymous".to_owned()]);
    for folder in ["src/plan", "../api/src/crd"] {
        reasons(&root.join(folder), &mut said);
    }
    let seen: BTreeSet<String> = cases()
        .iter()
        .flat_map(planned)
        .flat_map(|(_, _, found)| found.into_iter().map(|(_, _, reason)| reason))
        .collect();
    let lists = [OF_CONDITIONS, OF_OTHERS, OF_INCOMPLETE_FILES];
    let gone: Vec<&str> =
        lists.iter().flat_map(|list| list.split_whitespace()).filter(|word| !said.contains(*word)).collect();
    assert!(gone.is_empty(), "no source says {gone:?} any more");
    assert!(said.is_superset(&seen), "{:?}", seen.difference(&said).collect::<Vec<_>>());
    let missing: Vec<&String> = said.difference(&seen).filter(|reason| !is_other(reason)).collect();
    assert!(missing.is_empty(), "no case has {missing:?}");
    let stale: Vec<&String> = seen.iter().filter(|reason| is_other(reason)).collect();
    assert!(stale.is_empty(), "a case has {stale:?}");
}

/// Adds all words in quotes that have the form of a reason.
fn reasons(path: &Path, found: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            reasons(&entry.unwrap().path(), found);
        }
        return;
    }
    let text = std::fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap();
    for word in code.split('"').skip(1).step_by(1) {
        let letters = word.chars().all(|c| c.is_ascii_alphanumeric());
        let humps = word.chars().filter(char::is_ascii_uppercase).count();
        let lower = word.chars().any(|c| c.is_ascii_lowercase());
        if letters && lower && humps > 1 && word.starts_with(|c: char| c.is_ascii_uppercase()) {
            found.insert(word.to_owned());
        }
    }
}

//! The table of manifests, as the operator sees it: the same problems as `skep check` finds.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use skep_api::crd::{Kind, Object};
use skep_api::problem::Severity;
use skep_api::yaml::to_yaml_documents;
use skep_operator::plan::{Missing, Settings, plan_object};
use skep_testkit::control_plane::{Assets, ControlPlane, Options as PlaneOptions};

use crate::cases::{Case, Finding, cases, findings};
use crate::harness::{Cluster, Operator, Options, PATIENCE, found, install_into};
use crate::manifests::world;

/// A case in a namespace of its own, with what the API server took of it.
struct Trial {
    case: Case,
    cluster: Cluster,
    taken: Vec<Value>,
}

impl Trial {
    async fn new(plane: &'static ControlPlane, case: Case) -> Self {
        let namespace = plane.namespace().await;
        if !case.namespace_labels.is_empty() {
            let labels = json!({"metadata": {"labels": case.namespace_labels}});
            let path = format!("/api/v1/namespaces/{namespace}");
            let (code, _) =
                plane.request("PATCH", &path, "application/merge-patch+json", &labels.to_string()).await;
            assert_eq!(code, 200);
        }
        let cluster = Cluster { plane, namespace };
        let mut taken = Vec::new();
        let collides = case.problems.values().flatten().any(|(_, _, reason)| reason == "NameCollision");
        for object in &case.objects {
            let mut object = object.clone();
            object["metadata"]["namespace"] = cluster.namespace.clone().into();
            if let Some(answer) = cluster.create(&object).await {
                taken.push(answer);
            }
            if collides {
                // Ages are in whole seconds.
                tokio::time::sleep(Duration::from_millis(1100)).await;
            }
        }
        Self { case, cluster, taken }
    }

    /// What `skep check` finds in what the API server took. That is what the table says, unless something was
    /// refused, which then has an error there.
    fn expected(&self) -> Vec<(Kind, String, BTreeSet<Finding>)> {
        let (objects, mut world) = world(&to_yaml_documents(&self.taken), Missing::Refuse);
        world.settings.require_auth = self.case.require_auth;
        world.namespace_labels.clone_from(&self.case.namespace_labels);
        let finding = |object: &Object| {
            let planned = plan_object(object, &world);
            (object.kind, object.metadata.name.clone(), findings(&planned.problems))
        };
        let expected: Vec<_> = objects.iter().map(finding).collect();
        if self.taken.len() == self.case.objects.len() {
            for (kind, name, found) in &expected {
                let said = self.case.problems.get(&format!("{kind}/{name}")).cloned().unwrap_or_default();
                assert_eq!(found, &said, "{}: {kind} {name}", self.case.name);
            }
        } else {
            let errors = |problems: &BTreeSet<Finding>| {
                problems.iter().any(|(severity, ..)| *severity == Severity::Error)
            };
            let refused = self.case.objects.iter().filter(|object| {
                !self.taken.iter().any(|taken| {
                    taken["kind"] == object["kind"] && taken["metadata"]["name"] == object["metadata"]["name"]
                })
            });
            for object in refused {
                let name = format!(
                    "{}/{}",
                    object["kind"].as_str().unwrap(),
                    object["metadata"]["name"].as_str().unwrap_or_default()
                );
                let said = self.case.problems.get(&name);
                assert!(
                    said.is_some_and(errors),
                    "{}: the API server refuses {name}, and check does not",
                    self.case.name
                );
            }
        }
        expected
    }

    /// Waits until the operator says the same; gives what it says else.
    async fn judged(&self) -> Result<usize, String> {
        let expected = self.expected();
        let started = tokio::time::Instant::now();
        let mut wrong = String::new();
        while started.elapsed() < PATIENCE {
            wrong.clear();
            for (kind, name, problems) in &expected {
                let object = self.cluster.get(kind.as_str(), name).await.unwrap();
                let said = said(&object);
                if said.as_ref() != Some(problems) {
                    wrong.push_str(&format!(
                        "{}: {kind} {name}: {said:?}, not {problems:?}\n",
                        self.case.name
                    ));
                }
                let refused = problems.iter().any(|(severity, ..)| *severity == Severity::Error);
                let bad = ["Ready", "Valid", "ConfigurationValid"]
                    .iter()
                    .any(|kind| found(&object, kind).is_some_and(|one| one["status"] == "False"));
                if refused && !bad {
                    wrong.push_str(&format!(
                        "{}: {kind} {name} has errors and no condition says so\n",
                        self.case.name
                    ));
                }
            }
            if wrong.is_empty() {
                return Ok(expected.len());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(wrong)
    }
}

/// What the conditions list; nothing while the object has not been judged.
fn said(object: &Value) -> Option<BTreeSet<Finding>> {
    let ready = found(object, "Ready")?;
    if ready["observedGeneration"] != object["metadata"]["generation"] {
        return None;
    }
    let Some(problems) = found(object, "Problems") else { return Some(BTreeSet::new()) };
    let lines = problems["message"].as_str().unwrap().lines();
    Some(
        lines
            .map(|line| {
                let mut parts = line.splitn(4, ": ");
                let mut next = || parts.next().unwrap_or_else(|| panic!("{line}")).to_owned();
                let severity = match next().as_str() {
                    "error" => Severity::Error,
                    "warning" => Severity::Warning,
                    other => panic!("{other}"),
                };
                (severity, next(), next())
            })
            .collect(),
    )
}

async fn judge(trials: &[Trial]) -> (usize, String) {
    let results: Vec<Result<usize, String>> =
        futures_util::stream::iter(trials).map(Trial::judged).buffer_unordered(16).collect().await;
    let judged = results.iter().filter_map(|result| result.as_ref().ok()).sum();
    (judged, results.into_iter().filter_map(Result::err).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_conditions_of_every_object_in_the_table_are_what_check_finds() {
    let Some(assets) = Assets::find_or_skip() else { return };
    // All namespaces are looked at, so this API server is nobody else's.
    let plane = ControlPlane::start(&assets, PlaneOptions { controllers: vec![] }).await;
    let plane: &'static ControlPlane = Box::leak(Box::new(plane));
    install_into(plane).await;
    let (strict, usual): (Vec<Case>, Vec<Case>) =
        cases().into_iter().filter(|case| !case.offline).partition(|case| case.require_auth);
    assert!(usual.len() > 200 && !strict.is_empty());

    let operator = Operator::on(plane, Vec::new(), Options::default()).await;
    let trials: Vec<Trial> = futures_util::stream::iter(usual)
        .map(|case| Trial::new(plane, case))
        .buffer_unordered(16)
        .collect()
        .await;
    let (judged, wrong) = judge(&trials).await;
    operator.stop().await;
    assert!(wrong.is_empty(), "{wrong}");
    assert!(judged > 250, "{judged}");

    let mut trials = Vec::new();
    for case in strict {
        trials.push(Trial::new(plane, case).await);
    }
    let namespaces = trials.iter().map(|trial| trial.cluster.namespace.clone()).collect();
    let settings = Settings { require_auth: true, ..Settings::default() };
    let operator =
        Operator::on(plane, namespaces, Options { settings: Some(settings), ..Options::default() }).await;
    let (judged, wrong) = judge(&trials).await;
    assert!(wrong.is_empty() && judged > 0, "{wrong}");
    drop(operator);
}

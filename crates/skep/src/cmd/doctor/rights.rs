//! Whether the operator's ServiceAccount has the rights that the operator needs.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use skep_operator::permissions::{Right, Scope, election_rules, granted, rights};
use skep_operator::settings::LEASE_NAME;

use super::cluster::{Cluster, Refusal};
use super::finding::Findings;
use super::operator::Installed;

const CHECK: &str = "rights";
/// Questions that are asked at the same time.
const AT_ONCE: usize = 8;
/// Missing rights that a line names.
const NAMED: usize = 6;

/// A right in a namespace, or in the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Question {
    namespace: Option<String>,
    right: Right,
    name: Option<String>,
}

/// Asks the API server about each right.
pub(super) async fn check(cluster: &Cluster, installed: &Installed, findings: &mut Findings) {
    let account = format!("{}/{}", installed.namespace, installed.account);
    let questions = questions(installed);
    let answers: Vec<(Question, Result<bool, Refusal>)> = futures_util::stream::iter(questions)
        .map(|question| async {
            let answer = ask(cluster, installed, &question).await;
            (question, answer)
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let asked = answers.len();
    let mut missing = Vec::new();
    for (question, answer) in answers {
        match answer {
            Ok(true) => {}
            Ok(false) => missing.push(question),
            Err(Refusal::Forbidden { .. }) => {
                findings.skip(
                    CHECK,
                    format!("there is no right to ask what the ServiceAccount {account} may do"),
                    "Ask somebody who may create subjectaccessreviews.authorization.k8s.io.",
                );
                return;
            }
            Err(refusal) => {
                findings.warn(
                    CHECK,
                    format!("what the ServiceAccount {account} may do can't be asked: {refusal}"),
                    "",
                );
                return;
            }
        }
    }
    if missing.is_empty() {
        let place = match installed.namespaces.as_slice() {
            [] => "in the whole cluster".to_owned(),
            namespaces => format!("in {}", namespaces.join(", ")),
        };
        findings.ok(
            CHECK,
            format!("the ServiceAccount {account} has all {asked} rights that the operator needs {place}"),
        );
        return;
    }
    let lines = grouped(&missing);
    let named: Vec<&str> = lines.iter().take(NAMED).map(String::as_str).collect();
    let more = lines.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    findings.fail(
        CHECK,
        format!("the ServiceAccount {account} may not {}{more}", named.join("; ")),
        "Apply the roles of deploy/kustomize: base for the whole cluster, namespaced/watched for each namespace.",
    );
}

fn questions(installed: &Installed) -> BTreeSet<Question> {
    let in_namespace = |namespace: Option<&String>, scope: Scope| {
        rights(scope)
            .into_iter()
            .map(|right| Question { namespace: namespace.cloned(), right, name: None })
            .collect::<Vec<_>>()
    };
    let mut questions: BTreeSet<Question> = if installed.namespaces.is_empty() {
        in_namespace(None, Scope::Cluster).into_iter().collect()
    } else {
        installed.namespaces.iter().flat_map(|name| in_namespace(Some(name), Scope::Namespaces)).collect()
    };
    if installed.elects {
        for right in election_rules().iter().flat_map(granted) {
            let name = (right.verb != "create").then(|| LEASE_NAME.to_owned());
            questions.insert(Question { namespace: Some(installed.namespace.clone()), right, name });
        }
    }
    questions
}

async fn ask(cluster: &Cluster, installed: &Installed, question: &Question) -> Result<bool, Refusal> {
    let Right { group, resource, verb } = &question.right;
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let namespace = &installed.namespace;
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": format!("system:serviceaccount:{namespace}:{}", installed.account),
            "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{namespace}"), "system:authenticated"],
            "resourceAttributes": {
                "group": group, "resource": resource, "subresource": subresource, "verb": verb,
                "namespace": question.namespace, "name": question.name,
            },
        },
    });
    let answer = cluster.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await?;
    Ok(answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or(false))
}

/// Missing rights as a human reads them: `create, patch deployments.apps in team-a`.
fn grouped(missing: &[Question]) -> Vec<String> {
    let mut verbs: BTreeMap<(Option<&str>, &str, &str), BTreeSet<&str>> = BTreeMap::new();
    for question in missing {
        let right = &question.right;
        let of = (question.namespace.as_deref(), right.group.as_str(), right.resource.as_str());
        verbs.entry(of).or_default().insert(&right.verb);
    }
    verbs
        .into_iter()
        .map(|((namespace, group, resource), verbs)| {
            let verbs: Vec<&str> = verbs.into_iter().collect();
            let dot = if group.is_empty() { "" } else { "." };
            let place = namespace.map(|namespace| format!(" in {namespace}")).unwrap_or_default();
            format!("{} {resource}{dot}{group}{place}", verbs.join(", "))
        })
        .collect()
}

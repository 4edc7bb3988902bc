//! What the status of a workload says of what was planned and observed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use skep_api::condition::{Condition, ConditionStatus};
use skep_api::crd::{Kind, Object};
use skep_api::problem::Problem;
use skep_api::report::ProxyReport;
use skep_api::runconfig::{RunConfig, Transport};
use skep_operator::observe::{ApplyFailure, Deployment, Observed, PodReport, Pods, ReportError, StatefulSet};
use skep_operator::plan::{Plan, Planned, Workload};
use skep_operator::status;

use super::status_facts::{pod, ready, waiting};

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

pub(crate) fn object(kind: Kind, metadata: Value) -> Object {
    let mut all = json!({"name": "foo", "namespace": "ns", "generation": 3});
    all.as_object_mut().unwrap().extend(metadata.as_object().cloned().unwrap_or_default());
    let spec = match kind {
        Kind::MCPServer => json!({"image": "img"}),
        _ => json!({"remoteUrl": "https://a.example.com/"}),
    };
    Object::parse(&json!({"apiVersion": kind.stored().api_version(), "kind": kind.as_str(), "metadata": all, "spec": spec}))
        .unwrap()
}

/// A plan without a flaw.
pub(crate) fn good() -> Planned {
    let run_config = RunConfig::new("foo", Transport::StreamableHttp);
    let workload = Workload {
        run_config,
        url: "http://foo.ns.svc.cluster.local:8080".to_owned(),
        files: Vec::new(),
        env: Vec::new(),
    };
    Planned { plan: Some(Plan { objects: Vec::new(), workload: Some(workload) }), ..Planned::default() }
}

/// A plan with this error.
pub(crate) fn bad(path: &str, reason: &str, message: &str) -> Planned {
    Planned { problems: vec![Problem::error(path, reason, message)], ..Planned::default() }
}

pub(crate) fn deployment(desired: i64, ready: i64) -> Option<Deployment> {
    Some(Deployment {
        generation: 1,
        observed_generation: 1,
        desired,
        updated: ready,
        ready,
        available: ready,
        ..Deployment::default()
    })
}

fn pods(pods: &[Value]) -> Pods {
    Pods::of(pods)
}

/// A proxy with one ready pod, and its backend with one.
pub(crate) fn running() -> Observed {
    Observed {
        deployment: deployment(1, 1),
        pods: pods(&[ready("foo-1")]),
        stateful_set: Some(StatefulSet { desired: 1, ready: 1 }),
        ..Observed::default()
    }
}

pub(crate) fn said(pod: &str, proxy: Value) -> PodReport {
    let report: ProxyReport = serde_json::from_value(json!({"version": "1", "proxies": [proxy]})).unwrap();
    PodReport::new(pod, Ok(report))
}

pub(crate) fn silent(pod: &str) -> PodReport {
    PodReport::new(pod, Err(ReportError::NotAnAddress { text: "x".to_owned() }))
}

pub(crate) fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"].as_array().unwrap().iter().find(|condition| condition["type"] == kind)
}

/// Status and reason of a condition, `-` when there is none.
pub(crate) fn says(status: &Value, kind: &str) -> String {
    condition(status, kind).map_or_else(
        || "-".to_owned(),
        |condition| {
            format!("{}/{}", condition["status"].as_str().unwrap(), condition["reason"].as_str().unwrap())
        },
    )
}

fn first(kind: Kind, planned: &Planned, observed: &Observed) -> Value {
    status::workload(&object(kind, Value::Null), planned, observed, &Value::Null, at(0))
}

fn stuck(mut deployment: Option<Deployment>) -> Option<Deployment> {
    deployment.as_mut().unwrap().progressing = Some(skep_operator::observe::ReplicaCondition {
        holds: false,
        reason: "ProgressDeadlineExceeded".to_owned(),
        message: "…".to_owned(),
    });
    deployment
}

/// The pods of MCPServers: phase, `Ready` and message of ToolHive, word by word where it has them.
#[test]
fn an_mcp_server_is_as_far_as_its_pods_are() {
    let with = |pods: &[Value]| Observed { deployment: deployment(1, 0), pods: Pods::of(pods), ..running() };
    let backend = |set: Option<(i64, i64)>, pods: &[Value]| Observed {
        stateful_set: set.map(|(desired, ready)| StatefulSet { desired, ready }),
        backend: Pods::of(pods),
        ..running()
    };
    for (what, observed, phase, condition, message) in [
        ("nothing", Observed::default(), "Pending", "False/NotReady", "MCP server is being created"),
        ("no pods", with(&[]), "Pending", "False/NotReady", "MCP server is being created"),
        (
            "starting",
            with(&[waiting("a", "Pending", "ContainerCreating")]),
            "Pending",
            "False/NotReady",
            "MCP server is starting",
        ),
        (
            "running, not ready",
            with(&[pod("a", json!({"phase": "Running"}))]),
            "Pending",
            "False/NotReady",
            "MCP server is starting",
        ),
        (
            "no image yet",
            with(&[waiting("a", "Pending", "ImagePullBackOff")]),
            "Pending",
            "False/NotReady",
            "MCP server is starting: ImagePullBackOff",
        ),
        (
            "crashing",
            with(&[waiting("a", "Running", "CrashLoopBackOff")]),
            "Failed",
            "False/NotReady",
            "MCP server pod failed: CrashLoopBackOff",
        ),
        ("ready", running(), "Ready", "True/Ready", "MCP server is running"),
        (
            "one of two ready",
            Observed { pods: pods(&[ready("a"), waiting("b", "Running", "CrashLoopBackOff")]), ..running() },
            "Ready",
            "True/Ready",
            "MCP server is running",
        ),
        (
            "the new one does not come up",
            Observed {
                deployment: stuck(deployment(1, 1)),
                pods: pods(&[ready("a"), waiting("b", "Running", "CrashLoopBackOff")]),
                ..running()
            },
            "Ready",
            "True/Ready",
            "MCP server is running, but its newest version does not start: CrashLoopBackOff",
        ),
        (
            "stopped",
            Observed { deployment: deployment(0, 0), ..Observed::default() },
            "Stopped",
            "False/NotReady",
            "MCP server is stopped (scaled to zero)",
        ),
        (
            "stopping",
            Observed { deployment: deployment(0, 1), ..running() },
            "Stopped",
            "False/NotReady",
            "MCP server is stopped (scaled to zero)",
        ),
        (
            "no backend",
            backend(None, &[]),
            "Pending",
            "False/NotReady",
            "MCP server proxy is running; recreating missing workload StatefulSet",
        ),
        (
            "backend starting",
            backend(Some((1, 0)), &[]),
            "Pending",
            "False/NotReady",
            "MCP server is starting",
        ),
        (
            "backend without image",
            backend(Some((1, 0)), &[waiting("foo-0", "Pending", "ErrImagePull")]),
            "Pending",
            "False/NotReady",
            "MCP server is starting: ImagePullBackOff",
        ),
        (
            "backend crashing",
            backend(Some((1, 0)), &[waiting("foo-0", "Running", "CrashLoopBackOff")]),
            "Failed",
            "False/NotReady",
            "MCP server pod failed: CrashLoopBackOff",
        ),
        ("backend elsewhere", backend(Some((0, 0)), &[]), "Ready", "True/Ready", "MCP server is running"),
    ] {
        let status = first(Kind::MCPServer, &good(), &observed);
        assert_eq!(status["phase"], phase, "{what}");
        assert_eq!(says(&status, "Ready"), condition, "{what}");
        assert_eq!(status["message"], message, "{what}");
        assert_eq!(condition_message(&status, "Ready"), message, "{what}");
    }
}

fn condition_message(status: &Value, kind: &str) -> String {
    condition(status, kind).unwrap()["message"].as_str().unwrap().to_owned()
}

#[test]
fn a_remote_proxy_is_ready_when_a_pod_is() {
    let with = |pods: &[Value]| Observed {
        deployment: deployment(1, 0),
        pods: Pods::of(pods),
        ..Observed::default()
    };
    let mut forbidden = deployment(1, 0);
    forbidden.as_mut().unwrap().replica_failure = Some(skep_operator::observe::ReplicaCondition {
        holds: true,
        reason: "FailedCreate".to_owned(),
        message: "exceeded quota".to_owned(),
    });
    for (what, observed, phase, condition, message) in [
        (
            "nothing",
            Observed::default(),
            "Pending",
            "False/DeploymentNotReady",
            "Remote proxy is being created",
        ),
        ("no pods", with(&[]), "Pending", "False/DeploymentNotReady", "Remote proxy is being created"),
        (
            "running, not ready",
            with(&[pod("a", json!({"phase": "Running"}))]),
            "Pending",
            "False/DeploymentNotReady",
            "Remote proxy is starting",
        ),
        (
            "crashing",
            with(&[waiting("a", "Running", "CrashLoopBackOff")]),
            "Failed",
            "False/DeploymentNotReady",
            "Remote proxy pod failed: CrashLoopBackOff",
        ),
        ("ready", with(&[ready("a")]), "Ready", "True/DeploymentReady", "Remote proxy is running"),
        (
            "ready, and its pods are out of sight",
            Observed { deployment: deployment(1, 1), ..Observed::default() },
            "Ready",
            "True/DeploymentReady",
            "Remote proxy is running",
        ),
        (
            "stopped",
            Observed { deployment: deployment(0, 0), ..Observed::default() },
            "Pending",
            "False/DeploymentNotReady",
            "Remote proxy is stopped (scaled to zero)",
        ),
        (
            "no pods allowed",
            Observed { deployment: forbidden, ..Observed::default() },
            "Failed",
            "False/DeploymentNotReady",
            "Remote proxy pod failed: FailedCreate: exceeded quota",
        ),
    ] {
        let status = first(Kind::MCPRemoteProxy, &good(), &observed);
        assert_eq!(status["phase"], phase, "{what}");
        assert_eq!(says(&status, "Ready"), condition, "{what}");
        assert_eq!(status["message"], message, "{what}");
    }
}

#[test]
fn a_status_without_pods_is_the_same_before_and_after_the_deployment_is_seen() {
    for kind in [Kind::MCPServer, Kind::MCPRemoteProxy] {
        let seen = Observed { deployment: Some(Deployment::of(&json!({}))), ..Observed::default() };
        assert_eq!(first(kind, &good(), &Observed::default()), first(kind, &good(), &seen));
    }
}

#[test]
fn what_is_wrong_with_the_object_comes_before_what_its_pods_do() {
    let invalid = bad("spec.remoteUrl", "RemoteURLInvalid", "It is no URL.");
    let mut suspended = bad("spec", "AuthRequired", "Nothing says who may come in.");
    suspended.suspend = Some("spec: Nothing says who may come in.".to_owned());
    let mut several = bad("a", "X", "One.");
    several.problems.push(Problem::warning("b", "X", "A warning."));
    several.problems.push(Problem::error("c", "X", "Two."));
    let failure = ApplyFailure { what: "Deployment `foo`".to_owned(), why: "denied".to_owned() };
    let refused = |observed: Observed| Observed { apply_error: Some(failure.clone()), ..observed };
    let foreign = Observed { conflicts: vec!["Deployment `foo` (of nobody)".to_owned()], ..running() };
    for (what, planned, observed, reason, message) in [
        ("invalid", invalid.clone(), Observed::default(), "NotReady", "spec.remoteUrl: It is no URL."),
        (
            "invalid and running",
            invalid,
            running(),
            "NotReady",
            "spec.remoteUrl: It is no URL. The last good configuration still runs.",
        ),
        (
            "suspended",
            suspended,
            running(),
            "NotReady",
            "spec: Nothing says who may come in. The proxy has been told to answer every call with 503 until then.",
        ),
        ("several", several, Observed::default(), "NotReady", "a: One. (And one more problem.)"),
        (
            "foreign object",
            good(),
            foreign,
            "ObjectConflict",
            "Deployment `foo` (of nobody): not ours, so not touched. Delete it or rename this object.",
        ),
        (
            "not accepted",
            good(),
            refused(Observed::default()),
            "ApplyFailed",
            "Deployment `foo` is not accepted by the API server: denied",
        ),
        (
            "not accepted, but an earlier one was",
            good(),
            refused(running()),
            "ApplyFailed",
            "Deployment `foo` is not accepted by the API server: denied; the last version that it took still runs",
        ),
        (
            "the pods say that they let nobody in",
            good(),
            Observed { reports: vec![said("a", json!({"suspended": "no policy"}))], ..running() },
            "Suspended",
            "Every call is answered with 503: no policy",
        ),
    ] {
        for kind in [Kind::MCPServer, Kind::MCPRemoteProxy] {
            let status = first(kind, &planned, &observed);
            assert_eq!(status["phase"], "Failed", "{what}");
            assert_eq!(says(&status, "Ready"), format!("False/{reason}"), "{what}");
            assert_eq!(status["message"], message, "{what}");
        }
    }
}

#[test]
fn a_foreign_object_is_a_condition_until_it_is_gone() {
    let foreign = Observed { conflicts: vec!["b".to_owned(), "a".to_owned(), "a".to_owned()], ..running() };
    let status = first(Kind::MCPServer, &good(), &foreign);
    assert_eq!(says(&status, "ObjectConflict"), "True/OwnedBySomebodyElse");
    assert!(condition_message(&status, "ObjectConflict").starts_with("a, b: "));
    let object = object(Kind::MCPServer, Value::Null);
    let status = status::workload(&object, &good(), &running(), &status, at(9));
    assert_eq!(says(&status, "ObjectConflict"), "-");
    assert_eq!(says(&status, "Ready"), "True/Ready");
}

#[test]
fn an_object_that_is_being_deleted_keeps_what_was_found() {
    let mut planned = good();
    planned.conditions = vec![Condition::yes("OIDCConfigRefValidated", "OIDCConfigRefValid", "Fine.")];
    let status = first(Kind::MCPServer, &planned, &running());
    let going = object(Kind::MCPServer, json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}));
    let status = status::workload(&going, &Planned::default(), &running(), &status, at(9));
    assert_eq!(
        (&status["phase"], says(&status, "Ready").as_str()),
        (&json!("Terminating"), "False/Terminating")
    );
    assert_eq!(says(&status, "OIDCConfigRefValidated"), "True/OIDCConfigRefValid");
    assert_eq!(status["url"], "http://foo.ns.svc.cluster.local:8080");
}

#[test]
fn hashes_follow_the_references() {
    for kind in [Kind::MCPServer, Kind::MCPRemoteProxy] {
        let mut planned = good();
        planned.hashes =
            BTreeMap::from([("oidcConfigHash", "1".to_owned()), ("toolConfigHash", "2".to_owned())]);
        let object = object(kind, Value::Null);
        let status = first(kind, &planned, &running());
        assert_eq!((&status["oidcConfigHash"], &status["toolConfigHash"]), (&json!("1"), &json!("2")));
        planned.hashes = BTreeMap::from([("toolConfigHash", "3".to_owned())]);
        let status = status::workload(&object, &planned, &running(), &status, at(1));
        assert_eq!((status.get("oidcConfigHash"), &status["toolConfigHash"]), (None, &json!("3")));
    }
}

#[test]
fn the_url_stays_while_there_is_no_plan() {
    let object = object(Kind::MCPRemoteProxy, Value::Null);
    let status = first(Kind::MCPRemoteProxy, &good(), &running());
    let status = status::workload(&object, &bad("spec", "X", "No."), &running(), &status, at(1));
    assert_eq!(status["url"], "http://foo.ns.svc.cluster.local:8080");
}

#[test]
fn a_message_of_the_api_server_is_bounded_and_hides_nothing() {
    let failure = ApplyFailure {
        what: "Deployment `foo`".to_owned(),
        why: format!("a\n\u{1b}b{}", "x".repeat(100_000)),
    };
    let status =
        first(Kind::MCPServer, &good(), &Observed { apply_error: Some(failure), ..Observed::default() });
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("a bx") && message.chars().count() == 4096, "{message}");
    assert_eq!(condition_message(&status, "Ready"), message);
}

#[test]
fn ready_replicas_are_the_ready_pods_of_an_mcp_server() {
    let observed =
        Observed { pods: pods(&[ready("a"), ready("b"), waiting("c", "Pending", "X")]), ..running() };
    assert_eq!(first(Kind::MCPServer, &good(), &observed)["readyReplicas"], 2);
    assert_eq!(first(Kind::MCPServer, &good(), &Observed::default())["readyReplicas"], 0);
    assert_eq!(first(Kind::MCPRemoteProxy, &good(), &observed).get("readyReplicas"), None);
}

#[test]
fn what_the_planner_says_of_a_condition_is_what_the_status_says() {
    let mut planned = good();
    planned.conditions = vec![
        Condition::no("AuthConfigured", "Anonymous", "Everybody."),
        Condition::yes("GroupRefValidated", "GroupRefIsValid", "There."),
        Condition::no("Ready", "NotReady", "The planner can't know."),
    ];
    let issuers =
        json!({"authentication": {"issuers": [{"issuer": "i", "available": true, "reason": "Available"}]}});
    let observed = Observed { reports: vec![said("a", issuers)], ..running() };
    let status = first(Kind::MCPServer, &planned, &observed);
    assert_eq!(says(&status, "AuthConfigured"), "False/Anonymous");
    assert_eq!(says(&status, "GroupRefValidated"), "True/GroupRefIsValid");
    assert_eq!(says(&status, "Ready"), "True/Ready");
}

#[test]
fn a_backend_is_isolated_as_far_as_the_network_plays_along() {
    let mut planned = good();
    planned.plan.as_mut().unwrap().objects =
        vec![json!({"kind": "NetworkPolicy", "metadata": {"name": "foo-backend"}})];
    let object = object(Kind::MCPServer, Value::Null);
    let status = first(Kind::MCPServer, &planned, &running());
    assert_eq!(says(&status, "BackendIsolated"), "Unknown/EnforcementUnknown");
    assert!(condition_message(&status, "BackendIsolated").contains("`foo-backend`"));
    // The policy stays while an invalid spec changes nothing, and the condition with it.
    let kept = status::workload(&object, &bad("spec", "X", "No."), &running(), &status, at(1));
    assert_eq!(says(&kept, "BackendIsolated"), "Unknown/EnforcementUnknown");
    let failed = Observed {
        apply_error: Some(ApplyFailure { what: "NetworkPolicy".to_owned(), why: "no".to_owned() }),
        ..running()
    };
    assert_eq!(says(&first(Kind::MCPServer, &planned, &failed), "BackendIsolated"), "Unknown/NotApplied");
    assert_eq!(says(&first(Kind::MCPRemoteProxy, &planned, &running()), "BackendIsolated"), "-");
}

#[test]
fn a_status_of_toolhives_operator_is_taken_over() {
    let present = json!({
        "phase": "Running", "url": "http://mcp-foo-proxy.ns.svc.cluster.local:8080/mcp", "externalThing": 5,
        "conditions": [
            {"type": "TelemetryConfigRefValidated", "status": "False", "reason": "TelemetryConfigRefError", "message": "x", "lastTransitionTime": "2025-01-01T00:00:00Z"},
            {"type": "Ready", "status": "True", "reason": "Ready", "message": "MCP server is running", "lastTransitionTime": "2025-01-01T00:00:00Z", "observedGeneration": 1},
            {"type": "example.com/Scanned", "status": "True", "reason": "Clean", "message": "", "lastTransitionTime": "2025-01-01T00:00:00Z"},
        ],
    });
    let object = object(Kind::MCPServer, Value::Null);
    let status = status::workload(&object, &good(), &running(), &present, at(0));
    assert_eq!(says(&status, "TelemetryConfigRefValidated"), "-");
    assert_eq!(condition(&status, "example.com/Scanned"), Some(&present["conditions"][2]));
    let ready = condition(&status, "Ready").unwrap();
    assert_eq!(ready["lastTransitionTime"], "2025-01-01T00:00:00Z");
    assert_eq!((&ready["observedGeneration"], &status["observedGeneration"]), (&json!(3), &json!(3)));
    assert_eq!((&status["phase"], &status["externalThing"]), (&json!("Ready"), &json!(5)));
}

#[test]
fn a_planner_condition_that_is_unknown_stays_unknown() {
    let mut planned = good();
    planned.conditions = vec![Condition {
        kind: "GroupRefValidated".to_owned(),
        status: ConditionStatus::Unknown,
        reason: "GroupRefNotReady".to_owned(),
        message: String::new(),
    }];
    let status = first(Kind::MCPServer, &planned, &running());
    assert_eq!(says(&status, "GroupRefValidated"), "Unknown/GroupRefNotReady");
}

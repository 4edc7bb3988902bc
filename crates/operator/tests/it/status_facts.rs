//! What is read from Deployments, StatefulSets and pods.

use serde_json::{Value, json};
use skep_operator::observe::{Deployment, Pods, StatefulSet, is_of_deployment, is_of_stateful_set};

/// A pod of a name with a status.
pub(crate) fn pod(name: &str, status: Value) -> Value {
    json!({"metadata": {"name": name}, "status": status})
}

pub(crate) fn ready(name: &str) -> Value {
    pod(
        name,
        json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}),
    )
}

pub(crate) fn waiting(name: &str, phase: &str, reason: &str) -> Value {
    pod(name, json!({"phase": phase, "containerStatuses": [{"state": {"waiting": {"reason": reason}}}]}))
}

fn counted(pods: &[Value]) -> (u32, u32, u32, u32, Option<String>, Option<String>) {
    let pods = Pods::of(pods);
    (pods.running, pods.ready, pods.pending, pods.failed, pods.failure, pods.waiting)
}

#[test]
fn pods_count_by_what_their_containers_do() {
    let text = |text: &str| Some(text.to_owned());
    let terminated = |code: i64, reason: &str| {
        pod(
            "a",
            json!({"phase": "Running", "containerStatuses": [{"state": {"terminated": {"exitCode": code, "reason": reason}}}]}),
        )
    };
    for (what, pods, expected) in [
        ("none", vec![], (0, 0, 0, 0, None, None)),
        ("ready", vec![ready("a")], (1, 1, 0, 0, None, None)),
        ("running", vec![pod("a", json!({"phase": "Running"}))], (1, 0, 0, 0, None, None)),
        (
            "not ready",
            vec![pod("a", json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}))],
            (1, 0, 0, 0, None, None),
        ),
        ("no status", vec![json!({"metadata": {"name": "a"}})], (0, 0, 1, 0, None, None)),
        ("nothing at all", vec![Value::Null], (0, 0, 1, 0, None, None)),
        ("starting", vec![waiting("a", "Pending", "ContainerCreating")], (0, 0, 1, 0, None, None)),
        ("initialising", vec![waiting("a", "Pending", "PodInitializing")], (0, 0, 1, 0, None, None)),
        (
            "no image yet",
            vec![waiting("a", "Pending", "ImagePullBackOff")],
            (0, 0, 1, 0, None, text("ImagePullBackOff")),
        ),
        (
            "no image at all",
            vec![waiting("a", "Pending", "ErrImagePull")],
            (0, 0, 1, 0, None, text("ImagePullBackOff")),
        ),
        (
            "no secret yet",
            vec![waiting("a", "Pending", "CreateContainerConfigError")],
            (0, 0, 1, 0, None, text("CreateContainerConfigError")),
        ),
        (
            "crashing",
            vec![waiting("a", "Running", "CrashLoopBackOff")],
            (0, 0, 0, 1, text("CrashLoopBackOff"), None),
        ),
        (
            "not created",
            vec![waiting("a", "Pending", "CreateContainerError")],
            (0, 0, 0, 1, text("CreateContainerError"), None),
        ),
        (
            "no image name",
            vec![waiting("a", "Pending", "InvalidImageName")],
            (0, 0, 0, 1, text("InvalidImageName"), None),
        ),
        ("ended badly", vec![terminated(2, "Error")], (0, 0, 0, 1, text("Error (exit code 2)"), None)),
        ("killed", vec![terminated(137, "OOMKilled")], (0, 0, 0, 1, text("OOMKilled (exit code 137)"), None)),
        ("ended well", vec![terminated(0, "Completed")], (1, 0, 0, 0, None, None)),
        (
            "evicted",
            vec![pod("a", json!({"phase": "Failed", "reason": "Evicted"}))],
            (0, 0, 0, 1, text("Evicted"), None),
        ),
        ("done", vec![pod("a", json!({"phase": "Succeeded"}))], (0, 0, 0, 0, None, None)),
        (
            "init container",
            vec![pod(
                "a",
                json!({"phase": "Pending", "initContainerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            )],
            (0, 0, 0, 1, text("CrashLoopBackOff"), None),
        ),
        (
            "no place",
            vec![pod(
                "a",
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}),
            )],
            (0, 0, 1, 0, None, text("Unschedulable")),
        ),
        (
            "one of each",
            vec![
                waiting("c", "Running", "CrashLoopBackOff"),
                ready("a"),
                waiting("b", "Pending", "InvalidImageName"),
                waiting("d", "Pending", "X"),
            ],
            (1, 1, 1, 2, text("InvalidImageName"), text("X")),
        ),
    ] {
        assert_eq!(counted(&pods), expected, "{what}");
    }
}

#[test]
fn a_pod_that_is_being_deleted_does_not_count() {
    let mut going = ready("a");
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert_eq!(Pods::of([&going]), Pods::default());
    assert!(Pods::addresses([&going]).is_empty());
}

#[test]
fn the_order_of_pods_does_not_matter() {
    let pods = [waiting("b", "Running", "CrashLoopBackOff"), waiting("a", "Running", "InvalidImageName")];
    let [b, a] = &pods;
    assert_eq!(Pods::of([a, b]), Pods::of([b, a]));
}

#[test]
fn only_a_pod_that_runs_and_has_an_address_is_asked() {
    let ip = |phase: &str, ip: &str| pod("p", json!({"phase": phase, "podIP": ip}));
    for (pod, expected) in [
        (ip("Running", "10.1.2.3"), Some("10.1.2.3")),
        (ip("Running", "fd00::1"), Some("fd00::1")),
        (ip("Running", "metadata.internal"), None),
        (ip("Running", "10.1.2.3/x"), None),
        (ip("Running", ""), None),
        (ip("Pending", "10.1.2.3"), None),
        (pod("p", json!({"phase": "Running"})), None),
    ] {
        let found = Pods::addresses([&pod]);
        assert_eq!(found.first().map(|address| address.ip.to_string()).as_deref(), expected, "{pod}");
    }
}

#[test]
fn a_deployment_that_says_nothing_is_one_that_nobody_has_looked_at() {
    let deployment = Deployment::of(&json!({"metadata": {"generation": 1}}));
    assert_eq!((deployment.desired, deployment.ready), (1, 0));
    assert!(!deployment.is_observed() && !deployment.is_rolled_out());
    assert_eq!(deployment.stuck(), None);
}

#[test]
fn a_deployment_is_rolled_out_when_every_replica_is_new_and_available() {
    let deployment = |observed: i64, updated: i64, available: i64| {
        Deployment::of(&json!({
            "metadata": {"generation": 4}, "spec": {"replicas": 2},
            "status": {"observedGeneration": observed, "updatedReplicas": updated, "readyReplicas": 2, "availableReplicas": available},
        }))
    };
    assert!(deployment(4, 2, 2).is_rolled_out());
    assert!(!deployment(3, 2, 2).is_rolled_out());
    assert!(!deployment(4, 1, 2).is_rolled_out());
    assert!(!deployment(4, 2, 1).is_rolled_out());
}

#[test]
fn a_stateful_set_asks_for_one_replica_unless_it_says_otherwise() {
    assert_eq!(StatefulSet::of(&json!({"spec": {}})), StatefulSet { desired: 1, ready: 0 });
    let set = StatefulSet::of(&json!({"spec": {"replicas": 0}, "status": {"readyReplicas": 3}}));
    assert_eq!(set, StatefulSet { desired: 0, ready: 3 });
}

#[test]
fn a_pod_belongs_to_what_controls_it_whatever_its_labels_say() {
    let owned = |owner: Value, hash: Value| {
        json!({"metadata": {"name": "s-1", "ownerReferences": [owner],
            "labels": {"toolhive-name": "s", "app.kubernetes.io/name": "mcpserver", "pod-template-hash": hash}}})
    };
    let by = |api: &str, kind: &str, name: &str, controller: bool| json!({"apiVersion": api, "kind": kind, "name": name, "uid": "u", "controller": controller});
    let hash = || json!("5d4f");
    for (what, pod, expected) in [
        ("of the Deployment", owned(by("apps/v1", "ReplicaSet", "s-5d4f", true), hash()), true),
        ("of another Deployment", owned(by("apps/v1", "ReplicaSet", "other-5d4f", true), hash()), false),
        ("of a longer name", owned(by("apps/v1", "ReplicaSet", "s-x-5d4f", true), hash()), false),
        ("of another template", owned(by("apps/v1", "ReplicaSet", "s-9999", true), hash()), false),
        (
            "of a ReplicaSet that somebody made",
            owned(by("apps/v1", "ReplicaSet", "s", true), Value::Null),
            false,
        ),
        ("with an empty hash", owned(by("apps/v1", "ReplicaSet", "s-", true), json!("")), false),
        (
            "of an owner that controls nothing",
            owned(by("apps/v1", "ReplicaSet", "s-5d4f", false), hash()),
            false,
        ),
        ("of a Job", owned(by("batch/v1", "Job", "s-5d4f", true), hash()), false),
        ("of another group", owned(by("example.com/v1", "ReplicaSet", "s-5d4f", true), hash()), false),
        (
            "of nobody",
            json!({"metadata": {"labels": {"toolhive-name": "s", "pod-template-hash": "5d4f"}}}),
            false,
        ),
    ] {
        assert_eq!(is_of_deployment(&pod, "s"), expected, "{what}");
    }
    let set = owned(by("apps/v1", "StatefulSet", "s", true), Value::Null);
    assert!(is_of_stateful_set(&set, "u") && !is_of_stateful_set(&set, "v") && !is_of_stateful_set(&set, ""));
    assert!(!is_of_stateful_set(&owned(by("apps/v1", "ReplicaSet", "s", true), hash()), "u"));
    assert!(!is_of_stateful_set(&Value::Null, ""));
}

//! Apply only when it differs, takeover and release, on a real API server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Map, Value, json};
use skep_operator::apply::differs::{Verdict, verdict};
use skep_operator::apply::rebuild::{leaves_objects_behind, rebuild};
use skep_operator::apply::takeover::{release, take_over};
use skep_operator::client::Layers;
use skep_operator::plan::{Missing, plan_object};
use skep_testkit::control_plane::{self, Assets, ControlPlane, Options};

use crate::harness::client;
use crate::manifests::{files, world};

/// An API server whose garbage collector is nobody: the owners of what is applied here are made up.
async fn without_controllers() -> Option<&'static ControlPlane> {
    static PLANE: tokio::sync::OnceCell<ControlPlane> = tokio::sync::OnceCell::const_new();
    let assets = Assets::find_or_skip()?;
    let start = || ControlPlane::start(&assets, Options { controllers: vec![] });
    Some(PLANE.get_or_init(start).await)
}

const US: &str = "skep-operator";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const PATCH: &str = "application/json-patch+json";
const JSON: &str = "application/json";

/// One namespace of an API server.
struct Namespace<'a> {
    cluster: &'a ControlPlane,
    /// Keeps its connection, unlike the requests of the control plane itself.
    client: Client,
    name: String,
    /// The API server leaves objects behind.
    old: bool,
}

impl<'a> Namespace<'a> {
    async fn fresh(cluster: &'a ControlPlane) -> Self {
        let (_, version) = cluster.request("GET", "/version", "", "").await;
        let old =
            leaves_objects_behind(version["major"].as_str().unwrap(), version["minor"].as_str().unwrap());
        let client = client(cluster, None, &Layers::default()).await;
        Self { cluster, client, name: cluster.namespace().await, old }
    }

    fn collection(&self, object: &Value) -> String {
        let plural = match object["kind"].as_str().unwrap() {
            "Deployment" => "deployments",
            "StatefulSet" => "statefulsets",
            "Service" => "services",
            "ServiceAccount" => "serviceaccounts",
            "ConfigMap" => "configmaps",
            "Role" => "roles",
            "RoleBinding" => "rolebindings",
            "PodDisruptionBudget" => "poddisruptionbudgets",
            "NetworkPolicy" => "networkpolicies",
            other => panic!("an object of kind {other} is rendered, and nothing checks it here"),
        };
        let version = object["apiVersion"].as_str().unwrap();
        let root = if version.contains('/') { "apis" } else { "api" };
        format!("/{root}/{version}/namespaces/{}/{plural}", self.name)
    }

    fn path(&self, object: &Value) -> String {
        format!("{}/{}", self.collection(object), object["metadata"]["name"].as_str().unwrap())
    }

    async fn send(&self, method: &str, path: &str, kind: &str, body: &Value) -> (u16, Value) {
        let mut request = http::Request::builder().method(method).uri(path);
        let mut sent = Vec::new();
        if !kind.is_empty() {
            request = request.header(http::header::CONTENT_TYPE, kind);
            sent = body.to_string().into_bytes();
        }
        let answer = self.client.send(request.body(Body::from(sent)).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn get(&self, object: &Value) -> Value {
        let (status, found) = self.send("GET", &self.path(object), "", &Value::Null).await;
        assert_eq!(status, 200, "{found}");
        found
    }

    async fn try_apply(&self, object: &Value) -> (u16, Value) {
        let path = format!("{}?fieldManager={US}&force=true", self.path(object));
        self.send("PATCH", &path, APPLY, object).await
    }

    /// Applies as the operator does: what an old server can't do by an apply is done before.
    async fn apply(&self, object: &Value) -> Value {
        if self.old {
            let (_, live) = self.send("GET", &self.path(object), "", &Value::Null).await;
            if let Some(patch) = rebuild(object, &live, US) {
                let live = self.changed(object, US, PATCH, &patch).await;
                if let Some(patch) = take_over(&live, US) {
                    self.changed(object, US, PATCH, &patch).await;
                }
            }
        }
        let (status, found) = self.try_apply(object).await;
        assert!(status < 300, "{status} {found} for {object:#}");
        found
    }

    /// A change by another manager; whatever the server says to it.
    async fn change(&self, object: &Value, manager: &str, kind: &str, patch: &Value) -> (u16, Value) {
        self.send("PATCH", &format!("{}?fieldManager={manager}", self.path(object)), kind, patch).await
    }

    async fn changed(&self, object: &Value, manager: &str, kind: &str, patch: &Value) -> Value {
        let (status, found) = self.change(object, manager, kind, patch).await;
        assert_eq!(status, 200, "{found} for {patch}");
        found
    }

    /// What the operator does until the object is as desired, and how often it writes.
    async fn converge(&self, desired: &Value) -> (Value, Vec<Verdict>) {
        let mut said = Vec::new();
        loop {
            let live = self.get(desired).await;
            let verdict = verdict(desired, &live, US);
            let patch = match &verdict {
                Verdict::InSync => return (live, said),
                Verdict::TakeOver { .. } => take_over(&live, US),
                Verdict::Apply { .. } => desired
                    .pointer("/spec/replicas")
                    .is_none()
                    .then(|| release(&live, US, &["spec", "replicas"]))
                    .flatten(),
            };
            if let Some(patch) = patch {
                self.changed(desired, US, PATCH, &patch).await;
            }
            self.apply(desired).await;
            said.push(verdict);
            assert!(said.len() < 3, "it does not converge: {said:?}");
        }
    }
}

/// Every manifest that is planned somewhere: of the tests and of `examples`.
fn all_manifests() -> Vec<PathBuf> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut found = files("good");
    for folder in std::fs::read_dir(examples).unwrap() {
        let files = std::fs::read_dir(folder.unwrap().path()).unwrap().map(|file| file.unwrap().path());
        found.extend(files.filter(|file| file.extension().is_some_and(|end| end == "yaml")));
    }
    found.sort();
    found
}

/// What is rendered for a manifest, as the operator applies it to a server with these API groups.
fn rendered(file: &Path, namespace: &str, budgets: &str) -> Vec<Value> {
    let (objects, mut world) = world(&std::fs::read_to_string(file).unwrap(), Missing::Warn);
    let mut made = Vec::new();
    for mut object in objects {
        object.metadata.namespace = namespace.to_owned();
        object.metadata.uid = Some("6dd1a9d8-b6f6-4b4d-8a1e-6f2d8a3a7c11".to_owned());
        object.metadata.generation = Some(3);
        world.settings.missing = Missing::Warn;
        made.extend(plan_object(&object, &world).plan.into_iter().flat_map(|plan| plan.objects));
    }
    for object in &mut made {
        if object["kind"] == "PodDisruptionBudget" {
            object["apiVersion"] = budgets.into();
        }
    }
    made
}

/// The version of PodDisruptionBudgets that the server has.
async fn budgets(cluster: &ControlPlane) -> &'static str {
    let (status, _) = cluster.request("GET", "/apis/policy/v1", "", "").await;
    if status == 200 { "policy/v1" } else { "policy/v1beta1" }
}

/// The largest object of every kind.
async fn largest(namespace: &Namespace<'_>) -> Vec<Value> {
    let budgets = budgets(namespace.cluster).await;
    let mut largest: BTreeMap<String, Value> = BTreeMap::new();
    for file in all_manifests() {
        for object in rendered(&file, &namespace.name, budgets) {
            let kind = object["kind"].as_str().unwrap().to_owned();
            let known = largest.entry(kind).or_default();
            if object.to_string().len() > known.to_string().len() {
                *known = object;
            }
        }
    }
    assert_eq!(largest.len(), 9, "{:?}", largest.keys());
    largest.into_values().collect()
}

fn in_sync(desired: &Value, live: &Value) {
    let said = verdict(desired, live, US);
    assert_eq!(said, Verdict::InSync, "\ndesired {desired:#}\nlive {live:#}");
}

/// Pointers to everything that can be changed one by one: scalars, and lists and objects that hold none.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    let below: Vec<(String, &Value)> = match value {
        Value::Object(map) => {
            map.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        Value::Array(items) => items.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    if below.is_empty() {
        found.push(at.to_owned());
    }
    for (name, value) in below {
        leaves(value, &format!("{at}/{name}"), found);
    }
}

/// Pointers that say which object, or which entry of a list, is meant. Changing one makes another thing.
fn is_identity(pointer: &str) -> bool {
    let parts: Vec<&str> = pointer.split('/').collect();
    let [.., list, _, field] = parts.as_slice() else { return true };
    if pointer.starts_with("/metadata/ownerReferences/") {
        return *field == "uid";
    }
    let key = match *list {
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" => *field == "name",
        "volumeMounts" => *field == "mountPath",
        "ports" => ["containerPort", "port", "protocol"].contains(field),
        _ => false,
    };
    key || matches!(pointer, "/metadata/name" | "/metadata/namespace")
}

fn leaves_of(desired: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for part in
        desired.as_object().unwrap().keys().filter(|part| !["apiVersion", "kind"].contains(&part.as_str()))
    {
        leaves(&desired[part], &format!("/{part}"), &mut found);
    }
    found.retain(|pointer| {
        !is_identity(pointer) && !["/metadata/name", "/metadata/namespace"].contains(&pointer.as_str())
    });
    found
}

#[tokio::test]
async fn what_was_applied_is_in_sync_whatever_was_rendered() {
    let Some(cluster) = without_controllers().await else { return };
    let budgets = budgets(cluster).await;
    let mut applied = 0;
    let mut differing: Vec<String> = Vec::new();
    for file in all_manifests() {
        let namespace = Namespace::fresh(cluster).await;
        for desired in rendered(&file, &namespace.name, budgets) {
            let made = namespace.apply(&desired).await;
            in_sync(&desired, &made);
            let read = namespace.get(&desired).await;
            in_sync(&desired, &read);
            // The server agrees that there is nothing to do.
            let again = namespace.apply(&desired).await;
            // Servers before 1.22 write an empty list each time, and drop it.
            if again != read && desired.pointer("/spec/egress") != Some(&json!([])) {
                differing.push(format!(
                    "{}\n{}\n{}",
                    desired["kind"], again["metadata"]["managedFields"], read["metadata"]["managedFields"]
                ));
            }
            applied += 1;
        }
    }
    assert!(differing.is_empty(), "{differing:#?}");
    assert!(applied > 150, "{applied}");
}

#[tokio::test]
async fn every_leaf_that_is_changed_or_removed_by_hand_is_healed() {
    let Some(cluster) = without_controllers().await else { return };
    let namespace = Namespace::fresh(cluster).await;
    for desired in largest(&namespace).await {
        let kind = desired["kind"].as_str().unwrap();
        namespace.apply(&desired).await;
        let (mut healed, mut refused) = (0, 0);
        for pointer in leaves_of(&desired) {
            let other = match desired.pointer(&pointer).unwrap() {
                Value::String(text) if text.parse::<f64>().is_ok() => json!(format!("{text}1")),
                Value::String(text) => json!(format!("{text}x")),
                Value::Number(number) => json!(number.as_i64().unwrap() + 1),
                Value::Bool(value) => json!(!value),
                Value::Object(_) => json!({"name": "by-hand"}),
                other => panic!("{kind} {pointer}: {other}"),
            };
            let edits = [
                json!([{"op": "replace", "path": pointer, "value": other}]),
                json!([{"op": "remove", "path": pointer}]),
            ];
            for edit in edits {
                let (status, live) = namespace.change(&desired, "kubectl-edit", PATCH, &edit).await;
                if status != 200 {
                    // Immutable, or not valid in this way.
                    refused += 1;
                    continue;
                }
                if verdict(&desired, &live, US) == Verdict::InSync {
                    // The server gave it back: a default.
                    assert_eq!(live.pointer(&pointer), desired.pointer(&pointer), "{kind} {edit}");
                    continue;
                }
                let (healed_live, said) = namespace.converge(&desired).await;
                assert!(matches!(said.as_slice(), [Verdict::Apply { .. }]), "{kind} {edit}: {said:?}");
                assert_eq!(healed_live.pointer(&pointer), desired.pointer(&pointer), "{kind} {edit}");
                healed += 1;
            }
        }
        assert!(healed >= 4, "{kind}: {healed} healed, {refused} refused");
    }
}

/// An object without what a pointer leads to, and without what would be empty then.
fn without(object: &Value, pointer: &str) -> Value {
    let mut less = object.clone();
    let (above, field) = pointer.rsplit_once('/').unwrap();
    let empty = match less.pointer_mut(above).unwrap() {
        Value::Object(map) => {
            map.remove(&field.replace("~1", "/").replace("~0", "~"));
            map.is_empty()
        }
        Value::Array(items) => {
            items.remove(field.parse().unwrap());
            false
        }
        _ => unreachable!(),
    };
    if empty { without(&less, above) } else { less }
}

#[tokio::test]
async fn every_field_that_is_no_longer_desired_is_given_up() {
    let Some(cluster) = without_controllers().await else { return };
    let namespace = Namespace::fresh(cluster).await;
    for desired in largest(&namespace).await {
        let kind = desired["kind"].as_str().unwrap();
        namespace.apply(&desired).await;
        let mut given_up = 0;
        for pointer in leaves_of(&desired) {
            let less = without(&desired, &pointer);
            let live = namespace.get(&desired).await;
            if verdict(&less, &live, US) == Verdict::InSync {
                // What it says is what the server fills in anyway.
                let (_, same) = namespace.try_apply(&less).await;
                assert_eq!(same["spec"], live["spec"], "{kind} {pointer}");
                namespace.converge(&desired).await;
                continue;
            }
            if namespace.try_apply(&less).await.0 != 200 {
                continue; // Such an object would not be valid.
            }
            let live = namespace.get(&desired).await;
            in_sync(&less, &live);
            given_up += 1;
            namespace.converge(&desired).await;
        }
        assert!(given_up >= 3, "{kind}: {given_up}");
    }
}

#[tokio::test]
async fn what_is_no_longer_desired_is_gone() {
    let Some(cluster) = without_controllers().await else { return };
    let namespace = Namespace::fresh(cluster).await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "namespace": namespace.name, "labels": {"a": "1", "b": "2"}, "annotations": {"c": "3"}},
        "spec": {"selector": {"matchLabels": {"a": "1"}}, "template": {"metadata": {"labels": {"a": "1"}}, "spec": {
            "containers": [{"name": "toolhive", "image": "i", "args": ["x"], "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "resources": {"limits": {"cpu": "0.5"}}, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "emptyDir": {}}], "nodeSelector": {"x": "y"}}}},
    });
    namespace.apply(&deployment).await;
    let mut less = deployment.clone();
    less["metadata"] = json!({"name": "d", "namespace": namespace.name, "labels": {"a": "1"}});
    less["spec"]["template"]["spec"] =
        json!({"containers": [{"name": "toolhive", "image": "i", "env": [{"name": "B", "value": "2"}]}]});
    let (live, said) = namespace.converge(&less).await;
    assert_eq!(said.len(), 1);
    let pod = &live["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["env"], json!([{"name": "B", "value": "2"}]));
    assert_eq!(live["metadata"]["labels"], json!({"a": "1"}));
    for gone in [
        &live["metadata"]["annotations"],
        &container["args"],
        &container["volumeMounts"],
        &pod["volumes"],
        &pod["nodeSelector"],
    ] {
        assert_eq!(*gone, Value::Null);
    }
    assert_eq!(container["resources"], json!({}));
}

/// What ToolHive's operator would have made of the same: more of everything.
fn as_toolhive(desired: &Value) -> Value {
    let mut theirs = desired.clone();
    let add = |map: &mut Value, key: &str| map[key] = json!("toolhive");
    add(&mut theirs["metadata"]["labels"], "toolhive.stacklok.dev/old");
    add(&mut theirs["metadata"]["annotations"], "toolhive.stacklok.dev/old");
    if let Some(template) = theirs.pointer_mut("/spec/template") {
        add(&mut template["metadata"]["annotations"], "old");
        template["spec"]["dnsPolicy"] = json!("Default");
        template["spec"]["terminationGracePeriodSeconds"] = json!(7);
        let container = &mut template["spec"]["containers"][0];
        container["image"] = json!("old");
        container["imagePullPolicy"] = json!("Never");
        container["lifecycle"] = json!({"preStop": {"exec": {"command": ["true"]}}});
        let env = container["env"].as_array_mut().unwrap();
        env.insert(0, json!({"name": "OLD", "value": "1"}));
        if theirs["kind"] == "Deployment" {
            theirs["spec"]["revisionHistoryLimit"] = json!(3);
        }
    }
    match theirs["kind"].as_str().unwrap() {
        "ConfigMap" => theirs["data"]["old"] = json!("1"),
        "Service" => {
            theirs["spec"]["ports"].as_array_mut().unwrap().push(json!({"name": "old", "port": 9}));
            theirs["spec"]["selector"]["old"] = json!("1");
        }
        "Role" => theirs["rules"]
            .as_array_mut()
            .unwrap()
            .push(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]})),
        "RoleBinding" => theirs["subjects"]
            .as_array_mut()
            .unwrap()
            .push(json!({"kind": "ServiceAccount", "name": "old", "namespace": "old"})),
        "ServiceAccount" => theirs["imagePullSecrets"] = json!([{"name": "old"}]),
        _ => {}
    }
    theirs
}

/// An object without what differs from one to the next for no reason of ours.
fn essence(live: &Value) -> Value {
    let mut live = live.clone();
    live.as_object_mut().unwrap().remove("status");
    let metadata = live["metadata"].as_object_mut().unwrap();
    metadata
        .retain(|field, _| ["name", "labels", "annotations", "ownerReferences"].contains(&field.as_str()));
    if metadata.get("annotations").is_some_and(|map| map.as_object().is_some_and(Map::is_empty)) {
        metadata.remove("annotations");
    }
    if let Some(spec) = live.get_mut("spec").and_then(Value::as_object_mut) {
        spec.retain(|field, value| {
            !["clusterIP", "clusterIPs"].contains(&field.as_str()) || *value == "None"
        });
    }
    live
}

#[tokio::test]
async fn what_toolhive_made_by_updates_becomes_exactly_ours_and_back() {
    let Some(cluster) = without_controllers().await else { return };
    let namespace = Namespace::fresh(cluster).await;
    let fresh = Namespace::fresh(cluster).await;
    for desired in largest(&namespace).await {
        let kind = desired["kind"].as_str().unwrap();
        let theirs = as_toolhive(&desired);
        let path = format!("{}?fieldManager=thv-operator", namespace.collection(&desired));
        let (status, live) = namespace.send("POST", &path, JSON, &theirs).await;
        assert_eq!(status, 201, "{live}");
        let label = json!({"metadata": {"labels": {"mine": "kept"}}});
        namespace.changed(&desired, "kubectl-label", MERGE, &label).await;

        let (live, said) = namespace.converge(&desired).await;
        assert!(
            matches!(said.as_slice(), [Verdict::TakeOver { .. }, ..]) && said.len() <= 2,
            "{kind}: {said:?}"
        );

        // As if nobody else had ever been there, but for the label.
        let text = desired.to_string().replace(&namespace.name, &fresh.name);
        let mut expected = essence(&fresh.apply(&serde_json::from_str(&text).unwrap()).await);
        expected["metadata"]["labels"]["mine"] = json!("kept");
        let sorted =
            |value: &Value| serde_json::from_str::<BTreeMap<String, Value>>(&value.to_string()).unwrap();
        let text = essence(&live).to_string().replace(&namespace.name, &fresh.name);
        assert_eq!(sorted(&serde_json::from_str(&text).unwrap()), sorted(&expected), "{kind}");

        // Back: their operator reads it, makes its own of it and writes the whole.
        let mut replaced = as_toolhive(&live);
        replaced["metadata"]["managedFields"] = Value::Null;
        let path = format!("{}?fieldManager=thv-operator", namespace.path(&desired));
        let (status, answer) = namespace.send("PUT", &path, JSON, &replaced).await;
        assert_eq!(status, 200, "{kind}: {answer}");
        let (again, said) = namespace.converge(&desired).await;
        assert!(
            matches!(said.as_slice(), [Verdict::TakeOver { .. }, ..]) && said.len() <= 2,
            "{kind}: {said:?}"
        );
        assert_eq!(sorted(&essence(&again)), sorted(&essence(&live)), "{kind}");
        assert_eq!(again["metadata"]["labels"]["mine"], "kept");
    }
}

#[tokio::test]
async fn a_takeover_of_an_object_that_changed_meanwhile_is_a_conflict() {
    let Some(cluster) = without_controllers().await else { return };
    let namespace = Namespace::fresh(cluster).await;
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}});
    let path = format!("{}?fieldManager=thv-operator", namespace.collection(&object));
    let (_, live) = namespace.send("POST", &path, JSON, &object).await;
    let patch = take_over(&live, US).unwrap();
    namespace.changed(&object, "kubectl", MERGE, &json!({"data": {"b": "2"}})).await;
    let (status, answer) = namespace.change(&object, US, PATCH, &patch).await;
    assert_eq!(status, 409, "{answer}");
}

#[tokio::test]
async fn an_object_of_ours_in_an_older_api_version_is_taken_over() {
    let Some(cluster) = without_controllers().await else { return };
    let namespace = Namespace::fresh(cluster).await;
    let old = "rbac.authorization.k8s.io/v1beta1";
    if cluster.request("GET", &format!("/apis/{old}"), "", "").await.0 != 200 {
        control_plane::skip("this API server has no kind in two versions");
        return;
    }
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r", "labels": {"a": "1"}},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
    });
    let mut before = role.clone();
    before["apiVersion"] = json!(old);
    before["metadata"]["labels"]["old"] = json!("1");
    // Created by an update.
    let path = format!("{}?fieldManager={US}", namespace.collection(&before));
    assert_eq!(namespace.send("POST", &path, JSON, &before).await.0, 201);
    let (live, said) = namespace.converge(&role).await;
    assert!(matches!(said.as_slice(), [Verdict::TakeOver { .. }]), "{said:?}");
    assert_eq!(live["metadata"]["labels"], json!({"a": "1"}));
    // Applied.
    namespace.apply(&before).await;
    let (live, said) = namespace.converge(&role).await;
    assert!(matches!(said.as_slice(), [Verdict::Apply { .. }]), "{said:?}");
    assert_eq!(live["metadata"]["labels"], json!({"a": "1"}));
}

fn deployment(namespace: &Namespace<'_>, name: &str, replicas: Option<u32>) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace.name},
        "spec": {"selector": {"matchLabels": {"a": "1"}}, "template": {
            "metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    if let Some(replicas) = replicas {
        object["spec"]["replicas"] = replicas.into();
    }
    object
}

/// What an autoscaler does.
async fn scale(namespace: &Namespace<'_>, object: &Value, replicas: u32) {
    let path = format!("{}/scale?fieldManager=kube-controller-manager", namespace.path(object));
    let patch = json!({"spec": {"replicas": replicas}});
    let (status, answer) = namespace.send("PATCH", &path, MERGE, &patch).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn replicas_that_are_no_longer_set_stay_as_an_autoscaler_left_them() {
    let Some(cluster) = without_controllers().await else { return };
    let namespace = Namespace::fresh(cluster).await;
    let set = deployment(&namespace, "d", Some(3));
    let unset = deployment(&namespace, "d", None);

    // The trap: an apply without them brings back the default.
    let trapped = deployment(&namespace, "trapped", Some(3));
    namespace.apply(&trapped).await;
    scale(&namespace, &trapped, 5).await;
    let reset = namespace.apply(&deployment(&namespace, "trapped", None)).await;
    if reset["spec"]["replicas"] != 1 {
        // Since 1.22 a change by /scale is known as somebody else's.
        assert_eq!(reset["spec"]["replicas"], 5);
    }
    let never_scaled = deployment(&namespace, "never-scaled", Some(3));
    namespace.apply(&never_scaled).await;
    assert_eq!(namespace.apply(&deployment(&namespace, "never-scaled", None)).await["spec"]["replicas"], 1);

    for scaled in [None, Some(5)] {
        namespace.apply(&set).await;
        if let Some(replicas) = scaled {
            scale(&namespace, &set, replicas).await;
        }
        let (live, said) = namespace.converge(&unset).await;
        assert_eq!(live["spec"]["replicas"], scaled.unwrap_or(3), "{said:?}");
        // Nobody fights over it from now on.
        scale(&namespace, &set, 7).await;
        let live = namespace.get(&unset).await;
        in_sync(&unset, &live);
        let mut other = unset.clone();
        other["metadata"]["labels"] = json!({"new": "1"});
        let (live, _) = namespace.converge(&other).await;
        assert_eq!(live["spec"]["replicas"], 7);
    }
}

#[tokio::test]
async fn replicas_that_are_set_are_put_back() {
    let Some(cluster) = without_controllers().await else { return };
    let namespace = Namespace::fresh(cluster).await;
    let set = deployment(&namespace, "d", Some(3));
    namespace.apply(&set).await;
    scale(&namespace, &set, 5).await;
    let (live, said) = namespace.converge(&set).await;
    assert_eq!(live["spec"]["replicas"], 3);
    assert!(matches!(said.as_slice(), [Verdict::Apply { .. }]), "{said:?}");
}

#[tokio::test]
async fn a_takeover_leaves_the_replicas_that_an_autoscaler_set() {
    let Some(cluster) = without_controllers().await else { return };
    let namespace = Namespace::fresh(cluster).await;
    let unset = deployment(&namespace, "d", None);
    let theirs = deployment(&namespace, "d", Some(1));
    let path = format!("{}?fieldManager=thv-operator", namespace.collection(&theirs));
    assert_eq!(namespace.send("POST", &path, JSON, &theirs).await.0, 201);
    scale(&namespace, &theirs, 5).await;
    let (live, said) = namespace.converge(&unset).await;
    assert!(matches!(said.as_slice(), [Verdict::TakeOver { .. }]), "{said:?}");
    assert_eq!(live["spec"]["replicas"], 5);
}

/// Fields that are parts of one choice, and that the server refuses together.
#[tokio::test]
async fn a_choice_can_be_changed_to_another() {
    let Some(cluster) = without_controllers().await else { return };
    let namespace = Namespace::fresh(cluster).await;
    let with = |container: Value, volume: Value| {
        let mut object = deployment(&namespace, "choices", None);
        object["spec"]["template"]["spec"]["containers"][0]
            .as_object_mut()
            .unwrap()
            .extend(container.as_object().unwrap().clone());
        object["spec"]["template"]["spec"]["volumes"] = json!([volume]);
        object
    };
    let volume = json!({"name": "v", "emptyDir": {}});
    let choices = [
        with(json!({"env": [{"name": "A", "value": "1"}]}), volume.clone()),
        with(
            json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
            volume.clone(),
        ),
        with(
            json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}}]}),
            volume.clone(),
        ),
        with(
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            volume.clone(),
        ),
        with(json!({"livenessProbe": {"httpGet": {"path": "/", "port": 80}}}), volume.clone()),
        with(json!({"livenessProbe": {"tcpSocket": {"port": 80}}}), volume.clone()),
        with(json!({"livenessProbe": {"exec": {"command": ["x"]}}}), volume.clone()),
        with(json!({"lifecycle": {"preStop": {"exec": {"command": ["x"]}}}}), volume),
        with(
            json!({}),
            json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "k", "path": "k"}]}}),
        ),
        with(json!({}), json!({"name": "v", "configMap": {"name": "s"}})),
        with(
            json!({}),
            json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"audience": "a", "path": "p"}}]}}),
        ),
        with(json!({}), json!({"name": "v", "hostPath": {"path": "/x"}})),
    ];
    for (index, one) in choices.iter().enumerate() {
        for step in [1, 5] {
            let other = &choices[(index + step) % choices.len()];
            namespace.send("DELETE", &namespace.path(one), "", &Value::Null).await;
            let made = namespace.apply(one).await;
            let (live, said) = namespace.converge(other).await;
            assert!(matches!(said.as_slice(), [Verdict::Apply { .. }]), "{said:?}");
            // The pods are replaced once.
            let generation = |live: &Value| live["metadata"]["generation"].as_i64().unwrap();
            assert_eq!(generation(&live) - generation(&made), 1);
        }
    }
}

#[tokio::test]
async fn what_controllers_write_is_no_difference() {
    let Some(assets) = Assets::find() else {
        control_plane::skip("there is no API server");
        return;
    };
    if !assets.has_controllers() {
        control_plane::skip("there is no kube-controller-manager");
        return;
    }
    let controllers =
        vec!["deployment", "replicaset", "statefulset", "disruption", "endpoint", "endpointslice"];
    let cluster = ControlPlane::start(&assets, Options { controllers }).await;
    let namespace = Namespace::fresh(&cluster).await;
    let mut watched = 0;
    for desired in largest(&namespace).await {
        let made = namespace.apply(&desired).await;
        let kind = desired["kind"].as_str().unwrap();
        if !["Deployment", "StatefulSet", "PodDisruptionBudget"].contains(&kind) {
            continue;
        }
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let live = loop {
            let live = namespace.get(&desired).await;
            if live["status"]["observedGeneration"] == made["metadata"]["generation"] {
                break live;
            }
            assert!(std::time::Instant::now() < deadline, "{kind}: {live:#}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        };
        in_sync(&desired, &live);
        assert_eq!(take_over(&live, US), None, "{kind}");
        if kind == "Deployment" {
            assert_eq!(live["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
        }
        watched += 1;
    }
    assert_eq!(watched, 3);
}

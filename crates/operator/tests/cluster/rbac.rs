//! The rights in `deploy/kustomize`: enough for everything the operator does, and no more.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::{Value, json};
use skep_api::crd::definition::definitions;
use skep_api::crd::{GROUP, Kind};
use skep_api::yaml::documents;
use skep_operator::client::hooks::{Hook, Recorder, SharedHook, Verdict};
use skep_operator::client::{Call, Layers, WriteGate};
use skep_operator::events::{Events, Severity};
use skep_operator::leader::{ClusterLeases, ElectionSettings, Elector};
use skep_operator::metrics::OperatorMetrics;
use skep_operator::migrator::migrate;
use skep_operator::permissions::{Right, Scope, granted_only, rights};
use skep_operator::settings::LEASE_NAME;
use skep_runtime::clock::{SharedClock, SystemClock};
use skep_runtime::metrics::Metrics;
use skep_runtime::rng::SystemRng;
use skep_testkit::ManualClock;
use skep_testkit::control_plane::{self, Assets, ControlPlane, Options as PlaneOptions};
use tokio_util::sync::CancellationToken;

use crate::harness::{Cluster, Operator, Options, PATIENCE, client, install_into};
use crate::manifests::files;

const SYSTEM: &str = "toolhive-system";
const MERGE: &str = "application/merge-patch+json";

/// A right that no call shows: the API server asks for it only where the admission plugin
/// OwnerReferencesPermissionEnforcement is on (OpenShift), when an owner reference blocks its owner's deletion.
fn is_for_owner_references(right: &Right) -> bool {
    right.resource.ends_with("/finalizers") && right.verb == "update"
}

/// One of each kind, and what they refer to.
const ALL_KINDS: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {client: s3cret}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPGroup
metadata: {name: group}
spec: {description: A group}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPToolConfig
metadata: {name: tools}
spec: {toolsFilter: [a]}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPOIDCConfig
metadata: {name: oidc}
spec:
  type: inline
  inline: {issuer: "https://idp.example.com", clientId: c, clientSecretRef: {name: keys, key: client}}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPExternalAuthConfig
metadata: {name: outgoing}
spec: {type: unauthenticated}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPAuthzConfig
metadata: {name: policies}
spec:
  type: cedarv1
  config: {policies: ["permit(principal, action, resource);"], entities_json: "[]"}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPTelemetryConfig
metadata: {name: telemetry}
spec: {prometheus: {enabled: true}}
---
apiVersion: toolhive.stacklok.dev/v1alpha1
kind: MCPWebhookConfig
metadata: {name: hooks}
spec:
  validating: [{name: check, url: "https://hooks.example.com/check", timeout: 1s, failurePolicy: fail}]
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPServerEntry
metadata: {name: entry}
spec: {remoteUrl: "https://mcp.example.com/mcp", transport: streamable-http, groupRef: {name: group}}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPServer
metadata: {name: server, finalizers: [mcpserver.toolhive.stacklok.dev/finalizer]}
spec:
  image: example.com/server:1
  transport: stdio
  groupRef: {name: group}
  replicas: 2
  oidcConfigRef: {name: oidc, audience: server}
  telemetryConfigRef: {name: telemetry}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPRemoteProxy
metadata: {name: remote}
spec:
  remoteUrl: https://mcp.example.com/mcp
  transport: streamable-http
  replicas: 2
  networkPolicy: {enabled: true}
  oidcConfigRef: {name: oidc, audience: remote}
  authzConfigRef: {name: policies}
  telemetryConfigRef: {name: telemetry}
"#;

/// CRDs of others, of which only the names matter here.
fn foreign(group: &str, version: &str, kind: &str) -> Value {
    let plural = format!("{}s", kind.to_lowercase());
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced",
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": version, "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
    })
}

/// The documents of a file below `deploy/kustomize`.
pub(crate) fn kustomize(path: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kustomize").join(path);
    let text = std::fs::read_to_string(path).unwrap();
    documents(&text).unwrap().into_iter().map(|document| document.value).collect()
}

async fn create(plane: &ControlPlane, object: &Value) {
    let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let base = if version.contains('/') { "apis" } else { "api" };
    let namespace = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/namespaces/{namespace}"),
        None => String::new(),
    };
    let path = format!("/{base}/{version}{namespace}/{}s", kind.to_lowercase());
    let (code, body) = plane.request("POST", &path, "application/json", &object.to_string()).await;
    assert!(code == 201 || code == 409, "{path}: {code} {body}");
}

/// Installs what `deploy/kustomize` has for the operator, and gives its token.
pub(crate) async fn install(plane: &ControlPlane, rbac: &[Value]) -> String {
    let files = ["operator/namespace.yaml", "operator/serviceaccount.yaml", "operator/leader-election.yaml"];
    for object in files.into_iter().flat_map(kustomize).chain(rbac.iter().cloned()) {
        create(plane, &object).await;
    }
    plane.service_account_token(SYSTEM, "toolhive-operator").await
}

/// The objects of a text, put into a namespace.
async fn put(cluster: &Cluster, text: &str) {
    for document in documents(text).unwrap() {
        let value = document.value;
        let items = value["items"].as_array().cloned().unwrap_or_else(|| vec![value]);
        for mut object in items.into_iter().filter(Value::is_object) {
            object["metadata"]["namespace"] = cluster.namespace.clone().into();
            let kind = object["kind"].as_str().unwrap_or_default();
            if kind.parse::<Kind>().is_ok() || ["Secret", "ConfigMap"].contains(&kind) {
                let taken = cluster.create(&object).await;
                assert!(taken.is_some() || text != ALL_KINDS, "{object}");
            }
        }
    }
}

/// The rights that calls have used.
pub(crate) fn used(calls: &[(Call, u16)]) -> BTreeSet<Right> {
    let mut used = BTreeSet::new();
    for (call, code) in calls.iter().filter(|(call, _)| !call.resource.is_empty()) {
        let right = |verb: &str| Right {
            group: call.group.clone(),
            resource: call.rule_resource(),
            verb: verb.to_owned(),
        };
        used.insert(right(call.verb));
        // An apply that made the object.
        if call.apply && *code == 201 {
            used.insert(right("create"));
        }
    }
    used
}

pub(crate) fn refused(calls: &[(Call, u16)]) -> Vec<String> {
    let refused = calls.iter().filter(|(_, code)| *code == 403);
    refused.map(|(call, _)| format!("{} {}", call.verb, call.path)).collect()
}

/// The first replacement of an object of each kind meets somebody else's.
#[derive(Debug)]
struct OneConflict(Arc<Recorder>, Mutex<BTreeSet<String>>);

impl Hook for OneConflict {
    fn before(&self, call: &Call) -> Verdict {
        let first = || self.1.lock().unwrap().insert(call.resource.clone());
        if call.verb == "update" && call.group == GROUP && first() {
            return Verdict::Answer { code: 409, reason: "Conflict".to_owned() };
        }
        Verdict::Pass
    }

    fn after(&self, call: &Call, code: u16) -> Verdict {
        self.0.after(call, code)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_rights_of_the_cluster_role_everything_works_and_each_of_them_is_used() {
    let Some(assets) = Assets::find() else {
        control_plane::skip("no kube-apiserver here");
        return;
    };
    let plane: &'static ControlPlane =
        Box::leak(Box::new(ControlPlane::start(&assets, PlaneOptions::default()).await));
    for crd in [
        foreign("monitoring.coreos.com", "v1", "ServiceMonitor"),
        foreign(GROUP, "v1beta1", "VirtualMCPServer"),
    ] {
        create(plane, &crd).await;
    }
    install_into(plane).await;
    plane.restart_controllers();
    let token = install(plane, &kustomize("base/rbac.yaml")).await;
    let options = Options { everywhere: true, token: Some(token.clone()), ..Options::default() };
    let all = Cluster { plane, namespace: plane.namespace().await };
    let operator = Operator::with(&all, options).await;

    put(&all, ALL_KINDS).await;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut paths = files("good");
    yaml_below(&examples, &mut paths);
    for path in paths {
        let cluster = Cluster { plane, namespace: plane.namespace().await };
        put(&cluster, &std::fs::read_to_string(path).unwrap()).await;
    }
    operator.settled().await;
    all.until("Deployment", "server", |_| true).await;
    all.until("Deployment", "remote", |_| true).await;
    what_is_rarely_done(&all, &operator).await;
    let mut calls = operator.recorder.calls();
    operator.stop().await;
    calls.extend(side_calls(plane, &token).await);

    assert_eq!(refused(&calls), Vec::<String>::new());
    let used = used(&calls);
    let idle: Vec<Right> = rights(Scope::Cluster)
        .into_iter()
        .filter(|right| {
            !used.contains(right) && !granted_only().contains(right) && !is_for_owner_references(right)
        })
        .collect();
    assert!(idle.is_empty(), "granted and never used: {idle:#?}");
}

/// Deletions, restarts, and objects that the operator owns and no plan has.
async fn what_is_rarely_done(all: &Cluster, operator: &Operator) {
    let remote = all.get("MCPRemoteProxy", "remote").await.unwrap();
    let stray = |api_version: &str, kind: &str, rest: Value| {
        let mut object = json!({
            "apiVersion": api_version, "kind": kind,
            "metadata": {"name": "stray", "namespace": all.namespace,
                "labels": {"toolhive": "true", "toolhive-name": "remote"},
                "ownerReferences": [{"apiVersion": remote["apiVersion"], "kind": "MCPRemoteProxy", "name": "remote",
                    "uid": remote["metadata"]["uid"], "controller": true}]},
        });
        for (field, value) in rest.as_object().unwrap() {
            object[field] = value.clone();
        }
        object
    };
    let selector = json!({"matchLabels": {"a": "b"}});
    let strays = [
        stray("v1", "ConfigMap", json!({})),
        stray("v1", "ServiceAccount", json!({})),
        stray("v1", "Service", json!({"spec": {"ports": [{"port": 80}]}})),
        stray("networking.k8s.io/v1", "NetworkPolicy", json!({"spec": {"podSelector": {}}})),
        stray(
            "policy/v1beta1",
            "PodDisruptionBudget",
            json!({"spec": {"maxUnavailable": 1, "selector": selector}}),
        ),
        stray("rbac.authorization.k8s.io/v1", "Role", json!({"rules": []})),
        stray(
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "stray"}, "subjects": []}),
        ),
        stray("monitoring.coreos.com/v1", "ServiceMonitor", json!({"spec": {}})),
    ];
    for object in &strays {
        if object["kind"] == "NetworkPolicy" {
            let path = format!("/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies", all.namespace);
            let (code, body) =
                all.plane.request("POST", &path, "application/json", &object.to_string()).await;
            assert_eq!(code, 201, "{body}");
        } else {
            create(all.plane, object).await;
        }
    }
    all.proxy_pod("mcpserver", "server", "server-1", "127.0.0.1").await;
    let annotations = json!({
        "mcpserver.toolhive.stacklok.dev/restarted-at": "2999-01-01T00:00:00Z",
        "mcpserver.toolhive.stacklok.dev/restart-strategy": "immediate",
    });
    all.merge("MCPServer", "server", json!({"metadata": {"annotations": annotations}})).await;
    // Anything that has it looked at once more.
    all.merge("MCPRemoteProxy", "remote", json!({"spec": {"trustProxyHeaders": true}})).await;
    for object in strays {
        let kind = object["kind"].as_str().unwrap();
        if kind != "ServiceMonitor" {
            all.gone(kind, "stray").await;
        }
    }
    // Nobody here ends a pod; that it is to end is all there is to see.
    all.until("Pod", "server-1", |pod| pod["metadata"]["deletionTimestamp"].is_string()).await;
    // One that is referred to: kept, after everybody was asked.
    all.delete("MCPOIDCConfig", "oidc").await;
    operator.settled().await;
    assert!(all.get("MCPOIDCConfig", "oidc").await.is_some(), "it is in use");
    for kind in [Kind::MCPServer, Kind::MCPRemoteProxy] {
        let name = if kind == Kind::MCPServer { "server" } else { "remote" };
        all.delete(kind.as_str(), name).await;
    }
    all.gone("MCPOIDCConfig", "oidc").await;
    operator.settled().await;
}

/// What the process does besides reconciling: migration, election, an event that is repeated.
async fn side_calls(plane: &ControlPlane, token: &str) -> Vec<(Call, u16)> {
    let recorder = Recorder::shared();
    let conflict = OneConflict(Arc::clone(&recorder), Mutex::default());
    let layers = Layers { hook: Some(Arc::new(conflict)), ..Layers::default() };
    for definition in definitions() {
        let versions = definition["spec"]["versions"].as_array().unwrap();
        let name = definition["metadata"]["name"].as_str().unwrap();
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}/status");
        let stored: Vec<&Value> = versions.iter().map(|version| &version["name"]).collect();
        let change = json!({"status": {"storedVersions": stored}});
        let (code, body) = plane.request("PATCH", &path, MERGE, &change.to_string()).await;
        assert_eq!(code, 200, "{body}");
        if versions.len() > 1 {
            one_of(plane, &definition).await;
        }
    }
    let stop = CancellationToken::new();
    for migration in migrate(&client(plane, Some(token), &layers).await, &stop).await.unwrap() {
        migration.result.unwrap_or_else(|error| panic!("{}: {error:?}", migration.crd));
    }

    let recorded = Layers { hook: Some(Arc::clone(&recorder) as SharedHook), ..Layers::default() };
    let manual = ManualClock::default();
    let clock: SharedClock = Arc::new(manual.clone());
    let gate = WriteGate::always_open(Arc::clone(&clock));
    let registry = Metrics::new();
    let metrics = OperatorMetrics::register(&registry);
    let events =
        Events::new(client(plane, Some(token), &recorded).await, "test", gate, Arc::clone(&clock), metrics);
    let about = ObjectReference {
        kind: Some("CustomResourceDefinition".to_owned()),
        name: Some("mcpservers.toolhive.stacklok.dev".to_owned()),
        ..ObjectReference::default()
    };
    for _ in 0..2 {
        events.publish_about(&about, Severity::Normal, "Tested", "Test", "twice").await;
        manual.advance(Duration::from_secs(120));
    }
    let told = registry.encode();
    assert!(
        told.contains(r#"skep_operator_events_total{result="published"} 2"#),
        "{:?}\n{told}",
        recorder.calls()
    );

    let clock = SystemClock::shared();
    let gate = WriteGate::closed(Arc::clone(&clock), Duration::ZERO);
    let leases = ClusterLeases::new(client(plane, Some(token), &recorded).await, SYSTEM, LEASE_NAME);
    let elector =
        Elector::new(leases, ElectionSettings::new(SYSTEM, "test"), clock, SystemRng::shared(), gate);
    let mut leading = elector.leading();
    let election = tokio::spawn(elector.run(stop.clone()));
    let led = tokio::time::timeout(PATIENCE, leading.wait_for(|leading| *leading)).await;
    led.expect("it leads in time").expect("it leads");
    stop.cancel();
    election.await.unwrap().unwrap();
    let calls = recorder.calls();
    let leases = calls.iter().filter(|(call, code)| call.resource == "leases" && *code < 300);
    let verbs: BTreeSet<&str> = leases.map(|(call, _)| call.verb).collect();
    assert_eq!(verbs, BTreeSet::from(["create", "update"]), "and a get that found none");
    calls
}

/// An object of a kind, so that there is one to write again.
async fn one_of(plane: &ControlPlane, definition: &Value) {
    let plural = definition["spec"]["names"]["plural"].as_str().unwrap();
    let (_, list) = plane.request("GET", &format!("/apis/{GROUP}/v1beta1/{plural}"), "", "").await;
    assert!(
        list["items"].as_array().is_some_and(|items| !items.is_empty()),
        "no {plural} is left to migrate"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn in_one_namespace_the_rights_of_its_role_are_enough() {
    let Some(cluster) = Cluster::new().await else { return };
    let rbac: Vec<Value> = kustomize("namespaced/watched/rbac.yaml")
        .into_iter()
        .map(|mut object| {
            object["metadata"]["namespace"] = cluster.namespace.clone().into();
            object
        })
        .collect();
    let token = install(cluster.plane, &rbac).await;
    let options = Options { token: Some(token), ..Options::default() };
    let operator = Operator::with(&cluster, options).await;
    put(&cluster, ALL_KINDS).await;
    cluster.until("Deployment", "server", |_| true).await;
    cluster.until("Deployment", "remote", |_| true).await;
    operator.settled().await;
    let calls = operator.recorder.calls();
    assert_eq!(refused(&calls), Vec::<String>::new());
    let beyond: Vec<Right> = used(&calls).difference(&rights(Scope::Namespaces)).cloned().collect();
    assert_eq!(beyond, [], "used and not granted");
    let outside: Vec<&Call> = calls
        .iter()
        .map(|(call, _)| call)
        .filter(|call| !call.resource.is_empty() && call.resource != "namespaces")
        .filter(|call| call.namespace != cluster.namespace)
        .collect();
    assert!(outside.is_empty(), "calls outside of the namespace: {outside:?}");
}

fn yaml_below(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
}

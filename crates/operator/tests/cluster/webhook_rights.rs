//! The rights of the webhook: enough for every review, and no more.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use skep_operator::client::Layers;
use skep_operator::client::hooks::Recorder;
use skep_operator::cluster::feed::Feeds;
use skep_operator::cluster::progress::Progress;
use skep_operator::cluster::{Capabilities, Cluster as Caches};
use skep_operator::permissions::{Right, webhook_rights, webhook_rules};
use skep_operator::plan;
use skep_operator::sidecars::{Policy, SidecarConfig};
use skep_operator::webhook::reload::Policies;
use skep_operator::webhook::settings::{AccessReviews, CertificateSource, InjectionPoint, WebhookSettings};
use skep_operator::webhook::{Reviewer, Server, WebhookMetrics, watched};
use skep_runtime::clock::SystemClock;
use skep_runtime::health::Readiness;
use skep_runtime::metrics::Metrics;

use crate::harness::{Cluster, PATIENCE, client, crypto};
use crate::rbac::used;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn ask(server: &Server, namespace: &str, path: &str, object: &Value) -> Value {
    let body = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u", "operation": "CREATE", "namespace": namespace, "object": object,
            "userInfo": {"username": "admin", "groups": ["system:masters"]},
        },
    });
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let answer = server.answer(request).await.into_body().collect().await.unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let answer = answer["response"].clone();
    assert!(answer["status"]["code"] != 500 && answer["status"]["code"] != 503, "{answer}");
    answer
}

fn settings(injection_point: InjectionPoint) -> WebhookSettings {
    WebhookSettings {
        address: "127.0.0.1:0".parse().unwrap(),
        certificates: CertificateSource::Files { certificate: "c".into(), key: "k".into() },
        injection_point,
        policy: Policy { default_on: true, ..Policy::default() },
        config_base: SidecarConfig::default(),
        config_file: None,
        strict_references: false,
        access_reviews: AccessReviews::Enforce,
        plan: plan::Settings::default(),
    }
}

/// A server that refers to one of everything, none of which is there.
fn refers_to_everything(name: &str) -> Value {
    let named = json!({"name": "none"});
    json!({
        "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServer", "metadata": {"name": name},
        "spec": {
            "image": "i", "transport": "streamable-http", "secrets": [{"name": "none", "key": "k"}],
            "oidcConfigRef": {"name": "none", "audience": "a"}, "authzConfigRef": named, "toolConfigRef": named,
            "externalAuthConfigRef": named, "telemetryConfigRef": named, "webhookConfigRef": named,
            "groupRef": named,
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_with_its_own_rights_can_judge_everything_and_uses_all_of_them() {
    let Some(cluster) = Cluster::new().await else { return };
    crypto();
    let (plane, namespace) = (cluster.plane, cluster.namespace.clone());
    let name = format!("webhook-{namespace}");
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name}, "rules": webhook_rules()});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "u9"}]});
    for (plural, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        let path = format!("{RBAC}/{plural}");
        let (code, body) = plane.request("POST", &path, "application/json", &object.to_string()).await;
        assert_eq!(code, 201, "{body}");
    }
    let recorder = Recorder::shared();
    let layers = Layers { hook: Some(Arc::clone(&recorder) as Arc<_>), ..Layers::default() };
    let client = client(plane, Some(plane.token_for("u9")), &layers).await;

    let started = tokio::time::Instant::now();
    let capabilities = loop {
        match Capabilities::discover(&client).await {
            Ok(found) if found.missing().is_empty() => break found,
            other => assert!(started.elapsed() < PATIENCE, "{other:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    let caches = Arc::new(Caches::new(client.clone(), capabilities, plan::Settings::default(), Vec::new()));
    let readiness = Readiness::new();
    let progress = Arc::new(Progress::new(readiness.clone(), Box::new(|_| {})));
    let sink = Arc::new(|_, _: &_| {});
    let _feeds = Feeds::start_some(&client, &caches, &(sink as Arc<_>), Arc::clone(&progress), &watched());
    tokio::time::timeout(PATIENCE, progress.begun()).await.expect("all is listed");

    let metrics = WebhookMetrics::register(&Metrics::new());
    let server = |point: InjectionPoint| {
        let settings = settings(point);
        let policies = Policies::new(settings.policy.clone());
        let reviewer =
            Reviewer::new(client.clone(), &settings, policies, metrics.clone(), SystemClock::shared());
        reviewer.know(Arc::clone(&caches));
        Server::new(Arc::new(reviewer))
    };
    let servers = server(InjectionPoint::Server);
    let object = refers_to_everything("one");
    let mutate = "/mutate-toolhive-stacklok-dev-v1beta1-mcpserver";
    assert_eq!(ask(&servers, &namespace, mutate, &object).await["allowed"], true);
    let validate = "/validate-toolhive-stacklok-dev-v1beta1-mcpserver";
    ask(&servers, &namespace, validate, &object).await;

    // Neighbours are asked for when they are in the way.
    let proxy = |name: &str| {
        json!({"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPRemoteProxy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"remoteUrl": "https://mcp.example.com", "authMode": "anonymous"}})
    };
    let anonymous = |name: &str| {
        json!({"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServer",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"image": "i", "transport": "stdio", "authMode": "anonymous"}})
    };
    let (a, b) = (anonymous("a"), proxy("b"));
    for object in [&a, &b] {
        cluster.create(object).await.unwrap();
        let key = object["metadata"]["name"].as_str().unwrap();
        let kind =
            if key == "a" { skep_api::crd::Kind::MCPServer } else { skep_api::crd::Kind::MCPRemoteProxy };
        let store = caches.store(skep_operator::cluster::Resource::Ours(kind));
        let started = tokio::time::Instant::now();
        while store.get(&namespace, key).is_none() {
            assert!(started.elapsed() < PATIENCE, "the watch does not tell of {key}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    let path = "/validate-toolhive-stacklok-dev-v1beta1-mcpremoteproxy";
    assert_eq!(ask(&servers, &namespace, path, &proxy("a")).await["allowed"], false);
    assert_eq!(ask(&servers, &namespace, validate, &anonymous("b")).await["allowed"], false);
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "ownerReferences": [
            {"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServer", "name": "none", "uid": "x"}]},
        "spec": {"containers": [{"name": "mcp", "image": "i"}]}});
    ask(&server(InjectionPoint::Pod), &namespace, "/mutate--v1-pod", &pod).await;

    // Refused calls were no use of a right.
    let calls: Vec<_> = recorder.calls().into_iter().filter(|(_, code)| *code != 403).collect();
    let used: BTreeSet<Right> = used(&calls);
    let unused: Vec<_> = webhook_rights().difference(&used).cloned().collect();
    assert!(unused.is_empty(), "{unused:?}");
    let more: Vec<_> = used.difference(&webhook_rights()).cloned().collect();
    assert!(more.is_empty(), "{more:?}");
    for plural in ["clusterroles", "clusterrolebindings"] {
        plane.request("DELETE", &format!("{RBAC}/{plural}/{name}"), "", "").await;
    }
}

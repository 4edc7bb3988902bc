//! A webhook whose caches a test fills, and an API server that answers what the test has put there.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use kube::Client;
use kube::client::Body;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use skep_api::crd::Kind;
use skep_operator::cluster::store::Feed;
use skep_operator::cluster::{Capabilities, Cluster, Resource};
use skep_operator::plan;
use skep_operator::sidecars::{Policy, SidecarConfig};
use skep_operator::webhook::reload::Policies;
use skep_operator::webhook::settings::{AccessReviews, CertificateSource, InjectionPoint, WebhookSettings};
use skep_operator::webhook::{Reviewer, Server, WebhookMetrics};
use skep_runtime::metrics::Metrics;
use skep_testkit::ManualClock;

pub(super) const NAMESPACE: &str = "ns";

/// What the API server answers, and what it was asked.
#[derive(Default)]
pub(super) struct Api {
    /// Bodies by path. What is not there is 404.
    pub(super) objects: Mutex<BTreeMap<String, Value>>,
    /// Paths that fail with this code.
    pub(super) failing: Mutex<BTreeMap<String, u16>>,
    /// Paths that are never answered.
    pub(super) silent: Mutex<Vec<String>>,
    /// What users may not do: `get secrets NAME` or `create pods`.
    pub(super) refused: Mutex<Vec<String>>,
    /// Every question: a path, or what a SubjectAccessReview was about.
    pub(super) asked: Mutex<Vec<String>>,
    /// The last SubjectAccessReview.
    pub(super) review: Mutex<Value>,
}

impl Api {
    pub(super) fn put(&self, path: &str, body: Value) {
        self.objects.lock().unwrap().insert(path.to_owned(), body);
    }

    /// What was asked since the last time.
    pub(super) fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn answer(&self, path: &str, body: &[u8]) -> (u16, Value) {
        if path.ends_with("/subjectaccessreviews") {
            let mut review: Value = serde_json::from_slice(body).unwrap();
            let about = &review["spec"]["resourceAttributes"];
            let text = |field: &str| about[field].as_str().unwrap_or_default();
            let act = format!("{} {} {}", text("verb"), text("resource"), text("name")).trim_end().to_owned();
            let allowed = !self.refused.lock().unwrap().contains(&act);
            self.asked.lock().unwrap().push(act);
            if let Some(code) = self.failing.lock().unwrap().get("access") {
                return (*code, failure(*code));
            }
            self.review.lock().unwrap().clone_from(&review);
            review["status"] = json!({"allowed": allowed});
            return (201, review);
        }
        self.asked.lock().unwrap().push(path.to_owned());
        if let Some(code) = self.failing.lock().unwrap().get(path) {
            return (*code, failure(*code));
        }
        match self.objects.lock().unwrap().get(path) {
            Some(body) => (200, body.clone()),
            None => (404, failure(404)),
        }
    }
}

fn failure(code: u16) -> Value {
    let reason = if code == 404 { "NotFound" } else { "InternalError" };
    json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "out of order"})
}

pub(super) struct Setup {
    pub(super) api: Arc<Api>,
    pub(super) clock: ManualClock,
    pub(super) cluster: Arc<Cluster>,
    pub(super) server: Arc<Server>,
    pub(super) reviewer: Arc<Reviewer>,
    pub(super) policies: Policies,
    pub(super) metrics: WebhookMetrics,
    pub(super) registry: Metrics,
    versions: Mutex<u64>,
}

pub(super) fn settings() -> WebhookSettings {
    WebhookSettings {
        address: "127.0.0.1:0".parse().unwrap(),
        certificates: CertificateSource::Files { certificate: "c".into(), key: "k".into() },
        injection_point: InjectionPoint::Server,
        policy: Policy { default_on: false, ..Policy::default() },
        config_base: SidecarConfig::default(),
        config_file: None,
        strict_references: false,
        access_reviews: AccessReviews::Enforce,
        plan: plan::Settings::default(),
    }
}

impl Setup {
    /// A namespace without anything in it.
    pub(super) fn new() -> Self {
        Self::with(&settings())
    }

    pub(super) fn with(settings: &WebhookSettings) -> Self {
        let setup = Self::ignorant(settings);
        setup.reviewer.know(Arc::clone(&setup.cluster));
        setup.namespace(json!({}), json!({}));
        setup
    }

    /// It has not read anything yet.
    pub(super) fn ignorant(settings: &WebhookSettings) -> Self {
        let api: Arc<Api> = Arc::default();
        let own = Arc::clone(&api);
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = Arc::clone(&own);
            async move {
                let path = request.uri().path().to_owned();
                if api.silent.lock().unwrap().contains(&path) {
                    api.asked.lock().unwrap().push(path);
                    return std::future::pending().await;
                }
                let body = request.into_body().collect().await.unwrap().to_bytes();
                // Others get a turn, as with every real call.
                tokio::task::yield_now().await;
                let (code, body) = api.answer(&path, &body);
                let response =
                    Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        let client = Client::new(service, "default");
        let kinds = Kind::ALL.into_iter().map(|kind| (kind, "v1beta1".to_owned())).collect();
        let capabilities = Capabilities { kinds, ..Capabilities::default() };
        let cluster = Arc::new(Cluster::new(client.clone(), capabilities, settings.plan.clone(), Vec::new()));
        let registry = Metrics::new();
        let metrics = WebhookMetrics::register(&registry);
        let policies = Policies::new(settings.policy.clone());
        let clock = ManualClock::default();
        let reviewer = Arc::new(Reviewer::new(
            client,
            settings,
            policies.clone(),
            metrics.clone(),
            Arc::new(clock.clone()),
        ));
        let server = Arc::new(Server::new(Arc::clone(&reviewer)));
        Self { api, clock, cluster, server, reviewer, policies, metrics, registry, versions: Mutex::new(0) }
    }

    /// The watch tells of an object.
    pub(super) fn watched(&self, resource: Resource, mut object: Value) {
        let version = {
            let mut versions = self.versions.lock().unwrap();
            *versions += 1;
            *versions
        };
        object["metadata"]["resourceVersion"] = version.to_string().into();
        if !resource.is_cluster_wide() {
            object["metadata"]["namespace"] = NAMESPACE.into();
        }
        let mut feed = Feed::new(self.cluster.store(resource), None);
        feed.take(Event::Apply(object));
    }

    pub(super) fn namespace(&self, labels: Value, annotations: Value) {
        let metadata = json!({"name": NAMESPACE, "labels": labels, "annotations": annotations});
        self.watched(Resource::Namespace, json!({"metadata": metadata}));
    }

    /// A ConfigMap, told by the watch, and its content on the API server.
    pub(super) fn config_map(&self, name: &str, data: &Value) {
        self.watched(Resource::ConfigMapMetadata, json!({"metadata": {"name": name}}));
        self.unwatched_content("configmaps", name, data);
    }

    /// A Secret, told by the watch, and its keys on the API server.
    pub(super) fn secret(&self, name: &str, data: &Value) {
        self.watched(Resource::SecretMetadata, json!({"metadata": {"name": name}}));
        self.unwatched_content("secrets", name, data);
    }

    /// On the API server only.
    pub(super) fn unwatched_content(&self, plural: &str, name: &str, data: &Value) {
        let version = self.versions.lock().unwrap().to_string();
        let path = format!("/api/v1/namespaces/{NAMESPACE}/{plural}/{name}");
        self.api.put(&path, json!({"metadata": {"name": name, "resourceVersion": version}, "data": data}));
    }

    /// Sends a body to a path.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> (u16, Value) {
        let response = self.server.answer(request).await;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {body:?}")))
    }

    /// Sends a review of ours. Gives its `response`.
    pub(super) async fn review(&self, path: &str, request: Value) -> Value {
        let mut whole = json!({
            "uid": "u-1", "operation": "CREATE", "namespace": NAMESPACE,
            "userInfo": {"username": "alice", "groups": ["dev"]},
        });
        whole.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
        let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": whole});
        let (code, body) = self.send(post(path, &body)).await;
        assert_eq!(code, 200, "{body}");
        assert_eq!(body["response"]["uid"], "u-1");
        body["response"].clone()
    }

    pub(super) async fn create(&self, object: &Value) -> Value {
        self.review(&validate_path(object), json!({"object": object})).await
    }

    pub(super) async fn update(&self, old: &Value, object: &Value) -> Value {
        let request = json!({"operation": "UPDATE", "object": object, "oldObject": old});
        self.review(&validate_path(object), request).await
    }

    /// What a mutation makes of an object, and the answer.
    pub(super) async fn mutate(&self, path: &str, object: &Value) -> (Value, Value) {
        let answer = self.review(path, json!({"object": object})).await;
        (patched(object, &answer), answer)
    }
}

pub(super) fn patched(object: &Value, answer: &Value) -> Value {
    let mut result = object.clone();
    if let Some(patch) = answer["patch"].as_str() {
        assert_eq!(answer["patchType"], "JSONPatch");
        let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
        json_patch::patch(&mut result, &patch).unwrap();
    }
    result
}

pub(super) fn post(path: &str, body: &Value) -> Request<Full<Bytes>> {
    Request::post(path)
        .header("content-type", "application/json")
        .body(Full::new(body.to_string().into_bytes().into()))
        .unwrap()
}

pub(super) fn validate_path(object: &Value) -> String {
    let version = object["apiVersion"].as_str().unwrap().rsplit('/').next().unwrap();
    format!("/validate-toolhive-stacklok-dev-{version}-{}", object["kind"].as_str().unwrap().to_lowercase())
}

pub(super) const MUTATE: &str = "/mutate-toolhive-stacklok-dev-v1beta1-mcpserver";

pub(super) fn object(kind: Kind, name: &str, spec: Value) -> Value {
    let version = kind.stored().as_str();
    json!({
        "apiVersion": format!("toolhive.stacklok.dev/{version}"), "kind": kind.as_str(),
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec,
    })
}

/// A server that nothing is wrong with.
pub(super) fn server(name: &str, more: &Value) -> Value {
    let mut spec =
        json!({"image": "i", "transport": "streamable-http", "mcpPort": 8080, "authMode": "anonymous"});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object(Kind::MCPServer, name, spec)
}

/// Warnings of an answer.
pub(super) fn warnings(answer: &Value) -> Vec<String> {
    let list = answer["warnings"].as_array().cloned().unwrap_or_default();
    list.iter().map(|line| line.as_str().unwrap().to_owned()).collect()
}

pub(super) fn message(answer: &Value) -> String {
    answer["status"]["message"].as_str().unwrap_or_default().to_owned()
}

pub(super) fn second() -> Duration {
    Duration::from_secs(1)
}

//! An operator in this process that looks at one namespace of a real API server.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};
use skep_api::crd::Kind;
use skep_api::crd::definition::definitions;
use skep_operator::client::hooks::{Recorder, SharedHook};
use skep_operator::client::{ApiCalls, Call, Layers, Target, WriteGate, connect};
use skep_operator::events::Events;
use skep_operator::metrics::OperatorMetrics;
use skep_operator::observe::ReporterSettings;
use skep_operator::plan::Settings;
use skep_operator::queue::Key;
use skep_operator::settings::{OperatorSettings, RegistrationSettings};
use skep_operator::{Observer, Parts};
use skep_runtime::clock::SystemClock;
use skep_runtime::health::Readiness;
use skep_runtime::metrics::Metrics;
use skep_runtime::rng::SystemRng;
use skep_testkit::control_plane::{self, ControlPlane};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What stands for the hash of a pod template.
const TEMPLATE_HASH: &str = "5d4f8c7b9";

/// One namespace of the shared API server. Cloning is not needed: tests borrow it.
pub(crate) struct Cluster {
    pub(crate) plane: &'static ControlPlane,
    pub(crate) namespace: String,
}

impl Cluster {
    /// A fresh namespace, with the CRDs installed. `None` when no API server can be had here.
    pub(crate) async fn new() -> Option<Self> {
        let plane = control_plane::shared().await?;
        install_crds(plane).await;
        Some(Self { plane, namespace: plane.namespace().await })
    }

    /// Creates or replaces an object in the namespace, as kubectl would.
    pub(crate) async fn apply(&self, object: Value) -> Value {
        let path = self.path_of(&object);
        let (code, body) = self
            .plane
            .request(
                "PATCH",
                &format!("{path}?fieldManager=kubectl&force=true"),
                "application/apply-patch+yaml",
                &object.to_string(),
            )
            .await;
        assert!(code < 300, "{path}: {code} {body}");
        body
    }

    /// Creates an object. `None` when the API server says that it is wrong.
    pub(crate) async fn create(&self, object: &Value) -> Option<Value> {
        let path = self.path_of(object);
        let (path, _) = path.rsplit_once('/').unwrap();
        let (code, body) = self.plane.request("POST", path, "application/json", &object.to_string()).await;
        assert!(code < 300 || [400, 422].contains(&code), "{path}: {code} {body}");
        (code < 300).then_some(body)
    }

    /// Merges a change into an object. `kind` may be any that the operator makes or reads.
    pub(crate) async fn merge(&self, kind: &str, name: &str, change: Value) -> Value {
        let (code, body) = self.try_merge(kind, name, &change).await;
        assert!(code < 300, "{kind} {name}: {code} {body}");
        body
    }

    /// The same, and what the API server said.
    pub(crate) async fn try_merge(&self, kind: &str, name: &str, change: &Value) -> (u16, Value) {
        let path = self.path(kind, name);
        let path = if change.get("status").is_some() { format!("{path}/status") } else { path };
        self.plane
            .request(
                "PATCH",
                &format!("{path}?fieldManager=kubectl-edit"),
                "application/merge-patch+json",
                &change.to_string(),
            )
            .await
    }

    /// An object; `None` when there is none.
    pub(crate) async fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let (code, body) = self.plane.request("GET", &self.path(kind, name), "", "").await;
        (code == 200).then_some(body)
    }

    /// Deletes an object.
    pub(crate) async fn delete(&self, kind: &str, name: &str) {
        let (code, body) = self.plane.request("DELETE", &self.path(kind, name), "", "").await;
        assert!(code < 300 || code == 404, "{kind} {name}: {code} {body}");
    }

    /// All objects of a kind.
    pub(crate) async fn list(&self, kind: &str) -> Vec<Value> {
        let path = self.path(kind, "");
        let (code, body) = self.plane.request("GET", path.trim_end_matches('/'), "", "").await;
        assert_eq!(code, 200, "{kind}: {body}");
        body["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until an object is as it should be, and gives it.
    pub(crate) async fn until(&self, kind: &str, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let started = tokio::time::Instant::now();
        let mut last = None;
        while started.elapsed() < PATIENCE {
            last = self.get(kind, name).await;
            if let Some(object) = last.as_ref().filter(|object| wanted(object)) {
                return object.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{kind} {name} did not become what it should: {}", serde_json::to_string(&last).unwrap());
    }

    /// Waits until a condition has a status and a reason, and gives the object.
    pub(crate) async fn condition(
        &self,
        kind: &str,
        name: &str,
        condition: &str,
        status: &str,
        reason: &str,
    ) -> Value {
        self.until(kind, name, |object| {
            found(object, condition).is_some_and(|found| {
                found["status"] == status && (reason.is_empty() || found["reason"] == reason)
            })
        })
        .await
    }

    /// Waits until an object is gone.
    pub(crate) async fn gone(&self, kind: &str, name: &str) {
        let started = tokio::time::Instant::now();
        while self.get(kind, name).await.is_some() {
            assert!(started.elapsed() < PATIENCE, "{kind} {name} is still there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes a Deployment look as if its pods were ready; nothing else does that here.
    pub(crate) async fn ready_deployment(&self, name: &str) {
        let deployment = self.until("Deployment", name, |_| true).await;
        let replicas = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
        self.merge(
            "Deployment",
            name,
            json!({"status": {
                "observedGeneration": deployment["metadata"]["generation"],
                "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas,
                "availableReplicas": replicas,
                "conditions": [{"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z", "lastUpdateTime": "2026-01-01T00:00:00Z"}],
            }}),
        )
        .await;
    }

    /// A running and ready pod of a workload's proxy, as a ReplicaSet would make it.
    pub(crate) async fn proxy_pod(&self, app: &str, name: &str, pod: &str, ip: &str) {
        let labels =
            json!({"app": app, "app.kubernetes.io/instance": name, "pod-template-hash": TEMPLATE_HASH});
        let replica_set = self
            .apply(json!({
                "apiVersion": "apps/v1", "kind": "ReplicaSet",
                "metadata": {"name": format!("{name}-{TEMPLATE_HASH}"), "namespace": self.namespace},
                "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {
                    "metadata": {"labels": labels}, "spec": {"containers": [{"name": "toolhive", "image": "skep"}]},
                }},
            }))
            .await;
        self.apply(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod, "namespace": self.namespace, "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": replica_set["metadata"]["name"],
                "uid": replica_set["metadata"]["uid"], "controller": true,
            }], "labels": {
                "app": app, "pod-template-hash": TEMPLATE_HASH, "app.kubernetes.io/name": app, "app.kubernetes.io/instance": name,
                "toolhive": "true", "toolhive-name": name,
            }},
            "spec": {"containers": [{"name": "toolhive", "image": "skep"}], "nodeName": "nowhere"},
        }))
        .await;
        self.merge(
            "Pod",
            pod,
            json!({"status": {"phase": "Running", "podIP": ip,
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "toolhive", "ready": true, "restartCount": 0, "image": "skep", "imageID": "",
                    "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
            }}),
        )
        .await;
    }

    pub(crate) fn path_of(&self, object: &Value) -> String {
        let api_version = object["apiVersion"].as_str().unwrap();
        let base = if api_version.contains('/') { "apis" } else { "api" };
        let plural = plural(object["kind"].as_str().unwrap());
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&self.namespace);
        format!(
            "/{base}/{api_version}/namespaces/{namespace}/{plural}/{}",
            object["metadata"]["name"].as_str().unwrap_or_default()
        )
    }

    fn path(&self, kind: &str, name: &str) -> String {
        let api = match kind {
            "Deployment" | "StatefulSet" | "ReplicaSet" => "apis/apps/v1",
            "Role" | "RoleBinding" => "apis/rbac.authorization.k8s.io/v1",
            "NetworkPolicy" => "apis/networking.k8s.io/v1",
            "PodDisruptionBudget" => "apis/policy/v1beta1",
            "Lease" => "apis/coordination.k8s.io/v1",
            "Event" => "apis/events.k8s.io/v1",
            "MCPWebhookConfig" => "apis/toolhive.stacklok.dev/v1alpha1",
            kind if kind.parse::<Kind>().is_ok() => "apis/toolhive.stacklok.dev/v1beta1",
            _ => "api/v1",
        };
        format!("/{api}/namespaces/{}/{}/{name}", self.namespace, plural(kind))
    }
}

/// The plural in URLs.
fn plural(kind: &str) -> String {
    if let Ok(kind) = kind.parse::<Kind>() {
        return kind.plural().to_owned();
    }
    match kind {
        "NetworkPolicy" => "networkpolicies".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    }
}

/// A condition of an object.
pub(crate) fn found<'a>(object: &'a Value, condition: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == condition)
}

/// Installs the CRDs once a process, by create: this API server can't apply rules.
pub(crate) async fn install_crds(plane: &'static ControlPlane) {
    static INSTALLED: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    INSTALLED
        .get_or_init(|| async {
            install_into(plane).await;
            plane.restart_controllers();
        })
        .await;
}

/// Installs the CRDs of all kinds and waits until they are served.
pub(crate) async fn install_into(plane: &ControlPlane) {
    let at = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    for definition in definitions() {
        let (code, body) = plane.request("POST", at, "application/json", &definition.to_string()).await;
        assert!(code < 300 || code == 409, "{code} {body}");
    }
    for definition in definitions() {
        let name = definition["metadata"]["name"].as_str().unwrap();
        let started = tokio::time::Instant::now();
        loop {
            let (_, body) = plane.request("GET", &format!("{at}/{name}"), "", "").await;
            let conditions = body["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True") {
                let bad = conditions.iter().find(|one| one["type"] == "NonStructuralSchema");
                assert!(bad.is_none(), "{name}: {bad:?}");
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{name} is not established: {body}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// How an operator is started.
#[derive(Clone, Default)]
pub(crate) struct Options {
    pub(crate) settings: Option<Settings>,
    /// Namespaces besides the cluster's own.
    pub(crate) more_namespaces: Vec<String>,
    /// Look at every namespace; only on an API server of the test's own.
    pub(crate) everywhere: bool,
    /// In place of the recorder.
    pub(crate) hook: Option<SharedHook>,
    /// Ask proxies, on 127.0.0.0/8 too.
    pub(crate) ask_proxies: bool,
    /// How proxies are asked.
    pub(crate) reporter: Option<ReporterSettings>,
    /// In place of the administrator's.
    pub(crate) token: Option<String>,
    /// How clients are registered; none: they are not.
    pub(crate) registration: Option<RegistrationSettings>,
    /// Told of every reconcile, besides the count.
    pub(crate) observer: Option<Observer>,
}

/// An operator that runs until it is dropped.
pub(crate) struct Operator {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) registry: Metrics,
    reconciles: Arc<Mutex<BTreeMap<Key, usize>>>,
    stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
    readiness: Readiness,
    pub(crate) leading: watch::Sender<bool>,
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

impl Operator {
    /// Starts one for a namespace and waits until its caches are filled.
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        Self::with(cluster, Options::default()).await
    }

    /// The same, with options.
    pub(crate) async fn with(cluster: &Cluster, options: Options) -> Self {
        let mut namespaces = vec![cluster.namespace.clone()];
        namespaces.extend(options.more_namespaces.clone());
        if options.everywhere {
            namespaces.clear();
        }
        Self::on(cluster.plane, namespaces, options).await
    }

    /// Starts one on any control plane.
    pub(crate) async fn on(plane: &ControlPlane, namespaces: Vec<String>, options: Options) -> Self {
        crypto();
        let recorder = Recorder::shared();
        let registry = Metrics::new();
        let clock = SystemClock::shared();
        let hook: SharedHook = match options.hook.clone() {
            Some(hook) => Arc::new(Both(Arc::clone(&recorder), hook)),
            None => Arc::clone(&recorder) as SharedHook,
        };
        let gate = WriteGate::always_open(Arc::clone(&clock));
        let layers =
            Layers { gate: Some(gate.clone()), calls: Some(ApiCalls::register(&registry)), hook: Some(hook) };
        let client = client(plane, options.token.as_deref(), &layers).await;
        let metrics = OperatorMetrics::register(&registry);
        let readiness = Readiness::new();
        // As the process does it.
        readiness.not_ready("discovery", "the API server has not been reached yet");
        let (leading, lead) = watch::channel(true);
        let reconciles: Arc<Mutex<BTreeMap<Key, usize>>> = Arc::default();
        let counted = Arc::clone(&reconciles);
        let told = options.observer.clone();
        let parts = Parts {
            events: Events::new(client.clone(), "test", gate, Arc::clone(&clock), metrics.clone()),
            client,
            settings: OperatorSettings {
                plan: options.settings.clone().unwrap_or_default(),
                namespaces,
                ask_proxies: options.ask_proxies,
                migrate: false,
                registration: options.registration.clone(),
                ..OperatorSettings::default()
            },
            metrics,
            readiness: readiness.clone(),
            clock,
            rng: SystemRng::shared(),
            reporter: options.reporter.clone().unwrap_or_default(),
            leading: lead,
            observer: Some(Observer(Arc::new(move |key: &Key| {
                *counted.lock().unwrap().entry(key.clone()).or_default() += 1;
                if let Some(Observer(told)) = &told {
                    told(key);
                }
            }))),
        };
        let stop = CancellationToken::new();
        let running = stop.clone();
        let task = tokio::spawn(async move {
            skep_operator::run(parts, running).await.unwrap();
        });
        let operator = Self { recorder, registry, reconciles, stop, task, readiness, leading };
        operator.ready().await;
        operator
    }

    /// Waits until its caches are filled.
    pub(crate) async fn ready(&self) {
        let started = tokio::time::Instant::now();
        while !self.report().ready {
            assert!(started.elapsed() < PATIENCE, "{:?}", self.report());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What `/readyz` would say.
    pub(crate) fn report(&self) -> skep_runtime::health::ReadinessReport {
        self.readiness.report(&skep_runtime::drain::Drain::new().watch())
    }

    /// Ends it as SIGTERM would.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap();
    }

    /// How often each object was reconciled since the last time this was asked.
    pub(crate) fn reconciles(&self) -> BTreeMap<Key, usize> {
        std::mem::take(&mut self.reconciles.lock().unwrap())
    }

    /// Waits until nothing was reconciled or written for a while.
    pub(crate) async fn settled(&self) {
        let started = tokio::time::Instant::now();
        let state =
            || (self.reconciles.lock().unwrap().values().sum::<usize>(), self.recorder.writes().len());
        let (mut last, mut since) = (state(), tokio::time::Instant::now());
        while since.elapsed() < Duration::from_millis(1500) {
            assert!(
                started.elapsed() < PATIENCE,
                "it does not come to rest: {:?}",
                self.recorder.writes().last()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
            if state() != last {
                (last, since) = (state(), tokio::time::Instant::now());
            }
        }
    }

    /// Writes so far.
    pub(crate) fn writes(&self) -> Vec<Call> {
        self.recorder.writes().into_iter().map(|(call, _)| call).collect()
    }
}

/// What a process does first: cryptography and logs.
pub(crate) fn crypto() {
    static CRYPTO: Once = Once::new();
    CRYPTO.call_once(|| {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    });
}

/// A kube client for a control plane.
pub(crate) async fn client(plane: &ControlPlane, token: Option<&str>, layers: &Layers) -> Client {
    let kubeconfig = match token {
        Some(token) => plane.kubeconfig_with(token),
        None => plane.kubeconfig(),
    };
    let target = Target { kubeconfig: Some(kubeconfig), context: None };
    connect(target.config().await.unwrap(), layers).unwrap()
}

/// Two hooks in a row; the second decides.
#[derive(Debug)]
struct Both(Arc<Recorder>, SharedHook);

impl skep_operator::client::hooks::Hook for Both {
    fn before(&self, call: &Call) -> skep_operator::client::hooks::Verdict {
        self.1.before(call)
    }

    fn after(&self, call: &Call, code: u16) -> skep_operator::client::hooks::Verdict {
        let _ = self.0.after(call, code);
        self.1.after(call, code)
    }
}

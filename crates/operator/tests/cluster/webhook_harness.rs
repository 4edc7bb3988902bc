//! A webhook in this process, and an API server that asks it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use skep_api::crd::{GROUP, Kind, Version};
use skep_operator::client::Layers;
use skep_operator::plan;
use skep_operator::sidecars::Policy;
use skep_operator::sidecars::names::{INJECTION_ANNOTATION, SWITCH_ANNOTATION};
use skep_operator::webhook::settings::{AccessReviews, CertificateSource, InjectionPoint, WebhookSettings};
use skep_operator::webhook::{Parts, WebhookMetrics};
use skep_runtime::clock::SystemClock;
use skep_runtime::drain::{Drain, Phase};
use skep_runtime::health::Readiness;
use skep_runtime::http::bind;
use skep_runtime::metrics::Metrics;
use skep_runtime::rng::SystemRng;
use skep_runtime::tls::ServingCertificate;
use skep_testkit::control_plane::ControlPlane;
use skep_testkit::tls::TestCa;
use tokio::task::JoinHandle;

use crate::harness::{Cluster, PATIENCE, client, crypto};

/// The CA that all of them are signed by, so that one caBundle is right for each.
pub(crate) struct Certificates {
    pub(crate) ca: TestCa,
    pub(crate) folder: tempfile::TempDir,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let made = Self { ca: TestCa::new(), folder: tempfile::tempdir().unwrap() };
        made.renew();
        made
    }

    /// Puts another certificate in the place of the one before, as a rename does.
    pub(crate) fn renew(&self) {
        let certificate = self.ca.server(&["127.0.0.1", "localhost"]);
        let swap = |name: &str, text: &str| {
            let fresh = self.folder.path().join(format!("{name}.new"));
            std::fs::write(&fresh, text).unwrap();
            std::fs::rename(&fresh, self.folder.path().join(name)).unwrap();
        };
        swap("tls.key", &certificate.key_pem);
        swap("tls.crt", &certificate.certificate_pem);
    }

    fn source(&self) -> CertificateSource {
        CertificateSource::Files {
            certificate: self.folder.path().join("tls.crt"),
            key: self.folder.path().join("tls.key"),
        }
    }
}

/// How a webhook is started.
pub(crate) struct Choices {
    pub(crate) default_on: bool,
    pub(crate) injection_point: InjectionPoint,
    pub(crate) policy: Policy,
    pub(crate) strict_references: bool,
    /// Version in which the probes are written.
    pub(crate) version: Version,
    /// In place of the administrator's.
    pub(crate) token: Option<String>,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            default_on: true,
            injection_point: InjectionPoint::Server,
            policy: Policy::default(),
            strict_references: false,
            version: Version::V1Beta1,
            token: None,
        }
    }
}

/// A running webhook, asked by the API server about one namespace. It is withdrawn by [`Webhook::stop`].
pub(crate) struct Webhook {
    pub(crate) certificates: Certificates,
    pub(crate) port: u16,
    point: InjectionPoint,
    version: Version,
    label: String,
    config: PathBuf,
    drain: Drain,
    task: Option<JoinHandle<()>>,
}

/// Label of the namespaces that a webhook is asked about.
const LABEL: &str = "skep.dev/asks";

impl Webhook {
    pub(crate) async fn start(cluster: &Cluster, choices: Choices) -> Self {
        crypto();
        let certificates = Certificates::new();
        let config = certificates.folder.path().join("sidecars.yaml");
        std::fs::write(&config, "{}\n").unwrap();
        let settings = WebhookSettings {
            address: "127.0.0.1:0".parse().unwrap(),
            certificates: certificates.source(),
            injection_point: choices.injection_point,
            config_base: choices.policy.config.clone(),
            policy: Policy { default_on: choices.default_on, ..choices.policy },
            config_file: Some(config.clone()),
            strict_references: choices.strict_references,
            access_reviews: AccessReviews::Enforce,
            plan: plan::Settings::default(),
        };
        let layers = Layers::default();
        let client = client(cluster.plane, choices.token.as_deref(), &layers).await;
        let listener = bind(settings.address).unwrap();
        let port = listener.local_addr().unwrap().port();
        let readiness = Readiness::new();
        let drain = Drain::new();
        let parts = Parts {
            client,
            settings,
            metrics: WebhookMetrics::register(&Metrics::new()),
            readiness: readiness.clone(),
            clock: SystemClock::shared(),
            rng: SystemRng::shared(),
            serving: ServingCertificate::empty(),
            identity: "webhook".to_owned(),
        };
        let running = drain.watch();
        let task =
            tokio::spawn(async move { skep_operator::webhook::run(parts, listener, running).await.unwrap() });
        let started = tokio::time::Instant::now();
        while !readiness.report(&drain.watch()).ready {
            assert!(started.elapsed() < PATIENCE, "{:?}", readiness.report(&drain.watch()));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let webhook = Self {
            certificates,
            port,
            point: choices.injection_point,
            version: choices.version,
            label: cluster.namespace.clone(),
            config,
            drain,
            task: Some(task),
        };
        webhook.namespace(cluster, json!({"labels": {LABEL: webhook.label}})).await;
        webhook.install(cluster.plane, choices.injection_point).await;
        webhook.asked(cluster).await;
        webhook
    }

    /// Tells the API server to ask.
    async fn install(&self, plane: &ControlPlane, point: InjectionPoint) {
        let client_config = |path: &str| {
            json!({
                "url": format!("https://127.0.0.1:{}{path}", self.port),
                "caBundle": STANDARD.encode(self.certificates.ca.pem()),
            })
        };
        let entry = |name: String, path: &str, rule: Value| {
            json!({
                "name": name, "clientConfig": client_config(path), "rules": [rule], "failurePolicy": "Fail",
                "sideEffects": "None", "timeoutSeconds": 10, "admissionReviewVersions": ["v1"],
                "matchPolicy": "Equivalent", "namespaceSelector": {"matchLabels": {LABEL: self.label}},
            })
        };
        let rule = |kind: Kind| {
            let versions: Vec<&str> = kind.versions().iter().map(|version| version.as_str()).collect();
            json!({"apiGroups": [GROUP], "apiVersions": versions, "resources": [kind.plural()],
                "operations": ["CREATE", "UPDATE"]})
        };
        let mutate = |version: &str| format!("/mutate-toolhive-stacklok-dev-{version}-mcpserver");
        let mut mutating = vec![entry(
            format!("mmcpserver.{GROUP}"),
            &mutate(Kind::MCPServer.stored().as_str()),
            rule(Kind::MCPServer),
        )];
        if point == InjectionPoint::Pod {
            let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]});
            let mut pods = entry(format!("mpod.{GROUP}"), "/mutate--v1-pod", rule);
            pods["objectSelector"] = json!({"matchLabels": {"toolhive": "true"}});
            pods["reinvocationPolicy"] = "IfNeeded".into();
            mutating.push(pods);
        }
        let validating: Vec<Value> = Kind::ALL
            .into_iter()
            .map(|kind| {
                let lower = kind.as_str().to_lowercase();
                let path = format!("/validate-toolhive-stacklok-dev-{}-{lower}", kind.stored().as_str());
                entry(format!("v{lower}.{GROUP}"), &path, rule(kind))
            })
            .collect();
        for (kind, webhooks) in
            [("MutatingWebhookConfiguration", mutating), ("ValidatingWebhookConfiguration", validating)]
        {
            let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
                "metadata": {"name": self.label}, "webhooks": webhooks});
            let path = format!("/apis/admissionregistration.k8s.io/v1/{}s", kind.to_lowercase());
            let (code, body) = plane.request("POST", &path, "application/json", &object.to_string()).await;
            assert_eq!(code, 201, "{body}");
        }
    }

    /// Waits until the API server asks: it learns of configurations a moment later.
    async fn asked(&self, cluster: &Cluster) {
        // Both webhooks: the one for what is wrong denies it.
        let probe = json!({
            "apiVersion": self.version.api_version(), "kind": "MCPServer", "metadata": {"name": "probe"},
            "spec": {"image": "no image", "transport": "streamable-http"},
        });
        self.eventually(async || {
            let answer = Answer::dry(cluster, &probe).await;
            answer.body["message"].as_str().is_some_and(|said| said.contains("spec.image")).then_some(())
        })
        .await;
        let probe = json!({
            "apiVersion": self.version.api_version(), "kind": "MCPServer",
            "metadata": {"name": "probe", "annotations": {SWITCH_ANNOTATION: "true"}},
            "spec": {"image": "i", "transport": "streamable-http"},
        });
        self.eventually(async || {
            let answer = Answer::dry(cluster, &probe).await;
            let asked = answer.injected() || self.point == InjectionPoint::Pod && answer.code == 201;
            asked.then_some(())
        })
        .await;
    }

    /// Changes the metadata of the namespace. The webhook learns of it a moment later.
    pub(crate) async fn namespace(&self, cluster: &Cluster, metadata: Value) {
        let path = format!("/api/v1/namespaces/{}", cluster.namespace);
        let body = json!({"metadata": metadata}).to_string();
        let (code, body) = cluster.plane.request("PATCH", &path, "application/merge-patch+json", &body).await;
        assert_eq!(code, 200, "{body}");
    }

    /// Another namespace that the webhook is asked about.
    pub(crate) async fn another_namespace(
        &self,
        cluster: &Cluster,
        labels: &BTreeMap<String, String>,
    ) -> String {
        let namespace = cluster.plane.namespace().await;
        let place = Cluster { plane: cluster.plane, namespace: namespace.clone() };
        let mut labels = json!(labels);
        labels[LABEL] = self.label.clone().into();
        self.namespace(&place, json!({"labels": labels})).await;
        namespace
    }

    /// Other images for the sidecars, by the config file; waits until they are used.
    pub(crate) async fn images(&self, cluster: &Cluster, helper: &str, registration: &str) {
        let text = format!("images:\n  spiffeHelper: {helper}\n  clientRegistration: {registration}\n");
        let fresh = self.config.with_extension("new");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, &self.config).unwrap();
        let probe = json!({
            "apiVersion": self.version.api_version(), "kind": "MCPServer", "metadata": {"name": "probe"},
            "spec": {"image": "i", "transport": "streamable-http"},
        });
        self.eventually(async || {
            let answer = Answer::dry(cluster, &probe).await;
            containers(&answer.body).values().any(|container| container["image"] == helper).then_some(())
        })
        .await;
    }

    /// Gives a user of the namespace a right on all objects of a resource.
    pub(crate) async fn may(&self, cluster: &Cluster, user: &str, group: &str, resource: &str, verb: &str) {
        let namespace = &cluster.namespace;
        let name = format!("{user}-{resource}-{verb}");
        let at = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name},
            "rules": [{"apiGroups": [group], "resources": [resource], "verbs": [verb]}]});
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
        for (plural, object) in [("roles", role), ("rolebindings", binding)] {
            let path = format!("{at}/{plural}");
            let (code, body) =
                cluster.plane.request("POST", &path, "application/json", &object.to_string()).await;
            assert_eq!(code, 201, "{body}");
        }
    }

    /// The certificate that is served now, DER.
    pub(crate) async fn served_certificate(&self) -> Vec<u8> {
        let mut roots = rustls::RootCertStore::empty();
        let ca = self.certificates.ca.pem();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    /// Asks again and again until there is an answer.
    pub(crate) async fn eventually<T>(&self, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        let started = tokio::time::Instant::now();
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(started.elapsed() < PATIENCE, "it did not come true");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends it as SIGTERM would; the API server goes on asking.
    pub(crate) async fn stop(mut self) {
        self.drain.advance(Phase::Draining);
        let _ = tokio::time::timeout(PATIENCE, self.task.take().unwrap()).await.unwrap();
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.drain.advance(Phase::Stopped);
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What the API server said to a request.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
    pub(crate) warnings: Vec<String>,
}

impl Answer {
    /// Creates (`POST`) or replaces (`PUT`) an object.
    pub(crate) async fn of(cluster: &Cluster, method: &str, object: &Value) -> Self {
        Self::with(cluster, cluster.plane.admin_token(), method, object, "").await
    }

    /// The same as a user without the administrator's rights.
    pub(crate) async fn by(cluster: &Cluster, user: &str, method: &str, object: &Value) -> Self {
        Self::with(cluster, cluster.plane.token_for(user), method, object, "").await
    }

    /// Creates nothing, and says what would be.
    pub(crate) async fn dry(cluster: &Cluster, object: &Value) -> Self {
        Self::with(cluster, cluster.plane.admin_token(), "POST", object, "?dryRun=All").await
    }

    async fn with(cluster: &Cluster, token: &str, method: &str, object: &Value, query: &str) -> Self {
        let path = cluster.path_of(object);
        let path = if method == "POST" { path.rsplit_once('/').unwrap().0.to_owned() } else { path };
        let (code, body, warnings) = cluster
            .plane
            .request_with_warnings(
                token,
                method,
                &format!("{path}{query}"),
                "application/json",
                &object.to_string(),
            )
            .await;
        Self { code, body, warnings }
    }

    /// True when sidecars were injected.
    pub(crate) fn injected(&self) -> bool {
        self.body["metadata"]["annotations"].get(INJECTION_ANNOTATION).is_some()
    }
}

impl Cluster {
    /// Replaces an object by this. `None` when it is refused.
    pub(crate) async fn replace(&self, object: &Value) -> Option<Value> {
        let answer = Answer::of(self, "PUT", object).await;
        (answer.code == 200).then_some(answer.body)
    }
}

/// Names of the entries of a list.
pub(crate) fn names_of(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

/// The containers of a server's template by their names.
pub(crate) fn containers(server: &Value) -> BTreeMap<String, Value> {
    let list = server["spec"]["podTemplateSpec"]["spec"]["containers"].as_array();
    list.into_iter()
        .flatten()
        .map(|one| (one["name"].as_str().unwrap_or_default().to_owned(), one.clone()))
        .collect()
}

/// The annotations of an object, but for one.
pub(crate) fn without(object: &Value, annotation: &str) -> BTreeMap<String, Value> {
    let all = object["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    all.into_iter().filter(|(key, _)| key != annotation).collect()
}

//! The webhook's certificate on a real API server, which calls the webhook all the while: its own one under
//! nothing but the rights that it is documented to need, and one in files.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, HeaderValue};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Request, Response};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use skep_operator::client::Layers;
use skep_operator::client::hooks::{Recorder, SharedHook};
use skep_operator::permissions::{Right, granted, webhook_configuration_rules, webhook_own_rules};
use skep_operator::webhook::certificates::{Pace, Parts, run};
use skep_operator::webhook::settings::{CertificateSource, SelfSigned};
use skep_runtime::clock::SystemClock;
use skep_runtime::drain::Drain;
use skep_runtime::health::{Readiness, ReadinessReport};
use skep_runtime::http::{Ends, HttpLimits, Load, ResponseBody, Tls, bind, full, serve_tls};
use skep_runtime::metrics::Metrics;
use skep_runtime::rng::SystemRng;
use skep_runtime::tls::{CertificateMetrics, CertificateSlot, PART, ServingCertificate};
use skep_testkit::control_plane::{self, ControlPlane};
use skep_testkit::{TestCa, TestCertificate};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{PATIENCE, client, crypto};

const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";
const JSON: &str = "application/json";

/// A process of the webhook: a listener that allows everything, and its certificate.
struct Process {
    address: SocketAddr,
    serving: ServingCertificate,
    readiness: Readiness,
    tls: Tls,
    calls: Arc<AtomicUsize>,
    recorder: Arc<Recorder>,
    stop: CancellationToken,
    drain: Drain,
    task: JoinHandle<()>,
}

impl Process {
    async fn start(plane: &ControlPlane, source: CertificateSource, token: Option<&str>, pace: Pace) -> Self {
        crypto();
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (serving, readiness, drain) = (ServingCertificate::empty(), Readiness::new(), Drain::new());
        let tls = Tls::new(serving.server_config().unwrap());
        let calls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&calls);
        let handler = Arc::new(move |request: Request<Incoming>, _: Ends| {
            counted.fetch_add(1, Ordering::SeqCst);
            allow(request)
        });
        let (limits, load) = (HttpLimits::default(), Load::default());
        tokio::spawn(serve_tls(listener, tls.clone(), handler, limits, drain.watch(), load));
        let metrics = CertificateMetrics::register(&Metrics::new(), "skep_webhook");
        let clock = SystemClock::shared();
        let recorder = Recorder::shared();
        let layers = Layers { hook: Some(Arc::clone(&recorder) as SharedHook), ..Layers::default() };
        let parts = Parts {
            client: client(plane, token, &layers).await,
            source,
            identity: format!("process at {address}"),
            slot: CertificateSlot::new(serving.clone(), readiness.clone(), metrics, Arc::clone(&clock)),
            readiness: readiness.clone(),
            clock,
            rng: SystemRng::shared(),
            pace,
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(parts, stop.clone()));
        Self { address, serving, readiness, tls, calls, recorder, stop, drain, task }
    }

    fn report(&self) -> ReadinessReport {
        self.readiness.report(&self.drain.watch())
    }

    /// What it needed rights for.
    fn used(&self) -> BTreeSet<Right> {
        let calls = self.recorder.calls().into_iter().filter(|(_, code)| *code < 400);
        calls
            .map(|(call, _)| Right {
                resource: call.rule_resource(),
                verb: call.verb.to_owned(),
                group: call.group,
            })
            .collect()
    }

    fn presented(&self) -> Option<CertificateDer<'static>> {
        self.serving.current().map(|certificate| certificate.chain()[0].clone())
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends").unwrap();
    }
}

/// Allows a request, on a connection that is used for no other: each call shows the certificate again.
async fn allow(request: Request<Incoming>) -> Response<ResponseBody> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {"uid": review["request"]["uid"], "allowed": true},
    });
    let mut response = Response::new(full(answer.to_string()));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A namespace whose ConfigMaps the API server asks about, under two configurations of its own.
struct Webhook {
    plane: &'static ControlPlane,
    namespace: String,
}

impl Webhook {
    async fn new(plane: &'static ControlPlane) -> Self {
        let namespace = plane.namespace().await;
        let label = json!({"metadata": {"labels": {"asked-about": namespace}}}).to_string();
        let path = format!("/api/v1/namespaces/{namespace}");
        made(plane.request("PATCH", &path, "application/merge-patch+json", &label).await);
        Self { plane, namespace }
    }

    fn name(&self, kind: &str) -> String {
        format!("{kind}-{}", self.namespace)
    }

    fn path(&self, kind: &str) -> String {
        format!("{REGISTRATION}/{kind}webhookconfigurations/{}", self.name(kind))
    }

    fn secret_path(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets/server-cert", self.namespace)
    }

    /// Makes both configurations. Nothing is asked before there is a `caBundle` that is right.
    async fn configure(&self, client_config: &Value) {
        for kind in ["mutating", "validating"] {
            let webhook = |name: &str| {
                json!({
                    "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None",
                    "failurePolicy": "Fail", "timeoutSeconds": 10, "clientConfig": client_config,
                    "namespaceSelector": {"matchLabels": {"asked-about": self.namespace}},
                    "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
                })
            };
            let title = if kind == "mutating" { "Mutating" } else { "Validating" };
            let configuration = json!({
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{title}WebhookConfiguration"),
                "metadata": {"name": self.name(kind)},
                "webhooks": [webhook("one.example.com"), webhook("two.example.com")],
            });
            let path = format!("{REGISTRATION}/{kind}webhookconfigurations");
            made(self.plane.request("POST", &path, JSON, &configuration.to_string()).await);
        }
    }

    /// The Service that leads to a process of this machine.
    async fn service(&self, address: SocketAddr) -> Value {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "webhook"},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        });
        let path = format!("/api/v1/namespaces/{}/services", self.namespace);
        made(self.plane.request("POST", &path, JSON, &service.to_string()).await);
        json!({"service": {"namespace": self.namespace, "name": "webhook", "path": "/", "port": address.port()}})
    }

    fn self_signed(&self, validity: Duration, ca_validity: Duration) -> CertificateSource {
        CertificateSource::SelfSigned(SelfSigned {
            namespace: self.namespace.clone(),
            service: "webhook".to_owned(),
            secret: "server-cert".to_owned(),
            mutating_configuration: self.name("mutating"),
            validating_configuration: self.name("validating"),
            validity,
            ca_validity,
        })
    }

    /// A token of a ServiceAccount that may do what the rules say, and nothing else.
    async fn token(&self) -> String {
        let (namespace, name) = (&self.namespace, format!("webhook-{}", self.namespace));
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let meta = json!({"name": name});
        let bind = |kind: &str| {
            json!({
                "metadata": meta,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": "webhook", "namespace": namespace}],
            })
        };
        let own = webhook_own_rules("server-cert", "server-cert");
        let cluster = webhook_configuration_rules(&self.name("mutating"), &self.name("validating"));
        for (path, object) in [
            (
                format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
                json!({"metadata": {"name": "webhook"}}),
            ),
            (format!("{rbac}/namespaces/{namespace}/roles"), json!({"metadata": meta, "rules": own})),
            (format!("{rbac}/namespaces/{namespace}/rolebindings"), bind("Role")),
            (format!("{rbac}/clusterroles"), json!({"metadata": meta, "rules": cluster})),
            (format!("{rbac}/clusterrolebindings"), bind("ClusterRole")),
        ] {
            made(self.plane.request("POST", &path, JSON, &object.to_string()).await);
        }
        self.plane.service_account_token(namespace, "webhook").await
    }

    /// What each webhook of a configuration is to be trusted by.
    async fn bundles(&self, kind: &str) -> Vec<String> {
        let (_, configuration) = self.plane.request("GET", &self.path(kind), "", "").await;
        let webhooks = configuration["webhooks"].as_array().cloned().unwrap_or_default();
        let text = |webhook: &Value| webhook["clientConfig"]["caBundle"].as_str().map(str::to_owned);
        webhooks.iter().filter_map(text).collect()
    }

    async fn secret(&self) -> Option<Value> {
        let (code, secret) = self.plane.request("GET", &self.secret_path(), "", "").await;
        (code == 200).then_some(secret)
    }

    /// Whether every webhook of both is announced with what the Secret says.
    async fn announced(&self) -> bool {
        let Some(secret) = self.secret().await else { return false };
        let Some(bundle) = secret["data"]["ca.crt"].as_str() else { return false };
        let expected = vec![bundle.to_owned(); 2];
        self.bundles("mutating").await == expected && self.bundles("validating").await == expected
    }

    /// Creates a ConfigMap, which the API server asks both configurations about, and doesn't keep it.
    async fn ask(&self) -> Result<(), String> {
        let path = format!("/api/v1/namespaces/{}/configmaps?dryRun=All", self.namespace);
        let object = json!({"metadata": {"generateName": "x-"}}).to_string();
        let (code, body) = self.plane.request("POST", &path, JSON, &object).await;
        if code == 201 { Ok(()) } else { Err(format!("{code} {body}")) }
    }

    /// Waits until the API server's own view of the configurations lets a request through.
    async fn answers(&self) {
        let asked = async || self.ask().await.is_ok();
        until("the API server trusts the webhook", asked).await;
    }

    /// Asks again and again until told to stop; gives how often, and the first failure.
    fn load(&self) -> (Arc<AtomicBool>, JoinHandle<(usize, Option<String>)>) {
        let stop = Arc::<AtomicBool>::default();
        let (stopped, webhook) =
            (Arc::clone(&stop), Self { plane: self.plane, namespace: self.namespace.clone() });
        let task = tokio::spawn(async move {
            let mut asked = 0;
            while !stopped.load(Ordering::SeqCst) {
                if let Err(error) = webhook.ask().await {
                    return (asked, Some(error));
                }
                asked += 1;
            }
            (asked, None)
        });
        (stop, task)
    }

    /// Takes the configurations away, so that nobody is asked any more.
    async fn remove(&self) {
        for kind in ["mutating", "validating"] {
            made(self.plane.request("DELETE", &self.path(kind), "", "").await);
        }
    }
}

fn made((code, body): (u16, Value)) -> Value {
    assert!(code < 300, "{code} {body}");
    body
}

async fn until(what: &str, wanted: impl AsyncFn() -> bool) {
    let waited = async {
        while !wanted().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("never came true: {what}"));
}

/// What is noticed is noticed by watches alone.
fn watches_only() -> Pace {
    Pace { poll: Duration::from_secs(3600), settle: Duration::from_secs(2), ..Pace::default() }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(flavor = "multi_thread")]
async fn replicas_make_one_certificate_that_the_api_server_trusts_and_both_heal_what_is_broken() {
    let Some(plane) = control_plane::shared().await else { return };
    let webhook = Webhook::new(plane).await;
    let token = webhook.token().await;
    let source = webhook.self_signed(90 * DAY, 900 * DAY);
    let first = Process::start(plane, source.clone(), Some(&token), watches_only()).await;
    let second = Process::start(plane, source, Some(&token), watches_only()).await;
    webhook.configure(&webhook.service(first.address).await).await;
    let original = |kind: &'static str| {
        let (plane, path) = (plane, webhook.path(kind));
        async move {
            let mut object = plane.request("GET", &path, "", "").await.1;
            for webhook in object["webhooks"].as_array_mut().unwrap() {
                webhook["clientConfig"].as_object_mut().unwrap().remove("caBundle");
            }
            object["webhooks"].clone()
        }
    };
    let before = (original("mutating").await, original("validating").await);
    until("it is announced", async || webhook.announced().await).await;
    webhook.answers().await;
    assert!(first.presented().is_some() && first.presented() == second.presented());
    until("both are well", async || {
        [&first, &second].iter().all(|process| process.report().ready && process.report().warnings.is_empty())
    })
    .await;

    // Somebody changes one caBundle.
    let path = webhook.path("validating");
    let change = json!({"webhooks": [{"name": "two.example.com", "clientConfig": {"caBundle": STANDARD.encode(TestCa::new().pem())}}]});
    made(plane.request("PATCH", &path, "application/strategic-merge-patch+json", &change.to_string()).await);
    until("it is healed", async || webhook.announced().await).await;
    webhook.answers().await;
    assert_eq!(
        (original("mutating").await, original("validating").await),
        before,
        "nothing else was changed"
    );

    // Somebody deletes the Secret: what is presented stays trusted until there is another.
    let presented = first.presented();
    let (stop, load) = webhook.load();
    made(plane.request("DELETE", &webhook.secret_path(), "", "").await);
    until("there is another", async || {
        first.presented() != presented && second.presented() == first.presented()
    })
    .await;
    until("it is announced", async || webhook.announced().await).await;
    stop.store(true, Ordering::SeqCst);
    let (asked, failure) = load.await.unwrap();
    assert!(asked > 0 && failure.is_none(), "after {asked}: {failure:?}");
    let secret = webhook.secret().await.unwrap();
    let bundle = STANDARD.decode(secret["data"]["ca.crt"].as_str().unwrap()).unwrap();
    assert_eq!(CertificateDer::pem_slice_iter(&bundle).count(), 2, "the former CA is still trusted");

    // The one that leads ends; the other goes on.
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/server-cert", webhook.namespace);
    let holder = async || {
        plane.request("GET", &lease, "", "").await.1["spec"]["holderIdentity"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let leads = holder().await;
    assert!(
        leads.ends_with(&first.address.to_string()) || leads.ends_with(&second.address.to_string()),
        "{leads}"
    );
    let (leader, other) =
        if leads.ends_with(&first.address.to_string()) { (first, second) } else { (second, first) };
    let used = leader.used();
    leader.stop().await;
    until("the other one leads", async || holder().await.ends_with(&other.address.to_string())).await;
    made(
        plane
            .request(
                "PATCH",
                &webhook.secret_path(),
                "application/merge-patch+json",
                r#"{"data": {"tls.key": null}}"#,
            )
            .await,
    );
    let presented = other.presented();
    until("it makes a certificate", async || other.presented() != presented).await;
    let rules = [
        webhook_own_rules("server-cert", "server-cert"),
        webhook_configuration_rules("mutating", "validating"),
    ];
    let granted: BTreeSet<Right> = rules.iter().flatten().flat_map(granted).collect();
    let used: BTreeSet<Right> = used.union(&other.used()).cloned().collect();
    assert_eq!(used, granted, "every right is needed");
    webhook.remove().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_and_ca_are_renewed_under_load_and_no_request_fails() {
    let Some(plane) = control_plane::shared().await else { return };
    let webhook = Webhook::new(plane).await;
    let token = webhook.token().await;
    // Renewed after 10 and 20 s.
    let source = webhook.self_signed(Duration::from_secs(15), Duration::from_secs(30));
    let pace = Pace { settle: Duration::from_millis(1500), ..Pace::default() };
    let process = Process::start(plane, source, Some(&token), pace).await;
    webhook.configure(&webhook.service(process.address).await).await;
    until("it is announced", async || webhook.announced().await).await;
    webhook.answers().await;
    let (stop, load) = webhook.load();
    let authorities = async || {
        let secret = webhook.secret().await.unwrap();
        let bundle = STANDARD.decode(secret["data"]["ca.crt"].as_str().unwrap()).unwrap();
        CertificateDer::pem_slice_iter(&bundle).flatten().collect::<Vec<_>>()
    };
    let (first, leaf) = (authorities().await, process.presented());
    assert_eq!(first.len(), 1);
    until("the certificate is renewed", async || process.presented() != leaf).await;
    assert_eq!(authorities().await[0], first[0], "by the same CA");
    until("there is a new CA beside the old one", async || authorities().await.len() == 2).await;
    until("the old CA is withdrawn", async || authorities().await.len() == 1).await;
    assert_ne!(authorities().await, first);
    until("and no longer announced", async || webhook.announced().await).await;
    let calls = process.calls.load(Ordering::SeqCst);
    until("it still answers", async || process.calls.load(Ordering::SeqCst) > calls + 8).await;
    stop.store(true, Ordering::SeqCst);
    let (asked, failure) = load.await.unwrap();
    assert!(asked > 20 && failure.is_none(), "after {asked}: {failure:?}");
    assert_eq!(process.tls.failures(), 0);
    webhook.remove().await;
    process.stop().await;
}

/// Puts a version in the place of the one before, as kubelet does with a mounted Secret.
fn swap(folder: &Path, version: &str, certificate: &str, key: &str) {
    let target = folder.join(version);
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("tls.crt"), certificate).unwrap();
    std::fs::write(target.join("tls.key"), key).unwrap();
    symlink(version, folder.join("..new")).unwrap();
    std::fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_exchanged_under_load_and_a_bad_version_is_refused() {
    let Some(plane) = control_plane::shared().await else { return };
    let (webhook, ca, folder) = (Webhook::new(plane).await, TestCa::new(), tempfile::tempdir().unwrap());
    let certificate = || ca.server(&["127.0.0.1"]);
    let first = certificate();
    swap(folder.path(), "..0", &first.certificate_pem, &first.key_pem);
    let file = |name: &str| {
        symlink(Path::new("..data").join(name), folder.path().join(name)).unwrap();
        folder.path().join(name)
    };
    let source = CertificateSource::Files { certificate: file("tls.crt"), key: file("tls.key") };
    let process = Process::start(plane, source, None, Pace::default()).await;
    let client_config =
        json!({"url": format!("https://{}/", process.address), "caBundle": STANDARD.encode(ca.pem())});
    webhook.configure(&client_config).await;
    let presents = async |certificate: &TestCertificate| {
        process.presented().is_some_and(|presented| *presented == *certificate.der())
    };
    until("it is presented", async || presents(&first).await).await;
    webhook.answers().await;
    let (stop, load) = webhook.load();
    let mut last = first;
    for version in 1..=3 {
        let next = certificate();
        swap(folder.path(), &format!("..{version}"), &next.certificate_pem, &next.key_pem);
        until("the next one is presented", async || presents(&next).await).await;
        last = next;
    }
    swap(folder.path(), "..bad", &certificate().certificate_pem, &last.key_pem);
    until("the bad one is told", async || process.report().warnings.contains_key(PART)).await;
    assert!(process.report().ready && presents(&last).await);
    let calls = process.calls.load(Ordering::SeqCst);
    until("it still answers", async || process.calls.load(Ordering::SeqCst) > calls + 8).await;
    stop.store(true, Ordering::SeqCst);
    let (asked, failure) = load.await.unwrap();
    assert!(asked > 0 && failure.is_none(), "after {asked}: {failure:?}");
    assert_eq!(process.tls.failures(), 0);
    webhook.remove().await;
    process.stop().await;
}

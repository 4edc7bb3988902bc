//! The chart of the webhook on a real API server.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skep_api::crd::definition::definitions;
use skep_testkit::control_plane::{Assets, ControlPlane, Options};
use skep_testkit::free_port;

use crate::harness::helm::{Helm, NAMESPACE, RELEASE, chart};
use crate::harness::http::get;
use crate::harness::{eventually, skep};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const MERGE: &str = "application/merge-patch+json";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// Everything that a release could leave behind.
const CLUSTER_WIDE: [&str; 4] = [
    MUTATING,
    VALIDATING,
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
];
const NAMESPACED: [(&str, &str); 11] = [
    ("/api/v1", "secrets"),
    ("/api/v1", "configmaps"),
    ("/api/v1", "services"),
    ("/api/v1", "serviceaccounts"),
    ("/apis/apps/v1", "deployments"),
    ("/apis/policy/v1beta1", "poddisruptionbudgets"),
    ("/apis/coordination.k8s.io/v1", "leases"),
    ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    ("/apis/cert-manager.io/v1", "certificates"),
    ("/apis/cert-manager.io/v1", "issuers"),
];

struct Cluster {
    plane: ControlPlane,
    helm: Helm,
}

impl Cluster {
    async fn get(&self, path: &str) -> (u16, Value) {
        self.plane.request("GET", path, "", "").await
    }

    async fn patch(&self, path: &str, patch: &Value) {
        let (code, body) = self.plane.request("PATCH", path, MERGE, &patch.to_string()).await;
        assert_eq!(code, 200, "{path}: {body}");
    }

    fn helm(&self, args: &[&str]) {
        let kubeconfig = self.plane.kubeconfig();
        let common = ["--namespace", NAMESPACE, "--kubeconfig", kubeconfig.to_str().unwrap()];
        self.helm.run(args.iter().chain(&common)).unwrap_or_else(|error| panic!("helm {args:?}: {error}"));
    }

    fn install(&self, set: &str) {
        let chart = chart();
        let chart = chart.to_str().unwrap();
        self.helm(&["upgrade", "--install", "--create-namespace", RELEASE, chart, "--set", set]);
    }

    /// Names of everything that is there.
    async fn inventory(&self) -> BTreeSet<String> {
        let namespaced = NAMESPACED.map(|(group, plural)| format!("{group}/namespaces/{NAMESPACE}/{plural}"));
        let paths = CLUSTER_WIDE.iter().map(|path| (*path).to_owned()).chain(namespaced);
        let mut found = BTreeSet::new();
        for path in paths {
            let (code, list) = self.get(&path).await;
            assert_eq!(code, 200, "{path}: {list}");
            for item in list["items"].as_array().unwrap() {
                found.insert(format!("{path}/{}", item["metadata"]["name"].as_str().unwrap()));
            }
        }
        // The API server writes it into every namespace by and by.
        found.retain(|name| !name.ends_with("/kube-root-ca.crt"));
        found
    }
}

/// As much of cert-manager's definitions as the API server needs to take its objects.
async fn define_certificates(plane: &ControlPlane) {
    for (kind, plural) in [("Certificate", "certificates"), ("Issuer", "issuers")] {
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.cert-manager.io"),
                "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}},
            "spec": {
                "group": "cert-manager.io", "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "listKind": format!("{kind}List")},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
            },
        });
        let (code, body) = plane.request("POST", CRDS, "application/json", &definition.to_string()).await;
        assert_eq!(code, 201, "{body}");
    }
    let started = tokio::time::Instant::now();
    for plural in ["certificates", "issuers"] {
        loop {
            let path = format!("/apis/cert-manager.io/v1/namespaces/default/{plural}");
            if plane.request("GET", &path, "", "").await.0 == 200 {
                break;
            }
            assert!(started.elapsed().as_secs() < 60, "{plural} are not served");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_goes_as_it_came_and_an_upgrade_keeps_what_was_made_at_run_time() {
    let Some(helm) = Helm::find_or_skip() else { return };
    let Some(assets) = Assets::find_or_skip() else { return };
    let plane = ControlPlane::start(&assets, Options { controllers: vec![] }).await;
    define_certificates(&plane).await;
    let cluster = Cluster { plane, helm };
    let before = cluster.inventory().await;

    cluster.install("replicaCount=1,podDisruptionBudget.enabled=true,webhook.injectionPoint=pod");
    let secret = format!("/api/v1/namespaces/{NAMESPACE}/secrets/skep-webhook-self-signed-cert");
    let mutating = format!("{MUTATING}/skep-webhook-mutating-webhook-configuration");
    let validating = format!("{VALIDATING}/skep-webhook-validating-webhook-configuration");
    let certificates = format!("/apis/cert-manager.io/v1/namespaces/{NAMESPACE}/certificates");
    assert_eq!(cluster.get(&certificates).await.1["items"].as_array().unwrap().len(), 2);
    assert_eq!(cluster.get(&validating).await.1["webhooks"].as_array().unwrap().len(), 10);
    assert_eq!(cluster.get(&secret).await.0, 404);

    // The webhook fills the Secret, the Lease and the configurations; an upgrade of the release leaves that alone.
    cluster.install("certManager.enabled=false");
    assert!(cluster.get(&certificates).await.1["items"].as_array().unwrap().is_empty());
    cluster.patch(&secret, &json!({"data": {"ca.crt": "YQ=="}})).await;
    let lease =
        format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/skep-webhook-self-signed-cert");
    cluster.patch(&lease, &json!({"spec": {"holderIdentity": "one"}})).await;
    for path in [&mutating, &validating] {
        let mut webhooks = cluster.get(path).await.1["webhooks"].clone();
        for webhook in webhooks.as_array_mut().unwrap() {
            webhook["clientConfig"]["caBundle"] = json!(bundle());
        }
        cluster.patch(path, &json!({"webhooks": webhooks})).await;
    }
    cluster.install("certManager.enabled=false,replicaCount=2,webhook.timeoutSeconds=7");
    assert_eq!(cluster.get(&secret).await.1["data"]["ca.crt"], "YQ==");
    assert_eq!(cluster.get(&lease).await.1["spec"]["holderIdentity"], "one");
    for path in [&mutating, &validating] {
        for webhook in cluster.get(path).await.1["webhooks"].as_array().unwrap() {
            assert_eq!(webhook["timeoutSeconds"], 7);
            assert_eq!(webhook["clientConfig"]["caBundle"], bundle(), "{path}");
        }
    }

    cluster.install("certManager.enabled=true");
    assert_eq!(cluster.get(&secret).await.0, 404);

    cluster.install("webhook.enabled=false");
    assert_eq!(cluster.get(&mutating).await.0, 404);

    cluster.install("certManager.enabled=false,webhook.config.images.builtin=x");
    cluster.helm(&["uninstall", RELEASE]);
    let left: Vec<String> = cluster.inventory().await.difference(&before).cloned().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A caBundle that the API server takes: it has to hold a certificate.
fn bundle() -> String {
    static CA: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| skep_testkit::TestCa::new().pem());
    STANDARD.encode(CA.as_bytes())
}

/// The process that the chart's pod would run, as its ServiceAccount, against the same API server: with exactly the
/// chart's arguments, but for addresses, and exactly the chart's rights.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_arguments_and_the_rights_of_the_chart_the_webhook_serves() {
    let Some(helm) = Helm::find_or_skip() else { return };
    let Some(assets) = Assets::find_or_skip() else { return };
    let plane = ControlPlane::start(&assets, Options { controllers: vec![] }).await;
    for definition in definitions() {
        let (code, body) = plane.request("POST", CRDS, "application/json", &definition.to_string()).await;
        assert_eq!(code, 201, "{body}");
    }
    define_certificates(&plane).await;
    let cluster = Cluster { plane, helm };
    let before = cluster.inventory().await;
    const SET: &str = "certManager.enabled=false,leaderElection.enabled=true";
    cluster.install(SET);

    let home = tempfile::tempdir().unwrap();
    let (port, health, metrics) = (free_port(), free_port(), free_port());
    let rendered = cluster.helm.render(&["--set", SET]);
    let mut args = vec!["webhook".to_owned()];
    args.extend(rendered.args().into_iter().map(|arg| match arg.split_once('=') {
        Some((name @ "--port", _)) => format!("{name}={port}"),
        Some((name @ "--health-probe-bind-address", _)) => format!("{name}=127.0.0.1:{health}"),
        Some((name @ "--metrics-bind-address", _)) => format!("{name}=127.0.0.1:{metrics}"),
        _ => arg.to_owned(),
    }));
    let account = rendered.one("ServiceAccount", "")["metadata"]["name"].as_str().unwrap();
    let token = cluster.plane.service_account_token(NAMESPACE, account).await;
    args.push(format!("--kubeconfig={}", cluster.plane.kubeconfig_with(&token).display()));
    let log = home.path().join("log");
    let mut process = skep::command(home.path(), args)
        .env("POD_NAME", "one")
        .env("POD_NAMESPACE", NAMESPACE)
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let ready = format!("http://127.0.0.1:{health}/readyz");
    let address = format!("127.0.0.1:{health}");
    eventually(&format!("ready; {}", log.display()), async || {
        assert!(process.try_wait().unwrap().is_none(), "{}", said());
        tokio::net::TcpStream::connect(&address).await.ok()?;
        (get(&ready).await.status == 200).then_some(())
    })
    .await;
    assert!(!said().contains("forbidden"), "{}", said());

    let client_config = async |path: &str| cluster.get(path).await.1["webhooks"][0]["clientConfig"].clone();
    let (entry, bundle) = eventually(&format!("caBundle; {}", log.display()), async || {
        let entry =
            client_config(&format!("{VALIDATING}/skep-webhook-validating-webhook-configuration")).await;
        let mutating =
            client_config(&format!("{MUTATING}/skep-webhook-mutating-webhook-configuration")).await;
        let bundle = entry["caBundle"].as_str()?.to_owned();
        (mutating["caBundle"] == *bundle).then_some((entry, bundle))
    })
    .await;

    // What the API server does: it trusts caBundle and calls the Service by its name.
    let name = format!("{}.{NAMESPACE}.svc", entry["service"]["name"].as_str().unwrap());
    let call = Call { name, port, ca: STANDARD.decode(bundle).unwrap() };
    for (path, kind) in [
        (entry["service"]["path"].as_str().unwrap(), "validate"),
        ("/mutate-toolhive-stacklok-dev-v1beta1-mcpserver", "mutate"),
    ] {
        let answer = call.review(path).await;
        assert_eq!(answer["response"]["allowed"], true, "{kind}: {answer}");
        assert_eq!(answer["response"]["uid"], "u-1", "{kind}");
        assert_eq!(answer["response"]["patch"].is_string(), kind == "mutate", "{answer}");
    }

    let secured = Call { port: metrics, ..call };
    assert_eq!(secured.get("/metrics", None).await.0, 401);
    for path in ["/metrics", "/status"] {
        let open = get(&format!("http://{address}{path}")).await;
        assert_eq!(open.status, 404, "{path} is not for everybody: {}", open.body);
    }
    let (code, text) = secured.get("/metrics", Some(cluster.plane.admin_token())).await;
    assert_eq!(code, 200, "{text}");
    assert!(text.contains("skep_webhook_reviews_total"), "{text}");

    let id = process.id().unwrap().to_string();
    assert!(tokio::process::Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    let ended = tokio::time::timeout(crate::harness::PATIENCE, process.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0), "{}", said());
    cluster.helm(&["uninstall", RELEASE]);
    let left: Vec<String> = cluster.inventory().await.difference(&before).cloned().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Calls to the webhook by the name of its Service.
struct Call {
    name: String,
    port: u16,
    ca: Vec<u8>,
}

impl Call {
    #[expect(clippy::disallowed_methods, reason = "the guarded client is for skep; a test calls skep itself")]
    fn client(&self) -> reqwest::Client {
        reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(&self.ca).unwrap()])
            .resolve(&self.name, ([127, 0, 0, 1], self.port).into())
            .build()
            .unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}:{}{path}", self.name, self.port)
    }

    async fn review(&self, path: &str) -> Value {
        let object = json!({"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServer",
            "metadata": {"name": "s", "namespace": "default"},
            "spec": {"image": "i:1", "transport": "streamable-http"}});
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u-1", "operation": "CREATE", "namespace": "default", "name": "s", "object": object,
            "kind": {"group": "toolhive.stacklok.dev", "version": "v1beta1", "kind": "MCPServer"},
            "resource": {"group": "toolhive.stacklok.dev", "version": "v1beta1", "resource": "mcpservers"},
            "userInfo": {"username": "admin", "groups": ["system:masters"]}}});
        let answer = self.client().post(self.url(path)).json(&review).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    async fn get(&self, path: &str, token: Option<&str>) -> (u16, String) {
        let mut request = self.client().get(self.url(path));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

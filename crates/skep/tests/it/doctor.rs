//! `skep doctor` on a real API server.

use std::path::Path;
use std::process::Stdio;

use jiff::Timestamp;
use serde_json::{Value, json};
use skep_api::crd::definition::definitions;
use skep_api::yaml::documents;
use skep_testkit::control_plane::{self, Assets, ControlPlane, Options};
use skep_testkit::{FakeIdp, Reply, ScriptedServer};
use tokio::process::Command;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/toolhive-system/deployments/toolhive-operator";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/toolhive-system/leases";
const MERGE: &str = "application/merge-patch+json";

/// What the doctor found, as `level check: message`, and the exit code.
pub(crate) struct Found {
    code: i32,
    lines: Vec<String>,
}

impl Found {
    pub(crate) fn code(&self) -> i32 {
        self.code
    }

    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }

    pub(crate) fn has(&self, start: &str, part: &str) -> bool {
        self.lines.iter().any(|line| line.starts_with(start) && line.contains(part))
    }

    #[track_caller]
    pub(crate) fn must(&self, start: &str, part: &str) {
        assert!(self.has(start, part), "no `{start}` with `{part}` in {:#?}", self.lines);
    }

    fn failures(&self) -> Vec<&String> {
        self.lines.iter().filter(|line| line.starts_with("fail")).collect()
    }
}

pub(crate) async fn doctor(plane: &ControlPlane, token: &str, more: &[&str]) -> Found {
    let kubeconfig = plane.kubeconfig_with(token);
    let output = Command::new(env!("CARGO_BIN_EXE_skep"))
        .args(["doctor", "-o", "json", "--egress-loopback", "--kubeconfig"])
        .arg(kubeconfig)
        .args(more)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let lines = report["findings"].as_array().unwrap().iter().map(|finding| {
        let text = |field: &str| finding[field].as_str().unwrap_or_default().to_owned();
        format!("{} {}: {} {}", text("level"), text("check"), text("message"), text("remedy"))
    });
    Found { code: output.status.code().unwrap(), lines: lines.collect() }
}

pub(crate) async fn send(plane: &ControlPlane, method: &str, path: &str, kind: &str, body: &Value) -> Value {
    let (code, answer) = plane.request(method, path, kind, &body.to_string()).await;
    assert!(code < 300 || (code == 409 && method == "POST"), "{method} {path}: {code} {answer}");
    answer
}

pub(crate) async fn post(plane: &ControlPlane, path: &str, body: &Value) {
    send(plane, "POST", path, "application/json", body).await;
}

/// Installs what `deploy/kustomize/base` has, without a controller that would make its Deployment ready.
async fn install(plane: &ControlPlane) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kustomize");
    for file in [
        "operator/namespace.yaml",
        "operator/serviceaccount.yaml",
        "operator/leader-election.yaml",
        "operator/deployment.yaml",
        "base/rbac.yaml",
    ] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        for document in documents(&text).unwrap() {
            let object = document.value;
            let version = object["apiVersion"].as_str().unwrap();
            let base = if version.contains('/') { "apis" } else { "api" };
            let namespace =
                object["metadata"]["namespace"].as_str().map(|name| format!("/namespaces/{name}"));
            let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
            let path = format!("/{base}/{version}{}/{plural}", namespace.unwrap_or_default());
            post(plane, &path, &object).await;
        }
    }
    let status =
        json!({"status": {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "updatedReplicas": 1}});
    send(plane, "PATCH", &format!("{DEPLOYMENT}/status"), MERGE, &status).await;
}

async fn lease(plane: &ControlPlane, renewed: Timestamp) {
    let spec = json!({"holderIdentity": "pod-1", "leaseDurationSeconds": 15, "leaseTransitions": 0,
        "renewTime": format!("{renewed:.6}"), "acquireTime": format!("{renewed:.6}")});
    let object = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "toolhive-operator-leader-election"}, "spec": spec});
    post(plane, LEASES, &object).await;
    let path = format!("{LEASES}/toolhive-operator-leader-election");
    send(plane, "PATCH", &path, MERGE, &json!({"spec": spec})).await;
}

fn oidc(issuer: &str) -> Value {
    json!({"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPOIDCConfig",
        "metadata": {"name": "oidc"},
        "spec": {"type": "inline", "inline": {"issuer": issuer, "insecureAllowHTTP": true}}})
}

async fn with_issuer(plane: &ControlPlane, issuer: &str) -> Found {
    let namespace = plane.namespace().await;
    let path = format!("/apis/toolhive.stacklok.dev/v1beta1/namespaces/{namespace}/mcpoidcconfigs");
    post(plane, &path, &oidc(issuer)).await;
    doctor(plane, plane.admin_token(), &["-n", &namespace]).await
}

/// The CRDs, one of them as an older version had it.
async fn install_crds_with_an_old_one(plane: &ControlPlane) {
    for mut definition in definitions() {
        if definition["metadata"]["name"] == "mcpservers.toolhive.stacklok.dev" {
            for version in definition["spec"]["versions"].as_array_mut().unwrap() {
                let fields = &mut version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
                fields.as_object_mut().unwrap().remove("authMode").unwrap();
                // Rules may name the field, and this API server has none anyway.
                version["schema"]["openAPIV3Schema"]["properties"]["spec"]
                    .as_object_mut()
                    .unwrap()
                    .remove("x-kubernetes-validations");
            }
        }
        post(plane, CRDS, &definition).await;
    }
    established(plane).await;
}

/// The CRDs of this version.
pub(crate) async fn install_crds(plane: &ControlPlane) {
    for definition in definitions() {
        post(plane, CRDS, &definition).await;
    }
    established(plane).await;
}

async fn established(plane: &ControlPlane) {
    let started = tokio::time::Instant::now();
    loop {
        let (_, list) = plane.request("GET", CRDS, "", "").await;
        let established = list["items"].as_array().unwrap().iter().filter(|crd| {
            let conditions = crd["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True")
        });
        if established.count() == definitions().len() {
            return;
        }
        assert!(started.elapsed().as_secs() < 60, "the CRDs are not established");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn replace_crd(plane: &ControlPlane, name: &str) {
    let path = format!("{CRDS}/{name}");
    let (_, present) = plane.request("GET", &path, "", "").await;
    let mut definition =
        definitions().into_iter().find(|definition| definition["metadata"]["name"] == name).unwrap();
    definition["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"].clone();
    send(plane, "PUT", &path, "application/json", &definition).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_finds_what_is_missing_old_or_down() {
    let Some(assets) = Assets::find() else {
        control_plane::skip("no kube-apiserver here");
        return;
    };
    let plane = ControlPlane::start(&assets, Options { controllers: Vec::new() }).await;
    let admin = plane.admin_token();

    let empty = doctor(&plane, admin, &[]).await;
    assert_eq!(empty.code, 1);
    empty.must("ok api-server", "Kubernetes v1.");
    empty.must("fail crds", "mcpservers.toolhive.stacklok.dev is not installed");
    empty.must("fail operator", "no Deployment");

    install_crds_with_an_old_one(&plane).await;
    install(&plane).await;
    lease(&plane, skep_now()).await;
    let old = doctor(&plane, admin, &[]).await;
    assert_eq!(old.code, 1);
    assert_eq!(old.failures().len(), 1, "{:#?}", old.lines);
    old.must(
        "fail crds",
        "mcpservers.toolhive.stacklok.dev is older than this skep: the API server drops spec.authMode",
    );
    replace_crd(&plane, "mcpservers.toolhive.stacklok.dev").await;

    let well = doctor(&plane, admin, &[]).await;
    assert_eq!((well.code, well.failures()), (0, Vec::new()), "{:#?}", well.lines);
    well.must("ok crds", "mcpservers.toolhive.stacklok.dev serves v1alpha1, v1beta1 and stores v1beta1");
    well.must("ok rights", "toolhive-system/toolhive-operator has all");
    well.must("ok lease", "pod-1 leads");
    well.must("ok operator", "1 of 1 ready");

    lease(&plane, "2001-01-01T00:00:00Z".parse().unwrap()).await;
    let stale = doctor(&plane, admin, &[]).await;
    assert_eq!(stale.code, 1);
    stale.must("fail lease", "pod-1 led, and has not renewed");
    lease(&plane, skep_now()).await;

    let binding =
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/toolhive-operator-manager-rolebinding";
    let (code, _) = plane.request("DELETE", binding, "", "").await;
    assert_eq!(code, 200);
    let started = tokio::time::Instant::now();
    // The authorizer learns of it by a watch.
    let refused = loop {
        let refused = doctor(&plane, admin, &[]).await;
        if refused.has("fail rights", "") || started.elapsed().as_secs() > 60 {
            break refused;
        }
    };
    assert_eq!(refused.code, 1);
    refused.must("fail rights", "may not create, delete, get, list, patch, watch configmaps");

    let nobody = doctor(&plane, plane.token_for("nobody"), &[]).await;
    assert_eq!(nobody.code, 0, "what can't be looked at has not failed: {:#?}", nobody.lines);
    nobody.must("skip crds", "can't be compared: there is no right to get");
    nobody.must("skip operator", "can't be read");
    nobody.must("skip proxy", "can't be listed");

    issuers(&plane).await;
    proxies(&plane).await;

    plane.stop_api_server();
    let away = doctor(&plane, admin, &[]).await;
    assert_eq!((away.code, away.lines.len()), (1, 1), "{:#?}", away.lines);
    away.must("fail api-server", "can't be asked");
}

async fn issuers(plane: &ControlPlane) {
    let idp = FakeIdp::start().await;
    let up = with_issuer(plane, idp.issuer()).await;
    up.must("ok issuer", idp.issuer());
    idp.set_discovery_issuer("https://other.example.com");
    with_issuer(plane, idp.issuer()).await.must("fail issuer", "is that of \"https://other.example.com\"");
    idp.down().await;
    let down = with_issuer(plane, idp.issuer()).await;
    assert_eq!(down.code, 1);
    down.must("fail issuer", "cannot reach");

    for (seconds, said) in [(300_i64, "300 s ahead of"), (-300, "s behind"), (0, "")] {
        let server = ScriptedServer::start(|_| Reply::status(404)).await;
        let issuer = server.url("");
        let shown = issuer.clone();
        server.set_handler(move |request| {
            let at = skep_now().checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
            let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap();
            let body = match request.path() {
                "/jwks" => json!({"keys": []}),
                _ => json!({"issuer": issuer, "jwks_uri": format!("{issuer}/jwks")}),
            };
            Reply::json(&body).header("Date", &date)
        });
        let found = with_issuer(plane, &shown).await;
        if said.is_empty() {
            found.must("ok issuer", "its clock is right");
        } else {
            // The request itself may take the odd second.
            let said = if seconds > 0 && !found.has("fail issuer", said) { "299 s ahead of" } else { said };
            found.must("fail issuer", said);
        }
    }
}

async fn proxies(plane: &ControlPlane) {
    let namespace = plane.namespace().await;
    let path = format!("/apis/toolhive.stacklok.dev/v1beta1/namespaces/{namespace}/mcpservers");
    let server = json!({"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServer",
        "metadata": {"name": "a"}, "spec": {"image": "x", "transport": "stdio"}});
    post(plane, &path, &server).await;
    let new = doctor(plane, plane.admin_token(), &["-n", &namespace]).await;
    new.must("warn proxy", &format!("MCPServer {namespace}/a has no status"));
    let status = json!({"status": {"phase": "Failed", "conditions": [{"type": "Ready", "status": "False",
        "reason": "SecretMissing", "message": "no \u{1b}[31mSecret", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    send(plane, "PATCH", &format!("{path}/a/status"), MERGE, &status).await;
    let failed = doctor(plane, plane.admin_token(), &["-n", &namespace]).await;
    failed.must("fail proxy", "is Failed, not Ready (SecretMissing): no  [31mSecret");
}

#[expect(clippy::disallowed_methods, reason = "the API server has the machine's time")]
fn skep_now() -> Timestamp {
    Timestamp::now()
}

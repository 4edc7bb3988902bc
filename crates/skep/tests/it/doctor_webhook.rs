//! `skep doctor` on an API server that calls webhooks: up, slow, down, with a wrong CA, and half installed.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skep_testkit::control_plane::{Assets, ControlPlane, Options};
use skep_testkit::{Recorded, Reply, ScriptedServer, Step, TestCa, Tls, free_port};

use crate::doctor::{Found, doctor, install_crds, post, send};

const AT: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const NAME: &str = "skep-webhook-validating-webhook-configuration";
const WEBHOOK: &str = "vmcpserver.toolhive.stacklok.dev";
const PATH: &str = "/validate-toolhive-stacklok-dev-v1beta1-mcpserver";

/// A configuration with one webhook that is reached so; `more` is merged into the webhook.
fn configuration(client: &Value, more: &Value) -> Value {
    let mut webhook = json!({
        "name": WEBHOOK, "clientConfig": client, "failurePolicy": "Fail", "sideEffects": "None",
        "timeoutSeconds": 10, "admissionReviewVersions": ["v1"],
        "namespaceSelector": {"matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["webhooks"]}]},
        "rules": [{"apiGroups": ["toolhive.stacklok.dev"], "apiVersions": ["v1alpha1", "v1beta1"],
            "operations": ["CREATE", "UPDATE"], "resources": ["mcpservers"]}],
    });
    for (key, value) in more.as_object().unwrap() {
        webhook[key] = value.clone();
    }
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": NAME}, "webhooks": [webhook]})
}

struct Scene {
    plane: ControlPlane,
}

impl Scene {
    /// Puts the configuration in place of the one before, and looks until the doctor says what it is to say: the
    /// API server learns of configurations by and by.
    async fn says(&self, client: &Value, more: &Value, start: &str, part: &str) -> Found {
        let (_, there) = self.plane.request("GET", &format!("{AT}/{NAME}"), "", "").await;
        let mut object = configuration(client, more);
        if there["metadata"]["resourceVersion"].is_string() {
            object["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"].clone();
            send(&self.plane, "PUT", &format!("{AT}/{NAME}"), "application/json", &object).await;
        } else {
            post(&self.plane, AT, &object).await;
        }
        let started = tokio::time::Instant::now();
        loop {
            let found = self.look().await;
            if found.has(start, part) {
                return found;
            }
            assert!(
                started.elapsed() < Duration::from_secs(40),
                "no `{start}` with `{part}`: {:#?}",
                found.lines()
            );
        }
    }

    async fn look(&self) -> Found {
        doctor(&self.plane, self.plane.admin_token(), &[]).await
    }
}

fn review(request: &Recorded, allowed: bool, said: &str) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {"uid": request.json()["request"]["uid"], "allowed": allowed, "status": {"message": said, "code": 403}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn it_explains_a_webhook_that_is_down_slow_or_has_a_wrong_ca() {
    let Some(assets) = Assets::find_or_skip() else { return };
    let scene = Scene { plane: ControlPlane::start(&assets, Options { controllers: Vec::new() }).await };
    install_crds(&scene.plane).await;
    scene.look().await.must("ok webhook", "not installed");

    let ca = TestCa::new();
    let server =
        ScriptedServer::start_tls(&Tls::new(&ca), |request| Reply::json(&review(request, true, ""))).await;
    let bundle = STANDARD.encode(ca.pem());
    let client = json!({"url": server.url(PATH), "caBundle": bundle});
    let as_is = json!({});

    let well =
        scene.says(&client, &as_is, "ok webhook", "a trial MCPServer in default is let in within").await;
    well.must("ok webhook", "ValidatingWebhookConfiguration skep-webhook-validating-webhook-configuration is complete; its CA is valid until");
    let asked = server.requests();
    let object = asked.iter().map(Recorded::json).find(|body| body["request"]["dryRun"] == true).unwrap();
    assert_eq!(object["request"]["kind"]["kind"], "MCPServer", "{object}");
    let (_, kept) =
        scene.plane.request("GET", "/apis/toolhive.stacklok.dev/v1beta1/mcpservers", "", "").await;
    assert_eq!(kept["items"], json!([]), "the trial is not kept");

    server.set_handler(|request| Reply::json(&review(request, false, "who may call it?")));
    let denied = scene.says(&client, &as_is, "ok webhook", "who may call it?").await;
    denied.must("ok webhook", "vmcpserver.toolhive.stacklok.dev answers within");

    let late = Duration::from_millis(2_300);
    server.set_handler(move |request| after(late, &review(request, true, "")));
    let slow = scene.says(&client, &as_is, "warn webhook", "the webhook is slow").await;
    slow.must("warn webhook", "Look at its log, its CPU limit");

    server.set_handler(|_| Reply::hang());
    let silent = scene
        .says(&client, &json!({"timeoutSeconds": 1}), "fail webhook", "it does not answer in time")
        .await;
    assert_eq!(silent.code(), 1);
    silent.must("fail webhook", "the API server can't call vmcpserver.toolhive.stacklok.dev");
    server.set_handler(|request| Reply::json(&review(request, true, "")));

    let other = json!({"url": server.url(PATH), "caBundle": STANDARD.encode(TestCa::new().pem())});
    let wrong =
        scene.says(&other, &as_is, "fail webhook", "its certificate is not from the CA in caBundle").await;
    wrong.must("fail webhook", "cert-manager.io/inject-ca-from");

    let elsewhere = Tls::with(&ca.server(&["elsewhere.example.com"]));
    let named =
        ScriptedServer::start_tls(&elsewhere, |request| Reply::json(&review(request, true, ""))).await;
    let client_of_other = json!({"url": named.url(PATH), "caBundle": bundle});
    scene.says(&client_of_other, &as_is, "fail webhook", "its certificate is for another name").await;

    let nobody = json!({"url": format!("https://127.0.0.1:{}{PATH}", free_port()), "caBundle": bundle});
    let down = scene.says(&nobody, &as_is, "fail webhook", "the webhook is down").await;
    down.must("fail webhook", "connection refused");

    server.set_handler(|_| Reply::status(404));
    scene.says(&client, &as_is, "fail webhook", "does not know the path").await;

    // Whoever may not look at configurations may still be told, if he may make MCPServers; this one may nothing.
    let nobody = doctor(&scene.plane, scene.plane.token_for("nobody"), &[]).await;
    nobody.must("skip webhook", "its configurations can't be read: there is no right to");
    nobody.must("skip webhook", "there is no right to create MCPServers in default");

    passed_over(&scene, &server, &client).await;
    half_installed(&scene, &bundle).await;
}

/// With failurePolicy Ignore an object is let in whether or not the webhook was asked.
async fn passed_over(scene: &Scene, server: &ScriptedServer, client: &Value) {
    let ignoring = json!({"failurePolicy": "Ignore"});
    let not_asked = "nothing shows that ValidatingWebhookConfiguration skep-webhook-validating-webhook-configuration was asked";
    server.set_handler(|request| Reply::json(&review(request, true, "")));
    let other = json!({"url": server.url(PATH), "caBundle": STANDARD.encode(TestCa::new().pem())});
    let passed = scene.says(&other, &ignoring, "warn webhook", not_asked).await;
    assert!(!passed.has("ok webhook", "is let in"), "{:#?}", passed.lines());
    passed.must("warn webhook", "Set it to Fail");

    server.set_handler(|request| {
        let mut answer = review(request, true, "");
        answer["response"]["warnings"] = json!(["spec: Nothing says who may come in, so everybody may."]);
        Reply::json(&answer)
    });
    let asked = scene.says(client, &ignoring, "ok webhook", "is let in within").await;
    assert!(!asked.has("warn webhook", not_asked), "{:#?}", asked.lines());

    // The one of before, and ours.
    let at = AT.replace("validating", "mutating");
    for name in ["toolhive-webhook", "skep-webhook"] {
        let mut object = configuration(client, &json!({}));
        object["kind"] = "MutatingWebhookConfiguration".into();
        object["metadata"]["name"] = name.into();
        let url = server.url("/mutate-toolhive-stacklok-dev-v1alpha1-mcpserver");
        object["webhooks"][0]["clientConfig"]["url"] = url.into();
        post(&scene.plane, &at, &object).await;
    }
    let both = scene.look().await;
    both.must("warn webhook", "several webhooks change the MCPServers of default: MutatingWebhookConfiguration skep-webhook, MutatingWebhookConfiguration toolhive-webhook");
    for name in ["toolhive-webhook", "skep-webhook"] {
        send(&scene.plane, "DELETE", &format!("{at}/{name}"), "application/json", &json!({})).await;
    }
}

/// An answer that comes late.
fn after(delay: Duration, body: &Value) -> Reply {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    Reply::raw([Step::Pause(delay), Step::Send(format!("{head}{body}").into())])
}

/// What the configuration itself says, with a Service of which nothing or not all is there.
async fn half_installed(scene: &Scene, bundle: &str) {
    let plane = &scene.plane;
    let service = json!({"namespace": "webhooks", "name": "s", "port": 443, "path": PATH});
    let client = json!({"service": service, "caBundle": bundle});
    // None of these is to be called for real: nothing routes to Services here.
    let nobody = json!({"matchLabels": {"no": "such"}, "matchExpressions": []});
    let quiet = json!({"namespaceSelector": nobody});
    let gone = scene.says(&client, &quiet, "fail webhook", "the Service webhooks/s, and there is none").await;
    gone.must("skip webhook", "it is not for objects of the namespace default");

    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "webhooks"}});
    post(plane, "/api/v1/namespaces", &namespace).await;
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"selector": {"app.kubernetes.io/name": "skep-webhook"}, "ports": [{"port": 443, "targetPort": 9443}]}});
    post(plane, "/api/v1/namespaces/webhooks/services", &object).await;
    let down = scene.says(&client, &quiet, "fail webhook", "no pod of the Service webhooks/s is ready").await;
    down.must("fail webhook", "kubectl -n webhooks describe pod -l app.kubernetes.io/name=skep-webhook");

    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s"},
        "subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 9443}]}]});
    post(plane, "/api/v1/namespaces/webhooks/endpoints", &endpoints).await;
    let up = scene.says(&client, &quiet, "ok webhook", "the Service webhooks/s has 1 ready pods").await;
    up.must("ok webhook", "is complete; its CA is valid until");

    let other_port = json!({"service": {"namespace": "webhooks", "name": "s", "port": 8443, "path": PATH}, "caBundle": bundle});
    scene.says(&other_port, &quiet, "fail webhook", "has no port 8443").await;

    let no_ca = json!({"service": service});
    let untrusted = scene.says(&no_ca, &quiet, "fail webhook", "it has no caBundle").await;
    untrusted.must("fail webhook", "The webhook fills it in (--self-signed)");

    let ignoring = json!({"namespaceSelector": nobody, "failurePolicy": "Ignore"});
    scene.says(&client, &ignoring, "warn webhook", "lets objects through unchecked").await;

    // Labels of the webhook's own namespace are those that the webhook is for.
    let own = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "webhooks"}}});
    scene.says(&client, &own, "warn webhook", "also for the webhook's own namespace webhooks").await;
}

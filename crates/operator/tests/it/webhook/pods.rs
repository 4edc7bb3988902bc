//! Mutation of pods.

use serde_json::{Value, json};
use skep_api::crd::Kind;
use skep_operator::cluster::Resource;
use skep_operator::plan::PodSidecars;
use skep_operator::sidecars::{Registration, SidecarMode};
use skep_operator::webhook::settings::{InjectionPoint, WebhookSettings};

use super::setup::{Setup, server, settings, warnings};

const PATH: &str = "/mutate--v1-pod";

fn of_pods() -> WebhookSettings {
    let mut settings = settings();
    settings.policy.default_on = true;
    settings.injection_point = InjectionPoint::Pod;
    settings
}

fn pod(owner: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{owner}-0"), "labels": {"toolhive": "true", "toolhive-name": owner},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": owner, "controller": true, "uid": "u"}],
        },
        "spec": {"containers": [{"name": "mcp", "image": "i"}]},
    })
}

#[tokio::test]
async fn a_pod_of_a_server_gets_sidecars_as_its_server_says() {
    let setup = Setup::with(&of_pods());
    setup.watched(Resource::Ours(Kind::MCPServer), server("s", &json!({})));
    let (injected, answer) = setup.mutate(PATH, &pod("s")).await;
    assert_eq!(injected["spec"]["containers"].as_array().unwrap().len(), 3);
    assert_eq!(answer["auditAnnotations"]["injection"], "true: flag");
    let (again, _) = setup.mutate(PATH, &injected).await;
    assert_eq!(again, injected);
    // The switch on the server counts.
    let mut off = server("s", &json!({}));
    off["metadata"]["annotations"] = json!({"kagenti.dev/inject": "false"});
    setup.watched(Resource::Ours(Kind::MCPServer), off);
    let (same, answer) = setup.mutate(PATH, &pod("s")).await;
    assert_eq!(same, pod("s"));
    assert_eq!(answer["auditAnnotations"]["injection"], "false: object-annotation");
}

#[tokio::test]
async fn a_server_whose_sidecars_come_with_its_pods_is_told_what_they_lack() {
    let mut settings = of_pods();
    settings.plan.sidecars =
        Some(PodSidecars { default_on: true, mode: SidecarMode::Builtin, registration: Registration::Pod });
    let setup = Setup::with(&settings);
    let told = |answer: &Value| {
        assert_eq!(answer["allowed"], true, "{answer}");
        warnings(answer).join("\n")
    };
    let lacks = told(&setup.create(&server("s", &json!({}))).await);
    for name in ["spiffe-helper-config", "environments", "keycloak-registration"] {
        assert!(lacks.contains(name), "{name}: {lacks}");
    }
    // Where the namespace says that there are none, they lack nothing.
    setup.namespace(json!({}), json!({"kagenti.dev/inject": "false"}));
    let lacks = told(&setup.create(&server("s", &json!({}))).await);
    assert!(!lacks.contains("environments"), "{lacks}");
    setup.namespace(json!({}), json!({}));
    // What is there is seen.
    setup.config_map("spiffe-helper-config", &json!({"helper.conf": "x"}));
    setup.config_map(
        "environments",
        &json!({"KEYCLOAK_URL": "https://keycloak.example.com", "KEYCLOAK_REALM": "r"}),
    );
    setup.secret("keycloak-registration", &json!({"initial-access-token": ""}));
    let lacks = told(&setup.create(&server("s", &json!({}))).await);
    assert!(!lacks.contains("does not exist") && !lacks.contains("has no key"), "{lacks}");
}

#[tokio::test]
async fn a_pod_of_nobody_stays_as_it_is() {
    let setup = Setup::with(&of_pods());
    let allowed = json!({"uid": "u-1", "allowed": true});
    // Its server is not there.
    assert_eq!(setup.mutate(PATH, &pod("none")).await.1, allowed);
    let mut free = pod("s");
    free["metadata"]["ownerReferences"] = json!([]);
    assert_eq!(setup.mutate(PATH, &free).await.1, allowed);
    // Sidecars come with the servers.
    let setup = Setup::new();
    setup.watched(Resource::Ours(Kind::MCPServer), server("s", &json!({})));
    assert_eq!(setup.mutate(PATH, &pod("s")).await.1, allowed);
}

#[tokio::test]
async fn a_server_that_was_made_a_moment_ago_is_asked_for() {
    let setup = Setup::with(&of_pods());
    let path = "/apis/toolhive.stacklok.dev/v1beta1/namespaces/ns/mcpservers/s";
    setup.api.failing.lock().unwrap().insert(path.to_owned(), 503);
    let answer = setup.review(PATH, json!({"object": pod("s")})).await;
    assert_eq!(answer["status"]["code"], 500, "{answer}");
    setup.api.failing.lock().unwrap().clear();
    setup.api.put(path, server("s", &json!({})));
    let (injected, _) = setup.mutate(PATH, &pod("s")).await;
    assert_eq!(injected["spec"]["containers"].as_array().unwrap().len(), 3);
}

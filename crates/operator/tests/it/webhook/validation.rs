//! Validation: updates, names, namespaces.

use serde_json::{Value, json};
use skep_api::crd::Kind;
use skep_operator::cluster::Resource;

use super::setup::{MUTATE, Setup, message, object, server, settings, warnings};

fn wrong() -> Value {
    server("s", &json!({"proxyPort": 99999}))
}

#[tokio::test]
async fn an_update_that_leaves_the_spec_as_it_is_is_never_denied() {
    let setup = Setup::new();
    let old = wrong();
    let mut labelled = old.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    labelled["metadata"]["finalizers"] = json!(["x.example.com/y"]);
    let answer = setup.update(&old, &labelled).await;
    assert_eq!(answer["allowed"], true);
    assert!(warnings(&answer).iter().any(|line| line.starts_with("spec.proxyPort: ")), "{answer}");
    assert!(!setup.api.take_asked().iter().any(|asked| asked.contains("pods")), "nobody asks who may");
    // A default that was filled in is no change; a change is one.
    let mut filled = labelled.clone();
    filled["spec"]["proxyMode"] = "streamable-http".into();
    assert_eq!(setup.update(&old, &filled).await["allowed"], true);
    filled["spec"]["image"] = "j".into();
    assert_eq!(setup.update(&old, &filled).await["allowed"], false);
}

#[tokio::test]
async fn what_the_webhook_injects_is_no_change_of_the_spec() {
    let mut settings = settings();
    settings.policy.default_on = true;
    let setup = Setup::with(&settings);
    let old = wrong();
    let (injected, _) = setup.mutate(MUTATE, &old).await;
    assert_ne!(old["spec"], injected["spec"]);
    assert_eq!(setup.update(&old, &injected).await["allowed"], true);
    assert_eq!(setup.update(&injected, &old).await["allowed"], true);
    // What it injects needs no rights of the user, and no label on the namespace.
    setup.config_map("environments", &json!({"KEYCLOAK_URL": "u", "KEYCLOAK_REALM": "r", "KEYCLOAK_ADMIN_USERNAME": "a", "KEYCLOAK_ADMIN_PASSWORD": "p"}));
    setup.secret(
        "keycloak-admin-secret",
        &json!({"KEYCLOAK_ADMIN_USERNAME": "", "KEYCLOAK_ADMIN_PASSWORD": ""}),
    );
    let (injected, _) = setup.mutate(MUTATE, &server("s", &json!({}))).await;
    assert!(injected.to_string().contains("keycloak-admin-secret"));
    setup.api.refused.lock().unwrap().push("get secrets keycloak-admin-secret".to_owned());
    let answer = setup.create(&injected).await;
    assert_eq!(answer["allowed"], true, "{}", message(&answer));
}

#[tokio::test]
async fn an_update_of_what_is_being_deleted_is_never_denied() {
    let setup = Setup::new();
    for kind in [Kind::MCPServer, Kind::MCPToolConfig] {
        let old = object(kind, "o", json!({"unknown": {"a": 1}, "proxyPort": 99999}));
        let mut new = old.clone();
        new["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        new["metadata"]["finalizers"] = json!([]);
        new["spec"]["unknown"] = json!(2);
        let answer = setup.update(&old, &new).await;
        assert_eq!(answer["allowed"], true, "{kind}");
        assert!(!warnings(&answer).is_empty(), "{kind}");
    }
    // Without anybody to ask, too.
    setup.api.failing.lock().unwrap().insert("/api/v1/namespaces/away".to_owned(), 500);
    let mut old = wrong();
    old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let request = json!({"operation": "UPDATE", "namespace": "away", "object": old, "oldObject": old});
    let answer = setup.review("/validate-toolhive-stacklok-dev-v1beta1-mcpserver", request).await;
    assert_eq!(answer["allowed"], true, "{answer}");
    assert!(warnings(&answer)[0].contains("was not checked"), "{answer}");
}

#[tokio::test]
async fn the_namespace_is_that_of_the_request() {
    let setup = Setup::new();
    let mut manifest = server("s", &json!({"secrets": [{"name": "x", "key": "k"}]}));
    for namespace in [json!("elsewhere"), Value::Null, json!(3)] {
        manifest["metadata"]["namespace"] = namespace;
        let answer = setup.create(&manifest).await;
        assert_eq!(answer["allowed"], true, "{answer}");
        let asked = setup.api.take_asked();
        assert!(asked.iter().all(|path| !path.contains("elsewhere")), "{asked:?}");
        setup.clock.advance(std::time::Duration::from_secs(11));
    }
    assert_eq!(setup.api.review.lock().unwrap()["spec"]["resourceAttributes"]["namespace"], "ns");
    manifest["metadata"].as_object_mut().unwrap().remove("namespace");
    assert_eq!(setup.create(&manifest).await["allowed"], true);
}

#[tokio::test]
async fn a_name_that_is_still_to_be_generated_is_not_missing() {
    let setup = Setup::new();
    let mut manifest = server("s", &json!({}));
    manifest["metadata"] = json!({"generateName": "tools-"});
    let answer = setup.create(&manifest).await;
    assert_eq!(answer["allowed"], true, "{answer}");
    manifest["metadata"] = json!({"generateName": format!("{}-", "long".repeat(20))});
    let answer = setup.create(&manifest).await;
    assert!(message(&answer).contains("metadata.name"), "{answer}");
}

#[tokio::test]
async fn a_new_object_is_the_youngest_and_a_changed_one_stays_where_it_is() {
    let setup = Setup::new();
    // A server and a remote proxy of one name would have the same Deployment.
    let stored = |kind: Kind, name: &str, created: &str| {
        let spec = if kind == Kind::MCPServer {
            server(name, &json!({}))["spec"].clone()
        } else {
            json!({"remoteUrl": "https://mcp.example.com", "authMode": "anonymous"})
        };
        let mut object = object(kind, name, spec);
        object["metadata"]["creationTimestamp"] = created.into();
        object
    };
    let proxy = stored(Kind::MCPRemoteProxy, "x", "2026-01-01T00:00:01Z");
    let server = stored(Kind::MCPServer, "x", "2026-01-01T00:00:02Z");
    let collides = |answer: &Value| {
        message(answer).contains("metadata.name") || warnings(answer).iter().any(|w| w.contains("is older"))
    };
    setup.watched(Resource::Ours(Kind::MCPRemoteProxy), proxy.clone());
    setup.api.put("/apis/toolhive.stacklok.dev/v1beta1/namespaces/ns/mcpremoteproxies/x", proxy.clone());
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}});
    setup.api.put("/api/v1/namespaces/ns", namespace);
    let new = setup.create(&server).await;
    assert!(collides(&new), "{new}");
    // The older one is not disturbed by the younger.
    setup.watched(Resource::Ours(Kind::MCPServer), server.clone());
    let mut changed = proxy.clone();
    changed["spec"]["remoteUrl"] = "https://other.example.com".into();
    assert_eq!(setup.update(&proxy, &changed).await["allowed"], true);
    // One that was deleted and is made anew is the youngest now.
    let again = setup.create(&changed).await;
    setup.api.put("/apis/toolhive.stacklok.dev/v1beta1/namespaces/ns/mcpservers/x", server);
    assert!(!collides(&again), "the server is gone, as the API server says: {again}");
    assert!(collides(&setup.create(&changed).await));
}

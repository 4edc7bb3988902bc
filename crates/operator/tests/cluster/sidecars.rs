//! What the operator does for sidecars: it says what they lack, and makes the helper's configuration.

use serde_json::{Value, json};
use skep_operator::plan::{PodSidecars, Settings};
use skep_operator::sidecars::{Registration, SidecarMode, default_helper_config};

use crate::harness::{Cluster, Operator, Options, found};

const BUILTIN: &str = r#"{"version":1,"mode":"builtin","registration":"pod","login":"registration-secret","containers":{"kagenti-client-registration":"0"}}"#;

/// A server whose annotations say this.
pub(crate) fn server(name: &str, annotations: Value) -> Value {
    json!({
        "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServer",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"image": "example.com/server:1", "transport": "streamable-http", "authMode": "anonymous"},
    })
}

fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn environments() -> Value {
    config_map("environments", json!({"KEYCLOAK_URL": "https://id.example.com/", "KEYCLOAK_REALM": "demo"}))
}

/// Waits until the condition is so, and says all of this.
async fn ready(cluster: &Cluster, name: &str, status: &str, says: &[&str]) -> Value {
    cluster
        .until("MCPServer", name, |server| {
            found(server, "SidecarsReady").is_some_and(|condition| {
                let message = condition["message"].as_str().unwrap_or_default();
                condition["status"] == status && says.iter().all(|says| message.contains(says))
            })
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_condition_follows_what_the_sidecars_need_as_it_comes_and_goes() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(server("s", json!({"skep.dev/injection": BUILTIN}))).await;
    let server = ready(&cluster, "s", "False", &["`environments`", "`keycloak-registration`"]).await;
    // The helper's configuration is there by now.
    let message = found(&server, "SidecarsReady").unwrap()["message"].as_str().unwrap().to_owned();
    assert!(!message.contains("spiffe-helper-config"), "{message}");
    assert!(
        found(&server, "Problems")
            .is_some_and(|problems| problems["message"].to_string().contains("environments"))
    );

    cluster.apply(environments()).await;
    let server = ready(&cluster, "s", "False", &["`keycloak-registration`"]).await;
    assert!(!found(&server, "SidecarsReady").unwrap()["message"].to_string().contains("environments"));
    let secret = |key: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keycloak-registration"}, "stringData": {key: "t"}});
    cluster.apply(secret("other")).await;
    ready(&cluster, "s", "False", &["can't be used"]).await;
    cluster.apply(secret("initial-access-token")).await;
    ready(&cluster, "s", "True", &[]).await;
    cluster.delete("ConfigMap", "environments").await;
    ready(&cluster, "s", "False", &["`environments`"]).await;
    cluster.apply(environments()).await;
    ready(&cluster, "s", "True", &[]).await;
    // One that was deleted is missing again, and made again.
    let first = cluster.get("ConfigMap", "spiffe-helper-config").await.unwrap();
    cluster.delete("ConfigMap", "spiffe-helper-config").await;
    cluster
        .until("ConfigMap", "spiffe-helper-config", |map| map["metadata"]["uid"] != first["metadata"]["uid"])
        .await;
    ready(&cluster, "s", "True", &[]).await;

    // Switched off, nothing is said of it.
    cluster.merge("MCPServer", "s", json!({"metadata": {"annotations": {"skep.dev/injection": null}}})).await;
    cluster.until("MCPServer", "s", |server| found(server, "SidecarsReady").is_none()).await;
    operator.settled().await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_helper_gets_a_configuration_where_it_has_none_and_a_users_own_is_left_alone() {
    let Some(cluster) = Cluster::new().await else { return };
    let Some(other) = Cluster::new().await else { return };
    let own = json!({"helper.conf": "agent_address = \"/mine\"\n"});
    other.apply(config_map("spiffe-helper-config", own.clone())).await;
    cluster.apply(environments()).await;
    let options = Options { more_namespaces: vec![other.namespace.clone()], ..Options::default() };
    let operator = Operator::with(&cluster, options).await;
    cluster.apply(server("plain", json!({}))).await;
    cluster.until("MCPServer", "plain", |server| found(server, "Ready").is_some()).await;
    assert_eq!(cluster.get("ConfigMap", "spiffe-helper-config").await, None, "nobody needs it");

    for namespace in [&cluster, &other] {
        namespace.apply(server("s", json!({"skep.dev/injection": BUILTIN}))).await;
        namespace.until("MCPServer", "s", |server| found(server, "SidecarsReady").is_some()).await;
    }
    let made = cluster.until("ConfigMap", "spiffe-helper-config", |_| true).await;
    assert_eq!(
        made["data"],
        json!({"helper.conf": default_helper_config("https://id.example.com/realms/demo")})
    );
    assert_eq!(made["metadata"]["labels"], json!({"app.kubernetes.io/managed-by": "skep"}));
    assert_eq!(made["metadata"].get("ownerReferences"), None);
    // Whoever changes it keeps what he wrote.
    cluster.merge("ConfigMap", "spiffe-helper-config", json!({"data": own})).await;
    cluster.merge("MCPServer", "s", json!({"spec": {"image": "example.com/server:2"}})).await;
    cluster.delete("MCPServer", "plain").await;
    operator.settled().await;
    cluster.delete("MCPServer", "s").await;
    cluster.gone("MCPServer", "s").await;
    operator.settled().await;
    for namespace in [&cluster, &other] {
        let map = namespace.get("ConfigMap", "spiffe-helper-config").await.unwrap();
        assert_eq!(map["data"], own);
    }
    let writes = operator.writes();
    let made: Vec<_> =
        writes.iter().filter(|call| call.path.contains("configmaps") && call.verb == "create").collect();
    assert_eq!(made.len(), 1, "{made:?}");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_that_come_with_pods_follow_the_namespaces_switch() {
    let Some(cluster) = Cluster::new().await else { return };
    let pods =
        PodSidecars { default_on: true, mode: SidecarMode::External, registration: Registration::Operator };
    let settings = Settings { sidecars: Some(pods), ..Settings::default() };
    let operator = Operator::with(&cluster, Options { settings: Some(settings), ..Options::default() }).await;
    cluster.apply(server("on", json!({}))).await;
    cluster.apply(server("off", json!({"kagenti.dev/inject": "false"}))).await;
    // Nobody told this operator how to register.
    cluster.condition("MCPServer", "on", "SidecarsReady", "False", "RegistrationNotConfigured").await;
    cluster.until("MCPServer", "off", |server| found(server, "Ready").is_some()).await;
    assert!(found(&cluster.get("MCPServer", "off").await.unwrap(), "SidecarsReady").is_none());
    cluster
        .merge("MCPServer", "off", json!({"metadata": {"annotations": {"kagenti.dev/inject": "true"}}}))
        .await;
    cluster.condition("MCPServer", "off", "SidecarsReady", "False", "RegistrationNotConfigured").await;
    cluster
        .merge("MCPServer", "on", json!({"metadata": {"annotations": {"kagenti.dev/inject": "false"}}}))
        .await;
    cluster.until("MCPServer", "on", |server| found(server, "SidecarsReady").is_none()).await;
    operator.stop().await;
}

//! Clients of MCP servers at Keycloak, registered from the operator's namespace.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skep_api::address::Egress;
use skep_operator::permissions::{Right, registration_rights};
use skep_operator::settings::RegistrationSettings;
use skep_testkit::keycloak::FakeKeycloak;
use tempfile::TempDir;

use crate::harness::{Cluster, Operator, Options, PATIENCE, found};
use crate::rbac::{install, kustomize, refused, used};
use crate::sidecars::server;

const REALM: &str = "demo";
const OPERATOR: &str = r#"{"version":1,"mode":"builtin","registration":"operator"}"#;
const POD: &str = r#"{"version":1,"mode":"builtin","registration":"pod","login":"registration-secret","containers":{"kagenti-client-registration":"0"}}"#;
const FINALIZER: &str = "skep.dev/keycloak-client";

/// A Keycloak with a realm, and the folder with a login for it.
struct Keycloak {
    fake: FakeKeycloak,
    credentials: TempDir,
}

impl Keycloak {
    async fn start() -> Self {
        let fake = FakeKeycloak::start().await;
        fake.realm(REALM);
        fake.service_account(REALM, "operator", "s3cret", &["manage-clients"]);
        let credentials = tempfile::tempdir().unwrap();
        let keycloak = Self { fake, credentials };
        keycloak.login("s3cret");
        keycloak
    }

    fn login(&self, secret: &str) {
        std::fs::write(self.credentials.path().join("client-id"), "operator").unwrap();
        std::fs::write(self.credentials.path().join("client-secret"), secret).unwrap();
    }

    fn settings(&self) -> RegistrationSettings {
        let folder = self.credentials.path().to_owned();
        let mut settings = RegistrationSettings::new(&self.fake.url(), REALM, folder, "example.org");
        settings.egress = Egress { loopback: true, deny: Vec::new() };
        // As often as that only here.
        settings.interval = Duration::from_millis(300);
        settings
    }

    fn options(&self) -> Options {
        Options { registration: Some(self.settings()), ..Options::default() }
    }

    fn client(&self, cluster: &Cluster, account: &str) -> Option<Value> {
        self.fake.client(REALM, &client_id(cluster, account))
    }

    async fn until(&self, cluster: &Cluster, account: &str, there: bool) {
        let started = tokio::time::Instant::now();
        while self.client(cluster, account).is_some() != there {
            assert!(started.elapsed() < PATIENCE, "the client of {account} should be there: {there}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn client_id(cluster: &Cluster, account: &str) -> String {
    format!("spiffe://example.org/ns/{}/sa/{account}", cluster.namespace)
}

fn noted(text: &str) -> Value {
    json!({"skep.dev/injection": text})
}

/// What a key of a Secret holds.
fn value(secret: &Value, key: &str) -> String {
    let bytes = STANDARD.decode(secret["data"][key].as_str().unwrap_or_default()).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Waits until a server's Secret has the credentials that Keycloak has, and gives it.
async fn credentials(cluster: &Cluster, keycloak: &Keycloak, server: &str, account: &str) -> Value {
    cluster
        .until("Secret", &format!("{server}-keycloak-client"), |secret| {
            let Some(client) = keycloak.client(cluster, account) else { return false };
            value(secret, "client-id.txt") == client_id(cluster, account)
                && value(secret, "client-secret.txt") == client["secret"]
                && value(secret, "secret.txt") == client["secret"]
        })
        .await
}

async fn registered(cluster: &Cluster, server: &str) -> Value {
    cluster.condition("MCPServer", server, "SidecarsReady", "True", "PrerequisitesMet").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_registered_kept_as_it_should_be_and_goes_with_its_server() {
    let Some(cluster) = Cluster::new().await else { return };
    let keycloak = Keycloak::start().await;
    let operator = Operator::with(&cluster, keycloak.options()).await;
    cluster.apply(server("s", noted(OPERATOR))).await;
    let object = registered(&cluster, "s").await;
    assert_eq!(object["metadata"]["finalizers"], json!([FINALIZER]));
    let secret = credentials(&cluster, &keycloak, "s", "s-sa").await;
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], object["metadata"]["uid"]);
    assert_eq!(secret["metadata"]["labels"]["toolhive-name"], "s");
    let client = keycloak.client(&cluster, "s-sa").unwrap();
    assert_eq!(client["publicClient"], false);
    assert_eq!(client["name"], format!("{}/s", cluster.namespace));
    // The value is nowhere but in the Secret.
    let value_of = client["secret"].as_str().unwrap().to_owned();
    assert!(!object.to_string().contains(&value_of));
    operator.settled().await;
    let before = operator.writes().len();

    // Nobody at home any more; another secret; the Secret gone; the Secret edited.
    keycloak.fake.delete_client(REALM, &client_id(&cluster, "s-sa"));
    keycloak.until(&cluster, "s-sa", true).await;
    let fresh = credentials(&cluster, &keycloak, "s", "s-sa").await;
    assert_ne!(fresh["data"], secret["data"], "the new client has another secret");
    keycloak.fake.rotate_secret(REALM, &client_id(&cluster, "s-sa"));
    let rotated = credentials(&cluster, &keycloak, "s", "s-sa").await;
    assert_ne!(rotated["data"], fresh["data"]);
    cluster.delete("Secret", "s-keycloak-client").await;
    credentials(&cluster, &keycloak, "s", "s-sa").await;
    cluster.merge("Secret", "s-keycloak-client", json!({"stringData": {"client-secret.txt": "x"}})).await;
    credentials(&cluster, &keycloak, "s", "s-sa").await;
    operator.settled().await;
    let writes: Vec<_> =
        operator.writes().into_iter().skip(before).filter(|call| call.resource == "secrets").collect();
    assert_eq!(writes.len(), 4, "one for each: {writes:?}");

    cluster.delete("MCPServer", "s").await;
    cluster.gone("MCPServer", "s").await;
    assert!(keycloak.client(&cluster, "s-sa").is_none());
    let text = operator.registry.encode();
    for outcome in ["created", "changed", "unchanged", "deleted"] {
        assert!(
            text.contains(&format!("skep_operator_client_registrations_total{{outcome=\"{outcome}\"}}")),
            "{text}"
        );
    }
    assert!(!text.contains(&value_of));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keycloak_that_is_down_holds_up_nothing_but_what_needs_it() {
    let Some(cluster) = Cluster::new().await else { return };
    let keycloak = Keycloak::start().await;
    keycloak.fake.outage(true);
    let mut options = keycloak.options();
    if let Some(settings) = &mut options.registration {
        settings.patience = Duration::from_secs(4);
    }
    let operator = Operator::with(&cluster, options).await;
    cluster.apply(server("s", noted(OPERATOR))).await;
    cluster.condition("MCPServer", "s", "SidecarsReady", "False", "RegistrationFailed").await;
    // What runs is made all the same.
    cluster.until("Deployment", "s", |_| true).await;
    cluster.apply(server("other", json!({}))).await;
    cluster.until("Deployment", "other", |_| true).await;
    keycloak.fake.outage(false);
    registered(&cluster, "s").await;
    credentials(&cluster, &keycloak, "s", "s-sa").await;

    // A login that is refused, and one that is put right.
    keycloak.login("wrong");
    let refused = cluster.condition("MCPServer", "s", "SidecarsReady", "False", "RegistrationFailed").await;
    let message = found(&refused, "SidecarsReady").unwrap()["message"].to_string();
    assert!(message.contains("operator") && !message.contains("wrong"), "{message}");
    keycloak.login("s3cret");
    registered(&cluster, "s").await;

    // Deleted meanwhile: it waits, but not for ever.
    keycloak.fake.outage(true);
    cluster.delete("MCPServer", "s").await;
    let going = cluster.get("MCPServer", "s").await.expect("it waits for its client");
    assert_eq!(going["metadata"]["finalizers"], json!([FINALIZER]));
    cluster.gone("MCPServer", "s").await;
    operator.settled().await;
    let events = cluster.list("Event").await;
    assert!(events.iter().any(|event| event["reason"] == "ClientLeftBehind"), "{events:?}");
    keycloak.fake.outage(false);
    assert!(keycloak.client(&cluster, "s-sa").is_some());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_share_an_account_share_a_client_which_goes_with_the_last() {
    let Some(cluster) = Cluster::new().await else { return };
    let keycloak = Keycloak::start().await;
    let operator = Operator::with(&cluster, keycloak.options()).await;
    for name in ["a", "b"] {
        let mut object = server(name, noted(OPERATOR));
        object["spec"]["serviceAccount"] = "shared".into();
        cluster.apply(object).await;
    }
    let a = credentials(&cluster, &keycloak, "a", "shared").await;
    let b = credentials(&cluster, &keycloak, "b", "shared").await;
    assert_eq!(a["data"], b["data"]);
    cluster.delete("MCPServer", "a").await;
    cluster.gone("MCPServer", "a").await;
    assert!(keycloak.client(&cluster, "shared").is_some());
    // Another account is another client; the one of before has nobody left.
    cluster.merge("MCPServer", "b", json!({"spec": {"serviceAccount": null}})).await;
    credentials(&cluster, &keycloak, "b", "b-sa").await;
    keycloak.until(&cluster, "shared", false).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_there_before_stays_unless_its_account_is_the_servers_own() {
    let Some(cluster) = Cluster::new().await else { return };
    let keycloak = Keycloak::start().await;
    let operator = Operator::with(&cluster, keycloak.options()).await;
    // Another operator's life: it made the client, and this one finds it.
    let mut object = server("s", noted(OPERATOR));
    object["spec"]["serviceAccount"] = "agents".into();
    cluster.apply(object).await;
    credentials(&cluster, &keycloak, "s", "agents").await;
    registered(&cluster, "s").await;
    // Without this nobody knows who made it.
    operator.stop().await;
    cluster.delete("Secret", "s-keycloak-client").await;
    let operator = Operator::with(&cluster, keycloak.options()).await;
    credentials(&cluster, &keycloak, "s", "agents").await;
    cluster.delete("MCPServer", "s").await;
    cluster.gone("MCPServer", "s").await;
    assert!(keycloak.client(&cluster, "agents").is_some(), "others may run as this account");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_somebody_else_made_is_given_to_nobody_who_names_its_account() {
    let Some(cluster) = Cluster::new().await else { return };
    let keycloak = Keycloak::start().await;
    let theirs = |account: &str| {
        json!({
            "clientId": client_id(&cluster, account), "secret": "theirs", "serviceAccountsEnabled": true,
            "standardFlowEnabled": true, "directAccessGrantsEnabled": true, "fullScopeAllowed": true,
        })
    };
    for account in ["agents", "own-sa"] {
        keycloak.fake.put_client(REALM, &theirs(account));
    }
    let before = keycloak.client(&cluster, "agents").unwrap();
    let operator = Operator::with(&cluster, keycloak.options()).await;
    let mut object = server("s", noted(OPERATOR));
    object["spec"]["serviceAccount"] = "agents".into();
    cluster.apply(object).await;
    let refused = cluster.condition("MCPServer", "s", "SidecarsReady", "False", "RegistrationFailed").await;
    let message = found(&refused, "SidecarsReady").unwrap()["message"].to_string();
    assert!(message.contains("was not made by skep") && message.contains("skep.dev/managed-by"), "{message}");
    operator.settled().await;
    assert_eq!(keycloak.client(&cluster, "agents").unwrap(), before);
    assert!(cluster.get("Secret", "s-keycloak-client").await.is_none());
    // Whoever may manage clients can say that it is meant.
    let mark = json!({"attributes": {"skep.dev/managed-by": "skep"}});
    keycloak.fake.change_client(REALM, &client_id(&cluster, "agents"), &mark);
    credentials(&cluster, &keycloak, "s", "agents").await;
    assert_eq!(keycloak.client(&cluster, "agents").unwrap()["fullScopeAllowed"], false);

    // An account of the server's own is nobody else's; what its client may besides stays, and is told.
    cluster.apply(server("own", noted(OPERATOR))).await;
    let secret = credentials(&cluster, &keycloak, "own", "own-sa").await;
    assert_eq!(value(&secret, "secret.txt"), "theirs");
    let client = keycloak.client(&cluster, "own-sa").unwrap();
    for field in ["standardFlowEnabled", "directAccessGrantsEnabled", "fullScopeAllowed"] {
        assert_eq!(client[field], true, "{field}");
    }
    let object = registered(&cluster, "own").await;
    let message = found(&object, "SidecarsReady").unwrap()["message"].to_string();
    assert!(message.contains("standardFlowEnabled"), "{message}");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_audience_is_everybodys_only_where_that_was_asked_for() {
    let Some(cluster) = Cluster::new().await else { return };
    let keycloak = Keycloak::start().await;
    let operator = Operator::with(&cluster, keycloak.options()).await;
    let before = keycloak.fake.default_scopes(REALM);
    cluster.apply(server("s", noted(OPERATOR))).await;
    registered(&cluster, "s").await;
    let scope = format!("agent-{}-s-aud", cluster.namespace);
    assert_eq!(keycloak.fake.scope(REALM, &scope), None);
    operator.stop().await;

    let mut options = keycloak.options();
    if let Some(settings) = &mut options.registration {
        settings.audience_scope = true;
    }
    let operator = Operator::with(&cluster, options).await;
    let started = tokio::time::Instant::now();
    while !keycloak.fake.default_scopes(REALM).contains(&scope) {
        assert!(started.elapsed() < PATIENCE, "{:?}", keycloak.fake.default_scopes(REALM));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    operator.stop().await;

    // It goes with its client, also where it isn't asked for any more.
    let operator = Operator::with(&cluster, keycloak.options()).await;
    cluster.delete("MCPServer", "s").await;
    cluster.gone("MCPServer", "s").await;
    assert_eq!(keycloak.fake.scope(REALM, &scope), None);
    assert_eq!(keycloak.fake.default_scopes(REALM), before);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_login_is_not_tried_by_one_server_after_the_other() {
    let Some(cluster) = Cluster::new().await else { return };
    let keycloak = Keycloak::start().await;
    keycloak.login("wrong");
    let operator = Operator::with(&cluster, keycloak.options()).await;
    let servers = ["a", "b", "c", "d", "e", "f"];
    for name in servers {
        cluster.apply(server(name, noted(OPERATOR))).await;
    }
    for name in servers {
        let refused =
            cluster.condition("MCPServer", name, "SidecarsReady", "False", "RegistrationFailed").await;
        let message = found(&refused, "SidecarsReady").unwrap()["message"].to_string();
        assert!(message.contains("not tried again for 10 minutes"), "{message}");
    }
    let logins = keycloak.fake.requests().iter().filter(|call| call.path().ends_with("/token")).count();
    assert_eq!(logins, 1);
    keycloak.login("s3cret");
    for name in servers {
        registered(&cluster, name).await;
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_no_longer_leaves_it_to_the_operator_loses_the_secret_and_keeps_the_identity() {
    let Some(cluster) = Cluster::new().await else { return };
    let keycloak = Keycloak::start().await;
    let operator = Operator::with(&cluster, keycloak.options()).await;
    let free = |object: &Value| object["metadata"].get("finalizers").is_none();
    cluster.apply(server("pod", noted(OPERATOR))).await;
    cluster.apply(server("off", noted(OPERATOR))).await;
    for name in ["pod", "off"] {
        registered(&cluster, name).await;
    }
    cluster.merge("MCPServer", "pod", json!({"metadata": {"annotations": noted(POD)}})).await;
    cluster.until("MCPServer", "pod", free).await;
    cluster.gone("Secret", "pod-keycloak-client").await;
    assert!(keycloak.client(&cluster, "pod-sa").is_some(), "its sidecar registers the same client");
    cluster
        .merge("MCPServer", "off", json!({"metadata": {"annotations": {"skep.dev/injection": null}}}))
        .await;
    cluster.until("MCPServer", "off", free).await;
    cluster.gone("Secret", "off-keycloak-client").await;
    assert!(keycloak.client(&cluster, "off-sa").is_none());
    // And on again.
    cluster.merge("MCPServer", "off", json!({"metadata": {"annotations": noted(OPERATOR)}})).await;
    credentials(&cluster, &keycloak, "off", "off-sa").await;
    operator.stop().await;

    // An operator that registers nobody holds nobody back.
    let operator = Operator::start(&cluster).await;
    cluster.condition("MCPServer", "off", "SidecarsReady", "False", "RegistrationNotConfigured").await;
    cluster.delete("MCPServer", "off").await;
    cluster.gone("MCPServer", "off").await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_secret_of_the_name_is_not_touched() {
    let Some(cluster) = Cluster::new().await else { return };
    let keycloak = Keycloak::start().await;
    let theirs = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s-keycloak-client"},
        "stringData": {"mine": "x"}});
    let theirs = cluster.apply(theirs).await;
    let operator = Operator::with(&cluster, keycloak.options()).await;
    cluster.apply(server("s", noted(OPERATOR))).await;
    let failed = cluster.condition("MCPServer", "s", "SidecarsReady", "False", "RegistrationFailed").await;
    assert!(
        found(&failed, "SidecarsReady").unwrap()["message"].to_string().contains("belongs to somebody else")
    );
    assert!(keycloak.client(&cluster, "s-sa").is_none(), "nobody would get its credentials");
    let now = cluster.get("Secret", "s-keycloak-client").await.unwrap();
    assert_eq!(now["metadata"]["resourceVersion"], theirs["metadata"]["resourceVersion"]);
    cluster.delete("Secret", "s-keycloak-client").await;
    credentials(&cluster, &keycloak, "s", "s-sa").await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_takes_the_rights_of_its_component_and_each_of_them_is_used() {
    let Some(cluster) = Cluster::new().await else { return };
    let keycloak = Keycloak::start().await;
    let here = |path: &str| -> Vec<Value> {
        kustomize(path)
            .into_iter()
            .map(|mut object| {
                // In one namespace: the ClusterRole as a Role, with its binding.
                for field in ["kind", "roleRef"] {
                    let text = object[field].to_string().replace("ClusterRole", "Role");
                    object[field] = serde_json::from_str(&text).unwrap();
                }
                object["metadata"]["namespace"] = cluster.namespace.clone().into();
                object
            })
            .collect()
    };
    let token = install(cluster.plane, &here("namespaced/watched/rbac.yaml")).await;
    let options = || Options { token: Some(token.clone()), ..keycloak.options() };
    let operator = Operator::with(&cluster, options()).await;
    cluster.apply(server("s", noted(OPERATOR))).await;
    let failed = cluster.condition("MCPServer", "s", "SidecarsReady", "False", "RegistrationFailed").await;
    let message = found(&failed, "SidecarsReady").unwrap()["message"].to_string();
    assert!(message.contains("secrets") && message.contains("forbidden"), "{message}");
    operator.stop().await;

    install(cluster.plane, &here("registration/rbac.yaml")).await;
    let operator = Operator::with(&cluster, options()).await;
    credentials(&cluster, &keycloak, "s", "s-sa").await;
    registered(&cluster, "s").await;
    cluster.merge("MCPServer", "s", json!({"metadata": {"annotations": {"skep.dev/injection": null}}})).await;
    cluster.gone("Secret", "s-keycloak-client").await;
    operator.settled().await;
    let calls = operator.recorder.calls();
    operator.stop().await;
    assert_eq!(refused(&calls), Vec::<String>::new());
    let idle: BTreeSet<Right> = registration_rights().difference(&used(&calls)).cloned().collect();
    assert!(idle.is_empty(), "granted and never used: {idle:?}");
}

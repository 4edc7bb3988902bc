//! MCPExternalAuthConfig with those who refer to it.

use serde_json::{Value, json};

use crate::harness::{Cluster, Operator, found};
use crate::rows_objects::{event, guarded, judged, login, ours, proxy, run_config, secret, server};

fn exchange(cluster: &Cluster, name: &str, audience: &str) -> Value {
    let spec = json!({"type": "tokenExchange", "tokenExchange": {
        "tokenUrl": "https://login.example.com/token", "audience": audience, "clientId": "gate",
        "clientSecretRef": {"name": "client", "key": "secret"}, "scopes": ["read"]}});
    ours(cluster, "MCPExternalAuthConfig", name, spec)
}

fn embedded(cluster: &Cluster, name: &str, upstreams: &[&str]) -> Value {
    let upstreams: Vec<Value> = upstreams
        .iter()
        .map(|name| json!({"name": name, "type": "oidc", "oidcConfig": {"issuerUrl": "https://login.example.com", "clientId": "c"}}))
        .collect();
    let spec = json!({"type": "embeddedAuthServer", "embeddedAuthServer": {
        "issuer": "https://auth.example.com", "upstreamProviders": upstreams}});
    ours(cluster, "MCPExternalAuthConfig", name, spec)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_auth_config_has_a_finalizer_a_hash_and_a_verdict() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(secret(&cluster, "client", "secret", "x")).await;
    cluster.apply(exchange(&cluster, "e", "backend")).await;
    let config =
        cluster.condition("MCPExternalAuthConfig", "e", "Valid", "True", "ValidationSucceeded").await;
    assert_eq!(
        config["metadata"]["finalizers"],
        json!(["mcpexternalauthconfig.toolhive.stacklok.dev/finalizer"])
    );
    assert_eq!(config["status"]["observedGeneration"], 1);
    assert_eq!(found(&config, "Valid").unwrap()["observedGeneration"], 1);
    assert_eq!(found(&config, "Ready").unwrap()["status"], "True");
    let hash = config["status"]["configHash"].as_str().unwrap().to_owned();
    assert!(!hash.is_empty());

    cluster
        .merge("MCPExternalAuthConfig", "e", json!({"spec": {"tokenExchange": {"audience": "other"}}}))
        .await;
    let edited = cluster
        .until("MCPExternalAuthConfig", "e", |config| config["status"]["observedGeneration"] == 2)
        .await;
    assert_ne!(edited["status"]["configHash"], hash);
    // What it means is what counts: with the old content the hash is the old one.
    cluster
        .merge("MCPExternalAuthConfig", "e", json!({"spec": {"tokenExchange": {"audience": "backend"}}}))
        .await;
    cluster.until("MCPExternalAuthConfig", "e", |config| config["status"]["configHash"] == hash).await;
    // An edit of its metadata is no edit of what it means.
    operator.settled().await;
    operator.recorder.clear();
    cluster.merge("MCPExternalAuthConfig", "e", json!({"metadata": {"labels": {"a": "b"}}})).await;
    operator.settled().await;
    assert_eq!(operator.writes(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_exchange_reaches_the_status_and_the_run_config_of_who_refers_to_it() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(secret(&cluster, "client", "secret", "a-secret-value")).await;
    cluster.apply(login(&cluster)).await;
    cluster.apply(exchange(&cluster, "e", "backend")).await;
    let refers = json!({"externalAuthConfigRef": {"name": "e"}});
    cluster.apply(guarded(server(&cluster, "s"), refers.clone())).await;
    cluster.apply(guarded(proxy(&cluster, "p"), refers)).await;
    let audience =
        |wanted: &'static str| move |config: &Value| config["token_exchange_config"]["audience"] == wanted;
    for (kind, name) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")] {
        let config = run_config(&cluster, name, audience("backend")).await;
        let exchange = &config["token_exchange_config"];
        assert_eq!(exchange["token_url"], "https://login.example.com/token");
        assert_eq!(exchange["client_id"], "gate");
        assert_eq!(exchange["scopes"], json!(["read"]));
        assert!(!config.to_string().contains("a-secret-value"));
        let stages = config["middleware_configs"].as_array().unwrap();
        assert!(stages.iter().any(|stage| stage["type"] == "tokenexchange"), "{stages:?}");
        let own = cluster
            .until("MCPExternalAuthConfig", "e", |config| config["status"]["configHash"].is_string())
            .await;
        cluster
            .until(kind, name, |object| {
                object["status"]["externalAuthConfigHash"] == own["status"]["configHash"]
            })
            .await;
        let deployment = cluster.until("Deployment", name, |_| true).await;
        assert!(!deployment.to_string().contains("a-secret-value"));
    }

    let before = cluster.get("MCPExternalAuthConfig", "e").await.unwrap()["status"]["configHash"].clone();
    cluster
        .merge("MCPExternalAuthConfig", "e", json!({"spec": {"tokenExchange": {"audience": "other"}}}))
        .await;
    for (kind, name) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")] {
        run_config(&cluster, name, audience("other")).await;
        let object =
            cluster.until(kind, name, |object| object["status"]["externalAuthConfigHash"] != before).await;
        assert_eq!(object["metadata"]["generation"], 1, "the spec of a user is never written");
        cluster
            .until("MCPExternalAuthConfig", "e", |config| {
                config["status"]["configHash"] == object["status"]["externalAuthConfigHash"]
            })
            .await;
    }
    // The reference goes, and so does what came with it.
    cluster.merge("MCPServer", "s", json!({"spec": {"externalAuthConfigRef": null}})).await;
    run_config(&cluster, "s", |config| config["token_exchange_config"].is_null()).await;
    cluster.until("MCPServer", "s", |object| object["status"]["externalAuthConfigHash"].is_null()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_proxy_says_that_its_external_auth_is_missing_there_or_broken() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(login(&cluster)).await;
    cluster.apply(guarded(proxy(&cluster, "p"), json!({"externalAuthConfigRef": {"name": "e"}}))).await;
    let condition = "ExternalAuthConfigValidated";
    let proxy =
        cluster.condition("MCPRemoteProxy", "p", condition, "False", "ExternalAuthConfigNotFound").await;
    assert_eq!(proxy["status"]["phase"], "Failed");
    assert_eq!(found(&proxy, "ConfigurationValid").unwrap()["status"], "False");
    assert_eq!(found(&proxy, "Ready").unwrap()["status"], "False");
    assert!(cluster.get("Deployment", "p").await.is_none());
    assert_eq!(event(&cluster, "p", "ExternalAuthConfigNotFound").await["type"], "Warning");

    cluster.apply(exchange(&cluster, "e", "backend")).await;
    cluster.condition("MCPExternalAuthConfig", "e", "Valid", "False", "SecretNotFound").await;
    cluster.apply(secret(&cluster, "client", "secret", "x")).await;
    let proxy = cluster.condition("MCPRemoteProxy", "p", condition, "True", "ExternalAuthConfigValid").await;
    assert_eq!(proxy["status"]["phase"], "Pending");
    cluster.until("Deployment", "p", |_| true).await;

    // It is broken, and whoever refers to it says so; what runs goes on.
    let before = cluster.get("ConfigMap", "p-runconfig").await.unwrap()["data"].clone();
    cluster
        .merge(
            "MCPExternalAuthConfig",
            "e",
            json!({"spec": {"tokenExchange": {"tokenUrl": "ftp://login.example.com"}}}),
        )
        .await;
    cluster.condition("MCPExternalAuthConfig", "e", "Valid", "False", "ValidationFailed").await;
    cluster.until("MCPRemoteProxy", "p", |object| object["status"]["phase"] == "Failed").await;
    assert_eq!(cluster.get("ConfigMap", "p-runconfig").await.unwrap()["data"], before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_nowhere_is_said_by_the_config_and_by_who_refers_to_it() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(login(&cluster)).await;
    cluster.apply(ours(&cluster, "MCPExternalAuthConfig", "obo", json!({"type": "obo", "obo": {}}))).await;
    let config =
        cluster.condition("MCPExternalAuthConfig", "obo", "Valid", "False", "EnterpriseRequired").await;
    assert_eq!(config["spec"], json!({"type": "obo", "obo": {}}), "an empty block is kept");
    let refers = json!({"externalAuthConfigRef": {"name": "obo"}});
    for (kind, object) in [("MCPServer", server(&cluster, "s")), ("MCPRemoteProxy", proxy(&cluster, "p"))] {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        cluster.apply(guarded(object, refers.clone())).await;
        let judged = cluster
            .condition(kind, &name, "ExternalAuthConfigValidated", "False", "EnterpriseRequired")
            .await;
        assert_eq!(judged["status"]["phase"], "Failed");
        assert!(cluster.get("Deployment", &name).await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_server_is_refused_by_name_until_there_is_one() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(login(&cluster)).await;
    cluster.apply(embedded(&cluster, "one", &["a"])).await;
    cluster.apply(embedded(&cluster, "many", &["a", "b"])).await;
    cluster.apply(ours(&cluster, "MCPExternalAuthConfig", "other", json!({"type": "unauthenticated"}))).await;
    let condition = "AuthServerRefValidated";
    let reference = |name: &str| json!({"authServerRef": {"kind": "MCPExternalAuthConfig", "name": name}});
    for (kind, object) in [("MCPServer", server(&cluster, "s")), ("MCPRemoteProxy", proxy(&cluster, "p"))] {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        cluster.apply(guarded(object, reference("gone"))).await;
        let judged = cluster.condition(kind, &name, condition, "False", "AuthServerRefNotFound").await;
        assert_eq!(judged["status"]["phase"], "Failed");
        cluster.merge(kind, &name, json!({"spec": reference("other")})).await;
        cluster.condition(kind, &name, condition, "False", "AuthServerRefInvalidType").await;
        cluster.merge(kind, &name, json!({"spec": reference("many")})).await;
        cluster.condition(kind, &name, condition, "False", "").await;
        cluster.merge(kind, &name, json!({"spec": reference("one")})).await;
        let judged = cluster.condition(kind, &name, condition, "False", "AuthServerRefInvalidConfig").await;
        assert_eq!(judged["status"]["phase"], "Failed");
        cluster
            .until(kind, &name, |object| {
                let hash = &object["status"]["authServerConfigHash"];
                hash.is_string()
            })
            .await;
        // The old place for it is judged too.
        cluster
            .merge(
                kind,
                &name,
                json!({"spec": {"authServerRef": null, "externalAuthConfigRef": {"name": "one"}}}),
            )
            .await;
        let judged = cluster.condition(kind, &name, "ExternalAuthConfigValidated", "False", "").await;
        assert_eq!(judged["status"]["phase"], "Failed");
        assert!(cluster.get("Deployment", &name).await.is_none());
        // Both at once are no better.
        cluster.merge(kind, &name, json!({"spec": reference("one")})).await;
        let both = cluster.condition(kind, &name, condition, "False", "").await;
        assert_eq!(both["status"]["phase"], "Failed");
        // Its kind is one of a list.
        cluster.merge(kind, &name, json!({"spec": {"authServerRef": {"kind": "Secret"}}})).await;
        cluster.condition(kind, &name, condition, "False", "AuthServerRefInvalidKind").await;
    }
    cluster
        .merge(
            "MCPServer",
            "s",
            json!({"spec": {"authServerRef": null, "externalAuthConfigRef": {"name": "other"}}}),
        )
        .await;
    cluster.until("Deployment", "s", |_| true).await;
    assert_eq!(judged(&cluster, "MCPServer", "s").await["status"]["phase"], "Pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_is_made_up_is_said() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(embedded(&cluster, "known", &["a"])).await;
    cluster
        .condition(
            "MCPExternalAuthConfig",
            "known",
            "IdentitySynthesized",
            "False",
            "AllUpstreamsHaveUserInfo",
        )
        .await;
    let mut unknown = embedded(&cluster, "unknown", &["a"]);
    unknown["spec"]["embeddedAuthServer"]["upstreamProviders"] = json!([{"name": "a", "type": "oauth2", "oauth2Config": {
        "authorizationEndpoint": "https://login.example.com/authorize", "tokenEndpoint": "https://login.example.com/token", "clientId": "c"}}]);
    cluster.apply(unknown).await;
    cluster
        .condition(
            "MCPExternalAuthConfig",
            "unknown",
            "IdentitySynthesized",
            "True",
            "OAuth2UpstreamWithoutUserInfo",
        )
        .await;
    cluster.condition("MCPExternalAuthConfig", "unknown", "Valid", "True", "ValidationSucceeded").await;
}

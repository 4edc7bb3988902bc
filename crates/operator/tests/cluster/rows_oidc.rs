//! MCPOIDCConfig with those who refer to it.

use serde_json::{Value, json};

use crate::harness::{Cluster, Operator, found};
use crate::rows_objects::{
    config_map, container, event, guarded, judged, login, mount, ours, run_config, secret, volume, with,
    workload,
};

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_oidc_config_has_a_finalizer_a_hash_and_a_verdict() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(login(&cluster)).await;
    let config = cluster.condition("MCPOIDCConfig", "login", "Valid", "True", "ConfigValid").await;
    assert_eq!(config["metadata"]["finalizers"], json!(["mcpoidcconfig.toolhive.stacklok.dev/finalizer"]));
    assert_eq!(config["status"]["observedGeneration"], 1);
    let hash = config["status"]["configHash"].clone();
    assert!(hash.is_string());

    cluster
        .merge("MCPOIDCConfig", "login", json!({"spec": {"inline": {"issuer": "http://login.example.com"}}}))
        .await;
    let bad = cluster.condition("MCPOIDCConfig", "login", "Valid", "False", "ConfigInvalid").await;
    assert_ne!(bad["status"]["configHash"], hash);
    assert_eq!(found(&bad, "Ready").unwrap()["status"], "False");
    assert_eq!(event(&cluster, "login", "ConfigInvalid").await["type"], "Warning");
    cluster
        .merge("MCPOIDCConfig", "login", json!({"spec": {"inline": {"issuer": "https://login.example.com"}}}))
        .await;
    let good = cluster.condition("MCPOIDCConfig", "login", "Valid", "True", "ConfigValid").await;
    assert_eq!(good["status"]["configHash"], hash);
    assert_eq!(event(&cluster, "login", "ConfigValid").await["type"], "Normal");

    // Nobody refers to it, so it goes as soon as it is asked to.
    cluster.delete("MCPOIDCConfig", "login").await;
    cluster.gone("MCPOIDCConfig", "login").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oidc_config_reaches_the_status_and_the_run_config_of_who_refers_to_it() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(secret(&cluster, "introspection", "secret", "x")).await;
    let inline = json!({"issuer": "https://login.example.com", "jwksUrl": "https://keys.example.com/jwks",
        "introspectionUrl": "https://login.example.com/introspect", "clientId": "gate",
        "clientSecretRef": {"name": "introspection", "key": "secret"}, "jwksAllowPrivateIP": true});
    cluster
        .apply(ours(&cluster, "MCPOIDCConfig", "login", json!({"type": "inline", "inline": inline})))
        .await;
    let named = json!({"oidcConfigRef": {"name": "login", "audience": "mcp", "resourceUrl": "https://gate.example.com/mcp", "scopes": ["read", "write"]}});
    for (kind, name) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")] {
        cluster.apply(guarded(workload(&cluster, kind, name), named.clone())).await;
        let object =
            cluster.condition(kind, name, "OIDCConfigRefValidated", "True", "OIDCConfigRefValid").await;
        let config = cluster
            .until("MCPOIDCConfig", "login", |config| config["status"]["configHash"].is_string())
            .await;
        assert_eq!(object["status"]["oidcConfigHash"], config["status"]["configHash"]);
        let rendered = run_config(&cluster, name, |_| true).await;
        let oidc = &rendered["oidc_config"];
        for (field, value) in [
            ("Issuer", json!("https://login.example.com")),
            ("Audience", json!("mcp")),
            ("JWKSURL", json!("https://keys.example.com/jwks")),
            ("IntrospectionURL", json!("https://login.example.com/introspect")),
            ("ClientID", json!("gate")),
            ("AllowPrivateIP", json!(true)),
            ("ResourceURL", json!("https://gate.example.com/mcp")),
            ("Scopes", json!(["read", "write"])),
        ] {
            let found = oidc.as_object().unwrap().iter().find(|(name, _)| name.eq_ignore_ascii_case(field));
            assert_eq!(found.map(|(_, value)| value), Some(&value), "{kind} {field}: {oidc}");
        }
        let deployment = cluster.until("Deployment", name, |_| true).await;
        let env = container(&deployment)["env"].as_array().unwrap();
        let secret = env.iter().find(|variable| variable["name"] == "TOOLHIVE_OIDC_CLIENT_SECRET").unwrap();
        assert_eq!(secret["valueFrom"]["secretKeyRef"], json!({"name": "introspection", "key": "secret"}));
    }

    let before = cluster.get("MCPOIDCConfig", "login").await.unwrap()["status"]["configHash"].clone();
    cluster
        .merge(
            "MCPOIDCConfig",
            "login",
            json!({"spec": {"inline": {"jwksUrl": "https://keys.example.com/new"}}}),
        )
        .await;
    let after =
        cluster.until("MCPOIDCConfig", "login", |config| config["status"]["configHash"] != before).await;
    for (kind, name) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")] {
        cluster
            .until(kind, name, |object| object["status"]["oidcConfigHash"] == after["status"]["configHash"])
            .await;
        run_config(&cluster, name, |config| config.to_string().contains("https://keys.example.com/new"))
            .await;
        // Without the reference there is neither hash nor condition.
        cluster.merge(kind, name, json!({"spec": {"oidcConfigRef": null, "authMode": "anonymous"}})).await;
        let object = cluster.until(kind, name, |object| object["status"]["oidcConfigHash"].is_null()).await;
        assert!(found(&object, "OIDCConfigRefValidated").is_none());
        run_config(&cluster, name, |config| config["oidc_config"].is_null()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oidc_config_that_is_missing_or_broken_lets_nobody_in() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    for (kind, name) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")] {
        cluster.apply(guarded(workload(&cluster, kind, name), json!({}))).await;
        let object =
            cluster.condition(kind, name, "OIDCConfigRefValidated", "False", "OIDCConfigRefNotFound").await;
        assert_eq!(object["status"]["phase"], "Failed");
        assert_eq!(found(&object, "Ready").unwrap()["status"], "False");
        assert_eq!(event(&cluster, name, "OIDCConfigRefNotFound").await["type"], "Warning");
        assert!(cluster.get("Deployment", name).await.is_none(), "nothing runs without its protection");
    }
    cluster.apply(with(login(&cluster), json!({"inline": {"issuer": "http://login.example.com"}}))).await;
    for (kind, name) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")] {
        let object =
            cluster.condition(kind, name, "OIDCConfigRefValidated", "False", "OIDCConfigRefNotValid").await;
        assert_eq!(object["status"]["phase"], "Failed");
    }
    cluster.apply(login(&cluster)).await;
    for (kind, name) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")] {
        cluster.condition(kind, name, "OIDCConfigRefValidated", "True", "OIDCConfigRefValid").await;
        cluster.until("Deployment", name, |_| true).await;
        assert_eq!(judged(&cluster, kind, name).await["status"]["phase"], "Pending");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_an_issuer_are_mounted_or_missing() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    let bundle = json!({"issuer": "https://login.example.com", "caBundleRef": {"configMapRef": {"name": "ca", "key": "ca.crt"}}});
    cluster.apply(with(login(&cluster), json!({"inline": bundle}))).await;
    for (kind, name) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")] {
        cluster.apply(guarded(workload(&cluster, kind, name), json!({}))).await;
        cluster.condition(kind, name, "CABundleRefValidated", "False", "CABundleRefNotFound").await;
    }
    cluster.apply(config_map(&cluster, "ca", "ca.crt", "no certificate")).await;
    for (kind, name) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")] {
        cluster.condition(kind, name, "CABundleRefValidated", "False", "CABundleRefInvalid").await;
    }
    cluster.apply(config_map(&cluster, "ca", "ca.crt", CERTIFICATE)).await;
    for (kind, name) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")] {
        cluster.condition(kind, name, "CABundleRefValidated", "True", "CABundleRefValid").await;
        let deployment = cluster.until("Deployment", name, |_| true).await;
        assert_eq!(volume(&deployment, "oidc-ca-bundle-ca").unwrap()["configMap"]["name"], "ca");
        let mount = mount(&deployment, "oidc-ca-bundle-ca").unwrap();
        assert_eq!((&mount["mountPath"], &mount["readOnly"]), (&json!("/config/certs/ca"), &json!(true)));
        let rendered = run_config(&cluster, name, |config| config["oidc_config"].is_object()).await;
        assert_eq!(ca_path(&rendered), Some("/config/certs/ca/ca.crt"));
    }
}

fn ca_path(config: &Value) -> Option<&str> {
    let oidc = config["oidc_config"].as_object()?;
    oidc.iter().find(|(name, _)| name.to_lowercase().starts_with("cacert"))?.1.as_str()
}

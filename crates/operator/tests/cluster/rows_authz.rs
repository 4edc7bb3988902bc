//! MCPAuthzConfig and policies written into a workload.

use serde_json::{Value, json};

use crate::harness::{Cluster, Operator, found};
use crate::rows_objects::{
    config_map, event, guarded, judged, login, mount, ours, run_config, volume, workload,
};

const PERMIT: &str = "permit(principal, action, resource);";

fn cedar(cluster: &Cluster, policy: &str) -> Value {
    ours(
        cluster,
        "MCPAuthzConfig",
        "rules",
        json!({"type": "cedarv1", "config": {"policies": [policy], "entities_json": "[]"}}),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authz_config_is_judged_hashed_and_judged_again() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(cedar(&cluster, PERMIT)).await;
    let config = cluster.condition("MCPAuthzConfig", "rules", "Valid", "True", "ConfigValid").await;
    assert_eq!(config["metadata"]["finalizers"], json!(["mcpauthzconfig.toolhive.stacklok.dev/finalizer"]));
    let hash = config["status"]["configHash"].clone();
    assert!(hash.is_string());
    cluster.apply(cedar(&cluster, "permit(principal, action")).await;
    let bad = cluster.condition("MCPAuthzConfig", "rules", "Valid", "False", "ConfigInvalid").await;
    assert_eq!(found(&bad, "Ready").unwrap()["status"], "False");
    assert_eq!(bad["status"]["observedGeneration"], bad["metadata"]["generation"]);
    cluster.apply(cedar(&cluster, PERMIT)).await;
    let good = cluster.condition("MCPAuthzConfig", "rules", "Valid", "True", "ConfigValid").await;
    assert_eq!(good["status"]["configHash"], hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_policies_reach_workloads_and_broken_ones_do_not() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(login(&cluster)).await;
    let condition = "AuthzConfigRefValidated";
    for (kind, name) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")] {
        cluster
            .apply(guarded(workload(&cluster, kind, name), json!({"authzConfigRef": {"name": "rules"}})))
            .await;
        let object = cluster.condition(kind, name, condition, "False", "AuthzConfigRefNotFound").await;
        assert_eq!(object["status"]["phase"], "Failed");
        assert!(cluster.get("Deployment", name).await.is_none());
        assert_eq!(event(&cluster, name, "AuthzConfigRefNotFound").await["type"], "Warning");
    }
    cluster.apply(cedar(&cluster, PERMIT)).await;
    let mut rendered = Vec::new();
    for (kind, name) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")] {
        let object = cluster.condition(kind, name, condition, "True", "AuthzConfigRefValid").await;
        let config = cluster
            .until("MCPAuthzConfig", "rules", |config| config["status"]["configHash"].is_string())
            .await;
        assert_eq!(object["status"]["authzConfigHash"], config["status"]["configHash"]);
        let found = run_config(&cluster, name, |config| config["authz_config"].is_object()).await;
        assert_eq!(found["authz_config"]["type"], "cedarv1");
        assert_eq!(found["authz_config"]["version"], "1.0");
        assert_eq!(found["authz_config"]["cedar"]["policies"], json!([PERMIT]));
        rendered.push(found["authz_config"].clone());
    }
    // Broken policies never replace good ones.
    cluster.apply(cedar(&cluster, "permit(principal, action")).await;
    for ((kind, name), before) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")].into_iter().zip(rendered) {
        let object = cluster.condition(kind, name, condition, "False", "AuthzConfigRefNotValid").await;
        assert_eq!(object["status"]["phase"], "Failed");
        assert_eq!(run_config(&cluster, name, |_| true).await["authz_config"], before);
    }
    cluster.apply(cedar(&cluster, "forbid(principal, action, resource);")).await;
    for (kind, name) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")] {
        cluster.condition(kind, name, condition, "True", "AuthzConfigRefValid").await;
        run_config(&cluster, name, |config| config["authz_config"].to_string().contains("forbid")).await;
        // Without the reference there is neither hash, nor condition, nor policy.
        cluster.merge(kind, name, json!({"spec": {"authzConfigRef": null}})).await;
        let object = cluster.until(kind, name, |object| object["status"]["authzConfigHash"].is_null()).await;
        assert!(found(&object, condition).is_none());
        run_config(&cluster, name, |config| config["authz_config"].is_null()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_another_service_decides_are_refused_by_name() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(login(&cluster)).await;
    let spec = json!({"type": "httpv1", "config": {"http": {"url": "https://pdp.example.com"}}});
    cluster.apply(ours(&cluster, "MCPAuthzConfig", "rules", spec)).await;
    let config = cluster.until("MCPAuthzConfig", "rules", |config| found(config, "Valid").is_some()).await;
    assert_eq!(found(&config, "Valid").unwrap()["status"], "False");
    for (kind, name) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")] {
        cluster
            .apply(guarded(workload(&cluster, kind, name), json!({"authzConfigRef": {"name": "rules"}})))
            .await;
        let object =
            cluster.condition(kind, name, "AuthzConfigRefValidated", "False", "AuthzConfigRefNotValid").await;
        assert_eq!(object["status"]["phase"], "Failed");
        assert!(cluster.get("Deployment", name).await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_in_the_manifest_and_in_a_config_map_become_files() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(login(&cluster)).await;
    let document =
        json!({"version": "1.0", "type": "cedarv1", "cedar": {"policies": [PERMIT], "entities_json": "[]"}});
    cluster.apply(config_map(&cluster, "policies", "rules.json", &document.to_string())).await;
    for (kind, name) in [("MCPServer", "s"), ("MCPRemoteProxy", "p")] {
        let inline = json!({"authzConfig": {"type": "inline", "inline": {"policies": [PERMIT]}}});
        cluster.apply(guarded(workload(&cluster, kind, name), inline)).await;
        let made = cluster.until("ConfigMap", &format!("{name}-authz-inline"), |_| true).await;
        assert_eq!(made["metadata"]["labels"]["toolhive.stacklok.io/authz"], "inline");
        let content: Value = serde_json::from_str(made["data"]["authz.json"].as_str().unwrap()).unwrap();
        assert_eq!((&content["type"], &content["cedar"]["policies"]), (&json!("cedarv1"), &json!([PERMIT])));
        let deployment = cluster.until("Deployment", name, |_| true).await;
        assert_eq!(
            volume(&deployment, "authz-config").unwrap()["configMap"]["name"],
            format!("{name}-authz-inline")
        );
        assert_eq!(mount(&deployment, "authz-config").unwrap()["mountPath"], "/etc/toolhive/authz");

        let in_map = json!({"spec": {"authzConfig": {"type": "configMap", "inline": null, "configMap": {"name": "policies", "key": "rules.json"}}}});
        cluster.merge(kind, name, in_map).await;
        cluster.gone("ConfigMap", &format!("{name}-authz-inline")).await;
        let deployment = cluster
            .until("Deployment", name, |deployment| {
                volume(deployment, "authz-config")
                    .is_some_and(|volume| volume["configMap"]["name"] == "policies")
            })
            .await;
        assert_eq!(mount(&deployment, "authz-config").unwrap()["readOnly"], true);
        let rendered = run_config(&cluster, name, |config| config["authz_config"].is_object()).await;
        assert_eq!(rendered["authz_config"]["cedar"]["policies"], json!([PERMIT]));
        assert_eq!(judged(&cluster, kind, name).await["status"]["phase"], "Pending");
    }
}

//! MCPTelemetryConfig, MCPToolConfig and MCPServerEntry.

use serde_json::{Value, json};

use crate::harness::{Cluster, Operator, found};
use crate::rows_objects::{
    config_map, container, event, judged, mount, ours, run_config, secret, try_create, volume, with, workload,
};

const BOTH: [(&str, &str); 2] = [("MCPServer", "s"), ("MCPRemoteProxy", "p")];

fn telemetry(cluster: &Cluster, fields: Value) -> Value {
    ours(cluster, "MCPTelemetryConfig", "otel", fields)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_telemetry_config_is_judged_hashed_and_judged_again() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    let endpoint = json!({"enabled": true, "endpoint": "otel.example.com:4318", "tracing": {"enabled": true, "samplingRate": "0.5"}});
    cluster.apply(telemetry(&cluster, json!({"openTelemetry": endpoint}))).await;
    let config =
        cluster.condition("MCPTelemetryConfig", "otel", "Valid", "True", "ValidationSucceeded").await;
    assert_eq!(
        config["metadata"]["finalizers"],
        json!(["mcptelemetryconfig.toolhive.stacklok.dev/finalizer"])
    );
    assert_eq!(config["status"]["observedGeneration"], 1);
    let hash = config["status"]["configHash"].clone();
    assert!(hash.is_string());
    cluster
        .merge(
            "MCPTelemetryConfig",
            "otel",
            json!({"spec": {"openTelemetry": {"tracing": {"samplingRate": "1"}}}}),
        )
        .await;
    cluster.until("MCPTelemetryConfig", "otel", |config| config["status"]["configHash"] != hash).await;
    // An endpoint to which nothing is sent is a mistake.
    cluster
        .merge(
            "MCPTelemetryConfig",
            "otel",
            json!({"spec": {"openTelemetry": {"tracing": {"enabled": false}}}}),
        )
        .await;
    cluster.condition("MCPTelemetryConfig", "otel", "Valid", "False", "ValidationFailed").await;
    assert_eq!(event(&cluster, "otel", "ValidationFailed").await["type"], "Warning");
    cluster.delete("MCPTelemetryConfig", "otel").await;
    cluster.gone("MCPTelemetryConfig", "otel").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn telemetry_reaches_the_proxies_that_refer_to_it() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    for (kind, name) in BOTH {
        cluster
            .apply(with(workload(&cluster, kind, name), json!({"telemetryConfigRef": {"name": "otel"}})))
            .await;
        let object = cluster
            .condition(kind, name, "TelemetryConfigRefValidated", "False", "TelemetryConfigRefNotFound")
            .await;
        assert_eq!(object["status"]["phase"], "Failed");
    }
    cluster.apply(secret(&cluster, "key", "k", "a-secret-value")).await;
    cluster
        .apply(config_map(
            &cluster,
            "ca",
            "ca.crt",
            "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
        ))
        .await;
    let otel = json!({"enabled": true, "endpoint": "https://otel.example.com:4318", "headers": {"x-tenant": "one"},
        "sensitiveHeaders": [{"name": "x-key", "secretKeyRef": {"name": "key", "key": "k"}}], "resourceAttributes": {"team": "one"},
        "caBundleRef": {"configMapRef": {"name": "ca", "key": "ca.crt"}}, "metrics": {"enabled": true}});
    cluster.apply(telemetry(&cluster, json!({"openTelemetry": otel, "prometheus": {"enabled": true}}))).await;
    let config =
        cluster.condition("MCPTelemetryConfig", "otel", "Valid", "True", "ValidationSucceeded").await;
    for (kind, name) in BOTH {
        let object = cluster
            .condition(kind, name, "TelemetryConfigRefValidated", "True", "TelemetryConfigRefValid")
            .await;
        assert_eq!(object["status"]["telemetryConfigHash"], config["status"]["configHash"]);
        let rendered = run_config(&cluster, name, |config| config["telemetry_config"].is_object()).await;
        let telemetry = &rendered["telemetry_config"];
        assert_eq!(
            (&telemetry["headers"], &telemetry["serviceName"]),
            (&json!({"x-tenant": "one"}), &json!(name)),
            "{telemetry}"
        );
        assert!(telemetry["endpoint"].is_null(), "a proxy that sends nothing yet is not told where to");
        assert_eq!(telemetry["enablePrometheusMetricsPath"], true);
        let deployment = cluster.until("Deployment", name, |_| true).await;
        let env = container(&deployment)["env"].as_array().unwrap();
        let variable =
            |name: &str| env.iter().find(|variable| variable["name"] == name).cloned().unwrap_or_default();
        let attributes = variable("OTEL_RESOURCE_ATTRIBUTES");
        assert!(
            attributes["value"].as_str().unwrap().contains(&format!("service.name={name}")),
            "{attributes}"
        );
        assert_eq!(
            variable("TOOLHIVE_OTEL_HEADER_X_KEY")["valueFrom"]["secretKeyRef"],
            json!({"name": "key", "key": "k"})
        );
        assert_eq!(volume(&deployment, "otel-ca-bundle-ca").unwrap()["configMap"]["name"], "ca");
        assert_eq!(mount(&deployment, "otel-ca-bundle-ca").unwrap()["mountPath"], "/config/certs/otel/ca");
        assert!(!rendered.to_string().contains("a-secret-value"));
    }
    // The name of the service is said at the reference, and pods roll with what they can't take by themselves.
    let before = cluster.get("Deployment", "s").await.unwrap()["spec"]["template"].clone();
    cluster.merge("MCPServer", "s", json!({"spec": {"telemetryConfigRef": {"serviceName": "mine"}}})).await;
    run_config(&cluster, "s", |config| config["telemetry_config"]["serviceName"] == "mine").await;
    cluster.until("Deployment", "s", |deployment| deployment["spec"]["template"] != before).await;
    cluster
        .merge(
            "MCPTelemetryConfig",
            "otel",
            json!({"spec": {"openTelemetry": {"headers": {"x-tenant": "two"}}}}),
        )
        .await;
    for (kind, name) in BOTH {
        run_config(&cluster, name, |config| config["telemetry_config"]["headers"]["x-tenant"] == "two").await;
        cluster
            .until(kind, name, |object| {
                object["status"]["telemetryConfigHash"] != config["status"]["configHash"]
            })
            .await;
    }
    cluster.merge("MCPTelemetryConfig", "otel", json!({"spec": {"openTelemetry": {"insecure": true}}})).await;
    for (kind, name) in BOTH {
        cluster
            .condition(kind, name, "TelemetryConfigRefValidated", "False", "TelemetryConfigRefInvalid")
            .await;
        cluster.merge(kind, name, json!({"spec": {"telemetryConfigRef": null}})).await;
        let object =
            cluster.until(kind, name, |object| object["status"]["telemetryConfigHash"].is_null()).await;
        assert!(found(&object, "TelemetryConfigRefValidated").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_config_has_a_finalizer_a_hash_and_a_verdict() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(ours(&cluster, "MCPToolConfig", "tools", json!({"toolsFilter": ["a", "b"]}))).await;
    let config = cluster.condition("MCPToolConfig", "tools", "Valid", "True", "ValidationSucceeded").await;
    assert_eq!(config["metadata"]["finalizers"], json!(["toolhive.stacklok.dev/toolconfig-finalizer"]));
    assert_eq!(config["status"]["observedGeneration"], 1);
    let hash = config["status"]["configHash"].clone();
    assert!(hash.is_string());
    cluster.merge("MCPToolConfig", "tools", json!({"spec": {"toolsFilter": ["a"]}})).await;
    let edited =
        cluster.until("MCPToolConfig", "tools", |config| config["status"]["observedGeneration"] == 2).await;
    assert_ne!(edited["status"]["configHash"], hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tool_config_serves_many_and_an_edit_moves_all_of_them() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    let spec = json!({"toolsFilter": ["sum", "search"], "toolsOverride": {"add": {"name": "sum", "description": "Adds two numbers.", "annotations": {"readOnlyHint": true}}}});
    cluster.apply(ours(&cluster, "MCPToolConfig", "tools", spec)).await;
    let refers = json!({"toolConfigRef": {"name": "tools"}});
    let users = [("MCPServer", "s"), ("MCPServer", "t"), ("MCPRemoteProxy", "p")];
    for (kind, name) in users {
        cluster.apply(with(workload(&cluster, kind, name), refers.clone())).await;
    }
    for (kind, name) in users {
        let config = run_config(&cluster, name, |config| config["tools_filter"].is_array()).await;
        assert_eq!(config["tools_filter"], json!(["sum", "search"]));
        let changed = &config["tools_override"]["add"];
        assert_eq!((&changed["name"], &changed["description"]), (&json!("sum"), &json!("Adds two numbers.")));
        let own = cluster
            .until("MCPToolConfig", "tools", |config| config["status"]["configHash"].is_string())
            .await;
        cluster
            .until(kind, name, |object| object["status"]["toolConfigHash"] == own["status"]["configHash"])
            .await;
    }
    let listed = cluster
        .until("MCPToolConfig", "tools", |config| {
            config["status"]["referencingWorkloads"].as_array().is_some_and(|all| all.len() == 3)
        })
        .await;
    assert_eq!(listed["status"]["referencingWorkloads"][0], json!({"kind": "MCPRemoteProxy", "name": "p"}));
    cluster.merge("MCPToolConfig", "tools", json!({"spec": {"toolsFilter": ["sum"]}})).await;
    for (kind, name) in users {
        run_config(&cluster, name, |config| config["tools_filter"] == json!(["sum"])).await;
        cluster
            .until(kind, name, |object| object["status"]["toolConfigHash"] != listed["status"]["configHash"])
            .await;
    }
    // A server whose tools nobody can tell is not started with all of them.
    cluster
        .apply(with(workload(&cluster, "MCPServer", "lost"), json!({"toolConfigRef": {"name": "gone"}})))
        .await;
    cluster.until("MCPServer", "lost", |object| object["status"]["phase"] == "Failed").await;
    assert!(cluster.get("Deployment", "lost").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_says_what_of_it_holds_and_makes_nothing() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    let header = json!({"addHeadersFromSecret": [{"headerName": "X-Api-Key", "valueSecretRef": {"name": "api", "key": "token"}}]});
    let spec = json!({"remoteUrl": "https://mcp.example.com/mcp", "transport": "streamable-http", "groupRef": {"name": "g"},
        "externalAuthConfigRef": {"name": "e"}, "headerForward": header, "caBundleRef": {"configMapRef": {"name": "ca", "key": "ca.crt"}}});
    cluster.apply(ours(&cluster, "MCPServerEntry", "entry", spec)).await;
    let bad = cluster.condition("MCPServerEntry", "entry", "Valid", "False", "ConfigInvalid").await;
    assert_eq!(
        (&bad["status"]["phase"], &bad["status"]["observedGeneration"]),
        (&json!("Failed"), &json!(1))
    );
    assert!(bad["metadata"]["finalizers"].is_null());
    for (condition, reason) in [
        ("GroupRefValidated", "GroupRefNotFound"),
        ("ExternalAuthConfigValidated", "AuthConfigNotFound"),
        ("CABundleRefValidated", "CABundleRefNotFound"),
        ("HeaderSecretRefsValidated", "HeaderSecretNotFound"),
    ] {
        assert_eq!(found(&bad, condition).unwrap()["reason"], reason);
    }
    // Each thing that comes is seen, whatever it is.
    cluster.apply(ours(&cluster, "MCPGroup", "g", json!({}))).await;
    cluster.condition("MCPServerEntry", "entry", "GroupRefValidated", "True", "GroupRefIsValid").await;
    cluster.apply(secret(&cluster, "api", "token", "x")).await;
    cluster
        .condition("MCPServerEntry", "entry", "HeaderSecretRefsValidated", "True", "HeaderSecretsValid")
        .await;
    cluster
        .apply(config_map(
            &cluster,
            "ca",
            "ca.crt",
            "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
        ))
        .await;
    cluster.condition("MCPServerEntry", "entry", "CABundleRefValidated", "True", "CABundleRefValid").await;
    cluster.apply(ours(&cluster, "MCPExternalAuthConfig", "e", json!({"type": "unauthenticated"}))).await;
    cluster
        .condition("MCPServerEntry", "entry", "ExternalAuthConfigValidated", "True", "AuthConfigValid")
        .await;
    let good = cluster.condition("MCPServerEntry", "entry", "Valid", "True", "ConfigValid").await;
    assert_eq!(good["status"]["phase"], "Valid");
    assert_eq!(found(&good, "RemoteURLValidated").unwrap()["reason"], "RemoteURLValid");
    cluster.merge("MCPServerEntry", "entry", json!({"spec": {"remoteUrl": "https://10.0.0.1/mcp"}})).await;
    cluster.condition("MCPServerEntry", "entry", "RemoteURLValidated", "False", "RemoteURLInvalid").await;
    cluster.merge("MCPServerEntry", "entry", json!({"spec": {"allowPrivateEndpoint": true}})).await;
    cluster.condition("MCPServerEntry", "entry", "RemoteURLValidated", "True", "RemoteURLValid").await;
    operator.settled().await;
    let applied: Vec<_> = operator.writes().into_iter().filter(|call| call.apply).collect();
    assert!(applied.is_empty(), "{applied:?}");
    assert_eq!(
        try_create(
            &cluster,
            &ours(
                &cluster,
                "MCPServerEntry",
                "bad",
                json!({"remoteUrl": "ftp://a", "transport": "sse", "groupRef": {"name": "g"}})
            )
        )
        .await
        .0,
        422
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_nothing_says_nothing_of_references() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    for (kind, name) in BOTH {
        cluster.apply(workload(&cluster, kind, name)).await;
        let object = judged(&cluster, kind, name).await;
        for condition in [
            "OIDCConfigRefValidated",
            "AuthzConfigRefValidated",
            "TelemetryConfigRefValidated",
            "ExternalAuthConfigValidated",
            "AuthServerRefValidated",
            "ToolConfigValidated",
            "GroupRefValidated",
            "PodTemplateValid",
            "CABundleRefValidated",
        ] {
            assert!(found(&object, condition).is_none(), "{kind} {condition}");
        }
        for hash in [
            "toolConfigHash",
            "externalAuthConfigHash",
            "oidcConfigHash",
            "authzConfigHash",
            "telemetryConfigHash",
        ] {
            assert!(object["status"][hash].is_null(), "{kind} {hash}");
        }
    }
}

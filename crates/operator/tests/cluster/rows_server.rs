//! MCPServer: what is made for it, and what its status says.

use serde_json::{Value, json};
use skep_operator::plan::Settings;

use crate::harness::{Cluster, Operator, Options, found};
use crate::rows_objects::{
    config_map, container, event, events, guarded, judged, login, ours, run_config, secret, server, volume,
    with,
};

fn labels(name: &str) -> Value {
    json!({"app": "mcpserver", "app.kubernetes.io/name": "mcpserver", "app.kubernetes.io/instance": name,
        "toolhive": "true", "toolhive-name": name})
}

fn env<'a>(container: &'a Value, name: &str) -> Option<&'a Value> {
    container["env"].as_array()?.iter().find(|variable| variable["name"] == name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_gets_its_proxy_its_services_its_rights_and_its_backend() {
    let Some(cluster) = Cluster::new().await else { return };
    let settings = Settings { runner_image: "example/runner:2".to_owned(), ..Settings::default() };
    let operator = Operator::with(&cluster, Options { settings: Some(settings), ..Options::default() }).await;
    let fields = json!({"transport": "stdio", "proxyPort": 9000, "args": ["--all"], "env": [{"name": "LEVEL", "value": "debug"}],
        "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}, "requests": {"cpu": "100m"}}});
    cluster.apply(with(server(&cluster, "s"), fields)).await;

    let object = judged(&cluster, "MCPServer", "s").await;
    assert_eq!(object["status"]["phase"], "Pending");
    assert_eq!(object["status"]["message"], "MCP server is being created");
    assert_eq!(object["status"]["observedGeneration"], 1);
    assert_eq!(
        object["status"]["url"],
        format!("http://mcp-s-proxy.{}.svc.cluster.local:9000/mcp", cluster.namespace)
    );
    let ready = found(&object, "Ready").unwrap();
    assert_eq!(
        (&ready["status"], &ready["reason"], &ready["observedGeneration"]),
        (&json!("False"), &json!("NotReady"), &json!(1))
    );
    assert!(object["metadata"]["finalizers"].is_null(), "owner references do the cleaning up");

    let deployment = cluster.until("Deployment", "s", |_| true).await;
    assert_eq!(deployment["metadata"]["labels"], labels("s"));
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], labels("s"));
    assert_eq!(deployment["spec"]["template"]["metadata"]["labels"], labels("s"));
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "s-proxy-runner");
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(volume(&deployment, "runconfig").unwrap()["configMap"]["name"], "s-runconfig");
    let proxy = container(&deployment);
    assert_eq!(proxy["image"], "example/runner:2");
    assert_eq!(proxy["args"], json!(["run", "example/server:1"]));
    assert_eq!(proxy["ports"][0], json!({"name": "http", "containerPort": 9000, "protocol": "TCP"}));
    assert_eq!(
        proxy["resources"],
        json!({"limits": {"cpu": "500m", "memory": "128Mi"}, "requests": {"cpu": "100m"}})
    );
    for (probe, initial, period, failures) in
        [("startupProbe", None, 5, 18), ("livenessProbe", Some(30), 10, 3), ("readinessProbe", Some(5), 5, 3)]
    {
        assert_eq!(proxy[probe]["httpGet"]["path"], "/health");
        assert_eq!(proxy[probe]["initialDelaySeconds"].as_i64(), initial, "{probe}");
        assert_eq!(
            (&proxy[probe]["periodSeconds"], &proxy[probe]["failureThreshold"]),
            (&json!(period), &json!(failures))
        );
    }
    assert_eq!(proxy["securityContext"]["readOnlyRootFilesystem"], true);

    let service = cluster.until("Service", "mcp-s-proxy", |_| true).await;
    assert_eq!(service["spec"]["selector"], labels("s"));
    assert_eq!(
        (&service["spec"]["type"], &service["spec"]["sessionAffinity"]),
        (&json!("ClusterIP"), &json!("ClientIP"))
    );
    assert_eq!(
        (&service["spec"]["ports"][0]["name"], &service["spec"]["ports"][0]["port"]),
        (&json!("http"), &json!(9000))
    );

    for kind in ["ServiceAccount", "Role", "RoleBinding"] {
        cluster.until(kind, "s-proxy-runner", |_| true).await;
    }
    let binding = cluster.get("RoleBinding", "s-proxy-runner").await.unwrap();
    assert_eq!(
        (&binding["roleRef"]["name"], &binding["subjects"][0]["name"]),
        (&json!("s-proxy-runner"), &json!("s-proxy-runner"))
    );
    let role = cluster.get("Role", "s-proxy-runner").await.unwrap();
    for rule in role["rules"].as_array().unwrap() {
        assert!(!rule["resourceNames"].as_array().unwrap().is_empty(), "{rule}");
        let verbs: Vec<&str> = rule["verbs"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let attach = rule["resources"] == json!(["pods/attach"]);
        assert!(verbs.iter().all(|verb| *verb == "get" || (attach && *verb == "create")), "{rule}");
    }
    cluster.until("ServiceAccount", "s-sa", |_| true).await;
    let backend = cluster.until("StatefulSet", "s", |_| true).await;
    let pod = &backend["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "s-sa");
    let mcp = &pod["containers"][0];
    assert_eq!(
        (&mcp["name"], &mcp["image"], &mcp["args"]),
        (&json!("mcp"), &json!("example/server:1"), &json!(["--all"]))
    );
    assert_eq!(env(mcp, "LEVEL").unwrap()["value"], "debug");
    assert_eq!(mcp["stdin"], true);
    assert_eq!(backend["spec"]["serviceName"], "s");
    assert!(cluster.get("Service", "mcp-s").await.is_none(), "nobody calls a stdio server by its Service");

    // A change of the spec reaches the Deployment.
    let change = json!({"spec": {"image": "example/server:2", "resources": {"limits": {"cpu": "1"}}, "proxyPort": 9001}});
    cluster.merge("MCPServer", "s", change).await;
    let changed = cluster
        .until("Deployment", "s", |deployment| {
            container(deployment)["args"] == json!(["run", "example/server:2"])
        })
        .await;
    let changed = container(&changed);
    assert_eq!(
        (&changed["resources"]["limits"]["cpu"], &changed["ports"][0]["containerPort"]),
        (&json!("1"), &json!(9001))
    );
    cluster.until("Service", "mcp-s-proxy", |service| service["spec"]["ports"][0]["port"] == 9001).await;
    cluster
        .until("StatefulSet", "s", |set| {
            set["spec"]["template"]["spec"]["containers"][0]["image"] == "example/server:2"
        })
        .await;
    cluster.until("MCPServer", "s", |object| object["status"]["observedGeneration"] == 2).await;
    operator.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_ready_when_its_proxy_and_its_backend_are() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(server(&cluster, "s")).await;
    cluster.ready_deployment("s").await;
    cluster.proxy_pod("mcpserver", "s", "s-1", "127.0.0.1").await;
    // The proxy is there, and nothing behind it.
    cluster.until("MCPServer", "s", |object| object["status"]["readyReplicas"] == 1).await;
    let waiting = cluster.condition("MCPServer", "s", "Ready", "False", "NotReady").await;
    assert_eq!(waiting["status"]["phase"], "Pending");
    let set = cluster.until("StatefulSet", "s", |_| true).await;
    let status = json!({"status": {"observedGeneration": set["metadata"]["generation"], "replicas": 1, "readyReplicas": 1,
        "currentReplicas": 1, "updatedReplicas": 1}});
    cluster.merge("StatefulSet", "s", status).await;
    let ready = cluster.condition("MCPServer", "s", "Ready", "True", "Ready").await;
    assert_eq!(
        (&ready["status"]["phase"], &ready["status"]["message"]),
        (&json!("Ready"), &json!("MCP server is running"))
    );
    assert_eq!(event(&cluster, "s", "Ready").await["type"], "Normal");

    // The StatefulSet is lost, and made anew.
    cluster.delete("StatefulSet", "s").await;
    cluster.until("StatefulSet", "s", |made| made["metadata"]["uid"] != set["metadata"]["uid"]).await;
    // Somebody scales the proxy to zero.
    cluster.merge("Deployment", "s", json!({"spec": {"replicas": 0}})).await;
    let stopped = cluster.until("MCPServer", "s", |object| object["status"]["phase"] == "Stopped").await;
    assert_eq!(stopped["status"]["message"], "MCP server is stopped (scaled to zero)");
    assert_eq!(found(&stopped, "Ready").unwrap()["status"], "False");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_does_not_start_is_a_failure_and_one_that_waits_for_its_image_is_not() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(server(&cluster, "s")).await;
    cluster.ready_deployment("s").await;
    cluster.merge("Deployment", "s", json!({"status": {"readyReplicas": 0, "availableReplicas": 0}})).await;
    cluster.proxy_pod("mcpserver", "s", "s-1", "127.0.0.1").await;
    let waits = |reason: &str| {
        json!({"status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{"name": "toolhive", "ready": false, "restartCount": 3, "image": "skep", "imageID": "",
            "state": {"waiting": {"reason": reason, "message": "it is so"}}}]}})
    };
    cluster.merge("Pod", "s-1", waits("ImagePullBackOff")).await;
    let pulls = cluster
        .until("MCPServer", "s", |object| {
            object["status"]["message"].as_str().is_some_and(|text| text.contains("ImagePullBackOff"))
        })
        .await;
    assert_eq!(pulls["status"]["phase"], "Pending");
    cluster.merge("Pod", "s-1", waits("CrashLoopBackOff")).await;
    let failed = cluster.until("MCPServer", "s", |object| object["status"]["phase"] == "Failed").await;
    let message = failed["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("MCP server pod failed:") && message.contains("CrashLoopBackOff"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_run_config_follows_the_spec_and_nothing_else() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(login(&cluster)).await;
    let fields = json!({"mcpPort": 3000, "args": ["--all"], "env": [{"name": "LEVEL", "value": "debug"}], "audit": {"enabled": true},
        "authzConfig": {"type": "inline", "inline": {"policies": ["permit(principal, action, resource);"]}}});
    cluster.apply(guarded(server(&cluster, "steady"), fields.clone())).await;
    cluster.apply(guarded(server(&cluster, "second"), fields)).await;
    let config = run_config(&cluster, "steady", |_| true).await;
    assert_eq!(config["name"], "steady");
    assert_eq!((&config["image"], &config["cmd_args"]), (&json!("example/server:1"), &json!(["--all"])));
    assert_eq!((&config["port"], &config["target_port"]), (&json!(8080), &json!(3000)));
    assert_eq!(
        (&config["transport"], &config["schema_version"]),
        (&json!("streamable-http"), &json!("v0.1.0"))
    );
    assert_eq!(
        (&config["env_vars"]["LEVEL"], &config["env_vars"]["MCP_PORT"]),
        (&json!("debug"), &json!("3000"))
    );
    assert!(
        config["audit_config"].is_object()
            && config["oidc_config"].is_object()
            && config["authz_config"].is_object()
    );
    assert!(config["scaling_config"].is_null(), "nobody said anything about scaling");
    let map = cluster.get("ConfigMap", "steady-runconfig").await.unwrap();
    assert_eq!(map["metadata"]["labels"]["toolhive.stacklok.io/component"], "run-config");
    assert_eq!(map["metadata"]["labels"]["toolhive.stacklok.io/mcp-server"], "steady");
    assert!(map["metadata"]["annotations"]["toolhive.stacklok.dev/content-checksum"].is_string());
    // The same spec makes the same text.
    let other = cluster.until("ConfigMap", "second-runconfig", |_| true).await;
    let named =
        |map: &Value, name: &str| map["data"]["runconfig.json"].as_str().unwrap().replace(name, "NAME");
    assert_eq!(named(&map, "steady"), named(&other, "second"));

    operator.settled().await;
    cluster.merge("MCPServer", "steady", json!({"metadata": {"labels": {"a": "b"}}})).await;
    operator.settled().await;
    let now = cluster.get("ConfigMap", "steady-runconfig").await.unwrap();
    assert_eq!(now["metadata"]["resourceVersion"], map["metadata"]["resourceVersion"]);
    let before = cluster.get("Deployment", "steady").await.unwrap();
    cluster
        .merge(
            "MCPServer",
            "steady",
            json!({"spec": {"env": [{"name": "LEVEL", "value": "info"}], "trustProxyHeaders": true}}),
        )
        .await;
    let changed = run_config(&cluster, "steady", |config| config["env_vars"]["LEVEL"] == "info").await;
    assert_eq!(changed["trust_proxy_headers"], true);
    let now = cluster.get("ConfigMap", "steady-runconfig").await.unwrap();
    let sum = |map: &Value| map["metadata"]["annotations"]["toolhive.stacklok.dev/content-checksum"].clone();
    assert_ne!(sum(&now), sum(&map));
    // What a running proxy takes by itself restarts nothing; what it can't take does.
    operator.settled().await;
    let template = |deployment: &Value| deployment["spec"]["template"].clone();
    assert_eq!(template(&cluster.get("Deployment", "steady").await.unwrap()), template(&before));
    cluster.merge("MCPServer", "steady", json!({"spec": {"proxyPort": 8081}})).await;
    cluster.until("Deployment", "steady", |deployment| template(deployment) != template(&before)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_and_sessions_are_in_the_run_config_when_they_are_said() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(secret(&cluster, "redis", "password", "x")).await;
    let storage = json!({"provider": "redis", "address": "redis:6379", "db": 2, "keyPrefix": "mcp:", "passwordRef": {"name": "redis", "key": "password"}});
    cluster
        .apply(with(
            server(&cluster, "s"),
            json!({"replicas": 2, "backendReplicas": 3, "sessionStorage": storage}),
        ))
        .await;
    let config = run_config(&cluster, "s", |_| true).await;
    let scaling = &config["scaling_config"];
    assert_eq!(scaling["backend_replicas"], 3);
    assert_eq!(scaling["session_redis"], json!({"address": "redis:6379", "db": 2, "key_prefix": "mcp:"}));
    let deployment = cluster.until("Deployment", "s", |_| true).await;
    assert_eq!(deployment["spec"]["replicas"], 2);
    let password = env(container(&deployment), "THV_SESSION_REDIS_PASSWORD").unwrap();
    assert_eq!(password["valueFrom"]["secretKeyRef"], json!({"name": "redis", "key": "password"}));
    cluster.until("StatefulSet", "s", |set| set["spec"]["replicas"] == 3).await;
    cluster.condition("MCPServer", "s", "SessionStorageWarning", "False", "SessionStorageConfigured").await;
    cluster.merge("MCPServer", "s", json!({"spec": {"sessionStorage": null}})).await;
    cluster
        .condition("MCPServer", "s", "SessionStorageWarning", "True", "SessionStorageMissingForReplicas")
        .await;
    cluster.merge("MCPServer", "s", json!({"spec": {"backendReplicas": null, "replicas": null}})).await;
    run_config(&cluster, "s", |config| config["scaling_config"].is_null()).await;
    cluster
        .condition("MCPServer", "s", "SessionStorageWarning", "False", "SessionStorageWarningNotApplicable")
        .await;
    // A stdio server has one proxy, however many are asked for.
    cluster.merge("MCPServer", "s", json!({"spec": {"transport": "stdio", "replicas": 3}})).await;
    cluster.condition("MCPServer", "s", "StdioReplicaCapped", "True", "StdioTransportCapAt1").await;
    cluster.until("Deployment", "s", |deployment| deployment["spec"]["replicas"] == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_keeps_to_its_ports_paths_and_profile() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    let fields = json!({"transport": "sse", "proxyPort": 9000, "mcpPort": 9001, "sessionAffinity": "None",
        "permissionProfile": {"type": "builtin", "name": "none"}, "endpointPrefix": "/api"});
    cluster.apply(with(server(&cluster, "s"), fields)).await;
    let object = judged(&cluster, "MCPServer", "s").await;
    assert_eq!(
        object["status"]["url"],
        format!("http://mcp-s-proxy.{}.svc.cluster.local:9000/sse#s", cluster.namespace)
    );
    cluster.until("Service", "mcp-s-proxy", |service| service["spec"]["sessionAffinity"] == "None").await;
    let backend = cluster.until("Service", "mcp-s", |_| true).await;
    assert_eq!(backend["spec"]["ports"][0]["port"], 9001);
    assert_eq!(cluster.until("Service", "mcp-s-headless", |_| true).await["spec"]["clusterIP"], "None");
    let config = run_config(&cluster, "s", |_| true).await;
    assert_eq!(
        (&config["endpoint_prefix"], &config["permission_profile_name_or_path"]),
        (&json!("/api"), &json!("none"))
    );
    cluster.merge("MCPServer", "s", json!({"spec": {"permissionProfile": {"name": "everything"}}})).await;
    cluster.until("MCPServer", "s", |object| object["status"]["phase"] == "Failed").await;
    cluster
        .apply(config_map(
            &cluster,
            "profile",
            "p.json",
            "{\"network\": {\"outbound\": {\"insecure_allow_all\": false}}}",
        ))
        .await;
    cluster
        .merge(
            "MCPServer",
            "s",
            json!({"spec": {"permissionProfile": {"type": "configmap", "name": "profile", "key": "p.json"}}}),
        )
        .await;
    let config = run_config(&cluster, "s", |config| {
        config["permission_profile"]["network"]["outbound"]["allow_host"].is_null()
    })
    .await;
    assert_eq!(config["permission_profile"]["network"]["outbound"]["insecure_allow_all"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_limit_calls_or_ask_webhooks_only_once_that_works() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    let hooks = json!({"validating": [{"name": "v", "url": "https://hook.example.com/"}]});
    cluster.apply(ours(&cluster, "MCPWebhookConfig", "hooks", hooks)).await;
    let config = cluster.condition("MCPWebhookConfig", "hooks", "Valid", "True", "ValidationSucceeded").await;
    assert_eq!(config["metadata"]["finalizers"], json!(["mcpwebhookconfig.toolhive.stacklok.dev/finalizer"]));
    let limits = json!({"sessionStorage": {"provider": "redis", "address": "redis:6379"}, "rateLimiting": {"shared": {"maxTokens": 10, "refillPeriod": "1s"}}});
    cluster.apply(with(server(&cluster, "limited"), limits)).await;
    let limited = cluster
        .condition("MCPServer", "limited", "RateLimitConfigValid", "True", "RateLimitConfigValid")
        .await;
    assert_eq!(limited["status"]["phase"], "Failed");
    cluster.apply(with(server(&cluster, "hooked"), json!({"webhookConfigRef": {"name": "hooks"}}))).await;
    let hooked = cluster.until("MCPServer", "hooked", |object| object["status"]["phase"] == "Failed").await;
    assert_eq!(hooked["status"]["webhookConfigHash"], config["status"]["configHash"]);
    for name in ["limited", "hooked"] {
        assert!(cluster.get("Deployment", name).await.is_none(), "no protection is passed over in silence");
    }
    cluster
        .merge(
            "MCPWebhookConfig",
            "hooks",
            json!({"spec": {"validating": [{"name": "v", "url": "http://hook.example.com/"}]}}),
        )
        .await;
    cluster.condition("MCPWebhookConfig", "hooks", "Valid", "False", "ValidationFailed").await;
    cluster.condition("MCPServer", "hooked", "WebhookConfigValidated", "False", "WebhookConfigInvalid").await;
    cluster
        .until("MCPServer", "hooked", |object| {
            object["status"]["webhookConfigHash"] != config["status"]["configHash"]
        })
        .await;
    assert!(events(&cluster, "hooked", "WebhookConfigInvalid").await.len() <= 1);
}

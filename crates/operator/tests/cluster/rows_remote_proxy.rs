//! MCPRemoteProxy: what is made for it, what is refused, and what its status says.

use serde_json::{Value, json};

use crate::harness::{Cluster, Operator, found};
use crate::rows_objects::{
    container, event, events, guarded, judged, login, ours, proxy, pull_secrets, run_config, secret,
    try_create, with,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_proxy_gets_its_deployment_its_service_and_its_rights() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(login(&cluster)).await;
    cluster.apply(secret(&cluster, "api", "token", "a-secret-value")).await;
    let fields = json!({"proxyPort": 9090, "resources": {"limits": {"memory": "128Mi"}}, "audit": {"enabled": true}, "sessionAffinity": "None",
        "headerForward": {"addPlaintextHeaders": {"X-Tenant": "one"}, "addHeadersFromSecret": [{"headerName": "X-Api-Key", "valueSecretRef": {"name": "api", "key": "token"}}]}});
    cluster.apply(guarded(proxy(&cluster, "p"), fields)).await;

    let object = judged(&cluster, "MCPRemoteProxy", "p").await;
    assert_eq!(object["status"]["phase"], "Pending");
    assert_eq!(object["status"]["message"], "Remote proxy is being created");
    assert_eq!(object["status"]["observedGeneration"], 1);
    assert_eq!(
        object["status"]["url"],
        format!("http://mcp-p-remote-proxy.{}.svc.cluster.local:9090", cluster.namespace)
    );
    assert_eq!(found(&object, "ConfigurationValid").unwrap()["reason"], "ConfigurationValid");
    assert_eq!(found(&object, "Ready").unwrap()["reason"], "DeploymentNotReady");
    assert!(found(&object, "AuthConfigured").is_none_or(|auth| auth["status"] != "False"), "{object}");
    assert!(object["metadata"]["finalizers"].is_null());

    let labels = json!({"app": "mcpremoteproxy", "app.kubernetes.io/name": "mcpremoteproxy",
        "app.kubernetes.io/instance": "p", "toolhive": "true", "toolhive-name": "p"});
    let deployment = cluster.until("Deployment", "p", |_| true).await;
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(deployment["spec"]["template"]["spec"]["serviceAccountName"], "p-remote-proxy-runner");
    let made = container(&deployment);
    assert_eq!(made["args"], json!(["run", "--foreground=true", "placeholder-for-remote-proxy"]));
    assert_eq!(
        (&made["ports"][0]["name"], &made["ports"][0]["containerPort"]),
        (&json!("http"), &json!(9090))
    );
    assert_eq!(made["readinessProbe"]["initialDelaySeconds"], 15);
    assert_eq!(made["resources"]["limits"]["memory"], "128Mi");
    assert!(!deployment.to_string().contains("a-secret-value"));
    let service = cluster.until("Service", "mcp-p-remote-proxy", |_| true).await;
    assert_eq!(service["spec"]["selector"], labels);
    assert_eq!(
        (&service["spec"]["ports"][0]["port"], &service["spec"]["sessionAffinity"]),
        (&json!(9090), &json!("None"))
    );
    let role = cluster.until("Role", "p-remote-proxy-runner", |_| true).await;
    for rule in role["rules"].as_array().unwrap() {
        assert_eq!(rule["verbs"], json!(["get"]), "{rule}");
        assert!(!rule["resourceNames"].as_array().unwrap().is_empty(), "{rule}");
    }
    cluster
        .until("RoleBinding", "p-remote-proxy-runner", |binding| {
            binding["roleRef"]["name"] == "p-remote-proxy-runner"
        })
        .await;
    cluster.until("ServiceAccount", "p-remote-proxy-runner", |_| true).await;
    let map = cluster.until("ConfigMap", "p-runconfig", |_| true).await;
    assert_eq!(map["metadata"]["labels"]["toolhive.stacklok.io/mcp-remote-proxy"], "p");
    let config = run_config(&cluster, "p", |_| true).await;
    assert_eq!(
        (&config["remote_url"], &config["port"]),
        (&json!("https://mcp.example.com/mcp"), &json!(9090))
    );
    assert!(config["audit_config"].is_object() && config["oidc_config"].is_object());
    assert!(!config.to_string().contains("a-secret-value"));

    cluster
        .merge(
            "MCPRemoteProxy",
            "p",
            json!({"spec": {"proxyPort": 9091, "resources": {"limits": {"memory": "256Mi"}}}}),
        )
        .await;
    let changed = cluster
        .until("Deployment", "p", |deployment| container(deployment)["ports"][0]["containerPort"] == 9091)
        .await;
    assert_eq!(container(&changed)["resources"]["limits"]["memory"], "256Mi");
    cluster
        .until("Service", "mcp-p-remote-proxy", |service| service["spec"]["ports"][0]["port"] == 9091)
        .await;
    cluster
        .until("MCPRemoteProxy", "p", |object| object["status"]["url"].as_str().unwrap().ends_with(":9091"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_of_the_manifest_takes_the_place_of_ours() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(proxy(&cluster, "p")).await;
    cluster.until("ServiceAccount", "p-remote-proxy-runner", |_| true).await;
    cluster.until("Deployment", "p", |_| true).await;
    cluster.merge("MCPRemoteProxy", "p", json!({"spec": {"serviceAccount": "mine"}})).await;
    cluster
        .until("Deployment", "p", |deployment| {
            deployment["spec"]["template"]["spec"]["serviceAccountName"] == "mine"
        })
        .await;
    for kind in ["ServiceAccount", "Role", "RoleBinding"] {
        cluster.gone(kind, "p-remote-proxy-runner").await;
    }
    operator.settled().await;
    assert!(cluster.get("ServiceAccount", "mine").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_of_no_known_scheme_is_refused_at_the_door() {
    let Some(cluster) = Cluster::new().await else { return };
    for url in ["ftp://mcp.example.com", "mcp.example.com", "", "javascript:alert(1)"] {
        let object = with(proxy(&cluster, "p"), json!({"remoteUrl": url}));
        let (code, answer) = try_create(&cluster, &object).await;
        assert_eq!(code, 422, "{url}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains("remoteUrl"), "{answer}");
    }
    for port in [0, 65536] {
        assert_eq!(
            try_create(&cluster, &with(proxy(&cluster, "p"), json!({"proxyPort": port}))).await.0,
            422
        );
    }
    assert_eq!(try_create(&cluster, &with(proxy(&cluster, "p"), json!({"transport": "stdio"}))).await.0, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_remote_proxy_lacks_is_a_condition_and_one_warning() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(login(&cluster)).await;
    let rows = [
        (
            "syntax",
            "AuthzPolicySyntaxInvalid",
            json!({"authzConfig": {"type": "inline", "inline": {"policies": ["permit(principal"]}}}),
        ),
        (
            "no-map",
            "AuthzConfigMapNotFound",
            json!({"authzConfig": {"type": "configMap", "configMap": {"name": "gone"}}}),
        ),
        (
            "no-header",
            "HeaderSecretNotFound",
            json!({"headerForward": {"addHeadersFromSecret": [{"headerName": "X-Api-Key", "valueSecretRef": {"name": "gone", "key": "token"}}]}}),
        ),
        ("private", "RemoteURLInvalid", json!({"remoteUrl": "https://10.0.0.1/mcp"})),
        (
            "metadata",
            "RemoteURLInvalid",
            json!({"remoteUrl": "http://169.254.169.254/latest", "allowPrivateEndpoint": true}),
        ),
        (
            "api-server",
            "RemoteURLInvalid",
            json!({"remoteUrl": "https://kubernetes.default.svc/", "allowPrivateEndpoint": true}),
        ),
        ("no-auth", "ExternalAuthConfigNotFound", json!({"externalAuthConfigRef": {"name": "gone"}})),
    ];
    for (name, _, fields) in &rows {
        cluster.apply(guarded(proxy(&cluster, name), fields.clone())).await;
    }
    for (name, reason, _) in &rows {
        let object = cluster.condition("MCPRemoteProxy", name, "ConfigurationValid", "False", reason).await;
        assert_eq!(object["status"]["phase"], "Failed", "{name}");
        assert_eq!(found(&object, "Ready").unwrap()["status"], "False", "{name}");
        let told = event(&cluster, name, reason).await;
        assert_eq!(told["type"], "Warning", "{name}");
        assert_eq!(told["regarding"]["kind"], "MCPRemoteProxy");
        assert!(cluster.get("Deployment", name).await.is_none(), "{name}");
    }
    operator.settled().await;
    for (name, reason, _) in &rows {
        assert_eq!(events(&cluster, name, reason).await.len(), 1, "{name}");
    }
    // A remote proxy that says nothing about its callers is refused.
    let mut open = proxy(&cluster, "open");
    open["spec"].as_object_mut().unwrap().remove("authMode");
    cluster.apply(open).await;
    cluster.condition("MCPRemoteProxy", "open", "AuthConfigured", "False", "AuthInvalid").await;
    cluster.condition("MCPRemoteProxy", "open", "ConfigurationValid", "False", "AuthRequired").await;
    // What was missing comes.
    cluster.apply(secret(&cluster, "gone", "token", "x")).await;
    cluster
        .condition("MCPRemoteProxy", "no-header", "ConfigurationValid", "True", "ConfigurationValid")
        .await;
    cluster.until("Deployment", "no-header", |_| true).await;
    cluster.merge("MCPRemoteProxy", "private", json!({"spec": {"allowPrivateEndpoint": true}})).await;
    cluster.condition("MCPRemoteProxy", "private", "ConfigurationValid", "True", "ConfigurationValid").await;
    assert_eq!(event(&cluster, "no-header", "ConfigurationValid").await["type"], "Normal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_config_is_missing_there_or_changed() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(with(proxy(&cluster, "p"), json!({"toolConfigRef": {"name": "tools"}}))).await;
    let object =
        cluster.condition("MCPRemoteProxy", "p", "ToolConfigValidated", "False", "ToolConfigNotFound").await;
    assert_eq!(object["status"]["phase"], "Failed");
    cluster.apply(ours(&cluster, "MCPToolConfig", "tools", json!({"toolsFilter": ["a"]}))).await;
    let object =
        cluster.condition("MCPRemoteProxy", "p", "ToolConfigValidated", "True", "ToolConfigValid").await;
    let config =
        cluster.until("MCPToolConfig", "tools", |config| config["status"]["configHash"].is_string()).await;
    assert_eq!(object["status"]["toolConfigHash"], config["status"]["configHash"]);
    run_config(&cluster, "p", |config| config["tools_filter"] == json!(["a"])).await;
    cluster.merge("MCPToolConfig", "tools", json!({"spec": {"toolsFilter": ["b"]}})).await;
    run_config(&cluster, "p", |config| config["tools_filter"] == json!(["b"])).await;
    cluster
        .until("MCPRemoteProxy", "p", |object| {
            object["status"]["toolConfigHash"] != config["status"]["configHash"]
        })
        .await;
    cluster.merge("MCPRemoteProxy", "p", json!({"spec": {"toolConfigRef": null}})).await;
    let object =
        cluster.until("MCPRemoteProxy", "p", |object| object["status"]["toolConfigHash"].is_null()).await;
    assert!(found(&object, "ToolConfigValidated").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_secrets_of_a_remote_proxy_roll_its_pods() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(proxy(&cluster, "p")).await;
    let before = cluster.until("Deployment", "p", |_| true).await;
    assert!(before["spec"]["template"]["spec"]["imagePullSecrets"].is_null());
    let mut generation = before["metadata"]["generation"].as_i64().unwrap();
    for names in [&["one"][..], &["one", "two"], &["two"]] {
        let said: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        let overrides = json!({"proxyDeployment": {"imagePullSecrets": said}});
        cluster.merge("MCPRemoteProxy", "p", json!({"spec": {"resourceOverrides": overrides}})).await;
        let after = cluster
            .until("Deployment", "p", |deployment| {
                pull_secrets(&deployment["spec"]["template"]["spec"]) == names
            })
            .await;
        cluster
            .until("ServiceAccount", "p-remote-proxy-runner", |account| pull_secrets(account) == names)
            .await;
        assert!(after["metadata"]["generation"].as_i64().unwrap() > generation);
        generation = after["metadata"]["generation"].as_i64().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_template_is_the_proxys_own() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    let template = json!({"spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "toolhive", "resources": {"limits": {"cpu": "2"}}}]}});
    cluster.apply(with(proxy(&cluster, "p"), json!({"podTemplateSpec": template}))).await;
    cluster.condition("MCPRemoteProxy", "p", "PodTemplateValid", "True", "ValidPodTemplateSpec").await;
    let deployment = cluster.until("Deployment", "p", |_| true).await;
    let hash = |deployment: &Value| {
        deployment["spec"]["template"]["metadata"]["annotations"]["toolhive.stacklok.io/podtemplatespec-hash"]
            .clone()
    };
    assert_eq!(deployment["spec"]["template"]["spec"]["nodeSelector"]["disk"], "ssd");
    assert_eq!(container(&deployment)["resources"]["limits"]["cpu"], "2");
    assert_eq!(container(&deployment)["args"][0], "run");
    assert!(hash(&deployment).is_string());
    cluster
        .merge(
            "MCPRemoteProxy",
            "p",
            json!({"spec": {"podTemplateSpec": {"spec": {"nodeSelector": {"disk": "hdd"}}}}}),
        )
        .await;
    let changed = cluster
        .until("Deployment", "p", |deployment| {
            deployment["spec"]["template"]["spec"]["nodeSelector"]["disk"] == "hdd"
        })
        .await;
    assert_ne!(hash(&changed), hash(&deployment));
    cluster
        .merge("MCPRemoteProxy", "p", json!({"spec": {"podTemplateSpec": {"spec": {"containers": "none"}}}}))
        .await;
    let bad =
        cluster.condition("MCPRemoteProxy", "p", "PodTemplateValid", "False", "InvalidPodTemplateSpec").await;
    assert_eq!(bad["status"]["phase"], "Failed");
    assert_eq!(event(&cluster, "p", "InvalidPodTemplateSpec").await["type"], "Warning");
    assert!(cluster.get("Deployment", "p").await.is_some(), "what runs stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_pod_that_is_ready_makes_a_remote_proxy_ready() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(proxy(&cluster, "p")).await;
    cluster.until("Deployment", "p", |_| true).await;
    cluster.proxy_pod("mcpremoteproxy", "p", "p-1", "127.0.0.1").await;
    let starting = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{"name": "toolhive", "ready": false, "restartCount": 0, "image": "skep", "imageID": "", "state": {"running": {}}}]}});
    cluster.merge("Pod", "p-1", starting).await;
    cluster
        .until("MCPRemoteProxy", "p", |object| object["status"]["message"] == "Remote proxy is starting")
        .await;
    let object = cluster.get("MCPRemoteProxy", "p").await.unwrap();
    assert_eq!(object["status"]["phase"], "Pending", "a pod that runs and takes no calls serves nobody");
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "toolhive", "ready": true, "restartCount": 0, "image": "skep", "imageID": "", "state": {"running": {}}}]}});
    cluster.merge("Pod", "p-1", ready).await;
    let object = cluster.condition("MCPRemoteProxy", "p", "Ready", "True", "DeploymentReady").await;
    assert_eq!(
        (&object["status"]["phase"], &object["status"]["message"]),
        (&json!("Ready"), &json!("Remote proxy is running"))
    );
}

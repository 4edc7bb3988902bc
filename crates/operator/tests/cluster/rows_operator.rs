//! What concerns no kind by itself: namespaces, old manifests, restarts, readiness of every kind.

use serde_json::{Value, json};
use skep_api::crd::Kind;
use skep_api::yaml::documents;
use skep_operator::plan::Settings;
use skep_testkit::control_plane::{Assets, ControlPlane, Options as PlaneOptions};

use crate::harness::{Cluster, Operator, Options, found, install_into};
use crate::rows_objects::{
    container, event, events, guarded, judged, login, ours, proxy, run_config, run_config_in, secret, server,
    with,
};

/// One object of each kind, all of them valid.
async fn one_of_each(cluster: &Cluster) {
    cluster.apply(secret(cluster, "client", "secret", "x")).await;
    cluster.apply(login(cluster)).await;
    let exchange = json!({"tokenUrl": "https://login.example.com/token", "audience": "backend", "clientId": "gate", "clientSecretRef": {"name": "client", "key": "secret"}});
    for (kind, name, spec) in [
        ("MCPGroup", "group", json!({})),
        ("MCPExternalAuthConfig", "exchange", json!({"type": "tokenExchange", "tokenExchange": exchange})),
        ("MCPToolConfig", "tools", json!({"toolsFilter": ["a"]})),
        (
            "MCPAuthzConfig",
            "rules",
            json!({"type": "cedarv1", "config": {"policies": ["permit(principal, action, resource);"]}}),
        ),
        ("MCPTelemetryConfig", "metrics", json!({"prometheus": {"enabled": true}})),
        (
            "MCPWebhookConfig",
            "hooks",
            json!({"validating": [{"name": "v", "url": "https://hook.example.com/"}]}),
        ),
        (
            "MCPServerEntry",
            "entry",
            json!({"remoteUrl": "https://mcp.example.com/", "transport": "sse", "groupRef": {"name": "group"}}),
        ),
    ] {
        cluster.apply(ours(cluster, kind, name, spec)).await;
    }
    let refers = json!({"groupRef": {"name": "group"}, "externalAuthConfigRef": {"name": "exchange"}, "toolConfigRef": {"name": "tools"},
        "authzConfigRef": {"name": "rules"}, "telemetryConfigRef": {"name": "metrics"}});
    cluster.apply(guarded(server(cluster, "server"), refers.clone())).await;
    cluster.apply(guarded(proxy(cluster, "proxy"), refers)).await;
}

const NAMES: [(&str, &str); 10] = [
    ("MCPServer", "server"),
    ("MCPRemoteProxy", "proxy"),
    ("MCPExternalAuthConfig", "exchange"),
    ("MCPToolConfig", "tools"),
    ("MCPGroup", "group"),
    ("MCPOIDCConfig", "login"),
    ("MCPAuthzConfig", "rules"),
    ("MCPTelemetryConfig", "metrics"),
    ("MCPWebhookConfig", "hooks"),
    ("MCPServerEntry", "entry"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_can_be_waited_for_and_a_restart_of_the_operator_writes_nothing() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    one_of_each(&cluster).await;
    for (app, name) in [("mcpserver", "server"), ("mcpremoteproxy", "proxy")] {
        cluster.ready_deployment(name).await;
        cluster.proxy_pod(app, name, &format!("{name}-1"), "127.0.0.1").await;
    }
    cluster.until("StatefulSet", "server", |_| true).await;
    cluster.merge("StatefulSet", "server", json!({"status": {"replicas": 1, "readyReplicas": 1}})).await;
    assert_eq!(NAMES.len(), Kind::ALL.len());
    for (kind, name) in NAMES {
        let object = cluster.condition(kind, name, "Ready", "True", "").await;
        assert_eq!(object["status"]["observedGeneration"], object["metadata"]["generation"], "{kind}");
        for condition in object["status"]["conditions"].as_array().unwrap() {
            assert_eq!(
                condition["observedGeneration"], object["metadata"]["generation"],
                "{kind}: {condition}"
            );
            assert!(
                condition["message"].as_str().is_some_and(|text| !text.is_empty()),
                "{kind}: {condition}"
            );
        }
    }
    operator.settled().await;
    operator.stop().await;
    let again = Operator::start(&cluster).await;
    again.settled().await;
    assert!(again.reconciles().len() >= NAMES.len());
    assert_eq!(again.writes(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_other_namespaces_are_not_touched() {
    let (Some(mine), Some(other), Some(more)) =
        (Cluster::new().await, Cluster::new().await, Cluster::new().await)
    else {
        return;
    };
    let options = Options { more_namespaces: vec![more.namespace.clone()], ..Options::default() };
    for cluster in [&mine, &other, &more] {
        one_of_each(cluster).await;
    }
    let before: Vec<Value> = versions(&other).await;
    let operator = Operator::with(&mine, options).await;
    for cluster in [&mine, &more] {
        for (kind, name) in NAMES {
            cluster.until(kind, name, |object| object["status"]["observedGeneration"] == 1).await;
        }
        cluster.until("Deployment", "server", |_| true).await;
    }
    operator.settled().await;
    assert_eq!(versions(&other).await, before);
    assert!(other.list("Deployment").await.is_empty());
    // It is not even looked at.
    let seen = operator.recorder.calls();
    let wrong: Vec<_> = seen.iter().filter(|(call, _)| call.namespace == other.namespace).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let everywhere: Vec<_> = seen
        .iter()
        .filter(|(call, _)| {
            call.namespace.is_empty()
                && ["list", "watch"].contains(&call.verb)
                && call.resource != "namespaces"
        })
        .collect();
    assert!(everywhere.is_empty(), "{everywhere:?}");
}

async fn versions(cluster: &Cluster) -> Vec<Value> {
    let mut found = Vec::new();
    for (kind, name) in NAMES {
        let object = cluster.get(kind, name).await.unwrap();
        assert!(object["status"].is_null() && object["metadata"]["finalizers"].is_null(), "{kind}");
        found.push(object["metadata"]["resourceVersion"].clone());
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_or_the_operator_can_require_auth() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(login(&cluster)).await;
    cluster.apply(server(&cluster, "s")).await;
    cluster.apply(proxy(&cluster, "p")).await;
    cluster.apply(guarded(server(&cluster, "guarded"), json!({}))).await;
    let open = [("MCPServer", "s"), ("MCPRemoteProxy", "p")];
    for (kind, name) in open {
        cluster.condition(kind, name, "AuthConfigured", "False", "Anonymous").await;
        cluster.until("Deployment", name, |_| true).await;
    }
    let label = |value: Value| {
        let body = json!({"metadata": {"labels": {"skep.dev/require-auth": value}}}).to_string();
        let path = format!("/api/v1/namespaces/{}", cluster.namespace);
        let plane = cluster.plane;
        async move {
            let (code, answer) = plane.request("PATCH", &path, "application/merge-patch+json", &body).await;
            assert_eq!(code, 200, "{answer}");
        }
    };
    // Labels of namespaces that can't be watched are asked for now and then, and at the start.
    operator.stop().await;
    label(json!("true")).await;
    let operator = Operator::start(&cluster).await;
    for (kind, name) in open {
        cluster.until(kind, name, |object| object["status"]["phase"] == "Failed").await;
        // What runs lets nobody in any more.
        run_config(&cluster, name, |config| config["skep"]["suspended"].is_string()).await;
        assert!(cluster.get("Deployment", name).await.is_some());
    }
    cluster.apply(server(&cluster, "late")).await;
    cluster.until("MCPServer", "late", |object| object["status"]["phase"] == "Failed").await;
    assert!(cluster.get("Deployment", "late").await.is_none());
    assert_eq!(judged(&cluster, "MCPServer", "guarded").await["status"]["phase"], "Pending");
    operator.stop().await;
    label(Value::Null).await;
    let operator = Operator::start(&cluster).await;
    for (kind, name) in open {
        cluster.until(kind, name, |object| object["status"]["phase"] == "Pending").await;
        run_config(&cluster, name, |config| config["skep"]["suspended"].is_null()).await;
    }
    operator.stop().await;
    let settings = Settings { require_auth: true, ..Settings::default() };
    let _operator =
        Operator::with(&cluster, Options { settings: Some(settings), ..Options::default() }).await;
    for (kind, name) in open {
        cluster.until(kind, name, |object| object["status"]["phase"] == "Failed").await;
        run_config(&cluster, name, |config| config["skep"]["suspended"].is_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_of_october_2025_run_as_they_did_then() {
    let Some(cluster) = Cluster::new().await else { return };
    let namespace = cluster.namespace.clone();
    let label = json!({"metadata": {"labels": {"skep.dev/allow-privileged-template": "true"}}}).to_string();
    let path = format!("/api/v1/namespaces/{namespace}");
    assert_eq!(cluster.plane.request("PATCH", &path, "application/merge-patch+json", &label).await.0, 200);
    // One that looks at some namespaces asks for their labels now and then only.
    let _operator = Operator::start(&cluster).await;
    for (name, keys) in [("login", &["secret"][..]), ("api", &["one", "two"])] {
        let mut object = secret(&cluster, name, "unused", "x");
        for key in keys {
            object["stringData"][key] = json!("x");
        }
        cluster.apply(object).await;
    }
    let mut names = Vec::new();
    for document in documents(include_str!("data/servers-2025-10.yaml")).unwrap() {
        let mut object = document.value;
        object["metadata"]["namespace"] = json!(namespace);
        // A field that no pod has is refused here, and was taken without a word then.
        if let Some(pod) = object.pointer_mut("/spec/podTemplateSpec/spec").and_then(Value::as_object_mut) {
            pod.remove("anything");
        }
        names.push(object["metadata"]["name"].as_str().unwrap().to_owned());
        cluster.apply(object).await;
    }
    assert_eq!(names.len(), 6);
    for name in &names {
        let object = judged(&cluster, "MCPServer", name).await;
        assert_eq!(object["status"]["phase"], "Pending", "{name}: {object}");
        cluster.until("Deployment", name, |_| true).await;
    }
    let config = |name: &'static str| {
        let cluster = &cluster;
        async move { run_config(cluster, name, |_| true).await }
    };
    let ports = config("ports-and-tools").await;
    assert_eq!((&ports["port"], &ports["target_port"]), (&json!(9090), &json!(9091)));
    assert_eq!(ports["tools_filter"], json!(["search", "fetch"]));
    assert_eq!(ports["group"], "team");
    cluster.condition("MCPServer", "ports-and-tools", "GroupRefValidated", "False", "GroupRefNotFound").await;
    cluster.apply(json!({"apiVersion": "toolhive.stacklok.dev/v1alpha1", "kind": "MCPGroup", "metadata": {"name": "team", "namespace": namespace}, "spec": {}})).await;
    cluster.until("MCPGroup", "team", |group| group["status"]["servers"] == json!(["ports-and-tools"])).await;

    let guarded = config("guarded").await;
    assert!(
        guarded["oidc_config"].is_object()
            && guarded["authz_config"].is_object()
            && guarded["audit_config"].is_object()
    );
    assert!(guarded["oidc_config"].to_string().contains("https://login.example.com"));
    let in_cluster = config("in-cluster").await;
    assert!(in_cluster["oidc_config"].to_string().contains("kubernetes.default.svc"), "{in_cluster}");
    assert_eq!(config("measured").await["telemetry_config"]["serviceName"], "measured");
    let set = cluster.until("StatefulSet", "with-secrets", |_| true).await;
    let env = set["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    for (name, key) in [("ONE", "one"), ("two", "two")] {
        let variable = env.iter().find(|variable| variable["name"] == name).unwrap();
        assert_eq!(variable["valueFrom"]["secretKeyRef"], json!({"name": "api", "key": key}));
    }
    assert_eq!(set["spec"]["template"]["spec"]["serviceAccountName"], "backend");

    // A remote proxy and its exchange of then.
    let exchange = json!({"token_url": "https://login.example.com/token", "client_id": "gate", "client_secret_ref": {"name": "login", "key": "secret"}, "audience": "backend", "scope": "read write"});
    cluster.apply(json!({"apiVersion": "toolhive.stacklok.dev/v1alpha1", "kind": "MCPExternalAuthConfig", "metadata": {"name": "old", "namespace": namespace}, "spec": {"type": "tokenExchange", "tokenExchange": exchange}})).await;
    let old = json!({"apiVersion": "toolhive.stacklok.dev/v1alpha1", "kind": "MCPRemoteProxy", "metadata": {"name": "far", "namespace": namespace},
        "spec": {"remoteURL": "https://mcp.example.com/api", "port": 9090, "groupRef": "team", "externalAuthConfigRef": {"name": "old"},
            "oidcConfig": {"type": "inline", "inline": {"issuer": "https://login.example.com", "audience": "mcp"}}}});
    cluster.apply(old).await;
    let object = cluster.condition("MCPRemoteProxy", "far", "ConfigurationValid", "True", "").await;
    assert_eq!(
        object["status"]["url"],
        format!("http://mcp-far-remote-proxy.{namespace}.svc.cluster.local:9090")
    );
    let far = run_config_in(&cluster.until("ConfigMap", "far-runconfig", |_| true).await);
    assert_eq!(
        (&far["remote_url"], &far["token_exchange_config"]["scopes"]),
        (&json!("https://mcp.example.com/api"), &json!(["read", "write"]))
    );
    let deployment = cluster.until("Deployment", "far", |_| true).await;
    assert_eq!(container(&deployment)["ports"][0]["containerPort"], 9090);
    // What was written is what is stored: nothing of it is rewritten.
    let stored = cluster.get("MCPRemoteProxy", "far").await.unwrap();
    assert_eq!(
        (&stored["spec"]["remoteURL"], &stored["spec"]["remoteUrl"]),
        (&json!("https://mcp.example.com/api"), &Value::Null)
    );
    assert_eq!(stored["metadata"]["generation"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_once_and_its_end_too() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(login(&cluster)).await;
    cluster.apply(guarded(proxy(&cluster, "p"), json!({}))).await;
    cluster.until("Deployment", "p", |_| true).await;
    operator.settled().await;
    let told = || async {
        let all = cluster.list("Event").await;
        all.into_iter()
            .filter(|event| event["regarding"]["name"] == "p")
            .map(|event| event["reason"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(told().await, Vec::<Value>::new(), "that all goes well is no news");
    cluster.merge("MCPRemoteProxy", "p", json!({"spec": {"endpointPrefix": "no-slash"}})).await;
    cluster.until("MCPRemoteProxy", "p", |object| object["status"]["phase"] == "Failed").await;
    operator.settled().await;
    let after_failure = told().await;
    assert_eq!(after_failure.len(), 1, "{after_failure:?}");
    // Another edit, the same failure.
    for turn in ["a", "b"] {
        cluster
            .merge(
                "MCPRemoteProxy",
                "p",
                json!({"spec": {"resourceOverrides": {"proxyDeployment": {"labels": {"turn": turn}}}}}),
            )
            .await;
        operator.settled().await;
    }
    assert_eq!(told().await, after_failure);
    cluster.merge("MCPRemoteProxy", "p", json!({"spec": {"endpointPrefix": null}})).await;
    cluster.condition("MCPRemoteProxy", "p", "ConfigurationValid", "True", "").await;
    operator.settled().await;
    let after_all = told().await;
    assert_eq!(after_all.len(), 2, "{after_all:?}");
    assert!(after_all.contains(&json!("ConfigurationValid")), "{after_all:?}");
    let event = event(&cluster, "p", "ConfigurationValid").await;
    assert_eq!((&event["type"], &event["regarding"]["kind"]), (&json!("Normal"), &json!("MCPRemoteProxy")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_of_transition_moves_only_with_the_status() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(with(proxy(&cluster, "p"), json!({"groupRef": {"name": "g"}}))).await;
    judged(&cluster, "MCPRemoteProxy", "p").await;
    operator.settled().await;
    let before = cluster.get("MCPRemoteProxy", "p").await.unwrap();
    cluster.merge("MCPRemoteProxy", "p", json!({"spec": {"audit": {"enabled": true}}})).await;
    let after =
        cluster.until("MCPRemoteProxy", "p", |object| object["status"]["observedGeneration"] == 2).await;
    for condition in before["status"]["conditions"].as_array().unwrap() {
        let now = found(&after, condition["type"].as_str().unwrap()).unwrap();
        assert_eq!(now["lastTransitionTime"], condition["lastTransitionTime"]);
        assert_eq!(now["observedGeneration"], 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_names_what_stops_an_object_before_what_does_not() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    let unsaid = |name: &str, fields: Value| {
        let mut object = with(server(&cluster, name), json!({"groupRef": {"name": "gone"}, "replicas": 2}));
        object["spec"].as_object_mut().unwrap().remove("authMode");
        with(object, fields)
    };
    cluster.apply(unsaid("template", json!({"podTemplateSpec": {"spec": {"containers": "none"}}}))).await;
    let told = event(&cluster, "template", "InvalidPodTemplateSpec").await;
    let note = told["note"].as_str().unwrap();
    for other in ["Anonymous", "GroupRefNotFound", "SessionStorageMissingForReplicas"] {
        assert!(note.contains(other), "{note}");
    }
    // Where no condition but `Ready` has it.
    cluster.apply(unsaid("prefix", json!({"endpointPrefix": "no-slash"}))).await;
    let told = event(&cluster, "prefix", "NotReady").await;
    assert!(told["note"].as_str().unwrap().starts_with("spec.endpointPrefix"), "{told}");
    // Nothing stops this one; that everybody may come in is said unless the manifest says it itself.
    let mut open = server(&cluster, "open");
    open["spec"].as_object_mut().unwrap().remove("authMode");
    cluster.apply(open).await;
    assert_eq!(event(&cluster, "open", "Anonymous").await["type"], "Warning");
    cluster.apply(server(&cluster, "said")).await;
    judged(&cluster, "MCPServer", "said").await;
    operator.settled().await;
    assert_eq!(events(&cluster, "said", "Anonymous").await, Vec::<Value>::new());
    for name in ["template", "prefix", "open"] {
        let all = cluster.list("Event").await;
        assert_eq!(all.iter().filter(|event| event["regarding"]["name"] == name).count(), 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_of_all_namespaces_hears_of_a_label_at_once() {
    let Some(assets) = Assets::find_or_skip() else { return };
    // Every namespace is looked at, so this API server is nobody else's.
    let plane = ControlPlane::start(&assets, PlaneOptions { controllers: Vec::new() }).await;
    let plane: &'static ControlPlane = Box::leak(Box::new(plane));
    install_into(plane).await;
    let strict = Cluster { plane, namespace: plane.namespace().await };
    let open = Cluster { plane, namespace: plane.namespace().await };
    let operator = Operator::with(&strict, Options { everywhere: true, ..Options::default() }).await;
    for cluster in [&strict, &open] {
        cluster.apply(server(cluster, "s")).await;
        cluster.until("Deployment", "s", |_| true).await;
    }
    operator.settled().await;
    operator.reconciles();
    let path = format!("/api/v1/namespaces/{}", strict.namespace);
    for (label, phase) in [(json!("true"), "Failed"), (Value::Null, "Pending"), (json!("true"), "Failed")] {
        let started = tokio::time::Instant::now();
        let body = json!({"metadata": {"labels": {"skep.dev/require-auth": label}}}).to_string();
        let (code, answer) = plane.request("PATCH", &path, "application/merge-patch+json", &body).await;
        assert_eq!(code, 200, "{answer}");
        strict.until("MCPServer", "s", |object| object["status"]["phase"] == phase).await;
        run_config(&strict, "s", |config| config["skep"]["suspended"].is_string() == (phase == "Failed"))
            .await;
        assert!(started.elapsed() < std::time::Duration::from_secs(20), "it is not waited for the next look");
    }
    operator.settled().await;
    let moved = operator.reconciles();
    assert!(moved.keys().all(|key| key.namespace == strict.namespace), "{moved:?}");
    assert_eq!(open.get("MCPServer", "s").await.unwrap()["status"]["phase"], "Pending");
}

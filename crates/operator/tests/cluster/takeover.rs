//! Objects that ToolHive's operator and its proxy made, taken over by this operator, and given back.

use serde_json::{Value, json};

use crate::harness::{Cluster, Operator};

fn owner(uid: &Value) -> Value {
    json!([{
        "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServer", "name": "s", "uid": uid,
        "controller": true, "blockOwnerDeletion": true,
    }])
}

/// What ToolHive's operator makes for a server, as it writes it: whole objects, by create and update.
fn of_toolhive(namespace: &str, uid: &Value) -> Vec<Value> {
    let labels = json!({
        "app": "mcpserver", "app.kubernetes.io/name": "mcpserver", "app.kubernetes.io/instance": "s",
        "toolhive": "true", "toolhive-name": "s",
    });
    let metadata = |name: &str| json!({"name": name, "namespace": namespace, "labels": labels, "ownerReferences": owner(uid)});
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata("s-proxy-runner")}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata("s-proxy-runner"),
            "rules": [{"apiGroups": ["apps"], "resources": ["statefulsets"], "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"]}],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata("s-proxy-runner"),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "s-proxy-runner"},
            "subjects": [{"kind": "ServiceAccount", "name": "s-proxy-runner", "namespace": namespace}],
        }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": "s-runconfig", "namespace": namespace, "ownerReferences": owner(uid),
                "labels": {"toolhive.stacklok.io/component": "run-config", "toolhive.stacklok.io/mcp-server": "s", "toolhive.stacklok.io/managed-by": "toolhive-operator"},
                "annotations": {"toolhive.stacklok.dev/content-checksum": "theirs"},
            },
            "data": {"runconfig.json": "{\"schema_version\": \"v0.1.0\", \"name\": \"s\"}", "left.json": "{}"},
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata("s"),
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels, "annotations": {"toolhive.stacklok.dev/runconfig-checksum": "theirs"}},
                    "spec": {
                        "serviceAccountName": "s-proxy-runner",
                        "containers": [{
                            "name": "toolhive", "image": "theirs:1", "args": ["run", "--k8s-pod-patch={}", "server:1"],
                            "env": [{"name": "THEIRS", "value": "1"}],
                            "ports": [{"containerPort": 8080, "name": "http"}],
                        }],
                    },
                },
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata("mcp-s-proxy"),
            "spec": {"selector": labels, "ports": [{"name": "http", "port": 8080, "targetPort": 8080}]},
        }),
    ]
}

/// What its proxy applies at its start: the backend, which nobody owns, and Services which that owns.
fn of_its_proxy(namespace: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "s", "namespace": namespace, "labels": {"app": "s", "toolhive": "true", "toolhive-name": "s"}},
        "spec": {
            "serviceName": "s", "selector": {"matchLabels": {"app": "s"}},
            "template": {
                "metadata": {"labels": {"app": "s", "toolhive": "true"}},
                "spec": {"containers": [{"name": "mcp", "image": "server:1", "env": [{"name": "OLD", "value": "1"}]}]},
            },
        },
    })
}

fn service_of_its_proxy(namespace: &str, name: &str, stateful_set: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": namespace, "labels": {"app": "s", "toolhive": "true", "toolhive-name": "s"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": stateful_set["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {"selector": {"app": "s"}, "ports": [{"name": "port-8080", "port": 8080, "targetPort": 8080, "protocol": "TCP"}]},
    })
}

/// Writes an object as the Go client of a manager does.
async fn write(cluster: &Cluster, method: &str, manager: &str, object: &Value) -> Value {
    let path = cluster.path_of(object);
    let (path, content) = match method {
        "POST" => (path.rsplit_once('/').unwrap().0.to_owned(), "application/json"),
        "PUT" => (path, "application/json"),
        _ => (format!("{path}?force=true"), "application/apply-patch+yaml"),
    };
    let query = if path.contains('?') { "&" } else { "?" };
    let path = format!("{path}{query}fieldManager={manager}");
    let (code, body) = cluster.plane.request(method, &path, content, &object.to_string()).await;
    assert!(code < 300, "{method} {path}: {code} {body}");
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn what_toolhive_runs_is_taken_over_and_given_back() {
    let Some(cluster) = Cluster::new().await else { return };
    let namespace = cluster.namespace.clone();
    let server = cluster
        .apply(json!({
            "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServer",
            "metadata": {"name": "s", "namespace": namespace, "finalizers": ["mcpserver.toolhive.stacklok.dev/finalizer"]},
            "spec": {"image": "server:1", "transport": "streamable-http", "authMode": "anonymous"},
        }))
        .await;
    let theirs = of_toolhive(&namespace, &server["metadata"]["uid"]);
    for object in &theirs {
        write(&cluster, "POST", "thv-operator", object).await;
    }
    let manager = "toolhive-container-manager";
    let backend = write(&cluster, "PATCH", manager, &of_its_proxy(&namespace)).await;
    for name in ["mcp-s", "mcp-s-headless"] {
        let mut service = service_of_its_proxy(&namespace, name, &backend);
        if name == "mcp-s-headless" {
            service["spec"]["clusterIP"] = json!("None");
        }
        write(&cluster, "PATCH", manager, &service).await;
    }

    let ours = async |operator: &Operator| {
        let pod = |object: &Value| object["spec"]["template"]["spec"]["containers"][0].clone();
        cluster
            .until("Deployment", "s", |object| {
                pod(object)["image"] != "theirs:1" && !pod(object)["env"].to_string().contains("THEIRS")
            })
            .await;
        let config =
            cluster.until("ConfigMap", "s-runconfig", |object| object["data"]["left.json"].is_null()).await;
        assert!(config["data"]["runconfig.json"].as_str().unwrap().contains("\"image\": \"server:1\""));
        let role = cluster
            .until("Role", "s-proxy-runner", |object| {
                object["rules"][0]["resources"] != json!(["statefulsets"])
            })
            .await;
        assert!(!role["rules"].to_string().contains("create"), "{role}");
        let stateful = cluster
            .until("StatefulSet", "s", |object| {
                object["metadata"]["ownerReferences"][0]["kind"] == "MCPServer"
            })
            .await;
        assert_eq!(stateful["metadata"]["uid"], backend["metadata"]["uid"], "it is the same one");
        let env = &stateful["spec"]["template"]["spec"]["containers"][0]["env"];
        assert!(!env.to_string().contains("OLD"), "{env}");
        for name in ["mcp-s", "mcp-s-headless"] {
            let service = cluster
                .until("Service", name, |object| {
                    object["metadata"]["ownerReferences"][0]["kind"] == "MCPServer"
                })
                .await;
            assert_eq!(service["metadata"]["ownerReferences"].as_array().unwrap().len(), 1);
        }
        operator.settled().await;
        let object = cluster.get("MCPServer", "s").await.unwrap();
        assert_eq!(object["status"]["phase"], "Pending", "{object}");
    };
    let operator = Operator::start(&cluster).await;
    ours(&operator).await;
    operator.stop().await;
    let again = Operator::start(&cluster).await;
    again.settled().await;
    assert_eq!(again.writes(), [], "nothing is left to take over");
    again.stop().await;

    // ToolHive's operator comes back and updates what differs for it, whole objects again.
    for object in &theirs {
        let live = cluster
            .get(object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
            .await
            .unwrap();
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
        if object["kind"] == "Service" {
            object["spec"]["clusterIP"] = live["spec"]["clusterIP"].clone();
        }
        write(&cluster, "PUT", "thv-operator", &object).await;
    }
    let theirs_again = cluster.get("Deployment", "s").await.unwrap();
    let pod = &theirs_again["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["image"], "theirs:1");
    assert!(pod["volumes"].is_null(), "nothing of ours stands in its way");
    // And once more to ours.
    let operator = Operator::start(&cluster).await;
    ours(&operator).await;
    cluster.delete("MCPServer", "s").await;
    cluster.gone("MCPServer", "s").await;
}

//! MCPServer: templates, accounts, pull secrets, generations and restarts of its pods.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use skep_operator::client::Call;
use skep_operator::client::hooks::{Hook, Verdict};
use skep_operator::plan::Settings;
use skep_testkit::control_plane::ControlPlane;

use crate::harness::{Cluster, Operator, Options, found};
use crate::rows_objects::{
    container, event, events, judged, ours, pull_secrets, secret, server, with, workload,
};

const GENERATION: &str = "toolhive.stacklok.dev/mcpserver-generation";
const RESTARTED: &str = "mcpserver.toolhive.stacklok.dev/restarted-at";
const STRATEGY: &str = "mcpserver.toolhive.stacklok.dev/restart-strategy";
const PROCESSED: &str = "mcpserver.toolhive.stacklok.dev/last-processed-restart";

fn backend(set: &Value) -> &Value {
    &set["spec"]["template"]["spec"]
}

fn mcp(set: &Value) -> &Value {
    backend(set)["containers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|container| container["name"] == "mcp")
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_pod_template_makes_nothing_and_heals_when_it_is_mended() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster
        .apply(with(server(&cluster, "s"), json!({"podTemplateSpec": {"spec": {"containers": "none"}}})))
        .await;
    let bad =
        cluster.condition("MCPServer", "s", "PodTemplateValid", "False", "InvalidPodTemplateSpec").await;
    assert_eq!(bad["status"]["phase"], "Failed");
    assert_eq!(bad["status"]["observedGeneration"], 1);
    assert_eq!(found(&bad, "Ready").unwrap()["status"], "False");
    assert_eq!(found(&bad, "PodTemplateValid").unwrap()["observedGeneration"], 1);
    assert_eq!(event(&cluster, "s", "InvalidPodTemplateSpec").await["type"], "Warning");
    operator.settled().await;
    for kind in [
        "Deployment",
        "StatefulSet",
        "Service",
        "ConfigMap",
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "NetworkPolicy",
    ] {
        let made = cluster.list(kind).await;
        let made: Vec<&Value> =
            made.iter().filter(|object| object["metadata"]["ownerReferences"].is_array()).collect();
        assert!(made.is_empty(), "{kind}: {made:?}");
    }
    // The same failure again is the same event, whatever else of the object changes.
    for turn in ["1", "2", "3"] {
        cluster
            .merge(
                "MCPServer",
                "s",
                json!({"metadata": {"annotations": {"turn": turn}}, "spec": {"args": [turn]}}),
            )
            .await;
        operator.settled().await;
    }
    assert_eq!(events(&cluster, "s", "InvalidPodTemplateSpec").await.len(), 1);

    cluster.merge("MCPServer", "s", json!({"spec": {"podTemplateSpec": {"spec": {"containers": null, "nodeSelector": {"disk": "ssd"}}}}})).await;
    let good = cluster.condition("MCPServer", "s", "PodTemplateValid", "True", "ValidPodTemplateSpec").await;
    assert_eq!(good["status"]["phase"], "Pending");
    cluster.until("Deployment", "s", |_| true).await;
    let set = cluster.until("StatefulSet", "s", |_| true).await;
    assert_eq!(backend(&set)["nodeSelector"], json!({"disk": "ssd"}));
    // Broken once more, what runs stays.
    cluster
        .merge("MCPServer", "s", json!({"spec": {"podTemplateSpec": {"spec": {"nodeSelektor": {}}}}}))
        .await;
    cluster.condition("MCPServer", "s", "PodTemplateValid", "False", "InvalidPodTemplateSpec").await;
    operator.settled().await;
    assert!(cluster.get("Deployment", "s").await.is_some());
    assert_eq!(
        cluster.get("StatefulSet", "s").await.unwrap()["metadata"]["generation"],
        set["metadata"]["generation"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_template_reaches_the_backend_and_not_the_proxy() {
    let Some(cluster) = Cluster::new().await else { return };
    let _operator = Operator::start(&cluster).await;
    cluster.apply(secret(&cluster, "api", "token", "x")).await;
    let template = json!({
        "metadata": {"annotations": {"example.com/a": "b"}},
        "spec": {
            "securityContext": {"runAsUser": 2000},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "containers": [{"name": "mcp", "resources": {"limits": {"memory": "1Gi"}}, "securityContext": {"runAsUser": 2001}},
                {"name": "sidecar", "image": "example/sidecar:1"}],
        },
    });
    let fields = json!({"podTemplateSpec": template, "secrets": [{"name": "api", "key": "token", "targetEnvName": "TOKEN"}]});
    cluster.apply(with(server(&cluster, "s"), fields)).await;
    cluster.condition("MCPServer", "s", "PodTemplateValid", "True", "ValidPodTemplateSpec").await;
    let set = cluster.until("StatefulSet", "s", |_| true).await;
    assert_eq!(set["spec"]["template"]["metadata"]["annotations"]["example.com/a"], "b");
    assert_eq!(backend(&set)["securityContext"]["runAsUser"], 2000);
    assert_eq!(backend(&set)["securityContext"]["runAsNonRoot"], true, "what is not said stays as it is");
    assert_eq!(backend(&set)["tolerations"][0]["key"], "gpu");
    assert_eq!(mcp(&set)["resources"]["limits"]["memory"], "1Gi");
    assert_eq!(mcp(&set)["securityContext"]["runAsUser"], 2001);
    assert_eq!(mcp(&set)["image"], "example/server:1");
    let token =
        mcp(&set)["env"].as_array().unwrap().iter().find(|variable| variable["name"] == "TOKEN").unwrap();
    assert_eq!(token["valueFrom"]["secretKeyRef"], json!({"name": "api", "key": "token"}));
    assert_eq!(backend(&set)["containers"].as_array().unwrap().len(), 2);
    let deployment = cluster.until("Deployment", "s", |_| true).await;
    assert!(!deployment.to_string().contains("sidecar"));
    assert!(deployment["spec"]["template"]["spec"]["tolerations"].is_null());

    cluster.merge("MCPServer", "s", json!({"spec": {"podTemplateSpec": {"spec": {"tolerations": null, "priorityClassName": "high"}}}})).await;
    let changed = cluster.until("StatefulSet", "s", |set| backend(set)["priorityClassName"] == "high").await;
    assert!(backend(&changed)["tolerations"].is_null());
    cluster.merge("MCPServer", "s", json!({"spec": {"podTemplateSpec": null}})).await;
    let bare = cluster.until("StatefulSet", "s", |set| backend(set)["priorityClassName"].is_null()).await;
    assert_eq!(backend(&bare)["containers"].as_array().unwrap().len(), 1);
    cluster.until("MCPServer", "s", |object| found(object, "PodTemplateValid").is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_secrets_that_are_added_or_changed_reach_pods_and_accounts() {
    let Some(cluster) = Cluster::new().await else { return };
    let settings = Settings { image_pull_secrets: vec!["default".to_owned()], ..Settings::default() };
    let _operator =
        Operator::with(&cluster, Options { settings: Some(settings), ..Options::default() }).await;
    cluster.apply(server(&cluster, "s")).await;
    for (said, wanted) in [
        (json!(null), &["default"][..]),
        (json!([{"name": "one"}]), &["default", "one"]),
        (json!([{"name": "two"}, {"name": "default"}]), &["default", "two"]),
        (json!(null), &["default"]),
    ] {
        let overrides = json!({"proxyDeployment": {"imagePullSecrets": said}});
        cluster.merge("MCPServer", "s", json!({"spec": {"resourceOverrides": overrides}})).await;
        cluster
            .until("Deployment", "s", |deployment| {
                pull_secrets(&deployment["spec"]["template"]["spec"]) == wanted
            })
            .await;
        for account in ["s-proxy-runner", "s-sa"] {
            cluster.until("ServiceAccount", account, |account| pull_secrets(account) == wanted).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_secrets_that_a_platform_adds_to_an_account_stay() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(server(&cluster, "s")).await;
    cluster.until("ServiceAccount", "s-sa", |_| true).await;
    operator.settled().await;
    cluster.merge("ServiceAccount", "s-sa", json!({"imagePullSecrets": [{"name": "s-sa-dockercfg"}]})).await;
    cluster.merge("MCPServer", "s", json!({"spec": {"args": ["again"]}})).await;
    cluster.until("StatefulSet", "s", |set| mcp(set)["args"] == json!(["again"])).await;
    operator.settled().await;
    assert_eq!(
        cluster.get("ServiceAccount", "s-sa").await.unwrap()["imagePullSecrets"],
        json!([{"name": "s-sa-dockercfg"}])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_of_the_manifest_is_the_backends() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(with(server(&cluster, "s"), json!({"serviceAccount": "mine"}))).await;
    let set = cluster.until("StatefulSet", "s", |_| true).await;
    assert_eq!(backend(&set)["serviceAccountName"], "mine");
    let deployment = cluster.until("Deployment", "s", |_| true).await;
    assert_eq!(deployment["spec"]["template"]["spec"]["serviceAccountName"], "s-proxy-runner");
    cluster.until("ServiceAccount", "s-proxy-runner", |_| true).await;
    cluster.until("Role", "s-proxy-runner", |_| true).await;
    operator.settled().await;
    assert!(cluster.get("ServiceAccount", "s-sa").await.is_none());
    assert!(cluster.get("ServiceAccount", "mine").await.is_none(), "it is the user's to make");
    // Said no more, it is ours again; and said again, ours goes.
    cluster.merge("MCPServer", "s", json!({"spec": {"serviceAccount": null}})).await;
    cluster.until("StatefulSet", "s", |set| backend(set)["serviceAccountName"] == "s-sa").await;
    cluster.until("ServiceAccount", "s-sa", |_| true).await;
    cluster.merge("MCPServer", "s", json!({"spec": {"serviceAccount": "mine"}})).await;
    cluster.gone("ServiceAccount", "s-sa").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overrides_reach_the_proxy_and_never_what_is_the_operators() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    let overrides = json!({"resourceOverrides": {
        "proxyDeployment": {"labels": {"team": "one"}, "annotations": {"example.com/d": "1"}, "env": [{"name": "HTTPS_PROXY", "value": "http://egress:3128"}],
            "podTemplateMetadataOverrides": {"labels": {"mesh": "on"}, "annotations": {"example.com/p": "1"}}},
        "proxyService": {"labels": {"team": "one"}, "annotations": {"example.com/s": "1"}}}});
    cluster.apply(with(server(&cluster, "s"), overrides)).await;
    let deployment = cluster.until("Deployment", "s", |_| true).await;
    assert_eq!(
        (&deployment["metadata"]["labels"]["team"], &deployment["metadata"]["annotations"]["example.com/d"]),
        (&json!("one"), &json!("1"))
    );
    let pod = &deployment["spec"]["template"]["metadata"];
    assert_eq!((&pod["labels"]["mesh"], &pod["annotations"]["example.com/p"]), (&json!("on"), &json!("1")));
    assert!(
        pod["annotations"]["toolhive.stacklok.dev/runconfig-checksum"].is_string(),
        "overrides do not drop ours"
    );
    assert!(deployment["spec"]["selector"]["matchLabels"]["mesh"].is_null());
    let env = container(&deployment)["env"].as_array().unwrap();
    assert!(env.iter().any(|variable| variable["name"] == "HTTPS_PROXY"));
    let service = cluster.until("Service", "mcp-s-proxy", |_| true).await;
    assert_eq!(
        (&service["metadata"]["labels"]["team"], &service["metadata"]["annotations"]["example.com/s"]),
        (&json!("one"), &json!("1"))
    );
    // An override that is taken back is taken back.
    cluster.merge("MCPServer", "s", json!({"spec": {"resourceOverrides": null}})).await;
    cluster.until("Deployment", "s", |deployment| deployment["metadata"]["labels"]["team"].is_null()).await;
    cluster
        .until("Service", "mcp-s-proxy", |service| {
            service["metadata"]["annotations"]["example.com/s"].is_null()
        })
        .await;
    // One of ours stays ours.
    let mine = json!({"proxyDeployment": {"labels": {"app": "mine", "team": "two"}}});
    cluster.merge("MCPServer", "s", json!({"spec": {"resourceOverrides": mine}})).await;
    let deployment = cluster
        .until("Deployment", "s", |deployment| deployment["metadata"]["labels"]["team"] == "two")
        .await;
    assert_eq!(deployment["metadata"]["labels"]["app"], "mcpserver");
    operator.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_generation_is_on_the_pods_and_moves_only_with_them() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(server(&cluster, "s")).await;
    let deployment = cluster.until("Deployment", "s", |_| true).await;
    let stamped =
        |deployment: &Value| deployment["spec"]["template"]["metadata"]["annotations"][GENERATION].clone();
    assert_eq!(stamped(&deployment), "1");
    let env = container(&deployment)["env"].as_array().unwrap();
    let generation = env.iter().find(|variable| variable["name"] == "THV_MCPSERVER_GENERATION").unwrap();
    assert_eq!(
        generation["valueFrom"]["fieldRef"],
        json!({"apiVersion": "v1", "fieldPath": format!("metadata.annotations['{GENERATION}']")})
    );
    operator.settled().await;
    let version = cluster.get("Deployment", "s").await.unwrap()["metadata"]["resourceVersion"].clone();
    cluster.merge("MCPServer", "s", json!({"metadata": {"annotations": {"no": "op"}}})).await;
    cluster.merge("MCPServer", "s", json!({"spec": {"image": "example/server:1"}})).await;
    operator.settled().await;
    assert_eq!(
        cluster.get("Deployment", "s").await.unwrap()["metadata"]["resourceVersion"],
        version,
        "nothing drifts"
    );
    cluster.merge("MCPServer", "s", json!({"spec": {"image": "example/server:2"}})).await;
    cluster.until("Deployment", "s", |deployment| stamped(deployment) == "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_is_asked_for_rolls_the_pods_once() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(server(&cluster, "s")).await;
    cluster.until("Deployment", "s", |_| true).await;
    operator.settled().await;
    for at in ["2026-01-31T12:00:00Z", "2026-02-01T12:00:00Z"] {
        cluster.merge("MCPServer", "s", json!({"metadata": {"annotations": {RESTARTED: at}}})).await;
        cluster
            .until("Deployment", "s", |deployment| {
                deployment["spec"]["template"]["metadata"]["annotations"][RESTARTED] == at
            })
            .await;
        cluster.until("MCPServer", "s", |object| object["metadata"]["annotations"][PROCESSED] == at).await;
        operator.settled().await;
        operator.recorder.clear();
        cluster.merge("MCPServer", "s", json!({"metadata": {"annotations": {"other": at}}})).await;
        operator.settled().await;
        assert_eq!(operator.writes(), []);
    }
    // The mark of a restart is not lost with the wish, which would restart once more; kubectl's stays too.
    cluster
        .merge("Deployment", "s", json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-02-02T12:00:00Z"}}}}}))
        .await;
    cluster.merge("MCPServer", "s", json!({"spec": {"image": "example/server:2"}})).await;
    let deployment = cluster
        .until("Deployment", "s", |deployment| {
            container(deployment)["args"] == json!(["run", "example/server:2"])
        })
        .await;
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["kubectl.kubernetes.io/restartedAt"], "2026-02-02T12:00:00Z");
    assert_eq!(annotations[RESTARTED], "2026-02-01T12:00:00Z");
    // What is no time restarts nothing.
    cluster.merge("MCPServer", "s", json!({"metadata": {"annotations": {RESTARTED: "now"}}})).await;
    operator.settled().await;
    let object = cluster.get("MCPServer", "s").await.unwrap();
    assert_eq!(object["metadata"]["annotations"][PROCESSED], "2026-02-01T12:00:00Z");
    assert_eq!(object["status"]["phase"], "Pending");
    let after = cluster.get("Deployment", "s").await.unwrap();
    assert_eq!(after["spec"], deployment["spec"]);
    // Neither does one that is withdrawn, lies before the last one or is carried out in another way.
    for wish in [
        json!({RESTARTED: null}),
        json!({RESTARTED: "2026-01-31T12:00:00Z"}),
        json!({RESTARTED: "2026-03-01T12:00:00Z", STRATEGY: "immediate"}),
    ] {
        cluster.merge("MCPServer", "s", json!({"metadata": {"annotations": wish}})).await;
        operator.settled().await;
        let after = cluster.get("Deployment", "s").await.unwrap();
        assert_eq!(after["spec"], deployment["spec"], "{wish}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immediate_restart_deletes_the_pods_of_the_proxy_and_no_others() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    cluster.apply(server(&cluster, "s")).await;
    cluster.apply(server(&cluster, "other")).await;
    cluster.proxy_pod("mcpserver", "s", "s-1", "127.0.0.1").await;
    cluster.proxy_pod("mcpserver", "other", "other-1", "127.0.0.1").await;
    cluster
        .apply(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "s-0", "namespace": cluster.namespace,
            "labels": {"app": "s", "toolhive": "true", "toolhive-name": "s"}}, "spec": {"containers": [{"name": "mcp", "image": "example/server:1"}]}}))
        .await;
    operator.settled().await;
    let at = "2099-01-01T00:00:00Z";
    cluster
        .merge("MCPServer", "s", json!({"metadata": {"annotations": {RESTARTED: at, STRATEGY: "immediate"}}}))
        .await;
    cluster.until("MCPServer", "s", |object| object["metadata"]["annotations"][PROCESSED] == at).await;
    let going = |pod: Option<Value>| pod.is_none_or(|pod| pod["metadata"]["deletionTimestamp"].is_string());
    assert!(going(cluster.get("Pod", "s-1").await));
    assert!(!going(cluster.get("Pod", "s-0").await));
    assert!(!going(cluster.get("Pod", "other-1").await));
    let deployment = cluster.get("Deployment", "s").await.unwrap();
    assert!(
        deployment["spec"]["template"]["metadata"]["annotations"][RESTARTED].is_null(),
        "else the new pods would be rolled"
    );
    // It is done once.
    operator.settled().await;
    operator.recorder.clear();
    cluster.proxy_pod("mcpserver", "s", "s-2", "127.0.0.1").await;
    operator.settled().await;
    assert!(!going(cluster.get("Pod", "s-2").await));
    assert!(operator.writes().iter().all(|call| call.resource != "pods"));
}

/// Edits the spec while the operator is about to write metadata.
struct EditsBetween {
    plane: &'static ControlPlane,
    path: String,
    left: AtomicUsize,
}

impl std::fmt::Debug for EditsBetween {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EditsBetween").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Hook for EditsBetween {
    fn before(&self, call: &Call) -> Verdict {
        let metadata = call.is_write() && call.resource == "mcpservers" && call.subresource.is_empty();
        let first = |left: usize| left.checked_sub(1);
        if metadata && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, first).is_ok() {
            let policies = json!({"spec": {"authzConfig": {"type": "inline", "inline": {"policies": ["permit(principal, action, resource);"]}}}});
            let edit = async {
                let body = policies.to_string();
                self.plane.request("PATCH", &self.path, "application/merge-patch+json", &body).await
            };
            let (code, answer) =
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(edit));
            assert_eq!(code, 200, "{answer}");
        }
        Verdict::Pass
    }

    fn after(&self, _: &Call, _: u16) -> Verdict {
        Verdict::Pass
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_comes_between_survives_what_the_operator_writes() {
    let Some(cluster) = Cluster::new().await else { return };
    let hook = Arc::new(EditsBetween {
        plane: cluster.plane,
        path: format!(
            "/apis/toolhive.stacklok.dev/v1beta1/namespaces/{}/mcpservers/s?fieldManager=gitops",
            cluster.namespace
        ),
        left: AtomicUsize::new(1),
    });
    let operator =
        Operator::with(&cluster, Options { hook: Some(Arc::clone(&hook) as _), ..Options::default() }).await;
    cluster.apply(server(&cluster, "s")).await;
    cluster.until("Deployment", "s", |_| true).await;
    let at = "2026-01-31T12:00:00Z";
    cluster.merge("MCPServer", "s", json!({"metadata": {"annotations": {RESTARTED: at}}})).await;
    cluster.until("MCPServer", "s", |object| object["metadata"]["annotations"][PROCESSED] == at).await;
    cluster.until("ConfigMap", "s-authz-inline", |_| true).await;
    assert_eq!(hook.left.load(Ordering::SeqCst), 0, "it came between");
    operator.settled().await;
    let object = cluster.get("MCPServer", "s").await.unwrap();
    assert_eq!(
        object["spec"]["authzConfig"]["inline"]["policies"][0],
        "permit(principal, action, resource);"
    );
    let conflicts = operator
        .recorder
        .writes()
        .into_iter()
        .filter(|(call, code)| *code == 409 && call.resource == "mcpservers");
    assert!(conflicts.count() >= 1, "what was decided before the edit is not written after it");
    // Of the spec nothing is the operator's.
    for entry in object["metadata"]["managedFields"].as_array().unwrap() {
        if entry["manager"] == "skep-operator" {
            assert!(entry["fieldsV1"]["f:spec"].is_null(), "{entry}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn toolhives_finalizer_is_honoured_and_what_its_proxy_made_goes() {
    let Some(cluster) = Cluster::new().await else { return };
    let mut object = server(&cluster, "s");
    object["metadata"]["finalizers"] = json!(["mcpserver.toolhive.stacklok.dev/finalizer"]);
    cluster.apply(object).await;
    let operator = Operator::start(&cluster).await;
    judged(&cluster, "MCPServer", "s").await;
    // Ours, of another name, is not what goes.
    cluster.apply(ours(&cluster, "MCPGroup", "g", json!({}))).await;
    operator.settled().await;
    cluster.delete("MCPServer", "s").await;
    cluster.gone("MCPServer", "s").await;
    for (kind, name) in
        [("StatefulSet", "s"), ("Deployment", "s"), ("ConfigMap", "s-runconfig"), ("Service", "mcp-s")]
    {
        cluster.gone(kind, name).await;
    }
    assert!(cluster.get("MCPGroup", "g").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_somebody_else_holds_back_says_that_it_goes() {
    let Some(cluster) = Cluster::new().await else { return };
    let operator = Operator::start(&cluster).await;
    for (kind, finalizers) in [
        ("MCPServer", json!(["example.com/hold", "mcpserver.toolhive.stacklok.dev/finalizer"])),
        ("MCPRemoteProxy", json!(["example.com/hold"])),
    ] {
        let name = kind.to_lowercase();
        let mut object = workload(&cluster, kind, &name);
        object["metadata"]["finalizers"] = finalizers;
        cluster.apply(object).await;
        let judged = judged(&cluster, kind, &name).await;
        cluster.delete(kind, &name).await;
        let going = cluster.condition(kind, &name, "Ready", "False", "Terminating").await;
        assert_eq!(going["status"]["phase"], "Terminating");
        assert_eq!(going["status"]["url"], judged["status"]["url"], "what is known stays");
        cluster
            .until(kind, &name, |object| object["metadata"]["finalizers"] == json!(["example.com/hold"]))
            .await;
        operator.settled().await;
        operator.recorder.clear();
        cluster.merge(kind, &name, json!({"metadata": {"labels": {"a": "b"}}})).await;
        operator.settled().await;
        assert_eq!(operator.writes(), []);
        cluster.merge(kind, &name, json!({"metadata": {"finalizers": null}})).await;
        cluster.gone(kind, &name).await;
    }
}

//! The webhook on a real API server: what users get who create, update, switch off and delete.

use std::path::{Path, PathBuf};

use futures_util::{StreamExt as _, stream};
use serde_json::{Map, Value, json};
use skep_api::crd::{Kind, Object, Version};
use skep_operator::plan::{Missing, plan_object};
use skep_operator::sidecars::names::{
    CLIENT_REGISTRATION, INJECTION_ANNOTATION, SERVER_CLIENT_DIR, SERVER_SVID_DIR, SPIFFE_HELPER,
    SWITCH_ANNOTATION, SWITCH_LABEL,
};
use skep_operator::webhook::settings::InjectionPoint;
use skep_runtime::rng::Rng as _;
use skep_testkit::SeededRng;
use skep_testkit::control_plane::{Assets, ControlPlane, Options};

use crate::cases::{Case, cases};
use crate::harness::Cluster;
use crate::manifests::world;
use crate::webhook_harness::{Answer, Choices, Webhook, containers, names_of, without};

const V1ALPHA1: &str = "toolhive.stacklok.dev/v1alpha1";
const V1BETA1: &str = "toolhive.stacklok.dev/v1beta1";

/// Objects that are written at the same time.
const AT_ONCE: usize = 8;

fn server(name: &str, spec: Value) -> Value {
    let mut whole = json!({"image": "server:1", "transport": "streamable-http", "mcpPort": 8080, "authMode": "anonymous"});
    let map = whole.as_object_mut().unwrap();
    map.extend(spec.as_object().unwrap().clone());
    json!({"apiVersion": V1BETA1, "kind": "MCPServer", "metadata": {"name": name}, "spec": whole})
}

/// What the API server makes of a manifest where no webhook is asked; `None` when it refuses it.
async fn unasked(namespace: &str, cluster: &Cluster, manifest: &Value) -> Option<Value> {
    let mut elsewhere = manifest.clone();
    elsewhere["metadata"]["namespace"] = namespace.into();
    let answer =
        Answer::dry(&Cluster { plane: cluster.plane, namespace: namespace.to_owned() }, &elsewhere).await;
    let mut taken = (answer.code == 201).then_some(answer.body)?;
    taken["metadata"]["namespace"] = cluster.namespace.clone().into();
    Some(taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_template_gets_an_identity_and_its_credentials() {
    let Some(cluster) = Cluster::new().await else { return };
    let _webhook = Webhook::start(&cluster, Choices::default()).await;
    let made = cluster.apply(server("plain", json!({}))).await;
    let pod = &made["spec"]["podTemplateSpec"]["spec"];
    assert_eq!(names_of(&pod["containers"]), ["mcp", SPIFFE_HELPER, CLIENT_REGISTRATION]);
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    for (volume, path) in [("svid-output", SERVER_SVID_DIR), ("shared-data", SERVER_CLIENT_DIR)] {
        assert!(mounts.contains(&json!({"name": volume, "mountPath": path, "readOnly": true})), "{mounts:?}");
    }
    let annotation = made["metadata"]["annotations"][INJECTION_ANNOTATION].as_str().unwrap();
    let annotation: Value = serde_json::from_str(annotation).unwrap();
    assert_eq!(annotation["reason"], "flag");

    // Applied again, and replaced by itself: nothing changes.
    let again = cluster.apply(server("plain", json!({}))).await;
    assert_eq!(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let replaced = cluster.replace(&made).await.unwrap();
    assert_eq!(replaced["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_switch_that_says_something_decides() {
    let Some(cluster) = Cluster::new().await else { return };
    let webhook = Webhook::start(&cluster, Choices { default_on: false, ..Choices::default() }).await;
    // The webhook learns of the namespace's labels a moment later.
    let expect = async |switch: &str, expected: bool| {
        let mut server = server("switched", json!({}));
        if !switch.is_empty() {
            server["metadata"]["annotations"] = json!({SWITCH_ANNOTATION: switch});
        }
        webhook
            .eventually(async || {
                let answer = Answer::dry(&cluster, &server).await;
                assert_eq!(answer.code, 201, "{}", answer.body);
                let template = answer.body["spec"].get("podTemplateSpec").is_some();
                assert_eq!(answer.injected(), template, "{}", answer.body);
                (answer.injected() == expected).then_some(())
            })
            .await;
    };
    expect("", false).await;
    expect("true", true).await;
    webhook.namespace(&cluster, json!({"annotations": {SWITCH_ANNOTATION: "true"}})).await;
    expect("", true).await;
    expect("false", false).await;
    webhook.namespace(&cluster, json!({"labels": {SWITCH_LABEL: "false"}})).await;
    expect("", false).await;
    expect("true", true).await;
    webhook
        .namespace(
            &cluster,
            json!({"labels": {SWITCH_LABEL: "true"}, "annotations": {SWITCH_ANNOTATION: "false"}}),
        )
        .await;
    expect("", true).await;
    expect("false", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_user_wrote_under_our_names_stays_and_a_warning_says_so() {
    let Some(cluster) = Cluster::new().await else { return };
    let _webhook = Webhook::start(&cluster, Choices::default()).await;
    let own = json!({"name": SPIFFE_HELPER, "image": "mine:1", "args": ["-x"]});
    let volume = json!({"name": "svid-output", "emptyDir": {}});
    let manifest =
        server("own", json!({"podTemplateSpec": {"spec": {"containers": [own], "volumes": [volume]}}}));
    let answer = Answer::of(&cluster, "POST", &manifest).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    let pod = &answer.body["spec"]["podTemplateSpec"]["spec"];
    assert_eq!(pod["containers"][0], own);
    assert_eq!(pod["volumes"][0], volume);
    assert_eq!(names_of(&pod["containers"]).iter().filter(|name| *name == SPIFFE_HELPER).count(), 1);
    let said = answer.warnings.join("\n");
    assert!(said.contains("container `spiffe-helper`") && said.contains("volume `svid-output`"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_admitted_and_admitted_again_unchanged() {
    let Some(cluster) = Cluster::new().await else { return };
    let webhook = Webhook::start(&cluster, Choices::default()).await;
    // One of them publishes its proxy.
    webhook.namespace(&cluster, json!({"labels": {"skep.dev/allow-privileged-template": "true"}})).await;
    let mut files: Vec<PathBuf> = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for folder in std::fs::read_dir(root).unwrap() {
        let folder = folder.unwrap().path();
        // The quickstart is for `skep up`: its addresses are loopback ones.
        if folder.is_dir() && !folder.ends_with("quickstart") {
            files.extend(std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    // Those of the compatible project, where they are.
    if let Some(folder) = std::env::var_os("SKEP_COMPAT") {
        let examples = std::fs::read_dir(Path::new(&folder).join("examples")).unwrap();
        files.extend(examples.map(|entry| entry.unwrap().path()));
    }
    files.sort();
    let mut seen = 0;
    for file in files {
        // It exchanges tokens of callers that nobody authenticates, which is an error here.
        let refused = file.ends_with("complete_example.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        let Ok(documents) = skep_api::yaml::documents(&text) else { continue };
        for document in documents {
            let mut object = document.value;
            let Some(kind) = object["kind"].as_str().and_then(|kind| kind.parse::<Kind>().ok()) else {
                continue;
            };
            object["metadata"]["namespace"] = cluster.namespace.clone().into();
            let answer = Answer::of(&cluster, "POST", &object).await;
            // Two examples may have one name.
            let expected = if refused { [201, 403] } else { [201, 409] };
            assert!(expected.contains(&answer.code), "{}: {}", file.display(), answer.body);
            if answer.code == 201 {
                let again = cluster.replace(&answer.body).await.unwrap();
                assert_eq!(without_times(&again), without_times(&answer.body), "{}: {kind}", file.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 15, "{seen}");
}

/// An object without what a write changes by itself.
fn without_times(object: &Value) -> Value {
    let mut object = object.clone();
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.remove("managedFields");
    metadata.remove("resourceVersion");
    object
}

/// A choice among these.
fn pick<'a, T>(rng: &SeededRng, among: &'a [T]) -> &'a T {
    let mut byte = [0_u8; 4];
    rng.fill(&mut byte);
    &among[u32::from_le_bytes(byte) as usize % among.len()]
}

fn some(rng: &SeededRng) -> bool {
    *pick(rng, &[true, false])
}

/// An MCPServer as somebody might write it, with whatever is in its template.
fn generated(rng: &SeededRng, number: usize) -> Value {
    let mut made = server(&format!("generated-{number}"), json!({}));
    made["apiVersion"] = (*pick(rng, &[V1ALPHA1, V1BETA1])).into();
    match pick(rng, &[0, 1, 2]) {
        0 => {}
        1 => made["metadata"]["annotations"] = json!({}),
        _ => made["metadata"]["annotations"] = json!({"team": "a", "note": "\u{e4} \"quoted\" ~1 /"}),
    }
    if !*pick(rng, &[true, true, true, false]) {
        return made;
    }
    let mut spec = Map::new();
    let container = |name: &str| {
        let mut container = json!({"name": name, "image": format!("{name}:1")});
        if some(rng) {
            container["env"] = json!([{"name": "A", "value": "1"}]);
        }
        if some(rng) {
            container["volumeMounts"] = json!([{"name": "work", "mountPath": "/work"}]);
        }
        if !*pick(rng, &[true, true, true, false]) {
            container["volumeMounts"] = json!([{"name": "work", "mountPath": SERVER_SVID_DIR}]);
        }
        if some(rng) {
            container["resources"] = json!({"limits": {"cpu": "1", "memory": "64Mi"}});
        }
        container
    };
    if some(rng) {
        let all = ["mcp", "other", SPIFFE_HELPER, CLIENT_REGISTRATION];
        let mut containers: Vec<Value> = Vec::new();
        for name in all {
            if some(rng) {
                let mut made = container(name);
                if name == "mcp" {
                    made.as_object_mut().unwrap().remove("image");
                }
                containers.push(made);
            }
        }
        spec.insert("containers".to_owned(), containers.into());
    }
    if some(rng) {
        let mut volumes = vec![json!({"name": "work", "emptyDir": {}})];
        if some(rng) {
            volumes.push(json!({"name": "shared-data", "emptyDir": {"sizeLimit": "1Mi"}}));
        }
        if some(rng) {
            volumes.push(json!({"name": "spiffe-helper-config", "configMap": {"name": "mine"}}));
        }
        spec.insert("volumes".to_owned(), if some(rng) { volumes.into() } else { json!([]) });
    }
    if some(rng) {
        spec.insert("nodeSelector".to_owned(), json!({"disk": "ssd"}));
    }
    let mut template = Map::new();
    if some(rng) {
        template.insert("metadata".to_owned(), json!({"labels": {"tier": "back"}}));
    }
    if some(rng) {
        template.insert("spec".to_owned(), spec.into());
    }
    made["spec"]["podTemplateSpec"] = template.into();
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_servers_get_sidecars_keep_them_get_new_ones_and_give_them_back() {
    let Some(cluster) = Cluster::new().await else { return };
    let rng = SeededRng::new(5);
    let manifests: Vec<Value> = (0..200).map(|number| generated(&rng, number)).collect();
    let nobody = cluster.plane.namespace().await;
    let webhook = Webhook::start(&cluster, Choices::default()).await;
    let made = stream::iter(&manifests)
        .map(async |manifest| {
            let written = unasked(&nobody, &cluster, manifest).await.unwrap();
            let made = cluster.create(manifest).await.unwrap_or_else(|| panic!("refused: {manifest}"));
            let again = cluster.replace(&made).await.unwrap();
            assert_eq!(without_times(&again), without_times(&made), "{manifest}");
            (written, made)
        })
        .buffered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    webhook.images(&cluster, "helper:2", "registration:2").await;
    stream::iter(made)
        .for_each_concurrent(AT_ONCE, async |(written, before)| {
            updated_off_and_on_again(&cluster, &written, &before).await;
        })
        .await;
}

/// A server with new images for our sidecars, without any, and with them again.
async fn updated_off_and_on_again(cluster: &Cluster, written: &Value, before: &Value) {
    let name = written["metadata"]["name"].as_str().unwrap();
    let annotated = |value: Value| json!({"metadata": {"annotations": {SWITCH_ANNOTATION: value}}});
    let updated = cluster.merge("MCPServer", name, json!({"metadata": {"labels": {"a": "b"}}})).await;
    let (users, old) = (containers(written), containers(before));
    for (container, image) in [(SPIFFE_HELPER, "helper:2"), (CLIENT_REGISTRATION, "registration:2")] {
        let mut now = containers(&updated)[container].clone();
        if let Some(users) = users.get(container) {
            assert_eq!(&now, users, "{name}");
        } else {
            assert_eq!(now["image"], image, "{name}");
            now["image"] = old[container]["image"].clone();
            assert_eq!(now, old[container], "{name}: nothing but the image is new");
        }
    }
    let off = cluster.merge("MCPServer", name, annotated("false".into())).await;
    assert_eq!(off["spec"], written["spec"], "{name}");
    assert_eq!(without(&off, SWITCH_ANNOTATION), without(written, SWITCH_ANNOTATION), "{name}");
    let back = cluster.merge("MCPServer", name, annotated(Value::Null)).await;
    assert_eq!(back["spec"], updated["spec"], "{name}");
    assert_eq!(back["metadata"]["annotations"], updated["metadata"]["annotations"], "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_down_lets_nothing_in_and_nothing_else_suffers() {
    let Some(cluster) = Cluster::new().await else { return };
    let webhook = Webhook::start(&cluster, Choices::default()).await;
    let made = cluster.apply(server("before", json!({}))).await;
    webhook.stop().await;
    let answer = Answer::of(&cluster, "POST", &server("after", json!({}))).await;
    assert_eq!(answer.code, 500, "{}", answer.body);
    assert!(answer.body["message"].as_str().unwrap().contains("failed calling webhook"), "{}", answer.body);
    // What is there can be deleted, and its status written.
    let status = json!({"status": {"phase": "Ready"}});
    cluster.merge("MCPServer", "before", status).await;
    cluster.delete("MCPServer", "before").await;
    cluster.gone("MCPServer", "before").await;
    assert!(made["metadata"]["uid"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_exchanged_under_load_and_no_request_fails() {
    let Some(cluster) = Cluster::new().await else { return };
    let webhook = Webhook::start(&cluster, Choices::default()).await;
    let mut serials = std::collections::BTreeSet::new();
    for round in 0..12 {
        let made = cluster.create(&server(&format!("load-{round}"), json!({}))).await.unwrap();
        assert!(containers(&made).contains_key(SPIFFE_HELPER));
        serials.insert(webhook.served_certificate().await);
        let before = webhook.served_certificate().await;
        webhook.certificates.renew();
        // Requests go on while the new one is found and taken.
        let mut number = 0;
        while webhook.served_certificate().await == before {
            cluster.create(&server(&format!("load-{round}-{number}"), json!({}))).await.unwrap();
            number += 1;
        }
    }
    assert!(serials.len() == 12, "{serials:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_a_server_gets_sidecars_when_it_is_created_and_the_server_stays_as_it_is() {
    let Some(cluster) = Cluster::new().await else { return };
    let choices = Choices { injection_point: InjectionPoint::Pod, ..Choices::default() };
    let _webhook = Webhook::start(&cluster, choices).await;
    let made = cluster.apply(server("pods", json!({}))).await;
    assert!(made["spec"].get("podTemplateSpec").is_none(), "{made}");
    let labels = json!({"app": "pods", "toolhive": "true", "toolhive-name": "pods"});
    let stateful = cluster
        .apply(json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "pods", "namespace": cluster.namespace, "labels": labels},
            "spec": {"serviceName": "pods", "selector": {"matchLabels": {"app": "pods"}}, "template": {
                "metadata": {"labels": labels}, "spec": {"containers": [{"name": "mcp", "image": "server:1"}]}}},
        }))
        .await;
    let pod = |name: &str, owned: bool, labels: &Value| {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": cluster.namespace, "labels": labels},
            "spec": {"containers": [{"name": "mcp", "image": "server:1"}]},
        });
        if owned {
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet",
                "name": "pods", "uid": stateful["metadata"]["uid"], "controller": true}]);
        }
        pod
    };
    let ours = cluster.create(&pod("pods-0", true, &labels)).await.unwrap();
    // This API server knows no sidecars of its own, so they are containers.
    assert_eq!(names_of(&ours["spec"]["containers"]), ["mcp", SPIFFE_HELPER, CLIENT_REGISTRATION]);
    let foreign = cluster.create(&pod("foreign", false, &labels)).await.unwrap();
    assert_eq!(names_of(&foreign["spec"]["containers"]), ["mcp"]);
    let unlabelled = cluster.create(&pod("unlabelled", true, &json!({"app": "pods"}))).await.unwrap();
    assert_eq!(names_of(&unlabelled["spec"]["containers"]), ["mcp"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_wrong_is_refused_with_everything_that_is_wrong() {
    let Some(cluster) = Cluster::new().await else { return };
    let _webhook = Webhook::start(&cluster, Choices::default()).await;
    let wrong = json!({
        "apiVersion": V1BETA1, "kind": "MCPRemoteProxy", "metadata": {"name": "wrong"},
        "spec": {"remoteUrl": "http://mcp.example.com/", "proxyPort": 8080, "endpointPrefix": "no slash"},
    });
    let answer = Answer::of(&cluster, "POST", &wrong).await;
    assert!(answer.code == 403 || answer.code == 422, "{}", answer.body);
    let message = answer.body["message"].as_str().unwrap();
    for path in ["spec.remoteUrl", "spec.endpointPrefix", "spec:"] {
        assert!(message.contains(path), "{path}: {message}");
    }
    let missing = json!({
        "apiVersion": V1BETA1, "kind": "MCPRemoteProxy", "metadata": {"name": "early"},
        "spec": {"remoteUrl": "https://mcp.example.com/", "oidcConfigRef": {"name": "later", "audience": "a"}},
    });
    let answer = Answer::of(&cluster, "POST", &missing).await;
    assert_eq!(answer.code, 201, "a config may come later: {}", answer.body);
    let said = answer.warnings.join("\n");
    assert!(said.contains("spec.oidcConfigRef") && said.contains("later"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_object_that_is_wrong_can_be_labelled_and_deleted() {
    let Some(cluster) = Cluster::new().await else { return };
    let wrong = json!({
        "apiVersion": V1BETA1, "kind": "MCPRemoteProxy", "metadata": {"name": "old"},
        "spec": {"remoteUrl": "http://mcp.example.com/", "authMode": "anonymous"},
    });
    cluster.create(&wrong).await.unwrap();
    let _webhook = Webhook::start(&cluster, Choices::default()).await;
    let labelled = json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["example.com/wait"]}});
    cluster.merge("MCPRemoteProxy", "old", labelled).await;
    let (code, body) =
        cluster.try_merge("MCPRemoteProxy", "old", &json!({"spec": {"proxyPort": 8081}})).await;
    assert!(code == 403 || code == 422, "{code} {body}");
    cluster.delete("MCPRemoteProxy", "old").await;
    // It waits for its finalizer; whoever takes it off is not asked what else is wrong.
    cluster.merge("MCPRemoteProxy", "old", json!({"metadata": {"finalizers": null}})).await;
    cluster.gone("MCPRemoteProxy", "old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_through_a_manifest_what_he_could_not_have_himself() {
    let Some(cluster) = Cluster::new().await else { return };
    let webhook = Webhook::start(&cluster, Choices::default()).await;
    let manifest =
        server("reader", json!({"secrets": [{"name": "vault", "key": "k", "targetEnvName": "K"}]}));
    webhook.may(&cluster, "u3", "toolhive.stacklok.dev", "mcpservers", "create").await;
    let answer = Answer::by(&cluster, "u3", "POST", &manifest).await;
    assert_eq!(answer.code, 403, "{}", answer.body);
    let message = answer.body["message"].as_str().unwrap();
    assert!(message.contains("create pods") && message.contains("vault"), "{message}");
    webhook.may(&cluster, "u3", "", "pods", "create").await;
    webhook.may(&cluster, "u3", "", "secrets", "get").await;
    // A refusal is remembered for a second, and rights take a moment.
    let answer = webhook
        .eventually(async || {
            let answer = Answer::by(&cluster, "u3", "POST", &manifest).await;
            (answer.code == 201).then_some(answer)
        })
        .await;
    assert!(containers(&answer.body).contains_key(SPIFFE_HELPER));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_manifest_of_the_table_is_let_in_exactly_when_check_finds_no_error() {
    let Some(cluster) = Cluster::new().await else { return };
    let webhook = Webhook::start(&cluster, Choices { default_on: false, ..Choices::default() }).await;
    let nobody = cluster.plane.namespace().await;
    let usual = cases().into_iter().filter(|case| !case.offline && !case.require_auth);
    let counts: Vec<(usize, usize)> = stream::iter(usual)
        .map(async |case| {
            let namespace = webhook.another_namespace(&cluster, &case.namespace_labels).await;
            judged(&case, &Cluster { plane: cluster.plane, namespace }, &nobody).await
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let denied: usize = counts.iter().map(|(denied, _)| denied).sum();
    let admitted: usize = counts.iter().map(|(_, admitted)| admitted).sum();
    assert!(denied > 100 && admitted > 150, "{denied} denied, {admitted} admitted");
}

/// Creates the objects of a case one after the other, and compares with what the planner says of each and of what
/// was let in before it. Gives how many were denied and admitted.
async fn judged(case: &Case, place: &Cluster, nobody: &str) -> (usize, usize) {
    let (mut denied, mut stored) = (0, Vec::<Value>::new());
    let mut admitted = 0;
    for object in &case.objects {
        let mut object = object.clone();
        object["metadata"]["namespace"] = place.namespace.clone().into();
        let Some(mut taken) = unasked(nobody, place, &object).await else { continue };
        // Nothing is injected here, so the webhook takes this away.
        if let Some(annotations) = taken["metadata"]["annotations"].as_object_mut() {
            annotations.remove(INJECTION_ANNOTATION);
        }
        if taken["kind"].as_str().unwrap().parse::<Kind>().is_err() {
            stored.push(place.create(&object).await.unwrap());
            continue;
        }
        let mut all = stored.clone();
        all.push(taken.clone());
        let (_, mut around) = world(&skep_api::yaml::to_yaml_documents(&all), Missing::Later);
        around.namespace_labels.clone_from(&case.namespace_labels);
        let problems = plan_object(&Object::parse(&taken).unwrap(), &around).problems;
        let errors: Vec<_> = problems.iter().filter(|problem| problem.is_error()).collect();
        let answer = Answer::of(place, "POST", &object).await;
        let said = format!("{}: {} {}", case.name, answer.code, answer.body);
        if errors.is_empty() {
            assert_eq!(answer.code, 201, "{said}");
            for warning in &problems {
                assert!(
                    answer.warnings.iter().any(|said| said.contains(&warning.path)),
                    "{said}: {warning}: {:?}",
                    answer.warnings
                );
            }
            stored.push(answer.body);
            admitted += 1;
        } else {
            assert!([403, 422].contains(&answer.code), "{said}");
            let message = answer.body["message"].as_str().unwrap();
            for problem in errors {
                assert!(message.contains(&problem.path), "{said}: {problem}");
            }
            denied += 1;
        }
    }
    (denied, admitted)
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_the_definitions_of_october_2025_a_server_without_containers_is_let_in() {
    // This API server is nobody else's: it has the definition of that time alone.
    let Some(assets) = Assets::find_or_skip() else { return };
    let plane = ControlPlane::start(&assets, Options { controllers: vec![] }).await;
    let plane: &'static ControlPlane = Box::leak(Box::new(plane));
    let mut crd =
        skep_api::yaml::documents(include_str!("data/mcpserver-2025-10.yaml")).unwrap().remove(0).value;
    // With the typed template that releases of that time had: it has to have containers, and those names.
    let container = json!({
        "type": "object", "required": ["name"], "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"name": {"type": "string"}, "image": {"type": "string"}},
    });
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["podTemplateSpec"] = json!({
        "type": "object",
        "properties": {
            "metadata": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "spec": {"type": "object", "required": ["containers"], "properties": {
                "containers": {"type": "array", "items": container},
                "volumes": {"type": "array", "items": container},
            }},
        },
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, body) = plane.request("POST", path, "application/json", &crd.to_string()).await;
    assert_eq!(code, 201, "{body}");
    let cluster = Cluster { plane, namespace: plane.namespace().await };
    let mut manifest = server("old", json!({}));
    manifest["apiVersion"] = V1ALPHA1.into();
    manifest["spec"].as_object_mut().unwrap().remove("authMode");
    let webhook =
        Webhook::start(&cluster, Choices { version: Version::V1Alpha1, ..Choices::default() }).await;
    let answer = Answer::of(&cluster, "POST", &manifest).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    let pod = &answer.body["spec"]["podTemplateSpec"]["spec"];
    assert_eq!(names_of(&pod["containers"]), ["mcp", SPIFFE_HELPER, CLIENT_REGISTRATION]);
    let again = Answer::of(&cluster, "PUT", &answer.body).await;
    // This API server counts a generation for a default of this definition that it reads as another number.
    assert_eq!(again.body["spec"], answer.body["spec"]);
    assert_eq!(again.body["metadata"]["annotations"], answer.body["metadata"]["annotations"]);
    let mut off = again.body.clone();
    off["metadata"]["annotations"][SWITCH_ANNOTATION] = "false".into();
    let off = Answer::of(&cluster, "PUT", &off).await;
    assert_eq!(off.code, 200, "{}", off.body);
    assert!(off.body["spec"].get("podTemplateSpec").is_none(), "{}", off.body);
    webhook.stop().await;
    plane.stop_api_server();
}

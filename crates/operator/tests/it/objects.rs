//! Rendered objects.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skep_api::names::{is_reserved_variable, is_reserved_volume};
use skep_api::yaml::to_yaml_documents;

use skep_operator::plan::{Missing, plan_object};

use crate::manifests::{files, good, plan, world};

fn round_trip<T: DeserializeOwned + Serialize>(value: &Value) -> Value {
    let typed: T = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value:#}"));
    serde_json::to_value(typed).unwrap()
}

#[test]
fn every_rendered_field_is_one_that_kubernetes_knows() {
    let mut rendered = 0;
    for file in files("good") {
        for (object, planned) in plan(&std::fs::read_to_string(&file).unwrap()) {
            let plan = planned.plan.unwrap_or_else(|| {
                panic!("{} {}: {:?}", file.display(), object.metadata.name, planned.problems)
            });
            for made in &plan.objects {
                let back = match made["kind"].as_str().unwrap() {
                    "Deployment" => round_trip::<Deployment>(made),
                    "StatefulSet" => round_trip::<StatefulSet>(made),
                    "Service" => round_trip::<Service>(made),
                    "ServiceAccount" => round_trip::<ServiceAccount>(made),
                    "ConfigMap" => round_trip::<ConfigMap>(made),
                    "Role" => round_trip::<Role>(made),
                    "RoleBinding" => round_trip::<RoleBinding>(made),
                    "PodDisruptionBudget" => round_trip::<PodDisruptionBudget>(made),
                    "NetworkPolicy" => round_trip::<NetworkPolicy>(made),
                    other => panic!("an object of kind {other} is rendered, and nothing checks it"),
                };
                assert_eq!(&back, made, "{}", file.display());
                rendered += 1;
            }
        }
    }
    assert!(rendered > 100, "{rendered}");
}

#[test]
fn objects_of_some_manifests() {
    for name in [
        "remote-pod",
        "remote-bearer-token",
        "remote-network-policy",
        "remote-oidc-config-map",
        "remote-token-exchange",
        "remote-issuers",
        "server-header-injection",
        "server-full",
        "server-secrets-of-one-secret",
    ] {
        insta::assert_snapshot!(name, to_yaml_documents(&good(name).plan.unwrap().objects));
    }
}

fn of_kind<'v>(objects: &'v [Value], kind: &str) -> &'v Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap()
}

#[test]
fn an_owner_reference_is_there_as_soon_as_the_uid_is_known() {
    let text = |uid: &str| {
        format!(
            "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {{name: p{uid}}}\nspec: {{remoteUrl: 'https://a.example.com', authMode: anonymous}}\n"
        )
    };
    let without = plan(&text("")).pop().unwrap().1.plan.unwrap();
    assert!(without.objects.iter().all(|object| object["metadata"].get("ownerReferences").is_none()));
    let with = plan(&text(", uid: '1-2-3'")).pop().unwrap().1.plan.unwrap();
    for object in &with.objects {
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "1-2-3", "{object}");
        assert_eq!(object["metadata"]["ownerReferences"][0]["controller"], true);
    }
}

#[test]
fn only_what_needs_a_restart_changes_the_pod_template() {
    let text = |spec: &str| {
        format!(
            "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {{name: p}}\nspec: {{remoteUrl: 'https://a.example.com', authMode: anonymous, {spec}}}\n"
        )
    };
    let checksums = |spec: &str| {
        let (objects, world) = world(&text(spec), Missing::Warn);
        let objects = plan_object(&objects[0], &world).plan.unwrap().objects;
        let pod = &of_kind(&objects, "Deployment")["spec"]["template"]["metadata"]["annotations"];
        let map = &of_kind(&objects, "ConfigMap")["metadata"]["annotations"];
        (
            pod["toolhive.stacklok.dev/runconfig-checksum"].clone(),
            map["toolhive.stacklok.dev/content-checksum"].clone(),
        )
    };
    let base = checksums("audit: {enabled: false}");
    let audited = checksums("audit: {enabled: true}");
    let moved = checksums("proxyPort: 9090");
    assert_eq!(base.0, audited.0);
    assert_ne!(base.1, audited.1);
    assert_ne!(base.0, moved.0);
    let header = |key: &str| {
        checksums(&format!(
            "headerForward: {{addHeadersFromSecret: [{{headerName: X-Key, valueSecretRef: {{name: s, key: {key}}}}}]}}"
        ))
    };
    // What is mounted changes the template itself; its checksum is about the RunConfig.
    assert_eq!(base.0, header("a").0);
    assert_ne!(header("a").1, header("b").1);
}

#[test]
fn a_proxy_may_read_exactly_what_it_refers_to() {
    let objects = good("remote-bearer-token").plan.unwrap().objects;
    let rules = &of_kind(&objects, "Role")["rules"];
    assert_eq!(
        *rules,
        json!([
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["p-runconfig"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["api"], "verbs": ["get"]},
        ])
    );
}

#[test]
fn a_service_account_of_the_manifest_brings_its_own_rights() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {name: p}\nspec: {remoteUrl: 'https://a.example.com', authMode: anonymous, serviceAccount: mine}\n";
    let objects = plan(text).pop().unwrap().1.plan.unwrap().objects;
    assert!(
        !objects
            .iter()
            .any(|object| matches!(object["kind"].as_str(), Some("ServiceAccount" | "Role" | "RoleBinding")))
    );
    assert_eq!(of_kind(&objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"], "mine");
}

#[test]
fn nothing_is_mounted_by_sub_path() {
    for file in files("good") {
        for (_, planned) in plan(&std::fs::read_to_string(&file).unwrap()) {
            for object in planned.plan.unwrap().objects {
                assert!(!object.to_string().contains("subPath"), "{}", file.display());
            }
        }
    }
}

#[test]
fn no_secret_value_is_in_any_rendered_object() {
    for folder in ["good", "bad"] {
        for file in files(folder) {
            for (_, planned) in plan(&std::fs::read_to_string(&file).unwrap()) {
                let shown = format!("{planned:?}");
                assert!(!shown.contains("not-a-real-value"), "{}", file.display());
            }
        }
    }
}

#[test]
fn a_network_policy_never_opens_node_local_addresses() {
    let objects = good("remote-network-policy").plan.unwrap().objects;
    for rule in of_kind(&objects, "NetworkPolicy")["spec"]["egress"].as_array().unwrap() {
        for to in
            rule["to"].as_array().into_iter().flatten().filter(|to| to["ipBlock"]["cidr"] == "0.0.0.0/0")
        {
            let except = to["ipBlock"]["except"].as_array().unwrap();
            assert!(
                except.contains(&json!("169.254.0.0/16")) && except.contains(&json!("127.0.0.0/8")),
                "{to}"
            );
        }
    }
}

/// Policy of a proxy whose manifest says this in its spec.
fn policy(spec: &str) -> (Value, String) {
    let text = format!(
        "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {{name: p}}\nspec: {{networkPolicy: {{enabled: true}}, {spec}}}\n"
    );
    let planned = plan(&text).pop().unwrap().1;
    let said = planned.problems.iter().find(|problem| problem.reason == "NetworkPolicyApproximate");
    let said = said.map(|problem| problem.message.clone()).unwrap_or_default();
    let objects = planned.plan.unwrap_or_else(|| panic!("{:?}", planned.problems)).objects;
    (of_kind(&objects, "NetworkPolicy")["spec"].clone(), said)
}

#[test]
fn a_network_policy_lets_clients_and_whoever_asks_for_the_status_in() {
    let (policy, _) = policy("remoteUrl: 'https://a.example.com', authMode: anonymous");
    let ports: Vec<&Value> =
        policy["ingress"][0]["ports"].as_array().unwrap().iter().map(|port| &port["port"]).collect();
    assert_eq!(ports, [8080, 9464]);
}

#[test]
fn a_name_of_the_cluster_reaches_its_pods_whatever_port_they_listen_on() {
    for (spec, namespace) in [
        ("remoteUrl: 'https://a.example.com', authMode: anonymous", ""),
        (
            "remoteUrl: 'http://mcp.tools.svc.cluster.local:80', allowPrivateEndpoint: true, authMode: anonymous",
            "tools",
        ),
        (
            "remoteUrl: 'https://a.example.com', clientToken: strip, oidcConfig: {type: inline, inline: {issuer: 'https://login.idp.svc', audience: a}}",
            "idp",
        ),
    ] {
        let (policy, said) = policy(spec);
        let labels = json!({"kubernetes.io/metadata.name": namespace});
        let pods = json!({"to": [{"namespaceSelector": {"matchLabels": labels}}]});
        let expected = !namespace.is_empty();
        assert_eq!(policy["egress"].as_array().unwrap().contains(&pods), expected, "{spec}");
        assert_eq!(said.contains("all pods of the namespace"), expected, "{said}");
    }
}

#[test]
fn the_api_server_is_reached_on_the_port_behind_its_service_too() {
    let ports = |spec: &str| {
        let (policy, _) = policy(spec);
        let rules = policy["egress"].as_array().unwrap().clone();
        rules.iter().any(|rule| rule["ports"].to_string().contains("6443"))
    };
    assert!(ports("remoteUrl: 'https://a.example.com', oidcConfig: {type: kubernetes}"));
    assert!(!ports("remoteUrl: 'https://a.example.com', authMode: anonymous"));
}

/// What is rendered is known by its name, so that no manifest can take its place.
#[test]
fn every_volume_and_variable_of_the_operator_is_reserved() {
    let mut seen = 0;
    for file in files("good") {
        for (object, planned) in plan(&std::fs::read_to_string(&file).unwrap()) {
            let objects = planned.plan.unwrap().objects;
            let Some(deployment) = objects.iter().find(|object| object["kind"] == "Deployment") else {
                continue;
            };
            let pod = &deployment["spec"]["template"]["spec"];
            let said = format!("{:?}", object.spec);
            for volume in pod["volumes"].as_array().unwrap() {
                let name = volume["name"].as_str().unwrap();
                let theirs = ["svid", "sidecar"].contains(&name) && said.contains(name);
                assert!(theirs || is_reserved_volume(name), "{}: {name}", file.display());
                seen += 1;
            }
            let variables = pod["containers"][0]["env"].as_array().unwrap();
            for variable in variables.iter().filter(|variable| variable.get("valueFrom").is_some()) {
                let name = variable["name"].as_str().unwrap();
                assert!(is_reserved_variable(name), "{}: {name}", file.display());
            }
        }
    }
    assert!(seen > 50, "{seen}");
}

/// A pod that is killed before it has drained cuts off whoever it still serves.
#[test]
fn a_pod_lives_as_long_as_its_proxy_drains() {
    let objects = good("remote-pod").plan.unwrap().objects;
    let grace = &of_kind(&objects, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
    assert!(grace.as_u64().unwrap() > 5 + 30, "{grace}");
}

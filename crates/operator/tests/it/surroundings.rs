//! What the cluster and the operator's settings make of a plan.

use serde_json::{Value, json};
use skep_api::crd::Object;
use skep_api::yaml::to_yaml_documents;
use skep_operator::plan::{DefaultRedis, Missing, Planned, Settings, plan_object};

use crate::cases::cases;
use crate::manifests::{files, world};

/// Plans every object of a text with these settings.
fn plan(text: &str, settings: &Settings) -> Vec<(Object, Planned)> {
    let (objects, mut world) = world(text, Missing::Refuse);
    world.settings = Settings { missing: Missing::Refuse, ..settings.clone() };
    objects
        .into_iter()
        .map(|object| {
            let planned = plan_object(&object, &world);
            (object, planned)
        })
        .collect()
}

fn made(text: &str, settings: &Settings) -> Vec<Value> {
    let planned = plan(text, settings).pop().unwrap().1;
    planned.plan.unwrap_or_else(|| panic!("{:?}", planned.problems)).objects
}

/// Texts of manifests that are valid.
fn good() -> Vec<String> {
    let files = files("good").into_iter().map(|file| std::fs::read_to_string(file).unwrap());
    let table = cases().into_iter().filter(|case| case.problems.is_empty());
    files.chain(table.map(|case| to_yaml_documents(&case.objects))).collect()
}

fn of_kind<'v>(objects: &'v [Value], kind: &str) -> Option<&'v Value> {
    objects.iter().find(|object| object["kind"] == kind)
}

/// The operator looks only at objects with this label, so one without it would be made again and again.
#[test]
fn everything_that_is_made_says_for_whom() {
    let settings = Settings { service_monitors: true, ..Settings::default() };
    let mut seen = 0;
    for text in good() {
        for (object, planned) in plan(&text, &settings) {
            for made in planned.plan.iter().flat_map(|plan| &plan.objects) {
                let labels = &made["metadata"]["labels"];
                assert_eq!(labels["toolhive"], "true", "{made:#}");
                assert_eq!(labels["toolhive-name"], object.metadata.name.as_str(), "{made:#}");
                seen += 1;
            }
        }
    }
    assert!(seen > 300, "{seen}");
}

#[test]
fn labels_of_a_manifest_never_hide_what_is_made() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {name: p}\nspec: {remoteUrl: 'https://a.example.com', authMode: anonymous, resourceOverrides: {proxyDeployment: {labels: {toolhive: 'no', toolhive-name: x}, podTemplateMetadataOverrides: {labels: {toolhive: 'no'}}}, proxyService: {labels: {toolhive: 'no', app: x}}}}\n";
    for made in made(text, &Settings::default()) {
        assert_eq!(made["metadata"]["labels"]["toolhive"], "true", "{made:#}");
        assert_eq!(made["metadata"]["labels"]["toolhive-name"], "p", "{made:#}");
    }
}

#[test]
fn no_ids_are_fixed_where_the_platform_gives_them() {
    let open = Settings { openshift: true, ..Settings::default() };
    let mut pods = 0;
    for text in good().into_iter().filter(|text| !text.contains("runAsUser")) {
        for (_, planned) in plan(&text, &open) {
            for made in planned.plan.iter().flat_map(|plan| &plan.objects) {
                let shown = made.to_string();
                for field in ["runAsUser", "runAsGroup", "fsGroup"] {
                    assert!(!shown.contains(field), "{field}: {made:#}");
                }
                let Some(pod) = made.pointer("/spec/template/spec") else { continue };
                assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
                assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
                let own = &pod["containers"][0]["securityContext"];
                assert_eq!(own["capabilities"]["drop"], json!(["ALL"]));
                assert_eq!(own["allowPrivilegeEscalation"], false);
                pods += 1;
            }
        }
    }
    assert!(pods > 50, "{pods}");
}

#[test]
fn elsewhere_pods_run_as_a_user_without_rights() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {name: s}\nspec: {image: a, authMode: anonymous}\n";
    let objects = made(text, &Settings::default());
    for kind in ["Deployment", "StatefulSet"] {
        let pod = &of_kind(&objects, kind).unwrap()["spec"]["template"]["spec"];
        for field in ["runAsUser", "runAsGroup", "fsGroup"] {
            assert_eq!(pod["securityContext"][field], 1000, "{kind}: {field}");
        }
        assert_eq!(pod["containers"][0]["securityContext"]["runAsUser"], 1000, "{kind}");
    }
}

#[test]
fn a_service_monitor_is_made_where_the_cluster_knows_them_and_the_manifest_asks() {
    let known = Settings { service_monitors: true, ..Settings::default() };
    for (kind, base) in [("MCPServer", "image: a"), ("MCPRemoteProxy", "remoteUrl: 'https://a.example.com'")]
    {
        let text = |telemetry: &str| {
            format!(
                "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPTelemetryConfig\nmetadata: {{name: t}}\nspec: {{prometheus: {{enabled: true}}}}\n---\napiVersion: toolhive.stacklok.dev/v1beta1\nkind: {kind}\nmetadata: {{name: w}}\nspec: {{{base}, authMode: anonymous{telemetry}}}\n"
            )
        };
        for (telemetry, settings, expected) in [
            ("", &known, false),
            (", telemetry: {prometheus: {enabled: false}}", &known, false),
            (", telemetry: {prometheus: {enabled: true}}", &Settings::default(), false),
            (", telemetry: {prometheus: {enabled: true}}", &known, true),
            (", telemetryConfigRef: {name: t}", &known, true),
        ] {
            let objects = made(&text(telemetry), settings);
            let monitor = of_kind(&objects, "ServiceMonitor");
            assert_eq!(monitor.is_some(), expected, "{kind}{telemetry}");
            let Some(monitor) = monitor else { continue };
            let service = objects
                .iter()
                .find(|object| {
                    object["kind"] == "Service"
                        && object["metadata"]["name"].as_str().unwrap().ends_with("proxy")
                })
                .unwrap();
            for (key, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
                assert_eq!(service["metadata"]["labels"][key], *value, "{kind}: it finds the Service");
            }
            let endpoint = &monitor["spec"]["endpoints"][0];
            let container =
                &of_kind(&objects, "Deployment").unwrap()["spec"]["template"]["spec"]["containers"][0];
            let port = container["ports"]
                .as_array()
                .unwrap()
                .iter()
                .find(|port| port["name"] == endpoint["targetPort"])
                .unwrap_or_else(|| panic!("{kind}: the pod has no such port"));
            assert_eq!((&port["containerPort"], &endpoint["path"]), (&json!(9464), &json!("/metrics")));
        }
    }
}

/// Two Services have these labels when an MCPServer's backend has one; a monitor must not scrape that.
#[test]
fn a_service_monitor_finds_only_the_proxys_own_service() {
    let settings = Settings { service_monitors: true, ..Settings::default() };
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {name: s}\nspec: {image: a, transport: streamable-http, authMode: anonymous, telemetry: {prometheus: {enabled: true}}}\n";
    let objects = made(text, &settings);
    let wanted = of_kind(&objects, "ServiceMonitor").unwrap()["spec"]["selector"]["matchLabels"].clone();
    let found: Vec<&str> = objects
        .iter()
        .filter(|object| object["kind"] == "Service")
        .filter(|service| {
            let labels = &service["metadata"]["labels"];
            wanted.as_object().unwrap().iter().all(|(key, value)| labels[key] == *value)
        })
        .map(|service| service["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(found, ["mcp-s-proxy"]);
}

#[test]
fn pull_secrets_of_the_operator_join_those_of_the_manifest_in_every_pod() {
    let settings = Settings {
        image_pull_secrets: vec!["both".to_owned(), "ours".to_owned(), String::new()],
        ..Settings::default()
    };
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {name: s}\nspec: {image: a, authMode: anonymous, resourceOverrides: {proxyDeployment: {imagePullSecrets: [{name: theirs}, {name: both}]}}}\n";
    let expected = json!([{"name": "theirs"}, {"name": "both"}, {"name": "ours"}]);
    let objects = made(text, &settings);
    assert_eq!(
        of_kind(&objects, "Deployment").unwrap()["spec"]["template"]["spec"]["imagePullSecrets"],
        expected
    );
    let accounts: Vec<&Value> = objects.iter().filter(|object| object["kind"] == "ServiceAccount").collect();
    assert_eq!(accounts.len(), 2, "the proxy's and the backend's");
    for account in accounts {
        assert_eq!(account["imagePullSecrets"], expected, "{account}");
    }
    let none = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {name: s}\nspec: {image: a, authMode: anonymous}\n";
    for account in made(none, &Settings::default()).iter().filter(|object| object["kind"] == "ServiceAccount")
    {
        assert!(account.get("imagePullSecrets").is_none(), "what a platform adds stays: {account}");
    }
}

/// The proxy of this version refuses to start with sessions in Redis, and an operator's setting must not stop
/// every proxy of a cluster.
#[test]
fn a_default_redis_changes_nothing_that_runs() {
    let redis = DefaultRedis {
        addr: "redis:6379".to_owned(),
        secret_name: "redis".to_owned(),
        secret_key: "password".to_owned(),
    };
    let with = Settings { default_redis: Some(redis), ..Settings::default() };
    for text in good() {
        for ((_, without), (object, planned)) in
            plan(&text, &Settings::default()).into_iter().zip(plan(&text, &with))
        {
            let objects = |planned: &Planned| planned.plan.as_ref().map(|plan| plan.objects.clone());
            assert_eq!(objects(&planned), objects(&without), "{}", object.metadata.name);
        }
    }
}

#[test]
fn a_backend_admits_its_own_proxy_and_nobody_else() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {name: s}\nspec: {image: a, transport: streamable-http, authMode: anonymous}\n";
    let objects = made(text, &Settings::default());
    let policy = of_kind(&objects, "NetworkPolicy").unwrap();
    let matches = |selector: &Value, labels: &Value| {
        selector["matchLabels"].as_object().unwrap().iter().all(|(key, value)| labels[key] == *value)
    };
    let labels =
        |kind: &str| of_kind(&objects, kind).unwrap()["spec"]["template"]["metadata"]["labels"].clone();
    assert!(matches(&policy["spec"]["podSelector"], &labels("StatefulSet")));
    assert!(!matches(&policy["spec"]["podSelector"], &labels("Deployment")));
    let ingress = policy["spec"]["ingress"].as_array().unwrap();
    assert_eq!(ingress.len(), 1);
    let from = ingress[0]["from"].as_array().unwrap();
    assert_eq!(from.len(), 1);
    assert!(from[0].get("namespaceSelector").is_none(), "only this namespace");
    assert!(matches(&from[0]["podSelector"], &labels("Deployment")));
    let mut other = labels("Deployment");
    other["app.kubernetes.io/instance"] = "other".into();
    other["toolhive-name"] = "other".into();
    assert!(!matches(&from[0]["podSelector"], &other), "another proxy of the namespace");
}

#[test]
fn a_network_policy_lets_a_proxy_out_to_everything_that_it_calls() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {name: p}\nspec: {remoteUrl: 'https://192.0.2.1', allowPrivateEndpoint: true, networkPolicy: {enabled: true}, oidcConfig: {type: inline, inline: {issuer: 'https://192.0.2.2:1002', jwksUrl: 'https://192.0.2.3:1003', introspectionUrl: 'https://192.0.2.4:1004', audience: a}}, clientToken: strip, sessionStorage: {provider: redis, address: '192.0.2.6:6379'}}\n";
    let objects = made(text, &Settings::default());
    let egress = of_kind(&objects, "NetworkPolicy").unwrap()["spec"]["egress"].clone();
    for (address, port) in [("1", 443), ("2", 1002), ("3", 1003), ("4", 1004), ("6", 6379)] {
        let rule = json!({
            "to": [{"ipBlock": {"cidr": format!("192.0.2.{address}/32")}}],
            "ports": [{"protocol": "TCP", "port": port}],
        });
        assert!(egress.as_array().unwrap().contains(&rule), "{address}: {egress:#}");
    }
}

#[test]
fn pods_are_kept_from_being_drained_all_at_once_when_there_are_several() {
    for (replicas, expected) in
        [("", false), (", replicas: 0", false), (", replicas: 1", false), (", replicas: 2", true)]
    {
        let text = format!(
            "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {{name: p}}\nspec: {{remoteUrl: 'https://a.example.com', authMode: anonymous{replicas}}}\n"
        );
        let objects = made(&text, &Settings::default());
        assert_eq!(of_kind(&objects, "PodDisruptionBudget").is_some(), expected, "{replicas}");
        let said = of_kind(&objects, "Deployment").unwrap()["spec"].get("replicas").is_some();
        assert_eq!(said, !replicas.is_empty(), "an autoscaler owns what is not said");
    }
}

#[test]
fn a_profile_that_is_not_enforced_closes_nothing_and_admits_the_proxy_alone() {
    for (profile, closed) in [
        ("", false),
        ("name: none", true),
        ("name: none, enforce: true", true),
        ("name: none, enforce: false", false),
    ] {
        let text = format!(
            "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {{name: s}}\nspec: {{image: a, transport: streamable-http, authMode: anonymous{}}}\n",
            if profile.is_empty() { String::new() } else { format!(", permissionProfile: {{{profile}}}") }
        );
        let objects = made(&text, &Settings::default());
        let spec = &of_kind(&objects, "NetworkPolicy").unwrap()["spec"];
        assert_eq!(spec.get("egress").is_some(), closed, "{profile}");
        assert_eq!(spec["ingress"].as_array().unwrap().len(), 1, "{profile}");
    }
}

#[test]
fn a_name_of_this_cluster_opens_its_own_namespace_alone() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {name: p}\nspec: {remoteUrl: 'https://mcp.example.com', authMode: anonymous, networkPolicy: {enabled: true, allowedEgress: [{host: db.data.svc.cluster.local, ports: [5432]}, {host: here}, {cidr: 169.0.0.0/8}]}}\n";
    let objects = made(text, &Settings::default());
    let egress = of_kind(&objects, "NetworkPolicy").unwrap()["spec"]["egress"].clone();
    let rules = egress.as_array().unwrap();
    let pods = json!({"to": [
        {"podSelector": {}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "data"}}},
    ]});
    assert!(rules.contains(&pods), "{egress:#}");
    assert!(!egress.to_string().contains(r#""namespaceSelector":{}"#), "{egress:#}");
    let network = json!({
        "to": [{"ipBlock": {"cidr": "169.0.0.0/8", "except": ["169.254.0.0/16"]}}],
        "ports": [{"protocol": "TCP", "port": 443}],
    });
    assert!(rules.contains(&network), "{egress:#}");
}

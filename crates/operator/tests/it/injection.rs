//! Sidecars are put into MCPServers and pods, and taken out again.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use skep_operator::sidecars::{
    AdminInPods, Injection, Mutation, PodOwner, Policy, Registration, SidecarConfig, SidecarMode, Socket,
    Surroundings, missing, mutate_pod, mutate_server, restore_server, secrets_reached, written_by_author,
};

pub(crate) const ANNOTATION: &str = "skep.dev/injection";

pub(crate) fn on() -> Policy {
    Policy { default_on: true, ..Policy::default() }
}

/// A namespace that has everything.
pub(crate) fn complete() -> Surroundings {
    let keys = |keys: &[&str]| Some(keys.iter().map(|key| (*key).to_owned()).collect::<BTreeSet<_>>());
    let environments = [("KEYCLOAK_URL", "https://keycloak.example.com"), ("KEYCLOAK_REALM", "agents")];
    Surroundings {
        environments: Some(
            environments.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ),
        helper_config: keys(&["helper.conf"]),
        admin_secret: keys(&["KEYCLOAK_ADMIN_USERNAME", "KEYCLOAK_ADMIN_PASSWORD"]),
        registration_secret: keys(&["initial-access-token"]),
        ..Surroundings::default()
    }
}

pub(crate) fn server(spec: Value) -> Value {
    let mut spec = spec;
    spec["image"] = json!("example/server:1");
    json!({"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServer", "metadata": {"name": "weather", "namespace": "team"}, "spec": spec})
}

/// Admits an object, and checks what is always so.
pub(crate) fn admit(object: &Value, policy: &Policy, around: &Surroundings) -> Mutation {
    let mutation = mutate_server(object, "team", policy, around);
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &mutation.patch).unwrap();
    assert_eq!(patched, mutation.result);
    let again = mutate_server(&mutation.result, "team", policy, around);
    assert!(again.patch.0.is_empty(), "a second call changes {}", json!(again.patch));
    assert_eq!(again.injected, mutation.injected);
    mutation
}

fn injection(object: &Value) -> Option<Injection> {
    let annotations = object.pointer("/metadata/annotations")?.as_object()?;
    let annotations: BTreeMap<String, String> = annotations
        .iter()
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    Injection::of(&annotations)
}

fn containers(object: &Value) -> Vec<&str> {
    let list = object.pointer("/spec/podTemplateSpec/spec/containers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|container| container["name"].as_str()).collect()
}

/// What a reader of a snapshot wants to see.
fn shown(mutation: &Mutation) -> Value {
    json!({"patch": mutation.patch, "warnings": mutation.warnings, "injected": mutation.injected})
}

#[test]
fn a_server_without_a_template_gets_external_sidecars() {
    let mutation = admit(&server(json!({})), &on(), &complete());
    insta::assert_json_snapshot!(shown(&mutation));
    let policy = Policy { admin_in_pods: AdminInPods::Allowed, ..on() };
    let admin = admit(&server(json!({})), &policy, &complete());
    let registration =
        |mutation: &Mutation| mutation.result["spec"]["podTemplateSpec"]["spec"]["containers"][2].clone();
    insta::assert_json_snapshot!(
        "external_with_an_administrators_password",
        json!([registration(&admin)["env"], admin.warnings])
    );
    assert_eq!(registration(&admin)["command"], registration(&mutation)["command"]);
}

#[test]
fn a_server_without_a_template_gets_built_in_sidecars() {
    let policy = Policy { mode: SidecarMode::Builtin, socket: Socket::Csi, ..on() };
    insta::assert_json_snapshot!(shown(&admit(
        &server(json!({"podTemplateSpec": {}})),
        &policy,
        &complete()
    )));
}

#[test]
fn where_the_operator_registers_the_pod_has_one_sidecar_and_a_secret() {
    for mode in [SidecarMode::External, SidecarMode::Builtin] {
        let policy = Policy { mode, registration: Registration::Operator, ..on() };
        let mutation = admit(&server(json!({})), &policy, &complete());
        let pod = &mutation.result["spec"]["podTemplateSpec"]["spec"];
        assert_eq!(containers(&mutation.result), ["mcp", "spiffe-helper"]);
        assert_eq!(mutation.warnings, [""; 0]);
        insta::assert_json_snapshot!(
            format!("registration_by_the_operator_{mode:?}"),
            json!({"command": pod["containers"][1]["command"], "volumes": pod["volumes"]})
        );
        let recorded = injection(&mutation.result).unwrap();
        assert_eq!((recorded.registration, recorded.mode), (Registration::Operator, mode));
        assert!(missing(&recorded.needs(), &complete()).is_empty());
    }
}

#[test]
fn what_the_user_wrote_comes_first_and_stays() {
    let object = server(json!({"podTemplateSpec": {
        "metadata": {"labels": {"a": "b"}},
        "spec": {
            "tolerations": null,
            "containers": [
                {"name": "cache", "image": "cache:1"},
                {"name": "mcp", "resources": {"limits": {"cpu": 1.5}}, "env": [{"name": "A", "value": "1"}]},
            ],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    }}));
    insta::assert_json_snapshot!(shown(&admit(&object, &on(), &complete())));
}

#[test]
fn what_has_our_name_is_left_alone_and_a_warning_says_what_follows() {
    let object = server(json!({
        "env": [{"name": "SKEP_CLIENT_DIR", "value": "/x"}],
        "podTemplateSpec": {"spec": {
            "initContainers": [{"name": "kagenti-client-registration", "image": "mine"}],
            "containers": [
                {"name": "spiffe-helper", "image": "mine"},
                {"name": "mcp", "volumeMounts": [{"name": "mine", "mountPath": "/var/run/spiffe-svid/"}, {"name": "shared-data", "mountPath": "/var/run/skep-client"}], "env": [{"name": "SPIFFE_SVID_DIR", "value": "/y"}]},
            ],
            "volumes": [{"name": "svid-output", "configMap": {"name": "x"}}, {"name": "shared-data", "emptyDir": {}}, {"name": "spiffe-helper-config", "configMap": {"name": "spiffe-helper-config"}}],
        }},
    }));
    let mutation = admit(&object, &on(), &complete());
    assert_eq!(mutation.injected, [""; 0]);
    insta::assert_json_snapshot!(shown(&mutation));
    assert_eq!(restore_server(&mutation.result).result, object);
}

#[test]
fn a_native_pod_starts_its_sidecars_first() {
    let pod = pod();
    let owner = PodOwner { namespace: "team".to_owned(), name: "weather".to_owned(), ..PodOwner::default() };
    for mode in [SidecarMode::External, SidecarMode::Builtin] {
        let policy = Policy { mode, ..on() };
        let around = Surroundings { native_sidecars: true, ..complete() };
        let mutation = mutate_pod(&pod, &owner, &policy, &around);
        let spec = &mutation.result["spec"];
        assert_eq!(spec["containers"].as_array().unwrap().len(), 1);
        let shown = |container: &Value| {
            json!([container["name"], container["restartPolicy"], container["startupProbe"]])
        };
        let first = spec["initContainers"].as_array().unwrap().iter().map(shown).collect::<Vec<_>>();
        insta::assert_json_snapshot!(format!("native_pod_{mode:?}"), first);
        let again = mutate_pod(&mutation.result, &owner, &policy, &around);
        assert!(again.patch.0.is_empty() && again.warnings.is_empty(), "{:?}", again.warnings);
        assert_eq!(again.injected, mutation.injected);
    }
    let plain = mutate_pod(&pod, &owner, &on(), &complete()).result;
    let names: Vec<&Value> =
        plain["spec"]["containers"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["mcp", "spiffe-helper", "kagenti-client-registration"]);
    assert_eq!(plain["spec"]["initContainers"], pod["spec"]["initContainers"]);
}

/// What the registration's container says.
fn registration(object: &Value, list: &str) -> Value {
    let containers = object.pointer(list).and_then(Value::as_array).unwrap();
    containers.iter().find(|one| one["name"] == "kagenti-client-registration").unwrap().clone()
}

fn variable<'v>(container: &'v Value, name: &str) -> &'v Value {
    let env = container["env"].as_array().unwrap();
    env.iter().find(|one| one["name"] == name).map_or(&Value::Null, |one| &one["value"])
}

#[test]
fn the_registration_takes_no_port_of_the_servers() {
    const SERVER: &str = "/spec/podTemplateSpec/spec/containers";
    let builtin = Policy { mode: SidecarMode::Builtin, ..on() };
    let own = |port: u16| json!({"podTemplateSpec": {"spec": {"containers": [{"name": "side", "ports": [{"containerPort": port}]}]}}});
    let told = json!({"podTemplateSpec": {"spec": {"containers": [{"name": "mcp", "env": [{"name": "MCP_PORT", "value": "8082"}]}]}}});
    for (spec, expected) in [
        (json!({}), "127.0.0.1:8082"),
        (json!({"mcpPort": 8080, "proxyPort": 8082}), "127.0.0.1:8082"),
        (json!({"mcpPort": 8082}), "0"),
        (json!({"targetPort": 8082}), "0"),
        (own(8081), "127.0.0.1:8082"),
        (own(8082), "0"),
        (told, "0"),
    ] {
        let mutation = admit(&server(spec), &builtin, &complete());
        let container = registration(&mutation.result, SERVER);
        assert_eq!(variable(&container, "HEALTH_ADDRESS"), expected, "{}", mutation.result);
        assert_eq!(container["startupProbe"], Value::Null);
        assert_eq!(variable(&container, "DEREGISTER_DELAY_SECONDS"), &Value::Null);
    }
    let owner = PodOwner { namespace: "team".to_owned(), name: "weather".to_owned(), ..PodOwner::default() };
    let around = Surroundings { native_sidecars: true, ..complete() };
    for (port, expected, probed) in [(8080, ":8082", true), (8082, "0", false)] {
        let mut pod = pod();
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": port, "protocol": "TCP"}]);
        let container =
            registration(&mutate_pod(&pod, &owner, &builtin, &around).result, "/spec/initContainers");
        assert_eq!(variable(&container, "HEALTH_ADDRESS"), expected);
        assert_eq!(container["startupProbe"].is_object(), probed, "{container}");
        // It ends after the server, who needs no time then.
        assert_eq!(variable(&container, "DEREGISTER_DELAY_SECONDS"), "0");
        // The published image opens no port.
        let external = registration(&mutate_pod(&pod, &owner, &on(), &around).result, "/spec/initContainers");
        assert_eq!(variable(&external, "HEALTH_ADDRESS"), &Value::Null);
        assert!(external["startupProbe"].is_object());
    }
}

#[test]
fn a_native_pod_in_a_namespace_that_lacks_everything_waits_for_nothing_that_can_not_come() {
    let owner = PodOwner { namespace: "team".to_owned(), name: "weather".to_owned(), ..PodOwner::default() };
    let around = Surroundings { native_sidecars: true, ..Surroundings::default() };
    for (mode, path) in [(SidecarMode::External, "/exec/command/2"), (SidecarMode::Builtin, "/httpGet/path")]
    {
        let mutation = mutate_pod(&pod(), &owner, &Policy { mode, ..on() }, &around);
        let container = registration(&mutation.result, "/spec/initContainers");
        // Both say so after two minutes at the latest, and at once when something is missing.
        let asked = container["startupProbe"].pointer(path).unwrap().as_str().unwrap();
        assert!(["/startupz", "/shared/.started-once"].contains(&asked), "{asked}");
        assert!(!mutation.warnings.is_empty());
        let again = mutate_pod(&mutation.result, &owner, &Policy { mode, ..on() }, &around);
        assert!(again.patch.0.is_empty() && again.warnings.is_empty(), "{:?}", again.warnings);
    }
}

#[test]
fn where_the_namespaces_config_map_may_carry_the_password_it_counts_from_when_it_does() {
    const LIST: &str = "/spec/podTemplateSpec/spec/containers";
    let early = admit(&server(json!({})), &on(), &Surroundings::default());
    let mut around = complete();
    around.admin_secret = None;
    let says = |warnings: &[String], part: &str| warnings.iter().any(|warning| warning.contains(part));
    assert!(says(&early.warnings, "no credential for Keycloak") && !says(&early.warnings, "ADMINISTRATOR"));
    let needs = injection(&early.result).unwrap().needs();
    assert_eq!(missing(&needs, &around).len(), 1, "it still has no login");
    for key in ["KEYCLOAK_ADMIN_USERNAME", "KEYCLOAK_ADMIN_PASSWORD"] {
        around.environments.as_mut().unwrap().insert(key.to_owned(), "x".to_owned());
    }
    assert!(missing(&needs, &around).is_empty(), "what came later counts");
    let later = admit(&early.result, &on(), &around);
    assert!(says(&later.warnings, "ADMINISTRATOR"), "{:?}", later.warnings);
    // The pods don't change with it.
    assert_eq!(registration(&later.result, LIST), registration(&early.result, LIST));
    let forbidden = Policy { admin_in_pods: AdminInPods::Forbidden, ..on() };
    let none = registration(&admit(&server(json!({})), &forbidden, &around).result, LIST);
    assert!(!none.to_string().contains("\"KEYCLOAK_ADMIN_PASSWORD\""), "{none}");
}

#[test]
fn the_registrations_own_volumes_are_not_there_for_a_container_of_the_authors() {
    let builtin = Policy { mode: SidecarMode::Builtin, ..on() };
    let volumes = |object: &Value| -> Vec<String> {
        let list = object.pointer("/spec/podTemplateSpec/spec/volumes").and_then(Value::as_array).unwrap();
        list.iter().filter_map(|volume| volume["name"].as_str()).map(ToOwned::to_owned).collect()
    };
    let with = |container: Value| server(json!({"podTemplateSpec": {"spec": {"containers": [container]}}}));
    let usual = admit(&server(json!({})), &builtin, &complete()).result;
    assert!(volumes(&usual).contains(&"keycloak-registration".to_owned()));
    let own = with(json!({"name": "kagenti-client-registration", "image": "mine"}));
    let found = volumes(&admit(&own, &builtin, &complete()).result);
    assert_eq!(found, ["shared-data", "spire-agent-socket", "spiffe-helper-config", "svid-output"]);
}

#[test]
fn an_author_who_mounts_the_registrations_secret_is_found() {
    let builtin = Policy { mode: SidecarMode::Builtin, ..on() };
    let mount =
        |volume: &str| json!([{"name": "data", "mountPath": "/d"}, {"name": volume, "mountPath": "/x"}]);
    let pod = |pod: Value| json!({"podTemplateSpec": {"spec": pod}});
    let own = |volume: Value| {
        pod(
            json!({"containers": [{"name": "mcp", "volumeMounts": mount("keycloak-registration")}], "volumes": [volume]}),
        )
    };
    let at = |path: &str| vec![(path.to_owned(), "keycloak-registration".to_owned())];
    let first = at("spec.podTemplateSpec.spec.containers[0].volumeMounts[1].name");
    for (spec, expected) in [
        (json!({}), Vec::new()),
        (pod(json!({"containers": [{"name": "mcp", "volumeMounts": mount("shared-data")}]})), Vec::new()),
        (
            pod(json!({"containers": [{"name": "mcp", "volumeMounts": mount("keycloak-registration")}]})),
            first.clone(),
        ),
        (
            pod(
                json!({"containers": [{"name": "mcp", "volumeMounts": mount("keycloak-registration-state")}]}),
            ),
            first.clone(),
        ),
        (
            pod(
                json!({"initContainers": [{}, {"name": "i", "volumeMounts": mount("keycloak-registration")}]}),
            ),
            at("spec.podTemplateSpec.spec.initContainers[1].volumeMounts[1].name"),
        ),
        (own(json!({"name": "keycloak-registration", "emptyDir": {}})), Vec::new()),
        (own(json!({"name": "keycloak-registration", "$patch": "delete"})), first),
        (json!({"volumes": [{"name": "keycloak-registration"}]}), at("spec.volumes[0].name")),
    ] {
        let object = server(spec);
        // Before and after injection alike.
        let injected = admit(&object, &builtin, &complete()).result;
        for came in [&object, &injected] {
            let written = written_by_author(came, "team", &builtin);
            assert_eq!(written, object);
            assert_eq!(secrets_reached(&written), expected, "{came}");
        }
    }
}

/// Says that everything of an object was injected.
fn forged(object: &Value) -> Value {
    let pod = &object["spec"]["podTemplateSpec"]["spec"];
    let hashes = |list: &Value, key: &str| -> Value {
        let entries = list.as_array().into_iter().flatten();
        let hash = |entry: &Value| {
            let digest = skep_api::crd::canonical::digest(entry);
            (entry[key].as_str().unwrap().to_owned(), json!(digest.chars().take(16).collect::<String>()))
        };
        entries.map(hash).collect::<serde_json::Map<_, _>>().into()
    };
    let text = json!({
        "version": 1,
        "containers": hashes(&pod["containers"], "name"),
        "volumes": hashes(&pod["volumes"], "name"),
        "mounts": hashes(&pod["containers"][0]["volumeMounts"], "mountPath"),
        "env": hashes(&pod["containers"][0]["env"], "name"),
    });
    let mut forged = object.clone();
    forged["metadata"]["annotations"] = json!({ANNOTATION: text.to_string()});
    forged
}

#[test]
fn an_annotation_that_somebody_made_up_hides_nothing_of_his() {
    let secret = json!({"secretKeyRef": {"name": "victim", "key": "k"}});
    let object = server(json!({"podTemplateSpec": {"spec": {
        "containers": [
            {"name": "mcp", "env": [{"name": "A", "valueFrom": secret}, {"name": "SPIFFE_SVID_DIR", "valueFrom": secret}], "volumeMounts": [{"name": "mine", "mountPath": "/m"}, {"name": "keycloak-registration", "mountPath": "/var/run/skep-client"}]},
            {"name": "cache", "env": [{"name": "A", "valueFrom": secret}]},
            {"name": "spiffe-helper", "image": "mine", "env": [{"name": "A", "valueFrom": secret}]},
        ],
        "volumes": [{"name": "mine", "secret": {"secretName": "victim"}}, {"name": "shared-data", "secret": {"secretName": "victim"}}],
    }}}));
    let forged = forged(&object);
    for mode in [SidecarMode::External, SidecarMode::Builtin] {
        let policy = Policy { mode, ..on() };
        let written = written_by_author(&forged, "team", &policy);
        assert_eq!(written["spec"], object["spec"], "{mode:?}");
    }
    // What has not our name stays even for those who trust the annotation.
    let restored = restore_server(&forged).result;
    assert_eq!(containers(&restored), ["mcp", "cache"]);
    let pod = &restored["spec"]["podTemplateSpec"]["spec"];
    assert_eq!(pod["volumes"], json!([{"name": "mine", "secret": {"secretName": "victim"}}]));
    assert_eq!(pod["containers"][0]["env"], json!([{"name": "A", "valueFrom": secret}]));
    // Sidecars of another policy are not believed, and those of this one are.
    let allowed = Policy { admin_in_pods: AdminInPods::Allowed, ..on() };
    let bare = server(json!({}));
    let injected = admit(&bare, &allowed, &complete()).result;
    assert_eq!(written_by_author(&injected, "team", &allowed), bare);
    let forbidden = Policy { admin_in_pods: AdminInPods::Forbidden, ..on() };
    assert!(written_by_author(&injected, "team", &forbidden).to_string().contains("keycloak-admin-secret"));
}

#[test]
fn a_token_for_one_client_and_more_than_one_pod_is_said() {
    let builtin = Policy { mode: SidecarMode::Builtin, ..on() };
    for (replicas, said) in [(1, false), (3, true)] {
        let mutation = admit(&server(json!({"backendReplicas": replicas})), &builtin, &complete());
        assert_eq!(mutation.warnings.iter().any(|one| one.contains("the first of 3 pods")), said);
    }
}

#[test]
fn a_pod_that_comes_again_with_the_api_servers_defaults_is_left_alone() {
    let owner = PodOwner { namespace: "team".to_owned(), name: "weather".to_owned(), ..PodOwner::default() };
    let mut came = mutate_pod(&pod(), &owner, &on(), &complete()).result;
    for container in came["spec"]["containers"].as_array_mut().unwrap() {
        container["terminationMessagePath"] = json!("/dev/termination-log");
        let mounts = container["volumeMounts"].as_array_mut().unwrap();
        mounts.push(
            json!({"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}),
        );
    }
    let again = mutate_pod(&came, &owner, &on(), &complete());
    assert!(again.patch.0.is_empty() && again.warnings.is_empty(), "{:?}", again.warnings);
    // What another webhook has taken out comes back.
    came["spec"]["containers"].as_array_mut().unwrap().remove(1);
    let again = mutate_pod(&came, &owner, &on(), &complete());
    assert_eq!(again.result["spec"]["containers"].as_array().unwrap().len(), 3);
}

#[test]
fn a_pod_is_left_alone_where_it_should_be() {
    let yes = PodOwner { namespace: "team".to_owned(), name: "weather".to_owned(), ..PodOwner::default() };
    let no = PodOwner {
        annotations: BTreeMap::from([("kagenti.dev/inject".to_owned(), "false".to_owned())]),
        ..yes.clone()
    };
    let (mut going, mut other, mut odd) = (pod(), pod(), pod());
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    other["spec"]["containers"][0]["name"] = json!("toolhive");
    odd["spec"]["volumes"] = json!("x");
    for (pod, owner, warnings) in
        [(&pod(), &no, 0), (&going, &yes, 0), (&other, &yes, 0), (&odd, &yes, 1), (&json!({}), &yes, 0)]
    {
        let mutation = mutate_pod(pod, owner, &on(), &complete());
        assert!(mutation.patch.0.is_empty() && mutation.injected.is_empty());
        assert_eq!(mutation.warnings.len(), warnings, "{:?}", mutation.warnings);
    }
}

#[test]
fn an_update_brings_sidecars_up_to_date_and_nothing_else() {
    let object = server(json!({"podTemplateSpec": {"spec": {"containers": [{"name": "a", "image": "a"}]}}}));
    let first = admit(&object, &on(), &complete()).result;
    let mut policy = on();
    policy.config = SidecarConfig::parse("images: {spiffeHelper: 'helper:2'}").unwrap();
    let second = admit(&first, &policy, &complete());
    let paths: Vec<String> = second.patch.0.iter().map(|operation| operation.path().to_string()).collect();
    assert_eq!(
        paths,
        ["/metadata/annotations/skep.dev~1injection", "/spec/podTemplateSpec/spec/containers/2/image"]
    );
    assert_eq!(restore_server(&second.result).result, object);
}

#[test]
fn what_the_user_edits_becomes_his() {
    let object = server(json!({}));
    let mut edited = admit(&object, &on(), &complete()).result;
    let pod = &mut edited["spec"]["podTemplateSpec"]["spec"];
    pod["containers"][1]["image"] = json!("mine:1");
    pod["containers"][0]["env"][0]["value"] = json!("/mine");
    let mutation = admit(&edited, &on(), &complete());
    assert_eq!(mutation.injected, ["kagenti-client-registration"]);
    assert_eq!(
        mutation.warnings.iter().filter(|warning| warning.contains("has been changed since")).count(),
        2
    );
    let after = &mutation.result["spec"]["podTemplateSpec"]["spec"];
    let helper = after["containers"].as_array().unwrap().iter().find(|one| one["name"] == "spiffe-helper");
    assert_eq!(helper.unwrap()["image"], "mine:1");
    // Switched off, it still has the volumes that came with it, however often the object was written meanwhile.
    let later = admit(&mutation.result, &Policy { socket: Socket::Csi, ..on() }, &complete());
    let off = admit(&later.result, &Policy::default(), &complete());
    assert_eq!(off.warnings, [""; 0]);
    insta::assert_json_snapshot!(off.result["spec"]["podTemplateSpec"]);
}

#[test]
fn a_template_that_is_replaced_is_filled_again_and_forgotten_lists_stay_the_users() {
    let before = admit(&server(json!({})), &on(), &complete()).result;
    // As a merge patch does it: whole lists are the user's now.
    let mut replaced = before.clone();
    replaced["spec"]["podTemplateSpec"]["spec"]["containers"] = json!([]);
    replaced["spec"]["podTemplateSpec"]["spec"]["volumes"] = json!([{"name": "a", "emptyDir": {}}]);
    let after = admit(&replaced, &on(), &complete());
    assert_eq!(containers(&after.result).len(), 3);
    let off = restore_server(&after.result).result;
    let template = json!({"spec": {"containers": [], "volumes": [{"name": "a", "emptyDir": {}}]}});
    assert_eq!(off["spec"]["podTemplateSpec"], template);
}

#[test]
fn the_switches_decide_and_say_so() {
    let mut object = server(json!({}));
    object["metadata"]["annotations"] = json!({"kagenti.dev/inject": "true"});
    let mutation = admit(&object, &Policy::default(), &complete());
    assert_eq!(mutation.decision.reason.as_str(), "object-annotation");
    assert_eq!(injection(&mutation.result).unwrap().reason, "object-annotation");
    let mut off = mutation.result.clone();
    off["metadata"]["annotations"]["kagenti.dev/inject"] = json!("false");
    object["metadata"]["annotations"]["kagenti.dev/inject"] = json!("false");
    assert_eq!(admit(&off, &on(), &complete()).result, object);
    assert_eq!(restore_server(&mutation.result).result["spec"], object["spec"]);
}

#[test]
fn what_can_not_be_injected_into_is_left_alone_with_the_reason() {
    let mut going = server(json!({"podTemplateSpec": "x"}));
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut nameless = server(json!({}));
    nameless["metadata"] = json!({"generateName": "weather-"});
    let mut newer = server(json!({}));
    newer["metadata"]["annotations"] = json!({ANNOTATION: r#"{"version":7}"#});
    for (object, part) in [
        (going, None),
        (nameless, Some("metadata.name: ")),
        (newer, Some("Version 7 was written by a newer webhook")),
        (server(json!({"podTemplateSpec": "x"})), Some("spec.podTemplateSpec: ")),
        (
            server(json!({"podTemplateSpec": {"spec": {"containers": {}}}})),
            Some("spec.podTemplateSpec.spec.containers: "),
        ),
        (json!({"metadata": {"name": "a"}}), Some("spec: ")),
        (json!({"metadata": {"name": "a"}, "spec": []}), Some("spec: ")),
        (json!(null), Some("metadata.name: ")),
    ] {
        let mutation = admit(&object, &on(), &complete());
        assert_eq!(mutation.result, object);
        assert!(mutation.injected.is_empty());
        match (part, mutation.warnings.as_slice()) {
            (None, []) => {}
            (Some(part), [warning]) => assert!(warning.contains(part), "{warning}"),
            (part, warnings) => panic!("{part:?} {warnings:?}"),
        }
    }
}

#[test]
fn what_the_namespace_lacks_is_said() {
    let mutation = admit(&server(json!({})), &on(), &Surroundings::default());
    insta::assert_json_snapshot!(mutation.warnings);
    let labels = BTreeMap::from([("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned())]);
    let around = Surroundings { namespace_labels: labels, ..complete() };
    let policy = Policy { registration: Registration::Operator, ..on() };
    let warnings = admit(&server(json!({})), &policy, &around).warnings;
    assert!(matches!(warnings.as_slice(), [one] if one.contains("--spire-socket=csi")), "{warnings:?}");
    let policy = Policy { socket: Socket::Csi, ..policy };
    assert_eq!(admit(&server(json!({})), &policy, &around).warnings, [""; 0]);
}

#[test]
fn in_a_pod_that_is_root_the_sidecars_are_not() {
    let template = json!({"spec": {"securityContext": {"runAsUser": 0, "runAsNonRoot": false}}});
    let mutation = admit(&server(json!({"podTemplateSpec": template})), &on(), &complete());
    for container in
        &mutation.result["spec"]["podTemplateSpec"]["spec"]["containers"].as_array().unwrap()[1..]
    {
        assert_eq!(container["securityContext"]["runAsUser"], 1000, "{container}");
    }
}

#[test]
fn a_volume_that_goes_while_somebody_mounts_it_is_said() {
    let mounts = json!([{"name": "svid-output", "mountPath": "/certs"}]);
    let object = server(
        json!({"podTemplateSpec": {"spec": {"containers": [{"name": "mcp", "volumeMounts": mounts}]}}}),
    );
    let injected = admit(&object, &on(), &complete()).result;
    let off = admit(&injected, &Policy::default(), &complete());
    assert_eq!(off.result, object);
    assert!(matches!(off.warnings.as_slice(), [one] if one.contains("`svid-output`")), "{:?}", off.warnings);
}

#[test]
fn the_example_of_a_config_file_says_the_defaults() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/webhook/sidecars.yaml");
    let mut read = SidecarConfig::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(read.volumes.socket.kind.take(), Some(Socket::HostPath));
    assert!(read.volumes.shared_size.take().is_some() && read.volumes.svid_size.take().is_some());
    assert_eq!(read, SidecarConfig::default());
}

pub(crate) fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "weather-0", "namespace": "team", "labels": {"toolhive": "true"}},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "initContainers": [],
            "containers": [{
                "name": "mcp",
                "image": "example/server:1",
                "securityContext": {"privileged": false, "runAsNonRoot": true, "runAsUser": 1000, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

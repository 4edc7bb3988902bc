//! What a change elsewhere does to a workload: hashes, suspension, restarts, and what rolls its pods.

use serde_json::{Value, json};
use skep_api::condition::ConditionStatus;
use skep_api::crd::Object;
use skep_api::runconfig::RunConfig;
use skep_operator::plan::{
    Missing, Planned, RestartStrategy, WorkloadName, World, collide, is_open, plan_object, settle_generation,
    settle_restart, suspended,
};

use crate::manifests::{good, plan, world};

const SHARED: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: client}
stringData: {secret: x}
---
apiVersion: v1
kind: Secret
metadata: {name: other}
stringData: {secret: x}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPOIDCConfig
metadata: {name: login}
spec: {type: inline, inline: {issuer: 'https://i.example.com', introspectionUrl: 'https://i.example.com/i', clientId: c, clientSecretRef: {name: client, key: secret}}}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPAuthzConfig
metadata: {name: rules}
spec: {type: cedarv1, config: {policies: ["permit(principal, action, resource);"]}}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPToolConfig
metadata: {name: tools}
spec: {toolsFilter: [one]}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPRemoteProxy
metadata: {name: p}
spec: {remoteUrl: 'https://m.example.com', clientToken: strip, oidcConfigRef: {name: login, audience: a}, authzConfigRef: {name: rules}, toolConfigRef: {name: tools}}
"#;

fn shared() -> (Object, World) {
    let (mut objects, mut world) = world(SHARED, Missing::Refuse);
    world.secret_versions =
        [("client", "1"), ("other", "1")].map(|(name, version)| (name.to_owned(), version.to_owned())).into();
    (objects.pop().unwrap(), world)
}

#[test]
fn a_secret_that_is_rotated_changes_the_hash_of_the_config_that_names_it_and_no_other() {
    let (proxy, mut world) = shared();
    let before = plan_object(&proxy, &world).hashes;
    assert_eq!(
        before.keys().copied().collect::<Vec<_>>(),
        ["authzConfigHash", "oidcConfigHash", "toolConfigHash"]
    );
    world.secret_versions.insert("other".to_owned(), "2".to_owned());
    assert_eq!(plan_object(&proxy, &world).hashes, before);
    world.secret_versions.insert("client".to_owned(), "2".to_owned());
    let after = plan_object(&proxy, &world).hashes;
    assert_ne!(after["oidcConfigHash"], before["oidcConfigHash"]);
    assert_eq!(after["authzConfigHash"], before["authzConfigHash"]);
}

#[test]
fn the_hash_that_a_workload_shows_is_the_one_of_its_config() {
    let (proxy, world) = shared();
    let hashes = plan_object(&proxy, &world).hashes;
    for (field, config) in
        [("oidcConfigHash", "login"), ("authzConfigHash", "rules"), ("toolConfigHash", "tools")]
    {
        let object = world.configs.values().find(|object| object.metadata.name == config).unwrap();
        let own = plan_object(object, &world).config_hash.unwrap();
        assert_eq!(hashes[field], own, "{field}");
        assert!(own.len() == 16 && own.chars().all(|c| c.is_ascii_hexdigit()), "{own}");
    }
    assert_eq!(plan_object(&proxy, &world).config_hash, None);
}

#[test]
fn a_config_that_is_gone_has_no_hash_and_an_invalid_one_has() {
    let (proxy, mut world) = shared();
    world.configs.retain(|(_, name), _| name != "tools");
    world.secrets.remove("client");
    let hashes = plan_object(&proxy, &world).hashes;
    assert!(!hashes.contains_key("toolConfigHash") && hashes.contains_key("oidcConfigHash"), "{hashes:?}");
}

#[test]
fn the_order_of_fields_does_not_change_a_hash() {
    let hash = |spec: &str| {
        let text = format!(
            "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPToolConfig\nmetadata: {{name: t}}\nspec: {spec}\n"
        );
        plan(&text).pop().unwrap().1.config_hash.unwrap()
    };
    assert_eq!(
        hash("{toolsFilter: [a], toolsOverride: {x: {name: y, description: z}}}"),
        hash("{toolsOverride: {x: {description: z, name: y}}, toolsFilter: [a]}")
    );
    assert_ne!(hash("{toolsFilter: [a, b]}"), hash("{toolsFilter: [b, a]}"));
}

/// Callers must not go on under rules that are gone; anything else leaves the last good configuration.
#[test]
fn a_workload_is_suspended_only_when_its_callers_are_not_judged_any_more() {
    let without = |name: &str| {
        let (proxy, mut world) = shared();
        world.configs.retain(|(_, found), _| found != name);
        plan_object(&proxy, &world).suspend
    };
    assert!(without("login").is_some_and(|why| why.contains("login")));
    assert!(without("rules").is_some_and(|why| why.contains("rules")));
    assert_eq!(without("tools"), None, "the last good filter goes on");
    assert_eq!(without("nothing"), None);

    let (proxy, mut world) = shared();
    world.secrets.remove("client");
    let planned = plan_object(&proxy, &world);
    assert!(planned.plan.is_none() && planned.suspend.is_none(), "an invalid config is still there");
    for (kind, spec) in [("MCPServer", "image: a"), ("MCPRemoteProxy", "remoteUrl: 'https://a.example.com'")]
    {
        let text = format!(
            "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: {kind}\nmetadata: {{name: w}}\nspec: {{{spec}, authMode: anonymous}}\n"
        );
        let (objects, mut world) = crate::manifests::world(&text, Missing::Refuse);
        assert_eq!(plan_object(&objects[0], &world).suspend, None);
        world.settings.require_auth = true;
        assert!(plan_object(&objects[0], &world).suspend.is_some(), "{kind}");
    }
}

/// An object that is refused for another reason must not keep an open proxy running where callers need a token.
#[test]
fn nothing_that_is_wrong_with_an_object_keeps_its_proxy_open_where_auth_is_required() {
    const LOGIN: &str = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPOIDCConfig\nmetadata: {name: login}\nspec: {type: inline, inline: {issuer: nowhere}}\n---\n";
    for (kind, base) in [("MCPServer", "image: a"), ("MCPRemoteProxy", "remoteUrl: 'https://a.example.com'")]
    {
        for (what, spec) in [
            ("an authorization server that is not here", "authServerRef: {name: a}"),
            ("a config that is not valid", "oidcConfigRef: {name: login, audience: a}"),
            ("a spec that can't be read", "replicas: [1]"),
            ("anonymous and more", "authMode: anonymous, authServerRef: {name: a}"),
        ] {
            let text = format!(
                "{LOGIN}apiVersion: toolhive.stacklok.dev/v1beta1\nkind: {kind}\nmetadata: {{name: w}}\nspec: {{{base}, {spec}}}\n"
            );
            let (objects, mut world) = world(&text, Missing::Refuse);
            let planned = plan_object(objects.last().unwrap(), &world);
            assert!(planned.plan.is_none(), "{kind}: {what}");
            assert_eq!(
                (planned.suspend, planned.suspend_if_open),
                (None, None),
                "{kind}: {what}: nothing requires auth"
            );
            world.namespace_labels.insert("skep.dev/require-auth".to_owned(), "true".to_owned());
            let planned = plan_object(objects.last().unwrap(), &world);
            assert_eq!(planned.suspend, None, "{kind}: {what}: one that judges callers goes on");
            assert!(planned.suspend_if_open.is_some_and(|why| why.contains("spec")), "{kind}: {what}");
        }
    }
    let (proxy, mut world) = shared();
    world.settings.require_auth = true;
    let planned = plan_object(&proxy, &world);
    assert!(planned.plan.is_some());
    assert_eq!((planned.suspend, planned.suspend_if_open), (None, None));
}

#[test]
fn a_run_config_is_open_unless_it_says_how_tokens_are_judged() {
    let (proxy, world) = shared();
    let closed = plan_object(&proxy, &world).plan.unwrap().workload.unwrap().run_config.to_json();
    assert!(!is_open(&closed));
    let open = good("server-bearer-token").plan.unwrap().workload.unwrap().run_config.to_json();
    for (text, expected) in [
        (open.as_str(), true),
        (r#"{"schema_version": "v9", "oidc_config": {"Issuer": "https://i"}, "of_tomorrow": 1}"#, false),
        (r#"{"oidc_config": {}}"#, true),
        (r#"{"oidc_config": null}"#, true),
        ("[]", true),
        ("{", true),
        ("", true),
    ] {
        assert_eq!(is_open(text), expected, "{text}");
    }
}

#[test]
fn a_config_that_is_being_deleted_is_judged_until_it_is_gone() {
    let text = |issuer: &str| {
        format!(
            "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPOIDCConfig\nmetadata: {{name: login, deletionTimestamp: '2026-01-01T00:00:00Z'}}\nspec: {{type: inline, inline: {{issuer: '{issuer}'}}}}\n---\napiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {{name: p}}\nspec: {{remoteUrl: 'https://a.example.com', oidcConfigRef: {{name: login, audience: a}}}}\n"
        )
    };
    for (issuer, valid) in [("https://i.example.com", true), ("nowhere", false)] {
        let planned = plan(&text(issuer));
        let (config, proxy) = (&planned[0].1, &planned[1].1);
        assert_eq!((config.plan.is_some(), proxy.plan.is_some()), (valid, valid), "{issuer}");
        assert!(config.problems.iter().any(|problem| problem.reason == "Terminating"), "{issuer}");
        let condition = config.conditions.iter().find(|condition| condition.kind == "Valid").unwrap();
        assert_eq!(condition.status == ConditionStatus::True, valid, "{issuer}");
        if !valid {
            assert!(proxy.problems.iter().any(|problem| problem.reason == "OIDCConfigRefNotValid"));
        }
    }
}

#[test]
fn a_missing_file_suspends_nothing() {
    let (proxy, mut world) = shared();
    world.settings.missing = Missing::Warn;
    world.configs.clear();
    assert_eq!(plan_object(&proxy, &world).suspend, None);
}

#[test]
fn a_run_config_is_suspended_and_otherwise_the_same() {
    let config = good("remote-bearer-token").plan.unwrap().workload.unwrap().run_config;
    let text = suspended(&config.to_json(), "The MCPOIDCConfig is gone.").unwrap();
    let mut read: RunConfig = serde_json::from_str(&text).unwrap();
    assert_eq!(read.skep.suspended, "The MCPOIDCConfig is gone.");
    assert_eq!(suspended(&text, "The MCPOIDCConfig is gone.").unwrap(), text, "another time changes nothing");
    read.skep.suspended.clear();
    assert_eq!(read, config);
}

#[test]
fn a_run_config_of_another_version_is_suspended_with_all_its_keys() {
    let text = suspended(
        r#"{"schema_version": "v9", "name": "p", "of_tomorrow": [1], "skep": {"new": true}}"#,
        "Why.",
    )
    .unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["skep"]["suspended"], "Why.");
    assert_eq!((&value["of_tomorrow"][0], &value["skep"]["new"]), (&1.into(), &true.into()));
    for text in ["", "[]", "{", r#"{"skep": 5}"#] {
        assert_eq!(suspended(text, "Why."), None, "{text}");
    }
}

#[test]
fn workloads_collide_when_they_would_make_the_same_object() {
    let name = |kind: &str, name: &str| WorkloadName { kind: kind.parse().unwrap(), name: name.to_owned() };
    for (a, b, expected) in [
        (name("MCPServer", "a"), name("MCPServer", "a"), false),
        (name("MCPServer", "a"), name("MCPServer", "b"), false),
        (name("MCPServer", "a"), name("MCPRemoteProxy", "a"), true),
        (name("MCPServer", "a"), name("MCPServer", "a-proxy"), true),
        (name("MCPServer", "a"), name("MCPServer", "a-headless"), true),
        (name("MCPRemoteProxy", "a"), name("MCPServer", "a-remote"), true),
        (name("MCPRemoteProxy", "a"), name("MCPServer", "a-remote-proxy"), true),
        (name("MCPRemoteProxy", "a"), name("MCPRemoteProxy", "a-remote"), false),
        (name("MCPServer", "a"), name("MCPRemoteProxy", "a-backend"), true),
    ] {
        assert_eq!(collide(&a, &b), expected, "{a:?} {b:?}");
        assert_eq!(collide(&b, &a), expected, "{b:?} {a:?}");
    }
}

fn server(metadata: &str, spec: &str) -> Planned {
    let text = format!(
        "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {{name: s{metadata}}}\nspec: {{image: 'a:1', transport: streamable-http, authMode: anonymous{spec}}}\n"
    );
    plan(&text).pop().unwrap().1
}

fn deployment(planned: &Planned) -> Value {
    let objects = &planned.plan.as_ref().unwrap().objects;
    objects.iter().find(|object| object["kind"] == "Deployment").unwrap().clone()
}

fn annotation(deployment: &Value, key: &str) -> Value {
    deployment["spec"]["template"]["metadata"]["annotations"][key].clone()
}

const RESTARTED_AT: &str = "mcpserver.toolhive.stacklok.dev/restarted-at";

#[test]
fn a_restart_is_stamped_on_the_pods_when_it_is_rolling() {
    for (strategy, expected, stamped) in [
        ("", RestartStrategy::Rolling, true),
        (", mcpserver.toolhive.stacklok.dev/restart-strategy: rolling", RestartStrategy::Rolling, true),
        (", mcpserver.toolhive.stacklok.dev/restart-strategy: immediate", RestartStrategy::Immediate, false),
        (", mcpserver.toolhive.stacklok.dev/restart-strategy: sudden", RestartStrategy::Rolling, true),
    ] {
        let planned =
            server(&format!(", annotations: {{{RESTARTED_AT}: '2026-01-31T12:00:00+01:00'{strategy}}}"), "");
        let restart = planned.restart.clone().unwrap();
        assert_eq!((restart.at.as_str(), restart.strategy), ("2026-01-31T12:00:00+01:00", expected));
        let found = annotation(&deployment(&planned), RESTARTED_AT);
        assert_eq!(found.as_str(), stamped.then_some("2026-01-31T12:00:00+01:00"), "{strategy}");
    }
}

#[test]
fn what_is_no_time_restarts_nothing() {
    for at in ["''", "yesterday", "'2026-13-01T00:00:00Z'", "'2026-01-31'", "'2026-01-31T12:00:00'"] {
        let planned = server(&format!(", annotations: {{{RESTARTED_AT}: {at}}}"), "");
        assert_eq!(planned.restart, None, "{at}");
        assert_eq!(annotation(&deployment(&planned), RESTARTED_AT), Value::Null);
        assert_eq!(planned.problems.len(), usize::from(at != "''"), "{at}: {:?}", planned.problems);
    }
    let text = format!(
        "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {{name: p, annotations: {{{RESTARTED_AT}: '2026-01-31T12:00:00Z'}}}}\nspec: {{remoteUrl: 'https://a.example.com', authMode: anonymous}}\n"
    );
    assert_eq!(plan(&text).pop().unwrap().1.restart, None, "a remote proxy has no such annotation");
}

#[test]
fn a_change_that_a_running_proxy_takes_leaves_the_generation_of_its_pods() {
    const GENERATION: &str = "toolhive.stacklok.dev/mcpserver-generation";
    let live = deployment(&server(", generation: 3", ""));
    assert_eq!(annotation(&live, GENERATION), "3");
    let settled = |planned: &Planned| {
        let mut desired = deployment(planned);
        settle_generation(&mut desired, &live);
        desired
    };
    for taken in [", audit: {enabled: true}", ", tools: [one]", ", backendReplicas: 2, replicas: 2"] {
        let desired = settled(&server(", generation: 4", taken));
        let same = !taken.contains("backendReplicas");
        assert_eq!(annotation(&desired, GENERATION) == "3", same, "{taken}");
        if same {
            assert_eq!(desired["spec"]["template"], live["spec"]["template"], "{taken}: the pods stay");
        }
    }
    for rolls in [
        ", proxyPort: 9090",
        ", resources: {limits: {cpu: 1m}}",
        ", args: [x], serviceAccount: y, resourceOverrides: {proxyDeployment: {podTemplateMetadataOverrides: {labels: {a: b}}}}",
    ] {
        let desired = settled(&server(", generation: 4", rolls));
        assert_eq!(annotation(&desired, GENERATION), "4", "{rolls}");
    }
    let image = deployment(&server(", generation: 4", ""));
    let text = image.to_string().replace("a:1", "a:2");
    assert_ne!(text, image.to_string(), "the image is in the pod's arguments");
    let mut other: Value = server(", generation: 4", "")
        .plan
        .unwrap()
        .objects
        .into_iter()
        .find(|object| object["kind"] == "Service")
        .unwrap();
    let before = other.clone();
    settle_generation(&mut other, &live);
    assert_eq!(other, before, "only a Deployment has one");
    let mut first = image.clone();
    settle_generation(&mut first, &Value::Null);
    assert_eq!(first, image, "there is none yet");
}

#[test]
fn the_mark_of_a_restart_stays_until_a_later_one_is_asked_for() {
    let asking = |generation: u32, at: &str, strategy: &str| {
        let strategy = if strategy.is_empty() {
            String::new()
        } else {
            format!(", mcpserver.toolhive.stacklok.dev/restart-strategy: {strategy}")
        };
        server(
            &format!(", generation: {generation}, annotations: {{{RESTARTED_AT}: {at}{strategy}}}"),
            ", audit: {enabled: true}",
        )
    };
    let live = deployment(&asking(3, "'2026-02-01T12:00:00Z'", ""));
    for (at, strategy) in [
        ("''", ""),
        ("now", ""),
        ("'2026-02-01T12:00:00Z'", ""),
        ("'2026-02-01T13:00:00+01:00'", ""),
        ("'2026-01-31T12:00:00Z'", ""),
        ("'2026-02-02T12:00:00Z'", "immediate"),
    ] {
        let mut desired = deployment(&asking(4, at, strategy));
        settle_generation(&mut desired, &live);
        settle_restart(&mut desired, &live);
        assert_eq!(desired["spec"]["template"], live["spec"]["template"], "{at} {strategy}: the pods stay");
    }
    let mut later = deployment(&asking(4, "'2026-02-01T12:00:01Z'", ""));
    settle_generation(&mut later, &live);
    settle_restart(&mut later, &live);
    assert_eq!(annotation(&later, RESTARTED_AT), "2026-02-01T12:00:01Z");
    // There is nothing to keep before the first one, and nothing on a Deployment that is not there.
    for live in [&deployment(&server(", generation: 3", "")), &Value::Null] {
        let mut first = deployment(&asking(4, "'2026-02-01T12:00:00Z'", ""));
        settle_restart(&mut first, live);
        assert_eq!(annotation(&first, RESTARTED_AT), "2026-02-01T12:00:00Z");
    }
    let mut service = json!({"kind": "Service", "spec": {}});
    settle_restart(&mut service, &live);
    assert_eq!(service, json!({"kind": "Service", "spec": {}}));
}

//! What a manifest may not say about the pods: the proxy's own parts stay what the plan says.

use serde_json::{Value, json};
use skep_api::crd::Object;
use skep_operator::plan::{Missing, plan_object};

use crate::manifests::{plan, world};

const EXCHANGE: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {k: v}\n---\napiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPExternalAuthConfig\nmetadata: {name: e}\nspec: {type: tokenExchange, tokenExchange: {tokenUrl: 'https://i.example.com/t', audience: a, clientId: c, clientAuth: spiffe_jwt, spiffe: {jwtSvidFile: /run/spire/svid/token}}}\n---\n";

fn proxy(spec: &str) -> String {
    format!(
        "{EXCHANGE}apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {{name: p}}\nspec: {{remoteUrl: 'https://a.example.com', oidcConfig: {{type: inline, inline: {{issuer: 'https://i.example.com', audience: a}}}}, externalAuthConfigRef: {{name: e}}, {spec}}}\n"
    )
}

fn server(spec: &str) -> String {
    format!(
        "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {{name: s}}\nspec: {{image: example/server:1, authMode: anonymous, {spec}}}\n"
    )
}

fn errors(text: &str) -> Vec<String> {
    let planned = plan(text).pop().unwrap().1;
    let errors = planned.problems.iter().filter(|problem| problem.is_error());
    errors.map(|problem| problem.path.clone()).collect()
}

fn template_of(text: &str, kind: &str) -> Value {
    let planned = plan(text).pop().unwrap().1;
    let objects = planned.plan.unwrap_or_else(|| panic!("{:?}", planned.problems)).objects;
    objects.iter().find(|object| object["kind"] == kind).unwrap()["spec"]["template"].clone()
}

/// Each case is content of `podTemplateSpec` and the paths below it that are refused.
#[test]
fn no_merge_directive_reaches_what_is_the_operators() {
    for (template, expected) in [
        (
            "spec: {containers: [{name: other, $patch: delete}, {name: toolhive, $patch: merge, image: evil:1, command: [sh], securityContext: {privileged: true}}]}",
            &[
                ".spec.containers[1].securityContext.privileged",
                ".spec.containers[1].$patch",
                ".spec.containers[1].image",
                ".spec.containers[1].command",
            ][..],
        ),
        ("spec: {containers: [{name: toolhive, $patch: delete}]}", &[".spec.containers[0].$patch"]),
        ("spec: {containers: [{$patch: replace}, {name: a, image: b}]}", &[".spec.containers[0].$patch"]),
        (
            "spec: {containers: [{name: toolhive, $deleteFromPrimitiveList/args: [run]}]}",
            &[".spec.containers[0].$deleteFromPrimitiveList/args"],
        ),
        ("spec: {containers: [{name: toolhive, image: null}]}", &[".spec.containers[0].image"]),
        ("spec: {containers: [{name: toolhive, volumeMounts: null}]}", &[""]),
        (
            "spec: {containers: [{name: toolhive, volumeMounts: [{$patch: replace}]}]}",
            &[".spec.containers[0].volumeMounts[0].$patch"],
        ),
        (
            "spec: {containers: [{name: toolhive, volumeMounts: [{mountPath: /etc/runconfig, $patch: delete}]}]}",
            &[".spec.containers[0].volumeMounts[0].mountPath"],
        ),
        ("spec: {containers: null}", &[""]),
        ("spec: {volumes: null}", &[""]),
        ("spec: null", &[""]),
        ("spec: {$patch: replace, containers: []}", &[".spec.$patch"]),
        ("$patch: replace", &[".$patch"]),
        (
            "spec: {volumes: [{name: gone, $patch: delete}, {name: host, $patch: merge, hostPath: {path: /}}]}",
            &[".spec.volumes[1].hostPath"],
        ),
        ("spec: {volumes: [{$patch: replace}]}", &[".spec.volumes[0].$patch"]),
        ("spec: {serviceAccountName: null}", &[".spec.serviceAccountName"]),
        (
            "spec: {containers: [{name: gone, $patch: delete}, {name: a, imagee: b}]}",
            &[".spec.containers[1].imagee"],
        ),
    ] {
        let paths: Vec<String> = expected.iter().map(|path| format!("spec.podTemplateSpec{path}")).collect();
        assert_eq!(errors(&proxy(&format!("podTemplateSpec: {{{template}}}"))), paths, "{template}");
    }
}

#[test]
fn the_template_of_a_server_is_judged_with_its_directives_too() {
    for (template, path) in [
        (
            "spec: {containers: [{name: mcp, $patch: merge, securityContext: {privileged: true}}]}",
            ".spec.containers[0].securityContext.privileged",
        ),
        ("spec: {volumes: [{name: host, $patch: merge, hostPath: {path: /}}]}", ".spec.volumes[0].hostPath"),
        ("spec: {$patch: replace}", ".spec.$patch"),
        ("spec: {serviceAccountName: null}", ".spec.serviceAccountName"),
        // ToolHive's operator puts in what such a directive takes out, so it is as if it was not there.
        (
            "spec: {volumes: [{name: a}, {name: h, hostPath: {path: /}, $patch: delete}]}",
            ".spec.volumes[1].hostPath",
        ),
        (
            "spec: {initContainers: [{name: x, $patch: delete, securityContext: {privileged: true}}]}",
            ".spec.initContainers[0].securityContext.privileged",
        ),
        (
            "spec: {volumes: [{name: h, $patch: delete, Secret: {SecretName: victim}}]}",
            ".spec.volumes[0].Secret",
        ),
        ("spec: {containers: [{name: mcp, $patch: delete, imagee: x}]}", ".spec.containers[0].imagee"),
    ] {
        let found = errors(&server(&format!("podTemplateSpec: {{{template}}}")));
        assert_eq!(found, [format!("spec.podTemplateSpec{path}")], "{template}");
    }
}

#[test]
fn a_list_that_no_pod_has_is_refused_before_anything_is_done_with_it() {
    let volumes = |count: usize| {
        let names: Vec<String> =
            (0..count).map(|index| format!("{{name: v{index}, emptyDir: {{}}}}")).collect();
        format!("podTemplateSpec: {{spec: {{volumes: [{}]}}}}", names.join(","))
    };
    assert_eq!(errors(&server(&volumes(1000))), [""; 0]);
    let start = std::time::Instant::now();
    for text in [server(&volumes(20_000)), proxy(&volumes(20_000))] {
        assert_eq!(errors(&text), ["spec.podTemplateSpec.spec.volumes"]);
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
    let args = vec!["a"; 1001].join(",");
    let template = format!("podTemplateSpec: {{spec: {{containers: [{{name: mcp, args: [{args}]}}]}}}}");
    assert_eq!(errors(&server(&template)), ["spec.podTemplateSpec.spec.containers[0].args"]);
}

#[test]
fn a_long_list_of_a_server_is_judged_in_a_short_time() {
    const MANY: usize = 20_000;
    let list = |entry: fn(usize) -> Value| (0..MANY).map(entry).collect::<Value>();
    let object = json!({
        "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServer", "metadata": {"name": "s", "namespace": "n"},
        "spec": {
            "image": "i", "authMode": "anonymous",
            "env": list(|index| json!({"name": format!("E{index}"), "value": "v"})),
            "secrets": list(|index| json!({"name": "s", "key": "k", "targetEnvName": format!("S{index}")})),
            "volumes": list(|index| json!({"name": format!("v{index}"), "hostPath": "/a", "mountPath": format!("/data/{index}")})),
            "resourceOverrides": {"proxyDeployment": {"env": list(|index| json!({"name": format!("P{index}"), "value": "v"}))}},
        },
    });
    let object = Object::parse(&object).unwrap();
    let world = world("", Missing::Refuse).1;
    let start = std::time::Instant::now();
    let planned = plan_object(&object, &world);
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
    let errors = planned.problems.iter().filter(|problem| problem.is_error());
    assert!(errors.count() >= MANY, "each volume is a directory of the node");
}

#[test]
fn processes_are_not_shared_with_a_sidecar_that_has_a_credential() {
    let text = server("podTemplateSpec: {spec: {shareProcessNamespace: true}}");
    let injected = |registration: &str| {
        format!(
            r#"{{"version":1,"registration":"{registration}","containers":{{"kagenti-client-registration":"0"}}}}"#
        )
    };
    for (annotation, refused) in
        [(None, false), (Some(injected("pod")), true), (Some(injected("operator")), false)]
    {
        let (mut objects, mut world) = world(&text, Missing::Refuse);
        let object = objects.last_mut().unwrap();
        if let Some(annotation) = &annotation {
            object.metadata.annotations.insert("skep.dev/injection".to_owned(), annotation.clone());
        }
        let planned = plan_object(object, &world);
        let found: Vec<&str> =
            planned.problems.iter().filter(|problem| problem.is_error()).map(|p| p.path.as_str()).collect();
        let path = "spec.podTemplateSpec.spec.shareProcessNamespace";
        assert_eq!(found, if refused { vec![path] } else { Vec::new() }, "{annotation:?}");
        world.namespace_labels.insert("skep.dev/allow-privileged-template".to_owned(), "true".to_owned());
        assert!(plan_object(object, &world).plan.is_some(), "{annotation:?}");
    }
}

#[test]
fn a_template_may_not_replace_a_volume_of_the_operator() {
    for volume in [
        "{name: runconfig, configMap: {name: mine}}",
        "{name: runconfig, $patch: replace, configMap: {name: mine}}",
        "{name: tmp, emptyDir: {medium: Memory}}",
        "{name: authz-config, configMap: {name: mine}}",
        "{name: actor-token, projected: {sources: [{serviceAccountToken: {path: token}}]}}",
        "{name: secret-x, secret: {secretName: other}}",
        "{name: oidc-ca-bundle-x, configMap: {name: other}}",
    ] {
        let found = errors(&proxy(&format!("podTemplateSpec: {{spec: {{volumes: [{volume}]}}}}")));
        assert_eq!(found, ["spec.podTemplateSpec.spec.volumes[0].name"], "{volume}");
    }
}

#[test]
fn no_mount_lies_over_a_directory_of_the_operator_however_it_is_written() {
    for (path, refused) in [
        ("/etc/runconfig", true),
        ("/etc//runconfig/", true),
        ("/etc/./runconfig", true),
        ("/etc/x/../runconfig", true),
        ("etc/runconfig", true),
        ("/", true),
        ("/etc/skep/secrets/x", true),
        ("/var/run/secrets/skep", true),
        ("/etc/runconfiguration", false),
        ("/data", false),
    ] {
        let spec = format!(
            "podTemplateSpec: {{spec: {{volumes: [{{name: v, emptyDir: {{}}}}], containers: [{{name: toolhive, volumeMounts: [{{name: v, mountPath: '{path}'}}]}}]}}}}"
        );
        assert_eq!(!errors(&proxy(&spec)).is_empty(), refused, "{path}");
    }
}

#[test]
fn a_token_for_the_api_server_is_not_mounted_where_the_proxy_reads_what_it_sends() {
    for (audience, mount, refused) in [
        ("", "/run/spire/svid", true),
        ("", "/run/spire/svid/token", true),
        ("", "/run", true),
        (", audience: ''", "/run/spire/svid", true),
        (", audience: 'https://kubernetes.default.svc'", "/run/spire/svid", true),
        (", audience: 'https://kubernetes.default.svc.cluster.local/'", "/run/spire/svid", true),
        (", audience: kubernetes.default.svc", "/run/spire/svid", true),
        (", audience: 'https://i.example.com'", "/run/spire/svid", false),
        ("", "/run/other", false),
    ] {
        let spec = format!(
            "podTemplateSpec: {{spec: {{volumes: [{{name: v, projected: {{sources: [{{serviceAccountToken: {{path: token{audience}}}}}]}}}}], containers: [{{name: toolhive, volumeMounts: [{{name: v, mountPath: {mount}}}]}}]}}}}"
        );
        let text = proxy(&spec);
        let (objects, mut world) = world(&text, Missing::Refuse);
        let object = objects.last().unwrap();
        assert_eq!(plan_object(object, &world).plan.is_none(), refused, "{audience} {mount}");
        world.namespace_labels.insert("skep.dev/allow-privileged-template".to_owned(), "true".to_owned());
        assert!(plan_object(object, &world).plan.is_some(), "{audience} {mount}");
    }
}

#[test]
fn a_variable_that_is_the_plans_is_not_the_manifests() {
    for (name, refused) in [
        ("KUBERNETES_SERVICE_HOST", true),
        ("KUBERNETES_SERVICE_PORT", true),
        ("TOOLHIVE_SECRET_X", true),
        ("TOOLHIVE_SECRETS_PROVIDER", true),
        ("TOOLHIVE_OIDC_CLIENT_SECRET", true),
        ("TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET", true),
        ("TOOLHIVE_REMOTE_AUTH_BEARER_TOKEN", true),
        ("THV_SESSION_REDIS_PASSWORD", true),
        ("THV_MCPSERVER_GENERATION", true),
        ("TOOLHIVE_DEBUG", false),
        ("UNSTRUCTURED_LOGS", false),
        ("MY_CLIENT_SECRET", false),
    ] {
        let spec =
            format!("resourceOverrides: {{proxyDeployment: {{env: [{{name: {name}, value: hunter2}}]}}}}");
        let path = "spec.resourceOverrides.proxyDeployment.env[0].name".to_owned();
        let expected = if refused { vec![path] } else { Vec::new() };
        assert_eq!(errors(&proxy(&spec)), expected, "{name}");
        assert_eq!(errors(&server(&spec)), expected, "{name}");
    }
}

#[test]
fn a_volume_of_a_server_is_beside_the_operators() {
    let allowed = "skep.dev/allow-privileged-template";
    for (volumes, expected) in [
        ("{name: runconfig, hostPath: /a, mountPath: /data}", &["spec.volumes[0].name"][..]),
        ("{name: secret-x, hostPath: /a, mountPath: /data}", &["spec.volumes[0].name"]),
        ("{name: a, hostPath: /a, mountPath: /tmp/}", &["spec.volumes[0].mountPath"]),
        ("{name: a, hostPath: /a, mountPath: /etc//runconfig}", &["spec.volumes[0].mountPath"]),
        (
            "{name: a, hostPath: /a, mountPath: /data}, {name: a, hostPath: /b, mountPath: /data/}",
            &["spec.volumes[1].name", "spec.volumes[1].mountPath"],
        ),
        ("{name: a, hostPath: /a, mountPath: /data}", &[]),
    ] {
        let text = server(&format!("volumes: [{volumes}]"));
        let (objects, mut world) = world(&text, Missing::Refuse);
        world.namespace_labels.insert(allowed.to_owned(), "true".to_owned());
        let planned = plan_object(&objects[0], &world);
        let found: Vec<&str> =
            planned.problems.iter().filter(|problem| problem.is_error()).map(|p| p.path.as_str()).collect();
        assert_eq!(found, expected, "{volumes}");
    }
}

#[test]
fn labels_and_annotations_that_the_operator_sets_stay_its_own_and_all_others_are_free() {
    let metadata = "{labels: {app: mine, app.kubernetes.io/part-of: shop, toolhive-team: one}, annotations: {toolhive.stacklok.dev/runconfig-checksum: mine, a: b}}";
    let text = proxy(&format!(
        "resourceOverrides: {{proxyDeployment: {{labels: {{toolhive-name: x, app.kubernetes.io/version: '1'}}}}}}, podTemplateSpec: {{metadata: {metadata}}}"
    ));
    let planned = plan(&text).pop().unwrap().1;
    let reserved: Vec<&str> = planned
        .problems
        .iter()
        .filter(|problem| problem.reason.starts_with("Reserved"))
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(
        reserved,
        [
            "spec.resourceOverrides.proxyDeployment.labels.app.kubernetes.io/version",
            "spec.resourceOverrides.proxyDeployment.labels.toolhive-name",
            "spec.podTemplateSpec.metadata.annotations.toolhive.stacklok.dev/runconfig-checksum",
            "spec.podTemplateSpec.metadata.labels.app",
            "spec.podTemplateSpec.metadata.labels.app.kubernetes.io/part-of",
            "spec.podTemplateSpec.metadata.labels.toolhive-team",
        ]
    );
    let metadata = template_of(&text, "Deployment")["metadata"].clone();
    assert_eq!(metadata["labels"]["app"], "mcpremoteproxy");
    assert_eq!(metadata["labels"]["app.kubernetes.io/part-of"], "shop");
    assert_eq!(metadata["labels"]["toolhive-team"], "one");
    assert_eq!(metadata["annotations"]["a"], "b");
    assert_ne!(metadata["annotations"]["toolhive.stacklok.dev/runconfig-checksum"], "mine");

    // A backend's pods have other labels than a proxy's.
    let text =
        server("podTemplateSpec: {metadata: {labels: {toolhive-port: '1', app.kubernetes.io/name: x}}}");
    let planned = plan(&text).pop().unwrap().1;
    let reserved = planned.problems.iter().filter(|problem| problem.reason == "ReservedLabel");
    let reserved: Vec<&str> = reserved.map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        reserved,
        [
            "spec.podTemplateSpec.metadata.labels.toolhive-port",
            "spec.podTemplateSpec.metadata.labels.app.kubernetes.io/name",
        ]
    );
    let labels = template_of(&text, "StatefulSet")["metadata"]["labels"].clone();
    assert_eq!(
        (labels["toolhive-port"].as_str(), labels["app.kubernetes.io/name"].as_str()),
        (Some("8080"), Some("x"))
    );
}

#[test]
fn no_problem_repeats_a_value_that_may_be_a_secret() {
    let external = |spec: &str| {
        format!(
            "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPExternalAuthConfig\nmetadata: {{name: e}}\nspec: {{{spec}}}\n"
        )
    };
    for text in [
        external("type: headerInjection, headerInjection: {headerName: X-Key, valueSecretRef: hunter2}"),
        external("type: bearerToken, bearerToken: 'hunter2, expected a'"),
        external("type: hunter2"),
        external(
            "type: tokenExchange, tokenExchange: {tokenUrl: 'https://i.example.com/t', audience: a, clientAuth: hunter2}",
        ),
        external(
            "type: tokenExchange, tokenExchange: {tokenUrl: 'https://i.example.com/t', audience: a, clientId: c, clientSecretRef: {name: 'hunter2 value', key: k}}",
        ),
        external(
            "type: tokenExchange, tokenExchange: {tokenUrl: 'https://i.example.com/t', audience: a, clientId: c, clientSecretRef: {name: n, key: 'hunter2 value'}}",
        ),
        server("podTemplateSpec: {spec: {containers: [{name: mcp, env: hunter2}]}}"),
        server("podTemplateSpec: {spec: {containers: [{name: mcp, env: [hunter2]}]}}"),
        server("podTemplateSpec: {metadata: {creationTimestamp: hunter2}}"),
        server("replicas: hunter2"),
    ] {
        let planned = plan(&text).pop().unwrap().1;
        assert!(planned.problems.iter().any(skep_api::problem::Problem::is_error), "{text}");
        for problem in &planned.problems {
            assert!(!format!("{problem:?}").contains("hunter2"), "{text}: {problem:?}");
        }
        assert!(!format!("{:?}", planned.conditions).contains("hunter2"), "{text}");
    }
}

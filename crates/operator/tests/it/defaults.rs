//! ToolHive's defaults are in the schema, but for fields with two spellings, and in the planner. A field that is
//! written with ToolHive's default means what it means when it is not written.

use std::path::Path;

use serde_json::{Value, json};
use skep_api::crd::defaults::fill_in;
use skep_api::crd::{Kind, Object};
use skep_api::yaml::{documents, to_yaml_documents};
use skep_operator::plan::{Missing, Planned, World, plan_object};

use crate::api_server::judge;
use crate::cases::cases;
use crate::manifests::{files, world};

/// A spec in which the field stands with ToolHive's default, and its place.
fn rows() -> Vec<(Kind, Value, &'static str)> {
    let server = json!({
        "image": "a", "transport": "stdio", "proxyMode": "streamable-http", "proxyPort": 8080, "mcpPort": 8080,
        "trustProxyHeaders": false, "sessionAffinity": "ClientIP", "audit": {"enabled": false},
        "permissionProfile": {"type": "builtin", "name": "network"},
        "volumes": [{"name": "v", "hostPath": "/v", "mountPath": "/v", "readOnly": false}],
        "authzConfig": {"type": "inline", "inline": {"policies": ["permit(principal, action, resource);"], "entitiesJson": "[]"}},
        "sessionStorage": {"provider": "redis", "address": "redis:6379", "db": 0},
    });
    let of_map = json!({"image": "a", "authzConfig": {"type": "configMap", "configMap": {"name": "m", "key": "authz.json"}}});
    let proxy = json!({
        "remoteUrl": "https://a.example.com", "authMode": "anonymous", "proxyPort": 8080,
        "transport": "streamable-http", "trustProxyHeaders": false, "sessionAffinity": "ClientIP",
        "audit": {"enabled": false}, "allowPrivateEndpoint": false,
        "sessionStorage": {"provider": "redis", "address": "redis:6379", "db": 0},
        "authServerRef": {"kind": "MCPExternalAuthConfig", "name": "x"},
    });
    let aws = json!({"type": "awsSts", "awsSts": {
        "region": "eu-west-1", "fallbackRoleArn": "arn:aws:iam::123456789012:role/mcp", "service": "aws-mcp",
        "roleClaim": "groups", "sessionDuration": 3600, "sessionNameClaim": "sub",
    }});
    let oidc = json!({"type": "inline", "inline": {
        "issuer": "https://login.example.com", "jwksAllowPrivateIP": false,
        "protectedResourceAllowPrivateIP": false, "insecureAllowHTTP": false,
    }});
    let accounts = json!({"type": "kubernetesServiceAccount", "kubernetesServiceAccount": {
        "issuer": "https://kubernetes.default.svc",
    }});
    let telemetry = json!({
        "openTelemetry": {
            "enabled": false, "insecure": false, "metrics": {"enabled": false},
            "tracing": {"enabled": false, "samplingRate": "0.05"}, "useLegacyAttributes": true,
        },
        "prometheus": {"enabled": false},
    });
    let telemetry_on = json!({"openTelemetry": {
        "enabled": true, "insecure": false, "endpoint": "otel:4318", "metrics": {"enabled": true},
        "tracing": {"enabled": false, "samplingRate": "0.05"}, "useLegacyAttributes": true,
    }});
    let webhook =
        json!({"validating": [{"name": "w", "url": "https://a.example.com", "failurePolicy": "fail"}]});
    let entry = json!({
        "remoteUrl": "https://a.example.com", "transport": "sse", "groupRef": {"name": "g"},
        "allowPrivateEndpoint": false,
    });
    let mut rows = Vec::new();
    let mut add = |kind: Kind, spec: &Value, places: &[&'static str]| {
        rows.extend(places.iter().map(|place| (kind, spec.clone(), *place)));
    };
    add(
        Kind::MCPServer,
        &server,
        &[
            "/transport",
            "/proxyMode",
            "/proxyPort",
            "/mcpPort",
            "/trustProxyHeaders",
            "/sessionAffinity",
            "/audit/enabled",
            "/permissionProfile/type",
            "/volumes/0/readOnly",
            "/authzConfig/inline/entitiesJson",
            "/sessionStorage/db",
        ],
    );
    add(Kind::MCPServer, &of_map, &["/authzConfig/type", "/authzConfig/configMap/key"]);
    add(
        Kind::MCPRemoteProxy,
        &proxy,
        &[
            "/proxyPort",
            "/transport",
            "/trustProxyHeaders",
            "/sessionAffinity",
            "/audit/enabled",
            "/allowPrivateEndpoint",
            "/sessionStorage/db",
            "/authServerRef/kind",
        ],
    );
    let aws_fields =
        ["/awsSts/service", "/awsSts/roleClaim", "/awsSts/sessionDuration", "/awsSts/sessionNameClaim"];
    add(Kind::MCPExternalAuthConfig, &aws, &aws_fields);
    add(
        Kind::MCPOIDCConfig,
        &oidc,
        &[
            "/inline/jwksAllowPrivateIP",
            "/inline/protectedResourceAllowPrivateIP",
            "/inline/insecureAllowHTTP",
        ],
    );
    add(Kind::MCPOIDCConfig, &accounts, &["/kubernetesServiceAccount/issuer"]);
    let otel = [
        "/openTelemetry/enabled",
        "/openTelemetry/insecure",
        "/openTelemetry/metrics/enabled",
        "/openTelemetry/tracing/enabled",
        "/openTelemetry/tracing/samplingRate",
        "/openTelemetry/useLegacyAttributes",
        "/prometheus/enabled",
    ];
    add(Kind::MCPTelemetryConfig, &telemetry, &otel);
    let on = [otel[1], otel[3], otel[4], otel[5]];
    add(Kind::MCPTelemetryConfig, &telemetry_on, &on);
    add(Kind::MCPWebhookConfig, &webhook, &["/validating/0/failurePolicy"]);
    add(Kind::MCPServerEntry, &entry, &["/allowPrivateEndpoint"]);
    rows
}

fn without(spec: &Value, place: &str) -> Value {
    let mut spec = spec.clone();
    let (parent, field) = place.rsplit_once('/').unwrap();
    let removed = spec.pointer_mut(parent).unwrap().as_object_mut().unwrap().shift_remove(field);
    assert!(removed.is_some(), "{place} is not in the spec");
    spec
}

fn object(kind: Kind, name: &str, spec: Value) -> Object {
    let version = kind.stored().api_version();
    let value =
        json!({"apiVersion": version, "kind": kind.as_str(), "metadata": {"name": name}, "spec": spec});
    Object::parse(&value).unwrap()
}

/// What follows from the spec, for itself and for a remote proxy that refers to it.
fn outcome(kind: Kind, spec: &Value) -> String {
    let mut world = World::default();
    world.settings.missing = Missing::Warn;
    world.namespace_labels.insert("skep.dev/allow-privileged-template".to_owned(), "true".to_owned());
    world.config_maps.insert(
        "m".to_owned(),
        [("authz.json".to_owned(), json!({"version": "1.0", "type": "cedarv1", "cedar": {"policies": ["permit(principal, action, resource);"], "entities_json": "[]"}}).to_string())].into(),
    );
    let config = object(kind, "x", spec.clone());
    let mut planned = plan_object(&config, &world);
    planned.config_hash = None;
    let user = match kind {
        Kind::MCPExternalAuthConfig => {
            json!({"externalAuthConfigRef": {"name": "x"}, "authMode": "anonymous"})
        }
        Kind::MCPOIDCConfig => json!({"oidcConfigRef": {"name": "x", "audience": "a"}}),
        Kind::MCPTelemetryConfig => json!({"telemetryConfigRef": {"name": "x"}, "authMode": "anonymous"}),
        _ => return format!("{planned:#?}"),
    };
    world.configs.insert((kind, "x".to_owned()), config);
    let mut spec = json!({"remoteUrl": "https://a.example.com"});
    spec.as_object_mut().unwrap().extend(user.as_object().unwrap().clone());
    let mut used = plan_object(&object(Kind::MCPRemoteProxy, "p", spec), &world);
    used.hashes.clear();
    assert!(used.plan.is_some(), "{:?}", used.problems);
    format!("{planned:#?}\n{used:#?}")
}

#[test]
fn a_default_that_is_written_means_what_it_means_when_it_is_not() {
    for (kind, spec, place) in rows() {
        let (with, out) = (outcome(kind, &spec), outcome(kind, &without(&spec, place)));
        let differs = with.lines().zip(out.lines()).find(|(with, out)| with != out);
        assert!(with == out, "{kind} {place}: {differs:?}");
    }
}

/// Every text of manifests that there is: its name and its objects.
fn written() -> Vec<(String, Vec<Value>)> {
    let mut texts: Vec<(String, Vec<Value>)> = Vec::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut folders = vec![examples];
    let mut all: Vec<_> = ["good", "bad"].into_iter().flat_map(files).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                all.push(path);
            }
        }
    }
    for path in all {
        let read = documents(&std::fs::read_to_string(&path).unwrap()).unwrap_or_default();
        let values = read.into_iter().flat_map(|document| match document.value["items"].as_array() {
            Some(items) => items.clone(),
            None => vec![document.value],
        });
        texts.push((path.display().to_string(), values.collect()));
    }
    texts.extend(cases().into_iter().map(|case| (case.name, case.objects)));
    texts
}

fn planned(values: &[Value]) -> Vec<(String, Planned)> {
    let (objects, world) = world(&to_yaml_documents(values), Missing::Refuse);
    let plan = |object: &Object| {
        let mut planned = plan_object(object, &world);
        // What is written differs, so its digests do.
        planned.hashes.clear();
        planned.config_hash = None;
        (format!("{} {}", object.kind, object.metadata.name), planned)
    };
    objects.iter().map(plan).collect()
}

/// An API server fills objects in before anybody sees them, and `skep check` sees them as they are written.
#[test]
fn everything_means_the_same_when_an_api_server_has_filled_it_in() {
    let (mut filled, mut seen) = (0, 0);
    for (name, values) in written() {
        let mut with = values.clone();
        for value in &mut with {
            let Ok(kind) = value["kind"].as_str().unwrap_or_default().parse::<Kind>() else { continue };
            let Some(spec) = value.get_mut("spec").filter(|spec| spec.is_object()) else { continue };
            let before = spec.clone();
            fill_in(kind, spec);
            filled += usize::from(*spec != before);
            if *spec != before {
                let (out, with) = (judge(kind, &before).refused, judge(kind, spec).refused);
                assert_eq!(out, with, "{name}: {kind}: the rules of the schema");
            }
        }
        for ((object, out), (_, with)) in planned(&values).into_iter().zip(planned(&with)) {
            let (out, with) = (format!("{out:#?}"), format!("{with:#?}"));
            let differs = with.lines().zip(out.lines()).find(|(with, out)| with != out);
            assert!(with == out, "{name}: {object}: {differs:?}");
            seen += 1;
        }
    }
    assert!(filled > 200 && seen > 400, "{filled} of {seen}");
}

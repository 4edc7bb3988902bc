//! runconfig.json as ToolHive's own reader expects it: names of keys, types of values, order of stages. The
//! tables are written from what is known of that format, not from our types.

use serde_json::Value;
use skep_operator::plan::Planned;

use crate::manifests::{files, plan};

/// A server and a remote proxy that use everything there is.
const MAXIMAL: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: client}
stringData: {secret: x, token: x}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ca}
data: {ca.crt: "-----BEGIN CERTIFICATE-----"}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPOIDCConfig
metadata: {name: login}
spec:
  type: inline
  inline: {issuer: 'https://i.example.com', introspectionUrl: 'https://i.example.com/i', jwksUrl: 'https://i.example.com/k', clientId: c, clientSecretRef: {name: client, key: secret}, caBundleRef: {configMapRef: {name: ca}}}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPExternalAuthConfig
metadata: {name: exchange}
spec: {type: tokenExchange, tokenExchange: {tokenUrl: 'https://i.example.com/t', audience: b, clientId: c, clientSecretRef: {name: client, key: secret}, scopes: [a], subjectTokenType: jwt, externalTokenHeaderName: X-Upstream}}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPExternalAuthConfig
metadata: {name: aws}
spec: {type: awsSts, awsSts: {region: eu-west-1, fallbackRoleArn: 'arn:aws:iam::123456789012:role/r', roleMappings: [{claim: dev, roleArn: 'arn:aws:iam::123456789012:role/d', priority: 1}]}}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPToolConfig
metadata: {name: tools}
spec: {toolsFilter: [one], toolsOverride: {two: {name: one, description: First.}}}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPGroup
metadata: {name: g}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPServer
metadata: {name: s, generation: 3}
spec:
  image: example/server:1
  transport: streamable-http
  proxyPort: 9090
  mcpPort: 3000
  args: [--verbose]
  env: [{name: A, value: b}]
  volumes: [{name: data, hostPath: /data, mountPath: /srv/data, readOnly: true}]
  permissionProfile: {type: builtin, name: network}
  oidcConfigRef: {name: login, audience: mcp, resourceUrl: 'https://gate.example.com/mcp', scopes: [openid, mcp]}
  authzConfig: {type: inline, groupClaimName: groups, roleClaimName: roles, groupEntityType: Team, inline: {policies: ['permit(principal, action, resource);'], entitiesJson: '[]'}}
  externalAuthConfigRef: {name: exchange}
  audit: {enabled: true}
  toolConfigRef: {name: tools}
  trustProxyHeaders: true
  endpointPrefix: /mcp/s
  groupRef: {name: g}
  telemetry: {openTelemetry: {enabled: true, endpoint: 'https://otel.example.com:4318', headers: ['a=b'], insecure: true, metrics: {enabled: true}, tracing: {enabled: true, samplingRate: '0.5'}}, prometheus: {enabled: true}}
  replicas: 2
  backendReplicas: 2
  sessionStorage: {provider: redis, address: 'redis:6379', db: 1, keyPrefix: 's:', passwordRef: {name: client, key: secret}}
---
apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPRemoteProxy
metadata: {name: p, generation: 3}
spec:
  remoteUrl: https://mcp.example.com/api
  proxyPort: 9090
  oidcConfigRef: {name: login, audience: mcp}
  authzConfig: {type: inline, inline: {policies: ['permit(principal, action, resource);']}}
  externalAuthConfigRef: {name: aws}
  headerForward: {addPlaintextHeaders: {X-Team: one}, addHeadersFromSecret: [{headerName: X-Key, valueSecretRef: {name: client, key: token}}]}
  audit: {enabled: true}
  toolConfigRef: {name: tools}
  telemetry: {prometheus: {enabled: true}}
  trustProxyHeaders: true
  endpointPrefix: /mcp/p
  groupRef: {name: g}
  sessionStorage: {provider: redis, address: 'redis:6379'}
"#;

/// Types of values: `s` text, `i` whole number, `b` yes or no, `[s]` list of texts, `{s}` texts by name, `o`
/// object, `[o]` list of objects.
type Shape = &'static [(&'static str, &'static str)];

const TOP: Shape = &[
    ("schema_version", "s"),
    ("mcpserver_generation", "i"),
    ("image", "s"),
    ("remote_url", "s"),
    ("remote_auth_config", "o"),
    ("cmd_args", "[s]"),
    ("name", "s"),
    ("container_name", "s"),
    ("base_name", "s"),
    ("transport", "s"),
    ("host", "s"),
    ("port", "i"),
    ("target_port", "i"),
    ("permission_profile_name_or_path", "s"),
    ("permission_profile", "o"),
    ("env_vars", "{s}"),
    ("volumes", "[s]"),
    ("container_labels", "{s}"),
    ("oidc_config", "o"),
    ("token_exchange_config", "o"),
    ("aws_sts_config", "o"),
    ("authz_config", "o"),
    ("audit_config", "o"),
    ("telemetry_config", "o"),
    ("trust_proxy_headers", "b"),
    ("proxy_mode", "s"),
    ("thv_ca_bundle", "s"),
    ("jwks_auth_token_file", "s"),
    ("group", "s"),
    ("tools_filter", "[s]"),
    ("tools_override", "o"),
    ("middleware_configs", "[o]"),
    ("endpoint_prefix", "s"),
    ("header_forward", "o"),
    ("scaling_config", "o"),
];

/// Objects in it, by their place.
const INNER: &[(&str, Shape)] = &[
    (
        "/oidc_config",
        &[
            ("Issuer", "s"),
            ("Audience", "s"),
            ("JWKSURL", "s"),
            ("ClientID", "s"),
            ("ClientSecret", "s"),
            ("CACertPath", "s"),
            ("AuthTokenFile", "s"),
            ("AllowPrivateIP", "b"),
            ("InsecureAllowHTTP", "b"),
            ("IntrospectionURL", "s"),
            ("ResourceURL", "s"),
            ("Scopes", "[s]"),
        ],
    ),
    (
        "/token_exchange_config",
        &[
            ("token_url", "s"),
            ("client_id", "s"),
            ("client_secret", "s"),
            ("audience", "s"),
            ("scopes", "[s]"),
            ("subject_token_type", "s"),
            ("header_strategy", "s"),
            ("external_token_header_name", "s"),
        ],
    ),
    (
        "/aws_sts_config",
        &[
            ("region", "s"),
            ("service", "s"),
            ("fallback_role_arn", "s"),
            ("role_mappings", "[o]"),
            ("role_claim", "s"),
            ("session_duration", "i"),
            ("session_name_claim", "s"),
            ("subject_provider_name", "s"),
        ],
    ),
    (
        "/aws_sts_config/role_mappings/0",
        &[("claim", "s"), ("matcher", "s"), ("role_arn", "s"), ("priority", "i")],
    ),
    ("/authz_config", &[("version", "s"), ("type", "s"), ("cedar", "o")]),
    (
        "/authz_config/cedar",
        &[
            ("policies", "[s]"),
            ("entities_json", "s"),
            ("group_claim_name", "s"),
            ("role_claim_name", "s"),
            ("group_entity_type", "s"),
            ("primary_upstream_provider", "s"),
        ],
    ),
    ("/audit_config", &[("detectApplicationErrors", "b"), ("maxDataSize", "i")]),
    (
        "/telemetry_config",
        &[
            ("serviceName", "s"),
            ("serviceVersion", "s"),
            ("tracingEnabled", "b"),
            ("metricsEnabled", "b"),
            ("samplingRate", "s"),
            ("headers", "{s}"),
            ("insecure", "b"),
            ("enablePrometheusMetricsPath", "b"),
            ("prometheusPort", "i"),
            ("metricsOnTransportPort", "b"),
            ("environmentVariables", "[s]"),
            ("customAttributes", "{s}"),
            ("useLegacyAttributes", "b"),
            ("caCertPath", "s"),
        ],
    ),
    ("/tools_override/two", &[("name", "s"), ("description", "s")]),
    ("/header_forward", &[("add_plaintext_headers", "{s}"), ("add_headers_from_secret", "{s}")]),
    ("/scaling_config", &[("backend_replicas", "i"), ("session_redis", "o")]),
    ("/scaling_config/session_redis", &[("address", "s"), ("db", "i"), ("key_prefix", "s")]),
    (
        "/permission_profile",
        &[("name", "s"), ("read", "[s]"), ("write", "[s]"), ("network", "o"), ("privileged", "b")],
    ),
    ("/permission_profile/network", &[("mode", "s"), ("outbound", "o"), ("inbound", "o")]),
    (
        "/permission_profile/network/outbound",
        &[("insecure_allow_all", "b"), ("allow_host", "[s]"), ("allow_port", "[i]")],
    ),
];

/// Stages in the order in which requests go through them.
const ORDER: [&str; 18] = [
    "bodylimit",
    "audit",
    "auth",
    "upstreamswap",
    "strip-auth",
    "tokenexchange",
    "tool-filter",
    "tool-call-filter",
    "mcp-parser",
    "telemetry",
    "ratelimit",
    "mutating-webhook",
    "validating-webhook",
    "usagemetrics",
    "authorization",
    "awssts",
    "header-forward",
    "recovery",
];

fn maximal() -> Vec<Value> {
    let text = format!("{MAXIMAL}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: default}}\n");
    let (objects, mut world) = crate::manifests::world(&text, skep_operator::plan::Missing::Refuse);
    world.namespace_labels.insert("skep.dev/allow-privileged-template".to_owned(), "true".to_owned());
    objects
        .iter()
        .filter(|object| object.kind.is_workload())
        .map(|object| json_of(skep_operator::plan::plan_object(object, &world)))
        .collect()
}

fn json_of(planned: Planned) -> Value {
    let plan = planned.plan.unwrap_or_else(|| panic!("{:?}", planned.problems));
    serde_json::from_str(&plan.workload.unwrap().run_config.to_json()).unwrap()
}

fn fits(value: &Value, shape: &str) -> bool {
    let all = |test: fn(&Value) -> bool| value.as_array().is_some_and(|items| items.iter().all(test));
    match shape {
        "s" => value.is_string(),
        "i" => value.is_i64() || value.is_u64(),
        "b" => value.is_boolean(),
        "o" => value.is_object(),
        "[s]" => all(Value::is_string),
        "[i]" => all(Value::is_i64),
        "[o]" => all(Value::is_object),
        "{s}" => value.as_object().is_some_and(|map| map.values().all(Value::is_string)),
        other => panic!("{other}"),
    }
}

fn check(at: &str, value: &Value, shape: Shape) {
    for (key, inner) in value.as_object().unwrap() {
        let known = shape.iter().find(|(name, _)| name == key);
        let Some((_, shape)) = known else { panic!("{at}/{key} is not a key of the format") };
        assert!(fits(inner, shape), "{at}/{key} is no {shape}: {inner}");
    }
}

#[test]
fn every_key_is_one_of_the_format_and_has_its_type() {
    let mut used = 0;
    for mut config in maximal() {
        // The one key of our own, which ToolHive's reader passes over.
        config.as_object_mut().unwrap().remove("skep");
        check("", &config, TOP);
        for (at, shape) in INNER {
            if let Some(value) = config.pointer(at) {
                check(at, value, shape);
                used += 1;
            }
        }
    }
    assert!(used > INNER.len(), "{used}");
}

#[test]
fn the_maximal_objects_use_every_key_that_an_operator_writes() {
    let written = maximal();
    let there = |pointer: &str| written.iter().any(|config| config.pointer(pointer).is_some());
    // A bearer token and the cluster's own key set exclude what is used here; they have tests of their own.
    for (key, _) in
        TOP.iter().filter(|(key, _)| !["remote_auth_config", "jwks_auth_token_file"].contains(key))
    {
        assert!(there(&format!("/{key}")), "{key}");
    }
    for (at, _) in INNER.iter().filter(|(at, _)| !at.ends_with("inbound")) {
        assert!(there(at), "{at}");
    }
}

#[test]
fn stages_are_listed_in_the_order_of_requests() {
    let rank = |kind: &str| ORDER.iter().position(|known| *known == kind).unwrap_or_else(|| panic!("{kind}"));
    let mut listed = std::collections::BTreeSet::new();
    let of_files = files("good").into_iter().flat_map(|file| plan(&std::fs::read_to_string(file).unwrap()));
    let planned =
        of_files.filter(|(object, _)| object.kind.is_workload()).map(|(_, planned)| json_of(planned));
    for config in planned.chain(maximal()) {
        let kinds: Vec<String> = config["middleware_configs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|stage| stage["type"].as_str().unwrap().to_owned())
            .collect();
        let ranks: Vec<usize> = kinds.iter().map(|kind| rank(kind)).collect();
        assert!(ranks.is_sorted_by(|a, b| a < b), "{kinds:?}");
        assert_eq!(
            (kinds.first().unwrap().as_str(), kinds.last().unwrap().as_str()),
            ("bodylimit", "recovery")
        );
        assert!(kinds.iter().any(|kind| kind == "auth"), "present also without an issuer");
        listed.extend(kinds);
    }
    for stage in
        ["audit", "tokenexchange", "tool-filter", "telemetry", "authorization", "awssts", "header-forward"]
    {
        assert!(listed.contains(stage), "{stage}");
    }
}

#[test]
fn parameters_of_stages_repeat_what_the_file_says() {
    for config in maximal() {
        for stage in config["middleware_configs"].as_array().unwrap() {
            let parameters = &stage["parameters"];
            for (key, at) in [
                ("oidc_config", "/oidc_config"),
                ("token_exchange_config", "/token_exchange_config"),
                ("aws_sts_config", "/aws_sts_config"),
                ("tools_override", "/tools_override"),
                ("filter_tools", "/tools_filter"),
            ] {
                if let Some(value) = parameters.get(key) {
                    assert_eq!(Some(value), config.pointer(at), "{}: {key}", stage["type"]);
                }
            }
        }
        let limit = &config["middleware_configs"][0]["parameters"];
        assert_eq!(limit["max_bytes"], 8_388_608);
    }
}

#[test]
fn the_file_is_indented_by_two_spaces_and_holds_no_secret() {
    for (object, planned) in plan(MAXIMAL).into_iter().filter(|(object, _)| object.kind.is_workload()) {
        let Some(plan) = planned.plan else { continue };
        let text = plan.workload.unwrap().run_config.to_json();
        assert!(text.starts_with("{\n  \"schema_version\": \"v0.1.0\",\n"), "{}", object.metadata.name);
        assert!(text.ends_with("}\n"));
        let maps = plan.objects.iter().filter(|object| object["kind"] == "ConfigMap");
        let written: Vec<&str> = maps.filter_map(|map| map["data"]["runconfig.json"].as_str()).collect();
        assert_eq!(written, [text.as_str()]);
    }
    for config in maximal() {
        let secret = config.pointer("/token_exchange_config/client_secret");
        assert!(secret.is_none_or(|secret| secret == ""));
        assert_eq!(config["oidc_config"]["ClientSecret"], "");
    }
}

#[test]
fn audit_is_on_by_being_there_and_its_switch_is_not_written() {
    for config in maximal() {
        assert!(config["audit_config"].is_object() && config["audit_config"].get("enabled").is_none());
    }
}

#[test]
fn environment_and_volumes_are_what_the_runner_checks_for() {
    let server = &maximal()[0];
    let env = server["env_vars"].as_object().unwrap();
    assert!(env.values().all(|value| !value.as_str().unwrap().contains('\n')));
    for name in ["MCP_TRANSPORT", "MCP_PORT", "FASTMCP_PORT"] {
        assert!(env.contains_key(name), "{name}");
    }
    assert_eq!(server["volumes"][0], "/data:/srv/data:ro");
    assert!(
        server["tools_filter"].as_array().unwrap().iter().all(|tool| !tool.as_str().unwrap().contains(','))
    );
    assert_eq!(server["mcpserver_generation"], 3);
    assert_eq!((&server["port"], &server["target_port"]), (&9090.into(), &3000.into()));
}

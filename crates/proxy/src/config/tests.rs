use std::time::Duration;

use serde_json::{Value, json};

use skep_auth::names::Audience;

use super::*;

fn minimal() -> Value {
    json!({
        "schema_version": "v0.1.0", "name": "demo", "transport": "streamable-http",
        "remote_url": "https://mcp.example/x", "host": "0.0.0.0", "port": 8080,
        "oidc_config": {"Issuer": "https://idp.example", "Audience": "demo"}
    })
}

fn with(changes: Value) -> Value {
    let mut config = minimal();
    for (key, value) in changes.as_object().unwrap() {
        if value.is_null() {
            config.as_object_mut().unwrap().remove(key);
        } else {
            config[key] = value.clone();
        }
    }
    config
}

fn load(config: &Value) -> Result<ProxyConfig, String> {
    let run = parse(config.to_string().as_bytes(), "test").map_err(|error| error.to_string())?;
    let variable = |name: &str| (name == "TOOLHIVE_SECRET_KEY1").then(|| Secret::new("s3cret"));
    ProxyConfig::new(&run, &Surroundings { variable: &variable, egress: Egress::default() })
        .map_err(|error| error.to_string())
}

const POLICY: &str = "permit(principal, action, resource);";

#[test]
fn a_minimal_config_has_safe_defaults() {
    let config = load(&minimal()).unwrap();
    assert_eq!(config.bind.to_string(), "0.0.0.0:8080");
    assert_eq!(config.limits.body_bytes, 8 << 20);
    assert!(!config.forward_token && !config.target_reach.private && config.audit.is_none());
    let AuthSettings::Token(token) = config.auth else { panic!() };
    assert_eq!(token.issuers[0].rules.leeway, Duration::from_secs(30));
    assert!(!token.issuers[0].reach.http);
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let authz = json!({"version": "1.0", "type": "cedarv1", "cedar": {"policies": [POLICY]}});
    for (changes, expected) in [
        (json!({"schema_version": "v9"}), "schema_version"),
        (json!({"transport": "stdio"}), "transport: stdio"),
        (json!({"transport": "carrier-pigeon"}), "unknown variant"),
        (json!({"unknown_key": 1}), "unknown field `unknown_key`"),
        (json!({"oidc_config": {"Issuer": "https://i", "audience": "x"}}), "unknown field `audience`"),
        (json!({"oidc_config": null}), "authMode: anonymous"),
        (json!({"oidc_config": {"Issuer": "https://idp.example"}}), "without an audience"),
        (json!({"oidc_config": {"Issuer": "http://idp.example", "Audience": "a"}}), "oidc_config.Issuer"),
        (
            json!({"oidc_config": {"Issuer": "https://i", "Audience": "a", "ClientSecret": "x"}}),
            "TOOLHIVE_OIDC_CLIENT_SECRET",
        ),
        (
            json!({"oidc_config": {"Issuer": "https://i", "Audience": "a", "IntrospectionURL": "http://i/x"}}),
            "IntrospectionURL",
        ),
        (json!({"oidc_config": {"Issuer": "https://i", "Audience": "a", "CACertPath": "/none"}}), "/none"),
        (
            json!({"oidc_config": {"Issuer": "https://i", "Audience": "a", "JWKSURL": "http://i/jwks"}}),
            "JWKSURL",
        ),
        (json!({"token_exchange_config": {}}), "token_exchange_config"),
        (json!({"rate_limit_config": {}}), "rate_limit_config"),
        (json!({"remote_url": "ftp://x"}), "http or https"),
        (json!({"remote_url": "https://u:p@x/"}), "credentials in a URL"),
        (json!({"remote_url": null}), "target_port"),
        (json!({"host": "example.com"}), "not an IP address"),
        (
            json!({"authz_config_path": "/none/authz.json"}),
            "authz_config_path names the file /none/authz.json",
        ),
        (json!({"authz_config": {"version": "2", "type": "cedarv1"}}), "version"),
        (json!({"authz_config": {"version": "1.0", "type": "httpv1"}}), "httpv1"),
        (json!({"authz_config": {"version": "1.0", "type": "rego"}}), "\"rego\" is unknown"),
        (
            json!({"authz_config": {"version": "1.0", "type": "cedarv1", "cedar": {"policies": [], "polices": []}}}),
            "polices",
        ),
        (json!({"middleware_configs": [{"type": "magic"}]}), "unsupported middleware type: magic"),
        (json!({"oidc_config": null, "middleware_configs": [{"type": "auth"}]}), "anonymous"),
        (
            json!({"middleware_configs": [{"type": "auth"}, {"type": "tokenexchange"}]}),
            "tokenexchange has no configuration",
        ),
        (json!({"middleware_configs": [{"type": "recovery"}]}), "oidc_config and middleware_configs"),
        (
            json!({"authz_config": authz, "middleware_configs": [{"type": "auth"}]}),
            "authz_config and middleware_configs",
        ),
        (
            json!({"middleware_configs": [{"type": "auth", "parameters": {"oidc_config": {"Issuer": "https://other", "Audience": "a"}}}]}),
            "contradict",
        ),
        (
            json!({"middleware_configs": [{"type": "bodylimit", "parameters": {"max_bytes": 1}}, {"type": "bodylimit", "parameters": {"max_bytes": 2}}]}),
            "contradict",
        ),
        (json!({"middleware_configs": [{"type": "auth", "parameters": {"oidc": {}}}]}), "parameters of auth"),
        (json!({"header_forward": {"add_plaintext_headers": {"Host": "x"}}}), "restricted"),
        (json!({"header_forward": {"add_headers_from_secret": {"X-Key": "KEY2"}}}), "TOOLHIVE_SECRET_KEY2"),
        (json!({"remote_auth_config": {"client_id": "x"}}), "remote_auth_config"),
        (json!({"skep": {"issuer": {"allowed_algorithms": ["HS256"]}}}), "HS256"),
        (json!({"telemetry_config": {"endpoint": "otel:4318"}}), "telemetry_config.endpoint"),
    ] {
        let error = load(&with(changes.clone())).expect_err(&changes.to_string());
        assert!(error.contains(expected), "{changes}: {error}");
    }
}

#[test]
fn a_file_that_does_not_parse_is_named_with_line_and_column() {
    for (text, expected) in [
        ("{\n  \"name\": oops }", "line 2"),
        ("{}", "missing field"),
        (r#"{"name":"a","name":"b"}"#, "duplicate name \"name\""),
        ("\u{feff}{}", "byte order mark"),
        ("", "EOF"),
    ] {
        let error = parse(text.as_bytes(), "runconfig.json").unwrap_err().to_string();
        assert!(
            error.starts_with("runconfig.json is not a RunConfig") && error.contains(expected),
            "{error}"
        );
    }
    let error = find(&["/none/a.json", "/none/b.json"]).unwrap_err().to_string();
    assert!(error.contains("/none/a.json, /none/b.json"), "{error}");
}

#[test]
fn what_toolhives_operator_writes_is_understood() {
    let oidc = json!({"Issuer": "https://idp.example", "Audience": "demo", "JWKSURL": "", "ClientID": "", "ClientSecret": "",
        "CACertPath": "", "AuthTokenFile": "", "AllowPrivateIP": false, "InsecureAllowHTTP": false, "IntrospectionURL": "",
        "ResourceURL": "https://mcp.example", "Scopes": null});
    let authz =
        json!({"version": "1.0", "type": "cedarv1", "cedar": {"policies": [POLICY], "entities_json": "[]"}});
    let config = load(&with(json!({
        "oidc_config": oidc, "authz_config": authz, "audit_config": {"detectApplicationErrors": true, "maxDataSize": 1024},
        "tools_filter": ["sum"], "tools_override": {"add": {"name": "sum", "description": "x", "annotations": {"readOnlyHint": true}}},
        "header_forward": {"add_plaintext_headers": {"X-Team": "a"}, "add_headers_from_secret": {"X-Key": "KEY1"}},
        "middleware_configs": [
            {"type": "bodylimit", "parameters": {"max_bytes": 1024}},
            {"type": "audit", "parameters": {"config_data": {"detectApplicationErrors": true, "maxDataSize": 1024}, "component": "demo"}},
            {"type": "auth", "parameters": {"oidc_config": oidc}},
            {"type": "tool-filter", "parameters": {"filter_tools": ["sum"], "tools_override": {"add": {"name": "sum", "description": "x"}}}},
            {"type": "tool-call-filter", "parameters": {"filter_tools": ["sum"], "tools_override": {"add": {"name": "sum", "description": "x"}}}},
            {"type": "mcp-parser"},
            {"type": "authorization", "parameters": {"config_data": authz}},
            {"type": "header-forward", "parameters": {"add_headers": {"X-Team": "a"}}},
            {"type": "recovery"}
        ]
    })))
    .unwrap();
    assert_eq!(config.limits.body_bytes, 1024);
    assert_eq!(config.audit.unwrap().component, "demo");
    assert_eq!(config.tools.annotations("add").unwrap().read_only_hint, Some(true));
    assert_eq!(config.add_headers.len(), 2);
    assert!(config.policies.is_some());
    assert!(!format!("{:?}", config.add_headers).contains("s3cret"));
}

#[test]
fn a_missing_audience_is_the_resource_url() {
    let config = load(&with(json!({
        "oidc_config": {"Issuer": "https://idp.example", "ResourceURL": "https://mcp.example/x"}
    })))
    .unwrap();
    let AuthSettings::Token(token) = config.auth else { panic!() };
    assert_eq!(token.issuers[0].rules.audiences, [Audience::parse("https://mcp.example/x").unwrap()]);
}

#[test]
fn a_local_server_without_authentication_runs() {
    let config = load(&with(json!({"oidc_config": null, "remote_url": null, "target_port": 9000}))).unwrap();
    assert!(matches!(config.auth, AuthSettings::Anonymous));
    assert_eq!(config.target.as_str(), "http://mcp-demo:9000/mcp");
    let remote = load(&with(json!({"oidc_config": null, "skep": {"auth_mode": "anonymous"}}))).unwrap();
    assert!(matches!(remote.auth, AuthSettings::Anonymous));
}

/// A further issuer with changes.
fn further(changes: Value) -> Value {
    let mut issuer = json!({"subject_prefix": "p:", "oidc_config": {"Issuer": "https://partner.example", "Audience": "demo"}});
    for (key, value) in changes.as_object().unwrap() {
        if key == "oidc_config" {
            for (name, inner) in value.as_object().unwrap() {
                issuer["oidc_config"][name] = inner.clone();
            }
        } else {
            issuer[key] = value.clone();
        }
    }
    issuer
}

#[test]
fn rules_for_tokens_that_contradict_each_other_are_refused_by_name() {
    let rules = |rules: Value| json!({"skep": {"issuer": rules}});
    let issuers = |issuers: Vec<Value>| json!({"skep": {"further_issuers": issuers}});
    let entra = |rules: Value| {
        json!({
            "oidc_config": {"Issuer": "https://login.example/{tenantid}/v2.0", "Audience": "demo"},
            "skep": {"issuer": rules},
        })
    };
    let opaque = json!({"IntrospectionURL": "https://idp.example/introspect"});
    let both_ask = json!({
        "oidc_config": {"Issuer": "https://idp.example", "Audience": "demo", "IntrospectionURL": "https://idp.example/x"},
        "skep": {"further_issuers": [further(json!({"oidc_config": opaque}))]},
    });
    for (changes, expected) in [
        (rules(json!({"tenants": ["t"]})), "skep.issuer.tenants: the issuer has no {tenantid}"),
        (entra(json!({})), "skep.issuer.tenants: the issuer has {tenantid} in it"),
        (entra(json!({"tenants": ["a/b"]})), "\"a/b\" is not the id of a tenant"),
        (rules(json!({"profile": "rfc9068", "accept_id_token": true})), "skep.issuer.accept_id_token"),
        (rules(json!({"profile": "rfc1"})), "unknown variant"),
        (rules(json!({"required_scopes": ["a b"]})), "\"a b\" is not a scope"),
        (rules(json!({"required_scopes": [""]})), "is not a scope"),
        (rules(json!({"scope_map": {"a\"": "b"}})), "is not a scope"),
        (rules(json!({"authorized_parties": [""]})), "skep.issuer.authorized_parties"),
        (rules(json!({"jwks_pins": ["nonsense"]})), "\"nonsense\" is not a SHA-256"),
        (rules(json!({"jwks_cert_fingerprint": "abcd"})), "\"abcd\" is not a SHA-256"),
        (
            rules(json!({"discovery_url": "http://idp.example/x"})),
            "skep.issuer.discovery_url: it must be https",
        ),
        (rules(json!({"introspection": {"cache_ttl_seconds": 5}})), "there is no IntrospectionURL"),
        // Milliseconds, taken for seconds; and what would keep expired tokens good for ever.
        (rules(json!({"clock_skew_seconds": 30_000})), "skep.issuer.clock_skew_seconds: 300 s at most"),
        (rules(json!({"clock_skew_seconds": u64::MAX})), "skep.issuer.clock_skew_seconds: 300 s at most"),
        (
            json!({
                "oidc_config": {
                    "Issuer": "https://i.example", "Audience": "a", "IntrospectionURL": "https://i.example/x",
                },
                "skep": {"issuer": {"introspection": {"cache_ttl_seconds": 30_000}}},
            }),
            "3600 s at most",
        ),
        (rules(json!({"scope_map": {"": "b"}})), "is not a scope"),
        (rules(json!({"scope_map": {"a": ""}})), "is not a scope"),
        (rules(json!({"jwks_pins": [""]})), "is not a SHA-256"),
        (
            json!({
                "oidc_config": {"Issuer": "https://i.example", "Audience": "a", "JWKSURL": "https://i.example/k"},
                "skep": {"issuer": {"discovery_url": "https://i.example/d"}},
            }),
            "nothing is left to be discovered",
        ),
        (
            json!({
                "oidc_config": {"Issuer": "http://i.example", "Audience": "a", "InsecureAllowHTTP": true},
                "skep": {"issuer": {"jwks_pins": ["ab".repeat(32)]}},
            }),
            "every URL of this issuer must be https",
        ),
        (
            json!({"oidc_config": {
                "Issuer": "https://github.com", "Audience": "https://github.com",
                "IntrospectionURL": "https://api.github.com/applications/Iv1.x/token",
            }}),
            "GitHub wants the id and the secret",
        ),
        (issuers(vec![further(json!({"subject_prefix": ""}))]), "entry 0, subject_prefix: it is needed"),
        (issuers(vec![further(json!({"subject_prefix": "client:x:"}))]), "clients that call for themselves"),
        (issuers(vec![further(json!({"subject_prefix": "cli"}))]), "clients that call for themselves"),
        (issuers(vec![further(json!({"subject_prefix": "a b"}))]), "spaces"),
        (
            issuers(vec![
                further(json!({})),
                further(json!({"subject_prefix": "p:q:", "oidc_config": {"Issuer": "https://c.example"}})),
            ]),
            "begin alike",
        ),
        (
            issuers(vec![further(json!({})), further(json!({"subject_prefix": "q:"}))]),
            "the issuer \"https://partner.example\" is there twice",
        ),
        (issuers(vec![further(json!({"oidc_config": {"Issuer": "https://idp.example/"}}))]), "there twice"),
        (
            issuers(vec![
                further(
                    json!({"oidc_config": {"Issuer": "https://l.example/{tenantid}/"}, "rules": {"tenants": ["t"]}}),
                ),
                further(json!({"subject_prefix": "q:", "oidc_config": {"Issuer": "https://l.example/t"}})),
            ]),
            "the issuer \"https://l.example/t\" is there twice",
        ),
        (
            issuers(vec![further(json!({"oidc_config": {"Issuer": "http://x.example"}}))]),
            "entry 0, oidc_config.Issuer",
        ),
        (issuers(vec![further(json!({"oidc_config": {"Audience": ""}}))]), "entry 0, oidc_config.Audience"),
        (issuers(vec![further(json!({"oidc_config": {"Scopes": ["x"]}}))]), "entry 0, oidc_config.Scopes"),
        (
            issuers(vec![further(json!({"oidc_config": {"ResourceURL": "https://x"}}))]),
            "entry 0, oidc_config.ResourceURL",
        ),
        (
            issuers(vec![further(json!({"rules": {"allowed_algorithms": ["none"]}}))]),
            "entry 0, rules.allowed_algorithms",
        ),
        (both_ask, "only one issuer may have an IntrospectionURL"),
        (
            json!({"oidc_config": null, "skep": {"auth_mode": "anonymous", "issuer": {"required_scopes": ["x"]}}}),
            "skep.issuer: there is no oidc_config",
        ),
        (
            json!({"oidc_config": null, "skep": {"auth_mode": "anonymous", "further_issuers": [further(json!({}))]}}),
            "skep.further_issuers: there is no oidc_config",
        ),
    ] {
        let error = load(&with(changes.clone())).expect_err(&changes.to_string());
        assert!(error.contains(expected), "{changes}: {error}");
    }
}

#[test]
fn several_issuers_have_rules_of_their_own_and_one_resource() {
    let config = load(&with(json!({
        "oidc_config": {
            "Issuer": "https://login.example/{tenantid}/v2.0", "ResourceURL": "https://mcp.example/x", "Scopes": ["a"],
            "IntrospectionURL": "https://login.example/introspect", "ClientID": "proxy",
        },
        "skep": {
            "issuer": {"tenants": ["t1", "t2"], "required_scopes": ["a", "b"], "introspection": {"cache_ttl_seconds": 0}},
            "further_issuers": [further(json!({
                "rules": {"audiences": ["more"], "clock_skew_seconds": 5, "plain_client_subjects": true},
            }))],
        },
    })))
    .unwrap();
    let AuthSettings::Token(token) = config.auth else { panic!() };
    let [first, partner] = token.issuers.as_slice() else { panic!("{:?}", token.issuers) };
    assert_eq!(first.names(), ["https://login.example/t1/v2.0", "https://login.example/t2/v2.0"]);
    assert_eq!(token.scopes, ["a", "b"], "a client that has no token yet asks for what it needs");
    assert_eq!(first.introspection.as_ref().unwrap().cache_ttl, Duration::ZERO);
    assert_eq!(partner.rules.namespace.prefix, "p:");
    assert_eq!(partner.rules.leeway, Duration::from_secs(5));
    assert!(partner.rules.plain_client_subjects && partner.introspection.is_none());
    let audiences = ["demo", "more"].map(|text| Audience::parse(text).unwrap());
    assert_eq!(partner.rules.audiences, audiences);
}

#[test]
fn the_pods_own_token_goes_to_the_api_server_alone() {
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let api_server: ipnet::IpNet = "10.96.0.1/32".parse().unwrap();
    let settings = |oidc: serde_json::Value| {
        let run = json!({
            "schema_version": "v0.1.0", "name": "demo", "transport": "streamable-http",
            "remote_url": "https://mcp.example/", "oidc_config": oidc,
        });
        let run = parse(run.to_string().as_bytes(), "test").unwrap();
        let variable = |name: &str| (name == "KUBERNETES_SERVICE_HOST").then(|| Secret::new("10.96.0.1"));
        let egress = Egress { loopback: false, deny: vec![api_server, "10.0.0.0/24".parse().unwrap()] };
        ProxyConfig::new(&run, &Surroundings { variable: &variable, egress })
    };
    for (issuer, more) in [
        ("https://idp.example", json!({})),
        ("https://kubernetes.default.svc.evil.example", json!({})),
        ("https://kubernetes.default.svc", json!({"JWKSURL": "https://idp.example/jwks"})),
        ("https://kubernetes.default.svc", json!({"IntrospectionURL": "https://idp.example/introspect"})),
    ] {
        let mut oidc = json!({"Issuer": issuer, "Audience": "a", "AuthTokenFile": token});
        oidc.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let error = settings(oidc.clone()).unwrap_err().to_string();
        assert!(error.contains("AuthTokenFile") && error.contains("API server alone"), "{oidc}: {error}");
    }
    for issuer in ["https://kubernetes.default.svc", "https://10.96.0.1"] {
        // Allowed; only that there is no such file outside a pod.
        let error = settings(json!({"Issuer": issuer, "Audience": "a", "AuthTokenFile": token})).unwrap_err();
        assert!(matches!(error, ConfigError::File { .. }), "{issuer}: {error}");
        let config = settings(json!({"Issuer": issuer, "Audience": "a"})).unwrap();
        let AuthSettings::Token(tokens) = &config.auth else { panic!("no tokens") };
        assert!(!tokens.issuers[0].egress.deny.contains(&api_server), "its keys are there");
        assert_eq!(tokens.issuers[0].egress.deny.len(), 1);
        assert!(config.egress.deny.contains(&api_server), "for everything else it stays out of reach");
    }
    let AuthSettings::Token(tokens) =
        settings(json!({"Issuer": "https://idp.example", "Audience": "a"})).unwrap().auth
    else {
        panic!("no tokens")
    };
    assert!(tokens.issuers[0].egress.deny.contains(&api_server));
}

#[test]
fn a_value_of_the_wrong_kind_is_named_by_its_place_and_not_repeated() {
    for (text, expected) in [
        (
            r#"{"schema_version": "v0.1.0", "token_exchange_config": {"client_secret": 918273645}}"#,
            "invalid type: integer, expected a string",
        ),
        (
            r#"{"schema_version": "v0.1.0", "token_exchange_config": "hunter2, expected hunter2"}"#,
            "invalid type: string, expected struct TokenExchangeConfig",
        ),
        (r#"{"skep": {"auth_mode": "hunter2"}}"#, "unknown variant, expected `token` or `anonymous`"),
    ] {
        let error = parse(text.as_bytes(), "test").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("hunter2") && !error.contains("918273645"), "{error}");
    }
}

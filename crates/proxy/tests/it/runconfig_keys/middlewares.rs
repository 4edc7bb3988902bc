//! Every type of `middleware_configs` that ToolHive has, with each of its parameters.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Files, Row, inert, refused, shows};

/// Types, with the parameters that ToolHive writes.
const TYPES: [(&str, &[&str]); 21] = [
    ("audit", &["config_path", "config_data", "component", "transport_type"]),
    ("auth", &["oidc_config"]),
    ("authorization", &["config_path", "config_data"]),
    ("awssts", &["aws_sts_config", "target_url"]),
    ("bodylimit", &["max_bytes"]),
    ("header-forward", &["add_headers"]),
    ("mcp-parser", &[]),
    ("mutating-webhook", &[]),
    ("oauth-token-injection", &[]),
    ("obo", &[]),
    ("origin", &["allowed_origins"]),
    ("ratelimit", &[]),
    ("recovery", &[]),
    ("strip-auth", &[]),
    ("telemetry", &["config", "server_name", "transport"]),
    ("tokenexchange", &["token_exchange_config"]),
    ("tool-call-filter", &["filter_tools", "tools_override"]),
    ("tool-filter", &["filter_tools", "tools_override"]),
    ("upstreamswap", &[]),
    ("usagemetrics", &[]),
    ("validating-webhook", &[]),
];

/// A list with one more middleware.
fn with(kind: &str, parameters: Value) -> Value {
    json!({"middleware_configs": [{"type": "auth"}, {"type": kind, "parameters": parameters}]})
}

fn rows() -> Vec<Row> {
    let oidc = json!({"Issuer": "https://idp.example", "Audience": "demo"});
    let other = json!({"Issuer": "https://other.example", "Audience": "demo"});
    let local = json!({"oidc_config": null, "remote_url": null, "target_port": 9000});
    let only_auth =
        |oidc: &Value| json!({"middleware_configs": [{"type": "auth", "parameters": {"oidc_config": oidc}}]});
    let policies = json!({"version": "1.0", "type": "cedarv1", "cedar": {"policies": ["permit(principal, action, resource);"]}});
    let denial = json!({"version": "1.0", "type": "cedarv1", "cedar": {"policies": ["forbid(principal, action, resource);"]}});
    let role = "arn:aws:iam::123456789012:role/mcp";
    let aws = json!({"region": "eu-central-1", "fallback_role_arn": role});
    let exchange = json!({"token_url": "https://i.example/token", "client_id": "skep"});
    let off = "always on, or never: it has no parameters that matter";
    let mut rows = vec![
        shows("auth.oidc_config", only_auth(&oidc), "https://idp.example").within(&local),
        refused("auth.oidc_config", only_auth(&other), "contradict"),
        refused("auth.oidc_config", only_auth(&json!({"Issuer": "https://idp.example"})), "contradict"),
        shows("audit.config_data", with("audit", json!({"config_data": {"maxDataSize": 77}})), "77"),
        shows("audit.config_path", with("audit", json!({"config_path": "DIR/audit.json"})), "from-a-file"),
        shows("audit.component", with("audit", json!({"component": "front"})), "\"front\""),
        inert(
            "audit.transport_type",
            with("audit", json!({"transport_type": "sse"})),
            "the record says how the answer came, whatever was meant",
        )
        .within(&with("audit", json!({}))),
        shows("authorization.config_data", with("authorization", json!({"config_data": policies})), "permit("),
        refused("authorization.config_data", with("authorization", json!({})), "authorization has neither"),
        refused("authorization.config_data", with("authorization", json!({"config_data": denial})), "contradict")
            .within(&json!({"authz_config": policies, "middleware_configs": [{"type": "auth"}, {"type": "authorization", "parameters": {"config_data": policies}}]})),
        shows("authorization.config_path", with("authorization", json!({"config_path": "DIR/authz.json"})), "permit("),
        shows("awssts.aws_sts_config", with("awssts", json!({"aws_sts_config": aws})), "role/mcp"),
        refused("awssts.aws_sts_config", with("awssts", json!({})), "awssts has no configuration"),
        inert(
            "awssts.target_url",
            with("awssts", json!({"aws_sts_config": aws, "target_url": "https://mcp.example/mcp"})),
            "it has to be the remote URL, which is known",
        )
        .within(&with("awssts", json!({"aws_sts_config": aws}))),
        refused(
            "awssts.target_url",
            with("awssts", json!({"aws_sts_config": aws, "target_url": "https://elsewhere.example/"})),
            "target_url",
        ),
        shows("bodylimit.max_bytes", with("bodylimit", json!({"max_bytes": 77})), "body_bytes: 77"),
        inert("bodylimit.max_bytes", with("bodylimit", json!({"max_bytes": 0})), "0 is the usual limit, as in ToolHive"),
        shows("header-forward.add_headers", with("header-forward", json!({"add_headers": {"X-Team": "a"}})), "x-team"),
        shows("origin.allowed_origins", with("origin", json!({"allowed_origins": ["https://app.example"]})), "app.example"),
        shows("telemetry.config", with("telemetry", json!({"config": {"prometheusPort": 9999}})), "metrics_port: 9999"),
        refused("telemetry.config", with("telemetry", json!({"config": {"endpoint": "otel:4318"}})), "telemetry_config.endpoint"),
        refused("telemetry.config", with("telemetry", json!({"config": {"prometheusPort": 1}})), "contradict")
            .within(&json!({"telemetry_config": {"prometheusPort": 2}})),
        inert("telemetry.server_name", with("telemetry", json!({"server_name": "x"})), "the name is that of the workload"),
        inert("telemetry.transport", with("telemetry", json!({"transport": "sse"})), "the transport is that of the workload"),
        shows("tokenexchange.token_exchange_config", with("tokenexchange", json!({"token_exchange_config": exchange})), "i.example"),
        refused("tokenexchange.token_exchange_config", with("tokenexchange", json!({})), "tokenexchange has no configuration"),
        inert("strip-auth", with("strip-auth", Value::Null), "the caller's token always ends here"),
        refused("strip-auth", with("strip-auth", Value::Null), "strip-auth")
            .within(&json!({"skep": {"client_token": "forward"}})),
        refused("strip-auth", json!({"middleware_configs": [
            {"type": "auth"}, {"type": "strip-auth"}, {"type": "tokenexchange", "parameters": {"token_exchange_config": exchange}},
        ]}), "strip-auth"),
        inert("usagemetrics", with("usagemetrics", json!({"anonymous": true})), "nobody is told how the proxy is used"),
        inert("mcp-parser", with("mcp-parser", Value::Null), off),
        inert("recovery", with("recovery", Value::Null), off),
        refused("oauth-token-injection", with("oauth-token-injection", Value::Null), "middleware oauth-token-injection"),
        refused("obo", with("obo", Value::Null), "middleware obo"),
        refused("ratelimit", with("ratelimit", json!({"namespace": "a"})), "middleware ratelimit"),
        refused("upstreamswap", with("upstreamswap", Value::Null), "middleware upstreamswap"),
        refused("mutating-webhook", with("mutating-webhook", json!({"webhooks": []})), "middleware mutating-webhook"),
        refused("validating-webhook", with("validating-webhook", json!({"webhooks": []})), "middleware validating-webhook"),
    ];
    for (list, renamed, kind) in [
        ("tool-filter.filter_tools", "tool-filter.tools_override", "tool-filter"),
        ("tool-call-filter.filter_tools", "tool-call-filter.tools_override", "tool-call-filter"),
    ] {
        let filter = with(kind, json!({"filter_tools": ["add"]}));
        let renamer = with(kind, json!({"filter_tools": null, "tools_override": {"add": {"name": "sum"}}}));
        rows.push(shows(list, filter.clone(), "\"add\""));
        rows.push(refused(list, filter, "contradict").within(&json!({"tools_filter": ["other"]})));
        rows.push(shows(renamed, renamer, "\"sum\""));
    }
    rows
}

#[test]
fn every_middleware_of_toolhive_does_what_it_says_or_is_refused() {
    let files = Files::new();
    let rows = rows();
    let known: BTreeSet<&str> = rows.iter().map(|row| row.key).collect();
    let mut wanted = BTreeSet::new();
    for (kind, parameters) in TYPES {
        if parameters.is_empty() {
            wanted.insert(kind.to_owned());
        }
        wanted.extend(parameters.iter().map(|name| format!("{kind}.{name}")));
    }
    assert_eq!(known, wanted.iter().map(String::as_str).collect());
    super::check(&rows, &files);
}

#[test]
fn a_parameter_that_nobody_knows_is_refused() {
    let files = Files::new();
    for (kind, parameters) in TYPES.iter().filter(|(_, parameters)| !parameters.is_empty()) {
        let mut config = super::minimal();
        super::merge(
            &mut config,
            &json!({"middleware_configs": [{"type": kind, "parameters": {"unheard_of": 1}}]}),
        );
        let error = files.load(&config).expect_err(kind);
        assert!(
            error.contains(&format!("parameters of {kind}")) && error.contains("unheard_of"),
            "{kind}: {error}"
        );
        assert!(!parameters.contains(&"unheard_of"));
    }
}

#[test]
fn a_list_that_leaves_a_protection_out_is_refused() {
    let files = Files::new();
    let policies = json!({"version": "1.0", "type": "cedarv1", "cedar": {"policies": []}});
    for (typed, name) in [
        (json!({}), "oidc_config"),
        (json!({"authz_config": policies}), "authz_config"),
        (json!({"audit_config": {}}), "audit_config"),
        (json!({"token_exchange_config": {"token_url": "https://i.example/t"}}), "token_exchange_config"),
        (
            json!({"aws_sts_config": {"region": "eu-west-1", "fallback_role_arn": "arn:aws:iam::123456789012:role/x"}}),
            "aws_sts_config",
        ),
    ] {
        let mut config = super::minimal();
        super::merge(&mut config, &typed);
        files.load(&config).unwrap_or_else(|error| panic!("{name}: {error}"));
        let others: &[&str] = if name == "oidc_config" { &["recovery"] } else { &["auth", "recovery"] };
        config["middleware_configs"] = others.iter().map(|kind| json!({"type": kind})).collect();
        let error = files.load(&config).expect_err(name);
        assert!(error.contains(name) && error.contains("leaves it out"), "{error}");
    }
}

#[test]
fn the_order_of_the_list_has_no_meaning() {
    let files = Files::new();
    let mut config = super::minimal();
    let mut list = vec![
        json!({"type": "auth"}),
        json!({"type": "audit", "parameters": {"component": "x"}}),
        json!({"type": "bodylimit", "parameters": {"max_bytes": 77}}),
        json!({"type": "tokenexchange", "parameters": {"token_exchange_config": {"token_url": "https://i.example/t"}}}),
        json!({"type": "recovery"}),
    ];
    config["middleware_configs"] = json!(list);
    let shown = format!("{:?}", files.load(&config).unwrap());
    list.reverse();
    config["middleware_configs"] = json!(list);
    assert_eq!(format!("{:?}", files.load(&config).unwrap()), shown);
}

#[test]
fn remote_auth_config_is_read_in_both_spellings() {
    let files = Files::new();
    let load = |value: Value| {
        let mut config = super::minimal();
        config["remote_auth_config"] = value;
        files.load(&config)
    };
    let bearer = format!("{:?}", load(json!({"bearer_token": "KEY1,target=bearer_token"})).unwrap());
    assert!(bearer.contains("authorization"), "{bearer}");
    assert!(!bearer.contains("s3cret"));
    assert_eq!(format!("{:?}", load(json!({"BearerToken": "KEY1,target=bearer_token"})).unwrap()), bearer);
    for name in ["bearer_token_file", "BearerTokenFile"] {
        let config = load(json!({name: "DIR/token"})).unwrap();
        assert_eq!(config.add_headers[0].value, "Bearer a-token");
        assert!(config.files.iter().any(|file| file.ends_with("token")), "it is watched");
    }
    // Keys of a login count for nothing beside a token, and are no token.
    let login = json!({
        "client_id": "x", "client_secret": "x,target=y", "client_secret_file": "/x", "scopes": ["x"],
        "skip_browser": true, "timeout": 300, "callback_port": 8666, "use_pkce": false, "resource": "https://r.example",
        "issuer": "https://i.example", "authorize_url": "https://i.example/a", "token_url": "https://i.example/t",
        "headers": null, "env_vars": null, "oauth_params": {"a": "b"}, "scope_param_name": "user_scope",
        "cached_refresh_token_ref": "x", "cached_token_expiry": "0001-01-01T00:00:00Z", "cached_client_id": "x",
        "cached_client_secret_ref": "x", "cached_secret_expiry": "0001-01-01T00:00:00Z", "cached_reg_token_ref": "x",
        "cached_cimd_client_id": "x", "cached_reg_client_uri": "x", "cached_token_auth_method": "none",
        "cached_dcr_callback_port": 1, "ClientID": "x", "ClientSecret": "x", "ClientSecretFile": "x", "Scopes": null,
        "SkipBrowser": true, "Timeout": 1, "CallbackPort": 1, "UsePKCE": true, "Issuer": "x", "AuthorizeURL": "x",
        "TokenURL": "x", "Headers": null, "EnvVars": null, "OAuthParams": {},
    });
    for (name, value) in login.as_object().unwrap() {
        let with = load(json!({"bearer_token": "KEY1,target=bearer_token", name: value}));
        assert_eq!(format!("{:?}", with.unwrap_or_else(|error| panic!("{name}: {error}"))), bearer, "{name}");
        let without = load(json!({name: value})).expect_err(name);
        assert!(without.contains("remote_auth_config without bearer_token"), "{name}: {without}");
    }
    for (value, expected) in [
        (json!({"bearer_token": "s3cret-itself"}), "a token has no place in this file"),
        (json!({"bearer_token": "NONE,target=bearer_token"}), "TOOLHIVE_SECRET_NONE"),
        (json!({"bearer_token": 7}), "it must be text"),
        (json!({"bearer_token": ""}), "without bearer_token"),
        (json!({"bearer_token": "KEY1,target=bearer_token", "bearer_token_file": "DIR/token"}), "contradict"),
        (
            json!({"bearer_token": "KEY1,target=bearer_token", "BearerToken": "KEY2,target=bearer_token"}),
            "both spellings",
        ),
        (json!({"bearer_token_file": "DIR/none"}), "DIR/none"),
        (json!({"Bearer": "x"}), "\"Bearer\" is not known"),
        (json!("KEY1,target=bearer_token"), "it must be an object"),
    ] {
        let expected = expected.replace("DIR", files.0.path().to_str().unwrap());
        let error = load(value.clone()).expect_err(&expected);
        assert!(error.contains(&expected), "{value}: {error}");
    }
}

//! The shape of runconfig.json, as another reader of the format expects it.

use serde_json::{Value, json};
use skep_api::runconfig::{AuthMode, ClientToken, RunConfig};
use skep_operator::plan::Planned;

use crate::manifests::{files, good, plan};

fn config(planned: Planned) -> RunConfig {
    planned.plan.unwrap().workload.unwrap().run_config
}

fn json_of(name: &str) -> Value {
    serde_json::from_str(&config(good(name)).to_json()).unwrap()
}

fn proxy(spec: &str) -> RunConfig {
    let text = format!(
        "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {{name: p}}\nspec:\n{spec}"
    );
    config(plan(&text).pop().unwrap().1)
}

#[test]
fn what_is_written_reads_back_the_same() {
    for file in files("good") {
        for (_, planned) in plan(&std::fs::read_to_string(&file).unwrap()) {
            let Some(workload) = planned.plan.unwrap().workload else { continue };
            let back: RunConfig = serde_json::from_str(&workload.run_config.to_json()).unwrap();
            assert_eq!(back, workload.run_config, "{}", file.display());
        }
    }
}

#[test]
fn the_oidc_block_has_go_field_names() {
    let keys: Vec<String> =
        json_of("remote-new-spellings")["oidc_config"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        keys,
        [
            "Issuer",
            "Audience",
            "JWKSURL",
            "ClientID",
            "ClientSecret",
            "CACertPath",
            "AuthTokenFile",
            "AllowPrivateIP",
            "InsecureAllowHTTP",
            "IntrospectionURL",
            "ResourceURL",
            "Scopes"
        ]
    );
}

#[test]
fn audit_is_on_by_being_there() {
    assert_eq!(
        json_of("remote-tools")["audit_config"],
        json!({"detectApplicationErrors": true, "maxDataSize": 1024})
    );
    assert!(json_of("remote-anonymous").get("audit_config").is_none());
}

#[test]
fn stages_are_listed_in_their_order() {
    let kinds = |name: &str| -> Vec<String> {
        json_of(name)["middleware_configs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|stage| stage["type"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(kinds("remote-anonymous"), ["bodylimit", "auth", "mcp-parser", "recovery"]);
    assert_eq!(
        kinds("remote-tools"),
        ["bodylimit", "audit", "auth", "tool-filter", "tool-call-filter", "mcp-parser", "recovery"]
    );
    assert_eq!(
        kinds("remote-policies-inline"),
        ["bodylimit", "auth", "mcp-parser", "authorization", "recovery"]
    );
    assert_eq!(
        kinds("remote-token-exchange-snake-case"),
        ["bodylimit", "auth", "tokenexchange", "mcp-parser", "recovery"]
    );
}

#[test]
fn old_spellings_of_a_token_exchange_become_the_one_of_the_format() {
    assert_eq!(
        json_of("remote-token-exchange-snake-case")["token_exchange_config"],
        json!({
            "token_url": "https://login.example.com/token", "client_id": "gate", "client_secret": "", "audience": "backend",
            "scopes": ["read", "write"], "subject_token_type": "", "header_strategy": "custom",
            "external_token_header_name": "X-Upstream-Token",
        })
    );
}

#[test]
fn the_callers_token_goes_on_only_when_it_is_for_the_remote_server_or_when_that_is_said() {
    let audience = |audience: &str, more: &str| {
        proxy(&format!(
            "  remoteUrl: https://mcp.example.com/api\n  oidcConfig:\n    type: inline\n    inline: {{issuer: 'https://i.example.com', audience: '{audience}'}}\n{more}"
        ))
        .skep
        .client_token
    };
    assert_eq!(audience("https://mcp.example.com", ""), ClientToken::Forward);
    assert_eq!(audience("mcp.example.com", ""), ClientToken::Forward);
    assert_eq!(audience("https://mcp.example.com", "  clientToken: strip\n"), ClientToken::Strip);
    assert_eq!(audience("company", ""), ClientToken::Strip);
    assert_eq!(audience("company", "  clientToken: forward\n"), ClientToken::Forward);
    assert_eq!(
        audience("mcp.example.com", "  headerForward: {addPlaintextHeaders: {authorization: Basic x}}\n"),
        ClientToken::Strip
    );
}

#[test]
fn anonymous_has_to_be_said_and_is_passed_on() {
    assert_eq!(config(good("remote-anonymous")).skep.auth_mode, AuthMode::Anonymous);
    assert_eq!(config(good("remote-new-spellings")).skep.auth_mode, AuthMode::Token);
}

#[test]
fn the_audience_of_an_old_block_falls_back_to_the_resource_url() {
    let config = config(good("remote-audience-from-resource-url"));
    assert_eq!(config.oidc_config.unwrap().audience, "https://gate.example.com/mcp");
}

#[test]
fn tokens_of_the_cluster_are_judged_with_the_pods_own_credentials() {
    let oidc = config(good("remote-oidc-kubernetes-by-default")).oidc_config.unwrap();
    assert_eq!(
        (oidc.issuer.as_str(), oidc.audience.as_str()),
        ("https://kubernetes.default.svc", "toolhive")
    );
    assert_eq!(oidc.ca_cert_path, "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt");
    assert_eq!(oidc.auth_token_file, "/var/run/secrets/kubernetes.io/serviceaccount/token");
    assert!(oidc.allow_private_ip);
}

#[test]
fn the_pods_own_token_is_never_sent_to_another_issuer() {
    let config = proxy(
        "  remoteUrl: https://mcp.example.com/api\n  clientToken: strip\n  oidcConfig:\n    type: kubernetes\n    kubernetes: {issuer: 'https://oidc.elsewhere.example', audience: a}\n",
    );
    assert_eq!(config.oidc_config.unwrap().auth_token_file, "");
}

#[test]
fn ports_of_2025_become_those_of_today() {
    let config = config(good("server-ports-of-2025"));
    assert_eq!((config.port, config.target_port), (9090, 3000));
    assert_eq!(config.env_vars["MCP_PORT"], "3000");
    assert_eq!(config.env_vars["MCP_TRANSPORT"], "streamable-http");
}

#[test]
fn an_mcp_server_has_the_keys_that_are_always_there() {
    let value = json_of("server-without-auth");
    for key in [
        "schema_version",
        "image",
        "name",
        "container_name",
        "base_name",
        "transport",
        "host",
        "port",
        "proxy_mode",
        "permission_profile",
        "container_labels",
        "middleware_configs",
    ] {
        assert!(value.get(key).is_some(), "{key}");
    }
    assert_eq!(value["permission_profile_name_or_path"], "network");
    assert_eq!(value["proxy_mode"], "streamable-http");
}

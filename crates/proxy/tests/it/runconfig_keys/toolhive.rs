//! The keys that ToolHive has.

use serde_json::json;

use super::{Row, inert, refused, shows};

const NOT_OURS: &str = "of the MCP server, which this process does not start";
const NAMES: &str = "says where the server was found; it is found already";
const NO_EXPORT: &str = "says how to export, and where to (endpoint) is refused";

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = workload();
    rows.extend(oidc());
    rows.extend(outgoing());
    rows.extend(policies_and_tools());
    rows.extend(audit_and_telemetry());
    rows
}

fn workload() -> Vec<Row> {
    let local = json!({"remote_url": null, "target_port": 9000});
    vec![
        refused("schema_version", json!({"schema_version": "v9"}), "schema_version"),
        inert("mcpserver_generation", json!({"mcpserver_generation": 7}), NOT_OURS),
        inert("image", json!({"image": "ghcr.io/example/mcp"}), NOT_OURS),
        shows("remote_url", json!({"remote_url": "https://other.example/x"}), "other.example"),
        refused("remote_url", json!({"remote_url": "file:///etc/passwd"}), "remote_url"),
        inert("registry_api_url", json!({"registry_api_url": "https://registry.example"}), NAMES),
        inert("registry_url", json!({"registry_url": "https://registry.example"}), NAMES),
        inert("registry_server_name", json!({"registry_server_name": "x"}), NAMES),
        inert("cmd_args[]", json!({"cmd_args": ["--x"]}), NOT_OURS),
        shows("name", json!({"name": "another"}), "\"another\""),
        inert("container_name", json!({"container_name": "x"}), NOT_OURS),
        inert("base_name", json!({"base_name": "x"}), NOT_OURS),
        refused("transport", json!({"transport": "sse"}), "transport: sse"),
        refused("transport", json!({"transport": "stdio"}), "transport: stdio"),
        shows("host", json!({"host": "127.0.0.1"}), "127.0.0.1:8080"),
        refused("host", json!({"host": "proxy.example"}), "host"),
        shows("port", json!({"port": 9999}), "0.0.0.0:9999"),
        shows("target_port", json!({"target_port": 9001}), "9001").within(&local),
        inert("target_port", json!({"target_port": 9001}), "a remote server has its port in its URL"),
        shows("target_host", json!({"target_host": "10.1.2.3"}), "10.1.2.3").within(&local),
        inert("target_host", json!({"target_host": "10.1.2.3"}), "a remote server has its host in its URL"),
        shows(
            "allowed_origins[]",
            json!({"allowed_origins": ["https://app.example"]}),
            "https://app.example",
        ),
        inert("publish[]", json!({"publish": ["8080:80"]}), NOT_OURS),
        inert(
            "permission_profile_name_or_path",
            json!({"permission_profile_name_or_path": "network"}),
            NOT_OURS,
        ),
        inert("permission_profile", json!({"permission_profile": {"name": "network"}}), NOT_OURS),
        inert("env_vars.*", json!({"env_vars": {"A": "b"}}), NOT_OURS),
        inert("env_file_dir", json!({"env_file_dir": "/vault/secrets"}), NOT_OURS),
        inert("debug", json!({"debug": true}), "the flag and TOOLHIVE_DEBUG decide, in ToolHive too"),
        inert("volumes[]", json!({"volumes": ["/a:/b:ro"]}), NOT_OURS),
        inert("container_labels.*", json!({"container_labels": {"toolhive": "true"}}), NOT_OURS),
        inert("secrets[]", json!({"secrets": ["a,target=B"]}), NOT_OURS),
        inert("k8s_pod_template_patch", json!({"k8s_pod_template_patch": "{}"}), NOT_OURS),
        refused("isolate_network", json!({"isolate_network": true}), "isolate_network"),
        inert("allow_docker_gateway", json!({"allow_docker_gateway": true}), NOT_OURS),
        shows("trust_proxy_headers", json!({"trust_proxy_headers": true}), "trust_proxy_headers: true"),
        shows("strict_protocol_validation", json!({"strict_protocol_validation": true}), "validation: true"),
        shows("stateless", json!({"stateless": true}), "stateless: true"),
        refused("session_ttl", json!({"session_ttl": "2h"}), "session_ttl"),
        inert(
            "proxy_mode",
            json!({"proxy_mode": "streamable-http"}),
            "what a server speaks HTTP with is its transport",
        ),
        inert(
            "proxy_mode",
            json!({"proxy_mode": "sse"}),
            "the same: ToolHive puts the transport in its place",
        ),
        refused("proxy_mode", json!({"proxy_mode": "carrier-pigeon"}), "proxy_mode"),
        inert("group", json!({"group": "team"}), "a label"),
        inert("ignore_config", json!({"ignore_config": true}), NOT_OURS),
        shows("endpoint_prefix", json!({"endpoint_prefix": "/team"}), "/team"),
        inert("runtime_config", json!({"runtime_config": {}}), NOT_OURS),
        inert(
            "scaling_config.backend_replicas",
            json!({"scaling_config": {"backend_replicas": 2}}),
            NOT_OURS,
        ),
        refused(
            "scaling_config.session_redis",
            json!({"scaling_config": {"session_redis": {}}}),
            "session_redis",
        ),
        refused("rate_limit_config", json!({"rate_limit_config": {"shared": {}}}), "rate_limit_config"),
        inert(
            "rate_limit_namespace",
            json!({"rate_limit_namespace": "default"}),
            "goes with rate_limit_config",
        ),
        refused("validating_webhooks[]", json!({"validating_webhooks": [{}]}), "validating_webhooks"),
        refused("mutating_webhooks[]", json!({"mutating_webhooks": [{}]}), "mutating_webhooks"),
        refused(
            "embedded_auth_server_config",
            json!({"embedded_auth_server_config": {"issuer": "https://as.example"}}),
            "embedded_auth_server_config",
        ),
    ]
}

fn oidc() -> Vec<Row> {
    let introspected = json!({"oidc_config": {"IntrospectionURL": "https://idp.example/introspect"}});
    let oidc = |name: &str, value: serde_json::Value| json!({"oidc_config": {name: value}});
    vec![
        shows("oidc_config.Issuer", oidc("Issuer", json!("https://other.example")), "other.example"),
        refused("oidc_config.Issuer", oidc("Issuer", json!("")), "oidc_config.Issuer"),
        shows("oidc_config.Audience", oidc("Audience", json!("another")), "another"),
        refused("oidc_config.Audience", oidc("Audience", json!("")), "oidc_config.Audience"),
        shows("oidc_config.JWKSURL", oidc("JWKSURL", json!("https://keys.example/k")), "keys.example"),
        shows("oidc_config.ClientID", oidc("ClientID", json!("me")), "\"me\"").within(&introspected),
        refused(
            "oidc_config.ClientSecret",
            oidc("ClientSecret", json!("s3cret")),
            "TOOLHIVE_OIDC_CLIENT_SECRET",
        ),
        shows("oidc_config.CACertPath", oidc("CACertPath", json!("DIR/ca.pem")), "/ca.pem"),
        shows("oidc_config.AuthTokenFile", oidc("AuthTokenFile", json!("DIR/token")), "/token"),
        inert(
            "oidc_config.AllowPrivateIP",
            oidc("AllowPrivateIP", json!(true)),
            "what a manifest names may always lie inside the network",
        ),
        shows("oidc_config.InsecureAllowHTTP", oidc("InsecureAllowHTTP", json!(true)), "http: true"),
        shows(
            "oidc_config.IntrospectionURL",
            oidc("IntrospectionURL", json!("https://idp.example/introspect")),
            "/introspect",
        ),
        shows(
            "oidc_config.ResourceURL",
            oidc("ResourceURL", json!("https://r.example")),
            "https://r.example",
        ),
        shows("oidc_config.Scopes[]", oidc("Scopes", json!(["mcp:use"])), "mcp:use"),
        shows("thv_ca_bundle", json!({"thv_ca_bundle": "DIR/ca.pem"}), "/ca.pem"),
        shows("jwks_auth_token_file", json!({"jwks_auth_token_file": "DIR/token"}), "/token"),
    ]
}

fn outgoing() -> Vec<Row> {
    let exchange =
        json!({"token_exchange_config": {"token_url": "https://idp.example/token", "client_id": "skep"}});
    let exchanged = |name: &str, value: serde_json::Value| json!({"token_exchange_config": {name: value}});
    let role = "arn:aws:iam::123456789012:role/mcp";
    let aws = json!({"aws_sts_config": {"region": "eu-central-1", "fallback_role_arn": role}});
    let set = |name: &str, value: serde_json::Value| json!({"aws_sts_config": {name: value}});
    let admin = "arn:aws:iam::123456789012:role/admin";
    let mapping = |mapping: serde_json::Value| json!({"aws_sts_config": {"role_mappings": [mapping]}});
    let mapped = json!({"aws_sts_config": {"region": "eu-central-1", "role_mappings": [{"claim": "a", "role_arn": role}]}});
    let custom = json!({"token_exchange_config": {
        "token_url": "https://idp.example/token", "header_strategy": "custom", "external_token_header_name": "X-Token",
    }});
    vec![
        shows("token_exchange_config.token_url", exchanged("token_url", json!("https://i.example/t")), "i.example"),
        refused("token_exchange_config.token_url", exchanged("token_url", json!("ftp://x/")), "token_url"),
        shows("token_exchange_config.client_id", exchanged("client_id", json!("other")), "\"other\"").within(&exchange),
        refused("token_exchange_config.client_secret", exchanged("client_secret", json!("s3cret")), "TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET")
            .within(&exchange),
        shows("token_exchange_config.audience", exchanged("audience", json!("backend")), "\"backend\"").within(&exchange),
        shows("token_exchange_config.scopes[]", exchanged("scopes", json!(["mail.read"])), "mail.read").within(&exchange),
        shows("token_exchange_config.subject_token_type", exchanged("subject_token_type", json!("id_token")), "IdToken")
            .within(&exchange),
        refused("token_exchange_config.subject_token_type", exchanged("subject_token_type", json!("saml2")), "subject_token_type")
            .within(&exchange),
        inert(
            "token_exchange_config.header_strategy",
            exchanged("header_strategy", json!("replace")),
            "it is what happens without it",
        )
        .within(&exchange),
        refused("token_exchange_config.header_strategy", exchanged("header_strategy", json!("both")), "header_strategy")
            .within(&exchange),
        refused("token_exchange_config.header_strategy", exchanged("header_strategy", json!("custom")), "external_token_header_name")
            .within(&exchange),
        shows(
            "token_exchange_config.external_token_header_name",
            exchanged("external_token_header_name", json!("X-Other")),
            "x-other",
        )
        .within(&custom),
        refused("upstream_swap_config", json!({"upstream_swap_config": {}}), "upstream_swap_config"),
        shows("aws_sts_config.region", set("region", json!("us-east-1")), "sts.us-east-1.amazonaws.com").within(&aws),
        refused("aws_sts_config.region", set("region", json!("here")), "aws_sts_config.region").within(&aws),
        shows("aws_sts_config.service", set("service", json!("execute-api")), "execute-api").within(&aws),
        shows("aws_sts_config.fallback_role_arn", set("fallback_role_arn", json!(admin)), "role/admin").within(&aws),
        shows("aws_sts_config.role_mappings[].claim", mapping(json!({"claim": "ops", "role_arn": admin})), "\"ops\"")
            .within(&aws),
        shows(
            "aws_sts_config.role_mappings[].matcher",
            mapping(json!({"matcher": "claims.sub == 'x'", "role_arn": admin})),
            "claims.sub == 'x'",
        )
        .within(&aws),
        refused(
            "aws_sts_config.role_mappings[].matcher",
            mapping(json!({"matcher": "claims.sub =", "role_arn": admin})),
            "role_mappings[0].matcher",
        )
        .within(&aws),
        shows("aws_sts_config.role_mappings[].role_arn", mapping(json!({"claim": "a", "role_arn": admin})), "role/admin")
            .within(&mapped),
        shows(
            "aws_sts_config.role_mappings[].priority",
            json!({"aws_sts_config": {"role_mappings": [
                {"claim": "a", "role_arn": role}, {"claim": "b", "role_arn": admin, "priority": 1},
            ]}}),
            "Holds(\"b\"), role: RoleArn(\"arn:aws:iam::123456789012:role/admin\") }, Mapping { when: Holds(\"a\")",
        )
        .within(&mapped),
        shows("aws_sts_config.role_claim", set("role_claim", json!("teams")), "\"teams\"").within(&mapped),
        shows("aws_sts_config.session_duration", set("session_duration", json!(900)), "900s").within(&aws),
        refused("aws_sts_config.session_duration", set("session_duration", json!(60)), "session_duration").within(&aws),
        shows("aws_sts_config.session_name_claim", set("session_name_claim", json!("email")), "\"email\"").within(&aws),
        refused("aws_sts_config.subject_provider_name", set("subject_provider_name", json!("okta")), "subject_provider_name")
            .within(&aws),
        shows(
            "header_forward.add_plaintext_headers.*",
            json!({"header_forward": {"add_plaintext_headers": {"X-Team": "blue"}}}),
            "x-team",
        ),
        refused(
            "header_forward.add_plaintext_headers.*",
            json!({"header_forward": {"add_plaintext_headers": {"Transfer-Encoding": "x"}}}),
            "restricted",
        ),
        shows(
            "header_forward.add_headers_from_secret.*",
            json!({"header_forward": {"add_headers_from_secret": {"X-Key": "KEY1"}}}),
            "x-key",
        ),
        refused(
            "header_forward.add_headers_from_secret.*",
            json!({"header_forward": {"add_headers_from_secret": {"X-Key": "NONE"}}}),
            "TOOLHIVE_SECRET_NONE",
        ),
        refused("remote_auth_config", json!({"remote_auth_config": {}}), "bearer_token"),
    ]
}

fn policies_and_tools() -> Vec<Row> {
    let policy = "permit(principal, action, resource);";
    let authz =
        json!({"authz_config": {"version": "1.0", "type": "cedarv1", "cedar": {"policies": [policy]}}});
    let cedar = |name: &str, value: serde_json::Value| json!({"authz_config": {"cedar": {name: value}}});
    let tool = |name: &str, value: serde_json::Value| json!({"tools_override": {"add": {name: value}}});
    let hint = |name: &str| json!({"tools_override": {"add": {"name": "sum", "annotations": {name: true}}}});
    let renamed = tool("name", json!("sum"));
    vec![
        refused("authz_config.version", json!({"authz_config": {"version": "2.0"}}), "version")
            .within(&authz),
        refused("authz_config.type", json!({"authz_config": {"type": "httpv1"}}), "httpv1").within(&authz),
        refused("authz_config.type", json!({"authz_config": {"type": "rego"}}), "rego").within(&authz),
        refused("authz_config.pdp", json!({"authz_config": {"pdp": {}}}), "pdp").within(&authz),
        shows(
            "authz_config.cedar.policies[]",
            cedar("policies", json!(["forbid(principal, action, resource);"])),
            "forbid",
        )
        .within(&authz),
        shows("authz_config.cedar.entities_json", cedar("entities_json", json!("[]")), "\"[]\"")
            .within(&authz),
        refused(
            "authz_config.cedar.primary_upstream_provider",
            cedar("primary_upstream_provider", json!("okta")),
            "primary_upstream_provider",
        )
        .within(&authz),
        shows("authz_config.cedar.group_claim_name", cedar("group_claim_name", json!("teams")), "teams")
            .within(&authz),
        shows("authz_config.cedar.role_claim_name", cedar("role_claim_name", json!("duties")), "duties")
            .within(&authz),
        shows("authz_config.cedar.group_entity_type", cedar("group_entity_type", json!("Team")), "Team")
            .within(&authz),
        shows(
            "authz_config.cedar.multi_valued_claims[]",
            cedar("multi_valued_claims", json!(["teams"])),
            "teams",
        )
        .within(&authz),
        shows("authz_config_path", json!({"authz_config_path": "DIR/authz.json"}), "permit("),
        refused("authz_config_path", json!({"authz_config_path": "DIR/none.json"}), "authz_config_path"),
        shows("tools_filter[]", json!({"tools_filter": ["add"]}), "\"add\""),
        shows("tools_override.*.name", renamed.clone(), "\"sum\""),
        shows("tools_override.*.description", tool("description", json!("adds")), "\"adds\""),
        shows(
            "tools_override.*.annotations.title",
            json!({"tools_override": {"add": {"annotations": {"title": "A"}}}}),
            "\"A\"",
        )
        .within(&renamed),
        shows(
            "tools_override.*.annotations.readOnlyHint",
            hint("readOnlyHint"),
            "read_only_hint: Some(true)",
        )
        .within(&renamed),
        shows(
            "tools_override.*.annotations.destructiveHint",
            hint("destructiveHint"),
            "destructive_hint: Some(true)",
        )
        .within(&renamed),
        shows(
            "tools_override.*.annotations.idempotentHint",
            hint("idempotentHint"),
            "idempotent_hint: Some(true)",
        )
        .within(&renamed),
        shows(
            "tools_override.*.annotations.openWorldHint",
            hint("openWorldHint"),
            "open_world_hint: Some(true)",
        )
        .within(&renamed),
        refused(
            "middleware_configs[].type",
            json!({"middleware_configs": [{"type": "magic"}]}),
            "middleware type: magic",
        ),
        refused(
            "middleware_configs[].parameters",
            json!({"middleware_configs": [{"type": "auth", "parameters": {"x": 1}}]}),
            "parameters of auth",
        ),
        refused(
            "additional_middleware_configs[].type",
            json!({"additional_middleware_configs": [{"type": "obo"}]}),
            "middleware obo",
        ),
        shows(
            "additional_middleware_configs[].parameters",
            json!({"additional_middleware_configs": [{"type": "bodylimit", "parameters": {"max_bytes": 77}}]}),
            "body_bytes: 77",
        ),
    ]
}

fn audit_and_telemetry() -> Vec<Row> {
    let on = json!({"audit_config": {}});
    let audit = |name: &str, value: serde_json::Value| json!({"audit_config": {name: value}});
    let metrics =
        json!({"telemetry_config": {"enablePrometheusMetricsPath": true, "metricsOnTransportPort": false}});
    let telemetry = |name: &str, value: serde_json::Value| json!({"telemetry_config": {name: value}});
    vec![
        shows("audit_config.enabled", audit("enabled", json!(false)), "audit: None").within(&on),
        shows("audit_config.component", audit("component", json!("front")), "\"front\"").within(&on),
        shows("audit_config.eventTypes[]", audit("eventTypes", json!(["mcp_tool_call"])), "mcp_tool_call")
            .within(&on),
        refused("audit_config.eventTypes[]", audit("eventTypes", json!(["mcp_tool_cal"])), "mcp_tool_cal")
            .within(&on),
        shows(
            "audit_config.excludeEventTypes[]",
            audit("excludeEventTypes", json!(["mcp_ping"])),
            "mcp_ping",
        )
        .within(&on),
        refused("audit_config.excludeEventTypes[]", audit("excludeEventTypes", json!(["pings"])), "pings")
            .within(&on),
        shows(
            "audit_config.includeRequestData",
            audit("includeRequestData", json!(true)),
            "request_data: true",
        )
        .within(&on),
        shows(
            "audit_config.includeResponseData",
            audit("includeResponseData", json!(true)),
            "response_data: true",
        )
        .within(&on),
        shows(
            "audit_config.detectApplicationErrors",
            audit("detectApplicationErrors", json!(false)),
            "errors: false",
        )
        .within(&on),
        shows("audit_config.maxDataSize", audit("maxDataSize", json!(99)), "99").within(&on),
        // What it does to records is in `audit::who_acts_for_the_caller_is_written_down_up_to_a_depth`.
        shows("audit_config.maxDelegationDepth", audit("maxDelegationDepth", json!(3)), "Some(3)")
            .within(&on),
        shows("audit_config.logFile", audit("logFile", json!("/var/log/audit.log")), "/var/log/audit.log")
            .within(&on),
        shows("audit_config_path", json!({"audit_config_path": "DIR/audit.json"}), "from-a-file"),
        refused(
            "telemetry_config.endpoint",
            telemetry("endpoint", json!("otel:4318")),
            "telemetry_config.endpoint",
        ),
        inert("telemetry_config.serviceName", telemetry("serviceName", json!("x")), NO_EXPORT),
        inert("telemetry_config.serviceVersion", telemetry("serviceVersion", json!("1")), NO_EXPORT),
        inert("telemetry_config.tracingEnabled", telemetry("tracingEnabled", json!(true)), NO_EXPORT),
        inert("telemetry_config.metricsEnabled", telemetry("metricsEnabled", json!(true)), NO_EXPORT),
        inert("telemetry_config.samplingRate", telemetry("samplingRate", json!("0.05")), NO_EXPORT),
        inert("telemetry_config.headers.*", telemetry("headers", json!({"a": "b"})), NO_EXPORT),
        inert("telemetry_config.insecure", telemetry("insecure", json!(true)), NO_EXPORT),
        inert(
            "telemetry_config.environmentVariables[]",
            telemetry("environmentVariables", json!(["A"])),
            NO_EXPORT,
        ),
        inert(
            "telemetry_config.customAttributes.*",
            telemetry("customAttributes", json!({"a": "b"})),
            NO_EXPORT,
        ),
        inert(
            "telemetry_config.useLegacyAttributes",
            telemetry("useLegacyAttributes", json!(false)),
            NO_EXPORT,
        ),
        inert("telemetry_config.caCertPath", telemetry("caCertPath", json!("/ca.pem")), NO_EXPORT),
        shows(
            "telemetry_config.enablePrometheusMetricsPath",
            telemetry("enablePrometheusMetricsPath", json!(true)),
            "port: true",
        )
        .within(&telemetry("metricsOnTransportPort", json!(true))),
        shows(
            "telemetry_config.metricsOnTransportPort",
            telemetry("metricsOnTransportPort", json!(true)),
            "port: true",
        )
        .within(&metrics),
        shows(
            "telemetry_config.prometheusPort",
            telemetry("prometheusPort", json!(9999)),
            "metrics_port: 9999",
        ),
    ]
}

//! The keys under `skep`.

use serde_json::{Value, json};

use super::{Row, inert, refused, shows};

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = entrance();
    rows.extend(issuers());
    rows.extend(outgoing());
    rows.extend(limits());
    rows
}

fn entrance() -> Vec<Row> {
    let policies = json!({"authz_config": {"version": "1.0", "type": "cedarv1", "cedar": {"policies": []}}});
    let local = json!({"remote_url": null, "target_port": 9000});
    let exchange =
        json!({"token_exchange_config": {"token_url": "https://idp.example/token", "client_id": "skep"}});
    vec![
        shows(
            "skep.auth_mode",
            json!({"oidc_config": null, "skep": {"auth_mode": "anonymous"}}),
            "Anonymous",
        ),
        shows("skep.client_token", json!({"skep": {"client_token": "forward"}}), "forward_token: true"),
        refused("skep.client_token", json!({"skep": {"client_token": "forward"}}), "contradict")
            .within(&exchange),
        shows(
            "skep.suspended",
            json!({"skep": {"suspended": "the config it refers to is gone"}}),
            "config it refers to is gone",
        ),
        shows("skep.allowed_hosts[]", json!({"skep": {"allowed_hosts": ["tools.example"]}}), "tools.example"),
        shows(
            "skep.allow_private_endpoint",
            json!({"skep": {"allow_private_endpoint": true}}),
            "private: true",
        ),
        inert(
            "skep.allow_private_endpoint",
            json!({"skep": {"allow_private_endpoint": true}}),
            "a local server is always private",
        )
        .within(&local),
        shows("skep.cedar_decimals", json!({"skep": {"cedar_decimals": true}}), "Decimals").within(&policies),
        shows(
            "skep.secret_files.*",
            json!({"skep": {"secret_files": {"TOOLHIVE_SECRET_KEY1": "DIR/token"}}}),
            "/token",
        )
        .within(&json!({"header_forward": {"add_headers_from_secret": {"X-Key": "KEY1"}}})),
    ]
}

/// Rules for an issuer's tokens, for the first issuer and for a further one.
fn issuers() -> Vec<Row> {
    let mut rows = Vec::new();
    let further = |config: &Value, rules: &Value| {
        let mut oidc = json!({"Issuer": "https://second.example", "Audience": "second"});
        super::merge(&mut oidc, config);
        json!({"skep": {"further_issuers": [{"subject_prefix": "2:", "oidc_config": oidc, "rules": rules}]}})
    };
    let none = further(&json!({}), &json!({}));
    let introspected = json!({"IntrospectionURL": "https://second.example/introspect"});
    let pin = "0000000000000000000000000000000000000000000000000000000000000001";
    let tenants = json!({"Issuer": "https://login.example/{tenantid}/v2.0"});
    for (names, change, within, text) in [
        (
            ["skep.issuer.audiences[]", "skep.further_issuers[].rules.audiences[]"],
            json!({"audiences": ["more"]}),
            json!({}),
            "\"more\"",
        ),
        (
            ["skep.issuer.allowed_algorithms[]", "skep.further_issuers[].rules.allowed_algorithms[]"],
            json!({"allowed_algorithms": ["ES256"]}),
            json!({}),
            "[ES256]",
        ),
        (
            ["skep.issuer.clock_skew_seconds", "skep.further_issuers[].rules.clock_skew_seconds"],
            json!({"clock_skew_seconds": 7}),
            json!({}),
            "7s",
        ),
        (
            ["skep.issuer.discovery_url", "skep.further_issuers[].rules.discovery_url"],
            json!({"discovery_url": "https://login.example/.well-known/openid-configuration"}),
            json!({}),
            "login.example",
        ),
        (
            ["skep.issuer.tenants[]", "skep.further_issuers[].rules.tenants[]"],
            json!({"tenants": ["t-1", "t-2"]}),
            tenants,
            "t-2",
        ),
        (
            ["skep.issuer.accept_id_token", "skep.further_issuers[].rules.accept_id_token"],
            json!({"accept_id_token": true}),
            json!({}),
            "id_token",
        ),
        (
            ["skep.issuer.profile", "skep.further_issuers[].rules.profile"],
            json!({"profile": "rfc9068"}),
            json!({}),
            "",
        ),
        (
            ["skep.issuer.authorized_parties[]", "skep.further_issuers[].rules.authorized_parties[]"],
            json!({"authorized_parties": ["cli"]}),
            json!({}),
            "\"cli\"",
        ),
        (
            ["skep.issuer.scope_map.*", "skep.further_issuers[].rules.scope_map.*"],
            json!({"scope_map": {"api://a/x": "x"}}),
            json!({}),
            "api://a/x",
        ),
        (
            ["skep.issuer.required_scopes[]", "skep.further_issuers[].rules.required_scopes[]"],
            json!({"required_scopes": ["mcp:use"]}),
            json!({}),
            "mcp:use",
        ),
        (
            ["skep.issuer.claim_mappings.subject", "skep.further_issuers[].rules.claim_mappings.subject"],
            json!({"claim_mappings": {"subject": "oid"}}),
            json!({}),
            "oid",
        ),
        (
            ["skep.issuer.claim_mappings.email", "skep.further_issuers[].rules.claim_mappings.email"],
            json!({"claim_mappings": {"email": "upn"}}),
            json!({}),
            "upn",
        ),
        (
            ["skep.issuer.claim_mappings.name", "skep.further_issuers[].rules.claim_mappings.name"],
            json!({"claim_mappings": {"name": "cn"}}),
            json!({}),
            "cn",
        ),
        (
            ["skep.issuer.claim_mappings.groups", "skep.further_issuers[].rules.claim_mappings.groups"],
            json!({"claim_mappings": {"groups": "a.b"}}),
            json!({}),
            "a.b",
        ),
        (
            ["skep.issuer.claim_mappings.roles", "skep.further_issuers[].rules.claim_mappings.roles"],
            json!({"claim_mappings": {"roles": "c.d"}}),
            json!({}),
            "c.d",
        ),
        (
            ["skep.issuer.jwks_pins[]", "skep.further_issuers[].rules.jwks_pins[]"],
            json!({"jwks_pins": [pin]}),
            json!({}),
            "0, 1]",
        ),
        (
            ["skep.issuer.jwks_cert_fingerprint", "skep.further_issuers[].rules.jwks_cert_fingerprint"],
            json!({"jwks_cert_fingerprint": pin}),
            json!({}),
            "0, 1]",
        ),
        (
            [
                "skep.issuer.introspection.cache_ttl_seconds",
                "skep.further_issuers[].rules.introspection.cache_ttl_seconds",
            ],
            json!({"introspection": {"cache_ttl_seconds": 11}}),
            introspected.clone(),
            "11s",
        ),
        (
            ["skep.issuer.plain_client_subjects", "skep.further_issuers[].rules.plain_client_subjects"],
            json!({"plain_client_subjects": true}),
            json!({}),
            "",
        ),
    ] {
        let tenants = within.get("Issuer").is_some();
        let before = if tenants { json!({"tenants": ["t-1"]}) } else { json!({}) };
        rows.push(
            shows(names[0], json!({"skep": {"issuer": change}}), text)
                .within(&json!({"oidc_config": within, "skep": {"issuer": before}})),
        );
        rows.push(shows(names[1], further(&within, &change), text).within(&further(&within, &before)));
    }
    let changed = |name: &str, value: Value| further(&json!({name: value}), &json!({}));
    for (key, name, value, text) in [
        (
            "skep.further_issuers[].oidc_config.Issuer",
            "Issuer",
            json!("https://third.example"),
            "third.example",
        ),
        ("skep.further_issuers[].oidc_config.Audience", "Audience", json!("another"), "\"another\""),
        (
            "skep.further_issuers[].oidc_config.JWKSURL",
            "JWKSURL",
            json!("https://keys.example/k"),
            "keys.example",
        ),
        ("skep.further_issuers[].oidc_config.CACertPath", "CACertPath", json!("DIR/ca.pem"), "/ca.pem"),
        ("skep.further_issuers[].oidc_config.AuthTokenFile", "AuthTokenFile", json!("DIR/token"), "/token"),
        (
            "skep.further_issuers[].oidc_config.InsecureAllowHTTP",
            "InsecureAllowHTTP",
            json!(true),
            "http: true",
        ),
        (
            "skep.further_issuers[].oidc_config.IntrospectionURL",
            "IntrospectionURL",
            json!("https://second.example/introspect"),
            "/introspect",
        ),
    ] {
        rows.push(shows(key, changed(name, value), text).within(&none));
    }
    let asked = further(&introspected, &json!({}));
    let mut with_client = introspected.clone();
    with_client["ClientID"] = json!("me");
    rows.extend([
        shows("skep.further_issuers[].oidc_config.ClientID", further(&with_client, &json!({})), "\"me\"").within(&asked),
        refused(
            "skep.further_issuers[].oidc_config.ClientSecret",
            changed("ClientSecret", json!("s3cret")),
            "TOOLHIVE_OIDC_CLIENT_SECRET",
        ),
        inert(
            "skep.further_issuers[].oidc_config.AllowPrivateIP",
            changed("AllowPrivateIP", json!(true)),
            "what a manifest names may always lie inside the network",
        )
        .within(&none),
        refused(
            "skep.further_issuers[].oidc_config.ResourceURL",
            changed("ResourceURL", json!("https://r.example")),
            "there is one resource",
        ),
        refused("skep.further_issuers[].oidc_config.Scopes[]", changed("Scopes", json!(["x"])), "first issuer"),
        shows(
            "skep.further_issuers[].subject_prefix",
            json!({"skep": {"further_issuers": [
                {"subject_prefix": "other:", "oidc_config": {"Issuer": "https://second.example", "Audience": "second"}},
            ]}}),
            "other:",
        )
        .within(&none),
        refused(
            "skep.further_issuers[].subject_prefix",
            json!({"skep": {"further_issuers": [{"subject_prefix": "", "oidc_config": {"Issuer": "https://s.example"}}]}}),
            "subject_prefix",
        ),
    ]);
    rows
}

fn outgoing() -> Vec<Row> {
    let exchange =
        json!({"token_exchange_config": {"token_url": "https://idp.example/token", "client_id": "skep"}});
    let secret = json!({
        "token_exchange_config": {"token_url": "https://idp.example/token", "client_id": "skep"},
        "skep": {"secret_files": {"TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET": "DIR/token"}},
    });
    let set = |name: &str, value: Value| json!({"skep": {"token_exchange": {name: value}}});
    let aws = json!({"aws_sts_config": {
        "region": "eu-central-1", "fallback_role_arn": "arn:aws:iam::123456789012:role/mcp",
    }});
    let tls = json!({
        "token_exchange_config": {"token_url": "https://idp.example/token", "client_id": "skep"},
        "skep": {"token_exchange": {
            "client_auth": "tls_client_auth",
            "client_certificate_file": "DIR/ca.pem", "client_certificate_key_file": "DIR/ca.pem",
        }},
    });
    let svid = json!({
        "token_exchange_config": {"token_url": "https://idp.example/token"},
        "skep": {"token_exchange": {"client_auth": "spiffe_jwt", "client_assertion_file": "DIR/ca.pem"}},
    });
    vec![
        shows(
            "skep.token_exchange.client_auth",
            set("client_auth", json!("client_secret_post")),
            "SecretPost",
        )
        .within(&secret),
        refused(
            "skep.token_exchange.client_auth",
            set("client_auth", json!("client_secret_post")),
            "client_auth",
        )
        .within(&exchange),
        refused(
            "skep.token_exchange.client_auth",
            set("client_auth", json!("client_secret_post")),
            "skep.token_exchange",
        ),
        shows(
            "skep.token_exchange.grant_type",
            set("grant_type", json!("client_credentials")),
            "ClientCredentials",
        )
        .within(&exchange),
        shows("skep.token_exchange.resource", set("resource", json!("https://r.example")), "r.example")
            .within(&exchange),
        refused("skep.token_exchange.resource", set("resource", json!("tools")), "resource")
            .within(&exchange),
        shows(
            "skep.token_exchange.actor_token_file",
            set("actor_token_file", json!("DIR/token")),
            "actor: Some",
        )
        .within(&exchange),
        shows(
            "skep.token_exchange.actor_token_file",
            set("actor_token_file", json!("DIR/token")),
            "actor_file: Some",
        )
        .within(&exchange),
        shows(
            "skep.token_exchange.client_key_id",
            json!({"skep": {"token_exchange": {"client_auth": "private_key_jwt", "client_key_id": "k-7"}}}),
            "k-7",
        )
        .within(&secret),
        refused("skep.token_exchange.client_key_id", set("client_key_id", json!("k-7")), "client_key_id")
            .within(&secret),
        shows(
            "skep.token_exchange.client_assertion_file",
            set("client_assertion_file", json!("DIR/token")),
            "/token",
        )
        .within(&svid),
        refused(
            "skep.token_exchange.client_assertion_file",
            set("client_assertion_file", json!("DIR/token")),
            "another method",
        )
        .within(&exchange),
        shows(
            "skep.token_exchange.client_certificate_file",
            set("client_certificate_file", json!("DIR/other-ca.pem")),
            "/other-ca.pem",
        )
        .within(&tls),
        refused(
            "skep.token_exchange.client_certificate_file",
            set("client_certificate_file", json!("")),
            "needs it",
        )
        .within(&tls),
        shows(
            "skep.token_exchange.client_certificate_key_file",
            set("client_certificate_key_file", json!("DIR/other-ca.pem")),
            "/other-ca.pem",
        )
        .within(&tls),
        shows("skep.token_exchange.ca_cert_path", set("ca_cert_path", json!("DIR/ca.pem")), "ca_pem: Some")
            .within(&exchange),
        shows("skep.token_exchange.ttl_cap_seconds", set("ttl_cap_seconds", json!(33)), "33s")
            .within(&exchange),
        shows("skep.token_exchange.negative_ttl_seconds", set("negative_ttl_seconds", json!(2)), "2s")
            .within(&exchange),
        refused(
            "skep.token_exchange.negative_ttl_seconds",
            set("negative_ttl_seconds", json!(11)),
            "negative_ttl",
        )
        .within(&exchange),
        shows(
            "skep.aws.sts_endpoint",
            json!({"skep": {"aws": {"sts_endpoint": "https://vpce.example/"}}}),
            "vpce.example",
        )
        .within(&aws),
        refused("skep.aws.sts_endpoint", json!({"skep": {"aws": {"sts_endpoint": "vpce"}}}), "sts_endpoint")
            .within(&aws),
        refused(
            "skep.aws.sts_endpoint",
            json!({"skep": {"aws": {"sts_endpoint": "https://x.example/"}}}),
            "skep.aws",
        ),
        shows(
            "skep.aws.ca_cert_path",
            json!({"skep": {"aws": {"ca_cert_path": "DIR/ca.pem"}}}),
            "ca_pem: Some",
        )
        .within(&aws),
    ]
}

fn limits() -> Vec<Row> {
    let set = |name: &str, value: u64| json!({"skep": {"limits": {name: value}}});
    vec![
        shows("skep.limits.header_bytes", set("header_bytes", 9001), "9001"),
        shows("skep.limits.body_bytes", set("body_bytes", 9002), "body_bytes: 9002"),
        shows("skep.limits.json_depth", set("json_depth", 9), "json_depth: 9"),
        shows("skep.limits.list_bytes", set("list_bytes", 9003), "list_bytes: 9003"),
        shows("skep.limits.sse_frame_bytes", set("sse_frame_bytes", 9004), "sse_frame_bytes: 9004"),
        shows("skep.limits.connections", set("connections", 9005), "9005"),
        shows("skep.limits.streams", set("streams", 9006), "streams: 9006"),
        shows("skep.limits.header_timeout_ms", set("header_timeout_ms", 9007), "9.007s"),
        shows("skep.limits.body_idle_timeout_ms", set("body_idle_timeout_ms", 9008), "body_idle: 9.008s"),
        shows("skep.limits.connect_timeout_ms", set("connect_timeout_ms", 9009), "connect: 9.009s"),
        shows("skep.limits.response_timeout_ms", set("response_timeout_ms", 9010), "response: 9.01s"),
    ]
}

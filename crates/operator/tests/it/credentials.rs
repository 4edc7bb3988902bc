//! Outgoing credentials and the issuers of incoming tokens: what of a manifest reaches the proxy.

use serde_json::{Value, json};
use skep_api::problem::Problem;
use skep_api::runconfig::ClientToken;
use skep_operator::plan::{FileSource, KeySource, Missing, Place, Workload, plan_object};

use crate::manifests::{files, good, plan, world};

fn workload(name: &str) -> Workload {
    good(name).plan.unwrap().workload.unwrap()
}

/// The RunConfig of one workload of a file, as it is written.
fn json_of(file: &str, workload: &str) -> Value {
    let path = files("good").into_iter().find(|path| path.file_stem().unwrap() == file).unwrap();
    let planned = plan(&std::fs::read_to_string(path).unwrap());
    let (_, planned) = planned
        .into_iter()
        .find(|(object, planned)| {
            object.metadata.name == workload
                && planned.plan.as_ref().is_some_and(|plan| plan.workload.is_some())
        })
        .unwrap();
    serde_json::from_str(&planned.plan.unwrap().workload.unwrap().run_config.to_json()).unwrap()
}

/// What becomes of each type on each kind: nothing is passed over in silence.
#[test]
fn every_type_works_or_is_refused_by_name() {
    let secrets = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: x}\n";
    for (kind, block, on_remote, on_server) in [
        (
            "tokenExchange",
            "{tokenUrl: 'https://i.example.com/t', audience: a}",
            Ok("token_exchange_config"),
            Ok("token_exchange_config"),
        ),
        (
            "headerInjection",
            "{headerName: X-Key, valueSecretRef: {name: s, key: k}}",
            Ok("header_forward"),
            Ok("header_forward"),
        ),
        (
            "bearerToken",
            "{tokenSecretRef: {name: s, key: k}}",
            Ok("remote_auth_config"),
            Ok("remote_auth_config"),
        ),
        ("unauthenticated", "", Ok("name"), Ok("name")),
        (
            "awsSts",
            "{region: eu-west-1, fallbackRoleArn: 'arn:aws:iam::123456789012:role/r'}",
            Ok("aws_sts_config"),
            Err("NotSupported"),
        ),
        (
            "embeddedAuthServer",
            "{issuer: 'https://a.example.com', upstreamProviders: [{name: one, type: oidc, oidcConfig: {issuerUrl: 'https://i.example.com', clientId: mcp}}]}",
            Err("NotSupported"),
            Err("NotSupported"),
        ),
        ("upstreamInject", "{providerName: github}", Err("NotSupported"), Err("NotSupported")),
        (
            "xaa",
            "{idpTokenUrl: 'https://i.example.com/t', targetTokenUrl: 'https://t.example.com/t', targetAudience: t}",
            Err("NotSupported"),
            Err("NotSupported"),
        ),
        ("obo", "{}", Err("EnterpriseRequired"), Err("EnterpriseRequired")),
    ] {
        let block = if block.is_empty() { String::new() } else { format!(", {kind}: {block}") };
        for (workload, spec, expected) in [
            ("MCPRemoteProxy", "remoteUrl: 'https://mcp.example.com'", on_remote),
            ("MCPServer", "image: example/server:1, transport: streamable-http", on_server),
        ] {
            let text = format!(
                "{secrets}---\napiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPExternalAuthConfig\nmetadata: {{name: e}}\nspec: {{type: {kind}{block}}}\n---\napiVersion: toolhive.stacklok.dev/v1beta1\nkind: {workload}\nmetadata: {{name: w}}\nspec: {{{spec}, oidcConfig: {{type: inline, inline: {{issuer: 'https://i.example.com', audience: a}}}}, externalAuthConfigRef: {{name: e}}}}\n"
            );
            let (_, planned) = plan(&text).pop().unwrap();
            let errors: Vec<&Problem> =
                planned.problems.iter().filter(|problem| problem.is_error()).collect();
            match expected {
                Ok(key) => {
                    assert!(errors.is_empty(), "{kind} on {workload}: {errors:?}");
                    let run = planned.plan.unwrap().workload.unwrap().run_config;
                    assert_eq!(run.skep.client_token, ClientToken::Strip, "{kind} on {workload}");
                    let written: Value = serde_json::from_str(&run.to_json()).unwrap();
                    assert!(
                        written.get(key).is_some_and(|value| !value.is_null()),
                        "{kind} on {workload}: {key}"
                    );
                }
                Err(reason) => {
                    assert!(
                        errors.iter().any(|problem| problem.reason == reason
                            && problem.path == "spec.externalAuthConfigRef.name"),
                        "{kind} on {workload}: {errors:?}"
                    );
                    let condition = planned
                        .conditions
                        .iter()
                        .find(|condition| condition.kind == "ExternalAuthConfigValidated");
                    assert!(condition.is_some(), "{kind} on {workload}");
                }
            }
        }
    }
}

#[test]
fn an_exchange_has_toolhives_keys_and_ours_under_skep() {
    let written = json_of("remote-token-exchange", "p");
    assert_eq!(
        written["token_exchange_config"],
        json!({
            "token_url": "https://login.example.com/realms/one/token", "client_id": "gate", "client_secret": "",
            "audience": "backend", "scopes": ["read", "write"], "subject_token_type": "jwt",
            "header_strategy": "replace", "external_token_header_name": "",
        })
    );
    assert_eq!(
        written["skep"]["token_exchange"],
        json!({
            "client_auth": "client_secret_post",
            "resource": "https://mcp.example.com/api",
            "actor_token_file": "/var/run/secrets/skep/actor-token/token",
            "ca_cert_path": "/config/certs/ca/ca.crt",
            "ttl_cap_seconds": 300,
            "negative_ttl_seconds": 0,
        })
    );
    let workload = workload("remote-token-exchange");
    assert!(workload.files.contains(&FileSource {
        path: "/var/run/secrets/skep/actor-token/token".to_owned(),
        source: KeySource::ServiceAccountToken {
            audience: "https://login.example.com/realms/one".to_owned(),
            expiration_seconds: 3600
        },
    }));
}

#[test]
fn each_way_of_client_authentication_has_what_it_needs() {
    let of =
        |workload: &str| json_of("remote-token-exchange-methods", workload)["skep"]["token_exchange"].clone();
    assert_eq!(of("signed"), json!({"client_auth": "private_key_jwt", "client_key_id": "key-1"}));
    assert_eq!(
        of("certificate"),
        json!({
            "client_auth": "tls_client_auth", "resource": "https://mcp.example.com/api",
            "client_certificate_file": "/etc/skep/secrets/client.tls/tls.crt",
            "client_certificate_key_file": "/etc/skep/secrets/client.tls/tls.key",
        })
    );
    assert_eq!(of("public"), Value::Null);
    assert_eq!(
        json_of("remote-token-exchange-spiffe", "helped")["skep"]["token_exchange"],
        json!({
            "client_auth": "spiffe_jwt", "actor_token_file": "/run/spire/svid/token",
            "client_assertion_file": "/run/spire/svid/token",
        })
    );
    assert_eq!(
        json_of("remote-service-account", "p")["skep"]["token_exchange"],
        json!({"grant_type": "client_credentials"})
    );
    // Naming the usual header changes nothing.
    assert_eq!(
        json_of("remote-token-exchange-methods", "public")["token_exchange_config"]["header_strategy"],
        "replace"
    );
}

/// Whoever reads the variable reads the file first, so that a Secret can change under a running proxy.
#[test]
fn every_secret_of_a_proxy_is_a_file_too() {
    let mut seen = 0;
    for file in files("good") {
        for (object, planned) in plan(&std::fs::read_to_string(&file).unwrap()) {
            let Some(workload) = planned.plan.unwrap().workload else { continue };
            let named = &workload.run_config.skep.secret_files;
            // Nothing of this proxy's reads these two yet.
            let unread = |name: &str| {
                name == "THV_SESSION_REDIS_PASSWORD" || name.starts_with("TOOLHIVE_OTEL_HEADER_")
            };
            for source in workload.env.iter().filter(|source| !unread(&source.name)) {
                let path = format!("/etc/skep/secrets/{}/{}", source.secret, source.key);
                let at = format!("{} {}: {}", file.display(), object.metadata.name, source.name);
                assert_eq!(named.get(&source.name), Some(&path), "{at}");
                let source = KeySource::Secret { name: source.secret.clone(), key: source.key.clone() };
                assert!(workload.files.contains(&FileSource { path, source }), "{at}");
                seen += 1;
            }
            let mut paths: Vec<&String> = workload.files.iter().map(|file| &file.path).collect();
            paths.sort();
            paths.dedup();
            assert_eq!(paths.len(), workload.files.len(), "{}", file.display());
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn rules_for_tokens_reach_the_proxy_in_one_form() {
    let written = json_of("remote-oidc-rules", "p");
    let digest = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    assert_eq!(
        written["skep"]["issuer"],
        json!({
            "audiences": ["mcp-old", "mcp-older"],
            "allowed_algorithms": ["ES256"],
            "clock_skew_seconds": 60,
            "discovery_url": "https://login.example.com/v2/.well-known/openid-configuration",
            "profile": "rfc9068",
            "authorized_parties": ["desktop", "cli"],
            "scope_map": {"api://mcp/mcp.read": "mcp.read"},
            "required_scopes": ["mcp.read"],
            "claim_mappings": {
                "subject": "oid", "groups": "resource_access.mcp.roles", "roles": "https://claims.example.com/roles",
            },
            "jwks_pins": [digest],
            "jwks_cert_fingerprint": digest,
            "plain_client_subjects": true,
        })
    );
    // Clients are told to ask for what they need.
    assert_eq!(written["oidc_config"]["Scopes"], json!(["openid", "mcp.read"]));
    let from_map = json_of("remote-oidc-config-map-rules", "p");
    assert_eq!(from_map["oidc_config"]["Audience"], "mcp");
    assert_eq!(
        from_map["skep"]["issuer"],
        json!({"audiences": ["old"], "required_scopes": ["mcp"], "claim_mappings": {"groups": "teams"}})
    );
    assert_eq!(from_map["skep"]["further_issuers"][0]["oidc_config"]["Audience"], "mcp");
}

#[test]
fn issuers_beside_the_first_have_rules_of_their_own() {
    for (file, name) in [("remote-issuers", "p"), ("server-issuers-shared", "s")] {
        let written = json_of(file, name);
        let further = written["skep"]["further_issuers"].as_array().unwrap();
        let column = |pointer: &str| -> Vec<&str> {
            further
                .iter()
                .map(|issuer| issuer.pointer(pointer).and_then(Value::as_str).unwrap_or_default())
                .collect()
        };
        assert_eq!(column("/subject_prefix"), ["partner:", "entra:", "cluster:", "opaque:"], "{file}");
        assert_eq!(column("/oidc_config/Audience"), ["gate", "mcp", "mcp", "mcp"], "{file}");
        assert_eq!(column("/oidc_config/CACertPath")[0], "/config/certs/ca/ca.crt", "{file}");
        assert_eq!(further[0]["rules"], json!({"required_scopes": ["mcp"]}), "{file}");
        assert_eq!(further[1]["rules"]["tenants"], json!(["11111111-2222-3333-4444-555555555555"]), "{file}");
        assert_eq!(
            column("/oidc_config/AuthTokenFile")[2],
            "/var/run/secrets/kubernetes.io/serviceaccount/token"
        );
        assert_eq!(further[3]["rules"], json!({"introspection": {"cache_ttl_seconds": 10}}), "{file}");
        assert_eq!(
            written["skep"]["secret_files"],
            json!({"TOOLHIVE_OIDC_CLIENT_SECRET": "/etc/skep/secrets/client/secret"}),
            "{file}"
        );
    }
    // The reference says for whom tokens are made.
    let shared = json_of("server-issuers-shared", "s");
    assert_eq!(shared["oidc_config"]["Audience"], "mcp");
}

#[test]
fn a_token_goes_on_only_when_every_one_that_is_let_in_is_for_the_remote_server() {
    let forwarded = |more: &str| {
        let text = format!(
            "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {{name: p}}\nspec: {{remoteUrl: 'https://mcp.example.com/api', oidcConfig: {{type: inline, inline: {{issuer: 'https://i.example.com', audience: 'https://mcp.example.com'{more}}}}}}}\n"
        );
        plan(&text).pop().unwrap().1.plan.unwrap().workload.unwrap().run_config.skep.client_token
    };
    assert_eq!(forwarded(""), ClientToken::Forward);
    assert_eq!(forwarded(", audiences: [mcp.example.com]"), ClientToken::Forward);
    assert_eq!(forwarded(", audiences: [company]"), ClientToken::Strip);
    let partner = |audience: &str| {
        format!(", additionalIssuers: [{{subjectPrefix: 'p:', issuer: 'https://p.example.com'{audience}}}]")
    };
    assert_eq!(forwarded(&partner("")), ClientToken::Forward);
    assert_eq!(forwarded(&partner(", audience: company")), ClientToken::Strip);
}

#[test]
fn a_service_account_of_the_cluster_is_none_on_this_machine() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPExternalAuthConfig\nmetadata: {name: e}\nspec: {type: tokenExchange, tokenExchange: {tokenUrl: 'https://login.example.com/token', audience: a, actorToken: serviceAccount}}\n";
    let (objects, mut world) = world(text, Missing::Refuse);
    assert!(plan_object(&objects[0], &world).plan.is_some());
    world.settings.place = Place::Local;
    let planned = plan_object(&objects[0], &world);
    assert_eq!(planned.problems.len(), 1);
    assert_eq!(planned.problems[0].path, "spec.tokenExchange.actorToken");
}

#[test]
fn the_audience_of_an_actor_is_the_token_endpoints_origin() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPExternalAuthConfig\nmetadata: {name: e}\nspec: {type: tokenExchange, tokenExchange: {tokenUrl: 'https://login.example.com:8443/a/token', audience: a, actorToken: serviceAccount}}\n---\napiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {name: s}\nspec: {image: i, oidcConfig: {type: inline, inline: {issuer: 'https://i.example.com', audience: a}}, externalAuthConfigRef: {name: e}}\n";
    let objects = plan(text).pop().unwrap().1.plan.unwrap().objects;
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let token = volumes.iter().find(|volume| volume["name"] == "actor-token").unwrap();
    assert_eq!(
        token["projected"]["sources"],
        json!([{"serviceAccountToken": {
            "audience": "https://login.example.com:8443", "expirationSeconds": 3600, "path": "token",
        }}])
    );
}

#[test]
fn aws_is_planned_with_its_own_endpoint_and_certificates() {
    let written = json_of("remote-aws", "p");
    assert_eq!(written["aws_sts_config"]["service"], "aws-mcp");
    assert_eq!(written["aws_sts_config"]["session_duration"], 900);
    assert_eq!(
        written["skep"]["aws"],
        json!({
            "sts_endpoint": "https://vpce-1.sts.eu-west-1.vpce.amazonaws.com", "ca_cert_path": "/config/certs/ca/ca.crt",
        })
    );
}

#[test]
fn a_network_policy_lets_a_proxy_out_to_everybody_it_asks() {
    let text = std::fs::read_to_string(
        files("good").into_iter().find(|path| path.file_stem().unwrap() == "remote-issuers").unwrap(),
    )
    .unwrap()
    .replace("  clientToken: strip\n", "  clientToken: strip\n  networkPolicy: {enabled: true}\n")
    .replace("https://opaque.example.com/introspect", "https://192.0.2.7:8443/introspect")
    .replace("https://login.microsoftonline.com/organizations", "https://192.0.2.8/organizations");
    let (_, planned) = plan(&text).pop().unwrap();
    let objects = planned.plan.unwrap_or_else(|| panic!("{:?}", planned.problems)).objects;
    let policy = objects.iter().find(|object| object["kind"] == "NetworkPolicy").unwrap().to_string();
    for expected in ["192.0.2.7/32", "8443", "192.0.2.8/32"] {
        assert!(policy.contains(expected), "{expected}: {policy}");
    }
    let names = &planned
        .problems
        .iter()
        .find(|problem| problem.reason == "NetworkPolicyApproximate")
        .unwrap()
        .message;
    assert!(names.contains("login.partner.example"), "{names}");
}

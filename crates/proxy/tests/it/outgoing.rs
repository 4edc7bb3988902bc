//! The credential for the MCP server: made after authorization, kept while it is good, never the caller's
//! own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use skep_testkit::backend::well_behaved;
use skep_testkit::{Answer, RawConnection, Recorded, Reply, ScriptedServer, raw};

use crate::harness::{CLIENT_SECRET, Harness, PERMIT_ALL, call, cedar, logs};

const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// A token endpoint that gives out `exchanged-1`, `exchanged-2` and so on.
pub(crate) struct TokenEndpoint {
    pub(crate) server: ScriptedServer,
}

pub(crate) fn granted(number: usize) -> Value {
    json!({
        "access_token": format!("exchanged-{number}"), "token_type": "Bearer", "expires_in": 600,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "scope": if number == 1 { "mail.read".to_owned() } else { format!("mail.read grant-{number}") },
    })
}

impl TokenEndpoint {
    pub(crate) async fn start() -> Self {
        let count = AtomicUsize::new(0);
        Self::answering(move |_| Reply::json(&granted(count.fetch_add(1, Ordering::SeqCst) + 1))).await
    }

    pub(crate) async fn answering(handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        Self { server: ScriptedServer::start(handler).await }
    }

    /// What makes a proxy exchange tokens here.
    pub(crate) fn config(&self) -> Value {
        json!({"token_exchange_config": {
            "token_url": self.server.url("/token"), "client_id": "skep", "audience": "backend",
            "scopes": ["mail.read"], "header_strategy": "replace",
        }})
    }

    pub(crate) fn calls(&self) -> usize {
        self.server.requests().len()
    }

    /// The form of call number `index`.
    pub(crate) fn form(&self, index: usize) -> Vec<(String, String)> {
        url::form_urlencoded::parse(&self.server.requests()[index].body).into_owned().collect()
    }
}

pub(crate) fn merged(mut config: Value, changes: &Value) -> Value {
    let (Some(members), Some(more)) = (config.as_object_mut(), changes.as_object()) else { return config };
    for (name, value) in more {
        members.insert(name.clone(), value.clone());
    }
    config
}

pub(crate) fn authorizations(harness: &Harness) -> Vec<String> {
    let of = |request: &Recorded| request.header("authorization").unwrap_or_default().to_owned();
    harness.backend.requests().iter().map(of).collect()
}

#[tokio::test]
async fn the_server_gets_the_exchanged_token_and_never_the_callers() {
    let endpoint = TokenEndpoint::start().await;
    let harness = Harness::start(endpoint.config()).await;
    let token = harness.token("alice");
    for _ in 0..5 {
        assert_eq!(raw::post_rpc(harness.address, "/mcp", Some(&token), &call("tool-0")).await.status, 200);
    }
    assert_eq!(authorizations(&harness), ["Bearer exchanged-1"; 5]);
    assert_eq!(endpoint.calls(), 1, "the token is kept");
    let form = endpoint.form(0);
    let field = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(field("grant_type"), Some("urn:ietf:params:oauth:grant-type:token-exchange"));
    assert_eq!(field("subject_token"), Some(token.as_str()));
    assert_eq!(field("audience"), Some("backend"));
    assert_eq!(field("scope"), Some("mail.read"));
    let seen = format!("{:?}", harness.backend.requests());
    assert!(!seen.contains(&token), "the caller's token reached the server");

    let record = harness.audit.last(5).await;
    let expected = json!({"type": "token_exchange", "audience": "backend", "scopes": ["mail.read"]});
    assert_eq!(record["metadata"]["extra"]["credential"], expected);
    assert_eq!(record["subjects"]["user_id"], "alice");
    let exchanges = "toolhive_remote_proxy_token_exchanges_total{proxy=\"demo\",result=\"success\"}";
    assert_eq!(harness.metric(exchanges), 1.0);
    assert_eq!(harness.metric("toolhive_remote_proxy_token_exchange_cache_hits_total{proxy=\"demo\"}"), 4.0);
    let count = "toolhive_remote_proxy_token_exchange_duration_seconds_count{proxy=\"demo\"}";
    assert_eq!(harness.metric(count), 1.0);
    assert_eq!(
        harness.proxy.status()["credential"],
        json!({
            "type": "tokenExchange", "ready": true, "reason": "Ready", "code": null,
            "since": "2026-01-01T00:00:00Z",
        })
    );
    for place in [harness.audit.text(), harness.metrics_text(), harness.proxy.status().to_string(), logs()] {
        for secret in [token.as_str(), "exchanged-1", CLIENT_SECRET] {
            assert!(!place.contains(secret), "a secret shows");
        }
    }
}

#[tokio::test]
async fn another_header_can_carry_the_token_and_the_callers_ends_here_all_the_same() {
    let endpoint = TokenEndpoint::start().await;
    let mut config = endpoint.config();
    config["token_exchange_config"]["header_strategy"] = json!("custom");
    config["token_exchange_config"]["external_token_header_name"] = json!("X-Upstream-Authorization");
    let harness = Harness::start(config).await;
    let forged = [("X-Upstream-Authorization", "Bearer forged")];
    let answer = harness.post_bytes(&forged, call("tool-0").to_string().as_bytes()).await;
    assert_eq!(answer.status, 200);
    let request = harness.backend.requests().remove(0);
    assert_eq!(request.header("authorization"), None);
    assert_eq!(request.header_all("x-upstream-authorization"), ["Bearer exchanged-1"]);
}

#[tokio::test]
async fn every_kind_of_request_carries_the_token() {
    let endpoint = TokenEndpoint::start().await;
    let harness = Harness::start(endpoint.config()).await;
    harness.send("GET", "/mcp", &[("Accept", "text/event-stream")], b"").await;
    harness.send("DELETE", "/mcp", &[("Mcp-Session-Id", "s")], b"").await;
    harness.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    harness.post(&crate::harness::rpc(2, "ping", json!({}))).await;
    assert_eq!(authorizations(&harness), ["Bearer exchanged-1"; 4]);
}

#[tokio::test]
async fn nobody_who_may_not_call_costs_an_exchange() {
    let endpoint = TokenEndpoint::start().await;
    let policies = cedar(&["permit(principal, action, resource == Tool::\"tool-0\");"]);
    let config = merged(endpoint.config(), &policies);
    let config = merged(config, &json!({"tools_filter": ["tool-0", "tool-1"]}));
    let harness = Harness::start(config).await;
    assert_eq!(harness.post(&call("tool-1")).await.status, 403);
    assert_eq!(harness.post(&call("tool-2")).await.status, 200, "hidden: answered here");
    assert_eq!(raw::post_rpc(harness.address, "/mcp", None, &call("tool-0")).await.status, 401);
    assert_eq!(harness.post_bytes(&[], b"{").await.status, 400);
    assert_eq!(endpoint.calls(), 0);
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(endpoint.calls(), 1);
}

#[tokio::test]
async fn each_failure_of_an_exchange_has_its_answer() {
    type Case = (Reply, u16, Option<i64>, bool, Option<&'static str>, &'static str);
    let error = |status: u16, code: &str| {
        let text = json!({"error": code, "error_description": "detail-of-the-provider"}).to_string();
        Reply::body(status, "application/json", text)
    };
    let json = |value: Value| Reply::json(&value);
    let cases: Vec<(&str, Case)> = vec![
        ("a bad subject token", (error(400, "invalid_request"), 401, None, true, None, "subject_refused")),
        ("an expired grant", (error(400, "invalid_grant"), 401, None, true, None, "subject_refused")),
        ("a wrong secret", (error(401, "invalid_client"), 502, Some(502), false, None, "refused")),
        (
            "a client without the right",
            (error(400, "unauthorized_client"), 502, Some(502), false, None, "refused"),
        ),
        ("no such grant", (error(400, "unsupported_grant_type"), 502, Some(502), false, None, "refused")),
        ("no such audience", (error(400, "invalid_target"), 502, Some(502), false, None, "refused")),
        ("no such scope", (error(400, "invalid_scope"), 502, Some(502), false, None, "refused")),
        (
            "a provider with a fault",
            (
                error(500, "server_error").header("Retry-After", "7"),
                503,
                Some(503),
                false,
                Some("7"),
                "unavailable",
            ),
        ),
        (
            "too many calls",
            (Reply::status(429).header("Retry-After", "9"), 503, Some(503), false, Some("9"), "unavailable"),
        ),
        ("a reset connection", (Reply::reset(), 503, Some(503), false, Some("5"), "unavailable")),
        (
            "a redirect",
            (Reply::status(302).header("Location", "/"), 502, Some(502), false, None, "invalid_response"),
        ),
        (
            "no token in it",
            (json(json!({"token_type": "Bearer"})), 502, Some(502), false, None, "invalid_response"),
        ),
        (
            "no JSON",
            (Reply::body(200, "text/html", "<p>hello</p>"), 502, Some(502), false, None, "invalid_response"),
        ),
    ];
    for (what, (reply, status, code, challenged, retry_after, result)) in cases {
        let endpoint = TokenEndpoint::answering(move |_| reply.clone()).await;
        let harness = Harness::start(endpoint.config()).await;
        let answer = harness.post(&call("tool-0")).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        let body = answer.json();
        assert_eq!(body["error"]["code"].as_i64(), code, "{what}: {body}");
        if code.is_some() {
            assert_eq!(body["id"], 1, "{what}");
        }
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert_eq!(challenge.contains("error=\"invalid_token\""), challenged, "{what}: {challenge}");
        assert_eq!(answer.header("retry-after"), retry_after, "{what}");
        assert!(!answer.text().contains("detail-of-the-provider"), "{what}");
        assert!(harness.backend.requests().is_empty(), "{what}: the server was called");
        let metric =
            format!("toolhive_remote_proxy_token_exchanges_total{{proxy=\"demo\",result=\"{result}\"}}");
        assert!(harness.metric(&metric) >= 1.0, "{what}: {}", harness.metrics_text());
        let record = harness.audit.last(1).await;
        assert_eq!(record["outcome"], if status == 401 { "denied" } else { "error" }, "{what}");
        let ready = &harness.proxy.status()["credential"]["ready"];
        assert_eq!(*ready, json!(status == 401), "{what}: the endpoint and the configuration are sound");
    }
}

#[tokio::test]
async fn a_second_login_that_does_not_help_ends_the_circle() {
    let refuse = |_: &Recorded| Reply::body(400, "application/json", r#"{"error":"invalid_grant"}"#);
    let endpoint = TokenEndpoint::answering(refuse).await;
    let harness = Harness::start(endpoint.config()).await;
    let post = async |token: &str| raw::post_rpc(harness.address, "/mcp", Some(token), &call("tool-0")).await;
    let first = harness.mint(|token| token.claim("jti", "1"));
    assert_eq!(post(&first).await.status, 401);
    assert_eq!(post(&first).await.status, 401, "the same token again");
    harness.clock.advance(Duration::from_secs(20));
    let second = post(&harness.mint(|token| token.claim("jti", "2"))).await;
    assert_eq!((second.status, second.header("www-authenticate")), (403, None));
    assert_eq!(second.json()["error"]["code"], 403);
    let other = raw::post_rpc(harness.address, "/mcp", Some(&harness.token("bob")), &call("tool-0")).await;
    assert_eq!(other.status, 401, "another caller");
    harness.clock.advance(Duration::from_secs(61));
    assert_eq!(post(&harness.mint(|token| token.claim("jti", "3"))).await.status, 401, "a minute later");
}

#[tokio::test]
async fn a_token_that_the_server_refuses_is_renewed_once() {
    let endpoint = TokenEndpoint::start().await;
    let harness = Harness::scripted(endpoint.config(), |request| match request.header("authorization") {
        Some("Bearer exchanged-2") => well_behaved(request, 3),
        _ => Reply::status(401).header("WWW-Authenticate", "Bearer realm=\"inner\""),
    })
    .await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    let requests = harness.backend.requests();
    assert_eq!(authorizations(&harness), ["Bearer exchanged-1", "Bearer exchanged-2"]);
    assert_eq!(requests[0].body, requests[1].body);
    let record = harness.audit.last(1).await;
    let scopes = &record["metadata"]["extra"]["credential"]["scopes"];
    assert_eq!(*scopes, json!(["mail.read", "grant-2"]), "the record is about the one that was taken");
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(endpoint.calls(), 2, "the good one is kept");

    harness.backend.set_handler(|_| Reply::status(401).header("WWW-Authenticate", "Bearer realm=\"inner\""));
    harness.backend.forget();
    let answer = harness.post(&call("tool-0")).await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (502, None));
    assert_eq!(harness.backend.requests().len(), 2, "once, not for ever");
}

#[tokio::test]
async fn one_token_of_the_proxys_own_can_serve_all() {
    let endpoint = TokenEndpoint::start().await;
    let mut config = endpoint.config();
    config["skep"] = json!({"token_exchange": {"grant_type": "client_credentials"}});
    let harness = Harness::start(config.clone()).await;
    for user in ["alice", "bob", "carol"] {
        assert_eq!(harness.post_as(user, &call("tool-0")).await.status, 200);
    }
    assert_eq!(endpoint.calls(), 1);
    assert!(endpoint.form(0).contains(&("grant_type".to_owned(), "client_credentials".to_owned())));
    assert!(!endpoint.form(0).iter().any(|(name, _)| name == "subject_token"));
    assert_eq!(authorizations(&harness), ["Bearer exchanged-1"; 3]);

    config["oidc_config"] = Value::Null;
    config["skep"]["auth_mode"] = json!("anonymous");
    let harness = Harness::start(config).await;
    assert_eq!(raw::post_rpc(harness.address, "/mcp", None, &call("tool-0")).await.status, 200);
}

#[tokio::test]
async fn without_a_callers_token_there_is_no_exchange_and_no_call() {
    let endpoint = TokenEndpoint::start().await;
    let mut config = endpoint.config();
    config["oidc_config"] = Value::Null;
    config["skep"] = json!({"auth_mode": "anonymous"});
    let harness = Harness::start(config).await;
    for token in [None, Some("anything")] {
        let answer = raw::post_rpc(harness.address, "/mcp", token, &call("tool-0")).await;
        assert_eq!(answer.status, 401, "{}", answer.text());
        assert_eq!(answer.json()["error"], "invalid_request");
    }
    assert!(harness.backend.requests().is_empty() && endpoint.calls() == 0);
}

#[tokio::test]
async fn kept_tokens_survive_a_reload_unless_what_is_asked_for_changes() {
    let endpoint = TokenEndpoint::start().await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "first-secret\n").unwrap();
    let path = secret.path().display().to_string();
    let config = merged(
        endpoint.config(),
        &json!({"skep": {"secret_files": {"TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET": path}}}),
    );
    let harness = Harness::start(config).await;
    let basic = |index: usize| endpoint.server.requests()[index].header("authorization").unwrap().to_owned();
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(basic(0), format!("Basic {}", base64("skep:first-secret")), "the line end is no part of it");

    std::fs::write(secret.path(), "second-secret").unwrap();
    let reload = |changes: Value| harness.proxy.reload(harness.changed(changes).unwrap()).unwrap();
    reload(json!({}));
    reload(cedar(&[PERMIT_ALL]));
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(endpoint.calls(), 1, "a new secret and new policies cost no exchange");
    assert_eq!(harness.post_as("bob", &call("tool-0")).await.status, 200);
    assert_eq!(basic(1), format!("Basic {}", base64("skep:second-secret")));

    reload(json!({"token_exchange_config": {"audience": "another"}}));
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(endpoint.calls(), 3, "a token for another audience is another token");
    assert!(endpoint.form(2).contains(&("audience".to_owned(), "another".to_owned())));
    assert_eq!(harness.metric("skep_config_reloads_total{proxy=\"demo\",result=\"applied\"}"), 3.0);
    std::fs::write(secret.path(), "").unwrap();
    harness.changed(json!({})).unwrap_err();
    harness.proxy.refused("an empty secret");
    assert_eq!(harness.metric("skep_config_reloads_total{proxy=\"demo\",result=\"refused\"}"), 1.0);
    assert_eq!(harness.post(&call("tool-0")).await.status, 200, "the old version stays");
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test]
async fn callers_who_come_together_share_one_exchange() {
    let gate = skep_testkit::Gate::new();
    let held = gate.clone();
    let endpoint = TokenEndpoint::answering(move |_| {
        let body = granted(1).to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Reply::raw([skep_testkit::Step::Wait(held.clone()), skep_testkit::Step::Send(head.into())])
    })
    .await;
    let harness = Arc::new(Harness::start(endpoint.config()).await);
    let token = harness.token("alice");
    // The first of them hangs up; the others still get what it asked for.
    let mut impatient = RawConnection::open(harness.address).await;
    let body = call("tool-0").to_string();
    let head = harness.head(&format!("Content-Length: {}\r\n", body.len()));
    let head = head.replace(&harness.bearer(), &format!("Bearer {token}"));
    impatient.send(format!("{head}{body}").as_bytes()).await;
    endpoint.server.wait_for_requests(1).await;
    drop(impatient);
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let (harness, token) = (Arc::clone(&harness), token.clone());
            tokio::spawn(async move {
                raw::post_rpc(harness.address, "/mcp", Some(&token), &call("tool-0")).await
            })
        })
        .collect();
    gate.open();
    for caller in callers {
        let answer: Answer = caller.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(endpoint.calls(), 1);
}

#[tokio::test]
async fn what_contradicts_an_exchange_is_refused_by_name() {
    let endpoint = TokenEndpoint::start().await;
    let harness = Harness::start(endpoint.config()).await;
    for (changes, named) in [
        (json!({"skep": {"client_token": "forward"}}), "skep.client_token: forward"),
        (json!({"token_exchange_config": {"client_secret": "x"}}), "token_exchange_config.client_secret"),
        (json!({"token_exchange_config": {"token_url": "ftp://x/"}}), "token_exchange_config.token_url"),
        (
            json!({"token_exchange_config": {"token_url": "https://u:p@x/"}}),
            "token_exchange_config.token_url",
        ),
        (json!({"token_exchange_config": {"header_strategy": "other"}}), "header_strategy"),
        (json!({"token_exchange_config": {"header_strategy": "custom"}}), "external_token_header_name"),
        (
            json!({"token_exchange_config": {"external_token_header_name": "X-A"}}),
            "external_token_header_name",
        ),
        (
            json!({"token_exchange_config": {"header_strategy": "custom", "external_token_header_name": "Host"}}),
            "external_token_header_name",
        ),
        (
            json!({"token_exchange_config": {"header_strategy": "custom", "external_token_header_name": "Content-Type"}}),
            "external_token_header_name",
        ),
        (json!({"token_exchange_config": {"subject_token_type": "saml"}}), "subject_token_type"),
        (json!({"token_exchange_config": {"client_id": ""}}), "token_exchange_config.client_id"),
        (json!({"header_forward": {"add_plaintext_headers": {"Authorization": "x"}}}), "a configured header"),
        (json!({"skep": {"token_exchange": {"negative_ttl_seconds": 11}}}), "negative_ttl_seconds"),
        (json!({"skep": {"token_exchange": {"resource": "not a uri"}}}), "skep.token_exchange.resource"),
        (json!({"skep": {"token_exchange": {"client_auth": "spiffe_jwt"}}}), "client_assertion_file"),
        (json!({"skep": {"token_exchange": {"client_auth": "tls_client_auth"}}}), "client_certificate_file"),
        (json!({"skep": {"token_exchange": {"client_key_id": "k"}}}), "client_key_id"),
        (json!({"skep": {"token_exchange": {"actor_token_file": "/nope"}}}), "actor_token_file"),
        (
            json!({"skep": {"token_exchange": {"grant_type": "client_credentials"}},
                   "token_exchange_config": {"subject_token_type": "jwt"}}),
            "subject_token_type",
        ),
        (
            json!({"token_exchange_config": null, "skep": {"token_exchange": {"resource": "urn:x"}}}),
            "skep.token_exchange",
        ),
        (
            json!({"aws_sts_config": {"region": "eu-west-1", "fallback_role_arn": "arn:aws:iam::1:role/x"}}),
            "aws_sts_config",
        ),
        (
            json!({"middleware_configs": [{"type": "auth"}], "audit_config": null, "oidc_config": null, "skep": {"auth_mode": "anonymous"}}),
            "token_exchange_config",
        ),
        (
            json!({"additional_middleware_configs": [{"type": "tokenexchange", "parameters":
                {"token_exchange_config": {"token_url": "https://other.example/"}}}]}),
            "token_exchange_config",
        ),
        (json!({"additional_middleware_configs": [{"type": "strip-auth"}]}), "strip-auth"),
        // Nobody gets a credential of the proxy because nothing is said about who may call.
        (
            json!({"remote_url": "", "target_port": 80, "target_host": "127.0.0.1", "oidc_config": null,
                   "skep": {"token_exchange": {"grant_type": "client_credentials"}}}),
            "say authMode: anonymous",
        ),
        (
            json!({"remote_url": "", "target_port": 80, "target_host": "127.0.0.1", "oidc_config": null,
                   "token_exchange_config": null,
                   "header_forward": {"add_headers_from_secret": {"X-Key": "KEY1"}}}),
            "say authMode: anonymous",
        ),
        (
            json!({"remote_url": "", "target_port": 80, "target_host": "127.0.0.1", "oidc_config": null,
                   "token_exchange_config": null, "remote_auth_config": {"bearer_token": "KEY1,target=bearer_token"}}),
            "say authMode: anonymous",
        ),
        // The pod's own token is nobody's but the API server's.
        (json!({"skep": {"token_exchange": {"actor_token_file": POD_TOKEN}}}), "actor_token_file"),
        (
            json!({"skep": {"token_exchange": {"client_auth": "spiffe_jwt", "client_assertion_file": POD_TOKEN}}}),
            "the pod's own token",
        ),
        (
            json!({"skep": {"secret_files": {"TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET": POD_TOKEN}}}),
            "the pod's own token",
        ),
        (
            json!({"token_exchange_config": null, "remote_auth_config": {"bearer_token_file": POD_TOKEN}}),
            "the pod's own token",
        ),
        (json!({"skep": {"auth_mode": "anonymous"}}), "skep.auth_mode: anonymous"),
        (json!({"skep": {"secret_files": {"TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECERT": "/x"}}}), "CLIENT_SECERT"),
        (
            json!({"skep": {"secret_files": {"TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET": "/x"},
                            "token_exchange": {"client_auth": "spiffe_jwt", "client_assertion_file": "/y"}}}),
            "skep.token_exchange.client_auth",
        ),
        (json!({"header_forward": {"add_plaintext_headers": {"X-A": "1", "x-a": "2"}}}), "is set twice"),
        (
            json!({"header_forward": {"add_plaintext_headers": {"X-A": "1"}, "add_headers_from_secret": {"x-a": "KEY1"}}}),
            "is set twice",
        ),
        (
            json!({"header_forward": {"add_plaintext_headers": {"X-A": "1"}}, "additional_middleware_configs": [
                {"type": "header-forward", "parameters": {"add_headers": {"X-A": "2"}}}]}),
            "header_forward",
        ),
        (
            json!({"audit_config": {"includeRequestData": true}, "additional_middleware_configs": [
                {"type": "audit", "parameters": {"config_data": {}}}]}),
            "audit_config",
        ),
    ] {
        let error = harness.changed(changes.clone()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(named), "{changes}: {error}");
    }
}

#[tokio::test]
async fn a_list_entry_without_a_configuration_keeps_what_the_key_says() {
    let endpoint = TokenEndpoint::start().await;
    let harness = Harness::start(endpoint.config()).await;
    let config = harness
        .changed(json!({"audit_config": {"includeRequestData": true}, "additional_middleware_configs": [
            {"type": "audit", "parameters": {"component": "named"}}]}))
        .unwrap();
    let audit = config.audit.unwrap();
    assert!(audit.include_request_data);
    assert_eq!(audit.component, "named");
}

#[tokio::test]
async fn a_server_that_refuses_every_credential_does_not_become_the_providers_load() {
    let endpoint = TokenEndpoint::start().await;
    let harness = Harness::scripted(endpoint.config(), |_| Reply::status(401)).await;
    let token = harness.token("alice");
    let post = async || raw::post_rpc(harness.address, "/mcp", Some(&token), &call("tool-0")).await.status;
    for _ in 0..10 {
        assert_eq!(post().await, 502);
    }
    assert_eq!(endpoint.calls(), 2, "one more was tried, once");
    harness.clock.advance(Duration::from_secs(10));
    assert_eq!(post().await, 502);
    assert_eq!(endpoint.calls(), 3, "later it is tried again");
}

#[tokio::test]
async fn a_server_that_wants_a_credential_nobody_has_is_not_said_to_refuse_one() {
    let harness = Harness::scripted(json!({}), |_| Reply::status(401)).await;
    let answer = harness.post(&call("tool-0")).await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("wants a credential"), "{}", answer.text());
    let fixed = json!({"header_forward": {"add_headers_from_secret": {"X-Key": "KEY1"}}});
    let harness = Harness::scripted(fixed, |_| Reply::status(401)).await;
    assert!(harness.post(&call("tool-0")).await.text().contains("refused the proxy's credential"));
}

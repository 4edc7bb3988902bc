//! Who is let in, and what the others are told.

use serde_json::json;
use skep_testkit::{RawConnection, TokenSpec, raw};

use crate::harness::{AUDIENCE, Harness, call, rpc};

#[tokio::test]
async fn a_call_with_a_good_token_reaches_the_backend_as_it_is() {
    let harness = Harness::start(json!({})).await;
    let answer = harness.post(&call("tool-1")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["result"]["isError"], false);
    let seen = harness.backend.requests();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].body, call("tool-1").to_string().as_bytes());
    assert_eq!(seen[0].header("authorization"), None);
    let record = harness.audit.last(1).await;
    assert_eq!(record["outcome"], "success");
    assert_eq!(record["subjects"]["user_id"], "alice");
}

#[tokio::test]
async fn each_bad_token_is_refused_audited_and_counted_and_the_backend_sees_nothing() {
    let harness = Harness::start(json!({})).await;
    type Change = fn(TokenSpec) -> TokenSpec;
    let table: &[(&str, Change, &str, &str)] = &[
        ("expired", |t| t.expired(), "expired", "Invalid token: it has expired"),
        ("expired 30 s ago", |t| t.expires_in(-30), "expired", "Invalid token: it has expired"),
        ("not yet valid", |t| t.not_yet_valid(), "not_yet_valid", "Invalid token: it is not valid yet"),
        ("valid in 31 s", |t| t.not_before_in(31), "not_yet_valid", "Invalid token: it is not valid yet"),
        ("no expiry", |t| t.without_claim("exp"), "malformed", "Invalid token: it has no expiry (exp)"),
        (
            "expiry as text",
            |t| t.claim("exp", "9999999999"),
            "malformed",
            "Invalid token: a time in it is not a number",
        ),
        (
            "wrong issuer",
            |t| t.issuer("https://other.example"),
            "issuer",
            "Invalid token: it was issued by somebody else",
        ),
        ("no issuer", |t| t.without_claim("iss"), "issuer", "Invalid token: it was issued by somebody else"),
        (
            "wrong audience",
            |t| t.audience("other"),
            "audience",
            "Invalid token: it is meant for another audience",
        ),
        (
            "no audience",
            |t| t.without_claim("aud"),
            "audience",
            "Invalid token: it is meant for another audience",
        ),
        (
            "other audiences",
            |t| t.audience(json!(["a", "b"])),
            "audience",
            "Invalid token: it is meant for another audience",
        ),
        (
            "audience in an object",
            |t| t.audience(json!({"mcp-demo": "mcp-demo"})),
            "audience",
            "Invalid token: it is meant for another audience",
        ),
        (
            "audience as a prefix",
            |t| t.audience("mcp-demo2"),
            "audience",
            "Invalid token: it is meant for another audience",
        ),
        (
            "unknown kid",
            |t| t.unknown_kid(),
            "unknown_key",
            "Invalid token: it was signed by a key that the issuer does not publish",
        ),
        (
            "alg none",
            |t| t.unsigned(),
            "algorithm",
            "Invalid token: the algorithm is not accepted for this key",
        ),
        (
            "HS256 with the public key",
            |t| t.hmac_with_public_key(),
            "algorithm",
            "Invalid token: the algorithm is not accepted for this key",
        ),
        (
            "an algorithm the key does not have",
            |t| t.header("alg", "PS256"),
            "algorithm",
            "Invalid token: the algorithm is not accepted for this key",
        ),
        (
            "an algorithm of another kind of key",
            |t| t.header("alg", "ES256"),
            "algorithm",
            "Invalid token: the algorithm is not accepted for this key",
        ),
        (
            "wrong signature",
            |t| t.wrong_signature(),
            "signature",
            "Invalid token: the signature does not verify",
        ),
        ("no subject", |t| t.without_claim("sub"), "claims", "Invalid authentication claims"),
        ("empty subject", |t| t.claim("sub", ""), "claims", "Invalid authentication claims"),
        ("subject that is a number", |t| t.claim("sub", 7), "claims", "Invalid authentication claims"),
        (
            "ID token",
            |t| t.id_token(),
            "wrong_kind",
            "Invalid token: it is an ID token; an access token is needed",
        ),
        (
            "ID token of Keycloak",
            |t| t.header("typ", "JWT").claim("typ", "ID"),
            "wrong_kind",
            "Invalid token: it is an ID token; an access token is needed",
        ),
        (
            "refresh token",
            |t| t.keycloak_refresh_token(),
            "wrong_kind",
            "Invalid token: it is a refresh or logout token; an access token is needed",
        ),
        (
            "logout token by typ",
            |t| t.header("typ", "logout+jwt"),
            "wrong_kind",
            "Invalid token: it is no access token (typ)",
        ),
        (
            "crit",
            |t| t.critical_header(),
            "malformed",
            "Invalid token: it needs extensions (crit) that are not supported",
        ),
    ];
    for (index, (what, change, label, description)) in table.iter().enumerate() {
        let counter =
            format!("toolhive_remote_proxy_token_validations_total{{proxy=\"demo\",result=\"{label}\"}}");
        let before = harness.metric(&counter);
        let token = harness.mint(change);
        let answer = raw::post_rpc(harness.address, "/mcp", Some(&token), &call("tool-1")).await;
        assert_eq!(answer.status, 401, "{what}");
        assert_eq!(
            answer.json(),
            json!({"error": "invalid_token", "error_description": description}),
            "{what}"
        );
        assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
        let realm = harness.idp.issuer();
        let expected = format!(
            "Bearer realm=\"{realm}\", \
             resource_metadata=\"https://mcp.example/.well-known/oauth-protected-resource/tools\", \
             scope=\"mcp:use\", error=\"invalid_token\", error_description=\"{description}\""
        );
        assert_eq!(answer.header_all("www-authenticate"), [expected.as_str()], "{what}");
        assert!(harness.metric(&counter) - before == 1.0, "{what}: {}", harness.metrics_text());
        let record = harness.audit.last(index + 1).await;
        assert_eq!(record["outcome"], "denied", "{what}");
        assert_eq!(record["subjects"], json!({"user": "anonymous"}), "{what}");
        assert_eq!(record["metadata"]["extra"]["http_status"], 401, "{what}");
    }
    assert_eq!(harness.backend.connections(), 0);
}

#[tokio::test]
async fn an_authorization_header_that_holds_no_one_token_is_refused() {
    let harness = Harness::start(json!({})).await;
    let good = harness.token("alice");
    let scheme = "invalid authorization header format, expected 'Bearer <token>'";
    let body = call("tool-1").to_string();
    let bearer = format!("Bearer {good}");
    let table: &[(Vec<String>, &str, &str)] = &[
        (vec![], "invalid_request", "authorization header required"),
        (vec![String::new()], "invalid_request", scheme),
        (vec!["Bearer".to_owned()], "invalid_request", "empty token in authorization header"),
        (vec![format!("Basic {good}")], "invalid_request", scheme),
        (vec![good.clone()], "invalid_request", scheme),
        (vec![format!("Bearer {good} x")], "invalid_request", scheme),
        (vec![format!("Bearer {good}, Bearer {good}")], "invalid_request", scheme),
        (vec![bearer.clone(), bearer.clone()], "invalid_request", "more than one authorization header"),
        (vec!["Bearer garbage".to_owned()], "invalid_token", "Invalid token: it is not a JWT"),
        (vec![format!("Bearer {good}.x")], "invalid_token", "Invalid token: it is not a JWT"),
        (
            vec![format!(
                "Bearer {}",
                good.strip_suffix(|_: char| true).unwrap().strip_suffix(|_: char| true).unwrap()
            )],
            "invalid_token",
            "Invalid token: the signature does not verify",
        ),
        (
            vec![format!("Bearer {}", good.replace('.', ".."))],
            "invalid_token",
            "Invalid token: it is not a JWT",
        ),
        (vec![format!("Bearer {}", "a".repeat(25_000))], "invalid_token", "Invalid token: it is too long"),
    ];
    for (values, code, description) in table {
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(values.iter().map(|value| ("Authorization", value.as_str())));
        let answer = raw::request(harness.address, "POST", "/mcp", &headers, body.as_bytes()).await;
        assert_eq!(answer.status, 401, "{values:?}");
        assert_eq!(answer.json(), json!({"error": code, "error_description": description}), "{values:?}");
        assert!(answer.header("www-authenticate").is_some_and(|value| value.contains(description)));
    }
    // A token in the query or the body is no token (RFC 6750 §2 allows the header alone here).
    let target = format!("/mcp?access_token={good}");
    let answer = raw::request(
        harness.address,
        "POST",
        &target,
        &[("Content-Type", "application/json")],
        body.as_bytes(),
    )
    .await;
    assert_eq!(answer.status, 401);
    assert_eq!(harness.backend.connections(), 0);
}

#[tokio::test]
async fn tokens_within_the_rules_are_accepted() {
    use skep_testkit::idp::Alg;
    let harness = Harness::start(json!({})).await;
    type Change = fn(TokenSpec) -> TokenSpec;
    let table: &[(&str, Change)] = &[
        ("expired within leeway", |t| t.expires_in(-29)),
        ("valid soon, within leeway", |t| t.not_before_in(30)),
        ("one of several audiences", |t| t.audience(json!(["x", AUDIENCE]))),
        ("no kid, where only one key fits", |t| t.without_header("kid")),
        ("ES256", |t| t.alg(Alg::Es256)),
        ("EdDSA", |t| t.alg(Alg::EdDsa)),
        ("typ JWT", |t| t.header("typ", "JWT")),
        ("no typ", |t| t.without_header("typ")),
        ("typ with the media type written out", |t| t.header("typ", "application/at+jwt")),
        ("RFC 9068 token that kept a nonce", |t| t.claim("nonce", "x")),
        ("expiry with a fraction", |t| t.claim("exp", 1_767_225_700.5)),
        ("issued in the future, which many clocks do", |t| t.issued_in(20)),
    ];
    for (what, change) in table {
        let token = harness.mint(change);
        let answer = raw::post_rpc(harness.address, "/mcp", Some(&token), &call("tool-1")).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    }
    for scheme in ["bearer", "BEARER", "BeArEr"] {
        let value = format!("{scheme} {}", harness.token("alice"));
        let headers = [("Content-Type", "application/json"), ("Authorization", value.as_str())];
        let body = call("tool-1").to_string();
        let answer = raw::request(harness.address, "POST", "/mcp", &headers, body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{scheme}");
    }
    let valid = "toolhive_remote_proxy_token_validations_total{proxy=\"demo\",result=\"valid\"}";
    assert!(harness.metric(valid) == (table.len() + 3) as f64);
}

#[tokio::test]
async fn an_issuer_with_a_slash_at_its_end_is_the_same() {
    let harness = Harness::start(json!({})).await;
    let issuer = format!("{}/", harness.idp.issuer());
    let token = harness.mint(|t| t.issuer(&issuer));
    let answer = raw::post_rpc(harness.address, "/mcp", Some(&token), &call("tool-1")).await;
    assert_eq!(answer.status, 200);
    let token = harness.mint(|t| t.issuer(&issuer.to_uppercase()));
    assert_eq!(raw::post_rpc(harness.address, "/mcp", Some(&token), &call("tool-1")).await.status, 401);
}

#[tokio::test]
async fn the_body_of_a_stranger_is_not_read() {
    let harness = Harness::start(json!({})).await;
    // 9 MiB are announced and none of them sent: only a proxy that doesn't wait for them can answer.
    let mut connection = RawConnection::open(harness.address).await;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 9437184\r\n\r\n",
        harness.address
    );
    connection.send(head.as_bytes()).await;
    assert_eq!(connection.read_answer().await.status, 401);
    // And a client that sends them all still gets its answer, not a reset.
    for _ in 0..5 {
        let body = vec![b' '; 9 << 20];
        let answer =
            raw::request(harness.address, "POST", "/mcp", &[("Content-Type", "application/json")], &body)
                .await;
        assert_eq!(answer.status, 401);
    }
    assert_eq!(harness.backend.connections(), 0);
}

#[tokio::test]
async fn standing_streams_and_ended_sessions_need_a_token_too() {
    let harness = Harness::start(json!({})).await;
    for method in ["GET", "DELETE"] {
        let answer = raw::request(harness.address, method, "/mcp", &[], b"").await;
        assert_eq!(answer.status, 401, "{method}");
    }
    assert_eq!(harness.backend.connections(), 0);
}

#[tokio::test]
async fn a_proxy_that_says_anonymous_asks_nobody_and_says_so_in_its_metrics() {
    let changes = json!({"oidc_config": null, "skep": {"auth_mode": "anonymous"}});
    let harness = Harness::start(changes).await;
    let answer = raw::post_rpc(harness.address, "/mcp", None, &rpc(1, "tools/list", json!({}))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(harness.audit.last(1).await["subjects"]["user"], "anonymous");
    assert!(harness.metric("skep_proxy_anonymous{proxy=\"demo\"}") == 1.0);
    // A token that nobody asked for does not travel on.
    let answer =
        raw::post_rpc(harness.address, "/mcp", Some("a-token"), &rpc(1, "tools/list", json!({}))).await;
    assert_eq!(answer.status, 200);
    assert!(harness.backend.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test]
async fn clients_find_out_where_to_get_a_token() {
    let harness = Harness::start(json!({})).await;
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/tools",
        "/.well-known/oauth-protected-resource/any/where",
    ] {
        let answer = raw::request(harness.address, "GET", path, &[], b"").await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(
            answer.json(),
            json!({
                "resource": "https://mcp.example/tools", "authorization_servers": [harness.idp.issuer()],
                "bearer_methods_supported": ["header"], "scopes_supported": ["mcp:use"]
            })
        );
        let preflight = raw::request(harness.address, "OPTIONS", path, &[], b"").await;
        assert_eq!(preflight.status, 204, "{path}");
        assert_eq!(preflight.header("access-control-allow-methods"), Some("GET, OPTIONS"));
        assert_eq!(
            preflight.header("access-control-allow-headers"),
            Some("mcp-protocol-version, Content-Type, Authorization")
        );
        assert_eq!(preflight.header("access-control-max-age"), Some("86400"));
        let posted = raw::request(harness.address, "POST", path, &[], b"{}").await;
        assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, OPTIONS")));
    }
    for path in [
        "/.well-known/oauth-authorization-server",
        "/.well-known/oauth-protected-resourceful",
        "/.well-known/x",
    ] {
        let answer = raw::get(harness.address, path).await;
        assert_eq!((answer.status, answer.json()), (404, json!({"error": "not_found"})), "{path}");
    }
    let nameless = Harness::start(json!({"oidc_config": {"ResourceURL": ""}})).await;
    let answer = raw::get(nameless.address, "/.well-known/oauth-protected-resource").await;
    assert_eq!((answer.status, answer.json()), (404, json!({"error": "not_found"})));
    let challenge = raw::post_rpc(nameless.address, "/mcp", None, &call("tool-1")).await;
    assert!(!challenge.header("www-authenticate").unwrap().contains("resource_metadata"));
}

//! Several issuers, opaque tokens, scopes that are needed, and floods, seen by clients of the proxy.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skep_testkit::idp::Alg;
use skep_testkit::{
    Answer, FakeIdp, Gate, RawConnection, Recorded, Reply, ScriptedServer, Step, TokenSpec, raw,
};

use crate::harness::{AUDIENCE, Harness, call, cedar, logs, merge, until};

/// What an introspection endpoint answers about tokens that begin with `good`, and others.
fn knows_good_tokens(request: &Recorded) -> Reply {
    let token = request.form_field("token");
    let Some(subject) = token.strip_prefix("good-of-") else {
        return Reply::json(&json!({"active": false}));
    };
    let subject = subject.split('.').next().unwrap();
    Reply::json(&json!({
        "active": true, "sub": subject, "aud": AUDIENCE, "exp": 1_767_229_200, "scope": "mcp:use",
        "client_id": "web", "groups": ["ops"], "username": format!("{subject}@company.example"),
    }))
}

fn asking(endpoint: &ScriptedServer) -> Value {
    let url = endpoint.url("/introspect");
    json!({"oidc_config": {"IntrospectionURL": url, "ClientID": "proxy"}})
}

fn with(mut changes: Value, more: &Value) -> Value {
    merge(&mut changes, more);
    changes
}

async fn post(harness: &Harness, token: &str) -> Answer {
    raw::post_rpc(harness.address, "/mcp", Some(token), &call("tool-0")).await
}

fn validations(harness: &Harness, result: &str) -> f64 {
    harness.metric(&format!(
        "toolhive_remote_proxy_token_validations_total{{proxy=\"demo\",result=\"{result}\"}}"
    ))
}

#[tokio::test]
async fn callers_of_two_issuers_are_told_apart_everywhere() {
    let clock = Arc::new(skep_testkit::ManualClock::default());
    let partner = FakeIdp::with_clock(clock).await;
    partner.rotate();
    let changes = json!({"skep": {"further_issuers": [{
        "subject_prefix": "partner:",
        "oidc_config": {"Issuer": partner.issuer(), "Audience": AUDIENCE, "InsecureAllowHTTP": true},
    }]}});
    let policy = r#"permit(principal == Client::"partner:alice", action, resource);"#;
    let harness = Harness::start(with(changes, &cedar(&[policy]))).await;
    let theirs = post(&harness, &partner.token("alice", AUDIENCE)).await;
    assert_eq!(theirs.status, 200, "{}", theirs.text());
    assert_eq!(harness.post(&call("tool-0")).await.status, 403, "our alice is another one");
    let records = harness.audit.wait(2).await;
    assert_eq!(records[0]["subjects"]["user_id"], "partner:alice");
    assert_eq!(records[0]["subjects"]["issuer"], partner.issuer());
    assert_eq!(records[1]["subjects"]["user_id"], "alice");
    // Neither can sign for the other, and a subject of ours cannot pose as one of theirs.
    let forged = partner.mint(&TokenSpec::valid("alice", AUDIENCE).issuer(harness.idp.issuer()));
    assert_eq!(post(&harness, &forged).await.status, 401);
    let posing = post(&harness, &harness.token("partner:alice")).await;
    assert_eq!((posing.status, &posing.json()["error"]), (401, &json!("invalid_token")));
    // Clients are told about both, and so is the operator.
    let metadata = raw::get(harness.address, "/.well-known/oauth-protected-resource").await.json();
    let issuers = json!([harness.idp.issuer(), partner.issuer()]);
    assert_eq!(metadata["authorization_servers"], issuers);
    let report = |issuer: &str| {
        json!({
            "issuer": issuer, "available": true, "reason": "Available", "message": "",
            "since": "2026-01-01T00:00:00Z",
        })
    };
    let both = json!([report(harness.idp.issuer()), report(partner.issuer())]);
    assert_eq!(harness.proxy.status()["authentication"]["issuers"], both);
    assert_eq!(harness.proxy.status()["authentication"]["available"], true);
    assert_eq!(harness.proxy.keys().len(), 2);
    let refreshes = harness.metric("toolhive_remote_proxy_jwks_refreshes_total{proxy=\"demo\"}");
    assert!(refreshes >= 2.0, "{}", harness.metrics_text());
    // One of them goes away: that is nobody else's business.
    partner.down().await;
    harness.clock.advance(Duration::from_secs(25 * 3600));
    assert_eq!(harness.proxy.status()["authentication"]["available"], false);
    assert_eq!(post(&harness, &partner.token("alice", AUDIENCE)).await.status, 503);
    assert_eq!(harness.post(&call("tool-0")).await.status, 403);
}

#[tokio::test]
async fn opaque_tokens_are_asked_about_with_everything_that_is_known_of_them() {
    let endpoint = ScriptedServer::start(knows_good_tokens).await;
    let policy = r#"permit(principal in THVGroup::"ops", action, resource);"#;
    let harness = Harness::start(with(asking(&endpoint), &cedar(&[policy]))).await;
    let answer = post(&harness, "good-of-alice").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(harness.audit.last(1).await["subjects"]["user_id"], "alice");
    assert_eq!(post(&harness, "good-of-alice").await.status, 200);
    assert_eq!(endpoint.requests().len(), 1, "an answer is kept for a while");
    assert_eq!(endpoint.requests()[0].form_field("client_id"), "proxy");
    assert_eq!(harness.post(&call("tool-0")).await.status, 403, "a JWT without groups, judged by itself");
    assert_eq!(endpoint.requests().len(), 1);
    let refused = post(&harness, "made-up").await;
    assert_eq!(refused.status, 401);
    let expected = json!({"error": "invalid_token", "error_description": "Invalid token: it is not active"});
    assert_eq!(refused.json(), expected);
    assert!(refused.header("www-authenticate").unwrap().contains("error=\"invalid_token\""));
    assert!(validations(&harness, "inactive") == 1.0);
    assert!(harness.backend.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test]
async fn an_endpoint_that_fails_is_not_the_callers_fault() {
    let endpoint =
        ScriptedServer::start(|_| Reply::body(500, "text/plain", "stack trace of the issuer")).await;
    let harness = Harness::start(asking(&endpoint)).await;
    let answer = post(&harness, "good-of-alice").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    let text = "the issuer cannot be asked about the token; try again later";
    assert_eq!(answer.json(), json!({"error": "temporarily_unavailable", "error_description": text}));
    assert_eq!(answer.header("www-authenticate"), None);
    assert!(!answer.text().contains("stack trace") && !answer.text().contains(&endpoint.url("")));
    assert_eq!(harness.audit.last(1).await["outcome"], "error");
    assert!(validations(&harness, "introspection_unavailable") == 1.0);
    assert_eq!(harness.proxy.status()["authentication"]["available"], false);
    assert_eq!(harness.post(&call("tool-0")).await.status, 200, "JWTs need nobody to be asked");
    endpoint.down().await;
    assert_eq!(post(&harness, "good-of-alice").await.status, 503);
    endpoint.up().await;
    endpoint.set_handler(knows_good_tokens);
    assert_eq!(post(&harness, "good-of-alice").await.status, 200, "a failure is not kept");
    assert_eq!(harness.proxy.status()["authentication"]["available"], true);
}

#[tokio::test]
async fn a_token_that_does_not_reach_far_enough_is_told_what_to_ask_for() {
    let changes = json!({"skep": {"issuer": {
        "required_scopes": ["api://mcp/read", "api://mcp/call"], "scope_map": {"api://mcp/read": "read"},
    }}});
    let harness = Harness::start(changes).await;
    for scopes in ["read", "call", "", "mcp:use"] {
        let answer = post(&harness, &harness.mint(|token| token.claim("scope", scopes))).await;
        assert_eq!(answer.status, 403, "{scopes}");
        let text = "the token lacks a scope that is needed here: api://mcp/read api://mcp/call";
        assert_eq!(answer.json(), json!({"error": "insufficient_scope", "error_description": text}));
        let expected = format!(
            "Bearer realm=\"{}\", \
             resource_metadata=\"https://mcp.example/.well-known/oauth-protected-resource/tools\", \
             scope=\"api://mcp/read api://mcp/call\", error=\"insufficient_scope\", error_description=\"{text}\"",
            harness.idp.issuer()
        );
        assert_eq!(answer.header_all("www-authenticate"), [expected.as_str()]);
    }
    assert_eq!(harness.audit.wait(4).await[3]["outcome"], "denied");
    assert!(validations(&harness, "insufficient_scope") == 4.0);
    assert_eq!(harness.backend.connections(), 0);
    for claim in [json!("read api://mcp/call"), json!(["api://mcp/call", "read", "x"])] {
        let token = harness.mint(|token| token.claim("scp", claim.clone()));
        assert_eq!(post(&harness, &token).await.status, 200, "{claim}");
    }
    // Who has no token yet is told about them at once.
    let answer = raw::post_rpc(harness.address, "/mcp", None, &call("tool-0")).await;
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.contains("scope=\"mcp:use api://mcp/read api://mcp/call\""), "{challenge}");
    let metadata = raw::get(harness.address, "/.well-known/oauth-protected-resource").await.json();
    assert_eq!(metadata["scopes_supported"], json!(["mcp:use", "api://mcp/read", "api://mcp/call"]));
}

async fn post_from(harness: &Harness, source: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [
        ("Content-Type", "application/json"),
        ("Authorization", bearer.as_str()),
        ("X-Forwarded-For", source),
    ];
    let body = call("tool-0").to_string();
    RawConnection::open(harness.address).await.request("POST", "/mcp", &headers, body.as_bytes()).await
}

#[tokio::test]
async fn a_flood_from_one_address_shuts_out_nobody_else() {
    let endpoint = ScriptedServer::start(knows_good_tokens).await;
    let changes = with(asking(&endpoint), &json!({"trust_proxy_headers": true}));
    let harness = Harness::start(changes).await;
    assert_eq!(post_from(&harness, "192.0.2.66", "good-of-mallory").await.status, 200);
    let mut answers = Vec::new();
    for round in 0..40 {
        answers.push(post_from(&harness, "192.0.2.66", &format!("made-up-{round}")).await);
    }
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [vec![401; 20], vec![429; 20]].concat());
    let limited = answers.pop().unwrap();
    assert_eq!(limited.header("retry-after"), Some("1"));
    assert_eq!(limited.json()["error"], "temporarily_unavailable");
    assert_eq!(limited.header("www-authenticate"), None);
    assert_eq!(endpoint.requests().len(), 21);
    assert!(validations(&harness, "source_limited") == 20.0);
    // Their own token that is known, a JWT, and other addresses go on.
    assert_eq!(post_from(&harness, "192.0.2.66", "good-of-mallory").await.status, 200);
    assert_eq!(post_from(&harness, "192.0.2.66", &harness.token("mallory")).await.status, 200);
    assert_eq!(post_from(&harness, "192.0.2.1", "good-of-alice").await.status, 200);
    assert_eq!(post_from(&harness, "2001:db8::1", "good-of-bob").await.status, 200);
    // A change of the rules is no pardon; time is.
    let stricter = json!({"skep": {"issuer": {"clock_skew_seconds": 10}}});
    harness.proxy.reload(harness.changed(stricter).unwrap()).unwrap();
    assert_eq!(post_from(&harness, "192.0.2.66", "made-up-again").await.status, 429);
    harness.clock.advance(Duration::from_secs(1));
    assert_eq!(post_from(&harness, "192.0.2.66", "good-of-mallory.2").await.status, 200);
}

#[tokio::test]
async fn clients_that_call_for_themselves_have_names_of_their_own() {
    let policy = r#"permit(principal == Client::"client:nightly-bot", action, resource);"#;
    let harness = Harness::start(cedar(&[policy])).await;
    let bot = harness.mint(|token| token.claim("sub", "nightly-bot").claim("client_id", "nightly-bot"));
    assert_eq!(post(&harness, &bot).await.status, 200);
    assert_eq!(harness.audit.last(1).await["subjects"]["user_id"], "client:nightly-bot");
    let posing = harness.token("client:nightly-bot");
    assert_eq!(post(&harness, &posing).await.status, 401);
    let for_a_user = harness.mint(|token| token.claim("client_id", "nightly-bot"));
    assert_eq!(post(&harness, &for_a_user).await.status, 403);
}

#[tokio::test]
async fn other_clients_tokens_and_bound_tokens_are_refused() {
    let harness = Harness::start(json!({"skep": {"issuer": {"authorized_parties": ["web"]}}})).await;
    let token = harness.mint(|token| token.claim("azp", "web"));
    assert_eq!(post(&harness, &token).await.status, 200);
    let other = post(&harness, &harness.mint(|token| token.claim("azp", "other"))).await;
    assert_eq!((other.status, &other.json()["error"]), (401, &json!("invalid_token")));
    for cnf in [json!({"jkt": "x"}), json!({"x5t#S256": "x"}), json!({"what": "ever"})] {
        let bound = harness.mint(|token| token.claim("azp", "web").claim("cnf", cnf.clone()));
        assert_eq!(post(&harness, &bound).await.status, 401, "{cnf}");
    }
    assert!(validations(&harness, "party") == 1.0 && validations(&harness, "bound") == 3.0);
}

#[tokio::test]
async fn policies_on_groups_deny_callers_whose_groups_are_not_told() {
    let policies = [
        "permit(principal, action, resource);",
        r#"forbid(principal in THVGroup::"contractors", action, resource == Tool::"tool-1");"#,
    ];
    let harness = Harness::start(cedar(&policies)).await;
    let unknown = harness.mint(|token| token.claim("_claim_names", json!({"groups": "src1"})));
    let ask = |token: String, tool: &'static str| {
        let address = harness.address;
        async move { raw::post_rpc(address, "/mcp", Some(&token), &call(tool)).await.status }
    };
    assert_eq!(ask(unknown.clone(), "tool-0").await, 200, "no policy on this tool looks at groups");
    assert_eq!(ask(unknown, "tool-1").await, 403);
    assert_eq!(ask(harness.token("alice"), "tool-1").await, 200, "no groups is an answer");
}

#[tokio::test]
async fn claims_are_taken_from_where_the_configuration_says() {
    let changes = json!({"skep": {"issuer": {"claim_mappings": {
        "subject": "https://company.example/id", "groups": "realm_access.roles", "name": "display",
    }}}});
    let policy = r#"permit(principal == Client::"a-1", action, resource) when { principal in THVGroup::"ops" && context.claim_groups.contains("ops") };"#;
    let harness = Harness::start(with(changes, &cedar(&[policy]))).await;
    let mapped = |roles: Value| {
        harness.mint(|token| {
            token
                .claim("https://company.example/id", "a-1")
                .claim("groups", json!(["ops"]))
                .claim("display", "Alice")
                .claim("realm_access", json!({"roles": roles}))
        })
    };
    assert_eq!(post(&harness, &mapped(json!(["ops"]))).await.status, 200);
    assert_eq!(
        post(&harness, &mapped(json!(["dev"]))).await.status,
        403,
        "the token's own groups don't count"
    );
    assert_eq!(harness.audit.wait(2).await[0]["subjects"]["user"], "Alice");
    assert_eq!(harness.post(&call("tool-0")).await.status, 401, "a subject that is mapped and missing");
}

#[tokio::test]
async fn many_callers_with_one_opaque_token_ask_once_and_one_who_hangs_up_spoils_nothing() {
    let gate = Gate::new();
    let waiting = gate.clone();
    let endpoint = ScriptedServer::start(move |_| {
        let body = json!({"active": true, "sub": "alice", "aud": AUDIENCE, "exp": 1_767_229_200});
        Reply::status(200).step(Step::Wait(waiting.clone())).step(Step::Send(body.to_string().into()))
    })
    .await;
    let harness = Harness::start(asking(&endpoint)).await;
    let address = harness.address;
    let first =
        tokio::spawn(async move { raw::post_rpc(address, "/mcp", Some("opaque"), &call("tool-0")).await });
    endpoint.wait_for_requests(1).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        callers.spawn(
            async move { raw::post_rpc(address, "/mcp", Some("opaque"), &call("tool-0")).await.status },
        );
    }
    first.abort();
    gate.open();
    assert!(callers.join_all().await.iter().all(|status| *status == 200));
    assert_eq!(endpoint.requests().len(), 1);
}

#[tokio::test]
async fn secrets_and_tokens_do_not_show_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "introspection-s3cret\n").unwrap();
    let endpoint = ScriptedServer::start(knows_good_tokens).await;
    let files = json!({"skep": {"secret_files": {"TOOLHIVE_OIDC_CLIENT_SECRET": path}}});
    let harness = Harness::start(with(asking(&endpoint), &files)).await;
    let tokens = ["good-of-hidden-alice", "made-up-hidden-token"];
    for token in tokens {
        post(&harness, token).await;
    }
    // base64 of proxy:introspection-s3cret
    let basic = "Basic cHJveHk6aW50cm9zcGVjdGlvbi1zM2NyZXQ=";
    assert_eq!(endpoint.requests()[0].header("authorization"), Some(basic));
    endpoint.set_handler(|_| Reply::status(401));
    post(&harness, "another-hidden-token").await;
    endpoint.down().await;
    post(&harness, "one-more-hidden-token").await;
    until("the failures are logged", || logs().contains("cannot ask the issuer about a token")).await;
    let seen = format!("{}{}{}", logs(), harness.audit.text(), harness.metrics_text());
    for secret in
        ["introspection-s3cret", "hidden-token", "good-of-hidden", "cHJveHk6aW50cm9zcGVjdGlvbi1zM2NyZXQ"]
    {
        assert!(!seen.contains(secret), "{secret}");
    }
    // A rotated secret is used from the next version of the configuration on; keys and debts stay.
    endpoint.up().await;
    endpoint.set_handler(knows_good_tokens);
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    let hits = harness.idp.jwks_hits();
    std::fs::write(&path, "rotated").unwrap();
    harness.proxy.reload(harness.changed(json!({})).unwrap()).unwrap();
    assert_eq!(post(&harness, "good-of-alice").await.status, 200);
    let last = endpoint.requests().pop().unwrap();
    assert_eq!(last.header("authorization"), Some("Basic cHJveHk6cm90YXRlZA=="));
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(harness.idp.jwks_hits(), hits);
}

#[tokio::test]
async fn a_proxy_takes_new_issuers_without_a_restart() {
    let partner = FakeIdp::with_clock(Arc::new(skep_testkit::ManualClock::default())).await;
    let harness = Harness::start(json!({})).await;
    let token = partner.mint(&TokenSpec::valid("bob", AUDIENCE).alg(Alg::Es256));
    assert_eq!(post(&harness, &token).await.status, 401);
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    let changes = json!({"skep": {"further_issuers": [{
        "subject_prefix": "p/",
        "oidc_config": {"Issuer": partner.issuer(), "Audience": AUDIENCE, "InsecureAllowHTTP": true},
    }]}});
    harness.proxy.reload(harness.changed(changes).unwrap()).unwrap();
    assert_eq!(post(&harness, &token).await.status, 200);
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(harness.idp.jwks_hits(), 1, "the keys of the first are still at hand");
    harness.proxy.reload(harness.changed(json!({})).unwrap()).unwrap();
    assert_eq!(post(&harness, &token).await.status, 401);
}

#[tokio::test]
async fn who_vouches_for_one_issuer_vouches_for_no_other() {
    let authority = skep_testkit::TestCa::new();
    let tls = skep_testkit::Tls::with(&authority.server(&["127.0.0.1"]));
    let partner = FakeIdp::over_tls(Arc::new(skep_testkit::ManualClock::default()), &tls).await;
    let bundle = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bundle.path(), authority.pem()).unwrap();
    let config = |own: Option<&std::path::Path>| {
        let mut oidc = json!({"Issuer": partner.issuer(), "Audience": AUDIENCE});
        if let Some(path) = own {
            oidc["CACertPath"] = json!(path);
        }
        // What ToolHive writes beside the first issuer's own setting.
        json!({"thv_ca_bundle": bundle.path(),
               "skep": {"further_issuers": [{"subject_prefix": "partner:", "oidc_config": oidc}]}})
    };
    let token = partner.token("alice", AUDIENCE);
    let harness = Harness::start(config(None)).await;
    assert_eq!(post(&harness, &token).await.status, 503, "its certificate is a stranger's");
    let harness = Harness::start(config(Some(bundle.path()))).await;
    assert_eq!(post(&harness, &token).await.status, 200);
}

//! Callers who want to be taken for somebody else, or to be somewhere else, seen from outside.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skep_testkit::{
    Answer, FakeIdp, ManualClock, RawConnection, Recorded, Reply, ScriptedServer, TokenSpec, raw,
};

use crate::harness::{AUDIENCE, Harness, call, cedar, logs, merge};

fn knows_good_tokens(request: &Recorded) -> Reply {
    match request.form_field("token").strip_prefix("good-of-") {
        Some(subject) => Reply::json(&json!({
            "active": true, "sub": subject, "aud": AUDIENCE, "exp": 1_767_229_200, "scope": "mcp:use",
        })),
        None => Reply::json(&json!({"active": false})),
    }
}

fn asking(endpoint: &ScriptedServer, more: &Value) -> Value {
    let mut changes = json!({"oidc_config": {"IntrospectionURL": endpoint.url("/introspect")}});
    merge(&mut changes, more);
    changes
}

async fn post(harness: &Harness, token: &str) -> Answer {
    raw::post_rpc(harness.address, "/mcp", Some(token), &call("tool-0")).await
}

async fn post_from(harness: &Harness, forwarded: &[&str], token: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("Content-Type", "application/json"), ("Authorization", bearer.as_str())];
    headers.extend(forwarded.iter().map(|value| ("X-Forwarded-For", *value)));
    let body = call("tool-0").to_string();
    let mut connection = RawConnection::open(harness.address).await;
    connection.request("POST", "/mcp", &headers, body.as_bytes()).await.status
}

#[tokio::test]
async fn a_user_does_not_become_a_client_by_claims_of_his_own() {
    let policies = [
        r#"permit(principal == Client::"client:web", action, resource);"#,
        r#"permit(principal == Client::"alice", action, resource == Tool::"tool-1");"#,
    ];
    let harness = Harness::start(cedar(&policies)).await;
    for claims in [
        json!({"idtyp": "app"}),
        json!({"gty": "client-credentials"}),
        json!({"client_id": "alice"}),
        json!({"tid": "t", "oid": "alice"}),
        json!({"preferred_username": "service-account-web"}),
    ] {
        let token = harness.mint(|token| {
            let token = token.claim("azp", "web");
            claims
                .as_object()
                .unwrap()
                .iter()
                .fold(token, |token, (name, value)| token.claim(name, value.clone()))
        });
        assert_eq!(post(&harness, &token).await.status, 403, "{claims}");
        let own = raw::post_rpc(harness.address, "/mcp", Some(&token), &call("tool-1")).await;
        assert_eq!(own.status, 200, "who he is does not change: {claims}");
    }
    for record in harness.audit.wait(10).await {
        assert_eq!(record["subjects"]["user_id"], "alice");
    }
}

#[tokio::test]
async fn a_group_of_another_issuer_is_another_group() {
    let partner = FakeIdp::with_clock(Arc::new(ManualClock::default())).await;
    partner.rotate();
    let mut changes = json!({"skep": {"further_issuers": [{
        "subject_prefix": "partner:",
        "oidc_config": {"Issuer": partner.issuer(), "Audience": AUDIENCE, "InsecureAllowHTTP": true},
    }]}});
    let policies = [
        r#"permit(principal in THVGroup::"admins", action, resource == Tool::"tool-0");"#,
        r#"permit(principal, action, resource == Tool::"tool-1") when { principal in THVGroup::"partner:admins" };"#,
        r#"permit(principal, action, resource == Tool::"tool-2") unless { principal in THVGroup::"admins" };"#,
    ];
    merge(&mut changes, &cedar(&policies));
    let harness = Harness::start(changes).await;
    let member = |spec: TokenSpec, groups: Value| spec.claim("groups", groups);
    let of_ours = |groups: Value| harness.mint(|token| member(token, groups));
    let of_theirs =
        |groups: Value| partner.mint(&member(TokenSpec::valid("alice", AUDIENCE), groups).expires_in(3600));
    for (what, token, expected) in [
        ("an admin of ours", of_ours(json!(["admins"])), [200, 403, 403]),
        ("an admin of theirs", of_theirs(json!(["admins"])), [403, 200, 200]),
        ("one of ours whose group is named like theirs", of_ours(json!(["partner:admins"])), [403, 403, 200]),
        ("one of theirs whose group is named twice", of_theirs(json!("partner:admins")), [403, 403, 200]),
    ] {
        for (tool, status) in ["tool-0", "tool-1", "tool-2"].into_iter().zip(expected) {
            let answer = raw::post_rpc(harness.address, "/mcp", Some(&token), &call(tool)).await;
            assert_eq!(answer.status, status, "{what}, {tool}");
        }
    }
}

#[tokio::test]
async fn nobody_gets_more_attempts_by_naming_other_addresses() {
    let endpoint = ScriptedServer::start(knows_good_tokens).await;
    // Nobody is trusted to say where a call comes from: the connection counts.
    let harness = Harness::start(asking(&endpoint, &json!({}))).await;
    let mut refused = 0;
    for round in 0..40 {
        let address = format!("192.0.2.{round}");
        let status = post_from(&harness, &[&address], &format!("made-up-{round}")).await;
        refused += usize::from(status == 429);
    }
    assert_eq!(refused, 20);
    // The hop in front is trusted: what it added counts, not what it was sent.
    let harness = Harness::start(asking(&endpoint, &json!({"trust_proxy_headers": true}))).await;
    let mut refused = 0;
    for round in 0..40 {
        let faked = format!("192.0.2.{round}, 203.0.113.7");
        let other = format!("198.51.100.{round}");
        let forwarded =
            if round % 2 == 0 { vec![faked.as_str()] } else { vec![other.as_str(), "203.0.113.7"] };
        let status = post_from(&harness, &forwarded, &format!("made-up-{round}")).await;
        refused += usize::from(status == 429);
    }
    assert_eq!(refused, 20);
    assert_eq!(post_from(&harness, &["203.0.113.8"], "good-of-bob").await, 200);
    // One address in the form of the other family, and one network of 64 bits, are one source.
    let families = [["::ffff:203.0.113.9", "203.0.113.9"], ["2001:db8:7::1", "2001:db8:7:0:ffff:ffff::2"]];
    for (number, family) in families.iter().enumerate() {
        let mut refused = 0;
        for round in 0..30 {
            let status = post_from(&harness, &[family[round % 2]], &format!("odd-{number}-{round}")).await;
            refused += usize::from(status == 429);
        }
        assert_eq!(refused, 10, "{family:?}");
    }
}

#[tokio::test]
async fn what_was_good_under_the_old_rules_is_judged_anew_under_the_new() {
    let endpoint = ScriptedServer::start(knows_good_tokens).await;
    let harness = Harness::start(asking(&endpoint, &json!({}))).await;
    let (jwt, opaque) = (harness.token("alice"), "good-of-alice");
    for token in [jwt.as_str(), opaque] {
        assert_eq!(post(&harness, token).await.status, 200);
    }
    for (changes, status) in [
        (json!({"oidc_config": {"Audience": "another"}}), 401),
        (json!({"skep": {"issuer": {"required_scopes": ["mcp:admin"]}}}), 403),
        (json!({"skep": {"issuer": {"authorized_parties": ["nobody"]}}}), 401),
        (json!({"skep": {"issuer": {"claim_mappings": {"subject": "employee"}}}}), 401),
        (json!({"skep": {"issuer": {"audiences": ["more"]}}}), 200),
    ] {
        harness.proxy.reload(harness.changed(changes.clone()).unwrap()).unwrap();
        for token in [jwt.as_str(), opaque] {
            assert_eq!(post(&harness, token).await.status, status, "{changes}");
        }
    }
    // Nobody is asked any more: then an opaque token is none.
    harness.proxy.reload(harness.changed(json!({"oidc_config": {"IntrospectionURL": ""}})).unwrap()).unwrap();
    assert_eq!((post(&harness, &jwt).await.status, post(&harness, opaque).await.status), (200, 401));
    // Other algorithms, too: what was verified before was verified with one that counts no more.
    let stricter = json!({"skep": {"issuer": {"allowed_algorithms": ["ES256"]}}});
    harness.proxy.reload(harness.changed(stricter).unwrap()).unwrap();
    assert_eq!(post(&harness, &jwt).await.status, 401);
}

#[tokio::test]
async fn only_who_has_a_good_token_learns_which_scopes_are_needed() {
    let changes = json!({
        "oidc_config": {"Scopes": null},
        "skep": {"issuer": {"required_scopes": ["internal:payroll"], "authorized_parties": ["web"]}},
    });
    let harness = Harness::start(changes).await;
    for (what, token) in [
        ("expired", harness.mint(|token| token.claim("azp", "web").expired())),
        ("for somebody else", harness.mint(|token| token.claim("azp", "web").audience("other"))),
        ("of another client", harness.mint(|token| token.claim("azp", "other"))),
        ("bound", harness.mint(|token| token.claim("azp", "web").claim("cnf", json!({"jkt": "x"})))),
        ("nobody's", harness.mint(|token| token.claim("azp", "web").without_claim("sub"))),
        ("forged", harness.mint(|token| token.claim("azp", "web").wrong_signature())),
    ] {
        let answer = post(&harness, &token).await;
        assert_eq!(answer.status, 401, "{what}");
        assert_eq!(answer.json()["error"], "invalid_token", "{what}");
        assert!(!answer.text().contains("payroll"), "{what}");
    }
    let answer = post(&harness, &harness.mint(|token| token.claim("azp", "web"))).await;
    assert_eq!((answer.status, &answer.json()["error"]), (403, &json!("insufficient_scope")));
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.contains("scope=\"internal:payroll\""), "{challenge}");
    assert!(!challenge.contains("web"), "{challenge}");
}

#[tokio::test]
async fn a_crafted_token_does_not_make_the_proxy_look_ill_or_forget_its_callers() {
    // An endpoint that chokes on some tokens.
    let endpoint = ScriptedServer::start(|request| {
        if request.form_field("token").starts_with("choke") {
            Reply::status(500)
        } else {
            knows_good_tokens(request)
        }
    })
    .await;
    let harness = Harness::start(asking(&endpoint, &json!({}))).await;
    assert_eq!(post(&harness, "good-of-alice").await.status, 200);
    assert_eq!(post(&harness, "choke-1").await.status, 503);
    let ready = raw::get(harness.address, "/readyz").await;
    assert_eq!(ready.status, 200);
    assert_eq!(post(&harness, "good-of-alice").await.status, 200);
    assert_eq!(post(&harness, "good-of-bob").await.status, 200, "one bad answer is no reason to stop asking");
    assert_eq!(harness.proxy.status()["authentication"]["available"], true);
}

#[tokio::test]
async fn tokens_are_in_no_log_whatever_is_wrong_with_them() {
    let harness = Harness::start(json!({})).await;
    let mut secrets = Vec::new();
    for token in [
        harness.mint(|token| token.claim("secret", "hidden-1")),
        harness.mint(|token| token.claim("secret", "hidden-2").expired()),
        harness.mint(|token| token.claim("secret", "hidden-3").unknown_kid()),
        harness.mint(|token| token.claim("secret", "hidden-4").wrong_signature()),
        harness.mint(|token| token.claim("secret", "hidden-5").unsigned()),
        harness.mint(|token| token.claim("secret", "hidden-6").issuer("https://other.example")),
        format!("{}x", harness.mint(|token| token.claim("secret", "hidden-7"))),
    ] {
        post(&harness, &token).await;
        let mut parts = token.split('.').skip(1).map(str::to_owned);
        secrets.extend(parts.next());
        secrets.extend(parts.next().filter(|signature| signature.len() > 8));
    }
    harness.clock.advance(Duration::from_secs(1));
    let seen = format!("{}{}{}", logs(), harness.audit.text(), harness.metrics_text());
    for secret in secrets {
        assert!(!seen.contains(&secret), "{secret}");
    }
    assert!(!seen.contains("hidden-"));
}

use std::time::Duration;

use serde_json::{Value, json};
use skep_api::secret::Secret;
use skep_authserver::clients::Client;
use skep_authserver::keys::SigningKey;
use skep_authserver::{AuthServer, Config, User, UserGrant};
use skep_testkit::{Answer, SeededRng};

use crate::running::{NOW, RESOURCE, Running};

const BACKEND: &str = "https://backend.example";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

fn alice() -> User {
    User {
        subject: "u-1".to_owned(),
        name: Some("Alice".to_owned()),
        email: Some("alice@example.com".to_owned()),
        groups: vec!["admins".to_owned()],
        extra: [("department".to_owned(), json!("tools"))].into_iter().collect(),
    }
}

/// A token of alice for the proxy, with the scopes a, b and openid.
fn token_of(server: &AuthServer, lifetime: u64) -> String {
    token_for(server, RESOURCE, lifetime)
}

/// The same for somebody else.
fn token_for(server: &AuthServer, audience: &str, lifetime: u64) -> String {
    let scopes = ["a", "b", "openid"].map(str::to_owned);
    let user = alice();
    let grant = UserGrant {
        user: &user,
        client_id: "skep-demo",
        audience,
        scopes: &scopes,
        lifetime: Duration::from_secs(lifetime),
    };
    server.issue_for_user(&grant).unwrap().access_token.expose().to_owned()
}

/// A request of the client `proxy`, with these parameters on top; an empty value takes one away.
async fn exchange(server: &Running, subject: &str, changes: &[(&str, &str)]) -> Answer {
    exchange_as(server, "proxy", subject, changes).await
}

async fn exchange_as(server: &Running, client: &str, subject: &str, changes: &[(&str, &str)]) -> Answer {
    let secret = format!("{client}-secret");
    let mut form = vec![
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("client_id", client),
        ("client_secret", secret.as_str()),
        ("subject_token", subject),
        ("subject_token_type", ACCESS_TOKEN),
        ("audience", BACKEND),
    ];
    for (name, value) in changes {
        // The parameters that may come twice are added, after the first one was taken away.
        let repeated = matches!(*name, "audience" | "resource") && !value.is_empty();
        if !repeated {
            form.retain(|(known, _)| known != name);
        }
        form.push((name, value));
    }
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    server.token(&[], &body).await
}

#[tokio::test]
async fn a_users_token_is_exchanged_for_one_that_the_backend_accepts() {
    let server = Running::start().await;
    let answer = exchange(&server, &token_of(&server.server, 3600), &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let body = answer.json();
    assert_eq!(body["issued_token_type"], ACCESS_TOKEN);
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 600);
    assert_eq!(body["scope"], "a", "what both the user's token and the client have");
    assert_eq!(body.get("refresh_token"), None);

    let (header, claims) = server.verify(body["access_token"].as_str().unwrap(), BACKEND).await;
    assert_eq!(header.typ.as_deref(), Some("at+jwt"));
    let jti = claims["jti"].as_str().unwrap();
    assert_eq!(
        claims,
        json!({
            "iss": server.server.issuer().as_str(),
            "sub": "u-1",
            "client_id": "proxy",
            "aud": BACKEND,
            "iat": NOW,
            "exp": NOW + 600,
            "jti": jti,
            "scope": "a",
            "name": "Alice",
            "email": "alice@example.com",
            "groups": ["admins"],
            "act": {"sub": "proxy"},
        }),
        "and nothing else of what the user's token says"
    );
}

#[tokio::test]
async fn the_new_token_ends_with_the_users_token_at_the_latest() {
    let server = Running::start().await;
    let token = token_of(&server.server, 100);
    let table = [(0, Some(100)), (40, Some(60)), (99, Some(1)), (100, None), (5000, None)];
    let mut at = 0;
    for (later, expected) in table {
        server.clock.advance(Duration::from_secs(later - at));
        at = later;
        let body = exchange(&server, &token, &[]).await.json();
        match expected {
            Some(left) => {
                assert_eq!(body["expires_in"], left, "{later}");
                let (_, claims) = server.verify(body["access_token"].as_str().unwrap(), BACKEND).await;
                assert_eq!(claims["exp"], NOW + 100, "{later}");
            }
            None => assert_eq!(body["error"], "invalid_request", "{later}: RFC 8693 section 2.2.2"),
        }
    }
}

#[tokio::test]
async fn the_token_is_for_an_audience_that_the_client_may_use() {
    let server = Running::start().await;
    let subject = token_of(&server.server, 3600);
    const OTHER: &str = "https://other.example/api";
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Result<&'a str, &'a str>);
    let table: [Case<'_>; 15] = [
        ("proxy", &[], Ok(BACKEND)),
        ("proxy", &[("audience", "")], Ok(BACKEND)),
        ("proxy", &[("audience", ""), ("resource", "HTTPS://backend.example:443")], Ok(BACKEND)),
        ("proxy", &[("resource", "https://backend.example/")], Ok(BACKEND)),
        ("proxy", &[("audience", BACKEND)], Ok(BACKEND)),
        ("proxy", &[("audience", OTHER)], Err("invalid_target")),
        ("proxy", &[("resource", OTHER)], Err("invalid_target")),
        ("proxy", &[("resource", "backend")], Err("invalid_target")),
        ("proxy", &[("audience", ""), ("resource", "https://backend.example#x")], Err("invalid_target")),
        ("proxy", &[("audience", ""), ("audience", RESOURCE)], Err("invalid_target")),
        ("wide", &[("audience", ""), ("audience", OTHER)], Ok(OTHER)),
        ("wide", &[("audience", ""), ("audience", "backend")], Ok("backend")),
        ("wide", &[("audience", "")], Err("invalid_target")),
        ("wide", &[("resource", OTHER)], Err("invalid_target")),
        ("wide", &[("audience", ""), ("audience", "https://other.example")], Err("invalid_target")),
    ];
    for (client, changes, expected) in table {
        let body = exchange_as(&server, client, &subject, changes).await.json();
        match expected {
            Ok(audience) => {
                let token = body["access_token"].as_str().unwrap_or_else(|| panic!("{changes:?}: {body}"));
                let (_, claims) = server.verify(token, audience).await;
                assert_eq!(claims["aud"], audience, "{client} {changes:?}");
            }
            Err(error) => assert_eq!(body["error"], error, "{client} {changes:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_exchanges_only_tokens_for_what_it_serves_and_for_itself() {
    let server = Running::start().await;
    let table = [
        ("proxy", RESOURCE, true),
        ("proxy", BACKEND, true),
        ("proxy", "proxy", true),
        ("proxy", "own", false),
        ("proxy", "https://other.example/api", false),
        ("wide", RESOURCE, true),
        ("wide", BACKEND, false),
        ("own", "own", true),
        ("own", RESOURCE, false),
    ];
    for (client, audience, fine) in table {
        let subject = token_for(&server.server, audience, 3600);
        let body = exchange_as(&server, client, &subject, &[]).await.json();
        assert_eq!(body.get("access_token").is_some(), fine, "{client} {audience}: {body}");
        if !fine {
            assert_eq!(body["error"], "invalid_request", "{client} {audience}");
        }
    }
}

#[tokio::test]
async fn the_token_of_a_client_never_becomes_a_users() {
    let server = Running::start_with("", |config: &mut Config| {
        let secret = Secret::new("both-secret");
        let both = Client::new("both", &secret).with_audience("both").with_exchange_audience(BACKEND);
        assert!(config.clients.insert(both));
    })
    .await;
    let form = "grant_type=client_credentials&client_id=both&client_secret=both-secret";
    let own = server.token(&[], form).await.json()["access_token"].as_str().unwrap().to_owned();
    let body = exchange_as(&server, "both", &own, &[]).await.json();
    assert_eq!(body["error"], "invalid_request", "{body}");
    let user = exchange_as(&server, "both", &token_for(&server.server, "both", 3600), &[]).await.json();
    assert!(user["access_token"].is_string(), "{user}");
}

#[tokio::test]
async fn the_scope_is_never_more_than_the_user_and_the_client_have() {
    let server = Running::start().await;
    let subject = token_of(&server.server, 3600);
    let table = [
        ("a", json!("a")),
        ("a a", json!("a")),
        ("", json!("a")),
        ("b", Value::Null),
        ("c", Value::Null),
        ("openid", Value::Null),
        ("a b", Value::Null),
        ("a\"", Value::Null),
    ];
    for (scope, expected) in table {
        let body = exchange(&server, &subject, &[("scope", scope)]).await.json();
        assert_eq!(body["scope"], expected, "{scope:?}");
        if expected.is_null() {
            assert_eq!(body["error"], "invalid_scope", "{scope:?}");
        }
    }
}

#[tokio::test]
async fn who_acted_before_is_told_and_the_row_ends() {
    let server = Running::start().await;
    let mut token = token_of(&server.server, 3600);
    let mut expected = json!({"sub": "proxy"});
    for round in 1..=10 {
        let body = exchange(&server, &token, &[]).await.json();
        token = body["access_token"].as_str().unwrap_or_else(|| panic!("{round}: {body}")).to_owned();
        let (_, claims) = server.verify(&token, BACKEND).await;
        assert_eq!(claims["act"], expected, "{round}");
        assert_eq!(claims["sub"], "u-1");
        expected = json!({"sub": "proxy", "act": expected});
    }
    let body = exchange(&server, &token, &[]).await.json();
    assert_eq!(body["error"], "invalid_request", "ten actors are enough");
}

/// A server with a key that the test has too, so that it can sign what no server would.
async fn with_known_key() -> (Running, SigningKey) {
    let key = || SigningKey::generate(&SeededRng::new(77)).unwrap();
    let server = Running::start_with("", |config: &mut Config| config.signing_keys.push(key())).await;
    (server, key())
}

#[tokio::test]
async fn what_the_users_token_says_is_kept_to() {
    let (server, key) = with_known_key().await;
    let claims = |changes: Value| {
        let mut claims = json!({
            "iss": server.server.issuer().as_str(),
            "sub": "u-1",
            "aud": RESOURCE,
            "client_id": "skep-demo",
            "exp": NOW + 60,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    let table = [
        (json!({}), true),
        (json!({"may_act": {"sub": "proxy"}}), true),
        (json!({"may_act": {"sub": "wide"}}), false),
        (json!({"may_act": {}}), false),
        (json!({"may_act": "proxy"}), false),
        (json!({"iss": "https://id.example"}), false),
        (json!({"iss": null}), false),
        (json!({"sub": ""}), false),
        (json!({"sub": 7}), false),
        (json!({"exp": NOW}), false),
        (json!({"exp": "soon"}), false),
        (json!({"exp": null}), false),
        (json!({"exp": i64::MIN}), false),
        (json!({"exp": i64::MAX}), true),
        (json!({"aud": "https://other.example"}), false),
        (json!({"aud": "https://mcp.example"}), false),
        (json!({"aud": "HTTPS://MCP.example:443/mcp"}), true),
        (json!({"aud": ["https://other.example", RESOURCE]}), true),
        (json!({"aud": ["https://other.example"]}), false),
        (json!({"aud": "proxy"}), true),
        (json!({"aud": "wide"}), false),
        (json!({"aud": []}), false),
        (json!({"aud": ""}), false),
        (json!({"aud": {"0": RESOURCE}}), false),
        (json!({"aud": null}), false),
        // A client's own, or one that would become one.
        (json!({"sub": "skep-demo"}), false),
        (json!({"sub": "proxy"}), false),
        (json!({"client_id": null}), false),
        (json!({"client_id": ""}), false),
        (json!({"client_id": ["skep-demo"]}), false),
    ];
    for (changes, fine) in table {
        let token = key.sign_jwt("at+jwt", &claims(changes.clone())).unwrap();
        let answer = exchange(&server, token.expose(), &[]).await;
        let expected = if fine { 200 } else { 400 };
        assert_eq!(answer.status, expected, "{changes}: {}", answer.text());
        if !fine {
            assert_eq!(answer.json()["error"], "invalid_request", "{changes}");
        }
    }
    let odd = key.sign_jwt("at+jwt", &claims(json!({"tsid": "s", "groups": ["g", 7], "name": 1}))).unwrap();
    let body = exchange(&server, odd.expose(), &[]).await.json();
    let (_, claims) = server.verify(body["access_token"].as_str().unwrap(), BACKEND).await;
    assert_eq!(claims.get("tsid"), None, "a session does not survive an exchange");
    assert_eq!((&claims["groups"], claims.get("name")), (&json!(["g"]), None));
}

#[tokio::test]
async fn every_refusal_has_its_code_and_says_what_to_do() {
    let (server, key) = with_known_key().await;
    let subject = token_of(&server.server, 3600);
    let other = Running::start_with("/other", |_| {}).await;
    let foreign = token_of(&other.server, 3600);
    let id_token = key.sign_jwt("JWT", &json!({"sub": "u-1", "exp": NOW + 60})).unwrap();
    let tampered = format!("{subject}x");
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);
    let elsewhere = token_for(&server.server, "https://other.example", 3600);
    let form = "grant_type=client_credentials&client_id=ci&client_secret=ci-secret";
    let of_a_client = server.token(&[], form).await.json()["access_token"].as_str().unwrap().to_owned();
    let changed: [Case<'_>; 15] = [
        ("no subject token", "", &[]),
        ("no subject token type", &subject, &[("subject_token_type", "")]),
        (
            "an ID token by type",
            &subject,
            &[("subject_token_type", "urn:ietf:params:oauth:token-type:id_token")],
        ),
        ("a short name of a type", &subject, &[("subject_token_type", "access_token")]),
        ("an ID token of this server", id_token.expose(), &[("subject_token_type", JWT)]),
        ("no token at all", "hunter2", &[]),
        ("another server's token", &foreign, &[]),
        ("a changed token", &tampered, &[]),
        ("a token for somebody else", &elsewhere, &[]),
        ("a token of a client", &of_a_client, &[]),
        (
            "a refresh token wanted",
            &subject,
            &[("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token")],
        ),
        ("an actor token", &subject, &[("actor_token", &subject), ("actor_token_type", ACCESS_TOKEN)]),
        ("an unknown audience", &subject, &[("audience", "https://unknown.example")]),
        ("a scope too many", &subject, &[("scope", "a b")]),
        ("a wrong secret", &subject, &[("client_secret", "x")]),
    ];
    let mut said = Vec::new();
    let mut say = |name: &str, answer: Answer| {
        let body = answer.json();
        let text = body["error_description"].as_str().unwrap_or_else(|| panic!("{name}: {}", answer.text()));
        assert!(!text.contains("hunter2") && !text.contains("eyJ"), "{text}");
        said.push(format!("{name}: {} {}: {text}", answer.status, body["error"].as_str().unwrap()));
    };
    for (name, token, changes) in changed {
        say(name, exchange(&server, token, changes).await);
    }
    say("a client without the grant", exchange_as(&server, "ci", &subject, &[]).await);
    let basic = "grant_type=client_credentials&client_id=proxy&client_secret=proxy-secret";
    say("a client with this grant alone", server.token(&[], basic).await);
    insta::assert_debug_snapshot!(said);

    let jwt =
        exchange(&server, &subject, &[("subject_token_type", JWT), ("requested_token_type", JWT)]).await;
    assert_eq!(jwt.json()["issued_token_type"], JWT, "an access token is a JWT here");
}

#[tokio::test]
async fn a_token_signed_with_a_retired_key_can_still_be_exchanged() {
    let old = || SigningKey::generate(&SeededRng::new(5)).unwrap();
    let server = Running::start_with("", |config| {
        config.signing_keys.push(SigningKey::generate(&SeededRng::new(6)).unwrap());
        config.signing_keys.push(old());
    })
    .await;
    let claims = json!({
        "iss": server.server.issuer().as_str(),
        "sub": "u-1",
        "aud": RESOURCE,
        "client_id": "skep-demo",
        "exp": NOW + 60,
    });
    let token = old().sign_jwt("at+jwt", &claims).unwrap();
    assert_eq!(exchange(&server, token.expose(), &[]).await.status, 200);
}

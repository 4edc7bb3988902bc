use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skep_testkit::raw;

use crate::running::{NOW, RESOURCE, Running};

fn basic(pair: &str) -> String {
    format!("Basic {}", STANDARD.encode(pair))
}

#[tokio::test]
async fn a_client_gets_an_access_token_that_another_library_verifies() {
    let server = Running::start().await;
    let form = "grant_type=client_credentials&client_id=ci&client_secret=ci-secret";
    let answer = server.token(&[], form).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let body = answer.json();
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 600);
    assert_eq!(body["scope"], "a b");

    let (header, claims) = server.verify(body["access_token"].as_str().unwrap(), RESOURCE).await;
    assert_eq!(header.typ.as_deref(), Some("at+jwt"));
    let jti = claims["jti"].as_str().unwrap();
    assert_eq!(
        claims,
        json!({
            "iss": server.server.issuer().as_str(),
            "sub": "ci",
            "client_id": "ci",
            "aud": RESOURCE,
            "iat": NOW,
            "exp": NOW + 600,
            "jti": jti,
            "scope": "a b",
        })
    );
}

#[tokio::test]
async fn time_is_the_servers_clock_and_no_two_tokens_are_the_same() {
    let server = Running::start().await;
    let form = "grant_type=client_credentials&client_id=ci&client_secret=ci-secret";
    let first = server.token(&[], form).await.json();
    server.clock.advance(Duration::from_secs(5));
    let second = server.token(&[], form).await.json();
    let (_, first) = server.verify(first["access_token"].as_str().unwrap(), RESOURCE).await;
    let (_, second) = server.verify(second["access_token"].as_str().unwrap(), RESOURCE).await;
    assert_eq!(second["iat"], NOW + 5);
    assert_ne!(first["jti"], second["jti"]);
}

#[tokio::test]
async fn a_client_authenticates_by_header_or_form() {
    let server = Running::start().await;
    let header = async |pair: &str, form: &str| {
        let form = format!("grant_type=client_credentials{form}");
        server.token(&[("Authorization", &basic(pair))], &form).await.status
    };
    assert_eq!(header("ci:ci-secret", "").await, 200);
    assert_eq!(header("ci:ci-secret", "&client_id=ci").await, 200);
    assert_eq!(header("odd%3Aid:p%2Bs+%25word", "").await, 200, "id and secret are form-encoded");
    assert_eq!(header("odd:id:p+s %word", "").await, 401, "the same, not encoded");
    let form = "grant_type=client_credentials&client_id=odd%3Aid&client_secret=p%2Bs+%25word";
    assert_eq!(server.token(&[], form).await.status, 200);
}

#[tokio::test]
async fn the_token_is_for_the_resource_that_was_asked_for() {
    let server = Running::start().await;
    let table = [
        ("ci", RESOURCE, Some(RESOURCE)),
        ("ci", "HTTPS://mcp.EXAMPLE:443/mcp", Some(RESOURCE)),
        ("many", "https://other.example/", Some("https://other.example")),
        ("ci", "https://other.example", None),
        ("ci", "https://mcp.example/mcp/", None),
        ("ci", "https://mcp.example/mcp#x", None),
        ("ci", "mcp", None),
        ("many", "", None),
    ];
    for (client, resource, expected) in table {
        let form = format!(
            "grant_type=client_credentials&client_id={client}&client_secret={client}-secret&resource={}",
            resource.replace('#', "%23")
        );
        let answer = server.token(&[], &form).await;
        match expected {
            Some(audience) => {
                let body = answer.json();
                let token = body["access_token"].as_str().unwrap_or_else(|| panic!("{resource}: {body}"));
                assert_eq!(server.verify(token, audience).await.1["aud"], audience, "{resource}");
            }
            None => assert_eq!(answer.json()["error"], "invalid_target", "{client} {resource}"),
        }
    }
}

#[tokio::test]
async fn the_scope_can_be_less_but_not_more() {
    let server = Running::start().await;
    let table = [
        ("a", json!("a")),
        ("b+a+b", json!("b a")),
        ("", json!("a b")),
        ("c", Value::Null),
        ("a+c", Value::Null),
        ("A", Value::Null),
        ("a++b", Value::Null),
        ("+a", Value::Null),
        ("%22a%22", Value::Null),
        ("a%09b", Value::Null),
    ];
    for (scope, expected) in table {
        let form =
            format!("grant_type=client_credentials&client_id=ci&client_secret=ci-secret&scope={scope}");
        let body = server.token(&[], &form).await.json();
        assert_eq!(body["scope"], expected, "{scope}");
        if expected.is_null() {
            assert_eq!(body["error"], "invalid_scope", "{scope}");
        }
    }
}

/// What is wrong, further headers, the form.
type Bad<'a> = (&'a str, Vec<(&'a str, String)>, &'a str);

#[tokio::test]
async fn every_refusal_has_its_code_and_says_what_to_do() {
    let server = Running::start().await;
    let auth = |value: &str| vec![("Authorization", value.to_owned())];
    let good = "grant_type=client_credentials&client_id=ci&client_secret=ci-secret";
    let two_headers =
        vec![("Authorization", basic("ci:ci-secret")), ("Authorization", basic("ci:ci-secret"))];
    let doubled = format!("{good}&scope=a&scope=b");
    let two_resources = format!("{good}&resource=https://mcp.example/mcp&resource=https://other.example");
    let broken = format!("{good}&x=%zz");
    let table: Vec<Bad<'_>> = vec![
        ("empty body", vec![], ""),
        ("no credentials", vec![], "grant_type=client_credentials"),
        ("no secret", vec![], "grant_type=client_credentials&client_id=ci"),
        ("wrong secret", vec![], "grant_type=client_credentials&client_id=ci&client_secret=x"),
        ("unknown client", vec![], "grant_type=client_credentials&client_id=x&client_secret=x"),
        ("wrong secret in the header", auth(&basic("ci:x")), "grant_type=client_credentials"),
        ("another scheme", auth("Bearer abc"), "grant_type=client_credentials"),
        ("header that is no base64", auth("Basic !!!"), "grant_type=client_credentials"),
        ("header and form", auth(&basic("ci:ci-secret")), good),
        ("another client_id", auth(&basic("ci:ci-secret")), "grant_type=client_credentials&client_id=many"),
        ("two headers", two_headers, "grant_type=client_credentials"),
        ("no grant_type", vec![], "client_id=ci&client_secret=ci-secret"),
        ("empty grant_type", vec![], "grant_type=&client_id=ci&client_secret=ci-secret"),
        ("unknown grant", vec![], "grant_type=password&client_id=ci&client_secret=ci-secret"),
        (
            "grant not allowed",
            vec![],
            "grant_type=client_credentials&client_id=idle&client_secret=idle-secret",
        ),
        ("two grant types", vec![], "grant_type=client_credentials&grant_type=client_credentials"),
        ("two scopes parameters", vec![], &doubled),
        ("two resources", vec![], &two_resources),
        (
            "several resources, none named",
            vec![],
            "grant_type=client_credentials&client_id=many&client_secret=many-secret",
        ),
        ("broken percent encoding", vec![], &broken),
        ("JSON", vec![], "{\"grant_type\":\"client_credentials\"}"),
    ];
    let mut said = Vec::new();
    for (name, headers, form) in table {
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let answer = server.token(&headers, form).await;
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{name}");
        assert_eq!(answer.status == 401, answer.header("www-authenticate").is_some(), "{name}");
        let body = answer.json();
        let text = body["error_description"].as_str().unwrap_or_else(|| panic!("{name}: {}", answer.text()));
        let allowed = |b: u8| matches!(b, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        assert!(text.bytes().all(allowed), "{name}: RFC 6749 section 5.2 does not allow this text: {text}");
        said.push(format!("{name}: {} {}: {text}", answer.status, body["error"].as_str().unwrap()));
    }
    insta::assert_debug_snapshot!(said);
}

#[tokio::test]
async fn a_request_of_another_shape_is_refused() {
    let server = Running::start().await;
    let good = "grant_type=client_credentials&client_id=ci&client_secret=ci-secret";
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let post = async |target: &str, headers: &[(&str, &str)], body: &str| {
        raw::request(server.address, "POST", target, headers, body.as_bytes()).await
    };
    let charset = ("Content-Type", "Application/X-WWW-Form-Urlencoded; charset=utf-8");
    assert_eq!(post("/oauth/token", &[charset], good).await.status, 200);
    let latin = ("Content-Type", "application/x-www-form-urlencoded; charset=latin1");
    for wrong in [latin, ("Content-Type", "application/json"), ("X-None", "at all")] {
        let answer = post("/oauth/token", &[wrong], good).await;
        assert_eq!(
            (answer.status, answer.json()["error"].as_str()),
            (400, Some("invalid_request")),
            "{wrong:?}"
        );
    }
    let answer = post(&format!("/oauth/token?{good}"), &[form], good).await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("invalid_request")));
    assert_eq!(server.get("/oauth/token").await.status, 405);
    assert_eq!(server.get("/oauth/authorize").await.status, 404, "what is not built is not there");
}

#[tokio::test]
async fn a_long_body_is_refused() {
    let server = Running::start().await;
    let start = "grant_type=client_credentials&client_id=ci&client_secret=ci-secret&x=";
    let fits = format!("{start}{}", "x".repeat(64 * 1024 - start.len()));
    assert_eq!(server.token(&[], &fits).await.status, 200);
    let answer = server.token(&[], &format!("{fits}x")).await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (413, Some("invalid_request")));
    // The same without a Content-Length that gives it away.
    let chunk = format!("{:x}\r\n{fits}x\r\n0\r\n\r\n", fits.len() + 1);
    let answer = server.token(&[("Transfer-Encoding", "chunked")], &chunk).await;
    assert_eq!(answer.status, 413);
}

use serde_json::json;
use skep_testkit::raw;

use crate::running::Running;

#[tokio::test]
async fn the_metadata_names_the_issuer_and_what_works() {
    let server = Running::start().await;
    let issuer = server.server.issuer().as_str();
    for path in ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(
            answer.json(),
            json!({
                "issuer": issuer,
                "token_endpoint": format!("{issuer}/oauth/token"),
                "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
                "response_types_supported": [],
                "grant_types_supported": [
                    "client_credentials",
                    "urn:ietf:params:oauth:grant-type:token-exchange",
                ],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
                "scopes_supported": ["a", "b", "c"],
            })
        );
    }
}

#[tokio::test]
async fn an_issuer_with_a_path_is_found_in_all_three_shapes() {
    let server = Running::start_at("/realms/demo").await;
    let issuer = server.server.issuer().as_str();
    for path in [
        "/.well-known/oauth-authorization-server/realms/demo",
        "/.well-known/openid-configuration/realms/demo",
        "/realms/demo/.well-known/openid-configuration",
    ] {
        let metadata = server.get(path).await.json();
        assert_eq!(metadata["issuer"], issuer, "{path}");
        assert_eq!(metadata["jwks_uri"], format!("{issuer}/.well-known/jwks.json"));
    }
    assert_eq!(server.get("/realms/demo/.well-known/jwks.json").await.status, 200);
    assert_eq!(server.get("/.well-known/openid-configuration").await.status, 404);
}

#[tokio::test]
async fn an_odd_path_is_taken_literally() {
    for path in ["/:tenant", "/*", "/{x}", "/a//b", "/%7Bx%7D"] {
        let server = Running::start_at(path).await;
        let shown = server.server.issuer().path().to_owned();
        let answer = server.get(&format!("{shown}/.well-known/openid-configuration")).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(server.get("/other/.well-known/openid-configuration").await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn the_keys_are_public_and_can_be_cached() {
    let server = Running::start().await;
    let answer = server.get("/.well-known/jwks.json").await;
    assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
    let key = &answer.json()["keys"][0];
    assert_eq!((&key["kty"], &key["alg"], &key["use"]), (&json!("EC"), &json!("ES256"), &json!("sig")));
    assert_eq!(key.get("d"), None, "the private half stays");
}

#[tokio::test]
async fn scripts_of_any_origin_may_ask_without_cookies() {
    let server = Running::start().await;
    let preflight = [("Origin", "https://app.example"), ("Access-Control-Request-Method", "POST")];
    let answer = raw::request(server.address, "OPTIONS", "/oauth/token", &preflight, b"").await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert!(answer.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    let answer = server.get("/.well-known/jwks.json").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
}

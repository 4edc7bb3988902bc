use std::time::Duration;

use serde_json::{Map, Value, json};
use skep_authserver::{User, UserGrant};

use crate::running::{NOW, RESOURCE, Running};

fn alice() -> User {
    let mut extra = Map::new();
    extra.insert("department".to_owned(), json!("tools"));
    for own in ["sub", "aud", "exp", "groups", "cnf", "client_id"] {
        extra.insert(own.to_owned(), json!("forged"));
    }
    User {
        subject: "u-1".to_owned(),
        name: Some("Alice".to_owned()),
        email: Some("alice@example.com".to_owned()),
        groups: vec!["admins".to_owned()],
        extra,
    }
}

#[tokio::test]
async fn a_users_token_says_who_the_user_is() {
    let server = Running::start().await;
    let scopes = ["mcp:tools".to_owned()];
    let user = alice();
    let grant = UserGrant {
        user: &user,
        client_id: "skep-demo",
        audience: RESOURCE,
        scopes: &scopes,
        lifetime: Duration::from_secs(3600),
    };
    let token = server.server.issue_for_user(&grant).unwrap();
    assert_eq!(token.expires_in, Duration::from_secs(3600));
    assert!(!format!("{token:?}").contains("eyJ"), "a token does not show in Debug");
    let (header, mut claims) = server.verify(token.access_token.expose(), RESOURCE).await;
    assert_eq!(header.typ.as_deref(), Some("at+jwt"));
    claims["jti"] = Value::Null;
    assert_eq!(
        claims,
        json!({
            "iss": server.server.issuer().as_str(),
            "sub": "u-1",
            "client_id": "skep-demo",
            "aud": RESOURCE,
            "iat": NOW,
            "exp": NOW + 3600,
            "jti": null,
            "scope": "mcp:tools",
            "name": "Alice",
            "email": "alice@example.com",
            "groups": ["admins"],
            "department": "tools",
        })
    );
}

#[tokio::test]
async fn no_endpoint_gives_out_a_users_token() {
    let server = Running::start().await;
    for path in ["/oauth/authorize", "/oauth/users", "/token", "/demo/token", "/oauth/token/u-1"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
    let form = "grant_type=client_credentials&client_id=ci&client_secret=ci-secret&sub=u-1&user=u-1";
    let body = server.token(&[], form).await.json();
    let (_, claims) = server.verify(body["access_token"].as_str().unwrap(), RESOURCE).await;
    assert_eq!(claims["sub"], "ci", "what a client sends does not change the subject");
}

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use skep_testkit::spire::{Entry, FakeAgent};
use skep_testkit::{Answer, FakeKeycloak, ManualClock, Outage, raw};

const AGENT: &str = "spiffe://example.org/ns/demo/sa/alice";
/// `AGENT` in a path.
const AGENT_SEGMENT: &str = "spiffe:%2F%2Fexample.org%2Fns%2Fdemo%2Fsa%2Falice";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

async fn call(
    keycloak: &FakeKeycloak,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<&Value>,
) -> Answer {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut headers: Vec<(&str, &str)> =
        bearer.iter().map(|value| ("Authorization", value.as_str())).collect();
    let text = body.map(Value::to_string).unwrap_or_default();
    if body.is_some() {
        headers.push(("Content-Type", "application/json"));
    }
    raw::request(keycloak.server().address(), method, path, &headers, text.as_bytes()).await
}

async fn grant(keycloak: &FakeKeycloak, realm: &str, fields: &[(&str, &str)], basic: Option<&str>) -> Answer {
    grant_under(keycloak, "", realm, fields, basic).await
}

async fn grant_under(
    keycloak: &FakeKeycloak,
    prefix: &str,
    realm: &str,
    fields: &[(&str, &str)],
    basic: Option<&str>,
) -> Answer {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let basic = basic.map(|pair| format!("Basic {}", STANDARD.encode(pair)));
    let mut headers = vec![("Content-Type", "application/x-www-form-urlencoded")];
    headers.extend(basic.iter().map(|value| ("Authorization", value.as_str())));
    let path = format!("{prefix}/realms/{realm}/protocol/openid-connect/token");
    raw::request(keycloak.server().address(), "POST", &path, &headers, body.as_bytes()).await
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// A Keycloak with the realm `r` and an administrator's token.
async fn administered() -> (FakeKeycloak, String) {
    let keycloak = FakeKeycloak::start().await;
    keycloak.realm("r");
    keycloak.admin("root", "hunter2");
    let token = root(&keycloak).await;
    (keycloak, token)
}

async fn root(keycloak: &FakeKeycloak) -> String {
    root_under(keycloak, "").await
}

async fn root_under(keycloak: &FakeKeycloak, prefix: &str) -> String {
    let fields = [
        ("grant_type", "password"),
        ("client_id", "admin-cli"),
        ("username", "root"),
        ("password", "hunter2"),
    ];
    let answer = grant_under(keycloak, prefix, "master", &fields, None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    text(&answer.json()["access_token"]).to_owned()
}

async fn find(keycloak: &FakeKeycloak, token: &str, client_id: &str) -> Vec<Value> {
    let query =
        url::form_urlencoded::Serializer::new(String::new()).append_pair("clientId", client_id).finish();
    let path = format!("/admin/realms/r/clients?{query}");
    let answer = call(keycloak, "GET", &path, Some(token), None).await;
    answer.json().as_array().unwrap().clone()
}

#[tokio::test]
async fn a_client_is_made_found_changed_and_deleted() {
    let (keycloak, root) = administered().await;
    let token = Some(root.as_str());
    let rep = json!({
        "clientId": AGENT, "name": "demo/alice", "publicClient": false, "serviceAccountsEnabled": true,
        "fullScopeAllowed": false, "attributes": {"standard.token.exchange.enabled": "true"},
    });
    let made = call(&keycloak, "POST", "/admin/realms/r/clients", token, Some(&rep)).await;
    assert_eq!((made.status, made.text().as_str()), (201, ""));
    let found = find(&keycloak, &root, AGENT).await;
    assert_eq!(found.len(), 1);
    let id = text(&found[0]["id"]);
    let place = format!("{}/admin/realms/r/clients/{id}", keycloak.url());
    assert_eq!(made.header("location"), Some(place.as_str()));
    assert_eq!(found[0]["clientAuthenticatorType"], "client-secret", "defaults are filled in");
    assert!(found[0]["defaultClientScopes"].as_array().unwrap().contains(&json!("roles")));
    assert_eq!(find(&keycloak, &root, "spiffe://example.org").await.len(), 0, "no part of an id finds");

    let again = call(&keycloak, "POST", "/admin/realms/r/clients", token, Some(&rep)).await;
    assert_eq!(again.status, 409);
    assert_eq!(again.json(), json!({"errorMessage": format!("Client {AGENT} already exists")}));

    let path = format!("/admin/realms/r/clients/{id}");
    let secret = call(&keycloak, "GET", &format!("{path}/client-secret"), token, None).await.json();
    assert_eq!(secret["value"], keycloak.client("r", AGENT).unwrap()["secret"]);
    let renewed = call(&keycloak, "POST", &format!("{path}/client-secret"), token, None).await.json();
    assert_ne!(renewed["value"], secret["value"]);

    let changes = json!({"standardFlowEnabled": false, "attributes": {"login_theme": "x"}});
    assert_eq!(call(&keycloak, "PUT", &path, token, Some(&changes)).await.status, 204);
    let changed = call(&keycloak, "GET", &path, token, None).await.json();
    assert_eq!(changed["standardFlowEnabled"], false);
    assert_eq!(changed["name"], "demo/alice", "what is not said stays");
    assert_eq!(changed["attributes"]["standard.token.exchange.enabled"], "true");
    assert_eq!(changed["attributes"]["login_theme"], "x");

    assert_eq!(call(&keycloak, "DELETE", &path, token, None).await.status, 204);
    let gone = call(&keycloak, "GET", &path, token, None).await;
    assert_eq!((gone.status, gone.json()), (404, json!({"error": "Could not find client"})));
    assert!(keycloak.client("r", AGENT).is_none());
}

#[tokio::test]
async fn what_keycloak_would_not_take_is_refused() {
    let (keycloak, root) = administered().await;
    let token = Some(root.as_str());
    let clients = "/admin/realms/r/clients";
    let post = async |rep: Value| call(&keycloak, "POST", clients, token, Some(&rep)).await;
    let unknown = post(json!({"clientId": "a", "clientid": "a"})).await;
    assert_eq!(unknown.status, 400);
    assert!(text(&unknown.json()["error"]).starts_with("Unrecognized field \"clientid\""));
    let table = [
        json!({"clientId": "a", "redirectUris": "https://a"}),
        json!({"clientId": "a", "attributes": {"x": {"y": 1}}}),
        json!({"clientId": "a", "publicClient": "maybe"}),
        json!({"clientId": " "}),
        json!({"clientId": "a", "clientAuthenticatorType": "secret"}),
        json!({"clientId": "a", "protocolMappers": [{"name": "m"}]}),
    ];
    for rep in table {
        assert_eq!(post(rep.clone()).await.status, 400, "{rep}");
    }
    let address = keycloak.server().address();
    let bearer = format!("Bearer {root}");
    let plain = raw::request(address, "POST", clients, &[("Authorization", &bearer)], b"{}").await;
    assert_eq!(plain.status, 415, "no content type");
    for path in ["/admin//realms/r/clients", "/admin/realms/./r", "/admin/realms/%72/clients"] {
        let answer = call(&keycloak, "GET", path, token, None).await;
        assert_eq!(answer.json()["error"], "missingNormalization", "{path}");
    }
    let nowhere = call(&keycloak, "GET", "/admin/realms/none/clients", token, None).await;
    assert_eq!((nowhere.status, nowhere.json()), (404, json!({"error": "Realm not found."})));
    assert_eq!(keycloak.clients("r"), Vec::<String>::new());
}

#[tokio::test]
async fn the_admin_api_is_for_those_who_have_the_role() {
    let (keycloak, _) = administered().await;
    keycloak.realm("other");
    keycloak.service_account("r", "maker", "s1", &["manage-clients"]);
    keycloak.service_account("r", "looker", "s2", &["view-clients"]);
    keycloak.service_account("r", "nobody", "s3", &[]);
    let token = async |id: &str, secret: &str| {
        let answer =
            grant(&keycloak, "r", &[("grant_type", "client_credentials")], Some(&format!("{id}:{secret}")))
                .await;
        text(&answer.json()["access_token"]).to_owned()
    };
    let maker = token("maker", "s1").await;
    let looker = token("looker", "s2").await;
    let nobody = token("nobody", "s3").await;
    let rep = json!({"clientId": "made"});
    let table = [
        (None, "GET", "r", 401),
        (Some("rubbish"), "GET", "r", 401),
        (Some(nobody.as_str()), "GET", "r", 403),
        (Some(&looker), "GET", "r", 200),
        (Some(&looker), "POST", "r", 403),
        (Some(&maker), "GET", "other", 403),
        (Some(&maker), "POST", "r", 201),
    ];
    for (token, method, realm, status) in table {
        let body = (method == "POST").then_some(&rep);
        let path = format!("/admin/realms/{realm}/clients");
        let answer = call(&keycloak, method, &path, token, body).await;
        assert_eq!(answer.status, status, "{method} {realm} {}", answer.text());
    }
    keycloak.revoke_tokens("r");
    assert_eq!(call(&keycloak, "GET", "/admin/realms/r/clients", Some(&maker), None).await.status, 401);
}

#[tokio::test]
async fn tokens_verify_against_the_published_keys_and_run_out() {
    let clock = ManualClock::default();
    let keycloak = FakeKeycloak::with_clock(std::sync::Arc::new(clock.clone())).await;
    keycloak.realm("r");
    keycloak.service_account("r", "agent", "s", &["manage-clients"]);
    let discovery =
        call(&keycloak, "GET", "/realms/r/.well-known/openid-configuration", None, None).await.json();
    assert_eq!(text(&discovery["issuer"]), keycloak.issuer("r"));
    assert_eq!(text(&discovery["token_endpoint"]), keycloak.token_url("r"));
    let fields = [("grant_type", "client_credentials"), ("client_id", "agent"), ("client_secret", "s")];
    let answer = grant(&keycloak, "r", &fields, None).await.json();
    assert_eq!(answer["expires_in"], 300);
    let token = text(&answer["access_token"]);
    let jwks = call(&keycloak, "GET", "/realms/r/protocol/openid-connect/certs", None, None).await.json();
    let set: JwkSet = serde_json::from_value(jwks).unwrap();
    let kid = decode_header(token).unwrap().kid.unwrap();
    let key = DecodingKey::from_jwk(set.find(&kid).unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_exp = false;
    validation.set_issuer(&[keycloak.issuer("r")]);
    validation.set_audience(&["account"]);
    let claims = decode::<Value>(token, &key, &validation).unwrap().claims;
    assert_eq!(claims["azp"], "agent");
    assert_eq!(claims["preferred_username"], "service-account-agent");
    assert_eq!(
        claims["aud"],
        json!(["account", "realm-management"]),
        "clients it has roles of, by full scope"
    );
    let list = async || call(&keycloak, "GET", "/admin/realms/r/clients", Some(token), None).await.status;
    assert_eq!(list().await, 200);
    clock.advance(Duration::from_secs(300));
    assert_eq!(list().await, 401);
}

#[tokio::test]
async fn clients_prove_who_they_are() {
    let (keycloak, _) = administered().await;
    keycloak.put_client("r", &json!({"clientId": AGENT, "serviceAccountsEnabled": true, "secret": "s:/?"}));
    keycloak.put_client("r", &json!({"clientId": "plain", "secret": "p"}));
    keycloak.put_client("r", &json!({"clientId": "off", "secret": "p", "enabled": false}));
    let credentials = [("grant_type", "client_credentials")];
    let encoded = "spiffe%3A%2F%2Fexample.org%2Fns%2Fdemo%2Fsa%2Falice:s%3A%2F%3F";
    assert_eq!(grant(&keycloak, "r", &credentials, Some(encoded)).await.status, 200);
    let raw_id = grant(&keycloak, "r", &credentials, Some(&format!("{AGENT}:s:/?"))).await;
    assert_eq!(raw_id.status, 401, "an id with a colon has to be encoded");
    assert_eq!(raw_id.json()["error"], "invalid_client");
    let no_account = grant(&keycloak, "r", &credentials, Some("plain:p")).await;
    assert_eq!((no_account.status, text(&no_account.json()["error"])), (401, "unauthorized_client"));
    for (basic, why) in [("plain:x", "wrong secret"), ("off:p", "disabled"), ("none:p", "unknown")] {
        assert_eq!(
            grant(&keycloak, "r", &credentials, Some(basic)).await.json()["error"],
            "invalid_client",
            "{why}"
        );
    }
    let wrong =
        [("grant_type", "password"), ("client_id", "admin-cli"), ("username", "root"), ("password", "x")];
    let answer = grant(&keycloak, "master", &wrong, None).await;
    assert_eq!((answer.status, text(&answer.json()["error"])), (401, "invalid_grant"));
    let direct = [("grant_type", "password"), ("username", "root"), ("password", "x")];
    assert_eq!(grant(&keycloak, "r", &direct, Some("plain:p")).await.json()["error"], "unauthorized_client");
    let odd = grant(&keycloak, "r", &[("grant_type", "magic")], Some("plain:p")).await;
    assert_eq!(odd.json()["error"], "unsupported_grant_type");
    assert_eq!(
        grant(&keycloak, "none", &credentials, Some("plain:p")).await.json()["error"],
        "Realm does not exist"
    );
    let old = keycloak.client("r", "plain").unwrap()["secret"].clone();
    assert_ne!(keycloak.rotate_secret("r", "plain"), text(&old));
}

#[tokio::test]
async fn an_audience_scope_changes_who_tokens_are_for() {
    let (keycloak, root) = administered().await;
    let token = Some(root.as_str());
    let agent = json!({"clientId": "agent", "serviceAccountsEnabled": true, "secret": "a", "fullScopeAllowed": false});
    keycloak.put_client("r", &agent);
    let audience = async || {
        let answer = grant(&keycloak, "r", &[("grant_type", "client_credentials")], Some("agent:a")).await;
        let claims = keycloak.verified("r", text(&answer.json()["access_token"])).unwrap();
        claims.get("aud").cloned()
    };
    assert_eq!(audience().await, None, "no roles, no audience");
    let scopes = "/admin/realms/r/client-scopes";
    let scope = json!({"name": "agent-demo-aud", "protocol": "openid-connect"});
    let made = call(&keycloak, "POST", scopes, token, Some(&scope)).await;
    assert_eq!(made.status, 201);
    assert_eq!(call(&keycloak, "POST", scopes, token, Some(&scope)).await.status, 409);
    let bad = json!({"name": "a b", "protocol": "openid-connect"});
    assert_eq!(call(&keycloak, "POST", scopes, token, Some(&bad)).await.status, 400);
    let id = made.header("location").unwrap().rsplit('/').next().unwrap().to_owned();
    let mappers = format!("{scopes}/{id}/protocol-mappers/models");
    let mapper = json!({
        "name": "aud", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
        "config": {"included.custom.audience": AGENT},
    });
    let mapped = call(&keycloak, "POST", &mappers, token, Some(&mapper)).await;
    assert_eq!(mapped.status, 201);
    assert_eq!(call(&keycloak, "POST", &mappers, token, Some(&mapper)).await.status, 409);

    let to_realm = format!("/admin/realms/r/default-default-client-scopes/{id}");
    assert_eq!(call(&keycloak, "PUT", &to_realm, token, None).await.status, 204);
    assert!(keycloak.default_scopes("r").contains(&"agent-demo-aud".to_owned()));
    assert_eq!(audience().await, None, "a client that is there already does not get a new default");
    let client = text(&keycloak.client("r", "agent").unwrap()["id"]).to_owned();
    let to_client = format!("/admin/realms/r/clients/{client}/default-client-scopes");
    assert_eq!(call(&keycloak, "PUT", &format!("{to_client}/{id}"), token, None).await.status, 204);
    assert_eq!(call(&keycloak, "PUT", &format!("{to_client}/none"), token, None).await.status, 404);
    assert_eq!(audience().await, None, "a mapper that is not for access tokens does nothing");

    let mut changed = mapper.clone();
    changed["config"]["access.token.claim"] = json!("true");
    let mapper_id = mapped.header("location").unwrap().rsplit('/').next().unwrap().to_owned();
    assert_eq!(
        call(&keycloak, "PUT", &format!("{mappers}/{mapper_id}"), token, Some(&changed)).await.status,
        204
    );
    assert_eq!(audience().await, Some(json!(AGENT)));
    assert_eq!(keycloak.scope("r", "agent-demo-aud").unwrap()["protocolMappers"][0]["id"], mapper_id);
    keycloak.put_client("r", &json!({"clientId": "later"}));
    let later = keycloak.client("r", "later").unwrap();
    assert!(later["defaultClientScopes"].as_array().unwrap().contains(&json!("agent-demo-aud")));
    assert_eq!(call(&keycloak, "DELETE", &format!("{scopes}/{id}"), token, None).await.status, 204);
    assert_eq!(audience().await, None);
}

#[tokio::test]
async fn an_initial_access_token_makes_as_many_clients_as_it_says() {
    let (keycloak, token) = administered().await;
    let path = "/admin/realms/r/clients-initial-access";
    let made =
        call(&keycloak, "POST", path, Some(&token), Some(&json!({"count": 1, "expiration": 60}))).await;
    assert_eq!(made.status, 201);
    let initial = text(&made.json()["token"]).to_owned();
    let registrations = "/realms/r/clients-registrations/default";
    let rep = json!({"clientId": AGENT, "serviceAccountsEnabled": true, "directAccessGrantsEnabled": true});
    let create = async |token: Option<&str>| call(&keycloak, "POST", registrations, token, Some(&rep)).await;
    let anonymous = create(None).await;
    assert_eq!((anonymous.status, text(&anonymous.json()["error"])), (403, "insufficient_scope"));
    assert_eq!(create(Some("rubbish")).await.json()["error"], "invalid_token");

    keycloak.put_client("r", &json!({"clientId": AGENT}));
    let taken = create(Some(&initial)).await;
    assert_eq!(taken.status, 400, "not 409");
    assert_eq!(
        taken.json(),
        json!({"error": "invalid_client_metadata", "error_description": "Client Identifier in use"})
    );
    keycloak.delete_client("r", AGENT);
    let created = create(Some(&initial)).await;
    assert_eq!(created.status, 201, "a refused attempt does not count");
    let shown = created.json();
    assert_eq!(shown["clientId"], AGENT);
    assert_eq!(shown["secret"], keycloak.client("r", AGENT).unwrap()["secret"]);
    let used_up = create(Some(&initial)).await;
    assert_eq!(used_up.json()["error_description"], "No remaining count on initial access token");

    let one = format!("{registrations}/{AGENT_SEGMENT}");
    let first = text(&shown["registrationAccessToken"]).to_owned();
    let look = call(&keycloak, "GET", &one, Some(&first), None).await;
    assert_eq!(look.json()["registrationAccessToken"], first, "a look changes no token");
    let mut rep = look.json();
    rep["name"] = json!("renamed");
    let changed = call(&keycloak, "PUT", &one, Some(&first), Some(&rep)).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_eq!(changed.json()["name"], "renamed");
    let second = text(&changed.json()["registrationAccessToken"]).to_owned();
    assert_ne!(second, first);
    let stale = call(&keycloak, "GET", &one, Some(&first), None).await;
    assert_eq!((stale.status, text(&stale.json()["error"])), (401, "invalid_token"));
    let mut other = rep.clone();
    other["clientId"] = json!("other");
    assert_eq!(call(&keycloak, "PUT", &one, Some(&second), Some(&other)).await.status, 400);
    assert_eq!(call(&keycloak, "DELETE", &one, Some(&second), None).await.status, 204);
    assert_eq!(call(&keycloak, "GET", &one, Some(&second), None).await.status, 401, "as if it never was");
}

#[tokio::test]
async fn initial_access_tokens_and_creators_have_their_limits() {
    let clock = ManualClock::default();
    let keycloak = FakeKeycloak::with_clock(std::sync::Arc::new(clock.clone())).await;
    keycloak.realm("r");
    keycloak.service_account("r", "creator", "s", &["create-client"]);
    let initial = keycloak.initial_access_token("r", 5, 60);
    let answer = grant(&keycloak, "r", &[("grant_type", "client_credentials")], Some("creator:s")).await;
    let creator = text(&answer.json()["access_token"]).to_owned();
    let registrations = "/realms/r/clients-registrations/default";
    let create = async |token: &str, id: &str| {
        call(&keycloak, "POST", registrations, Some(token), Some(&json!({"clientId": id}))).await.status
    };
    assert_eq!(create(&initial, "one").await, 201);
    assert_eq!(create(&creator, "two").await, 201, "create-client registers ...");
    let rep = json!({"clientId": "x"});
    let admin = call(&keycloak, "POST", "/admin/realms/r/clients", Some(&creator), Some(&rep)).await;
    assert_eq!(admin.status, 403, "... and no more");
    clock.advance(Duration::from_secs(60));
    assert_eq!(create(&initial, "three").await, 401);
}

#[tokio::test]
async fn tokens_are_exchanged_by_whom_they_are_for_within_his_scopes() {
    let (keycloak, _) = administered().await;
    let mapper = |audience: &str| {
        json!([{
            "name": "aud", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
            "config": {"included.client.audience": audience, "access.token.claim": "true"},
        }])
    };
    keycloak.put_client(
        "r",
        &json!({"clientId": "app", "publicClient": true, "protocolMappers": mapper("agent")}),
    );
    keycloak
        .put_client("r", &json!({"clientId": "stranger", "publicClient": true, "fullScopeAllowed": false}));
    keycloak.put_client("r", &json!({"clientId": "target"}));
    keycloak.put_client("r", &json!({"clientId": "elsewhere"}));
    keycloak.put_client(
        "r",
        &json!({
            "clientId": "agent", "secret": "a", "fullScopeAllowed": false, "protocolMappers": mapper("target"),
        }),
    );
    keycloak.user("r", "alice", "pw");
    let subject = keycloak.user_token("r", "app", "alice");
    let exchange = async |subject: &str, extra: &[(&str, &str)]| {
        let mut fields =
            vec![("grant_type", EXCHANGE), ("subject_token", subject), ("subject_token_type", ACCESS_TOKEN)];
        fields.extend(extra);
        grant(&keycloak, "r", &fields, Some("agent:a")).await
    };
    let off = exchange(&subject, &[]).await;
    assert_eq!((off.status, text(&off.json()["error"])), (400, "invalid_request"));
    keycloak.change_client("r", "agent", &json!({"attributes": {"standard.token.exchange.enabled": "true"}}));
    let answer = exchange(&subject, &[("audience", "target")]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["issued_token_type"], ACCESS_TOKEN);
    let claims = keycloak.verified("r", text(&answer.json()["access_token"])).unwrap();
    let old = keycloak.verified("r", &subject).unwrap();
    assert_eq!((&claims["aud"], &claims["azp"]), (&json!("target"), &json!("agent")));
    assert_eq!(claims["sub"], old["sub"]);
    assert_eq!(claims["preferred_username"], "alice");

    let description = |answer: &Answer| text(&answer.json()["error_description"]).to_owned();
    let elsewhere = exchange(&subject, &[("audience", "elsewhere")]).await;
    assert_eq!(description(&elsewhere), "Requested audience not available: elsewhere");
    let unknown = exchange(&subject, &[("audience", "nobody")]).await;
    assert_eq!(text(&unknown.json()["error"]), "invalid_client");
    let stranger = keycloak.user_token("r", "stranger", "alice");
    let not_meant = exchange(&stranger, &[]).await;
    assert_eq!(
        (not_meant.status, description(&not_meant).as_str()),
        (403, "Client is not within the token audience")
    );
    assert_eq!(description(&exchange("rubbish", &[]).await), "Invalid token");
    assert_eq!(exchange(&subject, &[("scope", "magic")]).await.json()["error"], "invalid_scope");
    keycloak.revoke_tokens("r");
    assert_eq!(description(&exchange(&subject, &[]).await), "Invalid token");
}

#[tokio::test]
async fn a_jwt_svid_is_a_client_assertion_for_one_realm() {
    let (keycloak, _) = administered().await;
    let agent = FakeAgent::start("example.org").await;
    agent.entry(Entry::new(AGENT));
    keycloak.identity_provider_spiffe("r", "spire", "example.org", &agent.jwks());
    keycloak.put_client(
        "r",
        &json!({
            "clientId": AGENT, "serviceAccountsEnabled": true, "clientAuthenticatorType": "federated-jwt",
            "attributes": {"jwt.credential.issuer": "spire", "jwt.credential.sub": AGENT},
        }),
    );
    assert_eq!(keycloak.client("r", AGENT).unwrap().get("secret"), None, "no secret is made");
    let issuer = keycloak.issuer("r");
    let minute = Duration::from_mins(1);
    let svid = |audiences: &[&str], ttl: Duration| agent.issue_jwt(audiences, ttl);
    let ask = async |assertion: &str, id: Option<&str>| {
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";
        let mut fields = vec![
            ("grant_type", "client_credentials"),
            ("client_assertion_type", kind),
            ("client_assertion", assertion),
        ];
        fields.extend(id.map(|id| ("client_id", id)));
        grant(&keycloak, "r", &fields, None).await
    };
    let good = svid(&[&issuer], minute);
    let answer = ask(&good, None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let claims = keycloak.verified("r", text(&answer.json()["access_token"])).unwrap();
    assert_eq!(claims["azp"], AGENT);
    assert_eq!(ask(&good, Some(AGENT)).await.status, 200);
    let stranger = agent.issue_jwt_for("spiffe://example.org/other", &[&issuer], minute);
    let table = [
        (svid(&["kagenti"], minute), None, "another audience"),
        (svid(&[&issuer, "more"], minute), None, "more than one audience"),
        (svid(&[&issuer], Duration::ZERO), None, "expired"),
        (svid(&[&issuer], Duration::from_hours(1)), None, "lasts too long"),
        (stranger, None, "an unknown subject"),
        (good.clone(), Some("other"), "another client id"),
    ];
    for (assertion, id, why) in table {
        let answer = ask(&assertion, id).await;
        assert_eq!((answer.status, text(&answer.json()["error"])), (401, "invalid_client"), "{why}");
    }
    agent.revoke_jwt_keys();
    keycloak.identity_provider_spiffe("r", "spire", "example.org", &agent.jwks());
    assert_eq!(ask(&good, None).await.status, 401, "a key that was revoked");
}

#[tokio::test]
async fn outages_races_and_public_names_are_played() {
    let (keycloak, token) = administered().await;
    let clients = "/admin/realms/r/clients";
    keycloak.outage(true);
    assert_eq!(call(&keycloak, "GET", clients, Some(&token), None).await.status, 503);
    keycloak.outage(false);
    assert_eq!(call(&keycloak, "GET", clients, Some(&token), None).await.status, 200);
    keycloak.race_next_create();
    let made = call(&keycloak, "POST", clients, Some(&token), Some(&json!({"clientId": "raced"}))).await;
    assert_eq!(made.status, 409);
    assert_eq!(keycloak.clients("r"), ["raced"]);
    keycloak.fail(Outage::Refused).await;
    assert!(tokio::net::TcpStream::connect(keycloak.server().address()).await.is_err());
    keycloak.up().await;
    keycloak.set_public_url("http://keycloak.example:8080/auth/");
    assert_eq!(keycloak.issuer("r"), "http://keycloak.example:8080/auth/realms/r");
    let discovery =
        call(&keycloak, "GET", "/auth/realms/r/.well-known/openid-configuration", None, None).await;
    assert_eq!(discovery.json()["issuer"], "http://keycloak.example:8080/auth/realms/r");
    assert_eq!(
        call(&keycloak, "GET", "/realms/r/.well-known/openid-configuration", None, None).await.status,
        404
    );
    let token = root_under(&keycloak, "/auth").await;
    let path = "/auth/admin/realms/r/clients";
    let made = call(&keycloak, "POST", path, Some(&token), Some(&json!({"clientId": "x"}))).await;
    let id = keycloak.client("r", "x").unwrap()["id"].clone();
    let place = format!("http://keycloak.example:8080{path}/{}", text(&id));
    assert_eq!(made.header("location"), Some(place.as_str()));
    keycloak.delete_realm("r");
    let gone = call(&keycloak, "GET", "/auth/realms/r/.well-known/openid-configuration", None, None).await;
    assert_eq!(gone.json()["error"], "Realm does not exist");
}

#[tokio::test]
async fn a_session_is_refreshed_until_it_ends_or_is_revoked() {
    let clock = ManualClock::default();
    let keycloak = FakeKeycloak::with_clock(std::sync::Arc::new(clock.clone())).await;
    keycloak.admin("root", "hunter2");
    keycloak.service_account("master", "other", "s", &[]);
    let login = async || {
        let fields = [
            ("grant_type", "password"),
            ("client_id", "admin-cli"),
            ("username", "root"),
            ("password", "hunter2"),
        ];
        text(&grant(&keycloak, "master", &fields, None).await.json()["refresh_token"]).to_owned()
    };
    let refresh = async |token: &str| {
        let fields = [("grant_type", "refresh_token"), ("client_id", "admin-cli"), ("refresh_token", token)];
        grant(&keycloak, "master", &fields, None).await
    };
    let mut token = login().await;
    for _ in 0..3 {
        clock.advance(Duration::from_secs(1799));
        let answer = refresh(&token).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(keycloak.verified("master", text(&answer.json()["access_token"])).is_some());
        token = text(&answer.json()["refresh_token"]).to_owned();
    }
    let refused = async |token: &str, why: &str| {
        let answer = refresh(token).await;
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("invalid_grant")), "{why}");
        assert!(answer.text().contains(why), "{}", answer.text());
    };
    let fields = [("grant_type", "refresh_token"), ("refresh_token", token.as_str())];
    let others = grant(&keycloak, "master", &fields, Some("other:s")).await;
    assert_eq!(others.status, 400, "{}", others.text());
    refused("garbage", "Invalid refresh token").await;
    clock.advance(Duration::from_secs(1800));
    refused(&token, "Token is not active").await;
    let token = login().await;
    keycloak.revoke_tokens("master");
    refused(&token, "Session not active").await;
}

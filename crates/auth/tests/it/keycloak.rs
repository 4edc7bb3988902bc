//! Registration of clients at a Keycloak.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use skep_api::address::Egress;
use skep_api::secret::Secret;
use skep_auth::keycloak::{
    AudienceScope, ClientProof, ClientSpec, Keycloak, KeycloakError, KeycloakErrorKind, KeycloakSettings,
    Login, RegistrationTokens,
};
use skep_runtime::clock::{SharedClock, SystemClock};
use skep_testkit::idp::Outage;
use skep_testkit::keycloak::FakeKeycloak;
use skep_testkit::{ManualClock, Recorded, Reply, ScriptedServer};

const ID: &str = "spiffe://example.org/ns/demo/sa/weather+1 ä%2F?x=y;z#";

async fn fake() -> FakeKeycloak {
    let fake = FakeKeycloak::start().await;
    fake.realm("demo");
    fake.admin("root", "hunter2");
    fake
}

fn settings(fake: &FakeKeycloak, realm: &str) -> KeycloakSettings {
    let mut settings = KeycloakSettings::new(&fake.url(), realm).unwrap();
    settings.egress = Egress { loopback: true, deny: Vec::new() };
    settings.timeout = Duration::from_secs(5);
    settings
}

fn with(fake: &FakeKeycloak, login: Login) -> Keycloak {
    Keycloak::new(settings(fake, "demo"), login, SystemClock::shared()).unwrap()
}

fn password(username: &str, password: &str) -> Login {
    Login::Password { username: username.to_owned(), password: Secret::new(password) }
}

fn root() -> Login {
    password("root", "hunter2")
}

fn service(id: &str, secret: &str) -> Login {
    Login::Client { id: id.to_owned(), secret: Secret::new(secret) }
}

fn initial(token: String) -> Login {
    Login::InitialAccess(Secret::new(token))
}

/// What changes something, besides logins.
fn writes(fake: &FakeKeycloak) -> Vec<String> {
    let change = |request: &Recorded| request.method != "GET" && !request.path().ends_with("/token");
    fake.requests()
        .iter()
        .filter(|request| change(request))
        .map(|request| format!("{} {}", request.method, request.path()))
        .collect()
}

/// Logins anew; refreshing one is none.
fn logins(fake: &FakeKeycloak) -> usize {
    let anew = |request: &Recorded| {
        request.path().ends_with("/token") && request.form_field("grant_type") != "refresh_token"
    };
    fake.requests().iter().filter(|request| anew(request)).count()
}

fn refreshes(fake: &FakeKeycloak) -> usize {
    fake.requests().iter().filter(|request| request.form_field("grant_type") == "refresh_token").count()
}

#[tokio::test]
async fn a_client_is_made_once_and_then_left_alone() {
    let fake = fake().await;
    fake.service_account("demo", "registrar", "s", &["manage-clients"]);
    for (login, id) in [(root(), ID), (service("registrar", "s"), "spiffe://example.org/b")] {
        let keycloak = with(&fake, login);
        let mut spec = ClientSpec::new(id);
        spec.name = Some("demo/weather".to_owned());
        let first = keycloak.ensure_client(&spec).await.unwrap();
        assert!(first.created && !first.changed && first.warnings.is_empty(), "{first:?}");
        let client = fake.client("demo", id).unwrap();
        assert_eq!(client["secret"], first.secret.expose());
        assert_eq!(client["name"], "demo/weather");
        for (flag, expected) in [
            ("serviceAccountsEnabled", true),
            ("publicClient", false),
            ("standardFlowEnabled", false),
            ("directAccessGrantsEnabled", false),
            ("fullScopeAllowed", false),
        ] {
            assert_eq!(client[flag], expected, "{flag}");
        }
        assert_eq!(client["attributes"]["standard.token.exchange.enabled"], "true");

        let before = writes(&fake).len();
        spec.name = Some("another name".to_owned());
        let second = keycloak.ensure_client(&spec).await.unwrap();
        assert!(!second.created && !second.changed);
        assert_eq!(second.secret.expose(), first.secret.expose());
        assert_eq!(writes(&fake).len(), before, "{:?}", writes(&fake));
        assert!(!format!("{first:?}{second:?}").contains(first.secret.expose()));
    }
    assert_eq!(logins(&fake), 2, "a token is used until it ends");
}

#[tokio::test]
async fn what_was_changed_is_put_right_and_the_rest_stays() {
    let fake = fake().await;
    let keycloak = with(&fake, root());
    let spec = ClientSpec::new(ID);
    let first = keycloak.ensure_client(&spec).await.unwrap();
    fake.change_client(
        "demo",
        ID,
        &json!({
            "name": "the user's", "fullScopeAllowed": true, "redirectUris": ["https://a.example"],
            "attributes": {"standard.token.exchange.enabled": "false", "login_theme": "dark"},
        }),
    );
    let healed = keycloak.ensure_client(&spec).await.unwrap();
    assert!(healed.changed && !healed.created);
    assert_eq!(healed.secret.expose(), first.secret.expose());
    let client = fake.client("demo", ID).unwrap();
    assert_eq!(client["fullScopeAllowed"], false);
    assert_eq!(client["serviceAccountsEnabled"], true);
    assert_eq!(client["attributes"]["standard.token.exchange.enabled"], "true");
    assert_eq!(client["attributes"]["login_theme"], "dark");
    assert_eq!(
        (&client["name"], &client["redirectUris"]),
        (&json!("the user's"), &json!(["https://a.example"]))
    );

    let renewed = fake.rotate_secret("demo", ID);
    let seen = keycloak.ensure_client(&spec).await.unwrap();
    assert!(!seen.changed);
    assert_eq!(seen.secret.expose(), renewed);

    fake.change_client("demo", ID, &json!({"enabled": false}));
    let disabled = keycloak.ensure_client(&spec).await.unwrap();
    assert!(!disabled.changed && disabled.warnings[0].contains("disabled"), "{disabled:?}");
    assert_eq!(fake.client("demo", ID).unwrap()["enabled"], false);

    fake.delete_client("demo", ID);
    assert!(keycloak.ensure_client(&spec).await.unwrap().created);
}

#[tokio::test]
async fn who_loses_the_race_takes_the_winners_client() {
    let fake = fake().await;
    fake.race_next_create();
    let registered = with(&fake, root()).ensure_client(&ClientSpec::new(ID)).await.unwrap();
    assert!(!registered.created);
    assert_eq!(fake.client("demo", ID).unwrap()["secret"], registered.secret.expose());
}

#[tokio::test]
async fn a_client_that_proves_itself_by_an_svid_has_no_secret() {
    let fake = fake().await;
    let keycloak = with(&fake, root());
    let mut spec = ClientSpec::new(ID);
    spec.proof = ClientProof::FederatedJwt { identity_provider: "spire".to_owned() };
    let registered = keycloak.ensure_client(&spec).await.unwrap();
    assert!(registered.created && registered.secret.is_empty());
    let client = fake.client("demo", ID).unwrap();
    assert_eq!(client["clientAuthenticatorType"], "federated-jwt");
    assert_eq!(client["attributes"]["jwt.credential.issuer"], "spire");
    assert_eq!(client["attributes"]["jwt.credential.sub"], ID);
    spec.proof = ClientProof::Secret;
    let registered = keycloak.ensure_client(&spec).await.unwrap();
    assert!(registered.changed && !registered.secret.is_empty(), "a secret is made where none was");
}

#[tokio::test]
async fn a_client_is_deleted_once() {
    let fake = fake().await;
    let keycloak = with(&fake, root());
    assert!(!keycloak.delete_client(ID).await.unwrap());
    let mut spec = ClientSpec::new(ID);
    spec.audience_scope = Some(AudienceScope::of("demo/weather", Vec::new()));
    keycloak.ensure_client(&spec).await.unwrap();
    assert!(fake.scope("demo", "agent-demo-weather-aud").is_some());
    assert!(keycloak.remove(&spec).await.unwrap());
    assert!(fake.client("demo", ID).is_none() && fake.scope("demo", "agent-demo-weather-aud").is_none());
    assert!(!keycloak.remove(&spec).await.unwrap());
}

#[tokio::test]
async fn the_audience_scope_reaches_the_clients_it_is_meant_for() {
    let fake = fake().await;
    fake.put_client("demo", &json!({"clientId": "platform"}));
    let keycloak = with(&fake, root());
    let mut spec = ClientSpec::new(ID);
    let clients = vec!["platform".to_owned(), "absent".to_owned()];
    spec.audience_scope = Some(AudienceScope::of("demo/weather", clients));
    let name = "agent-demo-weather-aud";
    let registered = keycloak.ensure_client(&spec).await.unwrap();
    assert!(
        registered.warnings.len() == 1 && registered.warnings[0].contains("\"absent\""),
        "{registered:?}"
    );
    assert!(
        !fake.default_scopes("demo").contains(&name.to_owned()),
        "every client would have every audience"
    );
    assert_eq!(audience(&fake, name), ID);
    let has = |scopes: &Value| scopes.as_array().unwrap().contains(&json!(name));
    assert!(has(&fake.client("demo", "platform").unwrap()["defaultClientScopes"]));

    let before = writes(&fake).len();
    assert!(!keycloak.ensure_client(&spec).await.unwrap().changed);
    assert_eq!(writes(&fake).len(), before, "{:?}", writes(&fake));

    // Where that is asked for.
    spec.audience_scope.as_mut().unwrap().realm_default = true;
    assert!(keycloak.ensure_client(&spec).await.unwrap().changed);
    assert!(fake.default_scopes("demo").contains(&name.to_owned()));

    // The same server with another identity.
    spec.client_id = "spiffe://example.org/other".to_owned();
    spec.audience_scope.as_mut().unwrap().former = vec![ID.to_owned()];
    keycloak.ensure_client(&spec).await.unwrap();
    assert_eq!(audience(&fake, name), "spiffe://example.org/other");
    // The scope of another client is not removed with this one.
    spec.client_id = ID.to_owned();
    assert!(keycloak.remove(&spec).await.unwrap());
    assert!(fake.scope("demo", name).is_some());
}

fn audience(fake: &FakeKeycloak, name: &str) -> Value {
    let scope = fake.scope("demo", name).unwrap_or_default();
    scope["protocolMappers"][0]["config"]["included.custom.audience"].clone()
}

#[tokio::test]
async fn two_servers_whose_names_come_to_the_same_have_a_scope_each() {
    let fake = fake().await;
    let keycloak = with(&fake, root());
    let server = |name: &str, id: &str| {
        let audience_scope = Some(AudienceScope::of(name, Vec::new()));
        ClientSpec { audience_scope, ..ClientSpec::new(id) }
    };
    let one = server("team-a/x", "spiffe://example.org/ns/team-a/sa/x");
    let other = server("team/a-x", "spiffe://example.org/ns/team/sa/a-x");
    let second = other.audience_scope.as_ref().unwrap().second_name.clone();
    for _ in 0..2 {
        for spec in [&one, &other] {
            let registered = keycloak.ensure_client(spec).await.unwrap();
            assert!(registered.warnings.is_empty(), "{registered:?}");
        }
        assert_eq!(audience(&fake, "agent-team-a-x-aud"), one.client_id.as_str());
        assert_eq!(audience(&fake, &second), other.client_id.as_str());
    }
    let before = writes(&fake).len();
    assert!(!keycloak.ensure_client(&other).await.unwrap().changed);
    assert_eq!(writes(&fake).len(), before);

    // Each takes its own along. The other one keeps the name it has.
    assert!(keycloak.remove(&one).await.unwrap());
    assert!(fake.scope("demo", "agent-team-a-x-aud").is_none());
    assert!(!keycloak.ensure_client(&other).await.unwrap().changed);
    assert_eq!(audience(&fake, &second), other.client_id.as_str());
    assert!(keycloak.remove(&other).await.unwrap());
    assert!(fake.scope("demo", &second).is_none());
}

#[tokio::test]
async fn a_scope_that_is_somebody_elses_is_left_alone() {
    let fake = fake().await;
    let keycloak = with(&fake, root());
    let spec = |id: &str| {
        let audience_scope = Some(AudienceScope::of("demo/weather", Vec::new()));
        ClientSpec { audience_scope, ..ClientSpec::new(id) }
    };
    for id in ["spiffe://example.org/1", "spiffe://example.org/2"] {
        assert!(keycloak.ensure_client(&spec(id)).await.unwrap().warnings.is_empty());
    }
    let third = keycloak.ensure_client(&spec("spiffe://example.org/3")).await.unwrap();
    assert!(third.warnings[0].contains("left alone"), "{third:?}");
    assert_eq!(audience(&fake, "agent-demo-weather-aud"), "spiffe://example.org/1");
}

#[tokio::test]
async fn a_client_that_was_there_before_is_changed_only_in_what_is_needed() {
    let fake = fake().await;
    let theirs = json!({
        "clientId": ID, "publicClient": true, "standardFlowEnabled": true, "directAccessGrantsEnabled": true,
        "fullScopeAllowed": true, "redirectUris": ["https://a.example"],
    });
    fake.put_client("demo", &theirs);
    let keycloak = with(&fake, root());
    let before = writes(&fake).len();
    let reluctant = ClientSpec { adopt: false, ..ClientSpec::new(ID) };
    let error = keycloak.ensure_client(&reluctant).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, KeycloakError::NotOurs { .. }), "{error}");
    assert_eq!(error.kind(), KeycloakErrorKind::Conflict);
    assert_eq!(writes(&fake).len(), before);
    assert!(!fake.requests().iter().any(|request| request.path().ends_with("/client-secret")));

    let taken = keycloak.ensure_client(&ClientSpec::new(ID)).await.unwrap();
    assert!(taken.changed && !taken.created);
    let warning = taken.warnings.join("; ");
    assert!(
        warning.contains("standardFlowEnabled, directAccessGrantsEnabled, fullScopeAllowed"),
        "{warning}"
    );
    let client = fake.client("demo", ID).unwrap();
    for (flag, expected) in [
        ("publicClient", false),
        ("serviceAccountsEnabled", true),
        ("standardFlowEnabled", true),
        ("directAccessGrantsEnabled", true),
        ("fullScopeAllowed", true),
    ] {
        assert_eq!(client[flag], expected, "{flag}");
    }
    assert_eq!(client["secret"], taken.secret.expose());
    assert!(!keycloak.ensure_client(&ClientSpec::new(ID)).await.unwrap().changed);

    // One of ours is not refused.
    fake.delete_client("demo", ID);
    assert!(keycloak.ensure_client(&reluctant).await.unwrap().created);
    assert!(!keycloak.ensure_client(&reluctant).await.unwrap().created);
}

#[tokio::test]
async fn a_token_that_is_refused_is_said_to_be_of_the_realm_of_the_login() {
    let server = ScriptedServer::start(|request| match request.path().ends_with("/token") {
        true => Reply::json(&json!({"access_token": "a", "expires_in": 60})),
        false => Reply::status(401),
    })
    .await;
    let mut settings = KeycloakSettings::new(&server.url(""), "demo").unwrap();
    settings.egress = Egress { loopback: true, deny: Vec::new() };
    for (login, realm) in [(root(), "master"), (service("registrar", "s"), "demo")] {
        let keycloak = Keycloak::new(settings.clone(), login, SystemClock::shared()).unwrap();
        let error = keycloak.delete_client(ID).await.unwrap_err();
        assert_eq!(error.kind(), KeycloakErrorKind::Credentials);
        assert!(error.to_string().contains(&format!("at realm {realm:?}")), "{error}");
    }
}

#[tokio::test]
async fn a_login_that_may_not_make_scopes_still_registers() {
    let fake = fake().await;
    fake.service_account("demo", "registrar", "s", &["manage-clients"]);
    let mut spec = ClientSpec::new(ID);
    let mut scope = AudienceScope::of("demo/weather", vec!["kagenti".to_owned()]);
    scope.only_present_clients = true;
    spec.audience_scope = Some(scope.clone());
    let registered = with(&fake, service("registrar", "s")).ensure_client(&spec).await.unwrap();
    assert!(registered.created && registered.warnings.is_empty(), "{registered:?}");
    let token = fake.initial_access_token("demo", 1, 0);
    let spec = ClientSpec { audience_scope: Some(scope), ..ClientSpec::new("spiffe://example.org/b") };
    let registered = with(&fake, initial(token)).ensure_client(&spec).await.unwrap();
    assert!(
        registered.created && registered.warnings[0].contains("may only register clients"),
        "{registered:?}"
    );
}

#[tokio::test]
async fn a_refusal_says_whose_fault_it_is_and_what_to_do() {
    use KeycloakErrorKind::*;
    let fake = fake().await;
    fake.service_account("demo", "viewer", "s", &["view-clients"]);
    fake.service_account("demo", "nobody", "s", &[]);
    fake.service_account("demo", "creator", "s", &["create-client"]);
    for (realm, login, kind, says) in [
        ("demo", password("root", "wrong"), Credentials, "administrator \"root\" at realm \"master\""),
        ("demo", password("nobody", "hunter2"), Credentials, "invalid_grant"),
        ("demo", service("viewer", "wrong"), Credentials, "service account \"viewer\" at realm \"demo\""),
        ("absent", root(), RealmMissing, "no realm \"absent\""),
        ("absent", service("viewer", "s"), RealmMissing, "no realm \"absent\""),
        ("absent", initial("t".to_owned()), RealmMissing, "no realm \"absent\""),
        ("demo", service("viewer", "s"), Forbidden, "may not make a client"),
        ("demo", service("nobody", "s"), Forbidden, "role manage-clients"),
        ("demo", initial("no token".to_owned()), Credentials, "make a new one"),
        ("demo", initial("garbage".to_owned()), Credentials, "make a new one"),
    ] {
        let keycloak = Keycloak::new(settings(&fake, realm), login, SystemClock::shared()).unwrap();
        let error = keycloak.ensure_client(&ClientSpec::new(ID)).await.map(|_| ()).unwrap_err();
        let text = skep_runtime::logging::chain(&error);
        assert_eq!(error.kind(), kind, "{text}");
        assert!(text.contains(says), "{says}: {text}");
        assert!(!text.contains("hunter2") && !text.contains("garbage"), "{text}");
    }
    let made =
        with(&fake, service("creator", "s")).ensure_client(&ClientSpec::new("spiffe://example.org/c")).await;
    let error = made.map(|_| ()).unwrap_err();
    assert!(matches!(error.kind(), Forbidden | Conflict), "{error}");
    let empty = Keycloak::new(settings(&fake, "demo"), password("root", ""), SystemClock::shared());
    assert_eq!(empty.map(|_| ()).unwrap_err().kind(), Credentials);
}

#[tokio::test]
async fn a_keycloak_that_is_down_is_unavailable_and_nothing_else() {
    let fake = fake().await;
    let mut quick = settings(&fake, "demo");
    quick.timeout = Duration::from_millis(300);
    for outage in [Outage::Status(503), Outage::Hang, Outage::Refused] {
        for login in [root(), initial(fake.initial_access_token("demo", 1, 0))] {
            let keycloak = Keycloak::new(quick.clone(), login, SystemClock::shared()).unwrap();
            fake.fail(outage).await;
            let error = keycloak.ensure_client(&ClientSpec::new(ID)).await.map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), KeycloakErrorKind::Unavailable, "{error}");
            assert!(error.kind().is_transient());
            fake.up().await;
            assert!(keycloak.ensure_client(&ClientSpec::new(ID)).await.unwrap().created, "{outage:?}");
            fake.delete_client("demo", ID);
        }
    }
}

#[tokio::test]
async fn a_token_is_renewed_when_it_ends_or_is_refused() {
    let clock = ManualClock::default();
    let fake = FakeKeycloak::with_clock(Arc::new(clock.clone())).await;
    fake.realm("demo");
    fake.admin("root", "hunter2");
    let shared: SharedClock = Arc::new(clock.clone());
    let keycloak = Keycloak::new(settings(&fake, "demo"), root(), shared).unwrap();
    let spec = ClientSpec::new(ID);
    keycloak.ensure_client(&spec).await.unwrap();
    clock.advance(Duration::from_secs(49));
    keycloak.ensure_client(&spec).await.unwrap();
    assert_eq!(logins(&fake), 1);
    clock.advance(Duration::from_secs(2));
    keycloak.ensure_client(&spec).await.unwrap();
    assert_eq!(
        (logins(&fake), refreshes(&fake)),
        (1, 1),
        "before it ends, and with the session that is there"
    );
    fake.revoke_tokens("master");
    keycloak.ensure_client(&spec).await.unwrap();
    assert_eq!((logins(&fake), refreshes(&fake)), (2, 1), "at once when it is refused");
    // A session that has ended can't be refreshed.
    clock.advance(Duration::from_secs(1801));
    keycloak.ensure_client(&spec).await.unwrap();
    assert_eq!((logins(&fake), refreshes(&fake)), (3, 2));
}

#[tokio::test]
async fn a_login_that_can_be_refreshed_is_no_login_anew() {
    let server = ScriptedServer::start(|request| match request.path().ends_with("/token") {
        true => Reply::json(&json!({
            "access_token": "a", "expires_in": 60, "refresh_token": format!("after {}", request.form_field("grant_type")),
        })),
        false => Reply::json(&json!([])),
    })
    .await;
    let clock = ManualClock::default();
    let mut settings = KeycloakSettings::new(&server.url(""), "demo").unwrap();
    settings.egress = Egress { loopback: true, deny: Vec::new() };
    let keycloak = Keycloak::new(settings, root(), Arc::new(clock.clone())).unwrap();
    for _ in 0..3 {
        assert!(!keycloak.delete_client(ID).await.unwrap());
        clock.advance(Duration::from_secs(60));
    }
    let asked: Vec<_> = server
        .requests()
        .iter()
        .filter(|request| request.path().ends_with("/token"))
        .map(|request| (request.form_field("grant_type"), request.form_field("refresh_token")))
        .collect();
    let pair = |grant: &str, token: &str| (grant.to_owned(), token.to_owned());
    assert_eq!(
        asked,
        [
            pair("password", ""),
            pair("refresh_token", "after password"),
            pair("refresh_token", "after refresh_token"),
        ]
    );
}

/// Tokens that outlive a [`Keycloak`].
#[derive(Debug, Default)]
struct Kept(Mutex<HashMap<String, Secret>>);

impl RegistrationTokens for Kept {
    fn load(&self, client_id: &str) -> std::io::Result<Option<Secret>> {
        Ok(self.0.lock().unwrap().get(client_id).cloned())
    }

    fn save(&self, client_id: &str, token: &Secret) -> std::io::Result<()> {
        self.0.lock().unwrap().insert(client_id.to_owned(), token.clone());
        Ok(())
    }

    fn remove(&self, client_id: &str) -> std::io::Result<()> {
        self.0.lock().unwrap().remove(client_id);
        Ok(())
    }
}

#[tokio::test]
async fn an_initial_access_token_registers_and_its_client_is_looked_after() {
    let fake = fake().await;
    let token = fake.initial_access_token("demo", 2, 0);
    let kept = Arc::new(Kept::default());
    let keycloak = || {
        let mut settings = settings(&fake, "demo");
        settings.registrations = Some(kept.clone());
        Keycloak::new(settings, initial(token.clone()), SystemClock::shared()).unwrap()
    };
    let spec = ClientSpec::new(ID);
    let first = keycloak().ensure_client(&spec).await.unwrap();
    assert!(first.created);
    assert_eq!(fake.client("demo", ID).unwrap()["secret"], first.secret.expose());

    // Another process goes on with what was kept, again and again.
    for _ in 0..3 {
        let again = keycloak().ensure_client(&spec).await.unwrap();
        assert!(!again.created && !again.changed);
        assert_eq!(again.secret.expose(), first.secret.expose());
    }
    // A change ends the token that it is made with.
    let before = kept.load(ID).unwrap().unwrap();
    fake.change_client("demo", ID, &json!({"fullScopeAllowed": true}));
    assert!(keycloak().ensure_client(&spec).await.unwrap().changed);
    assert_eq!(fake.client("demo", ID).unwrap()["fullScopeAllowed"], false);
    assert_ne!(kept.load(ID).unwrap().unwrap().expose(), before.expose());
    let renewed = fake.rotate_secret("demo", ID);
    assert_eq!(keycloak().ensure_client(&spec).await.unwrap().secret.expose(), renewed);

    // Deleted behind our back: made again, as long as the initial access token allows.
    fake.delete_client("demo", ID);
    assert!(keycloak().ensure_client(&spec).await.unwrap().created);
    fake.delete_client("demo", ID);
    let error = keycloak().ensure_client(&spec).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("make a new one"), "{error}");
}

#[tokio::test]
async fn an_initial_access_token_touches_only_what_it_made() {
    let fake = fake().await;
    let token = fake.initial_access_token("demo", 3, 0);
    fake.put_client("demo", &json!({"clientId": ID}));
    let keycloak = with(&fake, initial(token.clone()));
    let error = keycloak.ensure_client(&ClientSpec::new(ID)).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), KeycloakErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("delete it in Keycloak"), "{error}");
    assert!(!keycloak.delete_client(ID).await.unwrap());
    assert!(fake.client("demo", ID).is_some());

    fake.delete_client("demo", ID);
    assert!(keycloak.ensure_client(&ClientSpec::new(ID)).await.unwrap().created);
    // A process that has lost its token can't go on.
    let error =
        with(&fake, initial(token)).ensure_client(&ClientSpec::new(ID)).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), KeycloakErrorKind::Conflict, "{error}");
    assert!(keycloak.delete_client(ID).await.unwrap());
    assert!(fake.client("demo", ID).is_none());
}

#[tokio::test]
async fn a_base_path_and_a_realm_with_odd_letters_are_fine() {
    let fake = FakeKeycloak::start().await;
    fake.set_public_url(&format!("{}/auth", fake.url()));
    fake.admin("root", "hunter2");
    fake.realm("my réalm+1");
    for url in [fake.url(), format!("{}/", fake.url())] {
        let mut settings = KeycloakSettings::new(&url, "my réalm+1").unwrap();
        settings.egress = Egress { loopback: true, deny: Vec::new() };
        let keycloak = Keycloak::new(settings, root(), SystemClock::shared()).unwrap();
        keycloak.ensure_client(&ClientSpec::new(ID)).await.unwrap();
    }
    assert!(fake.client("my réalm+1", ID).is_some());
}

#[test]
fn an_address_that_is_never_called_is_refused_before_any_call() {
    let login = || password("root", "hunter2");
    for url in ["http://169.254.169.254", "http://127.0.0.1:8080"] {
        let settings = KeycloakSettings::new(url, "demo").unwrap();
        let error = Keycloak::new(settings, login(), SystemClock::shared()).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), KeycloakErrorKind::Configuration, "{error}");
    }
}

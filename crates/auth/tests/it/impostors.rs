//! Callers who want to be taken for somebody else.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use skep_auth::authenticator::{Authenticator, TrustedIssuer};
use skep_auth::error::{AuthError, AuthErrorKind};
use skep_auth::identity::Identity;
use skep_auth::rules::TokenRules;
use skep_testkit::idp::Alg;
use skep_testkit::{FakeIdp, ManualClock, TokenSpec};

use crate::identity::{AUDIENCE, ISSUED, authenticator, clock_at, ip, prefixed, rules, trusted};

const KEYCLOAK: &str = "https://sso.company.example/realms/company";
const PLAIN: &str = "https://idp.company.example";
const TENANT: &str = "5f0c2a1e-0000-4000-8000-00000000c0de";
const ENTRA: &str = "https://login.microsoftonline.com/5f0c2a1e-0000-4000-8000-00000000c0de/v2.0";

fn source() -> IpAddr {
    ip("192.0.2.1")
}

/// An identity provider with several names, and whoever trusts one of them.
struct Stage {
    idp: FakeIdp,
    clock: ManualClock,
}

impl Stage {
    async fn new() -> Self {
        let clock = clock_at(ISSUED);
        Self { idp: FakeIdp::with_clock(Arc::new(clock.clone())).await, clock }
    }

    fn trusting(&self, issuer: &str, change: impl FnOnce(&mut TokenRules)) -> Authenticator {
        let mut rules = rules(AUDIENCE);
        change(&mut rules);
        self.trusting_all(vec![trusted(&self.idp, issuer, rules)])
    }

    fn trusting_all(&self, issuers: Vec<TrustedIssuer>) -> Authenticator {
        authenticator(issuers, self.clock.clone())
    }

    /// A token of `issuer` for a user who was logged in by the client `web`, with changes; null removes.
    fn token(&self, issuer: &str, changes: &Value) -> String {
        let mut claims = json!({
            "iss": issuer, "aud": AUDIENCE, "sub": "u-1", "iat": ISSUED, "exp": ISSUED + 600, "azp": "web",
        });
        change(claims.as_object_mut().unwrap(), changes);
        self.idp.sign(Alg::Rs256, &json!({"alg": "RS256", "typ": "JWT"}), &claims)
    }

    async fn who(
        &self,
        issuer: &str,
        changes: &Value,
        rules: impl FnOnce(&mut TokenRules),
    ) -> Result<Arc<Identity>, AuthError> {
        self.trusting(issuer, rules).authenticate(&self.token(issuer, changes), source()).await
    }
}

fn change(claims: &mut Map<String, Value>, changes: &Value) {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.remove(name),
            value => claims.insert(name.clone(), value.clone()),
        };
    }
}

#[tokio::test]
async fn claims_that_users_may_set_do_not_turn_them_into_clients() {
    let stage = Stage::new().await;
    for (issuer, claims) in [
        // What Microsoft Entra alone writes, from anybody else.
        (KEYCLOAK, json!({"idtyp": "app"})),
        (PLAIN, json!({"idtyp": "app"})),
        (PLAIN, json!({"idtyp": "app", "tid": TENANT})),
        (KEYCLOAK, json!({"tid": TENANT, "oid": "u-1"})),
        (KEYCLOAK, json!({"tid": "company", "oid": "u-1", "idtyp": "app"})),
        // What Auth0 alone writes.
        (KEYCLOAK, json!({"gty": "client-credentials"})),
        (PLAIN, json!({"gty": "client-credentials", "sub": "other@clients"})),
        // A second name for the client, which is the user's own.
        (KEYCLOAK, json!({"client_id": "u-1"})),
        (KEYCLOAK, json!({"cid": "u-1"})),
        (PLAIN, json!({"client_id": "u-1"})),
        // A user name like that of a service account: where there is no Keycloak, or in a login.
        (PLAIN, json!({"preferred_username": "service-account-web"})),
        (ENTRA, json!({"preferred_username": "service-account-web", "tid": TENANT})),
        (KEYCLOAK, json!({"preferred_username": "service-account-web", "sid": "s"})),
        (KEYCLOAK, json!({"preferred_username": "service-account-web", "session_state": "s"})),
        (KEYCLOAK, json!({"preferred_username": "service-account-web", "auth_time": ISSUED})),
        // An issuer that has no realms, but has the word in its name.
        ("https://realms.example", json!({"preferred_username": "service-account-web"})),
    ] {
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or("u-1").to_owned();
        let who = stage.who(issuer, &claims, |_| {}).await.unwrap();
        assert_eq!((who.subject.as_str(), who.is_client), (subject.as_str(), false), "{issuer} {claims}");
        assert_eq!(who.client.as_deref(), Some("web"), "{issuer} {claims}");
    }
}

#[tokio::test]
async fn clients_that_call_for_themselves_are_still_known() {
    let stage = Stage::new().await;
    let bot = |more: Value| {
        let mut claims = json!({"azp": null, "sub": "bot"});
        change(claims.as_object_mut().unwrap(), &more);
        claims
    };
    let b2c = "https://company.b2clogin.example/5f0c2a1e-0000-4000-8000-00000000c0de/v2.0/";
    for (issuer, claims) in [
        (ENTRA, json!({"azp": "bot", "sub": "o", "oid": "o", "tid": TENANT})),
        (ENTRA, json!({"azp": "bot", "sub": "o", "tid": TENANT, "idtyp": "app"})),
        (b2c, json!({"azp": "bot", "sub": "o", "tid": TENANT, "idtyp": "app"})),
        (KEYCLOAK, json!({"azp": "bot", "sub": "u-9", "preferred_username": "service-account-bot"})),
        (
            KEYCLOAK,
            json!({
                "azp": "bot", "sub": "u-9", "preferred_username": "service-account-bot", "client_id": "bot",
                "sid": "with refresh tokens for clients",
            }),
        ),
        (PLAIN, json!({"azp": "bot", "sub": "bot@clients", "gty": "client-credentials"})),
        (PLAIN, json!({"azp": null, "sub": "bot@clients", "gty": "client-credentials"})),
        (PLAIN, bot(json!({"client_id": "bot"}))),
        (PLAIN, bot(json!({"cid": "bot"}))),
        (PLAIN, bot(json!({"azp": "bot"}))),
    ] {
        let who = stage.who(issuer, &claims, |_| {}).await.unwrap();
        assert_eq!((who.subject.as_str(), who.is_client), ("client:bot", true), "{issuer} {claims}");
    }
}

#[tokio::test]
async fn an_address_that_nobody_has_verified_names_nobody() {
    let stage = Stage::new().await;
    let by_email = |rules: &mut TokenRules| rules.mappings.subject = "email".to_owned();
    let alice = "alice@company.example";
    for (verified, fine) in [
        (json!(true), true),
        (json!("true"), true),
        (Value::Null, true),
        (json!(false), false),
        (json!("false"), false),
        (json!("False"), false),
        (json!(0), false),
    ] {
        let claims = json!({"email": alice, "email_verified": verified});
        let who = stage.who(KEYCLOAK, &claims, by_email).await;
        assert_eq!(who.is_ok(), fine, "{verified}");
        if let Err(error) = who {
            assert_eq!(error.kind(), AuthErrorKind::Claims);
            assert!(error.to_string().contains("e-mail"), "{error}");
        }
    }
    // It is nobody's business where the subject is something else.
    let claims = json!({"email": alice, "email_verified": false});
    assert_eq!(stage.who(KEYCLOAK, &claims, |_| {}).await.unwrap().subject, "u-1");
}

#[tokio::test]
async fn an_issuer_is_named_exactly() {
    let stage = Stage::new().await;
    let judge = stage.trusting(KEYCLOAK, |_| {});
    for fine in [KEYCLOAK.to_owned(), format!("{KEYCLOAK}/")] {
        assert!(judge.authenticate(&stage.token(&fine, &json!({})), source()).await.is_ok(), "{fine}");
    }
    for other in [
        "https://sso.company.example/realms/company//",
        "https://sso.company.example/realms/company/.",
        "https://sso.company.example/realms/x/../company",
        "https://sso.company.example/realms/Company",
        "https://SSO.company.example/realms/company",
        "HTTPS://sso.company.example/realms/company",
        "http://sso.company.example/realms/company",
        "https://sso.company.example:443/realms/company",
        "https://sso.company.example./realms/company",
        "https://sso.company.example/realms/company?x",
        "https://sso.company.example/realms/company#",
        "https://sso.company.example/realms/compan%79",
        "https://user@sso.company.example/realms/company",
        "https://sso.company.example/realms/company ",
        " https://sso.company.example/realms/company",
        "https://sso.company.example/realms/company\n",
        "https://sso.company.example/realms/company\u{0}",
        "https://sso.company.example/realms/c\u{43e}mpany",
        "https://sso.company.example\u{ff0f}realms/company",
        "https:\\\\sso.company.example\\realms\\company",
        "",
    ] {
        let token = stage.token(other, &json!({}));
        assert_eq!(judge.authenticate(&token, source()).await.unwrap_err(), AuthError::Issuer, "{other:?}");
    }
    for odd in [json!([KEYCLOAK]), json!({"iss": KEYCLOAK}), json!(7), json!(true)] {
        let token = stage.token(KEYCLOAK, &json!({"iss": odd}));
        assert_eq!(judge.authenticate(&token, source()).await.unwrap_err(), AuthError::Issuer, "{odd}");
    }
}

#[tokio::test]
async fn a_key_of_another_issuer_does_not_sign_even_under_the_same_id() {
    let clock = clock_at(ISSUED);
    let ours = FakeIdp::with_clock(Arc::new(clock.clone())).await;
    let partner = FakeIdp::with_clock(Arc::new(clock.clone())).await;
    partner.rotate();
    // The partner publishes its own key under the id that ours has.
    let mut theirs = partner.key(Alg::Rs256).jwk(true);
    theirs["kid"] = json!(ours.key(Alg::Rs256).kid());
    partner.set_jwks(Some(&json!({"keys": [theirs]}).to_string()));
    let prefixed = prefixed("partner:");
    let judge = authenticator(
        vec![trusted(&ours, ours.issuer(), rules(AUDIENCE)), trusted(&partner, partner.issuer(), prefixed)],
        clock,
    );
    let kid = ours.key(Alg::Rs256).kid().to_owned();
    let spec = |issuer: &str| TokenSpec::valid("alice", AUDIENCE).header("kid", kid.clone()).issuer(issuer);
    let good = judge.authenticate(&partner.mint(&spec(partner.issuer())), source()).await.unwrap();
    assert_eq!(good.subject, "partner:alice");
    for (signer, named) in [(&partner, &ours), (&ours, &partner)] {
        let forged = signer.mint(&spec(named.issuer()));
        assert_eq!(judge.authenticate(&forged, source()).await.unwrap_err(), AuthError::Signature);
    }
    // A key that the token brings along is not looked at.
    for (name, value) in [
        ("jwk", partner.key(Alg::Rs256).jwk(true)),
        ("jku", json!(partner.jwks_url())),
        ("x5u", json!(partner.jwks_url())),
    ] {
        let asked = partner.jwks_hits();
        let forged = partner.mint(&spec(ours.issuer()).header(name, value));
        assert_eq!(judge.authenticate(&forged, source()).await.unwrap_err(), AuthError::Signature, "{name}");
        assert_eq!(partner.jwks_hits(), asked);
    }
}

#[tokio::test]
async fn nothing_in_a_subject_reaches_into_another_issuers_names() {
    let stage = Stage::new().await;
    let partner = prefixed("partner:");
    let two = |first: TokenRules| {
        stage.trusting_all(vec![
            trusted(&stage.idp, PLAIN, first),
            trusted(&stage.idp, KEYCLOAK, partner.clone()),
        ])
    };
    let plain = || TokenRules { plain_client_subjects: true, ..rules(AUDIENCE) };
    for (first, issuer, claims, expected) in [
        (rules(AUDIENCE), PLAIN, json!({"sub": "partner:alice"}), Err(AuthError::NoSubject)),
        (rules(AUDIENCE), PLAIN, json!({"sub": "partner:client:bot"}), Err(AuthError::NoSubject)),
        (rules(AUDIENCE), PLAIN, json!({"sub": "partner"}), Ok("partner")),
        (rules(AUDIENCE), KEYCLOAK, json!({"sub": "client:bot"}), Err(AuthError::NoSubject)),
        (plain(), PLAIN, json!({"sub": "partner:bot", "azp": "partner:bot"}), Err(AuthError::NoSubject)),
        (plain(), PLAIN, json!({"sub": "bot", "azp": "bot"}), Ok("bot")),
        (plain(), KEYCLOAK, json!({"sub": "bot", "azp": "bot"}), Ok("partner:client:bot")),
        (plain(), KEYCLOAK, json!({"sub": "bot"}), Ok("partner:bot")),
        (rules(AUDIENCE), PLAIN, json!({"sub": ["alice"]}), Err(AuthError::NoSubject)),
        (rules(AUDIENCE), PLAIN, json!({"sub": {"sub": "alice"}}), Err(AuthError::NoSubject)),
    ] {
        let got = two(first).authenticate(&stage.token(issuer, &claims), source()).await;
        let got = got.map(|who| who.subject.clone());
        assert_eq!(got, expected.map(str::to_owned), "{issuer} {claims}");
    }
}

#[tokio::test]
async fn tokens_that_are_no_access_tokens_are_known_by_what_is_in_them() {
    let stage = Stage::new().await;
    let logout = json!({"http://schemas.openid.net/event/backchannel-logout": {}});
    for claims in [
        json!({"events": logout, "sid": "s"}),
        json!({"events": {"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {}}}),
        json!({"nonce": "n"}),
        json!({"c_hash": "x"}),
        json!({"typ": "Logout"}),
        json!({"typ": "ID"}),
        json!({"typ": "Offline"}),
        json!({"token_use": "id"}),
        json!({"token_use": "refresh"}),
        json!({"tid": TENANT, "ver": "2.0", "azp": null}),
    ] {
        let refused = stage.who(PLAIN, &claims, |_| {}).await.unwrap_err();
        assert_eq!(refused.kind(), AuthErrorKind::WrongKind, "{claims}");
    }
    // An application's own claim of that name is no security event.
    for claims in [json!({"events": ["login"]}), json!({"events": {"login": 1}}), json!({"events": "x"})] {
        assert!(stage.who(PLAIN, &claims, |_| {}).await.is_ok(), "{claims}");
    }
    for typ in [
        "logout+jwt",
        "secevent+jwt",
        "dpop+jwt",
        "oauth-authz-req+jwt",
        "token-introspection+jwt",
        "id+jwt",
        "refresh",
        "entity-statement+jwt",
        "client-authentication+jwt",
        "kb+jwt",
        "",
        "at+jwt ",
    ] {
        let token = stage.idp.mint(&TokenSpec::valid("alice", AUDIENCE).issuer(PLAIN).header("typ", typ));
        let refused = stage.trusting(PLAIN, |_| {}).authenticate(&token, source()).await.unwrap_err();
        assert_eq!(refused.kind(), AuthErrorKind::WrongKind, "{typ:?}");
    }
}

#[tokio::test]
async fn odd_times_and_audiences_open_nothing() {
    let stage = Stage::new().await;
    for claims in [
        json!({"exp": "1767229200"}),
        json!({"exp": 1e300}),
        json!({"exp": u64::MAX}),
        json!({"exp": -1}),
        json!({"exp": i64::MIN}),
        json!({"exp": [ISSUED + 600]}),
        json!({"exp": {}}),
        json!({"exp": true}),
        json!({"exp": ISSUED - 30}),
        json!({"exp": 1_767_225_570.999}),
        json!({"nbf": ISSUED + 31}),
        json!({"nbf": i64::MAX}),
        json!({"nbf": 1e14}),
        json!({"nbf": "0"}),
        json!({"nbf": []}),
        json!({"aud": ""}),
        json!({"aud": []}),
        json!({"aud": [[AUDIENCE]]}),
        json!({"aud": [7, true, {"aud": AUDIENCE}]}),
        json!({"aud": "mcp-demo "}),
        json!({"aud": "MCP-DEMO"}),
        json!({"aud": "mcp-demo,other"}),
        json!({"aud": 7}),
        json!({"cnf": {}}),
        json!({"cnf": "x"}),
        json!({"cnf": []}),
        json!({"cnf": false}),
    ] {
        assert!(stage.who(PLAIN, &claims, |_| {}).await.is_err(), "{claims}");
    }
    for claims in [
        json!({"exp": i64::MAX}),
        json!({"exp": 1_767_226_000.5}),
        json!({"exp": 1.767_226e9}),
        json!({"nbf": i64::MIN}),
        json!({"aud": ["x", 7, AUDIENCE]}),
        json!({"scp": vec!["s"; 3000]}),
        json!({"__proto__": {"sub": "root"}, "constructor": {"prototype": 1}}),
    ] {
        let who = stage.who(PLAIN, &claims, |_| {}).await;
        assert_eq!(who.unwrap().subject, "u-1", "{claims}");
    }
    // Nested names twice, in the claims as well as in the header.
    for (header, claims) in [
        (r#"{"alg":"RS256"}"#, r#"{"a":{"b":1,"b":2}}"#),
        (r#"{"alg":"RS256"}"#, r#"{"aud":"x","\u0061ud":"mcp-demo"}"#),
        (r#"{"alg":"RS256","jwk":{"kty":"RSA","kty":"oct"}}"#, "{}"),
    ] {
        use base64::Engine;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let token = format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let refused = stage.trusting(PLAIN, |_| {}).authenticate(&token, source()).await.unwrap_err();
        assert_eq!(refused.kind(), AuthErrorKind::Malformed, "{header} {claims}");
    }
}

#[tokio::test]
async fn a_machine_whose_clock_is_at_1970_lets_in_nobody_whose_token_is_from_the_future() {
    let stage = Stage::new().await;
    stage.clock.set_wall(0);
    let judge = stage.trusting(PLAIN, |_| {});
    // Long past, but not for this clock; what the token says of its own time shows that the clock is wrong.
    for claims in [json!({}), json!({"nbf": ISSUED}), json!({"iat": 1_500_000_000, "exp": 1_500_000_600})] {
        let refused = judge.authenticate(&stage.token(PLAIN, &claims), source()).await.unwrap_err();
        assert_eq!(refused, AuthError::NotYetValid, "{claims}");
    }
    stage.clock.set_wall(ISSUED);
    for (issued, fine) in [(0, true), (60, true), (3600, true), (24 * 3600 + 31, false), (-40_000_000, true)]
    {
        let token = stage.token(PLAIN, &json!({"iat": ISSUED + issued, "exp": ISSUED + 600_000}));
        assert_eq!(judge.authenticate(&token, source()).await.is_ok(), fine, "{issued}");
    }
    for odd in [json!("x"), json!(null), json!([]), json!(1e300)] {
        assert!(
            judge.authenticate(&stage.token(PLAIN, &json!({"iat": odd})), source()).await.is_ok(),
            "{odd}"
        );
    }
}

#[tokio::test]
async fn a_clients_id_is_no_way_around_the_list_of_clients() {
    let stage = Stage::new().await;
    let listed = |rules: &mut TokenRules| rules.authorized_parties = vec!["web".to_owned()];
    for (claims, fine) in [
        (json!({}), true),
        (json!({"azp": "other"}), false),
        (json!({"azp": ["web"]}), false),
        (json!({"azp": "web "}), false),
        (json!({"azp": null}), false),
        (json!({"azp": null, "client_id": "web"}), true),
        (json!({"azp": "", "client_id": "other"}), false),
        (json!({"azp": null, "sub": "web"}), false),
        (json!({"azp": null, "sub": "web@clients", "gty": "client-credentials"}), true),
    ] {
        assert_eq!(stage.who(PLAIN, &claims, listed).await.is_ok(), fine, "{claims}");
    }
}

#[tokio::test]
async fn what_is_mapped_cannot_be_faked_from_the_side() {
    let stage = Stage::new().await;
    for (path, claims, expected) in [
        ("ext.id", json!({"ext": {"id": "a"}}), Ok("a")),
        ("ext.id", json!({"ext": [{"id": "a"}]}), Err(AuthError::NoSubject)),
        ("ext.0.id", json!({"ext": [{"id": "a"}]}), Err(AuthError::NoSubject)),
        ("ext.id", json!({"ext": "{\"id\":\"a\"}"}), Err(AuthError::NoSubject)),
        ("ext.id", json!({"ext": {"id": ""}}), Err(AuthError::NoSubject)),
        ("ext.id", json!({"ext": {"id": true}}), Err(AuthError::NoSubject)),
        ("ext.id", json!({"ext": {"id": "client:bot"}}), Err(AuthError::NoSubject)),
        ("__proto__.sub", json!({}), Err(AuthError::NoSubject)),
        ("https://x.example/id", json!({"https://x": {"example/id": "b"}}), Ok("b")),
        (
            "https://x.example/id",
            json!({"https://x.example/id": "a", "https://x": {"example/id": "b"}}),
            Ok("a"),
        ),
    ] {
        let who = stage.who(PLAIN, &claims, |rules| rules.mappings.subject = path.to_owned()).await;
        assert_eq!(who.map(|who| who.subject.clone()), expected.map(str::to_owned), "{path} {claims}");
    }
}

#[test]
fn a_token_that_was_taken_apart_does_not_show_itself() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"alice","email":"alice@hidden.example"}"#);
    let token = format!("{}.{claims}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"k"}"#));
    let shown = format!("{:?}", skep_auth::jwt::parse(&token).unwrap());
    for part in [claims.as_str(), "c2lnbmF0dXJl", "hidden.example"] {
        assert!(!shown.contains(part), "{shown}");
    }
}

#[tokio::test]
async fn one_verified_token_says_nothing_about_another() {
    let stage = Stage::new().await;
    let judge = stage.trusting(PLAIN, |_| {});
    let good = stage.token(PLAIN, &json!({}));
    assert!(judge.authenticate(&good, source()).await.is_ok());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let other = stage.token(PLAIN, &json!({"sub": "root"}));
    let (root, _) = other.rsplit_once('.').unwrap();
    for mixed in [
        format!("{root}.{signature}"),
        format!("{message}."),
        format!("{message}.{signature}."),
        format!("{good} "),
        format!("{message}.{signature}="),
        format!("{}.{signature}", message.replace('.', "=.")),
        good.to_uppercase(),
    ] {
        assert!(judge.authenticate(&mixed, source()).await.is_err(), "{mixed}");
    }
    stage.clock.advance(Duration::from_secs(631));
    assert_eq!(judge.authenticate(&good, source()).await.unwrap_err(), AuthError::Expired);
}

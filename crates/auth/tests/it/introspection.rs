//! Opaque tokens, and the endpoints that know them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skep_api::secret::Secret;
use skep_auth::authenticator::{Authenticator, TrustedIssuer};
use skep_auth::error::AuthError;
use skep_auth::introspection::{CACHE_TTL, Dialect, IntrospectionSettings, Introspector, MAX_ANSWER};
use skep_auth::names::Issuer;
use skep_auth::rules::TokenRules;
use skep_testkit::server::{Gate, Step};
use skep_testkit::{FakeIdp, ManualClock, Recorded, Reply, ScriptedServer, TokenSpec};
use url::Url;

use crate::identity::{AUDIENCE, ISSUED, authenticator, client, ip, prefixed, rules, trusted};

const ISSUER: &str = "https://idp.example";
const TOKEN: &str = "opaque-token-of-alice";

struct Opaque {
    clock: ManualClock,
    server: ScriptedServer,
    judge: Authenticator,
}

impl Opaque {
    async fn start(
        change: impl FnOnce(&mut IntrospectionSettings, &mut TokenRules),
        handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::of(ISSUER, change, handler).await
    }

    async fn of(
        issuer: &str,
        change: impl FnOnce(&mut IntrospectionSettings, &mut TokenRules),
        handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let server = ScriptedServer::start(handler).await;
        let clock = ManualClock::at(ISSUED);
        let mut settings = IntrospectionSettings {
            url: Url::parse(&server.url("/introspect")).unwrap(),
            dialect: Dialect::Rfc7662,
            client_id: "proxy".to_owned(),
            client_secret: Some(Secret::new("s3cret")),
            token_file: None,
            cache_ttl: CACHE_TTL,
        };
        let mut rules = rules(AUDIENCE);
        change(&mut settings, &mut rules);
        let client = client(|config| {
            config.max_bytes = MAX_ANSWER;
            config.timeout = Duration::from_secs(2);
        });
        let issuer = TrustedIssuer {
            issuer: Issuer::parse(issuer, true).unwrap(),
            keys: None,
            rules,
            introspector: Some(Introspector::new(settings, client, Arc::new(clock.clone()))),
        };
        Self { judge: authenticator(vec![issuer], clock.clone()), server, clock }
    }

    async fn subject(&self, token: &str) -> Result<String, AuthError> {
        self.judge.authenticate(token, ip("192.0.2.1")).await.map(|who| who.subject.clone())
    }

    fn asked(&self) -> usize {
        self.server.requests().len()
    }
}

/// An active token of alice with changes; null removes.
fn active(changes: Value) -> Value {
    let mut answer = json!({
        "active": true, "sub": "alice", "aud": AUDIENCE, "exp": ISSUED + 600, "iss": ISSUER, "scope": "mcp:use",
        "client_id": "web", "username": "alice@company.example", "token_type": "Bearer",
    });
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            answer.as_object_mut().unwrap().remove(name);
        } else {
            answer[name] = value.clone();
        }
    }
    answer
}

#[tokio::test]
async fn every_claim_of_the_answer_is_kept() {
    let opaque = Opaque::start(
        |_, _| {},
        |_| Reply::json(&active(json!({"groups": ["eng"], "email": "a@company.example", "ext": {"x": 1}}))),
    )
    .await;
    let who = opaque.judge.authenticate(TOKEN, ip("192.0.2.1")).await.unwrap();
    assert_eq!((who.subject.as_str(), who.issuer.as_str()), ("alice", ISSUER));
    assert_eq!(who.claims["groups"], json!(["eng"]));
    assert_eq!(who.claims["username"], "alice@company.example");
    assert_eq!(who.claims["ext"], json!({"x": 1}));
    assert!(!who.claims.contains_key("active"));
    assert_eq!((who.client.as_deref(), who.scopes.as_slice()), (Some("web"), &["mcp:use".to_owned()][..]));
    assert_eq!(who.expires_at, ISSUED + 600);
    let seen = &opaque.server.requests()[0];
    assert_eq!((seen.method.as_str(), seen.path()), ("POST", "/introspect"));
    assert_eq!(seen.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(seen.header("accept"), Some("application/json"));
    assert_eq!(seen.header("authorization"), Some("Basic cHJveHk6czNjcmV0"));
    assert_eq!(seen.body, format!("token={TOKEN}&token_type_hint=access_token").as_bytes());
}

#[tokio::test]
async fn the_proxy_shows_who_it_is_in_the_way_that_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "of-the-pod\n").unwrap();
    type Change<'a> = Box<dyn FnOnce(&mut IntrospectionSettings) + 'a>;
    let table: Vec<(&str, Change<'_>, Option<&str>, bool)> = vec![
        (
            "id and secret are encoded first",
            Box::new(|settings| {
                settings.client_id = "a b".to_owned();
                settings.client_secret = Some(Secret::new("p:%/ö"));
            }),
            Some("Basic YStiOnAlM0ElMjUlMkYlQzMlQjY="),
            false,
        ),
        ("an id alone goes into the form", Box::new(|settings| settings.client_secret = None), None, true),
        (
            "a token file",
            Box::new(|settings| {
                settings.client_secret = None;
                settings.token_file = Some(path.clone());
            }),
            Some("Bearer of-the-pod"),
            false,
        ),
        (
            "nothing",
            Box::new(|settings| {
                settings.client_id.clear();
                settings.client_secret = None;
            }),
            None,
            false,
        ),
    ];
    for (what, change, authorization, id_in_form) in table {
        let opaque = Opaque::start(|settings, _| change(settings), |_| Reply::json(&active(json!({})))).await;
        assert_eq!(opaque.subject(TOKEN).await.unwrap(), "alice", "{what}");
        let seen = &opaque.server.requests()[0];
        assert_eq!(seen.header("authorization"), authorization, "{what}");
        assert_eq!(seen.form_field("client_id") == "proxy", id_in_form, "{what}");
    }
    // The token file is read each time.
    let opaque = Opaque::start(
        |settings, _| {
            settings.client_secret = None;
            settings.token_file = Some(path.clone());
            settings.cache_ttl = Duration::ZERO;
        },
        |_| Reply::json(&active(json!({}))),
    )
    .await;
    opaque.subject(TOKEN).await.unwrap();
    std::fs::write(&path, "rotated").unwrap();
    opaque.subject(TOKEN).await.unwrap();
    assert_eq!(opaque.server.requests()[1].header("authorization"), Some("Bearer rotated"));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(opaque.subject(TOKEN).await.unwrap_err(), AuthError::IntrospectionUnavailable);
}

#[tokio::test]
async fn an_answer_is_judged_like_the_claims_of_a_jwt() {
    let table: Vec<(Value, Result<&str, AuthError>)> = vec![
        (json!({}), Ok("alice")),
        (json!({"iss": null}), Ok("alice")),
        (json!({"aud": ["x", AUDIENCE]}), Ok("alice")),
        (json!({"token_type": null}), Ok("alice")),
        (json!({"token_type": "bearer"}), Ok("alice")),
        (json!({"token_type": "access_token"}), Ok("alice")),
        (json!({"sub": "web"}), Ok("client:web")),
        (json!({"active": false}), Err(AuthError::Inactive)),
        (json!({"aud": "other"}), Err(AuthError::Audience)),
        (json!({"aud": null}), Err(AuthError::Audience)),
        (json!({"iss": "https://other.example"}), Err(AuthError::Issuer)),
        (json!({"iss": 7}), Err(AuthError::Issuer)),
        (json!({"exp": null}), Err(AuthError::Malformed { reason: "it has no expiry (exp)" })),
        (json!({"exp": ISSUED - 31}), Err(AuthError::Expired)),
        (json!({"nbf": ISSUED + 31}), Err(AuthError::NotYetValid)),
        (json!({"sub": null}), Err(AuthError::NoSubject)),
        (json!({"sub": "client:web"}), Err(AuthError::NoSubject)),
        (json!({"cnf": {"jkt": "x"}}), Err(AuthError::Bound)),
        (json!({"token_type": "DPoP"}), Err(AuthError::Bound)),
        (
            json!({"token_type": "refresh_token"}),
            Err(AuthError::WrongKind { reason: "it is no access token" }),
        ),
        (
            json!({"token_use": "refresh_token"}),
            Err(AuthError::WrongKind {
                reason: "it is a refresh or logout token; an access token is needed",
            }),
        ),
    ];
    for (changes, expected) in table {
        let answer = active(changes.clone());
        let opaque = Opaque::start(|_, _| {}, move |_| Reply::json(&answer)).await;
        assert_eq!(opaque.subject(TOKEN).await, expected.map(str::to_owned), "{changes}");
    }
    let strict = |_: &mut IntrospectionSettings, rules: &mut TokenRules| {
        rules.required_scopes = vec!["mcp:write".to_owned()];
    };
    let opaque = Opaque::start(strict, |_| Reply::json(&active(json!({})))).await;
    let short = AuthError::InsufficientScope { required: "mcp:write".to_owned() };
    assert_eq!(opaque.subject(TOKEN).await.unwrap_err(), short);
}

#[tokio::test]
async fn what_is_no_proper_answer_leaves_the_token_unjudged_and_is_not_kept() {
    let bodies: Vec<Reply> = vec![
        Reply::status(500),
        Reply::status(503),
        Reply::status(429),
        Reply::status(401),
        Reply::status(403),
        Reply::status(404),
        Reply::status(302).header("Location", "/elsewhere"),
        Reply::status(204),
        Reply::body(200, "application/json", ""),
        Reply::body(200, "application/json", "[]"),
        Reply::body(200, "application/json", "true"),
        Reply::body(200, "application/json", "{}"),
        Reply::body(200, "text/html", "<html>sign in</html>"),
        Reply::body(200, "application/json", r#"{"active":"true","sub":"alice"}"#),
        Reply::body(200, "application/json", r#"{"active":false,"active":true}"#),
        Reply::json(&active(json!({"padding": "x".repeat(MAX_ANSWER)}))),
        Reply::reset(),
    ];
    for reply in bodies {
        let what = format!("{reply:?}").chars().take(120).collect::<String>();
        let opaque = Opaque::start(|_, _| {}, move |_| reply.clone()).await;
        assert_eq!(opaque.subject(TOKEN).await.unwrap_err(), AuthError::IntrospectionUnavailable, "{what}");
        assert!(!opaque.judge.issuers().next().unwrap().is_available());
        opaque.server.set_handler(|_| Reply::json(&active(json!({}))));
        assert_eq!(opaque.subject(TOKEN).await.unwrap(), "alice", "{what}");
        assert!(opaque.judge.issuers().next().unwrap().is_available());
    }
}

#[tokio::test]
async fn an_answer_is_kept_for_its_time_and_no_longer() {
    let opaque = Opaque::start(|_, _| {}, |_| Reply::json(&active(json!({"exp": ISSUED + 50})))).await;
    for (advance, asked, fine) in [(0, 1, true), (29, 1, true), (1, 2, true), (19, 2, true), (1, 3, true)] {
        opaque.clock.advance(Duration::from_secs(advance));
        assert_eq!(opaque.subject(TOKEN).await.is_ok(), fine);
        assert_eq!(opaque.asked(), asked, "after {advance} more seconds");
    }
    opaque.clock.advance(Duration::from_secs(30));
    assert_eq!(opaque.subject(TOKEN).await.unwrap_err(), AuthError::Expired);
    // That a token is not active is soon asked again.
    let inactive = Opaque::start(|_, _| {}, |_| Reply::json(&json!({"active": false}))).await;
    for (advance, asked) in [(0, 1), (9, 1), (1, 2)] {
        inactive.clock.advance(Duration::from_secs(advance));
        assert_eq!(inactive.subject(TOKEN).await.unwrap_err(), AuthError::Inactive);
        assert_eq!(inactive.asked(), asked);
    }
    let uncached = |settings: &mut IntrospectionSettings, _: &mut TokenRules| {
        settings.cache_ttl = Duration::ZERO;
    };
    let opaque = Opaque::start(uncached, |_| Reply::json(&active(json!({})))).await;
    opaque.subject(TOKEN).await.unwrap();
    opaque.subject(TOKEN).await.unwrap();
    assert_eq!(opaque.asked(), 2);
}

#[tokio::test]
async fn many_callers_with_one_token_ask_once_and_get_one_identity() {
    let gate = Gate::new();
    let waiting = gate.clone();
    let opaque = Opaque::start(
        |_, _| {},
        move |_| {
            let body = active(json!({})).to_string();
            Reply::status(200).step(Step::Wait(waiting.clone())).step(Step::Send(body.into()))
        },
    )
    .await;
    let opaque = Arc::new(opaque);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let opaque = Arc::clone(&opaque);
        callers.spawn(async move { opaque.judge.authenticate(TOKEN, ip("192.0.2.1")).await.unwrap() });
    }
    opaque.server.wait_for_requests(1).await;
    gate.open();
    let identities = callers.join_all().await;
    assert!(identities.windows(2).all(|pair| Arc::ptr_eq(&pair[0], &pair[1])));
    assert_eq!(opaque.asked(), 1);
}

#[tokio::test]
async fn a_jwt_is_never_asked_about_whatever_is_wrong_with_it() {
    let idp = FakeIdp::with_clock(Arc::new(ManualClock::at(ISSUED))).await;
    let opaque = Opaque::start(|_, _| {}, |_| Reply::json(&active(json!({})))).await;
    for spec in [
        TokenSpec::valid("alice", AUDIENCE),
        TokenSpec::valid("alice", AUDIENCE).issuer(ISSUER),
        TokenSpec::valid("alice", AUDIENCE).issuer(ISSUER).expired(),
        TokenSpec::valid("alice", AUDIENCE).unsigned(),
        TokenSpec::valid("alice", AUDIENCE).critical_header(),
        TokenSpec::valid("alice", AUDIENCE).hmac_with_public_key(),
    ] {
        let token = idp.mint(&spec);
        assert!(opaque.subject(&token).await.is_err(), "{spec:?}");
        let (message, _) = token.rsplit_once('.').unwrap();
        assert!(opaque.subject(&format!("{message}.")).await.is_err());
        // What another reader would still take for it: some drop empty parts, padding or what follows.
        let (header, rest) = token.split_once('.').unwrap();
        for mangled in [
            format!("{token}."),
            format!("{token}.."),
            format!(".{token}"),
            format!("{header}..{rest}"),
            format!("{header}=.{rest}"),
            format!("{header}==.{rest}="),
            format!("{token}~"),
            format!("{token}~eyJhIjoxfQ~"),
            format!("{token}.x"),
            format!("{token}/"),
            message.to_owned(),
        ] {
            assert!(opaque.subject(&mangled).await.is_err(), "{mangled}");
        }
    }
    // Nor is what can be no token at all.
    for text in ["a token", "a%20b", "töken", "", "=", &"a".repeat(30_000)] {
        assert!(opaque.subject(text).await.is_err(), "{text}");
    }
    assert_eq!(opaque.asked(), 0);
    // An encrypted one says nothing to us.
    let encrypted = "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.a2V5.aXY.dGV4dA.dGFn";
    assert_eq!(opaque.subject(encrypted).await.unwrap(), "alice");
}

#[tokio::test]
async fn jwts_and_opaque_tokens_of_two_issuers_get_along() {
    let clock = ManualClock::at(ISSUED);
    let idp = FakeIdp::with_clock(Arc::new(clock.clone())).await;
    let server = ScriptedServer::start(|_| Reply::json(&active(json!({})))).await;
    let settings = IntrospectionSettings {
        url: Url::parse(&server.url("/introspect")).unwrap(),
        dialect: Dialect::Rfc7662,
        client_id: String::new(),
        client_secret: None,
        token_file: None,
        cache_ttl: CACHE_TTL,
    };
    let partner = TrustedIssuer {
        issuer: Issuer::parse(ISSUER, false).unwrap(),
        keys: None,
        rules: prefixed("partner:"),
        introspector: Some(Introspector::new(settings, client(|_| {}), Arc::new(clock.clone()))),
    };
    let judge = authenticator(vec![trusted(&idp, idp.issuer(), rules(AUDIENCE)), partner], clock);
    let source = ip("192.0.2.1");
    let jwt = judge.authenticate(&idp.token("alice", AUDIENCE), source).await.unwrap();
    assert_eq!(jwt.subject, "alice");
    assert_eq!(judge.authenticate(TOKEN, source).await.unwrap().subject, "partner:alice");
    assert_eq!(server.requests().len(), 1);
    // The second has neither keys nor a failure to show; the first has its keys.
    assert!(judge.issuers().all(TrustedIssuer::is_available));
    let forged = idp.mint(&TokenSpec::valid("alice", AUDIENCE).issuer(ISSUER));
    let refused = judge.authenticate(&forged, source).await.unwrap_err();
    assert_eq!(refused, AuthError::UnknownKey, "an issuer without keys has no JWTs");
}

#[tokio::test]
async fn a_flood_of_made_up_tokens_is_stopped_for_its_source_alone() {
    let answer = |request: &Recorded| {
        let good = request.form_field("token").starts_with("good");
        Reply::json(&if good { active(json!({})) } else { json!({"active": false}) })
    };
    let opaque = Opaque::start(|_, _| {}, answer).await;
    let (flooder, other) = (ip("192.0.2.66"), ip("192.0.2.1"));
    assert!(opaque.judge.authenticate("good-known", flooder).await.is_ok());
    let mut limited = 0;
    for round in 0..100 {
        match opaque.judge.authenticate(&format!("made-up-{round}"), flooder).await.unwrap_err() {
            AuthError::Inactive => {}
            AuthError::SourceLimited { retry_after: 1 } => limited += 1,
            error => panic!("{error:?}"),
        }
    }
    assert_eq!((limited, opaque.asked()), (80, 21));
    assert!(opaque.judge.authenticate("good-known", flooder).await.is_ok(), "what is kept costs nothing");
    let refused = opaque.judge.authenticate("good-new", flooder).await.unwrap_err();
    assert!(matches!(refused, AuthError::SourceLimited { .. }));
    assert!(opaque.judge.authenticate("good-new", other).await.is_ok());
    for round in 0..200 {
        assert!(opaque.judge.authenticate(&format!("good-{round}"), other).await.is_ok());
    }
    opaque.clock.advance(Duration::from_millis(500));
    assert!(opaque.judge.authenticate("good-newer", flooder).await.is_ok());
}

#[tokio::test]
async fn a_flood_behind_the_same_address_does_not_shut_out_who_was_let_in_before() {
    let opaque = Opaque::start(
        |_, _| {},
        |request| {
            let good = request.form_field("token").starts_with("good");
            Reply::json(&if good {
                active(json!({"exp": ISSUED + 36_000}))
            } else {
                json!({"active": false})
            })
        },
    )
    .await;
    let address = ip("192.0.2.66");
    assert!(opaque.judge.authenticate("good-alice", address).await.is_ok());
    for minute in 0..5 {
        opaque.clock.advance(Duration::from_secs(60));
        let mut limited = false;
        for round in 0..200 {
            let refused =
                opaque.judge.authenticate(&format!("made-up-{minute}-{round}"), address).await.unwrap_err();
            limited |= matches!(refused, AuthError::SourceLimited { .. });
        }
        assert!(limited);
        let before = opaque.asked();
        assert!(opaque.judge.authenticate("good-alice", address).await.is_ok(), "after {minute} minutes");
        assert_eq!(opaque.asked() - before, 1, "the issuer is asked about her all the same");
        let new = opaque.judge.authenticate(&format!("good-new-{minute}"), address).await;
        assert!(
            matches!(new.unwrap_err(), AuthError::SourceLimited { .. }),
            "nobody knows that this one is good"
        );
    }
    // Once her token is no longer good, it is one of many.
    opaque.server.set_handler(|_| Reply::json(&json!({"active": false})));
    for round in 0..60 {
        opaque.clock.advance(Duration::from_secs(30));
        for made_up in 0..100 {
            assert!(opaque.judge.authenticate(&format!("more-{round}-{made_up}"), address).await.is_err());
        }
        let refused = opaque.judge.authenticate("good-alice", address).await.unwrap_err();
        match round {
            0 => assert_eq!(refused, AuthError::Inactive),
            _ => assert!(matches!(refused, AuthError::SourceLimited { .. }), "{round}: {refused:?}"),
        }
    }
}

#[tokio::test]
async fn who_hangs_up_is_charged_all_the_same() {
    let gate = Gate::new();
    let waiting = gate.clone();
    let opaque = Opaque::start(
        |_, _| {},
        move |_| {
            let body = json!({"active": false}).to_string();
            Reply::status(200).step(Step::Wait(waiting.clone())).step(Step::Send(body.into()))
        },
    )
    .await;
    let opaque = Arc::new(opaque);
    for round in 0..30 {
        let gone = Arc::clone(&opaque);
        let caller = tokio::spawn(async move { gone.subject(&format!("made-up-{round}")).await });
        opaque.server.wait_for_requests(round + 1).await;
        caller.abort();
    }
    gate.open();
    // Another address waits for the same answers, so that they are all there.
    for round in 0..30 {
        let other = opaque.judge.authenticate(&format!("made-up-{round}"), ip("192.0.2.2")).await;
        assert_eq!(other.unwrap_err(), AuthError::Inactive);
    }
    assert_eq!(opaque.asked(), 30);
    let limited = opaque.subject("never-seen").await.unwrap_err();
    assert!(matches!(limited, AuthError::SourceLimited { .. }), "{limited:?}");
}

#[tokio::test]
async fn googles_answers_are_understood_and_its_url_never_has_the_token() {
    let google = |settings: &mut IntrospectionSettings, _: &mut TokenRules| {
        settings.dialect = Dialect::Google;
    };
    let answer = json!({
        "azp": "web.apps", "aud": AUDIENCE, "sub": "110000000000000000002", "scope": "openid email",
        "exp": (ISSUED + 600).to_string(), "expires_in": "600", "email": "alice@company.example",
        "email_verified": "true", "access_type": "online",
    });
    let opaque = Opaque::of("https://accounts.google.com", google, move |_| Reply::json(&answer)).await;
    let who = opaque.judge.authenticate("ya29.a0Af_x", ip("192.0.2.1")).await.unwrap();
    assert_eq!((who.subject.as_str(), who.client.as_deref()), ("110000000000000000002", Some("web.apps")));
    assert_eq!((&who.claims["email_verified"], &who.claims["exp"]), (&json!(true), &json!(ISSUED + 600)));
    assert_eq!(who.scopes, ["openid", "email"]);
    let seen = &opaque.server.requests()[0];
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/introspect"));
    assert_eq!(seen.body, b"access_token=ya29.a0Af_x");
    assert_eq!(seen.header("authorization"), None);
    for (reply, expected) in [
        (Reply::body(400, "application/json", r#"{"error":"invalid_token"}"#), AuthError::Inactive),
        (Reply::status(500), AuthError::IntrospectionUnavailable),
        (Reply::json(&json!({"aud": AUDIENCE, "sub": "1"})), AuthError::IntrospectionUnavailable),
        (Reply::json(&json!({"aud": "other", "sub": "1", "exp": "1767226000"})), AuthError::Audience),
        (Reply::json(&json!({"aud": AUDIENCE, "exp": "1767226000"})), AuthError::NoSubject),
    ] {
        let opaque = Opaque::of("https://accounts.google.com", google, move |_| reply.clone()).await;
        assert_eq!(opaque.subject("ya29.x").await.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn githubs_answers_are_understood_and_the_token_in_them_is_dropped() {
    let github = |settings: &mut IntrospectionSettings, _: &mut TokenRules| {
        settings.dialect = Dialect::GitHub;
        settings.client_id = AUDIENCE.to_owned();
    };
    let answer = json!({
        "id": 1, "url": "https://api.github.example/authorizations/1", "scopes": ["repo", "user"],
        "token": TOKEN, "hashed_token": "abc", "token_last_eight": "of-alice",
        "app": {"url": "https://app.example", "name": "demo", "client_id": AUDIENCE},
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "expires_at": null,
        "user": {"login": "alice", "id": 4711, "name": "Alice", "email": null, "type": "User", "site_admin": false},
    });
    let copy = answer.clone();
    let opaque = Opaque::of("https://github.com", github, move |_| Reply::json(&copy)).await;
    let who = opaque.judge.authenticate(TOKEN, ip("192.0.2.1")).await.unwrap();
    assert_eq!((who.subject.as_str(), who.issuer.as_str()), ("4711", "https://github.com"));
    assert_eq!((&who.claims["login"], &who.claims["name"]), (&json!("alice"), &json!("Alice")));
    assert_eq!((who.scopes.len(), who.client.as_deref()), (2, Some(AUDIENCE)));
    let claims = Value::Object(who.claims.clone()).to_string();
    assert!(!claims.contains(TOKEN) && !claims.contains("hashed_token") && !claims.contains("email"));
    let seen = &opaque.server.requests()[0];
    assert_eq!(seen.json(), json!({"access_token": TOKEN}));
    assert_eq!(seen.header("authorization"), Some("Basic bWNwLWRlbW86czNjcmV0"));
    assert!(seen.header("user-agent").is_some(), "GitHub refuses calls without one");
    let mut ending = answer.clone();
    ending["expires_at"] = json!("2026-01-01T00:05:00Z");
    let ends = Opaque::of("https://github.com", github, move |_| Reply::json(&ending)).await;
    let who = ends.judge.authenticate(TOKEN, ip("192.0.2.1")).await.unwrap();
    assert_eq!(who.expires_at, ISSUED + 300);
    let mut nobody = answer;
    nobody["user"] = Value::Null;
    for (reply, expected) in [
        (Reply::status(404), AuthError::Inactive),
        (Reply::status(422), AuthError::Inactive),
        (Reply::status(401), AuthError::IntrospectionUnavailable),
        (Reply::json(&nobody), AuthError::IntrospectionUnavailable),
    ] {
        let opaque = Opaque::of("https://github.com", github, move |_| reply.clone()).await;
        assert_eq!(opaque.subject(TOKEN).await.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn an_endpoint_that_was_away_is_not_held_against_the_callers() {
    let opaque = Opaque::start(|_, _| {}, |_| Reply::status(503)).await;
    let (source, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
    // A crowd behind one address, all of them good.
    for round in 0..200 {
        let refused = opaque.judge.authenticate(&format!("good-{round}"), source).await.unwrap_err();
        assert_eq!(
            refused,
            AuthError::IntrospectionUnavailable,
            "whose fault it is does not change: {round}"
        );
    }
    let asked = opaque.asked();
    assert!(asked <= 20, "a struggling endpoint is not flooded: {asked}");
    // A crowd that comes at once makes no debts.
    let crowd = (0..50).map(|round| format!("late-{round}")).collect::<Vec<_>>();
    opaque.clock.advance(Duration::from_secs(10));
    let all = crowd.iter().map(|token| opaque.judge.authenticate(token, source));
    for refused in futures_util::future::join_all(all).await {
        assert_eq!(refused.unwrap_err(), AuthError::IntrospectionUnavailable);
    }
    // It is back, and so are they.
    opaque.server.set_handler(|request| {
        let good = request.form_field("token").starts_with("good");
        Reply::json(&if good { active(json!({})) } else { json!({"active": false}) })
    });
    opaque.clock.advance(Duration::from_millis(500));
    for round in 0..200 {
        assert!(opaque.judge.authenticate(&format!("good-{round}"), source).await.is_ok(), "{round}");
    }
    // What a flood has used up is not given back by an outage, nor by its end.
    for round in 0..100 {
        assert!(opaque.judge.authenticate(&format!("made-up-{round}"), other).await.is_err());
    }
    let limited = opaque.judge.authenticate("good-new", other).await.unwrap_err();
    assert!(matches!(limited, AuthError::SourceLimited { .. }), "{limited:?}");
}

#[tokio::test]
async fn answers_that_are_slow_or_of_another_kind_are_none() {
    let jwt = "eyJhbGciOiJSUzI1NiIsInR5cCI6InRva2VuLWludHJvc3BlY3Rpb24rand0In0.eyJhY3RpdmUiOnRydWV9.c2ln";
    let mut dripping = Reply::status(200).header("Content-Type", "application/json");
    for byte in active(json!({})).to_string().bytes() {
        dripping = dripping.step(Step::Send(vec![byte].into())).step(Step::Pause(Duration::from_millis(50)));
    }
    for (what, reply) in [
        ("a drip", dripping),
        ("silence", Reply::hang()),
        ("a JWT", Reply::body(200, "application/token-introspection+jwt", jwt)),
        ("a redirect to where it would be good", Reply::status(307).header("Location", "/introspect")),
        ("nested twice", Reply::body(200, "application/json", r#"{"active":true,"x":{"a":1,"a":2}}"#)),
        ("a name in another spelling", Reply::body(200, "application/json", r#"{"Active":true}"#)),
        ("two documents", Reply::body(200, "application/json", r#"{"active":true}{"active":true}"#)),
        ("a byte order mark", Reply::body(200, "application/json", "\u{feff}{\"active\":true}")),
        ("depth", Reply::body(200, "application/json", "[".repeat(5000) + &"]".repeat(5000))),
        ("cut short", Reply::body(200, "application/json", r#"{"active":true,"sub":"ali"#)),
    ] {
        let opaque = Opaque::start(|_, _| {}, move |_| reply.clone()).await;
        let started = std::time::Instant::now();
        assert_eq!(opaque.subject(TOKEN).await.unwrap_err(), AuthError::IntrospectionUnavailable, "{what}");
        assert!(started.elapsed() < Duration::from_secs(4), "{what}: {:?}", started.elapsed());
        assert_eq!(opaque.asked(), 1, "{what}");
    }
}

#[tokio::test]
async fn odd_particulars_in_an_answer_let_nobody_in() {
    for (changes, expected) in [
        (json!({"active": 1}), AuthError::IntrospectionUnavailable),
        (json!({"active": "false"}), AuthError::IntrospectionUnavailable),
        (json!({"exp": "1767229200"}), AuthError::Malformed { reason: "a time in it is not a number" }),
        (json!({"exp": 0}), AuthError::Expired),
        (json!({"aud": []}), AuthError::Audience),
        (json!({"aud": {"aud": AUDIENCE}}), AuthError::Audience),
        (json!({"iss": ""}), AuthError::Issuer),
        (json!({"iss": [ISSUER]}), AuthError::Issuer),
        (json!({"iss": "https://idp.example//"}), AuthError::Issuer),
        (json!({"sub": 7}), AuthError::NoSubject),
        (json!({"sub": ""}), AuthError::NoSubject),
        (json!({"token_type": "id_token"}), AuthError::WrongKind { reason: "it is no access token" }),
        (json!({"token_type": "PoP"}), AuthError::Bound),
        (json!({"cnf": {"x5t#S256": "x"}}), AuthError::Bound),
        (
            json!({"typ": "ID"}),
            AuthError::WrongKind { reason: "it is an ID token; an access token is needed" },
        ),
    ] {
        let answer = active(changes.clone());
        let opaque = Opaque::start(|_, _| {}, move |_| Reply::json(&answer)).await;
        assert_eq!(opaque.subject(TOKEN).await.unwrap_err(), expected, "{changes}");
    }
    // Who is asked about opaque tokens cannot name the users of another issuer.
    let idp = FakeIdp::with_clock(Arc::new(ManualClock::at(ISSUED))).await;
    let server = ScriptedServer::start(|_| Reply::json(&active(json!({"sub": "partner:root"})))).await;
    let settings = IntrospectionSettings {
        url: Url::parse(&server.url("/introspect")).unwrap(),
        dialect: Dialect::Rfc7662,
        client_id: String::new(),
        client_secret: None,
        token_file: None,
        cache_ttl: CACHE_TTL,
    };
    let clock = ManualClock::at(ISSUED);
    let ours = TrustedIssuer {
        issuer: Issuer::parse(ISSUER, false).unwrap(),
        keys: None,
        rules: rules(AUDIENCE),
        introspector: Some(Introspector::new(settings, client(|_| {}), Arc::new(clock.clone()))),
    };
    let partner = prefixed("partner:");
    let judge = authenticator(vec![ours, trusted(&idp, idp.issuer(), partner)], clock);
    assert_eq!(judge.authenticate(TOKEN, ip("192.0.2.1")).await.unwrap_err(), AuthError::NoSubject);
}

#[tokio::test]
async fn a_token_that_is_revoked_is_known_for_as_long_as_the_answer_is_kept() {
    let opaque = Opaque::start(|_, _| {}, |_| Reply::json(&active(json!({"exp": ISSUED + 36_000})))).await;
    assert!(opaque.subject(TOKEN).await.is_ok());
    opaque.server.set_handler(|_| Reply::json(&json!({"active": false})));
    opaque.clock.advance(Duration::from_secs(29));
    assert!(opaque.subject(TOKEN).await.is_ok());
    opaque.clock.advance(Duration::from_secs(1));
    assert_eq!(opaque.subject(TOKEN).await.unwrap_err(), AuthError::Inactive);
    // An outage does not bring it back.
    opaque.server.set_handler(|_| Reply::status(500));
    opaque.clock.advance(Duration::from_secs(10));
    assert_eq!(opaque.subject(TOKEN).await.unwrap_err(), AuthError::IntrospectionUnavailable);
}

#[tokio::test]
async fn a_token_of_github_that_never_ends_is_good_whatever_the_time_to_keep_it() {
    for seconds in [0, 1, 3600, 86_400, i64::MAX.unsigned_abs(), u64::MAX] {
        let github = |settings: &mut IntrospectionSettings, _: &mut TokenRules| {
            settings.dialect = Dialect::GitHub;
            settings.client_id = AUDIENCE.to_owned();
            settings.cache_ttl = Duration::from_secs(seconds);
        };
        let answer =
            json!({"scopes": [], "app": {"client_id": AUDIENCE}, "user": {"id": 1}, "expires_at": null});
        let opaque = Opaque::of("https://github.com", github, move |_| Reply::json(&answer)).await;
        assert_eq!(opaque.subject(TOKEN).await.unwrap(), "1", "{seconds}");
    }
}

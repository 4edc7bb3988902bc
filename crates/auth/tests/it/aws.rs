//! AWS credentials from a scripted STS.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use skep_api::address::Egress;
use skep_api::runconfig::{AwsExtension, AwsRoleMapping, AwsStsConfig};
use skep_auth::aws::{AwsError, AwsSettings, AwsSts};
use skep_auth::exchange::{ExchangeObserver, ExchangeReadiness, ExchangeResult};
use skep_auth::identity::Identity;
use skep_runtime::clock::Clock;
use skep_testkit::{Gate, ManualClock, Recorded, Reply, ScriptedServer, Step};
use url::Url;

const ROLE: &str = "arn:aws:iam::123456789012:role/mcp";
const ADMIN: &str = "arn:aws:iam::123456789012:role/admin";
const TOKEN: &str = "eyJ.the-token-of-alice.sig";
const SECRET: &str = "wJalrXUtnFEMI/secret";
const SESSION: &str = "AQoDYXdzEE0a8ANXXXXXXXXNO1ewxE5TijQyp";

#[derive(Debug, Default)]
struct Seen(Mutex<Vec<String>>);

impl ExchangeObserver for Seen {
    fn hit(&self) {
        self.0.lock().unwrap().push("hit".to_owned());
    }
    fn asked(&self, result: ExchangeResult, _: Duration) {
        self.0.lock().unwrap().push(format!("{result:?}"));
    }
}

impl Seen {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct World {
    server: ScriptedServer,
    clock: ManualClock,
    seen: Arc<Seen>,
    sts: Arc<AwsSts>,
}

fn config() -> AwsStsConfig {
    AwsStsConfig {
        region: "eu-central-1".to_owned(),
        fallback_role_arn: ROLE.to_owned(),
        role_mappings: vec![AwsRoleMapping {
            claim: "admins".to_owned(),
            role_arn: ADMIN.to_owned(),
            ..AwsRoleMapping::default()
        }],
        ..AwsStsConfig::default()
    }
}

fn settings(config: &AwsStsConfig, endpoint: &str) -> AwsSettings {
    let extension = AwsExtension { sts_endpoint: endpoint.to_owned(), ca_cert_path: String::new() };
    let egress = Egress { loopback: true, deny: Vec::new() };
    AwsSettings::new(config, &extension, None, egress).unwrap()
}

async fn world(handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> World {
    world_with(&config(), handler).await
}

async fn world_with(
    config: &AwsStsConfig,
    handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static,
) -> World {
    let server = ScriptedServer::start(handler).await;
    let clock = ManualClock::default();
    let seen = Arc::new(Seen::default());
    let settings = settings(config, &server.url("/"));
    let sts = AwsSts::new(settings, Arc::new(clock.clone()), Arc::clone(&seen) as _).unwrap();
    World { server, clock, seen, sts }
}

impl World {
    fn alice(&self, claims: Value, lasts: i64) -> Arc<Identity> {
        self.caller("alice", claims, lasts)
    }

    fn caller(&self, subject: &str, claims: Value, lasts: i64) -> Arc<Identity> {
        let mut claims = claims.as_object().unwrap().clone();
        claims.insert("sub".to_owned(), json!(subject));
        let mut token_digest = [0; 32];
        token_digest[..subject.len()].copy_from_slice(subject.as_bytes());
        let mut caller = Identity::of("https://idp.example", subject);
        caller.claims = claims;
        caller.expires_at = self.clock.unix_seconds() + lasts;
        caller.token_digest = token_digest;
        Arc::new(caller)
    }
}

fn granted(expiration: &str) -> Reply {
    let xml = format!(
        r#"<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult>
    <Audience>mcp</Audience>
    <AssumedRoleUser>
      <Arn>arn:aws:sts::123456789012:assumed-role/mcp/alice</Arn>
      <AssumedRoleId>AROACLKWSDQRAOEXAMPLE:alice</AssumedRoleId>
    </AssumedRoleUser>
    <Credentials>
      <SessionToken>{SESSION}</SessionToken>
      <SecretAccessKey>{SECRET}</SecretAccessKey>
      <Expiration>{expiration}</Expiration>
      <AccessKeyId>ASIAEXAMPLE</AccessKeyId>
    </Credentials>
    <Provider>arn:aws:iam::123456789012:oidc-provider/idp.example</Provider>
    <SubjectFromWebIdentityToken>alice</SubjectFromWebIdentityToken>
  </AssumeRoleWithWebIdentityResult>
  <ResponseMetadata><RequestId>ad4156e9-bce1-11e2-82e6-6b6efEXAMPLE</RequestId></ResponseMetadata>
</AssumeRoleWithWebIdentityResponse>"#
    );
    Reply::body(200, "text/xml", xml)
}

/// The manual clock begins at 2026-01-01T00:00:00Z.
fn an_hour() -> Reply {
    granted("2026-01-01T01:00:00Z")
}

fn refusal(status: u16, code: &str) -> Reply {
    let xml = format!(
        r#"<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>
<Code>{code}</Code><Message>Value '{TOKEN}' is not good</Message></Error><RequestId>x</RequestId></ErrorResponse>"#
    );
    Reply::body(status, "text/xml", xml)
}

#[tokio::test]
async fn a_caller_takes_the_role_of_his_claims_with_his_own_token() {
    let world = world(|_| an_hour()).await;
    let (credentials, kept) =
        world.sts.credentials(&world.alice(json!({"groups": ["admins"]}), 600), TOKEN).await.unwrap();
    assert!(!kept);
    assert_eq!(credentials.role_arn(), ADMIN);
    assert_eq!(credentials.expires_at(), world.clock.unix_seconds() + 3600);
    let request = world.server.requests().remove(0);
    assert_eq!((request.method.as_str(), request.path()), ("POST", "/"));
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(request.header("authorization"), None);
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&request.body).into_owned().collect();
    let expected = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", ADMIN),
        ("RoleSessionName", "alice"),
        ("DurationSeconds", "3600"),
        ("WebIdentityToken", TOKEN),
    ];
    assert_eq!(form, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(world.sts.readiness(), ExchangeReadiness::Ready);

    let mut headers = http::HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    let url = Url::parse("https://mcp.example/mcp").unwrap();
    world.sts.sign(&credentials, &http::Method::POST, &url, &mut headers, b"{}").unwrap();
    let value = headers["authorization"].to_str().unwrap();
    assert!(
        value.starts_with(
            "AWS4-HMAC-SHA256 Credential=ASIAEXAMPLE/20260101/eu-central-1/aws-mcp/aws4_request, "
        ),
        "{value}"
    );
    assert_eq!(headers["x-amz-security-token"], SESSION);
}

#[tokio::test]
async fn the_session_is_named_by_a_claim_that_fits() {
    let mut by_email = config();
    by_email.session_name_claim = "profile.email".to_owned();
    by_email.session_duration = Some(900);
    let world = world_with(&by_email, |_| an_hour()).await;
    let good = world.alice(json!({"profile": {"email": "alice@example.com"}}), 600);
    world.sts.credentials(&good, TOKEN).await.unwrap();
    let body = String::from_utf8(world.server.requests().remove(0).body).unwrap();
    assert!(body.contains("RoleSessionName=alice%40example.com&DurationSeconds=900&"), "{body}");
    for claims in [
        json!({}),
        json!({"profile": {"email": "a"}}),
        json!({"profile": {"email": "alice smith"}}),
        json!({"profile": {"email": "x".repeat(65)}}),
        json!({"profile": {"email": 12345}}),
        json!({"profile": {"email": ["alice"]}}),
    ] {
        let error = world.sts.credentials(&world.alice(claims.clone(), 600), TOKEN).await.unwrap_err();
        assert_eq!(error, AwsError::SessionName, "{claims}");
    }
    assert_eq!(world.server.requests().len(), 1);
}

#[tokio::test]
async fn a_caller_without_a_role_never_reaches_sts() {
    let mut strict = config();
    strict.fallback_role_arn.clear();
    let world = world_with(&strict, |_| an_hour()).await;
    let error = world.sts.credentials(&world.alice(json!({"groups": ["users"]}), 600), TOKEN).await;
    assert_eq!(error.unwrap_err(), AwsError::NoRole);
    assert!(world.server.requests().is_empty() && world.seen.take().is_empty());
    assert_eq!(world.sts.readiness(), ExchangeReadiness::Unknown);
}

#[tokio::test]
async fn credentials_are_kept_until_shortly_before_they_or_the_token_end() {
    for (token_lasts, expected) in [(600, 540), (7200, 3540)] {
        let world = world(|_| an_hour()).await;
        let alice = world.alice(json!({}), token_lasts);
        world.sts.credentials(&alice, TOKEN).await.unwrap();
        world.clock.advance(Duration::from_secs(expected - 1));
        assert!(world.sts.credentials(&alice, TOKEN).await.unwrap().1);
        assert_eq!(world.seen.take(), ["Success", "hit"]);
        world.clock.advance(Duration::from_secs(1));
        world.server.set_handler(|_| granted("2026-01-01T04:00:00Z"));
        assert!(!world.sts.credentials(&alice, TOKEN).await.unwrap().1, "{token_lasts}");
    }
    let world = world(|_| an_hour()).await;
    let nearly_over = world.alice(json!({}), 59);
    for _ in 0..2 {
        assert!(!world.sts.credentials(&nearly_over, TOKEN).await.unwrap().1);
    }
}

#[tokio::test]
async fn no_two_callers_or_roles_share_credentials() {
    let world = world(|_| an_hour()).await;
    let callers = [
        world.caller("alice", json!({}), 600),
        world.caller("bob", json!({}), 600),
        world.caller("bob", json!({"groups": "admins"}), 600),
    ];
    for caller in &callers {
        assert!(!world.sts.credentials(caller, TOKEN).await.unwrap().1);
    }
    for caller in &callers {
        assert!(world.sts.credentials(caller, TOKEN).await.unwrap().1);
    }
    assert_eq!(world.server.requests().len(), 3);
}

#[tokio::test]
async fn credentials_that_were_refused_are_got_anew() {
    let world = world(|_| an_hour()).await;
    let alice = world.alice(json!({}), 600);
    let (credentials, _) = world.sts.credentials(&alice, TOKEN).await.unwrap();
    world.sts.evict(&credentials);
    assert!(!world.sts.credentials(&alice, TOKEN).await.unwrap().1);
    assert_eq!(world.server.requests().len(), 2);
    // Another call that was sent with the old ones comes back later.
    world.sts.evict(&credentials);
    assert!(world.sts.credentials(&alice, TOKEN).await.unwrap().1);
}

#[tokio::test]
async fn a_server_that_refuses_credentials_is_told_from_one_that_forbids() {
    let world = world(|_| an_hour()).await;
    for (status, fault, expected) in [
        (401, "", true),
        (403, "ExpiredTokenException", true),
        (403, "ExpiredTokenException:http://internal.amazon.com/coral/x/", true),
        (400, "com.amazon.coral.service#UnrecognizedClientException", true),
        (403, "AccessDeniedException", false),
        (403, "", false),
        (200, "ExpiredTokenException", false),
        (500, "ExpiredTokenException", false),
    ] {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-amzn-errortype", fault.parse().unwrap());
        let status = http::StatusCode::from_u16(status).unwrap();
        assert_eq!(world.sts.refused(status, &headers), expected, "{status} {fault}");
    }
}

#[tokio::test]
async fn a_hundred_calls_at_once_ask_once() {
    let gate = Gate::new();
    let held = gate.clone();
    let world = world(move |_| {
        let mut reply = an_hour();
        reply = reply.step(Step::Wait(held.clone()));
        reply
    })
    .await;
    let alice = world.alice(json!({}), 600);
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let (sts, alice) = (Arc::clone(&world.sts), alice.clone());
            tokio::spawn(
                async move { sts.credentials(&alice, TOKEN).await.map(|found| found.0.expires_at()) },
            )
        })
        .collect();
    while world.server.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    gate.open();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), world.clock.unix_seconds() + 3600);
    }
    assert_eq!(world.server.requests().len(), 1);
}

#[tokio::test]
async fn each_refusal_of_sts_has_its_meaning() {
    let later = |seconds| AwsError::Unavailable { retry_after: Duration::from_secs(seconds) };
    type Reading = (Reply, AwsError, ExchangeReadiness);
    let refused = |code: &'static str| (AwsError::Refused { code }, ExchangeReadiness::Refused(code));
    let mut table: Vec<Reading> = Vec::new();
    for code in ["InvalidIdentityToken", "ExpiredTokenException", "IDPRejectedClaim"] {
        table.push((
            refusal(400, code),
            AwsError::TokenRefused { repeated: false },
            ExchangeReadiness::Unknown,
        ));
    }
    table.push((refusal(403, "AccessDenied"), AwsError::Denied, ExchangeReadiness::Unknown));
    for code in ["IDPCommunicationError", "Throttling", "ThrottlingException", "RequestLimitExceeded"] {
        table.push((refusal(400, code), later(5), ExchangeReadiness::Unavailable));
    }
    for (reply, seconds) in [
        (refusal(500, "InternalFailure"), 5),
        (refusal(503, "Whatever").header("Retry-After", "17"), 17),
        (Reply::body(503, "text/html", "<h1>busy"), 5),
        (Reply::status(502).header("Retry-After", "999999"), 300),
        (Reply::status(429).header("Retry-After", "soon"), 5),
        (Reply::reset(), 5),
        (Reply::raw_bytes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"), 5),
        (Reply::raw_bytes("not http at all\r\n\r\n"), 5),
    ] {
        table.push((reply, later(seconds), ExchangeReadiness::Unavailable));
    }
    for code in
        ["MalformedPolicyDocument", "RegionDisabledException", "ValidationError", "PackedPolicyTooLarge"]
    {
        let (error, readiness) = refused(code);
        table.push((refusal(400, code), error, readiness));
    }
    let (error, readiness) = refused("UnknownCode");
    table.push((refusal(400, "SomethingNew"), error, readiness));
    for (reply, reason) in [
        (Reply::status(404), "it is an error without a code"),
        (
            Reply::body(400, "application/json", "{\"Error\":{\"Code\":\"AccessDenied\"}}"),
            "it is an error without a code",
        ),
        (
            Reply::status(302).header("Location", "https://evil.example/"),
            "it sends elsewhere, which is never followed",
        ),
        (Reply::body(200, "text/xml", ""), "it is not XML"),
        (Reply::body(200, "text/xml", "<a>"), "it is not XML"),
        (Reply::body(200, "text/xml", &b"\xff\xfe"[..]), "it is not UTF-8"),
        (Reply::body(200, "text/xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"), "it is not XML"),
        (Reply::body(200, "text/xml", format!("<a>{}</a>", "<b/>".repeat(1000))), "it is not XML"),
        (Reply::body(200, "text/xml", "x".repeat(65 << 10)), "it is too large"),
        (Reply::json(&json!({})), "it is not XML"),
        (refusal(200, "AccessDenied"), "it has no credentials"),
        (granted(""), "its credentials have a gap"),
        (granted("tomorrow"), "the end of its credentials is not a time"),
        (granted("2025-12-31T23:59:59Z"), "its credentials have ended already"),
        (
            granted("2026-01-01T01:00:00Z</Expiration><Expiration>2030-01-01T01:00:00Z"),
            "its credentials have a gap",
        ),
        (
            granted(
                "2026-01-01T01:00:00Z</Expiration><SessionToken>x</SessionToken><Expiration>2026-01-01T01:00:00Z",
            ),
            "its credentials have a gap",
        ),
    ] {
        table.push((reply, AwsError::Response { reason }, ExchangeReadiness::Unusable));
    }
    let world = world(|_| an_hour()).await;
    for (reply, expected, readiness) in table {
        let name = format!("{expected:?} by {reply:?}");
        let fresh = settings(&config(), &world.server.url("/"));
        let clock = Arc::new(world.clock.clone());
        let sts = AwsSts::new(fresh, clock, Arc::clone(&world.seen) as _).unwrap();
        world.server.set_handler(move |_| reply.clone());
        let alice = world.alice(json!({}), 600);
        let error = sts.credentials(&alice, TOKEN).await.expect_err(&name);
        assert_eq!(error, expected, "{name}");
        assert_eq!(sts.readiness(), readiness, "{name}");
        assert!(!error.to_string().contains(TOKEN), "{name}");
        // Only a refusal of the token itself is kept, and not for long.
        world.server.set_handler(|_| an_hour());
        let again = sts.credentials(&alice, TOKEN).await;
        if let AwsError::TokenRefused { .. } = expected {
            assert_eq!(again.unwrap_err(), expected, "{name}");
            world.clock.advance(Duration::from_secs(10));
            assert!(sts.credentials(&world.alice(json!({}), 600), TOKEN).await.is_ok(), "{name}");
        } else {
            assert!(again.is_ok(), "{name}");
        }
        assert_eq!(sts.readiness(), ExchangeReadiness::Ready, "{name}");
    }
}

#[tokio::test]
async fn an_sts_that_is_silent_or_gone_is_unavailable() {
    let world = world(|_| Reply::hang()).await;
    let mut impatient = settings(&config(), &world.server.url("/"));
    impatient.timeout = Duration::from_millis(50);
    let clock = Arc::new(world.clock.clone());
    let sts = AwsSts::new(impatient, clock, Arc::clone(&world.seen) as _).unwrap();
    let alice = world.alice(json!({}), 600);
    assert!(matches!(sts.credentials(&alice, TOKEN).await, Err(AwsError::Unavailable { .. })));
    world.server.down().await;
    assert!(matches!(world.sts.credentials(&alice, TOKEN).await, Err(AwsError::Unavailable { .. })));
    assert_eq!(world.seen.take(), ["Unavailable", "Unavailable"]);
    world.server.set_handler(|_| an_hour());
    world.server.up().await;
    assert!(world.sts.credentials(&alice, TOKEN).await.is_ok());
}

#[tokio::test]
async fn an_endpoint_at_a_metadata_address_is_never_called() {
    let world = world(|_| an_hour()).await;
    let settings = settings(&config(), "https://169.254.169.254/");
    let sts = AwsSts::new(settings, Arc::new(world.clock.clone()), Arc::clone(&world.seen) as _).unwrap();
    let error = sts.credentials(&world.alice(json!({}), 600), TOKEN).await.unwrap_err();
    assert_eq!(error, AwsError::Refused { code: "EndpointRefused" });
}

#[tokio::test]
async fn secrets_do_not_show() {
    let world = world(|_| an_hour()).await;
    let alice = world.alice(json!({}), 600);
    let (credentials, _) = world.sts.credentials(&alice, TOKEN).await.unwrap();
    let shown = format!("{credentials:?} {:?}", world.sts);
    for secret in [SECRET, SESSION, TOKEN] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[tokio::test]
async fn the_same_settings_are_known_again() {
    let world = world(|_| an_hour()).await;
    let same = settings(&config(), &world.server.url("/"));
    assert!(world.sts.same(&same));
    let mut other = config();
    other.role_mappings[0].priority = Some(1);
    other.role_mappings[0].claim = "others".to_owned();
    assert!(!world.sts.same(&settings(&other, &world.server.url("/"))));
}

#[tokio::test]
async fn a_second_token_of_a_subject_that_is_refused_within_a_minute_says_so() {
    let world = world(|_| refusal(400, "InvalidIdentityToken")).await;
    let with = |number: u8| {
        let mut caller = Identity::clone(&world.alice(json!({}), 600));
        caller.token_digest[31] = number;
        Arc::new(caller)
    };
    let ask = async |number: u8| world.sts.credentials(&with(number), TOKEN).await.map(|_| ());
    let refused = |repeated| Err(AwsError::TokenRefused { repeated });
    assert_eq!(ask(1).await, refused(false));
    assert_eq!(ask(1).await, refused(false), "the same token again");
    world.clock.advance(Duration::from_secs(20));
    assert_eq!(ask(1).await, refused(false), "the same token, asked again");
    assert_eq!(ask(2).await, refused(true), "a new login did not help");
    let bob = world.caller("bob", json!({}), 600);
    assert_eq!(world.sts.credentials(&bob, TOKEN).await.map(|_| ()), refused(false), "somebody else");
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(ask(3).await, refused(false), "a minute later");
    world.server.set_handler(|_| an_hour());
    assert_eq!(ask(4).await, Ok(()));
    world.server.set_handler(|_| refusal(400, "ExpiredTokenException"));
    assert_eq!(ask(5).await, refused(false), "after one was accepted");
}

#[tokio::test]
async fn a_caller_who_may_not_take_the_role_says_nothing_about_the_others() {
    let world = world(|_| an_hour()).await;
    world.sts.credentials(&world.alice(json!({}), 600), TOKEN).await.unwrap();
    world.server.set_handler(|_| refusal(403, "AccessDenied"));
    let bob = world.caller("bob", json!({}), 600);
    assert_eq!(world.sts.credentials(&bob, TOKEN).await.unwrap_err(), AwsError::Denied);
    assert_eq!(world.sts.readiness(), ExchangeReadiness::Ready);
}

#[tokio::test]
async fn a_failure_says_nothing_any_more_after_five_minutes() {
    let world = world(|_| Reply::status(503)).await;
    assert!(world.sts.credentials(&world.alice(json!({}), 600), TOKEN).await.is_err());
    assert_eq!(world.sts.readiness(), ExchangeReadiness::Unavailable);
    world.clock.advance(Duration::from_secs(300));
    assert_eq!(world.sts.readiness(), ExchangeReadiness::Unknown);
}

#[tokio::test]
async fn a_file_of_authorities_without_a_certificate_is_refused() {
    let world = world(|_| an_hour()).await;
    for pem in ["", "no certificate"] {
        let mut emptied = settings(&config(), &world.server.url("/"));
        emptied.ca_pem = Some(pem.as_bytes().to_vec());
        let error = AwsSts::new(emptied, Arc::new(world.clock.clone()), Arc::clone(&world.seen) as _);
        let error = skep_runtime::logging::chain(&error.map(|_| ()).unwrap_err());
        assert!(error.contains("no certificate in"), "{error}");
    }
}

/// What this thread logs while it is alive.
struct Logging {
    log: Arc<Mutex<Vec<u8>>>,
    _guard: (tracing::Dispatch, tracing::subscriber::DefaultGuard),
}

impl Logging {
    fn start() -> Self {
        #[derive(Clone)]
        struct Target(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Target {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let log = Arc::<Mutex<Vec<u8>>>::default();
        let target = Target(Arc::clone(&log));
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || target.clone()).finish();
        // A lone subscriber is one that a thread without any can turn log statements off for.
        let second = tracing::Dispatch::new(tracing_subscriber::registry());
        Self { log, _guard: (second, tracing::subscriber::set_default(subscriber)) }
    }

    fn text(&self) -> String {
        String::from_utf8(self.log.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test]
async fn the_rules_are_asked_once_about_a_caller() {
    let mut rules = config();
    rules.role_mappings = vec![AwsRoleMapping {
        matcher: "claims.many.exists(a, claims.many.exists(b, a != b))".to_owned(),
        role_arn: ADMIN.to_owned(),
        ..AwsRoleMapping::default()
    }];
    let world = world_with(&rules, |_| an_hour()).await;
    // Too many for this matcher, which says so in the log every time.
    let alice = world.alice(json!({"many": vec![0; 1001]}), 600);
    let logging = Logging::start();
    for call in 0..5 {
        let (credentials, kept) = world.sts.credentials(&alice, TOKEN).await.unwrap();
        assert_eq!((credentials.role_arn(), kept), (ROLE, call > 0));
    }
    assert_eq!(logging.text().matches("too many claims").count(), 1, "{}", logging.text());
    // The same token, judged anew with other claims.
    let changed = world.alice(json!({"many": [0, 1]}), 600);
    assert_eq!(world.sts.credentials(&changed, TOKEN).await.unwrap().0.role_arn(), ADMIN);
}

#[tokio::test]
async fn why_sts_was_not_asked_is_in_the_log() {
    let mut settings = settings(&config(), "https://localhost:9/");
    settings.egress.loopback = false;
    let clock = Arc::new(ManualClock::default());
    let sts = AwsSts::new(settings, clock, Arc::new(Seen::default()) as _).unwrap();
    let mut alice = Identity::of("https://idp.example", "alice");
    alice.claims.insert("sub".to_owned(), json!("alice"));
    let logging = Logging::start();
    let error = sts.credentials(&Arc::new(alice), TOKEN).await.unwrap_err();
    assert_eq!(error, AwsError::Unavailable { retry_after: Duration::from_secs(5) });
    let log = logging.text();
    for expected in ["WARN", "localhost:9", "is a loopback address"] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
    assert!(!log.contains(TOKEN), "{log}");
}

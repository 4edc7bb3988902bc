//! AWS behind the proxy: the caller's role, and a signature on every request.

use serde_json::{Value, json};
use skep_testkit::backend::well_behaved;
use skep_testkit::{Recorded, Reply, ScriptedServer, raw};

use crate::harness::{Harness, call, cedar, logs};

const READER: &str = "arn:aws:iam::123456789012:role/reader";
const ADMIN: &str = "arn:aws:iam::123456789012:role/admin";

fn credentials(number: usize) -> String {
    format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AKIA{number}</AccessKeyId>\
         <SecretAccessKey>the-secret-key</SecretAccessKey><SessionToken>the-session-token</SessionToken>\
         <Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>"
    )
}

fn fault(status: u16, code: &str) -> Reply {
    let text =
        format!("<ErrorResponse><Error><Code>{code}</Code><Message>detail</Message></Error></ErrorResponse>");
    Reply::body(status, "text/xml", text)
}

async fn sts() -> ScriptedServer {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let next = move || count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
    ScriptedServer::start(move |_| Reply::body(200, "text/xml", credentials(next()))).await
}

fn config(sts: &ScriptedServer) -> Value {
    json!({
        "aws_sts_config": {
            "region": "eu-central-1", "service": "aws-mcp",
            "role_mappings": [
                {"claim": "admins", "role_arn": ADMIN, "priority": 1},
                {"matcher": "claims.sub == 'bob'", "role_arn": READER, "priority": 2},
            ],
        },
        "skep": {"aws": {"sts_endpoint": sts.url("/")}},
    })
}

fn form(request: &Recorded, name: &str) -> String {
    let mut pairs = url::form_urlencoded::parse(&request.body);
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
}

#[tokio::test]
async fn requests_are_signed_in_the_callers_role() {
    let sts = sts().await;
    let harness = Harness::start(config(&sts)).await;
    let admin = harness.mint(|token| token.claim("groups", json!(["admins"])));
    for token in [&admin, &admin, &harness.token("bob")] {
        assert_eq!(raw::post_rpc(harness.address, "/mcp", Some(token), &call("tool-0")).await.status, 200);
    }
    let asked = sts.requests();
    assert_eq!(asked.len(), 2, "one for each caller");
    assert_eq!(
        (form(&asked[0], "RoleArn"), form(&asked[1], "RoleArn")),
        (ADMIN.to_owned(), READER.to_owned())
    );
    assert_eq!(form(&asked[0], "WebIdentityToken"), admin);
    for (request, key) in harness.backend.requests().iter().zip(["AKIA1", "AKIA1", "AKIA2"]) {
        let authorization = request.header("authorization").unwrap();
        assert!(
            authorization.starts_with(&format!("AWS4-HMAC-SHA256 Credential={key}/"))
                && authorization.contains("/eu-central-1/aws-mcp/aws4_request"),
            "{authorization}"
        );
        assert_eq!(request.header("x-amz-security-token"), Some("the-session-token"));
        assert!(request.header("x-amz-date").is_some());
        assert!(!format!("{request:?}").contains(&admin));
    }
    let record = harness.audit.last(3).await;
    let expected = json!({"type": "aws_sts", "role": READER});
    assert_eq!(record["metadata"]["extra"]["credential"], expected);
    assert_eq!(harness.proxy.status()["credential"]["type"], "awsSts");
    for place in [harness.audit.text(), harness.metrics_text(), harness.proxy.status().to_string(), logs()] {
        for secret in [admin.as_str(), "the-secret-key", "the-session-token"] {
            assert!(!place.contains(secret), "a secret shows");
        }
    }
}

#[tokio::test]
async fn each_failure_of_aws_has_its_answer() {
    for (what, reply, status, challenged) in [
        ("a bad token", fault(400, "InvalidIdentityToken"), 401, true),
        ("an expired token", fault(400, "ExpiredTokenException"), 401, true),
        ("a role that is not theirs", fault(403, "AccessDenied"), 403, false),
        ("a region that is off", fault(403, "RegionDisabledException"), 502, false),
        ("no XML", Reply::body(200, "text/html", "hello"), 502, false),
        ("too many calls", fault(400, "Throttling"), 503, false),
        ("a fault at AWS", fault(500, "InternalFailure"), 503, false),
        ("a reset connection", Reply::reset(), 503, false),
    ] {
        let sts = ScriptedServer::start(move |_| reply.clone()).await;
        let harness = Harness::start(config(&sts)).await;
        let answer = harness.post_as("bob", &call("tool-0")).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert_eq!(answer.header("www-authenticate").is_some(), challenged, "{what}");
        assert_eq!(answer.header("retry-after").is_some(), status == 503, "{what}");
        assert!(harness.backend.requests().is_empty(), "{what}");
        assert!(!answer.text().contains("detail"), "{what}");
    }
}

#[tokio::test]
async fn a_role_that_aws_denies_to_one_caller_is_told_from_no_role_and_from_a_fault() {
    let sts = sts().await;
    let harness = Harness::start(config(&sts)).await;
    let admin = harness.mint(|token| token.claim("groups", json!(["admins"])));
    assert_eq!(raw::post_rpc(harness.address, "/mcp", Some(&admin), &call("tool-0")).await.status, 200);
    sts.set_handler(|_| fault(403, "AccessDenied"));
    let answer = harness.post_as("bob", &call("tool-0")).await;
    let expected = (403, json!("AWS does not let you take the role"));
    assert_eq!((answer.status, answer.json()["error"]["message"].clone()), expected);
    assert_eq!(harness.proxy.status()["credential"]["ready"], true, "the others are well");
}

#[tokio::test]
async fn a_second_login_that_does_not_help_ends_the_circle() {
    let sts = ScriptedServer::start(|_| fault(400, "InvalidIdentityToken")).await;
    let harness = Harness::start(config(&sts)).await;
    let login = |number: u8| harness.mint(|token| token.claim("sub", "bob").claim("jti", json!(number)));
    let post = async |token: &str| raw::post_rpc(harness.address, "/mcp", Some(token), &call("tool-0")).await;
    assert_eq!(post(&login(1)).await.status, 401);
    let second = post(&login(2)).await;
    assert_eq!((second.status, second.header("www-authenticate")), (403, None));
    harness.clock.advance(std::time::Duration::from_secs(61));
    assert_eq!(post(&login(3)).await.status, 401, "a minute later");
}

#[tokio::test]
async fn a_tool_with_any_name_can_be_called() {
    let sts = sts().await;
    let harness = Harness::start(config(&sts)).await;
    let message = call("w\u{e4}rme").to_string();
    let bearer = format!("Bearer {}", harness.token("bob"));
    let mut connection = skep_testkit::RawConnection::open(harness.address).await;
    let mut head = format!(
        "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAuthorization: {bearer}\r\n\
         Mcp-Method: tools/call\r\nContent-Length: {}\r\nMcp-Name: w\u{e4}rme\r\n\r\n",
        harness.address,
        message.len()
    );
    head.push_str(&message);
    connection.send(head.as_bytes()).await;
    let answer = connection.read_answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let request = harness.backend.requests().remove(0);
    assert!(request.header("authorization").unwrap().contains(";mcp-name;"));
}

#[tokio::test]
async fn a_caller_without_a_role_or_a_session_name_is_refused_before_aws_is_asked() {
    let sts = sts().await;
    let harness = Harness::start(config(&sts)).await;
    let answer = harness.post_as("alice", &call("tool-0")).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["message"]),
        (403, &json!("Failed to determine IAM role"))
    );
    let named = harness.mint(|token| token.claim("groups", json!(["admins"])).claim("sub", "a b"));
    let answer = raw::post_rpc(harness.address, "/mcp", Some(&named), &call("tool-0")).await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (403, None), "a new login does not help");
    let message = answer.json()["error"]["message"].to_string();
    assert!(message.contains("session_name_claim"), "{message}");
    let harness = Harness::start({
        let mut config = config(&sts);
        config
            .as_object_mut()
            .unwrap()
            .extend(cedar(&["forbid(principal, action, resource);"]).as_object().unwrap().clone());
        config
    })
    .await;
    assert_eq!(harness.post_as("bob", &call("tool-0")).await.status, 403);
    assert!(sts.requests().is_empty());
}

#[tokio::test]
async fn credentials_that_the_server_refuses_are_renewed_once() {
    let sts = sts().await;
    let harness = Harness::scripted(config(&sts), |request| {
        let renewed = request.header("authorization").is_some_and(|value| value.contains("AKIA2"));
        if renewed { well_behaved(request, 3) } else { Reply::status(401) }
    })
    .await;
    assert_eq!(harness.post_as("bob", &call("tool-0")).await.status, 200);
    assert_eq!((sts.requests().len(), harness.backend.requests().len()), (2, 2));
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_by_name() {
    let sts = sts().await;
    let harness = Harness::start(config(&sts)).await;
    for (changes, named) in [
        (json!({"aws_sts_config": {"region": "nowhere"}}), "region"),
        (json!({"aws_sts_config": {"role_mappings": []}}), "fallback_role_arn"),
        (json!({"aws_sts_config": {"session_duration": 1}}), "session_duration"),
        (json!({"aws_sts_config": {"subject_provider_name": "x"}}), "subject_provider_name"),
        (
            json!({"aws_sts_config": {"role_mappings": [{"matcher": "claims.", "role_arn": ADMIN}]}}),
            "matcher",
        ),
        (json!({"remote_url": "", "target_port": 80, "target_host": "127.0.0.1"}), "aws_sts_config"),
        (json!({"header_forward": {"add_plaintext_headers": {"Authorization": "x"}}}), "Authorization"),
        (json!({"skep": {"aws": {"sts_endpoint": "not a url"}}}), "sts_endpoint"),
        (json!({"skep": {"aws": {"sts_endpoint": "http://sts.internal.example/"}}}), "must be https"),
        (json!({"skep": {"aws": {"sts_endpoint": "http://10.0.0.1/"}}}), "must be https"),
        (json!({"skep": {"client_token": "forward"}}), "client_token"),
        (
            json!({"additional_middleware_configs": [{"type": "awssts", "parameters": {
                "aws_sts_config": config(&sts)["aws_sts_config"], "target_url": "https://elsewhere.example/"}}]}),
            "target_url",
        ),
    ] {
        let error = harness.changed(changes.clone()).map(|_| ()).unwrap_err();
        let error = skep_runtime::logging::chain(&error);
        assert!(error.contains(named), "{changes}: {error}");
    }
}

#[tokio::test]
async fn an_answer_of_sts_that_is_not_what_it_should_be_gives_no_credentials() {
    let good = credentials(1);
    let ended = good.replace("2999", "1999");
    let doctype = "<!DOCTYPE a [<!ENTITY x SYSTEM \"file:///etc/passwd\"><!ENTITY y \"&#65;\">]>";
    for (what, body) in [
        ("entities", format!("{doctype}{}", good.replace("AKIA1", "&x;"))),
        ("entities of its own", format!("{doctype}{}", good.replace("AKIA1", "&y;"))),
        ("another namespace", good.replace("sts.amazonaws.com", "evil.example")),
        ("credentials that ended", ended),
        ("a time that is none", good.replace("2999-01-01T00:00:00Z", "soon")),
        (
            "two keys",
            good.replace("<SecretAccessKey>", "<SecretAccessKey>x</SecretAccessKey><SecretAccessKey>"),
        ),
        ("a line end", good.replace("the-session-token", "a&#13;&#10;X-Admin: 1")),
        ("an empty token", good.replace("the-session-token", " ")),
        ("a comment in a key", good.replace("AKIA1", "AKIA<!-- -->1")),
        (
            "elements without end",
            good.replace("<Credentials>", &format!("{}<Credentials>", "<a/>".repeat(10_000))),
        ),
        ("nesting", format!("{}{}", "<a>".repeat(20_000), "</a>".repeat(20_000))),
        ("a megabyte", format!("{good}{}", " ".repeat(1 << 20))),
    ] {
        let text = body.clone();
        let sts = ScriptedServer::start(move |_| Reply::body(200, "text/xml", text.clone())).await;
        let harness = Harness::start(config(&sts)).await;
        let answer = harness.post_as("bob", &call("tool-0")).await;
        assert_eq!(answer.status, 502, "{what}: {}", answer.text());
        assert!(harness.backend.requests().is_empty(), "{what}");
        sts.set_handler(|_| Reply::body(200, "text/xml", credentials(2)));
        assert_eq!(harness.post_as("bob", &call("tool-0")).await.status, 200, "{what}: afterwards");
    }
}

#[tokio::test]
async fn a_client_tells_aws_nothing_by_headers_of_its_own() {
    let sts = sts().await;
    let harness = Harness::start(config(&sts)).await;
    let bearer = format!("Bearer {}", harness.token("bob"));
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
        ("X-Amz-Security-Token", "forged"),
        ("x-amz-target", "forged"),
        ("X-AMZ-Date", "forged"),
        ("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"),
        ("Connection", "X-Amz-Date, Content-Type"),
    ];
    let body = call("tool-0").to_string();
    let mut connection = skep_testkit::RawConnection::open(harness.address).await;
    let target = "/mcp?a=%2F&access_token=t&X-Amz-Expires=1";
    let answer = connection.request("POST", target, &headers, body.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let request = harness.backend.requests().remove(0);
    assert!(!format!("{:?}", request.headers).contains("forged"), "{request:?}");
    assert_eq!(request.header_all("x-amz-date").len(), 1);
    assert_eq!(request.header_all("x-amz-security-token"), ["the-session-token"]);
    assert_ne!(request.header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
    assert_eq!(request.target, "/mcp?a=%2F&X-Amz-Expires=1");
}

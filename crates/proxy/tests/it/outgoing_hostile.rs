//! Credentials for the MCP server among clients, servers, token endpoints and operators who mean ill or
//! take no care.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use skep_testkit::backend::well_behaved;
use skep_testkit::server::{Framing, Step};
use skep_testkit::{FakeIdp, Gate, RawConnection, Reply, ScriptedServer, TokenSpec, raw};

use crate::harness::{AUDIENCE, Harness, PATIENCE, call, logs, soon};
use crate::outgoing::{TokenEndpoint, authorizations, granted, merged};

fn custom_header(endpoint: &TokenEndpoint) -> Value {
    let custom =
        json!({"header_strategy": "custom", "external_token_header_name": "X-Upstream-Authorization"});
    let mut config = endpoint.config();
    crate::harness::merge(&mut config["token_exchange_config"], &custom);
    config
}

#[tokio::test]
async fn no_spelling_of_a_credentials_header_comes_from_the_client() {
    let endpoint = TokenEndpoint::start().await;
    let fixed = json!({"header_forward": {"add_headers_from_secret": {"X-Api-Key": "KEY1"}}});
    let harness = Harness::start(merged(custom_header(&endpoint), &fixed)).await;
    // Servers that hand headers on as variables take both spellings for one name.
    let forged = [
        ("X_Upstream_Authorization", "Bearer forged"),
        ("x-upstream_authorization", "Bearer forged"),
        ("X-UPSTREAM-AUTHORIZATION", "Bearer forged"),
        ("X_Api_Key", "forged"),
        ("X_Forwarded_For", "forged"),
        ("x_forwarded-User", "forged"),
        ("X_Real_Ip", "forged"),
        ("Proxy_Authorization", "forged"),
        ("X-Request_Id", "forged"),
        ("X-Forwarded-Access-Token", "forged"),
        ("X-Forwarded-Authorization", "forged"),
        ("Proxy-Authorization", "forged"),
        ("Cookie", "forged"),
        ("Connection", "X-Upstream-Authorization, X-Api-Key"),
        ("X_Team", "blue"),
    ];
    let answer = harness.post_bytes(&forged, call("tool-0").to_string().as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let request = harness.backend.requests().remove(0);
    assert!(!format!("{request:?}").contains("forged"), "{request:?}");
    assert_eq!(request.header_all("x-upstream-authorization"), ["Bearer exchanged-1"]);
    assert_eq!(request.header_all("x-api-key"), ["s3cret-of-the-backend"]);
    assert_eq!(request.header("x_team"), Some("blue"), "what is nobody's passes");
}

#[tokio::test]
async fn a_token_in_the_query_ends_here() {
    let endpoint = TokenEndpoint::start().await;
    let harness = Harness::start(endpoint.config()).await;
    let token = harness.token("alice");
    let bearer = format!("Bearer {token}");
    let body = call("tool-0").to_string();
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    for (query, expected) in [
        (format!("?access_token={token}"), "/mcp"),
        (format!("?a=%2F&access_token={token}&b=+"), "/mcp?a=%2F&b=+"),
        (format!("?access%5Ftoken={token}&a"), "/mcp?a"),
        ("?a=1&&b".to_owned(), "/mcp?a=1&&b"),
        ("?".to_owned(), "/mcp?"),
    ] {
        harness.backend.forget();
        let mut connection = RawConnection::open(harness.address).await;
        let target = format!("/mcp{query}");
        assert_eq!(
            connection.request("POST", &target, &headers, body.as_bytes()).await.status,
            200,
            "{query}"
        );
        let request = harness.backend.requests().remove(0);
        assert_eq!(request.target, expected, "{query}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_the_proxys_own_token_is_the_providers_load_once_however_many_call() {
    let endpoint = TokenEndpoint::start().await;
    let mut config = endpoint.config();
    config["skep"] = json!({"token_exchange": {"grant_type": "client_credentials"}});
    let harness = Harness::scripted(config, |_| Reply::status(401)).await;
    for number in 0..10 {
        assert_eq!(harness.post_as(&format!("user-{number}"), &call("tool-0")).await.status, 502);
    }
    assert_eq!(endpoint.calls(), 2, "one more was tried, once");
    harness.clock.advance(Duration::from_secs(10));
    assert_eq!(harness.post_as("late", &call("tool-0")).await.status, 502);
    assert_eq!(endpoint.calls(), 3, "later it is tried again");
}

#[tokio::test]
async fn an_endpoint_that_gives_the_callers_own_token_back_gives_nothing() {
    let endpoint = TokenEndpoint::answering(|request| {
        let mut body = granted(1);
        body["access_token"] = json!(request.form_field("subject_token"));
        Reply::json(&body)
    })
    .await;
    let harness = Harness::start(endpoint.config()).await;
    let answer = harness.post(&call("tool-0")).await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(harness.backend.requests().is_empty(), "the caller's own token reached the server");
}

#[tokio::test]
async fn answers_of_a_broken_endpoint_are_told_apart_and_harm_nobody() {
    let good = granted(1).to_string();
    let with = |name: &str, value: Value| {
        let mut body = granted(1);
        body[name] = value;
        Reply::json(&body)
    };
    let head = |status: &str, more: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{more}\r\n")
    };
    let length = good.len();
    let raw_reply = |text: String| Reply::raw([Step::Send(text.into()), Step::Close]);
    let cases: Vec<(&str, Reply, u16)> = vec![
        ("HTTP/1.0", raw_reply(format!("HTTP/1.0 200 OK\r\n\r\n{good}")), 200),
        ("until close", Reply::body(200, "application/json", good.clone()).framing(Framing::UntilClose), 200),
        ("chunked", Reply::body(200, "application/json", good.clone()).framing(Framing::Chunked), 200),
        (
            "early hints first",
            raw_reply(format!(
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{}{good}",
                head("200 OK", &format!("Content-Length: {length}\r\n"))
            )),
            200,
        ),
        ("a cookie", Reply::json(&granted(1)).header("Set-Cookie", "session=1"), 200),
        (
            "no media type",
            raw_reply(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{good}")),
            200,
        ),
        (
            "cut off",
            raw_reply(format!("{}{good}", head("200 OK", &format!("Content-Length: {}\r\n", length + 1)))),
            503,
        ),
        (
            "chunks of nonsense",
            raw_reply(format!(
                "{}zz\r\n{good}\r\n0\r\n\r\n",
                head("200 OK", "Transfer-Encoding: chunked\r\n")
            )),
            503,
        ),
        ("no HTTP", raw_reply("hello\r\n\r\n".to_owned()), 503),
        (
            "headers without end",
            raw_reply(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(2 << 20))),
            503,
        ),
        (
            "compressed",
            Reply::body(200, "application/json", vec![0x1f, 0x8b, 8, 0]).header("Content-Encoding", "gzip"),
            502,
        ),
        ("an error with status 200", Reply::json(&json!({"error": "invalid_grant"})), 502),
        ("201", Reply::body(201, "application/json", good.clone()), 502),
        ("204", Reply::status(204), 502),
        ("too large", Reply::body(200, "application/json", vec![b' '; 2 << 20]), 502),
        ("a refusal with a page", Reply::body(403, "text/html", "<h1>blocked</h1>"), 502),
        ("a line end in the token", with("access_token", json!("a\r\nX-Admin: 1")), 502),
        ("a space in the token", with("access_token", json!("a b")), 502),
        ("a NUL in the token", with("access_token", json!("a\0")), 502),
        ("letters that are no ASCII", with("access_token", json!("t\u{f6}ken")), 502),
        ("a token that is a number", with("access_token", json!(5)), 502),
        ("a token for proof of possession", with("token_type", json!("DPoP")), 502),
        (
            "a refresh token instead",
            with("issued_token_type", json!("urn:ietf:params:oauth:token-type:refresh_token")),
            502,
        ),
        ("a time that is a word", with("expires_in", json!("soon")), 502),
        ("scopes without end", with("scope", json!("scope ".repeat(100_000))), 502),
    ];
    for (what, reply, status) in cases {
        let endpoint = TokenEndpoint::answering(move |_| reply.clone()).await;
        let harness = Harness::start(endpoint.config()).await;
        let answer = harness.post(&call("tool-0")).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert_eq!(harness.backend.requests().len(), usize::from(status == 200), "{what}");
        if status == 200 {
            assert_eq!(authorizations(&harness), ["Bearer exchanged-1"], "{what}");
            assert_eq!(answer.header("set-cookie"), None, "{what}");
        }
        // What was wrong is over: the next one is well.
        endpoint.server.set_handler(|_| Reply::json(&granted(2)));
        assert_eq!(harness.post_as("bob", &call("tool-0")).await.status, 200, "{what}: afterwards");
        assert!(harness.audit.text().len() < 16 * 1024, "{what}: an audit record grows without bound");
    }
}

#[tokio::test]
async fn what_an_endpoint_says_about_time_decides_how_often_it_is_asked() {
    for (expires_in, calls) in [
        (json!(0), 3),
        (json!(-5), 3),
        (json!(30), 3),
        (json!(31), 1),
        (json!("31"), 1),
        (json!(31.9), 1),
        (json!(1e300), 1),
        (json!(u64::MAX), 1),
        (Value::Null, 1),
    ] {
        let shown = expires_in.to_string();
        let endpoint = TokenEndpoint::answering(move |_| {
            let mut body = granted(1);
            body["expires_in"] = expires_in.clone();
            Reply::json(&body)
        })
        .await;
        let harness = Harness::start(endpoint.config()).await;
        let token = harness.token("alice");
        for _ in 0..3 {
            let answer = raw::post_rpc(harness.address, "/mcp", Some(&token), &call("tool-0")).await;
            assert_eq!(answer.status, 200, "{shown}");
        }
        assert_eq!(endpoint.calls(), calls, "{shown}");
    }
}

#[tokio::test]
async fn an_endpoint_that_sends_more_than_was_asked_for_does_not_answer_the_next_caller() {
    let stray = granted(666).to_string();
    let count = AtomicUsize::new(0);
    let endpoint = TokenEndpoint::answering(move |_| {
        let answer = |body: &str| {
            format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        let both = answer(&granted(number).to_string()) + &answer(&stray);
        Reply::raw([Step::Send(both.into())])
    })
    .await;
    let harness = Harness::start(endpoint.config()).await;
    for user in ["alice", "bob", "carol"] {
        assert_eq!(harness.post_as(user, &call("tool-0")).await.status, 200, "{user}");
    }
    assert_eq!(authorizations(&harness), ["Bearer exchanged-1", "Bearer exchanged-2", "Bearer exchanged-3"]);
}

#[tokio::test]
async fn an_exchange_that_lands_after_a_change_of_audience_serves_the_old_callers_alone() {
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint = TokenEndpoint::answering(move |request| {
        let mut body = granted(1);
        body["access_token"] = json!(format!("for-{}", request.form_field("audience")));
        let body = body.to_string();
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        match request.form_field("audience").as_str() {
            "backend" => Reply::raw([Step::Wait(held.clone()), Step::Send(text.into())]),
            _ => Reply::raw([Step::Send(text.into())]),
        }
    })
    .await;
    let harness = Arc::new(Harness::start(endpoint.config()).await);
    let token = harness.token("alice");
    let post = |harness: &Arc<Harness>| {
        let (harness, token) = (Arc::clone(harness), token.clone());
        tokio::spawn(async move {
            raw::post_rpc(harness.address, "/mcp", Some(&token), &call("tool-0")).await.status
        })
    };
    let early: Vec<_> = (0..200).map(|_| post(&harness)).collect();
    endpoint.server.wait_for_requests(1).await;
    let change = json!({"token_exchange_config": {"audience": "another"}});
    harness.proxy.reload(harness.changed(change).unwrap()).unwrap();
    assert_eq!(post(&harness).await.unwrap(), 200);
    gate.open();
    for caller in early {
        assert_eq!(soon("a caller of before", caller).await.unwrap(), 200);
    }
    assert_eq!(post(&harness).await.unwrap(), 200);
    let sent = authorizations(&harness);
    assert_eq!(sent.first().map(String::as_str), Some("Bearer for-another"));
    assert_eq!(sent.last().map(String::as_str), Some("Bearer for-another"), "what landed late was kept");
    assert_eq!(endpoint.calls(), 2);
}

#[tokio::test]
async fn a_change_of_header_takes_the_kept_token_along_and_leaves_no_second_one() {
    let endpoint = TokenEndpoint::start().await;
    let harness = Harness::start(endpoint.config()).await;
    let token = harness.token("alice");
    let post = async || raw::post_rpc(harness.address, "/mcp", Some(&token), &call("tool-0")).await.status;
    assert_eq!(post().await, 200);
    harness.proxy.reload(harness.changed(custom_header(&endpoint)).unwrap()).unwrap();
    assert_eq!(post().await, 200);
    let request = harness.backend.requests().remove(1);
    assert_eq!(request.header_all("x-upstream-authorization"), ["Bearer exchanged-1"]);
    assert_eq!(request.header("authorization"), None);
    assert_eq!(endpoint.calls(), 1);
}

#[tokio::test]
async fn every_kind_of_request_is_sent_again_after_a_401_and_after_nothing_else() {
    for (method, body) in [
        ("GET", String::new()),
        ("DELETE", String::new()),
        ("POST", json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string()),
        ("POST", call("tool-0").to_string()),
    ] {
        for (status, sent) in [(401, 2), (403, 1), (400, 1), (407, 1), (500, 1), (503, 1)] {
            let endpoint = TokenEndpoint::start().await;
            let harness =
                Harness::scripted(endpoint.config(), move |request| match request.header("authorization") {
                    Some("Bearer exchanged-1") => Reply::body(status, "text/plain", vec![b'x'; 4 << 20]),
                    _ => well_behaved(request, 3),
                })
                .await;
            harness.send(method, "/mcp", &[("Mcp-Session-Id", "s")], body.as_bytes()).await;
            let requests = harness.backend.requests();
            assert_eq!(requests.len(), sent, "{method} after {status}");
            assert!(
                requests.iter().all(|request| request.body == requests[0].body),
                "{method} after {status}"
            );
            assert!(requests.iter().all(|request| request.header_all("authorization").len() == 1));
        }
    }
}

#[tokio::test]
async fn a_second_try_that_breaks_is_the_last_and_is_recorded() {
    for (what, second, status) in [
        ("a reset", Reply::reset(), 502),
        ("a fault", Reply::status(500), 500),
        ("a third 401", Reply::status(401), 502),
    ] {
        let endpoint = TokenEndpoint::start().await;
        let harness =
            Harness::scripted(endpoint.config(), move |request| match request.header("authorization") {
                Some("Bearer exchanged-1") => Reply::status(401),
                _ => second.clone(),
            })
            .await;
        let answer = harness.post(&call("tool-0")).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert_eq!(harness.backend.requests().len(), 2, "{what}");
        let record = harness.audit.last(1).await;
        assert_eq!(record["metadata"]["extra"]["credential"]["type"], "token_exchange", "{what}");
    }
    // The provider fails where the second credential would come from.
    let count = AtomicUsize::new(0);
    let endpoint = TokenEndpoint::answering(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::json(&granted(1)),
        _ => Reply::status(500),
    })
    .await;
    let harness = Harness::scripted(endpoint.config(), |_| Reply::status(401)).await;
    let answer = harness.post(&call("tool-0")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert_eq!(harness.backend.requests().len(), 1);
}

#[tokio::test]
async fn a_caller_who_hangs_up_during_the_second_try_is_recorded_and_costs_nobody_else() {
    let gate = Gate::new();
    let held = gate.clone();
    let count = AtomicUsize::new(0);
    let endpoint = TokenEndpoint::answering(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        let body = granted(number).to_string();
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        match number {
            2 => Reply::raw([Step::Wait(held.clone()), Step::Send(text.into())]),
            _ => Reply::raw([Step::Send(text.into())]),
        }
    })
    .await;
    let harness = Harness::scripted(endpoint.config(), |request| match request.header("authorization") {
        Some("Bearer exchanged-1") => Reply::status(401),
        _ => well_behaved(request, 3),
    })
    .await;
    let token = harness.token("alice");
    let body = call("tool-0").to_string();
    let head = harness.head(&format!("Content-Length: {}\r\n", body.len()));
    let head = head.replace(&harness.bearer(), &format!("Bearer {token}"));
    let mut impatient = RawConnection::open(harness.address).await;
    impatient.send(format!("{head}{body}").as_bytes()).await;
    endpoint.server.wait_for_requests(2).await;
    drop(impatient);
    harness.audit.wait(1).await;
    gate.open();
    assert_eq!(raw::post_rpc(harness.address, "/mcp", Some(&token), &call("tool-0")).await.status, 200);
    assert_eq!(endpoint.calls(), 2, "what was asked for serves the next");
    assert_eq!(authorizations(&harness), ["Bearer exchanged-1", "Bearer exchanged-2"]);
}

#[tokio::test]
async fn a_credential_follows_no_redirect_away_from_the_server() {
    let elsewhere = ScriptedServer::start(|_| Reply::status(200)).await;
    let port = elsewhere.address().port();
    for location in [
        elsewhere.url("/mcp"),
        format!("//127.0.0.1:{port}/mcp"),
        format!("http://user:pass@127.0.0.1:{port}/"),
        "http://169.254.169.254/latest".to_owned(),
        "https:/mcp".to_owned(),
        "\\\\evil.example\\".to_owned(),
    ] {
        let endpoint = TokenEndpoint::start().await;
        let target = location.clone();
        let harness =
            Harness::scripted(endpoint.config(), move |_| Reply::status(307).header("Location", &target))
                .await;
        let answer = harness.post(&call("tool-0")).await;
        assert!(matches!(answer.status, 307 | 502), "{location}: {}", answer.status);
        assert!(elsewhere.requests().is_empty(), "{location}");
    }
}

/// What loading a configuration came to; the test fails when it takes for ever.
fn load_in_time(harness: &Harness, changes: Value) -> Result<(), String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let opened = scope.spawn(move || {
            let _ = sender.send(
                harness.changed(changes).map(|_| ()).map_err(|error| skep_runtime::logging::chain(&error)),
            );
        });
        let outcome = receiver.recv_timeout(PATIENCE);
        if outcome.is_err() {
            eprintln!("the configuration never loads");
            std::process::abort();
        }
        opened.join().unwrap();
        outcome.unwrap()
    })
}

#[tokio::test]
async fn a_secret_that_is_no_plain_file_is_refused_and_never_waited_for() {
    let endpoint = TokenEndpoint::start().await;
    let harness = Harness::start(endpoint.config()).await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert!(std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("endless")).unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    std::fs::File::create(at("large")).unwrap().set_len(1 << 40).unwrap();
    std::fs::write(at("binary"), b"s3cret-\xff").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for name in ["fifo", "loop", "endless", "folder", "large", "binary", "socket", "missing"] {
        for changes in [
            json!({"skep": {"secret_files": {"TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET": at(name)}}}),
            json!({"skep": {"token_exchange": {"actor_token_file": at(name)}}}),
            json!({"skep": {"token_exchange": {"ca_cert_path": at(name)}}}),
            json!({"token_exchange_config": null, "remote_auth_config": {"bearer_token_file": at(name)}}),
        ] {
            let error = load_in_time(&harness, changes.clone()).unwrap_err();
            assert!(error.contains(name) && !error.contains("s3cret"), "{changes}: {error}");
        }
    }
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
}

#[tokio::test]
async fn the_content_of_a_secret_that_cannot_be_used_shows_nowhere() {
    let endpoint = TokenEndpoint::start().await;
    let harness = Harness::start(endpoint.config()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let secret_file = json!({"TOOLHIVE_SECRET_KEY1": &file});
    for content in ["pr1vate\nX-Admin: 1", "pr1vate\0", "pr1vate\x7f", "\rpr1vate"] {
        std::fs::write(&file, content).unwrap();
        for changes in [
            json!({"header_forward": {"add_headers_from_secret": {"X-Key": "KEY1"}}, "skep": {"secret_files": secret_file}}),
            json!({"token_exchange_config": null, "skep": {"secret_files": secret_file},
                   "remote_auth_config": {"bearer_token": "KEY1,target=bearer_token"}}),
        ] {
            let error = harness.changed(changes.clone()).map(|_| ()).unwrap_err();
            assert!(!skep_runtime::logging::chain(&error).contains("pr1vate"), "{error:?}");
            assert!(!format!("{error:?}").contains("pr1vate"), "{error:?}");
        }
        let key = json!({"skep": {"secret_files": {"TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET": &file},
                                  "token_exchange": {"client_auth": "private_key_jwt"}}});
        let config = harness.changed(key).unwrap();
        assert!(!format!("{config:?}").contains("pr1vate"), "Debug shows a secret");
        harness.proxy.reload(config).unwrap_err();
    }
    std::fs::write(&file, "pr1vate").unwrap();
    let good = json!({"header_forward": {"add_headers_from_secret": {"X-Key": "KEY1"}}, "skep": {"secret_files": secret_file}});
    let config = harness.changed(good).unwrap();
    assert!(!format!("{config:?}").contains("pr1vate"), "Debug shows a secret");
    harness.proxy.reload(config).unwrap();
    assert!(!harness.proxy.status().to_string().contains("pr1vate"));
    assert!(!format!("{:?}", harness.proxy).contains("pr1vate"));
    assert!(!logs().contains("pr1vate"), "the logs show a secret");
}

#[tokio::test]
async fn what_editors_put_around_a_secret_is_no_part_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let fixed = json!({"header_forward": {"add_headers_from_secret": {"X-Key": "KEY1"}},
                       "skep": {"secret_files": {"TOOLHIVE_SECRET_KEY1": &file}}});
    for content in ["pr1vate-2", "pr1vate-2\n", "pr1vate-2\r\n", "\u{feff}pr1vate-2\r\n\r\n"] {
        std::fs::write(&file, content).unwrap();
        let harness = Harness::start(fixed.clone()).await;
        assert_eq!(harness.post(&call("tool-0")).await.status, 200);
        assert_eq!(harness.backend.requests().remove(0).header("x-key"), Some("pr1vate-2"), "{content:?}");
    }
}

#[tokio::test]
async fn two_users_of_one_name_at_two_issuers_never_get_each_others_token() {
    let clock = Arc::new(skep_testkit::ManualClock::default());
    let partner = FakeIdp::with_clock(clock).await;
    partner.rotate();
    let endpoint = TokenEndpoint::answering(|request| {
        let token = request.form_field("subject_token");
        let mut body = granted(1);
        body["access_token"] = json!(format!("for.{}", token.rsplit('.').next().unwrap_or_default()));
        Reply::json(&body)
    })
    .await;
    let issuers = json!({"skep": {"further_issuers": [{
        "subject_prefix": "partner:",
        "oidc_config": {"Issuer": partner.issuer(), "Audience": AUDIENCE, "InsecureAllowHTTP": true},
    }]}});
    let harness = Harness::start(merged(endpoint.config(), &issuers)).await;
    let tokens = [harness.token("alice"), partner.token("alice", AUDIENCE)];
    let scheme = |number: usize| ["Bearer", "bearer", "BEARER", "bEaReR"][number % 4];
    for number in 0..8 {
        let token = &tokens[number % 2];
        let bearer = format!("{} {token}", scheme(number / 2));
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let mut connection = RawConnection::open(harness.address).await;
        let body = call("tool-0").to_string();
        assert_eq!(
            connection.request("POST", "/mcp", &headers, body.as_bytes()).await.status,
            200,
            "{number}"
        );
    }
    let expected = |number: usize| format!("Bearer for.{}", tokens[number % 2].rsplit('.').next().unwrap());
    assert_eq!(authorizations(&harness), (0..8).map(expected).collect::<Vec<_>>());
    assert_eq!(endpoint.calls(), 2, "however the scheme is spelt");
    // A refusal of one says nothing about the other.
    endpoint.server.set_handler(|_| Reply::body(400, "application/json", r#"{"error":"invalid_grant"}"#));
    let other = harness.mint(|token| token.claim("jti", "2"));
    assert_eq!(raw::post_rpc(harness.address, "/mcp", Some(&other), &call("tool-0")).await.status, 401);
    let theirs = partner.mint(&TokenSpec::valid("alice", AUDIENCE).claim("jti", "2"));
    let answer = raw::post_rpc(harness.address, "/mcp", Some(&theirs), &call("tool-0")).await;
    assert_eq!(answer.status, 401, "{}", answer.text());
}

#[tokio::test]
async fn what_an_endpoint_calls_its_refusal_goes_nowhere() {
    let count = AtomicUsize::new(0);
    let endpoint = TokenEndpoint::answering(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let text =
            json!({"error": format!("leak-{number}"), "error_description": "leak", "error_uri": "leak"});
        Reply::body(400, "application/json", text.to_string())
            .header("WWW-Authenticate", "Bearer realm=\"leak\"")
    })
    .await;
    let harness = Harness::start(endpoint.config()).await;
    let mut sizes = Vec::new();
    for number in 0..20 {
        let answer = harness.post_as(&format!("user-{number}"), &call("tool-0")).await;
        assert_eq!(answer.status, 502);
        assert!(!format!("{answer:?}").contains("leak"), "{answer:?}");
        sizes.push(harness.metrics_text().lines().count());
    }
    harness.audit.wait(20).await;
    assert_eq!(sizes[1], sizes[19], "a refusal's text became a label");
    for place in [harness.audit.text(), harness.metrics_text(), harness.proxy.status().to_string()] {
        assert!(!place.contains("leak"), "{place}");
    }
}

#[tokio::test]
async fn many_tokens_at_an_endpoint_that_hangs_wait_for_nobody_else() {
    let gate = Gate::new();
    let held = gate.clone();
    let endpoint = TokenEndpoint::answering(move |request| {
        let body = granted(1).to_string();
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        match request.connection {
            1 => Reply::raw([Step::Send(text.into())]),
            _ => Reply::raw([Step::Wait(held.clone()), Step::Send(text.into())]),
        }
    })
    .await;
    let harness = Harness::start(endpoint.config()).await;
    let known = harness.token("known");
    let post = async || raw::post_rpc(harness.address, "/mcp", Some(&known), &call("tool-0")).await.status;
    assert_eq!(post().await, 200);
    let body = call("tool-0").to_string();
    let mut waiting = Vec::new();
    for number in 0..50 {
        let token = harness.token(&format!("user-{number}"));
        let head = harness.head(&format!("Content-Length: {}\r\n", body.len()));
        let head = head.replace(&harness.bearer(), &format!("Bearer {token}"));
        let mut connection = RawConnection::open(harness.address).await;
        connection.send(format!("{head}{body}").as_bytes()).await;
        waiting.push(connection);
    }
    assert_eq!(post().await, 200, "a kept token needs no endpoint");
    // Half of them lose patience.
    waiting.truncate(25);
    gate.open();
    for mut connection in waiting {
        assert_eq!(connection.read_answer().await.status, 200);
    }
}

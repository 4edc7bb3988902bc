//! Which headers, statuses, queries and redirects cross the proxy, and which end at it.

use serde_json::json;
use skep_testkit::backend::replies;
use skep_testkit::{McpBackend, Reply};

use crate::harness::{Harness, call};

#[tokio::test]
async fn answers_of_other_kinds_pass_untouched() {
    let harness = Harness::start(json!({})).await;
    for (status, kind, body) in [
        (200, "application/json", "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}"),
        (200, "text/html", "<html>"),
        (202, "", ""),
        (204, "", ""),
        (
            400,
            "application/json",
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32020,\"message\":\"x\"}}",
        ),
        (403, "text/plain", "no"),
        (
            404,
            "application/json",
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32601,\"message\":\"x\"}}",
        ),
        (405, "text/plain", "no"),
        (409, "text/plain", "\0\u{1}"),
        (500, "text/plain", "oops"),
        (503, "text/plain", "later"),
    ] {
        harness.backend.set_handler(move |_| {
            let reply = if body.is_empty() { Reply::status(status) } else { Reply::body(status, kind, body) };
            reply.header("X-Own", "kept").header("Retry-After", "77").header("Cache-Control", "no-transform")
        });
        let answer = harness.post(&call("x")).await;
        assert_eq!((answer.status, answer.text().as_str()), (status, body));
        assert_eq!(answer.header("x-own"), Some("kept"));
        assert_eq!(answer.header_all("retry-after"), ["77"]);
        assert_eq!(answer.header("cache-control"), Some("no-transform"));
        if !body.is_empty() {
            assert_eq!(answer.header("content-type"), Some(kind));
            assert_eq!(answer.header("content-length"), Some(body.len().to_string().as_str()));
        }
    }
}

#[tokio::test]
async fn a_backends_401_is_its_own_affair_unless_the_token_is_the_clients() {
    let harness = Harness::scripted(json!({}), |_| replies::backend_challenge()).await;
    let answer = harness.post(&call("x")).await;
    assert_eq!(answer.status, 502);
    assert_eq!(
        answer.json()["error"]["message"],
        "the MCP server wants a credential, and the proxy has none for it"
    );
    assert_eq!(answer.header("www-authenticate"), None);
    harness
        .backend
        .set_handler(|_| Reply::body(403, "text/plain", "no").header("WWW-Authenticate", "Bearer x"));
    let answer = harness.post(&call("x")).await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (403, None));

    let direct =
        Harness::scripted(json!({"skep": {"client_token": "forward"}}), |_| replies::backend_challenge())
            .await;
    let answer = direct.post(&call("x")).await;
    assert_eq!(answer.status, 401);
    assert!(answer.header("www-authenticate").unwrap().contains("backend.example"));
    assert_eq!(direct.audit.last(1).await["outcome"], "denied");
    let seen = &direct.backend.requests()[0];
    assert_eq!(seen.header("authorization"), Some(direct.bearer().as_str()));
    assert_eq!(seen.header("cookie"), None);
}

#[tokio::test]
async fn what_a_backend_says_to_the_proxy_or_to_a_browser_ends_here() {
    let harness = Harness::scripted(json!({"allowed_origins": ["https://app.example"]}), |request| {
        replies::telling_headers(request, &json!({}))
            .header("Alt-Svc", "h3=\":443\"")
            .header("Clear-Site-Data", "\"*\"")
            .header("Strict-Transport-Security", "max-age=1")
            .header("Access-Control-Allow-Origin", "*")
            .header("Access-Control-Allow-Credentials", "true")
            .header("Access-Control-Expose-Headers", "X-Backend")
            .header("WWW-Authenticate", "Bearer")
            .header("X-Request-Id", "backend")
            .header("Upgrade", "h2c")
            .header("Mcp-Session-Id", "session-1")
            .header("MCP-Protocol-Version", "2025-11-25")
            .header("X-Accel-Buffering", "no")
            .header("Vary", "Accept")
    })
    .await;
    let answer = harness.post(&call("x")).await;
    let mut names: Vec<String> = answer.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "content-length",
            "content-type",
            "date",
            "mcp-protocol-version",
            "mcp-session-id",
            "server",
            "vary",
            "x-accel-buffering",
            "x-backend",
            "x-request-id"
        ]
    );
    assert_ne!(answer.header("x-request-id"), Some("backend"));
    assert_eq!(answer.header("mcp-session-id"), Some("session-1"));
    let answer = harness
        .send("POST", "/mcp", &[("Origin", "https://app.example")], call("x").to_string().as_bytes())
        .await;
    assert_eq!(answer.header_all("access-control-allow-origin"), ["https://app.example"]);
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

#[tokio::test]
async fn what_a_client_says_to_the_proxy_ends_here() {
    let changes = json!({"header_forward": {
        "add_plaintext_headers": {"X-Team": "a", "X-Tenant": "t1"}, "add_headers_from_secret": {"X-Api-Key": "KEY1"},
    }});
    let harness = Harness::start(changes).await;
    let headers = [
        ("Cookie", "session=client"),
        ("Connection", "X-Hop, Mcp-Session-Id2 , keep-alive"),
        ("X-Hop", "1"),
        ("Mcp-Session-Id2", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authorization", "Basic eA=="),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "trailers"),
        ("Trailer", "X-T"),
        ("Forwarded", "for=6.6.6.6"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil"),
        ("X-Forwarded-User", "admin"),
        ("X-Forwarded-Client-Cert", "Subject=admin"),
        ("X-Real-IP", "6.6.6.6"),
        ("X-Request-Id", "mine"),
        ("Accept-Encoding", "gzip, br"),
        ("X-Api-Key", "from the client"),
        ("x-team", "b"),
        ("X-Team", "c"),
        ("Accept", "application/json, text/event-stream"),
        ("Mcp-Session-Id", "s-1"),
        ("MCP-Protocol-Version", "2025-11-25"),
        ("Mcp-Param-Region", "eu"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("User-Agent", "test/1"),
        ("X-Custom", "one"),
        ("X-Custom", "two"),
    ];
    let answer = harness.post_bytes(&headers, call("x").to_string().as_bytes()).await;
    assert_eq!(answer.status, 200);
    let seen = &harness.backend.requests()[0];
    let mut names: Vec<String> = seen.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "accept-encoding",
            "content-length",
            "content-type",
            "host",
            "mcp-param-region",
            "mcp-protocol-version",
            "mcp-session-id",
            "traceparent",
            "user-agent",
            "x-api-key",
            "x-custom",
            "x-custom",
            "x-forwarded-for",
            "x-request-id",
            "x-team",
            "x-tenant"
        ]
    );
    for (name, value) in [
        ("accept-encoding", "identity"),
        ("x-api-key", "s3cret-of-the-backend"),
        ("x-team", "a"),
        ("x-forwarded-for", "127.0.0.1"),
        ("mcp-session-id", "s-1"),
        ("mcp-protocol-version", "2025-11-25"),
        ("user-agent", "test/1"),
    ] {
        assert_eq!(seen.header_all(name), [value], "{name}");
    }
    assert_eq!(seen.header_all("x-custom"), ["one", "two"]);
    assert_eq!(seen.header("x-request-id"), answer.header("x-request-id"));
}

#[tokio::test]
async fn a_header_that_connection_names_cannot_take_ours_away() {
    let changes = json!({"header_forward": {"add_headers_from_secret": {"X-Api-Key": "KEY1"}}});
    let harness = Harness::start(changes).await;
    let headers =
        [("Connection", "X-Api-Key, X-Forwarded-For, Content-Type, Host, Content-Length, Authorization")];
    let answer = harness.post_bytes(&headers, call("x").to_string().as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = &harness.backend.requests()[0];
    assert_eq!(seen.header("x-api-key"), Some("s3cret-of-the-backend"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.body, call("x").to_string().as_bytes());
}

#[tokio::test]
async fn get_and_delete_are_forwarded_with_their_headers_and_without_a_body() {
    let harness = Harness::scripted(json!({}), |request| match request.method.as_str() {
        "GET" => Reply::sse([
            "id: 9\ndata: \n\n: keep-alive\n\n",
            "id: 10\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n",
        ]),
        _ => Reply::status(204),
    })
    .await;
    let headers = [("Mcp-Session-Id", "s"), ("Last-Event-ID", "8"), ("Accept", "text/event-stream")];
    let answer = harness.send("GET", "/mcp?after=1", &headers, b"").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.text(),
        "id: 9\ndata: \n\n: keep-alive\n\nid: 10\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n"
    );
    assert_eq!(harness.send("DELETE", "/mcp", &headers, b"").await.status, 204);
    let smuggled = harness.send("DELETE", "/mcp", &[("Content-Length", "5")], b"hello").await;
    assert_eq!(smuggled.status, 204);
    let seen = harness.backend.requests();
    assert_eq!((seen[0].method.as_str(), seen[0].target.as_str()), ("GET", "/mcp?after=1"));
    assert_eq!((seen[0].header("last-event-id"), seen[0].header("mcp-session-id")), (Some("8"), Some("s")));
    assert_eq!((seen[1].method.as_str(), seen[1].header("mcp-session-id")), ("DELETE", Some("s")));
    assert!(seen.iter().all(|request| request.body.is_empty()));
    let records = harness.audit.wait(3).await;
    assert_eq!(
        (&records[0]["type"], &records[1]["type"]),
        (&json!("sse_connection"), &json!("http_request"))
    );
}

#[tokio::test]
async fn queries_are_merged_and_paths_are_not() {
    let backend = McpBackend::with_tools(1).await;
    let url = format!("{}?tenant=a,b&key=%2F", backend.mcp_url());
    let harness = Harness::before(backend, json!({"remote_url": url})).await;
    for (asked, sent) in [
        ("/mcp", "/mcp?tenant=a,b&key=%2F"),
        ("/mcp?x=1,2&y=%20z", "/mcp?tenant=a,b&key=%2F&x=1,2&y=%20z"),
        ("/?tenant=c", "/mcp?tenant=a,b&key=%2F&tenant=c"),
    ] {
        assert_eq!(harness.send("POST", asked, &[], call("x").to_string().as_bytes()).await.status, 200);
        assert_eq!(harness.backend.requests().last().unwrap().target, sent);
    }
}

#[tokio::test]
async fn redirects_within_the_origin_are_followed_with_method_and_body() {
    let harness = Harness::scripted(json!({}), |request| match request.path() {
        "/mcp" => Reply::status(request.header("x-status").unwrap().parse().unwrap())
            .header("Location", "/moved/mcp?x=1"),
        _ => replies::rpc_result(request, &json!({"content": []})),
    })
    .await;
    for status in ["301", "302", "307", "308"] {
        let answer = harness.post_bytes(&[("X-Status", status)], call("x").to_string().as_bytes()).await;
        assert_eq!(answer.status, 200, "{status}");
        let seen = harness.backend.requests();
        let last = seen.last().unwrap();
        assert_eq!((last.method.as_str(), last.target.as_str()), ("POST", "/moved/mcp?x=1"), "{status}");
        assert_eq!(last.body, call("x").to_string().as_bytes());
    }
    let answer = harness.post_bytes(&[("X-Status", "303")], call("x").to_string().as_bytes()).await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/moved/mcp?x=1")));
}

#[tokio::test]
async fn redirects_elsewhere_come_back_and_circles_end() {
    let elsewhere = McpBackend::with_tools(1).await;
    let changes = json!({"header_forward": {"add_headers_from_secret": {"X-Api-Key": "KEY1"}}});
    let harness = Harness::start(changes).await;
    let targets = [
        elsewhere.mcp_url(),
        format!("//{}/mcp", elsewhere.address()),
        "https://127.0.0.1/mcp".to_owned(),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "file:///etc/passwd".to_owned(),
        "javascript:alert(1)".to_owned(),
    ];
    for target in targets {
        let location = target.clone();
        harness.backend.set_handler(move |_| Reply::status(307).header("Location", &location));
        let answer = harness.post(&call("x")).await;
        assert_eq!((answer.status, answer.header("location")), (307, Some(target.as_str())));
    }
    assert_eq!(elsewhere.connections(), 0);
    harness.backend.set_handler(|_| Reply::status(308).header("Location", "/mcp"));
    let answer = harness.post(&call("x")).await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("circles"));
}

#[tokio::test]
async fn a_local_server_that_is_not_remote_is_reached_at_its_port() {
    let backend = McpBackend::with_tools(1).await;
    let port = backend.address().port();
    let changes = json!({"remote_url": null, "target_host": "127.0.0.1", "target_port": port});
    let harness = Harness::before(backend, changes).await;
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    assert_eq!(harness.backend.requests()[0].target, "/mcp");
}

//! Hosts, origins, paths and methods.

use serde_json::json;
use skep_testkit::{RawConnection, raw};

use crate::harness::{Harness, call};

#[tokio::test]
async fn only_known_hosts_are_let_in() {
    let harness =
        Harness::start(json!({"skep": {"allowed_hosts": ["gateway.example:8443", "mcp.internal"]}})).await;
    let port = harness.address.port();
    let table = [
        (format!("127.0.0.1:{port}"), 200),
        ("localhost".to_owned(), 200),
        (format!("LocalHost:{port}"), 200),
        ("[::1]:80".to_owned(), 200),
        ("mcp.example".to_owned(), 200),
        ("gateway.example:8443".to_owned(), 200),
        ("mcp.internal:1234".to_owned(), 200),
        ("gateway.example".to_owned(), 403),
        ("gateway.example:443".to_owned(), 403),
        ("evil.example".to_owned(), 403),
        ("localhost.evil.example".to_owned(), 403),
        ("evil.example#localhost".to_owned(), 403),
        ("localhost@evil.example".to_owned(), 403),
        ("127.0.0.1.evil.example".to_owned(), 403),
        ("127.1".to_owned(), 403),
        ("0.0.0.0".to_owned(), 403),
        (String::new(), 403),
        ("localhost:x".to_owned(), 403),
    ];
    let mut passed = 0;
    for (index, (host, expected)) in table.iter().enumerate() {
        let answer =
            harness.send("POST", "/mcp", &[("Host", host)], call("tool-0").to_string().as_bytes()).await;
        assert_eq!(answer.status, *expected, "{host:?}: {}", answer.text());
        if answer.status == 403 {
            let refusal = json!({"jsonrpc": "2.0", "error": {"code": -32600, "message": "Host not allowed"}});
            assert_eq!(answer.json(), refusal, "{host}");
            assert_eq!(harness.audit.last(index + 1).await["outcome"], "denied");
        } else {
            passed += 1;
            harness.audit.last(index + 1).await;
        }
    }
    let two = [("Host", "localhost"), ("Host", "localhost")];
    assert!(matches!(harness.send("POST", "/mcp", &two, b"{}").await.status, 400 | 403));
    assert_eq!(harness.backend.requests().len(), passed);
    // What reaches the backend is its own name.
    let own = harness.backend.address().to_string();
    assert!(harness.backend.requests().iter().all(|request| request.header_all("host") == [own.as_str()]));
}

#[tokio::test]
async fn only_known_origins_are_let_in_and_named_in_cors() {
    let changes = json!({"allowed_origins": ["https://App.example", "http://localhost:6274"]});
    let harness = Harness::start(changes).await;
    let table = [
        ("https://app.example", 200),
        ("HTTPS://APP.EXAMPLE", 200),
        ("https://app.example:443", 200),
        ("http://localhost:6274", 200),
        ("https://mcp.example", 200),
        ("http://app.example", 403),
        ("https://app.example:8443", 403),
        ("https://app.example.evil.example", 403),
        ("http://localhost", 403),
        ("http://127.0.0.1:6274", 403),
        ("null", 403),
        ("https://user@app.example", 403),
        ("", 403),
        ("https://app.example https://evil.example", 403),
    ];
    for (origin, expected) in table {
        let body = call("tool-0").to_string();
        let answer = harness.send("POST", "/mcp", &[("Origin", origin)], body.as_bytes()).await;
        assert_eq!(answer.status, expected, "{origin:?}: {}", answer.text());
        let named = answer.header("access-control-allow-origin");
        if expected == 200 {
            assert_eq!(named, Some(origin));
            assert_eq!(answer.header("vary"), Some("Origin"));
            assert_eq!(
                answer.header("access-control-expose-headers"),
                Some("Mcp-Session-Id, WWW-Authenticate, MCP-Protocol-Version")
            );
        } else {
            assert_eq!(named, None, "{origin}");
            let refusal =
                json!({"jsonrpc": "2.0", "error": {"code": -32600, "message": "Origin not allowed"}});
            assert_eq!(answer.json(), refusal);
        }
        let preflight = raw::request(harness.address, "OPTIONS", "/mcp", &[("Origin", origin)], b"").await;
        assert_eq!(preflight.status, if expected == 200 { 204 } else { 403 }, "{origin}");
        if expected == 200 {
            let allowed = preflight.header("access-control-allow-headers").unwrap();
            assert!(allowed.contains("Authorization") && allowed.contains("Mcp-Session-Id"));
            assert_eq!(preflight.header("access-control-allow-methods"), Some("GET, POST, DELETE, OPTIONS"));
        }
    }
    let two = [("Origin", "https://app.example"), ("Origin", "https://app.example")];
    assert_eq!(harness.send("POST", "/mcp", &two, b"{}").await.status, 403);
    // A page that is let in can read why it was refused.
    let refused =
        raw::request(harness.address, "POST", "/mcp", &[("Origin", "https://app.example")], b"{}").await;
    assert_eq!(
        (refused.status, refused.header("access-control-allow-origin")),
        (401, Some("https://app.example"))
    );
    assert_eq!(harness.backend.requests().len(), 5);
}

#[tokio::test]
async fn on_loopback_the_proxys_own_pages_are_let_in_by_default() {
    let harness = Harness::start(json!({})).await;
    let port = harness.address.port();
    for (origin, expected) in [
        (format!("http://localhost:{port}"), 200),
        (format!("http://127.0.0.1:{port}"), 200),
        ("http://localhost:1".to_owned(), 403),
        ("https://evil.example".to_owned(), 403),
    ] {
        let body = call("tool-0").to_string();
        let answer = harness.send("POST", "/mcp", &[("Origin", &origin)], body.as_bytes()).await;
        assert_eq!(answer.status, expected, "{origin}");
    }
}

#[tokio::test]
async fn health_is_asked_without_name_or_token() {
    let harness = Harness::start(json!({})).await;
    for path in ["/health", "/healthz", "/readyz"] {
        let headers = [("Host", "10.1.2.3:8080"), ("Origin", "https://evil.example")];
        let answer = raw::request(harness.address, "GET", path, &headers, b"").await;
        assert_eq!(answer.status, 200, "{path}");
        let mut connection = RawConnection::open(harness.address).await;
        connection.send(format!("HEAD {path} HTTP/1.1\r\nHost: 10.1.2.3\r\n\r\n").as_bytes()).await;
        assert_eq!(connection.read_head().await.status, 200, "{path}");
        let answer = raw::request(harness.address, "POST", path, &headers, b"{}").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")), "{path}");
    }
    let health = raw::get(harness.address, "/health").await.json();
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["transport"], "streamable-http");
    assert_eq!(health["mcp"]["available"], true);
    let metrics = raw::get(harness.address, "/metrics").await;
    assert_eq!(metrics.status, 404);
    assert!(metrics.text().contains("9464"));
    assert!(harness.audit.records().is_empty(), "probes are not audited");
    harness.readiness.not_ready("keys", "no keys yet");
    let ready = raw::get(harness.address, "/readyz").await;
    assert_eq!(
        (ready.status, ready.json()),
        (503, json!({"ready": false, "reasons": {"keys": "no keys yet"}}))
    );
}

#[tokio::test]
async fn metrics_are_on_the_transport_port_only_where_that_is_asked_for() {
    let telemetry = json!({"enablePrometheusMetricsPath": true, "metricsOnTransportPort": true});
    let harness = Harness::start(json!({"telemetry_config": telemetry})).await;
    harness.post(&call("tool-0")).await;
    let metrics = raw::get(harness.address, "/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.text().contains("toolhive_remote_proxy_requests_total"));
}

#[tokio::test]
async fn methods_that_mcp_does_not_have_end_here() {
    let harness = Harness::start(json!({})).await;
    for method in ["PUT", "PATCH", "TRACE", "HEAD", "PROPFIND", "post", "GET2"] {
        let answer = if method == "HEAD" {
            let mut connection = RawConnection::open(harness.address).await;
            let host = harness.address;
            connection.send(format!("HEAD /mcp HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
            connection.read_head().await
        } else {
            harness.send(method, "/mcp", &[], b"").await
        };
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some("GET, POST, DELETE, OPTIONS")),
            "{method}"
        );
    }
    let mut connection = RawConnection::open(harness.address).await;
    connection.send(b"CONNECT backend.example:443 HTTP/1.1\r\nHost: backend.example:443\r\n\r\n").await;
    assert!(matches!(connection.read_answer().await.status, 403 | 405));
    let mut connection = RawConnection::open(harness.address).await;
    let host = harness.address;
    connection.send(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
    assert_eq!(connection.read_answer().await.status, 405);
    let mut connection = RawConnection::open(harness.address).await;
    connection.send(format!("OPTIONS * HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
    assert_eq!(connection.read_answer().await.status, 404);
    for method in ["GET", "DELETE"] {
        let answer = harness.send(method, "/mcp", &[("MCP-Protocol-Version", "2026-07-28")], b"").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST, OPTIONS")), "{method}");
    }
    assert_eq!(harness.backend.connections(), 0);
    let stateless = Harness::start(json!({"stateless": true})).await;
    for method in ["GET", "DELETE"] {
        let answer = stateless.send(method, "/mcp", &[], b"").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST, OPTIONS")), "{method}");
    }
}

#[tokio::test]
async fn an_upgrade_is_refused() {
    let harness = Harness::start(json!({})).await;
    for upgrade in ["websocket", "h2c", "TLS/1.0"] {
        let headers = [("Connection", "Upgrade"), ("Upgrade", upgrade), ("Sec-WebSocket-Key", "eA==")];
        for method in ["GET", "POST"] {
            let answer = harness.send(method, "/mcp", &headers, call("tool-0").to_string().as_bytes()).await;
            assert_eq!(answer.status, 400, "{method} {upgrade}");
        }
    }
    // HTTP/2 with prior knowledge.
    let mut connection = RawConnection::open(harness.address).await;
    connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let answer = connection.read_to_end().await;
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(harness.backend.connections(), 0);
}

#[tokio::test]
async fn an_absolute_target_must_name_the_same_host() {
    let harness = Harness::start(json!({})).await;
    let own = harness.address.to_string();
    let body = call("tool-0").to_string();
    for (target, host, expected) in [
        (format!("http://{own}/mcp"), own.as_str(), 200),
        (format!("http://{own}/mcp?a=b"), own.as_str(), 200),
        ("http://evil.example/mcp".to_owned(), own.as_str(), 403),
        (format!("http://{own}/mcp"), "localhost", 403),
        ("http://evil.example/mcp".to_owned(), "evil.example", 403),
        (format!("http://x@{own}/mcp"), own.as_str(), 403),
        (format!("http://{own}/admin"), own.as_str(), 404),
    ] {
        let answer = harness.send("POST", &target, &[("Host", host)], body.as_bytes()).await;
        assert_eq!(answer.status, expected, "{target} {host}: {}", answer.text());
    }
    assert_eq!(harness.backend.requests().len(), 2);
    assert!(harness.backend.requests().iter().all(|request| request.path() == "/mcp"));
}

#[tokio::test]
async fn only_the_configured_paths_are_served() {
    let harness = Harness::start(json!({"endpoint_prefix": "/team/a"})).await;
    let body = call("tool-0").to_string();
    for (path, expected) in [
        ("/", 200),
        ("/mcp", 200),
        ("/mcp/", 200),
        ("/tools", 200),
        ("/team/a/mcp", 200),
        ("/team/a", 200),
        ("/mcp//", 404),
        ("//mcp", 404),
        ("/mcp/admin", 404),
        ("/mcp/..", 404),
        ("/./mcp", 404),
        ("/MCP", 404),
        ("/%6dcp", 404),
        ("/mcp%2f", 404),
        ("/mcp;x", 404),
        ("/sse", 404),
        ("/team/b/mcp", 404),
    ] {
        let answer = harness.send("POST", path, &[], body.as_bytes()).await;
        assert_eq!(answer.status, expected, "{path}: {}", answer.text());
        if expected == 404 {
            assert_eq!(answer.json(), json!({"error": "not_found"}));
        }
    }
    // Whatever path clients use, the backend is asked at its own.
    assert!(harness.backend.requests().iter().all(|request| request.target == "/mcp"));
}

#[tokio::test]
async fn behind_a_trusted_hop_the_forwarded_host_counts() {
    let trusting = Harness::start(json!({"trust_proxy_headers": true})).await;
    let body = call("tool-0").to_string();
    for (host, forwarded, expected) in [
        ("localhost", "mcp.example", 200),
        ("localhost", "evil.example", 403),
        ("localhost", "mcp.example, evil.example", 403),
    ] {
        let headers = [("Host", host), ("X-Forwarded-Host", forwarded)];
        let answer = trusting.send("POST", "/mcp", &headers, body.as_bytes()).await;
        assert_eq!(answer.status, expected, "{forwarded}");
    }
    let wary = Harness::start(json!({})).await;
    let headers = [("Host", "evil.example"), ("X-Forwarded-Host", "mcp.example")];
    assert_eq!(wary.send("POST", "/mcp", &headers, body.as_bytes()).await.status, 403);
}

//! Who asked for what, and how it ended: one record each, and nothing secret in any of them.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use skep_testkit::backend::{replies, streams};
use skep_testkit::{Reply, raw};

use crate::harness::{Harness, call, cedar, logs, rpc};

#[tokio::test]
async fn a_record_has_the_whole_story() {
    let mut changes = cedar(&[crate::harness::PERMIT_ALL]);
    changes["audit_config"] =
        json!({"includeRequestData": true, "includeResponseData": true, "component": "gate"});
    let harness = Harness::start(changes).await;
    let token =
        harness.mint(|token| token.claim("name", "Alice Liddell").claim("email", "alice@example.com"));
    let headers = [
        ("Content-Type", "application/json"),
        ("Authorization", &format!("Bearer {token}")),
        ("User-Agent", "client/1.0"),
    ];
    raw::request(harness.address, "POST", "/mcp", &headers, call("tool-1").to_string().as_bytes()).await;
    let mut record = harness.audit.last(1).await;
    for pointer in ["/audit_id", "/source/extra/request_id"] {
        let id = record.pointer_mut(pointer).unwrap();
        assert_eq!(id.as_str().unwrap().len(), 36, "{pointer}");
        *id = json!("[uuid]");
    }
    record["subjects"]["issuer"] = json!("[issuer]");
    insta::assert_json_snapshot!(record);
}

#[tokio::test]
async fn every_request_has_one_record_whatever_becomes_of_it() {
    let harness = Harness::start(cedar(&["permit(principal, action, resource == Tool::\"tool-0\");"])).await;
    let body = call("tool-0").to_string();
    let json = ("Content-Type", "application/json");
    let address = harness.address;
    let mut count = 0;
    let mut expect = async |status: u16, outcome: &str, kind: &str| {
        count += 1;
        let record = harness.audit.last(count).await;
        assert_eq!(record["metadata"]["extra"]["http_status"], status, "{record}");
        assert_eq!((&record["outcome"], &record["type"]), (&json!(outcome), &json!(kind)), "{record}");
        assert_eq!((&record["level"], &record["msg"]), (&json!("AUDIT"), &json!("audit_event")));
    };
    harness.post(&call("tool-0")).await;
    expect(200, "success", "mcp_tool_call").await;
    harness.post(&call("tool-1")).await;
    expect(403, "denied", "mcp_tool_call").await;
    raw::request(address, "POST", "/mcp", &[json], body.as_bytes()).await;
    expect(401, "denied", "http_request").await;
    harness.post_bytes(&[("Host", "evil.example")], body.as_bytes()).await;
    expect(403, "denied", "http_request").await;
    harness.post_bytes(&[("Origin", "https://evil.example")], body.as_bytes()).await;
    expect(403, "denied", "http_request").await;
    harness.post_bytes(&[("Content-Length", "99999999")], b"").await;
    expect(413, "failure", "http_request").await;
    harness.post_bytes(&[("Content-Type", "text/plain")], body.as_bytes()).await;
    expect(415, "failure", "http_request").await;
    harness.post_bytes(&[], b"{").await;
    expect(400, "failure", "http_request").await;
    harness.send("POST", "/elsewhere", &[], body.as_bytes()).await;
    expect(404, "failure", "http_request").await;
    harness.send("PUT", "/mcp", &[], body.as_bytes()).await;
    expect(405, "failure", "http_request").await;
    raw::get(address, "/.well-known/oauth-protected-resource").await;
    expect(200, "success", "sse_connection").await;
    harness.send("GET", "/mcp", &[], b"").await;
    expect(405, "failure", "sse_connection").await;
    harness.backend.set_handler(|_| Reply::body(500, "text/plain", "x"));
    harness.post(&call("tool-0")).await;
    expect(500, "error", "mcp_tool_call").await;
    harness.backend.down().await;
    harness.post(&call("tool-0")).await;
    expect(503, "error", "mcp_tool_call").await;
    // A probe of the health routes leaves none.
    raw::get(address, "/healthz").await;
    harness.post(&call("tool-1")).await;
    expect(403, "denied", "mcp_tool_call").await;
}

#[tokio::test]
async fn each_method_has_its_event_type_and_target() {
    let harness = Harness::start(json!({})).await;
    let table = [
        (
            "initialize",
            json!({"clientInfo": {"name": "inspector", "version": "2"}}),
            "mcp_initialize",
            Value::Null,
        ),
        ("tools/list", json!({}), "mcp_tools_list", Value::Null),
        ("tools/call", json!({"name": "t"}), "mcp_tool_call", json!(["t", "tool"])),
        ("resources/list", json!({}), "mcp_resources_list", Value::Null),
        ("resources/read", json!({"uri": "x:y"}), "mcp_resource_read", json!(["x:y", "resource"])),
        ("prompts/list", json!({}), "mcp_prompts_list", Value::Null),
        ("prompts/get", json!({"name": "p"}), "mcp_prompt_get", json!(["p", "prompt"])),
        ("ping", json!({}), "mcp_ping", Value::Null),
        ("logging/setLevel", json!({"level": "info"}), "mcp_logging", Value::Null),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "p"}}),
            "mcp_completion",
            json!(["p", "prompt"]),
        ),
        ("notifications/cancelled", json!({}), "mcp_notification", Value::Null),
        ("notifications/roots/list_changed", json!({}), "mcp_roots_list_changed", Value::Null),
        ("vendor/thing", json!({}), "mcp_request", Value::Null),
    ];
    for (index, (method, params, kind, target)) in table.iter().enumerate() {
        let mut message = rpc(1, method, params.clone());
        if method.starts_with("notifications/") {
            message.as_object_mut().unwrap().remove("id");
        }
        harness.post(&message).await;
        let record = harness.audit.last(index + 1).await;
        assert_eq!(record["type"], *kind);
        assert_eq!(record["target"]["method"], *method);
        let named = if target.is_null() { json!([null, "endpoint"]) } else { target.clone() };
        assert_eq!(json!([record["target"]["name"], record["target"]["type"]]), named, "{method}");
        if *method == "initialize" {
            assert_eq!(record["subjects"]["client_name"], "inspector");
            assert_eq!(record["subjects"]["client_version"], "2");
        }
    }
}

#[tokio::test]
async fn an_error_inside_a_200_is_found_wherever_it_stands() {
    let harness = Harness::start(json!({})).await;
    let error = json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32050, "message": "no such thing"}});
    let large = format!(
        "{{\"jsonrpc\":\"2.0\",\"pad\":\"{}\",\"id\":1,\"error\":{{\"code\":-32050,\"message\":\"no such thing\"}}}}",
        "x".repeat(1 << 20)
    );
    let progress = streams::event(
        &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}}),
    );
    let replies: Vec<Reply> = vec![
        Reply::json(&error),
        Reply::body(200, "application/json", large.clone()),
        Reply::sse([progress.clone(), streams::event(&error)]),
        Reply::sse_cut(format!("data: {large}\n\n").as_bytes(), 1500),
        Reply::sse_cut(format!("{progress}data: {error}").as_bytes(), 3),
    ];
    for (index, reply) in replies.into_iter().enumerate() {
        harness.backend.set_handler(move |_| reply.clone());
        let answer = harness.post(&call("x")).await;
        let record = harness.audit.last(index + 1).await;
        assert_eq!(record["outcome"], "application_error", "{index}");
        let extra = &record["metadata"]["extra"];
        assert_eq!(extra["jsonrpc_error_code"], -32050, "{index}");
        assert_eq!(extra["jsonrpc_error_message"], "no such thing", "{index}");
        assert_eq!(extra["response_size_bytes"], answer.body.len(), "{index}");
    }
    let fine = [
        json!({"jsonrpc": "2.0", "id": 1, "result": {"error": {"code": 1, "message": "x"}}}),
        json!({"jsonrpc": "2.0", "id": 1, "result": {"isError": true, "content": [{"text": "\"error\":{"}]}}),
    ];
    for (index, message) in fine.into_iter().enumerate() {
        harness.backend.set_handler(move |_| Reply::json(&message));
        harness.post(&call("x")).await;
        assert_eq!(harness.audit.last(6 + index).await["outcome"], "success");
    }
    let blind = Harness::start(json!({"audit_config": {"detectApplicationErrors": false}})).await;
    blind.backend.set_handler(move |_| Reply::json(&error));
    blind.post(&call("x")).await;
    assert_eq!(blind.audit.last(1).await["outcome"], "success");
}

#[tokio::test]
async fn the_source_comes_from_a_header_only_behind_a_trusted_hop() {
    let wary = Harness::start(json!({})).await;
    let trusting = Harness::start(json!({"trust_proxy_headers": true})).await;
    let table: &[(&[&str], &str)] = &[
        (&[], "127.0.0.1"),
        (&["203.0.113.7"], "203.0.113.7"),
        (&["6.6.6.6, 203.0.113.7"], "203.0.113.7"),
        (&["6.6.6.6", "203.0.113.8"], "203.0.113.8"),
        (&["2001:db8::1"], "2001:db8::1"),
        (&["6.6.6.6, 203.0.113.7:4711"], "203.0.113.7"),
        (&["[2001:db8::1]:4711"], "2001:db8::1"),
        (&["6.6.6.6,"], "127.0.0.1"),
        (&["not-an-address"], "127.0.0.1"),
        (&["6.6.6.6, unknown"], "127.0.0.1"),
    ];
    for (index, (values, expected)) in table.iter().enumerate() {
        let headers: Vec<_> = values.iter().map(|value| ("X-Forwarded-For", *value)).collect();
        let body = call("x").to_string();
        trusting.post_bytes(&headers, body.as_bytes()).await;
        assert_eq!(trusting.audit.last(index + 1).await["source"]["value"], *expected, "{values:?}");
        assert_eq!(trusting.backend.requests()[index].header("x-forwarded-for"), Some(*expected));
        wary.post_bytes(&headers, body.as_bytes()).await;
        assert_eq!(wary.audit.last(index + 1).await["source"]["value"], "127.0.0.1", "{values:?}");
    }
}

#[tokio::test]
async fn bodies_are_kept_only_when_asked_for_and_only_their_beginning() {
    let silent = Harness::start(json!({})).await;
    silent.post(&call("tool-0")).await;
    assert_eq!(silent.audit.last(1).await.get("data"), None);
    let limits = json!({"includeRequestData": true, "includeResponseData": true, "maxDataSize": 40});
    let harness = Harness::start(json!({"audit_config": limits})).await;
    let long = rpc(1, "tools/call", json!({"name": "tool-0", "arguments": {"text": "ä".repeat(500)}}));
    let answer = harness.post(&long).await;
    let data = harness.audit.last(1).await["data"].clone();
    assert_eq!(data["request"], long.to_string().chars().take(40).collect::<String>());
    assert_eq!(data["response"], String::from_utf8_lossy(&answer.body[..40]).into_owned());
    harness.backend.set_handler(|request| replies::progress(request, 100, 13));
    harness.post(&call("tool-0")).await;
    let data = harness.audit.last(2).await["data"].clone();
    assert!(data["response"].as_str().unwrap().len() <= 40, "{data}");
}

#[tokio::test]
async fn what_clients_write_is_escaped_and_cut() {
    let harness = Harness::start(json!({})).await;
    let evil = format!("x\n{{\"msg\":\"audit_event\"}}\u{1b}[2J{}", "y".repeat(5000));
    harness.post(&call(&evil)).await;
    harness.post(&rpc(1, &evil, json!({}))).await;
    harness.post(&rpc(1, "initialize", json!({"clientInfo": {"name": evil, "version": evil}}))).await;
    let path = format!("/{}", "z".repeat(5000));
    harness.send("POST", &path, &[("User-Agent", &"u".repeat(5000))], b"{}").await;
    harness.audit.wait(4).await;
    let text = harness.audit.text();
    assert_eq!(text.lines().count(), 4);
    assert!(text.lines().all(|line| line.len() < 2600), "{text}");
    assert!(!text.contains('\u{1b}'));
}

#[tokio::test]
async fn events_can_be_selected_and_audit_can_be_off() {
    let only = Harness::start(json!({"audit_config": {"eventTypes": ["mcp_tool_call"]}})).await;
    only.post(&rpc(1, "ping", json!({}))).await;
    only.post(&call("tool-0")).await;
    assert_eq!(only.audit.last(1).await["type"], "mcp_tool_call");
    let without = Harness::start(json!({"audit_config": {"excludeEventTypes": ["mcp_ping"]}})).await;
    without.post(&rpc(1, "ping", json!({}))).await;
    without.post(&call("tool-0")).await;
    assert_eq!(without.audit.last(1).await["type"], "mcp_tool_call");
    for off in [json!({"audit_config": null}), json!({"audit_config": {"enabled": false}})] {
        let harness = Harness::start(off).await;
        assert_eq!(harness.post(&call("tool-0")).await.status, 200);
        drop(harness.proxy.clone());
        assert!(harness.audit.records().is_empty());
    }
}

#[tokio::test]
async fn a_file_of_records_is_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let harness = Harness::start(json!({"audit_config": {"logFile": path}})).await;
    harness.post(&call("tool-0")).await;
    crate::harness::until("the record", || {
        std::fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n'))
    })
    .await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(harness.audit.records().is_empty());
}

#[tokio::test]
async fn no_token_or_secret_is_in_any_record_log_metric_status_or_answer() {
    let mut changes = cedar(&["permit(principal, action, resource == Tool::\"tool-0\");"]);
    changes["audit_config"] =
        json!({"includeRequestData": true, "includeResponseData": true, "maxDataSize": 100_000});
    changes["header_forward"] = json!({"add_headers_from_secret": {"X-Api-Key": "KEY1"}});
    let harness = Harness::start(changes).await;
    let marker = format!("s{}", uuid::Uuid::from_u128(0x1234_5678_9abc_def0_1122_3344_5566_7788).simple());
    let tokens = [
        harness.mint(|token| token.claim("marker", marker.as_str())),
        harness.mint(|token| token.claim("marker", marker.as_str()).expired()),
        harness.mint(|token| token.claim("marker", marker.as_str()).unsigned()),
        harness.mint(|token| token.claim("marker", marker.as_str()).without_claim("sub")),
        format!("{marker}.{marker}.{marker}"),
        marker.clone(),
    ];
    let mut answers = Vec::new();
    for token in &tokens {
        for tool in ["tool-0", "tool-1"] {
            answers.push(raw::post_rpc(harness.address, "/mcp", Some(token), &call(tool)).await);
        }
    }
    let broken = format!("Bearer {marker} {marker}");
    answers.push(raw::request(harness.address, "POST", "/mcp", &[("Authorization", &broken)], b"").await);
    harness.backend.set_handler(|_| Reply::reset());
    answers.push(harness.post(&call("tool-0")).await);
    harness.audit.wait(tokens.len() * 2 + 2).await;
    let answers: String =
        answers.iter().map(|answer| format!("{:?} {}\n", answer.headers, answer.text())).collect();
    let places = [
        ("audit", harness.audit.text()),
        ("logs", logs()),
        ("metrics", harness.metrics_text()),
        ("status", harness.proxy.status().to_string()),
        ("debug", format!("{:?}", harness.proxy)),
        ("answers", answers),
    ];
    for (place, text) in places {
        assert!(!text.contains("s3cret-of-the-backend"), "the backend's key is in the {place}");
        assert!(!text.contains(&marker), "a token is in the {place}");
        for token in &tokens {
            for part in token.split('.').filter(|part| part.len() > 20) {
                assert!(!text.contains(part), "a part of a token is in the {place}");
            }
        }
    }
    assert!(logs().contains("a call was denied"), "the logs are captured at all");
}

#[tokio::test]
async fn records_that_cannot_be_written_are_counted() {
    let harness = Harness::start(json!({})).await;
    harness.audit.fill();
    let failures = || harness.metric("skep_audit_write_failures_total{proxy=\"demo\"}");
    for _ in 0..500 {
        assert_eq!(harness.post(&call("tool-0")).await.status, 200);
        if failures() > 0.0 {
            return;
        }
    }
    panic!("no failure was counted: {}", harness.metrics_text());
}

#[tokio::test]
async fn who_acts_for_the_caller_is_written_down_up_to_a_depth() {
    let harness = Harness::start(json!({"audit_config": {"maxDelegationDepth": 2}})).await;
    let post = async |act: Value| {
        let token = harness.mint(|token| token.claim("act", act));
        raw::post_rpc(harness.address, "/mcp", Some(&token), &call("tool-0")).await
    };
    assert_eq!(harness.post(&call("tool-0")).await.status, 200);
    let deep = json!({"sub": "a", "iss": "https://one", "act": {"sub": "b", "act": {"sub": "c"}}});
    for act in [json!({"sub": "agent"}), deep, json!({"sub": "a", "act": {"client": 1}}), json!("agent")] {
        assert_eq!(post(act).await.status, 200);
    }
    let records = harness.audit.wait(5).await;
    let delegations: Vec<&Value> = records.iter().map(|record| &record["delegation"]).collect();
    assert_eq!(*delegations[0], Value::Null);
    assert_eq!(*delegations[1], json!({"chain": [{"sub": "agent"}]}));
    assert_eq!(
        *delegations[2],
        json!({"chain": [{"iss": "https://one", "sub": "a"}, {"sub": "b"}], "truncated": true, "omitted": 1})
    );
    let malformed =
        |chain: Value, reason: &str| json!({"chain": chain, "malformed": true, "malformedReason": reason});
    assert_eq!(*delegations[3], malformed(json!([{"sub": "a"}]), "an actor has no sub"));
    assert_eq!(*delegations[4], malformed(json!([]), "act is not an object"));
}

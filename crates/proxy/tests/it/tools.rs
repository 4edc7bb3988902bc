//! Hidden and renamed tools.

use serde_json::{Value, json};
use skep_testkit::backend::{replies, streams};
use skep_testkit::{McpBackend, Reply};

use crate::harness::{Harness, call, names, rpc};

fn renamed() -> Value {
    json!({
        "tools_filter": ["shout", "tool-1"],
        "tools_override": {"tool-0": {"name": "shout", "description": "Says it \"loud\""}},
    })
}

#[tokio::test]
async fn a_renamed_tool_is_called_under_its_new_name_only() {
    let harness = Harness::start(renamed()).await;
    assert_eq!(harness.post(&call("shout")).await.status, 200);
    assert_eq!(harness.post(&call("tool-1")).await.status, 200);
    let seen = harness.backend.requests();
    assert_eq!(seen[0].json()["params"]["name"], "tool-0");
    assert_eq!(seen[1].json()["params"]["name"], "tool-1");
    for hidden in ["tool-0", "tool-2", "Shout", "shout ", "", "nowhere"] {
        let answer = harness.post(&call(hidden)).await;
        assert_eq!(answer.status, 200, "{hidden}");
        let expected =
            json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "tool not found"}});
        assert_eq!(answer.json(), expected, "{hidden}");
    }
    assert_eq!(harness.backend.requests().len(), 2);
    let record = harness.audit.last(8).await;
    assert_eq!(record["outcome"], "denied");
    assert_eq!(record["metadata"]["extra"]["jsonrpc_error_code"], -32602);
}

#[tokio::test]
async fn a_client_that_takes_no_json_gets_400_for_a_hidden_tool() {
    let harness = Harness::start(renamed()).await;
    for (accept, expected) in [
        ("application/json, text/event-stream", 200),
        ("*/*", 200),
        ("application/*;q=0.5", 200),
        ("text/event-stream", 400),
        ("text/html", 400),
    ] {
        let answer = harness.post_bytes(&[("Accept", accept)], call("tool-2").to_string().as_bytes()).await;
        assert_eq!(answer.status, expected, "{accept}");
        assert_eq!(answer.body.is_empty(), expected == 400, "{accept}");
    }
    assert_eq!(harness.backend.connections(), 0);
}

#[tokio::test]
async fn a_hidden_tool_cannot_be_called_by_a_notification_or_in_another_spelling() {
    let harness = Harness::start(renamed()).await;
    let tricks = [
        json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "tool-2"}}),
        json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "tool-0"}}),
        json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": ["tool-2"]}}),
    ];
    for trick in tricks {
        let answer = harness.post(&trick).await;
        assert!(answer.status == 200 || answer.status >= 400, "{trick}: {}", answer.status);
    }
    let escaped = r#"{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"name":"tool\u002d2"}}"#;
    let answer = harness.post_bytes(&[], escaped.as_bytes()).await;
    assert_eq!(answer.json()["error"]["code"], -32602);
    let seen: Vec<_> = harness.backend.requests().iter().map(|request| request.json()).collect();
    assert!(seen.is_empty(), "reached the backend: {seen:?}");
}

#[tokio::test]
async fn only_the_name_changes_on_the_way_to_the_backend() {
    let harness = Harness::start(renamed()).await;
    let body = |name: &str| {
        format!(
            "{{\"jsonrpc\" : \"2.0\",\n\"id\":12345678901234567890,\"method\":\"tools/call\",\"params\":{{\"arguments\":\
             {{\"big\":12345678901234567890,\"exact\":0.10000000000000000001,\"name\":\"shout\",\"u\":\"\\u00e4\"}} ,\
             \"name\" :  {name} ,\"_meta\":{{\"progressToken\":1.0}}}}}}"
        )
    };
    for spelled in ["\"shout\"", "\"\\u0073hout\""] {
        let headers = [("Mcp-Method", "tools/call"), ("Mcp-Name", "shout"), ("Mcp-Param-Region", "eu")];
        let answer = harness.post_bytes(&headers, body(spelled).as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    for seen in harness.backend.requests() {
        assert_eq!(String::from_utf8_lossy(&seen.body), body("\"tool-0\""));
        assert_eq!(seen.header_all("mcp-name"), ["tool-0"]);
        assert_eq!(seen.header("mcp-param-region"), Some("eu"));
        assert_eq!(seen.header("content-length"), Some(body("\"tool-0\"").len().to_string().as_str()));
    }
}

#[tokio::test]
async fn a_name_that_no_header_can_hold_is_wrapped() {
    let changes = json!({"tools_override": {"größe \u{1f980}": {"name": "size"}}});
    let harness =
        Harness::scripted(changes, |request| replies::rpc_result(request, &json!({"content": []}))).await;
    let answer = harness.post_bytes(&[("Mcp-Name", "size")], call("size").to_string().as_bytes()).await;
    assert_eq!(answer.status, 200);
    let seen = &harness.backend.requests()[0];
    assert_eq!(seen.json()["params"]["name"], "größe \u{1f980}");
    assert!(seen.header("mcp-name").unwrap().starts_with("=?base64?"), "{:?}", seen.header("mcp-name"));
}

#[tokio::test]
async fn a_list_shows_the_tools_as_they_are_configured() {
    for sse in [false, true] {
        let backend = McpBackend::start(move |request| {
            let tools = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"tool-0","description":"old","x":1.50},{"name":"tool-1","n":12345678901234567890},{"name":"tool-2"},{"name":"shout"}],"nextCursor":"opaque==","_meta":{"k":1e3}}}"#;
            assert_eq!(request.rpc_method(), "tools/list");
            if sse {
                Reply::sse([format!("id: 4\nevent: message\ndata: {tools}\n\n")])
            } else {
                Reply::body(200, "application/json", tools)
            }
        })
        .await;
        let harness = Harness::before(backend, renamed()).await;
        let answer = harness.post(&rpc(1, "tools/list", json!({"cursor": "abc"}))).await;
        let filtered = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"shout","description":"Says it \"loud\"","x":1.50},{"name":"tool-1","n":12345678901234567890}],"nextCursor":"opaque==","_meta":{"k":1e3}}}"#;
        let expected =
            if sse { format!("id: 4\nevent: message\ndata: {filtered}\n\n") } else { filtered.to_owned() };
        assert_eq!((answer.status, answer.text()), (200, expected));
    }
}

#[tokio::test]
async fn a_second_list_in_one_answer_is_filtered_too() {
    let backend = McpBackend::start(|request| {
        let list = json!({"tools": [{"name": "tool-1"}, {"name": "tool-2"}]});
        match request.rpc_method().as_str() {
            "tools/list" => replies::two_results(request, &list, &list),
            _ => Reply::sse([streams::event(&json!({"jsonrpc": "2.0", "id": 99, "result": list}))]),
        }
    })
    .await;
    let harness = Harness::before(backend, renamed()).await;
    let answer = harness.post(&rpc(1, "tools/list", json!({}))).await;
    assert_eq!(answer.text().matches("tool-1").count(), 2, "{}", answer.text());
    assert!(!answer.text().contains("tool-2"), "{}", answer.text());
    let answer = harness.post(&call("shout")).await;
    assert!(answer.text().contains("tool-1") && !answer.text().contains("tool-2"), "{}", answer.text());
    let answer = harness.send("GET", "/mcp", &[("Last-Event-ID", "3")], b"").await;
    assert!(answer.text().contains("tool-1") && !answer.text().contains("tool-2"), "{}", answer.text());
}

#[tokio::test]
async fn without_rules_for_tools_prompts_and_resources_stay_as_they_are() {
    let harness = Harness::start(renamed()).await;
    let prompts = harness.post(&rpc(1, "prompts/list", json!({}))).await.json();
    assert_eq!(names(&prompts, "prompts", "name"), ["greet", "part"]);
    let tools = harness.post(&rpc(1, "tools/list", json!({}))).await.json();
    assert_eq!(names(&tools, "tools", "name"), ["shout", "tool-1"]);
}

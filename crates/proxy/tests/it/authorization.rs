//! What policies allow.

use serde_json::{Value, json};
use skep_testkit::backend::{replies, well_behaved};
use skep_testkit::raw;

use crate::harness::{Harness, PERMIT_ALL, call, cedar, names, rpc};

pub(crate) const POLICIES: [&str; 6] = [
    r#"permit(principal == Client::"alice", action == Action::"call_tool", resource == Tool::"tool-0");"#,
    r#"permit(principal in THVGroup::"ops", action == Action::"call_tool", resource);"#,
    r#"forbid(principal, action, resource == Tool::"tool-2") unless { principal has claim_level && principal.claim_level > 3 };"#,
    r#"permit(principal, action == Action::"get_prompt", resource == Prompt::"greet");"#,
    r#"permit(principal, action == Action::"read_resource", resource == Resource::"test://one");"#,
    r#"permit(principal == Client::"alice", action == Action::"call_tool", resource == Tool::"add") when { context.arg_a < 10 && context has arg_b };"#,
];

#[tokio::test]
async fn policies_decide_who_may_do_what_and_what_is_denied_never_reaches_the_backend() {
    let harness = Harness::start(cedar(&POLICIES)).await;
    let alice = json!({});
    let ops = json!({"sub": "olga", "groups": ["ops"]});
    let chief = json!({"sub": "carl", "groups": ["ops"], "level": 4});
    let bob = json!({"sub": "bob"});
    let tool = |name: &str| call(name);
    let add = |arguments: Value| rpc(1, "tools/call", json!({"name": "add", "arguments": arguments}));
    let read = |method: &str, uri: &str| rpc(1, method, json!({"uri": uri}));
    let complete = |reference: Value| {
        rpc(1, "completion/complete", json!({"ref": reference, "argument": {"name": "x", "value": "y"}}))
    };
    let listen = |uris: Value| {
        rpc(1, "subscriptions/listen", json!({"notifications": {"resourceSubscriptions": uris}}))
    };
    let notification = |method: &str| json!({"jsonrpc": "2.0", "method": method, "params": {}});
    let table: Vec<(&str, &Value, Value, bool)> = vec![
        ("alice, her tool", &alice, tool("tool-0"), true),
        ("alice, another tool", &alice, tool("tool-1"), false),
        ("alice, her tool in capitals", &alice, tool("TOOL-0"), false),
        ("alice, her tool with a space", &alice, tool("tool-0 "), false),
        ("bob, alice's tool", &bob, tool("tool-0"), false),
        ("a group", &ops, tool("tool-1"), true),
        ("forbid wins", &ops, tool("tool-2"), false),
        ("unless", &chief, tool("tool-2"), true),
        ("arguments", &alice, add(json!({"a": 9, "b": 1})), true),
        ("arguments out of bounds", &alice, add(json!({"a": 10, "b": 1})), false),
        ("an argument is missing", &alice, add(json!({"a": 1})), false),
        (
            "an argument of another type is an error, which denies",
            &alice,
            add(json!({"a": "1", "b": 1})),
            false,
        ),
        ("a prompt", &bob, rpc(1, "prompts/get", json!({"name": "greet"})), true),
        ("another prompt", &alice, rpc(1, "prompts/get", json!({"name": "part"})), false),
        ("a resource", &bob, read("resources/read", "test://one"), true),
        ("another resource", &bob, read("resources/read", "test://two"), false),
        ("a resource in another spelling", &bob, read("resources/read", "test://one/"), false),
        ("subscribe", &bob, read("resources/subscribe", "test://one"), true),
        ("subscribe to another", &bob, read("resources/subscribe", "test://two"), false),
        ("unsubscribe from another", &bob, read("resources/unsubscribe", "test://two"), false),
        ("complete a prompt", &bob, complete(json!({"type": "ref/prompt", "name": "greet"})), true),
        ("complete another prompt", &bob, complete(json!({"type": "ref/prompt", "name": "part"})), false),
        ("complete a resource", &bob, complete(json!({"type": "ref/resource", "uri": "test://one"})), true),
        (
            "complete another resource",
            &bob,
            complete(json!({"type": "ref/resource", "uri": "test://item/{id}"})),
            false,
        ),
        ("listen to nothing", &bob, listen(json!([])), true),
        ("listen to a resource", &bob, listen(json!(["test://one"])), true),
        ("listen to one too many", &bob, listen(json!(["test://one", "test://two"])), false),
        (
            "initialize",
            &bob,
            rpc(
                1,
                "initialize",
                json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}),
            ),
            true,
        ),
        ("ping", &bob, rpc(1, "ping", json!({})), true),
        ("discover", &bob, rpc(1, "server/discover", json!({})), true),
        ("set the log level", &bob, rpc(1, "logging/setLevel", json!({"level": "debug"})), true),
        ("a list", &bob, rpc(1, "tools/list", json!({})), true),
        ("a notification", &bob, notification("notifications/initialized"), true),
        ("an answer", &bob, json!({"jsonrpc": "2.0", "id": 9, "result": {}}), true),
        ("an unknown method", &chief, rpc(1, "vendor/thing", json!({})), false),
        ("tasks", &chief, rpc(1, "tasks/get", json!({"taskId": "1"})), false),
        ("tasks, list", &chief, rpc(1, "tasks/list", json!({})), false),
        (
            "sampling, which is the server's to ask",
            &chief,
            rpc(1, "sampling/createMessage", json!({})),
            false,
        ),
        ("a method in another spelling", &chief, rpc(1, "Tools/Call", json!({"name": "tool-0"})), false),
        ("a method with a space", &chief, rpc(1, "tools/call ", json!({"name": "tool-0"})), false),
        (
            "a call without an id",
            &alice,
            json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "tool-0"}}),
            false,
        ),
        ("an unknown notification", &chief, notification("vendor/notify"), false),
        ("the empty method", &chief, rpc(1, "", json!({})), false),
    ];
    let mut reached = 0;
    for (index, (what, claims, message, allowed)) in table.iter().enumerate() {
        let token = harness.mint(|mut spec| {
            for (name, value) in claims.as_object().unwrap() {
                spec = spec.claim(name, value.clone());
            }
            spec
        });
        let answer = skep_testkit::raw::post_rpc(harness.address, "/mcp", Some(&token), message).await;
        let record = harness.audit.last(index + 1).await;
        if *allowed {
            reached += 1;
            assert!(answer.status < 300, "{what}: {} {}", answer.status, answer.text());
            assert_ne!(record["outcome"], "denied", "{what}");
        } else {
            assert_eq!(answer.status, 403, "{what}: {}", answer.text());
            let mut expected = json!({"jsonrpc": "2.0", "error": {"code": 403, "message": "Unauthorized"}});
            if message.get("id").is_some() {
                expected["id"] = message["id"].clone();
            }
            assert_eq!(answer.json(), expected, "{what}");
            assert_eq!(record["outcome"], "denied", "{what}");
        }
        assert_eq!(harness.backend.requests().len(), reached, "{what}");
    }
}

#[tokio::test]
async fn the_audit_record_names_the_policy_that_decided() {
    let harness = Harness::start(cedar(&POLICIES)).await;
    harness.post(&call("tool-0")).await;
    harness.post(&call("tool-2")).await;
    let records = harness.audit.wait(2).await;
    assert_eq!(records[0]["metadata"]["extra"]["policies"], json!(["policy0"]));
    assert_eq!(records[1]["metadata"]["extra"]["policies"], json!(["policy2"]));
}

#[tokio::test]
async fn annotations_are_learned_from_lists_and_unknown_is_not_harmless() {
    let harmless = [
        r#"permit(principal, action == Action::"call_tool", resource) when { resource has readOnlyHint && resource.readOnlyHint };"#,
        r#"forbid(principal, action == Action::"call_tool", resource) when { resource has destructiveHint && resource.destructiveHint };"#,
    ];
    let not_harmful = [PERMIT_ALL, harmless[1]];
    for policies in [harmless, not_harmful] {
        let harness = Harness::start(cedar(&policies)).await;
        for tool in ["tool-0", "tool-2", "never-listed"] {
            assert_eq!(harness.post(&call(tool)).await.status, 403, "{tool} before the list");
        }
        // tool-2 says that it destroys things, so it is not even shown.
        let shown = harness.post(&rpc(1, "tools/list", json!({}))).await.json();
        assert_eq!(names(&shown, "tools", "name"), ["tool-0", "tool-1"]);
        assert_eq!(harness.post(&call("tool-0")).await.status, 200);
        assert_eq!(harness.post(&call("tool-2")).await.status, 403);
        assert_eq!(harness.post(&call("never-listed")).await.status, 403);
        let seen = harness.backend.requests();
        let called = seen.iter().filter(|request| request.rpc_method() == "tools/call");
        assert!(called.map(|request| request.json()["params"]["name"].clone()).all(|name| name == "tool-0"));
    }
}

#[tokio::test]
async fn annotations_of_the_configuration_win_over_the_backends() {
    let mut changes = cedar(&[
        r#"permit(principal, action == Action::"call_tool", resource) when { resource.readOnlyHint };"#,
    ]);
    changes["tools_override"] = json!({
        "tool-2": {"annotations": {"readOnlyHint": true}}, "tool-0": {"annotations": {"readOnlyHint": false}},
    });
    let harness = Harness::start(changes).await;
    let shown = harness.post(&rpc(1, "tools/list", json!({}))).await.json();
    assert_eq!(names(&shown, "tools", "name"), ["tool-1", "tool-2"]);
    assert_eq!(harness.post(&call("tool-2")).await.status, 200);
    assert_eq!(harness.post(&call("tool-0")).await.status, 403);
}

#[tokio::test]
async fn policies_see_the_backends_name_of_a_renamed_tool() {
    let mut changes =
        cedar(&[r#"permit(principal, action == Action::"call_tool", resource == Tool::"tool-1");"#]);
    changes["tools_override"] = json!({"tool-1": {"name": "tool-2"}, "tool-2": {"name": "tool-1"}});
    let harness = Harness::start(changes).await;
    assert_eq!(harness.post(&call("tool-2")).await.status, 200);
    assert_eq!(harness.post(&call("tool-1")).await.status, 403);
    assert_eq!(harness.backend.requests()[0].json()["params"]["name"], "tool-1");
    let shown = harness.post(&rpc(1, "tools/list", json!({}))).await.json();
    assert_eq!(names(&shown, "tools", "name"), ["tool-2"]);
}

#[tokio::test]
async fn a_verdict_is_for_one_token_and_one_description_of_the_tool() {
    let harness = Harness::start(cedar(&[
        r#"permit(principal in THVGroup::"ops", action == Action::"call_tool", resource) when { resource.readOnlyHint };"#,
    ]))
    .await;
    let with = harness.mint(|token| token.claim("groups", json!(["ops"])));
    let without = harness.mint(|token| token.claim("jti", "another"));
    let as_of = async |token: &str| {
        skep_testkit::raw::post_rpc(harness.address, "/mcp", Some(token), &call("tool-0")).await.status
    };
    harness.post(&rpc(1, "tools/list", json!({}))).await;
    for _ in 0..3 {
        assert_eq!((as_of(&with).await, as_of(&without).await), (200, 403));
    }
    harness.backend.set_handler(|request| match request.rpc_method().as_str() {
        "tools/list" => replies::rpc_result(request, &json!({"tools": [{"name": "tool-0"}]})),
        _ => well_behaved(request, 3),
    });
    assert_eq!(as_of(&with).await, 200, "the new description is not known yet");
    harness.post(&rpc(1, "tools/list", json!({}))).await;
    assert_eq!(as_of(&with).await, 403);
}

#[tokio::test]
async fn a_verdict_for_one_argument_is_not_one_for_another() {
    let harness = Harness::start(cedar(&[
        "permit(principal, action, resource) when { context[\"\\u{61}rg_a\"] == 1 };",
    ]))
    .await;
    for (argument, expected) in [(1, 200), (2, 403), (1, 200), (2, 403)] {
        let message = rpc(1, "tools/call", json!({"name": "tool-0", "arguments": {"a": argument}}));
        assert_eq!(harness.post(&message).await.status, expected);
    }
}

#[tokio::test]
async fn a_policy_can_say_which_scope_is_missing() {
    let harness = Harness::start(cedar(&[
        "@scope(\"mcp:write\") permit(principal, action, resource == Tool::\"tool-0\")
            when { context has claim_scope && context.claim_scope like \"*mcp:write*\" };",
        "@scope(\"mcp:write\") permit(principal, action, resource == Tool::\"tool-1\")
            when { principal == Client::\"bob\" && context.claim_scope like \"*mcp:write*\" };",
    ]))
    .await;
    let answer = harness.post(&call("tool-0")).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_i64()), (403, Some(403)));
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.contains("error=\"insufficient_scope\"") && challenge.contains("scope=\"mcp:write\""));
    assert!(challenge.contains("resource_metadata="), "{challenge}");
    // A new login does not help alice with what is bob's, nor anybody with what no policy names.
    for tool in ["tool-1", "tool-2"] {
        let answer = harness.post(&call(tool)).await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (403, None), "{tool}");
    }
    for claim in ["scope", "scp"] {
        let token = harness.mint(|token| token.claim(claim, json!("mcp:read mcp:write")));
        let answer = raw::post_rpc(harness.address, "/mcp", Some(&token), &call("tool-0")).await;
        assert_eq!(answer.status, if claim == "scope" { 200 } else { 403 }, "{claim}: {}", answer.text());
    }
}

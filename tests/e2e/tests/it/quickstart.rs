//! The built-in demo, as README shows it.

use std::fs;

use serde_json::{Value, json};

use crate::documents::shell_blocks;
use crate::harness::exchanging::claims;
use crate::harness::http::{call_tool, get, rpc};
use crate::harness::up::Up;
use crate::harness::{eventually, repository, skep};

#[tokio::test]
async fn the_demo_lets_alice_in_stops_bob_and_challenges_strangers() {
    let up = Up::demo().await;
    let url = up.url("MCPRemoteProxy", "demo");
    let (alice, bob) = (up.token("alice").await, up.token("bob").await);

    let allowed = call_tool(&url, Some(&alice), "delete_everything", json!({})).await;
    assert_eq!(allowed.status, 200, "{allowed:?}");
    assert!(allowed.message()["error"].is_null(), "{allowed:?}");

    let refused = call_tool(&url, Some(&bob), "delete_everything", json!({})).await;
    assert_eq!(refused.status, 403, "{refused:?}");
    assert_eq!(refused.message()["error"]["code"], 403);
    assert_eq!(refused.message()["error"]["message"], "Unauthorized");
    assert_eq!(refused.message()["id"], 1);

    let challenged = call_tool(&url, None, "delete_everything", json!({})).await;
    assert_eq!(challenged.status, 401, "{challenged:?}");
    let challenge = challenged.header("www-authenticate").expect("a challenge").to_owned();
    assert!(challenge.starts_with("Bearer "), "{challenge}");

    // The challenge leads to metadata that names the resource and the issuer (RFC 9728 §5.1).
    let metadata_url = challenge.split("resource_metadata=\"").nth(1).unwrap().split('"').next().unwrap();
    let metadata = get(metadata_url).await.message();
    assert_eq!(metadata["resource"], json!(url));
    assert_eq!(metadata["authorization_servers"], json!([up.ready["issuer"]]));

    let of_tool = |record: &Value| record["target"]["name"] == "delete_everything";
    let records = up.audit(2, of_tool).await;
    let outcomes: Vec<&Value> = records.iter().map(|record| &record["outcome"]).collect();
    assert_eq!(outcomes, ["success", "denied"]);
    assert_in_toolhives_schema(&records[0]);
    assert_eq!(records[0]["subjects"]["user_id"], "alice");
    assert_eq!(records[1]["subjects"]["user_id"], "bob");

    let stranger = up.audit(1, |record| record["subjects"]["user"] == "anonymous").await;
    assert_eq!(stranger[0]["outcome"], "denied");
}

/// The fields that a reader of ToolHive's audit log finds in the record of a tool call.
fn assert_in_toolhives_schema(record: &Value) {
    assert_eq!(record["msg"], "audit_event");
    assert_eq!(record["type"], "mcp_tool_call");
    let id = record["audit_id"].as_str().unwrap();
    assert_eq!((id.len(), id.matches('-').count()), (36, 4), "{id}");
    assert!(record["logged_at"].as_str().unwrap().ends_with('Z'), "{record}");
    assert!(record["component"].is_string(), "{record}");
    assert_eq!(record["source"]["type"], "network");
    assert_eq!(record["source"]["value"], "127.0.0.1");
    assert_eq!(record["target"]["endpoint"], "/mcp");
    assert_eq!(record["target"]["method"], "tools/call");
    assert_eq!(record["target"]["type"], "tool");
    assert!(record["metadata"]["extra"]["duration_ms"].is_number(), "{record}");
    assert_eq!(record["metadata"]["extra"]["transport"], "http");
}

#[tokio::test]
async fn the_demo_exchanges_tokens_and_the_server_sees_who_calls_with_a_token_of_its_own() {
    let up = Up::demo().await;
    let url = up.url("MCPRemoteProxy", "demo");
    let bob = up.token("bob").await;
    assert_eq!(claims(&format!("Bearer {bob}"))["aud"], url, "people's tokens are for the proxy");

    let who = call_tool(&url, Some(&bob), "whoami", json!({})).await;
    let facts = &who.message()["result"]["structuredContent"];
    assert_eq!(facts["subject"], "bob", "{facts}");
    assert_eq!(facts["issuer"], up.ready["issuer"], "{facts}");
    assert_eq!(facts["clientId"], "skep-proxy", "{facts}");
    assert_eq!(facts["actor"], "skep-proxy", "{facts}");
    let audience = facts["audience"].as_str().unwrap();
    assert!(audience.starts_with("http://127.0.0.1:") && !url.starts_with(audience), "{facts}");
    assert_eq!(facts["groups"], json!(["eng"]), "{facts}");

    // The token of the server is none of the proxy's.
    let run = skep::run(up.home(), ["token", "--user", "bob", "--audience", audience]).await;
    assert_eq!(call_tool(&url, Some(run.stdout.trim_end()), "whoami", json!({})).await.status, 401);
}

#[tokio::test]
async fn the_list_shows_what_one_may_call() {
    let up = Up::demo().await;
    let url = up.url("MCPRemoteProxy", "demo");
    let (alice, bob) = (up.token("alice").await, up.token("bob").await);

    let sum = call_tool(&url, Some(&bob), "add", json!({"a": 2, "b": 40})).await.tool_text();
    assert!(sum.contains("42"), "{sum}");

    let list = json!({"jsonrpc": "2.0", "id": "l", "method": "tools/list", "params": {}});
    assert_eq!(
        names(&rpc(&url, Some(&alice), &list).await.message()),
        ["add", "delete_everything", "echo", "whoami"]
    );
    assert_eq!(names(&rpc(&url, Some(&bob), &list).await.message()), ["add", "echo", "whoami"]);
}

fn names(message: &Value) -> Vec<String> {
    let tools = message["result"]["tools"].as_array().unwrap_or_else(|| panic!("no tools in {message}"));
    let mut names: Vec<String> = tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn requests_are_counted_on_the_metrics_endpoint() {
    let up = Up::demo().await;
    let url = up.url("MCPRemoteProxy", "demo");
    let bob = up.token("bob").await;
    call_tool(&url, Some(&bob), "echo", json!({"text": "hi"})).await;
    call_tool(&url, Some(&bob), "delete_everything", json!({})).await;
    call_tool(&url, None, "echo", json!({"text": "hi"})).await;

    let metrics = get(up.ready["metrics"].as_str().unwrap()).await;
    assert_eq!(metrics.status, 200);
    for status in ["200", "401", "403"] {
        let counted = metrics.body.lines().any(|line| {
            line.starts_with("toolhive_remote_proxy_requests_total{")
                && line.contains("proxy=\"demo\"")
                && line.contains(&format!("status=\"{status}\""))
                && line.ends_with(" 1")
        });
        assert!(counted, "one request with status {status} in:\n{}", metrics.body);
    }
    assert!(
        metrics.body.contains("toolhive_remote_proxy_request_duration_seconds_bucket{"),
        "{}",
        metrics.body
    );
}

#[tokio::test]
async fn the_commands_of_the_quickstart_get_the_answers_it_promises() {
    let up = Up::demo().await;
    let text = fs::read_to_string(repository().join("docs/quickstart.md")).unwrap();
    let calls: Vec<String> =
        shell_blocks(&text).into_iter().filter(|block| block.contains("curl -i")).collect();
    assert_eq!(calls.len(), 3, "{calls:?}");
    let shown = |line: &str| line.replace("http://127.0.0.1:7502/mcp", &up.url("MCPRemoteProxy", "demo"));
    let whoami: Vec<String> =
        shell_blocks(&text).into_iter().filter(|block| block.contains("whoami")).collect();
    let [whoami] = whoami.as_slice() else { panic!("one call of whoami: {whoami:?}") };
    let output = up.shell(&shown(whoami)).output().await.unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let told = answer["result"]["content"][0]["text"].as_str().unwrap();
    // The ports may be others than the usual ones while several tests run.
    let without_port = |line: &str| line.split("127.0.0.1:").next().unwrap().to_owned();
    let promised = text.split("```text\n").nth(1).unwrap().split("\n```").next().unwrap();
    assert_eq!(promised.lines().count(), 7);
    for (promise, line) in promised.lines().zip(told.lines()) {
        assert_eq!(without_port(promise), without_port(line), "{told}");
    }
    for (block, status) in calls.iter().zip(["200", "403", "401"]) {
        assert!(text.contains(&format!("status is `{status}`")), "the text promises {status}");
        let line = shown(block);
        let output = up.shell(&line).output().await.unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.starts_with(&format!("HTTP/1.1 {status}")), "{line}\n{printed}");
    }
}

#[tokio::test]
async fn the_commands_that_it_prints_get_the_answers_that_it_says() {
    let up = Up::demo().await;
    up.stderr.line_with("Ctrl-C ends").await;
    let printed = up.stderr.text();
    // A command begins with curl and goes on as long as its lines end with a backslash.
    let commands: Vec<String> = printed
        .split("  curl ")
        .skip(1)
        .map(|rest| {
            let more = rest.lines().take_while(|line| line.ends_with('\\')).count();
            format!("curl {}", rest.lines().take(more + 1).collect::<Vec<_>>().join("\n"))
        })
        .collect();
    assert_eq!(commands.len(), 3, "{printed}");
    for (command, status) in commands.iter().zip(["200", "403", "401"]) {
        assert!(printed.contains(&format!("({status})")), "it says {status}: {printed}");
        let answer = String::from_utf8(up.shell(command).output().await.unwrap().stdout).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{command}\n{answer}");
    }
}

#[tokio::test]
async fn a_copy_of_the_demo_runs_beside_the_demos_own_servers_and_takes_an_edit() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("my-demo.yaml");
    let text = fs::read_to_string(repository().join("examples/quickstart/demo.yaml")).unwrap();
    fs::write(&manifest, &text).unwrap();
    let run = skep::run(folder.path(), ["check", "--local", "-f", "my-demo.yaml"]).await;
    assert_eq!(run.code, Some(0), "{}", run.stdout);

    // These ports can't move: the copy names them. Another test may have them for a moment.
    let up =
        eventually("the ports of the demo are free", async || Up::try_beside_demo(&manifest).await).await;
    let url = up.url("MCPRemoteProxy", "demo");
    assert_eq!(up.ready["issuer"], "http://127.0.0.1:7500");
    let token = up.token("bob").await;
    let who = call_tool(&url, Some(&token), "whoami", json!({})).await.tool_text();
    assert!(who.contains("subject: bob\naudience: http://127.0.0.1:7501\n"), "{who}");
    let refused = call_tool(&url, Some(&token), "delete_everything", json!({})).await;
    assert_eq!(refused.status, 403, "{refused:?}");

    fs::write(&manifest, text.replace(r#"THVGroup::"admins""#, r#"THVGroup::"eng""#)).unwrap();
    eventually("bob may", async || {
        let answer = call_tool(&url, Some(&token), "delete_everything", json!({})).await;
        (answer.status == 200).then_some(())
    })
    .await;
    let who = call_tool(&url, Some(&up.token("alice").await), "whoami", json!({})).await.tool_text();
    assert!(who.contains("subject: alice\n"), "the secret of the running demo is still in its place: {who}");

    // A second one can't have the ports, and says so.
    let run = skep::run(folder.path(), ["up", "--demo", "-f", "my-demo.yaml"]).await;
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("port 7500 is taken"), "{}", run.stderr);
}

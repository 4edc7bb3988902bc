//! How `skep up` ends.

use serde_json::json;

use crate::harness::http::call_tool;
use crate::harness::scene::{Scene, permit};
use crate::harness::up::Up;

#[tokio::test]
async fn ctrl_c_ends_the_demo_with_code_0_and_frees_its_ports() {
    let mut up = Up::demo().await;
    let url = up.url("MCPRemoteProxy", "demo");
    up.interrupt().await;
    let status = up.ended().await;
    assert_eq!(status.code(), Some(0), "{status}");
    let refused = crate::harness::http::client().get(&url).send().await;
    assert!(refused.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn ctrl_c_lets_a_call_that_runs_come_to_its_end() {
    let mut scene = Scene::with_policies(&[permit(2)]).await;

    let (url, token) = (scene.url.clone(), scene.token.clone());
    let call = tokio::spawn(async move { call_tool(&url, Some(&token), "tool-2", json!({})).await });
    scene.reached_the_server("tool-2").await;
    scene.up.interrupt().await;
    scene.up.stderr.line_with("drain").await;
    scene.gate.open();

    let answer = call.await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.message()["result"].is_object(), "{answer:?}");
    let status = scene.up.ended().await;
    assert_eq!(status.code(), Some(0), "{status}");
}

#[tokio::test]
async fn a_second_ctrl_c_ends_it_at_once() {
    let mut scene = Scene::with_policies(&[permit(2)]).await;

    // This call never ends by itself: its gate stays shut.
    let (url, token) = (scene.url.clone(), scene.token.clone());
    let call = tokio::spawn(async move {
        let request = crate::harness::http::client().post(&url).bearer_auth(&token);
        let message =
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "tool-2"}});
        let request = request.header("Content-Type", "application/json");
        request.header("Accept", "text/event-stream").body(message.to_string()).send().await?.text().await
    });
    scene.reached_the_server("tool-2").await;
    scene.up.interrupt().await;
    scene.up.stderr.line_with("drain").await;
    scene.up.interrupt().await;
    scene.up.ended().await;
    assert!(call.await.unwrap().is_err(), "the call was cut off");
}

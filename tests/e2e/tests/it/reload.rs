//! Manifests that change while calls and streams are open.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use skep_testkit::free_port;

use crate::harness::http::{call_tool, client};
use crate::harness::scene::{Scene, inline, permit};
use crate::harness::{PATIENCE, eventually};

#[tokio::test]
async fn a_changed_policy_takes_effect_and_no_stream_or_call_is_lost() {
    let scene = Scene::start().await;
    assert_eq!(scene.status_of("tool-1").await, 403);
    let stream = client().get(&scene.url).bearer_auth(&scene.token).header("Accept", "text/event-stream");
    let mut stream = stream.send().await.unwrap();
    assert_eq!(stream.status(), 200);
    assert!(next_text(&mut stream).await.contains("event-1"));

    // Calls go on while the file changes.
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let caller = {
        let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
        let (url, token) = (scene.url.clone(), scene.token.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let answer = call_tool(&url, Some(&token), "tool-0", json!({})).await;
                assert_eq!(answer.status, 200, "a call during the change: {answer:?}");
                calls.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    eventually("calls run", async || (calls.load(Ordering::SeqCst) > 0).then_some(())).await;
    scene.rewrite(&inline(&[permit(0), permit(1)]));
    scene.until_status("tool-1", 200).await;
    stop.store(true, Ordering::SeqCst);
    caller.await.unwrap();

    scene.gate.open();
    assert!(next_text(&mut stream).await.contains("event-2"), "the stream outlived the change");
}

async fn next_text(stream: &mut reqwest::Response) -> String {
    let chunk = tokio::time::timeout(PATIENCE, stream.chunk()).await.expect("an event in time").unwrap();
    String::from_utf8(chunk.expect("the stream is open").to_vec()).unwrap()
}

#[tokio::test]
async fn a_broken_policy_is_refused_and_the_old_one_stays_until_it_is_mended() {
    let scene = Scene::start().await;
    scene.rewrite(&inline(&["permit(principal, action == ".to_owned()]));
    let said = scene.up.stderr.line_with("AuthzPolicySyntaxInvalid").await;
    assert!(said.contains("proxy.yaml"), "it says where: {said}");
    assert_eq!(scene.status_of("tool-0").await, 200);
    assert_eq!(scene.status_of("tool-1").await, 403);

    scene.rewrite(&inline(&[permit(1)]));
    scene.until_status("tool-1", 200).await;
    assert_eq!(scene.status_of("tool-0").await, 403);
}

#[tokio::test]
async fn a_file_that_is_no_yaml_any_more_is_refused_and_the_proxy_stays() {
    let scene = Scene::start().await;
    fs::write(scene.file("proxy.yaml"), "apiVersion: [\n").unwrap();
    scene.up.stderr.line_with("proxy.yaml").await;
    assert_eq!(scene.status_of("tool-0").await, 200);
}

#[tokio::test]
async fn an_edit_that_takes_the_auth_config_away_is_refused() {
    let scene = Scene::start().await;
    let text = fs::read_to_string(scene.file("proxy.yaml")).unwrap();
    let (before, _) = text.split_once("  oidcConfig:").unwrap();
    fs::write(scene.file("proxy.yaml"), before).unwrap();
    scene.up.stderr.line_with("authMode").await;
    let stranger = call_tool(&scene.url, None, "tool-0", json!({})).await;
    assert_eq!(stranger.status, 401);
    assert_eq!(scene.status_of("tool-0").await, 200);
}

#[tokio::test]
async fn a_file_that_appears_adds_a_proxy_and_one_that_goes_takes_it_away() {
    let scene = Scene::start().await;
    let port = free_port();
    fs::write(scene.file("another.yaml"), scene.another("another", port)).unwrap();
    let url = format!("http://127.0.0.1:{port}/mcp");
    let call = || client().post(&url).bearer_auth(&scene.token).body("{}").send();
    eventually("the new proxy answers", async || call().await.ok()).await;
    assert_eq!(call_tool(&url, Some(&scene.token), "tool-0", json!({})).await.status, 200);

    fs::remove_file(scene.file("another.yaml")).unwrap();
    eventually("the proxy is gone", async || call().await.err()).await;
    assert_eq!(scene.status_of("tool-0").await, 200, "the other one stays");
}

#[tokio::test]
async fn a_policy_in_a_config_map_of_another_file_takes_effect_too() {
    let spec = "  authzConfig:\n    type: configMap\n    configMap:\n      name: policies\n";
    let scene = Scene::start().await;
    fs::write(scene.file("policies.yaml"), config_map(1)).unwrap();
    scene.rewrite(spec);
    scene.until_status("tool-1", 200).await;
    assert_eq!(scene.status_of("tool-0").await, 403);

    fs::write(scene.file("policies.yaml"), config_map(0)).unwrap();
    scene.until_status("tool-0", 200).await;
    assert_eq!(scene.status_of("tool-1").await, 403);
}

fn config_map(tool: u8) -> String {
    let document = json!({"version": "1.0", "type": "cedarv1", "cedar": {"policies": [permit(tool)]}});
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "policies"},
        "data": {"authz.json": document.to_string()},
    });
    // JSON is YAML.
    map.to_string()
}

//! What is counted, under which names, and that clients cannot make new ones.

use serde_json::json;
use skep_testkit::Reply;

use crate::harness::{Harness, call, cedar, rpc};

#[tokio::test]
async fn the_families_are_there_with_their_labels() {
    let harness = Harness::start(cedar(&["permit(principal, action, resource == Tool::\"tool-0\");"])).await;
    harness.post(&rpc(1, "tools/list", json!({}))).await;
    harness.post(&call("tool-0")).await;
    harness.post(&call("tool-1")).await;
    skep_testkit::raw::post_rpc(harness.address, "/mcp", None, &call("tool-0")).await;
    harness.audit.wait(4).await;
    let text = harness.metrics_text();
    for line in [
        r#"toolhive_remote_proxy_requests_total{proxy="demo",status="200"} 2"#,
        r#"toolhive_remote_proxy_requests_total{proxy="demo",status="403"} 1"#,
        r#"toolhive_remote_proxy_requests_total{proxy="demo",status="401"} 1"#,
        r#"toolhive_remote_proxy_request_duration_seconds_count{proxy="demo"} 4"#,
        r#"toolhive_remote_proxy_request_duration_seconds_bucket{le="300.0",proxy="demo"} 4"#,
        r#"toolhive_remote_proxy_token_validations_total{proxy="demo",result="valid"} 3"#,
        r#"toolhive_remote_proxy_token_validations_total{proxy="demo",result="missing"} 1"#,
        r#"toolhive_remote_proxy_jwks_cache_hits_total{proxy="demo"} 2"#,
        r#"toolhive_remote_proxy_jwks_refreshes_total{proxy="demo"} 1"#,
        r#"toolhive_mcp_requests_total{method="POST",status_code="200",status="success",mcp_method="tools/list",server="demo",transport="streamable-http"} 1"#,
        r#"toolhive_mcp_requests_total{method="POST",status_code="200",status="success",mcp_method="tools/call",server="demo",transport="streamable-http"} 1"#,
        r#"toolhive_mcp_requests_total{method="POST",status_code="403",status="error",mcp_method="tools/call",server="demo",transport="streamable-http"} 1"#,
        r#"toolhive_mcp_tool_calls_total{server="demo",tool="tool-0",status="success"} 1"#,
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_failed_call_counts_as_failed_also_inside_a_200() {
    let harness = Harness::start(json!({"tools_filter": ["tool-0"]})).await;
    harness.backend.set_handler(|_| {
        Reply::json(&json!({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "x"}}))
    });
    harness.post(&call("tool-0")).await;
    harness.audit.wait(1).await;
    assert!(
        harness.metric(r#"toolhive_mcp_tool_calls_total{server="demo",tool="tool-0",status="error"}"#) == 1.0
    );
}

#[tokio::test]
async fn clients_cannot_make_labels() {
    let harness = Harness::start(json!({})).await;
    let before = harness.metrics_text().lines().count();
    for number in 0..200 {
        let made_up = format!("made-up-{number}");
        harness.post(&rpc(1, "tools/call", json!({"name": made_up}))).await;
        harness.post(&rpc(1, &made_up, json!({}))).await;
        harness.post_bytes(&[("X-MCP-Server-Name", &made_up), ("X-MCP-Transport", &made_up)], b"{}").await;
        harness.send(&format!("M{number}"), &format!("/{made_up}"), &[], b"").await;
    }
    harness.audit.wait(800).await;
    let text = harness.metrics_text();
    assert!(!text.contains("made-up"), "{text}");
    assert!(text.lines().count() - before < 200, "{text}");
    assert!(
        text.contains(r#"mcp_method="other""#)
            && text.contains(r#"method="other""#)
            && text.contains(r#"tool="other""#)
    );
}

//! RunConfigs as ToolHive's operator writes them, loaded and run. Words in capitals stand for URLs that
//! are known only when the servers run.

use serde_json::{Value, json};
use skep_testkit::{Answer, Recorded, Reply, ScriptedServer};
use url::Url;

use crate::harness::{Harness, call, merge};

const SERVER: &str = include_str!("../../fixtures/toolhive/server.json");
const BEARER: &str = include_str!("../../fixtures/toolhive/remote-bearer.json");
const EXCHANGE: &str = include_str!("../../fixtures/toolhive/remote-token-exchange.json");
const AWS: &str = include_str!("../../fixtures/toolhive/remote-aws.json");
const HEADERS: &str = include_str!("../../fixtures/toolhive/remote-headers.json");

/// A proxy that runs by `fixture`, before a server with three tools. `token_url` stands where it is asked
/// for, and `further` is added.
async fn running(fixture: &str, token_url: &str, further: Value) -> Harness {
    let harness = Harness::start(json!({})).await;
    let remote = Url::parse(&harness.backend.mcp_url()).unwrap();
    let text = fixture
        .replace("ISSUER_URL", harness.idp.issuer())
        .replace("REMOTE_URL", remote.as_str())
        .replace("TOKEN_URL", token_url)
        .replace("TARGET_HOST", remote.host_str().unwrap())
        .replace("\"TARGET_PORT\"", &remote.port().unwrap().to_string());
    let mut config: Value = serde_json::from_str(&text).unwrap();
    // What the file leaves out is left out of what the harness runs by.
    for name in ["remote_url", "audit_config", "skep"] {
        config.as_object_mut().unwrap().entry(name).or_insert(Value::Null);
    }
    merge(&mut config, &further);
    let config = harness
        .changed(config)
        .unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
    harness.proxy.reload(config).unwrap();
    harness
}

async fn called(harness: &Harness, tool: &str) -> (Answer, Option<Recorded>) {
    let answer = harness.post(&call(tool)).await;
    (answer, harness.backend.requests().pop())
}

#[tokio::test]
async fn an_mcpserver_of_toolhives_operator_runs() {
    let harness = running(SERVER, "", json!({})).await;
    let (answer, request) = called(&harness, "first").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let request = request.unwrap();
    assert_eq!(request.json()["params"]["name"], "tool-0", "the tool has its own name for the server");
    assert_eq!(request.header("authorization"), None);
    assert_eq!(called(&harness, "tool-1").await.0.json()["error"]["code"], -32602, "it is not in the filter");
    assert_eq!(harness.backend.requests().len(), 1);
    let record = harness.audit.wait(2).await;
    assert_eq!(record[0]["component"], "demo");
}

#[tokio::test]
async fn a_remote_proxy_with_a_bearer_token_runs() {
    let harness = running(BEARER, "", json!({})).await;
    let (answer, request) = called(&harness, "tool-0").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(request.unwrap().header("authorization"), Some("Bearer s3cret-of-the-backend"));
}

#[tokio::test]
async fn a_remote_proxy_with_token_exchange_runs() {
    let granted = json!({
        "access_token": "exchanged", "token_type": "Bearer", "expires_in": 600,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    });
    let endpoint = ScriptedServer::start(move |_| Reply::json(&granted)).await;
    let harness = running(EXCHANGE, &endpoint.url("/token"), json!({})).await;
    let (answer, request) = called(&harness, "tool-0").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(request.unwrap().header_all("authorization"), ["Bearer exchanged"]);
    let form = String::from_utf8(endpoint.requests().remove(0).body).unwrap();
    assert!(form.contains("audience=backend") && form.contains("scope=mail.read"), "{form}");
}

#[tokio::test]
async fn a_remote_proxy_with_aws_credentials_runs() {
    let sts = ScriptedServer::start(|_| Reply::body(200, "text/xml", crate::aws::GRANTED)).await;
    // The region's own STS is out of reach of a test.
    let harness = running(AWS, "", json!({"skep": {"aws": {"sts_endpoint": sts.url("/")}}})).await;
    let (answer, request) = called(&harness, "tool-0").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let request = request.unwrap();
    let authorization = request.header("authorization").unwrap();
    assert!(
        authorization.starts_with(
            "AWS4-HMAC-SHA256 Credential=ASIAEXAMPLE/20260101/eu-central-1/aws-mcp/aws4_request"
        )
    );
    let form = String::from_utf8(sts.requests().remove(0).body).unwrap();
    assert!(form.contains("role%2Fmcp") && form.contains("RoleSessionName=alice"), "{form}");
}

#[tokio::test]
async fn a_remote_proxy_with_fixed_headers_runs() {
    let harness = running(HEADERS, "", json!({})).await;
    let (answer, request) = called(&harness, "tool-0").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let request = request.unwrap();
    assert_eq!(request.header("x-team"), Some("blue"));
    assert_eq!(request.header("x-api-key"), Some("s3cret-of-the-backend"));
    assert_eq!(request.header("authorization"), None);
    let answer = harness.send("POST", "/team/mcp", &[], call("tool-0").to_string().as_bytes()).await;
    assert_eq!(answer.status, 200, "the prefix that clients see");
}

#[tokio::test]
async fn an_awssts_proxy_of_this_kind_needs_a_remote_server() {
    let harness = Harness::start(json!({})).await;
    let fixture: Value = serde_json::from_str(AWS).unwrap();
    let local = json!({
        "remote_url": null, "target_port": 9000, "aws_sts_config": fixture["aws_sts_config"],
    });
    let error = harness.changed(local).unwrap_err().to_string();
    assert!(error.contains("aws_sts_config") && error.contains("remote URL"), "{error}");
}

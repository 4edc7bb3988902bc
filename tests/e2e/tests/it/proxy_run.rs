//! `skep proxy run`, the pod entry point, with what the planner renders for the pod.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use skep_testkit::{FakeIdp, McpBackend, free_port};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::harness::http::{call_tool, get};
use crate::harness::output::Output;
use crate::harness::scene::{inline, permit};
use crate::harness::{PATIENCE, eventually, skep};

/// A pod without a cluster: a folder with runconfig.json, and the process with the arguments of the Deployment.
struct Pod {
    child: Child,
    log: Output,
    audit: Output,
    url: String,
    port: u16,
    folder: TempDir,
    idp: FakeIdp,
    backend: McpBackend,
}

impl Pod {
    async fn start() -> Self {
        let (idp, backend, port) = (FakeIdp::start().await, McpBackend::with_tools(2).await, free_port());
        let folder = tempfile::tempdir().unwrap();
        let rendered = render(folder.path(), idp.issuer(), port, 0).await;
        write_run_config(folder.path(), &rendered, &backend);

        // The image's entry point is a link of this name, as ToolHive's operator expects.
        let runner = folder.path().join("thv-proxyrunner");
        symlink(skep::binary(), &runner).unwrap();
        let container = &object(&rendered, "Deployment")["spec"]["template"]["spec"]["containers"][0];
        let args = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
        let mut command = Command::new(runner);
        command.args(args).arg("--egress-loopback").arg("--drain-pre-stop=0").current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let log = Output::read(child.stderr.take().unwrap());
        let audit = Output::read(child.stdout.take().unwrap());
        let url = format!("http://127.0.0.1:{port}/mcp");
        let pod = Self { child, log, audit, url, port, folder, idp, backend };
        pod.log.line_with("the proxy is up").await;
        pod
    }

    async fn status_of(&self, tool: &str) -> u16 {
        let token = self.idp.token("tester", "tests");
        call_tool(&self.url, Some(&token), tool, json!({})).await.status
    }
}

/// Host of everything in these tests, and the name that manifests have for it.
const HERE: &str = "127.0.0.1";
const ELSEWHERE: &str = "idp.example.com";

/// What `skep render` prints for a proxy whose policy permits one tool.
async fn render(home: &Path, issuer: &str, port: u16, tool: u8) -> Value {
    let issuer = issuer.replace(HERE, ELSEWHERE);
    let manifest = format!(
        "apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPRemoteProxy
metadata:
  name: pod
spec:
  remoteUrl: https://mcp.example.com/mcp
  proxyPort: {port}
  clientToken: strip
  oidcConfig:
    type: inline
    resourceUrl: http://127.0.0.1:{port}/mcp
    inline:
      issuer: {issuer}
      audience: tests
      insecureAllowHTTP: true
      jwksAllowPrivateIP: true
  audit:
    enabled: true
{}",
        inline(&[permit(tool)])
    );
    fs::write(home.join("pod.yaml"), manifest).unwrap();
    let run = skep::run(home, ["render", "-o", "json", "-f", "pod.yaml"]).await;
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap()
}

fn object<'a>(rendered: &'a Value, kind: &str) -> &'a Value {
    rendered["items"].as_array().unwrap().iter().find(|object| object["kind"] == kind).unwrap()
}

/// Writes the RunConfig of the rendered ConfigMap. A manifest can't point at loopback, so the test does.
fn write_run_config(folder: &Path, rendered: &Value, backend: &McpBackend) {
    let text = object(rendered, "ConfigMap")["data"]["runconfig.json"].as_str().unwrap();
    let mut config: Value = serde_json::from_str(&text.replace(ELSEWHERE, HERE)).unwrap();
    config["remote_url"] = json!(backend.mcp_url());
    config["host"] = json!("127.0.0.1");
    fs::write(folder.join("runconfig.json"), config.to_string()).unwrap();
}

#[tokio::test]
async fn what_is_rendered_for_a_pod_runs_and_takes_a_change() {
    let mut pod = Pod::start().await;
    assert_eq!(pod.status_of("tool-0").await, 200);
    assert_eq!(pod.status_of("tool-1").await, 403);
    assert_eq!(call_tool(&pod.url, None, "tool-0", json!({})).await.status, 401);
    assert!(pod.backend.requests().iter().all(|request| request.header("authorization").is_none()));
    assert!(pod.audit.line_with("\"denied\"").await.contains("audit_event"));
    let health = format!("http://127.0.0.1:{}/readyz", pod.port);
    assert_eq!(get(&health).await.status, 200);

    let changed = render(pod.folder.path(), pod.idp.issuer(), pod.port, 1).await;
    write_run_config(pod.folder.path(), &changed, &pod.backend);
    eventually("the new policy is in use", async || (pod.status_of("tool-1").await == 200).then_some(()))
        .await;
    assert_eq!(pod.status_of("tool-0").await, 403);

    fs::write(pod.folder.path().join("runconfig.json"), "{").unwrap();
    pod.log.line_with("is refused").await;
    assert_eq!(pod.status_of("tool-1").await, 200, "the old one stays");

    let id = pod.child.id().unwrap();
    Command::new("sh").args(["-c", &format!("kill -TERM {id}")]).status().await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, pod.child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0), "{}", pod.log.text());
}

#[tokio::test]
async fn a_file_that_a_changed_run_config_names_is_watched_too() {
    let pod = Pod::start().await;
    let policies = pod.folder.path().join("elsewhere");
    fs::create_dir(&policies).unwrap();
    let policies = policies.join("authz.json");
    let write = |tool: u8| {
        let document = json!({"version": "1.0", "type": "cedarv1", "cedar": {"policies": [permit(tool)]}});
        fs::write(&policies, document.to_string()).unwrap();
    };
    write(1);
    let path = pod.folder.path().join("runconfig.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let members = config.as_object_mut().unwrap();
    members.remove("authz_config");
    members.remove("middleware_configs");
    members.insert("authz_config_path".to_owned(), json!(policies));
    fs::write(&path, config.to_string()).unwrap();
    eventually("the file is in use", async || (pod.status_of("tool-1").await == 200).then_some(())).await;
    assert_eq!(pod.status_of("tool-0").await, 403);

    write(0);
    eventually("its change is taken", async || (pod.status_of("tool-0").await == 200).then_some(())).await;
    assert_eq!(pod.status_of("tool-1").await, 403);
}

#[tokio::test]
async fn a_run_config_that_cannot_be_used_is_refused_with_the_reason() {
    let home = tempfile::tempdir().unwrap();
    let run_config = |changes: Value| {
        let mut config = json!({
            "schema_version": "v0.1.0", "name": "x", "transport": "streamable-http", "port": 0,
            "remote_url": "https://mcp.example.com/mcp", "skep": {"auth_mode": "anonymous"},
        });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        config.to_string()
    };
    let unknown_stage = json!({"middleware_configs": [{"type": "no-such-stage", "parameters": {}}]});
    let missing_file = json!({"authz_config_path": "/nonexistent/authz.json"});
    let unprotected = json!({"skep": {}});
    let table = [
        ("{".to_owned(), "run.json"),
        (run_config(json!({"schema_version": "v9"})), "v9"),
        (run_config(json!({"no_such_key": true})), "no_such_key"),
        (run_config(unknown_stage), "no-such-stage"),
        (run_config(missing_file), "/nonexistent/authz.json"),
        (run_config(unprotected), "anonymous"),
    ];
    for (text, says) in table {
        fs::write(home.path().join("run.json"), &text).unwrap();
        let run = skep::run(home.path(), ["proxy", "run", "--config", "run.json"]).await;
        assert_eq!(run.code, Some(1), "{text}\n{}", run.stderr);
        assert!(run.stderr.contains(says), "{text}\n{}", run.stderr);
    }
    fs::remove_file(home.path().join("run.json")).unwrap();
    let run = skep::run(home.path(), ["proxy", "run"]).await;
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("/etc/runconfig/runconfig.json"), "{}", run.stderr);
    let run = skep::run(home.path(), ["proxy", "run", "--allow-everything"]).await;
    assert_eq!(run.code, Some(2), "{}", run.stderr);
}

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use skep_testkit::ControlPlane;
use skep_testkit::control_plane::{self, Assets, Options};

/// Names the file in which a copy of this test process says what it started; see the test that kills it.
const REPORT: &str = "SKEP_TEST_REPORT";
const JSON: &str = "application/json";

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn config_map(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "value"}})
        .to_string()
}

#[tokio::test]
async fn what_an_api_server_stored_is_there_after_its_restart() {
    let Some(assets) = Assets::find_or_skip() else { return };
    let cluster = ControlPlane::start(&assets, Options { controllers: vec![] }).await;
    let namespace = cluster.namespace().await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let (status, answer) = cluster.request("POST", &path, JSON, &config_map("kept")).await;
    assert_eq!(status, 201, "{answer}");

    let (url, pid) = (cluster.url().to_owned(), cluster.api_server_pid());
    cluster.stop_api_server();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    cluster.start_api_server().await;
    assert_eq!(cluster.url(), url);
    assert_ne!(cluster.api_server_pid(), pid);
    cluster.restart_api_server().await;

    let (status, answer) = cluster.request("GET", &format!("{path}/kept"), "", "").await;
    assert_eq!((status, answer["data"]["key"].as_str()), (200, Some("value")), "{answer}");
    let folder = cluster.folder().to_owned();
    assert!(folder.exists());
    drop(cluster);
    assert!(!folder.exists());
}

#[tokio::test]
async fn rbac_decides_what_a_user_may_do() {
    let Some(cluster) = control_plane::shared().await else { return };
    let namespace = cluster.namespace().await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let status = async |token: &str| cluster.request_as(token, "GET", &path, "", "").await.0;
    assert_eq!(status(cluster.admin_token()).await, 200);
    assert_eq!(status("not-a-token").await, 401);
    for user in ["nobody", "u0", "u9"] {
        assert_eq!(status(cluster.token_for(user)).await, 403, "{user}");
    }
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
    let (group, version) = ("rbac.authorization.k8s.io", "rbac.authorization.k8s.io/v1");
    let role = json!({
        "apiVersion": version, "kind": "Role", "metadata": {"name": "viewer"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
    });
    let binding = json!({
        "apiVersion": version, "kind": "RoleBinding", "metadata": {"name": "viewers"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "viewer"},
        "subjects": [
            {"apiGroup": group, "kind": "User", "name": "u0"},
            {"kind": "ServiceAccount", "name": "robot", "namespace": namespace},
        ],
    });
    for (kind, object) in [("roles", role), ("rolebindings", binding)] {
        let (made, answer) =
            cluster.request("POST", &format!("{rbac}/{kind}"), JSON, &object.to_string()).await;
        assert_eq!(made, 201, "{answer}");
    }
    until("u0 may look", async || status(cluster.token_for("u0")).await == 200).await;
    assert_eq!(status(cluster.token_for("u9")).await, 403);

    let robot = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    assert_eq!(cluster.request("POST", &accounts, JSON, &robot.to_string()).await.0, 201);
    let token = cluster.service_account_token(&namespace, "robot").await;
    assert_eq!(status(&token).await, 200);
}

#[tokio::test]
async fn what_belongs_to_something_deleted_is_deleted() {
    let Some(cluster) = control_plane::shared_with_controllers().await else { return };
    let namespace = cluster.namespace().await;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let (_, owner) = cluster.request("POST", &path, JSON, &config_map("owner")).await;
    let owned = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned", "ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]},
    ]}});
    assert_eq!(cluster.request("POST", &path, JSON, &owned.to_string()).await.0, 201);
    assert_eq!(cluster.request("DELETE", &format!("{path}/owner"), "", "").await.0, 200);
    let gone = async |path: &str| cluster.request("GET", path, "", "").await.0 == 404;
    until("the owned object goes", async || gone(&format!("{path}/owned")).await).await;

    let namespace = format!("/api/v1/namespaces/{namespace}");
    assert_eq!(cluster.request("DELETE", &namespace, "", "").await.0, 200);
    until("the namespace goes", async || gone(&namespace).await).await;
}

#[tokio::test]
async fn kubectl_reads_the_kubeconfig() {
    let Some(cluster) = control_plane::shared().await else { return };
    let kubeconfig = cluster.kubeconfig_with(cluster.token_for("nobody"));
    let Ok(output) = Command::new("kubectl")
        .args(["auth", "can-i", "--list", "--kubeconfig"])
        .arg(&kubeconfig)
        .env("HOME", cluster.folder())
        .output()
    else {
        return control_plane::skip("no kubectl here; hack/test installs it");
    };
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("selfsubjectaccessreviews.authorization.k8s.io"), "{text} {errors}");
}

/// Runs twice: as itself, and in the process that it starts and kills.
#[tokio::test]
async fn a_control_plane_ends_with_a_process_that_is_killed() {
    let Some(assets) = Assets::find_or_skip() else { return };
    if let Some(report) = std::env::var_os(REPORT) {
        let cluster = ControlPlane::start(&assets, Options::default()).await;
        let text = format!("{}\n{}\n", cluster.api_server_pid(), cluster.folder().display());
        let partial = Path::new(&report).with_extension("partial");
        std::fs::write(&partial, text).unwrap();
        std::fs::rename(&partial, report).unwrap();
        return std::future::pending().await;
    }
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("report");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "control_plane::a_control_plane_ends_with_a_process_that_is_killed", "--nocapture"])
        .env(REPORT, &report)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the copy has started its control plane", async || {
        assert_eq!(child.try_wait().unwrap(), None, "the copy ended");
        report.exists()
    })
    .await;
    let report = std::fs::read_to_string(&report).unwrap();
    let (api_server, folder) = report.trim().split_once('\n').unwrap();
    let folder = PathBuf::from(folder);
    let programs = processes_that_name(&folder);
    assert!(programs.len() >= 3 && programs.contains(&api_server.parse().unwrap()), "{programs:?}");
    assert!(folder.join("server.key").exists());

    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    until("its programs end", async || processes_that_name(&folder).is_empty()).await;
    until("its folder goes", async || !folder.exists()).await;
}

/// The processes whose command line names a folder.
fn processes_that_name(folder: &Path) -> Vec<u32> {
    let named = folder.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(named)
    })
    .collect()
}

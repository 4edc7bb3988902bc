//! Whether an operator is installed, runs, and leads.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use skep_operator::settings::LEASE_NAME;

use super::cluster::{Cluster, LARGEST_OF_PODS, Refusal, text};
use super::finding::{Findings, shown};

const CHECK: &str = "operator";
const LEASE: &str = "lease";
/// Where `deploy/kustomize` and ToolHive's chart put it.
const NAMESPACE: &str = "toolhive-system";
const NAME: &str = "toolhive-operator";
/// Port of `/status` in its pod.
const PORT: u16 = 8081;

/// An operator's Deployment, or what it would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) namespace: String,
    pub(super) account: String,
    /// Namespaces that it looks at; empty: all.
    pub(super) namespaces: Vec<String>,
    /// It takes part in an election.
    pub(super) elects: bool,
}

/// Finds the operator's Deployment. `None` when there is none to be seen.
pub(super) async fn find(
    cluster: &Cluster,
    namespace: Option<&str>,
    findings: &mut Findings,
) -> Option<Installed> {
    let in_namespace = namespace.unwrap_or(NAMESPACE);
    let named = cluster.get(&format!("/apis/apps/v1/namespaces/{in_namespace}/deployments/{NAME}")).await;
    let found = match (named, namespace) {
        (Err(Refusal::Missing), None) => search(cluster, "/apis/apps/v1/deployments").await,
        (Err(Refusal::Missing), Some(namespace)) => {
            search(cluster, &format!("/apis/apps/v1/namespaces/{namespace}/deployments")).await
        }
        (found, _) => found,
    };
    let deployment = match found {
        Ok(deployment) => deployment,
        Err(Refusal::Missing) => {
            findings.fail(
                CHECK,
                "there is no Deployment of an operator",
                "Install it: kubectl apply -k deploy/kustomize/base; or name its namespace with --operator-namespace.",
            );
            return None;
        }
        Err(refusal) => {
            findings.skip(CHECK, format!("its Deployment can't be read: {refusal}"), "");
            return None;
        }
    };
    let installed = read(&deployment);
    running(cluster, &deployment, &installed, findings).await;
    Some(installed)
}

async fn search(cluster: &Cluster, path: &str) -> Result<Value, Refusal> {
    let query = format!("labelSelector=app.kubernetes.io%2Fname%3D{NAME}");
    cluster.list(path, &query).await?.into_iter().next().ok_or(Refusal::Missing)
}

fn read(deployment: &Value) -> Installed {
    let pod = deployment.pointer("/spec/template/spec").unwrap_or(&Value::Null);
    let container = manager(pod).unwrap_or(&Value::Null);
    let environment = container.get("env").and_then(Value::as_array);
    let watched = environment
        .into_iter()
        .flatten()
        .find(|variable| text(variable, "/name") == "WATCH_NAMESPACE")
        .map(|variable| text(variable, "/value"))
        .unwrap_or_default();
    let names = watched.split(',').map(str::trim).filter(|name| !name.is_empty());
    let elects = ["command", "args"]
        .into_iter()
        .filter_map(|field| container.get(field).and_then(Value::as_array))
        .flatten()
        .filter_map(Value::as_str)
        .any(|argument| argument.starts_with("--leader-elect") && !argument.ends_with("=false"));
    let account = text(pod, "/serviceAccountName");
    Installed {
        namespace: text(deployment, "/metadata/namespace").to_owned(),
        account: if account.is_empty() { "default" } else { account }.to_owned(),
        namespaces: names.map(str::to_owned).collect(),
        elects,
    }
}

fn manager(pod: &Value) -> Option<&Value> {
    let containers = pod.get("containers").and_then(Value::as_array)?;
    containers.iter().find(|one| text(one, "/name") == "manager").or_else(|| containers.first())
}

async fn running(cluster: &Cluster, deployment: &Value, installed: &Installed, findings: &mut Findings) {
    let name = format!("{}/{}", installed.namespace, text(deployment, "/metadata/name"));
    let number = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_u64);
    let (wanted, ready) =
        (number("/spec/replicas").unwrap_or(1), number("/status/availableReplicas").unwrap_or(0));
    let image =
        deployment.pointer("/spec/template/spec").and_then(manager).map(|one| shown(text(one, "/image")));
    let image = image.unwrap_or_default();
    let described = format!("Deployment {name} ({image})");
    if wanted == 0 {
        findings.fail(
            CHECK,
            format!("{described} is scaled to 0"),
            format!("Scale it: kubectl -n {} scale deployment {NAME} --replicas 1", installed.namespace),
        );
        return;
    }
    if ready == 0 {
        findings.fail(
            CHECK,
            format!("{described} has no pod that is ready"),
            format!(
                "Look at it: kubectl -n {} describe deployment,pod -l app.kubernetes.io/name={NAME}",
                installed.namespace
            ),
        );
        return;
    }
    match version(cluster, installed).await {
        Some(version) if version == env!("CARGO_PKG_VERSION") => {
            findings.ok(CHECK, format!("{described} runs skep {version}, {ready} of {wanted} ready"));
        }
        Some(version) => findings.warn(
            CHECK,
            format!("{described} runs skep {version}, and this is {}", env!("CARGO_PKG_VERSION")),
            "Use the same version of the command.",
        ),
        None => findings.ok(
            CHECK,
            format!("{described}, {ready} of {wanted} ready; its version can't be asked from here"),
        ),
    }
}

/// The version that the operator's pod says it is.
async fn version(cluster: &Cluster, installed: &Installed) -> Option<String> {
    let pods = format!("/api/v1/namespaces/{}/pods", installed.namespace);
    let query = format!("labelSelector=app.kubernetes.io%2Fname%3D{NAME}");
    for pod in cluster.list(&pods, &query).await.ok()?.iter().take(3) {
        let path = format!("{pods}/{}:{PORT}/proxy/status", text(pod, "/metadata/name"));
        if let Ok(answer) = cluster.get_bytes(&path, LARGEST_OF_PODS).await
            && let Ok(status) = serde_json::from_slice::<Value>(&answer.body)
            && let Some(version) = status.get("version").and_then(Value::as_str)
        {
            return Some(shown(version));
        }
    }
    None
}

/// Who leads. `ahead`: how far the API server's clock is ahead of ours.
pub(super) async fn check_lease(
    cluster: &Cluster,
    installed: &Installed,
    ahead: SignedDuration,
    findings: &mut Findings,
) {
    let namespace = &installed.namespace;
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{LEASE_NAME}");
    let lease = match cluster.get(&path).await {
        Ok(lease) => lease,
        Err(Refusal::Missing) if installed.elects => {
            findings.fail(
                LEASE,
                format!("there is no Lease {namespace}/{LEASE_NAME}: no operator has ever led"),
                format!("Look at its log: kubectl -n {namespace} logs deployment/{NAME}"),
            );
            return;
        }
        Err(Refusal::Missing) => {
            findings.ok(LEASE, "the operator runs alone, without --leader-elect");
            return;
        }
        Err(refusal) => {
            findings.skip(LEASE, format!("the Lease {namespace}/{LEASE_NAME} can't be read: {refusal}"), "");
            return;
        }
    };
    let now = cluster.now().checked_add(ahead).unwrap_or(Timestamp::MAX);
    judge(&lease, now, namespace, findings);
}

fn judge(lease: &Value, now: Timestamp, namespace: &str, findings: &mut Findings) {
    let holder = shown(text(lease, "/spec/holderIdentity"));
    let look = format!("Look at its log: kubectl -n {namespace} logs deployment/{NAME}");
    if holder.is_empty() {
        findings.fail(LEASE, "nobody leads: the last leader gave the Lease up, and no other took it", look);
        return;
    }
    let lasts = lease.pointer("/spec/leaseDurationSeconds").and_then(Value::as_i64).unwrap_or(15);
    let Ok(renewed) = text(lease, "/spec/renewTime").parse::<Timestamp>() else {
        findings.fail(LEASE, format!("{holder} holds the Lease, which says not since when"), look);
        return;
    };
    let age = now.duration_since(renewed).as_secs();
    if age > lasts {
        findings.fail(
            LEASE,
            format!("{holder} led, and has not renewed the Lease for {age} s; it lasts {lasts} s"),
            look,
        );
    } else if age < -lasts {
        findings.warn(
            LEASE,
            format!("{holder} leads; its clock is {} s ahead of the API server's", -age),
            "Set the clocks of the nodes by NTP.",
        );
    } else {
        findings.ok(LEASE, format!("{holder} leads, renewed {} s ago", age.max(0)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_deployment_says_is_read() {
        let deployment = json!({"metadata": {"namespace": "ops"}, "spec": {"template": {"spec": {
            "serviceAccountName": "op",
            "containers": [
                {"name": "sidecar", "args": ["--leader-elect"]},
                {"name": "manager", "args": ["--leader-elect=true"], "env": [{"name": "WATCH_NAMESPACE", "value": "a, b,"}]},
            ],
        }}}});
        let expected = Installed {
            namespace: "ops".to_owned(),
            account: "op".to_owned(),
            namespaces: vec!["a".to_owned(), "b".to_owned()],
            elects: true,
        };
        assert_eq!(read(&deployment), expected);
        let bare = read(&json!({"metadata": {"namespace": "ops"}}));
        assert_eq!((bare.account.as_str(), bare.elects), ("default", false));
    }

    #[test]
    fn a_lease_is_judged_by_its_age() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
        for (spec, failed) in [
            (
                json!({"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:50.000000Z"}),
                false,
            ),
            (
                json!({"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:40.000000Z"}),
                true,
            ),
            (
                json!({"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T01:00:00.000000Z"}),
                false,
            ),
            (json!({"holderIdentity": "a", "leaseDurationSeconds": 15}), true),
            (json!({"holderIdentity": "", "renewTime": "2026-01-01T00:00:59.000000Z"}), true),
            (json!({}), true),
        ] {
            let mut findings = Findings::default();
            judge(&json!({"spec": spec}), now, "ops", &mut findings);
            assert_eq!(findings.failed(), failed, "{spec}");
        }
    }
}

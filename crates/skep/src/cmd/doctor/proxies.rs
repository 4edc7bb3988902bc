//! What the operator says about each proxy, and what the proxy says of itself.

use serde_json::Value;
use skep_api::crd::Kind;
use skep_api::report::WorkloadReport;
use skep_operator::observe::{STATUS_PORT, read_report};

use super::cluster::{Cluster, LARGEST_OF_PODS, Refusal, text};
use super::crds::Readable;
use super::finding::{Findings, Level, shown};

const CHECK: &str = "proxy";
/// Pods of one proxy that are asked.
const PODS: usize = 3;

/// An object of ours.
pub(super) type Object = (Kind, Value);

/// Kinds that are looked at here and for their issuers.
const KINDS: [Kind; 3] = [Kind::MCPServer, Kind::MCPRemoteProxy, Kind::MCPOIDCConfig];

/// Reads the workloads and OIDC configs of a namespace, or of all.
pub(super) async fn objects(
    cluster: &Cluster,
    kinds: &[Readable],
    namespace: Option<&str>,
    findings: &mut Findings,
) -> Vec<Object> {
    let mut objects = Vec::new();
    for (kind, version) in kinds.iter().filter(|(kind, _)| KINDS.contains(kind)) {
        let place = namespace.map(|namespace| format!("namespaces/{namespace}/")).unwrap_or_default();
        let path = format!("/apis/{}/{version}/{place}{}", skep_api::crd::GROUP, kind.plural());
        match cluster.list(&path, "").await {
            Ok(found) => objects.extend(found.into_iter().map(|object| (*kind, object))),
            Err(refusal) => {
                let remedy =
                    if namespace.is_none() { "Name a namespace that you may read with -n." } else { "" };
                findings.skip(CHECK, format!("the {} can't be listed: {refusal}", kind.plural()), remedy);
            }
        }
    }
    objects
}

/// Looks at each workload.
pub(super) async fn check(cluster: &Cluster, objects: &[Object], findings: &mut Findings) {
    let workloads: Vec<&Object> = objects.iter().filter(|(kind, _)| kind.is_workload()).collect();
    if workloads.is_empty() {
        findings.ok(CHECK, "there is no MCPServer and no MCPRemoteProxy");
    }
    let mut may_ask = true;
    for (kind, object) in workloads {
        let namespace = text(object, "/metadata/namespace");
        let name = format!("{kind} {namespace}/{}", text(object, "/metadata/name"));
        judge(&name, object, findings);
        if may_ask {
            may_ask = ask(cluster, *kind, object, &name, findings).await;
        }
    }
}

/// What the status says.
fn judge(name: &str, object: &Value, findings: &mut Findings) {
    let describe = "The conditions in its status say more: kubectl describe.";
    let phase = shown(text(object, "/status/phase"));
    let generation = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    if phase.is_empty() {
        findings.warn(
            CHECK,
            format!("{name} has no status: no operator has looked at it"),
            "Is one running, and does it watch this namespace?",
        );
        return;
    }
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let all: Vec<&Value> = conditions.into_iter().flatten().collect();
    let said = |one: &Value| {
        format!(
            "{} ({}): {}",
            shown(text(one, "/type")),
            shown(text(one, "/reason")),
            shown(text(one, "/message"))
        )
    };
    let ready = all.iter().find(|one| text(one, "/type") == "Ready");
    let is_ready = ready.is_some_and(|one| text(one, "/status") == "True");
    let mut message = format!("{name} is {phase}");
    if let Some(one) = ready.filter(|one| text(one, "/status") != "True") {
        message.push_str(&format!(", not {}", said(one)));
    } else if is_ready && !text(object, "/status/url").is_empty() {
        message.push_str(&format!(" at {}", shown(text(object, "/status/url"))));
    }
    let level = match phase.as_str() {
        "Failed" | "AuthRequired" => Level::Fail,
        _ if is_ready => Level::Ok,
        _ => Level::Warn,
    };
    findings.add(level, CHECK, message, if level == Level::Ok { "" } else { describe });
    for one in &all {
        if text(one, "/status") == "False" && !["Ready", "DeletionBlocked"].contains(&text(one, "/type")) {
            findings.warn(CHECK, format!("{name}: not {}", said(one)), "");
        }
    }
    let seen = generation("/status/observedGeneration");
    if seen != 0 && seen < generation("/metadata/generation") {
        findings.warn(CHECK, format!("{name}: the operator has not looked at its last change yet"), "");
    }
}

/// Asks the pods through the API server. False when that is not allowed, so that it need not be tried again.
async fn ask(cluster: &Cluster, kind: Kind, object: &Value, name: &str, findings: &mut Findings) -> bool {
    let namespace = text(object, "/metadata/namespace");
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let query = format!(
        "labelSelector=toolhive%3Dtrue%2Capp.kubernetes.io%2Fname%3D{}%2Capp.kubernetes.io%2Finstance%3D{}",
        kind.as_str().to_lowercase(),
        text(object, "/metadata/name"),
    );
    let Ok(found) = cluster.list(&pods, &query).await else { return true };
    let running = found.iter().filter(|pod| text(pod, "/status/phase") == "Running");
    for pod in running.take(PODS) {
        let pod = text(pod, "/metadata/name");
        match cluster.get_bytes(&format!("{pods}/{pod}:{STATUS_PORT}/proxy/status"), LARGEST_OF_PODS).await {
            Ok(answer) => match read_report(&answer.body) {
                Ok(report) => {
                    for proxy in &report.proxies {
                        reported(&format!("{name}, pod {pod}"), &report.version, proxy, findings);
                    }
                    if let Some(reason) = report.files.reason.filter(|_| !report.files.watched) {
                        findings.warn(
                            CHECK,
                            format!("{name}, pod {pod}: changes of files are seen late: {reason}"),
                            "",
                        );
                    }
                }
                Err(_) => findings.warn(
                    CHECK,
                    format!("{name}, pod {pod}: what it says of itself is no report"),
                    "Does it run an image of skep?",
                ),
            },
            Err(Refusal::Forbidden { .. }) => {
                findings.skip(
                    CHECK,
                    "there is no right to ask the proxies themselves",
                    "Ask somebody who may get pods/proxy.",
                );
                return false;
            }
            Err(refusal) => {
                findings.warn(CHECK, format!("{name}, pod {pod}: it can't be asked: {refusal}"), "");
            }
        }
    }
    true
}

/// What a proxy says of itself. The report is bounded and clean by now.
fn reported(name: &str, version: &str, proxy: &WorkloadReport, findings: &mut Findings) {
    let mut well = true;
    let mut wrong = |level: Level, message: String, remedy: &str| {
        well = false;
        findings.add(level, CHECK, format!("{name}: {message}"), remedy);
    };
    if let Some(why) = &proxy.suspended {
        wrong(Level::Fail, format!("it lets no call through: {why}"), "");
    }
    for issuer in proxy.authentication.iter().flat_map(|one| &one.issuers).filter(|one| !one.available) {
        wrong(
            Level::Fail,
            format!(
                "tokens of {} can't be judged ({}): {}",
                issuer.issuer,
                issuer.reason.as_str(),
                issuer.message
            ),
            "It is asked from the pod: look at its network policies and at the CA bundle.",
        );
    }
    if let Some(credential) = proxy.credential.as_ref().filter(|one| one.ready == Some(false)) {
        let code = credential.code.as_deref().map(|code| format!(", {code}")).unwrap_or_default();
        wrong(
            Level::Fail,
            format!("no credential can be made for the MCP server ({}{code})", credential.reason.as_str()),
            "",
        );
    }
    if let Some(remote) = proxy.remote.as_ref().filter(|one| !one.reachable) {
        wrong(
            Level::Warn,
            format!("{} can't be reached ({}): {}", proxy.target, remote.reason.as_str(), remote.message),
            "",
        );
    }
    if let Some(why) = &proxy.config.last_refusal {
        wrong(Level::Fail, format!("the newest configuration is not in force: {why}"), "");
    }
    if well {
        findings.ok(CHECK, format!("{name}: skep {version} says all is well"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn levels(findings: &Findings) -> String {
        serde_json::to_value(findings).expect("JSON")["findings"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|finding| {
                format!(
                    "{} {}\n",
                    finding["level"].as_str().unwrap_or_default(),
                    finding["message"].as_str().unwrap_or_default()
                )
            })
            .collect()
    }

    #[test]
    fn a_status_is_judged_by_phase_and_conditions() {
        let condition =
            |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "R", "message": "m"});
        let mut all = String::new();
        for status in [
            json!({"phase": "Ready", "url": "http://a", "conditions": [condition("Ready", "True")]}),
            json!({"phase": "Pending", "conditions": [condition("Ready", "False")]}),
            json!({"phase": "Failed", "conditions": [condition("Ready", "False"), condition("AuthConfigured", "False")]}),
            json!({"phase": "Ready", "observedGeneration": 1, "conditions": [condition("Ready", "True"), condition("DeletionBlocked", "False")]}),
            json!(null),
        ] {
            let mut findings = Findings::default();
            judge("x", &json!({"metadata": {"generation": 2}, "status": status}), &mut findings);
            all.push_str(&levels(&findings));
        }
        insta::assert_snapshot!(all);
    }

    #[test]
    fn a_report_is_told_with_what_is_wrong() {
        let report = read_report(
            json!({"version": "1", "proxies": [{
                "name": "p", "target": "https://mcp.example/", "suspended": "its auth config is gone",
                "authentication": {"issuers": [{"issuer": "https://idp.example", "available": false, "reason": "KeysUnreachable", "message": "no route"}]},
                "credential": {"type": "tokenExchange", "ready": false, "reason": "Refused", "code": "invalid_client"},
                "remote": {"reachable": false, "reason": "TimedOut", "message": "slow"},
                "config": {"lastRefusal": "no issuer"},
            }]})
            .to_string()
            .as_bytes(),
        )
        .expect("a report");
        let mut findings = Findings::default();
        reported("x", "1", &report.proxies[0], &mut findings);
        reported("y", "1", &WorkloadReport::default(), &mut findings);
        insta::assert_snapshot!(levels(&findings));
    }
}

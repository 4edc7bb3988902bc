//! An MCPServer that takes the whole way through the API server and its webhooks, and is not kept.

use std::time::Duration;

use serde_json::{Value, json};
use skep_api::crd::{GROUP, Kind};
use skep_operator::sidecars::names::INJECTION_ANNOTATION;

use super::super::cluster::{Cluster, Refusal, Verdict};
use super::super::crds::Readable;
use super::super::finding::{Findings, shown};
use super::CHECK;
use super::configuration::Configuration;

/// An answer that takes longer holds everybody up.
const SLOW: Duration = Duration::from_secs(2);
/// Longer than the API server waits for all webhooks of one object.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the judging webhook warns of, since the object says nothing about who may call it.
const JUDGED: &str = "Nothing says who may come in";

/// What became of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Admitted,
    /// A webhook denied it.
    Denied {
        webhook: String,
        said: String,
    },
    /// A webhook could not be called.
    Failed {
        webhook: String,
        why: Failure,
        said: String,
    },
    /// The caller may not make an MCPServer.
    NoRight,
    /// It could not be tried for another reason.
    Untried {
        said: String,
    },
}

/// Why a webhook could not be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Down,
    UnknownCa,
    Expired,
    WrongName,
    Late,
    UnknownPath,
    NotTls,
    Other,
}

/// Sends the object as a dry run, and says what became of it.
pub(super) async fn check(
    cluster: &Cluster,
    kinds: &[Readable],
    namespace: Option<&str>,
    configurations: &[Configuration],
    findings: &mut Findings,
) {
    let Some((_, version)) = kinds.iter().find(|(kind, _)| *kind == Kind::MCPServer) else {
        findings.skip(CHECK, "it can't be tried: there are no MCPServers here", "");
        return;
    };
    let namespace = namespace.unwrap_or("default");
    // Whoever may not read it finds out by trying.
    let labels = match cluster.get(&format!("/api/v1/namespaces/{namespace}")).await {
        Ok(object) => {
            let labels = object.pointer("/metadata/labels").cloned();
            if !configurations.is_empty()
                && !configurations.iter().any(|one| one.takes_in(namespace, labels.as_ref()))
            {
                findings.skip(
                    CHECK,
                    format!("it can't be tried: it is not for objects of the namespace {namespace}"),
                    "Name another namespace with -n.",
                );
                return;
            }
            labels
        }
        Err(_) => None,
    };
    alone(configurations, namespace, labels.as_ref(), findings);
    let path = format!("/apis/{GROUP}/{version}/namespaces/{namespace}/mcpservers?dryRun=All");
    let object = trial(version, namespace);
    match tokio::time::timeout(PATIENCE, cluster.attempt(&path, &object)).await {
        Ok(Ok(verdict)) => {
            let outcome = read(&verdict);
            if outcome == Outcome::Admitted
                && !was_asked(&verdict.warnings, namespace, labels.as_ref(), configurations, findings)
            {
                return;
            }
            tell(&outcome, verdict.took, namespace, configurations, findings);
        }
        Ok(Err(Refusal::Unreachable(said))) => {
            findings.warn(CHECK, format!("it could not be tried: {said}"), "Try again.");
        }
        Ok(Err(refusal)) => findings.skip(CHECK, format!("it could not be tried: {refusal}"), ""),
        Err(_) => findings.fail(
            CHECK,
            format!("a trial MCPServer got no answer within {} s", PATIENCE.as_secs()),
            "Lower timeoutSeconds of the webhook configurations, and look at the webhook's log.",
        ),
    }
}

/// An object that either webhook of ours warns of, whatever its flags are: the answer then shows that it was asked.
fn trial(version: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{version}"),
        "kind": "MCPServer",
        "metadata": {
            "generateName": "skep-doctor-",
            "namespace": namespace,
            "annotations": {INJECTION_ANNOTATION: "trial"},
        },
        "spec": {"image": "skep-doctor:trial", "transport": "streamable-http"},
    })
}

/// The answer bears the mark of the webhook that changes objects, or of the one that judges them.
fn bears_mark(warnings: &[String], mutating: bool) -> bool {
    let mark = if mutating { INJECTION_ANNOTATION } else { JUDGED };
    warnings.iter().any(|warning| warning.contains(mark))
}

/// Two that change MCPServers both put sidecars in.
fn alone(configurations: &[Configuration], namespace: &str, labels: Option<&Value>, findings: &mut Findings) {
    let both: Vec<String> = configurations
        .iter()
        .filter(|one| one.mutates_servers(namespace, labels))
        .map(Configuration::described)
        .collect();
    if both.len() > 1 {
        findings.warn(
            CHECK,
            format!("several webhooks change the MCPServers of {namespace}: {}", both.join(", ")),
            "Each of them injects sidecars. Remove the configurations of the one that is no longer wanted (of the toolhive-webhook, for example).",
        );
    }
}

/// Whether an object that was let in was seen by every webhook that it may pass by (failurePolicy Ignore). Says so
/// where it was not.
fn was_asked(
    warnings: &[String],
    namespace: &str,
    labels: Option<&Value>,
    configurations: &[Configuration],
    findings: &mut Findings,
) -> bool {
    let mut asked = true;
    for configuration in configurations.iter().filter(|one| one.lets_servers_through(namespace, labels)) {
        if !bears_mark(warnings, configuration.mutates()) {
            asked = false;
            findings.warn(
                CHECK,
                format!(
                    "a trial MCPServer in {namespace} is let in, and nothing shows that {} was asked: it can't be called, or is not skep's of this version",
                    configuration.described()
                ),
                "With failurePolicy Ignore the API server does not say why a call failed. Set it to Fail (value webhook.failurePolicy of the chart), and run this again.",
            );
        }
    }
    // Whoever may not read the configurations can't tell whether there are any.
    if configurations.is_empty() && !bears_mark(warnings, true) && !bears_mark(warnings, false) {
        asked = false;
        findings.skip(
            CHECK,
            format!("a trial MCPServer in {namespace} is let in, and nothing shows that a webhook was asked"),
            "",
        );
    }
    asked
}

/// What an answer of the API server means.
fn read(verdict: &Verdict) -> Outcome {
    let message = verdict.message.as_str();
    if (200..300).contains(&verdict.code) {
        return Outcome::Admitted;
    }
    if let Some((webhook, said)) = quoted(message, "admission webhook \"")
        && let Some(said) = said.strip_prefix(" denied the request")
    {
        let said = said.trim_start_matches([':', ' ']);
        return Outcome::Denied { webhook: shown(webhook), said: shown(said) };
    }
    if let Some((webhook, said)) = quoted(message, "failed calling webhook \"") {
        let said = said.trim_start_matches([':', ' ']);
        return Outcome::Failed { webhook: shown(webhook), why: why(said), said: shown(said) };
    }
    if verdict.code == 403 {
        return Outcome::NoRight;
    }
    Outcome::Untried { said: shown(&format!("the API server answered {}: {message}", verdict.code)) }
}

/// The text in quotes after `start`, and what follows.
fn quoted<'a>(message: &'a str, start: &str) -> Option<(&'a str, &'a str)> {
    message.split_once(start)?.1.split_once('"')
}

/// The words are those of Go's standard library and of the API server.
fn why(said: &str) -> Failure {
    let has = |parts: &[&str]| parts.iter().any(|part| said.contains(part));
    if has(&["certificate signed by unknown authority", "certificate is not trusted"]) {
        Failure::UnknownCa
    } else if has(&["certificate has expired or is not yet valid"]) {
        Failure::Expired
    } else if has(&[
        "certificate is valid for",
        "certificate is not valid for",
        "cannot validate certificate for",
        "legacy Common Name",
    ]) {
        Failure::WrongName
    } else if has(&["HTTP response to HTTPS client", "first record does not look like a TLS handshake"]) {
        Failure::NotTls
    } else if has(&[
        "connection refused",
        "no endpoints available",
        "no route to host",
        "no such host",
        "not found",
        "connection reset",
        "EOF",
    ]) {
        Failure::Down
    } else if has(&["deadline exceeded", "Client.Timeout", "i/o timeout", "context canceled"]) {
        Failure::Late
    } else if has(&["could not find the requested resource"]) {
        Failure::UnknownPath
    } else {
        Failure::Other
    }
}

fn tell(
    outcome: &Outcome,
    took: Duration,
    namespace: &str,
    configurations: &[Configuration],
    findings: &mut Findings,
) {
    let milliseconds = took.as_millis();
    let slow = "Look at its log, its CPU limit and the network between it and the API server: everybody who writes an MCPServer waits so long.";
    match outcome {
        Outcome::Admitted if took > SLOW => findings.warn(
            CHECK,
            format!("a trial MCPServer in {namespace} is let in, and that takes {milliseconds} ms: the webhook is slow"),
            slow,
        ),
        Outcome::Admitted => {
            findings.ok(CHECK, format!("a trial MCPServer in {namespace} is let in within {milliseconds} ms"));
        }
        Outcome::Denied { webhook, said } if !is_ours(webhook, configurations) => findings.warn(
            CHECK,
            format!("another webhook, {webhook}, denies a trial MCPServer in {namespace}: {said}"),
            "Ask whoever runs it, or name another namespace with -n.",
        ),
        Outcome::Denied { webhook, said } if took > SLOW => findings.warn(
            CHECK,
            format!("{webhook} answers, and that takes {milliseconds} ms: the webhook is slow (it denies a trial MCPServer in {namespace}: {said})"),
            slow,
        ),
        Outcome::Denied { webhook, said } => findings.ok(
            CHECK,
            format!("{webhook} answers within {milliseconds} ms; it denies a trial MCPServer in {namespace}: {said}"),
        ),
        Outcome::Failed { webhook, why, said } => {
            let (short, remedy) = explain(*why);
            let whose = if is_ours(webhook, configurations) { "" } else { ", which is not skep's," };
            findings.fail(
                CHECK,
                format!("the API server can't call {webhook}{whose} and takes no MCPServers in {namespace}: {short} ({said})"),
                remedy,
            );
        }
        Outcome::NoRight => findings.skip(
            CHECK,
            format!("it can't be tried: there is no right to create MCPServers in {namespace}"),
            "Name a namespace with -n where you have it.",
        ),
        Outcome::Untried { said } => findings.skip(CHECK, format!("it can't be tried: {said}"), ""),
    }
}

/// Without configurations, which not everybody may read, the name has to do.
fn is_ours(webhook: &str, configurations: &[Configuration]) -> bool {
    if configurations.is_empty() {
        return webhook.ends_with(".toolhive.stacklok.dev");
    }
    configurations.iter().flat_map(Configuration::names).any(|name| name == webhook)
}

fn explain(why: Failure) -> (&'static str, &'static str) {
    match why {
        Failure::Down => (
            "the webhook is down",
            "Look at its pods and its Service. To write MCPServers in the meantime: set failurePolicy to Ignore (value webhook.failurePolicy of the chart).",
        ),
        Failure::UnknownCa => (
            "its certificate is not from the CA in caBundle",
            "With cert-manager: compare the annotation cert-manager.io/inject-ca-from with the Certificate, and look at cainjector's log. With --self-signed: the webhook keeps caBundle up to date; look at its log and whether its ClusterRole lets it patch both configurations.",
        ),
        Failure::Expired => (
            "its certificate has expired or is not yet valid",
            "With cert-manager: kubectl describe certificate. With --self-signed: look at the webhook's log. Are the nodes' clocks right?",
        ),
        Failure::WrongName => (
            "its certificate is for another name",
            "It has to be for SERVICE.NAMESPACE.svc: compare the Certificate's dnsNames, or --service-name and the pod's namespace, with the Service in the configuration.",
        ),
        Failure::Late => (
            "it does not answer in time",
            "Look at its log and its CPU limit; and does a firewall or NetworkPolicy keep the API server from port 9443 of its pods?",
        ),
        Failure::UnknownPath => (
            "what answers does not know the path",
            "Webhook and configuration are of different versions: install the chart again.",
        ),
        Failure::NotTls => (
            "what answers speaks no TLS",
            "Does the Service lead to the webhook's port (9443)? Compare its targetPort.",
        ),
        Failure::Other => ("the call fails", "Look at the log of the webhook."),
    }
}

#[cfg(test)]
mod tests {
    use skep_operator::{plan, sidecars};

    use super::*;

    fn verdict(code: u16, message: &str) -> Verdict {
        Verdict { code, message: message.to_owned(), took: Duration::ZERO, warnings: Vec::new() }
    }

    #[test]
    fn what_the_api_server_says_is_understood() {
        let post = "failed calling webhook \"v.x\": Post \"https://s.n.svc:443/p?timeout=10s\": ";
        for (said, expected) in [
            ("dial tcp 127.0.0.1:1: connect: connection refused", Failure::Down),
            ("no endpoints available for service \"s\"", Failure::Down),
            ("service \"s\" not found", Failure::Down),
            (
                "x509: certificate signed by unknown authority (possibly because of \"...\")",
                Failure::UnknownCa,
            ),
            (
                "tls: failed to verify certificate: x509: certificate signed by unknown authority",
                Failure::UnknownCa,
            ),
            ("x509: certificate has expired or is not yet valid: current time ...", Failure::Expired),
            ("x509: certificate is valid for a, not b", Failure::WrongName),
            (
                "x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs",
                Failure::WrongName,
            ),
            ("context deadline exceeded", Failure::Late),
            ("net/http: request canceled (Client.Timeout exceeded while awaiting headers)", Failure::Late),
            ("the server could not find the requested resource", Failure::UnknownPath),
            ("http: server gave HTTP response to HTTPS client", Failure::NotTls),
            ("something new", Failure::Other),
        ] {
            let whole = format!("Internal error occurred: {post}{said}");
            let Outcome::Failed { webhook, why, .. } = read(&verdict(500, &whole)) else { panic!("{said}") };
            assert_eq!((webhook.as_str(), why), ("v.x", expected), "{said}");
        }
        // Newer API servers say more before it.
        let newer = "Internal error occurred: failed calling webhook \"v.x\": failed to call webhook: Post \"https://s.n.svc:443/p?timeout=10s\": dial tcp: connect: connection refused";
        assert!(matches!(read(&verdict(500, newer)), Outcome::Failed { why: Failure::Down, .. }));
        assert_eq!(read(&verdict(201, "")), Outcome::Admitted);
        assert_eq!(
            read(&verdict(403, "admission webhook \"v.x\" denied the request: no auth")),
            Outcome::Denied { webhook: "v.x".to_owned(), said: "no auth".to_owned() }
        );
        assert_eq!(
            read(&verdict(400, "admission webhook \"v.x\" denied the request without explanation")),
            Outcome::Denied { webhook: "v.x".to_owned(), said: "without explanation".to_owned() }
        );
        let forbidden =
            "mcpservers.toolhive.stacklok.dev is forbidden: User \"u\" cannot create resource \"mcpservers\"";
        assert_eq!(read(&verdict(403, forbidden)), Outcome::NoRight);
        let quota = "quota is full";
        assert!(matches!(read(&verdict(429, quota)), Outcome::Untried { said } if said.contains(quota)));
    }

    #[test]
    fn our_webhook_leaves_its_marks_in_the_answer() {
        let object = trial("v1beta1", "default");
        let around = sidecars::Surroundings::default();
        let injecting = sidecars::Policy { default_on: true, ..sidecars::Policy::default() };
        let idle = sidecars::Policy { default_on: false, ..sidecars::Policy::default() };
        for mutation in [
            sidecars::restore_server(&object),
            sidecars::mutate_server(&object, "default", &idle, &around),
            sidecars::mutate_server(&object, "default", &injecting, &around),
        ] {
            assert!(bears_mark(&mutation.warnings, true), "{:?}", mutation.warnings);
        }
        let mut named = object;
        named["metadata"]["name"] = "skep-doctor-x".into();
        let read = skep_api::crd::Object::parse(&named).expect("an object");
        let said: Vec<String> = plan::plan_object(&read, &plan::World::default())
            .problems
            .into_iter()
            .inspect(|problem| assert!(!problem.is_error(), "{problem:?}"))
            .map(|problem| problem.message)
            .collect();
        assert!(bears_mark(&said, false), "{said:?}");
        assert!(!bears_mark(&said, true), "the marks are told apart");
    }

    #[test]
    fn a_slow_answer_is_told_of_and_a_foreign_denial_is_not_ours() {
        let tell = |outcome: &Outcome, seconds: u64| {
            let mut findings = Findings::default();
            tell(outcome, Duration::from_secs(seconds), "default", &[], &mut findings);
            serde_json::to_value(&findings).expect("JSON")["findings"][0].clone()
        };
        assert_eq!(tell(&Outcome::Admitted, 0)["level"], "ok");
        assert_eq!(tell(&Outcome::Admitted, 3)["level"], "warn");
        let denied = |webhook: &str| Outcome::Denied { webhook: webhook.to_owned(), said: "no".to_owned() };
        assert_eq!(tell(&denied("vmcpserver.toolhive.stacklok.dev"), 0)["level"], "ok");
        assert_eq!(tell(&denied("vmcpserver.toolhive.stacklok.dev"), 3)["level"], "warn");
        assert_eq!(tell(&denied("policy.example.com"), 0)["level"], "warn");
        assert_eq!(tell(&Outcome::NoRight, 0)["level"], "skip");
    }
}

//! Conditions that follow from what proxies report.

use serde_json::{Value, json};
use skep_api::crd::Kind;
use skep_operator::observe::{Observed, PodReport};
use skep_operator::plan::Planned;
use skep_operator::status;

use super::status_workload::{at, condition, good, object, running, said, says, silent};

fn measured(kind: Kind, planned: &Planned, reports: Vec<PodReport>, present: &Value, seconds: i64) -> Value {
    let observed = Observed { reports, ..running() };
    status::workload(&object(kind, Value::Null), planned, &observed, present, at(seconds))
}

fn proxy(reports: Vec<PodReport>) -> Value {
    measured(Kind::MCPRemoteProxy, &good(), reports, &Value::Null, 0)
}

fn message<'a>(status: &'a Value, kind: &str) -> &'a str {
    condition(status, kind).unwrap()["message"].as_str().unwrap()
}

fn remote(reachable: bool, reason: &str, message: &str) -> Value {
    json!({"remote": {"reachable": reachable, "reason": reason, "message": message, "checked": "2025-12-31T23:59:00Z", "since": "2025-12-31T00:00:00Z"}})
}

#[test]
fn the_remote_server_is_available_when_no_pod_says_otherwise() {
    let up = || remote(true, "Answered", "");
    let down = |reason: &str| remote(false, reason, "The remote server is away.");
    for (what, reports, expected, reachable, text) in [
        ("nobody asked", vec![], "Unknown/NoReport", Value::Null, "No proxy pod has reported yet."),
        (
            "nobody answers",
            vec![silent("a")],
            "Unknown/NoReport",
            Value::Null,
            "No proxy pod reports: its address may not be called.",
        ),
        (
            "not probed",
            vec![said("a", json!({}))],
            "Unknown/NotTried",
            Value::Null,
            "The remote server has not been asked yet.",
        ),
        ("up", vec![said("a", up())], "True/RemoteReachable", json!(true), "The remote server answers."),
        (
            "up, and one does not know",
            vec![said("a", up()), said("b", json!({})), silent("c")],
            "True/RemoteReachable",
            json!(true),
            "The remote server answers.",
        ),
        (
            "down",
            vec![said("a", down("TimedOut"))],
            "False/TimedOut",
            json!(false),
            "The remote server is away.",
        ),
        (
            "down for one",
            vec![said("a", up()), said("b", down("TlsFailed")), said("c", up())],
            "False/TlsFailed",
            json!(false),
            "The remote server is away. (1 of 3 pods says so.)",
        ),
        (
            "down for two, differently",
            vec![said("a", down("TimedOut")), said("b", down("AddressRefused")), said("c", up())],
            "False/AddressRefused",
            json!(false),
            "The remote server is away. (2 of 3 pods say so.)",
        ),
        (
            "down for a reason nobody knows",
            vec![said("a", remote(false, "Tired", ""))],
            "False/RemoteUnreachable",
            json!(false),
            "The remote server does not answer.",
        ),
    ] {
        let status = proxy(reports);
        assert_eq!(says(&status, "RemoteAvailable"), expected, "{what}");
        assert_eq!(status["remoteReachable"], reachable, "{what}");
        assert_eq!(message(&status, "RemoteAvailable"), text, "{what}");
    }
}

#[test]
fn every_reason_of_a_probe_is_a_reason_of_the_condition() {
    for reason in
        ["NameNotResolved", "AddressRefused", "ConnectionFailed", "TlsFailed", "TimedOut", "NoAnswer"]
    {
        let status = proxy(vec![said("a", remote(false, reason, "x"))]);
        assert_eq!(says(&status, "RemoteAvailable"), format!("False/{reason}"));
    }
}

#[test]
fn an_mcp_server_has_no_remote_server() {
    let status =
        measured(Kind::MCPServer, &good(), vec![said("a", remote(false, "TimedOut", "x"))], &Value::Null, 0);
    assert_eq!(says(&status, "RemoteAvailable"), "-");
    assert_eq!((status.get("remoteReachable"), status.get("lastHealthCheck")), (None, None));
}

#[test]
fn a_probe_that_finds_the_same_again_changes_nothing() {
    let probe = |checked: &str, reachable: bool| {
        let mut report = remote(reachable, "Answered", "");
        report["remote"]["checked"] = checked.into();
        vec![said("a", report)]
    };
    let first = measured(Kind::MCPRemoteProxy, &good(), probe("2025-12-31T23:59:00Z", true), &Value::Null, 0);
    assert_eq!(first["lastHealthCheck"], "2025-12-31T23:59:00Z");
    let later = measured(Kind::MCPRemoteProxy, &good(), probe("2026-01-01T00:01:00Z", true), &first, 60);
    assert_eq!(later, first);
    let down = measured(Kind::MCPRemoteProxy, &good(), probe("2026-01-01T00:02:00Z", false), &first, 120);
    assert_eq!(down["lastHealthCheck"], "2026-01-01T00:02:00Z");
    assert_eq!(condition(&down, "RemoteAvailable").unwrap()["lastTransitionTime"], "2026-01-01T00:02:00Z");
    // A pod's clock is not to be trusted more than ours.
    let ahead = measured(Kind::MCPRemoteProxy, &good(), probe("2999-01-01T00:00:00Z", true), &down, 180);
    assert_eq!(ahead["lastHealthCheck"], "2026-01-01T00:03:00Z");
}

fn issuers(of: &[(&str, bool, &str)]) -> Value {
    let list: Vec<Value> = of
        .iter()
        .map(|(issuer, available, reason)| {
            json!({"issuer": issuer, "available": available, "reason": reason, "message": if *available { "" } else { "it answers 500" }})
        })
        .collect();
    json!({"authentication": {"available": false, "issuers": list}})
}

#[test]
fn callers_can_be_known_when_every_issuer_can_be_judged() {
    let i = "https://i.example";
    for (what, reports, expected, text) in [
        ("nobody asked", vec![], "-", ""),
        ("nobody answers", vec![silent("a")], "-", ""),
        ("nobody is asked for a token", vec![said("a", json!({"authentication": null}))], "-", ""),
        (
            "available",
            vec![said("a", issuers(&[(i, true, "Available")]))],
            "True/IssuersAvailable",
            "The tokens of every issuer can be judged.",
        ),
        (
            "of an older proxy",
            vec![said("a", json!({"authentication": {"issuers": [{"issuer": i, "available": true}]}}))],
            "True/IssuersAvailable",
            "The tokens of every issuer can be judged.",
        ),
        (
            "outdated",
            vec![said("a", issuers(&[(i, true, "KeysOutdated"), ("b", true, "Available")]))],
            "True/KeysOutdated",
            "`https://i.example` cannot be asked for new keys; those at hand are used for a day.",
        ),
        (
            "not tried",
            vec![said("a", issuers(&[(i, false, "NotTried")]))],
            "Unknown/NotTried",
            "`https://i.example` has not been asked for its keys yet.",
        ),
        (
            "not tried by one",
            vec![
                said("a", issuers(&[(i, false, "NotTried")])),
                said("b", issuers(&[(i, true, "Available")])),
            ],
            "True/IssuersAvailable",
            "The tokens of every issuer can be judged.",
        ),
        (
            "failing for one pod",
            vec![
                said("a", issuers(&[(i, false, "DiscoveryFailed")])),
                said("b", issuers(&[(i, true, "Available")])),
            ],
            "False/DiscoveryFailed",
            "Tokens of `https://i.example` cannot be judged: it answers 500 (1 of 2 pods says so.)",
        ),
        (
            "failing for no known reason",
            vec![said("a", issuers(&[(i, false, "Tired")]))],
            "False/IssuerUnavailable",
            "Tokens of `https://i.example` cannot be judged: it answers 500",
        ),
        (
            "many failing",
            vec![said(
                "a",
                issuers(&[
                    ("1", false, "KeysUnreachable"),
                    ("2", false, "KeysUnreachable"),
                    ("3", false, "KeysUnreachable"),
                    ("4", false, "KeysUnreachable"),
                    ("5", true, "Available"),
                ]),
            )],
            "False/KeysUnreachable",
            "Tokens of `1`, `2`, `3` and 1 more cannot be judged: it answers 500",
        ),
    ] {
        for kind in [Kind::MCPServer, Kind::MCPRemoteProxy] {
            let status = measured(kind, &good(), reports.clone(), &Value::Null, 0);
            assert_eq!(says(&status, "AuthConfigured"), expected, "{what}");
            if expected != "-" {
                assert_eq!(message(&status, "AuthConfigured"), text, "{what}");
            }
        }
    }
    for reason in ["DiscoveryFailed", "KeysUnreachable", "KeysUnusable", "IntrospectionFailed"] {
        let status = proxy(vec![said("a", issuers(&[(i, false, reason)]))]);
        assert_eq!(says(&status, "AuthConfigured"), format!("False/{reason}"));
    }
}

#[test]
fn tokens_can_be_exchanged_when_the_last_one_could() {
    let credential = |ready: Value, reason: &str, code: Value| json!({"credential": {"type": "tokenExchange", "ready": ready, "reason": reason, "code": code}});
    let exchanging = || {
        let mut planned = good();
        let workload = planned.plan.as_mut().unwrap().workload.as_mut().unwrap();
        workload.run_config.token_exchange_config = Some(serde_json::from_value(json!({})).unwrap());
        planned
    };
    let fine = credential(json!(true), "Ready", Value::Null);
    let untried = credential(Value::Null, "NotTriedOfLate", Value::Null);
    for (what, planned, reports, expected, ready, text) in [
        ("no credential is made", good(), vec![said("a", json!({}))], "-", Value::Null, ""),
        ("no credential is to be made", good(), vec![], "-", Value::Null, ""),
        (
            "nobody asked",
            exchanging(),
            vec![],
            "Unknown/NoReport",
            Value::Null,
            "No proxy pod has reported yet.",
        ),
        (
            "none needed",
            exchanging(),
            vec![said("a", untried.clone())],
            "Unknown/NotTriedOfLate",
            Value::Null,
            "No credential was needed of late.",
        ),
        (
            "made",
            exchanging(),
            vec![said("a", untried), said("b", fine.clone())],
            "True/Ready",
            json!(true),
            "Credentials for the MCP server can be made.",
        ),
        (
            "refused",
            exchanging(),
            vec![said("a", credential(json!(false), "Refused", json!("invalid_client"))), said("b", fine)],
            "False/Refused",
            json!(false),
            "The endpoint refuses the proxy with `invalid_client`. (1 of 2 pods says so.)",
        ),
        (
            "away",
            exchanging(),
            vec![said("a", credential(json!(false), "Unavailable", Value::Null))],
            "False/Unavailable",
            json!(false),
            "The endpoint cannot be reached, or has a fault.",
        ),
        (
            "unusable",
            exchanging(),
            vec![said("a", credential(json!(false), "UnusableAnswer", Value::Null))],
            "False/UnusableAnswer",
            json!(false),
            "The endpoint's answer holds no usable credential.",
        ),
        (
            "not known why",
            exchanging(),
            vec![said("a", credential(json!(false), "Tired", Value::Null))],
            "False/NotReady",
            json!(false),
            "Credentials for the MCP server cannot be made.",
        ),
    ] {
        let status = measured(Kind::MCPRemoteProxy, &planned, reports, &Value::Null, 0);
        assert_eq!(says(&status, "TokenExchangeReady"), expected, "{what}");
        assert_eq!(status["tokenExchangeReady"], ready, "{what}");
        if expected != "-" {
            assert_eq!(message(&status, "TokenExchangeReady"), text, "{what}");
        }
    }
}

#[test]
fn a_configuration_is_loaded_when_no_pod_refused_it_and_every_pod_has_it() {
    let text = "{}\n";
    // printf '{}\n' | sha256sum
    let newest = "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356";
    let mut planned = good();
    planned.plan.as_mut().unwrap().objects =
        vec![json!({"kind": "Service"}), json!({"kind": "ConfigMap", "data": {"runconfig.json": text}})];
    let runs = |checksum: &str| json!({"runConfig": {"checksum": checksum}});
    let refused = json!({"config": {"refused": 1, "lastRefusal": "remote_url is no URL"}});
    let older = "0".repeat(64);
    for (what, reports, expected, text) in [
        ("nobody asked", vec![], "-", ""),
        (
            "says nothing of it",
            vec![said("a", json!({}))],
            "True/ConfigurationLoaded",
            "The proxy runs with its newest configuration.",
        ),
        (
            "newest",
            vec![said("a", runs(newest))],
            "True/ConfigurationLoaded",
            "The proxy runs with its newest configuration.",
        ),
        (
            "one is behind",
            vec![said("a", runs(newest)), said("b", runs(&older))],
            "Unknown/ConfigurationPending",
            "The newest configuration has not arrived yet. (1 of 2 pods says so.)",
        ),
        (
            "refused",
            vec![said("a", refused)],
            "False/ConfigurationRefused",
            "The newest configuration is refused, and the one before it still runs: remote_url is no URL",
        ),
    ] {
        let status = measured(Kind::MCPRemoteProxy, &planned, reports, &Value::Null, 0);
        assert_eq!(says(&status, "ConfigurationLoaded"), expected, "{what}");
        if expected != "-" {
            assert_eq!(message(&status, "ConfigurationLoaded"), text, "{what}");
        }
    }
}

#[test]
fn the_order_of_reports_does_not_matter() {
    let reports = vec![
        said("a", remote(false, "TimedOut", "x")),
        said("b", remote(false, "TimedOut", "y")),
        said("c", issuers(&[("i", false, "KeysUnusable"), ("j", false, "DiscoveryFailed")])),
        said("d", issuers(&[("j", false, "KeysUnusable"), ("i", false, "NotTried")])),
        silent("e"),
    ];
    let expected = proxy(reports.clone());
    for turn in 0..reports.len() {
        let mut turned = reports.clone();
        turned.rotate_left(turn);
        assert_eq!(proxy(turned), expected);
    }
}

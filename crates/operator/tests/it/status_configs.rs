//! What the status of configs, groups and entries says, and which changes are worth an event.

use serde_json::{Value, json};
use skep_api::crd::status::ReferencingWorkload;
use skep_api::crd::{Kind, Object};
use skep_operator::observe::Observed;
use skep_operator::plan::{Missing, Planned, plan_object};
use skep_operator::status::{self, Members, Transition, transitions};

use super::manifests::world;
use super::status_workload::{at, condition, good, object, running, says, silent};

const OIDC: &str = "apiVersion: toolhive.stacklok.dev/v1beta1
kind: MCPOIDCConfig
metadata: {name: idp, namespace: ns, generation: 2}
spec: {type: inline, inline: {issuer: ISSUER}}
";

fn planned(text: &str) -> (Object, Planned) {
    let (mut objects, world) = world(text, Missing::Refuse);
    let object = objects.pop().unwrap();
    let planned = plan_object(&object, &world);
    (object, planned)
}

fn referrer(kind: &str, name: &str) -> ReferencingWorkload {
    ReferencingWorkload { kind: kind.to_owned(), name: name.to_owned() }
}

fn terminating(object: &Object) -> Object {
    let mut going = object.clone();
    going.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".to_owned());
    going
}

#[test]
fn a_config_is_ready_when_it_is_valid() {
    for (issuer, valid, ready) in [
        ("https://idp.example.com", "True/ConfigValid", "True/Ready"),
        ("http://idp.example.com", "False/ConfigInvalid", "False/NotReady"),
        ("[]", "False/ConfigInvalid", "False/NotReady"),
    ] {
        let (object, planned) = planned(&OIDC.replace("ISSUER", issuer));
        let status = status::config(&object, &planned, &[], &Value::Null, at(0));
        assert_eq!(says(&status, "Valid"), valid, "{issuer}");
        assert_eq!(says(&status, "Ready"), ready, "{issuer}");
        let text = |kind: &str| condition(&status, kind).unwrap()["message"].clone();
        assert_eq!(text("Ready"), text("Valid"));
        assert_eq!(status["observedGeneration"], 2);
        assert_eq!(status["configHash"].as_str(), planned.config_hash.as_deref());
    }
}

#[test]
fn a_config_names_who_refers_to_it_sorted_and_once() {
    let (object, planned) = planned(&OIDC.replace("ISSUER", "https://idp.example.com"));
    let referrers = [
        referrer("MCPServer", "b"),
        referrer("MCPServer", "a"),
        referrer("MCPRemoteProxy", "z"),
        referrer("MCPServer", "b"),
    ];
    let status = status::config(&object, &planned, &referrers, &Value::Null, at(0));
    assert_eq!(
        status["referencingWorkloads"],
        json!([{"kind": "MCPRemoteProxy", "name": "z"}, {"kind": "MCPServer", "name": "a"}, {"kind": "MCPServer", "name": "b"}])
    );
    let status = status::config(&object, &planned, &[], &status, at(1));
    assert_eq!(status.get("referencingWorkloads"), None);
}

#[test]
fn a_config_that_is_referred_to_says_why_it_does_not_go() {
    let (object, planned) = planned(&OIDC.replace("ISSUER", "https://idp.example.com"));
    let before = status::config(&object, &planned, &[], &Value::Null, at(0));
    let going = terminating(&object);
    let referrers: Vec<_> = (0..12).map(|n| referrer("MCPServer", &format!("s{n:02}"))).collect();
    let status = status::config(&going, &Planned::default(), &referrers, &before, at(9));
    assert_eq!(says(&status, "DeletionBlocked"), "True/ReferencedByWorkloads");
    let message = condition(&status, "DeletionBlocked").unwrap()["message"].as_str().unwrap();
    assert!(
        message.contains("MCPServer `s00`, MCPServer `s01`") && message.ends_with(" and 2 more."),
        "{message}"
    );
    assert_eq!(says(&status, "Ready"), "False/Terminating");
    assert_eq!(
        (says(&status, "Valid"), &status["configHash"]),
        (says(&before, "Valid"), &before["configHash"])
    );
    assert_eq!(status["referencingWorkloads"].as_array().unwrap().len(), 12);
    let told = transitions(&before, &status);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].reason.as_str(), told[0].warning), ("ReferencedByWorkloads", true));
}

#[test]
fn a_list_of_referrers_fits_into_one_object() {
    let (object, planned) = planned(&OIDC.replace("ISSUER", "https://idp.example.com"));
    let referrers: Vec<_> = (0..50_000).map(|n| referrer("MCPServer", &format!("{n:0>50}"))).collect();
    let status = status::config(&terminating(&object), &planned, &referrers, &Value::Null, at(0));
    assert!(status.to_string().len() < 500_000);
}

#[test]
fn an_identity_is_made_up_where_a_provider_says_nothing_of_its_users() {
    let config = |providers: Value| {
        Object::parse(&json!({
            "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPExternalAuthConfig", "metadata": {"name": "as"},
            "spec": {"type": "embeddedAuthServer", "embeddedAuthServer": {"issuer": "https://as.example.com", "upstreamProviders": providers}},
        }))
        .unwrap()
    };
    let oauth2 = |name: &str, more: Value| {
        let mut provider = json!({"authorizationEndpoint": "https://p.example.com/a", "tokenEndpoint": "https://p.example.com/t", "clientId": "c"});
        provider.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        json!({"name": name, "type": "oauth2", "oauth2Config": provider})
    };
    let oidc = json!({"name": "idp", "type": "oidc", "oidcConfig": {"issuerUrl": "https://idp.example.com", "clientId": "c"}});
    let endpoint = json!({"userInfo": {"endpointUrl": "https://p.example.com/u"}});
    let token = json!({"identityFromToken": {"subjectPath": "user.id"}});
    for (what, providers, expected) in [
        ("oidc", json!([oidc]), "False/AllUpstreamsHaveUserInfo"),
        ("userinfo", json!([oauth2("a", endpoint.clone())]), "False/AllUpstreamsHaveUserInfo"),
        ("in the token", json!([oauth2("a", token)]), "False/AllUpstreamsHaveUserInfo"),
        ("nothing", json!([oauth2("a", Value::Null)]), "True/OAuth2UpstreamWithoutUserInfo"),
        (
            "one of them",
            json!([oauth2("a", endpoint), oauth2("b", Value::Null)]),
            "True/OAuth2UpstreamWithoutUserInfo",
        ),
    ] {
        let status = status::config(&config(providers), &Planned::default(), &[], &Value::Null, at(0));
        assert_eq!(says(&status, "IdentitySynthesized"), expected, "{what}");
    }
    let (object, planned) = planned(&OIDC.replace("ISSUER", "https://idp.example.com"));
    let present = json!({"conditions": [{"type": "IdentitySynthesized", "status": "True"}]});
    let status = status::config(&object, &planned, &[], &present, at(0));
    assert_eq!(says(&status, "IdentitySynthesized"), "-");
}

fn group() -> Object {
    Object::parse(&json!({"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPGroup", "metadata": {"name": "g", "generation": 1}, "spec": {}}))
        .unwrap()
}

#[test]
fn a_group_is_ready_as_soon_as_its_members_are_known() {
    let planned = plan_object(&group(), &Default::default());
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let members =
        Members { servers: names(&["b", "a", "b"]), remote_proxies: names(&["p"]), entries: Vec::new() };
    let status = status::group(&group(), &planned, Some(&members), &Value::Null, at(0));
    assert_eq!((&status["phase"], says(&status, "Ready").as_str()), (&json!("Ready"), "True/Ready"));
    assert_eq!(says(&status, "MCPServersChecked"), "True/ListMCPServersCheckSucceeded");
    assert_eq!((&status["servers"], &status["serverCount"]), (&json!(["a", "b"]), &json!(2)));
    assert_eq!((&status["remoteProxies"], &status["remoteProxyCount"]), (&json!(["p"]), &json!(1)));
    assert_eq!((status.get("entries"), &status["entryCount"]), (None, &json!(0)));

    let failed = status::group(&group(), &planned, None, &status, at(1));
    assert_eq!((&failed["phase"], says(&failed, "Ready").as_str()), (&json!("Failed"), "False/NotReady"));
    assert_eq!(says(&failed, "MCPServersChecked"), "False/ListMCPServersCheckFailed");
    assert_eq!(failed["servers"], status["servers"]);

    let empty = status::group(&group(), &planned, Some(&Members::default()), &status, at(2));
    assert_eq!(
        (&empty["phase"], empty.get("servers"), &empty["serverCount"]),
        (&json!("Ready"), None, &json!(0))
    );
    let going = status::group(&terminating(&group()), &Planned::default(), Some(&members), &status, at(3));
    assert_eq!(says(&going, "Ready"), "False/Terminating");
}

#[test]
fn an_entry_is_valid_or_failed() {
    let entry = Object::parse(&json!({
        "apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServerEntry", "metadata": {"name": "e", "generation": 1},
        "spec": {"remoteUrl": "https://a.example.com/", "transport": "sse", "groupRef": {"name": "g"}},
    }))
    .unwrap();
    let with = |conditions| Planned { conditions, ..Planned::default() };
    use skep_api::condition::Condition;
    for (planned, phase, ready) in [
        (with(vec![Condition::yes("Valid", "ConfigValid", "x")]), "Valid", "True/Ready"),
        (with(vec![Condition::no("Valid", "ConfigInvalid", "x")]), "Failed", "False/NotReady"),
        (Planned::default(), "Pending", "Unknown/NotReady"),
    ] {
        let status = status::entry(&entry, &planned, &Value::Null, at(0));
        assert_eq!((status["phase"].as_str(), says(&status, "Ready").as_str()), (Some(phase), ready));
        assert_eq!(status["observedGeneration"], 1);
    }
    let before =
        status::entry(&entry, &with(vec![Condition::yes("Valid", "ConfigValid", "x")]), &Value::Null, at(0));
    let going = status::entry(&terminating(&entry), &Planned::default(), &before, at(1));
    assert_eq!(
        (says(&going, "Valid"), says(&going, "Ready")),
        ("True/ConfigValid".to_owned(), "False/Terminating".to_owned())
    );
}

fn listed(conditions: &[(&str, &str, &str)]) -> Value {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(kind, status, reason)| json!({"type": kind, "status": status, "reason": reason, "message": "m"}))
        .collect();
    json!({"conditions": conditions})
}

fn told(before: &Value, after: &Value) -> Vec<String> {
    transitions(before, after)
        .into_iter()
        .map(|Transition { kind, from, to, reason, warning, .. }| {
            let sign = if warning { "!" } else { "" };
            format!("{sign}{kind} {}>{to} {reason}", from.as_deref().unwrap_or("-"))
        })
        .collect()
}

#[test]
fn only_news_is_told() {
    let none = json!({});
    let one = |kind: &str, status: &str, reason: &str| listed(&[(kind, status, reason)]);
    for (what, before, after, expected) in [
        ("new and good", none.clone(), one("ConfigurationValid", "True", "X"), vec![]),
        ("new and not known", none.clone(), one("RemoteAvailable", "Unknown", "NoReport"), vec![]),
        (
            "new and bad",
            none.clone(),
            one("ConfigurationValid", "False", "RemoteURLInvalid"),
            vec!["!ConfigurationValid ->False RemoteURLInvalid"],
        ),
        (
            "new and bad when true",
            none.clone(),
            one("DeletionBlocked", "True", "X"),
            vec!["!DeletionBlocked ->True X"],
        ),
        ("new and good when false", none.clone(), one("IdentitySynthesized", "False", "X"), vec![]),
        (
            "turned bad",
            one("RemoteAvailable", "True", "X"),
            one("RemoteAvailable", "False", "TimedOut"),
            vec!["!RemoteAvailable True>False TimedOut"],
        ),
        (
            "turned good",
            one("RemoteAvailable", "False", "TimedOut"),
            one("RemoteAvailable", "True", "X"),
            vec!["RemoteAvailable False>True X"],
        ),
        ("became known", one("RemoteAvailable", "Unknown", "A"), one("RemoteAvailable", "True", "B"), vec![]),
        (
            "bad for another reason",
            one("ConfigurationValid", "False", "A"),
            one("ConfigurationValid", "False", "B"),
            vec!["!ConfigurationValid False>False B"],
        ),
        ("good for another reason", one("Valid", "True", "A"), one("Valid", "True", "B"), vec![]),
        ("gone", one("Valid", "False", "A"), none.clone(), vec![]),
        ("somebody else's", none.clone(), one("example.com/X", "False", "A"), vec![]),
        ("starting", none.clone(), one("Ready", "False", "NotReady"), vec![]),
        ("still starting", one("Ready", "False", "NotReady"), one("Ready", "False", "Other"), vec![]),
        (
            "started",
            one("Ready", "False", "NotReady"),
            one("Ready", "True", "Ready"),
            vec!["Ready False>True Ready"],
        ),
        ("ready at once", none.clone(), one("Ready", "True", "Ready"), vec!["Ready ->True Ready"]),
        (
            "no longer ready",
            one("Ready", "True", "Ready"),
            one("Ready", "False", "NotReady"),
            vec!["!Ready True>False NotReady"],
        ),
        (
            "no longer ready for a reason that is told",
            listed(&[("Ready", "True", "Ready"), ("ConfigurationValid", "True", "X")]),
            listed(&[("Ready", "False", "NotReady"), ("ConfigurationValid", "False", "Y")]),
            vec!["!ConfigurationValid True>False Y"],
        ),
    ] {
        assert_eq!(told(&before, &after), expected, "{what}");
    }
}

#[test]
fn a_workload_that_fails_is_told_once() {
    let object = object(Kind::MCPServer, Value::Null);
    let workload = |planned: &Planned, observed: &Observed, present: &Value, second: i64| {
        status::workload(&object, planned, observed, present, at(second))
    };
    let invalid = super::status_workload::bad("spec.image", "InvalidField", "No.");
    let starting = workload(&good(), &Default::default(), &Value::Null, 0);
    assert_eq!(told(&json!({}), &starting), Vec::<String>::new());
    let ready = workload(&good(), &running(), &starting, 1);
    assert_eq!(told(&starting, &ready), ["Ready False>True Ready"]);
    let failed = workload(&invalid, &running(), &ready, 2);
    assert_eq!(told(&ready, &failed), ["!Ready True>False NotReady"]);
    assert_eq!(told(&failed, &workload(&invalid, &running(), &failed, 3)), Vec::<String>::new());
    // `Ready` is False with the same reason before and after; the phase makes the difference.
    let failed = workload(&invalid, &Default::default(), &starting, 4);
    assert_eq!(told(&starting, &failed), ["!Ready False>False NotReady"]);
    let failed = workload(&invalid, &Default::default(), &Value::Null, 5);
    assert_eq!(told(&json!({}), &failed), ["!Ready ->False NotReady"]);
}

#[test]
fn a_report_that_does_not_come_is_no_event() {
    let object = object(Kind::MCPRemoteProxy, Value::Null);
    let ready = status::workload(&object, &good(), &running(), &Value::Null, at(0));
    let mut observed = running();
    observed.reports = vec![silent("a")];
    let after = status::workload(&object, &good(), &observed, &ready, at(1));
    assert_eq!(told(&ready, &after), Vec::<String>::new());
}

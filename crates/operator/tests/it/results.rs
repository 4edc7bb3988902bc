//! Problems and conditions.

use std::fmt::Write as _;

use skep_api::condition::ConditionStatus;
use skep_api::crd::Kind;
use skep_api::problem::Problem;
use skep_operator::plan::{Missing, Place, plan_object};

use crate::manifests::{files, plan, world};

#[test]
fn conditions_of_every_manifest() {
    let mut text = String::new();
    for folder in ["good", "bad"] {
        for file in files(folder) {
            writeln!(text, "{folder}/{}", file.file_stem().unwrap().to_string_lossy()).unwrap();
            for (object, planned) in plan(&std::fs::read_to_string(&file).unwrap()) {
                let conditions: Vec<String> = planned
                    .conditions
                    .iter()
                    .map(|condition| {
                        let status = if condition.status == ConditionStatus::True { "" } else { "!" };
                        format!("{status}{}={}", condition.kind, condition.reason)
                    })
                    .collect();
                writeln!(text, "  {} {}: {}", object.kind, object.metadata.name, conditions.join(" "))
                    .unwrap();
            }
        }
    }
    insta::assert_snapshot!("conditions", text);
}

#[test]
fn an_object_with_an_error_has_no_plan_and_one_without_has_one() {
    for folder in ["good", "bad"] {
        for file in files(folder) {
            for (object, planned) in plan(&std::fs::read_to_string(&file).unwrap()) {
                let refused = planned.problems.iter().any(Problem::is_error);
                assert_eq!(planned.plan.is_none(), refused, "{} {}", file.display(), object.metadata.name);
            }
        }
    }
}

/// Whatever a bad manifest refers to, its workload must not run without it.
#[test]
fn nothing_is_planned_without_the_protection_it_names() {
    for reference in [
        "oidcConfigRef: {name: x, audience: a}",
        "authMode: anonymous, authzConfigRef: {name: x}",
        "authMode: anonymous, authzConfig: {type: configMap, configMap: {name: x}}",
        "authMode: anonymous, toolConfigRef: {name: x}",
        "authMode: anonymous, externalAuthConfigRef: {name: x}",
        "oidcConfig: {type: configMap, configMap: {name: x}}",
    ] {
        let text = format!(
            "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {{name: p}}\nspec: {{remoteUrl: 'https://a.example.com', {reference}}}\n"
        );
        for (missing, error) in [(Missing::Warn, false), (Missing::Refuse, true)] {
            let (objects, world) = world(&text, missing);
            let planned = plan_object(&objects[0], &world);
            assert!(planned.plan.is_none(), "{reference}");
            assert_eq!(
                planned.problems.iter().any(Problem::is_error),
                error,
                "{reference}: {:?}",
                planned.problems
            );
            assert!(!planned.problems.is_empty());
        }
    }
}

#[test]
fn a_missing_secret_is_said_but_the_plan_stands_when_the_files_may_not_be_all() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {name: p}\nspec:\n  remoteUrl: https://a.example.com\n  authMode: anonymous\n  headerForward: {addHeadersFromSecret: [{headerName: X-Key, valueSecretRef: {name: s, key: k}}]}\n";
    let (objects, world) = world(text, Missing::Warn);
    let planned = plan_object(&objects[0], &world);
    assert_eq!(planned.problems[0].reason, "HeaderSecretNotFound");
    assert!(planned.plan.is_some());
}

#[test]
fn loopback_is_for_this_machine_only() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {name: p}\nspec:\n  remoteUrl: http://127.0.0.1:3000/mcp\n  clientToken: strip\n  oidcConfig: {type: inline, inline: {issuer: 'http://127.0.0.1:4000', audience: demo}}\n";
    let (objects, mut world) = world(text, Missing::Refuse);
    assert!(plan_object(&objects[0], &world).plan.is_none());
    world.settings.place = Place::Local;
    let planned = plan_object(&objects[0], &world);
    let config =
        planned.plan.unwrap_or_else(|| panic!("{:?}", planned.problems)).workload.unwrap().run_config;
    let oidc = config.oidc_config.unwrap();
    assert!(oidc.insecure_allow_http && oidc.resource_url.is_empty());
}

#[test]
fn a_terminating_workload_is_never_planned() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {name: t, deletionTimestamp: '2026-01-01T00:00:00Z'}\nspec: {image: a, authMode: anonymous}\n";
    let planned = plan(text).pop().unwrap().1;
    assert!(planned.plan.is_none());
}

#[test]
fn a_workload_is_refused_where_auth_is_required() {
    for (kind, spec) in
        [(Kind::MCPServer, "image: a"), (Kind::MCPRemoteProxy, "remoteUrl: 'https://a.example.com'")]
    {
        let text = format!(
            "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: {kind}\nmetadata: {{name: w}}\nspec: {{{spec}, authMode: anonymous}}\n"
        );
        let (objects, mut world) = world(&text, Missing::Refuse);
        assert!(plan_object(&objects[0], &world).plan.is_some(), "{kind}");
        world.settings.require_auth = true;
        assert!(plan_object(&objects[0], &world).plan.is_none(), "{kind}");
        world.settings.require_auth = false;
        world.namespace_labels.insert("skep.dev/require-auth".to_owned(), "true".to_owned());
        assert!(plan_object(&objects[0], &world).plan.is_none(), "{kind}");
    }
}

#[test]
fn what_a_template_may_not_do_needs_a_label_on_the_namespace() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {name: p}\nspec:\n  remoteUrl: https://a.example.com\n  authMode: anonymous\n  podTemplateSpec: {spec: {hostNetwork: true}}\n";
    let (objects, mut world) = world(text, Missing::Refuse);
    assert!(plan_object(&objects[0], &world).plan.is_none());
    world.namespace_labels.insert("skep.dev/allow-privileged-template".to_owned(), "true".to_owned());
    assert!(plan_object(&objects[0], &world).plan.is_some());
}

//! Whatever is written, the planner answers.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use skep_api::crd::{Kind, Object};
use skep_api::problem::Problem;
use skep_operator::plan::{Missing, Settings, World, plan_object};

const FIELDS: [&str; 48] = [
    "remoteUrl",
    "remoteURL",
    "proxyPort",
    "port",
    "transport",
    "oidcConfig",
    "oidcConfigRef",
    "type",
    "inline",
    "kubernetes",
    "configMap",
    "issuer",
    "audience",
    "resourceUrl",
    "authzConfig",
    "policies",
    "entitiesJson",
    "authMode",
    "clientToken",
    "name",
    "key",
    "headerForward",
    "addPlaintextHeaders",
    "podTemplateSpec",
    "spec",
    "metadata",
    "containers",
    "labels",
    "image",
    "replicas",
    "secrets",
    "env",
    "value",
    "networkPolicy",
    "enabled",
    "allowedEgress",
    "cidr",
    "host",
    "resources",
    "limits",
    "cpu",
    "toolsFilter",
    "toolsOverride",
    "config",
    "tokenExchange",
    "token_url",
    "volumes",
    "groupRef",
];

const TEXTS: [&str; 20] = [
    "",
    "inline",
    "configMap",
    "kubernetes",
    "anonymous",
    "forward",
    "https://a.example.com/x",
    "http://127.0.0.1",
    "cedarv1",
    "permit(principal, action, resource);",
    "tokenExchange",
    "streamable-http",
    "é\u{0}\n",
    "10.0.0.0/8",
    "128Mi",
    "[]",
    "x",
    "https://[::1]:99999",
    "stdio",
    "permit(",
];

fn any_spec() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2..70_000_i64).prop_map(Value::from),
        prop::sample::select(TEXTS.to_vec()).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 80, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(FIELDS.to_vec()), inner), 0..10).prop_map(
                |entries| Value::Object(
                    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
                )
            ),
        ]
    })
}

/// A spec that is likely to get far: valid at the top, random below.
fn likely_spec() -> impl Strategy<Value = Value> {
    prop::collection::vec((prop::sample::select(FIELDS.to_vec()), any_spec()), 0..6).prop_map(|entries| {
        let mut spec: Map<String, Value> =
            entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        spec.entry("remoteUrl").or_insert(json!("https://a.example.com"));
        spec.entry("image").or_insert(json!("a"));
        spec.entry("authMode").or_insert(json!("anonymous"));
        Value::Object(spec)
    })
}

proptest! {
    #[test]
    fn no_spec_makes_the_planner_panic(
        spec in prop_oneof![any_spec(), likely_spec()],
        kind in prop::sample::select(Kind::ALL.to_vec()),
        lenient in any::<bool>(),
    ) {
        let value = json!({"apiVersion": kind.stored().api_version(), "kind": kind.as_str(), "metadata": {"name": "p"}, "spec": spec});
        let object = Object::parse(&value).unwrap();
        let missing = if lenient { Missing::Warn } else { Missing::Refuse };
        let world = World { settings: Settings { missing, ..Settings::default() }, ..World::default() };
        let planned = plan_object(&object, &world);
        prop_assert!(planned.plan.is_none() || !planned.problems.iter().any(Problem::is_error));
        prop_assert!(planned.plan.is_some() || !planned.problems.is_empty());
    }

    #[test]
    fn a_remote_proxy_never_runs_open_without_saying_so(spec in prop_oneof![any_spec(), likely_spec()]) {
        let value = json!({"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPRemoteProxy", "metadata": {"name": "p"}, "spec": spec});
        let planned = plan_object(&Object::parse(&value).unwrap(), &World::default());
        if let Some(workload) = planned.plan.and_then(|plan| plan.workload) {
            let said = spec.get("authMode") == Some(&json!("anonymous"));
            prop_assert_eq!(workload.run_config.oidc_config.is_none(), said);
            if let Some(oidc) = workload.run_config.oidc_config {
                prop_assert!(!oidc.issuer.is_empty() && !oidc.audience.is_empty());
            }
        }
    }
}

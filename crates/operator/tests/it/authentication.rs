//! How incoming tokens are judged: what of a manifest reaches the proxy, and what is refused.

use skep_api::problem::Problem;
use skep_api::runconfig::AuthMode;
use skep_operator::plan::{Place, Planned, Workload, plan_object};

use crate::manifests::{files, plan, world};

/// The plan of one workload or config of a file.
fn planned(file: &str, name: &str) -> Planned {
    let path = ["good", "bad"]
        .into_iter()
        .flat_map(files)
        .find(|path| path.file_stem().unwrap() == file)
        .unwrap_or_else(|| panic!("{file}"));
    let named = plan(&std::fs::read_to_string(path).unwrap());
    let mut found = named.into_iter().filter(|(object, _)| object.metadata.name == name);
    found.next_back().unwrap_or_else(|| panic!("{name}")).1
}

fn workload(file: &str, name: &str) -> Workload {
    let planned = planned(file, name);
    planned.plan.unwrap_or_else(|| panic!("{:?}", planned.problems)).workload.unwrap()
}

fn reasons(planned: &Planned, errors: bool) -> Vec<&str> {
    let wanted = |problem: &&Problem| problem.is_error() == errors;
    planned.problems.iter().filter(wanted).map(|problem| problem.reason.as_str()).collect()
}

#[test]
fn a_client_secret_goes_to_nobody_but_the_issuer_that_it_is_said_for() {
    let workload = workload("remote-unused-client", "p");
    assert_eq!(workload.env, []);
    assert_eq!(workload.files, []);
    assert!(workload.run_config.skep.secret_files.is_empty());
    let planned = planned("remote-unused-client", "p");
    assert_eq!(reasons(&planned, false), ["UnusedClientSecret", "UnusedClientSecret", "UnusedClientId"]);
}

#[test]
fn a_config_map_with_a_key_for_each_setting_is_read_as_toolhive_reads_it() {
    let found = workload("remote-oidc-config-map-keys", "p");
    let oidc = found.run_config.oidc_config.clone().unwrap();
    assert_eq!(oidc.issuer, "https://login.example.com");
    assert_eq!(oidc.audience, "mcp");
    assert_eq!(oidc.jwks_url, "https://login.example.com/keys");
    assert_eq!(oidc.introspection_url, "https://login.example.com/introspect");
    assert_eq!(oidc.client_id, "gate");
    assert_eq!(oidc.ca_cert_path, "/etc/ssl/ours.pem");
    assert_eq!(oidc.scopes, ["openid", "mcp.read"]);
    assert!(oidc.allow_private_ip && !oidc.insecure_allow_http);
    assert!(!found.run_config.to_json().contains("not-a-real-value"));
    let planned = planned("remote-oidc-config-map-keys", "p");
    assert_eq!(reasons(&planned, false), ["SecretInManifest"]);
    assert_eq!(workload("remote-oidc-config-map-keys", "q").run_config.oidc_config.unwrap().audience, "mcp");
}

#[test]
fn the_pods_own_token_gets_the_keys_of_a_cluster_whose_issuer_is_elsewhere() {
    let oidc = workload("remote-cluster-keys", "p").run_config.oidc_config.unwrap();
    assert_eq!(oidc.auth_token_file, "/var/run/secrets/kubernetes.io/serviceaccount/token");
    assert!(oidc.issuer.starts_with("https://oidc.eks."), "{}", oidc.issuer);
}

#[test]
fn naming_a_service_account_says_with_which_policy_it_is_restricted() {
    for (name, subject) in
        [("cluster", "system:serviceaccount:NAMESPACE:only-me"), ("q", "system:serviceaccount:team:agent")]
    {
        let planned = planned("remote-cluster-keys", name);
        let problem = &planned.problems[0];
        assert_eq!(problem.reason, "ServiceAccountNotRestricting", "{name}");
        assert!(problem.message.contains(subject), "{name}: {}", problem.message);
    }
}

#[test]
fn one_credential_for_everybody_is_worth_a_warning_and_said_to_the_proxy() {
    for name in ["header", "token"] {
        let planned = planned("server-fixed-credential-without-caller", name);
        assert_eq!(reasons(&planned, false), ["Anonymous", "CredentialForEverybody"], "{name}");
        let config = planned.plan.unwrap().workload.unwrap().run_config;
        assert_eq!(config.skep.auth_mode, AuthMode::Anonymous, "{name}: else the proxy refuses to start");
    }
    let planned = planned("server-exchange-without-caller", "s");
    assert_eq!(reasons(&planned, true), ["CallerRequired"]);
    assert!(
        planned.suspend.is_none() && planned.suspend_if_open.is_none(),
        "a mistake in an edit is no reason"
    );
}

#[test]
fn what_no_proxy_calls_is_refused_as_soon_as_it_is_written() {
    let path = files("bad").into_iter().find(|path| path.ends_with("addresses-never-called.yaml")).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let planned = plan(&text);
    assert_eq!(planned.len(), 13);
    for (object, planned) in &planned {
        assert_eq!(reasons(planned, true).len(), 1, "{}: {:?}", object.metadata.name, planned.problems);
    }
    // On this machine loopback is what one wants, and the rest is as wrong as elsewhere.
    let (objects, mut world) = world(&text, skep_operator::plan::Missing::Refuse);
    world.settings.place = Place::Local;
    let fine: Vec<&str> = objects
        .iter()
        .filter(|object| plan_object(object, &world).plan.is_some())
        .map(|object| object.metadata.name.as_str())
        .collect();
    assert_eq!(fine, ["issuer", "issuer-plain", "introspection", "token-url"]);
}

#[test]
fn a_shared_config_does_not_say_for_whom_tokens_are_made() {
    let of = |name: &str| planned("oidc-config-audiences", name);
    for (name, errors, warnings) in [
        ("widens", vec!["AuthInvalid"], vec![]),
        ("widened", vec!["OIDCConfigRefNotValid"], vec![]),
        ("says-one", vec![], vec!["AudienceIgnored"]),
        ("says-another", vec!["AuthInvalid"], vec![]),
        ("says-the-same", vec![], vec![]),
        ("cluster", vec![], vec!["AudienceIgnored"]),
        ("of-the-cluster", vec!["AuthInvalid"], vec![]),
    ] {
        let planned = of(name);
        assert_eq!((reasons(&planned, true), reasons(&planned, false)), (errors, warnings), "{name}");
    }
}

#[test]
fn a_transport_that_the_proxy_refuses_is_said_where_it_is_written() {
    for (transport, expected) in [
        ("", vec!["NotYetRunnable"]),
        (", transport: stdio", vec!["NotYetRunnable"]),
        (", transport: sse", vec!["NotYetRunnable"]),
        (", transport: streamable-http", vec![]),
    ] {
        let text = format!(
            "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {{name: s}}\nspec: {{image: a, authMode: anonymous{transport}}}\n"
        );
        let planned = plan(&text).pop().unwrap().1;
        assert_eq!(reasons(&planned, false), expected, "{transport}");
        assert!(planned.plan.is_some());
    }
}

#[test]
fn a_broken_credential_is_named_by_its_own_reason_and_other_references_by_theirs() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPExternalAuthConfig\nmetadata: {name: e}\nspec: {type: tokenExchange, tokenExchange: {tokenUrl: nowhere, audience: a}}\n---\napiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPOIDCConfig\nmetadata: {name: o}\nspec: {type: inline, inline: {issuer: nowhere}}\n---\napiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {name: p}\nspec: {remoteUrl: 'https://mcp.example.com', oidcConfigRef: {name: o, audience: a}, externalAuthConfigRef: {name: e}}\n";
    let planned = plan(text).pop().unwrap().1;
    for (kind, reason) in [
        ("ExternalAuthConfigValidated", "ValidationFailed"),
        ("OIDCConfigRefValidated", "OIDCConfigRefNotValid"),
    ] {
        let found = planned.conditions.iter().find(|condition| condition.kind == kind).unwrap();
        assert_eq!(found.reason, reason, "{kind}");
    }
}

//! Conditions that the spec and its references decide, with ToolHive's reasons.

use skep_api::condition::ConditionStatus::{self, False, True};
use skep_api::crd::Kind;
use skep_api::yaml::to_yaml_documents;
use skep_operator::plan::Missing;

use crate::cases::cases;
use crate::manifests::{plan, world};

const GROUP: &str = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPGroup\nmetadata: {name: g";
const CA: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ca}\ndata: {ca.crt: '-----BEGIN CERTIFICATE-----', bad: x}\n---\n";

/// What a workload with this spec says of a condition, beside other objects.
fn condition(others: &str, kind: Kind, spec: &str, name: &str) -> Option<(ConditionStatus, String)> {
    let base = match kind {
        Kind::MCPServer => "image: a",
        _ => "remoteUrl: 'https://m.example.com'",
    };
    let text = format!(
        "{others}apiVersion: toolhive.stacklok.dev/v1beta1\nkind: {kind}\nmetadata: {{name: w}}\nspec: {{{base}, {spec}}}\n"
    );
    let planned = plan(&text).pop().unwrap().1;
    let found = planned.conditions.into_iter().find(|condition| condition.kind == name)?;
    Some((found.status, found.reason))
}

/// What it is, other objects, the workload's spec, the condition, and its status and reason.
type Row<'a> = (&'a str, &'a str, &'a str, &'a str, Option<(ConditionStatus, &'a str)>);

fn table(rows: &[Row<'_>], kinds: &[Kind]) {
    for kind in kinds {
        for (what, others, spec, name, expected) in rows {
            let found = condition(others, *kind, spec, name);
            let found = found.as_ref().map(|(status, reason)| (*status, reason.as_str()));
            assert_eq!(found, *expected, "{kind}: {what}");
        }
    }
}

const BOTH: [Kind; 2] = [Kind::MCPServer, Kind::MCPRemoteProxy];
const ANON: &str = "authMode: anonymous";

#[test]
fn a_group_is_there_or_not_and_never_in_the_way() {
    let there = format!("{GROUP}}}\n---\n");
    let ending = format!("{GROUP}, deletionTimestamp: '2026-01-01T00:00:00Z'}}\n---\n");
    let broken = format!("{GROUP}}}\nspec: {{description: [1]}}\n---\n");
    let spec = "authMode: anonymous, groupRef: {name: g}";
    let name = "GroupRefValidated";
    table(
        &[
            ("none", "", ANON, name, None),
            ("there", &there, spec, name, Some((True, "GroupRefIsValid"))),
            ("not there", "", spec, name, Some((False, "GroupRefNotFound"))),
            ("being deleted", &ending, spec, name, Some((False, "GroupRefNotFound"))),
            ("not valid", &broken, spec, name, Some((False, "GroupRefNotReady"))),
        ],
        &BOTH,
    );
    for others in ["", &ending, &broken] {
        let text = format!(
            "{others}apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {{name: w}}\nspec: {{remoteUrl: 'https://m.example.com', {spec}}}\n"
        );
        let planned = plan(&text).pop().unwrap().1;
        assert!(planned.plan.is_some(), "{:?}", planned.problems);
        assert_eq!(planned.problems.len(), 1);
    }
    let said = plan(&format!(
        "{ending}apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {{name: w}}\nspec: {{image: a, {spec}}}\n"
    ));
    let group = said[1].1.conditions.iter().find(|condition| condition.kind == name).unwrap();
    assert!(group.message.contains("is being deleted"), "{}", group.message);
}

#[test]
fn pod_templates_and_ca_bundles() {
    let issuer = |bundle: &str| {
        format!(
            "oidcConfig: {{type: inline, inline: {{issuer: 'https://i.example.com', audience: a, caBundleRef: {{configMapRef: {{name: ca{bundle}}}}}}}}}"
        )
    };
    let two = "oidcConfig: {type: inline, inline: {issuer: 'https://i.example.com', audience: a, caBundleRef: {configMapRef: {name: gone}}, additionalIssuers: [{subjectPrefix: 'a:', issuer: 'https://j.example.com', caBundleRef: {configMapRef: {name: ca}}}]}}";
    table(
        &[
            ("no template", "", ANON, "PodTemplateValid", None),
            (
                "a template",
                "",
                "authMode: anonymous, podTemplateSpec: {spec: {nodeSelector: {a: b}}}",
                "PodTemplateValid",
                Some((True, "ValidPodTemplateSpec")),
            ),
            (
                "no pod's field",
                "",
                "authMode: anonymous, podTemplateSpec: {spec: {nodeSelektor: {}}}",
                "PodTemplateValid",
                Some((False, "InvalidPodTemplateSpec")),
            ),
            ("no bundle", "", ANON, "CABundleRefValidated", None),
            ("a bundle", CA, &issuer(""), "CABundleRefValidated", Some((True, "CABundleRefValid"))),
            ("no such bundle", "", &issuer(""), "CABundleRefValidated", Some((False, "CABundleRefNotFound"))),
            (
                "no such key",
                CA,
                &issuer(", key: gone"),
                "CABundleRefValidated",
                Some((False, "CABundleRefNotFound")),
            ),
            (
                "no certificate",
                CA,
                &issuer(", key: bad"),
                "CABundleRefValidated",
                Some((False, "CABundleRefInvalid")),
            ),
            ("one of two", CA, two, "CABundleRefValidated", Some((False, "CABundleRefNotFound"))),
        ],
        &BOTH,
    );
}

#[test]
fn sessions_of_several_pods() {
    let name = "SessionStorageWarning";
    table(
        &[
            ("one pod", "", ANON, name, Some((False, "SessionStorageWarningNotApplicable"))),
            (
                "one pod by number",
                "",
                "authMode: anonymous, replicas: 1",
                name,
                Some((False, "SessionStorageWarningNotApplicable")),
            ),
            (
                "several",
                "",
                "authMode: anonymous, replicas: 2",
                name,
                Some((True, "SessionStorageMissingForReplicas")),
            ),
            (
                "several, in memory",
                "",
                "authMode: anonymous, replicas: 2, sessionStorage: {provider: memory}",
                name,
                Some((True, "SessionStorageMissingForReplicas")),
            ),
            (
                "several, in Redis",
                "",
                "authMode: anonymous, replicas: 2, sessionStorage: {provider: redis, address: 'r:6379'}",
                name,
                Some((False, "SessionStorageConfigured")),
            ),
        ],
        &BOTH,
    );
}

#[test]
fn what_only_a_server_has() {
    let (capped, limits) = ("StdioReplicaCapped", "RateLimitConfigValid");
    let user = "rateLimiting: {perUser: {maxTokens: 1, refillPeriod: 1s}}";
    let tool = "rateLimiting: {tools: [{name: a, perUser: {maxTokens: 1, refillPeriod: 1s}}]}";
    let issuer = "oidcConfig: {type: inline, inline: {issuer: 'https://i.example.com', audience: a}}";
    let hooks = "apiVersion: toolhive.stacklok.dev/v1alpha1\nkind: MCPWebhookConfig\nmetadata: {name: h}\nspec: {validating: [{name: a, url: 'https://h.example.com'}]}\n---\n";
    let bad_hooks = hooks.replace("https:", "http:");
    let hooked = "authMode: anonymous, webhookConfigRef: {name: h}";
    let with = |a: &str, b: &str| format!("{a}, {b}");
    table(
        &[
            ("stdio, one", "", ANON, capped, Some((False, "StdioReplicaCapNotActive"))),
            (
                "stdio, several",
                "",
                "authMode: anonymous, replicas: 3",
                capped,
                Some((True, "StdioTransportCapAt1")),
            ),
            (
                "http, several",
                "",
                "authMode: anonymous, replicas: 3, transport: streamable-http",
                capped,
                Some((False, "StdioReplicaCapNotActive")),
            ),
            ("no limits", "", ANON, limits, Some((True, "RateLimitNotApplicable"))),
            (
                "limits for all",
                "",
                "authMode: anonymous, rateLimiting: {shared: {maxTokens: 1, refillPeriod: 1s}}",
                limits,
                Some((True, "RateLimitConfigValid")),
            ),
            ("limits for nobody", "", &with(ANON, user), limits, Some((False, "PerUserRequiresAuth"))),
            (
                "limits of a tool for nobody",
                "",
                &with(ANON, tool),
                limits,
                Some((False, "PerUserRequiresAuth")),
            ),
            ("limits for users", "", &with(issuer, user), limits, Some((True, "RateLimitConfigValid"))),
            ("no webhooks", "", ANON, "WebhookConfigValidated", None),
            ("webhooks", hooks, hooked, "WebhookConfigValidated", None),
            ("no such webhooks", "", hooked, "WebhookConfigValidated", Some((False, "WebhookConfigInvalid"))),
            (
                "bad webhooks",
                &bad_hooks,
                hooked,
                "WebhookConfigValidated",
                Some((False, "WebhookConfigInvalid")),
            ),
        ],
        &[Kind::MCPServer],
    );
}

#[test]
fn what_only_a_remote_proxy_says() {
    let tools = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPToolConfig\nmetadata: {name: t}\nspec: {toolsFilter: [a]}\n---\n";
    let spec = "authMode: anonymous, toolConfigRef: {name: t}";
    let rows = [
        ("there", tools, spec, "ToolConfigValidated", Some((True, "ToolConfigValid"))),
        ("not there", "", spec, "ToolConfigValidated", Some((False, "ToolConfigNotFound"))),
    ];
    table(&rows, &[Kind::MCPRemoteProxy]);
    table(&rows.map(|(what, others, spec, name, _)| (what, others, spec, name, None)), &[Kind::MCPServer]);
}

#[test]
fn an_authorization_server_is_judged_before_it_is_refused() {
    let config = |spec: &str| {
        format!(
            "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPExternalAuthConfig\nmetadata: {{name: e}}\nspec: {{{spec}}}\n---\n"
        )
    };
    let embedded = config(
        "type: embeddedAuthServer, embeddedAuthServer: {issuer: 'https://as.example.com', upstreamProviders: [{name: a, type: oidc, oidcConfig: {issuerUrl: 'https://i.example.com', clientId: c}}]}",
    );
    let other = config("type: unauthenticated");
    let name = "AuthServerRefValidated";
    table(
        &[
            ("none", "", ANON, name, None),
            ("not there", "", "authServerRef: {name: e}", name, Some((False, "AuthServerRefNotFound"))),
            (
                "of another type",
                &other,
                "authServerRef: {name: e}",
                name,
                Some((False, "AuthServerRefInvalidType")),
            ),
            (
                "of no kind",
                &other,
                "authServerRef: {kind: Pod, name: e}",
                name,
                Some((False, "AuthServerRefInvalidKind")),
            ),
            (
                "one",
                &embedded,
                "authServerRef: {kind: MCPExternalAuthConfig, name: e}",
                name,
                Some((False, "AuthServerRefInvalidConfig")),
            ),
        ],
        &BOTH,
    );
}

#[test]
fn an_upstream_provider_is_ignored_wherever_it_is_said() {
    let document = r#"{"version": "1.0", "type": "cedarv1", "cedar": {"policies": ["permit(principal, action, resource);"], "primary_upstream_provider": "x"}}"#;
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{authz.json: '{document}'}}\n---\n"
    );
    let shared = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPAuthzConfig\nmetadata: {name: r}\nspec: {type: cedarv1, config: {policies: ['permit(principal, action, resource);'], primary_upstream_provider: x}}\n---\n";
    let name = "AuthzPrimaryUpstreamProviderIgnored";
    let ignored = Some((True, "PrimaryUpstreamProviderIgnored"));
    table(
        &[
            ("none", "", ANON, name, None),
            (
                "here",
                "",
                "authMode: anonymous, authzConfig: {type: inline, inline: {policies: ['permit(principal, action, resource);'], primaryUpstreamProvider: x}}",
                name,
                ignored,
            ),
            (
                "in a ConfigMap",
                &map,
                "authMode: anonymous, authzConfig: {type: configMap, configMap: {name: m}}",
                name,
                ignored,
            ),
            ("shared", shared, "authMode: anonymous, authzConfigRef: {name: r}", name, ignored),
        ],
        &BOTH,
    );
}

/// Shared rules set conditions by their topic; each kind shows its own.
#[test]
fn no_kind_has_a_condition_that_it_has_not_in_its_documentation() {
    for case in cases() {
        let (objects, world) = world(&to_yaml_documents(&case.objects), Missing::Refuse);
        for object in objects {
            let planned = skep_operator::plan::plan_object(&object, &world);
            let mut kinds: Vec<&str> =
                planned.conditions.iter().map(|condition| condition.kind.as_str()).collect();
            let all = kinds.len();
            kinds.sort_unstable();
            kinds.dedup();
            assert_eq!(kinds.len(), all, "{}: one is there twice", case.name);
            match object.kind {
                Kind::MCPServer => {
                    assert!(!kinds.contains(&"ToolConfigValidated") && !kinds.contains(&"ConfigurationValid"))
                }
                Kind::MCPRemoteProxy => {
                    assert!(!kinds.contains(&"StdioReplicaCapped") && !kinds.contains(&"Valid"))
                }
                Kind::MCPServerEntry => {}
                kind => assert_eq!(kinds, ["Valid"], "{}: {kind}", case.name),
            }
        }
    }
}

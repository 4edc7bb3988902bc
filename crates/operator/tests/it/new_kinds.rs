//! MCPTelemetryConfig, MCPWebhookConfig, MCPGroup and MCPServerEntry, and what workloads take from them.

use serde_json::{Value, json};
use skep_api::condition::ConditionStatus;
use skep_api::crd::{Kind, Object, ObjectError};
use skep_operator::plan::{Missing, Plan, Planned, plan_object};

use crate::manifests::{files, plan, world};

fn planned(folder: &str, file: &str, name: &str) -> Planned {
    let path = files(folder).into_iter().find(|path| path.file_stem().unwrap() == file).unwrap();
    let all = plan(&std::fs::read_to_string(path).unwrap());
    all.into_iter().find(|(object, _)| object.metadata.name == name).unwrap().1
}

fn errors(planned: &Planned) -> Vec<(&str, &str)> {
    let errors = planned.problems.iter().filter(|problem| problem.is_error());
    errors.map(|problem| (problem.path.as_str(), problem.reason.as_str())).collect()
}

fn conditions(planned: &Planned) -> Vec<(&str, bool, &str)> {
    let condition = |found: &skep_api::condition::Condition| found.status == ConditionStatus::True;
    planned
        .conditions
        .iter()
        .map(|found| (found.kind.as_str(), condition(found), found.reason.as_str()))
        .collect()
}

fn container(plan: &Plan) -> Value {
    let deployment = plan.objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    deployment["spec"]["template"]["spec"].clone()
}

fn variable(pod: &Value, name: &str) -> Value {
    let env = pod["containers"][0]["env"].as_array().unwrap();
    env.iter().find(|variable| variable["name"] == name).cloned().unwrap_or_default()
}

#[test]
fn a_shared_telemetry_config_reaches_the_run_config_and_the_pod() {
    let plan = planned("good", "telemetry-config", "s").plan.unwrap();
    let config = serde_json::to_value(&plan.workload.as_ref().unwrap().run_config).unwrap();
    assert_eq!(
        config["telemetry_config"],
        json!({
            "serviceName": "s",
            "tracingEnabled": true,
            "metricsEnabled": true,
            "samplingRate": "0.5",
            "headers": {"x-team": "payments"},
            "insecure": false,
            "enablePrometheusMetricsPath": true,
            "customAttributes": {"deployment.environment": "production"},
            "useLegacyAttributes": true,
            "caCertPath": "/config/certs/otel/collector-ca/ca.crt",
        })
    );
    let pod = container(&plan);
    assert_eq!(
        variable(&pod, "OTEL_RESOURCE_ATTRIBUTES")["value"],
        "service.name=s,service.namespace=default"
    );
    assert_eq!(
        variable(&pod, "TOOLHIVE_OTEL_HEADER_X_API_KEY")["valueFrom"],
        json!({"secretKeyRef": {"name": "otel", "key": "token"}})
    );
    let volumes = pod["volumes"].as_array().unwrap();
    assert!(
        volumes
            .contains(&json!({"name": "otel-ca-bundle-collector-ca", "configMap": {"name": "collector-ca"}}))
    );
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    assert!(mounts.contains(
        &json!({"name": "otel-ca-bundle-collector-ca", "mountPath": "/config/certs/otel/collector-ca", "readOnly": true})
    ));
}

#[test]
fn a_workload_reports_under_the_name_that_its_reference_says() {
    let planned = planned("good", "telemetry-config", "p");
    assert!(conditions(&planned).contains(&("TelemetryConfigRefValidated", true, "TelemetryConfigRefValid")));
    let plan = planned.plan.unwrap();
    let telemetry = plan.workload.as_ref().unwrap().run_config.telemetry_config.clone().unwrap();
    assert_eq!(telemetry.service_name, "front door");
    assert_eq!(
        variable(&container(&plan), "OTEL_RESOURCE_ATTRIBUTES")["value"],
        "service.name=front%20door,service.namespace=default"
    );
}

#[test]
fn a_variable_of_the_manifest_replaces_that_of_the_telemetry_config() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPTelemetryConfig\nmetadata: {name: t}\nspec: {prometheus: {enabled: true}}\n---\napiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {name: s}\nspec:\n  image: a\n  transport: streamable-http\n  telemetryConfigRef: {name: t}\n  resourceOverrides: {proxyDeployment: {env: [{name: OTEL_RESOURCE_ATTRIBUTES, value: mine}]}}\n";
    let pod = container(&plan(text).pop().unwrap().1.plan.unwrap());
    let env = pod["containers"][0]["env"].as_array().unwrap();
    let found: Vec<_> = env.iter().filter(|var| var["name"] == "OTEL_RESOURCE_ATTRIBUTES").collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["value"], "mine");
}

#[test]
fn a_workload_does_not_run_without_the_telemetry_config_that_it_names() {
    for (name, reason) in
        [("p-not-found", "TelemetryConfigRefNotFound"), ("s-not-valid", "TelemetryConfigRefInvalid")]
    {
        let planned = planned("bad", "telemetry-config", name);
        assert!(planned.plan.is_none());
        assert_eq!(errors(&planned), [("spec.telemetryConfigRef.name", reason)], "{name}");
        assert!(conditions(&planned).contains(&("TelemetryConfigRefValidated", false, reason)), "{name}");
    }
}

#[test]
fn problems_of_every_new_kind_are_where_they_are_written() {
    for (file, name, expected) in [
        ("telemetry-config", "nothing-to-send", vec![("spec.openTelemetry.endpoint", "InvalidField")]),
        (
            "telemetry-config",
            "certificates-for-plain-http",
            vec![
                ("spec.openTelemetry.caBundleRef", "CABundleRefNotFound"),
                ("spec.openTelemetry.caBundleRef", "InvalidField"),
            ],
        ),
        (
            "telemetry-config",
            "headers",
            vec![
                ("spec.openTelemetry.headers.x y", "InvalidField"),
                ("spec.openTelemetry.sensitiveHeaders[0].secretKeyRef", "SecretNotFound"),
                ("spec.openTelemetry.sensitiveHeaders[0].name", "DuplicateEntry"),
                ("spec.openTelemetry.sensitiveHeaders[1].secretKeyRef", "SecretNotFound"),
                ("spec.openTelemetry.sensitiveHeaders[1].name", "DuplicateEntry"),
            ],
        ),
        (
            "telemetry-config",
            "endpoint",
            vec![
                ("spec.openTelemetry.endpoint", "InvalidField"),
                ("spec.openTelemetry.tracing.samplingRate", "InvalidField"),
            ],
        ),
        (
            "webhook-config",
            "urls",
            vec![
                ("spec.validating[0].url", "InvalidField"),
                ("spec.validating[1].url", "InvalidField"),
                ("spec.validating[2].url", "InvalidField"),
                ("spec.validating[3].url", "InvalidField"),
            ],
        ),
        (
            "webhook-config",
            "rest",
            vec![
                ("spec.mutating[0].timeout", "InvalidField"),
                ("spec.mutating[1].timeout", "InvalidField"),
                ("spec.mutating[2].timeout", "InvalidField"),
                ("spec.mutating[2].hmacSecretRef", "SecretNotFound"),
                ("spec.mutating[2].tlsConfig.clientCertSecretRef", "SecretNotFound"),
                ("spec.mutating[2].tlsConfig", "InvalidField"),
            ],
        ),
        ("webhook-config", "none", vec![("spec", "InvalidField")]),
        (
            "entries",
            "nothing-is-there",
            vec![
                ("spec.groupRef.name", "GroupRefNotFound"),
                ("spec.externalAuthConfigRef.name", "AuthConfigNotFound"),
                ("spec.caBundleRef", "CABundleRefNotFound"),
                ("spec.headerForward.addHeadersFromSecret[0].valueSecretRef", "HeaderSecretNotFound"),
            ],
        ),
        (
            "entries",
            "private",
            vec![("spec.groupRef.name", "GroupRefNotFound"), ("spec.remoteUrl", "RemoteURLInvalid")],
        ),
        (
            "entries",
            "metadata",
            vec![("spec.groupRef.name", "GroupRefNotFound"), ("spec.remoteUrl", "RemoteURLInvalid")],
        ),
        (
            "embedded-auth-server",
            "unknown-field",
            vec![("spec.embeddedAuthServer.upstreamProviders[0].oidcConfig.clientSecret", "UnknownField")],
        ),
        (
            "embedded-auth-server",
            "plain-http",
            vec![
                ("spec.embeddedAuthServer.allowConfidentialClientRegistration", "ConflictingFields"),
                ("spec.embeddedAuthServer.upstreamProviders[0].oidcConfig.issuerUrl", "InvalidField"),
            ],
        ),
    ] {
        assert_eq!(errors(&planned("bad", file, name)), expected, "{file} {name}");
    }
}

#[test]
fn an_entry_says_what_of_it_is_sound() {
    assert_eq!(
        conditions(&planned("good", "group-and-entries", "docs")),
        [
            ("GroupRefValidated", true, "GroupRefIsValid"),
            ("RemoteURLValidated", true, "RemoteURLValid"),
            ("ExternalAuthConfigValidated", true, "AuthConfigValid"),
            ("CABundleRefValidated", true, "CABundleRefValid"),
            ("HeaderSecretRefsValidated", true, "HeaderSecretsValid"),
            ("Valid", true, "ConfigValid"),
        ]
    );
    assert_eq!(
        conditions(&planned("good", "group-and-entries", "intranet")),
        [
            ("GroupRefValidated", true, "GroupRefIsValid"),
            ("RemoteURLValidated", true, "RemoteURLValid"),
            ("ExternalAuthConfigValidated", true, "AuthConfigNotConfigured"),
            ("CABundleRefValidated", true, "CABundleRefNotConfigured"),
            ("Valid", true, "ConfigValid"),
        ]
    );
    assert_eq!(
        conditions(&planned("bad", "entries", "nothing-is-there")),
        [
            ("GroupRefValidated", false, "GroupRefNotFound"),
            ("RemoteURLValidated", true, "RemoteURLValid"),
            ("ExternalAuthConfigValidated", false, "AuthConfigNotFound"),
            ("CABundleRefValidated", false, "CABundleRefNotFound"),
            ("HeaderSecretRefsValidated", false, "HeaderSecretNotFound"),
            ("Valid", false, "ConfigInvalid"),
        ]
    );
    assert!(conditions(&planned("bad", "entries", "private")).contains(&(
        "RemoteURLValidated",
        false,
        "RemoteURLInvalid"
    )));
}

#[test]
fn an_entry_has_lost_its_group_when_the_group_is_being_deleted() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPGroup\nmetadata: {name: g, deletionTimestamp: '2026-01-01T00:00:00Z'}\nspec: {}\n---\napiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServerEntry\nmetadata: {name: e}\nspec: {remoteUrl: 'https://a.example.com', transport: sse, groupRef: {name: g}}\n";
    let planned = plan(text).pop().unwrap().1;
    assert_eq!(errors(&planned), [("spec.groupRef.name", "GroupRefNotFound")]);
    assert!(planned.problems[0].message.contains("being deleted"), "{:?}", planned.problems);
}

#[test]
fn an_entry_makes_no_objects() {
    let plan = planned("good", "group-and-entries", "docs").plan.unwrap();
    assert!(plan.objects.is_empty() && plan.workload.is_none());
}

#[test]
fn a_webhook_config_has_no_version_but_the_one_it_is_stored_in() {
    let value = |version: &str| json!({"apiVersion": format!("toolhive.stacklok.dev/{version}"), "kind": "MCPWebhookConfig", "metadata": {"name": "w"}, "spec": {}});
    assert!(Object::parse(&value("v1alpha1")).is_ok());
    let error = Object::parse(&value("v1beta1")).unwrap_err();
    assert!(matches!(error, ObjectError::VersionOfKind { kind: Kind::MCPWebhookConfig, .. }));
    assert_eq!(
        error.to_string(),
        "MCPWebhookConfig has no version `v1beta1`; write `toolhive.stacklok.dev/v1alpha1`"
    );
}

#[test]
fn a_server_that_names_webhooks_is_refused_and_still_shows_their_hash() {
    let text = "apiVersion: toolhive.stacklok.dev/v1alpha1\nkind: MCPWebhookConfig\nmetadata: {name: w}\nspec: {validating: [{name: a, url: 'https://hooks.example.com'}]}\n---\napiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPServer\nmetadata: {name: s}\nspec: {image: a, transport: streamable-http, webhookConfigRef: {name: w}}\n";
    let (objects, world) = world(text, Missing::Refuse);
    let config = plan_object(&objects[0], &world);
    let server = plan_object(&objects[1], &world);
    assert!(server.plan.is_none());
    assert_eq!(server.hashes.get("webhookConfigHash"), config.config_hash.as_ref());
    assert!(config.config_hash.is_some());
}

#[test]
fn what_the_bounds_refuse_is_said_once() {
    let text = "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPRemoteProxy\nmetadata: {name: p}\nspec: {remoteUrl: 'ftp://a.example', proxyPort: 70000, authMode: anonymous}\n";
    let planned = plan(text).pop().unwrap().1;
    assert_eq!(
        errors(&planned),
        [("spec.proxyPort", "InvalidField"), ("spec.remoteUrl", "RemoteURLInvalid")]
    );
}

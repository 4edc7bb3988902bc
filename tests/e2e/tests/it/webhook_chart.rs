//! The chart of the webhook and its kustomizations: what they render.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use skep_api::crd::Kind;
use skep_operator::permissions::{self, Right, granted};
use skep_operator::sidecars::config::SidecarConfig;
use skep_testkit::control_plane;

use crate::harness::helm::{Helm, Rendered, chart, file, on_path};
use crate::harness::{repository, skep};

const SELF_SIGNED: &str = "certManager.enabled=false";

/// What is set, where it shows, and as what.
type Row = (&'static str, &'static str, Value);

/// Every value of the chart, and what it does. `arg` is an argument of the webhook, `count` the number of objects
/// of a kind, and everything else a pointer into the object of a kind (`Kind:end-of-its-name`).
fn rows() -> Vec<Row> {
    let container = |pointer: &str| -> &'static str {
        format!("Deployment /spec/template/spec/containers/0{pointer}").leak()
    };
    let pod = |pointer: &str| -> &'static str { format!("Deployment /spec/template/spec{pointer}").leak() };
    vec![
        ("replicaCount=3", "Deployment /spec/replicas", json!(3)),
        ("image.repository=r/x", container("/image"), json!("r/x:latest")),
        ("image.tag=v9", container("/image"), json!("skep:v9")),
        ("image.tag=", container("/image"), json!("skep")),
        ("image.pullPolicy=Always", container("/imagePullPolicy"), json!("Always")),
        ("image.command=/ko-app/cmd", container("/command/0"), json!("/ko-app/cmd")),
        ("imagePullSecrets[0].name=p", pod("/imagePullSecrets/0/name"), json!("p")),
        ("nameOverride=other", "Service /spec/selector/app.kubernetes.io~1name", json!("other")),
        ("fullnameOverride=fn", "Deployment /metadata/name", json!("fn-controller-manager")),
        ("namespaceOverride=elsewhere", "Deployment /metadata/namespace", json!("elsewhere")),
        (
            "namespaceOverride=elsewhere",
            "ValidatingWebhookConfiguration /webhooks/0/clientConfig/service/namespace",
            json!("elsewhere"),
        ),
        ("namespace.create=true", "Namespace /metadata/name", json!("skep-webhook-system")),
        ("namespace.create=true", "Deployment /metadata/namespace", json!("skep-webhook-system")),
        ("webhook.enabled=false", "count MutatingWebhookConfiguration", json!(0)),
        ("webhook.enabled=false", "count ValidatingWebhookConfiguration", json!(0)),
        ("webhook.enableClientRegistration=false", "arg --enable-client-registration", json!("false")),
        ("webhook.certPath=/c", "arg --webhook-cert-path", json!("/c")),
        ("webhook.certPath=/c", container("/volumeMounts/0/mountPath"), json!("/c")),
        ("webhook.certName=a.crt", "arg --webhook-cert-name", json!("a.crt")),
        ("webhook.certName=a.crt", pod("/volumes/0/secret/items/0/path"), json!("a.crt")),
        ("webhook.certKey=a.key", "arg --webhook-cert-key", json!("a.key")),
        ("webhook.certKey=a.key", pod("/volumes/0/secret/items/1/path"), json!("a.key")),
        ("webhook.port=1234", "arg --port", json!("1234")),
        ("webhook.port=1234", container("/ports/0/containerPort"), json!(1234)),
        ("webhook.injectionPoint=pod", "arg --injection-point", json!("pod")),
        (
            "webhook.injectionPoint=pod",
            "MutatingWebhookConfiguration /webhooks/1/name",
            json!("mpod.toolhive.stacklok.dev"),
        ),
        ("webhook.sidecarMode=builtin", "arg --sidecar-mode", json!("builtin")),
        ("webhook.sidecarImage=i:2", "arg --sidecar-image", json!("i:2")),
        ("image.tag=v9", "arg --sidecar-image", json!("skep:v9")),
        ("webhook.spireSocket=csi", "arg --spire-socket", json!("csi")),
        ("webhook.registration=operator", "arg --registration", json!("operator")),
        ("webhook.allowAdminInPods=true", "arg --allow-admin-in-pods", json!("true")),
        ("webhook.strictReferences=true", "arg --strict-references", json!("true")),
        ("webhook.accessReviews=warn", "arg --access-reviews", json!("warn")),
        ("webhook.requireAuth=true", "arg --require-auth", json!("true")),
        ("webhook.config.images.builtin=x", "ConfigMap /data/config.yaml", json!("images:\n  builtin: x\n")),
        ("webhook.config.images.builtin=x", "arg --config", json!("/etc/skep-webhook/config.yaml")),
        (
            "webhook.config.images.builtin=x",
            container("/volumeMounts/1/mountPath"),
            json!("/etc/skep-webhook"),
        ),
        (
            "certManager.enabled=false,webhook.selfSigned.certificateValidity=2d",
            "arg --certificate-validity",
            json!("2d"),
        ),
        ("certManager.enabled=false,webhook.selfSigned.caValidity=30d", "arg --ca-validity", json!("30d")),
        (
            "webhook.failurePolicy=Ignore",
            "MutatingWebhookConfiguration /webhooks/0/failurePolicy",
            json!("Ignore"),
        ),
        ("webhook.timeoutSeconds=5", "ValidatingWebhookConfiguration /webhooks/9/timeoutSeconds", json!(5)),
        (
            "webhook.namespaceSelector.matchLabels.a=b",
            "MutatingWebhookConfiguration /webhooks/0/namespaceSelector/matchLabels",
            json!({"a": "b"}),
        ),
        (
            "webhook.namespaceSelector.matchExpressions[0].key=team,webhook.namespaceSelector.matchExpressions[0].operator=Exists",
            "ValidatingWebhookConfiguration /webhooks/0/namespaceSelector/matchExpressions/1",
            json!({"key": "team", "operator": "Exists"}),
        ),
        ("serviceAccount.create=false", "count ServiceAccount", json!(0)),
        ("serviceAccount.create=false", pod("/serviceAccountName"), json!("default")),
        ("serviceAccount.annotations.a=b", "ServiceAccount /metadata/annotations/a", json!("b")),
        ("serviceAccount.name=sa", pod("/serviceAccountName"), json!("sa")),
        ("serviceAccount.name=sa", "ServiceAccount /metadata/name", json!("sa")),
        ("serviceAccount.name=sa", "ClusterRoleBinding /subjects/0/name", json!("sa")),
        ("podAnnotations.a=b", "Deployment /spec/template/metadata/annotations/a", json!("b")),
        ("podLabels.a=b", "Deployment /spec/template/metadata/labels/a", json!("b")),
        ("podSecurityContext.fsGroup=7", pod("/securityContext/fsGroup"), json!(7)),
        ("securityContext.runAsUser=7", container("/securityContext/runAsUser"), json!(7)),
        ("service.type=NodePort", "Service:webhook-service /spec/type", json!("NodePort")),
        ("service.port=8444", "Service:webhook-service /spec/ports/0/port", json!(8444)),
        (
            "service.port=8444",
            "MutatingWebhookConfiguration /webhooks/0/clientConfig/service/port",
            json!(8444),
        ),
        ("resources.limits.memory=1Gi", container("/resources/limits/memory"), json!("1Gi")),
        ("livenessProbe.periodSeconds=9", container("/livenessProbe/periodSeconds"), json!(9)),
        ("readinessProbe.periodSeconds=9", container("/readinessProbe/periodSeconds"), json!(9)),
        ("nodeSelector.disk=ssd", pod("/nodeSelector/disk"), json!("ssd")),
        ("tolerations[0].key=a", pod("/tolerations/0/key"), json!("a")),
        ("affinity.podAntiAffinity.a=b", pod("/affinity/podAntiAffinity/a"), json!("b")),
        ("podDisruptionBudget.enabled=true", "PodDisruptionBudget /spec/minAvailable", json!(1)),
        (
            "podDisruptionBudget.enabled=true,podDisruptionBudget.minAvailable=2",
            "PodDisruptionBudget /spec/minAvailable",
            json!(2),
        ),
        (
            "networkPolicy.enabled=true,networkPolicy.from[0].ipBlock.cidr=10.0.0.0/8",
            "NetworkPolicy /spec/ingress/0",
            json!({"ports": [{"port": 9443}], "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}),
        ),
        ("metrics.enabled=false", "arg --metrics-bind-address", json!("0")),
        ("metrics.enabled=false", "count Service", json!(1)),
        ("metrics.port=1235", "arg --metrics-bind-address", json!(":1235")),
        ("metrics.port=1235", "Service:metrics-service /spec/ports/0/port", json!(1235)),
        ("metrics.secure=false", "arg --metrics-secure", json!("false")),
        ("metrics.secure=false", "count ClusterRole", json!(1)),
        ("leaderElection.enabled=true", "arg --leader-elect", json!("")),
        (SELF_SIGNED, "arg --self-signed", json!("")),
        (SELF_SIGNED, "count Certificate", json!(0)),
        (SELF_SIGNED, "count Lease", json!(1)),
        (SELF_SIGNED, "count RoleBinding", json!(1)),
        (SELF_SIGNED, pod("/volumes"), Value::Null),
        ("certManager.issuer.name=mine", "Issuer:mine /metadata/name", json!("mine")),
        ("certManager.issuer.create=false,certManager.issuer.name=mine", "count Issuer", json!(0)),
        (
            "certManager.issuer.create=false,certManager.issuer.name=mine,certManager.issuer.kind=ClusterIssuer",
            "Certificate /spec/issuerRef",
            json!({"kind": "ClusterIssuer", "name": "mine"}),
        ),
        ("rbac.create=false", "count ClusterRole", json!(0)),
        ("rbac.create=false", "count ClusterRoleBinding", json!(0)),
    ]
}

/// What a probe of a row shows; null when there is nothing.
fn probe(rendered: &Rendered, probe: &str) -> Value {
    let (what, pointer) = probe.split_once(' ').unwrap();
    match what {
        "arg" => rendered
            .args()
            .into_iter()
            .map(|arg| arg.split_once('=').unwrap_or((arg, "")))
            .find(|(name, _)| *name == pointer)
            .map_or(Value::Null, |(_, value)| value.into()),
        "count" => rendered.of(pointer).len().into(),
        _ => {
            let (kind, end) = what.split_once(':').unwrap_or((what, ""));
            let object = rendered
                .of(kind)
                .into_iter()
                .find(|object| object["metadata"]["name"].as_str().unwrap_or_default().ends_with(end));
            object.and_then(|object| object.pointer(pointer)).cloned().unwrap_or_default()
        }
    }
}

#[test]
fn every_value_does_what_it_says() {
    let Some(helm) = Helm::find_or_skip() else { return };
    let default = helm.render(&[]);
    for (set, shows, expected) in rows() {
        let rendered = helm.render(&["--set", set]);
        assert_eq!(probe(&rendered, shows), expected, "{set}: {shows}");
        assert_ne!(probe(&default, shows), expected, "{set}: {shows} is so without it");
    }
    let set: BTreeSet<String> = rows()
        .iter()
        .flat_map(|(set, _, _)| set.split(','))
        .map(|one| one.split(['=', '[']).next().unwrap().to_owned())
        .collect();
    let values = Rendered::parse(&fs::read_to_string(chart().join("values.yaml")).unwrap());
    let mut leaves = Vec::new();
    collect_leaves(&values.0[0], "", &mut leaves);
    let idle: Vec<&String> = leaves
        .iter()
        .filter(|leaf| !set.iter().any(|one| one == *leaf || one.starts_with(&format!("{leaf}."))))
        // Kubernetes' own fields, taken over as they are: one of each group is in the table.
        .filter(|leaf| {
            !["podSecurityContext.", "securityContext.", "resources.", "livenessProbe.", "readinessProbe."]
                .iter()
                .any(|group| leaf.starts_with(group))
        })
        .collect();
    assert!(idle.is_empty(), "no row says what these do: {idle:?}");
}

fn collect_leaves(value: &Value, path: &str, leaves: &mut Vec<String>) {
    match value.as_object().filter(|object| !object.is_empty()) {
        Some(object) => {
            for (key, value) in object {
                let dot = if path.is_empty() { "" } else { "." };
                collect_leaves(value, &format!("{path}{dot}{key}"), leaves);
            }
        }
        None => leaves.push(path.to_owned()),
    }
}

#[test]
fn helm_finds_nothing_wrong_with_the_chart() {
    let Some(helm) = Helm::find_or_skip() else { return };
    let chart = chart();
    for set in ["replicaCount=1", SELF_SIGNED] {
        helm.run(["lint", "--strict", chart.to_str().unwrap(), "--set", set]).unwrap();
    }
}

#[test]
fn values_that_are_unknown_or_wrong_are_refused() {
    let Some(helm) = Helm::find_or_skip() else { return };
    for (set, named) in [
        ("replicas=2", "replicas"),
        ("webhook.enableClientRegistraton=false", "enableClientRegistraton"),
        ("webhook.enableClientRegistration=no", "enableClientRegistration"),
        ("certManager.issuer.kid=Issuer", "kid"),
        ("webhook.injectionPoint=deployment", "injectionPoint"),
        ("webhook.allowAdminInPods=perhaps", "allowAdminInPods"),
        ("webhook.failurePolicy=fail", "failurePolicy"),
        ("webhook.timeoutSeconds=31", "timeoutSeconds"),
        ("webhook.config.images.spifeHelper=x", "spifeHelper"),
        ("webhook.config.volumes.socket.type=emptyDir", "type"),
        ("webhook.certName=../x", "certName"),
        ("webhook.selfSigned.caValidity=1y", "caValidity"),
        ("certManager.issuer.create=false", "certManager.issuer.name is needed"),
    ] {
        let refused = helm.template(&["--set", set]).expect_err(set);
        assert!(refused.contains(named), "{set}: {refused}");
    }
}

#[test]
fn the_config_of_the_chart_is_the_config_file() {
    let Some(helm) = Helm::find_or_skip() else { return };
    let example = fs::read_to_string(repository().join("examples/webhook/sidecars.yaml")).unwrap();
    let whole = SidecarConfig::parse(&example).unwrap();
    let config = json!({"webhook": {"config": Rendered::parse(&example).0[0]}});
    let values = tempfile::NamedTempFile::new().unwrap();
    fs::write(values.path(), config.to_string()).unwrap();
    let rendered = helm.render(&["--values", values.path().to_str().unwrap()]);
    let text = rendered.one("ConfigMap", "-config")["data"]["config.yaml"].as_str().unwrap();
    assert_eq!(SidecarConfig::parse(text).unwrap(), whole);
    // The other kind of socket.
    let csi = "webhook.config.volumes.socket.type=csi,webhook.config.volumes.socket.driver=csi.example.com";
    let rendered = helm.render(&["--set", csi]);
    let text = rendered.one("ConfigMap", "-config")["data"]["config.yaml"].as_str().unwrap();
    SidecarConfig::parse(text).unwrap();
}

#[tokio::test]
async fn every_argument_is_one_that_the_webhook_knows() {
    let Some(helm) = Helm::find_or_skip() else { return };
    let home = tempfile::tempdir().unwrap();
    for set in [
        "replicaCount=1",
        "certManager.enabled=false,leaderElection.enabled=true,metrics.enabled=false",
        "webhook.config.images.builtin=x,webhook.injectionPoint=pod,webhook.sidecarMode=builtin,webhook.spireSocket=csi,webhook.registration=operator,webhook.accessReviews=warn,webhook.allowAdminInPods=false",
    ] {
        let rendered = helm.render(&["--set", set]);
        let mut args = vec!["webhook"];
        args.extend(rendered.args());
        args.push("--help");
        let run = skep::run(home.path(), args).await;
        assert_eq!(run.code, Some(0), "{set}: {}", run.stderr);
    }
}

#[test]
fn every_kind_is_validated_in_every_version_and_no_system_namespace_is() {
    let Some(helm) = Helm::find_or_skip() else { return };
    let rendered = helm.render(&["--set", "webhook.injectionPoint=pod"]);
    let validating = rendered.one("ValidatingWebhookConfiguration", "");
    let found: BTreeSet<(String, String, Vec<String>, String)> = validating["webhooks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|webhook| {
            let rule = &webhook["rules"][0];
            assert_eq!(rule["operations"], json!(["CREATE", "UPDATE"]));
            assert_eq!(rule["apiGroups"], json!(["toolhive.stacklok.dev"]));
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let versions = rule["apiVersions"].as_array().unwrap().iter().map(text).collect();
            (
                text(&webhook["name"]),
                text(&rule["resources"][0]),
                versions,
                text(&webhook["clientConfig"]["service"]["path"]),
            )
        })
        .collect();
    let expected = Kind::ALL
        .into_iter()
        .map(|kind| {
            let lower = kind.as_str().to_lowercase();
            (
                format!("v{lower}.toolhive.stacklok.dev"),
                kind.plural().to_owned(),
                kind.versions().iter().map(|version| version.as_str().to_owned()).collect(),
                format!("/validate-toolhive-stacklok-dev-{}-{lower}", kind.stored().as_str()),
            )
        })
        .collect();
    assert_eq!(found, expected);
    assert_eq!(rendered.webhooks().len(), Kind::ALL.len() + 2);
    for webhook in rendered.webhooks() {
        assert_eq!(webhook["failurePolicy"], "Fail");
        assert_eq!(webhook["sideEffects"], "None");
        assert_eq!(webhook["timeoutSeconds"], 10);
        assert_eq!(webhook["admissionReviewVersions"], json!(["v1"]));
        assert_eq!(webhook["matchPolicy"], "Equivalent");
        assert_eq!(
            webhook["namespaceSelector"]["matchExpressions"],
            json!([{"key": "kubernetes.io/metadata.name", "operator": "NotIn",
                "values": ["kube-system", "kube-node-lease", "kube-public", "webhooks"]}])
        );
    }
    let pod = &rendered.one("MutatingWebhookConfiguration", "")["webhooks"][1];
    assert_eq!(pod["objectSelector"], json!({"matchLabels": {"toolhive": "true"}}));
    assert_eq!(pod["reinvocationPolicy"], "IfNeeded");
    assert_eq!(pod["rules"][0]["operations"], json!(["CREATE"]));
}

#[test]
fn the_pod_is_allowed_where_pod_security_is_restricted() {
    let Some(helm) = Helm::find_or_skip() else { return };
    let rendered = helm.render(&[]);
    let pod = &rendered.one("Deployment", "")["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(
        rendered.container()["securityContext"],
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true})
    );
    for volume in pod["volumes"].as_array().unwrap() {
        assert!(volume["secret"].is_object(), "{volume}");
    }
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        assert!(pod[field].is_null());
    }
    assert_eq!(
        helm.render(&["--set", "namespace.create=true"]).one("Namespace", "")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
        "restricted"
    );
}

#[tokio::test]
async fn the_document_names_every_flag_and_only_values_that_there_are() {
    let home = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(repository().join("docs/webhook.md")).unwrap();
    let help = skep::run(home.path(), ["webhook", "--help"]).await.stdout;
    let flags = |text: &str| -> BTreeSet<String> {
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
        words.filter(|word| word.starts_with("--") && word.len() > 3).map(str::to_owned).collect()
    };
    let table = text.split("## Flags").nth(1).unwrap().split("The config file").next().unwrap();
    let of_help: String = help.lines().filter(|line| line.trim_start().starts_with('-')).collect();
    let missing: Vec<String> = flags(&of_help)
        .difference(&flags(table))
        .filter(|flag| !["--help", "--version"].contains(&flag.as_str()))
        .cloned()
        .collect();
    assert!(missing.is_empty(), "not in docs/webhook.md: {missing:?}");
    let unknown: Vec<String> = flags(table).difference(&flags(&help)).cloned().collect();
    assert!(unknown.is_empty(), "no flags of the webhook: {unknown:?}");

    let values = Rendered::parse(&fs::read_to_string(chart().join("values.yaml")).unwrap());
    let cells = table.lines().filter_map(|line| line.split('|').nth(2));
    for value in cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
        let path = value.split(':').next().unwrap().replace('.', "/");
        assert!(values.0[0].pointer(&format!("/{path}")).is_some(), "{value}");
    }

    if let Some(helm) = Helm::find_or_skip() {
        let example = text.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
        let file = home.path().join("values.yaml");
        fs::write(&file, example).unwrap();
        let rendered = helm.render(&["--values", file.to_str().unwrap()]);
        let config = rendered.one("ConfigMap", "-config")["data"]["config.yaml"].as_str().unwrap();
        SidecarConfig::parse(config).unwrap();
    }
}

/// What the kustomizations hold: the chart in a namespace of its own, without the labels of Helm.
fn for_kustomize(helm: &Helm, more: &[&str]) -> Rendered {
    let mut set = vec!["--set", "namespace.create=true"];
    set.extend(more);
    let mut rendered = helm.render(&set);
    for object in &mut rendered.0 {
        if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
            labels.retain(|name, _| {
                !["helm.sh/chart", "app.kubernetes.io/managed-by"].contains(&name.as_str())
            });
        }
    }
    rendered
}

#[test]
fn the_kustomizations_hold_what_the_chart_renders() {
    let Some(helm) = Helm::find_or_skip() else { return };
    let folder = repository().join("deploy/kustomize/webhook");
    for (path, rendered) in [
        (folder.clone(), for_kustomize(&helm, &[])),
        (folder.join("self-signed"), for_kustomize(&helm, &["--set", SELF_SIGNED])),
    ] {
        let manifest = path.join("skep-webhook.yaml");
        if std::env::var_os("UPDATE_KUSTOMIZE").is_some() {
            let mut text =
                "# What deploy/helm/skep-webhook renders; a test compares the two, and writes this file with UPDATE_KUSTOMIZE=1.\n"
                    .to_owned();
            for object in &rendered.0 {
                text.push_str("---\n");
                text.push_str(&skep_api::yaml::to_yaml(object));
            }
            fs::write(&manifest, text).unwrap();
        }
        assert_eq!(
            file(&manifest).0,
            rendered.0,
            "{} is not what the chart renders; run this test with UPDATE_KUSTOMIZE=1",
            manifest.display()
        );
    }
}

#[test]
fn kubectl_builds_the_kustomizations() {
    let Some(kubectl) = on_path("kubectl") else {
        control_plane::skip("there is no kubectl here");
        return;
    };
    let folder = repository().join("deploy/kustomize/webhook");
    for path in [folder.clone(), folder.join("self-signed")] {
        let output = Command::new(&kubectl).arg("kustomize").arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let sorted = |mut rendered: Rendered| {
            rendered.0.sort_by_key(|object| format!("{} {}", object["kind"], object["metadata"]["name"]));
            rendered.0
        };
        let built = Rendered::parse(&String::from_utf8(output.stdout).unwrap());
        assert_eq!(sorted(built), sorted(file(&path.join("skep-webhook.yaml"))));
    }
}

fn rights(rules: &[Value]) -> BTreeSet<(Right, Vec<String>)> {
    rules
        .iter()
        .flat_map(|rule| {
            let names = rule["resourceNames"].as_array().into_iter().flatten();
            let names: Vec<String> = names.map(|name| name.as_str().unwrap().to_owned()).collect();
            granted(rule).into_iter().map(move |right| (right, names.clone()))
        })
        .collect()
}

fn rules<'a>(rendered: &'a Rendered, kind: &str, end: &str) -> &'a [Value] {
    rendered.one(kind, end)["rules"].as_array().unwrap()
}

#[test]
fn the_rules_are_exactly_those_that_the_webhook_needs() {
    let Some(helm) = Helm::find_or_skip() else { return };
    let full = |name: &str| format!("skep-webhook-{name}");
    let own = full("self-signed-cert");
    let configurations = permissions::webhook_configuration_rules(
        &full("mutating-webhook-configuration"),
        &full("validating-webhook-configuration"),
    );
    let open = permissions::webhook_rules();
    let guarded = [open.clone(), permissions::metrics_guard_rules()].concat();

    let with_certificate = helm.render(&[]);
    assert_eq!(rights(rules(&with_certificate, "ClusterRole", "-manager-role")), rights(&guarded));
    assert!(with_certificate.of("Role").is_empty());

    let self_signed = helm.render(&["--set", SELF_SIGNED]);
    let needed = [guarded, configurations].concat();
    assert_eq!(rights(rules(&self_signed, "ClusterRole", "-manager-role")), rights(&needed));
    let needed = permissions::webhook_own_rules(&own, &own);
    assert_eq!(rights(rules(&self_signed, "Role", "-self-signed-role")), rights(&needed));

    // Where nobody asks who reads the metrics, nobody's token is looked at.
    for unguarded in ["metrics.secure=false", "metrics.enabled=false"] {
        let rendered = helm.render(&["--set", unguarded]);
        assert_eq!(rights(rules(&rendered, "ClusterRole", "-manager-role")), rights(&open));
    }
    let reader = with_certificate.one("ClusterRole", "-metrics-reader");
    assert_eq!(reader["rules"], json!([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]));
}

//! The proxy's Deployment.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use skep_api::crd::pod::{ResourceList, ResourceOverrides, Resources};
use skep_api::crd::server::Volume;
use skep_api::names;

use super::super::authz::{Authorization, FILE_NAME as AUTHZ_FILE};
use super::super::backing::{RESOURCE_ATTRIBUTES, resource_attributes};
use super::super::findings::Findings;
use super::super::restart::{Restart, RestartStrategy};
use super::super::template::{strategic_merge, survives};
use super::super::{FileSource, KeySource, Settings, Workload};
use super::config_map::hex;
use super::metadata::{Owner, merged};
use super::monitor::{diagnostics_port, wants_metrics};
use super::security;

/// Seconds from the end of a pod's being asked for to its being killed. The proxy goes on for 5 s until no
/// new request is sent to it, and then gives those it has 30 s; the rest is for its records.
const GRACE_PERIOD: u32 = 40;

/// Everything that the proxy's Deployment is made from.
pub(super) struct ProxyPod<'a> {
    pub(super) owner: &'a Owner<'a>,
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) account: &'a str,
    pub(super) settings: &'a Settings,
    pub(super) workload: &'a Workload,
    pub(super) authorization: Option<&'a Authorization>,
    pub(super) args: Vec<String>,
    pub(super) generation: Option<i64>,
    pub(super) restart: Option<&'a Restart>,
    pub(super) volumes: &'a [Volume],
    pub(super) resources: &'a Resources,
    pub(super) overrides: &'a ResourceOverrides,
    pub(super) replicas: Option<i32>,
    pub(super) readiness_delay: u32,
    pub(super) checksum: &'a str,
    pub(super) template: Option<&'a Value>,
}

impl ProxyPod<'_> {
    /// Pull secrets of the manifest and of the operator, each once.
    pub(super) fn pull_secrets(&self) -> Vec<Value> {
        let own =
            self.overrides.proxy_deployment.iter().flat_map(|part| part.image_pull_secrets.iter().flatten());
        let mut seen = BTreeSet::new();
        own.map(|secret| secret.name.clone())
            .chain(self.settings.image_pull_secrets.iter().cloned())
            .filter(|name| !name.is_empty() && seen.insert(name.clone()))
            .map(|name| json!({"name": name}))
            .collect()
    }

    /// The Deployment. Without `replicas` it says nothing about their number, which an autoscaler may own.
    pub(super) fn deployment(&self) -> Value {
        let overrides = self.overrides.proxy_deployment.as_ref();
        let labels = merged(self.labels, overrides.and_then(|part| part.labels.as_ref()));
        let annotations = merged(&BTreeMap::new(), overrides.and_then(|part| part.annotations.as_ref()));
        let mut spec = Map::new();
        if let Some(replicas) = self.replicas {
            spec.insert("replicas".to_owned(), replicas.into());
        }
        spec.insert("selector".to_owned(), json!({"matchLabels": self.labels}));
        spec.insert(
            "strategy".to_owned(),
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}),
        );
        spec.insert("template".to_owned(), self.pod_template());
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": self.owner.metadata(self.owner.name, &labels, &annotations),
            "spec": spec,
        })
    }

    /// The operator's own pod template, and the manifest's over it. What is the operator's in labels and
    /// annotations stays.
    fn pod_template(&self) -> Value {
        let mut template = self.own_template();
        if self.generation.is_some() {
            let checksum = hex(&Sha256::digest(without_marks(&template).to_string()));
            let annotation = json!({"metadata": {"annotations": {names::TEMPLATE_CHECKSUM: checksum}}});
            strategic_merge(&mut template, &annotation);
        }
        let Some(patch) = self.template else { return template };
        strategic_merge(&mut template, patch);
        let own = json!({"metadata": {"labels": self.labels, "annotations": self.own_annotations()}});
        strategic_merge(&mut template, &own);
        template
    }

    /// Judges what the manifest's template makes of the operator's.
    pub(super) fn check_template(&self, findings: &mut Findings<'_>) {
        if self.template.is_some() {
            survives(&self.own_template(), &self.pod_template(), findings);
        }
    }

    fn own_annotations(&self) -> BTreeMap<String, String> {
        let mut own = BTreeMap::from([(names::RUNCONFIG_CHECKSUM.to_owned(), self.checksum.to_owned())]);
        if let Some(generation) = self.generation {
            own.insert(names::GENERATION.to_owned(), generation.to_string());
        }
        if let Some(restart) = self.restart.filter(|restart| restart.strategy == RestartStrategy::Rolling) {
            own.insert(names::RESTARTED_AT.to_owned(), restart.at.clone());
        }
        if let Some(template) = self.template {
            own.insert(names::POD_TEMPLATE_HASH.to_owned(), hex(&Sha256::digest(template.to_string())));
        }
        own
    }

    fn own_template(&self) -> Value {
        let overrides = self
            .overrides
            .proxy_deployment
            .as_ref()
            .and_then(|part| part.pod_template_metadata_overrides.as_ref());
        let labels = merged(self.labels, overrides.and_then(|part| part.labels.as_ref()));
        let annotations =
            merged(&self.own_annotations(), overrides.and_then(|part| part.annotations.as_ref()));
        let mut spec = Map::new();
        spec.insert("serviceAccountName".to_owned(), self.account.into());
        spec.insert("terminationGracePeriodSeconds".to_owned(), GRACE_PERIOD.into());
        let pull = self.pull_secrets();
        if !pull.is_empty() {
            spec.insert("imagePullSecrets".to_owned(), pull.into());
        }
        spec.insert("securityContext".to_owned(), security::pod(self.settings.openshift));
        let (volumes, mounts) = self.mounts();
        spec.insert("containers".to_owned(), json!([self.container(mounts)]));
        spec.insert("volumes".to_owned(), volumes.into());
        json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": spec})
    }

    fn container(&self, mounts: Vec<Value>) -> Value {
        let config = &self.workload.run_config;
        let probe = |initial: u32, period: u32, failures: u32| {
            let mut probe = Map::new();
            probe.insert("httpGet".to_owned(), json!({"path": "/health", "port": "http"}));
            if initial > 0 {
                probe.insert("initialDelaySeconds".to_owned(), initial.into());
            }
            probe.insert("periodSeconds".to_owned(), period.into());
            probe.insert("timeoutSeconds".to_owned(), 3.into());
            probe.insert("failureThreshold".to_owned(), failures.into());
            Value::Object(probe)
        };
        let mut container = Map::new();
        container.insert("name".to_owned(), names::PROXY_CONTAINER.into());
        container.insert("image".to_owned(), self.settings.runner_image.clone().into());
        container.insert("command".to_owned(), json!(["skep", "proxy"]));
        container.insert("args".to_owned(), json!(self.args));
        let mut ports = vec![json!({"name": "http", "containerPort": config.port, "protocol": "TCP"})];
        if wants_metrics(config) {
            let port = diagnostics_port(config);
            ports.push(json!({"name": names::METRICS_PORT_NAME, "containerPort": port, "protocol": "TCP"}));
        }
        container.insert("ports".to_owned(), ports.into());
        container.insert("env".to_owned(), self.env().into());
        if let Some(resources) = resources(self.resources) {
            container.insert("resources".to_owned(), resources);
        }
        container.insert("startupProbe".to_owned(), probe(0, 5, 18));
        container.insert("livenessProbe".to_owned(), probe(30, 10, 3));
        container.insert("readinessProbe".to_owned(), probe(self.readiness_delay, 5, 3));
        container.insert("securityContext".to_owned(), security::container(self.settings.openshift).into());
        container.insert("volumeMounts".to_owned(), mounts.into());
        Value::Object(container)
    }

    /// Environment in the order that ToolHive has: credentials, the manifest's own, sessions,
    /// generation, and the defaults for what nobody has set.
    fn env(&self) -> Vec<Value> {
        let mut env = Vec::new();
        let from_secret = |source: &super::super::EnvSource| json!({"name": source.name, "valueFrom": {"secretKeyRef": {"name": source.secret, "key": source.key}}});
        let late = "THV_SESSION_REDIS_PASSWORD";
        let written = || self.overrides.proxy_deployment.iter().flat_map(|part| part.env.iter().flatten());
        let telemetry = self.workload.run_config.telemetry_config.as_ref();
        if let Some(telemetry) =
            telemetry.filter(|_| !written().any(|variable| variable.name == RESOURCE_ATTRIBUTES))
        {
            let attributes = resource_attributes(telemetry, self.owner.namespace);
            env.push(json!({"name": RESOURCE_ATTRIBUTES, "value": attributes}));
        }
        env.extend(self.workload.env.iter().filter(|source| source.name != late).map(from_secret));
        let mut taken: BTreeSet<String> =
            self.workload.env.iter().map(|source| source.name.clone()).collect();
        taken.extend(env.iter().filter_map(|set| Some(set.get("name")?.as_str()?.to_owned())));
        for variable in written() {
            if taken.insert(variable.name.clone()) {
                env.push(json!({"name": variable.name, "value": variable.value}));
            }
        }
        env.extend(self.workload.env.iter().filter(|source| source.name == late).map(from_secret));
        if self.generation.is_some() {
            let field = format!("metadata.annotations['{}']", names::GENERATION);
            env.push(json!({
                "name": "THV_MCPSERVER_GENERATION",
                "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": field}},
            }));
        }
        let secrets = taken.iter().any(|name| name.starts_with("TOOLHIVE_SECRET_"));
        for (name, value, wanted) in [
            ("XDG_CONFIG_HOME", "/tmp", true),
            ("HOME", "/tmp", true),
            ("TOOLHIVE_RUNTIME", "kubernetes", true),
            ("UNSTRUCTURED_LOGS", "false", true),
            ("TOOLHIVE_SECRETS_PROVIDER", "environment", secrets),
        ] {
            if wanted && !taken.contains(name) {
                env.push(json!({"name": name, "value": value}));
            }
        }
        env
    }

    /// Volumes and mounts. Always whole directories: a subPath would never follow a change.
    fn mounts(&self) -> (Vec<Value>, Vec<Value>) {
        let mut volumes = vec![
            json!({"name": names::RUNCONFIG_VOLUME, "configMap": {"name": names::runconfig(self.owner.name)}}),
            json!({"name": names::TMP_VOLUME, "emptyDir": {}}),
        ];
        let mut mounts = vec![
            json!({"name": names::RUNCONFIG_VOLUME, "mountPath": names::RUNCONFIG_DIR, "readOnly": true}),
            json!({"name": names::TMP_VOLUME, "mountPath": "/tmp"}),
        ];
        for volume in self.volumes {
            volumes.push(json!({"name": volume.name, "hostPath": {"path": volume.host_path}}));
            let mut mount = json!({"name": volume.name, "mountPath": volume.mount_path});
            if let (true, Some(map)) = (volume.read_only.unwrap_or(false), mount.as_object_mut()) {
                map.insert("readOnly".to_owned(), true.into());
            }
            mounts.push(mount);
        }
        if let Some((name, key)) =
            self.authorization.and_then(|authorization| authorization.config_map.as_ref())
        {
            volumes.push(json!({
                "name": names::AUTHZ_VOLUME,
                "configMap": {"name": name, "items": [{"key": key, "path": AUTHZ_FILE}]},
            }));
            mounts
                .push(json!({"name": names::AUTHZ_VOLUME, "mountPath": names::AUTHZ_DIR, "readOnly": true}));
        }
        for (volume, directory, source) in mounted_files(&self.workload.files) {
            let mut described = json!({"name": volume});
            if let Some(map) = described.as_object_mut() {
                map.extend(source);
            }
            volumes.push(described);
            mounts.push(json!({"name": volume, "mountPath": directory, "readOnly": true}));
        }
        (volumes, mounts)
    }
}

/// Volumes of files: name, directory, and the part of a volume that says what is in it. One a ConfigMap, and
/// one a Secret with the keys that are asked for and no other.
fn mounted_files(files: &[FileSource]) -> Vec<(String, String, Map<String, Value>)> {
    let mut keys: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in files {
        if let KeySource::Secret { name, key } = &file.source {
            keys.entry(name).or_default().push(key);
        }
    }
    let mut seen = BTreeSet::new();
    let mut made = Vec::new();
    for file in files {
        let (volume, directory, kind, source) = match &file.source {
            KeySource::ConfigMap { name, .. } => {
                let otel = format!("{}/{name}", names::OTEL_CA_DIR);
                let (prefix, directory) = match file.path.strip_prefix(&otel) {
                    Some(rest) if rest.starts_with('/') => (names::OTEL_CA_VOLUME, otel),
                    _ => (names::CA_VOLUME, format!("{}/{name}", names::CA_DIR)),
                };
                (volume_name(prefix, name), directory, "configMap", json!({"name": name}))
            }
            KeySource::Secret { name, .. } => {
                let items: Vec<Value> = keys
                    .get(name.as_str())
                    .into_iter()
                    .flatten()
                    .map(|key| json!({"key": key, "path": key}))
                    .collect();
                let directory = format!("{}/{name}", names::SECRETS_DIR);
                // 0440: for the proxy's own user and group.
                let source = json!({"secretName": name, "defaultMode": 288, "items": items});
                (volume_name(names::SECRET_VOLUME, name), directory, "secret", source)
            }
            KeySource::ServiceAccountToken { audience, expiration_seconds } => {
                let token = json!({"audience": audience, "expirationSeconds": expiration_seconds, "path": names::ACTOR_TOKEN_FILE});
                let source = json!({"sources": [{"serviceAccountToken": token}]});
                (names::ACTOR_TOKEN_VOLUME.to_owned(), names::ACTOR_TOKEN_DIR.to_owned(), "projected", source)
            }
        };
        if seen.insert(volume.clone()) {
            made.push((volume, directory, Map::from_iter([(kind.to_owned(), source)])));
        }
    }
    made
}

/// The template without what changes with every change of the spec.
fn without_marks(template: &Value) -> Value {
    let mut template = template.clone();
    let annotations = template.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    if let Some(annotations) = annotations {
        annotations.retain(|key, _| ![names::GENERATION, names::RESTARTED_AT].contains(&key.as_str()));
    }
    template
}

/// A volume's name has to be a DNS label, which the name of a ConfigMap or Secret need not be.
fn volume_name(prefix: &str, name: &str) -> String {
    let plain = format!("{prefix}-{name}");
    if names::is_dns_label(&plain) {
        return plain;
    }
    let digest: String = hex(&Sha256::digest(name)).chars().take(16).collect();
    format!("{prefix}-{digest}")
}

fn resources(resources: &Resources) -> Option<Value> {
    let list = |list: &ResourceList| {
        let mut map = Map::new();
        for (name, value) in [("cpu", &list.cpu), ("memory", &list.memory)] {
            if let Some(value) = value {
                map.insert(name.to_owned(), value.clone().into());
            }
        }
        map
    };
    let mut all = Map::new();
    for (name, part) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        let part = part.as_ref().map(list).unwrap_or_default();
        if !part.is_empty() {
            all.insert(name.to_owned(), part.into());
        }
    }
    (!all.is_empty()).then_some(Value::Object(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_makes_the_name_of_a_volume() {
        assert_eq!(volume_name("secret", "api"), "secret-api");
        for name in ["a.b", &"a".repeat(63)] {
            let volume = volume_name("oidc-ca-bundle", name);
            assert!(names::is_dns_label(&volume), "{volume}");
        }
        assert_ne!(volume_name("secret", "a.b"), volume_name("secret", "b.a"));
    }
}

//! What MCPServer and MCPRemoteProxy have in common.

use std::collections::HashSet;

use skep_api::crd::Kind;
use skep_api::crd::parse::INVALID_FIELD;
use skep_api::crd::pod::{
    EnvVar, RateLimiting, ResourceList, ResourceOverrides, Resources, SessionProvider, SessionStorage,
};
use skep_api::crd::server::Volume;
use skep_api::names;
use skep_api::runconfig::{AuditConfig, AuthMode, RunConfig, SkepExtension};

use super::authz::Authorization;
use super::findings::Findings;
use super::oidc::Authentication;
use super::outgoing::{NOT_SUPPORTED, NOT_YET_RUNNABLE};
use super::template::{our_path, own_annotation, own_label, plain};
use super::tools::Tools;
use super::{Missing, World, middleware};

/// Namespace label under which a manifest may ask for what its author could otherwise not do.
const ALLOW_PRIVILEGED: &str = "skep.dev/allow-privileged-template";

/// Judges resources, overrides and other parts that only objects are made from.
pub(super) fn surroundings(
    resources: &Resources,
    overrides: &ResourceOverrides,
    findings: &mut Findings<'_>,
) {
    quantities(resources, findings);
    let deployment = overrides.proxy_deployment.clone().unwrap_or_default();
    let service = overrides.proxy_service.clone().unwrap_or_default();
    let pods = deployment.pod_template_metadata_overrides.clone().unwrap_or_default();
    let at = "spec.resourceOverrides";
    for (part, labels) in [
        ("proxyDeployment.labels", &deployment.labels),
        ("proxyService.labels", &service.labels),
        ("proxyDeployment.podTemplateMetadataOverrides.labels", &pods.labels),
    ] {
        for (key, value) in labels.iter().flatten() {
            label(&format!("{at}.{part}.{key}"), key, value, findings);
            own_label(&format!("{at}.{part}.{key}"), key, names::is_workload_label(key), findings);
        }
    }
    for key in service.annotations.iter().flatten().map(|(key, _)| key) {
        if ["load-balancer", "external-dns", "cloud.google.com/", "networking.gke.io/"]
            .iter()
            .any(|part| key.contains(part))
        {
            privileged(
                &format!("{at}.proxyService.annotations.{key}"),
                "publishes the proxy outside the cluster",
                findings,
            );
        }
    }
    for key in pods.annotations.iter().flatten().map(|(key, _)| key) {
        let path = format!("{at}.proxyDeployment.podTemplateMetadataOverrides.annotations.{key}");
        pod_annotation(&path, key, findings);
        own_annotation(&path, key, findings);
    }
    variables(deployment.env.as_deref().unwrap_or_default(), findings);
}

/// What the API server takes as the resources of a container.
fn quantities(resources: &Resources, findings: &mut Findings<'_>) {
    let of = |list: &Option<ResourceList>| list.clone().unwrap_or_default();
    let (limits, requests) = (of(&resources.limits), of(&resources.requests));
    for (name, limit, request) in
        [("cpu", limits.cpu, requests.cpu), ("memory", limits.memory, requests.memory)]
    {
        let mut amount = |part: &str, value: Option<&String>| {
            let (path, value) = (format!("spec.resources.{part}.{name}"), value?);
            let message = match quantity(value) {
                None => format!("`{}` is not a quantity such as `100m` or `128Mi`.", value.escape_debug()),
                Some(amount) if amount < 0.0 => "This can't be less than nothing.".to_owned(),
                Some(amount) => return Some(amount),
            };
            findings.error(path, INVALID_FIELD, message);
            None
        };
        let (limit, request) = (amount("limits", limit.as_ref()), amount("requests", request.as_ref()));
        if let (Some(limit), Some(request)) = (limit, request)
            && request > limit
        {
            let path = format!("spec.resources.requests.{name}");
            findings.error(path, INVALID_FIELD, "More is requested than the limit allows.");
        }
    }
}

/// What the API server takes as a label.
fn label(path: &str, key: &str, value: &str, findings: &mut Findings<'_>) {
    if !names::is_qualified(key) {
        findings.error(path, INVALID_FIELD, "This is not the key of a label: a name with letters, digits, `-`, `_` and `.`, with or without a domain and `/` before it.");
    } else if !value.is_empty() && !names::is_label_word(value) {
        findings.error(path, INVALID_FIELD, "The value of a label has at most 63 letters, digits, `-`, `_` and `.`, and begins and ends with a letter or a digit.");
    }
}

/// Judges the proxy's environment.
fn variables(env: &[EnvVar], findings: &mut Findings<'_>) {
    let mut seen = HashSet::new();
    for (index, variable) in env.iter().enumerate() {
        let repeated = !seen.insert(variable.name.as_str());
        let path = format!("spec.resourceOverrides.proxyDeployment.env[{index}].name");
        let name = variable.name.as_str();
        if !is_variable(name) {
            let message = format!("`{}` is not the name of an environment variable.", name.escape_debug());
            findings.error(&path, INVALID_FIELD, message);
        } else if names::is_reserved_variable(name) {
            findings.error(
                &path,
                "ReservedVariable",
                format!("The proxy takes `{name}` for the operator's word. Remove it; a secret is given by a reference to a Secret."),
            );
        } else if repeated {
            findings.error(&path, "DuplicateEntry", format!("`{name}` is set already; keep one."));
        } else if name.ends_with("_CLIENT_SECRET") {
            findings.warning(
                &path,
                "SecretInManifest",
                "This looks like a secret, and everybody who can read the object can read it.",
            );
        }
    }
}

/// Judges the volumes of an MCPServer beside those that the operator has in the proxy's pod.
pub(super) fn volumes(volumes: &[Volume], findings: &mut Findings<'_>) {
    let (mut names_seen, mut paths_seen) = (HashSet::new(), HashSet::new());
    for (index, volume) in volumes.iter().enumerate() {
        let at = format!("spec.volumes[{index}]");
        let same_name = !names_seen.insert(volume.name.as_str());
        let same_path = !paths_seen.insert(plain(&volume.mount_path));
        if names::is_reserved_volume(&volume.name) {
            let message = format!("The volume `{}` is the operator's. Choose another name.", volume.name);
            findings.error(format!("{at}.name"), INVALID_FIELD, message);
        } else if same_name {
            let message = format!("Another volume has the name `{}` already.", volume.name.escape_debug());
            findings.error(format!("{at}.name"), "DuplicateEntry", message);
        } else if !names::is_dns_label(&volume.name) {
            let message = "The name of a volume has at most 63 lower-case letters, digits and `-`, and begins and ends with a letter or a digit.";
            findings.error(format!("{at}.name"), INVALID_FIELD, message);
        }
        let path = format!("{at}.mountPath");
        if let Some(ours) = our_path(&volume.mount_path) {
            let message = format!("This lies over `{ours}`, which is the operator's.");
            findings.error(path, INVALID_FIELD, message);
        } else if same_path {
            findings.error(path, "DuplicateEntry", "Another volume is mounted there already.");
        }
    }
}

/// Judges the ServiceAccount of pods: that of a proxy may read what the proxy refers to.
pub(super) fn service_account(name: Option<&str>, findings: &mut Findings<'_>) {
    // Also what a remote proxy's ends with.
    let Some(name) = name.filter(|name| name.ends_with(&names::server_runner(""))) else { return };
    findings.error(
        "spec.serviceAccount",
        "ReservedServiceAccount",
        format!("`{}` is the ServiceAccount of a proxy. Choose another.", name.escape_debug()),
    );
}

/// Judges the port on which clients call.
pub(super) fn port(port: u16, findings: &mut Findings<'_>) {
    if port == names::DIAGNOSTICS_PORT {
        let message =
            format!("The proxy reports and serves its metrics on port {port}. Choose another for callers.");
        findings.error("spec.proxyPort", "PortReserved", message);
    }
}

/// Judges an annotation of a pod.
pub(super) fn pod_annotation(path: &str, key: &str, findings: &mut Findings<'_>) {
    let Some(vault) = key.strip_prefix("vault.hashicorp.com/") else { return };
    if ["agent-json-patch", "agent-init-json-patch", "agent-image", "agent-configmap", "agent-extra-secret"]
        .contains(&vault)
        || vault.starts_with("agent-inject-command-")
    {
        privileged(path, "runs code of its own in the pod", findings);
    } else if vault == "agent-inject" {
        findings.warning(path, NOT_YET_RUNNABLE, "The Vault agent will write its files into the pod, but this version does not pass them on to the MCP server yet.");
    }
}

/// Something that needs a label on the namespace, because the author of the manifest could otherwise
/// do through the operator what he can't do himself.
pub(super) fn privileged(path: &str, does: &str, findings: &mut Findings<'_>) {
    let world = findings.world;
    if world.namespace_labels.get(ALLOW_PRIVILEGED).is_some_and(|value| value != "false") {
        return;
    }
    let message =
        format!("This {does}, which needs the label `{ALLOW_PRIVILEGED}: \"true\"` on the namespace.");
    match world.settings.missing {
        Missing::Warn => findings.warning(path, "PrivilegedTemplate", message),
        Missing::Refuse | Missing::Later => findings.error(path, "PrivilegedTemplate", message),
    }
}

/// True for a name that an environment variable can have.
pub(super) fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// The amount that a Kubernetes quantity stands for, in `apimachinery`'s grammar; near enough to tell more from
/// less.
fn quantity(text: &str) -> Option<f64> {
    let negative = text.starts_with('-');
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    if !number.chars().any(|c| c.is_ascii_digit()) || number.matches('.').count() > 1 {
        return None;
    }
    // A dot may stand at either end.
    let number: f64 = format!("0{number}0").parse().ok()?;
    let whole = if text.contains('.') { number } else { number / 10.0 };
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0_f64.powi(2),
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        "Pi" => 1024.0_f64.powi(5),
        "Ei" => 1024.0_f64.powi(6),
        exponent => 10.0_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse::<i8>().ok()?.into()),
    };
    Some(if negative { -whole * factor } else { whole * factor })
}

/// Protections that a later version runs: refused, because passing them over would leave them open.
pub(super) fn not_yet(
    rate_limiting: Option<&RateLimiting>,
    webhooks: Option<&str>,
    says_auth: bool,
    findings: &mut Findings<'_>,
) {
    rate_limits(rate_limiting, says_auth, findings);
    if rate_limiting.is_some() {
        findings.error(
            "spec.rateLimiting",
            NOT_SUPPORTED,
            "This version does not limit calls yet, and does not pass a limit over in silence. Remove it.",
        );
    }
    if let Some(name) = webhooks {
        webhook_config(name, findings);
        findings.error(
            "spec.webhookConfigRef",
            NOT_SUPPORTED,
            "This version does not call webhooks yet, and does not pass them over in silence. Remove it.",
        );
    }
}

/// Limits for each user need users.
fn rate_limits(limits: Option<&RateLimiting>, says_auth: bool, findings: &mut Findings<'_>) {
    let condition = "RateLimitConfigValid";
    let Some(limits) = limits else {
        findings.holds(condition, "RateLimitNotApplicable", "There are no limits.");
        return;
    };
    let tools = limits.tools.iter().flatten();
    if (limits.per_user.is_some() || tools.into_iter().any(|tool| tool.per_user.is_some())) && !says_auth {
        let message = "A limit for each user needs to know the users. Add `oidcConfigRef`.";
        findings.fails(condition, "PerUserRequiresAuth", message);
    } else {
        findings.holds(condition, "RateLimitConfigValid", "The limits are valid.");
    }
}

fn webhook_config(name: &str, findings: &mut Findings<'_>) {
    let (condition, reason) = ("WebhookConfigValidated", "WebhookConfigInvalid");
    let world = findings.world;
    match world.config(Kind::MCPWebhookConfig, name) {
        None => {
            let message = findings.absence(&format!("The MCPWebhookConfig `{}`", name.escape_debug()));
            findings.fails(condition, reason, message);
        }
        Some(config) => {
            let planned = super::plan_object(config, world);
            if let Some(problem) = planned.problems.iter().find(|problem| problem.is_error()) {
                let message = format!(
                    "The MCPWebhookConfig `{name}` is not valid: {}: {}",
                    problem.path, problem.message
                );
                findings.fails(condition, reason, message);
            }
        }
    }
}

/// Says what several pods without a common store of sessions mean. It stops nothing.
pub(super) fn session_storage(
    replicas: Option<i32>,
    storage: Option<&SessionStorage>,
    findings: &mut Findings<'_>,
) {
    let condition = "SessionStorageWarning";
    let redis = storage.is_some_and(|storage| storage.provider == SessionProvider::Redis);
    if replicas.is_none_or(|count| count < 2) {
        let message = "There is one proxy pod, or their number is left to others.";
        findings.fails(condition, "SessionStorageWarningNotApplicable", message);
    } else if redis {
        findings.fails(condition, "SessionStorageConfigured", "Sessions are kept in Redis.");
    } else {
        let message = if findings.world.settings.default_redis.is_some() {
            "There are several proxy pods and no `sessionStorage`; this version does not use the operator's default Redis. A session that the MCP server keeps is reached through any pod; what a proxy keeps itself, each pod keeps alone."
        } else {
            "There are several proxy pods and no `sessionStorage`. A session that the MCP server keeps is reached through any pod; what a proxy keeps itself, each pod keeps alone."
        };
        findings.holds(condition, "SessionStorageMissingForReplicas", message);
    }
}

/// Parts of a RunConfig that both kinds fill in the same way.
pub(super) struct Protection {
    pub(super) authentication: Option<Authentication>,
    pub(super) authorization: Option<Authorization>,
    pub(super) tools: Option<Tools>,
    pub(super) audit: bool,
    pub(super) anonymous: bool,
    pub(super) allowed_hosts: Vec<String>,
}

impl Protection {
    /// Writes the protection into a RunConfig, all but its middleware list.
    pub(super) fn apply(&self, config: &mut RunConfig) {
        let mut extension = SkepExtension {
            auth_mode: if self.anonymous { AuthMode::Anonymous } else { AuthMode::Token },
            allowed_hosts: self.allowed_hosts.clone(),
            ..SkepExtension::default()
        };
        if let Some(authentication) = &self.authentication {
            config.thv_ca_bundle.clone_from(&authentication.config.ca_cert_path);
            config.jwks_auth_token_file.clone_from(&authentication.config.auth_token_file);
            config.oidc_config = Some(authentication.config.clone());
            extension.issuer.clone_from(&authentication.rules);
            extension.further_issuers.clone_from(&authentication.further);
        }
        config.authz_config = self.authorization.as_ref().map(|authorization| authorization.config.clone());
        if let Some(tools) = &self.tools {
            config.tools_filter.clone_from(&tools.filter);
            config.tools_override.clone_from(&tools.overrides);
        }
        config.audit_config = self.audit.then(AuditConfig::default);
        config.skep = extension;
    }

    /// Lists the stages, when everything else is in place.
    pub(super) fn finish(config: &mut RunConfig) {
        config.middleware_configs = middleware::list(config);
    }
}

/// Policies without identities can only judge everybody alike.
pub(super) fn policies_need_identities(
    authorization: Option<&Authorization>,
    authentication: bool,
    anonymous: bool,
    findings: &mut Findings<'_>,
) {
    if authorization.is_some() && !authentication && !anonymous {
        findings.warning(
            "spec.authzConfig",
            "PoliciesWithoutIdentity",
            "There is no incoming auth, so policies see everybody as the same anonymous caller.",
        );
    }
}

/// `allowedHosts` are bare host names, with or without a port.
pub(super) fn allowed_hosts(hosts: &[String], findings: &mut Findings<'_>) {
    for (index, host) in hosts.iter().enumerate() {
        let url = url::Url::parse(&format!("http://{host}/"));
        let bare = url.is_ok_and(|url| {
            url.path() == "/"
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
        });
        if !bare || host.contains(['/', '?', '#', '@', '*']) {
            findings.error(
                format!("spec.allowedHosts[{index}]"),
                INVALID_FIELD,
                format!("`{}` is not a host name, with or without a port.", host.escape_debug()),
            );
        }
    }
}

/// Whether the world demands an auth config that is not there.
pub(super) fn required_auth(world: &World) -> Option<&'static str> {
    world.requires_auth().then_some("This namespace, or the operator, requires an auth config (`skep.dev/require-auth`). Add `oidcConfigRef`.")
}

/// `endpointPrefix` is a path.
pub(super) fn endpoint_prefix(prefix: &str, findings: &mut Findings<'_>) {
    if !prefix.is_empty()
        && (!prefix.starts_with('/') || prefix.contains(['?', '#', ' ']) || prefix.contains(".."))
    {
        findings.error("spec.endpointPrefix", INVALID_FIELD, "The prefix is a path that begins with `/`.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, expected) in [
            ("1", 1.0),
            ("100m", 0.1),
            ("0.5", 0.5),
            ("128Mi", 134_217_728.0),
            ("1e3", 1000.0),
            ("1E", 1e18),
            ("2Gi", 2_147_483_648.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("+10", 10.0),
            ("-100m", -0.1),
        ] {
            let found = quantity(text).unwrap();
            assert!((found - expected).abs() <= expected.abs() * 1e-9, "{text}: {found}");
        }
        for text in ["", "lots", "1MB", "1 Gi", "m", "1..5", "1e", "--1"] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }
}

//! MCPServerEntry: a remote server in a catalogue. It makes nothing; what it says has to be usable.

use skep_api::crd::external_auth::ExternalAuthType;
use skep_api::crd::server_entry::ServerEntrySpec;
use skep_api::crd::{Kind, Object, Spec};
use skep_api::problem::Problem;

use super::ca_bundle::{self, CaBundleState};
use super::findings::{Findings, Reasons};
use super::outgoing::{self, Outgoing};
use super::remote_url::{self, Allowance};
use super::{Planned, configs};

const GROUP: &str = "GroupRefValidated";
const REMOTE_URL: &str = "RemoteURLValidated";
const CA_BUNDLE: &str = "CABundleRefValidated";
const HEADERS: &str = "HeaderSecretRefsValidated";

/// Reasons of `externalAuthConfigRef`, which differ from those of workloads.
const AUTH_REF: Reasons = Reasons {
    condition: "ExternalAuthConfigValidated",
    valid: "AuthConfigValid",
    not_found: "AuthConfigNotFound",
    // In fact the config's own reason, as for workloads.
    not_valid: "InvalidExternalAuthConfig",
};

/// Judges an MCPServerEntry and what it refers to.
pub(super) fn plan(object: &Object, spec: &ServerEntrySpec, mut findings: Findings<'_>) -> Planned {
    group(&spec.group_ref.name, &mut findings);
    remote(spec, &mut findings);
    let path = "spec.externalAuthConfigRef.name";
    match &spec.external_auth_config_ref {
        Some(named) => {
            let found = findings.config(Kind::MCPExternalAuthConfig, &named.name, path, AUTH_REF);
            if let Some(Spec::ExternalAuth(config)) = found.map(|object| &object.spec) {
                credential(&named.name, config.kind(), path, &mut findings);
            }
        }
        None => {
            findings.holds(AUTH_REF.condition, "AuthConfigNotConfigured", "No credential is configured.");
        }
    }
    bundle(spec, &mut findings);
    headers(spec, &object.metadata.name, &mut findings);
    configs::valid(Kind::MCPServerEntry, findings)
}

/// What calls a catalogue's servers is not here, but no such thing knows these types.
fn credential(name: &str, kind: ExternalAuthType, path: &str, findings: &mut Findings<'_>) {
    let (reason, message) = match kind {
        ExternalAuthType::EmbeddedAuthServer | ExternalAuthType::BearerToken => (
            AUTH_REF.not_valid,
            format!(
                "The MCPExternalAuthConfig `{name}` has the type `{}`, which an entry can't use. `headerInjection` sends one credential for all callers.",
                kind.as_str()
            ),
        ),
        // Its own condition says the same, without an error.
        ExternalAuthType::Obo => (outgoing::ENTERPRISE_REQUIRED, outgoing::not_run(kind)),
        _ => return,
    };
    findings.fails(AUTH_REF.condition, reason, &message);
    findings.error(path, reason, message);
}

fn group(name: &str, findings: &mut Findings<'_>) {
    const PATH: &str = "spec.groupRef.name";
    const NOT_FOUND: &str = "GroupRefNotFound";
    let world = findings.world;
    let Some(group) = world.config(Kind::MCPGroup, name) else {
        let what = format!("The MCPGroup `{}`", name.escape_debug());
        findings.missing_detail(PATH, NOT_FOUND, &what);
        findings.fails(GROUP, NOT_FOUND, format!("{what} does not exist."));
        return;
    };
    if group.metadata.is_terminating() {
        let message = format!("The MCPGroup `{name}` is being deleted.");
        findings.error(PATH, NOT_FOUND, &message);
        findings.fails(GROUP, NOT_FOUND, message);
    } else if super::plan_object(group, world).problems.iter().any(Problem::is_error) {
        let message = format!("The MCPGroup `{name}` is not valid.");
        findings.error(PATH, "GroupRefNotReady", &message);
        findings.fails(GROUP, "GroupRefNotReady", message);
    } else {
        findings.holds(GROUP, "GroupRefIsValid", format!("The MCPGroup `{name}` exists."));
    }
}

fn remote(spec: &ServerEntrySpec, findings: &mut Findings<'_>) {
    const PATH: &str = "spec.remoteUrl";
    let allow = Allowance {
        private: spec.allow_private_endpoint.unwrap_or(false),
        loopback: findings.world.is_local(),
    };
    match remote_url::check(&spec.remote_url, allow) {
        Ok(url) => {
            if url.scheme() == "http" {
                findings.warning(
                    PATH,
                    "RemoteURLInsecure",
                    "The URL is plain http; whoever is on the way can read and change every call.",
                );
            }
            findings.holds(REMOTE_URL, "RemoteURLValid", "The URL of the remote server may be called.");
        }
        Err(error) => {
            findings.error(PATH, "RemoteURLInvalid", error.to_string());
            findings.fails(REMOTE_URL, "RemoteURLInvalid", error.to_string());
        }
    }
}

fn bundle(spec: &ServerEntrySpec, findings: &mut Findings<'_>) {
    let before = findings.problems.len();
    let state = ca_bundle::plan(spec.ca_bundle_ref.as_ref(), "spec.caBundleRef", findings);
    let said = findings.problems.get(before).map(|problem| problem.message.clone()).unwrap_or_default();
    match state.map(|bundle| bundle.state) {
        None => findings.holds(CA_BUNDLE, "CABundleRefNotConfigured", "No CA certificates are configured."),
        Some(CaBundleState::Valid) => {
            findings.holds(CA_BUNDLE, "CABundleRefValid", "The ConfigMap holds certificates.");
        }
        Some(CaBundleState::Invalid) => findings.fails(CA_BUNDLE, "CABundleRefInvalid", said),
        Some(CaBundleState::NotFound) => findings.fails(CA_BUNDLE, "CABundleRefNotFound", said),
    }
}

fn headers(spec: &ServerEntrySpec, name: &str, findings: &mut Findings<'_>) {
    let Some(forward) = &spec.header_forward else { return };
    let before = findings.problems.len();
    outgoing::headers(forward, name, &mut Outgoing::default(), findings);
    if forward.add_headers_from_secret.as_ref().is_none_or(Vec::is_empty) {
        return;
    }
    let missing = findings
        .problems
        .iter()
        .skip(before)
        .find(|problem| problem.reason == "HeaderSecretNotFound")
        .map(|problem| format!("{}: {}", problem.path, problem.message));
    match missing {
        Some(message) => findings.fails(HEADERS, "HeaderSecretNotFound", message),
        None => findings.holds(HEADERS, "HeaderSecretsValid", "The Secrets of all headers exist."),
    }
}

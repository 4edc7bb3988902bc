//! Config kinds: they make no objects, only conditions and problems.

use skep_api::crd::Kind;
use skep_api::crd::authz::AuthzConfigSpec;
use skep_api::crd::external_auth::{ExternalAuth, ExternalAuthType};
use skep_api::crd::oidc::{OidcConfigSpec, OidcSource};
use skep_api::crd::parse::INVALID_FIELD;
use skep_api::crd::tools::ToolConfigSpec;
use skep_api::problem::Problem;

use super::findings::Findings;
use super::{Plan, Planned, World, authz, oidc, outgoing, tools};

/// Reasons of the condition `Valid`, which differ by kind.
fn reasons(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::MCPOIDCConfig | Kind::MCPAuthzConfig | Kind::MCPServerEntry => ("ConfigValid", "ConfigInvalid"),
        _ => ("ValidationSucceeded", "ValidationFailed"),
    }
}

/// The conditions of an object that could not be read.
pub(super) fn unreadable(kind: Kind, findings: &mut Findings<'_>) {
    let message = first_error(findings)
        .map(|problem| format!("{}: {}", problem.path, problem.message))
        .unwrap_or_default();
    match kind {
        Kind::MCPRemoteProxy => findings.fails("ConfigurationValid", "InvalidField", message),
        Kind::MCPServer => findings.fails("Ready", "NotReady", message),
        _ => findings.fails("Valid", reasons(kind).1, message),
    }
}

fn first_error(findings: &Findings<'_>) -> Option<Problem> {
    findings.problems.iter().find(|problem| problem.is_error()).cloned()
}

/// The result of judging a config: its condition `Valid`, and a plan of nothing.
pub(super) fn valid(kind: Kind, mut findings: Findings<'_>) -> Planned {
    findings.bounds();
    let (yes, no) = reasons(kind);
    match first_error(&findings) {
        None => findings.holds("Valid", yes, "The configuration is valid."),
        Some(problem) => {
            // Heals by itself as soon as the Secret is there.
            let reason = if problem.reason == "SecretNotFound" { "SecretNotFound" } else { no };
            findings.fails("Valid", reason, format!("{}: {}", problem.path, problem.message));
        }
    }
    findings.planned(Some(Plan::default()))
}

pub(super) fn external_auth(config: &ExternalAuth, _world: &World, mut findings: Findings<'_>) -> Planned {
    outgoing::check(config, &mut findings);
    let kind = config.kind();
    let runs = !matches!(
        kind,
        ExternalAuthType::EmbeddedAuthServer
            | ExternalAuthType::UpstreamInject
            | ExternalAuthType::Obo
            | ExternalAuthType::Xaa
    );
    if runs {
        return valid(Kind::MCPExternalAuthConfig, findings);
    }
    let message = format!("{} Workloads that refer to this are refused.", outgoing::not_run(kind));
    findings.bounds();
    if kind == ExternalAuthType::Obo && !findings.has_errors() {
        // ToolHive takes the object and says so in its condition; so it is no error by itself.
        findings.warning("spec.type", outgoing::ENTERPRISE_REQUIRED, message.clone());
        findings.fails("Valid", outgoing::ENTERPRISE_REQUIRED, message);
        return findings.planned(Some(Plan::default()));
    }
    findings.warning("spec.type", outgoing::NOT_YET_RUNNABLE, message);
    valid(Kind::MCPExternalAuthConfig, findings)
}

pub(super) fn tools(config: &ToolConfigSpec, mut findings: Findings<'_>) -> Planned {
    tools::check(config, &mut findings);
    valid(Kind::MCPToolConfig, findings)
}

pub(super) fn oidc(config: &OidcConfigSpec, _world: &World, mut findings: Findings<'_>) -> Planned {
    if config.kind == OidcSource::KubernetesServiceAccount && config.kubernetes_service_account.is_none() {
        findings.error(
            "spec.kubernetesServiceAccount",
            INVALID_FIELD,
            "`type` is `kubernetesServiceAccount`, which needs the block of that name; an empty one will do.",
        );
    }
    oidc::check(config, &mut findings);
    valid(Kind::MCPOIDCConfig, findings)
}

pub(super) fn authz(config: &AuthzConfigSpec, mut findings: Findings<'_>) -> Planned {
    authz::from_spec(config, &mut findings);
    valid(Kind::MCPAuthzConfig, findings)
}

//! Hashes of configs, by which a change of one is seen in the status of who refers to it.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use skep_api::crd::{Kind, Object, Spec};

use super::World;
use super::objects::hex;
use super::references::{Target, auth_server, references};

/// Hexadecimal digits of a hash.
const DIGITS: usize = 16;

/// The hash of a config; none for kinds whose status has no such field.
pub(super) fn own(object: &Object, world: &World) -> Option<String> {
    if matches!(object.kind, Kind::MCPServer | Kind::MCPRemoteProxy | Kind::MCPGroup | Kind::MCPServerEntry) {
        return None;
    }
    let mut digest = Sha256::new();
    digest.update(&object.spec_digest);
    // A Secret that is rotated changes what these two mean.
    if matches!(object.kind, Kind::MCPExternalAuthConfig | Kind::MCPOIDCConfig) {
        for secret in references(object).into_iter().filter(|reference| reference.target == Target::Secret) {
            let version = world.secret_versions.get(&secret.name).map_or("", String::as_str);
            digest.update(format!("/{}/{version}", secret.name));
        }
    }
    Some(hex(&digest.finalize()).chars().take(DIGITS).collect())
}

/// The hashes of what a workload refers to, by the field of its status.
pub(super) fn referred(object: &Object, world: &World) -> BTreeMap<&'static str, String> {
    named(object)
        .into_iter()
        .filter_map(|(field, kind, name)| Some((field, own(world.config(kind, name?)?, world)?)))
        .collect()
}

type Named<'a> = (&'static str, Kind, Option<&'a str>);

fn named(object: &Object) -> Vec<Named<'_>> {
    let (tools, external, server, oidc, authz, telemetry, webhooks) = match &object.spec {
        Spec::Server(spec) => (
            &spec.tool_config,
            &spec.external_auth,
            &spec.auth_server_ref,
            &spec.oidc_config_ref,
            &spec.authz_config_ref,
            &spec.telemetry_config_ref,
            &spec.webhook_config,
        ),
        Spec::RemoteProxy(spec) => (
            &spec.tool_config,
            &spec.external_auth,
            &spec.auth_server_ref,
            &spec.oidc_config_ref,
            &spec.authz_config_ref,
            &spec.telemetry_config_ref,
            &spec.webhook_config,
        ),
        _ => return Vec::new(),
    };
    vec![
        ("toolConfigHash", Kind::MCPToolConfig, tools.as_deref()),
        ("externalAuthConfigHash", Kind::MCPExternalAuthConfig, external.as_deref()),
        ("authServerConfigHash", Kind::MCPExternalAuthConfig, server.as_ref().and_then(auth_server)),
        ("oidcConfigHash", Kind::MCPOIDCConfig, oidc.as_ref().map(|named| named.name.as_str())),
        ("authzConfigHash", Kind::MCPAuthzConfig, authz.as_deref()),
        (
            "telemetryConfigHash",
            Kind::MCPTelemetryConfig,
            telemetry.as_ref().map(|named| named.name.as_str()),
        ),
        ("webhookConfigHash", Kind::MCPWebhookConfig, webhooks.as_deref()),
    ]
}

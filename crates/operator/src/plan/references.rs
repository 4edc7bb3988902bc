//! What an object refers to.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skep_api::crd::authz::EmbeddedAuthz;
use skep_api::crd::external_auth::ExternalAuth;
use skep_api::crd::oidc::{EmbeddedOidc, InlineOidc, OidcConfigSpec};
use skep_api::crd::pod::{HeaderForwardSpec, SessionProvider, SessionStorage};
use skep_api::crd::reference::{AuthServerRef, CaBundleSource, SecretKeyRef};
use skep_api::crd::remote_proxy::RemoteProxy;
use skep_api::crd::server::{PermissionSource, Server};
use skep_api::crd::server_entry::ServerEntrySpec;
use skep_api::crd::telemetry::TelemetryConfigSpec;
use skep_api::crd::webhooks::WebhookConfigSpec;
use skep_api::crd::{Kind, Object, Spec};
use skep_api::names;

use super::{oidc_config_map, sidecars};

/// One object that another refers to, in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// What kind of object it is.
    pub target: Target,
    /// Its name; always one that an object can have.
    pub name: String,
}

/// What can be referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A custom resource of this kind.
    Object(Kind),
    /// A Secret, of which the planner looks at the keys.
    Secret,
    /// A ConfigMap, of which the planner looks at the content.
    ConfigMap,
}

/// Everything that the planner may look at for this object, but not what the configs among it refer to in
/// turn, nor what only the content of its ConfigMaps names ([`references_in`]). Names that no object can have
/// are left out: nothing is found under them. The spec of an object that could not be read refers to nothing.
pub fn references(object: &Object) -> BTreeSet<Reference> {
    // What is said beside the spec holds for an object that can't be read too.
    let mut found = Found(sidecars::references(object));
    match &object.spec {
        Spec::Server(spec) => server(spec, &mut found),
        Spec::RemoteProxy(spec) => remote_proxy(spec, &mut found),
        Spec::ExternalAuth(spec) => external_auth(spec, &mut found),
        Spec::OidcConfig(spec) => oidc_config(spec, &mut found),
        Spec::Telemetry(spec) => telemetry(spec, &mut found),
        Spec::Webhooks(spec) => webhooks(spec, &mut found),
        Spec::Entry(spec) => entry(spec, &mut found),
        Spec::ToolConfig(_) | Spec::AuthzConfig(_) | Spec::Group(_) | Spec::Unreadable => {}
    }
    found.0
}

/// What the ConfigMaps of an object name in their content: `oidcConfig.configMap` may hold references to a
/// Secret and to another ConfigMap. `config_maps` are those of [`references`].
pub fn references_in(
    object: &Object,
    config_maps: &BTreeMap<String, BTreeMap<String, String>>,
) -> BTreeSet<Reference> {
    let embedded = match &object.spec {
        Spec::Server(spec) => spec.oidc_config.as_ref(),
        Spec::RemoteProxy(spec) => spec.oidc_config.as_ref(),
        _ => None,
    };
    let mut found = Found::default();
    if let Some(reference) = embedded.and_then(|embedded| embedded.config_map.as_ref())
        && let Some(data) = config_maps.get(&reference.name)
    {
        for settings in oidc_config_map::written(reference.key.as_deref(), data) {
            inline_oidc(&settings, &mut found);
        }
    }
    found.0
}

/// True when a spec names a config in one of the fields that are meant for it, wherever that stands. For objects
/// that can't be read, and for kinds of another operator, whose shape nobody here knows.
pub fn mentions(object: &Value, kind: Kind, name: &str) -> bool {
    let mut open: Vec<&Value> = object.get("spec").into_iter().collect();
    while let Some(value) = open.pop() {
        match value {
            Value::Object(map) => {
                for (field, inside) in map {
                    let named = inside.get("name").and_then(Value::as_str) == Some(name);
                    if named && fields(kind).contains(&field.as_str()) {
                        return true;
                    }
                    open.push(inside);
                }
            }
            Value::Array(list) => open.extend(list),
            _ => {}
        }
    }
    false
}

/// The fields by which other kinds refer to configs of a kind.
fn fields(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::MCPExternalAuthConfig => &["externalAuthConfigRef", "authServerRef"],
        Kind::MCPToolConfig => &["toolConfigRef"],
        Kind::MCPOIDCConfig => &["oidcConfigRef"],
        Kind::MCPAuthzConfig => &["authzConfigRef"],
        Kind::MCPTelemetryConfig => &["telemetryConfigRef"],
        Kind::MCPWebhookConfig => &["webhookConfigRef"],
        Kind::MCPGroup | Kind::MCPServer | Kind::MCPRemoteProxy | Kind::MCPServerEntry => &[],
    }
}

#[derive(Default)]
struct Found(BTreeSet<Reference>);

impl Found {
    fn add(&mut self, target: Target, name: &str) {
        if names::is_dns_subdomain(name) {
            self.0.insert(Reference { target, name: name.to_owned() });
        }
    }

    fn object(&mut self, kind: Kind, name: Option<&str>) {
        self.add(Target::Object(kind), name.unwrap_or_default());
    }

    fn secret(&mut self, secret: Option<&SecretKeyRef>) {
        if let Some(secret) = secret {
            self.add(Target::Secret, &secret.name);
        }
    }

    fn ca_bundle(&mut self, source: Option<&CaBundleSource>) {
        if let Some(reference) = source.and_then(|source| source.config_map_ref.as_ref()) {
            self.add(Target::ConfigMap, &reference.name);
        }
    }
}

fn server(spec: &Server, found: &mut Found) {
    embedded_oidc(spec.oidc_config.as_ref(), found);
    found.object(Kind::MCPOIDCConfig, spec.oidc_config_ref.as_ref().map(|named| named.name.as_str()));
    found.object(Kind::MCPExternalAuthConfig, spec.auth_server_ref.as_ref().and_then(auth_server));
    embedded_authz(spec.authz_config.as_ref(), found);
    found.object(Kind::MCPAuthzConfig, spec.authz_config_ref.as_deref());
    found.object(Kind::MCPToolConfig, spec.tool_config.as_deref());
    found.object(Kind::MCPExternalAuthConfig, spec.external_auth.as_deref());
    found.object(
        Kind::MCPTelemetryConfig,
        spec.telemetry_config_ref.as_ref().map(|named| named.name.as_str()),
    );
    found.object(Kind::MCPWebhookConfig, spec.webhook_config.as_deref());
    found.object(Kind::MCPGroup, spec.group.as_deref());
    session_storage(spec.session_storage.as_ref(), found);
    for secret in &spec.secrets {
        found.add(Target::Secret, &secret.secret);
    }
    if let Some(profile) = &spec.permission_profile
        && profile.kind.unwrap_or_default() == PermissionSource::Configmap
        && profile.key.as_ref().is_some_and(|key| !key.is_empty())
    {
        found.add(Target::ConfigMap, &profile.name);
    }
}

fn remote_proxy(spec: &RemoteProxy, found: &mut Found) {
    embedded_oidc(spec.oidc_config.as_ref(), found);
    found.object(Kind::MCPOIDCConfig, spec.oidc_config_ref.as_ref().map(|named| named.name.as_str()));
    found.object(Kind::MCPExternalAuthConfig, spec.auth_server_ref.as_ref().and_then(auth_server));
    embedded_authz(spec.authz_config.as_ref(), found);
    found.object(Kind::MCPAuthzConfig, spec.authz_config_ref.as_deref());
    found.object(Kind::MCPToolConfig, spec.tool_config.as_deref());
    found.object(Kind::MCPExternalAuthConfig, spec.external_auth.as_deref());
    found.object(
        Kind::MCPTelemetryConfig,
        spec.telemetry_config_ref.as_ref().map(|named| named.name.as_str()),
    );
    found.object(Kind::MCPWebhookConfig, spec.webhook_config.as_deref());
    found.object(Kind::MCPGroup, spec.group.as_deref());
    session_storage(spec.session_storage.as_ref(), found);
    header_forward(&spec.header_forward, found);
}

fn header_forward(spec: &HeaderForwardSpec, found: &mut Found) {
    for header in spec.add_headers_from_secret.iter().flatten() {
        found.secret(Some(&header.value_secret_ref));
    }
}

/// The MCPExternalAuthConfig that an `authServerRef` names. Another kind is refused by its name.
pub(super) fn auth_server(reference: &AuthServerRef) -> Option<&str> {
    let ours = reference.kind.as_deref().is_none_or(|kind| kind == Kind::MCPExternalAuthConfig.as_str());
    ours.then_some(reference.name.as_str())
}

fn embedded_authz(embedded: Option<&EmbeddedAuthz>, found: &mut Found) {
    if let Some(reference) = embedded.and_then(|embedded| embedded.config_map.as_ref()) {
        found.add(Target::ConfigMap, &reference.name);
    }
}

fn session_storage(storage: Option<&SessionStorage>, found: &mut Found) {
    if let Some(storage) = storage.filter(|storage| storage.provider == SessionProvider::Redis) {
        found.secret(storage.password_ref.as_ref());
    }
}

fn embedded_oidc(embedded: Option<&EmbeddedOidc>, found: &mut Found) {
    let Some(embedded) = embedded else { return };
    if let Some(inline) = &embedded.inline {
        inline_oidc(inline, found);
    }
    if let Some(reference) = &embedded.config_map {
        found.add(Target::ConfigMap, &reference.name);
        found.ca_bundle(reference.ca_bundle_ref.as_ref());
    }
}

fn inline_oidc(inline: &InlineOidc, found: &mut Found) {
    issuer(inline, found);
    for further in inline.additional_issuers.iter().flatten() {
        issuer(&further.inline(), found);
    }
}

fn issuer(inline: &InlineOidc, found: &mut Found) {
    found.ca_bundle(inline.ca_bundle_ref.as_ref());
    // Without introspection nobody is given the client's secret.
    if inline.introspection_url.as_ref().is_some_and(|url| !url.is_empty()) {
        found.secret(inline.client_secret_ref.as_ref());
    }
}

fn oidc_config(spec: &OidcConfigSpec, found: &mut Found) {
    if let Some(inline) = &spec.inline {
        inline_oidc(inline, found);
    }
}

fn external_auth(spec: &ExternalAuth, found: &mut Found) {
    match spec {
        // Nobody looks at the Secrets of a type that is not run.
        ExternalAuth::Unauthenticated
        | ExternalAuth::EmbeddedAuthServer(_)
        | ExternalAuth::UpstreamInject(_)
        | ExternalAuth::Obo(_)
        | ExternalAuth::Xaa(_) => {}
        ExternalAuth::HeaderInjection(injection) => found.secret(Some(&injection.value_secret_ref)),
        ExternalAuth::BearerToken(bearer) => found.secret(Some(&bearer.token_secret_ref)),
        ExternalAuth::AwsSts(aws) => found.ca_bundle(aws.ca_bundle_ref.as_ref()),
        ExternalAuth::TokenExchange(exchange) => {
            found.secret(exchange.client_secret_ref.as_ref());
            found.add(Target::Secret, exchange.client_certificate.as_deref().unwrap_or_default());
            found.ca_bundle(exchange.ca_bundle_ref.as_ref());
        }
    }
}

fn telemetry(spec: &TelemetryConfigSpec, found: &mut Found) {
    let Some(otel) = &spec.open_telemetry else { return };
    for header in otel.sensitive_headers.iter().flatten() {
        found.secret(Some(&header.secret_key_ref));
    }
    found.ca_bundle(otel.ca_bundle_ref.as_ref());
}

fn webhooks(spec: &WebhookConfigSpec, found: &mut Found) {
    for webhook in spec.validating.iter().flatten().chain(spec.mutating.iter().flatten()) {
        found.secret(webhook.hmac_secret_ref.as_ref());
        let Some(tls) = &webhook.tls_config else { continue };
        for secret in [&tls.ca_secret_ref, &tls.client_cert_secret_ref, &tls.client_key_secret_ref] {
            found.secret(secret.as_ref());
        }
    }
}

fn entry(spec: &ServerEntrySpec, found: &mut Found) {
    found.object(Kind::MCPGroup, Some(&spec.group_ref.name));
    found.object(
        Kind::MCPExternalAuthConfig,
        spec.external_auth_config_ref.as_ref().map(|named| named.name.as_str()),
    );
    found.ca_bundle(spec.ca_bundle_ref.as_ref());
    if let Some(headers) = &spec.header_forward {
        header_forward(headers, found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_config_is_found_in_a_spec_of_any_shape_but_only_where_one_is_meant() {
        let object = json!({"spec": {
            "incomingAuth": {"oidcConfigRef": {"name": "login", "audience": "v"}},
            "aggregation": {"tools": [{"workload": "w", "toolConfigRef": {"name": "few"}}]},
            "authServerRef": {"kind": "MCPExternalAuthConfig", "name": "server"},
            "groupRef": {"name": "login"},
        }});
        for (kind, name, expected) in [
            (Kind::MCPOIDCConfig, "login", true),
            (Kind::MCPOIDCConfig, "few", false),
            (Kind::MCPToolConfig, "few", true),
            (Kind::MCPToolConfig, "login", false),
            (Kind::MCPExternalAuthConfig, "server", true),
            (Kind::MCPGroup, "login", false),
        ] {
            assert_eq!(mentions(&object, kind, name), expected, "{kind} {name}");
        }
        assert!(!mentions(&json!({"spec": ["oidcConfigRef"]}), Kind::MCPOIDCConfig, "login"));
    }
}

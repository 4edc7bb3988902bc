//! CustomResourceDefinitions, generated from the types.

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use super::authz::AuthzConfigSpec;
use super::defaults;
use super::external_auth::ExternalAuthSpec;
use super::group::GroupSpec;
use super::oidc::OidcConfigSpec;
use super::remote_proxy::RemoteProxySpec;
use super::server::ServerSpec;
use super::server_entry::ServerEntrySpec;
use super::status::{ConfigStatus, GroupStatus, RemoteProxyStatus, ServerEntryStatus, ServerStatus};
use super::structural::schema_of;
use super::telemetry::TelemetryConfigSpec;
use super::tools::ToolConfigSpec;
use super::webhooks::WebhookConfigSpec;
use super::{GROUP, Kind};

/// The CRDs of all kinds, in alphabetical order of their plurals.
pub fn definitions() -> Vec<Value> {
    Kind::ALL.into_iter().map(definition).collect()
}

/// The CRD of one kind. All its versions are served and have one schema; those that are older than the stored
/// one are deprecated.
pub fn definition(kind: Kind) -> Value {
    let plural = kind.plural();
    let schema = schema(kind);
    let columns = columns(kind);
    let versions: Vec<Value> = kind
        .versions()
        .iter()
        .map(|version| {
            let stored = *version == kind.stored();
            let mut made = json!({
                "name": version.as_str(),
                "served": true,
                "storage": stored,
                "additionalPrinterColumns": columns,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": schema},
            });
            if let Some(map) = made.as_object_mut().filter(|_| !stored) {
                let warning =
                    format!("{} is deprecated; use {}", version.api_version(), kind.stored().as_str());
                map.insert("deprecated".to_owned(), true.into());
                map.insert("deprecationWarning".to_owned(), warning.into());
            }
            made
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{GROUP}"),
            "labels": {"toolhive.stacklok.dev/auto-migrate-storage-version": "true"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "conversion": {"strategy": "None"},
            "names": {
                "kind": kind.as_str(),
                "listKind": format!("{kind}List"),
                "plural": plural,
                "singular": kind.as_str().to_ascii_lowercase(),
                "shortNames": kind.short_names(),
                "categories": ["toolhive"],
            },
            "versions": versions,
        },
    })
}

/// The schema of one kind, as the API server judges it.
///
/// It takes everything that ToolHive's schema takes, in both directions of an upgrade; `tests/it` compares the
/// two. It has ToolHive's defaults, except for fields with two spellings.
pub fn schema(kind: Kind) -> Value {
    let mut schema = bare(kind);
    if let Some(spec) = schema.pointer_mut("/properties/spec") {
        defaults::write(kind, spec);
    }
    schema
}

fn bare(kind: Kind) -> Value {
    match kind {
        Kind::MCPServer => {
            object::<ServerSpec, ServerStatus>("An MCP server in a container, with a proxy in front of it.")
        }
        Kind::MCPRemoteProxy => object::<RemoteProxySpec, RemoteProxyStatus>(
            "A proxy in front of an MCP server that runs somewhere else.",
        ),
        Kind::MCPExternalAuthConfig => {
            object::<ExternalAuthSpec, ConfigStatus>("The credential for what lies behind a proxy.")
        }
        Kind::MCPToolConfig => {
            object::<ToolConfigSpec, ConfigStatus>("Which tools clients see, and under which names.")
        }
        Kind::MCPOIDCConfig => object::<OidcConfigSpec, ConfigStatus>("How callers' tokens are judged."),
        Kind::MCPAuthzConfig => object::<AuthzConfigSpec, ConfigStatus>("Who may call what."),
        Kind::MCPGroup => object::<GroupSpec, GroupStatus>("Workloads and entries that belong together."),
        Kind::MCPTelemetryConfig => {
            object::<TelemetryConfigSpec, ConfigStatus>("Metrics and traces that workloads share.")
        }
        Kind::MCPWebhookConfig => {
            object::<WebhookConfigSpec, ConfigStatus>("Webhooks that judge or change calls.")
        }
        Kind::MCPServerEntry => {
            object::<ServerEntrySpec, ServerEntryStatus>("A remote MCP server in a catalogue.")
        }
    }
}

fn object<S: JsonSchema, T: JsonSchema>(description: &str) -> Value {
    let mut properties = Map::new();
    properties.insert(
        "apiVersion".to_owned(),
        json!({"type": "string", "description": "Version of the schema that this object is written in."}),
    );
    properties.insert("kind".to_owned(), json!({"type": "string", "description": "Kind of the object."}));
    properties.insert("metadata".to_owned(), json!({"type": "object"}));
    properties.insert("spec".to_owned(), schema_of::<S>());
    properties.insert("status".to_owned(), schema_of::<T>());
    json!({"type": "object", "description": description, "properties": properties})
}

fn columns(kind: Kind) -> Value {
    let condition = |name: &str| format!(".status.conditions[?(@.type=='{name}')].status");
    let text = |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path});
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
    let ready = text("Ready", &condition("Ready"));
    let valid = text("Valid", &condition("Valid"));
    match kind {
        Kind::MCPServer => json!([
            text("Status", ".status.phase"),
            ready,
            {"name": "Replicas", "type": "integer", "jsonPath": ".status.readyReplicas"},
            text("URL", ".status.url"),
            age
        ]),
        Kind::MCPRemoteProxy => json!([
            text("Phase", ".status.phase"),
            text("Remote URL", ".spec.remoteUrl"),
            text("URL", ".status.url"),
            ready,
            age
        ]),
        Kind::MCPExternalAuthConfig | Kind::MCPAuthzConfig => json!([text("Type", ".spec.type"), valid, age]),
        Kind::MCPToolConfig | Kind::MCPWebhookConfig => json!([valid, age]),
        Kind::MCPOIDCConfig => json!([text("Source", ".spec.type"), valid, age]),
        Kind::MCPGroup => json!([
            {"name": "Servers", "type": "integer", "jsonPath": ".status.serverCount"},
            {"name": "Proxies", "type": "integer", "jsonPath": ".status.remoteProxyCount"},
            text("Phase", ".status.phase"),
            text("Checked", &condition("MCPServersChecked")),
            age
        ]),
        Kind::MCPTelemetryConfig => json!([
            text("Endpoint", ".spec.openTelemetry.endpoint"),
            valid,
            {"name": "Tracing", "type": "boolean", "jsonPath": ".spec.openTelemetry.tracing.enabled"},
            {"name": "Metrics", "type": "boolean", "jsonPath": ".spec.openTelemetry.metrics.enabled"},
            age
        ]),
        Kind::MCPServerEntry => json!([
            text("Phase", ".status.phase"),
            text("Transport", ".spec.transport"),
            text("Remote URL", ".spec.remoteUrl"),
            text("Group", ".spec.groupRef.name"),
            age
        ]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rules of structural schemas that the API server checks: a type everywhere, except where
    /// anything goes; no references, no unions; a default of the right type, and none in a status.
    fn check(schema: &Value, path: &str) {
        let map = schema.as_object().unwrap_or_else(|| panic!("{path}: not an object"));
        let free = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
        assert!(map.get("type").is_some_and(Value::is_string) || free, "{path}: no type in {schema}");
        for banned in ["$ref", "$defs", "anyOf", "oneOf", "allOf", "const", "title", "$schema"] {
            assert!(!map.contains_key(banned), "{path}: {banned}");
        }
        if let Some(default) = map.get("default") {
            let fits = match map["type"].as_str().unwrap() {
                "boolean" => default.is_boolean(),
                "integer" => default.is_i64(),
                "string" => default.is_string(),
                _ => false,
            };
            assert!(fits && path.contains(".spec"), "{path}: {default}");
            if let Some(words) = map.get("enum").and_then(Value::as_array) {
                assert!(words.contains(default), "{path}: {default}");
            }
        }
        if let Some(values) = map.get("enum").and_then(Value::as_array) {
            assert!(!values.is_empty() && values.iter().all(Value::is_string), "{path}: {schema}");
        }
        if map.get("x-kubernetes-list-type") == Some(&json!("map")) {
            let items = &map["items"];
            for key in map["x-kubernetes-list-map-keys"].as_array().unwrap() {
                assert!(
                    items["required"].as_array().unwrap().contains(key),
                    "{path}: list key {key} is not required"
                );
            }
        }
        for (name, property) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
            check(property, &format!("{path}.{name}"));
            if property.get("description").is_none() && !path.is_empty() && !path.ends_with("metadata") {
                panic!("{path}.{name} has no description");
            }
        }
        if let Some(items) = map.get("items") {
            check(items, &format!("{path}[]"));
        }
        if let Some(values) = map.get("additionalProperties") {
            check(values, &format!("{path}{{}}"));
        }
    }

    #[test]
    fn every_schema_is_structural_and_every_field_is_described() {
        for kind in Kind::ALL {
            for part in ["spec", "status"] {
                check(&schema(kind)["properties"][part], &format!("{kind}.{part}"));
            }
        }
    }

    #[test]
    fn fields_with_two_spellings_are_not_required_and_have_no_default() {
        for kind in [Kind::MCPRemoteProxy, Kind::MCPServer] {
            let spec = &schema(kind)["properties"]["spec"];
            let required = spec.get("required").cloned().unwrap_or_default();
            for field in ["remoteUrl", "remoteURL", "port", "proxyPort", "mcpPort", "targetPort"] {
                assert!(
                    !required.as_array().is_some_and(|list| list.contains(&json!(field))),
                    "{kind}: {field}"
                );
                assert!(spec["properties"][field].get("default").is_none(), "{kind}: {field}");
            }
        }
    }
}

//! CustomResourceDefinitions, generated from the types.

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use super::authz::AuthzConfigSpec;
use super::external_auth::ExternalAuthSpec;
use super::oidc::OidcConfigSpec;
use super::remote_proxy::RemoteProxySpec;
use super::server::ServerSpec;
use super::status::{ConfigStatus, RemoteProxyStatus, ServerStatus};
use super::structural::schema_of;
use super::tools::ToolConfigSpec;
use super::{GROUP, Kind};

/// The CRDs of all kinds, in alphabetical order of their plurals.
pub fn definitions() -> Vec<Value> {
    Kind::ALL.into_iter().map(definition).collect()
}

/// The CRD of one kind: v1alpha1 (served, deprecated) and v1beta1 (served, stored) with one schema.
pub fn definition(kind: Kind) -> Value {
    let names = Names::of(kind);
    let schema = schema(kind);
    let columns = columns(kind);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{GROUP}", names.plural),
            "labels": {"toolhive.stacklok.dev/auto-migrate-storage-version": "true"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "conversion": {"strategy": "None"},
            "names": {
                "kind": kind.as_str(),
                "listKind": format!("{kind}List"),
                "plural": names.plural,
                "singular": names.singular,
                "shortNames": names.short,
                "categories": ["toolhive"],
            },
            "versions": [
                {
                    "name": "v1alpha1",
                    "served": true,
                    "storage": false,
                    "deprecated": true,
                    "deprecationWarning": format!("{GROUP}/v1alpha1 is deprecated; use v1beta1"),
                    "additionalPrinterColumns": columns,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                },
                {
                    "name": "v1beta1",
                    "served": true,
                    "storage": true,
                    "additionalPrinterColumns": columns,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                },
            ],
        },
    })
}

/// The schema of one kind, as the API server judges it.
pub fn schema(kind: Kind) -> Value {
    let mut schema = match kind {
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
    };
    // An empty tool config changes nothing, and may be written without a spec.
    if kind == Kind::MCPToolConfig
        && let Some(map) = schema.as_object_mut()
    {
        map.shift_remove("required");
    }
    schema
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
    json!({"type": "object", "description": description, "required": ["spec"], "properties": properties})
}

struct Names {
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
}

impl Names {
    fn of(kind: Kind) -> Self {
        let (plural, singular, short): (_, _, &'static [&'static str]) = match kind {
            Kind::MCPServer => ("mcpservers", "mcpserver", &["mcpserver", "mcpservers"]),
            Kind::MCPRemoteProxy => ("mcpremoteproxies", "mcpremoteproxy", &["rp", "mcprp"]),
            Kind::MCPExternalAuthConfig => {
                ("mcpexternalauthconfigs", "mcpexternalauthconfig", &["extauth", "mcpextauth"])
            }
            Kind::MCPToolConfig => ("mcptoolconfigs", "mcptoolconfig", &["tc", "toolconfig"]),
            Kind::MCPOIDCConfig => ("mcpoidcconfigs", "mcpoidcconfig", &["mcpoidc"]),
            Kind::MCPAuthzConfig => ("mcpauthzconfigs", "mcpauthzconfig", &["authzcfg"]),
        };
        Self { plural, singular, short }
    }
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
        Kind::MCPToolConfig => json!([valid, age]),
        Kind::MCPOIDCConfig => json!([text("Source", ".spec.type"), valid, age]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rules of structural schemas that the API server checks: a type everywhere, except where
    /// anything goes; no references, no defaults, no unions.
    fn check(schema: &Value, path: &str) {
        let map = schema.as_object().unwrap_or_else(|| panic!("{path}: not an object"));
        let free = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
        assert!(map.get("type").is_some_and(Value::is_string) || free, "{path}: no type in {schema}");
        for banned in ["$ref", "$defs", "anyOf", "oneOf", "allOf", "default", "const", "title", "$schema"] {
            assert!(!map.contains_key(banned), "{path}: {banned}");
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
    fn fields_with_two_spellings_are_not_required() {
        for kind in [Kind::MCPRemoteProxy, Kind::MCPServer] {
            let spec = &schema(kind)["properties"]["spec"];
            let required = spec.get("required").cloned().unwrap_or_default();
            for field in ["remoteUrl", "remoteURL", "port", "proxyPort", "mcpPort", "targetPort"] {
                assert!(
                    !required.as_array().is_some_and(|list| list.contains(&json!(field))),
                    "{kind}: {field}"
                );
            }
        }
    }
}

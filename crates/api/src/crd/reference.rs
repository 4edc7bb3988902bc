//! References to other objects of the same namespace.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

/// A key of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    pub name: String,
    /// Key in the Secret.
    pub key: String,
}

/// A ConfigMap and a key in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapRef {
    /// Name of the ConfigMap.
    pub name: String,
    /// Key in the ConfigMap.
    pub key: Option<String>,
}

/// CA certificates in a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaBundleSource {
    /// The ConfigMap, and the key that holds PEM text (`ca.crt` when absent).
    pub config_map_ref: Option<CaBundleKey>,
}

/// The ConfigMap key of a CA bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct CaBundleKey {
    /// Name of the ConfigMap.
    #[serde(default)]
    pub name: String,
    /// Key in the ConfigMap.
    pub key: Option<String>,
    /// Whether the ConfigMap may be missing.
    pub optional: Option<bool>,
}

/// The name of an object of a kind that the field fixes. An empty one is taken here and found nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigRef {
    /// Name of the object, in the same namespace.
    pub name: String,
}

/// The name of an object of a kind that the field fixes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NameRef {
    /// Name of the object, in the same namespace.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// An MCPGroup, by its bare name or as `{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupRef {
    /// Name of the MCPGroup, in the same namespace.
    pub name: String,
}

impl<'de> Deserialize<'de> for GroupRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = GroupRef;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a group, or an object with `name`")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<GroupRef, E> {
                Ok(GroupRef { name: name.to_owned() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<GroupRef, A::Error> {
                NameRef::deserialize(MapAccessDeserializer::new(map))
                    .map(|named| GroupRef { name: named.name })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for GroupRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "GroupRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A structural schema knows no union of types, so the planner judges what is inside.
        json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
    }
}

/// A shared MCPOIDCConfig and what this workload expects of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OidcConfigRef {
    /// Name of the MCPOIDCConfig, in the same namespace.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Value that a token's `aud` must contain.
    #[schemars(length(min = 1))]
    pub audience: String,
    /// URL by which clients know this server (RFC 9728 `resource`). Default: the URL of its Service.
    pub resource_url: Option<String>,
    /// Scopes that clients are told to ask for. Default: `openid`.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub scopes: Option<Vec<String>>,
}

/// The authorization server that runs inside the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthServerRef {
    /// Kind of the object: `MCPExternalAuthConfig`.
    pub kind: Option<String>,
    /// Name of the object, in the same namespace.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// A shared MCPTelemetryConfig.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TelemetryConfigRef {
    /// Name of the MCPTelemetryConfig, in the same namespace.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Name under which this workload reports. Default: the object's name.
    pub service_name: Option<String>,
}

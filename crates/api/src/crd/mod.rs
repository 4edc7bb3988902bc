//! The custom resources: what may be written (`*Spec`, in every spelling there has been) and what it
//! means (`RemoteProxy`, `Server`, ...), with nothing decided that takes other objects to decide.

pub mod auth_storage;
pub mod authz;
pub mod bounds;
pub mod canonical;
pub mod defaults;
pub mod definition;
pub mod embedded_auth;
pub mod external_auth;
pub mod group;
pub mod kind;
pub mod meta;
pub mod oidc;
pub mod parse;
pub mod pod;
pub mod reference;
pub mod remote_proxy;
pub mod server;
pub mod server_entry;
pub mod status;
mod structural;
pub mod telemetry;
pub mod token_exchange;
pub mod tools;
pub mod trusted_issuer;
pub mod webhooks;

use serde_json::Value;

use self::authz::AuthzConfigSpec;
use self::external_auth::{ExternalAuth, ExternalAuthSpec};
use self::group::GroupSpec;
pub use self::kind::{Kind, LATER_KINDS, UnknownKind, Version};
use self::meta::ObjectMeta;
use self::oidc::OidcConfigSpec;
use self::parse::{INVALID_FIELD, Rules, UNKNOWN_FIELD, read};
use self::remote_proxy::{RemoteProxy, RemoteProxySpec};
use self::server::{Server, ServerSpec};
use self::server_entry::ServerEntrySpec;
use self::telemetry::TelemetryConfigSpec;
use self::tools::ToolConfigSpec;
use self::webhooks::WebhookConfigSpec;
use crate::problem::Problem;

/// API group of all kinds.
pub const GROUP: &str = "toolhive.stacklok.dev";

/// Namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// A DNS label in lower case, without its length.
const DNS_LABEL: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";
/// A duration that is written as Go does, with a unit to each number.
const GO_DURATION: &str = r"^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$";

/// One custom resource, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub kind: Kind,
    pub version: Version,
    pub metadata: ObjectMeta,
    pub spec: Spec,
    /// What was found while reading: unknown fields and values that don't fit. When one of them is an
    /// error, `spec` is not to be relied on.
    pub findings: Vec<Problem>,
    /// What the bounds of the kind's schema refuse, when the spec could be read. The planner says it where
    /// it has nothing better to say of the same field.
    pub bounds: Vec<Problem>,
    /// SHA-256 of the spec in hexadecimal, whatever order its fields are written in. Empty without a spec.
    pub spec_digest: String,
}

/// What an object says.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    Server(Box<Server>),
    RemoteProxy(Box<RemoteProxy>),
    ExternalAuth(Box<ExternalAuth>),
    ToolConfig(Box<ToolConfigSpec>),
    OidcConfig(Box<OidcConfigSpec>),
    AuthzConfig(Box<AuthzConfigSpec>),
    Group(Box<GroupSpec>),
    Telemetry(Box<TelemetryConfigSpec>),
    Webhooks(Box<WebhookConfigSpec>),
    Entry(Box<ServerEntrySpec>),
    /// It could not be read; `findings` says why.
    Unreadable,
}

/// A value that is not an object of the group at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    #[error("`apiVersion` is missing")]
    NoApiVersion,
    #[error("`apiVersion: {0}` is unknown; write `{GROUP}/v1beta1`")]
    Version(String),
    #[error("{kind} has no version `{given}`; write `{GROUP}/{known}`")]
    VersionOfKind {
        kind: Kind,
        given: String,
        /// The version to write, without the group.
        known: &'static str,
    },
    #[error(transparent)]
    Kind(#[from] UnknownKind),
}

impl Object {
    /// Reads a custom resource. Whatever is wrong inside it is in `findings`.
    ///
    /// # Errors
    /// When apiVersion or kind are not of this group.
    pub fn parse(value: &Value) -> Result<Self, ObjectError> {
        let text = |field: &str| value.get(field).and_then(Value::as_str);
        let api_version = text("apiVersion").ok_or(ObjectError::NoApiVersion)?;
        let version = Version::of(api_version).ok_or_else(|| ObjectError::Version(api_version.to_owned()))?;
        let kind: Kind = text("kind").unwrap_or_default().parse()?;
        if !kind.versions().contains(&version) {
            let known = kind.stored().as_str();
            return Err(ObjectError::VersionOfKind { kind, given: version.as_str().to_owned(), known });
        }
        let mut findings = Vec::new();
        let metadata = metadata(value.get("metadata").unwrap_or(&Value::Null), &mut findings);
        for field in value.as_object().into_iter().flat_map(|map| map.keys()) {
            if !matches!(field.as_str(), "apiVersion" | "kind" | "metadata" | "spec" | "status") {
                findings.push(Problem::warning(
                    field.clone(),
                    UNKNOWN_FIELD,
                    "There is no such field; it has no effect.",
                ));
            }
        }
        let spec = match value.get("spec") {
            Some(spec) if spec.is_object() => read_spec(kind, spec, &mut findings),
            // What an empty one looks like after `kubectl get`.
            None | Some(Value::Null) if kind.may_be_empty() => {
                read_spec(kind, &Value::Object(serde_json::Map::new()), &mut findings)
            }
            None | Some(Value::Null) => {
                findings.push(Problem::error("spec", INVALID_FIELD, "The spec is missing."));
                None
            }
            Some(_) => {
                findings.push(Problem::error("spec", INVALID_FIELD, "The spec has to be an object."));
                None
            }
        };
        let bounds = match (&spec, value.get("spec")) {
            (Some(_), Some(written)) => bounds::violations(kind, written),
            _ => Vec::new(),
        };
        let spec_digest = value.get("spec").map(canonical::digest).unwrap_or_default();
        Ok(Self {
            kind,
            version,
            metadata,
            spec: spec.unwrap_or(Spec::Unreadable),
            findings,
            bounds,
            spec_digest,
        })
    }
}

/// Fields of a workload's spec that protect something.
const PROTECTIVE: [&str; 13] = [
    "oidcConfig",
    "oidcConfigRef",
    "authzConfig",
    "authzConfigRef",
    "externalAuthConfigRef",
    "authServerRef",
    "authMode",
    "clientToken",
    "audit",
    "toolConfigRef",
    "rateLimiting",
    "webhookConfigRef",
    "networkPolicy",
];

fn read_spec(kind: Kind, spec: &Value, findings: &mut Vec<Problem>) -> Option<Spec> {
    let workload =
        Rules { root: "spec", free_form: &["podTemplateSpec"], protective: &PROTECTIVE, strict: false };
    let config = Rules { root: "spec", free_form: &["config"], protective: &[], strict: true };
    Some(match kind {
        Kind::MCPServer => Spec::Server(Box::new(Server::from_spec(
            read::<ServerSpec>(spec, &workload, findings)?,
            findings,
        ))),
        Kind::MCPRemoteProxy => Spec::RemoteProxy(Box::new(RemoteProxy::from_spec(
            read::<RemoteProxySpec>(spec, &workload, findings)?,
            findings,
        ))),
        Kind::MCPExternalAuthConfig => Spec::ExternalAuth(Box::new(ExternalAuth::from_spec(
            read::<ExternalAuthSpec>(spec, &config, findings)?,
            findings,
        )?)),
        Kind::MCPToolConfig => Spec::ToolConfig(Box::new(read(spec, &config, findings)?)),
        Kind::MCPOIDCConfig => Spec::OidcConfig(Box::new(read(spec, &config, findings)?)),
        Kind::MCPAuthzConfig => Spec::AuthzConfig(Box::new(read(spec, &config, findings)?)),
        Kind::MCPGroup => Spec::Group(Box::new(read(spec, &workload, findings)?)),
        Kind::MCPTelemetryConfig => Spec::Telemetry(Box::new(read(spec, &workload, findings)?)),
        Kind::MCPWebhookConfig => Spec::Webhooks(Box::new(read(spec, &config, findings)?)),
        Kind::MCPServerEntry => Spec::Entry(Box::new(read(spec, &workload, findings)?)),
    })
}

fn metadata(value: &Value, findings: &mut Vec<Problem>) -> ObjectMeta {
    let mut ignored = Vec::new();
    let rules = Rules { root: "metadata", free_form: &[], protective: &[], strict: false };
    let read = read::<ObjectMeta>(value, &rules, &mut ignored);
    findings.extend(ignored.into_iter().filter(|problem| problem.reason != UNKNOWN_FIELD));
    let mut metadata = read.unwrap_or_default();
    if metadata.name.is_empty() {
        findings.push(Problem::error("metadata.name", "InvalidName", "The object has no name."));
    }
    if metadata.namespace.is_empty() {
        DEFAULT_NAMESPACE.clone_into(&mut metadata.namespace);
    }
    metadata
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn proxy(spec: Value) -> Object {
        Object::parse(&json!({"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPRemoteProxy", "metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[test]
    fn both_spellings_mean_the_same() {
        let old = proxy(
            json!({"remoteURL": "https://a.example/", "port": 9090, "groupRef": "g", "authMode": "anonymous"}),
        );
        let new = proxy(
            json!({"remoteUrl": "https://a.example/", "proxyPort": 9090, "groupRef": {"name": "g"}, "authMode": "anonymous"}),
        );
        let (Spec::RemoteProxy(old), Spec::RemoteProxy(new)) = (old.spec, new.spec) else {
            panic!("unreadable")
        };
        assert_eq!((old.remote_url, old.port, old.group), (new.remote_url, new.port, new.group));
    }

    #[test]
    fn a_null_counts_as_absent() {
        let object =
            proxy(json!({"remoteUrl": "https://a.example/", "oidcConfig": null, "audit": {"enabled": null}}));
        assert!(object.findings.is_empty(), "{:?}", object.findings);
    }

    #[test]
    fn an_unknown_field_under_an_auth_block_is_an_error_and_elsewhere_a_warning() {
        let object = proxy(json!({
            "remoteUrl": "https://a.example/", "colour": "red",
            "oidcConfig": {"type": "inline", "inline": {"issuer": "https://i.example", "audiance": "x"}},
            "authzConfigs": {},
        }));
        let found: Vec<_> = object.findings.iter().map(|p| (p.path.as_str(), p.is_error())).collect();
        assert_eq!(
            found,
            [("spec.colour", false), ("spec.oidcConfig.inline.audiance", true), ("spec.authzConfigs", true)]
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_by_its_path() {
        let object = proxy(
            json!({"remoteUrl": "https://a.example/", "headerForward": {"addHeadersFromSecret": [{"headerName": "X", "valueSecretRef": {"name": 5, "key": "k"}}]}}),
        );
        assert_eq!(object.findings[0].path, "spec.headerForward.addHeadersFromSecret[0].valueSecretRef.name");
        assert_eq!(object.spec, Spec::Unreadable);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z:/.]{0,12}".prop_map(Value::from),
        ];
        let keys = prop::sample::select(vec![
            "type",
            "inline",
            "issuer",
            "name",
            "key",
            "remoteUrl",
            "remoteURL",
            "port",
            "proxyPort",
            "oidcConfig",
            "authzConfig",
            "policies",
            "groupRef",
            "image",
            "secrets",
            "transport",
            "tokenExchange",
            "token_url",
            "clientAuth",
            "actorToken",
            "spiffe",
            "cache",
            "additionalIssuers",
            "scope",
            "podTemplateSpec",
            "audit",
            "enabled",
            "resources",
            "limits",
            "cpu",
            "config",
            "toolsFilter",
            "toolsOverride",
            "x",
        ]);
        leaf.prop_recursive(5, 60, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((keys.clone(), inner), 0..8).prop_map(|entries| Value::Object(
                    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
                )),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_spec_makes_the_reader_panic(spec in any_json(), kind in prop::sample::select(Kind::ALL.to_vec())) {
            let value = json!({"apiVersion": "toolhive.stacklok.dev/v1alpha1", "kind": kind.as_str(), "metadata": {"name": "p"}, "spec": spec});
            let object = Object::parse(&value).unwrap();
            prop_assert!(object.spec != Spec::Unreadable || object.findings.iter().any(Problem::is_error));
        }
    }
}

//! The Secret on the API server.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use thiserror::Error;

/// Field manager of what the webhook writes.
pub const FIELD_MANAGER: &str = "skep-webhook";

/// Why the Secret could not be read or written. Never shows what is in it.
#[derive(Debug, Error)]
pub enum SecretError {
    /// Somebody else wrote, made or deleted it in the meantime.
    #[error("somebody else wrote the Secret {name}")]
    Conflict {
        /// Namespace and name.
        name: String,
    },
    /// A right is missing.
    #[error("no right to {verb} the Secret {name}; the webhook's Role in that namespace must grant it")]
    Forbidden {
        /// What was tried.
        verb: &'static str,
        /// Namespace and name.
        name: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// Anything else.
    #[error("the API server can't {verb} the Secret {name}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// Namespace and name.
        name: String,
        /// What went wrong.
        source: Box<kube::Error>,
    },
}

/// One version of the Secret.
#[derive(Clone, Default)]
pub(super) struct Version {
    pub(super) data: BTreeMap<String, ByteString>,
    /// None while there is no Secret.
    resource_version: Option<String>,
}

/// The Secret.
#[derive(Clone)]
pub(super) struct Store {
    api: Api<Secret>,
    namespace: String,
    name: String,
}

impl Store {
    pub(super) fn new(client: Client, namespace: &str, name: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Namespace and name, as texts show them.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// As it is now; `None` when there is none.
    pub(super) async fn get(&self) -> Result<Option<Version>, SecretError> {
        let found = self.api.get_opt(&self.name).await.map_err(|error| self.failed("get", error))?;
        Ok(found.map(|secret| Version {
            data: secret.data.unwrap_or_default(),
            resource_version: secret.metadata.resource_version,
        }))
    }

    /// Writes these keys and leaves all others, provided that nobody wrote since `seen`.
    pub(super) async fn write(&self, seen: &Version, changes: &[(&str, &str)]) -> Result<(), SecretError> {
        let data: BTreeMap<&str, Value> =
            changes.iter().map(|(key, text)| (*key, json!(STANDARD.encode(text)))).collect();
        let Some(resource_version) = &seen.resource_version else {
            return self.create(&json!(data)).await;
        };
        let change = json!({"metadata": {"resourceVersion": resource_version}, "data": data});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match self.api.patch(&self.name, &params, &Patch::Merge(change)).await {
            Ok(_) => Ok(()),
            // Deleted meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                Err(SecretError::Conflict { name: self.name() })
            }
            Err(error) => Err(self.failed("patch", error)),
        }
    }

    async fn create(&self, data: &Value) -> Result<(), SecretError> {
        let labels = json!({"app.kubernetes.io/managed-by": FIELD_MANAGER});
        let object = json!({
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": labels},
            "type": "Opaque",
            "data": data,
        });
        let object = serde_json::from_value(object).map_err(kube::Error::SerdeError);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let created = match object {
            Ok(object) => self.api.create(&params, &object).await,
            Err(error) => Err(error),
        };
        created.map(drop).map_err(|error| self.failed("create", error))
    }

    fn failed(&self, verb: &'static str, error: kube::Error) -> SecretError {
        let code = if let kube::Error::Api(status) = &error { status.code } else { 0 };
        let (name, source) = (self.name(), Box::new(error));
        match code {
            409 => SecretError::Conflict { name },
            403 => SecretError::Forbidden { verb, name, source },
            _ => SecretError::Api { verb, name, source },
        }
    }
}

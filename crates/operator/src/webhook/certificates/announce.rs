//! Tells the API server whom to trust: `caBundle` in the webhook configurations, and no other field of them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kube::Client;
use kube::api::{Api, DynamicObject, PartialObjectMeta, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use thiserror::Error;

use super::hints::hints;
use super::secret::FIELD_MANAGER;

/// Why a configuration could not be told.
#[derive(Debug, Error)]
pub enum AnnounceError {
    /// Somebody else wrote it in the meantime.
    #[error("somebody else wrote the {configuration}")]
    Conflict {
        /// Kind and name.
        configuration: String,
    },
    /// A right is missing.
    #[error("no right to {verb} the {configuration}; the webhook's ClusterRole must grant it")]
    Forbidden {
        /// What was tried.
        verb: &'static str,
        /// Kind and name.
        configuration: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// Anything else.
    #[error("the API server can't {verb} the {configuration}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// Kind and name.
        configuration: String,
        /// What went wrong.
        source: Box<kube::Error>,
    },
}

/// What came of telling a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// It said so already.
    Already,
    /// It says so now.
    Now,
    /// There is no such configuration, so nobody calls.
    Nobody,
}

/// One webhook configuration.
#[derive(Clone)]
pub(super) struct Configuration {
    api: Api<DynamicObject>,
    kind: &'static str,
    name: String,
    client: Client,
}

impl Configuration {
    /// The MutatingWebhookConfiguration of this name; nothing when it is empty.
    pub(super) fn mutating(client: &Client, name: &str) -> Option<Self> {
        Self::new(client, "MutatingWebhookConfiguration", name)
    }

    /// The ValidatingWebhookConfiguration of this name; nothing when it is empty.
    pub(super) fn validating(client: &Client, name: &str) -> Option<Self> {
        Self::new(client, "ValidatingWebhookConfiguration", name)
    }

    fn new(client: &Client, kind: &'static str, name: &str) -> Option<Self> {
        let api = Api::all_with(client.clone(), &resource(kind));
        (!name.is_empty()).then(|| Self { api, kind, name: name.to_owned(), client: client.clone() })
    }

    /// Hints that it may have changed.
    pub(super) fn changes(&self) -> BoxStream<'static, ()> {
        let metadata =
            Api::<PartialObjectMeta<DynamicObject>>::all_with(self.client.clone(), &resource(self.kind));
        hints(metadata, &self.name).boxed()
    }

    /// What it tells the API server to trust now: the PEM of all its webhooks, one after another.
    pub(super) async fn trusted(&self) -> Result<Vec<u8>, AnnounceError> {
        let found = self.api.get_opt(&self.name).await.map_err(|error| self.failed("get", error))?;
        let mut pem = Vec::new();
        for bundle in found.iter().flat_map(webhooks).filter_map(ca_bundle) {
            pem.extend(bundle);
            pem.push(b'\n');
        }
        Ok(pem)
    }

    /// Tells every webhook in it to be trusted by this bundle, PEM.
    pub(super) async fn tell(&self, bundle: &str) -> Result<Told, AnnounceError> {
        let found = self.api.get_opt(&self.name).await.map_err(|error| self.failed("get", error))?;
        let Some(found) = found else { return Ok(Told::Nobody) };
        let encoded = STANDARD.encode(bundle);
        let wrong: Vec<Value> = webhooks(&found)
            .filter(|webhook| ca_bundle(webhook).as_deref() != Some(bundle.as_bytes()))
            .filter_map(|webhook| webhook.get("name"))
            .map(|name| json!({"name": name, "clientConfig": {"caBundle": encoded}}))
            .collect();
        if wrong.is_empty() {
            return Ok(Told::Already);
        }
        // Webhooks are merged by their names; the version makes sure that they are those that were seen.
        let version = found.metadata.resource_version;
        let change = json!({"metadata": {"resourceVersion": version}, "webhooks": wrong});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match self.api.patch(&self.name, &params, &Patch::Strategic(change)).await {
            Ok(_) => Ok(Told::Now),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                Err(AnnounceError::Conflict { configuration: self.to_string() })
            }
            Err(error) => Err(self.failed("patch", error)),
        }
    }

    fn failed(&self, verb: &'static str, error: kube::Error) -> AnnounceError {
        let forbidden = matches!(&error, kube::Error::Api(status) if status.code == 403);
        let (configuration, source) = (self.to_string(), Box::new(error));
        if forbidden {
            AnnounceError::Forbidden { verb, configuration, source }
        } else {
            AnnounceError::Api { verb, configuration, source }
        }
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind))
}

fn webhooks(configuration: &DynamicObject) -> impl Iterator<Item = &Value> {
    configuration.data.get("webhooks").and_then(Value::as_array).into_iter().flatten()
}

fn ca_bundle(webhook: &Value) -> Option<Vec<u8>> {
    STANDARD.decode(webhook.pointer("/clientConfig/caBundle")?.as_str()?).ok()
}

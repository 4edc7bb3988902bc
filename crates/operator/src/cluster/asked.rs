//! What is asked for now, for whoever can't wait for a watch to tell: the admission webhook judges an object that
//! was written a moment after what it refers to.

use std::sync::Arc;

use kube::api::{Api, DynamicObject};
use serde_json::Value;
use skep_api::crd::Kind;

use super::store::Change;
use super::{Cluster, ConfigMapText, Resource, SecretKeys, feed};

impl Cluster {
    /// An object of ours as the API server has it now; `None` also when it has no such kind.
    ///
    /// # Errors
    /// When the API server can't be asked.
    pub async fn ask_object(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, kube::Error> {
        let Some(resource) = Resource::Ours(kind).api(&self.capabilities) else { return Ok(None) };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let found = api.get_opt(name).await?;
        Ok(found.and_then(|object| serde_json::to_value(object).ok()))
    }

    /// Labels and annotations of a namespace as the API server has them now: an object with `metadata`.
    ///
    /// # Errors
    /// When the API server can't be asked.
    pub async fn ask_namespace(&self, name: &str) -> Result<Option<Value>, kube::Error> {
        let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        let found = api.get_metadata_opt(name).await?;
        Ok(found.map(|object| feed::metadata_value(Resource::Namespace, object)))
    }

    /// The keys of a Secret that the watch has told of; `None` when it has not.
    ///
    /// # Errors
    /// When the API server can't be asked for them.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<SecretKeys>>, kube::Error> {
        self.lookups.secret(namespace, name).await
    }

    /// The same without asking: `None` also when its keys are not known yet.
    pub fn known_secret(&self, namespace: &str, name: &str) -> Option<Arc<SecretKeys>> {
        self.lookups.known_secret(namespace, name)
    }

    /// The keys of a Secret as the API server has it now.
    ///
    /// # Errors
    /// When the API server can't be asked.
    pub async fn ask_secret(&self, namespace: &str, name: &str) -> Result<Option<SecretKeys>, kube::Error> {
        self.lookups.ask_secret(namespace, name).await
    }

    /// The content of a ConfigMap that the watch has told of; `None` when it has not.
    ///
    /// # Errors
    /// When the API server can't be asked for it.
    pub async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ConfigMapText>>, kube::Error> {
        self.lookups.config_map(namespace, name).await
    }

    /// The same without asking: `None` also when its content is not known yet.
    pub fn known_config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMapText>> {
        self.lookups.known_config_map(namespace, name)
    }

    /// The content of a ConfigMap as the API server has it now.
    ///
    /// # Errors
    /// When the API server can't be asked.
    pub async fn ask_config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ConfigMapText>, kube::Error> {
        self.lookups.ask_config_map(namespace, name).await
    }

    /// Forgets what was read of a Secret or ConfigMap that is gone. For those who don't ask which objects a
    /// change concerns.
    pub fn forget_gone(&self, resource: Resource, change: &Change) {
        let content = matches!(resource, Resource::SecretMetadata | Resource::ConfigMapMetadata);
        if let (true, None, Some(last)) = (content, &change.after, change.latest()) {
            let text = |pointer: &str| last.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            self.lookups.forget(text("/metadata/namespace"), text("/metadata/name"));
        }
    }
}

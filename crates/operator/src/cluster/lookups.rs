//! What is inside Secrets and ConfigMaps, as far as the planner needs it: a Secret's keys, a ConfigMap's text.
//!
//! They are watched by their metadata; the content is asked for once a version, and only of those that an
//! object refers to. Values of Secrets are dropped while the answer is read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use kube::Client;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use skep_api::secret::Secret;

use super::store::{Name, Store};
use crate::sidecars::names::{ENVIRONMENTS, KEYCLOAK_ADMIN_PASSWORD};

/// The keys of one version of a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKeys {
    /// `metadata.resourceVersion`.
    pub version: String,
    /// Keys of `data`.
    pub keys: BTreeSet<String>,
}

/// The content of one version of a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigMapText {
    version: String,
    /// `data`; keys of `binaryData` are there with no text.
    pub data: BTreeMap<String, String>,
}

/// The cache. `secrets` and `config_maps` are the stores with the metadata.
pub struct Lookups {
    client: Client,
    secrets: Arc<Store>,
    config_maps: Arc<Store>,
    keys: Mutex<HashMap<Name, Arc<SecretKeys>>>,
    texts: Mutex<HashMap<Name, Arc<ConfigMapText>>>,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "resourceVersion", default)]
    version: String,
}

#[derive(Deserialize)]
struct SecretBody {
    metadata: Meta,
    /// Only the keys: values are passed over by the parser.
    #[serde(default)]
    data: Option<BTreeMap<String, IgnoredAny>>,
}

#[derive(Deserialize)]
struct ConfigMapBody {
    metadata: Meta,
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "binaryData")]
    binary: Option<BTreeMap<String, IgnoredAny>>,
}

impl Lookups {
    /// An empty cache in front of `client`.
    pub fn new(client: Client, secrets: Arc<Store>, config_maps: Arc<Store>) -> Self {
        Self { client, secrets, config_maps, keys: Mutex::default(), texts: Mutex::default() }
    }

    /// The keys of a Secret; `None` when there is no such Secret.
    ///
    /// # Errors
    /// When the API server can't be asked.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<SecretKeys>>, kube::Error> {
        let at = (namespace.to_owned(), name.to_owned());
        let Some(version) = version(&self.secrets, namespace, name) else {
            lock(&self.keys).remove(&at);
            return Ok(None);
        };
        if let Some(known) = of_version(&self.keys, &at, |known| known.version == version) {
            return Ok(Some(known));
        }
        let Some(found) = self.ask_secret(namespace, name).await? else { return Ok(None) };
        let found = Arc::new(found);
        lock(&self.keys).insert(at, Arc::clone(&found));
        Ok(Some(found))
    }

    /// The content of a ConfigMap; `None` when there is no such ConfigMap.
    ///
    /// # Errors
    /// When the API server can't be asked.
    pub async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ConfigMapText>>, kube::Error> {
        let at = (namespace.to_owned(), name.to_owned());
        let Some(version) = version(&self.config_maps, namespace, name) else {
            lock(&self.texts).remove(&at);
            return Ok(None);
        };
        if let Some(known) = of_version(&self.texts, &at, |known| known.version == version) {
            return Ok(Some(known));
        }
        let Some(found) = self.ask_config_map(namespace, name).await? else { return Ok(None) };
        let found = Arc::new(found);
        lock(&self.texts).insert(at, Arc::clone(&found));
        Ok(Some(found))
    }

    /// What [`secret`](Self::secret) would give without asking anybody.
    pub fn known_secret(&self, namespace: &str, name: &str) -> Option<Arc<SecretKeys>> {
        let version = version(&self.secrets, namespace, name)?;
        let at = (namespace.to_owned(), name.to_owned());
        of_version(&self.keys, &at, |known| known.version == version)
    }

    /// What [`config_map`](Self::config_map) would give without asking anybody.
    pub fn known_config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMapText>> {
        let version = version(&self.config_maps, namespace, name)?;
        let at = (namespace.to_owned(), name.to_owned());
        of_version(&self.texts, &at, |known| known.version == version)
    }

    /// The keys of a Secret as the API server has it now, whatever the watch has told so far.
    ///
    /// # Errors
    /// When the API server can't be asked.
    pub async fn ask_secret(&self, namespace: &str, name: &str) -> Result<Option<SecretKeys>, kube::Error> {
        let body = self.get::<SecretBody>("secrets", namespace, name).await?;
        Ok(body.map(|body| SecretKeys {
            version: body.metadata.version,
            keys: body.data.unwrap_or_default().into_keys().collect(),
        }))
    }

    /// The same for a ConfigMap.
    ///
    /// # Errors
    /// When the API server can't be asked.
    pub async fn ask_config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ConfigMapText>, kube::Error> {
        let mut found =
            self.get::<ConfigMapBody>("configmaps", namespace, name).await?.map(ConfigMapText::from);
        // The one ConfigMap that may hold a password, as of old: that it does is all there is to know.
        if name == ENVIRONMENTS
            && let Some(found) = &mut found
            && let Some(password) = found.data.get_mut(KEYCLOAK_ADMIN_PASSWORD)
            && !password.is_empty()
        {
            // Zeroized when it is dropped.
            drop(Secret::new(std::mem::replace(password, "(not kept)".to_owned())));
        }
        Ok(found)
    }

    /// Drops what nobody refers to any more.
    pub fn forget(&self, namespace: &str, name: &str) {
        let at = (namespace.to_owned(), name.to_owned());
        lock(&self.keys).remove(&at);
        lock(&self.texts).remove(&at);
    }

    async fn get<T: serde::de::DeserializeOwned>(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<T>, kube::Error> {
        let path = format!("/api/v1/namespaces/{namespace}/{plural}/{name}");
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        match self.client.request::<T>(request).await {
            Ok(body) => Ok(Some(body)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl From<ConfigMapBody> for ConfigMapText {
    fn from(body: ConfigMapBody) -> Self {
        let mut data = body.data.unwrap_or_default();
        for key in body.binary.unwrap_or_default().into_keys() {
            data.entry(key).or_default();
        }
        Self { version: body.metadata.version, data }
    }
}

fn version(store: &Store, namespace: &str, name: &str) -> Option<String> {
    let object = store.get(namespace, name)?;
    object.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned)
}

fn of_version<T>(known: &Mutex<HashMap<Name, Arc<T>>>, at: &Name, is: impl Fn(&T) -> bool) -> Option<Arc<T>> {
    lock(known).get(at).filter(|known| is(known)).cloned()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn an_administrators_password_in_environments_is_not_kept() {
        let server = tower::service_fn(|_: Request<Body>| async {
            let body = json!({"metadata": {"resourceVersion": "1"},
                "data": {"KEYCLOAK_URL": "u", "KEYCLOAK_ADMIN_PASSWORD": "hunter2"}});
            Ok::<_, Infallible>(Response::new(Body::from(body.to_string().into_bytes())))
        });
        let lookups = Lookups::new(Client::new(server, "default"), Arc::default(), Arc::default());
        let found = lookups.ask_config_map("ns", ENVIRONMENTS).await.unwrap().unwrap();
        assert_eq!(found.data["KEYCLOAK_URL"], "u");
        assert!(!found.data[KEYCLOAK_ADMIN_PASSWORD].is_empty(), "that there is one matters");
        assert!(!format!("{found:?}").contains("hunter2"));
        // In a ConfigMap of another name it is nobody's password.
        let other = lookups.ask_config_map("ns", "mine").await.unwrap().unwrap();
        assert_eq!(other.data[KEYCLOAK_ADMIN_PASSWORD], "hunter2");
    }
}

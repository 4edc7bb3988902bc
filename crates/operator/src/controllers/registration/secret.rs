//! The Secret by which a server's pods get the credentials of their client.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret as SecretObject;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use skep_api::names::workload_labels;
use skep_auth::keycloak::Registered;

use crate::queue::Key;
use crate::settings::FIELD_MANAGER;
use crate::sidecars::names::client_secret;

/// Key with the client's id.
pub(super) const CLIENT_ID: &str = "client-id.txt";
/// Keys with its secret: now, and as of old.
const CLIENT_SECRET: [&str; 2] = ["client-secret.txt", "secret.txt"];
/// Says that the client was not there before: it may go with the last server that uses it.
const CREATED: &str = "skep.dev/keycloak-client-created";

/// A server's Secret as it is now. It has values in it, so it has no Debug and is not kept.
pub(super) struct Live {
    object: SecretObject,
}

/// Whose the Secret of a server's name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Ours,
    /// Of a server of the same name before this one; it is about to go.
    Predecessors,
    Others,
}

/// Secrets of one namespace.
pub(super) struct Secrets {
    api: Api<SecretObject>,
}

impl Secrets {
    pub(super) fn of(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace) }
    }

    /// The Secret of a server, read now.
    pub(super) async fn get(&self, server: &str) -> Result<Option<Live>, kube::Error> {
        Ok(self.api.get_opt(&client_secret(server)).await?.map(|object| Live { object }))
    }

    /// Brings the Secret of a server to what it should be. Gives its version, and whether it was written.
    pub(super) async fn put(
        &self,
        key: &Key,
        owner: &Value,
        live: Option<&Live>,
        registered: &Registered,
        created: bool,
    ) -> Result<(Option<String>, bool), kube::Error> {
        if let Some(live) = live.filter(|live| live.is(key, owner, registered, created)) {
            return Ok((live.object.resource_version(), false));
        }
        let name = client_secret(&key.name);
        let data: BTreeMap<&str, String> =
            contents(registered).into_iter().map(|(key, text)| (key, STANDARD.encode(text))).collect();
        let mut annotations = serde_json::Map::new();
        if created {
            annotations.insert(CREATED.to_owned(), "true".into());
        }
        let text = |pointer: &str| owner.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let object = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": key.namespace,
                "labels": workload_labels("mcpserver", &key.name),
                "annotations": annotations,
                "ownerReferences": [{
                    "apiVersion": text("/apiVersion"),
                    "kind": key.kind.as_str(),
                    "name": key.name,
                    "uid": text("/metadata/uid"),
                    "controller": true,
                    "blockOwnerDeletion": true,
                }],
            },
            "type": "Opaque",
            "data": data,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let written = self.api.patch(&name, &params, &Patch::Apply(&object)).await?;
        Ok((written.resource_version(), true))
    }

    /// Deletes the Secret as it is known.
    pub(super) async fn delete(&self, live: &Live) -> Result<(), kube::Error> {
        let preconditions = Preconditions { uid: live.object.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match self.api.delete(&live.object.name_any(), &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Live {
    /// Whose it is.
    pub(super) fn whose(&self, key: &Key, uid: &str) -> Whose {
        let controller = self.object.owner_references().iter().find(|owner| owner.controller == Some(true));
        match controller {
            Some(owner) if owner.uid == uid => Whose::Ours,
            Some(owner) if owner.kind == key.kind.as_str() && owner.name == key.name => Whose::Predecessors,
            _ => Whose::Others,
        }
    }

    /// The id of the client whose credentials it has.
    pub(super) fn client_id(&self) -> Option<String> {
        let ByteString(bytes) = self.object.data.as_ref()?.get(CLIENT_ID)?;
        String::from_utf8(bytes.clone()).ok()
    }

    /// True when the operator made that client.
    pub(super) fn created(&self) -> bool {
        self.object.annotations().get(CREATED).is_some_and(|value| value == "true")
    }

    fn is(&self, key: &Key, owner: &Value, registered: &Registered, created: bool) -> bool {
        let uid = owner.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        let data = self.object.data.as_ref();
        let has = |(name, text): (&str, &str)| {
            data.and_then(|data| data.get(name)).is_some_and(|ByteString(bytes)| bytes == text.as_bytes())
        };
        let labels = self.object.labels();
        self.whose(key, uid) == Whose::Ours
            && contents(registered).into_iter().all(has)
            && workload_labels("mcpserver", &key.name)
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
            && self.created() == created
            && self.object.metadata.deletion_timestamp.is_none()
    }
}

fn contents(registered: &Registered) -> [(&'static str, &str); 3] {
    let [now, old] = CLIENT_SECRET;
    let secret = registered.secret.expose();
    [(CLIENT_ID, registered.client_id.as_str()), (now, secret), (old, secret)]
}

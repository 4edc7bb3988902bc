//! Names and owners of what is made.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use skep_api::crd::Object;

/// The object that everything is made from.
pub(super) struct Owner<'a> {
    pub(super) name: &'a str,
    pub(super) namespace: &'a str,
    object: &'a Object,
}

impl<'a> Owner<'a> {
    pub(super) fn of(object: &'a Object) -> Self {
        Self { name: &object.metadata.name, namespace: &object.metadata.namespace, object }
    }

    /// Metadata of an object that is made. The owner reference needs a uid, which only the API server gives.
    pub(super) fn metadata(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
    ) -> Value {
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), name.into());
        metadata.insert("namespace".to_owned(), self.namespace.into());
        if !labels.is_empty() {
            metadata.insert("labels".to_owned(), json!(labels));
        }
        if !annotations.is_empty() {
            metadata.insert("annotations".to_owned(), json!(annotations));
        }
        if let Some(uid) = &self.object.metadata.uid {
            metadata.insert(
                "ownerReferences".to_owned(),
                json!([{
                    "apiVersion": self.object.version.api_version(),
                    "kind": self.object.kind.as_str(),
                    "name": self.name,
                    "uid": uid,
                    "controller": true,
                    "blockOwnerDeletion": true,
                }]),
            );
        }
        Value::Object(metadata)
    }
}

/// `base` and, where it says nothing, `more`: the operator's own labels and annotations win.
pub(super) fn merged(
    base: &BTreeMap<String, String>,
    more: Option<&BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    let mut merged = more.cloned().unwrap_or_default();
    merged.extend(base.iter().map(|(key, value)| (key.clone(), value.clone())));
    merged
}

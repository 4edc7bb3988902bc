//! Object metadata, as far as it decides anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The part of `metadata` that is looked at. Fields that the API server keeps for itself are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    pub name: String,
    /// Empty only before [`super::Object::parse`], which sets `default`.
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub uid: Option<String>,
    pub generation: Option<i64>,
    pub creation_timestamp: Option<String>,
    pub deletion_timestamp: Option<String>,
}

impl ObjectMeta {
    /// True when somebody has asked for the object to be deleted.
    pub fn is_terminating(&self) -> bool {
        self.deletion_timestamp.is_some()
    }
}

//! Security contexts of everything that is made: the restricted profile of Pod Security Standards.

use serde_json::{Map, Value, json};

/// User and group of pods, and of the files that are mounted for them.
const ID: u32 = 1000;

/// The security context of a pod. OpenShift gives each namespace ids of its own and refuses others, so there
/// none are said.
pub(super) fn pod(openshift: bool) -> Value {
    let mut context = fixed(openshift, &["runAsUser", "runAsGroup", "fsGroup"]);
    context.insert("runAsNonRoot".to_owned(), true.into());
    context.insert("seccompProfile".to_owned(), json!({"type": "RuntimeDefault"}));
    context.into()
}

/// The security context of a container.
pub(super) fn container(openshift: bool) -> Map<String, Value> {
    let mut context = fixed(openshift, &["runAsUser", "runAsGroup"]);
    context.insert("allowPrivilegeEscalation".to_owned(), false.into());
    context.insert("readOnlyRootFilesystem".to_owned(), true.into());
    context.insert("runAsNonRoot".to_owned(), true.into());
    context.insert("capabilities".to_owned(), json!({"drop": ["ALL"]}));
    context
}

fn fixed(openshift: bool, fields: &[&str]) -> Map<String, Value> {
    let fields = if openshift { &[] } else { fields };
    fields.iter().map(|field| ((*field).to_owned(), Value::from(ID))).collect()
}

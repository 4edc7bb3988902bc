//! Becoming the owner of fields that were set by an update, and ceasing to be that of others.
//!
//! An apply takes away only what its manager applied before. What ToolHive's operator set by updates, the
//! operator could therefore never remove. Once those entries of `managedFields` have become one of its own, the
//! next apply does. No other manager's entry is touched.

use serde_json::{Value, json};

use super::managed_fields::{Entry, FieldTree, Step, applied, entries};

/// Managers of ToolHive's operator and of its proxy: client-go names them after the program.
const TOOLHIVE: [&str; 3] = ["thv-operator", "toolhive-operator", "thv-proxyrunner"];

/// What many operators are called, ToolHive's among them. Only whoever also made the object is meant.
const ANY_OPERATOR: &str = "manager";

/// Fields that go back to the server's default when their manager applies without them, but that belong to
/// someone else when nobody says anything about them: an autoscaler's number of pods.
const HANDED_OVER: [&[&str]; 1] = [&["spec", "replicas"]];

/// The patch that makes the fields that ToolHive's operator set by updates, or `manager` itself in another way
/// than by applying, fields that `manager` applied. None when there are none.
///
/// `status` stays with whoever wrote it: on servers before 1.22 it stands in the same entry as the rest.
/// `spec.replicas` becomes nobody's, so that it keeps its value when the next apply says nothing about it; an
/// apply that does say something makes it its own again.
pub fn take_over(live: &Value, manager: &str) -> Option<Value> {
    let takings = sort(live, manager);
    takings.names.first()?;
    let mut own = takings.own;
    own.join(&takings.taken);
    for path in HANDED_OVER {
        own.take(path);
    }
    Some(rewritten(live, manager, takings.time.as_deref(), &own, takings.others))
}

/// Whose updates [`take_over`] would take, each once.
pub(super) fn taken_from(live: &Value, manager: &str) -> Vec<String> {
    sort(live, manager).names
}

/// The patch that makes `manager` no longer the owner of one field of an object, such as
/// `&["spec", "replicas"]`, so that the field keeps its value when the next apply says nothing about it. None
/// when the manager did not apply it.
pub fn release(live: &Value, manager: &str, path: &[&str]) -> Option<Value> {
    let mut own = FieldTree::default();
    let mut time = None;
    let mut others = Vec::new();
    for entry in entries(live) {
        if entry.is_applied_by(manager) {
            own.join(&entry.fields);
            time = latest(time, &entry);
        } else {
            others.push(entry.raw().clone());
        }
    }
    own.take(path)?;
    Some(rewritten(live, manager, time.as_deref(), &own, others))
}

/// What is to become one entry.
#[derive(Default)]
struct Takings {
    /// What the manager applied.
    own: FieldTree,
    /// What was set by updates.
    taken: FieldTree,
    /// Whose updates those were.
    names: Vec<String>,
    /// When the last of all that was.
    time: Option<String>,
    /// Entries that stay as they are, and what is left of those that were taken from.
    others: Vec<Value>,
}

/// Sorts the entries into what is to become one, and what stays as it is.
fn sort(live: &Value, manager: &str) -> Takings {
    let mut takings = Takings::default();
    for entry in entries(live) {
        if entry.is_applied_by(manager) {
            takings.own.join(&entry.fields);
            takings.time = latest(takings.time, &entry);
            continue;
        }
        match takeable(&entry, manager) {
            Some((taken, rest)) => {
                takings.time = latest(takings.time, &entry);
                takings.taken.join(&taken);
                if !takings.names.contains(&entry.manager) {
                    takings.names.push(entry.manager.clone());
                }
                takings.others.extend(entry.with(&rest));
            }
            None => takings.others.push(entry.raw().clone()),
        }
    }
    takings
}

/// The fields of an entry that are taken, and those that it keeps. None for an entry that is left alone.
fn takeable(entry: &Entry, manager: &str) -> Option<(FieldTree, FieldTree)> {
    if !entry.is_update() {
        return None;
    }
    let mut taken = entry.fields.clone();
    let mut rest = FieldTree::default();
    if let Some(status) = entry.fields.field("status") {
        taken.take(&["status"]);
        rest.below.insert(Step::field("status"), status.clone());
    }
    let made_it = || taken.at(&["metadata", "ownerReferences"]).is_some();
    let name = entry.manager.as_str();
    let meant = name == manager || TOOLHIVE.contains(&name) || (name == ANY_OPERATOR && made_it());
    (meant && !taken.is_empty()).then_some((taken, rest))
}

fn latest(time: Option<String>, entry: &Entry) -> Option<String> {
    // All of them are in UTC and of one form, so their order is that of their texts.
    time.max(entry.time().map(str::to_owned))
}

fn rewritten(
    live: &Value,
    manager: &str,
    time: Option<&str>,
    own: &FieldTree,
    mut others: Vec<Value>,
) -> Value {
    if !own.is_empty() {
        others.push(applied(live, manager, time, own));
    }
    if others.is_empty() {
        // A list without entries would mean that nothing is said about them; this one clears them.
        others.push(json!({}));
    }
    let version = live.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
    json!([
        {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
        {"op": "replace", "path": "/metadata/managedFields", "value": others},
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: &str = "skep-operator";

    fn entry(manager: &str, operation: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "apps/v1", "time": "2025-10-31T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    fn live(entries: &[Value]) -> Value {
        json!({"apiVersion": "apps/v1", "metadata": {"resourceVersion": "7", "managedFields": entries}})
    }

    /// Manager, operation and fields of every entry that a patch leaves.
    fn after(patch: &Value) -> Vec<(String, String, Value)> {
        assert_eq!(patch[0], json!({"op": "replace", "path": "/metadata/resourceVersion", "value": "7"}));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let entries = patch[1]["value"].as_array().unwrap();
        entries.iter().map(|e| (text(&e["manager"]), text(&e["operation"]), e["fieldsV1"].clone())).collect()
    }

    fn ours(fields: Value) -> (String, String, Value) {
        (US.to_owned(), "Apply".to_owned(), fields)
    }

    #[test]
    fn entries_of_toolhive_become_ours() {
        for name in ["thv-operator", "toolhive-operator", "thv-proxyrunner", US] {
            let live = live(&[entry(name, "Update", json!({"f:spec": {"f:a": {}}}))]);
            assert_eq!(
                after(&take_over(&live, US).unwrap()),
                [ours(json!({"f:spec": {"f:a": {}}}))],
                "{name}"
            );
        }
    }

    #[test]
    fn they_are_joined_with_what_we_applied_and_with_each_other() {
        let mut old = entry("thv-operator", "Update", json!({"f:spec": {"f:b": {}}}));
        old["apiVersion"] = json!("extensions/v1beta1");
        old["time"] = json!("2025-11-01T00:00:00Z");
        let live = live(&[
            entry("kubectl-label", "Update", json!({"f:metadata": {"f:labels": {"f:x": {}}}})),
            entry("thv-operator", "Update", json!({"f:spec": {"f:a": {}}})),
            old,
            entry(US, "Apply", json!({"f:spec": {"f:c": {}}})),
        ]);
        let patch = take_over(&live, US).unwrap();
        let left = after(&patch);
        assert_eq!(left.len(), 2);
        assert_eq!(left[0].0, "kubectl-label");
        assert_eq!(left[1], ours(json!({"f:spec": {"f:a": {}, "f:b": {}, "f:c": {}}})));
        assert_eq!(patch[1]["value"][1]["apiVersion"], "apps/v1");
        assert_eq!(patch[1]["value"][1]["time"], "2025-11-01T00:00:00Z");
    }

    #[test]
    fn others_are_left_alone() {
        let owner = json!({"f:metadata": {"f:ownerReferences": {}}, "f:spec": {"f:a": {}}});
        for (name, operation) in [
            ("kubectl", "Update"),
            ("kubectl-client-side-apply", "Update"),
            ("argocd-controller", "Apply"),
            ("helm", "Update"),
            ("kube-controller-manager", "Update"),
            ("before-first-apply", "Update"),
            ("thv-operator", "Apply"),
            (US, "Apply"),
        ] {
            assert_eq!(take_over(&live(&[entry(name, operation, owner.clone())]), US), None, "{name}");
        }
        let mut status = entry("thv-operator", "Update", json!({"f:status": {"f:phase": {}}}));
        assert_eq!(take_over(&live(&[status.clone()]), US), None, "the status alone, before 1.22");
        status["fieldsV1"] = owner.clone();
        status["subresource"] = json!("scale");
        assert_eq!(take_over(&live(&[status]), US), None, "a subresource");
    }

    #[test]
    fn any_operator_is_toolhives_only_if_it_made_the_object() {
        let label = entry("manager", "Update", json!({"f:metadata": {"f:labels": {"f:x": {}}}}));
        assert_eq!(take_over(&live(&[label]), US), None);
        let made = entry("manager", "Update", json!({"f:metadata": {"f:ownerReferences": {".": {}}}}));
        assert!(take_over(&live(&[made]), US).is_some());
    }

    #[test]
    fn the_status_and_the_number_of_pods_are_not_taken() {
        let live = live(&[entry(
            "thv-operator",
            "Update",
            json!({"f:spec": {"f:replicas": {}, "f:template": {}}, "f:status": {"f:x": {}}}),
        )]);
        let left = after(&take_over(&live, US).unwrap());
        let status = ("thv-operator".to_owned(), "Update".to_owned(), json!({"f:status": {"f:x": {}}}));
        assert_eq!(left, [status, ours(json!({"f:spec": {"f:template": {}}}))]);
        assert_eq!(taken_from(&live, US), ["thv-operator"]);
        // What is left is not taken again.
        let again = json!({"metadata": {"managedFields": take_over(&live, US).unwrap()[1]["value"]}});
        assert_eq!(take_over(&again, US), None);
    }

    #[test]
    fn the_number_of_pods_that_we_applied_is_nobodys_after_a_takeover() {
        let live = live(&[
            entry("thv-operator", "Update", json!({"f:spec": {"f:paused": {}}})),
            entry(US, "Apply", json!({"f:spec": {"f:replicas": {}}})),
        ]);
        assert_eq!(after(&take_over(&live, US).unwrap()), [ours(json!({"f:spec": {"f:paused": {}}}))]);
    }

    #[test]
    fn a_field_that_is_released_is_nobodys() {
        let live = live(&[
            entry("kubectl", "Update", json!({"f:spec": {"f:replicas": {}}})),
            entry(US, "Apply", json!({"f:spec": {"f:replicas": {}, "f:template": {}}})),
        ]);
        let left = after(&release(&live, US, &["spec", "replicas"]).unwrap());
        assert_eq!(left[0].0, "kubectl");
        assert_eq!(left[1], ours(json!({"f:spec": {"f:template": {}}})));
        assert_eq!(release(&live, US, &["spec", "paused"]), None);
        assert_eq!(release(&live, "someone", &["spec", "replicas"]), None);
    }

    #[test]
    fn releasing_the_last_field_clears_the_list() {
        let live = live(&[entry(US, "Apply", json!({"f:spec": {"f:replicas": {}}}))]);
        let patch = release(&live, US, &["spec", "replicas"]).unwrap();
        assert_eq!(patch[1]["value"], json!([{}]));
    }
}

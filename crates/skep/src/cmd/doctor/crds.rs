//! Whether the CRDs are installed, and are those of this version.

use std::collections::BTreeSet;

use serde_json::Value;
use skep_api::crd::definition::definitions;
use skep_api::crd::{GROUP, Kind};

use super::cluster::{Cluster, Refusal, text};
use super::finding::Findings;

const CHECK: &str = "crds";
/// Fields that a line names.
const NAMED: usize = 5;
const INSTALL: &str = "Install them: skep crds | kubectl create -f -";
const UPDATE: &str = "Replace it: skep crds | kubectl replace -f -";

/// A kind and the version in which its objects can be read.
pub(super) type Readable = (Kind, String);

/// Compares what is installed with what this version has. Gives the kinds that can be read.
pub(super) async fn check(cluster: &Cluster, findings: &mut Findings) -> Vec<Readable> {
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    match cluster.list(path, "").await {
        Ok(installed) => definitions()
            .iter()
            .filter_map(|ours| {
                let name = text(ours, "/metadata/name");
                let theirs = installed.iter().find(|crd| text(crd, "/metadata/name") == name);
                one(ours, theirs, findings)
            })
            .collect(),
        Err(refusal) => {
            findings.skip(
                CHECK,
                format!("they can't be compared: {refusal}"),
                "Ask somebody who may list customresourcedefinitions.",
            );
            discovered(cluster, findings).await
        }
    }
}

fn one(ours: &Value, theirs: Option<&Value>, findings: &mut Findings) -> Option<Readable> {
    let name = text(ours, "/metadata/name");
    let kind: Kind = text(ours, "/spec/names/kind").parse().ok()?;
    let Some(theirs) = theirs else {
        findings.fail(CHECK, format!("{name} is not installed"), INSTALL);
        return None;
    };
    let served: Vec<&str> = versions(theirs, "served");
    let wanted = versions(ours, "served");
    let readable = wanted.iter().rev().find(|version| served.contains(version));
    let readable = readable.map(|version| (kind, (*version).to_owned()));
    if !established(theirs) {
        findings.fail(
            CHECK,
            format!("{name} is installed and not accepted"),
            format!("Look at it: kubectl describe crd {name}"),
        );
        return None;
    }
    let missing: Vec<&str> = wanted.iter().copied().filter(|version| !served.contains(version)).collect();
    if !missing.is_empty() {
        findings.fail(CHECK, format!("{name} does not serve {}", missing.join(", ")), UPDATE);
        return readable;
    }
    let pruned: BTreeSet<String> = wanted
        .iter()
        .filter_map(|version| Some((schema(ours, version)?, schema(theirs, version)?)))
        .flat_map(|(ours, theirs)| pruned_fields(ours, theirs))
        .collect();
    if !pruned.is_empty() {
        let named: Vec<&str> = pruned.iter().take(NAMED).map(String::as_str).collect();
        let more = pruned.len().saturating_sub(NAMED);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        findings.fail(
            CHECK,
            format!("{name} is older than this skep: the API server drops {}{more}", named.join(", ")),
            UPDATE,
        );
        return readable;
    }
    let (stored, ours_stored) = (versions(theirs, "storage"), versions(ours, "storage"));
    let left = theirs.pointer("/status/storedVersions").and_then(Value::as_array);
    let left: Vec<&str> =
        left.into_iter().flatten().filter_map(Value::as_str).filter(|one| !stored.contains(one)).collect();
    let serves = format!("{name} serves {} and stores {}", served.join(", "), stored.join(", "));
    if stored != ours_stored {
        findings.warn(CHECK, format!("{serves}, this skep {}", ours_stored.join(", ")), UPDATE);
    } else if !left.is_empty() {
        findings.warn(
            CHECK,
            format!("{serves}; objects may still be stored as {}", left.join(", ")),
            "The operator rewrites them, unless TOOLHIVE_ENABLE_STORAGE_VERSION_MIGRATOR is false or it watches some namespaces only.",
        );
    } else {
        findings.ok(CHECK, serves);
    }
    readable
}

/// Without the right to read CRDs: what discovery, which everybody may ask, says.
async fn discovered(cluster: &Cluster, findings: &mut Findings) -> Vec<Readable> {
    let mut found: Vec<Readable> = Vec::new();
    for version in ["v1beta1", "v1alpha1"] {
        let list = match cluster.get(&format!("/apis/{GROUP}/{version}")).await {
            Ok(list) => list,
            Err(Refusal::Missing) => continue,
            Err(refusal) => {
                findings.skip(
                    CHECK,
                    format!("the kinds of {GROUP}/{version} can't be asked for: {refusal}"),
                    "",
                );
                continue;
            }
        };
        for resource in list.get("resources").and_then(Value::as_array).into_iter().flatten() {
            if let Ok(kind) = text(resource, "/kind").parse::<Kind>()
                && !found.iter().any(|(known, _)| *known == kind)
            {
                found.push((kind, version.to_owned()));
            }
        }
    }
    for kind in Kind::ALL {
        if !found.iter().any(|(known, _)| *known == kind) {
            findings.fail(CHECK, format!("{}.{GROUP} is not installed", kind.plural()), INSTALL);
        }
    }
    found
}

/// Names of the versions for which something is said.
fn versions<'a>(crd: &'a Value, said: &str) -> Vec<&'a str> {
    let all = crd.pointer("/spec/versions").and_then(Value::as_array);
    let chosen = all.into_iter().flatten().filter(|one| one.get(said).and_then(Value::as_bool) == Some(true));
    chosen.map(|version| text(version, "/name")).collect()
}

fn schema<'a>(crd: &'a Value, version: &str) -> Option<&'a Value> {
    let all = crd.pointer("/spec/versions").and_then(Value::as_array)?;
    all.iter().find(|one| text(one, "/name") == version)?.pointer("/schema/openAPIV3Schema")
}

fn established(crd: &Value) -> bool {
    let conditions = crd.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|one| text(one, "/type") == "Established" && text(one, "/status") == "True")
}

/// Fields that our schema has and the other drops. Of a part that is missing, only its own name.
fn pruned_fields(ours: &Value, theirs: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(ours, theirs, "", &mut found);
    found
}

fn compare(ours: &Value, theirs: &Value, path: &str, found: &mut Vec<String>) {
    const KEEPS: &str = "x-kubernetes-preserve-unknown-fields";
    let keeps = |schema: &Value| schema.get(KEEPS).and_then(Value::as_bool) == Some(true);
    if keeps(theirs) {
        return;
    }
    if keeps(ours) {
        found.push(format!("what is below {path}"));
        return;
    }
    for (name, field) in ours.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match theirs.get("properties").and_then(|fields| fields.get(name)) {
            Some(other) => compare(field, other, &at, found),
            None => found.push(at),
        }
    }
    for (part, shown) in [("items", "[]"), ("additionalProperties", ".*")] {
        match (ours.get(part), theirs.get(part)) {
            (Some(field), Some(other)) => compare(field, other, &format!("{path}{shown}"), found),
            (Some(field), None) if field.is_object() => found.push(format!("{path}{shown}")),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_would_be_dropped_are_found_at_any_depth() {
        let ours = json!({"properties": {
            "a": {"type": "string"},
            "b": {"properties": {"c": {"type": "string"}, "d": {"properties": {"e": {}}}}},
            "list": {"items": {"properties": {"f": {}}}},
            "map": {"additionalProperties": {"type": "string"}},
            "any": {"x-kubernetes-preserve-unknown-fields": true},
        }});
        let theirs = json!({"properties": {
            "a": {"type": "string"},
            "b": {"properties": {"c": {"type": "string"}}},
            "list": {"items": {"properties": {}}},
            "map": {},
            "any": {"type": "object"},
            "theirs": {},
        }});
        assert_eq!(pruned_fields(&ours, &theirs), ["b.d", "list[].f", "map.*", "what is below any"]);
        assert!(pruned_fields(&ours, &ours).is_empty());
        assert!(pruned_fields(&ours, &json!({"x-kubernetes-preserve-unknown-fields": true})).is_empty());
    }

    #[test]
    fn our_own_crds_drop_nothing_of_ours() {
        for ours in definitions() {
            let mut installed = ours.clone();
            installed["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
            let mut findings = Findings::default();
            assert!(one(&ours, Some(&installed), &mut findings).is_some());
            assert!(!findings.failed(), "{findings:?}");
        }
    }
}

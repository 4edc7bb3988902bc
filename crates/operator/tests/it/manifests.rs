//! The manifests of `tests/manifests`, read without the command line tool.

use std::path::{Path, PathBuf};

use serde_json::Value;
use skep_api::crd::Object;
use skep_api::yaml::documents;
use skep_operator::plan::{Missing, Planned, Settings, WorkloadName, World, plan_object};

/// All manifests of a folder, sorted.
pub(crate) fn files(folder: &str) -> Vec<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests").join(folder);
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// The objects of a text and the world they make together.
pub(crate) fn world(text: &str, missing: Missing) -> (Vec<Object>, World) {
    let mut world = World { settings: Settings { missing, ..Settings::default() }, ..World::default() };
    let mut objects = Vec::new();
    let mut values: Vec<Value> =
        documents(text).unwrap_or_default().into_iter().map(|document| document.value).collect();
    values = values
        .into_iter()
        .flat_map(|value| match value.get("items").and_then(Value::as_array) {
            Some(items) => items.clone(),
            None => vec![value],
        })
        .collect();
    for value in values {
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let entries = |field: &str| -> Vec<(String, String)> {
            let map = value.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
            map.into_iter().map(|(key, text)| (key, text.as_str().unwrap_or_default().to_owned())).collect()
        };
        match value.get("kind").and_then(Value::as_str) {
            Some("Secret") => {
                let keys =
                    entries("data").into_iter().chain(entries("stringData")).map(|(key, _)| key).collect();
                world.secrets.insert(name, keys);
            }
            Some("ConfigMap") => {
                world.config_maps.insert(name, entries("data").into_iter().collect());
            }
            _ => objects.extend(Object::parse(&value)),
        }
    }
    for object in &objects {
        let name = object.metadata.name.clone();
        if object.kind.is_workload() {
            world.workloads.push(WorkloadName { kind: object.kind, name });
        } else {
            world.configs.insert((object.kind, name), object.clone());
        }
    }
    (objects, world)
}

/// Plans every object of a text in a complete world.
pub(crate) fn plan(text: &str) -> Vec<(Object, Planned)> {
    let (objects, world) = world(text, Missing::Refuse);
    objects
        .into_iter()
        .map(|object| {
            let planned = plan_object(&object, &world);
            (object, planned)
        })
        .collect()
}

/// Plans the last object of a file in `good`.
pub(crate) fn good(name: &str) -> Planned {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/manifests/good/{name}.yaml"));
    plan(&std::fs::read_to_string(path).unwrap()).pop().unwrap().1
}

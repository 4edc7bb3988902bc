//! What the planner writes, the proxy takes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use skep_api::address::Egress;
use skep_api::runconfig::RunConfig;
use skep_api::secret::Secret;
use skep_proxy::config::{ConfigError, ProxyConfig, Surroundings, parse};

use crate::check::{manifests, skep};

const CERTIFICATE: &str = include_str!("../fixtures/certificate.pem");
const KEY: &str = include_str!("../../../authserver/tests/fixtures/p256.pem");

/// Where the pod has its mounts.
const MOUNTS: [&str; 4] = ["/etc/skep/secrets/", "/config/certs/", "/var/run/secrets/", "/run/spire/"];

/// Puts a file here in the place of every mount that is named.
fn mount(value: &mut Value, folder: &Path, made: &mut BTreeMap<String, PathBuf>) {
    match value {
        Value::String(text) if MOUNTS.iter().any(|mount| text.starts_with(mount)) => {
            let next = made.len();
            let place = made.entry(text.clone()).or_insert_with(|| {
                let place = folder.join(next.to_string());
                let content = match text.rsplit('/').next().unwrap_or_default() {
                    "tls.key" | "key.pem" => KEY,
                    name if name.ends_with(".crt") || name.ends_with(".pem") => CERTIFICATE,
                    _ => "a-secret",
                };
                std::fs::write(&place, content).unwrap();
                place
            });
            *text = place.display().to_string();
        }
        Value::Array(items) => items.iter_mut().for_each(|item| mount(item, folder, made)),
        Value::Object(members) => members.values_mut().for_each(|member| mount(member, folder, made)),
        _ => {}
    }
}

/// What the proxy makes of a RunConfig, with the variables of its pod set and every file there.
fn take(text: &str, variables: &[String]) -> Result<ProxyConfig, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let mut value = serde_json::to_value(parse(text.as_bytes(), "runconfig.json")?).unwrap();
    mount(&mut value, folder.path(), &mut BTreeMap::new());
    let run: RunConfig = serde_json::from_value(value).unwrap();
    let variable = |name: &str| -> Option<Secret> {
        variables.iter().any(|known| known == name).then(|| Secret::new("a-secret"))
    };
    ProxyConfig::new(&run, &Surroundings { variable: &variable, egress: Egress::default() })
}

/// Variables that the proxy's pod gets from Secrets; `map` is the name of its ConfigMap.
fn variables(items: &[Value], map: &str) -> Vec<String> {
    let deployment = items
        .iter()
        .find(|item| {
            item["kind"] == "Deployment"
                && item["metadata"]["name"].as_str() == map.strip_suffix("-runconfig")
        })
        .unwrap();
    deployment["spec"]["template"]["spec"]["containers"][0]["env"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|variable| variable.pointer("/valueFrom/secretKeyRef").is_some())
        .map(|variable| variable["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_proxy_takes_what_the_planner_writes() {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(manifests().join("good")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut refused = String::new();
    let mut taken = 0;
    for file in files {
        let output = skep(&["render", "-o", "json", "-f", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}", file.display());
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        let items = list["items"].as_array().unwrap();
        for item in items {
            let Some(text) = item["data"]["runconfig.json"].as_str() else { continue };
            match take(text, &variables(items, item["metadata"]["name"].as_str().unwrap())) {
                Ok(config) => {
                    assert!(!config.name.is_empty());
                    taken += 1;
                }
                Err(error) => {
                    let name = file.file_stem().unwrap().to_string_lossy();
                    writeln!(refused, "{name}: {:#}", anyhow::Error::from(error)).unwrap();
                }
            }
        }
    }
    assert!(taken > 30, "{taken}");
    // Only what the proxy says it can't do yet, each for a reason of its own.
    insta::assert_snapshot!("refused", refused);
}

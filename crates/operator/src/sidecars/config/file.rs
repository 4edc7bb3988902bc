//! Reads the config file's keys one by one, each with its line.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use skep_api::yaml::{Document, Lines};

use super::{Amounts, Finding, PullPolicy, SidecarConfig};
use crate::apply::quantity::amount;
use crate::sidecars::settings::Socket;

/// Reads a document over what counts where it says nothing.
pub(super) fn read(mut config: SidecarConfig, document: &Document) -> Result<SidecarConfig, Vec<Finding>> {
    let mut reader = Reader { lines: &document.lines, findings: Vec::new() };
    let root =
        reader.mapping("", Some(&document.value), &["images", "imagePullPolicy", "resources", "volumes"]);
    let child = |key: &str| root.and_then(|root| root.get(key));
    reader.images(&mut config, child("images"));
    reader.pull_policy(&mut config, child("imagePullPolicy"));
    reader.resources(&mut config, child("resources"));
    reader.volumes(&mut config, child("volumes"));
    let mut findings = reader.findings;
    if findings.is_empty() {
        return Ok(config);
    }
    findings.sort_by_key(|finding| finding.line);
    Err(findings)
}

struct Reader<'a> {
    lines: &'a Lines,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn find(&mut self, path: &str, message: impl Into<String>) {
        let line = self.lines.line(path).max(1);
        self.findings.push(Finding { line, path: path.to_owned(), message: message.into() });
    }

    /// A mapping with no other keys than the known ones; null counts as absent.
    fn mapping<'v>(
        &mut self,
        path: &str,
        value: Option<&'v Value>,
        known: &[&str],
    ) -> Option<&'v Map<String, Value>> {
        let map = self.any_mapping(path, value)?;
        for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
            let known: Vec<String> = known.iter().map(|key| format!("`{key}`")).collect();
            let message = format!("There is no such key. Known here: {}.", known.join(", "));
            self.find(&below(path, key), message);
        }
        Some(map)
    }

    fn any_mapping<'v>(&mut self, path: &str, value: Option<&'v Value>) -> Option<&'v Map<String, Value>> {
        match value? {
            Value::Null => None,
            Value::Object(map) => Some(map),
            _ => {
                self.find(path, "This is not a mapping.");
                None
            }
        }
    }

    fn text<'v>(&mut self, path: &str, value: Option<&'v Value>) -> Option<&'v str> {
        match value? {
            Value::Null => None,
            Value::String(text) => Some(text),
            _ => {
                self.find(path, "This is not a text.");
                None
            }
        }
    }

    fn images(&mut self, config: &mut SidecarConfig, value: Option<&Value>) {
        let Some(map) = self.mapping("images", value, &["spiffeHelper", "clientRegistration", "builtin"])
        else {
            return;
        };
        for (key, image) in [
            ("spiffeHelper", &mut config.images.spiffe_helper),
            ("clientRegistration", &mut config.images.client_registration),
            ("builtin", &mut config.images.builtin),
        ] {
            let path = below("images", key);
            let Some(text) = self.text(&path, map.get(key)) else { continue };
            if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
                self.find(&path, "This is not the name of an image.");
            } else {
                text.clone_into(image);
            }
        }
    }

    fn pull_policy(&mut self, config: &mut SidecarConfig, value: Option<&Value>) {
        const PATH: &str = "imagePullPolicy";
        let Some(text) = self.text(PATH, value) else { return };
        let all = [PullPolicy::IfNotPresent, PullPolicy::Always, PullPolicy::Never];
        match all.into_iter().find(|policy| policy.as_str() == text) {
            Some(policy) => config.image_pull_policy = policy,
            None => self.find(PATH, "Write `IfNotPresent`, `Always` or `Never`."),
        }
    }

    fn resources(&mut self, config: &mut SidecarConfig, value: Option<&Value>) {
        let Some(map) = self.mapping("resources", value, &["spiffeHelper", "clientRegistration"]) else {
            return;
        };
        for (key, amounts) in [
            ("spiffeHelper", &mut config.resources.spiffe_helper),
            ("clientRegistration", &mut config.resources.client_registration),
        ] {
            self.amounts(amounts, &below("resources", key), map.get(key));
        }
    }

    fn amounts(&mut self, amounts: &mut Amounts, path: &str, value: Option<&Value>) {
        let Some(map) = self.mapping(path, value, &["requests", "limits"]) else { return };
        let requests = self.quantities(&below(path, "requests"), map.get("requests"));
        let limits = self.quantities(&below(path, "limits"), map.get("limits"));
        let limits_are_said = limits.is_some();
        if let Some(requests) = requests {
            amounts.requests = requests;
        }
        if let Some(limits) = limits {
            amounts.limits = limits;
        }
        for (name, request) in &amounts.requests {
            let Some(limit) = amounts.limits.get(name) else { continue };
            if amount_of(request) <= amount_of(limit) {
                continue;
            }
            if limits_are_said {
                self.find(
                    &below(&below(path, "limits"), name),
                    format!("This is less than the request of {request}. Raise it, or lower `requests`."),
                );
            } else {
                self.find(
                    &below(&below(path, "requests"), name),
                    format!("This is more than the limit of {limit}. Lower it, or raise `limits`."),
                );
            }
        }
    }

    fn quantities(&mut self, path: &str, value: Option<&Value>) -> Option<BTreeMap<String, String>> {
        let map = self.any_mapping(path, value)?;
        let mut read = BTreeMap::new();
        for (name, value) in map {
            let path = below(path, name);
            match quantity(value) {
                Some(text) => _ = read.insert(name.clone(), text),
                None => {
                    self.find(&path, "This is not an amount. Write something like `100m` or `64Mi`.");
                }
            }
        }
        Some(read)
    }

    fn volumes(&mut self, config: &mut SidecarConfig, value: Option<&Value>) {
        let Some(map) = self.mapping("volumes", value, &["socket", "shared", "svid"]) else { return };
        self.socket(config, map.get("socket"));
        for (key, size) in
            [("shared", &mut config.volumes.shared_size), ("svid", &mut config.volumes.svid_size)]
        {
            let path = below("volumes", key);
            let Some(limit) =
                self.mapping(&path, map.get(key), &["sizeLimit"]).and_then(|map| map.get("sizeLimit"))
            else {
                continue;
            };
            if limit.is_null() {
                continue;
            }
            match quantity(limit).filter(|text| amount_of(text) > Some(0)) {
                Some(text) => *size = Some(text),
                None => {
                    self.find(&below(&path, "sizeLimit"), "This is not a size. Write something like `1Mi`.")
                }
            }
        }
    }

    fn socket(&mut self, config: &mut SidecarConfig, value: Option<&Value>) {
        const PATH: &str = "volumes.socket";
        let Some(map) = self.mapping(PATH, value, &["type", "path", "driver"]) else { return };
        let socket = &mut config.volumes.socket;
        let at = below(PATH, "type");
        match self.text(&at, map.get("type")) {
            Some("hostPath") => socket.kind = Some(Socket::HostPath),
            Some("csi") => socket.kind = Some(Socket::Csi),
            Some(_) => self.find(&at, "Write `hostPath` or `csi`."),
            None => {}
        }
        let at = below(PATH, "path");
        if let Some(path) = self.text(&at, map.get("path")) {
            if socket.kind == Some(Socket::Csi) {
                self.find(&at, "This has a meaning with `type: hostPath` only. Remove it.");
            } else if !is_folder(path) {
                self.find(&at, "This is not an absolute path of a folder without `..`.");
            } else {
                path.clone_into(&mut socket.path);
            }
        }
        let at = below(PATH, "driver");
        if let Some(driver) = self.text(&at, map.get("driver")) {
            if socket.kind == Some(Socket::HostPath) {
                self.find(&at, "This has a meaning with `type: csi` only. Remove it.");
            } else if !is_driver(driver) {
                self.find(&at, "This is not the name of a CSI driver.");
            } else {
                driver.clone_into(&mut socket.driver);
            }
        }
    }
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// An amount that is not negative, as text.
fn quantity(value: &Value) -> Option<String> {
    amount(value).filter(|amount| *amount >= 0)?;
    Some(value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned))
}

fn amount_of(text: &str) -> Option<i128> {
    amount(&Value::from(text))
}

fn is_folder(path: &str) -> bool {
    path.starts_with('/')
        && !path.trim_matches('/').is_empty()
        && !path.split('/').any(|part| part == "..")
        && !path.contains(|c: char| c.is_control() || c == ':')
}

fn is_driver(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

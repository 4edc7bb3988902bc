//! Text to objects.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use skep_api::crd::{DEFAULT_NAMESPACE, GROUP, LATER_KINDS, Object, ObjectError};
use skep_api::problem::Severity;
use skep_api::secret::Secret;
use skep_api::yaml::{Document, Lines, documents};

use super::{Located, Manifests, Remark};

/// Reads all documents of a text.
pub(super) fn text(manifests: &mut Manifests, file: &Path, text: &str) {
    match documents(text) {
        Ok(found) => {
            for Document { value, lines, .. } in found {
                object(manifests, file, value, lines);
            }
        }
        Err(error) => manifests.remark(
            file,
            error.line,
            Some(Severity::Error),
            "InvalidYAML",
            format!("{}.", error.message),
        ),
    }
}

fn object(manifests: &mut Manifests, file: &Path, value: Value, lines: Lines) {
    if value.is_null() {
        return;
    }
    let line = lines.line("");
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if !value.is_object() || api_version.is_empty() || kind.is_empty() {
        manifests.remark(
            file,
            line,
            Some(Severity::Error),
            "NotAnObject",
            "This is not a Kubernetes object: it needs `apiVersion` and `kind`.".to_owned(),
        );
        return;
    }
    if kind.ends_with("List") && value.get("items").is_some_and(Value::is_array) {
        let items = value.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        for (index, item) in items.into_iter().enumerate() {
            object(manifests, file, item, lines.below(&format!("items[{index}]")));
        }
        return;
    }
    match (api_version, kind) {
        ("v1", "Secret") => manifests.secret(file, &lines, &value),
        ("v1", "ConfigMap") => manifests.config_map(file, &lines, &value),
        ("v1", "Namespace") => {
            let (_, name) = identity(&value);
            manifests.namespaces.entry(name).or_default().extend(strings(&value, "/metadata/labels"));
        }
        _ if api_version == GROUP || api_version.starts_with(&format!("{GROUP}/")) => {
            manifests.ours(file, lines, &value)
        }
        _ => manifests.remark(
            file,
            line,
            None,
            "PassedOver",
            format!("{kind} ({api_version}) is not a kind of ours and was passed over."),
        ),
    }
}

impl Manifests {
    fn ours(&mut self, file: &Path, lines: Lines, value: &Value) {
        match Object::parse(value) {
            Ok(object) => {
                let metadata = &object.metadata;
                let same = |other: &&Located| {
                    other.object.kind == object.kind
                        && other.object.metadata.name == metadata.name
                        && other.object.metadata.namespace == metadata.namespace
                };
                if let Some(first) = self.objects.iter().find(same) {
                    let message = format!(
                        "The {} `{}` of the namespace `{}` is in {} already (line {}). Keep one.",
                        object.kind,
                        metadata.name,
                        metadata.namespace,
                        first.file.display(),
                        first.lines.line("")
                    );
                    self.remark(file, lines.line(""), Some(Severity::Error), "DuplicateObject", message);
                    return;
                }
                self.objects.push(Located { object, file: file.to_owned(), lines });
            }
            Err(ObjectError::Kind(kind)) if LATER_KINDS.contains(&kind.0.as_str()) => {
                self.remark(
                    file,
                    lines.line("kind"),
                    None,
                    "PassedOver",
                    format!("{} is not planned by this version yet and was passed over.", kind.0),
                );
            }
            Err(error) => self.remark(
                file,
                lines.line("kind"),
                Some(Severity::Error),
                "UnknownKind",
                format!("{error}."),
            ),
        }
    }

    fn config_map(&mut self, file: &Path, lines: &Lines, value: &Value) {
        let data = strings(value, "/data");
        if self.config_maps.insert(identity(value), data).is_some() {
            self.remark(
                file,
                lines.line(""),
                Some(Severity::Error),
                "DuplicateObject",
                "This ConfigMap is here twice. Keep one.".to_owned(),
            );
        }
    }

    fn secret(&mut self, file: &Path, lines: &Lines, value: &Value) {
        let mut data = BTreeMap::new();
        for (key, text) in strings(value, "/data") {
            let decoded = STANDARD
                .decode(text.split_whitespace().collect::<String>())
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            match decoded {
                Some(text) => {
                    data.insert(key, Secret::new(text));
                }
                None => {
                    let line = lines.line(&format!("data.{key}"));
                    self.remark(
                        file,
                        line,
                        Some(Severity::Error),
                        "InvalidSecret",
                        format!(
                            "`data.{key}` is not base64 of UTF-8 text; plain text goes into `stringData`."
                        ),
                    );
                }
            }
        }
        data.extend(strings(value, "/stringData").into_iter().map(|(key, text)| (key, Secret::new(text))));
        if self.secrets.insert(identity(value), data).is_some() {
            self.remark(
                file,
                lines.line(""),
                Some(Severity::Error),
                "DuplicateObject",
                "This Secret is here twice. Keep one.".to_owned(),
            );
        }
    }

    fn remark(
        &mut self,
        file: &Path,
        line: usize,
        severity: Option<Severity>,
        reason: &'static str,
        message: String,
    ) {
        self.remarks.push(Remark { file: file.to_owned(), line, severity, reason, message });
    }
}

fn identity(value: &Value) -> (String, String) {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let namespace = Some(text("/metadata/namespace")).filter(|namespace| !namespace.is_empty());
    (namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()), text("/metadata/name"))
}

fn strings(value: &Value, pointer: &str) -> BTreeMap<String, String> {
    value
        .pointer(pointer)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(source: &str) -> Manifests {
        let mut manifests = Manifests::default();
        text(&mut manifests, Path::new("m.yaml"), source);
        manifests
    }

    #[test]
    fn lists_are_unpacked_and_keep_their_lines() {
        let manifests = read(
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: toolhive.stacklok.dev/v1beta1\n  kind: MCPToolConfig\n  metadata: {name: t}\n  spec:\n    toolsFilter: [a]\n",
        );
        let found = &manifests.objects[0];
        assert_eq!((found.object.metadata.name.as_str(), found.lines.line("spec.toolsFilter")), ("t", 8));
        assert_eq!(found.lines.line(""), 4);
    }

    #[test]
    fn secrets_are_decoded_and_do_not_show() {
        let manifests = read(
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: aHVudGVyMg==, b: '***'}\nstringData: {c: plain}\n",
        );
        let secret = &manifests.secrets[&("default".to_owned(), "s".to_owned())];
        assert_eq!(secret["a"].expose(), "hunter2");
        assert_eq!(secret["c"].expose(), "plain");
        assert_eq!(manifests.remarks[0].reason, "InvalidSecret");
        assert!(!format!("{manifests:?}").contains("hunter2"));
    }

    #[test]
    fn a_second_object_of_the_same_name_is_an_error() {
        let one =
            "apiVersion: toolhive.stacklok.dev/v1beta1\nkind: MCPToolConfig\nmetadata: {name: t}\nspec: {}\n";
        let manifests = read(&format!("{one}---\n{one}"));
        assert_eq!(manifests.remarks[0].reason, "DuplicateObject");
        assert_eq!(manifests.objects.len(), 1);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_loader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn no_object_like_text_makes_the_loader_panic(
            kind in prop::sample::select(vec!["MCPServer", "MCPRemoteProxy", "List", "Secret", "ConfigMap", "MCPOIDCConfig"]),
            rest in "([a-z]{1,8}: ?[a-z0-9\\[\\]{}\"'&*|>-]{0,12}\n){0,8}",
        ) {
            read(&format!("apiVersion: toolhive.stacklok.dev/v1beta1\nkind: {kind}\n{rest}"));
            read(&format!("apiVersion: v1\nkind: {kind}\n{rest}"));
        }
    }
}

//! The Secrets that an object names, wherever it does: what somebody has to be allowed to read who writes it.

use serde_json::Value;

/// Every Secret that the spec of an object names, with the path where it does, in the order of the spec: those
/// that its proxy reads, and those that `podTemplateSpec` and `resourceOverrides` put into a pod. Also under
/// fields that the object's type gives no meaning, so this is never less than [`super::references`] has.
/// However fields are capitalised, since not every reader of pod templates minds that. Empty names are left out.
pub fn secrets_named(object: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Some(spec) = object.get("spec") {
        walk(spec, "spec", &mut found);
    }
    found
}

fn walk(value: &Value, at: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (field, inside) in map {
                // Free text, where anything may look like a field.
                if matches!(field.as_str(), "annotations" | "labels" | "matchLabels" | "nodeSelector") {
                    continue;
                }
                let at = format!("{at}.{field}");
                if is_secret_list(&at) {
                    named_each(inside, &at, found);
                } else if field.eq_ignore_ascii_case("secretName") {
                    add(inside.as_str(), at, found);
                } else if names_secret(field) {
                    named(inside, &at, found);
                    named_each(inside, &at, found);
                } else {
                    walk(inside, &at, found);
                }
            }
        }
        Value::Array(list) => {
            for (index, inside) in list.iter().enumerate() {
                walk(inside, &format!("{at}[{index}]"), found);
            }
        }
        _ => {}
    }
}

/// Fields that hold a reference to a Secret, or a list of them: by how they are called, in both spellings.
fn names_secret(field: &str) -> bool {
    let field = field.to_ascii_lowercase();
    let plain = field.strip_suffix('s').unwrap_or(&field);
    ["secretref", "secretkeyref", "secret_ref", "secret_key_ref"].iter().any(|end| plain.ends_with(end))
        || matches!(plain, "passwordref" | "initialaccesstokenref" | "clientcertificateref" | "secret")
}

/// Lists of `{name}` that are Secrets by where they stand.
fn is_secret_list(at: &str) -> bool {
    at == "spec.secrets" || at.to_ascii_lowercase().ends_with(".imagepullsecrets")
}

fn named_each(value: &Value, at: &str, found: &mut Vec<(String, String)>) {
    for (index, one) in value.as_array().into_iter().flatten().enumerate() {
        named(one, &format!("{at}[{index}]"), found);
    }
}

/// A volume has `secretName` where all others have `name`.
fn named(value: &Value, at: &str, found: &mut Vec<(String, String)>) {
    for (field, inside) in value.as_object().into_iter().flatten() {
        if ["name", "secretName"].iter().any(|name| field.eq_ignore_ascii_case(name)) {
            add(inside.as_str(), format!("{at}.{field}"), found);
        }
    }
}

fn add(name: Option<&str>, at: String, found: &mut Vec<(String, String)>) {
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        found.push((at, name.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skep_api::crd::Kind;
    use skep_api::crd::definition::schema;

    use super::*;

    #[test]
    fn every_place_of_a_pod_template_that_names_a_secret_is_found() {
        let object = json!({"spec": {
            "image": "i",
            "secrets": [{"name": "own", "key": "k"}, {"key": "nameless"}],
            "sessionStorage": {"provider": "redis", "passwordRef": {"name": "redis", "key": "k"}},
            "resourceOverrides": {"proxyDeployment": {"imagePullSecrets": [{"name": "proxy-pull"}, {"name": ""}]}},
            "podTemplateSpec": {
                "metadata": {"annotations": {"secretName": "text", "secretRef": "text"}},
                "spec": {
                    "imagePullSecrets": [{"name": "pull"}],
                    "containers": [{
                        "name": "mcp",
                        "env": [
                            {"name": "A", "value": "secretRef"},
                            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}},
                            {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "k"}}},
                        ],
                        "envFrom": [{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "map"}}],
                    }],
                    "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "first"}}]}],
                    "volumes": [
                        {"name": "a", "secret": {"secretName": "volume"}},
                        {"name": "b", "projected": {"sources": [{"configMap": {"name": "m"}}, {"secret": {"name": "projected"}}]}},
                        {"name": "c", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}},
                        {"name": "d", "azureFile": {"secretName": "azure", "shareName": "s"}},
                        {"name": "e", "flexVolume": {"driver": "d", "secretRef": {"name": "flex"}}},
                        {"name": "f", "configMap": {"name": "map"}},
                        {"name": "g", "$patch": "delete", "Secret": {"SecretName": "capital"}},
                        {"name": "h", "pROJECTED": {"sources": [{"SECRET": {"Name": "capitals"}}]}},
                    ],
                },
            },
        }});
        let found: Vec<String> =
            secrets_named(&object).into_iter().map(|(path, name)| format!("{name} at {path}")).collect();
        insta::assert_snapshot!(found.join("\n"));
        assert!(secrets_named(&json!({"spec": "text"})).is_empty());
        assert!(secrets_named(&json!({"metadata": {"secretName": "x"}})).is_empty());
    }

    /// Every field of a schema that holds the name and the key of a Secret.
    fn keys_of_secrets(schema: &Value, at: &str, into: &mut Vec<String>) {
        for (name, member) in schema["properties"].as_object().into_iter().flatten() {
            let inside: Vec<&str> =
                member["properties"].as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
            let required = member["required"].as_array().map_or(0, Vec::len);
            if inside.len() == 2 && inside.contains(&"name") && inside.contains(&"key") && required == 2 {
                into.push(format!("{at}.{name}"));
            }
            keys_of_secrets(member, &format!("{at}.{name}"), into);
        }
        if let Some(items) = schema.get("items") {
            keys_of_secrets(items, at, into);
        }
    }

    #[test]
    fn every_field_of_every_kind_that_holds_a_secret_is_known_by_its_name() {
        let mut fields = Vec::new();
        for kind in Kind::ALL {
            keys_of_secrets(&schema(kind)["properties"]["spec"], &format!("{kind}.spec"), &mut fields);
        }
        assert!(fields.len() > 15, "{fields:?}");
        let unknown: Vec<&String> =
            fields.iter().filter(|path| !names_secret(path.rsplit('.').next().unwrap())).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

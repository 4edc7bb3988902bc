//! Every key of a RunConfig: what it changes, or that it is refused by name, or why it may stay without
//! effect. A new key without a row here fails the test.

#[cfg(test)]
mod middlewares;
#[cfg(test)]
mod ours;
#[cfg(test)]
mod toolhive;
#[cfg(test)]
mod written;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skep_api::address::Egress;
use skep_api::runconfig::RunConfig;
use skep_api::secret::Secret;
use skep_proxy::config::{self, ProxyConfig, Surroundings};
use tempfile::TempDir;

use crate::harness::merge;

/// One key, set.
pub(crate) struct Row {
    key: &'static str,
    /// What has to be there for the key to have a meaning.
    within: Value,
    /// The key, set.
    change: Value,
    outcome: Outcome,
}

enum Outcome {
    /// It changes what the proxy runs by, and this can be seen there.
    Shows(&'static str),
    /// The configuration is refused with this in the message.
    Refused(&'static str),
    /// It changes nothing, for this reason.
    Inert(&'static str),
}

pub(crate) fn shows(key: &'static str, change: Value, text: &'static str) -> Row {
    Row { key, within: json!({}), change, outcome: Outcome::Shows(text) }
}

pub(crate) fn refused(key: &'static str, change: Value, text: &'static str) -> Row {
    Row { key, within: json!({}), change, outcome: Outcome::Refused(text) }
}

pub(crate) fn inert(key: &'static str, change: Value, why: &'static str) -> Row {
    Row { key, within: json!({}), change, outcome: Outcome::Inert(why) }
}

impl Row {
    pub(crate) fn within(mut self, within: &Value) -> Self {
        self.within = within.clone();
        self
    }

    /// What is not as the row says.
    fn fault(&self, files: &Files) -> Option<String> {
        let mut before = minimal();
        merge(&mut before, &self.within);
        let mut after = before.clone();
        merge(&mut after, &self.change);
        let fault = match (&self.outcome, files.load(&after)) {
            (Outcome::Refused(text), Err(error)) => (!error.contains(text)).then_some(error),
            (Outcome::Refused(_), Ok(_)) => Some("it is accepted".to_owned()),
            (_, Err(error)) => Some(error),
            (outcome, Ok(config)) => {
                let with = format!("{config:?}");
                match (outcome, files.load(&before).map(|config| format!("{config:?}"))) {
                    (_, Err(error)) => Some(format!("already what it stands in is refused: {error}")),
                    (Outcome::Shows(text), Ok(without)) => (with == without || !with.contains(text))
                        .then(|| format!("{text:?} does not show in {with}")),
                    (Outcome::Inert(why), Ok(without)) => {
                        assert!(!why.is_empty());
                        (with != without).then(|| format!("something changes: {with}"))
                    }
                    (Outcome::Refused(_), Ok(_)) => unreachable!(),
                }
            }
        };
        fault.map(|fault| format!("{} by {}: {fault}", self.key, self.change))
    }
}

/// Checks rows, and says of all of them at once what is wrong.
pub(crate) fn check(rows: &[Row], files: &Files) {
    let faults: Vec<String> = rows.iter().filter_map(|row| row.fault(files)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

/// A remote server whose callers have tokens.
pub(crate) fn minimal() -> Value {
    json!({
        "schema_version": "v0.1.0", "name": "demo", "transport": "streamable-http",
        "remote_url": "https://mcp.example/mcp", "host": "0.0.0.0", "port": 8080,
        "oidc_config": {"Issuer": "https://idp.example", "Audience": "demo"},
    })
}

/// Files that configurations name. `DIR` in a configuration is where they are.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authz = json!({"version": "1.0", "type": "cedarv1", "cedar": {"policies": ["permit(principal, action, resource);"]}});
        let ca = skep_testkit::tls::TestCa::new().pem();
        for (name, content) in [
            ("ca.pem", ca.as_str()),
            ("other-ca.pem", ca.as_str()),
            ("authz.json", &authz.to_string()),
            ("audit.json", r#"{"component": "from-a-file"}"#),
            ("token", "a-token\n"),
        ] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        Self(folder)
    }

    /// Loads a configuration as the proxy does. The message has every cause.
    pub(crate) fn load(&self, config: &Value) -> Result<ProxyConfig, String> {
        let text = config.to_string().replace("DIR", self.0.path().to_str().unwrap());
        let run = config::parse(text.as_bytes(), "test").map_err(|error| error.to_string())?;
        let variable = |name: &str| match name {
            "TOOLHIVE_SECRET_KEY1" | "TOOLHIVE_SECRET_KEY2" => Some(Secret::new("s3cret-of-the-environment")),
            _ => None,
        };
        let surroundings = Surroundings { variable: &variable, egress: Egress::default() };
        let loaded = ProxyConfig::new(&run, &surroundings);
        if let Ok(config) = &loaded {
            let named = config::named_files(&run);
            assert!(config.files.iter().all(|file| named.contains(file)), "{:?} {named:?}", config.files);
        }
        loaded.map_err(|error| {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            assert!(!text.contains("s3cret"), "{text}");
            text
        })
    }
}

/// The paths of all keys that hold a value: `a.b`, `a.*.b` in a map, `a[]` in a list.
fn keys() -> BTreeSet<String> {
    let schema = schemars::schema_for!(RunConfig).to_value();
    let mut found = BTreeSet::new();
    walk(&schema, &schema, "", &mut found);
    found
}

fn walk(root: &Value, schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').unwrap();
        return walk(root, root.pointer(pointer).unwrap(), path, found);
    }
    for union in ["anyOf", "allOf"] {
        if let Some(members) = schema[union].as_array() {
            for member in members.iter().filter(|member| member["type"] != "null") {
                walk(root, member, path, found);
            }
            return;
        }
    }
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if let Some(members) = schema["properties"].as_object() {
        for (name, member) in members {
            walk(root, member, &join(name), found);
        }
    } else if schema["items"].is_object() || schema["items"] == true {
        walk(root, &schema["items"], &format!("{path}[]"), found);
    } else if schema["additionalProperties"].is_object() {
        walk(root, &schema["additionalProperties"], &join("*"), found);
    } else {
        found.insert(path.to_owned());
    }
}

#[test]
fn every_key_is_honoured_or_refused_or_has_a_reason_to_be_idle() {
    let files = Files::new();
    let mut rows = toolhive::rows();
    rows.extend(ours::rows());
    let known: BTreeSet<String> = rows.iter().map(|row| row.key.to_owned()).collect();
    let keys = keys();
    let missing: Vec<&String> = keys.difference(&known).collect();
    let superfluous: Vec<&String> = known.difference(&keys).collect();
    assert!(missing.is_empty() && superfluous.is_empty(), "no row: {missing:#?}, no key: {superfluous:#?}");
    check(&rows, &files);
}

#[test]
fn a_key_that_nobody_knows_is_refused_wherever_it_stands() {
    let files = Files::new();
    for (change, name) in [
        (json!({"remote_uri": "x"}), "remote_uri"),
        (json!({"oidc_config": {"audience": "x"}}), "audience"),
        (json!({"token_exchange_config": {"scope": "x"}}), "scope"),
        (json!({"aws_sts_config": {"role": "x"}}), "role"),
        (json!({"aws_sts_config": {"role_mappings": [{"claims": "x"}]}}), "claims"),
        (json!({"remote_auth_config": {"bearer": "x"}}), "bearer"),
        (json!({"header_forward": {"headers": {}}}), "headers"),
        (json!({"telemetry_config": {"prometheus_port": 1}}), "prometheus_port"),
        (json!({"audit_config": {"event_types": []}}), "event_types"),
        (json!({"authz_config": {"version": "1.0", "type": "cedarv1", "opa": {}}}), "opa"),
        (json!({"scaling_config": {"replicas": 2}}), "replicas"),
        (json!({"tools_override": {"a": {"title": "x"}}}), "title"),
        (json!({"skep": {"authMode": "anonymous"}}), "authMode"),
        (json!({"skep": {"limits": {"bodyBytes": 1}}}), "bodyBytes"),
        (json!({"skep": {"issuer": {"audience": "x"}}}), "audience"),
        (json!({"skep": {"token_exchange": {"actor": "x"}}}), "actor"),
        (json!({"skep": {"aws": {"endpoint": "x"}}}), "endpoint"),
    ] {
        let mut config = minimal();
        merge(&mut config, &change);
        let error = files.load(&config).expect_err(name);
        assert!(error.contains(name), "{change}: {error}");
    }
}

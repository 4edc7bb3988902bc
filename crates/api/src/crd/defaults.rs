//! ToolHive's defaults in the schemas: a ToolHive operator that runs beside ours, in another namespace, reads
//! objects that these definitions have filled in, and relies on it.
//!
//! A field with two spellings has none: the default of the one would hide what is written in the other. The
//! planner knows all defaults by itself, so that an object means the same when no API server has filled it in.

use serde_json::Value;

use super::Kind;

/// Fields and their defaults. A part is the name of a field; `[]` stands for the entries of a list.
fn table(kind: Kind) -> Vec<(&'static str, Value)> {
    let off = || Value::Bool(false);
    let workload = |transport: &str| {
        vec![
            ("transport", transport.into()),
            ("audit.enabled", off()),
            ("authServerRef.kind", "MCPExternalAuthConfig".into()),
            ("authzConfig.type", "configMap".into()),
            ("authzConfig.configMap.key", "authz.json".into()),
            ("authzConfig.inline.entitiesJson", "[]".into()),
            ("resourceOverrides.proxyDeployment.imagePullSecrets.[].name", "".into()),
            ("sessionAffinity", "ClientIP".into()),
            ("sessionStorage.db", 0.into()),
            ("trustProxyHeaders", off()),
        ]
    };
    match kind {
        Kind::MCPServer => {
            let mut all = workload("stdio");
            all.extend([
                ("permissionProfile.type", "builtin".into()),
                ("proxyMode", "streamable-http".into()),
                ("volumes.[].readOnly", off()),
            ]);
            all
        }
        Kind::MCPRemoteProxy => {
            let mut all = workload("streamable-http");
            all.push(("allowPrivateEndpoint", off()));
            all
        }
        Kind::MCPExternalAuthConfig => vec![
            ("awsSts.roleClaim", "groups".into()),
            ("awsSts.service", "aws-mcp".into()),
            ("awsSts.sessionDuration", 3600.into()),
            ("awsSts.sessionNameClaim", "sub".into()),
            ("embeddedAuthServer.allowConfidentialClientRegistration", off()),
            ("embeddedAuthServer.cimd.enabled", off()),
            ("embeddedAuthServer.disableUpstreamTokenInjection", off()),
            ("embeddedAuthServer.insecureAllowConfidentialOverLoopbackHTTP", off()),
            ("embeddedAuthServer.insecureAllowHTTP", off()),
            ("embeddedAuthServer.storage.redis.dialTimeout", "5s".into()),
            ("embeddedAuthServer.storage.redis.readTimeout", "3s".into()),
            ("embeddedAuthServer.storage.redis.writeTimeout", "3s".into()),
            ("embeddedAuthServer.storage.redis.sentinelConfig.db", 0.into()),
            ("embeddedAuthServer.storage.redis.sentinelConfig.sentinelService.port", 26379.into()),
            ("embeddedAuthServer.storage.type", "memory".into()),
            ("embeddedAuthServer.trustedIssuers.[].allowMayAct", off()),
        ],
        Kind::MCPOIDCConfig => vec![
            ("inline.caBundleRef.configMapRef.name", "".into()),
            ("inline.insecureAllowHTTP", off()),
            ("inline.jwksAllowPrivateIP", off()),
            ("inline.protectedResourceAllowPrivateIP", off()),
            ("kubernetesServiceAccount.issuer", "https://kubernetes.default.svc".into()),
        ],
        Kind::MCPServerEntry => {
            vec![("allowPrivateEndpoint", off()), ("caBundleRef.configMapRef.name", "".into())]
        }
        Kind::MCPTelemetryConfig => vec![
            ("openTelemetry.caBundleRef.configMapRef.name", "".into()),
            ("openTelemetry.enabled", off()),
            ("openTelemetry.insecure", off()),
            ("openTelemetry.metrics.enabled", off()),
            ("openTelemetry.tracing.enabled", off()),
            ("openTelemetry.tracing.samplingRate", "0.05".into()),
            ("openTelemetry.useLegacyAttributes", true.into()),
            ("prometheus.enabled", off()),
        ],
        Kind::MCPWebhookConfig => {
            vec![("mutating.[].failurePolicy", "fail".into()), ("validating.[].failurePolicy", "fail".into())]
        }
        Kind::MCPToolConfig | Kind::MCPAuthzConfig | Kind::MCPGroup => Vec::new(),
    }
}

/// Writes the defaults of a kind into the schema of its spec.
pub(super) fn write(kind: Kind, spec: &mut Value) {
    for (path, default) in table(kind) {
        let mut place = Some(&mut *spec);
        for part in path.split('.') {
            place = place.and_then(|schema| match part {
                "[]" => schema.get_mut("items"),
                name => schema.get_mut("properties").and_then(|properties| properties.get_mut(name)),
            });
        }
        if let Some(field) = place.and_then(Value::as_object_mut) {
            field.insert("default".to_owned(), default);
        }
    }
}

/// Fills a spec in as the API server does: a default where a field is absent or null and what it stands in is
/// there.
pub fn fill_in(kind: Kind, spec: &mut Value) {
    for (path, default) in table(kind) {
        let parts: Vec<&str> = path.split('.').collect();
        fill(spec, &parts, &default);
    }
}

fn fill(value: &mut Value, path: &[&str], default: &Value) {
    match (path, value) {
        (["[]", rest @ ..], Value::Array(entries)) => {
            entries.iter_mut().for_each(|entry| fill(entry, rest, default));
        }
        ([field], Value::Object(members)) => {
            let member = members.entry(*field).or_insert(Value::Null);
            if member.is_null() {
                member.clone_from(default);
            }
        }
        ([field, rest @ ..], Value::Object(members)) => {
            if let Some(member) = members.get_mut(*field) {
                fill(member, rest, default);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd::definition::schema;

    /// Every default of a schema, by its path.
    fn found(schema: &Value, at: &str, into: &mut Vec<(String, Value)>) {
        if let Some(default) = schema.get("default") {
            into.push((at.to_owned(), default.clone()));
        }
        let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
        for (name, member) in schema["properties"].as_object().into_iter().flatten() {
            found(member, &below(name), into);
        }
        if let Some(items) = schema.get("items") {
            found(items, &below("[]"), into);
        }
    }

    #[test]
    fn every_default_has_its_field_and_the_type_of_it() {
        for kind in Kind::ALL {
            let spec = schema(kind)["properties"]["spec"].clone();
            let mut written = Vec::new();
            found(&spec, "", &mut written);
            written.sort_by(|one, other| one.0.cmp(&other.0));
            let mut expected: Vec<(String, Value)> =
                table(kind).into_iter().map(|(path, default)| (path.to_owned(), default)).collect();
            expected.sort_by(|one, other| one.0.cmp(&other.0));
            assert_eq!(written, expected, "{kind}");
        }
    }

    #[test]
    fn a_spec_is_filled_in_where_there_is_something_to_fill_in() {
        let mut spec = json!({"image": "a", "audit": {}, "volumes": [{"name": "v"}, {"readOnly": true}], "transport": null});
        fill_in(Kind::MCPServer, &mut spec);
        assert_eq!(
            spec,
            json!({
                "image": "a", "audit": {"enabled": false}, "transport": "stdio", "proxyMode": "streamable-http",
                "volumes": [{"name": "v", "readOnly": false}, {"readOnly": true}],
                "sessionAffinity": "ClientIP", "trustProxyHeaders": false,
            })
        );
    }
}

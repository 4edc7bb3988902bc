//! MCPTelemetryConfig.

use std::collections::BTreeMap;

use skep_api::crd::Kind;
use skep_api::crd::parse::INVALID_FIELD;
use skep_api::crd::telemetry::{SensitiveHeader, SharedOpenTelemetry, TelemetryConfigSpec};
use url::Url;

use super::findings::Findings;
use super::{Planned, ca_bundle, configs};

const AT: &str = "spec.openTelemetry";

/// Judges an MCPTelemetryConfig by itself.
pub(super) fn plan(config: &TelemetryConfigSpec, mut findings: Findings<'_>) -> Planned {
    if let Some(otel) = &config.open_telemetry {
        endpoint(otel, &mut findings);
        headers(otel, &mut findings);
        for (name, value) in otel.resource_attributes.iter().flatten() {
            if name.trim().is_empty() || name.chars().chain(value.chars()).any(char::is_control) {
                findings.error(
                    format!("{AT}.resourceAttributes"),
                    INVALID_FIELD,
                    "An attribute has a name, and no control characters.",
                );
            }
        }
        ca_bundle::plan(otel.ca_bundle_ref.as_ref(), &format!("{AT}.caBundleRef"), &mut findings);
        if otel.insecure == Some(true)
            && otel.ca_bundle_ref.as_ref().is_some_and(|source| source.config_map_ref.is_some())
        {
            findings.error(
                format!("{AT}.caBundleRef"),
                INVALID_FIELD,
                "With `insecure` the endpoint is spoken to in plain http, which needs no certificates. Remove one of the two.",
            );
        }
    }
    configs::valid(Kind::MCPTelemetryConfig, findings)
}

fn endpoint(otel: &SharedOpenTelemetry, findings: &mut Findings<'_>) {
    let path = format!("{AT}.endpoint");
    let Some(text) = otel.endpoint.as_deref().filter(|text| !text.is_empty()) else { return };
    let traced = otel.tracing.as_ref().is_some_and(|part| part.enabled == Some(true));
    let measured = otel.metrics.as_ref().is_some_and(|part| part.enabled == Some(true));
    if !traced && !measured {
        let message = "An endpoint is given, but neither `metrics` nor `tracing` is enabled.";
        findings.error(&path, INVALID_FIELD, message);
    }
    let url = Url::parse(&if text.contains("://") { text.to_owned() } else { format!("https://{text}") });
    let sound = url.is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    });
    if !sound {
        findings.error(path, INVALID_FIELD, "The endpoint is `host:port`, with or without `https://` before it; credentials go into `sensitiveHeaders`.");
    }
}

fn headers(otel: &SharedOpenTelemetry, findings: &mut Findings<'_>) {
    // In lower case: names of headers that differ in case alone are one.
    let mut seen = BTreeMap::new();
    for (name, value) in otel.headers.iter().flatten() {
        let path = format!("{AT}.headers.{name}");
        header_name(name, &path, findings);
        if value.chars().any(|c| c.is_control() && c != '\t') {
            findings.error(&path, INVALID_FIELD, "A header's value can't hold control characters.");
        }
        let lower = name.to_ascii_lowercase();
        if ["authorization", "api-key", "apikey", "token", "secret"].iter().any(|word| lower.contains(word)) {
            findings.warning(&path, "SecretInManifest", "This looks like a secret, and everybody who can read the object can read it. Use `sensitiveHeaders`.");
        }
        if seen.insert(lower, name.clone()).is_some() {
            findings.error(path, "DuplicateEntry", "This header is set already; keep one.");
        }
    }
    for (index, header) in otel.sensitive_headers.iter().flatten().enumerate() {
        let path = format!("{AT}.sensitiveHeaders[{index}]");
        let at_name = format!("{path}.name");
        header_name(&header.name, &at_name, findings);
        let secret = &header.secret_key_ref;
        findings.secret(&format!("{path}.secretKeyRef"), "SecretNotFound", &secret.name, &secret.key);
        if let Some(other) = seen.insert(header.name.to_ascii_lowercase(), header.name.clone()) {
            let message = format!("The header `{other}` is set already, in `headers` or here; keep one.");
            findings.error(&at_name, "DuplicateEntry", message);
        }
        let earlier = otel.sensitive_headers.iter().flatten().take(index);
        let shared = |other: &&SensitiveHeader| {
            variable(&other.name) == variable(&header.name) && !other.name.eq_ignore_ascii_case(&header.name)
        };
        if let Some(other) = earlier.into_iter().find(shared) {
            let message = format!(
                "The secrets of `{}` and `{}` would share one environment variable, because `-` and `_` become the same there. Rename one.",
                other.name, header.name
            );
            findings.error(at_name, "DuplicateEntry", message);
        }
    }
}

fn header_name(name: &str, path: &str, findings: &mut Findings<'_>) {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(token) {
        let message = format!("`{}` is not the name of a header (RFC 9110 §5.1).", name.escape_debug());
        findings.error(path, INVALID_FIELD, message);
    }
}

/// The environment variable of the proxy that carries a header's secret value.
pub(super) fn variable(header: &str) -> String {
    let shouted: String = header
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    format!("TOOLHIVE_OTEL_HEADER_{shouted}")
}

//! What a proxy leans on besides its backend: telemetry and the session store.

use serde_json::{Value, json};
use skep_api::crd::parse::{CONFLICTING_FIELDS, INVALID_FIELD};
use skep_api::crd::pod::{EmbeddedTelemetry, SessionProvider, SessionStorage};
use skep_api::crd::reference::TelemetryConfigRef;
use skep_api::crd::telemetry::{SharedOpenTelemetry, TelemetryConfigSpec};
use skep_api::crd::{Kind, Spec};
use skep_api::names::OTEL_CA_DIR;
use skep_api::runconfig::TelemetryConfig;

use super::findings::{Findings, Reasons};
use super::outgoing::NOT_YET_RUNNABLE;
use super::{EnvSource, FileSource, KeySource, telemetry};

/// Reasons of `telemetryConfigRef`.
const TELEMETRY_REF: Reasons = Reasons {
    condition: "TelemetryConfigRefValidated",
    valid: "TelemetryConfigRefValid",
    not_found: "TelemetryConfigRefNotFound",
    not_valid: "TelemetryConfigRefInvalid",
};

/// Share of requests that are traced, when nothing else is said.
const SAMPLING_RATE: &str = "0.05";

/// Metrics and traces of one proxy.
#[derive(Debug, Default)]
pub(super) struct Telemetry {
    /// For the RunConfig; none when nothing is turned on.
    pub(super) config: Option<TelemetryConfig>,
    /// Headers with secret values.
    pub(super) env: Vec<EnvSource>,
    /// CA certificates for the endpoint.
    pub(super) files: Vec<FileSource>,
}

/// Metrics and traces, from the block in the manifest or from the MCPTelemetryConfig that it names.
pub(super) fn telemetry(
    name: &str,
    embedded: Option<&EmbeddedTelemetry>,
    reference: Option<&TelemetryConfigRef>,
    findings: &mut Findings<'_>,
) -> Telemetry {
    let Some(reference) = reference else {
        let config = embedded.and_then(|embedded| written_here(name, embedded, findings));
        return Telemetry { config, ..Telemetry::default() };
    };
    let path = "spec.telemetryConfigRef";
    if embedded.is_some() {
        findings.error(
            path,
            CONFLICTING_FIELDS,
            "`telemetry` and `telemetryConfigRef` are both given. Keep one.",
        );
    }
    let at_name = format!("{path}.name");
    let found = findings.config(Kind::MCPTelemetryConfig, &reference.name, &at_name, TELEMETRY_REF);
    match found.map(|object| &object.spec) {
        Some(Spec::Telemetry(config)) => {
            let service = reference.service_name.as_deref().filter(|service| !service.is_empty());
            shared(service.unwrap_or(name), config, path, findings)
        }
        _ => Telemetry::default(),
    }
}

/// What an MCPTelemetryConfig means for one proxy. It is valid.
fn shared(service: &str, config: &TelemetryConfigSpec, path: &str, findings: &mut Findings<'_>) -> Telemetry {
    let prometheus = config.prometheus.as_ref().and_then(|part| part.enabled).unwrap_or(false);
    let otel = config.open_telemetry.as_ref().filter(|otel| otel.enabled.unwrap_or(false));
    if otel.is_none() && !prometheus {
        return Telemetry::default();
    }
    let mut made = TelemetryConfig {
        service_name: service.to_owned(),
        enable_prometheus_metrics_path: prometheus,
        ..TelemetryConfig::default()
    };
    let Some(otel) = otel else { return Telemetry { config: Some(made), ..Telemetry::default() } };
    nothing_is_sent(path, findings);
    made.insecure = otel.insecure.unwrap_or(false);
    made.metrics_enabled = otel.metrics.as_ref().and_then(|part| part.enabled).unwrap_or(false);
    let tracing = otel.tracing.clone().unwrap_or_default();
    made.tracing_enabled = tracing.enabled.unwrap_or(false);
    made.sampling_rate = tracing.sampling_rate.unwrap_or_else(|| SAMPLING_RATE.to_owned());
    made.headers = otel.headers.clone().unwrap_or_default();
    made.custom_attributes = otel.resource_attributes.clone().unwrap_or_default();
    made.use_legacy_attributes = Some(otel.use_legacy_attributes.unwrap_or(true));
    let files: Vec<FileSource> = certificates(otel).into_iter().collect();
    made.ca_cert_path = files.first().map(|file| file.path.clone()).unwrap_or_default();
    let env = otel
        .sensitive_headers
        .iter()
        .flatten()
        .map(|header| EnvSource {
            name: telemetry::variable(&header.name),
            secret: header.secret_key_ref.name.clone(),
            key: header.secret_key_ref.key.clone(),
        })
        .collect();
    Telemetry { config: Some(made), env, files }
}

fn certificates(otel: &SharedOpenTelemetry) -> Option<FileSource> {
    let reference = otel.ca_bundle_ref.as_ref()?.config_map_ref.as_ref()?;
    let (name, key) = (reference.name.clone(), reference.key.clone().unwrap_or_else(|| "ca.crt".to_owned()));
    let path = format!("{OTEL_CA_DIR}/{name}/{key}");
    Some(FileSource { path, source: KeySource::ConfigMap { name, key } })
}

/// The `telemetry` block of 2025.
fn written_here(
    name: &str,
    embedded: &EmbeddedTelemetry,
    findings: &mut Findings<'_>,
) -> Option<TelemetryConfig> {
    let prometheus = embedded.prometheus.as_ref().and_then(|part| part.enabled).unwrap_or(false);
    let otel = embedded.open_telemetry.clone().filter(|otel| otel.enabled.unwrap_or(false));
    if otel.is_none() && !prometheus {
        return None;
    }
    let mut config = TelemetryConfig {
        service_name: name.to_owned(),
        enable_prometheus_metrics_path: prometheus,
        ..TelemetryConfig::default()
    };
    let Some(otel) = otel else { return Some(config) };
    let at = "spec.telemetry.openTelemetry";
    nothing_is_sent(at, findings);
    let endpoint = otel.endpoint.unwrap_or_default();
    config.service_name = otel.service_name.filter(|name| !name.is_empty()).unwrap_or(config.service_name);
    config.insecure = otel.insecure.unwrap_or(false);
    config.metrics_enabled = otel.metrics.and_then(|part| part.enabled).unwrap_or(false);
    let tracing = otel.tracing.unwrap_or_default();
    config.tracing_enabled = tracing.enabled.unwrap_or(false);
    config.sampling_rate = tracing.sampling_rate.unwrap_or_else(|| SAMPLING_RATE.to_owned());
    if config.sampling_rate.parse::<f64>().map_or(true, |rate| !(0.0..=1.0).contains(&rate)) {
        findings.error(
            format!("{at}.tracing.samplingRate"),
            INVALID_FIELD,
            "The sampling rate is a number from 0 to 1, in quotes.",
        );
    }
    if !endpoint.is_empty() && !config.metrics_enabled && !config.tracing_enabled {
        findings.error(
            at,
            INVALID_FIELD,
            "An endpoint is given, but neither `metrics` nor `tracing` is enabled.",
        );
    }
    for (index, header) in otel.headers.unwrap_or_default().into_iter().enumerate() {
        match header.split_once('=') {
            Some((key, value)) => {
                config.headers.insert(key.to_owned(), value.to_owned());
            }
            None => findings.error(
                format!("{at}.headers[{index}]"),
                INVALID_FIELD,
                "A header is written as `name=value`.",
            ),
        }
    }
    Some(config)
}

/// The proxy refuses to start with an endpoint, so its configuration has none: telemetry is not worth an outage.
fn nothing_is_sent(path: &str, findings: &mut Findings<'_>) {
    findings.warning(
        path,
        NOT_YET_RUNNABLE,
        "The proxy of this version sends nothing over OTLP yet, so `endpoint` is left out of its configuration. Prometheus metrics are always served.",
    );
}

/// Variable that says under which name, and where, a proxy reports.
pub(super) const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";

/// The value of [`RESOURCE_ATTRIBUTES`].
pub(super) fn resource_attributes(config: &TelemetryConfig, namespace: &str) -> String {
    // What separates attributes is percent-encoded (OpenTelemetry, resource SDK).
    let service: String = config
        .service_name
        .chars()
        .map(|c| match c {
            ',' | '=' | '%' | ' ' | '"' | ';' | '\\' => format!("%{:02X}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    format!("service.name={service},service.namespace={namespace}")
}

/// The session store, and the password's variable.
pub(super) fn sessions(
    storage: Option<&SessionStorage>,
    findings: &mut Findings<'_>,
) -> (Option<Value>, Option<EnvSource>) {
    let Some(storage) = storage.filter(|storage| storage.provider == SessionProvider::Redis) else {
        return (None, None);
    };
    let at = "spec.sessionStorage";
    let Some(address) = storage.address.as_deref().filter(|address| !address.is_empty()) else {
        findings.error(format!("{at}.address"), INVALID_FIELD, "The address of Redis is missing.");
        return (None, None);
    };
    findings.warning(
        at,
        NOT_YET_RUNNABLE,
        "This is planned, but the proxy of this version keeps no sessions in Redis yet and refuses to start with it.",
    );
    let env = storage.password_ref.as_ref().map(|secret| {
        findings.secret(&format!("{at}.passwordRef"), "SecretNotFound", &secret.name, &secret.key);
        EnvSource {
            name: "THV_SESSION_REDIS_PASSWORD".to_owned(),
            secret: secret.name.clone(),
            key: secret.key.clone(),
        }
    });
    let redis = json!({
        "address": address,
        "db": storage.db.unwrap_or(0),
        "key_prefix": storage.key_prefix.clone().unwrap_or_default(),
    });
    (Some(redis), env)
}

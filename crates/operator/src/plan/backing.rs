//! What a proxy leans on besides its backend: telemetry and the session store.

use serde_json::{Value, json};
use skep_api::crd::parse::{CONFLICTING_FIELDS, INVALID_FIELD};
use skep_api::crd::pod::{EmbeddedTelemetry, SessionProvider, SessionStorage};
use skep_api::crd::reference::TelemetryConfigRef;
use skep_api::runconfig::TelemetryConfig;

use super::EnvSource;
use super::findings::Findings;
use super::outgoing::NOT_YET_RUNNABLE;

/// Metrics and traces.
pub(super) fn telemetry(
    name: &str,
    embedded: Option<&EmbeddedTelemetry>,
    reference: Option<&TelemetryConfigRef>,
    findings: &mut Findings<'_>,
) -> Option<TelemetryConfig> {
    if reference.is_some() {
        if embedded.is_some() {
            findings.error(
                "spec.telemetryConfigRef",
                CONFLICTING_FIELDS,
                "`telemetry` and `telemetryConfigRef` are both given. Keep one.",
            );
        }
        findings.warning(
            "spec.telemetryConfigRef",
            NOT_YET_RUNNABLE,
            "This version does not read MCPTelemetryConfig yet; metrics are served as without it.",
        );
    }
    let embedded = embedded?;
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
    if let Some(otel) = otel {
        let at = "spec.telemetry.openTelemetry";
        findings.warning(
            at,
            NOT_YET_RUNNABLE,
            "This is planned, but the proxy of this version sends nothing over OTLP yet and refuses to start with an endpoint. Prometheus metrics are always served.",
        );
        let endpoint = otel.endpoint.unwrap_or_default();
        config.endpoint = endpoint.trim_start_matches("https://").trim_start_matches("http://").to_owned();
        config.service_name =
            otel.service_name.filter(|name| !name.is_empty()).unwrap_or(config.service_name);
        config.insecure = otel.insecure.unwrap_or(false);
        config.metrics_enabled = otel.metrics.and_then(|part| part.enabled).unwrap_or(false);
        let tracing = otel.tracing.unwrap_or_default();
        config.tracing_enabled = tracing.enabled.unwrap_or(false);
        config.sampling_rate = tracing.sampling_rate.unwrap_or_else(|| "0.05".to_owned());
        if config.sampling_rate.parse::<f64>().map_or(true, |rate| !(0.0..=1.0).contains(&rate)) {
            findings.error(
                format!("{at}.tracing.samplingRate"),
                INVALID_FIELD,
                "The sampling rate is a number from 0 to 1, in quotes.",
            );
        }
        if !config.endpoint.is_empty() && !config.metrics_enabled && !config.tracing_enabled {
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
    }
    Some(config)
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

//! ServiceMonitors, by which the Prometheus operator finds what to scrape.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use skep_api::names;
use skep_api::runconfig::RunConfig;

use super::super::Settings;
use super::metadata::Owner;

/// Port on which a proxy reports and serves metrics.
pub(super) fn diagnostics_port(config: &RunConfig) -> u16 {
    let said = config.telemetry_config.as_ref().map(|telemetry| telemetry.prometheus_port);
    said.filter(|port| *port != 0).unwrap_or(names::DIAGNOSTICS_PORT)
}

/// True when the manifest asks for metrics in Prometheus' format.
pub(super) fn wants_metrics(config: &RunConfig) -> bool {
    config.telemetry_config.as_ref().is_some_and(|telemetry| telemetry.enable_prometheus_metrics_path)
}

/// The ServiceMonitor of a proxy, where the cluster knows them and the manifest asks for metrics. Metrics are
/// served beside the Service's port, so the pod's port is named.
pub(super) fn monitor(
    owner: &Owner<'_>,
    labels: &BTreeMap<String, String>,
    settings: &Settings,
    config: &RunConfig,
) -> Option<Value> {
    (settings.service_monitors && wants_metrics(config)).then(|| {
        json!({
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "ServiceMonitor",
            "metadata": owner.metadata(owner.name, labels, &BTreeMap::new()),
            "spec": {
                "selector": {"matchLabels": labels},
                "namespaceSelector": {"matchNames": [owner.namespace]},
                "endpoints": [{"targetPort": names::METRICS_PORT_NAME, "path": "/metrics", "interval": "30s"}],
            },
        })
    })
}

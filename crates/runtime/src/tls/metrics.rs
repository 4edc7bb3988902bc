//! Metrics of one serving certificate.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::certificate::Certificate;
use crate::metrics::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// The families. Clones are the same families.
#[derive(Debug, Clone, Default)]
pub struct CertificateMetrics {
    expiry: Gauge,
    reloads: Family<Outcome, Counter>,
}

impl CertificateMetrics {
    /// Registers them under a prefix such as `skep_webhook`: `PREFIX_certificate_expiry_timestamp_seconds` and
    /// `PREFIX_certificate_reloads_total`, by outcome `loaded` or `refused`.
    pub fn register(registry: &Metrics, prefix: &str) -> Self {
        let metrics = Self::default();
        registry.register(
            &format!("{prefix}_certificate_expiry_timestamp_seconds"),
            "When the certificate that is presented ends, in seconds since 1970; 0 while there is none",
            metrics.expiry.clone(),
        );
        registry.register(
            &format!("{prefix}_certificate_reloads"),
            "New versions of the certificate, by what became of them: loaded or refused",
            metrics.reloads.clone(),
        );
        // What never happened is 0, not absent: an alert on a rate needs a first value.
        for outcome in ["loaded", "refused"] {
            let _ = metrics.reloads.get_or_create(&Outcome { outcome });
        }
        metrics
    }

    pub(super) fn loaded(&self, certificate: &Certificate) {
        self.expiry.set(certificate.not_after().as_second());
        self.reloads.get_or_create(&Outcome { outcome: "loaded" }).inc();
    }

    pub(super) fn refused(&self) {
        self.reloads.get_or_create(&Outcome { outcome: "refused" }).inc();
    }
}

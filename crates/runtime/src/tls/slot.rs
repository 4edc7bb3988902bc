//! The place where new versions of a certificate arrive.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::certificate::Certificate;
use super::metrics::CertificateMetrics;
use super::serving::ServingCertificate;
use crate::clock::SharedClock;
use crate::health::Readiness;
use crate::logging::chain;

/// The part of readiness and of warnings that is about the certificate.
pub const PART: &str = "certificate";

/// The part of warnings that is about the end of the certificate.
const END: &str = "certificate end";

/// Takes new versions of a certificate: a good one is presented from then on, a bad one is refused, told and
/// counted, and the one before stays. Clones are the same place.
#[derive(Debug, Clone)]
pub struct CertificateSlot {
    serving: ServingCertificate,
    readiness: Readiness,
    metrics: CertificateMetrics,
    clock: SharedClock,
    /// Why the last version was refused; empty when it was not.
    refused: Arc<Mutex<String>>,
}

impl CertificateSlot {
    /// A place for versions of what `serving` presents. Not ready until there is one.
    pub fn new(
        serving: ServingCertificate,
        readiness: Readiness,
        metrics: CertificateMetrics,
        clock: SharedClock,
    ) -> Self {
        if serving.current().is_none() {
            readiness.not_ready(PART, "there is no certificate yet");
        }
        Self { serving, readiness, metrics, clock, refused: Arc::default() }
    }

    /// What time it is, which decides what is valid.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What is presented.
    pub fn serving(&self) -> &ServingCertificate {
        &self.serving
    }

    /// Takes what was read last. The same again changes nothing and is not counted again. True when something
    /// is presented that was not before.
    pub fn offer<E: Error>(&self, read: Result<Certificate, E>) -> bool {
        let changed = match read {
            Ok(certificate) => self.take(certificate),
            Err(error) => {
                self.refuse(&chain(&error));
                false
            }
        };
        self.look();
        changed
    }

    /// Says why there is nothing to take, without counting it as a refused version.
    pub fn missing(&self, why: &str) {
        if self.serving.current().is_none() {
            self.readiness.not_ready(PART, why);
        } else {
            self.readiness.warn(PART, format!("{why}; the certificate of before is still presented"));
        }
        self.look();
    }

    /// Warns when what is presented is about to end, or has ended.
    pub fn look(&self) {
        let Some(current) = self.serving.current() else { return };
        let (now, end) = (self.now(), current.not_after());
        let left = end.duration_since(now);
        let life = end.duration_since(current.not_before());
        if left < SignedDuration::ZERO {
            self.readiness.warn(END, format!("the certificate that is presented expired at {end}"));
        } else if left < life / 10 {
            self.readiness.warn(END, format!("the certificate that is presented expires at {end}; renew it"));
        } else {
            self.readiness.unwarn(END);
        }
    }

    fn take(&self, certificate: Certificate) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.readiness.ready(PART);
        self.readiness.unwarn(PART);
        let changed = self.serving.set(certificate);
        if changed && let Some(current) = self.serving.current() {
            self.metrics.loaded(&current);
            tracing::info!(
                names = current.names().join(" "),
                not_after = %current.not_after(),
                "a certificate is presented"
            );
        }
        changed
    }

    fn refuse(&self, why: &str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if *refused != why {
            why.clone_into(&mut refused);
            self.metrics.refused();
            tracing::warn!(error = why, "a certificate was refused");
        }
        drop(refused);
        if self.serving.current().is_none() {
            self.readiness.not_ready(PART, why);
        } else {
            let warning = format!("a new certificate was refused, the one before is still presented: {why}");
            self.readiness.warn(PART, warning);
        }
    }
}

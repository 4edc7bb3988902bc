//! Certificates of listeners, read again when their files change.
//!
//! A listener is given a [`ServingCertificate`] once; what it presents is exchanged under it, without a
//! connection noticing. What may go in goes through a [`CertificateSlot`], which refuses what no client would
//! accept and keeps what is there.

mod certificate;
mod files;
mod metrics;
mod serving;
mod slot;

pub use self::certificate::{Certificate, TlsError, load};
pub use self::files::{CertificateFiles, watch_files};
pub use self::metrics::CertificateMetrics;
pub use self::serving::{ServingCertificate, provider};
pub use self::slot::{CertificateSlot, PART};

//! What a client thinks of a certificate.

use std::time::Duration;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;

/// Whether a client that trusts the CAs in `bundle` accepts `leaf`, both PEM, for this name.
pub(crate) fn trusts(bundle: &[u8], leaf: &[u8], name: &str, now: Timestamp) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(bundle).flatten());
    let Ok(leaf) = CertificateDer::from_pem_slice(leaf) else { return false };
    let Ok(leaf) = ParsedCertificate::try_from(&leaf) else { return false };
    let now = UnixTime::since_unix_epoch(Duration::try_from(now.as_duration()).unwrap());
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    verify_server_cert_signed_by_trust_anchor(&leaf, &roots, &[], now, algorithms.all).is_ok()
        && verify_server_name(&leaf, &ServerName::try_from(name).unwrap()).is_ok()
}

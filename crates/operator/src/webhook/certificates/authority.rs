//! Makes CAs and the certificates that they sign (RFC 5280): ECDSA P-256, random serial numbers, valid since a
//! little before now, for clocks that are behind.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use skep_api::secret::Secret;
use skep_runtime::rng::SharedRng;
use thiserror::Error;

/// How much earlier than it was made a certificate is valid.
pub(super) const BACKDATED: Duration = Duration::from_secs(300);

/// Shorter makes no sense: it would be renewed all the time.
const SHORTEST: Duration = Duration::from_secs(10);
/// A hundred years. Times past the year 9999 can't be written down.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Why a certificate could not be made.
#[derive(Debug, Error)]
#[error("a {what} could not be made")]
pub struct MakeError {
    /// `CA` or `certificate`.
    what: &'static str,
    /// Why; nothing of a key.
    source: rcgen::Error,
}

/// A certificate and its key, PEM.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) certificate: String,
    pub(super) key: Secret,
}

/// Makes a CA that can sign certificates and no further CAs.
pub(super) fn authority(validity: Duration, now: Timestamp, rng: &SharedRng) -> Result<Made, MakeError> {
    let failed = |source| MakeError { what: "CA", source };
    let serial = serial(rng);
    // Each CA has a name of its own: a verifier looks for the issuer of a certificate by name.
    let short: String = serial.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut params = params(&format!("skep webhook CA {short}"), &serial, now, end(now, validity));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(made(&certificate, &key))
}

/// Makes a server certificate for these names. It doesn't outlive its CA, which ends at `last`.
pub(super) fn server(
    names: &[String],
    validity: Duration,
    (authority, authority_key): (&CertificateDer<'_>, &Secret),
    last: Timestamp,
    now: Timestamp,
    rng: &SharedRng,
) -> Result<Made, MakeError> {
    let failed = |source| MakeError { what: "certificate", source };
    let signer = KeyPair::from_pem(authority_key.expose()).map_err(failed)?;
    let issuer = Issuer::from_ca_cert_der(authority, signer).map_err(failed)?;
    let mut params = params("skep webhook", &serial(rng), now, end(now, validity).min(last));
    params.subject_alt_names = CertificateParams::new(names).map_err(failed)?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    Ok(made(&certificate, &key))
}

/// The public key of a private one, as a certificate holds it; nothing when it is no key.
pub(super) fn public_key(key: &str) -> Option<Vec<u8>> {
    KeyPair::from_pem(key).ok().map(|key| key.public_key_raw().to_vec())
}

fn params(name: &str, serial: &[u8], now: Timestamp, end: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.not_before = date_time_ymd(1970, 1, 1) + since_1970(now).saturating_sub(BACKDATED);
    params.not_after = date_time_ymd(1970, 1, 1) + since_1970(end);
    params
}

fn made(certificate: &Certificate, key: &KeyPair) -> Made {
    Made { certificate: certificate.pem(), key: Secret::new(key.serialize_pem()) }
}

/// When what is made now ends. Certificates count in seconds.
fn end(now: Timestamp, validity: Duration) -> Timestamp {
    let seconds = validity.clamp(SHORTEST, LONGEST).as_secs();
    let end = now.as_second().saturating_add(i64::try_from(seconds).unwrap_or(0));
    Timestamp::from_second(end).unwrap_or(now)
}

fn since_1970(time: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0))
}

/// 127 random bits. The number is positive and has no leading zeros (RFC 5280 §4.1.2.2).
fn serial(rng: &SharedRng) -> [u8; 16] {
    let mut serial = [0_u8; 16];
    rng.fill(&mut serial);
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject as _;
    use skep_runtime::rng::SystemRng;
    use skep_runtime::tls::load;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn der(made: &Made) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap()
    }

    fn signed(ca: &Made, validity: Duration, last: Timestamp, now: Timestamp) -> Made {
        let names = ["webhook.system.svc".to_owned()];
        server(&names, validity, (&der(ca), &ca.key), last, now, &SystemRng::shared()).unwrap()
    }

    #[test]
    fn a_certificate_is_what_an_api_server_accepts_and_no_more() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let ca = authority(10 * DAY, now, &SystemRng::shared()).unwrap();
        let leaf = signed(&ca, DAY, Timestamp::MAX, now);
        let (ca_der, leaf_der) = (der(&ca), der(&leaf));
        let (ca_read, leaf_read) =
            (X509Certificate::from_der(&ca_der).unwrap().1, X509Certificate::from_der(&leaf_der).unwrap().1);
        let constraints = ca_read.basic_constraints().unwrap().unwrap().value;
        assert!(constraints.ca && constraints.path_len_constraint == Some(0));
        let usage = ca_read.key_usage().unwrap().unwrap().value;
        assert!(usage.key_cert_sign() && !usage.digital_signature());
        assert!(!leaf_read.is_ca());
        let usage = leaf_read.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign());
        let extended = leaf_read.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && !extended.client_auth && !extended.any);
        assert_eq!(leaf_read.issuer(), ca_read.subject());
        assert_ne!(leaf_read.issuer(), leaf_read.subject());
        assert_eq!(leaf_read.raw_serial().len(), 16);
        assert_ne!(leaf_read.raw_serial(), ca_read.raw_serial());
        let other = authority(10 * DAY, now, &SystemRng::shared()).unwrap();
        let other = der(&other);
        let other = X509Certificate::from_der(&other).unwrap().1;
        assert_ne!(other.subject(), ca_read.subject(), "each CA has its own name");
    }

    #[test]
    fn times_are_bounded_whatever_is_asked_for() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (now, validity) in [
            (now, Duration::ZERO),
            (now, Duration::MAX),
            (Timestamp::MIN, DAY),
            (Timestamp::UNIX_EPOCH, DAY),
            (Timestamp::MAX, DAY),
        ] {
            let ca = authority(validity, now, &SystemRng::shared()).unwrap();
            X509Certificate::from_der(&der(&ca)).unwrap();
        }
        let ca = authority(DAY, now, &SystemRng::shared()).unwrap();
        let last = now.checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
        let leaf = signed(&ca, DAY, last, now);
        let leaf = load(leaf.certificate.as_bytes(), leaf.key.expose().as_bytes(), now).unwrap();
        assert_eq!(leaf.not_after(), last, "it does not outlive its CA");
    }

    #[test]
    fn a_key_does_not_show() {
        let made = authority(DAY, Timestamp::UNIX_EPOCH, &SystemRng::shared()).unwrap();
        let shown = format!("{made:?}");
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
        assert!(made.key.expose().contains("PRIVATE KEY"));
    }
}

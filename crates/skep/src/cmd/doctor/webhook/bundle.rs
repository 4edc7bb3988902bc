//! A caBundle: whom the API server trusts when it calls a webhook.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::parse_x509_certificate;

/// A CA that ends sooner is told of.
const SOON: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A CA that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ca {
    /// When the last of its certificates ends.
    pub(super) until: Timestamp,
    /// That is soon.
    pub(super) soon: bool,
}

/// Why a caBundle is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it has no caBundle, so that the API server trusts no webhook")]
    Missing,
    #[error("its caBundle is no certificate in PEM")]
    Unreadable,
    #[error("its CA ended at {0}")]
    Expired(Timestamp),
    #[error("its CA is valid from {0} only")]
    NotYet(Timestamp),
}

/// Reads a caBundle as it stands in a configuration.
///
/// # Errors
/// When no certificate in it is valid now.
pub(super) fn read(bundle: &str, now: Timestamp) -> Result<Ca, Unusable> {
    if bundle.is_empty() {
        return Err(Unusable::Missing);
    }
    let pem = STANDARD.decode(bundle).map_err(|_| Unusable::Unreadable)?;
    let mut times = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| Unusable::Unreadable)?;
        let (_, parsed) = parse_x509_certificate(&certificate).map_err(|_| Unusable::Unreadable)?;
        let validity = parsed.validity();
        times.push((time(validity.not_before.timestamp()), time(validity.not_after.timestamp())));
    }
    let valid = times.iter().filter(|(from, until)| *from <= now && now <= *until);
    if let Some(until) = valid.map(|(_, until)| *until).max() {
        return Ok(Ca { until, soon: until.duration_since(now) < SOON });
    }
    if let Some(from) = times.iter().map(|(from, _)| *from).filter(|from| now < *from).min() {
        return Err(Unusable::NotYet(from));
    }
    Err(times.iter().map(|(_, until)| *until).max().map_or(Unusable::Unreadable, Unusable::Expired))
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

#[cfg(test)]
mod tests {
    use skep_testkit::TestCa;

    use super::*;

    #[test]
    fn a_bundle_is_as_good_as_its_best_certificate() {
        // The test's CA is valid from 1975 to 4096.
        let pem = TestCa::new().pem();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let ca = read(&STANDARD.encode(&pem), now).expect("valid");
        assert!(!ca.soon);
        let before = ca.until.checked_sub(SignedDuration::from_hours(24)).expect("a time");
        assert!(read(&STANDARD.encode(&pem), before).expect("valid").soon);
        let after = ca.until.checked_add(SignedDuration::from_hours(24)).expect("a time");
        assert_eq!(read(&STANDARD.encode(&pem), after), Err(Unusable::Expired(ca.until)));
        let early: Timestamp = "1900-01-01T00:00:00Z".parse().expect("a time");
        assert!(matches!(read(&STANDARD.encode(&pem), early), Err(Unusable::NotYet(_))));
        assert_eq!(read("", now), Err(Unusable::Missing));
        for broken in ["%", "", "no certificate"] {
            let expected = if broken.is_empty() { Unusable::Missing } else { Unusable::Unreadable };
            let encoded = if broken == "%" { broken.to_owned() } else { STANDARD.encode(broken) };
            assert_eq!(read(&encoded, now), Err(expected));
        }
    }
}

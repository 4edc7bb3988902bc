//! A certificate that can be presented, with the key that belongs to it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::serving::provider;

/// Why a certificate can't be presented. No variant holds anything of the key.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{} can't be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no certificate where one should be.
    #[error("there is no certificate: a block BEGIN CERTIFICATE is expected")]
    NoCertificate,
    /// There is no key where one should be.
    #[error("there is no private key: a block BEGIN PRIVATE KEY is expected, not encrypted")]
    NoKey,
    /// What should be PEM is something else.
    #[error("the {what} is not PEM")]
    Pem {
        /// `certificate` or `private key`.
        what: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// The certificate can't be read.
    #[error("the certificate is malformed")]
    Malformed,
    /// The key is of a kind that is not supported, or broken.
    #[error(
        "the private key can't be used; ECDSA (P-256, P-384, P-521), Ed25519 and RSA (2048 bits or more) can"
    )]
    Key {
        /// Why.
        source: rustls::Error,
    },
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// A certificate that names nobody: clients no longer look at the common name.
    #[error("the certificate has no subject alternative name, so no client accepts it")]
    NoNames,
    /// A certificate that is over.
    #[error("the certificate expired at {at}")]
    Expired {
        /// When.
        at: Timestamp,
    },
    /// A certificate whose time has not come.
    #[error("the certificate is valid only from {at}; is the clock of this machine right?")]
    NotYetValid {
        /// When.
        at: Timestamp,
    },
    /// The TLS library refused its own settings.
    #[error("TLS can't be set up")]
    Setup {
        /// Why.
        source: rustls::Error,
    },
}

/// A certificate chain and its key, checked by [`load`].
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Reads a certificate chain, leaf first, and its key, both PEM. `now` decides whether it is valid.
///
/// # Errors
/// When a client could not accept it: something is missing or malformed, the key belongs to another
/// certificate, there is no subject alternative name, or it is expired or not yet valid.
pub fn load(certificate_pem: &[u8], key_pem: &[u8], now: Timestamp) -> Result<Certificate, TlsError> {
    let chain = CertificateDer::pem_slice_iter(certificate_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem { what: "certificate", source })?;
    let leaf = chain.first().ok_or(TlsError::NoCertificate)?;
    let Facts { names, not_before, not_after } = Facts::of(leaf)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey,
        source => TlsError::Pem { what: "private key", source },
    })?;
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|source| match source {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch,
        rustls::Error::InvalidCertificate(_) => TlsError::Malformed,
        source => TlsError::Key { source },
    })?;
    if names.is_empty() {
        return Err(TlsError::NoNames);
    }
    if now < not_before {
        return Err(TlsError::NotYetValid { at: not_before });
    }
    if now > not_after {
        return Err(TlsError::Expired { at: not_after });
    }
    Ok(Certificate { key: Arc::new(key), names, not_before, not_after })
}

impl Certificate {
    /// DNS names and addresses that it is for, sorted.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// From when on it is valid.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The chain, leaf first, DER.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    pub(super) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }
}

impl PartialEq for Certificate {
    /// The same chain; a key belongs to its certificate.
    fn eq(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("names", &self.names)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// What a certificate says of itself.
struct Facts {
    names: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Facts {
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, TlsError> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| TlsError::Malformed)?;
        let alternative = parsed.subject_alternative_name().map_err(|_| TlsError::Malformed)?;
        let mut names: Vec<String> = alternative
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                GeneralName::IPAddress(bytes) => address(bytes),
                _ => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        let time = |seconds| Timestamp::from_second(seconds).map_err(|_| TlsError::Malformed);
        Ok(Self {
            names,
            not_before: time(parsed.validity().not_before.timestamp())?,
            // A date past all dates (RFC 5280 §4.1.2.5: 99991231235959Z) is the last there is.
            not_after: time(parsed.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX),
        })
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(four).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| std::net::Ipv6Addr::from(sixteen).to_string())
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;
    use skep_testkit::{TestCa, tls::pem};

    use super::*;
    use crate::clock::{Clock as _, SystemClock};

    #[test]
    fn what_no_client_would_accept_is_not_loaded() {
        let now = SystemClock.now();
        let ca = TestCa::new();
        let (good, other) = (ca.server(&["a.example", "127.0.0.1", "::1"]), ca.server(&["b.example"]));
        let nameless = ca.client("a client", None);
        let (certificate, key) = (good.certificate_pem.as_str(), good.key_pem.as_str());
        let junk = pem("CERTIFICATE", b"not a certificate");
        let broken_key = pem("PRIVATE KEY", b"not a key");
        let cut = certificate.replace("-----END CERTIFICATE-----", "");
        let fine = load(certificate.as_bytes(), key.as_bytes(), now).unwrap();
        assert_eq!(fine.names(), ["127.0.0.1", "::1", "a.example"]);
        for (what, certificate, key, refused) in [
            ("empty", "", key, "there is no certificate"),
            ("a key for a certificate", key, key, "there is no certificate"),
            ("cut off", cut.as_str(), key, "the certificate is not PEM"),
            ("junk", junk.as_str(), key, "the certificate is malformed"),
            ("no key", certificate, "", "there is no private key"),
            ("a certificate for a key", certificate, certificate, "there is no private key"),
            ("a broken key", certificate, broken_key.as_str(), "the private key can't be used"),
            ("another's key", certificate, other.key_pem.as_str(), "the private key does not belong"),
            (
                "no names",
                nameless.certificate_pem.as_str(),
                nameless.key_pem.as_str(),
                "the certificate has no subject alternative name",
            ),
        ] {
            let error = load(certificate.as_bytes(), key.as_bytes(), now).unwrap_err();
            assert!(error.to_string().starts_with(refused), "{what}: {error}");
        }
    }

    #[test]
    fn a_certificate_is_loaded_only_while_it_is_valid() {
        let ca = TestCa::new();
        let good = ca.server(&["a.example"]);
        let (certificate, key) = (good.certificate_pem.as_bytes(), good.key_pem.as_bytes());
        let fine = load(certificate, key, SystemClock.now()).unwrap();
        let (first, last) = (fine.not_before(), fine.not_after());
        assert!(load(certificate, key, first).is_ok() && load(certificate, key, last).is_ok());
        let early = load(certificate, key, first - 1.second()).unwrap_err();
        assert!(matches!(early, TlsError::NotYetValid { at } if at == first), "{early}");
        let late = load(certificate, key, last + 1.second()).unwrap_err();
        assert!(matches!(late, TlsError::Expired { at } if at == last), "{late}");
    }

    #[test]
    fn a_key_is_never_shown() {
        let good = TestCa::new().server(&["a.example"]);
        let loaded =
            load(good.certificate_pem.as_bytes(), good.key_pem.as_bytes(), SystemClock.now()).unwrap();
        let shown = format!("{loaded:?}");
        assert!(shown.starts_with("Certificate { names: [\"a.example\"]"), "{shown}");
        assert!(!shown.to_lowercase().contains("key"), "{shown}");
    }
}

//! What is in the Secret, and what of it can be used.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use skep_api::secret::Secret;
use skep_runtime::tls::{Certificate, TlsError, load, provider};
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authority::public_key;

/// Certificates of all CAs that the API server shall trust, the one that signs first.
pub(super) const CA_CERTIFICATE: &str = "ca.crt";
/// Key of the CA that signs.
pub(super) const CA_KEY: &str = "ca.key";
/// The certificate that is presented.
pub(super) const CERTIFICATE: &str = "tls.crt";
/// Its key.
pub(super) const KEY: &str = "tls.key";

/// More CAs than this are not announced. There are two at a time, more only when a Secret was broken again and
/// again.
const AUTHORITIES: usize = 8;

/// Why the certificate in the Secret is not presented.
#[derive(Debug, Error)]
pub enum LeafError {
    /// There is none.
    #[error("the Secret holds no certificate yet")]
    Absent,
    /// It can't be presented at all.
    #[error("the certificate in the Secret can't be used")]
    Unusable {
        /// Why.
        source: TlsError,
    },
    /// The API server would not trust it.
    #[error("the certificate in the Secret is of none of the CAs in it, or not for servers")]
    Untrusted {
        /// Why.
        source: rustls::Error,
    },
}

/// A CA that the API server shall trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    public_key: Vec<u8>,
}

/// What is in the Secret.
#[derive(Debug)]
pub(super) struct Kept {
    /// CAs that are not over, the one that signs first.
    pub(super) authorities: Vec<Authority>,
    /// Key of the first of them; none when that can't sign.
    pub(super) signing_key: Option<Secret>,
    /// What can be presented.
    pub(super) leaf: Result<Certificate, LeafError>,
    /// Whether `leaf` was signed by the first CA.
    pub(super) current: bool,
    /// Whether the Secret names CAs that are over, or anything else that is not among `authorities`.
    pub(super) leftovers: bool,
}

impl Kept {
    /// Reads a Secret's data. Never fails: what can't be used counts as absent.
    pub(super) fn read(data: &BTreeMap<String, ByteString>, now: Timestamp) -> Self {
        let bytes = |key: &str| data.get(key).map_or([].as_slice(), |value| value.0.as_slice());
        let mut authorities = authorities(bytes(CA_CERTIFICATE), now);
        let named = STANDARD.encode(bytes(CA_CERTIFICATE));
        let key = std::str::from_utf8(bytes(CA_KEY)).unwrap_or_default();
        let signer = public_key(key)
            .and_then(|public| authorities.iter().position(|authority| authority.public_key == public));
        if let Some(signer) = signer {
            // Whoever reordered them by hand changed nothing else.
            authorities.swap(0, signer);
        }
        let leaf = leaf(bytes(CERTIFICATE), bytes(KEY), &authorities, now);
        let current = signer.is_some()
            && leaf.as_ref().is_ok_and(|leaf| trusted(leaf, authorities.iter().take(1), now).is_ok());
        let leftovers = STANDARD.encode(bundle(&authorities)) != named;
        let signing_key = signer.map(|_| Secret::new(key));
        Self { authorities, signing_key, leaf, current, leftovers }
    }

    /// The CA that signs, and its key.
    pub(super) fn signer(&self) -> Option<(&Authority, &Secret)> {
        self.authorities.first().zip(self.signing_key.as_ref())
    }

    /// All CAs as the API server gets them.
    pub(super) fn bundle(&self) -> String {
        bundle(&self.authorities)
    }
}

/// CAs in PEM that are not over, each once, the last ones left out where there are too many. What is something
/// else is skipped.
pub(super) fn authorities(pem: &[u8], now: Timestamp) -> Vec<Authority> {
    let mut found: Vec<Authority> = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem).flatten() {
        let Some(authority) = authority(certificate) else { continue };
        if authority.not_after > now && !found.contains(&authority) && found.len() < AUTHORITIES {
            found.push(authority);
        }
    }
    found
}

/// CAs as PEM (RFC 7468).
pub(super) fn bundle(authorities: &[Authority]) -> String {
    authorities.iter().map(|authority| pem(&authority.certificate)).collect()
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn authority(certificate: CertificateDer<'static>) -> Option<Authority> {
    let (not_before, not_after, public_key) = {
        let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
        if !parsed.is_ca() {
            return None;
        }
        let time = |seconds| Timestamp::from_second(seconds).ok();
        (
            time(parsed.validity().not_before.timestamp())?,
            time(parsed.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX),
            parsed.public_key().subject_public_key.data.to_vec(),
        )
    };
    Some(Authority { certificate, not_before, not_after, public_key })
}

fn leaf(
    certificate: &[u8],
    key: &[u8],
    authorities: &[Authority],
    now: Timestamp,
) -> Result<Certificate, LeafError> {
    if certificate.is_empty() && key.is_empty() {
        return Err(LeafError::Absent);
    }
    let leaf = load(certificate, key, now).map_err(|source| LeafError::Unusable { source })?;
    trusted(&leaf, authorities.iter(), now).map_err(|source| LeafError::Untrusted { source })?;
    Ok(leaf)
}

/// Whether a client that trusts these CAs would accept a certificate, its name aside.
fn trusted<'a>(
    leaf: &Certificate,
    authorities: impl Iterator<Item = &'a Authority>,
    now: Timestamp,
) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities.map(|authority| authority.certificate.clone()));
    let mut chain = leaf.chain().iter();
    let Some(first) = chain.next() else { return Err(rustls::Error::NoCertificatesPresented) };
    let others: Vec<CertificateDer<'_>> = chain.cloned().collect();
    let now = UnixTime::since_unix_epoch(Duration::try_from(now.as_duration()).unwrap_or_default());
    let algorithms = provider().signature_verification_algorithms;
    let first = ParsedCertificate::try_from(first)?;
    verify_server_cert_signed_by_trust_anchor(&first, &roots, &others, now, algorithms.all)
}

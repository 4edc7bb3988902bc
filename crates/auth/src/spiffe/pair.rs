//! Whether a private key belongs to the certificate that came with it.

use ::spiffe::X509Svid;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

/// Why a certificate and a key are no pair.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    #[error("the private key of {id} is of a kind that is not supported")]
    Key {
        id: String,
        #[source]
        source: rustls::Error,
    },
    #[error("the private key of {id} is not that of its certificate")]
    Mismatch { id: String },
}

/// Checks that the private key of an X.509-SVID is that of its leaf certificate, which the agent promises but
/// nobody else looks at.
///
/// # Errors
/// When it is not, or is of a kind that nothing here could use.
pub fn check_pair(svid: &X509Svid) -> Result<(), PairError> {
    let id = || svid.spiffe_id().to_string();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.private_key().as_bytes()));
    let key = any_supported_type(&key).map_err(|source| PairError::Key { id: id(), source })?;
    let leaf = CertificateDer::from(svid.leaf().as_bytes().to_vec());
    CertifiedKey::new(vec![leaf], key).keys_match().map_err(|_| PairError::Mismatch { id: id() })
}

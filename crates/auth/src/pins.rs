//! Servers that must show one certain key or certificate, besides being trusted like any other.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;
use skep_api::secret::Secret;

type Sha256 = [u8; 32];

/// What the certificate of a server must be or have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins {
    /// SHA-256 of public keys (SubjectPublicKeyInfo), of which the server's must be one.
    keys: Vec<Sha256>,
    /// SHA-256 of the server's certificate.
    certificate: Option<Sha256>,
}

/// Why a pin can't be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{value:?} is not a SHA-256 digest in base64 or hex")]
pub struct PinError {
    /// As it was written.
    pub value: String,
}

/// Why there can be no TLS with pins.
#[derive(Debug, thiserror::Error)]
pub enum PinnedTlsError {
    #[error("the CA certificates or the client certificate cannot be read: they must be PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("there is no CA certificate in what was given for some")]
    NoCa,
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

impl Pins {
    /// Reads pins: digests of public keys, and that of a certificate, which is empty when there is none.
    /// Each is base64 or hex, with or without `sha256/` before it or colons in it, as other tools print it.
    ///
    /// # Errors
    /// When one of them is no digest.
    pub fn parse(keys: &[String], certificate: &str) -> Result<Self, PinError> {
        let certificate = match certificate.trim() {
            "" => None,
            text => Some(digest(text)?),
        };
        Ok(Self { keys: keys.iter().map(|text| digest(text)).collect::<Result<_, _>>()?, certificate })
    }

    /// True when nothing is pinned.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.certificate.is_none()
    }

    /// TLS that trusts what the machine and `ca_pem` trust, if it is pinned too.
    pub(crate) fn tls(
        &self,
        ca_pem: Option<&[u8]>,
        identity_pem: Option<&Secret>,
    ) -> Result<ClientConfig, PinnedTlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certificates = |pem: &[u8]| {
            CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(PinnedTlsError::Pem)
        };
        let roots = match ca_pem.map(certificates).transpose()? {
            Some(none) if none.is_empty() => return Err(PinnedTlsError::NoCa),
            roots => roots.unwrap_or_default(),
        };
        let verifier = PinningVerifier {
            inner: Verifier::new_with_extra_roots(roots, Arc::clone(&provider))
                .map_err(PinnedTlsError::Tls)?,
            pins: self.clone(),
            provider: Arc::clone(&provider),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(PinnedTlsError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        match identity_pem {
            None => Ok(builder.with_no_client_auth()),
            Some(pem) => {
                let bytes = pem.expose().as_bytes();
                let key = PrivateKeyDer::from_pem_slice(bytes).map_err(PinnedTlsError::Pem)?;
                builder.with_client_auth_cert(certificates(bytes)?, key).map_err(PinnedTlsError::Tls)
            }
        }
    }

    /// Only the server's own certificate counts: an issuing one that it sends along proves nothing.
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        // As text, since the error that has a place for a reason shows it in the form for debugging only.
        let refuse =
            |what| Err(rustls::Error::General(format!("the server's {what} is not one that is pinned")));
        if self.certificate.is_some_and(|pinned| pinned != sha256(certificate)) {
            return refuse("certificate");
        }
        if !self.keys.is_empty() {
            let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
            if !self.keys.contains(&sha256(&key)) {
                return refuse("public key");
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct PinningVerifier {
    inner: Verifier,
    pins: Pins,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinningVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        self.pins.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn digest(text: &str) -> Result<Sha256, PinError> {
    let bare = text.trim();
    let bare = bare.strip_prefix("sha256/").or_else(|| bare.strip_prefix("sha256:")).unwrap_or(bare);
    let bare = bare.trim_start_matches('/');
    let plain = bare.trim_end_matches('=');
    let decoded = hex(&bare.replace(':', ""))
        .or_else(|| STANDARD_NO_PAD.decode(plain).ok())
        .or_else(|| URL_SAFE_NO_PAD.decode(plain).ok());
    decoded.and_then(|bytes| Sha256::try_from(bytes).ok()).ok_or_else(|| PinError { value: text.to_owned() })
}

/// Hex digits of exactly 32 bytes; base64 of 32 bytes has other lengths.
fn hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    (0..64).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

fn sha256(bytes: &[u8]) -> Sha256 {
    let mut digest = [0; 32];
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    digest
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn a_pin_is_read_as_other_tools_print_it() {
        let bytes: Sha256 = std::array::from_fn(|at| u8::try_from(at * 8).unwrap() | 3);
        let plain: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let colons = bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
        let base64 = STANDARD.encode(bytes);
        let spellings = [
            plain.clone(),
            plain.to_uppercase(),
            colons,
            format!("sha256:{plain}"),
            base64.clone(),
            base64.trim_end_matches('=').to_owned(),
            URL_SAFE_NO_PAD.encode(bytes),
            format!("sha256/{base64}"),
            format!("sha256//{base64}"),
            format!(" {base64}\n"),
        ];
        for text in spellings {
            let pins = Pins::parse(std::slice::from_ref(&text), "").unwrap();
            assert_eq!(pins.keys, [bytes], "{text}");
            assert_eq!(Pins::parse(&[], &text).unwrap().certificate, Some(bytes), "{text}");
        }
        let longer = STANDARD.encode([0; 33]);
        let shorter = STANDARD.encode([0; 31]);
        for text in ["x", "sha256/", "abcd", &"ab".repeat(31), &shorter, &longer, &format!("{plain}00")] {
            assert!(Pins::parse(&[text.to_owned()], "").is_err(), "{text}");
        }
        assert!(Pins::parse(&[String::new()], "").is_err(), "an empty pin would pin nothing");
        assert!(Pins::parse(&[], "").unwrap().is_empty());
    }
}

//! What a listener presents, exchangeable while it serves.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use super::certificate::{Certificate, TlsError};

/// The cryptography that every listener uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The certificate that a listener presents from now on. Clones are the same one.
///
/// Connections that are open keep what they were opened with; none is closed by an exchange.
#[derive(Clone, Default)]
pub struct ServingCertificate {
    current: Arc<ArcSwapOption<Certificate>>,
}

impl ServingCertificate {
    /// Nothing yet: every handshake fails until there is something.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Presents `certificate` from now on. False when it is the one that is presented already.
    pub fn set(&self, certificate: Certificate) -> bool {
        if self.current.load().as_deref() == Some(&certificate) {
            return false;
        }
        self.current.store(Some(Arc::new(certificate)));
        true
    }

    /// What is presented now.
    pub fn current(&self) -> Option<Arc<Certificate>> {
        self.current.load_full()
    }

    /// Until when what is presented now is valid.
    pub fn not_after(&self) -> Option<Timestamp> {
        self.current.load().as_ref().map(|certificate| certificate.not_after())
    }

    /// Settings of a listener that presents it: TLS 1.2 and 1.3, HTTP/1.1 by ALPN (RFC 7301), no client
    /// certificates.
    ///
    /// # Errors
    /// When the TLS library refuses its own settings, which a test rules out.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|source| TlsError::Setup { source })?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A session that is resumed shows no certificate. After an exchange every client shall judge the new
        // one, not find out later; and those that come here keep their connections anyway.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load().as_ref().map(|certificate| certificate.certified_key())
    }
}

impl fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServingCertificate").field(&self.current.load().as_deref()).finish()
    }
}

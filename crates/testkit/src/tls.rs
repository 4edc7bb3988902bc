//! A certificate authority of the test's own, and servers that speak TLS with it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// A certificate authority (ECDSA P-256).
pub struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct TestCertificate {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// Its private key, PKCS#8, PEM.
    pub key_pem: String,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// How a server speaks TLS.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
}

impl TestCa {
    /// Makes one.
    pub fn new() -> Self {
        let mut params = params("test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key of a CA");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate of a CA") }
    }

    /// Its certificate, PEM: what a client is told to trust.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", self.issuer.der())
    }

    /// A server certificate for these names and addresses.
    pub fn server(&self, names: &[&str]) -> TestCertificate {
        let mut params = params("test server");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        params.subject_alt_names =
            CertificateParams::new(names).expect("names of a server").subject_alt_names;
        self.issue(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client certificate with this common name and, where given, this URI (a SPIFFE ID).
    pub fn client(&self, name: &str, uri: Option<&str>) -> TestCertificate {
        let mut params = params(name);
        if let Some(uri) = uri {
            params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("an ASCII URI"))];
        }
        self.issue(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> TestCertificate {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        TestCertificate {
            certificate_pem: pem("CERTIFICATE", certificate.der()),
            key_pem: pem("PRIVATE KEY", key.serialized_der()),
            certificate: certificate.der().to_vec(),
            key: key.serialize_der(),
        }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a usable CA certificate");
        Arc::new(roots)
    }
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}

impl TestCertificate {
    /// The certificate, DER.
    pub fn der(&self) -> &[u8] {
        &self.certificate
    }
}

impl Tls {
    /// A server with a certificate of `ca` for 127.0.0.1, ::1 and localhost, that asks for no client
    /// certificate.
    pub fn new(ca: &TestCa) -> Self {
        Self::with(&ca.server(&["127.0.0.1", "::1", "localhost"]))
    }

    /// A server with this certificate.
    pub fn with(certificate: &TestCertificate) -> Self {
        Self::build(certificate, &[], |builder| builder.with_no_client_auth())
    }

    /// A server with this certificate that sends others along, of which it has no keys.
    pub fn with_others(certificate: &TestCertificate, others: &[&TestCertificate]) -> Self {
        Self::build(certificate, others, |builder| builder.with_no_client_auth())
    }

    /// A server as of [`Tls::new`] that ends every handshake without a client certificate of `clients`.
    pub fn requiring_clients(ca: &TestCa, clients: &TestCa) -> Self {
        let verifier = WebPkiClientVerifier::builder_with_provider(clients.roots(), provider())
            .build()
            .expect("a verifier of clients");
        let certificate = ca.server(&["127.0.0.1", "::1", "localhost"]);
        Self::build(&certificate, &[], |builder| builder.with_client_cert_verifier(verifier))
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    fn build(
        certificate: &TestCertificate,
        others: &[&TestCertificate],
        clients: impl FnOnce(
            rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>,
        ) -> rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>,
    ) -> Self {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("protocol versions of the provider");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certificate.key.clone()));
        let chain = std::iter::once(&certificate).chain(others).map(|one| one.certificate.clone().into());
        let config =
            clients(builder).with_single_cert(chain.collect(), key).expect("a certificate and its key");
        Self { acceptor: TlsAcceptor::from(Arc::new(config)) }
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}

/// Wraps DER as PEM (RFC 7468).
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).unwrap_or("")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

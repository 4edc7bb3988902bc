use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use skep_testkit::{FakeIdp, ManualClock, Reply, ScriptedServer, TestCa, TestCertificate, Tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What a client that trusts `ca` and shows `certificate` reads after one GET, or why it can't.
async fn get(
    server: &ScriptedServer,
    ca: &TestCa,
    certificate: Option<&TestCertificate>,
) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let chain = vec![CertificateDer::from_pem_slice(own.certificate_pem.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let stream = TcpStream::connect(server.address()).await?;
    let name = "127.0.0.1".try_into().unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    stream.flush().await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

fn closing(text: &str) -> Reply {
    Reply::body(200, "text/plain", text.to_owned()).step(skep_testkit::Step::Close)
}

#[tokio::test]
async fn a_server_over_tls_is_trusted_by_its_ca_alone() {
    let ca = TestCa::new();
    let server = ScriptedServer::start_tls(&Tls::new(&ca), |_| closing("hello")).await;
    assert!(server.url("/x").starts_with("https://127.0.0.1:"));
    // The script closes without close_notify, which the client may report after it has read everything.
    let _ = get(&server, &ca, None).await;
    assert_eq!(server.requests().len(), 1);
    assert_eq!(server.requests()[0].client_certificate, None);
    assert!(get(&server, &TestCa::new(), None).await.is_err());
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_server_that_requires_clients_serves_those_of_its_ca() {
    let (ca, clients) = (TestCa::new(), TestCa::new());
    let server =
        ScriptedServer::start_tls(&Tls::requiring_clients(&ca, &clients), |_| closing("hello")).await;
    assert!(get(&server, &ca, None).await.is_err());
    let stranger = TestCa::new().client("stranger", None);
    assert!(get(&server, &ca, Some(&stranger)).await.is_err());
    assert_eq!(server.requests().len(), 0);
    let own = clients.client("proxy", Some("spiffe://example.org/ns/a/sa/b"));
    let _ = get(&server, &ca, Some(&own)).await;
    assert_eq!(server.requests()[0].client_certificate.as_deref(), Some(own.der()));
}

#[tokio::test]
async fn an_identity_provider_speaks_tls_too() {
    let ca = TestCa::new();
    let idp = FakeIdp::over_tls(Arc::new(ManualClock::default()), &Tls::new(&ca)).await;
    assert!(idp.issuer().starts_with("https://127.0.0.1:"));
    assert!(idp.jwks_url().starts_with(idp.issuer()));
}

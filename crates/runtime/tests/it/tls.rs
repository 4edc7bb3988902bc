//! The HTTP server over TLS: handshakes, an exchange of the certificate under load, drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Request, Response};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use skep_runtime::clock::{Clock as _, SystemClock};
use skep_runtime::drain::{Drain, Phase};
use skep_runtime::http::{Ends, HttpLimits, Load, Tls, bind, full, serve_tls};
use skep_runtime::tls::{ServingCertificate, load, provider};
use skep_testkit::{TestCa, TestCertificate};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const NAME: &str = "webhook.example";

struct Listener {
    address: SocketAddr,
    certificate: ServingCertificate,
    tls: Tls,
    drain: Drain,
    load: Load,
    serving: JoinHandle<()>,
}

fn listen(tls_timeout: Duration) -> Listener {
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let certificate = ServingCertificate::empty();
    let tls = Tls::new(certificate.server_config().unwrap()).with_handshake_timeout(tls_timeout);
    let (drain, load) = (Drain::new(), Load::default());
    let handler = Arc::new(async |request: Request<Incoming>, _: Ends| {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(full(body))
    });
    let serving = tokio::spawn(serve_tls(
        socket,
        tls.clone(),
        handler,
        HttpLimits::default(),
        drain.watch(),
        load.clone(),
    ));
    Listener { address, certificate, tls, drain, load, serving }
}

impl Listener {
    fn present(&self, certificate: &TestCertificate) {
        let (chain, key) = (certificate.certificate_pem.as_bytes(), certificate.key_pem.as_bytes());
        self.certificate.set(load(chain, key, SystemClock.now()).unwrap());
    }

    async fn connect(&self, client: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        client.connect(ServerName::try_from(NAME).unwrap(), stream).await
    }

    async fn failures(&self, wanted: u64) {
        let waited = async {
            while self.tls.failures() < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("failed handshakes are counted", waited).await;
        assert_eq!(self.tls.failures(), wanted);
    }
}

fn client(cas: &[&TestCa], alpn: &[&str], versions: &[&'static SupportedProtocolVersion]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for ca in cas {
        roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

fn any_client(ca: &TestCa) -> TlsConnector {
    client(&[ca], &["h2", "http/1.1"], rustls::ALL_VERSIONS)
}

/// Sends a body and reads it back.
async fn echo(stream: &mut TlsStream<TcpStream>, body: &str) -> std::io::Result<String> {
    let request = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(std::io::Error::other("the connection ended before the answer"));
        }
        answer.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((_, got)) = text.split_once("\r\n\r\n")
            && got.len() >= body.len()
        {
            return Ok(got.to_owned());
        }
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(15), future).await {
        Ok(value) => value,
        Err(_) => panic!("still waiting: {what}"),
    }
}

#[tokio::test]
async fn requests_are_answered_over_tls_1_2_and_1_3_with_http_1_1() {
    let (listener, ca) = (listen(Duration::from_secs(5)), TestCa::new());
    listener.present(&ca.server(&[NAME]));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut stream = listener.connect(&client(&[&ca], &["h2", "http/1.1"], &[version])).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        for body in ["one", "another on the same connection", &"x".repeat(100_000)] {
            assert_eq!(soon("an answer", echo(&mut stream, body)).await.unwrap(), body);
        }
    }
    // A client that names no protocol speaks HTTP/1.1.
    let mut stream = listener.connect(&client(&[&ca], &[], rustls::ALL_VERSIONS)).await.unwrap();
    assert_eq!(echo(&mut stream, "plain").await.unwrap(), "plain");
    assert_eq!(listener.tls.failures(), 0);
}

#[tokio::test]
async fn a_handshake_that_fails_is_counted_and_hurts_nobody_else() {
    let (listener, ca) = (listen(Duration::from_millis(200)), TestCa::new());
    assert!(listener.connect(&any_client(&ca)).await.is_err(), "there is no certificate yet");
    listener.failures(1).await;
    listener.present(&ca.server(&[NAME]));
    let mut good = listener.connect(&any_client(&ca)).await.unwrap();
    // Only h2, which is not spoken here.
    assert!(listener.connect(&client(&[&ca], &["h2"], rustls::ALL_VERSIONS)).await.is_err());
    listener.failures(2).await;
    // No TLS at all.
    let mut plain = TcpStream::connect(listener.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("it is closed", plain.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP"));
    listener.failures(3).await;
    // Nothing at all.
    let mut silent = TcpStream::connect(listener.address).await.unwrap();
    let _ = soon("it is closed", silent.read_to_end(&mut answer)).await;
    listener.failures(4).await;
    assert_eq!(echo(&mut good, "still here").await.unwrap(), "still here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_exchanged_under_load_without_a_failed_request() {
    let listener = listen(Duration::from_secs(5));
    let (old, new) = (TestCa::new(), TestCa::new());
    listener.present(&old.server(&[NAME]));
    // Both are announced before the second is presented.
    let client = client(&[&old, &new], &["http/1.1"], rustls::ALL_VERSIONS);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut standing = listener.connect(&client).await.unwrap();
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (client, address) = (client.clone(), listener.address);
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let mut presented = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let stream = TcpStream::connect(address).await.unwrap();
                    let name = ServerName::try_from(NAME).unwrap();
                    let mut stream = client.connect(name, stream).await.unwrap();
                    let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
                    if presented.last() != Some(&leaf) {
                        presented.push(leaf);
                    }
                    assert_eq!(echo(&mut stream, "load").await.unwrap(), "load");
                    done.fetch_add(1, Ordering::SeqCst);
                }
                presented.len()
            })
        })
        .collect();
    let more = async |count: usize| {
        let wanted = done.load(Ordering::SeqCst) + count;
        while done.load(Ordering::SeqCst) < wanted {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    for ca in [&new, &old, &new] {
        soon("load", more(20)).await;
        listener.present(&ca.server(&[NAME]));
    }
    soon("load", more(20)).await;
    stop.store(true, Ordering::SeqCst);
    for worker in workers {
        assert!(soon("a worker", worker).await.unwrap() >= 2, "it saw the exchange");
    }
    assert_eq!(echo(&mut standing, "kept").await.unwrap(), "kept", "an open connection is left alone");
    assert_eq!(listener.tls.failures(), 0);
}

#[tokio::test]
async fn a_drain_closes_idle_connections_and_those_in_a_handshake_are_cut_off_at_its_end() {
    let (listener, ca) = (listen(Duration::from_secs(600)), TestCa::new());
    listener.present(&ca.server(&[NAME]));
    let mut idle = listener.connect(&any_client(&ca)).await.unwrap();
    assert_eq!(echo(&mut idle, "x").await.unwrap(), "x");
    let _silent = TcpStream::connect(listener.address).await.unwrap();
    let both = async {
        while listener.load.connections() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("both are accepted", both).await;
    listener.drain.advance(Phase::Draining);
    let mut rest = Vec::new();
    // A session that is closed in order: no error.
    assert_eq!(soon("the idle one is closed", idle.read_to_end(&mut rest)).await.unwrap(), 0);
    assert!(!listener.serving.is_finished());
    listener.drain.advance(Phase::Stopped);
    soon("it has ended", listener.serving).await.unwrap();
}

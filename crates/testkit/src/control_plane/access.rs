//! Who may speak to the API server, and a client that does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use skep_runtime::rng::SystemRng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::raw::find;
use crate::tls::TestCa;

/// Users who may do nothing until RBAC says so.
const SPARE_USERS: usize = 10;

/// Certificates, keys and tokens of a control plane, and where they are written.
pub(super) struct Access {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) tokens: PathBuf,
    pub(super) service_account_key: PathBuf,
    pub(super) service_account_certificate: PathBuf,
    port: u16,
    url: String,
    ca_pem: String,
    users: Vec<User>,
    tls: TlsConnector,
}

struct User {
    name: String,
    groups: &'static str,
    token: String,
}

impl Access {
    /// Makes all of them for an API server on this port and writes them into a folder.
    pub(super) fn prepare(folder: &Path, port: u16) -> Self {
        let ca = TestCa::new();
        let server = ca.server(&["127.0.0.1", "localhost", "kubernetes.default.svc"]);
        // Its key signs the tokens of service accounts; its certificate is how the public key is told.
        let issuer = ca.client("service accounts", None);
        let users = users();
        let rows: String = users
            .iter()
            .map(|user| format!("{},{},{},\"{}\"\n", user.token, user.name, user.name, user.groups))
            .collect();
        Self {
            certificate: write(folder, "server.crt", &server.certificate_pem),
            key: write(folder, "server.key", &server.key_pem),
            tokens: write(folder, "tokens.csv", &rows),
            service_account_key: write(folder, "service-accounts.key", &issuer.key_pem),
            service_account_certificate: write(folder, "service-accounts.crt", &issuer.certificate_pem),
            port,
            url: format!("https://127.0.0.1:{port}"),
            tls: connector(&ca.pem()),
            ca_pem: ca.pem(),
            users,
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub(super) fn token_for(&self, user: &str) -> &str {
        let known = self.users.iter().find(|known| known.name == user);
        &known
            .unwrap_or_else(|| panic!("there is no user {user}; there are admin, nobody and u0 to u9"))
            .token
    }

    /// Writes a kubeconfig file with a bearer token. JSON is YAML.
    pub(super) fn kubeconfig(&self, folder: &Path, token: &str) -> PathBuf {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {
                "server": self.url,
                "certificate-authority-data": STANDARD.encode(&self.ca_pem),
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
        });
        write(folder, &format!("kubeconfig-{}", random_hex(6)), &config.to_string())
    }

    /// Sends a request on a connection of its own and reads the answer.
    pub(super) async fn request(
        &self,
        token: &str,
        method: &str,
        path: &str,
        content_type: &str,
        body: &str,
    ) -> std::io::Result<(u16, Value, Vec<String>)> {
        // In HTTP/1.0 the end of the connection ends the body; TLS tells it from a connection that broke.
        let mut head = format!("{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\n", self.port);
        head.push_str(&format!("Accept: application/json\r\nAuthorization: Bearer {token}\r\n"));
        if !content_type.is_empty() {
            head.push_str(&format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len()));
        }
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let name = "127.0.0.1".try_into().expect("an address");
        let mut stream = self.tls.connect(name, stream).await?;
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).await?;
        // What TLS has taken need not be sent yet, and reading sends nothing.
        stream.flush().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        parse(&answer).ok_or_else(|| std::io::Error::other("an answer that is no HTTP"))
    }
}

/// `length` random bytes in hexadecimal.
pub(super) fn random_hex(length: usize) -> String {
    let mut bytes = vec![0; length];
    SystemRng::shared().fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn users() -> Vec<User> {
    let user = |name: &str, groups| User { name: name.to_owned(), groups, token: random_hex(16) };
    let spare = (0..SPARE_USERS).map(|number| user(&format!("u{number}"), "testers"));
    [user("admin", "system:masters"), user("nobody", "")].into_iter().chain(spare).collect()
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).expect("a file in a folder of our own");
    path
}

fn connector(ca_pem: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).expect("a CA certificate");
    roots.add(ca).expect("a usable CA certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions of the provider")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Status, body, and what the fields `Warning` say.
fn parse(answer: &[u8]) -> Option<(u16, Value, Vec<String>)> {
    let end = find(answer, b"\r\n\r\n")?;
    let (head, body) = (&answer[..end], &answer[end + 4..]);
    let head = String::from_utf8_lossy(head);
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let text = || Value::String(String::from_utf8_lossy(body).into_owned());
    let warnings = head.lines().filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("warning").then(|| unquoted(value))
    });
    let warnings = warnings.collect();
    Some((status, serde_json::from_slice(body).unwrap_or_else(|_| text()), warnings))
}

/// The text of `299 - "text"` (RFC 7234 §5.5).
fn unquoted(value: &str) -> String {
    let text = value.split_once('"').map_or(value, |(_, text)| text);
    text.strip_suffix('"').unwrap_or(text).replace("\\\"", "\"").replace("\\\\", "\\")
}

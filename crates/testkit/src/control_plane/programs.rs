//! The command lines of the programs.

use std::path::{Path, PathBuf};

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::access::Access;
use super::assets::{Assets, knows};

/// What all command lines have in common.
pub(super) struct Layout {
    pub(super) assets: Assets,
    pub(super) folder: PathBuf,
    pub(super) etcd_url: String,
}

/// A port of 127.0.0.1 that nobody else gets while the API server is stopped. Nobody listens there until a
/// program does that shares it on purpose (`SO_REUSEPORT`).
pub(super) struct HeldPort {
    socket: Socket,
}

impl HeldPort {
    /// Takes one that is free.
    pub(super) fn take() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("a port that can be shared");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("bind to loopback");
        Self { socket }
    }

    pub(super) fn number(&self) -> u16 {
        let address = self.socket.local_addr().ok().and_then(|address| address.as_socket());
        address.expect("a bound address").port()
    }
}

impl Layout {
    pub(super) fn log(&self, program: &str) -> PathBuf {
        self.folder.join(format!("{program}.log"))
    }

    /// The arguments of kube-apiserver.
    pub(super) fn api_server(&self, access: &Access, port: u16) -> Vec<String> {
        vec![
            format!("--etcd-servers={}", self.etcd_url),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            "--permit-port-sharing=true".to_owned(),
            // There is nobody to reach it from elsewhere, and a machine without a network has no other address.
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--cert-dir={}", self.folder.display()),
            format!("--tls-cert-file={}", access.certificate.display()),
            format!("--tls-private-key-file={}", access.key.display()),
            format!("--token-auth-file={}", access.tokens.display()),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-signing-key-file={}", access.service_account_key.display()),
            format!("--service-account-key-file={}", access.service_account_certificate.display()),
            // Pods can be made without a controller that first makes their service accounts.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/16".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--max-requests-inflight=3000".to_owned(),
            "--max-mutating-requests-inflight=1500".to_owned(),
            "--profiling=false".to_owned(),
        ]
    }

    /// The arguments of kube-controller-manager.
    pub(super) fn controller_manager(&self, kubeconfig: &Path, controllers: &[&str]) -> Vec<String> {
        let mut arguments = vec![
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--controllers={}", controllers.join(",")),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
        ];
        // Until 1.23 there was a second port, open to the world by default.
        let program = self.assets.controller_manager.as_deref();
        if program.is_some_and(|program| knows(program, "--port int")) {
            arguments.push("--port=0".to_owned());
        }
        arguments
    }
}

/// The arguments of etcd.
pub(super) fn etcd(data: &Path, port: u16, peer_port: u16, assets: &Assets) -> Vec<String> {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut arguments = vec![
        format!("--data-dir={}", data.display()),
        "--name=test".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=test={peer}"),
    ];
    if assets.etcd_skips_fsync() {
        arguments.push("--unsafe-no-fsync=true".to_owned());
    }
    arguments
}

/// Whether somebody answers a plain GET with 200.
pub(super) async fn answers(port: u16, path: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    ask.await.is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
}

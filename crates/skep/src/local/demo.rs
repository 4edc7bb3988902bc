//! The demo: an identity provider, an MCP server and the manifest in front of them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use skep_api::secret::Secret;
use skep_authserver::clients::{Client, GrantType};
use skep_authserver::{AuthServer, Config, Issuer};
use skep_runtime::clock::SystemClock;
use skep_runtime::rng::{Rng as _, SystemRng};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ports::{self, Bound};
use super::printed::say;
use crate::demo::socket::{TokenSocket, default_path, make_folder};
use crate::demo::users::DemoUsers;
use crate::manifest::{Manifests, read_text};

const MANIFEST: &str = include_str!("../../../../examples/quickstart/demo.yaml");
const ISSUER_PORT: u16 = 7500;
const SERVER_PORT: u16 = 7501;
const PROXY_PORT: u16 = 7502;

/// Name of the proxy in the manifest.
const PROXY: &str = "demo";

/// The proxy as a client of the identity provider, and the Secret of the manifest that proves it.
const PROXY_CLIENT: &str = "skep-proxy";
const PROXY_SECRET: (&str, &str) = ("skep-proxy", "client-secret");

/// What runs beside the proxy.
pub(crate) struct Demo {
    issuer: String,
    /// Usual port and the one that was had: issuer, server, proxy.
    ports: [(u16, u16); 3],
    proxy_listener: Mutex<Option<Bound>>,
    /// Made at this start, and worth nothing after it.
    client_secret: Secret,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// What to add to `skep token` when the socket is not at its default place.
    pub(crate) socket_argument: String,
}

impl Demo {
    /// Starts the identity provider, the server and the socket for tokens. Beside manifests of somebody's
    /// own they must have their usual ports, which those manifests name; else the demo's manifest follows
    /// the ports that were to be had.
    ///
    /// # Errors
    /// When another `skep up` has the socket, or no port can be had.
    pub(crate) async fn start(socket: Option<&Path>, beside_manifests: bool) -> anyhow::Result<Self> {
        let place = match socket {
            Some(path) => path.to_path_buf(),
            None => {
                let path = default_path(std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).as_deref());
                make_folder(&path)?;
                path
            }
        };
        let token_socket = TokenSocket::bind(&place)?;
        let bind = |port: u16| ports::bind(port).context("no port can be had");
        let (issuer, server) = (bind(ISSUER_PORT)?, bind(SERVER_PORT)?);
        let proxy = if beside_manifests { None } else { Some(bind(PROXY_PORT)?) };
        for (bound, what) in [(&issuer, "the identity provider"), (&server, "the demo MCP server")] {
            if let Some(taken) = bound.instead_of {
                if beside_manifests {
                    anyhow::bail!("port {taken} is taken, and the manifests expect {what} there; free it");
                }
                say(&format!("port {taken} is taken; {what} is on port {} instead", bound.port));
            }
        }
        let ports = [
            (ISSUER_PORT, issuer.port),
            (SERVER_PORT, server.port),
            (PROXY_PORT, proxy.as_ref().map_or(PROXY_PORT, |bound| bound.port)),
        ];

        // Only ever on loopback: these listeners are bound to 127.0.0.1, and the provider checks it again.
        skep_authserver::listen::require_loopback(issuer.listener.local_addr()?)?;
        let issuer_url = format!("http://127.0.0.1:{}", issuer.port);
        let mut config = Config::new(Issuer::parse(&issuer_url)?);
        let client_secret = random_secret();
        // People's tokens are for the proxy, which exchanges them for tokens that the server wants.
        let [_, _, (_, proxy_port)] = ports;
        let audience = format!("http://127.0.0.1:{proxy_port}/mcp");
        let new = config.clients.insert(proxy_client(&client_secret, &audience, server.port));
        anyhow::ensure!(new, "two clients of the demo have one name");
        let provider = AuthServer::new(config, SystemClock::shared(), SystemRng::shared())?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let router = Arc::clone(&provider).router();
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(async move {
            let served = axum::serve(issuer.listener, router).with_graceful_shutdown(stopped).await;
            if let Err(error) = served {
                tracing::error!(error = %error, "the identity provider ended");
            }
        });
        let shutdown = stop.clone();
        tasks.spawn(async move {
            if let Err(error) = crate::demo::server::serve(server.listener, shutdown).await {
                tracing::error!(error = %error, "the demo MCP server ended");
            }
        });
        let users = DemoUsers::of_quickstart()?;
        let shutdown = stop.clone();
        tasks.spawn(async move {
            token_socket.serve(provider, users, audience, shutdown).await;
        });
        tasks.close();
        let socket_argument = socket.map(|path| format!(" --socket {}", path.display())).unwrap_or_default();
        Ok(Self {
            issuer: issuer_url,
            ports,
            proxy_listener: Mutex::new(proxy),
            client_secret,
            stop,
            tasks,
            socket_argument,
        })
    }

    /// The demo's own manifest, with the ports that were to be had.
    pub(crate) fn manifests(&self) -> Manifests {
        let text = self.ports.iter().fold(MANIFEST.to_owned(), |text, (usual, had)| {
            text.replace(&format!("127.0.0.1:{usual}"), &format!("127.0.0.1:{had}"))
                .replace(&format!("proxyPort: {usual}"), &format!("proxyPort: {had}"))
        });
        read_text(Path::new("examples/quickstart/demo.yaml"), &text)
    }

    /// Puts this run's secret into the Secret that the demo's manifest, or a copy of it, has for the proxy.
    pub(crate) fn complete(&self, manifests: &mut Manifests) {
        let (name, key) = PROXY_SECRET;
        manifests.replace_secret(name, key, &self.client_secret);
    }

    /// The identity provider's issuer.
    pub(crate) fn issuer(&self) -> String {
        self.issuer.clone()
    }

    /// The listener that was opened for the demo's proxy.
    pub(crate) fn listener_for(&self, name: &str) -> Option<Bound> {
        if name != PROXY {
            return None;
        }
        self.proxy_listener.lock().ok()?.take()
    }

    /// Ends what runs.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), self.tasks.wait()).await;
    }
}

/// The proxy may exchange its callers' tokens for ones that the demo server wants, and nothing else.
fn proxy_client(secret: &Secret, audience: &str, server_port: u16) -> Client {
    let mut client = Client::new(PROXY_CLIENT, secret)
        .with_subject_audience(audience)
        .with_exchange_audience(format!("http://127.0.0.1:{server_port}"));
    client.grants = vec![GrantType::TokenExchange];
    client
}

fn random_secret() -> Secret {
    let mut bytes = [0_u8; 32];
    SystemRng.fill(&mut bytes);
    Secret::new(URL_SAFE_NO_PAD.encode(bytes))
}

//! A pod's folders, an agent, a Keycloak, and the registration between them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skep_api::address::{Egress, Reach};
use skep_auth::client::{ClientConfig, GuardedClient};
use skep_auth::spiffe::RetryTimes;
use skep_runtime::clock::SystemClock;
use skep_runtime::drain::{Drain, Phase};
use skep_runtime::health::Readiness;
use skep_sidecar::register::{Parts, Settings, idle, run};
use skep_testkit::SeededRng;
use skep_testkit::keycloak::FakeKeycloak;
use skep_testkit::spire::{Entry, FakeAgent};
use tokio::task::JoinHandle;
use url::Url;

pub(crate) const WEATHER: &str = "spiffe://example.org/ns/demo/sa/weather";
pub(crate) const OTHER: &str = "spiffe://example.org/ns/demo/sa/other";
pub(crate) const REALM: &str = "demo";
pub(crate) const SCOPE: &str = "agent-demo-weather-aud";
const DEADLINE: Duration = Duration::from_secs(20);

/// Asks until the answer is yes.
pub(crate) async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let asking = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        while !ask().await {
            ticks.tick().await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, asking).await.is_ok(), "{what}: not within {DEADLINE:?}");
}

/// What outlives a container: the node's agent, the Keycloak, the pod's volumes.
pub(crate) struct Pod {
    pub(crate) keycloak: FakeKeycloak,
    pub(crate) agent: FakeAgent,
    folder: tempfile::TempDir,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) interval: Duration,
    /// How long one stays that does not know what to do.
    pub(crate) patience: Duration,
}

/// A registration that runs.
pub(crate) struct Running {
    drain: Drain,
    /// True when it has to start again.
    task: JoinHandle<bool>,
    address: SocketAddr,
}

impl Pod {
    /// One whose administrator is known to Keycloak, and that has no SVID yet.
    pub(crate) async fn bare() -> Self {
        let keycloak = FakeKeycloak::start().await;
        keycloak.realm(REALM);
        keycloak.admin("root", "hunter2");
        let agent = FakeAgent::start("example.org").await;
        agent.entry(Entry::new(WEATHER));
        let folder = tempfile::tempdir().unwrap();
        for name in ["opt", "shared", "credentials", "state"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let at = |name: &str| folder.path().join(name).display().to_string();
        let env = [
            ("KEYCLOAK_URL", keycloak.url()),
            ("KEYCLOAK_REALM", REALM.to_owned()),
            ("KEYCLOAK_ADMIN_USERNAME", "root".to_owned()),
            ("KEYCLOAK_ADMIN_PASSWORD", "hunter2".to_owned()),
            ("CLIENT_NAME", "demo/weather".to_owned()),
            ("NAMESPACE", "demo".to_owned()),
            ("SECRET_FILE_PATH", at("shared/client-secret.txt")),
            ("READY_FILE", at("shared/ready")),
            ("JWT_SVID_FILE", at("opt/jwt_svid.token")),
            ("JWT_BUNDLE_FILE", at("opt/jwt_bundle.json")),
            ("STATE_DIR", at("state/registration")),
            ("DEREGISTER_DELAY_SECONDS", "0".to_owned()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value)).into();
        Self { keycloak, agent, folder, env, interval: Duration::from_millis(50), patience: DEADLINE }
    }

    /// One that has its SVID.
    pub(crate) async fn new() -> Self {
        let pod = Self::bare().await;
        pod.write_svid(WEATHER);
        pod
    }

    /// One whose credentials for Keycloak come as a mounted Secret.
    pub(crate) async fn with_secret(files: &[(&str, &str)]) -> Self {
        let mut pod = Self::new().await;
        pod.env.remove("KEYCLOAK_ADMIN_USERNAME");
        pod.env.remove("KEYCLOAK_ADMIN_PASSWORD");
        pod.set("CREDENTIALS_DIR", &pod.path("credentials").display().to_string());
        pod.write_credentials(files);
        pod
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write_credentials(&self, files: &[(&str, &str)]) {
        for (name, text) in files {
            put(&self.path("credentials").join(name), text);
        }
    }

    /// What the helper writes.
    pub(crate) fn write_svid(&self, id: &str) {
        self.agent.entry(Entry::new(id));
        let audience = self.keycloak.issuer(REALM);
        let token = self.agent.issue_jwt_for(id, &[&audience], Duration::from_secs(300));
        self.write_bundle(&self.agent.jwks());
        put(&self.path("opt/jwt_svid.token"), &token);
    }

    pub(crate) fn write_bundle(&self, jwks: &Value) {
        let bundle = json!({"example.org": STANDARD.encode(jwks.to_string())});
        put(&self.path("opt/jwt_bundle.json"), &bundle.to_string());
    }

    pub(crate) async fn start(&self) -> Running {
        let settings = Settings::from_env(&self.env);
        let listener = skep_runtime::http::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let parts = Parts {
            clock: SystemClock::shared(),
            rng: Arc::new(SeededRng::new(1)),
            readiness: Readiness::new(),
            listener: Some(listener),
        };
        let drain = Drain::new();
        let stop = drain.watch();
        let mut settings = match settings {
            Ok(settings) => settings,
            Err(error) => {
                let patience = self.patience;
                let task = tokio::spawn(async move { idle(&error, parts, stop, patience).await });
                return Running { drain, task, address };
            }
        };
        settings.interval = self.interval;
        settings.retry = RetryTimes { first: Duration::from_millis(10), longest: Duration::from_millis(100) };
        settings.keycloak.timeout = Duration::from_secs(2);
        let task = tokio::spawn(async move {
            run(settings, parts, stop).await;
            false
        });
        Running { drain, task, address }
    }

    /// How often somebody has logged in at Keycloak.
    pub(crate) fn logins(&self) -> usize {
        self.keycloak.requests().iter().filter(|request| request.path().ends_with("/token")).count()
    }

    /// A file of the shared volume; empty when it is not there.
    pub(crate) fn shared(&self, name: &str) -> String {
        std::fs::read_to_string(self.path("shared").join(name)).unwrap_or_default()
    }

    pub(crate) fn mode(&self, name: &str) -> u32 {
        std::fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o7777
    }

    /// The secret of a client in Keycloak; empty when there is no such client.
    pub(crate) fn secret_of(&self, id: &str) -> String {
        let client = self.keycloak.client(REALM, id);
        client.and_then(|client| client["secret"].as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// True when the files have the credentials of this client as Keycloak has them.
    pub(crate) fn has_credentials_of(&self, id: &str) -> bool {
        let secret = self.secret_of(id);
        !secret.is_empty()
            && self.shared("client-id.txt") == id
            && self.shared("client-secret.txt") == secret
            && self.shared("secret.txt") == secret
            && self.shared("ready") == "ready\n"
    }

    /// The MCP server gets a token with what it reads.
    pub(crate) async fn server_gets_a_token(&self) -> Value {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", &self.shared("client-id.txt"))
            .append_pair("client_secret", &self.shared("client-secret.txt"))
            .finish();
        let mut headers = http::HeaderMap::new();
        headers.insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
        let url = Url::parse(&self.keycloak.token_url(REALM)).unwrap();
        let reply = http().post(&url, headers, form.into_bytes()).await.unwrap();
        let body: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(reply.status, 200, "{body}");
        self.keycloak.verified(REALM, body["access_token"].as_str().unwrap()).expect("a good token")
    }
}

impl Running {
    /// Status and body of a path of the health listener.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let url = Url::parse(&format!("http://{}{path}", self.address)).unwrap();
        let reply = http().get(&url).await.unwrap();
        (reply.status, String::from_utf8(reply.body).unwrap())
    }

    pub(crate) async fn ready(&self) -> bool {
        self.get("/readyz").await.0 == 200
    }

    /// True when the server need not wait for it.
    pub(crate) async fn lets_start(&self) -> bool {
        self.get("/startupz").await.0 == 200
    }

    /// Waits until it is not ready for this reason.
    pub(crate) async fn waits_for(&self, reason: &str) {
        eventually(reason, async || {
            let (status, body) = self.get("/readyz").await;
            status == 503 && body.contains(reason)
        })
        .await;
    }

    /// Waits until it is ready though this is wrong.
    pub(crate) async fn warns_of(&self, warning: &str) {
        eventually(warning, async || {
            let (status, body) = self.get("/readyz").await;
            status == 200 && body.contains(warning)
        })
        .await;
    }

    pub(crate) async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").await.1).unwrap()
    }

    /// Waits for rounds that begin from now on.
    pub(crate) async fn another_round(&self) {
        let rounds = |status: Value| status["rounds"].as_u64().unwrap();
        let before = rounds(self.status().await);
        eventually("another round", async || rounds(self.status().await) > before + 1).await;
    }

    /// Ends as kubelet ends a container.
    pub(crate) async fn end(self) {
        self.drain.advance(Phase::Draining);
        assert!(!self.ended().await);
    }

    /// Waits for its own end; true when it has to start again.
    pub(crate) async fn ended(self) -> bool {
        tokio::time::timeout(DEADLINE, self.task).await.expect("it ends in time").unwrap()
    }

    /// Ends as a node ends a container that takes too long.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn http() -> GuardedClient {
    let mut config = ClientConfig::new(Egress { loopback: true, deny: Vec::new() });
    config.reach = Reach { http: true, private: true };
    GuardedClient::new(config).unwrap()
}

/// As the helper and kubelet write: in one step.
fn put(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(&next, path).unwrap();
}

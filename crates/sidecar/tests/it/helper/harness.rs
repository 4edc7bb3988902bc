//! A folder, an agent and a helper between them.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;
use skep_auth::spiffe::{RetryTimes, X509Svid, check_pair};
use skep_runtime::clock::{SharedClock, SystemClock};
use skep_sidecar::helper::{Helper, HelperError, HelperSettings};
use skep_testkit::SeededRng;
use skep_testkit::spire::{Entry, FakeAgent};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const ALICE: &str = "spiffe://example.org/ns/demo/sa/alice";
const DEADLINE: Duration = Duration::from_secs(20);

/// All three X.509 files, in the folder.
pub(crate) const X509: &str = "svid_file_name = \"svid.pem\"\nsvid_key_file_name = \"key.pem\"\nsvid_bundle_file_name = \"bundle.pem\"\n";
pub(crate) const JWT: &str =
    "jwt_svids = [{jwt_audience = \"kagenti\", jwt_svid_file_name = \"jwt.token\"}]\n";
pub(crate) const JWT_BUNDLE: &str = "jwt_bundle_file_name = \"jwt_bundle.json\"\n";

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

/// An agent with one identity.
pub(crate) async fn agent() -> FakeAgent {
    let agent = FakeAgent::start("example.org").await;
    agent.entry(Entry::new(ALICE));
    agent
}

/// A folder with a configuration.
pub(crate) struct Pod {
    folder: tempfile::TempDir,
    settings: HelperSettings,
    clock: SharedClock,
}

impl Pod {
    /// Configures the agent and `cert_dir`, and `rest`.
    pub(crate) fn new(agent: &FakeAgent, rest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("helper.conf");
        let socket = agent.socket().display();
        let files = folder.path().join("opt");
        std::fs::create_dir(&files).unwrap();
        let text = format!("agent_address = \"{socket}\"\ncert_dir = \"{}\"\n{rest}", files.display());
        std::fs::write(&config, text).unwrap();
        let retry = RetryTimes { first: Duration::from_millis(20), longest: Duration::from_millis(200) };
        let settings = HelperSettings { config, retry, ..HelperSettings::default() };
        Self { folder, settings, clock: SystemClock::shared() }
    }

    pub(crate) fn with_clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    pub(crate) fn settings(&mut self) -> &mut HelperSettings {
        &mut self.settings
    }

    /// A path beside the folder of the files.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("opt").join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(crate) fn is_there(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    pub(crate) fn mode(&self, name: &str) -> String {
        format!("{:04o}", std::fs::metadata(self.path(name)).unwrap().mode() & 0o7777)
    }

    /// The number of the file behind a name; another one means that the file was replaced.
    pub(crate) fn inode(&self, name: &str) -> u64 {
        std::fs::metadata(self.path(name)).unwrap().ino()
    }

    /// The names of all files in the folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The SVID of the two files, checked to be a pair, and how many certificates the chain has.
    pub(crate) fn svid(&self) -> (X509Svid, usize) {
        let chain = ders(&self.read("svid.pem"), "CERTIFICATE");
        let key = ders(&self.read("key.pem"), "PRIVATE KEY");
        let svid = X509Svid::parse_from_der(&chain.concat(), &key.concat()).unwrap();
        check_pair(&svid).unwrap();
        (svid, chain.len())
    }

    /// The claims of a token file.
    pub(crate) fn claims(&self, name: &str) -> Value {
        let token = self.read(name);
        let payload = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
    }

    /// The JWKS of a trust domain in a JWT bundle file.
    pub(crate) fn jwks(&self, name: &str, trust_domain: &str) -> Value {
        let bundles: Value = serde_json::from_str(&self.read(name)).unwrap();
        let jwks = bundles[trust_domain].as_str().expect("a bundle of the trust domain");
        serde_json::from_slice(&STANDARD.decode(jwks).unwrap()).unwrap()
    }

    /// Starts the helper.
    pub(crate) async fn start(&self) -> Running {
        let rng = Arc::new(SeededRng::new(5));
        let helper = Helper::start(self.settings.clone(), Arc::clone(&self.clock), rng).await.unwrap();
        let health = helper.health_address();
        let stop = CancellationToken::new();
        let task = tokio::spawn(helper.run(stop.clone()));
        Running { stop, task, health }
    }

    /// Starts the helper in one-shot mode and waits for its end.
    pub(crate) async fn once(&mut self) -> Result<(), HelperError> {
        self.settings.daemon = Some(false);
        self.start().await.ended().await
    }
}

/// A helper at work. Ends when it is dropped.
pub(crate) struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), HelperError>>,
    health: Option<SocketAddr>,
}

impl Running {
    /// Tells it to end, and waits until it has.
    pub(crate) async fn stop(self) -> Result<(), HelperError> {
        self.stop.cancel();
        self.ended().await
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(mut self) -> Result<(), HelperError> {
        tokio::time::timeout(DEADLINE, &mut self.task).await.expect("the helper ends in time").unwrap()
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    pub(crate) fn health(&self) -> SocketAddr {
        self.health.expect("health checks are on")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The content of all PEM blocks with this label.
pub(crate) fn ders(pem: &str, label: &str) -> Vec<Vec<u8>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let blocks = pem.split(&begin).skip(1).map(|rest| rest.split(&end).next().unwrap());
    blocks.map(|block| STANDARD.decode(block.split_whitespace().collect::<String>()).unwrap()).collect()
}

/// The key ids of a JWKS, sorted.
pub(crate) fn key_ids(jwks: &Value) -> Vec<String> {
    let keys = jwks["keys"].as_array().unwrap();
    let mut ids: Vec<_> = keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

/// The same certificates, in any order.
pub(crate) fn same_certificates(one: &str, other: &str) -> bool {
    let sorted = |pem| {
        let mut all = ders(pem, "CERTIFICATE");
        all.sort();
        all
    };
    sorted(one) == sorted(other)
}

/// A script in the pod's folder.
pub(crate) fn script(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

//! A running proxy with everything around it that a test wants to look at.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use skep_api::address::Egress;
use skep_api::secret::Secret;
use skep_proxy::audit::AuditSink;
use skep_proxy::config::{self, ConfigError, ProxyConfig, Surroundings};
use skep_proxy::metrics::ProxyMetrics;
use skep_proxy::service::{Proxy, Shared};
use skep_runtime::clock::SharedClock;
use skep_runtime::drain::Drain;
use skep_runtime::health::Readiness;
use skep_runtime::http::{HttpLimits, Load, bind, serve};
use skep_runtime::metrics::Metrics;
use skep_runtime::rng::SystemRng;
use skep_testkit::{Answer, FakeIdp, ManualClock, McpBackend, RawConnection, Recorded, TokenSpec, raw};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Whom tokens must be meant for.
pub(crate) const AUDIENCE: &str = "mcp-demo";

/// Secret of the proxy at its token endpoint.
pub(crate) const CLIENT_SECRET: &str = "s3cret-of-the-proxy";

/// Everybody may do everything.
pub(crate) const PERMIT_ALL: &str = "permit(principal, action, resource);";

/// Longest wait for something that must happen. Only a failure ever takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// A proxy that runs, and its surroundings.
pub(crate) struct Harness {
    pub(crate) idp: FakeIdp,
    pub(crate) backend: McpBackend,
    pub(crate) clock: ManualClock,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) address: SocketAddr,
    pub(crate) audit: AuditLog,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    pub(crate) drain: Drain,
    pub(crate) load: Load,
    config: Value,
    serving: JoinHandle<()>,
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Harness {
    /// In front of a well-behaved server with three tools. `changes` is merged into the RunConfig.
    pub(crate) async fn start(changes: Value) -> Self {
        Self::before(McpBackend::with_tools(3).await, changes).await
    }

    /// In front of a server that answers as `handler` says.
    pub(crate) async fn scripted(
        changes: Value,
        handler: impl Fn(&Recorded) -> skep_testkit::Reply + Send + Sync + 'static,
    ) -> Self {
        Self::before(McpBackend::start(handler).await, changes).await
    }

    /// In front of `backend`.
    pub(crate) async fn before(backend: McpBackend, changes: Value) -> Self {
        Self::with_limits(backend, changes, |limits| limits).await
    }

    /// In front of `backend`, with other bounds of the listener.
    pub(crate) async fn with_limits(
        backend: McpBackend,
        changes: Value,
        limits: impl FnOnce(HttpLimits) -> HttpLimits,
    ) -> Self {
        capture_logs();
        let clock = ManualClock::default();
        let shared_clock: SharedClock = Arc::new(clock.clone());
        let idp = FakeIdp::with_clock(Arc::clone(&shared_clock)).await;
        let mut config = json!({
            "schema_version": "v0.1.0", "name": "demo", "transport": "streamable-http",
            "remote_url": backend.mcp_url(), "host": "127.0.0.1", "port": 0,
            "oidc_config": {
                "Issuer": idp.issuer(), "Audience": AUDIENCE, "InsecureAllowHTTP": true,
                "ResourceURL": "https://mcp.example/tools", "Scopes": ["mcp:use"],
            },
            "audit_config": {},
            "skep": {"allow_private_endpoint": true},
        });
        merge(&mut config, &changes);
        let metrics = Metrics::new();
        let audit = AuditLog::default();
        let drain = Drain::new();
        let readiness = Readiness::new();
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared {
            clock: shared_clock,
            rng: SystemRng::shared(),
            metrics: ProxyMetrics::register(&metrics),
            audit: AuditSink::start(Box::new(audit.clone())),
            readiness: readiness.clone(),
            drain: drain.watch(),
        };
        let proxy = Proxy::new(load(&config).unwrap(), address.port(), shared).unwrap();
        let load = Load::default();
        let limits = limits(proxy.http_limits());
        let serving = tokio::spawn(serve(listener, Arc::clone(&proxy), limits, drain.watch(), load.clone()));
        Self { idp, backend, clock, proxy, address, audit, metrics, readiness, drain, load, config, serving }
    }

    /// The RunConfig in force with `changes` merged in, loaded.
    pub(crate) fn changed(&self, changes: Value) -> Result<ProxyConfig, ConfigError> {
        let mut config = self.config.clone();
        merge(&mut config, &changes);
        load(&config)
    }

    /// A good token of `subject`.
    pub(crate) fn token(&self, subject: &str) -> String {
        self.idp.token(subject, AUDIENCE)
    }

    /// A token that differs from a good one as `change` says.
    pub(crate) fn mint(&self, change: impl FnOnce(TokenSpec) -> TokenSpec) -> String {
        self.idp.mint(&change(TokenSpec::valid("alice", AUDIENCE)))
    }

    /// POST of a message by alice.
    pub(crate) async fn post(&self, message: &Value) -> Answer {
        self.post_as("alice", message).await
    }

    /// POST of a message by `subject`.
    pub(crate) async fn post_as(&self, subject: &str, message: &Value) -> Answer {
        raw::post_rpc(self.address, "/mcp", Some(&self.token(subject)), message).await
    }

    /// POST of any bytes by alice, as JSON, with further headers.
    pub(crate) async fn post_bytes(&self, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.send("POST", "/mcp", headers, body).await
    }

    /// Any request by alice. `Content-Type` is added to a POST that has none.
    pub(crate) async fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut connection = RawConnection::open(self.address).await;
        let bearer = self.bearer();
        let mut all = vec![("Authorization", bearer.as_str())];
        if method == "POST" && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            all.push(("Content-Type", "application/json"));
        }
        all.extend_from_slice(headers);
        connection.request(method, target, &all, body).await
    }

    /// An Authorization header's value with a good token of alice.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.token("alice"))
    }

    /// The head of a POST by alice with `length` bytes of body, which the test sends itself.
    pub(crate) fn head(&self, headers: &str) -> String {
        format!(
            "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAuthorization: {}\r\n{headers}\r\n",
            self.address,
            self.bearer()
        )
    }

    /// The value of a metric by the whole of its name and labels; 0 when it is not there.
    pub(crate) fn metric(&self, name_and_labels: &str) -> f64 {
        let text = self.metrics.encode();
        let found = text.lines().find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' '));
        found.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Every metric as text.
    pub(crate) fn metrics_text(&self) -> String {
        self.metrics.encode()
    }
}

fn load(config: &Value) -> Result<ProxyConfig, ConfigError> {
    let run = config::parse(config.to_string().as_bytes(), "test")?;
    let variable = |name: &str| match name {
        "TOOLHIVE_SECRET_KEY1" => Some(Secret::new("s3cret-of-the-backend")),
        "TOOLHIVE_TOKEN_EXCHANGE_CLIENT_SECRET" => Some(Secret::new(CLIENT_SECRET)),
        _ => None,
    };
    let egress = Egress { loopback: true, deny: Vec::new() };
    ProxyConfig::new(&run, &Surroundings { variable: &variable, egress })
}

/// RFC 7396: null removes.
pub(crate) fn merge(target: &mut Value, changes: &Value) {
    let Value::Object(changes) = changes else {
        *target = changes.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let members = target.as_object_mut().unwrap();
    for (name, change) in changes {
        if change.is_null() {
            members.remove(name);
        } else {
            merge(members.entry(name).or_insert(Value::Null), change);
        }
    }
}

/// `authz_config` with these policies.
pub(crate) fn cedar(policies: &[&str]) -> Value {
    json!({"authz_config": {"version": "1.0", "type": "cedarv1", "cedar": {"policies": policies, "entities_json": ""}}})
}

/// A JSON-RPC request.
pub(crate) fn rpc(id: impl Into<Value>, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})
}

/// A call of a tool, with id 1.
pub(crate) fn call(tool: &str) -> Value {
    rpc(1, "tools/call", json!({"name": tool, "arguments": {"text": "x"}}))
}

/// The names in a list result.
pub(crate) fn names(message: &Value, member: &str, key: &str) -> Vec<String> {
    let items = message["result"][member].as_array().unwrap_or_else(|| panic!("no {member} in {message}"));
    items.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
}

/// Audit records, in memory.
#[derive(Clone)]
pub(crate) struct AuditLog {
    text: Arc<Mutex<Vec<u8>>>,
    lines: watch::Sender<usize>,
    full: Arc<AtomicBool>,
}

impl Default for AuditLog {
    fn default() -> Self {
        Self { text: Arc::default(), lines: watch::Sender::new(0), full: Arc::default() }
    }
}

impl Write for AuditLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.full.load(Ordering::SeqCst) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.text.lock().unwrap().extend_from_slice(bytes);
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        self.lines.send_modify(|count| *count += lines);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl AuditLog {
    /// All records, once there are at least `count`.
    pub(crate) async fn wait(&self, count: usize) -> Vec<Value> {
        let mut lines = self.lines.subscribe();
        // What `wait_for` gives holds a lock that the writer needs.
        let waited = tokio::time::timeout(PATIENCE, lines.wait_for(|lines| *lines >= count)).await.is_ok();
        assert!(waited, "fewer than {count} audit records: {}", self.text());
        self.records()
    }

    /// The last of `count` records.
    pub(crate) async fn last(&self, count: usize) -> Value {
        let mut records = self.wait(count).await;
        assert_eq!(records.len(), count, "{records:#?}");
        records.pop().unwrap()
    }

    /// The records so far.
    pub(crate) fn records(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// From now on nothing more can be written.
    pub(crate) fn fill(&self) {
        self.full.store(true, Ordering::SeqCst);
    }

    /// The records so far, as they were written.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, async || condition()).await;
}

/// Waits until `condition` holds, which takes asking.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "still waiting: {what}");
}

/// Bounds a wait that must end.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("still waiting: {what}"),
    }
}

static LOGS: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();

/// What all tests of this process have logged, at debug level.
pub(crate) fn logs() -> String {
    String::from_utf8_lossy(&capture_logs().lock().unwrap()).into_owned()
}

fn capture_logs() -> &'static Arc<Mutex<Vec<u8>>> {
    #[derive(Clone)]
    struct Target(Arc<Mutex<Vec<u8>>>);
    impl Write for Target {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    LOGS.get_or_init(|| {
        let buffer = Arc::<Mutex<Vec<u8>>>::default();
        let target = Target(Arc::clone(&buffer));
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .with_ansi(false)
            .with_writer(move || target.clone());
        subscriber.init();
        buffer
    })
}

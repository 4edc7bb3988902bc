//! The proxy's Prometheus metrics. Every label has a bounded set of values, whatever clients send.

use std::collections::HashSet;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use skep_auth::exchange::{ExchangeObserver, ExchangeResult};
use skep_runtime::metrics::{DURATION_BUCKETS, Metrics};

/// Tool names that may become label values.
const TOOL_LABELS: usize = 200;

/// Methods that may become label values.
const METHODS: [&str; 24] = [
    "initialize",
    "ping",
    "server/discover",
    "subscriptions/listen",
    "tools/list",
    "tools/call",
    "prompts/list",
    "prompts/get",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "resources/templates/list",
    "completion/complete",
    "logging/setLevel",
    "roots/list",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/roots/list_changed",
    "tasks/get",
    "tasks/update",
    "tasks/cancel",
    "tasks/list",
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProxyStatus {
    proxy: Arc<str>,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProxyOnly {
    proxy: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProxyResult {
    proxy: Arc<str>,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct McpRequest {
    method: &'static str,
    status_code: u16,
    status: &'static str,
    mcp_method: &'static str,
    server: Arc<str>,
    transport: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ToolCall {
    server: Arc<str>,
    tool: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Connection {
    server: Arc<str>,
    transport: &'static str,
    connection_type: &'static str,
}

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

fn histogram() -> Histogram {
    Histogram::new(DURATION_BUCKETS)
}

/// The metric families, shared by all proxies of a process.
#[derive(Debug, Clone)]
pub struct ProxyMetrics {
    requests: Family<ProxyStatus, Counter>,
    durations: Durations<ProxyOnly>,
    validations: Family<ProxyResult, Counter>,
    mcp_requests: Family<McpRequest, Counter>,
    mcp_durations: Durations<McpRequest>,
    tool_calls: Family<ToolCall, Counter>,
    streams: Family<Connection, Gauge>,
    anonymous: Family<ProxyOnly, Gauge>,
    suspended: Family<ProxyOnly, Gauge>,
    remote_up: Family<ProxyOnly, Gauge>,
    audit_failures: Family<ProxyOnly, Counter>,
    exchanges: Family<ProxyResult, Counter>,
    exchange_hits: Family<ProxyOnly, Counter>,
    exchange_durations: Durations<ProxyOnly>,
    reloads: Family<ProxyResult, Counter>,
    keys: KeyMetrics,
    registry: Metrics,
}

impl ProxyMetrics {
    /// Registers the families.
    pub fn register(registry: &Metrics) -> Self {
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            validations: Family::default(),
            mcp_requests: Family::default(),
            mcp_durations: Family::new_with_constructor(histogram),
            tool_calls: Family::default(),
            streams: Family::default(),
            anonymous: Family::default(),
            suspended: Family::default(),
            remote_up: Family::default(),
            audit_failures: Family::default(),
            exchanges: Family::default(),
            exchange_hits: Family::default(),
            exchange_durations: Family::new_with_constructor(histogram),
            reloads: Family::default(),
            keys: KeyMetrics::default(),
            registry: registry.clone(),
        };
        let name = |name: &str| format!("toolhive_{name}");
        let add = |short: &str, help: &str| (name(short), help.to_owned());
        let (n, h) = add("remote_proxy_requests", "Requests answered, by proxy and status code");
        registry.register(&n, &h, metrics.requests.clone());
        let (n, h) =
            add("remote_proxy_request_duration_seconds", "Time until a request was answered to its end");
        registry.register(&n, &h, metrics.durations.clone());
        let (n, h) = add("remote_proxy_token_validations", "Tokens judged, by result");
        registry.register(&n, &h, metrics.validations.clone());
        let (n, h) = add("remote_proxy_token_exchanges", "Calls to the token endpoint or STS, by result");
        registry.register(&n, &h, metrics.exchanges.clone());
        let (n, h) =
            add("remote_proxy_token_exchange_cache_hits", "Requests whose outgoing token was at hand");
        registry.register(&n, &h, metrics.exchange_hits.clone());
        let (n, h) = add(
            "remote_proxy_token_exchange_duration_seconds",
            "Duration of calls to the token endpoint or STS",
        );
        registry.register(&n, &h, metrics.exchange_durations.clone());
        registry.register(
            "skep_config_reloads",
            "Changed configurations, by whether they were applied or refused",
            metrics.reloads.clone(),
        );
        let (n, h) = add("mcp_requests", "MCP requests");
        registry.register(&n, &h, metrics.mcp_requests.clone());
        let (n, h) = add("mcp_request_duration_seconds", "Duration of MCP requests");
        registry.register(&n, &h, metrics.mcp_durations.clone());
        let (n, h) = add("mcp_tool_calls", "Tool calls");
        registry.register(&n, &h, metrics.tool_calls.clone());
        let (n, h) = add("mcp_active_connections", "Streams that are open");
        registry.register(&n, &h, metrics.streams.clone());
        registry.register(
            "skep_proxy_anonymous",
            "1 for a proxy that asks nobody who they are",
            metrics.anonymous.clone(),
        );
        registry.register(
            "skep_proxy_suspended",
            "1 for a proxy that lets no call through",
            metrics.suspended.clone(),
        );
        let (n, h) = add("remote_proxy_remote_up", "Whether the remote MCP server answered the last probe");
        registry.register(&n, &h, metrics.remote_up.clone());
        registry.register(
            "skep_audit_write_failures",
            "Audit records that could not be written",
            metrics.audit_failures.clone(),
        );
        registry.register_collector(Box::new(metrics.keys.clone()));
        metrics
    }

    /// The handle of one proxy.
    pub fn of(&self, proxy: &str) -> ProxyMetricsHandle {
        ProxyMetricsHandle { families: self.clone(), proxy: Arc::from(proxy), tools: Arc::default() }
    }

    /// The registry behind the families.
    pub fn registry(&self) -> &Metrics {
        &self.registry
    }
}

/// Metrics of one proxy.
#[derive(Debug, Clone)]
pub struct ProxyMetricsHandle {
    families: ProxyMetrics,
    proxy: Arc<str>,
    tools: Arc<RwLock<HashSet<String>>>,
}

/// One answered request.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// HTTP method, already one of a few.
    pub http_method: &'static str,
    /// MCP method as the client wrote it.
    pub mcp_method: &'a str,
    /// HTTP status.
    pub status: u16,
    /// Tool of a `tools/call` that reached the backend.
    pub tool: Option<&'a str>,
    /// The call failed, by status or by a JSON-RPC error inside a 200.
    pub failed: bool,
    /// From the first byte read to the last byte written.
    pub duration: Duration,
}

const TRANSPORT: &str = "streamable-http";

impl ExchangeObserver for ProxyMetricsHandle {
    fn hit(&self) {
        self.families.exchange_hits.get_or_create(&ProxyOnly { proxy: Arc::clone(&self.proxy) }).inc();
    }

    fn asked(&self, result: ExchangeResult, took: Duration) {
        let result = match result {
            ExchangeResult::Success => "success",
            ExchangeResult::SubjectRefused => "subject_refused",
            ExchangeResult::Refused => "refused",
            ExchangeResult::InvalidResponse => "invalid_response",
            ExchangeResult::Unavailable => "unavailable",
        };
        let proxy = || Arc::clone(&self.proxy);
        self.families.exchanges.get_or_create(&ProxyResult { proxy: proxy(), result }).inc();
        let durations = self.families.exchange_durations.get_or_create(&ProxyOnly { proxy: proxy() });
        durations.observe(took.as_secs_f64());
    }
}

impl ProxyMetricsHandle {
    /// Counts one answered request.
    pub fn answered(&self, answered: Answered<'_>) {
        let families = &self.families;
        let seconds = answered.duration.as_secs_f64();
        let proxy = || Arc::clone(&self.proxy);
        families.requests.get_or_create(&ProxyStatus { proxy: proxy(), status: answered.status }).inc();
        families.durations.get_or_create(&ProxyOnly { proxy: proxy() }).observe(seconds);
        let status = if answered.failed { "error" } else { "success" };
        let labels = McpRequest {
            method: answered.http_method,
            status_code: answered.status,
            status,
            mcp_method: method_label(answered.mcp_method),
            server: proxy(),
            transport: TRANSPORT,
        };
        families.mcp_durations.get_or_create(&labels).observe(seconds);
        families.mcp_requests.get_or_create(&labels).inc();
        if let Some(tool) = answered.tool {
            let tool = self.tool_label(tool);
            families.tool_calls.get_or_create(&ToolCall { server: proxy(), tool, status }).inc();
        }
    }

    /// Counts one judged token.
    pub fn token(&self, result: &'static str) {
        let labels = ProxyResult { proxy: Arc::clone(&self.proxy), result };
        self.families.validations.get_or_create(&labels).inc();
    }

    /// Counts a changed configuration.
    pub fn reload(&self, applied: bool) {
        let result = if applied { "applied" } else { "refused" };
        let labels = ProxyResult { proxy: Arc::clone(&self.proxy), result };
        self.families.reloads.get_or_create(&labels).inc();
    }

    /// Counts a stream in or out.
    pub fn stream(&self, opened: bool) {
        let labels =
            Connection { server: Arc::clone(&self.proxy), transport: TRANSPORT, connection_type: "sse" };
        let gauge = self.families.streams.get_or_create(&labels);
        if opened {
            gauge.inc()
        } else {
            gauge.dec()
        };
    }

    /// Says whether this proxy lets anybody in.
    pub fn anonymous(&self, anonymous: bool) {
        let labels = ProxyOnly { proxy: Arc::clone(&self.proxy) };
        self.families.anonymous.get_or_create(&labels).set(i64::from(anonymous));
    }

    /// Says whether this proxy lets no call through.
    pub fn suspended(&self, suspended: bool) {
        let labels = ProxyOnly { proxy: Arc::clone(&self.proxy) };
        self.families.suspended.get_or_create(&labels).set(i64::from(suspended));
    }

    /// Says what the last probe of the remote server found; `None` when nothing is known of it.
    pub fn remote_up(&self, up: Option<bool>) {
        let labels = ProxyOnly { proxy: Arc::clone(&self.proxy) };
        match up {
            Some(up) => {
                self.families.remote_up.get_or_create(&labels).set(i64::from(up));
            }
            None => {
                self.families.remote_up.remove(&labels);
            }
        }
    }

    /// Shows how many audit records the proxy's sink could not write.
    pub fn audit_failures(&self, total: u64) {
        let labels = ProxyOnly { proxy: Arc::clone(&self.proxy) };
        let counter = self.families.audit_failures.get_or_create(&labels);
        counter.inner().fetch_max(total, std::sync::atomic::Ordering::Relaxed);
    }

    /// Lets a tool's name be a label: only names that the configuration or the backend knows.
    pub fn know_tool(&self, tool: &str) {
        let known = self.tools.read().is_ok_and(|tools| tools.contains(tool) || tools.len() >= TOOL_LABELS);
        if known {
            return;
        }
        if let Ok(mut tools) = self.tools.write()
            && tools.len() < TOOL_LABELS
        {
            tools.insert(tool.to_owned());
        }
    }

    /// Shows the counters of the issuers' keys, all of a proxy together.
    pub fn keys(&self, providers: Vec<Arc<skep_auth::provider::KeyProvider>>) {
        self.families.keys.set(&self.proxy, providers);
    }

    fn tool_label(&self, tool: &str) -> String {
        let known = self.tools.read().is_ok_and(|tools| tools.contains(tool));
        if known { tool.to_owned() } else { "other".to_owned() }
    }
}

fn method_label(method: &str) -> &'static str {
    match METHODS.iter().find(|known| **known == method) {
        Some(known) => known,
        None if method.is_empty() => "",
        None => "other",
    }
}

type Read = fn(&skep_auth::provider::KeyProvider) -> u64;

type Providers = std::collections::BTreeMap<Arc<str>, Vec<Arc<skep_auth::provider::KeyProvider>>>;

/// Key cache counters, read from the providers when somebody scrapes.
#[derive(Debug, Clone, Default)]
struct KeyMetrics {
    providers: Arc<RwLock<Providers>>,
}

impl KeyMetrics {
    fn set(&self, proxy: &Arc<str>, of_proxy: Vec<Arc<skep_auth::provider::KeyProvider>>) {
        if let Ok(mut providers) = self.providers.write() {
            match of_proxy.is_empty() {
                false => providers.insert(Arc::clone(proxy), of_proxy),
                true => providers.remove(proxy),
            };
        }
    }
}

impl Collector for KeyMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Ok(providers) = self.providers.read() else { return Ok(()) };
        let values: [(&str, &str, Read); 3] = [
            ("toolhive_remote_proxy_jwks_cache_hits", "Times that the issuer's keys were at hand", |p| {
                p.cache_hits()
            }),
            ("toolhive_remote_proxy_jwks_refreshes", "Times that the issuer's keys were fetched", |p| {
                p.refreshes()
            }),
            ("skep_jwks_refresh_failures", "Fetches of the issuer's keys that failed", |p| p.failures()),
        ];
        for (name, help, read) in values {
            let kind = prometheus_client::metrics::MetricType::Counter;
            let mut descriptor = encoder.encode_descriptor(name, help, None, kind)?;
            for (proxy, of_proxy) in providers.iter() {
                let labels = ProxyOnly { proxy: Arc::clone(proxy) };
                let counter = ConstCounter::new(of_proxy.iter().map(|provider| read(provider)).sum::<u64>());
                counter.encode(descriptor.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_write_does_not_become_a_label() {
        let registry = Metrics::new();
        let metrics = ProxyMetrics::register(&registry);
        let proxy = metrics.of("demo");
        proxy.know_tool("add");
        for tool in ["add", "x1", "x2"] {
            proxy.answered(Answered {
                http_method: "POST",
                mcp_method: tool,
                status: 200,
                tool: Some(tool),
                failed: false,
                duration: Duration::from_millis(3),
            });
        }
        let text = registry.encode();
        assert!(
            text.contains(r#"toolhive_mcp_tool_calls_total{server="demo",tool="add",status="success"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"toolhive_mcp_tool_calls_total{server="demo",tool="other",status="success"} 2"#)
        );
        assert!(text.contains(r#"mcp_method="other""#));
        assert!(text.contains(r#"toolhive_remote_proxy_requests_total{proxy="demo",status="200"} 3"#));
        assert!(!text.contains("x1"));
    }
}

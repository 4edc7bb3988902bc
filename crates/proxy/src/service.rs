//! A running proxy: one listener, one pipeline that can be exchanged while requests run.

mod authentication;
mod outgoing;
pub mod record;
mod remote;
mod report;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::Value;
use skep_auth::authenticator::Authenticator;
use skep_auth::aws::AwsSetupError;
use skep_auth::client::FetchError;
use skep_auth::exchange::ExchangeSetupError;
use skep_auth::provider::KeyProvider;
use skep_runtime::clock::SharedClock;
use skep_runtime::drain::DrainWatch;
use skep_runtime::health::Readiness;
use skep_runtime::http::{Ends, Handler, HttpLimits, ResponseBody};
use skep_runtime::logging::chain;
use skep_runtime::rng::SharedRng;
use tokio_util::sync::CancellationToken;

use crate::annotations::AnnotationCache;
use crate::audit::AuditSink;
use crate::cedar::Policies;
use crate::config::{AuthSettings, ConfigError, ProxyConfig};
use crate::metrics::{ProxyMetrics, ProxyMetricsHandle};
use crate::pipeline::{Doors, Pipeline, Stages};
use crate::routes::Routes;
use crate::stages::authenticate::Authentication;
use crate::stages::authorize::Authorization;
use crate::stages::entrance::Entrance;
use crate::stages::forward::Forward;
use crate::stages::outgoing::Outgoing;
use crate::stages::parse::Bounds;
use crate::upstream::{ConnectorError, Upstream};

use self::authentication::authentication;
use self::outgoing::outgoing;
use self::record::Recorder;
use self::remote::Remote;

/// Why a configuration can't be put to work.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the HTTP client for the issuer cannot be set up")]
    Client(#[source] FetchError),
    #[error("the way to the MCP server cannot be set up")]
    Upstream(#[source] ConnectorError),
    #[error("the way to the token endpoint cannot be set up")]
    Exchange(#[source] ExchangeSetupError),
    #[error("the way to AWS cannot be set up")]
    Aws(#[source] AwsSetupError),
    #[error("the audit file {path} cannot be opened")]
    Audit {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

/// What a proxy shares with the rest of its process.
#[derive(Debug, Clone)]
pub struct Shared {
    pub clock: SharedClock,
    pub rng: SharedRng,
    pub metrics: ProxyMetrics,
    /// Where audit records go that name no file.
    pub audit: AuditSink,
    pub readiness: Readiness,
    pub drain: DrainWatch,
}

/// One proxy.
#[derive(Debug)]
pub struct Proxy {
    pipeline: ArcSwap<Pipeline>,
    shared: Shared,
    metrics: ProxyMetricsHandle,
    annotations: Arc<AnnotationCache>,
    streams: Arc<AtomicUsize>,
    backend_up: Arc<Mutex<Option<bool>>>,
    remote: Remote,
    current: Mutex<Current>,
    local_port: u16,
}

/// What of the current configuration can outlive a change.
#[derive(Debug)]
struct Current {
    config: ProxyConfig,
    authenticator: Option<Arc<Authenticator>>,
    audit_file: Option<(String, AuditSink)>,
    outgoing: Outgoing,
    /// Cancelled when the doors are closed, and another one then.
    closing: CancellationToken,
    reloads: u64,
    refused: u64,
    last_refusal: Option<String>,
}

impl Proxy {
    /// Makes a proxy ready to answer. `local_port` is the port it listens on.
    ///
    /// # Errors
    /// When the configuration can't be put to work.
    pub fn new(config: ProxyConfig, local_port: u16, shared: Shared) -> Result<Arc<Self>, BuildError> {
        let metrics = shared.metrics.of(&config.name);
        let annotations = Arc::<AnnotationCache>::default();
        let streams = Arc::<AtomicUsize>::default();
        let backend_up = Arc::<Mutex<Option<bool>>>::default();
        let mut current = Current {
            config: config.clone(),
            authenticator: None,
            audit_file: None,
            outgoing: Outgoing::Fixed,
            closing: CancellationToken::new(),
            reloads: 0,
            refused: 0,
            last_refusal: None,
        };
        let parts = Parts {
            shared: &shared,
            metrics: &metrics,
            annotations: &annotations,
            streams: &streams,
            backend_up: &backend_up,
            local_port,
        };
        let pipeline = build(&config, &parts, &mut current)?;
        Ok(Arc::new(Self {
            pipeline: ArcSwap::from_pointee(pipeline),
            metrics,
            annotations,
            streams,
            backend_up,
            remote: Remote::default(),
            current: Mutex::new(current),
            local_port,
            shared,
        }))
    }

    /// Takes a new configuration: requests from now on use it, those that run end under the old one,
    /// and no connection is dropped. One that is suspended ends them. A configuration that can't be put to
    /// work changes nothing.
    ///
    /// # Errors
    /// When the configuration can't be put to work; the old one stays.
    pub fn reload(&self, config: ProxyConfig) -> Result<(), BuildError> {
        let Ok(mut current) = self.current.lock() else { return Ok(()) };
        let parts = Parts {
            shared: &self.shared,
            metrics: &self.metrics,
            annotations: &self.annotations,
            streams: &self.streams,
            backend_up: &self.backend_up,
            local_port: self.local_port,
        };
        match build(&config, &parts, &mut current) {
            Ok(pipeline) => {
                self.pipeline.store(Arc::new(pipeline));
                if config.suspended.is_some() {
                    std::mem::take(&mut current.closing).cancel();
                }
                if !same_way(&current.config, &config) {
                    self.remote.forget(&self.metrics);
                }
                current.config = config;
                current.reloads += 1;
                current.last_refusal = None;
                self.metrics.reload(true);
                Ok(())
            }
            Err(error) => {
                current.refused += 1;
                current.last_refusal = Some(chain(&error));
                self.metrics.reload(false);
                Err(error)
            }
        }
    }

    /// Notes that a new version of the configuration was refused before it came here.
    pub fn refused(&self, reason: &str) {
        if let Ok(mut current) = self.current.lock() {
            current.refused += 1;
            current.last_refusal = Some(reason.to_owned());
            self.metrics.reload(false);
        }
    }

    /// Bounds of the listener.
    pub fn http_limits(&self) -> HttpLimits {
        self.current.lock().map(|current| current.config.limits.http).unwrap_or_default()
    }

    /// What `/status` says of this proxy, as JSON: see [`WorkloadReport`](skep_api::report::WorkloadReport).
    pub fn status(&self) -> Value {
        serde_json::to_value(self.report()).unwrap_or_default()
    }

    /// The keys of the issuers, to be fetched before the first caller comes.
    pub fn keys(&self) -> Vec<Arc<KeyProvider>> {
        let Ok(current) = self.current.lock() else { return Vec::new() };
        current.authenticator.iter().flat_map(|authenticator| authenticator.keys()).cloned().collect()
    }
}

impl Handler for Proxy {
    async fn handle(&self, request: Request<Incoming>, ends: Ends) -> Response<ResponseBody> {
        self.pipeline.load_full().handle(request, ends).await
    }
}

struct Parts<'a> {
    shared: &'a Shared,
    metrics: &'a ProxyMetricsHandle,
    annotations: &'a Arc<AnnotationCache>,
    streams: &'a Arc<AtomicUsize>,
    backend_up: &'a Arc<Mutex<Option<bool>>>,
    local_port: u16,
}

/// True when a probe of the one says something about the other.
fn same_way(before: &ProxyConfig, after: &ProxyConfig) -> bool {
    let probed = |config: &ProxyConfig| config.remote && config.suspended.is_none();
    before.target == after.target
        && before.target_reach == after.target_reach
        && before.add_headers == after.add_headers
        && probed(before) == probed(after)
}

fn build(config: &ProxyConfig, parts: &Parts<'_>, current: &mut Current) -> Result<Pipeline, BuildError> {
    let pipeline = match &config.suspended {
        Some(suspension) => {
            tracing::warn!(
                proxy = config.name,
                reason = suspension.reason,
                "the proxy is suspended: it lets no call through"
            );
            closed(config, parts, current)
        }
        None => open(config, parts, current)?,
    };
    parts.metrics.suspended(config.suspended.is_some());
    Ok(pipeline)
}

/// A pipeline without stages. Nothing about it can fail, and nothing of what was got for callers is kept.
fn closed(config: &ProxyConfig, parts: &Parts<'_>, current: &mut Current) -> Pipeline {
    let audit_file = audit_file(config, current).unwrap_or_else(|error| {
        tracing::warn!(proxy = config.name, error = %chain(&error), "audit records go to standard output");
        None
    });
    parts.metrics.anonymous(false);
    parts.metrics.keys(Vec::new());
    current.authenticator = None;
    current.audit_file = audit_file;
    current.outgoing = Outgoing::Fixed;
    let resource = match &config.auth {
        AuthSettings::Token(token) => Some(authentication::resource(token)),
        AuthSettings::Anonymous => None,
    };
    around(Doors::Suspended(resource), config, parts, current)
}

fn open(config: &ProxyConfig, parts: &Parts<'_>, current: &mut Current) -> Result<Pipeline, BuildError> {
    let shared = parts.shared;
    let policies = match &config.policies {
        Some((cedar, numbers)) => {
            let policies = Policies::load(cedar, &config.name, *numbers).map_err(ConfigError::Policies)?;
            Some(Arc::new(policies))
        }
        None => None,
    };
    let upstream = Upstream::new(config).map_err(BuildError::Upstream)?;
    let audit_file = audit_file(config, current)?;
    let (authentication, authenticator) = authentication(config, shared, current)?;
    // Last of all that can fail: taking over a rotated secret changes what the running version uses.
    let outgoing = outgoing(config, shared, parts.metrics, current)?;
    // From here on the new version is in force.
    for tool in config.tools.shown() {
        if let Some(actual) = config.tools.actual(tool) {
            parts.metrics.know_tool(actual);
        }
    }
    parts.metrics.anonymous(matches!(authentication, Authentication::Anonymous));
    parts
        .metrics
        .keys(authenticator.iter().flat_map(|authenticator| authenticator.keys()).cloned().collect());
    current.authenticator = authenticator;
    current.audit_file = audit_file;
    current.outgoing = outgoing.clone();
    let tools = Arc::new(config.tools.clone());
    let stages = Stages {
        authentication,
        bounds: Bounds {
            bytes: config.limits.body_bytes,
            depth: config.limits.json_depth,
            idle: config.limits.body_idle,
        },
        authorization: policies
            .clone()
            .map(|policies| Authorization { policies, annotations: Arc::clone(parts.annotations) }),
        forward: Forward {
            upstream,
            outgoing,
            doubts: Arc::default(),
            clock: Arc::clone(&shared.clock),
            policies,
            tools: Arc::clone(&tools),
            annotations: Arc::clone(parts.annotations),
            list_bytes: config.limits.list_bytes,
            sse_frame_bytes: config.limits.sse_frame_bytes,
            scan_errors: true,
            drain: shared.drain.clone(),
            closing: current.closing.clone(),
        },
        tools,
        streams: Arc::clone(parts.streams),
        max_streams: config.limits.streams,
        remote: config.remote,
        closing: current.closing.clone(),
    };
    Ok(around(Doors::Open(Box::new(stages)), config, parts, current))
}

/// The pipeline around its doors.
fn around(doors: Doors, config: &ProxyConfig, parts: &Parts<'_>, current: &Current) -> Pipeline {
    let shared = parts.shared;
    let sink = match &current.audit_file {
        Some((_, sink)) => sink.clone(),
        None => shared.audit.clone(),
    };
    let audit = config.audit.clone().map(|audit| (audit, sink));
    Pipeline {
        routes: Routes::new(config),
        entrance: Entrance::new(config, parts.local_port),
        doors,
        recorder: Arc::new(Recorder {
            server: config.name.clone(),
            audit,
            metrics: parts.metrics.clone(),
            registry: shared.metrics.registry().clone(),
            clock: Arc::clone(&shared.clock),
            rng: Arc::clone(&shared.rng),
        }),
        metrics: parts.metrics.clone(),
        readiness: shared.readiness.clone(),
        drain: shared.drain.clone(),
        trust_proxy_headers: config.trust_proxy_headers,
        strict_versions: config.strict_protocol_validation,
        stateless: config.stateless,
        metrics_on_transport_port: config.metrics_on_transport_port,
        clock: Arc::clone(&shared.clock),
        rng: Arc::clone(&shared.rng),
        backend_up: Arc::clone(parts.backend_up),
    }
}

/// The audit file stays open over a change that keeps its name, so that no two writers share it.
fn audit_file(config: &ProxyConfig, current: &Current) -> Result<Option<(String, AuditSink)>, BuildError> {
    let Some(path) =
        config.audit.as_ref().map(|audit| audit.log_file.as_str()).filter(|path| !path.is_empty())
    else {
        return Ok(None);
    };
    if let Some((open, sink)) = &current.audit_file
        && open == path
    {
        return Ok(Some((open.clone(), sink.clone())));
    }
    let sink = AuditSink::file(std::path::Path::new(path))
        .map_err(|source| BuildError::Audit { path: path.to_owned(), source })?;
    Ok(Some((path.to_owned(), sink)))
}

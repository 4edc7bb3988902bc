//! `skep webhook`: the admission webhook, as one process of a cluster.

mod flags;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::json;
use skep_operator::client::{Layers, Target, connect};
use skep_operator::leader::ElectionSettings;
use skep_operator::plan;
use skep_operator::webhook::metrics_guard::MetricsGuard;
use skep_operator::webhook::settings::{CertificateSource, WebhookSettings};
use skep_operator::webhook::{self, Parts, WebhookMetrics};
use skep_runtime::clock::{SharedClock, SystemClock};
use skep_runtime::diagnostics::{Diagnostics, Probes, StatusSource};
use skep_runtime::drain::{Drain, Phase};
use skep_runtime::health::Readiness;
use skep_runtime::http::{HttpLimits, Load, Tls, bind, serve, serve_tls};
use skep_runtime::metrics::Metrics;
use skep_runtime::rng::SystemRng;
use skep_runtime::tls::ServingCertificate;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(crate) use self::flags::Flags;
use super::values::{Maybe, bind_address, switch};
use crate::local::signals::Signals;

/// How long it is still answered after the end was asked for: until the API server knows.
const LEAVING: Duration = Duration::from_secs(3);
/// How long open requests may take to end.
const GRACE: Duration = Duration::from_secs(12);

/// Runs the admission webhook: injects sidecars into MCPServers or their pods, and refuses what `skep check`
/// finds errors in.
///
/// Takes the flags of the original toolhive-webhook. The API server reaches it by HTTPS, with a certificate from
/// files (cert-manager) or one of its own (--self-signed).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kubeconfig file; without one KUBECONFIG, the pod's own cluster or ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Namespace of the webhook itself; without one that of this pod (POD_NAMESPACE).
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Where /metrics and /status are served; 0 serves none.
    #[arg(long, value_name = "ADDRESS", default_value = "0", value_parser = bind_address)]
    metrics_bind_address: Maybe<SocketAddr>,
    /// Serve metrics by HTTPS, and only to those who may `get` the path /metrics.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = switch)]
    metrics_secure: Maybe<bool>,
    /// Where /healthz and /readyz are served; 0 serves none.
    #[arg(long, value_name = "ADDRESS", default_value = ":8081", value_parser = bind_address)]
    health_probe_bind_address: Maybe<SocketAddr>,
    /// Elect who renews the certificate. With --self-signed that is always done; nothing else needs a leader.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    leader_elect: Maybe<bool>,
    /// Refuse workloads without authentication in every namespace. A namespace can ask for it by the label
    /// skep.dev/require-auth.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, env = "SKEP_REQUIRE_AUTH", default_value = "false", default_missing_value = "true", value_parser = switch)]
    require_auth: Maybe<bool>,
    /// Log more (TOOLHIVE_DEBUG does the same).
    #[arg(long)]
    debug: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When the settings contradict each other, a port is taken, or there is no API server to speak to.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    skep_runtime::logging::init(args.debug);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve_until_told(&args))?;
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

async fn serve_until_told(args: &Args) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let target = Target { kubeconfig: args.kubeconfig.clone(), context: args.context.clone() };
    let config = target.config().await?;
    let namespace = super::operator::own_namespace(args.namespace.as_ref(), &config.default_namespace);
    let plan = plan::Settings {
        require_auth: args.require_auth.or(false),
        // Where MCPServers say nothing of it, what they lack follows from the flags.
        sidecars: args.flags.with_pods(),
        ..plan::Settings::default()
    };
    let settings = args.flags.settings(&namespace, plan)?;

    let registry = Metrics::new();
    let metrics = WebhookMetrics::register(&registry);
    let (readiness, serving, drain) = (Readiness::new(), ServingCertificate::empty(), Drain::new());
    // Before anybody can ask: the webhook itself starts a little later.
    readiness.not_ready("discovery", "the API server has not been asked yet");
    let clock = SystemClock::shared();
    let client = connect(config, &Layers::default())?;

    let diagnostics = || Diagnostics {
        metrics: registry.clone(),
        readiness: readiness.clone(),
        status: status(&settings, serving.clone(), Arc::clone(&clock)),
        drain: drain.watch(),
    };
    if let Some(address) = args.health_probe_bind_address.clone().get() {
        let listener = listen(address, "health")?;
        // The port of kubelet: who may see metrics is decided at theirs.
        let handler = Arc::new(Probes { readiness: readiness.clone(), drain: drain.watch() });
        tokio::spawn(serve(listener, handler, HttpLimits::default(), drain.watch(), Load::default()));
    }
    if let Some(address) = args.metrics_bind_address.clone().get() {
        let listener = listen(address, "metrics")?;
        if args.metrics_secure.or(true) {
            let tls = Tls::new(serving.server_config()?);
            let handler = Arc::new(MetricsGuard::new(diagnostics(), client.clone(), Arc::clone(&clock)));
            let (limits, load) = (HttpLimits::default(), Load::default());
            tokio::spawn(serve_tls(listener, tls, handler, limits, drain.watch(), load));
        } else {
            let handler = Arc::new(diagnostics());
            tokio::spawn(serve(listener, handler, HttpLimits::default(), drain.watch(), Load::default()));
        }
    }

    let identity = ElectionSettings::identity(&super::operator::host(), &SystemRng::shared());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        identity,
        elect = args.leader_elect.or(false),
        "the webhook starts"
    );
    let mut running =
        Some(Process { client, settings, metrics, readiness, serving, identity }.start(&drain)?);
    tokio::select! {
        () = signals.stop() => {}
        broken = broken(&mut running) => return Err(broken),
    }
    tracing::info!("ending: no longer ready, open reviews are answered");
    drain.advance(Phase::Leaving);
    let finish = async {
        if let Some(running) = &mut running {
            running.end(&drain).await;
        }
    };
    tokio::select! {
        () = finish => {}
        () = signals.stop() => tracing::warn!("a second signal: ended without waiting"),
    }
    drain.advance(Phase::Stopped);
    Ok(())
}

/// A webhook in this process, alone or beside the operator.
pub(crate) struct Process {
    pub(crate) client: kube::Client,
    pub(crate) settings: WebhookSettings,
    pub(crate) metrics: WebhookMetrics,
    pub(crate) readiness: Readiness,
    pub(crate) serving: ServingCertificate,
    pub(crate) identity: String,
}

/// One that runs.
pub(crate) struct Running(JoinHandle<Result<(), webhook::RunError>>);

impl Process {
    /// Listens, and serves until the drain.
    ///
    /// # Errors
    /// When the port is taken.
    pub(crate) fn start(self, drain: &Drain) -> anyhow::Result<Running> {
        let listener = listen(self.settings.address, "admission reviews")?;
        tracing::info!(
            certificate = certificate(&self.settings.certificates),
            "admission reviews are answered"
        );
        let parts = Parts {
            client: self.client,
            settings: self.settings,
            metrics: self.metrics,
            readiness: self.readiness,
            clock: SystemClock::shared(),
            rng: SystemRng::shared(),
            serving: self.serving,
            identity: self.identity,
        };
        Ok(Running(tokio::spawn(webhook::run(parts, listener, drain.watch()))))
    }
}

impl Running {
    /// Answers what is still asked, and ends. The drain has begun.
    pub(crate) async fn end(&mut self, drain: &Drain) {
        // Until the API server's endpoints are without us it goes on asking, and an error denies.
        tokio::time::sleep(LEAVING).await;
        drain.advance(Phase::Draining);
        if tokio::time::timeout(GRACE, &mut self.0).await.is_err() {
            tracing::warn!("some reviews did not end in time");
        }
    }
}

/// Why a webhook ended that nobody has ended; waits for ever when there is none.
pub(crate) async fn broken(running: &mut Option<Running>) -> anyhow::Error {
    let Some(running) = running else { return std::future::pending().await };
    match (&mut running.0).await {
        Ok(Ok(())) => anyhow!("the webhook ended by itself"),
        Ok(Err(error)) => error.into(),
        Err(panic) => anyhow!(panic).context("the webhook broke"),
    }
}

fn certificate(source: &CertificateSource) -> String {
    match source {
        CertificateSource::Files { certificate, .. } => certificate.display().to_string(),
        CertificateSource::SelfSigned(own) => format!("Secret {}/{}", own.namespace, own.secret),
    }
}

/// The body of `/status`.
fn status(settings: &WebhookSettings, serving: ServingCertificate, clock: SharedClock) -> StatusSource {
    let source = certificate(&settings.certificates);
    let point = settings.injection_point;
    Arc::new(move || {
        let until = serving.not_after();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "injectionPoint": match point {
                webhook::settings::InjectionPoint::Server => "mcpserver",
                webhook::settings::InjectionPoint::Pod => "pod",
            },
            "certificate": {
                "source": source,
                "notAfter": until.map(|until| until.to_string()),
                "valid": until.is_some_and(|until| until > clock.now()),
            },
        })
    })
}

/// Listens, and says where.
fn listen(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    let listener = bind(address).with_context(|| format!("cannot listen on {address} for {what}"))?;
    tracing::info!(address = %listener.local_addr()?, "serving {what}");
    Ok(listener)
}

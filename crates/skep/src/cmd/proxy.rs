//! `skep proxy run`: the entry point of a proxy pod.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use ipnet::IpNet;
use serde_json::{Value, json};
use skep_api::address::Egress;
use skep_api::runconfig::{RunConfig, SEARCH_PATH};
use skep_api::secret::Secret;
use skep_proxy::audit::AuditSink;
use skep_proxy::config::{self, ProxyConfig, Surroundings};
use skep_proxy::metrics::ProxyMetrics;
use skep_proxy::probe::ProbeTimes;
use skep_proxy::service::{Proxy, Shared};
use skep_runtime::clock::SystemClock;
use skep_runtime::diagnostics::{DEFAULT_PORT, Diagnostics};
use skep_runtime::drain::{Drain, DrainTimes};
use skep_runtime::health::Readiness;
use skep_runtime::http::{HttpLimits, Load, bind, serve};
use skep_runtime::logging::chain;
use skep_runtime::metrics::Metrics;
use skep_runtime::rng::SystemRng;
use skep_runtime::watch::{SteadyWatch, Trouble};

use crate::local::signals::Signals;

/// The proxy of one workload.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Run(Box<RunArgs>),
}

/// Runs the proxy that a RunConfig describes.
///
/// The RunConfig is read from --config, else from the first of /etc/runconfig/runconfig.json,
/// /etc/toolhive/runconfig.json and ./runconfig.json. It and every file it names are watched: a change is
/// taken without dropping a connection, and one that can't be used is refused while the old one stays.
#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Image of the MCP server; wins over the one in the RunConfig.
    image: Option<String>,
    /// Arguments of the MCP server; they win over those in the RunConfig.
    #[arg(last = true)]
    arguments: Vec<String>,
    /// RunConfig to use.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Template of the MCP server's pod, as JSON (set by the operator).
    #[arg(long, value_name = "JSON", hide = true)]
    k8s_pod_patch: Option<String>,
    /// Networks that are never called, besides metadata, link-local and the API server. May be given more
    /// than once.
    #[arg(long, value_name = "CIDR")]
    egress_deny: Vec<IpNet>,
    /// Loopback addresses may be called: for a laptop, never for a pod.
    #[arg(long)]
    egress_loopback: bool,
    /// Seconds between not being ready and taking no more connections.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    drain_pre_stop: u64,
    /// Seconds that running calls have to finish.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_grace: u64,
    /// Log more (TOOLHIVE_DEBUG does the same).
    #[arg(long)]
    debug: bool,
    #[command(flatten)]
    former: FormerFlags,
}

/// Flags that ToolHive's proxy runner once had. Manifests of that time still start it with them; what they
/// said is in the RunConfig now.
#[derive(Debug, clap::Args)]
struct FormerFlags {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    foreground: Option<Option<String>>,
    #[arg(long, hide = true)]
    transport: Option<String>,
    #[arg(long, hide = true)]
    proxy_mode: Option<String>,
    #[arg(long, hide = true)]
    name: Option<String>,
    #[arg(long, hide = true)]
    host: Option<String>,
    #[arg(long, hide = true)]
    proxy_port: Option<String>,
    #[arg(long, hide = true)]
    target_port: Option<String>,
    #[arg(long, hide = true)]
    permission_profile: Option<String>,
    #[arg(long, hide = true)]
    env_file_dir: Option<String>,
    #[arg(long = "env", hide = true)]
    environment: Vec<String>,
}

impl FormerFlags {
    fn given(&self) -> Vec<&'static str> {
        let mut given = Vec::new();
        let mut add = |name, is: bool| given.extend(is.then_some(name));
        add("--foreground", self.foreground.is_some());
        add("--transport", self.transport.is_some());
        add("--proxy-mode", self.proxy_mode.is_some());
        add("--name", self.name.is_some());
        add("--host", self.host.is_some());
        add("--proxy-port", self.proxy_port.is_some());
        add("--target-port", self.target_port.is_some());
        add("--permission-profile", self.permission_profile.is_some());
        add("--env-file-dir", self.env_file_dir.is_some());
        add("--env", !self.environment.is_empty());
        given
    }
}

/// Runs until it is told to stop.
///
/// # Errors
/// When there is no usable RunConfig, or the port can't be had.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Command::Run(args) = args.command;
    skep_runtime::logging::init(args.debug);
    let former = args.former.given();
    if !former.is_empty() {
        tracing::warn!(flags = ?former, "these flags have no effect any more: what they said is in the RunConfig");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve_until_stopped(&args))?;
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

async fn serve_until_stopped(args: &RunArgs) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let path = match &args.config {
        Some(path) => path.clone(),
        None => config::find(&SEARCH_PATH)?.0,
    };
    let (config, mut watch) = load_and_watch(args, &path)?;
    let listener = bind(config.bind).with_context(|| format!("cannot listen on {}", config.bind))?;
    let address = listener.local_addr()?;

    let registry = Metrics::new();
    let drain = Drain::new();
    let shared = Shared {
        clock: SystemClock::shared(),
        rng: SystemRng::shared(),
        metrics: ProxyMetrics::register(&registry),
        audit: AuditSink::stdout(),
        readiness: Readiness::new(),
        drain: drain.watch(),
    };
    let readiness = shared.readiness.clone();
    let metrics_port = if config.metrics_port == 0 { DEFAULT_PORT } else { config.metrics_port };
    let metrics_host = config.bind.ip();
    let proxy = Proxy::new(config, address.port(), shared)?;

    let diagnostics = bind_diagnostics(metrics_host, metrics_port)?;
    let (proxy_status, trouble) = (Arc::clone(&proxy), watch.trouble());
    let handler = Diagnostics {
        metrics: registry,
        readiness,
        status: Arc::new(move || status(&proxy_status, &trouble)),
        drain: drain.watch(),
    };
    tokio::spawn(serve(
        diagnostics,
        Arc::new(handler),
        HttpLimits::default(),
        drain.watch(),
        Load::default(),
    ));
    // Keys are fetched and the remote server is asked before the first caller comes.
    tokio::spawn(Arc::clone(&proxy).attend(ProbeTimes::default()));
    let load = Load::default();
    let serving =
        tokio::spawn(serve(listener, Arc::clone(&proxy), proxy.http_limits(), drain.watch(), load.clone()));
    tracing::info!(address = %address, config = %path.display(), "the proxy is up");

    loop {
        tokio::select! {
            () = signals.stop() => break,
            () = watch.changed() => take_change(args, &path, &proxy, address, &mut watch),
        }
    }
    tracing::info!("draining");
    let times = DrainTimes {
        pre_stop: std::time::Duration::from_secs(args.drain_pre_stop),
        grace: std::time::Duration::from_secs(args.drain_grace),
    };
    tokio::select! {
        () = async {
            drain.run(times, load.idle()).await;
            let _ = serving.await;
        } => {}
        () = signals.stop() => tracing::warn!("a second signal: ended without waiting"),
    }
    Ok(())
}

/// The configuration, read after its files are watched: a change in between would be lost.
fn load_and_watch(args: &RunArgs, path: &Path) -> anyhow::Result<(ProxyConfig, SteadyWatch)> {
    // Whether it can be read at all comes before anything is said about watching.
    let mut watch = SteadyWatch::new(files_of(path, &config::read(path)?));
    let (run_config, checksum) = config::read_with_checksum(path)?;
    watch.set(files_of(path, &run_config));
    let config = load(args, run_config).with_context(|| format!("{} can't be used", path.display()))?;
    Ok((ProxyConfig { checksum: Some(checksum), ..config }, watch))
}

/// Takes the configuration as it is now, and watches what it names.
fn take_change(args: &RunArgs, path: &Path, proxy: &Proxy, address: SocketAddr, watch: &mut SteadyWatch) {
    match try_change(args, path, proxy, address, watch) {
        Ok(()) => tracing::info!(config = %path.display(), "the changed configuration is in use"),
        Err(error) => {
            tracing::error!(config = %path.display(), error = %format!("{error:#}"), "the changed configuration is refused; the old one stays");
        }
    }
}

/// Files that only a refused configuration names are watched beside those of the one in use: a change of
/// either may be what is waited for.
fn try_change(
    args: &RunArgs,
    path: &Path,
    proxy: &Proxy,
    address: SocketAddr,
    watch: &mut SteadyWatch,
) -> anyhow::Result<()> {
    let refused = |error: &config::ConfigError| proxy.refused(&chain(error));
    let (run_config, checksum) = config::read_with_checksum(path).inspect_err(refused)?;
    let named = files_of(path, &run_config);
    // Before they are read: a change in between would be lost.
    watch.add(named.clone());
    let config = load(args, run_config).inspect_err(refused)?;
    let config = ProxyConfig { checksum: Some(checksum), ..config };
    if config.bind.port() != 0 && config.bind != address {
        tracing::warn!(
            wanted = %config.bind,
            address = %address,
            "the address to listen on changes with a restart only"
        );
    }
    proxy.reload(config)?;
    watch.set(named);
    Ok(())
}

/// The RunConfig and every file that it names.
fn files_of(path: &Path, run_config: &RunConfig) -> Vec<PathBuf> {
    let mut files = config::named_files(run_config);
    files.push(path.to_owned());
    files
}

/// What `/status` says: the proxy, and whether a change of its files is seen at once.
fn status(proxy: &Proxy, trouble: &Trouble) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "proxies": [proxy.status()],
        "files": trouble.status(),
    })
}

/// The RunConfig with what the command line and the environment say over it.
fn load(args: &RunArgs, mut run_config: RunConfig) -> Result<ProxyConfig, config::ConfigError> {
    if let Some(image) = &args.image {
        run_config.image.clone_from(image);
    }
    if !args.arguments.is_empty() {
        run_config.cmd_args.clone_from(&args.arguments);
    }
    if let Some(patch) = args.k8s_pod_patch.as_ref().filter(|patch| !patch.is_empty()) {
        run_config.k8s_pod_template_patch.clone_from(patch);
    }
    if let Some(generation) = generation(std::env::var("THV_MCPSERVER_GENERATION").ok().as_deref()) {
        run_config.mcpserver_generation = Some(generation);
    }
    let mut deny = args.egress_deny.clone();
    let api_server =
        std::env::var("KUBERNETES_SERVICE_HOST").ok().and_then(|host| host.parse::<IpAddr>().ok());
    deny.extend(api_server.map(IpNet::from));
    let variable = |name: &str| std::env::var(name).ok().map(Secret::new);
    let egress = Egress { loopback: args.egress_loopback, deny };
    ProxyConfig::new(&run_config, &Surroundings { variable: &variable, egress })
}

/// The generation that the pod's annotation carries; what is none is said and passed over.
fn generation(variable: Option<&str>) -> Option<i64> {
    let text = variable.filter(|text| !text.is_empty())?;
    match text.parse::<i64>() {
        Ok(generation) if generation >= 0 => Some(generation),
        Ok(_) => {
            tracing::warn!("ignoring negative THV_MCPSERVER_GENERATION; the RunConfig's value stays");
            None
        }
        Err(_) => {
            tracing::warn!("ignoring unparsable THV_MCPSERVER_GENERATION; the RunConfig's value stays");
            None
        }
    }
}

fn bind_diagnostics(host: IpAddr, port: u16) -> anyhow::Result<tokio::net::TcpListener> {
    match bind(SocketAddr::new(host, port)) {
        Ok(listener) => Ok(listener),
        Err(error) => {
            let listener = bind(SocketAddr::new(host, 0)).context("cannot open the listener for metrics")?;
            tracing::warn!(
                wanted = port,
                error = %error,
                address = %listener.local_addr()?,
                "the port for metrics is taken; update the scrape configuration to target this address"
            );
            Ok(listener)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::generation;

    #[test]
    fn a_generation_is_a_whole_number_from_0() {
        for (text, expected) in
            [(None, None), (Some(""), None), (Some("7"), Some(7)), (Some("-1"), None), (Some("x"), None)]
        {
            assert_eq!(generation(text), expected, "{text:?}");
        }
    }
}

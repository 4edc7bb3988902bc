//! `skep operator`: the controllers, as one process of a cluster.

mod former;
mod sidecars;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use ipnet::IpNet;
use serde_json::json;
use skep_api::address::Egress;
use skep_operator::client::{ApiCalls, Layers, Target, WriteGate, connect};
use skep_operator::events::Events;
use skep_operator::leader::{ClusterLeases, ElectionSettings, Elector, LeaderError, WRITE_MARGIN};
use skep_operator::metrics::OperatorMetrics;
use skep_operator::observe::ReporterSettings;
use skep_operator::plan::{self, DefaultRedis};
use skep_operator::settings::OperatorSettings;
use skep_operator::webhook::WebhookMetrics;
use skep_operator::{Parts, RunError};
use skep_runtime::clock::{SharedClock, SystemClock};
use skep_runtime::diagnostics::{Diagnostics, StatusSource};
use skep_runtime::drain::{Drain, Phase};
use skep_runtime::health::Readiness;
use skep_runtime::http::{HttpLimits, Load, bind, serve};
use skep_runtime::metrics::Metrics;
use skep_runtime::rng::{SharedRng, SystemRng};
use skep_runtime::tls::ServingCertificate;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::former::FormerFlags;
use self::sidecars::SidecarFlags;
use super::values::{Maybe, bind_address, namespaces, pull_secrets, redis_address, switch};
use crate::local::signals::Signals;

/// How long what runs may take to end: the operator's own grace and a little.
const GRACE: Duration = Duration::from_secs(12);
/// How long giving up the lease may take.
const RELEASE: Duration = Duration::from_secs(6);

/// Runs the controllers: applies what MCPServers, MCPRemoteProxies and their configs say.
///
/// Takes the flags and the environment of ToolHive's operator. Several may run; the one that holds the Lease
/// toolhive-operator-leader-election works, the others wait.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kubeconfig file; without one KUBECONFIG, the pod's own cluster or ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Where /metrics is served; 0 serves none.
    #[arg(long, value_name = "ADDRESS", default_value = ":8080", value_parser = bind_address)]
    metrics_bind_address: Maybe<SocketAddr>,
    /// Where /healthz and /readyz are served; 0 serves none.
    #[arg(long, value_name = "ADDRESS", default_value = ":8081", value_parser = bind_address)]
    health_probe_bind_address: Maybe<SocketAddr>,
    /// Work only while holding the Lease: for more than one replica, and beside a ToolHive operator.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    leader_elect: Maybe<bool>,
    /// Namespace of the Lease; without one that of this pod (POD_NAMESPACE).
    #[arg(long, value_name = "NAMESPACE")]
    leader_election_namespace: Option<String>,
    /// Namespaces to look at, separated by commas; empty: all.
    #[arg(long, value_name = "NAMES", env = "WATCH_NAMESPACE", default_value = "", value_parser = namespaces)]
    watch_namespace: Maybe<Vec<String>>,
    /// Refuse workloads without authentication in every namespace. A namespace can ask for it by the label
    /// skep.dev/require-auth.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, env = "SKEP_REQUIRE_AUTH", default_value = "false", default_missing_value = "true", value_parser = switch)]
    require_auth: Maybe<bool>,
    /// Objects that are reconciled at the same time.
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Ask proxies for their report on port 9464. Turn it off where this process can't reach pods.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = switch)]
    ask_proxies: Maybe<bool>,
    /// Image of the proxies.
    #[arg(long, value_name = "IMAGE", env = "TOOLHIVE_RUNNER_IMAGE", default_value = "")]
    runner_image: String,
    /// Address on which proxies listen.
    #[arg(long, value_name = "ADDRESS", env = "TOOLHIVE_PROXY_HOST", default_value = "")]
    proxy_host: String,
    /// Secrets for pulling images, separated by commas; every pod gets them.
    #[arg(long, value_name = "NAMES", env = "TOOLHIVE_DEFAULT_IMAGE_PULL_SECRETS", default_value = "", value_parser = pull_secrets)]
    default_image_pull_secrets: Maybe<Vec<String>>,
    /// Redis of proxies whose manifest names none, as host:port.
    #[arg(long, value_name = "HOST:PORT", env = "TOOLHIVE_DEFAULT_REDIS_ADDR", default_value = "", value_parser = redis_address)]
    default_redis_addr: Maybe<String>,
    /// Secret with its password, in the namespace of each proxy.
    #[arg(long, value_name = "NAME", env = "TOOLHIVE_DEFAULT_REDIS_SECRET_NAME", default_value = "")]
    default_redis_secret_name: String,
    /// Key in that Secret.
    #[arg(long, value_name = "KEY", env = "TOOLHIVE_DEFAULT_REDIS_SECRET_KEY", default_value = "")]
    default_redis_secret_key: String,
    /// Rewrite stored objects in the storage version of their CRD. Needs rights on the whole cluster.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, env = "TOOLHIVE_ENABLE_STORAGE_VERSION_MIGRATOR", default_value = "", default_missing_value = "true", value_parser = switch)]
    storage_version_migrator: Maybe<bool>,
    /// Log more (TOOLHIVE_DEBUG does the same).
    #[arg(long)]
    debug: bool,
    #[command(flatten)]
    sidecars: SidecarFlags,
    /// Serve the admission webhook too, as `skep webhook` does. Without it the flags of the webhook that decide
    /// about pods still say what its own process was told.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    webhook: Maybe<bool>,
    #[command(flatten)]
    webhook_flags: super::webhook::Flags,
    #[command(flatten)]
    former: FormerFlags,
}

impl Args {
    fn settings(&self) -> anyhow::Result<OperatorSettings> {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let mut plan = plan::Settings { require_auth: self.require_auth.or(false), ..Default::default() };
        if let Some(image) = given(&self.runner_image) {
            plan.runner_image = image;
        }
        if let Some(host) = given(&self.proxy_host) {
            plan.proxy_host = host;
        }
        plan.sidecars = self.webhook_flags.with_pods();
        // The folder of the socket that the webhook injects needs no label on the namespace.
        plan.workload_api_folder = self.webhook_flags.socket_folder()?;
        plan.image_pull_secrets = self.default_image_pull_secrets.clone().or_default();
        plan.default_redis = match self.default_redis_addr.clone().get() {
            Some(addr) => Some(DefaultRedis {
                addr,
                secret_name: given(&self.default_redis_secret_name).unwrap_or_default(),
                secret_key: given(&self.default_redis_secret_key).unwrap_or_default(),
            }),
            None if given(&self.default_redis_secret_name).is_some() => {
                bail!(
                    "TOOLHIVE_DEFAULT_REDIS_SECRET_NAME is set and TOOLHIVE_DEFAULT_REDIS_ADDR is not: name the Redis, or no Secret"
                )
            }
            None => None,
        };
        if let Some(redis) = &plan.default_redis
            && redis.secret_name.is_empty() != redis.secret_key.is_empty()
        {
            bail!(
                "TOOLHIVE_DEFAULT_REDIS_SECRET_NAME and TOOLHIVE_DEFAULT_REDIS_SECRET_KEY belong together: set both or none"
            );
        }
        let namespaces = self.watch_namespace.clone().or_default();
        let migrate = self.storage_version_migrator.or(namespaces.is_empty());
        if migrate && !namespaces.is_empty() {
            bail!(
                "the storage version migrator works on the whole cluster: unset WATCH_NAMESPACE, or set TOOLHIVE_ENABLE_STORAGE_VERSION_MIGRATOR to false"
            );
        }
        Ok(OperatorSettings {
            plan,
            namespaces,
            workers: usize::from(self.workers),
            migrate,
            ask_proxies: self.ask_proxies.or(true),
            registration: self.sidecars.registration(egress())?,
        })
    }
}

/// Runs until it is told to stop, or has lost the lead.
///
/// # Errors
/// When the settings contradict each other, a port is taken, there is no API server to speak to, or the lead
/// was lost. The cluster starts the process again.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    skep_runtime::logging::init(args.debug);
    args.former.tell();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(operate(&args))?;
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

async fn operate(args: &Args) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let settings = args.settings()?;
    let registry = Metrics::new();
    let metrics = OperatorMetrics::register(&registry);
    let readiness = Readiness::new();
    // Taken back by `run`, once it has asked.
    readiness.not_ready("discovery", "the API server has not been reached yet");
    let drain = Drain::new();
    let (clock, rng) = (SystemClock::shared(), SystemRng::shared());

    // Before anything that may take long, so that kubelet sees a living process.
    let (state, leading) = watch::channel(false);
    let status = status(&settings, leading.clone());
    for address in [args.metrics_bind_address.clone().get(), args.health_probe_bind_address.clone().get()] {
        let Some(address) = address else { continue };
        let handler = Diagnostics {
            metrics: registry.clone(),
            readiness: readiness.clone(),
            status: Arc::clone(&status),
            drain: drain.watch(),
        };
        let listener = listen(address)?;
        tokio::spawn(serve(
            listener,
            Arc::new(handler),
            HttpLimits::default(),
            drain.watch(),
            Load::default(),
        ));
    }

    let target = Target { kubeconfig: args.kubeconfig.clone(), context: args.context.clone() };
    let config = target.config().await?;
    let namespace = own_namespace(args.leader_election_namespace.as_ref(), &config.default_namespace);
    let identity = ElectionSettings::identity(&host(), &rng);
    let elect = args.leader_elect.or(false);
    let gate = if elect {
        WriteGate::closed(Arc::clone(&clock), WRITE_MARGIN)
    } else {
        WriteGate::always_open(Arc::clone(&clock))
    };
    let calls = Some(ApiCalls::register(&registry));
    let client =
        connect(config.clone(), &Layers { gate: Some(gate.clone()), calls: calls.clone(), hook: None })?;
    // For the Lease itself and for events.
    let ungated = connect(config, &Layers { gate: None, calls, hook: None })?;
    let webhook = if args.webhook.or(false) {
        let process = super::webhook::Process {
            client: ungated.clone(),
            settings: args.webhook_flags.settings(&namespace, settings.plan.clone())?,
            metrics: WebhookMetrics::register(&registry),
            readiness: readiness.of_part("webhook"),
            serving: ServingCertificate::empty(),
            identity: identity.clone(),
        };
        Some(process.start(&drain)?)
    } else {
        None
    };
    let events = Events::new(ungated.clone(), &identity, gate.clone(), Arc::clone(&clock), metrics.clone());
    let election = Election::start(elect, ungated, &namespace, &identity, (&clock, &rng), gate, state);
    tokio::spawn(show_leadership(leading.clone(), metrics.clone()));

    let stop = CancellationToken::new();
    let parts = Parts {
        client,
        settings,
        events,
        metrics: metrics.clone(),
        readiness,
        clock,
        rng,
        reporter: reporter(),
        leading,
        observer: None,
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), identity, "the operator starts");
    let work = tokio::spawn(skep_operator::run(parts, stop.clone()));
    until_the_end(&mut signals, &drain, &metrics, work, webhook, stop, election).await
}

/// Waits for the end, whoever decides it, and goes through it: no new work, what runs is finished, the lease is
/// given up.
async fn until_the_end(
    signals: &mut Signals,
    drain: &Drain,
    metrics: &OperatorMetrics,
    mut work: JoinHandle<Result<(), RunError>>,
    mut webhook: Option<super::webhook::Running>,
    stop: CancellationToken,
    mut election: Election,
) -> anyhow::Result<()> {
    tokio::select! {
        () = signals.stop() => {}
        ended = super::webhook::broken(&mut webhook) => {
            stop.cancel();
            election.give_up().await;
            return Err(ended);
        }
        ended = &mut work => {
            election.give_up().await;
            if let Some(webhook) = &mut webhook {
                drain.advance(Phase::Leaving);
                webhook.end(drain).await;
            }
            return match ended {
                Ok(result) => result.map_err(Into::into),
                Err(panic) => Err(anyhow!(panic).context("the operator broke")),
            };
        }
        lost = election.lost() => {
            metrics.leadership_lost();
            stop.cancel();
            if let Some(webhook) = &mut webhook {
                drain.advance(Phase::Leaving);
                webhook.end(drain).await;
            }
            return Err(lost.context("this operator does not lead any more; it has to start again"));
        }
    }
    tracing::info!("ending: what runs is finished, then the lease is given up");
    drain.advance(Phase::Leaving);
    stop.cancel();
    let finish = async {
        if tokio::time::timeout(GRACE, &mut work).await.is_err() {
            tracing::warn!("some reconciles did not end in time; the next operator takes them up");
            work.abort();
        }
        // Only now, when nothing writes any more.
        election.give_up().await;
        if let Some(webhook) = &mut webhook {
            webhook.end(drain).await;
        }
    };
    tokio::select! {
        () = finish => {}
        () = signals.stop() => tracing::warn!("a second signal: ended without waiting"),
    }
    drain.advance(Phase::Stopped);
    Ok(())
}

/// The part in the election, or that there is none.
struct Election {
    stop: CancellationToken,
    elector: Option<JoinHandle<Result<(), LeaderError>>>,
    _state: watch::Sender<bool>,
}

impl Election {
    fn start(
        elect: bool,
        client: kube::Client,
        namespace: &str,
        identity: &str,
        (clock, rng): (&SharedClock, &SharedRng),
        gate: WriteGate,
        state: watch::Sender<bool>,
    ) -> Self {
        let stop = CancellationToken::new();
        if !elect {
            state.send_replace(true);
            return Self { stop, elector: None, _state: state };
        }
        let settings = ElectionSettings::new(namespace, identity);
        let leases = ClusterLeases::new(client, namespace, &settings.name);
        let elector = Elector::new(leases, settings, Arc::clone(clock), Arc::clone(rng), gate);
        let mut leading = elector.leading();
        let told = state.clone();
        tokio::spawn(async move {
            while leading.changed().await.is_ok() {
                told.send_replace(*leading.borrow_and_update());
            }
            told.send_replace(false);
        });
        Self { elector: Some(tokio::spawn(elector.run(stop.clone()))), stop, _state: state }
    }

    /// Waits until the lead is lost.
    async fn lost(&mut self) -> anyhow::Error {
        let Some(elector) = &mut self.elector else { return std::future::pending().await };
        match elector.await {
            Ok(Ok(())) => anyhow!("the election ended"),
            Ok(Err(error)) => error.into(),
            Err(panic) => anyhow!(panic),
        }
    }

    async fn give_up(&mut self) {
        self.stop.cancel();
        if let Some(elector) = self.elector.take() {
            let _ = tokio::time::timeout(RELEASE, elector).await;
        }
    }
}

async fn show_leadership(mut leading: watch::Receiver<bool>, metrics: OperatorMetrics) {
    loop {
        metrics.leading(*leading.borrow_and_update());
        if leading.changed().await.is_err() {
            return;
        }
    }
}

/// The body of `/status`.
fn status(settings: &OperatorSettings, leading: watch::Receiver<bool>) -> StatusSource {
    let namespaces = settings.namespaces.clone();
    Arc::new(move || {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "leading": *leading.borrow(),
            "namespaces": namespaces,
        })
    })
}

/// The namespace of this process: what the flag says, else what the pod says, else that of the configuration.
pub(super) fn own_namespace(said: Option<&String>, of_config: &str) -> String {
    let variable = std::env::var("POD_NAMESPACE").ok();
    said.cloned()
        .or(variable)
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or_else(|| of_config.to_owned())
}

/// The name of this pod or machine.
pub(super) fn host() -> String {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    set("POD_NAME")
        .or_else(|| set("HOSTNAME"))
        .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

/// Pods tell their address, so it is never believed that it is one: the API server is not to be called.
fn reporter() -> ReporterSettings {
    ReporterSettings { egress: egress(), ..ReporterSettings::default() }
}

/// Neither this machine nor the API server.
fn egress() -> Egress {
    let host = std::env::var("KUBERNETES_SERVICE_HOST").ok().and_then(|host| host.parse::<IpAddr>().ok());
    Egress { loopback: false, deny: host.map(IpNet::from).into_iter().collect() }
}

/// Listens, and says where.
fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = bind(address).with_context(|| format!("cannot listen on {address}"))?;
    tracing::info!(address = %listener.local_addr()?, "serving health and metrics");
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use skep_operator::sidecars::{Registration, SidecarMode};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn settings(line: &str) -> Result<OperatorSettings, String> {
        let words = std::iter::once("operator").chain(line.split(' ').filter(|word| !word.is_empty()));
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.args.settings().map_err(|error| error.to_string())
    }

    #[test]
    fn the_flags_of_the_other_operator_are_taken() {
        for line in [
            "--leader-elect",
            "--leader-elect=true --metrics-bind-address=:8080 --health-probe-bind-address=:8081",
            "--metrics-bind-address=0 --health-probe-bind-address=127.0.0.1:9000",
            "--zap-log-level=debug --zap-devel --zap-encoder=json --enable-http2=false --metrics-secure",
        ] {
            settings(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        let error = settings("--frobnicate").expect_err("unknown");
        assert!(error.contains("--frobnicate"), "{error}");
    }

    #[test]
    fn what_the_environment_says_becomes_settings() {
        // The same as the variables, which tests can't set.
        let read = settings(
            "--watch-namespace=a,b --runner-image=skep:1 --proxy-host=:: --default-image-pull-secrets=x,y --default-redis-addr=redis:6379 --default-redis-secret-name=r --default-redis-secret-key=k --require-auth",
        )
        .expect("settings");
        assert_eq!(read.namespaces, ["a", "b"]);
        assert!(!read.migrate, "a part of the cluster is not migrated");
        assert!(read.plan.require_auth);
        assert_eq!((read.plan.runner_image.as_str(), read.plan.proxy_host.as_str()), ("skep:1", "::"));
        assert_eq!(read.plan.image_pull_secrets, ["x", "y"]);
        let redis = read.plan.default_redis.expect("a Redis");
        assert_eq!((redis.addr.as_str(), redis.secret_name.as_str()), ("redis:6379", "r"));
    }

    #[test]
    fn an_empty_variable_is_none() {
        let read =
            settings("--watch-namespace= --runner-image= --default-redis-addr= --storage-version-migrator=")
                .expect("settings");
        assert_eq!(read.namespaces, Vec::<String>::new());
        assert_eq!(read.plan, plan::Settings::default());
        assert!(read.migrate);
    }

    #[test]
    fn how_clients_are_registered_is_read() {
        let read = settings("").expect("settings");
        assert!(read.registration.is_none() && read.plan.sidecars.is_none());
        let read = settings(
            "--keycloak-url=https://id.example.com --keycloak-realm=demo --keycloak-credentials=/etc/k --spiffe-trust-domain=example.org --keycloak-ca=/etc/ca.pem --keycloak-audience-scope=false --injection-point=pod --registration=operator --sidecar-mode=builtin --enable-client-registration=false",
        )
        .expect("settings");
        let registration = read.registration.expect("a registration");
        assert_eq!(
            (registration.realm.as_str(), registration.trust_domain.as_str()),
            ("demo", "example.org")
        );
        assert_eq!(registration.credentials, PathBuf::from("/etc/k"));
        assert_eq!(registration.ca, Some(PathBuf::from("/etc/ca.pem")));
        assert!(!registration.audience_scope && !registration.egress.loopback);
        let scoped = |flag: &str| {
            let line = format!(
                "--keycloak-url=https://k --keycloak-realm=r --keycloak-credentials=/c --spiffe-trust-domain=d {flag}"
            );
            settings(&line).expect("settings").registration.expect("a registration").audience_scope
        };
        assert!(!scoped(""), "every server's tokens would be good at every other");
        assert!(scoped("--keycloak-audience-scope"));
        let pods = read.plan.sidecars.expect("pods");
        assert!(!pods.default_on);
        assert_eq!((pods.mode, pods.registration), (SidecarMode::Builtin, Registration::Operator));
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        for (line, wrong) in [
            ("--watch-namespace=a --storage-version-migrator=true", "the whole cluster"),
            ("--default-redis-secret-name=r", "TOOLHIVE_DEFAULT_REDIS_ADDR"),
            ("--default-redis-addr=redis:6379 --default-redis-secret-name=r", "belong together"),
            ("--default-redis-addr=redis", "host:port"),
            ("--watch-namespace=A_b", "namespace"),
            ("--leader-elect=maybe", "true or false"),
            ("--workers=0", "0"),
            (
                "--keycloak-url=https://k --keycloak-realm=r",
                "--keycloak-credentials and --spiffe-trust-domain",
            ),
            ("--keycloak-ca=/c", "--keycloak-url"),
            (
                "--keycloak-url=k --keycloak-realm=r --keycloak-credentials=/c --spiffe-trust-domain=d",
                "clients can't be registered",
            ),
            (
                "--keycloak-url=https://k --keycloak-realm=r --keycloak-credentials=/c --spiffe-trust-domain=spiffe://d",
                "clients can't be registered",
            ),
            ("--injection-point=deployment", "mcpserver"),
            ("--metrics-bind-address=here", "here"),
        ] {
            let error = settings(line).expect_err(line);
            assert!(error.contains(wrong), "{line}: {error}");
        }
    }
}

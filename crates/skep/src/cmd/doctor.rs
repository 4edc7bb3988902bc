//! `skep doctor`: looks at a cluster and says what stands in the way.

mod api_server;
mod cluster;
mod crds;
mod finding;
mod issuers;
mod operator;
mod proxies;
mod rights;
mod webhook;

use std::path::PathBuf;
use std::process::ExitCode;

use skep_api::address::Egress;
use skep_operator::client::{Layers, Target, connect};
use skep_runtime::clock::SystemClock;

use self::cluster::Cluster;
use self::finding::Findings;
use crate::cmd::report::Output;

/// Looks at a cluster and says what stands in the way: API server, CRDs, rights, operator, webhook, proxies, identity
/// providers. It changes nothing: the MCPServer by which it tries the webhook is a dry run.
///
/// One line a check: ok, warn or fail, and what to do about it; skip is what could not be looked at from here.
/// Ends with 1 when something failed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kubeconfig file; without one KUBECONFIG, the pod's own cluster or ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Look at the proxies and issuers of this namespace only, and try the webhook there.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Namespace of the operator; without one it is searched for.
    #[arg(long, value_name = "NAMESPACE")]
    operator_namespace: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Loopback addresses may be called.
    #[arg(long, hide = true)]
    egress_loopback: bool,
}

/// Looks, and prints what it found.
///
/// # Errors
/// When there is no configuration for a cluster.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let findings = runtime.block_on(examine(&args))?;
    runtime.shutdown_background();
    findings.print(args.output)?;
    Ok(if findings.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Every check, each after what it builds on. Without an API server there is nothing more to look at.
async fn examine(args: &Args) -> anyhow::Result<Findings> {
    let target = Target { kubeconfig: args.kubeconfig.clone(), context: args.context.clone() };
    let config = target.config().await?;
    let address = config.cluster_url.to_string();
    let cluster = Cluster::new(connect(config, &Layers::default())?, SystemClock::shared());
    let mut findings = Findings::default();
    let Some(clock) = api_server::check(&cluster, &address, &mut findings).await else { return Ok(findings) };
    let kinds = crds::check(&cluster, &mut findings).await;
    let installed = operator::find(&cluster, args.operator_namespace.as_deref(), &mut findings).await;
    if let Some(installed) = &installed {
        rights::check(&cluster, installed, &mut findings).await;
        operator::check_lease(&cluster, installed, clock, &mut findings).await;
    }
    webhook::check(&cluster, &kinds, args.namespace.as_deref(), clock, &mut findings).await;
    let objects = proxies::objects(&cluster, &kinds, args.namespace.as_deref(), &mut findings).await;
    proxies::check(&cluster, &objects, &mut findings).await;
    let egress = Egress { loopback: args.egress_loopback, deny: Vec::new() };
    issuers::check(&objects, egress, clock, &SystemClock::shared(), &mut findings).await;
    Ok(findings)
}

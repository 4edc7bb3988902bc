//! `skep sidecar spiffe-helper`: SVIDs in files.

use std::path::PathBuf;
use std::process::ExitCode;

use skep_runtime::clock::SystemClock;
use skep_runtime::rng::SystemRng;
use skep_sidecar::helper::{HelperSettings, run as help};
use tokio_util::sync::CancellationToken;

use crate::cmd::values::{Maybe, switch};
use crate::local::signals::Signals;

/// Keeps SVIDs, keys and bundles of the SPIFFE Workload API in files.
///
/// Reads the configuration of spiffe-helper 0.11. The socket is `agent_address` of the file, else the variable
/// SPIFFE_ENDPOINT_SOCKET.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration file (HCL).
    #[arg(long, value_name = "FILE", default_value = "helper.conf")]
    config: PathBuf,
    /// Run on and renew, or write everything once and end; instead of daemon_mode in the file.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    daemon_mode: Option<Maybe<bool>>,
    /// Write the JWT bundles into this file too, whatever the configuration says.
    #[arg(long, value_name = "FILE")]
    jwt_bundle_file: Option<PathBuf>,
    /// Log more (TOOLHIVE_DEBUG does the same).
    #[arg(long)]
    debug: bool,
    /// Accepted and ignored, as the published helper does: `run`.
    #[arg(hide = true)]
    ignored: Vec<String>,
}

/// Runs until it is told to stop, or until every file is written.
///
/// # Errors
/// When the configuration can't be used, or (only when writing once) the files can't be written.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    skep_runtime::logging::init(args.debug);
    let settings = HelperSettings {
        config: args.config,
        daemon: args.daemon_mode.and_then(Maybe::get),
        jwt_bundle_file: args.jwt_bundle_file,
        endpoint_socket: std::env::var("SPIFFE_ENDPOINT_SOCKET").ok(),
        ..HelperSettings::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let stop = CancellationToken::new();
        let told = stop.clone();
        let listening = tokio::spawn(async move {
            signals.stop().await;
            told.cancel();
        });
        let result = help(settings, SystemClock::shared(), SystemRng::shared(), stop).await;
        listening.abort();
        anyhow::Ok(result?)
    })?;
    Ok(ExitCode::SUCCESS)
}

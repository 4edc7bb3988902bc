//! `skep sidecar register-client`: the pod's identity becomes a client of Keycloak.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use skep_runtime::clock::SystemClock;
use skep_runtime::drain::{Drain, Phase};
use skep_runtime::health::Readiness;
use skep_runtime::http::bind;
use skep_runtime::rng::SystemRng;
use skep_sidecar::register::{self, Parts, Settings};

use crate::cmd::values::{Maybe, bind_address, switch};
use crate::local::signals::Signals;

/// How long the end may take: a client that is removed, files that are written.
const GRACE: Duration = Duration::from_secs(15);

/// Registers the subject of this pod's JWT-SVID as a client of Keycloak, and keeps its credentials in files.
///
/// Takes the environment of the published client-registration image: KEYCLOAK_URL, KEYCLOAK_REALM, CLIENT_NAME,
/// KEYCLOAK_ADMIN_USERNAME, KEYCLOAK_ADMIN_PASSWORD, SECRET_FILE_PATH and the others of docs/webhook.md. It writes
/// client-id.txt, client-secret.txt and secret.txt, and looks after the client for as long as it runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where /healthz and /readyz are served, instead of HEALTH_ADDRESS; 0 serves none.
    #[arg(long, value_name = "ADDRESS", value_parser = bind_address)]
    health_address: Option<Maybe<SocketAddr>>,
    /// Remove the client at the end, instead of DEREGISTER_ON_EXIT. Unless told, only a client is removed that was
    /// registered with an initial access token: nobody could take it over.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    deregister_on_exit: Option<Maybe<bool>>,
    /// Log more (TOOLHIVE_DEBUG does the same).
    #[arg(long)]
    debug: bool,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When the environment can't be used, or the port is taken.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    skep_runtime::logging::init(args.debug);
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut settings = Settings::from_env(&environment)?;
    if let Some(address) = args.health_address {
        settings.health_address = address.get();
    }
    if let Some(remove) = args.deregister_on_exit.and_then(Maybe::get) {
        settings.deregister_on_exit = Some(remove);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let listener = match settings.health_address {
            Some(address) => {
                Some(bind(address).with_context(|| format!("cannot listen on {address} for health"))?)
            }
            None => None,
        };
        let drain = Drain::new();
        let parts = Parts {
            clock: SystemClock::shared(),
            rng: SystemRng::shared(),
            readiness: Readiness::new(),
            listener,
        };
        let mut work = tokio::spawn(register::run(settings, parts, drain.watch()));
        tokio::select! {
            () = signals.stop() => {}
            ended = &mut work => return ended.context("the registration broke"),
        }
        drain.advance(Phase::Draining);
        tokio::select! {
            _ = tokio::time::timeout(GRACE, &mut work) => {}
            () = signals.stop() => tracing::warn!("a second signal: ended without waiting"),
        }
        drain.advance(Phase::Stopped);
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}
